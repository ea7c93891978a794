//! The envelope: what stands before the payload, and the checksum over all of it. Does not look into payloads.

use std::borrow::Cow;
use std::cell::RefCell;

use zstd::bulk::{Compressor, Decompressor};

use crate::id::{AgentTag, CatalogHash, ConnectionId, Epoch, Seq};

use super::bytes::{Bad, Input, put_len, put_varint};
use super::{
    CONTROL_BYTES_MAX, DecodeError, FLAG_SEALED, FLAG_ZSTD, FRAME_BYTES_MAX, MAGIC, PAYLOAD_BYTES_MAX,
    VERSION,
};

/// Which message it is. Codes are written to the wire: the list only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Records.
    Data = 1,
    /// Birth, last will, goodbye.
    State = 2,
    /// A catalog that was asked for.
    Catalog = 3,
    /// What the collector has.
    Ack = 4,
    /// What the collector wants.
    Command = 5,
    /// What became of a command.
    Reply = 6,
    /// Whether a collector is there.
    Presence = 7,
}

impl Kind {
    /// The kind of a code in the header.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Data,
            2 => Self::State,
            3 => Self::Catalog,
            4 => Self::Ack,
            5 => Self::Command,
            6 => Self::Reply,
            7 => Self::Presence,
            _ => return None,
        })
    }

    /// Most bytes of a payload of this kind once decompressed.
    pub(super) const fn payload_bytes_max(self) -> usize {
        match self {
            Self::Data | Self::Catalog => PAYLOAD_BYTES_MAX,
            Self::State | Self::Ack | Self::Command | Self::Reply | Self::Presence => CONTROL_BYTES_MAX,
        }
    }
}

/// Which records a data frame holds; known even where its payload cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataHeader {
    /// The connection that carried it.
    pub connection: ConnectionId,
    /// The agent that made it.
    pub agent: AgentTag,
    /// The epoch that issued the records.
    pub epoch: Epoch,
    /// Seq of the first record.
    pub first: Seq,
    /// Number of records, at least 1; `first + count - 1` is a valid seq.
    pub count: u64,
    /// The catalog that the records refer to.
    pub catalog: CatalogHash,
}

impl DataHeader {
    /// Seq of the last record.
    #[must_use]
    pub const fn last(&self) -> Seq {
        Seq(self.first.0 + (self.count - 1))
    }
}

/// An envelope whose checksum holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Wire version; the rest of the header has the layout of version 1.
    pub version: u8,
    /// Which message; an unknown one is given as its code.
    pub kind: Result<Kind, u8>,
    /// Flags as in the fourth byte, the kind's bits being 0.
    pub flags: u8,
    /// Present exactly where the kind is [`Kind::Data`].
    pub data: Option<DataHeader>,
}

/// Writes the whole message. `payload` is as it is to be sent, compressed or not.
pub(super) fn seal(kind: Kind, flags: u8, data: Option<&DataHeader>, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 48);
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.push(flags | kind as u8);
    if let Some(data) = data {
        out.extend_from_slice(&data.connection.0.to_le_bytes());
        out.extend_from_slice(&data.agent.0.to_le_bytes());
        out.extend_from_slice(&data.epoch.0.to_le_bytes());
        out.extend_from_slice(&data.catalog.0.to_le_bytes());
        put_varint(&mut out, data.first.0);
        put_varint(&mut out, data.count);
    }
    put_len(&mut out, payload.len());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out), payload);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(payload);
    out
}

/// Compresses `payload` where that makes it smaller, and writes the whole message.
pub(super) fn seal_smallest(kind: Kind, data: Option<&DataHeader>, payload: &[u8]) -> Vec<u8> {
    match compressed(payload) {
        Some(small) => seal(kind, FLAG_ZSTD, data, &small),
        None => seal(kind, 0, data, payload),
    }
}

/// Below this many bytes the overhead of a zstd frame eats what it could save.
const ZSTD_FROM_BYTES: usize = 64;

/// Frames are small and made once a flush: the level at which ratio stops to grow much.
const ZSTD_LEVEL: i32 = 9;

fn compressed(payload: &[u8]) -> Option<Vec<u8>> {
    if payload.len() < ZSTD_FROM_BYTES {
        return None;
    }
    let mut out = Vec::new();
    put_len(&mut out, payload.len());
    out.extend_from_slice(&compress(payload)?);
    (out.len() < payload.len()).then_some(out)
}

thread_local! {
    /// To make one costs more than to compress a small frame with it; it gives back what a large one needed.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    /// Likewise.
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

fn compress(payload: &[u8]) -> Option<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some(compressor) => compressor,
            None => kept.insert(Compressor::new(ZSTD_LEVEL).ok()?),
        };
        compressor.compress(payload).ok()
    })
}

/// Undoes [`seal_smallest`]'s compression: `length varint | zstd frame`, never more than `max` bytes.
pub(super) fn decompress(payload: &[u8], max: usize) -> Result<Vec<u8>, Bad> {
    let mut input = Input::new(payload);
    let len = input.len(max, "a payload beyond the bound")?;
    let out = decompress_frame(input.rest(), len).ok_or(Bad("a payload that zstd refuses"))?;
    if out.len() == len { Ok(out) } else { Err(Bad("a payload shorter than it says")) }
}

fn decompress_frame(frame: &[u8], len: usize) -> Option<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(decompressor) => decompressor,
            None => kept.insert(Decompressor::new().ok()?),
        };
        decompressor.decompress(frame, len).ok()
    })
}

/// Checks magic, length and checksum, and reads the header.
pub(super) fn open(bytes: &[u8]) -> Result<(Header, &[u8]), DecodeError> {
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(DecodeError::TooLong(bytes.len()));
    }
    let mut input = Input::new(bytes);
    if input.array() != Ok(MAGIC) {
        return Err(DecodeError::NotOurs);
    }
    let (header, crc, before) = head(&mut input, bytes.len()).map_err(|Bad(_)| DecodeError::Truncated)?;
    let payload = input.rest();
    if crc32c::crc32c_append(crc32c::crc32c(&bytes[..before]), payload) == crc {
        Ok((header, payload))
    } else {
        Err(DecodeError::Checksum)
    }
}

/// Header, checksum, and how many bytes stand before the checksum.
fn head(input: &mut Input<'_>, total: usize) -> Result<(Header, u32, usize), Bad> {
    let [version, flags_and_kind] = input.array()?;
    let code = flags_and_kind & 0x0F;
    let kind = Kind::from_code(code).ok_or(code);
    let data = if kind == Ok(Kind::Data) { Some(data_header(input)?) } else { None };
    let len = input.len(FRAME_BYTES_MAX, "a length beyond the bound")?;
    let before = total - input.rest().len();
    let crc = u32::from_le_bytes(input.array()?);
    if len != input.rest().len() {
        return Err(Bad("fewer or more bytes than the header says"));
    }
    Ok((Header { version, kind, flags: flags_and_kind & 0xF0, data }, crc, before))
}

fn data_header(input: &mut Input<'_>) -> Result<DataHeader, Bad> {
    let header = DataHeader {
        connection: ConnectionId(u32::from_le_bytes(input.array()?)),
        agent: AgentTag(u16::from_le_bytes(input.array()?)),
        epoch: Epoch(u64::from_le_bytes(input.array()?)),
        catalog: CatalogHash(u64::from_le_bytes(input.array()?)),
        first: Seq(input.varint()?),
        count: input.varint()?,
    };
    let possible =
        header.first.0 > 0 && header.count > 0 && header.first.0.checked_add(header.count).is_some();
    if possible { Ok(header) } else { Err(Bad("seqs that cannot be")) }
}

/// Kind, data header and decompressed payload.
pub(super) type Usable<'a> = (Kind, Option<DataHeader>, Cow<'a, [u8]>);

/// What a message that this version can use is made of.
pub(super) fn usable(bytes: &[u8]) -> Result<Usable<'_>, DecodeError> {
    let (header, payload) = open(bytes)?;
    if header.version != VERSION {
        return Err(DecodeError::Version(header.version));
    }
    let kind = header.kind.map_err(DecodeError::Kind)?;
    if header.flags & !(FLAG_ZSTD | FLAG_SEALED) != 0 {
        return Err(DecodeError::Flags(header.flags));
    }
    if header.flags & FLAG_SEALED != 0 {
        return Err(DecodeError::Sealed);
    }
    let payload = if header.flags & FLAG_ZSTD != 0 {
        decompress(payload, kind.payload_bytes_max())?.into()
    } else {
        payload.into()
    };
    Ok((kind, header.data, payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Commit, Incarnation, Seq};
    use crate::message::{ACK_EPOCHS_MAX, ACK_RANGES_MAX, Ack, EpochAck};
    use crate::wire::{Message, decode, v1};

    /// Small on the wire, large in memory: the bound of the kind refuses it, not the reader behind it.
    #[test]
    fn a_payload_is_bounded_by_its_kind_before_it_is_decompressed() {
        let others = [Kind::State, Kind::Ack, Kind::Command, Kind::Reply, Kind::Presence];
        for (kind, len, fits) in others
            .iter()
            .flat_map(|&kind| [(kind, CONTROL_BYTES_MAX, true), (kind, CONTROL_BYTES_MAX + 1, false)])
            .chain([(Kind::Catalog, PAYLOAD_BYTES_MAX, true), (Kind::Catalog, PAYLOAD_BYTES_MAX + 1, false)])
        {
            let bomb = seal_smallest(kind, None, &vec![0; len]);
            assert!(bomb.len() < 1024, "{}", bomb.len());
            let refused = decode(&bomb).unwrap_err();
            let by_bound = DecodeError::Malformed("a payload beyond the bound");
            assert_eq!(refused != by_bound, fits, "{kind:?} of {len}: {refused}");
            assert_eq!(usable(&bomb).is_ok(), fits);
        }
    }

    #[test]
    fn the_longest_acknowledgement_fits_its_bound() {
        let top = |n: usize| Seq(u64::MAX - 200 + 2 * u64::try_from(n).unwrap());
        let ranges: Vec<_> = (0..ACK_RANGES_MAX).map(|n| (top(n), top(n))).collect();
        let epoch = EpochAck {
            epoch: Epoch(u64::MAX),
            watermark: Seq(u64::MAX - 300),
            above: ranges.clone(),
            parked: ranges,
        };
        let ack = Ack {
            incarnation: Incarnation(u64::MAX),
            commit: Commit(u64::MAX),
            epochs: vec![epoch; ACK_EPOCHS_MAX],
        };
        let payload = v1::ack(&ack);
        assert_eq!(payload.len(), 333_334);
        assert!(payload.len() <= Kind::Ack.payload_bytes_max());
        assert_eq!(decode(&seal_smallest(Kind::Ack, None, &payload)), Ok(Message::Ack(ack)));
    }
}
