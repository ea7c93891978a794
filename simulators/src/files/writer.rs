//! The thread that does to the files what the logger says.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::logger::{Deed, FileConfig, Logger};
use crate::campbell::fields::Cell;
use crate::clock;

/// How often it is seen what is due.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A logger that writes. It ends when it is dropped.
#[derive(Debug)]
pub struct FileLogger {
    logger: Arc<Mutex<Logger>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

fn locked(logger: &Mutex<Logger>) -> MutexGuard<'_, Logger> {
    logger.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FileLogger {
    /// Writes what it has from before, and goes on.
    ///
    /// # Errors
    /// Where the folder cannot be written to.
    pub fn start(config: FileConfig) -> io::Result<Self> {
        fs::create_dir_all(&config.folder)?;
        let files = Files {
            path: config.folder.join(format!("{}.dat", config.name)),
            pause: Duration::from_millis(config.interval_ms.unsigned_abs() / 2),
        };
        let (logger, deeds) = Logger::begin(config, clock::now().wall_ms);
        files.all(deeds)?;
        let (logger, stop) = (Arc::new(Mutex::new(logger)), Arc::new(AtomicBool::new(false)));
        let (own, stopped) = (Arc::clone(&logger), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let deeds = locked(&own).due(clock::now().wall_ms);
                if deeds.is_empty() {
                    thread::sleep(LOOK_EVERY);
                }
                files.all(deeds)?;
            }
            Ok(())
        });
        Ok(Self { logger, stop, thread: Some(thread) })
    }

    /// What a field holds in the row of an instant of the logger's clock, as UTC if its zone is right.
    #[must_use]
    pub fn truth(&self, field: &str, own_utc_ms: i64) -> Option<Cell> {
        locked(&self.logger).truth(field, own_utc_ms)
    }

    /// Another program runs from now on.
    pub fn change_program(&self) {
        locked(&self.logger).change_program();
    }

    /// Its clock is put forward or (where negative) back.
    pub fn step_clock(&self, by_ms: i64) {
        locked(&self.logger).step_clock(by_ms, clock::now().wall_ms);
    }

    /// Ends it.
    ///
    /// # Errors
    /// What went wrong while it wrote.
    pub fn stop(&mut self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), |thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the writing thread panicked")))
        })
    }
}

impl Drop for FileLogger {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Where the files are.
struct Files {
    path: PathBuf,
    /// Between two halves of a row.
    pause: Duration,
}

impl Files {
    fn all(&self, deeds: Vec<Deed>) -> io::Result<()> {
        deeds.into_iter().try_for_each(|deed| self.one(&deed))
    }

    fn one(&self, deed: &Deed) -> io::Result<()> {
        match deed {
            Deed::Append(bytes) => append(&self.path, bytes),
            Deed::Halves(first, second) => {
                append(&self.path, first)?;
                thread::sleep(self.pause);
                append(&self.path, second)
            }
            Deed::Replace(bytes) => replace(&self.path, bytes),
            Deed::Rename(name) => fs::rename(&self.path, self.path.with_file_name(name)),
            Deed::Remove(name) => fs::remove_file(self.path.with_file_name(name)),
        }
    }
}

fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).open(path)?.write_all(bytes)
}

/// As programs do that never leave half a file: another one takes its name.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    File::create(&new)?.write_all(bytes)?;
    fs::rename(new, path)
}
