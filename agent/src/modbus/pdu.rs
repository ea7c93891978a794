//! Requests and responses of MODBUS Application Protocol Specification V1.1b3, without framing: function codes
//! 1 to 4 (read), 5, 6, 15 and 16 (write), and 20 (read file record, see [`file`](super::file)).
//!
//! A response is always decoded against its request: function, byte count and quantity must match. A device's
//! refusal ([`Refusal`]) and an answer that is not one to this request ([`Mismatch`]) are different types. This
//! file knows nothing of units, CRC or transactions (see `rtu` and `mbap`) nor of what a register means (`value`).

pub use gapless_common::profile::{BITS_MAX as READ_BITS_MAX, REGISTERS_MAX as READ_REGISTERS_MAX};

use gapless_common::profile::RegisterTable;
use gapless_common::quality::ExceptionCode;

use super::file::{self, FileError, FileRead, SubRequest};

/// Longest PDU in bytes (section 4.1).
pub const PDU_LEN_MAX: usize = 253;
/// Most coils in one write (section 6.11).
pub const WRITE_BITS_MAX: u16 = 1968;
/// Most registers in one write (section 6.12).
pub const WRITE_REGISTERS_MAX: u16 = 123;

/// Set in the function code of an exception response (section 4.1).
const EXCEPTION_FLAG: u8 = 0x80;
/// Length of an exception response: function code and exception code.
pub const EXCEPTION_LEN: usize = 2;

/// Most items of `table` in one read.
#[must_use]
pub const fn read_count_max(table: RegisterTable) -> u16 {
    if table.is_bits() { READ_BITS_MAX } else { READ_REGISTERS_MAX }
}

/// Why there is no such request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A quantity of 0, or above what one request may carry.
    #[error("function {function}: {count} items asked, a request carries 1 to {count_max}")]
    Count {
        /// Function code.
        function: u8,
        /// Items asked.
        count: usize,
        /// Most that the specification allows.
        count_max: u16,
    },
    /// The last item would lie above address 65,535.
    #[error("function {function}: {count} items from address {start} end above address 65535")]
    PastEnd {
        /// Function code.
        function: u8,
        /// First address.
        start: u16,
        /// Items asked.
        count: u16,
    },
}

/// A request that keeps the specification's limits. Addresses are those of the PDU, counted from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request(Body);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Body {
    Read { table: RegisterTable, start: u16, count: u16 },
    WriteCoil { address: u16, on: bool },
    WriteRegister { address: u16, value: u16 },
    WriteCoils { start: u16, values: Box<[bool]> },
    WriteRegisters { start: u16, values: Box<[u16]> },
    ReadFile(FileRead),
}

/// What a device answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseData {
    /// Coils or discrete inputs, the lowest address first; as many as were asked.
    Bits(Vec<bool>),
    /// Registers, the lowest address first; as many as were asked.
    Registers(Vec<u16>),
    /// Records of files, in the order of the sub-requests; each as long as was asked.
    Records(Vec<Vec<u16>>),
    /// The write was done.
    Written,
}

/// The device understood the request and would not do it (section 7). Not a failure of the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the device refused: {0}")]
pub struct Refusal(pub ExceptionCode);

/// A complete, intact PDU that is no answer to the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Another function code.
    #[error("function 0x{got:02X} answered, 0x{asked:02X} was asked")]
    Function {
        /// Function code of the request.
        asked: u8,
        /// Function code of the answer.
        got: u8,
    },
    /// Too short or too long.
    #[error("the answer has {got} bytes instead of {expected}")]
    Length {
        /// Bytes that the answer must have.
        expected: usize,
        /// Bytes it has.
        got: usize,
    },
    /// The byte count within the answer is not that of the quantity asked.
    #[error("the answer announces {got} bytes of data instead of {expected}")]
    ByteCount {
        /// Bytes of the quantity asked.
        expected: u8,
        /// Bytes announced.
        got: u8,
    },
    /// A part of a file's records has another length or reference type than its sub-request.
    #[error("part {part} of the answer is not what was asked of a file")]
    Part {
        /// Which, from 0.
        part: usize,
    },
    /// The answer to a write does not repeat the address, value or quantity written.
    #[error("the answer does not repeat what was written")]
    Echo,
}

/// Why an answer gave no data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The device refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Not an answer to this request.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
}

fn check_span(function: u8, start: u16, count: usize, count_max: u16) -> Result<u16, RequestError> {
    let within = u16::try_from(count).ok().filter(|&count| (1..=count_max).contains(&count));
    let count = within.ok_or(RequestError::Count { function, count, count_max })?;
    match start.checked_add(count - 1) {
        Some(_) => Ok(count),
        None => Err(RequestError::PastEnd { function, start, count }),
    }
}

impl Request {
    /// Reads `count` items from address `start` on.
    ///
    /// # Errors
    /// [`RequestError`] where the quantity is 0 or above the limit, or the end is above address 65,535.
    pub fn read(table: RegisterTable, start: u16, count: u16) -> Result<Self, RequestError> {
        let count = check_span(table.read_function(), start, usize::from(count), read_count_max(table))?;
        Ok(Self(Body::Read { table, start, count }))
    }

    /// Writes one coil (function 5).
    #[must_use]
    pub const fn write_coil(address: u16, on: bool) -> Self {
        Self(Body::WriteCoil { address, on })
    }

    /// Writes one holding register (function 6).
    #[must_use]
    pub const fn write_register(address: u16, value: u16) -> Self {
        Self(Body::WriteRegister { address, value })
    }

    /// Writes consecutive coils (function 15).
    ///
    /// # Errors
    /// As [`Request::read`], with the limit [`WRITE_BITS_MAX`].
    pub fn write_coils(start: u16, values: &[bool]) -> Result<Self, RequestError> {
        check_span(15, start, values.len(), WRITE_BITS_MAX)?;
        Ok(Self(Body::WriteCoils { start, values: values.into() }))
    }

    /// Writes consecutive holding registers (function 16).
    ///
    /// # Errors
    /// As [`Request::read`], with the limit [`WRITE_REGISTERS_MAX`].
    pub fn write_registers(start: u16, values: &[u16]) -> Result<Self, RequestError> {
        check_span(16, start, values.len(), WRITE_REGISTERS_MAX)?;
        Ok(Self(Body::WriteRegisters { start, values: values.into() }))
    }

    /// Reads records of files (function 20).
    ///
    /// # Errors
    /// [`FileError`] where there are too many, or one is impossible.
    pub fn read_file(runs: &[SubRequest]) -> Result<Self, FileError> {
        FileRead::new(runs).map(|read| Self(Body::ReadFile(read)))
    }

    /// The function code.
    #[must_use]
    pub const fn function(&self) -> u8 {
        match self.0 {
            Body::Read { table, .. } => table.read_function(),
            Body::WriteCoil { .. } => 5,
            Body::WriteRegister { .. } => 6,
            Body::WriteCoils { .. } => 15,
            Body::WriteRegisters { .. } => 16,
            Body::ReadFile(_) => file::FUNCTION,
        }
    }

    /// The function code of an exception response to it.
    #[must_use]
    pub const fn exception_function(&self) -> u8 {
        self.function() | EXCEPTION_FLAG
    }

    /// Appends the PDU to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.function());
        match &self.0 {
            Body::Read { start, count, .. } => push_pair(out, *start, *count),
            Body::WriteCoil { address, on } => push_pair(out, *address, coil_word(*on)),
            Body::WriteRegister { address, value } => push_pair(out, *address, *value),
            Body::WriteCoils { start, values } => {
                push_pair(out, *start, short(values.len()));
                out.push(byte(values.len().div_ceil(8)));
                out.extend(values.chunks(8).map(pack_bits));
            }
            Body::WriteRegisters { start, values } => {
                push_pair(out, *start, short(values.len()));
                out.push(byte(2 * values.len()));
                out.extend(values.iter().flat_map(|value| value.to_be_bytes()));
            }
            Body::ReadFile(read) => read.encode(out),
        }
    }

    /// Bytes of the request's PDU.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Body::Read { .. } | Body::WriteCoil { .. } | Body::WriteRegister { .. } => 5,
            Body::WriteCoils { values, .. } => 6 + values.len().div_ceil(8),
            Body::WriteRegisters { values, .. } => 6 + 2 * values.len(),
            Body::ReadFile(read) => read.request_len(),
        }
    }

    /// Never: a request has a function code.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Byte count that a read's answer must announce; `None` for a write.
    #[must_use]
    pub fn byte_count_expected(&self) -> Option<u8> {
        match &self.0 {
            Body::Read { table, count, .. } if table.is_bits() => Some(byte(usize::from(*count).div_ceil(8))),
            Body::Read { count, .. } => Some(byte(2 * usize::from(*count))),
            Body::ReadFile(read) => Some(byte(read.data_len())),
            _ => None,
        }
    }

    /// Bytes of the PDU that answers the request; a refusal has [`EXCEPTION_LEN`] instead.
    #[must_use]
    pub fn response_len_expected(&self) -> usize {
        self.byte_count_expected().map_or(5, |bytes| 2 + usize::from(bytes))
    }

    /// Decodes the PDU that answers this request.
    ///
    /// # Errors
    /// [`AnswerError::Refused`] for an exception response, [`AnswerError::Mismatch`] for anything else that is
    /// not the answer to this request.
    pub fn decode_response(&self, pdu: &[u8]) -> Result<ResponseData, AnswerError> {
        let (&got, data) = pdu.split_first().ok_or(Mismatch::Length { expected: EXCEPTION_LEN, got: 0 })?;
        if got == self.exception_function() {
            let &[code] = data else {
                return Err(Mismatch::Length { expected: EXCEPTION_LEN, got: pdu.len() }.into());
            };
            return Err(Refusal(ExceptionCode(code)).into());
        }
        if got != self.function() {
            return Err(Mismatch::Function { asked: self.function(), got }.into());
        }
        Ok(self.decode_data(data)?)
    }

    fn decode_data(&self, data: &[u8]) -> Result<ResponseData, Mismatch> {
        if let (Some(expected), Some(&got)) = (self.byte_count_expected(), data.first())
            && expected != got
        {
            return Err(Mismatch::ByteCount { expected, got });
        }
        let expected = self.response_len_expected();
        if data.len() + 1 != expected {
            return Err(Mismatch::Length { expected, got: data.len() + 1 });
        }
        match &self.0 {
            Body::Read { table, count, .. } if table.is_bits() => {
                Ok(ResponseData::Bits(unpack_bits(&data[1..], usize::from(*count))))
            }
            Body::Read { .. } => Ok(ResponseData::Registers(words(&data[1..]))),
            Body::ReadFile(read) => read.decode(&data[1..]).map(ResponseData::Records),
            _ if data == self.echo_expected() => Ok(ResponseData::Written),
            _ => Err(Mismatch::Echo),
        }
    }

    /// The four bytes with which a device confirms a write: the first four behind the function code.
    fn echo_expected(&self) -> [u8; 4] {
        let (first, second) = match &self.0 {
            Body::Read { start, count, .. } => (*start, *count),
            Body::WriteCoil { address, on } => (*address, coil_word(*on)),
            Body::WriteRegister { address, value } => (*address, *value),
            Body::WriteCoils { start, values } => (*start, short(values.len())),
            Body::WriteRegisters { start, values } => (*start, short(values.len())),
            // Never asked: what a read brings is no echo.
            Body::ReadFile(_) => (0, 0),
        };
        let ([a, b], [c, d]) = (first.to_be_bytes(), second.to_be_bytes());
        [a, b, c, d]
    }
}

fn push_pair(out: &mut Vec<u8>, first: u16, second: u16) {
    out.extend(first.to_be_bytes());
    out.extend(second.to_be_bytes());
}

const fn coil_word(on: bool) -> u16 {
    if on { 0xFF00 } else { 0x0000 }
}

fn short(count: usize) -> u16 {
    u16::try_from(count).expect("a request's quantity was checked against limits below 65,536")
}

pub(super) fn byte(count: usize) -> u8 {
    u8::try_from(count).expect("a request's quantity was checked against limits of at most 250 bytes")
}

/// Up to eight bits in one byte, the first in the least significant bit.
fn pack_bits(bits: &[bool]) -> u8 {
    bits.iter().enumerate().fold(0, |packed, (i, &bit)| packed | u8::from(bit) << i)
}

/// Padding bits of the last byte are not looked at: devices in the field do not all clear them.
fn unpack_bits(bytes: &[u8], count: usize) -> Vec<bool> {
    let bits = bytes.iter().flat_map(|byte| (0..8).map(move |i| byte >> i & 1 == 1));
    bits.take(count).collect()
}

/// Registers of big-endian bytes.
pub(super) fn words(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
}

#[cfg(test)]
pub(in crate::modbus) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(request: &Request) -> Vec<u8> {
        let mut out = Vec::new();
        request.encode(&mut out);
        assert_eq!(out.len(), request.len());
        out
    }

    fn read(table: RegisterTable, start: u16, count: u16) -> Request {
        Request::read(table, start, count).unwrap()
    }

    /// The example of each function's section, V1.1b3.
    #[test]
    fn examples_of_the_specification() {
        let bits = |text: &str| ResponseData::Bits(text.bytes().map(|b| b == b'1').collect());
        let registers = |words: &[u16]| ResponseData::Registers(words.to_vec());
        let coils = [true, false, true, true, false, false, true, true, true, false];
        type Row = (&'static str, Request, &'static [u8], &'static [u8], ResponseData);
        let rows: [Row; 8] = [
            (
                "6.1",
                read(RegisterTable::Coil, 19, 19),
                &[0x01, 0x00, 0x13, 0x00, 0x13],
                &[0x01, 0x03, 0xCD, 0x6B, 0x05],
                bits("1011001111010110101"),
            ),
            (
                "6.2",
                read(RegisterTable::DiscreteInput, 196, 22),
                &[0x02, 0x00, 0xC4, 0x00, 0x16],
                &[0x02, 0x03, 0xAC, 0xDB, 0x35],
                bits("0011010111011011101011"),
            ),
            (
                "6.3",
                read(RegisterTable::HoldingRegister, 107, 3),
                &[0x03, 0x00, 0x6B, 0x00, 0x03],
                &[0x03, 0x06, 0x02, 0x2B, 0x00, 0x00, 0x00, 0x64],
                registers(&[555, 0, 100]),
            ),
            (
                "6.4",
                read(RegisterTable::InputRegister, 8, 1),
                &[0x04, 0x00, 0x08, 0x00, 0x01],
                &[0x04, 0x02, 0x00, 0x0A],
                registers(&[10]),
            ),
            (
                "6.5",
                Request::write_coil(172, true),
                &[0x05, 0x00, 0xAC, 0xFF, 0x00],
                &[0x05, 0x00, 0xAC, 0xFF, 0x00],
                ResponseData::Written,
            ),
            (
                "6.6",
                Request::write_register(1, 3),
                &[0x06, 0x00, 0x01, 0x00, 0x03],
                &[0x06, 0x00, 0x01, 0x00, 0x03],
                ResponseData::Written,
            ),
            (
                "6.11",
                Request::write_coils(19, &coils).unwrap(),
                &[0x0F, 0x00, 0x13, 0x00, 0x0A, 0x02, 0xCD, 0x01],
                &[0x0F, 0x00, 0x13, 0x00, 0x0A],
                ResponseData::Written,
            ),
            (
                "6.12",
                Request::write_registers(1, &[0x000A, 0x0102]).unwrap(),
                &[0x10, 0x00, 0x01, 0x00, 0x02, 0x04, 0x00, 0x0A, 0x01, 0x02],
                &[0x10, 0x00, 0x01, 0x00, 0x02],
                ResponseData::Written,
            ),
        ];
        for (section, request, asked, answered, data) in rows {
            assert_eq!(encoded(&request), asked, "section {section}");
            assert_eq!(request.response_len_expected(), answered.len(), "section {section}");
            assert_eq!(request.decode_response(answered), Ok(data), "section {section}");
        }
    }

    #[test]
    fn refusals_carry_their_exception_code() {
        // Section 7: coil 1245 read from a device that has none there.
        let request = read(RegisterTable::Coil, 0x04A1, 1);
        assert_eq!(encoded(&request), [0x01, 0x04, 0xA1, 0x00, 0x01]);
        for code in 0..=u8::MAX {
            let refused = Err(AnswerError::Refused(Refusal(ExceptionCode(code))));
            assert_eq!(request.decode_response(&[0x81, code]), refused);
        }
        let text = Refusal(ExceptionCode(2)).to_string();
        assert_eq!(text, "the device refused: illegal data address (0x02)");
    }

    #[test]
    fn what_does_not_match_its_request_is_no_answer() {
        let two = || read(RegisterTable::HoldingRegister, 0, 2);
        let rows: [(Request, &[u8], Mismatch); 11] = [
            (two(), &[], Mismatch::Length { expected: 2, got: 0 }),
            (two(), &[0x03], Mismatch::Length { expected: 6, got: 1 }),
            (two(), &[0x04, 4, 0, 0, 0, 0], Mismatch::Function { asked: 3, got: 4 }),
            (two(), &[0x84, 2], Mismatch::Function { asked: 3, got: 0x84 }),
            (two(), &[0x83], Mismatch::Length { expected: 2, got: 1 }),
            (two(), &[0x83, 2, 0], Mismatch::Length { expected: 2, got: 3 }),
            (two(), &[0x03, 2, 0, 0], Mismatch::ByteCount { expected: 4, got: 2 }),
            (two(), &[0x03, 4, 0, 0, 0], Mismatch::Length { expected: 6, got: 5 }),
            (two(), &[0x03, 4, 0, 0, 0, 0, 0], Mismatch::Length { expected: 6, got: 7 }),
            (Request::write_register(1, 3), &[0x06, 0, 1, 0, 4], Mismatch::Echo),
            (Request::write_coil(1, true), &[0x05, 0, 1, 0, 0], Mismatch::Echo),
        ];
        for (request, answer, why) in rows {
            assert_eq!(request.decode_response(answer), Err(why.into()), "{answer:02X?}");
        }
    }

    #[test]
    fn limits_of_the_specification() {
        let all = [
            (RegisterTable::Coil, 2000),
            (RegisterTable::DiscreteInput, 2000),
            (RegisterTable::HoldingRegister, 125),
            (RegisterTable::InputRegister, 125),
        ];
        for (table, most) in all {
            let longest = Request::read(table, 0, most).unwrap();
            assert!(longest.response_len_expected() <= PDU_LEN_MAX);
            assert!(Request::read(table, u16::MAX, 1).is_ok());
            for count in [0, most + 1] {
                let error = Request::read(table, 0, count).unwrap_err();
                assert!(matches!(error, RequestError::Count { .. }), "{error}");
            }
            let error = Request::read(table, u16::MAX, 2).unwrap_err();
            assert!(matches!(error, RequestError::PastEnd { .. }), "{error}");
        }
        assert_eq!(encoded(&Request::write_coils(0, &[true; 1968]).unwrap()).len(), 252);
        assert_eq!(encoded(&Request::write_registers(0, &[7; 123]).unwrap()).len(), 252);
        assert!(Request::write_coils(0, &[true; 1969]).is_err());
        assert!(Request::write_registers(0, &[7; 124]).is_err());
        assert!(Request::write_registers(0, &[]).is_err());
    }

    /// Any request there is.
    pub(in crate::modbus) fn any_request() -> impl Strategy<Value = Request> {
        let reads =
            (1u8..=4, any::<u16>(), 1u16..=2000).prop_filter_map("within limits", |(f, start, count)| {
                let table = match f {
                    1 => RegisterTable::Coil,
                    2 => RegisterTable::DiscreteInput,
                    3 => RegisterTable::HoldingRegister,
                    _ => RegisterTable::InputRegister,
                };
                Request::read(table, start, 1 + (count - 1) % read_count_max(table)).ok()
            });
        prop_oneof![
            4 => reads,
            1 => (any::<u16>(), any::<bool>()).prop_map(|(a, on)| Request::write_coil(a, on)),
            1 => (any::<u16>(), any::<u16>()).prop_map(|(a, v)| Request::write_register(a, v)),
            1 => (0u16..60_000, prop::collection::vec(any::<bool>(), 1..=1968))
                .prop_map(|(start, values)| Request::write_coils(start, &values).unwrap()),
            1 => (0u16..60_000, prop::collection::vec(any::<u16>(), 1..=123))
                .prop_map(|(start, values)| Request::write_registers(start, &values).unwrap()),
            1 => (1u16.., 0u16..9_000, 1u16..=121, 1usize..=35).prop_map(|(file, record, registers, runs)| {
                let run = SubRequest { file, record, registers };
                Request::read_file(&vec![run; runs.min(file::runs_max(registers))]).unwrap()
            }),
        ]
    }

    /// The PDU of a well-behaved device with these data bytes repeated.
    pub(in crate::modbus) fn answer_to(request: &Request, data: &[u8]) -> Vec<u8> {
        let mut pdu = vec![request.function()];
        let endless = data.iter().copied().cycle();
        match request.byte_count_expected() {
            Some(bytes) => {
                pdu.push(bytes);
                match &request.0 {
                    Body::ReadFile(read) => pdu.extend(read.answer_with(endless)),
                    _ => pdu.extend(endless.take(usize::from(bytes))),
                }
            }
            None => pdu.extend(request.echo_expected()),
        }
        pdu
    }

    proptest! {
        #[test]
        fn decoding_never_panics(request in any_request(), pdu in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = request.decode_response(&pdu);
            let mut right_function = pdu;
            if let Some(first) = right_function.first_mut() {
                *first = request.function();
            }
            let _ = request.decode_response(&right_function);
        }

        #[test]
        fn good_answers_come_back(request in any_request(), data in prop::collection::vec(any::<u8>(), 1..260)) {
            let pdu = answer_to(&request, &data);
            prop_assert_eq!(pdu.len(), request.response_len_expected());
            prop_assert!(pdu.len() <= PDU_LEN_MAX && encoded(&request).len() <= PDU_LEN_MAX);
            match request.decode_response(&pdu).unwrap() {
                ResponseData::Bits(bits) => {
                    let packed: Vec<u8> = bits.chunks(8).map(pack_bits).collect();
                    let mut expected = pdu[2..].to_vec();
                    if let (Some(last), false) = (expected.last_mut(), bits.len().is_multiple_of(8)) {
                        *last &= (1 << (bits.len() % 8)) - 1;
                    }
                    prop_assert_eq!(packed, expected);
                }
                ResponseData::Registers(words) => {
                    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
                    prop_assert_eq!(bytes, &pdu[2..]);
                }
                ResponseData::Records(records) => {
                    let words = records.iter().flatten().flat_map(|word| word.to_be_bytes());
                    prop_assert!(words.eq(data.iter().copied().cycle().take(2 * records.concat().len())));
                }
                ResponseData::Written => prop_assert!(request.byte_count_expected().is_none()),
            }
        }
    }
}
