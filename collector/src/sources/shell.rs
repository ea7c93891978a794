//! One source, and what is done in its turns: a worker of `pool` asks how urgent the most urgent thing is that it
//! [wants](Shell::wants), and has it [look](Shell::look) when no other source wants one more urgently.
//!
//! What is done is elsewhere, as parts of [`Shell`]: `beginning` is a device's first turn, `carry` what a command wants of it (with
//! `differ` where the source says what changed, `news` where it says by itself what is new), `standing` what stands in the way
//! of it, `relist` the source's own list. What comes of it goes to the writer as messages of the device's [`Voice`].
//!
//! [`Voice`]: super::voice::Voice

use std::sync::Arc;
use std::time::{Duration, Instant};

use gapless_common::message::{Command, CommandBody};
use gapless_common::time::Timestamp;
use rusqlite::Connection;

use super::beginning::first_call;
use super::differ::Differ;
use super::failure::{Failure, guarded};
use super::fetch::Pace;
use super::ground::Ground;
use super::life::{Life, Polled, REST};
use super::relist::Lister;
use crate::ingest::Inbound;
use crate::jobs::budget::Urgency;
use crate::store::sources::{self, Scan};

/// A source leaves its worker to others after so long: once the call that it makes by then is answered.
const TURN_MAX: Duration = Duration::from_secs(5);
/// First and longest pause after a source could not be reached for what it has at all.
pub(super) const RETRY_FIRST_MS: i64 = 5_000;
pub(super) const RETRY_MAX_MS: i64 = 300_000;
/// How often what has no call left asks whether there is one: it is the more urgent the longer it waits.
pub(super) const SPENT_MS: i64 = 30_000;
/// See the module's text.
pub(super) struct Shell {
    pub(super) pace: Pace,
    pub(super) ground: Arc<dyn Ground>,
    pub(super) devices: Vec<Polled>,
    /// Sources of one account have one worker at a time.
    pub(super) account: String,
    /// Reads the list of the source, where it has one.
    pub(super) lister: Option<Lister>,
    /// Asks what changed, where the source can be asked.
    pub(super) differ: Option<Differ>,
    /// How long it may have a worker.
    pub(super) turn_max: Duration,
    /// When it leaves the worker that it has to others.
    pub(super) turn_ends: Option<Instant>,
}

/// Something that there is to do.
struct Todo<'a> {
    urgency: Urgency,
    /// Of which device.
    at: usize,
    /// What is wanted; where nothing is, the first call of all, or the rest of a long read.
    command: Option<&'a Command>,
}

/// Hands messages to the writer.
pub(super) fn hand_in(ground: &dyn Ground, messages: Vec<Inbound>) -> Result<(), Failure> {
    let all = messages.into_iter().all(|message| ground.hand_in(message));
    if all { Ok(()) } else { Err(Failure::Ending) }
}

impl Shell {
    /// Of a source of this account with these devices.
    pub(super) fn new(pace: Pace, ground: Arc<dyn Ground>, account: String, devices: Vec<Polled>) -> Self {
        let (lister, differ, turn_ends) = (None, None, None);
        Self { pace, ground, devices, account, lister, differ, turn_max: TURN_MAX, turn_ends }
    }

    /// Now, by the wall clock.
    pub(super) fn now(&self) -> Timestamp {
        self.ground.now()
    }

    /// How urgent the most urgent thing is that there is to do, where there is anything.
    pub(super) fn wants(&self, scan: &Scan, now: Timestamp) -> Option<f64> {
        let is_listed = self.lister.as_ref().is_some_and(|lister| lister.is_due(now));
        let is_away = |polled: &Polled| polled.life.voice().is_some_and(|voice| !scan.is_there(voice.path()));
        let is_born = self.devices.iter().any(is_away).then_some(Urgency::Asked);
        let all = self.to_do(scan, now).into_iter().map(|todo| todo.urgency);
        let all = all.chain(is_born).chain(is_listed.then_some(Urgency::Spare));
        all.map(Urgency::rank).max_by(f64::total_cmp)
    }

    /// What there is to do, in no order.
    fn to_do<'a>(&self, scan: &'a Scan, now: Timestamp) -> Vec<Todo<'a>> {
        let mut all = Vec::new();
        for (at, polled) in self.devices.iter().enumerate() {
            let Some(voice) = polled.life.voice() else {
                if self.is_to_begin(at, now) {
                    let waited_ms = polled.waits_since.map_or(0, |since| now.since_ms(since));
                    all.push(Todo { urgency: first_call(waited_ms), at, command: None });
                }
                continue;
            };
            let mut is_polled = false;
            for open in scan.open(voice.path()).iter().filter(|open| polled.life.is_to_do(&open.command)) {
                is_polled |= matches!(open.command.body, CommandBody::PollNow(_));
                let urgency = polled.urgency_of(&open.command, open.urgency, now);
                all.push(Todo { urgency, at, command: Some(&open.command) });
            }
            if polled.life.goes_on() && !is_polled {
                all.push(Todo { urgency: REST, at, command: None });
            }
        }
        all
    }

    /// Does what there is to do, the most urgent first. Returns whether its turn was over before there was an end of it, so that it
    /// wants another one.
    pub(super) fn look(&mut self, connection: &Connection, scan: &Scan) -> Result<bool, Failure> {
        self.turn_ends = Some(self.ground.instant() + self.turn_max);
        let looked = self.take_turn(connection, scan);
        self.turn_ends = None;
        looked
    }

    fn take_turn(&mut self, connection: &Connection, scan: &Scan) -> Result<bool, Failure> {
        self.load_listed(connection)?;
        self.reconcile();
        let now = self.now();
        for at in 0..self.devices.len() {
            self.await_turn(at, now);
            let born = self.be_there(at, scan);
            self.or_note(at, born)?;
        }
        let mut all = self.to_do(scan, now);
        all.sort_by(|a, b| b.urgency.rank().total_cmp(&a.urgency.rank()).then(a.at.cmp(&b.at)));
        let mut left = all.len();
        for Todo { at, command, .. } in all {
            let done = match command {
                Some(command) => self.carry_out(connection, at, command),
                None if self.known(at).is_some() => self.go_on(connection, at),
                // Another one's answer may have put it off.
                None if !self.is_to_begin(at, self.now()) => Ok(()),
                None => self.begin(connection, at),
            };
            let is_broken_off = matches!(done, Err(Failure::TurnOver));
            left -= 1;
            if !is_broken_off {
                self.or_note(at, done)?;
            }
            if is_broken_off || left > 0 && self.is_turn_over() {
                return self.relist(connection).map(|()| true);
            }
        }
        self.relist(connection).map(|()| false)
    }

    /// Whether others wait for its worker by now.
    pub(super) fn is_turn_over(&self) -> bool {
        self.turn_ends.is_some_and(|end| self.ground.instant() >= end)
    }

    /// The rest of a long read, though the command that it was begun for is no more. A device that was stopped meanwhile is not asked
    /// for it.
    fn go_on(&mut self, connection: &Connection, at: usize) -> Result<(), Failure> {
        let Some(polled) = self.devices.get(at) else { return Ok(()) };
        let is_stopped = sources::known(connection, &polled.path, polled.device.id.as_str())?
            .is_some_and(|device| device.is_stopped);
        let Some((known, fetch)) = self.polled(at) else { return Ok(()) };
        if is_stopped {
            known.reread = None;
            return Ok(());
        }
        fetch.set_urgency(REST);
        let done = guarded(|| self.poll(at, REST)).map(drop);
        let is_broken_off = matches!(done, Err(Failure::TurnOver));
        if let Some(known) = self.known(at).filter(|_| !is_broken_off) {
            // Where it could not be read now, the next poll sees to it.
            known.reread.iter_mut().for_each(|reread| reread.goes_on = false);
        }
        match done {
            Err(refusal @ (Failure::Withdrawn { .. } | Failure::Unreachable(_))) => self.heed(at, &refusal),
            done => done,
        }
    }

    /// One device's trouble is none of the others'.
    fn or_note(&self, at: usize, done: Result<(), Failure>) -> Result<(), Failure> {
        match done {
            Err(failure) if failure.is_of_all() => return Err(failure),
            Err(failure) => self.note(at, &failure),
            Ok(()) => {}
        }
        Ok(())
    }

    /// A device that has begun is there, as far as the writer knows; of commands that are gone nobody needs to know that they were
    /// answered.
    fn be_there(&mut self, at: usize, scan: &Scan) -> Result<(), Failure> {
        let now = self.now();
        let Some(polled) = self.devices.get_mut(at) else { return Ok(()) };
        let Some(path) = polled.life.voice().map(|voice| voice.path().clone()) else { return Ok(()) };
        if let Life::Known(known) = &mut polled.life {
            let open = scan.open(&path);
            known.answered.retain(|id| open.iter().any(|open| open.command.id == *id));
        }
        if scan.is_there(&path) {
            return Ok(());
        }
        let birth = polled.life.voice().map(|voice| voice.birth(now)).transpose()?;
        self.hand_in(birth.into_iter().collect())
    }

    /// Says what is wrong with a device. Who waits for a call only waits.
    pub(super) fn note(&self, at: usize, error: &Failure) {
        let (source, device) =
            (&self.pace.name, self.devices.get(at).map(|polled| polled.device.id.as_str()));
        match error.until() {
            Some(_) => tracing::debug!(source, device, %error, "it waits"),
            None if matches!(error, Failure::Fault(_)) => {
                tracing::error!(source, device, %error, "tried again");
            }
            None => tracing::warn!(source, device, %error, "tried again"),
        }
    }

    pub(super) fn hand_in(&self, messages: Vec<Inbound>) -> Result<(), Failure> {
        hand_in(&*self.ground, messages)
    }
}
