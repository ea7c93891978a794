//! What grows: a usual site (10 TCP devices × 20 float32 and their evaluation time) at 100 times its speed, polled every
//! 100 ms instead of every 10 s, with agent, Mosquitto and collector as real processes. Memory, descriptors, the
//! bytes of outbox, database and write-ahead log are looked at every few seconds; at the end each has a slope per hour
//! by least squares, and is called flat or not. Afterwards every reading is audited.
//!
//! The collector's memory is judged once its writer's page cache (64 MiB) is full, which takes some 20 minutes; until
//! then it grows with the database, as it is meant to.
//!
//! Half an hour unless `GAPLESS_SOAK_MINUTES` says otherwise. Ends with an error where something grows.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use gapless_common::time::Interval;
use gapless_tests::site::{DeviceSpec, Place, Site, SiteSpec};
use gapless_tests::usage::{self, bytes_below};
use gapless_tests::{audit, wait};

const DEVICES: usize = 10;
const CHANNELS: u16 = 20;
const INTERVAL_MS: u64 = 100;
/// Between two looks.
const EVERY: Duration = Duration::from_secs(5);
/// One look in so many is printed.
const PRINT_ONE_IN: usize = 12;
/// Part of the run that is not counted: caches fill, the outbox grows to its budget, its files are made.
const WARM_UP: f64 = 0.25;
/// What may grow in an hour and is called flat all the same: a share of the mean, and where that is less a floor. And
/// what may grow within the run: one step of an allocator makes a steep slope in ten minutes.
const FLAT_SHARE: f64 = 0.05;
const FLAT_BYTES: f64 = 1e6;
const STEP_SHARE: f64 = 0.05;
/// A database of this size fills the page cache of its writer.
const CACHE_FULL_BYTES: f64 = 72e6;
/// Looks that make a slope.
const LOOKS_MIN: usize = 30;

/// One look at everything.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    hours: f64,
    readings: f64,
    agent: usage::Usage,
    collector: usage::Usage,
    outbox_bytes: f64,
    database_bytes: f64,
    wal_bytes: f64,
}

fn spec() -> SiteSpec {
    let device = |n: usize| DeviceSpec {
        name: format!("device-{n}"),
        unit: 1,
        channels: CHANNELS,
        interval: Interval::from_ms(INTERVAL_MS).expect("within bounds"),
        place: Place::Tcp(n),
    };
    let devices = (0..DEVICES).map(device).collect();
    // The least budget, which is reached while the run is young.
    SiteSpec { devices, budget: "1MiB".to_owned(), ..SiteSpec::default() }
}

fn length(name: &std::path::Path) -> f64 {
    std::fs::metadata(name).map_or(0.0, |meta| meta.len() as f64)
}

fn look(site: &mut Site, began: Instant) -> Sample {
    let agents = site.api().items("/api/v1/agents").expect("the API answers");
    let database = site.collector_folder().join("gapless.db");
    Sample {
        hours: began.elapsed().as_secs_f64() / 3_600.0,
        readings: agents.iter().filter_map(|agent| agent["readings"].as_f64()).sum(),
        agent: usage::of(site.agent().id()),
        collector: usage::of(site.collector().id()),
        outbox_bytes: bytes_below(&site.outbox_folder()) as f64,
        database_bytes: length(&database),
        wal_bytes: length(&database.with_extension("db-wal")),
    }
}

fn print(sample: &Sample) {
    println!(
        "{:6.1} min  {:9.0} readings  agent {:5.1} MB {:3} fds  collector {:6.1} MB {:3} fds  outbox {:5.2} MB  database {:7.2} MB  WAL {:5.2} MB",
        sample.hours * 60.0,
        sample.readings,
        sample.agent.rss_bytes as f64 / 1e6,
        sample.agent.descriptors,
        sample.collector.rss_bytes as f64 / 1e6,
        sample.collector.descriptors,
        sample.outbox_bytes / 1e6,
        sample.database_bytes / 1e6,
        sample.wal_bytes / 1e6,
    );
}

/// Mean, and slope by least squares, of points (x, y).
fn fit(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
    let above: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let below: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    (y, if below > 0.0 { above / below } else { 0.0 })
}

/// Prints a slope per hour; whether it is flat.
fn judge(what: &str, samples: &[Sample], floor: f64, unit: (f64, &str), of: impl Fn(&Sample) -> f64) -> bool {
    let points: Vec<_> = samples.iter().map(|sample| (sample.hours, of(sample))).collect();
    if points.len() < LOOKS_MIN {
        println!("{what:<22} not judged: {} looks", points.len());
        return true;
    }
    let (mean, slope) = fit(&points);
    let hours = points[points.len() - 1].0 - points[0].0;
    let flat = slope <= floor.max(mean * FLAT_SHARE) || slope * hours <= mean * STEP_SHARE;
    let word = if flat { "flat" } else { "GROWS" };
    println!(
        "{what:<22} mean {:9.2} {}, {:+9.3} {} an hour: {word}",
        mean / unit.0,
        unit.1,
        slope / unit.0,
        unit.1
    );
    flat
}

/// Bytes of the database for each reading more, in the first and the second half: a database that is stored in an
/// ever dearer way shows here.
fn judge_database(samples: &[Sample]) -> bool {
    let cost = |half: &[Sample]| {
        let points: Vec<_> = half.iter().map(|s| (s.readings, s.database_bytes)).collect();
        fit(&points).1
    };
    let (first, second) = samples.split_at(samples.len() / 2);
    let (all, before, after) = (cost(samples), cost(first), cost(second));
    let flat = after <= before * (1.0 + 2.0 * FLAT_SHARE);
    let word = if flat { "flat" } else { "GROWS" };
    println!(
        "database               {all:.1} bytes a reading; {before:.1} in the first half, {after:.1} in the second: {word}"
    );
    flat
}

fn main() -> ExitCode {
    let minutes = std::env::var("GAPLESS_SOAK_MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let length = Duration::from_secs(60 * minutes);
    println!("{DEVICES} TCP devices x {CHANNELS} float32 every {INTERVAL_MS} ms for {minutes} min");
    let mut site = Site::new(spec());
    site.start_collector();
    site.start_agent();
    wait::until_true("polling", Duration::from_secs(60), || site.tcp.iter().all(|s| s.stats().requests > 20));
    let began = Instant::now();
    let mut samples = Vec::new();
    while began.elapsed() < length {
        std::thread::sleep(EVERY);
        let sample = look(&mut site, began);
        if samples.len() % PRINT_ONE_IN == 0 {
            print(&sample);
        }
        samples.push(sample);
    }
    samples.last().iter().for_each(|sample| print(sample));
    let total = began.elapsed().as_secs_f64() / 3_600.0;
    let counted: Vec<_> = samples.into_iter().filter(|sample| sample.hours >= total * WARM_UP).collect();
    println!("\n{} looks, the first {:.0} % of the run left out:", counted.len(), WARM_UP * 100.0);
    const MB: (f64, &str) = (1e6, "MB");
    let cached = counted.iter().position(|s| s.database_bytes >= CACHE_FULL_BYTES).unwrap_or(counted.len());
    let verdicts = [
        judge("agent RSS", &counted, FLAT_BYTES, MB, |s| s.agent.rss_bytes as f64),
        judge("collector RSS", &counted[cached..], FLAT_BYTES, MB, |s| s.collector.rss_bytes as f64),
        judge("agent descriptors", &counted, 1.0, (1.0, "fds"), |s| s.agent.descriptors as f64),
        judge("collector descriptors", &counted, 1.0, (1.0, "fds"), |s| s.collector.descriptors as f64),
        judge("outbox", &counted, FLAT_BYTES, MB, |s| s.outbox_bytes),
        judge("write-ahead log", &counted, FLAT_BYTES, MB, |s| s.wal_bytes),
        judge_database(&counted),
    ];
    let compared: u64 = audit::stop_and_audit(&mut site, Duration::from_secs(300))
        .iter()
        .map(|account| account.compared)
        .sum();
    println!("{compared} readings compared bit for bit with what was measured");
    if verdicts.iter().all(|flat| *flat) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
