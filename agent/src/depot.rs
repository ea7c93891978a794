//! The agent's use of its outbox: gathers records, appends them in groups, opens its epochs, and says what is held and
//! owed, on the disk and in memory.
//!
//! Contract: [`Depot::gather`] records, then [`Depot::commit`]; only what a commit returned may be sent. After an
//! error of the disk a bounded outbox in memory takes over (`fallback`), with an epoch of its own whose start record
//! says that it is not durable; [`Depot::retry`] goes back to the disk and takes along what is still owed. Reads no
//! clock: it is told the time.
//!
//! Epochs on the disk form a chain: each names the one before it. An epoch in memory stands beside that chain: it
//! names none, and none names it. An epoch of which no record became durable never was.

mod batch;
mod catalogs;
mod fallback;
mod migrate;
mod unset;

use std::sync::Arc;

use gapless_common::id::{BootId, CatalogHash, Epoch, Seq};
use gapless_common::message::HeldEpoch;
use gapless_common::planted::{self, Bug};
use gapless_common::reading::{ClockCorrection, Downtime, EpochStart, Record};
use gapless_common::time::{SlotGrid, Timestamp};
use gapless_common::wire::decode_catalog;

use crate::account::{LastRun, correction};
use crate::clock::Now;
use crate::outbox::{
    self, AppendError, Found, OpenError, Opened, Opening, Outbox, OwedRange, ReadError, ReadLimits, Stats,
    StoredRecord,
};
use batch::{Batch, append_all, begin_of};
use fallback::open_in_memory;
pub use fallback::{Failure, MEMORY_BUDGET_BYTES};
use unset::UnsetEpochs;

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
    /// Catalogs for which there was no room yet beside their records.
    unkept: Vec<(CatalogHash, Box<[u8]>)>,
    /// When they are tried again, by the machine's clock.
    keep_again_at_ms: u64,
    /// The slots of the devices of the catalog in force.
    grids: Vec<SlotGrid>,
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
    /// Where the record of the catalog in force stands.
    catalog_at: Option<(Epoch, Seq)>,
    started: Now,
    /// When the catalog in force came into force in this run: on the disk and in memory alike, slots are due from then on.
    in_force_from: Now,
    /// The disk was open at some time of this run, so that what it held before is known.
    is_found: bool,
    /// How the last run ended, until its downtime is written.
    last_run: Option<LastRun>,
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
            unkept: Vec::new(),
            keep_again_at_ms: 0,
            grids: grids_of(&identity),
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
            catalog_at: None,
            started: now,
            in_force_from: now,
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
        depot.keep_catalogs(now);
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
        let from = begin_of(record, &self.grids, at);
        self.batch.push_from(record, (from, at));
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
        if !self.unkept.is_empty() && self.failure.is_none() && now.boot_ms >= self.keep_again_at_ms {
            self.keep_catalogs(now);
        }
        let mut committed = Committed { weight: self.batch.weight, held_changed: false };
        let is_refused = self.append(now, &mut committed)?;
        let losses = self.store.pending_losses();
        // As long as records are refused their losses grow together where they are durable already: a record of each
        // would soon take the place of what the policy keeps.
        if !losses.is_empty() && !is_refused {
            self.batch.push_losses(&losses, now.wall);
            let is_refused = self.append(now, &mut committed)?;
            // A record of a loss that was refused itself tells nobody.
            if !is_refused && let Err(e) = self.store.losses_recorded(&losses) {
                self.fall_back(&e, now, &mut committed)?;
            }
        }
        if !is_refused && self.is_catalog_gone() {
            self.gather_catalog(now);
            self.append(now, &mut committed)?;
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
                if let Some(behind) = self.batch.behind_catalog() {
                    // Counted from the end: what was given up before it took no seq.
                    let seq = Seq(self.store.next_seq().0.saturating_sub(behind + 1));
                    self.catalog_at = (!is_refused).then(|| (self.store.epoch(), seq));
                }
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
        self.gather_catalog(now);
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

    /// The epoch being written, and the next seq of it.
    #[must_use]
    pub fn position(&self) -> (Epoch, Seq) {
        (self.store.epoch(), self.store.next_seq())
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

/// When the devices of the catalog are due; a catalog that does not decode is none of ours.
fn grids_of(identity: &Identity) -> Vec<SlotGrid> {
    let catalog = decode_catalog(&identity.catalog_bytes).map(|(_, catalog)| catalog);
    catalog.map(|catalog| catalog.devices.iter().map(|device| device.grid).collect()).unwrap_or_default()
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

fn is_in_use(error: &OpenError) -> bool {
    matches!(error, OpenError::Directory(outbox::DirectoryError::Locked(_)))
}

#[cfg(test)]
mod tests;
