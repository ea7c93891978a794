//! A copy of the running database, by SQLite's online backup. The copy is marked, so that whoever opens it to
//! collect with it draws a new incarnation: agents then serve again what it lacks.

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
    #[error("{0} exists already; a backup never overwrites")]
    Exists(PathBuf),
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

/// Copies the database at `from` to the new file `to`.
///
/// # Errors
/// [`BackupError`].
pub fn backup(from: &Path, to: &Path) -> Result<(), BackupError> {
    if to.exists() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    copy(from, to).map_err(|source| BackupError::Database { from: from.into(), to: to.into(), source })
}

fn copy(from: &Path, to: &Path) -> rusqlite::Result<()> {
    let running = sqlite::open_reader(from)?;
    let mut copy = Connection::open(to)?;
    Backup::new(&running, &mut copy)?.run_to_completion(PAGES_PER_STEP, PAUSE, None)?;
    let _: String = copy.query_row("PRAGMA journal_mode = DELETE", [], |r| r.get(0))?;
    copy.pragma_update(None, "synchronous", "FULL")?;
    copy.execute("INSERT OR REPLACE INTO meta VALUES ('needs_incarnation', 1)", []).map(drop)
}
