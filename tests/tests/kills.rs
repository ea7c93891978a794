//! The real collector, killed again and again while frames come through the real broker: afterwards each of them is
//! stored once. The agent is a few lines that send again what is not acknowledged; the real one is in `chaos`.

use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::{
    AgentId, BootId, CatalogHash, ChannelId, ChannelIndex, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq,
    SiteId,
};
use gapless_common::message::DataFrame;
use gapless_common::quality::Quality;
use gapless_common::ranges::RangeSet;
use gapless_common::reading::{Acquired, CatalogRecord, EpochStart, Readings, Record, Sample, Value};
use gapless_common::time::{Interval, Slot, SlotGrid, Timestamp};
use gapless_common::topic::{AgentPath, Down, Up};
use gapless_common::wire::{self, Message};
use gapless_tests::api::Api;
use gapless_tests::broker::Broker;
use gapless_tests::process::{Process, free_port, own_binary};
use gapless_tests::wait;
use rumqttc::{Client, Event, Incoming, MqttOptions, QoS};
use tempfile::TempDir;

const FRAMES: u64 = 1_500;
const ROWS: u64 = 10;
const KILLS: u32 = 10;
/// Frames sent and not acknowledged at most.
const WINDOW: usize = 64;
/// Far beyond what it takes on a busy machine.
const SETTLE: Duration = Duration::from_secs(240);
const FIRST_SLOT: i64 = 1_700_000_000;

fn path() -> AgentPath {
    let (site, agent) = (SiteId::new("farm"), AgentId::new("gw"));
    AgentPath { site: site.expect("a name"), agent: agent.expect("a name") }
}

fn grid() -> SlotGrid {
    SlotGrid::every(Interval::from_ms(1_000).expect("within bounds"))
}

fn catalog() -> (CatalogHash, Box<[u8]>, Catalog) {
    let channel = Channel {
        id: ChannelId::new("u").expect("a name"),
        unit: "V".into(),
        quantity: "".into(),
        aggregation: Aggregation::Instant,
        label: PeriodLabel::End,
        attributes: Default::default(),
    };
    let device = Device {
        id: DeviceId::new("meter").expect("a name"),
        grid: grid(),
        paused: false,
        channels: vec![channel],
        attributes: Default::default(),
    };
    let catalog = Catalog { devices: vec![device] };
    let (hash, bytes) = wire::encode_catalog(&catalog);
    (hash, bytes, catalog)
}

/// The readings of frame `n`, from 1 on; frame 0 is the opening. Frame `n` begins with seq `3 + (n - 1) * ROWS`.
fn frame(n: u64) -> (u64, Vec<u8>) {
    let (hash, bytes, catalog) = catalog();
    let start = EpochStart {
        previous: None,
        boot: BootId(1),
        boot_clock_ms: 0,
        at: Timestamp(FIRST_SLOT * 1_000),
        clock_set: true,
        durable: true,
        agent_version: "1".into(),
    };
    let since = Some(grid().at(Slot(FIRST_SLOT)));
    let reading = |row: u64| {
        let slot = Slot(FIRST_SLOT + i64::try_from((n - 1) * ROWS + row).expect("small"));
        let value = Some(Value::Number(f64::from(u32::try_from(row).expect("small"))));
        let samples = vec![Sample { channel: ChannelIndex(0), value, quality: Quality::Good }];
        let (device, acquired, at) = (DeviceIndex(0), Acquired::InSlot(slot), grid().at(slot));
        Record::Readings(Readings { device, acquired, at, samples })
    };
    let (first, records) = match n {
        0 => (1, vec![Record::Start(start), Record::Catalog(CatalogRecord { hash, since, bytes })]),
        _ => (3 + (n - 1) * ROWS, (0..ROWS).map(reading).collect()),
    };
    let (agent, connection, epoch) = (path().tag(), ConnectionId(1), Epoch(9));
    let frame = DataFrame { agent, connection, epoch, first: Seq(first), catalog: hash, records };
    (first, wire::encode_data(&frame, &catalog).expect("a frame"))
}

/// What the collector has acknowledged; kept by a thread of its own.
fn listen(port: u16) -> (Client, Arc<Mutex<RangeSet>>) {
    let mut options = MqttOptions::new("agent", "127.0.0.1", port);
    options.set_max_packet_size(1 << 17, 1 << 17);
    let (client, mut events) = Client::new(options, WINDOW * 2);
    client.subscribe(path().down(Down::Ack), QoS::AtLeastOnce).expect("the queue has room");
    let known = Arc::new(Mutex::new(RangeSet::new()));
    let told = Arc::clone(&known);
    std::thread::spawn(move || {
        for event in events.iter() {
            let Ok(Event::Incoming(Incoming::Publish(message))) = event else { continue };
            let Ok(Message::Ack(ack)) = wire::decode(&message.payload) else { continue };
            let mut known = told.lock().unwrap_or_else(PoisonError::into_inner);
            for epoch in ack.epochs {
                if epoch.watermark.0 > 0 {
                    known.insert(1, epoch.watermark.0);
                }
                epoch.above.iter().for_each(|(first, last)| known.insert(first.0, last.0));
            }
        }
    });
    (client, known)
}

struct Collector {
    folder: TempDir,
    http: u16,
    process: Option<Process>,
}

impl Collector {
    fn configured(folder: TempDir, broker: &Broker) -> Self {
        let http = free_port();
        let config = format!(
            "data_dir = \"{}\"\n[mqtt]\nbroker = \"{}\"\n[http]\nlisten = \"127.0.0.1:{http}\"\n",
            folder.path().join("data").display(),
            broker.url()
        );
        std::fs::write(folder.path().join("collector.toml"), config).expect("the folder can be written");
        Self { folder, http, process: None }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(own_binary("gapless-collector"));
        command.arg("run").arg("--config").arg(self.folder.path().join("collector.toml"));
        command
    }

    fn start(&mut self) {
        let mut command = self.command();
        let log = self.folder.path().join("collector.log");
        self.process = Some(Process::start("collector", &mut command, &log));
    }

    fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    fn api(&self) -> Api {
        let base = format!("http://127.0.0.1:{}", self.http);
        let token = self.folder.path().join("data/admin-token");
        wait::until("the collector to answer", SETTLE, || {
            let token = std::fs::read_to_string(&token).map_err(|e| e.to_string())?;
            let api = Api::new(&base, token.trim());
            api.get("/api/v1/sites").map(|_| api)
        })
    }
}

#[test]
fn a_collector_killed_at_any_instant_stores_each_frame_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let broker = Broker::start(folder.path());
    let mut collector = Collector::configured(folder, &broker);
    collector.start();
    let (client, known) = listen(broker.port());
    let frames: Vec<_> = (0..=FRAMES).map(frame).collect();
    let began = Instant::now();
    let (mut kills, mut killed_at) = (0, Instant::now());
    let mut sent: Vec<(usize, Instant)> = Vec::new();
    let mut next = 0;
    loop {
        let acked = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        sent.retain(|(n, _)| !acked.contains(frames[*n].0));
        if sent.is_empty() && next == frames.len() && kills >= KILLS {
            break;
        }
        assert!(began.elapsed() < SETTLE, "{} of {} after {kills} kills", next, frames.len());
        for (n, at) in &mut sent {
            if at.elapsed() > Duration::from_millis(400) {
                let _ =
                    client.try_publish(path().up(Up::Data), QoS::AtLeastOnce, false, frames[*n].1.clone());
                *at = Instant::now();
            }
        }
        // A share of the frames for each life, so that there is work under way at each kill.
        let share = frames.len() * (usize::try_from(kills).expect("few") + 1)
            / (usize::try_from(KILLS).expect("few") + 1);
        while next < share.max(1) && sent.len() < WINDOW {
            let _ = client.try_publish(path().up(Up::Data), QoS::AtLeastOnce, false, frames[next].1.clone());
            sent.push((next, Instant::now()));
            next += 1;
        }
        // Some 150 to 850 ms of life: different instants of starting, catching up and being busy.
        let life = Duration::from_millis(150 + u64::from(kills) * 397 % 700);
        if kills < KILLS && killed_at.elapsed() > life {
            collector.kill();
            collector.start();
            (kills, killed_at) = (kills + 1, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let api = collector.api();
    let readings = api.readings("farm/gw/u").err();
    assert!(readings.is_some(), "an agent is no device");
    let readings = api.readings("farm/meter/u").expect("the API answers");
    assert_eq!(u64::try_from(readings.len()).expect("small"), FRAMES * ROWS);
    for (reading, n) in readings.iter().zip(0_i64..) {
        let row = f64::from(i32::try_from(n).expect("small") % i32::try_from(ROWS).expect("small"));
        assert_eq!((reading.at_ms, reading.value.as_f64()), ((FIRST_SLOT + n) * 1_000, Some(row)));
    }
    let agent = &api.items("/api/v1/agents").expect("the API answers")[0];
    assert_eq!((agent["readings"].as_u64(), agent["conflicts"].as_u64()), (Some(FRAMES * ROWS), Some(0)));
    assert_eq!(agent["missing_records"].as_u64(), Some(0));
}

/// Two workers on one queue would each ask a device for one job.
#[test]
fn a_second_collector_on_one_data_directory_is_refused_until_the_first_one_has_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let broker = Broker::start(folder.path());
    let mut collector = Collector::configured(folder, &broker);
    collector.start();
    collector.api().get("/api/v1/jobs").expect("the first one serves");
    let second = collector.command().output().expect("the program starts");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("another collector runs on"), "{said}");
    collector.api().get("/api/v1/jobs").expect("the first one goes on");
    collector.kill();
    collector.start();
    collector.api().get("/api/v1/jobs").expect("what a kill leaves behind is no lock");
}
