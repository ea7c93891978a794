//! What need not be asked: where the word for a meter says that there is nothing new since all of it was read, no window of it is
//! asked for. Where it is not known whether all was read, as by a read that began without a word, or beside one of what is missing,
//! nothing is held against anybody.

use std::collections::{BTreeMap, BTreeSet};

use super::judge::Findings;
use super::kept::Of;
use super::remote::{Call, What};

/// The end of a window is written in whole minutes.
const WRITTEN_MS: i64 = 60_000;

/// What is known of the reads of this life of the collector.
#[derive(Debug, Default)]
pub(super) struct Spared {
    /// By which word all of a meter was read.
    read: BTreeMap<Of, String>,
    /// By which word a read began.
    began: BTreeMap<Of, String>,
}

impl Spared {
    /// Nothing of it outlives the collector.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    /// The calls of a turn; of these meters what is missing may be asked for in it.
    pub(super) fn note_turn(&mut self, calls: &[&Call], asked_back: &BTreeSet<Of>) -> Findings {
        let mut findings = Findings::new();
        let of = |call: &Call| (call.api, call.utility.clone());
        let mut spared = BTreeSet::new();
        let mut worded = BTreeSet::new();
        for call in calls.iter().filter(|call| !asked_back.contains(&of(call))) {
            let of = of(call);
            match (call.what, &call.heard.word) {
                (What::Word, Some(word)) => {
                    worded.insert(of.clone());
                    if self.read.get(&of) == Some(word) {
                        spared.insert(of);
                    } else {
                        spared.remove(&of);
                        self.began.insert(of, word.clone());
                    }
                }
                (What::Window, _) if spared.contains(&of) => {
                    findings.push(("asked least", format!("{call:?}, though nothing is new by its word")));
                }
                (What::Window, _) if !worded.contains(&of) => self.forget(&of),
                (What::Window, _) if call.is_answered() && call.at.since_ms(call.window.1) < WRITTEN_MS => {
                    self.read.extend(self.began.get(&of).map(|word| (of.clone(), word.clone())));
                }
                _ => {}
            }
        }
        asked_back.iter().for_each(|of| self.forget(of));
        findings
    }

    fn forget(&mut self, of: &Of) {
        self.read.remove(of);
        self.began.remove(of);
    }
}
