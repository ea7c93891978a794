//! Histories of a simulated agent (crashes, downtime, misses, losses), delivered in any order and any number of
//! times: the gaps at the end are the true ones with the true causes, and none is called that is received later.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use gapless_common::id::{BootId, CatalogHash, Epoch, Seq};
use gapless_common::message::HeldEpoch;
use gapless_common::quality::Cause;
use gapless_common::reading::{EpochStart, Loss};
use gapless_common::time::{Interval, Slot, SlotGrid, Timestamp};
use proptest::prelude::*;

use super::*;

pub(super) const AGENT: AgentNo = AgentNo(1);
pub(super) const GRID: GridNo = GridNo(1);
pub(super) const HASH: CatalogHash = CatalogHash(7);

pub(super) fn times() -> SlotGrid {
    SlotGrid::every(Interval::from_ms(1_000).unwrap())
}

pub(super) fn due() -> Due {
    Due { device: DeviceNo(1), grid: GRID, times: times(), paused: false }
}

/// Runs and gaps in memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) runs: BTreeMap<i64, Run>,
    pub(super) gaps: BTreeMap<i64, Gap>,
    last_id: i64,
}

fn touching<T: Copy>(all: &BTreeMap<i64, T>, first: i64, last: i64, end: impl Fn(&T) -> i64) -> Vec<T> {
    all.iter().filter(|(f, t)| **f <= last + 1 && end(t) >= first - 1).map(|(_, t)| *t).collect()
}

impl Slots for Memory {
    type Error = Infallible;
    fn runs(&mut self, _: GridNo, first: i64, last: i64) -> Result<Vec<Run>, Infallible> {
        Ok(touching(&self.runs, first, last, |r| r.last))
    }
    fn replace_runs(&mut self, _: GridNo, old: &[Run], new: &[Run]) -> Result<(), Infallible> {
        self.runs.retain(|first, _| !old.iter().any(|r| r.first == *first));
        self.runs.extend(new.iter().map(|r| (r.first, *r)));
        Ok(())
    }
    fn first_known(&mut self, _: GridNo, from: i64) -> Result<Option<i64>, Infallible> {
        Ok(self.runs.range(from..).next().map(|(f, _)| *f))
    }
    fn gaps(&mut self, _: GridNo, first: i64, last: i64) -> Result<Vec<Gap>, Infallible> {
        Ok(touching(&self.gaps, first, last, |g| g.last))
    }
    fn replace_gaps(&mut self, _: GridNo, _: SlotGrid, old: &[Gap], new: &[Gap]) -> Result<(), Infallible> {
        self.gaps.retain(|first, _| !old.iter().any(|g| g.first == *first));
        for gap in new {
            self.last_id += 1;
            let id = if gap.id == 0 { self.last_id } else { gap.id };
            self.gaps.insert(gap.first, Gap { id, ..*gap });
        }
        Ok(())
    }
}

impl Memory {
    /// Slot → cause of all open gaps.
    pub(super) fn open(&self) -> BTreeMap<i64, Cause> {
        let open = self.gaps.values().filter(|g| g.closed.is_none());
        open.flat_map(|g| (g.first..=g.last).map(|slot| (slot, g.cause))).collect()
    }
}

/// A record, as the simulated agent wrote it.
#[derive(Debug, Clone)]
pub(super) enum Wrote {
    Start(EpochStart),
    Mark(Mark),
    Reading(i64),
    Miss(i64),
    Loss(Loss),
}

/// One life of the agent.
#[derive(Debug, Clone)]
pub(super) struct Life {
    /// Per slot: 0 to 6 answered, 7 to 8 missed, 9 nobody knows (a defect of the agent).
    pub(super) slots: Vec<u8>,
    /// Slots without agent after it.
    pub(super) down: i64,
    /// The first so many readings of this life are dropped by the budget.
    pub(super) dropped: usize,
}

#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) records: Vec<(Epoch, u64, Wrote)>,
    /// Slot → cause; `Unexplained` where it depends on what else was lost.
    pub(super) truth: BTreeMap<i64, Cause>,
    pub(super) held: Vec<HeldEpoch>,
}

pub(super) fn at(slot: i64) -> Timestamp {
    times().at(Slot(slot))
}

/// Writes the records of one life and returns the slot at which it ends.
fn write_life(history: &mut History, epoch: Epoch, life: &Life, (ended, mut now): (Option<i64>, i64)) -> i64 {
    let previous = history.held.last().map(|h| (h.epoch, h.next));
    let (boot, at_start, version) = (BootId(1), at(now), "".into());
    let mut wrote = vec![Wrote::Start(EpochStart {
        previous,
        boot,
        boot_clock_ms: 0,
        at: at_start,
        clock_set: true,
        durable: true,
        agent_version: version,
    })];
    if let Some(from) = ended {
        wrote.push(Wrote::Mark(Mark::Downtime { from: at(from), to: at(now), cause: Cause::Crashed }));
        history.truth.extend((from..now).map(|slot| (slot, Cause::Crashed)));
    }
    wrote.push(Wrote::Mark(Mark::Catalog { hash: HASH, since: Some(at(now)) }));
    let mut readings = Vec::new();
    for &kind in &life.slots {
        let cause = if kind >= 9 { Cause::Unexplained } else { Cause::NoAnswer };
        match kind {
            0..=6 => {
                readings.push((wrote.len(), now));
                wrote.push(Wrote::Reading(now));
            }
            7..=8 => wrote.push(Wrote::Miss(now)),
            _ => {}
        }
        if kind > 6 {
            history.truth.insert(now, cause);
        }
        if now % 3 == 0 {
            wrote.push(complete(now));
        }
        now += 1;
    }
    wrote.push(complete(now - 1));
    let mut dropped = 0..0;
    if let (Some(&(f, from)), Some(&(l, to))) =
        (readings.first(), readings.iter().take(life.dropped).next_back())
    {
        dropped = f..l + 1;
        let seq = |index: usize| Seq(u64::try_from(index).unwrap() + 1);
        let (first, last, cause) = (seq(f), seq(l), Cause::BudgetFull);
        wrote.push(Wrote::Loss(Loss { epoch, first, last, from: at(from), to: at(to), cause }));
        history.truth.extend((from..=to).map(|slot| (slot, cause)));
    }
    let next = Seq(u64::try_from(wrote.len()).unwrap() + 1);
    let numbered = (1..).zip(wrote).enumerate().filter(|(index, _)| !dropped.contains(index));
    history.records.extend(numbered.map(|(_, (seq, wrote))| (epoch, seq, wrote)));
    history.held.push(HeldEpoch { epoch, first: Seq(1), next });
    now
}

fn complete(slot: i64) -> Wrote {
    Wrote::Mark(Mark::Complete { hash: HASH, through: BTreeMap::from([(GRID, Slot(slot))]) })
}

pub(super) fn live(lives: &[Life]) -> History {
    let mut history = History::default();
    let (mut now, mut ended) = (1_000, None);
    for (epoch, life) in (100..).map(Epoch).zip(lives) {
        let end = write_life(&mut history, epoch, life, (ended, now));
        (ended, now) = (Some(end), end + life.down);
    }
    history
}

/// Neighbouring records in frames of at most `size`.
pub(super) fn frames(history: &History, size: usize) -> Vec<Vec<(Epoch, u64, Wrote)>> {
    let unbroken = history.records.chunk_by(|a, b| a.0 == b.0 && a.1 + 1 == b.1);
    unbroken.flat_map(|run| run.chunks(size)).map(<[_]>::to_vec).collect()
}

pub(super) fn deliver(ledger: &mut Ledger, slots: &mut Memory, frame: &[(Epoch, u64, Wrote)]) {
    for (epoch, seq, wrote) in frame {
        match wrote {
            Wrote::Start(start) => ledger.start(AGENT, *epoch, start),
            Wrote::Mark(mark) => ledger.mark(AGENT, *epoch, *seq, mark.clone()),
            Wrote::Reading(slot) => ledger.received(&due(), Slot(*slot)),
            Wrote::Miss(slot) => ledger.missed(&due(), Slot(*slot), 1, Cause::NoAnswer),
            Wrote::Loss(loss) => ledger.loss(AGENT, loss),
        }
    }
    if let (Some((epoch, first, _)), Some((_, last, _))) = (frame.first(), frame.last()) {
        ledger.account(AGENT, *epoch, *first, *last);
    }
    settle(ledger, slots);
}

pub(super) fn chain(ledger: &Ledger) -> Vec<Epoch> {
    ledger.agent(AGENT).unwrap().chain.values().copied().collect()
}

pub(super) fn settle(ledger: &mut Ledger, slots: &mut Memory) {
    let stamp = Stamp { at: Timestamp(0), commit: 1 };
    let Ok(()) = ledger.settle(AGENT, slots, stamp);
    ledger.take_changes();
}

pub(super) fn fresh() -> Ledger {
    let mut ledger = Ledger::default();
    ledger.agent_mut(AGENT).schedules.insert(HASH, Arc::new(vec![due()]));
    ledger
}

/// Delivers `order` (indices of frames) and then every frame, and judges what is called a gap at every step.
fn check(lives: &[Life], size: usize, order: &[usize], newest_first: bool) -> Result<(), TestCaseError> {
    let history = live(lives);
    let mut frames = frames(&history, size);
    if newest_first {
        frames.reverse();
    }
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    let writing = history.held.last().unwrap().epoch;
    prop_assert_eq!(ledger.birth(AGENT, &history.held, writing, true), None);
    let every = 0..frames.len();
    for index in order.iter().map(|i| i % frames.len()).chain(every) {
        deliver(&mut ledger, &mut slots, &frames[index]);
        for (slot, cause) in slots.open() {
            prop_assert!(history.truth.contains_key(&slot), "slot {} called a gap: {:?}", slot, cause);
        }
    }
    let open = slots.open();
    prop_assert_eq!(open.keys().collect::<Vec<_>>(), history.truth.keys().collect::<Vec<_>>());
    for (slot, cause) in &history.truth {
        let known = open[slot];
        // A slot that no record names takes the cause of what ended or was lost beside it.
        let may_be_other =
            *cause == Cause::Unexplained && [Cause::Crashed, Cause::BudgetFull].contains(&known);
        prop_assert!(known == *cause || may_be_other, "slot {}: {:?}, not {:?}", slot, known, cause);
    }
    prop_assert!(slots.gaps.values().all(|gap| gap.closed.is_none()), "a gap had been opened falsely");
    for held in &history.held {
        let ack = ledger.ack(AGENT, &[], Incarnation(1), Commit(1));
        let state = ack.epochs.iter().find(|e| e.epoch == held.epoch).unwrap();
        prop_assert_eq!(state.watermark, Seq(held.next.0 - 1));
        prop_assert!(ledger.agent(AGENT).unwrap().epochs[&held.epoch].marks.is_empty());
    }
    Ok(())
}

prop_compose! {
    pub(super) fn any_life()(
        slots in prop::collection::vec(0u8..10, 1..20),
        down in 0i64..5,
        dropped in prop_oneof![3 => Just(0usize), 1 => 1usize..6],
    ) -> Life {
        Life { slots, down, dropped }
    }
}

proptest! {
    /// The heart of the product.
    #[test]
    fn any_delivery_ends_in_the_true_gaps(
        lives in prop::collection::vec(any_life(), 1..5),
        size in 1usize..8,
        order in prop::collection::vec(any::<usize>(), 0..60),
        newest_first in any::<bool>(),
    ) {
        check(&lives, size, &order, newest_first)?;
    }
}

/// A ledger with one life of 10 answered slots delivered, but for those in `without`.
fn one_life(without: &[i64]) -> (Ledger, Memory, History) {
    let history = live(&[Life { slots: vec![0; 10], down: 0, dropped: 0 }]);
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    let absent = |wrote: &Wrote| matches!(wrote, Wrote::Reading(slot) if without.contains(slot));
    for record in history.records.iter().filter(|(_, _, wrote)| !absent(wrote)) {
        deliver(&mut ledger, &mut slots, std::slice::from_ref(record));
    }
    (ledger, slots, history)
}

#[test]
fn nothing_is_a_gap_while_a_record_before_its_proof_is_missing() {
    let (ledger, slots, _) = one_life(&[1_004]);
    assert!(slots.open().is_empty());
    assert_eq!(ledger.agent(AGENT).unwrap().missing(), 1);
}

#[test]
fn a_parked_frame_is_a_gap_named_parked_until_it_is_replayed() {
    let (mut ledger, mut slots, history) = one_life(&[1_004]);
    let hidden = history.records.iter().find(|(_, _, w)| matches!(w, Wrote::Reading(1_004))).unwrap();
    ledger.park(AGENT, hidden.0, hidden.1, hidden.1);
    settle(&mut ledger, &mut slots);
    assert_eq!(slots.open(), BTreeMap::from([(1_004, Cause::Parked)]));
    deliver(&mut ledger, &mut slots, std::slice::from_ref(hidden));
    assert!(slots.open().is_empty());
    assert_eq!(slots.gaps.values().filter(|g| g.closed.is_some()).count(), 1);
}

#[test]
fn a_replaced_outbox_closes_the_old_one() {
    let (mut ledger, mut slots, _) = one_life(&[1_004]);
    let second = live(&[Life { slots: vec![0; 40], down: 0, dropped: 0 }]);
    let late = |(_, seq, wrote): &(Epoch, u64, Wrote)| (Epoch(500), *seq, wrote.clone());
    for mut record in second.records.iter().map(late) {
        if let Wrote::Start(start) = &mut record.2 {
            start.at = at(1_020);
        }
        if let Wrote::Mark(Mark::Catalog { since, .. }) = &mut record.2 {
            *since = Some(at(1_020));
        }
        if matches!(record.2, Wrote::Reading(slot) if slot < 1_020) {
            record.2 = Wrote::Miss(1_025);
        }
        deliver(&mut ledger, &mut slots, &[record]);
    }
    let open = slots.open();
    assert_eq!(open.get(&1_004), Some(&Cause::StoreReplaced));
    assert_eq!(open.get(&1_015), Some(&Cause::StoreReplaced));
    assert_eq!(open.get(&1_030), None);
}

/// Another outbox, and no declaration until its agent crashes: what was not written down then is not the old one's.
#[test]
fn what_ends_after_another_outbox_began_ended_by_itself() {
    let (mut ledger, mut slots, _) = one_life(&[]);
    let crashed = Mark::Downtime { from: at(1_027), to: at(1_030), cause: Cause::Crashed };
    let second = [1_020, 1_021, 1_022, 1_023, 1_024].map(Wrote::Reading);
    let third = [Wrote::Mark(crashed), catalog(1_030), Wrote::Reading(1_030), complete(1_030)];
    let first_of_all = |previous, now| vec![start(previous, now), catalog(now)];
    let lives = [
        (Epoch(500), first_of_all(None, 1_020).into_iter().chain(second).collect::<Vec<_>>()),
        (Epoch(501), std::iter::once(start(Some((Epoch(500), Seq(8))), 1_030)).chain(third).collect()),
    ];
    for (epoch, wrote) in lives {
        let records: Vec<_> = (1..).zip(wrote).map(|(seq, wrote)| (epoch, seq, wrote)).collect();
        deliver(&mut ledger, &mut slots, &records);
    }
    let mut expected: BTreeMap<_, _> = (1_010..1_020).map(|slot| (slot, Cause::StoreReplaced)).collect();
    expected.extend((1_025..1_030).map(|slot| (slot, Cause::Crashed)));
    assert_eq!(slots.open(), expected);
}

/// The first records of an epoch were dropped by the budget; what its agent did not write down at its end was not.
#[test]
fn what_ends_after_a_dated_loss_ended_by_itself() {
    let (mut ledger, mut slots, history) = one_life(&[]);
    let lost = Loss {
        epoch: Epoch(500),
        first: Seq(1),
        last: Seq(4),
        from: at(1_012),
        to: at(1_014),
        cause: Cause::BudgetFull,
    };
    let end = history.held.last().unwrap().next.0;
    let held = |first, next| HeldEpoch { epoch: Epoch(500), first: Seq(first), next: Seq(next) };
    let before = HeldEpoch { epoch: history.held[0].epoch, first: Seq(end), next: Seq(end) };
    let now = HeldEpoch { epoch: Epoch(501), first: Seq(1), next: Seq(1) };
    ledger.birth(AGENT, &[before, held(5, 8), now], Epoch(501), true);
    let crashed = Mark::Downtime { from: at(1_020), to: at(1_022), cause: Cause::Crashed };
    let second = [Wrote::Reading(1_015), Wrote::Loss(lost), Wrote::Reading(1_016)];
    let third = [Wrote::Mark(crashed), catalog(1_022), Wrote::Reading(1_022), complete(1_022)];
    let third = std::iter::once(start(Some((Epoch(500), Seq(8))), 1_022)).chain(third);
    let records = (5..).zip(second).map(|(seq, wrote)| (Epoch(500), seq, wrote)).collect::<Vec<_>>();
    deliver(&mut ledger, &mut slots, &records);
    let records = (1..).zip(third).map(|(seq, wrote)| (Epoch(501), seq, wrote)).collect::<Vec<_>>();
    deliver(&mut ledger, &mut slots, &records);
    let mut expected: BTreeMap<_, _> = (1_010..1_015).map(|slot| (slot, Cause::BudgetFull)).collect();
    expected.extend((1_017..1_022).map(|slot| (slot, Cause::Crashed)));
    assert_eq!(slots.open(), expected);
}

fn start(previous: Option<(Epoch, Seq)>, slot: i64) -> Wrote {
    Wrote::Start(EpochStart {
        previous,
        boot: BootId(1),
        boot_clock_ms: 0,
        at: at(slot),
        clock_set: true,
        durable: true,
        agent_version: "".into(),
    })
}

fn catalog(slot: i64) -> Wrote {
    Wrote::Mark(Mark::Catalog { hash: HASH, since: Some(at(slot)) })
}

/// The replaced outbox's birth was lost, and its first frame came: the old one, of which more was known to exist, counted
/// as alive until the next birth.
#[test]
fn what_a_replaced_outbox_took_along_went_with_it_whichever_way_that_is_heard() {
    let history = live(&[Life { slots: vec![0; 20], down: 0, dropped: 0 }]);
    let mut second = live(&[Life { slots: vec![0; 40], down: 0, dropped: 0 }]);
    second.records.iter_mut().for_each(|record| record.0 = Epoch(500));
    for (_, _, wrote) in &mut second.records {
        match wrote {
            Wrote::Start(start) => start.at = at(1_025),
            Wrote::Mark(Mark::Catalog { since, .. }) => *since = Some(at(1_025)),
            Wrote::Reading(slot) if *slot < 1_025 => *wrote = Wrote::Miss(1_030),
            _ => {}
        }
    }
    let (old, new) = (history.held[0], HeldEpoch { epoch: Epoch(500), ..second.held[0] });
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    ledger.birth(AGENT, &[old], old.epoch, true);
    deliver(&mut ledger, &mut slots, &history.records[..6]);
    deliver(&mut ledger, &mut slots, &history.records[7..8]);
    deliver(&mut ledger, &mut slots, &second.records[..1]);
    ledger.birth(AGENT, &[new], new.epoch, true);
    deliver(&mut ledger, &mut slots, &second.records);
    assert_eq!(slots.open().get(&1_015), Some(&Cause::StoreReplaced), "{:?}", slots.open());
}

#[test]
fn an_epoch_kept_in_memory_replaces_nothing_and_nothing_waits_for_it() {
    let history = live(&[
        Life { slots: vec![0; 10], down: 0, dropped: 0 },
        Life { slots: vec![0; 10], down: 0, dropped: 0 },
    ]);
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    let [first, second] = [&history.held[0], &history.held[1]];
    let of = |epoch| history.records.iter().filter(move |(e, ..)| *e == epoch);
    let missing = |wrote: &Wrote| matches!(wrote, Wrote::Reading(1_004));
    for record in of(first.epoch).filter(|(_, _, wrote)| !missing(wrote)) {
        deliver(&mut ledger, &mut slots, std::slice::from_ref(record));
    }
    let Some((_, _, Wrote::Start(start))) = history.records.first() else {
        panic!("a life begins with its start")
    };
    let memory = EpochStart { previous: None, durable: false, ..start.clone() };
    deliver(
        &mut ledger,
        &mut slots,
        &[(Epoch(700), 1, Wrote::Start(memory)), (Epoch(700), 3, Wrote::Reading(1_011))],
    );
    let owed = |ledger: &Ledger| ledger.agent(AGENT).unwrap().epochs[&first.epoch].watermark();
    let late = of(first.epoch).find(|(_, _, wrote)| missing(wrote)).unwrap();
    assert!(owed(&ledger) < late.1, "what the disk still owes is not written off");
    for record in of(second.epoch) {
        deliver(&mut ledger, &mut slots, std::slice::from_ref(record));
    }
    assert!(slots.open().is_empty(), "nothing is proven while a record on disk is owed");
    deliver(&mut ledger, &mut slots, std::slice::from_ref(late));
    assert_eq!(chain(&ledger), [first.epoch, second.epoch]);
    assert!(slots.open().is_empty(), "all of it came");
}

/// What was kept in memory is written again on the disk that is back, and its own seqs are given up by a loss without a
/// time: a slot that is missing just then is missing for its own reason.
#[test]
fn a_loss_without_a_time_explains_no_slot() {
    let nobody_knows = vec![0, 0, 0, 9, 0, 0, 0, 0, 0, 0];
    let history = live(&[Life { slots: nobody_knows, down: 0, dropped: 0 }]);
    let (next, missing) = (history.held[0].next.0, 1_003);
    // (the loss begins so many ms after the missing slot, and ends, the slot's cause)
    for (from, to, cause) in [(501, 500, Cause::Unexplained), (500, 500, Cause::DiskFailed)] {
        let (from, to) = (at(missing).plus_ms(from), at(missing).plus_ms(to));
        let (epoch, first, last) = (Epoch(700), Seq(1), Seq(9));
        let loss = Wrote::Loss(Loss { epoch, first, last, from, to, cause: Cause::DiskFailed });
        let Some((writing, _, Wrote::Start(start))) = history.records.first() else {
            panic!("a life begins with its start")
        };
        let memory = EpochStart { previous: None, durable: false, ..start.clone() };
        let told = [(epoch, 1, Wrote::Start(memory)), (*writing, next, loss)];
        for is_first in [true, false] {
            let (mut ledger, mut slots) = (fresh(), Memory::default());
            let parts: [&[_]; 2] =
                if is_first { [&told, &history.records] } else { [&history.records, &told] };
            parts.into_iter().for_each(|part| deliver(&mut ledger, &mut slots, part));
            assert_eq!(slots.open(), BTreeMap::from([(missing, cause)]), "told first: {is_first}");
        }
    }
}

/// An outbox may give up what was acknowledged, and tell a loss once more with another time.
#[test]
fn a_loss_of_what_is_here_says_nothing_and_the_last_word_on_a_range_counts() {
    let (mut ledger, _, history) = one_life(&[]);
    let held = history.held[0];
    let loss = |epoch, first, last, to| {
        let (first, last, from, cause) = (Seq(first), Seq(last), at(1_000), Cause::DiskFailed);
        Loss { epoch, first, last, from, to: at(to), cause }
    };
    ledger.loss(AGENT, &loss(held.epoch, 1, held.next.0 - 1, 1_010));
    assert_eq!(ledger.agent(AGENT).unwrap().losses, []);
    for to in [1_010, 1_020] {
        ledger.loss(AGENT, &loss(Epoch(700), 1, 9, to));
        assert_eq!(ledger.agent(AGENT).unwrap().losses, [loss(Epoch(700), 1, 9, to)]);
    }
}

#[test]
fn what_an_archive_no_longer_holds_is_given_up_once_the_rest_is_here() {
    let history = live(&[
        Life { slots: vec![0; 20], down: 3, dropped: 0 },
        Life { slots: vec![0; 20], down: 0, dropped: 0 },
    ]);
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    let second = history.held[1];
    ledger.birth(AGENT, &[second], second.epoch, true);
    let held: Vec<_> = history.records.iter().filter(|(epoch, ..)| *epoch == second.epoch).cloned().collect();
    for record in &held[..held.len() - 1] {
        deliver(&mut ledger, &mut slots, std::slice::from_ref(record));
        assert_eq!(chain(&ledger), []);
    }
    deliver(&mut ledger, &mut slots, &held[held.len() - 1..]);
    assert_eq!(chain(&ledger), [second.epoch]);
    assert!(slots.open().is_empty(), "what was before the database is not owed to it");
}

/// The agent crashed, and then lost what it had written before without a word (its word was on a disk that rotted): the
/// slots are missing because of that, and only those after its end because of the crash.
#[test]
fn what_is_lost_without_a_word_before_a_crash_is_no_crash() {
    let history = live(&[
        Life { slots: vec![0; 20], down: 3, dropped: 0 },
        Life { slots: vec![0; 20], down: 0, dropped: 0 },
    ]);
    let (first, second) = (history.held[0], history.held[1]);
    let (mut ledger, mut slots) = (fresh(), Memory::default());
    ledger.birth(AGENT, &[first], first.epoch, true);
    deliver(&mut ledger, &mut slots, &history.records[..6]);
    ledger.birth(AGENT, &[second], second.epoch, true);
    let held: Vec<_> = history.records.iter().filter(|(epoch, ..)| *epoch == second.epoch).cloned().collect();
    deliver(&mut ledger, &mut slots, &held);
    let open = slots.open();
    let ended = history.truth.keys().min().copied().unwrap();
    assert!(open.range(..ended).count() > 10, "{open:?}");
    assert!(open.range(..ended).all(|(_, cause)| *cause == Cause::BudgetFull), "{open:?}");
    assert!(open.range(ended..).all(|(_, cause)| *cause == Cause::Crashed), "{open:?}");
}

#[test]
fn an_epoch_that_returns_after_it_was_superseded_is_a_clone() {
    let held = |epoch| [HeldEpoch { epoch: Epoch(epoch), first: Seq(1), next: Seq(2) }];
    let mut ledger = fresh();
    assert_eq!(ledger.birth(AGENT, &held(1), Epoch(1), true), None);
    assert_eq!(ledger.birth(AGENT, &held(2), Epoch(2), true), None);
    let found = ledger.birth(AGENT, &held(1), Epoch(1), true);
    assert_eq!(found, Some(Finding::ClonedAgent { returned: Epoch(1), other: Epoch(2) }));
}

/// A gateway restarts on a read-only disk and holds only what it keeps in memory; its birth reaches the collector
/// behind its first frames.
#[test]
fn frames_that_come_before_their_birth_make_no_clone() {
    let held = |epoch| [HeldEpoch { epoch: Epoch(epoch), first: Seq(1), next: Seq(2) }];
    let mut ledger = fresh();
    assert_eq!(ledger.birth(AGENT, &held(1), Epoch(1), true), None);
    ledger.account(AGENT, Epoch(2), 1, 1);
    assert_eq!(ledger.birth(AGENT, &held(2), Epoch(2), true), None);
    assert!(ledger.birth(AGENT, &held(1), Epoch(1), true).is_some(), "and a real one is still seen");
}
