//! Which epoch an opening names as the one before, where the book of losses knows more epochs than the segments.

use gapless_common::id::{Epoch, Seq};
use gapless_common::quality::Cause;

use super::super::Journal;
use super::open;
use crate::outbox::conformance::{append, opening, options};
use crate::outbox::memory_disk::{MemoryDisk, PowerCut};
use crate::outbox::{AppendError, DropPolicy, Options, Outbox, RecoveryReport, losses};

#[test]
fn an_epoch_that_only_its_loss_is_left_of_is_not_the_one_before() {
    let disk = MemoryDisk::new();
    append(&mut open(&disk, 9).0, 1, 3, 900).unwrap();
    append(&mut open(&disk, 5).0, 1, 3, 900).unwrap();
    let (mut outbox, _) = open(&disk, 7);
    let mut next = 1;
    while outbox.held().iter().any(|held| held.epoch == Epoch(9) || held.epoch == Epoch(5)) {
        append(&mut outbox, next, 50, 900).unwrap();
        next += 50;
    }
    let lost = outbox.pending_losses();
    assert!(lost.iter().any(|l| l.epoch == Epoch(9) && l.cause == Cause::BudgetFull), "{lost:?}");
    drop(outbox);
    disk.restart(PowerCut::KeepAll, 1);
    let (outbox, found) = open(&disk, 8);
    assert_eq!(found.previous, Some((Epoch(7), Seq(next))));
    assert_eq!(outbox.pending_losses(), lost);
}

#[test]
fn an_epoch_that_was_wholly_refused_is_the_one_before() {
    let disk = MemoryDisk::new();
    let options = Options { policy: DropPolicy::NewestFirst, ..options() };
    let fill = |epoch: u64| {
        let (mut outbox, found) = Journal::open(Box::new(disk.clone()), &options, opening(epoch)).unwrap();
        let mut next = 1;
        let full = loop {
            match append(&mut outbox, 10_000 * epoch + next, 1, 900) {
                Ok(last) => next = last.0 + 1,
                Err(e) => break e,
            }
        };
        assert!(matches!(full, AppendError::Refused { .. }), "{full}");
        (found.previous, next)
    };
    let (_, refused) = fill(1);
    // Each names the one before it, though nothing of it but its loss was ever written.
    assert_eq!(fill(2), (Some((Epoch(1), Seq(refused + 1))), 1));
    assert_eq!(fill(3), (Some((Epoch(2), Seq(2))), 1));
    assert_eq!(fill(4).0, Some((Epoch(3), Seq(2))));
}

/// A full disk on which one epoch ended with a refusal and the next one, 2, began with three: where there is room again, 2
/// writes its first record. Returns the first position of epoch 1 that was refused.
fn refuse_two_epochs_in_a_row(disk: &MemoryDisk, options: &Options) -> (Journal, u64) {
    let open = |epoch| Journal::open(Box::new(disk.clone()), options, opening(epoch)).unwrap();
    let (mut outbox, _) = open(1);
    let mut next = 1;
    while let Ok(last) = append(&mut outbox, next, 1, 900) {
        next = last.0 + 1;
    }
    drop(outbox);
    let (mut outbox, _) = open(2);
    append(&mut outbox, 10_001, 3, 900).unwrap_err();
    outbox.acknowledge(Epoch(1), Seq(next - 1), &[]);
    append(&mut outbox, 10_004, 1, 900).unwrap();
    (outbox, next)
}

/// None of what was refused is taken for damage, whoever forgets that the collector was told.
#[test]
fn what_two_epochs_in_a_row_were_refused_is_named_as_that() {
    let disk = MemoryDisk::new();
    let options = Options { policy: DropPolicy::NewestFirst, ..options() };
    let (outbox, next) = refuse_two_epochs_in_a_row(&disk, &options);
    drop(outbox);
    // The book is gone: what the frames say is all there is.
    disk.set_contents(losses::FILE, &vec![0; disk.contents(losses::FILE).unwrap().len()]);
    let (outbox, found) = Journal::open(Box::new(disk), &options, opening(3)).unwrap();
    assert_eq!((found.previous, found.report), (Some((Epoch(2), Seq(5))), RecoveryReport::default()));
    let named: Vec<_> =
        outbox.pending_losses().iter().map(|l| (l.epoch.0, l.first.0, l.last.0, l.cause)).collect();
    assert_eq!(named, [(1, next, next, Cause::BudgetFull), (2, 1, 3, Cause::BudgetFull)]);
}

/// What is left of an epoch may be what the next one says it was refused, in the midst of its own segment.
#[test]
fn an_epoch_that_only_its_refusal_is_left_of_is_not_the_one_before() {
    let disk = MemoryDisk::new();
    let options = Options { policy: DropPolicy::NewestFirst, ..options() };
    let (mut outbox, _) = refuse_two_epochs_in_a_row(&disk, &options);
    let has_first = |outbox: &Journal| outbox.held().iter().any(|held| held.epoch == Epoch(1));
    while has_first(&outbox) {
        let last = append(&mut outbox, 20_000, 1, 900).unwrap();
        outbox.acknowledge(Epoch(2), last, &[]);
    }
    disk.set_contents(losses::FILE, &vec![0; disk.contents(losses::FILE).unwrap().len()]);
    let (again, found) = Journal::open(Box::new(disk.copy()), &options, opening(3)).unwrap();
    assert!(again.pending_losses().iter().any(|loss| loss.epoch == Epoch(1)), "its segment is gone, too");
    assert_eq!(found.previous.map(|(epoch, _)| epoch), Some(Epoch(2)));
}

#[test]
fn a_header_that_a_failed_sync_has_lost_is_written_again() {
    let disk = MemoryDisk::new();
    disk.fail_syncs(true);
    append(&mut open(&disk, 5).0, 1, 3, 900).unwrap_err();
    // The cache shows what the device never got.
    disk.fail_syncs(false);
    let (mut outbox, _) = open(&disk, 6);
    append(&mut outbox, 1, 3, 900).unwrap();
    drop(outbox);
    disk.restart(PowerCut::KeepAll, 1);
    let (outbox, found) = open(&disk, 7);
    assert_eq!(found.previous, Some((Epoch(6), Seq(4))));
    let owed: Vec<_> = outbox.owed().iter().map(|range| (range.epoch, range.first, range.last)).collect();
    assert_eq!(owed, [(Epoch(6), Seq(1), Seq(3))]);
}
