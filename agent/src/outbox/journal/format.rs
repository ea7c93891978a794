//! The bytes of a segment: its header and its frames, written and checked.
//!
//! ```text
//! segment   0      header, 64 bytes         (the same number in both: the greater valid one counts)
//!           512    header again, 64 bytes
//!           1024   frame | frame | … | what the segment held before, or zeros
//!
//! header    magic 8 | number 8 | epoch 8 | first seq 8 | boot id 8 | zero 20 | crc 4
//!
//! frame     0  magic 2 | flags 1 | kind 1 | length 3 | batch 1
//!           8  epoch 8
//!           16 seq 6 | lead 2
//!           24 at 8
//!           32 catalog 8
//!           40 payload crc 4 | header crc 4
//!           48 payload, `length` bytes
//! ```
//! All integers are little endian. The header crc of a frame covers the segment's number and bytes 0 to 44, so
//! bytes of an earlier life of the segment never validate; since it covers the payload's crc too, a frame whose
//! payload is hit still says exactly which record it was. Both are CRC-32C (RFC 3720, appendix B.4).
//!
//! *lead* is how far the record reaches back before *at*, see [`Lead`]; zero in frames that were written before it was
//! drawn here.
//!
//! *batch* is the low byte of the number of the write: neighbours differ, so that it can be told which frames
//! came with the last write, the only one that a power cut may have torn.
//!
//! Frames with [`INTERNAL`] are the journal's own: [`KIND_OPENED`] (payload: boot id 8, previous epoch 8, first
//! seq that it never issued 8; zero where there was none), [`KIND_CURSOR`] (see `acks`), [`KIND_CLEAN`] (a goodbye; no
//! payload), [`KIND_REFUSED`] (payload: epoch 8, first 8, last 8, from 8, to 8: positions that were issued and whose
//! records the policy refused, so that what is missing there is no damage). Their seq is the last one issued before
//! them.

use gapless_common::id::{BootId, CatalogHash, Epoch, Seq};
use gapless_common::quality::Cause;
use gapless_common::reading::Loss;
use gapless_common::time::Timestamp;
use gapless_common::wire::RecordKind;

/// Begins a segment.
const SEGMENT_MAGIC: [u8; 8] = *b"GAPLSEG1";
/// Length of a segment's header.
pub(super) const SEGMENT_HEADER_BYTES: usize = 64;
/// Where the second copy lies: in a sector of its own, in the page that is written anyway.
pub(super) const SEGMENT_COPY_AT: usize = 512;
/// Where the first frame begins.
pub(super) const DATA_AT: usize = 1024;
/// Begins a frame.
const FRAME_MAGIC: [u8; 2] = [0xD7, 0x47];
/// Length of a frame's header.
pub(super) const FRAME_HEADER_BYTES: usize = 48;
/// Greatest seq and segment number: what claims more is damage whatever its crc says, so that no sum of a few of them
/// overflows. At 10,000 a second it is reached after 890 years.
pub(super) const COUNT_MAX: u64 = (1 << 48) - 1;
/// Flag: the journal's own frame, no record.
pub(super) const INTERNAL: u8 = 1;
/// Flag: the first frame of its write.
pub(super) const FIRST: u8 = 2;
/// Internal kind: an epoch begins.
pub(super) const KIND_OPENED: u8 = 1;
/// Internal kind: what is acknowledged.
pub(super) const KIND_CURSOR: u8 = 2;
/// Internal kind: the writer stopped in good order.
pub(super) const KIND_CLEAN: u8 = 3;
/// Internal kind: no record stands at these positions, because the policy refused them.
pub(super) const KIND_REFUSED: u8 = 4;
/// Payload of [`KIND_REFUSED`].
pub(super) const REFUSED_BYTES: usize = 40;

/// What stands at the begin of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// Number of this life of the segment; never used twice in one outbox.
    pub(super) number: u64,
    /// The epoch that began it.
    pub(super) epoch: Epoch,
    /// The first seq that may stand in it.
    pub(super) first: Seq,
    /// Start of the machine of the writer.
    pub(super) boot: BootId,
}

impl SegmentHeader {
    /// The first [`DATA_AT`] bytes of the segment.
    pub(super) fn encode(&self) -> [u8; DATA_AT] {
        let mut one = [0; SEGMENT_HEADER_BYTES];
        one[..8].copy_from_slice(&SEGMENT_MAGIC);
        one[8..16].copy_from_slice(&self.number.to_le_bytes());
        one[16..24].copy_from_slice(&self.epoch.0.to_le_bytes());
        one[24..32].copy_from_slice(&self.first.0.to_le_bytes());
        one[32..40].copy_from_slice(&self.boot.0.to_le_bytes());
        let crc = crc32c::crc32c(&one[..60]);
        one[60..].copy_from_slice(&crc.to_le_bytes());
        let mut both = [0; DATA_AT];
        both[..SEGMENT_HEADER_BYTES].copy_from_slice(&one);
        both[SEGMENT_COPY_AT..SEGMENT_COPY_AT + SEGMENT_HEADER_BYTES].copy_from_slice(&one);
        both
    }

    fn decode_one(bytes: &[u8]) -> Option<Self> {
        let crc = u32_at(bytes, 60)?;
        if bytes.get(..8)? != SEGMENT_MAGIC || crc32c::crc32c(bytes.get(..60)?) != crc {
            return None;
        }
        Some(Self {
            number: count_at(bytes, 8)?,
            epoch: Epoch(u64_at(bytes, 16)?),
            first: Seq(count_at(bytes, 24)?),
            boot: BootId(u64_at(bytes, 32)?),
        })
    }

    /// Whether `head` is where the writing of a first header ended with the power, over zeros: nothing behind it was ever
    /// durable. `number` is the one that this life would have had.
    pub(super) fn is_torn(head: &[u8], number: u64) -> bool {
        let written = head.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let mut begin = [0; 16];
        begin[..8].copy_from_slice(&SEGMENT_MAGIC);
        begin[8..].copy_from_slice(&number.to_le_bytes());
        let known = written.min(begin.len());
        (1..SEGMENT_HEADER_BYTES).contains(&written) && head[..known] == begin[..known]
    }

    /// Reads the header of a segment, from whichever copy is valid.
    pub(super) fn decode(segment: &[u8]) -> Option<Self> {
        let first = Self::decode_one(segment);
        let second = segment.get(SEGMENT_COPY_AT..).and_then(Self::decode_one);
        first.into_iter().chain(second).max_by_key(|header| header.number)
    }
}

/// How far a record reaches back before its time, in two bytes: 4 bits of scale, 12 bits of length, which stands for
/// `length × 4^scale` ms. Rounded up, by a thousandth at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lead(u16);

impl Lead {
    /// A record that speaks of its own instant alone.
    pub(super) const NONE: Self = Self(0);

    /// The least one that reaches from `at` back to `from`.
    pub(super) fn between(from: Timestamp, at: Timestamp) -> Self {
        let ms = at.since_ms(from).max(0).cast_unsigned();
        let fits = (0..16_u16).find_map(|scale| {
            let length = u16::try_from(ms.div_ceil(1 << (2 * scale))).ok()?;
            (length < 1 << 12).then_some(scale << 12 | length)
        });
        Self(fits.unwrap_or(u16::MAX))
    }

    /// Where a record of `at` begins.
    pub(super) const fn before(self, at: Timestamp) -> Timestamp {
        let (length, scale) = ((self.0 & 0xFFF) as i64, 2 * (self.0 >> 12));
        at.plus_ms(-(length << scale))
    }
}

/// Whether records of `kind` tell of losses, the one thing that the journal wrote itself and must not forget.
pub(super) const fn is_word(kind: u8) -> bool {
    const LOSS: u8 = RecordKind::Loss as u8;
    kind == LOSS
}

/// What stands before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// [`INTERNAL`], [`FIRST`].
    pub(super) flags: u8,
    /// The record's kind, or the internal one.
    pub(super) kind: u8,
    /// Low byte of the number of the write.
    pub(super) batch: u8,
    /// Bytes of the payload.
    pub(super) length: usize,
    /// The epoch that issued it.
    pub(super) epoch: Epoch,
    /// Its place in the epoch.
    pub(super) seq: Seq,
    /// How far before its time it reaches.
    pub(super) lead: Lead,
    /// Its time.
    pub(super) at: Timestamp,
    /// The catalog in force.
    pub(super) catalog: CatalogHash,
    /// Of the payload.
    pub(super) payload_crc: u32,
}

impl FrameHeader {
    /// Whether it is a record and not the journal's own.
    pub(super) const fn is_record(&self) -> bool {
        self.flags & INTERNAL == 0
    }

    /// Whether it is a record that tells of a loss.
    pub(super) const fn is_word(&self) -> bool {
        self.is_record() && is_word(self.kind)
    }

    /// The earliest instant that it speaks of.
    pub(super) const fn from(&self) -> Timestamp {
        self.lead.before(self.at)
    }

    /// Bytes of header and payload.
    pub(super) const fn total(&self) -> usize {
        FRAME_HEADER_BYTES + self.length
    }

    /// Reads and checks the header at the begin of `bytes`; its payload lies within `bytes`.
    pub(super) fn decode(bytes: &[u8], number: u64) -> Option<Self> {
        let header = Self::decode_unchecked(bytes)?;
        (header_crc(bytes.get(..44)?, number) == u32_at(bytes, 44)?).then_some(header)
    }

    /// Reads the header without its crc: to say what a torn frame was meant to be.
    pub(super) fn decode_unchecked(bytes: &[u8]) -> Option<Self> {
        if bytes.get(..2)? != FRAME_MAGIC || bytes.len() < FRAME_HEADER_BYTES {
            return None;
        }
        let length = usize::from(bytes[4]) | usize::from(bytes[5]) << 8 | usize::from(bytes[6]) << 16;
        if bytes.len() - FRAME_HEADER_BYTES < length {
            return None;
        }
        Some(Self {
            flags: bytes[2],
            kind: bytes[3],
            batch: bytes[7],
            length,
            epoch: Epoch(u64_at(bytes, 8)?),
            seq: Seq(u64_at(bytes, 16)? & COUNT_MAX),
            lead: Lead(u16::from_le_bytes([bytes[22], bytes[23]])),
            at: Timestamp(i64::from_le_bytes(u64_at(bytes, 24)?.to_le_bytes())),
            catalog: CatalogHash(u64_at(bytes, 32)?),
            payload_crc: u32_at(bytes, 40)?,
        })
    }

    /// The payload, where it is intact; `bytes` begins with the header.
    pub(super) fn payload<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let payload = bytes.get(FRAME_HEADER_BYTES..self.total())?;
        (crc32c::crc32c(payload) == self.payload_crc).then_some(payload)
    }

    /// Appends the frame of `payload`; length and payload crc of `self` are not looked at.
    pub(super) fn encode(&self, number: u64, payload: &[u8], into: &mut Vec<u8>) {
        let begin = into.len();
        let length = u32::try_from(payload.len()).expect("append checks the length").to_le_bytes();
        into.extend_from_slice(&FRAME_MAGIC);
        into.extend_from_slice(&[self.flags, self.kind, length[0], length[1], length[2], self.batch]);
        into.extend_from_slice(&self.epoch.0.to_le_bytes());
        into.extend_from_slice(&(self.seq.0 & COUNT_MAX | u64::from(self.lead.0) << 48).to_le_bytes());
        into.extend_from_slice(&self.at.0.to_le_bytes());
        into.extend_from_slice(&self.catalog.0.to_le_bytes());
        into.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        let crc = header_crc(&into[begin..], number);
        into.extend_from_slice(&crc.to_le_bytes());
        into.extend_from_slice(payload);
    }
}

fn header_crc(header: &[u8], number: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), header)
}

/// The integer at `at`, where the bytes reach that far.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

/// The seq or segment number at `at`.
pub(super) fn count_at(bytes: &[u8], at: usize) -> Option<u64> {
    u64_at(bytes, at).filter(|&count| count <= COUNT_MAX)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

/// The payload of [`KIND_REFUSED`].
pub(super) fn encode_refused(refused: &Loss) -> [u8; REFUSED_BYTES] {
    let words = [
        refused.epoch.0.to_le_bytes(),
        refused.first.0.to_le_bytes(),
        refused.last.0.to_le_bytes(),
        refused.from.0.to_le_bytes(),
        refused.to.0.to_le_bytes(),
    ];
    let mut payload = [0; REFUSED_BYTES];
    payload.chunks_exact_mut(8).zip(&words).for_each(|(place, word)| place.copy_from_slice(word));
    payload
}

/// What the payload of [`KIND_REFUSED`] says.
pub(super) fn decode_refused(payload: &[u8]) -> Option<Loss> {
    let time = |at| Some(Timestamp(u64_at(payload, at)?.cast_signed()));
    let (first, last) = (count_at(payload, 8)?, count_at(payload, 16)?);
    (0 < first && first <= last).then_some(Loss {
        epoch: Epoch(u64_at(payload, 0)?),
        first: Seq(first),
        last: Seq(last),
        from: time(24)?,
        to: time(32)?,
        cause: Cause::BudgetFull,
    })
}

/// Something found in a segment, at its offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    /// An intact frame.
    Frame(FrameHeader),
    /// A frame whose payload is damaged.
    Damaged(FrameHeader),
    /// Bytes in which no frame could be recognised, though one follows.
    Unknown(usize),
}

/// Goes through the frames of a segment, whatever its bytes are. A damaged frame costs only itself: the next
/// valid header is searched for byte by byte, at the price of one crc of 52 bytes for each magic on the way.
pub(super) fn scan(segment: &[u8], number: u64) -> Vec<(usize, Item)> {
    let mut items = Vec::new();
    let mut at = DATA_AT;
    while let Some((next, header)) = next_header(segment, at, number) {
        if next > at {
            items.push((at, Item::Unknown(next - at)));
        }
        let intact = header.payload(&segment[next..]).is_some();
        items.push((next, if intact { Item::Frame(header) } else { Item::Damaged(header) }));
        at = next + header.total();
    }
    items
}

fn next_header(segment: &[u8], from: usize, number: u64) -> Option<(usize, FrameHeader)> {
    let mut at = from;
    loop {
        at += segment.get(at..)?.iter().position(|&byte| byte == FRAME_MAGIC[0])?;
        if let Some(header) = FrameHeader::decode(&segment[at..], number) {
            return Some((at, header));
        }
        at += 1;
    }
}

/// Whether any frame of a segment was written under this number.
pub(super) fn holds_frames_of(segment: &[u8], number: u64) -> bool {
    next_header(segment, DATA_AT, number).is_some()
}

/// The number of a segment both of whose headers are damaged: the one of `candidates` that its first frames
/// were written under.
pub(super) fn guess_number(segment: &[u8], candidates: &[u64]) -> Option<u64> {
    let last = segment.len().checked_sub(FRAME_HEADER_BYTES)?;
    let magics = (DATA_AT..=last).filter(|&at| segment[at..].starts_with(&FRAME_MAGIC));
    magics
        .take(64)
        .find_map(|at| candidates.iter().copied().find(|&n| FrameHeader::decode(&segment[at..], n).is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Do not change the bytes: outboxes in the field hold them.
    #[test]
    fn bytes_are_pinned() {
        let header = SegmentHeader { number: 7, epoch: Epoch(0x1122), first: Seq(3), boot: BootId(9) };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Some(header));
        assert_eq!(crc32c::crc32c(&bytes), 1_826_902_565);
        let frame = FrameHeader {
            flags: FIRST,
            kind: 4,
            batch: 5,
            length: 3,
            epoch: Epoch(0x1122),
            seq: Seq(3),
            lead: Lead::NONE,
            at: Timestamp(-1),
            catalog: CatalogHash(6),
            payload_crc: crc32c::crc32c(b"abc"),
        };
        let mut out = Vec::new();
        frame.encode(7, b"abc", &mut out);
        assert_eq!(out.len(), FRAME_HEADER_BYTES + 3);
        assert_eq!(&out[..8], &[0xD7, 0x47, 2, 4, 3, 0, 0, 5]);
        assert_eq!(crc32c::crc32c(&out), 3_959_384_685);
        assert_eq!(FrameHeader::decode(&out, 7), Some(frame));
        assert_eq!(FrameHeader::decode(&out, 8), None, "another life of the segment");
        assert_eq!(frame.payload(&out), Some(&b"abc"[..]));
        let run = FrameHeader { lead: Lead::between(Timestamp(-75_001), Timestamp(-1)), ..frame };
        let mut out = Vec::new();
        run.encode(7, b"abc", &mut out);
        assert_eq!(&out[16..24], &[3, 0, 0, 0, 0, 0, 0x94, 0x34]);
        assert_eq!(FrameHeader::decode(&out, 7), Some(run));
        assert_eq!(run.from(), Timestamp(-1 - 75_008));
        let refused = Loss {
            epoch: Epoch(0x1122),
            first: Seq(3),
            last: Seq(9),
            from: Timestamp(-1),
            to: Timestamp(5),
            cause: Cause::BudgetFull,
        };
        let payload = encode_refused(&refused);
        assert_eq!(crc32c::crc32c(&payload), 970_009_734);
        assert_eq!(decode_refused(&payload), Some(refused));
        assert_eq!(decode_refused(&payload[..39]), None);
    }

    #[test]
    fn a_lead_reaches_as_far_as_its_record_and_hardly_further() {
        for ms in [0, 1, 4_095, 4_096, 16_380, 16_381, 75_000, 86_400_000, 40 * 366 * 86_400_000_i64] {
            let at = Timestamp(5_000_000_000_000);
            let back = at.since_ms(Lead::between(at.plus_ms(-ms), at).before(at));
            assert!(back >= ms && back - ms <= ms / 1_000, "{ms}: {back}");
        }
        assert_eq!(Lead::between(Timestamp(5), Timestamp(4)), Lead::NONE);
    }
}
