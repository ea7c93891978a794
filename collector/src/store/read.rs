//! [`ReadStore`] over SQLite: a pool of read-only connections, one question at a time on each. Writes nothing and
//! never waits for the writer (WAL).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use gapless_common::id::{AgentId, CatalogHash, ChannelId, Commit, DeviceId, Epoch, Seq, SiteId};
use gapless_common::time::Timestamp;
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::model::{
    AgentRow, ChangeRow, ConflictRow, Counters, DeviceNo, DeviceRow, Flow, GapFilter, GapRow, GapState, Head,
    Link, ParkedRow, Scan, SeriesNo, SeriesRow, SiteRow, Stats, StoredReading, StripRun,
};
use super::runs::{GAP_FILLED, GAP_OPEN};
use super::{ReadError, ReadStore, cell, parked, registry, sqlite, state, strip};

/// Connections that are kept open between questions.
const POOL_MAX: usize = 8;

/// Reads the database at one path.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

type Read<T> = Result<T, ReadError>;

impl Reader {
    /// A reader of the file at `path`; opens nothing yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), idle: Mutex::new(Vec::new()) }
    }

    /// Asks within one read transaction, so that the answer is of one committed state.
    fn ask<T>(&self, question: impl FnOnce(&Connection) -> Read<T>) -> Read<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => sqlite::open_reader(&self.path)?,
        };
        connection.execute_batch("BEGIN")?;
        let answer = question(&connection);
        connection.execute_batch("ROLLBACK")?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < POOL_MAX {
            idle.push(connection);
        }
        answer
    }
}

fn rows<T>(
    connection: &Connection,
    sql: &str,
    values: impl rusqlite::Params,
    each: impl Fn(&Row<'_>) -> Read<T>,
) -> Read<Vec<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(values)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(each(row)?);
    }
    Ok(all)
}

macro_rules! name {
    ($row:expr, $column:expr, $type:ident) => {{
        let text: String = $row.get($column)?;
        $type::new(&text).map_err(|_| ReadError::Unknown { what: stringify!($type), value: text })?
    }};
}

fn count(row: &Row<'_>, column: &str) -> Read<u64> {
    Ok(u64::try_from(row.get::<_, Option<i64>>(column)?.unwrap_or_default()).unwrap_or_default())
}

fn time(row: &Row<'_>, column: &str) -> Read<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp))
}

fn bits(row: &Row<'_>, column: &str) -> Read<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(i64::cast_unsigned))
}

fn attributes(row: &Row<'_>) -> Read<BTreeMap<String, String>> {
    let text: String = row.get("attributes")?;
    serde_json::from_str(&text).map_err(|_| ReadError::Unknown { what: "set of attributes", value: text })
}

fn limit(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn counters(row: &Row<'_>) -> Read<Counters> {
    Ok(Counters {
        frames: count(row, "frames")?,
        readings: count(row, "readings")?,
        duplicates: count(row, "duplicates")?,
        conflicts: count(row, "conflicts")?,
        damaged: count(row, "damaged")?,
        refused: count(row, "refused")?,
    })
}

fn site_row(row: &Row<'_>) -> Read<SiteRow> {
    Ok(SiteRow {
        site: name!(row, "name", SiteId),
        agents: count(row, "agents")?,
        devices: count(row, "devices")?,
        open_gaps: count(row, "open_gaps")?,
        last_heard_at: time(row, "last_heard_at")?,
    })
}

fn missing_records(row: &Row<'_>, connection: &Connection) -> Read<u64> {
    let sql = "SELECT committed, parked, lost, end_seq FROM epochs WHERE agent = ?1 AND closed = 0";
    let mut missing = 0;
    let mut statement = connection.prepare_cached(sql)?;
    let mut epochs = statement.query([row.get::<_, i64>("id")?])?;
    while let Some(e) = epochs.next()? {
        let mut set = cell::set_of(&e.get::<_, Vec<u8>>(0)?);
        let parked = cell::set_of(&e.get::<_, Vec<u8>>(1)?);
        parked.iter().for_each(|(f, l)| set.insert(f, l));
        cell::lost_of(&e.get::<_, Vec<u8>>(2)?).iter().for_each(|&(f, l, _)| set.insert(f, l));
        let end = e.get::<_, Option<i64>>(3)?.map_or(0, i64::cast_unsigned).saturating_sub(1);
        let last = set.last().unwrap_or_default().max(end);
        if last > 0 {
            missing += set.holes(1, last).map(|(f, l)| l - f + 1).sum::<u64>();
        }
    }
    Ok(missing)
}

fn agent_row(row: &Row<'_>, connection: &Connection) -> Read<AgentRow> {
    Ok(AgentRow {
        site: name!(row, "site_name", SiteId),
        agent: name!(row, "name", AgentId),
        link: match row.get::<_, i64>("connected")? {
            1 => Link::Connected,
            2 => Link::Stopped,
            _ => Link::Gone,
        },
        version: row.get("version")?,
        last_heard_at: time(row, "last_heard_at")?,
        flush_ms: u32::try_from(count(row, "flush_ms")?).unwrap_or_default(),
        durable: row.get("durable")?,
        clock_set: row.get("clock_set")?,
        epoch: bits(row, "epoch")?.map(Epoch),
        catalog: bits(row, "catalog")?.map(CatalogHash),
        cloned_at: time(row, "cloned_at")?,
        missing_records: missing_records(row, connection)?,
        counters: counters(row)?,
    })
}

const DEVICES: &str =
    "SELECT d.id, d.name, d.attributes, s.name AS site_name, a.name AS agent_name, a.flush_ms,
    g.interval_ms, g.phase_ms, p.proven_slot,
    (SELECT min(coalesce(q.proven_slot + 1, q.first_slot) * qg.interval_ms + qg.phase_ms)
        FROM spans q JOIN grids qg ON qg.id = q.grid WHERE qg.device = d.id AND q.first_slot <= q.last_slot
        AND coalesce(q.proven_slot, q.first_slot - 1) < q.last_slot) AS owed_from,
    (SELECT max(ts) FROM (SELECT (SELECT max(ts) FROM readings r WHERE r.series = x.id) AS ts
        FROM series x WHERE x.device = d.id)) AS last_ts,
    (SELECT count(*) FROM gaps o JOIN grids og ON og.id = o.grid WHERE og.device = d.id AND o.state = 1)
        AS open_gaps
    FROM devices d JOIN sites s ON s.id = d.site LEFT JOIN agents a ON a.id = d.agent
    LEFT JOIN spans p ON p.id = (SELECT max(q.id) FROM spans q JOIN grids qg ON qg.id = q.grid
        WHERE qg.device = d.id AND q.last_slot IS NULL)
    LEFT JOIN grids g ON g.id = p.grid
    WHERE ?1 IS NULL OR s.name = ?1 ORDER BY s.name, d.name";

fn device_row(row: &Row<'_>) -> Read<DeviceRow> {
    let interval: Option<i64> = row.get("interval_ms")?;
    let grid = match interval {
        Some(interval) => Some(state::grid(interval, row.get("phase_ms")?)),
        None => None,
    };
    let proven = row.get::<_, Option<i64>>("proven_slot")?.map(gapless_common::time::Slot);
    let agent: Option<String> = row.get("agent_name")?;
    Ok(DeviceRow {
        no: DeviceNo(row.get("id")?),
        site: name!(row, "site_name", SiteId),
        device: name!(row, "name", DeviceId),
        agent: agent.and_then(|name| AgentId::new(&name).ok()),
        grid,
        attributes: attributes(row)?,
        last_reading_at: time(row, "last_ts")?,
        // What the device's agent before this one still owes is not accounted for.
        proven_until: match (
            grid.zip(proven).map(|(grid, slot)| grid.at(slot.plus(1))),
            time(row, "owed_from")?,
        ) {
            (Some(until), Some(owed)) => Some(until.min(owed)),
            (until, _) => until,
        },
        open_gaps: count(row, "open_gaps")?,
        flush_ms: u32::try_from(count(row, "flush_ms")?).unwrap_or_default(),
    })
}

fn series_row(row: &Row<'_>) -> Read<SeriesRow> {
    let (aggregation, label): (i64, i64) = (row.get("aggregation")?, row.get("label")?);
    let unknown = |what, code: i64| ReadError::Unknown { what, value: code.to_string() };
    Ok(SeriesRow {
        no: SeriesNo(row.get("id")?),
        site: name!(row, "site_name", SiteId),
        device: name!(row, "device_name", DeviceId),
        device_no: DeviceNo(row.get("device")?),
        channel: name!(row, "channel", ChannelId),
        revision: u32::try_from(count(row, "revision")?).unwrap_or(u32::MAX),
        unit: row.get("unit")?,
        quantity: row.get("quantity")?,
        aggregation: registry::aggregation(aggregation).ok_or_else(|| unknown("aggregation", aggregation))?,
        label: registry::label(label).ok_or_else(|| unknown("label", label))?,
        attributes: attributes(row)?,
    })
}

fn reading(row: &Row<'_>) -> Read<StoredReading> {
    Ok(StoredReading {
        series: SeriesNo(row.get(0)?),
        at: Timestamp(row.get(1)?),
        value: cell::value(row.get_ref(2)?)?,
        quality: cell::quality(row.get(3)?)?,
        commit: Commit(row.get::<_, i64>(4)?.cast_unsigned()),
    })
}

fn gap_row(row: &Row<'_>) -> Read<GapRow> {
    let (first, last): (i64, i64) = (row.get("first_slot")?, row.get("last_slot")?);
    Ok(GapRow {
        id: row.get("id")?,
        site: name!(row, "site_name", SiteId),
        device: name!(row, "device_name", DeviceId),
        from: Timestamp(row.get("from_ts")?),
        to: Timestamp(row.get("to_ts")?),
        slots: u64::try_from(last.saturating_sub(first)).unwrap_or_default() + 1,
        cause: cell::cause(row.get("cause")?)?,
        state: if row.get::<_, i64>("state")? == GAP_FILLED { GapState::Filled } else { GapState::Open },
        opened_at: Timestamp(row.get("opened_at")?),
        closed_at: time(row, "closed_at")?,
        changed: Commit(count(row, "changed_commit")?),
    })
}

/// The conditions of a filter, each with its value; the order of the clauses is the order of the values.
fn gap_query(filter: &GapFilter) -> (String, Vec<Sql>) {
    let conditions: [(&str, Option<Sql>); 6] = [
        ("s.name = ?", filter.site.as_ref().map(|s| Sql::Text(s.to_string()))),
        ("d.name = ?", filter.device.as_ref().map(|d| Sql::Text(d.to_string()))),
        ("p.to_ts > ?", filter.from.map(|t| Sql::Integer(t.0))),
        ("p.from_ts < ?", filter.to.map(|t| Sql::Integer(t.0))),
        ("p.changed_commit > ?", filter.changed_after.map(|c| Sql::Integer(c.0.cast_signed()))),
        ("p.id > ?", filter.after.map(Sql::Integer)),
    ];
    let mut sql = "SELECT p.*, s.name AS site_name, d.name AS device_name FROM gaps p
        JOIN grids g ON g.id = p.grid JOIN devices d ON d.id = g.device JOIN sites s ON s.id = d.site
        WHERE 1"
        .to_owned();
    if let Some(state) = filter.state {
        // Not a parameter: the index of open gaps is used only where the text says so.
        let state = if state == GapState::Open { GAP_OPEN } else { GAP_FILLED };
        sql.push_str(&format!(" AND p.state = {state}"));
    }
    let mut values = Vec::new();
    for (condition, value) in conditions {
        if let Some(value) = value {
            sql.push_str(" AND ");
            sql.push_str(condition);
            values.push(value);
        }
    }
    sql.push_str(" ORDER BY p.id LIMIT ?");
    values.push(Sql::Integer(limit(filter.limit)));
    (sql, values)
}

fn conflict_row(row: &Row<'_>, connection: &Connection) -> Read<ConflictRow> {
    let (series, at): (i64, i64) = (row.get("series")?, row.get("ts")?);
    let sql = "SELECT * FROM readings WHERE series = ?1 AND ts = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let stored = statement.query_row([series, at], |r| Ok(reading(r))).optional()?.transpose()?;
    Ok(ConflictRow {
        id: row.get("id")?,
        series: SeriesNo(series),
        at: Timestamp(at),
        value: cell::value(row.get_ref("value")?)?,
        quality: cell::quality(row.get("quality")?)?,
        stored,
        agent: name!(row, "agent_name", AgentId),
        epoch: Epoch(bits(row, "epoch")?.unwrap_or_default()),
        seq: Seq(bits(row, "seq")?.unwrap_or_default()),
        received_at: Timestamp(row.get("received_at")?),
    })
}

fn parked_row(row: &Row<'_>) -> Read<ParkedRow> {
    let reason: i64 = row.get("reason")?;
    Ok(ParkedRow {
        id: row.get("id")?,
        site: name!(row, "site_name", SiteId),
        agent: name!(row, "agent_name", AgentId),
        epoch: Epoch(bits(row, "epoch")?.unwrap_or_default()),
        first: Seq(bits(row, "first_seq")?.unwrap_or_default()),
        count: count(row, "count")?,
        reason: parked::reason(reason)
            .ok_or_else(|| ReadError::Unknown { what: "reason", value: reason.to_string() })?,
        detail: row.get("detail")?,
        bytes: count(row, "size")?,
        received_at: Timestamp(row.get("received_at")?),
    })
}

impl ReadStore for Reader {
    fn head(&self) -> Read<Head> {
        self.ask(|c| Ok(sqlite::head(c)?))
    }

    fn sites(&self) -> Read<Vec<SiteRow>> {
        let sql = "SELECT s.name, (SELECT count(*) FROM agents a WHERE a.site = s.id) AS agents,
            (SELECT count(*) FROM devices d WHERE d.site = s.id) AS devices,
            (SELECT count(*) FROM gaps p JOIN grids g ON g.id = p.grid JOIN devices d ON d.id = g.device
                WHERE d.site = s.id AND p.state = 1) AS open_gaps,
            (SELECT max(last_heard_at) FROM agents a WHERE a.site = s.id) AS last_heard_at
            FROM sites s ORDER BY s.name";
        self.ask(|c| rows(c, sql, [], site_row))
    }

    fn agents(&self, site: Option<&SiteId>) -> Read<Vec<AgentRow>> {
        let sql = "SELECT a.*, s.name AS site_name FROM agents a JOIN sites s ON s.id = a.site
            WHERE ?1 IS NULL OR s.name = ?1 ORDER BY s.name, a.name";
        self.ask(|c| rows(c, sql, [site.map(SiteId::as_str)], |row| agent_row(row, c)))
    }

    fn devices(&self, site: Option<&SiteId>) -> Read<Vec<DeviceRow>> {
        self.ask(|c| rows(c, DEVICES, [site.map(SiteId::as_str)], device_row))
    }

    fn series(&self, site: Option<&SiteId>, device: Option<&DeviceId>) -> Read<Vec<SeriesRow>> {
        let sql = "SELECT x.*, s.name AS site_name, d.name AS device_name FROM series x
            JOIN devices d ON d.id = x.device JOIN sites s ON s.id = d.site
            WHERE (?1 IS NULL OR s.name = ?1) AND (?2 IS NULL OR d.name = ?2)
            ORDER BY s.name, d.name, x.channel, x.revision";
        let names = params![site.map(SiteId::as_str), device.map(DeviceId::as_str)];
        self.ask(|c| rows(c, sql, names, series_row))
    }

    fn latest(&self, series: &[SeriesNo]) -> Read<Vec<StoredReading>> {
        let sql = "SELECT * FROM readings WHERE series = ?1 ORDER BY ts DESC LIMIT 1";
        self.ask(|c| {
            let each = series.iter().map(|no| rows(c, sql, [no.0], reading));
            Ok(each.collect::<Read<Vec<_>>>()?.into_iter().flatten().collect())
        })
    }

    fn readings(&self, scan: &Scan, each: &mut dyn FnMut(StoredReading) -> Flow) -> Read<()> {
        let mut numbers = scan.series.clone();
        numbers.sort_unstable();
        numbers.dedup();
        self.ask(|c| {
            for no in numbers {
                let from = match scan.after {
                    Some((after, _)) if no < after => continue,
                    Some((after, at)) if no == after => scan.from.max(at.plus_ms(1)),
                    _ => scan.from,
                };
                let sql = "SELECT * FROM readings WHERE series = ?1 AND ts >= ?2 AND ts < ?3 ORDER BY ts";
                let mut statement = c.prepare_cached(sql)?;
                let mut found = statement.query([no.0, from.0, scan.to.0])?;
                while let Some(row) = found.next()? {
                    if each(reading(row)?) == Flow::Stop {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
    }

    fn changes(&self, after: Commit, limit: usize) -> Read<Vec<ChangeRow>> {
        let sql = "SELECT * FROM changes WHERE commit_no > ?1 ORDER BY commit_no, device, first_ts LIMIT ?2";
        let values = [after.0.cast_signed(), self::limit(limit)];
        self.ask(|c| {
            rows(c, sql, values, |r| {
                Ok(ChangeRow {
                    commit: Commit(r.get::<_, i64>(0)?.cast_unsigned()),
                    device: DeviceNo(r.get(1)?),
                    first: Timestamp(r.get(2)?),
                    last: Timestamp(r.get(3)?),
                })
            })
        })
    }

    fn changed_readings(&self, change: &ChangeRow, each: &mut dyn FnMut(StoredReading) -> Flow) -> Read<()> {
        let sql = "SELECT r.* FROM series x JOIN readings r ON r.series = x.id
            WHERE x.device = ?1 AND r.ts BETWEEN ?2 AND ?3 AND r.commit_no = ?4 ORDER BY r.series, r.ts";
        let values = [change.device.0, change.first.0, change.last.0, change.commit.0.cast_signed()];
        self.ask(|c| {
            let mut statement = c.prepare_cached(sql)?;
            let mut found = statement.query(values)?;
            while let Some(row) = found.next()? {
                if each(reading(row)?) == Flow::Stop {
                    break;
                }
            }
            Ok(())
        })
    }

    fn gaps(&self, filter: &GapFilter) -> Read<Vec<GapRow>> {
        let (sql, values) = gap_query(filter);
        self.ask(|c| rows(c, &sql, params_from_iter(values), gap_row))
    }

    fn strip(&self, device: DeviceNo, from: Timestamp, to: Timestamp, now: Timestamp) -> Read<Vec<StripRun>> {
        self.ask(|c| strip::of(c, device, (from, to), now))
    }

    fn conflicts(&self, after: Option<i64>, limit: usize) -> Read<Vec<ConflictRow>> {
        let sql = "SELECT c.*, a.name AS agent_name FROM conflicts c JOIN agents a ON a.id = c.agent
            WHERE c.id > ?1 ORDER BY c.id LIMIT ?2";
        let values = [after.unwrap_or_default(), self::limit(limit)];
        self.ask(|c| rows(c, sql, values, |row| conflict_row(row, c)))
    }

    fn parked(&self, after: Option<i64>, limit: usize) -> Read<Vec<ParkedRow>> {
        let sql = "SELECT p.*, length(p.bytes) AS size, a.name AS agent_name, s.name AS site_name FROM parked p
            JOIN agents a ON a.id = p.agent JOIN sites s ON s.id = a.site WHERE p.id > ?1 ORDER BY p.id LIMIT ?2";
        let values = [after.unwrap_or_default(), self::limit(limit)];
        self.ask(|c| rows(c, sql, values, parked_row))
    }

    fn stats(&self) -> Read<Stats> {
        let sql = "SELECT (SELECT count(*) FROM sites) AS sites, (SELECT count(*) FROM agents) AS agents,
            (SELECT count(*) FROM devices) AS devices, (SELECT count(*) FROM series) AS series,
            (SELECT count(*) FROM gaps WHERE state = 1) AS open_gaps, (SELECT count(*) FROM parked) AS parked,
            (SELECT sum(length(bytes)) FROM parked) AS parked_bytes,
            (SELECT count(*) FROM conflicts) AS kept_conflicts, sum(frames) AS frames,
            sum(readings) AS readings, sum(duplicates) AS duplicates, sum(conflicts) AS conflicts,
            sum(damaged) AS damaged, sum(refused) AS refused,
            (SELECT page_count * page_size FROM pragma_page_count, pragma_page_size) AS file_bytes FROM agents";
        let all = self.ask(|c| {
            rows(c, sql, [], |r| {
                Ok(Stats {
                    sites: count(r, "sites")?,
                    agents: count(r, "agents")?,
                    devices: count(r, "devices")?,
                    series: count(r, "series")?,
                    open_gaps: count(r, "open_gaps")?,
                    parked: count(r, "parked")?,
                    parked_bytes: count(r, "parked_bytes")?,
                    conflicts: count(r, "kept_conflicts")?,
                    counters: counters(r)?,
                    file_bytes: count(r, "file_bytes")?,
                })
            })
        })?;
        Ok(all.into_iter().next().unwrap_or_default())
    }

    fn token_known(&self, sha256: &[u8; 32]) -> Read<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM tokens WHERE sha256 = ?1)";
        self.ask(|c| Ok(c.prepare_cached(sql)?.query_row([sha256.as_slice()], |r| r.get(0))?))
    }
}
