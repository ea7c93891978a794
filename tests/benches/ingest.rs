//! Readings per second made durable in SQLite, from frames in memory and through Mosquitto, and duplicates per
//! second: `cargo bench -p gapless-tests --bench ingest`. Frames are of a 20-channel meter, 15 polls each, from
//! several agents at once. It measures one collector on this disk; no agent and no link.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench ends where something is wrong, and prints"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gapless_collector::api::Health;
use gapless_collector::ingest::{INBOUND_MAX, Inbound, OUTBOUND_MAX, Outbound, writer};
use gapless_collector::store::{ReadStore, Reader};
use gapless_common::time::Timestamp;
use gapless_tests::load::{Behind, CHANNELS, POLLS, frame};
use rumqttc::{AsyncClient, MqttOptions, QoS};
use tokio::sync::mpsc;

const AGENTS: u64 = 20;
const FRAMES: u64 = 100;
const READINGS: u64 = AGENTS * FRAMES * POLLS * 20;

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
        inbound.blocking_send(Inbound { topic, payload, at, token }.into()).unwrap();
    }
    released.join().unwrap();
    let took = began.elapsed();
    drop(inbound);
    thread.join().unwrap();
    took
}

/// The running collector behind Mosquitto; until its database holds all readings.
async fn through_mosquitto(dir: &Path, frames: Vec<(String, Vec<u8>)>) -> Duration {
    let collector = Behind::start(dir).await;
    let port = collector.port;
    let mut options = MqttOptions::new("bench", "127.0.0.1", port);
    options.set_max_packet_size(1 << 17, 1 << 17).set_inflight(100);
    let (client, mut events) = AsyncClient::new(options, 100);
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
    collector.stop().await;
    polled.abort();
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
