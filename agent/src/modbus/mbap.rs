//! MBAP framing of "MODBUS Messaging on TCP/IP Implementation Guide" V1.0b, section 3.1: transaction identifier,
//! protocol identifier, length, unit identifier.
//!
//! It opens no connection. After a time-out the shell closes the connection, so an answer with another
//! transaction identifier is a stray: it is skipped and counted, never matched.

use super::pdu::{PDU_LEN_MAX, Request};
use super::{Corrupt, Progress, UnitId, judge};

/// Bytes before the PDU.
pub const HEADER_LEN: usize = 7;
/// Longest frame in bytes.
pub const ADU_LEN_MAX: usize = HEADER_LEN + PDU_LEN_MAX;

/// Bounds of the length field: unit identifier and PDU.
const LENGTH_MIN: u16 = 2;
const LENGTH_MAX: u16 = 254;

/// What stands before the PDU; the protocol identifier is always 0 (Modbus).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Copied by the device from the request to its answer.
    pub transaction: u16,
    /// Bytes that follow the length field: unit identifier and PDU; 2 to 254.
    pub length: u16,
    /// The device, or the one behind a gateway.
    pub unit: UnitId,
}

impl Header {
    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let ([t0, t1], [l0, l1]) = (self.transaction.to_be_bytes(), self.length.to_be_bytes());
        [t0, t1, 0, 0, l0, l1, self.unit.0]
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`Corrupt::Protocol`] and [`Corrupt::HeaderLength`]: the stream is not Modbus, or out of step.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, Corrupt> {
        let &[t0, t1, p0, p1, l0, l1, unit] = bytes;
        let (protocol, length) = (u16::from_be_bytes([p0, p1]), u16::from_be_bytes([l0, l1]));
        if protocol != 0 {
            return Err(Corrupt::Protocol(protocol));
        }
        if !(LENGTH_MIN..=LENGTH_MAX).contains(&length) {
            return Err(Corrupt::HeaderLength(length));
        }
        Ok(Self { transaction: u16::from_be_bytes([t0, t1]), length, unit: UnitId(unit) })
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        HEADER_LEN - 1 + usize::from(self.length)
    }
}

/// The frame of a request.
#[must_use]
pub fn encode(transaction: u16, unit: UnitId, request: &Request) -> Vec<u8> {
    let length = u16::try_from(1 + request.len()).expect("a PDU has at most 253 bytes");
    let mut frame = Vec::with_capacity(HEADER_LEN + request.len());
    frame.extend(Header { transaction, length, unit }.encode());
    request.encode(&mut frame);
    frame
}

/// Collects the bytes of the answer to one request from the connection's stream.
#[derive(Debug)]
pub struct MbapReceiver<'a> {
    transaction: u16,
    unit: UnitId,
    request: &'a Request,
    buffer: Vec<u8>,
    skipped_bytes: u64,
}

impl<'a> MbapReceiver<'a> {
    /// Awaits the answer of `unit` to `request` under this transaction identifier.
    #[must_use]
    pub fn new(transaction: u16, unit: UnitId, request: &'a Request) -> Self {
        let buffer = Vec::with_capacity(HEADER_LEN + request.response_len_expected());
        Self { transaction, unit, request, buffer, skipped_bytes: 0 }
    }

    /// Takes what has arrived. Whole frames of other transactions are skipped and counted.
    pub fn push(&mut self, bytes: &[u8]) -> Progress {
        self.buffer.extend(bytes);
        let mut begin = 0;
        let progress = loop {
            let rest = &self.buffer[begin..];
            let header = match rest.first_chunk().map(Header::decode) {
                None => break Progress::NeedMore(HEADER_LEN - rest.len()),
                Some(Err(why)) => break Progress::Corrupt(why),
                Some(Ok(header)) => header,
            };
            if rest.len() < header.frame_len() {
                break Progress::NeedMore(header.frame_len() - rest.len());
            }
            if header.transaction == self.transaction {
                break self.judge(&header, &rest[HEADER_LEN..header.frame_len()]);
            }
            begin += header.frame_len();
        };
        self.buffer.drain(..begin);
        self.skipped_bytes = self.skipped_bytes.saturating_add(u64::try_from(begin).unwrap_or(u64::MAX));
        progress
    }

    /// Bytes of the answers of other transactions that were passed over.
    #[must_use]
    pub const fn skipped_bytes(&self) -> u64 {
        self.skipped_bytes
    }

    fn judge(&self, header: &Header, pdu: &[u8]) -> Progress {
        if header.unit != self.unit {
            return Progress::Corrupt(Corrupt::Unit { asked: self.unit, got: header.unit });
        }
        judge(self.request, pdu)
    }
}

#[cfg(test)]
mod tests {
    use super::super::pdu::tests::{answer_to, any_request};
    use super::super::pdu::{Mismatch, Refusal, ResponseData};
    use super::*;
    use gapless_common::profile::RegisterTable;
    use gapless_common::quality::ExceptionCode;
    use proptest::prelude::*;

    /// Transaction of the guide's example.
    const TRANSACTION: u16 = 0x1501;
    const UNIT: UnitId = UnitId(0xFF);

    fn framed(transaction: u16, unit: u8, pdu: &[u8]) -> Vec<u8> {
        let length = u16::try_from(pdu.len() + 1).unwrap();
        let mut frame = Header { transaction, length, unit: UnitId(unit) }.encode().to_vec();
        frame.extend(pdu);
        frame
    }

    fn one_register() -> Request {
        Request::read(RegisterTable::HoldingRegister, 5, 1).unwrap()
    }

    /// The guide's example ADU (section 4.4.2.1): one word at address 5 of a server on TCP.
    #[test]
    fn the_example_of_the_guide() {
        let frame = encode(TRANSACTION, UNIT, &one_register());
        assert_eq!(frame, [0x15, 0x01, 0x00, 0x00, 0x00, 0x06, 0xFF, 0x03, 0x00, 0x05, 0x00, 0x01]);
    }

    #[test]
    fn answers_are_matched_by_transaction() {
        let request = one_register();
        let good = framed(TRANSACTION, 0xFF, &[0x03, 2, 0x12, 0x34]);
        let late = framed(TRANSACTION - 1, 0xFF, &[0x03, 2, 0x55, 0x55]);
        let data = Progress::Frame(Ok(ResponseData::Registers(vec![0x1234])));
        let other_unit = Corrupt::Unit { asked: UNIT, got: UnitId(1) };
        let rows: [(Vec<u8>, Progress, u64); 11] = [
            (vec![], Progress::NeedMore(7), 0),
            (good[..7].to_vec(), Progress::NeedMore(4), 0),
            (good.clone(), data.clone(), 0),
            (late.clone(), Progress::NeedMore(7), 11),
            ([&late[..], &late[..], &good[..]].concat(), data, 22),
            ([&late[..], &good[..8]].concat(), Progress::NeedMore(3), 11),
            (framed(TRANSACTION, 0xFF, &[0x83, 4]), Progress::Frame(Err(Refusal(ExceptionCode(4)))), 0),
            (framed(TRANSACTION, 1, &[0x83, 4]), Progress::Corrupt(other_unit), 0),
            (
                framed(TRANSACTION, 0xFF, &[0x03, 2, 0x12]),
                Progress::Corrupt(Mismatch::Length { expected: 4, got: 3 }.into()),
                0,
            ),
            (vec![0x15, 1, 0, 1, 0, 6, 0xFF], Progress::Corrupt(Corrupt::Protocol(1)), 0),
            (vec![0x15, 1, 0, 0, 1, 0, 0xFF], Progress::Corrupt(Corrupt::HeaderLength(256)), 0),
        ];
        for (bytes, progress, skipped) in rows {
            let mut receiver = MbapReceiver::new(TRANSACTION, UNIT, &request);
            assert_eq!(receiver.push(&bytes), progress, "{bytes:02X?}");
            assert_eq!(receiver.skipped_bytes(), skipped, "{bytes:02X?}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        for (length, good) in
            [(0u16, false), (1, false), (2, true), (254, true), (255, false), (u16::MAX, false)]
        {
            let header = Header { transaction: 1, length, unit: UNIT };
            assert_eq!(Header::decode(&header.encode()).is_ok(), good, "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces(
            request in any_request(),
            pieces in prop::collection::vec(prop::collection::vec(0u8..8, 0..300), 0..5),
        ) {
            let mut receiver = MbapReceiver::new(0x0101, UnitId(1), &request);
            for piece in &pieces {
                match receiver.push(piece) {
                    Progress::NeedMore(n) => prop_assert!(n > 0 && n <= ADU_LEN_MAX),
                    Progress::Frame(_) | Progress::Corrupt(_) => break,
                }
            }
        }

        #[test]
        fn answers_in_single_bytes(
            request in any_request(),
            data in prop::collection::vec(any::<u8>(), 1..250),
            strays in 0usize..3,
        ) {
            let mut receiver = MbapReceiver::new(TRANSACTION, UNIT, &request);
            let answer = answer_to(&request, &data);
            for _ in 0..strays {
                for byte in framed(7, 0xFF, &answer) {
                    prop_assert!(matches!(receiver.push(&[byte]), Progress::NeedMore(_)));
                }
            }
            let frame = framed(TRANSACTION, 0xFF, &answer);
            let (last, head) = frame.split_last().unwrap();
            for byte in head {
                prop_assert!(matches!(receiver.push(&[*byte]), Progress::NeedMore(_)));
            }
            prop_assert!(matches!(receiver.push(&[*last]), Progress::Frame(Ok(_))));
            let passed_over = strays * (HEADER_LEN + answer.len());
            prop_assert_eq!(usize::try_from(receiver.skipped_bytes()), Ok(passed_over));
        }
    }
}
