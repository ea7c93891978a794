//! Frames that are kept but cannot be used, as rows; bounded per agent. Does not know why they cannot.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::id::CatalogHash;
use gapless_common::time::Timestamp;
use gapless_common::wire::DataHeader;
use rusqlite::{Connection, OptionalExtension, params};

use super::model::ParkReason;
use crate::ledger::AgentNo;

/// What a parked frame counts for beside its bytes: many small ones must not outgrow the bound as rows.
pub(crate) const ROW_BYTES: i64 = 256;

/// Catalogs that came while frames wait for them.
pub(super) const WAITING_FOR_KNOWN: &str = "SELECT DISTINCT p.agent, p.catalog FROM parked p
    JOIN catalogs c ON c.agent = p.agent AND c.hash = p.catalog WHERE p.reason = 1";
/// Catalogs that frames of agents which are connected wait for, and that were never asked for or did not come with the answer
/// that said they would: answers overtake and are lost one by one. One that does not come however often it is asked for is
/// one that is refused here; the next frame under it asks once more.
pub(super) const UNASKED: &str =
    "WITH waiting AS MATERIALIZED (SELECT agent, catalog FROM parked WHERE reason = 1
        GROUP BY agent, catalog)
    SELECT p.agent, p.catalog FROM waiting p JOIN agents a ON a.id = p.agent WHERE a.connected = 1
    AND NOT EXISTS (SELECT 1 FROM catalogs c WHERE c.agent = p.agent AND c.hash = p.catalog)
    AND (SELECT count(*) < ?3 AND coalesce(max(c.created_at), 0) <= ?1
            AND coalesce(max(c.outcome = 4 OR (c.outcome IS NULL AND c.expires_at > ?2)), 0) = 0
        FROM commands c WHERE c.agent = p.agent AND c.kind = 3 AND c.a = p.catalog)
    LIMIT 64";
/// So often a catalog is asked for without a new frame under it.
const ASKS_MAX: i64 = 8;
/// The first frame that waits for a catalog.
pub(super) const WAITING: &str =
    "SELECT id, bytes FROM parked WHERE agent = ?1 AND catalog = ?2 AND reason = 1 ORDER BY id LIMIT 1";
/// Frames that could not be read.
pub(super) const UNREADABLE: &str = "SELECT id, agent FROM parked WHERE reason > 1 ORDER BY id";

/// A frame to be kept.
pub(crate) struct New<'a> {
    pub(crate) agent: AgentNo,
    pub(crate) header: &'a DataHeader,
    pub(crate) reason: ParkReason,
    pub(crate) detail: &'a str,
    pub(crate) bytes: &'a [u8],
    pub(crate) at: Timestamp,
}

fn code(reason: ParkReason) -> i64 {
    match reason {
        ParkReason::UnknownCatalog => 1,
        ParkReason::UnknownVersion => 2,
        ParkReason::Nonsense => 3,
    }
}

/// The reason of a stored code.
pub(crate) fn reason(code: i64) -> Option<ParkReason> {
    [ParkReason::UnknownCatalog, ParkReason::UnknownVersion, ParkReason::Nonsense]
        .into_iter()
        .find(|r| self::code(*r) == code)
}

/// What the parked frames of each agent take.
pub(crate) fn held(connection: &Connection) -> rusqlite::Result<BTreeMap<AgentNo, i64>> {
    let sql = "SELECT agent, sum(length(bytes) + ?1) FROM parked GROUP BY agent";
    let mut statement = connection.prepare(sql)?;
    statement.query_map([ROW_BYTES], |r| Ok((AgentNo(r.get(0)?), r.get(1)?)))?.collect()
}

/// Catalogs that frames wait for, that nobody was asked for since `until`, and nobody is at `now`.
pub(crate) fn unasked(
    connection: &Connection,
    until: Timestamp,
    now: Timestamp,
) -> rusqlite::Result<Vec<(AgentNo, CatalogHash)>> {
    let mut statement = connection.prepare_cached(UNASKED)?;
    let rows = statement.query_map([until.0, now.0, ASKS_MAX], |r| {
        Ok((AgentNo(r.get(0)?), CatalogHash(r.get::<_, i64>(1)?.cast_unsigned())))
    })?;
    rows.collect()
}

/// Catalogs that came while frames wait for them.
pub(crate) fn waiting_for_known(
    connection: &Connection,
) -> rusqlite::Result<BTreeSet<(AgentNo, CatalogHash)>> {
    let mut statement = connection.prepare(WAITING_FOR_KNOWN)?;
    let each =
        |r: &rusqlite::Row<'_>| Ok((AgentNo(r.get(0)?), CatalogHash(r.get::<_, i64>(1)?.cast_unsigned())));
    statement.query_map([], each)?.collect()
}

/// Keeps the frame, where the agent's bound allows it; `held` is what its frames take. A frame that is kept already
/// takes no more room.
pub(crate) fn keep(
    connection: &Connection,
    new: &New<'_>,
    held: &mut i64,
    bytes_max: i64,
) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM parked WHERE agent = ?1 AND epoch = ?2 AND first_seq = ?3 AND count = ?4)";
    let key = [
        new.agent.0,
        new.header.epoch.0.cast_signed(),
        new.header.first.0.cast_signed(),
        new.header.count.cast_signed(),
    ];
    if connection.prepare_cached(sql)?.query_row(key, |r| r.get(0))? {
        return Ok(true);
    }
    let more =
        held.saturating_add(ROW_BYTES).saturating_add(i64::try_from(new.bytes.len()).unwrap_or(i64::MAX));
    if more > bytes_max {
        return Ok(false);
    }
    *held = more;
    let sql = "INSERT INTO parked
        (agent, epoch, first_seq, count, catalog, reason, detail, bytes, received_at)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    connection.prepare_cached(sql)?.execute(params![
        new.agent.0,
        new.header.epoch.0.cast_signed(),
        new.header.first.0.cast_signed(),
        new.header.count.cast_signed(),
        new.header.catalog.0.cast_signed(),
        code(new.reason),
        new.detail,
        new.bytes,
        new.at.0
    ])?;
    Ok(true)
}

/// The first frame that waits for this catalog.
pub(crate) fn waiting(
    connection: &Connection,
    agent: AgentNo,
    catalog: CatalogHash,
) -> rusqlite::Result<Option<(i64, Vec<u8>)>> {
    let key = [agent.0, catalog.0.cast_signed()];
    connection.prepare_cached(WAITING)?.query_row(key, |r| Ok((r.get(0)?, r.get(1)?))).optional()
}

/// The frames that could not be read, with their agents.
pub(crate) fn unreadable(connection: &Connection) -> rusqlite::Result<Vec<(i64, AgentNo)>> {
    let mut statement = connection.prepare_cached(UNREADABLE)?;
    statement.query_map([], |r| Ok((r.get(0)?, AgentNo(r.get(1)?))))?.collect()
}

/// One frame's bytes.
pub(crate) fn bytes(connection: &Connection, id: i64) -> rusqlite::Result<Vec<u8>> {
    connection.prepare_cached("SELECT bytes FROM parked WHERE id = ?1")?.query_row([id], |r| r.get(0))
}

/// A frame can be read now, but not used before its catalog comes.
pub(crate) fn wait_for_catalog(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    let sql = "UPDATE parked SET reason = ?2, detail = 'its catalog has not come yet' WHERE id = ?1";
    connection.prepare_cached(sql)?.execute([id, code(ParkReason::UnknownCatalog)]).map(drop)
}

/// A frame's catalog came, and it makes no sense under it.
pub(crate) fn is_nonsense(connection: &Connection, id: i64, detail: &str) -> rusqlite::Result<()> {
    let sql = "UPDATE parked SET reason = ?2, detail = ?3 WHERE id = ?1";
    connection.prepare_cached(sql)?.execute(params![id, code(ParkReason::Nonsense), detail]).map(drop)
}

/// Whose frame it is, where there is such a one.
pub(crate) fn agent(connection: &Connection, id: i64) -> rusqlite::Result<Option<AgentNo>> {
    let sql = "SELECT agent FROM parked WHERE id = ?1";
    connection.prepare_cached(sql)?.query_row([id], |r| r.get(0).map(AgentNo)).optional()
}

/// A frame was used after all, or a person discards it.
pub(crate) fn forget(connection: &Connection, id: i64, held: &mut i64) -> rusqlite::Result<()> {
    let sql = "DELETE FROM parked WHERE id = ?1 RETURNING length(bytes)";
    let bytes: i64 = connection.prepare_cached(sql)?.query_row([id], |r| r.get(0))?;
    *held = held.saturating_sub(bytes.saturating_add(ROW_BYTES));
    Ok(())
}
