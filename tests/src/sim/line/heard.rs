//! What comes on a line that knows no frames: parts of several never pass for an intact one. A CRC of 16 bits lets one in
//! 65,536 through, which no master can tell.

use gapless_simulators::modbus::crc;

/// Bytes that are remembered: the longest answer, and what garbles it.
const BYTES_MAX: usize = 64;
/// The shortest frame: unit, function, CRC.
const FRAME_LEN_MIN: usize = 4;

/// The last bytes that came, each with the frame it is of; `None`: noise.
#[derive(Debug, Default)]
pub(super) struct Heard {
    bytes: Vec<u8>,
    of: Vec<Option<u64>>,
    is_mixed: bool,
}

impl Heard {
    /// Nothing is on its way: what comes from now on begins anew.
    pub(super) fn begin(&mut self) {
        *self = Self::default();
    }

    /// Gives the byte that comes: another one where this one would end what passes for a frame of one of the units.
    pub(super) fn take(&mut self, frame: Option<u64>, byte: u8, is_unit: impl Fn(u8) -> bool) -> u8 {
        let surplus = (self.bytes.len() + 1).saturating_sub(BYTES_MAX);
        self.bytes.drain(..surplus);
        self.of.drain(..surplus);
        self.is_mixed |= frame.is_none() || self.of.last().is_some_and(|last| *last != frame);
        self.bytes.push(byte);
        self.of.push(frame);
        if !self.is_mixed {
            return byte;
        }
        let is_whole = |begin: usize| frame.is_some() && self.of[begin..].iter().all(|of| *of == frame);
        let passes = |begin: usize| {
            is_unit(self.bytes[begin]) && !is_whole(begin) && crc::is_sealed(&self.bytes[begin..])
        };
        let mut begins = 0..(self.bytes.len() + 1).saturating_sub(FRAME_LEN_MIN);
        if begins.any(passes) {
            *self.bytes.last_mut().expect("it was pushed") ^= 1;
            return byte ^ 1;
        }
        byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_as_it_is_and_a_mixture_that_would_pass_does_not() {
        let mut sealed = vec![7, 3, 2, 0, 10];
        crc::seal(&mut sealed);
        let rows = [("one", [Some(1); 7], true), ("of two", [1, 1, 1, 2, 2, 1, 2].map(Some), false)];
        for (what, frames, passes) in rows {
            let mut heard = Heard::default();
            heard.take(None, 7, |unit| unit == 7);
            let come: Vec<u8> = frames
                .iter()
                .zip(&sealed)
                .map(|(of, byte)| heard.take(*of, *byte, |unit| unit == 7))
                .collect();
            assert_eq!(come == sealed, passes, "{what}");
            assert_eq!(crc::is_sealed(&come), passes, "{what}");
        }
    }
}
