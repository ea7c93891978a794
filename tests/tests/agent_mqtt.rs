//! The real agent binary against a real Mosquitto: what is polled while the broker is away, and while the agent
//! is killed and started again, arrives once it is back, each record under one (epoch, seq), each slot explained.
//!
//! The device is a Modbus TCP responder of a few lines, and the collector one that only counts and acknowledges:
//! the real ones have tests of their own.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test's helpers cannot do fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gapless_common::id::{Commit, Epoch, Incarnation, Seq};
use gapless_common::message::{Ack, AgentState, EpochAck, Presence};
use gapless_common::ranges::RangeSet;
use gapless_common::reading::{Acquired, Record, Value};
use gapless_common::topic::{AgentPath, Down, UP_FILTER, Up, presence};
use gapless_common::wire::{Message, decode, encode};
use gapless_tests::broker::Broker;
use gapless_tests::process::{Process, own_binary};
use gapless_tests::wait;
use rumqttc::{Client, Event, Incoming, MqttOptions, QoS};

const DEADLINE: Duration = Duration::from_secs(60);

/// Answers every read of holding registers: register n holds 1000 + n.
fn serve_modbus() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            std::thread::spawn(move || while answer(&stream).is_some() {});
        }
    });
    port
}

fn answer(mut stream: &TcpStream) -> Option<()> {
    let mut request = [0u8; 12];
    stream.read_exact(&mut request).ok()?;
    let start = u16::from_be_bytes([request[8], request[9]]);
    let count = u16::from_be_bytes([request[10], request[11]]);
    let bytes = u8::try_from(count * 2).ok()?;
    let mut reply = request[..4].to_vec();
    reply.extend_from_slice(&(u16::from(bytes) + 3).to_be_bytes());
    reply.extend_from_slice(&[request[6], request[7], bytes]);
    for register in start..start + count {
        reply.extend_from_slice(&(1000 + register).to_be_bytes());
    }
    stream.write_all(&reply).ok()
}

/// What the collector has been sent.
#[derive(Default)]
struct Received {
    records: BTreeMap<Epoch, BTreeMap<u64, Record>>,
    frames: u64,
    duplicates: u64,
    states: Vec<AgentState>,
    commit: u64,
}

impl Received {
    fn take(&mut self, message: Message) -> Option<Ack> {
        match message {
            Message::State(state) => {
                self.states.push(state);
                None
            }
            Message::Data(frame) => {
                self.frames += 1;
                let epoch = self.records.entry(frame.epoch).or_default();
                for (seq, record) in (frame.first.0..).zip(frame.records) {
                    match epoch.get(&seq) {
                        Some(known) => {
                            assert_eq!(*known, record, "two records under one position");
                            self.duplicates += 1;
                        }
                        None => {
                            epoch.insert(seq, record);
                        }
                    }
                }
                self.commit += 1;
                Some(self.ack(frame.epoch))
            }
            _ => None,
        }
    }

    fn ack(&self, epoch: Epoch) -> Ack {
        let stored: RangeSet = self.records[&epoch].keys().map(|&seq| (seq, seq)).collect();
        let watermark = stored.watermark(1);
        let above = stored.iter().filter(|(first, _)| *first > watermark);
        let above = above.map(|(first, last)| (Seq(first), Seq(last))).take(32).collect();
        let acked = EpochAck { epoch, watermark: Seq(watermark), above, parked: Vec::new() };
        Ack { incarnation: Incarnation(1), commit: Commit(self.commit), epochs: vec![acked] }
    }

    fn slots(&self) -> (BTreeSet<i64>, BTreeSet<i64>, Option<i64>) {
        let (mut read, mut missed, mut through) = (BTreeSet::new(), BTreeSet::new(), None);
        for record in self.records.values().flat_map(BTreeMap::values) {
            match record {
                Record::Readings(readings) => {
                    let Acquired::InSlot(slot) = readings.acquired else { panic!("{readings:?}") };
                    let values: Vec<_> = readings.samples.iter().map(|s| s.value.clone()).collect();
                    let expected = [1000.0, 1001.0, 1002.0].map(|n| Some(Value::Number(n)));
                    assert_eq!(values, expected);
                    read.insert(slot.0);
                }
                Record::Misses(run) => missed.extend(run.first.0..run.first.0 + i64::from(run.count)),
                Record::Complete(complete) => {
                    through = through.max(complete.through.iter().map(|(_, slot)| slot.0).max());
                }
                _ => {}
            }
        }
        (read, missed, through)
    }

    /// Every position of every epoch up to its last is there.
    fn has_no_hole(&self) -> bool {
        self.records.values().all(|epoch| {
            let last = epoch.last_key_value().map_or(0, |(seq, _)| *seq);
            u64::try_from(epoch.len()) == Ok(last)
        })
    }
}

/// A collector that acknowledges; it reconnects by itself.
struct Collector {
    received: Arc<Mutex<Received>>,
    stop: Arc<AtomicBool>,
    client: Client,
}

impl Collector {
    fn start(port: u16, path: &AgentPath) -> Self {
        let mut options = MqttOptions::new("fake-collector", "127.0.0.1", port);
        options.set_max_packet_size(256 << 10, 256 << 10);
        let (client, mut connection) = Client::new(options, 1_000);
        let received = Arc::new(Mutex::new(Received::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (publisher, store, ended) = (client.clone(), Arc::clone(&received), Arc::clone(&stop));
        let ack_topic = path.down(Down::Ack);
        std::thread::spawn(move || {
            for event in connection.iter() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                match event {
                    Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                        publisher.try_subscribe(UP_FILTER, QoS::AtLeastOnce).unwrap();
                        let here = Presence { incarnation: Incarnation(1), online: true };
                        let here = encode(&Message::Presence(here)).unwrap();
                        publisher.try_publish(presence("fake"), QoS::AtLeastOnce, true, here).unwrap();
                    }
                    Ok(Event::Incoming(Incoming::Publish(message))) => {
                        assert!(
                            AgentPath::parse_up(&message.topic).is_some_and(|(_, kind)| kind != Up::Reply)
                        );
                        let ack = store.lock().unwrap().take(decode(&message.payload).unwrap());
                        if let Some(ack) = ack {
                            let ack = encode(&Message::Ack(ack)).unwrap();
                            publisher.try_publish(&ack_topic, QoS::AtLeastOnce, false, ack).unwrap();
                        }
                    }
                    Ok(_) => {}
                    Err(_) => std::thread::sleep(Duration::from_millis(50)),
                }
            }
        });
        Self { received, stop, client }
    }

    fn look<T>(&self, look: impl FnOnce(&Received) -> T) -> T {
        look(&self.received.lock().unwrap())
    }

    fn wait_for_slots(&self, what: &str, count: usize) {
        wait::until(what, DEADLINE, || {
            let got = self.look(|r| r.slots().0.len());
            if got >= count { Ok(()) } else { Err(got) }
        });
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.client.try_disconnect();
    }
}

fn write_config(folder: &Path, broker: &Broker, modbus: u16, uplink: &str) -> PathBuf {
    let path = folder.join("agent.toml");
    let text = format!(
        r#"
site = "farm"
agent = "gw-1"
[uplink]
broker = "{}"
{uplink}
[outbox]
path = "{}"
durability = "100ms"
[clock]
trust = "always"
[[bus]]
id = "net"
tcp = {{ address = "127.0.0.1:{modbus}" }}
[[bus.device]]
id = "meter"
unit = 1
interval = "100ms"
channel = [
  {{ id = "a", address = 0, type = "u16" }},
  {{ id = "b", address = 1, type = "u16" }},
  {{ id = "c", address = 2, type = "u16" }},
]
"#,
        broker.url(),
        folder.join("outbox").display(),
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn start_agent(folder: &Path, config: &Path) -> Process {
    let mut command = Command::new(own_binary("gapless-agent"));
    command.arg("run").arg(config).env("GAPLESS_LOG", "debug");
    Process::start("agent", &mut command, &folder.join("agent.log"))
}

fn ask(config: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(own_binary("gapless-agent"));
    let output = command.arg(arguments[0]).arg(config).args(&arguments[1..]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.into_owned())
}

/// Waits until the running agent owes the collector that many records.
fn wait_for_owed(config: &Path, records: u64) {
    wait::until("the backlog to grow", DEADLINE, || {
        let (_, text) = ask(config, &["status", "--json"]);
        let document: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let owed = document["outbox"]["owed_records"].as_u64().unwrap_or(0);
        if owed >= records { Ok(()) } else { Err(text) }
    });
}

fn path() -> AgentPath {
    AgentPath { site: "farm".parse().unwrap(), agent: "gw-1".parse().unwrap() }
}

/// Every slot up to the last one declared complete is read, missed, or within one of the restarts.
fn check_account(received: &Received, first: i64) {
    let (read, missed, through) = received.slots();
    let through = through.expect("completeness was declared");
    let downtimes: Vec<(i64, i64)> = received
        .records
        .values()
        .flat_map(BTreeMap::values)
        .filter_map(|record| match record {
            Record::Downtime(downtime) => Some((downtime.from.0 / 100, downtime.to.0 / 100)),
            _ => None,
        })
        .collect();
    let explained = |slot: i64| {
        read.contains(&slot)
            || missed.contains(&slot)
            || downtimes.iter().any(|(from, to)| (*from..=*to).contains(&slot))
    };
    let unexplained: Vec<i64> = (first..=through).filter(|&slot| !explained(slot)).collect();
    assert!(unexplained.is_empty(), "slots nobody accounts for: {unexplained:?}");
}

#[test]
fn every_record_arrives_though_broker_and_agent_are_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(folder.path());
    let config = write_config(folder.path(), &broker, serve_modbus(), "");
    let collector = Collector::start(broker.port(), &path());
    let agent = start_agent(folder.path(), &config);
    collector.wait_for_slots("the first readings", 10);
    let first = collector.look(|r| *r.slots().0.first().unwrap());

    broker.kill();
    let before = collector.look(|r| r.slots().0.len());
    wait_for_owed(&config, 20);
    agent.kill();
    let agent = start_agent(folder.path(), &config);
    wait_for_owed(&config, 40);
    broker.resume();
    collector.wait_for_slots("the backlog of the outage", before + 40);

    let status = agent.stop(Duration::from_secs(6));
    assert!(status.success(), "{status}");
    let clean = |s: &AgentState| matches!(s, AgentState::Gone { clean: true, .. });
    wait::until("the goodbye, after all that was issued", DEADLINE, || {
        collector.look(|r| if r.states.iter().any(clean) { Ok(()) } else { Err(r.states.clone()) })
    });
    collector.look(|received| {
        assert!(received.has_no_hole(), "every position of every epoch is there");
        check_account(received, first);
        assert_eq!(received.records.len(), 2, "one epoch for each run");
        assert!(
            received.duplicates < 200,
            "{} duplicates in {} frames",
            received.duplicates,
            received.frames
        );
    });
}

#[test]
fn with_a_flush_interval_few_frames_carry_all() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let config = write_config(folder.path(), &broker, serve_modbus(), "flush = \"2s\"");
    let collector = Collector::start(broker.port(), &path());
    let agent = start_agent(folder.path(), &config);
    collector.wait_for_slots("two flushes", 45);
    let (frames, slots) = collector.look(|r| (r.frames, r.slots().0.len()));
    assert!(frames <= 8, "{frames} frames for {slots} slots");
    assert!(agent.stop(Duration::from_secs(6)).success());
    wait::until_true("the declaration of completeness", DEADLINE, || {
        collector.look(|r| r.slots().2.is_some())
    });
    collector.look(|received| {
        let first = *received.slots().0.first().unwrap();
        check_account(received, first);
    });
}

#[test]
fn the_running_agent_answers_status_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let config = write_config(folder.path(), &broker, serve_modbus(), "");
    let ask = |arguments: &[&str]| ask(&config, arguments);
    let (ok, text) = ask(&["status"]);
    assert!(!ok && text.contains("no agent is running"), "{text}");
    let (ok, text) = ask(&["read", "meter"]);
    assert!(ok && text.contains("1002"), "{text}");
    let (ok, text) = ask(&["check"]);
    assert!(ok && text.contains("FC03 holding register 0..2 (3): 3 channels"), "{text}");

    let agent = start_agent(folder.path(), &config);
    wait::until("the status to show the device", DEADLINE, || {
        let (ok, text) = ask(&["status"]);
        if ok && text.contains("meter   online") { Ok(()) } else { Err(text) }
    });
    let (ok, text) = ask(&["read", "meter"]);
    assert!(ok && text.contains("read by the running agent") && text.contains("1002"), "{text}");
    let (ok, text) = ask(&["outbox"]);
    assert!(ok && text.contains("records that the collector has not acknowledged"), "{text}");
    assert!(agent.stop(Duration::from_secs(6)).success());
}
