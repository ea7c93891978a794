//! What is known of a device's slots in a time, as runs: what is written down, and between it, where slots were
//! due, *late* or *unknown* by the clock of the one who asks.

use gapless_common::time::{Slot, SlotGrid, Timestamp};
use rusqlite::Connection;

use super::model::{DeviceNo, SlotState, StripRun};
use super::{ReadError, runs, state};
use crate::ledger::{GridNo, Known, Run, freshness};

/// A grid of the device, and who polls it how.
pub(super) struct Grid {
    pub(super) id: i64,
    pub(super) times: SlotGrid,
    flush_ms: u32,
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
    let late_from =
        grid.times.first_from(freshness::late_from(now, grid.flush_ms, grid.times.interval.as_ms()));
    let absent = absent.flat_map(|(f, l)| {
        let unknown = (f, l.min(late_from.0 - 1), SlotState::Unknown);
        [unknown, (f.max(late_from.0), l, SlotState::Late)]
    });
    let known = known.iter().copied();
    Ok(known.chain(absent).filter(|(f, l, _)| f <= l).collect())
}

pub(super) fn grids(connection: &Connection, device: DeviceNo) -> Result<Vec<Grid>, ReadError> {
    let sql = "SELECT g.id, g.interval_ms, g.phase_ms, coalesce(a.flush_ms, 0) FROM grids g
        JOIN devices d ON d.id = g.device LEFT JOIN agents a ON a.id = d.agent WHERE g.device = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([device.0], |r| {
        let flush: i64 = r.get(3)?;
        Ok(Grid {
            id: r.get(0)?,
            times: state::grid(r.get(1)?, r.get(2)?),
            flush_ms: u32::try_from(flush).unwrap_or_default(),
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
