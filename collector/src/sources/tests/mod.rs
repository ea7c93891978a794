//! A source with devices that answer as they are told, and a database in memory.

mod beginnings;
mod changes;
mod lists;
mod reads;
mod urgency;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};

use gapless_common::message::Outcome;
use gapless_common::quality::{Cause, Quality};
use gapless_common::reading::{Record, Value};
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;
use gapless_common::wire::{self, Message};
use rusqlite::Connection;
use tokio::sync::mpsc;

use super::account::Accounts;
use super::auth::Credentials;
use super::call::Caller;
use super::describe::{Asked, Description};
use super::failure::Failure;
use super::fetch::{Fetch, Pace};
use super::ground::{Ground, Process};
use super::http::Api;
use super::life::{Life, Polled};
use super::list::Entry;
use super::naming::Names;
use super::relist::Lister;
use super::roster::Changes;
use super::rows::{Parsed, Row};
use super::shell::Shell;
use super::start::draw;
use crate::clock;
use crate::ingest::{Orders, Task};
use crate::jobs::budget::Urgency;
use crate::store::sources::Scan;
use crate::store::sqlite;

const FLEET: &str = include_str!("../../../sources/thermostat-fleet.toml");
const DAY_MS: i64 = 86_400_000;
/// Words of a description that has no limits: nothing is counted.
const UNLIMITED: (&str, &str) =
    ("calls = [{ most = 1000, per = \"1h\" }, { most = 10000, per = \"1d\" }]\n", "");

/// What a device is asked, and how it answers.
#[derive(Debug, Default)]
struct Told {
    urgencies: Vec<Urgency>,
    windows: Vec<(Timestamp, Timestamp)>,
    /// The nets by which it is asked for from then on.
    renewed: Vec<String>,
    /// What it has.
    rows: Vec<Row>,
    /// What is wrong with the next questions, in order; nothing of those after.
    failures: VecDeque<Option<Failure>>,
    /// What the next windows give, in order; nothing those after.
    parsed: VecDeque<Parsed>,
    /// A fault of this program is in the way of its next questions, so many.
    faults: u32,
    /// Its name, and where the names of those are that were asked.
    order: Option<(&'static str, Arc<Mutex<Vec<&'static str>>>)>,
}

#[derive(Debug, Clone, Default)]
struct Fake(Arc<Mutex<Told>>);

impl Fake {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().unwrap()
    }

    fn answer(&self) -> Result<(), Failure> {
        let has_fault = {
            let mut told = self.told();
            let has_fault = told.faults > 0;
            told.faults -= u32::from(has_fault);
            has_fault
        };
        assert!(!has_fault, "an index out of bounds");
        self.told().failures.pop_front().flatten().map_or(Ok(()), Err)
    }
}

impl Fetch for Fake {
    fn oldest(&mut self, now: Timestamp) -> Result<Timestamp, Failure> {
        self.answer().map(|()| now.plus_ms(-DAY_MS))
    }

    fn fetch(&mut self, from: Timestamp, to: Timestamp) -> Result<Parsed, Failure> {
        self.told().windows.push((from, to));
        if let Some((name, order)) = &self.told().order {
            order.lock().unwrap().push(*name);
        }
        self.answer()?;
        let parsed = self.told().parsed.pop_front();
        let rows = self.told().rows.iter().filter(|row| from <= row.at && row.at < to).cloned().collect();
        Ok(parsed.unwrap_or_else(|| Parsed { rows, ..Parsed::default() }))
    }

    fn probe(&mut self) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    fn renew(&mut self, asked: Asked) {
        self.told().renewed.extend(asked.spec.vars.get("net").cloned());
    }

    fn set_urgency(&mut self, urgency: Urgency) {
        self.told().urgencies.push(urgency);
    }
}

/// A source of which these devices are listed, or were listed before.
struct Bench {
    shell: Shell,
    api: Arc<Api>,
    names: Names,
    connection: Connection,
    /// What was handed to the writer.
    inbound: (mpsc::Sender<Task>, mpsc::Receiver<Task>),
}

fn entry(id: &str, name: &str) -> Entry {
    Entry { id: id.to_owned(), name: name.to_owned(), ..Entry::default() }
}

impl Bench {
    fn new(words: &[(&str, &str)]) -> Self {
        let text = words.iter().fold(FLEET.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        let description = Description::read(&text).unwrap();
        let inbound = mpsc::channel(1_000);
        let ground: Arc<dyn Ground> = Arc::new(Process::new(Path::new("/nowhere"), &Orders::to(&inbound.0)));
        let account = Accounts::default().of(&description);
        let caller = Caller::new(&description, (Credentials::default(), None), account, Arc::clone(&ground));
        let pace = Pace { window_ms: DAY_MS, overlap_ms: 0, lag_ms: 2 * DAY_MS, ..description.pace() };
        let api = Arc::new(Api { description, caller });
        let (names, mut shell) = (Names::default(), Shell::new(pace, ground, "fleet".to_owned(), Vec::new()));
        shell.lister = Some(Lister::new(Arc::clone(&api), names.clone()));
        let connection = sqlite::make_writer(Connection::open_in_memory().unwrap(), 7).unwrap();
        Self { shell, api, names, connection, inbound }
    }

    /// A device that answers as it is told.
    fn device(&mut self, name: &str) -> Fake {
        let asked = self.api.description.listed(&entry(name, name), name).unwrap();
        let path = AgentPath { site: self.api.description.site_id().unwrap(), agent: asked.agent.clone() };
        let fake = Fake::default();
        let fetch = Box::new(fake.clone());
        self.shell.devices.push(Polled::new(path, asked.device, draw(&*self.shell.ground).unwrap(), fetch));
        fake
    }

    /// The device of this place is told to poll: it is stale by so much.
    fn order(&self, no: i64, name: &str, age_ms: i64) {
        let put = |sql: &str, values: &[&dyn rusqlite::ToSql]| self.connection.execute(sql, values).unwrap();
        put("INSERT OR IGNORE INTO sites (id, name) VALUES (1, 'home-1')", &[]);
        put(
            "INSERT INTO agents (id, site, name, connected) VALUES (?1, 1, ?2, 1)",
            &[&no, &format!("fleet-{name}")],
        );
        put("INSERT INTO devices (id, site, name) VALUES (?1, 1, ?2)", &[&no, &name]);
        let now = clock::now();
        put(
            "INSERT INTO commands (id, agent, kind, device, created_at, expires_at) VALUES (?1, ?1, 4, ?2, 0, ?3)",
            &[&no, &name, &(now.0 + DAY_MS)],
        );
        put(
            "INSERT INTO jobs (device, no, source, why, asked_at, due_at, fresh_at, allowed_ms, failures, lease, lease_until,
                began_at, command) VALUES (?1, ?1, 1, 1, 0, 0, ?2, 1000, 0, 1, 0, 0, ?1)",
            &[&no, &(now.0 - age_ms)],
        );
    }

    /// Nobody waits for what was ordered any more.
    fn expire(&self) {
        self.connection.execute("UPDATE commands SET expires_at = 1", []).unwrap();
    }

    /// The outcomes of commands that were handed to the writer since this was asked last, by command.
    fn replies(&mut self) -> Vec<(u64, Outcome)> {
        let mut replies = Vec::new();
        while let Ok(task) = self.inbound.1.try_recv() {
            let Task::Message(inbound) = task else { continue };
            if let Ok(Message::Reply(reply)) = wire::decode(&inbound.payload) {
                replies.push((reply.id, reply.outcome));
            }
        }
        replies
    }

    /// One look, at what the database says now.
    fn look(&mut self) -> Result<bool, Failure> {
        let scan = Scan::read(&self.connection, clock::now())?;
        self.shell.look(&self.connection, &scan)
    }

    /// What is known of the devices, in their order.
    fn known(&self) -> Vec<bool> {
        self.shell.devices.iter().map(|polled| matches!(polled.life, Life::Known(_))).collect()
    }

    /// A listing names these for the first time.
    fn list(&mut self, entries: &[Entry]) {
        let changes = Changes { new: entries.to_vec(), ..Changes::default() };
        self.shell.go_by(&self.connection, &Arc::clone(&self.api), changes, true).unwrap();
    }

    /// The values that were handed to the writer since this was asked last, in order.
    fn written(&mut self) -> Vec<(Timestamp, f64)> {
        let mut written = Vec::new();
        while let Ok(task) = self.inbound.1.try_recv() {
            let Task::Message(inbound) = task else { continue };
            let Ok(Message::Data(frame)) = wire::decode(&inbound.payload) else { continue };
            for record in frame.records {
                let Record::Readings(readings) = record else { continue };
                written.extend(readings.samples.iter().filter_map(|sample| match sample.value {
                    Some(Value::Number(value)) => Some((readings.at, value)),
                    _ => None,
                }));
            }
        }
        written
    }

    /// What was handed to the writer as missing since this was asked last: first slot, count and cause.
    fn missed(&mut self) -> Vec<(i64, u32, Cause)> {
        let mut missed = Vec::new();
        while let Ok(task) = self.inbound.1.try_recv() {
            let Task::Message(inbound) = task else { continue };
            let Ok(Message::Data(frame)) = wire::decode(&inbound.payload) else { continue };
            missed.extend(frame.records.iter().filter_map(|record| match record {
                Record::Misses(misses) => Some((misses.first.0, misses.count, misses.cause)),
                _ => None,
            }));
        }
        missed
    }

    fn names(&self) -> Vec<&str> {
        self.shell.devices.iter().map(|polled| polled.device.id.as_str()).collect()
    }
}

/// What is written into the log.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn row(at: Timestamp, value: f64) -> Row {
    Row { at, cells: vec![Some((Some(value), Quality::Good)), None] }
}
