//! Damaged bytes, kept aside for whoever wants to look: bounded, never read for delivery.
//!
//! ```text
//! quarantine   entry …
//! entry        magic 4 | length 4 | segment's number 8 | offset 8 | bytes
//! ```
//! It also remembers what was quarantined before, so that damage is reported once and not at each opening.

use std::collections::BTreeSet;
use std::io;

use super::disk::Disk;
use super::{to_u64, to_usize, unreadable};

/// Name of the file.
pub(super) const FILE: &str = "quarantine";
const MAGIC: [u8; 4] = *b"GQR1";
const HEADER_BYTES: usize = 24;

/// The side file.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    known: BTreeSet<(u64, u64)>,
    exists: bool,
    len: u64,
    max: u64,
}

impl Quarantine {
    /// Reads what is there; at most `max` bytes will be.
    pub(super) fn open(disk: &mut dyn Disk, files: &[(String, u64)], max: u64) -> io::Result<Self> {
        let Some((_, len)) = files.iter().find(|(name, _)| name == FILE) else {
            return Ok(Self { max, ..Self::default() });
        };
        let mut bytes = vec![0; to_usize(*len).min(to_usize(max))];
        let refused = unreadable::read(disk, FILE, 0, &mut bytes)?;
        // Where that fails nothing more is kept: the file is for whoever wants to look, not for the outbox.
        let max = if unreadable::mend(disk, FILE, &refused).is_ok() { max } else { 0 };
        let mut known = BTreeSet::new();
        let mut rest = bytes.as_slice();
        while let Some((place, after)) = decode(rest) {
            known.insert(place);
            rest = after;
        }
        Ok(Self { known, exists: true, len: to_u64(bytes.len() - rest.len()), max })
    }

    /// Bytes of the file.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// Keeps `bytes` aside; returns whether they are new. What does not fit is cut, or not kept at all.
    pub(super) fn add(
        &mut self,
        disk: &mut dyn Disk,
        number: u64,
        offset: u64,
        bytes: &[u8],
    ) -> io::Result<bool> {
        if !self.known.insert((number, offset)) {
            return Ok(false);
        }
        let room = to_usize(self.max.saturating_sub(self.len)).saturating_sub(HEADER_BYTES);
        let kept = &bytes[..bytes.len().min(room)];
        if kept.is_empty() {
            return Ok(true);
        }
        if !self.exists {
            disk.create(FILE, 0)?;
            self.exists = true;
        }
        let entry = encode(number, offset, kept);
        disk.write_at(FILE, self.len, &entry)?;
        disk.sync(FILE)?;
        self.len += to_u64(entry.len());
        Ok(true)
    }
}

fn encode(number: u64, offset: u64, bytes: &[u8]) -> Vec<u8> {
    let mut entry = Vec::with_capacity(HEADER_BYTES + bytes.len());
    entry.extend_from_slice(&MAGIC);
    entry.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    entry.extend_from_slice(&number.to_le_bytes());
    entry.extend_from_slice(&offset.to_le_bytes());
    entry.extend_from_slice(bytes);
    entry
}

fn decode(bytes: &[u8]) -> Option<((u64, u64), &[u8])> {
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let (offset, rest) = rest.split_first_chunk()?;
    let rest = rest.get(usize::try_from(u32::from_le_bytes(*len)).ok()?..)?;
    (*magic == MAGIC).then_some(((u64::from_le_bytes(*number), u64::from_le_bytes(*offset)), rest))
}
