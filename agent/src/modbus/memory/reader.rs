//! Reads a meter's memory, request by request: what of it there is, where a time is in it, and records in turn. Decides
//! nothing of what is wanted.
//!
//! Contract: call [`Reader::step`] with what is wanted; send what it asks and hand over the answer to [`Reader::took`] or
//! [`Reader::refused`], or the lack of one to [`Reader::failed`]; then step again, for the same or for something else.

mod answers;
#[cfg(test)]
mod tests;

use std::ops::Range;

use gapless_common::catalog::PeriodLabel;
use gapless_common::id::ChannelId;
use gapless_common::profile::{Held, Way};
use gapless_common::quality::ExceptionCode;
use gapless_common::time::{Slot, Timestamp};

use super::super::file::runs_max;
use super::super::pdu::Request;
use super::super::plan::PlanError;
use super::Settings;
use super::batch::Batch;
use super::extent::Extent;
use super::newest::Newest;
use super::pointers::Pointers;
use super::record::Record;
use super::seek::{Marks, Where};
use crate::clock::Now;

/// So often in a row the memory may turn out to be another than it was taken for, before all of it is read.
pub const STRIKES_MAX: u8 = 3;

/// How long the pointers are believed, in ms, where records come less often.
const POINTERS_MS: (i64, i64) = (1_000, 30_000);
/// So many looks must find a time in a memory of 65,535 records: three halvings of it, and some.
const PROBES_MAX: u16 = 64;
/// So far before the newest record one is looked for that it can be compared with.
const OLDER_MAX: i64 = 2;

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
    /// Times do not rise with the numbers, or nothing is found where they say it is.
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
    /// The meter would not: why, and what it was asked for.
    Refused(ExceptionCode, Asked),
}

/// What a memory was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surprise {
    /// A newer record has taken the place of the one that was asked for, or the window shows another one.
    Moved,
    /// Times do not rise with the numbers.
    Mixed,
}

/// What a request asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Which records there are.
    Pointers,
    /// Several records.
    Several,
    /// One record, and whether only to see where a time is.
    One(i64, bool),
}

/// The request in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Doing {
    Pointers,
    Select { no: i64, why: Why },
    Read { run: Range<i64>, why: Why },
}

impl Doing {
    fn asked(&self) -> Asked {
        match self {
            Self::Pointers => Asked::Pointers,
            Self::Read { run, .. } if run.end - run.start > 1 => Asked::Several,
            Self::Select { no, why } | Self::Read { run: Range { start: no, .. }, why } => {
                Asked::One(*no, matches!(why, Why::Probe))
            }
        }
    }
}

/// Why a run is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Wanted,
    /// It is the newest.
    Newest,
    /// To see where a time is.
    Probe,
    /// Whatever its time is.
    Scan,
    /// To see whether it is older than the newest one.
    Before,
}

/// See the module.
#[derive(Debug)]
pub struct Reader {
    settings: Settings,
    pointers: Pointers,
    extent: Option<Extent>,
    /// What the pointers meant when they were read last.
    before: Option<Extent>,
    before_at_ms: u64,
    extent_at_ms: u64,
    /// A record was asked for since.
    is_used: bool,
    marks: Marks,
    newest: Newest,
    batch: Batch,
    doing: Option<Doing>,
    selected: Option<i64>,
    /// Not before, on the boot clock: the meter puts a record into its window.
    pause_until_ms: u64,
    /// What is looked for, and how many looks that took.
    probes: (Option<Slot>, u16),
    /// Up to here nothing seems to be written, although the meter says so.
    doubted: Option<i64>,
    /// The record that the meter names the newest, where the one before it counts as the newest.
    stepped: Option<i64>,
    /// It says that it has no records, and had some before.
    is_emptied: bool,
    /// It has fewer records than before.
    was_cleared: bool,
    /// Goes up whenever numbers no longer mean what they meant.
    generation: u64,
}

impl Reader {
    /// Nothing is known yet.
    ///
    /// # Errors
    /// [`PlanError`] where the pointers or a record cannot be asked for; its channel is the key of the load profile.
    pub fn new(settings: Settings) -> Result<Self, PlanError> {
        let (registers, max) = (settings.load.registers.max(1), settings.limits.max_registers);
        let pointers = Pointers::new(&settings)?;
        if registers > max
            && let Ok(channel) = ChannelId::new("record")
        {
            return Err(PlanError::TooLong { channel, registers, max });
        }
        let most = match settings.load.way {
            Way::File { .. } => usize::from(max / registers).min(runs_max(registers)),
            Way::Mapped { .. } => usize::from(max / registers),
            Way::Window { .. } => 1,
        };
        Ok(Self {
            batch: Batch::new(most.min(usize::from(settings.load.at_once))),
            settings,
            pointers,
            extent: None,
            before: None,
            before_at_ms: 0,
            extent_at_ms: 0,
            is_used: false,
            marks: Marks::default(),
            newest: Newest::default(),
            doing: None,
            selected: None,
            pause_until_ms: 0,
            probes: (None, 0),
            doubted: None,
            stepped: None,
            is_emptied: false,
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

    /// Whether its newest records overwrite the oldest.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let capacity = i64::from(self.settings.load.capacity);
        let is_said = self.settings.load.held != Held::Unsaid;
        (is_said || self.blank().is_none()) && self.extent.is_some_and(|extent| extent.count() >= capacity)
    }

    /// Goes up whenever numbers no longer mean what they meant.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The meter's clock minus ours, in ms, and when it was so, where it says its time.
    #[must_use]
    pub const fn drift(&self) -> Option<(i64, Timestamp)> {
        self.pointers.drift()
    }

    /// Whether the memory was cleared since this was asked last.
    pub fn take_cleared(&mut self) -> bool {
        std::mem::take(&mut self.was_cleared)
    }

    /// Another look at which record is the newest.
    pub fn look_anew(&mut self) {
        self.stepped = None;
        self.look_again();
    }

    /// Whether it says that it has no records, and had some before.
    #[must_use]
    pub const fn is_emptied(&self) -> bool {
        self.is_emptied
    }

    /// That it has none is so.
    pub fn believe_emptied(&mut self) {
        self.is_emptied = false;
        self.before = None;
        self.was_cleared = true;
        self.marks.clear();
        self.generation += 1;
    }

    /// The pointers are to be read again.
    pub fn look_again(&mut self) {
        self.extent = None;
        self.pointers.restart();
    }

    /// There is no connection: what was asked for will not come, and what was selected is forgotten.
    pub fn unplugged(&mut self) {
        (self.doing, self.selected, self.stepped) = (None, None, None);
        self.newest.forget();
        self.look_again();
    }

    /// A record that cannot be had is no longer asked for where another one tells as much.
    pub fn give_up(&mut self, no: i64) {
        self.marks.give_up(no);
    }

    /// Whether the newest record waits for an older one that can still be had.
    #[must_use]
    pub fn awaits_older(&self) -> bool {
        let older = self.before.zip(self.newest.held()).and_then(|(extent, no)| self.older(extent, no));
        older.is_some()
    }

    /// The named newest record cannot be had: the one before it counts as the newest, where that is not known to be so, too.
    pub fn passes_newest(&mut self, no: i64) -> bool {
        let is_named = self.before.is_some_and(|before| before.newest == no && before.oldest < no);
        let may_be_had = is_named && self.stepped.is_none() && !self.marks.is_given_up(no - 1);
        if may_be_had {
            self.newest.forget();
            self.stepped = Some(no);
            self.look_again();
        }
        may_be_had
    }

    /// The record next before this one that may be had, to compare it with.
    fn older(&self, extent: Extent, no: i64) -> Option<i64> {
        let may_be_had = |older: &i64| extent.has(*older) && !self.marks.is_given_up(*older);
        (no - OLDER_MAX..no).rev().find(may_be_had)
    }

    /// What to ask.
    pub fn step(&mut self, goal: Goal, now: Now) -> Step {
        let Some(extent) = self.extent.filter(|_| self.is_fresh(now)) else { return self.ask_pointers() };
        if extent.is_empty() {
            return Step::Nowhere;
        }
        if let Some(no) = self.newest.held().filter(|no| goal == Goal::Newest && extent.newest == *no) {
            if let Some(older) = self.older(extent, no) {
                return self.ask_record(extent, older, Why::Before, now);
            }
            self.newest.release();
        }
        let (first, why) = match goal {
            _ if self.marks.blank() >= Some(extent.newest) => return Step::Nowhere,
            Goal::Newest => (extent.newest, Why::Newest),
            Goal::Number(no) | Goal::Scan(no) if no > extent.newest => return Step::Nowhere,
            Goal::Number(no) => (no.max(extent.oldest), Why::Wanted),
            Goal::Scan(no) => (no.max(extent.oldest), Why::Scan),
            Goal::From(slot) => match self.find(extent, slot) {
                Where::Here(no) => (no, Why::Wanted),
                Where::Probe(no) if self.may_probe(slot) => (no, Why::Probe),
                Where::Nowhere => return Step::Nowhere,
                Where::Probe(_) => {
                    self.forget();
                    return Step::Mixed;
                }
                Where::Blank(no) => {
                    // Was it cleared, or does it say more than it has?
                    self.doubted = Some(no);
                    self.look_again();
                    return self.ask_pointers();
                }
            },
        };
        self.ask_record(extent, first, why, now)
    }

    fn find(&mut self, extent: Extent, slot: Slot) -> Where {
        let found = self.marks.find(extent, slot);
        // A meter that says how many there are has written them all, but for the one that is being overwritten.
        if let Where::Blank(no) = found
            && (self.settings.load.held == Held::Unsaid || no == extent.oldest || self.doubted == Some(no))
        {
            self.marks.note_blank(no);
            return self.marks.find(extent, slot);
        }
        found
    }

    /// Counts a look for a time, of which there may be so many.
    fn may_probe(&mut self, slot: Slot) -> bool {
        if self.probes.0 != Some(slot) {
            self.probes = (Some(slot), 0);
        }
        self.probes.1 += 1;
        self.probes.1 <= PROBES_MAX
    }

    fn is_fresh(&self, now: Now) -> bool {
        let interval = self.settings.grid.interval.as_ms();
        let believed = u64::try_from(interval.clamp(POINTERS_MS.0, POINTERS_MS.1)).unwrap_or(0);
        // One record at least is read of each look, and once it is selected, too: on a busy line all looks are old.
        !self.is_used || self.selected.is_some() || now.boot_ms.saturating_sub(self.extent_at_ms) < believed
    }

    fn ask_pointers(&mut self) -> Step {
        let Some(request) = self.pointers.request() else { return Step::Nowhere };
        self.doing = Some(Doing::Pointers);
        Step::Ask(request)
    }

    fn ask_record(&mut self, extent: Extent, first: i64, why: Why, now: Now) -> Step {
        let load = &self.settings.load;
        let is_newest = first == extent.newest;
        if let Some(until_ms) = self.newest.wait_until(first, now.boot_ms).filter(|_| is_newest) {
            return Step::Wait(until_ms);
        }
        if self.selected != Some(first)
            && let Some(request) = Extent::select(load, first)
        {
            self.doing = Some(Doing::Select { no: first, why });
            return Step::Ask(request);
        }
        if self.selected.is_some() && self.pause_until_ms > now.boot_ms {
            return Step::Wait(self.pause_until_ms);
        }
        let is_alone = matches!(why, Why::Probe | Why::Before) || is_newest;
        let mut run = extent.run(load, first, if is_alone { 1 } else { self.batch.size() });
        if !is_newest {
            run.end = run.end.min(extent.newest);
        }
        match Extent::read(load, &run) {
            Some(request) => {
                self.is_used = true;
                self.doing = Some(Doing::Read { run, why });
                Step::Ask(request)
            }
            None => Step::Nowhere,
        }
    }
}

/// The instant after which a record can have been written, for a meter whose clock is right.
#[must_use]
pub const fn written_at(label: PeriodLabel, at: Timestamp, interval_ms: i64) -> Timestamp {
    match label {
        PeriodLabel::End => at,
        PeriodLabel::Start => at.plus_ms(interval_ms),
    }
}
