//! Any damage to the files of an outbox, and any bytes as its segments, opened by the journal.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use gapless_agent::outbox::disk::Disk;
use gapless_agent::outbox::memory_disk::MemoryDisk;
use gapless_agent::outbox::{
    Found, Journal, NewRecord, OpenError, Opening, Options, Outbox, ReadLimits, StoredRecord, Summary,
};
use gapless_common::id::{BootId, CatalogHash, Epoch, Seq};
use gapless_common::time::Timestamp;

use super::Choices;

/// The least budget: segments of 64 KiB.
const OPTIONS_BYTES: u64 = 1 << 20;
/// The files that damage goes to.
const FILES: [&str; 5] = ["0000.seg", "0001.seg", "0002.seg", "losses", "quarantine"];
const LIMITS: ReadLimits = ReadLimits { bytes: 1 << 20, records: 1_000 };

/// An even first byte: the rest are damages to an outbox that was written well; opening must not fail, and must not give
/// back a record that was not written. An odd one: the rest are up to three segments, their checksums made right;
/// opening must end. Either way the outbox then takes records and keeps them.
pub fn journal_recovery(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    if choices.u8() & 1 == 0 {
        let written = written();
        let disk = written.disk.copy();
        damage(&disk, &mut choices);
        let (mut outbox, _) = open(&disk, 3).expect("damage is no error");
        for record in read_all(&mut outbox) {
            let key = (record.epoch, record.seq);
            assert_eq!(written.records.get(&key), Some(&record), "never written");
        }
        goes_on(&disk, outbox);
    } else {
        let disk = invented(&mut choices);
        match open(&disk, 3) {
            Ok((mut outbox, _)) => {
                read_all(&mut outbox);
                goes_on(&disk, outbox);
            }
            Err(OpenError::EpochUsed(_)) => {}
            Err(e) => unreachable!("{e}"),
        }
    }
}

/// An outbox of two epochs and three segments, and all its records.
struct Written {
    disk: MemoryDisk,
    records: BTreeMap<(Epoch, Seq), StoredRecord>,
}

fn written() -> &'static Written {
    static WRITTEN: OnceLock<Written> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let disk = MemoryDisk::new();
        let mut records = BTreeMap::new();
        let (mut outbox, _) = open(&disk, 1).expect("a disk without faults");
        for (count, len) in [(3, 40), (2, 700), (9, 9_000), (1, 0), (20, 100)] {
            append(&mut outbox, count, len, &mut records);
            let last = Seq(outbox.next_seq().0 - 1);
            outbox.acknowledge(Epoch(1), Seq(2), &[(last, last)]);
        }
        drop(outbox);
        let (mut outbox, _) = open(&disk, 2).expect("a disk without faults");
        for (count, len) in [(4, 30), (8, 7_000), (1, 10)] {
            append(&mut outbox, count, len, &mut records);
        }
        outbox.close(Timestamp(1_000_000)).expect("a disk without faults");
        Written { disk, records }
    })
}

fn open(disk: &MemoryDisk, epoch: u64) -> Result<(Journal, Found), OpenError> {
    let options = Options { budget_bytes: OPTIONS_BYTES, ..Options::default() };
    Journal::open(Box::new(disk.clone()), &options, Opening { epoch: Epoch(epoch), boot: BootId(7) })
}

/// Appends one batch, of records that differ, and keeps account of it.
fn append(outbox: &mut Journal, count: u64, len: usize, records: &mut BTreeMap<(Epoch, Seq), StoredRecord>) {
    let (epoch, first) = (outbox.epoch(), outbox.next_seq().0);
    let made = (first..first + count).map(|n| StoredRecord {
        epoch,
        seq: Seq(n),
        kind: 3,
        at: Timestamp(i64::try_from(n * 1_000).expect("few")),
        from: Timestamp(i64::try_from(n * 1_000).expect("few")),
        catalog: CatalogHash(5 + n / 16),
        bytes: (n * 31..).map(|i| i.to_le_bytes()[0]).take(len).collect(),
    });
    let made: Vec<_> = made.collect();
    let batch: Vec<_> = made
        .iter()
        .map(|r| NewRecord {
            kind: r.kind,
            at: r.at,
            from: r.from,
            catalog: r.catalog,
            is_essential: false,
            bytes: &r.bytes,
        })
        .collect();
    outbox.append(&batch).expect("a disk without faults");
    records.extend(made.into_iter().map(|r| ((r.epoch, r.seq), r)));
}

/// Reads run after run; more runs than there can be records are a loop without end.
fn read_all(outbox: &mut Journal) -> Vec<StoredRecord> {
    let mut all = Vec::new();
    for held in outbox.held() {
        let mut from = held.first;
        loop {
            let before = all.len();
            outbox.read(held.epoch, from, LIMITS, &mut all).expect("a disk without faults");
            let Some(last) = all[before..].last() else { break };
            assert!(last.seq >= from, "reading goes back");
            from = last.seq.next();
        }
    }
    all
}

/// Whatever was found: figures can be had, and what is appended is there after the next opening.
fn goes_on(disk: &MemoryDisk, mut outbox: Journal) {
    let stats = outbox.stats();
    assert!(stats.owed_records <= stats.held_records);
    outbox.owed();
    let mut new = BTreeMap::new();
    append(&mut outbox, 2, 50, &mut new);
    drop(outbox);
    Summary::of(&mut disk.clone()).expect("a disk without faults");
    // Invented segments may hold any epoch.
    let next =
        (4..).map(|epoch| open(disk, epoch)).find(|opened| !matches!(opened, Err(OpenError::EpochUsed(_))));
    let (mut outbox, found) = next.expect("few epochs are held").expect("opened before");
    assert_eq!(found.previous, Some((Epoch(3), Seq(3))));
    let held = read_all(&mut outbox);
    assert!(new.values().all(|record| held.contains(record)), "what was appended is gone");
}

/// Overwrites, cuts off, moves and zeroes parts of the files.
fn damage(disk: &MemoryDisk, choices: &mut Choices<'_>) {
    while !choices.is_empty() {
        let file = choices.pick(&FILES);
        let Some(mut bytes) = disk.contents(file).filter(|bytes| !bytes.is_empty()) else { continue };
        let (what, at, len) = (choices.u8(), usize::from(choices.u16()) % bytes.len(), choices.u16());
        let end = bytes.len().min(at + usize::from(len));
        match what % 5 {
            0 => bytes.truncate(at),
            1 => bytes[at..end].fill(0),
            2 => {
                let to = usize::from(choices.u16()) % bytes.len();
                let end = end.min(at + bytes.len() - to);
                bytes.copy_within(at..end, to);
            }
            3 => bytes[at] ^= 1 << (len % 8),
            _ => {
                let noise = choices.bytes(usize::from(len % 64));
                let end = bytes.len().min(at + noise.len());
                bytes[at..end].copy_from_slice(&noise[..end - at]);
            }
        }
        disk.set_contents(file, &bytes);
    }
}

/// Up to three files of the length of a segment. The input has their begins, each behind its length; a byte of 0xD7
/// becomes a frame's magic with right checksums.
fn invented(choices: &mut Choices<'_>) -> MemoryDisk {
    let mut disk = MemoryDisk::new();
    for name in &FILES[..3] {
        let len = choices.u16();
        let begin = choices.bytes(usize::from(len));
        if begin.is_empty() {
            continue;
        }
        let mut bytes = vec![0; 64 << 10];
        bytes[..begin.len()].copy_from_slice(begin);
        mend(&mut bytes);
        disk.create(name, 64 << 10).expect("a disk without faults");
        disk.set_contents(name, &bytes);
    }
    disk
}

/// Makes a header and frames valid, as `outbox::journal::format` draws them; a payload reaches at most to the end.
fn mend(segment: &mut [u8]) {
    segment[..8].copy_from_slice(b"GAPLSEG1");
    let crc = crc32c::crc32c(&segment[..60]);
    segment[60..64].copy_from_slice(&crc.to_le_bytes());
    let number: [u8; 8] = segment[8..16].try_into().expect("8 bytes");
    let mut at = 1024;
    while at + 48 <= segment.len() {
        if segment[at] != 0xD7 {
            at += 1;
            continue;
        }
        segment[at + 1] = 0x47;
        segment[at + 6] = 0;
        let len = usize::from(segment[at + 4]) | usize::from(segment[at + 5]) << 8;
        let end = segment.len().min(at + 48 + len);
        let payload_crc = crc32c::crc32c(&segment[at + 48..end]);
        segment[at + 40..at + 44].copy_from_slice(&payload_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&number), &segment[at..at + 44]);
        segment[at + 44..at + 48].copy_from_slice(&crc.to_le_bytes());
        at = end;
    }
}
