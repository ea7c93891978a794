//! Loggers that remember: the agent's collection against the simulated logger, first both in made-up time, then the whole
//! way with real processes.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helpers fail its test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use gapless_agent::bus;
use gapless_agent::campbell::core::{Collector, Failure, Step};
use gapless_agent::campbell::csijson;
use gapless_agent::campbell::table::Settings;
use gapless_agent::clock::Now;
use gapless_agent::config::Config;
use gapless_agent::event::BusEvent;
use gapless_agent::records::layout::Channels;
use gapless_agent::text::chain;
use gapless_common::id::{BusId, DeviceIndex};
use gapless_common::message::{Command, CommandBody, Outcome};
use gapless_common::profile::ProfileSet;
use gapless_common::quality::{Cause, Quality};
use gapless_common::reading::{Acquired, Misses, Sample, Value};
use gapless_common::time::{Interval, Slot, SlotGrid, Timestamp};
use gapless_common::topic::{AgentPath, Down, Up};
use gapless_common::wire::{Message, decode, encode};
use gapless_simulators::campbell::{Cell, Fault, FaultKind, Logger, LoggerConfig, LoggerServer, TableConfig};
use gapless_simulators::truth::mix;
use gapless_tests::api::{Api, instant_ms};
use gapless_tests::site::{SITE, Site, SiteSpec};
use gapless_tests::{settle, wait};
use rumqttc::{Client, Event, Incoming, MqttOptions, QoS};

const SOON: Duration = Duration::from_secs(120);
/// 2026-01-01T00:00:00Z
const T: i64 = 1_767_225_600_000;
const HOUR: i64 = 3_600_000;
const ZONE: i64 = -7 * HOUR;

fn table(interval_ms: i64, capacity: u64) -> TableConfig {
    TableConfig { name: "Met".to_owned(), interval_ms, capacity, fields: 4 }
}

/// Collection and logger in made-up time.
struct Bench {
    logger: Logger,
    collector: Collector,
    grid: SlotGrid,
    /// Milliseconds since the begin.
    ms: i64,
    is_up: bool,
    /// The channels that were told last.
    channels: Vec<String>,
    readings: BTreeMap<i64, (Vec<String>, Vec<Sample>)>,
    twice: usize,
    missed: BTreeMap<i64, Cause>,
    through: Option<Slot>,
    history: Vec<(u64, Outcome)>,
    /// Numbers of the records that came over the wire whole, of the program that runs.
    seen: BTreeSet<u64>,
}

impl Bench {
    fn new(config: LoggerConfig, first_ms: i64) -> Self {
        let interval = u64::try_from(config.tables[0].interval_ms).unwrap();
        let grid = SlotGrid::every(Interval::from_ms(interval).unwrap());
        let settings = Settings {
            device: DeviceIndex(0),
            table: "Met".into(),
            grid,
            zone: "-07:00".parse().unwrap(),
            first_ms,
            channels: Channels::All,
            paused: false,
        };
        let config = LoggerConfig { zone_ms: ZONE, ..config };
        let logger = Logger::new(config, T);
        let collector = Collector::new(BusId::new("mast").unwrap(), vec![settings], now(0), now(0));
        let mut bench = Self {
            logger,
            collector,
            grid,
            ms: 0,
            is_up: true,
            channels: Vec::new(),
            readings: BTreeMap::new(),
            twice: 0,
            missed: BTreeMap::new(),
            through: None,
            history: Vec::new(),
            seen: BTreeSet::new(),
        };
        // Whole hours from here on end when the record of their end has come.
        bench.run(10_000);
        bench
    }

    /// Lets time pass.
    fn run(&mut self, span_ms: i64) {
        let end = self.ms + span_ms;
        while self.ms < end {
            match self.collector.next(now(self.ms)) {
                Step::Wait { until_boot_ms } => {
                    self.ms = i64::try_from(until_boot_ms).unwrap().clamp(self.ms + 1, end);
                }
                Step::Ask(target) => {
                    self.ms += 20;
                    if self.is_up {
                        let reply = self.logger.answer(&target, None, T + self.ms);
                        let end = reply.body.len()
                            / if reply.faults.contains(&FaultKind::Truncated) { 2 } else { 1 };
                        let body = &reply.body.as_bytes()[..end];
                        if let Ok(answer) = csijson::read(body) {
                            self.seen.extend(answer.data.iter().map(|record| record.no));
                        }
                        self.collector.answered(body, now(self.ms));
                    } else {
                        let why = Failure::NotConnected("the link is down".to_owned());
                        self.collector.failed(&why, now(self.ms));
                    }
                }
            }
            self.take();
        }
    }

    fn take(&mut self) {
        while let Some(event) = self.collector.drain() {
            match event {
                BusEvent::Answered { acquired, at, samples, .. } => {
                    let Acquired::Recorded(slot) = acquired else { panic!("{acquired:?}") };
                    assert_eq!(slot, self.grid.slot_at(at));
                    let new = (self.channels.clone(), samples);
                    self.twice += usize::from(self.readings.insert(at.0, new).is_some());
                }
                BusEvent::Missed(Misses { first, count, cause, .. }) => {
                    for slot in first.0..first.0 + i64::from(count) {
                        // As the collector's ledger does: the first in the order of causes stands.
                        let known = self.missed.entry(self.grid.at(Slot(slot)).0).or_insert(cause);
                        *known = cause.min(*known);
                    }
                }
                BusEvent::Through { slot, .. } => self.through = Some(slot),
                BusEvent::Channels { channels, .. } => {
                    self.channels =
                        channels.iter().map(|channel| channel.attributes["field"].clone()).collect();
                }
                BusEvent::HistoryRead { command, outcome } => self.history.push((command, outcome)),
                BusEvent::Paused { .. }
                | BusEvent::Device { .. }
                | BusEvent::Complaint { .. }
                | BusEvent::Bus { .. }
                | BusEvent::Metrics { .. } => {}
            }
        }
    }

    /// Ends it; every value is the logger's, and each slot from the begin to the end a reading or a miss. Gives the misses
    /// that no reading came for.
    fn audit(&mut self) -> BTreeMap<i64, Cause> {
        self.collector.stop(now(self.ms));
        self.take();
        for (at, (channels, samples)) in &self.readings {
            assert_eq!(channels.len(), samples.len());
            for (field, sample) in channels.iter().zip(samples) {
                let told = (sample.value.as_ref(), sample.quality);
                let truth = self.logger.truth("Met", field, *at).unwrap();
                assert!(is_true(told, truth), "{field} at {at}: {told:?}, and true is {truth:?}");
            }
        }
        let left: BTreeMap<i64, Cause> = self
            .missed
            .iter()
            .filter(|(at, _)| !self.readings.contains_key(at))
            .map(|(at, cause)| (*at, *cause))
            .collect();
        let through = self.through.expect("something is declared");
        for slot in self.grid.first_from(Timestamp(T)).0..=through.0 {
            let at = self.grid.at(Slot(slot)).0;
            assert!(
                self.readings.contains_key(&at) || left.contains_key(&at),
                "{at} is neither read nor missed"
            );
        }
        // Further only where the logger's clock is ahead, and its records are there.
        assert!(through >= self.grid.slot_at(Timestamp(T + self.ms)), "all is accounted for");
        left
    }

    /// Misses between two instants since the begin, by cause.
    fn counts(left: &BTreeMap<i64, Cause>) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        left.values().for_each(|cause| *counts.entry(cause.slug()).or_default() += 1);
        counts
    }
}

fn now(ms: i64) -> Now {
    Now { boot_ms: u64::try_from(ms).unwrap(), wall: Timestamp(T + ms), wall_set: true }
}

fn is_true(told: (Option<&Value>, Quality), truth: Cell) -> bool {
    match (told, truth) {
        ((Some(Value::Number(told)), Quality::Good), Cell::Number(truth)) => {
            told.to_bits() == truth.to_bits()
        }
        ((None, Quality::BadInvalid), Cell::Nan) | ((None, Quality::BadOutOfRange), Cell::Infinite) => true,
        _ => false,
    }
}

fn minutely(capacity: u64) -> LoggerConfig {
    LoggerConfig { tables: vec![table(60_000, capacity)], history_ms: 48 * HOUR, ..LoggerConfig::default() }
}

#[test]
fn a_day_without_a_link_is_read_when_it_is_back_and_nothing_is_missing() {
    for since_record_inclusive in [true, false] {
        let mut bench = Bench::new(LoggerConfig { since_record_inclusive, ..minutely(5_000) }, 36 * HOUR);
        bench.run(HOUR);
        assert_eq!(bench.readings.len(), 36 * 60 + 60 + 1, "what it held before, and the hour since");
        bench.is_up = false;
        bench.run(24 * HOUR);
        assert!(
            bench.missed.len() > 23 * 60,
            "what was due is missed when it was due: {}",
            bench.missed.len()
        );
        bench.is_up = true;
        bench.run(HOUR);
        let left = bench.audit();
        assert_eq!((left.len(), bench.twice), (0, 0), "{left:?}");
        assert_eq!(bench.readings.len(), (36 + 26) * 60 + 1);
        let asked = bench.logger.answers().len();
        assert!(asked < 220, "{asked} requests for 122 records live and two backlogs");
    }
}

#[test]
fn what_was_overwritten_is_missed_for_that_and_the_rest_is_read() {
    let mut bench = Bench::new(minutely(600), HOUR);
    bench.run(HOUR);
    bench.is_up = false;
    bench.run(24 * HOUR);
    bench.is_up = true;
    bench.run(HOUR);
    let left = bench.audit();
    // Ten hours of 24 are held; the first of them were overwritten while it was read.
    let counts = Bench::counts(&left);
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), ["overwritten"], "{counts:?}");
    assert!((14 * 60 - 5..14 * 60 + 5).contains(&counts["overwritten"]), "{counts:?}");
    let last = left.last_key_value().unwrap().0 - left.first_key_value().unwrap().0;
    assert_eq!(usize::try_from(last / 60_000 + 1).unwrap(), left.len(), "one stretch, the oldest");
}

#[test]
fn another_program_loses_nothing_that_could_be_read() {
    let mut bench = Bench::new(minutely(5_000), HOUR);
    bench.run(2 * HOUR + 90_000);
    let before = bench.channels.clone();
    bench.logger.change_program(T + bench.ms);
    bench.run(2 * HOUR);
    assert_ne!(before, bench.channels);
    bench.is_up = false;
    bench.run(HOUR);
    bench.logger.change_program(T + bench.ms);
    bench.run(HOUR);
    bench.is_up = true;
    bench.run(HOUR);
    let counts = Bench::counts(&bench.audit());
    // The hour before the second change was in a memory that was wiped.
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), ["overwritten"], "{counts:?}");
    assert!((58..=62).contains(&counts["overwritten"]), "{counts:?}");
}

#[test]
fn bad_answers_cost_time_and_no_reading() {
    let mut bench = Bench::new(LoggerConfig { records_max: 37, ..minutely(5_000) }, 12 * HOUR);
    for (n, kind) in [FaultKind::ErrorBody, FaultKind::Html, FaultKind::Truncated].into_iter().enumerate() {
        bench.logger.add_fault(Fault::new(kind).after(3 + 4 * u32::try_from(n).unwrap()).times(2));
    }
    bench.run(3 * HOUR);
    let left = bench.audit();
    assert_eq!((left.len(), bench.readings.len()), (0, 15 * 60 + 1), "{left:?}");
}

#[test]
fn a_logger_whose_clock_is_set_keeps_its_own_time() {
    let mut bench = Bench::new(LoggerConfig { speed_ppm: 1_000_200, ..minutely(5_000) }, HOUR);
    bench.run(2 * HOUR);
    bench.logger.step_clock(10 * 60_000, T + bench.ms);
    bench.run(HOUR);
    bench.logger.step_clock(-20 * 60_000, T + bench.ms);
    bench.run(2 * HOUR);
    let counts = Bench::counts(&bench.audit());
    // Ten minutes that never were; the last ones are still to come, as its clock is ten minutes behind now.
    assert!(counts["not_recorded"] >= 9, "{counts:?}");
    assert!(counts.values().sum::<usize>() <= 25, "{counts:?}");
}

#[test]
fn what_was_written_before_the_clock_was_set_back_is_read_too() {
    let mut bench = Bench::new(minutely(5_000), 0);
    bench.run(HOUR);
    bench.is_up = false;
    bench.run(2 * HOUR);
    bench.logger.step_clock(-3 * HOUR, T + bench.ms);
    bench.run(HOUR / 2);
    bench.is_up = true;
    // Its clock comes to the instants of what it wrote before only after that.
    bench.run(HOUR / 4);
    let held = bench.logger.held("Met", T + bench.ms);
    let lost = held.iter().filter(|(no, at)| *at > T && !bench.seen.contains(no)).count();
    assert!(lost <= 1, "{lost} records were not read");
}

#[test]
fn the_memory_is_read_again_when_the_collector_asks() {
    let mut bench = Bench::new(minutely(5_000), 0);
    bench.run(HOUR);
    let range = |from: i64, to: i64| (Timestamp(T + from), Timestamp(T + to));
    assert_eq!(bench.readings.len(), 61);
    bench.collector.read_history(1, DeviceIndex(0), range(-20 * HOUR, -10 * HOUR));
    bench.collector.read_history(2, DeviceIndex(0), range(-200 * HOUR, -190 * HOUR));
    bench.run(HOUR);
    assert_eq!(bench.history, [(1, Outcome::Done), (2, Outcome::NoData)]);
    assert_eq!(bench.readings.len(), 121 + 600);
    assert_eq!(bench.audit().len(), 0);
}

/// The next of a row of numbers that looks like chance, below `end`.
fn dice(state: &mut u64, end: i64) -> i64 {
    *state = mix(&[*state]);
    i64::try_from(*state >> 33).unwrap() % end
}

/// Whatever happens to link, answers, clock and program, once it is over all that the logger still holds has been read,
/// every value is its own, and each slot is a reading or a miss.
#[test]
fn forty_unlucky_weeks() {
    for seed in 1..=40 {
        let mut state = seed;
        let config = LoggerConfig {
            records_max: usize::try_from(20 + dice(&mut state, 200)).unwrap(),
            since_record_inclusive: seed % 2 == 0,
            ..minutely(u64::try_from(200 + dice(&mut state, 2_000)).unwrap())
        };
        let mut bench = Bench::new(config, 3 * HOUR);
        let mut deeds = Vec::new();
        for _ in 0..8 {
            bench.run(60_000 * dice(&mut state, 180));
            let deed = dice(&mut state, 6);
            deeds.push((bench.ms / 60_000, deed));
            bench.is_up = deed < 3;
            // With the link down it happens in the midst of an outage.
            bench.run(60_000 * dice(&mut state, 200));
            let at = T + bench.ms;
            match deed {
                0 | 3 => bench.logger.step_clock(60_000 * (dice(&mut state, 240) - 120), at),
                1 | 4 => {
                    bench.logger.change_program(at);
                    bench.seen.clear();
                }
                2 => {
                    let kinds = [FaultKind::ErrorBody, FaultKind::Html, FaultKind::Truncated];
                    let kind = kinds[usize::try_from(dice(&mut state, 3)).unwrap()];
                    let times = u32::try_from(1 + dice(&mut state, 6)).unwrap();
                    bench.logger.add_fault(Fault::new(kind).times(times));
                }
                _ => {}
            }
            bench.run(60_000 * dice(&mut state, 400));
            bench.is_up = true;
        }
        bench.run(6 * HOUR);
        let held = bench.logger.held("Met", T + bench.ms);
        let lost: Vec<_> = held[..held.len() - 2]
            .iter()
            .filter(|(no, at)| *at >= T && !(bench.seen.contains(no) && bench.readings.contains_key(at)))
            .collect();
        assert!(
            lost.is_empty(),
            "seed {seed}: {} records were not read, first {:?}; {deeds:?}",
            lost.len(),
            lost[0]
        );
        bench.audit();
    }
}

/// (what is wrong, what a person is told who reads the table)
#[test]
fn what_is_wrong_with_a_logger_is_told_to_the_person_who_reads_it() {
    let config = LoggerConfig { login: Some(("reader".to_owned(), "secret".to_owned())), ..minutely(100) };
    let server = LoggerServer::start(config, ([127, 0, 0, 1], 0).into()).unwrap();
    let read = |password: &str, table: &str| {
        let text = format!(
            "site = \"s\"\nagent = \"a\"\nuplink = {{ broker = \"mqtt://h\" }}\noutbox = {{ path = \"/o\" }}\n\
             [[bus]]\nid = \"b\"\ncampbell = {{ url = \"http://{}\", username = \"reader\", password = \"{password}\" }}\n\
             timeout = \"300ms\"\n[[bus.device]]\nid = \"met\"\ntable = \"{table}\"\ninterval = \"1m\"\n\
             zone = \"+00:00\"\nchannels = \"all\"\n",
            server.address()
        );
        let config = Config::parse("a.toml", &text, &ProfileSet::embedded().unwrap()).unwrap();
        let (logger, table) = config.tables().next().unwrap();
        match bus::read_table(logger, table) {
            Ok(shown) => format!("{} values", shown.values.len()),
            Err(error) => chain(&error),
        }
    };
    assert_eq!(read("secret", "Met"), "4 values");
    assert!(read("wrong", "Met").contains("refuses user and password"));
    let told = read("secret", "None");
    assert!(told.contains("those of the logger are Met") && told.contains("no table None"), "{told}");
    let rows = [
        (FaultKind::Slow { ms: 100 }, "4 values"),
        (FaultKind::Slow { ms: 2_000 }, "no answer"),
        (FaultKind::Silent, "no answer"),
        (FaultKind::ErrorBody, "no records, but: Error: the command could not be carried out"),
        (FaultKind::Html, "no records, but: Please log in"),
        (FaultKind::Truncated, "an answer that is not CSIJSON"),
    ];
    for (kind, expected) in rows {
        server.with(|logger, _| logger.add_fault(Fault::new(kind).times(1)));
        let told = read("secret", "Met");
        assert!(told.contains(expected), "{kind}: {told}");
        server.with(|logger, _| logger.clear_faults());
    }
    server.with(|logger, _| logger.add_fault(Fault::new(FaultKind::CutOff).times(1)));
    let told = read("secret", "Met");
    assert!(!told.contains("values"), "{told}");
    server.unplug();
    assert!(read("secret", "Met").contains("no connection"));
}

/// A site with a logger alone.
struct LoggerSite {
    site: Site,
    logger: LoggerServer,
    grid: SlotGrid,
}

impl LoggerSite {
    fn new(config: LoggerConfig, first: &str, channels: &str) -> Self {
        let interval = u64::try_from(config.tables[0].interval_ms).unwrap();
        let interval = Interval::from_ms(interval).unwrap();
        let logger = LoggerServer::start(config, ([127, 0, 0, 1], 0).into()).unwrap();
        let spec = SiteSpec { devices: Vec::new(), embedded_broker: true, ..SiteSpec::default() };
        let site = Site::new(spec);
        let path = site.path("agent.toml");
        let mut text = std::fs::read_to_string(&path).unwrap();
        let _ = write!(
            text,
            "\n[[bus]]\nid = \"mast\"\ncampbell = {{ url = \"http://{}\" }}\ntimeout = \"20s\"\n\
             [[bus.device]]\nid = \"met\"\ntable = \"Met\"\ninterval = \"{interval}\"\nzone = \"-07:00\"\n\
             first = \"{first}\"\nchannels = {channels}\n",
            logger.address()
        );
        std::fs::write(&path, text).unwrap();
        Self { site, logger, grid: SlotGrid::every(interval) }
    }

    /// All stored readings by their instant and channel; each of them is the logger's.
    fn stored(&self, api: &Api) -> BTreeMap<(i64, String), serde_json::Value> {
        let readings = match api.readings(&format!("{SITE}/met/*")) {
            // The logger has not told its fields yet.
            Err(why) if why.contains("there is no series") => Vec::new(),
            told => told.expect("the API answers"),
        };
        let mut all = BTreeMap::new();
        for reading in readings {
            let channel = reading.series.rsplit('/').next().unwrap().to_owned();
            let truth = self.logger.with(|logger, _| logger.truth("Met", &channel, reading.at_ms)).unwrap();
            let is_true = match truth {
                Cell::Number(truth) => {
                    reading.quality == "good"
                        && reading.value.as_f64().map(f64::to_bits) == Some(truth.to_bits())
                }
                Cell::Nan => reading.quality == "bad_invalid" && reading.value.is_null(),
                Cell::Infinite => reading.quality == "bad_out_of_range" && reading.value.is_null(),
            };
            assert!(is_true, "{reading:?}, and true is {truth:?}");
            let twice = all.insert((reading.at_ms, channel), reading.value);
            assert_eq!(twice, None, "a reading is told twice");
        }
        all
    }

    /// Instants of which all of `fields` are stored.
    fn instants(&self, api: &Api, fields: usize) -> Vec<i64> {
        let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
        self.stored(api).keys().for_each(|(at, _)| *counts.entry(*at).or_default() += 1);
        counts.into_iter().filter(|(_, count)| *count == fields).map(|(at, _)| at).collect()
    }

    fn wait_for(&self, api: &Api, what: &str, is_it: impl Fn(&[i64]) -> bool) -> Vec<i64> {
        wait::until(what, SOON, || {
            let instants = self.instants(api, 4);
            if is_it(&instants) { Ok(instants) } else { Err((instants.len(), instants.last().copied())) }
        })
    }
}

fn gaps(api: &Api, state: &str) -> Vec<serde_json::Value> {
    api.items(&format!("/api/v1/gaps?site={SITE}&device=met&state={state}&limit=1000"))
        .expect("the API answers")
}

/// The link is gone for a day of the logger's own time, in which the gateway lives some seconds: the logger's clock is a
/// day behind at first, and has caught up when it is back. Then the day comes back without a person, whatever happens
/// `meanwhile`.
fn lose_a_day(config: LoggerConfig, meanwhile: impl FnOnce(&mut LoggerSite, &Api)) {
    let day = 24 * HOUR;
    let config = LoggerConfig {
        tables: vec![table(30_000, 20_000)],
        zone_ms: ZONE,
        wrong_by_ms: -day,
        history_ms: HOUR,
        ..config
    };
    let mut place = LoggerSite::new(config, "30m", "\"all\"");
    place.site.start_collector();
    place.site.start_agent();
    let api = place.site.api();
    // The half hour before the start, and live readings on top.
    place.wait_for(&api, "the first half hour", |instants| instants.len() > 61);

    place.logger.unplug();
    let down = settle::now();
    place.logger.with(|logger, now| logger.pass(86_400_000, now));
    wait::until("what was due meanwhile to be a gap", SOON, || {
        let gaps = gaps(&api, "unfilled");
        if gaps.iter().any(|gap| gap["cause"] == "not_connected") { Ok(()) } else { Err(gaps) }
    });
    place.logger.replug().unwrap();
    meanwhile(&mut place, &api);
    let count = usize::try_from(day / 30_000).unwrap();
    let instants = place.wait_for(&api, "the whole day", |instants| instants.len() > count + 61);
    for two in instants.windows(2) {
        assert_eq!(two[1] - two[0], 30_000, "a hole behind {}", Timestamp(two[0]));
    }
    assert!(*instants.last().unwrap() >= down.0, "{}", Timestamp(*instants.last().unwrap()));
    wait::until("the gaps of the outage to close", SOON, || {
        let left = gaps(&api, "unfilled");
        let outage = |gap: &&serde_json::Value| instant_ms(&gap["to"]).unwrap() > down.0;
        let left: Vec<_> = left.iter().filter(outage).cloned().collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    assert!(!gaps(&api, "filled").is_empty(), "what was a gap was filled");
    place.site.stop_agent();
    place.site.stop_collector();
}

#[test]
fn a_day_of_the_logger_s_own_time_comes_back_without_a_person() {
    lose_a_day(LoggerConfig::default(), |_, _| {});
}

#[test]
fn a_day_comes_back_though_the_collector_is_killed_while_it_streams_in() {
    let config = LoggerConfig { records_max: 100, ..LoggerConfig::default() };
    lose_a_day(config, |place, api| {
        // So slow that most of the day is still to come.
        place
            .logger
            .with(|logger, _| logger.add_fault(Fault::new(FaultKind::Slow { ms: 200 }).times(10_000)));
        let stored = |place: &LoggerSite| place.instants(api, 4).len();
        let some = wait::until("a part of the day", SOON, || {
            let count = stored(place);
            if count > 61 + 200 { Ok(count) } else { Err(count) }
        });
        assert!(some < 2_000, "{some} of 2,880 are there already: nothing is interrupted");
        place.site.kill_collector();
        // What streams in meanwhile waits with the agent.
        std::thread::sleep(Duration::from_secs(1));
        place.site.start_collector();
        let kept = stored(place);
        assert!(kept >= some, "{kept} of {some} that were shown are there after the kill");
        place.logger.with(|logger, _| logger.clear_faults());
    });
}

#[test]
fn what_the_ring_lost_stays_a_named_gap_and_a_new_program_is_a_new_catalog() {
    let config = LoggerConfig {
        tables: vec![table(1_000, 12)],
        zone_ms: ZONE,
        history_ms: HOUR,
        ..LoggerConfig::default()
    };
    let mut place = LoggerSite::new(config, "5s", "\"all\"");
    place.site.start_collector();
    place.site.start_agent();
    let api = place.site.api();
    place.wait_for(&api, "some readings", |instants| instants.len() > 8);
    place.logger.unplug();
    let down = settle::now();
    wait::until_true("twice what the ring holds", SOON, || settle::now().since_ms(down) > 25_000);
    place.logger.replug().unwrap();
    let back = settle::now();
    let instants = place.wait_for(&api, "the rest of it", |instants| {
        instants.iter().filter(|at| **at > down.0 && **at < back.0 - 1_000).count() >= 5
            && instants.last().is_some_and(|last| *last > back.0 + 3_000)
    });
    let gone = instants.windows(2).find(|two| two[1] - two[0] > 2_000).expect("a hole that stays");
    let lost = (place.grid.slot_at(Timestamp(gone[0])).plus(1), place.grid.slot_at(Timestamp(gone[1])));
    let gap = wait::until("the gap of what was overwritten", SOON, || {
        let told = gaps(&api, "unfilled");
        let is_it = |gap: &serde_json::Value| {
            gap["cause"] == "overwritten"
                && instant_ms(&gap["from"]) == Ok(place.grid.at(lost.0).0)
                && instant_ms(&gap["to"]) == Ok(place.grid.at(lost.1).0)
        };
        told.iter().find(|gap| is_it(gap)).and_then(|gap| gap["id"].as_i64()).ok_or((lost, told))
    });
    check_the_schedule(&api, gap);

    place.logger.with(Logger::change_program);
    let changed = settle::now();
    let added = wait::until("the new program's field", SOON, || {
        let stored = place.stored(&api);
        let added: Vec<i64> =
            stored.keys().filter(|(_, channel)| channel == "Added_1_Avg").map(|(at, _)| *at).collect();
        if added.len() > 5 { Ok(added) } else { Err(added.len()) }
    });
    assert!(added[0] >= changed.0 - 1_000, "none from before");
    assert!(added.windows(2).all(|two| two[1] - two[0] == 1_000), "without a hole: {added:?}");
    let old = place.stored(&api).keys().filter(|(_, channel)| channel == "WindDir_D1_WVT").count();
    assert!(old > 8, "what the old program stored is still there");

    // Another agent process knows no fields until the logger has told them.
    place.site.stop_agent();
    let stopped = settle::now();
    place.site.start_agent();
    let is_new = |(at, channel): &(i64, String)| channel == "Added_1_Avg" && *at > stopped.0 + 2_000;
    wait::until("readings after a restart", SOON, || {
        let stored = place.stored(&api);
        if stored.keys().any(is_new) { Ok(()) } else { Err(stored.len()) }
    });
    let around: Vec<i64> = place
        .stored(&api)
        .keys()
        .filter(|(at, channel)| {
            channel == "Added_1_Avg" && *at > stopped.0 - 3_000 && *at < stopped.0 + 3_000
        })
        .map(|(at, _)| *at)
        .collect();
    assert!(around.windows(2).all(|two| two[1] - two[0] == 1_000), "the restart left no hole: {around:?}");
    place.site.stop_agent();
    place.site.stop_collector();
}

/// The collector asks the logger for what is missing by itself, is told that there is nothing, and will ask again in
/// three days; or at once, where a person wants it.
fn check_the_schedule(api: &Api, gap: i64) {
    let path = format!("/api/v1/gaps/{gap}");
    // What fails in passing, or was told another cause before, says nothing here.
    let told = |events: &[&str]| {
        wait::until(&format!("the gap's history to hold {events:?}"), SOON, || {
            let gap = api.get(&path)?;
            let history = gap["history"].as_array().cloned().unwrap_or_default();
            let all = history.iter().filter_map(|event| event["event"].as_str());
            let is_told = gap["state"] == "waiting"
                && all
                    .filter(|event| ["opened", "no_data", "retried"].contains(event))
                    .eq(events.iter().copied());
            if is_told { Ok(gap) } else { Err(gap.to_string()) }
        })
    };
    let actor = |gap: &serde_json::Value, event: &str| {
        let history = gap["history"].as_array().cloned().unwrap_or_default();
        history.iter().find(|line| line["event"] == event).map(|line| line["actor"].to_string())
    };
    let waiting = told(&["opened", "no_data"]);
    assert_eq!((&waiting["attempts"], &waiting["source"]), (&1.into(), &"device".into()));
    let days = |gap: &serde_json::Value| {
        let next = instant_ms(&gap["next_try_at"]).expect("an instant");
        (next - settle::now().0) as f64 / 86_400_000.0
    };
    assert!((2.99..=3.0).contains(&days(&waiting)), "{waiting}");
    assert_eq!(actor(&waiting, "requested"), Some("\"collector\"".to_owned()));
    assert!(
        actor(&waiting, "no_data")
            .is_some_and(|actor| actor == "\"agent gateway\"" || actor == "\"collector\"")
    );
    assert_eq!(api.post(&format!("{path}/retry")).map(|answer| answer.0), Ok(200));
    let again = told(&["opened", "no_data", "retried", "no_data"]);
    assert_eq!(actor(&again, "retried"), Some("\"token admin\"".to_owned()));
    assert!((13.99..=14.0).contains(&days(&again)), "{again}");
    // Opened again it has its first attempt once more.
    assert_eq!(api.post(&format!("{path}/reopen")).map(|answer| answer.0), Ok(200));
    let anew = told(&["opened", "no_data", "retried", "no_data", "no_data"]);
    assert_eq!(
        (&anew["attempts"], actor(&anew, "reopened")),
        (&1.into(), Some("\"token admin\"".to_owned()))
    );
    assert!((2.99..=3.0).contains(&days(&anew)), "{anew}");
}

/// Sends a command as the collector would, and gives the agent's answer.
fn command(port: u16, body: CommandBody) -> Outcome {
    let path = AgentPath { site: SITE.parse().unwrap(), agent: "gateway".parse().unwrap() };
    let (client, mut connection) = Client::new(MqttOptions::new("tester", "127.0.0.1", port), 10);
    client.subscribe(path.up(Up::Reply), QoS::AtLeastOnce).unwrap();
    let expires = settle::now().plus_ms(60_000);
    let message = Message::Command(Command { id: 7_007, expires, body });
    let mut is_sent = false;
    for event in connection.iter() {
        match event.expect("the broker is there") {
            Event::Incoming(Incoming::SubAck(_)) if !is_sent => {
                let payload = encode(&message).unwrap();
                client.publish(path.down(Down::Command), QoS::AtLeastOnce, false, payload).unwrap();
                is_sent = true;
            }
            Event::Incoming(Incoming::Publish(publish)) => {
                if let Ok(Message::Reply(reply)) = decode(&publish.payload)
                    && reply.id == 7_007
                {
                    return reply.outcome;
                }
            }
            _ => {}
        }
    }
    panic!("the connection ended without an answer")
}

#[test]
fn a_command_reads_the_memory_and_a_silent_logger_holds_up_no_stop() {
    let config = LoggerConfig {
        tables: vec![table(10_000, 5_000)],
        zone_ms: ZONE,
        history_ms: 2 * HOUR,
        ..LoggerConfig::default()
    };
    let mut place = LoggerSite::new(config, "0s", "\"all\"");
    place.site.start_collector();
    place.site.start_agent();
    let api = place.site.api();
    let first = place.wait_for(&api, "the newest record", |instants| !instants.is_empty())[0];
    let text = std::fs::read_to_string(place.site.path("agent.toml")).unwrap();
    let port = text.split("mqtt://127.0.0.1:").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let port: u16 = port.parse().unwrap();
    let read = |from: i64, to: i64| CommandBody::ReadHistory {
        device: "met".parse().unwrap(),
        from: Timestamp(first + from),
        to: Timestamp(first + to),
    };
    assert_eq!(command(port, read(-HOUR, -HOUR / 2)), Outcome::Done);
    let instants = place.wait_for(&api, "the half hour", |instants| instants.len() > 180);
    assert_eq!((instants[0], instants[179]), (first - HOUR, first - HOUR / 2 - 10_000));

    place.logger.with(|logger, _| logger.add_fault(Fault::new(FaultKind::Silent)));
    wait::until_true("a request that is not answered", SOON, || {
        place.logger.with(|logger, _| logger.answers().last().is_some_and(|last| !last.faults.is_empty()))
    });
    let begun = settle::now();
    place.site.stop_agent();
    let took = settle::now().since_ms(begun);
    assert!(took < 5_000, "the stop took {took} ms");
    let log = std::fs::read_to_string(place.site.path("agent.log")).unwrap();
    assert!(!log.contains("did not stop in time"), "{log}");
    place.site.stop_collector();
}
