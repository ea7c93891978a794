//! Who owes which slots: a catalog in force opens and ends the spans of its devices, a declaration of completeness
//! proves them, and what is absent then becomes a gap. Knows nothing of how records arrive or of their order.
//!
//! A device that moves to another agent leaves a span behind: only the agent that owed its slots can prove them,
//! and it may still have them to deliver.

use gapless_common::id::CatalogHash;
use gapless_common::quality::Cause;
use gapless_common::time::{Slot, Timestamp};

use super::agent::Position;
use super::causes::{Account, explain};
use super::paint::{Known, open_gap, paint};
use super::{AgentNo, Came, DeviceNo, Due, EpochState, GridNo, Ledger, Slots, Span, Stamp, plausible};

/// How far before what is known of a device an older store is believed to reach, in ms: a clock that begins in the year 2000
/// says more.
const OLDER_MS_MAX: i64 = 400 * 86_400_000;

/// At its begin an agent accounts for the slot before the first one it owes, which is open then, and the one before that.
const OPEN_AT_BEGIN: i64 = 2;

impl Ledger {
    /// The agent that owes the device's slots from now on.
    #[must_use]
    pub fn owner(&self, device: DeviceNo) -> Option<AgentNo> {
        self.open.get(&device).map(|span| span.agent)
    }

    /// Puts a span of the database where it belongs.
    pub(super) fn load_span(&mut self, span: Span) {
        self.times.insert(span.grid, span.times);
        self.devices.insert(span.grid, span.device);
        if span.last.is_some() {
            self.leaving.entry(span.agent).or_default().push(span);
        } else {
            self.owed.entry(span.agent).or_default().insert(span.device);
            self.open.insert(span.device, span);
        }
    }

    /// A catalog comes into force: `since` is `None` where its agent's clock was not set.
    pub(super) fn bring_into_force<S: Slots>(
        &mut self,
        no: AgentNo,
        at: Position,
        (hash, since): (CatalogHash, Option<Timestamp>),
        slots: &mut S,
        stamp: Stamp,
    ) -> Result<(), S::Error> {
        let Some(schedule) = self.agent_mut(no).schedule(hash).cloned() else { return Ok(()) };
        let before = self.agent_mut(no).in_force.replace(hash);
        self.changes.agents.insert(no);
        self.changes.in_force.entry(no).or_insert(before);
        self.changes.came.push(Came { agent: no, hash, before, since });
        let kept = |span: &Span| {
            schedule.iter().any(|d| d.device == span.device && d.grid == span.grid && !d.paused)
        };
        let ended: Vec<Span> = self.spans_of(no).filter(|s| !kept(s)).collect();
        for span in ended {
            self.end_span(at, span, since, slots, stamp)?;
        }
        for due in schedule.iter().filter(|d| !d.paused) {
            self.owe(no, at, (due, since), slots)?;
        }
        Ok(())
    }

    /// From `since` on the agent owes the slots of this device.
    fn owe<S: Slots>(
        &mut self,
        no: AgentNo,
        at: Position,
        (due, since): (&Due, Option<Timestamp>),
        slots: &mut S,
    ) -> Result<(), S::Error> {
        let mut span = Span {
            id: 0,
            agent: no,
            device: due.device,
            grid: due.grid,
            times: due.times,
            first: since.map(|t| due.times.first_from(t)),
            last: None,
            proven: None,
            proven_at: at,
        };
        if let Some(other) = self.open.get(&due.device).copied() {
            let taken_at = other.first.map(|first| other.times.at(first));
            if other.agent == no {
                return self.owe_before(at, other, since, slots);
            }
            match (taken_at, since) {
                // This catalog came late: another gateway has taken the device over by now.
                (Some(taken), Some(since)) if taken > since => {
                    span.last = Some(due.times.first_from(taken).plus(-1));
                    if self.leaves(&span) {
                        return Ok(());
                    }
                }
                _ => self.hand_over(other, since),
            }
        }
        self.last_span += 1;
        span.id = self.last_span;
        self.devices.insert(due.grid, due.device);
        // Gaps of an earlier span of this grid can still be filled.
        self.proven.entry(due.grid).or_insert(i64::MIN);
        if span.last.is_none() {
            self.owed.entry(no).or_default().insert(due.device);
        }
        self.put_span(span);
        Ok(())
    }

    /// A store that took the place of another one may be an older one that was put back into the gateway: what its device was
    /// due for before the newer one began is owed as well. Where it follows the one before it, its clock was set back,
    /// and it says nothing of an earlier time.
    fn owe_before<S: Slots>(
        &mut self,
        at: Position,
        span: Span,
        since: Option<Timestamp>,
        slots: &mut S,
    ) -> Result<(), S::Error> {
        let state = self.agents.get(&span.agent).and_then(|a| a.epochs.get(a.chain.get(&at.place)?));
        let is_another = state.is_some_and(|state| state.link == Some(Cause::StoreReplaced));
        let since = since.map(|since| span.times.first_from(since));
        let (Some(first), Some(begun)) = (since, span.first) else { return Ok(()) };
        let reach_ms = span.times.at(begun).since_ms(span.times.at(first));
        let last = begun.plus(-1);
        if !is_another || !(1..=OLDER_MS_MAX).contains(&reach_ms) || self.owes_until(&span, last) {
            return Ok(());
        }
        // It may say so again once all of it is proven; what has come by itself is not yet.
        let (mut next, mut was_proven) = (first.0, false);
        let runs = slots.runs(span.grid, first.0, last.0)?.into_iter();
        for run in runs.filter(|run| run.last >= first.0 && run.first <= last.0) {
            if run.first <= next {
                next = next.max(run.last.saturating_add(1));
            }
            was_proven |= !matches!(run.known, Known::Received | Known::Missed(_));
        }
        if next > last.0 && was_proven {
            return Ok(());
        }
        self.last_span += 1;
        // The one that goes on is the latest.
        self.put_span(Span { id: self.last_span, ..span });
        self.put_span(Span { first: Some(first), last: Some(last), proven: None, proven_at: at, ..span });
        Ok(())
    }

    /// Whether the agent owes what is before this slot already: what it says later of an earlier time says its clock, which
    /// was set back.
    fn owes_until(&self, span: &Span, last: Slot) -> bool {
        let ends = |s: &Span| s.grid == span.grid && s.last.is_some_and(|l| l >= last);
        self.leaving.get(&span.agent).is_some_and(|all| all.iter().any(ends))
    }

    /// Whether the agent still owes such a span that it has left.
    fn leaves(&self, span: &Span) -> bool {
        self.leaving.get(&span.agent).is_some_and(|all| all.iter().any(|s| s.grid == span.grid))
    }

    /// Another gateway has the device from `since` on. What the first one owes up to then stays owed: it may
    /// still deliver it, and only its own declaration proves what is absent.
    fn hand_over(&mut self, span: Span, since: Option<Timestamp>) {
        self.open.remove(&span.device);
        if let Some(devices) = self.owed.get_mut(&span.agent) {
            devices.remove(&span.device);
        }
        let last = since.map(|t| span.times.first_from(t).plus(-1));
        self.put_span(Span { last: last.or_else(|| Some(end_of(&span))), ..span });
    }

    /// The spans that the agent owes: of its devices now, and those that it has left to others.
    pub(super) fn spans_of(&self, no: AgentNo) -> impl Iterator<Item = Span> {
        let left = self.leaving.get(&no).into_iter().flatten();
        let open = self.owed.get(&no).into_iter().flatten().filter_map(|d| self.open.get(d));
        left.chain(open).copied()
    }

    pub(super) fn put_span(&mut self, span: Span) {
        self.times.insert(span.grid, span.times);
        self.changes.spans.insert(span.id, span);
        let Some(last) = span.last else {
            self.open.insert(span.device, span);
            return;
        };
        let left = self.leaving.entry(span.agent).or_default();
        left.retain(|s| s.id != span.id);
        if span.first.is_none_or(|first| first <= last) && span.proven.is_none_or(|proven| proven < last) {
            left.push(span);
        }
        if left.is_empty() {
            self.leaving.remove(&span.agent);
        }
    }

    /// The device is no longer due from `since` on: what was due before and is absent is proven now.
    fn end_span<S: Slots>(
        &mut self,
        at: Position,
        span: Span,
        since: Option<Timestamp>,
        slots: &mut S,
        stamp: Stamp,
    ) -> Result<(), S::Error> {
        let until = since.or_else(|| self.last_stop(&span));
        // Of a device that it has left, the agent will never say more than that it has it no longer.
        let last = until.map(|t| span.times.first_from(t).plus(-1)).or(span.last);
        let proven = match last {
            Some(last) => self.prove_span(at, span, last, slots, stamp)?,
            None => span,
        };
        if span.last.is_none() {
            self.open.remove(&span.device);
            if let Some(devices) = self.owed.get_mut(&span.agent) {
                devices.remove(&span.device);
            }
        }
        self.put_span(Span { last: Some(end_of(&proven)), ..proven });
        Ok(())
    }

    /// When the agent stopped polling last, as its downtimes since the device's last proof tell: a catalog without
    /// an instant came into force after it.
    fn last_stop(&self, span: &Span) -> Option<Timestamp> {
        let agent = self.agents.get(&span.agent)?;
        let since = agent.downtimes.iter().filter(|(at, _)| *at > span.proven_at);
        since.map(|(_, downtime)| downtime.from).max()
    }

    /// Everything that the agent owes of this grid up to `through` is accounted for: what is absent is a gap.
    pub(super) fn prove<S: Slots>(
        &mut self,
        no: AgentNo,
        at: Position,
        (grid, through): (GridNo, Slot),
        slots: &mut S,
        stamp: Stamp,
    ) -> Result<(), S::Error> {
        let left = self.leaving.get(&no).into_iter().flatten();
        let open = self.devices.get(&grid).and_then(|device| self.open.get(device));
        let owed = left.chain(open).filter(|s| s.agent == no && s.grid == grid).copied();
        for span in owed.collect::<Vec<_>>() {
            let proven = self.prove_span(at, span, through, slots, stamp)?;
            self.put_span(proven);
        }
        Ok(())
    }

    /// The first slot behind the begin of all lives of the agent that are known, where each of them has a date by now.
    /// `None` where somebody had the device before: what that one left is owed from there on.
    fn begin_of(&self, span: &Span, now: Timestamp) -> Option<Slot> {
        if self.proven.get(&span.grid).is_some_and(|slot| *slot > i64::MIN) {
            return None;
        }
        let agent = self.agents.get(&span.agent)?;
        // What was kept in memory is told under an epoch that began after it, in the same boot of the machine.
        let is_taken_along = agent.losses.iter().any(|loss| loss.from > loss.to);
        let began = |state: &EpochState| {
            let boot_ms =
                state.start.as_ref().filter(|_| is_taken_along).map_or(0, |start| start.boot_clock_ms);
            Some(agent.began(state)?.plus_ms(-i64::try_from(boot_ms).ok()?))
        };
        let started = agent.epochs.values().filter(|state| state.start.is_some());
        let began = started.map(began).min().flatten()?;
        // A clock that was ahead when it was first set does not put off what is owed.
        Some(span.times.first_from(plausible::believed(began, now)))
    }

    fn prove_span<S: Slots>(
        &mut self,
        at: Position,
        mut span: Span,
        through: Slot,
        slots: &mut S,
        stamp: Stamp,
    ) -> Result<Span, S::Error> {
        let through = span.last.map_or(through, |last| last.min(through));
        // A clock that is ahead proves nothing of the slots that are still to come.
        let believed = plausible::believed(span.times.at(through), stamp.at);
        let (through, is_ahead) =
            (through.min(span.times.slot_at(believed)), believed < span.times.at(through));
        if span.first.is_none() {
            let known = slots.first_known(span.grid, i64::MIN)?;
            let first = known.map_or(through.plus(1), Slot);
            // What the device itself remembers of the time before is owed by nobody.
            span.first = Some(self.begin_of(&span, stamp.at).map_or(first, |begun| begun.max(first)));
        }
        if span.proven.is_none() && span.first.is_some_and(|first| through.plus(OPEN_AT_BEGIN) < first) {
            span.first = self.begun_before(&span, through, slots)?.or(span.first);
        }
        let from = span.proven.map(|p| p.plus(1)).or(span.first).unwrap_or(through);
        if from <= through {
            self.open_gaps((at, is_ahead), &span, (from.0, through.0), slots, stamp)?;
            span.proven = Some(through);
            span.proven_at = span.proven_at.max(at);
        }
        let known = self.proven.entry(span.grid).or_insert(i64::MIN);
        *known = span.proven.map_or(*known, |slot| slot.0.max(*known));
        Ok(span)
    }

    /// An agent that accounts for slots from before it began, by the clock that it had then, began with that clock ahead: from
    /// the first slot on of which it says anything, as far back as such a clock is believed at all.
    fn begun_before<S: Slots>(
        &self,
        span: &Span,
        through: Slot,
        slots: &mut S,
    ) -> Result<Option<Slot>, S::Error> {
        let Some(first) = span.first else { return Ok(None) };
        let earliest = span.times.slot_at(span.times.at(first).plus_ms(-plausible::AHEAD_MAX_MS)).0;
        let proven = self.proven.get(&span.grid).copied().unwrap_or(i64::MIN);
        let from = earliest.max(proven.saturating_add(1));
        if from > through.0 {
            return Ok(None);
        }
        // A run may have begun before.
        Ok(slots.runs(span.grid, from, through.0)?.first().map(|run| Slot(run.first.max(from))))
    }

    fn open_gaps<S: Slots>(
        &mut self,
        (at, is_ahead): (Position, bool),
        span: &Span,
        (from, through): (i64, i64),
        slots: &mut S,
        stamp: Stamp,
    ) -> Result<(), S::Error> {
        let runs = slots.runs(span.grid, from, through)?;
        if runs.iter().any(|r| r.known == Known::Received && r.first <= from && r.last >= through) {
            return Ok(());
        }
        let agent = self.agents.entry(span.agent).or_default();
        let account = Account { agent, span, at, is_ahead };
        for (range, known) in explain(&account, &runs, (from, through)) {
            paint(slots, span.grid, range, known, |there| there.is_none())?;
        }
        for run in slots.runs(span.grid, from, through)? {
            let range = (run.first.max(from), run.last.min(through));
            if let Some(cause) = run.known.cause()
                && range.0 <= range.1
            {
                open_gap(slots, (span.grid, span.times), range, cause, stamp)?;
            }
        }
        Ok(())
    }
}

/// The last slot of a span that ends with what is proven of it; before its first where nothing is.
fn end_of(span: &Span) -> Slot {
    span.proven.or(span.first.map(|first| first.plus(-1))).unwrap_or(Slot(i64::MIN))
}
