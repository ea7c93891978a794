//! What the collector wants to be read of a device's memory, one command after the other. Knows no device and no link.

use std::collections::VecDeque;

use gapless_common::message::Outcome;
use gapless_common::time::{Slot, SlotGrid, Timestamp};

use super::account::Out;
use crate::event::BusEvent;

/// Commands that wait at most.
const WISHES_MAX: usize = 16;
/// So many failures in a row end a command.
const FAILURES_MAX: u32 = 4;

/// One command.
#[derive(Debug, Clone)]
pub struct Wish {
    command: u64,
    /// The first slot that was not read yet.
    pub cursor: Slot,
    /// The first slot that is not wanted.
    pub end: Slot,
    found: u64,
    failures: u32,
    /// Why something of it cannot be had.
    spoilt: Option<String>,
}

impl Wish {
    /// The number of the command.
    #[must_use]
    pub const fn command(&self) -> u64 {
        self.command
    }

    /// Something of it cannot be had, and the rest is read all the same: if there is none, that is no lack of data.
    pub fn spoil(&mut self, why: &str) {
        self.failures = 0;
        self.spoilt = Some(why.into());
    }

    /// So many records came, and what is before `cursor` has been read.
    pub fn advance(&mut self, found: usize, cursor: Slot) {
        self.failures = 0;
        self.found = self.found.saturating_add(u64::try_from(found).unwrap_or(u64::MAX));
        self.cursor = cursor.max(self.cursor).min(self.end);
    }
}

/// All that wait.
#[derive(Debug, Default)]
pub struct Wishes(VecDeque<Wish>);

impl Wishes {
    /// The collector wants these instants, half open; `false` where too much waits already.
    pub fn add(&mut self, command: u64, grid: SlotGrid, (from, to): (Timestamp, Timestamp)) -> bool {
        let has_room = self.0.len() < WISHES_MAX;
        if has_room {
            let (cursor, end) = (grid.first_from(from), grid.first_from(to));
            self.0.push_back(Wish { command, cursor, end, found: 0, failures: 0, spoilt: None });
        }
        has_room
    }

    /// The one whose turn it is.
    #[must_use]
    pub fn front(&self) -> Option<&Wish> {
        self.0.front()
    }

    /// The one whose turn it is.
    pub fn front_mut(&mut self) -> Option<&mut Wish> {
        self.0.front_mut()
    }

    /// Ends those of which all has been read.
    pub fn end(&mut self, out: &mut Out) {
        while let Some(wish) = self.0.pop_front_if(|wish| wish.cursor >= wish.end) {
            let outcome = match wish.spoilt {
                _ if wish.found > 0 => Outcome::Done,
                Some(why) => Outcome::Failed(why.into()),
                None => Outcome::NoData,
            };
            out.push_back(BusEvent::HistoryRead { command: wish.command, outcome });
        }
    }

    /// No answer that can be used came for the one whose turn it is.
    pub fn failed(&mut self, why: &str, out: &mut Out) {
        let Some(wish) = self.0.front_mut() else { return };
        wish.failures += 1;
        if wish.failures >= FAILURES_MAX {
            let (command, outcome) = (wish.command, Outcome::Failed(why.into()));
            out.push_back(BusEvent::HistoryRead { command, outcome });
            self.0.pop_front();
        }
    }

    /// The agent ends.
    pub fn stop(&mut self, out: &mut Out) {
        for wish in std::mem::take(&mut self.0) {
            let outcome = Outcome::Failed("the agent was stopped".into());
            out.push_back(BusEvent::HistoryRead { command: wish.command, outcome });
        }
    }
}
