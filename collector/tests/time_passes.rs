//! What only time changes: an absent slot is late, then unknown, and a gap only by proof; a command is sent again at
//! each birth until it expires, and never after.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

use gapless_collector::ingest::committer::Committer;
use gapless_collector::ingest::{Inbound, Outbound};
use gapless_collector::store::ReadStore;
use gapless_collector::store::model::SlotState;
use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::{
    AgentId, BootId, ChannelId, ChannelIndex, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq, SiteId,
};
use gapless_common::message::{AgentState, Command, CommandBody, DataFrame, HeldEpoch, Outcome, Reply};
use gapless_common::quality::{Cause, Quality};
use gapless_common::reading::{
    Acquired, CatalogRecord, Completeness, EpochStart, Misses, Readings, Record, Sample, Value,
};
use gapless_common::time::{Interval, Slot, SlotGrid, Timestamp};
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire::{self, Message};
use rusqlite::Connection;

const EPOCH: Epoch = Epoch(9);
/// A slot in 2026.
const T0: i64 = 1_767_225_600;
const DAY_S: i64 = 86_400;

fn path() -> AgentPath {
    AgentPath { site: SiteId::new("farm").unwrap(), agent: AgentId::new("gw").unwrap() }
}

fn grid() -> SlotGrid {
    SlotGrid::every(Interval::from_ms(1_000).unwrap())
}

fn at(seconds: i64) -> Timestamp {
    grid().at(Slot(T0 + seconds))
}

fn catalog(unit: &str) -> Catalog {
    let channel = Channel {
        id: ChannelId::new("u").unwrap(),
        unit: unit.into(),
        quantity: "".into(),
        aggregation: Aggregation::Instant,
        label: PeriodLabel::End,
        attributes: [].into(),
    };
    let id = DeviceId::new("meter").unwrap();
    let device = Device { id, grid: grid(), paused: false, channels: vec![channel], attributes: [].into() };
    Catalog { devices: vec![device] }
}

fn polled(seconds: i64) -> Record {
    let sample = Sample { channel: ChannelIndex(0), value: Some(Value::Number(1.0)), quality: Quality::Good };
    let (device, acquired) = (DeviceIndex(0), Acquired::InSlot(Slot(T0 + seconds)));
    Record::Readings(Readings { device, acquired, at: at(seconds), samples: vec![sample] })
}

struct Site(Committer);

impl Site {
    fn new() -> Self {
        Self(Committer::from_connection(Connection::open_in_memory().unwrap(), 7).unwrap())
    }

    /// Sends at that second after T0; returns the commands that it is answered with.
    fn send(&mut self, seconds: i64, kind: Up, payload: Vec<u8>) -> Vec<Command> {
        let message = Inbound { topic: path().up(kind), payload, at: at(seconds), token: 1 };
        let (answers, _) = self.0.attempt(&[message], at(seconds)).unwrap();
        let decoded = answers.into_iter().filter_map(|answer| match answer {
            Outbound::Publish { payload, .. } => Some(wire::decode(&payload).unwrap()),
            Outbound::Release(_) => None,
        });
        let command = |message| if let Message::Command(command) = message { Some(command) } else { None };
        decoded.filter_map(command).collect()
    }

    fn data(&mut self, seconds: i64, first: u64, records: Vec<Record>, catalog: &Catalog) -> Vec<Command> {
        let frame = DataFrame {
            agent: path().tag(),
            connection: ConnectionId(1),
            epoch: EPOCH,
            first: Seq(first),
            catalog: wire::encode_catalog(catalog).0,
            records,
        };
        self.send(seconds, Up::Data, wire::encode_data(&frame, catalog).unwrap())
    }

    fn birth(&mut self, seconds: i64, flush_ms: u32) -> Vec<Command> {
        self.birth_of(
            (ConnectionId(1), seconds),
            &[HeldEpoch { epoch: EPOCH, first: Seq(1), next: Seq(9) }],
            flush_ms,
        )
    }

    /// A birth of what writes the last epoch held.
    fn birth_of(
        &mut self,
        (connection, seconds): (ConnectionId, i64),
        held: &[HeldEpoch],
        flush_ms: u32,
    ) -> Vec<Command> {
        let state = AgentState::Birth {
            path: path(),
            connection,
            agent_version: "1".into(),
            boot: BootId(5),
            epoch: held.last().unwrap().epoch,
            catalog: wire::encode_catalog(&catalog("V")).0,
            held: held.to_vec(),
            durable: true,
            clock_set: true,
            flush_ms,
        };
        self.send(seconds, Up::State, wire::encode(&Message::State(state)).unwrap())
    }

    fn opening(&mut self) {
        let (hash, bytes) = wire::encode_catalog(&catalog("V"));
        let start = EpochStart {
            previous: None,
            boot: BootId(5),
            boot_clock_ms: 10,
            at: at(0),
            clock_set: true,
            durable: true,
            agent_version: "1".into(),
        };
        let in_force = Record::Catalog(CatalogRecord { hash, since: Some(at(0)), bytes });
        self.data(0, 1, vec![Record::Start(start), in_force], &catalog("V"));
    }
}

/// Slots 0 and 1 are received, 2 is missed, the rest has not come; what the strip of seconds 0 to 10,000 says at `now`:
/// per run its state, first second and first second after it.
fn check(flush_ms: u32, now: i64, expected: &[(SlotState, i64, i64)]) {
    let mut site = Site::new();
    site.opening();
    site.birth(0, flush_ms);
    let (device, first, cause) = (DeviceIndex(0), Slot(T0 + 2), Cause::NoAnswer);
    let missed = Record::Misses(Misses { device, first, count: 1, cause });
    site.data(2, 3, vec![polled(0), polled(1), missed], &catalog("V"));
    let strip = |site: &Site, now| {
        let store = site.0.store();
        let device = store.devices(None, at(now)).unwrap()[0].no;
        let runs = store.strip(device, at(-10), at(10_000), at(now)).unwrap();
        let second = |t: Timestamp| t.since_ms(at(0)) / 1_000;
        runs.iter().map(|run| (run.state, second(run.from), second(run.to))).collect::<Vec<_>>()
    };
    let mut known = vec![(SlotState::Received, 0, 2), (SlotState::Missed(Cause::NoAnswer), 2, 3)];
    let start = known.clone();
    known.extend(expected);
    assert_eq!(strip(&site, now), known, "flush {flush_ms} ms, at second {now}");
    assert_eq!(site.0.store().stats().unwrap().open_gaps, 0, "time alone proves nothing");
    // Proof comes, however late: neither late nor unknown any more.
    let through = Record::Complete(Completeness { through: vec![(DeviceIndex(0), Slot(T0 + now))] });
    site.data(now, 6, vec![through], &catalog("V"));
    let proven = [(SlotState::Lost(Cause::Unexplained), 3, now + 1)];
    let end = if now >= 3 { &proven[..] } else { &[] };
    assert_eq!(strip(&site, now), [start.as_slice(), end].concat(), "proven at second {now}");
}

#[test]
fn an_absent_slot_is_late_and_then_unknown_and_a_gap_only_by_proof() {
    use SlotState::{Late, Unknown};
    // Two rounds of flush and poll, and a minute: 62 s where each poll is sent at once.
    check(0, 2, &[]);
    check(0, 3, &[(Late, 3, 4)]);
    check(0, 65, &[(Late, 3, 66)]);
    check(0, 66, &[(Unknown, 3, 4), (Late, 4, 67)]);
    check(0, 5_000, &[(Unknown, 3, 4_938), (Late, 4_938, 5_001)]);
    // With a flush each 15 minutes, 1,862 s.
    check(900_000, 1_865, &[(Late, 3, 1_866)]);
    check(900_000, 1_866, &[(Unknown, 3, 4), (Late, 4, 1_867)]);
}

#[test]
fn a_command_is_sent_again_until_it_expires_and_never_after() {
    let mut site = Site::new();
    site.opening();
    let asked = site.data(10, 3, vec![polled(0)], &catalog("kV"));
    let [first] = asked.as_slice() else { panic!("the catalog is asked for once: {asked:?}") };
    let hash = wire::encode_catalog(&catalog("kV")).0;
    assert_eq!(first.body, CommandBody::SendCatalog(hash));
    assert_eq!(first.expires, at(10 + 7 * DAY_S));
    assert_eq!(site.birth(DAY_S, 0), asked, "not answered: sent again");
    assert_eq!(site.data(DAY_S, 4, vec![polled(1)], &catalog("kV")), [], "asked for already");
    assert_eq!(site.birth(9 + 7 * DAY_S, 0), asked, "a second before it expires");
    for seconds in [10 + 7 * DAY_S, 11 + 7 * DAY_S, 30 * DAY_S] {
        assert_eq!(site.birth(seconds, 0), [], "second {seconds}");
    }
    // What still waits for it is asked for anew, by another command.
    let anew = site.data(30 * DAY_S, 5, vec![polled(2)], &catalog("kV"));
    assert!(anew.len() == 1 && anew[0].id != first.id && anew[0].body == first.body, "{anew:?}");
}

#[test]
fn a_command_that_is_answered_expired_is_done_with() {
    let mut site = Site::new();
    site.opening();
    let asked = site.data(10, 3, vec![polled(0)], &catalog("kV"));
    let reply = |id, outcome| wire::encode(&Message::Reply(Reply { id, outcome })).unwrap();
    site.send(20, Up::Reply, reply(asked[0].id + 1, Outcome::Done));
    assert_eq!(site.birth(30, 0), asked, "another command's answer says nothing");
    site.send(40, Up::Reply, reply(asked[0].id, Outcome::Expired));
    assert_eq!(site.birth(50, 0), []);
    // The first answer counts, and an expired command was not carried out: it may be asked again.
    site.send(60, Up::Reply, reply(asked[0].id, Outcome::NoData));
    let sql = "SELECT outcome, answered_at FROM commands";
    let answered = site.0.connection().query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?)));
    assert_eq!(answered, Ok((2, at(40).0)), "expired, at the instant of its answer");
    assert_eq!(site.data(70, 4, vec![polled(1)], &catalog("kV")).len(), 1);
}

/// The birth of an earlier process arrives behind its follower's: it makes no clone, and the connection that is there stays.
#[test]
fn a_birth_that_was_overtaken_changes_nothing() {
    let mut site = Site::new();
    let held = |epoch, next| HeldEpoch { epoch, first: Seq(1), next: Seq(next) };
    let (first, second, third) = (held(EPOCH, 4), held(Epoch(10), 4), held(Epoch(11), 3));
    let now = (ConnectionId(3), 10);
    site.birth_of(now, &[first, second, third], 0);
    site.birth_of((ConnectionId(1), 11), &[held(EPOCH, 3)], 0);
    site.birth_of((ConnectionId(2), 12), &[first, held(Epoch(10), 1)], 0);
    let sql = "SELECT connection, cloned_at IS NULL FROM agents";
    let row = |r: &rusqlite::Row<'_>| Ok((r.get::<_, i64>(0)?, r.get::<_, bool>(1)?));
    assert_eq!(site.0.connection().query_row(sql, [], row).unwrap(), (3, true));
    site.birth_of((ConnectionId(4), 13), &[held(EPOCH, 9)], 0);
    assert_eq!(
        site.0.connection().query_row(sql, [], row).unwrap(),
        (4, false),
        "it went on: two outboxes write"
    );
}
