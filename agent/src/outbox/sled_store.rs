//! The second store, for those who prefer it: the journal's segments kept in sled, one database for each life of one.
//!
//! All policy is the journal's; this file is a [`Disk`] whose segments are databases (key: offset, value: bytes), because
//! sled, left alone, is not durable (`flush()` is `sync_file_range`), never gives space back, and panics on damage. Every
//! record carries the journal's CRC.
//!
//! ```text
//! NNNN.seg/head       length 8 | life 8 | the segment's header (see `journal::format`); little endian
//! NNNN.seg/db.LIFE/   the database of that life; none for life 0, which is all zeros
//! damaged.sled/       the database that was put aside last
//! ```
//! **One life, one database.** The head is replaced in one step and names the database, so that a life's begin and end
//! are whole, and what is left of another life is rubbish. A database is only appended to: where the journal writes
//! before its end, which it does over a torn tail, what lies before is copied to a new life.
//!
//! **What sled does behind our back** (0.34), and what is done about it:
//! - *Opening trusts and zeroes what the cache shows.* Everything is fsynced before.
//! - *Opening makes a snapshot, and gives up segments of the log that nothing in it needs any more: without it the log has a
//!   hole, and is cut off there.* So a snapshot stays until sled has made another one, and its name is made durable.
//! - *It takes a snapshot that was being written for the newest one, and a damaged one for damage of all.* One that is whole gets
//!   its name before the database is opened, a damaged one another. The log does without it, unless it was opened with it and has a
//!   hole: what is behind that is then damage, as far as the journal sees it.
//! - *Values longer than a quarter of its segments go to files of their own, removed before their successors are durable.*
//!   Ours are cut into pieces that never make such a page.
//! - *A segment of its log is overwritten or cut off once its pages were written elsewhere, durable or not.* The header of
//!   a new segment has to have seen those writes first. So at most one new segment is begun between two fsyncs.
//! - *A dropped database may keep its lock for a moment.* It is waited for.
//! - *It panics on damage.* A panic is caught, and the database put aside. What was in it is then missing, which the
//!   journal names as a loss, but for the end of the newest segment, of which nothing tells how far it came. An error of
//!   the device or of the file system is passed on instead: it puts nothing aside.
//!
//! Does not bound the space to the byte: sled's files take more than what is in them, so only the part
//! 1/[`SPACE_FACTOR`] of the budget is given to records.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::disk::{DirectoryError, Disk, RealDisk};
use super::{Options, to_u64, to_usize, unreadable};

/// How many times their contents sled's files are taken to be.
const SPACE_FACTOR: u64 = 4;
/// Databases kept open: the active one, the one being read.
const OPEN_MAX: usize = 2;
/// Cache of one database in bytes; sled's own default is 1 GiB.
const CACHE_BYTES: u64 = 256 << 10;
/// Length of sled's own segments in bytes: its least footprint is a few of them.
const SLED_SEGMENT_BYTES: usize = 64 << 10;
/// Longest value. A leaf is split when it has more than 16 of them: it stays below a quarter of a segment.
const PIECE_BYTES: usize = 768;
/// Pieces between two fsyncs. One may write the leaf twice, 34 values with their overhead: together less than a segment.
const PIECES_PER_SYNC: usize = 2;
/// Bytes of the journal's header that the head keeps.
const HEAD_BYTES: usize = 1024;
/// Bytes before them.
const HEAD_PREFIX_BYTES: usize = 16;
/// The life without a database.
const NO_LIFE: u64 = 0;
const HEAD: &str = "head";
const SUFFIX: &str = ".seg";
const ASIDE: &str = "damaged.sled";
/// Begins the names of sled's snapshots, and ends those of unfinished ones after a dot.
const SNAPSHOT: &str = "snap.";
const UNFINISHED: &str = "generating";
/// Goes before the name of a damaged one.
const DAMAGED: &str = "damaged.";
/// How long a lock is waited for: sled's threads let go of it when they have written.
const LOCK_TRIES: u32 = 1000;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Files of an outbox whose segments are databases.
pub(super) struct SledDisk {
    root: PathBuf,
    plain: RealDisk,
    open: BTreeMap<String, Database>,
    /// What is damaged is put aside, what a crash left is removed; else both stay where they are.
    repairs: bool,
}

/// A database that is open.
#[derive(Clone)]
struct Database {
    db: sled::Db,
    life: u64,
    /// Where its contents end.
    end: u64,
}

/// What a head says.
struct Head {
    len: u64,
    life: u64,
    header: Vec<u8>,
}

/// The options that keep sled's files within the budget.
pub(super) fn options_within(options: &Options) -> Options {
    Options { budget_bytes: options.budget_bytes / SPACE_FACTOR, ..*options }
}

impl SledDisk {
    /// Makes or opens the directory, and locks it.
    pub(super) fn open(root: &Path) -> Result<Self, DirectoryError> {
        let plain = RealDisk::open(root)?;
        Ok(Self { root: root.to_owned(), plain, open: BTreeMap::new(), repairs: true })
    }

    /// Locks a directory that is there, to look at it: sled opens its files for writing, and nothing else is.
    pub(super) fn look(root: &Path) -> Result<Self, DirectoryError> {
        RealDisk::open_read_only(root)?;
        Ok(Self { repairs: false, ..Self::open(root)? })
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn database_path(&self, name: &str, life: u64) -> PathBuf {
        self.directory(name).join(format!("db.{life}"))
    }

    /// The database of a segment's present life; none where it is all zeros.
    fn database(&mut self, name: &str) -> io::Result<Option<Database>> {
        if let Some(database) = self.open.get(name) {
            return Ok(Some(database.clone()));
        }
        let life = self.head(name)?.life;
        let path = self.database_path(name, life);
        if life == NO_LIFE || !path.is_dir() {
            return Ok(None);
        }
        let database = open_database(&path, life)?;
        if database.end == 0 {
            // Each life begins with something.
            return Err(damage("sled has nothing of it any more".to_owned()));
        }
        self.keep_open(name, database.clone());
        Ok(Some(database))
    }

    fn keep_open(&mut self, name: &str, database: Database) {
        while self.open.len() >= OPEN_MAX {
            self.open.pop_first();
        }
        self.open.insert(name.to_owned(), database);
    }

    /// Begins a life of the segment with these contents; whatever it held is deleted. Durable when it returns.
    fn begin(&mut self, name: &str, contents: &[u8]) -> io::Result<()> {
        let before = self.head(name)?;
        let header = &contents[..contents.len().min(HEAD_BYTES)];
        let mut life = NO_LIFE;
        if contents.iter().any(|&byte| byte != 0) {
            life = before.life + 1;
            let path = self.database_path(name, life);
            // Of a begin that a crash cut short.
            remove_tree(&path)?;
            fs::create_dir(&path)?;
            let mut database = open_database(&path, life)?;
            database.append(&path, 0, contents)?;
            database.sync(&path)?;
            sync_tree(&path)?;
            // Its name, before the head tells it.
            rustix::fs::fsync(File::open(self.directory(name))?)?;
            self.write_head(name, &Head { len: before.len, life, header: header.to_vec() })?;
            self.open.remove(name);
            self.keep_open(name, database);
        } else {
            self.write_head(name, &Head { len: before.len, life, header: Vec::new() })?;
            self.open.remove(name);
        }
        if before.life == NO_LIFE { Ok(()) } else { remove_tree(&self.database_path(name, before.life)) }
    }

    /// Replaces a segment's head, the old one by the new one in one step; durable when it returns.
    fn write_head(&self, name: &str, head: &Head) -> io::Result<()> {
        let directory = self.directory(name);
        let mut bytes = Vec::with_capacity(HEAD_PREFIX_BYTES + HEAD_BYTES);
        bytes.extend_from_slice(&head.len.to_le_bytes());
        bytes.extend_from_slice(&head.life.to_le_bytes());
        bytes.extend_from_slice(&head.header);
        let unfinished = directory.join("head.unfinished");
        fs::write(&unfinished, bytes)?;
        rustix::fs::fsync(File::open(&unfinished)?)?;
        fs::rename(&unfinished, directory.join(HEAD))?;
        Ok(rustix::fs::fsync(File::open(&directory)?)?)
    }

    fn head(&self, name: &str) -> io::Result<Head> {
        let bytes = fs::read(self.directory(name).join(HEAD))?;
        let (len, rest) = bytes.split_first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
        let (life, header) = rest.split_first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Head { len: u64::from_le_bytes(*len), life: u64::from_le_bytes(*life), header: header.to_vec() })
    }

    /// Puts a database aside that sled cannot read; the segment has its header only from then on.
    fn put_aside(&mut self, name: &str) -> io::Result<()> {
        self.open.remove(name);
        let aside = self.root.join(ASIDE);
        remove_tree(&aside)?;
        let head = self.head(name)?;
        match fs::rename(self.database_path(name, head.life), aside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        self.write_head(name, &Head { life: NO_LIFE, ..head })?;
        self.plain.sync_directory(name)
    }

    fn overlay(&mut self, name: &str, offset: u64, into: &mut [u8]) -> io::Result<()> {
        match self.database(name)? {
            Some(database) => database.read(offset, into),
            None => Ok(()),
        }
    }

    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let database = self.database(name)?.filter(|database| database.end <= offset);
        let Some(mut database) = database else {
            // It begins anew: here, after what was put aside, or with what lies before a torn tail.
            let kept = to_usize(offset);
            let mut contents = vec![0; kept];
            self.read_at(name, 0, &mut contents)?;
            contents.extend_from_slice(bytes);
            return self.begin(name, &contents);
        };
        if bytes.iter().all(|&byte| byte == 0) {
            // As it reads already.
            return Ok(());
        }
        database.append(&self.database_path(name, database.life), offset, bytes)?;
        self.open.insert(name.to_owned(), database);
        Ok(())
    }
}

impl Disk for SledDisk {
    fn create(&mut self, name: &str, len: u64) -> io::Result<()> {
        if !name.ends_with(SUFFIX) {
            return self.plain.create(name, len);
        }
        self.open.remove(name);
        remove_tree(&self.directory(name))?;
        fs::create_dir(self.directory(name))?;
        self.write_head(name, &Head { len, life: NO_LIFE, header: Vec::new() })?;
        self.plain.sync_directory(name)
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if !name.ends_with(SUFFIX) {
            self.plain.write_at(name, offset, bytes)
        } else if offset == 0 {
            // The journal writes a segment's header when a life of it begins or ends.
            self.begin(name, bytes)
        } else {
            self.write(name, offset, bytes)
        }
    }

    fn read_at(&mut self, name: &str, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if !name.ends_with(SUFFIX) {
            return self.plain.read_at(name, offset, into);
        }
        let head = self.head(name)?;
        if offset + to_u64(into.len()) > head.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        into.fill(0);
        if offset + to_u64(into.len()) <= to_u64(head.header.len()) {
            copy_over(0, &head.header, offset, into);
            return Ok(());
        }
        match self.overlay(name, offset, into) {
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                into.fill(0);
                if self.repairs {
                    self.put_aside(name)?;
                }
            }
            done => done?,
        }
        copy_over(0, &head.header, offset, into);
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        if !name.ends_with(SUFFIX) {
            return self.plain.sync(name);
        }
        match self.database(name) {
            Ok(Some(database)) => database.sync(&self.database_path(name, database.life)),
            // Whoever reads it finds that out, and puts it aside.
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(()),
            done => done.map(drop),
        }
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
        let directory = self.directory(name);
        // Without its head it is no segment, however much of the rest a crash leaves.
        fs::remove_file(directory.join(HEAD))?;
        rustix::fs::fsync(File::open(&directory)?)?;
        fs::remove_dir_all(directory)
    }

    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let mut files = self.plain.list()?;
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.ends_with(SUFFIX) || !entry.file_type()?.is_dir() {
                continue;
            }
            match self.head(&name) {
                Ok(head) => {
                    if self.repairs {
                        self.remove_other_lives(&name, head.life)?;
                    }
                    files.push((name, head.len));
                }
                // It was being made or removed when the power went.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    if self.repairs {
                        fs::remove_dir_all(entry.path())?;
                    }
                }
                Err(e) => return Err(e),
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

impl SledDisk {
    /// Removes what a crash left of lives that had ended or not begun.
    fn remove_other_lives(&self, name: &str, life: u64) -> io::Result<()> {
        let present = self.database_path(name, life);
        for entry in fs::read_dir(self.directory(name))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && entry.path() != present {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

impl Database {
    /// Puts `bytes` behind its end, in pieces; see the module's text on the fsyncs between them.
    fn append(&mut self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut at = offset;
        for (n, piece) in bytes.chunks(PIECE_BYTES).enumerate() {
            if n > 0 && n % PIECES_PER_SYNC == 0 {
                self.sync(path)?;
            }
            guarded(|| self.db.insert(at.to_be_bytes(), piece).map(drop))?;
            at += to_u64(piece.len());
        }
        self.end = at;
        Ok(())
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        guarded(|| self.db.flush())?;
        Ok(rustix::fs::fdatasync(File::open(path.join("db"))?)?)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let end = offset + to_u64(into.len());
        guarded(|| {
            let before = self.db.range(..=offset.to_be_bytes()).next_back();
            let inside = self.db.range((offset + 1).to_be_bytes()..end.to_be_bytes());
            for entry in before.into_iter().chain(inside) {
                let (key, value) = entry?;
                copy_over(offset_of(&key), &value, offset, into);
            }
            Ok(())
        })
    }
}

/// Opens a database, or makes it in an empty directory.
fn open_database(path: &Path, life: u64) -> io::Result<Database> {
    wait_for_lock(&path.join("db"))?;
    sort_snapshots(path)?;
    sync_tree(path)?;
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .segment_size(SLED_SEGMENT_BYTES)
        .flush_every_ms(None);
    let database = guarded(|| {
        let db = config.open()?;
        let last = db.last()?;
        let end = last.map_or(0, |(key, value)| offset_of(&key) + to_u64(value.len()));
        Ok(Database { db, life, end })
    });
    // What it made of its log counts on its snapshot, whatever came of it.
    rustix::fs::fsync(File::open(path)?)?;
    database
}

/// Removes snapshots that were being written, gives one that is whole its name where it was not given that, as it is whole before sled
/// makes anything of the log that counts on it, and puts damaged ones where sled does not look.
fn sort_snapshots(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let (snapshot, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if !name.starts_with(SNAPSHOT) {
            continue;
        }
        let is_unfinished = snapshot.extension().is_some_and(|extension| extension == UNFINISHED);
        match (is_whole_snapshot(&snapshot)?, is_unfinished) {
            (true, true) => fs::rename(&snapshot, snapshot.with_extension(""))?,
            (true, false) => {}
            (false, true) => fs::remove_file(&snapshot)?,
            (false, false) => {
                tracing::warn!(snapshot = %snapshot.display(), "a snapshot of sled is damaged, and it does without it");
                fs::rename(&snapshot, path.join(format!("{DAMAGED}{name}")))?;
            }
        }
    }
    Ok(())
}

/// Whether a snapshot was written to its end and is as it was written: behind it are its length, 8, and its CRC-32, 4; little endian.
fn is_whole_snapshot(path: &Path) -> io::Result<bool> {
    let bytes = match fs::read(path) {
        Err(e) if unreadable::is_unreadable(&e) => return Ok(false),
        bytes => bytes?,
    };
    let Some((rest, crc)) = bytes.split_last_chunk() else { return Ok(false) };
    let Some((snapshot, len)) = rest.split_last_chunk() else { return Ok(false) };
    Ok(!snapshot.is_empty()
        && to_u64(snapshot.len()) == u64::from_le_bytes(*len)
        && crc32fast::hash(snapshot) == u32::from_le_bytes(*crc))
}

/// Waits until nobody in this process holds the database of a file any more.
fn wait_for_lock(file: &Path) -> io::Result<()> {
    let file = match File::open(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // Closing the file gives it up.
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "sled does not let go of a database"))
}

/// Runs a call into sled. Its panics and errors become errors of the file system: `InvalidData` for damage, whatever the
/// file system said otherwise.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(sled::Error::Io(e))) if e.raw_os_error().is_some() && !unreadable::is_unreadable(&e) => Err(e),
        Ok(Err(e)) => Err(damage(e.to_string())),
        Err(_) => Err(damage("sled panicked".to_owned())),
    }
}

fn damage(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Removes a directory that may not be there.
fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
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
        let database = subject.0.path().join("0000.seg/db.1/db");
        let mut bytes = fs::read(&database).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 0x5A);
        fs::write(&database, bytes).unwrap();
        // Whoever only looks moves nothing.
        let looked = crate::outbox::summary(subject.0.path(), crate::outbox::StoreKind::Sled).unwrap();
        assert!(looked.segments[0].records == 0 && looked.segments[1].records > 0, "{looked:?}");
        assert!(database.is_file());
        let (mut outbox, _) = subject.open(&options(), opening(2)).unwrap();
        let held = read_all(outbox.as_mut());
        assert!(!held.is_empty() && held.len() < 400);
        assert!(held.iter().all(|r| *r.bytes == payload(r.seq.0, 400)[..]));
        let lost: u64 = outbox.pending_losses().iter().map(|l| l.last.0 - l.first.0 + 1).sum();
        assert_eq!(lost + to_u64(held.len()), 400, "{:?}", outbox.pending_losses());
        append(outbox.as_mut(), 1, 1, 10).unwrap();
    }

    fn databases(root: &Path) -> Vec<PathBuf> {
        let segments = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
        let segments = segments.filter(|path| path.to_string_lossy().ends_with(SUFFIX));
        let inside = segments.flat_map(|path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        inside.filter(|path| path.is_dir()).collect()
    }

    /// What a crash may leave beside a whole log, and what a thread of sled may still hold, costs nothing: a snapshot that
    /// was being written, had not got its name or is damaged, a life that had ended, a lock.
    #[test]
    fn what_sled_left_behind_costs_no_record() {
        type Leave = fn(&Path);
        let rows: [(&str, Leave); 5] = [
            ("a snapshot that has not got its name", |db| {
                for entry in fs::read_dir(db).unwrap() {
                    let path = entry.unwrap().path();
                    if path.file_name().unwrap().to_string_lossy().starts_with(SNAPSHOT) {
                        fs::rename(&path, path.with_added_extension(UNFINISHED)).unwrap();
                    }
                }
            }),
            ("a snapshot that was being written", |db| {
                fs::write(db.join("snap.7FFFFFFFFFFFFFFF.generating"), [1; 5]).unwrap();
            }),
            ("a snapshot that is damaged", |db| {
                fs::write(db.join("snap.7FFFFFFFFFFFFFFF"), [1; 500]).unwrap();
            }),
            ("a life that had ended", |db| {
                fs::create_dir(db.with_file_name("db.77")).unwrap();
                fs::write(db.with_file_name("db.77").join("db"), [1; 500]).unwrap();
            }),
            ("a lock", |db| {
                let file = File::open(db.join("db")).unwrap();
                rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
                // As long as a thread of sled may need to write what it holds.
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(100));
                    drop(file);
                });
            }),
        ];
        for (what, leave) in rows {
            let mut subject = InSled(tempfile::tempdir().unwrap());
            let (mut outbox, _) = subject.open(&options(), opening(1)).unwrap();
            for n in 0..10 {
                append(outbox.as_mut(), n * 10 + 1, 10, 400).unwrap();
            }
            drop(outbox);
            databases(subject.0.path()).iter().for_each(|db| leave(db));
            let (mut outbox, found) = subject.open(&options(), opening(2)).unwrap();
            assert_eq!(found.report, Default::default(), "{what}");
            assert_eq!(read_all(outbox.as_mut()).len(), 100, "{what}");
            assert_eq!(outbox.pending_losses(), [], "{what}");
            assert!(!subject.0.path().join(ASIDE).exists(), "{what}");
            assert!(databases(subject.0.path()).iter().all(|db| !db.ends_with("db.77")), "{what}");
        }
    }

    /// Wherever its log stands, a database that is opened again and again, as by a start and by what is read after it, has all.
    #[test]
    fn opening_takes_nothing_away() {
        for seed in 1..=4 {
            let mut state: u64 = seed * 7919;
            let mut draw = |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                to_usize(state >> 33) % below
            };
            let (directory, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let mut disk = SledDisk::open(directory.path()).unwrap();
            disk.create("0000.seg", 128 << 10).unwrap();
            let mut expected = Vec::new();
            for n in 1_u8..=60 {
                let bytes = vec![n; 50 + draw(2_000)];
                disk.write_at("0000.seg", to_u64(expected.len()), &bytes).unwrap();
                disk.sync("0000.seg").unwrap();
                expected.extend(bytes);
                if draw(8) == 0 {
                    disk.forget_cache("0000.seg");
                }
                let copy = copies.path().join(n.to_string());
                let copied =
                    std::process::Command::new("cp").arg("-r").args([directory.path(), &copy]).status();
                assert!(copied.unwrap().success());
                for opening in 1..=2 {
                    let mut bytes = vec![0; expected.len()];
                    SledDisk::open(&copy).unwrap().read_at("0000.seg", 0, &mut bytes).unwrap();
                    assert!(bytes == expected, "seed {seed} {n} pieces, opening {opening}");
                }
            }
        }
    }

    /// What is written before the end of what is there takes all behind its begin with it, as the bytes of a log do.
    #[test]
    fn what_is_written_over_a_tail_replaces_all_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut disk = SledDisk::open(directory.path()).unwrap();
        disk.create("0000.seg", 64 << 10).unwrap();
        disk.write_at("0000.seg", 0, &[1; 2000]).unwrap();
        disk.write_at("0000.seg", 2000, &[2; 5000]).unwrap();
        disk.write_at("0000.seg", 3000, &[0; 4000]).unwrap();
        disk.write_at("0000.seg", 3000, &[3; 100]).unwrap();
        let expected = [vec![1; 2000], vec![2; 1000], vec![3; 100], vec![0; 3900]].concat();
        for _ in 0..2 {
            let mut bytes = vec![9; 7000];
            disk.read_at("0000.seg", 0, &mut bytes).unwrap();
            assert!(bytes == expected);
            let mut part = vec![9; 700];
            disk.read_at("0000.seg", 2900, &mut part).unwrap();
            assert!(part == expected[2900..3600]);
            disk.sync("0000.seg").unwrap();
            drop(disk);
            disk = SledDisk::open(directory.path()).unwrap();
        }
    }
}
