//! What a computed device finds of its inputs in the database. Reads only.

use gapless_common::quality::Quality;
use gapless_common::reading::Value;
use gapless_common::time::{Slot, Timestamp};
use rusqlite::{Connection, OptionalExtension as _};

use super::{ReadError, cell, registry, state};
use crate::sources::derive::{self, Periods};

/// A series as something is computed from it.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    /// Its device.
    pub(crate) device: i64,
    /// Its rows, under every revision with today's unit and label.
    pub(crate) series: Vec<i64>,
    /// Its slots.
    pub(crate) periods: Periods,
    grid: i64,
    /// The first slot that was ever due, and the first that is not accounted for yet.
    pub(crate) due: Option<(Timestamp, Timestamp)>,
}

/// A series of a site, by the names of device and channel.
pub(crate) fn input(
    connection: &Connection,
    site: &str,
    (device, channel): (&str, &str),
) -> Result<Option<Input>, ReadError> {
    let sql = "SELECT x.id, x.device, x.label, x.unit FROM series x JOIN devices d ON d.id = x.device
        JOIN sites s ON s.id = d.site
        WHERE s.name = ?1 AND d.name = ?2 AND x.channel = ?3 ORDER BY x.revision DESC";
    let row = |r: &rusqlite::Row<'_>| {
        Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?, r.get::<_, i64>(2)?, r.get::<_, String>(3)?))
    };
    let mut statement = connection.prepare_cached(sql)?;
    let revisions = statement.query_map([site, device, channel], row)?.collect::<Result<Vec<_>, _>>()?;
    let Some((_, device, label, unit)) = revisions.first().cloned() else { return Ok(None) };
    let same = revisions.iter().filter(|revision| (revision.2, &revision.3) == (label, &unit));
    let series = same.map(|revision| revision.0).collect();
    let sql = "SELECT g.id, g.interval_ms, g.phase_ms, min(p.first_slot), max(p.proven_slot)
        FROM spans p JOIN grids g ON g.id = p.grid WHERE g.device = ?1 GROUP BY g.id ORDER BY max(p.id) DESC LIMIT 1";
    let row = |r: &rusqlite::Row<'_>| {
        let numbers = (r.get::<_, i64>(0)?, r.get::<_, i64>(1)?, r.get::<_, i64>(2)?);
        Ok((numbers, r.get::<_, Option<i64>>(3)?, r.get::<_, Option<i64>>(4)?))
    };
    let found = connection.prepare_cached(sql)?.query_row([device], row).optional()?;
    let Some(((grid, interval, phase_ms), first, proven)) = found else { return Ok(None) };
    let periods = Periods {
        grid: state::grid(interval, phase_ms),
        label: registry::label(label)
            .ok_or_else(|| ReadError::Unknown { what: "label", value: label.to_string() })?,
    };
    let due = first
        .zip(proven)
        .map(|(first, proven)| (periods.grid.at(Slot(first)), periods.grid.at(Slot(proven).plus(1))));
    Ok(Some(Input { device, series, periods, grid, due }))
}

/// What is known of an input between two begins of periods.
pub(crate) fn between(
    connection: &Connection,
    input: &Input,
    (from, to): (Timestamp, Timestamp),
) -> Result<derive::Input, ReadError> {
    let mut found = derive::Input::default();
    let (first, end) = (input.periods.instant(from).0, input.periods.instant(to).0);
    let sql = "SELECT ts, value, quality FROM readings WHERE series = ?1 AND ts >= ?2 AND ts < ?3";
    let mut statement = connection.prepare_cached(sql)?;
    for series in &input.series {
        let mut rows = statement.query([*series, first, end])?;
        while let Some(row) = rows.next()? {
            let code = row.get(2)?;
            // What is computed from a value of another device is nobody's measurement.
            let quality = match cell::quality(code)? {
                Quality::Good if cell::is_lent(code) => Quality::UncertainEstimated,
                quality => quality,
            };
            let value = match cell::value(row.get_ref(1)?)? {
                Some(Value::Number(number)) => Some(number),
                Some(Value::Text(_)) => continue,
                None => None,
            };
            // The newest revision comes first.
            found.cells.entry(input.periods.begin(Timestamp(row.get(0)?))).or_insert((value, quality));
        }
    }
    let sql = "SELECT from_ts, to_ts, cause FROM gaps
        WHERE grid = ?1 AND state <> 2 AND first_slot <= ?3 AND last_slot >= ?2";
    let slots = [first, end].map(|at| input.periods.grid.slot_at(Timestamp(at)).0);
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([input.grid, slots[0], slots[1]])?;
    while let Some(row) = rows.next()? {
        let begin = |at: i64| input.periods.begin(Timestamp(at));
        found.gaps.push((begin(row.get(0)?), begin(row.get(1)?), cell::cause(row.get(2)?)?));
    }
    let sql = "SELECT first_slot, coalesce(last_slot, ?3) FROM spans
        WHERE grid = ?1 AND first_slot <= ?3 AND coalesce(last_slot, ?3) >= ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([input.grid, slots[0], slots[1]])?;
    while let Some(row) = rows.next()? {
        let begin = |slot: i64| input.periods.begin(input.periods.grid.at(Slot(slot)));
        found.due.push((begin(row.get(0)?), begin(row.get::<_, i64>(1)?.saturating_add(1))));
    }
    Ok(found)
}

/// The begin of the first period that there is a reading of.
pub(crate) fn earliest(connection: &Connection, input: &Input) -> rusqlite::Result<Option<Timestamp>> {
    let mut statement = connection.prepare_cached("SELECT min(ts) FROM readings WHERE series = ?1")?;
    let mut earliest: Option<i64> = None;
    for series in &input.series {
        let first: Option<i64> = statement.query_row([series], |r| r.get(0))?;
        earliest = earliest.into_iter().chain(first).min();
    }
    Ok(earliest.map(|at| input.periods.begin(Timestamp(at))))
}

/// Where readings of a device were written after a commit: the commit, first and last time (inclusive).
pub(crate) fn changed(
    connection: &Connection,
    device: i64,
    after: i64,
) -> rusqlite::Result<Vec<(i64, Timestamp, Timestamp)>> {
    let sql = "SELECT commit_no, first_ts, last_ts FROM changes
        WHERE device = ?1 AND commit_no > ?2 ORDER BY commit_no";
    let mut statement = connection.prepare_cached(sql)?;
    let row = |r: &rusqlite::Row<'_>| Ok((r.get(0)?, Timestamp(r.get(1)?), Timestamp(r.get(2)?)));
    statement.query_map([device, after], row)?.collect()
}
