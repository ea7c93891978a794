//! RTU framing and timing of "MODBUS over serial line specification and implementation guide" V1.02: unit
//! identifier, PDU, CRC16; character time, silent intervals, wire time. Serves RTU over TCP as well.
//!
//! It measures no silence: an answer ends by the length that its request implies (the CRC tells whether it is
//! one), so that the line is free again without waiting for a silent interval to pass.

use std::time::Duration;

use super::pdu::{EXCEPTION_LEN, Mismatch, Request};
use super::{Corrupt, Progress, UnitId, judge};
use gapless_common::planted::{self, Bug};

/// Longest frame in bytes (section 2.5.1).
pub const ADU_LEN_MAX: usize = 256;
/// Bytes around the PDU: unit identifier and CRC.
pub const OVERHEAD_LEN: usize = 3;

const CRC_POLYNOMIAL: u16 = 0xA001;
const CRC_TABLE: [u16; 256] = crc_table();

const fn crc_table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    let mut crc_of_byte: u16 = 0;
    while byte < 256 {
        let mut crc = crc_of_byte;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ CRC_POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
        crc_of_byte += 1;
    }
    table
}

/// CRC16 of a frame without its CRC (section 6.2.2 of the guide's appendix: reflected polynomial 0xA001, start
/// 0xFFFF). It travels low byte first.
#[must_use]
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| {
        let [low, _] = crc.to_le_bytes();
        crc >> 8 ^ CRC_TABLE[usize::from(low ^ byte)]
    })
}

/// The frame of a request.
#[must_use]
pub fn encode(unit: UnitId, request: &Request) -> Vec<u8> {
    let mut frame = Vec::with_capacity(request_len(request));
    frame.push(unit.0);
    request.encode(&mut frame);
    let crc = crc16(&frame);
    frame.extend(crc.to_le_bytes());
    frame
}

/// Characters of the frame of a request.
#[must_use]
pub fn request_len(request: &Request) -> usize {
    OVERHEAD_LEN + request.len()
}

/// Characters of the frame that answers a request (a refusal has 5).
#[must_use]
pub fn answer_len_expected(request: &Request) -> usize {
    OVERHEAD_LEN + request.response_len_expected()
}

/// Collects the bytes of the answer to one request.
///
/// Bytes behind a complete frame are ignored, as a transmitter that is switched off often leaves one; what is
/// left in the port must be flushed before the next request anyway. Bytes before it make the answer corrupt.
#[derive(Debug)]
pub struct RtuReceiver<'a> {
    unit: UnitId,
    request: &'a Request,
    frame: Vec<u8>,
}

impl<'a> RtuReceiver<'a> {
    /// Awaits the answer of `unit` to `request`.
    #[must_use]
    pub fn new(unit: UnitId, request: &'a Request) -> Self {
        Self { unit, request, frame: Vec::with_capacity(answer_len_expected(request)) }
    }

    /// Takes what has arrived. A unit, function or byte count that does not match is reported as soon as it is
    /// seen, so the rest of such a frame may still be on its way.
    pub fn push(&mut self, bytes: &[u8]) -> Progress {
        let room = ADU_LEN_MAX - self.frame.len();
        self.frame.extend(&bytes[..bytes.len().min(room)]);
        match self.len_expected() {
            Err(why) => Progress::Corrupt(why),
            Ok(expected) if self.frame.len() < expected => Progress::NeedMore(expected - self.frame.len()),
            Ok(expected) => self.judge(expected),
        }
    }

    /// Bytes received so far.
    #[must_use]
    pub fn received(&self) -> &[u8] {
        &self.frame
    }

    /// Length of the frame as far as its first bytes tell: at least a refusal's until the function is known.
    fn len_expected(&self) -> Result<usize, Corrupt> {
        let refusal = OVERHEAD_LEN + EXCEPTION_LEN;
        if let Some(&got) = self.frame.first()
            && got != self.unit.0
        {
            return Err(Corrupt::Unit { asked: self.unit, got: UnitId(got) });
        }
        let (asked, exception) = (self.request.function(), self.request.exception_function());
        match self.frame.get(1) {
            None => Ok(refusal),
            Some(&got) if got == exception => Ok(refusal),
            Some(&got) if got != asked => Err(Mismatch::Function { asked, got }.into()),
            Some(_) => self.check_byte_count().map(|()| answer_len_expected(self.request)),
        }
    }

    fn check_byte_count(&self) -> Result<(), Corrupt> {
        match (self.request.byte_count_expected(), self.frame.get(2)) {
            (Some(expected), Some(&got)) if expected != got => {
                Err(Mismatch::ByteCount { expected, got }.into())
            }
            _ => Ok(()),
        }
    }

    fn judge(&self, len: usize) -> Progress {
        let (covered, crc) = self.frame[..len].split_at(len - 2);
        let (computed, got) = (crc16(covered), u16::from_le_bytes([crc[0], crc[1]]));
        let got = if planted::has(Bug::IgnoreCrc) { computed } else { got };
        if computed != got {
            return Progress::Corrupt(Corrupt::Crc { computed, got });
        }
        judge(self.request, &covered[1..])
    }
}

/// Rate and character of a serial line, and the times that follow from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineTiming {
    baud: u32,
    bits_per_character: u32,
}

/// Up to this rate the silent intervals are counted in characters; above it they are fixed (section 2.5.1.1).
const COUNTED_BAUD_MAX: u32 = 19_200;
const FIXED_T1_5: Duration = Duration::from_micros(750);
const FIXED_T3_5: Duration = Duration::from_micros(1_750);

impl LineTiming {
    /// A line of `baud` bits per second (not 0) whose characters have so many bits, start, parity and stop bits
    /// included: 10 for 8N1, 11 for 8E1, 8O1 and 8N2.
    #[must_use]
    pub fn new(baud: u32, bits_per_character: u8) -> Self {
        debug_assert!(baud > 0, "a line without a rate");
        Self { baud: baud.max(1), bits_per_character: u32::from(bits_per_character) }
    }

    /// Time of one character.
    #[must_use]
    pub fn character(&self) -> Duration {
        self.bits(u64::from(self.bits_per_character))
    }

    /// Longest pause within a frame (section 2.5.1.1).
    #[must_use]
    pub fn t1_5(&self) -> Duration {
        self.silent_interval(3, FIXED_T1_5)
    }

    /// Shortest pause between frames (section 2.5.1.1).
    #[must_use]
    pub fn t3_5(&self) -> Duration {
        self.silent_interval(7, FIXED_T3_5)
    }

    fn silent_interval(&self, half_characters: u64, fixed: Duration) -> Duration {
        if self.baud > COUNTED_BAUD_MAX {
            return fixed;
        }
        let bits = u64::from(self.bits_per_character) * half_characters;
        self.bits(bits) / 2
    }

    /// Time of so many characters in a row.
    #[must_use]
    pub fn wire_time(&self, characters: usize) -> Duration {
        let characters = u64::try_from(characters).unwrap_or(u64::MAX);
        self.bits(u64::from(self.bits_per_character).saturating_mul(characters))
    }

    /// Least time from the first bit of a request to the first bit of the next: request, turnaround of the
    /// device, full answer, silent interval.
    #[must_use]
    pub fn exchange(&self, request: &Request, turnaround: Duration) -> Duration {
        let characters = request_len(request) + answer_len_expected(request);
        self.wire_time(characters) + turnaround.max(self.t3_5()) + self.t3_5()
    }

    /// Rounded up, so that a wait is never too short.
    fn bits(&self, bits: u64) -> Duration {
        let ns = bits.saturating_mul(1_000_000_000).div_ceil(u64::from(self.baud));
        Duration::from_nanos(ns)
    }
}

#[cfg(test)]
mod tests {
    use super::super::pdu::tests::{answer_to, any_request};
    use super::super::pdu::{Refusal, ResponseData};
    use super::*;
    use gapless_common::profile::RegisterTable;
    use gapless_common::quality::ExceptionCode;
    use proptest::prelude::*;

    const UNIT: UnitId = UnitId(0x11);

    fn framed(unit: u8, pdu: &[u8]) -> Vec<u8> {
        let mut frame = vec![unit];
        frame.extend(pdu);
        let crc = crc16(&frame);
        frame.extend(crc.to_le_bytes());
        frame
    }

    fn three_registers() -> Request {
        Request::read(RegisterTable::HoldingRegister, 107, 3).unwrap()
    }

    /// The first row is the guide's own worked example; the check value of CRC-16/MODBUS is 0x4B37.
    #[test]
    fn known_crcs() {
        let rows: [(&[u8], u16); 4] = [
            (&[0x02, 0x07], 0x1241),
            (b"123456789", 0x4B37),
            (&[], 0xFFFF),
            (&[0x11, 0x03, 0x00, 0x6B, 0x00, 0x03], 0x8776),
        ];
        for (bytes, crc) in rows {
            assert_eq!(crc16(bytes), crc, "{bytes:02X?}");
        }
    }

    #[test]
    fn a_request_ends_with_the_low_byte_of_its_crc_first() {
        let frame = encode(UNIT, &three_registers());
        assert_eq!(frame, [0x11, 0x03, 0x00, 0x6B, 0x00, 0x03, 0x76, 0x87]);
    }

    /// The examples of the application protocol V1.1b3, sections 6.1 to 6.6, 6.11 and 6.12, framed for unit 17. Whoever
    /// writes about Modbus frames these: the CRCs of the rows are theirs, not computed here.
    #[test]
    fn examples_of_the_specification() {
        let read = |table, start, count| Request::read(table, start, count).unwrap();
        let coils = [true, false, true, true, false, false, true, true, true, false];
        let rows: [(Request, &[u8], &[u8]); 8] = [
            (
                read(RegisterTable::Coil, 19, 37),
                &[0x11, 0x01, 0x00, 0x13, 0x00, 0x25, 0x0E, 0x84],
                &[0x11, 0x01, 0x05, 0xCD, 0x6B, 0xB2, 0x0E, 0x1B, 0x45, 0xE6],
            ),
            (
                read(RegisterTable::DiscreteInput, 196, 22),
                &[0x11, 0x02, 0x00, 0xC4, 0x00, 0x16, 0xBA, 0xA9],
                &[0x11, 0x02, 0x03, 0xAC, 0xDB, 0x35, 0x20, 0x18],
            ),
            (
                three_registers(),
                &[0x11, 0x03, 0x00, 0x6B, 0x00, 0x03, 0x76, 0x87],
                &[0x11, 0x03, 0x06, 0xAE, 0x41, 0x56, 0x52, 0x43, 0x40, 0x49, 0xAD],
            ),
            (
                read(RegisterTable::InputRegister, 8, 1),
                &[0x11, 0x04, 0x00, 0x08, 0x00, 0x01, 0xB2, 0x98],
                &[0x11, 0x04, 0x02, 0x00, 0x0A, 0xF8, 0xF4],
            ),
            (
                Request::write_coil(172, true),
                &[0x11, 0x05, 0x00, 0xAC, 0xFF, 0x00, 0x4E, 0x8B],
                &[0x11, 0x05, 0x00, 0xAC, 0xFF, 0x00, 0x4E, 0x8B],
            ),
            (
                Request::write_register(1, 3),
                &[0x11, 0x06, 0x00, 0x01, 0x00, 0x03, 0x9A, 0x9B],
                &[0x11, 0x06, 0x00, 0x01, 0x00, 0x03, 0x9A, 0x9B],
            ),
            (
                Request::write_coils(19, &coils).unwrap(),
                &[0x11, 0x0F, 0x00, 0x13, 0x00, 0x0A, 0x02, 0xCD, 0x01, 0xBF, 0x0B],
                &[0x11, 0x0F, 0x00, 0x13, 0x00, 0x0A, 0x26, 0x99],
            ),
            (
                Request::write_registers(1, &[0x000A, 0x0102]).unwrap(),
                &[0x11, 0x10, 0x00, 0x01, 0x00, 0x02, 0x04, 0x00, 0x0A, 0x01, 0x02, 0xC6, 0xF0],
                &[0x11, 0x10, 0x00, 0x01, 0x00, 0x02, 0x12, 0x98],
            ),
        ];
        for (request, asked, answered) in rows {
            assert_eq!(encode(UNIT, &request), asked);
            let progress = RtuReceiver::new(UNIT, &request).push(answered);
            assert!(matches!(progress, Progress::Frame(Ok(_))), "{request:?}: {progress:?}");
        }
    }

    #[test]
    fn answers_end_by_their_length() {
        let request = three_registers();
        let good = framed(0x11, &[0x03, 6, 2, 0x2B, 0, 0, 0, 0x64]);
        let refused = framed(0x11, &[0x83, 2]);
        let data = Progress::Frame(Ok(ResponseData::Registers(vec![555, 0, 100])));
        let refusal = Progress::Frame(Err(Refusal(ExceptionCode(2))));
        let mut with_tail = good.clone();
        with_tail.push(0);
        let mut bad_crc = good.clone();
        *bad_crc.last_mut().unwrap() ^= 1;
        let mut longest = good.clone();
        longest.resize(1000, 0);
        let unit = Corrupt::Unit { asked: UNIT, got: UnitId(0x12) };
        let function = Mismatch::Function { asked: 3, got: 4 };
        let bytes = Mismatch::ByteCount { expected: 6, got: 4 };
        let rows: [(&[u8], Progress); 14] = [
            (&[], Progress::NeedMore(5)),
            (&good[..1], Progress::NeedMore(4)),
            (&good[..2], Progress::NeedMore(9)),
            (&good[..10], Progress::NeedMore(1)),
            (&good, data.clone()),
            (&with_tail, data.clone()),
            (&longest, data),
            (&refused[..4], Progress::NeedMore(1)),
            (&refused, refusal),
            (&[0x12], Progress::Corrupt(unit)),
            (&[0x11, 0x04], Progress::Corrupt(function.into())),
            (&[0x11, 0x84], Progress::Corrupt(Mismatch::Function { asked: 3, got: 0x84 }.into())),
            (&[0x11, 0x03, 4], Progress::Corrupt(bytes.into())),
            (
                &bad_crc,
                Progress::Corrupt(Corrupt::Crc {
                    computed: crc16(&good[..9]),
                    got: crc16(&good[..9]) ^ 0x100,
                }),
            ),
        ];
        for (bytes, progress) in rows {
            assert_eq!(RtuReceiver::new(UNIT, &request).push(bytes), progress, "{bytes:02X?}");
        }
    }

    #[test]
    fn times_of_a_line() {
        let us = |ns: u64| Duration::from_nanos(ns);
        let rows = [
            // baud, bits, character, t1.5, t3.5
            (9_600, 10, us(1_041_667), us(1_562_500), us(3_645_833)),
            (19_200, 11, us(572_917), us(859_375), us(2_005_208)),
            (19_200, 10, us(520_834), us(781_250), us(1_822_917)),
            (38_400, 10, us(260_417), us(750_000), us(1_750_000)),
            (115_200, 11, us(95_487), us(750_000), us(1_750_000)),
        ];
        for (baud, bits, character, t1_5, t3_5) in rows {
            let line = LineTiming::new(baud, bits);
            assert_eq!(
                (line.character(), line.t1_5(), line.t3_5()),
                (character, t1_5, t3_5),
                "{baud} {bits}"
            );
        }
    }

    /// 40 registers: a request of 8 characters, an answer of 85; device's turnaround 5 ms.
    #[test]
    fn least_time_of_an_exchange() {
        let request = Request::read(RegisterTable::HoldingRegister, 0, 40).unwrap();
        assert_eq!((request_len(&request), answer_len_expected(&request)), (8, 85));
        for (baud, bits, ms) in
            [(9_600, 10, 105.5), (19_200, 11, 60.3), (38_400, 10, 31.0), (115_200, 10, 14.8)]
        {
            let took = LineTiming::new(baud, bits).exchange(&request, Duration::from_millis(5));
            assert!((took.as_secs_f64() * 1e3 - ms).abs() < 0.05, "{baud}: {took:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces(
            request in any_request(),
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5),
        ) {
            let mut receiver = RtuReceiver::new(UNIT, &request);
            for piece in &pieces {
                match receiver.push(piece) {
                    Progress::NeedMore(n) => prop_assert!(n > 0 && n <= ADU_LEN_MAX),
                    Progress::Frame(_) | Progress::Corrupt(_) => break,
                }
            }
        }

        #[test]
        fn answers_in_pieces_and_single_flipped_bits(
            request in any_request(),
            data in prop::collection::vec(any::<u8>(), 1..250),
            cut in any::<prop::sample::Index>(),
            flip in any::<prop::sample::Index>(),
        ) {
            let frame = framed(0x11, &answer_to(&request, &data));
            let (head, tail) = frame.split_at(cut.index(frame.len()));
            let mut receiver = RtuReceiver::new(UNIT, &request);
            prop_assert!(matches!(receiver.push(head), Progress::NeedMore(n) if n <= tail.len()));
            prop_assert!(matches!(receiver.push(tail), Progress::Frame(Ok(_))));

            let mut damaged = frame;
            let bit = flip.index(damaged.len() * 8);
            // The exception flag shortens the frame: then one in 65,536 has a CRC that fits by chance.
            prop_assume!(bit != 15);
            damaged[bit / 8] ^= 1 << (bit % 8);
            let outcome = RtuReceiver::new(UNIT, &request).push(&damaged);
            prop_assert!(matches!(outcome, Progress::Corrupt(_)), "{:?}", outcome);
        }
    }
}
