//! [`ReadStore`] over SQLite: one question at a time on a connection, either of a pool of read-only ones, which never
//! wait for the writer (WAL), or one that is lent. Writes nothing.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use gapless_common::id::{Commit, DeviceId, SiteId};
use gapless_common::time::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params, params_from_iter};

use super::alert_rows::{
    ALERT, OPEN_COUNT, RECEIVERS, REMOVALS, alert_event_row, alert_query, alert_row, receiver_row,
    removal_row,
};
use super::model::{
    AgentRow, AlertEventRow, AlertFilter, AlertRow, ChangeRow, ConflictRow, DeviceNo, DeviceRow, EndedJobRow,
    Flow, GapEventRow, GapFilter, GapRow, GridRow, Head, JobRow, LeaseRow, Meters, News, NewsFilter,
    ParkedRow, Place, ReceiverRow, RemovalRow, Scan, SeriesNo, SeriesRow, SiteRow, Stats, StoredReading,
    StripRun, TrafficRow, Unread,
};
use super::rows::{
    AGENTS, DEVICES, agent_row, conflict_row, count, counters, device_row, gap_event_row, gap_query, gap_row,
    gaps_sql, parked_row, reading, series_row, site_row,
};
use super::{
    AHEAD_MAX_MS, ReadError, ReadStore, complete, jobs, leases, meters, names, news, sqlite, strip, traffic,
};
use crate::freshness::Allowances;

/// Connections that are kept open between questions.
const POOL_MAX: usize = 8;

/// Reads the database at one path.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    allowances: Allowances,
}

type Read<T> = Result<T, ReadError>;

impl Reader {
    /// A reader of the file at `path`; opens nothing yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), idle: Mutex::new(Vec::new()), allowances: Allowances::default() }
    }

    /// Judges freshness by these.
    #[must_use]
    pub fn with_allowances(self, allowances: Allowances) -> Self {
        Self { allowances, ..self }
    }
}

/// Answers from a connection that somebody else owns. No transaction may be open on it.
#[derive(Debug)]
pub struct Borrowed<'c> {
    connection: &'c Connection,
    allowances: Allowances,
}

impl<'c> Borrowed<'c> {
    /// Of this connection.
    #[must_use]
    pub fn new(connection: &'c Connection) -> Self {
        Self { connection, allowances: Allowances::default() }
    }

    /// Judges freshness by these.
    #[must_use]
    pub fn with_allowances(self, allowances: Allowances) -> Self {
        Self { allowances, ..self }
    }
}

/// Where a question finds a connection.
trait Ask {
    /// Asks within one read transaction, so that the answer is of one committed state.
    fn ask<T>(&self, question: impl FnOnce(&Connection) -> Read<T>) -> Read<T>;

    /// How old data may be.
    fn allowances(&self) -> &Allowances;
}

impl Ask for Borrowed<'_> {
    fn ask<T>(&self, question: impl FnOnce(&Connection) -> Read<T>) -> Read<T> {
        self.connection.execute_batch("BEGIN")?;
        let answer = question(self.connection);
        self.connection.execute_batch("ROLLBACK")?;
        answer
    }

    fn allowances(&self) -> &Allowances {
        &self.allowances
    }
}

impl Ask for Reader {
    fn ask<T>(&self, question: impl FnOnce(&Connection) -> Read<T>) -> Read<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => sqlite::open_reader(&self.path)?,
        };
        let answer = Borrowed::new(&connection).ask(question);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < POOL_MAX && connection.is_autocommit() {
            idle.push(connection);
        }
        answer
    }

    fn allowances(&self) -> &Allowances {
        &self.allowances
    }
}

pub(super) fn rows<T>(
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

pub(super) fn change_row(row: &Row<'_>) -> Read<ChangeRow> {
    Ok(ChangeRow {
        commit: Commit(row.get::<_, i64>(0)?.cast_unsigned()),
        device: DeviceNo(row.get(1)?),
        first: Timestamp(row.get(2)?),
        last: Timestamp(row.get(3)?),
    })
}

impl<A: Ask> ReadStore for A {
    fn head(&self) -> Read<Head> {
        self.ask(|c| Ok(sqlite::head(c)?))
    }

    fn sites(&self) -> Read<Vec<SiteRow>> {
        let sql = "SELECT s.name, (SELECT count(*) FROM agents a WHERE a.site = s.id) AS agents,
            (SELECT count(*) FROM devices d WHERE d.site = s.id) AS devices,
            (SELECT count(*) FROM gaps p JOIN grids g ON g.id = p.grid JOIN devices d ON d.id = g.device
                WHERE d.site = s.id AND p.state <> 2) AS open_gaps,
            (SELECT max(last_heard_at) FROM agents a WHERE a.site = s.id) AS last_heard_at
            FROM sites s ORDER BY s.name";
        self.ask(|c| rows(c, sql, [], site_row))
    }

    fn has_site(&self, site: &SiteId) -> Read<bool> {
        self.ask(|c| Ok(names::is_site(c, site)?))
    }

    fn has_device(&self, site: Option<&SiteId>, device: &DeviceId) -> Read<bool> {
        self.ask(|c| Ok(names::is_device(c, site, device)?))
    }

    fn agents(&self, site: Option<&SiteId>) -> Read<Vec<AgentRow>> {
        self.ask(|c| rows(c, AGENTS, [site.map(SiteId::as_str)], |row| agent_row(row, c)))
    }

    fn devices(&self, site: Option<&SiteId>, now: Timestamp) -> Read<Vec<DeviceRow>> {
        self.ask(|c| {
            let values = params![site.map(SiteId::as_str), now.plus_ms(AHEAD_MAX_MS).0];
            rows(c, DEVICES, values, |row| device_row(row, self.allowances()))
        })
    }

    fn series(&self, site: Option<&SiteId>, device: Option<&DeviceId>) -> Read<Vec<SeriesRow>> {
        let sql = "SELECT x.*, s.name AS site_name, d.name AS device_name FROM series x
            JOIN devices d ON d.id = x.device JOIN sites s ON s.id = d.site
            WHERE (?1 IS NULL OR s.name = ?1) AND (?2 IS NULL OR d.name = ?2)
            ORDER BY s.name, d.name, x.channel, x.revision";
        let names = params![site.map(SiteId::as_str), device.map(DeviceId::as_str)];
        self.ask(|c| rows(c, sql, names, series_row))
    }

    fn latest(&self, series: &[SeriesNo], now: Timestamp) -> Read<Vec<StoredReading>> {
        let sql = "SELECT * FROM readings WHERE series = ?1 AND ts <= ?2 ORDER BY ts DESC LIMIT 1";
        let until = now.plus_ms(AHEAD_MAX_MS);
        self.ask(|c| {
            let each = series.iter().map(|no| rows(c, sql, [no.0, until.0], reading));
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

    fn complete(&self, scan: &Scan, now: Timestamp, each: &mut dyn FnMut(GridRow) -> Flow) -> Read<()> {
        self.ask(|c| complete::scan(c, scan, now, each))
    }

    fn changes(&self, after: Commit, limit: usize) -> Read<Vec<ChangeRow>> {
        let sql = "SELECT * FROM changes WHERE commit_no > ?1 ORDER BY commit_no, device, first_ts LIMIT ?2";
        let values = [after.0.cast_signed(), super::rows::limit(limit)];
        self.ask(|c| rows(c, sql, values, change_row))
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

    fn withdrawn(&self, change: &ChangeRow, each: &mut dyn FnMut(SeriesNo, Timestamp) -> Flow) -> Read<()> {
        // What was lent and has made room is kept; where there is another reading of that very instant that is told instead.
        let sql = "SELECT u.series, u.ts FROM uncertain u JOIN series x ON x.id = u.series
                WHERE u.corrected_commit = ?1 AND x.device = ?2 AND u.ts BETWEEN ?3 AND ?4
            UNION SELECT v.series, v.ts FROM series x JOIN revisions v ON v.series = x.id
                WHERE x.device = ?2 AND v.ts BETWEEN ?3 AND ?4 AND v.commit_no = ?1 AND v.quality >= 65536
                    AND NOT EXISTS (SELECT 1 FROM readings r WHERE r.series = v.series AND r.ts = v.ts)
            ORDER BY 1, 2";
        let values = [change.commit.0.cast_signed(), change.device.0, change.first.0, change.last.0];
        self.ask(|c| {
            let mut statement = c.prepare_cached(sql)?;
            let mut found = statement.query(values)?;
            while let Some(row) = found.next()? {
                if each(SeriesNo(row.get(0)?), Timestamp(row.get(1)?)) == Flow::Stop {
                    break;
                }
            }
            Ok(())
        })
    }

    fn numbers_before(&self, series: &[SeriesNo], at: Timestamp) -> Read<Vec<StoredReading>> {
        let sql = "SELECT * FROM readings WHERE series = ?1 AND ts < ?2 AND typeof(value) = 'real'
            ORDER BY ts DESC LIMIT 1";
        self.ask(|c| {
            let each = series.iter().map(|no| rows(c, sql, [no.0, at.0], reading));
            Ok(each.collect::<Read<Vec<_>>>()?.into_iter().flatten().collect())
        })
    }

    fn gaps(&self, filter: &GapFilter) -> Read<Vec<GapRow>> {
        let (sql, values) = gap_query(filter);
        self.ask(|c| rows(c, &sql, params_from_iter(values), gap_row))
    }

    fn gap(&self, id: i64) -> Read<Option<GapRow>> {
        self.ask(|c| rows(c, &gaps_sql("p.id = ?1"), [id], gap_row)).map(|mut found| found.pop())
    }

    fn gap_events(&self, id: i64) -> Read<Vec<GapEventRow>> {
        // What became of the gap that it was cut off is its own past up to that cut.
        let sql = "WITH RECURSIVE past (gap, upto) AS (
                VALUES (?1, 9223372036854775807)
                UNION SELECT e.parent, e.id FROM past JOIN gap_events e ON e.gap = past.gap
                    WHERE e.parent IS NOT NULL AND e.id <= past.upto
                LIMIT 1000)
            SELECT e.* FROM past JOIN gap_events e ON e.gap = past.gap AND e.id <= past.upto ORDER BY e.id";
        self.ask(|c| rows(c, sql, [id], gap_event_row))
    }

    fn strip(&self, device: DeviceNo, from: Timestamp, to: Timestamp, now: Timestamp) -> Read<Vec<StripRun>> {
        self.ask(|c| strip::of(c, device, (from, to), now))
    }

    fn unread(&self, device: DeviceNo) -> Read<Unread> {
        self.ask(|c| jobs::unread(c, device))
    }

    fn jobs(&self) -> Read<Vec<JobRow>> {
        self.ask(|c| rows(c, jobs::JOBS, [], jobs::job_row))
    }

    fn ended_jobs(&self, before: Option<i64>, limit: usize) -> Read<Vec<EndedJobRow>> {
        let values = [before.unwrap_or(i64::MAX), super::rows::limit(limit)];
        self.ask(|c| rows(c, jobs::ENDED, values, jobs::ended_row))
    }

    fn news_end(&self) -> Read<Place> {
        self.ask(news::end)
    }

    fn news(&self, after: Place, filter: &NewsFilter, most: usize) -> Read<News> {
        self.ask(|c| news::since(c, after, filter, most))
    }

    fn alerts(&self, filter: &AlertFilter) -> Read<Vec<AlertRow>> {
        let (sql, values) = alert_query(filter);
        self.ask(|c| rows(c, &sql, params_from_iter(values), alert_row))
    }

    fn alert(&self, id: i64) -> Read<Option<AlertRow>> {
        let sql = format!("{ALERT} WHERE a.id = ?1");
        self.ask(|c| rows(c, &sql, [id], alert_row)).map(|mut found| found.pop())
    }

    fn alert_events(&self, id: i64) -> Read<Vec<AlertEventRow>> {
        let sql = "SELECT * FROM alert_events WHERE alert = ?1 ORDER BY id";
        self.ask(|c| rows(c, sql, [id], alert_event_row))
    }

    fn open_alerts(&self) -> Read<u64> {
        self.ask(|c| rows(c, OPEN_COUNT, [], |r| count(r, "open"))).map(|found| found.into_iter().sum())
    }

    fn receivers(&self) -> Read<Vec<ReceiverRow>> {
        self.ask(|c| rows(c, RECEIVERS, [], receiver_row))
    }

    fn removals(&self, after: Option<i64>, limit: usize) -> Read<Vec<RemovalRow>> {
        let values = [after.unwrap_or_default(), super::rows::limit(limit)];
        self.ask(|c| rows(c, REMOVALS, values, removal_row))
    }

    fn conflicts(&self, after: Option<i64>, limit: usize) -> Read<Vec<ConflictRow>> {
        let sql = "SELECT c.*, a.name AS agent_name FROM conflicts c JOIN agents a ON a.id = c.agent
            WHERE c.id > ?1 ORDER BY c.id LIMIT ?2";
        let values = [after.unwrap_or_default(), super::rows::limit(limit)];
        self.ask(|c| rows(c, sql, values, |row| conflict_row(row, c)))
    }

    fn parked(&self, after: Option<i64>, limit: usize) -> Read<Vec<ParkedRow>> {
        let sql = "SELECT p.*, length(p.bytes) AS size, a.name AS agent_name, s.name AS site_name FROM parked p
            JOIN agents a ON a.id = p.agent JOIN sites s ON s.id = a.site WHERE p.id > ?1 ORDER BY p.id LIMIT ?2";
        let values = [after.unwrap_or_default(), super::rows::limit(limit)];
        self.ask(|c| rows(c, sql, values, parked_row))
    }

    fn stats(&self) -> Read<Stats> {
        let sql = "SELECT (SELECT count(*) FROM sites) AS sites, (SELECT count(*) FROM agents) AS agents,
            (SELECT count(*) FROM devices) AS devices, (SELECT count(*) FROM series) AS series,
            (SELECT count(*) FROM gaps WHERE state <> 2) AS open_gaps, (SELECT count(*) FROM parked) AS parked,
            (SELECT sum(length(bytes)) FROM parked) AS parked_bytes,
            (SELECT count(*) FROM conflicts) AS kept_conflicts, sum(frames) AS frames,
            sum(readings) AS readings, sum(duplicates) AS duplicates, sum(conflicts) AS conflicts,
            sum(damaged) AS damaged, sum(refused) AS refused,
            sum(received_bytes) AS received_bytes, sum(sent_bytes) AS sent_bytes,
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

    fn lease(&self, site: &SiteId, now: Timestamp) -> Read<Option<LeaseRow>> {
        self.ask(|c| leases::row(c, site, now))
    }

    fn leases(&self, now: Timestamp) -> Read<Vec<(SiteId, Timestamp)>> {
        self.ask(|c| leases::all(c, now))
    }

    fn traffic(&self, site: Option<&SiteId>, from: Timestamp, to: Timestamp) -> Read<Vec<TrafficRow>> {
        self.ask(|c| traffic::by_day(c, site, (from, to)))
    }

    fn meters(&self, now: Timestamp) -> Read<Meters> {
        self.ask(|c| meters::all(c, self.allowances(), now))
    }

    fn token_name(&self, sha256: &[u8; 32]) -> Read<Option<String>> {
        let sql = "SELECT name FROM tokens WHERE sha256 = ?1";
        self.ask(|c| Ok(c.prepare_cached(sql)?.query_row([sha256.as_slice()], |r| r.get(0)).optional()?))
    }
}
