//! What can be told of a run once it is quiet: that every answer is stored exactly once or lost by name, that nothing
//! else is stored, and that the gaps told are the true ones, each with its true cause.

use std::collections::BTreeMap;

use gapless_common::id::{DeviceIndex, Epoch};
use gapless_common::quality::Cause;
use gapless_common::ranges::RangeSet;
use gapless_common::reading::{Acquired, Record, Value};
use gapless_common::time::{Slot, Timestamp};
use rusqlite::Connection;

use super::alerted;
use super::clock::truth;
use super::lent::{self, Standing};
use super::line::ground::SimGround;
use super::oracle::{AnswerKey, CLOCKS, History, Issued, Known, Oracle, Stop, block_of, evaluations, same};
use super::rest::{FILLED, Remembered};
use super::sometimes::Rare;
use super::supplied;
use super::tap::{self, Log};
use super::unasked;
use super::world::World;

/// How much later than its window a sync may come: the agent is woken by the millisecond.
const LATE_MS: u64 = 1;
/// How far off a clock may be that nobody has set wrong, in ms.
const DRIFTED_MS: i64 = 1_000;

/// Everything, in the end.
///
/// # Panics
/// Where the database cannot be read.
pub fn judge(world: &mut World) {
    let Some(committer) = world.center.committer.as_ref() else {
        return world.oracle.find("liveness", "the collector does not run".to_owned());
    };
    let mut findings = Vec::new();
    let has_good_lines = !world.plan.mischief.iter().any(|kind| kind.is_of_lines());
    for no in 0..world.gateways.len() {
        let log = tap::lock(&world.gateways[no].log);
        let gateway = &world.gateways[no];
        let window_ms = gateway.config.outbox.durability_ms.into();
        let (oracle, grounds) = (&world.oracle, &gateway.grounds[..]);
        let case = Case { no, oracle, log: &log, grounds, window_ms, has_good_lines };
        let polled = (0_u16..).map(DeviceIndex).zip(&world.oracle.devices[no]);
        for (index, known) in polled.filter(|(index, _)| gateway.memory(*index).is_none()) {
            case.judge(index, known, committer.connection(), &mut findings);
            let looked_ms = world.rested_ms.saturating_sub(world.plan.keep_ms);
            unasked::judge(committer.connection(), &known.name, looked_ms, &mut findings)
                .expect("the database reads");
        }
        for memory in gateway.memories() {
            let remembered = Remembered { case: &case, gateway, memory, rested_ms: world.rested_ms };
            remembered.judge(committer.connection(), &mut findings);
        }
    }
    alerted::judge(world, &mut findings);
    supplied::judge(world, &mut findings);
    let is_unlike = lent::judge(world, &mut findings);
    let parked: i64 =
        committer.connection().query_row("SELECT count(*) FROM parked", [], |r| r.get(0)).expect("reads");
    if parked > 0 {
        findings.push(("conservation", format!("{parked} frames are still parked")));
    }
    for (invariant, what) in findings {
        world.oracle.find(invariant, what);
    }
    if is_unlike {
        world.sometimes.reach(Rare::NotLent);
    }
}

pub(super) type Findings = Vec<(&'static str, String)>;

/// One gateway to be judged.
pub(super) struct Case<'a> {
    /// Its number.
    pub(super) no: usize,
    /// Who knows what happened.
    pub(super) oracle: &'a Oracle,
    /// What its outboxes did.
    pub(super) log: &'a Log,
    pub(super) grounds: &'a [SimGround],
    /// How long a record may wait for its sync, in ms.
    pub(super) window_ms: u64,
    /// Nothing ever goes wrong on its lines.
    pub(super) has_good_lines: bool,
}

/// What the database says of one device.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Per (block, evaluation time) the instants it stands at; conflicts included.
    pub(super) answers: BTreeMap<(u8, i64), Vec<i64>>,
    /// Per (channel, instant) value and quality.
    pub(super) rows: BTreeMap<(String, i64), (Option<f64>, i64)>,
    /// First slot due, and the last one that is proven.
    due: Option<(i64, Option<i64>)>,
    /// Slots that are due, as far as they are proven.
    due_slots: RangeSet,
    /// Slots received.
    received: RangeSet,
    /// Gaps that are not filled.
    gaps: Vec<(u64, u64, Cause)>,
    /// Slots of gaps whose readings came after all.
    filled: RangeSet,
    /// What another device stands in with.
    pub(super) lent: Standing,
}

impl Case<'_> {
    fn judge(&self, index: DeviceIndex, known: &Known, database: &Connection, findings: &mut Findings) {
        let stored = load(database, known).expect("the database reads");
        self.check_values(index, known, &stored, findings);
        self.check_conservation(index, known, &stored, findings);
        self.check_slots(index, known, &stored, findings);
    }

    /// What happened to it.
    pub(super) fn history(&self) -> &History {
        &self.oracle.histories[self.no]
    }

    /// Nothing is stored that no device answered, and nothing in other bits.
    fn check_values(&self, index: DeviceIndex, known: &Known, stored: &Stored, findings: &mut Findings) {
        for &(block, eval) in stored.answers.keys() {
            if !self.oracle.issued.contains_key(&(self.no, index, block, eval)) {
                findings
                    .push(("no invention", format!("{}: an answer of {eval} that nobody gave", known.name)));
            }
        }
        for ((channel, at), (value, quality)) in &stored.rows {
            let Some(value) = value else {
                if !self.told_without_value(index, known, channel, *at, *quality) {
                    let what =
                        format!("{}/{channel} at {at}: quality {quality} that nobody told", known.name);
                    findings.push(("no invention", what));
                }
                continue;
            };
            let clock = CLOCKS[usize::from(block_of(channel))].to_owned();
            #[expect(clippy::cast_possible_truncation, reason = "milliseconds since 1970 are far below 2^53")]
            let eval = stored.rows.get(&(clock, *at)).and_then(|(ms, _)| Some((*ms)? as i64));
            let true_value =
                eval.and_then(|eval| self.grounds[known.bus].line.truth(known.unit, channel, eval));
            if !same(true_value.as_ref(), &Value::Number(*value)) {
                let what = format!("{}/{channel} at {at}: stored {value}, true {true_value:?}", known.name);
                findings.push(("integrity", what));
            }
        }
    }

    fn told_without_value(
        &self,
        index: DeviceIndex,
        known: &Known,
        channel: &str,
        at: i64,
        quality: i64,
    ) -> bool {
        let place = known.channels.iter().position(|name| name == channel);
        let Some(place) = place.and_then(|place| u16::try_from(place).ok()) else { return false };
        let key = (index, gapless_common::id::ChannelIndex(place), Timestamp(at));
        let told = self.history().valueless.get(&key);
        told.is_some_and(|(_, said)| i64::from(said.code()) == quality) || self.history().has_odd_clock
    }

    /// Every answer is stored once, or there is a reason by name.
    fn check_conservation(
        &self,
        index: DeviceIndex,
        known: &Known,
        stored: &Stored,
        findings: &mut Findings,
    ) {
        let (kept, told) = (self.kept_of(index, known), self.told_as_lost());
        let range = (self.no, index, 0, i64::MIN)..=(self.no, index, u8::MAX, i64::MAX);
        for (key, issued) in self.oracle.issued.range::<AnswerKey, _>(range) {
            let (block, eval) = (key.2, key.3);
            let count = stored.answers.get(&(block, eval)).map_or(0, Vec::len);
            let places = kept.get(&(block, eval)).map_or(&[][..], Vec::as_slice);
            if count > 1 {
                findings.push((
                    "conservation",
                    format!("{}: the answer of {eval} is stored {count} times", known.name),
                ));
            }
            if count > 0 {
                self.check_whole(known, ((block, eval), issued), stored, findings);
            }
            if count == 0 && !self.is_excused(issued, places, &told) {
                let what = format!(
                    "{}: the answer of {eval} told at {} ms to process {} is not stored; durable as {places:?}; {issued:?}",
                    known.name, issued.told_ms, issued.generation
                );
                findings.push(("conservation", what));
            }
        }
    }

    /// What the collector was told of as lost, as far as its database still has that word: a copy that was put back may
    /// know nothing of what it was told, and the agent may have let go of it since.
    pub(super) fn told_as_lost(&self) -> BTreeMap<Epoch, RangeSet> {
        self.log.told_as_lost(|place| self.oracle.holds(self.no, place) || self.is_forgotten(place))
    }

    /// Where the outbox kept each answer of a device, or was to keep it.
    fn kept_of(&self, index: DeviceIndex, known: &Known) -> BTreeMap<(u8, i64), Vec<(Epoch, u64)>> {
        let mut kept: BTreeMap<(u8, i64), Vec<(Epoch, u64)>> = BTreeMap::new();
        for (place, record) in self.log.written() {
            let Record::Readings(readings) = record else { continue };
            if readings.device == index {
                for answer in evaluations(known, &readings.samples) {
                    kept.entry(answer).or_default().push(*place);
                }
            }
        }
        kept
    }

    /// Whether there is a reason by name, which the collector was `told` where it is a loss.
    pub(super) fn is_excused(
        &self,
        issued: &Issued,
        places: &[(Epoch, u64)],
        told: &BTreeMap<Epoch, RangeSet>,
    ) -> bool {
        let history = self.history();
        if places.is_empty() {
            let life = history.lives.iter().find(|life| life.generation == issued.generation);
            let ended = life.and_then(|life| life.ended);
            // Not durable yet when its process ended, which it is within the window; or kept in memory, as what the disk
            // was to have within the window when it failed.
            let durable_ms = history.turned(issued.told_ms, self.window_ms + LATE_MS);
            let mut in_memory = history
                .in_memory
                .iter()
                .filter(|span| durable_ms >= span.0 && issued.told_ms <= span.1)
                .peekable();
            let went = |span: &&(u64, u64)| ended.is_some_and(|(at, ..)| at == span.1);
            return ended.is_some_and(|(at, _, how)| how != Stop::Clean && at <= durable_ms)
                || in_memory.peek().is_some() && self.was_lost_from_memory(issued)
                || in_memory.any(|span| went(&span));
        }
        let was_killed = history.lives.iter().any(|life| {
            life.generation == issued.generation && life.ended.is_some_and(|(.., how)| how != Stop::Clean)
        });
        places.iter().all(|(epoch, seq)| {
            // It found no room, and its process ended before there was any to say so.
            let was_refused = was_killed && self.log.refused.contains_key(&(*epoch, *seq));
            let is_lost = told.get(epoch).is_some_and(|told| told.contains(*seq));
            let was_replaced =
                self.log.kept.get(&(*epoch, *seq)).is_some_and(|kept| kept.card < self.log.card);
            // The downtime that follows holds its slot.
            let was_cut_off = self.log.is_cut_off((*epoch, *seq));
            is_lost || was_refused || was_replaced || self.is_forgotten((*epoch, *seq)) || was_cut_off
        })
    }

    /// Whether a loss of what was in memory alone tells of the time of an answer, or of when it was read.
    fn was_lost_from_memory(&self, issued: &Issued) -> bool {
        let records = self.log.kept.values().filter_map(|kept| match &kept.record {
            Record::Loss(loss) => Some(loss),
            _ => None,
        });
        let mut losses = self.log.losses.iter().chain(records).filter(|loss| !self.is_on_disk(loss.epoch));
        let read = truth(issued.told_ms);
        losses.any(|loss| {
            let tells = |at| (loss.from.plus_ms(-DRIFTED_MS)..=loss.to.plus_ms(DRIFTED_MS)).contains(&at);
            tells(issued.at) || tells(read) || self.history().has_odd_clock
        })
    }

    fn is_on_disk(&self, epoch: Epoch) -> bool {
        self.log.kept.range((epoch, 0)..=(epoch, u64::MAX)).next().is_some()
    }

    /// Up to the proof every slot is received or in one gap, as it is in truth; and the proof is of now.
    fn check_slots(&self, index: DeviceIndex, known: &Known, stored: &Stored, findings: &mut Findings) {
        let Some((first, Some(proven))) = stored.due else {
            // Paused before its first slot began, as far as anybody could know.
            let first = stored.due.map_or(i64::MIN, |(first, _)| first);
            let is_before = self.last_wanted(index, known).is_none_or(|last| last < first);
            if self.history().paused.since(index).is_some() && is_before {
                return;
            }
            return findings.push(("liveness", format!("{}: nothing was ever proven", known.name)));
        };
        self.check_first(&known.name, known.grid, (first, false), findings);
        self.check_shadow(index, known, stored, findings);
        let mut received = self.slots_stored(index, known, stored);
        stored.lent.whole.iter().for_each(|(first, last)| received.insert(first, last));
        if let Some(last) = self.last_wanted(index, known).filter(|last| *last > proven.saturating_add(1)) {
            let what = format!("{}: slot {last} was answered, and the proof ends at {proven}", known.name);
            findings.push(("liveness", what));
        }
        let mut told = RangeSet::new();
        for &(from, to, cause) in &stored.gaps {
            if told.holes(from, to).map(|(f, l)| l - f + 1).sum::<u64>() != to - from + 1 {
                findings.push(("true gaps", format!("{}: two gaps hold slots of {from}..={to}", known.name)));
            }
            told.insert(from, to);
            self.check_cause(index, known, (signed(from), signed(to), cause), findings);
        }
        let not_due = holes(&stored.due_slots, first, proven);
        self.check_not_due(index, known, not_due.iter().flat_map(|(first, last)| *first..=*last), findings);
        let owed = stored.due_slots.iter().flat_map(|(first, last)| holes(&received, first, last));
        for (from, to) in owed {
            if let Some((hole, _)) = holes(&told, from, to).first() {
                let what = format!("{}: slot {hole} was not received, and no gap holds it", known.name);
                findings.push(("true gaps", what));
            }
        }
        let filled = stored.filled.iter().flat_map(|(first, last)| first..=last);
        let filled = filled.filter(|slot| !stored.lent.whole.contains(*slot)).map(signed);
        let early = |slot: &i64| !self.was_polled_again(index, known, *slot);
        if let Some(slot) = filled.filter(|_| !self.may_have_been_given_up()).find(early) {
            let what = format!("{}: a gap held slot {slot} while its reading was on its way", known.name);
            findings.push(("true gaps", what));
        }
        let false_gap = told.iter().find_map(|(from, to)| overlap(&received, from, to));
        if let Some(slot) = false_gap {
            findings
                .push(("true gaps", format!("{}: slot {slot} is stored, and a gap holds it", known.name)));
        }
        if let Some(slot) = differing(&received, &stored.received, first, proven) {
            findings.push((
                "true gaps",
                format!("{}: slot {slot}: its account and its readings differ", known.name),
            ));
        }
    }

    /// Whether a slot's reading is of a poll out of turn, later in the slot: it was missed before, or had begun before the
    /// agent had.
    fn was_polled_again(&self, index: DeviceIndex, known: &Known, slot: i64) -> bool {
        let range = (self.no, index, 0, i64::MIN)..=(self.no, index, u8::MAX, i64::MAX);
        let answers = self.oracle.issued.range::<AnswerKey, _>(range).map(|(_, issued)| issued);
        let answers = answers.filter(|issued| issued.acquired == Acquired::InSlot(Slot(slot)));
        let began = |generation: u64| {
            let life = self.history().lives.iter().find(|life| life.generation == generation);
            life.map(|life| life.began.1)
        };
        answers.min_by_key(|issued| issued.told_ms).is_some_and(|issued| {
            let mut misses = self.oracle.misses(self.no, index, slot);
            misses.any(|(told_ms, _)| told_ms <= issued.told_ms)
                || began(issued.generation) > Some(known.grid.at(Slot(slot)))
        })
    }

    /// Whether the collector may have taken for gone what came after all: a disk was replaced or failed for a while, so
    /// that readings came under other epochs; the database forgot; a slot's time was not known.
    fn may_have_been_given_up(&self) -> bool {
        let history = self.history();
        !history.replaced.is_empty()
            || !history.disk_faults.is_empty()
            || history.has_odd_clock
            || !history.rot.is_empty()
            || !self.oracle.rolled_back.is_empty()
    }

    /// The slots that were answered.
    pub(super) fn slots_issued(&self, index: DeviceIndex) -> impl Iterator<Item = i64> {
        let range = (self.no, index, 0, i64::MIN)..=(self.no, index, u8::MAX, i64::MAX);
        self.oracle.issued.range::<AnswerKey, _>(range).filter_map(|(_, issued)| match issued.acquired {
            Acquired::InSlot(slot) | Acquired::Recorded(slot) => Some(slot.0),
            Acquired::SinceBoot(_) => None,
        })
    }

    /// Slots of which a reading is stored.
    fn slots_stored(&self, index: DeviceIndex, known: &Known, stored: &Stored) -> RangeSet {
        let mut slots = RangeSet::new();
        let mut note = |acquired: Acquired, at: i64| {
            let slot = match acquired {
                Acquired::InSlot(slot) | Acquired::Recorded(slot) => slot,
                Acquired::SinceBoot(_) => known.grid.slot_at(Timestamp(at)),
            };
            slots.insert(unsigned(slot.0), unsigned(slot.0));
        };
        for (&(block, eval), instants) in &stored.answers {
            if let Some(issued) = self.oracle.issued.get(&(self.no, index, block, eval)) {
                let is_certain = |at: &&i64| {
                    let row = stored.rows.get(&(CLOCKS[usize::from(block)].to_owned(), **at));
                    row.is_none_or(|(_, quality)| {
                        *quality != i64::from(gapless_common::quality::Quality::UncertainClock.code())
                    })
                };
                instants.iter().filter(is_certain).for_each(|at| note(issued.acquired, *at));
            }
        }
        for ((channel, at), (value, _)) in &stored.rows {
            let place = known.channels.iter().position(|name| name == channel);
            let place = place.and_then(|place| u16::try_from(place).ok()).unwrap_or(u16::MAX);
            let key = (index, gapless_common::id::ChannelIndex(place), Timestamp(*at));
            if value.is_none()
                && let Some((acquired, _)) = self.history().valueless.get(&key)
            {
                note(*acquired, *at);
            }
        }
        slots
    }
}

fn load(database: &Connection, known: &Known) -> rusqlite::Result<Stored> {
    let (mut stored, device) = (Stored::default(), known.name.as_str());
    load_readings(database, device, &mut stored)?;
    stored.lent = Standing::load(database, known)?;
    stored.due = due(database, device)?;
    stored.due_slots = due_slots(database, device)?;
    stored.received = received(database, device)?;
    let sql = "SELECT p.first_slot, p.last_slot, p.cause, p.state FROM gaps p JOIN grids g ON g.id = p.grid
        JOIN devices d ON d.id = g.device WHERE d.name = ?1 ORDER BY p.first_slot";
    let mut statement = database.prepare_cached(sql)?;
    let mut rows = statement.query([device])?;
    while let Some(row) = rows.next()? {
        let code: i64 = row.get(2)?;
        if row.get::<_, i64>(3)? == FILLED {
            stored.filled.insert(unsigned(row.get(0)?), unsigned(row.get(1)?));
            continue;
        }
        let cause = u16::try_from(code).ok().and_then(Cause::from_code).unwrap_or(Cause::Unexplained);
        stored.gaps.push((unsigned(row.get(0)?), unsigned(row.get(1)?), cause));
    }
    Ok(stored)
}

/// The first slot that was ever due of a device, and the last one that is proven.
pub(super) fn due(database: &Connection, device: &str) -> rusqlite::Result<Option<(i64, Option<i64>)>> {
    let sql = "SELECT min(s.first_slot), max(s.proven_slot) FROM spans s JOIN grids g ON g.id = s.grid
        JOIN devices d ON d.id = g.device WHERE d.name = ?1";
    database.query_row(sql, [device], |r| {
        let (first, proven): (Option<i64>, Option<i64>) = (r.get(0)?, r.get(1)?);
        Ok(first.map(|first| (first, proven)))
    })
}

/// The slots of a device that are due, as far as they are proven: where it was paused there are several stretches of them.
fn due_slots(database: &Connection, device: &str) -> rusqlite::Result<RangeSet> {
    let mut due = RangeSet::new();
    let sql = "SELECT s.first_slot, min(s.proven_slot, coalesce(s.last_slot, s.proven_slot)) FROM spans s JOIN grids g ON g.id = s.grid
        JOIN devices d ON d.id = g.device WHERE d.name = ?1 AND s.first_slot <= s.proven_slot";
    let mut statement = database.prepare_cached(sql)?;
    let mut rows = statement.query([device])?;
    while let Some(row) = rows.next()? {
        let (first, last): (i64, i64) = (row.get(0)?, row.get(1)?);
        if first <= last {
            due.insert(unsigned(first), unsigned(last));
        }
    }
    Ok(due)
}

/// The slots of a device that its account has as received.
pub(super) fn received(database: &Connection, device: &str) -> rusqlite::Result<RangeSet> {
    let mut received = RangeSet::new();
    let sql = "SELECT c.first_slot, c.last_slot FROM coverage c JOIN grids g ON g.id = c.grid
        JOIN devices d ON d.id = g.device WHERE d.name = ?1 AND c.state = 1 ORDER BY c.first_slot";
    let mut statement = database.prepare_cached(sql)?;
    let mut rows = statement.query([device])?;
    while let Some(row) = rows.next()? {
        received.insert(unsigned(row.get(0)?), unsigned(row.get(1)?));
    }
    Ok(received)
}

/// What the device said itself; also that it has no value of what was lent, which is kept beside that.
fn load_readings(database: &Connection, device: &str, stored: &mut Stored) -> rusqlite::Result<()> {
    let sql = "SELECT x.channel, r.ts, r.value, r.quality, 1 FROM readings r JOIN series x ON x.id = r.series
        JOIN devices d ON d.id = x.device WHERE d.name = ?1 AND r.quality < 65536
        UNION ALL SELECT x.channel, r.ts, r.value, r.quality, 1 FROM revisions r JOIN series x ON x.id = r.series
        JOIN devices d ON d.id = x.device WHERE d.name = ?1 AND x.lent_ts IS NOT NULL AND r.value IS NULL AND r.quality < 65536
        AND NOT EXISTS (SELECT 1 FROM readings o WHERE o.series = r.series AND o.ts = r.ts AND o.quality < 65536)
        UNION ALL SELECT x.channel, r.ts, r.value, r.quality, 0 FROM conflicts r JOIN series x ON x.id = r.series
        JOIN devices d ON d.id = x.device WHERE d.name = ?1";
    let mut statement = database.prepare_cached(sql)?;
    let mut rows = statement.query([device])?;
    while let Some(row) = rows.next()? {
        let (channel, at): (String, i64) = (row.get(0)?, row.get(1)?);
        let (value, quality): (Option<f64>, i64) = (row.get(2)?, row.get(3)?);
        #[expect(clippy::cast_possible_truncation, reason = "milliseconds since 1970 are far below 2^53")]
        if let Some(eval) = value.filter(|_| CLOCKS.contains(&channel.as_str())) {
            stored.answers.entry((block_of(&channel), eval as i64)).or_default().push(at);
        }
        if row.get::<_, i64>(4)? == 1 {
            stored.rows.insert((channel, at), (value, quality));
        }
    }
    Ok(())
}

pub(super) fn unsigned(slot: i64) -> u64 {
    u64::try_from(slot).unwrap_or(0)
}

pub(super) fn signed(slot: u64) -> i64 {
    i64::try_from(slot).unwrap_or(i64::MAX)
}

/// The stretches of `first..=last` that are not in `set`.
pub(super) fn holes(set: &RangeSet, first: impl Slotted, last: impl Slotted) -> Vec<(u64, u64)> {
    set.holes(first.number(), last.number()).collect()
}

/// A slot, whichever way it is counted.
pub(super) trait Slotted {
    fn number(self) -> u64;
}

impl Slotted for i64 {
    fn number(self) -> u64 {
        unsigned(self)
    }
}

impl Slotted for u64 {
    fn number(self) -> u64 {
        self
    }
}

/// The first slot of `first..=last` that is in `set`.
pub(super) fn overlap(set: &RangeSet, first: u64, last: u64) -> Option<u64> {
    set.iter().find(|(f, l)| *f <= last && *l >= first).map(|(f, _)| f.max(first))
}

/// The first slot of `first..=last` that is in one set and not in the other.
pub(super) fn differing(one: &RangeSet, other: &RangeSet, first: i64, last: i64) -> Option<u64> {
    let (mine, theirs) = (holes(one, first, last), holes(other, first, last));
    let only = |holes: &[(u64, u64)], set: &RangeSet| holes.iter().find_map(|(f, l)| overlap(set, *f, *l));
    only(&mine, other).or_else(|| only(&theirs, one))
}
