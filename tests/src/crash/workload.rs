//! A thousand operations on an outbox: appends of all sizes and kinds, acknowledgements that come, stay away, come back
//! and are taken back, losses under a small budget, catalogs, goodbyes and crashes of the process, both policies.
//!
//! Drawn from a seed and from what the outbox says; says everything it does as [`Event`]s.

use anyhow::{Result, ensure};
use gapless_agent::outbox::{AppendError, DropPolicy, OpenError, Opening, Options, Outbox, StoreKind};
use gapless_common::id::{BootId, CatalogHash, Epoch, Seq};
use gapless_common::ranges::RangeSet;

use super::random::Random;
use super::twin::{CATALOGS, Event, Made, catalog_bytes, time};

/// How a workload opens its outbox.
pub type Open<'a> = dyn FnMut(&Options, Opening) -> Result<Box<dyn Outbox>, OpenError> + 'a;

/// What kind of a workload.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Operations.
    pub operations: u64,
    /// Its chance.
    pub seed: u64,
    /// Budgets to choose from at each opening.
    pub budgets: [u64; 2],
    /// Which implementation.
    pub store: StoreKind,
}

/// What came of it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Done {
    /// Records handed over.
    pub records: u64,
    /// Openings.
    pub openings: u64,
    /// Appends that were refused, all or in part.
    pub refused: u64,
    /// Losses told of.
    pub told: u64,
}

struct Worker<'a> {
    plan: Plan,
    random: Random,
    open: &'a mut Open<'a>,
    note: &'a mut dyn FnMut(Event) -> Result<()>,
    next_number: u64,
    catalog: u64,
    done: Done,
}

/// Runs it to its end.
///
/// # Errors
/// Whatever the outbox refuses but a full budget.
pub fn run<'a>(
    plan: Plan,
    open: &'a mut Open<'a>,
    note: &'a mut dyn FnMut(Event) -> Result<()>,
) -> Result<Done> {
    let random = Random::new(plan.seed);
    let mut worker = Worker { plan, random, open, note, next_number: 1, catalog: 1, done: Done::default() };
    let mut outbox = worker.open()?;
    for step in 0..plan.operations {
        outbox = worker.step(step, outbox)?;
    }
    worker.close(outbox.as_mut())?;
    Ok(worker.done)
}

impl Worker<'_> {
    fn open(&mut self) -> Result<Box<dyn Outbox>> {
        let policy = self.random.pick(&[DropPolicy::OldestFirst, DropPolicy::NewestFirst]);
        let budget_bytes = self.random.pick(&self.plan.budgets);
        let options = Options { budget_bytes, policy, store: self.plan.store };
        // Without order, as those of the product.
        let epoch = self.random.next() >> 1;
        let drops_newest = policy == DropPolicy::NewestFirst;
        (self.note)(Event::Opening { epoch, budget_bytes, drops_newest })?;
        self.done.openings += 1;
        let mut outbox = (self.open)(&options, Opening { epoch: Epoch(epoch), boot: BootId(7) })?;
        self.put_catalog(outbox.as_mut())?;
        Ok(outbox)
    }

    fn step(&mut self, step: u64, mut outbox: Box<dyn Outbox>) -> Result<Box<dyn Outbox>> {
        // The collector is there, is away for long, comes back.
        let is_there = !(60..200).contains(&(step % 250));
        match self.random.below(100) {
            0..62 => self.append(outbox.as_mut())?,
            62..82 if is_there => self.acknowledge(outbox.as_mut())?,
            82..84 if is_there => self.unacknowledge(outbox.as_mut())?,
            84..90 => self.tell(outbox.as_mut())?,
            90..93 => {
                self.catalog = self.random.within(*CATALOGS.start(), *CATALOGS.end());
                self.put_catalog(outbox.as_mut())?;
            }
            93..95 => self.retain(outbox.as_mut())?,
            95..97 => {
                if self.random.one_in(2) {
                    self.close(outbox.as_mut())?;
                }
                drop(outbox);
                return self.open();
            }
            _ => self.append(outbox.as_mut())?,
        }
        Ok(outbox)
    }

    fn make(&mut self, len: usize, kind: u8, is_essential: bool) -> Made {
        let number = self.next_number;
        self.next_number += 1;
        self.done.records += 1;
        Made { number, len, kind, catalog: self.catalog, is_essential }
    }

    fn append(&mut self, outbox: &mut dyn Outbox) -> Result<()> {
        let count = if self.random.one_in(20) { 60 } else { self.random.within(1, 9) };
        let len = self.random.pick(&[0, 1, 90, 90, 300, 900, 2000, 4000]);
        let len = if self.random.one_in(60) { 30_000 } else { len };
        let count = if len > 4000 { 1 } else { count };
        let batch: Vec<Made> = (0..count)
            .map(|_| {
                let (kind, is_essential) = (self.random.pick(&[2, 3, 4]), self.random.one_in(12));
                self.make(len, kind, is_essential)
            })
            .collect();
        self.hand_over(outbox, &batch)
    }

    fn hand_over(&mut self, outbox: &mut dyn Outbox, batch: &[Made]) -> Result<()> {
        let first = outbox.next_seq().0;
        (self.note)(Event::Appending { epoch: outbox.epoch().0, first, batch: batch.to_vec() })?;
        let bytes: Vec<_> = batch.iter().map(Made::bytes).collect();
        let records: Vec<_> = batch.iter().zip(&bytes).map(|(made, bytes)| made.record(bytes)).collect();
        match outbox.append(&records) {
            Ok(last) => {
                ensure!(
                    last.0 == first + batch.len() as u64 - 1,
                    "a batch of {} ends at {last}",
                    batch.len()
                );
                (self.note)(Event::Appended)
            }
            Err(AppendError::Refused { first, .. }) => {
                self.done.refused += 1;
                (self.note)(Event::Refused(first.0))
            }
            Err(e) => Err(e.into()),
        }
    }

    fn acknowledge(&mut self, outbox: &mut dyn Outbox) -> Result<()> {
        let owed = outbox.owed();
        if owed.is_empty() {
            return Ok(());
        }
        // Live first: the newest run, or any of the backlog.
        let range = if self.random.one_in(2) { owed[owed.len() - 1] } else { self.random.pick(&owed) };
        let (first, last) = (range.first.0, range.last.0);
        let end = self.random.within(first, last);
        let ranges = if self.random.one_in(3) {
            vec![(self.random.within(first, end), end)]
        } else {
            vec![(first, end)]
        };
        outbox.acknowledge(
            range.epoch,
            Seq(0),
            &ranges.iter().map(|&(f, l)| (Seq(f), Seq(l))).collect::<Vec<_>>(),
        );
        (self.note)(Event::Acknowledged(range.epoch.0, ranges))
    }

    fn unacknowledge(&mut self, outbox: &mut dyn Outbox) -> Result<()> {
        let held = outbox.held();
        let held = self.random.pick(&held);
        let watermark = self.random.within(held.first.0.saturating_sub(1), held.next.0);
        outbox.unacknowledge(held.epoch, Seq(watermark));
        let owed = outbox.owed();
        let owed = owed.iter().filter(|range| range.epoch == held.epoch);
        let there: RangeSet = owed.map(|range| (range.first.0, range.last.0)).collect();
        let gone = there.holes(watermark + 1, held.next.0.saturating_sub(1)).collect();
        (self.note)(Event::Unacknowledged { epoch: held.epoch.0, watermark, gone })
    }

    fn tell(&mut self, outbox: &mut dyn Outbox) -> Result<()> {
        let losses = outbox.pending_losses();
        if losses.is_empty() {
            return Ok(());
        }
        let batch: Vec<Made> = losses.iter().map(|_| self.make(40, 9, true)).collect();
        self.hand_over(outbox, &batch)?;
        outbox.losses_recorded(&losses)?;
        self.done.told += losses.len() as u64;
        (self.note)(Event::Told(losses.iter().map(|l| (l.epoch.0, l.first.0, l.last.0)).collect()))
    }

    fn put_catalog(&mut self, outbox: &mut dyn Outbox) -> Result<()> {
        outbox.catalogs().put(CatalogHash(self.catalog), &catalog_bytes(self.catalog))?;
        (self.note)(Event::Catalog(self.catalog))
    }

    fn retain(&mut self, outbox: &mut dyn Outbox) -> Result<()> {
        let mut needed = outbox.catalogs_held();
        needed.insert(CatalogHash(self.catalog));
        (self.note)(Event::Retaining(needed.iter().map(|hash| hash.0).collect()))?;
        Ok(outbox.catalogs().retain(&needed)?)
    }

    fn close(&mut self, outbox: &mut dyn Outbox) -> Result<()> {
        (self.note)(Event::Closing)?;
        outbox.close(time(self.next_number))?;
        (self.note)(Event::Closed)
    }
}
