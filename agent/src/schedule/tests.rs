//! The schedule in virtual time: a world of devices that answer or not, clocks that step, links that break.

use std::collections::BTreeMap;

use gapless_common::id::BusId;
use gapless_common::time::{Interval, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::event::DeviceCondition;

/// Wall clock at boot time 0 in these tests: a multiple of every interval used.
const EPOCH_MS: i64 = 1_800_000_000_000;

#[derive(Debug, Clone)]
struct Unit {
    interval_ms: u64,
    poll_ms: u64,
    timeout_ms: u64,
    retries: u32,
    paused: bool,
    /// Boot times between which it does not answer.
    dead: std::ops::Range<u64>,
}

fn unit(interval_ms: u64, poll_ms: u64) -> Unit {
    Unit { interval_ms, poll_ms, timeout_ms: 300, retries: 0, paused: false, dead: 0..0 }
}

struct World {
    units: Vec<Unit>,
    /// Boot times at which the machine is suspended, and for how long: both clocks go on, and nothing is done.
    suspends: Vec<(u64, u64)>,
    schedule: Schedule,
    boot_ms: u64,
    offset: i64,
    wall_set: bool,
    /// (boot time, change of the wall clock), ascending, or [`SETS`] and [`UNSETS`].
    steps: Vec<(u64, i64)>,
    /// Boot times between which the link is gone.
    unplugged: std::ops::Range<u64>,
    /// How long a poll takes to find out that the link is gone.
    notice_ms: u64,
    polls: Vec<(u64, usize, Acquired)>,
    events: Vec<BusEvent>,
}

/// The wall clock is set.
const SETS: i64 = i64::MAX;
/// The wall clock is no longer set.
const UNSETS: i64 = i64::MIN;

impl World {
    fn new(units: Vec<Unit>, wall_set: bool) -> Self {
        let tasks: Vec<Task> = units
            .iter()
            .zip(0..)
            .map(|(unit, index)| Task {
                device: DeviceIndex(index),
                grid: SlotGrid::every(Interval::from_ms(unit.interval_ms).unwrap()),
                paused: unit.paused,
                poll_ms: u32::try_from(unit.poll_ms).unwrap(),
                probe_ms: u32::try_from(unit.timeout_ms).unwrap(),
            })
            .collect();
        // A clock that is not set says anything.
        let wall = Timestamp(if wall_set { EPOCH_MS } else { 0 });
        let now = Now { boot_ms: 0, wall, wall_set };
        let schedule = Schedule::new(BusId::new("b").unwrap(), &tasks, now, now);
        let (steps, unplugged, polls, events) = (vec![], 0..0, vec![], vec![]);
        let (boot_ms, offset, notice_ms) = (0, EPOCH_MS, 0);
        let suspends = vec![];
        Self {
            units,
            suspends,
            schedule,
            boot_ms,
            offset,
            wall_set,
            steps,
            unplugged,
            notice_ms,
            polls,
            events,
        }
    }

    fn now(&self) -> Now {
        let wall = Timestamp(i64::try_from(self.boot_ms).unwrap() + self.offset);
        Now { boot_ms: self.boot_ms, wall, wall_set: self.wall_set }
    }

    fn pass(&mut self, ms: u64) {
        self.boot_ms += ms;
        if let Some((_, length)) = self.suspends.pop_if(|(at, _)| *at <= self.boot_ms) {
            self.boot_ms += length;
        }
        while self.steps.first().is_some_and(|(at, _)| *at <= self.boot_ms) {
            match self.steps.remove(0) {
                (_, SETS) => self.wall_set = true,
                (_, UNSETS) => self.wall_set = false,
                (_, by) => self.offset += by,
            }
        }
    }

    fn drain(&mut self) {
        while let Some(event) = self.schedule.drain() {
            self.events.push(event);
        }
    }

    fn run_until(&mut self, end_ms: u64) {
        while self.boot_ms < end_ms {
            match self.schedule.next(self.now()) {
                Step::Connect if self.unplugged.contains(&self.boot_ms) => {
                    self.schedule.connect_failed(self.now(), "unplugged");
                }
                Step::Connect => self.schedule.connected(self.now()),
                Step::Wait { until_boot_ms } => {
                    assert!(until_boot_ms > self.boot_ms, "a wait must wait");
                    self.pass(until_boot_ms.min(end_ms) - self.boot_ms);
                }
                Step::Poll(poll) => self.poll(poll),
            }
            self.drain();
        }
    }

    fn poll(&mut self, poll: Poll) {
        let index = usize::from(poll.device.0);
        let unit = self.units[index].clone();
        if self.unplugged.contains(&self.boot_ms) {
            self.pass(self.notice_ms);
            self.schedule.finished(Outcome::Missed(Cause::NotConnected), self.now());
            self.schedule.link_lost(self.now(), "unplugged");
            return;
        }
        let mut retries = unit.retries;
        loop {
            if !unit.dead.contains(&self.boot_ms) {
                self.pass(unit.poll_ms);
                self.answer(poll, index);
                return self.schedule.finished(Outcome::Answered, self.now());
            }
            self.pass(unit.timeout_ms);
            let cost = u32::try_from(unit.timeout_ms).unwrap();
            if retries == 0 || !self.schedule.may_retry(cost, self.now()) {
                return self.schedule.finished(Outcome::Missed(Cause::NoAnswer), self.now());
            }
            retries -= 1;
        }
    }

    fn answer(&mut self, poll: Poll, index: usize) {
        self.schedule.answered();
        self.drain();
        let acquired = poll.acquired(self.now());
        self.polls.push((self.boot_ms, index, acquired));
        let (device, at) = (poll.device, self.now().wall);
        self.events.push(BusEvent::Answered { device, acquired, at, samples: vec![] });
    }

    fn stop(&mut self) {
        self.schedule.stop(self.now());
        self.drain();
    }

    /// Per slot of a device, relative to the test's begin, how often it was read and how often missed.
    fn account(&self, index: usize) -> BTreeMap<i64, (u32, u32)> {
        let zero = EPOCH_MS / i64::try_from(self.units[index].interval_ms).unwrap();
        let mut slots: BTreeMap<i64, (u32, u32)> = BTreeMap::new();
        for event in &self.events {
            match event {
                BusEvent::Answered { device, acquired: Acquired::InSlot(slot), .. }
                    if usize::from(device.0) == index =>
                {
                    slots.entry(slot.0 - zero).or_default().0 += 1;
                }
                BusEvent::Missed(run) if usize::from(run.device.0) == index => {
                    for slot in 0..i64::from(run.count) {
                        slots.entry(run.first.0 + slot - zero).or_default().1 += 1;
                    }
                }
                _ => {}
            }
        }
        slots
    }

    fn runs(&self, index: usize) -> Vec<(i64, u32, &'static str)> {
        let zero = EPOCH_MS / i64::try_from(self.units[index].interval_ms).unwrap();
        self.events
            .iter()
            .filter_map(|event| match event {
                BusEvent::Missed(run) if usize::from(run.device.0) == index => {
                    Some((run.first.0 - zero, run.count, run.cause.slug()))
                }
                _ => None,
            })
            .collect()
    }

    fn read_slots(&self, index: usize) -> Vec<i64> {
        let reads = self.account(index);
        reads.iter().filter(|(_, (read, _))| *read > 0).map(|(slot, _)| *slot).collect()
    }
}

/// What one row of the table below expects of device 0.
struct Row {
    what: &'static str,
    units: Vec<Unit>,
    steps: Vec<(u64, i64)>,
    wall_set: bool,
    unplugged: std::ops::Range<u64>,
    notice_ms: u64,
    end_ms: u64,
    read: Vec<i64>,
    runs: Vec<(i64, u32, &'static str)>,
}

fn row(what: &'static str, units: Vec<Unit>, end_ms: u64) -> Row {
    let (steps, read, runs) = (vec![], vec![], vec![]);
    Row { what, units, steps, wall_set: true, unplugged: 0..0, notice_ms: 0, end_ms, read, runs }
}

fn check(row: Row) {
    let mut world = World::new(row.units, row.wall_set);
    (world.steps, world.unplugged, world.notice_ms) = (row.steps, row.unplugged, row.notice_ms);
    world.run_until(row.end_ms);
    world.stop();
    assert_eq!(world.read_slots(0), row.read, "{}: slots read", row.what);
    assert_eq!(world.runs(0), row.runs, "{}: misses", row.what);
}

#[test]
fn slots_are_read_or_missed_with_the_right_cause() {
    check(Row { read: (0..6).collect(), ..row("healthy", vec![unit(1_000, 50)], 5_999) });
    check(Row {
        read: (0..6).collect(),
        runs: vec![(6, 1, "stopped")],
        ..row("stopped in a slot", vec![unit(1_000, 50), unit(6_000, 400)], 6_000)
    });
    check(Row {
        read: vec![0, 3, 6],
        runs: vec![(1, 2, "overrun"), (4, 2, "overrun"), (7, 2, "overrun"), (9, 1, "stopped")],
        ..row("a poll outlasts its next slots", vec![unit(100, 310)], 690)
    });
    let paused = Unit { paused: true, ..unit(1_000, 50) };
    check(Row { runs: vec![(0, 61, "paused"), (61, 10, "paused")], ..row("paused", vec![paused], 70_500) });
    check(Row {
        read: vec![0, 1, 5, 6],
        runs: vec![(2, 3, "not_connected")],
        unplugged: 1_500..5_100,
        ..row("unplugged and back", vec![unit(1_000, 50)], 6_900)
    });
    check(Row {
        read: vec![0, 1, 5, 6],
        runs: vec![(2, 3, "not_connected")],
        unplugged: 1_500..5_100,
        notice_ms: 3_000,
        ..row("slots that end while a poll waits for its connection", vec![unit(1_000, 50)], 6_900)
    });
    let dead = Unit { dead: 1_500..11_500, ..unit(1_000, 50) };
    check(Row {
        read: vec![0, 1, 18, 19],
        runs: vec![
            (2, 3, "no_answer"),
            (5, 1, "back_off"),
            (6, 1, "no_answer"),
            (7, 3, "back_off"),
            (10, 1, "no_answer"),
            (11, 7, "back_off"),
        ],
        ..row("silent and back", vec![dead], 19_500)
    });
}

#[test]
fn a_device_that_is_to_be_left_alone_is_polled_no_more_until_it_goes_on() {
    let mut world = World::new(vec![unit(1_000, 50), unit(1_000, 50)], true);
    let pause = |world: &mut World, command, paused, at_ms| {
        world.run_until(at_ms);
        world.schedule.pause((command, DeviceIndex(0)), paused, world.now());
        world.drain();
    };
    pause(&mut world, 7, true, 2_500);
    pause(&mut world, 8, true, 3_500);
    pause(&mut world, 9, false, 6_500);
    world.run_until(8_900);
    world.stop();
    assert_eq!((world.read_slots(0), world.read_slots(1)), (vec![0, 1, 2, 6, 7, 8], (0..9).collect()));
    assert_eq!(world.runs(0), [(3, 3, "paused")]);
    let told = world.events.iter().filter_map(|event| match event {
        BusEvent::Paused { command, paused, .. } => Some((*command, *paused)),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [(7, true), (8, true), (9, false)]);
    let conditions = world.events.iter().filter_map(|event| match event {
        BusEvent::Device { device: DeviceIndex(0), condition, .. } => Some(*condition),
        _ => None,
    });
    use DeviceCondition::{Online, Paused};
    assert_eq!(conditions.collect::<Vec<_>>(), [Online, Paused, Online]);
}

#[test]
fn clock_steps_neither_flood_nor_starve() {
    check(Row {
        steps: vec![(6_500, 3_600_000)],
        read: vec![0, 1, 721, 722],
        runs: vec![(2, 719, "clock_stepped")],
        ..row("an hour forward", vec![unit(5_000, 50)], 11_900)
    });
    check(Row {
        steps: vec![(6_500, 3_600_000), (21_500, -3_600_000)],
        read: vec![0, 1, 5, 6, 721, 722, 723, 724],
        runs: vec![(2, 719, "clock_stepped"), (2, 3, "clock_stepped")],
        ..row("an hour forward, and back", vec![unit(5_000, 50)], 31_900)
    });
    check(Row {
        steps: vec![(6_500, 3_600_000), (11_500, 3_600_000), (16_500, -3_600_000), (21_500, -3_600_000)],
        read: vec![0, 1, 5, 6, 721, 722, 724, 1442, 1443],
        runs: vec![
            (2, 719, "clock_stepped"),
            (723, 719, "clock_stepped"),
            (2, 719, "clock_stepped"),
            (723, 1, "clock_stepped"),
            (2, 3, "clock_stepped"),
        ],
        ..row("an hour forward twice, and back twice", vec![unit(5_000, 50)], 31_900)
    });
    check(Row {
        steps: vec![(4_500, -2_000)],
        read: vec![0, 1, 2, 3, 4, 5],
        ..row("two seconds back", vec![unit(1_000, 50)], 7_900)
    });
    check(Row {
        steps: vec![(2_500, 200), (4_500, -200)],
        read: vec![0, 1, 2, 3, 4, 5],
        ..row("drift is no step", vec![unit(1_000, 50)], 5_900)
    });
    check(Row {
        wall_set: false,
        steps: vec![(2_500, 60_000), (3_200, SETS)],
        read: vec![64, 65],
        runs: vec![(60, 4, "clock_not_set")],
        ..row("not set, then set", vec![unit(1_000, 50)], 5_900)
    });
    check(Row {
        steps: vec![(2_500, UNSETS), (4_200, SETS)],
        read: vec![0, 1, 2, 5],
        runs: vec![(3, 2, "clock_not_set")],
        ..row("set, no longer, and again", vec![unit(1_000, 50)], 5_900)
    });
}

/// An hour suspended, while nothing is in hand, and between a request and its answer, which the bus tells from a stall: no
/// step of the clock, and each slot in it is a miss that says why.
#[test]
fn slots_that_pass_while_the_machine_is_suspended_are_misses() {
    let rows = [(2_500, 0..0, (3, 3_600, "overrun")), (2_010, 2_000..2_500, (3, 3_599, "overrun"))];
    for (at, dead, expected) in rows {
        let in_hand = !dead.is_empty();
        let mut world = World::new(vec![Unit { dead, ..unit(1_000, 50) }], true);
        world.suspends = vec![(at, 3_600_000)];
        world.run_until(3_605_000);
        world.stop();
        let runs = world.runs(0);
        let answered = (2, 1, "no_answer");
        assert_eq!(runs.first() == Some(&answered), in_hand, "{runs:?}");
        assert!(runs.contains(&expected), "{at}: {runs:?}");
        let account = world.account(0);
        assert!((0..3_605).all(|slot| account.get(&slot).is_some_and(|(read, missed)| read + missed == 1)));
        check_through(&world, 0);
    }
}

#[test]
fn a_slot_that_comes_again_is_read_again() {
    let mut world = World::new(vec![unit(1_000, 50)], true);
    world.steps = vec![(4_500, -2_000)];
    world.run_until(7_900);
    let twice: Vec<i64> =
        world.account(0).iter().filter(|(_, (read, _))| *read == 2).map(|(slot, _)| *slot).collect();
    assert_eq!(twice, [3, 4]);
}

#[test]
fn without_a_clock_polls_keep_their_interval_and_have_no_slots() {
    let mut world = World::new(vec![unit(1_000, 50), Unit { dead: 0..u64::MAX, ..unit(1_000, 50) }], false);
    world.run_until(10_500);
    world.stop();
    let at: Vec<u64> = world.polls.iter().map(|(at, ..)| *at).collect();
    assert_eq!(at.len(), 11, "{at:?}");
    assert!(at.iter().zip(0..).all(|(at, n)| at.abs_diff(n * 1_000 + 50) <= 300), "{at:?}");
    assert!(world.polls.iter().all(|(at, _, acquired)| *acquired == Acquired::SinceBoot(*at)));
    assert!(!world.events.iter().any(|e| matches!(e, BusEvent::Missed(_) | BusEvent::Through { .. })));
}

#[test]
fn slots_begin_with_the_agent_whenever_its_clock_is_set() {
    let mut world = World::new(vec![unit(1_000, 50)], false);
    // It comes up ten days behind, so that what its clock says at the start names no slot.
    let behind = 10 * 86_400_000;
    world.offset -= behind;
    world.steps = vec![(3_400, behind), (3_400, SETS)];
    world.run_until(5_500);
    world.stop();
    assert_eq!(world.runs(0), [(0, 4, Cause::ClockNotSet.slug())]);
    assert_eq!(world.read_slots(0), [4, 5]);
    check_through(&world, 0);
}

#[test]
fn the_earliest_deadline_goes_first() {
    let mut world = World::new(vec![unit(10_000, 100), unit(1_000, 100), unit(2_000, 100)], true);
    world.run_until(1_900);
    let order: Vec<usize> = world.polls.iter().map(|(_, index, _)| *index).collect();
    assert_eq!(order, [1, 2, 0, 1]);
}

#[test]
fn a_dead_unit_costs_its_neighbours_nothing() {
    // Nine units take 270 ms of every second; the tenth's time-out fits into the rest.
    let mut units = vec![unit(1_000, 30); 9];
    units.push(Unit { dead: 0..u64::MAX, retries: 3, ..unit(1_000, 30) });
    let mut world = World::new(units, true);
    world.run_until(600_000);
    for index in 0..9 {
        assert_eq!(world.runs(index), [], "unit {index}");
        let reads: Vec<u64> =
            world.polls.iter().filter(|(_, i, _)| *i == index).map(|(at, ..)| *at).collect();
        let late = reads.iter().zip(0..).map(|(at, n)| at - n * 1_000).max().unwrap();
        assert!(late <= 1_000, "unit {index} was {late} ms late");
    }
}

#[test]
fn where_no_probe_fits_it_takes_one_percent() {
    // Nine units take 900 ms of every second; a time-out of 300 ms never fits.
    let mut units = vec![unit(1_000, 100); 9];
    units.push(Unit { dead: 0..2_000_000, ..unit(1_000, 100) });
    let mut world = World::new(units, true);
    world.run_until(1_900_000);
    for index in 0..9 {
        let missed: u32 = world.runs(index).iter().map(|(_, count, _)| count).sum();
        assert!(missed <= 70, "unit {index} missed {missed} of 1900");
    }
    world.run_until(2_400_000);
    assert!(world.polls.iter().any(|(_, index, _)| *index == 9), "its return was seen");
}

#[test]
fn overload_starves_nobody() {
    let mut world = World::new(vec![unit(10, 100), unit(10, 100), unit(5_000, 100)], true);
    world.run_until(60_000);
    let polls = |index| world.polls.iter().filter(|(_, i, _)| *i == index).count();
    assert_eq!(polls(2), 12);
    assert!(polls(0).abs_diff(polls(1)) <= 1);
    assert!(polls(0) + polls(1) + polls(2) >= 599, "no idle gap");
}

#[test]
fn a_poll_out_of_turn_repeats_a_slot_and_wakes_a_device_set_aside() {
    let mut world = World::new(vec![unit(10_000, 50), Unit { dead: 0..50_000, ..unit(1_000, 50) }], true);
    world.run_until(1_500);
    world.schedule.poll_now(DeviceIndex(0));
    world.run_until(50_500);
    let before = world.polls.iter().filter(|(_, index, _)| *index == 1).count();
    world.schedule.poll_now(DeviceIndex(1));
    world.run_until(50_600);
    assert_eq!((before, world.polls.last().map(|(_, index, _)| *index)), (0, Some(1)));
    assert_eq!(world.account(0)[&0], (2, 0));
}

#[test]
fn conditions_are_told_once_each() {
    let mut world = World::new(vec![Unit { dead: 2_500..8_500, ..unit(1_000, 50) }], true);
    world.run_until(20_000);
    let told: Vec<DeviceCondition> = world
        .events
        .iter()
        .filter_map(|e| match e {
            BusEvent::Device { condition, .. } => Some(*condition),
            _ => None,
        })
        .collect();
    use DeviceCondition::{Failing, Online, SetAside};
    assert_eq!(told, [Online, Failing, SetAside, Online]);
}

#[test]
fn attempts_to_connect_back_off() {
    let mut world = World::new(vec![unit(1_000, 50)], true);
    world.unplugged = 0..120_000;
    world.run_until(120_000);
    let attempts = world.events.iter().filter(|e| matches!(e, BusEvent::Bus { .. })).count();
    assert!((12..=20).contains(&attempts), "{attempts}");
}

#[test]
fn a_refusal_is_a_sign_of_life_unless_a_gateway_speaks() {
    use gapless_common::quality::ExceptionCode;
    for (code, aside) in [(0x02, false), (0x04, false), (0x0A, true), (0x0B, true)] {
        let mut world = World::new(vec![unit(1_000, 50)], true);
        for second in 0..4 {
            world.boot_ms = second * 1_000;
            while let Step::Connect = world.schedule.next(world.now()) {
                world.schedule.connected(world.now());
            }
            world.schedule.finished(Outcome::Missed(Cause::Refused(ExceptionCode(code))), world.now());
        }
        world.drain();
        let set_aside = world
            .events
            .iter()
            .any(|e| matches!(e, BusEvent::Device { condition: DeviceCondition::SetAside, .. }));
        assert_eq!(set_aside, aside, "exception {code:#x}");
    }
}

/// `Through` never passes a slot that is not accounted for by the events before it.
fn check_through(world: &World, index: usize) {
    let zero = EPOCH_MS / i64::try_from(world.units[index].interval_ms).unwrap();
    let mut open = 0;
    let mut seen = std::collections::BTreeSet::new();
    for event in &world.events {
        match event {
            BusEvent::Answered { device, acquired: Acquired::InSlot(slot), .. }
                if usize::from(device.0) == index =>
            {
                seen.insert(slot.0 - zero);
            }
            BusEvent::Missed(run) if usize::from(run.device.0) == index => {
                seen.extend((0..i64::from(run.count)).map(|n| run.first.0 + n - zero));
            }
            BusEvent::Through { device, slot } if usize::from(device.0) == index => {
                while seen.contains(&open) {
                    open += 1;
                }
                assert!(slot.0 - zero < open, "device {index}: through {} with {open} open", slot.0 - zero);
            }
            _ => {}
        }
    }
}

/// What is passed on of a device is in the order of its slots: a run comes before the answer that ends it.
fn check_order(world: &World, index: usize) {
    let slots = world.events.iter().filter_map(|event| match event {
        BusEvent::Answered { device, acquired: Acquired::InSlot(slot), .. }
            if usize::from(device.0) == index =>
        {
            Some(*slot)
        }
        BusEvent::Missed(run) if usize::from(run.device.0) == index => Some(run.first),
        _ => None,
    });
    assert!(slots.is_sorted(), "device {index}");
}

fn units() -> impl Strategy<Value = Vec<Unit>> {
    let one = (
        prop::sample::select(vec![100_u64, 250, 1_000, 5_000, 60_000]),
        1_u64..400,
        10_u64..2_000,
        0_u32..4,
        prop::bool::weighted(0.1),
        (0_u64..200_000, 0_u64..200_000),
    );
    let one = one.prop_map(|(interval_ms, poll_ms, timeout_ms, retries, paused, (from, length))| Unit {
        interval_ms,
        poll_ms,
        timeout_ms,
        retries,
        paused,
        dead: from..from + length,
    });
    prop::collection::vec(one, 1..8)
}

/// An answer that is no longer awaited leaves no slot without its account: its own is open again, and the stop's if it
/// has not ended meanwhile.
#[test]
fn a_poll_given_up_for_the_stop_leaves_its_slot_to_it() {
    for (waited_ms, overrun, stopped) in [(300, 0, 1), (2_300, 2, 1)] {
        let mut world = World::new(vec![unit(1_000, 20)], true);
        assert_eq!(world.schedule.next(world.now()), Step::Connect);
        world.schedule.connected(world.now());
        assert!(matches!(world.schedule.next(world.now()), Step::Poll(_)));
        world.pass(waited_ms);
        world.schedule.finished(Outcome::GivenUp, world.now());
        world.schedule.stop(world.now());
        world.drain();
        let count = |cause: Cause| -> u32 {
            let missed = world.events.iter().filter_map(|event| match event {
                BusEvent::Missed(run) if run.cause == cause => Some(run.count),
                _ => None,
            });
            missed.sum()
        };
        assert_eq!((count(Cause::Overrun), count(Cause::Stopped)), (overrun, stopped), "{waited_ms}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_slot_is_accounted_for_exactly_once(
        units in units(),
        forward in prop::collection::vec((1_u64..200_000, 0_i64..1_000_000), 0..4),
        unplugged in (0_u64..200_000, 0_u64..60_000),
        end_ms in 1_000_u64..250_000,
    ) {
        let mut world = World::new(units, true);
        world.steps = forward;
        world.steps.sort_unstable();
        world.unplugged = unplugged.0..unplugged.0 + unplugged.1;
        world.run_until(end_ms);
        world.stop();
        for index in 0..world.units.len() {
            let interval = i64::try_from(world.units[index].interval_ms).unwrap();
            let last = (world.now().wall.0 - EPOCH_MS).div_euclid(interval);
            let account = world.account(index);
            prop_assert!(account.values().all(|(read, missed)| read + missed == 1), "device {}", index);
            prop_assert!(account.keys().copied().eq(0..=last), "device {}: not 0..={}", index, last);
            check_through(&world, index);
            check_order(&world, index);
        }
    }

    #[test]
    fn steps_in_both_directions_leave_no_hole(
        units in units(),
        steps in prop::collection::vec((1_u64..200_000, -100_000_i64..100_000), 0..5),
        end_ms in 1_000_u64..250_000,
    ) {
        let mut world = World::new(units, true);
        world.steps = steps;
        world.steps.sort_unstable();
        world.run_until(end_ms);
        world.stop();
        for index in 0..world.units.len() {
            let interval = i64::try_from(world.units[index].interval_ms).unwrap();
            let last = (world.now().wall.0 - EPOCH_MS).div_euclid(interval);
            let account = world.account(index);
            prop_assert!((0..=last).all(|slot| account.contains_key(&slot)), "device {}", index);
            check_through(&world, index);
        }
    }

    #[test]
    fn nobody_starves(units in units()) {
        let mut world = World::new(units, true);
        world.run_until(400_000);
        // All devices are alive from 400 s on; by then none is probed more rarely than every 300 s.
        world.polls.clear();
        world.run_until(1_200_000);
        for (index, unit) in world.units.iter().enumerate() {
            let polled = world.polls.iter().any(|(_, i, _)| *i == index);
            prop_assert!(polled || unit.paused, "device {} was never polled", index);
        }
    }
}

/// (slots between polls of 40 ms, cost of what is inserted) → whether polls stay in time, and how much of the time the rest
/// gets, in parts of a thousand.
#[test]
fn what_is_no_poll_goes_where_no_poll_is_due() {
    for (interval_ms, cost_ms, least, most) in
        [(200, 60, 500, 900), (200, 190, 0, 15), (50, 60, 0, 15), (1_000, 100, 800, 999)]
    {
        let mut world = World::new(vec![unit(interval_ms, 40)], true);
        world.schedule.connected(world.now());
        let (mut spent, mut waiting_since) = (0, 0);
        while world.boot_ms < 120_000 {
            let now = world.now();
            if world.schedule.has_room(cost_ms, now.boot_ms - waiting_since, now) {
                world.pass(u64::from(cost_ms));
                (spent, waiting_since) = (spent + u64::from(cost_ms), world.boot_ms);
                continue;
            }
            match world.schedule.next(now) {
                Step::Poll(_) => {
                    world.pass(40);
                    world.schedule.answered();
                    world.schedule.finished(Outcome::Answered, world.now());
                }
                Step::Connect => panic!("it is connected"),
                Step::Wait { until_boot_ms } => world.pass(until_boot_ms - world.boot_ms),
            }
            world.drain();
        }
        let missed: u32 = world
            .events
            .iter()
            .map(|event| if let BusEvent::Missed(run) = event { run.count } else { 0 })
            .sum();
        let share = spent * 1_000 / 120_000;
        assert!((least..=most).contains(&share), "{share} per mille beside polls every {interval_ms} ms");
        // What is forced costs a slot at most, once in a hundred times its length.
        assert!(missed <= 120_000 / (cost_ms * 100) + 1, "{missed} missed of polls every {interval_ms} ms");
    }
}

#[test]
fn a_probe_that_fits_comes_before_what_is_no_poll() {
    let mut world = World::new(vec![Unit { dead: 0..u64::MAX, ..unit(1_000, 40) }], true);
    world.schedule.connected(world.now());
    let mut probes = 0;
    while world.boot_ms < 60_000 {
        let now = world.now();
        if world.schedule.has_room(50, 0, now) {
            world.pass(50);
        } else if let Step::Poll(_) = world.schedule.next(now) {
            probes += 1;
            world.pass(300);
            world.schedule.finished(Outcome::Missed(Cause::NoAnswer), world.now());
        } else {
            world.pass(1);
        }
        world.drain();
    }
    assert!((5..=10).contains(&probes), "{probes} polls and probes of a dead device in a minute");
}
