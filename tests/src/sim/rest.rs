//! What the end must look like for devices that remember: every record told is stored once, nothing else is, a slot without a
//! record is in one gap with its true cause, and each gap is where its schedule says.

use std::collections::BTreeMap;

use gapless_common::id::Epoch;
use gapless_common::quality::{Cause, Quality};
use gapless_common::ranges::RangeSet;
use gapless_common::reading::{Record, Sample, Value};
use gapless_common::time::{Slot, Timestamp};
use rusqlite::Connection;

use super::clock::truth;
use super::gateway::Gateway;
use super::judge::{Case, Findings, differing, holes, overlap, unsigned};
use super::lent::Standing;
use super::memory::Memory;
use super::mishap::policies;
use super::oracle::{Known, same};
use super::recall::Telling;
use super::schedule::{Gap, Wrong, gaps, past};

/// `gaps.state`, as the collector writes it.
pub(super) const FILLED: i64 = 2;
/// A record is there so many intervals after its slot at the latest.
const LATE_INTERVALS: i64 = 4;
/// And by this time later, in ms: a flush may be a quarter of an hour, or, in weeks, an hour.
const LATE_MS: i64 = 4_000_000;

/// A logger that fails is asked again within this time, in ms: a time-out and the pause behind it, a few tables in turn.
const ASKED_MS: u64 = 60_000;

/// A slot whose record has not come is open for so many intervals and this time, in ms: see `campbell::table`.
const OPEN_INTERVALS: i64 = 4;
const OPEN_MS: i64 = 30_000;

/// Beyond a flush, what was read for the collector comes within this time, in ms: see `ingest::keep`.
const ARRIVAL_MS: i64 = 900_000;

/// What the database says of one device.
#[derive(Debug, Default)]
struct Stored {
    /// Per instant and channel value and quality.
    rows: BTreeMap<i64, BTreeMap<String, (Option<f64>, i64)>>,
    /// Rows that another one contradicts.
    conflicts: Vec<(String, i64)>,
    due: Option<(i64, Option<i64>)>,
    received: RangeSet,
    gaps: Vec<Gap>,
    /// What another device stands in with.
    lent: Standing,
}

/// Where the outbox kept a record of the device, and what that says.
type Kept<'a> = ((Epoch, u64), &'a Vec<Sample>);

/// A device with a memory, to be judged once all is quiet.
pub(super) struct Remembered<'a> {
    /// Its gateway.
    pub(super) case: &'a Case<'a>,
    /// The machine.
    pub(super) gateway: &'a Gateway,
    /// The device.
    pub(super) memory: Memory<'a>,
    /// When all agents were stopped, in ms of the run.
    pub(super) rested_ms: u64,
}

impl Remembered<'_> {
    /// Everything, in the end.
    pub(super) fn judge(&self, database: &Connection, findings: &mut Findings) {
        let mut stored = load(database, self.memory.id().as_str()).expect("the database reads");
        stored.lent = Standing::load(database, &self.known()).expect("the database reads");
        self.check_values(&stored, findings);
        self.check_conservation(&stored, findings);
        self.check_slots(&stored, findings);
        for gap in stored.gaps.iter().filter(|gap| gap.state != FILLED) {
            if let Some(what) = self.off_schedule(gap, database).expect("the database reads") {
                let name = self.memory.id();
                findings.push(("schedule", format!("{name}: gap {gap:?}: {what}")));
            }
        }
    }

    fn told(&self) -> Option<&BTreeMap<i64, Vec<Telling>>> {
        self.case.oracle.recall.told.get(&(self.case.no, self.memory.index()))
    }

    fn tellings(&self, at: i64) -> &[Telling] {
        self.told().and_then(|told| told.get(&at)).map_or(&[], Vec::as_slice)
    }

    /// Nothing is stored that was not told, and nothing in other bits.
    fn check_values(&self, stored: &Stored, findings: &mut Findings) {
        let name = self.memory.id();
        for (at, row) in &stored.rows {
            for (channel, (value, quality)) in row {
                let is_it = |telling: &Telling| {
                    telling.by_name.get(channel).is_some_and(|told| is_same(told, *value, *quality))
                };
                if !self.tellings(*at).iter().any(is_it) {
                    let what =
                        format!("{name}/{channel} at {at}: {value:?}, {quality}, and nobody told that");
                    findings.push(("no invention", what));
                }
            }
        }
        for (channel, at) in &stored.conflicts {
            let mut tellings = self.tellings(*at).iter().filter_map(|telling| telling.by_name.get(channel));
            let first = tellings.next();
            if tellings.all(|other| Some(other) == first) {
                findings.push(("integrity", format!("{name}/{channel} at {at} is contradicted by nobody")));
            }
        }
    }

    /// Every record that was told is stored, or there is a reason by name.
    fn check_conservation(&self, stored: &Stored, findings: &mut Findings) {
        let (kept, lost) = (self.kept(), self.case.told_as_lost());
        for (at, tellings) in self.told().into_iter().flatten() {
            let is_there =
                |channel: &String| stored.rows.get(at).is_some_and(|row| row.contains_key(channel));
            let silent = tellings.iter().find_map(|telling| {
                let is_stored = telling.by_name.keys().all(is_there);
                let places = kept.get(at).into_iter().flatten();
                let its_own = places.filter(|(_, samples)| **samples == telling.issued.samples);
                let places: Vec<_> = its_own.map(|(place, _)| *place).collect();
                let is_excused = is_stored || self.case.is_excused(&telling.issued, &places, &lost);
                (!is_excused).then_some((telling, places))
            });
            if let Some((telling, places)) = silent {
                let what = format!(
                    "{}: the record of {at} told at {} ms to process {} is not stored; durable as {places:?}",
                    self.memory.id(),
                    telling.issued.told_ms,
                    telling.issued.generation
                );
                findings.push(("conservation", what));
            }
        }
    }

    /// Where the outbox kept each record of the device, or was to keep it, and what that says: a logger whose clock was set
    /// has several records of one instant.
    fn kept(&self) -> BTreeMap<i64, Vec<Kept<'_>>> {
        let mut kept: BTreeMap<i64, Vec<Kept<'_>>> = BTreeMap::new();
        for (place, record) in self.case.log.written() {
            if let Record::Readings(readings) = record
                && readings.device == self.memory.index()
            {
                kept.entry(readings.at.0).or_default().push((*place, &readings.samples));
            }
        }
        kept
    }

    /// Up to the proof every slot is stored or in one gap, as it is in truth; and the proof is of now.
    fn check_slots(&self, stored: &Stored, findings: &mut Findings) {
        let (name, grid) = (self.memory.id(), self.memory.grid());
        let is_due = |first: i64| grid.at(Slot(first)) <= truth(self.rested_ms);
        let (first, proven) = match stored.due {
            Some((first, Some(proven))) => (first, proven),
            // Its agent's clock was ahead when it began: its turn is still to come.
            Some((first, None)) if !is_due(first) && self.case.history().has_odd_clock => return,
            _ => return findings.push(("liveness", format!("{name}: nothing was ever proven"))),
        };
        let was_told = !self.tellings(grid.at(Slot(first)).0).is_empty();
        self.case.check_first(name.as_str(), grid, (first, was_told), findings);
        let late_ms = LATE_INTERVALS * grid.interval.as_ms() + LATE_MS;
        let is_late = grid.at(Slot(proven)) < truth(self.rested_ms).plus_ms(-late_ms);
        if is_late && !self.case.history().has_odd_clock {
            findings.push(("liveness", format!("{name}: the proof ends at slot {proven}")));
        }
        let mut there = RangeSet::new();
        for at in stored.rows.keys() {
            let slot = unsigned(grid.slot_at(Timestamp(*at)).0);
            there.insert(slot, slot);
        }
        stored.lent.whole.iter().for_each(|(first, last)| there.insert(first, last));
        let mut told = RangeSet::new();
        for gap in stored.gaps.iter().filter(|gap| gap.state != FILLED) {
            let (from, to) = (unsigned(gap.first), unsigned(gap.last));
            if told.holes(from, to).map(|(f, l)| l - f + 1).sum::<u64>() != to - from + 1 {
                findings.push(("true gaps", format!("{name}: two gaps hold slots of {from}..={to}")));
            }
            told.insert(from, to);
            self.check_gap(gap, findings);
        }
        for (from, to) in holes(&there, first, proven) {
            if let Some((hole, _)) = holes(&told, from, to).first() {
                let what = format!("{name}: slot {hole} was not received, and no gap holds it");
                findings.push(("true gaps", what));
            }
        }
        if let Some(slot) = told.iter().find_map(|(from, to)| overlap(&there, from, to)) {
            findings.push(("true gaps", format!("{name}: slot {slot} is stored, and a gap holds it")));
        }
        if let Some(slot) = differing(&there, &stored.received, first, proven) {
            let what = format!("{name}: slot {slot}: its account and its readings differ");
            findings.push(("true gaps", what));
        }
    }

    fn known(&self) -> Known {
        let grid = self.memory.grid();
        Known {
            name: self.memory.id().to_string(),
            grid,
            open_ms: OPEN_INTERVALS * grid.interval.as_ms() + OPEN_MS,
            bus: usize::MAX,
            unit: 0,
            channels: self.memory.channels().into_iter().map(|(name, _)| name).collect(),
        }
    }

    fn check_gap(&self, gap: &Gap, findings: &mut Findings) {
        let (memory, grid, known) = (self.memory, self.memory.grid(), self.known());
        let recall = &self.case.oracle.recall;
        let is_clock_set = recall.was_clock_set(self.case.no, self.gateway, memory.index());
        // A logger whose clock is ahead has records of slots that are still to come: to the collector its time has stepped.
        // What a gateway says of slots that are still to come, by a clock that is ahead, the collector does not believe.
        let is_early = |slot: i64| is_clock_set || self.was_told_early(slot);
        let is_ahead = |slot: &i64| gap.cause == Cause::ClockStepped && is_early(*slot);
        let is_of_memory = |slot: &i64| match gap.cause {
            Cause::DiskFailed => self.was_in_memory(*slot),
            Cause::Unexplained => self.was_lost_out_of_time(*slot),
            _ => false,
        };
        let is_of_link = matches!(gap.cause, Cause::NotConnected | Cause::NoAnswer | Cause::Corrupt);
        let mut slots = gap.first..=gap.last;
        let is_said = |slot: &i64| self.bus_said(*slot, gap.cause);
        match slots.find(|slot| !is_said(slot) && !is_ahead(slot) && !is_of_memory(slot)) {
            Some(slot) if is_of_link => {
                let what = format!("{}: slot {slot} of {gap:?}: nobody failed it so", memory.id());
                findings.push(("true causes", what));
            }
            Some(_) => {
                self.case.check_cause(memory.index(), &known, (gap.first, gap.last, gap.cause), findings);
            }
            None => {}
        }
        if is_clock_set {
            return;
        }
        let at = |slot: i64| grid.at(Slot(slot)).0;
        let is_recorded = |slot: i64| memory.has_recorded(at(slot));
        let wrong = match gap.cause {
            // Where the records on both sides are gone, too, nobody can tell that the logger had no power in between.
            Cause::Overwritten => (gap.first..=gap.last).find(|slot| {
                let is_gone = memory.was_erased(at(*slot), u64::MAX) || memory.was_off(at(*slot));
                !is_recorded(*slot) && !is_gone
            }),
            // A gateway whose clock is ahead waits too short a time for it.
            Cause::NotRecorded if self.case.history().has_odd_clock => None,
            Cause::NotRecorded => {
                (gap.first..=gap.last).find(|slot| is_recorded(*slot) && !self.is_unknown(*slot, at(*slot)))
            }
            _ => None,
        };
        if let Some(slot) = wrong {
            let what = format!("{}: slot {slot} of {gap:?} has not that cause in truth", memory.id());
            findings.push(("true causes", what));
        }
    }

    /// Whether its bus said this of the slot, and the logger had truly failed it so. A slot may be open for long, while older
    /// ones are read: what is said of it at last is why.
    fn bus_said(&self, slot: i64, cause: Cause) -> bool {
        let (history, at) = (self.case.history(), self.memory.grid().at(Slot(slot)));
        let is_of_link = matches!(cause, Cause::NotConnected | Cause::NoAnswer | Cause::Corrupt);
        let is_true = |told_ms: u64| {
            let due_ms = u64::try_from(at.since_ms(truth(0))).unwrap_or(0);
            let span = (history.turned_since(due_ms, ASKED_MS), told_ms);
            // Nobody has reached it since its agent began.
            let told = self.told().into_iter().flatten().flat_map(|(_, all)| all);
            let reached: Vec<u64> = told.map(|telling| telling.issued.told_ms).collect();
            let began = history.lives.iter().any(|life| {
                let is_in = (span.0..=span.1).contains(&life.began.0);
                is_in && !reached.iter().any(|at_ms| (life.began.0..told_ms).contains(at_ms))
            });
            self.memory.has_failed(cause, span) || cause == Cause::NotConnected && began
        };
        let mut said = self.case.oracle.misses(self.case.no, self.memory.index(), slot);
        said.any(|(told_ms, why)| why == cause && (!is_of_link || history.has_odd_clock || is_true(told_ms)))
    }

    /// Whether its bus has said something of the slot before it had come.
    fn was_told_early(&self, slot: i64) -> bool {
        let at = self.memory.grid().at(Slot(slot));
        let mut said = self.case.oracle.misses(self.case.no, self.memory.index(), slot);
        said.any(|(told_ms, _)| truth(told_ms) < at)
    }

    /// Whether what it had recorded of the slot came while the agent had all in memory alone.
    fn was_in_memory(&self, slot: i64) -> bool {
        self.in_memory(slot).next().is_some()
    }

    /// When such a thing was told, in ms of the run.
    fn in_memory(&self, slot: i64) -> impl Iterator<Item = u64> {
        let told = self.tellings(self.memory.grid().at(Slot(slot)).0).iter();
        told.map(|telling| telling.issued.told_ms).filter(|told_ms| self.case.was_in_memory(*told_ms))
    }

    /// Whether that was acknowledged by a database that was put back since, and the loss that tells of it may be dated by a clock
    /// that was wrong: a device's clock is believed by a day.
    fn was_lost_out_of_time(&self, slot: i64) -> bool {
        let was_put_back = self.in_memory(slot).any(|told_ms| self.case.was_put_back_after(told_ms));
        self.case.history().was_set_wrong && was_put_back
    }

    /// Whether nobody could tell that the slot was recorded: each time that it was said, its table had been made anew, and
    /// the process that found no record had read none of the table before.
    fn is_unknown(&self, slot: i64, at: i64) -> bool {
        let misses = self.case.oracle.misses(self.case.no, self.memory.index(), slot);
        let mut said_at =
            misses.filter(|(_, cause)| *cause == Cause::NotRecorded).map(|(told_ms, _)| told_ms).peekable();
        let lives = &self.case.history().lives;
        let knew = |told_ms: u64| {
            let life = lives.iter().rev().find(|life| life.began.0 <= told_ms);
            let is_of_life = |telling: &Telling| {
                life.is_some_and(|life| life.generation == telling.issued.generation)
                    && telling.issued.told_ms < told_ms
            };
            self.told()
                .into_iter()
                .flat_map(|told| told.range(..at))
                .any(|(_, all)| all.iter().any(is_of_life))
        };
        said_at.peek().is_some()
            && said_at.all(|told_ms| self.memory.was_erased(at, told_ms) && !knew(told_ms))
    }

    /// In what a gap that is not filled is not where its schedule says.
    fn off_schedule(&self, gap: &Gap, database: &Connection) -> rusqlite::Result<Option<String>> {
        let class = self.memory.attributes().get("class");
        let policies = policies();
        let (past, rested) = (past(database, gap.id, i64::MAX)?, truth(self.rested_ms).0);
        let Some(wrong) = gap.wrong(&past, policies.of(class.map(String::as_str)), rested) else {
            return Ok(None);
        };
        let name = self.memory.id();
        // Its device has told nothing since: the gateway's clock was ahead when it told of these slots.
        let is_early =
            self.case.history().has_odd_clock && self.memory.grid().at(Slot(gap.last).plus(1)).0 > rested;
        let is_excused = match wrong {
            // One question at a time: what came of the one before it may still be on its way.
            Wrong::NeverAsked | Wrong::Overdue => {
                is_early || is_awaited(database, name.as_str(), None, rested)?
            }
            // The agent has answered that it read what there was, and that takes a while to come.
            Wrong::AskedStill => is_awaited(database, name.as_str(), Some(gap.id), rested)?,
            _ => false,
        };
        Ok((!is_excused).then(|| format!("{wrong:?}: {past:?}")))
    }
}

/// Whether a question about a device, or about one gap of it, was carried out, and what came of it may still be on its way
/// at this instant: as long as a flush takes and [`ARRIVAL_MS`] after that, or as long after its agent was born again. One
/// that nobody has answered is not awaited.
fn is_awaited(database: &Connection, device: &str, gap: Option<i64>, at: i64) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM gaps p JOIN commands c ON c.id = p.request
        JOIN grids g ON g.id = p.grid JOIN devices d ON d.id = g.device JOIN agents a ON a.id = c.agent
        WHERE d.name = ?1 AND p.id = ifnull(?2, p.id) AND p.state = 3 AND c.outcome = 1 AND p.next_at > ?3
        AND p.next_at <= max(c.answered_at, a.last_birth_at) + a.flush_ms + ?4)";
    database.prepare_cached(sql)?.query_row(rusqlite::params![device, gap, at, ARRIVAL_MS], |r| r.get(0))
}

fn is_same((told, said): &(Option<Value>, Quality), value: Option<f64>, quality: i64) -> bool {
    let is_value = match (told, value) {
        (Some(told), Some(value)) => same(Some(told), &Value::Number(value)),
        (None, None) => true,
        _ => false,
    };
    is_value && i64::from(said.code()) == quality
}

fn load(database: &Connection, device: &str) -> rusqlite::Result<Stored> {
    let mut stored = Stored::default();
    let sql = "SELECT x.channel, r.ts, r.value, r.quality FROM readings r JOIN series x ON x.id = r.series
        JOIN devices d ON d.id = x.device WHERE d.name = ?1 AND r.quality < 65536";
    let mut statement = database.prepare_cached(sql)?;
    let mut rows = statement.query([device])?;
    while let Some(row) = rows.next()? {
        stored.rows.entry(row.get(1)?).or_default().insert(row.get(0)?, (row.get(2)?, row.get(3)?));
    }
    let sql = "SELECT x.channel, r.ts FROM conflicts r JOIN series x ON x.id = r.series
        JOIN devices d ON d.id = x.device WHERE d.name = ?1";
    let mut statement = database.prepare_cached(sql)?;
    let conflicts = statement.query_map([device], |r| Ok((r.get(0)?, r.get(1)?)))?;
    stored.conflicts = conflicts.collect::<Result<_, _>>()?;
    stored.due = super::judge::due(database, device)?;
    stored.received = super::judge::received(database, device)?;
    stored.gaps = gaps(database, device)?;
    Ok(stored)
}
