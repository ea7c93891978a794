//! Bits in and out, least significant first, and the Rice code over them. Byte-aligned at either end.

use super::bytes::Bad;

/// Quotients from here on are escaped: this many zeros, then the number in 64 bits. One wild value among
/// quiet ones costs 84 bits and leaves the others alone.
const RICE_ESCAPE: u32 = 20;

/// Largest Rice parameter: escape, stop bit and remainder fit one 57-bit load.
pub(super) const RICE_K_MAX: u32 = 19;

/// Bits that the Rice code of parameter `k` takes for `value`.
pub(super) const fn rice_bits(value: u64, k: u32) -> u64 {
    let quotient = value >> k;
    if quotient < RICE_ESCAPE as u64 { quotient + 1 + k as u64 } else { RICE_ESCAPE as u64 + 64 }
}

/// Appends bits to bytes.
pub(super) struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    /// Bits not yet written, fewer than 8 between calls.
    held: u128,
    count: u32,
}

impl<'a> BitWriter<'a> {
    pub(super) const fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, held: 0, count: 0 }
    }

    /// The low `width` bits of `value`, the others being 0.
    pub(super) fn put(&mut self, value: u64, width: u32) {
        self.held |= u128::from(value) << self.count;
        self.count += width;
        while self.count >= 8 {
            let [low, ..] = self.held.to_le_bytes();
            self.out.push(low);
            self.held >>= 8;
            self.count -= 8;
        }
    }

    /// Quotient as zeros, a one, the `k` low bits.
    pub(super) fn put_rice(&mut self, value: u64, k: u32) {
        match u32::try_from(value >> k) {
            Ok(quotient) if quotient < RICE_ESCAPE => {
                let low = value & ((1 << k) - 1);
                self.put((low << 1 | 1) << quotient, quotient + 1 + k);
            }
            _ => {
                self.put(0, RICE_ESCAPE);
                self.put(value, 64);
            }
        }
    }

    /// Fills the last byte with zeros.
    pub(super) fn finish(mut self) {
        if self.count > 0 {
            self.put(0, 8 - self.count);
        }
    }
}

/// Reads bits; beyond the end it reads zeros, which [`finish`](BitReader::finish) reports.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> BitReader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// At least the next 57 bits.
    fn load(&self) -> u64 {
        let rest = self.bytes.get(self.at / 8..).unwrap_or_default();
        let word = match rest.first_chunk::<8>() {
            Some(chunk) => u64::from_le_bytes(*chunk),
            None => {
                let mut padded = [0; 8];
                padded[..rest.len()].copy_from_slice(rest);
                u64::from_le_bytes(padded)
            }
        };
        word >> (self.at % 8)
    }

    /// The next `width` bits, 1 to 64.
    pub(super) fn get(&mut self, width: u32) -> u64 {
        if width > 56 {
            let low = self.get(32);
            return low | self.get(width - 32) << 32;
        }
        let value = self.load() & ((1 << width) - 1);
        self.at += width as usize;
        value
    }

    pub(super) fn get_rice(&mut self, k: u32) -> u64 {
        let word = self.load();
        let quotient = word.trailing_zeros();
        if quotient >= RICE_ESCAPE {
            self.at += RICE_ESCAPE as usize;
            return self.get(64);
        }
        self.at += (quotient + 1 + k) as usize;
        u64::from(quotient) << k | (word >> (quotient + 1)) & ((1 << k) - 1)
    }

    /// Bytes used, the last one filled with zeros.
    pub(super) fn finish(self) -> Result<usize, Bad> {
        let used = self.at.div_ceil(8);
        if used > self.bytes.len() {
            return Err(Bad("bits beyond the end"));
        }
        if !self.at.is_multiple_of(8) && self.bytes[used - 1] >> (self.at % 8) != 0 {
            return Err(Bad("a last byte that is not filled with zeros"));
        }
        Ok(used)
    }
}
