//! An agent that lies: each row is what it sends, and what the operator sees of it. Nothing panics, nothing of it
//! reaches the honest agent beside it, what it can make the database keep is bounded, and it says the same after a
//! restart. The bytes themselves are `tests/src/hostile/wire.rs`'s; here the envelope is always sound.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

use gapless_collector::ingest::committer::Committer;
use gapless_collector::ingest::{Inbound, Outbound};
use gapless_collector::ledger::{EPOCHS_FINISHED_MAX, EPOCHS_UNFINISHED_MAX, MARKS_MAX};
use gapless_collector::store::ReadStore;
use gapless_collector::store::model::GapFilter;
use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::{
    AgentId, BootId, CatalogHash, ChannelId, ChannelIndex, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq,
    SiteId,
};
use gapless_common::message::{AgentState, DataFrame, HeldEpoch};
use gapless_common::quality::{Cause, Quality};
use gapless_common::reading::{
    Acquired, CatalogRecord, ClockCorrection, Completeness, Downtime, EpochStart, Loss, Misses, Readings,
    Record, Sample, Value,
};
use gapless_common::time::{Interval, Slot, SlotGrid, Timestamp};
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire::{self, Message};
use rusqlite::Connection;

/// 2026-01-01.
const NOW: Timestamp = Timestamp(1_767_225_600_000);
/// The slot of an hour before.
const T0: i64 = NOW.0 / 1_000 - 3_600;
const EPOCH: Epoch = Epoch(0xFEDC_BA98_7654_3210);
const YEAR_9999: Timestamp = Timestamp(253_370_764_800_000);

fn path(agent: &str) -> AgentPath {
    AgentPath { site: SiteId::new("farm").unwrap(), agent: AgentId::new(agent).unwrap() }
}

fn grid() -> SlotGrid {
    SlotGrid::every(Interval::from_ms(1_000).unwrap())
}

/// A catalog of one device per agent, so that they do not meet in a device.
fn catalog(device: &str, channels: usize) -> Catalog {
    let channel = |n| Channel {
        id: ChannelId::new(&format!("c{n}")).unwrap(),
        unit: "V".into(),
        quantity: "".into(),
        aggregation: Aggregation::Instant,
        label: PeriodLabel::End,
        attributes: [].into(),
    };
    let id = DeviceId::new(device).unwrap();
    let channels = (0..channels).map(channel).collect();
    Catalog { devices: vec![Device { id, grid: grid(), paused: false, channels, attributes: [].into() }] }
}

fn start(previous: Option<(Epoch, Seq)>, at: Timestamp) -> Record {
    let (boot, agent_version) = (BootId(5), "1".into());
    Record::Start(EpochStart {
        previous,
        boot,
        boot_clock_ms: 10,
        at,
        clock_set: true,
        durable: true,
        agent_version,
    })
}

fn in_force(catalog: &Catalog, since: Timestamp) -> Record {
    let (hash, bytes) = wire::encode_catalog(catalog);
    Record::Catalog(CatalogRecord { hash, since: Some(since), bytes })
}

fn reading(acquired: Acquired, at: Timestamp) -> Record {
    let quality =
        if matches!(acquired, Acquired::SinceBoot(_)) { Quality::UncertainClock } else { Quality::Good };
    let sample = Sample { channel: ChannelIndex(0), value: Some(Value::Number(1.0)), quality };
    Record::Readings(Readings { device: DeviceIndex(0), acquired, at, samples: vec![sample] })
}

fn polled(slot: i64) -> Record {
    reading(Acquired::InSlot(Slot(slot)), grid().at(Slot(slot)))
}

fn complete(slot: i64) -> Record {
    Record::Complete(Completeness { through: vec![(DeviceIndex(0), Slot(slot))] })
}

fn loss(first: u64, last: u64, from: Timestamp, to: Timestamp) -> Record {
    let (first, last, cause) = (Seq(first), Seq(last), Cause::BudgetFull);
    Record::Loss(Loss { epoch: EPOCH, first, last, from, to, cause })
}

fn correction(last: u64, boot_began: Timestamp) -> Record {
    let (boot, first, last) = (BootId(5), Seq(1), Seq(last));
    Record::ClockCorrection(ClockCorrection { boot, epoch: EPOCH, first, last, boot_began })
}

fn misses(first: i64, count: u32) -> Record {
    let (device, first, cause) = (DeviceIndex(0), Slot(first), Cause::NoAnswer);
    Record::Misses(Misses { device, first, count, cause })
}

fn downtime(from: Timestamp, to: Timestamp) -> Record {
    Record::Downtime(Downtime { from, to, cause: Cause::Crashed })
}

/// A frame of `agent`, whose device has its name.
fn frame_of(agent: &str, first: u64, records: Vec<Record>) -> Vec<u8> {
    let catalog = catalog(agent, 1);
    let frame = DataFrame {
        agent: path(agent).tag(),
        connection: ConnectionId(1),
        epoch: EPOCH,
        first: Seq(first),
        catalog: wire::encode_catalog(&catalog).0,
        records,
    };
    wire::encode_data(&frame, &catalog).unwrap()
}

fn frame(first: u64, records: Vec<Record>) -> (Up, Vec<u8>) {
    (Up::Data, frame_of("liar", first, records))
}

/// The liar's frame with one record, after its start and catalog.
fn one(record: Record) -> Vec<(Up, Vec<u8>)> {
    vec![frame(3, vec![record])]
}

/// A sound envelope around anything.
fn forged(first: u64, count: u64, flags: u8, payload: &[u8]) -> (Up, Vec<u8>) {
    let mut out = vec![0x47, 0xB7, 1, flags | (frame(1, vec![complete(T0)]).1[3] & 0x0F)];
    out.extend(1_u32.to_le_bytes());
    out.extend(path("liar").tag().0.to_le_bytes());
    out.extend(EPOCH.0.to_le_bytes());
    out.extend(wire::encode_catalog(&catalog("liar", 1)).0.0.to_le_bytes());
    for mut number in [first, count, u64::try_from(payload.len()).unwrap()] {
        while number > 0x7F {
            out.push(u8::try_from(number & 0x7F).unwrap() | 0x80);
            number >>= 7;
        }
        out.push(u8::try_from(number).unwrap());
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out), payload);
    out.extend(crc.to_le_bytes());
    out.extend(payload);
    (Up::Data, out)
}

fn birth(held: Vec<HeldEpoch>) -> (Up, Vec<u8>) {
    birth_as("liar", held)
}

fn birth_as(agent: &str, held: Vec<HeldEpoch>) -> (Up, Vec<u8>) {
    let state = AgentState::Birth {
        path: path(agent),
        connection: ConnectionId(1),
        agent_version: "1".into(),
        boot: BootId(5),
        epoch: held.last().map_or(EPOCH, |h| h.epoch),
        catalog: CatalogHash(1),
        held,
        durable: true,
        clock_set: true,
        flush_ms: u32::MAX,
    };
    (Up::State, wire::encode(&Message::State(state)).unwrap())
}

fn holds(epoch: u64, first: u64, next: u64) -> HeldEpoch {
    HeldEpoch { epoch: Epoch(epoch), first: Seq(first), next: Seq(next) }
}

struct Site {
    committer: Committer,
    honest_seq: u64,
}

impl Site {
    fn new() -> Self {
        let committer = Committer::from_connection(Connection::open_in_memory().unwrap(), 7).unwrap();
        let mut site = Self { committer, honest_seq: 3 };
        for agent in ["gw", "liar"] {
            let since = grid().at(Slot(T0));
            let opening = vec![start(None, since), in_force(&catalog(agent, 1), since)];
            site.send(agent, (Up::Data, frame_of(agent, 1, opening)));
        }
        site
    }

    /// Commits one message, and whatever it sets free, within what that may cost; returns the answers.
    fn send(&mut self, agent: &str, (kind, payload): (Up, Vec<u8>)) -> Vec<Outbound> {
        let message = Inbound { topic: path(agent).up(kind), payload, at: NOW, token: 1 };
        let mut answers = Vec::new();
        let cost = allocation_counter::measure(|| {
            let (answered, taken) = self.committer.attempt(&[message], NOW).unwrap();
            assert_eq!(taken, 1);
            answers = answered;
            while self.committer.owes_replay() {
                self.committer.replay(NOW).unwrap();
            }
        });
        let (bytes, requests) = (cost.bytes_max, cost.count_total);
        assert!(bytes <= COST_MAX.0 && requests <= COST_MAX.1, "{agent}: {bytes} bytes, {requests} requests");
        answers
    }

    fn restart(self) -> Self {
        let connection = self.committer.into_connection().unwrap();
        Self { committer: Committer::from_connection(connection, 8).unwrap(), ..self }
    }

    /// The honest agent polls on: its slot is stored, proven, and acknowledged.
    fn honest(&mut self) {
        let (first, slot) = (self.honest_seq, T0 + i64::try_from(self.honest_seq).unwrap());
        self.honest_seq += 2;
        let answers = self.send("gw", (Up::Data, frame_of("gw", first, vec![polled(slot), complete(slot)])));
        let acks = answers.iter().filter_map(|answer| match answer {
            Outbound::Publish { payload, .. } => Some(wire::decode(payload).unwrap()),
            Outbound::Release(_) => None,
        });
        let watermark = acks.filter_map(|message| match message {
            Message::Ack(ack) => Some(ack.epochs[0].watermark),
            _ => None,
        });
        assert_eq!(watermark.collect::<Vec<_>>(), [Seq(first + 1)]);
    }

    fn count(&self, sql: &str) -> i64 {
        self.committer.connection().query_row(sql, [], |r| r.get(0)).unwrap()
    }

    /// Why the liar's frames are parked, and how many of its messages were refused or damaged.
    fn seen(&self) -> (Vec<String>, u64, u64) {
        let store = self.committer.store();
        let mut parked: Vec<String> =
            store.parked(None, 10_000).unwrap().into_iter().map(|p| p.detail).collect();
        parked.dedup();
        let agents = store.agents(None).unwrap();
        let liar = agents.iter().find(|a| a.agent.as_str() == "liar").unwrap();
        (parked, liar.counters.refused, liar.counters.damaged)
    }

    /// Every question can be asked, and nothing is kept in proportion to what was claimed.
    fn is_sound(&self, name: &str) {
        let store = self.committer.store();
        store.stats().unwrap();
        store.conflicts(None, 100).unwrap();
        store.series(None, None).unwrap();
        let ends = [Timestamp(i64::MIN), Timestamp(0), NOW, YEAR_9999, Timestamp(i64::MAX)];
        for device in store.devices(None, NOW).unwrap().iter().take(10) {
            for (from, to) in ends.iter().zip(&ends[1..]).chain([(&ends[0], &ends[4])]) {
                store.strip(device.no, *from, *to, NOW).unwrap();
            }
        }
        let gaps = store.gaps(&GapFilter { limit: 1_000, ..GapFilter::default() }).unwrap();
        assert!(gaps.iter().all(|gap| gap.to <= NOW.plus_ms(2 * 86_400_000)), "{name}: {gaps:?}");
        for (table, most) in [("coverage", 100), ("gaps", 100), ("marks", i64::try_from(MARKS_MAX).unwrap())]
        {
            let rows = self.count(&format!("SELECT count(*) FROM {table}"));
            assert!(rows <= most, "{name}: {rows} rows of {table}");
        }
    }
}

/// What the operator sees: texts of parked frames, messages refused, messages damaged.
type Seen<'a> = (&'a [&'a str], u64, u64);

/// Memory that one message may need at a time, in bytes, and requests for memory, which stand for the work: of all that
/// is sent here a catalog of 70,000 channels needs the most, as long as it really is. A claim costs nothing, however great. What
/// SQLite takes beside it is bounded by what it is given.
const COST_MAX: (u64, u64) = (24 << 20, 300_000);

fn check(name: &str, sent: Vec<(Up, Vec<u8>)>, (parked, refused, damaged): Seen<'_>) {
    let mut site = Site::new();
    site.honest();
    for message in sent.clone() {
        site.send("liar", message);
    }
    site.is_sound(name);
    let expected: (Vec<String>, u64, u64) =
        (parked.iter().map(|&p| p.to_owned()).collect(), refused, damaged);
    assert_eq!(site.seen(), expected, "{name}");
    site.honest();
    let mut site = site.restart();
    site.committer.try_parked_again(NOW).unwrap();
    for message in sent {
        site.send("liar", message);
    }
    assert_eq!(site.seen().0, expected.0, "{name}, after a restart");
    site.is_sound(name);
    site.honest();
}

const OUTSIDE: &str = "an instant outside 1970 to 2200";
const LOSS: &str = "a loss of seqs that cannot be";

#[test]
fn who_it_says_it_is() {
    check("another agent's frame", vec![(Up::Data, frame_of("gw", 3, vec![polled(T0)]))], (&[], 1, 0));
    check("another agent's birth", vec![birth_as("gw", vec![holds(1, 1, 2)])], (&[], 1, 0));
}

#[test]
fn seqs_and_counts_that_cannot_be() {
    let malformed = "the content makes no sense: ";
    let parked = |why: &str| format!("{malformed}{why}");
    check(
        "a count of 2^40",
        vec![forged(3, 1 << 40, 0, &[])],
        (&[&parked("more records than a frame holds")], 0, 0),
    );
    for first in [(1 << 53) + 1, 1 << 63, u64::MAX - 1] {
        check("a seq beyond", vec![forged(first, 1, 0, &[])], (&[], 1, 0));
    }
    check("the last seq there is", vec![forged(u64::MAX, 1, 0, &[])], (&[], 0, 1));
    check("seq 0", vec![forged(0, 1, 0, &[])], (&[], 0, 1));
    let bomb = [0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 1, 2, 3];
    check("a bomb", vec![forged(3, 1, 0x10, &bomb)], (&[&parked("a payload beyond the bound")], 0, 0));
    let zeros = Message::Catalog { hash: CatalogHash(1), bytes: vec![0; 4_000_000].into() };
    check("a bomb of a catalog", vec![(Up::Catalog, wire::encode(&zeros).unwrap())], (&[], 0, 1));
}

#[test]
fn times_and_slots_that_cannot_be() {
    for at in [YEAR_9999, Timestamp(-1), Timestamp(i64::MAX), Timestamp(i64::MIN)] {
        check("a reading's time", one(reading(Acquired::InSlot(Slot(T0)), at)), (&[OUTSIDE], 0, 0));
        check("a start", vec![frame(3, vec![start(None, at)])], (&[OUTSIDE], 0, 0));
        check("a downtime from", one(downtime(at, NOW)), (&[OUTSIDE], 0, 0));
        check("a downtime to", one(downtime(NOW, at)), (&[OUTSIDE], 0, 0));
        check("a catalog", one(in_force(&catalog("liar", 1), at)), (&[OUTSIDE], 0, 0));
        check("a correction", one(correction(2, at)), (&[OUTSIDE], 0, 0));
        check("a loss from", one(loss(1, 2, at, NOW)), (&[OUTSIDE], 0, 0));
        check("a loss to", one(loss(1, 2, NOW, at)), (&[OUTSIDE], 0, 0));
    }
    for slot in [i64::MIN, -1, YEAR_9999.0 / 1_000, i64::MAX - 1, i64::MAX] {
        check("a slot", one(reading(Acquired::InSlot(Slot(slot)), NOW)), (&[OUTSIDE], 0, 0));
        check("a recorded slot", one(reading(Acquired::Recorded(Slot(slot)), NOW)), (&[OUTSIDE], 0, 0));
        check("misses", one(misses(slot.min(i64::MAX - 1), 1)), (&[OUTSIDE], 0, 0));
        check("a declaration", one(complete(slot)), (&[OUTSIDE], 0, 0));
    }
    let century = "a boot clock beyond a century";
    check("a boot clock", one(reading(Acquired::SinceBoot(u64::MAX), NOW)), (&[century], 0, 0));
}

#[test]
fn declarations_of_the_future() {
    let ahead = NOW.plus_ms(86_400_000 + 1_000);
    let slot = ahead.0 / 1_000;
    for record in [
        complete(slot),
        misses(T0, u32::MAX / 10),
        downtime(NOW, ahead),
        in_force(&catalog("liar", 1), ahead),
        correction(2, ahead),
    ] {
        check("the future", one(record), (&[], 0, 0));
    }
    check("within a day", one(complete(slot - 2)), (&[], 0, 0));
    check("a reading proves nothing", one(polled(slot + 1_000)), (&[], 0, 0));
}

/// A gateway's clock is ahead by years for a while: its readings are stored as its clock had them, and no slot that is
/// still to come is a gap.
#[test]
fn a_clock_that_is_ahead_costs_no_reading() {
    let mut site = Site::new();
    let (before, ahead) = (T0 + 10, T0 + 3 * 365 * 86_400);
    let count = u32::try_from(ahead - before - 1).unwrap();
    let stepped = Record::Misses(Misses {
        device: DeviceIndex(0),
        first: Slot(before + 1),
        count,
        cause: Cause::ClockStepped,
    });
    site.send("liar", frame(3, vec![polled(before), stepped, polled(ahead), complete(ahead)]));
    let back = before + 1..before + 8;
    let mut records: Vec<Record> = back.clone().filter(|slot| slot % 4 != 0).map(polled).collect();
    records.push(complete(back.end - 1));
    site.send("liar", frame(7, records));
    assert_eq!(site.seen(), (Vec::new(), 0, 0));
    assert_eq!(
        site.count("SELECT count(*) FROM readings"),
        2 + i64::try_from(back.filter(|slot| slot % 4 != 0).count()).unwrap()
    );
    site.is_sound("a step by years");
}

#[test]
fn losses_and_corrections_of_what_cannot_be() {
    check("all seqs", one(loss(1, u64::MAX, NOW, NOW)), (&[LOSS], 0, 0));
    check("what comes after", one(loss(1, 3, NOW, NOW)), (&["a loss of what was written after it"], 0, 0));
    let all = "a correction of seqs that cannot be";
    check("a correction of all", one(correction(u64::MAX, NOW)), (&[all], 0, 0));
    let end = Some((Epoch(1), Seq(u64::MAX)));
    check("an end", vec![frame(3, vec![start(end, NOW)])], (&["a seq that no epoch reaches"], 0, 0));
    let many = (0..2_000).map(|n| loss(1, 2, Timestamp(n), NOW)).collect();
    let why = "more catalogs, downtimes, losses and corrections than a frame may hold";
    check("2,000 losses", vec![frame(3, many)], (&[why], 0, 0));
}

#[test]
fn catalogs_that_are_not_what_they_say() {
    let (hash, bytes) = wire::encode_catalog(&catalog("other", 1));
    let record = |hash, bytes| Record::Catalog(CatalogRecord { hash, since: None, bytes });
    let another = record(CatalogHash(hash.0 ^ 1), bytes.clone());
    check("another's hash", one(another), (&["a catalog under another one's hash"], 0, 0));
    let torn = record(hash, bytes[..bytes.len() / 2].into());
    check("torn", one(torn), (&["a catalog that cannot be read"], 0, 0));
    let wide = |devices: usize, channels| {
        let device = |n: usize| catalog(&format!("d{n}"), channels).devices.remove(0);
        Catalog { devices: (0..devices).map(device).collect() }
    };
    check("a thousand devices", one(in_force(&wide(1_000, 5), NOW)), (&[], 0, 0));
    let many = "a catalog of more devices and channels than any gateway polls";
    check("70,000 channels", one(in_force(&wide(2, 35_000), NOW)), (&[many], 0, 0));
    let (hash, bytes) = wire::encode_catalog(&wide(2, 35_000));
    let asked = (Up::Catalog, wire::encode(&Message::Catalog { hash, bytes }).unwrap());
    check("70,000 channels that were asked for", vec![asked], (&[], 1, 0));
}

#[test]
fn births_that_cannot_be() {
    check("the end before the first", vec![birth(vec![holds(1, 5, 4)])], (&[], 0, 1));
    check("from seq 0", vec![birth(vec![holds(1, 0, 4)])], (&[], 1, 0));
    check("up to the end", vec![birth(vec![holds(1, 1, u64::MAX)])], (&[], 1, 0));
    let many = |n: u64| birth((0..256).map(|k| holds(1_000 * n + k, 1, 9)).collect());
    check("1,280 epochs, by turns", (1..=5).map(many).collect(), (&[], 2, 0));
    let mut site = Site::new();
    (1..=9).for_each(|n| drop(site.send("liar", many(n))));
    let epochs = site.count("SELECT count(*) FROM epochs");
    assert!(epochs <= i64::try_from(EPOCHS_UNFINISHED_MAX).unwrap() + 2, "{epochs}");
}

#[test]
fn agents_that_begin_anew_without_end() {
    // Epochs that are only named, and whole ones with a start and a reading each.
    let named = |n: u64| birth((0..256).map(|k| holds(1_000 * n + k, 1, 1)).collect());
    check("1,536 epochs that are empty", (1..=6).map(named).collect(), (&[], 0, 0));
    let mut site = Site::new();
    (1..=8).for_each(|n| drop(site.send("liar", named(n))));
    let kept = i64::try_from(EPOCHS_FINISHED_MAX).unwrap() + 256 + 2;
    let epochs = "SELECT count(*) FROM epochs";
    assert!(site.count(epochs) <= kept, "{}", site.count(epochs));

    let mut site = Site::new();
    let life = |n: u64| {
        let previous = (n > 1).then(|| (Epoch(n - 1), Seq(3)));
        let slot = T0 + i64::try_from(n).unwrap();
        let mut frame = frame(1, vec![start(previous, grid().at(Slot(slot))), polled(slot)]);
        frame.1[10..18].copy_from_slice(&n.to_le_bytes());
        reseal(&mut frame.1);
        frame
    };
    let lives = u64::try_from(EPOCHS_FINISHED_MAX).unwrap() + 200;
    for n in 1..=lives {
        site.send("liar", birth(vec![holds(n, 1, 3)]));
        site.send("liar", life(n));
    }
    assert!(site.count(epochs) <= i64::try_from(EPOCHS_FINISHED_MAX).unwrap() + 4, "{}", site.count(epochs));
    let mut site = site.restart();
    let readings = "SELECT count(*) FROM readings";
    let before = (site.count(readings), site.count(epochs));
    for n in [1, 50, 150] {
        let answers = site.send("liar", life(n));
        assert_eq!(answers.len(), 1, "a late repetition is answered");
    }
    assert_eq!((site.count(readings), site.count(epochs)), before);
    let agents = site.committer.store().agents(None).unwrap();
    let liar = agents.iter().find(|a| a.agent.as_str() == "liar").unwrap();
    assert_eq!((liar.missing_records, liar.counters.duplicates, liar.counters.refused), (0, 6, 0));
    site.honest();
}

/// Gives a message its checksum again.
fn reseal(bytes: &mut [u8]) {
    // Header of 26 bytes, then first seq, count and length in one byte each.
    let (head, rest) = bytes.split_at_mut(29);
    let crc = crc32c::crc32c_append(crc32c::crc32c(head), &rest[4..]);
    rest[..4].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn what_waits_is_bounded() {
    // A hole at seq 3: all of it waits.
    let flood = |n: u64| {
        let downs = (0..1_000).map(|k| downtime(Timestamp(1_000 * k), Timestamp(1_000 * k + 1)));
        frame(4 + n * 1_000, downs.collect())
    };
    check("downtimes that wait", (0..20).map(flood).collect(), (&[], 4, 0));
    let mut site = Site::new();
    (0..20).for_each(|n| drop(site.send("liar", flood(n))));
    site.send("liar", frame(3, vec![complete(T0)]));
    assert_eq!(site.count("SELECT count(*) FROM marks"), 0, "what they waited for is taken all the same");
}

#[test]
fn a_catalog_sets_free_what_waits_for_it_in_bounded_transactions() {
    let catalog = catalog("dense", 250);
    let (hash, bytes) = wire::encode_catalog(&catalog);
    let sample =
        |n| Sample { channel: ChannelIndex(n), value: Some(Value::Number(1.0)), quality: Quality::Good };
    let dense = |n: u64| {
        let first = T0 + 200 * i64::try_from(n).unwrap();
        let polled = |slot| {
            let (device, acquired, at) =
                (DeviceIndex(0), Acquired::InSlot(Slot(slot)), grid().at(Slot(slot)));
            Record::Readings(Readings { device, acquired, at, samples: (0..250).map(sample).collect() })
        };
        let (agent, connection, epoch, first_seq) = (path("liar").tag(), ConnectionId(1), EPOCH, 3 + 200 * n);
        let records = (first..first + 200).map(polled).collect();
        let frame = DataFrame { agent, connection, epoch, first: Seq(first_seq), catalog: hash, records };
        (Up::Data, wire::encode_data(&frame, &catalog).unwrap())
    };
    let mut site = Site::new();
    (0..6).for_each(|n| drop(site.send("liar", dense(n))));
    let (parked, readings) = ("SELECT count(*) FROM parked", "SELECT count(*) FROM readings");
    assert_eq!((site.count(parked), site.count(readings)), (6, 0));
    let payload = wire::encode(&Message::Catalog { hash, bytes }).unwrap();
    let message = Inbound { topic: path("liar").up(Up::Catalog), payload, at: NOW, token: 1 };
    site.committer.attempt(&[message], NOW).unwrap();
    assert_eq!((site.count(parked), site.count(readings)), (4, 100_000), "two of 50,000 rows");
    // Killed in the middle: it goes on with what is left.
    let mut site = site.restart();
    let mut transactions = 0;
    while site.committer.owes_replay() {
        site.committer.replay(NOW).unwrap();
        transactions += 1;
    }
    assert_eq!((site.count(parked), site.count(readings), transactions), (0, 300_000, 3));
    site.honest();
}
