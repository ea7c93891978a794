//! Histories of many lives whose first ones are forgotten: late repetitions of them are stored no second time and open
//! no hole, the lives after them end in the true gaps, and what an archive holds is not forgotten.

use std::collections::BTreeMap;

use gapless_common::message::HeldEpoch;
use gapless_common::quality::Cause;
use proptest::prelude::*;

use super::forget::FinishedMax;
use super::tests::{
    AGENT, History, Life, Memory, Wrote, any_life, chain, deliver, frames, fresh, live, settle,
};
use super::*;

type Frame = Vec<(Epoch, u64, Wrote)>;

/// Delivers a frame as the committer does: not what is stored already.
fn take(ledger: &mut Ledger, slots: &mut Memory, frame: &Frame) -> bool {
    let (Some((epoch, first, _)), Some((_, last, _))) = (frame.first(), frame.last()) else { return false };
    let fresh = !ledger.agent(AGENT).is_some_and(|a| a.is_committed(*epoch, *first, *last));
    if fresh {
        deliver(ledger, slots, frame);
    }
    fresh
}

fn born(ledger: &mut Ledger, slots: &mut Memory, held: &[HeldEpoch]) {
    let writing = held.last().unwrap().epoch;
    assert_eq!(ledger.birth(AGENT, held, writing, true), None);
    settle(ledger, slots);
}

/// All lives but the last are delivered; of them all but the last and `kept` others are forgotten; the last life comes
/// among late repetitions.
fn check(lives: &[Life], size: usize, order: &[usize], kept: usize) -> Result<(), TestCaseError> {
    let history = live(lives);
    let (last, before) = history.held.split_last().unwrap();
    let (new, old): (Vec<Frame>, Vec<Frame>) =
        frames(&history, size).into_iter().partition(|frame| frame[0].0 == last.epoch);
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    ledger.finished_max = FinishedMax(kept);
    born(&mut ledger, &mut slots, before);
    for frame in &old {
        take(&mut ledger, &mut slots, frame);
    }
    prop_assert_eq!(ledger.agent(AGENT).unwrap().epochs.len(), before.len(), "an archive holds them");
    let open = slots.open();
    born(&mut ledger, &mut slots, &before[before.len() - 1..]);
    let held = ledger.agent(AGENT).unwrap().epochs.len();
    prop_assert_eq!(held, before.len().min(kept + 1));
    // Each frame of the last life, and between them what comes again.
    born(&mut ledger, &mut slots, &history.held[before.len() - 1..]);
    let mut again = order.iter().map(|index| &old[index % old.len()]);
    for frame in &new {
        for late in again.by_ref().take(2) {
            prop_assert!(!take(&mut ledger, &mut slots, late), "stored again: {:?}", late);
        }
        take(&mut ledger, &mut slots, frame);
        let known = ledger.agent(AGENT).unwrap().epochs.len();
        prop_assert!(known <= kept + 2, "{} epochs", known);
    }
    prop_assert_eq!(ledger.agent(AGENT).unwrap().missing(), 0);
    let ended = slots.open();
    prop_assert_eq!(ended.keys().collect::<Vec<_>>(), history.truth.keys().collect::<Vec<_>>());
    for (slot, cause) in &open {
        prop_assert_eq!(ended.get(slot), Some(cause), "a cause that was told changed");
    }
    let unlike =
        |(slot, cause): &(&i64, &Cause)| **cause != Cause::Unexplained && ended.get(slot) != Some(cause);
    prop_assert_eq!(history.truth.iter().find(unlike), None);
    for epoch in before {
        let ack = ledger.ack(AGENT, &[epoch.epoch], Incarnation(1), Commit(1));
        prop_assert!(ack.epochs[0].watermark.0 + 1 >= epoch.next.0, "{:?}", ack);
    }
    Ok(())
}

proptest! {
    #[test]
    fn what_is_forgotten_neither_comes_again_nor_is_missed(
        lives in prop::collection::vec(any_life(), 2..6),
        size in 1usize..8,
        order in prop::collection::vec(any::<usize>(), 0..60),
        kept in 0usize..3,
    ) {
        check(&lives, size, &order, kept)?;
    }
}

fn forgotten_first(lives: usize) -> (Ledger, Memory, History) {
    let history = live(&vec![Life { slots: vec![0; 5], down: 0, dropped: 0 }; lives]);
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    ledger.finished_max = FinishedMax(0);
    born(&mut ledger, &mut slots, &history.held[lives - 1..]);
    for frame in frames(&history, 9) {
        take(&mut ledger, &mut slots, &frame);
    }
    let last = history.held.last().unwrap().epoch;
    assert_eq!(chain(&ledger), [last]);
    (ledger, slots, history)
}

#[test]
fn a_birth_that_names_a_forgotten_epoch_wakes_it() {
    let (mut ledger, mut slots, history) = forgotten_first(3);
    let old = history.held[0];
    let disk = [old, history.held[2]];
    ledger.birth(AGENT, &disk, history.held[2].epoch, true);
    settle(&mut ledger, &mut slots);
    assert_eq!(ledger.agent(AGENT).unwrap().missing(), old.next.0 - 1, "its archive is asked for");
    for frame in frames(&history, 9) {
        assert_eq!(take(&mut ledger, &mut slots, &frame), frame[0].0 == old.epoch);
    }
    assert_eq!((slots.open(), ledger.agent(AGENT).unwrap().missing()), (BTreeMap::new(), 0));
}

#[test]
fn an_outbox_that_names_a_forgotten_epoch_replaces_and_one_that_writes_in_it_is_a_clone() {
    let (mut ledger, _, history) = forgotten_first(3);
    let writing = history.held[0].epoch;
    let found = ledger.birth(AGENT, &history.held[..1], writing, true);
    assert!(matches!(found, Some(Finding::ClonedAgent { returned, .. }) if returned == writing), "{found:?}");
    let (mut ledger, mut slots, history) = forgotten_first(3);
    let mut record = history.records[0].clone();
    record.0 = Epoch(900);
    if let Wrote::Start(start) = &mut record.2 {
        start.previous = Some((history.held[0].epoch, history.held[0].next));
    }
    deliver(&mut ledger, &mut slots, &[record]);
    assert_eq!(chain(&ledger).last(), Some(&Epoch(900)), "it does not wait for what is forgotten");
}
