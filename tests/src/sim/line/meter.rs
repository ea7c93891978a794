//! A made-up meter for simulated lines, and the check of what was read from it.
//!
//! Its registers stand in two blocks of one length: two requests that nothing but their addresses tells apart, so that
//! the late answer to one fits the other. Each block has its own evaluation time, a counter and two values that move
//! with every millisecond.

use std::collections::BTreeMap;

use gapless_agent::config::Device;
use gapless_agent::event::BusEvent;
use gapless_common::id::{DeviceId, DeviceIndex};
use gapless_common::profile::{Location, Profile};
use gapless_common::quality::Quality;
use gapless_common::reading::{Acquired, Sample};
use gapless_common::time::{Interval, SlotGrid, Timestamp};
use gapless_simulators::modbus::DeviceKind;

use super::ground::Said;
use super::{MS, Served, SimLine};

const PROFILE: &str = r#"
id = "simulated-meter"
make = "Gapless"
model = "Simulated"
kind = "meter"
source = "tests/src/sim/line/meter.rs"

channel = [
    { id = "voltage", address = 0, type = "f32", unit = "V" },
    { id = "power", address = 2, type = "i32", unit = "W" },
    { id = "energy_in", address = 4, type = "u32", unit = "kWh", scale = 0.001, aggregation = "counter" },
    { id = "time_a", address = 6, type = "u64", unit = "ms", quantity = "evaluation_time" },
    { id = "current", address = 100, type = "f32", unit = "A" },
    { id = "reactive", address = 102, type = "i32", unit = "var" },
    { id = "energy_out", address = 104, type = "u32", unit = "kWh", scale = 0.001, aggregation = "counter" },
    { id = "time_b", address = 106, type = "u64", unit = "ms", quantity = "evaluation_time" },
]
"#;

/// Its register map.
///
/// # Panics
/// Never: a test reads it.
#[must_use]
pub fn profile() -> Profile {
    Profile::parse("meter.rs", PROFILE).expect("the map above is good")
}

/// The kind of device that serves it.
#[must_use]
pub fn kind() -> DeviceKind {
    DeviceKind::Profile(Box::new(profile()))
}

/// One of them as the agent is configured to poll it; `index` 0 is unit 1.
///
/// # Panics
/// Where `interval_ms` is 0, or `index` beyond 246.
#[must_use]
pub fn device(index: u16, interval_ms: u64, timeout_ms: u32, retries: u8) -> Device {
    Device {
        id: DeviceId::new(&format!("meter-{}", index + 1)).expect("made of letters and digits"),
        index: DeviceIndex(index),
        unit: unit_of(DeviceIndex(index)),
        grid: SlotGrid::every(Interval::from_ms(interval_ms).expect("more than 0")),
        timeout_ms,
        retries,
        turnaround_ms: 0,
        max_hole: 0,
        max_registers: 125,
        channels: profile().channels,
        sunspec: None,
        memory: None,
        profile: None,
        attributes: BTreeMap::new(),
        paused: false,
    }
}

/// The unit of a device of [`device`].
///
/// # Panics
/// Beyond 246.
#[must_use]
pub fn unit_of(device: DeviceIndex) -> u8 {
    u8::try_from(device.0 + 1).expect("at most 247 units")
}

/// Holds a reading against the line's log: each value must be the device's truth at a request for just this channel
/// that was complete within the slot it was stored for, or, where it has none, in the `since_ns` before.
///
/// # Errors
/// What was stored, and what was true.
pub fn check(line: &SimLine, device: &Device, said: &Said, since_ns: u64) -> Result<(), String> {
    let BusEvent::Answered { device: index, acquired, at, samples } = &said.event else { return Ok(()) };
    if *index != device.index {
        return Ok(());
    }
    let from_ms = match acquired {
        Acquired::InSlot(slot) => Some(device.grid.at(*slot)),
        Acquired::Recorded(_) | Acquired::SinceBoot(_) => None,
    };
    let asked = |served: &&Served| {
        let in_time = match from_ms {
            Some(from) => served.eval_ms >= from.0,
            None => served.at_ns + since_ns >= said.at_ns,
        };
        served.unit == device.unit && served.at_ns <= said.at_ns && in_time
    };
    // The log is in the order of time, but for requests that overlap; a poll lasts no minute.
    let served = line.served();
    let begin = served.partition_point(|served| served.at_ns + ns(60_000) < said.at_ns);
    let recent = served[begin..].iter().take_while(|served| served.at_ns <= said.at_ns + ns(1_000));
    let requests: Vec<&Served> = recent.filter(asked).collect();
    samples.iter().try_for_each(|sample| check_sample(line, device, sample, &requests, *at))
}

fn check_sample(
    line: &SimLine,
    device: &Device,
    sample: &Sample,
    requests: &[&Served],
    at: Timestamp,
) -> Result<(), String> {
    let Some(value) = &sample.value else { return Ok(()) };
    let spec = &device.channels[usize::from(sample.channel.0)];
    let Location::Absolute(address) = spec.location else {
        return Err(format!("{} has no address", spec.id));
    };
    let holds = |served: &&&Served| (served.asked.1..served.asked.1 + served.asked.2).contains(&address);
    let truth = |served: &&Served| line.truth(served.unit, spec.id.as_str(), served.eval_ms);
    let truths: Vec<_> = requests.iter().filter(holds).map(truth).collect();
    if truths.iter().any(|truth| truth.as_ref() == Some(value)) {
        return Ok(());
    }
    let id = &device.id;
    Err(format!(
        "{id}/{} at {at}: {value:?} of quality {:?}; true was one of {truths:?}",
        spec.id, sample.quality
    ))
}

/// Slots of a device and how each ended, as a bus has told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Account {
    /// Slots read, with whether all channels had a value.
    pub read: BTreeMap<i64, bool>,
    /// Slots missed, with the cause.
    pub missed: BTreeMap<i64, &'static str>,
}

impl Account {
    /// Of what was said of `device`.
    pub fn of<'a>(device: DeviceIndex, said: impl IntoIterator<Item = &'a Said>) -> Self {
        let mut account = Self::default();
        for Said { event, .. } in said {
            match event {
                BusEvent::Answered { device: who, acquired: Acquired::InSlot(slot), samples, .. }
                    if *who == device =>
                {
                    let good = samples.iter().all(|sample| sample.quality == Quality::Good);
                    *account.read.entry(slot.0).or_insert(true) &= good;
                }
                BusEvent::Missed(run) if run.device == device => {
                    let slots = (0..i64::from(run.count)).map(|n| (run.first.0 + n, run.cause.slug()));
                    account.missed.extend(slots);
                }
                _ => {}
            }
        }
        account
    }

    /// Whether every slot from the first to the last is read or missed, and none both.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let mut all: Vec<i64> = self.read.keys().chain(self.missed.keys()).copied().collect();
        all.sort_unstable();
        all.windows(2).all(|pair| pair[0] + 1 == pair[1])
    }

    /// How many slots were missed for each cause.
    #[must_use]
    pub fn causes(&self) -> BTreeMap<&'static str, usize> {
        let mut causes = BTreeMap::new();
        self.missed.values().for_each(|cause| *causes.entry(*cause).or_default() += 1);
        causes
    }
}

/// The instant of the world at which a span of `ms` has passed.
#[must_use]
pub const fn ns(ms: u64) -> u64 {
    ms * MS
}
