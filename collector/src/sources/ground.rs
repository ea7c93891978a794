//! What sources stand on: the clocks, chance, the network, and the way to the writer. [`Process`] is what the product's threads
//! stand on; a simulation hands in a ground of its own. Decides nothing.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gapless_common::time::Timestamp;

use crate::ingest::{Inbound, Orders};
use crate::store::{sources, sqlite};
use crate::{authorities, clock};

/// All that a source needs of the process that it runs in.
pub trait Ground: Debug + Send + Sync {
    /// Now, by the wall clock.
    fn now(&self) -> Timestamp;

    /// Now, by a clock that nobody sets.
    fn instant(&self) -> Instant;

    /// A number that nobody can guess.
    ///
    /// # Errors
    /// Why there is none.
    fn random(&self) -> Result<u64, String>;

    /// Makes a call and waits for the answer, whatever its status.
    ///
    /// # Errors
    /// Why there is no answer, in words that may repeat what was asked with.
    fn exchange(&self, request: &Request<'_>) -> Result<Response, String>;

    /// Hands the writer a message of a source, and waits while it has too many. Returns whether there still is a writer.
    fn hand_in(&self, message: Inbound) -> bool;

    /// A call is about to be made for an account; calls before `since` count no more. Waits until that is written down, and returns
    /// whether it is, or `None` where there is no writer any more.
    fn called(&self, account: &str, at: Timestamp, since: Timestamp) -> Option<bool>;

    /// The calls of an account that were written down, from `since` on.
    ///
    /// # Errors
    /// The database could not be read.
    fn calls(&self, account: &str, since: Timestamp) -> rusqlite::Result<Vec<Timestamp>>;
}

/// A call over HTTP.
pub struct Request<'a> {
    /// What is asked.
    pub url: &'a str,
    /// Names and texts; a text may be secret.
    pub headers: &'a [(&'a str, &'a str)],
    /// What is sent with a POST; a GET where there is nothing.
    pub form: Option<&'a str>,
    /// How long the answer may take, to its last byte.
    pub timeout: Duration,
    /// The longest answer.
    pub body_bytes_max: u64,
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Its HTTP status.
    pub status: u16,
    /// Names and texts, as far as they are text.
    pub headers: Vec<(String, String)>,
    /// What came, or why it could not be read to its end.
    pub body: Result<String, String>,
}

impl Response {
    /// A header, whatever its case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, text)| text.as_str())
    }
}

/// The ground of this process.
#[derive(Debug)]
pub(super) struct Process {
    http: ureq::Agent,
    database: PathBuf,
    orders: Orders,
}

impl Process {
    /// Beside the writer of this database.
    pub(super) fn new(database: &Path, orders: &Orders) -> Self {
        let http = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // Each would be a call that nobody counts, and the headers may be secret.
            .max_redirects(0)
            .tls_config(authorities::tls(&authorities::pem(None).unwrap_or_default()))
            .user_agent(concat!("gapless-collector/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Self { http, database: database.to_owned(), orders: orders.clone() }
    }

    fn ask(&self, request: &Request<'_>) -> Result<Response, ureq::Error> {
        let (timeout, headers) = (Some(request.timeout), request.headers);
        let answer = match request.form {
            None => {
                let call = self.http.get(request.url).config().timeout_global(timeout).build();
                headers.iter().fold(call, |call, (name, text)| call.header(*name, *text)).call()
            }
            Some(form) => {
                let call = self.http.post(request.url).config().timeout_global(timeout).build();
                headers.iter().fold(call, |call, (name, text)| call.header(*name, *text)).send(form)
            }
        };
        let mut answer = answer?;
        let texts = answer.headers().iter();
        let texts =
            texts.filter_map(|(name, text)| Some((name.as_str().to_owned(), text.to_str().ok()?.to_owned())));
        let (status, headers) = (answer.status().as_u16(), texts.collect());
        let body = answer.body_mut().with_config().limit(request.body_bytes_max).read_to_string();
        Ok(Response { status, headers, body: body.map_err(|error| error.to_string()) })
    }
}

impl Ground for Process {
    fn now(&self) -> Timestamp {
        clock::now()
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }

    fn random(&self) -> Result<u64, String> {
        getrandom::u64().map_err(|error| error.to_string())
    }

    fn exchange(&self, request: &Request<'_>) -> Result<Response, String> {
        self.ask(request).map_err(|error| error.to_string())
    }

    fn hand_in(&self, message: Inbound) -> bool {
        self.orders.hand_in(message)
    }

    fn called(&self, account: &str, at: Timestamp, since: Timestamp) -> Option<bool> {
        self.orders.called(account, at, since)
    }

    fn calls(&self, account: &str, since: Timestamp) -> rusqlite::Result<Vec<Timestamp>> {
        sources::calls(&sqlite::open_reader(&self.database)?, account, since)
    }
}
