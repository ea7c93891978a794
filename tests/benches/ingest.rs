//! Readings per second made durable in SQLite, from frames in memory and through Mosquitto, and duplicates per
//! second: `cargo bench -p gapless-tests --bench ingest`. Frames are of a 20-channel meter, 15 polls each, from
//! several agents at once. It measures one collector on this disk; no agent and no link.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench ends where something is wrong, and prints"
)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gapless_collector::api::Health;
use gapless_collector::config::Config;
use gapless_collector::ingest::{INBOUND_MAX, Inbound, OUTBOUND_MAX, Outbound, writer};
use gapless_collector::run;
use gapless_collector::store::{ReadStore, Reader};
use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::{
    AgentId, BootId, ChannelId, ChannelIndex, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq, SiteId,
};
use gapless_common::message::DataFrame;
use gapless_common::quality::Quality;
use gapless_common::reading::{
    Acquired, CatalogRecord, Completeness, EpochStart, Readings, Record, Sample, Value,
};
use gapless_common::time::{Interval, Slot, SlotGrid, Timestamp};
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire;
use rumqttc::{AsyncClient, MqttOptions, QoS};
use tokio::sync::{mpsc, oneshot, watch};

const AGENTS: u64 = 20;
const FRAMES: u64 = 100;
const POLLS: u64 = 15;
const CHANNELS: u16 = 20;
const READINGS: u64 = AGENTS * FRAMES * POLLS * 20;

fn path(agent: u64) -> AgentPath {
    AgentPath { site: SiteId::new("farm").unwrap(), agent: AgentId::new(&format!("gw-{agent}")).unwrap() }
}

fn grid() -> SlotGrid {
    SlotGrid::every(Interval::from_ms(10_000).unwrap())
}

fn catalog(agent: u64) -> Catalog {
    let channel = |n: u16| Channel {
        id: ChannelId::new(&format!("c{n}")).unwrap(),
        unit: "V".into(),
        quantity: "".into(),
        aggregation: Aggregation::Instant,
        label: PeriodLabel::End,
        attributes: Default::default(),
    };
    let device = Device {
        id: DeviceId::new(&format!("meter-{agent}")).unwrap(),
        grid: grid(),
        paused: false,
        channels: (0..CHANNELS).map(channel).collect(),
        attributes: Default::default(),
    };
    Catalog { devices: vec![device] }
}

fn poll(slot: Slot) -> Record {
    let x = |channel: u16| f64::from(channel) * 10.0 + f64::from(u8::try_from(slot.0 % 97).unwrap()) / 10.0;
    let samples = (0..CHANNELS).map(|channel| Sample {
        channel: ChannelIndex(channel),
        value: Some(Value::Number(x(channel))),
        quality: Quality::Good,
    });
    let at = grid().at(slot).plus_ms(120);
    let (device, acquired) = (DeviceIndex(0), Acquired::InSlot(slot));
    Record::Readings(Readings { device, acquired, at, samples: samples.collect() })
}

fn frame(agent: u64, n: u64) -> (String, Vec<u8>) {
    let catalog = catalog(agent);
    let (hash, bytes) = wire::encode_catalog(&catalog);
    let slot = |n: u64| Slot(1_000 + i64::try_from(n).unwrap());
    let since = Some(grid().at(slot(0)));
    let (first, records) = if n == 0 {
        let (boot, at, clock_set, durable) = (BootId(1), grid().at(slot(0)), true, true);
        let agent_version = "1".into();
        let start =
            EpochStart { previous: None, boot, boot_clock_ms: 0, at, clock_set, durable, agent_version };
        (1, vec![Record::Start(start), Record::Catalog(CatalogRecord { hash, since, bytes })])
    } else {
        let polls = (n - 1) * POLLS..n * POLLS;
        let last = slot(n * POLLS - 1);
        let complete = Record::Complete(Completeness { through: vec![(DeviceIndex(0), last)] });
        (3 + (n - 1) * (POLLS + 1), polls.map(|p| poll(slot(p))).chain([complete]).collect())
    };
    let path = path(agent);
    let (tag, connection, epoch) = (path.tag(), ConnectionId(1), Epoch(agent + 1));
    let frame = DataFrame { agent: tag, connection, epoch, first: Seq(first), catalog: hash, records };
    (path.up(Up::Data), wire::encode_data(&frame, &catalog).unwrap())
}

fn all_frames() -> Vec<(String, Vec<u8>)> {
    (0..=FRAMES).flat_map(|n| (0..AGENTS).map(move |agent| frame(agent, n))).collect()
}

fn tell(what: &str, readings: u64, took: Duration) {
    let rate = f64::from(u32::try_from(readings).unwrap()) / took.as_secs_f64();
    println!("{what:<44} {readings:>9} readings in {took:>10.1?}: {rate:>10.0} per second");
}

/// Hands all frames to the writer and waits until the last is released.
fn through_memory(path: &Path, frames: &[(String, Vec<u8>)]) -> Duration {
    let (inbound, to_writer) = mpsc::channel(INBOUND_MAX);
    let (from_writer, mut outbound) = mpsc::channel(OUTBOUND_MAX);
    let (_, thread) = writer::start(path, to_writer, from_writer, Arc::new(Health::default())).unwrap();
    let count = frames.len();
    let began = Instant::now();
    let released = std::thread::spawn(move || {
        let mut released = 0;
        while released < count {
            if let Outbound::Release(tokens) = outbound.blocking_recv().unwrap() {
                released += tokens.len();
            }
        }
    });
    for (token, (topic, payload)) in (0..).zip(frames) {
        let (topic, payload, at) = (topic.clone(), payload.clone(), Timestamp(2_000_000_000));
        inbound.blocking_send(Inbound { topic, payload, at, token }).unwrap();
    }
    released.join().unwrap();
    let took = began.elapsed();
    drop(inbound);
    thread.join().unwrap();
    took
}

struct Mosquitto(Child);

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn mosquitto(dir: &Path, port: u16) -> Mosquitto {
    let file = dir.join("mosquitto.conf");
    let text = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 100\nmax_queued_messages 0\n"
    );
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("/usr/sbin/mosquitto");
    Mosquitto(command.arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// The running collector behind Mosquitto; until its database holds all readings.
async fn through_mosquitto(dir: &Path, frames: Vec<(String, Vec<u8>)>) -> Duration {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let broker = mosquitto(dir, port);
    let mut config = Config { data_dir: dir.to_owned(), ..Config::default() };
    config.http.listen = ([127, 0, 0, 1], 0).into();
    config.mqtt.broker = Some(format!("mqtt://127.0.0.1:{port}"));
    let (end, shutdown) = watch::channel(false);
    let (told, ready) = oneshot::channel();
    let collector = tokio::spawn(async move {
        run::run(&config, shutdown, |addresses| told.send(addresses).unwrap()).await.unwrap();
    });
    ready.await.unwrap();
    let mut options = MqttOptions::new("bench", "127.0.0.1", port);
    options.set_max_packet_size(1 << 17, 1 << 17).set_inflight(100);
    let (client, mut events) = AsyncClient::new(options, 100);
    // A retained presence says that the collector has subscribed.
    client.subscribe(gapless_common::topic::PRESENCE_FILTER, QoS::AtLeastOnce).await.unwrap();
    loop {
        if let Ok(rumqttc::Event::Incoming(rumqttc::Incoming::Publish(_))) = events.poll().await {
            break;
        }
    }
    let polled = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let began = Instant::now();
    for (topic, payload) in frames {
        client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
    }
    let reader = Reader::new(&dir.join("gapless.db"));
    while reader.stats().unwrap().counters.readings < READINGS {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = began.elapsed();
    end.send_replace(true);
    collector.await.unwrap();
    polled.abort();
    drop(broker);
    took
}

fn main() {
    let frames = all_frames();
    let bytes: usize = frames.iter().map(|(_, payload)| payload.len()).sum();
    println!(
        "{} frames of {POLLS} polls x {CHANNELS} channels, {} bytes each",
        frames.len(),
        bytes / frames.len()
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    tell("from memory, stored", READINGS, through_memory(&path, &frames));
    let stored = Reader::new(&path).stats().unwrap();
    assert_eq!((stored.counters.readings, stored.open_gaps), (READINGS, 0));
    println!("{:<44} {:>9} bytes per reading", "database", stored.file_bytes / READINGS);
    tell("from memory, all known already", READINGS, through_memory(&path, &frames));
    assert_eq!(Reader::new(&path).stats().unwrap().counters.readings, READINGS);
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    tell("through Mosquitto, stored", READINGS, runtime.block_on(through_mosquitto(dir.path(), frames)));
}
