//! Jobs in made-up time, through the committer: who is told to poll when, what comes of it, and that a restart in the midst
//! of it changes nothing.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

use std::collections::BTreeMap;

use gapless_collector::ingest::committer::Committer;
use gapless_collector::ingest::{Ask, Inbound, Outbound};
use gapless_collector::jobs::queue::Why;
use gapless_collector::store::ReadStore as _;
use gapless_collector::store::model::DeviceNo;
use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::{
    AgentId, BootId, ChannelId, ChannelIndex, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq, SiteId,
};
use gapless_common::message::{AgentState, Command, CommandBody, DataFrame, HeldEpoch, Outcome, Reply};
use gapless_common::quality::Quality;
use gapless_common::reading::{Acquired, CatalogRecord, EpochStart, Readings, Record, Sample, Value};
use gapless_common::time::{Interval, SlotGrid, Timestamp};
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire::{self, Message};
use rusqlite::Connection;

/// 2026-01-01T00:00:00Z.
const T0: Timestamp = Timestamp(1_767_225_600_000);
const INTERVAL_MS: i64 = 600_000;
/// Two intervals and 10 s.
const ALLOWED_MS: i64 = 2 * INTERVAL_MS + 10_000;

fn path() -> AgentPath {
    AgentPath { site: SiteId::new("farm").unwrap(), agent: AgentId::new("gw").unwrap() }
}

/// A collector, its made-up time, and an agent with one meter.
struct World {
    committer: Committer,
    now: Timestamp,
    attributes: BTreeMap<String, String>,
    unit: &'static str,
    next: u64,
}

impl World {
    fn new(attributes: &[(&str, &str)]) -> Self {
        let committer = Committer::from_connection(Connection::open_in_memory().unwrap(), 7).unwrap();
        let attributes = attributes.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let mut world = Self { committer, now: T0, attributes, unit: "kWh", next: 1 };
        world.be_born();
        let (hash, bytes) = wire::encode_catalog(&world.catalog());
        let start = EpochStart {
            previous: None,
            boot: BootId(5),
            boot_clock_ms: 10,
            at: T0,
            clock_set: true,
            durable: true,
            agent_version: "1".into(),
        };
        world.send(vec![
            Record::Start(start),
            Record::Catalog(CatalogRecord { hash, since: Some(T0), bytes }),
        ]);
        world
    }

    fn catalog(&self) -> Catalog {
        let channel = Channel {
            id: ChannelId::new("energy").unwrap(),
            unit: self.unit.into(),
            quantity: "".into(),
            aggregation: Aggregation::Sum,
            label: PeriodLabel::End,
            attributes: BTreeMap::new(),
        };
        let grid = SlotGrid::every(Interval::from_ms(INTERVAL_MS.cast_unsigned()).unwrap());
        let (id, attributes) = (DeviceId::new("meter").unwrap(), self.attributes.clone());
        Catalog { devices: vec![Device { id, grid, paused: false, channels: vec![channel], attributes }] }
    }

    fn take(&mut self, kind: Up, payload: Vec<u8>) -> Vec<Command> {
        let message = Inbound { topic: path().up(kind), payload, at: self.now, token: 1 };
        let (answers, _) = self.committer.attempt(&[message], self.now).unwrap();
        commands(&answers)
    }

    fn be_born(&mut self) -> Vec<Command> {
        let state = AgentState::Birth {
            path: path(),
            connection: ConnectionId(1),
            agent_version: "1".into(),
            boot: BootId(5),
            epoch: Epoch(1),
            catalog: wire::encode_catalog(&self.catalog()).0,
            held: vec![HeldEpoch { epoch: Epoch(1), first: Seq(1), next: Seq(self.next) }],
            durable: true,
            clock_set: true,
            flush_ms: 0,
        };
        self.take(Up::State, wire::encode(&Message::State(state)).unwrap())
    }

    fn leave(&mut self) {
        let gone = AgentState::Gone { connection: ConnectionId(1), clean: false };
        self.take(Up::State, wire::encode(&Message::State(gone)).unwrap());
    }

    fn send(&mut self, records: Vec<Record>) {
        let catalog = self.catalog();
        let hash = wire::encode_catalog(&catalog).0;
        let (count, first) = (u64::try_from(records.len()).unwrap(), Seq(self.next));
        let (agent, connection, epoch) = (path().tag(), ConnectionId(1), Epoch(1));
        let frame = DataFrame { agent, connection, epoch, first, catalog: hash, records };
        self.next += count;
        self.take(Up::Data, wire::encode_data(&frame, &catalog).unwrap());
    }

    /// The agent goes on under what is configured now.
    fn configure(&mut self) {
        self.send(vec![self.configuration()]);
    }

    fn configuration(&self) -> Record {
        let (hash, bytes) = wire::encode_catalog(&self.catalog());
        Record::Catalog(CatalogRecord { hash, since: Some(self.now), bytes })
    }

    /// Since when the configuration is not confirmed, in seconds.
    fn unconfirmed(&self) -> Option<i64> {
        let device = self.committer.store().devices(None, self.now).unwrap().remove(0);
        device.changed_at.map(|at| at.since_ms(T0) / 1_000)
    }

    /// The meter is read now.
    fn read(&mut self) {
        self.send(vec![self.reading()]);
    }

    fn reading(&self) -> Record {
        let sample =
            Sample { channel: ChannelIndex(0), value: Some(Value::Number(0.5)), quality: Quality::Good };
        let slot = self.catalog().devices[0].grid.slot_at(self.now);
        let (device, acquired, at) = (DeviceIndex(0), Acquired::InSlot(slot), self.now);
        Record::Readings(Readings { device, acquired, at, samples: vec![sample] })
    }

    fn reply(&mut self, id: u64, outcome: Outcome) {
        let reply = Message::Reply(Reply { id, outcome });
        self.take(Up::Reply, wire::encode(&reply).unwrap());
    }

    /// So many seconds pass; the collector looks after its jobs in each.
    fn pass(&mut self, seconds: i64) -> Vec<(i64, Command)> {
        let mut told = Vec::new();
        for _ in 0..seconds {
            self.now = self.now.plus_ms(1_000);
            let out = self.committer.look_after_jobs(self.now).unwrap();
            told.extend(commands(&out).into_iter().map(|c| (self.now.since_ms(T0) / 1_000, c)));
        }
        told
    }

    /// Until an agent is told something: when, and the command.
    fn until_told(&mut self) -> (i64, Command) {
        let mut told = (0..3 * 3_600).find_map(|_| self.pass(1).pop());
        told.take().unwrap()
    }

    fn history(&self) -> Vec<(&'static str, u64)> {
        let rows = self.committer.store().ended_jobs(None, 100).unwrap();
        rows.into_iter().rev().map(|row| (row.outcome, row.readings)).collect()
    }

    fn restart(self) -> Self {
        let connection = self.committer.into_connection().unwrap();
        Self { committer: Committer::from_connection(connection, 8).unwrap(), ..self }
    }
}

fn commands(answers: &[Outbound]) -> Vec<Command> {
    let command = |answer: &Outbound| match answer {
        Outbound::Publish { payload, .. } => match wire::decode(payload).unwrap() {
            Message::Command(command) => Some(command),
            _ => None,
        },
        Outbound::Release(_) => None,
    };
    answers.iter().filter_map(command).collect()
}

#[test]
fn what_is_stale_is_polled_and_its_history_told() {
    let mut world = World::new(&[]);
    world.read();
    assert_eq!(world.pass(ALLOWED_MS / 1_000 - 1), []);
    let (commit, written) = (world.committer.head().commit, world.committer.connection().total_changes());
    let told = world.pass(61);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(matches!(&told[0].1.body, CommandBody::PollNow(device) if device.as_str() == "meter"));
    assert_eq!(world.committer.head().commit, commit, "no reading has changed");
    let rows = world.committer.connection().total_changes() - written;
    assert!(rows < 10, "{rows} rows were written in a minute");
    world.read();
    world.reply(told[0].1.id, Outcome::Done);
    assert_eq!(world.history(), [("done", 1)]);
    assert_eq!(world.committer.store().jobs().unwrap(), []);
    assert_eq!(world.pass(120), []);
}

#[test]
fn a_failure_is_tried_again_after_growing_pauses_and_across_a_restart() {
    let mut world = World::new(&[]);
    let mut at = Vec::new();
    for round in 0..5 {
        let (when, command) = world.until_told();
        at.push(when);
        world.reply(command.id, Outcome::Failed("no answer".into()));
        if round == 2 {
            world = world.restart();
        }
    }
    let pauses: Vec<i64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses, [5, 10, 20, 40]);
    assert_eq!(world.history(), [("failed", 0); 5]);
}

#[test]
fn an_agent_that_dies_loses_its_lease_and_one_that_is_away_is_waited_for() {
    let mut world = World::new(&[]);
    let told = world.pass(ALLOWED_MS / 1_000 + 61);
    assert_eq!(told.len(), 1);
    let again = world.pass(180);
    assert_eq!(again.len(), 1, "{again:?}");
    assert_eq!(world.history(), [("expired", 0)]);
    world.leave();
    assert_eq!(world.pass(600), [], "nobody is there");
    assert_eq!(world.history(), [("expired", 0); 2]);
    world.be_born();
    assert_eq!(world.pass(1).len(), 1, "at once when it is back");
}

#[test]
fn a_person_is_served_at_once_and_whoever_looks_where_half_of_the_time_has_passed() {
    let mut world = World::new(&[]);
    world.read();
    let device = world.committer.store().devices(None, world.now).unwrap()[0].no;
    let ask = |world: &mut World, why| {
        let (jobs, told) = world.committer.refresh(&[0; 3].map(|_| Ask::of(device, why)), world.now).unwrap();
        (jobs.into_iter().flat_map(Result::unwrap).map(|job| job.no).collect::<Vec<_>>(), commands(&told))
    };
    let (jobs, told) = ask(&mut world, Why::Viewed);
    assert_eq!((jobs.len(), told.len()), (0, 0), "fresh");
    world.pass(ALLOWED_MS / 2_000);
    let (jobs, told) = ask(&mut world, Why::Viewed);
    assert_eq!((jobs.len(), told.len()), (3, 1));
    assert!(jobs.windows(2).all(|pair| pair[0] == pair[1]));
    let written = world.committer.connection().total_changes();
    let (again, told_again) = ask(&mut world, Why::Asked);
    assert_eq!((again, told_again.len()), (jobs, 0), "it is under way");
    assert_eq!(world.committer.connection().total_changes(), written);
    world.reply(told[0].id, Outcome::NoData);
    let (jobs, told) = ask(&mut world, Why::Asked);
    assert_eq!((jobs.len(), told.len()), (3, 1), "a person has it read however fresh it is");
    let unknown = Ask::of(DeviceNo(99), Why::Asked);
    assert!(world.committer.refresh(&[unknown], world.now).unwrap().0[0].is_err());
}

#[test]
fn who_was_served_waits_no_more() {
    let mut world = World::new(&[]);
    world.read();
    let device = world.committer.store().devices(None, world.now).unwrap()[0].no;
    let awaited = |world: &World| -> i64 {
        world.committer.connection().query_row("SELECT count(*) FROM awaited", [], |r| r.get(0)).unwrap()
    };
    let ask = |world: &mut World| {
        let ask = Ask { actor: Some("token anna".to_owned()), ..Ask::of(device, Why::Asked) };
        let (_, told) = world.committer.refresh(&[ask], world.now).unwrap();
        commands(&told)
    };
    // How it ends, and how many wait after it.
    for (outcome, expected) in [(Outcome::Failed("no answer".into()), 1), (Outcome::Done, 0)] {
        let told = ask(&mut world);
        let written = world.committer.connection().total_changes();
        assert_eq!((awaited(&world), ask(&mut world).len()), (1, 0));
        assert_eq!(world.committer.connection().total_changes(), written, "noted once");
        world.reply(told[0].id, outcome);
        assert_eq!(awaited(&world), expected);
    }
    world.attributes.insert("unreachable_since".into(), "2026-01-01T00:00:00Z".into());
    world.configure();
    let told = ask(&mut world);
    world.reply(told[0].id, Outcome::NoData);
    assert_eq!(awaited(&world), 1, "nobody could look");
}

#[test]
fn a_rhythm_is_kept_and_tightened_by_looks() {
    let mut world = World::new(&[("every", "30m"), ("every_least", "5m"), ("every_most", "2h")]);
    let device = world.committer.store().devices(None, world.now).unwrap()[0].no;
    let mut at = Vec::new();
    for round in 0..5 {
        let (when, command) = world.until_told();
        if round == 1 {
            world.committer.refresh(&[Ask::of(device, Why::Viewed)], world.now).unwrap();
        }
        at.push(when);
        world.reply(command.id, Outcome::Done);
    }
    let pauses: Vec<i64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses, [7_200, 300, 300, 300], "unseen every two hours, watched every five minutes");
}

/// Something of the configuration changes.
type Change = fn(&mut World);

#[test]
fn a_device_whose_configuration_changed_is_read_once_and_marked_until_that_has_come() {
    let changes: [(&str, Change); 3] = [
        ("its registers", |world| drop(world.attributes.insert("read_from".into(), "0000beef".into()))),
        ("its address", |world| drop(world.attributes.insert("unit".into(), "12".into()))),
        ("a channel's unit", |world| world.unit = "MWh"),
    ];
    for (what, change) in changes {
        let mut world = World::new(&[("read_from", "5ca1ab1e")]);
        assert_eq!(world.unconfirmed(), None, "{what}: what is announced is not changed");
        world.read();
        world.pass(100);
        world.configure();
        assert_eq!(world.unconfirmed(), None, "{what}: it says the same");
        assert_eq!(world.pass(2), [], "{what}");
        change(&mut world);
        world.configure();
        assert_eq!(world.unconfirmed(), Some(102), "{what}");
        world = world.restart();
        world.be_born();
        let told = world.pass(2);
        assert_eq!(told.len(), 1, "{what}: {told:?}");
        assert!(matches!(&told[0].1.body, CommandBody::PollNow(device) if device.as_str() == "meter"));
        assert_eq!(world.unconfirmed(), Some(102), "{what}: nothing has come yet");
        world.read();
        world.reply(told[0].1.id, Outcome::Done);
        assert_eq!(world.unconfirmed(), None, "{what}");
        assert_eq!(world.history(), [("done", 1)], "{what}");
        assert_eq!(world.pass(60), [], "{what}: once");
    }
}

/// An agent of an older version did not say from what a device is read.
#[test]
fn what_an_agent_says_for_the_first_time_is_no_change() {
    let mut world = World::new(&[("make", "\u{3c0} & \"Co\"")]);
    world.read();
    world.attributes.insert("read_from".into(), "5ca1ab1e".into());
    world.configure();
    assert_eq!(world.unconfirmed(), None);
    world.attributes.insert("read_from".into(), "0000beef".into());
    world.configure();
    assert_eq!(world.unconfirmed(), Some(0));
    world.read();
    world.attributes.remove("read_from");
    world.configure();
    assert_eq!(world.unconfirmed(), Some(0), "who goes back to it may read it otherwise");
    world.read();
    world.attributes.insert("read_from".into(), "5ca1ab1e".into());
    world.attributes.insert("unit".into(), "12".into());
    world.configure();
    assert_eq!(world.unconfirmed(), Some(0), "something else has changed, too");
}

#[test]
fn what_is_read_in_the_same_frame_as_the_new_configuration_is_confirmed() {
    let mut world = World::new(&[]);
    world.read();
    world.pass(10);
    world.unit = "MWh";
    let catalog = world.configuration();
    let reading = world.reading();
    world.send(vec![catalog, reading]);
    assert_eq!(world.unconfirmed(), None);
    world.attributes.insert("unit".into(), "12".into());
    world.now = world.now.plus_ms(1_000);
    let (before, catalog) = (world.reading(), world.configuration());
    world.send(vec![before, catalog]);
    assert_eq!(world.unconfirmed(), Some(11), "what came before it confirms nothing");
    // It is read only after it was configured once more.
    world.attributes.insert("unit".into(), "13".into());
    let catalog = world.configuration();
    let reading = world.reading();
    world.send(vec![catalog, reading]);
    assert_eq!(world.unconfirmed(), None);
}

#[test]
fn a_reading_under_the_old_configuration_confirms_nothing() {
    let mut world = World::new(&[]);
    world.pass(10);
    world.unit = "MWh";
    world.configure();
    world.unit = "kWh";
    world.read();
    assert_eq!(world.unconfirmed(), Some(10));
    world.unit = "MWh";
    world.read();
    assert_eq!(world.unconfirmed(), None);
}

#[test]
fn a_device_with_a_memory_is_marked_and_not_asked() {
    let mut world = World::new(&[("history", "logger")]);
    world.read();
    world.unit = "MWh";
    world.configure();
    assert_eq!(world.unconfirmed(), Some(0));
    assert_eq!(world.pass(60), []);
    world.read();
    assert_eq!(world.unconfirmed(), None);
}
