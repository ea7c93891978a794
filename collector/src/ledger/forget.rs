//! What the ledger may forget of an agent, so that years of restarts cost no more than the last of them.
//!
//! An epoch is forgotten where nothing of it can matter any more: it is *finished* (nothing of it is missing, or it was
//! given up), its turn in the chain has passed, nothing of it waits or is parked, and the agent's last birth did not
//! name it, so that it lies in no archive that could be asked. The [`EPOCHS_FINISHED_MAX`] latest such epochs are kept
//! all the same: a device that has proven nothing since learns from them why its slots are missing.
//!
//! A forgotten epoch leaves its number behind. A frame of such a number is a late repetition, whichever broker or disk
//! it comes from: it is answered as stored and is not taken, so it is stored no second time, opens no hole, and does not
//! pass for an outbox that was replaced. Only a birth that names the number wakes it: a gateway with an old disk has it
//! again. Then it is an epoch like a new one, whose readings are told from those that are there by their own time. Of the
//! numbers the last [`FORGOTTEN_MAX`] are kept: a message is no longer on its way after so many restarts.
//!
//! With an epoch go its clock corrections, which speak of its records only. Corrections and downtimes of epochs that are
//! kept have bounds of their own, for an agent that makes them up; what is forgotten is the oldest.

use std::collections::BTreeMap;

use gapless_common::id::Epoch;

use super::{Agent, AgentNo, EpochState, Ledger};

/// Epochs of an agent that might be forgotten and are kept.
pub const EPOCHS_FINISHED_MAX: usize = 1_024;
/// Numbers of forgotten epochs that are kept of an agent.
pub const FORGOTTEN_MAX: usize = 65_536;
/// Clock corrections that are kept of an agent.
pub const CORRECTIONS_MAX: usize = 4_096;
/// Downtimes that took effect, and that are kept of an agent.
pub const DOWNTIMES_MAX: usize = 1_024;

/// How many finished epochs are kept; smaller in tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FinishedMax(pub(super) usize);

impl Default for FinishedMax {
    fn default() -> Self {
        Self(EPOCHS_FINISHED_MAX)
    }
}

/// The numbers of forgotten epochs, in the order in which they were forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forgotten {
    order: BTreeMap<Epoch, u64>,
    last: u64,
}

impl Forgotten {
    /// One that was written down.
    pub fn load(&mut self, epoch: Epoch, order: u64) {
        self.order.insert(epoch, order);
        self.last = self.last.max(order);
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn contains(&self, epoch: Epoch) -> bool {
        self.order.contains_key(&epoch)
    }

    /// Its place in the order.
    #[must_use]
    pub fn order_of(&self, epoch: Epoch) -> Option<u64> {
        self.order.get(&epoch).copied()
    }

    /// Adds one, and returns the one that gives way where there are too many.
    fn add(&mut self, epoch: Epoch) -> Option<Epoch> {
        self.last += 1;
        self.order.insert(epoch, self.last);
        let oldest = self.order.iter().min_by_key(|(_, order)| **order).map(|(epoch, _)| *epoch);
        let oldest = oldest.filter(|_| self.order.len() > FORGOTTEN_MAX)?;
        self.order.remove(&oldest);
        Some(oldest)
    }
}

impl Agent {
    fn may_forget(&self, epoch: Epoch, state: &EpochState) -> bool {
        let passed = match state.place {
            Some(place) => place < self.settled.place,
            // Beside the chain, or only ever named.
            None => {
                let is_only_named = state.start.is_none() && state.accounted.is_empty();
                state.is_in_memory() || is_only_named || self.stays_beside(epoch)
            }
        };
        passed
            && state.finished()
            && state.marks.is_empty()
            && state.parked.is_empty()
            && !self.held.epochs.iter().any(|h| h.epoch == epoch)
    }
}

impl Ledger {
    /// Forgets what is beyond the bound, oldest first.
    pub(super) fn forget_epochs(&mut self, no: AgentNo) {
        let FinishedMax(kept) = self.finished_max;
        let Some(agent) = self.agents.get_mut(&no).filter(|a| a.epochs.len() > kept) else { return };
        let done = agent.epochs.iter().filter(|(epoch, state)| agent.may_forget(**epoch, state));
        let mut done: Vec<_> = done.map(|(epoch, state)| (state.place, *epoch)).collect();
        done.sort_unstable();
        done.truncate(done.len().saturating_sub(kept));
        for (place, epoch) in done {
            // Nothing of it can come again that had never come.
            let only_named = agent.epochs.remove(&epoch).is_some_and(|state| state.accounted.is_empty());
            if let Some(place) = place {
                agent.chain.remove(&place);
            }
            agent.corrections.retain(|correction| correction.epoch != epoch);
            self.changes.epochs.remove(&(no, epoch));
            self.changes.forgotten_epochs.insert((no, epoch));
            if only_named {
                continue;
            }
            if let Some(oldest) = agent.forgotten.add(epoch) {
                self.changes.forgotten_epochs.insert((no, oldest));
            }
        }
    }

    /// A birth names it: it is known no longer as forgotten.
    pub(super) fn wake(&mut self, no: AgentNo, epoch: Epoch) {
        if self.agent_mut(no).forgotten.order.remove(&epoch).is_some() {
            self.changes.forgotten_epochs.insert((no, epoch));
        }
    }
}
