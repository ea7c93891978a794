//! What durability costs: the outbox's stores and SQLite as their peer, each batch durable before the next.
//!
//! `cargo bench -p gapless-tests --bench outbox`. `OUTBOX_BENCH_BATCHES` (default 5000) and
//! `OUTBOX_BENCH_OUTAGE` (default 20000) set the number of batches, `OUTBOX_BENCH_DIR` the directory. Power cuts are
//! not simulated here: the journal's own tests do that at every operation (`outbox::journal::tests`).
//!
//! **What is counted.** *Process*: `write_bytes` of `/proc/self/io`, that is 4 KiB for each page that this process made
//! dirty in the page cache, once for each sync that wrote it; other processes do not disturb it, and the file
//! system's own journal is not in it. *Device*: sectors that `/proc/diskstats` counts for the device of the directory:
//! the file system's journal is in it, and so is every other writer, so it means something on a quiet machine only.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use gapless_agent::outbox::{self, NewRecord, Opening, Options, Outbox, ReadLimits, StoreKind};
use gapless_common::id::{BootId, CatalogHash, Epoch, Seq};
use gapless_common::time::Timestamp;
use rusqlite::Connection;

/// Bytes of a batch, as in the design's table.
const BATCH_BYTES: usize = 600;
/// The product's load: a batch a second, 200 readings, ten devices.
const PRODUCT_BATCH_BYTES: usize = 900;
const PRODUCT_READINGS: u64 = 200;
/// A small budget, so that the store has soon grown to it.
const PRODUCT_BUDGET_BYTES: u64 = 4 << 20;

/// A store that takes batches.
trait Store {
    fn append(&mut self, batch: &[u8]) -> Result<()>;
    /// Delivers all that is held, as after an outage.
    fn drain(&mut self) -> Result<()>;
}

struct Ours(Box<dyn Outbox>);

impl Ours {
    fn open(directory: &Path, epoch: u64, store: StoreKind, budget_bytes: u64) -> Result<Self> {
        let options = Options { budget_bytes, store, ..Options::default() };
        let opening = Opening { epoch: Epoch(epoch), boot: BootId(1) };
        Ok(Self(outbox::open(directory, &options, opening)?.outbox))
    }
}

impl Store for Ours {
    fn append(&mut self, batch: &[u8]) -> Result<()> {
        let record = NewRecord {
            kind: 1,
            at: Timestamp(0),
            from: Timestamp(0),
            catalog: CatalogHash(1),
            is_essential: false,
            bytes: batch,
        };
        self.0.append(&[record])?;
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        let mut from = Seq(1);
        let mut records = Vec::new();
        loop {
            records.clear();
            let limits = ReadLimits { bytes: 48 << 10, records: 1000 };
            self.0.read(Epoch(1), from, limits, &mut records)?;
            let Some(last) = records.last() else { break };
            self.0.acknowledge(Epoch(1), last.seq, &[]);
            from = last.seq.next();
        }
        self.append(b"the cursor rides with this")
    }
}

struct Sqlite(Connection);

impl Sqlite {
    fn open(directory: &Path) -> Result<Self> {
        let db = Connection::open(directory.join("outbox.db"))?;
        db.execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE records (seq INTEGER PRIMARY KEY, bytes BLOB NOT NULL);",
        )?;
        Ok(Self(db))
    }
}

impl Store for Sqlite {
    fn append(&mut self, batch: &[u8]) -> Result<()> {
        self.0.prepare_cached("INSERT INTO records (bytes) VALUES (?1)")?.execute([batch])?;
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        while self
            .0
            .prepare_cached(
                "DELETE FROM records WHERE seq IN (SELECT seq FROM records ORDER BY seq LIMIT 80)",
            )?
            .execute([])?
            > 0
        {}
        self.0.execute_batch("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);")?;
        Ok(())
    }
}

/// Bytes that the device of `directory` has written since boot (kernel: `Documentation/admin-guide/iostats.rst`, field
/// 7, sectors of 512 bytes).
fn device_bytes(directory: &Path) -> Result<u64> {
    let device = rustix::fs::stat(directory)?.st_dev;
    let (major, minor) = (rustix::fs::major(device).to_string(), rustix::fs::minor(device).to_string());
    let stats = std::fs::read_to_string("/proc/diskstats")?;
    let mut lines = stats.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines
        .find(|fields| fields.first() == Some(&major.as_str()) && fields.get(1) == Some(&minor.as_str()))
        .context("the directory is not on a block device: set OUTBOX_BENCH_DIR")?;
    let sectors: u64 = line.get(9).context("short line in /proc/diskstats")?.parse()?;
    Ok(sectors * 512)
}

/// User and system time of this process, in seconds.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    std::time::Duration::try_from(time).map_or(0.0, |d| d.as_secs_f64())
}

/// Blocks that a directory takes, in bytes.
fn space(directory: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += if meta.is_dir() { space(&entry.path())? } else { meta.blocks() * 512 };
    }
    Ok(bytes)
}

/// Bytes that do not compress and do not repeat.
fn batch(n: u64, len: usize) -> Vec<u8> {
    let mut state = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| step()).take(len).collect()
}

struct Row {
    process_per_payload: f64,
    device_per_payload: f64,
    cpu_per_20k: f64,
    appends_per_s: f64,
    space_full: u64,
    space_drained: u64,
}

fn measure(
    parent: &Path,
    open: &dyn Fn(&Path) -> Result<Box<dyn Store>>,
    (batches, outage): (u64, u64),
) -> Result<Row> {
    let directory = tempfile::tempdir_in(parent)?;
    let mut store = open(directory.path())?;
    rustix::fs::sync();
    let (before, cpu, began) = (Written::now(parent)?, cpu_seconds(), Instant::now());
    for n in 0..batches {
        store.append(&batch(n, BATCH_BYTES))?;
    }
    let (cpu, took) = (cpu_seconds() - cpu, began.elapsed());
    rustix::fs::sync();
    let (process, device) = Written::now(parent)?.since(&before, batches * BATCH_BYTES as u64);
    drop(store);
    drop(directory);
    let directory = tempfile::tempdir_in(parent)?;
    let mut store = open(directory.path())?;
    for n in 0..outage {
        store.append(&batch(n, BATCH_BYTES))?;
    }
    let space_full = space(directory.path())?;
    store.drain()?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    Ok(Row {
        process_per_payload: process,
        device_per_payload: device,
        cpu_per_20k: cpu * 20_000.0 / batches as f64,
        appends_per_s: batches as f64 / took.as_secs_f64(),
        space_full,
        space_drained: space(directory.path())?,
    })
}

/// Bytes of the pages that this process made dirty (proc(5), `/proc/pid/io`).
fn process_bytes() -> Result<u64> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.context("/proc/self/io has no write_bytes")?.parse()?)
}

/// What has been written so far.
struct Written {
    process: u64,
    device: u64,
}

impl Written {
    fn now(directory: &Path) -> Result<Self> {
        Ok(Self { process: process_bytes()?, device: device_bytes(directory)? })
    }

    /// Bytes written since `before` by the process and to the device, for each of `units`.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn since(&self, before: &Self, units: u64) -> (f64, f64) {
        let per_unit = |now: u64, then: u64| (now - then) as f64 / units as f64;
        (per_unit(self.process, before.process), per_unit(self.device, before.device))
    }
}

/// One batch of the product: ten records, acknowledged at once, so that the cursor moves with every append.
fn append_product(outbox: &mut dyn Outbox, n: u64) -> Result<()> {
    let epoch = outbox.epoch();
    let bytes = batch(n, PRODUCT_BATCH_BYTES);
    let record = |bytes| NewRecord {
        kind: 1,
        at: Timestamp(0),
        from: Timestamp(0),
        catalog: CatalogHash(1),
        is_essential: false,
        bytes,
    };
    let records: Vec<_> = bytes.chunks(PRODUCT_BATCH_BYTES / 10).map(record).collect();
    let last = outbox.append(&records)?;
    outbox.acknowledge(epoch, last, &[]);
    Ok(())
}

/// The product's own load, without the pauses: while the store grows to its budget, after that, and after a restart.
fn measure_product(parent: &Path, batches: u64) -> Result<()> {
    let directory = tempfile::tempdir_in(parent)?;
    let open = |epoch| Ours::open(directory.path(), epoch, StoreKind::Journal, PRODUCT_BUDGET_BYTES);
    let has_grown = |outbox: &dyn Outbox| outbox.held()[0].first > Seq(1);
    let mut ours = open(1)?;
    measure_phase(parent, "while the store grows", ours.0.as_mut(), &|outbox, _| has_grown(outbox))?;
    measure_phase(parent, "once it has grown", ours.0.as_mut(), &|_, count| count == batches)?;
    drop(ours);
    let mut ours = open(2)?;
    measure_phase(parent, "after a restart", ours.0.as_mut(), &|_, count| count == batches)
}

/// Appends batches until `is_done`, and says what that cost.
fn measure_phase(
    parent: &Path,
    name: &str,
    outbox: &mut dyn Outbox,
    is_done: &dyn Fn(&dyn Outbox, u64) -> bool,
) -> Result<()> {
    rustix::fs::sync();
    let (before, handed, mut count) = (Written::now(parent)?, outbox.stats().written_bytes, 0);
    while !is_done(outbox, count) {
        append_product(outbox, count)?;
        count += 1;
    }
    rustix::fs::sync();
    let readings = count * PRODUCT_READINGS;
    let (process, device) = Written::now(parent)?.since(&before, readings);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let handed = (outbox.stats().written_bytes - handed) as f64 / readings as f64;
    println!(
        "  {name}: process {process:.1}, device {device:.1} bytes a reading; {handed:.1} handed to the file system"
    );
    Ok(())
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

type Open = Box<dyn Fn(&Path) -> Result<Box<dyn Store>>>;

fn main() -> Result<()> {
    let parent = std::env::var_os("OUTBOX_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let scale = (number("OUTBOX_BENCH_BATCHES", 5_000), number("OUTBOX_BENCH_OUTAGE", 20_000));
    let ours = |store, budget| -> Open {
        Box::new(move |directory: &Path| {
            Ok(Box::new(Ours::open(directory, 1, store, budget)?) as Box<dyn Store>)
        })
    };
    let stores: Vec<(&str, Open)> = vec![
        ("journal, 256 MiB budget", ours(StoreKind::Journal, 256 << 20)),
        ("journal, 4 MiB budget (recycles)", ours(StoreKind::Journal, 4 << 20)),
        ("sled, rolled", ours(StoreKind::Sled, 256 << 20)),
        (
            "SQLite WAL, synchronous=FULL",
            Box::new(|d: &Path| Ok(Box::new(Sqlite::open(d)?) as Box<dyn Store>)),
        ),
    ];
    println!(
        "{} batches of {BATCH_BYTES} bytes, each durable before the next; outage of {} batches; in {}",
        scale.0,
        scale.1,
        parent.display()
    );
    println!(
        "{:34} {:>15} {:>14} {:>12} {:>10} {:>12} {:>12}",
        "store", "process/payload", "device/payload", "CPU s/20k", "appends/s", "MB full", "MB drained"
    );
    for (name, open) in stores {
        match measure(&parent, &open, scale) {
            #[expect(clippy::cast_precision_loss, reason = "figures for people")]
            Ok(row) => println!(
                "{name:34} {:>15.1} {:>14.1} {:>12.2} {:>10.0} {:>12.1} {:>12.1}",
                row.process_per_payload,
                row.device_per_payload,
                row.cpu_per_20k,
                row.appends_per_s,
                row.space_full as f64 / 1e6,
                row.space_drained as f64 / 1e6
            ),
            Err(e) => println!("{name:34} {e:#}"),
        }
    }
    println!(
        "A drained journal keeps its archive: the space is the budget's, and given to the next records."
    );
    println!(
        "Product's load: batches of 10 records, {PRODUCT_BATCH_BYTES} bytes, {PRODUCT_READINGS} readings"
    );
    measure_product(&parent, scale.0)
}
