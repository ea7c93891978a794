//! A [`Disk`] in memory for tests and simulation: it loses power at any operation, fills up, fails a sync, and refuses
//! to read a page.
//!
//! What it simulates: writes that no sync has forced may be there after a power cut wholly, not at all, up to some
//! byte, or as any subset of 512-byte sectors; names are durable after a sync of the directory only; after a failed
//! sync the cache shows what the device has lost. What it does not: reordering across a sync, a device that lies about
//! syncs, sectors torn within.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::Disk;
use super::{to_u64, to_usize};

/// Unit that a device writes whole.
const SECTOR_BYTES: usize = 512;
/// Unit that a reader is refused.
const PAGE_BYTES: usize = 4096;

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

#[derive(Debug, Default)]
struct Inode {
    /// What the device has.
    durable: Vec<u8>,
    /// What a reader sees.
    cached: Vec<u8>,
    /// What was written since the last sync.
    unsynced: Vec<(usize, Vec<u8>)>,
    /// Pages that the device will not give until they are written whole.
    bad_pages: BTreeSet<usize>,
}

#[derive(Debug, Default)]
struct Machine {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    operations: u64,
    dies_at: Option<u64>,
    sync_fails_at: Option<u64>,
    capacity: Option<u64>,
    is_dead: bool,
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

    /// The operation with this number, and all after it, fail: the power is gone.
    pub fn die_at(&self, operation: u64) {
        self.lock().dies_at = Some(operation);
    }

    /// The sync with this operation number fails, and what it should have forced is lost.
    pub fn fail_sync_at(&self, operation: u64) {
        self.lock().sync_fails_at = Some(operation);
    }

    /// Files take at most `bytes` together from now on.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// The power comes back: what is left is decided by `cut`, and by `seed` where it leaves a choice.
    pub fn restart(&self, cut: PowerCut, seed: u64) {
        let machine = &mut *self.lock();
        let mut random = Random(seed | 1);
        if cut == PowerCut::KeepNothing || (cut != PowerCut::KeepAll && random.next().is_multiple_of(2)) {
            machine.names = machine.durable_names.clone();
        }
        machine.durable_names = machine.names.clone();
        let unsynced: usize = machine.inodes.iter().flat_map(|i| &i.unsynced).map(|(_, b)| b.len()).sum();
        let mut budget = to_usize(random.next() % (to_u64(unsynced) + 1));
        for inode in &mut machine.inodes {
            for (offset, bytes) in std::mem::take(&mut inode.unsynced) {
                inode.keep(cut, (offset, &bytes), &mut budget, &mut random);
            }
            inode.cached = inode.durable.clone();
        }
        (machine.is_dead, machine.dies_at, machine.sync_fails_at) = (false, None, None);
    }

    /// The contents of a file as the device has them.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let machine = self.lock();
        machine.names.get(name).map(|&i| machine.inodes[i].durable.clone())
    }

    /// Changes the contents of a file behind everyone's back, as bit rot does.
    pub fn set_contents(&self, name: &str, bytes: &[u8]) {
        let machine = &mut *self.lock();
        if let Some(&i) = machine.names.get(name) {
            machine.inodes[i].durable = bytes.to_vec();
            machine.inodes[i].cached = bytes.to_vec();
        }
    }

    /// The page of the file that `offset` lies in cannot be read, nor written in part, until it is written whole.
    pub fn fail_reads(&self, name: &str, offset: u64) {
        let machine = &mut *self.lock();
        if let Ok(inode) = machine.inode(name) {
            inode.bad_pages.insert(to_usize(offset) / PAGE_BYTES);
        }
    }

    /// Another disk with the same contents.
    #[must_use]
    pub fn copy(&self) -> Self {
        let machine = self.lock();
        let inodes = machine.inodes.iter().map(|inode| Inode {
            durable: inode.cached.clone(),
            cached: inode.cached.clone(),
            unsynced: Vec::new(),
            bad_pages: inode.bad_pages.clone(),
        });
        let copy = Machine {
            inodes: inodes.collect(),
            names: machine.names.clone(),
            durable_names: machine.names.clone(),
            ..Machine::default()
        };
        Self { machine: Arc::new(Mutex::new(copy)) }
    }
}

impl Inode {
    /// Fails where a bad page lies in `begin..end`; as a write (`is_write`), where it does not cover all of it.
    fn check_pages(&self, begin: usize, end: usize, is_write: bool) -> io::Result<()> {
        let is_hit = |page: usize| {
            let (from, to) = (page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
            let is_covered = begin <= from && to <= end;
            begin < to && from < end && !(is_write && is_covered)
        };
        if self.bad_pages.iter().any(|&page| is_hit(page)) {
            Err(rustix::io::Errno::IO.into())
        } else {
            Ok(())
        }
    }

    fn keep(
        &mut self,
        cut: PowerCut,
        (offset, bytes): (usize, &[u8]),
        budget: &mut usize,
        random: &mut Random,
    ) {
        match cut {
            PowerCut::KeepNothing => {}
            PowerCut::KeepAll => write(&mut self.durable, offset, bytes),
            PowerCut::KeepPrefix => {
                let kept = bytes.len().min(*budget);
                *budget -= kept;
                write(&mut self.durable, offset, &bytes[..kept]);
            }
            PowerCut::KeepSectors => {
                let mut at = 0;
                while at < bytes.len() {
                    let end = bytes.len().min(at + SECTOR_BYTES - (offset + at) % SECTOR_BYTES);
                    if random.next().is_multiple_of(2) {
                        write(&mut self.durable, offset + at, &bytes[at..end]);
                    }
                    at = end;
                }
            }
        }
    }
}

fn write(contents: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    if contents.len() < offset + bytes.len() {
        contents.resize(offset + bytes.len(), 0);
    }
    contents[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Machine {
    fn step(&mut self) -> io::Result<()> {
        self.operations += 1;
        self.is_dead |= self.dies_at.is_some_and(|at| self.operations >= at);
        self.alive()
    }

    fn alive(&self) -> io::Result<()> {
        if self.is_dead { Err(io::Error::other("power cut")) } else { Ok(()) }
    }

    fn inode(&mut self, name: &str) -> io::Result<&mut Inode> {
        let index = *self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(&mut self.inodes[index])
    }

    fn check_room(&self, more: u64) -> io::Result<()> {
        let used: usize = self.names.values().map(|&i| self.inodes[i].cached.len()).sum();
        match self.capacity {
            Some(capacity) if to_u64(used) + more > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

impl Disk for MemoryDisk {
    fn create(&mut self, name: &str, len: u64) -> io::Result<()> {
        let machine = &mut *self.lock();
        machine.step()?;
        machine.check_room(len)?;
        let zeros = vec![0; to_usize(len)];
        machine.inodes.push(Inode { durable: zeros.clone(), cached: zeros, ..Inode::default() });
        machine.names.insert(name.to_owned(), machine.inodes.len() - 1);
        machine.durable_names = machine.names.clone();
        Ok(())
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let machine = &mut *self.lock();
        // A power cut at a write may still have written some of it.
        let step = machine.step();
        if machine.operations > machine.dies_at.unwrap_or(u64::MAX) {
            return step;
        }
        let grows = (to_usize(offset) + bytes.len()).saturating_sub(machine.inode(name)?.cached.len());
        if grows > 0 {
            machine.check_room(to_u64(grows))?;
        }
        let inode = machine.inode(name)?;
        let (begin, end) = (to_usize(offset), to_usize(offset) + bytes.len());
        inode.check_pages(begin, end, true)?;
        inode.bad_pages.retain(|&page| !(begin <= page * PAGE_BYTES && (page + 1) * PAGE_BYTES <= end));
        write(&mut inode.cached, begin, bytes);
        inode.unsynced.push((to_usize(offset), bytes.to_vec()));
        step
    }

    fn read_at(&mut self, name: &str, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let machine = &mut *self.lock();
        machine.alive()?;
        let end = to_usize(offset) + into.len();
        let inode = machine.inode(name)?;
        inode.check_pages(to_usize(offset), end, false)?;
        let cached = &inode.cached;
        into.copy_from_slice(cached.get(to_usize(offset)..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let machine = &mut *self.lock();
        machine.step()?;
        let fails = machine.sync_fails_at == Some(machine.operations);
        let inode = machine.inode(name)?;
        let unsynced = std::mem::take(&mut inode.unsynced);
        if fails {
            return Err(io::Error::other("EIO"));
        }
        unsynced.iter().for_each(|(offset, bytes)| write(&mut inode.durable, *offset, bytes));
        Ok(())
    }

    fn sync_directory(&mut self, _name: &str) -> io::Result<()> {
        let machine = &mut *self.lock();
        machine.step()?;
        machine.durable_names = machine.names.clone();
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let machine = &mut *self.lock();
        machine.step()?;
        let inode = machine.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        machine.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let machine = &mut *self.lock();
        machine.step()?;
        machine.names.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let machine = self.lock();
        machine.alive()?;
        let len = |i: usize| to_u64(machine.inodes[i].cached.len());
        Ok(machine.names.iter().map(|(name, &i)| (name.clone(), len(i))).collect())
    }

    fn forget_cache(&mut self, name: &str) {
        if let Ok(inode) = self.lock().inode(name)
            && inode.unsynced.is_empty()
        {
            inode.cached = inode.durable.clone();
        }
    }
}

/// xorshift64 (Marsaglia, Journal of Statistical Software 8/14, 2003): repeatable, and random enough here.
#[derive(Debug)]
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }
}
