//! Read File Record (function 20) of MODBUS Application Protocol Specification V1.1b3, section 6.14: its request and
//! its response, as [`pdu`](super::pdu) frames them. A file is a numbered row of records, and a record a register
//! there; what stands in one is the device's own business.
//!
//! Request: byte count, then 7 bytes a sub-request (reference type, file number, record number, record length).
//! Response: byte count, then for each sub-request its length (reference type included), the reference type, the
//! registers.

/// Limits of the specification: the last record of a file, and most bytes behind the byte count of request or response.
pub use gapless_common::profile::{FILE_DATA_MAX as DATA_LEN_MAX, FILE_RECORD_MAX as RECORD_MAX};

use super::pdu::Mismatch;

/// Function code.
pub const FUNCTION: u8 = 20;
/// Stands in each sub-request and each part of the response.
pub const REFERENCE_TYPE: u8 = 6;
/// Bytes of one sub-request.
pub const SUB_REQUEST_LEN: usize = 7;
/// Bytes of each part of the response before its registers.
const PART_HEAD_LEN: usize = 2;

/// One run of records of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubRequest {
    /// File number, 1 to 65,535.
    pub file: u16,
    /// First record, up to [`RECORD_MAX`].
    pub record: u16,
    /// Registers, at least one.
    pub registers: u16,
}

/// How many runs of so many registers one request can carry; 0 where not even one fits its response.
#[must_use]
pub const fn runs_max(registers: u16) -> usize {
    let by_response = DATA_LEN_MAX / (PART_HEAD_LEN + 2 * registers as usize);
    let by_request = DATA_LEN_MAX / SUB_REQUEST_LEN;
    if by_response < by_request { by_response } else { by_request }
}

/// Why there is no such request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// No sub-request, or more than fit.
    #[error("function 20: {0} sub-requests, a request carries 1 to 35")]
    Count(usize),
    /// The answer would be longer than a PDU.
    #[error("function 20: the answer would have {0} bytes of data, it can carry 245")]
    TooLong(usize),
    /// File number 0, a record beyond 9,999, or no register.
    #[error("function 20: file {}, record {}, {} registers: files count from 1, records end at 9999", .0.file, .0.record, .0.registers)]
    Reference(SubRequest),
}

/// The sub-requests of one request, which keep the specification's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRead(Box<[SubRequest]>);

impl FileRead {
    /// Checks the limits.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn new(runs: &[SubRequest]) -> Result<Self, FileError> {
        if runs.is_empty() || runs.len() * SUB_REQUEST_LEN > DATA_LEN_MAX {
            return Err(FileError::Count(runs.len()));
        }
        let ends_past =
            |run: &SubRequest| run.record > RECORD_MAX || run.registers > RECORD_MAX - run.record + 1;
        if let Some(run) = runs.iter().find(|run| run.file == 0 || run.registers == 0 || ends_past(run)) {
            return Err(FileError::Reference(*run));
        }
        let read = Self(runs.into());
        match read.data_len() {
            0..=DATA_LEN_MAX => Ok(read),
            len => Err(FileError::TooLong(len)),
        }
    }

    /// The length bytes and reference types around `data`, as a well-behaved device has them.
    #[cfg(test)]
    pub(super) fn answer_with(&self, mut data: impl Iterator<Item = u8>) -> Vec<u8> {
        let part = |run: &SubRequest| {
            let len = 2 * usize::from(run.registers);
            let head = [super::pdu::byte(len + 1), REFERENCE_TYPE];
            head.into_iter().chain(data.by_ref().take(len)).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(part).collect()
    }

    /// Bytes behind the byte count of the response.
    pub(super) fn data_len(&self) -> usize {
        self.0.iter().map(|run| PART_HEAD_LEN + 2 * usize::from(run.registers)).sum()
    }

    /// Bytes of the request's PDU.
    pub(super) fn request_len(&self) -> usize {
        2 + SUB_REQUEST_LEN * self.0.len()
    }

    /// Appends what follows the function code.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(super::pdu::byte(SUB_REQUEST_LEN * self.0.len()));
        for run in &self.0 {
            out.push(REFERENCE_TYPE);
            [run.file, run.record, run.registers].iter().for_each(|word| out.extend(word.to_be_bytes()));
        }
    }

    /// The registers of each sub-request. `data` is what follows the byte count, as long as it must be.
    ///
    /// # Errors
    /// [`Mismatch::Part`] where a part has another length or reference type.
    pub(super) fn decode(&self, data: &[u8]) -> Result<Vec<Vec<u16>>, Mismatch> {
        let mut rest = data;
        let mut records = Vec::with_capacity(self.0.len());
        for (part, run) in self.0.iter().enumerate() {
            let len = 2 * usize::from(run.registers);
            let wrong = Mismatch::Part { part };
            let (head, behind) = rest.split_at_checked(PART_HEAD_LEN).ok_or(wrong)?;
            if usize::from(head[0]) != len + 1 || head[1] != REFERENCE_TYPE {
                return Err(wrong);
            }
            let (registers, behind) = behind.split_at_checked(len).ok_or(wrong)?;
            records.push(super::pdu::words(registers));
            rest = behind;
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::super::pdu::{AnswerError, Refusal, Request, ResponseData};
    use super::*;
    use gapless_common::quality::ExceptionCode;

    fn run(file: u16, record: u16, registers: u16) -> SubRequest {
        SubRequest { file, record, registers }
    }

    /// The example of section 6.14: two registers from file 4, record 1, and two from file 3, record 9.
    const EXAMPLE: [u8; 14] =
        [0x14, 0x0C, 0x05, 0x06, 0x0D, 0xFE, 0x00, 0x20, 0x05, 0x06, 0x33, 0xCD, 0x00, 0x40];

    fn example() -> Request {
        Request::read_file(&[run(4, 1, 2), run(3, 9, 2)]).unwrap()
    }

    #[test]
    fn the_example_of_the_specification() {
        let mut pdu = Vec::new();
        example().encode(&mut pdu);
        let expected =
            [0x14, 0x0E, 0x06, 0x00, 0x04, 0x00, 0x01, 0x00, 0x02, 0x06, 0x00, 0x03, 0x00, 0x09, 0x00, 0x02];
        assert_eq!(pdu, expected);
        assert_eq!((example().len(), example().response_len_expected()), (pdu.len(), EXAMPLE.len()));
        let records = vec![vec![0x0DFE, 0x0020], vec![0x33CD, 0x0040]];
        assert_eq!(example().decode_response(&EXAMPLE), Ok(ResponseData::Records(records)));
    }

    #[test]
    fn what_is_no_answer_is_told_from_a_refusal() {
        let part = |part| Err(AnswerError::Mismatch(Mismatch::Part { part }));
        let changed = |at: usize, byte: u8| {
            let mut pdu = EXAMPLE.to_vec();
            pdu[at] = byte;
            pdu
        };
        let rows = [
            (vec![0x94, 0x02], Err(AnswerError::Refused(Refusal(ExceptionCode(2))))),
            (changed(2, 0x04), part(0)),
            (changed(2, 0x07), part(0)),
            (changed(3, 0x07), part(0)),
            (changed(8, 0x05), Ok(())),
            (changed(8, 0x09), part(1)),
            (changed(9, 0x00), part(1)),
            (changed(1, 0x0B), Err(Mismatch::ByteCount { expected: 12, got: 11 }.into())),
            (EXAMPLE[..13].to_vec(), Err(Mismatch::Length { expected: 14, got: 13 }.into())),
            (vec![0x14], Err(Mismatch::Length { expected: 14, got: 1 }.into())),
        ];
        for (pdu, expected) in rows {
            assert_eq!(example().decode_response(&pdu).map(|_| ()), expected, "{pdu:02X?}");
        }
    }

    #[test]
    fn requests_keep_the_limits() {
        let long = run(1, 0, 121);
        let rows = [
            (vec![], Some(FileError::Count(0))),
            (vec![run(1, 0, 1); 35], None),
            (vec![run(1, 0, 1); 36], Some(FileError::Count(36))),
            (vec![long], None),
            (vec![run(1, 0, 122)], Some(FileError::TooLong(246))),
            (vec![long, run(1, 0, 1)], Some(FileError::TooLong(248))),
            (vec![run(0, 0, 1)], Some(FileError::Reference(run(0, 0, 1)))),
            (vec![run(1, 9_999, 1)], None),
            (vec![run(1, 9_999, 2)], Some(FileError::Reference(run(1, 9_999, 2)))),
            (vec![run(1, 10_000, 1)], Some(FileError::Reference(run(1, 10_000, 1)))),
            (vec![run(1, 0, 0)], Some(FileError::Reference(run(1, 0, 0)))),
        ];
        for (runs, expected) in rows {
            assert_eq!(FileRead::new(&runs).err(), expected, "{runs:?}");
        }
        for (registers, most) in [(1, 35), (12, 9), (60, 2), (121, 1), (122, 0)] {
            assert_eq!(runs_max(registers), most);
            let runs = vec![run(1, 0, registers); most + 1];
            assert!(FileRead::new(&runs[..most]).is_ok() || most == 0, "{registers}");
            assert!(FileRead::new(&runs).is_err(), "{registers}");
        }
    }
}
