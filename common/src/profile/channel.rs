//! Reads one channel of a register map as a person wrote it, and refuses what cannot be: a register that does not
//! fit its type or table, a sentinel wider than its value, an address outside its notation.

use super::address::{self, Written};
use super::{ByteOrder, ChannelSpec, Defaults, Location, RegisterTable, Scale, Sentinel, ValueType};
use crate::catalog::{Aggregation, PeriodLabel};
use crate::document::{At, Item, Place, Table};
use crate::id::ChannelId;

/// Words for [`RegisterTable`].
pub const TABLES: [(&str, RegisterTable); 4] = [
    ("coil", RegisterTable::Coil),
    ("discrete-input", RegisterTable::DiscreteInput),
    ("input", RegisterTable::InputRegister),
    ("holding", RegisterTable::HoldingRegister),
];

/// Words for [`ByteOrder`].
pub const ORDERS: [(&str, ByteOrder); 4] = [
    ("ABCD", ByteOrder::ABCD),
    ("CDAB", ByteOrder::CDAB),
    ("BADC", ByteOrder::BADC),
    ("DCBA", ByteOrder::DCBA),
];

/// How people write how a number comes about.
pub const AGGREGATIONS: [(&str, Aggregation); 8] = [
    ("instant", Aggregation::Instant),
    ("mean", Aggregation::Mean),
    ("min", Aggregation::Minimum),
    ("max", Aggregation::Maximum),
    ("standard-deviation", Aggregation::StandardDeviation),
    ("counter", Aggregation::Counter),
    ("sum", Aggregation::Sum),
    ("circular-mean", Aggregation::CircularMean),
];

const LABELS: [(&str, PeriodLabel); 2] = [("start", PeriodLabel::Start), ("end", PeriodLabel::End)];

const TYPES: [(&str, ValueType); 14] = [
    ("bool", ValueType::Bool),
    ("bits", ValueType::Bits { first_bit: 0, count: 1 }),
    ("i16", ValueType::I16),
    ("u16", ValueType::U16),
    ("i32", ValueType::I32),
    ("u32", ValueType::U32),
    ("i64", ValueType::I64),
    ("u64", ValueType::U64),
    ("f32", ValueType::F32),
    ("f64", ValueType::F64),
    ("bcd16", ValueType::Bcd16),
    ("bcd32", ValueType::Bcd32),
    ("bcd64", ValueType::Bcd64),
    ("text", ValueType::Text { registers: 1 }),
];

/// Reads a channel; what is wrong with it is reported to the table's document, and `None` is the answer where
/// no channel can be made of it.
#[must_use]
pub fn read_channel(table: &Table<'_>, defaults: &Defaults) -> Option<ChannelSpec> {
    table.need("id", "\"voltage_l1\"");
    table.need("address", "0");
    table.need("type", "\"f32\"");
    let id: Option<At<ChannelId>> = table.parsed("id");
    let name = id.as_ref().map_or("?", |id| id.value.as_str());
    let value_type = read_type(table);
    let position = read_position(table, name, defaults);
    let order = table.word("order", &ORDERS).unwrap_or(defaults.order);
    let scale = read_scale(table, name, value_type);
    let meaning = Meaning::read(table);
    let sentinels = value_type.map(|value_type| read_sentinels(table, name, value_type));
    let valid = read_valid(table, name);
    table.finish();

    let (Position { register_table, location, scale_from, place }, value_type) = (position?, value_type?);
    if let Some(problem) = misfit(name, register_table, location, value_type) {
        table.report(place, problem);
        return None;
    }
    let aggregation = meaning.aggregation;
    Some(ChannelSpec {
        id: id?.value,
        table: register_table,
        location,
        value_type,
        order,
        scale: scale?,
        scale_from,
        unit: meaning.unit,
        quantity: meaning.quantity,
        aggregation,
        label: meaning.label,
        sentinels: sentinels?.unwrap_or_else(|| not_implemented(location, value_type, aggregation)),
        valid,
        attributes: meaning.attributes,
    })
}

impl ChannelSpec {
    /// From what it is read, in words: another text where its number would be another one though its device says the same. What
    /// the catalog says of it is not in it. The words stay as they are: who compares them takes other ones for a change.
    #[must_use]
    pub fn read_from(&self) -> String {
        let Self { id, table, location, value_type, order, scale, scale_from, .. } = self;
        let order = ORDERS.iter().find(|(_, known)| known == order).map_or("", |(word, _)| word);
        let power = scale_from.map_or_else(String::new, |place| format!(", power of ten at {place}"));
        let (factor, offset) = (scale.factor(), scale.offset());
        format!("{id}: {value_type} {order} at {table} {location}, x {factor} + {offset}{power}")
    }
}

struct Meaning {
    unit: Box<str>,
    quantity: Box<str>,
    aggregation: Aggregation,
    label: PeriodLabel,
    attributes: std::collections::BTreeMap<String, String>,
}

impl Meaning {
    fn read(table: &Table<'_>) -> Self {
        Self {
            unit: table.text("unit").map_or_else(Box::default, |found| found.value.into()),
            quantity: table.text("quantity").map_or_else(Box::default, |found| found.value.into()),
            aggregation: read_aggregation(table).unwrap_or_default(),
            label: read_label(table).unwrap_or_default(),
            attributes: table.attributes("attributes"),
        }
    }
}

fn read_type(table: &Table<'_>) -> Option<ValueType> {
    let value_type = table.word("type", &TYPES)?;
    match value_type {
        ValueType::Bits { .. } => read_bits(table),
        ValueType::Text { .. } => {
            table.need("registers", "8");
            Some(ValueType::Text { registers: table.u8("registers", 1..=125)? })
        }
        plain => Some(plain),
    }
}

fn read_bits(table: &Table<'_>) -> Option<ValueType> {
    table.need("first_bit", "0");
    let first_bit = table.u8("first_bit", 0..=15);
    let asked = table.integer("bit_count", 1..=16);
    let (first_bit, count) = (first_bit?, asked.map_or(1, |found| found.value));
    if i64::from(first_bit) + count > 16 {
        let room = 16 - first_bit;
        let at = asked.map_or(table.place(), |found| found.place);
        table.report(at, format!("from bit {first_bit} a register has room for {room} bits, not {count}"));
        return None;
    }
    Some(ValueType::Bits { first_bit, count: u8::try_from(count).ok()? })
}

struct Position {
    register_table: RegisterTable,
    location: Location,
    scale_from: Option<Location>,
    place: Place,
}

/// Table and zero-based address of what is no channel.
pub(super) fn read_address(table: &Table<'_>, defaults: &Defaults) -> Option<(RegisterTable, u16)> {
    let named = table.word("table", &TABLES);
    let found = table.item("address")?;
    let written = Written { base: defaults.address_base, table: named, model: None };
    match address::resolve(found.value, written, defaults.table) {
        Ok((register_table, Location::Absolute(address))) => Some((register_table, address)),
        Ok((_, Location::SunSpec { .. })) => None,
        Err(problem) => {
            table.report(found.place, format!("`address`: {problem}"));
            None
        }
    }
}

fn read_position(table: &Table<'_>, name: &str, defaults: &Defaults) -> Option<Position> {
    let model = table.u16("model", 1..=65_535);
    let named_table = table.word("table", &TABLES);
    let scale_from = table.item("scale_from");
    let address = table.item("address")?;
    let resolve = |found: At<Item<'_>>, named: Option<RegisterTable>| {
        let written = Written { base: defaults.address_base, table: named, model };
        address::resolve(found.value, written, defaults.table)
            .map_err(|problem| table.report(found.place, format!("channel `{name}`: {problem}")))
            .ok()
    };
    let (register_table, location) = resolve(address, named_table)?;
    let scale_from = match scale_from {
        Some(found) => Some(resolve(found, Some(register_table))?.1),
        None => None,
    };
    Some(Position { register_table, location, scale_from, place: address.place })
}

/// Why a value cannot stand where it is said to stand.
fn misfit(name: &str, table: RegisterTable, location: Location, value_type: ValueType) -> Option<String> {
    if table.is_bits() && value_type != ValueType::Bool {
        return Some(format!(
            "channel `{name}`: a {table} holds one bit, and {value_type} at {location} does not fit: \
             use type = \"bool\", or table = \"holding\" or \"input\""
        ));
    }
    let last = location.plus(value_type.registers() - 1);
    last.is_none().then(|| {
        let count = value_type.registers();
        format!(
            "channel `{name}`: {value_type} covers {count} registers and does not fit at {table} {location}: \
             65535 is the last, so it can begin at {} at most",
            u16::MAX - (count - 1)
        )
    })
}

fn read_scale(table: &Table<'_>, name: &str, value_type: Option<ValueType>) -> Option<Scale> {
    let factor = table.number("scale");
    let offset = table.number("offset");
    let first = factor.or(offset);
    if let (Some(ValueType::Text { .. }), Some(found)) = (value_type, first) {
        table.report(found.place, format!("channel `{name}`: a text has no scale and no offset"));
        return None;
    }
    let value = |found: Option<At<f64>>, absent| found.map_or(absent, |found| found.value);
    let scale = Scale::new(value(factor, 1.0), value(offset, 0.0));
    if let (None, Some(found)) = (scale, first) {
        table.report(found.place, format!("channel `{name}`: a scale must be finite and not 0"));
    }
    scale
}

/// How a channel's number comes about, where `aggregation` says so.
#[must_use]
pub fn read_aggregation(table: &Table<'_>) -> Option<Aggregation> {
    table.word("aggregation", &AGGREGATIONS)
}

/// Which end of a period is named, where `label` says so.
#[must_use]
pub fn read_label(table: &Table<'_>) -> Option<PeriodLabel> {
    table.word("label", &LABELS)
}

/// The limits that `valid` says.
#[must_use]
pub fn read_valid(table: &Table<'_>, name: &str) -> Option<(f64, f64)> {
    let items = table.items("valid")?;
    let bounds: Vec<f64> = items.iter().filter_map(|found| float(found.value)).collect();
    if let &[low, high] = bounds.as_slice()
        && items.len() == 2
        && low < high
    {
        return Some((low, high));
    }
    let at = table.place_of("valid").unwrap_or(table.place());
    table.report(at, format!("channel `{name}`: `valid` is [least, greatest], such as [0, 100]"));
    None
}

fn float(item: Item<'_>) -> Option<f64> {
    match item {
        Item::Float(number) => Some(number),
        // Limits are written by people: they have far fewer than 53 bits.
        Item::Integer(number) => i32::try_from(number).ok().map(f64::from),
        Item::Text(_) | Item::Flag(_) => None,
    }
}

fn read_sentinels(table: &Table<'_>, name: &str, value_type: ValueType) -> Option<Vec<Sentinel>> {
    let items = table.items("not_available")?;
    let read = items.into_iter().filter_map(|found| {
        let read = sentinel(found.value, value_type);
        if read.is_none() {
            let what = format!(
                "channel `{name}`: `not_available` of {value_type} is a raw pattern of {} bits, such as 0x8000, \
                 or \"nan\" for f32 and f64",
                bits(value_type)
            );
            table.report(found.place, what);
        }
        read
    });
    Some(read.collect())
}

fn sentinel(item: Item<'_>, value_type: ValueType) -> Option<Sentinel> {
    match (item, value_type) {
        (Item::Text("nan"), ValueType::F32 | ValueType::F64) => Some(Sentinel::Nan),
        (Item::Integer(_), ValueType::Text { .. }) => None,
        (Item::Integer(number), _) => pattern(number, bits(value_type)).map(Sentinel::Raw),
        _ => None,
    }
}

/// A number as the bit pattern of a value `bits` wide: negative numbers as two's complement.
fn pattern(number: i128, bits: u32) -> Option<u64> {
    let modulus = 1i128 << bits;
    let wrapped = if number < 0 { number + modulus } else { number };
    let fits = (0..modulus).contains(&wrapped) && number >= -(modulus / 2);
    fits.then_some(wrapped).and_then(|pattern| u64::try_from(pattern).ok())
}

fn bits(value_type: ValueType) -> u32 {
    match value_type {
        ValueType::Bool => 1,
        ValueType::Bits { count, .. } => u32::from(count),
        other => 16 * u32::from(other.registers()),
    }
}

/// What SunSpec devices put where a point is not implemented (SunSpec Device Information Model Specification
/// V1.1, section 6.4, "unimplemented"): accumulators say 0.
fn not_implemented(location: Location, value_type: ValueType, aggregation: Aggregation) -> Vec<Sentinel> {
    if !matches!(location, Location::SunSpec { .. }) {
        return Vec::new();
    }
    let counter = aggregation == Aggregation::Counter;
    match value_type {
        ValueType::U16 | ValueType::U32 | ValueType::U64 if counter => vec![Sentinel::Raw(0)],
        ValueType::U16 => vec![Sentinel::Raw(0xFFFF)],
        ValueType::I16 => vec![Sentinel::Raw(0x8000)],
        ValueType::U32 => vec![Sentinel::Raw(0xFFFF_FFFF)],
        ValueType::I32 => vec![Sentinel::Raw(0x8000_0000)],
        ValueType::U64 => vec![Sentinel::Raw(u64::MAX)],
        ValueType::I64 => vec![Sentinel::Raw(1 << 63)],
        ValueType::F32 | ValueType::F64 => vec![Sentinel::Nan],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;

    fn read(fields: &str) -> Result<ChannelSpec, String> {
        let toml = format!("c = {{ id = \"c\", {fields} }}");
        let document = Document::parse(&toml);
        let root = document.root();
        let channel = root.table("c").and_then(|table| read_channel(&table, &Defaults::default()));
        document.finish("f", channel).map_err(|problems| problems.to_string())
    }

    #[test]
    fn sentinels_are_patterns_of_the_type_s_width() {
        let raw = |pattern| vec![Sentinel::Raw(pattern)];
        let rows = [
            ("address = 0, type = \"i16\", not_available = -32768", raw(0x8000)),
            ("address = 0, type = \"i32\", not_available = [-1]", raw(0xFFFF_FFFF)),
            ("address = 0, type = \"u64\", not_available = 0xFFFFFFFFFFFFFFFF", raw(u64::MAX)),
            ("address = 0, type = \"f32\", not_available = \"nan\"", vec![Sentinel::Nan]),
            ("address = 0, type = \"u16\"", vec![]),
            ("model = 103, address = 14, type = \"i16\", scale_from = 15", raw(0x8000)),
            ("model = 103, address = 24, type = \"u32\", aggregation = \"counter\"", raw(0)),
            ("model = 103, address = 24, type = \"u32\", not_available = []", vec![]),
        ];
        for (fields, expected) in rows {
            assert_eq!(read(fields).map(|channel| channel.sentinels), Ok(expected), "{fields}");
        }
        for bad in ["type = \"i16\", not_available = -32769", "type = \"u16\", not_available = \"nan\""] {
            assert!(read(&format!("address = 0, {bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn types_and_places_must_fit() {
        let rows = [
            ("address = 65532, type = \"u64\"", Ok(4)),
            ("address = 65533, type = \"u64\"", Err("u64 covers 4 registers and does not fit at")),
            ("address = 0, type = \"text\", registers = 125", Ok(125)),
            ("address = 0, type = \"text\", registers = 126", Err("`registers` must be 1 to 125, got 126")),
            ("address = 0, type = \"text\"", Err("`registers` is missing")),
            ("address = 0, type = \"bits\", first_bit = 12, bit_count = 4", Ok(1)),
            (
                "address = 0, type = \"bits\", first_bit = 12, bit_count = 5",
                Err("has room for 4 bits, not 5"),
            ),
            ("address = 0, type = \"bool\", table = \"coil\"", Ok(1)),
            ("address = \"00017\", type = \"f32\"", Err("a coil holds one bit")),
            (
                "model = 1, address = 2, type = \"u16\", table = \"coil\"",
                Err("stands in registers, not in a coil"),
            ),
            ("address = 0, type = \"text\", registers = 2, scale = 2", Err("a text has no scale")),
            ("address = 0, type = \"u16\", adress = 1", Err("unknown key `adress`: did you mean `address`?")),
        ];
        for (fields, expected) in rows {
            match (read(fields), expected) {
                (Ok(channel), Ok(registers)) => assert_eq!(channel.registers(), registers, "{fields}"),
                (Err(got), Err(expected)) => assert!(got.contains(expected), "{fields}: {got}"),
                (got, _) => panic!("{fields}: {got:?}"),
            }
        }
    }
}
