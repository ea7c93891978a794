//! Why bytes were not understood, and why a frame could not be made. The line that matters runs between bytes
//! that are damaged (a hole, sent again) and bytes that are intact but cannot be used (parked).

use crate::id::Seq;

use super::bytes::Bad;

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They do not begin with [`MAGIC`](super::MAGIC).
    #[error("not a Gapless message")]
    NotOurs,
    /// More than [`FRAME_BYTES_MAX`](super::FRAME_BYTES_MAX).
    #[error("{0} bytes are more than a message has")]
    TooLong(usize),
    /// The header is cut off or makes no sense, or there are fewer or more bytes than it says.
    #[error("cut off, or with bytes left over")]
    Truncated,
    /// The checksum does not match.
    #[error("the checksum does not match")]
    Checksum,
    /// Intact, of a version that this decoder does not know.
    #[error("wire version {0} is not known")]
    Version(u8),
    /// Intact, of a message kind that this decoder does not know.
    #[error("message kind {0} is not known")]
    Kind(u8),
    /// Intact, with flags that this decoder does not know.
    #[error("flags {0:#04x} are not known")]
    Flags(u8),
    /// Intact, but sealed for somebody else.
    #[error("the payload is sealed")]
    Sealed,
    /// Intact, but its content makes no sense.
    #[error("the content makes no sense: {0}")]
    Malformed(&'static str),
}

impl DecodeError {
    /// Whether the bytes came as they were sent: such a frame is parked and acknowledged. Any other one is a
    /// hole.
    #[must_use]
    pub const fn is_intact(&self) -> bool {
        !matches!(self, Self::NotOurs | Self::TooLong(_) | Self::Truncated | Self::Checksum)
    }
}

impl From<Bad> for DecodeError {
    fn from(Bad(why): Bad) -> Self {
        Self::Malformed(why)
    }
}

impl From<postcard::Error> for DecodeError {
    fn from(_: postcard::Error) -> Self {
        Self::Malformed("a message body that is not of its kind")
    }
}

/// Why records do not make a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A frame has at least one record.
    #[error("a frame without records")]
    Empty,
    /// More records than [`RECORDS_MAX`](super::RECORDS_MAX), more samples than
    /// [`SAMPLES_MAX`](super::SAMPLES_MAX) or more text than [`TEXT_BYTES_MAX`](super::TEXT_BYTES_MAX):
    /// send fewer in one frame.
    #[error("more {0} than a frame holds")]
    TooMany(&'static str),
    /// The frame would have more bytes than [`FRAME_BYTES_MAX`](super::FRAME_BYTES_MAX): send fewer records.
    #[error("{0} bytes are more than a frame has")]
    TooLarge(usize),
    /// The seqs do not begin at 1 or later, or end beyond 64 bits.
    #[error("a frame from seq {0} on ends beyond the last seq")]
    Seq(Seq),
    /// A record that breaks a rule of its type, so that no decoder would take it.
    #[error("the record of seq {0} breaks the rules of its type")]
    Record(Seq),
}
