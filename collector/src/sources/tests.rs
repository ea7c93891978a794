//! The thread of a source with devices that answer as they are told, and a database in memory.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use gapless_common::message::{Command, CommandBody, Outcome};
use gapless_common::quality::Quality;
use gapless_common::reading::{Record, Value};
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;
use gapless_common::wire::{self, Message};
use rusqlite::Connection;
use tokio::sync::mpsc;

use super::account::{Accounts, Budget};
use super::auth::Credentials;
use super::call::Caller;
use super::delta::{Change, ToRead};
use super::describe::{Asked, Description, Whose};
use super::differ::Differ;
use super::failure::Failure;
use super::fetch::{Fetch, Pace};
use super::http::Api;
use super::life::{Began, Life, Polled, Reread};
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

const FLEET: &str = include_str!("../../sources/thermostat-fleet.toml");
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
        let orders = Orders::to(&inbound.0);
        let budget = Budget { database: "/nowhere".into(), orders: orders.clone() };
        let account = Accounts::default().of(&description);
        let caller = Caller::new(&description, (Credentials::default(), None), account, budget);
        let pace = Pace { window_ms: DAY_MS, overlap_ms: 0, lag_ms: 2 * DAY_MS, ..description.pace() };
        let api = Arc::new(Api { description, caller });
        let (names, mut shell) = (Names::default(), Shell::new(pace, orders, "fleet".to_owned(), Vec::new()));
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
        self.shell.devices.push(Polled::new(path, asked.device, draw().unwrap(), fetch));
        fake
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

    fn names(&self) -> Vec<&str> {
        self.shell.devices.iter().map(|polled| polled.device.id.as_str()).collect()
    }
}

#[test]
fn a_device_that_cannot_be_begun_keeps_no_other_one_from_it_but_a_source_that_rests_does() {
    let rows: [(Failure, [bool; 3]); 4] = [
        (Failure::Transport("no route".into()), [true, false, true]),
        (Failure::Withdrawn { whose: Whose::Device, why: "no".into() }, [true, false, true]),
        (Failure::Spent(clock::now().plus_ms(9_000)), [true, false, true]),
        (Failure::Hold(clock::now().plus_ms(9_000)), [true, false, false]),
    ];
    for (failure, expected) in rows {
        let (mut bench, what) = (Bench::new(&[]), failure.to_string());
        // The list is not of interest.
        bench.shell.lister = None;
        bench.device("a");
        bench.device("b").told().failures.push_back(Some(failure));
        bench.device("c");
        let looked = bench.look();
        assert_eq!(bench.known(), expected, "{what}");
        assert_eq!(looked.is_ok(), expected[2], "{what}");
        // None is asked again at once.
        bench.look().unwrap();
        assert_eq!(bench.known(), expected, "{what}");
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

#[test]
fn who_only_waits_is_no_news_and_who_fails_is_told_of_with_source_device_and_reason() {
    let soon = clock::now().plus_ms(9_000);
    let rows = [
        (Failure::Spent(soon), "DEBUG"),
        (Failure::Rests(soon), "DEBUG"),
        (Failure::Transport("no route".into()), "WARN"),
        (Failure::Withdrawn { whose: Whose::Device, why: "moved out".into() }, "WARN"),
    ];
    for (failure, level) in rows {
        let (mut bench, log, why) = (Bench::new(&[]), Log::default(), failure.to_string());
        bench.shell.lister = None;
        bench.device("a").told().failures.push_back(Some(failure));
        let written = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || written.clone());
        tracing::subscriber::with_default(subscriber.finish(), || bench.look().unwrap());
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let line = text.lines().find(|line| line.contains(&why)).unwrap_or_default();
        let has = |word: &str| line.contains(word);
        assert!(has(level) && has("source=\"fleet\"") && has("device=\"a\""), "{why}: {text}");
    }
}

#[test]
fn consent_that_is_withdrawn_of_one_device_is_not_that_of_the_others() {
    for (whose, expected) in [(Whose::Device, [true, false, true]), (Whose::Account, [false; 3])] {
        let mut bench = Bench::new(&[]);
        bench.shell.lister = None;
        let fakes = ["a", "b", "c"].map(|name| bench.device(name));
        bench.look().unwrap();
        assert_eq!(bench.known(), [true; 3]);
        let refused = Failure::Withdrawn { whose, why: "moved out".into() };
        fakes[1].told().failures.push_back(Some(refused));
        let body = CommandBody::PollNow("b".parse().unwrap());
        let command = Command { id: 1, expires: clock::now().plus_ms(DAY_MS), body };
        bench.shell.carry_out(&bench.connection, 1, &command).unwrap();
        assert_eq!(bench.known(), expected, "{whose:?}");
        let windows = fakes[1].told().windows.len();
        bench.shell.carry_out(&bench.connection, 1, &Command { id: 2, ..command }).unwrap();
        assert_eq!(fakes[1].told().windows.len(), windows, "no further calls");
    }
}

#[test]
fn the_most_urgent_device_is_asked_first_and_what_was_answered_is_not_asked_again() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let fakes = ["a", "b", "c", "d"].map(|name| bench.device(name));
    bench.look().unwrap();
    let now = clock::now();
    // Each is told to poll: stale by so much, by a person, or for what has been missing for long.
    let sql = "INSERT INTO sites (id, name) VALUES (1, 'home-1')";
    bench.connection.execute(sql, []).unwrap();
    let rows = [("a", Some((1, 1_000))), ("b", Some((1, 5_000))), ("c", Some((4, 0))), ("d", None)];
    for (no, (name, job)) in (1_i64..).zip(rows) {
        let put = |sql: &str, values: &[&dyn rusqlite::ToSql]| bench.connection.execute(sql, values).unwrap();
        put(
            "INSERT INTO agents (id, site, name, connected) VALUES (?1, 1, ?2, 1)",
            &[&no, &format!("fleet-{name}")],
        );
        put("INSERT INTO devices (id, site, name) VALUES (?1, 1, ?2)", &[&no, &name]);
        let (kind, from) = if job.is_some() { (4, None) } else { (5, Some(now.0 - DAY_MS)) };
        put(
            "INSERT INTO commands (id, agent, kind, a, b, device, created_at, expires_at) VALUES (?1, ?1, ?2, ?3, ?4, ?5, 0, ?6)",
            &[&no, &kind, &from, &from.map(|_| now.0), &name, &(now.0 + DAY_MS)],
        );
        if let Some((why, age_ms)) = job {
            put(
                "INSERT INTO jobs (device, no, source, why, asked_at, due_at, fresh_at, allowed_ms, failures, lease, lease_until,
                    began_at, command) VALUES (?1, ?1, 1, ?2, 0, 0, ?3, 1000, 0, 1, 0, 0, ?1)",
                &[&no, &why, &(now.0 - age_ms)],
            );
        }
    }
    let order = Arc::new(Mutex::new(Vec::new()));
    for (name, fake) in ["a", "b", "c", "d"].into_iter().zip(&fakes) {
        fake.told().order = Some((name, Arc::clone(&order)));
    }
    let scan = Scan::read(&bench.connection, clock::now()).unwrap();
    assert_eq!(bench.shell.wants(&scan, now), Some(Urgency::Asked.rank()));
    bench.look().unwrap();
    // Each reads several windows.
    order.lock().unwrap().dedup();
    assert_eq!(*order.lock().unwrap(), ["c", "b", "a", "d"]);
    bench.look().unwrap();
    assert_eq!(order.lock().unwrap().len(), 4);
    assert_eq!(bench.shell.wants(&scan, now), None, "nothing to do");
}

#[test]
fn a_first_call_is_the_more_urgent_the_longer_it_waits() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let fake = bench.device("a");
    for waited_ms in [0, 299_000, 301_000, 900_000] {
        let polled = &mut bench.shell.devices[0];
        polled.life = Life::NEW;
        polled.waits_since = (waited_ms > 0).then(|| clock::now().plus_ms(-waited_ms));
        fake.told().failures.push_back(Some(Failure::Spent(clock::now().plus_ms(9_000))));
        bench.look().unwrap();
        assert!(bench.shell.devices[0].waits_since.is_some());
    }
    let urgencies = fake.told().urgencies.clone();
    let is = |urgency: &Urgency, expected: f64| matches!(urgency, Urgency::Score(score) if (score - expected).abs() < 0.1);
    let all = urgencies.iter().zip([0.0, 0.0, 1.0, 3.0]);
    assert!(
        all.clone().count() == 4 && all.into_iter().all(|(urgency, expected)| is(urgency, expected)),
        "{urgencies:?}"
    );
}

#[test]
fn a_first_call_that_fails_is_no_more_urgent_than_at_first() {
    let rows = [
        (Failure::Status(404, String::new()), false),
        (Failure::Transport("reset".into()), false),
        (Failure::Unreachable("asleep".into()), false),
        (Failure::Hold(clock::now().plus_ms(9_000)), true),
        (Failure::Spent(clock::now().plus_ms(9_000)), true),
    ];
    for (failure, has_waited) in rows {
        let (mut bench, what) = (Bench::new(&[]), failure.to_string());
        bench.shell.lister = None;
        let fake = bench.device("a");
        bench.shell.devices[0].waits_since = Some(clock::now().plus_ms(-900_000));
        fake.told().failures.push_back(Some(failure));
        let _ = bench.look();
        assert_eq!(bench.shell.devices[0].waits_since.is_some(), has_waited, "{what}");
    }
}

#[test]
fn what_is_missing_is_the_more_urgent_the_longer_it_waits_for_a_call_whatever_asks_for_it() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let fake = bench.device("a");
    bench.look().unwrap();
    fake.told().urgencies.clear();
    let now = clock::now();
    let device = bench.shell.devices[0].device.id.clone();
    let body = CommandBody::ReadHistory { device, from: now.plus_ms(-DAY_MS), to: now };
    // The first waits, the second one expires, the third asks for the same and is carried out.
    for (id, expires_ms, is_spent) in [(1, 60_000, true), (2, 1_000, true), (3, 60_000, false)] {
        let until = now.plus_ms(30_000);
        fake.told().failures = if is_spent { [Some(Failure::Spent(until))].into() } else { VecDeque::new() };
        let command = Command { id, expires: now.plus_ms(expires_ms), body: body.clone() };
        bench.shell.carry_out(&bench.connection, 0, &command).unwrap();
        let waits_since = &mut bench.shell.devices[0].waits_since;
        assert_eq!(waits_since.is_some(), is_spent, "{id}");
        *waits_since = waits_since.map(|since| since.plus_ms(-3 * 3_600_000));
    }
    let urgencies = fake.told().urgencies.clone();
    let is = |urgency: &Urgency, expected: f64| matches!(urgency, Urgency::Score(score) if (score - expected).abs() < 0.1);
    // After the window that was served the next one would leave the account to others.
    assert_eq!((urgencies.len(), urgencies[0], urgencies[3]), (4, Urgency::Spare, Urgency::Spare));
    assert!(is(&urgencies[1], 3.0) && is(&urgencies[2], 6.0), "{urgencies:?}");
}

#[test]
fn what_is_missing_waits_through_a_rest_of_the_source_and_not_beyond_its_commands_and_one_window_is_served_by_it()
 {
    const HOUR_MS: i64 = 3_600_000;
    let (until, three_hours) = (clock::now().plus_ms(30_000), 3 * HOUR_MS);
    let spent = || Some(Failure::Spent(until));
    // How long ago it was refused last, what its windows meet; how urgent they were, and how long what is left has waited.
    let rows = [
        (1_000, vec![spent()], vec![3.0], Some(three_hours)),
        (1_000, vec![Some(Failure::Hold(until))], vec![3.0], Some(three_hours)),
        (1_000, vec![None, spent()], vec![3.0, -1.0], Some(0)),
        (1_000, vec![None, None], vec![3.0, -1.0, -1.0], None),
        (1_000, vec![Some(Failure::Status(404, String::new()))], vec![3.0], None),
        // Its command has ended, and nobody asked for it since.
        (HOUR_MS, vec![spent()], vec![-1.0], Some(0)),
    ];
    for (refused_ms, failures, urgencies, waits_ms) in rows {
        let what = format!("{refused_ms} {failures:?}");
        let mut bench = Bench::new(&[]);
        bench.shell.lister = None;
        let fake = bench.device("a");
        bench.look().unwrap();
        fake.told().urgencies.clear();
        fake.told().failures = failures.into();
        let now = clock::now();
        bench.shell.devices[0].refused(now.plus_ms(-three_hours), now.plus_ms(-refused_ms));
        let device = bench.shell.devices[0].device.id.clone();
        let body = CommandBody::ReadHistory { device, from: now.plus_ms(-2 * DAY_MS), to: now };
        let command = Command { id: 1, expires: now.plus_ms(60_000), body };
        bench.shell.carry_out(&bench.connection, 0, &command).unwrap();
        let told = fake.told().urgencies.clone();
        let is_it = |(urgency, expected): (&Urgency, &f64)| match urgency {
            Urgency::Score(score) => (score - expected).abs() < 0.1,
            _ => *expected < 0.0,
        };
        assert!(told.len() == urgencies.len() && told.iter().zip(&urgencies).all(is_it), "{what}: {told:?}");
        let waited = bench.shell.devices[0].waits_since.map(|since| now.since_ms(since));
        let is_close = waited.zip(waits_ms).is_some_and(|(is, expected)| (is - expected).abs() < 2_000);
        assert!(is_close || (waited, waits_ms) == (None, None), "{what}: {waited:?}");
    }
}

#[test]
fn a_read_of_many_windows_goes_on_where_it_was_broken_off() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let fake = bench.device("a");
    bench.look().unwrap();
    let from = clock::now().plus_ms(-10 * DAY_MS);
    let began = |no: u32| Began { revision: Some(no.to_string()), ..Began::default() };
    let first = |fake: &Fake| fake.told().windows.first().map(|(from, _)| *from);
    fake.told().failures = [None, None, None, Some(Failure::Spent(from))].into();
    assert!(bench.shell.pull(0, from, began(1)).is_err());
    assert_eq!(fake.told().windows.drain(..).count(), 4);
    // It is wanted from a little later on by then: the three days that were read are not asked for again.
    fake.told().failures = [None, Some(Failure::Transport("reset".into()))].into();
    assert!(bench.shell.pull(0, from.plus_ms(5), began(2)).is_err());
    assert_eq!(first(&fake), Some(from.plus_ms(3 * DAY_MS)));
    fake.told().windows.clear();
    let (_, seen) = bench.shell.pull(0, from.plus_ms(9), began(3)).unwrap();
    assert_eq!((first(&fake), fake.told().windows.len()), (Some(from.plus_ms(4 * DAY_MS)), 7));
    // What changed since it began it may not have seen.
    assert_eq!(seen, Some(began(1)));
    fake.told().windows.clear();
    // What is over is over.
    let (_, seen) = bench.shell.pull(0, from.plus_ms(9), began(4)).unwrap();
    assert_eq!((first(&fake), seen), (Some(from.plus_ms(9)), Some(began(4))));
    fake.told().windows.clear();
    // The clock was set back: nothing is read of a time that has not come, and that is not taken for read.
    assert_eq!(bench.shell.pull(0, clock::now().plus_ms(DAY_MS), began(4)).unwrap(), (false, None));
    assert_eq!(first(&fake), None);
    // More is wanted than what was broken off would have held.
    fake.told().failures = [None, Some(Failure::Spent(from))].into();
    assert!(bench.shell.pull(0, from, began(5)).is_err());
    fake.told().windows.clear();
    let (_, seen) = bench.shell.pull(0, from.plus_ms(-1), began(6)).unwrap();
    assert_eq!((first(&fake), seen), (Some(from.plus_ms(-1)), Some(began(6))));
}

#[test]
fn a_read_that_goes_on_passes_over_nothing_that_was_due_while_the_device_was_away() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let fake = bench.device("a");
    bench.look().unwrap();
    // All before is accounted for; what comes after that may still come.
    let next = bench.shell.known(0).unwrap().next;
    let (from, began) = (next.plus_ms(-3 * DAY_MS), Began::default());
    bench.shell.pace.lag_ms = 10 * DAY_MS;
    fake.told().failures = [None, None, None, Some(Failure::Unreachable("asleep".into()))].into();
    fake.told().windows.clear();
    bench.shell.pace.window_ms = DAY_MS + 3_600_000;
    assert!(bench.shell.pull(0, from, began.clone()).is_err());
    bench.shell.pace.lag_ms = 0;
    bench.shell.away(0, "asleep").unwrap();
    assert!(
        bench.shell.known(0).unwrap().next > next.plus_ms(DAY_MS / 2),
        "what was due of it is accounted for"
    );
    fake.told().windows.clear();
    bench.shell.pull(0, from, began).unwrap();
    assert_eq!(fake.told().windows.first().map(|(from, _)| *from), Some(next));
}

#[test]
fn devices_are_read_though_the_question_what_changed_fails_from_the_start() {
    // Nobody answers at this address.
    let mut bench = Bench::new(&[("127.0.0.1:9403", "127.0.0.1:1"), UNLIMITED]);
    bench.shell.lister = None;
    let fake = bench.device("a");
    bench.look().unwrap();
    bench.shell.differ = Some(Differ::new(Arc::clone(&bench.api)));
    let at = clock::now().plus_ms(-3_600_000);
    fake.told().rows = vec![row(at, 20.5)];
    for _ in 0..2 {
        let before = fake.told().windows.len();
        bench.written();
        let outcome = bench.shell.poll_changes(0, at, Urgency::Asked).unwrap();
        assert_eq!((outcome, bench.written()), (Outcome::Done, vec![(at, 20.5)]));
        assert!(fake.told().windows.len() > before, "it is not taken for read");
    }
    let seen = bench.shell.known(0).unwrap().seen;
    let delta = &bench.shell.differ.as_ref().unwrap().delta;
    assert!(
        matches!(delta.to_read("a", seen), ToRead::Everything(..)),
        "it is read anew once there is an answer"
    );
}

#[test]
fn of_what_changed_at_a_device_that_is_not_known_people_are_told_once() {
    let bench = Bench::new(&[]);
    let mut differ = Differ::new(bench.api);
    let ids = |ids: std::ops::Range<usize>| ids.map(|id| id.to_string()).collect::<BTreeSet<_>>();
    for (unknown, has_list, new) in
        [(0..2, false, 2), (0..3, false, 1), (0..3, true, 0), (0..2_000, true, 997), (0..3_000, false, 0)]
    {
        assert_eq!(differ.say_unknown(&ids(unknown.clone()), has_list), new, "{unknown:?}");
    }
}

fn row(at: Timestamp, value: f64) -> Row {
    Row { at, cells: vec![Some((Some(value), Quality::Good)), None] }
}

#[test]
fn rows_that_came_by_themselves_before_a_read_do_not_undo_what_it_found() {
    for is_history in [false, true] {
        let mut bench = Bench::new(&[("device = \"thermostat\"", "device = \"thermostat\"\nrows = true")]);
        bench.shell.lister = None;
        let fake = bench.device("a");
        bench.look().unwrap();
        let now = clock::now();
        let of = |hours: i64| now.plus_ms(-hours * 3_600_000);
        let spec = bench.api.description.delta.clone().unwrap();
        let mut differ = Differ::new(Arc::clone(&bench.api));
        // Of the last of them the windows have nothing yet.
        let kept = vec![row(of(30), 1.0), row(of(20), 2.0), row(of(10), 3.0)];
        let answer = spec.parse(r#"{"changes": [{"thermostat": "a"}], "cursor": "1"}"#).unwrap();
        differ.delta.take(answer, now, |_, _| Some(Change::Rows(kept.clone())));
        bench.shell.differ = Some(differ);
        fake.told().rows = vec![row(of(30), 10.0), row(of(20), 20.0)];
        let device = bench.shell.devices[0].device.id.clone();
        bench.written();
        let mut expected = vec![(of(30), 10.0), (of(20), 20.0), (of(10), 3.0)];
        if is_history {
            let body = CommandBody::ReadHistory { device, from: of(25), to: of(5) };
            let command = Command { id: 1, expires: now.plus_ms(60_000), body };
            bench.shell.carry_out(&bench.connection, 0, &command).unwrap();
            assert_eq!(bench.written(), [(of(20), 20.0)]);
            // What is read of the others is told once.
            fake.told().rows.clear();
            expected = vec![(of(30), 1.0), (of(10), 3.0)];
        }
        bench.shell.poll_changes(0, of(40), Urgency::Asked).unwrap();
        assert_eq!(bench.written(), expected, "{is_history}");
    }
}

#[test]
fn what_cannot_be_read_of_a_stretch_is_said_once_all_of_it_was_tried() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let fake = bench.device("a");
    bench.look().unwrap();
    let from = clock::now().plus_ms(-10 * DAY_MS);
    let stretch = (from, from.plus_ms(5 * DAY_MS));
    let hidden = || Parsed { trouble: Some("2026/: permission denied".to_owned()), ..Parsed::default() };
    let mut ask = |no, broken_off_at: Option<usize>| {
        fake.told().windows.clear();
        fake.told().parsed = [Parsed::default(), hidden()].into();
        if let Some(place) = broken_off_at {
            fake.told().failures = (0..place).map(|_| None).chain([Some(Failure::Spent(from))]).collect();
        }
        let outcome = bench.shell.history(0, no, stretch);
        (outcome.ok(), fake.told().windows.len())
    };
    let told = || Some(Outcome::Failed("2026/: permission denied".into()));
    assert_eq!(ask(7, None), (told(), 5));
    // One that was broken off knows it still.
    assert_eq!(ask(8, Some(3)), (None, 4));
    fake.told().parsed.clear();
    assert_eq!(bench.shell.history(0, 8, stretch).ok(), told());
    assert_eq!(bench.shell.history(0, 9, stretch).ok(), Some(Outcome::NoData));
}

#[test]
fn sources_of_one_site_give_no_name_twice() {
    let (mut one, mut other) = (Bench::new(&[]), Bench::new(&[("name = \"fleet\"", "name = \"b\"")]));
    other.shell.lister = Some(Lister::new(Arc::clone(&other.api), one.names.clone()));
    one.list(&[entry("1", "Hall"), entry("2", "Attic")]);
    other.list(&[entry("7", "Hall"), entry("8", "Cellar")]);
    assert_eq!((one.names(), other.names()), (vec!["Hall", "Attic"], vec!["Hall-7", "Cellar"]));
    // The agent of `b-Loft` of `fleet` is what that of `Loft` of `fleet-b` would be.
    let mut third = Bench::new(&[("name = \"fleet\"", "name = \"fleet-b\"")]);
    third.shell.lister = Some(Lister::new(Arc::clone(&third.api), one.names.clone()));
    one.list(&[entry("3", "b-Loft")]);
    third.list(&[entry("9", "Loft")]);
    assert_eq!((one.names()[2], third.names()), ("b-Loft", vec!["Loft-9"]));
}

#[test]
fn a_listed_device_that_the_database_knows_gets_its_old_name_again() {
    let mut bench = Bench::new(&[]);
    let rows = "INSERT INTO sites (id, name) VALUES (1, 'home-1');
        INSERT INTO devices (site, name, attributes) VALUES
            (1, 'Hall', '{\"source\": \"fleet\", \"listed_id\": \"411\"}'),
            (1, 'Attic', '{\"source\": \"other\", \"listed_id\": \"412\"}')";
    bench.connection.execute_batch(rows).unwrap();
    bench.list(&[entry("411", "Lobby"), entry("412", "Attic"), entry("9", "Hall")]);
    assert_eq!(bench.names(), ["Hall", "Attic-412", "Hall-9"]);
}

#[test]
fn a_listed_device_whose_key_another_one_has_is_left_out_where_that_says_what_changed() {
    for (has_delta, expected) in [(true, vec!["a", "Attic"]), (false, vec!["a", "Hall", "Attic"])] {
        let mut bench = Bench::new(&[]);
        bench.device("a");
        bench.shell.differ = has_delta.then(|| Differ::new(Arc::clone(&bench.api)));
        bench.list(&[entry("a", "Hall"), entry("b", "Attic")]);
        assert_eq!(bench.names(), expected);
    }
}

#[test]
fn a_clock_that_is_set_back_keeps_nothing_waiting_until_it_is_there_again() {
    let (mut bench, year_ms) = (Bench::new(&[]), 366 * DAY_MS);
    let (lister, now) = (bench.shell.lister.as_mut().unwrap(), clock::now());
    for (ahead_ms, is_due) in [(0, false), (30_000, false), (year_ms, true)] {
        lister.put_off(None, now.plus_ms(ahead_ms));
        lister.look(now);
        assert_eq!((lister.due <= now, lister.wanted <= now), (is_due, is_due), "{ahead_ms}");
    }
    bench.shell.lister = None;
    for (again_ms, is_begun) in [(DAY_MS, false), (year_ms, true)] {
        bench.device("a");
        bench.shell.devices[0].life = Life::New { again: now.plus_ms(again_ms), failures: 3 };
        bench.look().unwrap();
        assert_eq!(bench.known(), [is_begun], "{again_ms}");
        bench.shell.devices.clear();
    }
}

#[test]
fn a_listed_device_that_is_asked_for_in_another_way_is_read_anew_and_keeps_its_claim() {
    let mut bench = Bench::new(&[]);
    bench.list(&[entry("a", "Hall")]);
    // Nobody is to be called.
    bench.shell.devices[0].life = Life::New { again: clock::now().plus_ms(DAY_MS), failures: 0 };
    let fake = bench.device("Attic");
    bench.shell.devices[1].listed = Some(entry("b", "Attic"));
    let other = |id, name| Entry { vars: [("net".to_owned(), "9".to_owned())].into(), ..entry(id, name) };
    bench.shell.lister.as_mut().unwrap().rest(clock::now());
    bench.look().unwrap();
    let known = bench.shell.known(1).unwrap();
    known.revision = Some("7".to_owned());
    known.reread = Some(Reread::new(clock::now(), Began::default()));
    let before = bench.api.caller.who().0;
    let changes = Changes { other: vec![other("a", "Hall"), other("b", "Attic")], ..Changes::default() };
    bench.shell.go_by(&bench.connection, &Arc::clone(&bench.api), changes, true).unwrap();
    assert_eq!(bench.api.caller.who().0, before + 1, "nobody else asks");
    let known = bench.shell.known(1).unwrap();
    assert!(known.revision.is_none() && known.reread.is_none());
    assert_eq!(fake.told().renewed, ["9"]);
}

#[test]
fn for_a_device_that_the_list_never_names_it_is_read_out_of_turn_once() {
    let bench = Bench::new(&[]);
    let (mut lister, now) = (bench.shell.lister.unwrap(), clock::now());
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
    // After each listing it is due in an hour.
    let rows: [(&[&str], bool); 5] =
        [(&["x"], true), (&["x"], false), (&["x", "y"], true), (&["y", "x"], false), (&[], false)];
    for (unknown, is_soon) in rows {
        lister.put_off(None, now);
        lister.unknown(&ids(unknown), now);
        assert_eq!(lister.due <= now.plus_ms(60_000), is_soon, "{unknown:?}");
    }
}

#[test]
fn a_list_that_waits_for_a_call_asks_again_and_is_wanted_since_it_was_due() {
    let bench = Bench::new(&[]);
    let (mut lister, now) = (bench.shell.lister.unwrap(), clock::now());
    lister.put_off(None, now);
    let (hour, wanted) = (now.plus_ms(3_600_000), now.plus_ms(3_600_000));
    lister.put_off(Some(&Failure::Spent(hour.plus_ms(DAY_MS))), hour);
    assert_eq!((lister.due, lister.wanted), (hour.plus_ms(30_000), wanted));
    lister.put_off(Some(&Failure::Spent(hour.plus_ms(9))), hour);
    assert_eq!((lister.due, lister.wanted), (hour.plus_ms(9), wanted));
    // One that fails has not waited for want of a call.
    lister.put_off(Some(&Failure::Transport(String::new())), hour);
    assert_eq!((lister.due, lister.wanted), (hour.plus_ms(5_000), hour.plus_ms(5_000)));
    lister.put_off(None, hour);
    assert_eq!((lister.due, lister.wanted), (hour.plus_ms(3_600_000), hour.plus_ms(3_600_000)));
}
