//! The thread of one source: asks it over HTTP for what commands want, one request at a time, and hands what it says to the
//! writer. What a window is, how an answer is read, and what it means are elsewhere.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gapless_common::catalog::Catalog;
use gapless_common::id::{ConnectionId, Epoch};
use gapless_common::message::{Command, CommandBody, Outcome};
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;
use gapless_common::wire;
use rusqlite::Connection;
use tokio::sync::watch;

use super::describe::{Asked, Description};
use super::rows::Parsed;
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
/// The first call only asks how far back there is anything.
const FIRST_WINDOW_MS: i64 = 86_400_000;
/// The longest answer.
const BODY_BYTES_MAX: u64 = 32 << 20;
/// A source that says *too many* without saying for how long is left alone for so long.
const HOLD_MS: i64 = 60_000;

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
        let random = || getrandom::u64().map_err(|e| StartError::Random(e.to_string()));
        let connection = ConnectionId((random()? & u64::from(u32::MAX)).try_into().unwrap_or(1));
        let begin = Begin { epoch: Epoch(random()?), connection, previous: None };
        let path = AgentPath { site: site.clone(), agent: asked.agent.clone() };
        devices.push(Polled { asked, path, begin, life: Life::New { again: Timestamp(0), failures: 0 } });
    }
    let timeout = Duration::from_millis(description.timeout.0.unsigned_abs());
    let http = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(timeout))
        .tls_config(tls())
        .user_agent(concat!("gapless-collector/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent();
    let (database, hold) = (database.to_owned(), Timestamp(0));
    let mut shell = Shell { description, headers, http, orders, devices, hold };
    let run = move || shell.run(&database, &shutdown);
    std::thread::Builder::new().name("source".into()).spawn(run).map(drop).map_err(StartError::Thread)
}

/// The authorities that this machine trusts.
fn tls() -> ureq::tls::TlsConfig {
    let pem = std::fs::read("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
    let certificates = ureq::tls::parse_pem(&pem).filter_map(|item| match item {
        Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    ureq::tls::TlsConfig::builder()
        .root_certs(ureq::tls::RootCerts::new_with_certs(&certificates.collect::<Vec<_>>()))
        .unversioned_rustls_crypto_provider(provider)
        .build()
}

/// Where a device stands.
#[derive(Debug)]
enum Life {
    /// Not asked yet in this process; not before `again`.
    New { again: Timestamp, failures: u32 },
    /// It is polled; what begins at `next` is not known yet.
    Known { voice: Box<Voice>, next: Timestamp },
    /// Its source has withdrawn its consent.
    Withdrawn { voice: Box<Voice> },
}

struct Polled {
    asked: Asked,
    path: AgentPath,
    begin: Begin,
    life: Life,
}

struct Shell {
    description: Description,
    headers: Vec<(String, String)>,
    http: ureq::Agent,
    orders: Orders,
    devices: Vec<Polled>,
    /// The source is not asked before it.
    hold: Timestamp,
}

/// Why a window could not be read.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the source gives no answer: {0}")]
    Transport(String),
    #[error("the source answers HTTP {0}: {1}")]
    Status(u16, String),
    #[error("{0}")]
    Answer(String),
    #[error("the source wants no call before {0}")]
    Hold(Timestamp),
    #[error("the source has withdrawn its consent: {0}")]
    Withdrawn(String),
    #[error("a message could not be written: {0}")]
    Encode(#[from] wire::EncodeError),
    #[error("the database could not be read: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("the collector is ending")]
    Ending,
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
                Life::Known { voice, .. } | Life::Withdrawn { voice } => {
                    let now = clock::now();
                    let (is_there, commands) = sources::told(connection, voice.path(), now)?;
                    if !is_there {
                        let birth = voice.birth(now)?;
                        self.hand_in(vec![birth])?;
                    }
                    for command in commands {
                        self.carry_out(at, &command)?;
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
        let mut device = asked.device.clone();
        let is_same = known.attributes.get("consent") == device.attributes.get("consent");
        let is_withdrawn = is_same && known.attributes.contains_key("not_authorised_since");
        begin.previous = known.previous;
        if is_withdrawn {
            device.paused = true;
            device.attributes = known.attributes;
        }
        let first = match known.proven_until {
            _ if is_withdrawn => Ok((now, now)),
            Some(until) => Ok((until, now)),
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
                let is_withdrawn = matches!(failure, Failure::Withdrawn(_));
                *again = now.plus_ms(if is_withdrawn { WITHDRAWN_MS } else { pause });
                *failures += 1;
                return Err(failure);
            }
        };
        let mut voice = Box::new(Voice::new(path, begin, Catalog { devices: vec![device] }));
        let opening = voice.opening(begin, since, now)?;
        self.hand_in(opening)?;
        let life = if is_withdrawn { Life::Withdrawn { voice } } else { Life::Known { voice, next } };
        if let Some(polled) = self.devices.get_mut(at) {
            polled.life = life;
        }
        Ok(())
    }

    /// How far back the source has anything of a device.
    fn oldest(&mut self, asked: &Asked, now: Timestamp) -> Result<Timestamp, Failure> {
        let from = now.plus_ms(-FIRST_WINDOW_MS.min(self.description.window.0));
        let parsed = self.fetch(asked, from, now)?;
        let first = parsed.oldest.or_else(|| parsed.rows.first().map(|row| row.at)).unwrap_or(from);
        Ok(asked.device.grid.at(asked.device.grid.first_from(first)))
    }

    fn carry_out(&mut self, at: usize, command: &Command) -> Result<(), Failure> {
        let outcome = match &command.body {
            CommandBody::PollNow(_) => self.poll(at),
            CommandBody::ReadHistory { from, to, .. } => self.history(at, *from, *to),
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
            Err(failure) => Outcome::Failed(failure.to_string().into()),
        };
        let voice = match self.devices.get(at).map(|polled| &polled.life) {
            Some(Life::Known { voice, .. } | Life::Withdrawn { voice }) => voice,
            _ => return Ok(()),
        };
        let reply = voice.reply(command.id, outcome, clock::now())?;
        self.hand_in(vec![reply])
    }

    /// Reads what is new, from where it was read to the last time, oldest first.
    fn poll(&mut self, at: usize) -> Result<Outcome, Failure> {
        let (mut is_any, window_ms, lag_ms) = (false, self.description.window.0, self.description.lag.0);
        loop {
            let now = clock::now();
            let Some(Polled { asked, life: Life::Known { next, .. }, .. }) = self.devices.get(at) else {
                return Ok(Outcome::Failed("the source has withdrawn its consent".into()));
            };
            let (asked, from) = (asked.clone(), *next);
            // What ends this very moment is in it.
            let end = now.plus_ms(1);
            let to = from.plus_ms(window_ms).min(end);
            if from >= to {
                break;
            }
            let parsed = self.fetch(&asked, from, to)?;
            is_any |= !parsed.rows.is_empty();
            let window = Window { from, to, settled: now.plus_ms(-lag_ms) };
            self.tell(at, &parsed, window, true, now)?;
            if to == end {
                break;
            }
        }
        Ok(if is_any { Outcome::Done } else { Outcome::NoData })
    }

    /// Reads a stretch again.
    fn history(&mut self, at: usize, from: Timestamp, to: Timestamp) -> Result<Outcome, Failure> {
        let Some(Polled { asked, life: Life::Known { .. }, .. }) = self.devices.get(at) else {
            return Ok(Outcome::Failed("the source has withdrawn its consent".into()));
        };
        let (asked, now, mut is_any, mut from) = (asked.clone(), clock::now(), false, from);
        while from < to {
            let end = from.plus_ms(self.description.window.0).min(to);
            let parsed = self.fetch(&asked, from, end)?;
            is_any |= parsed.rows.iter().any(|row| from <= row.at && row.at < end);
            self.tell(at, &parsed, Window { from, to: end, settled: from }, false, now)?;
            from = end;
        }
        Ok(if is_any { Outcome::Done } else { Outcome::NoData })
    }

    fn tell(
        &mut self,
        at: usize,
        parsed: &Parsed,
        window: Window,
        proves: bool,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let Some(Polled { life: Life::Known { voice, next }, .. }) = self.devices.get_mut(at) else {
            return Ok(());
        };
        let (messages, begin) = voice.rows(&parsed.rows, window, proves, now)?;
        if proves {
            *next = begin.max(*next);
        }
        self.hand_in(messages)
    }

    /// No device of the source is polled any more; what is known of them says since when and why.
    fn withdraw(&mut self, why: &str) -> Result<(), Failure> {
        let now = clock::now();
        tracing::error!(source = self.description.name, why, "consent withdrawn: not asked any more");
        let attributes =
            [("not_authorised_since", now.to_string()), ("not_authorised_reason", why.to_owned())];
        let attributes: std::collections::BTreeMap<_, _> =
            attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let mut messages = Vec::new();
        for polled in &mut self.devices {
            let life = std::mem::replace(&mut polled.life, Life::New { again: now, failures: 0 });
            polled.life = match life {
                Life::Known { mut voice, .. } => {
                    messages.extend(voice.pause(&attributes, now)?);
                    Life::Withdrawn { voice }
                }
                other => other,
            };
        }
        self.hand_in(messages)
    }

    fn hand_in(&self, messages: Vec<Inbound>) -> Result<(), Failure> {
        let all = messages.into_iter().all(|message| self.orders.hand_in(message));
        if all { Ok(()) } else { Err(Failure::Ending) }
    }

    fn fetch(&mut self, asked: &Asked, from: Timestamp, to: Timestamp) -> Result<Parsed, Failure> {
        let now = clock::now();
        if self.hold > now {
            return Err(Failure::Hold(self.hold));
        }
        let mut request = self.http.get(self.description.url_of(&asked.spec, from, to));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut answer = request.call().map_err(|error| Failure::Transport(error.to_string()))?;
        let status = answer.status().as_u16();
        let after = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse::<i64>().ok());
        let body = answer.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_string();
        let body = body.map_err(|error| Failure::Transport(error.to_string()))?;
        let short: String = body.chars().take(200).collect();
        match status {
            200 => self.description.answer.parse(&body).map_err(Failure::Answer),
            status if self.description.withdrawn.contains(&status) => Err(Failure::Withdrawn(short)),
            429 | 503 if status == 429 || after.is_some() => {
                self.hold = now.plus_ms(after.map_or(HOLD_MS, |seconds| seconds.saturating_mul(1_000)));
                Err(Failure::Hold(self.hold))
            }
            status => Err(Failure::Status(status, short)),
        }
    }
}
