//! The engine on a disk that fails, at its end, and what it says of its gateway.

use std::sync::Arc;

use gapless_common::catalog::Catalog;
use gapless_common::id::{AgentId, CatalogHash, ChannelIndex, Commit, DeviceId, Incarnation, SiteId};
use gapless_common::message::{Ack, AgentState, Command, CommandBody, Presence};
use gapless_common::quality::{Cause, Quality};
use gapless_common::reading::{Misses, Sample, Value};
use gapless_common::time::{Interval, Slot, SlotGrid};
use gapless_common::topic::Down;
use gapless_common::wire::{Message, decode, decode_record, encode};

use super::*;
use crate::outbox::memory_disk::MemoryDisk;
use crate::outbox::{Journal, Opened, Options, ReadLimits, StoredRecord};
use crate::uplink::mqtt::MqttEvent;

fn now(boot_ms: u64) -> Now {
    Now { boot_ms, wall: Timestamp(1_000_000 + i64::try_from(boot_ms).unwrap()), wall_set: true }
}

fn setup() -> Setup {
    Setup {
        path: AgentPath { site: SiteId::new("farm").unwrap(), agent: AgentId::new("gw").unwrap() },
        identity: Identity { boot: BootId(1), catalog: CatalogHash(7), catalog_bytes: Box::new([1, 2, 3]) },
        uplink: core::Settings::default(),
        durability_ms: 1_000,
        devices: Vec::new(),
    }
}

fn start(disk: &MemoryDisk) -> Engine {
    start_as(setup(), disk)
}

fn start_as(setup: Setup, disk: &MemoryDisk) -> Engine {
    let disk = disk.clone();
    let opener: Opener = Box::new(move |opening| {
        let (journal, found) = Journal::open(Box::new(disk.clone()), &Options::default(), opening)?;
        Ok(Opened { outbox: Box::new(journal), found })
    });
    Engine::start(setup, opener, Arc::new(getrandom::u64), now(0)).unwrap()
}

/// SIGTERM comes before the disk's next try is due: (the disk is back by then, what is durable at the end).
#[test]
fn a_disk_that_is_back_is_tried_once_more_before_the_end() {
    for (is_back, is_durable) in [(true, true), (false, false)] {
        let disk = MemoryDisk::new();
        disk.set_read_only(true);
        let mut engine = start(&disk);
        assert!(engine.depot().failure().is_some(), "it begins in memory");
        disk.set_read_only(!is_back);
        engine.finish_polls(now(1_000)).unwrap();
        engine.close(true, now(1_100)).unwrap();
        assert_eq!(engine.depot().failure().is_none(), is_durable, "{:?}", engine.depot().failure());
    }
}

/// What was declared in memory proves nothing, and no device may have news when the disk is back.
#[test]
fn what_was_declared_in_memory_is_declared_again_on_the_disk() {
    let disk = MemoryDisk::new();
    disk.set_read_only(true);
    let mut engine = start(&disk);
    engine.on_bus(BusEvent::Through { device: DeviceIndex(0), slot: Slot(7) }, now(1)).unwrap();
    engine.declare(now(2));
    engine.commit(now(3)).unwrap();
    let (memory, next) = engine.depot.position();
    engine.depot.acknowledge(memory, Seq(1), Seq(next.0 - 1));
    disk.set_read_only(false);
    engine.finish_polls(now(60_000)).unwrap();
    engine.close(true, now(60_001)).unwrap();
    let (epoch, _) = engine.depot.position();
    let mut records = Vec::new();
    engine.depot.read(epoch, Seq(1), ReadLimits { bytes: 1 << 20, records: 100 }, &mut records).unwrap();
    let told = |record: &StoredRecord| matches!(decode_record(&record.bytes), Ok(Record::Complete(_)));
    assert!(records.iter().any(told), "{records:?}");
}

/// What is published, in order.
fn published(engine: &mut Engine) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some(effect) = engine.next_effect() {
        if let Effect::Publish { payload, .. } = effect {
            messages.push(decode(&payload).unwrap());
        }
    }
    messages
}

fn connect(engine: &mut Engine, at_ms: u64) -> ConnectionId {
    let Some(Effect::Connect { connection, .. }) = engine.next_effect() else { panic!("no connection") };
    engine.on_mqtt(MqttEvent::Connected(connection), now(at_ms)).unwrap();
    connection
}

/// A message of the collector.
fn hear(engine: &mut Engine, connection: ConnectionId, (topic, message): (&str, &Message), now: Now) {
    let (topic, retained) = (topic.to_owned(), matches!(message, Message::Presence(_)));
    let payload = encode(message).unwrap().into();
    engine.on_mqtt(MqttEvent::Message { connection, topic, payload, retained }, now).unwrap();
}

const HERE: Message = Message::Presence(Presence { incarnation: Incarnation(1), online: true });
const PRESENCE: &str = "gapless/v1/collectors/main";

fn word(message: &Message) -> &'static str {
    match message {
        Message::Reply(_) => "reply",
        Message::State(AgentState::Birth { .. }) => "birth",
        Message::State(AgentState::Health { .. }) => "health",
        Message::Data(_) => "data",
        _ => "other",
    }
}

/// A broker may take a connection and let nothing through.
#[test]
fn a_connection_on_which_nothing_is_acknowledged_comes_with_a_hint() {
    let hinted =
        |engine: &Engine| engine.counters.last_error.as_ref().is_some_and(|why| why.contains("/#, and is a"));
    // Nobody is there.
    let mut engine = start(&MemoryDisk::new());
    let connection = connect(&mut engine, 100);
    engine.check_deadlines(now(60_099)).unwrap();
    assert!(!hinted(&engine));
    engine.check_deadlines(now(60_100)).unwrap();
    assert!(hinted(&engine), "{:?}", engine.counters.last_error);
    let ack = Ack { incarnation: Incarnation(1), commit: Commit(1), epochs: Vec::new() };
    let topic = engine.setup.path.down(Down::Ack);
    hear(&mut engine, connection, (&topic, &Message::Ack(ack)), now(60_200));
    engine.check_deadlines(now(200_000)).unwrap();
    assert!(!hinted(&engine), "it was answered");
    // A collector shows itself, and does not answer.
    let mut engine = start(&MemoryDisk::new());
    let connection = connect(&mut engine, 100);
    hear(&mut engine, connection, (PRESENCE, &HERE), now(300));
    for at in (1_000..400_000).step_by(1_000) {
        engine.check_deadlines(now(at)).unwrap();
        if engine.connection.is_none() {
            break;
        }
    }
    assert!(hinted(&engine), "{:?}", engine.counters.last_error);
}

#[test]
fn how_the_gateway_is_goes_out_before_what_it_owes_and_only_where_a_collector_is() {
    let mut engine = start(&MemoryDisk::new());
    let connection = connect(&mut engine, 100);
    engine.check_deadlines(now(200)).unwrap();
    let told = published(&mut engine);
    assert!(!told.is_empty() && told.iter().all(|m| word(m) == "birth"), "nobody hears of it: {told:?}");
    hear(&mut engine, connection, (PRESENCE, &HERE), now(300));
    let told = published(&mut engine);
    assert_eq!(told.iter().map(word).collect::<Vec<_>>(), ["health", "data"]);
    let Message::State(AgentState::Health { connection: named, outbox, clock }) = &told[0] else {
        panic!("{told:?}")
    };
    assert_eq!((*named, clock.unwrap().wall, clock.unwrap().boot_ms), (connection, now(300).wall, 300));
    assert!(outbox.owed_bytes > 0 && outbox.owed_bytes < outbox.most_bytes, "{outbox:?}");
    assert!(engine.next_deadline(now(300)) <= 300 + 15_000);
    engine.check_deadlines(now(59_000)).unwrap();
    assert!(published(&mut engine).iter().all(|message| word(message) != "health"), "nothing has moved");
}

/// Where readings are gathered for a quarter of an hour, one that was asked for is sent at once, before it is said to be there.
#[test]
fn what_was_asked_for_waits_for_no_flush() {
    let mut setup = setup();
    setup.uplink.flush_ms = 900_000;
    setup.devices = vec![DeviceId::new("mast").unwrap()];
    let commands = setup.path.down(Down::Command);
    let mut engine = start_as(setup, &MemoryDisk::new());
    let connection = connect(&mut engine, 100);
    hear(&mut engine, connection, (PRESENCE, &HERE), now(200));
    published(&mut engine);
    let answered = |at_ms: u64| {
        let (acquired, at) = (Acquired::InSlot(Slot(i64::try_from(at_ms).unwrap())), now(at_ms).wall);
        BusEvent::Answered {
            device: DeviceIndex(0),
            acquired,
            at,
            samples: vec![Sample {
                channel: ChannelIndex(0),
                value: Some(Value::Number(1.5)),
                quality: Quality::Good,
            }],
        }
    };
    let sent = |engine: &mut Engine| {
        let words: Vec<_> = published(engine).iter().map(word).collect();
        words.into_iter().filter(|word| ["data", "reply"].contains(word)).collect::<Vec<_>>()
    };
    engine.on_bus(answered(1_000), now(1_000)).unwrap();
    engine.check_deadlines(now(3_000)).unwrap();
    assert_eq!(sent(&mut engine), [""; 0], "nobody asked for it");
    let body = CommandBody::PollNow(DeviceId::new("mast").unwrap());
    let command = Command { id: 1, expires: now(60_000).wall, body };
    hear(&mut engine, connection, (&commands, &Message::Command(command)), now(4_000));
    assert!(matches!(engine.next_effect(), Some(Effect::PollNow { command: 1, .. })));
    engine.on_bus(answered(5_000), now(5_000)).unwrap();
    assert_eq!(sent(&mut engine), [""; 0], "it is not durable, and more of the poll may come");
    engine.check_deadlines(now(6_000)).unwrap();
    assert_eq!(sent(&mut engine), ["data", "reply"]);
    // Nor at a stop, after which nothing else would send it.
    let body = CommandBody::PollNow(DeviceId::new("mast").unwrap());
    let command = Command { id: 2, expires: now(60_000).wall, body };
    hear(&mut engine, connection, (&commands, &Message::Command(command)), now(7_000));
    assert!(matches!(engine.next_effect(), Some(Effect::PollNow { command: 2, .. })));
    engine.on_bus(answered(7_100), now(7_100)).unwrap();
    engine.finish_polls(now(7_200)).unwrap();
    assert_eq!(sent(&mut engine), ["data", "reply"]);
}

/// Of a device that is polled no more each slot is accounted for up to the catalog that says so; of what comes after nothing is told.
#[test]
fn a_pause_leaves_no_slot_without_a_cause() {
    let grid = SlotGrid::every(Interval::from_ms(2_000).unwrap());
    let mast = Device {
        id: DeviceId::new("mast").unwrap(),
        grid,
        paused: false,
        channels: Vec::new(),
        attributes: [].into(),
    };
    let (catalog, catalog_bytes) = encode_catalog(&Catalog { devices: vec![mast] });
    let mut setup = setup();
    setup.identity = Identity { catalog, catalog_bytes, ..setup.identity };
    let mut engine = start_as(setup, &MemoryDisk::new());
    let (device, slot_ms) = (DeviceIndex(0), |slot: i64| u64::try_from(slot * 2_000).unwrap());
    // The agent began with this slot.
    let first = grid.first_from(now(0).wall).0;
    let missed = |slot: i64, cause| BusEvent::Missed(Misses { device, first: Slot(slot), count: 1, cause });
    let mut say = |event: BusEvent, at_ms: u64| engine.on_bus(event, now(at_ms)).unwrap();
    say(missed(first, Cause::NoAnswer), slot_ms(1));
    say(BusEvent::Through { device, slot: Slot(first) }, slot_ms(1));
    say(BusEvent::Paused { command: 1, device, paused: true }, slot_ms(1) + 100);
    let described_ms = slot_ms(1) + 5_100;
    engine.check_deadlines(now(described_ms)).unwrap();
    // What its bus says now is of slots that are not due.
    let mut say = |event: BusEvent, at_ms: u64| engine.on_bus(event, now(at_ms)).unwrap();
    say(missed(first + 4, Cause::Paused), slot_ms(6));
    say(BusEvent::Through { device, slot: Slot(first + 4) }, slot_ms(6));
    say(BusEvent::Paused { command: 2, device, paused: false }, slot_ms(20));
    say(BusEvent::Through { device, slot: Slot(first + 20) }, slot_ms(21));
    let goes_on_ms = slot_ms(20) + 5_000;
    engine.check_deadlines(now(goes_on_ms)).unwrap();
    engine.finish_polls(now(goes_on_ms + 1)).unwrap();

    let (epoch, next) = engine.depot.position();
    let mut records: Vec<StoredRecord> = Vec::new();
    // What is read at once is of one catalog.
    while let from = records.last().map_or(Seq(1), |record| record.seq.next())
        && from < next
    {
        engine.depot.read(epoch, from, ReadLimits { bytes: 1 << 20, records: 100 }, &mut records).unwrap();
    }
    let told: Vec<String> = records
        .iter()
        .filter_map(|record| match decode_record(&record.bytes).unwrap() {
            Record::Misses(run) => {
                Some(format!("{} from {}: {:?}", run.count, run.first.0 - first, run.cause))
            }
            Record::Catalog(catalog) => {
                let (_, described) = decode_catalog(&catalog.bytes).unwrap();
                Some(if described.devices[0].paused { "paused" } else { "polled" }.to_owned())
            }
            Record::Complete(complete) => Some(format!("through {}", complete.through[0].1.0 - first)),
            _ => None,
        })
        .collect();
    // The catalog is of 7.1 s, and slots begin each second one.
    let expected = [
        "polled",
        "1 from 0: NoAnswer",
        "through 0",
        "3 from 1: Paused",
        "paused",
        "through 3",
        "polled",
        "through 22",
    ];
    assert_eq!(told, expected);
}
