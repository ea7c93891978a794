//! The seam between the outbox and the file system: few, named operations on the files of one directory, and
//! their real implementation.
//!
//! Holds no knowledge of what the files contain. `memory_disk` is the other implementation: it crashes, fills up
//! and fails on demand.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FallocateFlags, FlockOperation};

/// Files kept open at a time; the journal works on three (active segment, losses, the one being read).
const OPEN_FILES_MAX: usize = 16;
/// Zeros are written in pieces of this size: a longer write makes the page cache keep larger folios, and the kernel
/// counts a whole folio as written (`write_bytes` of `/proc/PID/io`) whenever an append touches it.
const ZEROS_BYTES: usize = 4 << 10;
/// Name of the file that one process at a time holds locked.
const LOCK_FILE: &str = "lock";

/// The files of an outbox. Names are relative, of one part or two (`catalogs/HASH.cat`).
///
/// Nothing is durable before [`sync`](Disk::sync) (contents) or [`sync_directory`](Disk::sync_directory) (names).
pub trait Disk: Send {
    /// Makes a file of `len` bytes, all zero, its blocks allocated and written, contents and name durable. On
    /// failure no file of that name is left. With `len` 0: an empty file that grows as it is written.
    ///
    /// # Errors
    /// Of the file system; `StorageFull` where there is no room.
    fn create(&mut self, name: &str, len: u64) -> io::Result<()>;
    /// Writes within (or, for small side files, at the end of) a file.
    ///
    /// # Errors
    /// Of the file system.
    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Reads exactly `into.len()` bytes.
    ///
    /// # Errors
    /// Of the file system; `UnexpectedEof` where the file is shorter.
    fn read_at(&mut self, name: &str, offset: u64, into: &mut [u8]) -> io::Result<()>;
    /// Makes the contents of a file durable. After an error the file's state is unknown: this `Disk` is not to
    /// be used again.
    ///
    /// # Errors
    /// Of the file system.
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// Makes the names in the directory of `name` durable.
    ///
    /// # Errors
    /// Of the file system.
    fn sync_directory(&mut self, name: &str) -> io::Result<()>;
    /// Gives a file another name, replacing the one that had it.
    ///
    /// # Errors
    /// Of the file system.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// Of the file system.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// All files with their lengths in bytes, in the order of their names.
    ///
    /// # Errors
    /// Of the file system.
    fn list(&mut self) -> io::Result<Vec<(String, u64)>>;
    /// Drops what the page cache holds of a file, so that the next read comes from the device: after a failed
    /// sync the cache may show what the device never got.
    fn forget_cache(&mut self, name: &str);
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process has it open.
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
    /// It cannot be made or opened.
    #[error("cannot use directory {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A directory of the file system.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    open: HashMap<String, File>,
    writable: bool,
    /// Locked as long as it lives.
    _lock: Option<File>,
}

impl RealDisk {
    /// Makes the directory where it is missing, and locks it against a second opener.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn open(root: &Path) -> Result<Self, DirectoryError> {
        let failed = |source| DirectoryError::Io { path: root.to_owned(), source };
        std::fs::create_dir_all(root.join("catalogs")).map_err(failed)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(root.join(LOCK_FILE))
            .map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(DirectoryError::Locked(root.to_owned())),
            Err(errno) => return Err(failed(errno.into())),
        }
        Ok(Self { root: root.to_owned(), open: HashMap::new(), writable: true, _lock: Some(lock) })
    }

    /// Opens the directory for reading beside the process that holds it.
    ///
    /// # Errors
    /// [`DirectoryError::Io`] where it is not there.
    pub fn open_read_only(root: &Path) -> Result<Self, DirectoryError> {
        std::fs::read_dir(root).map_err(|source| DirectoryError::Io { path: root.to_owned(), source })?;
        Ok(Self { root: root.to_owned(), open: HashMap::new(), writable: false, _lock: None })
    }

    fn file(&mut self, name: &str) -> io::Result<&File> {
        if !self.open.contains_key(name) {
            if self.open.len() >= OPEN_FILES_MAX {
                self.open.clear();
            }
            let file = OpenOptions::new().read(true).write(self.writable).open(self.root.join(name))?;
            self.open.insert(name.to_owned(), file);
        }
        self.open.get(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn fill(&mut self, name: &str, len: u64) -> io::Result<()> {
        let path = self.root.join(name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        allocate(&file, len)?;
        let zeros = vec![0; ZEROS_BYTES];
        let mut offset = 0;
        while offset < len {
            let piece = super::to_usize(len - offset).min(ZEROS_BYTES);
            file.write_all_at(&zeros[..piece], offset)?;
            offset += super::to_u64(piece);
        }
        rustix::fs::fsync(&file)?;
        self.open.insert(name.to_owned(), file);
        self.sync_directory(name)
    }
}

impl Disk for RealDisk {
    fn create(&mut self, name: &str, len: u64) -> io::Result<()> {
        let done = self.fill(name, len);
        if done.is_err() {
            self.open.remove(name);
            // The error above is the one to report; a file that stays behind is found by the next `list`.
            let _ = std::fs::remove_file(self.root.join(name));
        }
        done
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(name)?.write_all_at(bytes, offset)
    }

    fn read_at(&mut self, name: &str, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file(name)?.read_exact_at(into, offset)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(self.file(name)?)?)
    }

    fn sync_directory(&mut self, name: &str) -> io::Result<()> {
        let path = self.root.join(name);
        let directory = File::open(path.parent().unwrap_or(&self.root))?;
        Ok(rustix::fs::fsync(&directory)?)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.open.remove(from);
        self.open.remove(to);
        std::fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.open.remove(name);
        std::fs::remove_file(self.root.join(name))
    }

    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        list_into(&self.root, "", &mut files)?;
        match list_into(&self.root.join("catalogs"), "catalogs/", &mut files) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        files.retain(|(name, _)| name != LOCK_FILE);
        files.sort();
        Ok(files)
    }

    fn forget_cache(&mut self, name: &str) {
        if let Ok(file) = self.file(name) {
            // Advice: where it is not taken, the page cache is as true as it was.
            let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
        }
    }
}

fn allocate(file: &File, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
        // Some file systems cannot pre-allocate; writing zeros does it then.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn list_into(directory: &Path, prefix: &str, files: &mut Vec<(String, u64)>) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if let (true, Some(name)) = (meta.is_file(), entry.file_name().to_str()) {
            files.push((format!("{prefix}{name}"), meta.len()));
        }
    }
    Ok(())
}
