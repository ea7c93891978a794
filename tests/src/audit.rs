//! The audit: holds every reading, slot and gap that the API tells of against what the devices measured.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::reading::Value;
use gapless_common::time::Timestamp;

use crate::api::{Api, ApiReading, instant_ms};
use crate::site::{DeviceSpec, SITE, Site};

/// What an audit found of one device; it panics where the promise is broken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Slots with a reading.
    pub received: u64,
    /// Slots in gaps, by cause.
    pub missing: BTreeMap<String, u64>,
    /// Readings compared bit for bit.
    pub compared: u64,
}

/// The answer may be complete so much later than its registers were evaluated: the line's time and a busy machine.
const ANSWER_MS_MAX: i64 = 1_500;

/// Checks one device: every stored value is the truth of its evaluation time, every slot between its first and
/// `until` is stored once or within exactly one gap, and no slot is both.
///
/// # Panics
/// With what is wrong.
#[must_use]
pub fn device(site: &Site, api: &Api, spec: &DeviceSpec, until: Timestamp) -> Account {
    let readings = api.readings(&format!("{SITE}/{}/*", spec.name)).expect("the API answers");
    let answers = by_instant(&readings, until);
    let compared = answers.values().map(|answer| compare(site, spec, answer)).sum();
    let slots = slots_received(spec, &answers);
    let first = *slots.first().unwrap_or_else(|| fail(&format!("nothing stored of {}", spec.name)));
    let last = spec.grid().slot_at(until.plus_ms(-1)).0;
    let missing = gaps(api, spec, &slots, last);
    let named: u64 = missing.values().sum();
    let due = u64::try_from(last - first + 1).expect("time runs forward");
    let received = u64::try_from(slots.len()).expect("fits");
    assert_eq!(
        received + named,
        due,
        "{}: {received} slots stored and {named} in gaps of {due} due: {missing:?}",
        spec.name
    );
    Account { received, missing, compared }
}

type Answer<'a> = BTreeMap<&'a str, &'a ApiReading>;

fn by_instant(readings: &[ApiReading], until: Timestamp) -> BTreeMap<i64, Answer<'_>> {
    let mut answers: BTreeMap<i64, Answer<'_>> = BTreeMap::new();
    for reading in readings.iter().filter(|r| r.at_ms < until.0) {
        let channel = reading.series.rsplit('/').next().unwrap_or_default();
        let twice = answers.entry(reading.at_ms).or_default().insert(channel, reading);
        assert_eq!(twice, None, "a reading is told twice");
    }
    answers
}

/// Compares one answer with the truth of its evaluation time, bit for bit; gives the number of readings.
fn compare(site: &Site, spec: &DeviceSpec, answer: &Answer<'_>) -> u64 {
    let clock = answer.get("eval_time_ms").and_then(|r| r.value.as_f64());
    let clock = clock.unwrap_or_else(|| {
        fail(&format!("{}: an answer without its evaluation time: {answer:?}", spec.name))
    });
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

fn slots_received(spec: &DeviceSpec, answers: &BTreeMap<i64, Answer<'_>>) -> BTreeSet<i64> {
    let mut slots = BTreeSet::new();
    for at in answers.keys() {
        let slot = spec.grid().slot_at(Timestamp(*at)).0;
        assert!(slots.insert(slot), "{}: slot {slot} is stored twice", spec.name);
    }
    slots
}

/// The gaps of a device by cause, none of which may name a slot that is stored, or one that another names.
fn gaps(api: &Api, spec: &DeviceSpec, stored: &BTreeSet<i64>, last: i64) -> BTreeMap<String, u64> {
    let path = format!("/api/v1/gaps?site={SITE}&device={}&state=open&limit=10000", spec.name);
    let (mut missing, mut named) = (BTreeMap::new(), BTreeSet::new());
    let first_stored = stored.first().copied().unwrap_or(0);
    for gap in api.items(&path).expect("the API answers") {
        let edge = |key| Timestamp(instant_ms(&gap[key]).expect("an instant"));
        let slots = spec.grid().first_from(edge("from")).0..spec.grid().first_from(edge("to")).0;
        for slot in slots.filter(|slot| (first_stored..=last).contains(slot)) {
            assert!(!stored.contains(&slot), "{}: slot {slot} is stored and in a gap: {gap}", spec.name);
            assert!(named.insert(slot), "{}: slot {slot} is in two gaps: {gap}", spec.name);
            *missing.entry(gap["cause"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
    }
    missing
}

#[expect(clippy::panic, reason = "an audit fails its test")]
fn fail(why: &str) -> ! {
    panic!("{why}")
}
