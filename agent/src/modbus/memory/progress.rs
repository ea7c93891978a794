//! How far what is to be read has come: the newest record, the collector's command in front, and the hole in front, each by
//! itself, so that one never goes on where another one broke off.

use std::collections::BTreeSet;

use gapless_common::quality::Cause;
use gapless_common::time::{Slot, Timestamp};

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// The newest record.
    Newest,
    /// What the collector wants.
    Wish,
    /// What was missed.
    Hole,
}

/// How far one of them has come.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Which of its kind it is.
    id: Option<u64>,
    /// The next record, as far as numbers mean what they meant.
    pub next: Option<(u64, i64)>,
    /// So often in a row, without a record between, the memory was another than it was taken for.
    pub strikes: u8,
    /// All of the memory is looked through.
    pub is_scan: bool,
    /// Slots of it that came while it is.
    pub came: BTreeSet<Slot>,
    /// Why a record before the next one cannot be read.
    pub spoilt: Option<Cause>,
    /// The same in words, of any of its records.
    pub why: Option<String>,
    /// So many in a row could not be had.
    pub passed_over: u8,
    /// The record behind a gap as it was read once: its number and time.
    gap: Option<(i64, Timestamp)>,
    /// The last record that was told.
    pub last: Option<Timestamp>,
    /// The record that failed last, and how often.
    failing: Option<(i64, u8)>,
}

impl Progress {
    /// One more failure at this record alone, while others could be had; gives how many there were.
    pub fn failed(&mut self, no: i64) -> u8 {
        let before = self.failing.filter(|failing| failing.0 == no).map_or(0, |(_, count)| count);
        let count = before.saturating_add(1);
        self.failing = Some((no, count));
        count
    }

    /// Records came.
    pub const fn came(&mut self) {
        self.failing = None;
    }

    /// Whether the gap before this record is one: it is the second time that the record was found behind it.
    pub fn is_gap(&mut self, no: i64, at: Timestamp) -> bool {
        let known = self.gap.replace((no, at));
        known == self.gap
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct InHand {
    newest: Progress,
    wish: Progress,
    hole: Progress,
}

impl InHand {
    /// How far a task has come.
    pub const fn of(&mut self, task: Task) -> &mut Progress {
        match task {
            Task::Newest => &mut self.newest,
            Task::Wish => &mut self.wish,
            Task::Hole => &mut self.hole,
        }
    }

    /// The task is about the one with this id; whether it is another one than before, of which nothing has been read.
    pub fn begin(&mut self, task: Task, id: u64) -> bool {
        let progress = self.of(task);
        let is_new = progress.id != Some(id);
        if is_new {
            *progress = Progress { id: Some(id), ..Progress::default() };
        }
        is_new
    }

    /// The task is done.
    pub fn end(&mut self, task: Task) {
        *self.of(task) = Progress::default();
    }
}
