//! What every implementation promises, checked against each one: rows of behaviour, no knowledge of the inside.

use gapless_common::id::{BootId, CatalogHash, Epoch, Seq};
use gapless_common::quality::Cause;
use gapless_common::reading::Record;
use gapless_common::time::Timestamp;
use gapless_common::wire::{RecordKind, encode_record};

use super::{
    AppendError, DropPolicy, Found, NewRecord, OpenError, Opening, Options, Outbox, OwedRange, ReadLimits,
    StoredRecord,
};

/// Opens one implementation again and again on the same disk.
pub(super) trait Subject {
    fn open(&mut self, options: &Options, opening: Opening) -> Result<(Box<dyn Outbox>, Found), OpenError>;
}

pub(super) const LIMITS: ReadLimits = ReadLimits { bytes: 1 << 20, records: 1000 };

pub(super) fn opening(epoch: u64) -> Opening {
    Opening { epoch: Epoch(epoch), boot: BootId(77) }
}

pub(super) fn options() -> Options {
    Options { budget_bytes: 1 << 20, ..Options::default() }
}

/// A payload that tells which record it is.
pub(super) fn payload(n: u64, len: usize) -> Vec<u8> {
    let mut bytes = n.to_le_bytes().to_vec();
    bytes.extend(
        (8..len).map(|i| u8::try_from((n.wrapping_mul(31).wrapping_add(i as u64 * 7)) % 251).unwrap()),
    );
    bytes
}

pub(super) fn time(n: u64) -> Timestamp {
    Timestamp(i64::try_from(n).unwrap() * 1000)
}

/// Appends records `from..from + count` of `len` bytes as one batch.
pub(super) fn append(outbox: &mut dyn Outbox, from: u64, count: u64, len: usize) -> Result<Seq, AppendError> {
    let payloads: Vec<_> = (from..from + count).map(|n| payload(n, len)).collect();
    let batch: Vec<_> = (from..)
        .zip(&payloads)
        .map(|(n, bytes)| NewRecord {
            kind: 3,
            at: time(n),
            from: time(n),
            catalog: CatalogHash(5),
            is_essential: false,
            bytes,
        })
        .collect();
    outbox.append(&batch)
}

/// All that is held, by reading run after run.
pub(super) fn read_all(outbox: &mut dyn Outbox) -> Vec<StoredRecord> {
    let mut all = Vec::new();
    for held in outbox.held() {
        let mut from = held.first;
        loop {
            let before = all.len();
            outbox.read(held.epoch, from, LIMITS, &mut all).unwrap();
            let Some(last) = all[before..].last() else { break };
            from = last.seq.next();
        }
    }
    all
}

fn seqs(records: &[StoredRecord]) -> Vec<(u64, u64)> {
    records.iter().map(|r| (r.epoch.0, r.seq.0)).collect()
}

/// The whole suite.
pub(super) fn check(mut make: impl FnMut() -> Box<dyn Subject>) {
    records_keep_their_place_for_ever(make().as_mut());
    reading_respects_limits_and_catalogs(make().as_mut());
    acknowledgements_move_both_ways(make().as_mut());
    the_oldest_go_and_leave_a_loss(make().as_mut());
    a_loss_is_told_again_where_its_record_goes(make().as_mut(), false);
    a_loss_is_told_again_where_its_record_goes(make().as_mut(), true);
    the_archive_goes_before_what_is_owed(make().as_mut());
    the_newest_are_refused_by_policy(make().as_mut());
    what_is_essential_is_never_refused(make().as_mut());
    an_exhausted_reserve_costs_the_oldest(make().as_mut());
    a_goodbye_is_told_from_a_crash(make().as_mut());
    impossible_records_are_refused(make().as_mut());
    catalogs_are_kept(make().as_mut());
}

fn records_keep_their_place_for_ever(subject: &mut dyn Subject) {
    let (mut outbox, found) = subject.open(&options(), opening(10)).unwrap();
    assert_eq!(found, Found::default());
    assert_eq!(outbox.held().len(), 1);
    assert_eq!(outbox.held()[0].next, Seq(1));
    assert_eq!(append(outbox.as_mut(), 1, 3, 100).unwrap(), Seq(3));
    assert_eq!(append(outbox.as_mut(), 4, 2, 900).unwrap(), Seq(5));
    let before = read_all(outbox.as_mut());
    drop(outbox);
    let (mut outbox, found) = subject.open(&options(), opening(9)).unwrap();
    assert_eq!(found.previous, Some((Epoch(10), Seq(6))));
    assert_eq!(found.last_durable_at, Some(time(5)));
    assert_eq!((found.clean_stop, found.boot), (false, Some(BootId(77))));
    assert_eq!(append(outbox.as_mut(), 6, 1, 50).unwrap(), Seq(1));
    let after = read_all(outbox.as_mut());
    assert_eq!(after[..5], before);
    assert_eq!(seqs(&after), [(10, 1), (10, 2), (10, 3), (10, 4), (10, 5), (9, 1)]);
    for (n, record) in (1..).zip(&after) {
        assert_eq!(*record.bytes, payload(n, record.bytes.len()));
        assert_eq!((record.at, record.kind, record.catalog), (time(n), 3, CatalogHash(5)));
    }
    drop(outbox);
    assert!(matches!(subject.open(&options(), opening(10)), Err(OpenError::EpochUsed(Epoch(10)))));
}

fn reading_respects_limits_and_catalogs(subject: &mut dyn Subject) {
    let (mut outbox, _) = subject.open(&options(), opening(1)).unwrap();
    append(outbox.as_mut(), 1, 5, 100).unwrap();
    let other = NewRecord {
        kind: 1,
        at: time(6),
        from: time(6),
        catalog: CatalogHash(6),
        is_essential: false,
        bytes: b"x",
    };
    outbox.append(&[other, other]).unwrap();
    let rows = [
        (1, 1000, 2, 1..=2),
        (1, 250, 99, 1..=2),
        (1, 1, 99, 1..=1),
        (3, 9999, 99, 3..=5),
        (6, 9999, 99, 6..=7),
        (7, 9999, 99, 7..=7),
    ];
    for (from, bytes, records, expected) in rows {
        let mut out = Vec::new();
        outbox.read(Epoch(1), Seq(from), ReadLimits { bytes, records }, &mut out).unwrap();
        let expected: Vec<_> = expected.map(|n| (1, n)).collect();
        assert_eq!(seqs(&out), expected, "from {from}, {bytes} bytes, {records} records");
    }
    let mut out = Vec::new();
    outbox.read(Epoch(1), Seq(8), LIMITS, &mut out).unwrap();
    outbox.read(Epoch(2), Seq(1), LIMITS, &mut out).unwrap();
    assert!(out.is_empty());
    assert_eq!(outbox.catalogs_held(), [CatalogHash(5), CatalogHash(6)].into());
}

fn owed(first: u64, last: u64) -> OwedRange {
    OwedRange { epoch: Epoch(1), first: Seq(first), last: Seq(last) }
}

fn acknowledgements_move_both_ways(subject: &mut dyn Subject) {
    let (mut outbox, _) = subject.open(&options(), opening(1)).unwrap();
    append(outbox.as_mut(), 1, 10, 100).unwrap();
    assert_eq!(outbox.owed(), [owed(1, 10)]);
    outbox.acknowledge(Epoch(1), Seq(3), &[(Seq(6), Seq(7))]);
    assert_eq!(outbox.owed(), [owed(4, 5), owed(8, 10)]);
    assert_eq!(outbox.stats().owed_records, 5);
    assert_eq!(read_all(outbox.as_mut()).len(), 10, "the archive is readable");
    append(outbox.as_mut(), 11, 1, 10).unwrap();
    drop(outbox);
    let (mut outbox, _) = subject.open(&options(), opening(2)).unwrap();
    assert_eq!(outbox.owed(), [owed(4, 5), owed(8, 11)], "the cursor came with the append");
    outbox.unacknowledge(Epoch(1), Seq(2));
    assert_eq!(outbox.owed(), [owed(3, 11)]);
    append(outbox.as_mut(), 12, 1, 10).unwrap();
    drop(outbox);
    let (outbox, _) = subject.open(&options(), opening(3)).unwrap();
    assert_eq!(outbox.owed()[0], owed(3, 11));
}

/// Appends until something is lost; returns the number of the last record.
fn fill(outbox: &mut dyn Outbox) -> u64 {
    let mut n = 0;
    while outbox.pending_losses().is_empty() {
        append(outbox, n + 1, 10, 500).unwrap();
        n += 10;
        assert!(outbox.stats().disk_bytes <= 1 << 20, "beyond the budget");
        assert!(n < 10_000, "nothing was ever dropped");
    }
    n
}

fn the_oldest_go_and_leave_a_loss(subject: &mut dyn Subject) {
    let (mut outbox, _) = subject.open(&options(), opening(1)).unwrap();
    let last = fill(outbox.as_mut());
    let lost = outbox.pending_losses();
    assert_eq!(lost.len(), 1);
    assert_eq!((lost[0].first, lost[0].cause), (Seq(1), Cause::BudgetFull));
    assert_eq!((lost[0].from, lost[0].to), (time(1), time(lost[0].last.0)));
    assert_eq!(outbox.held()[0].first, lost[0].last.next());
    assert!(outbox.stats().held_records > 1000, "{:?}", outbox.stats());
    drop(outbox);
    let (mut outbox, found) = subject.open(&options(), opening(2)).unwrap();
    assert_eq!(found.previous, Some((Epoch(1), Seq(last + 1))));
    assert_eq!(outbox.pending_losses(), lost, "a crash only repeats it");
    append(outbox.as_mut(), 1, 1, 100).unwrap();
    outbox.losses_recorded(&lost).unwrap();
    assert_eq!(outbox.pending_losses(), []);
    drop(outbox);
    let (mut outbox, _) = subject.open(&options(), opening(8)).unwrap();
    assert_eq!(outbox.pending_losses(), lost, "forgotten in a crash, it is told of again");
    outbox.losses_recorded(&lost).unwrap();
    append(outbox.as_mut(), 2, 1, 100).unwrap();
    drop(outbox);
    let (outbox, found) = subject.open(&options(), opening(3)).unwrap();
    assert_eq!(outbox.pending_losses(), []);
    assert_eq!(found.report, super::RecoveryReport::default());
    assert_eq!(outbox.held()[0].first, lost[0].last.next());
}

/// An outage goes on: the record that tells of the first loss is itself lost before anyone has it, unless it `has_arrived`.
fn a_loss_is_told_again_where_its_record_goes(subject: &mut dyn Subject, has_arrived: bool) {
    let (mut outbox, _) = subject.open(&options(), opening(1)).unwrap();
    fill(outbox.as_mut());
    let lost = outbox.pending_losses();
    let bytes = encode_record(&Record::Loss(lost[0]));
    let (at, kind) = (time(1), RecordKind::Loss as u8);
    let word = NewRecord { kind, at, from: at, catalog: CatalogHash(5), is_essential: true, bytes: &bytes };
    let told = outbox.append(&[word]).unwrap();
    outbox.losses_recorded(&lost).unwrap();
    if has_arrived {
        outbox.acknowledge(Epoch(1), Seq(0), &[(told, told)]);
    }
    while outbox.held()[0].first <= told {
        append(outbox.as_mut(), 1, 10, 500).unwrap();
    }
    let pending = outbox.pending_losses();
    drop(outbox);
    let (outbox, _) = subject.open(&options(), opening(2)).unwrap();
    assert_eq!(outbox.pending_losses(), pending);
    let is_told = pending.iter().any(|loss| loss.first <= lost[0].first && loss.last >= lost[0].last);
    assert_eq!(is_told, !has_arrived, "{pending:?}");
}

fn the_archive_goes_before_what_is_owed(subject: &mut dyn Subject) {
    let (mut outbox, _) = subject.open(&options(), opening(1)).unwrap();
    for n in 0..300 {
        append(outbox.as_mut(), n * 10 + 1, 10, 500).unwrap();
        // Live first: what is new is acknowledged, the first hundred records wait.
        outbox.acknowledge(Epoch(1), Seq(0), &[(Seq(101), Seq(n * 10 + 1))]);
    }
    assert_eq!(outbox.pending_losses(), []);
    assert_eq!(outbox.owed()[0], owed(1, 100));
    assert_eq!(outbox.held()[0].first, Seq(1));
    assert!(outbox.stats().disk_bytes <= 1 << 20);
    drop(outbox);
    let (mut outbox, found) = subject.open(&options(), opening(2)).unwrap();
    assert_eq!(outbox.pending_losses(), [], "what was acknowledged is no loss");
    assert_eq!(found.report, super::RecoveryReport::default());
    let mut out = Vec::new();
    outbox.read(Epoch(1), Seq(1), LIMITS, &mut out).unwrap();
    assert!(out.len() >= 100);
}

fn the_newest_are_refused_by_policy(subject: &mut dyn Subject) {
    let options = Options { policy: DropPolicy::NewestFirst, ..options() };
    let (mut outbox, _) = subject.open(&options, opening(1)).unwrap();
    let mut n = 0;
    let (first, last) = loop {
        match append(outbox.as_mut(), n + 1, 10, 500) {
            Ok(_) => n += 10,
            Err(AppendError::Refused { first, last }) => break (first, last),
            Err(e) => panic!("{e}"),
        }
        assert!(n < 10_000);
    };
    assert_eq!(last, Seq(n + 10));
    assert!(first.0 > n);
    assert!(outbox.stats().disk_bytes <= 1 << 20);
    assert!(matches!(append(outbox.as_mut(), n + 11, 1, 500), Err(AppendError::Refused { .. })));
    let lost = outbox.pending_losses();
    assert_eq!((lost.len(), lost[0].first, lost[0].last), (1, first, Seq(n + 11)));
    assert_eq!(outbox.held()[0].first, Seq(1));
    outbox.acknowledge(Epoch(1), Seq(n), &[]);
    assert_eq!(append(outbox.as_mut(), n + 12, 1, 500).unwrap(), Seq(n + 12));
    drop(outbox);
    let (outbox, found) = subject.open(&options, opening(2)).unwrap();
    assert_eq!(found.previous, Some((Epoch(1), Seq(n + 13))));
    assert_eq!(outbox.pending_losses(), lost);
    assert_eq!(found.report.quarantined_records, 0, "refused is not damaged");
}

/// A record of which `n` is told again by its time and its bytes.
fn essential(bytes: &[u8], n: u64) -> NewRecord<'_> {
    NewRecord { kind: 1, at: time(n), from: time(n), catalog: CatalogHash(5), is_essential: true, bytes }
}

/// Opens under the policy that refuses, and appends until it does; returns the number of the last record stored.
fn fill_until_refused(outbox: &mut dyn Outbox) -> u64 {
    let mut n = 0;
    loop {
        match append(outbox, n + 1, 10, 500) {
            Ok(_) => n += 10,
            Err(AppendError::Refused { first, .. }) => return first.0 - 1,
            Err(e) => panic!("{e}"),
        }
        assert!(n < 10_000, "nothing was ever refused");
    }
}

fn what_is_essential_is_never_refused(subject: &mut dyn Subject) {
    let options = Options { policy: DropPolicy::NewestFirst, ..options() };
    let (mut outbox, _) = subject.open(&options, opening(1)).unwrap();
    let stored = fill_until_refused(outbox.as_mut());
    let lost_before = outbox.pending_losses();
    // Refused and taken in one batch: a reading, a catalog, two readings, a loss.
    let (reading, catalog, loss) = (payload(7, 600), payload(8, 2000), payload(9, 40));
    let ordinary = NewRecord { is_essential: false, ..essential(&reading, 7) };
    let batch = [ordinary, essential(&catalog, 8), ordinary, ordinary, essential(&loss, 9)];
    let at = outbox.next_seq();
    let refused = outbox.append(&batch);
    let Err(AppendError::Refused { first, last }) = refused else { panic!("{refused:?}") };
    assert_eq!((first, last), (at, Seq(at.0 + 4)));
    let mut out = Vec::new();
    outbox.read(Epoch(1), at, LIMITS, &mut out).unwrap();
    outbox.read(Epoch(1), Seq(at.0 + 2), LIMITS, &mut out).unwrap();
    assert_eq!(seqs(&out), [(1, at.0 + 1), (1, at.0 + 4)]);
    assert_eq!((&*out[0].bytes, &*out[1].bytes), (&catalog[..], &loss[..]));
    let names_it = |n: u64| outbox.pending_losses().iter().any(|l| l.first.0 <= n && n <= l.last.0);
    assert_eq!([0, 1, 2, 3, 4].map(|i| names_it(at.0 + i)), [true, false, true, true, false]);
    assert!(names_it(lost_before[0].first.0));
    drop(outbox);
    // Each restart brings a start, a loss record and the catalog.
    for epoch in 2..6 {
        let (mut outbox, found) = subject.open(&options, opening(epoch)).unwrap();
        assert_eq!(found.report.quarantined_records, 0, "refused is not damaged");
        let losses = outbox.pending_losses();
        let batch = [essential(&loss, 1), essential(&catalog, 2), essential(&loss, 3)];
        assert_eq!(outbox.append(&batch).unwrap(), Seq(3));
        outbox.losses_recorded(&losses).unwrap();
        assert!(matches!(append(outbox.as_mut(), 1, 2, 500), Err(AppendError::Refused { .. })));
        assert_eq!(outbox.held()[0].first, Seq(1), "the oldest are kept");
        assert_eq!(outbox.owed()[0], owed(1, stored));
        assert!(outbox.stats().disk_bytes <= 1 << 20);
        outbox.close(time(100)).unwrap();
    }
    let (_, found) = subject.open(&options, opening(6)).unwrap();
    assert_eq!((found.clean_stop, found.report.quarantined_records), (true, 0));
}

fn an_exhausted_reserve_costs_the_oldest(subject: &mut dyn Subject) {
    let options = Options { policy: DropPolicy::NewestFirst, ..options() };
    let (mut outbox, _) = subject.open(&options, opening(1)).unwrap();
    fill_until_refused(outbox.as_mut());
    let bytes = payload(1, 2000);
    let mut appended = 0;
    while outbox.held()[0].first == Seq(1) {
        outbox.append(&[essential(&bytes, 1)]).unwrap();
        appended += 1;
        assert!(appended < 1000, "nothing was ever given up");
    }
    assert!(appended > 2, "there was no reserve");
    let lost = outbox.pending_losses();
    assert_eq!((lost[0].first, lost[0].last.next()), (Seq(1), outbox.held()[0].first));
    assert!(append(outbox.as_mut(), 1, 1, 500).is_ok(), "what was given up makes room");
    assert!(outbox.stats().disk_bytes <= 1 << 20);
}

fn a_goodbye_is_told_from_a_crash(subject: &mut dyn Subject) {
    let (mut outbox, _) = subject.open(&options(), opening(1)).unwrap();
    append(outbox.as_mut(), 1, 1, 10).unwrap();
    outbox.close(time(9)).unwrap();
    drop(outbox);
    let (mut outbox, found) = subject.open(&options(), opening(2)).unwrap();
    assert_eq!((found.clean_stop, found.last_durable_at), (true, Some(time(9))));
    append(outbox.as_mut(), 12, 1, 10).unwrap();
    drop(outbox);
    let (_, found) = subject.open(&options(), opening(3)).unwrap();
    assert_eq!((found.clean_stop, found.last_durable_at), (false, Some(time(12))));
}

fn impossible_records_are_refused(subject: &mut dyn Subject) {
    let (mut outbox, _) = subject.open(&options(), opening(1)).unwrap();
    let e = append(outbox.as_mut(), 1, 1, 1 << 20).unwrap_err();
    assert!(matches!(e, AppendError::TooLarge { .. }) && e.is_usable());
    let AppendError::TooLarge { max, .. } = e else { panic!("{e}") };
    assert_eq!(append(outbox.as_mut(), 1, 3, max).unwrap(), Seq(3));
    assert_eq!(append(outbox.as_mut(), 4, 500, 700).unwrap(), Seq(503), "longer than a segment");
    assert_eq!(outbox.append(&[]).unwrap(), Seq(503));
    let all = read_all(outbox.as_mut());
    assert_eq!(all.len(), 503);
    for (n, record) in (1..).zip(&all) {
        assert_eq!(*record.bytes, payload(n, record.bytes.len()), "{n}");
    }
}

fn catalogs_are_kept(subject: &mut dyn Subject) {
    let (mut outbox, _) = subject.open(&options(), opening(1)).unwrap();
    let mut catalogs = outbox.catalogs();
    catalogs.put(CatalogHash(1), b"one").unwrap();
    catalogs.put(CatalogHash(2), b"two").unwrap();
    catalogs.put(CatalogHash(2), b"two").unwrap();
    drop(outbox);
    let (mut outbox, _) = subject.open(&options(), opening(2)).unwrap();
    let mut catalogs = outbox.catalogs();
    assert_eq!(catalogs.list().unwrap(), [CatalogHash(1), CatalogHash(2)]);
    assert_eq!(catalogs.get(CatalogHash(2)).unwrap().unwrap(), b"two");
    catalogs.retain(&[CatalogHash(2)].into()).unwrap();
    assert_eq!(catalogs.list().unwrap(), [CatalogHash(2)]);
    assert_eq!(catalogs.get(CatalogHash(1)).unwrap(), None);
}
