//! All tables of one logger: whom to ask for what, and what follows from the answer or from none.
//!
//! Contract: that of [`Collect`]; the path and query of a GET are asked for, and its body is the answer.
//!
//! # Order
//! What is fresh goes first: regular requests in the order in which they are due, then windows that the collector asked
//! for, then holes, the table whose turn it is. A hole is asked for without being told by anybody: after an outage, at
//! the start, and wherever numbers or times of records say that there is one.
//!
//! # Failures
//! Where a logger cannot be reached, or says nothing, all its tables wait, and each slot that ends meanwhile is missed for
//! that reason; its record fills it later. An answer that cannot be used is its table's failure alone.
//!
//! # Clocks
//! Records carry the logger's own time, so the gateway's clock decides nothing but when to ask, and which slots are
//! missed: none, until it is set. Steps of it settle nothing; a step back lets slots be due again.

use gapless_common::id::{BusId, DeviceIndex};
use gapless_common::quality::Cause;
use gapless_common::time::Timestamp;

use super::csijson;
use super::table::{Settings, Table, What};
use crate::clock::Now;
use crate::event::{BusEvent, DeviceCondition};
use crate::records::collect::Collect;
use crate::records::standing::{Standing, back_off};

pub use crate::records::collect::Step;

/// Why no answer came that can be read; with the words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No connection.
    NotConnected(String),
    /// It did not answer in time.
    NoAnswer(String),
    /// It refused, or what came is no answer.
    Unusable(String),
    /// The answer was longer than what is read.
    TooLong,
}

/// A table's own trouble.
#[derive(Debug, Clone, Copy, Default)]
struct Trouble {
    cause: Option<Cause>,
    attempts: u32,
}

/// One logger. See the module.
#[derive(Debug)]
pub struct Collector {
    tables: Vec<Table>,
    /// In the same order.
    troubles: Vec<Trouble>,
    standing: Standing,
    in_hand: Option<(usize, What)>,
    /// The table whose past was asked for last.
    turn: usize,
}

impl Collector {
    /// Slots from `begun` on are to be accounted for, once that look at the clocks is an instant.
    #[must_use]
    pub fn new(bus: BusId, tables: Vec<Settings>, begun: Now, now: Now) -> Self {
        let standing = Standing::new(bus, tables.iter().map(|table| (table.device, table.paused)), now);
        let tables: Vec<Table> = tables.into_iter().map(|table| Table::new(table, begun, now)).collect();
        Self { troubles: vec![Trouble::default(); tables.len()], tables, standing, in_hand: None, turn: 0 }
    }

    /// What to do now.
    pub fn next(&mut self, now: Now) -> Step<String> {
        self.observe(now);
        self.standing.tell_totals(now, false);
        let Some((index, what)) = self.pick(now) else { return self.wait(now) };
        self.in_hand = Some((index, what));
        if let What::Window(_) | What::History(_) = what {
            self.turn = index;
        }
        self.standing.totals.requests += 1;
        Step::Ask(self.tables[index].request(what, now))
    }

    /// An answer came; it is not known yet whether it is one.
    pub fn answered(&mut self, body: &[u8], now: Now) {
        match csijson::read(body) {
            Err(csijson::AnswerError::TooLong(_)) => self.failed(&Failure::TooLong, now),
            Err(error) => self.failed(&Failure::Unusable(crate::text::chain(&error)), now),
            Ok(answer) => {
                let Some((index, what)) = self.in_hand.take() else { return };
                self.standing.present();
                self.standing.totals.answered += 1;
                self.troubles[index] = Trouble::default();
                self.tables[index].answered(what, &answer, body.len(), now, &mut self.standing.out);
                self.standing.tell_device(index, DeviceCondition::Online, None);
                self.observe(now);
            }
        }
    }

    /// None came.
    pub fn failed(&mut self, failure: &Failure, now: Now) {
        let Some((index, what)) = self.in_hand.take() else { return };
        match failure {
            Failure::NotConnected(why) => self.missing(index, what, Cause::NotConnected, why, now),
            Failure::NoAnswer(why) => {
                self.standing.totals.timed_out += 1;
                self.missing(index, what, Cause::NoAnswer, why, now);
            }
            Failure::TooLong if self.tables[index].can_ask_for_less(what) => {
                self.standing.present();
                self.standing.totals.answered += 1;
                self.tables[index].too_long(what);
            }
            Failure::TooLong => {
                self.unusable(index, what, "one record alone is longer than what is read", now);
            }
            Failure::Unusable(why) => self.unusable(index, what, why, now),
        }
        self.observe(now);
    }

    /// Asks for a table's newest record as soon as the logger is free.
    pub fn poll_now(&mut self, device: DeviceIndex) {
        if let Some(table) = self.tables.iter_mut().find(|table| table.settings.device == device) {
            table.is_asked = true;
        }
    }

    /// The collector wants these instants (half open) from the logger's memory.
    pub fn read_history(&mut self, command: u64, device: DeviceIndex, range: (Timestamp, Timestamp)) {
        let table = self.tables.iter_mut().find(|table| table.settings.device == device);
        let out = &mut self.standing.out;
        let is_taken = table.is_some_and(|table| table.read_history(command, range, out));
        if !is_taken {
            self.standing.refuse_history(command);
        }
    }

    /// A table is read no more, or again, as a command of the collector wants it.
    pub fn pause(&mut self, (command, device): (u64, DeviceIndex), paused: bool, now: Now) {
        self.observe(now);
        let Some(index) = self.tables.iter().position(|table| table.settings.device == device) else {
            return;
        };
        self.tables[index].pause(paused, &mut self.standing.out);
        self.standing.pause(command, index, paused);
    }

    /// Accounts for every slot up to now.
    pub fn stop(&mut self, now: Now) {
        self.observe(now);
        for (table, trouble) in self.tables.iter_mut().zip(&self.troubles) {
            table.stop(self.standing.absent().or(trouble.cause), now, &mut self.standing.out);
        }
        self.standing.tell_totals(now, true);
    }

    /// The next event to pass on.
    pub fn drain(&mut self) -> Option<BusEvent> {
        self.standing.out.pop_front()
    }

    fn observe(&mut self, now: Now) {
        let is_back = self.standing.observe(now);
        for (table, trouble) in self.tables.iter_mut().zip(&self.troubles) {
            if is_back {
                table.account.step_back(now, &mut self.standing.out);
            }
            table.settle(self.standing.absent().or(trouble.cause), now, &mut self.standing.out);
        }
    }

    fn pick(&self, now: Now) -> Option<(usize, What)> {
        if !self.standing.is_ready(now) {
            return None;
        }
        let may = |table: &Table| table.retry_at_ms <= now.boot_ms;
        let all = || self.tables.iter().enumerate();
        if let Some((index, table)) = all().find(|(_, table)| table.is_asked && may(table)) {
            return Some((index, table.regular(now)));
        }
        let polled = || all().filter(|(_, table)| !table.settings.paused && may(table));
        let due =
            polled().filter(|(_, table)| table.due_ms <= now.boot_ms).min_by_key(|(_, table)| table.due_ms);
        if let Some((index, table)) = due {
            return Some((index, table.regular(now)));
        }
        let ready = |table: &Table| table.window_at_ms <= now.boot_ms && may(table);
        let past =
            all().filter(|(_, table)| ready(table)).filter_map(|(index, table)| Some((index, table.past()?)));
        // Those behind the one that had its turn come first.
        past.min_by_key(|(index, what)| (!matches!(what, What::History(_)), *index <= self.turn, *index))
    }

    fn wait(&self, now: Now) -> Step<String> {
        let all = self.tables.iter().map(|table| {
            let past = table.past().map_or(u64::MAX, |_| table.window_at_ms);
            let due = if table.settings.paused { u64::MAX } else { table.due_ms };
            past.min(due).max(table.retry_at_ms)
        });
        Step::Wait { until_boot_ms: self.standing.wait(all.min().unwrap_or(u64::MAX), now) }
    }

    /// The logger is not there.
    fn missing(&mut self, index: usize, what: What, cause: Cause, why: &str, now: Now) {
        self.tables[index].failed(what, why, &mut self.standing.out);
        self.tables[index].is_asked = false;
        self.standing.missing(cause, why, now);
    }

    fn unusable(&mut self, index: usize, what: What, why: &str, now: Now) {
        self.standing.present();
        self.standing.totals.corrupt += 1;
        let trouble = &mut self.troubles[index];
        if trouble.cause.is_none() {
            tracing::warn!(table = %self.tables[index].settings.table, "an answer cannot be used: {why}");
        }
        trouble.cause = Some(Cause::Corrupt);
        let wait = back_off(trouble.attempts);
        trouble.attempts = trouble.attempts.saturating_add(1);
        let table = &mut self.tables[index];
        table.retry_at_ms = now.boot_ms.saturating_add(wait);
        table.is_asked = false;
        table.failed(what, why, &mut self.standing.out);
        table.unreadable(what, now, &mut self.standing.out);
        self.standing.tell_device(index, DeviceCondition::Failing, Some(Cause::Corrupt));
    }
}

impl Collect for Collector {
    type Ask = String;
    type Answer = Result<Vec<u8>, Failure>;

    fn next(&mut self, now: Now) -> Step<String> {
        Self::next(self, now)
    }

    fn took(&mut self, answer: Self::Answer, now: Now) {
        match answer {
            Ok(body) => self.answered(&body, now),
            Err(failure) => self.failed(&failure, now),
        }
    }

    fn poll_now(&mut self, device: DeviceIndex) {
        Self::poll_now(self, device);
    }

    fn read_history(&mut self, command: u64, device: DeviceIndex, range: (Timestamp, Timestamp)) {
        Self::read_history(self, command, device, range);
    }

    fn pause(&mut self, whose: (u64, DeviceIndex), paused: bool, now: Now) {
        Self::pause(self, whose, paused, now);
    }

    fn drain(&mut self) -> Option<BusEvent> {
        Self::drain(self)
    }

    fn stop(&mut self, now: Now) {
        Self::stop(self, now);
    }
}

#[cfg(test)]
mod tests;
