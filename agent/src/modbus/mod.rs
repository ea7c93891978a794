//! Our Modbus master, sans-IO: PDU, RTU and MBAP framing, read plan, values, the SunSpec walk.
//!
//! A shell encodes a request with [`Framing::encode`], sends the bytes, makes a [`Receiver`] for the answer and
//! feeds it what arrives until it says anything else than [`Progress::NeedMore`]. Nothing here opens a port,
//! reads a clock or sleeps; when to give up waiting is the shell's decision.

pub mod file;
mod guard;
pub mod mbap;
pub mod memory;
pub mod pdu;
pub mod plan;
pub mod poll;
pub mod rtu;
pub mod sunspec;
pub mod value;

use std::fmt;

use pdu::{AnswerError, Mismatch, Refusal, Request, ResponseData};

/// Unit identifier of a device: 1 to 247 on a serial line (0 is the broadcast, which nobody answers), 0 to 255
/// behind MBAP, where 255 is for a device that is addressed by its IP address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnitId(pub u8);

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// An answer to a request: data, or the device's refusal.
pub type Answer = Result<ResponseData, Refusal>;

/// How far the answer has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// At least so many bytes are still to come (never 0).
    NeedMore(usize),
    /// The answer is complete and matches its request.
    Frame(Answer),
    /// What came is no answer to this request: a failure of the transport, never a value.
    Corrupt(Corrupt),
}

/// Why the bytes received are no answer to the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// Another unit answered: a late answer of a neighbour, two devices of one number, or noise.
    #[error("unit {got} answered, unit {asked} was asked")]
    Unit {
        /// Unit of the request.
        asked: UnitId,
        /// Unit of the answer.
        got: UnitId,
    },
    /// The CRC of an RTU frame is wrong.
    #[error("CRC 0x{got:04X} received, 0x{computed:04X} computed")]
    Crc {
        /// Of the bytes received.
        computed: u16,
        /// At the end of the frame.
        got: u16,
    },
    /// The protocol identifier of an MBAP header is not 0.
    #[error("MBAP header with protocol identifier {0} instead of 0")]
    Protocol(u16),
    /// The length of an MBAP header is outside 2 to 254.
    #[error("MBAP header with length {0}, outside 2 to 254")]
    HeaderLength(u16),
    /// The frame is intact, its PDU is no answer to the request.
    #[error(transparent)]
    Pdu(#[from] Mismatch),
}

/// What goes around the PDU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// Unit identifier and CRC: serial lines, and RTU over TCP.
    Rtu,
    /// The MBAP header of Modbus TCP.
    Mbap,
}

impl Framing {
    /// The bytes of a request. The transaction identifier is MBAP's; RTU has none.
    #[must_use]
    pub fn encode(self, transaction: u16, unit: UnitId, request: &Request) -> Vec<u8> {
        match self {
            Self::Rtu => rtu::encode(unit, request),
            Self::Mbap => mbap::encode(transaction, unit, request),
        }
    }

    /// A receiver for the answer.
    #[must_use]
    pub fn receiver(self, transaction: u16, unit: UnitId, request: &Request) -> Receiver<'_> {
        match self {
            Self::Rtu => Receiver::Rtu(rtu::RtuReceiver::new(unit, request)),
            Self::Mbap => Receiver::Mbap(mbap::MbapReceiver::new(transaction, unit, request)),
        }
    }
}

/// Collects the bytes of one answer, whatever the framing.
#[derive(Debug)]
pub enum Receiver<'a> {
    /// Of [`Framing::Rtu`].
    Rtu(rtu::RtuReceiver<'a>),
    /// Of [`Framing::Mbap`].
    Mbap(mbap::MbapReceiver<'a>),
}

impl Receiver<'_> {
    /// Takes what has arrived. Not to be called again once it has said anything else than
    /// [`Progress::NeedMore`].
    pub fn push(&mut self, bytes: &[u8]) -> Progress {
        match self {
            Self::Rtu(receiver) => receiver.push(bytes),
            Self::Mbap(receiver) => receiver.push(bytes),
        }
    }

    /// Bytes of whole frames that were passed over because they answer another request.
    #[must_use]
    pub const fn skipped_bytes(&self) -> u64 {
        match self {
            Self::Rtu(_) => 0,
            Self::Mbap(receiver) => receiver.skipped_bytes(),
        }
    }
}

/// A complete, intact PDU, judged against its request.
fn judge(request: &Request, pdu: &[u8]) -> Progress {
    match request.decode_response(pdu) {
        Ok(data) => Progress::Frame(Ok(data)),
        Err(AnswerError::Refused(refusal)) => Progress::Frame(Err(refusal)),
        Err(AnswerError::Mismatch(why)) => Progress::Corrupt(why.into()),
    }
}
