//! Files read once more because the collector wants what they hold. One pass serves all that wait when it begins. Knows no
//! listing.

use std::collections::VecDeque;

use gapless_common::message::Outcome;
use gapless_common::time::Timestamp;

use super::form::Form;
use super::tail::Tail;
use crate::event::BusEvent;
use crate::records::account::Out;

/// Commands of the collector that wait at most.
const WAITING_MAX: usize = 16;

/// What the collector wants to be read.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    command: u64,
    from: Timestamp,
    to: Timestamp,
    found: u64,
}

/// The pass under way.
#[derive(Debug)]
pub(super) struct Scan {
    wanted: Vec<Wanted>,
    names: VecDeque<Box<str>>,
    pub(super) tail: Tail,
}

impl Scan {
    /// The file that is being read.
    pub(super) fn name(&self) -> Option<&str> {
        self.names.front().map(AsRef::as_ref)
    }

    /// Whether somebody wants a row of this instant, which is counted then.
    pub(super) fn wants(&mut self, at: Timestamp) -> bool {
        let mut is_wanted = false;
        for wanted in self.wanted.iter_mut().filter(|wanted| (wanted.from..wanted.to).contains(&at)) {
            wanted.found += 1;
            is_wanted = true;
        }
        is_wanted
    }

    /// Goes on to the next file; `false` where there is none.
    pub(super) fn advance(&mut self, form: &Form) -> bool {
        self.names.pop_front();
        self.tail = Tail::new(form);
        !self.names.is_empty()
    }

    /// All of it was read.
    pub(super) fn end(self, out: &mut Out) {
        for wanted in self.wanted {
            let outcome = if wanted.found > 0 { Outcome::Done } else { Outcome::NoData };
            out.push_back(BusEvent::HistoryRead { command: wanted.command, outcome });
        }
    }

    /// It cannot be read.
    pub(super) fn fail(self, why: &str, out: &mut Out) {
        for wanted in self.wanted {
            let outcome = Outcome::Failed(why.into());
            out.push_back(BusEvent::HistoryRead { command: wanted.command, outcome });
        }
    }
}

/// Those who wait for a pass.
#[derive(Debug, Default)]
pub(super) struct Queue(Vec<Wanted>);

impl Queue {
    /// `false` where too many wait already.
    pub(super) fn add(&mut self, command: u64, (from, to): (Timestamp, Timestamp)) -> bool {
        let has_room = self.0.len() < WAITING_MAX;
        if has_room {
            self.0.push(Wanted { command, from, to, found: 0 });
        }
        has_room
    }

    /// The earliest instant that somebody waits for.
    pub(super) fn earliest(&self) -> Option<Timestamp> {
        self.0.iter().map(|wanted| wanted.from).min()
    }

    /// A pass through `names` for all that wait.
    pub(super) fn begin(&mut self, names: VecDeque<Box<str>>, form: &Form) -> Scan {
        Scan { wanted: std::mem::take(&mut self.0), names, tail: Tail::new(form) }
    }
}
