//! What a command wants of a device: what is new, or a stretch again.

use std::sync::Arc;

use gapless_common::message::{Command, CommandBody, Outcome};
use gapless_common::planted::{self, Bug};
use gapless_common::quality::Cause;
use gapless_common::time::Timestamp;
use rusqlite::Connection;

use super::describe::Whose;
use super::differ::MINUTE_MS;
use super::failure::{Failure, guarded};
use super::fetch::Fetch;
use super::life::{Began, BrokenOff, Brought, Known, Life, Polled, Reread};
use super::rows::{Parsed, Row};
use super::shell::Shell;
use super::voice::Window;
use crate::jobs::budget::Urgency;
use crate::store::jobs;

/// A poll that may not live to see another turn is answered with what has come: its read goes on by itself.
const ENDS_SOON_MS: i64 = 30_000;

/// Where a window of at most this length ends that begins at `from`: with a whole minute, where there is one in it. Many sources are
/// asked in those, and what stands after the last one would be in this window and not in its question.
fn window_end(from: Timestamp, window_ms: i64) -> Timestamp {
    let end = from.plus_ms(window_ms);
    let whole = end.plus_ms(-end.0.rem_euclid(MINUTE_MS));
    if whole > from { whole } else { end }
}

/// Those of these rows that are within a window.
fn instants(rows: &[Row], (from, to): (Timestamp, Timestamp)) -> Vec<Timestamp> {
    rows.iter().map(|row| row.at).filter(|at| from <= *at && *at < to).collect()
}

impl Shell {
    /// Does what is wanted of a device, and answers it.
    pub(super) fn carry_out(
        &mut self,
        connection: &Connection,
        at: usize,
        command: &Command,
    ) -> Result<(), Failure> {
        let now = self.now();
        let Some(polled) = self.devices.get(at) else { return Ok(()) };
        let waits_since = polled.waits_since(now);
        let wanted = match &command.body {
            CommandBody::PollNow(_) => jobs::urgency(connection, command.id, now)?,
            _ => Urgency::Spare,
        };
        let urgency = polled.urgency_of(command, wanted, now);
        if let Some(polled) = self.devices.get_mut(at) {
            polled.fetch.set_urgency(urgency);
        }
        let outcome = guarded(|| match &command.body {
            CommandBody::PollNow(_) => self.poll(at, urgency),
            CommandBody::ReadHistory { from, to, .. } => self.history(at, command.id, (*from, *to)),
            _ => Ok(Outcome::Failed("a source has no use for it".into())),
        });
        if let Err(fault @ Failure::Fault(_)) = &outcome {
            self.note(at, fault);
        }
        if let (CommandBody::ReadHistory { .. }, Some(polled)) = (&command.body, self.devices.get_mut(at)) {
            match outcome.as_ref().err().and_then(Failure::until) {
                // Whether this command lives to see it or another one that asks for the same. A window that was served has waited
                // no more: what is left waits from then on.
                Some(_) if polled.waits_since.is_none() => polled.refused(now, now),
                Some(_) => polled.refused(waits_since, now),
                None => polled.waits_since = None,
            }
        }
        if let (CommandBody::PollNow(_), Some(known)) = (&command.body, self.known(at)) {
            known.note_try(wanted, &outcome);
        }
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(Failure::TurnOver)
                if matches!(command.body, CommandBody::PollNow(_))
                    && command.expires.since_ms(self.now()) < ENDS_SOON_MS =>
            {
                let brought = self.known(at).and_then(|known| Some(known.reread.as_ref()?.brought.clone()));
                brought.unwrap_or_default().outcome()
            }
            Err(over @ (Failure::Ending | Failure::TurnOver)) => return Err(over),
            // It waits as long as the command may.
            Err(failure) if failure.until().is_some_and(|until| until < command.expires) => return Ok(()),
            Err(failure) => {
                self.heed(at, &failure)?;
                match (&failure, &command.body) {
                    // Where a stretch was asked for, nobody looked whether there is anything.
                    (Failure::Unreachable(_), CommandBody::PollNow(_)) => Outcome::NoData,
                    _ => Outcome::Failed(failure.to_string().into()),
                }
            }
        };
        let Some(voice) = self.devices.get(at).and_then(|polled| polled.life.voice()) else { return Ok(()) };
        let reply = voice.reply(command.id, outcome, self.now())?;
        self.hand_in(vec![reply])?;
        if let Some(known) = self.known(at) {
            known.answered.insert(command.id);
        }
        Ok(())
    }

    /// Goes by what a source refuses: a device that it cannot reach is asked seldom, and one that it does not give any more not at all.
    pub(super) fn heed(&mut self, at: usize, failure: &Failure) -> Result<(), Failure> {
        let now = self.now();
        match failure {
            Failure::Withdrawn { .. } if planted::has(Bug::ConsentIgnored) => {}
            Failure::Withdrawn { whose, why } => {
                let listed = self.devices.get(at).and_then(|polled| Some(polled.listed.as_ref()?.id.clone()));
                match (self.lister.as_mut().zip(listed), whose) {
                    // Of a device that has left the account many say the same as of an account that is closed: the list tells.
                    (Some((lister, id)), _) => lister.unknown(std::iter::once(&id), now),
                    (None, Whose::Device) => return self.withdraw(at, why),
                    (None, Whose::Account) => return self.withdraw_all(why),
                }
            }
            Failure::Unreachable(why) => return self.away(at, why),
            _ => {}
        }
        Ok(())
    }

    /// What is polled; nothing where it is not to be asked.
    pub(super) fn known(&mut self, at: usize) -> Option<&mut Known> {
        self.polled(at).map(|(known, _)| known)
    }

    /// The same, and how its rows are had.
    pub(super) fn polled(&mut self, at: usize) -> Option<(&mut Known, &mut dyn Fetch)> {
        match self.devices.get_mut(at)? {
            Polled { life: Life::Known(known), fetch, .. } => Some((known, fetch.as_mut())),
            _ => None,
        }
    }

    /// Why a device is not asked.
    fn why_not(&self, at: usize) -> Outcome {
        Outcome::Failed(match self.devices.get(at).map(|polled| &polled.life) {
            Some(Life::Removed(_)) => "the source does not list it any more".into(),
            _ => "the source has withdrawn its consent".into(),
        })
    }

    /// Reads what is new, from where it was read to the last time (less the overlap), oldest first.
    pub(super) fn poll(&mut self, at: usize, urgency: Urgency) -> Result<Outcome, Failure> {
        let (overlap_ms, away_ms) = (self.pace.overlap_ms, self.pace.unreachable_every_ms);
        let now = self.now();
        let Some(known) = self.known(at) else { return Ok(self.why_not(at)) };
        let (seen, begin) = (known.revision.clone(), known.next.plus_ms(-overlap_ms));
        let from = known.unread.map_or(begin, |unread| unread.min(begin));
        if known.away(away_ms, now).is_some() {
            self.settle(at, Cause::NotConnected)?;
            return Ok(Outcome::NoData);
        }
        if let Some(outcome) = self.take_news(at)? {
            return Ok(outcome);
        }
        if self.differ.is_some() {
            return self.poll_changes(at, from, urgency);
        }
        let Some((known, fetch)) = self.polled(at) else { return Ok(self.why_not(at)) };
        let is_under_way = known.reread.as_ref().is_some_and(|reread| reread.holds(from));
        let revision = match is_under_way {
            // What it began with counts.
            true => None,
            false => match fetch.probe() {
                // A call is left for what is stale, and none for a question that might save it.
                Err(Failure::Spent(_)) if urgency.is_pressing() => None,
                answer => answer?,
            },
        };
        if revision.is_some() && revision == seen && !planted::has(Bug::WordUnheeded) {
            return self.nothing_new(at, now);
        }
        let (brought, began) = self.pull(at, from, Began { revision, ..Began::default() })?;
        if let (Some(began), Some(known)) = (began, self.known(at)) {
            (known.revision, known.unread) = (began.revision, None);
        }
        Ok(brought.outcome())
    }

    /// Nothing has come, as its source said when it was asked then: what was not here by then is missing.
    pub(super) fn nothing_new(&mut self, at: usize, asked: Timestamp) -> Result<Outcome, Failure> {
        self.back(at)?;
        self.account(at, Cause::NotRecorded, self.settled(asked))?;
        Ok(Outcome::NoData)
    }

    /// Reads all from `from` on, a window a call, until its turn is over; a read that was broken off goes on. Returns what it brought, and what the read can
    /// have seen: what was known when it began, and nothing where all from there on is yet to come, as after a clock was set back.
    pub(super) fn pull(
        &mut self,
        at: usize,
        from: Timestamp,
        began: Began,
    ) -> Result<(Brought, Option<Began>), Failure> {
        let window_ms = self.pace.window_ms;
        let Some(known) = self.known(at) else { return Ok((Brought::default(), None)) };
        let resumed = known.reread.take().and_then(|reread| reread.resumed(from));
        let mut reread = resumed.unwrap_or_else(|| Reread::new(from, began));
        // What was still to come when its window was asked for is not missing because later windows took their time.
        let settled = self.settled(self.now());
        loop {
            let (now, from) = (self.now(), reread.next);
            // What ends this very moment is in it.
            let end = now.plus_ms(1);
            let to = window_end(from, window_ms).min(end);
            if from >= to {
                return Ok((reread.brought, None));
            }
            let Some((known, fetch)) = self.polled(at) else { return Ok((reread.brought, None)) };
            let parsed = match fetch.fetch(from, to) {
                Ok(parsed) => parsed,
                Err(Failure::Status(..) | Failure::Transport(_)) if planted::has(Bug::WindowPassedOver) => {
                    Parsed::default()
                }
                Err(failure) => {
                    known.reread = Some(reread.broken_off(known.next));
                    return Err(failure);
                }
            };
            reread.brought.is_any |= !parsed.rows.is_empty();
            reread.brought.trouble = reread.brought.trouble.or(parsed.trouble);
            let instants = instants(&parsed.rows, (from, to));
            self.tell(at, parsed.rows, (from, to), Cause::NotRecorded, settled)?;
            self.note_read(at, &instants);
            if to == end {
                break;
            }
            reread.next = to;
            if self.is_turn_over()
                && let Some(known) = self.known(at)
                // What may still come of it would be read once more.
                && known.next >= to
            {
                known.reread = Some(Reread { goes_on: true, ..reread });
                return Err(Failure::TurnOver);
            }
        }
        self.back(at)?;
        Ok((reread.brought, Some(reread.began)))
    }

    /// What is not here of the time before it is missing.
    pub(super) fn settled(&self, now: Timestamp) -> Timestamp {
        now.plus_ms(-self.pace.lag_ms)
    }

    /// Accounts for what should be here by now, without a call.
    pub(super) fn settle(&mut self, at: usize, cause: Cause) -> Result<(), Failure> {
        self.account(at, cause, self.settled(self.now()))
    }

    /// Accounts for all before `settled`, without a call.
    pub(super) fn account(&mut self, at: usize, cause: Cause, settled: Timestamp) -> Result<(), Failure> {
        let now = self.now();
        let Some(known) = self.known(at) else { return Ok(()) };
        let range = (known.next, now.plus_ms(1));
        self.tell(at, Vec::new(), range, cause, settled)
    }

    /// Reads a stretch again. One that is broken off goes on from there. What cannot be read of it is no reason to leave the
    /// rest, and is said at its end.
    pub(super) fn history(
        &mut self,
        at: usize,
        command: u64,
        (from, to): (Timestamp, Timestamp),
    ) -> Result<Outcome, Failure> {
        let (window_ms, away_ms) = (self.pace.window_ms, self.pace.unreachable_every_ms);
        let ground = Arc::clone(&self.ground);
        let Some(known) = self.known(at) else { return Ok(self.why_not(at)) };
        if let Some(until) = known.away(away_ms, ground.now()) {
            return Ok(Outcome::Failed(format!("the source cannot reach the device before {until}").into()));
        }
        let broken_off = known.broken_off.clone().filter(|broken_off| broken_off.command == command);
        let (mut from, mut brought) = match broken_off {
            Some(BrokenOff { next, brought, .. }) => (next, brought),
            None => (from, Brought::default()),
        };
        while from < to {
            let end = window_end(from, window_ms).min(to);
            let Some((known, fetch)) = self.polled(at) else { break };
            let parsed = fetch.fetch(from, end)?;
            brought.is_any |= parsed.rows.iter().any(|row| from <= row.at && row.at < end);
            brought.trouble = brought.trouble.or(parsed.trouble);
            let window = Window { from, to: end, accounted: end, settled: from };
            let now = ground.now();
            let instants = instants(&parsed.rows, (from, end));
            let (messages, _) = known.voice.rows(parsed.rows, window, |_| Cause::NotRecorded, now)?;
            known.broken_off = Some(BrokenOff { command, next: end, brought: brought.clone() });
            self.hand_in(messages)?;
            self.note_read(at, &instants);
            if let Some(polled) = self.devices.get_mut(at) {
                // One call is what it has waited for: the next one leaves the account to others again.
                polled.waits_since = None;
                polled.fetch.set_urgency(Urgency::Spare);
            }
            from = end;
            if from < to && self.is_turn_over() {
                return Err(Failure::TurnOver);
            }
        }
        Ok(brought.outcome())
    }

    /// Hands on what a poll brought of a range, and how far all is known now.
    pub(super) fn tell(
        &mut self,
        at: usize,
        rows: Vec<Row>,
        (from, to): (Timestamp, Timestamp),
        cause: Cause,
        settled: Timestamp,
    ) -> Result<(), Failure> {
        let now = self.now();
        let Some(known) = self.known(at) else { return Ok(()) };
        let window = Window { from, to, accounted: known.next, settled };
        let (messages, begin) = known.voice.rows(rows, window, |_| cause, now)?;
        known.next = begin.max(known.next);
        self.hand_in(messages)
    }
}
