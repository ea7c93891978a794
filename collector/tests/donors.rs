//! Devices that stand in for others, in made-up time, through the committer: a meter that is polled every minute, and what a
//! load profile, a remote API or anybody else recorded of the same.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test panics where something is not as it should be"
)]

use std::collections::BTreeMap;

use gapless_collector::gaps::donate::Donor;
use gapless_collector::ingest::committer::Committer;
use gapless_collector::ingest::{Inbound, Order, Outbound, Wish};
use gapless_collector::store::ReadStore as _;
use gapless_collector::store::model::{
    AlertFilter, Flow, GapEventRow, GapFilter, GridRow, Scan, SeriesRow, StoredReading,
};
use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::{
    AgentId, BootId, ChannelId, ChannelIndex, Commit, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq, SiteId,
};
use gapless_common::message::{AgentState, DataFrame, HeldEpoch, Outcome, Reply};
use gapless_common::quality::{Cause, Quality};
use gapless_common::reading::{
    Acquired, CatalogRecord, ClockCorrection, Completeness, EpochStart, Misses, Readings, Record, Sample,
    Value,
};
use gapless_common::time::{Interval, SlotGrid, Timestamp};
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire::{self, Message};
use rusqlite::Connection;

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 1_440 * MINUTE_MS;
/// 2026-01-01T00:00:00Z.
const T0: Timestamp = Timestamp(1_767_225_600_000);

fn path() -> AgentPath {
    AgentPath { site: SiteId::new("farm").unwrap(), agent: AgentId::new("gw").unwrap() }
}

/// The instant `n` minutes after T0.
fn at(n: i64) -> Timestamp {
    T0.plus_ms(n * MINUTE_MS)
}

/// Name, unit and quantity of a channel, and how its values come about.
type Row = (&'static str, &'static str, &'static str, Aggregation);

const ENERGY: Row = ("energy", "kWh", "active_energy", Aggregation::Counter);
const POWER: Row = ("power", "W", "active_power", Aggregation::Instant);

fn device(id: &str, minutes: i64, channels: &[Row]) -> Device {
    let channel = |&(id, unit, quantity, aggregation): &Row| Channel {
        id: ChannelId::new(id).unwrap(),
        unit: unit.into(),
        quantity: quantity.into(),
        aggregation,
        label: PeriodLabel::End,
        attributes: BTreeMap::new(),
    };
    Device {
        id: DeviceId::new(id).unwrap(),
        grid: SlotGrid::every(Interval::from_ms((minutes * MINUTE_MS).cast_unsigned()).unwrap()),
        paused: false,
        channels: channels.iter().map(channel).collect(),
        attributes: BTreeMap::new(),
    }
}

fn donor(device: &str, from: &str, channels: &[(&str, &str)]) -> Donor {
    let text = str::to_owned;
    let channels = channels.iter().map(|&(own, theirs)| (text(own), text(theirs))).collect();
    Donor { site: text("farm"), device: text(device), from: text(from), channels }
}

/// A collector that knows donors, and an agent whose first device is the one with gaps.
struct World {
    committer: Committer,
    donors: Vec<Donor>,
    devices: Vec<Device>,
    now: Timestamp,
    next: u64,
}

impl World {
    fn new(devices: Vec<Device>, donors: Vec<Donor>) -> Self {
        let committer = Committer::from_connection(Connection::open_in_memory().unwrap(), 7).unwrap();
        let committer = committer.with_donors(donors.clone());
        let mut world = Self { committer, donors, devices, now: T0, next: 1 };
        let start = EpochStart {
            previous: None,
            boot: BootId(5),
            boot_clock_ms: 10,
            at: T0,
            clock_set: true,
            durable: true,
            agent_version: "1".into(),
        };
        world.be_born();
        world.send(vec![Record::Start(start)]);
        world.describe(0);
        world
    }

    fn catalog(&self) -> Catalog {
        Catalog { devices: self.devices.clone() }
    }

    fn take(&mut self, kind: Up, payload: Vec<u8>) -> Vec<Outbound> {
        let message = Inbound { topic: path().up(kind), payload, at: self.now, token: 1 };
        self.committer.attempt(&[message], self.now).unwrap().0
    }

    fn be_born(&mut self) {
        let state = AgentState::Birth {
            path: path(),
            connection: ConnectionId(1),
            agent_version: "1".into(),
            boot: BootId(5),
            epoch: Epoch(1),
            catalog: wire::encode_catalog(&self.catalog()).0,
            held: vec![HeldEpoch { epoch: Epoch(1), first: Seq(1), next: Seq(self.next) }],
            durable: true,
            clock_set: true,
            flush_ms: 0,
        };
        self.take(Up::State, wire::encode(&Message::State(state)).unwrap());
    }

    fn send(&mut self, records: Vec<Record>) {
        let catalog = self.catalog();
        let hash = wire::encode_catalog(&catalog).0;
        let (count, first) = (u64::try_from(records.len()).unwrap(), Seq(self.next));
        let (agent, connection, epoch) = (path().tag(), ConnectionId(1), Epoch(1));
        let frame = DataFrame { agent, connection, epoch, first, catalog: hash, records };
        self.next += count;
        self.take(Up::Data, wire::encode_data(&frame, &catalog).unwrap());
    }

    /// What the devices are, from this minute on.
    fn describe(&mut self, since: i64) {
        let (hash, bytes) = wire::encode_catalog(&self.catalog());
        self.send(vec![Record::Catalog(CatalogRecord { hash, since: Some(at(since)), bytes })]);
    }

    /// What a device recorded at this minute, channel by channel.
    fn record(&self, no: u16, minute: i64, values: &[Option<f64>]) -> Record {
        let sample = |(n, value): (u16, &Option<f64>)| Sample {
            channel: ChannelIndex(n),
            value: value.map(Value::Number),
            quality: if value.is_some() { Quality::Good } else { Quality::BadInvalid },
        };
        let slot = self.devices[usize::from(no)].grid.slot_at(at(minute));
        let (device, acquired) = (DeviceIndex(no), Acquired::Recorded(slot));
        let samples = (0..).zip(values).map(sample).collect();
        Record::Readings(Readings { device, acquired, at: at(minute), samples })
    }

    /// A device recorded the number of the minute, and as many hundreds as its own number, in all channels.
    fn recorded(&mut self, no: u16, minutes: impl IntoIterator<Item = i64>) {
        let channels = self.devices[usize::from(no)].channels.len();
        let value = |minute: i64| Some(minute as f64 + f64::from(no) / 8.0);
        let records =
            minutes.into_iter().map(|minute| self.record(no, minute, &vec![value(minute); channels]));
        let records: Vec<Record> = records.collect();
        records.chunks(500).for_each(|records| self.send(records.to_vec()));
    }

    /// What the first device answers to the poll of a minute, at an instant of its own.
    fn polled(&self, minute: i64, late_ms: i64, values: &[Option<f64>]) -> Record {
        let Record::Readings(readings) = self.record(0, minute, values) else { panic!("no readings") };
        let acquired = Acquired::InSlot(self.devices[0].grid.slot_at(at(minute)));
        Record::Readings(Readings { acquired, at: at(minute).plus_ms(late_ms), ..readings })
    }

    /// The first device was not there in these minutes: that is known now.
    fn missed(&mut self, minutes: std::ops::Range<i64>) {
        self.missed_of(0, minutes);
    }

    fn missed_of(&mut self, no: u16, minutes: std::ops::Range<i64>) {
        let grid = self.devices[usize::from(no)].grid;
        let (first, last) = (grid.slot_at(at(minutes.start)), grid.slot_at(at(minutes.end - 1)));
        let count = u32::try_from(last.0 - first.0 + 1).unwrap();
        let run = Misses { device: DeviceIndex(no), first, count, cause: Cause::NoAnswer };
        let complete = Completeness { through: vec![(DeviceIndex(no), last)] };
        self.now = self.now.max(at(minutes.end));
        self.send(vec![Record::Misses(run), Record::Complete(complete)]);
    }

    /// Has donors looked after until nothing is left to do; `after` each transaction.
    fn lend_with(mut self, after: impl Fn(Self) -> Self) -> Self {
        for _ in 0..1_000 {
            if !self.committer.lend(self.now).unwrap() {
                return self;
            }
            self = after(self);
        }
        panic!("it never ends");
    }

    fn lend(self) -> Self {
        self.lend_with(|world| world)
    }

    /// The agent is asked for what is due, and has nothing.
    fn ask_in_vain(&mut self) {
        let asked = self.committer.look_after_gaps(self.now).unwrap();
        let [Outbound::Publish { payload, .. }] = asked.as_slice() else { panic!("{asked:?}") };
        let Ok(Message::Command(command)) = wire::decode(payload) else { panic!("no command") };
        let reply = Message::Reply(Reply { id: command.id, outcome: Outcome::NoData });
        self.take(Up::Reply, wire::encode(&reply).unwrap());
    }

    /// Killed and started again.
    fn restart(self) -> Self {
        let connection = self.committer.into_connection().unwrap();
        let committer = Committer::from_connection(connection, 8).unwrap().with_donors(self.donors.clone());
        Self { committer, ..self }
    }

    /// Minutes of a channel of a device whose readings are another one's.
    fn lent_of(&self, no: usize, channel: &str) -> Vec<i64> {
        let store = self.committer.store();
        let is_it = |x: &&SeriesRow| x.device == self.devices[no].id && x.channel.as_str() == channel;
        let series = store.series(None, None).unwrap().iter().filter(is_it).map(|x| x.no).collect();
        let scan = Scan { series, from: T0, to: at(1_000_000), after: None };
        let mut lent = Vec::new();
        let each = &mut |reading: StoredReading| {
            lent.extend(reading.lent.then(|| reading.at.since_ms(T0) / MINUTE_MS));
            Flow::More
        };
        store.readings(&scan, each).unwrap();
        lent
    }

    fn count(&self, sql: &str) -> i64 {
        self.committer.connection().query_row(sql, [], |r| r.get(0)).unwrap()
    }

    /// What is stored of a channel of the first device: minutes, and numbers.
    fn stored(&self, channel: &str) -> Vec<(i64, f64)> {
        let sql = "SELECT r.ts, r.value FROM readings r JOIN series x ON x.id = r.series
            JOIN devices d ON d.id = x.device WHERE d.name = ?1 AND x.channel = ?2 ORDER BY r.ts";
        let mut statement = self.committer.connection().prepare(sql).unwrap();
        let row = |r: &rusqlite::Row<'_>| {
            Ok((
                Timestamp(r.get(0)?).since_ms(T0) / MINUTE_MS,
                r.get::<_, Option<f64>>(1)?.unwrap_or(f64::NAN),
            ))
        };
        let name = self.devices[0].id.as_str();
        statement.query_map([name, channel], row).unwrap().map(Result::unwrap).collect()
    }

    /// The gaps of the first device: minutes, number and whether they are filled.
    fn gaps(&self) -> Vec<(i64, i64, i64, bool)> {
        let device = Some(self.devices[0].id.clone());
        let of = GapFilter { device, limit: 10_000, ..GapFilter::default() };
        let mut gaps = self.committer.store().gaps(&of).unwrap();
        gaps.sort_by_key(|gap| gap.from);
        let minutes = |t: Timestamp| t.since_ms(T0) / MINUTE_MS;
        gaps.iter().map(|gap| (minutes(gap.from), minutes(gap.to), gap.id, gap.closed_at.is_some())).collect()
    }

    /// Minutes of the first device that are missing still.
    fn missing(&self) -> Vec<i64> {
        let step = usize::try_from(self.devices[0].grid.interval.as_ms() / MINUTE_MS).unwrap();
        let open = self.gaps().into_iter().filter(|gap| !gap.3);
        open.flat_map(|(from, to, ..)| (from..to).step_by(step)).collect()
    }

    fn events(&self, gap: i64) -> Vec<GapEventRow> {
        self.committer.store().gap_events(gap).unwrap()
    }

    /// Event and actor of what became of the gap that holds a minute.
    fn told(&self, minute: i64) -> Vec<(&'static str, String)> {
        let gap = self.gaps().into_iter().find(|gap| (gap.0..gap.1).contains(&minute)).unwrap();
        self.events(gap.2).into_iter().map(|event| (event.event, event.actor)).collect()
    }
}

/// What the meter measures itself: minutes 0 to 9; then nothing until `to`.
fn with_a_hole(devices: Vec<Device>, donors: Vec<Donor>, to: i64) -> World {
    let mut world = World::new(devices, donors);
    let minutes = world.devices[0].grid.interval.as_ms() / MINUTE_MS;
    world.recorded(0, (0..10).step_by(usize::try_from(minutes).unwrap()));
    world.missed((10 + minutes - 1) / minutes * minutes..to);
    world
}

#[test]
fn a_quarter_hourly_counter_fills_every_fifteenth_minute() {
    let profile = device("profile", 15, &[("imported", "kWh", "active_energy", Aggregation::Counter)]);
    let donors = vec![donor("meter", "profile", &[("energy", "imported")])];
    let mut world = with_a_hole(vec![device("meter", 1, &[ENERGY]), profile], donors, 70).lend();
    assert_eq!(world.missing(), (10..70).collect::<Vec<_>>(), "the profile has not told anything");
    world.recorded(1, [0, 15, 30, 45, 60, 75]);
    let mut world = world.lend();
    let filled: Vec<i64> = world.gaps().iter().filter(|gap| gap.3).map(|gap| gap.0).collect();
    assert_eq!(filled, [15, 30, 45, 60]);
    let lent: Vec<_> = world.stored("energy").into_iter().filter(|(minute, _)| *minute >= 10).collect();
    assert_eq!(lent, [(15, 15.125), (30, 30.125), (45, 45.125), (60, 60.125)]);
    assert_eq!(world.told(30).last(), Some(&("filled", "device profile".to_owned())));
    assert_eq!(
        world.told(31).last(),
        Some(&("cut", "collector".to_owned())),
        "its remainder is a gap of its own"
    );
    assert_eq!(world.lent_of(0, "energy"), [15, 30, 45, 60]);
    let before = world.committer.head();
    assert!(!world.committer.lend(world.now).unwrap());
    assert_eq!(world.committer.head(), before, "where nothing has changed nothing is committed");
    world.recorded(0, 10..70);
    assert_eq!(world.missing(), Vec::<i64>::new());
    let stored = world.stored("energy");
    assert_eq!((stored.len(), stored[30], stored[31]), (70, (30, 30.0), (31, 31.0)));
}

/// What a device says itself of an instant that was lent is no second word for it: it is the first one.
#[test]
fn what_the_device_itself_measured_takes_the_place_of_what_stood_in() {
    let devices = vec![device("meter", 1, &[ENERGY]), device("profile", 15, &[ENERGY])];
    let mut world = with_a_hole(devices, vec![donor("meter", "profile", &[])], 70);
    world.recorded(1, [15, 30, 45, 60]);
    let mut world = world.lend().restart();
    let conflicts = "SELECT count(*) FROM conflicts";
    let commit = world.committer.head().commit;
    world.recorded(0, [30, 31]);
    // The very same number is its own now, too.
    let same = world.record(0, 45, &[Some(45.125)]);
    world.send(vec![same.clone()]);
    world.send(vec![same]);
    assert_eq!((world.lent_of(0, "energy"), world.count(conflicts)), (vec![15, 60], 0));
    let stored = world.stored("energy");
    assert_eq!(stored[10..], [(15, 15.125), (30, 30.0), (31, 31.0), (45, 45.125), (60, 60.125)]);
    // What stood there is kept, and that it was lent; who follows changes is told of both.
    let kept =
        "SELECT count(*) FROM revisions WHERE quality = 65536 AND ts IN (1767227400000, 1767228300000)";
    assert_eq!((world.count("SELECT count(*) FROM revisions"), world.count(kept)), (2, 2));
    let told: i64 = world.count(&format!("SELECT count(*) FROM changes WHERE commit_no > {}", commit.0));
    assert_eq!(told, 2);
    // Nothing is lent again.
    let world = world.restart().lend();
    assert_eq!(world.lent_of(0, "energy"), [15, 60]);
    let told: Vec<_> = world.told(30).into_iter().map(|(event, _)| event).collect();
    assert_eq!(told[told.len() - 2..], ["filled", "replaced"], "{told:?}");
    assert_eq!(world.told(60).last(), Some(&("filled", "device profile".to_owned())));
}

/// What a poll brings has an instant of its own, and is of the slot that it was due in: of each slot one reading is stored.
#[test]
fn an_answer_that_came_late_takes_the_place_of_what_was_lent_of_its_slot() {
    type Own = fn(&mut World) -> Vec<Record>;
    let of_a_boot: Own = |world| {
        let Record::Readings(readings) = world.polled(30, 0, &[Some(30.0)]) else { panic!("no readings") };
        let (acquired, at_wrong) = (Acquired::SinceBoot(1_800_400), at(-900));
        let correction = ClockCorrection {
            boot: BootId(5),
            epoch: Epoch(1),
            first: Seq(1),
            last: Seq(world.next),
            boot_began: T0,
        };
        world.send(vec![Record::Readings(Readings { acquired, at: at_wrong, ..readings })]);
        vec![Record::ClockCorrection(correction)]
    };
    let rows: [(&str, Own, i64); 4] = [
        ("late by a little", |world| vec![world.polled(30, 400, &[Some(30.0)])], 400),
        ("after the next one was due", |world| vec![world.polled(30, 61_000, &[Some(30.0)])], 61_000),
        ("at its very instant", |world| vec![world.polled(30, 0, &[Some(30.0)])], 0),
        ("by a clock that was set later", of_a_boot, 400),
    ];
    for (what, own, late_ms) in rows {
        let devices = vec![device("meter", 1, &[ENERGY]), device("profile", 15, &[ENERGY])];
        let mut world = with_a_hole(devices, vec![donor("meter", "profile", &[])], 70);
        world.recorded(1, [15, 30, 45, 60]);
        let mut world = world.lend().restart();
        let records = own(&mut world);
        let commit = world.committer.head().commit.0;
        world.send(records.clone());
        assert_eq!(world.lent_of(0, "energy"), [15, 45, 60], "{what}");
        let of_slot = format!(
            "SELECT count(*) FROM readings WHERE series = 1 AND ts BETWEEN {} AND {}",
            at(30).0,
            at(32).0
        );
        let own_ts = format!("{of_slot} AND ts = {} AND value = 30.0 AND quality = 0", at(30).0 + late_ms);
        assert_eq!((world.count(&of_slot), world.count(&own_ts)), (1, 1), "{what}");
        // What stood there is kept, and who follows changes is told of both instants.
        let kept = format!(
            "SELECT count(*) FROM revisions WHERE quality = 65536 AND ts = {} AND value = 30.125",
            at(30).0
        );
        assert_eq!((world.count("SELECT count(*) FROM revisions"), world.count(&kept)), (1, 1), "{what}");
        let changes = world.committer.store().changes(Commit(commit), 10).unwrap();
        let mut withdrawn = Vec::new();
        for change in &changes {
            let each = &mut |_, instant: Timestamp| {
                withdrawn.extend((instant != at(-900)).then_some(instant));
                Flow::More
            };
            world.committer.store().withdrawn(change, each).unwrap();
        }
        let expected = if late_ms == 0 { vec![] } else { vec![at(30)] };
        assert_eq!(withdrawn, expected, "{what}");
        let latest = changes.last().unwrap();
        assert!(latest.first <= at(30) && latest.last >= at(30).plus_ms(late_ms), "{what}: {changes:?}");
        assert_eq!(world.told(30).last(), Some(&("replaced", "collector".to_owned())), "{what}");
        assert_eq!(world.told(45).last(), Some(&("filled", "device profile".to_owned())), "{what}");
        // Neither its repetition nor another look changes anything.
        world.send(records);
        let world = world.restart().lend();
        assert_eq!((world.lent_of(0, "energy"), world.count(&own_ts)), (vec![15, 45, 60], 1), "{what}");
        assert_eq!(world.count("SELECT count(*) FROM revisions"), 1, "{what}");
        assert_eq!(world.count("SELECT count(*) FROM conflicts"), 0, "{what}");
    }
}

/// A meter whose clock counts as off says so of what it remembers, and knows of which slot that is: it is its own word.
#[test]
fn what_a_meter_remembers_by_a_clock_that_is_off_is_its_own_word() {
    for off_ms in [0, 400] {
        let devices = vec![device("meter", 1, &[ENERGY]), device("profile", 15, &[ENERGY])];
        let mut world = with_a_hole(devices, vec![donor("meter", "profile", &[])], 70);
        world.recorded(1, [15, 30, 45, 60]);
        let mut world = world.lend();
        let doubtful = |world: &World, minute, value, off_ms| {
            let Record::Readings(mut readings) = world.record(0, minute, &[Some(value)]) else {
                panic!("no readings")
            };
            readings.at = at(minute).plus_ms(off_ms);
            readings.samples.iter_mut().for_each(|sample| sample.quality = Quality::UncertainClock);
            vec![Record::Readings(readings)]
        };
        for _ in 0..2 {
            world.send(doubtful(&world, 30, 30.0, off_ms));
            assert_eq!(world.lent_of(0, "energy"), [15, 45, 60], "{off_ms}");
            assert_eq!(world.stored("energy")[10..], [(15, 15.125), (30, 30.0), (45, 45.125), (60, 60.125)]);
        }
        // What it says again in doubt is nothing new; that it says something else is.
        world.send(doubtful(&world, 9, 9.0, 0));
        assert_eq!(world.count("SELECT count(*) FROM conflicts"), 0, "{off_ms}");
        world.send(doubtful(&world, 9, 8.5, 0));
        assert_eq!(world.count("SELECT count(*) FROM conflicts WHERE value = 8.5"), 1, "{off_ms}");
    }
}

/// An answer may come at the very instant of another slot that was lent: it is stored all the same.
#[test]
fn an_answer_finds_room_at_the_instant_of_another_slot_that_was_lent() {
    // The slot, its value, what is lent then, and what stands where it came.
    let rows: [(i64, Option<f64>, &[i64], f64); 3] = [
        (14, Some(14.0), &[11, 12, 16], 14.0),
        (12, Some(12.0), &[11, 14, 15, 16], 12.0),
        (13, None, &[11, 12, 14, 15, 16], 14.125),
    ];
    for (minute, value, lent, stands) in rows {
        let devices = vec![device("meter", 1, &[ENERGY]), device("profile", 1, &[ENERGY])];
        let mut world = with_a_hole(devices, vec![donor("meter", "profile", &[])], 17);
        world.recorded(1, [11, 12, 14, 15, 16]);
        let mut world = world.lend();
        let late = world.polled(minute, 60_000, &[value]);
        world.send(vec![late.clone()]);
        world.send(vec![late]);
        assert_eq!(world.lent_of(0, "energy"), lent, "{minute}");
        let there: Vec<f64> =
            world.stored("energy").into_iter().filter(|(n, _)| *n == minute + 1).map(|(_, v)| v).collect();
        assert_eq!(there, [stands], "{minute}");
        assert_eq!(world.count("SELECT count(*) FROM conflicts"), 0, "{minute}");
        let kept =
            format!("SELECT count(*) FROM revisions WHERE value IS NULL AND ts = {}", at(minute + 1).0);
        assert_eq!(world.count(&kept), i64::from(value.is_none()), "{minute}");
    }
}

/// What was lent makes room for what says the same, in whatever unit.
#[test]
fn a_device_that_says_the_same_in_another_unit_takes_the_place_of_what_was_lent() {
    type Change = fn(&mut Channel);
    let rows: [(&str, Change, &[i64]); 3] = [
        ("the same", |_| {}, &[15, 45, 60]),
        ("another unit", |channel| channel.unit = "Wh".into(), &[15, 45, 60]),
        ("another quantity", |channel| channel.quantity = "reactive_energy".into(), &[15, 30, 45, 60]),
    ];
    for (what, change, lent) in rows {
        let devices = vec![device("meter", 1, &[ENERGY]), device("profile", 15, &[ENERGY])];
        let mut world = with_a_hole(devices, vec![donor("meter", "profile", &[])], 70);
        world.recorded(1, [15, 30, 45, 60]);
        let mut world = world.lend();
        change(&mut world.devices[0].channels[0]);
        world.describe(70);
        world.recorded(0, [70]);
        let own = world.record(0, 30, &[Some(30_000.0)]);
        world.send(vec![own]);
        assert_eq!(world.lent_of(0, "energy"), lent, "{what}");
        let there = world.stored("energy").iter().filter(|(minute, _)| *minute == 30).count();
        assert_eq!(there, 1 + usize::from(lent.contains(&30)), "{what}");
    }
}

/// That the device has no value of a slot helps nobody who has one: what was lent stays, and nobody is told of a conflict.
#[test]
fn an_answer_without_a_value_leaves_what_was_lent_where_it_is() {
    for late_ms in [0, 400] {
        let devices = vec![device("meter", 1, &[ENERGY, POWER]), device("profile", 15, &[ENERGY])];
        let mut world = with_a_hole(devices, vec![donor("meter", "profile", &[])], 40);
        world.recorded(1, [15, 30]);
        let mut world = world.lend();
        let bad = world.polled(15, late_ms, &[None, Some(7.0)]);
        world.send(vec![bad.clone()]);
        world.send(vec![bad]);
        assert_eq!(world.stored("energy")[10..], [(15, 15.125), (30, 30.125)], "{late_ms}");
        assert_eq!(world.lent_of(0, "energy"), [15, 30], "{late_ms}");
        assert_eq!(world.stored("power")[10..], [(15, 7.0)], "its other channel has one");
        assert!(!world.missing().contains(&15), "it has answered");
        assert_eq!(world.count("SELECT count(*) FROM conflicts"), 0, "{late_ms}");
        assert_eq!(world.count("SELECT conflicts FROM agents"), 0, "{late_ms}");
        let kept =
            format!("SELECT count(*) FROM revisions WHERE value IS NULL AND ts = {}", at(15).0 + late_ms);
        assert_eq!((world.count("SELECT count(*) FROM revisions"), world.count(&kept)), (1, 1), "{late_ms}");
        // It has spoken itself then, whatever it had to say.
        let devices = world.committer.store().devices(None, world.now).unwrap();
        let meter = devices.iter().find(|device| device.device.as_str() == "meter").unwrap();
        assert_eq!(meter.last_reading_at, Some(at(15).plus_ms(late_ms)));
        // Its value, where it comes after all, has the last word.
        let good = world.polled(15, late_ms, &[Some(15.0), Some(7.0)]);
        world.send(vec![good]);
        assert_eq!(world.stored("energy")[10..], [(15, 15.0), (30, 30.125)], "{late_ms}");
    }
}

#[test]
fn who_is_silent_is_silent_though_another_device_stands_in() {
    let mut meter = device("meter", 1, &[ENERGY]);
    meter.attributes.insert("history".to_owned(), "device".to_owned());
    let devices = vec![meter, device("profile", 1, &[ENERGY])];
    let mut world = with_a_hole(devices, vec![donor("meter", "profile", &[])], 400);
    world.recorded(1, (0..200).chain(205..400));
    let mut world = world.lend();
    assert_eq!(world.missing(), (10..400).collect::<Vec<_>>(), "it may have them itself");
    let last = |world: &World| {
        let devices = world.committer.store().devices(None, world.now).unwrap();
        let of = |name: &str| devices.iter().find(|device| device.device.as_str() == name).unwrap();
        ["meter", "profile"].map(|name| of(name).last_reading_at.map(|t| t.since_ms(T0) / MINUTE_MS))
    };
    assert_eq!((world.stored("energy").len(), last(&world)), (395, [Some(9), Some(399)]));
    // The collector has listened for as long as a device may be silent.
    for second in 0..330 {
        world.now = at(400).plus_ms(second * 1_000);
        world.committer.look_after_alerts(world.now).unwrap();
    }
    let alerts =
        world.committer.store().alerts(&AlertFilter { limit: 100, ..AlertFilter::default() }).unwrap();
    let told =
        alerts.iter().map(|alert| (alert.kind.word(), alert.device.as_ref().map(|device| device.as_str())));
    assert_eq!(told.collect::<Vec<_>>(), [("gap", Some("meter")), ("silent", Some("meter"))], "{alerts:?}");
    // It is asked for all of it once it speaks itself, and then for what nobody has.
    assert_eq!(world.committer.look_after_gaps(world.now).unwrap().len(), 0, "it is away");
    world.recorded(0, [400]);
    assert_eq!(last(&world), [Some(400), Some(399)]);
    world.ask_in_vain();
    assert_eq!(world.lend().missing(), (200..205).collect::<Vec<_>>());
}

#[test]
fn what_was_lent_is_lent_on_and_no_circle_ends_in_itself() {
    // The profile has what the api has, and the meter what the profile has.
    let devices = || {
        vec![device("meter", 1, &[ENERGY]), device("profile", 15, &[ENERGY]), device("api", 30, &[ENERGY])]
    };
    let chain = vec![donor("meter", "profile", &[]), donor("profile", "api", &[])];
    let mut world = with_a_hole(devices(), chain, 70);
    world.recorded(1, [0, 15]);
    world.missed_of(1, 30..70);
    world.recorded(2, [0, 30, 60]);
    let world = world.lend_with(World::restart);
    assert_eq!((world.lent_of(1, "energy"), world.lent_of(0, "energy")), (vec![30, 60], vec![15, 30, 60]));
    assert_eq!(world.stored("energy")[10..], [(15, 15.125), (30, 30.25), (60, 60.25)]);
    assert_eq!(world.told(60).last(), Some(&("filled", "device profile".to_owned())));

    // Each stands in for the other, and a third one for both: nobody gets back what is its own, and what nobody has is missing.
    let circle = vec![
        donor("meter", "profile", &[]),
        donor("profile", "meter", &[]),
        donor("api", "meter", &[]),
        donor("meter", "api", &[]),
    ];
    let mut world = World::new(devices(), circle);
    world.recorded(0, (0..10).chain([30]));
    world.missed(10..30);
    world.missed(31..70);
    world.recorded(1, [0, 15]);
    world.missed_of(1, 30..70);
    world.recorded(2, [0]);
    world.missed_of(2, 30..70);
    let world = world.lend_with(World::restart);
    let lent = [0, 1, 2].map(|no| world.lent_of(no, "energy"));
    assert_eq!(lent, [vec![15], vec![30], vec![30]]);
    assert_eq!(world.count("SELECT count(*) FROM conflicts"), 0);
    assert_eq!(world.missing().len(), 20 - 1 + 39);
}

/// As many loans as a turn of the writer may hold, none of which waits for the next one.
#[test]
fn two_loans_in_one_turn_are_two_and_the_second_one_knows_the_first() {
    let devices = vec![
        device("meter", 1, &[ENERGY, POWER]),
        device("profile", 15, &[ENERGY]),
        device("clamp", 15, &[ENERGY, POWER]),
    ];
    let mut world =
        with_a_hole(devices, vec![donor("meter", "profile", &[]), donor("meter", "clamp", &[])], 40);
    world.recorded(1, [15, 30]);
    world.recorded(2, [15, 30]);
    let before = world.committer.head().commit.0;
    let lends: Vec<bool> = (0..4).map(|_| world.committer.lend(world.now).unwrap()).collect();
    assert_eq!((lends, world.committer.head().commit.0 - before), (vec![true, true, false, false], 2));
    assert_eq!(world.stored("energy")[10..], [(15, 15.125), (30, 30.125)], "the first one's");
    assert_eq!(world.stored("power")[10..], [(15, 15.25), (30, 30.25)], "the second one's");
    assert!(!world.missing().contains(&15) && !world.missing().contains(&30));
    assert_eq!(world.told(15).last(), Some(&("filled", "device clamp".to_owned())));
    assert_eq!(world.count("SELECT count(*) FROM conflicts"), 0);
}

#[test]
fn what_does_not_say_the_same_stands_in_for_nothing() {
    use Aggregation::{Counter, Instant, Mean, Sum};
    let quarter = |channel: Row| device("profile", 15, &[channel]);
    let energy = |unit, quantity, aggregation| ("energy", unit, quantity, aggregation);
    let shifted = |mut device: Device| {
        device.grid.phase_ms = 30_000;
        device
    };
    let all: &[i64] = &[15, 30, 45, 60];
    let rows: [(Device, Device, &[i64]); 9] = [
        (device("meter", 1, &[ENERGY]), quarter(ENERGY), all),
        (device("meter", 15, &[energy("kWh", "e", Sum)]), quarter(energy("kWh", "e", Sum)), all),
        (device("meter", 15, &[energy("kW", "p", Mean)]), quarter(energy("kW", "p", Mean)), all),
        (device("meter", 1, &[energy("kW", "p", Mean)]), quarter(energy("kW", "p", Mean)), &[]),
        (device("meter", 1, &[energy("kW", "p", Instant)]), quarter(energy("kW", "p", Mean)), &[]),
        (device("meter", 1, &[ENERGY]), quarter(energy("Wh", "active_energy", Counter)), &[]),
        (device("meter", 1, &[ENERGY]), quarter(energy("kWh", "reactive_energy", Counter)), &[]),
        (device("meter", 1, &[ENERGY]), quarter(("other", "kWh", "active_energy", Counter)), &[]),
        (shifted(device("meter", 1, &[ENERGY])), quarter(ENERGY), &[]),
    ];
    for (own, profile, expected) in rows {
        let what = format!("{own:?} from {profile:?}");
        let mut world = with_a_hole(vec![own, profile], vec![donor("meter", "profile", &[])], 75);
        world.recorded(1, [0, 15, 30, 45, 60, 75]);
        let world = world.lend();
        let filled: Vec<i64> = world.gaps().iter().filter(|gap| gap.3).flat_map(|gap| gap.0..gap.1).collect();
        let filled: Vec<i64> = filled.into_iter().filter(|minute| all.contains(minute)).collect();
        assert_eq!(filled, expected, "{what}");
        let lent = world.stored("energy").iter().filter(|(minute, _)| *minute >= 15).count();
        assert_eq!(lent, expected.len(), "{what}");
    }
}

/// Neighbours that are filled are one gap, whoever filled them: its history names each of them, once.
#[test]
fn what_is_lent_beside_what_the_device_brought_itself_is_told_of_the_gap_that_both_are() {
    let devices = vec![device("meter", 1, &[ENERGY]), device("profile", 15, &[ENERGY])];
    let mut world = with_a_hole(devices, vec![donor("meter", "profile", &[])], 70);
    world.recorded(0, (12..15).chain([29]));
    world.recorded(1, [15, 30, 45]);
    let mut world = world.lend();
    for (own, lent) in [(14, 15), (29, 30)] {
        let filled: Vec<_> = world.told(lent).into_iter().filter(|(event, _)| *event == "filled").collect();
        let (by_itself, by_profile) =
            (("filled", "collector".to_owned()), ("filled", "device profile".to_owned()));
        assert_eq!(filled, [by_itself, by_profile], "{lent}");
        assert_eq!(world.told(own), world.told(lent));
    }
    // The other way round, and no line more for what each of them adds.
    world.recorded(0, [46, 47]);
    let world = world.restart().lend();
    let actors = |minute| {
        let told = world.told(minute).into_iter();
        told.filter(|(event, _)| *event == "filled").map(|(_, actor)| actor).collect::<Vec<_>>()
    };
    assert_eq!(actors(45), ["device profile", "collector"]);
    assert_eq!(world.missing().len(), 60 - 4 - 3 - 2);
}

#[test]
fn a_value_that_is_none_stands_in_for_nothing() {
    let devices = vec![device("meter", 1, &[ENERGY]), device("profile", 15, &[ENERGY])];
    let mut world = with_a_hole(devices, vec![donor("meter", "profile", &[])], 40);
    let bad = world.record(1, 15, &[None]);
    world.send(vec![bad]);
    world.recorded(1, [30]);
    let world = world.lend();
    assert_eq!(world.missing().len(), 29);
    assert!(world.missing().contains(&15) && !world.missing().contains(&30));
}

#[test]
fn donors_are_asked_in_their_order_and_each_for_what_is_left() {
    let devices =
        vec![device("meter", 1, &[ENERGY]), device("api", 30, &[ENERGY]), device("profile", 15, &[ENERGY])];
    let donors = vec![donor("meter", "profile", &[]), donor("meter", "api", &[])];
    let mut world = World::new(devices, donors);
    world.recorded(1, [0, 30, 60, 90]);
    world.recorded(2, [0, 15, 30, 45, 60]);
    world.recorded(0, 0..10);
    world.missed(10..100);
    let world = world.lend();
    let lent: Vec<_> = world.stored("energy").into_iter().filter(|(minute, _)| *minute >= 10).collect();
    assert_eq!(lent, [(15, 15.25), (30, 30.25), (45, 45.25), (60, 60.25), (90, 90.125)]);
    assert_eq!(world.told(90).last(), Some(&("filled", "device api".to_owned())));
}

#[test]
fn a_slot_of_which_one_channel_is_lent_is_missing_still_and_its_history_says_so() {
    let devices = vec![device("meter", 1, &[ENERGY, POWER]), device("profile", 15, &[ENERGY])];
    let mut world = with_a_hole(devices, vec![donor("meter", "profile", &[])], 40);
    world.recorded(1, [15, 30]);
    let mut world = world.lend();
    assert_eq!(world.missing(), (10..40).collect::<Vec<_>>());
    assert_eq!(world.stored("energy")[10..], [(15, 15.125), (30, 30.125)]);
    let history = world.events(world.gaps()[0].2);
    let lent = history.last().unwrap();
    assert_eq!((lent.event, lent.actor.as_str()), ("lent", "device profile"));
    assert_eq!(lent.detail.as_deref(), Some("2 of its slots are there but for power"));
    assert_eq!(history.len(), 2, "said once: {history:?}");
    // In the complete grid what was lent is the row of its slot, which is missing still of the other channel.
    let store = world.committer.store();
    let series: Vec<_> = store.series(None, None).unwrap();
    for (channel, there) in [("energy", 12), ("power", 10)] {
        let expected = (there, 40 - there);
        let is_it = |x: &&SeriesRow| x.device.as_str() == "meter" && x.channel.as_str() == channel;
        let no = series.iter().find(is_it).unwrap().no;
        let scan = Scan { series: vec![no], from: T0, to: at(40), after: None };
        let (mut readings, mut absent) = (0, 0);
        let each = &mut |row| {
            match row {
                GridRow::Reading(_) => readings += 1,
                GridRow::Absent(_) => absent += 1,
            }
            Flow::More
        };
        store.complete(&scan, world.now, each).unwrap();
        assert_eq!((readings, absent), expected, "{channel}");
    }
    // Somebody else has the rest.
    let (hash, donors) =
        (world.devices.len(), [donor("meter", "profile", &[]), donor("meter", "clamp", &[])]);
    world.devices.push(device("clamp", 15, &[POWER]));
    world.donors = donors.to_vec();
    world.describe(41);
    let mut world = world.restart();
    world.recorded(u16::try_from(hash).unwrap(), [15, 30]);
    let world = world.lend();
    assert!(!world.missing().contains(&15) && !world.missing().contains(&30), "{:?}", world.missing());
}

#[test]
fn a_gap_that_grows_is_filled_as_it_grows_with_what_is_there_already() {
    let devices = vec![device("meter", 1, &[ENERGY]), device("profile", 15, &[ENERGY])];
    let mut world = with_a_hole(devices, vec![donor("meter", "profile", &[])], 40);
    world.recorded(1, [0, 15, 30, 45, 60, 75]);
    let mut world = world.lend();
    world.missed(40..70);
    let mut world = world.lend();
    world.missed(70..80);
    world.recorded(1, [90]);
    let world = world.lend();
    let filled: Vec<i64> = world.gaps().iter().filter(|gap| gap.3).map(|gap| gap.0).collect();
    assert_eq!(filled, [15, 30, 45, 60, 75]);
}

/// A meter that is polled each minute, and that remembers.
fn remembering(channels: &[Row]) -> Device {
    let mut meter = device("meter", 1, channels);
    meter.attributes.insert("history".to_owned(), "device".to_owned());
    meter
}

#[test]
fn what_the_device_remembers_is_asked_for_before_what_stands_in_counts() {
    let devices =
        vec![remembering(&[ENERGY, POWER]), device("profile", 15, &[ENERGY]), device("clamp", 15, &[POWER])];
    let donors = vec![donor("meter", "profile", &[]), donor("meter", "clamp", &[])];
    let mut world = with_a_hole(devices, donors, 40);
    world.recorded(1, [15, 30, 45]);
    world.recorded(2, [15, 30, 45]);
    let world = world.lend().restart();
    assert_eq!(world.missing(), (10..40).collect::<Vec<_>>(), "nobody was asked yet");
    assert_eq!((world.lent_of(0, "energy"), world.lent_of(0, "power")), (vec![15, 30], vec![15, 30]));
    let history = world.events(world.gaps()[0].2);
    let said: Vec<_> = history.iter().filter_map(|event| event.detail.as_deref()).collect();
    assert_eq!(
        said,
        [
            "2 of its slots are there but for power",
            "2 of its slots are there, and its own source is asked first"
        ]
    );
    // It grows: what is there of that part stands in at once, too.
    let mut world = world.lend();
    world.missed(40..50);
    let mut world = world.lend();
    assert_eq!((world.missing().len(), world.lent_of(0, "power")), (40, vec![15, 30, 45]));
    // The meter is back, and has the first half.
    world.recorded(0, 10..20);
    world.recorded(0, [50]);
    assert_eq!((world.missing(), world.lent_of(0, "power")), ((20..50).collect(), vec![30, 45]));
    world.now = at(51);
    world.ask_in_vain();
    let world = world.lend();
    let left: Vec<i64> = (20..50).filter(|minute| ![30, 45].contains(minute)).collect();
    assert_eq!(world.missing(), left);
    assert_eq!(world.told(30).last(), Some(&("filled", "device clamp, device profile".to_owned())));
    // What turns up from now on counts at once.
    let mut world = world.restart();
    for no in [1, 2] {
        world.recorded(no, [20]);
        world = world.lend();
    }
    assert!(!world.missing().contains(&20));
    assert_eq!(world.told(20).last(), Some(&("filled", "device clamp".to_owned())));
    assert!(!world.committer.lend(world.now).unwrap());
}

#[test]
fn what_is_asked_for_anew_is_not_closed_by_what_stands_in_until_that_was_in_vain_too() {
    let devices = vec![remembering(&[ENERGY]), device("profile", 15, &[ENERGY])];
    let mut world = with_a_hole(devices, vec![donor("meter", "profile", &[])], 40);
    world.recorded(0, [40]);
    world.now = at(41);
    world.ask_in_vain();
    world = world.lend();
    let gap = world.gaps()[0].2;
    let order = Order { gap, wish: Wish::Reopen, actor: "token test".to_owned() };
    world.committer.carry_out(&order, world.now).unwrap();
    world.recorded(1, [15, 30]);
    world = world.lend();
    assert_eq!((world.missing().len(), world.lent_of(0, "energy")), (30, vec![15, 30]));
    world.ask_in_vain();
    assert_eq!(world.lend().missing().len(), 28);
}

#[test]
fn what_turns_up_months_later_fills_what_was_abandoned() {
    let devices = vec![remembering(&[ENERGY]), device("profile", 15, &[ENERGY])];
    let mut world = with_a_hole(devices, vec![donor("meter", "profile", &[])], 40);
    world.recorded(0, [40]);
    world = world.lend();
    for _ in 0..4 {
        world.now = world.now.plus_ms(30 * DAY_MS);
        world.ask_in_vain();
    }
    let gap = world.gaps()[0].2;
    assert_eq!(world.events(gap).last().map(|event| event.event), Some("abandoned"));
    let mut world = world.restart().lend();
    world.recorded(1, [15, 30]);
    let mut world = world.lend();
    assert!(!world.missing().contains(&15) && !world.missing().contains(&30));
    assert_eq!(world.told(15).last().map(|(event, _)| *event), Some("filled"));
    // What is left can be opened again, as ever.
    let left = world.gaps().into_iter().find(|gap| !gap.3).unwrap();
    let order = Order { gap: left.2, wish: Wish::Reopen, actor: "token test".to_owned() };
    world.committer.carry_out(&order, world.now).unwrap();
    assert_eq!(world.committer.look_after_gaps(world.now).unwrap().len(), 1, "it is asked for");
}

#[test]
fn a_gap_that_is_opened_again_is_looked_at_again_by_whoever_can_stand_in_by_then() {
    let devices = vec![device("meter", 1, &[ENERGY]), device("profile", 15, &[ENERGY])];
    let mut world = with_a_hole(devices, Vec::new(), 40);
    world.recorded(1, [15, 30]);
    let mut world = world.lend();
    assert_eq!(world.missing().len(), 30, "nobody is named");
    world.donors = vec![donor("meter", "nobody", &[]), donor("meter", "profile", &[])];
    let world = world.restart().lend();
    assert_eq!(
        world.missing().len(),
        28,
        "after a start everything is looked at once, whoever is not known yet"
    );
}

#[test]
fn a_kill_between_two_parts_of_what_is_lent_stores_nothing_twice_and_leaves_nothing_out() {
    let devices = vec![device("meter", 15, &[ENERGY]), device("profile", 15, &[ENERGY])];
    let count = 5_000;
    let mut world = with_a_hole(devices, vec![donor("meter", "profile", &[])], 15 * count);
    world.recorded(1, (0..count).map(|n| n * 15));
    assert!(world.missing().len() > 4_900);
    let transactions = std::cell::Cell::new(0);
    let world = world.lend_with(|world| {
        transactions.set(transactions.get() + 1);
        world.restart()
    });
    assert!(transactions.get() >= 3, "in parts: {}", transactions.get());
    assert_eq!(world.missing(), Vec::<i64>::new());
    let stored = world.stored("energy");
    assert_eq!(stored.len(), usize::try_from(count).unwrap());
    assert!(stored.iter().skip(1).all(|&(minute, value)| value == minute as f64 + 0.125));
    let conflicts: i64 =
        world.committer.connection().query_row("SELECT count(*) FROM conflicts", [], |r| r.get(0)).unwrap();
    assert_eq!(conflicts, 0);
}

#[test]
fn what_is_missing_is_filled_by_what_the_device_was_then() {
    let devices = vec![device("meter", 1, &[ENERGY]), device("profile", 15, &[ENERGY])];
    let mut world = with_a_hole(devices, vec![donor("meter", "profile", &[])], 40);
    // Since then it counts in Wh: nothing is converted, and its past stays what it was.
    world.devices[0].channels[0].unit = "Wh".into();
    world.describe(40);
    world.recorded(0, [40]);
    world.missed(41..80);
    world.recorded(0, [80]);
    world.recorded(1, [15, 30, 45, 60, 75]);
    let world = world.restart().lend();
    let missing = world.missing();
    for (minute, is_missing) in [(15, false), (30, false), (45, true), (60, true), (75, true)] {
        assert_eq!(missing.contains(&minute), is_missing, "{minute}: {missing:?}");
    }
    let revisions = world.committer.store().series(None, None).unwrap();
    let units: Vec<_> =
        revisions.iter().filter(|x| x.device.as_str() == "meter").map(|x| x.revision).collect();
    assert_eq!(units, [1, 2]);
}
