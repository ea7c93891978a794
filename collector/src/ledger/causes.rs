//! Why a proven slot is absent, in the order of ARCHITECTURE.md: a miss that names it (painted before); a downtime that
//! holds it (nothing is written in one, so no loss lies in it); a loss whose time holds it; the end of an epoch before
//! it could write down its last misses, unless records before it are lost without a time; records that are lost or
//! parked at all; a life that went on in memory alone and went with it; a clock that is ahead, or was when the agent began,
//! by which none of it was due; otherwise unexplained. Paints nothing.

use gapless_common::id::Epoch;
use gapless_common::quality::Cause;
use gapless_common::reading::Loss;
use gapless_common::time::{Slot, Timestamp};

use super::agent::Position;
use super::paint::{Known, Run};
use super::{Agent, Span, plausible};

/// What a proof is judged by.
pub(super) struct Account<'a> {
    pub(super) agent: &'a Agent,
    pub(super) span: &'a Span,
    /// The declaration.
    pub(super) at: Position,
    /// It was made by a clock that is ahead.
    pub(super) is_ahead: bool,
}

type Range = (i64, i64);
/// First and last seq.
type Seqs = (u64, u64);

/// The slots of `from..=through` that no run holds, each with what is known of it now.
pub(super) fn explain(account: &Account<'_>, runs: &[Run], (from, through): Range) -> Vec<(Range, Known)> {
    let mut absent = vec![(from, through)];
    for run in runs {
        absent = cut(absent, (run.first, run.last)).1;
    }
    let mut known = Vec::new();
    take_downtimes(account, &mut absent, &mut known);
    take_losses(account, &mut absent, &mut known);
    take_ends(account, &mut absent, &mut known);
    take_memories(account, &mut absent, &mut known);
    let lost = hidden(account, (account.span.proven_at, account.at), |_, _| true);
    let read = runs.iter().find(|run| run.last >= from).map_or(i64::MAX, |run| run.first);
    let begun_ahead = began_ahead(account, through);
    known.extend(absent.into_iter().map(|range| {
        let is_ahead = account.is_ahead || begun_ahead && range.1 < read;
        let rest = match lost {
            Some(cause) => Known::Lost(cause),
            None if is_ahead => Known::Unexplained(Cause::ClockStepped),
            None => Known::Unexplained(Cause::Unexplained),
        };
        (range, rest)
    }));
    known
}

/// Whether the agent has begun since the last proof by a clock that was far ahead: what it would have polled before that was set
/// right it took for long past.
fn began_ahead(account: &Account<'_>, through: i64) -> bool {
    let latest = account.span.times.at(Slot(through)).plus_ms(plausible::AHEAD_MAX_MS);
    let (agent, since) = (account.agent, account.span.proven_at.place);
    let epochs = agent.chain.range(since..=account.at.place).map(|(_, epoch)| epoch);
    let mut starts = epochs.filter_map(|epoch| agent.epochs.get(epoch)?.start.as_ref());
    starts.any(|start| start.clock_set && start.at > latest)
}

fn take_losses(account: &Account<'_>, absent: &mut Vec<Range>, known: &mut Vec<(Range, Known)>) {
    let times = account.span.times;
    for loss in &account.agent.losses {
        // A reading is written after its slot's instant: the slot before the first lost record may be its.
        let Some((from, to)) = account.agent.time_of(loss) else { continue };
        let (held, rest) = cut(std::mem::take(absent), (times.slot_at(from).0, times.slot_at(to).0));
        known.extend(held.into_iter().map(|range| (range, Known::Lost(loss.cause))));
        *absent = rest;
    }
}

fn take_downtimes(account: &Account<'_>, absent: &mut Vec<Range>, known: &mut Vec<(Range, Known)>) {
    let times = account.span.times;
    for (_, downtime) in &account.agent.downtimes {
        let inside = (times.first_from(downtime.from).0, times.first_from(downtime.to).0 - 1);
        let (held, rest) = cut(std::mem::take(absent), inside);
        known.extend(held.into_iter().map(|range| (range, Known::Down(downtime.cause))));
        *absent = rest;
    }
}

/// What is before a downtime and in no record: the agent ended before it could write its last misses down, unless what
/// is lost there may have said more of these slots. What was lost before the downtime before, and a break of the chain
/// there, say nothing of what came after it.
fn take_ends(account: &Account<'_>, absent: &mut Vec<Range>, known: &mut Vec<(Range, Known)>) {
    let times = account.span.times;
    let mut after = account.span.proven_at;
    for (at, downtime) in &account.agent.downtimes {
        let between = (after, *at);
        let before = (i64::MIN, times.first_from(downtime.to).0 - 1);
        let lost = hidden(account, between, |epoch, range| !has_time(account.agent, epoch, range));
        let (cause, until) = match lost {
            Some(cause) => (Some(cause), None),
            None => broken(account, between).map_or((None, None), |(cause, until)| (Some(cause), until)),
        };
        let hides = until.map_or(before.1, |until| before.1.min(times.slot_at(until).0));
        let causes = [
            ((i64::MIN, hides), cause.map_or(Known::Ended(downtime.cause), Known::Lost)),
            (before, Known::Ended(downtime.cause)),
        ];
        for (range, cause) in causes {
            let (held, rest) = cut(std::mem::take(absent), range);
            known.extend(held.into_iter().map(|range| (range, cause)));
            *absent = rest;
        }
        after = after.max(*at);
    }
}

/// What an agent had in memory alone went with its process where no epoch on the disk took it along, as a loss would tell:
/// no disk saw when it ended, so that what followed knew of no downtime. Its time goes up to the next begin of an epoch.
fn take_memories(account: &Account<'_>, absent: &mut Vec<Range>, known: &mut Vec<(Range, Known)>) {
    let (agent, times) = (account.agent, account.span.times);
    if absent.is_empty() {
        return;
    }
    let began: Vec<Timestamp> = agent.epochs.values().filter_map(|epoch| agent.began(epoch)).collect();
    let went = agent.epochs.iter().filter(|(epoch, state)| {
        state.is_in_memory() && !agent.losses.iter().any(|loss| loss.epoch == **epoch)
    });
    for from in went.filter_map(|(_, state)| agent.began(state)) {
        let Some(until) = began.iter().copied().filter(|next| *next > from).min() else { continue };
        let inside = (times.first_from(from).0, times.first_from(until).0 - 1);
        let (held, rest) = cut(std::mem::take(absent), inside);
        known.extend(held.into_iter().map(|range| (range, Known::Lost(Cause::DiskFailed))));
        *absent = rest;
    }
}

/// Why the chain is broken last between two places, and up to when: of what stood before the break nothing is known.
/// `None` for the instant where nothing tells when what follows the break began.
fn broken(account: &Account<'_>, (from, to): (Position, Position)) -> Option<(Cause, Option<Timestamp>)> {
    let agent = account.agent;
    let mut after = agent.chain.range(from.place..).rev().skip_while(|(place, _)| **place > to.place);
    after.find_map(|(&place, epoch)| {
        let state = agent.epochs.get(epoch)?;
        let cause = state.link.filter(|_| place > from.place)?;
        Some((cause, agent.began(state).or_else(|| first_known(agent, *epoch))))
    })
}

/// Where the first record of an epoch is lost, and the loss has a time: the end of that.
fn first_known(agent: &Agent, epoch: Epoch) -> Option<Timestamp> {
    let mut losses = agent.losses.iter().filter(|loss| loss.epoch == epoch && loss.first.0 <= 1);
    losses.find_map(|loss| agent.time_of(loss)).map(|(_, to)| to)
}

/// The cause of whatever is not usable between two places, as far as the lost seqs `count`.
fn hidden(
    account: &Account<'_>,
    (from, to): (Position, Position),
    count: impl Fn(Epoch, Seqs) -> bool,
) -> Option<Cause> {
    let mut between = account.agent.chain.range(from.place..).take_while(|(place, _)| **place <= to.place);
    between.find_map(|(&place, epoch)| {
        let state = account.agent.epochs.get(epoch)?;
        let after = if place == from.place { from.seq } else { 0 };
        let through = if place == to.place { to.seq } else { u64::MAX };
        state.hidden(after, through, |seqs| count(*epoch, seqs))
    })
}

/// Whether a loss that has a time tells of all these seqs.
fn has_time(agent: &Agent, epoch: Epoch, (first, last): Seqs) -> bool {
    let tells = |loss: &&Loss| loss.epoch == epoch && loss.first.0 <= first && loss.last.0 >= last;
    agent.losses.iter().any(|loss| tells(&loss) && loss.from <= loss.to)
}

/// What of `ranges` lies inside `by`, and what outside.
fn cut(ranges: Vec<Range>, by: Range) -> (Vec<Range>, Vec<Range>) {
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for (first, last) in ranges {
        let held = (first.max(by.0), last.min(by.1));
        if held.0 > held.1 {
            outside.push((first, last));
            continue;
        }
        inside.push(held);
        if first < held.0 {
            outside.push((first, held.0 - 1));
        }
        if last > held.1 {
            outside.push((held.1 + 1, last));
        }
    }
    (inside, outside)
}
