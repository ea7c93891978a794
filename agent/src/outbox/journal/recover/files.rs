//! Which files are segments, in which order of their lives, and which are spare. Reads headers only, and changes
//! nothing.

use std::collections::BTreeMap;

use super::super::format::{DATA_AT, SegmentHeader, guess_number};
use super::super::{SEGMENT_SUFFIX, SpareFile};
use super::{Recovery, read};
use crate::outbox::disk::Disk;
use crate::outbox::{OpenError, to_u64, to_usize};

/// Longer files are none of ours.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// How many numbers are tried for a segment that has lost both headers.
const GUESSES_MAX: u64 = 4096;

/// A segment's file and what its header says.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) name: String,
    pub(super) len: u64,
    pub(super) number: u64,
    pub(super) header: Option<SegmentHeader>,
}

impl Recovery {
    /// Sorts the files into lives of segments, in the order of their numbers, and spare ones.
    pub(super) fn find(
        &mut self,
        disk: &mut dyn Disk,
        files: &[(String, u64)],
    ) -> Result<(Vec<Life>, Vec<SpareFile>), OpenError> {
        let (mut lives, mut spares, mut nameless) = (BTreeMap::new(), Vec::new(), Vec::new());
        let is_segment = |name: &str, len: u64| {
            name.ends_with(SEGMENT_SUFFIX) && len > to_u64(DATA_AT) && len <= FILE_BYTES_MAX
        };
        for (name, len) in files.iter().filter(|(name, len)| is_segment(name, *len)) {
            let mut head = [0; DATA_AT];
            read(disk, name, &mut head)?;
            let (name, len) = (name.clone(), *len);
            match SegmentHeader::decode(&head) {
                Some(header) if !lives.contains_key(&header.number) => {
                    let number = header.number;
                    lives.insert(number, Life { name, len, number, header: Some(header) });
                }
                None if head.iter().any(|&byte| byte != 0) => nameless.push(SpareFile { name, len }),
                _ => spares.push(SpareFile { name, len }),
            }
        }
        for file in nameless {
            match recognise(disk, &file, &lives)? {
                Some(life) => drop(lives.insert(life.number, life)),
                None => {
                    self.report.quarantined_segments += 1;
                    spares.push(file);
                }
            }
        }
        Ok((lives.into_values().collect(), spares))
    }
}

/// Finds the number of a segment that has lost both headers among those that are missing in the order.
fn recognise(
    disk: &mut dyn Disk,
    file: &SpareFile,
    lives: &BTreeMap<u64, Life>,
) -> Result<Option<Life>, OpenError> {
    let last = lives.last_key_value().map_or(0, |(&number, _)| number);
    let candidates = (last.saturating_sub(GUESSES_MAX)..=last + 1).filter(|n| !lives.contains_key(n));
    let mut bytes = vec![0; to_usize(file.len)];
    read(disk, &file.name, &mut bytes)?;
    let number = guess_number(&bytes, &candidates.collect::<Vec<_>>());
    Ok(number.map(|number| Life { name: file.name.clone(), len: file.len, number, header: None }))
}
