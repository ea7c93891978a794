//! The journal over a disk in memory: at each operation that changes something the disk is forked, the power goes in
//! that very operation on the fork, and what is left there is opened and compared. One run of the workload serves all
//! its cuts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use gapless_agent::outbox::disk::Disk;
use gapless_agent::outbox::memory_disk::{MemoryDisk, PowerCut};
use gapless_agent::outbox::{Journal, Opening, Outbox, StoreKind, StoredRecord};
use gapless_common::id::{BootId, Epoch, Seq};
use gapless_common::quality::Cause;

use super::random::Random;
use super::twin::{Event, Twin, read_all};
use super::workload::{self, Plan};
use super::{Chooser, Extent, MODELS, Model, Tally};

/// Begin of the epochs that checks open with: no workload draws one of them.
const EPOCHS_OF_CHECKS: u64 = 1 << 63;
/// Recoveries of which one is cut, too.
const CUT_AGAIN_ONE_IN: u64 = 4;
/// Operations that a workload makes of the disk for each one of its own, about: for choosing a sample.
const CUTS_PER_OPERATION: u64 = 4;

/// Cuts a workload of so many operations.
///
/// # Errors
/// The workload itself could not run to its end; what a cut finds is in the tally.
pub fn cut(seed: u64, operations: u64, extent: Extent) -> Result<Tally> {
    let possible = operations * CUTS_PER_OPERATION * MODELS.len() as u64;
    let cutter = Arc::new(Mutex::new(Cutter {
        seed,
        chooser: Chooser::new(seed, extent, possible),
        twin: Twin::default(),
        tally: Tally { operations, ..Tally::default() },
    }));
    let disk = CutDisk { disk: MemoryDisk::new(), cutter: cutter.clone() };
    let plan = Plan { operations, seed, budgets: [1 << 20, 3 << 19], store: StoreKind::Journal };
    let done = workload::run(
        plan,
        &mut |options, opening| {
            let (journal, _) = Journal::open(Box::new(disk.clone()), options, opening)?;
            Ok(Box::new(journal))
        },
        &mut |event| lock(&cutter).note(&event),
    )
    .with_context(|| format!("the workload of seed {seed}"))?;
    let mut tally = lock(&cutter).tally.clone();
    tally.count("records handed over", done.records);
    tally.count("openings of the workload", done.openings);
    tally.count("appends refused", done.refused);
    tally.count("losses told of", done.told);
    Ok(tally)
}

fn lock(cutter: &Mutex<Cutter>) -> MutexGuard<'_, Cutter> {
    cutter.lock().unwrap_or_else(PoisonError::into_inner)
}

type Operation<'a> = dyn Fn(&mut MemoryDisk) -> io::Result<()> + 'a;

/// A disk that is cut at each of its operations, and goes on.
#[derive(Clone)]
struct CutDisk {
    disk: MemoryDisk,
    cutter: Arc<Mutex<Cutter>>,
}

impl CutDisk {
    fn cut(&mut self, operation: &Operation<'_>) -> io::Result<()> {
        lock(&self.cutter).cut(&self.disk, operation);
        operation(&mut self.disk)
    }
}

impl Disk for CutDisk {
    fn create(&mut self, name: &str, len: u64) -> io::Result<()> {
        self.cut(&|disk| disk.create(name, len))
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.cut(&|disk| disk.write_at(name, offset, bytes))
    }

    fn read_at(&mut self, name: &str, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(name, offset, into)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.cut(&|disk| disk.sync(name))
    }

    fn sync_directory(&mut self, name: &str) -> io::Result<()> {
        self.cut(&|disk| disk.sync_directory(name))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.cut(&|disk| disk.rename(from, to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.cut(&|disk| disk.remove(name))
    }

    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        self.disk.list()
    }

    fn forget_cache(&mut self, name: &str) {
        self.disk.forget_cache(name);
    }
}

struct Cutter {
    seed: u64,
    chooser: Chooser,
    twin: Twin,
    tally: Tally,
}

impl Cutter {
    fn note(&mut self, event: &Event) -> Result<()> {
        self.twin.apply(event)
    }

    fn cut(&mut self, disk: &MemoryDisk, operation: &Operation<'_>) {
        self.tally.cut_points += 1;
        for model in MODELS {
            if self.chooser.takes(self.tally.cut_points) {
                self.cut_under(model, disk, operation);
            }
        }
    }

    fn cut_under(&mut self, model: Model, disk: &MemoryDisk, operation: &Operation<'_>) {
        let point = self.tally.cut_points;
        let context = format!("journal, seed {}, cut {point}, {model:?}", self.seed);
        let mut random = Random::of(self.seed ^ point, model as u64);
        let mut fork = disk.fork();
        let result = catch_unwind(AssertUnwindSafe(|| -> Result<_> {
            fork.die_at(fork.operations() + 1);
            ensure!(operation(&mut fork).is_err(), "the operation outlived the power");
            fork.restart(power_cut(model), random.next());
            if random.one_in(CUT_AGAIN_ONE_IN) {
                // Once more while it recovers.
                fork.die_at(fork.operations() + random.within(1, 9));
                drop(self.open(&fork, 0));
                fork.restart(power_cut(model), random.next());
            }
            let (mut outbox, found) = self.open(&fork, 1)?;
            let seen = self.twin.check(&mut outbox, &found)?;
            if random.one_in(CUT_AGAIN_ONE_IN) {
                self.opens_again(&fork, outbox)?;
            }
            Ok(seen)
        }));
        *self.tally.images.entry(model).or_default() += 1;
        if let Ok(Ok(seen)) = &result {
            for (what, n) in seen.figures() {
                self.tally.count(what, n);
            }
        }
        self.tally.end(&context, result.map(|done| done.map(drop)));
    }

    fn open(&self, disk: &MemoryDisk, n: u64) -> Result<(Journal, gapless_agent::outbox::Found)> {
        let opening = Opening { epoch: Epoch(EPOCHS_OF_CHECKS + n), boot: BootId(8) };
        Ok(Journal::open(Box::new(disk.clone()), &self.twin.options(), opening)?)
    }

    /// What an opening has found and repaired is the same at the next one, but for a segment that the next one gives up to
    /// have a spare one: of that nothing is owed, or it is named as lost to the budget.
    fn opens_again(&self, disk: &MemoryDisk, mut outbox: Journal) -> Result<()> {
        let before = Account::of(&mut outbox)?;
        drop(outbox);
        let (mut again, found) = self.open(disk, 2)?;
        ensure!(found.report == Default::default(), "the second opening reports {:?}", found.report);
        let after = Account::of(&mut again)?;
        let places = before.held.keys().copied();
        let given_up: BTreeSet<_> = places.filter(|place| !after.held.contains_key(place)).collect();
        for place in &given_up {
            let is_accounted = !before.owed.contains(place) || after.lost.contains_key(place);
            ensure!(is_accounted, "{place:?} is gone at the second opening, and nothing says so");
        }
        let lost: BTreeSet<_> = before.owed.intersection(&given_up).copied().collect();
        let is_same = |(place, record)| before.held.get(place) == Some(record);
        ensure!(after.held.iter().all(is_same), "the second opening gives records that the first did not");
        ensure!(
            after.owed == &before.owed - &given_up,
            "the second opening owes something else than the first"
        );
        let mut named = before.lost;
        named.extend(lost.into_iter().map(|place| (place, Cause::BudgetFull)));
        ensure!(after.lost == named, "the second opening names other losses than the first");
        Ok(())
    }
}

/// What an outbox holds, owes and names as lost, by epoch and position.
struct Account {
    held: BTreeMap<(u64, u64), StoredRecord>,
    owed: BTreeSet<(u64, u64)>,
    lost: BTreeMap<(u64, u64), Cause>,
}

impl Account {
    fn of(outbox: &mut Journal) -> Result<Self> {
        let places = |epoch: Epoch, first: Seq, last: Seq| (first.0..=last.0).map(move |seq| (epoch.0, seq));
        let held =
            read_all(outbox)?.into_iter().map(|record| ((record.epoch.0, record.seq.0), record)).collect();
        let owed = outbox.owed().iter().flat_map(|o| places(o.epoch, o.first, o.last)).collect();
        let losses = outbox.pending_losses();
        let lost = losses.iter().flat_map(|l| places(l.epoch, l.first, l.last).map(|place| (place, l.cause)));
        let lost = lost.collect();
        Ok(Self { held, owed, lost })
    }
}

const fn power_cut(model: Model) -> PowerCut {
    match model {
        Model::Nothing => PowerCut::KeepNothing,
        Model::Prefix => PowerCut::KeepPrefix,
        Model::Sectors => PowerCut::KeepSectors,
        Model::Killed => PowerCut::KeepAll,
    }
}
