//! What is missing of one device, and what another one has of it, as rows. Reads only; decides nothing.

use std::collections::BTreeMap;

use gapless_common::quality::Quality;
use gapless_common::time::{Slot, SlotGrid, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::cell::{self, Cell};
use super::gap_lives::{GAP_FILLED, Happened};
use super::{registry, runs, state};
use crate::gaps::donate::Meaning;
use crate::ledger::{AgentNo, DeviceNo, GridNo, Known};

/// Times of devices: of readings or gaps; half open.
type Times = BTreeMap<DeviceNo, Vec<(Timestamp, Timestamp)>>;

/// The device of that name.
pub(crate) fn device(connection: &Connection, site: &str, name: &str) -> rusqlite::Result<Option<DeviceNo>> {
    let sql = "SELECT d.id FROM devices d JOIN sites s ON s.id = d.site WHERE s.name = ?1 AND d.name = ?2";
    connection.prepare_cached(sql)?.query_row([site, name], |r| r.get(0).map(DeviceNo)).optional()
}

/// Who answers for a device.
pub(crate) fn agent(connection: &Connection, device: DeviceNo) -> rusqlite::Result<Option<AgentNo>> {
    let sql = "SELECT agent FROM devices WHERE id = ?1";
    connection.prepare_cached(sql)?.query_row([device.0], |r| Ok(r.get::<_, Option<i64>>(0)?.map(AgentNo)))
}

/// Every slot grid that a device has had.
pub(crate) fn grids(connection: &Connection, device: DeviceNo) -> rusqlite::Result<Vec<(GridNo, SlotGrid)>> {
    let sql = "SELECT id, interval_ms, phase_ms FROM grids WHERE device = ?1";
    let row = |r: &Row<'_>| Ok((GridNo(r.get(0)?), state::grid(r.get(1)?, r.get(2)?)));
    connection.prepare_cached(sql)?.query_map([device.0], row)?.collect()
}

/// What readings the commits after `after` up to `through` wrote.
pub(crate) fn written(connection: &Connection, (after, through): (i64, i64)) -> rusqlite::Result<Times> {
    let sql = "SELECT device, first_ts, last_ts + 1 FROM changes WHERE commit_no > ?1 AND commit_no <= ?2";
    times(connection, sql, params![after, through])
}

/// Whether whoever else can be asked for the gap `p` has been, or there is nobody.
macro_rules! is_asked {
    () => {
        "(p.attempts > 0 OR p.sourceless OR p.state = 5)"
    };
}

const CHANGED: &str = concat!(
    "SELECT g.device, p.from_ts, p.to_ts FROM gaps p JOIN grids g ON g.id = p.grid
        WHERE p.changed_commit > ?1 AND p.changed_commit <= ?2 AND p.state <> 2 AND ",
    is_asked!(),
    " = ?3"
);

/// What gaps those commits changed that are not filled: of those whose own sources were asked, or of the others.
pub(crate) fn changed(
    connection: &Connection,
    (after, through): (i64, i64),
    is_asked: bool,
) -> rusqlite::Result<Times> {
    times(connection, CHANGED, params![after, through, is_asked])
}

fn times(connection: &Connection, sql: &str, key: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<Times> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(key)?;
    let mut found = Times::new();
    while let Some(row) = rows.next()? {
        let of = found.entry(DeviceNo(row.get(0)?)).or_default();
        of.push((Timestamp(row.get(1)?), Timestamp(row.get(2)?)));
    }
    Ok(found)
}

/// A gap that is not filled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Missing {
    pub(crate) id: i64,
    /// Its slots, both included.
    pub(crate) slots: (i64, i64),
    /// Whoever else can be asked for it has been, or there is nobody.
    pub(crate) is_asked: bool,
}

const MISSING: &str = concat!(
    "SELECT id, first_slot, last_slot, ",
    is_asked!(),
    " FROM gaps p
        WHERE grid = ?1 AND first_slot <= ?3 AND last_slot >= ?2 AND state <> ?4 AND first_slot >= coalesce(
            (SELECT max(first_slot) FROM gaps WHERE grid = ?1 AND first_slot <= ?2), ?2)
        ORDER BY first_slot LIMIT 1"
);

/// The first gap that is not filled and holds a slot of the range (inclusive).
pub(crate) fn missing(
    connection: &Connection,
    grid: GridNo,
    (first, last): (i64, i64),
) -> rusqlite::Result<Option<Missing>> {
    let row = |r: &Row<'_>| Ok(Missing { id: r.get(0)?, slots: (r.get(1)?, r.get(2)?), is_asked: r.get(3)? });
    connection.prepare_cached(MISSING)?.query_row([grid.0, first, last, GAP_FILLED], row).optional()
}

/// Those who have lent what stands in for a gap, as its history and that of those that it was cut off name them.
pub(crate) fn lenders(connection: &Connection, gap: i64) -> rusqlite::Result<Vec<String>> {
    let sql = "WITH RECURSIVE past (gap, until) AS (VALUES (?1, 9223372036854775807)
            UNION SELECT e.parent, e.id FROM past JOIN gap_events e ON e.gap = past.gap AND e.id < past.until
            WHERE e.parent IS NOT NULL)
        SELECT DISTINCT e.actor FROM past JOIN gap_events e ON e.gap = past.gap AND e.id < past.until
        WHERE e.event = ?2 ORDER BY e.actor";
    let mut statement = connection.prepare_cached(sql)?;
    let lent = params![gap, Happened::Lent.code()];
    statement.query_map(lent, |r| r.get(0))?.collect()
}

/// A series: its channel, and what its values say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Series {
    pub(crate) id: i64,
    pub(crate) channel: String,
    pub(crate) meaning: Meaning,
}

const SERIES: &str = "SELECT id, channel, quantity, unit, aggregation, label FROM series";

/// One that a later version wrote says nothing to this one.
fn series_of(row: &Row<'_>) -> rusqlite::Result<Option<Series>> {
    let meaning = |row: &Row<'_>| {
        let (aggregation, label) = (registry::aggregation(row.get(4)?), registry::label(row.get(5)?));
        let (quantity, unit) = (row.get(2)?, row.get(3)?);
        let known = aggregation.zip(label);
        Ok::<_, rusqlite::Error>(known.map(|(aggregation, label)| Meaning {
            quantity,
            unit,
            aggregation,
            label,
        }))
    };
    let (id, channel) = (row.get(0)?, row.get(1)?);
    Ok(meaning(row)?.map(|meaning| Series { id, channel, meaning }))
}

/// The series of that number.
pub(crate) fn series(connection: &Connection, id: i64) -> rusqlite::Result<Option<Series>> {
    let sql = format!("{SERIES} WHERE id = ?1");
    Ok(connection.prepare_cached(&sql)?.query_row([id], series_of).optional()?.flatten())
}

/// What a channel of a device is and was, the latest first.
pub(crate) fn revisions(
    connection: &Connection,
    device: DeviceNo,
    channel: &str,
) -> rusqlite::Result<Vec<Series>> {
    let sql = format!("{SERIES} WHERE device = ?1 AND channel = ?2 ORDER BY revision DESC");
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement.query_map(params![device.0, channel], series_of)?;
    Ok(found.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// The values of `donor` at instants of a grid within a time (inclusive), in order, at most `most`: where `own` has a row
/// they are left out, and so are those without a value and those whose time is not known for sure.
pub(crate) fn values(
    connection: &Connection,
    (own, donor): (i64, i64),
    times: SlotGrid,
    (from, to): (Timestamp, Timestamp),
    most: usize,
) -> rusqlite::Result<Vec<(Timestamp, Cell, Quality)>> {
    let sql = "SELECT ts, value, quality FROM readings WHERE series = ?1 AND ts >= ?2 AND ts <= ?3
        AND (ts - ?4) % ?5 = 0 AND value IS NOT NULL AND quality <> ?6
        AND NOT EXISTS (SELECT 1 FROM readings o WHERE o.series = ?7 AND o.ts = readings.ts) ORDER BY ts LIMIT ?8";
    let unsure = i64::from(Quality::UncertainClock.code());
    let (phase, interval) = (i64::from(times.phase_ms), times.interval.as_ms());
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let key = params![donor, from.0, to.0, phase, interval, unsure, own, most];
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(key)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        // A quality of a later version is no word that could be passed on.
        let Ok(quality) = cell::quality(row.get(2)?) else { continue };
        found.push((Timestamp(row.get(0)?), Cell::stored(row.get_ref(1)?), quality));
    }
    Ok(found)
}

/// The instants of a grid within a time (inclusive) at which each of these series has a row, and one of them a lent one; in
/// order, at most `most`.
pub(crate) fn whole(
    connection: &Connection,
    series: &[i64],
    times: SlotGrid,
    (from, to): (Timestamp, Timestamp),
    most: usize,
) -> rusqlite::Result<Vec<Timestamp>> {
    let Some((one, others)) = series.split_first() else { return Ok(Vec::new()) };
    let others = format!("[{}]", others.iter().map(i64::to_string).collect::<Vec<_>>().join(","));
    let sql = "SELECT r.ts FROM readings r WHERE r.series = ?1 AND r.ts >= ?2 AND r.ts <= ?3 AND (r.ts - ?4) % ?5 = 0
        AND (SELECT count(*) = json_array_length(?6) AND max(coalesce(max(o.quality), 0), r.quality) >= ?7
            FROM json_each(?6) x JOIN readings o ON o.series = x.value AND o.ts = r.ts)
        ORDER BY r.ts LIMIT ?8";
    let (phase, interval) = (i64::from(times.phase_ms), times.interval.as_ms());
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let key = params![one, from.0, to.0, phase, interval, others, cell::LENT, most];
    connection.prepare_cached(sql)?.query_map(key, |r| r.get(0).map(Timestamp))?.collect()
}

/// Whether a series has a row of that instant.
pub(crate) fn has(connection: &Connection, series: i64, at: Timestamp) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM readings WHERE series = ?1 AND ts = ?2)";
    connection.prepare_cached(sql)?.query_row([series, at.0], |r| r.get(0))
}

/// Whether a slot of a grid was received: of several grids that a device has had, the one that a value was kept on.
pub(crate) fn is_received(connection: &Connection, grid: GridNo, slot: Slot) -> rusqlite::Result<bool> {
    let found = runs::touching(connection, grid, (slot.0, slot.0))?;
    Ok(found.iter().any(|run| run.known == Known::Received))
}
