//! The complete grid of series: their readings, and between them each slot of the device's schedules that has none, with
//! what is known of it. Read window by window, so that memory is bounded; decides nothing about gaps.
//!
//! Whether a slot is there is the ledger's word, not that of the time of a reading: a late answer has a time behind the
//! next slot's.

use std::collections::VecDeque;

use gapless_common::quality::Cause;
use gapless_common::time::{Slot, Timestamp};
use rusqlite::{Connection, OptionalExtension as _};

use super::gap_lives::{GAP_FILLED, phase};
use super::model::{Absence, AbsentSlot, DeviceNo, Flow, GridRow, Scan, SeriesNo, SlotState};
use super::rows::reading;
use super::strip::{self, Grid};
use super::{ReadError, cell};
use crate::gaps::life::Phase;

type Read<T> = Result<T, ReadError>;

/// Slots of the device's densest schedule that are looked at in one go.
const WINDOW_SLOTS: i64 = 10_000;

/// Hands each row to `each`, in the order (series, time), a reading before an absent slot of the same instant. What another
/// device measured is the row of its slot, though the slot is missing still of other channels.
pub(super) fn scan(
    connection: &Connection,
    scan: &Scan,
    now: Timestamp,
    each: &mut dyn FnMut(GridRow) -> Flow,
) -> Read<()> {
    let mut numbers = scan.series.clone();
    numbers.sort_unstable();
    numbers.dedup();
    for no in numbers {
        let from = match scan.after {
            Some((after, _)) if no < after => continue,
            Some((after, at)) if no == after => scan.from.max(at.plus_ms(1)),
            _ => scan.from,
        };
        if one(connection, no, (from, scan.to), now, each)? == Flow::Stop {
            break;
        }
    }
    Ok(())
}

fn one(
    connection: &Connection,
    no: SeriesNo,
    (from, to): (Timestamp, Timestamp),
    now: Timestamp,
    each: &mut dyn FnMut(GridRow) -> Flow,
) -> Read<Flow> {
    let mut absent = Absent::of(connection, no, (from, to), now)?;
    let sql = "SELECT * FROM readings WHERE series = ?1 AND ts >= ?2 AND ts < ?3 ORDER BY ts";
    let mut statement = connection.prepare_cached(sql)?;
    let mut found = statement.query([no.0, from.0, to.0])?;
    while let Some(row) = found.next()? {
        let reading = reading(row)?;
        while let Some(slot) = absent.next_before(reading.at)? {
            if each(GridRow::Absent(slot)) == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        if reading.lent {
            absent.leave_out(reading.at)?;
        }
        if each(GridRow::Reading(reading)) == Flow::Stop {
            return Ok(Flow::Stop);
        }
    }
    while let Some(slot) = absent.next_before(to)? {
        if each(GridRow::Absent(slot)) == Flow::Stop {
            return Ok(Flow::Stop);
        }
    }
    Ok(Flow::More)
}

/// The slots of one series that have no reading, in order of time.
struct Absent<'c> {
    connection: &'c Connection,
    series: SeriesNo,
    /// The revisions of its channel, itself among them.
    revisions: Vec<SeriesNo>,
    grids: Vec<Grid>,
    window_ms: i64,
    /// Everything before it has been looked at; nothing at or after `end` will be.
    looked: Timestamp,
    end: Timestamp,
    now: Timestamp,
    found: VecDeque<AbsentSlot>,
}

impl<'c> Absent<'c> {
    fn of(
        connection: &'c Connection,
        series: SeriesNo,
        (from, to): (Timestamp, Timestamp),
        now: Timestamp,
    ) -> Read<Self> {
        let sql = "SELECT device, channel FROM series WHERE id = ?1";
        let of = |r: &rusqlite::Row<'_>| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?));
        let (device, channel) = connection.prepare_cached(sql)?.query_row([series.0], of)?;
        let sql = "SELECT id FROM series WHERE device = ?1 AND channel = ?2 ORDER BY revision";
        let mut statement = connection.prepare_cached(sql)?;
        let revisions = statement.query_map((device, channel), |r| r.get(0).map(SeriesNo))?;
        let revisions = revisions.collect::<rusqlite::Result<_>>()?;
        let grids = strip::grids(connection, DeviceNo(device))?;
        let densest = grids.iter().map(|grid| grid.times.interval.as_ms()).min().unwrap_or(1);
        // A year that nobody had anything due in is not looked through.
        let mut first = Timestamp(i64::MAX);
        for grid in &grids {
            let sql = "SELECT min(first) FROM (SELECT min(first_slot) AS first FROM spans WHERE grid = ?1
                UNION ALL SELECT min(first_slot) FROM coverage WHERE grid = ?1)";
            let slot: Option<i64> = connection.prepare_cached(sql)?.query_row([grid.id], |r| r.get(0))?;
            first = slot.map_or(first, |slot| first.min(grid.times.at(Slot(slot))));
        }
        Ok(Self {
            connection,
            series,
            revisions,
            grids,
            window_ms: densest.saturating_mul(WINDOW_SLOTS),
            looked: from.max(first),
            end: to.min(now.plus_ms(1)),
            now,
            found: VecDeque::new(),
        })
    }

    /// The next slot before `at`.
    fn next_before(&mut self, at: Timestamp) -> Read<Option<AbsentSlot>> {
        while self.found.is_empty() && self.looked < self.end && self.looked < at {
            self.look()?;
        }
        let is_before = self.found.front().is_some_and(|slot| slot.at < at);
        Ok(if is_before { self.found.pop_front() } else { None })
    }

    /// No slot of that instant is absent; those before it have been taken.
    fn leave_out(&mut self, at: Timestamp) -> Read<()> {
        while self.found.is_empty() && self.looked < self.end && self.looked <= at {
            self.look()?;
        }
        while self.found.front().is_some_and(|slot| slot.at == at) {
            self.found.pop_front();
        }
        Ok(())
    }

    /// Takes in the next window.
    fn look(&mut self) -> Read<()> {
        let (from, to) = (self.looked, self.looked.plus_ms(self.window_ms).min(self.end));
        let mut found = Vec::new();
        for grid in &self.grids {
            let pieces = strip::pieces(self.connection, grid, (from, to), self.now)?;
            let missing: Vec<_> =
                pieces.into_iter().filter(|(_, _, state)| *state != SlotState::Received).collect();
            let Some(range) = missing.iter().map(|p| (p.0, p.1)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
            else {
                continue;
            };
            let gaps = gaps(self.connection, grid.id, range)?;
            for (first, last, state) in missing {
                if !self.is_in_force(grid.times.at(Slot(first)))? {
                    continue;
                }
                found.extend((first..=last).map(|slot| {
                    let next = gaps.get(gaps.partition_point(|gap| gap.last < slot));
                    let gap = next.filter(|gap| gap.first <= slot);
                    absent(self.series, grid.times.at(Slot(slot)), state, gap)
                }));
            }
        }
        found.sort_by_key(|slot| slot.at);
        self.found.extend(found);
        self.looked = to;
        Ok(())
    }

    /// Whether this revision is the one that a slot without a reading is missing of: the one that spoke last before it,
    /// else the one that spoke first after it, else the newest.
    fn is_in_force(&self, at: Timestamp) -> Read<bool> {
        if self.revisions.len() < 2 {
            return Ok(true);
        }
        let spoke = |sql: &str| -> Read<Vec<(i64, SeriesNo)>> {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut all = Vec::new();
            for &series in &self.revisions {
                let ts: Option<i64> =
                    statement.query_row([series.0, at.0], |r| r.get(0)).optional()?.flatten();
                all.extend(ts.map(|ts| (ts, series)));
            }
            Ok(all)
        };
        let before = spoke("SELECT max(ts) FROM readings WHERE series = ?1 AND ts < ?2")?;
        if let Some((_, series)) = before.into_iter().max() {
            return Ok(series == self.series);
        }
        let after = spoke("SELECT min(ts) FROM readings WHERE series = ?1 AND ts >= ?2")?;
        let first = after.into_iter().min().map(|(_, series)| series);
        Ok(first.or(self.revisions.last().copied()) == Some(self.series))
    }
}

/// A gap that is not filled.
struct Gap {
    id: i64,
    first: i64,
    last: i64,
    cause: Cause,
    phase: Phase,
    attempts: i64,
    /// Nobody can be asked for it.
    sourceless: bool,
}

/// The gaps that hold any slot of a range, in order.
fn gaps(connection: &Connection, grid: i64, (first, last): (i64, i64)) -> Read<Vec<Gap>> {
    let sql = "SELECT id, first_slot, last_slot, cause, state, attempts, sourceless FROM gaps
        WHERE grid = ?1 AND first_slot <= ?3 AND last_slot >= ?2 AND first_slot >= coalesce(
            (SELECT max(first_slot) FROM gaps WHERE grid = ?1 AND first_slot <= ?2), ?2) AND state <> ?4
        ORDER BY first_slot";
    super::read::rows(connection, sql, [grid, first, last, GAP_FILLED], |row| {
        Ok(Gap {
            id: row.get(0)?,
            first: row.get(1)?,
            last: row.get(2)?,
            cause: cell::cause(row.get(3)?)?,
            phase: phase(row.get(4)?),
            attempts: row.get(5)?,
            sourceless: row.get(6)?,
        })
    })
}

fn absent(series: SeriesNo, at: Timestamp, state: SlotState, gap: Option<&Gap>) -> AbsentSlot {
    let told = match state {
        SlotState::Late | SlotState::Received => (Absence::Pending, None),
        SlotState::Unknown => (Absence::Unknown, Some(Cause::Unreachable)),
        SlotState::Missed(cause) | SlotState::Lost(cause) => (Absence::Missing, Some(cause)),
    };
    let (absence, cause) = gap.map_or(told, |gap| {
        let absence = match gap.phase {
            Phase::Abandoned | Phase::Waiting if gap.attempts > 0 => Absence::NoData,
            // Nobody who was asked for it has said that there is nothing, and nobody can be asked.
            _ if gap.sourceless => Absence::Missing,
            Phase::Abandoned => Absence::NoData,
            Phase::Open | Phase::Requested | Phase::Waiting => Absence::Pending,
        };
        (absence, Some(gap.cause))
    });
    AbsentSlot { series, at, absence, cause, gap: gap.map(|gap| gap.id) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{ReadStore as _, Reader, sqlite};

    /// A slot that is missing is missing of one revision: of the one that was in force.
    #[test]
    fn a_slot_is_missing_of_one_revision_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("db");
        let connection = sqlite::open_writer(&file).unwrap();
        let sql = "INSERT INTO sites VALUES (1, 'farm');
            INSERT INTO agents (id, site, name) VALUES (1, 1, 'gw');
            INSERT INTO devices (id, site, name, agent) VALUES (1, 1, 'a', 1);
            INSERT INTO grids VALUES (1, 1, 1000, 0);
            INSERT INTO spans (grid, agent, first_slot, proven_slot) VALUES (1, 1, 0, 9);
            INSERT INTO coverage VALUES (1, 2, 3, 1, 0), (1, 4, 5, 6, 18), (1, 6, 7, 1, 0);
            INSERT INTO coverage VALUES (1, 0, 1, 6, 18), (1, 8, 9, 6, 18);
            INSERT INTO series (id, device, channel, revision, unit, quantity, aggregation, label)
                VALUES (1, 1, 'u', 1, 'V', 'q', 1, 1), (2, 1, 'u', 2, 'kV', 'q', 1, 1), (3, 1, 'u', 3, 'MV', 'q', 1, 1);
            INSERT INTO readings VALUES (1, 2100, 1.5, 0, 1), (1, 3100, 1.5, 0, 1), (2, 6100, 1.5, 0, 1), (2, 7100, 1.5, 0, 1);";
        connection.execute_batch(sql).unwrap();
        let store = Reader::new(&file);
        let told = |(from, to, after): (i64, i64, Option<(SeriesNo, Timestamp)>)| {
            let series = [3, 1, 2].map(SeriesNo).to_vec();
            let scan = Scan { series, from: Timestamp(from), to: Timestamp(to), after };
            let mut rows = Vec::new();
            let each = &mut |row| {
                rows.push(match row {
                    GridRow::Reading(reading) => (reading.series.0, reading.at.0),
                    GridRow::Absent(slot) => (slot.series.0, slot.at.0),
                });
                Flow::More
            };
            store.complete(&scan, Timestamp(9_500), each).unwrap();
            rows
        };
        let first = [0, 1_000, 2_100, 3_100, 4_000, 5_000].map(|ts| (1, ts));
        let second = [6_100, 7_100, 8_000, 9_000].map(|ts| (2, ts));
        let whole: Vec<_> = first.into_iter().chain(second).collect();
        assert_eq!(told((i64::MIN / 2, i64::MAX / 2, None)), whole);
        assert_eq!(told((1_000, 9_000, None)), whole[1..9]);
        assert_eq!(told((0, 10_000, Some((SeriesNo(1), Timestamp(3_100))))), whole[4..]);
    }
}
