//! A collector's database filled through the real writer, its real router on a loopback port, and a plain HTTP
//! client. What is not here: a broker; frames are handed to the writer as the MQTT shell would.

use std::io::Read as _;
use std::sync::Arc;

use gapless_collector::api::{self, ApiState, Health};
use gapless_collector::gaps::donate::Donor;
use gapless_collector::ingest::committer::Committer;
use gapless_collector::ingest::{INBOUND_MAX, Inbound, OUTBOUND_MAX, Orders, Outbound, Task, writer};
use gapless_collector::store::{ReadStore, Reader, sqlite};
use gapless_collector::tokens;
use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::{
    AgentId, BootId, ChannelId, ChannelIndex, Commit, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq, SiteId,
};
use gapless_common::message::{AgentState, DataFrame, HeldEpoch};
use gapless_common::quality::Quality;
use gapless_common::reading::{
    Acquired, CatalogRecord, Completeness, EpochStart, Readings, Record, Sample, Value,
};
use gapless_common::time::{Interval, Slot, SlotGrid, Timestamp};
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire;
use serde_json::Value as Json;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};

/// 2026-01-01T00:00:00Z.
pub(crate) const T0: Timestamp = Timestamp(1_767_225_600_000);
/// What the API takes for now: an hour later.
pub(crate) const NOW: Timestamp = Timestamp(T0.0 + 3_600_000);
/// A text that a page must not run.
pub(crate) const SCRIPT: &str = "<script>alert(1)</script>";
pub(crate) const EPOCH: Epoch = Epoch(7);
pub(crate) const U: usize = 0;
pub(crate) const DIRECTION: usize = 1;
pub(crate) const ENERGY: usize = 2;
pub(crate) const STATE: usize = 3;

fn path() -> AgentPath {
    AgentPath { site: SiteId::new("farm").unwrap(), agent: AgentId::new("gw").unwrap() }
}

/// Every 15 s.
pub(crate) fn grid() -> SlotGrid {
    SlotGrid::every(Interval::from_ms(15_000).unwrap())
}

/// The slot `n` after T0.
pub(crate) fn slot(n: i64) -> Slot {
    grid().slot_at(T0).plus(n)
}

/// Two devices, `a` and `b`, of four channels: a voltage, a direction, a counter and a text.
pub(crate) fn catalog() -> Catalog {
    let channel = |name: &str, unit: &str, aggregation| Channel {
        id: ChannelId::new(name).unwrap(),
        unit: unit.into(),
        quantity: "q".into(),
        aggregation,
        label: PeriodLabel::End,
        attributes: Default::default(),
    };
    let device = |name: &str| Device {
        id: DeviceId::new(name).unwrap(),
        grid: grid(),
        paused: false,
        channels: vec![
            channel("u", "V", Aggregation::Instant),
            channel("dir", "°", Aggregation::CircularMean),
            channel("energy", "kWh", Aggregation::Counter),
            channel("state", SCRIPT, Aggregation::Instant),
        ],
        attributes: [("model".to_owned(), SCRIPT.to_owned())].into(),
    };
    Catalog { devices: vec![device("a"), device("b")] }
}

/// One value of device `device` in the slot `n` after T0, 40 ms after its instant.
pub(crate) fn reading(device: u16, n: i64, values: &[(usize, Option<Value>)]) -> Record {
    acquired(device, Acquired::InSlot(slot(n)), grid().at(slot(n)).plus_ms(40), values)
}

pub(crate) fn acquired(
    device: u16,
    acquired: Acquired,
    at: Timestamp,
    values: &[(usize, Option<Value>)],
) -> Record {
    let good =
        if matches!(acquired, Acquired::SinceBoot(_)) { Quality::UncertainClock } else { Quality::Good };
    let sample = |(channel, value): &(usize, Option<Value>)| Sample {
        channel: ChannelIndex(u16::try_from(*channel).unwrap()),
        quality: if value.is_some() { good } else { Quality::BadNoAnswer },
        value: value.clone(),
    };
    let samples = values.iter().map(sample).collect();
    Record::Readings(Readings { device: DeviceIndex(device), acquired, at, samples })
}

/// One number of one channel.
pub(crate) fn number(device: u16, n: i64, channel: usize, x: f64) -> Record {
    reading(device, n, &[(channel, Some(Value::Number(x)))])
}

/// Device `a` is complete through that slot.
pub(crate) fn complete(n: i64) -> Record {
    Record::Complete(Completeness { through: vec![(DeviceIndex(0), slot(n))] })
}

pub(crate) fn opening() -> Vec<Record> {
    let (hash, bytes) = wire::encode_catalog(&catalog());
    let start = EpochStart {
        previous: None,
        boot: BootId(5),
        boot_clock_ms: 10,
        at: T0,
        clock_set: true,
        durable: true,
        agent_version: "1".into(),
    };
    vec![Record::Start(start), Record::Catalog(CatalogRecord { hash, since: Some(T0), bytes })]
}

/// The API of one database.
pub(crate) struct Served {
    _runtime: tokio::runtime::Runtime,
    folder: TempDir,
    pub(crate) base: String,
    token: String,
    pub(crate) health: Arc<Health>,
}

/// A database with a writer at work.
pub(crate) struct Filled {
    pub(crate) served: Served,
    inbound: mpsc::Sender<Task>,
    outbound: mpsc::Receiver<Outbound>,
    next: u64,
    sent: u64,
    watermark: u64,
}

impl Filled {
    /// The way to its writer.
    pub(crate) fn orders(&self) -> Orders {
        Orders::to(&self.inbound)
    }

    /// A database that holds the opening.
    pub(crate) fn new() -> Self {
        Self::within(tempfile::tempdir().unwrap())
    }

    /// The same, with devices that stand in for others.
    pub(crate) fn with_donors(donors: Vec<Donor>) -> Self {
        Self::start(tempfile::tempdir().unwrap(), donors)
    }

    /// A database in that folder.
    pub(crate) fn within(folder: TempDir) -> Self {
        Self::start(folder, Vec::new())
    }

    fn start(folder: TempDir, donors: Vec<Donor>) -> Self {
        let (inbound, to_writer) = mpsc::channel(INBOUND_MAX);
        let (from_writer, outbound) = mpsc::channel(OUTBOUND_MAX);
        let health = Arc::new(Health::default());
        let file = folder.path().join("db");
        let committer = Committer::open(&file).unwrap().with_donors(donors);
        let (watch, _) = writer::start_with(committer, to_writer, from_writer, Arc::clone(&health)).unwrap();
        let store = Arc::new(Reader::new(&file));
        let orders = Orders::to(&inbound);
        let served = Served::start(folder, store, watch.commits, health, orders);
        let mut filled = Self { served, inbound, outbound, next: 1, sent: 0, watermark: 0 };
        filled.send(opening());
        filled
    }

    /// The second is over in which the writer looks after gaps.
    pub(crate) fn look_after_gaps(&self) {
        let (done, is_done) = oneshot::channel();
        self.inbound.blocking_send(Task::LookAfterGaps(done)).unwrap();
        is_done.blocking_recv().unwrap();
    }

    /// One frame with these records; committed when it returns.
    pub(crate) fn send(&mut self, records: Vec<Record>) {
        let message = self.message(records);
        self.inbound.blocking_send(message.into()).unwrap();
        self.settle();
    }

    /// The agent is born, and gathers readings for so long before it sends them.
    pub(crate) fn be_born(&mut self, flush_ms: u32) {
        let state = AgentState::Birth {
            path: path(),
            connection: ConnectionId(1),
            agent_version: "1".into(),
            boot: BootId(5),
            epoch: EPOCH,
            catalog: wire::encode_catalog(&catalog()).0,
            held: vec![HeldEpoch { epoch: EPOCH, first: Seq(1), next: Seq(self.next) }],
            durable: true,
            clock_set: true,
            flush_ms,
        };
        self.sent += 1;
        let payload = wire::encode(&wire::Message::State(state)).unwrap();
        let message = Inbound { topic: path().up(Up::State), payload, at: NOW, token: self.sent };
        self.inbound.blocking_send(message.into()).unwrap();
        self.settle();
    }

    /// Hands the writer a frame without waiting; whether its queue took it.
    pub(crate) fn offer(&mut self, records: Vec<Record>) -> bool {
        let (next, sent) = (self.next, self.sent);
        let message = self.message(records);
        let taken = self.inbound.try_send(message.into()).is_ok();
        if !taken {
            (self.next, self.sent) = (next, sent);
        }
        taken
    }

    /// The highest watermark that has been acknowledged until now.
    pub(crate) fn acknowledged(&mut self) -> u64 {
        while let Ok(answer) = self.outbound.try_recv() {
            self.hear(&answer);
        }
        self.watermark
    }

    /// Waits until all that was handed over is committed.
    pub(crate) fn settle(&mut self) {
        loop {
            let answer = self.outbound.blocking_recv().unwrap();
            self.hear(&answer);
            if matches!(answer, Outbound::Release(tokens) if tokens.contains(&self.sent)) {
                return;
            }
        }
    }

    fn hear(&mut self, answer: &Outbound) {
        if let Outbound::Publish { payload, .. } = answer
            && let wire::Message::Ack(ack) = wire::decode(payload).unwrap()
        {
            self.watermark = ack.epochs[0].watermark.0;
        }
    }

    fn message(&mut self, records: Vec<Record>) -> Inbound {
        let catalog = catalog();
        let count = u64::try_from(records.len()).unwrap();
        let frame = DataFrame {
            agent: path().tag(),
            connection: ConnectionId(1),
            epoch: EPOCH,
            first: Seq(self.next),
            catalog: wire::encode_catalog(&catalog).0,
            records,
        };
        self.next += count;
        self.sent += 1;
        let payload = wire::encode_data(&frame, &catalog).unwrap();
        Inbound { topic: path().up(Up::Data), payload, at: NOW, token: self.sent }
    }
}

impl Served {
    /// Serves `store`; the token lies in the database of `folder`, if `store` asks that.
    pub(crate) fn start(
        folder: TempDir,
        store: Arc<dyn ReadStore + Send + Sync>,
        commits: watch::Receiver<Commit>,
        health: Arc<Health>,
        orders: Orders,
    ) -> Self {
        let connection = sqlite::open_writer(&folder.path().join("db")).unwrap();
        let token = tokens::draw(&connection, "test").unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let state = ApiState { store, commits, health: Arc::clone(&health), orders, now: || NOW };
        let listener = runtime.block_on(api::bind("127.0.0.1:0".parse().unwrap())).unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(api::serve(state, listener, std::future::pending()));
        Self { _runtime: runtime, folder, base, token, health }
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The answer to a GET, with the token and these headers.
    pub(crate) fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let token = format!("Bearer {}", self.token);
        let with_token: Vec<_> = headers.iter().copied().chain([("authorization", token.as_str())]).collect();
        get(&format!("{}{path}", self.base), &with_token)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[])
    }

    /// The answer to a POST without a body.
    pub(crate) fn post(&self, path: &str) -> Answer {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let request =
            agent.post(format!("{}{path}", self.base)).header("authorization", self.authorization());
        Answer::of(request.send_empty().unwrap())
    }

    /// The answer to a DELETE.
    pub(crate) fn delete(&self, path: &str) -> Answer {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let request =
            agent.delete(format!("{}{path}", self.base)).header("authorization", self.authorization());
        Answer::of(request.call().unwrap())
    }

    /// The JSON of an answer that must be whole and good.
    pub(crate) fn json(&self, path: &str) -> Json {
        let answer = self.get(path);
        assert_eq!((answer.status, answer.broken), (200, false), "{path}: {}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    }

    /// The `items` of a list.
    pub(crate) fn items(&self, path: &str) -> Vec<Json> {
        self.json(path)["items"].as_array().unwrap().clone()
    }
}

/// What a client sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// The body ended in an error instead of its end.
    pub(crate) broken: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }
}

/// A connection's answer, its body not read yet.
pub(crate) fn open(url: &str, headers: &[(&str, &str)]) -> ureq::http::Response<ureq::Body> {
    try_open(url, headers).unwrap()
}

fn try_open(url: &str, headers: &[(&str, &str)]) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
    let agent =
        ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).build().new_agent();
    let request = headers.iter().fold(agent.get(url), |request, (name, value)| request.header(*name, *value));
    request.call()
}

pub(crate) fn get(url: &str, headers: &[(&str, &str)]) -> Answer {
    match try_open(url, headers) {
        Ok(answer) => Answer::of(answer),
        // Broken before its first byte had left.
        Err(_) => Answer { status: 0, headers: Vec::new(), body: String::new(), broken: true },
    }
}

impl Answer {
    fn of(mut answer: ureq::http::Response<ureq::Body>) -> Self {
        let text = |value: &ureq::http::HeaderValue| value.to_str().unwrap().to_owned();
        let headers = answer.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let mut body = Vec::new();
        let broken = answer.body_mut().as_reader().read_to_end(&mut body).is_err();
        Self { status: answer.status().as_u16(), headers, body: String::from_utf8(body).unwrap(), broken }
    }
}

impl Served {
    /// The token's header.
    pub(crate) fn authorization(&self) -> String {
        format!("Bearer {}", self.token)
    }
}
