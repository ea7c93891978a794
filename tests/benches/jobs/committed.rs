//! The same sources behind the real committer: its sweep, its queue, its transactions and commands, over a database in memory.
//! Only workers, sources and time are made up; workers take the most urgent of the commands that are open, as those of the
//! collector's sources do.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use gapless_collector::freshness::Allowances;
use gapless_collector::ingest::committer::Committer;
use gapless_collector::ingest::{Inbound, Outbound};
use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::{
    AgentId, BootId, CatalogHash, ChannelId, ChannelIndex, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq,
    SiteId,
};
use gapless_common::message::{AgentState, DataFrame, HeldEpoch, Outcome, Reply};
use gapless_common::quality::Quality;
use gapless_common::reading::{Acquired, CatalogRecord, EpochStart, Readings, Record, Sample, Value};
use gapless_common::text::format_duration_ms;
use gapless_common::time::{Interval, SlotGrid, Timestamp};
use gapless_common::topic::{AgentPath, Down, Up};
use gapless_common::wire::{self, Message};
use rusqlite::Connection;

use super::{Remote, SOURCES, TICK_MS, Worst, percentiles, remote};

/// 2026-01-01T00:00:00Z.
const T0: Timestamp = Timestamp(1_767_225_600_000);
/// Distance of the readings of a source.
const INTERVAL_MS: u64 = 10_000;

/// A source as the collector knows it.
struct Agent {
    remote: Remote,
    path: AgentPath,
    catalog: Catalog,
    hash: CatalogHash,
    next: u64,
    fresh: Timestamp,
    /// When its rhythm wants it next.
    due: Timestamp,
}

/// What a worker does until when.
type Busy = Reverse<(Timestamp, usize, u64)>;

fn agent(no: i64) -> Agent {
    let remote = remote(no);
    let channel = Channel {
        id: ChannelId::new("energy").unwrap(),
        unit: "kWh".into(),
        quantity: "".into(),
        aggregation: Aggregation::Sum,
        label: PeriodLabel::End,
        attributes: BTreeMap::new(),
    };
    let long = |ms: i64| format_duration_ms(ms.unsigned_abs());
    let attributes = [("class", long(remote.allowed_ms)), ("every", long(remote.allowed_ms / 2))];
    let attributes = attributes.into_iter().map(|(key, text)| (key.to_owned(), text)).collect();
    let grid = SlotGrid::every(Interval::from_ms(INTERVAL_MS).unwrap());
    let id = DeviceId::new(&format!("meter-{no}")).unwrap();
    let device = Device { id, grid, paused: false, channels: vec![channel], attributes };
    let catalog = Catalog { devices: vec![device] };
    let path = AgentPath {
        site: SiteId::new(&format!("site-{}", no % 100)).unwrap(),
        agent: AgentId::new(&format!("source-{no}")).unwrap(),
    };
    Agent { remote, path, hash: wire::encode_catalog(&catalog).0, catalog, next: 1, fresh: T0, due: T0 }
}

impl Agent {
    fn message(&self, kind: Up, payload: Vec<u8>, at: Timestamp) -> Inbound {
        Inbound { topic: self.path.up(kind), payload, at, token: 0 }
    }

    /// It is there, and this is what it has.
    fn opening(&mut self) -> Vec<Inbound> {
        let held = vec![HeldEpoch { epoch: Epoch(1), first: Seq(1), next: Seq(1) }];
        let state = AgentState::Birth {
            path: self.path.clone(),
            connection: ConnectionId(1),
            agent_version: "1".into(),
            boot: BootId(1),
            epoch: Epoch(1),
            catalog: self.hash,
            held,
            durable: true,
            clock_set: true,
            flush_ms: 0,
        };
        let start = EpochStart {
            previous: None,
            boot: BootId(1),
            boot_clock_ms: 0,
            at: T0,
            clock_set: true,
            durable: true,
            agent_version: "1".into(),
        };
        let (hash, bytes) = wire::encode_catalog(&self.catalog);
        let described = Record::Catalog(CatalogRecord { hash, since: Some(T0), bytes });
        let birth = self.message(Up::State, wire::encode(&Message::State(state)).unwrap(), T0);
        vec![birth, self.data(vec![Record::Start(start), described], T0)]
    }

    fn data(&mut self, records: Vec<Record>, now: Timestamp) -> Inbound {
        let (connection, first) = (ConnectionId(1), Seq(self.next));
        self.next += u64::try_from(records.len()).unwrap();
        let (agent, catalog) = (self.path.tag(), self.hash);
        let frame = DataFrame { agent, connection, epoch: Epoch(1), first, catalog, records };
        self.message(Up::Data, wire::encode_data(&frame, &self.catalog).unwrap(), now)
    }

    /// What a call has brought.
    fn answer(&mut self, command: u64, now: Timestamp) -> Vec<Inbound> {
        let reply = |outcome| wire::encode(&Message::Reply(Reply { id: command, outcome })).unwrap();
        if self.remote.is_dead(now.since_ms(T0)) {
            return vec![self.message(Up::Reply, reply(Outcome::Failed("no answer".into())), now)];
        }
        let grid = self.catalog.devices[0].grid;
        let (value, quality) = (Some(Value::Number(1.5)), Quality::Good);
        let samples = vec![Sample { channel: ChannelIndex(0), value, quality }];
        let (device, acquired) = (DeviceIndex(0), Acquired::Recorded(grid.slot_at(now)));
        let record = Record::Readings(Readings { device, acquired, at: now, samples });
        (self.fresh, self.due) = (now, now.plus_ms(self.remote.allowed_ms / 2));
        vec![self.data(vec![record], now), self.message(Up::Reply, reply(Outcome::Done), now)]
    }

    #[expect(clippy::cast_precision_loss, reason = "a ratio of durations")]
    fn score(&self, now: Timestamp) -> f64 {
        now.since_ms(self.fresh) as f64 / self.remote.allowed_ms as f64
    }
}

/// What a quarter of an hour comes to.
pub(super) struct Quarter {
    /// The 99th percentile and the greatest score, and the share that was stale, at their worst.
    pub(super) score: Worst,
    /// The 99th percentile and the greatest lag: how long in s a job waited for a worker beyond its time.
    pub(super) lag: (f64, f64),
}

/// Plays so many minutes, and tells of each quarter of an hour. Returns the number of calls.
pub(super) fn run(minutes: i64, workers: usize, mut tell: impl FnMut(&Quarter)) -> u64 {
    let mut agents: Vec<Agent> = (0..SOURCES).map(agent).collect();
    let topic = |agent: &Agent| agent.path.down(Down::Command);
    let by_topic: BTreeMap<String, usize> =
        agents.iter().enumerate().map(|(at, agent)| (topic(agent), at)).collect();
    let of_class = agents
        .iter()
        .map(|agent| (agent.catalog.devices[0].attributes["class"].clone(), agent.remote.allowed_ms));
    let allowances = Allowances { of_class: of_class.collect(), ..Allowances::default() };
    let committer = Committer::from_connection(Connection::open_in_memory().unwrap(), 7).unwrap();
    let mut committer = committer.with_allowances(allowances);
    for agent in &mut agents {
        committer.attempt(&agent.opening(), T0).unwrap();
    }
    let (mut open, mut busy) = (Vec::<(usize, u64)>::new(), BinaryHeap::<Busy>::new());
    let (mut calls, mut waits) = (0, Vec::new());
    let mut worst = Worst::default();
    for tick in 0..minutes * 60 {
        let now = T0.plus_ms(tick * TICK_MS);
        loop {
            let ended = busy.peek().is_some_and(|Reverse((end, ..))| *end <= now);
            // Workers are free in between ticks, too: what ends within one is followed at its end.
            let free_at = match ended.then(|| busy.pop()).flatten() {
                Some(Reverse((end, at, command))) => {
                    committer.attempt(&agents[at].answer(command, end), end).unwrap();
                    end
                }
                None if busy.len() >= workers || open.is_empty() => break,
                None => now,
            };
            if let Some(first) = most_urgent(&agents, &open, free_at) {
                let (at, command) = open.swap_remove(first);
                let cost_ms = if agents[at].remote.is_dead(free_at.since_ms(T0)) {
                    30_000
                } else {
                    agents[at].remote.cost_ms
                };
                busy.push(Reverse((free_at.plus_ms(cost_ms), at, command)));
                calls += 1;
                // What has never been read is due as soon as it is known.
                if agents[at].due > T0 {
                    #[expect(clippy::cast_precision_loss, reason = "some seconds")]
                    waits.push(free_at.since_ms(agents[at].due) as f64 / 1_000.0);
                }
            }
        }
        for told in committer.look_after_jobs(now).unwrap() {
            let Outbound::Publish { topic, payload } = told else { continue };
            if let (Ok(Message::Command(command)), Some(at)) = (wire::decode(&payload), by_topic.get(&topic))
            {
                open.push((*at, command.id));
            }
        }
        if tick % 60 == 0 {
            let live = agents.iter().filter(|agent| agent.remote.dead.1 == 0);
            let (p99, most, stale) = percentiles(live.map(|agent| agent.score(now)).collect());
            worst = (worst.0.max(p99), worst.1.max(most), worst.2.max(stale));
        }
        if (tick + 1) % 900 == 0 {
            let (p99, most, _) = percentiles(std::mem::take(&mut waits));
            tell(&Quarter { score: std::mem::take(&mut worst), lag: (p99, most) });
        }
    }
    calls
}

fn most_urgent(agents: &[Agent], open: &[(usize, u64)], now: Timestamp) -> Option<usize> {
    let score = |(at, _): &(usize, u64)| agents[*at].score(now);
    (0..open.len()).max_by(|a, b| score(&open[*a]).total_cmp(&score(&open[*b])))
}
