//! What is missing in the segments, whether or not the collector has acknowledged it or a record tells of it. A database
//! that was put back wants it again, and is told then that it will not come. Does no I/O.

use gapless_common::id::{Epoch, Seq};
use gapless_common::reading::Loss;

use crate::outbox::acks::Acks;
use crate::outbox::losses::{coalesce, is_told};

/// Losses that are remembered: with those of the book fewer than a frame may hold. Beyond it the oldest is forgotten until
/// the next opening, and a database that wants it waits.
const KNOWN_MAX: usize = 512;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Forgone(Vec<Loss>);

impl Forgone {
    /// These are missing.
    pub(super) fn note(&mut self, missing: impl IntoIterator<Item = Loss>) {
        missing.into_iter().for_each(|loss| coalesce(&mut self.0, loss));
        self.0.drain(..self.0.len().saturating_sub(KNOWN_MAX));
    }

    /// What of them is owed by `acks`, held from the seq on that `first_of` says, and not `pending` as it is.
    pub(super) fn wanted(
        &self,
        acks: &Acks,
        pending: &[Loss],
        first_of: impl Fn(Epoch) -> Option<u64>,
    ) -> Vec<Loss> {
        let mut wanted = Vec::new();
        for loss in &self.0 {
            let Some(first) = first_of(loss.epoch).map(|first| first.max(loss.first.0)) else { continue };
            if first > loss.last.0 {
                continue;
            }
            let owed = acks.owed(loss.epoch, first, loss.last.0).into_iter();
            let parts = owed.map(|(first, last)| Loss { first: Seq(first), last: Seq(last), ..*loss });
            wanted.extend(parts.filter(|part| !is_told(part, pending)));
        }
        wanted
    }

    /// Forgets what lies before the first seq that is held of its epoch; `None` where nothing is.
    pub(super) fn retain(&mut self, first_of: impl Fn(Epoch) -> Option<u64>) {
        self.0.retain(|loss| first_of(loss.epoch).is_some_and(|first| loss.last.0 >= first));
    }
}
