//! Meters that remember: the agent's collection of load profiles against the simulated meter, in made-up time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helpers fail its test")]

use std::collections::BTreeMap;

use gapless_agent::clock::Now;
use gapless_agent::modbus::memory::Settings;
use gapless_agent::modbus::memory::recorder::{Failure, Recorder};
use gapless_agent::modbus::pdu::AnswerError;
use gapless_agent::modbus::plan::Limits;
use gapless_agent::records::collect::{Collect as _, Step};
use gapless_common::id::{BusId, DeviceIndex};
use gapless_common::message::Outcome;
use gapless_common::profile::{LoadProfile, Profile};
use gapless_common::quality::{Cause, Quality};
use gapless_common::time::{SlotGrid, Timestamp};
use gapless_simulators::modbus::{Device, DeviceKind};
use gapless_simulators::truth::mix;
use gapless_tests::told::{Told, counts};

/// 2026-01-01T00:00:00Z
const T: i64 = 1_767_225_600_000;
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

/// What every meter here records, every minute.
const RECORD: &str = r#"
[load_profile]
interval = "1m"
registers = 8
zone = "-07:00"
field = [
    { id = "energy", address = 3, type = "u32", scale = 0.01, unit = "kWh", aggregation = "counter" },
    { id = "power", address = 5, type = "f32", unit = "W", aggregation = "mean" },
    { id = "power_max", address = 7, type = "u16", unit = "W", aggregation = "max" },
]
"#;

/// Ways to number records, and to read them.
const NUMBERINGS: [&str; 6] = [
    "numbering = \"ring\"\nnewest = { address = 100, type = \"u16\" }\ncount = { address = 101, type = \"u16\" }\nstamp = { encoding = \"seconds-2000\" }",
    "numbering = \"ring\"\nfirst = 1\nnewest = { address = 100, type = \"u32\" }\nstamp = { encoding = \"bcd\" }",
    "numbering = \"ring\"\nnewest = { address = 100, type = \"u16\" }\noldest = { address = 190, type = \"u16\" }\nstamp = { encoding = \"bytes\", order = \"BADC\" }",
    "numbering = \"running\"\nfirst = 1\nnewest = { address = 100, type = \"u32\" }\ncount = { address = 102, type = \"u16\" }\nstamp = { encoding = \"seconds-1970\", order = \"CDAB\" }",
    "numbering = \"running\"\nnewest = { address = 100, type = \"u32\", order = \"CDAB\" }\noldest = { address = 102, type = \"u32\" }\nstamp = { encoding = \"bcd\" }\nlabel = \"start\"",
    "numbering = \"ring\"\nnewest = { address = 100, type = \"u16\", names = \"next\" }\nstamp = { encoding = \"seconds-1970\" }",
];
const WINDOW: &str =
    "window = { address = 300, select = { address = 299, type = \"u32\" }, pause = \"20ms\" }";
const MAPPED: &str = "window = { table = \"input\", address = 1000 }";
const FILE: &str = "file = { number = 3 }";
const CLOCK: &str = "clock = { address = 110, encoding = \"fields\" }";

fn profile(capacity: u16, numbering: &str, way: &str) -> Profile {
    let text = format!(
        "id = \"m\"\nmake = \"m\"\nmodel = \"m\"\nkind = \"meter\"\nsource = \"here\"\n\
         channel = [{{ id = \"voltage\", address = 0, type = \"f32\", unit = \"V\" }}]\n{RECORD}\n\
         capacity = {capacity}\n{numbering}\n{way}\n"
    );
    Profile::parse("meter.toml", &text).unwrap_or_else(|error| panic!("{error}"))
}

/// Collection and meter in made-up time.
struct Bench {
    meter: Device,
    load: LoadProfile,
    recorder: Recorder,
    /// Milliseconds since the begin.
    ms: i64,
    is_up: bool,
    told: Told,
    requests: usize,
}

impl Bench {
    fn new(profile: Profile, first_ms: i64) -> Self {
        let load = profile.load.clone().unwrap();
        let grid = SlotGrid::every(load.interval);
        let settings = Settings {
            device: DeviceIndex(0),
            name: "meter".into(),
            zone: load.zone.unwrap(),
            load: load.clone(),
            grid,
            first_ms,
            limits: Limits::default(),
            paused: false,
        };
        let meter = Device::new(&DeviceKind::Profile(Box::new(profile)), 1, 1).unwrap();
        let recorder = Recorder::new(BusId::new("line").unwrap(), settings, now(0), now(0)).unwrap();
        let mut bench =
            Self { meter, load, recorder, ms: 0, is_up: true, told: Told::new(grid), requests: 0 };
        // Whole hours from here on end when the record of their end has come.
        bench.run(10_000);
        bench
    }

    /// Lets time pass.
    fn run(&mut self, span_ms: i64) {
        let end = self.ms + span_ms;
        while self.ms < end {
            match self.recorder.next(now(self.ms)) {
                Step::Wait { until_boot_ms } => {
                    self.ms = i64::try_from(until_boot_ms).unwrap().clamp(self.ms + 1, end);
                }
                Step::Ask(request) => {
                    self.requests += 1;
                    self.ms += 30;
                    let mut pdu = Vec::new();
                    request.encode(&mut pdu);
                    let answer = if self.is_up {
                        match request.decode_response(&self.meter.answer(&pdu, T + self.ms)) {
                            Ok(data) => Ok(Ok(data)),
                            Err(AnswerError::Refused(refusal)) => Ok(Err(refusal)),
                            Err(AnswerError::Mismatch(why)) => panic!("{why}: {request:?}"),
                        }
                    } else {
                        self.ms += 300;
                        Err(Failure { cause: Cause::NoAnswer, why: "no answer".to_owned() })
                    };
                    self.recorder.took(answer, now(self.ms));
                }
            }
            self.take();
        }
    }

    fn take(&mut self) {
        while let Some(event) = self.recorder.drain() {
            self.told.take(event);
        }
    }

    /// Ends it; every value is the meter's, and each slot from the begin to the end a reading or a miss. Gives the misses
    /// that no reading came for.
    fn audit(&mut self) -> BTreeMap<i64, Cause> {
        self.recorder.stop(now(self.ms));
        self.take();
        for (at, samples) in &self.told.readings {
            for (field, sample) in self.load.fields.iter().zip(samples) {
                let truth = self.meter.with_memory(|memory| memory.truth(field.id.as_str(), *at)).flatten();
                assert_eq!(sample.value, truth, "{} at {}: {:?}", field.id, Timestamp(*at), sample.quality);
            }
            assert_eq!(samples.len(), self.load.fields.len());
        }
        let mut left = self.told.left(Timestamp(T));
        // The record of the slot that has begun comes only after the stop.
        left.pop_last().filter(|last| last.1 != Cause::Stopped).into_iter().for_each(|(at, cause)| {
            left.insert(at, cause);
        });
        left
    }

    fn held(&self) -> Vec<i64> {
        self.meter.with_memory(|memory| memory.held(T + self.ms)).unwrap()
    }

    fn mishap(&self, act: impl FnOnce(&mut gapless_simulators::modbus::memory::Memory, i64)) {
        self.meter.with_memory(|memory| act(memory, T + self.ms)).unwrap();
    }
}

fn now(ms: i64) -> Now {
    Now { boot_ms: u64::try_from(ms).unwrap(), wall: Timestamp(T + ms), wall_set: true }
}

/// Every way to number records with every way to read them.
fn each_way(capacity: u16) -> impl Iterator<Item = (String, Profile)> {
    let ways = [WINDOW, MAPPED, FILE].into_iter();
    let all = ways.flat_map(move |way| NUMBERINGS.into_iter().map(move |numbering| (numbering, way)));
    all.map(move |(numbering, way)| (format!("{numbering}\n{way}"), profile(capacity, numbering, way)))
}

#[test]
fn a_day_without_an_answer_is_read_when_the_meter_is_back_and_nothing_is_missing() {
    for (what, profile) in each_way(5_000) {
        let is_window = what.contains("select");
        let mut bench = Bench::new(profile, 36 * HOUR);
        bench.run(HOUR);
        let first = 36 * 60 + 61;
        assert_eq!(bench.told.readings.len(), first, "what it held before, and the hour since: {what}");
        bench.is_up = false;
        bench.run(24 * HOUR);
        assert!(bench.told.missed.len() > 23 * 60, "missed when due: {}", bench.told.missed.len());
        bench.is_up = true;
        let before = bench.requests;
        bench.run(HOUR);
        let asked = bench.requests - before;
        let left = bench.audit();
        assert_eq!((counts(&left), bench.told.twice), (BTreeMap::new(), 0), "{what}");
        assert_eq!(bench.told.readings.len(), first + 25 * 60, "{what}");
        let most = if is_window { 2 * 25 * 60 + 60 * 8 } else { 25 * 60 / 5 + 60 * 5 };
        assert!(asked <= most, "{asked} requests for 1500 records, of which 60 live: {what}");
    }
}

#[test]
fn what_was_overwritten_is_missed_for_that_and_the_rest_is_read() {
    for (what, profile) in each_way(600) {
        let mut bench = Bench::new(profile, HOUR);
        bench.run(HOUR);
        bench.is_up = false;
        bench.run(24 * HOUR);
        bench.is_up = true;
        bench.run(HOUR);
        let left = bench.audit();
        // Ten hours of 24 are held; the first of them were overwritten while it was read.
        let counts = counts(&left);
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), ["overwritten"], "{counts:?}: {what}");
        assert!((14 * 60 - 5..14 * 60 + 8).contains(&counts["overwritten"]), "{counts:?}: {what}");
        let span = left.last_key_value().unwrap().0 - left.first_key_value().unwrap().0;
        assert_eq!(usize::try_from(span / MINUTE + 1).unwrap(), left.len(), "one stretch, the oldest");
    }
}

#[test]
fn a_meter_without_power_has_no_record_of_that_time_and_all_others_are_found() {
    for (what, profile) in each_way(5_000) {
        let mut bench = Bench::new(profile, 0);
        bench.run(HOUR);
        bench.is_up = false;
        for _ in 0..4 {
            bench.run(3 * HOUR);
            bench.mishap(|memory, t_ms| memory.power_failed(HOUR, t_ms));
        }
        bench.run(HOUR);
        bench.is_up = true;
        bench.run(HOUR);
        let left = bench.audit();
        let counts = counts(&left);
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), ["not_recorded"], "{counts:?}: {what}");
        assert!((4 * 59..=4 * 61).contains(&counts["not_recorded"]), "{counts:?}: {what}");
    }
}

#[test]
fn what_a_cleared_memory_held_is_overwritten() {
    for (what, profile) in each_way(5_000) {
        let mut bench = Bench::new(profile, HOUR);
        bench.run(HOUR);
        bench.is_up = false;
        bench.run(4 * HOUR);
        bench.mishap(|memory, t_ms| memory.clear(t_ms));
        bench.run(HOUR);
        bench.is_up = true;
        bench.run(HOUR);
        let counts = counts(&bench.audit());
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), ["overwritten"], "{counts:?}: {what}");
        assert!((4 * 60 - 2..=4 * 60 + 2).contains(&counts["overwritten"]), "{counts:?}: {what}");
    }
}

#[test]
fn the_memory_is_read_again_when_the_collector_asks() {
    for (what, profile) in each_way(5_000) {
        let mut bench = Bench::new(profile, 0);
        bench.run(HOUR);
        let is_window = what.contains("select");
        let (before, requests) = (bench.told.readings.len(), bench.requests);
        let range = |from: i64, to: i64| (Timestamp(T + from), Timestamp(T + to));
        bench.recorder.read_history(1, DeviceIndex(0), range(-20 * HOUR, -10 * HOUR));
        bench.recorder.read_history(2, DeviceIndex(0), range(-200 * HOUR, -190 * HOUR));
        bench.recorder.read_history(3, DeviceIndex(0), range(-9 * HOUR, -9 * HOUR));
        bench.run(HOUR);
        let ended = [(1, Outcome::Done), (2, Outcome::NoData), (3, Outcome::NoData)];
        assert_eq!(bench.told.history, ended, "{what}");
        assert_eq!(bench.told.readings.len(), before + 60 + 600, "{what}");
        // Ten hours of records, an hour of new ones, and what it takes to find two times.
        let asked = bench.requests - requests;
        let most = if is_window { 2 * 600 + 60 * 8 + 60 } else { 600 / 5 + 60 * 5 + 60 };
        assert!(asked <= most, "{asked} requests for 660 records: {what}");
        assert_eq!(bench.audit().len(), 0, "{what}");
    }
}

#[test]
fn a_command_to_a_meter_that_does_not_answer_fails_and_one_that_never_recorded_has_no_data() {
    let mut bench = Bench::new(profile(5_000, NUMBERINGS[0], WINDOW), 0);
    bench.is_up = false;
    bench.recorder.read_history(1, DeviceIndex(0), (Timestamp(T - HOUR), Timestamp(T)));
    bench.run(10 * MINUTE);
    assert_eq!(bench.told.history, [(1, Outcome::Failed("no answer".into()))]);
    bench.is_up = true;
    bench.mishap(|memory, t_ms| memory.clear(t_ms));
    bench.recorder.read_history(2, DeviceIndex(0), (Timestamp(T - HOUR), Timestamp(T)));
    // That it is empty is believed at the next look.
    bench.run(3 * MINUTE);
    assert_eq!(bench.told.history[1], (2, Outcome::NoData));
    bench.run(HOUR);
    assert_eq!(counts(&bench.audit()).keys().copied().collect::<Vec<_>>(), ["overwritten"]);
}

#[test]
fn a_half_written_record_waits_until_it_is_whole() {
    let flag = "flag = [{ at = 2, bits = [3], means = \"incomplete\" }]";
    for extra in ["", flag] {
        for (what, _) in
            each_way(5_000).filter(|(what, _)| what.contains("seconds-2000") || !extra.is_empty())
        {
            if !extra.is_empty() && !what.contains("seconds") {
                continue;
            }
            let (numbering, way) = what.rsplit_once('\n').unwrap();
            let mut bench = Bench::new(profile(5_000, &format!("{numbering}\n{extra}"), way), HOUR);
            bench.mishap(|memory, _| memory.write_slowly(if extra.is_empty() { 3_200 } else { 20_000 }));
            bench.run(3 * HOUR + 30_000);
            let (count, left) = (bench.told.readings.len(), bench.audit());
            assert_eq!(counts(&left), BTreeMap::new(), "{what}");
            assert_eq!(count, 4 * 60 + 1, "{what}");
        }
    }
}

#[test]
fn a_clock_that_is_off_is_flagged_as_long_as_it_is() {
    for (clock, ms) in [(CLOCK, -5 * MINUTE), (CLOCK, 5 * MINUTE), ("", 5 * MINUTE)] {
        let mut bench = Bench::new(profile(5_000, &format!("{}\n{clock}", NUMBERINGS[0]), FILE), 0);
        bench.run(HOUR);
        bench.mishap(|memory, t_ms| memory.step_clock(ms, t_ms));
        bench.run(HOUR);
        bench.mishap(|memory, t_ms| memory.step_clock(-ms, t_ms));
        bench.run(HOUR);
        let flagged = |from: i64, to: i64| {
            let part = bench.told.readings.range(T + from..T + to);
            let marked = part.clone().filter(|(_, samples)| {
                samples.iter().all(|sample| sample.quality == Quality::UncertainClock)
            });
            (marked.count(), part.count())
        };
        assert_eq!(flagged(0, HOUR - 20 * MINUTE).0, 0);
        let (marked, all) = flagged(HOUR + 6 * MINUTE, 2 * HOUR - 10 * MINUTE);
        assert!(marked == all && all > 40, "{marked} of {all} with a clock {ms} ms off");
        assert_eq!(flagged(2 * HOUR + 10 * MINUTE, 4 * HOUR).0, 0);
    }
}

#[test]
fn what_was_written_before_the_clock_was_set_back_is_read_too() {
    for (what, profile) in each_way(5_000) {
        let mut bench = Bench::new(profile, 0);
        bench.run(HOUR);
        bench.is_up = false;
        bench.run(2 * HOUR);
        bench.mishap(|memory, t_ms| memory.step_clock(-HOUR, t_ms));
        bench.run(HOUR / 2);
        bench.is_up = true;
        bench.run(4 * HOUR);
        let held = bench.held().into_iter();
        let lost: Vec<_> = held.filter(|at| *at > T && !bench.told.readings.contains_key(at)).collect();
        let lost = lost.iter().map(|at| Timestamp(*at).to_string()).collect::<Vec<_>>();
        assert!(lost.len() <= 1, "{lost:?} were not read: {what}");
    }
}

/// The next of a row of numbers that looks like chance, below `end`.
fn dice(state: &mut u64, end: i64) -> i64 {
    *state = mix(&[*state]);
    i64::try_from(*state >> 33).unwrap() % end
}

/// Whatever happens to line, power and memory, once it is over all that the meter still holds has been read, every value
/// is its own, and each slot is a reading or a miss.
#[test]
fn unlucky_weeks() {
    for (seed, (what, _)) in (1_u64..).zip(each_way(1).chain(each_way(1)).chain(each_way(1))) {
        let mut state = seed;
        let capacity = u16::try_from(200 + dice(&mut state, 2_000)).unwrap();
        let (numbering, way) = what.rsplit_once('\n').unwrap();
        let mut bench = Bench::new(profile(capacity, numbering, way), 3 * HOUR);
        bench.mishap(|memory, _| memory.write_slowly(500));
        let mut deeds = Vec::new();
        for _ in 0..8 {
            bench.run(MINUTE * dice(&mut state, 180));
            let deed = dice(&mut state, 6);
            deeds.push((bench.ms / MINUTE, deed));
            bench.is_up = deed < 2;
            // With the line down it happens in the midst of an outage.
            bench.run(MINUTE * dice(&mut state, 200));
            match deed {
                0 | 2 => bench.mishap(|memory, t_ms| memory.power_failed(20 * MINUTE, t_ms)),
                1 | 3 => bench.mishap(|memory, t_ms| memory.clear(t_ms)),
                _ => {}
            }
            bench.run(MINUTE * dice(&mut state, 400));
            bench.is_up = true;
        }
        bench.run(6 * HOUR);
        let held = bench.held();
        let lost: Vec<&i64> = held[..held.len() - 2]
            .iter()
            .filter(|at| **at >= T && !bench.told.readings.contains_key(at))
            .collect();
        assert!(
            lost.is_empty(),
            "seed {seed}: {} not read, first {:?}; {deeds:?}\n{what}",
            lost.len(),
            lost[0]
        );
        bench.audit();
    }
}
