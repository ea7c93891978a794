//! What a disk in memory is made of: contents and names, each as the device has them and as a reader sees them, and
//! what a power cut leaves of what lies between. Does not count operations and knows no faults; see `memory_disk`.
//!
//! An operation costs the bytes it moves: nothing is copied whole, and a file without a name is freed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::PowerCut;
use crate::outbox::{to_u64, to_usize};

/// Unit that a device writes whole.
const SECTOR_BYTES: usize = 512;
/// Unit that a reader is refused.
const PAGE_BYTES: usize = 4096;

/// A write that no sync has forced yet.
#[derive(Debug, Clone)]
struct Write {
    /// Its place among all writes of the disk.
    order: u64,
    offset: usize,
    bytes: Vec<u8>,
}

/// A file's contents.
#[derive(Debug, Clone, Default)]
struct Inode {
    /// What the device has.
    durable: Vec<u8>,
    /// What was written since the last sync; a reader sees it over what the device has.
    unsynced: Vec<Write>,
    /// What a reader sees since a sync failed, while the device has lost it.
    stale_cache: Option<Vec<u8>>,
    /// Pages that the device will not give until they are written whole.
    bad_pages: BTreeSet<usize>,
}

impl Inode {
    fn of(contents: Vec<u8>) -> Self {
        Self { durable: contents, ..Self::default() }
    }

    fn len(&self) -> usize {
        let durable = self.stale_cache.as_ref().unwrap_or(&self.durable).len();
        self.unsynced.iter().map(|w| w.offset + w.bytes.len()).fold(durable, usize::max)
    }

    /// Copies from `offset` on what a reader sees; `false` where the file is shorter than that.
    fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        if offset + into.len() > self.len() {
            return false;
        }
        let contents = self.stale_cache.as_ref().unwrap_or(&self.durable);
        let there = contents.get(offset..).map_or(0, |rest| rest.len().min(into.len()));
        into[..there].copy_from_slice(&contents[offset.min(contents.len())..][..there]);
        into[there..].fill(0);
        if self.stale_cache.is_none() {
            self.unsynced.iter().for_each(|write| lay_over(write, offset, into));
        }
        true
    }

    fn cached(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.read(0, &mut bytes);
        bytes
    }

    fn sync(&mut self) {
        for write in std::mem::take(&mut self.unsynced) {
            // A file that was just made is its first write.
            if self.durable.is_empty() && write.offset == 0 {
                self.durable = write.bytes;
            } else {
                overwrite(&mut self.durable, write.offset, &write.bytes);
            }
        }
    }

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
}

/// Copies the part of `write` that falls into `into`, which lies at `offset`.
fn lay_over(write: &Write, offset: usize, into: &mut [u8]) {
    let (skip, place) = (offset.saturating_sub(write.offset), write.offset.saturating_sub(offset));
    if let (Some(from), Some(to)) = (write.bytes.get(skip..), into.get_mut(place..)) {
        let len = from.len().min(to.len());
        to[..len].copy_from_slice(&from[..len]);
    }
}

fn overwrite(contents: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    if contents.len() < offset + bytes.len() {
        contents.resize(offset + bytes.len(), 0);
    }
    contents[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// A change of names that no sync of the directory has forced yet.
#[derive(Debug, Clone)]
enum Change {
    Put(String, usize),
    Remove(String),
    Rename { from: String, to: String, inode: usize },
}

impl Change {
    /// The directory it happens in; a rename stays within one.
    fn directory(&self) -> &str {
        match self {
            Self::Put(name, _) | Self::Remove(name) | Self::Rename { to: name, .. } => directory_of(name),
        }
    }

    fn apply(self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Put(name, inode) => drop(names.insert(name, inode)),
            Self::Remove(name) => drop(names.remove(&name)),
            Self::Rename { from, to, inode } => {
                names.remove(&from);
                names.insert(to, inode);
            }
        }
    }
}

fn directory_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// All files.
#[derive(Debug, Clone, Default)]
pub(super) struct Files {
    /// A slot is `None` once no name leads to its file any more.
    inodes: Vec<Option<Inode>>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    changes: Vec<Change>,
    writes: u64,
}

impl Files {
    fn inode(&self, name: &str) -> io::Result<&Inode> {
        let index = self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        self.inodes.get(*index).and_then(Option::as_ref).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn inode_mut(&mut self, name: &str) -> io::Result<&mut Inode> {
        let index = self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        self.inodes.get_mut(*index).and_then(Option::as_mut).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Bytes of all files that have a name.
    pub(super) fn bytes(&self) -> u64 {
        self.names.keys().filter_map(|name| self.inode(name).ok()).map(|inode| to_u64(inode.len())).sum()
    }

    /// Files that take memory, those included that only the device still has a name for.
    #[cfg(test)]
    pub(super) fn inodes_in_memory(&self) -> usize {
        self.inodes.iter().flatten().count()
    }

    /// Names with the lengths of their files.
    pub(super) fn list(&self) -> Vec<(String, u64)> {
        let len = |name: &String| self.inode(name).map_or(0, |inode| to_u64(inode.len()));
        self.names.keys().map(|name| (name.clone(), len(name))).collect()
    }

    /// Bytes by which a write makes its file longer.
    pub(super) fn growth(&self, name: &str, offset: u64, len: usize) -> io::Result<u64> {
        Ok(to_u64((to_usize(offset) + len).saturating_sub(self.inode(name)?.len())))
    }

    /// Makes a file of zeros whose name and contents no sync has forced.
    pub(super) fn create(&mut self, name: &str, len: u64) {
        let mut inode = Inode::default();
        if len > 0 {
            self.writes += 1;
            inode.unsynced.push(Write { order: self.writes, offset: 0, bytes: vec![0; to_usize(len)] });
        }
        let slot = self.inodes.iter().position(Option::is_none).unwrap_or_else(|| {
            self.inodes.push(None);
            self.inodes.len() - 1
        });
        self.inodes[slot] = Some(inode);
        self.names.insert(name.to_owned(), slot);
        self.changes.push(Change::Put(name.to_owned(), slot));
    }

    pub(super) fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.writes += 1;
        let (order, begin, end) = (self.writes, to_usize(offset), to_usize(offset) + bytes.len());
        let inode = self.inode_mut(name)?;
        inode.check_pages(begin, end, true)?;
        inode.bad_pages.retain(|&page| !(begin <= page * PAGE_BYTES && (page + 1) * PAGE_BYTES <= end));
        if let Some(cache) = &mut inode.stale_cache {
            overwrite(cache, begin, bytes);
        }
        inode.unsynced.push(Write { order, offset: begin, bytes: bytes.to_vec() });
        Ok(())
    }

    pub(super) fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let (inode, offset) = (self.inode(name)?, to_usize(offset));
        inode.check_pages(offset, offset + into.len(), false)?;
        if inode.read(offset, into) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    pub(super) fn sync(&mut self, name: &str) -> io::Result<()> {
        self.inode_mut(name).map(Inode::sync)
    }

    /// What no sync had forced is lost on the device; a reader still sees it.
    pub(super) fn lose_unsynced(&mut self, name: &str) -> io::Result<()> {
        let inode = self.inode_mut(name)?;
        if inode.stale_cache.is_none() && !inode.unsynced.is_empty() {
            inode.stale_cache = Some(inode.cached());
        }
        inode.unsynced.clear();
        Ok(())
    }

    /// A reader sees again what the device has.
    pub(super) fn forget_cache(&mut self, name: &str) {
        if let Ok(inode) = self.inode_mut(name)
            && inode.unsynced.is_empty()
        {
            inode.stale_cache = None;
        }
    }

    /// Makes the names beside `name` durable.
    pub(super) fn sync_names(&mut self, name: &str) {
        let (forced, others) =
            std::mem::take(&mut self.changes).into_iter().partition(|c| c.directory() == directory_of(name));
        self.changes = others;
        let forced: Vec<Change> = forced;
        forced.into_iter().for_each(|change| change.apply(&mut self.durable_names));
        self.free_nameless();
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let inode = self.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.names.insert(to.to_owned(), inode);
        self.changes.push(Change::Rename { from: from.to_owned(), to: to.to_owned(), inode });
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        self.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        self.changes.push(Change::Remove(name.to_owned()));
        Ok(())
    }

    fn free_nameless(&mut self) {
        for slot in 0..self.inodes.len() {
            let is_named = |names: &BTreeMap<String, usize>| names.values().any(|&inode| inode == slot);
            let is_wanted = is_named(&self.names)
                || is_named(&self.durable_names)
                || self
                    .changes
                    .iter()
                    .any(|c| matches!(c, Change::Put(_, i) | Change::Rename { inode: i, .. } if *i == slot));
            if !is_wanted {
                self.inodes[slot] = None;
            }
        }
    }

    /// The contents of a file as the device has them.
    pub(super) fn durable(&self, name: &str) -> Option<Vec<u8>> {
        self.inode(name).ok().map(|inode| inode.durable.clone())
    }

    pub(super) fn set_contents(&mut self, name: &str, bytes: &[u8]) {
        if let Ok(inode) = self.inode_mut(name) {
            inode.durable = bytes.to_vec();
            inode.unsynced.clear();
            inode.stale_cache = None;
        }
    }

    /// Flips a bit of what the device has of a file; returns the place as file and bit.
    pub(super) fn flip_bit(&mut self, random: &mut Random) -> Option<(String, u64)> {
        let len = |name: &&String| self.inode(name).map_or(0, |inode| inode.durable.len());
        let names: Vec<&String> = self.names.keys().filter(|name| len(name) > 0).collect();
        let name = names.get(random.index_below(names.len()))?.to_string();
        let inode = self.inode_mut(&name).ok()?;
        let at = random.index_below(inode.durable.len() * 8);
        inode.durable[at / 8] ^= 1 << (at % 8);
        if let Some(byte) = inode.stale_cache.as_mut().and_then(|cache| cache.get_mut(at / 8)) {
            *byte ^= 1 << (at % 8);
        }
        Some((name, to_u64(at)))
    }

    pub(super) fn fail_reads(&mut self, name: &str, offset: u64) {
        if let Ok(inode) = self.inode_mut(name) {
            inode.bad_pages.insert(to_usize(offset) / PAGE_BYTES);
        }
    }

    /// The same files, all of them durable as a reader sees them.
    pub(super) fn copy(&self) -> Self {
        let copied =
            |inode: &Inode| Inode { bad_pages: inode.bad_pages.clone(), ..Inode::of(inode.cached()) };
        Self {
            inodes: self.inodes.iter().map(|inode| inode.as_ref().map(copied)).collect(),
            names: self.names.clone(),
            durable_names: self.names.clone(),
            ..Self::default()
        }
    }

    /// Leaves of what no sync has forced what `cut` says, and of that the rest to chance.
    pub(super) fn cut(&mut self, cut: PowerCut, random: &mut Random) {
        self.cut_names(cut, random);
        let mut pending: Vec<(usize, Write)> = Vec::new();
        for (slot, inode) in self.inodes.iter_mut().enumerate() {
            let Some(inode) = inode else { continue };
            pending.extend(std::mem::take(&mut inode.unsynced).into_iter().map(|write| (slot, write)));
            inode.stale_cache = None;
        }
        pending.sort_by_key(|(_, write)| write.order);
        let total: usize = pending.iter().map(|(_, write)| write.bytes.len()).sum();
        let mut budget = random.index_below(total + 1);
        for (slot, write) in &pending {
            if let Some(inode) = &mut self.inodes[*slot] {
                keep(&mut inode.durable, cut, write, &mut budget, random);
            }
        }
        self.free_nameless();
    }

    fn cut_names(&mut self, cut: PowerCut, random: &mut Random) {
        let changes = std::mem::take(&mut self.changes);
        let prefix = random.index_below(changes.len() + 1);
        for (i, change) in changes.into_iter().enumerate() {
            let is_kept = match cut {
                PowerCut::KeepNothing => false,
                PowerCut::KeepAll => true,
                PowerCut::KeepPrefix => i < prefix,
                PowerCut::KeepSectors => random.is_even(),
            };
            if is_kept {
                change.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
    }
}

/// Leaves a part of a write.
fn keep(durable: &mut Vec<u8>, cut: PowerCut, write: &Write, budget: &mut usize, random: &mut Random) {
    let (offset, bytes) = (write.offset, write.bytes.as_slice());
    match cut {
        PowerCut::KeepNothing => {}
        PowerCut::KeepAll => overwrite(durable, offset, bytes),
        PowerCut::KeepPrefix => {
            let kept = bytes.len().min(*budget);
            *budget -= kept;
            overwrite(durable, offset, &bytes[..kept]);
        }
        PowerCut::KeepSectors => {
            let mut at = 0;
            while at < bytes.len() {
                let end = bytes.len().min(at + SECTOR_BYTES - (offset + at) % SECTOR_BYTES);
                if random.is_even() {
                    overwrite(durable, offset + at, &bytes[at..end]);
                }
                at = end;
            }
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): repeatable, and good from its first number on, whatever the seed.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    const fn is_even(&mut self) -> bool {
        self.next().is_multiple_of(2)
    }

    /// Less than `bound`; 0 where that is 0.
    fn index_below(&mut self, bound: usize) -> usize {
        to_usize(self.below(to_u64(bound)))
    }

    /// The same of a number.
    pub(super) const fn below(&mut self, bound: u64) -> u64 {
        self.next() % if bound == 0 { 1 } else { bound }
    }
}
