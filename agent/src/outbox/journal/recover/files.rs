//! Which files are segments, in which order of their lives, and which are spare. Reads headers only, and changes
//! nothing.

use std::collections::BTreeMap;

use super::super::format::{DATA_AT, SegmentHeader, guess_number, holds_frames_of};
use super::super::{SEGMENT_SUFFIX, SpareFile};
use super::{Recovery, failed, read};
use crate::outbox::disk::Disk;
use crate::outbox::{OpenError, to_u64, to_usize};

/// Longer files are none of ours.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// How many numbers to either side of the last one are tried for a segment that has lost both headers.
const GUESSES_MAX: u64 = 4096;

/// A segment's file and what its header says.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) name: String,
    pub(super) len: u64,
    pub(super) number: u64,
    pub(super) header: Option<SegmentHeader>,
}

/// Has the header of the newest segment read from the device: after a failed sync the cache may show one that the device
/// never got, and whatever was appended behind it would be found by nobody.
pub(super) fn distrust_newest(disk: &mut dyn Disk, files: &[(String, u64)]) -> Result<(), OpenError> {
    let mut newest: Option<(u64, &str)> = None;
    for (name, _) in files.iter().filter(|(name, len)| is_segment(name, *len)) {
        let mut head = [0; DATA_AT];
        read(disk, name, &mut head)?;
        if let Some(header) = SegmentHeader::decode(&head)
            && newest.is_none_or(|(number, _)| header.number > number)
        {
            newest = Some((header.number, name));
        }
    }
    if let Some((_, name)) = newest {
        disk.forget_cache(name);
    }
    Ok(())
}

fn is_segment(name: &str, len: u64) -> bool {
    name.ends_with(SEGMENT_SUFFIX) && len > to_u64(DATA_AT) && len <= FILE_BYTES_MAX
}

impl Recovery {
    /// Sorts the files into lives of segments, in the order of their numbers, and spare ones.
    pub(super) fn find(
        &mut self,
        disk: &mut dyn Disk,
        files: &[(String, u64)],
    ) -> Result<(Vec<Life>, Vec<SpareFile>), OpenError> {
        let (mut lives, mut spares, mut nameless) = (BTreeMap::new(), Vec::new(), Vec::new());
        let files: Vec<_> = files.iter().filter(|(name, len)| is_segment(name, *len)).collect();
        let mut unreadable = 0;
        for (name, len) in &files {
            let mut head = [0; DATA_AT];
            let is_refused = !read(disk, name, &mut head)?.is_empty();
            unreadable += usize::from(is_refused);
            let (name, len) = (name.clone(), *len);
            match SegmentHeader::decode(&head) {
                Some(header) if !lives.contains_key(&header.number) => {
                    let number = header.number;
                    lives.insert(number, Life { name, len, number, header: Some(header) });
                }
                None if is_refused || head.iter().any(|&byte| byte != 0) => {
                    nameless.push((SpareFile { name, len }, head));
                }
                _ => spares.push(SpareFile { name, len }),
            }
        }
        if unreadable > 1 && unreadable == files.len() {
            // Not a bad page: a device that gives nothing must not be taken for an empty outbox.
            let source = std::io::Error::other("no segment can be read");
            return Err(failed("read its segments", source));
        }
        let next = lives.last_key_value().map_or(0, |(&number, _)| number).saturating_add(1);
        for (file, head) in nameless {
            if SegmentHeader::is_torn(&head, next) && !holds_frames_of(&contents(disk, &file)?, next) {
                spares.push(file);
                continue;
            }
            let (life, refused) = recognise(disk, &file, &lives)?;
            match life {
                Some(life) => drop(lives.insert(life.number, life)),
                None => {
                    // It will be written again, from its first byte on.
                    self.give_up(disk, &file.name, &refused, true)?;
                    self.report.quarantined_segments += 1;
                    self.note_damage(&file.name, file.len);
                    spares.push(file);
                }
            }
        }
        Ok((lives.into_values().collect(), spares))
    }
}

fn contents(disk: &mut dyn Disk, file: &SpareFile) -> Result<Vec<u8>, OpenError> {
    let mut bytes = vec![0; to_usize(file.len)];
    // What cannot be read is zero, and no frame.
    read(disk, &file.name, &mut bytes)?;
    Ok(bytes)
}

/// Erases what spare files must not hold. What a crash left of the first write of a segment whose header did not get to the
/// disk: the next segment has the same number, so that behind its own frames these would be valid again. And a header: one
/// that nobody recognised would be, once there are other numbers, as a segment that is newer than those written since. Where no
/// segment is left numbers begin anew, and frames of any number would come back.
pub(super) fn erase_unbegun(
    disk: &mut dyn Disk,
    spares: &[SpareFile],
    last_number: u64,
) -> Result<(), OpenError> {
    let next = last_number.saturating_add(1);
    for file in spares {
        let bytes = contents(disk, file)?;
        let old = if last_number == 0 { &bytes[..] } else { &bytes[..DATA_AT] };
        if old.iter().any(|&byte| byte != 0) || holds_frames_of(&bytes, next) {
            let done = disk.write_at(&file.name, 0, &vec![0; bytes.len()]);
            done.and_then(|()| disk.sync(&file.name)).map_err(|e| failed("erase a spare segment", e))?;
        }
        // Reading ahead, and so long a write, make large folios; see `disk` on what they do to small appends.
        disk.forget_cache(&file.name);
    }
    Ok(())
}

/// Finds the number of a segment that has lost both headers among those that are missing in the order and the next ones,
/// however many of these are missing too: what is recognised once must be at every later opening. Also gives the pages that
/// the device refused.
fn recognise(
    disk: &mut dyn Disk,
    file: &SpareFile,
    lives: &BTreeMap<u64, Life>,
) -> Result<(Option<Life>, Vec<u64>), OpenError> {
    let last = lives.last_key_value().map_or(0, |(&number, _)| number);
    let candidates = (last.saturating_sub(GUESSES_MAX)..=last.saturating_add(GUESSES_MAX))
        .filter(|n| !lives.contains_key(n));
    let mut bytes = vec![0; to_usize(file.len)];
    let refused = read(disk, &file.name, &mut bytes)?;
    let number = guess_number(&bytes, &candidates.collect::<Vec<_>>());
    let life = number.map(|number| Life { name: file.name.clone(), len: file.len, number, header: None });
    Ok((life, refused))
}
