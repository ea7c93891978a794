//! Times as meters write them in registers. Reads no clock.

use gapless_common::profile::{BEGIN_OF_2000, ByteOrder, StampEncoding};
use gapless_common::time::Timestamp;

use super::super::value::{ordered, pattern};
use crate::records::zone::Zone;

const DAY_MS: i64 = 86_400_000;

/// The instant that these registers stand for; `None` where it is none, as in a place that was never written.
#[must_use]
pub fn instant(encoding: StampEncoding, order: ByteOrder, words: &[u16], zone: Zone) -> Option<Timestamp> {
    let is_blank = words.iter().all(|word| *word == 0) || words.iter().all(|word| *word == 0xFFFF);
    if is_blank || words.len() != usize::from(encoding.registers()) {
        return None;
    }
    let number = || i64::try_from(pattern(words, order)).ok();
    let local = match encoding {
        StampEncoding::Seconds1970 => Timestamp(number()?.checked_mul(1_000)?),
        StampEncoding::Seconds2000 => BEGIN_OF_2000.plus_ms(number()?.checked_mul(1_000)?),
        StampEncoding::Milliseconds1970 => Timestamp(number()?),
        StampEncoding::Fields => {
            let fields: Vec<u16> = words.iter().map(|word| ordered(*word, order)).collect();
            return civil(&fields, zone);
        }
        StampEncoding::Bytes | StampEncoding::Bcd => {
            let bytes = words.iter().flat_map(|word| ordered(*word, order).to_be_bytes());
            let digits =
                |byte: u8| if encoding == StampEncoding::Bcd { two_digits(byte) } else { Some(byte) };
            let fields = bytes.map(|byte| digits(byte).map(u16::from)).collect::<Option<Vec<u16>>>();
            return civil(&fields?, zone);
        }
    };
    Some(zone.to_utc(local))
}

fn two_digits(byte: u8) -> Option<u8> {
    let (tens, ones) = (byte >> 4, byte & 0x0F);
    (tens < 10 && ones < 10).then_some(10 * tens + ones)
}

fn civil(fields: &[u16], zone: Zone) -> Option<Timestamp> {
    let &[year, month, day, hour, minute, second] = fields else { return None };
    let year = if year < 100 { 2_000 + year } else { year };
    // The end of a day's last interval is written as 24:00 by some (ISO 8601-1:2004, section 4.2.3).
    let (hour, later_ms) = if (hour, minute, second) == (24, 0, 0) { (0, DAY_MS) } else { (hour, 0) };
    let at = zone.instant(&format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"))?;
    Some(at.plus_ms(later_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_meters_write_them() {
        use ByteOrder::{ABCD, BADC, CDAB};
        use StampEncoding::{Bcd, Bytes, Fields, Milliseconds1970, Seconds1970, Seconds2000};
        // 2026-01-31T12:34:56 local.
        let rows: [(StampEncoding, ByteOrder, &[u16], bool); 20] = [
            (Seconds1970, ABCD, &[0x697D, 0xF6F0], true),
            (Seconds1970, CDAB, &[0xF6F0, 0x697D], true),
            (Seconds2000, ABCD, &[0x3110, 0xB370], true),
            (Milliseconds1970, ABCD, &[0x0000, 0x019C, 0x140C, 0x9980], true),
            (Fields, ABCD, &[2026, 1, 31, 12, 34, 56], true),
            (Fields, ABCD, &[26, 1, 31, 12, 34, 56], true),
            (Fields, BADC, &[0x1A00, 0x0100, 0x1F00, 0x0C00, 0x2200, 0x3800], true),
            (Bytes, ABCD, &[0x1A01, 0x1F0C, 0x2238], true),
            (Bytes, BADC, &[0x011A, 0x0C1F, 0x3822], true),
            (Bcd, ABCD, &[0x2601, 0x3112, 0x3456], true),
            (Bcd, ABCD, &[0x2601, 0x3112, 0x345A], false),
            (Bcd, ABCD, &[0x2613, 0x3112, 0x3456], false),
            (Fields, ABCD, &[2026, 2, 31, 12, 34, 56], false),
            (Fields, ABCD, &[2026, 1, 31, 24, 0, 1], false),
            (Fields, ABCD, &[0, 0, 0, 0, 0, 0], false),
            (Seconds1970, ABCD, &[0, 0], false),
            (Seconds1970, ABCD, &[0xFFFF, 0xFFFF], false),
            (Seconds1970, ABCD, &[1], false),
            (Milliseconds1970, ABCD, &[0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF], false),
            (Bcd, ABCD, &[0xFFFF, 0xFFFF, 0xFFFF], false),
        ];
        let zone: Zone = "+01:00".parse().unwrap();
        for (encoding, order, words, is_time) in rows {
            let read = instant(encoding, order, words, zone).map(|at| at.to_string());
            let expected = is_time.then(|| "2026-01-31T11:34:56Z".to_owned());
            assert_eq!(read, expected, "{encoding:?} {order:?} {words:04X?}");
        }
    }

    #[test]
    fn the_end_of_a_day_is_the_begin_of_the_next() {
        let zone: Zone = "+01:00".parse().unwrap();
        let rows: [(StampEncoding, &[u16], &str); 3] = [
            (StampEncoding::Fields, &[2026, 1, 31, 24, 0, 0], "2026-01-31T23:00:00Z"),
            (StampEncoding::Bcd, &[0x2612, 0x3124, 0x0000], "2026-12-31T23:00:00Z"),
            (StampEncoding::Bytes, &[0x1A02, 0x1C18, 0x0000], "2026-02-28T23:00:00Z"),
        ];
        for (encoding, words, expected) in rows {
            let read = instant(encoding, ByteOrder::ABCD, words, zone).map(|at| at.to_string());
            assert_eq!(read.as_deref(), Some(expected), "{encoding:?}");
        }
    }
}
