//! The journal on a disk that loses power at every operation, fills up, fails a sync and rots byte by byte; and the
//! suite that every implementation passes.

use gapless_common::id::{CatalogHash, Epoch, Seq};
use gapless_common::quality::Cause;
use gapless_common::ranges::RangeSet;
use proptest::prelude::*;

use super::super::conformance::{self, Subject, append, opening, options, payload, read_all, time};
use super::super::memory_disk::{MemoryDisk, PowerCut};
use super::super::{
    AppendError, DropPolicy, Found, NewRecord, OpenError, Opening, Options, Outbox, RealDisk,
};
use super::{Journal, Summary};

mod epochs;
mod forgone;
mod nameless;
mod torn_begin;
mod unreadable;

struct InMemory(MemoryDisk);

impl Subject for InMemory {
    fn open(&mut self, options: &Options, opening: Opening) -> Result<(Box<dyn Outbox>, Found), OpenError> {
        let (journal, found) = Journal::open(Box::new(self.0.clone()), options, opening)?;
        Ok((Box::new(journal), found))
    }
}

struct OnDisk(tempfile::TempDir);

impl Subject for OnDisk {
    fn open(&mut self, options: &Options, opening: Opening) -> Result<(Box<dyn Outbox>, Found), OpenError> {
        let disk = Box::new(RealDisk::open(self.0.path())?);
        let (journal, found) = Journal::open(disk, options, opening)?;
        Ok((Box::new(journal), found))
    }
}

fn open(disk: &MemoryDisk, epoch: u64) -> (Journal, Found) {
    Journal::open(Box::new(disk.clone()), &options(), opening(epoch)).unwrap()
}

#[test]
fn keeps_every_promise_in_memory() {
    conformance::check(|| Box::new(InMemory(MemoryDisk::new())));
}

#[test]
fn keeps_every_promise_on_disk() {
    conformance::check(|| Box::new(OnDisk(tempfile::tempdir().unwrap())));
}

#[test]
fn one_process_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let first = super::super::open(directory.path(), &options(), opening(1)).unwrap();
    let second = super::super::open(directory.path(), &options(), opening(2));
    assert!(matches!(second, Err(OpenError::Directory(_))));
    Summary::read(directory.path()).unwrap();
    drop(first);
    assert!(super::super::open(directory.path(), &options(), opening(2)).is_ok());
}

/// What the journal has to hold, in memory. The number of a record is its seq.
#[derive(Debug, Default)]
struct Twin {
    /// All up to it were called durable.
    durable: u64,
    /// All up to it were handed over.
    attempted: u64,
    acknowledged: RangeSet,
    recorded: RangeSet,
}

/// A few hundred operations: appends of all sizes, acknowledgements, losses told of. Ends at the first error.
fn work(outbox: &mut dyn Outbox, twin: &mut Twin) -> Result<(), AppendError> {
    for step in 0..150u64 {
        let (count, len) = (1 + step % 9, [20, 300, 4000, 900][(step % 4) as usize]);
        twin.attempted = twin.durable + count;
        let last = append(outbox, twin.durable + 1, count, len)?;
        assert_eq!(last.0, twin.attempted);
        twin.durable = last.0;
        // A collector that is there for a while, then away, then back for what is new.
        let ack = |twin: &mut Twin, outbox: &mut dyn Outbox, first: u64, last: u64| {
            twin.acknowledged.insert(first, last);
            outbox.acknowledge(Epoch(1), Seq(0), &[(Seq(first), Seq(last))]);
        };
        match step {
            0..40 => ack(twin, outbox, 1, last.0 - 1),
            100..120 if step % 2 == 0 => ack(twin, outbox, last.0, last.0),
            _ => {}
        }
        let losses = outbox.pending_losses();
        if step % 20 == 19 && !losses.is_empty() {
            twin.attempted = twin.durable + 1;
            append(outbox, twin.durable + 1, 1, 50)?;
            twin.durable += 1;
            losses.iter().for_each(|l| twin.recorded.insert(l.first.0, l.last.0));
            outbox.losses_recorded(&losses)?;
        }
    }
    outbox.close(time(9999))
}

/// What has to be true after any power cut.
fn check_recovered(disk: &MemoryDisk, twin: &Twin, epoch: u64, context: &str) {
    let (mut outbox, found) = open(disk, epoch);
    let (mut held, mut last) = (RangeSet::new(), 0);
    for record in read_all(&mut outbox) {
        assert_eq!(*record.bytes, payload(record.seq.0, record.bytes.len()), "{context}: altered");
        held.insert(record.seq.0, record.seq.0);
        last = last.max(record.seq.0);
    }
    assert!(last <= twin.attempted, "{context}: {last} was never written");
    assert!(held.covers(twin.durable + 1, last) || last <= twin.durable, "{context}: not a prefix");
    let next = found.previous.map_or(1, |(_, next)| next.0);
    assert!(next > twin.durable && next <= twin.attempted + 1, "{context}: {found:?}");
    assert_eq!(found.report.quarantined_records + found.report.quarantined_bytes, 0, "{context}");
    let mut accounted = held.clone();
    for (first, last) in twin.acknowledged.iter().chain(twin.recorded.iter()) {
        accounted.insert(first, last);
    }
    for loss in outbox.pending_losses() {
        assert_eq!(loss.cause, Cause::BudgetFull, "{context}");
        assert!(held.holes(loss.first.0, loss.last.0).map(|(f, l)| l - f + 1).sum::<u64>() > 0, "{context}");
        accounted.insert(loss.first.0, loss.last.0);
    }
    assert!(
        twin.durable == 0 || accounted.covers(1, twin.durable),
        "{context}: lost in silence: {accounted:?}"
    );
    let owed: RangeSet = outbox.owed().iter().map(|r| (r.first.0, r.last.0)).collect();
    for (first, last) in held.iter() {
        for (f, l) in owed.holes(first, last) {
            assert!((f..=l).all(|n| twin.acknowledged.contains(n) || twin.recorded.contains(n)), "{context}");
        }
    }
    assert_eq!(append(&mut outbox, 1, 1, 10).unwrap(), Seq(1), "{context}");
    assert!(outbox.stats().disk_bytes <= 1 << 20, "{context}");
}

fn run_and_cut(at: u64, cut: PowerCut) -> (MemoryDisk, Twin) {
    let (disk, mut twin) = (MemoryDisk::new(), Twin::default());
    disk.die_at(at);
    if let Ok((mut outbox, _)) = Journal::open(Box::new(disk.clone()), &options(), opening(1)) {
        // The error is the power cut.
        let _ = work(&mut outbox, &mut twin);
    }
    disk.restart(cut, at.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    (disk, twin)
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_durable() {
    let disk = MemoryDisk::new();
    work(&mut open(&disk, 1).0, &mut Twin::default()).unwrap();
    let operations = disk.operations();
    assert!(operations > 300, "{operations}");
    let cuts = [PowerCut::KeepSectors, PowerCut::KeepPrefix, PowerCut::KeepNothing, PowerCut::KeepAll];
    // A third of them, under one model each; `./dev crash` makes all of a longer workload under all models.
    for at in (1..=operations).step_by(3) {
        let cut = cuts[(at % 4) as usize];
        let (disk, twin) = run_and_cut(at, cut);
        let context = format!("{cut:?} at {at} of {operations}");
        // And again while it recovers.
        disk.die_at(disk.operations() + 1 + at % 5);
        drop(Journal::open(Box::new(disk.clone()), &options(), opening(2)));
        disk.restart(cut, at);
        check_recovered(&disk, &twin, 3, &context);
    }
}

#[test]
fn a_failed_sync_ends_the_handle_and_loses_nothing_durable() {
    let disk = MemoryDisk::new();
    work(&mut open(&disk, 1).0, &mut Twin::default()).unwrap();
    let operations = disk.operations();
    let mut failures = 0;
    for at in (4..operations).step_by(3) {
        let (disk, mut twin) = (MemoryDisk::new(), Twin::default());
        let (mut outbox, _) = open(&disk, 1);
        disk.fail_sync_at(at);
        let Err(e) = work(&mut outbox, &mut twin) else { continue };
        failures += 1;
        assert!(!e.is_usable(), "{e}");
        assert!(matches!(append(&mut outbox, 1, 1, 10), Err(AppendError::Unusable)), "{at}");
        drop(outbox);
        // The machine stays up: only the cache could say that what failed is there.
        check_recovered(&disk, &twin, 2, &format!("sync failed at {at}"));
    }
    assert!(failures > 50, "{failures}");
}

#[test]
fn a_full_disk_costs_the_oldest() {
    let disk = MemoryDisk::new();
    let (mut outbox, _) = open(&disk, 1);
    append(&mut outbox, 1, 100, 1000).unwrap();
    disk.set_capacity(Some(300 << 10));
    for n in 0..300 {
        append(&mut outbox, 101 + n * 10, 10, 200).unwrap();
    }
    let lost = outbox.pending_losses();
    assert_eq!((lost.len(), lost[0].first, lost[0].cause), (1, Seq(1), Cause::BudgetFull));
    assert_eq!(outbox.held()[0].first, lost[0].last.next());
    assert_eq!(outbox.held()[0].next, Seq(3101));
    let stats = outbox.stats();
    assert_eq!((stats.is_disk_full, stats.dropped_disk_full), (true, stats.dropped_records));
    // With room again what is dropped is dropped for the budget.
    disk.set_capacity(None);
    let until = stats.dropped_records + 100;
    for n in 0.. {
        if outbox.stats().dropped_records > until {
            break;
        }
        append(&mut outbox, 3101 + n * 10, 10, 200).unwrap();
    }
    let now = outbox.stats();
    assert_eq!((now.is_disk_full, now.dropped_disk_full), (false, stats.dropped_disk_full));
}

/// Two epochs, several batches, an internal frame of each kind.
fn small_outbox() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let (mut outbox, _) = open(&disk, 1);
    append(&mut outbox, 1, 3, 40).unwrap();
    append(&mut outbox, 4, 2, 70).unwrap();
    drop(outbox);
    let (mut outbox, _) = open(&disk, 2);
    append(&mut outbox, 101, 4, 30).unwrap();
    outbox.acknowledge(Epoch(1), Seq(1), &[]);
    append(&mut outbox, 105, 1, 10).unwrap();
    outbox.close(time(200)).unwrap();
    disk
}

/// Numbers of the records held, each checked to be as it was written.
fn numbers(outbox: &mut Journal) -> RangeSet {
    let mut numbers = RangeSet::new();
    for record in read_all(outbox) {
        let number = record.seq.0 + if record.epoch == Epoch(2) { 100 } else { 0 };
        assert_eq!(*record.bytes, payload(number, record.bytes.len()), "altered");
        numbers.insert(number, number);
    }
    numbers
}

fn count(set: &RangeSet) -> u64 {
    set.iter().map(|(f, l)| l - f + 1).sum()
}

/// Where a test reads what was logged.
#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn damage_is_told_once_with_its_file() {
    let disk = small_outbox();
    let mut rotten = disk.contents("0000.seg").unwrap();
    // In the first record, behind the segment's header.
    rotten[super::format::DATA_AT + 200] ^= 1;
    disk.set_contents("0000.seg", &rotten);
    for (epoch, expected) in [(3, 1), (4, 0)] {
        let log = Log::default();
        let written = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || written.clone()).finish();
        tracing::subscriber::with_default(subscriber, || open(&disk, epoch));
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("file=\"0000.seg\"").count(), expected, "epoch {epoch}: {text}");
    }
}

#[test]
fn a_flipped_byte_costs_at_most_the_record_it_hit() {
    let disk = small_outbox();
    let whole = numbers(&mut open(&disk.copy(), 3).0);
    assert_eq!(count(&whole), 10);
    let mut hits = 0;
    for file in ["0000.seg", "losses"] {
        let bytes = disk.contents(file).unwrap();
        for at in 0..bytes.len().min(if file == "losses" { 300 } else { 2300 }) {
            let hurt = disk.copy();
            let mut rotten = bytes.clone();
            rotten[at] ^= 1 << (at % 8);
            hurt.set_contents(file, &rotten);
            let (mut outbox, found) = open(&hurt, 3);
            let held = numbers(&mut outbox);
            let lost = 10 - count(&held);
            hits += lost;
            assert!(lost <= 1, "byte {at} of {file} cost {lost} records");
            // The first record is acknowledged, so it is no loss, unless it was the acknowledgement that was hit.
            let named = outbox.pending_losses();
            let is_first = !held.contains(1);
            assert!(is_first || count_losses(&named) == lost, "byte {at}: {named:?}");
            assert!(named.iter().all(|l| l.cause == Cause::Quarantined));
            assert!(lost == 0 || found.report.quarantined_bytes > 0, "byte {at}: {found:?}");
            drop(outbox);
            let (mut again, found) = open(&hurt, 4);
            assert_eq!(found.report.quarantined_bytes, 0, "byte {at}: reported twice");
            assert_eq!(numbers(&mut again), held);
            assert_eq!(again.pending_losses(), named, "byte {at}");
        }
    }
    assert!(hits > 500, "{hits}");
}

fn count_losses(losses: &[gapless_common::reading::Loss]) -> u64 {
    losses.iter().map(|l| l.last.0 - l.first.0 + 1).sum()
}

#[test]
fn damage_met_while_reading_is_quarantined() {
    let disk = small_outbox();
    let (mut outbox, _) = open(&disk, 3);
    let mut bytes = disk.contents("0000.seg").unwrap();
    let third = bytes.windows(40).position(|w| *w == payload(3, 40)[..]).unwrap();
    bytes[third + 20] ^= 4;
    disk.set_contents("0000.seg", &bytes);
    let held = numbers(&mut outbox);
    assert_eq!((count(&held), held.contains(3)), (9, false));
    let named = outbox.pending_losses();
    assert_eq!((named[0].first, named[0].last, named[0].cause), (Seq(3), Seq(3), Cause::Quarantined));
    assert_eq!(outbox.stats().quarantined_records, 1);
    append(&mut outbox, 1, 1, 10).unwrap();
}

#[test]
fn a_truncated_segment_keeps_what_is_left_of_it() {
    let disk = small_outbox();
    let bytes = disk.contents("0000.seg").unwrap();
    for len in (0..2600).chain([bytes.len() - 1]) {
        let hurt = disk.copy();
        hurt.set_contents("0000.seg", &bytes[..len]);
        let (mut outbox, _) = open(&hurt, 3);
        let held = numbers(&mut outbox);
        for number in (1..=5).chain(101..=105) {
            let record = payload(number, [0, 40, 40, 40, 70, 70, 30, 30, 30, 30, 10][index(number)]);
            let end = bytes.windows(record.len()).position(|w| *w == record[..]).unwrap() + record.len();
            assert_eq!(held.contains(number), end <= len, "record {number} at length {len}");
        }
        assert_eq!(append(&mut outbox, 1, 1, 10).unwrap(), Seq(1));
    }
}

fn index(number: u64) -> usize {
    usize::try_from(if number > 100 { number - 95 } else { number }).unwrap()
}

/// Appends until something is refused.
fn fill(outbox: &mut Journal) {
    let mut next = outbox.next_seq().0;
    while let Ok(last) = append(outbox, next, 10, 500) {
        next = last.0 + 1;
    }
}

/// Under a budget whose segments have another length, too.
#[test]
fn an_essential_record_is_taken_after_the_budget_was_lowered() {
    let disk = MemoryDisk::new();
    let large = Options { budget_bytes: 3 << 19, policy: DropPolicy::NewestFirst, ..options() };
    let (mut outbox, _) = Journal::open(Box::new(disk.clone()), &large, opening(1)).unwrap();
    fill(&mut outbox);
    drop(outbox);
    let small = Options { budget_bytes: 1 << 20, ..large };
    let (mut outbox, _) = Journal::open(Box::new(disk.clone()), &small, opening(2)).unwrap();
    let bytes = payload(1, 40_000);
    let record = NewRecord {
        kind: 1,
        at: time(1),
        from: time(1),
        catalog: CatalogHash(5),
        is_essential: true,
        bytes: &bytes,
    };
    assert_eq!(outbox.append(&[record]).unwrap(), Seq(1));
    assert_eq!(outbox.held()[0].epoch, Epoch(1), "no more is given up than it takes");
}

/// More ranges than a cursor has room for, each between two essential records that are not acknowledged.
#[test]
fn what_the_policy_refused_is_no_damage_however_it_was_told() {
    let disk = MemoryDisk::new();
    let options = Options { policy: DropPolicy::NewestFirst, ..options() };
    let open = |epoch: u64| Journal::open(Box::new(disk.clone()), &options, opening(epoch)).unwrap();
    let (mut outbox, _) = open(1);
    fill(&mut outbox);
    let essential = |outbox: &mut Journal| {
        let record = NewRecord {
            kind: 1,
            at: time(7),
            from: time(7),
            catalog: CatalogHash(5),
            is_essential: true,
            bytes: b"x",
        };
        outbox.append(&[record]).unwrap();
    };
    for _ in 0..40 {
        essential(&mut outbox);
        fill(&mut outbox);
        let losses = outbox.pending_losses();
        essential(&mut outbox);
        outbox.losses_recorded(&losses).unwrap();
    }
    // The last of them is refused at the end of the epoch, and told in the next one.
    fill(&mut outbox);
    drop(outbox);
    for epoch in 2..5 {
        let (mut outbox, found) = open(epoch);
        assert_eq!(found.report, crate::outbox::RecoveryReport::default(), "opening {epoch}");
        let losses = outbox.pending_losses();
        assert!(losses.iter().all(|l| l.cause == Cause::BudgetFull), "{losses:?}");
        essential(&mut outbox);
        outbox.losses_recorded(&losses).unwrap();
        essential(&mut outbox);
    }
}

#[test]
fn a_smaller_budget_is_kept_after_opening() {
    let disk = MemoryDisk::new();
    let large = Options { budget_bytes: 4 << 20, ..options() };
    let (mut outbox, _) = Journal::open(Box::new(disk.clone()), &large, opening(1)).unwrap();
    for n in 0..300 {
        append(&mut outbox, n * 10 + 1, 10, 1000).unwrap();
    }
    assert_eq!(outbox.pending_losses(), []);
    drop(outbox);
    let (mut outbox, _) = open(&disk, 2);
    assert!(outbox.stats().disk_bytes <= 1 << 20, "{:?}", outbox.stats());
    let lost = outbox.pending_losses();
    assert_eq!((lost.len(), lost[0].first), (1, Seq(1)));
    for n in 0..100 {
        append(&mut outbox, n * 10 + 1, 10, 1000).unwrap();
    }
    assert!(outbox.stats().disk_bytes <= 1 << 20);
}

#[test]
fn an_append_costs_one_sync_and_little_more_than_its_bytes() {
    let disk = MemoryDisk::new();
    let (mut outbox, _) = open(&disk, 1);
    append(&mut outbox, 1, 10, 90).unwrap();
    let before = outbox.stats();
    for n in 1..20 {
        outbox.acknowledge(Epoch(1), Seq(n * 10 - 5), &[]);
        append(&mut outbox, n * 10 + 1, 10, 90).unwrap();
    }
    let after = outbox.stats();
    assert_eq!(after.syncs - before.syncs, 19);
    assert!((after.written_bytes - before.written_bytes) / 19 <= 900 + 10 * 48 + 80, "{after:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the bytes are, opening ends, and gives back nothing that was never written.
    #[test]
    fn opening_survives_any_damage(
        hits in prop::collection::vec((0usize..3, 0usize..66_000, prop::collection::vec(any::<u8>(), 1..600)), 1..12)
    ) {
        let disk = small_outbox();
        for (file, at, noise) in hits {
            let name = ["0000.seg", "0001.seg", "losses"][file];
            let mut bytes = disk.contents(name).unwrap();
            let at = at % bytes.len();
            let end = bytes.len().min(at + noise.len());
            bytes[at..end].copy_from_slice(&noise[..end - at]);
            disk.set_contents(name, &bytes);
        }
        let (mut outbox, _) = open(&disk, 3);
        numbers(&mut outbox);
        let record = NewRecord { kind: 1, at: time(1), from: time(1), catalog: CatalogHash(1), is_essential: false, bytes: b"on we go" };
        prop_assert_eq!(outbox.append(&[record]).unwrap(), Seq(1));
        drop(outbox);
        open(&disk, 4);
    }
}
