//! From the file that describes a source to its threads.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gapless_common::id::{ConnectionId, Epoch};
use gapless_common::topic::AgentPath;
use tokio::sync::watch;

use super::call::{Budget, Caller};
use super::derived;
use super::describe::Description;
use super::differ::Differ;
use super::drop::{self, DropDescription};
use super::http::{Api, HttpDevice};
use super::life::Polled;
use super::relist::Lister;
use super::shell::Shell;
use super::voice::Begin;
use crate::ingest::Orders;

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
    let text = read(file)?;
    if drop::is_drop(&text) {
        let description = DropDescription::read(&text).map_err(described)?;
        let site = description.site_id().map_err(described)?;
        let mut devices = Vec::new();
        for asked in description.asked().map_err(described)? {
            let fetch = Box::new(description.device(&asked).map_err(described)?);
            let path = AgentPath { site: site.clone(), agent: asked.agent };
            devices.push(Polled::new(path, asked.device, draw()?, fetch));
        }
        return run(Shell::new(description.pace(), orders, devices), database, shutdown);
    }
    let description = Description::read(&text).map_err(described)?;
    let mut headers = Vec::new();
    for (name, value) in &description.headers {
        let value = match value.strip_prefix('@') {
            Some(path) => read(Path::new(path))?.lines().next().unwrap_or_default().to_owned(),
            None => value.clone(),
        };
        headers.push((name.clone(), value));
    }
    let site = description.site_id().map_err(described)?;
    let asked = description.asked().map_err(described)?;
    let derived = description.derived().map_err(described)?;
    if !derived.is_empty() {
        derived::start(derived, database, orders.clone(), shutdown.clone())?;
    }
    if asked.is_empty() && description.list.is_none() {
        return Ok(());
    }
    let budget = Budget { database: database.to_owned(), orders: orders.clone() };
    let (pace, caller) = (description.pace(), Caller::new(&description, headers, budget));
    let api = Arc::new(Api { description, caller });
    let mut devices = Vec::new();
    for asked in asked {
        let path = AgentPath { site: site.clone(), agent: asked.agent.clone() };
        let (device, key, values) = (asked.device.clone(), asked.spec.key().to_owned(), asked.values.clone());
        let fetch = Box::new(HttpDevice::new(&api, asked));
        devices.push(Polled { key, values, ..Polled::new(path, device, draw()?, fetch) });
    }
    let mut shell = Shell::new(pace, orders, devices);
    shell.lister = api.description.list.is_some().then(|| Lister::new(Arc::clone(&api)));
    shell.differ = api.description.delta.is_some().then(|| Differ::new(Arc::clone(&api)));
    run(shell, database, shutdown)
}

/// Starts the thread of a source, whatever its kind.
fn run(mut shell: Shell, database: &Path, shutdown: watch::Receiver<bool>) -> Result<(), StartError> {
    let database = database.to_owned();
    let run = move || shell.run(&database, &shutdown);
    let thread = std::thread::Builder::new().name("source".into()).spawn(run);
    thread.map(|_| ()).map_err(StartError::Thread)
}

/// Who a device is in this process.
pub(super) fn draw() -> Result<Begin, StartError> {
    let random = || getrandom::u64().map_err(|e| StartError::Random(e.to_string()));
    let connection = ConnectionId((random()? & u64::from(u32::MAX)).try_into().unwrap_or(1));
    Ok(Begin { epoch: Epoch(random()?), connection, previous: None })
}
