//! Reads a meter's memory, request by request: what of it there is, where a time is in it, and records in turn. Decides
//! nothing of what is wanted.
//!
//! Contract: call [`Reader::step`] with what is wanted; send what it asks and hand over the answer to [`Reader::took`], or
//! the lack of one to [`Reader::failed`]; then step again, for the same or for something else.

use std::ops::Range;

use gapless_common::catalog::{Aggregation, PeriodLabel};
use gapless_common::id::{ChannelId, ChannelIndex};
use gapless_common::profile::{
    ByteOrder, ChannelSpec, Clock, Held, Location, Numbering, Register, RegisterTable, Scale, ValueType, Way,
};
use gapless_common::quality::ExceptionCode;
use gapless_common::time::{Slot, Timestamp};

use super::super::pdu::{Request, ResponseData};
use super::super::plan::{PlanError, PlannedRead, ReadPlan};
use super::super::value::pattern;
use super::Settings;
use super::extent::{Extent, Pointers};
use super::record::{self, Record};
use super::seek::{Marks, Where};
use super::stamp;
use crate::clock::Now;

/// So often in one task the memory may turn out to be another than it was taken for, before all of it is read.
pub const STRIKES_MAX: u8 = 3;

/// Pause between the two readings of the newest record, in ms: a meter writes a record within it.
const CONFIRM_MS: u64 = 300;
/// How long the pointers are believed, in ms, where records come less often.
const POINTERS_MS: (i64, i64) = (1_000, 30_000);

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The newest record.
    Newest,
    /// The first record of this slot or later, and those behind it.
    From(Slot),
    /// The record of this number, and those behind it.
    Number(i64),
    /// The same, whatever their times are.
    Scan(i64),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this.
    Ask(Request),
    /// Not before this instant of the boot clock.
    Wait(u64),
    /// There is no such record.
    Nowhere,
    /// Times do not rise with the numbers.
    Mixed,
}

/// What came of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Took {
    /// More is to be asked before there are records.
    More,
    /// These, from this number on; `None` where nothing is written, or nothing that can be read.
    Records(i64, Vec<Option<Record>>),
    /// The memory is not what it was taken for: it is looked at again.
    Strike(Surprise),
    /// The meter would not: why.
    Refused(ExceptionCode),
}

/// What a memory was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surprise {
    /// A newer record has taken the place of the one that was asked for, or the window shows another one.
    Moved,
    /// Times do not rise with the numbers.
    Mixed,
}

/// The request in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Doing {
    Pointers(usize),
    Select(i64),
    Read { run: Range<i64>, why: Why },
}

/// Why a run is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Wanted,
    /// To see where this slot is.
    Probe(Slot),
    /// Whatever its time is.
    Scan,
}

/// See the module.
#[derive(Debug)]
pub struct Reader {
    settings: Settings,
    plan: ReadPlan,
    said: Pointers,
    extent: Option<Extent>,
    /// What the pointers meant when they were read last.
    before: Option<Extent>,
    extent_at_ms: u64,
    marks: Marks,
    doing: Option<Doing>,
    /// Which request of the pointers is next.
    pointer: usize,
    selected: Option<i64>,
    /// Not before, on the boot clock: the meter puts a record into its window.
    pause_until_ms: u64,
    /// The newest record as it was read once, and when it may be read again.
    unsure: Option<(i64, Vec<u16>, u64)>,
    at_once: usize,
    /// The meter's clock minus ours, in ms, as it was seen last.
    drift_ms: Option<i64>,
    /// It has fewer records than before.
    was_cleared: bool,
    /// Goes up whenever numbers no longer mean what they meant.
    generation: u64,
}

impl Reader {
    /// Nothing is known yet.
    ///
    /// # Errors
    /// [`PlanError`] where the pointers cannot be asked for.
    pub fn new(settings: Settings) -> Result<Self, PlanError> {
        let plan = ReadPlan::new(&pointers(&settings), settings.limits)?;
        let at_once = usize::from(settings.limits.max_registers / settings.load.registers.max(1));
        let at_once = match settings.load.way {
            Way::File { .. } => usize::MAX,
            Way::Mapped { .. } | Way::Window { .. } => at_once.max(1),
        };
        Ok(Self {
            at_once: at_once.min(usize::from(settings.load.at_once)),
            settings,
            plan,
            said: Pointers::default(),
            extent: None,
            before: None,
            extent_at_ms: 0,
            marks: Marks::default(),
            doing: None,
            pointer: 0,
            selected: None,
            pause_until_ms: 0,
            unsure: None,
            drift_ms: None,
            was_cleared: false,
            generation: 0,
        })
    }

    /// What there is, as far as it is known.
    #[must_use]
    pub const fn extent(&self) -> Option<Extent> {
        self.extent
    }

    /// The last place that was never written.
    #[must_use]
    pub const fn blank(&self) -> Option<i64> {
        self.marks.blank()
    }

    /// Goes up whenever numbers no longer mean what they meant.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The meter's clock minus ours, in ms, where it says its time.
    #[must_use]
    pub const fn drift_ms(&self) -> Option<i64> {
        self.drift_ms
    }

    /// Whether the memory was cleared since this was asked last.
    pub fn take_cleared(&mut self) -> bool {
        std::mem::take(&mut self.was_cleared)
    }

    /// The pointers are to be read again.
    pub const fn look_again(&mut self) {
        self.extent = None;
    }

    /// What to ask.
    pub fn step(&mut self, goal: Goal, now: Now) -> Step {
        let Some(extent) = self.extent.filter(|_| self.is_fresh(now)) else { return self.ask_pointers() };
        if extent.is_empty() {
            return Step::Nowhere;
        }
        let (first, why) = match goal {
            _ if self.marks.blank() >= Some(extent.newest) => return Step::Nowhere,
            Goal::Newest => (extent.newest, Why::Wanted),
            Goal::Number(no) | Goal::Scan(no) if no > extent.newest => return Step::Nowhere,
            Goal::Number(no) => (no.max(extent.oldest), Why::Wanted),
            Goal::Scan(no) => (no.max(extent.oldest), Why::Scan),
            Goal::From(slot) => match self.marks.find(extent, slot) {
                Where::Here(no) => (no, Why::Wanted),
                Where::Probe(no) => (no, Why::Probe(slot)),
                Where::Nowhere => return Step::Nowhere,
                Where::Mixed => return Step::Mixed,
            },
        };
        self.ask_record(extent, first, why, now)
    }

    fn is_fresh(&self, now: Now) -> bool {
        let interval = self.settings.grid.interval.as_ms();
        let believed = u64::try_from(interval.clamp(POINTERS_MS.0, POINTERS_MS.1)).unwrap_or(0);
        now.boot_ms.saturating_sub(self.extent_at_ms) < believed
    }

    fn ask_pointers(&mut self) -> Step {
        match self.plan.requests().get(self.pointer) {
            Some(read) => {
                let request = read.request().clone();
                self.doing = Some(Doing::Pointers(self.pointer));
                Step::Ask(request)
            }
            // There is one for the newest record at least.
            None => Step::Nowhere,
        }
    }

    fn ask_record(&mut self, extent: Extent, first: i64, why: Why, now: Now) -> Step {
        let load = &self.settings.load;
        let is_newest = first == extent.newest;
        if let Some((no, _, ready_ms)) = &self.unsure
            && is_newest
            && *no == first
            && *ready_ms > now.boot_ms
        {
            return Step::Wait(*ready_ms);
        }
        if self.selected != Some(first)
            && let Some(request) = Extent::select(load, first)
        {
            self.doing = Some(Doing::Select(first));
            return Step::Ask(request);
        }
        if self.selected.is_some() && self.pause_until_ms > now.boot_ms {
            return Step::Wait(self.pause_until_ms);
        }
        let most = if matches!(why, Why::Probe(_)) || is_newest { 1 } else { self.at_once };
        let mut run = extent.run(load, first, most);
        if !is_newest {
            run.end = run.end.min(extent.newest);
        }
        match Extent::read(load, &run) {
            Some(request) => {
                self.doing = Some(Doing::Read { run, why });
                Step::Ask(request)
            }
            None => Step::Nowhere,
        }
    }

    /// The answer to what was asked.
    pub fn took(&mut self, data: &ResponseData, now: Now) -> Took {
        match self.doing.take() {
            Some(Doing::Pointers(place)) => {
                self.note_pointers(place, data, now);
                self.pointer = place + 1;
                if self.pointer >= self.plan.requests().len() {
                    self.take_pointers(now);
                }
                Took::More
            }
            Some(Doing::Select(no)) => {
                let pause_ms = match self.settings.load.way {
                    Way::Window { pause_ms, .. } => pause_ms,
                    Way::Mapped { .. } | Way::File { .. } => 0,
                };
                self.selected = Some(no);
                self.pause_until_ms = now.boot_ms.saturating_add(u64::from(pause_ms));
                Took::More
            }
            Some(Doing::Read { run, why }) => {
                self.take_run(&run, why, &records_of(&self.settings, data), now)
            }
            None => Took::More,
        }
    }

    /// The meter refused what was asked.
    pub fn refused(&mut self, code: ExceptionCode, now: Now) -> Took {
        let doing = self.doing.take();
        (self.selected, self.pointer) = (None, 0);
        match doing {
            // Where there is no such address or value, there is no such record.
            Some(Doing::Read { run, why }) if is_absence(code) => {
                if run.end - run.start > 1 {
                    self.at_once = 1;
                    return Took::More;
                }
                self.take_run(&run, why, &[Vec::new()], now)
            }
            Some(Doing::Select(no)) if is_absence(code) => {
                self.take_run(&(no..no + 1), Why::Wanted, &[Vec::new()], now)
            }
            _ => Took::Refused(code),
        }
    }

    /// No answer came that can be used.
    pub fn failed(&mut self) {
        if let Some(Doing::Read { run, .. }) = self.doing.take()
            && run.end - run.start > 1
        {
            // It may be too much for the meter, or for the line.
            self.at_once = (self.at_once.min(64) / 2).max(1);
        }
        (self.selected, self.pointer) = (None, 0);
    }

    /// Forgets all that is known of the memory.
    pub fn forget(&mut self) {
        self.marks.clear();
        (self.extent, self.before, self.unsure) = (None, None, None);
        self.generation += 1;
    }

    fn note_pointers(&mut self, place: usize, data: &ResponseData, now: Now) {
        let ResponseData::Registers(words) = data else { return };
        let Some(read) = self.plan.requests().get(place).cloned() else { return };
        if place == 0 {
            (self.said, self.drift_ms) = (Pointers::default(), None);
        }
        let specs = pointers(&self.settings);
        for (channel, words) in values(&read, words) {
            let order = specs.get(usize::from(channel.0)).map_or(ByteOrder::default(), |spec| spec.order);
            let number = || u32::try_from(pattern(words, order)).ok();
            match self.kind(channel) {
                Some(Kind::Newest) => self.said.newest = number().unwrap_or_default(),
                Some(Kind::Held) => self.said.held = number(),
                Some(Kind::Clock(clock)) => {
                    let at = stamp::instant(clock.encoding, clock.order, words, self.settings.zone);
                    self.drift_ms = at.filter(|_| now.wall_set).map(|at| at.since_ms(now.wall));
                }
                None => {}
            }
        }
    }

    fn kind(&self, channel: ChannelIndex) -> Option<Kind> {
        kinds(&self.settings).into_iter().nth(usize::from(channel.0))
    }

    fn take_pointers(&mut self, now: Now) {
        let load = &self.settings.load;
        let extent = Extent::new(load, self.said, self.before);
        if let Some(before) = self.before {
            let interval = load.interval.as_ms();
            let passed = i64::try_from(now.boot_ms.saturating_sub(self.extent_at_ms)).unwrap_or(i64::MAX);
            let moved = extent.newest - before.newest;
            let jumped = moved > 2 * passed / interval + 2;
            let fell = moved < 0;
            let shrank = load.held != Held::Unsaid && extent.count() < before.count();
            self.was_cleared |= jumped || fell || shrank;
            // Another number than time says: it was without power, or the ring has gone round, or it began anew. The
            // records themselves will say which.
            let is_strange = (moved - passed / interval).abs() > 2;
            if is_strange || shrank {
                self.marks.clear();
                self.generation += 1;
            }
        }
        self.marks.keep(extent);
        (self.selected, self.pointer) = (None, 0);
        if self.unsure.as_ref().is_some_and(|(no, ..)| *no != extent.newest) {
            self.unsure = None;
        }
        (self.extent, self.before, self.extent_at_ms) = (Some(extent), Some(extent), now.boot_ms);
    }

    fn take_run(&mut self, run: &Range<i64>, why: Why, words: &[Vec<u16>], now: Now) -> Took {
        self.selected = None;
        let Some(extent) = self.extent else { return Took::More };
        let Settings { load, zone, grid, .. } = &self.settings;
        let records: Vec<Option<Record>> =
            words.iter().map(|words| record::read(load, *zone, words)).collect();
        let (held, grid) = (load.held, *grid);
        if run.start == extent.newest {
            let is_written = records.iter().flatten().any(|record| !record.is_incomplete);
            let is_named_first = self.before.is_some_and(|before| before.newest == extent.newest);
            if !is_written && is_named_first {
                // Some meters name the record that they are writing, or the place that is next.
                self.extent = Some(Extent { newest: extent.newest - 1, ..extent });
                return Took::More;
            }
            if !self.confirm(extent.newest, words, now) {
                return Took::More;
            }
        }
        if why == Why::Scan {
            return Took::Records(run.start, records);
        }
        let mut contradiction = None;
        for (no, record) in run.clone().zip(&records) {
            match record {
                Some(record) if !self.marks.note(no, grid.slot_at(record.at), record.at) => {
                    let is_moved = self.marks.is_newest_or_known(record.at);
                    contradiction = Some(if is_moved { Surprise::Moved } else { Surprise::Mixed });
                }
                Some(_) => {}
                None if held == Held::Unsaid => self.marks.note_blank(no),
                None if matches!(why, Why::Probe(_)) => {
                    contradiction = Some(Surprise::Mixed);
                }
                None => {}
            }
        }
        if let Some(why) = contradiction {
            return self.strike(why);
        }
        match (why, records.first()) {
            (Why::Probe(slot), Some(Some(record))) if grid.slot_at(record.at) != slot => Took::More,
            (Why::Probe(_), Some(None)) => Took::More,
            _ => Took::Records(run.start, records),
        }
    }

    /// Whether the newest record has been read twice alike.
    fn confirm(&mut self, newest: i64, words: &[Vec<u16>], now: Now) -> bool {
        let read = words.first().cloned().unwrap_or_default();
        let is_same = self.unsure.as_ref().is_some_and(|(no, before, _)| *no == newest && *before == read);
        if !is_same {
            self.unsure = Some((newest, read, now.boot_ms.saturating_add(CONFIRM_MS)));
        }
        is_same
    }

    fn strike(&mut self, why: Surprise) -> Took {
        (self.extent, self.unsure) = (None, None);
        Took::Strike(why)
    }
}

/// What a pointer is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Newest,
    Held,
    Clock(Clock),
}

/// In the order in which they are planned.
fn kinds(settings: &Settings) -> Vec<Kind> {
    let load = &settings.load;
    let held = (load.held != Held::Unsaid).then_some(Kind::Held);
    [Some(Kind::Newest), held, load.clock.map(Kind::Clock)].into_iter().flatten().collect()
}

/// The pointers as channels, so that they are planned like any others.
fn pointers(settings: &Settings) -> Vec<ChannelSpec> {
    let load = &settings.load;
    let registers = |kind: Kind| match (kind, load.numbering, load.held) {
        (Kind::Newest, Numbering::Ring { newest: register } | Numbering::Running { newest: register }, _)
        | (Kind::Held, _, Held::Count(register) | Held::Oldest(register)) => {
            let Register { table, address, value_type, order } = register;
            pointer(table, address, value_type, order)
        }
        (Kind::Clock(clock), ..) => {
            let registers = u8::try_from(clock.encoding.registers()).ok()?;
            pointer(clock.table, clock.address, ValueType::Text { registers }, clock.order)
        }
        _ => None,
    };
    kinds(settings).into_iter().filter_map(registers).collect()
}

fn pointer(
    table: RegisterTable,
    address: u16,
    value_type: ValueType,
    order: ByteOrder,
) -> Option<ChannelSpec> {
    Some(ChannelSpec {
        id: ChannelId::new("pointer").ok()?,
        table,
        location: Location::Absolute(address),
        value_type,
        order,
        scale: Scale::ONE,
        scale_from: None,
        unit: "".into(),
        quantity: "".into(),
        aggregation: Aggregation::Instant,
        label: PeriodLabel::End,
        sentinels: Vec::new(),
        valid: None,
        attributes: std::collections::BTreeMap::new(),
    })
}

fn values<'a>(
    read: &'a PlannedRead,
    words: &'a [u16],
) -> impl Iterator<Item = (ChannelIndex, &'a [u16])> + use<'a> {
    use super::super::plan::Purpose;
    read.parts().iter().filter_map(|part| match part.purpose {
        Purpose::Value(channel) => Some((channel, words.get(read.place(part))?)),
        Purpose::Exponent | Purpose::Header => None,
    })
}

/// The registers of each record of an answer.
fn records_of(settings: &Settings, data: &ResponseData) -> Vec<Vec<u16>> {
    match data {
        ResponseData::Registers(words) => {
            words.chunks(usize::from(settings.load.registers.max(1))).map(<[u16]>::to_vec).collect()
        }
        ResponseData::Records(records) => records.clone(),
        ResponseData::Bits(_) | ResponseData::Written => Vec::new(),
    }
}

/// "Illegal data address" and "illegal data value" (Modbus Application Protocol V1.1b3, section 7).
const fn is_absence(code: ExceptionCode) -> bool {
    matches!(code, ExceptionCode(0x02 | 0x03))
}

/// A time of the meter, for messages.
#[must_use]
pub fn drift_text(drift_ms: i64) -> String {
    let (ahead, span) = (drift_ms > 0, drift_ms.unsigned_abs());
    let span = gapless_common::text::format_duration_ms(span / 1_000 * 1_000);
    if ahead { format!("{span} ahead") } else { format!("{span} behind") }
}

/// The instant after which a record can have been written, for a meter whose clock is right.
#[must_use]
pub const fn written_at(label: PeriodLabel, at: Timestamp, interval_ms: i64) -> Timestamp {
    match label {
        PeriodLabel::End => at,
        PeriodLabel::Start => at.plus_ms(interval_ms),
    }
}
