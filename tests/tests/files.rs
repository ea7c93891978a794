//! Files that loggers write, the whole way with real processes: tailed while they grow, are rotated, replaced and spoilt,
//! and read again for what was missed while the agent was away and the program was changed, by clocks that are wrong and drift.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail its test")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::time::Duration;

use gapless_common::time::Timestamp;
use gapless_simulators::campbell::Cell;
use gapless_simulators::files::{Encoding, FileConfig, FileLogger, Format};
use gapless_tests::api::Api;
use gapless_tests::site::{SITE, Site, SiteSpec};
use gapless_tests::{settle, wait};

const SOON: Duration = Duration::from_secs(60);
const FIELDS: usize = 4;

/// All stored instants of a device with the number of their fields; each value is the logger's, and none is there twice.
fn stored(api: &Api, device: &str, logger: &FileLogger) -> BTreeMap<i64, usize> {
    let readings = match api.readings(&format!("{SITE}/{device}/*")) {
        Err(why) if why.contains("there is no series") => Vec::new(),
        told => told.expect("the API answers"),
    };
    let (mut counts, mut seen) = (BTreeMap::new(), BTreeMap::new());
    for reading in readings {
        let truth = logger.truth(reading.series.rsplit('/').next().unwrap(), reading.at_ms).unwrap();
        let is_true = match truth {
            Cell::Number(truth) => {
                reading.quality == "good" && reading.value.as_f64().map(f64::to_bits) == Some(truth.to_bits())
            }
            Cell::Nan => reading.quality == "bad_invalid" && reading.value.is_null(),
            Cell::Infinite => reading.quality == "bad_out_of_range" && reading.value.is_null(),
        };
        assert!(is_true, "{reading:?}, and true is {truth:?}");
        assert_eq!(seen.insert((reading.at_ms, reading.series.clone()), ()), None, "told twice: {reading:?}");
        *counts.entry(reading.at_ms).or_default() += 1;
    }
    counts
}

#[test]
fn every_row_of_every_file_is_stored_and_what_was_missed_comes_back_by_itself() {
    let spec = SiteSpec { devices: Vec::new(), ..SiteSpec::default() };
    let mut site = Site::new(spec);
    let config = FileConfig {
        folder: site.path("share"),
        name: "Met".to_owned(),
        encoding: Encoding::Latin1,
        interval_ms: 1_000,
        zone_ms: -7 * 3_600_000,
        // Somewhat behind, and half a second a minute too fast.
        wrong_by_ms: -700,
        speed_ppm: 1_008_000,
        fields: FIELDS,
        history_ms: 60_000,
        rotate: 3,
        // Half a minute of rows, and no more.
        keep: 9,
        bad: 5,
        is_halved: true,
        ..FileConfig::default()
    };
    let other = FileConfig {
        name: "Power".to_owned(),
        format: Format::Csv,
        encoding: Encoding::Utf8,
        rotate: 0,
        replace: 4,
        is_halved: false,
        seed: 2,
        ..config.clone()
    };
    let mut met = FileLogger::start(config).unwrap();
    let mut meter = FileLogger::start(other).unwrap();
    let path = site.path("agent.toml");
    let mut text = std::fs::read_to_string(&path).unwrap();
    let _ = write!(
        text,
        "\n[[bus]]\nid = \"share\"\nfolder = \"{}\"\ninterval = \"1s\"\n\
         [[bus.device]]\nid = \"met\"\nfiles = \"Met*.dat\"\nformat = \"toa5\"\nencoding = \"latin-1\"\n\
         zone = \"-07:00\"\nfirst = \"3s\"\nlate = \"3s\"\nchannels = \"all\"\n\
         [[bus.device]]\nid = \"meter\"\nfiles = \"Power.dat\"\nformat = \"csv\"\ntime = \"time\"\nzone = \"-07:00\"\n\
         first = \"3s\"\nchannels = \"all\"\n",
        site.path("share").display()
    );
    std::fs::write(&path, text).unwrap();
    site.start_collector();
    site.start_agent();
    let api = site.api();
    let whole = |device: &str, logger: &FileLogger| -> Vec<i64> {
        stored(&api, device, logger).into_iter().filter(|(_, n)| *n == FIELDS).map(|(at, _)| at).collect()
    };
    let begun = settle::now();
    wait::until("some rows of both", SOON, || {
        let rows = (whole("met", &met), whole("meter", &meter));
        let is_it = |rows: &[i64]| rows.last().is_some_and(|last| *last > begun.0 + 6_000);
        if is_it(&rows.0) && is_it(&rows.1) { Ok(()) } else { Err((rows.0.len(), rows.1.len())) }
    });
    site.stop_agent();
    let down = settle::now();
    wait::until_true("some rows of the old program", SOON, || settle::now().since_ms(down) > 4_000);
    met.change_program();
    wait::until_true("more than what is read at the start", SOON, || settle::now().since_ms(down) > 8_000);
    site.start_agent();
    let back = settle::now();
    let rows = wait::until("what was missed", SOON, || {
        let rows = whole("met", &met);
        let is_there = rows.last().is_some_and(|last| *last > back.0 + 2_000);
        match rows.windows(2).find(|two| two[1] - two[0] != 1_000) {
            None if is_there => Ok(rows),
            hole => Err(hole.map(|two| (Timestamp(two[0]), Timestamp(two[1])))),
        }
    });
    assert!(rows.len() > 20, "{} rows", rows.len());
    // What was written while nobody read, by the old program and by the new one, with the field that each has alone.
    let missed: Vec<i64> = rows.into_iter().filter(|at| (down.0..back.0).contains(at)).collect();
    let has = |field: &str| {
        let readings = api.readings(&format!("{SITE}/met/{field}")).expect("the API answers");
        let at: Vec<i64> = readings.into_iter().map(|reading| reading.at_ms).collect();
        missed.iter().filter(|missed| at.contains(missed)).count()
    };
    let (old, new) = (has("WindDir_D1_WVT"), has("Added_1_Avg"));
    assert!(old >= 3 && new >= 3 && old + new == missed.len(), "{old} and {new} of {}", missed.len());
    let oldest = || {
        let names = std::fs::read_dir(site.path("share")).unwrap().flatten().map(|file| file.file_name());
        let number =
            |name: OsString| name.to_str()?.strip_prefix("Met_")?.strip_suffix(".dat")?.parse::<u32>().ok();
        names.filter_map(number).min()
    };
    wait::until_true("the oldest file is gone", SOON, || oldest().is_some_and(|no| no > 1));
    assert!(whole("meter", &meter).last().is_some_and(|last| *last > back.0), "the replaced file is read on");
    met.stop().unwrap();
    meter.stop().unwrap();
    site.stop_agent();
    site.stop_collector();
    let log = std::fs::read_to_string(site.path("agent.log")).unwrap();
    let skipped =
        log.lines().filter(|line| line.contains("the line is skipped") && line.contains("cells")).count();
    assert!(skipped > 0, "bad lines are told with file and line: {log}");
    assert!(log.contains("it was written anew"), "the replaced file is noticed: {log}");
}
