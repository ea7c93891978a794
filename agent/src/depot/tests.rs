//! The depot on a disk that fails: readings go on in memory, and are taken along when the disk is back.

use gapless_common::id::ChannelIndex;
use gapless_common::id::DeviceIndex;
use gapless_common::quality::Quality;
use gapless_common::reading::{Acquired, Readings, Sample, Value};
use gapless_common::time::{Interval, Slot};

use gapless_common::quality::Cause;
use gapless_common::reading::{Loss, Misses};
use gapless_common::wire::{RecordKind, decode_record, encode_catalog, encode_record, record_kind};

use super::catalogs::KEEP_AGAIN_MS;
use super::migrate::not_kept;
use super::*;
use crate::outbox::memory_disk::{MemoryDisk, PowerCut};
use crate::outbox::{Disk as _, Journal, Options};

const CATALOG: CatalogHash = CatalogHash(7);

fn now(boot_ms: u64) -> Now {
    Now { boot_ms, wall: Timestamp(1_000_000 + i64::try_from(boot_ms).unwrap()), wall_set: true }
}

fn opener(disk: &MemoryDisk, options: Options) -> Opener {
    let disk = disk.clone();
    Box::new(move |opening| {
        let (journal, found) = Journal::open(Box::new(disk.clone()), &options, opening)?;
        Ok(Opened { outbox: Box::new(journal), found })
    })
}

fn open(disk: &MemoryDisk) -> Depot {
    open_with(disk, Options { budget_bytes: 1 << 20, ..Options::default() })
}

fn open_with(disk: &MemoryDisk, options: Options) -> Depot {
    let identity = Identity { boot: BootId(1), catalog: CATALOG, catalog_bytes: Box::new([1, 2, 3]) };
    let mut depot = Depot::open(identity, opener(disk, options), Arc::new(getrandom::u64), now(0)).unwrap();
    assert_eq!(depot.take_downtime(now(0)), None, "the clock is set, so the downtime is dated at once");
    depot
}

fn readings(slot: i64) -> Record {
    Record::Readings(Readings {
        device: DeviceIndex(0),
        acquired: Acquired::InSlot(Slot(slot)),
        at: Timestamp(slot * 1_000),
        samples: vec![Sample {
            channel: ChannelIndex(0),
            value: Some(Value::Number(1.5)),
            quality: Quality::Good,
        }],
    })
}

/// Everything that can be read, in order.
fn all(depot: &mut Depot) -> Vec<(Epoch, Record)> {
    stored(depot).into_iter().map(|r| (r.epoch, decode_record(&r.bytes).unwrap())).collect()
}

fn stored(depot: &mut Depot) -> Vec<StoredRecord> {
    let mut records = Vec::new();
    for held in depot.readable() {
        let mut next = held.first;
        while next < held.next {
            let mut some = Vec::new();
            let limits = ReadLimits { bytes: 1 << 16, records: 100 };
            depot.read(held.epoch, next, limits, &mut some).unwrap();
            let Some(last) = some.last().map(|record| record.seq) else { break };
            records.extend(some);
            next = last.next();
        }
    }
    records
}

fn slots(records: &[(Epoch, Record)]) -> Vec<i64> {
    let slot = |record: &Record| match record {
        Record::Readings(Readings { acquired: Acquired::InSlot(slot), .. }) => Some(slot.0),
        _ => None,
    };
    records.iter().filter_map(|(_, record)| slot(record)).collect()
}

/// Epoch, the end of the one before, durable.
type StartSeen = (Epoch, Option<(Epoch, Seq)>, bool);

fn starts(records: &[(Epoch, Record)]) -> Vec<StartSeen> {
    let start = |(epoch, record): &(Epoch, Record)| match record {
        Record::Start(start) => Some((*epoch, start.previous, start.durable)),
        _ => None,
    };
    records.iter().filter_map(start).collect()
}

#[test]
fn an_epoch_opens_with_start_downtime_and_catalog() {
    let disk = MemoryDisk::new();
    let mut depot = open(&disk);
    depot.commit(now(1)).unwrap();
    depot.close(Timestamp(900_000)).unwrap();
    drop(depot);
    let mut depot = open(&disk);
    depot.commit(now(1)).unwrap();
    let kinds: Vec<RecordKind> = all(&mut depot).iter().map(|(_, record)| record_kind(record)).collect();
    let (start, catalog) = (RecordKind::Start, RecordKind::Catalog);
    assert_eq!(kinds, [start, catalog, start, RecordKind::Downtime, catalog]);
}

#[test]
fn a_failed_disk_costs_no_reading() {
    let disk = MemoryDisk::new();
    let mut depot = open(&disk);
    depot.gather(&readings(1), Timestamp(1));
    assert!(!depot.commit(now(10)).unwrap().held_changed);
    let (disk_epoch, _) = depot.position();

    disk.die_at(disk.operations());
    depot.gather(&readings(2), Timestamp(2));
    assert!(depot.commit(now(20)).unwrap().held_changed);
    assert!(depot.failure().is_some());
    let (memory_epoch, _) = depot.position();
    assert_ne!(memory_epoch, disk_epoch);
    depot.gather(&readings(3), Timestamp(3));
    depot.commit(now(30)).unwrap();
    assert_eq!(depot.held().len(), 2, "the failed disk's epoch is still the agent's");

    assert!(!depot.retry(now(6_000)).unwrap(), "the disk is still dead");
    assert!(depot.retry_at_ms().unwrap() > 6_000 + 5_000, "the wait grows");
    assert_eq!((depot.held().len(), depot.readable().len()), (2, 1));
    let memory = all(&mut depot);
    assert_eq!(slots(&memory), [2, 3]);
    assert_eq!(starts(&memory), [(memory_epoch, None, false)]);
    // The start and the catalog of the epoch in memory have arrived.
    depot.acknowledge(memory_epoch, Seq(1), Seq(2));

    disk.restart(PowerCut::KeepNothing, 1);
    depot.gather(&readings(4), Timestamp(4));
    assert!(depot.retry(now(20_000)).unwrap());
    depot.commit(now(20_001)).unwrap();
    assert!(depot.failure().is_none());
    let records = all(&mut depot);
    assert_eq!(slots(&records), [1, 2, 3, 4]);
    let last = starts(&records).pop().unwrap();
    assert_eq!((last.1.map(|(epoch, _)| epoch), last.2), (Some(disk_epoch), true), "memory is in no chain");
    let losses: Vec<Loss> =
        records.iter().filter_map(|(_, r)| if let Record::Loss(l) = r { Some(*l) } else { None }).collect();
    let lost: Vec<_> = losses.iter().map(|l| (l.epoch, l.first, l.last, l.cause)).collect();
    // The first is what a database that is put back will miss; the second was written again, and has no time.
    let expected = [(memory_epoch, Seq(1), Seq(2)), (memory_epoch, Seq(3), Seq(4))];
    assert_eq!(lost, expected.map(|(epoch, first, last)| (epoch, first, last, Cause::DiskFailed)));
    assert_eq!(losses.iter().map(|l| l.from <= l.to).collect::<Vec<_>>(), [true, false]);
    assert_eq!(depot.held().len(), 2, "nothing is held in memory any more");
}

#[test]
fn catalogs_that_were_in_force_without_a_disk_are_taken_along() {
    let disk = MemoryDisk::new();
    let mut depot = open(&disk);
    depot.commit(now(1)).unwrap();
    disk.die_at(disk.operations());
    let others = [(CatalogHash(8), [8; 4]), (CatalogHash(9), [9; 4]), (CatalogHash(10), [10; 4])];
    for (slot, (hash, bytes)) in (1..).zip(others) {
        depot.change_catalog(hash, bytes.into(), now(10));
        depot.gather(&readings(slot), Timestamp(slot));
        depot.commit(now(20)).unwrap();
    }
    assert!(depot.failure().is_some());
    assert!(depot.catalog(CatalogHash(8)).is_some(), "the one under which the disk failed");

    disk.restart(PowerCut::KeepNothing, 1);
    assert!(depot.retry(now(20_000)).unwrap());
    let told = stored(&mut depot);
    for (slot, (hash, bytes)) in (1..).zip(others) {
        let record = encode_record(&readings(slot));
        let stored = told.iter().find(|r| *r.bytes == record[..]).unwrap();
        assert_eq!(stored.catalog, hash);
        assert_eq!(depot.catalog(hash).as_deref(), Some(&bytes[..]), "{hash}");
    }
}

#[test]
fn an_agent_starts_without_a_disk() {
    let disk = MemoryDisk::new();
    let mut depot = open(&disk);
    depot.commit(now(1)).unwrap();
    let before = depot.position();
    depot.close(Timestamp(900_000)).unwrap();
    drop(depot);

    disk.die_at(disk.operations());
    let mut depot = open(&disk);
    depot.gather(&readings(1), Timestamp(1));
    depot.commit(now(10)).unwrap();
    assert!(depot.failure().is_some());
    assert_eq!(starts(&all(&mut depot)), [(depot.position().0, None, false)]);

    disk.restart(PowerCut::KeepNothing, 1);
    assert!(depot.retry(now(6_000)).unwrap());
    depot.commit(now(6_001)).unwrap();
    let records = all(&mut depot);
    assert_eq!(slots(&records), [1]);
    assert_eq!(starts(&records).pop(), Some((depot.position().0, Some(before), true)));
    let downtimes: Vec<Downtime> = records
        .iter()
        .filter_map(|(_, r)| if let Record::Downtime(d) = r { Some(*d) } else { None })
        .collect();
    let stopped = Downtime { from: Timestamp(900_000), to: now(0).wall, cause: Cause::Stopped };
    assert_eq!(downtimes, [stopped], "up to the start, not to the return of the disk");
}

/// The clock has stepped by a year since: that of the return would say that nothing was due before it.
#[test]
fn slots_are_due_since_the_catalog_came_into_force_wherever_it_is_written() {
    let disk = MemoryDisk::new();
    disk.fail_syncs(true);
    let mut depot = open(&disk);
    depot.commit(now(1)).unwrap();
    assert!(depot.failure().is_some());
    disk.fail_syncs(false);
    let stepped = |boot_ms| Now { wall: now(boot_ms).wall.plus_ms(365 * 86_400_000), ..now(boot_ms) };
    assert!(depot.retry(stepped(6_000)).unwrap());
    depot.commit(stepped(6_001)).unwrap();
    let since = |(_, record): &(Epoch, Record)| match record {
        Record::Catalog(catalog) => Some(catalog.since),
        _ => None,
    };
    assert_eq!(all(&mut depot).iter().filter_map(since).collect::<Vec<_>>(), [Some(now(0).wall)]);
    depot.change_catalog(CatalogHash(8), Box::new([1]), stepped(7_000));
    depot.commit(stepped(7_001)).unwrap();
    let last = all(&mut depot).iter().filter_map(since).next_back();
    assert_eq!(last, Some(Some(stepped(7_000).wall)), "another catalog is another begin");
}

/// The collector has taken all that was kept in memory. The downtime counts by its place in the chain, where memory has
/// none; and if the database is put back, readings that are no more are told as such.
#[test]
fn what_memory_told_before_the_disk_was_back_is_told_again_where_it_counts() {
    let disk = MemoryDisk::new();
    let mut depot = open(&disk);
    depot.commit(now(1)).unwrap();
    depot.close(Timestamp(900_000)).unwrap();
    drop(depot);

    let mut depot = open(&disk);
    disk.die_at(disk.operations());
    depot.gather(&readings(1), Timestamp(1_001_000));
    depot.gather(&readings(2), Timestamp(1_002_000));
    depot.commit(now(2_000)).unwrap();
    let (memory, next) = depot.position();
    depot.stop_reading();
    let told = all(&mut depot);
    assert!(told.iter().any(|(epoch, r)| *epoch == memory && matches!(r, Record::Downtime(_))));
    depot.acknowledge(memory, Seq(1), Seq(next.0 - 1));

    disk.restart(PowerCut::KeepNothing, 1);
    assert!(depot.retry(now(6_000)).unwrap());
    let records = all(&mut depot);
    assert_eq!(slots(&records), Vec::<i64>::new(), "the collector has them");
    let of_disk: Vec<_> = records.into_iter().filter(|(epoch, _)| *epoch == depot.position().0).collect();
    let stopped = Downtime { from: Timestamp(900_000), to: now(0).wall, cause: Cause::Stopped };
    assert!(of_disk.iter().any(|(_, r)| *r == Record::Downtime(stopped)), "{of_disk:?}");
    let loss =
        of_disk.iter().find_map(|(_, r)| if let Record::Loss(l) = r { Some(*l) } else { None }).unwrap();
    assert_eq!((loss.epoch, loss.first, loss.last), (memory, Seq(1), Seq(next.0 - 1)));
    assert!(loss.from <= Timestamp(1_001_000) && loss.to >= Timestamp(1_002_000), "{loss:?}");
}

/// What memory had delivered is told as gone before anything declares its slots: the power may go between the two. A logger's
/// clock may be ahead of the gateway's.
#[test]
fn what_memory_told_is_told_as_gone_before_its_slots_are_declared() {
    let declared = Record::Complete(gapless_common::reading::Completeness {
        through: vec![(DeviceIndex(0), Slot(9_000))],
    });
    let mut cut_between = 0;
    for operations in 0_u64.. {
        let disk = MemoryDisk::new();
        let mut depot = open(&disk);
        depot.commit(now(1)).unwrap();
        disk.set_read_only(true);
        depot.gather(&readings(9_000), Timestamp(1_001_000));
        depot.commit(now(10)).unwrap();
        let (memory, next) = depot.position();
        depot.stop_reading();
        depot.acknowledge(memory, Seq(1), Seq(next.0 - 1));
        depot.gather(&declared, Timestamp(1_002_000));
        depot.commit(now(20)).unwrap();
        disk.set_read_only(false);
        disk.die_at(disk.operations() + operations);
        if depot.retry(now(6_000)).unwrap() {
            break;
        }
        drop(depot);
        disk.restart(PowerCut::KeepAll, 1);
        let records = all(&mut open(&disk));
        let is_gone = records.iter().any(|(_, record)| match record {
            Record::Loss(loss) => loss.epoch == memory && loss.to >= Timestamp(9_000_000),
            _ => false,
        });
        let is_declared = records.iter().any(|(_, record)| *record == declared);
        assert!(is_gone || !is_declared, "{operations} operations: {records:?}");
        cut_between += u32::from(is_gone && !is_declared);
    }
    assert!(cut_between > 0, "no attempt was cut where it matters");
}

/// A run of misses is written long after its first slot, perhaps after the disk had failed: the loss says from when on its
/// slots are missing, and no slot more.
#[test]
fn what_memory_gave_up_is_lost_from_the_first_slot_that_it_spoke_of() {
    let (disk, options) = (MemoryDisk::new(), Options { budget_bytes: 1 << 20, ..Options::default() });
    let device = gapless_common::catalog::Device {
        id: gapless_common::id::DeviceId::new("meter").unwrap(),
        grid: SlotGrid::every(Interval::from_ms(1_000).unwrap()),
        paused: false,
        channels: Vec::new(),
        attributes: std::collections::BTreeMap::new(),
    };
    let grid = device.grid;
    let catalog = gapless_common::catalog::Catalog { devices: vec![device] };
    let (hash, bytes) = encode_catalog(&catalog);
    let identity = Identity { boot: BootId(1), catalog: hash, catalog_bytes: bytes };
    let mut depot = Depot::open(identity, opener(&disk, options), Arc::new(getrandom::u64), now(0)).unwrap();
    depot.commit(now(1)).unwrap();
    disk.die_at(disk.operations());
    let run = Misses { device: DeviceIndex(0), first: Slot(1_003), count: 60, cause: Cause::NoAnswer };
    depot.gather(&Record::Misses(run), now(63_000).wall);
    depot.commit(now(64_000)).unwrap();
    let (memory, next) = depot.position();
    depot.stop_reading();
    depot.acknowledge(memory, Seq(1), Seq(next.0 - 1));

    disk.restart(PowerCut::KeepNothing, 1);
    assert!(depot.retry(now(70_000)).unwrap());
    let loss = |record| if let Record::Loss(loss) = record { Some(loss) } else { None };
    let losses: Vec<Loss> = all(&mut depot).into_iter().filter_map(|(_, record)| loss(record)).collect();
    let [loss] = losses[..] else { panic!("one of memory: {losses:?}") };
    assert_eq!((loss.epoch, grid.slot_at(loss.from)), (memory, run.first), "{loss:?}");
}

/// Of memory the downtime is acknowledged and the declaration after it is not: on the disk they stand in that order,
/// or the declaration would find slots that nothing explains.
#[test]
fn what_is_told_again_stands_before_what_is_still_owed() {
    let disk = MemoryDisk::new();
    let mut depot = open(&disk);
    depot.commit(now(1)).unwrap();
    depot.close(Timestamp(900_000)).unwrap();
    drop(depot);

    let mut depot = open(&disk);
    disk.die_at(disk.operations());
    depot.commit(now(2_000)).unwrap();
    let (memory, next) = depot.position();
    depot.stop_reading();
    depot.acknowledge(memory, Seq(1), Seq(next.0 - 1));
    let complete = Record::Complete(gapless_common::reading::Completeness::default());
    depot.gather(&complete, Timestamp(1_003_000));
    depot.commit(now(3_000)).unwrap();

    disk.restart(PowerCut::KeepNothing, 1);
    assert!(depot.retry(now(6_000)).unwrap());
    let of_disk = all(&mut depot).into_iter().filter(|(epoch, _)| *epoch == depot.position().0);
    let records: Vec<Record> = of_disk.map(|(_, record)| record).collect();
    let place = |wanted: fn(&Record) -> bool| records.iter().position(wanted).unwrap();
    let downtime = place(|r| matches!(r, Record::Downtime(_)));
    assert!(downtime < place(|r| matches!(r, Record::Complete(_))), "{records:?}");
}

#[test]
fn an_epoch_without_a_durable_record_never_was() {
    let disk = MemoryDisk::new();
    let mut depot = open(&disk);
    depot.commit(now(1)).unwrap();
    let before = depot.position();
    drop(depot);

    let mut depot = open(&disk);
    disk.die_at(disk.operations());
    depot.gather(&readings(1), Timestamp(1));
    assert!(depot.commit(now(10)).unwrap().held_changed);
    let memory = depot.position().0;
    let held: Vec<Epoch> = depot.held().iter().map(|held| held.epoch).collect();
    assert_eq!(held, [before.0, memory]);
    depot.stop_reading();
    assert_eq!(starts(&all(&mut depot)), [(memory, None, false)], "no start of an epoch that never was");

    disk.restart(PowerCut::KeepNothing, 1);
    assert!(depot.retry(now(6_000)).unwrap());
    let records = all(&mut depot);
    assert_eq!(slots(&records), [1]);
    assert_eq!(starts(&records).pop(), Some((depot.position().0, Some(before), true)));
}

#[test]
fn readings_by_the_boot_clock_are_corrected_wherever_they_are_copied() {
    let disk = MemoryDisk::new();
    let mut depot = open(&disk);
    let marked = |depot: &mut Depot| {
        let marked: Vec<Epoch> = depot.take_corrections(now(20)).iter().map(|made| made.epoch).collect();
        (marked.contains(&depot.position().0), depot.has_unset_epochs())
    };
    depot.commit(now(1)).unwrap();
    assert_eq!(marked(&mut depot), (false, false));
    depot.mark_unset();
    assert_eq!(marked(&mut depot), (true, false), "told once");
    disk.die_at(disk.operations());
    depot.gather(&readings(1), Timestamp(1));
    depot.commit(now(10)).unwrap();
    assert_eq!(marked(&mut depot), (true, false), "in memory");
    disk.restart(PowerCut::KeepNothing, 1);
    assert!(depot.retry(now(6_000)).unwrap());
    assert_eq!(marked(&mut depot), (true, false), "on the disk again");
}

/// The collector may have a reading from memory and from the disk: its instant must be one. Between the two corrections the
/// wall clock has gained on the boot clock.
#[test]
fn a_reading_by_the_boot_clock_has_one_instant_wherever_it_is_copied() {
    let disk = MemoryDisk::new();
    let mut depot = open(&disk);
    disk.set_read_only(true);
    depot.gather(&readings(1), Timestamp(1));
    depot.commit(now(1)).unwrap();
    assert!(depot.failure().is_some());
    depot.mark_unset();
    let (memory, next) = depot.position();
    let told = depot.take_corrections(now(10));
    let [in_memory] = told[..] else { panic!("one epoch: {told:?}") };
    assert_eq!((in_memory.epoch, in_memory.first, in_memory.last), (memory, Seq(1), Seq(next.0 - 1)));
    disk.set_read_only(false);
    let later = Now { wall: now(6_000).wall.plus_ms(18), ..now(6_000) };
    assert!(depot.retry(later).unwrap());
    let told = depot.take_corrections(later);
    let [on_disk] = told[..] else { panic!("one epoch: {told:?}") };
    assert_eq!((on_disk.epoch, on_disk.boot_began), (depot.position().0, in_memory.boot_began));

    // What comes later is by the clocks as they stand then, and what was told stays as it was.
    depot.mark_unset();
    depot.gather(&readings(2), Timestamp(2));
    depot.commit(later).unwrap();
    let told = depot.take_corrections(later);
    let [again] = told[..] else { panic!("one epoch: {told:?}") };
    assert_eq!((again.epoch, again.first), (on_disk.epoch, on_disk.last.next()));
    assert_eq!(again.boot_began, later.boot_began());
}

/// The collector has all that memory held before the disk is back, and the clock is set only after that.
#[test]
fn readings_by_the_boot_clock_are_corrected_though_nothing_holds_them_any_more() {
    let disk = MemoryDisk::new();
    let mut depot = open(&disk);
    disk.set_read_only(true);
    depot.gather(&readings(1), Timestamp(1));
    depot.commit(now(1)).unwrap();
    depot.mark_unset();
    let (memory, next) = depot.position();
    depot.acknowledge(memory, Seq(1), Seq(next.0 - 1));
    disk.set_read_only(false);
    assert!(depot.retry(now(6_000)).unwrap());
    assert!(depot.held().iter().all(|held| held.epoch != memory));
    let told = depot.take_corrections(now(7_000));
    let of_memory: Vec<_> = told.iter().filter(|c| c.epoch == memory).collect();
    let [made] = of_memory[..] else { panic!("one of memory: {told:?}") };
    assert_eq!((made.first, made.last), (Seq(1), Seq(next.0 - 1)));
    assert!(told.iter().all(|c| c.boot_began == made.boot_began), "{told:?}");
    assert!(!depot.has_unset_epochs());
}

/// An agent that ran before on the same clock: all it left may be acknowledged, and its segments used again, before the
/// clock is set.
#[test]
fn readings_of_an_earlier_run_are_corrected_though_nothing_holds_them_any_more() {
    let (disk, options) = (MemoryDisk::new(), Options { budget_bytes: 1 << 20, ..Options::default() });
    let identity = Identity { boot: BootId(1), catalog: CATALOG, catalog_bytes: Box::new([1, 2, 3]) };
    let unset = Now { wall_set: false, ..now(0) };
    let mut depot = Depot::open(identity, opener(&disk, options), Arc::new(getrandom::u64), unset).unwrap();
    depot.gather(&readings(1), Timestamp(1));
    depot.commit(unset).unwrap();
    let (epoch, next) = depot.position();
    drop(depot);

    let opening = Opening { epoch: Epoch(9), boot: BootId(1) };
    let mut store = opener(&disk, options)(opening).unwrap().outbox;
    let mut found = UnsetEpochs::default();
    found.find(store.as_mut(), BootId(1));
    assert_eq!(found.take(&[], Timestamp(5)), [(epoch, (Seq(1), next), Timestamp(5))]);
}

fn by_boot_clock() -> Record {
    let Record::Readings(readings) = readings(1) else { unreachable!() };
    Record::Readings(Readings { acquired: Acquired::SinceBoot(5), ..readings })
}

/// Each reading by the boot clock that can be read is spoken of by corrections that have one begin; gives their number.
fn check_corrected(depot: &mut Depot, told: &[ClockCorrection], case: &str) -> usize {
    let is_unset = |record: &StoredRecord| {
        let decoded = decode_record(&record.bytes).unwrap();
        matches!(decoded, Record::Readings(Readings { acquired: Acquired::SinceBoot(_), .. }))
    };
    let unset: Vec<StoredRecord> = stored(depot).into_iter().filter(is_unset).collect();
    for record in &unset {
        let holds =
            |c: &&ClockCorrection| c.epoch == record.epoch && (c.first..=c.last).contains(&record.seq);
        let began: Vec<Timestamp> = told.iter().filter(holds).map(|c| c.boot_began).collect();
        assert_eq!(began, [told[0].boot_began], "{case}: {:?}, {:?}, {told:?}", record.epoch, record.seq);
    }
    unset.len()
}

/// What an attempt to go back to the disk has written there before it failed is owed like anything else, and the epoch it
/// stands in is held only once the disk is back: long after the clock was set, and the epoch marked.
#[test]
fn readings_by_the_boot_clock_are_corrected_though_they_were_taken_along_half_way() {
    let mut left_half_way = 0;
    for operations in 0_u64.. {
        let disk = MemoryDisk::new();
        let mut depot = open(&disk);
        depot.commit(now(1)).unwrap();
        disk.set_read_only(true);
        depot.mark_unset();
        depot.gather(&by_boot_clock(), Timestamp(1));
        depot.commit(now(10)).unwrap();
        let mut told = depot.take_corrections(now(20));
        disk.set_read_only(false);
        disk.die_at(disk.operations() + operations);
        let is_back = depot.retry(now(6_000)).unwrap();
        told.extend(depot.take_corrections(now(7_000)));
        assert!(!depot.has_unset_epochs());
        if is_back {
            break;
        }
        disk.restart(PowerCut::KeepAll, 1);
        assert!(depot.retry(now(20_000)).unwrap());
        told.extend(depot.take_corrections(now(21_000)));
        left_half_way += check_corrected(&mut depot, &told, &format!("{operations} operations")) - 1;
    }
    assert!(left_half_way > 0, "no attempt was cut where it matters");
}

/// An append that was called failed may have become durable: its records are in memory, and found again on the disk.
#[test]
fn readings_by_the_boot_clock_are_corrected_though_their_append_was_called_failed() {
    let mut found_again = 0;
    for operations in 0_u64.. {
        let disk = MemoryDisk::new();
        let mut depot = open(&disk);
        depot.commit(now(1)).unwrap();
        depot.mark_unset();
        depot.gather(&by_boot_clock(), Timestamp(1));
        disk.die_at(disk.operations() + operations);
        depot.commit(now(10)).unwrap();
        let mut told = depot.take_corrections(now(20));
        if depot.failure().is_none() {
            break;
        }
        disk.restart(PowerCut::KeepAll, 1);
        assert!(depot.retry(now(6_000)).unwrap());
        told.extend(depot.take_corrections(now(7_000)));
        found_again += check_corrected(&mut depot, &told, &format!("{operations} operations")) - 1;
    }
    assert!(found_again > 0, "no append was cut where it matters");
}

/// A poll that began before the clock was set may be answered after the readings before it were corrected, and go to the
/// same memory; the copies of both have one epoch, and one begin of the boot clock.
#[test]
fn a_reading_by_the_boot_clock_has_one_instant_though_memory_is_corrected_twice() {
    let disk = MemoryDisk::new();
    let mut depot = open(&disk);
    disk.set_read_only(true);
    depot.gather(&readings(1), Timestamp(1));
    depot.commit(now(1)).unwrap();
    depot.mark_unset();
    let told = depot.take_corrections(now(10));
    let [first] = told[..] else { panic!("one epoch: {told:?}") };

    let later = Now { wall: now(6_000).wall.plus_ms(18), ..now(6_000) };
    depot.mark_unset();
    depot.gather(&readings(2), Timestamp(2));
    depot.commit(later).unwrap();
    let told = depot.take_corrections(later);
    let [second] = told[..] else { panic!("one epoch: {told:?}") };
    assert_eq!((second.epoch, second.first), (first.epoch, first.last.next()));

    disk.set_read_only(false);
    assert!(depot.retry(later).unwrap());
    let told = depot.take_corrections(later);
    let [on_disk] = told[..] else { panic!("one epoch: {told:?}") };
    assert_eq!([second.boot_began, on_disk.boot_began], [first.boot_began; 2]);
}

#[test]
fn a_record_that_no_segment_holds_leaves_a_miss() {
    for dies in [false, true] {
        let disk = MemoryDisk::new();
        let mut depot = open(&disk);
        depot.commit(now(1)).unwrap();
        if dies {
            disk.die_at(disk.operations());
            depot.gather(&readings(1), Timestamp(1));
            depot.commit(now(2)).unwrap();
        } else {
            depot.gather(&readings(1), Timestamp(1));
        }
        let Record::Readings(mut huge) = readings(2) else { unreachable!() };
        huge.samples[0].value = Some(Value::Text("x".repeat(1 << 20).into()));
        depot.gather(&Record::Readings(huge), Timestamp(2));
        depot.gather(&readings(3), Timestamp(3));
        depot.commit(now(10)).unwrap();
        depot.stop_reading();
        let records = all(&mut depot);
        assert_eq!(slots(&records), [1, 3], "{dies}");
        let misses: Vec<Misses> = records
            .iter()
            .filter_map(|(_, r)| if let Record::Misses(m) = r { Some(*m) } else { None })
            .collect();
        let miss = Misses { device: DeviceIndex(0), first: Slot(2), count: 1, cause: Cause::DiskFailed };
        assert_eq!(misses, [miss], "{dies}");
    }
}

#[test]
fn a_full_outbox_that_refuses_takes_the_agent_back() {
    let disk = MemoryDisk::new();
    let options = Options {
        budget_bytes: outbox::BUDGET_MIN_BYTES,
        policy: outbox::DropPolicy::NewestFirst,
        ..Options::default()
    };
    let mut depot = open_with(&disk, options);
    let mut slot = 0;
    while depot.stats().dropped_records == 0 {
        slot += 1;
        assert!(slot < 100_000, "it is never full");
        for _ in 0..100 {
            depot.gather(&readings(slot), Timestamp(slot));
        }
        depot.commit(now(1)).unwrap();
    }
    disk.die_at(disk.operations());
    let complete = Record::Complete(gapless_common::reading::Completeness::default());
    depot.gather(&complete, Timestamp(1));
    depot.gather(
        &Record::Loss(not_kept(OwedRange { epoch: Epoch(1), first: Seq(1), last: Seq(1) }, now(1))),
        Timestamp(1),
    );
    depot.commit(now(2)).unwrap();
    assert!(depot.failure().is_some());
    depot.gather(&readings(-1), Timestamp(1));
    depot.commit(now(3)).unwrap();
    disk.restart(PowerCut::KeepNothing, 1);
    assert!(depot.retry(now(6_000)).unwrap(), "{:?}", depot.failure());
    assert!(depot.stats().dropped_records > 0, "what was refused is named by the outbox");
}

/// Catalogs on the disk.
fn kept(disk: &MemoryDisk) -> usize {
    let files = disk.copy().list().unwrap();
    files.iter().filter(|(name, _)| name.ends_with(".cat")).count()
}

#[test]
fn the_oldest_records_make_room_for_a_catalog_without_which_none_can_be_read() {
    let disk = MemoryDisk::new();
    let mut depot = open(&disk);
    for slot in 0..9_000 {
        depot.gather(&readings(slot), Timestamp(slot));
        depot.commit(now(1)).unwrap();
    }
    let used: u64 = disk.copy().list().unwrap().iter().map(|(_, len)| len).sum();
    disk.set_capacity(Some(used));
    for hash in 8..12 {
        depot.change_catalog(CatalogHash(hash), vec![9; 30_000].into(), now(2));
        depot.commit(now(2)).unwrap();
    }
    assert_eq!((kept(&disk), depot.failure().is_none()), (5, true));
    drop(depot);
    let mut depot = open(&disk);
    assert_eq!(depot.catalog(CatalogHash(8)).map(|bytes| bytes.len()), Some(30_000));
    let told = slots(&all(&mut depot));
    assert!(told.len() > 4_500 && told.last() == Some(&8_999), "{} are left", told.len());
}

#[test]
fn a_catalog_that_finds_no_room_is_kept_in_memory_until_it_does() {
    let disk = MemoryDisk::new();
    let mut depot = open(&disk);
    depot.commit(now(1)).unwrap();
    let used: u64 = disk.copy().list().unwrap().iter().map(|(_, len)| len).sum();
    disk.set_capacity(Some(used));
    for hash in [8, 9] {
        depot.change_catalog(CatalogHash(hash), vec![9; 8_000].into(), now(2));
        depot.commit(now(2)).unwrap();
    }
    assert_eq!((kept(&disk), depot.catalog(CatalogHash(8)).is_some()), (1, true));
    disk.set_capacity(None);
    depot.gather(&readings(1), Timestamp(1));
    depot.commit(now(3)).unwrap();
    assert_eq!((kept(&disk), depot.catalog(CatalogHash(8)).is_some()), (1, true), "not at each commit");
    depot.gather(&readings(1), Timestamp(2));
    depot.commit(now(2 + KEEP_AGAIN_MS)).unwrap();
    assert_eq!((kept(&disk), depot.catalog(CatalogHash(8)).is_some()), (3, true));
}

#[test]
fn a_catalog_that_finds_no_room_beside_the_records_stays_among_them() {
    let disk = MemoryDisk::new();
    let options = Options { budget_bytes: outbox::BUDGET_MIN_BYTES, ..Options::default() };
    let mut depot = open_with(&disk, options);
    depot.commit(now(1)).unwrap();
    disk.set_capacity(Some(0));
    depot.change_catalog(CatalogHash(8), vec![9; 8_000].into(), now(2));
    depot.commit(now(2)).unwrap();
    let mut slot = 0;
    // Several times over.
    while depot.stats().dropped_records < 3 * u64::try_from(slots(&all(&mut depot)).len()).unwrap() {
        for _ in 0..500 {
            slot += 1;
            depot.gather(&readings(slot), Timestamp(slot));
        }
        depot.commit(now(3)).unwrap();
    }
    drop(depot);
    disk.restart(PowerCut::KeepNothing, 1);
    disk.set_capacity(None);
    let mut depot = open_with(&disk, options);
    let brings = |record: &Record| matches!(record, Record::Catalog(found) if found.hash == CatalogHash(8));
    let records = all(&mut depot);
    let catalogs = records.iter().filter(|(_, record)| brings(record)).count();
    assert_eq!(catalogs, 1, "among {}", records.len());
}
