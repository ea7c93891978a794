//! A record that rots after the collector had it: nobody misses it, until a database is put back that has it not.

use gapless_common::id::{Epoch, Seq};
use gapless_common::quality::Cause;

use super::super::Journal;
use super::open;
use crate::outbox::conformance::{append, payload, read_all};
use crate::outbox::memory_disk::MemoryDisk;
use crate::outbox::{Disk as _, Outbox};

/// Eleven records, of which ten are acknowledged, and the fourth has rotted since.
fn rotten() -> (MemoryDisk, Journal) {
    let disk = MemoryDisk::new();
    let (mut outbox, _) = open(&disk, 1);
    append(&mut outbox, 1, 10, 300).unwrap();
    outbox.acknowledge(Epoch(1), Seq(10), &[]);
    append(&mut outbox, 11, 1, 300).unwrap();
    let record = payload(4, 300);
    let place = |bytes: &[u8]| bytes.windows(record.len()).position(|window| window == record);
    let mut files = disk.copy().list().unwrap().into_iter();
    let (name, mut bytes, at) = files
        .find_map(|(name, _)| {
            let bytes = disk.contents(&name)?;
            let at = place(&bytes)?;
            Some((name, bytes, at))
        })
        .unwrap();
    bytes[at + 100] ^= 1;
    disk.set_contents(&name, &bytes);
    (disk, outbox)
}

fn lost(outbox: &Journal) -> Vec<(u64, u64, Cause)> {
    outbox.pending_losses().iter().map(|loss| (loss.first.0, loss.last.0, loss.cause)).collect()
}

#[test]
fn what_rotted_once_it_was_stored_is_named_when_it_is_wanted_again() {
    let (_disk, mut outbox) = rotten();
    assert_eq!(read_all(&mut outbox).len(), 10);
    assert_eq!(lost(&outbox), [], "the collector has it");
    outbox.unacknowledge(Epoch(1), Seq(0));
    assert_eq!((lost(&outbox), outbox.stats().pending_losses), (vec![(4, 4, Cause::Quarantined)], 1));
    let losses = outbox.pending_losses();
    outbox.losses_recorded(&losses).unwrap();
    assert_eq!(lost(&outbox), []);
    outbox.unacknowledge(Epoch(1), Seq(4));
    assert_eq!(lost(&outbox), [], "what is stored still is not wanted");
    outbox.unacknowledge(Epoch(1), Seq(0));
    outbox.acknowledge(Epoch(1), Seq(10), &[]);
    assert_eq!(lost(&outbox), [], "as an agent's start has it");
}

#[test]
fn what_an_opening_found_rotten_is_named_when_it_is_wanted_again() {
    let (disk, outbox) = rotten();
    drop(outbox);
    let (mut outbox, _) = open(&disk, 2);
    assert_eq!(lost(&outbox), [], "the collector has it");
    outbox.unacknowledge(Epoch(1), Seq(2));
    assert_eq!(lost(&outbox), [(4, 4, Cause::Quarantined)]);
}
