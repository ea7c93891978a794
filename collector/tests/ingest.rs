//! The running collector against real brokers, Mosquitto and the embedded one, with an agent of a few lines.
//! What is not simulated: an agent's outbox; the frames are made here.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gapless_collector::config::Config;
use gapless_collector::run::{self, Addresses};
use gapless_collector::store::{ReadStore, Reader};
use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::{
    AgentId, BootId, ChannelId, ChannelIndex, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq, SiteId,
};
use gapless_common::message::DataFrame;
use gapless_common::quality::Quality;
use gapless_common::reading::{Acquired, CatalogRecord, EpochStart, Readings, Record, Sample, Value};
use gapless_common::time::{Interval, Slot, SlotGrid};
use gapless_common::topic::{AgentPath, Down, PRESENCE_FILTER, Up};
use gapless_common::wire::{self, Message};
use rumqttc::{AsyncClient, Event, EventLoop, Incoming, MqttOptions, QoS};
use tokio::sync::{oneshot, watch};

const DEADLINE: Duration = Duration::from_secs(20);
const FRAMES: u64 = 40;

fn path() -> AgentPath {
    AgentPath { site: SiteId::new("farm").unwrap(), agent: AgentId::new("gw-1").unwrap() }
}

/// Frame `n` holds record `n + 3`; frame 0 the opening.
fn frame(n: u64) -> Vec<u8> {
    let grid = SlotGrid::every(Interval::from_ms(1_000).unwrap());
    let catalog = Catalog {
        devices: vec![Device {
            id: DeviceId::new("meter").unwrap(),
            grid,
            paused: false,
            channels: vec![Channel {
                id: ChannelId::new("u").unwrap(),
                unit: "V".into(),
                quantity: "".into(),
                aggregation: Aggregation::Instant,
                label: PeriodLabel::End,
                attributes: Default::default(),
            }],
            attributes: Default::default(),
        }],
    };
    let (hash, bytes) = wire::encode_catalog(&catalog);
    let slot = Slot(1_000 + i64::try_from(n).unwrap());
    let start = EpochStart {
        previous: None,
        boot: BootId(1),
        boot_clock_ms: 0,
        at: grid.at(Slot(1_000)),
        clock_set: true,
        durable: true,
        agent_version: "1".into(),
    };
    let sample = Sample { channel: ChannelIndex(0), value: Some(Value::Number(1.5)), quality: Quality::Good };
    let records = match n {
        0 => vec![
            Record::Start(start),
            Record::Catalog(CatalogRecord { hash, since: Some(grid.at(Slot(1_000))), bytes }),
        ],
        _ => vec![Record::Readings(Readings {
            device: DeviceIndex(0),
            acquired: Acquired::InSlot(slot),
            at: grid.at(slot),
            samples: vec![sample],
        })],
    };
    let first = Seq(if n == 0 { 1 } else { n + 2 });
    let (agent, connection, epoch) = (path().tag(), ConnectionId(1), Epoch(9));
    let frame = DataFrame { agent, connection, epoch, first, catalog: hash, records };
    wire::encode_data(&frame, &catalog).unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Ended with the test, whatever its outcome.
struct Mosquitto(Child);

impl Mosquitto {
    fn start(dir: &Path, port: u16) -> Self {
        let file = dir.join("mosquitto.conf");
        std::fs::write(&file, format!("listener {port} 127.0.0.1\nallow_anonymous true\n")).unwrap();
        let mut command = Command::new("/usr/sbin/mosquitto");
        let child = command.arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.expect("mosquitto is installed"))
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Collector {
    end: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
    addresses: Addresses,
}

impl Collector {
    async fn start(dir: &Path, broker: Option<u16>) -> Self {
        let mut config = Config { data_dir: dir.to_owned(), ..Config::default() };
        config.http.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.mqtt.embedded = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.mqtt.broker = broker.map(|port| format!("mqtt://127.0.0.1:{port}"));
        let (end, shutdown) = watch::channel(false);
        let (told, ready) = oneshot::channel();
        let task = tokio::spawn(async move {
            let ready = |addresses| told.send(addresses).unwrap();
            run::run(&config, shutdown, ready).await.unwrap();
        });
        Self { end, task, addresses: ready.await.unwrap() }
    }

    async fn stop(self) {
        self.end.send_replace(true);
        tokio::time::timeout(DEADLINE, self.task).await.expect("it ends in time").unwrap();
    }
}

async fn agent(port: u16, id: &str) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(id, "127.0.0.1", port);
    options.set_max_packet_size(1 << 17, 1 << 17);
    let (client, events) = AsyncClient::new(options, 100);
    client.subscribe(path().down(Down::Ack), QoS::AtLeastOnce).await.unwrap();
    client.subscribe(PRESENCE_FILTER, QoS::AtLeastOnce).await.unwrap();
    (client, events)
}

/// Waits for a message that `wanted` accepts.
async fn hear(events: &mut EventLoop, mut wanted: impl FnMut(Message) -> bool) {
    let heard = async {
        loop {
            // A broker that is not there yet is tried again.
            match events.poll().await {
                Ok(Event::Incoming(Incoming::Publish(p))) if wanted(wire::decode(&p.payload).unwrap()) => {
                    return;
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(DEADLINE, heard).await.expect("the message comes in time");
}

fn presence(online: bool) -> impl FnMut(Message) -> bool {
    move |message| matches!(message, Message::Presence(p) if p.online == online)
}

fn watermark(expected: u64) -> impl FnMut(Message) -> bool {
    move |message| matches!(message, Message::Ack(a) if a.epochs.iter().any(|e| e.watermark.0 == expected))
}

/// The same with every broker: presence, frames, a collector that ends and returns, goodbye.
async fn check(dir: &Path, mosquitto: Option<u16>) {
    let collector = Collector::start(dir, mosquitto).await;
    let port = mosquitto.or(collector.addresses.mqtt.map(|a| a.port())).unwrap();
    let (client, mut events) = agent(port, "agent").await;
    hear(&mut events, presence(true)).await;
    let topic = path().up(Up::Data);
    for n in 0..FRAMES {
        client.publish(&topic, QoS::AtLeastOnce, false, frame(n)).await.unwrap();
    }
    client.publish(&topic, QoS::AtLeastOnce, false, b"garbage".to_vec()).await.unwrap();
    client.publish(&topic, QoS::AtLeastOnce, false, frame(FRAMES)).await.unwrap();
    hear(&mut events, watermark(FRAMES + 2)).await;
    let reader = Reader::new(&dir.join("gapless.db"));
    let stats = reader.stats().unwrap();
    assert_eq!((stats.counters.readings, stats.counters.damaged), (FRAMES, 1));
    if mosquitto.is_some() {
        collector.stop().await;
        hear(&mut events, presence(false)).await;
        let collector = Collector::start(dir, mosquitto).await;
        hear(&mut events, presence(true)).await;
        client.publish(&topic, QoS::AtLeastOnce, false, frame(1)).await.unwrap();
        hear(&mut events, watermark(FRAMES + 2)).await;
        assert_eq!(reader.stats().unwrap().counters.duplicates, 1);
        collector.stop().await;
    } else {
        collector.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_mosquitto() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let broker = Mosquitto::start(dir.path(), port);
    check(dir.path(), Some(port)).await;
    drop(broker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_embedded_broker() {
    let dir = tempfile::tempdir().unwrap();
    check(dir.path(), None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_goes_away_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let broker = Mosquitto::start(dir.path(), port);
    let collector = Collector::start(dir.path(), Some(port)).await;
    let (_, mut events) = agent(port, "first").await;
    hear(&mut events, presence(true)).await;
    drop(broker);
    let began = Instant::now();
    let broker = Mosquitto::start(dir.path(), port);
    let (client, mut events) = agent(port, "second").await;
    hear(&mut events, presence(true)).await;
    client.publish(path().up(Up::Data), QoS::AtLeastOnce, false, frame(0)).await.unwrap();
    hear(&mut events, watermark(2)).await;
    assert!(began.elapsed() < DEADLINE);
    collector.stop().await;
    drop(broker);
}
