//! What a simulated device measures: every value a pure function of (seed, device, channel, time).
//!
//! A value is made in the units of its register first (an integer, or an integer number of decimal steps for a
//! float) and scaled afterwards, so that a stored reading can be compared with the truth bit for bit. Curves are
//! interpolated between hashed lattice points in integer arithmetic: no `sin`, no rounding that differs from one
//! machine to the next. Two neighbouring milliseconds nearly always differ in noise, so a wrong timestamp shows.
//!
//! Not simulated: physics. Current, voltage and power of one meter do not multiply up.

use std::fmt::Write as _;

use gapless_common::catalog::Aggregation;
use gapless_common::profile::{ChannelSpec, Scale, Sentinel, ValueType};
use gapless_common::reading::Value;

mod plausible;

use plausible::Range;

/// What stands in the registers, before byte order.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    /// Integers, bit fields, BCD and bits.
    Int(i128),
    /// IEEE 754 binary32.
    F32(f32),
    /// IEEE 754 binary64.
    F64(f64),
    /// Characters.
    Text(String),
}

/// Mixes `parts` into one well-spread number (splitmix64's finaliser, applied once per part).
#[must_use]
pub fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9E37_79B9_7F4A_7C15, |state, part| {
        let mut z = (state ^ part).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

/// A number for a name (FNV-1a, 64 bit).
#[must_use]
pub fn name_seed(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// One in 32 bits of fixed-point fraction.
const ONE: i128 = 1 << 32;

/// A smooth curve between 0 and [`ONE`] that turns about once per `period_ms`.
fn curve(seed: u64, t_ms: i64, period_ms: i64) -> i128 {
    let (step, within) = (t_ms.div_euclid(period_ms), t_ms.rem_euclid(period_ms));
    let fraction = i128::from(within) * ONE / i128::from(period_ms);
    let eased = (((fraction * fraction) >> 32) * (3 * ONE - 2 * fraction)) >> 32;
    let point = |k: i64| i128::from(mix(&[seed, k.cast_unsigned()]) >> 32);
    let (from, to) = (point(step), point(step.wrapping_add(1)));
    from + (((to - from) * eased) >> 32)
}

/// Ten minutes, a minute, five seconds: the weights of their sum are 8, 5 and 3 sixteenths.
const OCTAVES: [(i64, i128); 3] = [(600_000, 8), (60_000, 5), (5_000, 3)];

/// `centre ± swing`, with noise of a few steps on top; all in raw units.
fn wave(seed: u64, t_ms: i64, shape: &Wave) -> i128 {
    let sum: i128 = OCTAVES.iter().map(|(period, weight)| curve(seed, t_ms, *period) * weight).sum();
    let noise =
        i128::from(mix(&[seed, 1, t_ms.cast_unsigned()])).rem_euclid(2 * shape.noise + 1) - shape.noise;
    let swung = shape.swing * (2 * sum / 16 - ONE) / ONE;
    (shape.centre + swung + noise).clamp(shape.least, shape.greatest)
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Wave {
    centre: i128,
    swing: i128,
    noise: i128,
    least: i128,
    greatest: i128,
}

/// 2020-01-01T00:00:00Z: when every counter stood at zero.
const COUNTERS_BEGAN_MS: i64 = 1_577_836_800_000;
/// How long a counter runs fast or slow at a stretch.
const COUNTER_WOBBLE_MS: i64 = 600_000;

/// Raw steps since the counter stood at zero: rises with every step of `t_ms`, at 0.25 to 1.75 times its rate.
fn count(seed: u64, t_ms: i64, steps_per_hour: i128) -> i128 {
    let wobble = (curve(seed, t_ms, COUNTER_WOBBLE_MS) * i128::from(COUNTER_WOBBLE_MS / 2)) >> 32;
    (i128::from(t_ms.saturating_sub(COUNTERS_BEGAN_MS)) + wobble) * steps_per_hour / 3_600_000
}

#[derive(Debug, Clone, PartialEq)]
enum Shape {
    Wave(Wave),
    Counter { steps_per_hour: i128, modulus: i128 },
    Text(String),
    EvaluationTime,
}

/// One channel's truth.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    seed: u64,
    value_type: ValueType,
    shape: Shape,
    /// Decimal places of the raw number; floats only.
    decimals: i32,
    scale: Scale,
    exponent: i32,
    sentinels: Vec<Sentinel>,
}

/// The quantity by which a register map says that a channel is the simulator's own clock.
pub const EVALUATION_TIME: &str = "evaluation_time";

impl Signal {
    /// The truth of `spec` on the device that `device_seed` stands for. `exponent` is the power of ten that the
    /// device serves beside the value where `spec.scale_from` asks for one, 0 elsewhere.
    #[must_use]
    pub fn new(spec: &ChannelSpec, device_seed: u64, exponent: i32) -> Self {
        let seed = mix(&[device_seed, name_seed(spec.id.as_str())]);
        let decimals = plausible::decimals(spec);
        let to_raw = |value: f64| spec.scale.invert(value) / 10f64.powi(exponent) * 10f64.powi(decimals);
        let shape = match (spec.value_type, &*spec.quantity) {
            (ValueType::Text { registers }, _) => Shape::Text(serial(seed, registers)),
            (_, EVALUATION_TIME) => Shape::EvaluationTime,
            _ if spec.aggregation == Aggregation::Counter => counter(spec, to_raw),
            _ => Shape::Wave(wave_of(spec, to_raw)),
        };
        let sentinels = spec.sentinels.clone();
        Self { seed, value_type: spec.value_type, shape, decimals, scale: spec.scale, exponent, sentinels }
    }

    /// What stands in the registers at `t_ms` on a device whose counters were last reset at `reset_ms`.
    #[must_use]
    pub fn raw(&self, t_ms: i64, reset_ms: Option<i64>) -> Raw {
        let steps = match &self.shape {
            Shape::Text(text) => return Raw::Text(text.clone()),
            Shape::EvaluationTime => i128::from(t_ms),
            Shape::Wave(shape) => wave(self.seed, t_ms, shape),
            Shape::Counter { steps_per_hour, modulus } => {
                let began = reset_ms.map_or(0, |reset| count(self.seed, reset, *steps_per_hour));
                (count(self.seed, t_ms, *steps_per_hour) - began).rem_euclid(*modulus)
            }
        };
        let raw = self.number(steps);
        if self.is_sentinel(&raw) { self.number(steps - 1) } else { raw }
    }

    fn number(&self, steps: i128) -> Raw {
        match self.value_type {
            ValueType::F32 => Raw::F32(plausible::narrow(plausible::wide(steps) / 10f64.powi(self.decimals))),
            ValueType::F64 => Raw::F64(plausible::wide(steps) / 10f64.powi(self.decimals)),
            _ => Raw::Int(steps),
        }
    }

    fn is_sentinel(&self, raw: &Raw) -> bool {
        let width = u32::from(self.value_type.registers()) * 16;
        let pattern = match raw {
            Raw::Int(number) => *number & ((1 << width) - 1),
            Raw::F32(number) => i128::from(number.to_bits()),
            Raw::F64(number) => i128::from(number.to_bits()),
            Raw::Text(_) => return false,
        };
        self.sentinels.iter().any(|s| matches!(s, Sentinel::Raw(bits) if i128::from(*bits) == pattern))
    }

    /// What a reader must have stored at `t_ms`: the raw number through the channel's scale.
    #[must_use]
    pub fn value(&self, t_ms: i64, reset_ms: Option<i64>) -> Value {
        let scaled = |raw: f64| Value::Number(self.scale.apply_with_exponent(raw, self.exponent));
        match self.raw(t_ms, reset_ms) {
            Raw::Int(number) => scaled(plausible::wide(number)),
            Raw::F32(number) => scaled(f64::from(number)),
            Raw::F64(number) => scaled(number),
            Raw::Text(text) => Value::Text(text.into()),
        }
    }
}

fn serial(seed: u64, registers: u8) -> String {
    let mut text = String::from("SIM");
    write!(text, "{:08X}", seed >> 32).expect("a String takes all");
    text.truncate(usize::from(registers) * 2);
    text
}

fn counter(spec: &ChannelSpec, to_raw: impl Fn(f64) -> f64) -> Shape {
    let steps_per_hour = plausible::whole(to_raw(plausible::per_hour(spec)) - to_raw(0.0)).max(1);
    let (_, greatest) = plausible::limits(spec.value_type);
    Shape::Counter { steps_per_hour, modulus: greatest + 1 }
}

fn wave_of(spec: &ChannelSpec, to_raw: impl Fn(f64) -> f64) -> Wave {
    let Range { centre, swing } = plausible::range(spec);
    let (mut least, mut greatest) = plausible::limits(spec.value_type);
    if let Some((low, high)) = spec.valid {
        let ends = [plausible::whole(to_raw(low)), plausible::whole(to_raw(high))];
        least = least.max(ends[0].min(ends[1]) + 1);
        greatest = greatest.min(ends[0].max(ends[1]) - 1);
    }
    let greatest = greatest.max(least);
    let swing = plausible::whole((to_raw(centre + swing) - to_raw(centre)).abs());
    Wave { centre: plausible::whole(to_raw(centre)), swing, noise: 3.min(swing), least, greatest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gapless_common::profile::{ByteOrder, Location, RegisterTable};

    fn spec(value_type: ValueType, unit: &str, factor: f64) -> ChannelSpec {
        ChannelSpec {
            id: "x".parse().unwrap(),
            table: RegisterTable::HoldingRegister,
            location: Location::Absolute(0),
            value_type,
            order: ByteOrder::ABCD,
            scale: Scale::new(factor, 0.0).unwrap(),
            scale_from: None,
            unit: unit.into(),
            quantity: "".into(),
            aggregation: Aggregation::Instant,
            label: Default::default(),
            sentinels: Vec::new(),
            valid: None,
            attributes: Default::default(),
        }
    }

    const T: i64 = 1_767_225_600_000;

    /// Do not change the figures: tests elsewhere, and people's notes, name values by seed and time.
    #[test]
    fn the_same_question_gets_the_same_answer() {
        let volts = Signal::new(&spec(ValueType::F32, "V", 1.0), 7, 0);
        let again = Signal::new(&spec(ValueType::F32, "V", 1.0), 7, 0);
        let other = Signal::new(&spec(ValueType::F32, "V", 1.0), 8, 0);
        let row = |signal: &Signal| (0..50).map(|i| signal.value(T + i * 997, None)).collect::<Vec<_>>();
        assert_eq!(row(&volts), row(&again));
        assert_ne!(row(&volts), row(&other));
    }

    #[test]
    fn values_are_plausible_and_move() {
        let rows = [
            (ValueType::F32, "V", 1.0, 200.0, 260.0),
            (ValueType::U16, "V", 0.1, 200.0, 260.0),
            (ValueType::I16, "Cel", 0.1, -20.0, 45.0),
            (ValueType::I32, "W", 1.0, 0.0, 6_000.0),
            (ValueType::F64, "m/s", 1.0, 0.0, 30.0),
        ];
        for (value_type, unit, factor, low, high) in rows {
            let signal = Signal::new(&spec(value_type, unit, factor), 1, 0);
            let mut seen = std::collections::BTreeSet::new();
            for i in 0..2_000 {
                let Value::Number(value) = signal.value(T + i * 1_000, None) else { panic!("a number") };
                assert!((low..=high).contains(&value), "{value} {unit} as {value_type}");
                seen.insert(value.to_bits());
            }
            assert!(seen.len() > 20, "{unit} moves: {} values", seen.len());
        }
    }

    #[test]
    fn counters_only_rise_until_they_are_reset() {
        let mut energy = spec(ValueType::U32, "kWh", 0.01);
        energy.aggregation = Aggregation::Counter;
        let signal = Signal::new(&energy, 3, 0);
        let number = |t: i64, reset: Option<i64>| match signal.raw(t, reset) {
            Raw::Int(number) => number,
            other => panic!("{other:?}"),
        };
        let mut before = number(T, None);
        for step in 0..100_000 {
            let next = number(T + step * 37, None);
            assert!(next >= before, "step {step}");
            before = next;
        }
        assert!(before > number(T, None));
        assert_eq!(number(T, Some(T)), 0);
        assert!((1..before).contains(&number(T + 3_600_000, Some(T))));
    }

    #[test]
    fn no_value_is_the_devices_word_for_none() {
        let mut temperature = spec(ValueType::U16, "Cel", 0.1);
        let plain = Signal::new(&temperature, 1, 0);
        let Raw::Int(hit) = plain.raw(T, None) else { panic!("an integer") };
        temperature.sentinels = vec![Sentinel::Raw(u64::try_from(hit).unwrap())];
        assert_eq!(Signal::new(&temperature, 1, 0).raw(T, None), Raw::Int(hit - 1));
    }
}
