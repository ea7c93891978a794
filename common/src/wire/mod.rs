//! Wire v1: how messages, outbox records and catalogs are written down. Pure functions of bytes; opens nothing,
//! sends nothing. Frozen: bytes are pinned by `tests/wire_v1_pinned.rs`, and what is shipped stays readable.
//!
//! ```text
//! message
//!   0  magic            2  47 B7
//!   2  version          1  1
//!   3  flags and kind   1  bits 0-3 kind, bit 4 zstd, bit 5 sealed, bits 6-7 zero
//!   data only:
//!   4  connection       4  random number of the MQTT connection
//!   8  agent            2  tag of site/agent
//!  10  epoch            8
//!  18  catalog          8  hash
//!  26  first seq        varint, from 1
//!      count            varint, from 1
//!   all:
//!      length           varint, bytes of the payload
//!      crc32c           4  over everything before it and everything after it
//!      payload
//! ```
//! Fixed numbers are little endian; varints are LEB128 in their shortest form, signed ones zigzag first. A data
//! header takes 33 to 36 bytes. A later version that keeps this header keeps frames accountable for decoders
//! that cannot read them: [`peek`] tells their seqs. With the zstd flag the payload is `length varint | zstd
//! frame`.
//!
//! | payload of | is |
//! |---|---|
//! | data | blocks and rows, drawn in `data` |
//! | catalog | hash (8) and canonical bytes, drawn in `catalog` |
//! | any other | postcard of the types in `v1` |
//!
//! A record by itself (in the outbox, or as a row of a data frame) is drawn in `record`.
//!
//! Decoders bound every size before they allocate, never panic, and refuse what no encoder writes.

mod bits;
mod bytes;
mod catalog;
mod column;
mod data;
mod envelope;
mod error;
mod ints;
mod number;
mod record;
mod row;
mod sequence;
mod v1;

pub use self::catalog::{decode_catalog, encode_catalog};
pub use self::data::{encode_data, encode_prefix};
pub use self::envelope::{DataHeader, Header, Kind};
pub use self::error::{DecodeError, EncodeError};
pub use self::record::{RecordKind, decode_record, encode_record, record_kind};

use crate::id::CatalogHash;
use crate::message::{Ack, AgentState, Command, DataFrame, Presence, Reply};

/// The first two bytes of every message; the second is no ASCII, so that no text begins like it.
pub const MAGIC: [u8; 2] = [0x47, 0xB7];

/// The version that this module writes and reads.
pub const VERSION: u8 = 1;

/// Flag: the payload is compressed.
const FLAG_ZSTD: u8 = 0x10;

/// Flag: the payload is sealed for its agent or its collector. Reserved: not written by this version.
const FLAG_SEALED: u8 = 0x20;

/// Most bytes of a message: every broker takes them by default.
pub const FRAME_BYTES_MAX: usize = 64 << 10;

/// Most bytes of the payload of a data frame or a catalog once decompressed.
pub const PAYLOAD_BYTES_MAX: usize = 4 << 20;

/// Most bytes of the payload of any other message once decompressed: an acknowledgement with all its lists full, each
/// number at its longest, has 333,334.
pub const CONTROL_BYTES_MAX: usize = 512 << 10;

/// Most records in a data frame.
pub const RECORDS_MAX: usize = 32_768;

/// Most samples in a data frame. A decoded one takes 24 bytes of memory.
pub const SAMPLES_MAX: usize = 262_144;

/// Most bytes of text values in a data frame, repeated ones counted each time.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// Most canonical bytes of a catalog; within a frame they must fit [`FRAME_BYTES_MAX`] once compressed.
pub const CATALOG_BYTES_MAX: usize = 1 << 20;

/// What travels, either way.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Records, agent to collector.
    Data(DataFrame),
    /// Birth, last will, goodbye.
    State(AgentState),
    /// A catalog that the collector asked for.
    Catalog {
        /// Its hash.
        hash: CatalogHash,
        /// Its canonical bytes, as [`encode_catalog`] gives them.
        bytes: Box<[u8]>,
    },
    /// What the collector has.
    Ack(Ack),
    /// What the collector wants.
    Command(Command),
    /// What became of a command.
    Reply(Reply),
    /// Whether a collector is there; retained.
    Presence(Presence),
}

/// Writes any message; of lists beyond their bound only what fits (acknowledgements: the lowest ranges and
/// first epochs, the rest counts as missing; births: the newest epochs).
///
/// A [`Message::Data`] is written without a catalog, so that its time columns are row by row:
/// [`encode_data`] does better.
///
/// # Errors
/// [`EncodeError`] where a data frame breaks a bound, or a message is larger than [`FRAME_BYTES_MAX`].
pub fn encode(message: &Message) -> Result<Vec<u8>, EncodeError> {
    let (kind, payload) = match message {
        Message::Data(frame) => return encode_data(frame, &crate::catalog::Catalog::default()),
        Message::State(state) => (Kind::State, v1::state(state)),
        Message::Catalog { hash, bytes } => (Kind::Catalog, catalog::payload(*hash, bytes)),
        Message::Ack(ack) => (Kind::Ack, v1::ack(ack)),
        Message::Command(command) => (Kind::Command, v1::command(command)),
        Message::Reply(reply) => (Kind::Reply, v1::reply(reply)),
        Message::Presence(presence) => (Kind::Presence, v1::presence(*presence)),
    };
    if payload.len() > kind.payload_bytes_max() {
        return Err(EncodeError::TooLarge(payload.len()));
    }
    let bytes = envelope::seal_smallest(kind, None, &payload);
    if bytes.len() > FRAME_BYTES_MAX { Err(EncodeError::TooLarge(bytes.len())) } else { Ok(bytes) }
}

/// Reads any message.
///
/// # Errors
/// [`DecodeError`]; [`DecodeError::is_intact`] tells damage (a hole) from what is to be parked.
pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
    let (kind, header, payload) = envelope::usable(bytes)?;
    Ok(match (kind, header) {
        (Kind::Data, Some(header)) => Message::Data(data::decode(&header, &payload)?),
        (Kind::Data, None) => return Err(DecodeError::Malformed("data without its header")),
        (Kind::State, _) => Message::State(v1::read_state(&payload)?),
        (Kind::Catalog, _) => catalog::read_payload(&payload)?,
        (Kind::Ack, _) => Message::Ack(v1::read_ack(&payload)?),
        (Kind::Command, _) => Message::Command(v1::read_command(&payload)?),
        (Kind::Reply, _) => Message::Reply(v1::read_reply(&payload)?),
        (Kind::Presence, _) => Message::Presence(v1::read_presence(&payload)?),
    })
}

/// Checks magic, length and checksum, and reads the header of any version that has version 1's layout. A frame
/// that passes is accountable, whether or not [`decode`] can use it.
///
/// # Errors
/// Only errors of damage: [`DecodeError::is_intact`] is false for all of them.
pub fn peek(bytes: &[u8]) -> Result<Header, DecodeError> {
    envelope::open(bytes).map(|(header, _)| header)
}
