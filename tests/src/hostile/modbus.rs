//! Any bytes as the answer of a Modbus device, to any request, under both framings; and as registers of any channel.

use std::collections::BTreeMap;

use gapless_agent::modbus::file::SubRequest;
use gapless_agent::modbus::pdu::{Request, ResponseData};
use gapless_agent::modbus::value::{self, Raw};
use gapless_agent::modbus::{Framing, Progress, UnitId, rtu};
use gapless_common::catalog::{Aggregation, PeriodLabel};
use gapless_common::id::ChannelId;
use gapless_common::profile::{ByteOrder, ChannelSpec, Location, RegisterTable, Scale, Sentinel, ValueType};
use gapless_common::reading::Value;

use super::Choices;

/// Longest frame of either framing in bytes, and some more.
const ANSWER_BYTES_MAX: usize = 600;

/// The first bytes choose the request (kind, address, quantity), the unit and how the answer arrives in pieces; then
/// comes a channel, then the answer. Nothing may panic; an answer that is taken has what was asked, a verdict does
/// not depend on the pieces, and a number is finite.
pub fn modbus(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let Some((request, items)) = request(&mut choices) else { return };
    let (unit, transaction, piece) = (UnitId(choices.u8()), choices.u16(), usize::from(choices.u8() % 8) + 1);
    decode_value(&mut choices);
    let answer = choices.bytes(ANSWER_BYTES_MAX);
    if let Ok(data) = request.decode_response(answer) {
        assert_eq!(count(&data), items);
    }
    for framing in [Framing::Rtu, Framing::Mbap] {
        let mended = mend(framing, (transaction, unit), &request, answer);
        for answer in [answer, &mended] {
            let judge = |piece| judge(framing, (transaction, unit), &request, answer, piece);
            let verdict = judge(piece);
            assert_eq!(verdict, judge(answer.len().max(1)), "pieces of {piece}");
            if let Some(Progress::Frame(Ok(data))) = verdict {
                assert_eq!(count(&data), items);
            }
        }
    }
}

/// A request, and how many items its answer has.
fn request(choices: &mut Choices<'_>) -> Option<(Request, usize)> {
    use RegisterTable::{Coil, DiscreteInput, HoldingRegister, InputRegister};
    let (kind, start, quantity) = (choices.u8() % 9, choices.u16(), choices.u16());
    let items = usize::from(quantity % 128);
    let request = match kind {
        0 => return Some((Request::write_coil(start, quantity > 9), 0)),
        1 => return Some((Request::write_register(start, quantity), 0)),
        2 => return Some((Request::write_coils(start, &vec![true; items]).ok()?, 0)),
        3 => return Some((Request::write_registers(start, &vec![quantity; items]).ok()?, 0)),
        4 => Request::read(Coil, start, quantity),
        5 => Request::read(DiscreteInput, start, quantity),
        6 => Request::read(HoldingRegister, start, quantity),
        8 => return read_file(start, quantity),
        _ => Request::read(InputRegister, start, quantity),
    };
    Some((request.ok()?, usize::from(quantity)))
}

/// Runs of one file, one behind the other: up to 8, each as long as the rest of `quantity` says.
fn read_file(start: u16, quantity: u16) -> Option<(Request, usize)> {
    let (registers, runs) = (quantity / 8, quantity % 8 + 1);
    let run = |n| SubRequest { file: start / 128, record: n * registers, registers };
    let runs: Vec<SubRequest> = (0..runs).map(run).collect();
    Some((Request::read_file(&runs).ok()?, usize::from(registers) * runs.len()))
}

fn count(data: &ResponseData) -> usize {
    match data {
        ResponseData::Bits(bits) => bits.len(),
        ResponseData::Registers(words) => words.len(),
        ResponseData::Records(records) => records.iter().map(Vec::len).sum(),
        ResponseData::Written => 0,
    }
}

/// Feeds the answer in pieces; the first verdict, or `None` where more is awaited.
fn judge(
    framing: Framing,
    (transaction, unit): (u16, UnitId),
    request: &Request,
    answer: &[u8],
    piece: usize,
) -> Option<Progress> {
    let mut receiver = framing.receiver(transaction, unit, request);
    for bytes in answer.chunks(piece) {
        match receiver.push(bytes) {
            Progress::NeedMore(more) => assert!(more > 0),
            verdict => return Some(verdict),
        }
    }
    None
}

/// The answer as a PDU in a frame that is right, so that the fuzzer need not guess a CRC.
fn mend(framing: Framing, (transaction, unit): (u16, UnitId), request: &Request, answer: &[u8]) -> Vec<u8> {
    let mut pdu = answer[..answer.len().min(253)].to_vec();
    if let Some(function) = pdu.first_mut() {
        *function = if *function & 1 == 0 { request.function() } else { request.exception_function() };
    }
    let mut frame = match framing {
        Framing::Rtu => vec![unit.0],
        Framing::Mbap => {
            let length = u16::try_from(pdu.len() + 1).expect("at most 254").to_be_bytes();
            [&transaction.to_be_bytes()[..], &[0, 0], &length, &[unit.0]].concat()
        }
    };
    frame.extend(&pdu);
    if framing == Framing::Rtu {
        frame.truncate(rtu::answer_len_expected(request) - 2);
        frame.extend(rtu::crc16(&frame).to_le_bytes());
    }
    frame
}

fn value_type(choices: &mut Choices<'_>) -> ValueType {
    use ValueType::{Bcd16, Bcd32, Bcd64, Bits, Bool, F32, F64, I16, I32, I64, Text, U16, U32, U64};
    let first_bit = choices.u8() % 16;
    let bits = Bits { first_bit, count: choices.u8() % (16 - first_bit) + 1 };
    let text = Text { registers: choices.u8() % 125 + 1 };
    choices.pick(&[Bool, bits, I16, U16, I32, U32, I64, U64, F32, F64, Bcd16, Bcd32, Bcd64, text])
}

fn decode_value(choices: &mut Choices<'_>) {
    let order = choices.pick(&[ByteOrder::ABCD, ByteOrder::CDAB, ByteOrder::BADC, ByteOrder::DCBA]);
    let scale = Scale::new(f64::from_bits(choices.u64()), f64::from_bits(choices.u64()));
    let valid = (f64::from_bits(choices.u64()), f64::from_bits(choices.u64()));
    let spec = ChannelSpec {
        id: ChannelId::new("x").expect("a name"),
        table: RegisterTable::HoldingRegister,
        location: Location::Absolute(0),
        value_type: value_type(choices),
        order,
        scale: scale.unwrap_or_default(),
        scale_from: None,
        unit: "".into(),
        quantity: "".into(),
        aggregation: Aggregation::Instant,
        label: PeriodLabel::End,
        sentinels: vec![Sentinel::Raw(choices.u64()), Sentinel::Nan],
        valid: (valid.0 <= valid.1).then_some(valid),
        attributes: BTreeMap::new(),
    };
    let exponent = value::exponent(order, choices.u16()).unwrap_or_default();
    let words: Vec<u16> = (0..spec.registers()).map(|_| choices.u16()).collect();
    for raw in [Raw::Words(&words), Raw::Words(&words[1..]), Raw::Bit(words[0] & 1 == 1)] {
        if let Ok(Value::Number(number)) = value::decode(&spec, raw, exponent) {
            assert!(number.is_finite(), "{spec:?}: {number}");
        }
    }
}
