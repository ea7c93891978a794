//! Bytes on the link, by agent and day: what comes is counted with what it brings, what is sent with the next transaction.
//! A kill between the two forgets the last answers' bytes, and nothing else.

use gapless_common::id::SiteId;
use gapless_common::time::Timestamp;
use rusqlite::{Connection, params};

use super::model::TrafficRow;
use super::rows::{count, name};
use super::{ReadError, read};
use crate::ledger::AgentNo;

/// Days that are kept: a year, and the month before it to compare with.
const DAYS_KEPT: i64 = 400;
const DAY_MS: i64 = 86_400_000;

/// The day (since 1970, UTC) of an instant.
pub(crate) const fn day_of(at: Timestamp) -> i64 {
    at.0.div_euclid(DAY_MS)
}

/// Adds bytes that an agent has sent.
pub(crate) fn received(
    connection: &Connection,
    agent: AgentNo,
    bytes: i64,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let sql = "UPDATE agents SET received_bytes = received_bytes + ?2 WHERE id = ?1 AND ?2 > 0";
    if connection.prepare_cached(sql)?.execute([agent.0, bytes])? == 0 {
        return Ok(());
    }
    of_day(connection, agent, (bytes, 0), now)
}

/// Adds bytes sent to an agent. One that has sent none is a source of this process: nothing goes over a link.
pub(crate) fn sent(
    connection: &Connection,
    agent: AgentNo,
    bytes: i64,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let sql = "UPDATE agents SET sent_bytes = sent_bytes + ?2 WHERE id = ?1 AND received_bytes > 0";
    if connection.prepare_cached(sql)?.execute([agent.0, bytes])? == 0 {
        return Ok(());
    }
    of_day(connection, agent, (0, bytes), now)
}

fn of_day(
    connection: &Connection,
    agent: AgentNo,
    (received, sent): (i64, i64),
    now: Timestamp,
) -> rusqlite::Result<()> {
    let today = day_of(now);
    let sql = "UPDATE traffic SET received_bytes = received_bytes + ?3, sent_bytes = sent_bytes + ?4
        WHERE agent = ?1 AND day = ?2";
    if connection.prepare_cached(sql)?.execute([agent.0, today, received, sent])? > 0 {
        return Ok(());
    }
    let sql = "INSERT INTO traffic VALUES (?1, ?2, ?3, ?4)";
    connection.prepare_cached(sql)?.execute([agent.0, today, received, sent])?;
    let sql = "DELETE FROM traffic WHERE agent = ?1 AND day < ?2";
    connection.prepare_cached(sql)?.execute([agent.0, today - DAYS_KEPT]).map(drop)
}

/// Bytes by site and day.
pub(super) fn by_day(
    connection: &Connection,
    site: Option<&SiteId>,
    (from, to): (Timestamp, Timestamp),
) -> Result<Vec<TrafficRow>, ReadError> {
    let sql = "SELECT s.name, t.day, sum(t.received_bytes) AS received, sum(t.sent_bytes) AS sent FROM traffic t
        JOIN agents a ON a.id = t.agent JOIN sites s ON s.id = a.site
        WHERE (?1 IS NULL OR s.name = ?1) AND t.day BETWEEN ?2 AND ?3 GROUP BY s.name, t.day ORDER BY s.name, t.day";
    let values = params![site.map(SiteId::as_str), day_of(from), day_of(to)];
    read::rows(connection, sql, values, |r| {
        Ok(TrafficRow {
            site: name!(r, "name", SiteId),
            day: Timestamp(r.get::<_, i64>("day")?.saturating_mul(DAY_MS)),
            received_bytes: count(r, "received")?,
            sent_bytes: count(r, "sent")?,
        })
    })
}
