//! One collector at a time has a data directory. Two would each hand out what only the other has committed, and have one
//! device asked twice.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Name of the file that the one collector holds locked.
const LOCK_FILE: &str = "lock";

/// Why the directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SoleError {
    /// Somebody else has it.
    #[error(
        "another collector runs on {0}: stop that one, or give this one a `data_dir` of its own; two must never share one"
    )]
    Taken(PathBuf),
    /// The file cannot be locked.
    #[error("cannot lock {path}")]
    Lock {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The data directory is this process's, until it ends, however it does.
#[derive(Debug)]
pub struct Sole {
    _lock: File,
}

impl Sole {
    /// The file that is locked.
    #[must_use]
    pub fn file(folder: &Path) -> PathBuf {
        folder.join(LOCK_FILE)
    }

    /// Takes the directory.
    ///
    /// # Errors
    /// [`SoleError`].
    pub fn take(folder: &Path) -> Result<Self, SoleError> {
        let path = Self::file(folder);
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = match opened {
            Ok(lock) => lock,
            Err(source) => return Err(SoleError::Lock { path, source }),
        };
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(SoleError::Taken(folder.to_owned())),
            Err(e) => Err(SoleError::Lock { path, source: e.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_told_that_somebody_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let first = Sole::take(folder.path()).unwrap();
        let refused = Sole::take(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("another collector runs on") && refused.contains("data_dir"), "{refused}");
        drop(first);
        Sole::take(folder.path()).unwrap();
    }

    #[test]
    fn of_many_that_begin_at_once_one_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let start = std::sync::Barrier::new(16);
        let taken: Vec<_> = std::thread::scope(|scope| {
            let take = || {
                start.wait();
                Sole::take(folder.path()).ok()
            };
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(take)).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(taken.len(), 1);
    }
}
