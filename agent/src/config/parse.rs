//! From TOML text to a validated configuration: site, uplink, outbox, clock, status. Buses and devices are read
//! in `bus` and `device`. Opens no file: a password file is only named here.

use std::path::PathBuf;

use gapless_common::document::{At, Document, Problems, Table};
use gapless_common::profile::ProfileSet;

use super::bus::read_buses;
use super::endpoint::{Endpoint, broker};
use super::{
    Backlog, Broker, ClientCertificate, ClockTrust, Config, DropPolicy, Outbox, Password, Secret, Store,
    Uplink,
};

/// Why a text is not a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct ConfigError(#[from] pub Problems);

const DAY_MS: u32 = 86_400_000;
const BUDGET_MIN_BYTES: u64 = 1 << 20;
const DAILY_BUDGET_MIN_BYTES: u64 = 64 << 10;
const BUDGET_DEFAULT_BYTES: u64 = 64 << 20;

impl Config {
    /// Reads a configuration. `file` is its name in messages; `profiles` are what devices may refer to.
    ///
    /// # Errors
    /// All that is wrong, each with line, column and what would be right.
    pub fn parse(file: &str, toml: &str, profiles: &ProfileSet) -> Result<Self, ConfigError> {
        let document = Document::parse(toml);
        let root = document.root();
        let config = read(&root, profiles);
        root.finish();
        Ok(document.finish(file, config)?)
    }
}

fn read(root: &Table<'_>, profiles: &ProfileSet) -> Option<Config> {
    root.need("site", "\"north-farm\"");
    root.need("agent", "\"gateway-1\"");
    root.need("uplink", "{ broker = \"mqtt://broker.example.org\" }");
    root.need("outbox", "{ path = \"/var/lib/gapless/outbox\" }");
    let site = root.parsed("site");
    let agent = root.parsed("agent");
    let uplink = root.table("uplink").and_then(|table| read_uplink(&table));
    let outbox = root.table("outbox").and_then(|table| read_outbox(&table));
    let clock = root.table("clock").map_or_else(ClockTrust::default, |table| read_clock(&table));
    let status_socket = root.table("status").and_then(|table| read_status(&table));
    let buses = read_buses(root, profiles);
    let (buses, loggers, folders) = buses?;
    Some(Config {
        site: site?.value,
        agent: agent?.value,
        uplink: uplink?,
        outbox: outbox?,
        clock,
        status_socket,
        buses,
        loggers,
        folders,
    })
}

fn read_uplink(table: &Table<'_>) -> Option<Uplink> {
    table.need("broker", "\"mqtts://broker.example.org\"");
    let broker = table.filled_text("broker").and_then(|found| read_broker(table, found));
    let username = table.filled_text("username").map(|found| found.value.to_owned());
    let password = read_password(table);
    if let (None, Some(_)) = (&username, &password) {
        table.report(table.place(), "a password needs a `username` (MQTT 3.1.1, section 3.1.2.9)");
    }
    let ca_file = path(table, "ca_file");
    let client_certificate = read_client_certificate(table);
    if broker.as_ref().is_some_and(|broker| !broker.tls)
        && let Some(at) = table.place_of("ca_file").or(table.place_of("client_certificate_file"))
    {
        table.report(at, "certificates need TLS: write the broker as mqtts://…");
    }
    let flush = table.duration_within("flush", 0..=DAY_MS);
    let daily_budget = table.size_bytes("daily_budget");
    if let Some(found) = daily_budget.filter(|found| found.value < DAILY_BUDGET_MIN_BYTES) {
        table.report(found.place, "`daily_budget` must be 64KiB or more: one full frame takes as much");
    }
    let backlog =
        table.word("backlog", &[("oldest", Backlog::OldestFirst), ("newest", Backlog::NewestFirst)]);
    let window = table.u8("window", 8..=32).unwrap_or(16);
    let keep_alive_ms = table.duration_within("keep_alive", 5_000..=3_600_000).map_or(60_000, |at| at.value);
    table.finish();
    Some(Uplink {
        broker: broker?,
        username,
        password,
        ca_file,
        client_certificate,
        flush_ms: flush.map_or(0, |found| u64::from(found.value)),
        daily_budget_bytes: daily_budget.map(|found| found.value),
        window,
        backlog: backlog.unwrap_or_default(),
        keep_alive_s: u16::try_from(keep_alive_ms / 1_000).unwrap_or(u16::MAX),
    })
}

fn read_broker(table: &Table<'_>, found: At<&str>) -> Option<Broker> {
    match broker(found.value) {
        Ok((tls, Endpoint { host, port })) => Some(Broker { host, port, tls }),
        Err(problem) => {
            table.report(found.place, format!("`broker` {problem}"));
            None
        }
    }
}

pub(super) fn read_password(table: &Table<'_>) -> Option<Password> {
    let inline = table.filled_text("password").map(|found| Secret::new(found.value.to_owned()));
    let file = path(table, "password_file");
    match (inline, file) {
        (Some(_), Some(_)) => {
            table.report(table.place(), "`password` and `password_file` are both there: keep one of them");
            None
        }
        (Some(secret), None) => Some(Password::Inline(secret)),
        (None, Some(file)) => Some(Password::File(file)),
        (None, None) => None,
    }
}

fn read_client_certificate(table: &Table<'_>) -> Option<ClientCertificate> {
    let certificate_file = path(table, "client_certificate_file");
    let key_file = path(table, "client_key_file");
    if certificate_file.is_some() != key_file.is_some() {
        table.report(table.place(), "`client_certificate_file` and `client_key_file` go together");
    }
    Some(ClientCertificate { certificate_file: certificate_file?, key_file: key_file? })
}

fn read_outbox(table: &Table<'_>) -> Option<Outbox> {
    table.need("path", "\"/var/lib/gapless/outbox\"");
    let path = path(table, "path");
    let store = table.word("store", &[("journal", Store::Journal), ("sled", Store::Sled)]);
    let budget = table.size_bytes("budget");
    if let Some(found) = budget.filter(|found| found.value < BUDGET_MIN_BYTES) {
        table.report(found.place, "`budget` must be 1MiB or more: the outbox keeps spare segments within it");
    }
    let policy = table
        .word("policy", &[("drop-oldest", DropPolicy::DropOldest), ("drop-newest", DropPolicy::DropNewest)]);
    let durability = table.duration_within("durability", 0..=60_000);
    table.finish();
    Some(Outbox {
        path: path?,
        store: store.unwrap_or_default(),
        budget_bytes: budget.map_or(BUDGET_DEFAULT_BYTES, |found| found.value),
        policy: policy.unwrap_or_default(),
        durability_ms: durability.map_or(1_000, |found| found.value),
    })
}

fn read_clock(table: &Table<'_>) -> ClockTrust {
    let words = [("synchronised", ClockTrust::Synchronised), ("always", ClockTrust::Always)];
    let trust = table.word("trust", &words);
    table.finish();
    trust.unwrap_or_default()
}

fn read_status(table: &Table<'_>) -> Option<PathBuf> {
    let socket = path(table, "socket");
    table.finish();
    socket
}

pub(super) fn path(table: &Table<'_>, key: &'static str) -> Option<PathBuf> {
    table.filled_text(key).map(|found| PathBuf::from(found.value))
}
