//! Requests and answers of the Modbus application protocol as a server sees them (MODBUS Application Protocol
//! V1.1b3, section 6). Knows neither framing nor what the registers mean.

use gapless_common::profile::RegisterTable;

/// Exception codes that a server of ours gives by itself (section 7).
pub mod exception {
    /// The function code is not served.
    pub const ILLEGAL_FUNCTION: u8 = 1;
    /// An address of the range is not mapped.
    pub const ILLEGAL_DATA_ADDRESS: u8 = 2;
    /// Count or value outside what the function allows.
    pub const ILLEGAL_DATA_VALUE: u8 = 3;
    /// Nobody answers at that unit behind a gateway.
    pub const GATEWAY_TARGET_FAILED: u8 = 11;
}

/// Most registers in one read (section 6.3).
pub const READ_REGISTERS_MAX: u16 = 125;
/// Most bits in one read (section 6.1).
pub const READ_BITS_MAX: u16 = 2_000;
/// Most registers in one write (section 6.12).
pub const WRITE_REGISTERS_MAX: u16 = 123;
/// Most bits in one write (section 6.11).
pub const WRITE_BITS_MAX: u16 = 1_968;

/// A request that is well formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Function codes 1 and 2.
    ReadBits(RegisterTable, u16, u16),
    /// Function codes 3 and 4.
    ReadRegisters(RegisterTable, u16, u16),
    /// Function codes 5 and 15.
    WriteBits(u16, Vec<bool>),
    /// Function codes 6 and 16.
    WriteRegisters(u16, Vec<u16>),
    /// Function code 20.
    ReadFile(Vec<FileRun>),
}

/// One sub-request of function code 20 (section 6.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRun {
    /// File number.
    pub file: u16,
    /// First record.
    pub record: u16,
    /// Number of registers.
    pub registers: u16,
}

/// Most bytes of sub-requests, and of the data of their answer (section 6.14).
pub const FILE_BYTES_MAX: usize = 245;

fn word(pdu: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*pdu.get(at)?, *pdu.get(at + 1)?]))
}

/// Length of the request PDU that begins with `pdu`, as far as it can be told from these bytes:
/// `None` for a function code that is not served here, `Some(None)` while more bytes are needed.
#[must_use]
pub fn request_len(pdu: &[u8]) -> Option<Option<usize>> {
    match pdu.first() {
        None => Some(None),
        Some(1..=6) => Some(Some(5)),
        Some(15 | 16) => Some(pdu.get(5).map(|count| 6 + usize::from(*count))),
        Some(20) => Some(pdu.get(1).map(|count| 2 + usize::from(*count))),
        Some(_) => None,
    }
}

/// Reads a request.
///
/// # Errors
/// The exception code to answer with: 1 for a function not served, 3 for a count, a value or a length that the
/// function does not allow.
pub fn parse(pdu: &[u8]) -> Result<Request, u8> {
    let function = *pdu.first().ok_or(exception::ILLEGAL_FUNCTION)?;
    if request_len(pdu).is_none() {
        return Err(exception::ILLEGAL_FUNCTION);
    }
    parse_known(function, pdu).ok_or(exception::ILLEGAL_DATA_VALUE)
}

fn parse_known(function: u8, pdu: &[u8]) -> Option<Request> {
    if function == 20 {
        return parse_read_file(pdu);
    }
    let (start, count) = (word(pdu, 1)?, word(pdu, 3)?);
    let within = |max: u16| (1..=max).contains(&count).then_some(count);
    if function < 7 && pdu.len() != 5 {
        return None;
    }
    match function {
        1 => Some(Request::ReadBits(RegisterTable::Coil, start, within(READ_BITS_MAX)?)),
        2 => Some(Request::ReadBits(RegisterTable::DiscreteInput, start, within(READ_BITS_MAX)?)),
        3 => Some(Request::ReadRegisters(RegisterTable::HoldingRegister, start, within(READ_REGISTERS_MAX)?)),
        4 => Some(Request::ReadRegisters(RegisterTable::InputRegister, start, within(READ_REGISTERS_MAX)?)),
        5 => match count {
            0xFF00 => Some(Request::WriteBits(start, vec![true])),
            0x0000 => Some(Request::WriteBits(start, vec![false])),
            _ => None,
        },
        6 => Some(Request::WriteRegisters(start, vec![count])),
        15 => parse_write_bits(start, within(WRITE_BITS_MAX)?, pdu),
        16 => parse_write_registers(start, within(WRITE_REGISTERS_MAX)?, pdu),
        _ => None,
    }
}

fn parse_read_file(pdu: &[u8]) -> Option<Request> {
    let (count, subs) = (usize::from(*pdu.get(1)?), pdu.get(2..)?);
    let is_sound = count == subs.len() && (7..=FILE_BYTES_MAX).contains(&count) && count % 7 == 0;
    let run = |sub: &[u8]| {
        let run = FileRun { file: word(sub, 1)?, record: word(sub, 3)?, registers: word(sub, 5)? };
        let is_sound =
            sub[0] == 6 && run.registers > 0 && u32::from(run.record) + u32::from(run.registers) <= 10_000;
        is_sound.then_some(run)
    };
    let runs = is_sound.then(|| subs.chunks(7).map(run).collect::<Option<Vec<_>>>())??;
    let answer: usize = runs.iter().map(|run| 2 + 2 * usize::from(run.registers)).sum();
    (answer <= FILE_BYTES_MAX).then_some(Request::ReadFile(runs))
}

fn parse_write_bits(start: u16, count: u16, pdu: &[u8]) -> Option<Request> {
    let count = usize::from(count);
    let data = data_of(pdu, count.div_ceil(8))?;
    let bits = (0..count).map(|i| data[i / 8] >> (i % 8) & 1 == 1).collect();
    Some(Request::WriteBits(start, bits))
}

fn parse_write_registers(start: u16, count: u16, pdu: &[u8]) -> Option<Request> {
    let data = data_of(pdu, usize::from(count) * 2)?;
    Some(Request::WriteRegisters(
        start,
        data.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect(),
    ))
}

fn data_of(pdu: &[u8], len: usize) -> Option<&[u8]> {
    let data = pdu.get(6..)?;
    (usize::from(pdu[5]) == len && data.len() == len).then_some(data)
}

/// Answer to a read of registers.
#[must_use]
pub fn registers_answer(function: u8, registers: &[u16]) -> Vec<u8> {
    let count = u8::try_from(registers.len() * 2).expect("a read is bounded by READ_REGISTERS_MAX");
    let mut pdu = vec![function, count];
    pdu.extend(registers.iter().flat_map(|register| register.to_be_bytes()));
    pdu
}

/// Answer to a read of bits: the first one in the lowest bit of the first byte.
#[must_use]
pub fn bits_answer(function: u8, bits: &[bool]) -> Vec<u8> {
    let count = u8::try_from(bits.len().div_ceil(8)).expect("a read is bounded by READ_BITS_MAX");
    let mut pdu = vec![function, count];
    pdu.extend(bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |acc, bit| acc << 1 | u8::from(*bit))));
    pdu
}

/// Answer to a read of file records: for each run its length, the reference type, its registers.
#[must_use]
pub fn file_answer(records: &[Vec<u16>]) -> Vec<u8> {
    let byte = |count: usize| u8::try_from(count).expect("a request's answer is bounded by FILE_BYTES_MAX");
    let part = |record: &Vec<u16>| {
        let data = record.iter().flat_map(|word| word.to_be_bytes());
        [byte(1 + 2 * record.len()), 6].into_iter().chain(data).collect::<Vec<u8>>()
    };
    let parts = records.iter().map(part).collect::<Vec<_>>().concat();
    [&[20, byte(parts.len())][..], &parts].concat()
}

/// Answer to a write: the request's first five bytes come back.
#[must_use]
pub fn write_answer(pdu: &[u8]) -> Vec<u8> {
    pdu.iter().copied().take(5).collect()
}

/// Refusal of `function` with `code`.
#[must_use]
pub fn exception_answer(function: u8, code: u8) -> Vec<u8> {
    vec![function | 0x80, code]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Examples of the specification, sections 6.1, 6.3, 6.5, 6.6, 6.11, 6.12, and what must be refused.
    #[test]
    fn requests_are_read_or_refused() {
        let rows: [(&[u8], Result<Request, u8>); 12] = [
            (&[1, 0, 0x13, 0, 0x13], Ok(Request::ReadBits(RegisterTable::Coil, 0x13, 19))),
            (&[2, 0, 0xC4, 0, 0x16], Ok(Request::ReadBits(RegisterTable::DiscreteInput, 0xC4, 22))),
            (&[3, 0, 0x6B, 0, 3], Ok(Request::ReadRegisters(RegisterTable::HoldingRegister, 0x6B, 3))),
            (&[4, 0, 8, 0, 1], Ok(Request::ReadRegisters(RegisterTable::InputRegister, 8, 1))),
            (&[5, 0, 0xAC, 0xFF, 0], Ok(Request::WriteBits(0xAC, vec![true]))),
            (&[6, 0, 1, 0, 3], Ok(Request::WriteRegisters(1, vec![3]))),
            (
                &[15, 0, 0x13, 0, 10, 2, 0xCD, 1],
                Ok(Request::WriteBits(0x13, [1, 0, 1, 1, 0, 0, 1, 1, 1, 0].map(|bit| bit == 1).to_vec())),
            ),
            (&[16, 0, 1, 0, 2, 4, 0, 10, 1, 2], Ok(Request::WriteRegisters(1, vec![10, 0x102]))),
            (&[3, 0, 0, 0, 126], Err(3)),
            (&[5, 0, 0, 0x12, 0x34], Err(3)),
            (&[16, 0, 1, 0, 2, 3, 0, 10, 1], Err(3)),
            (&[43, 14, 1, 0], Err(1)),
        ];
        for (bytes, expected) in rows {
            assert_eq!(parse(bytes), expected, "{bytes:02X?}");
        }
    }

    /// Examples of the specification, sections 6.5, 6.6, 6.11, 6.12.
    #[test]
    fn a_write_is_answered_by_its_first_five_bytes() {
        let rows: [(&[u8], [u8; 5]); 4] = [
            (&[5, 0, 0xAC, 0xFF, 0], [5, 0, 0xAC, 0xFF, 0]),
            (&[6, 0, 1, 0, 3], [6, 0, 1, 0, 3]),
            (&[15, 0, 0x13, 0, 10, 2, 0xCD, 1], [15, 0, 0x13, 0, 10]),
            (&[16, 0, 1, 0, 2, 4, 0, 10, 1, 2], [16, 0, 1, 0, 2]),
        ];
        for (request, answer) in rows {
            assert_eq!(write_answer(request), answer, "{request:02X?}");
        }
    }

    /// The example of section 6.14, and what must be refused.
    #[test]
    fn file_records_are_asked_for_and_answered_as_in_the_specification() {
        let run = |file, record, registers| FileRun { file, record, registers };
        let example = [20, 14, 6, 0, 4, 0, 1, 0, 2, 6, 0, 3, 0, 9, 0, 2];
        assert_eq!(parse(&example), Ok(Request::ReadFile(vec![run(4, 1, 2), run(3, 9, 2)])));
        assert_eq!(request_len(&example[..2]), Some(Some(16)));
        let answer = file_answer(&[vec![0x0DFE, 0x0020], vec![0x33CD, 0x0040]]);
        assert_eq!(answer, [20, 12, 5, 6, 0x0D, 0xFE, 0, 0x20, 5, 6, 0x33, 0xCD, 0, 0x40]);
        let rows: [&[u8]; 5] = [
            &[20, 7, 5, 0, 4, 0, 1, 0, 2],
            &[20, 7, 6, 0, 4, 0, 1, 0, 0],
            &[20, 7, 6, 0, 4, 0x27, 0x0F, 0, 2],
            &[20, 7, 6, 0, 4, 0, 1, 0, 122],
            &[20, 8, 6, 0, 4, 0, 1, 0, 2, 6],
        ];
        for refused in rows {
            assert_eq!(parse(refused), Err(3), "{refused:02X?}");
        }
    }

    /// Answers of the specification's examples, sections 6.1 to 6.4.
    #[test]
    fn reads_are_answered_as_in_the_specification() {
        let bits = |text: &str| text.bytes().map(|bit| bit == b'1').collect::<Vec<_>>();
        assert_eq!(bits_answer(1, &bits("1011001111010110101")), [1, 3, 0xCD, 0x6B, 0x05]);
        assert_eq!(bits_answer(2, &bits("0011010111011011101011")), [2, 3, 0xAC, 0xDB, 0x35]);
        assert_eq!(registers_answer(3, &[555, 0, 100]), [3, 6, 2, 0x2B, 0, 0, 0, 0x64]);
        assert_eq!(registers_answer(4, &[10]), [4, 2, 0, 10]);
    }

    #[test]
    fn bits_come_lowest_first() {
        let bits = [1, 0, 1, 1, 0, 0, 1, 1, 1].map(|bit| bit == 1);
        assert_eq!(bits_answer(1, &bits), [1, 2, 0xCD, 0x01]);
        assert_eq!(registers_answer(3, &[0x022B, 0, 0x64]), [3, 6, 2, 0x2B, 0, 0, 0, 0x64]);
        assert_eq!(exception_answer(3, 2), [0x83, 2]);
    }
}
