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
    /// What is to be put back is damaged.
    #[error("{0} is damaged, and nothing was changed: {1}; put back another backup")]
    Damaged(PathBuf, String),
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

/// Puts a copy of the backup `from` in the place of `database`, while no collector runs. What was there is kept under the name that
/// is returned, where anything was: whatever lies beside it belongs to it, and to no backup.
///
/// # Errors
/// [`BackupError`]; the database is as it was then.
pub fn restore(from: &Path, database: &Path) -> Result<Option<PathBuf>, BackupError> {
    let (fresh, before) = (with_suffix(database, ".restored"), with_suffix(database, ".replaced"));
    if fs::symlink_metadata(&before).is_ok() {
        return Err(BackupError::Exists(before));
    }
    let damage = damage(from).map_err(|source| BackupError::Database {
        from: from.into(),
        to: database.into(),
        source,
    })?;
    if let Some(damage) = damage {
        return Err(BackupError::Damaged(from.to_owned(), damage));
    }
    backup(from, &fresh)?;
    let there = fs::symlink_metadata(database).is_ok();
    let moved = ["-wal", "-shm", ""].iter().try_for_each(|suffix| {
        match fs::rename(with_suffix(database, suffix), with_suffix(&before, suffix)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    });
    let failed = |source| BackupError::File { path: database.to_owned(), source };
    moved
        .and_then(|()| fs::rename(&fresh, database))
        .and_then(|()| sync(folder_of(database)))
        .map_err(failed)?;
    Ok(there.then_some(before))
}

/// What SQLite finds wrong with a file first.
fn damage(file: &Path) -> rusqlite::Result<Option<String>> {
    let said: String = sqlite::open_reader(file)?.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
    Ok((said != "ok").then_some(said))
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
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
    sync(folder_of(to)).map_err(failed)
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
