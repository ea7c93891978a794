//! What the account of an agent may grow to, and whether there is room in it: what would go beyond is refused, and stays
//! with the agent. An agent that lies must not cost the others their memory.

use gapless_common::id::Epoch;
use gapless_common::message::HeldEpoch;
use gapless_common::ranges::RangeSet;
use gapless_common::reading::Loss;

use super::{AgentNo, Ledger, plausible};

/// Epochs of an agent that are not finished, at most.
pub const EPOCHS_UNFINISHED_MAX: usize = 1_024;
/// Epochs of an agent that are whole and wait for their place in the chain, at most.
pub(super) const EPOCHS_UNPLACED_MAX: usize = 4_096;
/// Ranges of an epoch that are accounted for, and ranges of it that are lost, at most: what would open another hole
/// is refused.
pub const RANGES_MAX: usize = 4_096;
/// Records of an agent that wait for others, at most: what adds more is refused, unless it is what they may wait for.
pub const MARKS_MAX: usize = 16_384;
/// Records of one epoch that wait, at most, where a frame moves the epoch's watermark and so may be waited for.
pub const EPOCH_MARKS_MAX: usize = 2_048;

impl Ledger {
    /// Whether there is room to keep account of `first..=last`: an epoch too many, or one hole more than
    /// [`RANGES_MAX`], is refused, and stays with the agent until what is there has become whole.
    #[must_use]
    pub fn has_room(&self, no: AgentNo, epoch: Epoch, first: u64, last: u64) -> bool {
        let Some(agent) = self.agent(no) else { return true };
        let Some(state) = agent.epochs.get(&epoch) else {
            return agent.unfinished() < EPOCHS_UNFINISHED_MAX && agent.unplaced() < EPOCHS_UNPLACED_MAX;
        };
        // What is stored may lie in pieces within what is lost and parked.
        joins(&state.accounted, RANGES_MAX, (first, last))
            && joins(&state.committed, 2 * RANGES_MAX, (first, last))
    }

    /// Whether there is room to keep account of `first..=last` as parked.
    #[must_use]
    pub fn has_room_to_park(&self, no: AgentNo, epoch: Epoch, first: u64, last: u64) -> bool {
        let state = self.agent(no).and_then(|a| a.epochs.get(&epoch));
        state.is_none_or(|state| joins(&state.parked, RANGES_MAX, (first, last)))
    }

    /// Whether there is room for `fresh` records of `epoch` from `first` on that may have to wait.
    #[must_use]
    pub fn has_room_for_marks(&self, no: AgentNo, epoch: Epoch, first: u64, fresh: usize) -> bool {
        let Some(agent) = self.agent(no).filter(|_| fresh > 0) else { return true };
        let waiting: usize = agent.epochs.values().map(|e| e.marks.len()).sum();
        let (here, moves) = match agent.epochs.get(&epoch) {
            Some(state) => (state.marks.len(), first <= state.watermark().saturating_add(1)),
            None => (0, first <= 1),
        };
        waiting + fresh <= MARKS_MAX || (moves && here + fresh <= EPOCH_MARKS_MAX)
    }

    /// Whether there is room for what the outbox gave up, as far as it is not known yet.
    #[must_use]
    pub fn has_room_for_loss(&self, no: AgentNo, loss: &Loss) -> bool {
        let Some(agent) = self.agent(no) else { return true };
        let full = agent.epochs.get(&loss.epoch).is_some_and(|e| e.lost.len() >= RANGES_MAX);
        agent.losses.contains(loss) || (!full && self.has_room(no, loss.epoch, loss.first.0, loss.last.0))
    }

    /// Whether there is room for the epochs that a birth names.
    #[must_use]
    pub fn has_room_for_birth(&self, no: AgentNo, held: &[HeldEpoch]) -> bool {
        if !plausible::held(held) {
            return false;
        }
        let Some(agent) = self.agent(no) else { return held.len() <= EPOCHS_UNFINISHED_MAX };
        let fresh = held.iter().filter(|h| !agent.epochs.contains_key(&h.epoch)).count();
        let (unfinished, unplaced) = (agent.unfinished() + fresh, agent.unplaced() + fresh);
        fresh == 0 || (unfinished <= EPOCHS_UNFINISHED_MAX && unplaced <= EPOCHS_UNPLACED_MAX)
    }
}

/// Whether a set takes `first..=last` without having more ranges than `ranges_max`.
fn joins(set: &RangeSet, ranges_max: usize, (first, last): (u64, u64)) -> bool {
    set.len() < ranges_max || first <= 1 || set.contains(first - 1) || set.contains(last.saturating_add(1))
}
