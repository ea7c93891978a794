//! Order: what is received or missed is painted at once; what waited takes effect in the order it was written, as
//! far as everything before it is accounted for. Knows nothing of how records arrive; what they mean for the slots
//! that an agent owes is in `spans`.

use gapless_common::id::Epoch;
use gapless_common::planted::{self, Bug};
use gapless_common::quality::Cause;
use gapless_common::time::{Slot, Timestamp};

use super::agent::Position;
use super::paint::{Known, fill_gap, paint, recause_gap};
use super::{AgentNo, DOWNTIMES_MAX, Downtime, Due, GridNo, Ledger, Mark, Slots, Span, Stamp, plausible};

impl Ledger {
    /// A reading of this slot is stored.
    pub fn received(&mut self, due: &Due, slot: Slot) {
        self.times.insert(due.grid, due.times);
        self.received.entry(due.grid).or_default().push(slot.0);
    }

    /// The agent said that these slots have no reading.
    pub fn missed(&mut self, due: &Due, first: Slot, count: u32, cause: Cause) {
        self.times.insert(due.grid, due.times);
        let last = first.0.saturating_add(i64::from(count)).saturating_sub(1);
        self.missed.push((due.grid, first.0, last, cause));
    }

    /// Lets take effect what the records told so far prove, for this agent. To be called before the
    /// transaction commits.
    ///
    /// # Errors
    /// The storage of runs and gaps failed; the ledger must be loaded again.
    pub fn settle<S: Slots>(&mut self, no: AgentNo, slots: &mut S, stamp: Stamp) -> Result<(), S::Error> {
        self.paint_received(slots, stamp)?;
        self.paint_missed(no, slots, stamp)?;
        self.recause_losses(no, slots)?;
        loop {
            self.link(no);
            self.advance(no, slots, stamp)?;
            if !self.drain(no) {
                // What `drain` has found to be overdue stands in no record that could be read again.
                self.better_words(slots)?;
                self.forget_epochs(no);
                return Ok(());
            }
        }
    }

    fn paint_received<S: Slots>(&mut self, slots: &mut S, stamp: Stamp) -> Result<(), S::Error> {
        for (grid, mut numbers) in std::mem::take(&mut self.received) {
            numbers.sort_unstable();
            numbers.dedup();
            let neighbours = numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b));
            for run in neighbours {
                let (Some(&first), Some(&last)) = (run.first(), run.last()) else { continue };
                let painted = paint(slots, grid, (first, last), Known::Received, |_| true)?;
                if painted && self.may_have_gaps(grid, first) {
                    let first = first - i64::from(planted::has(Bug::GapClosedEarly));
                    fill_gap(slots, (grid, self.times[&grid]), (first, last), stamp)?;
                }
            }
        }
        Ok(())
    }

    /// Of what a clock that is ahead has skipped only the past is missed: the other slots' turn is still to come.
    fn paint_missed<S: Slots>(&mut self, no: AgentNo, slots: &mut S, stamp: Stamp) -> Result<(), S::Error> {
        for (grid, first, last, cause) in std::mem::take(&mut self.missed) {
            let known = Known::Missed(cause);
            let times = self.times[&grid];
            let last = last.min(times.slot_at(self.believed(no, times.at(Slot(last)), stamp.at)).0);
            if first > last {
                continue;
            }
            if paint(slots, grid, (first, last), known, |_| true)? && self.may_have_gaps(grid, first) {
                self.recause(slots, grid, (first, last), known)?;
            }
        }
        Ok(())
    }

    /// What of the time up to `at` has passed by what the agent says: where its clock is far ahead, up to now, or to what
    /// it has proven of any device, as the collector's own clock may be slow.
    fn believed(&self, no: AgentNo, at: Timestamp, now: Timestamp) -> Timestamp {
        let believed = plausible::believed(at, now);
        if believed == at {
            return at;
        }
        let proven = self.spans_of(no).filter_map(|span| Some(span.times.at(span.proven?)));
        let passed = proven.filter(|proven| *proven <= at && plausible::believed(*proven, now) == *proven);
        passed.max().map_or(believed, |passed| passed.max(believed))
    }

    /// Whether slots from `first` on may lie in proven time.
    fn may_have_gaps(&self, grid: GridNo, first: i64) -> bool {
        self.proven.get(&grid).is_none_or(|&proven| first <= proven)
    }

    /// The open gaps of a range take the cause of what was painted there.
    fn recause<S: Slots>(
        &self,
        slots: &mut S,
        grid: GridNo,
        (first, last): (i64, i64),
        known: Known,
    ) -> Result<(), S::Error> {
        let (Some(cause), Some(&times)) = (known.cause(), self.times.get(&grid)) else { return Ok(()) };
        for run in slots.runs(grid, first, last)?.into_iter().filter(|r| r.known == known) {
            let range = (run.first.max(first), run.last.min(last));
            if range.0 <= range.1 {
                recause_gap(slots, (grid, times), range, cause)?;
            }
        }
        Ok(())
    }

    /// A loss that is told after its slots were proven absent is a better word than that nothing holds them. The
    /// slots of an epoch without a place are not proven yet.
    fn recause_losses<S: Slots>(&mut self, no: AgentNo, slots: &mut S) -> Result<(), S::Error> {
        self.better_words(slots)?;
        let fresh: Vec<_> = self.changes.losses.iter().filter(|(a, _)| *a == no).map(|(_, l)| *l).collect();
        for loss in fresh {
            let agent = self.agent_mut(no);
            if agent.epochs.get(&loss.epoch).is_none_or(|e| e.place.is_none() && !e.is_in_memory()) {
                continue;
            }
            let Some(time) = agent.time_of(&loss) else { continue };
            self.better_word(no, slots, time, Known::Lost(loss.cause))?;
        }
        Ok(())
    }

    /// Downtimes of epochs that have found their place, or none, after their slots were proven absent.
    fn better_words<S: Slots>(&mut self, slots: &mut S) -> Result<(), S::Error> {
        for (agent, downtime) in std::mem::take(&mut self.overdue) {
            let time = (downtime.from, downtime.to.plus_ms(-1));
            self.better_word(agent, slots, time, Known::Down(downtime.cause))?;
        }
        Ok(())
    }

    fn better_word<S: Slots>(
        &mut self,
        no: AgentNo,
        slots: &mut S,
        (from, to): (Timestamp, Timestamp),
        known: Known,
    ) -> Result<(), S::Error> {
        let spans: Vec<Span> = self.spans_of(no).collect();
        for span in spans {
            // Not what another agent owes of the same grid.
            let first = span.first.map_or(i64::MIN, |s| s.0).max(span.times.slot_at(from).0);
            let range = (first, span.last.map_or(i64::MAX, |s| s.0).min(span.times.slot_at(to).0));
            self.times.insert(span.grid, span.times);
            // Only what is proven absent has a word that can be bettered, and no loss lies in a downtime.
            let weak = |there: Option<Known>| there.is_some_and(|k| !matches!(k, Known::Down(_)));
            if range.0 <= range.1 && paint(slots, span.grid, range, known, weak)? {
                self.recause(slots, span.grid, range, known)?;
            }
        }
        Ok(())
    }

    /// Walks the chain as far as it is accounted for. Places that are forgotten have had their turn.
    fn advance<S: Slots>(&mut self, no: AgentNo, slots: &mut S, stamp: Stamp) -> Result<(), S::Error> {
        while let Some((place, epoch, through, go_on)) = self.reach(no) {
            let agent = self.agent_mut(no);
            let before = agent.settled;
            if place > before.place {
                agent.settled = Position { place, seq: 0 };
            }
            while let Some((seq, mark)) = self.take_mark(no, epoch, through) {
                self.apply(no, Position { place, seq }, &mark, slots, stamp)?;
            }
            let agent = self.agent_mut(no);
            agent.settled.seq = agent.settled.seq.max(through);
            if go_on {
                agent.settled = Position { place: place + 1, seq: 0 };
            }
            if agent.settled != before {
                self.changes.agents.insert(no);
            }
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    /// The place and epoch that is being settled, up to which seq, and whether the one after it may follow.
    fn reach(&self, no: AgentNo) -> Option<(usize, Epoch, u64, bool)> {
        let agent = self.agents.get(&no)?;
        let (&place, &epoch) = agent.chain.range(agent.settled.place..).next()?;
        let state = agent.epochs.get(&epoch)?;
        let finished = (state.finished() || planted::has(Bug::SettleUnfinished))
            && agent.tip().is_some_and(|(tip, _)| tip > place);
        let through =
            if state.closed { u64::from(u32::MAX).max(state.watermark()) } else { state.watermark() };
        Some((place, epoch, through, finished))
    }

    fn take_mark(&mut self, no: AgentNo, epoch: Epoch, through: u64) -> Option<(u64, Mark)> {
        let state = self.agents.get_mut(&no)?.epochs.get_mut(&epoch)?;
        let entry = state.marks.first_entry().filter(|e| *e.key() <= through)?;
        let taken = entry.remove_entry();
        self.changes.marks.insert((no, epoch, taken.0), None);
        Some(taken)
    }

    fn apply<S: Slots>(
        &mut self,
        no: AgentNo,
        at: Position,
        mark: &Mark,
        slots: &mut S,
        stamp: Stamp,
    ) -> Result<(), S::Error> {
        match *mark {
            Mark::Downtime { from, to, cause } => {
                self.break_chain(no, at, from);
                self.push_downtime(no, at, Downtime { from, to, cause });
                Ok(())
            }
            Mark::Catalog { hash, since } => {
                // A clock that is ahead does not put off the begin of what is owed.
                let since = since.map(|t| plausible::believed(t, stamp.at));
                if let Some(since) = since {
                    self.break_chain(no, at, since);
                }
                self.bring_into_force(no, at, (hash, since), slots, stamp)
            }
            Mark::Complete { hash, ref through } => {
                if self.agent_mut(no).in_force != Some(hash) {
                    self.bring_into_force(no, at, (hash, None), slots, stamp)?;
                }
                self.break_chain_undated(no, at);
                for (&grid, &slot) in through {
                    self.prove(no, at, (grid, slot), slots, stamp)?;
                }
                self.forget_downtimes(no);
                Ok(())
            }
        }
    }

    /// Where the chain is broken before this epoch, all that is unproven before `until` has the break's cause.
    fn break_chain(&mut self, no: AgentNo, at: Position, until: Timestamp) {
        let agent = self.agent_mut(no);
        let state = agent.chain.get(&at.place).and_then(|e| agent.epochs.get(e));
        let link = state.and_then(|e| e.link);
        // A replaced outbox may remember a time from which another one had gone on.
        let started = state.and_then(|e| agent.began(e));
        let until = match (link, started) {
            (Some(Cause::StoreReplaced), Some(started)) => until.max(started),
            _ => until,
        };
        let told = agent.downtimes.iter().any(|(p, _)| p.place == at.place);
        if let Some(cause) = link
            && !told
        {
            self.push_downtime(
                no,
                Position { place: at.place, seq: 0 },
                Downtime { from: until, to: until, cause },
            );
        }
    }

    /// The same where neither catalog nor downtime could say when the epoch began, because the clock was not set: for each
    /// such epoch since a device's last proof. It need not hold a declaration itself.
    fn break_chain_undated(&mut self, no: AgentNo, at: Position) {
        let Some(least) = self.spans_of(no).map(|s| s.proven_at).min() else { return };
        let Some(agent) = self.agents.get(&no).filter(|_| least.place <= at.place) else { return };
        let undated = agent.chain.range(least.place..=at.place).filter_map(|(&place, epoch)| {
            let state = agent.epochs.get(epoch).filter(|s| s.link.is_some())?;
            let is_undated = state.start.as_ref().is_some_and(|s| !s.clock_set);
            let began = agent.began(state).filter(|_| is_undated)?;
            Some((Position { place, seq: 0 }, began)).filter(|(start, _)| *start > least)
        });
        for (start, began) in undated.collect::<Vec<_>>() {
            self.break_chain(no, start, began);
        }
    }

    pub(super) fn push_downtime(&mut self, no: AgentNo, at: Position, downtime: Downtime) {
        if planted::has(Bug::IgnoreDowntime) {
            return;
        }
        self.changes.downtimes.push((no, at, downtime));
        let downtimes = &mut self.agent_mut(no).downtimes;
        // Which one explains a slot goes by their order.
        let place = downtimes.partition_point(|(before, _)| *before <= at);
        downtimes.insert(place, (at, downtime));
        if downtimes.len() > DOWNTIMES_MAX {
            let (oldest, _) = downtimes.remove(0);
            self.changes.forgotten_downtimes.push((no, oldest));
        }
    }

    /// A downtime that every device has a proof after is of no more use.
    fn forget_downtimes(&mut self, no: AgentNo) {
        if self.agents.get(&no).is_none_or(|a| a.downtimes.is_empty()) {
            return;
        }
        let least = self.spans_of(no).map(|s| s.proven_at).min();
        let agent = self.agent_mut(no);
        let settled_place = agent.settled.place;
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut agent.downtimes)
            .into_iter()
            .partition(|(at, _)| at.place >= settled_place || least.is_none_or(|least| *at > least));
        agent.downtimes = kept;
        self.changes.forgotten_downtimes.extend(gone.into_iter().map(|(at, _)| (no, at)));
    }
}
