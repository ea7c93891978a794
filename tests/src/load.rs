//! Load for a collector, without agents: frames of a 20-channel meter, 15 polls each, as the agents of a farm would send
//! them; and a collector in this process behind Mosquitto. Measures nothing.
#![expect(clippy::unwrap_used, reason = "a bench ends where something is wrong")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use gapless_collector::config::Config;
use gapless_collector::run;
use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::{
    AgentId, BootId, ChannelId, ChannelIndex, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq, SiteId,
};
use gapless_common::message::DataFrame;
use gapless_common::quality::Quality;
use gapless_common::reading::{
    Acquired, CatalogRecord, Completeness, EpochStart, Readings, Record, Sample, Value,
};
use gapless_common::time::{Interval, Slot, SlotGrid};
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Polls of a frame.
pub const POLLS: u64 = 15;
/// Channels of a meter.
pub const CHANNELS: u16 = 20;

/// Whose frames.
#[must_use]
pub fn path(agent: u64) -> AgentPath {
    AgentPath { site: SiteId::new("farm").unwrap(), agent: AgentId::new(&format!("gw-{agent}")).unwrap() }
}

fn grid() -> SlotGrid {
    SlotGrid::every(Interval::from_ms(10_000).unwrap())
}

/// What it polls.
#[must_use]
pub fn catalog(agent: u64) -> Catalog {
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

/// The topic and the bytes of the frame with number `n` of `agent`; the first one holds start and catalog.
#[must_use]
pub fn frame(agent: u64, n: u64) -> (String, Vec<u8>) {
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

/// The last seq of an agent's frame with number `n`.
#[must_use]
pub const fn last_seq(n: u64) -> Seq {
    Seq(2 + n * (POLLS + 1))
}

#[derive(Debug)]
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

/// A running collector behind Mosquitto.
#[derive(Debug)]
pub struct Behind {
    /// Mosquitto's.
    pub port: u16,
    end: watch::Sender<bool>,
    collector: JoinHandle<()>,
    _broker: Mosquitto,
}

impl Behind {
    /// Starts both; waits until the collector has subscribed.
    ///
    /// # Panics
    /// When that cannot be.
    pub async fn start(dir: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
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
        let mut options = rumqttc::MqttOptions::new("presence", "127.0.0.1", port);
        options.set_max_packet_size(1 << 17, 1 << 17);
        let (client, mut events) = rumqttc::AsyncClient::new(options, 10);
        // A retained presence says that the collector has subscribed.
        client.subscribe(gapless_common::topic::PRESENCE_FILTER, rumqttc::QoS::AtLeastOnce).await.unwrap();
        loop {
            if let Ok(rumqttc::Event::Incoming(rumqttc::Incoming::Publish(_))) = events.poll().await {
                break;
            }
        }
        Self { port, end, collector, _broker: broker }
    }

    /// Stops both.
    ///
    /// # Panics
    /// When the collector ended with an error.
    pub async fn stop(self) {
        self.end.send_replace(true);
        self.collector.await.unwrap();
    }
}
