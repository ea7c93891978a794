//! What a command wants of a device: what is new, or a stretch again.

use gapless_common::message::{Command, CommandBody, Outcome};
use gapless_common::quality::Cause;
use gapless_common::time::Timestamp;

use super::failure::Failure;
use super::fetch::Fetch;
use super::life::{Known, Life, Polled};
use super::rows::Parsed;
use super::shell::Shell;
use super::voice::Window;
use crate::clock;

impl Shell {
    /// Does what is wanted of a device, and answers it.
    pub(super) fn carry_out(&mut self, at: usize, command: &Command) -> Result<(), Failure> {
        let outcome = match &command.body {
            CommandBody::PollNow(_) => self.poll(at),
            CommandBody::ReadHistory { from, to, .. } => self.history(at, command.id, (*from, *to)),
            _ => Ok(Outcome::Failed("a source has no use for it".into())),
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(Failure::Ending) => return Err(Failure::Ending),
            // It waits as long as the command may.
            Err(Failure::Hold(until)) if until < command.expires => return Ok(()),
            Err(Failure::Withdrawn(why)) => {
                self.withdraw(&why)?;
                Outcome::Failed(Failure::Withdrawn(why).to_string().into())
            }
            Err(Failure::Unreachable(why)) => {
                self.away(at, &why)?;
                match command.body {
                    // Nobody looked whether there is anything.
                    CommandBody::ReadHistory { .. } => {
                        Outcome::Failed(Failure::Unreachable(why).to_string().into())
                    }
                    _ => Outcome::NoData,
                }
            }
            Err(failure) => Outcome::Failed(failure.to_string().into()),
        };
        let Some(voice) = self.devices.get(at).and_then(|polled| polled.life.voice()) else { return Ok(()) };
        let reply = voice.reply(command.id, outcome, clock::now())?;
        self.hand_in(vec![reply])?;
        if let Some(known) = self.known(at) {
            known.answered.insert(command.id);
        }
        Ok(())
    }

    /// What is polled; nothing where its consent is withdrawn.
    pub(super) fn known(&mut self, at: usize) -> Option<&mut Known> {
        self.polled(at).map(|(known, _)| known)
    }

    /// The same, and how its rows are had.
    fn polled(&mut self, at: usize) -> Option<(&mut Known, &mut dyn Fetch)> {
        match self.devices.get_mut(at)? {
            Polled { life: Life::Known(known), fetch, .. } => Some((known, fetch.as_mut())),
            _ => None,
        }
    }

    /// Reads what is new, from where it was read to the last time (less the overlap), oldest first.
    fn poll(&mut self, at: usize) -> Result<Outcome, Failure> {
        let withdrawn = || Ok(Outcome::Failed("the source has withdrawn its consent".into()));
        let (window_ms, overlap_ms) = (self.pace.window_ms, self.pace.overlap_ms);
        let Some((known, fetch)) = self.polled(at) else { return withdrawn() };
        let (seen, begin) = (known.revision.clone(), known.next.plus_ms(-overlap_ms));
        let mut from = known.unread.map_or(begin, |unread| unread.min(begin));
        if known.away_until.is_some_and(|until| until > clock::now()) {
            self.settle(at, Cause::NotConnected)?;
            return Ok(Outcome::NoData);
        }
        let revision = fetch.probe()?;
        if revision.is_some() && revision == seen {
            // Nothing has come since: what is not here by now is missing.
            self.back(at)?;
            self.settle(at, Cause::NotRecorded)?;
            return Ok(Outcome::NoData);
        }
        let mut is_any = false;
        loop {
            let now = clock::now();
            // What ends this very moment is in it.
            let end = now.plus_ms(1);
            let to = from.plus_ms(window_ms).min(end);
            if from >= to {
                break;
            }
            let Some((_, fetch)) = self.polled(at) else { return withdrawn() };
            let parsed = fetch.fetch(from, to)?;
            is_any |= !parsed.rows.is_empty();
            self.tell(at, parsed, (from, to), Cause::NotRecorded, now)?;
            if to == end {
                break;
            }
            from = to;
        }
        self.back(at)?;
        if let Some(known) = self.known(at) {
            (known.revision, known.unread) = (revision, None);
        }
        Ok(if is_any { Outcome::Done } else { Outcome::NoData })
    }

    /// Accounts for what should be here by now, without a call.
    pub(super) fn settle(&mut self, at: usize, cause: Cause) -> Result<(), Failure> {
        let now = clock::now();
        let Some(known) = self.known(at) else { return Ok(()) };
        let range = (known.next, now.plus_ms(1));
        self.tell(at, Parsed::default(), range, cause, now)
    }

    /// Reads a stretch again. One that is broken off goes on from there.
    fn history(
        &mut self,
        at: usize,
        command: u64,
        (from, to): (Timestamp, Timestamp),
    ) -> Result<Outcome, Failure> {
        let window_ms = self.pace.window_ms;
        let Some(known) = self.known(at) else {
            return Ok(Outcome::Failed("the source has withdrawn its consent".into()));
        };
        if let Some(until) = known.away_until.filter(|until| *until > clock::now()) {
            return Ok(Outcome::Failed(format!("the source cannot reach the device before {until}").into()));
        }
        let broken_off = known.broken_off.filter(|(id, ..)| *id == command);
        let (mut from, mut is_any) = broken_off.map_or((from, false), |(_, from, is_any)| (from, is_any));
        while from < to {
            let end = from.plus_ms(window_ms).min(to);
            let Some((known, fetch)) = self.polled(at) else { break };
            let parsed = fetch.fetch(from, end)?;
            is_any |= parsed.rows.iter().any(|row| from <= row.at && row.at < end);
            let window = Window { from, to: end, accounted: end, settled: from };
            let now = clock::now();
            let (messages, _) = known.voice.rows(parsed.rows, window, |_| Cause::NotRecorded, now)?;
            known.broken_off = Some((command, end, is_any));
            self.hand_in(messages)?;
            from = end;
        }
        Ok(if is_any { Outcome::Done } else { Outcome::NoData })
    }

    /// Hands on what a poll brought of a range, and how far all is known now.
    fn tell(
        &mut self,
        at: usize,
        parsed: Parsed,
        (from, to): (Timestamp, Timestamp),
        cause: Cause,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let settled = now.plus_ms(-self.pace.lag_ms);
        let Some(known) = self.known(at) else { return Ok(()) };
        let window = Window { from, to, accounted: known.next, settled };
        let (messages, begin) = known.voice.rows(parsed.rows, window, |_| cause, now)?;
        known.next = begin.max(known.next);
        self.hand_in(messages)
    }
}
