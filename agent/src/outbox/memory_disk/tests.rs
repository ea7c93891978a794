//! Each fault does what it says, ends when it says, and weeks of use take no more memory than a day.

use super::*;

fn filled() -> MemoryDisk {
    let mut disk = MemoryDisk::new();
    disk.create("a", 4096).unwrap();
    disk.write_at("a", 100, b"durable").unwrap();
    disk.sync("a").unwrap();
    disk
}

fn read(disk: &mut MemoryDisk, offset: u64, len: usize) -> Vec<u8> {
    let mut into = vec![0; len];
    disk.read_at("a", offset, &mut into).unwrap();
    into
}

fn errno(result: io::Result<()>) -> Option<Errno> {
    Errno::from_io_error(&result.unwrap_err())
}

#[test]
fn a_reader_sees_writes_that_no_sync_has_forced() {
    let mut disk = filled();
    disk.write_at("a", 103, b"XX").unwrap();
    disk.write_at("a", 104, b"YYY").unwrap();
    disk.write_at("a", 5000, b"Z").unwrap();
    assert_eq!(read(&mut disk, 99, 10), b"\0durXYYY\0\0");
    assert_eq!(read(&mut disk, 4995, 6), b"\0\0\0\0\0Z");
    assert_eq!(disk.list().unwrap(), [("a".to_owned(), 5001)]);
    let beyond = disk.read_at("a", 5001, &mut [0]).unwrap_err();
    assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(disk.contents("a").unwrap().len(), 4096);
    disk.sync("a").unwrap();
    assert_eq!(&disk.contents("a").unwrap()[100..107], b"durXYYY");
}

/// Whether a cut may leave so many bytes of the first write and so many of the second.
type IsAllowed = fn(usize, usize) -> bool;

#[test]
fn each_cut_leaves_what_it_says() {
    let rows: [(PowerCut, IsAllowed); 4] = [
        (PowerCut::KeepNothing, |first, second| first + second == 0),
        (PowerCut::KeepAll, |first, second| (first, second) == (1024, 1024)),
        (PowerCut::KeepPrefix, |first, second| second == 0 || first == 1024),
        (PowerCut::KeepSectors, |first, second| first % 512 == 0 && second % 512 == 0),
    ];
    for (cut, is_allowed) in rows {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..64 {
            let mut disk = MemoryDisk::new();
            // The second file has the lower slot: a prefix follows the order of writes, not of files.
            disk.create("second", 1024).unwrap();
            disk.create("first", 1024).unwrap();
            disk.write_at("first", 0, &[1; 1024]).unwrap();
            disk.write_at("second", 0, &[1; 1024]).unwrap();
            disk.restart(cut, seed);
            let count = |name: &str| disk.contents(name).unwrap().iter().filter(|&&byte| byte == 1).count();
            let kept = (count("first"), count("second"));
            assert!(is_allowed(kept.0, kept.1), "{cut:?}, seed {seed}: {kept:?}");
            seen.insert(kept);
        }
        let is_open = matches!(cut, PowerCut::KeepPrefix | PowerCut::KeepSectors);
        assert_eq!(seen.len() > 4, is_open, "{cut:?}: {seen:?}");
    }
}

#[test]
fn names_are_durable_after_a_sync_of_their_directory_only() {
    let mut disk = MemoryDisk::new();
    for name in ["a", "catalogs/b"] {
        disk.create(name, 512).unwrap();
        disk.rename(name, &format!("{name}2")).unwrap();
    }
    disk.sync_directory("a2").unwrap();
    let names = |disk: &mut MemoryDisk| -> Vec<String> {
        disk.list().unwrap().into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names(&mut disk), ["a2", "catalogs/b2"]);
    disk.restart(PowerCut::KeepNothing, 1);
    assert_eq!(names(&mut disk), ["a2", "catalogs/b"]);
    disk.remove("a2").unwrap();
    disk.restart(PowerCut::KeepNothing, 1);
    assert_eq!(names(&mut disk), ["a2", "catalogs/b"]);
}

type Operation = fn(&mut MemoryDisk) -> io::Result<()>;

/// The operation in which the power goes may have been done or not.
#[test]
fn the_operation_that_the_power_is_cut_in_may_be_done() {
    let operations: [(&str, Operation); 4] = [
        ("create", |disk| disk.create("b", 2048)),
        ("rename", |disk| disk.rename("a", "b")),
        ("remove", |disk| disk.remove("a")),
        ("write", |disk| disk.write_at("a", 0, &[1; 2048])),
    ];
    for (name, operation) in operations {
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..32 {
            let mut disk = filled();
            disk.die_at(disk.operations() + 1);
            assert_eq!(operation(&mut disk).unwrap_err().to_string(), "power cut");
            assert!(disk.list().is_err() && disk.sync("a").is_err(), "the power is gone");
            disk.restart(PowerCut::KeepSectors, seed);
            let b = disk.contents("b").map_or(0, |bytes| bytes.len());
            outcomes.insert((disk.contents("a"), b));
        }
        assert!(outcomes.len() >= 2, "{name}: {outcomes:?}");
    }
}

#[test]
fn writes_fail_once_or_until_cleared() {
    let mut disk = filled();
    disk.fail_write_at(disk.operations() + 2);
    disk.write_at("a", 0, b"1").unwrap();
    assert_eq!(errno(disk.write_at("a", 0, b"2")), Some(Errno::IO));
    disk.write_at("a", 1, b"3").unwrap();
    disk.fail_writes(true);
    for _ in 0..3 {
        assert_eq!(errno(disk.write_at("a", 0, b"4")), Some(Errno::IO));
        assert_eq!(errno(disk.create("b", 10)), Some(Errno::IO));
    }
    disk.sync("a").unwrap();
    disk.restart(PowerCut::KeepAll, 1);
    assert_eq!(errno(disk.write_at("a", 0, b"4")), Some(Errno::IO), "the medium stays bad");
    disk.fail_writes(false);
    assert_eq!(read(&mut disk, 0, 2), b"13");
    disk.write_at("a", 0, b"5").unwrap();
}

#[test]
fn syncs_fail_once_or_until_cleared_and_lose_what_they_should_have_forced() {
    let mut disk = filled();
    for round in 0..3 {
        if round == 0 {
            disk.fail_sync_at(disk.operations() + 2);
        } else {
            disk.fail_syncs(true);
        }
        disk.write_at("a", 100, b"DURABLE").unwrap();
        assert_eq!(errno(disk.sync("a")), Some(Errno::IO));
        disk.fail_syncs(false);
        assert_eq!(read(&mut disk, 100, 7), b"DURABLE", "the cache shows what is lost");
        disk.write_at("a", 0, b"after").unwrap();
        disk.sync("a").unwrap();
        assert_eq!(read(&mut disk, 100, 7), b"DURABLE");
        disk.forget_cache("a");
        assert_eq!(
            (read(&mut disk, 100, 7), read(&mut disk, 0, 5)),
            (b"durable".to_vec(), b"after".to_vec())
        );
    }
    disk.rename("a", "b").unwrap();
    disk.fail_syncs(true);
    assert_eq!(errno(disk.sync_directory("a")), Some(Errno::IO));
    disk.restart(PowerCut::KeepNothing, 1);
    assert!(disk.contents("a").is_some());
}

#[test]
fn a_read_only_disk_changes_nothing_and_can_be_read() {
    let mut disk = filled();
    disk.set_read_only(true);
    let refused = [
        disk.create("b", 1),
        disk.write_at("a", 0, b"x"),
        disk.sync("a"),
        disk.rename("a", "b"),
        disk.remove("a"),
        disk.sync_directory("a"),
    ];
    assert!(refused.into_iter().all(|result| errno(result) == Some(Errno::ROFS)));
    assert_eq!(read(&mut disk, 100, 7), b"durable");
    disk.set_read_only(false);
    disk.write_at("a", 0, b"x").unwrap();
}

#[test]
fn a_full_disk_takes_what_does_not_grow_it() {
    let mut disk = filled();
    disk.set_capacity(Some(5000));
    assert_eq!(disk.create("b", 1000).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.write_at("a", 4990, &[1; 11]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    disk.write_at("a", 4990, &[1; 10]).unwrap();
    disk.set_capacity(Some(10));
    disk.write_at("a", 0, &[1; 4096]).unwrap();
    disk.create("empty", 0).unwrap();
}

#[test]
fn a_fork_goes_its_own_way_from_the_very_state() {
    let mut disk = filled();
    disk.write_at("a", 100, b"changed").unwrap();
    let mut fork = disk.fork();
    assert_eq!(fork.operations(), disk.operations());
    disk.sync("a").unwrap();
    assert_eq!(&fork.contents("a").unwrap()[100..107], b"durable");
    fork.restart(PowerCut::KeepAll, 1);
    assert_eq!(read(&mut fork, 100, 7), b"changed");
    fork.wipe();
    assert_eq!(read(&mut disk, 100, 7), b"changed");
}

#[test]
fn one_bit_flips_and_every_file_is_hit() {
    let mut files = std::collections::BTreeSet::new();
    for seed in 0..32 {
        let mut disk = filled();
        disk.create("b", 10).unwrap();
        disk.create("empty", 0).unwrap();
        let before: Vec<_> = ["a", "b"].map(|name| disk.contents(name).unwrap()).concat();
        let (file, bit) = disk.flip_bit(seed).unwrap();
        let after: Vec<_> = ["a", "b"].map(|name| disk.contents(name).unwrap()).concat();
        let differing: u32 = before.iter().zip(&after).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!(differing, 1, "{file}, bit {bit}");
        files.insert(file);
    }
    assert_eq!(files.len(), 2, "{files:?}");
    assert_eq!(MemoryDisk::new().flip_bit(1), None);
}

#[test]
fn a_card_is_replaced_by_an_empty_one_or_by_its_image() {
    let mut disk = filled();
    let (image, operations) = (disk.copy(), disk.operations());
    disk.write_at("a", 100, b"changed").unwrap();
    disk.fail_writes(true);
    disk.set_read_only(true);
    disk.restore(&image);
    assert_eq!(read(&mut disk, 100, 7), b"durable");
    disk.write_at("a", 100, b"changed").unwrap();
    assert_eq!(&image.contents("a").unwrap()[100..107], b"durable", "an image stays as it is");
    disk.fail_syncs(true);
    disk.die_at(0);
    assert!(disk.sync("a").is_err());
    disk.wipe();
    assert_eq!(disk.list().unwrap(), []);
    disk.create("a", 1).unwrap();
    disk.sync("a").unwrap();
    assert!(disk.operations() > operations, "the count of operations goes on");
}

#[test]
fn removed_and_replaced_files_are_freed() {
    let mut disk = MemoryDisk::new();
    for round in 0..1000 {
        disk.create("catalogs/unfinished", 100).unwrap();
        disk.rename("catalogs/unfinished", "catalogs/kept").unwrap();
        disk.sync_directory("catalogs/kept").unwrap();
        disk.create("a", 100).unwrap();
        disk.write_at("a", 0, &[1; 50]).unwrap();
        disk.fail_sync_at(if round % 2 == 0 { disk.operations() + 1 } else { 0 });
        let _ = disk.sync("a");
        disk.remove("a").unwrap();
        disk.sync_directory("a").unwrap();
        assert!(disk.lock().files.inodes_in_memory() <= 2, "round {round}");
    }
}

#[test]
fn a_slow_disk_says_how_long_each_sync_and_some_writes_took() {
    let mut disk = filled();
    let slowness = Slowness { takes_ms: (100, 3_000), writes_one_in: 4, seed: 1 };
    disk.slow_down(Some(slowness));
    assert_eq!(disk.take_stalled_ms(), 0, "nothing was done since");
    disk.sync("a").unwrap();
    disk.sync_directory("a").unwrap();
    assert!((200..=6_000).contains(&disk.take_stalled_ms()));
    assert_eq!(disk.take_stalled_ms(), 0, "it was told");
    let mut write = |n: u64| {
        disk.write_at("a", 100 + n, b"x").unwrap();
        disk.take_stalled_ms()
    };
    let writes: Vec<u64> = (0..100).map(&mut write).collect();
    let slow = writes.iter().filter(|ms| **ms > 0).count();
    assert!((10..50).contains(&slow), "{slow} of 100");
    disk.fail_syncs(true);
    assert!(disk.sync("a").is_err());
    assert!(disk.take_stalled_ms() >= 100, "what fails takes its time, too");
    disk.restart(PowerCut::KeepAll, 1);
    disk.fail_syncs(false);
    disk.sync("a").unwrap();
    assert!(disk.take_stalled_ms() >= 100, "slow after a power cut, too");
    disk.slow_down(None);
    disk.sync("a").unwrap();
    assert_eq!(disk.take_stalled_ms(), 0);
}
