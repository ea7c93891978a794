//! The way to a logger: requests of its collection carried over HTTP, and what a person wants to see of it. Decides
//! nothing.

use std::io;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use gapless_common::reading::Sample;
use gapless_common::text::base64;

use super::{BusHandle, SpawnError, asking};
use crate::campbell::core::{Collector, Failure};
use crate::campbell::csijson::{self, AnswerError, BODY_BYTES_MAX};
use crate::campbell::query::{self, Mode};
use crate::clock::{Clock, Now};
use crate::config::{LogTable, Logger, Password};
use crate::event::BusEvent;
use crate::records::layout::{Channels, Layout};
use crate::status::{ValueStatus, value_text};

/// Longest time for a connection to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

type Fetched = Result<Vec<u8>, Failure>;

/// Starts the thread of a logger. Slots from `started` on are its to account for.
///
/// # Errors
/// [`SpawnError`] where the password cannot be read, or the system has no thread left.
pub fn spawn_logger<E: From<BusEvent> + Send + 'static>(
    logger: &Logger,
    clock: Clock,
    started: Now,
    events: SyncSender<E>,
) -> Result<BusHandle, SpawnError> {
    let tables = logger.tables.iter().map(LogTable::settings).collect();
    let collector = Collector::new(logger.id.clone(), tables, started, clock.now());
    let web = Web::new(logger)?;
    asking::spawn(logger.id.as_str(), collector, move |target: String| web.get(&target), clock, events)
}

/// The way to a logger's web server.
struct Web {
    agent: ureq::Agent,
    url: String,
    authorization: Option<String>,
}

impl Web {
    fn new(logger: &Logger) -> io::Result<Self> {
        let timeout = Duration::from_millis(u64::from(logger.timeout_ms));
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(timeout))
            .timeout_connect(Some(timeout.min(CONNECT_TIMEOUT)))
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .user_agent(concat!("gapless-agent/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        let password = match &logger.web.password {
            Some(Password::Inline(secret)) => secret.reveal().to_owned(),
            Some(Password::File(file)) => std::fs::read_to_string(file)
                .map_err(|e| io::Error::new(e.kind(), format!("the password from {}: {e}", file.display())))?
                .trim_end_matches(['\r', '\n'])
                .to_owned(),
            None => String::new(),
        };
        let login = logger.web.username.as_ref().map(|user| format!("{user}:{password}"));
        let authorization = login.map(|login| format!("Basic {}", base64(login.as_bytes())));
        Ok(Self { agent, url: logger.web.url.clone(), authorization })
    }

    fn get(&self, target: &str) -> Fetched {
        let mut request = self.agent.get(format!("{}{target}", self.url));
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let mut answer = request.call().map_err(|error| failure(&error))?;
        let status = answer.status().as_u16();
        if status == 401 {
            return Err(Failure::Unusable("it refuses user and password (HTTP 401)".to_owned()));
        }
        if status != 200 {
            return Err(Failure::Unusable(format!("HTTP {status}")));
        }
        let limit = u64::try_from(BODY_BYTES_MAX).unwrap_or(u64::MAX);
        answer.body_mut().with_config().limit(limit).read_to_vec().map_err(|error| failure(&error))
    }
}

fn failure(error: &ureq::Error) -> Failure {
    let why = crate::text::chain(error);
    match error {
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => Failure::NotConnected(why),
        ureq::Error::Timeout(_) => Failure::NoAnswer(why),
        ureq::Error::BodyExceedsLimit(_) => Failure::TooLong,
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => Failure::Unusable(why),
        ureq::Error::Io(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
            Failure::NotConnected(why)
        }
        _ => Failure::Unusable(why),
    }
}

/// Why a logger could not be read for a person.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It was not reached, or refused.
    #[error("{0}")]
    Web(String),
    /// The password cannot be read.
    #[error(transparent)]
    Password(#[from] io::Error),
    /// What came is no answer: for a table that is not there, too.
    #[error("no record of this table; those of the logger are {1}")]
    Answer(#[source] AnswerError, String),
    /// The table has nothing yet.
    #[error("the table has no record yet")]
    Empty,
}

/// The newest record of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// Its number.
    pub no: u64,
    /// Its local time, and what that is in UTC.
    pub time: String,
    /// Model, serial number and program of the logger.
    pub logger: String,
    /// Its values.
    pub values: Vec<ValueStatus>,
}

/// Reads the newest record of one table, now: for a person who wants to see its values.
///
/// # Errors
/// [`ReadError`].
pub fn read_table(logger: &Logger, table: &LogTable) -> Result<Shown, ReadError> {
    let web = Web::new(logger)?;
    let body = web.get(&query::data(&table.table, Mode::Newest, table.zone)).map_err(words)?;
    let answer = csijson::read(&body).map_err(|error| ReadError::Answer(error, tables(&web)))?;
    let (layout, all) = Layout::new(answer.head.signature, &answer.head.fields, &table.channels);
    let channels = match &table.channels {
        Channels::All => all,
        Channels::Named(wanted) => wanted.iter().map(|wanted| wanted.channel.clone()).collect(),
    };
    let record = answer.data.last().ok_or(ReadError::Empty)?;
    let samples: Vec<Sample> = layout.samples(&record.vals);
    let values = channels.iter().zip(&samples).map(|(channel, sample)| ValueStatus {
        channel: channel.id.to_string(),
        value: sample.value.as_ref().map(value_text),
        unit: channel.unit.to_string(),
        quality: sample.quality.to_string(),
    });
    let utc = table.zone.instant(&record.time).map_or_else(|| "no time".to_owned(), |at| at.to_string());
    let about = &answer.head.environment;
    Ok(Shown {
        no: record.no,
        time: format!("{} ({utc})", record.time),
        logger: format!("{} {}, {}", about.model, about.serial_no, about.prog_name),
        values: values.collect(),
    })
}

fn words(failure: Failure) -> ReadError {
    ReadError::Web(match failure {
        Failure::NotConnected(why) => format!("no connection: {why}"),
        Failure::NoAnswer(why) => format!("no answer: {why}"),
        Failure::Unusable(why) => why,
        Failure::TooLong => "one record is longer than what is read".to_owned(),
    })
}

/// What tables the logger says it has.
fn tables(web: &Web) -> String {
    let body = web.get(&query::tables()).unwrap_or_default();
    csijson::read_symbols(&body).map_or_else(
        |_| "not known".to_owned(),
        |known| known.symbols.into_iter().map(|symbol| symbol.name).collect::<Vec<_>>().join(", "),
    )
}
