//! What gateways whose clock is wrong, or not set yet, do to proofs and causes.

use std::collections::BTreeMap;

use gapless_common::id::{BootId, Epoch, Seq};
use gapless_common::quality::Cause;
use gapless_common::reading::{ClockCorrection, EpochStart, Loss};
use gapless_common::time::{Slot, Timestamp};

use super::tests::{AGENT, GRID, HASH, Memory, at, due, fresh};
use super::*;

const DAY: i64 = 86_400;
/// The slot of 2026-01-01.
const NOW: i64 = 1_767_225_600;

fn settle(ledger: &mut Ledger, slots: &mut Memory) {
    let Ok(()) = ledger.settle(AGENT, slots, Stamp { at: at(NOW), commit: 1 });
    ledger.take_changes();
}

fn start(previous: Option<(Epoch, Seq)>, (at, clock_set): (Timestamp, bool)) -> EpochStart {
    EpochStart {
        previous,
        boot: BootId(previous.map_or(1, |(epoch, _)| epoch.0)),
        boot_clock_ms: 5_000,
        at,
        clock_set,
        durable: true,
        agent_version: "".into(),
    }
}

fn complete(slot: i64) -> Mark {
    Mark::Complete { hash: HASH, through: BTreeMap::from([(GRID, Slot(slot))]) }
}

/// An agent that has polled from `NOW - 10` to `NOW - 6`, in epoch 1 with the seqs 1 to 3.
fn polled() -> (Ledger, Memory) {
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    ledger.start(AGENT, Epoch(1), &start(None, (at(NOW - 10), true)));
    ledger.mark(AGENT, Epoch(1), 2, Mark::Catalog { hash: HASH, since: Some(at(NOW - 10)) });
    (NOW - 10..NOW - 5).for_each(|slot| ledger.received(&due(), Slot(slot)));
    ledger.mark(AGENT, Epoch(1), 3, complete(NOW - 6));
    ledger.account(AGENT, Epoch(1), 1, 3);
    settle(&mut ledger, &mut slots);
    (ledger, slots)
}

/// An agent that begins without a clock, with a device that remembers the time before.
#[test]
fn what_a_device_remembers_of_the_time_before_an_undated_start_is_owed_by_nobody() {
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    ledger.start(AGENT, Epoch(1), &start(None, (Timestamp(5_000), false)));
    ledger.mark(AGENT, Epoch(1), 2, Mark::Catalog { hash: HASH, since: None });
    let (first, last, boot_began) = (Seq(3), Seq(3), at(NOW - 15));
    ledger.correction(AGENT, &ClockCorrection { boot: BootId(1), epoch: Epoch(1), first, last, boot_began });
    [NOW - 100, NOW - 90, NOW - 9, NOW - 6].into_iter().for_each(|slot| ledger.received(&due(), Slot(slot)));
    ledger.mark(AGENT, Epoch(1), 4, complete(NOW - 6));
    ledger.account(AGENT, Epoch(1), 1, 4);
    settle(&mut ledger, &mut slots);
    let open: Vec<i64> = slots.open().into_keys().collect();
    assert_eq!(open, [NOW - 10, NOW - 8, NOW - 7], "it began five seconds after its machine");
}

/// An agent that begins an hour ahead, and is put right a few seconds later.
#[test]
fn a_clock_that_was_ahead_at_the_begin_puts_off_nothing_once_it_is_right() {
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    let ahead = NOW + 3_600;
    ledger.start(AGENT, Epoch(1), &start(None, (at(ahead), true)));
    ledger.mark(AGENT, Epoch(1), 2, Mark::Catalog { hash: HASH, since: Some(at(ahead)) });
    ledger.received(&due(), Slot(ahead));
    ledger.mark(AGENT, Epoch(1), 3, complete(ahead - 1));
    ledger.account(AGENT, Epoch(1), 1, 3);
    settle(&mut ledger, &mut slots);
    [NOW - 6, NOW - 5, NOW - 3].into_iter().for_each(|slot| ledger.received(&due(), Slot(slot)));
    ledger.mark(AGENT, Epoch(1), 4, complete(NOW - 2));
    ledger.account(AGENT, Epoch(1), 4, 4);
    settle(&mut ledger, &mut slots);
    let open: Vec<i64> = slots.open().into_keys().collect();
    assert_eq!(open, [NOW - 4, NOW - 2]);
}

/// An agent that begins years ahead, and is put right a few seconds later.
#[test]
fn what_an_agent_that_began_years_ahead_did_not_poll_has_its_clock_as_the_cause() {
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    let ahead = NOW + 1_000 * DAY;
    ledger.start(AGENT, Epoch(1), &start(None, (at(ahead), true)));
    ledger.mark(AGENT, Epoch(1), 2, Mark::Catalog { hash: HASH, since: Some(at(ahead)) });
    ledger.account(AGENT, Epoch(1), 1, 2);
    settle(&mut ledger, &mut slots);
    [NOW + 3, NOW + 5].into_iter().for_each(|slot| ledger.received(&due(), Slot(slot)));
    ledger.mark(AGENT, Epoch(1), 3, complete(NOW + 5));
    ledger.account(AGENT, Epoch(1), 3, 3);
    let Ok(()) = ledger.settle(AGENT, &mut slots, Stamp { at: at(NOW + 6), commit: 2 });
    let mut expected: BTreeMap<_, _> = (NOW..NOW + 3).map(|slot| (slot, Cause::ClockStepped)).collect();
    expected.insert(NOW + 4, Cause::Unexplained);
    assert_eq!(slots.open(), expected);
}

/// The same of one that remembers longer than a clock is believed that is ahead: the run of its records is known from before.
#[test]
fn a_hole_behind_a_long_run_is_owed_by_whoever_began_ahead() {
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    let ahead = NOW + 3_600;
    ledger.start(AGENT, Epoch(1), &start(None, (at(ahead), true)));
    ledger.mark(AGENT, Epoch(1), 2, Mark::Catalog { hash: HASH, since: Some(at(ahead)) });
    (NOW - 2 * DAY..NOW - 5).chain([NOW - 3]).for_each(|slot| ledger.received(&due(), Slot(slot)));
    ledger.mark(AGENT, Epoch(1), 3, complete(NOW - 3));
    ledger.account(AGENT, Epoch(1), 1, 3);
    settle(&mut ledger, &mut slots);
    let open: Vec<i64> = slots.open().into_keys().collect();
    assert_eq!(open, [NOW - 5, NOW - 4]);
}

#[test]
fn a_clock_that_is_ahead_proves_what_has_passed_and_the_rest_when_its_time_has_come() {
    let (mut ledger, mut slots) = polled();
    let ahead = NOW + 1_000 * DAY;
    ledger.missed(&due(), Slot(NOW - 5), u32::try_from(ahead - NOW + 5).unwrap(), Cause::ClockStepped);
    ledger.received(&due(), Slot(ahead));
    ledger.mark(AGENT, Epoch(1), 4, complete(ahead));
    ledger.account(AGENT, Epoch(1), 4, 4);
    settle(&mut ledger, &mut slots);
    let open = slots.open();
    assert_eq!(open.keys().next_back(), Some(&NOW), "no gap lies in the future");
    assert_eq!(open.values().find(|cause| **cause != Cause::ClockStepped), None);
    assert!(slots.runs.len() <= 4, "cost is that of runs");

    // Time goes on while the clock is ahead.
    ledger.received(&due(), Slot(ahead + 7));
    ledger.mark(AGENT, Epoch(1), 5, complete(ahead + 7));
    ledger.account(AGENT, Epoch(1), 5, 5);
    let Ok(()) = ledger.settle(AGENT, &mut slots, Stamp { at: at(NOW + 7), commit: 2 });
    let open = slots.open();
    assert_eq!(open.keys().next_back(), Some(&(NOW + 7)));
    assert_eq!(open.values().find(|cause| **cause != Cause::ClockStepped), None);

    // Set right again: what comes fills, and a slot that never comes stays told.
    [NOW - 5, NOW - 4, NOW - 2].into_iter().for_each(|slot| ledger.received(&due(), Slot(slot)));
    ledger.mark(AGENT, Epoch(1), 6, complete(NOW - 2));
    ledger.account(AGENT, Epoch(1), 6, 6);
    settle(&mut ledger, &mut slots);
    let past: Vec<_> = slots.open().into_keys().filter(|slot| *slot < NOW).collect();
    assert_eq!(past, [NOW - 3, NOW - 1]);
}

#[test]
fn what_an_agent_has_proven_has_passed_however_slow_the_collectors_clock_is() {
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    ledger.start(AGENT, Epoch(1), &start(None, (at(NOW - 10), true)));
    ledger.mark(AGENT, Epoch(1), 2, Mark::Catalog { hash: HASH, since: Some(at(NOW - 10)) });
    (NOW - 10..NOW - 8).for_each(|slot| ledger.received(&due(), Slot(slot)));
    ledger.mark(AGENT, Epoch(1), 3, complete(NOW - 6));
    ledger.account(AGENT, Epoch(1), 1, 3);
    let slow = |commit| Stamp { at: at(NOW - 3_600), commit };
    let Ok(()) = ledger.settle(AGENT, &mut slots, slow(1));
    assert_eq!(slots.open().into_values().collect::<Vec<_>>(), [Cause::Unexplained; 3]);

    // The gateway's clock leaps ahead by years, and names the slots on its way.
    ledger.missed(&due(), Slot(NOW - 8), u32::try_from(1_000 * DAY).unwrap(), Cause::NotConnected);
    let Ok(()) = ledger.settle(AGENT, &mut slots, slow(2));
    let told: Vec<_> = slots.open().into_iter().collect();
    assert_eq!(told, [NOW - 8, NOW - 7, NOW - 6].map(|slot| (slot, Cause::NotConnected)));
}

#[test]
fn a_device_that_begins_under_a_clock_that_is_ahead_is_owed_from_now_on() {
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    let ahead = at(NOW + 1_000 * DAY);
    ledger.start(AGENT, Epoch(1), &start(None, (ahead, true)));
    ledger.mark(AGENT, Epoch(1), 2, Mark::Catalog { hash: HASH, since: Some(ahead) });
    ledger.account(AGENT, Epoch(1), 1, 2);
    settle(&mut ledger, &mut slots);
    [NOW + 1, NOW + 3].into_iter().for_each(|slot| ledger.received(&due(), Slot(slot)));
    ledger.mark(AGENT, Epoch(1), 3, complete(NOW + 3));
    ledger.account(AGENT, Epoch(1), 3, 3);
    settle(&mut ledger, &mut slots);
    assert_eq!(slots.open().into_keys().collect::<Vec<_>>(), [NOW, NOW + 2]);
}

/// The card is replaced while the machine is off, and the new one begins before the clock is set: what was not polled, or
/// lay on the old card, is of the replaced store, up to the instant that the clock's correction gives the start.
#[test]
fn a_store_that_was_replaced_before_the_clock_was_set_is_the_cause_of_what_it_took_along() {
    let (mut ledger, mut slots) = polled();
    ledger.start(AGENT, Epoch(2), &start(None, (Timestamp(5_000), false)));
    ledger.mark(AGENT, Epoch(2), 2, Mark::Catalog { hash: HASH, since: None });
    let boot_began = at(NOW - 3).plus_ms(-5_500);
    let (first, last) = (Seq(1), Seq(2));
    ledger.correction(AGENT, &ClockCorrection { boot: BootId(1), epoch: Epoch(2), first, last, boot_began });
    ledger.received(&due(), Slot(NOW - 3));
    ledger.mark(AGENT, Epoch(2), 4, complete(NOW - 2));
    ledger.account(AGENT, Epoch(2), 1, 4);
    settle(&mut ledger, &mut slots);
    let expected =
        [(NOW - 5, Cause::StoreReplaced), (NOW - 4, Cause::StoreReplaced), (NOW - 2, Cause::Unexplained)];
    assert_eq!(slots.open(), BTreeMap::from(expected));
}

/// The same where the new card holds no declaration before it fails: the next epoch, which follows it, proves.
#[test]
fn a_store_that_was_replaced_is_the_cause_where_a_later_epoch_proves() {
    let (mut ledger, mut slots) = polled();
    ledger.start(AGENT, Epoch(2), &start(None, (Timestamp(5_000), false)));
    ledger.mark(AGENT, Epoch(2), 2, Mark::Catalog { hash: HASH, since: None });
    let boot_began = at(NOW - 3).plus_ms(-5_500);
    let (first, last) = (Seq(1), Seq(2));
    ledger.correction(AGENT, &ClockCorrection { boot: BootId(1), epoch: Epoch(2), first, last, boot_began });
    ledger.received(&due(), Slot(NOW - 3));
    ledger.account(AGENT, Epoch(2), 1, 3);
    settle(&mut ledger, &mut slots);
    ledger.start(AGENT, Epoch(3), &start(Some((Epoch(2), Seq(4))), (at(NOW - 2), true)));
    ledger.mark(AGENT, Epoch(3), 2, Mark::Catalog { hash: HASH, since: Some(at(NOW - 2)) });
    ledger.received(&due(), Slot(NOW - 2));
    ledger.mark(AGENT, Epoch(3), 3, complete(NOW - 1));
    ledger.account(AGENT, Epoch(3), 1, 3);
    settle(&mut ledger, &mut slots);
    let expected =
        [(NOW - 5, Cause::StoreReplaced), (NOW - 4, Cause::StoreReplaced), (NOW - 1, Cause::Unexplained)];
    assert_eq!(slots.open(), BTreeMap::from(expected));
}

/// A gateway's disk fails at its start and is back before the collector has heard anything of the epoch in memory but
/// that it was given up: the next start on the same disk follows the one before it.
#[test]
fn an_epoch_in_memory_that_is_known_from_a_loss_only_has_no_place_in_the_chain() {
    let (mut ledger, mut slots) = polled();
    ledger.start(AGENT, Epoch(2), &start(Some((Epoch(1), Seq(4))), (at(NOW - 5), true)));
    let (first, last, from, to) = (Seq(1), Seq(6), at(NOW - 5).plus_ms(1), at(NOW - 5));
    ledger.loss(AGENT, &Loss { epoch: Epoch(700), first, last, from, to, cause: Cause::DiskFailed });
    ledger.account(AGENT, Epoch(2), 1, 2);
    settle(&mut ledger, &mut slots);
    ledger.start(AGENT, Epoch(3), &start(Some((Epoch(2), Seq(3))), (at(NOW - 2), true)));
    ledger.account(AGENT, Epoch(3), 1, 1);
    settle(&mut ledger, &mut slots);
    let agent = ledger.agent(AGENT).unwrap();
    assert_eq!(agent.chain.values().copied().collect::<Vec<_>>(), [Epoch(1), Epoch(2), Epoch(3)]);
    assert_eq!(agent.epochs[&Epoch(3)].link, None, "nothing was replaced");
}
