//! The first write of a segment, torn: its header did not get to the disk, or only a part of it, or frames behind it did.

use super::*;
use crate::outbox::{Disk as _, RecoveryReport};

/// Bytes before the first frame.
const HEAD_BYTES: usize = 1024;

/// Records that the first segment holds.
const IN_FIRST: u64 = 15;

/// A disk before its second segment is begun, the file that it is going to be, and that file's bytes afterwards.
fn before_second_segment() -> (MemoryDisk, String, Vec<u8>) {
    let disk = MemoryDisk::new();
    let (mut outbox, _) = open(&disk, 1);
    append(&mut outbox, 1, 12, 4000).unwrap();
    let before = disk.copy();
    append(&mut outbox, 13, 12, 4000).unwrap();
    let begun = |disk: &MemoryDisk, name: &str| {
        name.ends_with(".seg") && disk.contents(name).is_some_and(|bytes| bytes[..8] == *b"GAPLSEG1")
    };
    let files: Vec<String> = disk.clone().list().unwrap().into_iter().map(|(name, _)| name).collect();
    let name = files.iter().find(|name| begun(&disk, name) && !begun(&before, name)).unwrap();
    // What of the batch the first segment had room for was durable before.
    let first = files.iter().find(|name| begun(&before, name)).unwrap();
    before.set_contents(first, &disk.contents(first).unwrap());
    (before, name.clone(), disk.contents(name).unwrap())
}

/// Its frames got to the disk, its header did not: the next segment has the same number, so that behind its frames these
/// would be valid again.
#[test]
fn frames_without_their_header_do_not_come_back() {
    let (disk, name, mut bytes) = before_second_segment();
    bytes[..HEAD_BYTES].fill(0);
    disk.set_contents(&name, &bytes);
    let (mut outbox, _) = open(&disk, 2);
    append(&mut outbox, 1, 1, 9000).unwrap();
    let is_second = disk.contents(&name).unwrap()[..8] == *b"GAPLSEG1";
    assert!(is_second, "the test is of no use where another file is taken");
    drop(outbox);
    let (mut outbox, found) = open(&disk, 3);
    assert_eq!(found.report, RecoveryReport::default());
    let held: Vec<_> = read_all(&mut outbox).iter().map(|r| (r.epoch.0, r.seq.0)).collect();
    let expected: Vec<_> = (1..=IN_FIRST).map(|seq| (1, seq)).chain([(2, 1)]).collect();
    assert_eq!(held, expected);
}

/// A part of its header got to the disk and nothing else: that is no damage, at any length, and in a file that is new as in
/// one that had been used.
#[test]
fn a_header_that_is_torn_is_no_damage() {
    let (before, name, bytes) = before_second_segment();
    let unused = before.contents(&name).unwrap();
    let mut used = unused.clone();
    let first = before.clone().list().unwrap().into_iter().map(|(name, _)| name);
    let first = first.filter(|name| name.ends_with(".seg")).find(|n| *n != name).unwrap();
    used[HEAD_BYTES..].copy_from_slice(&before.contents(&first).unwrap()[HEAD_BYTES..]);
    for (len, rest) in (0..80).flat_map(|len| [(len, &unused), (len, &used)]) {
        let disk = before.copy();
        disk.set_contents(&name, &[&bytes[..len], &rest[len..]].concat());
        for epoch in 2..4 {
            let (mut outbox, found) = open(&disk, epoch);
            assert_eq!(found.report, RecoveryReport::default(), "{len} bytes");
            assert_eq!(read_all(&mut outbox).len() as u64, IN_FIRST, "{len} bytes");
        }
    }
}
