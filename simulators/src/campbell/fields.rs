//! Which fields a program stores in a table, and what is true of each at an instant. Every value is a decimal number
//! with few places, as loggers print them, so that its text and its binary64 are one and the same. Reads no clock.

use std::fmt;

use gapless_common::catalog::{Aggregation, PeriodLabel};
use gapless_common::id::ChannelId;
use gapless_common::profile::{ByteOrder, ChannelSpec, Location, RegisterTable, Scale, ValueType};
use gapless_common::reading::Value;

use crate::truth::{Signal, mix, name_seed};

/// (name, unit as a program writes it, unit that says how the curve looks, processing)
const USUAL: [(&str, &str, &str, &str); 10] = [
    ("BattV_Min", "Volts", "V", "Min"),
    ("PTemp_C_Avg", "Deg C", "Cel", "Avg"),
    ("WS_ms_Avg", "meters/second", "m/s", "Avg"),
    ("WindDir_D1_WVT", "Deg", "deg", "WVc"),
    ("AirTC(1)", "Deg C", "Cel", "Smp"),
    ("AirTC(2)", "Deg C", "Cel", "Smp"),
    ("RH", "%", "%", "Smp"),
    ("BP_hPa", "hPa", "hPa", "Smp"),
    ("Rain_mm_Tot", "mm", "mm", "Tot"),
    ("SlrW_Avg", "W/m^2", "W/m2", "Avg"),
];

/// One record in so many has no number in a field: the sensor had failed.
const NAN_EVERY: u64 = 61;
/// One record in so many has an overflow in it.
const INF_EVERY: u64 = 487;

/// What a field holds in one record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell {
    /// A measurement.
    Number(f64),
    /// `"NAN"`: none.
    Nan,
    /// `"INF"`: an overflow.
    Infinite,
}

/// As it stands in CSIJSON.
impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Nan => f.write_str("\"NAN\""),
            Self::Infinite => f.write_str("\"INF\""),
        }
    }
}

/// One field of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Its name, subscripts included.
    pub name: String,
    /// Its unit, as the program says.
    pub unit: String,
    /// How its number comes about: `Smp`, `Avg`, `Min`, `Max`, `Tot`, `WVc`.
    pub process: &'static str,
    seed: u64,
    signal: Signal,
}

impl Field {
    fn new(name: String, unit: &str, looks: &str, process: &'static str, seed: u64) -> Self {
        let seed = mix(&[seed, name_seed(&name)]);
        Self { signal: Signal::new(&spec(looks), seed, 0), name, unit: unit.to_owned(), process, seed }
    }

    /// What it holds in the record of `utc_ms`.
    #[must_use]
    pub fn cell(&self, utc_ms: i64) -> Cell {
        let dice = mix(&[self.seed, 2, utc_ms.cast_unsigned()]);
        match self.signal.value(utc_ms, None) {
            _ if dice.is_multiple_of(INF_EVERY) => Cell::Infinite,
            Value::Number(number) if !dice.is_multiple_of(NAN_EVERY) => Cell::Number(number),
            _ => Cell::Nan,
        }
    }
}

fn spec(unit: &str) -> ChannelSpec {
    ChannelSpec {
        id: ChannelId::new("field").expect("a name"),
        table: RegisterTable::HoldingRegister,
        location: Location::Absolute(0),
        value_type: ValueType::F64,
        order: ByteOrder::ABCD,
        scale: Scale::new(1.0, 0.0).expect("a scale"),
        scale_from: None,
        unit: unit.into(),
        quantity: "".into(),
        aggregation: Aggregation::Instant,
        label: PeriodLabel::default(),
        sentinels: Vec::new(),
        valid: None,
        attributes: std::collections::BTreeMap::new(),
    }
}

/// The fields of `table` under a program. Each further program has one field of its own in the place of the last one.
#[must_use]
pub fn of_program(table: &str, count: usize, program: u32, seed: u64) -> Vec<Field> {
    let seed = mix(&[seed, name_seed(table)]);
    let mut fields: Vec<Field> = (0..count.max(1))
        .map(|place| match USUAL.get(place) {
            Some((name, unit, looks, process)) => Field::new((*name).to_owned(), unit, looks, process, seed),
            None => Field::new(format!("Extra({})", place - USUAL.len() + 1), "", "", "Smp", seed),
        })
        .collect();
    if program > 0 {
        fields.pop();
        fields.push(Field::new(format!("Added_{program}_Avg"), "Volts", "V", "Avg", seed));
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_what_is_true() {
        let fields = of_program("Met", 12, 0, 1);
        let (mut numbers, mut others) = (0, 0);
        for field in &fields {
            for n in 0..500 {
                match field.cell(1_767_225_600_000 + n * 10_000) {
                    cell @ Cell::Number(number) => {
                        let told: f64 = cell.to_string().parse().unwrap();
                        assert_eq!(told.to_bits(), number.to_bits());
                        numbers += 1;
                    }
                    Cell::Nan | Cell::Infinite => others += 1,
                }
            }
        }
        assert!(numbers > 5_000 && others > 50, "{numbers} {others}");
    }

    #[test]
    fn each_program_has_fields_of_its_own() {
        let names = |program| {
            let fields = of_program("Met", 4, program, 1);
            fields.into_iter().map(|field| field.name).collect::<Vec<_>>()
        };
        assert_eq!(names(0), ["BattV_Min", "PTemp_C_Avg", "WS_ms_Avg", "WindDir_D1_WVT"]);
        assert_eq!(names(2), ["BattV_Min", "PTemp_C_Avg", "WS_ms_Avg", "Added_2_Avg"]);
    }
}
