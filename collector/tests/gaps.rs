//! The life of gaps in made-up time, through the committer: what is asked of whom and when, what comes of it, and that
//! a restart in the midst of it changes nothing.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test panics where something is not as it should be"
)]

use std::collections::BTreeMap;

use gapless_collector::gaps::plan::Order as WindowOrder;
use gapless_collector::gaps::{Policies, Policy};
use gapless_collector::ingest::committer::Committer;
use gapless_collector::ingest::{Inbound, Order, Outbound, Refused, Wish};
use gapless_collector::store::ReadStore as _;
use gapless_collector::store::model::{Absence, Flow, GapFilter, GridRow, Scan};
use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::{
    AgentId, BootId, CatalogHash, ChannelId, ChannelIndex, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq,
    SiteId,
};
use gapless_common::message::{AgentState, Command, CommandBody, DataFrame, HeldEpoch, Outcome, Reply};
use gapless_common::quality::{Cause, Quality};
use gapless_common::reading::{
    Acquired, CatalogRecord, Completeness, EpochStart, Misses, Readings, Record, Sample, Value,
};
use gapless_common::time::{Interval, Slot, SlotGrid, Timestamp};
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire::{self, Message};
use rusqlite::Connection;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// 2026-01-01T00:00:00Z.
const T0: Timestamp = Timestamp(1_767_225_600_000);
/// A record every ten minutes.
const INTERVAL_MS: i64 = 600_000;

fn path() -> AgentPath {
    AgentPath { site: SiteId::new("farm").unwrap(), agent: AgentId::new("gw").unwrap() }
}

fn grid() -> SlotGrid {
    SlotGrid::every(Interval::from_ms(INTERVAL_MS.cast_unsigned()).unwrap())
}

/// The slot `n` after T0.
fn slot(n: i64) -> Slot {
    grid().slot_at(T0).plus(n)
}

fn at(n: i64) -> Timestamp {
    grid().at(slot(n))
}

/// A collector, its made-up time, and an agent with one logger.
struct World {
    committer: Committer,
    policies: Policies,
    now: Timestamp,
    attributes: BTreeMap<String, String>,
    channel: Channel,
    /// Whether the agent polls its logger, and has it at all.
    is_paused: bool,
    is_gone: bool,
    next: u64,
}

impl World {
    /// The agent is born and has said what it polls.
    fn new(attributes: &[(&str, &str)], policies: Policies) -> Self {
        let connection = Connection::open_in_memory().unwrap();
        let committer = Committer::from_connection(connection, 7).unwrap().with_policies(policies.clone());
        let attributes = attributes.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let channel = Channel {
            id: ChannelId::new("speed").unwrap(),
            unit: "m/s".into(),
            quantity: "".into(),
            aggregation: Aggregation::Mean,
            label: PeriodLabel::End,
            attributes: BTreeMap::new(),
        };
        let (is_paused, is_gone) = (false, false);
        let mut world =
            Self { committer, policies, now: T0, attributes, channel, is_paused, is_gone, next: 1 };
        world.be_born();
        let (hash, bytes) = wire::encode_catalog(&world.catalog());
        let start = EpochStart {
            previous: None,
            boot: BootId(5),
            boot_clock_ms: 10,
            at: T0,
            clock_set: true,
            durable: true,
            agent_version: "1".into(),
        };
        let catalog = CatalogRecord { hash, since: Some(T0), bytes };
        world.send(vec![Record::Start(start), Record::Catalog(catalog)]);
        world
    }

    fn catalog(&self) -> Catalog {
        let channel = self.channel.clone();
        let id = DeviceId::new("mast").unwrap();
        let attributes = self.attributes.clone();
        let (paused, channels) = (self.is_paused, vec![channel]);
        let device = Device { id, grid: grid(), paused, channels, attributes };
        Catalog { devices: if self.is_gone { Vec::new() } else { vec![device] } }
    }

    fn take(&mut self, kind: Up, payload: Vec<u8>) -> Vec<Command> {
        let message = Inbound { topic: path().up(kind), payload, at: self.now, token: 1 };
        let (answers, taken) = self.committer.attempt(&[message], self.now).unwrap();
        assert_eq!(taken, 1);
        commands(&answers)
    }

    fn be_born(&mut self) -> Vec<Command> {
        self.be_born_with(vec![HeldEpoch { epoch: Epoch(1), first: Seq(1), next: Seq(self.next) }])
    }

    fn be_born_with(&mut self, held: Vec<HeldEpoch>) -> Vec<Command> {
        let state = AgentState::Birth {
            path: path(),
            connection: ConnectionId(1),
            agent_version: "1".into(),
            boot: BootId(5),
            epoch: Epoch(1),
            catalog: wire::encode_catalog(&self.catalog()).0,
            held,
            durable: true,
            clock_set: true,
            flush_ms: 0,
        };
        self.take(Up::State, wire::encode(&Message::State(state)).unwrap())
    }

    fn leave(&mut self) {
        let gone = AgentState::Gone { connection: ConnectionId(1), clean: false };
        self.take(Up::State, wire::encode(&Message::State(gone)).unwrap());
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

    /// Says what the device is, as of `since`.
    fn describe(&mut self, since: Timestamp) {
        let (hash, bytes) = wire::encode_catalog(&self.catalog());
        self.send(vec![Record::Catalog(CatalogRecord { hash, since: Some(since), bytes })]);
    }

    /// Records of these slots, as the logger kept them.
    fn recorded(&mut self, slots: std::ops::Range<i64>) {
        let record = |n| {
            let sample = Sample {
                channel: ChannelIndex(0),
                value: Some(Value::Number(n as f64 / 8.0)),
                quality: Quality::Good,
            };
            let (device, acquired) = (DeviceIndex(0), Acquired::Recorded(slot(n)));
            Record::Readings(Readings { device, acquired, at: at(n), samples: vec![sample] })
        };
        self.send(slots.map(record).collect());
    }

    /// These slots are missing, as of now; the last one before the next reading.
    fn missed(&mut self, slots: std::ops::Range<i64>) {
        let count = u32::try_from(slots.end - slots.start).unwrap();
        let run = Misses { device: DeviceIndex(0), first: slot(slots.start), count, cause: Cause::NoAnswer };
        let complete = Completeness { through: vec![(DeviceIndex(0), slot(slots.end - 1))] };
        self.send(vec![Record::Misses(run), Record::Complete(complete)]);
    }

    /// What is asked for at `now` of what is missing; that a device is to be left alone is no question.
    fn asked(&mut self, now: Timestamp) -> Vec<Command> {
        self.now = now;
        let mut asked = commands(&self.committer.look_after_gaps(now).unwrap());
        asked.retain(|command| !matches!(command.body, CommandBody::Pause { .. }));
        asked
    }

    fn reply(&mut self, id: u64, outcome: Outcome) {
        let reply = Message::Reply(Reply { id, outcome });
        self.take(Up::Reply, wire::encode(&reply).unwrap());
    }

    /// Killed and started again.
    fn restart(self) -> Self {
        let connection = self.committer.into_connection().unwrap();
        let committer =
            Committer::from_connection(connection, 8).unwrap().with_policies(self.policies.clone());
        Self { committer, ..self }
    }

    /// Each gap: slots after T0, state, attempts, next try in ms from now.
    fn gaps(&self) -> Vec<(i64, i64, String, u32, Option<i64>)> {
        let all = GapFilter { limit: 1_000, ..GapFilter::default() };
        let mut gaps = self.committer.store().gaps(&all).unwrap();
        gaps.sort_by_key(|gap| gap.from);
        let slots = |t: Timestamp| t.since_ms(T0) / INTERVAL_MS;
        let row = |gap: &gapless_collector::store::model::GapRow| {
            let state = format!("{:?}", gap.state);
            let next = gap.next_try_at.map(|at| at.since_ms(self.now));
            (slots(gap.from), slots(gap.to), state, gap.attempts, next)
        };
        gaps.iter().map(row).collect()
    }

    fn id_at(&self, n: i64) -> i64 {
        let all = GapFilter { from: Some(at(n)), to: Some(at(n + 1)), limit: 9, ..GapFilter::default() };
        self.committer.store().gaps(&all).unwrap()[0].id
    }

    /// The slots after T0 of the complete grid up to now: whether there is a reading, or what may still come.
    fn grid(&self) -> Vec<(i64, Option<Absence>)> {
        let store = self.committer.store();
        let series = store.series(None, None).unwrap().iter().map(|series| series.no).collect();
        let scan = Scan { series, from: T0, to: at(1_000_000), after: None };
        let (mut rows, slots) = (Vec::new(), |t: Timestamp| t.since_ms(T0) / INTERVAL_MS);
        let each = &mut |row| {
            rows.push(match row {
                GridRow::Reading(reading) => (slots(reading.at), None),
                GridRow::Absent(slot) => (slots(slot.at), Some(slot.absence)),
            });
            Flow::More
        };
        store.complete(&scan, self.now, each).unwrap();
        assert!(rows.windows(2).all(|two| two[0].0 < two[1].0), "each slot once, in order: {rows:?}");
        rows
    }

    /// What the complete grid says of the slots 10 to 20.
    fn absence(&self) -> Vec<Option<Absence>> {
        let mut told: Vec<_> =
            self.grid().into_iter().filter(|(n, _)| (10..20).contains(n)).map(|(_, a)| a).collect();
        assert_eq!(told.len(), 10);
        told.dedup();
        told
    }

    /// When each gap that nobody can be asked for is given up, in ms after T0.
    fn given_up(&self) -> Vec<Option<i64>> {
        let all = GapFilter { limit: 1_000, ..GapFilter::default() };
        let mut gaps = self.committer.store().gaps(&all).unwrap();
        gaps.sort_by_key(|gap| gap.from);
        gaps.iter().map(|gap| gap.given_up_at.map(|at| at.since_ms(T0))).collect()
    }

    /// Who can be asked for the gap that holds the slot `n`.
    fn source(&self, n: i64) -> Option<String> {
        self.committer.store().gap(self.id_at(n)).unwrap().unwrap().source
    }

    fn history(&self, gap: i64) -> Vec<&'static str> {
        self.committer.store().gap_events(gap).unwrap().iter().map(|event| event.event).collect()
    }
}

fn commands(answers: &[Outbound]) -> Vec<Command> {
    let command = |answer: &Outbound| match answer {
        Outbound::Publish { payload, .. } => match wire::decode(payload) {
            Ok(Message::Command(command)) => Some(command),
            _ => None,
        },
        Outbound::Release(_) => None,
    };
    answers.iter().filter_map(command).collect()
}

/// The windows of requests, in slots after T0.
fn windows(commands: &[Command]) -> Vec<(i64, i64)> {
    let slots = |t: Timestamp| t.since_ms(T0) / INTERVAL_MS;
    let window = |command: &Command| match &command.body {
        CommandBody::ReadHistory { device, from, to } => {
            assert_eq!(device.as_str(), "mast");
            (slots(*from), slots(*to))
        }
        other => panic!("{other:?}"),
    };
    commands.iter().map(window).collect()
}

/// A logger that was away for the slots 10..20 and is back.
fn with_a_hole(policies: Policies) -> World {
    let mut world = World::new(&[("history", "device"), ("class", "logger")], policies);
    world.now = at(11);
    world.recorded(0..10);
    world.missed(10..20);
    assert_eq!(world.asked(at(20)), [], "a device that is away is not asked");
    world.recorded(20..21);
    world
}

fn missing(phase: &str) -> String {
    format!("Missing({phase})")
}

#[test]
fn a_device_that_is_back_is_asked_at_once_and_what_it_gives_fills_the_gap() {
    let mut world = with_a_hole(Policies::default());
    let asked = world.asked(at(21));
    assert_eq!(windows(&asked), [(10, 20)]);
    assert_eq!(world.asked(at(21)), [], "and not again while it is being asked");
    // Of a restart in the midst of it nothing is lost: the request goes out again at the agent's next birth.
    let mut world = world.restart();
    assert_eq!(windows(&world.be_born()), [(10, 20)]);
    let gap = world.id_at(10);
    world.recorded(10..18);
    world.reply(asked[0].id, Outcome::Done);
    assert_eq!(world.asked(at(22)), [], "what it gave may still be on its way");
    assert!(world.gaps().iter().all(|gap| gap.2 != missing("Waiting")));
    assert_eq!(world.asked(at(23)), []);
    let now = world.now;
    assert_eq!(
        world.gaps(),
        [(10, 18, "Filled".to_owned(), 0, None), (18, 20, missing("Waiting"), 1, Some(3 * DAY_MS)),],
        "what it did not give is no data, as of {now}"
    );
    let (filled, left) = (world.id_at(10), world.id_at(18));
    assert!(filled == gap || left == gap, "the number that was told is still there");
    assert_eq!(world.history(left), ["opened", "requested", "no_data"]);
    let history = world.history(filled);
    assert_eq!((history[0], *history.last().unwrap()), ("opened", "filled"), "{history:?}");
    // Months later it turns up after all.
    world.now = at(20_000);
    world.recorded(18..20);
    assert!(world.gaps().iter().all(|gap| gap.2 == "Filled"), "{:?}", world.gaps());
    assert_eq!(world.asked(at(30_000)), []);
}

#[test]
fn a_source_without_data_is_asked_by_the_schedule_and_no_more_unless_a_person_wants_it() {
    let mut world = with_a_hole(Policies::default());
    let mut now = at(21);
    let mut waited = Vec::new();
    for wait in [0, 3 * DAY_MS, 14 * DAY_MS, 28 * DAY_MS] {
        if wait > 0 {
            assert_eq!(world.asked(now.plus_ms(wait - 1)), [], "not before its time");
        }
        now = now.plus_ms(wait);
        let asked = world.asked(now);
        assert_eq!(windows(&asked), [(10, 20)]);
        world.reply(asked[0].id, Outcome::NoData);
        world = world.restart();
        waited.push(world.gaps()[0].2.clone());
    }
    assert_eq!(waited, [missing("Waiting"), missing("Waiting"), missing("Waiting"), missing("Abandoned")]);
    assert_eq!(world.asked(now.plus_ms(1_000 * DAY_MS)), []);
    let gap = world.id_at(10);
    let order = |wish| Order { gap, wish, actor: "token test".to_owned() };
    assert!(matches!(world.committer.carry_out(&order(Wish::Retry), now), Err(Refused::NotNow(_))));
    world.committer.carry_out(&order(Wish::Reopen), now).unwrap();
    world.committer.carry_out(&order(Wish::Retry), now).unwrap();
    assert_eq!(windows(&world.asked(now)), [(10, 20)]);
    let nobody = Order { gap: 99, ..order(Wish::Retry) };
    assert_eq!(world.committer.carry_out(&nobody, now), Err(Refused::NoGap(99)));
    let history = world.history(gap);
    assert_eq!(history.iter().filter(|event| **event == "no_data").count(), 4);
    assert_eq!(history[history.len() - 4..], ["abandoned", "reopened", "retried", "requested"]);
}

#[test]
fn a_gap_that_waits_is_opened_again_and_its_schedule_begins_anew() {
    let mut world = with_a_hole(Policies::default());
    let asked = world.asked(at(21));
    let reopen = Order { gap: world.id_at(10), wish: Wish::Reopen, actor: "token test".to_owned() };
    let refused = world.committer.carry_out(&reopen, at(21)).unwrap_err().to_string();
    assert!(refused.contains("being asked for"), "{refused}");
    world.reply(asked[0].id, Outcome::NoData);
    assert_eq!(world.gaps(), [(10, 20, missing("Waiting"), 1, Some(3 * DAY_MS))]);
    let now = at(21).plus_ms(DAY_MS);
    world.committer.carry_out(&reopen, now).unwrap();
    world.committer.carry_out(&reopen, now).unwrap();
    let asked = world.asked(now);
    assert_eq!(windows(&asked), [(10, 20)], "at once");
    world.reply(asked[0].id, Outcome::NoData);
    assert_eq!(world.gaps(), [(10, 20, missing("Waiting"), 1, Some(3 * DAY_MS))], "as if it were the first");
}

#[test]
fn what_fails_is_tried_again_soon_and_an_answer_that_never_comes_is_a_failure() {
    let mut world = with_a_hole(Policies::default());
    let asked = world.asked(at(21));
    world.reply(asked[0].id, Outcome::Failed("the logger is busy".into()));
    assert_eq!(world.gaps()[0].4, Some(10_000));
    let again = world.asked(at(21).plus_ms(10_000));
    assert_eq!(windows(&again), [(10, 20)]);
    // The agent goes away with the request.
    world.leave();
    let late = again[0].expires.plus_ms(DAY_MS);
    assert_eq!(world.asked(late), []);
    assert_eq!(world.gaps()[0].2, missing("Requested"), "what one that is away has to say is still to come");
    world.be_born();
    assert_eq!(world.asked(late.plus_ms(1)), []);
    assert_eq!(world.gaps()[0].2, missing("Requested"), "and not at once");
    let late = late.plus_ms(HOUR_MS);
    assert_eq!(world.asked(late), []);
    assert_eq!(world.gaps()[0].2, missing("Waiting"));
    assert_eq!(windows(&world.asked(late.plus_ms(HOUR_MS))), [(10, 20)]);
    assert_eq!(
        world.history(world.id_at(10)),
        ["opened", "requested", "failed", "requested", "failed", "requested"]
    );
}

#[test]
fn gaps_near_each_other_are_asked_for_at_once_and_long_ones_in_pieces_by_the_policy_of_the_class() {
    let slots = |n: i64| n * INTERVAL_MS;
    let of_logger = Policy { window_ms: slots(15), order: WindowOrder::OldestFirst, ..Policy::default() };
    let policies = Policies { of_class: [("logger".to_owned(), of_logger)].into(), ..Policies::default() };
    let mut world = World::new(&[("history", "device"), ("class", "logger")], policies);
    world.recorded(0..2);
    for (hole, back_until) in [(2..4, 8), (8..12, 40), (40..80, 81)] {
        world.missed(hole.clone());
        world.recorded(hole.end..back_until);
    }
    let asked = world.asked(at(81));
    assert_eq!(windows(&asked), [(2, 12), (40, 55), (55, 70), (70, 80)]);
    let ids: std::collections::BTreeSet<u64> = asked.iter().map(|command| command.id).collect();
    assert_eq!(ids.len(), 4);
    let parts: Vec<_> = world.gaps().iter().map(|gap| (gap.0, gap.1)).collect();
    assert_eq!(parts, [(2, 4), (8, 12), (40, 55), (55, 70), (70, 80)], "each request has gaps of its own");
    world.reply(asked[2].id, Outcome::NoData);
    let waiting: Vec<_> =
        world.gaps().iter().filter(|gap| gap.2 == missing("Waiting")).map(|gap| gap.0).collect();
    assert_eq!(waiting, [55]);
    assert_eq!(world.history(world.id_at(55))[..2], ["opened", "cut"]);
}

#[test]
fn a_source_that_gives_no_longer_windows_is_asked_for_none() {
    let rows: [(&str, &[(i64, i64)]); 3] = [
        ("150m", &[(65, 80), (50, 65), (40, 50)]),
        ("1m", &[(79, 80), (78, 79), (77, 78), (76, 77)]),
        ("long", &[(40, 80)]),
    ];
    for (window, expected) in rows {
        let attributes = [("history", "source"), ("class", "http"), ("window", window)];
        let mut world = World::new(&attributes, Policies::default());
        world.recorded(0..40);
        world.missed(40..80);
        world.recorded(80..81);
        assert_eq!(windows(&world.asked(at(81))), expected, "{window}");
    }
}

#[test]
fn who_is_removed_by_its_source_is_not_asked_until_it_is_back() {
    let mut world = World::new(&[("history", "source")], Policies::default());
    world.recorded(0..10);
    world.missed(10..20);
    world.attributes.insert("removed_at".to_owned(), at(20).to_string());
    world.describe(at(20));
    world.recorded(20..21);
    assert_eq!(world.asked(at(21)), []);
    world.attributes.remove("removed_at");
    world.describe(at(22));
    assert_eq!(windows(&world.asked(at(23))), [(10, 20)]);
}

/// A device without a memory that was away for the slots 10..20 and is back, all of it told at T0.
fn without_memory(policies: Policies) -> World {
    let mut world = World::new(&[], policies);
    world.recorded(0..10);
    world.missed(10..20);
    world.recorded(20..21);
    world
}

#[test]
fn who_has_no_memory_is_never_asked_until_it_has_one() {
    let mut world = without_memory(Policies::default());
    assert_eq!(world.asked(at(21)), []);
    let reopen = Order { gap: world.id_at(10), wish: Wish::Reopen, actor: "token test".to_owned() };
    world.committer.carry_out(&reopen, at(21)).unwrap();
    assert_eq!(world.gaps(), [(10, 20, missing("Open"), 0, None)]);
    let before = world.committer.head();
    assert_eq!(world.asked(at(22)), []);
    assert_eq!(world.committer.head(), before, "nothing is committed where nothing is due");
    world.attributes.insert("history".to_owned(), "device".to_owned());
    world.describe(at(21));
    assert_eq!(world.given_up(), [None]);
    assert_eq!(windows(&world.asked(at(22))), [(10, 20)]);
}

#[test]
fn what_nobody_can_be_asked_for_is_given_up_when_its_schedule_would_have_ended() {
    let mut world = without_memory(Policies::default());
    let (gap, end) = (world.id_at(10), 45 * DAY_MS);
    assert_eq!((world.gaps()[0].2.clone(), world.given_up()), (missing("Open"), vec![Some(end)]));
    let before = world.committer.head();
    assert_eq!(world.asked(T0.plus_ms(end - 1)), []);
    assert_eq!(world.committer.head(), before, "not a moment sooner");
    let mut world = world.restart();
    assert_eq!(world.asked(T0.plus_ms(end)), []);
    assert_eq!((world.gaps(), world.given_up()), (vec![(10, 20, missing("Abandoned"), 0, None)], vec![None]));
    let events = world.committer.store().gap_events(gap).unwrap();
    let last = events.last().unwrap();
    assert_eq!((events.len(), last.event, last.actor.as_str()), (2, "abandoned", "collector"));
    let why = last.detail.as_deref().unwrap();
    assert!(why.contains("nobody can be asked") && why.contains("keeps no history"), "{why}");
    let meters = world.committer.store().meters(world.now).unwrap();
    let counted = ["abandoned", "abandoned_unasked"].map(|word| meters.gap_events[word]);
    assert_eq!(counted, [0, 1], "no source had nothing");
    let before = world.committer.head();
    assert_eq!(world.asked(T0.plus_ms(10 * end)), []);
    assert_eq!(world.committer.head(), before, "once");
    // A person: who cannot be asked is not, and its time begins anew.
    let order = |wish| Order { gap, wish, actor: "token test".to_owned() };
    let now = world.now;
    let refused = world.committer.carry_out(&order(Wish::Retry), now).unwrap_err().to_string();
    assert!(refused.contains("nobody can be asked"), "{refused}");
    world.committer.carry_out(&order(Wish::Reopen), now).unwrap();
    assert_eq!(world.given_up(), [Some(11 * end)]);
    assert_eq!(world.asked(T0.plus_ms(11 * end)), []);
    assert_eq!(world.history(gap), ["opened", "abandoned", "reopened", "abandoned"]);
    // What comes late fills it as ever.
    world.recorded(10..12);
    let stands: Vec<_> = world.gaps().into_iter().map(|gap| (gap.0, gap.1, gap.2)).collect();
    assert_eq!(stands, [(10, 12, "Filled".to_owned()), (12, 20, missing("Abandoned"))]);
}

/// The attribute of a device that says when its agreement ends, seen by whoever looks after that within a minute.
fn has_agreement_until(world: &mut World, day: &str) {
    world.attributes.insert("agreement_ends".to_owned(), day.to_owned());
    world.describe(world.now);
    (0..60).for_each(|second| drop(world.committer.housekeep(world.now.plus_ms(second * 1_000)).unwrap()));
}

/// The agent's catalog has changed.
fn change(world: &mut World, change: fn(&mut World)) {
    change(world);
    world.describe(world.now);
}

/// Whether the source of a device has said so of it.
fn is_said(world: &mut World, what: &str, is_said: bool) {
    world.attributes.remove(what);
    world.attributes.extend(is_said.then(|| (what.to_owned(), "today".to_owned())));
    world.describe(world.now);
}

/// What becomes of a device, how that ends, what is said of it, and for how long it may yet come back.
type Retired = (fn(&mut World), fn(&mut World), &'static str, i64);

const RETIRED: [Retired; 7] = [
    (
        |world| has_agreement_until(world, "2025-01-01"),
        |world| has_agreement_until(world, "2099-12-31"),
        "its device is not asked any more",
        0,
    ),
    (
        |world| is_said(world, "not_authorised_since", true),
        |world| is_said(world, "not_authorised_since", false),
        "the source of its device has withdrawn its consent",
        0,
    ),
    (
        |world| is_said(world, "removed_at", true),
        |world| is_said(world, "removed_at", false),
        "its source does not list its device any more",
        0,
    ),
    (
        |world| change(world, |world| world.is_gone = true),
        |world| change(world, |world| world.is_gone = false),
        "no agent polls its device any more",
        0,
    ),
    (
        |world| change(world, |world| world.is_paused = true),
        |world| change(world, |world| world.is_paused = false),
        "no agent polls its device any more",
        0,
    ),
    (
        World::leave,
        |world| drop(world.be_born()),
        "the agent of its device has been away for a week",
        7 * DAY_MS,
    ),
    // It is back, and says of its epochs what cannot be: its frames are taken all the same.
    (
        World::leave,
        |world| {
            world.be_born_with(vec![beyond()]);
            let sql = "SELECT refused FROM agents";
            let refused: i64 = world.committer.connection().query_row(sql, [], |r| r.get(0)).unwrap();
            assert_eq!(refused, 1);
        },
        "the agent of its device has been away for a week",
        7 * DAY_MS,
    ),
];

/// Where there is nobody left to ask a gap ends as if it had never been any other way, and no look walks over it any more; who
/// comes back is asked all the same.
#[test]
fn what_nobody_is_left_to_ask_for_is_given_up_and_who_comes_back_is_asked() {
    for (retire, come_back, why, seen_ms) in RETIRED {
        for stays_away_ms in [10 * DAY_MS, 100 * DAY_MS] {
            let mut world = with_a_hole(Policies::default());
            let gap = world.id_at(10);
            world.now = at(21);
            retire(&mut world);
            if seen_ms > 0 {
                assert_eq!(world.asked(at(21).plus_ms(seen_ms - 1)), [], "{why}");
                assert_eq!(world.given_up(), [None], "{why}: it may be back at any moment");
            }
            assert_eq!(world.asked(at(21).plus_ms(seen_ms)), [], "{why}");
            let end = at(21).plus_ms(seen_ms + 45 * DAY_MS);
            assert_eq!(world.given_up(), [Some(end.since_ms(T0))], "{why}");
            assert_eq!(world.absence(), [Some(Absence::Missing)], "{why}");
            assert_eq!(world.source(10), None, "{why}: nobody can be asked");
            let mut world = world.restart();
            let (retry, reopen) = (Wish::Retry, Wish::Reopen);
            let order = |wish| Order { gap, wish, actor: "token test".to_owned() };
            let refused = world.committer.carry_out(&order(retry), world.now).unwrap_err().to_string();
            assert!(refused.contains("as long as its device is not polled"), "{refused}");
            let before = world.committer.head();
            assert_eq!(world.asked(at(21).plus_ms(stays_away_ms).min(end.plus_ms(-1))), [], "{why}");
            assert_eq!(world.committer.head(), before, "nothing is due meanwhile");
            if stays_away_ms > 45 * DAY_MS {
                assert_eq!(world.asked(end), []);
                assert_eq!(world.gaps(), [(10, 20, missing("Abandoned"), 0, None)], "{why}");
                let told = world.committer.store().gap_events(gap).unwrap().pop().unwrap();
                assert_eq!((told.event, told.actor.as_str()), ("abandoned", "collector"));
                assert!(told.detail.as_deref().unwrap().contains(why), "{told:?}");
                let before = world.committer.head();
                assert_eq!(world.asked(at(21).plus_ms(stays_away_ms)), [], "{why}");
                assert_eq!(world.committer.head(), before, "it is looked at no more");
                // A person may have it open, for as long.
                world.committer.carry_out(&order(reopen), world.now).unwrap();
                let end = world.now.plus_ms(45 * DAY_MS);
                assert_eq!(world.given_up(), [Some(end.since_ms(T0))], "{why}");
                assert_eq!(world.asked(end), []);
                assert_eq!(world.gaps()[0].2, missing("Abandoned"), "{why}");
            }
            come_back(&mut world);
            let soon = world.now.plus_ms(60_000);
            assert_eq!(windows(&world.asked(soon)), [(10, 20)], "{why}");
            assert_eq!(world.source(10).as_deref(), Some("device"), "{why}");
            let history = world.history(gap);
            let is_opened = stays_away_ms > 45 * DAY_MS;
            assert_eq!(
                history.iter().filter(|event| **event == "reopened").count(),
                2 * usize::from(is_opened)
            );
            assert_eq!(history.last(), Some(&"requested"), "{why}");
        }
    }
}

/// While the broker is away nobody can be heard: that is no agent's absence, and who was away before goes on being so.
#[test]
fn a_broker_that_is_away_for_long_makes_no_agent_so() {
    for left_before in [false, true] {
        let mut world = with_a_hole(Policies::default());
        world.now = at(21);
        if left_before {
            world.leave();
        }
        let (away, back) = (at(21).plus_ms(DAY_MS), at(21).plus_ms(31 * DAY_MS));
        world.committer.hears(false, away).unwrap();
        for day in 1..=30 {
            assert_eq!(world.asked(away.plus_ms(day * DAY_MS - 1)), [], "{left_before}: {day}");
            assert_eq!(world.given_up(), [None], "{left_before}: {day}");
        }
        world.committer.hears(true, back).unwrap();
        // The days before count, those of the broker, and the minute to come back after them, do not.
        let gone = back.plus_ms(60_000 + (7 - i64::from(left_before)) * DAY_MS);
        assert_eq!(world.asked(gone.plus_ms(-1)), []);
        assert_eq!(world.given_up(), [None], "{left_before}");
        assert_eq!(world.asked(gone), []);
        assert_eq!(world.given_up(), [Some(gone.plus_ms(45 * DAY_MS).since_ms(T0))], "{left_before}");
    }
}

/// As long as the collector does not run it hears nobody, and what its broker did meanwhile it does not know: neither is held
/// against an agent. What it did listen before is not forgotten, however often it is started.
#[test]
fn a_collector_that_was_down_blames_no_agent_for_it_and_forgives_none() {
    // Days after the agent left at which the collector ended, and for how long it was down, in ms.
    let rows: [(&str, &[(i64, i64)]); 3] = [
        ("once, for long", &[(1, 30 * DAY_MS)]),
        ("each second day, for a moment", &[(2, 1_000), (4, 1_000), (6, 1_000)]),
        ("twice, for days", &[(3, 4 * DAY_MS), (9, 4 * DAY_MS)]),
    ];
    for (what, ends) in rows {
        let mut world = with_a_hole(Policies::default());
        world.now = at(21);
        world.leave();
        // A minute to come back counts with each absence.
        let mut gone = at(21).plus_ms(7 * DAY_MS);
        for (day, down_ms) in ends {
            let end = at(21).plus_ms(day * DAY_MS);
            world.committer.hears(true, end).unwrap();
            assert_eq!((world.asked(end), world.given_up()), (vec![], vec![None]), "{what}");
            world = world.restart();
            world.committer.begin(end.plus_ms(*down_ms)).unwrap();
            gone = gone.plus_ms(down_ms + 60_000);
        }
        assert_eq!(world.asked(gone.plus_ms(-1)), [], "{what}");
        assert_eq!(world.given_up(), [None], "{what}");
        assert_eq!(world.asked(gone), [], "{what}");
        assert_eq!(world.given_up(), [Some(gone.plus_ms(45 * DAY_MS).since_ms(T0))], "{what}");
    }
}

/// What an agent carried out, and then took along.
#[test]
fn an_agent_that_answered_and_left_for_good_is_not_said_to_have_been_silent() {
    let mut world = with_a_hole(Policies::default());
    let asked = world.asked(at(21));
    world.reply(asked[0].id, Outcome::Done);
    world.leave();
    assert_eq!(world.asked(at(21).plus_ms(7 * DAY_MS)), []);
    let told = world.committer.store().gap_events(world.id_at(10)).unwrap().pop().unwrap();
    let why = told.detail.unwrap();
    assert_eq!(told.event, "failed");
    assert!(why.contains("carried it out") && why.contains("away for a week"), "{why}");
}

/// It is back with epochs that cannot be: its frames are taken all the same, and what it carried out may be among them.
#[test]
fn an_agent_whose_birth_is_refused_is_waited_for_with_what_it_carried_out() {
    let mut world = with_a_hole(Policies::default());
    let asked = world.asked(at(21));
    world.reply(asked[0].id, Outcome::Done);
    world.leave();
    world.now = at(21).plus_ms(3 * DAY_MS);
    world.be_born_with(vec![beyond()]);
    let soon = world.now.plus_ms(1_000);
    assert_eq!(world.asked(soon), []);
    assert_eq!(world.gaps()[0].2, missing("Requested"), "it has had no time yet");
}

/// An epoch that no agent can hold.
fn beyond() -> HeldEpoch {
    HeldEpoch { epoch: Epoch(1), first: Seq(1), next: Seq(u64::MAX) }
}

/// An agent that went away with a question, and never came back.
#[test]
fn what_an_agent_was_asked_that_never_comes_back_is_given_up_too() {
    let mut world = with_a_hole(Policies::default());
    assert_eq!(windows(&world.asked(at(21))), [(10, 20)]);
    world.leave();
    assert_eq!(world.asked(at(21).plus_ms(7 * DAY_MS - 1)), []);
    assert_eq!(world.gaps()[0].2, missing("Requested"), "it may still come back");
    let gone = at(21).plus_ms(7 * DAY_MS);
    assert_eq!(world.asked(gone), []);
    assert_eq!(world.asked(gone.plus_ms(10_000)), []);
    assert_eq!((world.gaps()[0].2.clone(), world.gaps()[0].3), (missing("Waiting"), 0), "nobody has looked");
    let end = gone.plus_ms(10_000 + 45 * DAY_MS);
    assert_eq!(world.given_up(), [Some(end.since_ms(T0))]);
    assert_eq!(world.asked(end), []);
    assert_eq!(world.gaps(), [(10, 20, missing("Abandoned"), 0, None)]);
    let gap = world.id_at(10);
    assert_eq!(world.history(gap), ["opened", "requested", "failed", "abandoned"]);
    world.be_born();
    assert_eq!(windows(&world.asked(world.now)), [(10, 20)]);
}

#[test]
fn who_has_a_memory_at_last_is_asked_for_what_was_given_up_and_once() {
    let mut world = without_memory(Policies::default());
    assert_eq!(world.asked(T0.plus_ms(45 * DAY_MS)), []);
    let gap = world.id_at(10);
    world.attributes.insert("history".to_owned(), "device".to_owned());
    world.describe(T0.plus_ms(45 * DAY_MS));
    assert_eq!(world.gaps(), [(10, 20, missing("Open"), 0, Some(0))]);
    let told = world.committer.store().gap_events(gap).unwrap().pop().unwrap();
    assert_eq!((told.event, told.actor.as_str()), ("reopened", "collector"));
    assert_eq!(told.detail.as_deref(), Some("its device can be asked now"));
    let mut now = world.now;
    for wait in [0, 3 * DAY_MS, 14 * DAY_MS, 28 * DAY_MS] {
        now = now.plus_ms(wait);
        let asked = world.asked(now);
        assert_eq!(windows(&asked), [(10, 20)]);
        world.reply(asked[0].id, Outcome::NoData);
    }
    assert_eq!(world.gaps(), [(10, 20, missing("Abandoned"), 4, None)]);
    // Described in other words, and without a memory in between: it was asked, and is not opened again.
    for class in ["a", "b"] {
        world.attributes.insert("class".to_owned(), class.to_owned());
        world.describe(now);
    }
    let memory = world.attributes.remove("history").unwrap();
    world.describe(now);
    world.attributes.insert("history".to_owned(), memory);
    world.describe(now);
    assert_eq!(world.gaps(), [(10, 20, missing("Abandoned"), 4, None)]);
    assert_eq!(world.asked(now.plus_ms(100 * DAY_MS)), []);
}

/// A gap that nobody can be asked for is one as long as its device is away, whatever its schedule.
#[test]
fn what_nobody_can_be_asked_for_is_held_open_while_it_grows() {
    let brief = Policy { waits_ms: vec![0], ..Policy::default() };
    let brief = Policies { usual: brief, ..Policies::default() };
    // As long as what comes next may take: an interval and what an agent has to send before.
    for (policies, open_ms) in [(Policies::default(), 45 * DAY_MS), (brief, INTERVAL_MS + 900_000)] {
        let mut world = World::new(&[], policies);
        world.recorded(0..10);
        for n in 10..30 {
            world.now = at(n);
            world.missed(n..n + 1);
            assert_eq!(world.asked(at(n)), []);
        }
        assert_eq!(world.gaps(), [(10, 30, missing("Open"), 0, None)], "one gap");
        let end = at(29).plus_ms(open_ms);
        assert_eq!(world.given_up(), [Some(end.since_ms(T0))], "of what is missing last");
        // What is cut off it stays as long.
        world.recorded(15..16);
        assert_eq!(world.asked(end.plus_ms(-1)), []);
        assert_eq!(world.given_up(), [Some(end.since_ms(T0)), None, Some(end.since_ms(T0))]);
        assert_eq!(world.asked(end), []);
        let stands: Vec<_> = world.gaps().into_iter().map(|gap| (gap.0, gap.1, gap.2)).collect();
        let (gone, filled) = (missing("Abandoned"), "Filled".to_owned());
        assert_eq!(stands, [(10, 15, gone.clone()), (15, 16, filled), (16, 30, gone)]);
        // What is missing afterwards is news.
        world.missed(30..31);
        assert_eq!(
            world.gaps().last().map(|gap| (gap.0, gap.1, gap.2.clone())),
            Some((30, 31, missing("Open")))
        );
    }
}

/// So is what is missing of a device that has a memory, and is asked no more.
#[test]
fn what_grows_of_a_device_that_is_asked_no_more_is_held_open_too() {
    for (retire, _, why, _) in &RETIRED[..3] {
        let mut world = with_a_hole(Policies::default());
        world.now = at(21);
        retire(&mut world);
        for n in 21..40 {
            world.now = at(n);
            world.missed(n..n + 1);
            assert_eq!(world.asked(at(n)), [], "{why}");
        }
        let last = world.gaps().pop();
        assert_eq!(last, Some((21, 40, missing("Open"), 0, None)), "{why}: one gap");
        let end = at(39).plus_ms(45 * DAY_MS);
        assert_eq!(world.given_up().pop(), Some(Some(end.since_ms(T0))), "{why}");
    }
}

/// What a logger tells of a time from before it was described in these words is kept, and fills what was missing then only
/// where it says the same of it.
#[test]
fn what_is_remembered_under_another_description_fills_only_what_was_due_as_such() {
    type Change = fn(&mut Channel);
    let rows: [(Change, bool); 5] = [
        (|_| {}, true),
        (|channel| channel.unit = "km/h".into(), true),
        (|channel| channel.quantity = "gust".into(), false),
        (|channel| channel.aggregation = Aggregation::Maximum, false),
        (|channel| channel.label = PeriodLabel::Start, false),
    ];
    for (change, is_filled) in rows {
        let mut world = with_a_hole(Policies::default());
        let asked = world.asked(at(21));
        change(&mut world.channel);
        world.describe(at(21));
        // Both what was asked for and what is recorded since.
        world.recorded(10..20);
        world.recorded(21..23);
        world.reply(asked[0].id, Outcome::Done);
        let mut world = world.restart();
        world.now = at(24);
        let expected = if is_filled { "Filled".to_owned() } else { missing("Requested") };
        assert_eq!(world.gaps()[0].2, expected, "{:?}", world.channel);
        assert_eq!(world.asked(at(40)), []);
        let expected = if is_filled { "Filled".to_owned() } else { missing("Waiting") };
        assert_eq!(world.gaps()[0].2, expected, "{:?}", world.channel);
        let sql = "SELECT count(*) FROM readings";
        let kept: i64 = world.committer.connection().query_row(sql, [], |r| r.get(0)).unwrap();
        assert_eq!(kept, 23, "nothing of it is lost");
        world.missed(23..30);
        world.recorded(30..31);
        world.recorded(23..30);
        assert_eq!(world.gaps()[1].2, "Filled", "what is missing since is filled as ever");
    }
}

#[test]
fn who_loses_the_memory_while_it_is_asked_leaves_no_request_behind() {
    let mut world = with_a_hole(Policies::default());
    let asked = world.asked(at(21));
    world.attributes.remove("history");
    let (hash, bytes) = wire::encode_catalog(&world.catalog());
    world.send(vec![Record::Catalog(CatalogRecord { hash, since: Some(at(21)), bytes })]);
    world.recorded(10..12);
    assert_eq!(world.gaps()[1].2, missing("Requested"));
    assert_eq!(world.asked(asked[0].expires), []);
    let left = world.gaps()[1].clone();
    assert_eq!((left.0, left.1, left.2), (12, 20, missing("Waiting")));
    let now = asked[0].expires.plus_ms(DAY_MS);
    assert_eq!(world.asked(now), [], "there is nobody to ask");
    let end = world.given_up()[1].unwrap();
    assert_eq!(end, asked[0].expires.since_ms(T0) + 10_000 + 45 * DAY_MS, "what is left of its schedule");
    assert_eq!(world.asked(T0.plus_ms(end)), []);
    assert_eq!(world.gaps()[1].2, missing("Abandoned"));
    assert_eq!(world.history(world.id_at(12)).last(), Some(&"abandoned"));
}

#[test]
fn a_database_that_was_put_back_asks_anew_under_numbers_that_no_agent_remembers() {
    let mut world = with_a_hole(Policies::default());
    let before = world.asked(at(21));
    let connection = world.committer.connection();
    connection.execute("INSERT INTO meta VALUES ('needs_incarnation', 1)", []).unwrap();
    let mut world = world.restart();
    world.be_born();
    let again = world.asked(at(22));
    assert_eq!(windows(&again), [(10, 20)]);
    assert!(again[0].id > before[0].id + u64::from(u32::MAX), "{} after {}", again[0].id, before[0].id);
    world.reply(before[0].id, Outcome::NoData);
    assert_eq!(world.gaps()[0].2, missing("Requested"), "an answer to what another life asked says nothing");
}

#[test]
fn the_complete_grid_says_of_each_slot_what_may_still_come() {
    let mut world = with_a_hole(Policies::default());
    let asked = world.asked(at(21));
    assert_eq!(world.absence(), [Some(Absence::Pending)]);
    // Slot 21 is due now, and nothing is known of it.
    let whole = world.grid();
    assert_eq!(whole.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..=21).collect::<Vec<_>>());
    assert_eq!((whole[9].1, whole[20].1, whole[21].1), (None, None, Some(Absence::Pending)));
    world.reply(asked[0].id, Outcome::NoData);
    assert_eq!(world.absence(), [Some(Absence::NoData)]);
    for _ in 1..4 {
        let next = world.gaps()[0].4.unwrap();
        let asked = world.asked(world.now.plus_ms(next));
        assert_eq!(world.absence(), [Some(Absence::Pending)]);
        world.reply(asked[0].id, Outcome::NoData);
    }
    assert_eq!(world.gaps()[0].2, missing("Abandoned"));
    assert_eq!(world.absence(), [Some(Absence::NoData)]);
    let meters = world.committer.store().meters(world.now).unwrap();
    assert_eq!((meters.gap_retries, meters.gap_events["no_data"], meters.gap_events["abandoned"]), (3, 4, 1));
    let count = meters.gaps.iter().map(|count| (count.gaps, count.slots, count.cause));
    assert_eq!(count.collect::<Vec<_>>(), [(1, 10, Cause::NoAnswer)]);
    world.recorded(12..20);
    assert_eq!(world.absence(), [Some(Absence::NoData), None]);

    // Nobody can be asked for what a device without memory missed; an agent that is away may still bring the rest.
    let mut world = World::new(&[], Policies::default());
    world.recorded(0..10);
    world.missed(10..20);
    world.now = at(40);
    assert_eq!(world.absence(), [Some(Absence::Missing)]);
    let whole = world.grid();
    assert_eq!((whole[20].1, whole[40].1), (Some(Absence::Unknown), Some(Absence::Pending)));
    assert_eq!(world.asked(T0.plus_ms(46 * DAY_MS)), []);
    assert_eq!(world.gaps()[0].2, missing("Abandoned"));
    assert_eq!(world.absence(), [Some(Absence::Missing)], "no source has said that it has nothing");
}

/// A world with a frame whose catalog has not come: the catalog, and what was asked of the agent.
fn with_unknown_catalog() -> (World, Catalog, Vec<Command>) {
    let mut world = World::new(&[], Policies::default());
    let mut catalog = world.catalog();
    catalog.devices[0].channels[0].id = ChannelId::new("gust").unwrap();
    let hash = wire::encode_catalog(&catalog).0;
    let records = vec![Record::Misses(Misses {
        device: DeviceIndex(0),
        first: slot(0),
        count: 1,
        cause: Cause::NoAnswer,
    })];
    let (agent, connection, epoch) = (path().tag(), ConnectionId(1), Epoch(1));
    let first = Seq(world.next);
    let frame = DataFrame { agent, connection, epoch, first, catalog: hash, records };
    let asked = world.take(Up::Data, wire::encode_data(&frame, &catalog).unwrap());
    assert!(asks_for(&asked, hash), "{asked:?}");
    (world, catalog, asked)
}

fn asks_for(commands: &[Command], hash: CatalogHash) -> bool {
    commands.iter().map(|command| command.body.clone()).collect::<Vec<_>>()
        == [CommandBody::SendCatalog(hash)]
}

/// What is asked for so many ms after the begin.
fn reminded(world: &mut World, after_ms: i64) -> Vec<Command> {
    world.now = T0.plus_ms(after_ms);
    commands(&world.committer.look_after_gaps(world.now).unwrap())
}

fn comes(world: &mut World, catalog: &Catalog) {
    let (hash, bytes) = wire::encode_catalog(catalog);
    world.take(Up::Catalog, wire::encode(&Message::Catalog { hash, bytes }).unwrap());
}

fn is_answered(world: &mut World, command: &Command, outcome: Outcome) {
    let reply = Reply { id: command.id, outcome };
    world.take(Up::Reply, wire::encode(&Message::Reply(reply)).unwrap());
}

#[test]
fn a_request_for_a_catalog_that_was_lost_on_its_way_is_sent_again() {
    let (mut world, catalog, asked) = with_unknown_catalog();
    let hash = wire::encode_catalog(&catalog).0;
    assert!(reminded(&mut world, 30_000).is_empty(), "it may be on its way");
    assert!(asks_for(&reminded(&mut world, 100_000), hash));
    assert!(reminded(&mut world, 130_000).is_empty(), "once a minute");
    comes(&mut world, &catalog);
    is_answered(&mut world, &asked[0], Outcome::Done);
    assert!(reminded(&mut world, 300_000).is_empty(), "it has come");
}

#[test]
fn a_catalog_that_was_lost_though_its_answer_came_is_asked_for_anew() {
    let (mut world, catalog, asked) = with_unknown_catalog();
    let hash = wire::encode_catalog(&catalog).0;
    is_answered(&mut world, &asked[0], Outcome::Done);
    assert!(reminded(&mut world, 30_000).is_empty(), "it may be on its way");
    let anew = reminded(&mut world, 100_000);
    assert!(asks_for(&anew, hash), "{anew:?}");
    assert!(anew[0].id > asked[0].id);
    comes(&mut world, &catalog);
    is_answered(&mut world, &anew[0], Outcome::Done);
    assert!(reminded(&mut world, 300_000).is_empty(), "it has come");
}
