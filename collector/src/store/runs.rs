//! The ledger's runs and gaps, as rows. Decides nothing.

use gapless_common::time::{Slot, SlotGrid, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::cell::known_cause as cause;
use super::gap_lives::{self, Event, GAP_FILLED, Happened};
use crate::gaps::life::{Life, Phase};
use crate::gaps::{Policies, open_least_ms};
use crate::ledger::{Gap, GridNo, Known, Run, Slots, Stamp};

/// [`Slots`] over a connection with an open transaction.
pub(crate) struct SlotTable<'c> {
    pub(crate) connection: &'c Connection,
    /// What is written is written at.
    pub(crate) stamp: Stamp,
    /// Whose word it is that a gap is filled.
    pub(crate) filler: &'c str,
    /// How long what nobody can be asked for stays open.
    pub(crate) policies: &'c Policies,
}

fn code(known: Known) -> (i64, i64) {
    let state = match known {
        Known::Received => 1,
        Known::Missed(_) => 2,
        Known::Lost(_) => 3,
        Known::Down(_) => 4,
        Known::Ended(_) => 5,
        Known::Unexplained(_) => 6,
    };
    (state, known.cause().map_or(0, |cause| i64::from(cause.code())))
}

/// What a row of `coverage` says.
fn known(state: i64, code: i64) -> Known {
    match state {
        1 => Known::Received,
        2 => Known::Missed(cause(code)),
        3 => Known::Lost(cause(code)),
        4 => Known::Down(cause(code)),
        5 => Known::Ended(cause(code)),
        _ => Known::Unexplained(cause(code)),
    }
}

fn run(row: &Row<'_>) -> rusqlite::Result<Run> {
    Ok(Run { first: row.get(0)?, last: row.get(1)?, known: known(row.get(2)?, row.get(3)?) })
}

fn gap(row: &Row<'_>) -> rusqlite::Result<Gap> {
    let opened = Stamp { at: Timestamp(row.get(4)?), commit: row.get::<_, i64>(5)?.cast_unsigned() };
    let closed = row.get::<_, Option<i64>>(6)?.map(|at| Stamp { at: Timestamp(at), commit: 0 });
    Ok(Gap {
        id: row.get(0)?,
        first: row.get(1)?,
        last: row.get(2)?,
        cause: cause(row.get(3)?),
        opened,
        closed,
        life: gap_lives::life(row)?,
    })
}

/// From the greatest first slot at or below ?2 on, so that a run that begins before the range is seen.
const RUNS: &str = "SELECT first_slot, last_slot, state, cause FROM coverage
    WHERE grid = ?1 AND first_slot <= ?3 AND last_slot >= ?2 AND first_slot >= coalesce(
        (SELECT max(first_slot) FROM coverage WHERE grid = ?1 AND first_slot <= ?2), ?2)
    ORDER BY first_slot";
const GAPS: &str =
    "SELECT id, first_slot, last_slot, cause, opened_at, opened_commit, closed_at, state, attempts,
        failures, next_at, request, sourceless FROM gaps
    WHERE grid = ?1 AND first_slot <= ?3 AND last_slot >= ?2 AND first_slot >= coalesce(
        (SELECT max(first_slot) FROM gaps WHERE grid = ?1 AND first_slot <= ?2), ?2)
    ORDER BY first_slot";

/// The runs that hold any slot of `first..=last`, in order; the outer ones may reach beyond it.
pub(super) fn touching(
    connection: &Connection,
    grid: GridNo,
    (first, last): (i64, i64),
) -> rusqlite::Result<Vec<Run>> {
    connection.prepare_cached(RUNS)?.query_map([grid.0, first, last], run)?.collect()
}

impl Slots for SlotTable<'_> {
    type Error = rusqlite::Error;

    fn runs(&mut self, grid: GridNo, first: i64, last: i64) -> rusqlite::Result<Vec<Run>> {
        touching(self.connection, grid, (first.saturating_sub(1), last.saturating_add(1)))
    }

    fn replace_runs(&mut self, grid: GridNo, old: &[Run], new: &[Run]) -> rusqlite::Result<()> {
        for gone in old.iter().filter(|o| !new.iter().any(|n| n.first == o.first)) {
            let sql = "DELETE FROM coverage WHERE grid = ?1 AND first_slot = ?2";
            self.connection.prepare_cached(sql)?.execute([grid.0, gone.first])?;
        }
        for put in new.iter().filter(|n| !old.contains(n)) {
            let (state, cause) = code(put.known);
            let sql = "INSERT OR REPLACE INTO coverage VALUES (?1, ?2, ?3, ?4, ?5)";
            self.connection.prepare_cached(sql)?.execute([grid.0, put.first, put.last, state, cause])?;
        }
        Ok(())
    }

    fn first_known(&mut self, grid: GridNo, from: i64) -> rusqlite::Result<Option<i64>> {
        let sql = "SELECT min(first_slot) FROM coverage WHERE grid = ?1 AND first_slot >= ?2 AND first_slot >
            coalesce((SELECT max(last_slot) FROM spans WHERE grid = ?1), -9223372036854775808)";
        self.connection.prepare_cached(sql)?.query_row([grid.0, from], |r| r.get(0))
    }

    fn gaps(&mut self, grid: GridNo, first: i64, last: i64) -> rusqlite::Result<Vec<Gap>> {
        let range = params![grid.0, first.saturating_sub(1), last.saturating_add(1)];
        self.connection.prepare_cached(GAPS)?.query_map(range, gap)?.collect()
    }

    fn replace_gaps(
        &mut self,
        grid: GridNo,
        times: SlotGrid,
        old: &[Gap],
        new: &[Gap],
    ) -> rusqlite::Result<()> {
        for gone in old.iter().filter(|o| !new.contains(o)) {
            let sql = "DELETE FROM gaps WHERE id = ?1";
            self.connection.prepare_cached(sql)?.execute([gone.id])?;
        }
        for put in new.iter().filter(|n| !old.contains(n)) {
            // The gap that it was, or was cut off.
            let was = old
                .iter()
                .find(|o| put.id != 0 && o.id == put.id)
                .or_else(|| old.iter().find(|o| put.id == 0 && o.first <= put.first && put.first <= o.last));
            self.put_gap(grid, times, put, was)?;
        }
        Ok(())
    }
}

impl SlotTable<'_> {
    /// The life that a gap begins where nobody can be asked for it: its device has no memory of its own, or `is_known` otherwise.
    fn sourceless(&self, grid: GridNo, times: SlotGrid, is_known: bool) -> rusqlite::Result<Option<Life>> {
        let sql = "SELECT d.attributes ->> 'class', coalesce(a.flush_ms, 0) FROM grids g JOIN devices d ON d.id = g.device
            LEFT JOIN agents a ON a.id = d.agent WHERE g.id = ?1 AND (?2 OR d.attributes ->> 'history' IS NULL)";
        let row = |r: &Row<'_>| {
            let (class, flush_ms): (Option<String>, i64) = (r.get(0)?, r.get(1)?);
            let least_ms = open_least_ms(times.interval.as_ms(), flush_ms);
            Ok(Life::sourceless(self.stamp.at, self.policies.of(class.as_deref()).open_ms(0, least_ms)))
        };
        self.connection.prepare_cached(sql)?.query_row(params![grid.0, is_known], row).optional()
    }

    fn put_gap(&self, grid: GridNo, times: SlotGrid, gap: &Gap, was: Option<&Gap>) -> rusqlite::Result<()> {
        let is_grown = |was: &Gap| gap.first < was.first || gap.last > was.last;
        let life = match was {
            None => self.sourceless(grid, times, false)?,
            // What was missing first is held open as long as what is missing last; no clock that is set back makes that shorter.
            Some(was) if gap.life.sourceless && gap.life.phase == Phase::Open && is_grown(was) => {
                let life = self.sourceless(grid, times, true)?;
                life.map(|life| Life { next: life.next.max(gap.life.next), ..life })
            }
            Some(_) => None,
        };
        let life = life.unwrap_or(gap.life);
        let sql =
            "INSERT INTO gaps (id, grid, first_slot, last_slot, from_ts, to_ts, cause, state, opened_at,
            opened_commit, changed_commit, closed_at, attempts, failures, next_at, request, sourceless)
            VALUES (nullif(?1, 0), ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17) RETURNING id";
        let state = if gap.closed.is_some() { GAP_FILLED } else { gap_lives::state(life.phase) };
        let row = params![
            gap.id,
            grid.0,
            gap.first,
            gap.last,
            times.at(Slot(gap.first)).0,
            times.at(Slot(gap.last).plus(1)).0,
            i64::from(gap.cause.code()),
            state,
            gap.opened.at.0,
            gap.opened.commit.cast_signed(),
            self.stamp.commit.cast_signed(),
            gap.closed.map(|stamp| stamp.at.0),
            life.attempts,
            life.failures,
            life.next.map(|at| at.0),
            life.request.map(u64::cast_signed),
            life.sourceless,
        ];
        let id = self.connection.prepare_cached(sql)?.query_row(row, |r| r.get(0))?;
        let tell = |happened| {
            let event = Event { cause: Some(gap.cause), ..Event::of(id, happened) };
            gap_lives::tell(self.connection, self.stamp, &event)
        };
        let Some(was) = was else { return tell(Happened::Opened) };
        if was.id != id {
            tell(Happened::Cut { parent: was.id })?;
        }
        let is_filled = match (was.closed, gap.closed) {
            (None, Some(_)) => true,
            // What joins a gap that somebody else has filled.
            (Some(_), Some(_)) if is_grown(was) => {
                !gap_lives::is_filled_by(self.connection, id, self.filler)?
            }
            _ => false,
        };
        if is_filled {
            let (cause, actor) = (Some(gap.cause), self.filler);
            let event = Event { cause, actor, ..Event::of(id, Happened::Filled) };
            gap_lives::tell(self.connection, self.stamp, &event)?;
        } else if was.cause != gap.cause {
            tell(Happened::Recaused)?;
        }
        Ok(())
    }
}
