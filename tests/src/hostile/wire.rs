//! Any bytes as message, record and catalog.

use gapless_common::catalog::Catalog;
use gapless_common::wire::{self, DecodeError, Message};

/// Nothing may panic, and a data frame that is understood must say the same after it was written again.
pub fn wire_decode(bytes: &[u8]) {
    let _ = wire::decode_record(bytes);
    let _ = wire::decode_catalog(bytes);
    let mut bytes = bytes.to_vec();
    if wire::decode(&bytes) == Err(DecodeError::Checksum) {
        // A fuzzer does not guess checksums: where the header makes sense, it is given one.
        mend(&mut bytes);
    }
    if let Ok(Message::Data(frame)) = wire::decode(&bytes)
        && let Ok((again, count)) = wire::encode_prefix(&frame, &Catalog::default())
    {
        let back = wire::decode(&again);
        let Ok(Message::Data(back)) = back else { unreachable!("what was written is not read: {back:?}") };
        // The debug form tells NaN from NaN no better than `==`, but finds it equal to itself.
        assert_eq!(format!("{:?}", back.records), format!("{:?}", &frame.records[..count]));
    }
}

/// Writes the checksum that belongs to the bytes: it stands behind the third varint of a data header, behind
/// the only one of any other.
fn mend(bytes: &mut [u8]) {
    let data = bytes[3] & 0x0F == 1;
    let (mut at, varints) = if data { (26, 3) } else { (4, 1) };
    for _ in 0..varints {
        while bytes[at] & 0x80 != 0 {
            at += 1;
        }
        at += 1;
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..at]), &bytes[at + 4..]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}
