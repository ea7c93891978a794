//! What sources stand on: the clocks, chance, the network, folders, and the way to the writer. [`Process`] is what the
//! product's threads stand on; a simulation hands in a ground of its own. Decides nothing. Files of secrets and tokens, the
//! database and the threads' pauses are not in it; of drops their folders are, and servers and programs are not.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use gapless_common::files::glob::Entry;
use gapless_common::id::{Epoch, Seq};
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;

use super::drop::Machine;
use crate::ingest::{Inbound, Orders};
use crate::store::model::DropChanges;
use crate::store::{sources, sqlite};
use crate::{authorities, clock};

/// What a source needs of the process that it runs in.
pub trait Ground: Send + Sync {
    /// Now, by the wall clock.
    fn now(&self) -> Timestamp;

    /// Now, by a clock that nobody sets.
    fn instant(&self) -> Instant;

    /// A number that nobody can guess.
    ///
    /// # Errors
    /// Why there is none.
    fn random(&self) -> Result<u64, String>;

    /// What makes the calls of one source, each of which may take so long, to the last byte of its answer.
    fn http(self: Arc<Self>, timeout: Duration) -> Arc<dyn Http>;

    /// The folders of this machine, whatever is mounted there.
    fn folders(self: Arc<Self>) -> Arc<dyn Folders>;

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

    /// Files of a drop were read, and what came of them said up to there. Waits until that is stored and this written down, and returns
    /// whether it is, or `None` where there is no writer any more.
    fn has_read(&self, path: &AgentPath, said: (Epoch, Seq), changes: DropChanges) -> Option<bool>;
}

/// Folders and their files.
pub trait Folders: Send + Sync {
    /// What lies in a folder under names that are wanted.
    ///
    /// # Errors
    /// It cannot be listed.
    fn entries(&self, folder: &Path, is_wanted: &dyn Fn(&str) -> bool) -> io::Result<Vec<Entry>>;

    /// Bytes of a file from `offset` on: `len` of them, fewer where it ends.
    ///
    /// # Errors
    /// It cannot be read, or is not there.
    fn read(&self, file: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>>;
}

/// Calls of one source over HTTP.
pub trait Http: Send + Sync {
    /// Makes a call and waits for the answer, whatever its status.
    ///
    /// # Errors
    /// Why there is no answer, in words that may repeat what was asked with.
    fn exchange(&self, request: &Request<'_>) -> Result<Response, String>;
}

/// A call over HTTP. Any text in it may be secret, so nothing of it is ever shown.
pub struct Request<'a> {
    /// What is asked.
    pub url: &'a str,
    /// Names and texts.
    pub headers: &'a [(&'a str, &'a str)],
    /// What is sent with a POST; a GET where there is nothing.
    pub body: Option<&'a str>,
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
    /// Read once there is a source that makes calls.
    tls: OnceLock<ureq::tls::TlsConfig>,
    database: PathBuf,
    orders: Orders,
}

impl Process {
    /// Beside the writer of this database.
    pub(super) fn new(database: &Path, orders: &Orders) -> Self {
        Self { tls: OnceLock::new(), database: database.to_owned(), orders: orders.clone() }
    }
}

/// Each source has one of its own: its connections wait for it, and a fault in it is no other's.
impl Http for ureq::Agent {
    fn exchange(&self, request: &Request<'_>) -> Result<Response, String> {
        let headers = request.headers;
        let answer = match request.body {
            None => headers
                .iter()
                .fold(self.get(request.url), |call, (name, text)| call.header(*name, *text))
                .call(),
            Some(body) => {
                let call = self.post(request.url);
                headers.iter().fold(call, |call, (name, text)| call.header(*name, *text)).send(body)
            }
        };
        let mut answer = answer.map_err(|error| error.to_string())?;
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

    fn http(self: Arc<Self>, timeout: Duration) -> Arc<dyn Http> {
        let tls = self.tls.get_or_init(|| authorities::tls(&authorities::pem(None).unwrap_or_default()));
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // Each would be a call that nobody counts, and the headers may be secret.
            .max_redirects(0)
            .timeout_global(Some(timeout))
            .tls_config(tls.clone())
            .user_agent(concat!("gapless-collector/", env!("CARGO_PKG_VERSION")));
        Arc::new(config.build().new_agent())
    }

    fn folders(self: Arc<Self>) -> Arc<dyn Folders> {
        Arc::new(Machine)
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

    fn has_read(&self, path: &AgentPath, said: (Epoch, Seq), changes: DropChanges) -> Option<bool> {
        self.orders.has_read(path, said, changes)
    }
}
