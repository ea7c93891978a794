//! What is missing in the segments and is not owed, as the collector has acknowledged it or a record tells of it. A
//! database that was put back wants it again, and is told then that it will not come. Does no I/O.

use gapless_common::id::{Epoch, Seq};
use gapless_common::reading::Loss;

use crate::outbox::acks::Acks;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Forgone {
    known: Vec<Loss>,
    /// What is owed again since.
    wanted: Vec<Loss>,
}

impl Forgone {
    /// This is missing; it counts as far as it is not owed.
    pub(super) fn note(&mut self, missing: impl IntoIterator<Item = Loss>) {
        self.known.extend(missing);
    }

    /// An acknowledgement was taken back, which leaves `acks`, of an epoch that is held from `first` on.
    pub(super) fn want(&mut self, epoch: Epoch, first: u64, acks: &Acks) {
        for loss in self.known.iter().filter(|loss| loss.epoch == epoch) {
            for (from, to) in acks.owed(epoch, loss.first.0.max(first), loss.last.0) {
                let part = Loss { first: Seq(from), last: Seq(to), ..*loss };
                if !self.wanted.contains(&part) {
                    self.wanted.push(part);
                }
            }
        }
    }

    /// What is to be told again.
    pub(super) fn wanted(&self) -> &[Loss] {
        &self.wanted
    }

    /// Records tell of these.
    pub(super) fn told(&mut self, losses: &[Loss]) {
        self.wanted.retain(|loss| !losses.contains(loss));
    }

    /// Forgets what lies before the first seq that is held of its epoch; `None` where nothing is.
    pub(super) fn retain(&mut self, first_of: impl Fn(Epoch) -> Option<u64>) {
        let is_held = |loss: &Loss| first_of(loss.epoch).is_some_and(|first| loss.last.0 >= first);
        self.known.retain(is_held);
        self.wanted.retain(is_held);
    }
}
