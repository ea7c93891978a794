//! Losses that no record tells of yet: kept in a file that is allocated before it is needed, so that a full disk
//! can still say what it lost.
//!
//! ```text
//! losses    page A, 8 KiB | page B, 8 KiB     (the same in both, written one after the other, first the one that
//!                                           may be torn: a torn or damaged page leaves the other one)
//! page      magic 4 | entries 4 | generation 8 | entry … | zeros | crc 4 (CRC-32C of all before it)
//! entry     epoch 8 | first 8 | last 8 | from 8 | to 8 | cause 2
//! ```
//! Writing goes through [`Disk`]; the file knows nothing of segments.

use std::io;

use gapless_common::id::{Epoch, Seq};
use gapless_common::quality::Cause;
use gapless_common::reading::Loss;
use gapless_common::time::Timestamp;

use super::disk::Disk;
use super::{to_u64, unreadable};

/// Name of the file.
pub(super) const FILE: &str = "losses";
/// Length of the file in bytes.
pub(super) const FILE_BYTES: u64 = 2 * 8192;
const PAGE_BYTES: usize = 8192;
const MAGIC: [u8; 4] = *b"GLS1";
const HEADER_BYTES: usize = 16;
const ENTRY_BYTES: usize = 42;
/// Most losses at a time; beyond it neighbours of one epoch are joined over what lies between them, which names
/// more than was lost, never less.
const ENTRIES_MAX: usize = (PAGE_BYTES - HEADER_BYTES - 4) / ENTRY_BYTES;

/// The pending losses and their file.
#[derive(Debug, Default)]
pub(super) struct LossBook {
    pending: Vec<Loss>,
    generation: u64,
    /// The page that the newest generation was found in. The other one may be torn, so that it is written first.
    newest_page: u64,
}

impl LossBook {
    /// Reads the file, making it where it is missing or too short.
    pub(super) fn open(disk: &mut dyn Disk, files: &[(String, u64)]) -> io::Result<Self> {
        if !files.iter().any(|(name, len)| name == FILE && *len >= FILE_BYTES) {
            disk.create(FILE, FILE_BYTES)?;
            return Ok(Self::default());
        }
        Self::read(disk)
    }

    /// Reads the file without writing.
    pub(super) fn read(disk: &mut dyn Disk) -> io::Result<Self> {
        let mut newest = Self::default();
        for page in 0..2 {
            let mut bytes = vec![0; PAGE_BYTES];
            // A page that cannot be read is as good as a damaged one: the other one is there for it.
            unreadable::read(disk, FILE, page * to_u64(PAGE_BYTES), &mut bytes)?;
            if let Some(book) = decode(&bytes)
                && book.generation > newest.generation
            {
                newest = Self { newest_page: page, ..book };
            }
        }
        Ok(newest)
    }

    /// What is pending.
    pub(super) fn pending(&self) -> &[Loss] {
        &self.pending
    }

    /// Adds losses; durable when it returns.
    pub(super) fn add(&mut self, disk: &mut dyn Disk, losses: &[Loss]) -> io::Result<()> {
        if losses.is_empty() {
            return Ok(());
        }
        for loss in losses {
            coalesce(&mut self.pending, *loss);
        }
        while self.pending.len() > ENTRIES_MAX {
            join_closest(&mut self.pending);
        }
        self.write(disk)
    }

    /// Takes out what records tell of now; what is only partly told of stays.
    pub(super) fn recorded(&mut self, disk: &mut dyn Disk, losses: &[Loss]) -> io::Result<()> {
        let before = self.pending.len();
        self.pending.retain(|p| !is_told(p, losses));
        if self.pending.len() == before { Ok(()) } else { self.write(disk) }
    }

    fn write(&mut self, disk: &mut dyn Disk) -> io::Result<()> {
        self.generation += 1;
        let bytes = encode(&self.pending, self.generation);
        for page in [1 - self.newest_page, self.newest_page] {
            disk.write_at(FILE, page * to_u64(PAGE_BYTES), &bytes)?;
            disk.sync(FILE)?;
        }
        Ok(())
    }
}

/// Whether all of `loss` is in one of those that were `told`.
pub(super) fn is_told(loss: &Loss, told: &[Loss]) -> bool {
    told.iter().any(|t| {
        (t.epoch, t.cause) == (loss.epoch, loss.cause) && t.first <= loss.first && t.last >= loss.last
    })
}

/// Joins `loss` with what it touches of the same epoch and cause.
pub(super) fn coalesce(pending: &mut Vec<Loss>, loss: Loss) {
    let mut whole = loss;
    pending.retain(|p| {
        let touches = p.epoch == whole.epoch
            && p.cause == whole.cause
            && p.first.0 <= whole.last.0.saturating_add(1)
            && whole.first.0 <= p.last.0.saturating_add(1);
        if touches {
            whole = union(p, &whole);
        }
        !touches
    });
    pending.push(whole);
    // Joining may have closed a gap to a third one.
    pending.sort_by_key(|p| (p.epoch, p.cause.code(), p.first));
    pending.dedup_by(|b, a| {
        let touches = a.epoch == b.epoch && a.cause == b.cause && b.first.0 <= a.last.0.saturating_add(1);
        if touches {
            *a = union(a, b);
        }
        touches
    });
}

fn union(a: &Loss, b: &Loss) -> Loss {
    Loss {
        epoch: a.epoch,
        first: a.first.min(b.first),
        last: a.last.max(b.last),
        from: a.from.min(b.from),
        to: a.to.max(b.to),
        cause: a.cause,
    }
}

fn join_closest(pending: &mut Vec<Loss>) {
    let same =
        |i: usize| pending[i].epoch == pending[i + 1].epoch && pending[i].cause == pending[i + 1].cause;
    let distance = |i: &usize| pending[i + 1].first.0.saturating_sub(pending[*i].last.0);
    match (0..pending.len() - 1).filter(|&i| same(i)).min_by_key(distance) {
        Some(i) => {
            pending[i] = union(&pending[i], &pending[i + 1]);
            pending.remove(i + 1);
        }
        // As many epochs as entries: the collector sees the oldest as a hole that nobody explains.
        None => drop(pending.remove(0)),
    }
}

fn encode(pending: &[Loss], generation: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PAGE_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&u32::try_from(pending.len()).expect("at most ENTRIES_MAX").to_le_bytes());
    bytes.extend_from_slice(&generation.to_le_bytes());
    for loss in pending {
        bytes.extend_from_slice(&loss.epoch.0.to_le_bytes());
        bytes.extend_from_slice(&loss.first.0.to_le_bytes());
        bytes.extend_from_slice(&loss.last.0.to_le_bytes());
        bytes.extend_from_slice(&loss.from.0.to_le_bytes());
        bytes.extend_from_slice(&loss.to.0.to_le_bytes());
        bytes.extend_from_slice(&loss.cause.code().to_le_bytes());
    }
    bytes.resize(PAGE_BYTES - 4, 0);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(page: &[u8]) -> Option<LossBook> {
    let (bytes, crc) = page.split_last_chunk()?;
    if !bytes.starts_with(&MAGIC) || crc32c::crc32c(bytes) != u32::from_le_bytes(*crc) {
        return None;
    }
    let count = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
    let generation = u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
    let entries = bytes.get(HEADER_BYTES..)?.chunks_exact(ENTRY_BYTES).take(usize::try_from(count).ok()?);
    Some(LossBook { pending: entries.filter_map(decode_entry).collect(), generation, newest_page: 0 })
}

fn decode_entry(bytes: &[u8]) -> Option<Loss> {
    let word = |i: usize| bytes.get(8 * i..)?.first_chunk().copied();
    Some(Loss {
        epoch: Epoch(u64::from_le_bytes(word(0)?)),
        first: Seq(u64::from_le_bytes(word(1)?)),
        last: Seq(u64::from_le_bytes(word(2)?)),
        from: Timestamp(i64::from_le_bytes(word(3)?)),
        to: Timestamp(i64::from_le_bytes(word(4)?)),
        cause: Cause::from_code(u16::from_le_bytes(*bytes.get(40..)?.first_chunk()?))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::memory_disk::{MemoryDisk, PowerCut};

    fn loss(epoch: u64, first: u64, last: u64) -> Loss {
        let at = |n: u64| Timestamp(i64::try_from(n).unwrap());
        Loss {
            epoch: Epoch(epoch),
            first: Seq(first),
            last: Seq(last),
            from: at(first),
            to: at(last),
            cause: Cause::BudgetFull,
        }
    }

    #[test]
    fn adjacent_losses_coalesce() {
        let rows: [(&[Loss], &[Loss]); 5] = [
            (&[loss(1, 1, 2), loss(1, 3, 4)], &[loss(1, 1, 4)]),
            (&[loss(1, 3, 4), loss(1, 1, 2)], &[loss(1, 1, 4)]),
            (&[loss(1, 1, 2), loss(1, 4, 5)], &[loss(1, 1, 2), loss(1, 4, 5)]),
            (&[loss(1, 1, 2), loss(1, 4, 5), loss(1, 3, 3)], &[loss(1, 1, 5)]),
            (&[loss(1, 1, 2), loss(2, 3, 3)], &[loss(1, 1, 2), loss(2, 3, 3)]),
        ];
        for (added, expected) in rows {
            let mut pending = Vec::new();
            added.iter().for_each(|l| coalesce(&mut pending, *l));
            assert_eq!(pending, expected, "{added:?}");
        }
    }

    #[test]
    fn a_page_comes_back_or_is_refused() {
        let losses = [loss(1, 1, 2), loss(2, 5, 9)];
        let page = encode(&losses, 7);
        assert_eq!(page.len(), PAGE_BYTES);
        let book = decode(&page).unwrap();
        assert_eq!((book.pending.as_slice(), book.generation), (&losses[..], 7));
        for at in [0, 5, 20, PAGE_BYTES - 1] {
            let mut hit = page.clone();
            hit[at] ^= 1;
            assert!(decode(&hit).is_none(), "{at}");
        }
    }

    /// The power goes while the second page is written, and again at any operation of the next write.
    #[test]
    fn two_power_cuts_leave_a_page() {
        for (first, second) in (1..=4).flat_map(|first| (1..=4).map(move |second| (first, second))) {
            let mut disk = MemoryDisk::new();
            let mut book = LossBook::open(&mut disk, &[]).unwrap();
            book.add(&mut disk, &[loss(1, 1, 2)]).unwrap();
            for (n, at) in [(2, first), (3, second)] {
                disk.die_at(disk.operations() + at);
                assert!(book.add(&mut disk, &[loss(n, 1, 2)]).is_err());
                disk.restart(PowerCut::KeepPrefix, 7 * first + second);
                book = LossBook::open(&mut disk.clone(), &disk.list().unwrap()).unwrap();
                assert!(book.pending().contains(&loss(1, 1, 2)), "{n} at {at}: {:?}", book.pending());
            }
        }
    }

    #[test]
    fn too_many_losses_name_more_never_less() {
        let mut pending: Vec<Loss> = (0..500).map(|i| loss(1, i * 10 + 1, i * 10 + 2)).collect();
        while pending.len() > ENTRIES_MAX {
            join_closest(&mut pending);
        }
        for i in 0..500 {
            assert!(pending.iter().any(|l| l.first.0 <= i * 10 + 1 && l.last.0 >= i * 10 + 2), "{i}");
        }
    }
}
