//! The agent's use of its outbox: gathers records, appends them in groups, and goes on in memory while the disk
//! has failed.
//!
//! Contract: [`Depot::gather`] records, then [`Depot::commit`]; only what a commit returned may be sent. After an
//! error of the disk a bounded outbox in memory takes over, with an epoch of its own whose start record says that
//! it is not durable; [`Depot::retry`] goes back to the disk and takes along what is still owed. Decides nothing
//! about time: it is told when.
//!
//! Epochs on the disk form a chain: each names the one before it. An epoch in memory stands beside that chain: it
//! names none, and none names it. An epoch of which no record became durable never was.

mod batch;
mod migrate;
mod unset;

use std::collections::BTreeSet;
use std::sync::Arc;

use gapless_common::id::{BootId, CatalogHash, Epoch, Seq};
use gapless_common::message::HeldEpoch;
use gapless_common::planted::{self, Bug};
use gapless_common::reading::{CatalogRecord, ClockCorrection, Downtime, EpochStart, Record};
use gapless_common::time::Timestamp;

use crate::account::{LastRun, correction};
use crate::clock::Now;
use crate::outbox::{
    self, AppendError, Found, Journal, OpenError, Opened, Opening, Options, Outbox, OwedRange, ReadError,
    ReadLimits, Stats, StoredRecord,
};
use crate::text::chain;
use batch::{Batch, Stuck, append_all};
use migrate::{copy, is_gone, is_owed, is_told_again, not_kept, stretches};
use unset::UnsetEpochs;

/// Budget of the outbox in memory, in bytes: some minutes of a busy site, and little beside 256 MB.
const MEMORY_BUDGET_BYTES: u64 = 2 << 20;

/// First and longest wait before the disk is tried again, in ms.
const RETRY_MS: (u64, u64) = (5_000, 300_000);

/// What stays the same for as long as the agent runs.
#[derive(Debug, Clone)]
pub struct Identity {
    /// This start of the machine.
    pub boot: BootId,
    /// The catalog in force.
    pub catalog: CatalogHash,
    /// Its canonical bytes.
    pub catalog_bytes: Box<[u8]>,
}

/// Opens the outbox on the disk, at the start and whenever it is tried again.
pub type Opener = Box<dyn Fn(Opening) -> Result<Opened, OpenError> + Send>;

/// Gives a random number: the operating system's in an agent, one that follows from a seed in the simulation.
pub type Draw = Arc<dyn Fn() -> Result<u64, getrandom::Error> + Send + Sync>;

/// Why the agent cannot keep anything.
#[derive(Debug, thiserror::Error)]
pub enum DepotError {
    /// Neither disk nor memory take an outbox.
    #[error("no outbox can be opened")]
    Open(#[from] OpenError),
    /// The operating system gives no random numbers.
    #[error("no random number: {0}")]
    Random(getrandom::Error),
    /// Not even the outbox in memory takes a record.
    #[error("the outbox in memory takes no record")]
    Memory(#[source] AppendError),
}

/// What a commit made of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Committed {
    /// Weight of the records, for the fill of a frame.
    pub weight: u64,
    /// The epochs held are others than before.
    pub held_changed: bool,
}

/// The agent's outbox; see the module.
pub struct Depot {
    identity: Identity,
    opener: Opener,
    draw: Draw,
    /// Takes records: on the disk, or in memory while the disk has failed.
    store: Box<dyn Outbox>,
    /// The disk's, dead for appending, as long as memory takes its place.
    dead: Option<Box<dyn Outbox>>,
    /// What the disk held when it could last be read, while it cannot be.
    absent: Vec<HeldEpoch>,
    /// Why the disk is not used, and when to try it again.
    failure: Option<Failure>,
    batch: Batch,
    unset: UnsetEpochs,
    dropped_before: u64,
    started: Now,
    /// The disk was open at some time of this run, so that what it held before is known.
    is_found: bool,
    /// How the last run ended, until its downtime is written.
    last_run: Option<LastRun>,
}

/// The disk cannot be used.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The error with its sources.
    pub why: String,
    retry_at_ms: u64,
    wait_ms: u64,
}

impl Depot {
    /// Opens the outbox and writes what opens an epoch; on a failed disk in memory. The agent's slots begin at `now`.
    ///
    /// # Errors
    /// [`DepotError::Open`] where another agent has it, or nothing can be opened.
    pub fn open(identity: Identity, opener: Opener, draw: Draw, now: Now) -> Result<Self, DepotError> {
        let opening = draw_opening(&draw, identity.boot)?;
        let (store, found, failure) = match opener(opening) {
            Ok(opened) => (opened.outbox, Some(opened.found), None),
            Err(e) if is_in_use(&e) => return Err(e.into()),
            Err(e) => {
                let failure = Failure::new(&e, now);
                tracing::error!("the disk has failed, readings are kept in memory only: {}", failure.why);
                (open_in_memory(draw_opening(&draw, identity.boot)?)?, None, Some(failure))
            }
        };
        let mut depot = Self {
            identity,
            opener,
            draw,
            store,
            dead: None,
            absent: Vec::new(),
            failure,
            batch: Batch::default(),
            unset: UnsetEpochs::default(),
            dropped_before: 0,
            started: now,
            is_found: false,
            last_run: None,
        };
        let previous = found.as_ref().and_then(|found| previous(found, depot.store.as_ref()));
        let epoch = (depot.store.epoch(), found.is_some());
        if let Some(found) = found {
            depot.unset.find(depot.store.as_mut(), depot.identity.boot);
            depot.note_last_run(&found);
        }
        depot.gather_start(epoch, previous, now);
        depot.keep_catalogs();
        Ok(depot)
    }

    /// Keeps how the last run ended, from the first opening that succeeds.
    fn note_last_run(&mut self, found: &Found) {
        if !std::mem::replace(&mut self.is_found, true) {
            self.last_run = found.last_durable_at.map(|ended_at| LastRun {
                ended_at,
                clean: found.clean_stop,
                boot: found.boot,
            });
        }
    }

    /// The downtime before this run, once, as soon as it can be dated.
    pub fn take_downtime(&mut self, now: Now) -> Option<Downtime> {
        let run = if now.wall_set { self.last_run.take() } else { None }?;
        Some(run.downtime(self.identity.boot, now.instant_of(self.started)))
    }

    /// Puts a record into the batch.
    pub fn gather(&mut self, record: &Record, at: Timestamp) {
        self.batch.push(record, at);
    }

    /// Whether nothing waits for a commit.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.batch.records.is_empty()
    }

    /// Makes the batch durable, and with it what the outbox has lost since; in memory where the disk fails.
    ///
    /// # Errors
    /// [`DepotError`] where not even memory is left.
    pub fn commit(&mut self, now: Now) -> Result<Committed, DepotError> {
        let mut committed = Committed { weight: self.batch.weight, held_changed: false };
        let is_refused = self.append(now, &mut committed)?;
        let losses = self.store.pending_losses();
        // As long as records are refused their losses grow together where they are durable already: a record of each
        // would soon take the place of what the policy keeps.
        if !losses.is_empty() && !is_refused {
            for loss in losses.iter().filter(|_| !planted::has(Bug::LossNotSent)) {
                self.batch.push(&Record::Loss(*loss), now.wall);
            }
            self.append(now, &mut committed)?;
            if let Err(e) = self.store.losses_recorded(&losses) {
                self.fall_back(&e, now, &mut committed)?;
            }
        }
        let dropped = self.store.stats().dropped_records;
        committed.held_changed |= dropped != self.dropped_before;
        self.dropped_before = dropped;
        Ok(committed)
    }

    /// Appends the batch; `true` where some of it was refused.
    fn append(&mut self, now: Now, committed: &mut Committed) -> Result<bool, DepotError> {
        if self.is_idle() {
            return Ok(false);
        }
        match append_all(self.store.as_mut(), &self.batch.borrow(self.identity.catalog)) {
            Ok(is_refused) => {
                self.batch.clear();
                Ok(is_refused)
            }
            Err(stuck) if self.failure.is_some() => Err(DepotError::Memory(stuck.error)),
            Err(stuck) => {
                self.batch.move_on(stuck.done);
                self.fall_back(&stuck.error, now, committed).map(|()| false)
            }
        }
    }

    /// The disk has failed: goes on in memory, the batch first.
    fn fall_back(
        &mut self,
        error: &dyn std::error::Error,
        now: Now,
        committed: &mut Committed,
    ) -> Result<(), DepotError> {
        let failure = Failure::new(error, now);
        tracing::error!("the disk has failed, readings are kept in memory only: {}", failure.why);
        let memory = open_in_memory(draw_opening(&self.draw, self.identity.boot)?)?;
        self.unset.follow(self.position(), memory.epoch());
        self.dead = Some(std::mem::replace(&mut self.store, memory));
        self.failure = Some(failure);
        let waiting = std::mem::take(&mut self.batch);
        self.gather_start((self.store.epoch(), false), None, now);
        for batch in [std::mem::take(&mut self.batch), waiting] {
            append_all(self.store.as_mut(), &batch.borrow(self.identity.catalog))
                .map_err(|stuck| DepotError::Memory(stuck.error))?;
        }
        committed.held_changed = true;
        Ok(())
    }

    /// When to call [`retry`](Self::retry).
    #[must_use]
    pub fn retry_at_ms(&self) -> Option<u64> {
        self.failure.as_ref().map(|failure| failure.retry_at_ms)
    }

    /// Tries the disk again; `true` where readings are durable from now on.
    ///
    /// # Errors
    /// [`DepotError::Random`].
    pub fn retry(&mut self, now: Now) -> Result<bool, DepotError> {
        let Some(failure) = self.failure.clone() else { return Ok(true) };
        self.stop_reading();
        let opening = draw_opening(&self.draw, self.identity.boot)?;
        let back = (self.opener)(opening)
            .map_err(|e| chain(&e))
            .and_then(|opened| self.take_along(opened, now).map_err(|stuck| chain(&stuck.error)));
        match back {
            Ok(()) => {
                tracing::warn!("the disk takes records again, readings are durable");
                (self.failure, self.absent) = (None, Vec::new());
                Ok(true)
            }
            Err(why) => {
                self.failure = Some(failure.again(why, now));
                Ok(false)
            }
        }
    }

    /// Lets go of a disk that has failed: what it holds can be read again once it is opened again.
    pub fn stop_reading(&mut self) {
        if let Some(dead) = self.dead.take() {
            self.absent = held_durably(dead.as_ref());
        }
    }

    /// Opens an epoch on the disk, and writes there what the one in memory still owes. Its own seqs are given up:
    /// a loss says so, and that the readings are present is what the collector sees.
    fn take_along(&mut self, Opened { outbox: mut disk, found }: Opened, now: Now) -> Result<(), Stuck> {
        if !self.is_found {
            self.unset.find(disk.as_mut(), self.identity.boot);
        }
        self.note_last_run(&found);
        let last_run = self.last_run;
        let waiting = std::mem::take(&mut self.batch);
        let previous = previous(&found, disk.as_ref());
        self.gather_start((disk.epoch(), true), previous, now);
        self.unset.follow(self.position(), disk.epoch());
        let start = std::mem::replace(&mut self.batch, waiting);
        match self.write_along(disk.as_mut(), &start, now) {
            Ok(()) => {
                self.store = disk;
                self.keep_catalogs();
                Ok(())
            }
            Err(stuck) => {
                // What was gathered of it may not be durable: once more next time.
                self.last_run = last_run;
                Err(stuck)
            }
        }
    }

    fn write_along(&mut self, disk: &mut dyn Outbox, start: &Batch, now: Now) -> Result<(), Stuck> {
        let (catalog, owed) = (self.identity.catalog, self.store.owed());
        // Reported where it fails once more, when the catalogs are tidied.
        let _ = disk.catalogs().put(catalog, &self.identity.catalog_bytes);
        append_all(disk, &start.borrow(catalog))?;
        let mut losses = Batch::default();
        for (range, owes) in self.store.held().iter().flat_map(|held| stretches(held, &owed)) {
            let wanted = if owes { is_owed } else { is_told_again };
            let left_out = copy(self.store.as_mut(), disk, range, wanted)?;
            if let Some(time) = left_out.filter(|_| !owes) {
                losses.push(&Record::Loss(is_gone(range, time)), now.wall);
            }
        }
        let given_up = owed.into_iter().map(|range| not_kept(range, now));
        for loss in given_up.chain(self.store.pending_losses()) {
            losses.push(&Record::Loss(loss), now.wall);
        }
        append_all(disk, &losses.borrow(catalog)).map(drop)
    }

    /// What opens `epoch`, which is durable or not.
    fn gather_start(&mut self, (epoch, durable): (Epoch, bool), previous: Option<(Epoch, Seq)>, now: Now) {
        let start = EpochStart {
            previous,
            boot: self.identity.boot,
            boot_clock_ms: now.boot_ms,
            at: now.wall,
            clock_set: now.wall_set,
            durable,
            agent_version: env!("CARGO_PKG_VERSION").into(),
        };
        if !now.wall_set {
            self.unset.mark(epoch);
        }
        self.batch.push(&Record::Start(start), now.wall);
        if let Some(downtime) = self.take_downtime(now) {
            self.batch.push(&Record::Downtime(downtime), now.wall);
        }
        let catalog = CatalogRecord {
            hash: self.identity.catalog,
            since: now.wall_set.then_some(now.wall),
            bytes: self.identity.catalog_bytes.clone(),
        };
        self.batch.push(&Record::Catalog(catalog), now.wall);
    }

    /// Catalogs that a held record needs stay; the one in force is put there before its first record.
    fn keep_catalogs(&mut self) {
        let mut needed: BTreeSet<CatalogHash> = self.store.catalogs_held();
        needed.insert(self.identity.catalog);
        let mut catalogs = self.store.catalogs();
        let kept = catalogs
            .put(self.identity.catalog, &self.identity.catalog_bytes)
            .and_then(|()| catalogs.retain(&needed));
        if let Err(e) = kept {
            tracing::error!("catalogs of the outbox: {}", chain(&e));
        }
    }

    /// What the collector has to be told of readings by the boot clock, as far as it was not; `now` is set. It counts as
    /// told from here on.
    pub fn take_corrections(&mut self, now: Now) -> Vec<ClockCorrection> {
        let (held, boot) = (self.held(), self.identity.boot);
        let taken = self.unset.take(&held, now.boot_began()).into_iter();
        taken.filter_map(|(epoch, seqs, began)| correction(boot, epoch, seqs, began)).collect()
    }

    /// Whether [`take_corrections`](Self::take_corrections) has any.
    #[must_use]
    pub fn has_unset_epochs(&self) -> bool {
        !self.unset.is_empty()
    }

    /// The epoch being written has a reading by the boot clock.
    pub fn mark_unset(&mut self) {
        match self.failure {
            Some(_) => self.unset.mark_in_memory(self.store.epoch()),
            None => self.unset.mark(self.store.epoch()),
        }
    }

    /// Reads records, wherever they are; see [`Outbox::read`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(
        &mut self,
        epoch: Epoch,
        from: Seq,
        limits: ReadLimits,
        out: &mut Vec<StoredRecord>,
    ) -> Result<(), ReadError> {
        self.owner(epoch).read(epoch, from, limits, out)
    }

    /// The collector has these.
    pub fn acknowledge(&mut self, epoch: Epoch, first: Seq, last: Seq) {
        self.owner(epoch).acknowledge(epoch, Seq(0), &[(first, last)]);
    }

    /// Another database speaks: nothing of `epoch` is known to be acknowledged.
    pub fn unacknowledge(&mut self, epoch: Epoch) {
        self.owner(epoch).unacknowledge(epoch, Seq(0));
    }

    fn owner(&mut self, epoch: Epoch) -> &mut dyn Outbox {
        match &mut self.dead {
            Some(dead) if self.store.epoch() != epoch => dead.as_mut(),
            _ => self.store.as_mut(),
        }
    }

    /// Everything held, oldest epoch first, the one being written last.
    #[must_use]
    pub fn held(&self) -> Vec<HeldEpoch> {
        let mut held = self.absent.clone();
        held.extend(self.readable());
        held
    }

    /// Of what is held, that which can be read now.
    #[must_use]
    pub fn readable(&self) -> Vec<HeldEpoch> {
        let mut held = self.dead.as_ref().map(|dead| held_durably(dead.as_ref())).unwrap_or_default();
        held.extend(self.store.held());
        held
    }

    /// What nobody has acknowledged.
    #[must_use]
    pub fn owed(&self) -> Vec<OwedRange> {
        let mut owed = self.dead.as_ref().map(|dead| dead.owed()).unwrap_or_default();
        owed.extend(self.store.owed());
        owed
    }

    /// The time of the first record that nobody has acknowledged; `None` where there is none that can be read.
    pub fn oldest_owed_at(&mut self) -> Option<Timestamp> {
        let first = self.owed().into_iter().next()?;
        let (limits, mut records) = (ReadLimits { bytes: 1, records: 1 }, Vec::new());
        self.read(first.epoch, first.first, limits, &mut records).ok()?;
        records.first().map(|record| record.at)
    }

    /// The canonical bytes of a catalog, where it is kept.
    pub fn catalog(&mut self, hash: CatalogHash) -> Option<Box<[u8]>> {
        if hash == self.identity.catalog {
            return Some(self.identity.catalog_bytes.clone());
        }
        let store = self.dead.as_mut().unwrap_or(&mut self.store);
        store.catalogs().get(hash).ok().flatten().map(Vec::into_boxed_slice)
    }

    /// The catalog in force.
    #[must_use]
    pub const fn catalog_in_force(&self) -> CatalogHash {
        self.identity.catalog
    }

    /// The epoch being written, and the next seq of it.
    #[must_use]
    pub fn position(&self) -> (Epoch, Seq) {
        (self.store.epoch(), self.store.next_seq())
    }

    /// Why records are not durable, where they are not.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Figures of the outbox in use.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.store.stats()
    }

    /// Says goodbye, durably.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn close(&mut self, at: Timestamp) -> Result<(), AppendError> {
        self.store.close(at)
    }
}

impl Failure {
    fn new(error: &dyn std::error::Error, now: Now) -> Self {
        Self { why: chain(error), retry_at_ms: now.boot_ms + RETRY_MS.0, wait_ms: RETRY_MS.0 }
    }

    fn again(self, why: String, now: Now) -> Self {
        let wait_ms = (self.wait_ms * 2).min(RETRY_MS.1);
        Self { why, retry_at_ms: now.boot_ms + wait_ms, wait_ms }
    }
}

/// What a disk that has failed holds; an epoch without a durable record never was.
fn held_durably(dead: &dyn Outbox) -> Vec<HeldEpoch> {
    dead.held().into_iter().filter(|held| held.next > Seq(1)).collect()
}

/// The epoch on the disk that a new one there follows, and its end.
fn previous(found: &Found, disk: &dyn Outbox) -> Option<(Epoch, Seq)> {
    let last = found.previous?;
    if last.1 > Seq(1) {
        return Some(last);
    }
    let held = held_durably(disk).into_iter().filter(|held| held.epoch != disk.epoch());
    held.last().map(|held| (held.epoch, held.next))
}

fn draw_opening(draw: &Draw, boot: BootId) -> Result<Opening, DepotError> {
    let drawn = if planted::has(Bug::ReuseSeq) { 7 } else { draw().map_err(DepotError::Random)? };
    Ok(Opening { epoch: Epoch(drawn), boot })
}

fn open_in_memory(opening: Opening) -> Result<Box<dyn Outbox>, DepotError> {
    let options = Options { budget_bytes: MEMORY_BUDGET_BYTES, ..Options::default() };
    let disk = Box::new(outbox::memory_disk::MemoryDisk::new());
    let (journal, _) = Journal::open(disk, &options, opening)?;
    Ok(Box::new(journal))
}

fn is_in_use(error: &OpenError) -> bool {
    matches!(error, OpenError::Directory(outbox::DirectoryError::Locked(_)))
}

#[cfg(test)]
mod tests;
