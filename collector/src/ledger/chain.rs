//! The chain of an agent's epochs: which came after which, which are finished, and what will never come.
//! Knows nothing of slots.
//!
//! An epoch that the agent kept in memory while its disk had failed stands beside the chain: nothing follows it, it
//! replaces nothing, and what it still owes is copied to the next epoch on disk, whose declarations cover its slots.

use std::collections::BTreeSet;

use gapless_common::id::Epoch;
use gapless_common::message::HeldEpoch;
use gapless_common::quality::Cause;
use gapless_common::reading::{EpochStart, Loss};

use super::agent::{Held, Position};
use super::link::{Link, next_link};
use super::{Agent, AgentNo, Downtime, EpochState, Finding, Ledger, Mark, Span};

/// Losses of an agent whose time is known, at most. Beyond it the oldest is forgotten: its seqs stay lost, and its
/// slots have their cause as far as they were proven by then.
pub const LOSSES_MAX: usize = 4_096;

impl Ledger {
    /// The first record of an epoch came.
    pub fn start(&mut self, no: AgentNo, epoch: Epoch, start: &EpochStart) {
        let state = self.epoch_mut(no, epoch);
        if state.start.is_some() {
            return;
        }
        state.start = Some(start.clone());
        if let Some((previous, end)) = start.previous {
            let known = self.agent(no).is_some_and(|a| a.epochs.contains_key(&previous));
            if known {
                self.epoch_mut(no, previous).end = Some(end.0);
            }
        }
    }

    /// A record came that takes effect once everything before it is accounted for. Declarations that stand in
    /// one unbroken stretch take effect together, so only the last of them is kept.
    pub fn mark(&mut self, no: AgentNo, epoch: Epoch, seq: u64, mark: Mark) {
        if self.agent_mut(no).is_settled(epoch, seq) {
            // It was parked and is usable now: its turn has passed, but a downtime's word still counts.
            if let Mark::Downtime { from, to, cause } = mark {
                self.overdue.push((no, Downtime { from, to, cause }));
            }
            return;
        }
        self.changes.marks.insert((no, epoch, seq), Some(mark.clone()));
        self.epoch_mut(no, epoch).marks.insert(seq, mark);
    }

    /// `first..=last` are stored, together with all that was said of them.
    pub fn account(&mut self, no: AgentNo, epoch: Epoch, first: u64, last: u64) {
        if self.has_forgotten(no, epoch) {
            return;
        }
        self.hear(no, epoch);
        let state = self.epoch_mut(no, epoch);
        state.committed.insert(first, last);
        state.accounted.insert(first, last);
        state.parked.remove(first, last);
        self.merge_declarations(no, epoch, first);
    }

    /// `first..=last` are kept, but of no use yet.
    pub fn park(&mut self, no: AgentNo, epoch: Epoch, first: u64, last: u64) {
        if self.has_forgotten(no, epoch) {
            return;
        }
        self.hear(no, epoch);
        let state = self.epoch_mut(no, epoch);
        let fresh: Vec<_> = state.committed.holes(first, last).collect();
        for (f, l) in fresh {
            state.parked.insert(f, l);
        }
        state.accounted.insert(first, last);
    }

    fn has_forgotten(&self, no: AgentNo, epoch: Epoch) -> bool {
        self.agent(no).is_some_and(|a| a.forgotten.contains(epoch))
    }

    /// A frame of this epoch came. Before any birth that means nothing: it may be of an outbox that is no more.
    fn hear(&mut self, no: AgentNo, epoch: Epoch) {
        let born = !self.agent_mut(no).held.epochs.is_empty();
        self.epoch_mut(no, epoch).heard = born;
    }

    /// The outbox gave records up.
    pub fn loss(&mut self, no: AgentNo, loss: &Loss) {
        let agent = self.agent_mut(no);
        let is_here =
            agent.epochs.get(&loss.epoch).is_some_and(|e| e.committed.covers(loss.first.0, loss.last.0));
        if is_here || agent.losses.contains(loss) {
            return;
        }
        // One row a range: the last word counts.
        agent.losses.retain(|l| (l.epoch, l.first, l.last) != (loss.epoch, loss.first, loss.last));
        agent.losses.push(*loss);
        let oldest = (0..agent.losses.len()).min_by_key(|&at| agent.losses[at].to);
        if let Some(at) = oldest.filter(|_| agent.losses.len() > LOSSES_MAX) {
            let forgotten = agent.losses.swap_remove(at);
            self.changes.forgotten.push((no, forgotten));
        }
        self.changes.losses.push((no, *loss));
        if self.has_forgotten(no, loss.epoch) {
            return;
        }
        let state = self.epoch_mut(no, loss.epoch);
        state.lost.retain(|&(f, l, _)| !(f >= loss.first.0 && l <= loss.last.0));
        state.lost.push((loss.first.0, loss.last.0, loss.cause));
        state.accounted.insert(loss.first.0, loss.last.0);
    }

    /// Whether a birth was overtaken by a later one: another epoch has followed the one it writes, and it says no more of
    /// that than its follower found; or the one it writes was kept in memory, and the disk has taken it along. Nothing it
    /// says counts. An outbox that went on behind what its follower found is another gateway's.
    #[must_use]
    pub fn is_overtaken(&self, no: AgentNo, held: &[HeldEpoch], writing: Epoch) -> bool {
        let Some(agent) = self.agent(no) else { return false };
        let next = held.iter().find(|h| h.epoch == writing).map(|h| h.next.0);
        let is_followed = end_of(agent, writing).zip(next).is_some_and(|(end, next)| next <= end);
        is_followed || is_taken_along(agent, writing)
    }

    /// The agent said what it holds. `writing` is the epoch being written, on its disk. Not to be called with a birth
    /// that [`is_overtaken`](Self::is_overtaken).
    pub fn birth(&mut self, no: AgentNo, held: &[HeldEpoch], writing: Epoch, fresh: bool) -> Option<Finding> {
        let written = self.agent(no).and_then(|a| a.held.epochs.last()).map(|h| h.epoch);
        let is_late = self.agent(no).is_some_and(|agent| is_superseded(agent, writing, written));
        let found = self.hold(no, held, writing, fresh);
        if is_late {
            // Of an outbox that another one has followed: it could not name what came after it.
            return found;
        }
        for (epoch, state) in &mut self.agent_mut(no).epochs {
            state.unheld = *epoch != writing && !held.iter().any(|h| h.epoch == *epoch);
        }
        found
    }

    /// The same while `writing` is kept in memory. What the disk holds besides may be out of the agent's sight, so
    /// nothing counts as held no longer.
    pub fn birth_in_memory(
        &mut self,
        no: AgentNo,
        held: &[HeldEpoch],
        writing: Epoch,
        fresh: bool,
    ) -> Option<Finding> {
        let found = self.hold(no, held, writing, fresh);
        if let Some(state) = self.agent_mut(no).epochs.get_mut(&writing) {
            state.in_memory = true;
            self.changes.epochs.insert((no, writing));
        }
        found
    }

    fn hold(&mut self, no: AgentNo, held: &[HeldEpoch], writing: Epoch, fresh: bool) -> Option<Finding> {
        let agent = self.agent_mut(no);
        let before = agent.held.epochs.last().map(|h| h.epoch);
        agent.held = Held { epochs: held.to_vec(), drained: false };
        let returns = is_superseded(agent, writing, before)
            || end_of(agent, writing).is_some()
            || agent.forgotten.contains(writing);
        self.changes.agents.insert(no);
        for (epoch, state) in &mut self.agent_mut(no).epochs {
            state.unheld &= *epoch != writing && !held.iter().any(|h| h.epoch == *epoch);
            state.heard = false;
        }
        for h in held {
            self.wake(no, h.epoch);
            let end = if h.epoch == writing { u64::MAX } else { h.next.0.saturating_sub(1) };
            self.reopen(no, h.epoch, h.first.0, end);
            let state = self.epoch_mut(no, h.epoch);
            if h.epoch != writing {
                state.end = state.end.or(Some(h.next.0));
            }
        }
        // An epoch is drawn at each opening: one that was superseded can never be written again.
        match before {
            Some(other) if fresh && other != writing && returns && !held.iter().any(|h| h.epoch == other) => {
                Some(Finding::ClonedAgent { returned: writing, other })
            }
            _ => None,
        }
    }

    /// An epoch that was closed is alive: what was given up of it is owed again, and what it declares takes effect
    /// again. What stands after it in the chain waits for it.
    fn reopen(&mut self, no: AgentNo, epoch: Epoch, first: u64, last: u64) {
        let agent = self.agent_mut(no);
        let told: Vec<Loss> = agent.losses.iter().filter(|l| l.epoch == epoch).copied().collect();
        let Some(state) = agent.epochs.get_mut(&epoch).filter(|e| e.closed) else { return };
        state.reopen(first, last, &told);
        let (place, seq) = (state.place, state.watermark());
        let Some(at) = place.map(|place| Position { place, seq }).filter(|at| *at < agent.settled) else {
            self.changes.epochs.insert((no, epoch));
            return;
        };
        agent.settled = at;
        self.changes.epochs.insert((no, epoch));
        let later: Vec<_> = self.spans_of(no).filter(|s| s.proven_at > at).collect();
        for span in later {
            self.put_span(Span { proven_at: at, ..span });
        }
    }

    /// Of neighbouring declarations under one catalog in the unbroken stretch that holds `seq`, the last stays and says
    /// what all of them did. Cost: what the stretch's declarations name.
    fn merge_declarations(&mut self, no: AgentNo, epoch: Epoch, seq: u64) {
        let marks = &mut self.changes.marks;
        let Some(state) = self.agents.get_mut(&no).and_then(|a| a.epochs.get_mut(&epoch)) else { return };
        let Some((first, last)) = state.accounted.iter().find(|&(f, l)| f <= seq && l >= seq) else { return };
        let found: Vec<u64> = state.marks.range(first..=last).map(|(&at, _)| at).collect();
        let mut joined = BTreeSet::new();
        for pair in found.windows(2) {
            let &[a, b] = pair else { continue };
            if !same_catalog(state.marks.get(&a), state.marks.get(&b)) {
                continue;
            }
            let (Some(Mark::Complete { through: mut sum, .. }), Some(Mark::Complete { through, .. })) =
                (state.marks.remove(&a), state.marks.get_mut(&b))
            else {
                continue;
            };
            for (grid, slot) in std::mem::take(through) {
                let known = sum.entry(grid).or_insert(slot);
                *known = (*known).max(slot);
            }
            *through = sum;
            marks.insert((no, epoch, a), None);
            joined.remove(&a);
            joined.insert(b);
        }
        let written = joined.into_iter().filter_map(|at| Some((at, state.marks.get(&at)?.clone())));
        marks.extend(written.map(|(at, mark)| ((no, epoch, at), Some(mark))));
    }

    /// Puts every epoch whose predecessor is known into the chain. Returns whether any was.
    pub(super) fn link(&mut self, no: AgentNo) -> bool {
        let mut any = false;
        while let Some((epoch, link)) = self.agent(no).and_then(next_link) {
            any = true;
            self.append(no, epoch, &link);
        }
        any
    }

    fn append(&mut self, no: AgentNo, epoch: Epoch, link: &Link) {
        let previous = self.agent(no).and_then(|a| a.epochs.get(&epoch)?.start.as_ref()?.previous);
        let agent = self.agent_mut(no);
        let keep = match link {
            // What was written after the predecessor, or all there was, is of an outbox that is no more.
            Link::Broken(Cause::StoreReplaced) => {
                let at = previous.and_then(|(p, _)| agent.epochs.get(&p)?.place);
                at.map_or(0, |at| at + 1)
            }
            Link::Follows | Link::Broken(_) => usize::MAX,
        };
        // What the agent has still it will deliver: another gateway of its name may have begun anew beside it.
        let after = agent.chain.range(keep..).map(|(_, epoch)| *epoch);
        let cut: Vec<Epoch> = after.filter(|e| !agent.is_alive(*e)).collect();
        let place = agent.tip().map_or(0, |(tip, _)| tip + 1);
        agent.chain.insert(place, epoch);
        if let Link::Broken(cause) = *link {
            tracing::debug!(%epoch, place, ?cause, ?cut, "does not follow what was known");
            for old in cut {
                let state = self.epoch_mut(no, old);
                if !state.finished() {
                    state.give_up(cause);
                }
            }
        }
        if let Some((p, end)) = previous
            && self.agent(no).is_some_and(|a| a.epochs.contains_key(&p))
        {
            self.epoch_mut(no, p).end = Some(end.0);
        }
        let state = self.epoch_mut(no, epoch);
        state.place = Some(place);
        state.link = match link {
            Link::Follows => None,
            Link::Broken(cause) => (place > 0).then_some(*cause),
        };
        self.changes.agents.insert(no);
    }

    /// Once all that the agent held at its birth has come, what is missing besides will never come: it was
    /// acknowledged to another life of this database, or given up without a word. Returns whether that is new.
    pub(super) fn drain(&mut self, no: AgentNo) -> bool {
        let agent = self.agent_mut(no);
        if agent.held.drained || agent.held.epochs.is_empty() || !all_here(agent) {
            return false;
        }
        agent.held.drained = true;
        self.changes.agents.insert(no);
        let held = self.agent_mut(no).held.epochs.clone();
        let agent = self.agent_mut(no);
        let writing = held.last().and_then(|h| agent.epochs.get(&h.epoch)?.place);
        // An epoch after the one that was being written then belongs to a birth that is still to come, and so may
        // one without a place that was first heard of since.
        let of_birth = |e: &EpochState| e.unheld || (e.place.is_some() && e.place <= writing);
        let known = agent.epochs.iter().filter(|(e, s)| of_birth(s) || held.iter().any(|h| h.epoch == **e));
        let known: Vec<Epoch> = known.map(|(&epoch, _)| epoch).collect();
        // What is gone from before a replaced store went with that one.
        let replaced = |e: &&Epoch| agent.epochs.get(e).is_some_and(|e| e.link == Some(Cause::StoreReplaced));
        let replaced = agent.chain.iter().filter(|(_, e)| replaced(e)).map(|(&place, _)| place).max();
        for epoch in known {
            let place = held.iter().find(|h| h.epoch == epoch).copied();
            let state = self.agent_mut(no).epochs.entry(epoch).or_default();
            // One that is not held and was heard from all the same is another gateway's.
            if state.finished() || (state.unheld && state.heard) {
                continue;
            }
            match place {
                Some(h) if h.first.0 > 1 => state.lose(1, h.first.0 - 1, Cause::BudgetFull),
                Some(_) => continue,
                None => {
                    let cause = cause_of(state, replaced);
                    tracing::debug!(%epoch, place = state.place, ?cause, "nobody holds it any more");
                    state.give_up(cause);
                }
            }
            self.changes.epochs.insert((no, epoch));
            self.leave_beside(no, epoch);
        }
        true
    }

    /// What an epoch has declared that will never have a place takes no effect; its downtimes explain what is unexplained.
    fn leave_beside(&mut self, no: AgentNo, epoch: Epoch) {
        if !self.agent(no).is_some_and(|agent| agent.stays_beside(epoch)) {
            return;
        }
        let marks = std::mem::take(&mut self.epoch_mut(no, epoch).marks);
        for (seq, mark) in marks {
            self.changes.marks.insert((no, epoch, seq), None);
            if let Mark::Downtime { from, to, cause } = mark {
                // For what is proven already, and for what is proven next.
                self.overdue.push((no, Downtime { from, to, cause }));
                let at = self.agent_mut(no).settled;
                self.push_downtime(no, at, Downtime { from, to, cause });
            }
        }
    }
}

/// Why an epoch is gone that the agent no longer holds: with its process, where that had it in memory; with a store that was
/// replaced, where one stands behind it.
fn cause_of(state: &EpochState, replaced: Option<usize>) -> Cause {
    if state.is_in_memory() {
        return Cause::DiskFailed;
    }
    let went_along = state.place.is_some() && state.place < replaced;
    if went_along { Cause::StoreReplaced } else { Cause::BudgetFull }
}

fn same_catalog(a: Option<&Mark>, b: Option<&Mark>) -> bool {
    matches!((a, b), (Some(Mark::Complete { hash: a, .. }), Some(Mark::Complete { hash: b, .. })) if a == b)
}

/// Whether `epoch` was there before `written`, the one that was being written at the last birth. That frames of it came
/// says nothing: the birth that first names an epoch may be lost, and said again behind its frames.
fn is_superseded(agent: &Agent, epoch: Epoch, written: Option<Epoch>) -> bool {
    let place = |epoch| agent.epochs.get(&epoch).and_then(|e| e.place);
    let stands_before =
        written.and_then(place).is_some_and(|after| place(epoch).is_some_and(|place| place < after));
    stands_before || agent.epochs.get(&epoch).is_some_and(|e| e.unheld)
}

/// Whether this epoch was kept in memory, and what it owed stands in another one: the loss of its seqs then has no time.
/// Memory is never gone back to under the same epoch.
fn is_taken_along(agent: &Agent, epoch: Epoch) -> bool {
    let is_timeless = |loss: &Loss| loss.cause == Cause::DiskFailed && loss.from > loss.to;
    agent.losses.iter().any(|loss| loss.epoch == epoch && is_timeless(loss))
}

/// The first seq that an epoch never issued, as the one that followed it found.
fn end_of(agent: &Agent, epoch: Epoch) -> Option<u64> {
    agent.epochs.get(&epoch)?.end
}

fn all_here(agent: &Agent) -> bool {
    agent.held.epochs.iter().all(|h| {
        h.next <= h.first
            || agent.epochs.get(&h.epoch).is_some_and(|e| e.accounted.covers(h.first.0, h.next.0 - 1))
    })
}
