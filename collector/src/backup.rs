//! A copy of the running database, by SQLite's online backup. The copy is marked, so that whoever opens it to
//! collect with it draws a new incarnation: agents then serve again what it lacks.
//!
//! It is made under another name, and gets its own only once it is complete, marked and durable: a file of that
//! name is a backup, whenever this was cut off. Nothing here overwrites or keeps old copies.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, backup::Backup};
use rustix::fs::{CWD, RenameFlags};

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
    /// An earlier restore has kept something.
    #[error(
        "{0} was kept by an earlier restore, or left by one that was cut off: see what it is, and move it away"
    )]
    Kept(PathBuf),
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
/// is returned, where anything was, in one file: the log beside it belongs to it, and to no backup.
///
/// # Errors
/// [`BackupError`]; the database is in its place then, and, unless that is damaged, whole.
pub fn restore(from: &Path, database: &Path) -> Result<Option<PathBuf>, BackupError> {
    let (fresh, kept) = (with_suffix(database, ".restored"), with_suffix(database, ".replaced"));
    let beside = ["", "-wal", "-shm"].map(|suffix| with_suffix(&kept, suffix));
    let left = beside.into_iter().chain([fresh.clone()]).find(|path| fs::symlink_metadata(path).is_ok());
    if let Some(left) = left {
        return Err(BackupError::Kept(left));
    }
    let failed = |source| BackupError::Database { from: from.into(), to: database.into(), source };
    if let Some(damage) = damage(from).map_err(failed)? {
        return Err(BackupError::Damaged(from.to_owned(), damage));
    }
    // Of a copy that was cut off.
    drop(fs::remove_file(with_suffix(&fresh, ".partial")));
    backup(from, &fresh)?;
    let wrong = |source| BackupError::File { path: database.to_owned(), source };
    let before = match fs::metadata(database) {
        Ok(before) => Some(before),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(wrong(e)),
    };
    give(&fresh, before.as_ref().or(fs::metadata(folder_of(database)).ok().as_ref())).map_err(wrong)?;
    match before.as_ref().map(|_| fold(database)) {
        None | Some(Ok(())) => {}
        Some(Err(why)) if is_damage(&why) => {
            tracing::warn!(%why, "the database that was there is damaged, and kept with what lies beside it");
        }
        Some(Err(why)) => return Err(failed(why)),
    }
    // Beside another database a log would spoil it. There is none left but of what is damaged, or gone.
    for suffix in ["-wal", "-shm"] {
        match fs::rename(with_suffix(database, suffix), with_suffix(&kept, suffix)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(wrong(e)),
            _ => {}
        }
    }
    if before.is_some() {
        // In one step: whoever starts in between must not find nothing and begin anew.
        rustix::fs::renameat_with(CWD, &fresh, CWD, database, RenameFlags::EXCHANGE)
            .map_err(|e| wrong(e.into()))?;
        fs::rename(&fresh, &kept).map_err(wrong)?;
    } else {
        fs::rename(&fresh, database).map_err(wrong)?;
    }
    sync(folder_of(database)).map_err(wrong)?;
    Ok(before.map(|_| kept))
}

/// Writes what stands in the log of a database into its file, and ends the log.
fn fold(database: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open(database)?;
    let _: String = connection.query_row("PRAGMA journal_mode = DELETE", [], |r| r.get(0))?;
    connection.close().map_err(|(_, source)| source)
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Whoever runs the collector can write what a person puts there who may be another one.
pub(crate) fn give(file: &Path, like: Option<&fs::Metadata>) -> io::Result<()> {
    let (Some(like), own) = (like, fs::metadata(file)?) else { return Ok(()) };
    if (own.uid(), own.gid()) == (like.uid(), like.gid()) {
        return Ok(());
    }
    std::os::unix::fs::chown(file, Some(like.uid()), Some(like.gid()))
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
