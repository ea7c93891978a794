//! A [`Disk`] in memory for tests and simulation: it loses power at any operation, fills up, fails writes and syncs,
//! turns read-only, is slow, refuses to read a page, rots, is replaced.
//!
//! What it simulates: writes that no sync has forced may be there after a power cut wholly, not at all, up to some
//! byte, or as any subset of 512-byte sectors, a file's length with them; the operation that the power is cut in may
//! have been done or not; names are durable after a sync of their directory only; after a failed sync the cache shows
//! what the device has lost. What it does not: reordering across a sync, a device that lies about syncs, sectors torn
//! within, blocks that lose their allocation. Time does not pass in here: how long an operation would have taken is summed
//! up for whoever makes it pass ([`take_stalled_ms`](MemoryDisk::take_stalled_ms)).
//!
//! `files` holds what is on it. Here operations are counted and faults are met. Faults of the medium last until they
//! are cleared or the card is replaced ([`wipe`](MemoryDisk::wipe), [`restore`](MemoryDisk::restore)), over a power cut
//! too; those that are set for one operation end with it, or with the power cut before it.

mod files;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use self::files::{Files, Random};
use super::disk::Disk;

/// What is left of writes that no sync had forced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerCut {
    /// Nothing.
    KeepNothing,
    /// All of it: the process was killed, the machine was not.
    KeepAll,
    /// A prefix, to the byte, of all writes in their order.
    KeepPrefix,
    /// Any sectors of any writes.
    KeepSectors,
}

/// How slow a device is, as cards are that tidy up: each sync, and now and then a write, takes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slowness {
    /// The least and the longest time of such an operation, in ms.
    pub takes_ms: (u64, u64),
    /// One in so many writes has to wait as a sync does.
    pub writes_one_in: u64,
    /// What each operation takes is drawn from it.
    pub seed: u64,
}

/// A slow device at work.
#[derive(Debug)]
struct Stall {
    slowness: Slowness,
    random: Random,
}

impl Stall {
    fn draw_ms(&mut self) -> u64 {
        let (least, longest) = self.slowness.takes_ms;
        least + self.random.below(longest.saturating_sub(least) + 1)
    }
}

/// What the device refuses.
#[derive(Debug, Default)]
struct Faults {
    dies_at: Option<u64>,
    write_fails_at: Option<u64>,
    sync_fails_at: Option<u64>,
    fails_writes: bool,
    fails_syncs: bool,
    is_read_only: bool,
    stall: Option<Stall>,
}

#[derive(Debug, Default)]
struct Machine {
    files: Files,
    faults: Faults,
    operations: u64,
    /// What operations took since it was asked last.
    stalled_ms: u64,
    capacity: Option<u64>,
    /// Something found no room, or failed as one operation was to, since it was asked last.
    has_refused: bool,
    has_failed: bool,
    is_dead: bool,
}

/// Whether the power lasts to the end of an operation.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Whole,
    /// It is cut in it: what the operation did is up to the cut.
    Cut,
}

impl Step {
    fn end(self) -> io::Result<()> {
        if self == Self::Cut { Err(power_cut()) } else { Ok(()) }
    }
}

/// Handle to a disk in memory; clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    machine: Arc<Mutex<Machine>>,
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Operations that change something, so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// In the operation with this number the power goes; it and all after it fail.
    pub fn die_at(&self, operation: u64) {
        self.lock().faults.dies_at = Some(operation);
    }

    /// The write (or making of a file) with this operation number fails with `EIO`.
    pub fn fail_write_at(&self, operation: u64) {
        self.lock().faults.write_fails_at = Some(operation);
    }

    /// Every write, and making a file, fails with `EIO` until this is cleared.
    pub fn fail_writes(&self, fails: bool) {
        self.lock().faults.fails_writes = fails;
    }

    /// The sync with this operation number fails with `EIO`, and what it should have forced is lost.
    pub fn fail_sync_at(&self, operation: u64) {
        self.lock().faults.sync_fails_at = Some(operation);
    }

    /// Every sync fails with `EIO`, and what it should have forced is lost, until this is cleared.
    pub fn fail_syncs(&self, fails: bool) {
        self.lock().faults.fails_syncs = fails;
    }

    /// Everything that would change something, a sync included, fails with `EROFS` until this is cleared, as on a file
    /// system that has met an error.
    pub fn set_read_only(&self, is_read_only: bool) {
        self.lock().faults.is_read_only = is_read_only;
    }

    /// It is slow until this is cleared.
    pub fn slow_down(&self, slowness: Option<Slowness>) {
        let stall = slowness.map(|slowness| Stall { slowness, random: Random::new(slowness.seed) });
        self.lock().faults.stall = stall;
    }

    /// How long operations have taken since this was asked last, in ms: time that the caller has to let pass.
    #[must_use]
    pub fn take_stalled_ms(&self) -> u64 {
        std::mem::take(&mut self.lock().stalled_ms)
    }

    /// Whether anything has found no room since this was asked last.
    #[must_use]
    pub fn take_refused(&self) -> bool {
        std::mem::take(&mut self.lock().has_refused)
    }

    /// Whether the one operation that was to fail has failed since this was asked last.
    #[must_use]
    pub fn take_failed(&self) -> bool {
        std::mem::take(&mut self.lock().has_failed)
    }

    /// Files take at most `bytes` together from now on.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// The power comes back: what is left is decided by `cut`, and by `seed` where it leaves a choice.
    pub fn restart(&self, cut: PowerCut, seed: u64) {
        let machine = &mut *self.lock();
        machine.files.cut(cut, &mut Random::new(seed));
        (machine.is_dead, machine.stalled_ms) = (false, 0);
        let faults = &mut machine.faults;
        (faults.dies_at, faults.write_fails_at, faults.sync_fails_at) = (None, None, None);
    }

    /// An empty card takes the place of this one: nothing is on it, and it has no faults.
    pub fn wipe(&self) {
        self.replace(Files::default());
    }

    /// A card with the contents of `image` takes the place of this one, without faults: an old image was put back.
    pub fn restore(&self, image: &Self) {
        let files = image.lock().files.copy();
        self.replace(files);
    }

    fn replace(&self, files: Files) {
        let machine = &mut *self.lock();
        (machine.files, machine.faults, machine.is_dead) = (files, Faults::default(), false);
    }

    /// The contents of a file as the device has them.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        self.lock().files.durable(name)
    }

    /// Changes the contents of a file behind everyone's back, as bit rot does.
    pub fn set_contents(&self, name: &str, bytes: &[u8]) {
        self.lock().files.set_contents(name, bytes);
    }

    /// Flips one bit on the device, of a file and at a place that `seed` draws, each as likely as any other; returns
    /// the file and the bit's number in it, `None` where there is nothing on the disk.
    pub fn flip_bit(&self, seed: u64) -> Option<(String, u64)> {
        self.lock().files.flip_bit(&mut Random::new(seed))
    }

    /// The page of the file that `offset` lies in cannot be read, nor written in part, until it is written whole.
    pub fn fail_reads(&self, name: &str, offset: u64) {
        self.lock().files.fail_reads(name, offset);
    }

    /// Another disk in the very state of this one, what no sync has forced included, without faults: what would have
    /// come of it if the power had gone now.
    #[must_use]
    pub fn fork(&self) -> Self {
        let machine = self.lock();
        let (files, operations) = (machine.files.clone(), machine.operations);
        let fork = Machine { files, operations, ..Machine::default() };
        Self { machine: Arc::new(Mutex::new(fork)) }
    }

    /// Another disk with the same contents and bad pages, and no other fault: an image of this one.
    #[must_use]
    pub fn copy(&self) -> Self {
        let copy = Machine { files: self.lock().files.copy(), ..Machine::default() };
        Self { machine: Arc::new(Mutex::new(copy)) }
    }
}

fn power_cut() -> io::Error {
    io::Error::other("power cut")
}

impl Machine {
    /// Begins an operation that changes something.
    fn step(&mut self) -> io::Result<Step> {
        self.alive()?;
        self.operations += 1;
        self.is_dead = self.faults.dies_at.is_some_and(|at| self.operations >= at);
        if self.faults.is_read_only {
            return Err(Errno::ROFS.into());
        }
        Ok(if self.is_dead { Step::Cut } else { Step::Whole })
    }

    /// A sync takes its time, whatever comes of it.
    fn wait_for_sync(&mut self) {
        if let Some(stall) = &mut self.faults.stall {
            self.stalled_ms += stall.draw_ms();
        }
    }

    fn wait_for_write(&mut self) {
        if let Some(stall) = &mut self.faults.stall
            && stall.random.below(stall.slowness.writes_one_in) == 0
        {
            self.stalled_ms += stall.draw_ms();
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.is_dead { Err(power_cut()) } else { Ok(()) }
    }

    fn check_write(&mut self) -> io::Result<()> {
        let fails_once = self.faults.write_fails_at == Some(self.operations);
        self.has_failed |= fails_once;
        if self.faults.fails_writes || fails_once { Err(Errno::IO.into()) } else { Ok(()) }
    }

    fn sync_fails(&mut self) -> bool {
        let fails_once = self.faults.sync_fails_at == Some(self.operations);
        self.has_failed |= fails_once;
        self.faults.fails_syncs || fails_once
    }

    fn check_room(&mut self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if more > 0 && self.files.bytes() + more > capacity => {
                self.has_refused = true;
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

impl Disk for MemoryDisk {
    fn create(&mut self, name: &str, len: u64) -> io::Result<()> {
        let machine = &mut *self.lock();
        let step = machine.step()?;
        machine.check_write()?;
        machine.check_room(len)?;
        machine.files.create(name, len);
        machine.wait_for_sync();
        if step == Step::Whole {
            machine.files.sync(name)?;
            machine.files.sync_names(name);
        }
        step.end()
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let machine = &mut *self.lock();
        let step = machine.step()?;
        machine.wait_for_write();
        machine.check_write()?;
        let growth = machine.files.growth(name, offset, bytes.len())?;
        machine.check_room(growth)?;
        machine.files.write(name, offset, bytes)?;
        step.end()
    }

    fn read_at(&mut self, name: &str, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let machine = self.lock();
        machine.alive()?;
        machine.files.read(name, offset, into)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let machine = &mut *self.lock();
        let step = machine.step()?;
        machine.wait_for_sync();
        if machine.sync_fails() {
            machine.files.lose_unsynced(name)?;
            return Err(Errno::IO.into());
        }
        if step == Step::Whole {
            machine.files.sync(name)?;
        }
        step.end()
    }

    fn sync_directory(&mut self, name: &str) -> io::Result<()> {
        let machine = &mut *self.lock();
        let step = machine.step()?;
        machine.wait_for_sync();
        if machine.sync_fails() {
            return Err(Errno::IO.into());
        }
        if step == Step::Whole {
            machine.files.sync_names(name);
        }
        step.end()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let machine = &mut *self.lock();
        let step = machine.step()?;
        machine.files.rename(from, to)?;
        step.end()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let machine = &mut *self.lock();
        let step = machine.step()?;
        machine.files.remove(name)?;
        step.end()
    }

    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let machine = self.lock();
        machine.alive()?;
        Ok(machine.files.list())
    }

    fn forget_cache(&mut self, name: &str) {
        self.lock().files.forget_cache(name);
    }
}
