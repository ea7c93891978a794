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

use std::collections::BTreeMap;

use gapless_common::id::{BusId, DeviceIndex};
use gapless_common::quality::Cause;
use gapless_common::time::Timestamp;

use super::set::{FileSet, Settings, What};
use super::tail::Stat;
use crate::clock::Now;
use crate::event::{BusEvent, DeviceCondition};
use crate::records::collect::{Collect, Step};
use crate::records::standing::Standing;

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
    sets: Vec<FileSet>,
    standing: Standing,
    in_hand: Option<InHand>,
    /// Whose file was read last.
    turn: usize,
}

impl Folder {
    /// Slots from `begun` on are to be accounted for, once that look at the clocks is an instant.
    #[must_use]
    pub fn new(bus: BusId, sets: Vec<Settings>, begun: Now, now: Now) -> Self {
        let standing = Standing::new(bus, sets.iter().map(|set| (set.device, set.paused)), now);
        let sets = sets.into_iter().map(|set| FileSet::new(set, begun, now)).collect();
        Self { sets, standing, in_hand: None, turn: 0 }
    }

    fn pick(&mut self, now: Now) -> Option<InHand> {
        if !self.standing.is_ready(now) {
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
        self.standing.wait(self.sets.iter().map(FileSet::due_ms).min().unwrap_or(u64::MAX), now)
    }

    fn found(&mut self, in_hand: InHand, found: Found, now: Now) {
        self.standing.present();
        self.standing.totals.answered += 1;
        let index = match (in_hand, found) {
            (InHand::List(index), Found::Files(files)) => {
                self.sets[index].listed(files, now, &mut self.standing.out);
                index
            }
            (InHand::Read(index, what, name), Found::Bytes(bytes)) => {
                self.standing.totals.corrupt +=
                    self.sets[index].took(what, &name, &bytes, &mut self.standing.out);
                index
            }
            (InHand::List(index) | InHand::Read(index, ..), _) => index,
        };
        let set = &self.sets[index];
        match (set.trouble(), set.has_rows()) {
            (Some(cause), _) => self.standing.tell_device(index, DeviceCondition::Failing, Some(cause)),
            (None, true) => self.standing.tell_device(index, DeviceCondition::Online, None),
            (None, false) => {}
        }
    }

    fn missing(&mut self, why: &str, now: Now) {
        self.standing.totals.refused += 1;
        for set in &mut self.sets {
            set.failed(why, &mut self.standing.out);
        }
        self.standing.missing(Cause::NotConnected, why, now);
    }

    fn observe(&mut self, now: Now) {
        let is_back = self.standing.observe(now);
        for set in &mut self.sets {
            if is_back {
                set.account.step_back(now, &mut self.standing.out);
            }
            set.settle(self.standing.absent(), now, &mut self.standing.out);
        }
    }
}

impl Collect for Folder {
    type Ask = Ask;
    type Answer = Result<Found, Failure>;

    fn next(&mut self, now: Now) -> Step<Ask> {
        self.observe(now);
        self.standing.tell_totals(now, false);
        let picked = self.pick(now);
        let ask = picked.as_ref().and_then(|in_hand| self.ask(in_hand));
        let Some(ask) = ask else { return Step::Wait { until_boot_ms: self.wait(now) } };
        if let Some(InHand::List(index)) = picked {
            self.sets[index].note_listing(now);
        }
        self.in_hand = picked;
        self.standing.totals.requests += 1;
        Step::Ask(ask)
    }

    fn took(&mut self, answer: Result<Found, Failure>, now: Now) {
        let Some(in_hand) = self.in_hand.take() else { return };
        match (answer, in_hand) {
            (Ok(found), in_hand) => self.found(in_hand, found, now),
            (Err(Failure::Gone), InHand::Read(index, what, name)) => {
                self.sets[index].vanished(what, &name, &mut self.standing.out);
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
            self.standing.refuse_history(command);
        }
    }

    fn pause(&mut self, (command, device): (u64, DeviceIndex), paused: bool, now: Now) {
        self.observe(now);
        let Some(index) = self.sets.iter().position(|set| set.settings.device == device) else { return };
        self.sets[index].pause(paused, &mut self.standing.out);
        self.standing.pause(command, index, paused);
    }

    fn drain(&mut self) -> Option<BusEvent> {
        self.standing.out.pop_front()
    }

    fn stop(&mut self, now: Now) {
        self.observe(now);
        for set in &mut self.sets {
            set.stop(self.standing.absent(), now, &mut self.standing.out);
        }
        self.standing.tell_totals(now, true);
    }
}

#[cfg(test)]
mod tests;
