//! The second store, for those who prefer it: the journal's segments kept in sled, one database each.
//!
//! All policy is the journal's; this file is a [`Disk`] whose segments are databases (key: offset, value: the bytes of
//! one write), because sled, left alone, is not durable (`flush()` is `sync_file_range`), never gives space back, and
//! panics on damage. So: after each `flush()` every file is fsynced here; a segment that is given up is deleted
//! whole; a panic is caught, and the segment it came from is put aside and begun anew, empty. What was in it is then
//! missing, which the journal names as a loss; every record carries the journal's CRC.
//!
//! ```text
//! NNNN.seg/head       length 8, little endian | the segment's header (see `journal::format`)
//! NNNN.seg/db/        the database
//! damaged.sled/       the database that was put aside last
//! ```
//! Its crash points do not pass: records that were durable can be gone and unnamed after a power cut, and after a mere kill
//! of the process (`./dev crash`). Why is not known; sled makes, renames and removes files without a sync in between.
//!
//! Does not bound the space to the byte: sled's files take more than what is in them, so only the part
//! 1/[`SPACE_FACTOR`] of the budget is given to records.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::disk::{DirectoryError, Disk, RealDisk};
use super::{Options, to_u64, to_usize};

/// How many times their contents sled's files are taken to be.
const SPACE_FACTOR: u64 = 4;
/// Databases kept open: the active one, the one being read.
const OPEN_MAX: usize = 2;
/// Cache of one database in bytes; sled's own default is 1 GiB.
const CACHE_BYTES: u64 = 256 << 10;
/// Length of sled's own segments in bytes: its least footprint is a few of them.
const SLED_SEGMENT_BYTES: usize = 64 << 10;
/// Bytes of the journal's header that the plain file keeps.
const HEAD_BYTES: usize = 1024;
const SUFFIX: &str = ".seg";
const ASIDE: &str = "damaged.sled";

/// Files of an outbox whose segments are databases.
pub(super) struct SledDisk {
    root: PathBuf,
    plain: RealDisk,
    open: BTreeMap<String, sled::Db>,
}

/// The options that keep sled's files within the budget.
pub(super) fn options_within(options: &Options) -> Options {
    Options { budget_bytes: options.budget_bytes / SPACE_FACTOR, ..*options }
}

impl SledDisk {
    /// Makes or opens the directory, and locks it.
    pub(super) fn open(root: &Path) -> Result<Self, DirectoryError> {
        Ok(Self { root: root.to_owned(), plain: RealDisk::open(root)?, open: BTreeMap::new() })
    }

    fn database_path(&self, name: &str) -> PathBuf {
        self.root.join(name).join("db")
    }

    fn database(&mut self, name: &str) -> io::Result<sled::Db> {
        if let Some(db) = self.open.get(name) {
            return Ok(db.clone());
        }
        while self.open.len() >= OPEN_MAX {
            self.open.pop_first();
        }
        let path = self.database_path(name);
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .segment_size(SLED_SEGMENT_BYTES)
            .flush_every_ms(None);
        let db = guarded(|| config.open())?;
        self.open.insert(name.to_owned(), db.clone());
        Ok(db)
    }

    /// Begins a life of the segment: whatever it held is deleted.
    fn begin(&mut self, name: &str, len: u64, head: &[u8]) -> io::Result<()> {
        self.open.remove(name);
        let directory = self.root.join(name);
        fs::create_dir_all(&directory)?;
        self.write_head(name, len, head)?;
        // Only now: under its old header a segment whose database is gone would be one that has lost its records.
        match fs::remove_dir_all(self.database_path(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        self.database(name)?;
        sync_tree(&directory)?;
        self.plain.sync_directory(name)
    }

    /// Replaces a segment's length and header, the old ones by the new ones in one step; durable when it returns.
    fn write_head(&self, name: &str, len: u64, head: &[u8]) -> io::Result<()> {
        let directory = self.root.join(name);
        let mut bytes = len.to_le_bytes().to_vec();
        bytes.extend_from_slice(&head[..head.len().min(HEAD_BYTES)]);
        let unfinished = directory.join("head.unfinished");
        fs::write(&unfinished, bytes)?;
        rustix::fs::fsync(File::open(&unfinished)?)?;
        fs::rename(&unfinished, directory.join("head"))?;
        Ok(rustix::fs::fsync(File::open(&directory)?)?)
    }

    fn head(&self, name: &str) -> io::Result<(u64, Vec<u8>)> {
        let bytes = fs::read(self.root.join(name).join("head"))?;
        let (len, head) = bytes.split_first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((u64::from_le_bytes(*len), head.to_vec()))
    }

    /// Puts a database aside that sled cannot read, and begins an empty one in its place.
    fn put_aside(&mut self, name: &str) -> io::Result<()> {
        self.open.remove(name);
        let aside = self.root.join(ASIDE);
        match fs::remove_dir_all(&aside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::rename(self.database_path(name), aside)?;
        self.database(name).map(drop)
    }

    fn overlay(&mut self, name: &str, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let db = self.database(name)?;
        let end = offset + to_u64(into.len());
        guarded(|| {
            let before = db.range(..=offset.to_be_bytes()).next_back();
            let inside = db.range((offset + 1).to_be_bytes()..end.to_be_bytes());
            for entry in before.into_iter().chain(inside) {
                let (key, value) = entry?;
                copy_over(offset_of(&key), &value, offset, into);
            }
            Ok(())
        })
    }

    fn insert(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let db = self.database(name)?;
        guarded(|| {
            // A segment is a log: what is written replaces all that lay behind its begin.
            for key in db.range(offset.to_be_bytes()..).keys() {
                db.remove(key?)?;
            }
            db.insert(offset.to_be_bytes(), bytes).map(drop)
        })
    }
}

impl Disk for SledDisk {
    fn create(&mut self, name: &str, len: u64) -> io::Result<()> {
        if name.ends_with(SUFFIX) { self.begin(name, len, &[]) } else { self.plain.create(name, len) }
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if !name.ends_with(SUFFIX) {
            return self.plain.write_at(name, offset, bytes);
        }
        if offset == 0 {
            // The journal writes a segment's header when a life of it begins or ends.
            let (len, _) = self.head(name)?;
            self.begin(name, len, bytes)?;
        }
        self.insert(name, offset, bytes)
    }

    fn read_at(&mut self, name: &str, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if !name.ends_with(SUFFIX) {
            return self.plain.read_at(name, offset, into);
        }
        let (len, head) = self.head(name)?;
        if offset + to_u64(into.len()) > len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        into.fill(0);
        copy_over(0, &head, offset, into);
        if self.overlay(name, offset, into).is_err() {
            into.fill(0);
            copy_over(0, &head, offset, into);
            self.put_aside(name)?;
        }
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        if !name.ends_with(SUFFIX) {
            return self.plain.sync(name);
        }
        let db = self.database(name)?;
        guarded(|| db.flush())?;
        sync_tree(&self.database_path(name))
    }

    fn sync_directory(&mut self, name: &str) -> io::Result<()> {
        self.plain.sync_directory(name)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.plain.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        if !name.ends_with(SUFFIX) {
            return self.plain.remove(name);
        }
        self.open.remove(name);
        fs::remove_dir_all(self.root.join(name))
    }

    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let mut files = self.plain.list()?;
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(SUFFIX) && entry.file_type()?.is_dir() {
                // Without its plain file it was being made when the power went.
                match self.head(&name) {
                    Ok((len, _)) => files.push((name, len)),
                    Err(_) => fs::remove_dir_all(entry.path())?,
                }
            }
        }
        files.sort();
        Ok(files)
    }

    fn forget_cache(&mut self, name: &str) {
        if name.ends_with(SUFFIX) {
            self.open.remove(name);
        } else {
            self.plain.forget_cache(name);
        }
    }
}

/// Runs a call into sled; its panics and its errors become errors of the file system.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(done) => done.map_err(io::Error::other),
        Err(_) => Err(io::Error::other("sled panicked")),
    }
}

fn offset_of(key: &[u8]) -> u64 {
    key.first_chunk().map_or(u64::MAX, |key| u64::from_be_bytes(*key))
}

/// Copies the part of `value`, which lies at `at`, that falls into `into`, which lies at `offset`.
fn copy_over(at: u64, value: &[u8], offset: u64, into: &mut [u8]) {
    let skip = to_usize(offset.saturating_sub(at));
    let place = to_usize(at.saturating_sub(offset));
    if let (Some(value), Some(into)) = (value.get(skip..), into.get_mut(place..)) {
        let len = value.len().min(into.len());
        into[..len].copy_from_slice(&value[..len]);
    }
}

/// Forces every file below `directory`, and the directories themselves, to the device.
fn sync_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            rustix::fs::fsync(File::open(entry.path())?)?;
        }
    }
    Ok(rustix::fs::fsync(File::open(directory)?)?)
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{self, Subject, append, opening, options, payload, read_all};
    use super::super::{Found, Journal, OpenError, Opening, Outbox};
    use super::*;

    struct InSled(tempfile::TempDir);

    impl Subject for InSled {
        fn open(
            &mut self,
            options: &Options,
            opening: Opening,
        ) -> Result<(Box<dyn Outbox>, Found), OpenError> {
            let disk = Box::new(SledDisk::open(self.0.path())?);
            let (journal, found) = Journal::open(disk, options, opening)?;
            Ok((Box::new(journal), found))
        }
    }

    #[test]
    fn keeps_every_promise() {
        conformance::check(|| Box::new(InSled(tempfile::tempdir().unwrap())));
    }

    /// Damage that makes sled fail or panic costs a segment, is named, and stops nothing.
    #[test]
    fn a_damaged_database_is_put_aside_and_its_records_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let mut subject = InSled(directory);
        let (mut outbox, _) = subject.open(&options(), opening(1)).unwrap();
        for n in 0..40 {
            append(outbox.as_mut(), n * 10 + 1, 10, 400).unwrap();
        }
        drop(outbox);
        let database = subject.0.path().join("0000.seg/db/db");
        let mut bytes = fs::read(&database).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 0x5A);
        fs::write(&database, bytes).unwrap();
        let (mut outbox, _) = subject.open(&options(), opening(2)).unwrap();
        let held = read_all(outbox.as_mut());
        assert!(!held.is_empty() && held.len() < 400);
        assert!(held.iter().all(|r| *r.bytes == payload(r.seq.0, 400)[..]));
        let lost: u64 = outbox.pending_losses().iter().map(|l| l.last.0 - l.first.0 + 1).sum();
        assert_eq!(lost + to_u64(held.len()), 400, "{:?}", outbox.pending_losses());
        append(outbox.as_mut(), 1, 1, 10).unwrap();
    }
}
