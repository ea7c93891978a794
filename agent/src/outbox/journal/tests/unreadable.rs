//! One page that the device will not give: the outbox opens, keeps the records elsewhere, names the lost ones.

use gapless_common::id::{Epoch, Seq};
use gapless_common::quality::Cause;
use gapless_common::ranges::RangeSet;

use super::super::{Journal, Summary};
use super::open;
use crate::outbox::conformance::{append, payload, read_all};
use crate::outbox::memory_disk::MemoryDisk;
use crate::outbox::{Outbox, losses};

const PAGE_BYTES: u64 = 4096;
const COUNT: u64 = 300;

/// Several segments, [`COUNT`] records.
fn full() -> (MemoryDisk, Journal) {
    let disk = MemoryDisk::new();
    let (mut outbox, _) = open(&disk, 1);
    for n in 0..COUNT / 10 {
        append(&mut outbox, n * 10 + 1, 10, 700).unwrap();
    }
    (disk, outbox)
}

/// The file of the segment with this number, and the bytes of it in use.
fn segment(disk: &MemoryDisk, number: u64) -> (String, u64) {
    let summary = Summary::of(&mut disk.copy()).unwrap();
    let found = summary.segments.iter().find(|s| s.number == number).unwrap();
    (found.file.clone(), found.used_bytes)
}

/// What is held and what is named, each record as it was written and none of them both.
fn account(outbox: &mut Journal) -> (RangeSet, RangeSet) {
    let (mut held, mut named) = (RangeSet::new(), RangeSet::new());
    for record in read_all(outbox).iter().filter(|record| record.epoch == Epoch(1)) {
        assert_eq!(*record.bytes, payload(record.seq.0, record.bytes.len()), "altered");
        held.insert(record.seq.0, record.seq.0);
    }
    for loss in outbox.pending_losses() {
        assert_eq!((loss.epoch, loss.cause), (Epoch(1), Cause::Quarantined));
        assert!((loss.first.0..=loss.last.0).all(|seq| !held.contains(seq)), "{loss:?}");
        named.insert(loss.first.0, loss.last.0);
    }
    (held, named)
}

fn check_account(outbox: &mut Journal, lost_max: u64, context: &str) -> (RangeSet, RangeSet) {
    let (held, named) = account(outbox);
    let all: RangeSet = held.iter().chain(named.iter()).collect();
    assert!(
        all.covers(1, COUNT),
        "{context}: lost in silence: {:?}",
        all.holes(1, COUNT).collect::<Vec<_>>()
    );
    let lost: u64 = named.iter().map(|(f, l)| l - f + 1).sum();
    assert!(lost <= lost_max, "{context}: {lost} records lost");
    (held, named)
}

#[test]
fn one_bad_page_of_a_sealed_segment_costs_what_lies_in_it() {
    let (disk, outbox) = full();
    drop(outbox);
    for number in [1, 2] {
        let (file, used) = segment(&disk, number);
        let mut lost = 0;
        for page in 0..used.div_ceil(PAGE_BYTES) {
            let context = format!("page {page} of segment {number}");
            let hurt = disk.copy();
            hurt.fail_reads(&file, page * PAGE_BYTES);
            let (mut outbox, found) = open(&hurt, 2);
            assert_eq!(found.previous, Some((Epoch(1), Seq(COUNT + 1))), "{context}");
            assert_eq!(found.report.unreadable_bytes, PAGE_BYTES, "{context}");
            let (held, named) = check_account(&mut outbox, 8, &context);
            lost += found.report.quarantined_records;
            append(&mut outbox, 1, 1, 10).unwrap();
            drop(outbox);
            let (mut again, found) = open(&hurt, 3);
            assert_eq!((found.report.unreadable_bytes, found.report.quarantined_bytes), (0, 0), "{context}");
            assert_eq!(account(&mut again), (held, named), "{context}: again");
        }
        assert!(lost > used / 1000, "{lost}");
    }
}

#[test]
fn a_bad_page_met_while_reading_is_passed_and_named() {
    let (disk, outbox) = full();
    drop(outbox);
    let (file, used) = segment(&disk, 2);
    for page in 0..used.div_ceil(PAGE_BYTES) {
        let (hurt, context) = (disk.copy(), format!("page {page}"));
        let (mut outbox, _) = open(&hurt, 2);
        hurt.fail_reads(&file, page * PAGE_BYTES);
        // Reading finds the damage, so that losses are known only afterwards.
        read_all(&mut outbox);
        let (_, named) = check_account(&mut outbox, 8, &context);
        assert_eq!(outbox.stats().quarantined_records, named.iter().map(|(f, l)| l - f + 1).sum::<u64>());
        append(&mut outbox, 1, 1, 10).unwrap();
    }
}

#[test]
fn a_whole_segment_that_cannot_be_read_is_named() {
    let (disk, outbox) = full();
    drop(outbox);
    let (file, _) = segment(&disk, 2);
    let len = u64::try_from(disk.contents(&file).unwrap().len()).unwrap();
    (0..len / PAGE_BYTES).for_each(|page| disk.fail_reads(&file, page * PAGE_BYTES));
    let (mut outbox, found) = open(&disk, 2);
    assert_eq!(found.report.quarantined_segments, 1);
    check_account(&mut outbox, 120, "a whole segment");
    append(&mut outbox, 1, 200, 700).unwrap();
}

#[test]
fn a_bad_page_of_the_newest_segment_stops_no_append() {
    let (disk, outbox) = full();
    drop(outbox);
    let newest = Summary::of(&mut disk.copy()).unwrap().segments.last().unwrap().clone();
    for page in 0..newest.file_bytes / PAGE_BYTES {
        let hurt = disk.copy();
        hurt.fail_reads(&newest.file, page * PAGE_BYTES);
        let (mut outbox, found) = open(&hurt, 2);
        let next = found.previous.unwrap().1.0;
        assert!(next + 8 > COUNT, "page {page}: {next}");
        let (held, named) = account(&mut outbox);
        let all: RangeSet = held.iter().chain(named.iter()).collect();
        assert!(all.covers(1, next - 1), "page {page}");
        append(&mut outbox, 1, 100, 700).unwrap();
    }
}

#[test]
fn bad_pages_of_the_side_files_cost_no_record() {
    let (disk, outbox) = full();
    drop(outbox);
    let (file, _) = segment(&disk, 1);
    disk.fail_reads(&file, 3 * PAGE_BYTES);
    let (mut outbox, _) = open(&disk, 2);
    let (held, named) = check_account(&mut outbox, 8, "before");
    drop(outbox);
    for (side, offset) in [(losses::FILE, 0), (losses::FILE, 8192), ("quarantine", 0)] {
        let hurt = disk.copy();
        hurt.fail_reads(side, offset);
        hurt.fail_reads(&file, 6 * PAGE_BYTES);
        let (mut outbox, _) = open(&hurt, 3);
        let (still_held, still_named) = check_account(&mut outbox, 16, side);
        assert!(still_held.iter().all(|(f, l)| held.covers(f, l)));
        assert!(named.iter().all(|(f, l)| still_named.covers(f, l)));
        append(&mut outbox, 1, 1, 10).unwrap();
    }
}
