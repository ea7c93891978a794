//! How far a series reaches: its device's own readings, and those that another device lent it. Kept on write, so that nobody
//! walks over what was lent to find what the device itself said last. And what becomes of what was lent where the device's own
//! answer comes after all.

use std::collections::BTreeMap;

use gapless_common::time::{Slot, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::cell;
use super::gap_lives::{self, Event, Happened};
use crate::ledger::{Due, GridNo, Stamp};

/// When the device `d.id` had its last own reading, not after `?2`. What is later is the word of a clock that is ahead: only
/// where there is such a row the others are looked through.
macro_rules! last_own {
    () => {
        "(SELECT max(CASE WHEN x.own_ts > ?2 THEN (SELECT r.ts FROM readings r
            WHERE r.series = x.id AND r.ts <= ?2 AND r.quality < 65536 ORDER BY r.ts DESC LIMIT 1) ELSE x.own_ts END)
            FROM series x WHERE x.device = d.id)"
    };
}
pub(super) use last_own;

/// The slot that a reading is of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) grid: GridNo,
    pub(crate) slot: Slot,
    /// The instant at which it was due: what is lent of it stands there.
    pub(crate) at: Timestamp,
}

impl Place {
    pub(crate) fn of(due: &Due, slot: Slot) -> Self {
        Self { grid: due.grid, slot, at: due.times.at(slot) }
    }
}

/// See the module's text: [`load`](Self::load), [`own`](Self::own) and [`lent`](Self::lent) for each row that is written, then
/// [`save`](Self::save).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reach {
    own: Option<i64>,
    lent: Option<i64>,
    /// Of all series that its channel has had.
    lent_of_channel: Option<i64>,
}

impl Reach {
    pub(super) fn load(connection: &Connection, series: i64) -> rusqlite::Result<Self> {
        let sql = "SELECT s.own_ts, s.lent_ts, (SELECT max(x.lent_ts) FROM series x
            WHERE x.device = s.device AND x.channel = s.channel) FROM series s WHERE s.id = ?1";
        let row = |r: &Row<'_>| Ok(Self { own: r.get(0)?, lent: r.get(1)?, lent_of_channel: r.get(2)? });
        Ok(connection.prepare_cached(sql)?.query_row([series], row).optional()?.unwrap_or_default())
    }

    /// A reading of the device's own.
    pub(super) fn own(&mut self, ts: i64) {
        self.own = self.own.max(Some(ts));
    }

    /// A reading that another device measured.
    pub(super) fn lent(&mut self, ts: i64) {
        self.lent = self.lent.max(Some(ts));
    }

    pub(super) fn save(&self, connection: &Connection, series: i64, before: &Self) -> rusqlite::Result<()> {
        if self == before {
            return Ok(());
        }
        let sql = "UPDATE series SET own_ts = ?2, lent_ts = ?3 WHERE id = ?1";
        connection.prepare_cached(sql)?.execute(params![series, self.own, self.lent]).map(drop)
    }
}

/// A reading was taken away from that instant: where it was the last one, another one is.
pub(super) fn is_withdrawn(connection: &Connection, series: i64, ts: i64) -> rusqlite::Result<()> {
    let sql =
        "UPDATE series SET own_ts = (SELECT r.ts FROM readings r WHERE r.series = ?1 AND r.quality < 65536
        ORDER BY r.ts DESC LIMIT 1) WHERE id = ?1 AND own_ts = ?2";
    connection.prepare_cached(sql)?.execute([series, ts]).map(drop)
}

/// Of a channel the series, as many of them as say the same as this one but for the unit, in which another device measured what
/// stands at that instant.
pub(super) fn lent(
    connection: &Connection,
    reach: &Reach,
    series: i64,
    ts: i64,
) -> rusqlite::Result<Vec<i64>> {
    if reach.lent_of_channel < Some(ts) {
        return Ok(Vec::new());
    }
    let sql = "SELECT x.id FROM series s JOIN series x ON x.device = s.device AND x.channel = s.channel
        JOIN readings r ON r.series = x.id AND r.ts = ?2 WHERE s.id = ?1 AND x.quantity = s.quantity
        AND x.aggregation = s.aggregation AND x.label = s.label AND r.quality >= ?3";
    connection.prepare_cached(sql)?.query_map([series, ts, cell::LENT], |r| r.get(0))?.collect()
}

/// Takes what stands at that instant of a series away, and keeps it; it outweighs what is kept aside there by the same commit.
pub(super) fn make_room(
    connection: &Connection,
    (series, ts): (i64, i64),
    commit: u64,
) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO revisions
        SELECT series, ts, ?3, value, quality FROM readings WHERE series = ?1 AND ts = ?2";
    connection.prepare_cached(sql)?.execute([series, ts, commit.cast_signed()])?;
    let sql = "DELETE FROM readings WHERE series = ?1 AND ts = ?2";
    connection.prepare_cached(sql)?.execute([series, ts]).map(drop)
}

/// Keeps an answer without a value beside what stands. Returns whether it is the first one of its kind.
pub(super) fn keep_aside(
    connection: &Connection,
    (series, ts): (i64, i64),
    quality: i64,
    commit: u64,
) -> rusqlite::Result<bool> {
    let sql = "INSERT OR IGNORE INTO revisions SELECT ?1, ?2, ?3, NULL, ?4
        WHERE NOT EXISTS (SELECT 1 FROM revisions WHERE series = ?1 AND ts = ?2 AND quality = ?4)";
    Ok(connection.prepare_cached(sql)?.execute([series, ts, commit.cast_signed(), quality])? > 0)
}

/// Tells the history of each gap how many of its slots have the device's own reading now, in place of what was lent. To be
/// called once the gaps are what they are by these readings.
pub(crate) fn tell_replaced(
    connection: &Connection,
    stamp: Stamp,
    slots: impl Iterator<Item = (GridNo, i64)>,
) -> rusqlite::Result<()> {
    let sql = "SELECT id, last_slot FROM gaps WHERE grid = ?1 AND first_slot <= ?2 ORDER BY first_slot DESC LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut of_gaps: BTreeMap<i64, usize> = BTreeMap::new();
    for (grid, slot) in slots {
        let row = |r: &Row<'_>| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?));
        let found = statement.query_row([grid.0, slot], row).optional()?;
        if let Some((gap, _)) = found.filter(|(_, last)| *last >= slot) {
            *of_gaps.entry(gap).or_default() += 1;
        }
    }
    for (gap, slots) in of_gaps {
        let detail = format!(
            "its device's own readings came, and took the place of lent ones, in {slots} of its slots"
        );
        let event = Event { detail: Some(&detail), ..Event::of(gap, Happened::Replaced) };
        gap_lives::tell(connection, stamp, &event)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::super::{alerts, jobs, rows, sqlite};
    use super::*;

    /// A device whose own reading is followed by so many lent ones.
    fn lent(count: i64) -> Connection {
        let connection = sqlite::make_writer(Connection::open_in_memory().unwrap(), 7).unwrap();
        let put = "INSERT INTO sites VALUES (1, 'farm'); INSERT INTO agents (id, site, name) VALUES (1, 1, 'gw');
            INSERT INTO devices (id, site, name, agent) VALUES (1, 1, 'a', 1);
            INSERT INTO grids VALUES (1, 1, 1000, 0);
            INSERT INTO spans (grid, agent, first_slot) VALUES (1, 1, 0);
            INSERT INTO series (id, device, channel, revision, unit, quantity, aggregation, label, own_ts, lent_ts) VALUES
                (1, 1, 'u', 1, 'V', 'q', 0, 1, 1000, 9000000), (2, 1, 'u', 2, 'kV', 'q', 0, 1, NULL, 9000000);
            INSERT INTO readings VALUES (1, 1000, 1.5, 0, 1);";
        connection.execute_batch(put).unwrap();
        let sql = "WITH RECURSIVE n (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n <= ?1)
            INSERT INTO readings SELECT x.id, n * 1000, 1.5, 65536, 2 FROM n, series x";
        connection.execute(sql, [count]).unwrap();
        connection
    }

    /// What is looked at every second and at each page must not walk over what was lent since.
    #[test]
    fn when_a_device_spoke_last_costs_the_same_however_much_was_lent_since() {
        let steps = |count: i64| {
            let connection = lent(count);
            [rows::DEVICES, alerts::DEVICE, jobs::STANDING].map(|sql| {
                let mut statement = connection.prepare(sql).unwrap();
                // The site or the device, and until when.
                let places = statement.parameter_count();
                for (n, value) in
                    [Some(1), Some(9_000_000), Some(0), Some(0)].into_iter().take(places).enumerate()
                {
                    let value = value.filter(|_| sql != rows::DEVICES || n > 0);
                    statement.raw_bind_parameter(n + 1, value).unwrap();
                }
                let column = if sql == jobs::STANDING { "fresh_at" } else { "last_ts" };
                let found =
                    statement.raw_query().next().unwrap().map(|row| row.get::<_, i64>(column).unwrap());
                assert_eq!(found, Some(1_000), "{sql}");
                statement.get_status(StatementStatus::VmStep)
            })
        };
        let (few, many) = (steps(2), steps(5_000));
        assert_eq!(few, many);
    }

    /// A clock that is ahead has told of a time that has not come.
    #[test]
    fn what_a_device_says_of_the_future_is_not_when_it_spoke_last() {
        let connection = lent(5);
        let rows: [(i64, Option<i64>); 4] =
            [(500, None), (1_000, Some(1_000)), (7_000, Some(1_000)), (8_000, Some(8_000))];
        connection.execute_batch("INSERT INTO readings VALUES (1, 8000, 1.5, 0, 3); UPDATE series SET own_ts = 8000 WHERE id = 1").unwrap();
        for (until, expected) in rows {
            let sql = concat!("SELECT ", last_own!(), " FROM devices d WHERE ?1 = d.id");
            let found: Option<i64> = connection.query_row(sql, [1, until], |r| r.get(0)).unwrap();
            assert_eq!(found, expected, "{until}");
        }
        connection.execute_batch("DELETE FROM readings WHERE series = 1 AND ts = 8000").unwrap();
        is_withdrawn(&connection, 1, 8_000).unwrap();
        assert_eq!(
            Reach::load(&connection, 1).unwrap().own,
            Some(1_000),
            "the one before it is the last again"
        );
    }
}
