//! From raw values to registers: byte and word order, BCD, bit fields, characters. Written for the simulators
//! alone. Decodes nothing.

use gapless_common::profile::{ByteOrder, ValueType};

use crate::truth::Raw;

/// The registers of `raw`, in the order of their addresses. A bit field stands at its place in its register, the
/// other bits are 0. Texts are padded with NUL.
#[must_use]
pub fn registers(raw: &Raw, value_type: ValueType, order: ByteOrder) -> Vec<u16> {
    match raw {
        Raw::F32(number) => words(number.to_bits().into(), 2, order),
        Raw::F64(number) => words(number.to_bits(), 4, order),
        Raw::Text(text) => characters(text, value_type.registers(), order),
        Raw::Int(number) => words(pattern(*number, value_type), value_type.registers(), order),
    }
}

fn pattern(number: i128, value_type: ValueType) -> u64 {
    let low = u64::try_from(number & i128::from(u64::MAX)).expect("the mask leaves 64 bits");
    match value_type {
        ValueType::Bits { first_bit, count } => (low & ((1 << count) - 1)) << first_bit,
        ValueType::Bcd16 | ValueType::Bcd32 | ValueType::Bcd64 => bcd(low),
        _ => low,
    }
}

fn bcd(mut number: u64) -> u64 {
    let mut digits = 0;
    let mut shift = 0;
    while number > 0 && shift < 64 {
        digits |= (number % 10) << shift;
        number /= 10;
        shift += 4;
    }
    digits
}

fn words(pattern: u64, count: u16, order: ByteOrder) -> Vec<u16> {
    let bytes = pattern.to_be_bytes();
    let used = &bytes[bytes.len() - usize::from(count) * 2..];
    let mut words: Vec<u16> = used.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    if order.words_swapped() {
        words.reverse();
    }
    swap(words, order)
}

fn characters(text: &str, count: u16, order: ByteOrder) -> Vec<u16> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(usize::from(count) * 2, 0);
    swap(bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect(), order)
}

fn swap(words: Vec<u16>, order: ByteOrder) -> Vec<u16> {
    if order.bytes_swapped() { words.into_iter().map(u16::swap_bytes).collect() } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_in_every_order() {
        use ByteOrder::{ABCD, BADC, CDAB, DCBA};
        use ValueType::{Bcd16, Bcd32, Bits, F32, F64, I16, I32, Text, U16, U64};
        let int = Raw::Int;
        let rows: Vec<(Raw, ValueType, ByteOrder, Vec<u16>)> = vec![
            (int(0x1234), U16, ABCD, vec![0x1234]),
            (int(0x1234), U16, CDAB, vec![0x1234]),
            (int(0x1234), U16, BADC, vec![0x3412]),
            (int(-2), I16, ABCD, vec![0xFFFE]),
            (int(-2), I32, ABCD, vec![0xFFFF, 0xFFFE]),
            (int(0x0A0B_0C0D), I32, CDAB, vec![0x0C0D, 0x0A0B]),
            (int(0x0A0B_0C0D), I32, BADC, vec![0x0B0A, 0x0D0C]),
            (int(0x0A0B_0C0D), I32, DCBA, vec![0x0D0C, 0x0B0A]),
            (int(0x0102_0304_0506_0708), U64, CDAB, vec![0x0708, 0x0506, 0x0304, 0x0102]),
            (Raw::F32(230.5), F32, ABCD, vec![0x4366, 0x8000]),
            (Raw::F32(230.5), F32, CDAB, vec![0x8000, 0x4366]),
            (Raw::F64(-1.5), F64, ABCD, vec![0xBFF8, 0, 0, 0]),
            (int(1234), Bcd16, ABCD, vec![0x1234]),
            (int(12_345_678), Bcd32, CDAB, vec![0x5678, 0x1234]),
            (int(5), Bits { first_bit: 4, count: 3 }, ABCD, vec![0x0050]),
            (Raw::Text("SIM".into()), Text { registers: 3 }, ABCD, vec![0x5349, 0x4D00, 0]),
        ];
        for (raw, value_type, order, expected) in rows {
            assert_eq!(registers(&raw, value_type, order), expected, "{raw:?} {value_type} {order:?}");
        }
    }
}
