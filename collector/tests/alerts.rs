//! Alerts and housekeeping in made-up time, through the committer: what is raised when, that it is raised once and is over by
//! itself, that neither a restart nor a receiver that is away loses or doubles a message; and what is tidied away when.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

use std::collections::BTreeMap;

use gapless_collector::alerts::Kind;
use gapless_collector::alerts::delivery::{Answer, REFUSALS_MAX};
use gapless_collector::alerts::limits::{Rules, Said};
use gapless_collector::housekeeping::{Confirm, Policy};
use gapless_collector::ingest::committer::Committer;
use gapless_collector::ingest::{Act, Ask, Inbound, Refused};
use gapless_collector::jobs::queue::Why;
use gapless_collector::store::ReadStore as _;
use gapless_collector::store::model::{
    AlertFilter, AlertRow, DeviceNo, ReceiverName, ReceiverRow, StopReason,
};
use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::{
    AgentId, BootId, ChannelId, ChannelIndex, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq, SiteId,
};
use gapless_common::message::{AgentState, ClockReading, DataFrame, HeldEpoch, OutboxFill};
use gapless_common::quality::{Cause, Quality};
use gapless_common::reading::{
    Acquired, CatalogRecord, Completeness, EpochStart, Misses, Readings, Record, Sample, Value,
};
use gapless_common::time::{Interval, SlotGrid, Timestamp};
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire::{self, Message};
use rusqlite::Connection;

/// 2026-01-01T00:00:00Z.
const T0: Timestamp = Timestamp(1_767_225_600_000);
const INTERVAL_MS: i64 = 60_000;
/// Two intervals and 10 s.
const ALLOWED_S: i64 = 130;
const MINUTE_S: i64 = 60;
const DAY_S: i64 = 86_400;
const OPS: &str = "webhook.ops";

/// An agent with one meter.
struct Site {
    path: AgentPath,
    attributes: BTreeMap<String, String>,
    next: u64,
}

/// A collector, its made-up time, and sites.
struct World {
    committer: Committer,
    now: Timestamp,
    sites: Vec<Site>,
}

impl World {
    fn new(sites: usize, rules: Rules) -> Self {
        let committer = Committer::from_connection(Connection::open_in_memory().unwrap(), 7).unwrap();
        let mut world = Self { committer: committer.with_rules(rules), now: T0, sites: Vec::new() };
        world.committer.know_receivers(named(&[OPS]), T0).unwrap();
        for n in 0..sites {
            let path = AgentPath {
                site: SiteId::new(&format!("site-{n}")).unwrap(),
                agent: AgentId::new("gw").unwrap(),
            };
            world.sites.push(Site { path, attributes: BTreeMap::new(), next: 1 });
            world.be_born(n);
            let start = EpochStart {
                previous: None,
                boot: BootId(5),
                boot_clock_ms: 10,
                at: T0,
                clock_set: true,
                durable: true,
                agent_version: "1".into(),
            };
            world.send(n, vec![Record::Start(start)]);
            world.describe(n, &[]);
        }
        world
    }

    fn catalog(&self, site: usize) -> Catalog {
        let channel = Channel {
            id: ChannelId::new("power").unwrap(),
            unit: "kW".into(),
            quantity: "".into(),
            aggregation: Aggregation::Instant,
            label: PeriodLabel::End,
            attributes: BTreeMap::new(),
        };
        let grid = SlotGrid::every(Interval::from_ms(INTERVAL_MS.cast_unsigned()).unwrap());
        let (id, attributes) = (DeviceId::new("meter").unwrap(), self.sites[site].attributes.clone());
        Catalog { devices: vec![Device { id, grid, paused: false, channels: vec![channel], attributes }] }
    }

    /// What is known of the meter of a site besides.
    fn describe(&mut self, site: usize, attributes: &[(&str, &str)]) {
        self.sites[site].attributes =
            attributes.iter().map(|&(key, value)| (key.into(), value.into())).collect();
        let (hash, bytes) = wire::encode_catalog(&self.catalog(site));
        let since = Some(self.now);
        self.send(site, vec![Record::Catalog(CatalogRecord { hash, since, bytes })]);
    }

    fn take(&mut self, site: usize, kind: Up, payload: Vec<u8>) {
        let message = Inbound { topic: self.sites[site].path.up(kind), payload, at: self.now, token: 1 };
        self.committer.attempt(&[message], self.now).unwrap();
    }

    fn be_born(&mut self, site: usize) {
        let state = AgentState::Birth {
            path: self.sites[site].path.clone(),
            connection: ConnectionId(1),
            agent_version: "1".into(),
            boot: BootId(5),
            epoch: Epoch(1),
            catalog: wire::encode_catalog(&self.catalog(site)).0,
            held: vec![HeldEpoch { epoch: Epoch(1), first: Seq(1), next: Seq(self.sites[site].next) }],
            durable: true,
            clock_set: true,
            flush_ms: 0,
        };
        self.take(site, Up::State, wire::encode(&Message::State(state)).unwrap());
    }

    fn leave(&mut self, site: usize) {
        let gone = AgentState::Gone { connection: ConnectionId(1), clean: false };
        self.take(site, Up::State, wire::encode(&Message::State(gone)).unwrap());
    }

    /// The agent of a site says that so many percent of its outbox are owed, and that its clock is so many seconds ahead.
    fn say(&mut self, site: usize, connection: u32, percent: u64, ahead_s: i64) {
        let wall = self.now.plus_ms(ahead_s * 1_000);
        let clock = Some(ClockReading { boot_ms: self.now.since_ms(T0).unsigned_abs(), wall });
        let outbox = OutboxFill { owed_bytes: percent << 20, most_bytes: 100 << 20 };
        let state = AgentState::Health { connection: ConnectionId(connection), outbox, clock };
        self.take(site, Up::State, wire::encode(&Message::State(state)).unwrap());
    }

    fn send(&mut self, site: usize, records: Vec<Record>) {
        let catalog = self.catalog(site);
        let hash = wire::encode_catalog(&catalog).0;
        let (count, first) = (u64::try_from(records.len()).unwrap(), Seq(self.sites[site].next));
        let (agent, connection, epoch) = (self.sites[site].path.tag(), ConnectionId(1), Epoch(1));
        let frame = DataFrame { agent, connection, epoch, first, catalog: hash, records };
        self.sites[site].next += count;
        self.take(site, Up::Data, wire::encode_data(&frame, &catalog).unwrap());
    }

    /// The meter of a site is read now.
    fn read(&mut self, site: usize, value: Result<f64, Quality>) {
        let (value, quality) = match value {
            Ok(number) => (Some(Value::Number(number)), Quality::Good),
            Err(quality) => (None, quality),
        };
        let sample = Sample { channel: ChannelIndex(0), value, quality };
        let slot = self.catalog(site).devices[0].grid.slot_at(self.now);
        let (device, acquired, at) = (DeviceIndex(0), Acquired::InSlot(slot), self.now);
        self.send(site, vec![Record::Readings(Readings { device, acquired, at, samples: vec![sample] })]);
    }

    /// So many seconds pass; the collector looks after its alerts in each.
    fn pass(&mut self, seconds: i64) {
        for _ in 0..seconds {
            self.now = self.now.plus_ms(1_000);
            self.committer.look_after_alerts(self.now).unwrap();
            self.committer.housekeep(self.now).unwrap();
        }
    }

    /// The same with a reading of each site a minute.
    fn live(&mut self, minutes: i64, mut value: impl FnMut(i64) -> Result<f64, Quality>) {
        for minute in 0..minutes {
            (0..self.sites.len()).for_each(|site| self.read(site, value(minute)));
            self.pass(MINUTE_S);
        }
    }

    /// The meter of a site leaves out so many slots between two that it has; all of it is proven.
    fn make_gap(&mut self, slots: i64) {
        self.live(2, |_| Ok(1.0));
        self.pass(slots * MINUTE_S);
        self.live(1, |_| Ok(1.0));
        let through = self.catalog(0).devices[0].grid.slot_at(self.now.plus_ms(-INTERVAL_MS));
        self.send(0, vec![Record::Complete(Completeness { through: vec![(DeviceIndex(0), through)] })]);
    }

    fn alerts(&self) -> Vec<AlertRow> {
        self.committer.store().alerts(&AlertFilter { limit: 10_000, ..AlertFilter::default() }).unwrap()
    }

    /// The clock jumps to so many days after the beginning; then the round over all devices passes.
    fn on_day(&mut self, days: i64) {
        self.now = T0.plus_ms(days * DAY_S * 1_000);
        self.pass(MINUTE_S);
    }

    fn housekeeping(self, policy: Policy) -> Self {
        Self { committer: self.committer.with_housekeeping(policy), ..self }
    }

    /// Why the meter of a site is not asked, where it is not.
    fn stopped(&self, site: usize) -> Option<(StopReason, String)> {
        let rows = self.committer.store().devices(Some(&self.sites[site].path.site), self.now).unwrap();
        rows[0].stopped.clone().map(|stopped| (stopped.reason, stopped.why))
    }

    /// What was tidied away, and how much of it.
    fn removed(&self) -> Vec<(String, u64)> {
        let rows = self.committer.store().removals(None, 100).unwrap();
        rows.into_iter().map(|row| (row.what, row.count)).collect()
    }

    /// Kind, and whether it is over.
    fn told(&self) -> Vec<(&'static str, bool)> {
        self.alerts().iter().map(|alert| (alert.kind.word(), alert.resolved_at.is_some())).collect()
    }

    fn ops(&self) -> ReceiverRow {
        self.committer.store().receivers().unwrap().remove(0)
    }

    /// The last event of the message under way, where there is one.
    fn message(&self) -> Option<i64> {
        let sql = "SELECT through FROM receivers WHERE next_at <= ?1";
        self.committer.connection().query_row(sql, [self.now.0], |r| r.get(0)).ok()
    }

    fn restart(self, rules: Rules) -> Self {
        let connection = self.committer.into_connection().unwrap();
        let mut committer = Committer::from_connection(connection, 8).unwrap().with_rules(rules);
        committer.begin(self.now).unwrap();
        Self { committer, ..self }
    }
}

fn named(names: &[&str]) -> Vec<ReceiverName> {
    names.iter().map(|&name| ReceiverName { name: name.to_owned(), formerly: None }).collect()
}

fn off(kinds: &[Kind]) -> Rules {
    let said = Said { off: Some(kinds.iter().copied().collect()), ..Said::default() };
    Rules { usual: said, ..Rules::default() }
}

#[test]
fn stale_data_is_told_once_after_its_time_and_is_over_by_itself() {
    let mut world = World::new(1, Rules::default());
    world.live(3, |_| Ok(1.0));
    // A minute has passed since the last reading. Five minutes beyond what is allowed, and the round over all devices.
    world.pass(ALLOWED_S + 4 * MINUTE_S - 1);
    assert_eq!(world.told(), []);
    let written = world.committer.connection().total_changes();
    world.pass(MINUTE_S + 1);
    assert_eq!(world.told(), [("stale", false)]);
    let commit = world.committer.head().commit;
    world.pass(60 * MINUTE_S);
    assert_eq!(world.told(), [("stale", false)], "once");
    assert_eq!(world.committer.head().commit, commit, "no reading has changed");
    let rows = world.committer.connection().total_changes() - written;
    assert!(rows < 10, "{rows} rows were written in an hour");
    world.live(2, |_| Ok(1.0));
    assert_eq!(world.told(), [("stale", true)]);
    let events = world.committer.store().alert_events(1).unwrap();
    let words: Vec<_> = events.iter().map(|event| (event.event, event.actor.as_str())).collect();
    assert_eq!(words, [("raised", "collector"), ("resolved", "collector")]);
}

#[test]
fn a_device_that_does_not_answer_and_an_agent_that_is_gone_are_told_apart() {
    let mut world = World::new(2, Rules::default());
    world.live(3, |_| Ok(1.0));
    world.leave(1);
    for _ in 0..9 {
        let first = world.catalog(0).devices[0].grid.slot_at(world.now);
        world.send(
            0,
            vec![Record::Misses(Misses { device: DeviceIndex(0), first, count: 1, cause: Cause::NoAnswer })],
        );
        world.pass(MINUTE_S);
    }
    let mut alerts = world.alerts();
    alerts.sort_by_key(|alert| alert.site.clone());
    let told: Vec<_> = alerts.iter().map(|a| (a.kind, a.device.is_some(), a.agent.is_some())).collect();
    assert_eq!(told, [(Kind::Silent, true, false), (Kind::Silent, false, true)], "{alerts:?}");
    assert!(alerts[0].detail.contains("did not answer"), "{}", alerts[0].detail);
    world.be_born(1);
    world.live(2, |_| Ok(1.0));
    assert!(world.told().iter().all(|(_, over)| *over), "{:?}", world.told());
}

#[test]
fn an_outbox_that_fills_up_is_told_of_at_once_and_is_over_well_below_the_limit() {
    let mut world = World::new(2, off(&[Kind::Stale, Kind::Silent]));
    // What the agent says, seconds later, what is told then.
    let rows: [(u64, &[(&str, bool)]); 6] = [
        (79, &[]),
        (80, &[("outbox", false)]),
        (100, &[("outbox", false)]),
        (71, &[("outbox", false)]),
        (70, &[("outbox", true)]),
        (79, &[("outbox", true)]),
    ];
    for (percent, told) in rows {
        world.say(0, 1, percent, 0);
        world.pass(1);
        assert_eq!(world.told(), told, "{percent} %");
    }
    let alert = &world.alerts()[0];
    assert_eq!((alert.site.as_ref().map(SiteId::as_str), alert.agent.is_some()), (Some("site-0"), true));
    assert!(alert.detail.starts_with("80 %"), "{}", alert.detail);
}

#[test]
fn a_clock_that_is_off_is_told_of_by_how_much_and_is_over_at_half_of_the_limit() {
    let mut world = World::new(1, off(&[Kind::Stale, Kind::Silent]));
    let rows: [(i64, &[(&str, bool)]); 5] = [
        (59, &[]),
        (60, &[("clock", false)]),
        (31, &[("clock", false)]),
        (29, &[("clock", true)]),
        // Behind: one message may be late, but this start of the machine has been watched for minutes.
        (-100, &[("clock", true), ("clock", false)]),
    ];
    for (ahead_s, told) in rows {
        world.say(0, 1, 0, ahead_s);
        world.pass(5 * MINUTE_S);
        assert_eq!(world.told(), told, "{ahead_s} s");
    }
    let words: Vec<String> = world.alerts().into_iter().map(|alert| alert.detail).collect();
    assert_eq!(words[0], "its clock is 1m ahead of the collector's");
    assert_eq!(words[1], "its clock is 100s behind the collector's");
    let row = world.committer.store().agents(None).unwrap().remove(0);
    assert_eq!((row.clock_off_ms, row.outbox.map(|fill| fill.percent())), (Some(-100_000), Some(0)));
}

#[test]
fn a_clock_that_seems_behind_by_one_message_is_not_told_of_after_a_restart_either() {
    let mut world = World::new(1, off(&[Kind::Stale, Kind::Silent]));
    world.say(0, 1, 0, -600);
    world.pass(2 * MINUTE_S);
    let mut world = world.restart(off(&[Kind::Stale, Kind::Silent]));
    world.be_born(0);
    world.pass(2 * MINUTE_S);
    assert_eq!(world.told(), []);
    world.pass(2 * MINUTE_S);
    world.say(0, 1, 0, -600);
    world.pass(1);
    assert_eq!(world.told(), [("clock", false)], "said twice, six minutes apart");
}

#[test]
fn what_another_connection_says_of_a_gateway_counts_for_nothing() {
    let mut world = World::new(1, off(&[Kind::Stale, Kind::Silent]));
    world.say(0, 2, 100, 600);
    world.pass(MINUTE_S);
    assert_eq!(world.told(), []);
    world.leave(0);
    world.say(0, 1, 100, 600);
    world.pass(MINUTE_S);
    assert_eq!(world.told(), [], "it has ended");
}

#[test]
fn a_collector_that_was_away_waits_before_it_tells() {
    let mut world = World::new(1, Rules::default());
    world.live(3, |_| Ok(1.0));
    world.now = world.now.plus_ms(6 * 3_600_000);
    let mut world = world.restart(Rules::default());
    world.pass(4 * MINUTE_S);
    assert_eq!(world.told(), [], "its agent may be back at any moment");
    world.be_born(0);
    world.live(10, |_| Ok(1.0));
    assert_eq!(world.told(), []);
}

#[test]
fn a_collector_whose_clock_is_set_back_tells_of_what_is_stale_in_its_time() {
    let mut world = World::new(1, Rules::default());
    world.now = world.now.plus_ms(3_600_000);
    world.pass(1);
    world.now = world.now.plus_ms(-3_600_000);
    world.live(3, |_| Ok(1.0));
    world.pass(ALLOWED_S + 6 * MINUTE_S);
    assert_eq!(world.told(), [("stale", false)]);
}

#[test]
fn a_broker_that_is_away_is_one_alert_however_many_devices_are_behind_it() {
    let mut world = World::new(20, Rules::default());
    world.live(3, |_| Ok(1.0));
    world.committer.hears(false, world.now).unwrap();
    world.pass(4 * MINUTE_S);
    assert_eq!(world.told(), []);
    world.pass(2 * 60 * MINUTE_S);
    assert_eq!(world.told(), [("broker", false)]);
    let alert = &world.alerts()[0];
    assert_eq!((&alert.site, &alert.device, &alert.agent), (&None, &None, &None));
    assert!(alert.detail.starts_with("the broker has been away for 5m"), "{}", alert.detail);
    let through = world.message().unwrap();
    world.committer.told(OPS, through, &Answer::Accepted, world.now).unwrap();
    assert_eq!(world.ops().owed, 0);
    // It is back; one agent is not. What it had not told before is on its way.
    world.committer.hears(true, world.now).unwrap();
    (1..20).for_each(|site| world.be_born(site));
    for _ in 0..10 {
        (1..20).for_each(|site| world.read(site, Ok(1.0)));
        world.pass(MINUTE_S);
    }
    assert_eq!(world.told(), [("broker", true), ("silent", false)], "{:?}", world.alerts());
    assert_eq!(world.alerts()[1].site.as_ref().map(SiteId::as_str), Some("site-0"));
}

#[test]
fn a_broker_that_is_back_in_the_last_second_is_not_told_of() {
    let mut world = World::new(2, Rules::default());
    world.live(3, |_| Ok(1.0));
    world.committer.hears(false, world.now).unwrap();
    world.pass(5 * MINUTE_S - 1);
    world.now = world.now.plus_ms(1_000);
    world.committer.hears(true, world.now).unwrap();
    world.committer.look_after_alerts(world.now).unwrap();
    assert_eq!(world.told(), []);
}

#[test]
fn a_broker_that_comes_and_goes_hides_no_agent_that_is_gone() {
    let mut world = World::new(2, off(&[Kind::Stale]));
    world.live(3, |_| Ok(1.0));
    world.leave(0);
    // Every three minutes it is away for ten seconds.
    for _ in 0..10 {
        world.pass(3 * MINUTE_S - 10);
        world.committer.hears(false, world.now).unwrap();
        world.pass(10);
        world.committer.hears(true, world.now).unwrap();
        world.be_born(1);
    }
    assert_eq!(world.told(), [("silent", false)]);
}

#[test]
fn a_device_that_is_dead_behind_a_link_that_comes_and_goes_is_told_of() {
    let mut world = World::new(2, Rules::default());
    world.live(3, |_| Ok(1.0));
    // Every three minutes both links drop for ten seconds; behind one of them the meter goes on.
    for _ in 0..5 {
        for second in 0..3 * MINUTE_S {
            match second {
                170 => (0..2).for_each(|site| world.leave(site)),
                0 if world.now > T0.plus_ms(3 * MINUTE_S * 1_000) => {
                    (0..2).for_each(|site| world.be_born(site));
                }
                _ if second % MINUTE_S == 30 => world.read(1, Ok(1.0)),
                _ => {}
            }
            world.pass(1);
        }
    }
    assert_eq!(world.told(), [("stale", false)], "{:?}", world.alerts());
    assert_eq!(world.alerts()[0].site.as_ref().map(SiteId::as_str), Some("site-0"));
    // No sooner than it had its time to be heard: not by the time in which nobody could hear it.
    let allowed = T0.plus_ms((2 * MINUTE_S + ALLOWED_S + 5 * MINUTE_S) * 1_000);
    assert!(world.alerts()[0].raised_at >= allowed.plus_ms(2 * 70_000), "{:?}", world.alerts());
    let kept: i64 =
        world.committer.connection().query_row("SELECT count(*) FROM absences", [], |r| r.get(0)).unwrap();
    assert_eq!(kept, 8);
}

#[test]
fn what_an_agent_brings_when_it_is_back_is_waited_for() {
    let mut world = World::new(1, Rules::default());
    world.live(3, |_| Ok(1.0));
    world.leave(0);
    world.pass(30 * MINUTE_S);
    assert_eq!(world.told(), [("silent", false)]);
    assert!(world.alerts()[0].agent.is_some());
    world.be_born(0);
    world.pass(ALLOWED_S + 3 * MINUTE_S);
    assert_eq!(world.told(), [("silent", true)], "its meter's readings may be behind what it brings");
    world.pass(5 * MINUTE_S);
    assert_eq!(world.told(), [("silent", true), ("stale", false)]);
}

#[test]
fn gaps_are_told_by_their_size_while_they_are_news_and_are_not_over_before_they_are_filled() {
    let mut world = World::new(1, off(&[Kind::Stale]));
    world.make_gap(20);
    world.pass(MINUTE_S);
    assert_eq!(world.told(), [("gap", false)], "{:?}", world.committer.store().gaps(&Default::default()));
    assert!(world.alerts()[0].detail.contains("20 slots"), "{}", world.alerts()[0].detail);
    let began = world.now.plus_ms(-INTERVAL_MS);
    world.now = world.now.plus_ms(30 * DAY_S * 1_000);
    world.pass(MINUTE_S);
    assert_eq!(world.told(), [("gap", false)], "it is as open as before");
    let month = world.now;
    for minute in 1..=20 {
        world.now = began.plus_ms(-minute * INTERVAL_MS);
        world.read(0, Ok(1.0));
    }
    world.now = month;
    world.pass(MINUTE_S);
    assert_eq!(world.told(), [("gap", true)], "{:?}", world.committer.store().gaps(&Default::default()));
}

/// A message on its way to a receiver that was taken away holds up no words.
#[test]
fn an_alert_has_new_words_once_its_receiver_is_taken_away() {
    let mut world = World::new(1, off(&[Kind::Stale]));
    world.make_gap(20);
    world.pass(MINUTE_S);
    world.live(1, |_| Ok(1.0));
    world.make_gap(57);
    world.pass(2 * MINUTE_S);
    assert_eq!(world.alerts()[0].detail, "a gap of 20 slots");
    world.committer.know_receivers(named(&[]), world.now).unwrap();
    world.pass(2 * MINUTE_S);
    assert_ne!(world.alerts()[0].detail, "a gap of 20 slots");
}

/// What is told of a device's gaps is the largest that is neither filled nor given up, or was given up lately.
#[test]
fn an_alert_of_a_gap_tells_the_largest_that_is_left_and_ends_with_the_last() {
    let mut world = World::new(1, off(&[Kind::Stale]));
    world.make_gap(20);
    world.pass(MINUTE_S);
    let give_up = |world: &World, slots: i64| {
        let sql = "UPDATE gaps SET state = 5, next_at = NULL WHERE last_slot - first_slot + 1 = ?1";
        assert_eq!(world.committer.connection().execute(sql, [slots]).unwrap(), 1);
    };
    world.now = world.now.plus_ms(8 * DAY_S * 1_000);
    world.live(1, |_| Ok(1.0));
    world.make_gap(57);
    let largest = |world: &World| {
        let sql = "SELECT max(last_slot - first_slot + 1) FROM gaps WHERE state NOT IN (2, 5)";
        world.committer.connection().query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap()
    };
    give_up(&world, 20);
    world.pass(2 * MINUTE_S);
    let slots = largest(&world);
    assert_eq!((world.told(), slots >= 57), (vec![("gap", false)], true), "{slots}");
    assert_eq!(world.alerts()[0].detail, "a gap of 20 slots", "a message under way stays as it is");
    let message = world.message().unwrap();
    world.committer.told(OPS, message, &Answer::Accepted, world.now).unwrap();
    world.pass(2 * MINUTE_S);
    assert_eq!(world.alerts()[0].detail, format!("a gap of {slots} slots"));
    give_up(&world, slots);
    world.now = world.now.plus_ms(8 * DAY_S * 1_000);
    world.pass(2 * MINUTE_S);
    assert_eq!(
        (world.told(), world.alerts()[0].detail.as_str()),
        (vec![("gap", false)], "a gap of 57 slots")
    );
    let is_cut = "UPDATE gaps SET last_slot = first_slot + 7 WHERE last_slot - first_slot + 1 = 57";
    assert_eq!(world.committer.connection().execute(is_cut, []).unwrap(), 1);
    world.pass(2 * MINUTE_S);
    assert_eq!(
        (world.told(), world.alerts()[0].detail.as_str()),
        (vec![("gap", false)], "a gap of 8 slots"),
        "nobody would be told of so few, and it is not over"
    );
    give_up(&world, 8);
    world.pass(2 * MINUTE_S);
    assert_eq!(world.told(), [("gap", true)], "{:?}", world.alerts());
}

#[test]
fn a_gap_that_nobody_was_told_of_while_it_was_news_is_not_told_of_later() {
    let mut world = World::new(1, off(&Kind::ALL));
    world.make_gap(20);
    world.now = world.now.plus_ms(8 * DAY_S * 1_000);
    let mut world = world.restart(off(&[Kind::Stale]));
    world.pass(2 * MINUTE_S);
    assert_eq!(world.told(), []);
}

#[test]
fn what_a_device_was_to_be_asked_is_taken_back_when_it_is_stopped_and_asked_when_it_goes_on() {
    let mut world = World::new(1, off(&Kind::ALL));
    world.describe(0, &[("history", "yes")]);
    world.make_gap(20);
    let open = |world: &World| -> i64 {
        let sql = "SELECT count(*) FROM commands WHERE outcome IS NULL AND kind IN (4, 5)";
        world.committer.connection().query_row(sql, [], |r| r.get(0)).unwrap()
    };
    let states = |world: &World| -> Vec<i64> {
        let mut statement = world.committer.connection().prepare("SELECT state FROM gaps").unwrap();
        statement.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let (requested, waiting) = (3, 4);
    world.committer.look_after_gaps(world.now).unwrap();
    world.committer.refresh(&[Ask::of(DeviceNo(1), Why::Asked)], world.now).unwrap();
    assert_eq!((open(&world), states(&world)), (2, vec![requested]));
    world.describe(0, &[("history", "yes"), ("agreement_ends", "2025-01-01")]);
    world.pass(MINUTE_S);
    assert_eq!(world.stopped(0).map(|(reason, _)| reason), Some(StopReason::AgreementEnded));
    assert_eq!((open(&world), states(&world)), (0, vec![waiting]));
    world.committer.look_after_gaps(world.now).unwrap();
    assert_eq!(open(&world), 0, "nor is it asked again");
    world.describe(0, &[("history", "yes")]);
    world.pass(MINUTE_S);
    assert_eq!(world.stopped(0), None);
    world.committer.look_after_gaps(world.now).unwrap();
    assert_eq!((open(&world), states(&world)), (1, vec![requested]));
}

#[test]
fn what_a_receiver_does_not_want_is_set_aside_and_what_comes_after_it_is_told() {
    let mut world = World::new(1, Rules::default());
    world.live(1, |_| Ok(1.0));
    world.pass(ALLOWED_S + 6 * MINUTE_S);
    let first = world.message().unwrap();
    world.live(2, |_| Ok(1.0));
    let refused = Answer::Refused("HTTP 400: no".to_owned());
    let passing = Answer::Passing { after_ms: None, why: "HTTP 503".to_owned() };
    for _ in 1..REFUSALS_MAX {
        world.committer.told(OPS, first, &refused, world.now).unwrap();
        world.now = world.now.plus_ms(3_600_000);
        assert_eq!(world.message(), Some(first), "tried again, and nothing overtakes it");
        // What passes takes no try away.
        world.committer.told(OPS, first, &passing, world.now).unwrap();
        world.now = world.now.plus_ms(900_000);
        assert_eq!(world.message(), Some(first));
    }
    world.committer.told(OPS, first, &refused, world.now).unwrap();
    let ops = world.ops();
    assert_eq!((ops.set_aside, ops.set_aside_at, ops.accepted, ops.failures), (1, Some(world.now), 0, 0));
    assert_eq!(ops.last_error.as_deref(), Some("set aside, refused: HTTP 400: no"));
    world.pass(20);
    let second = world.message().unwrap();
    assert!(second > first);
    world.committer.told(OPS, second, &Answer::Accepted, world.now).unwrap();
    assert_eq!((world.ops().accepted, world.ops().owed, world.ops().set_aside), (1, 0, 1));
}

#[test]
fn a_message_that_only_meets_errors_that_pass_is_kept_for_a_year() {
    let mut world = World::new(1, Rules::default());
    world.live(1, |_| Ok(1.0));
    world.pass(ALLOWED_S + 6 * MINUTE_S);
    let through = world.message().unwrap();
    let others = [
        Answer::Passing { after_ms: None, why: "HTTP 503".to_owned() },
        Answer::Address("HTTP 404".to_owned()),
        Answer::Credentials("HTTP 401".to_owned()),
    ];
    for day in 0..365 {
        world.committer.told(OPS, through, &others[day % 3], world.now).unwrap();
        world.now = world.now.plus_ms(DAY_S * 1_000);
        assert_eq!(world.message(), Some(through), "day {day}");
    }
    assert_eq!((world.ops().set_aside, world.ops().owed), (0, 1));
}

#[test]
fn what_a_receiver_is_owed_outlives_its_name() {
    let mut world = World::new(1, Rules::default());
    world.live(1, |_| Ok(1.0));
    world.pass(ALLOWED_S + 6 * MINUTE_S);
    let through = world.message().unwrap();
    let rows = |world: &World| {
        let rows = world.committer.store().receivers().unwrap();
        let row = |row: ReceiverRow| (row.name, row.owed, row.gone_at.is_some());
        rows.into_iter().map(row).collect::<Vec<_>>()
    };
    // Renamed without a word: the old one is kept, and told of nothing; the new one begins anew.
    world.committer.know_receivers(named(&["webhook.duty"]), world.now).unwrap();
    let (duty, ops) = ("webhook.duty".to_owned(), OPS.to_owned());
    assert_eq!(rows(&world), [(duty.clone(), 0, false), (ops.clone(), 1, true)]);
    // It comes back, with the very message that was under way.
    world.committer.know_receivers(named(&["webhook.duty", OPS]), world.now).unwrap();
    assert_eq!(rows(&world), [(duty.clone(), 0, false), (ops, 1, false)]);
    assert_eq!(world.message(), Some(through));
    // Renamed, and said so: what it is owed goes along.
    let night = ReceiverName { name: "webhook.night".to_owned(), formerly: Some(OPS.to_owned()) };
    let names = [named(&["webhook.duty"]), vec![night.clone()]].concat();
    for _ in 0..2 {
        world.committer.know_receivers(names.clone(), world.now).unwrap();
        assert_eq!(rows(&world), [(duty.clone(), 0, false), (night.name.clone(), 1, false)]);
        assert_eq!(world.message(), Some(through));
    }
    // Out of the configuration for a month, it is forgotten.
    world.committer.know_receivers(named(&["webhook.duty"]), world.now).unwrap();
    world.now = world.now.plus_ms(29 * DAY_S * 1_000);
    world.committer.know_receivers(named(&["webhook.duty"]), world.now).unwrap();
    assert_eq!(rows(&world).len(), 2);
    world.now = world.now.plus_ms(2 * DAY_S * 1_000);
    world.committer.know_receivers(named(&["webhook.duty"]), world.now).unwrap();
    assert_eq!(rows(&world), [(duty, 0, false)]);
}

#[test]
fn alerts_that_are_over_and_old_go_though_a_thousand_older_ones_are_open() {
    let mut world = World::new(1, off(&Kind::ALL));
    let connection = world.committer.connection();
    for _ in 0..1_500 {
        let sql = "INSERT INTO alerts (kind, site, detail, raised_at) VALUES (1, 1, 'open', ?1)";
        connection.execute(sql, [T0.0]).unwrap();
    }
    let sql = "INSERT INTO alerts (kind, site, detail, raised_at, resolved_at) VALUES (1, 1, 'over', ?1, ?1)";
    connection.execute(sql, [T0.0]).unwrap();
    world.on_day(364);
    assert_eq!(world.alerts().len(), 1_501);
    world.on_day(366);
    assert_eq!(world.removed(), [("alerts".to_owned(), 1)]);
    assert!(world.alerts().iter().all(|alert| alert.detail == "open"));
}

#[test]
fn withdrawn_consent_is_told_and_its_return() {
    let mut world = World::new(1, Rules::default());
    world.live(1, |_| Ok(1.0));
    world.describe(
        0,
        &[("not_authorised_since", "2026-01-01T00:01:00Z"), ("not_authorised_reason", "moved out")],
    );
    world.pass(MINUTE_S);
    assert_eq!(world.told(), [("unauthorised", false)]);
    assert!(world.alerts()[0].detail.ends_with("since 2026-01-01T00:01:00Z: moved out"));
    world.describe(0, &[]);
    world.live(1, |_| Ok(1.0));
    assert_eq!(world.told(), [("unauthorised", true)]);
}

#[test]
fn who_asked_for_a_device_that_could_not_be_reached_is_told_that_it_is_back() {
    let mut world = World::new(1, Rules::default());
    world.live(1, |_| Ok(1.0));
    let ask = |world: &mut World, actor: &str| {
        let asks = [Ask { actor: Some(actor.to_owned()), ..Ask::of(DeviceNo(1), Why::Asked) }];
        assert!(world.committer.refresh(&asks, world.now).unwrap().0.remove(0).is_ok());
    };
    // One asks before it is known, one after.
    ask(&mut world, "token anna");
    world.describe(0, &[("unreachable_since", "2026-01-01T00:01:00Z"), ("unreachable_reason", "no radio")]);
    world.pass(MINUTE_S);
    assert_eq!(world.told(), [("unreachable", false)]);
    ask(&mut world, "token ben");
    ask(&mut world, "token anna");
    assert_eq!(world.alerts()[0].awaited_by.as_deref(), Some("token anna, token ben"));
    world.pass(30 * MINUTE_S);
    assert_eq!(world.told(), [("unreachable", false)], "neither silent nor stale besides");
    let mut world = world.restart(Rules::default());
    world.be_born(0);
    world.describe(0, &[]);
    world.live(2, |_| Ok(1.0));
    assert_eq!(world.told(), [("unreachable", true)]);
    let alert = world.alerts().remove(0);
    assert_eq!(alert.awaited_by.as_deref(), Some("token anna, token ben"));
    // Nobody is told so twice.
    let left = "SELECT count(*) FROM awaited";
    assert_eq!(world.committer.connection().query_row(left, [], |r| r.get::<_, i64>(0)).unwrap(), 0);
}

#[test]
fn values_out_of_range_and_values_that_do_not_move_are_told() {
    let said = Said { moves: Some(["power".to_owned()].into()), flat_polls: Some(5), ..Said::default() };
    let mut world = World::new(1, Rules { usual: said, ..Rules::default() });
    world.live(4, |_| Ok(1.0));
    assert_eq!(world.told(), []);
    world.live(2, |_| Ok(1.0));
    assert_eq!(world.told(), [("flat", false)]);
    world.live(5, |minute| if minute < 3 { Err(Quality::BadOutOfRange) } else { Ok(2.0) });
    assert_eq!(world.told(), [("flat", true), ("implausible", false)]);
    world.live(3, |_| Ok(3.0));
    assert_eq!(world.told(), [("flat", true), ("implausible", true)]);
}

#[test]
fn a_device_of_which_nothing_comes_is_warned_of_suspended_and_resumed_by_a_person() {
    let mut world = World::new(1, Rules::default());
    world.pass(10 * MINUTE_S);
    assert_eq!(world.told(), []);
    world.on_day(2);
    assert_eq!(world.told(), [("no_data", false)]);
    let device = DeviceNo(1);
    let ask = |world: &mut World| {
        let asks = [Ask::of(device, Why::Asked)];
        world.committer.refresh(&asks, world.now).unwrap().0.remove(0).map(drop)
    };
    assert_eq!(ask(&mut world), Ok(()));
    world.on_day(7);
    assert_eq!(world.told(), [("no_data", false), ("suspended", false)]);
    let row = world.committer.store().devices(None, world.now).unwrap().remove(0);
    let stopped = row.stopped.unwrap();
    assert_eq!(
        (stopped.reason, stopped.why.as_str()),
        (StopReason::Suspended, "nothing came of it in 7 days")
    );
    assert_eq!(world.removed(), [("device_suspended".to_owned(), 1)]);
    // Nobody asks it any more, whoever wants it.
    let asked = ask(&mut world);
    assert!(matches!(&asked, Err(Refused::NotNow(why)) if why.contains("resume")), "{asked:?}");
    assert_eq!(world.committer.look_after_jobs(world.now).unwrap(), []);
    assert_eq!(world.committer.store().jobs().unwrap(), []);
    let resume = Act::Resume { device, actor: "token me".to_owned() };
    assert_eq!(world.committer.act(&resume, world.now).map(drop), Ok(()));
    assert!(matches!(world.committer.act(&resume, world.now), Err(Refused::NotNow(_))));
    world.pass(MINUTE_S);
    assert_eq!(world.told(), [("no_data", true), ("suspended", true)]);
    assert_eq!(ask(&mut world), Ok(()));
    // From then on it counts as commissioned; and where its agent polls it all the same, it goes on by itself.
    world.on_day(8);
    assert_eq!(world.alerts().len(), 2);
    world.on_day(10);
    assert_eq!(world.alerts().len(), 3, "warned of");
    world.on_day(15);
    assert_eq!(world.alerts().len(), 4);
    world.live(2, |_| Ok(1.0));
    assert!(world.told().iter().all(|(_, over)| *over), "{:?}", world.told());
    assert_eq!(world.committer.store().devices(None, world.now).unwrap()[0].stopped, None);
}

#[test]
fn a_message_is_kept_until_it_is_accepted_whatever_happens() {
    let mut world = World::new(1, Rules::default());
    world.live(1, |_| Ok(1.0));
    world.pass(ALLOWED_S + 6 * MINUTE_S);
    let through = world.message().unwrap();
    let passing = Answer::Passing { after_ms: None, why: "HTTP 500".to_owned() };
    world.committer.told(OPS, through, &passing, world.now).unwrap();
    let ops = world.ops();
    assert_eq!((ops.failures, ops.owed, ops.next_try_at), (1, 1, Some(world.now.plus_ms(5_000))));
    assert_eq!((world.message(), ops.last_error.as_deref()), (None, Some("HTTP 500")));
    // It is over meanwhile: that is the next message, and this one stays what it is, over a restart, too.
    world.be_born(0);
    world.live(2, |_| Ok(1.0));
    let mut world = world.restart(Rules::default());
    assert_eq!(world.message(), Some(through));
    let wrong = Answer::Credentials("535".to_owned());
    world.committer.told(OPS, through, &wrong, world.now).unwrap();
    world.pass(10);
    assert_eq!(world.message(), None, "a wrong password is not tried at once again");
    world.committer.know_receivers(named(&[OPS]), world.now).unwrap();
    assert_eq!(world.message(), Some(through), "but at a start, since somebody may have mended it");
    world.committer.told(OPS, through, &Answer::Accepted, world.now).unwrap();
    world.committer.told(OPS, through, &Answer::Accepted, world.now).unwrap();
    assert_eq!((world.ops().accepted, world.ops().owed, world.message()), (1, 1, None));
    world.pass(30);
    let last = world.message().unwrap();
    assert!(last > through);
    world.committer.told(OPS, last, &Answer::Accepted, world.now).unwrap();
    assert_eq!((world.ops().accepted, world.ops().owed), (2, 0));
    // One that is new is told of what comes from now on; one that is gone of nothing.
    world.committer.know_receivers(named(&["mail.new"]), world.now).unwrap();
    assert_eq!((world.ops().name.as_str(), world.ops().owed), ("mail.new", 0));
}

#[test]
fn a_region_that_goes_is_one_message_and_so_is_its_return() {
    let mut world = World::new(200, off(&[Kind::Stale]));
    world.live(1, |_| Ok(1.0));
    (0..200).for_each(|site| world.leave(site));
    let mut messages = Vec::new();
    for _ in 0..10 * MINUTE_S {
        world.pass(1);
        if let Some(through) = world.message() {
            messages.push(world.ops().owed);
            world.committer.told(OPS, through, &Answer::Accepted, world.now).unwrap();
        }
    }
    assert_eq!(messages, [200]);
    (0..200).for_each(|site| world.be_born(site));
    world.live(2, |_| Ok(1.0));
    assert_eq!((world.ops().owed, world.message().is_some()), (200, true));
}

#[test]
fn an_alert_is_acknowledged_once_and_that_is_nobodys_news() {
    let mut world = World::new(1, Rules::default());
    world.live(1, |_| Ok(1.0));
    world.pass(ALLOWED_S + 6 * MINUTE_S);
    let through = world.message().unwrap();
    world.committer.told(OPS, through, &Answer::Accepted, world.now).unwrap();
    let by = |name: &str| Act::Acknowledge { alert: 1, actor: format!("token {name}") };
    assert_eq!(world.committer.store().open_alerts().unwrap(), 1);
    assert_eq!(world.committer.act(&by("first"), world.now).map(drop), Ok(()));
    assert_eq!(world.committer.act(&by("second"), world.now).map(drop), Ok(()));
    assert_eq!(world.alerts()[0].acknowledged, Some((world.now, "token first".to_owned())));
    assert_eq!(world.committer.store().open_alerts().unwrap(), 0);
    world.pass(5 * MINUTE_S);
    assert_eq!((world.ops().accepted, world.message()), (1, None));
    world.live(2, |_| Ok(1.0));
    assert_eq!(world.committer.act(&by("late"), world.now), Err(Refused::AlertOver(1)));
    assert_eq!(world.committer.store().alert_events(1).unwrap().len(), 3);
}

#[test]
fn devices_that_nobody_confirms_are_dropped_and_come_back_when_somebody_does() {
    let person = Policy { confirm: Confirm::Person, ..Policy::default() };
    let mut world = World::new(3, off(&Kind::ALL)).housekeeping(person);
    // The first one sends something, the second one nothing, the third one is confirmed.
    world.read(0, Ok(1.0));
    let confirm = |no| Act::Confirm { device: DeviceNo(no), actor: "token me".to_owned() };
    assert_eq!(world.committer.act(&confirm(3), world.now).map(drop), Ok(()));
    world.on_day(1);
    let why = "nobody confirmed it within 1d; it sent nothing".to_owned();
    assert_eq!(world.stopped(1), Some((StopReason::NotConfirmed, why)));
    assert_eq!((world.stopped(0), world.stopped(2)), (None, None));
    world.on_day(89);
    assert_eq!(world.stopped(0), None);
    world.on_day(90);
    let why = "nobody confirmed it within 90d; its readings are kept".to_owned();
    assert_eq!((world.stopped(0), world.stopped(2)), (Some((StopReason::NotConfirmed, why)), None));
    assert_eq!(
        world.removed(),
        [("device_not_confirmed".to_owned(), 1), ("device_not_confirmed".to_owned(), 1)]
    );
    let series = world.committer.store().series(Some(&world.sites[0].path.site), None).unwrap();
    assert_eq!(
        world.committer.store().latest(&[series[0].no], world.now).unwrap().len(),
        1,
        "what it sent is kept"
    );
    // What it still sends is stored, too.
    world.read(0, Ok(2.0));
    assert_eq!(world.committer.store().latest(&[series[0].no], world.now).unwrap()[0].at, world.now);
    let asks = [Ask::of(DeviceNo(1), Why::Asked)];
    let refused = world.committer.refresh(&asks, world.now).unwrap().0.remove(0);
    assert!(matches!(refused, Err(Refused::NotNow(why)) if why.contains("confirm")), "{refused:?}");
    assert_eq!(world.committer.act(&confirm(1), world.now).map(drop), Ok(()));
    assert_eq!(world.stopped(0), None);
    let rows = world.committer.store().devices(Some(&world.sites[0].path.site), world.now).unwrap();
    assert_eq!(rows[0].confirmed, Some((world.now, "token me".to_owned())));
    world.on_day(400);
    assert_eq!(world.stopped(0), None, "confirmed once and for all");
}

#[test]
fn unless_a_person_is_to_confirm_devices_are_confirmed_by_their_announcement() {
    let mut world = World::new(1, off(&Kind::ALL));
    world.pass(MINUTE_S);
    let row = world.committer.store().devices(None, world.now).unwrap().remove(0);
    assert_eq!(row.confirmed.map(|(_, by)| by), Some("collector".to_owned()));
    world.on_day(400);
    assert_eq!((world.stopped(0), world.removed()), (None, Vec::new()));
}

#[test]
fn a_device_whose_agreement_has_ended_is_asked_no_more_after_its_grace_and_again_when_it_is_renewed() {
    let mut world = World::new(2, off(&Kind::ALL));
    // The last day is the second one; thirty days of grace.
    world.describe(0, &[("agreement_ends", "2026-01-02")]);
    world.describe(1, &[("agreement_ends", "next year")]);
    world.read(0, Ok(1.0));
    world.on_day(31);
    assert_eq!(world.stopped(0), None);
    world.on_day(32);
    let why = "its agreement ended at 2026-01-03T00:00:00Z".to_owned();
    assert_eq!((world.stopped(0), world.stopped(1)), (Some((StopReason::AgreementEnded, why)), None));
    assert_eq!(world.removed(), [("agreement_ended".to_owned(), 1)]);
    world.pass(5 * MINUTE_S);
    // Its agent is to leave it alone, and has not answered.
    let pauses = |world: &World| -> Vec<(bool, bool)> {
        let sql = "SELECT a, outcome IS NULL FROM commands WHERE kind = 6 ORDER BY id";
        let mut statement = world.committer.connection().prepare(sql).unwrap();
        let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    };
    assert_eq!(pauses(&world), [(true, true)], "told once");
    let asks = [Ask::of(DeviceNo(1), Why::Asked)];
    let refused = world.committer.refresh(&asks, world.now).unwrap().0.remove(0);
    assert!(matches!(refused, Err(Refused::NotNow(why)) if why.contains("agreement")), "{refused:?}");
    let resume = Act::Resume { device: DeviceNo(1), actor: "token me".to_owned() };
    assert!(world.committer.act(&resume, world.now).is_err(), "nobody but the agreement lets it go on");
    world.describe(0, &[("agreement_ends", "2026-12-31")]);
    world.pass(MINUTE_S);
    assert_eq!(world.stopped(0), None);
    assert_eq!(pauses(&world), [(true, false), (false, true)], "what was not heard is taken back");
    assert_eq!(world.removed().len(), 1);
}

#[test]
fn what_is_only_kept_to_be_looked_at_goes_by_its_age() {
    let mut world = World::new(1, Rules::default());
    world.live(1, |_| Ok(1.0));
    world.pass(ALLOWED_S + 6 * MINUTE_S);
    world.live(2, |_| Ok(1.0));
    let (through, other) = (
        world.message().unwrap(),
        "INSERT INTO job_history (no, device, why, asked_at, began_at,
        ended_at, outcome, readings) VALUES (1, 1, 1, ?1, ?1, ?1, 1, 0), (2, 1, 1, ?1, ?1, ?2, 1, 0)",
    );
    let connection = world.committer.connection();
    connection.execute(other, [T0.0, T0.0 + 30 * DAY_S * 1_000]).unwrap();
    let parked =
        "INSERT INTO parked (agent, epoch, first_seq, count, catalog, reason, detail, bytes, received_at)
        VALUES (1, 9, 1, 1, 1, 3, 'makes no sense', x'00', ?1), (1, 9, 2, 1, 1, 1, 'waits', x'00', ?1)";
    connection.execute(parked, [T0.0]).unwrap();
    world.on_day(89);
    assert_eq!(world.removed(), []);
    world.on_day(91);
    assert_eq!(world.removed(), [("job_history".to_owned(), 1)]);
    world.on_day(181);
    assert_eq!(world.removed()[1..], [("job_history".to_owned(), 1)]);
    // A frame may be the only copy of what a later program can read: only a person discards it.
    let frames = |world: &World| world.committer.store().parked(None, 10).unwrap().len();
    world.on_day(365);
    assert_eq!(frames(&world), 2);
    let discard = |frame| Act::Discard { frame, actor: "token me".to_owned() };
    assert_eq!(world.committer.act(&discard(1), world.now).map(drop), Ok(()));
    assert_eq!(world.committer.act(&discard(1), world.now), Err(Refused::NoFrame(1)));
    assert_eq!(frames(&world), 1);
    let removals = world.committer.store().removals(None, 10).unwrap();
    let last = removals.last().unwrap();
    assert_eq!(
        (last.what.as_str(), last.detail.as_str()),
        ("quarantine", "frame 1, which could not be used, by token me")
    );
    // Alerts of which somebody is still to be told stay however old they are.
    let alerts = |world: &World| world.alerts().iter().filter(|alert| alert.id == 1).count();
    world.on_day(366);
    assert_eq!(alerts(&world), 1);
    world.committer.told(OPS, through, &Answer::Accepted, world.now).unwrap();
    world.pass(MINUTE_S);
    let rest = world.message().unwrap();
    world.committer.told(OPS, rest, &Answer::Accepted, world.now).unwrap();
    world.pass(MINUTE_S);
    assert_eq!(alerts(&world), 0);
    assert_eq!(world.removed().last(), Some(&("alerts".to_owned(), 1)));
    assert_eq!(world.committer.store().alert_events(1).unwrap(), []);
}
