//! Two years of a fleet of fifty devices in made-up time, through the real committer: loggers with a bounded memory, remote
//! sources, devices without a memory; outages of devices, agents, links and the collector; slots that a source never had, or
//! has only weeks later. At the end every slot is stored, or was asked for by the schedule and given up, or, where nobody
//! remembers it, was given up as long after it was last told to be missing; and each source was asked about as seldom as could
//! be.
//!
//! What the fewest requests are is computed here, from a table of single slots that knows nothing of gaps, lives or plans.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test panics where something is not as it should be"
)]

use std::collections::{BTreeMap, BTreeSet};

use gapless_collector::gaps::plan::Order as WindowOrder;
use gapless_collector::gaps::{Policies, Policy};
use gapless_collector::ingest::committer::Committer;
use gapless_collector::ingest::{Inbound, Outbound};
use gapless_collector::store::ReadStore as _;
use gapless_collector::store::model::GapFilter;
use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::{
    AgentId, BootId, ChannelId, ChannelIndex, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq, SiteId,
};
use gapless_common::message::{AgentState, Command, CommandBody, DataFrame, HeldEpoch, Outcome, Reply};
use gapless_common::quality::{Cause, Quality};
use gapless_common::reading::{
    Acquired, CatalogRecord, Completeness, Downtime, EpochStart, Misses, Readings, Record, Sample, Value,
};
use gapless_common::time::{Interval, Slot, SlotGrid, Timestamp};
use gapless_common::topic::{AgentPath, Down, Up};
use gapless_common::wire::{self, Message};
use gapless_tests::sim::rng::Rng;
use rusqlite::Connection;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
/// 2026-01-01T00:00:00Z.
const T0: Timestamp = Timestamp(1_767_225_600_000);
/// How often agents deliver, and it is looked what is due.
const STEP_MS: i64 = 6 * HOUR_MS;
const DEVICES: u64 = 50;
const BAD_DAYS: i64 = 2 * 365;
/// Attempts after 0, 3, 17 and 45 days, and what comes weeks late, are over by then.
const GOOD_DAYS: i64 = 75;
/// As the plan of requests has it: so many under way of one device.
const WINDOWS_MAX: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Remembers so long; a request holds ten days, the oldest first.
    Logger { memory_ms: i64 },
    /// Remembers all; a request holds ninety days, the newest first.
    Source,
    /// Remembers nothing.
    Meter,
}

impl Kind {
    fn longest_ms(self) -> i64 {
        if matches!(self, Self::Logger { .. }) { 10 * DAY_MS } else { 90 * DAY_MS }
    }

    fn remembers(self, age_ms: i64) -> bool {
        match self {
            Self::Logger { memory_ms } => age_ms <= memory_ms,
            Self::Source => true,
            Self::Meter => false,
        }
    }
}

/// What the collector knows of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing: it was not told yet.
    Nothing,
    Stored,
    /// It is missing: attempts that brought nothing, failures since, and when it is due to be asked for.
    Missing {
        attempts: usize,
        failures: u32,
        next: Timestamp,
    },
    /// A request for it is under way.
    Asked {
        attempts: usize,
        failures: u32,
    },
    Abandoned,
}

/// A message that waits for the link, and the slots that it tells of: whether each is stored.
type Waiting = (Up, Vec<u8>, Vec<(i64, bool)>);

/// A request under way: its slots, and, once it is answered, when what it brought must be here.
type Request = (BTreeSet<i64>, Option<Timestamp>);

/// A device, and the agent that has it alone. Its slots are counted from the one at [`T0`].
struct Owed {
    path: AgentPath,
    kind: Kind,
    grid: SlotGrid,
    rng: Rng,
    catalog: Catalog,
    epoch: u64,
    next_seq: u64,
    known: Vec<Known>,
    /// The first slot that the agent has not accounted for.
    unpolled: i64,
    /// Slots that the device did not have when they were polled, and when it has them; `None` where never.
    late: BTreeMap<i64, Option<Timestamp>>,
    /// Until when device, agent and link are away.
    device_away: Timestamp,
    agent_down: Timestamp,
    link_away: Timestamp,
    is_down: bool,
    is_connected: bool,
    waiting: Vec<Waiting>,
    requests: BTreeMap<u64, Request>,
    calls: usize,
    least: usize,
}

impl Owed {
    fn new(no: u64, rng: &mut Rng) -> Self {
        let (kind, minutes) = match no % 5 {
            0 | 1 => (Kind::Logger { memory_ms: 30 * DAY_MS }, 10),
            2 | 3 => (Kind::Source, 30),
            _ => (Kind::Meter, 10),
        };
        let grid = SlotGrid::every(Interval::from_ms(minutes * 60_000).unwrap());
        let channel = Channel {
            id: ChannelId::new("energy").unwrap(),
            unit: "kWh".into(),
            quantity: "".into(),
            aggregation: Aggregation::Sum,
            label: PeriodLabel::End,
            attributes: BTreeMap::new(),
        };
        let attributes: &[(&str, &str)] = match kind {
            Kind::Logger { .. } => &[("history", "device"), ("class", "logger")],
            Kind::Source => &[("history", "source"), ("class", "http")],
            Kind::Meter => &[],
        };
        let attributes = attributes.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        let id = DeviceId::new(&format!("d{no}")).unwrap();
        let devices = vec![Device { id, grid, paused: false, channels: vec![channel], attributes }];
        let site = SiteId::new(&format!("site-{}", no / 10)).unwrap();
        Self {
            path: AgentPath { site, agent: AgentId::new(&format!("gw-{no}")).unwrap() },
            kind,
            grid,
            rng: rng.fork(no),
            catalog: Catalog { devices },
            epoch: 0,
            next_seq: 1,
            known: Vec::new(),
            unpolled: 0,
            late: BTreeMap::new(),
            device_away: T0,
            agent_down: T0,
            link_away: T0,
            is_down: true,
            is_connected: false,
            waiting: Vec::new(),
            requests: BTreeMap::new(),
            calls: 0,
            least: 0,
        }
    }

    fn slot(&self, n: i64) -> Slot {
        self.grid.slot_at(T0).plus(n)
    }

    fn at(&self, n: i64) -> Timestamp {
        self.grid.at(self.slot(n))
    }

    /// The first slot at that instant or after it.
    fn first_from(&self, t: Timestamp) -> i64 {
        self.grid.first_from(t).0 - self.slot(0).0
    }

    fn value(n: i64) -> f64 {
        f64::from(u16::try_from(n % 9_973).unwrap()) / 8.0
    }

    fn frame(&mut self, records: Vec<Record>, told: Vec<(i64, bool)>) {
        let (hash, first) = (wire::encode_catalog(&self.catalog).0, Seq(self.next_seq));
        self.next_seq += u64::try_from(records.len()).unwrap();
        let (agent, connection, epoch) = (self.path.tag(), ConnectionId(1), Epoch(self.epoch));
        let frame = DataFrame { agent, connection, epoch, first, catalog: hash, records };
        self.waiting.push((Up::Data, wire::encode_data(&frame, &self.catalog).unwrap(), told));
    }

    fn birth(&self) -> Waiting {
        let state = AgentState::Birth {
            path: self.path.clone(),
            connection: ConnectionId(1),
            agent_version: "1".into(),
            boot: BootId(self.epoch),
            epoch: Epoch(self.epoch),
            catalog: wire::encode_catalog(&self.catalog).0,
            held: vec![HeldEpoch { epoch: Epoch(self.epoch), first: Seq(1), next: Seq(self.next_seq) }],
            durable: true,
            clock_set: true,
            flush_ms: 0,
        };
        (Up::State, wire::encode(&Message::State(state)).unwrap(), Vec::new())
    }

    /// The agent starts, and says since when it was down.
    fn start(&mut self, now: Timestamp) {
        let previous = (self.epoch > 0).then_some((Epoch(self.epoch), Seq(self.next_seq)));
        (self.epoch, self.next_seq) = (self.epoch + 1, 1);
        let start = EpochStart {
            previous,
            boot: BootId(self.epoch),
            boot_clock_ms: 10,
            at: now,
            clock_set: true,
            durable: true,
            agent_version: "1".into(),
        };
        let (mut records, mut told) = (vec![Record::Start(start)], Vec::new());
        if previous.is_some() {
            let from = self.at(self.unpolled - 1).plus_ms(1);
            records.push(Record::Downtime(Downtime { from, to: now, cause: Cause::PowerOff }));
            let first = self.unpolled;
            self.unpolled = self.first_from(now);
            told.extend((first..self.unpolled).map(|n| (n, false)));
        }
        let (hash, bytes) = wire::encode_catalog(&self.catalog);
        records.push(Record::Catalog(CatalogRecord { hash, since: Some(T0), bytes }));
        self.frame(records, told);
    }

    fn reading(&self, n: i64) -> Record {
        let value = Some(Value::Number(Self::value(n)));
        let sample = Sample { channel: ChannelIndex(0), value, quality: Quality::Good };
        let (device, acquired) = (DeviceIndex(0), Acquired::Recorded(self.slot(n)));
        Record::Readings(Readings { device, acquired, at: self.at(n), samples: vec![sample] })
    }

    /// What goes wrong in a step, until `last` at the longest.
    fn suffer(&mut self, now: Timestamp, last: Timestamp, slots: std::ops::Range<i64>) {
        let mut away = |share: u64, mean_ms: u64| {
            let ms = self.rng.one_in(share).then(|| self.rng.wait_ms(mean_ms))?;
            Some(now.plus_ms(i64::try_from(ms).unwrap()).min(last))
        };
        let day = DAY_MS.unsigned_abs();
        let (device, agent, link) = (away(120, 2 * day), away(400, day), away(200, 2 * day));
        self.device_away = device.unwrap_or(self.device_away);
        self.agent_down = agent.unwrap_or(self.agent_down);
        self.link_away = link.unwrap_or(self.link_away);
        for n in slots {
            if self.rng.one_in(2_000) {
                let count = i64::try_from(self.rng.within(1, 12)).unwrap();
                let days = i64::try_from(self.rng.within(1, 60)).unwrap();
                let from = self.rng.one_in(2).then(|| now.plus_ms(days * DAY_MS));
                self.late.extend((n..n + count).map(|n| (n, from)));
            }
        }
    }

    /// The step that ends at `now`: what is polled, and what the agent writes of it.
    fn step(&mut self, now: Timestamp, last: Timestamp) {
        let end = self.first_from(now);
        self.known.resize(usize::try_from(end).unwrap(), Known::Nothing);
        if now < last {
            self.suffer(now, last, self.unpolled..end);
        }
        if self.agent_down > now {
            self.is_down = true;
            return;
        }
        if std::mem::take(&mut self.is_down) {
            self.start(now);
        }
        let (mut records, mut told) = (Vec::new(), Vec::new());
        for n in self.unpolled..end {
            let is_there = self.device_away <= now && !self.late.contains_key(&n);
            told.push((n, is_there));
            if is_there {
                records.push(self.reading(n));
                continue;
            }
            match records.last_mut() {
                Some(Record::Misses(run)) => run.count += 1,
                _ => {
                    let (device, first, cause) = (DeviceIndex(0), self.slot(n), Cause::NoAnswer);
                    records.push(Record::Misses(Misses { device, first, count: 1, cause }));
                }
            }
        }
        self.unpolled = end;
        records.push(Record::Complete(Completeness { through: vec![(DeviceIndex(0), self.slot(end - 1))] }));
        self.frame(records, told);
    }

    /// What reaches the collector at `now`.
    fn deliver(&mut self, now: Timestamp) -> Vec<Inbound> {
        let is_there = self.agent_down <= now && self.link_away <= now;
        let mut messages = Vec::new();
        if self.is_connected && !is_there {
            let gone = AgentState::Gone { connection: ConnectionId(1), clean: false };
            messages.push((Up::State, wire::encode(&Message::State(gone)).unwrap(), Vec::new()));
        }
        if is_there {
            messages.extend((!self.is_connected).then(|| self.birth()));
            messages.append(&mut self.waiting);
        }
        self.is_connected = is_there;
        let mut inbound = Vec::new();
        for (kind, payload, told) in messages {
            for (n, is_stored) in told {
                let known = &mut self.known[usize::try_from(n).unwrap()];
                match (is_stored, *known) {
                    (true, _) => *known = Known::Stored,
                    (false, Known::Nothing) => {
                        *known = Known::Missing { attempts: 0, failures: 0, next: now };
                    }
                    (false, _) => {}
                }
            }
            inbound.push(Inbound { topic: self.path.up(kind), payload, at: now, token: 1 });
        }
        inbound
    }

    /// Requests whose answer is through: what it did not bring is no data.
    fn settle(&mut self, now: Timestamp, policy: &Policy) {
        let over: Vec<u64> = self
            .requests
            .iter()
            .filter(|(_, (_, until))| until.is_some_and(|until| until <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            let (slots, _) = self.requests.remove(&id).unwrap();
            self.in_vain(&slots, true, now, policy);
        }
    }

    fn in_vain(&mut self, slots: &BTreeSet<i64>, is_no_data: bool, now: Timestamp, policy: &Policy) {
        for n in slots {
            let known = &mut self.known[usize::try_from(*n).unwrap()];
            let Known::Asked { attempts, failures } = *known else { continue };
            *known = match (is_no_data || failures + 1 >= 12, policy.waits_ms.get(attempts + 1)) {
                (true, None) => Known::Abandoned,
                (true, Some(wait)) => {
                    Known::Missing { attempts: attempts + 1, failures: 0, next: now.plus_ms(*wait) }
                }
                (false, _) => {
                    let pause = (10_000 << failures).min(300_000);
                    Known::Missing { attempts, failures: failures + 1, next: now.plus_ms(pause) }
                }
            };
        }
    }

    /// The slots that are due to be asked for, and how few requests hold them.
    fn due(&self, now: Timestamp) -> (BTreeSet<i64>, usize) {
        let is_asked = |n: &i64| matches!(self.known[usize::try_from(*n).unwrap()], Known::Asked { .. });
        let is_pending = self.requests.values().any(|(slots, _)| slots.iter().any(is_asked));
        if self.kind == Kind::Meter || !self.is_connected || is_pending {
            return (BTreeSet::new(), 0);
        }
        let last_stored = self.known.iter().rposition(|known| *known == Known::Stored).unwrap_or_default();
        let is_due = |known: &Known| matches!(known, Known::Missing { next, .. } if *next <= now);
        let due = (0..).zip(&self.known[..last_stored]).filter(|(_, known)| is_due(known)).map(|(n, _)| n);
        let due: BTreeSet<i64> = due.collect();
        let (mut least, mut reach) = (0, Timestamp(i64::MIN));
        for at in due.iter().map(|n| self.at(*n)) {
            if at >= reach {
                (least, reach) = (least + 1, at.plus_ms(self.kind.longest_ms()));
            }
        }
        (due, least.min(WINDOWS_MAX))
    }

    /// Answers a request.
    fn answer(&mut self, command: &Command, due: &BTreeSet<i64>, now: Timestamp, policy: &Policy) {
        let CommandBody::ReadHistory { from, to, .. } = &command.body else { return };
        self.calls += 1;
        assert!(to.since_ms(*from) <= self.kind.longest_ms(), "longer than the source allows: {command:?}");
        let window = self.first_from(*from)..self.first_from(*to);
        let asked: BTreeSet<i64> = due.range(window.clone()).copied().collect();
        for n in &asked {
            let known = &mut self.known[usize::try_from(*n).unwrap()];
            let Known::Missing { attempts, failures, .. } = *known else {
                panic!("slot {n} is asked for twice at once");
            };
            *known = Known::Asked { attempts, failures };
        }
        if self.device_away > now || self.rng.one_in(30) {
            self.in_vain(&asked, false, now, policy);
            return self.reply(command.id, Outcome::Failed("the device is busy".into()));
        }
        let has = |n: &i64| {
            let is_new = self.known[usize::try_from(*n).unwrap()] != Known::Stored;
            let from = self.late.get(n).copied().unwrap_or(Some(T0));
            is_new && from.is_some_and(|from| from <= now) && self.kind.remembers(now.since_ms(self.at(*n)))
        };
        let given: Vec<i64> = window.filter(has).collect();
        if given.is_empty() {
            self.in_vain(&asked, true, now, policy);
            return self.reply(command.id, Outcome::NoData);
        }
        let records = given.iter().map(|n| self.reading(*n)).collect();
        self.frame(records, given.into_iter().map(|n| (n, true)).collect());
        self.requests.insert(command.id, (asked, Some(now.plus_ms(15 * MINUTE_MS))));
        self.reply(command.id, Outcome::Done);
    }

    fn reply(&mut self, id: u64, outcome: Outcome) {
        let reply = Message::Reply(Reply { id, outcome });
        self.waiting.push((Up::Reply, wire::encode(&reply).unwrap(), Vec::new()));
    }

    /// What the collector tells of the gap that holds a slot.
    fn told_of(&self, committer: &Committer, n: i64) -> String {
        let (from, to) = (Some(self.at(n)), Some(self.at(n + 1)));
        let (site, device) = (Some(self.path.site.clone()), Some(self.catalog.devices[0].id.clone()));
        let filter = GapFilter { site, device, from, to, limit: 9, ..GapFilter::default() };
        let gaps = committer.store().gaps(&filter).unwrap();
        let events: Vec<_> = gaps.iter().map(|gap| committer.store().gap_events(gap.id).unwrap()).collect();
        format!("{gaps:#?} {events:#?}")
    }

    /// Of a device without a memory: each gap was given up at the first look after all of the schedule's pauses had passed since
    /// the last of its slots was told to be missing, and once.
    fn check_ends(&self, committer: &Committer, looks: &[Timestamp], policy: &Policy) -> usize {
        let (site, device) = (Some(self.path.site.clone()), Some(self.catalog.devices[0].id.clone()));
        let filter = GapFilter { site, device, limit: 100_000, ..GapFilter::default() };
        let gaps = committer.store().gaps(&filter).unwrap();
        for gap in &gaps {
            let told_at = (self.first_from(gap.from)..self.first_from(gap.to)).map(|n| {
                match self.known[usize::try_from(n).unwrap()] {
                    Known::Missing { next, .. } => next,
                    other => panic!("slot {n} of {gap:?} is {other:?}"),
                }
            });
            let end = told_at.max().unwrap().plus_ms(policy.waits_ms.iter().sum());
            let look = looks.get(looks.partition_point(|look| *look < end)).copied();
            let events = committer.store().gap_events(gap.id).unwrap();
            let told: Vec<_> = events.iter().map(|event| (event.event, Some(event.at))).collect();
            assert_eq!(told[1..], [("abandoned", look)], "{gap:?} of {events:?}");
        }
        gaps.len()
    }

    /// What the collector's database says of each slot at the end.
    fn compare(&self, committer: &Committer) {
        let device = self.catalog.devices[0].id.as_str();
        let sql = "SELECT r.ts, r.value FROM readings r JOIN series x ON x.id = r.series
            JOIN devices d ON d.id = x.device WHERE d.name = ?1 ORDER BY r.ts";
        let mut statement = committer.connection().prepare_cached(sql).unwrap();
        let row = |r: &rusqlite::Row<'_>| Ok((Timestamp(r.get(0)?), r.get::<_, f64>(1)?));
        let stored = statement.query_map([device], row).unwrap().map(Result::unwrap);
        let all = || (0..).zip(&self.known);
        let wanted = all().filter(|(_, known)| **known == Known::Stored);
        let wanted = wanted.map(|(n, _)| (self.at(n), Self::value(n)));
        assert!(stored.eq(wanted), "{device}: what is stored is not what was sent");
        let id = self.catalog.devices[0].id.clone();
        let filter = GapFilter {
            site: Some(self.path.site.clone()),
            device: Some(id),
            limit: 100_000,
            ..Default::default()
        };
        let mut left = BTreeMap::new();
        for gap in committer.store().gaps(&filter).unwrap() {
            let state = format!("{:?}", gap.state);
            if state != "Filled" {
                let slots = self.first_from(gap.from)..self.first_from(gap.to);
                left.extend(slots.map(|n| (n, (state.clone(), gap.attempts))));
            }
        }
        let missing = all().filter_map(|(n, known)| match known {
            Known::Stored => None,
            Known::Abandoned => Some((n, ("Missing(Abandoned)".to_owned(), 4))),
            Known::Missing { .. } if self.kind == Kind::Meter => {
                Some((n, ("Missing(Abandoned)".to_owned(), 0)))
            }
            other => panic!("{device}: slot {n} is {other:?} at the end; {}", self.told_of(committer, n)),
        });
        assert_eq!(left, missing.collect(), "{device}: what is missing, and how it stands");
        let given_up = all().filter(|(_, known)| **known == Known::Abandoned).map(|(n, _)| n);
        if self.kind == Kind::Source {
            let never = |n: i64| {
                self.late
                    .get(&n)
                    .is_some_and(|from| from.is_none_or(|from| from > self.at(n).plus_ms(40 * DAY_MS)))
            };
            given_up.for_each(|n| assert!(never(n), "{device}: slot {n} was there and was given up"));
        }
    }
}

fn policies() -> Policies {
    let logger = Policy { window_ms: 10 * DAY_MS, order: WindowOrder::OldestFirst, ..Policy::default() };
    Policies { of_class: [("logger".to_owned(), logger)].into(), ..Policies::default() }
}

fn take(committer: &mut Committer, messages: &[Inbound], now: Timestamp) {
    let mut rest = messages;
    while !rest.is_empty() {
        let (_, taken) = committer.attempt(rest, now).unwrap();
        rest = &rest[taken..];
    }
}

/// What is asked of whom, by the topic of its commands.
fn asked(answers: Vec<Outbound>) -> BTreeMap<String, Vec<Command>> {
    let mut by_topic: BTreeMap<String, Vec<Command>> = BTreeMap::new();
    for answer in answers {
        if let Outbound::Publish { topic, payload, .. } = answer
            && let Ok(Message::Command(command)) = wire::decode(&payload)
        {
            by_topic.entry(topic).or_default().push(command);
        }
    }
    by_topic
}

#[test]
fn every_slot_ends_stored_or_given_up_by_the_schedule_with_as_few_calls_as_could_be() {
    let mut rng = Rng::new(2_026);
    let mut fleet: Vec<Owed> = (0..DEVICES).map(|no| Owed::new(no, &mut rng)).collect();
    let mut committer = Committer::from_connection(Connection::open_in_memory().unwrap(), 7)
        .unwrap()
        .with_policies(policies());
    let (last, mut collector_away) = (T0.plus_ms(BAD_DAYS * DAY_MS), T0);
    let (mut calls, mut least, mut given_up) = (0, 0, 0);
    let mut looks = Vec::new();
    for step in 1..=(BAD_DAYS + GOOD_DAYS) * DAY_MS / STEP_MS {
        let now = T0.plus_ms(step * STEP_MS);
        fleet.iter_mut().for_each(|owed| owed.step(now, last));
        if now < last && rng.one_in(300) {
            collector_away =
                now.plus_ms(i64::try_from(rng.wait_ms(DAY_MS.unsigned_abs())).unwrap()).min(last);
        }
        if collector_away > now {
            continue;
        }
        if collector_away > T0 {
            // It was killed, and finds everything again.
            collector_away = T0;
            let connection = committer.into_connection().unwrap();
            committer = Committer::from_connection(connection, 8).unwrap().with_policies(policies());
            committer.begin(now).unwrap();
            fleet.iter_mut().for_each(|owed| owed.is_connected = false);
        }
        let messages: Vec<Inbound> = fleet.iter_mut().flat_map(|owed| owed.deliver(now)).collect();
        take(&mut committer, &messages, now);
        for round in 0.. {
            assert!(round < 200, "it asks on and on");
            let now = now.plus_ms(round * 20_000);
            let policies = policies();
            let policy = |owed: &Owed| {
                policies.of(owed.catalog.devices[0].attributes.get("class").map(String::as_str)).clone()
            };
            for owed in &mut fleet {
                let policy = policy(owed);
                owed.settle(now, &policy);
            }
            looks.push(now);
            let mut by_topic = asked(committer.look_after_gaps(now).unwrap());
            if by_topic.is_empty() && round > 0 {
                break;
            }
            let mut messages = Vec::new();
            for owed in &mut fleet {
                let (due, fewest) = owed.due(now);
                let topic = owed.path.down(Down::Command);
                let commands = by_topic.remove(&topic).unwrap_or_default();
                if !commands.is_empty() {
                    owed.least += fewest;
                }
                let policy = policy(owed);
                for command in &commands {
                    owed.answer(command, &due, now, &policy);
                }
                messages.extend(owed.deliver(now));
            }
            assert_eq!(by_topic.len(), 0, "somebody is asked who is not there: {by_topic:?}");
            take(&mut committer, &messages, now);
        }
    }
    for owed in &fleet {
        owed.compare(&committer);
        if owed.kind == Kind::Meter {
            given_up += owed.check_ends(&committer, &looks, &policies().usual);
        }
        assert!(
            20 * owed.calls <= 21 * owed.least + 20,
            "{:?} was asked {} times, and {} would have been enough",
            owed.kind,
            owed.calls,
            owed.least
        );
        (calls, least) = (calls + owed.calls, least + owed.least);
    }
    assert!(20 * calls <= 21 * least && calls > 1_000, "{calls} calls, and {least} would have been enough");
    assert!(given_up > 100, "{given_up} gaps of devices without a memory");
}
