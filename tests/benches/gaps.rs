//! What it costs to find gaps: by slots (10^5 to 10^8) at the same number of gaps, and by gaps at the same number of slots,
//! beside a query over the readings that finds the same. `cargo bench -p gapless-tests --bench gaps`. The committer is the
//! real one, over a database in memory; that its slots were received is written there beforehand, as the runs that they make.

#![expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "a bench prints its table, and ends where something is not as it should be"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gapless_collector::ingest::Inbound;
use gapless_collector::ingest::committer::Committer;
use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::{
    AgentId, BootId, ChannelId, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq, SiteId,
};
use gapless_common::message::{AgentState, DataFrame, HeldEpoch};
use gapless_common::reading::{CatalogRecord, Completeness, EpochStart, Record};
use gapless_common::time::{Interval, SlotGrid, Timestamp};
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire::{self, Message};
use rusqlite::Connection;

/// 2022-01-01T00:00:00Z: three years of seconds later lies 2025.
const T0: Timestamp = Timestamp(1_640_995_200_000);
/// Slots of a gap.
const HOLE: i64 = 3;
/// More slots are too many rows for the query.
const QUERIED_MAX: i64 = 10_000_000;

fn path() -> AgentPath {
    AgentPath { site: SiteId::new("farm").unwrap(), agent: AgentId::new("gw").unwrap() }
}

fn grid() -> SlotGrid {
    SlotGrid::every(Interval::from_ms(1_000).unwrap())
}

fn catalog() -> Catalog {
    let channel = Channel {
        id: ChannelId::new("speed").unwrap(),
        unit: "m/s".into(),
        quantity: "".into(),
        aggregation: Aggregation::Mean,
        label: PeriodLabel::End,
        attributes: BTreeMap::new(),
    };
    let attributes = BTreeMap::from([("history".to_owned(), "campbell".to_owned())]);
    let id = DeviceId::new("mast").unwrap();
    Catalog { devices: vec![Device { id, grid: grid(), paused: false, channels: vec![channel], attributes }] }
}

fn take(committer: &mut Committer, kind: Up, payload: Vec<u8>, now: Timestamp) {
    let message = Inbound { topic: path().up(kind), payload, at: now, token: 1 };
    assert_eq!(committer.attempt(&[message], now).unwrap().1, 1);
}

fn send(committer: &mut Committer, first: u64, records: Vec<Record>, now: Timestamp) {
    let (catalog, connection) = (catalog(), ConnectionId(1));
    let hash = wire::encode_catalog(&catalog).0;
    let (agent, epoch, first) = (path().tag(), Epoch(1), Seq(first));
    let frame = DataFrame { agent, connection, epoch, first, catalog: hash, records };
    take(committer, Up::Data, wire::encode_data(&frame, &catalog).unwrap(), now);
}

/// The runs of `slots` slots between so many gaps.
fn runs(slots: i64, gaps: i64) -> impl Iterator<Item = (i64, i64)> {
    let (begin, each) = (grid().first_from(T0).0, slots / (gaps + 1));
    (0..=gaps).map(move |n| {
        let last = if n == gaps { slots } else { (n + 1) * each - HOLE };
        (begin + n * each, begin + last - 1)
    })
}

/// How long it takes to find the gaps, and to ask for what is due of them.
fn ledger(slots: i64, gaps: i64) -> (Duration, Duration) {
    let now = T0.plus_ms(slots * 1_000);
    let mut committer = Committer::from_connection(Connection::open_in_memory().unwrap(), 7).unwrap();
    let (hash, bytes) = wire::encode_catalog(&catalog());
    let state = AgentState::Birth {
        path: path(),
        connection: ConnectionId(1),
        agent_version: "1".into(),
        boot: BootId(5),
        epoch: Epoch(1),
        catalog: hash,
        held: vec![HeldEpoch { epoch: Epoch(1), first: Seq(1), next: Seq(1) }],
        durable: true,
        clock_set: true,
        flush_ms: 0,
    };
    take(&mut committer, Up::State, wire::encode(&Message::State(state)).unwrap(), now);
    let start = EpochStart {
        previous: None,
        boot: BootId(5),
        boot_clock_ms: 10,
        at: T0,
        clock_set: true,
        durable: true,
        agent_version: "1".into(),
    };
    let in_force = CatalogRecord { hash, since: Some(T0), bytes };
    send(&mut committer, 1, vec![Record::Start(start), Record::Catalog(in_force)], now);
    {
        let connection = committer.connection();
        let sql = "INSERT INTO coverage (grid, first_slot, last_slot, state) SELECT id, ?1, ?2, 1 FROM grids";
        let mut insert = connection.prepare(sql).unwrap();
        connection.execute_batch("BEGIN").unwrap();
        runs(slots, gaps).for_each(|run| assert_eq!(insert.execute(run).unwrap(), 1));
        connection.execute_batch("COMMIT").unwrap();
    }
    let through = vec![(DeviceIndex(0), grid().first_from(T0).plus(slots - 1))];
    let began = Instant::now();
    send(&mut committer, 3, vec![Record::Complete(Completeness { through })], now);
    let found = began.elapsed();
    let count: i64 = committer.connection().query_row("SELECT count(*) FROM gaps", [], |r| r.get(0)).unwrap();
    assert_eq!(count, gaps);
    let began = Instant::now();
    committer.look_after_gaps(now).unwrap();
    (found, began.elapsed())
}

/// How long a query over all readings takes that finds the same.
fn query(slots: i64, gaps: i64) -> Duration {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch("CREATE TABLE readings (slot INTEGER PRIMARY KEY); BEGIN").unwrap();
    let mut insert = connection.prepare("INSERT INTO readings VALUES (?1)").unwrap();
    runs(slots, gaps).flat_map(|(first, last)| first..=last).for_each(|slot| {
        insert.execute([slot]).unwrap();
    });
    connection.execute_batch("COMMIT").unwrap();
    let sql = "SELECT count(*) FROM (SELECT slot, lead(slot) OVER (ORDER BY slot) AS next FROM readings)
        WHERE next > slot + 1";
    let began = Instant::now();
    let count: i64 = connection.query_row(sql, [], |r| r.get(0)).unwrap();
    assert_eq!(count, gaps);
    began.elapsed()
}

fn row(slots: i64, gaps: i64) {
    let (found, asked) = ledger(slots, gaps);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (queried, ratio) = if slots <= QUERIED_MAX {
        let queried = query(slots, gaps);
        (format!("{:.1}", ms(queried)), format!("{:.0}", ms(queried) / ms(found)))
    } else {
        ("-".to_owned(), "-".to_owned())
    };
    println!(
        "| {slots} | {gaps} | {:.2} | {:.1} | {:.2} | {queried} | {ratio} |",
        ms(found),
        ms(found) * 1e3 / gaps as f64,
        ms(asked)
    );
}

fn main() {
    println!("| slots | gaps | found, ms | a gap, us | asked for, ms | query over readings, ms | ratio |");
    println!("|---|---|---|---|---|---|---|");
    for slots in [100_000, 1_000_000, 10_000_000, 100_000_000] {
        row(slots, 1_000);
    }
    for gaps in [10, 100, 10_000, 100_000] {
        row(10_000_000, gaps);
    }
}
