//! All devices of one folder: which files to look at, and what follows from what was found or from nothing.
//!
//! Contract: that of [`Collect`].
//!
//! # Order
//! First it is looked which files there are, for the device whose turn it is; then what is new in them is read, then what
//! the collector wants once more.
//!
//! # Failures
//! Where the folder cannot be listed or a file not be read, as on a share that is not mounted, each slot that ends
//! meanwhile is missed for that reason; its row fills it later. A file that is gone between listing and reading is none.

use std::collections::{BTreeMap, VecDeque};

use gapless_common::id::{BusId, DeviceIndex};
use gapless_common::message::Outcome;
use gapless_common::quality::Cause;
use gapless_common::time::Timestamp;

use super::set::{FileSet, Settings, What};
use super::tail::Stat;
use crate::clock::Now;
use crate::event::{BusEvent, BusTotals, DeviceCondition, LinkState, METRICS_EVERY_MS};
use crate::records::collect::{Collect, Step};

/// Longest wait, so that ended slots are told soon.
const WAIT_MS_MAX: u64 = 1_000;
/// First and longest wait after a failure, in ms.
const RETRY_MS: (u64, u64) = (500, 10_000);
/// A step of the wall clock back that counts, in ms.
const STEP_MS_MIN: i64 = 250;

/// What is to be found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Which files a pattern finds.
    List(Box<str>),
    /// Bytes of a file: its name as listed, the first byte, and how many at most.
    Read(Box<str>, u64, usize),
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// These files.
    Files(BTreeMap<Box<str>, Stat>),
    /// These bytes, as many as were wanted unless the file ends.
    Bytes(Vec<u8>),
}

/// Why nothing was found; with the words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// There is no such file any more.
    Gone,
    /// Folder or file cannot be read.
    Unreadable(String),
}

#[derive(Debug, Clone)]
enum InHand {
    List(usize),
    Read(usize, What, Box<str>),
}

/// One folder. See the module.
#[derive(Debug)]
pub struct Folder {
    bus: BusId,
    sets: Vec<FileSet>,
    /// What was told of each last.
    told: Vec<Option<(DeviceCondition, Option<Cause>)>>,
    /// Why the folder is not there; `None` while it is.
    absent: Option<Cause>,
    attempts: u32,
    retry_at_ms: u64,
    in_hand: Option<InHand>,
    /// Whose file was read last.
    turn: usize,
    offset: Option<i64>,
    link: Option<LinkState>,
    totals: BusTotals,
    told_totals: (BusTotals, u64),
    out: VecDeque<BusEvent>,
}

impl Folder {
    /// Slots from `begun` on are to be accounted for, once that look at the clocks is an instant.
    #[must_use]
    pub fn new(bus: BusId, sets: Vec<Settings>, begun: Now, now: Now) -> Self {
        let sets: Vec<FileSet> = sets.into_iter().map(|set| FileSet::new(set, begun, now)).collect();
        let mut new = Self {
            bus,
            told: vec![None; sets.len()],
            sets,
            absent: Some(Cause::NotConnected),
            attempts: 0,
            retry_at_ms: now.boot_ms,
            in_hand: None,
            turn: 0,
            offset: None,
            link: None,
            totals: BusTotals::default(),
            told_totals: (BusTotals::default(), 0),
            out: VecDeque::new(),
        };
        for index in 0..new.sets.len() {
            if new.sets[index].settings.paused {
                new.tell_device(index, DeviceCondition::Paused, None);
            }
        }
        new
    }

    fn pick(&mut self, now: Now) -> Option<InHand> {
        if self.retry_at_ms > now.boot_ms {
            return None;
        }
        let all = || self.sets.iter().enumerate();
        if let Some((index, _)) = all().find(|(_, set)| set.is_due(now)) {
            return Some(InHand::List(index));
        }
        let wanted = all().filter_map(|(index, set)| Some((index, set.wanted()?)));
        // What is fresh first; of these the one behind the one that had its turn.
        let next =
            wanted.min_by_key(|(index, (what, ..))| (*what == What::History, *index <= self.turn, *index));
        let (index, (what, name, ..)) = next?;
        self.turn = index;
        Some(InHand::Read(index, what, name))
    }

    fn ask(&self, in_hand: &InHand) -> Option<Ask> {
        match in_hand {
            InHand::List(index) => Some(Ask::List(self.sets[*index].settings.pattern.clone())),
            InHand::Read(index, ..) => {
                self.sets[*index].wanted().map(|(_, name, offset, len)| Ask::Read(name, offset, len))
            }
        }
    }

    fn wait(&self, now: Now) -> u64 {
        let next = self.sets.iter().map(FileSet::due_ms).min().unwrap_or(u64::MAX).max(self.retry_at_ms);
        next.clamp(now.boot_ms + 1, now.boot_ms.saturating_add(WAIT_MS_MAX))
    }

    fn found(&mut self, in_hand: InHand, found: Found, now: Now) {
        self.present();
        self.totals.answered += 1;
        let index = match (in_hand, found) {
            (InHand::List(index), Found::Files(files)) => {
                self.sets[index].listed(files, now, &mut self.out);
                index
            }
            (InHand::Read(index, what, name), Found::Bytes(bytes)) => {
                self.totals.corrupt += self.sets[index].took(what, &name, &bytes, &mut self.out);
                index
            }
            (InHand::List(index) | InHand::Read(index, ..), _) => index,
        };
        let set = &self.sets[index];
        match (set.trouble(), set.has_rows()) {
            (Some(cause), _) => self.tell_device(index, DeviceCondition::Failing, Some(cause)),
            (None, true) => self.tell_device(index, DeviceCondition::Online, None),
            (None, false) => {}
        }
    }

    fn missing(&mut self, why: &str, now: Now) {
        self.absent = Some(Cause::NotConnected);
        self.retry_at_ms = now.boot_ms.saturating_add((RETRY_MS.0 << self.attempts.min(16)).min(RETRY_MS.1));
        self.attempts = self.attempts.saturating_add(1);
        self.totals.refused += 1;
        self.tell_link(LinkState::Absent(why.into()));
        for index in 0..self.sets.len() {
            self.sets[index].failed(why, &mut self.out);
            self.tell_device(index, DeviceCondition::Failing, Some(Cause::NotConnected));
        }
    }

    fn present(&mut self) {
        (self.absent, self.attempts) = (None, 0);
        self.tell_link(LinkState::Open);
    }

    fn observe(&mut self, now: Now) {
        let offset =
            now.wall_set.then(|| now.wall.0.saturating_sub(i64::try_from(now.boot_ms).unwrap_or(i64::MAX)));
        let is_back =
            self.offset.zip(offset).is_some_and(|(old, new)| old.saturating_sub(new) >= STEP_MS_MIN);
        self.offset = offset;
        for set in &mut self.sets {
            if is_back {
                set.account.step_back(now, &mut self.out);
            }
            set.settle(self.absent, now, &mut self.out);
        }
    }

    fn tell_link(&mut self, link: LinkState) {
        if self.link.as_ref() != Some(&link) {
            self.link = Some(link.clone());
            self.out.push_back(BusEvent::Bus { bus: self.bus.clone(), link });
        }
    }

    fn tell_device(&mut self, index: usize, condition: DeviceCondition, last_error: Option<Cause>) {
        let settings = &self.sets[index].settings;
        let condition = if settings.paused { DeviceCondition::Paused } else { condition };
        if self.told[index] != Some((condition, last_error)) {
            self.told[index] = Some((condition, last_error));
            self.out.push_back(BusEvent::Device { device: settings.device, condition, last_error });
        }
    }

    fn tell_totals(&mut self, now: Now, last: bool) {
        let is_due = now.boot_ms.saturating_sub(self.told_totals.1) >= METRICS_EVERY_MS;
        if self.totals != self.told_totals.0 && (is_due || last) {
            self.told_totals = (self.totals, now.boot_ms);
            self.out.push_back(BusEvent::Metrics { bus: self.bus.clone(), totals: self.totals });
        }
    }
}

impl Collect for Folder {
    type Ask = Ask;
    type Answer = Result<Found, Failure>;

    fn next(&mut self, now: Now) -> Step<Ask> {
        self.observe(now);
        self.tell_totals(now, false);
        let picked = self.pick(now);
        let ask = picked.as_ref().and_then(|in_hand| self.ask(in_hand));
        let Some(ask) = ask else { return Step::Wait { until_boot_ms: self.wait(now) } };
        self.in_hand = picked;
        self.totals.requests += 1;
        Step::Ask(ask)
    }

    fn took(&mut self, answer: Result<Found, Failure>, now: Now) {
        let Some(in_hand) = self.in_hand.take() else { return };
        match (answer, in_hand) {
            (Ok(found), in_hand) => self.found(in_hand, found, now),
            (Err(Failure::Gone), InHand::Read(index, what, name)) => {
                self.sets[index].vanished(what, &name, &mut self.out);
            }
            (Err(Failure::Gone), InHand::List(_)) => self.missing("there is no such folder", now),
            (Err(Failure::Unreadable(why)), _) => self.missing(&why, now),
        }
        self.observe(now);
    }

    fn poll_now(&mut self, device: DeviceIndex) {
        if let Some(set) = self.sets.iter_mut().find(|set| set.settings.device == device) {
            (set.is_asked, set.look_at_ms) = (true, 0);
        }
    }

    fn read_history(&mut self, command: u64, device: DeviceIndex, range: (Timestamp, Timestamp)) {
        let set = self.sets.iter_mut().find(|set| set.settings.device == device);
        if !set.is_some_and(|set| set.read_history(command, range)) {
            let outcome = Outcome::Failed("too many of the collector's questions wait already".into());
            self.out.push_back(BusEvent::HistoryRead { command, outcome });
        }
    }

    fn drain(&mut self) -> Option<BusEvent> {
        self.out.pop_front()
    }

    fn stop(&mut self, now: Now) {
        self.observe(now);
        for set in &mut self.sets {
            set.stop(self.absent, now, &mut self.out);
        }
        self.tell_totals(now, true);
    }
}

#[cfg(test)]
mod tests;
