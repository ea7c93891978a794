//! What a source of this process finds of itself in the database. Reads only.

use std::collections::BTreeMap;

use gapless_common::id::{Epoch, Seq};
use gapless_common::message::Command;
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;
use rusqlite::{Connection, OptionalExtension as _};

use super::{cell, commands};
use crate::ledger::AgentNo;

/// An agent of a source.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// The last epoch of it, and the first seq that it did not use.
    pub(crate) previous: Option<(Epoch, Seq)>,
    /// Everything before it is accounted for.
    pub(crate) proven_until: Option<Timestamp>,
    /// Whether its device is not to be asked.
    pub(crate) is_stopped: bool,
    /// What is known of its device.
    pub(crate) attributes: BTreeMap<String, String>,
}

/// What there is of an agent with one device.
pub(crate) fn known(
    connection: &Connection,
    path: &AgentPath,
    device: &str,
) -> rusqlite::Result<Option<Known>> {
    let Some(no) = number(connection, path)? else { return Ok(None) };
    let sql =
        "SELECT epoch, committed FROM epochs WHERE agent = ?1 AND started = 1 ORDER BY place DESC LIMIT 1";
    let row = |r: &rusqlite::Row<'_>| Ok((r.get::<_, i64>(0)?.cast_unsigned(), r.get::<_, Vec<u8>>(1)?));
    let previous = connection.query_row(sql, [no.0], row).optional()?;
    let previous = previous.map(|(epoch, committed)| {
        let last = cell::set_of(&committed).iter().map(|(_, last)| last).max();
        (Epoch(epoch), Seq(last.map_or(1, |last| last.saturating_add(1))))
    });
    let sql = "SELECT d.attributes, d.stopped IS NOT NULL, (SELECT max((p.proven_slot + 1) * g.interval_ms + g.phase_ms)
            FROM spans p JOIN grids g ON g.id = p.grid WHERE g.device = d.id)
        FROM devices d JOIN agents a ON a.site = d.site WHERE a.id = ?1 AND d.name = ?2";
    let row = |r: &rusqlite::Row<'_>| Ok((r.get::<_, String>(0)?, r.get(1)?, r.get::<_, Option<i64>>(2)?));
    let found = connection.query_row(sql, rusqlite::params![no.0, device], row).optional()?;
    Ok(found.map(|(attributes, is_stopped, proven)| Known {
        is_stopped,
        previous,
        proven_until: proven.map(Timestamp),
        attributes: serde_json::from_str(&attributes).unwrap_or_default(),
    }))
}

fn number(connection: &Connection, path: &AgentPath) -> rusqlite::Result<Option<AgentNo>> {
    let sql = "SELECT a.id FROM agents a JOIN sites s ON s.id = a.site WHERE s.name = ?1 AND a.name = ?2";
    let names = [path.site.as_str(), path.agent.as_str()];
    connection.prepare_cached(sql)?.query_row(names, |r| r.get(0).map(AgentNo)).optional()
}

/// Whether the agent counts as connected, and what it is told to do.
pub(crate) fn told(
    connection: &Connection,
    path: &AgentPath,
    now: Timestamp,
) -> rusqlite::Result<(bool, Vec<Command>)> {
    let Some(no) = number(connection, path)? else { return Ok((false, Vec::new())) };
    let sql = "SELECT connected = 1 FROM agents WHERE id = ?1";
    let is_there = connection.prepare_cached(sql)?.query_row([no.0], |r| r.get(0))?;
    Ok((is_there, commands::open(connection, no, now)?))
}
