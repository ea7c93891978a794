//! Which epoch of an agent comes next in its chain, and whether it follows the one before it. Decides, and changes nothing.

use gapless_common::id::Epoch;
use gapless_common::message::HeldEpoch;
use gapless_common::quality::Cause;
use gapless_common::reading::Loss;

use super::{Agent, EpochState};

/// How an epoch stands to the one before it in the chain.
pub(super) enum Link {
    /// It goes on where that one ended.
    Follows,
    /// It does not, and this is why something may be missing between them.
    Broken(Cause),
}

/// The next epoch that can be put into the chain: those that follow its end come first.
pub(super) fn next_link(agent: &Agent) -> Option<(Epoch, Link)> {
    let waiting = || agent.epochs.iter().filter(|(_, e)| e.place.is_none() && !e.is_in_memory());
    let tip = agent.tip().map(|(_, epoch)| epoch);
    let follows = waiting().find(|(_, e)| {
        e.start.as_ref().is_some_and(|s| match s.previous {
            Some((previous, _)) => tip == Some(previous),
            None => tip.is_none(),
        })
    });
    if let Some((&epoch, _)) = follows {
        return Some((epoch, Link::Follows));
    }
    let broken = waiting().filter_map(|(&epoch, e)| Some((epoch, link_of(agent, epoch, e)?)));
    // Among several, the order in which the agent holds them is the order in which they were written.
    broken.min_by_key(|(epoch, _)| (agent.held.epochs.iter().position(|h| h.epoch == *epoch), *epoch))
}

/// How an epoch stands to the end of the chain that it does not name as the one before it, where that is certain; `None` to wait.
fn link_of(agent: &Agent, epoch: Epoch, state: &EpochState) -> Option<Link> {
    let cause = match &state.start {
        Some(start) => match start.previous {
            None => Some(Cause::StoreReplaced),
            Some((previous, _)) => match agent.epochs.get(&previous) {
                Some(p) if p.place.is_some() => Some(Cause::StoreReplaced),
                Some(_) => None,
                None if agent.forgotten.contains(previous) => Some(Cause::StoreReplaced),
                // Only where that birth spoke of this epoch; another one may come after its predecessor's frames.
                None => {
                    let spoken_of = state.unheld || agent.held.epochs.iter().any(|h| h.epoch == epoch);
                    (agent.held.drained && spoken_of).then_some(Cause::BudgetFull)
                }
            },
        },
        // Its first record is lost or not usable: its place is known from the order of what is held.
        None if state.accounted.contains(1) => {
            let at = agent.held.epochs.iter().position(|h| h.epoch == epoch);
            if at.is_none() && !(is_waited_for(agent, epoch) || is_parked_behind(agent, state)) {
                return None;
            }
            let in_memory = |h: &&HeldEpoch| agent.epochs.get(&h.epoch).is_some_and(EpochState::is_in_memory);
            let before = at.and_then(|at| agent.held.epochs[..at].iter().rev().find(|h| !in_memory(h)));
            let placed = |h: &HeldEpoch| agent.epochs.get(&h.epoch).is_some_and(|e| e.place.is_some());
            let (cause, told) =
                (state.hidden(0, 1, |_| true).unwrap_or(Cause::Unexplained), loss_of_first(agent, epoch));
            // Of the oldest epoch the archive has made room; why another one has no first record the agent has yet to say.
            let is_guessed = cause == Cause::BudgetFull && before.is_some() && told.is_none();
            if !before.is_none_or(placed) || is_guessed && !agent.held.drained {
                return None;
            }
            // The disk holds it right behind that one, and the agent says that its first record alone is gone.
            let tip = agent.tip().map(|(_, epoch)| epoch);
            let is_next = before.is_some_and(|h| tip == Some(h.epoch)) && !has_lost_whole(agent);
            if is_next && told.is_some_and(|loss| loss.last.0 == 1) {
                return Some(Link::Follows);
            }
            Some(cause)
        }
        None => None,
    };
    cause.map(Link::Broken)
}

/// What the agent has said of the first record of an epoch, where it has that no more.
fn loss_of_first(agent: &Agent, epoch: Epoch) -> Option<&Loss> {
    agent.losses.iter().find(|loss| loss.epoch == epoch && loss.first.0 <= 1)
}

/// Whether an epoch of which the disk holds nothing any more may have stood anywhere.
fn has_lost_whole(agent: &Agent) -> bool {
    let is_held = |epoch| agent.held.epochs.iter().any(|h| h.epoch == epoch);
    agent.epochs.iter().any(|(&epoch, state)| {
        let is_nowhere = state.place.is_none() && state.start.is_none() && !state.is_in_memory();
        // What is lost with the disk's failing was in memory.
        let is_of_disk = |loss: &Loss| loss.cause != Cause::DiskFailed;
        is_nowhere && !is_held(epoch) && loss_of_first(agent, epoch).is_some_and(is_of_disk)
    })
}

impl Agent {
    /// Whether an epoch will never have a place: nothing more of it comes, and nothing tells where it stood.
    pub(super) fn stays_beside(&self, epoch: Epoch) -> bool {
        self.epochs.get(&epoch).is_some_and(|state| {
            let is_nowhere = state.place.is_none() && state.start.is_none() && state.parked.is_empty();
            state.closed && is_nowhere && !state.is_in_memory() && !is_waited_for(self, epoch)
        })
    }
}

/// Whether an epoch that is not held has frames that cannot be used yet, and those that are held have their places: they come
/// first.
fn is_parked_behind(agent: &Agent, state: &EpochState) -> bool {
    let placed =
        |h: &HeldEpoch| agent.epochs.get(&h.epoch).is_some_and(|e| e.place.is_some() || e.is_in_memory());
    !state.parked.is_empty() && agent.held.epochs.iter().all(placed)
}

/// Whether an epoch without a place names this one as the one before it. Of one that is not held, whose first record is not
/// known and that no other one names, nothing tells where it stood, or that it was on the disk at all: it stays beside the
/// chain, where its readings and misses count all the same.
fn is_waited_for(agent: &Agent, epoch: Epoch) -> bool {
    let names_it = |e: &EpochState| {
        let previous = e.start.as_ref().and_then(|s| s.previous);
        e.place.is_none() && previous.is_some_and(|(previous, _)| previous == epoch)
    };
    agent.epochs.values().any(names_it)
}
