//! What an outbox owes at any instant of a workload, kept in memory, and the comparison with what one gives back after
//! a crash. Made of [`Event`]s alone, so that a recorded run has the same twin as a live one.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use gapless_agent::outbox::{
    DropPolicy, Found, NewRecord, Options, Outbox, ReadLimits, RecoveryReport, StoreKind, StoredRecord,
};
use gapless_common::id::{CatalogHash, Epoch, Seq};
use gapless_common::quality::Cause;
use gapless_common::ranges::RangeSet;
use gapless_common::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::random::Random;

/// Catalogs that a workload uses.
pub const CATALOGS: std::ops::RangeInclusive<u64> = 1..=4;

/// A record of a workload: all of it follows from these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Unlike that of any other record.
    pub number: u64,
    /// Bytes of it.
    pub len: usize,
    /// See [`NewRecord`].
    pub kind: u8,
    /// See [`NewRecord`].
    pub catalog: u64,
    /// See [`NewRecord`].
    pub is_essential: bool,
}

impl Made {
    /// Its bytes: chance, so that none pass for another's.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        bytes_of(self.number, self.len)
    }

    /// Its time.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        time(self.number)
    }

    /// To be appended; `bytes` are its own.
    #[must_use]
    pub fn record<'a>(&self, bytes: &'a [u8]) -> NewRecord<'a> {
        NewRecord {
            kind: self.kind,
            at: self.at(),
            from: self.at(),
            catalog: CatalogHash(self.catalog),
            is_essential: self.is_essential,
            bytes,
        }
    }

    pub(super) fn is(&self, stored: &StoredRecord) -> bool {
        stored.kind == self.kind
            && stored.at == self.at()
            && stored.catalog == CatalogHash(self.catalog)
            && *stored.bytes == self.bytes()[..]
    }
}

/// An instant of a workload.
#[must_use]
pub fn time(number: u64) -> Timestamp {
    Timestamp(1_700_000_000_000 + number.cast_signed() * 1000)
}

/// The bytes of a catalog.
#[must_use]
pub fn catalog_bytes(hash: u64) -> Vec<u8> {
    bytes_of(hash.wrapping_mul(0xC0FF_EE00), 700)
}

fn bytes_of(number: u64, len: usize) -> Vec<u8> {
    let mut random = Random::of(number, 1);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// What happens in a workload, each said right before it is begun (*-ing*) or right after it is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Event {
    /// The outbox is being opened.
    Opening {
        /// With this epoch,
        epoch: u64,
        /// this budget,
        budget_bytes: u64,
        /// and this policy.
        drops_newest: bool,
    },
    /// A batch is being appended.
    Appending {
        /// In this epoch,
        epoch: u64,
        /// from this position on.
        first: u64,
        /// What.
        batch: Vec<Made>,
    },
    /// That batch is durable,
    Appended,
    /// or of it, from this position on, the essential records only.
    Refused(u64),
    /// The collector has these ranges of an epoch.
    Acknowledged(u64, Vec<(u64, u64)>),
    /// The collector has lost what is above the watermark of an epoch.
    Unacknowledged {
        /// Which.
        epoch: u64,
        /// The watermark.
        watermark: u64,
        /// What the archive no longer had of that.
        gone: Vec<(u64, u64)>,
    },
    /// Records tell of these losses: epoch, first, last.
    Told(Vec<(u64, u64, u64)>),
    /// A catalog is kept.
    Catalog(u64),
    /// All catalogs but these are being removed.
    Retaining(Vec<u64>),
    /// A goodbye is being written.
    Closing,
    /// It is durable.
    Closed,
}

/// What was kept and lost at one cut, for the report.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    /// Records held and compared byte by byte.
    pub held: u64,
    /// Of the batch being appended: kept though nobody was told.
    pub kept_in_flight: u64,
    /// Of the batch being appended: gone, as it may.
    pub lost_in_flight: u64,
    /// Named as lost to the budget.
    pub named: u64,
    /// Owed again though the collector had them.
    pub owed_again: u64,
}

impl Seen {
    /// By their names.
    #[must_use]
    pub const fn figures(&self) -> [(&'static str, u64); 5] {
        [
            ("records held, compared byte by byte", self.held),
            ("records of the batch being written: kept", self.kept_in_flight),
            ("records of the batch being written: gone", self.lost_in_flight),
            ("records named as lost to the budget", self.named),
            ("records owed again", self.owed_again),
        ]
    }
}

/// See the module's text.
#[derive(Debug, Default, Clone)]
pub struct Twin {
    epochs: Vec<u64>,
    options: Options,
    greatest_budget: u64,
    records: BTreeMap<(u64, u64), Made>,
    /// Positions handed over, by epoch.
    handed: BTreeMap<u64, RangeSet>,
    /// Positions whose append returned.
    stored: BTreeMap<u64, RangeSet>,
    /// Positions whose append was refused.
    refused: BTreeMap<u64, RangeSet>,
    in_flight: Option<(u64, u64, u64)>,
    acknowledged: BTreeMap<u64, RangeSet>,
    /// What a cursor on the disk may say is acknowledged.
    in_cursor: BTreeMap<u64, RangeSet>,
    told: BTreeMap<u64, RangeSet>,
    /// Gone from the archive before the collector lost it.
    gone: BTreeMap<u64, RangeSet>,
    catalogs: BTreeSet<u64>,
    may_be_clean: bool,
    is_clean: bool,
}

impl Twin {
    /// Takes over what happened.
    ///
    /// # Errors
    /// The outbox has issued a position twice.
    pub fn apply(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Opening { epoch, budget_bytes, drops_newest } => {
                self.epochs.push(*epoch);
                let policy = if *drops_newest { DropPolicy::NewestFirst } else { DropPolicy::OldestFirst };
                self.options = Options { budget_bytes: *budget_bytes, policy, store: StoreKind::default() };
                self.greatest_budget = self.greatest_budget.max(self.options.budget());
            }
            Event::Appending { epoch, first, batch } => self.hand(*epoch, *first, batch)?,
            Event::Appended => self.settle(u64::MAX),
            Event::Refused(first) => self.settle(*first),
            Event::Acknowledged(epoch, ranges) => {
                for &(first, last) in ranges {
                    self.acknowledged.entry(*epoch).or_default().insert(first, last);
                    self.in_cursor.entry(*epoch).or_default().insert(first, last);
                }
            }
            Event::Unacknowledged { epoch, watermark, gone } => {
                self.acknowledged.entry(*epoch).or_default().remove(watermark + 1, u64::MAX);
                let excused = self.gone.entry(*epoch).or_default();
                gone.iter().for_each(|&(first, last)| excused.insert(first, last));
            }
            Event::Told(losses) => {
                for &(epoch, first, last) in losses {
                    self.told.entry(epoch).or_default().insert(first, last);
                }
            }
            Event::Catalog(hash) => drop(self.catalogs.insert(*hash)),
            Event::Retaining(kept) => self.catalogs.retain(|hash| kept.contains(hash)),
            Event::Closing => self.may_be_clean = true,
            Event::Closed => {
                self.is_clean = true;
                self.in_cursor = self.acknowledged.clone();
            }
        }
        Ok(())
    }

    fn hand(&mut self, epoch: u64, first: u64, batch: &[Made]) -> Result<()> {
        for (seq, made) in (first..).zip(batch) {
            ensure!(self.records.insert((epoch, seq), *made).is_none(), "({epoch}, {seq}) is issued twice");
        }
        let count = batch.len() as u64;
        self.handed.entry(epoch).or_default().insert(first, first + count - 1);
        self.in_flight = Some((epoch, first, first + count - 1));
        self.is_clean = false;
        Ok(())
    }

    /// Of the batch being appended all before `refused` and all that is essential is stored.
    fn settle(&mut self, refused: u64) {
        let Some((epoch, first, last)) = self.in_flight.take() else { return };
        let mut was_written = false;
        for seq in first..=last {
            let is_stored = seq < refused || self.records.get(&(epoch, seq)).is_some_and(|m| m.is_essential);
            let into = if is_stored { &mut self.stored } else { &mut self.refused };
            into.entry(epoch).or_default().insert(seq, seq);
            was_written |= is_stored;
        }
        if was_written {
            self.may_be_clean = false;
            self.in_cursor = self.acknowledged.clone();
        }
    }

    /// The options that the outbox was opened with last.
    #[must_use]
    pub fn options(&self) -> Options {
        self.options
    }

    /// Compares what was opened after a crash.
    ///
    /// # Errors
    /// What is not as it should be.
    pub fn check(&self, outbox: &mut dyn Outbox, found: &Found) -> Result<Seen> {
        self.check_found(found)?;
        let held = self.check_held(outbox)?;
        let named = self.check_losses(outbox, &held)?;
        let mut seen = Seen { held: held.values().map(count).sum(), ..Seen::default() };
        seen.named = named.values().map(count).sum();
        self.check_in_flight(&held, &named, &mut seen)?;
        self.check_nothing_is_missing(&held, &named)?;
        self.check_acknowledgements(outbox, &held, &mut seen)?;
        self.check_catalogs(outbox)?;
        let (bytes, max) = (outbox.stats().disk_bytes, self.bytes_max());
        ensure!(bytes <= max, "takes {bytes} bytes of {max}");
        goes_on(outbox)?;
        Ok(seen)
    }

    fn end(of: &BTreeMap<u64, RangeSet>, epoch: u64) -> u64 {
        of.get(&epoch).and_then(RangeSet::last).map_or(1, |last| last + 1)
    }

    /// Most bytes that it may take. Where the policy refuses what is new a lowered budget gives up nothing old.
    pub(super) fn bytes_max(&self) -> u64 {
        match self.options.policy {
            DropPolicy::OldestFirst => self.options.budget(),
            DropPolicy::NewestFirst => self.greatest_budget,
        }
    }

    fn check_found(&self, found: &Found) -> Result<()> {
        // The tear is what the cut made; anything else would be damage, and there is none.
        let report = RecoveryReport { torn_bytes: 0, ..found.report };
        ensure!(report == RecoveryReport::default(), "nothing was damaged, and it reports {report:?}");
        let issued = |epoch: &u64| Self::end(&self.stored, *epoch).max(Self::end(&self.refused, *epoch));
        let newest = self.epochs.iter().rposition(|epoch| issued(epoch) > 1);
        if let Some((epoch, next)) = found.previous {
            let place = self.epochs.iter().position(|&e| e == epoch.0);
            ensure!(place >= newest, "{epoch} is named as the epoch before, which is not the newest");
            ensure!(
                (issued(&epoch.0)..=Self::end(&self.handed, epoch.0)).contains(&next.0),
                "{epoch} is said to end at {next}: durable {}, handed over {}",
                issued(&epoch.0),
                Self::end(&self.handed, epoch.0)
            );
        } else {
            ensure!(newest.is_none(), "no epoch is named as the one before");
        }
        ensure!(!found.clean_stop || self.may_be_clean || self.is_clean, "says goodbye that nobody said");
        ensure!(found.clean_stop || !self.is_clean, "has forgotten the goodbye");
        Ok(())
    }

    /// Reads everything; each record is the one that was handed over there.
    fn check_held(&self, outbox: &mut dyn Outbox) -> Result<BTreeMap<u64, RangeSet>> {
        let mut held: BTreeMap<u64, RangeSet> = BTreeMap::new();
        for record in read_all(outbox)? {
            let place = (record.epoch.0, record.seq.0);
            let Some(made) = self.records.get(&place) else { bail!("{place:?} was never handed over") };
            ensure!(made.is(&record), "{place:?} is not what was handed over");
            let set = held.entry(place.0).or_default();
            ensure!(!set.contains(place.1), "{place:?} comes twice");
            set.insert(place.1, place.1);
        }
        Ok(held)
    }

    fn check_losses(
        &self,
        outbox: &dyn Outbox,
        held: &BTreeMap<u64, RangeSet>,
    ) -> Result<BTreeMap<u64, RangeSet>> {
        let mut named: BTreeMap<u64, RangeSet> = BTreeMap::new();
        for loss in outbox.pending_losses() {
            ensure!(loss.cause == Cause::BudgetFull, "{loss:?} without damage");
            ensure!(loss.last.0 < Self::end(&self.handed, loss.epoch.0), "{loss:?} was never issued");
            let here = held.get(&loss.epoch.0);
            ensure!(here.is_none_or(|h| !h.covers(loss.first.0, loss.last.0)), "{loss:?} is all there");
            named.entry(loss.epoch.0).or_default().insert(loss.first.0, loss.last.0);
        }
        Ok(named)
    }

    /// Of the batch that was being appended a prefix may be there; what is refused before its end is named.
    fn check_in_flight(
        &self,
        held: &BTreeMap<u64, RangeSet>,
        named: &BTreeMap<u64, RangeSet>,
        seen: &mut Seen,
    ) -> Result<()> {
        let Some((epoch, first, last)) = self.in_flight else { return Ok(()) };
        let there: Vec<u64> =
            (first..=last).filter(|&n| held.get(&epoch).is_some_and(|h| h.contains(n))).collect();
        seen.kept_in_flight = there.len() as u64;
        seen.lost_in_flight = last - first + 1 - seen.kept_in_flight;
        for seq in first..there.last().copied().unwrap_or(first) {
            let is_told = there.contains(&seq) || named.get(&epoch).is_some_and(|n| n.contains(seq));
            ensure!(is_told, "({epoch}, {seq}) is missing before the end of its batch");
        }
        Ok(())
    }

    fn check_nothing_is_missing(
        &self,
        held: &BTreeMap<u64, RangeSet>,
        named: &BTreeMap<u64, RangeSet>,
    ) -> Result<()> {
        let missing = |epoch: &u64, first: u64, last: u64| {
            let sets = [held, named, &self.in_cursor, &self.told, &self.gone].map(|sets| sets.get(epoch));
            let all: RangeSet = sets.into_iter().flatten().flat_map(RangeSet::iter).collect();
            all.holes(first, last).next()
        };
        for (epoch, set) in self.stored.iter().chain(&self.refused) {
            for (first, last) in set.iter() {
                if let Some((f, l)) = missing(epoch, first, last) {
                    bail!("records {f} to {l} of {epoch} are gone, and nothing says so");
                }
            }
        }
        Ok(())
    }

    /// Forgetting one costs a duplicate; inventing one costs the record.
    fn check_acknowledgements(
        &self,
        outbox: &dyn Outbox,
        held: &BTreeMap<u64, RangeSet>,
        seen: &mut Seen,
    ) -> Result<()> {
        let mut owed: BTreeMap<u64, RangeSet> = BTreeMap::new();
        outbox.owed().iter().for_each(|o| owed.entry(o.epoch.0).or_default().insert(o.first.0, o.last.0));
        let has = |sets: &BTreeMap<u64, RangeSet>, epoch: u64, seq: u64| {
            sets.get(&epoch).is_some_and(|set| set.contains(seq))
        };
        for (&epoch, set) in held {
            for seq in set.iter().flat_map(|(first, last)| first..=last) {
                let is_owed = has(&owed, epoch, seq);
                let may_be_done = has(&self.in_cursor, epoch, seq) || has(&self.told, epoch, seq);
                ensure!(is_owed || may_be_done, "({epoch}, {seq}) counts as acknowledged, and nobody did");
                seen.owed_again += u64::from(is_owed && has(&self.acknowledged, epoch, seq));
            }
        }
        Ok(())
    }

    fn check_catalogs(&self, outbox: &mut dyn Outbox) -> Result<()> {
        let mut catalogs = outbox.catalogs();
        for hash in CATALOGS {
            match catalogs.get(CatalogHash(hash))? {
                Some(bytes) => ensure!(bytes == catalog_bytes(hash), "catalog {hash} is another one"),
                None => ensure!(!self.catalogs.contains(&hash), "catalog {hash} is gone"),
            }
        }
        Ok(())
    }
}

fn count(set: &RangeSet) -> u64 {
    set.iter().map(|(first, last)| last - first + 1).sum()
}

/// All that is held, by reading run after run.
///
/// # Errors
/// Of the device.
pub fn read_all(outbox: &mut dyn Outbox) -> Result<Vec<StoredRecord>> {
    let limits = ReadLimits { bytes: 1 << 20, records: 1000 };
    let mut all = Vec::new();
    for held in outbox.held() {
        let mut from = held.first;
        loop {
            let before = all.len();
            outbox.read(held.epoch, from, limits, &mut all)?;
            let Some(last) = all[before..].last() else { break };
            from = last.seq.next();
        }
    }
    Ok(all)
}

/// Takes an essential record at the first position, and gives it back.
fn goes_on(outbox: &mut dyn Outbox) -> Result<()> {
    let made = Made { number: u64::MAX >> 20, len: 100, kind: 1, catalog: 1, is_essential: true };
    let bytes = made.bytes();
    let last = outbox.append(&[made.record(&bytes)])?;
    ensure!(last == Seq(1), "the first record of a new epoch is at {last}");
    let mut out = Vec::new();
    let epoch: Epoch = outbox.epoch();
    outbox.read(epoch, Seq(1), ReadLimits { bytes: 1 << 10, records: 1 }, &mut out)?;
    ensure!(out.len() == 1 && made.is(&out[0]), "the first record of a new epoch does not come back");
    Ok(())
}
