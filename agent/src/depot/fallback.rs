//! The depot while its disk has failed: falls back to memory, tries the disk again, and takes along there what memory still
//! owes. When it is tried is decided here, by the time that is told; what is copied is [`super::migrate`]'s business.

use gapless_common::reading::{Loss, Record};

use super::batch::{Batch, Stuck, append_all};
use super::catalogs::{ROOMS_MAX, put_catalog};
use super::migrate::{copy, is_gone, is_owed, is_told_again, left_out, not_kept, stretches};
use super::{Committed, Depot, DepotError, draw_opening, held_durably, previous};
use crate::clock::Now;
use crate::outbox::memory_disk::MemoryDisk;
use crate::outbox::{AppendError, CatalogError, Journal, Opened, Opening, Options, Outbox};
use crate::text::chain;

/// Budget of the outbox in memory, in bytes: some minutes of a busy site, and little beside 256 MB.
pub const MEMORY_BUDGET_BYTES: u64 = 2 << 20;

/// First and longest wait before the disk is tried again, in ms.
const RETRY_MS: (u64, u64) = (5_000, 300_000);

/// The disk cannot be used.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The error with its sources.
    pub why: String,
    retry_at_ms: u64,
    wait_ms: u64,
}

impl Depot {
    /// The disk has failed: goes on in memory, the batch first.
    pub(super) fn fall_back(
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
        // Another one may be in force before the disk is back.
        self.keep_catalogs(now);
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
        self.look_over(disk.as_mut());
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
                self.keep_catalogs(now);
                Ok(())
            }
            Err(stuck) => {
                // What was gathered of it may not be durable: once more next time.
                self.last_run = last_run;
                Err(stuck)
            }
        }
    }

    /// Notes what a disk that was opened again holds.
    fn look_over(&mut self, disk: &mut dyn Outbox) {
        let (memory, boot) = (self.store.epoch(), self.identity.boot);
        if self.is_found {
            self.unset.find_more(disk, &self.absent, (memory, boot));
        } else {
            self.unset.find(disk, boot);
        }
        self.absent = held_durably(disk).into_iter().filter(|held| held.epoch != disk.epoch()).collect();
    }

    fn write_along(&mut self, disk: &mut dyn Outbox, start: &Batch, now: Now) -> Result<(), Stuck> {
        let (catalog, owed) = (self.identity.catalog, self.store.owed());
        // Reported where it fails once more, when the catalogs are tidied.
        let _ = put_catalog(disk, (catalog, &self.identity.catalog_bytes), ROOMS_MAX);
        self.take_catalogs_along(disk)?;
        append_all(disk, &start.borrow(catalog))?;
        // What it has found lost explains slots that the rest declares.
        let (found, mut told) = (disk.pending_losses(), Batch::default());
        told.push_losses(&found, now.wall);
        if !append_all(disk, &told.borrow(catalog))? {
            disk.losses_recorded(&found).map_err(|error| Stuck { error, done: 0 })?;
        }
        let held = self.store.held();
        let stretches: Vec<_> = held.iter().flat_map(|held| stretches(held, &owed)).collect();
        // Before what declares their slots: the power may go between the two.
        let mut gone = Batch::default();
        for (range, _) in stretches.iter().filter(|(_, owes)| !owes) {
            if let Some(time) = left_out(self.store.as_mut(), *range, is_told_again, now)? {
                gone.push(&Record::Loss(is_gone(*range, time)), now.wall);
            }
        }
        append_all(disk, &gone.borrow(catalog))?;
        for (range, owes) in stretches {
            copy(self.store.as_mut(), disk, range, if owes { is_owed } else { is_told_again })?;
        }
        let given_up = owed.into_iter().map(|range| not_kept(range, now));
        let rest: Vec<Loss> = given_up.chain(self.store.pending_losses()).collect();
        let mut told = Batch::default();
        told.push_losses(&rest, now.wall);
        append_all(disk, &told.borrow(catalog)).map(drop)
    }

    /// What was in force in the meantime: records that are taken along cannot be read without it.
    fn take_catalogs_along(&mut self, disk: &mut dyn Outbox) -> Result<(), Stuck> {
        for hash in self.store.catalogs_held() {
            let Ok(Some(bytes)) = self.store.catalogs().get(hash) else {
                tracing::error!(
                    ?hash,
                    "a catalog is not in memory: the collector cannot read the records that name it"
                );
                continue;
            };
            put_catalog(disk, (hash, &bytes), ROOMS_MAX).map_err(|error| {
                let error = match error {
                    CatalogError::Io { source, .. } => AppendError::Io { action: "write a catalog", source },
                    CatalogError::Damaged(_) => AppendError::Unusable,
                };
                Stuck { error, done: 0 }
            })?;
        }
        Ok(())
    }

    /// Why records are not durable, where they are not.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }
}

impl Failure {
    pub(super) fn new(error: &dyn std::error::Error, now: Now) -> Self {
        Self { why: chain(error), retry_at_ms: now.boot_ms + RETRY_MS.0, wait_ms: RETRY_MS.0 }
    }

    fn again(self, why: String, now: Now) -> Self {
        let wait_ms = (self.wait_ms * 2).min(RETRY_MS.1);
        Self { why, retry_at_ms: now.boot_ms + wait_ms, wait_ms }
    }
}

/// An outbox that lasts as long as the process.
pub(super) fn open_in_memory(opening: Opening) -> Result<Box<dyn Outbox>, DepotError> {
    let options = Options { budget_bytes: MEMORY_BUDGET_BYTES, ..Options::default() };
    let disk = Box::new(MemoryDisk::new());
    let (journal, _) = Journal::open(disk, &options, opening)?;
    Ok(Box::new(journal))
}
