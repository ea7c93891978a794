//! How long other agents wait for their acknowledgements while one floods the collector, through Mosquitto:
//! `cargo bench -p gapless-tests --bench flood`. Five agents send a frame five times a second and wait for the answer;
//! another one sends what it has, with 32 frames on their way, as an agent has at most.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench ends where something is wrong, and prints"
)]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gapless_common::id::{BootId, ConnectionId, Epoch, Seq};
use gapless_common::message::{AgentState, HeldEpoch};
use gapless_common::topic::{Down, Up};
use gapless_common::wire::{self, Message};
use gapless_tests::load::{Behind, catalog, frame, last_seq, path};
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use tokio::sync::watch;

/// The agents that are held up, numbered from 1; 0 floods.
const QUIET: u64 = 5;
/// Frames of the flood that are on their way.
const WINDOW: u64 = 32;
const FLOOD_FRAMES: u64 = 12_000;
const QUIET_EVERY: Duration = Duration::from_millis(200);
const IDLE: Duration = Duration::from_secs(4);
/// Longer than this nobody is to wait for another one's flood: the bench fails.
const LONGEST_MAX: Duration = Duration::from_secs(1);

/// A connected agent that was born; what the collector has of it.
async fn connect(port: u16, agent: u64) -> (AsyncClient, watch::Receiver<Seq>) {
    let path = path(agent);
    let mut options = MqttOptions::new(format!("gw-{agent}"), "127.0.0.1", port);
    options.set_max_packet_size(1 << 17, 1 << 17).set_inflight(100);
    let (client, mut events) = AsyncClient::new(options, 100);
    client.subscribe(path.down(Down::Ack), QoS::AtLeastOnce).await.unwrap();
    let (told, watermark) = watch::channel(Seq(0));
    let epoch = Epoch(agent + 1);
    tokio::spawn(async move {
        // It ends with the broker, when all is over.
        while let Ok(event) = events.poll().await {
            if let Event::Incoming(Incoming::Publish(publish)) = event
                && let Ok(Message::Ack(ack)) = wire::decode(&publish.payload)
                && let Some(of_epoch) = ack.epochs.iter().find(|of_epoch| of_epoch.epoch == epoch)
            {
                let _ = told.send(of_epoch.watermark);
            }
        }
    });
    let birth = AgentState::Birth {
        path: path.clone(),
        connection: ConnectionId(1),
        agent_version: "1".into(),
        boot: BootId(1),
        epoch,
        catalog: wire::encode_catalog(&catalog(agent)).0,
        held: vec![HeldEpoch { epoch, first: Seq(1), next: Seq(1) }],
        durable: true,
        clock_set: true,
        flush_ms: 0,
    };
    let birth = wire::encode(&Message::State(birth)).unwrap();
    client.publish(path.up(Up::State), QoS::AtLeastOnce, false, birth).await.unwrap();
    (client, watermark)
}

/// Sends a frame now and then until all is over; gives how long each was waited for, and when it was sent.
async fn quiet(port: u16, agent: u64, over: Arc<AtomicBool>) -> Vec<(Instant, Duration)> {
    let (client, mut watermark) = connect(port, agent).await;
    let mut delays = Vec::new();
    let mut n = 0;
    while !over.load(Ordering::Relaxed) {
        let (topic, payload) = frame(agent, n);
        let began = Instant::now();
        client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
        watermark.wait_for(|seq| *seq >= last_seq(n)).await.unwrap();
        delays.push((began, began.elapsed()));
        n += 1;
        tokio::time::sleep(QUIET_EVERY).await;
    }
    delays
}

/// Sends all, at most [`WINDOW`] frames ahead of what the collector has.
async fn flood(port: u16) {
    let frames: Vec<_> = (0..FLOOD_FRAMES).map(|n| frame(0, n)).collect();
    let (client, mut watermark) = connect(port, 0).await;
    for (n, (topic, payload)) in (0_u64..).zip(frames) {
        if let Some(behind) = n.checked_sub(WINDOW) {
            watermark.wait_for(|seq| *seq >= last_seq(behind)).await.unwrap();
        }
        client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
    }
    watermark.wait_for(|seq| *seq >= last_seq(FLOOD_FRAMES - 1)).await.unwrap();
}

/// Prints how long they took; returns the longest.
fn tell(what: &str, delays: &mut [Duration]) -> Duration {
    delays.sort_unstable();
    let at = |percent: usize| {
        delays.get(delays.len() * percent / 100).or(delays.last()).copied().unwrap_or_default()
    };
    let (median, most, longest) = (at(50), at(99), delays.last().copied().unwrap_or_default());
    println!(
        "{what:<40} {:>5} frames: half within {median:>8.1?}, 99 % {most:>8.1?}, all {longest:>8.1?}",
        delays.len()
    );
    longest
}

/// Returns the longest time that another agent waited for while one floods.
async fn measure() -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let collector = Behind::start(dir.path()).await;
    let over = Arc::new(AtomicBool::new(false));
    let others: Vec<_> =
        (1..=QUIET).map(|agent| tokio::spawn(quiet(collector.port, agent, Arc::clone(&over)))).collect();
    tokio::time::sleep(IDLE).await;
    let began = Instant::now();
    flood(collector.port).await;
    let took = began.elapsed();
    over.store(true, Ordering::Relaxed);
    let (mut before, mut during) = (Vec::new(), Vec::new());
    for other in others {
        for (at, delay) in other.await.unwrap() {
            if at + delay > began { during.push(delay) } else { before.push(delay) }
        }
    }
    tell("without a flood", &mut before);
    let longest = tell("while one agent floods", &mut during);
    println!("{:<40} {FLOOD_FRAMES} frames in {took:.1?}", "");
    collector.stop().await;
    longest
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if runtime.block_on(measure()) <= LONGEST_MAX {
        return ExitCode::SUCCESS;
    }
    eprintln!("a flood from one agent held up another one's acknowledgement for more than {LONGEST_MAX:?}");
    ExitCode::FAILURE
}
