//! Two gateways under one name, and losses whose time cannot be trusted: nothing that is alive is given up, what
//! was given up too early is owed again, no loss renames what it does not hold, and what one agent can make the
//! ledger keep is bounded.

use std::collections::BTreeMap;

use gapless_common::id::{BootId, Epoch, Seq};
use gapless_common::message::HeldEpoch;
use gapless_common::quality::Cause;
use gapless_common::reading::{EpochStart, Loss};
use gapless_common::time::Timestamp;

use super::tests::{AGENT, History, Life, Memory, Wrote, at, chain, deliver, frames, fresh, live, settle};
use super::*;

const RETURNED: Epoch = Epoch(500);

fn answered(count: usize) -> Life {
    Life { slots: vec![0; count], down: 0, dropped: 0 }
}

/// All records but those of the slots `without`, one by one.
fn deliver_but(ledger: &mut Ledger, slots: &mut Memory, history: &History, without: &[i64]) {
    let absent = |wrote: &Wrote| matches!(wrote, Wrote::Reading(slot) if without.contains(slot));
    for record in history.records.iter().filter(|(_, _, wrote)| !absent(wrote)) {
        deliver(ledger, slots, std::slice::from_ref(record));
    }
}

/// The first record of the old gateway's next life: it knows nothing of the gateway that replaced it.
fn returned(previous: HeldEpoch) -> (Epoch, u64, Wrote) {
    let start = EpochStart {
        previous: Some((previous.epoch, previous.next)),
        boot: BootId(9),
        boot_clock_ms: 0,
        at: at(1_100),
        clock_set: true,
        durable: true,
        agent_version: "".into(),
    };
    (RETURNED, 1, Wrote::Start(start))
}

/// A gateway, another one in its place with one reading on its way, and the first one again in the workshop.
fn replaced() -> (Ledger, Memory, History) {
    let history = live(&[answered(10), answered(10)]);
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    ledger.birth(AGENT, &history.held, history.held[1].epoch, true);
    deliver_but(&mut ledger, &mut slots, &history, &[1_014]);
    deliver(&mut ledger, &mut slots, &[returned(history.held[0])]);
    (ledger, slots, history)
}

fn lost(ledger: &Ledger, epoch: Epoch) -> usize {
    ledger.agent(AGENT).unwrap().epochs[&epoch].lost.len()
}

#[test]
fn what_the_last_birth_names_is_not_given_up_for_a_gateway_that_returns() {
    let (mut ledger, mut slots, history) = replaced();
    assert_eq!(lost(&ledger, history.held[1].epoch), 0);
    deliver_but(&mut ledger, &mut slots, &history, &[]);
    assert_eq!(slots.open(), BTreeMap::new());
}

#[test]
fn what_was_given_up_is_owed_again_once_its_gateway_is_born() {
    let (mut ledger, mut slots, history) = replaced();
    let (old, new) = (history.held[0], history.held[1]);
    let workshop = HeldEpoch { epoch: RETURNED, first: Seq(1), next: Seq(2) };
    ledger.birth(AGENT, &[old, workshop], RETURNED, true);
    settle(&mut ledger, &mut slots);
    assert_eq!(lost(&ledger, new.epoch), 1, "all that this gateway holds has come");
    ledger.birth(AGENT, &[old, new], new.epoch, true);
    settle(&mut ledger, &mut slots);
    assert_eq!(lost(&ledger, new.epoch), 0);
    assert_eq!(ledger.agent(AGENT).unwrap().missing(), 1);
    deliver_but(&mut ledger, &mut slots, &history, &[]);
    assert_eq!(slots.open(), BTreeMap::new());
    // Proof goes on: what the gateway says from now on takes effect.
    let through = BTreeMap::from([(super::tests::GRID, Slot(1_030))]);
    let complete = Mark::Complete { hash: super::tests::HASH, through };
    deliver(&mut ledger, &mut slots, &[(new.epoch, new.next.0, Wrote::Mark(complete))]);
    assert_eq!(slots.open().len(), 11);
}

/// Nothing else keeps the word of such a downtime: it must count before it could be lost in a crash.
#[test]
fn a_downtime_of_an_epoch_that_never_has_a_place_counts_when_that_is_known() {
    let mut history = live(&[Life { slots: vec![0; 10], down: 4, dropped: 0 }, answered(10)]);
    for (_, _, wrote) in &mut history.records {
        if matches!(wrote, Wrote::Mark(Mark::Downtime { .. })) {
            *wrote = Wrote::Reading(1_000);
        }
    }
    let whole = history.held.clone();
    let mut at_its_start = whole.clone();
    at_its_start[1].next = at_its_start[1].first;
    // What a birth names of the epoch that is being written: all of it, or nothing yet.
    for held in [whole, at_its_start] {
        let (mut ledger, mut slots) = (fresh(), Memory::default());
        let beside = Mark::Downtime { from: at(1_010), to: at(1_014), cause: Cause::PowerOff };
        deliver(&mut ledger, &mut slots, &[(RETURNED, 2, Wrote::Mark(beside))]);
        ledger.birth(AGENT, &held, held[1].epoch, true);
        let records = history.records.iter();
        records.for_each(|record| deliver(&mut ledger, &mut slots, std::slice::from_ref(record)));
        assert_eq!(slots.open(), (1_010..1_014).map(|slot| (slot, Cause::PowerOff)).collect());
    }
}

/// Bits flipped in the first record of a life, and in nothing else: what it did not write down at its end is no loss.
#[test]
fn an_epoch_whose_first_record_alone_is_lost_follows_the_one_before_it() {
    let lives = [answered(10), Life { slots: vec![0; 10], down: 4, dropped: 0 }, answered(10)];
    let history = live(&lives);
    let epochs: Vec<Epoch> = history.held.iter().map(|held| held.epoch).collect();
    let (first, last, cause) = (Seq(1), Seq(1), Cause::Quarantined);
    let loss = Loss { epoch: epochs[1], first, last, from: at(1_010), to: at(1_010), cause };
    let mut records: Vec<_> =
        history.records.iter().filter(|r| (r.0, r.1) != (epochs[1], 1)).cloned().collect();
    let told = history.held[2].next.0;
    records.push((epochs[2], told, Wrote::Loss(loss)));
    let mut held = history.held.clone();
    (held[1].first, held[2].next) = (Seq(2), Seq(told + 1));
    for newest_first in [false, true] {
        let mut records = records.clone();
        if newest_first {
            records.reverse();
        }
        let (mut ledger, mut slots) = (fresh(), Memory::default());
        ledger.birth(AGENT, &held, epochs[2], true);
        records.iter().for_each(|record| deliver(&mut ledger, &mut slots, std::slice::from_ref(record)));
        let links: Vec<_> = epochs.iter().map(|e| ledger.agent(AGENT).unwrap().epochs[e].link).collect();
        assert_eq!((chain(&ledger), links), (epochs.clone(), vec![None; 3]), "newest first: {newest_first}");
        let down = (1_020..1_024).map(|slot| (slot, Cause::Crashed));
        assert_eq!(slots.open(), down.collect(), "newest first: {newest_first}");
    }
}

#[test]
fn an_epoch_without_a_first_record_waits_for_those_that_are_held() {
    let history = live(&[answered(5)]);
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    ledger.birth(AGENT, &history.held, history.held[0].epoch, true);
    ledger.park(AGENT, RETURNED, 1, 3);
    settle(&mut ledger, &mut slots);
    assert_eq!(chain(&ledger), []);
    deliver_but(&mut ledger, &mut slots, &history, &[]);
    assert_eq!(chain(&ledger), [history.held[0].epoch, RETURNED]);
}

#[test]
fn a_loss_of_records_from_before_the_clock_was_set_renames_nothing_else() {
    let first = Life { slots: vec![0, 9, 0, 0, 0, 0], down: 4, dropped: 0 };
    let second = Life { slots: vec![0; 10], down: 0, dropped: 3 };
    let mut history = live(&[first, second]);
    for (_, _, wrote) in &mut history.records {
        if let Wrote::Loss(loss) = wrote {
            loss.from = Timestamp(0);
        }
    }
    for newest_first in [false, true] {
        let mut frames = frames(&history, 3);
        if newest_first {
            frames.reverse();
        }
        let (mut ledger, mut slots) = (fresh(), Memory::default());
        ledger.birth(AGENT, &history.held, history.held[1].epoch, true);
        frames.iter().for_each(|frame| deliver(&mut ledger, &mut slots, frame));
        let budget: Vec<_> = slots.open().into_iter().filter(|(_, c)| *c == Cause::BudgetFull).collect();
        assert_eq!(budget.len(), 3, "{budget:?}");
        for (slot, cause) in slots.open() {
            let expected = history.truth[&slot];
            assert!(cause == expected || expected == Cause::Unexplained, "{slot}: {cause:?}");
        }
    }
}

/// Misses from before a gateway's disk failed may stand in the epoch that it keeps in memory since.
#[test]
fn a_loss_speaks_of_what_its_records_speak_of() {
    let history = live(&[answered(3)]);
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    history.records.iter().for_each(|record| deliver(&mut ledger, &mut slots, std::slice::from_ref(record)));
    let epoch = history.held[0].epoch;
    let Wrote::Start(start) = &history.records[0].2 else { panic!("the first record is a start") };
    let before = |ms: i64| start.at.plus_ms(-ms);
    let rows = [
        (before(-5_000), before(-5_000)),
        (before(75_000), before(75_000)),
        (before(3_600_000), start.at),
        (Timestamp(0), start.at),
    ];
    for (from, expected) in rows {
        let (first, last, to, cause) = (Seq(1), Seq(2), before(-9_000), Cause::DiskFailed);
        let loss = Loss { epoch, first, last, from, to, cause };
        assert_eq!(ledger.agent(AGENT).unwrap().time_of(&loss), Some((expected, to)), "{from:?}");
    }
}

#[test]
fn what_an_agent_makes_the_ledger_keep_is_bounded() {
    let mut ledger = fresh();
    let last = u64::try_from(RANGES_MAX).unwrap() * 2;
    for seq in (2..=last).step_by(2) {
        ledger.account(AGENT, Epoch(1), seq, seq);
    }
    let rows = [((1, 1), true), ((3, 3), true), ((last + 1, last + 9), true), ((last + 2, last + 9), false)];
    for ((first, last), expected) in rows {
        assert_eq!(ledger.has_room(AGENT, Epoch(1), first, last), expected, "{first}..={last}");
    }
    for n in 2..=u64::try_from(EPOCHS_UNFINISHED_MAX).unwrap() {
        assert!(ledger.has_room(AGENT, Epoch(n), 1, 1));
        ledger.account(AGENT, Epoch(n), 1, 1);
    }
    assert!(!ledger.has_room(AGENT, RETURNED.max(Epoch(9_999)), 1, 1));
    assert!(ledger.has_room(AGENT, RETURNED, 2, 2));
    let held = |n| [HeldEpoch { epoch: Epoch(n), first: Seq(1), next: Seq(2) }];
    assert!(ledger.has_room_for_birth(AGENT, &held(1)) && !ledger.has_room_for_birth(AGENT, &held(9_999)));
}

#[test]
fn what_a_birth_names_is_missing_before_anything_of_it_came() {
    let held = HeldEpoch { epoch: Epoch(1), first: Seq(11), next: Seq(31) };
    let came = RangeSet::from_iter([(5, 14)]);
    let rows = [
        (RangeSet::new(), None, None, 0),
        (RangeSet::new(), None, Some(&held), 20),
        (came.clone(), None, None, 4),
        (came.clone(), None, Some(&held), 4 + 16),
        (came, Some(41), Some(&held), 4 + 26),
    ];
    for (accounted, end, held, expected) in rows {
        assert_eq!(missing(&accounted, end, held), expected, "{accounted:?} {end:?} {held:?}");
    }
}

/// A gateway that had gone on in memory is on its disk again, and the birth of the memory arrives behind the disk's
/// first frames: what it does not name is not given up, and no acknowledgement covers it.
#[test]
fn a_birth_of_memory_gives_up_nothing_that_the_disk_may_hold() {
    for is_in_memory in [true, false] {
        let mut ledger = fresh();
        let mut slots = Memory::default();
        let held = |epoch, next| HeldEpoch { epoch: Epoch(epoch), first: Seq(1), next: Seq(next) };
        ledger.birth(AGENT, &[held(1, 4)], Epoch(1), true);
        ledger.account(AGENT, Epoch(1), 1, 1);
        ledger.account(AGENT, Epoch(1), 3, 3);
        let memory = [held(700, 1)];
        let found = match is_in_memory {
            true => ledger.birth_in_memory(AGENT, &memory, Epoch(700), true),
            false => ledger.birth(AGENT, &memory, Epoch(700), true),
        };
        assert_eq!(found, None);
        settle(&mut ledger, &mut slots);
        let given_up = if is_in_memory { 1 } else { 3 };
        assert_eq!(ledger.agent(AGENT).unwrap().epochs[&Epoch(1)].watermark(), given_up, "{is_in_memory}");
    }
}

/// Of what a gateway had in memory the first record was lost on the way: it stands beside the chain all the same, and what of
/// it never came went with the process, as its disk had failed.
#[test]
fn what_was_in_memory_is_known_by_its_birth_where_its_first_record_never_came() {
    let held = |epoch, next| HeldEpoch { epoch: Epoch(epoch), first: Seq(1), next: Seq(next) };
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    ledger.birth_in_memory(AGENT, &[held(700, 5)], Epoch(700), true);
    ledger.account(AGENT, Epoch(700), 4, 4);
    settle(&mut ledger, &mut slots);
    ledger.birth(AGENT, &[held(1, 3)], Epoch(1), true);
    ledger.account(AGENT, Epoch(1), 1, 2);
    settle(&mut ledger, &mut slots);
    let memory = &ledger.agent(AGENT).unwrap().epochs[&Epoch(700)];
    assert_eq!(memory.place, None);
    assert_eq!(memory.lost, [(1, 3, Cause::DiskFailed)]);
    // It is held after all.
    ledger.birth_in_memory(AGENT, &[held(700, 9)], Epoch(700), false);
    assert_eq!(ledger.agent(AGENT).unwrap().epochs[&Epoch(700)].lost, []);
}

/// A birth is overtaken by the next process's, whose frames are coming in: what it could not name is not given up.
#[test]
fn a_birth_that_comes_late_gives_up_nothing_that_came_after_it() {
    let history = live(&[
        Life { slots: vec![0; 4], down: 0, dropped: 0 },
        Life { slots: vec![0; 4], down: 0, dropped: 0 },
    ]);
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    let [first, second] = [&history.held[0], &history.held[1]];
    ledger.birth(AGENT, &history.held, second.epoch, true);
    let missing = (second.epoch, second.next.0 - 2);
    for record in history.records.iter().filter(|(epoch, seq, _)| (*epoch, *seq) != missing) {
        deliver(&mut ledger, &mut slots, std::slice::from_ref(record));
    }
    ledger.birth(AGENT, std::slice::from_ref(first), first.epoch, false);
    settle(&mut ledger, &mut slots);
    assert_eq!(ledger.agent(AGENT).unwrap().epochs[&second.epoch].watermark(), missing.1 - 1);
}

/// Three processes; the birth of the first one comes behind that of the third and all the frames that have come, before
/// any of those has a place in the chain: it is told from a cloned gateway by what the follower found.
#[test]
fn a_birth_is_overtaken_where_another_epoch_has_followed_and_found_all_that_it_says() {
    let life = || Life { slots: vec![0; 4], down: 2, dropped: 0 };
    let history = live(&[life(), life(), life()]);
    let [first, second, third] = history.held[..] else { panic!("three lives") };
    let mut ledger = fresh();
    let late = [HeldEpoch { next: Seq(first.next.0 - 1), ..first }];
    assert!(!ledger.is_overtaken(AGENT, &late, first.epoch), "nothing is known of it");
    ledger.birth(AGENT, &history.held, third.epoch, true);
    assert!(ledger.is_overtaken(AGENT, &late, first.epoch));
    assert!(ledger.is_overtaken(AGENT, &[first], first.epoch));
    assert!(ledger.is_overtaken(AGENT, &[first, second], second.epoch));
    assert!(!ledger.is_overtaken(AGENT, &history.held, third.epoch), "said once more");
    let went_on = HeldEpoch { next: Seq(first.next.0 + 1), ..first };
    assert!(!ledger.is_overtaken(AGENT, &[went_on], first.epoch), "two outboxes write");
}

/// A disk that failed for a moment: the birth of the epoch in memory comes behind what the disk has taken along of it.
#[test]
fn a_birth_of_an_epoch_in_memory_is_overtaken_by_what_the_disk_took_along() {
    let mut ledger = fresh();
    let (memory, now) = (HeldEpoch { epoch: Epoch(700), first: Seq(1), next: Seq(4) }, at(1_000));
    assert!(!ledger.is_overtaken(AGENT, &[memory], memory.epoch), "nothing is known of it");
    let gone = Loss {
        epoch: memory.epoch,
        first: Seq(1),
        last: Seq(1),
        from: now,
        to: now,
        cause: Cause::DiskFailed,
    };
    ledger.loss(AGENT, &gone);
    assert!(!ledger.is_overtaken(AGENT, &[memory], memory.epoch), "its own loss");
    let taken_along = Loss { first: Seq(2), last: Seq(3), from: now.plus_ms(1), ..gone };
    ledger.loss(AGENT, &taken_along);
    assert!(ledger.is_overtaken(AGENT, &[memory], memory.epoch));
}

/// A gateway whose disk never took anything ran in memory, was killed, and started again on a disk that is in order: no
/// downtime tells of it.
#[test]
fn what_only_memory_had_went_with_the_disk_that_failed() {
    let start = |slot, durable| {
        let clock_set = true;
        let (boot, agent_version) = (BootId(1), "".into());
        let at = at(slot);
        Wrote::Start(EpochStart {
            previous: None,
            boot,
            boot_clock_ms: 0,
            at,
            clock_set,
            durable,
            agent_version,
        })
    };
    let through = BTreeMap::from([(super::tests::GRID, Slot(1_022))]);
    let (memory, disk) = (Epoch(700), Epoch(1));
    for is_told in [false, true] {
        let (mut ledger, mut slots) = (fresh(), Memory::default());
        let loss = Loss {
            epoch: memory,
            first: Seq(1),
            last: Seq(9),
            from: at(2),
            to: at(1),
            cause: Cause::DiskFailed,
        };
        let mut records = vec![
            (memory, 1, start(1_000, false)),
            (memory, 2, Wrote::Reading(1_000)),
            (disk, 1, start(1_010, true)),
            (disk, 2, Wrote::Mark(Mark::Catalog { hash: super::tests::HASH, since: None })),
            (disk, 3, Wrote::Reading(1_010)),
            (disk, 4, if is_told { Wrote::Loss(loss) } else { Wrote::Reading(1_011) }),
        ];
        records.push((disk, 5, Wrote::Reading(1_022)));
        let complete = Mark::Complete { hash: super::tests::HASH, through: through.clone() };
        records.push((disk, 6, Wrote::Mark(complete)));
        records.iter().for_each(|record| deliver(&mut ledger, &mut slots, std::slice::from_ref(record)));
        let causes = slots.open();
        let in_memory = if is_told { Cause::Unexplained } else { Cause::DiskFailed };
        assert_eq!((1_001..1_010).map(|slot| causes[&slot]).collect::<Vec<_>>(), [in_memory; 9], "{is_told}");
        assert_eq!(causes[&1_015], Cause::Unexplained, "{is_told}: the disk was in order then");
    }
}
