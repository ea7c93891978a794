//! Births and restarts of the collector at any instant; devices that are removed, paused, given another interval,
//! or moved to another agent: what is owed, by whom, and when an absent slot becomes a gap.

use std::collections::BTreeMap;
use std::sync::Arc;

use gapless_common::id::{BootId, CatalogHash, Epoch};
use gapless_common::message::HeldEpoch;
use gapless_common::quality::Cause;
use gapless_common::reading::EpochStart;
use gapless_common::time::{Interval, Slot, SlotGrid, Timestamp};
use proptest::prelude::*;

use super::tests::{
    AGENT, GRID, HASH, History, Memory, Wrote, any_life, deliver, due, frames, fresh, live, settle, times,
};
use super::*;

/// Nothing counts as accounted for that neither came nor was given up by the agent.
fn nothing_made_up(
    ledger: &Ledger,
    history: &History,
    came: &BTreeSet<(Epoch, u64)>,
) -> Result<(), TestCaseError> {
    let Some(agent) = ledger.agent(AGENT) else { return Ok(()) };
    for (epoch, seq, wrote) in &history.records {
        let told = agent.epochs.get(epoch).is_some_and(|e| e.accounted.contains(*seq));
        let expected = came.contains(&(*epoch, *seq));
        prop_assert!(expected || !told, "{epoch} {seq} {wrote:?} is acknowledged and never came");
    }
    Ok(())
}

/// What stands in memory only is gone.
fn restart(ledger: &mut Ledger) {
    let agent = ledger.agent_mut(AGENT);
    agent.held.drained = false;
    agent.epochs.values_mut().for_each(|e| e.unheld = false);
}

/// What the agent holds when its life number `n` begins.
fn held_at(history: &History, n: usize) -> Vec<HeldEpoch> {
    let mut held = history.held[..=n].to_vec();
    held[n].next = held[n].first;
    held
}

proptest! {
    /// The agent starts again and again, now and then without a collector; births are missed; the collector
    /// starts again. Frames come newest or oldest first, before or after the birth of their life.
    #[test]
    fn nothing_is_given_up_that_the_agent_still_holds(
        lives in prop::collection::vec(any_life(), 1..5),
        size in 1usize..8,
        steps in prop::collection::vec((0u8..10, any::<usize>()), 0..60),
    ) {
        let history = live(&lives);
        let frames = frames(&history, size);
        let (mut ledger, mut slots) = (fresh(), Memory::default());
        let (mut now, mut came) = (0, BTreeSet::new());
        for (step, which) in steps {
            match step {
                0 | 1 => now = (now + 1).min(lives.len() - 1),
                2 | 3 => {
                    ledger.birth(AGENT, &held_at(&history, now), history.held[now].epoch, true);
                    settle(&mut ledger, &mut slots);
                }
                4 => restart(&mut ledger),
                _ => {
                    let written = |f: &&Vec<(Epoch, u64, Wrote)>| {
                        history.held[..=now].iter().any(|h| h.epoch == f[0].0)
                    };
                    let written: Vec<_> = frames.iter().filter(written).collect();
                    let frame = written[which % written.len()];
                    deliver(&mut ledger, &mut slots, frame);
                    came.extend(frame.iter().map(|(epoch, seq, _)| (*epoch, *seq)));
                }
            }
            nothing_made_up(&ledger, &history, &came)?;
            for (slot, cause) in slots.open() {
                prop_assert!(history.truth.contains_key(&slot), "slot {} called a gap: {:?}", slot, cause);
            }
        }
        let writing = history.held.last().unwrap().epoch;
        ledger.birth(AGENT, &history.held, writing, true);
        frames.iter().for_each(|frame| deliver(&mut ledger, &mut slots, frame));
        let open = slots.open();
        prop_assert_eq!(open.keys().collect::<Vec<_>>(), history.truth.keys().collect::<Vec<_>>());
    }
}

const OTHER: AgentNo = AgentNo(2);
const EMPTY: CatalogHash = CatalogHash(8);
const PAUSED: CatalogHash = CatalogHash(9);
const SLOWER: CatalogHash = CatalogHash(10);
const SLOW: GridNo = GridNo(2);

fn slow() -> Due {
    let times = SlotGrid::every(Interval::from_ms(5_000).unwrap());
    Due { grid: SLOW, times, ..due() }
}

/// One thing that an agent says, in the order of its seqs.
#[derive(Debug, Clone, Copy)]
enum Said {
    /// A new outbox begins, after a stop from this second on.
    Start,
    Down(i64, i64),
    Catalog(CatalogHash, Option<i64>),
    Received(i64),
    Missed(i64),
    Complete(CatalogHash, i64),
}

use Said::{Catalog, Complete, Down, Missed, Received, Start};

struct Fleet {
    ledger: Ledger,
    slots: Memory,
    next: BTreeMap<AgentNo, u64>,
}

fn second(n: i64) -> Timestamp {
    Timestamp(n * 1_000)
}

impl Fleet {
    fn new() -> Self {
        let mut ledger = fresh();
        for no in [AGENT, OTHER] {
            let paused = Due { paused: true, ..due() };
            let meanings =
                [(HASH, vec![due()]), (EMPTY, vec![]), (PAUSED, vec![paused]), (SLOWER, vec![slow()])];
            for (hash, dues) in meanings {
                ledger.agent_mut(no).schedules.insert(hash, Arc::new(dues));
            }
        }
        Self { ledger, slots: Memory::default(), next: BTreeMap::new() }
    }

    fn say(&mut self, no: AgentNo, said: Said) {
        let next = self.next.entry(no).or_insert(1);
        let (seq, epoch) = (*next, Epoch(u64::try_from(no.0).unwrap()));
        *next += 1;
        self.put(no, epoch, seq, said);
    }

    fn put(&mut self, no: AgentNo, epoch: Epoch, seq: u64, said: Said) {
        let ledger = &mut self.ledger;
        match said {
            Start => {
                let (boot, boot_clock_ms, at) = (BootId(1), 0, Timestamp(0));
                let (clock_set, durable) = (false, true);
                let agent_version = "".into();
                ledger.start(
                    no,
                    epoch,
                    &EpochStart {
                        previous: None,
                        boot,
                        boot_clock_ms,
                        at,
                        clock_set,
                        durable,
                        agent_version,
                    },
                );
            }
            Down(from, to) => {
                let (from, to, cause) = (second(from), second(to), Cause::Crashed);
                ledger.mark(no, epoch, seq, Mark::Downtime { from, to, cause });
            }
            Catalog(hash, since) => {
                ledger.mark(no, epoch, seq, Mark::Catalog { hash, since: since.map(second) });
            }
            Received(slot) => ledger.received(&due(), Slot(slot)),
            Missed(slot) => ledger.missed(&due(), Slot(slot), 1, Cause::NoAnswer),
            Complete(hash, slot) => {
                let grid = if hash == SLOWER { SLOW } else { GRID };
                let slot =
                    if hash == SLOWER { slow().times.slot_at(times().at(Slot(slot))) } else { Slot(slot) };
                ledger.mark(no, epoch, seq, Mark::Complete { hash, through: BTreeMap::from([(grid, slot)]) });
            }
        }
        ledger.account(no, epoch, seq, seq);
        let Ok(()) = ledger.settle(no, &mut self.slots, Stamp { at: Timestamp(0), commit: 1 });
        ledger.take_changes();
    }

    fn open(&self) -> Vec<i64> {
        self.slots.open().into_keys().collect()
    }
}

/// Agent 1 polls the device each second from 100 on, and 103 is absent; then comes what the row says.
fn check(what: &str, then: &[(AgentNo, Said)], gaps: &[i64]) {
    let mut fleet = Fleet::new();
    for said in [Start, Catalog(HASH, Some(100)), Received(100), Received(101), Received(102)] {
        fleet.say(AGENT, said);
    }
    fleet.say(OTHER, Start);
    for &(no, said) in then {
        fleet.say(no, said);
    }
    assert_eq!(fleet.open(), gaps, "{what}");
}

#[test]
fn a_device_ends_as_its_agent_says() {
    let one = |said: &[Said]| said.iter().map(|s| (AGENT, *s)).collect::<Vec<_>>();
    let rows: [(&str, Vec<Said>, &[i64]); 8] = [
        ("nothing is proven yet", vec![Received(104)], &[]),
        ("declared complete", vec![Received(104), Complete(HASH, 105)], &[103, 105]),
        ("removed: proven up to then, and not due after it", vec![Catalog(EMPTY, Some(105))], &[103, 104]),
        ("removed twice", vec![Catalog(EMPTY, Some(105)), Catalog(EMPTY, Some(115))], &[103, 104]),
        ("paused", vec![Catalog(PAUSED, Some(104))], &[103]),
        (
            "paused and resumed",
            vec![Catalog(PAUSED, Some(104)), Catalog(HASH, Some(108)), Received(108), Complete(HASH, 110)],
            &[103, 109, 110],
        ),
        (
            "removed while the clock was not set: due until the agent stopped",
            vec![Down(106, 120), Catalog(EMPTY, None)],
            &[103, 104, 105],
        ),
        ("removed while the clock was not set, without a stop", vec![Catalog(EMPTY, None)], &[]),
    ];
    for (what, said, gaps) in rows {
        check(what, &one(&said), gaps);
    }
}

#[test]
fn another_interval_ends_one_grid_and_begins_the_other() {
    let mut fleet = Fleet::new();
    let said =
        [Start, Catalog(HASH, Some(100)), Received(100), Catalog(SLOWER, Some(103)), Complete(SLOWER, 111)];
    for said in said {
        fleet.say(AGENT, said);
    }
    let mut open = Vec::new();
    for gap in fleet.slots.gaps.values() {
        open.push((gap.first, gap.last));
    }
    // Seconds 101 and 102 of the first grid; 105 and 110 of the second, its slots 21 and 22.
    assert_eq!(open, [(21, 22), (101, 102)]);
}

#[test]
fn a_device_that_moves_is_owed_by_whom_it_was_due() {
    let (a, b) = (AGENT, OTHER);
    let taken = (b, Catalog(HASH, Some(106)));
    type Row<'a> = (&'a str, Vec<(AgentNo, Said)>, &'a [i64]);
    let rows: [Row<'_>; 7] = [
        ("the new agent proves nothing of the old one's", vec![taken, (b, Complete(HASH, 107))], &[106, 107]),
        (
            "the old agent delivers late, then declares",
            vec![taken, (a, Received(103)), (a, Received(104)), (a, Complete(HASH, 109))],
            &[105],
        ),
        ("the old agent no longer has it", vec![taken, (a, Catalog(EMPTY, Some(108)))], &[103, 104, 105]),
        ("the same without a clock", vec![taken, (a, Catalog(EMPTY, None))], &[103, 104, 105]),
        (
            "a gap of the old agent is filled after the move",
            vec![(a, Complete(HASH, 105)), taken, (a, Received(103)), (a, Received(105))],
            &[104],
        ),
        (
            "the old agent's word comes bit by bit",
            vec![taken, (a, Complete(HASH, 103)), (b, Complete(HASH, 106)), (a, Complete(HASH, 104))],
            &[103, 104, 106],
        ),
        (
            "it comes back",
            vec![taken, (a, Catalog(HASH, Some(108))), (a, Complete(HASH, 108))],
            &[103, 104, 105, 108],
        ),
    ];
    for (what, then, gaps) in rows {
        check(what, &then, gaps);
    }
}

#[test]
fn a_catalog_from_before_a_move_still_owes_what_was_due_then() {
    let mut fleet = Fleet::new();
    for said in [Start, Catalog(HASH, Some(106)), Received(106), Complete(HASH, 106)] {
        fleet.say(OTHER, said);
    }
    for said in [Start, Catalog(HASH, Some(100)), Catalog(HASH, Some(101)), Received(102)] {
        fleet.say(AGENT, said);
    }
    assert!(fleet.slots.open().is_empty());
    fleet.say(AGENT, Complete(HASH, 120));
    assert_eq!(fleet.open(), [100, 101, 103, 104, 105]);
    assert_eq!(fleet.ledger.owner(due().device), Some(OTHER));
    assert_eq!(fleet.ledger.spans_of(AGENT).count(), 0, "nothing is owed any more");
}

#[test]
fn an_older_store_that_comes_later_still_owes_what_was_due_before() {
    let (newer, older) = (Epoch(1), Epoch(2));
    let again = [(older, Catalog(HASH, Some(102))), (older, Complete(HASH, 112))];
    type Row<'a> = (&'a str, Vec<(Epoch, Said)>, &'a [i64]);
    let rows: [Row<'_>; 6] = [
        ("not before it declares", vec![(older, Start), (older, Catalog(HASH, Some(100)))], &[]),
        (
            "up to where the newer one began",
            vec![(older, Start), (older, Catalog(HASH, Some(100))), (older, Complete(HASH, 103))],
            &[100, 102, 103],
        ),
        (
            "once, however often it says so",
            [vec![(older, Start), (older, Catalog(HASH, Some(103)))], again.to_vec()].concat(),
            &[103, 104, 105, 112],
        ),
        (
            "nor once more when it says so again",
            [
                vec![(older, Start), (older, Catalog(HASH, Some(100))), (older, Complete(HASH, 112))],
                again.to_vec(),
            ]
            .concat(),
            &[100, 102, 103, 104, 105, 112],
        ),
        (
            "a store that begins with a clock of long ago is believed in nothing before",
            vec![(older, Start), (older, Catalog(HASH, Some(-40_000_000))), (older, Complete(HASH, 111))],
            &[],
        ),
        (
            "a clock that was set back owes nothing of an earlier time",
            vec![(newer, Catalog(HASH, Some(100))), (newer, Complete(HASH, 111))],
            &[],
        ),
    ];
    for (what, then, gaps) in rows {
        let begin =
            [vec![Start, Catalog(HASH, Some(106)), Received(101)], (106..112).map(Received).collect()];
        check_older(what, &begin.concat(), (newer, &then), gaps);
    }
}

/// What the newer store says first; then what comes, of either store; and the gaps after it.
fn check_older(what: &str, begin: &[Said], (newer, then): (Epoch, &[(Epoch, Said)]), gaps: &[i64]) {
    let mut fleet = Fleet::new();
    begin.iter().for_each(|said| fleet.say(AGENT, *said));
    fleet.say(AGENT, Complete(HASH, 111));
    for (seq, (epoch, said)) in (1..).zip(then) {
        match *epoch == newer {
            true => fleet.say(AGENT, *said),
            false => fleet.put(AGENT, *epoch, seq, *said),
        }
    }
    assert_eq!(fleet.open(), gaps, "{what}");
    let open = fleet.ledger.open.get(&due().device).unwrap();
    assert_eq!(open.first, Some(times().first_from(second(106))), "{what}: what goes on is as it was");
    let latest = fleet.ledger.spans_of(AGENT).map(|span| span.id).max();
    assert_eq!(latest, Some(open.id), "{what}: the latest goes on");
    assert!(open.id <= 2, "{what}: nothing is owed twice");
}

#[test]
fn what_came_before_an_older_store_spoke_is_proven_by_its_word_alone() {
    let (newer, older) = (Epoch(1), Epoch(2));
    let says = [(older, Catalog(HASH, Some(100))), (older, Complete(HASH, 112))];
    let begin = |before: &[Said], from: i64| {
        [vec![Start, Catalog(HASH, Some(106))], before.to_vec(), (from..112).map(Received).collect()].concat()
    };
    let said = [vec![(older, Start)], says.to_vec()].concat();
    let all: Vec<Said> = (100..106).map(Received).collect();
    let missed: Vec<Said> = (100..106).map(|n| if n == 101 { Received(n) } else { Missed(n) }).collect();
    // (what, said of the time before, where the newer store has its first reading, gaps)
    let rows: [(&str, &[Said], i64, &[i64]); 4] = [
        ("all of it came", &all, 106, &[112]),
        ("all of it came, and the newer store begins with a gap", &all, 107, &[106, 112]),
        ("some of it is missed", &missed, 106, &[100, 102, 103, 104, 105, 112]),
        ("the same before a gap", &missed, 107, &[100, 102, 103, 104, 105, 106, 112]),
    ];
    for (what, before, from, gaps) in rows {
        check_older(what, &begin(before, from), (newer, &said), gaps);
    }
}
