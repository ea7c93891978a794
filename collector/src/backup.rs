//! A copy of the running database, by SQLite's online backup. The copy is marked, so that whoever opens it to
//! collect with it draws a new incarnation: agents then serve again what it lacks.
//!
//! It is made under another name, and gets its own only once it is complete, marked and durable: a file of that
//! name is a backup, whenever this was cut off. Nothing here overwrites or keeps old copies.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, backup::Backup};

use crate::store::sqlite;

/// Pages copied at a time, and the pause after them, so that the collector goes on meanwhile.
const PAGES_PER_STEP: std::ffi::c_int = 1_000;
const PAUSE: Duration = Duration::from_millis(5);

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is something already.
    #[error("{0} exists already; a backup never overwrites: name another file, or move this one away")]
    Exists(PathBuf),
    /// There is an unfinished copy.
    #[error("{0} exists: another backup is under way, or was cut off; remove it if none is")]
    Unfinished(PathBuf),
    /// A file could not be made, synced, or given its name.
    #[error("cannot write {path}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A database failed.
    #[error("cannot copy {from} to {to}")]
    Database {
        /// The running one.
        from: PathBuf,
        /// The copy.
        to: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}

/// Copies the database at `from` to the new file `to`, as it is at this instant.
///
/// # Errors
/// [`BackupError`]; nothing is left behind then.
pub fn backup(from: &Path, to: &Path) -> Result<(), BackupError> {
    if fs::symlink_metadata(to).is_ok() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let partial = with_suffix(to, ".partial");
    File::create_new(&partial).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => BackupError::Unfinished(partial.clone()),
        _ => BackupError::File { path: partial.clone(), source },
    })?;
    let outcome = complete(from, &partial, to);
    if outcome.is_err() {
        // What failed is told already, and says more than a failure to tidy up would.
        let journal = with_suffix(&partial, "-journal");
        [&partial, &journal].into_iter().for_each(|file| drop(fs::remove_file(file)));
    }
    outcome
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn complete(from: &Path, partial: &Path, to: &Path) -> Result<(), BackupError> {
    copy(from, partial).map_err(|source| BackupError::Database {
        from: from.into(),
        to: to.into(),
        source,
    })?;
    let failed = |source| BackupError::File { path: to.to_owned(), source };
    sync(partial).map_err(failed)?;
    fs::rename(partial, to).map_err(failed)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync(folder).map_err(failed)
}

#[expect(clippy::disallowed_methods, reason = "a backup is a file of its own, which no store syncs")]
fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn copy(from: &Path, to: &Path) -> rusqlite::Result<()> {
    let running = sqlite::open_reader(from)?;
    // One snapshot for all steps: SQLite begins the copy again whenever somebody has written between two.
    running.execute_batch("BEGIN; SELECT count(*) FROM meta")?;
    let mut copy = Connection::open(to)?;
    Backup::new(&running, &mut copy)?.run_to_completion(PAGES_PER_STEP, PAUSE, None)?;
    let _: String = copy.query_row("PRAGMA journal_mode = DELETE", [], |r| r.get(0))?;
    copy.pragma_update(None, "synchronous", "FULL")?;
    copy.execute("INSERT OR REPLACE INTO meta VALUES ('needs_incarnation', 1)", [])?;
    copy.close().map_err(|(_, source)| source)
}
