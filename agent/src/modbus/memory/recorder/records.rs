//! What follows from records that came: what is told, what was missed meanwhile, and what turns out not to be there.

use gapless_common::planted::{self, Bug};
use gapless_common::quality::{Cause, Quality};
use gapless_common::reading::Acquired;
use gapless_common::time::{Slot, Timestamp};

use super::super::holes::Hole;
use super::super::progress::Task;
use super::super::reader;
use super::super::record::Record;
use super::{Last, Recorder};
use crate::clock::Now;
use crate::event::BusEvent;

/// Slots around a step of the meter's clock that are looked at again.
const STEP_SLOTS: i64 = 8;

impl Recorder {
    pub(super) fn took_records(&mut self, task: Task, first: i64, records: &[Option<Record>], now: Now) {
        let progress = self.in_hand.of(task);
        progress.came();
        if records.iter().any(Option::is_some) {
            progress.passed_over = 0;
        }
        self.emptied_ms = None;
        self.note_cleared(now);
        if let Some((drift_ms, wall)) = self.reader.drift() {
            self.drift.note(drift_ms, wall);
        }
        match (task, self.in_hand.of(task).is_scan) {
            (Task::Newest, _) => self.take_newest(first, records.first().and_then(Option::as_ref), now),
            (_, true) => self.take_scanned(task, first, records),
            (Task::Wish, false) => self.take_wish(first, records),
            (Task::Hole, false) => self.take_hole(first, records, now),
        }
    }

    fn take_newest(&mut self, no: i64, record: Option<&Record>, now: Now) {
        let was_asked = std::mem::take(&mut self.is_asked);
        self.caught_up_ms = self.asked_ms;
        if let Some(record) = record {
            let slot = self.settings.grid.slot_at(record.at);
            let is_new = self.last.is_none_or(|last| last.at != record.at);
            if self.reader.drift().is_none() && now.wall_set {
                // A meter that does not say its time shows at least when it is ahead.
                let interval = self.settings.grid.interval.as_ms();
                let written = reader::written_at(self.settings.load.label, record.at, interval);
                self.drift.note(written.since_ms(now.wall).max(0), now.wall);
            }
            let no = (self.reader.generation(), no);
            if is_new {
                self.follow(slot, record.at, no);
            }
            self.last = Some(Last { slot, at: record.at, no });
            if is_new || was_asked {
                self.tell(record);
            }
        }
        self.due_ms = self.cadence.next_due_ms(self.newest_slot(), now);
        self.end_task(Task::Newest);
    }

    /// What lies between the newest record that we had and the one that came is a hole, if it is anything.
    fn follow(&mut self, slot: Slot, at: Timestamp, no: (u64, i64)) {
        let (grid, until_no) = (self.settings.grid, Some(no));
        let hole = |cursor: Slot, seek: Slot, after: Timestamp| Hole {
            id: 0,
            cursor: cursor.min(slot),
            end: slot,
            seek,
            after,
            until: at,
            until_no,
            is_mixed: false,
        };
        let hole = match self.last {
            None => {
                let begin = at.plus_ms(-self.settings.first_ms);
                hole(grid.first_from(begin), grid.first_from(begin), begin.plus_ms(-1))
            }
            Some(last) if last.at < at => {
                // After an outage of power, or where the clock was set, a slot has more than one record.
                let between = (slot.0 - last.slot.0 - 1).max(0);
                let has_more = last.no.0 == no.0 && no.1 - last.no.1 - 1 > between;
                let seek = if has_more || last.no.0 != no.0 { last.slot } else { last.slot.plus(1) };
                let hole = hole(last.slot.plus(1), seek, last.at);
                if hole.cursor >= hole.end && !has_more {
                    return;
                }
                return self.holes.add(hole);
            }
            Some(last) => {
                tracing::warn!(device = %self.settings.name, "the meter's clock was set back, or its memory cleared");
                let (cursor, end) = (slot.plus(-STEP_SLOTS), last.slot.plus(STEP_SLOTS));
                Hole {
                    cursor,
                    end,
                    is_mixed: true,
                    until_no: None,
                    ..hole(cursor, cursor, Timestamp(i64::MIN))
                }
            }
        };
        if hole.cursor < hole.end {
            self.holes.add(hole);
        }
    }

    fn take_hole(&mut self, first: i64, records: &[Option<Record>], now: Now) {
        let Some(mut hole) = self.holes.front().copied() else { return self.end_task(Task::Hole) };
        let generation = self.reader.generation();
        let mut no = first;
        for record in records {
            if let Some(record) = record {
                let slot = self.settings.grid.slot_at(record.at);
                let until = slot.min(hole.end);
                if until > hole.cursor {
                    if !self.in_hand.of(Task::Hole).is_gap(no, record.at) {
                        // Another master may have selected a later record: it is read once more.
                        break;
                    }
                    let is_oldest = self.reader.extent().is_some_and(|extent| no == extent.oldest)
                        || self.reader.blank() == Some(no - 1);
                    let cause = if is_oldest { self.cause_of_old(until) } else { Cause::NotRecorded };
                    self.end_hole(Hole { end: until, ..hole }, cause, now);
                    hole.cursor = until;
                }
                if record.at >= hole.until || slot > hole.end {
                    self.holes.pop();
                    return self.end_task(Task::Hole);
                }
                if record.at > hole.after {
                    self.tell(record);
                    hole.told(slot, record.at);
                    let progress = self.in_hand.of(Task::Hole);
                    (progress.spoilt, progress.strikes) = (None, 0);
                }
            }
            no += 1;
        }
        self.holes.set_front(hole);
        if hole.is_over((generation, no)) {
            self.holes.pop();
            return self.end_task(Task::Hole);
        }
        self.in_hand.of(Task::Hole).next = Some((generation, no));
    }

    fn take_wish(&mut self, first: i64, records: &[Option<Record>]) {
        let Some((mut cursor, end)) = self.wishes.front().map(|wish| (wish.cursor, wish.end)) else {
            return self.end_task(Task::Wish);
        };
        let grid = self.settings.grid;
        let (mut no, mut found) = (first, 0);
        for record in records {
            if let Some(record) = record {
                let slot = grid.slot_at(record.at);
                let progress = self.in_hand.of(Task::Wish);
                if slot > cursor && cursor < end && !progress.is_gap(no, record.at) {
                    // As in a hole.
                    break;
                }
                let is_second =
                    progress.last.is_some_and(|last| last < record.at && grid.slot_at(last) == slot);
                if slot < end && (slot >= cursor || is_second) {
                    (progress.last, progress.strikes) = (Some(record.at), 0);
                    self.tell(record);
                    found += 1;
                }
                cursor = cursor.max(slot.plus(1)).min(end);
            }
            no += 1;
        }
        self.in_hand.of(Task::Wish).next = Some((self.reader.generation(), no));
        if let Some(wish) = self.wishes.front_mut() {
            wish.advance(found, cursor);
        }
        if cursor >= end {
            self.end_wish();
            self.end_task(Task::Wish);
        }
    }

    /// While all of the memory is looked through, whatever of the task is found counts.
    fn take_scanned(&mut self, task: Task, first: i64, records: &[Option<Record>]) {
        let wanted = match task {
            Task::Wish => self.wishes.front().map(|wish| (wish.cursor, wish.end)),
            _ => self.holes.front().map(|hole| (hole.cursor, hole.end)),
        };
        let Some((from, to)) = wanted else { return self.end_task(task) };
        for record in records.iter().flatten() {
            let slot = self.settings.grid.slot_at(record.at);
            if (from..to).contains(&slot) {
                self.tell(record);
                self.in_hand.of(task).came.insert(slot);
                if let (Task::Wish, Some(wish)) = (task, self.wishes.front_mut()) {
                    wish.advance(1, from);
                }
            }
        }
        let oldest = self.reader.extent().map_or(first, |extent| extent.oldest);
        let behind = first.max(oldest) + i64::try_from(records.len()).unwrap_or(1);
        self.in_hand.of(task).next = Some((self.reader.generation(), behind));
    }

    fn tell(&mut self, record: &Record) {
        let slot = self.settings.grid.slot_at(record.at);
        self.witness = Some(self.witness.map_or(slot, |seen| seen.min(slot)));
        self.account.received(slot, &mut self.standing.out);
        let mut samples = record.samples.clone();
        if self.drift.is_uncertain(record.at) {
            let good = samples.iter_mut().filter(|sample| sample.quality == Quality::Good);
            good.for_each(|sample| sample.quality = Quality::UncertainClock);
        }
        let is_kept_back = planted::has(Bug::ProfileNotTold) && slot.0 % 7 == 0;
        if !samples.is_empty() && !is_kept_back {
            let (device, acquired) = (self.settings.device, Acquired::Recorded(slot));
            self.standing.out.push_back(BusEvent::Answered { device, acquired, at: record.at, samples });
        }
    }
}
