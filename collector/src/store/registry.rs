//! Numbers of sites, agents, devices, grids and series, and what an agent's catalog means in them. Kept in
//! memory beside the writer; the rows are the truth, and after a failed transaction it is made anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::CatalogHash;
use gapless_common::time::{SlotGrid, Timestamp};
use gapless_common::topic::AgentPath;
use rusqlite::{Connection, OptionalExtension, params};

use crate::ledger::{AgentNo, DeviceNo, Due, GridNo};

/// One device of a bound catalog.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    pub(crate) due: Due,
    /// By channel index.
    pub(crate) series: Vec<i64>,
    /// What it says last of an instant counts: its source revises what it said before.
    pub(crate) revises: bool,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    agents: BTreeMap<AgentPath, AgentNo>,
    paths: BTreeMap<AgentNo, AgentPath>,
    sites: BTreeMap<AgentNo, i64>,
    catalogs: BTreeMap<(AgentNo, CatalogHash), Arc<Vec<Bound>>>,
}

impl Registry {
    pub(crate) fn path(&self, no: AgentNo) -> Option<&AgentPath> {
        self.paths.get(&no)
    }

    pub(crate) fn number(&self, path: &AgentPath) -> Option<AgentNo> {
        self.agents.get(path).copied()
    }

    pub(crate) fn bound(&self, no: AgentNo, hash: CatalogHash) -> Option<Arc<Vec<Bound>>> {
        self.catalogs.get(&(no, hash)).cloned()
    }

    /// How many catalogs of the agent are kept, and how many devices and channels they have together.
    pub(crate) fn size_of(&self, no: AgentNo) -> (usize, usize) {
        let range = (no, CatalogHash(u64::MIN))..=(no, CatalogHash(u64::MAX));
        let kept = || self.catalogs.range(range.clone()).map(|(_, bound)| bound);
        (kept().count(), kept().flat_map(|bound| bound.iter()).map(|b| 1 + b.series.len()).sum())
    }

    /// The agent's number; makes site and agent where they are new.
    pub(crate) fn agent(&mut self, connection: &Connection, path: &AgentPath) -> rusqlite::Result<AgentNo> {
        if let Some(no) = self.agents.get(path) {
            return Ok(*no);
        }
        connection
            .prepare_cached("INSERT OR IGNORE INTO sites (name) VALUES (?1)")?
            .execute([path.site.as_str()])?;
        let site: i64 = connection
            .prepare_cached("SELECT id FROM sites WHERE name = ?1")?
            .query_row([path.site.as_str()], |r| r.get(0))?;
        connection
            .prepare_cached("INSERT OR IGNORE INTO agents (site, name) VALUES (?1, ?2)")?
            .execute(params![site, path.agent.as_str()])?;
        let no = connection
            .prepare_cached("SELECT id FROM agents WHERE site = ?1 AND name = ?2")?
            .query_row(params![site, path.agent.as_str()], |r| r.get(0).map(AgentNo))?;
        self.know(no, site, path.clone());
        Ok(no)
    }

    /// The agent of that row.
    pub(crate) fn know(&mut self, no: AgentNo, site: i64, path: AgentPath) {
        self.agents.insert(path.clone(), no);
        self.paths.insert(no, path);
        self.sites.insert(no, site);
    }

    /// Finds the numbers that [`bind`](Self::bind) gave; writes nothing.
    pub(crate) fn recall(
        &mut self,
        connection: &Connection,
        no: AgentNo,
        hash: CatalogHash,
        catalog: &Catalog,
    ) -> rusqlite::Result<Arc<Vec<Bound>>> {
        let site = self.sites.get(&no).copied().unwrap_or_default();
        let bound: rusqlite::Result<Vec<Bound>> =
            catalog.devices.iter().map(|device| recall_device(connection, site, device)).collect();
        let bound = Arc::new(bound?);
        self.catalogs.insert((no, hash), bound.clone());
        Ok(bound)
    }

    /// Stores a catalog and gives its devices and series their numbers.
    pub(crate) fn bind(
        &mut self,
        connection: &Connection,
        no: AgentNo,
        (hash, bytes, catalog): (CatalogHash, &[u8], &Catalog),
        now: Timestamp,
    ) -> rusqlite::Result<Arc<Vec<Bound>>> {
        let sql = "INSERT INTO catalogs VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET bytes = ?3";
        connection.prepare_cached(sql)?.execute(params![no.0, hash.0.cast_signed(), bytes, now.0])?;
        let site = self.sites.get(&no).copied().unwrap_or_default();
        let bound: rusqlite::Result<Vec<Bound>> =
            catalog.devices.iter().map(|device| bind_device(connection, (site, no), device, now)).collect();
        let bound = Arc::new(bound?);
        self.catalogs.insert((no, hash), bound.clone());
        Ok(bound)
    }
}

fn bind_device(
    connection: &Connection,
    (site, no): (i64, AgentNo),
    device: &Device,
    now: Timestamp,
) -> rusqlite::Result<Bound> {
    let sql = "INSERT OR IGNORE INTO devices (site, name, agent, attributes, announced_at) VALUES (?1, ?2, ?3, ?4, ?5)";
    let row = params![site, device.id.as_str(), no.0, json(&device.attributes), now.0];
    connection.prepare_cached(sql)?.execute(row)?;
    let id = find_device(connection, site, device)?;
    let grid = bind_grid(connection, id, device.grid)?;
    let series: rusqlite::Result<Vec<i64>> =
        device.channels.iter().map(|channel| bind_series(connection, id, channel)).collect();
    let due = Due { device: DeviceNo(id), grid, times: device.grid, paused: device.paused };
    Ok(Bound { due, series: series?, revises: revises(device) })
}

fn find_device(connection: &Connection, site: i64, device: &Device) -> rusqlite::Result<i64> {
    let sql = "SELECT id FROM devices WHERE site = ?1 AND name = ?2";
    connection.prepare_cached(sql)?.query_row(params![site, device.id.as_str()], |r| r.get(0))
}

fn recall_device(connection: &Connection, site: i64, device: &Device) -> rusqlite::Result<Bound> {
    let id = find_device(connection, site, device)?;
    let grid = find_grid(connection, id, device.grid)?;
    let series = device.channels.iter().map(|channel| {
        let found = find_series(connection, id, channel)?;
        found.ok_or(rusqlite::Error::QueryReturnedNoRows)
    });
    let due = Due { device: DeviceNo(id), grid, times: device.grid, paused: device.paused };
    Ok(Bound { due, series: series.collect::<rusqlite::Result<_>>()?, revises: revises(device) })
}

fn revises(device: &Device) -> bool {
    device.attributes.get("revises").is_some_and(|word| word == "true")
}

/// The catalog as it came.
pub(crate) fn catalog_bytes(
    connection: &Connection,
    no: AgentNo,
    hash: CatalogHash,
) -> rusqlite::Result<Option<Vec<u8>>> {
    let sql = "SELECT bytes FROM catalogs WHERE agent = ?1 AND hash = ?2";
    connection.prepare_cached(sql)?.query_row([no.0, hash.0.cast_signed()], |r| r.get(0)).optional()
}

/// The device is carried by this agent, and is what its catalog says. Returns whether another agent had it, or it was described
/// in other words; that its agent says for the first time from what it is read is none of them. A catalog describes when it comes into
/// force: an older one that arrives late, or is loaded at a start, says nothing about today.
pub(crate) fn describe(
    connection: &Connection,
    no: AgentNo,
    bound: &Bound,
    device: &Device,
) -> rusqlite::Result<bool> {
    let row = params![bound.due.device.0, no.0, json(&device.attributes)];
    let sql = "SELECT agent IS NOT NULL AND (agent <> ?2 OR (attributes <> ?3
            AND (attributes ->> 'read_from' IS NOT NULL OR json(attributes) <> json_remove(?3, '$.read_from'))))
        FROM devices WHERE id = ?1";
    let is_other = connection.prepare_cached(sql)?.query_row(row, |r| r.get(0))?;
    let sql = "UPDATE devices SET agent = ?2, attributes = ?3 WHERE id = ?1";
    connection.prepare_cached(sql)?.execute(row)?;
    for (series, channel) in bound.series.iter().zip(&device.channels) {
        let sql = "UPDATE series SET attributes = ?2 WHERE id = ?1";
        connection.prepare_cached(sql)?.execute(params![series, json(&channel.attributes)])?;
    }
    Ok(is_other)
}

/// The device is described in another way from now on, until a reading comes.
pub(crate) fn is_changed(connection: &Connection, device: DeviceNo, now: Timestamp) -> rusqlite::Result<()> {
    let sql = "UPDATE devices SET changed_at = coalesce(changed_at, ?2) WHERE id = ?1";
    connection.prepare_cached(sql)?.execute([device.0, now.0]).map(drop)
}

/// A reading under the new description has come.
pub(crate) fn is_confirmed(connection: &Connection, device: DeviceNo) -> rusqlite::Result<()> {
    let sql = "UPDATE devices SET changed_at = NULL WHERE id = ?1";
    connection.prepare_cached(sql)?.execute([device.0]).map(drop)
}

/// Devices whose new description no reading has confirmed, and the catalog that has it.
pub(crate) fn unconfirmed(
    connection: &Connection,
) -> rusqlite::Result<BTreeMap<DeviceNo, (AgentNo, CatalogHash)>> {
    let sql = "SELECT d.id, a.id, a.catalog FROM devices d JOIN agents a ON a.id = d.agent
        WHERE d.changed_at IS NOT NULL AND a.catalog IS NOT NULL";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |r| {
        let catalog = CatalogHash(r.get::<_, i64>(2)?.cast_unsigned());
        Ok((DeviceNo(r.get(0)?), (AgentNo(r.get(1)?), catalog)))
    })?;
    rows.collect()
}

fn bind_grid(connection: &Connection, device: i64, grid: SlotGrid) -> rusqlite::Result<GridNo> {
    let key = params![device, grid.interval.as_ms(), grid.phase_ms];
    let sql = "INSERT OR IGNORE INTO grids (device, interval_ms, phase_ms) VALUES (?1, ?2, ?3)";
    connection.prepare_cached(sql)?.execute(key)?;
    find_grid(connection, device, grid)
}

fn find_grid(connection: &Connection, device: i64, grid: SlotGrid) -> rusqlite::Result<GridNo> {
    let key = params![device, grid.interval.as_ms(), grid.phase_ms];
    let sql = "SELECT id FROM grids WHERE device = ?1 AND interval_ms = ?2 AND phase_ms = ?3";
    connection.prepare_cached(sql)?.query_row(key, |r| r.get(0).map(GridNo))
}

/// The revision that is the same in all that matters, or a new one.
fn bind_series(connection: &Connection, device: i64, channel: &Channel) -> rusqlite::Result<i64> {
    if let Some(id) = find_series(connection, device, channel)? {
        return Ok(id);
    }
    let (aggregation, label) = (aggregation_code(channel.aggregation), label_code(channel.label));
    let attributes = json(&channel.attributes);
    let sql = "INSERT INTO series (device, channel, revision, unit, quantity, aggregation, label, attributes)
        SELECT ?1, ?2, 1 + (SELECT count(*) FROM series WHERE device = ?1 AND channel = ?2), ?3, ?4, ?5, ?6, ?7
        RETURNING id";
    connection.prepare_cached(sql)?.query_row(
        params![device, channel.id.as_str(), channel.unit, channel.quantity, aggregation, label, attributes],
        |r| r.get(0),
    )
}

fn find_series(connection: &Connection, device: i64, channel: &Channel) -> rusqlite::Result<Option<i64>> {
    let (aggregation, label) = (aggregation_code(channel.aggregation), label_code(channel.label));
    let same = "SELECT id FROM series WHERE device = ?1 AND channel = ?2 AND unit = ?3 AND quantity = ?4
        AND aggregation = ?5 AND label = ?6";
    let key = params![device, channel.id.as_str(), channel.unit, channel.quantity, aggregation, label];
    connection.prepare_cached(same)?.query_row(key, |r| r.get(0)).optional()
}

fn json(attributes: &std::collections::BTreeMap<String, String>) -> String {
    serde_json::to_string(attributes).unwrap_or_else(|_| "{}".to_owned())
}

const AGGREGATIONS: [Aggregation; 8] = [
    Aggregation::Instant,
    Aggregation::Mean,
    Aggregation::Minimum,
    Aggregation::Maximum,
    Aggregation::StandardDeviation,
    Aggregation::Counter,
    Aggregation::Sum,
    Aggregation::CircularMean,
];

fn aggregation_code(aggregation: Aggregation) -> i64 {
    let at = AGGREGATIONS.iter().position(|a| *a == aggregation).unwrap_or_default();
    i64::try_from(at).unwrap_or_default()
}

/// The aggregation of a stored code.
pub(crate) fn aggregation(code: i64) -> Option<Aggregation> {
    AGGREGATIONS.get(usize::try_from(code).ok()?).copied()
}

fn label_code(label: PeriodLabel) -> i64 {
    match label {
        PeriodLabel::Start => 0,
        PeriodLabel::End => 1,
    }
}

/// The label of a stored code.
pub(crate) fn label(code: i64) -> Option<PeriodLabel> {
    match code {
        0 => Some(PeriodLabel::Start),
        1 => Some(PeriodLabel::End),
        _ => None,
    }
}
