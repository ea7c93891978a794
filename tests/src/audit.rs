//! The audit: holds every reading, slot and gap that the API tells of against what the devices measured.

use std::collections::BTreeMap;
use std::time::Duration;

use gapless_common::reading::Value;
use gapless_common::time::Timestamp;
use serde_json::Value as Json;

use crate::api::{Api, ApiReading, instant_ms};
use crate::settle;
use crate::site::{DeviceSpec, SITE, Site};

/// What an audit found of one device; it panics where the promise is broken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// The device.
    pub device: String,
    /// Slots with a reading.
    pub received: u64,
    /// Slots in gaps, by cause.
    pub missing: BTreeMap<String, u64>,
    /// The gaps, by their begin.
    pub gaps: Vec<Gap>,
    /// Readings compared bit for bit.
    pub compared: u64,
    /// When the agent was told to stop.
    pub stopped: Timestamp,
}

/// Slots that the collector says are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Begin of the first slot.
    pub from: Timestamp,
    /// End of the last one.
    pub to: Timestamp,
    /// Why, by the cause's short name.
    pub cause: String,
    /// How many.
    pub slots: u64,
}

impl Account {
    /// Whether no slot is missing for a cause that is not among `expected`.
    #[must_use]
    pub fn misses_only(&self, expected: &[&str]) -> bool {
        self.missing.keys().all(|cause| expected.contains(&cause.as_str()))
    }

    /// Slots missing for `cause`.
    #[must_use]
    pub fn missing_for(&self, cause: &str) -> u64 {
        self.missing.get(cause).copied().unwrap_or(0)
    }
}

/// The answer may be complete so much later than its registers were evaluated: the line's time and a busy machine.
const ANSWER_MS_MAX: i64 = 2_500;

/// Stops the agent with SIGTERM, waits until the collector has proof of everything it polled, and audits every
/// device.
///
/// # Panics
/// With what is wrong: the proof does not come `within`, or a device's account does not hold.
#[must_use]
pub fn stop_and_audit(site: &mut Site, within: Duration) -> Vec<Account> {
    let stopped = settle::now();
    site.stop_agent();
    settle::until_proven(site, stopped, within);
    let api = site.api();
    site.spec.devices.iter().map(|spec| Account { stopped, ..device(site, &api, spec) }).collect()
}

/// Checks one device whose agent has stopped: every stored value is the truth of its evaluation time; there are as
/// many stored answers as slots received, and one more at most for each poll out of turn (it may come in a slot that was
/// answered already); every slot up to the proof is received or within exactly one gap.
fn device(site: &Site, api: &Api, spec: &DeviceSpec) -> Account {
    let readings = api.readings(&format!("{SITE}/{}/*", spec.name)).expect("the API answers");
    let answers = by_instant(&readings);
    let compared = answers.values().map(|answer| compare(site, spec, answer)).sum();
    let (received, absent) = slots(api, spec);
    let stored = u64::try_from(answers.len()).expect("fits");
    let most = received + polls_out_of_turn(api, spec);
    assert!(
        (received..=most).contains(&stored),
        "{}: {stored} stored answers, but {received} slots received and at most {most} answers told",
        spec.name
    );
    let gaps = gaps(api, spec);
    let mut missing = BTreeMap::new();
    for gap in &gaps {
        *missing.entry(gap.cause.clone()).or_default() += gap.slots;
    }
    assert_eq!(
        missing.values().sum::<u64>(),
        absent,
        "{}: slots in gaps {missing:?} and slots absent",
        spec.name
    );
    Account { device: spec.name.clone(), received, missing, gaps, compared, ..Account::default() }
}

/// Polls that the collector asked for because the device's data was stale, each once for every try.
fn polls_out_of_turn(api: &Api, spec: &DeviceSpec) -> u64 {
    let jobs = api.get("/api/v1/jobs?limit=10000").expect("the API answers");
    let of = |list: &str| {
        let rows = jobs[list].as_array().unwrap_or_else(|| fail(&format!("no {list} in {jobs}")));
        rows.iter().filter(|row| row["device"] == spec.name && !row["began_at"].is_null()).count()
    };
    u64::try_from(of("jobs") + of("history")).expect("fits")
}

type Answer<'a> = BTreeMap<&'a str, &'a ApiReading>;

fn by_instant(readings: &[ApiReading]) -> BTreeMap<i64, Answer<'_>> {
    let mut answers: BTreeMap<i64, Answer<'_>> = BTreeMap::new();
    for reading in readings {
        let channel = reading.series.rsplit('/').next().unwrap_or_default();
        let twice = answers.entry(reading.at_ms).or_default().insert(channel, reading);
        assert_eq!(twice, None, "a reading is told twice");
    }
    answers
}

/// Compares one answer with the truth of its evaluation time, bit for bit; gives the number of readings.
fn compare(site: &Site, spec: &DeviceSpec, answer: &Answer<'_>) -> u64 {
    let clock = answer.get("eval_time_ms").and_then(|r| r.value.as_f64());
    let clock = clock.unwrap_or_else(|| fail(&format!("{}: no evaluation time: {answer:?}", spec.name)));
    #[expect(clippy::cast_possible_truncation, reason = "milliseconds since 1970 are far below 2^53")]
    let evaluated = clock as i64;
    let device = site.units(spec).device(spec.unit).expect("the simulator has the unit");
    assert_eq!(answer.len(), usize::from(spec.channels) + 1, "{}: a part of an answer is missing", spec.name);
    for (channel, reading) in answer {
        let age = reading.at_ms - evaluated;
        assert!(
            (0..=ANSWER_MS_MAX).contains(&age),
            "{}: stamped {age} ms after its evaluation",
            reading.series
        );
        let truth = device.truth(channel, evaluated);
        let same = match (&truth, reading.value.as_f64()) {
            (Some(Value::Number(truth)), Some(told)) => truth.to_bits() == told.to_bits(),
            _ => false,
        };
        assert!(same, "{} at {}: told {}, true {truth:?}", reading.series, reading.at_ms, reading.value);
    }
    u64::try_from(answer.len()).expect("fits")
}

fn instant(row: &Json, key: &str) -> Timestamp {
    Timestamp(instant_ms(&row[key]).unwrap_or_else(|e| fail(&format!("{key} of {row}: {e}"))))
}

/// Slots received, and slots that are missed or lost. Up to the proof the runs follow one another without a hole,
/// and none of them is late or unknown.
fn slots(api: &Api, spec: &DeviceSpec) -> (u64, u64) {
    let (now, known) = (settle::now(), api.get(&format!("/api/v1/devices/{SITE}/{}", spec.name)));
    let proven = instant(&known.expect("the API answers"), "proven_until");
    let path = format!(
        "/api/v1/coverage?site={SITE}&device={}&from={}&to={now}",
        spec.name,
        now.plus_ms(-3_600_000)
    );
    let coverage = api.get(&path).expect("the API answers");
    let (mut received, mut absent, mut end) = (0, 0, None);
    for run in coverage["runs"].as_array().unwrap_or(&Vec::new()) {
        if instant(run, "from") >= proven {
            break;
        }
        assert!(end.is_none_or(|end| end == instant(run, "from")), "{}: a hole before {run}", spec.name);
        end = Some(instant(run, "to"));
        let slots = run["slots"].as_u64().unwrap_or(0);
        match run["state"].as_str() {
            Some("received") => received += slots,
            Some("missed" | "lost") => absent += slots,
            _ => fail(&format!("{}: proven until {proven}, but {run}", spec.name)),
        }
    }
    (received, absent)
}

/// The gaps; no slot is in two.
fn gaps(api: &Api, spec: &DeviceSpec) -> Vec<Gap> {
    let path = format!("/api/v1/gaps?site={SITE}&device={}&state=unfilled&limit=10000", spec.name);
    let rows = api.items(&path).expect("the API answers");
    let gap = |row: &Json| Gap {
        from: instant(row, "from"),
        to: instant(row, "to"),
        cause: row["cause"].as_str().unwrap_or_default().to_owned(),
        slots: row["slots"].as_u64().unwrap_or(0),
    };
    let mut gaps: Vec<Gap> = rows.iter().map(gap).collect();
    gaps.sort_by_key(|gap| gap.from);
    for two in gaps.windows(2) {
        assert!(two[0].to <= two[1].from, "{}: two gaps name the same slots: {two:?}", spec.name);
    }
    gaps
}

#[expect(clippy::panic, reason = "an audit fails its test")]
fn fail(why: &str) -> ! {
    panic!("{why}")
}
