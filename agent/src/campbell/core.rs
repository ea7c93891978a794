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

use std::collections::VecDeque;

use gapless_common::id::{BusId, DeviceIndex};
use gapless_common::message::Outcome;
use gapless_common::quality::Cause;
use gapless_common::time::Timestamp;

use super::csijson;
use super::table::{Settings, Table, What};
use crate::clock::Now;
use crate::event::{BusEvent, BusTotals, DeviceCondition, LinkState, METRICS_EVERY_MS};
use crate::records::collect::Collect;

/// Longest wait, so that ended slots are told soon.
const WAIT_MS_MAX: u64 = 1_000;
/// First and longest wait after a failure, in ms.
const RETRY_MS: (u64, u64) = (500, 10_000);
/// A step of the wall clock back that counts, in ms.
const STEP_MS_MIN: i64 = 250;

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
    told: Option<(DeviceCondition, Option<Cause>)>,
}

/// One logger. See the module.
#[derive(Debug)]
pub struct Collector {
    bus: BusId,
    tables: Vec<Table>,
    /// In the same order.
    troubles: Vec<Trouble>,
    /// Why the logger is not there; `None` while it is.
    absent: Option<Cause>,
    attempts: u32,
    retry_at_ms: u64,
    in_hand: Option<(usize, What)>,
    /// The table whose past was asked for last.
    turn: usize,
    offset: Option<i64>,
    link: Option<LinkState>,
    totals: BusTotals,
    told: (BusTotals, u64),
    out: VecDeque<BusEvent>,
}

impl Collector {
    /// Slots from `begun` on are to be accounted for, once that look at the clocks is an instant.
    #[must_use]
    pub fn new(bus: BusId, tables: Vec<Settings>, begun: Now, now: Now) -> Self {
        let tables: Vec<Table> = tables.into_iter().map(|table| Table::new(table, begun, now)).collect();
        let mut new = Self {
            bus,
            troubles: vec![Trouble::default(); tables.len()],
            tables,
            absent: Some(Cause::NotConnected),
            attempts: 0,
            retry_at_ms: now.boot_ms,
            in_hand: None,
            turn: 0,
            offset: None,
            link: None,
            totals: BusTotals::default(),
            told: (BusTotals::default(), 0),
            out: VecDeque::new(),
        };
        for index in 0..new.tables.len() {
            if new.tables[index].settings.paused {
                new.tell_device(index, DeviceCondition::Paused, None);
            }
        }
        new
    }

    /// What to do now.
    pub fn next(&mut self, now: Now) -> Step<String> {
        self.observe(now);
        self.tell_totals(now, false);
        let Some((index, what)) = self.pick(now) else { return self.wait(now) };
        self.in_hand = Some((index, what));
        if let What::Window(_) | What::History(_) = what {
            self.turn = index;
        }
        self.totals.requests += 1;
        Step::Ask(self.tables[index].request(what))
    }

    /// An answer came; it is not known yet whether it is one.
    pub fn answered(&mut self, body: &[u8], now: Now) {
        match csijson::read(body) {
            Err(csijson::AnswerError::TooLong(_)) => self.failed(&Failure::TooLong, now),
            Err(error) => self.failed(&Failure::Unusable(crate::text::chain(&error)), now),
            Ok(answer) => {
                let Some((index, what)) = self.in_hand.take() else { return };
                self.present();
                self.totals.answered += 1;
                let told = self.troubles[index].told;
                self.troubles[index] = Trouble { told, ..Trouble::default() };
                self.tables[index].answered(what, &answer, body.len(), now, &mut self.out);
                self.tell_device(index, DeviceCondition::Online, None);
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
                self.totals.timed_out += 1;
                self.missing(index, what, Cause::NoAnswer, why, now);
            }
            Failure::TooLong if self.tables[index].can_ask_for_less(what) => {
                self.present();
                self.totals.answered += 1;
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
    pub fn read_history(&mut self, command: u64, device: DeviceIndex, (from, to): (Timestamp, Timestamp)) {
        let table = self.tables.iter_mut().find(|table| table.settings.device == device);
        let is_taken = table.is_some_and(|table| {
            let is_taken = table.read_history(command, from, to);
            table.end_history(&mut self.out);
            is_taken
        });
        if !is_taken {
            let outcome = Outcome::Failed("too many of the collector's questions wait already".into());
            self.out.push_back(BusEvent::HistoryRead { command, outcome });
        }
    }

    /// Accounts for every slot up to now.
    pub fn stop(&mut self, now: Now) {
        self.observe(now);
        for (table, trouble) in self.tables.iter_mut().zip(&self.troubles) {
            table.stop(self.absent.or(trouble.cause), now, &mut self.out);
        }
        self.tell_totals(now, true);
    }

    /// The next event to pass on.
    pub fn drain(&mut self) -> Option<BusEvent> {
        self.out.pop_front()
    }

    fn observe(&mut self, now: Now) {
        let offset =
            now.wall_set.then(|| now.wall.0.saturating_sub(i64::try_from(now.boot_ms).unwrap_or(i64::MAX)));
        let is_back =
            self.offset.zip(offset).is_some_and(|(old, new)| old.saturating_sub(new) >= STEP_MS_MIN);
        self.offset = offset;
        for (table, trouble) in self.tables.iter_mut().zip(&self.troubles) {
            if is_back {
                table.account.step_back(now, &mut self.out);
            }
            table.settle(self.absent.or(trouble.cause), now, &mut self.out);
        }
    }

    fn pick(&self, now: Now) -> Option<(usize, What)> {
        if self.retry_at_ms > now.boot_ms {
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
        let next = all.min().unwrap_or(u64::MAX).max(self.retry_at_ms);
        let until_boot_ms = next.clamp(now.boot_ms + 1, now.boot_ms.saturating_add(WAIT_MS_MAX));
        Step::Wait { until_boot_ms }
    }

    /// The logger is there.
    fn present(&mut self) {
        (self.absent, self.attempts) = (None, 0);
        self.tell_link(LinkState::Open);
    }

    /// The logger is not there.
    fn missing(&mut self, index: usize, what: What, cause: Cause, why: &str, now: Now) {
        self.absent = Some(cause);
        self.retry_at_ms = now.boot_ms.saturating_add(back_off(self.attempts));
        self.attempts = self.attempts.saturating_add(1);
        self.tables[index].failed(what, why, &mut self.out);
        self.tables[index].is_asked = false;
        self.tell_link(LinkState::Absent(why.into()));
        for index in 0..self.tables.len() {
            self.tell_device(index, DeviceCondition::Failing, Some(cause));
        }
    }

    fn unusable(&mut self, index: usize, what: What, why: &str, now: Now) {
        self.present();
        self.totals.corrupt += 1;
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
        table.failed(what, why, &mut self.out);
        table.unreadable(what, now, &mut self.out);
        self.tell_device(index, DeviceCondition::Failing, Some(Cause::Corrupt));
    }

    fn tell_link(&mut self, link: LinkState) {
        if self.link.as_ref() != Some(&link) {
            self.link = Some(link.clone());
            self.out.push_back(BusEvent::Bus { bus: self.bus.clone(), link });
        }
    }

    fn tell_device(&mut self, index: usize, condition: DeviceCondition, last_error: Option<Cause>) {
        let table = &self.tables[index];
        let condition = if table.settings.paused { DeviceCondition::Paused } else { condition };
        if self.troubles[index].told != Some((condition, last_error)) {
            self.troubles[index].told = Some((condition, last_error));
            self.out.push_back(BusEvent::Device { device: table.settings.device, condition, last_error });
        }
    }

    fn tell_totals(&mut self, now: Now, last: bool) {
        let is_due = now.boot_ms.saturating_sub(self.told.1) >= METRICS_EVERY_MS;
        if self.totals != self.told.0 && (is_due || last) {
            self.told = (self.totals, now.boot_ms);
            self.out.push_back(BusEvent::Metrics { bus: self.bus.clone(), totals: self.totals });
        }
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

    fn drain(&mut self) -> Option<BusEvent> {
        Self::drain(self)
    }

    fn stop(&mut self, now: Now) {
        Self::stop(self, now);
    }
}

/// How long to wait after so many failures in a row.
fn back_off(attempts: u32) -> u64 {
    (RETRY_MS.0 << attempts.min(16)).min(RETRY_MS.1)
}

#[cfg(test)]
mod tests;
