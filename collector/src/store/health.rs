//! What an agent says of its gateway, as rows. Decides nothing.

use gapless_common::id::ConnectionId;
use gapless_common::message::OutboxFill;
use gapless_common::time::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::alerts::clock::Watched;
use crate::ledger::AgentNo;

/// The start of an agent's machine as its birth on this connection had it, and what is known of its clock; `None` where it
/// was not born on it.
pub(crate) fn watched(
    connection: &Connection,
    agent: AgentNo,
    id: ConnectionId,
) -> rusqlite::Result<Option<(i64, Option<Watched>)>> {
    let sql = "SELECT boot, clock_boot, clock_began, clock_ahead_ms, clock_at, clock_since FROM agents
        WHERE id = ?1 AND connection = ?2 AND connected = 1 AND boot IS NOT NULL";
    let row = |r: &Row<'_>| {
        let watched = match r.get::<_, Option<i64>>(1)? {
            None => None,
            Some(boot) => Some(Watched {
                boot,
                boot_began: Timestamp(r.get(2)?),
                ahead_ms: r.get(3)?,
                at: Timestamp(r.get(4)?),
                since: Timestamp(r.get(5)?),
            }),
        };
        Ok((r.get(0)?, watched))
    };
    connection.prepare_cached(sql)?.query_row(params![agent.0, id.0], row).optional()
}

/// Writes down what it says of its outbox.
pub(crate) fn outbox(connection: &Connection, agent: AgentNo, fill: OutboxFill) -> rusqlite::Result<()> {
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let sql = "UPDATE agents SET outbox_owed = ?2, outbox_budget = ?3 WHERE id = ?1";
    let row = [agent.0, bytes(fill.owed_bytes), bytes(fill.most_bytes)];
    connection.prepare_cached(sql)?.execute(row).map(drop)
}

/// The columns of what an agent said of its outbox.
pub(crate) fn fill(owed: Option<i64>, most: Option<i64>) -> Option<OutboxFill> {
    let bytes = |bytes: i64| u64::try_from(bytes).unwrap_or_default();
    owed.zip(most).map(|(owed, most)| OutboxFill { owed_bytes: bytes(owed), most_bytes: bytes(most) })
}

/// Writes down what is known of its clock. How far that is off stays as it was where it is not certain yet.
pub(crate) fn clock(connection: &Connection, agent: AgentNo, watched: &Watched) -> rusqlite::Result<()> {
    let Watched { boot, boot_began, ahead_ms, at, since } = watched;
    let sql = "UPDATE agents SET clock_boot = ?2, clock_began = ?3, clock_ahead_ms = ?4, clock_at = ?5, clock_since = ?6,
        clock_off_ms = coalesce(?7, clock_off_ms) WHERE id = ?1";
    let row = params![agent.0, boot, boot_began.0, ahead_ms, at.0, since.0, watched.off_ms()];
    connection.prepare_cached(sql)?.execute(row).map(drop)
}
