//! One source: asks it for what commands want, one call at a time, and hands what it says to the writer, whenever a worker of
//! `pool` looks after it. What a window is, how an answer is read, and what it means are elsewhere.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gapless_common::catalog::Catalog;
use gapless_common::message::Command;
use gapless_common::time::Timestamp;
use rusqlite::Connection;

use super::describe::Whose;
use super::differ::Differ;
use super::failure::Failure;
use super::fetch::Pace;
use super::life::{Known, Life, Polled};
use super::relist::Lister;
use super::standing::{UNREAD, WITHDRAWN_MS, unsaid};
use super::voice::Voice;
use crate::ingest::{Inbound, Orders};
use crate::jobs::budget::Urgency;
use crate::store::sources::{self, Scan};
use crate::{clock, obstacle};

/// A source leaves its worker to others after so long: once what it does by then is done.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// First and longest pause after a source could not be reached for what it has at all.
pub(super) const RETRY_FIRST_MS: i64 = 5_000;
pub(super) const RETRY_MAX_MS: i64 = 300_000;
/// How often what has no call left asks whether there is one: it is the more urgent the longer it waits.
pub(super) const SPENT_MS: i64 = 30_000;
/// A device's first call may wait so long; after that it is as what is stale.
const FIRST_MS: i64 = 300_000;
/// How often it is seen whether a device is asked again that was stopped before anything of it was known.
const STOPPED_MS: i64 = 5_000;

/// See the module's text.
pub(super) struct Shell {
    pub(super) pace: Pace,
    pub(super) orders: Orders,
    pub(super) devices: Vec<Polled>,
    /// Sources of one account have one worker at a time.
    pub(super) account: String,
    /// Reads the list of the source, where it has one.
    pub(super) lister: Option<Lister>,
    /// Asks what changed, where the source can be asked.
    pub(super) differ: Option<Differ>,
}

/// Something that there is to do.
struct Todo<'a> {
    urgency: Urgency,
    /// Of which device.
    at: usize,
    /// What is wanted; the first call of all where nothing is.
    command: Option<&'a Command>,
}

/// How urgent a device's first call is. Somebody may wait to see that what was set up works: no spare work, from the first.
fn first_call(waited_ms: i64) -> Urgency {
    match Urgency::waiting(waited_ms, FIRST_MS) {
        Urgency::Spare => Urgency::Score(0.0),
        stale => stale,
    }
}

/// Hands messages to the writer.
pub(super) fn hand_in(orders: &Orders, messages: Vec<Inbound>) -> Result<(), Failure> {
    let all = messages.into_iter().all(|message| orders.hand_in(message));
    if all { Ok(()) } else { Err(Failure::Ending) }
}

impl Shell {
    /// Of a source of this account with these devices.
    pub(super) fn new(pace: Pace, orders: Orders, account: String, devices: Vec<Polled>) -> Self {
        Self { pace, orders, devices, account, lister: None, differ: None }
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
            let open = scan.open(voice.path()).iter().filter(|open| polled.life.is_to_do(&open.command));
            all.extend(open.map(|open| {
                let urgency = polled.urgency_of(&open.command, open.urgency, now);
                Todo { urgency, at, command: Some(&open.command) }
            }));
        }
        all
    }

    /// Does what there is to do, the most urgent first. Returns whether it was broken off, so that others have a turn, and there is
    /// more.
    pub(super) fn look(&mut self, connection: &Connection, scan: &Scan) -> Result<bool, Failure> {
        let began = Instant::now();
        self.load_listed(connection)?;
        self.reconcile();
        let now = clock::now();
        for at in 0..self.devices.len() {
            self.await_turn(at, now);
            let born = self.be_there(at, scan);
            self.or_note(at, born)?;
        }
        let mut all = self.to_do(scan, now);
        all.sort_by(|a, b| b.urgency.rank().total_cmp(&a.urgency.rank()).then(a.at.cmp(&b.at)));
        for Todo { at, command, .. } in all {
            if began.elapsed() > LOOK_MAX {
                return self.relist(connection).map(|()| true);
            }
            let done = match command {
                Some(command) => self.carry_out(connection, at, command),
                // Another one's answer may have put it off.
                None if !self.is_to_begin(at, clock::now()) => Ok(()),
                None => self.begin(connection, at),
            };
            self.or_note(at, done)?;
        }
        self.relist(connection).map(|()| false)
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
        let Some(polled) = self.devices.get_mut(at) else { return Ok(()) };
        let Some(path) = polled.life.voice().map(|voice| voice.path().clone()) else { return Ok(()) };
        if let Life::Known(known) = &mut polled.life {
            let open = scan.open(&path);
            known.answered.retain(|id| open.iter().any(|open| open.command.id == *id));
        }
        if scan.is_there(&path) {
            return Ok(());
        }
        let birth = polled.life.voice().map(|voice| voice.birth(clock::now())).transpose()?;
        self.hand_in(birth.into_iter().collect())
    }

    /// A device that is to be asked for the first time waits for its turn from then on.
    fn await_turn(&mut self, at: usize, now: Timestamp) {
        if self.is_to_begin(at, now)
            && let Some(polled) = self.devices.get_mut(at)
        {
            polled.waits_since.get_or_insert(now);
        }
    }

    fn is_to_begin(&self, at: usize, now: Timestamp) -> bool {
        self.devices.get(at).is_some_and(|polled| polled.life.is_new_and(|again| self.is_due(again, now)))
    }

    /// Whether `again` has come, or is so far off that the clock was set back since it was said.
    fn is_due(&self, again: Timestamp, now: Timestamp) -> bool {
        again <= now || again.since_ms(now) > WITHDRAWN_MS.max(self.pace.unreachable_every_ms)
    }

    /// Says what is wrong with a device. Who waits for a call only waits.
    fn note(&self, at: usize, error: &Failure) {
        let (source, device) =
            (&self.pace.name, self.devices.get(at).map(|polled| polled.device.id.as_str()));
        match error.until() {
            Some(_) => tracing::debug!(source, device, %error, "it waits"),
            None => tracing::warn!(source, device, %error, "tried again"),
        }
    }

    /// A device is asked for the first time in this process.
    fn begin(&mut self, connection: &Connection, at: usize) -> Result<(), Failure> {
        let now = clock::now();
        let Some(polled) = self.devices.get(at) else { return Ok(()) };
        let (mut device, path, mut begin) = (polled.device.clone(), polled.path.clone(), polled.begin);
        let known = sources::known(connection, &path, device.id.as_str())?.unwrap_or_default();
        if known.is_stopped && known.proven_until.is_none() {
            // It would have to be asked how far back there is anything.
            if let Some(Polled { life: Life::New { again, .. }, .. }) = self.devices.get_mut(at) {
                *again = now.plus_ms(STOPPED_MS);
            }
            return Ok(());
        }
        // One that was never named is no other one.
        let consent = |of: &BTreeMap<String, String>| of.get("consent").cloned().unwrap_or_default();
        let is_same = consent(&known.attributes) == consent(&device.attributes);
        let is_withdrawn = is_same && obstacle::Kind::NotAuthorised.of(&known.attributes).is_some();
        let is_removed = polled.listed.is_some() && obstacle::Kind::Removed.of(&known.attributes).is_some();
        let is_over = is_withdrawn || is_removed;
        let whose = Whose::kept(&known.attributes);
        let gaps = sources::missing(connection, &path, device.id.as_str())?;
        if let Some(polled) = self.devices.get_mut(at) {
            polled.fetch.missing(gaps);
        }
        begin.previous = known.previous;
        let is_away = is_same && obstacle::Kind::Unreachable.of(&known.attributes).is_some();
        let unread = known.attributes.get(UNREAD).and_then(|text| text.parse().ok());
        if is_over {
            device.paused = true;
            device.attributes = known.attributes;
        } else if is_away {
            // It is not back because the collector is.
            let keys = unsaid(&[obstacle::Kind::Unreachable]).into_keys();
            device
                .attributes
                .extend(keys.filter_map(|key| known.attributes.get(&key).cloned().map(|text| (key, text))));
        }
        let first = match known.proven_until {
            _ if is_over => Ok((now, now)),
            // Where consent was given anew nothing was due in between.
            Some(until) => Ok((until, if is_same { until } else { now })),
            None => self.oldest(at, now).map(|oldest| (oldest, oldest)),
        };
        let (next, since) = match first {
            Ok(first) => first,
            Err(failure) => {
                // The call may have taken long.
                self.put_off(at, &failure, clock::now());
                return Err(failure);
            }
        };
        let overlap_ms = self.pace.overlap_ms;
        let mut voice = Voice::new(path, begin, Catalog { devices: vec![device] }, overlap_ms);
        let opening = voice.opening(begin, since, now)?;
        self.hand_in(opening)?;
        let life = match (is_withdrawn, is_removed) {
            (true, _) => Life::Withdrawn(Box::new(voice), whose),
            (false, true) => Life::Removed(Box::new(voice)),
            (false, false) => {
                let mut known = Known::new(voice, next, unread);
                known.away_until = is_away.then_some(now);
                Life::Known(Box::new(known))
            }
        };
        if let Some(polled) = self.devices.get_mut(at) {
            polled.life = life;
        }
        Ok(())
    }

    fn oldest(&mut self, at: usize, now: Timestamp) -> Result<Timestamp, Failure> {
        let Some(polled) = self.devices.get_mut(at) else { return Ok(now) };
        let waits_since = polled.waits_since.map_or(now, |since| since.min(now));
        polled.waits_since = Some(waits_since);
        polled.fetch.set_urgency(first_call(now.since_ms(waits_since)));
        let oldest = polled.fetch.oldest(now);
        // Only for want of a call it has waited: one that is made and fails begins anew, or it would take those of all that works.
        if !oldest.as_ref().is_err_and(|failure| failure.until().is_some()) {
            polled.waits_since = None;
        }
        oldest
    }

    /// When a device is asked again that nothing is known of yet.
    fn put_off(&mut self, at: usize, failure: &Failure, now: Timestamp) {
        let of_all = match failure {
            Failure::Hold(until) => Some(*until),
            // Who is not known is not for any of them.
            Failure::Withdrawn { whose: Whose::Account, .. } => Some(now.plus_ms(WITHDRAWN_MS)),
            _ => None,
        };
        if let Some(until) = of_all {
            for polled in &mut self.devices {
                if let Life::New { again, .. } = &mut polled.life {
                    *again = until.max(*again);
                }
            }
            return;
        }
        let unreachable_every_ms = self.pace.unreachable_every_ms;
        let Some(Polled { life: Life::New { again, failures }, .. }) = self.devices.get_mut(at) else {
            return;
        };
        if let Failure::Spent(until) | Failure::Rests(until) = failure {
            *again = now.plus_ms(SPENT_MS).min(*until);
            return;
        }
        let pause = RETRY_FIRST_MS.saturating_mul(1 << (*failures).min(10)).min(RETRY_MAX_MS);
        // One that nothing is known of yet is not known to anybody: seldom, but again.
        *again = now.plus_ms(match failure {
            Failure::Withdrawn { .. } => WITHDRAWN_MS,
            Failure::Unreachable(_) => unreachable_every_ms,
            _ => pause,
        });
        *failures += 1;
    }

    pub(super) fn hand_in(&self, messages: Vec<Inbound>) -> Result<(), Failure> {
        hand_in(&self.orders, messages)
    }
}
