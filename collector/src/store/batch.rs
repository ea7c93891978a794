//! One transaction's readings: gathered from all frames, put in the order of the table, written once, compared
//! with what is there. Decides nothing about slots.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::id::Epoch;
use gapless_common::planted::{self, Bug};
use gapless_common::quality::Quality;
use gapless_common::reading::ClockCorrection;
use gapless_common::time::{Slot, Timestamp};
use rusqlite::{Connection, Statement, params};

use super::cell::{self, Cell};
use super::own::{self, Place, Reach};
use super::traffic;
use crate::ledger::{AgentNo, Due, GridNo, Stamp};
use crate::store::state;

/// Ranges of one device's changes that are nearer than this are told as one.
const CHANGE_JOIN_MS: i64 = 3_600_000;

/// A reading on its way to its row.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) series: i64,
    pub(crate) ts: i64,
    pub(crate) value: Cell,
    pub(crate) quality: Quality,
    pub(crate) device: i64,
    /// The slot that it is of, where that is known.
    pub(crate) place: Option<Place>,
    /// Whether it takes the place of another value of that instant.
    pub(crate) revises: bool,
    /// Whether another device measured it.
    pub(crate) lent: bool,
    pub(crate) agent: AgentNo,
    pub(crate) epoch: Epoch,
    pub(crate) seq: u64,
}

impl Row {
    /// Its quality as it stands in a column.
    fn code(&self) -> i64 {
        i64::from(self.quality.code())
            + if self.lent && !planted::has(Bug::LentUnmarked) { cell::LENT } else { 0 }
    }
}

/// What became of an agent's readings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) frames: i64,
    pub(crate) readings: i64,
    pub(crate) duplicates: i64,
    pub(crate) conflicts: i64,
    pub(crate) damaged: i64,
    pub(crate) refused: i64,
    pub(crate) received_bytes: i64,
}

/// See the module's text: push rows, [`flush`](Self::flush) before anything reads them, [`finish`](Self::finish)
/// before the commit.
pub(crate) struct Batch<'c> {
    pub(crate) connection: &'c Connection,
    pub(crate) commit: u64,
    pub(crate) now: Timestamp,
    pub(crate) tallies: BTreeMap<AgentNo, Tally>,
    rows: Vec<Row>,
    taken: usize,
    changed: BTreeMap<i64, Vec<i64>>,
    /// Slots of which the device's own reading came after one was lent.
    replaced: BTreeSet<(GridNo, i64)>,
}

impl<'c> Batch<'c> {
    pub(crate) fn new(connection: &'c Connection, commit: u64, now: Timestamp) -> Self {
        Self {
            connection,
            commit,
            now,
            tallies: BTreeMap::new(),
            rows: Vec::new(),
            taken: 0,
            changed: BTreeMap::new(),
            replaced: BTreeSet::new(),
        }
    }

    /// When what is written is written.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { at: self.now, commit: self.commit }
    }

    pub(crate) fn tally(&mut self, no: AgentNo) -> &mut Tally {
        self.tallies.entry(no).or_default()
    }

    pub(crate) fn push(&mut self, row: Row) {
        self.rows.push(row);
        self.taken += 1;
    }

    /// Rows that were pushed, whether written yet or not.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// Writes what was gathered.
    pub(crate) fn flush(&mut self) -> rusqlite::Result<()> {
        let mut rows = std::mem::take(&mut self.rows);
        // Stable: of two values for one instant the one that came first stays, or, where its source revises, the last.
        rows.sort_by_key(|row| (row.series, row.ts));
        let sql = "INSERT OR IGNORE INTO readings VALUES (?1, ?2, ?3, ?4, ?5)";
        let mut insert = self.connection.prepare_cached(sql)?;
        for rows in rows.chunk_by(|a, b| a.series == b.series) {
            let Some(Row { series, .. }) = rows.first() else { continue };
            let before = Reach::load(self.connection, *series)?;
            let mut reach = before;
            rows.iter().try_for_each(|row| self.write(&mut insert, row, &mut reach))?;
            reach.save(self.connection, *series, &before)?;
        }
        Ok(())
    }

    fn write(&mut self, insert: &mut Statement<'_>, row: &Row, reach: &mut Reach) -> rusqlite::Result<()> {
        let lent = self.lent_in_its_place(row, reach)?;
        if !lent.is_empty() && !row.quality.has_value() {
            reach.own(row.ts);
            return self.keep_aside(row);
        }
        lent.into_iter().try_for_each(|lent| self.take_place(row, lent))?;
        let (quality, commit) = (row.code(), self.commit.cast_signed());
        if insert.execute(params![row.series, row.ts, row.value, quality, commit])? == 0 {
            return self.meet(row);
        }
        if row.lent && !planted::has(Bug::LentFresh) {
            reach.lent(row.ts);
        } else {
            reach.own(row.ts);
        }
        self.tallies.entry(row.agent).or_default().readings += 1;
        self.changed.entry(row.device).or_default().push(row.ts);
        Ok(())
    }

    /// What was lent of the slot of a device's own reading, in whatever unit, and what was lent of another slot where this one is to
    /// stand: series and instants. One whose time is not known yet takes no place: its instant may well be another one's.
    fn lent_in_its_place(&self, row: &Row, reach: &Reach) -> rusqlite::Result<Vec<(i64, i64)>> {
        let Some(place) = row.place.filter(|_| !row.lent && !planted::has(Bug::LentStays)) else {
            return Ok(Vec::new());
        };
        let of_its_slot = own::lent(self.connection, reach, row.series, place.at.0)?;
        let mut found: Vec<_> = of_its_slot.into_iter().map(|series| (series, place.at.0)).collect();
        if row.ts != place.at.0 {
            let there = own::lent(self.connection, reach, row.series, row.ts)?;
            found.extend(there.contains(&row.series).then_some((row.series, row.ts)));
        }
        Ok(found)
    }

    /// The device itself has the last word: what was lent makes room.
    fn take_place(&mut self, row: &Row, (series, at): (i64, i64)) -> rusqlite::Result<()> {
        own::make_room(self.connection, (series, at), self.commit)?;
        self.changed.entry(row.device).or_default().push(at);
        let of_its_slot = row.place.filter(|place| place.at.0 == at);
        self.replaced.extend(of_its_slot.map(|place| (place.grid, place.slot.0)));
        Ok(())
    }

    /// The device has answered without a value, and another one had one: that stays, as nobody is helped by less. The answer
    /// is kept beside it.
    fn keep_aside(&mut self, row: &Row) -> rusqlite::Result<()> {
        let is_new = own::keep_aside(self.connection, (row.series, row.ts), row.code(), self.commit)?;
        let tally = self.tallies.entry(row.agent).or_default();
        if is_new {
            tally.readings += 1;
        } else {
            tally.duplicates += 1;
        }
        Ok(())
    }

    /// There is a reading of that instant already.
    fn meet(&mut self, row: &Row) -> rusqlite::Result<()> {
        let sql = "SELECT value, quality FROM readings WHERE series = ?1 AND ts = ?2";
        let quality = row.code();
        // What is said again by a clock that is off by now is nothing new.
        let [as_sure, in_doubt] = [certain(row.quality), uncertain(row.quality)].map(|q| i64::from(q.code()));
        let (same, was_in_doubt) =
            self.connection.prepare_cached(sql)?.query_row([row.series, row.ts], |r| {
                let stored: i64 = r.get(1)?;
                let same = row.value.same(r.get_ref(0)?) && (stored == quality || stored == as_sure);
                Ok((same, stored == in_doubt && stored != quality))
            })?;
        // What stands in takes no place: whatever came first of that instant is there.
        if row.lent {
            return Ok(());
        }
        let tally = self.tallies.entry(row.agent).or_default();
        let same = same && !planted::has(Bug::SkipDedup);
        if same || row.place.is_none() {
            // An instant that is not known for sure may well be taken; the reading stands in `uncertain`.
            tally.duplicates += 1;
            return Ok(());
        }
        // What was told in doubt of its time makes room for what is sure of it.
        if row.revises || was_in_doubt {
            return self.revise(row);
        }
        tally.conflicts += 1;
        let sql = "INSERT OR IGNORE INTO conflicts
            (series, ts, value, quality, agent, epoch, seq, received_at, commit_no)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        self.connection.prepare_cached(sql)?.execute(params![
            row.series,
            row.ts,
            row.value,
            quality,
            row.agent.0,
            row.epoch.0.cast_signed(),
            row.seq.cast_signed(),
            self.now.0,
            self.commit.cast_signed()
        ])?;
        Ok(())
    }

    /// The source says something else now: that is what counts, and what it said is kept.
    fn revise(&mut self, row: &Row) -> rusqlite::Result<()> {
        let key = [row.series, row.ts, self.commit.cast_signed()];
        let sql = "INSERT OR IGNORE INTO revisions
            SELECT series, ts, ?3, value, quality FROM readings WHERE series = ?1 AND ts = ?2";
        self.connection.prepare_cached(sql)?.execute(key)?;
        let sql =
            "UPDATE readings SET value = ?4, quality = ?5, commit_no = ?3 WHERE series = ?1 AND ts = ?2";
        let commit = self.commit.cast_signed();
        self.connection.prepare_cached(sql)?.execute(params![
            row.series,
            row.ts,
            commit,
            row.value,
            row.code()
        ])?;
        self.changed.entry(row.device).or_default().push(row.ts);
        Ok(())
    }

    /// Keeps a reading whose time is not known yet, with what a correction needs.
    pub(crate) fn push_uncertain(&mut self, row: Row, due: &Due, boot_clock_ms: u64) -> rusqlite::Result<()> {
        let sql = "INSERT OR IGNORE INTO uncertain VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, NULL, NULL)";
        self.connection.prepare_cached(sql)?.execute(params![
            row.agent.0,
            row.epoch.0.cast_signed(),
            row.seq.cast_signed(),
            row.series,
            due.grid.0,
            row.ts,
            boot_clock_ms.cast_signed(),
            row.value,
            i64::from(row.quality.code())
        ])?;
        self.push(row);
        Ok(())
    }

    /// Gives uncertain readings their true time. Returns the slots that they turn out to be of.
    pub(crate) fn correct(
        &mut self,
        no: AgentNo,
        correction: &ClockCorrection,
    ) -> rusqlite::Result<Vec<(Due, Slot)>> {
        self.flush()?;
        // One that begins at the same seq and says the same of more records is of a later process of one boot.
        let sql = "INSERT INTO corrections VALUES (?1, ?2, ?3, ?4, ?5, ?6)
            ON CONFLICT DO UPDATE SET last_seq = max(last_seq, excluded.last_seq)";
        let (epoch, first, last) = (
            correction.epoch.0.cast_signed(),
            correction.first.0.cast_signed(),
            correction.last.0.min(i64::MAX.cast_unsigned()).cast_signed(),
        );
        self.connection.prepare_cached(sql)?.execute(params![
            no.0,
            epoch,
            first,
            last,
            correction.boot.0.cast_signed(),
            correction.boot_began.0
        ])?;
        let found = self.uncertain(no, correction, (epoch, first, last))?;
        let mut slots = Vec::with_capacity(found.len());
        for (row, wrong, due) in found {
            self.withdraw(&row, wrong)?;
            slots.push((due, due.times.slot_at(Timestamp(row.ts))));
            self.push(row);
        }
        let sql = "UPDATE uncertain SET corrected_ts = ?5 + boot_clock_ms
            WHERE agent = ?1 AND epoch = ?2 AND seq BETWEEN ?3 AND ?4 AND corrected_ts IS NULL";
        self.connection.prepare_cached(sql)?.execute(params![
            no.0,
            epoch,
            first,
            last,
            correction.boot_began.0
        ])?;
        Ok(slots)
    }

    fn uncertain(
        &self,
        no: AgentNo,
        correction: &ClockCorrection,
        (epoch, first, last): (i64, i64, i64),
    ) -> rusqlite::Result<Vec<(Row, i64, Due)>> {
        let sql = "SELECT u.seq, u.series, u.ts, u.boot_clock_ms, u.value, u.quality, u.grid, g.device,
            g.interval_ms, g.phase_ms FROM uncertain u JOIN grids g ON g.id = u.grid
            WHERE u.agent = ?1 AND u.epoch = ?2 AND u.seq BETWEEN ?3 AND ?4 AND u.corrected_ts IS NULL";
        let off_ms = if planted::has(Bug::ShiftCorrection) { 3_600_000 } else { 0 };
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map([no.0, epoch, first, last], |r| {
            let quality = u16::try_from(r.get::<_, i64>(5)?).ok().and_then(Quality::from_code);
            let due = Due {
                device: crate::ledger::DeviceNo(r.get(7)?),
                grid: GridNo(r.get(6)?),
                times: state::grid(r.get(8)?, r.get(9)?),
                paused: false,
            };
            let ts = correction.boot_began.0.saturating_add(r.get(3)?).saturating_add(off_ms);
            let row = Row {
                series: r.get(1)?,
                ts,
                place: Some(Place::of(&due, due.times.slot_at(Timestamp(ts)))),
                value: Cell::stored(r.get_ref(4)?),
                quality: certain(quality.unwrap_or(Quality::UncertainClock)),
                device: r.get(7)?,
                revises: false,
                lent: false,
                agent: no,
                epoch: correction.epoch,
                seq: r.get::<_, i64>(0)?.cast_unsigned(),
            };
            Ok((row, r.get(2)?, due))
        })?;
        rows.collect()
    }

    /// Takes the row under the wrong time away, where it is this one.
    fn withdraw(&mut self, row: &Row, wrong: i64) -> rusqlite::Result<()> {
        let sql = "DELETE FROM readings WHERE series = ?1 AND ts = ?2 AND value IS ?3 AND quality = ?4";
        let quality = i64::from(uncertain(row.quality).code());
        let gone =
            self.connection.prepare_cached(sql)?.execute(params![row.series, wrong, row.value, quality])?;
        if gone == 0 || wrong == row.ts {
            return Ok(());
        }
        self.changed.entry(row.device).or_default().push(wrong);
        own::is_withdrawn(self.connection, row.series, wrong)?;
        let sql = "UPDATE uncertain SET corrected_commit = ?5
            WHERE agent = ?1 AND epoch = ?2 AND seq = ?3 AND series = ?4";
        let (epoch, seq, commit) =
            (row.epoch.0.cast_signed(), row.seq.cast_signed(), self.commit.cast_signed());
        self.connection.prepare_cached(sql)?.execute([row.agent.0, epoch, seq, row.series, commit])?;
        Ok(())
    }

    /// Slots of which the device's own reading has come in place of one that was lent, since this was asked last.
    pub(crate) fn take_replaced(&mut self) -> BTreeSet<(GridNo, i64)> {
        std::mem::take(&mut self.replaced)
    }

    /// Writes the last rows, where they changed what, and the counters.
    pub(crate) fn finish(&mut self) -> rusqlite::Result<()> {
        self.flush()?;
        let commit = self.commit.cast_signed();
        for (device, mut times) in std::mem::take(&mut self.changed) {
            times.sort_unstable();
            for near in times.chunk_by(|a, b| b.saturating_sub(*a) < CHANGE_JOIN_MS) {
                let (Some(first), Some(last)) = (near.first(), near.last()) else { continue };
                let sql = "INSERT OR REPLACE INTO changes VALUES (?1, ?2, ?3, ?4)";
                self.connection.prepare_cached(sql)?.execute([commit, device, *first, *last])?;
            }
        }
        for (no, t) in &self.tallies {
            let sql = "UPDATE agents SET frames = frames + ?2, readings = readings + ?3,
                duplicates = duplicates + ?4, conflicts = conflicts + ?5, damaged = damaged + ?6,
                refused = refused + ?7, last_heard_at = max(coalesce(last_heard_at, ?8), ?8) WHERE id = ?1";
            let row =
                [no.0, t.frames, t.readings, t.duplicates, t.conflicts, t.damaged, t.refused, self.now.0];
            self.connection.prepare_cached(sql)?.execute(row)?;
            traffic::received(self.connection, *no, t.received_bytes, self.now)?;
        }
        let sql = "UPDATE meta SET value = ?1 WHERE key = 'commit_no'";
        self.connection.prepare_cached(sql)?.execute([commit])?;
        Ok(())
    }
}

/// What a quality becomes when the time of its reading is known.
pub(crate) const fn certain(quality: Quality) -> Quality {
    match quality {
        Quality::UncertainClock => Quality::Good,
        other => other,
    }
}

/// What a quality is as long as the time of its reading is not known.
pub(crate) const fn uncertain(quality: Quality) -> Quality {
    match quality {
        Quality::Good => Quality::UncertainClock,
        other => other,
    }
}
