//! The writer over a real database: frames in memory in, rows and acknowledgements out; killed and opened again
//! at every point.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use gapless_collector::backup::backup;
use gapless_collector::ingest::committer::{Committer, PARK_BYTES_MAX};
use gapless_collector::ingest::{INBOUND_MAX, Inbound, OUTBOUND_MAX, Outbound, Task, writer};
use gapless_collector::store::model::{Flow, GapFilter, ParkReason, Scan, SeriesNo, StoredReading};
use gapless_collector::store::{ReadStore, Reader};
use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::{
    AgentId, BootId, CatalogHash, ChannelId, ChannelIndex, Commit, ConnectionId, DeviceId, DeviceIndex,
    Epoch, Seq, SiteId,
};
use gapless_common::message::{Ack, AgentState, CommandBody, DataFrame, HeldEpoch};
use gapless_common::quality::{Cause, Quality};
use gapless_common::reading::{
    Acquired, CatalogRecord, ClockCorrection, Completeness, EpochStart, Readings, Record, Sample, Value,
};
use gapless_common::time::{Interval, Slot, SlotGrid, Timestamp};
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire::{self, Message};
use tokio::sync::mpsc;

const EPOCH: Epoch = Epoch(0xFEDC_BA98_7654_3210);
const T0: i64 = 1_000;

fn path() -> AgentPath {
    AgentPath { site: SiteId::new("farm").unwrap(), agent: AgentId::new("gw-1").unwrap() }
}

fn grid() -> SlotGrid {
    SlotGrid::every(Interval::from_ms(1_000).unwrap())
}

fn catalog(unit: &str) -> (CatalogHash, Box<[u8]>, Catalog) {
    let channel = |name: &str| Channel {
        id: ChannelId::new(name).unwrap(),
        unit: unit.into(),
        quantity: "voltage".into(),
        aggregation: Aggregation::Instant,
        label: PeriodLabel::End,
        attributes: [("height".to_owned(), "80".to_owned())].into(),
    };
    let catalog = Catalog {
        devices: vec![Device {
            id: DeviceId::new("meter").unwrap(),
            grid: grid(),
            paused: false,
            channels: vec![channel("u1"), channel("u2")],
            attributes: [("make".to_owned(), "Acme".to_owned())].into(),
        }],
    };
    let (hash, bytes) = wire::encode_catalog(&catalog);
    (hash, bytes, catalog)
}

fn reading(slot: i64, x: f64) -> Record {
    sampled(Acquired::InSlot(Slot(slot)), grid().at(Slot(slot)).plus_ms(40), x)
}

fn sampled(acquired: Acquired, at: Timestamp, x: f64) -> Record {
    let sample = |channel, value| Sample {
        channel: ChannelIndex(channel),
        value: Some(value),
        quality: if matches!(acquired, Acquired::SinceBoot(_)) {
            Quality::UncertainClock
        } else {
            Quality::Good
        },
    };
    let samples = vec![sample(0, Value::Number(x)), sample(1, Value::Text(format!("{x}").into()))];
    Record::Readings(Readings { device: DeviceIndex(0), acquired, at, samples })
}

fn complete(slot: i64) -> Record {
    Record::Complete(Completeness { through: vec![(DeviceIndex(0), Slot(slot))] })
}

fn opening() -> Vec<Record> {
    let (hash, bytes, _) = catalog("V");
    let start = EpochStart {
        previous: None,
        boot: BootId(5),
        boot_clock_ms: 10,
        at: grid().at(Slot(T0)),
        clock_set: true,
        durable: true,
        agent_version: "1".into(),
    };
    let since = Some(grid().at(Slot(T0)));
    vec![Record::Start(start), Record::Catalog(CatalogRecord { hash, since, bytes })]
}

fn frame(first: u64, records: Vec<Record>) -> Vec<u8> {
    let (hash, _, catalog) = catalog("V");
    framed(first, records, hash, &catalog)
}

fn framed(first: u64, records: Vec<Record>, hash: CatalogHash, catalog: &Catalog) -> Vec<u8> {
    let frame = DataFrame {
        agent: path().tag(),
        connection: ConnectionId(1),
        epoch: EPOCH,
        first: Seq(first),
        catalog: hash,
        records,
    };
    wire::encode_data(&frame, catalog).unwrap()
}

struct Running {
    inbound: Option<mpsc::Sender<Task>>,
    outbound: mpsc::Receiver<Outbound>,
    thread: Option<JoinHandle<()>>,
    token: u64,
}

impl Running {
    fn start(dir: &Path) -> Self {
        Self::start_bounded(dir, PARK_BYTES_MAX)
    }

    fn start_bounded(dir: &Path, park_bytes_max: i64) -> Self {
        let (inbound, to_writer) = mpsc::channel(INBOUND_MAX);
        let (from_writer, outbound) = mpsc::channel(OUTBOUND_MAX);
        let committer = Committer::open(&dir.join("db")).unwrap().with_park_bytes_max(park_bytes_max);
        let (_, thread) = writer::start_with(committer, to_writer, from_writer, Arc::default()).unwrap();
        Self { inbound: Some(inbound), outbound, thread: Some(thread), token: 0 }
    }

    fn send(&mut self, kind: Up, payload: Vec<u8>) -> Vec<Message> {
        self.hand(path().up(kind), payload)
    }

    /// Records of another agent of the site, from `first` on.
    fn send_as(&mut self, agent: &AgentPath, records: Vec<Record>, first: u64) {
        let (hash, _, catalog) = catalog("V");
        let (epoch, connection) = (Epoch(77), ConnectionId(2));
        let (first, agent_tag) = (Seq(first), agent.tag());
        let frame = DataFrame { agent: agent_tag, connection, epoch, first, catalog: hash, records };
        self.hand(agent.up(Up::Data), wire::encode_data(&frame, &catalog).unwrap());
    }

    fn hand(&mut self, topic: String, payload: Vec<u8>) -> Vec<Message> {
        self.token += 1;
        let at = Timestamp(2_000_000);
        let message = Inbound { topic, payload, at, token: self.token };
        self.inbound.as_ref().unwrap().blocking_send(message.into()).unwrap();
        let mut answers = Vec::new();
        loop {
            match self.outbound.blocking_recv().unwrap() {
                Outbound::Publish { payload, .. } => answers.push(wire::decode(&payload).unwrap()),
                Outbound::Release(tokens) if tokens.contains(&self.token) => return answers,
                Outbound::Release(_) => {}
            }
        }
    }

    fn data(&mut self, payload: Vec<u8>) -> Option<Ack> {
        self.send(Up::Data, payload).into_iter().find_map(|m| match m {
            Message::Ack(ack) => Some(ack),
            _ => None,
        })
    }

    fn watermark(&mut self, payload: Vec<u8>) -> u64 {
        self.data(payload).unwrap().epochs.iter().find(|e| e.epoch == EPOCH).unwrap().watermark.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.inbound = None;
        self.outbound.close();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn all(reader: &Reader) -> Vec<StoredReading> {
    let series: Vec<SeriesNo> = reader.series(None, None).unwrap().iter().map(|s| s.no).collect();
    let (from, to) = (Timestamp(i64::MIN), Timestamp(i64::MAX));
    let mut found = Vec::new();
    let mut each = |reading| {
        found.push(reading);
        Flow::More
    };
    reader.readings(&Scan { series, from, to, after: None }, &mut each).unwrap();
    found
}

fn gaps(reader: &Reader) -> Vec<(i64, i64, Cause, bool)> {
    let found = reader.gaps(&GapFilter { limit: 100, ..GapFilter::default() }).unwrap();
    found.iter().map(|g| (g.from.0, g.to.0, g.cause, g.closed_at.is_some())).collect()
}

#[test]
fn frames_become_rows_whatever_their_order_and_however_often_the_collector_ends() {
    let frames = [
        frame(1, opening()),
        frame(3, vec![reading(T0, -0.0), reading(T0 + 1, f64::NAN)]),
        frame(5, vec![reading(T0 + 3, 3.5), complete(T0 + 3)]),
        frame(7, vec![reading(T0 + 4, 4.0)]),
    ];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        for restart in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let mut running = Running::start(dir.path());
            let mut watermark = 0;
            for index in order.into_iter().chain([1, 2]) {
                watermark = running.watermark(frames[index].clone());
                if restart {
                    drop(running);
                    running = Running::start(dir.path());
                }
            }
            // Newest first, the first frames wait for their catalog: parked, asked for, replayed.
            assert_eq!(watermark, 7, "{order:?} {restart}");
            let reader = Reader::new(&dir.path().join("db"));
            let rows = all(&reader);
            assert_eq!(rows.len(), 8, "{order:?} {restart}");
            assert_eq!(reader.parked(None, 10).unwrap(), []);
            let bits = |row: &StoredReading| match row.value {
                Some(Value::Number(x)) => x.to_bits(),
                _ => 0,
            };
            let expected = [(-0.0_f64).to_bits(), f64::NAN.to_bits(), 3.5_f64.to_bits(), 4.0_f64.to_bits()];
            assert_eq!(rows.iter().take(4).map(bits).collect::<Vec<_>>(), expected);
            assert_eq!(rows[7].value, Some(Value::Text("4".into())));
            let slot = |n: i64| grid().at(Slot(n)).0;
            assert_eq!(gaps(&reader), [(slot(T0 + 2), slot(T0 + 3), Cause::Unexplained, false)]);
            let stats = reader.stats().unwrap();
            assert_eq!((stats.counters.readings, stats.counters.duplicates >= 4), (8, true));
            let device = &reader.devices(None, Timestamp(2_000_000)).unwrap()[0];
            assert_eq!(device.proven_until, Some(grid().at(Slot(T0 + 4))));
            let changes = reader.changes(Commit(0), 100).unwrap();
            let mut told = 0;
            let mut each = |_| {
                told += 1;
                Flow::More
            };
            changes.iter().for_each(|c| reader.changed_readings(c, &mut each).unwrap());
            assert_eq!(told, 8);
        }
    }
}

#[test]
fn the_first_of_two_values_stays_and_the_second_is_kept_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::start(dir.path());
    running.data(frame(1, opening()));
    running.data(frame(3, vec![reading(T0, 1.0), reading(T0, 1.0), reading(T0, 2.0)]));
    let reader = Reader::new(&dir.path().join("db"));
    let conflicts = reader.conflicts(None, 10).unwrap();
    assert_eq!(conflicts.len(), 2);
    assert_eq!(conflicts[0].value, Some(Value::Number(2.0)));
    assert_eq!(conflicts[0].stored.as_ref().unwrap().value, Some(Value::Number(1.0)));
    assert_eq!((conflicts[0].epoch, conflicts[0].seq), (EPOCH, Seq(5)));
    assert_eq!(reader.stats().unwrap().counters.duplicates, 2);
}

#[test]
fn a_value_that_was_told_in_doubt_and_is_said_again_for_sure_counts_as_sure() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::start(dir.path());
    running.data(frame(1, opening()));
    let told = |slot, x, quality| {
        let mut record = reading(slot, x);
        if let Record::Readings(readings) = &mut record {
            readings.samples.iter_mut().for_each(|sample| sample.quality = quality);
        }
        vec![record]
    };
    let (reader, mut seq) = (Reader::new(&dir.path().join("db")), 2);
    for (slot, sure) in [(T0, 1.0), (T0 + 1, 2.0)] {
        let rows = [
            (1.0, Quality::UncertainClock, (1.0, Quality::UncertainClock), 0),
            (sure, Quality::Good, (sure, Quality::Good), 0),
            // Said again in doubt it is as sure as before; another value is another word.
            (sure, Quality::UncertainClock, (sure, Quality::Good), 0),
            (3.0, Quality::Good, (sure, Quality::Good), 2),
        ];
        let before = reader.conflicts(None, 10).unwrap().len();
        for (x, quality, expected, conflicts) in rows {
            seq += 1;
            running.data(frame(seq, told(slot, x, quality)));
            let stored = all(&reader).into_iter().filter(|reading| grid().slot_at(reading.at) == Slot(slot));
            let (number, of) = (Value::Number(expected.0), expected.1);
            let stored: Vec<_> = stored.collect();
            assert!(stored.iter().all(|reading| reading.quality == of), "{seq}: {stored:?}");
            assert!(stored.iter().any(|reading| reading.value == Some(number.clone())), "{seq}: {stored:?}");
            let all_conflicts = reader.conflicts(None, 10).unwrap().len();
            assert_eq!((stored.len(), all_conflicts - before), (2, conflicts), "{seq}");
        }
    }
}

#[test]
fn what_cannot_be_used_is_kept_or_left_and_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::start(dir.path());
    let mut damaged = frame(1, opening());
    let end = damaged.len() - 1;
    damaged[end] ^= 1;
    assert_eq!(running.data(damaged), None, "a hole is not acknowledged");
    assert_eq!(running.data(b"nonsense".to_vec()), None);
    assert_eq!(running.watermark(frame(1, opening())), 2);
    // Another catalog than the one that is known: parked, and asked for.
    let (hash, bytes, other) = catalog("kV");
    let answers = running.send(Up::Data, framed(3, vec![reading(T0, 1.0)], hash, &other));
    let asked = |m: &Message| matches!(m, Message::Command(c) if c.body == CommandBody::SendCatalog(hash));
    assert!(answers.iter().any(asked), "{answers:?}");
    let parked = |m: &Message| matches!(m, Message::Ack(a) if a.epochs[0].parked == [(Seq(3), Seq(3))]);
    assert!(answers.iter().any(parked), "{answers:?}");
    let reader = Reader::new(&dir.path().join("db"));
    assert_eq!((reader.parked(None, 10).unwrap().len(), all(&reader).len()), (1, 0));
    running.send(Up::Catalog, wire::encode(&Message::Catalog { hash, bytes }).unwrap());
    assert_eq!((reader.parked(None, 10).unwrap().len(), all(&reader).len()), (0, 2));
    let units: Vec<_> =
        reader.series(None, None).unwrap().into_iter().map(|s| (s.revision, s.unit)).collect();
    let expected = [(1, "V"), (2, "kV"), (1, "V"), (2, "kV")].map(|(n, unit)| (n, unit.to_owned()));
    assert_eq!(units, expected);
}

#[test]
fn readings_before_the_clock_was_set_get_their_time_whichever_comes_first() {
    let uncertain = frame(3, vec![sampled(Acquired::SinceBoot(5_040), Timestamp(12_345), 7.0)]);
    let began = grid().at(Slot(T0)).plus_ms(-3_000);
    let (first, last) = (Seq(3), Seq(3));
    let correction = ClockCorrection { boot: BootId(5), epoch: EPOCH, first, last, boot_began: began };
    let corrected = frame(4, vec![Record::ClockCorrection(correction)]);
    for order in [[&uncertain, &corrected], [&corrected, &uncertain]] {
        let dir = tempfile::tempdir().unwrap();
        let mut running = Running::start(dir.path());
        running.data(frame(1, opening()));
        for payload in order.into_iter().chain(order) {
            running.data(payload.clone());
        }
        let reader = Reader::new(&dir.path().join("db"));
        let rows = all(&reader);
        assert_eq!(rows.len(), 2);
        for row in rows {
            assert_eq!((row.at, row.quality), (began.plus_ms(5_040), Quality::Good));
        }
    }
}

#[test]
fn a_restored_backup_is_another_life_and_asks_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::start(dir.path());
    let birth = |next| {
        let held = vec![HeldEpoch { epoch: EPOCH, first: Seq(1), next: Seq(next) }];
        let state = AgentState::Birth {
            path: path(),
            connection: ConnectionId(1),
            agent_version: "1".into(),
            boot: BootId(5),
            epoch: EPOCH,
            catalog: catalog("V").0,
            held,
            durable: true,
            clock_set: true,
            flush_ms: 0,
        };
        wire::encode(&Message::State(state)).unwrap()
    };
    running.data(frame(1, opening()));
    let copy = tempfile::tempdir().unwrap();
    backup(&dir.path().join("db"), &copy.path().join("db")).unwrap();
    assert!(backup(&dir.path().join("db"), &copy.path().join("db")).is_err(), "never overwrites");
    let before = running.data(frame(3, vec![reading(T0, 1.0)])).unwrap();
    drop(running);
    let mut restored = Running::start(copy.path());
    let answers = restored.send(Up::State, birth(4));
    let Some(Message::Ack(ack)) = answers.first() else { panic!("no answer to a birth: {answers:?}") };
    assert_ne!(ack.incarnation, before.incarnation);
    assert_eq!((before.epochs[0].watermark, ack.epochs[0].watermark), (Seq(3), Seq(2)));
    let reader = Reader::new(&copy.path().join("db"));
    assert_eq!(reader.agents(None).unwrap()[0].link, gapless_collector::store::model::Link::Connected);
    assert_eq!(restored.watermark(frame(3, vec![reading(T0, 1.0)])), 3);
    // The will of another connection says nothing.
    let gone = |id| {
        let state = AgentState::Gone { connection: ConnectionId(id), clean: false };
        wire::encode(&Message::State(state)).unwrap()
    };
    for (id, link) in [
        (9, gapless_collector::store::model::Link::Connected),
        (1, gapless_collector::store::model::Link::Gone),
    ] {
        restored.send(Up::State, gone(id));
        assert_eq!(reader.agents(None).unwrap()[0].link, link);
    }
}

#[test]
fn what_could_not_be_read_is_tried_again_at_the_start_and_parking_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("db");
    let mut running = Running::start(dir.path());
    running.data(frame(1, opening()));
    drop(running);
    // An earlier program could not read what this one can, nor the one without its catalog, nor nonsense.
    let (other, _, catalog) = catalog("kV");
    let waiting = framed(4, vec![reading(T0 + 1, 2.0)], other, &catalog);
    let rows = [
        (3_i64, frame(3, vec![reading(T0, 1.0)]), 2_i64),
        (4, waiting.clone(), 3),
        (6, b"nonsense".to_vec(), 3),
    ];
    let connection = rusqlite::Connection::open(&file).unwrap();
    for (seq, bytes, reason) in rows {
        let sql =
            "INSERT INTO parked (agent, epoch, first_seq, count, catalog, reason, detail, bytes, received_at)
            VALUES (1, ?1, ?2, 1, 0, ?3, '', ?4, 0)";
        connection.execute(sql, rusqlite::params![EPOCH.0.cast_signed(), seq, reason, bytes]).unwrap();
    }
    let mut running = Running::start_bounded(dir.path(), 1);
    let reader = Reader::new(&file);
    assert_eq!(all(&reader).len(), 2);
    let reasons: Vec<_> = reader.parked(None, 10).unwrap().iter().map(|p| (p.first.0, p.reason)).collect();
    assert_eq!(reasons, [(4, ParkReason::UnknownCatalog), (6, ParkReason::Nonsense)]);
    // What is parked already takes no more room; what is not finds none, and is not acknowledged.
    assert_eq!(running.watermark(waiting), 4);
    let full = framed(5, vec![reading(T0 + 2, 3.0)], other, &catalog);
    assert_eq!(running.watermark(full), 4);
    assert_eq!(reader.stats().unwrap().counters.refused, 1);
}

#[test]
fn a_collector_that_starts_again_knows_who_carries_a_device_and_who_owes_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::start(dir.path());
    running.data(frame(1, opening()));
    running.data(frame(3, vec![reading(T0, 1.0)]));
    let other = AgentPath { agent: AgentId::new("gw-0").unwrap(), ..path() };
    let mut taken = opening();
    if let Record::Catalog(record) = &mut taken[1] {
        record.since = Some(grid().at(Slot(T0 + 3)));
    }
    running.send_as(&other, taken, 1);
    drop(running);
    let mut running = Running::start(dir.path());
    let reader = Reader::new(&dir.path().join("db"));
    let carrier = |reader: &Reader| reader.devices(None, Timestamp(2_000_000)).unwrap()[0].agent.clone();
    assert_eq!(carrier(&reader), Some(other.agent.clone()));
    running.send_as(&other, vec![complete(T0 + 3)], 3);
    let slot = |n: i64| grid().at(Slot(n)).0;
    assert_eq!(gaps(&reader), [(slot(T0 + 3), slot(T0 + 4), Cause::Unexplained, false)]);
    assert_eq!(
        reader.devices(None, Timestamp(2_000_000)).unwrap()[0].proven_until,
        Some(Timestamp(slot(T0))),
        "not before the first says so"
    );
    running.data(frame(4, vec![reading(T0 + 1, 1.0), complete(T0 + 5)]));
    // One gap of neighbouring slots, though two agents owed them.
    assert_eq!(gaps(&reader), [(slot(T0 + 2), slot(T0 + 4), Cause::Unexplained, false)]);
    assert_eq!(carrier(&reader), Some(other.agent.clone()));
    assert_eq!(
        reader.devices(None, Timestamp(2_000_000)).unwrap()[0].proven_until,
        Some(Timestamp(slot(T0 + 4)))
    );
}

/// A frame of 70,000 rows in few bytes: more than a transaction takes before it ends.
fn dense(agent: &AgentPath, first: u64) -> Vec<u8> {
    let (_, _, mut catalog) = catalog("V");
    let template = catalog.devices[0].channels[0].clone();
    let channel = |n: u16| Channel { id: ChannelId::new(&format!("c{n}")).unwrap(), ..template.clone() };
    catalog.devices[0].id = DeviceId::new("dense").unwrap();
    catalog.devices[0].channels = (0..200).map(channel).collect();
    let (hash, bytes) = wire::encode_catalog(&catalog);
    let sample =
        |n| Sample { channel: ChannelIndex(n), value: Some(Value::Number(1.0)), quality: Quality::Good };
    let polled = |n: u64| {
        let slot = T0 + i64::try_from(first + n).unwrap();
        let (device, acquired, at) = (DeviceIndex(0), Acquired::InSlot(Slot(slot)), grid().at(Slot(slot)));
        Record::Readings(Readings { device, acquired, at, samples: (0..200).map(sample).collect() })
    };
    let in_force = Record::Catalog(CatalogRecord { hash, since: None, bytes });
    let (agent, connection, epoch) = (agent.tag(), ConnectionId(3), Epoch(88));
    let records = std::iter::once(in_force).chain((1..351).map(polled)).collect();
    let frame = DataFrame { agent, connection, epoch, first: Seq(first), catalog: hash, records };
    wire::encode_data(&frame, &catalog).unwrap()
}

#[test]
fn a_flood_from_one_agent_holds_the_others_up_by_one_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let flood = AgentPath { agent: AgentId::new("flood").unwrap(), ..path() };
    let (inbound, to_writer) = mpsc::channel(INBOUND_MAX);
    let (from_writer, mut outbound) = mpsc::channel(OUTBOUND_MAX);
    let send = |topic: String, payload: Vec<u8>, token| {
        let message = Inbound { topic, payload, at: Timestamp(2_000_000), token };
        inbound.blocking_send(message.into()).unwrap();
    };
    // All of it waits before the writer starts, the other agent's frame behind the flood.
    (0..8).for_each(|n| send(flood.up(Up::Data), dense(&flood, 1 + 351 * n), n));
    send(path().up(Up::Data), frame(1, opening()), 100);
    let (_, thread) = writer::start(&dir.path().join("db"), to_writer, from_writer, Arc::default()).unwrap();
    drop(inbound);
    let mut released = Vec::new();
    while let Some(answer) = outbound.blocking_recv() {
        if let Outbound::Release(tokens) = answer {
            released.push(tokens);
        }
    }
    thread.join().unwrap();
    let at = released.iter().position(|tokens| tokens.contains(&100)).unwrap();
    assert!(at <= 1, "the other agent's frame came with transaction {at} of {released:?}");
    assert_eq!(released.iter().map(Vec::len).sum::<usize>(), 9, "and nothing was forgotten");
    let flooded: Vec<u64> = released.into_iter().flatten().filter(|&token| token < 100).collect();
    assert_eq!(flooded, (0..8).collect::<Vec<u64>>(), "in its own order");
}
