//! From registers and bits to values: byte order, type, the device's own error values, scale, valid range.
//!
//! Bytes of a value as they arrive, A being the most significant:
//!
//! | order | 16 bit | 32 bit | 64 bit |
//! |---|---|---|---|
//! | `ABCD` | AB | AB CD | AB CD EF GH |
//! | `CDAB` | AB | CD AB | GH EF CD AB |
//! | `BADC` | BA | BA DC | BA DC FE HG |
//! | `DCBA` | BA | DC BA | HG FE DC BA |
//!
//! It does not know where a value stands in an answer (see `plan`).

use gapless_common::profile::{ByteOrder, ChannelSpec, Sentinel, ValueType};
use gapless_common::quality::Quality;
use gapless_common::reading::Value;

/// What stands at a channel's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raw<'a> {
    /// A coil or discrete input.
    Bit(bool),
    /// As many registers as the type has, the lowest address first.
    Words(&'a [u16]),
}

/// Powers of ten that a device may name for its values (SunSpec Device Information Model Specification V1.1,
/// `sunssf`).
const EXPONENT_MIN: i16 = -10;
const EXPONENT_MAX: i16 = 10;
/// `sunssf` that says "not implemented".
const EXPONENT_NONE: i16 = i16::MIN;

/// Decodes a channel. `exponent` is the power of ten that the device names for it (0 where it names none).
///
/// # Errors
/// The quality of a reading without value: [`Quality::BadInvalid`] for the device's own error value (NaN
/// included), [`Quality::BadOutOfRange`] for an infinity, digits that are none, and values outside the
/// channel's valid range, [`Quality::BadCorrupt`] where the registers are not as many as the type has.
pub fn decode(spec: &ChannelSpec, raw: Raw<'_>, exponent: i32) -> Result<Value, Quality> {
    match (raw, spec.value_type) {
        (Raw::Bit(bit), _) => number(spec, u64::from(bit), exponent).map(Value::Number),
        (Raw::Words(words), kind) if words.len() != usize::from(kind.registers()) => Err(Quality::BadCorrupt),
        (Raw::Words(words), ValueType::Text { .. }) => text(spec, words),
        (Raw::Words(words), _) => number(spec, pattern(words, spec.order), exponent).map(Value::Number),
    }
}

/// The power of ten in a register that `scale_from` names: an i16 whose bytes are ordered as the channel's.
///
/// # Errors
/// As [`decode`]: [`Quality::BadInvalid`] for "not implemented", [`Quality::BadOutOfRange`] beyond ±10.
pub fn exponent(order: ByteOrder, word: u16) -> Result<i32, Quality> {
    let exponent = i16::from_be_bytes(ordered(word, order).to_be_bytes());
    match exponent {
        EXPONENT_NONE => Err(Quality::BadInvalid),
        EXPONENT_MIN..=EXPONENT_MAX => Ok(i32::from(exponent)),
        _ => Err(Quality::BadOutOfRange),
    }
}

/// A word with the order of its bytes undone.
pub(super) fn ordered(word: u16, order: ByteOrder) -> u16 {
    if order.bytes_swapped() { word.swap_bytes() } else { word }
}

/// The bits of up to four registers as one unsigned number, the byte order undone.
pub(super) fn pattern(words: &[u16], order: ByteOrder) -> u64 {
    let append = |bits: u64, &word: &u16| bits << 16 | u64::from(ordered(word, order));
    if order.words_swapped() { words.iter().rev().fold(0, append) } else { words.iter().fold(0, append) }
}

fn number(spec: &ChannelSpec, pattern: u64, exponent: i32) -> Result<f64, Quality> {
    let pattern = own_bits(spec.value_type, pattern);
    if spec.sentinels.contains(&Sentinel::Raw(pattern)) {
        return Err(Quality::BadInvalid);
    }
    let raw = raw_number(spec.value_type, pattern)?;
    let value = spec.scale.apply_with_exponent(raw, exponent);
    let value = if is_float(spec.value_type) { value } else { without_negative_zero(value) };
    let (least, greatest) = spec.valid.unwrap_or((f64::MIN, f64::MAX));
    if (least..=greatest).contains(&value) { Ok(value) } else { Err(Quality::BadOutOfRange) }
}

const fn is_float(kind: ValueType) -> bool {
    matches!(kind, ValueType::F32 | ValueType::F64)
}

/// An integer 0 under a negative factor is 0, not -0: two devices that both say 0 give the same bits.
fn without_negative_zero(value: f64) -> f64 {
    value + 0.0
}

#[expect(
    clippy::cast_precision_loss,
    reason = "64-bit integers are exact up to 2^53, as documented for values"
)]
fn raw_number(kind: ValueType, pattern: u64) -> Result<f64, Quality> {
    let bytes = pattern.to_be_bytes();
    let [_, _, _, _, a, b, c, d] = bytes;
    match kind {
        ValueType::I16 => Ok(f64::from(i16::from_be_bytes([c, d]))),
        ValueType::I32 => Ok(f64::from(i32::from_be_bytes([a, b, c, d]))),
        ValueType::I64 => Ok(i64::from_be_bytes(bytes) as f64),
        ValueType::Bool | ValueType::Bits { .. } | ValueType::U16 | ValueType::U32 | ValueType::U64 => {
            Ok(pattern as f64)
        }
        ValueType::F32 => float(f64::from(f32::from_be_bytes([a, b, c, d]))),
        ValueType::F64 => float(f64::from_be_bytes(bytes)),
        ValueType::Bcd16 | ValueType::Bcd32 | ValueType::Bcd64 => bcd(bytes).map(|n| n as f64),
        ValueType::Text { .. } => Err(Quality::BadCorrupt),
    }
}

/// What of its registers belongs to a value: a field is as wide as it says, and so are its sentinels.
fn own_bits(kind: ValueType, pattern: u64) -> u64 {
    match kind {
        ValueType::Bool => u64::from(pattern != 0),
        ValueType::Bits { first_bit, count } => bit_field(pattern, first_bit, count),
        _ => pattern,
    }
}

fn bit_field(pattern: u64, first_bit: u8, count: u8) -> u64 {
    let field = pattern.checked_shr(u32::from(first_bit)).unwrap_or(0);
    field & !u64::MAX.checked_shl(u32::from(count)).unwrap_or(0)
}

/// A NaN is how devices say "not available", configured or not.
const fn float(value: f64) -> Result<f64, Quality> {
    if value.is_nan() {
        Err(Quality::BadInvalid)
    } else if value.is_infinite() {
        Err(Quality::BadOutOfRange)
    } else {
        Ok(value)
    }
}

/// One decimal digit in each 4 bits; leading zeros of shorter types change nothing.
fn bcd(bytes: [u8; 8]) -> Result<u64, Quality> {
    let digits = bytes.into_iter().flat_map(|byte| [byte >> 4, byte & 0x0F]);
    digits.into_iter().try_fold(0, |number, digit| match digit {
        0..=9 => Ok(number * 10 + u64::from(digit)),
        _ => Err(Quality::BadOutOfRange),
    })
}

/// Characters in the order of the registers (only the bytes within a register may be swapped), up to the first
/// NUL, without trailing spaces. Bytes that are not UTF-8 are taken as Latin-1, so that none is lost.
fn text(spec: &ChannelSpec, words: &[u16]) -> Result<Value, Quality> {
    if spec.sentinels.contains(&Sentinel::Raw(0)) && words.iter().all(|&word| word == 0) {
        return Err(Quality::BadInvalid);
    }
    let bytes = words.iter().flat_map(|&word| ordered(word, spec.order).to_be_bytes());
    let bytes: Vec<u8> = bytes.take_while(|&byte| byte != 0).collect();
    let text = String::from_utf8(bytes)
        .unwrap_or_else(|latin_1| latin_1.into_bytes().into_iter().map(char::from).collect());
    Ok(Value::Text(text.trim_end_matches(' ').into()))
}

#[cfg(test)]
pub(in crate::modbus) mod tests {
    use super::*;
    use gapless_common::catalog::{Aggregation, PeriodLabel};
    use gapless_common::id::ChannelId;
    use gapless_common::profile::{Location, RegisterTable, Scale};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A channel of this type at an address of the holding registers.
    pub(in crate::modbus) fn channel(value_type: ValueType, address: u16) -> ChannelSpec {
        ChannelSpec {
            id: ChannelId::new(&format!("c{address}")).unwrap(),
            table: RegisterTable::HoldingRegister,
            location: Location::Absolute(address),
            value_type,
            order: ByteOrder::ABCD,
            scale: Scale::ONE,
            scale_from: None,
            unit: "".into(),
            quantity: "".into(),
            aggregation: Aggregation::Instant,
            label: PeriodLabel::End,
            sentinels: vec![],
            valid: None,
            attributes: BTreeMap::new(),
        }
    }

    fn check(spec: &ChannelSpec, words: &[u16], expected: Result<f64, Quality>) {
        let decoded = decode(spec, Raw::Words(words), 0);
        let same = match (&decoded, &expected) {
            (Ok(Value::Number(got)), Ok(number)) => got.to_bits() == number.to_bits(),
            (Err(got), Err(quality)) => got == quality,
            _ => false,
        };
        assert!(
            same,
            "{} {:?} of {words:04X?}: {decoded:?}, expected {expected:?}",
            spec.value_type, spec.order
        );
    }

    #[test]
    fn each_byte_order_of_each_width() {
        use ByteOrder::{ABCD, BADC, CDAB, DCBA};
        // A to H are the bytes 01 to 08.
        let (two, four, eight) = (f64::from(0x0102), f64::from(0x0102_0304), 72_623_859_790_382_856.0);
        let rows: [(ValueType, ByteOrder, &[u16], f64); 12] = [
            (ValueType::U16, ABCD, &[0x0102], two),
            (ValueType::U16, CDAB, &[0x0102], two),
            (ValueType::U16, BADC, &[0x0201], two),
            (ValueType::U16, DCBA, &[0x0201], two),
            (ValueType::U32, ABCD, &[0x0102, 0x0304], four),
            (ValueType::U32, CDAB, &[0x0304, 0x0102], four),
            (ValueType::U32, BADC, &[0x0201, 0x0403], four),
            (ValueType::U32, DCBA, &[0x0403, 0x0201], four),
            (ValueType::U64, ABCD, &[0x0102, 0x0304, 0x0506, 0x0708], eight),
            (ValueType::U64, CDAB, &[0x0708, 0x0506, 0x0304, 0x0102], eight),
            (ValueType::U64, BADC, &[0x0201, 0x0403, 0x0605, 0x0807], eight),
            (ValueType::U64, DCBA, &[0x0807, 0x0605, 0x0403, 0x0201], eight),
        ];
        for (kind, order, words, expected) in rows {
            check(&ChannelSpec { order, ..channel(kind, 0) }, words, Ok(expected));
        }
    }

    #[test]
    fn each_type() {
        let bits = |first_bit, count| ValueType::Bits { first_bit, count };
        let rows: [(ValueType, &[u16], Result<f64, Quality>); 28] = [
            (ValueType::Bool, &[0], Ok(0.0)),
            (ValueType::Bool, &[0x8000], Ok(1.0)),
            (bits(0, 1), &[0xFFFE], Ok(0.0)),
            (bits(4, 3), &[0x0050], Ok(5.0)),
            (bits(0, 16), &[0xFFFF], Ok(65_535.0)),
            (bits(15, 1), &[0x8000], Ok(1.0)),
            (ValueType::I16, &[0x8000], Ok(-32_768.0)),
            (ValueType::U16, &[0x8000], Ok(32_768.0)),
            (ValueType::I32, &[0xFFFF, 0xFFFE], Ok(-2.0)),
            (ValueType::U32, &[0xFFFF, 0xFFFF], Ok(4_294_967_295.0)),
            (ValueType::I64, &[0xFFFF; 4], Ok(-1.0)),
            (ValueType::U64, &[0x0020, 0, 0, 0], Ok(9_007_199_254_740_992.0)),
            (ValueType::F32, &[0x4366, 0x8000], Ok(230.5)),
            (ValueType::F32, &[0x8000, 0x0000], Ok(-0.0)),
            (ValueType::F32, &[0x7FC0, 0x0000], Err(Quality::BadInvalid)),
            (ValueType::F32, &[0xFF80, 0x0000], Err(Quality::BadOutOfRange)),
            (ValueType::F64, &[0x406C, 0xD000, 0, 0], Ok(230.5)),
            (ValueType::F64, &[0x7FF8, 0, 0, 1], Err(Quality::BadInvalid)),
            (ValueType::F64, &[0x7FF0, 0, 0, 0], Err(Quality::BadOutOfRange)),
            (ValueType::Bcd16, &[0x1234], Ok(1_234.0)),
            (ValueType::Bcd16, &[0x12A4], Err(Quality::BadOutOfRange)),
            (ValueType::Bcd32, &[0x1234, 0x5678], Ok(12_345_678.0)),
            (ValueType::Bcd64, &[0, 0x1234, 0x5678, 0x9012], Ok(123_456_789_012.0)),
            (ValueType::Bcd64, &[0xF000, 0, 0, 0], Err(Quality::BadOutOfRange)),
            (ValueType::U16, &[], Err(Quality::BadCorrupt)),
            (ValueType::U32, &[1], Err(Quality::BadCorrupt)),
            (ValueType::U32, &[1, 2, 3], Err(Quality::BadCorrupt)),
            (ValueType::F32, &[0x3DCC, 0xCCCD], Ok(0.100_000_001_490_116_12)),
        ];
        for (kind, words, expected) in rows {
            check(&channel(kind, 0), words, expected);
        }
    }

    #[test]
    fn scales_sentinels_and_ranges() {
        let with = |kind, factor, offset, sentinels: &[Sentinel], valid| ChannelSpec {
            scale: Scale::new(factor, offset).unwrap(),
            sentinels: sentinels.to_vec(),
            valid,
            ..channel(kind, 0)
        };
        let not_available = [Sentinel::Raw(0x8000)];
        let temperature = Some((-40.0, 60.0));
        let field = ValueType::Bits { first_bit: 4, count: 2 };
        let rows: [(ChannelSpec, &[u16], Result<f64, Quality>); 14] = [
            (with(field, 1.0, 0.0, &[Sentinel::Raw(3)], None), &[0x8035], Err(Quality::BadInvalid)),
            (with(field, 1.0, 0.0, &[Sentinel::Raw(3)], None), &[0x0003], Ok(0.0)),
            (with(ValueType::U16, 0.1, 0.0, &[], None), &[2305], Ok(230.5)),
            (with(ValueType::U16, 0.1, 0.0, &[], None), &[3], Ok(0.3)),
            (with(ValueType::U16, -0.1, 0.0, &[], None), &[0], Ok(0.0)),
            (
                with(ValueType::I16, 0.1, 0.0, &not_available, temperature),
                &[0x8000],
                Err(Quality::BadInvalid),
            ),
            (with(ValueType::I16, 0.1, 0.0, &not_available, temperature), &[600], Ok(60.0)),
            (
                with(ValueType::I16, 0.1, 0.0, &not_available, temperature),
                &[601],
                Err(Quality::BadOutOfRange),
            ),
            (with(ValueType::I16, 0.1, 0.0, &[], temperature), &[0xFE70], Ok(-40.0)),
            (with(ValueType::I16, 0.1, 0.0, &[], temperature), &[0xFE6F], Err(Quality::BadOutOfRange)),
            (
                with(ValueType::U32, 1.0, 0.0, &[Sentinel::Raw(0xFFFF_FFFF)], None),
                &[0xFFFF; 2],
                Err(Quality::BadInvalid),
            ),
            (with(ValueType::F32, 1.0, 0.0, &[Sentinel::Nan], None), &[0x7FA0, 1], Err(Quality::BadInvalid)),
            (
                with(ValueType::F64, 1e10, 0.0, &[], None),
                &[0x7FEF, 0xFFFF, 0xFFFF, 0xFFFF],
                Err(Quality::BadOutOfRange),
            ),
            (
                with(ValueType::Bcd16, 1.0, 0.0, &[Sentinel::Raw(0xFFFF)], None),
                &[0xFFFF],
                Err(Quality::BadInvalid),
            ),
        ];
        for (spec, words, expected) in rows {
            check(&spec, words, expected);
        }
    }

    #[test]
    fn a_sentinel_is_compared_after_the_byte_order_is_undone() {
        let spec = ChannelSpec {
            order: ByteOrder::DCBA,
            sentinels: vec![Sentinel::Raw(0x8000_0000)],
            ..channel(ValueType::I32, 0)
        };
        check(&spec, &[0x0000, 0x0080], Err(Quality::BadInvalid));
        check(&spec, &[0x8000, 0x0000], Ok(128.0));
    }

    #[test]
    fn the_device_names_the_power_of_ten() {
        let rows = [
            (ByteOrder::ABCD, 0xFFFF, Ok(-1)),
            (ByteOrder::BADC, 0xFEFF, Ok(-2)),
            (ByteOrder::CDAB, 0x0003, Ok(3)),
            (ByteOrder::ABCD, 0x8000, Err(Quality::BadInvalid)),
            (ByteOrder::ABCD, 11, Err(Quality::BadOutOfRange)),
            (ByteOrder::ABCD, 0xFFF6, Ok(-10)),
        ];
        for (order, word, expected) in rows {
            assert_eq!(exponent(order, word), expected, "{word:04X}");
        }
        let power = decode(&channel(ValueType::I16, 0), Raw::Words(&[2302]), -1);
        assert_eq!(power, Ok(Value::Number(230.2)));
    }

    #[test]
    fn bits_and_texts() {
        assert_eq!(decode(&channel(ValueType::Bool, 0), Raw::Bit(true), 0), Ok(Value::Number(1.0)));
        let rows: [(ByteOrder, &[u16], Result<&str, Quality>); 6] = [
            (ByteOrder::ABCD, &[0x5344, 0x4D36, 0x3330, 0], Ok("SDM630")),
            (ByteOrder::CDAB, &[0x5344, 0x4D36, 0x3330, 0], Ok("SDM630")),
            (ByteOrder::BADC, &[0x4453, 0x364D, 0x3033, 0x2020], Ok("SDM630")),
            (ByteOrder::ABCD, &[0x4100, 0x4242, 0, 0], Ok("A")),
            (ByteOrder::ABCD, &[0xB043, 0, 0, 0], Ok("°C")),
            (ByteOrder::ABCD, &[0, 0, 0, 0], Err(Quality::BadInvalid)),
        ];
        for (order, words, expected) in rows {
            let sentinels = vec![Sentinel::Raw(0)];
            let spec = ChannelSpec { order, sentinels, ..channel(ValueType::Text { registers: 4 }, 0) };
            let expected = expected.map(|text| Value::Text(text.into()));
            assert_eq!(decode(&spec, Raw::Words(words), 0), expected, "{words:04X?}");
        }
    }

    proptest! {
        #[test]
        fn any_registers_give_a_value_or_a_reason(
            kind in prop::sample::select(vec![
                ValueType::Bool, ValueType::Bits { first_bit: 3, count: 5 }, ValueType::I16, ValueType::U16,
                ValueType::I32, ValueType::U32, ValueType::I64, ValueType::U64, ValueType::F32, ValueType::F64,
                ValueType::Bcd16, ValueType::Bcd32, ValueType::Bcd64, ValueType::Text { registers: 3 },
            ]),
            order in prop::sample::select(vec![ByteOrder::ABCD, ByteOrder::CDAB, ByteOrder::BADC, ByteOrder::DCBA]),
            words in prop::collection::vec(any::<u16>(), 0..6),
            exponent in -10..=10,
        ) {
            let spec = ChannelSpec { order, ..channel(kind, 0) };
            match decode(&spec, Raw::Words(&words), exponent) {
                Ok(Value::Number(number)) => prop_assert!(number.is_finite()),
                Ok(Value::Text(text)) => prop_assert!(text.chars().count() <= 2 * words.len()),
                Err(quality) => prop_assert!(!quality.has_value()),
            }
        }
    }
}
