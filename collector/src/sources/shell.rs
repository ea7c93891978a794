//! The thread of one source: asks it over HTTP for what commands want, one request at a time, and hands what it says to the
//! writer. What a window is, how an answer is read, and what it means are elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gapless_common::catalog::Catalog;
use gapless_common::id::{ConnectionId, Epoch};
use gapless_common::message::{Command, CommandBody, Outcome};
use gapless_common::quality::Cause;
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;
use rusqlite::Connection;
use tokio::sync::watch;

use super::call::{Caller, Failure};
use super::derived;
use super::describe::{Asked, Description};
use super::rows::{self, Parsed};
use super::voice::{Begin, Voice, Window};
use crate::clock;
use crate::ingest::{Inbound, Orders};
use crate::store::{sources, sqlite};

/// How often it is seen what commands there are.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// First and longest pause after a source could not be reached at the start.
const RETRY_FIRST_MS: i64 = 5_000;
const RETRY_MAX_MS: i64 = 300_000;
/// A source that refuses its consent before anything of it is known is asked again so much later.
const WITHDRAWN_MS: i64 = 7 * 86_400_000;
/// How often it is seen whether a device is asked again that was stopped before anything of it was known.
const STOPPED_MS: i64 = 5_000;
/// The first call only asks how far back there is anything.
const FIRST_WINDOW_MS: i64 = 86_400_000;

/// Why a source could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("in {path}:\n{message}")]
    Described {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// No thread.
    #[error("cannot start the thread of a source")]
    Thread(#[source] std::io::Error),
    /// No random number.
    #[error("no random number for the epoch of a source: {0}")]
    Random(String),
}

/// Starts the thread of the source that `file` describes. It ends with `shutdown`, or with the writer.
///
/// # Errors
/// [`StartError`].
pub fn start(
    file: &Path,
    database: &Path,
    orders: Orders,
    shutdown: watch::Receiver<bool>,
) -> Result<(), StartError> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|source| StartError::Read { path: path.to_owned(), source })
    };
    let described = |message| StartError::Described { path: file.to_owned(), message };
    let description = Description::read(&read(file)?).map_err(described)?;
    let mut headers = Vec::new();
    for (name, value) in &description.headers {
        let value = match value.strip_prefix('@') {
            Some(path) => read(Path::new(path))?.lines().next().unwrap_or_default().to_owned(),
            None => value.clone(),
        };
        headers.push((name.clone(), value));
    }
    let site = description.site_id().map_err(described)?;
    let mut devices = Vec::new();
    for asked in description.asked().map_err(described)? {
        let path = AgentPath { site: site.clone(), agent: asked.agent.clone() };
        let life = Life::New { again: Timestamp(0), failures: 0 };
        devices.push(Polled { asked, path, begin: draw()?, life });
    }
    let derived = description.derived().map_err(described)?;
    if !derived.is_empty() {
        derived::start(derived, database, orders.clone(), shutdown.clone())?;
    }
    if devices.is_empty() {
        return Ok(());
    }
    let (database, caller) = (database.to_owned(), Caller::new(&description, headers));
    let mut shell = Shell { description, caller, orders, devices };
    let run = move || shell.run(&database, &shutdown);
    std::thread::Builder::new().name("source".into()).spawn(run).map(drop).map_err(StartError::Thread)
}

/// Who a device is in this process.
pub(super) fn draw() -> Result<Begin, StartError> {
    let random = || getrandom::u64().map_err(|e| StartError::Random(e.to_string()));
    let connection = ConnectionId((random()? & u64::from(u32::MAX)).try_into().unwrap_or(1));
    Ok(Begin { epoch: Epoch(random()?), connection, previous: None })
}

/// Hands messages to the writer.
pub(super) fn hand_in(orders: &Orders, messages: Vec<Inbound>) -> Result<(), Failure> {
    let all = messages.into_iter().all(|message| orders.hand_in(message));
    if all { Ok(()) } else { Err(Failure::Ending) }
}

/// Where a device stands.
#[derive(Debug)]
enum Life {
    /// Not asked yet in this process; not before `again`.
    New { again: Timestamp, failures: u32 },
    /// It is polled.
    Known(Box<Known>),
    /// Its source has withdrawn its consent.
    Withdrawn(Box<Voice>),
}

/// A device that is polled.
#[derive(Debug)]
struct Known {
    voice: Voice,
    /// What begins here is not known yet.
    next: Timestamp,
    /// What the source's probe said when all before it had been read.
    revision: Option<String>,
    /// The source cannot reach it, and is not asked before.
    away_until: Option<Timestamp>,
    /// What begins here was not read while it was away.
    unread: Option<Timestamp>,
    /// A command for history that was broken off: its number, where it goes on, and whether anything came.
    broken_off: Option<(u64, Timestamp, bool)>,
    /// Commands that were answered, as long as the database lists them as open.
    answered: BTreeSet<u64>,
}

impl Life {
    fn voice(&self) -> Option<&Voice> {
        match self {
            Self::New { .. } => None,
            Self::Known(known) => Some(&known.voice),
            Self::Withdrawn(voice) => Some(voice),
        }
    }
}

struct Polled {
    asked: Asked,
    path: AgentPath,
    begin: Begin,
    life: Life,
}

struct Shell {
    description: Description,
    caller: Caller,
    orders: Orders,
    devices: Vec<Polled>,
}

impl Shell {
    fn run(&mut self, database: &Path, shutdown: &watch::Receiver<bool>) {
        let mut connection = None;
        while !*shutdown.borrow() {
            let look = match &connection {
                Some(connection) => self.look(connection),
                None => {
                    sqlite::open_reader(database).map(|open| connection = Some(open)).map_err(Failure::from)
                }
            };
            match look {
                Err(Failure::Ending) => return,
                Err(error) => tracing::warn!(source = self.description.name, %error, "tried again"),
                Ok(()) => {}
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// One round over the devices.
    fn look(&mut self, connection: &Connection) -> Result<(), Failure> {
        for at in 0..self.devices.len() {
            let Some(polled) = self.devices.get(at) else { break };
            match &polled.life {
                Life::New { again, .. } if *again <= clock::now() => self.begin(connection, at)?,
                Life::New { .. } => {}
                life => {
                    let Some(voice) = life.voice() else { continue };
                    let now = clock::now();
                    let (is_there, commands) = sources::told(connection, voice.path(), now)?;
                    if !is_there {
                        let birth = voice.birth(now)?;
                        self.hand_in(vec![birth])?;
                    }
                    if let Some((known, _)) = self.known(at) {
                        known.answered.retain(|id| commands.iter().any(|command| command.id == *id));
                    }
                    for command in commands {
                        let is_new = |known: &Known| !known.answered.contains(&command.id);
                        if self.known(at).is_none_or(|(known, _)| is_new(known)) {
                            self.carry_out(at, &command)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// A device is asked for the first time in this process.
    fn begin(&mut self, connection: &Connection, at: usize) -> Result<(), Failure> {
        let now = clock::now();
        let Some(polled) = self.devices.get(at) else { return Ok(()) };
        let (asked, path, mut begin) = (polled.asked.clone(), polled.path.clone(), polled.begin);
        let known = sources::known(connection, &path, asked.spec.name.as_str())?.unwrap_or_default();
        if known.is_stopped && known.proven_until.is_none() {
            // It would have to be asked how far back there is anything.
            if let Some(Polled { life: Life::New { again, .. }, .. }) = self.devices.get_mut(at) {
                *again = now.plus_ms(STOPPED_MS);
            }
            return Ok(());
        }
        let mut device = asked.device.clone();
        let is_same = known.attributes.get("consent") == device.attributes.get("consent");
        let is_withdrawn = is_same && known.attributes.contains_key("not_authorised_since");
        begin.previous = known.previous;
        let unread = known.attributes.get("unread_since").and_then(|text| text.parse().ok());
        if is_withdrawn {
            device.paused = true;
            device.attributes = known.attributes;
        }
        let first = match known.proven_until {
            _ if is_withdrawn => Ok((now, now)),
            // Where consent was given anew nothing was due in between.
            Some(until) => Ok((until, if is_same { until } else { now })),
            None => self.oldest(&asked, now).map(|oldest| (oldest, oldest)),
        };
        let (next, since) = match first {
            Ok(first) => first,
            Err(failure) => {
                let Some(Polled { life: Life::New { again, failures }, .. }) = self.devices.get_mut(at)
                else {
                    return Err(failure);
                };
                let pause = RETRY_FIRST_MS.saturating_mul(1 << (*failures).min(10)).min(RETRY_MAX_MS);
                // One that nothing is known of yet is not known to anybody: seldom, but again.
                *again = now.plus_ms(match failure {
                    Failure::Withdrawn(_) => WITHDRAWN_MS,
                    Failure::Unreachable(_) => self.description.unreachable_every.0,
                    _ => pause,
                });
                *failures += 1;
                return Err(failure);
            }
        };
        let overlap_ms = self.description.overlap.0;
        let mut voice = Voice::new(path, begin, Catalog { devices: vec![device] }, overlap_ms);
        let opening = voice.opening(begin, since, now)?;
        self.hand_in(opening)?;
        let life = match is_withdrawn {
            true => Life::Withdrawn(Box::new(voice)),
            false => Life::Known(Box::new(Known {
                voice,
                next,
                revision: None,
                away_until: None,
                unread,
                broken_off: None,
                answered: BTreeSet::new(),
            })),
        };
        if let Some(polled) = self.devices.get_mut(at) {
            polled.life = life;
        }
        Ok(())
    }

    /// How far back the source has anything of a device.
    fn oldest(&self, asked: &Asked, now: Timestamp) -> Result<Timestamp, Failure> {
        let grid = asked.device.grid;
        if let Some(first) = self.description.first {
            return Ok(grid.at(grid.first_from(now.plus_ms(-first.0))));
        }
        let from = now.plus_ms(-FIRST_WINDOW_MS.min(self.description.window.0));
        let parsed = self.fetch(asked, from, now)?;
        let first = parsed.oldest.or_else(|| parsed.rows.first().map(|row| row.at)).unwrap_or(from);
        Ok(grid.at(grid.first_from(first)))
    }

    fn carry_out(&mut self, at: usize, command: &Command) -> Result<(), Failure> {
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
        if let Some((known, _)) = self.known(at) {
            known.answered.insert(command.id);
        }
        Ok(())
    }

    /// What is polled, and how it is asked; nothing where its consent is withdrawn.
    fn known(&mut self, at: usize) -> Option<(&mut Known, Asked)> {
        match self.devices.get_mut(at)? {
            Polled { asked, life: Life::Known(known), .. } => Some((known, asked.clone())),
            _ => None,
        }
    }

    /// Reads what is new, from where it was read to the last time (less the overlap), oldest first.
    fn poll(&mut self, at: usize) -> Result<Outcome, Failure> {
        let withdrawn = || Ok(Outcome::Failed("the source has withdrawn its consent".into()));
        let (window_ms, overlap_ms) = (self.description.window.0, self.description.overlap.0);
        let Some((known, asked)) = self.known(at) else { return withdrawn() };
        let (seen, begin) = (known.revision.clone(), known.next.plus_ms(-overlap_ms));
        let mut from = known.unread.map_or(begin, |unread| unread.min(begin));
        if known.away_until.is_some_and(|until| until > clock::now()) {
            self.settle(at, Cause::NotConnected)?;
            return Ok(Outcome::NoData);
        }
        let revision = self.probe(&asked)?;
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
            let parsed = self.fetch(&asked, from, to)?;
            is_any |= !parsed.rows.is_empty();
            self.tell(at, parsed, (from, to), Cause::NotRecorded, now)?;
            if to == end {
                break;
            }
            from = to;
        }
        self.back(at)?;
        if let Some((known, _)) = self.known(at) {
            (known.revision, known.unread) = (revision, None);
        }
        Ok(if is_any { Outcome::Done } else { Outcome::NoData })
    }

    /// Accounts for what should be here by now, without a call.
    fn settle(&mut self, at: usize, cause: Cause) -> Result<(), Failure> {
        let now = clock::now();
        let Some((known, _)) = self.known(at) else { return Ok(()) };
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
        let window_ms = self.description.window.0;
        let Some((known, asked)) = self.known(at) else {
            return Ok(Outcome::Failed("the source has withdrawn its consent".into()));
        };
        if let Some(until) = known.away_until.filter(|until| *until > clock::now()) {
            return Ok(Outcome::Failed(format!("the source cannot reach the device before {until}").into()));
        }
        let broken_off = known.broken_off.filter(|(id, ..)| *id == command);
        let (mut from, mut is_any) = broken_off.map_or((from, false), |(_, from, is_any)| (from, is_any));
        while from < to {
            let end = from.plus_ms(window_ms).min(to);
            let parsed = self.fetch(&asked, from, end)?;
            is_any |= parsed.rows.iter().any(|row| from <= row.at && row.at < end);
            let window = Window { from, to: end, accounted: end, settled: from };
            let now = clock::now();
            let Some((known, _)) = self.known(at) else { break };
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
        let settled = now.plus_ms(-self.description.lag.0);
        let Some((known, _)) = self.known(at) else { return Ok(()) };
        let window = Window { from, to, accounted: known.next, settled };
        let (messages, begin) = known.voice.rows(parsed.rows, window, |_| cause, now)?;
        known.next = begin.max(known.next);
        self.hand_in(messages)
    }

    /// The source cannot reach the device: it is asked seldom, and what it would have had is missing for that reason.
    fn away(&mut self, at: usize, why: &str) -> Result<(), Failure> {
        let (now, every_ms) = (clock::now(), self.description.unreachable_every.0);
        let Some((known, asked)) = self.known(at) else { return Ok(()) };
        let is_new = known.away_until.replace(now.plus_ms(every_ms)).is_none();
        if is_new {
            tracing::warn!(device = asked.spec.name, why, "the source cannot reach it");
            let unread = *known.unread.get_or_insert(known.next);
            let words = [
                ("unreachable_since", now.to_string()),
                ("unreachable_reason", why.to_owned()),
                ("unread_since", unread.to_string()),
            ];
            let messages = known.voice.attribute(&named(words), now)?;
            self.hand_in(messages)?;
        }
        self.settle(at, Cause::NotConnected)
    }

    /// The source reached the device.
    fn back(&mut self, at: usize) -> Result<(), Failure> {
        let now = clock::now();
        let Some((known, asked)) = self.known(at) else { return Ok(()) };
        if known.away_until.take().is_none() {
            return Ok(());
        }
        tracing::info!(device = asked.spec.name, "the source reaches it again");
        let words =
            ["unreachable_since", "unreachable_reason", "unread_since"].map(|key| (key, String::new()));
        let messages = known.voice.attribute(&named(words), now)?;
        self.hand_in(messages)
    }

    /// No device of the source is polled any more; what is known of them says since when and why.
    fn withdraw(&mut self, why: &str) -> Result<(), Failure> {
        let now = clock::now();
        tracing::error!(source = self.description.name, why, "consent withdrawn: not asked any more");
        let attributes =
            named([("not_authorised_since", now.to_string()), ("not_authorised_reason", why.to_owned())]);
        let mut messages = Vec::new();
        for polled in &mut self.devices {
            // One that was not asked yet is not asked for as long as one that refused itself.
            let new = Life::New { again: now.plus_ms(WITHDRAWN_MS), failures: 0 };
            polled.life = match std::mem::replace(&mut polled.life, new) {
                Life::Known(known) => {
                    let mut voice = Box::new(known.voice);
                    messages.extend(voice.pause(&attributes, now)?);
                    Life::Withdrawn(voice)
                }
                Life::New { again, failures } => {
                    Life::New { again: again.max(now.plus_ms(WITHDRAWN_MS)), failures }
                }
                withdrawn @ Life::Withdrawn(_) => withdrawn,
            };
        }
        self.hand_in(messages)
    }

    fn hand_in(&self, messages: Vec<Inbound>) -> Result<(), Failure> {
        hand_in(&self.orders, messages)
    }

    fn fetch(&self, asked: &Asked, from: Timestamp, to: Timestamp) -> Result<Parsed, Failure> {
        let body = self.caller.get(&self.description.url_of(&asked.spec, from, to))?;
        let parsed = self.description.answer.parse(&body, &asked.values, from).map_err(Failure::Answer)?;
        if parsed.doubled > 0 {
            let (device, count) = (&asked.spec.name, parsed.doubled);
            tracing::warn!(device, count, "instants came twice with other values: the last one counts");
        }
        Ok(parsed)
    }

    /// What the probe says of a device; nothing where there is none.
    fn probe(&self, asked: &Asked) -> Result<Option<String>, Failure> {
        let Some(probe) = &self.description.probe else { return Ok(None) };
        let body = self.caller.get(&asked.spec.fill(probe.url.clone()))?;
        match &probe.revision {
            None => Ok(Some(body)),
            Some(path) => rows::text_at(&body, path).map(Some).map_err(Failure::Answer),
        }
    }
}

fn named<const N: usize>(words: [(&str, String); N]) -> BTreeMap<String, String> {
    words.into_iter().map(|(key, text)| (key.to_owned(), text)).collect()
}
