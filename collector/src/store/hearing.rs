//! When the collector heard nobody, as rows: it did not run, or its broker was away.

use gapless_common::time::Timestamp;
use rusqlite::Connection;

use super::sqlite;
use crate::alerts::absence::Absence;

/// So many absences are kept, and no older ones: what they were about has long been told.
const ABSENCES_MAX: i64 = 256;

/// Up to when messages could come, as far as that was written down.
pub(crate) fn heard_until(connection: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    Ok(sqlite::meta(connection, "heard_until")?.map(Timestamp))
}

/// Writes that down.
pub(crate) fn hears(connection: &Connection, at: Timestamp) -> rusqlite::Result<()> {
    let sql = "INSERT INTO meta VALUES ('heard_until', ?1) ON CONFLICT DO UPDATE SET value = ?1";
    connection.prepare_cached(sql)?.execute([at.0]).map(drop)
}

/// An absence is over.
pub(crate) fn is_back(connection: &Connection, (from, to): Absence) -> rusqlite::Result<()> {
    let sql = "INSERT INTO unheard VALUES (?1, ?2) ON CONFLICT DO UPDATE SET to_at = max(to_at, ?2)";
    connection.prepare_cached(sql)?.execute([from.0, to.0])?;
    let sql = "DELETE FROM unheard WHERE from_at <= (SELECT from_at FROM unheard ORDER BY from_at DESC LIMIT 1 OFFSET ?1)";
    connection.prepare_cached(sql)?.execute([ABSENCES_MAX]).map(drop)
}

/// The absences up to `now`, in order. What was written down by a clock that was ahead is still to come, and was none.
pub(crate) fn absences(connection: &Connection, now: Timestamp) -> rusqlite::Result<Vec<Absence>> {
    let sql = "SELECT from_at, min(to_at, ?1) FROM unheard WHERE from_at < ?1 ORDER BY from_at";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([now.0], |r| Ok((Timestamp(r.get(0)?), Timestamp(r.get(1)?))))?.collect()
}
