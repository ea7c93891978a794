//! What is known of a device's slots in a time, as runs: what is written down, and between it, where slots were
//! due, *late* or *unknown* by the clock of the one who asks.

use gapless_common::time::{Slot, SlotGrid, Timestamp};
use rusqlite::Connection;

use super::gap_lives::span_ms;
use super::model::{DeviceNo, SlotState, StripRun};
use super::{ReadError, runs, state};
use crate::ledger::{GridNo, Known, Run, freshness};

/// A grid of the device, and who polls it how.
pub(super) struct Grid {
    pub(super) id: i64,
    pub(super) times: SlotGrid,
    flush_ms: u32,
    /// How long its source may take beside that, in ms.
    source_ms: i64,
}

/// The runs of all grids of the device in `from..to`, in order of time.
pub(super) fn of(
    connection: &Connection,
    device: DeviceNo,
    (from, to): (Timestamp, Timestamp),
    now: Timestamp,
) -> Result<Vec<StripRun>, ReadError> {
    let mut strip = Vec::new();
    for grid in grids(connection, device)? {
        let runs = pieces(connection, &grid, (from, to), now)?.into_iter();
        strip.extend(runs.map(|(f, l, state)| StripRun {
            from: grid.times.at(Slot(f)),
            to: grid.times.at(Slot(l).plus(1)),
            slots: u64::try_from(l - f).unwrap_or_default() + 1,
            state,
        }));
    }
    strip.sort_by_key(|run| run.from);
    Ok(strip)
}

/// The runs of one grid in `from..to`; what is known first.
pub(super) fn pieces(
    connection: &Connection,
    grid: &Grid,
    (from, to): (Timestamp, Timestamp),
    now: Timestamp,
) -> Result<Vec<Piece>, ReadError> {
    let range = (grid.times.first_from(from).0, grid.times.first_from(to).0 - 1);
    let known = known_runs(connection, grid.id, range)?;
    let due = due_runs(connection, grid, range, now)?;
    let absent = due.into_iter().flat_map(|due| without(due, &known));
    let late_from = freshness::late_from(now, grid.flush_ms, grid.times.interval.as_ms());
    let late_from = grid.times.first_from(late_from.plus_ms(-grid.source_ms));
    let absent = absent.flat_map(|(f, l)| {
        let unknown = (f, l.min(late_from.0 - 1), SlotState::Unknown);
        [unknown, (f.max(late_from.0), l, SlotState::Late)]
    });
    let known = known.iter().copied();
    Ok(known.chain(absent).filter(|(f, l, _)| f <= l).collect())
}

pub(super) fn grids(connection: &Connection, device: DeviceNo) -> Result<Vec<Grid>, ReadError> {
    // A source is asked every so often, and has a slot as late as its lag.
    let sql = "SELECT g.id, g.interval_ms, g.phase_ms, coalesce(a.flush_ms, 0), d.attributes ->> 'lag',
            coalesce(d.attributes ->> 'every_most', d.attributes ->> 'every'),
            coalesce(d.attributes ->> 'history' = 'source', 0) OR d.attributes ->> 'product_of' IS NOT NULL
        FROM grids g JOIN devices d ON d.id = g.device LEFT JOIN agents a ON a.id = d.agent WHERE g.device = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([device.0], |r| {
        let flush: i64 = r.get(3)?;
        let span = |column| -> rusqlite::Result<i64> {
            Ok(r.get::<_, Option<String>>(column)?.and_then(|text| span_ms(&text)).unwrap_or_default())
        };
        let is_source: bool = r.get(6)?;
        Ok(Grid {
            id: r.get(0)?,
            times: state::grid(r.get(1)?, r.get(2)?),
            flush_ms: u32::try_from(flush).unwrap_or_default(),
            source_ms: if is_source { span(4)?.saturating_add(span(5)?) } else { 0 },
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// First and last slot, and their state.
pub(super) type Piece = (i64, i64, SlotState);

fn known_runs(
    connection: &Connection,
    grid: i64,
    (first, last): (i64, i64),
) -> Result<Vec<Piece>, ReadError> {
    let runs = runs::touching(connection, GridNo(grid), (first, last))?;
    let piece = |run: Run| {
        let state = match run.known {
            Known::Received => SlotState::Received,
            Known::Missed(cause) => SlotState::Missed(cause),
            Known::Lost(cause) | Known::Down(cause) | Known::Ended(cause) | Known::Unexplained(cause) => {
                SlotState::Lost(cause)
            }
        };
        (run.first.max(first), run.last.min(last), state)
    };
    Ok(runs.into_iter().map(piece).collect())
}

/// Where slots were due, up to `now`.
fn due_runs(
    connection: &Connection,
    grid: &Grid,
    (first, last): (i64, i64),
    now: Timestamp,
) -> Result<Vec<(i64, i64)>, ReadError> {
    let last = last.min(grid.times.slot_at(now).0);
    let sql = "SELECT max(first_slot, ?2), min(coalesce(last_slot, ?3), ?3) FROM spans
        WHERE grid = ?1 AND first_slot IS NOT NULL AND first_slot <= ?3 AND coalesce(last_slot, ?3) >= ?2
        ORDER BY first_slot";
    let mut statement = connection.prepare_cached(sql)?;
    let mut due: Vec<(i64, i64)> = Vec::new();
    let mut rows = statement.query([grid.id, first, last])?;
    while let Some(row) = rows.next()? {
        let (first, last): (i64, i64) = (row.get(0)?, row.get(1)?);
        match due.last_mut() {
            // Two agents may owe the same slots; they are due once.
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => due.push((first, last)),
        }
    }
    Ok(due)
}

/// What of a range no run holds.
fn without((first, last): (i64, i64), known: &[Piece]) -> Vec<(i64, i64)> {
    let mut next = first;
    let mut absent = Vec::new();
    for &(f, l, _) in known.iter().filter(|(f, l, _)| *l >= first && *f <= last) {
        if next < f {
            absent.push((next, f - 1));
        }
        next = next.max(l + 1);
    }
    if next <= last {
        absent.push((next, last));
    }
    absent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite;

    /// Slots 0 to 9, a minute each, of which nothing is known; how many of them may still come.
    fn late(attributes: &str, now_min: i64) -> u64 {
        let folder = tempfile::tempdir().unwrap();
        let connection = sqlite::open_writer(&folder.path().join("db")).unwrap();
        let sql = "INSERT INTO sites VALUES (1, 'farm');
            INSERT INTO agents (id, site, name) VALUES (1, 1, 'gw');
            INSERT INTO devices (id, site, name, agent) VALUES (1, 1, 'a', 1);
            INSERT INTO grids VALUES (1, 1, 60000, 0);
            INSERT INTO spans (grid, agent, first_slot, last_slot) VALUES (1, 1, 0, 9);";
        connection.execute_batch(sql).unwrap();
        connection.execute("UPDATE devices SET attributes = ?1", [attributes]).unwrap();
        let range = (Timestamp(0), Timestamp(600_000));
        let strip = of(&connection, DeviceNo(1), range, Timestamp(now_min * 60_000)).unwrap();
        assert_eq!(strip.iter().map(|run| run.slots).sum::<u64>(), 10);
        strip.iter().filter(|run| run.state == SlotState::Late).map(|run| run.slots).sum()
    }

    #[test]
    fn what_a_source_may_still_have_is_late_and_not_unknown() {
        let rows = [
            // Two intervals, and a minute.
            ("{}", 10, 3),
            ("{}", 13, 0),
            (r#"{"history": "source", "lag": "3h"}"#, 13, 10),
            (r#"{"history": "source", "lag": "3h"}"#, 183, 10),
            (r#"{"history": "source", "lag": "3h"}"#, 185, 8),
            (r#"{"history": "source", "lag": "3h"}"#, 193, 0),
            // What nobody has asked for yet may be there.
            (r#"{"history": "source", "lag": "3h", "every": "10m"}"#, 193, 10),
            (r#"{"history": "source", "lag": "3h", "every": "10m", "every_most": "1h"}"#, 243, 10),
            (r#"{"product_of": "a/u, b/u", "lag": "3h"}"#, 183, 10),
            // A word of a person about another device is none of a source.
            (r#"{"lag": "3h"}"#, 13, 0),
            (r#"{"history": "source", "lag": "long"}"#, 13, 0),
        ];
        for (attributes, now_min, expected) in rows {
            assert_eq!(late(attributes, now_min), expected, "{attributes} at {now_min} min");
        }
    }
}
