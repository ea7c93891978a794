//! What the ledger holds of one agent: its epochs, what of each is accounted for, and what waits for what.
//! Plain state with its small operations; the rules are in `chain` and `settle`.

use std::collections::BTreeMap;

use gapless_common::id::{CatalogHash, Epoch, Seq};
use gapless_common::message::{EpochAck, HeldEpoch};
use gapless_common::planted::{self, Bug};
use gapless_common::quality::Cause;
use gapless_common::ranges::RangeSet;
use gapless_common::reading::{ClockCorrection, EpochStart, Loss};
use gapless_common::time::Timestamp;

use super::{Downtime, Forgotten, Mark, Schedule, ranges_above};

/// A place in the whole history of an agent: the place of the epoch in the chain, then the seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// Place of the epoch in the chain, from 0.
    pub place: usize,
    /// Seq within it.
    pub seq: u64,
}

/// What the first records of an epoch speak of may have begun so long before it, in ms: a run of misses is open for a
/// minute at most, and then waits for its commit.
const BEFORE_EPOCH_MS_MAX: i64 = 120_000;

/// What one epoch has delivered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EpochState {
    /// Its first record.
    pub start: Option<EpochStart>,
    /// First seq it never issued, once that is known.
    pub end: Option<u64>,
    /// Nothing more of it will ever come.
    pub closed: bool,
    /// The agent's last birth did not name it, though it was known by then: nothing more of it will come. Not
    /// written down: the agent is born again when a collector starts.
    pub unheld: bool,
    /// Something of it came since the agent's last birth. Not written down, as `unheld`.
    pub heard: bool,
    /// A birth said that the agent keeps it in memory alone: its first record may never come.
    pub in_memory: bool,
    /// Its place in the chain of epochs.
    pub place: Option<usize>,
    /// Why what is before it in the chain is not what was before it in truth; `None` where it is.
    pub link: Option<Cause>,
    /// Seqs whose records are stored.
    pub committed: RangeSet,
    /// Seqs that are kept but not usable yet.
    pub parked: RangeSet,
    /// Seqs that will not come, with the reason.
    pub lost: Vec<(u64, u64, Cause)>,
    /// All of the three.
    pub accounted: RangeSet,
    /// Records that wait, by seq.
    pub marks: BTreeMap<u64, Mark>,
}

impl EpochState {
    /// All seq up to it are accounted for.
    #[must_use]
    pub fn watermark(&self) -> u64 {
        if planted::has(Bug::WatermarkPastHole) {
            return self.accounted.last().unwrap_or(0);
        }
        self.accounted.watermark(1)
    }

    /// The agent kept it in memory while its disk had failed; it stands beside the chain.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        self.in_memory || self.start.as_ref().is_some_and(|start| !start.durable)
    }

    /// Nothing is missing and nothing more will come.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.closed || self.end.is_some_and(|end| self.watermark().saturating_add(1) >= end)
    }

    /// Gives up `first..=last` as far as it has not come.
    pub(super) fn lose(&mut self, first: u64, last: u64, cause: Cause) {
        let missing: Vec<_> = self.accounted.holes(first, last).collect();
        for (f, l) in missing {
            self.lost.push((f, l, cause));
        }
        self.accounted.insert(first, last);
    }

    /// Gives up all that has not come.
    pub(super) fn give_up(&mut self, cause: Cause) {
        let known = self.end.map_or(0, |end| end.saturating_sub(1));
        let last = self.accounted.last().unwrap_or(0).max(known);
        if last > 0 {
            self.lose(1, last, cause);
        }
        self.closed = true;
    }

    /// The agent holds `first..=last` after all: what was given up of it without the agent's own word (`told`) is
    /// owed again.
    pub(super) fn reopen(&mut self, first: u64, last: u64, told: &[Loss]) {
        self.closed = false;
        let by_us = |f, l, cause| {
            [Cause::StoreReplaced, Cause::BudgetFull, Cause::DiskFailed].contains(&cause)
                && !told.iter().any(|t| t.first.0 <= f && t.last.0 >= l)
        };
        for (f, l, cause) in std::mem::take(&mut self.lost) {
            if !by_us(f, l, cause) || l < first || f > last {
                self.lost.push((f, l, cause));
                continue;
            }
            if f < first {
                self.lost.push((f, first - 1, cause));
            }
            if l > last {
                self.lost.push((last + 1, l, cause));
            }
        }
        let lost = self.lost.iter().map(|&(f, l, _)| (f, l));
        self.accounted = self.committed.iter().chain(self.parked.iter()).chain(lost).collect();
    }

    /// Why something of `after..=through` is not usable, as far as the lost seqs `count`; `None` where all of it is stored.
    pub(super) fn hidden(
        &self,
        after: u64,
        through: u64,
        count: impl Fn((u64, u64)) -> bool,
    ) -> Option<Cause> {
        let inside = |&&(f, l, _): &&(u64, u64, Cause)| l > after && f <= through && count((f, l));
        let lost = self.lost.iter().find(inside).map(|&(_, _, cause)| cause);
        let parked = || self.parked.iter().any(|(f, l)| l > after && f <= through).then_some(Cause::Parked);
        lost.or_else(parked)
    }

    /// Seqs known to exist that are not accounted for; `held` is what the agent's last birth said of the epoch.
    #[must_use]
    pub fn missing(&self, held: Option<&HeldEpoch>) -> u64 {
        if self.closed { 0 } else { missing(&self.accounted, self.end, held) }
    }

    pub(super) fn ack(&self, epoch: Epoch) -> EpochAck {
        let watermark = self.watermark();
        EpochAck {
            epoch,
            watermark: Seq(watermark),
            above: ranges_above(&self.accounted, watermark),
            parked: ranges_above(&self.parked, 0),
        }
    }
}

/// What the outbox held when the agent was born last.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Held {
    /// Oldest first; the last one is being written.
    pub epochs: Vec<HeldEpoch>,
    /// All of it has come: what is missing besides will never come.
    pub drained: bool,
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Agent {
    /// Every epoch heard of and not forgotten.
    pub epochs: BTreeMap<Epoch, EpochState>,
    /// Epochs that are forgotten, see `forget`.
    pub forgotten: Forgotten,
    /// The epochs in the order they were written, by their place.
    pub chain: BTreeMap<usize, Epoch>,
    /// Everything up to here has taken effect.
    pub settled: Position,
    /// The catalog in force there.
    pub in_force: Option<CatalogHash>,
    /// What the catalogs mean.
    pub schedules: BTreeMap<CatalogHash, Schedule>,
    /// Downtimes that took effect and that a device may still need, in order of position.
    pub downtimes: Vec<(Position, Downtime)>,
    /// What the outbox gave up.
    pub losses: Vec<Loss>,
    /// What the boot clocks meant.
    pub corrections: Vec<ClockCorrection>,
    /// What the outbox held at the last birth.
    pub held: Held,
}

impl Agent {
    /// Whether the records are stored already, or are of an epoch that is forgotten.
    #[must_use]
    pub fn is_committed(&self, epoch: Epoch, first: u64, last: u64) -> bool {
        match self.epochs.get(&epoch) {
            Some(state) => state.committed.covers(first, last),
            None => self.forgotten.contains(epoch),
        }
    }

    /// The last place in the chain that is taken.
    pub(super) fn tip(&self) -> Option<(usize, Epoch)> {
        self.chain.last_key_value().map(|(&place, &epoch)| (place, epoch))
    }

    /// The catalog's schedule.
    #[must_use]
    pub fn schedule(&self, hash: CatalogHash) -> Option<&Schedule> {
        self.schedules.get(&hash)
    }

    /// Epochs of which something is still to come.
    pub(super) fn unfinished(&self) -> usize {
        self.epochs.values().filter(|e| !e.finished()).count()
    }

    /// Epochs that are whole and wait for their place in the chain.
    pub(super) fn unplaced(&self) -> usize {
        let waits = |(epoch, e): &(&Epoch, &EpochState)| {
            e.finished() && e.place.is_none() && !e.is_in_memory() && !self.stays_beside(**epoch)
        };
        self.epochs.iter().filter(waits).count()
    }

    /// Whether the agent was born and has the epoch still, as its birth said or as its frames show.
    pub(super) fn is_alive(&self, epoch: Epoch) -> bool {
        self.held.epochs.iter().any(|h| h.epoch == epoch) || self.epochs.get(&epoch).is_some_and(|e| e.heard)
    }

    /// The time that the records of a loss speak of. One of them may bear a time from before the clock was set: none
    /// is older than its epoch, but that misses from before it may be written within it ([`BEFORE_EPOCH_MS_MAX`]).
    /// `None` where it ends before it begins: its records were written again elsewhere.
    pub(super) fn time_of(&self, loss: &Loss) -> Option<(Timestamp, Timestamp)> {
        if loss.from > loss.to {
            return None;
        }
        let began = self.epochs.get(&loss.epoch).and_then(|e| self.began(e));
        let is_run = |began: Timestamp| began.since_ms(loss.from) <= BEFORE_EPOCH_MS_MAX;
        let from = began.map_or(loss.from, |began| if is_run(began) { loss.from } else { began });
        Some((from, loss.to))
    }

    /// When the epoch began; `None` as long as that cannot be told.
    pub(super) fn began(&self, epoch: &EpochState) -> Option<Timestamp> {
        let start = epoch.start.as_ref()?;
        if start.clock_set {
            return Some(start.at);
        }
        let known = self.corrections.iter().find(|c| c.boot == start.boot)?;
        Some(known.boot_began.plus_ms(i64::try_from(start.boot_clock_ms).ok()?))
    }

    /// Whether what stands there has taken effect.
    pub(super) fn is_settled(&self, epoch: Epoch, seq: u64) -> bool {
        let place = self.epochs.get(&epoch).and_then(|e| e.place);
        place.is_some_and(|place| Position { place, seq } <= self.settled)
    }

    /// Seqs known to exist, over all epochs, that have not come.
    #[must_use]
    pub fn missing(&self) -> u64 {
        let held = |epoch: &Epoch| self.held.epochs.iter().find(|h| h.epoch == *epoch);
        let unknown = self.held.epochs.iter().filter(|h| !self.epochs.contains_key(&h.epoch));
        let nothing_came = unknown.map(|h| missing(&RangeSet::new(), None, Some(h)));
        let came = self.epochs.iter().map(|(epoch, state)| state.missing(held(epoch)));
        nothing_came.chain(came).fold(0, u64::saturating_add)
    }
}

/// Seqs of an epoch known to exist that are not accounted for: up to the last one that came, to its end
/// (exclusive), and to what the agent's last birth said that it holds, of which nothing may have come yet.
#[must_use]
pub fn missing(accounted: &RangeSet, end: Option<u64>, held: Option<&HeldEpoch>) -> u64 {
    let came = end.map_or(0, |end| end.saturating_sub(1)).max(accounted.last().unwrap_or(0));
    let holes = |(first, last): (u64, u64)| -> u64 {
        let sizes = accounted.holes(first, last.max(first)).map(|(f, l)| (l - f).saturating_add(1));
        if first > last { 0 } else { sizes.fold(0, u64::saturating_add) }
    };
    let tail = held.map_or(0, |h| holes((h.first.0.max(came.saturating_add(1)), h.next.0.saturating_sub(1))));
    holes((1, came)).saturating_add(tail)
}
