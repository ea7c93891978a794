//! What a source of this process finds of itself in the database, and the calls that it makes.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::id::{AgentId, Epoch, Seq, SiteId};
use gapless_common::message::Command;
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;
use rusqlite::{Connection, OptionalExtension as _};

use super::{cell, commands, jobs};
use crate::jobs::budget::Urgency;
use crate::ledger::AgentNo;

/// An agent of a source.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// The last epoch of it, and the first seq that it did not use.
    pub(crate) previous: Option<(Epoch, Seq)>,
    /// Everything before it is accounted for.
    pub(crate) proven_until: Option<Timestamp>,
    /// Since when it is due.
    pub(crate) due_since: Option<Timestamp>,
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
            FROM spans p JOIN grids g ON g.id = p.grid WHERE g.device = d.id),
            (SELECT min(p.first_slot * g.interval_ms + g.phase_ms) FROM spans p JOIN grids g ON g.id = p.grid WHERE g.device = d.id)
        FROM devices d JOIN agents a ON a.site = d.site WHERE a.id = ?1 AND d.name = ?2";
    let row = |r: &rusqlite::Row<'_>| {
        let (proven, due): (Option<i64>, Option<i64>) = (r.get(2)?, r.get(3)?);
        Ok(Known {
            is_stopped: r.get(1)?,
            previous,
            proven_until: proven.map(Timestamp),
            due_since: due.map(Timestamp),
            attributes: serde_json::from_str(&r.get::<_, String>(0)?).unwrap_or_default(),
        })
    };
    connection.query_row(sql, rusqlite::params![no.0, device], row).optional()
}

/// The stretches of a device, half open, that are missing and still asked for.
pub(crate) fn missing(
    connection: &Connection,
    path: &AgentPath,
    device: &str,
) -> rusqlite::Result<Vec<(Timestamp, Timestamp)>> {
    let sql = "SELECT p.from_ts, p.to_ts FROM gaps p JOIN grids g ON g.id = p.grid
        JOIN devices d ON d.id = g.device JOIN sites s ON s.id = d.site
        WHERE s.name = ?1 AND d.name = ?2 AND p.state IN (1, 3, 4) ORDER BY p.from_ts";
    let row = |r: &rusqlite::Row<'_>| Ok((Timestamp(r.get(0)?), Timestamp(r.get(1)?)));
    connection.prepare(sql)?.query_map([path.site.as_str(), device], row)?.collect()
}

pub(super) fn number(connection: &Connection, path: &AgentPath) -> rusqlite::Result<Option<AgentNo>> {
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

/// What there is to do for the agents of this process, seen for all of them at once.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    connected: BTreeSet<AgentPath>,
    open: BTreeMap<AgentPath, Vec<Open>>,
}

/// A command that is neither answered nor expired.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Open {
    pub(crate) command: Command,
    /// As its job, or as what can wait where it is for none.
    pub(crate) urgency: Urgency,
}

impl Scan {
    /// As of now.
    pub(crate) fn read(connection: &Connection, now: Timestamp) -> rusqlite::Result<Self> {
        let path = |site: &str, agent: &str| {
            Some(AgentPath { site: SiteId::new(site).ok()?, agent: AgentId::new(agent).ok()? })
        };
        let sql = "SELECT s.name, a.name FROM agents a JOIN sites s ON s.id = a.site WHERE a.connected = 1";
        let mut statement = connection.prepare_cached(sql)?;
        let row = |r: &rusqlite::Row<'_>| Ok(path(&r.get::<_, String>(0)?, &r.get::<_, String>(1)?));
        let connected = statement.query_map([], row)?.filter_map(Result::transpose);
        let mut scan = Self { connected: connected.collect::<rusqlite::Result<_>>()?, ..Self::default() };
        for (site, agent, command) in commands::open_of_all(connection, now)? {
            let Some(path) = path(&site, &agent) else { continue };
            let urgency = jobs::urgency(connection, command.id, now)?;
            scan.open.entry(path).or_default().push(Open { command, urgency });
        }
        Ok(scan)
    }

    /// Whether an agent counts as connected.
    pub(crate) fn is_there(&self, path: &AgentPath) -> bool {
        self.connected.contains(path)
    }

    /// What an agent is told to do.
    pub(crate) fn open(&self, path: &AgentPath) -> &[Open] {
        self.open.get(path).map_or(&[], Vec::as_slice)
    }
}

/// The devices of a site that a source lists, or has listed: name and attributes.
pub(crate) fn listed(
    connection: &Connection,
    site: &str,
    source: &str,
) -> rusqlite::Result<Vec<(String, BTreeMap<String, String>)>> {
    let sql = "SELECT d.name, d.attributes FROM devices d JOIN sites s ON s.id = d.site
        WHERE s.name = ?1 AND d.attributes ->> 'source' = ?2 AND d.attributes ->> 'listed_id' IS NOT NULL ORDER BY d.id";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([site, source], |r| {
        Ok((r.get(0)?, serde_json::from_str(&r.get::<_, String>(1)?).unwrap_or_default()))
    })?;
    rows.collect()
}

/// The names of all devices of a site.
pub(crate) fn device_names(connection: &Connection, site: &str) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT d.name FROM devices d JOIN sites s ON s.id = d.site WHERE s.name = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([site], |r| r.get(0))?.collect()
}

/// The calls that were made for an account from `since` on, in order.
pub(crate) fn calls(
    connection: &Connection,
    account: &str,
    since: Timestamp,
) -> rusqlite::Result<Vec<Timestamp>> {
    let sql = "SELECT at FROM calls WHERE account = ?1 AND at >= ?2 ORDER BY at";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map(rusqlite::params![account, since.0], |r| r.get(0).map(Timestamp))?.collect()
}

/// Notes a call that is about to be made, and forgets those before `since`. Those of a time that has not come were made before the
/// clock was set back, and are taken for made now.
pub(crate) fn called(
    connection: &Connection,
    account: &str,
    at: Timestamp,
    since: Timestamp,
) -> rusqlite::Result<()> {
    let sql = "UPDATE calls SET at = ?2 WHERE account = ?1 AND at > ?2";
    connection.prepare_cached(sql)?.execute(rusqlite::params![account, at.0])?;
    let sql = "INSERT INTO calls (account, at) VALUES (?1, ?2)";
    connection.prepare_cached(sql)?.execute(rusqlite::params![account, at.0])?;
    let sql = "DELETE FROM calls WHERE account = ?1 AND at < ?2";
    connection.prepare_cached(sql)?.execute(rusqlite::params![account, since.0]).map(drop)
}
