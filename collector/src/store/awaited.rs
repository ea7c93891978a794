//! Who asked for a device that its source cannot reach, as rows: kept until they were told that it is back, or were served.
//! Decides nothing.

use gapless_common::time::Timestamp;
use rusqlite::{Connection, params};

use crate::alerts::Kind;
use crate::obstacle;

/// Whether it is known that somebody waits for a device.
pub(crate) fn is_known(connection: &Connection, device: i64, actor: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM awaited WHERE device = ?1 AND actor = ?2)";
    connection.prepare_cached(sql)?.query_row(params![device, actor], |r| r.get(0))
}

/// Somebody waits for a device; each is noted once.
pub(crate) fn note(
    connection: &Connection,
    device: i64,
    actor: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let sql = "INSERT OR IGNORE INTO awaited (device, actor, at) VALUES (?1, ?2, ?3)";
    connection.prepare_cached(sql)?.execute(params![device, actor, now.0]).map(drop)
}

/// A device was asked: who waited for it waits no more, unless its source cannot reach it or they are still to be told that it can.
pub(crate) fn served(connection: &Connection, device: i64) -> rusqlite::Result<()> {
    let sql = "DELETE FROM awaited WHERE device = ?1
        AND NOT EXISTS (SELECT 1 FROM devices d WHERE d.id = ?1 AND d.attributes ->> ?2 IS NOT NULL)
        AND NOT EXISTS (SELECT 1 FROM alerts WHERE device = ?1 AND kind = ?3 AND resolved_at IS NULL)";
    let [since, _] = obstacle::Kind::Unreachable.keys();
    connection.prepare_cached(sql)?.execute(params![device, since, Kind::Unreachable.code()]).map(drop)
}

/// An alert is over that says of its device that it cannot be reached: it keeps who waited, and they wait no more.
pub(crate) fn told(connection: &Connection, alert: i64) -> rusqlite::Result<()> {
    let code = Kind::Unreachable.code();
    let sql = "UPDATE alerts SET awaited_by = (SELECT group_concat(actor, ', ') FROM awaited w WHERE w.device = alerts.device)
        WHERE id = ?1 AND kind = ?2";
    if connection.prepare_cached(sql)?.execute([alert, code])? > 0 {
        let sql = "DELETE FROM awaited WHERE device = (SELECT device FROM alerts WHERE id = ?1)";
        connection.prepare_cached(sql)?.execute([alert])?;
    }
    Ok(())
}
