//! Segments that have lost both headers.

use super::*;
use crate::outbox::Disk as _;

/// Bytes before the first frame.
const HEAD_BYTES: usize = 1024;

/// What is appended to one that was recognised is there at every opening, also where the one before it is a spare file by then.
#[test]
fn one_that_was_recognised_is_recognised_again() {
    let disk = MemoryDisk::new();
    let (mut outbox, _) = open(&disk, 1);
    append(&mut outbox, 1, 24, 4000).unwrap();
    drop(outbox);
    let files = disk.clone().list().unwrap().into_iter().map(|(name, _)| name);
    let is_segment = |name: &String| disk.contents(name).is_some_and(|bytes| bytes.starts_with(b"GAPLSEG1"));
    let segments: Vec<String> = files.filter(is_segment).collect();
    let [first, second] = segments.as_slice() else { panic!("{segments:?}") };
    let spoil = |name: &str, len: usize| {
        let mut bytes = disk.contents(name).unwrap();
        let len = len.min(bytes.len());
        bytes[..len].fill(0xAA);
        disk.set_contents(name, &bytes);
    };
    spoil(first, usize::MAX);
    spoil(second, HEAD_BYTES);
    let (mut outbox, found) = open(&disk, 2);
    assert_eq!((found.previous, found.report.quarantined_segments), (Some((Epoch(1), Seq(25))), 1));
    let lost = outbox.pending_losses();
    append(&mut outbox, 1, 3, 900).unwrap();
    let held =
        |outbox: &mut Journal| read_all(outbox).iter().map(|r| (r.epoch.0, r.seq.0)).collect::<Vec<_>>();
    let appended = held(&mut outbox);
    assert!(appended.ends_with(&[(1, 24), (2, 1), (2, 2), (2, 3)]), "{appended:?}");
    drop(outbox);
    let (mut outbox, found) = open(&disk, 3);
    assert_eq!((found.previous, found.report.quarantined_segments), (Some((Epoch(2), Seq(4))), 0));
    assert_eq!((held(&mut outbox), outbox.pending_losses()), (appended, lost));
}
