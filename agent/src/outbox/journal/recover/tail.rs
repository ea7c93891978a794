//! Where the newest segment ends: what a crash tore off the last write, and what is damage instead. Pure.

use gapless_common::id::Epoch;

use super::super::format::{FIRST, FrameHeader, Item};
use crate::outbox::to_u64;

/// Where an item ends, in bytes from the begin of the segment.
pub(super) fn end_of(&(offset, item): &(usize, Item)) -> usize {
    offset
        + match item {
            Item::Frame(header) | Item::Damaged(header) => header.total(),
            Item::Unknown(len) => len,
        }
}

/// How many of the items of the newest segment count: those before the first damage within the last write. What was
/// written before the last write had been durable, so damage there tears nothing off.
pub(super) fn whole_items(items: &[(usize, Item)]) -> usize {
    let header = |item: &Item| match item {
        Item::Frame(header) | Item::Damaged(header) => Some(*header),
        Item::Unknown(_) => None,
    };
    let Some(last) = items.last().and_then(|(_, item)| header(item)) else { return items.len() };
    let is_last_write =
        |item: &Item| header(item).is_none_or(|h| h.epoch == last.epoch && h.batch == last.batch);
    let mut begin = items.iter().rposition(|(_, item)| !is_last_write(item)).map_or(0, |i| i + 1);
    // Unrecognised bytes before a frame that begins the write belong to the write before.
    if matches!(items[begin].1, Item::Unknown(_))
        && items.get(begin + 1).and_then(|(_, i)| header(i)).is_some_and(|h| h.flags & FIRST != 0)
    {
        begin += 1;
    }
    let torn = items[begin..].iter().position(|(_, item)| !matches!(item, Item::Frame(_)));
    torn.map_or(items.len(), |i| begin + i)
}

/// The bytes at the end of the newest segment that are a frame of which not even the header was written whole, as far as
/// its magic and place tell; `newest` is the last epoch and its next seq.
pub(super) fn torn_frame_bytes(tail: &[u8], newest: Option<(Epoch, u64)>) -> u64 {
    let torn = FrameHeader::decode_unchecked(tail);
    let is_next =
        |h: &FrameHeader| newest.is_some_and(|(epoch, next)| h.epoch == epoch && h.seq.0 + 1 >= next);
    torn.filter(is_next).map_or(0, |h| to_u64(h.total()))
}
