//! The running collector: starts broker, writer, MQTT shell and API, and ends them in that order backwards.
//! Decides nothing.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::api::{self, ApiState, Health};
use crate::config::named::{self, Named};
use crate::config::receivers::Receiver;
use crate::config::{BrokerChoice, Config, ConfigError};
use crate::ingest::committer::{Committer, LoadError};
use crate::ingest::{INBOUND_MAX, OUTBOUND_MAX, Orders, broker, mqtt, writer};
use crate::sole::{Sole, SoleError};
use crate::store::{Reader, names, sqlite};
use crate::{backup, clock, sources, tell, tokens};

/// How often it is seen whether a gap has come due.
const LOOK_AFTER_GAPS_EVERY: Duration = Duration::from_secs(1);
/// How long a stop waits for receivers of alerts that are being told, and how often it looks.
const STOP_TELLING: Duration = Duration::from_secs(5);
/// See [`STOP_TELLING`].
const STOP_LOOK: Duration = Duration::from_millis(20);

/// Why the collector does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory.
    #[error("cannot make the data directory {path}")]
    DataDir {
        /// The directory.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The data directory is none.
    #[error("`data_dir`: {path} is a file and must be a folder: name another one, or move the file away")]
    DataFile {
        /// The file.
        path: std::path::PathBuf,
    },
    /// Another collector has it.
    #[error(transparent)]
    Sole(#[from] SoleError),
    /// The database.
    #[error(transparent)]
    Open(#[from] sqlite::OpenError),
    /// The first token.
    #[error(transparent)]
    Token(#[from] tokens::TokenError),
    /// The embedded broker.
    #[error(transparent)]
    Broker(#[from] broker::BrokerError),
    /// The database cannot be written to.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The writer.
    #[error(transparent)]
    Writer(#[from] writer::StartError),
    /// The writer came to a bad end.
    #[error("the writer's thread has failed: see the log before")]
    WriterFailed,
    /// The MQTT shell.
    #[error(transparent)]
    Mqtt(#[from] mqtt::SetupError),
    /// The password's file.
    #[error("cannot read the password file {path}")]
    Password {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A source.
    #[error("a source of the configuration {config} does not start")]
    Source {
        /// Its file.
        config: std::path::PathBuf,
        /// Why.
        #[source]
        source: sources::start::StartError,
    },
    /// A receiver of alerts.
    #[error(transparent)]
    Tell(#[from] tell::StartError),
    /// A backup.
    #[error(transparent)]
    Backup(#[from] backup::BackupError),
    /// The API.
    #[error("cannot serve the API on {listen}")]
    Api {
        /// Its address.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Where the running collector is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// API and page.
    pub http: SocketAddr,
    /// The embedded broker, where it runs.
    pub mqtt: Option<SocketAddr>,
}

/// Runs until `shutdown` becomes `true`; `ready` is called once with the addresses. Port 0 picks free ports.
///
/// # Errors
/// [`RunError`], at the start, or where the writer has failed and nothing more can be stored.
pub async fn run(
    config: &Config,
    shutdown: watch::Receiver<bool>,
    ready: impl FnOnce(Addresses),
) -> Result<(), RunError> {
    make_folder(&config.data_dir)?;
    let _sole = Sole::take(&config.data_dir)?;
    let database = config.database();
    first_token(&database, &config.token_file())?;
    let health = Arc::new(Health::default());
    let (inbound, to_writer) = mpsc::channel(INBOUND_MAX);
    let (from_writer, outbound) = mpsc::channel(OUTBOUND_MAX);
    let committer = Committer::open(&database)?.with_policies(config.gaps.policies());
    let committer = committer.with_donors(config.gaps.donor.all());
    let committer = committer.with_allowances(config.freshness.allowances());
    let committer = committer.with_rules(config.alerts.rules());
    let mut committer = committer.with_housekeeping(config.housekeeping.policy());
    warn_of_unknown_names(config);
    let receivers = config.alerts.receivers();
    let names = receivers.iter().map(Receiver::named).collect();
    if let Err(error) = committer.know_receivers(names, clock::now()) {
        // Where the disk is full: what comes in must go on.
        tracing::error!(%error, "receivers of alerts could not be noted: those that were known before are told");
    }
    let (watch, thread) = writer::start_with(committer, to_writer, from_writer, Arc::clone(&health))?;
    let orders = Orders::to(&inbound);
    tokio::spawn(look_after_gaps(orders.clone()));
    let wrong = |source| RunError::Source { config: config.file.clone().unwrap_or_default(), source };
    sources::start::start(&config.sources, &database, &orders, config.source_workers, &shutdown)
        .map_err(wrong)?;
    let mut tellers = Vec::new();
    for receiver in receivers {
        let from = tell::From { name: config.name.clone(), incarnation: watch.head.incarnation };
        tellers.push(tell::start(receiver, from, &database, orders.clone(), shutdown.clone())?);
    }
    let (options, embedded) = broker_options(config, watch.head.incarnation)?;
    let listen = config.http.listen;
    let failed = |source| RunError::Api { listen, source };
    let listener = api::bind(listen).await.map_err(failed)?;
    ready(Addresses { http: listener.local_addr().map_err(failed)?, mqtt: embedded });
    let store = Arc::new(Reader::new(&database).with_allowances(config.freshness.allowances()));
    let state =
        ApiState { store, commits: watch.commits, health: Arc::clone(&health), orders, now: clock::now };
    let served = tokio::spawn(api::serve(state, listener, ended(shutdown.clone())));
    let until_told = inbound.clone();
    let shell = mqtt::run(options, mqtt::Ends { inbound, outbound, health, shutdown }).await;
    served.abort();
    // What a receiver takes at this moment is written down, or it would be told twice.
    let left = tokio::task::spawn_blocking(move || wait_for(&tellers)).await.unwrap_or_default();
    if left > 0 {
        tracing::warn!(
            left,
            "receivers of alerts have not answered in time: they are told once more after the next start"
        );
    }
    drop(until_told);
    // The shell has dropped its end: the writer commits what it was given and ends.
    let joined = tokio::task::spawn_blocking(move || thread.join()).await;
    if !matches!(joined, Ok(Ok(()))) {
        return Err(RunError::WriterFailed);
    }
    Ok(shell?)
}

/// Whether all that [`run`] reads at its start can be used. Starts and changes nothing.
///
/// # Errors
/// [`RunError`].
pub fn check(config: &Config) -> Result<(), RunError> {
    let wrong = |source| RunError::Source { config: config.file.clone().unwrap_or_default(), source };
    sources::start::check(&config.sources, &config.database()).map_err(wrong)?;
    config.alerts.receivers().iter().try_for_each(tell::check)?;
    match config.broker()? {
        BrokerChoice::Embedded(listen) => broker::check(listen)?,
        BrokerChoice::External { tls, .. } => {
            (if tls { mqtt::authorities(&config.ca_file()).map(drop) } else { Ok(()) })?;
        }
    }
    password(config)?;
    check_user(config)?;
    if config.database().exists() {
        warn_of_unknown_names(config);
    }
    Ok(())
}

/// What the sources name and nobody has so far, a line each.
///
/// # Errors
/// [`RunError`].
pub fn notes(config: &Config) -> Result<Vec<String>, RunError> {
    let wrong = |source| RunError::Source { config: config.file.clone().unwrap_or_default(), source };
    sources::start::notes(&config.sources).map_err(wrong)
}

/// Puts a backup in the place of the database, where no collector runs on it. Returns where that is now.
///
/// # Errors
/// [`RunError`].
pub fn restore(config: &Config, file: &Path) -> Result<Option<PathBuf>, RunError> {
    make_folder(&config.data_dir)?;
    let _sole = Sole::take(&config.data_dir)?;
    let restored = backup::restore(file, &config.database())?;
    // The lock may be new, and a person's who is not the one that runs the collector.
    let folder = std::fs::metadata(&config.data_dir).ok();
    if let Err(error) = backup::give(&Sole::file(&config.data_dir), folder.as_ref()) {
        tracing::warn!(%error, "the lock keeps its owner: see that the collector can write it");
    }
    Ok(restored)
}

/// Waits for threads to end, as long as a stop may take. Returns how many have not.
fn wait_for(threads: &[JoinHandle<()>]) -> usize {
    let deadline = Instant::now() + STOP_TELLING;
    loop {
        let left = threads.iter().filter(|thread| !thread.is_finished()).count();
        if left == 0 || Instant::now() >= deadline {
            return left;
        }
        std::thread::sleep(STOP_LOOK);
    }
}

/// Has gaps looked after as long as there is a writer.
async fn look_after_gaps(orders: Orders) {
    while orders.look_after_gaps().await {
        tokio::time::sleep(LOOK_AFTER_GAPS_EVERY).await;
    }
}

fn make_folder(path: &Path) -> Result<(), RunError> {
    if path.is_file() {
        return Err(RunError::DataFile { path: path.to_owned() });
    }
    std::fs::create_dir_all(path).map_err(|source| RunError::DataDir { path: path.to_owned(), source })
}

/// A name that nobody has announced may be a slip, or announced later.
fn warn_of_unknown_names(config: &Config) {
    let known = sqlite::open_reader(&config.database()).and_then(|connection| names::all(&connection));
    let known = known.unwrap_or_else(|error| {
        tracing::warn!(%error, "whether all names in the configuration are known cannot be seen");
        BTreeSet::new()
    });
    let file = config.file.clone().unwrap_or_default();
    for Named { table, name, line } in named::unknown(&config.named, &known) {
        let (file, what) = (file.display(), if name.contains('/') { "device" } else { "site" });
        tracing::warn!(
            "{file}:{line}: {table} `{name}`: no {what} of that name is known so far; what is said of it is for none until one is \
             announced"
        );
    }
}

async fn ended(mut shutdown: watch::Receiver<bool>) {
    // Where the sender is gone the process is ending too.
    let _ = shutdown.wait_for(|end| *end).await;
}

fn first_token(database: &Path, file: &Path) -> Result<(), RunError> {
    let connection = sqlite::open_writer(database)?;
    if tokens::ensure_admin(&connection, file)? {
        tracing::info!(file = %file.display(), "the admin token of the API is in this file, and nowhere else");
    }
    Ok(())
}

fn broker_options(
    config: &Config,
    incarnation: gapless_common::id::Incarnation,
) -> Result<(mqtt::Options, Option<SocketAddr>), RunError> {
    let (host, port, tls, embedded) = match config.broker()? {
        BrokerChoice::Embedded(listen) => {
            let address = broker::start(listen)?;
            (address.ip().to_string(), address.port(), false, Some(address))
        }
        BrokerChoice::External { host, port, tls } => (host, port, tls, None),
    };
    let password = password(config)?;
    // What worked without goes on to work.
    if let Err(error) = check_user(config) {
        tracing::warn!("the password is not used: {error}");
    }
    let credentials = config.mqtt.user.clone().map(|user| (user, password));
    let tls = tls.then(|| config.ca_file());
    Ok((mqtt::Options { name: config.name.clone(), host, port, credentials, tls, incarnation }, embedded))
}

/// A password is somebody's.
fn check_user(config: &Config) -> Result<(), ConfigError> {
    match (&config.mqtt.password_file, &config.mqtt.user) {
        (Some(path), None) => Err(ConfigError::Value {
            key: "mqtt.password_file",
            value: path.display().to_string(),
            why: "name the `user` whose password it is",
        }),
        _ => Ok(()),
    }
}

/// The collector's password at the broker; empty where it has none.
fn password(config: &Config) -> Result<String, RunError> {
    let Some(path) = &config.mqtt.password_file else { return Ok(String::new()) };
    let read = std::fs::read_to_string(path);
    let text = read.map_err(|source| RunError::Password { path: path.clone(), source })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_has_a_user() {
        let rows = [
            (None, None, true),
            (Some("u"), None, true),
            (Some("u"), Some("p"), true),
            (None, Some("p"), false),
        ];
        for (user, password_file, is_right) in rows {
            let mut config = Config::default();
            config.mqtt.user = user.map(str::to_owned);
            config.mqtt.password_file = password_file.map(PathBuf::from);
            assert_eq!(check_user(&config).is_ok(), is_right, "{user:?} {password_file:?}");
        }
    }

    #[test]
    fn a_data_directory_that_is_a_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data");
        make_folder(&file).unwrap();
        make_folder(&file).unwrap();
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, "").unwrap();
        let why = make_folder(&file).unwrap_err().to_string();
        assert!(why.contains("`data_dir`") && why.contains("is a file and must be a folder"), "{why}");
    }
}
