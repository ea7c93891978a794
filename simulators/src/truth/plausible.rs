//! Which numbers a person would believe for a unit: where a curve lies, how fast a counter counts, how fine a
//! float is. Only for looks: no test may rely on these figures.

use gapless_common::profile::{ChannelSpec, ValueType};

/// Where a curve lies, in engineering units.
pub(super) struct Range {
    pub(super) centre: f64,
    pub(super) swing: f64,
}

/// (unit, centre, swing, decimal places of a float)
const UNITS: [(&str, f64, f64, i32); 24] = [
    ("V", 230.0, 9.0, 2),
    ("A", 12.0, 10.0, 3),
    ("W", 2_500.0, 2_300.0, 1),
    ("kW", 2.5, 2.3, 4),
    ("VA", 2_800.0, 2_300.0, 1),
    ("kVA", 2.8, 2.3, 4),
    ("var", 400.0, 350.0, 1),
    ("VAr", 400.0, 350.0, 1),
    ("kvar", 0.4, 0.35, 4),
    ("Hz", 50.0, 0.06, 3),
    ("m/s", 8.0, 6.5, 3),
    ("deg", 180.0, 150.0, 2),
    ("Cel", 12.0, 11.0, 2),
    ("°C", 12.0, 11.0, 2),
    ("degC", 12.0, 11.0, 2),
    ("K", 285.0, 11.0, 2),
    ("%", 60.0, 30.0, 2),
    ("hPa", 1_005.0, 12.0, 2),
    ("mbar", 1_005.0, 12.0, 2),
    ("Pa", 100_500.0, 1_200.0, 0),
    ("W/m2", 420.0, 400.0, 1),
    ("mm", 3.0, 2.5, 2),
    ("s", 30.0, 20.0, 1),
    ("", 0.9, 0.09, 3),
];

const OTHER: (f64, f64, i32) = (100.0, 50.0, 2);

fn row(spec: &ChannelSpec) -> (f64, f64, i32) {
    if spec.quantity.contains("battery") && &*spec.unit == "V" {
        return (12.6, 0.7, 3);
    }
    UNITS.iter().find(|row| row.0 == &*spec.unit).map_or(OTHER, |row| (row.1, row.2, row.3))
}

/// Where the curve of `spec` lies: what its unit suggests, moved into its valid range.
pub(super) fn range(spec: &ChannelSpec) -> Range {
    let (centre, swing, _) = row(spec);
    match spec.valid {
        Some((low, high)) if centre - swing < low || centre + swing > high => {
            Range { centre: low + (high - low) / 2.0, swing: (high - low) * 0.4 }
        }
        _ => Range { centre, swing },
    }
}

/// Decimal places of the raw number: floats only, integers have none.
pub(super) fn decimals(spec: &ChannelSpec) -> i32 {
    match spec.value_type {
        ValueType::F32 | ValueType::F64 => row(spec).2,
        _ => 0,
    }
}

/// What a counter counts in an hour, in engineering units: 3 kW of energy.
pub(super) fn per_hour(spec: &ChannelSpec) -> f64 {
    match &*spec.unit {
        "Wh" | "VAh" | "varh" => 3_000.0,
        "MWh" | "MVAh" | "Mvarh" => 0.003,
        "h" => 1.0,
        "s" => 3_600.0,
        _ => 3.0,
    }
}

/// Least and greatest raw number of a type. Floats are held to what 24 bits of mantissa keep apart.
pub(super) fn limits(value_type: ValueType) -> (i128, i128) {
    let bits = |count: u32| (0, (1_i128 << count) - 1);
    match value_type {
        ValueType::Bool => (0, 1),
        ValueType::Bits { count, .. } => bits(u32::from(count)),
        ValueType::I16 => (i16::MIN.into(), i16::MAX.into()),
        ValueType::U16 => bits(16),
        ValueType::I32 => (i32::MIN.into(), i32::MAX.into()),
        ValueType::U32 => bits(32),
        // A reading is a binary64: beyond 2^53 it could not be compared exactly.
        ValueType::I64 | ValueType::U64 | ValueType::F64 => bits(53),
        ValueType::F32 => (-(1 << 40), 1 << 40),
        ValueType::Bcd16 => (0, 9_999),
        ValueType::Bcd32 => (0, 99_999_999),
        ValueType::Bcd64 => (0, 9_999_999_999_999_999),
        ValueType::Text { .. } => (0, 0),
    }
}

/// The nearest integer.
#[expect(clippy::cast_possible_truncation, reason = "a saturating cast is what is wanted: limits follow")]
pub(super) fn whole(number: f64) -> i128 {
    number.round() as i128
}

/// The nearest binary64; exact below 2^53, which `limits` keeps to.
pub(super) fn wide(number: i128) -> f64 {
    number as f64
}

/// The nearest binary32: what a device with single precision holds.
#[expect(clippy::cast_possible_truncation, reason = "rounding to the register's precision is the point")]
pub(super) fn narrow(number: f64) -> f32 {
    number as f32
}
