//! What the agent costs: 10 TCP devices × 20 float32 (and their evaluation time) at 1 s for a minute, live and
//! with a 15 s flush. CPU, memory, requests per cycle, bytes published and written per reading.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gapless_common::time::Interval;
use gapless_tests::site::{DeviceSpec, Place, Site, SiteSpec};
use gapless_tests::{usage, wait};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};

const DEVICES: usize = 10;
const CHANNELS: u16 = 20;
/// Before measuring: start, catalog, connections.
const WARM_UP: Duration = Duration::from_secs(5);

/// What a subscriber saw pass.
#[derive(Debug, Default)]
struct Seen {
    messages: AtomicU64,
    bytes: AtomicU64,
}

/// PUBLISH fixed header (2 to 4 bytes, 3 here), topic length, packet identifier (MQTT 3.1.1, section 3.3).
const PUBLISH_OVERHEAD: usize = 3 + 2 + 2;

fn listen(port: u16, seen: Arc<Seen>) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut options = MqttOptions::new("bench", "127.0.0.1", port);
            options.set_max_packet_size(1 << 20, 1 << 20);
            let (client, mut events) = AsyncClient::new(options, 100);
            client.subscribe("gapless/v1/+/+/up/data", QoS::AtMostOnce).await.expect("queued");
            while let Ok(event) = events.poll().await {
                if let Event::Incoming(Packet::Publish(p)) = event {
                    seen.messages.fetch_add(1, Ordering::Relaxed);
                    let bytes = p.payload.len() + p.topic.len() + PUBLISH_OVERHEAD;
                    seen.bytes.fetch_add(u64::try_from(bytes).expect("fits"), Ordering::Relaxed);
                }
            }
        });
    });
}

fn spec(flush: &str) -> SiteSpec {
    let device = |n: usize| DeviceSpec {
        name: format!("device-{n}"),
        unit: 1,
        channels: CHANNELS,
        interval: Interval::from_ms(1_000).expect("within bounds"),
        place: Place::Tcp(n),
    };
    SiteSpec { devices: (0..DEVICES).map(device).collect(), flush: flush.to_owned(), ..SiteSpec::default() }
}

fn requests(site: &Site) -> u64 {
    site.tcp.iter().map(|s| s.stats().requests).sum()
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn run(flush: &str, length: Duration) {
    let mut site = Site::new(spec(flush));
    let seen = Arc::new(Seen::default());
    listen(site.broker.as_ref().expect("Mosquitto").port(), Arc::clone(&seen));
    site.start_collector();
    site.start_agent();
    wait::until_true("polling", Duration::from_secs(20), || requests(&site) > 20);
    std::thread::sleep(WARM_UP);
    let pid = site.agent().id();
    let look = |site: &Site| {
        (
            usage::of(pid),
            requests(site),
            seen.bytes.load(Ordering::Relaxed),
            seen.messages.load(Ordering::Relaxed),
        )
    };
    let began = Instant::now();
    let before = look(&site);
    std::thread::sleep(length);
    let after = look(&site);
    let polls = (after.1 - before.1) as f64;
    // Each poll gives the 20 values and the evaluation time.
    let readings = polls * f64::from(CHANNELS + 1);
    let cycles = began.elapsed().as_secs_f64();
    println!(
        "flush {flush:>4}: {readings:.0} readings; CPU {:.4} s per 1,000 readings; peak RSS {:.1} MB; {:.2} requests per device and cycle; \
         {:.2} bytes published per reading in {} messages; {:.1} bytes to disk per reading",
        (after.0.cpu_s - before.0.cpu_s) / readings * 1_000.0,
        after.0.rss_peak_bytes as f64 / 1e6,
        polls / cycles / DEVICES as f64,
        (after.2 - before.2) as f64 / readings,
        after.3 - before.3,
        (after.0.disk_bytes - before.0.disk_bytes) as f64 / readings,
    );
}

fn main() {
    let seconds = std::env::var("GAPLESS_BENCH_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    println!("{DEVICES} TCP devices x {CHANNELS} float32 at 1 s for {seconds} s");
    for flush in ["0s", "15s"] {
        run(flush, Duration::from_secs(seconds));
    }
}
