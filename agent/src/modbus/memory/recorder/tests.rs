//! Answers in, what is told out.

use std::collections::BTreeMap;

use gapless_common::message::Outcome;

use super::super::fake::{Fault, MAPPED, MINUTE, Meter, RING, T, UNSAID, WINDOW, now, settings};
use super::*;

/// A meter that writes a record each minute, and what is told of it.
struct Bench {
    recorder: Recorder,
    meter: Meter,
    capacity: i64,
    ms: i64,
    /// It has power.
    is_on: bool,
    /// Places are counted from here on.
    written: i64,
    /// How often each instant was told, in ms since the begin.
    told: BTreeMap<i64, usize>,
    /// By the minute, in order.
    missed: BTreeMap<i64, Vec<Cause>>,
    history: Vec<(u64, Outcome)>,
    conditions: Vec<DeviceCondition>,
}

impl Bench {
    fn new(capacity: u16, numbering: &str, way: &str) -> Self {
        let mut settings = settings(capacity, numbering, way);
        settings.first_ms = 0;
        let meter = Meter::new(&settings.load);
        let mut bench = Self {
            recorder: Recorder::new(BusId::new("b").unwrap(), settings, now(0), now(0)).unwrap(),
            meter,
            capacity: capacity.into(),
            ms: 0,
            is_on: true,
            written: 0,
            told: BTreeMap::new(),
            missed: BTreeMap::new(),
            history: Vec::new(),
            conditions: Vec::new(),
        };
        for minute in -200..=0 {
            bench.write(minute * MINUTE);
        }
        bench
    }

    fn write(&mut self, ms: i64) {
        self.meter.write_at(self.written % self.capacity, ms);
        self.written += 1;
    }

    /// The place of the record of this minute, as long as there is one for each.
    fn place(&self, minute: i64) -> i64 {
        (minute + 200) % self.capacity
    }

    fn run(&mut self, minutes: i64) {
        for _ in 0..minutes {
            let end = (self.ms / MINUTE + 1) * MINUTE;
            self.run_to(end);
            if self.is_on {
                self.write(end);
            }
        }
    }

    fn run_to(&mut self, end: i64) {
        while self.ms < end {
            match self.recorder.next(now(self.ms)) {
                Step::Wait { until_boot_ms } => {
                    self.ms = i64::try_from(until_boot_ms).unwrap().clamp(self.ms + 1, end);
                }
                Step::Ask(request) => {
                    let answer = self.meter.answer(&request);
                    self.ms += if answer.is_err() { 300 } else { 30 };
                    self.recorder.took(answer, now(self.ms));
                }
            }
            while let Some(event) = self.recorder.drain() {
                self.take(event);
            }
        }
    }

    fn take(&mut self, event: BusEvent) {
        match event {
            BusEvent::Answered { at, .. } => *self.told.entry(at.0 - T).or_default() += 1,
            BusEvent::Missed(misses) => {
                for slot in misses.first.0..misses.first.0 + i64::from(misses.count) {
                    self.missed.entry(slot - T / MINUTE).or_default().push(misses.cause);
                }
            }
            BusEvent::HistoryRead { command, outcome } => self.history.push((command, outcome)),
            BusEvent::Device { condition, .. } => self.conditions.push(condition),
            _ => {}
        }
    }

    /// Minutes that were missed and have not come, with the last of their causes.
    fn left(&self) -> BTreeMap<i64, Cause> {
        let has_come = |minute: &i64| self.told.contains_key(&(minute * MINUTE));
        let left = self.missed.iter().filter(|(minute, _)| !has_come(minute));
        left.map(|(minute, causes)| (*minute, *causes.last().unwrap())).collect()
    }

    fn wish(&mut self, command: u64, from: i64, to: i64) {
        let at = |minute: i64| Timestamp(T + minute * MINUTE);
        self.recorder.read_history(command, DeviceIndex(0), (at(from), at(to)));
    }

    /// How often this minute's record was asked for, alone or with others.
    fn asked(&self, minute: i64) -> usize {
        let place = self.place(minute);
        self.meter.log.iter().filter(|(first, count)| (*first..first + count).contains(&place)).count()
    }
}

#[test]
fn a_record_that_cannot_be_had_is_told_and_in_the_way_of_no_other() {
    let refused = |code| Cause::Refused(ExceptionCode(code));
    let rows = [
        (Fault::Refuses(4), refused(4)),
        (Fault::Refuses(6), refused(6)),
        (Fault::Silent, Cause::NoAnswer),
        // There is no such record.
        (Fault::Refuses(2), Cause::NotRecorded),
        (Fault::Blank, Cause::NotRecorded),
    ];
    for numbering in [RING, UNSAID] {
        for (way, (fault, cause)) in [MAPPED, WINDOW].into_iter().flat_map(|way| rows.map(|row| (way, row))) {
            let what = format!("{fault:?}, {way}, {numbering}");
            let mut bench = Bench::new(150, numbering, way);
            bench.run(20);
            bench.meter.is_silent = true;
            bench.run(60);
            bench.meter.is_silent = false;
            let bad = [bench.place(21), bench.place(40), bench.place(41), bench.place(70)];
            bench.meter.faults.extend(bad.map(|place| (place, fault)));
            bench.run(30);
            let expected = [21, 40, 41, 70].map(|minute| (minute, cause));
            assert_eq!(bench.left(), BTreeMap::from(expected), "{what}");
            let conditions = bench.conditions.len();
            assert!(conditions <= 24, "{conditions}: {what}");
            // Each time it is asked for with others, then alone; never again once it was passed over.
            let asked = bench.asked(40);
            assert!(asked <= 20, "asked for {asked} times: {what}");
        }
    }
}

#[test]
fn a_newest_record_that_cannot_be_had_is_waited_for_by_nobody() {
    for fault in [Fault::Refuses(4), Fault::Silent] {
        for way in [MAPPED, WINDOW] {
            let mut bench = Bench::new(150, RING, way);
            bench.run(20);
            let bad: Vec<_> = (21..=29).map(|minute| (bench.place(minute), fault)).collect();
            bench.meter.faults.extend(bad);
            bench.wish(7, -60, -30);
            bench.run(9);
            assert_eq!(bench.history, [(7, Outcome::Done)], "{fault:?} {way}");
            let asked: usize = (21..=29).map(|minute| bench.asked(minute)).sum();
            assert!(asked <= 9 * 6, "{asked} times: {fault:?} {way}");
            assert!(bench.conditions.len() <= 10, "{:?}: {fault:?} {way}", bench.conditions);
            bench.run(40);
            let cause =
                if fault == Fault::Silent { Cause::NoAnswer } else { Cause::Refused(ExceptionCode(4)) };
            assert_eq!(bench.left(), (21..=29).map(|minute| (minute, cause)).collect(), "{fault:?} {way}");
            assert_eq!(bench.conditions.last(), Some(&DeviceCondition::Online), "{fault:?} {way}");
        }
    }
}

#[test]
fn a_command_begins_where_it_says_however_the_one_before_it_ended() {
    let mut bench = Bench::new(150, RING, WINDOW);
    bench.run(5);
    bench.wish(1, -60, -1);
    bench.wish(2, -120, -90);
    // Half of the first has been read.
    while bench.told.keys().filter(|ms| **ms < 0).count() < 30 {
        bench.run_to(bench.ms + 1);
    }
    bench.meter.is_silent = true;
    while bench.history.is_empty() {
        bench.run_to(bench.ms + 1);
    }
    bench.meter.is_silent = false;
    bench.run(5);
    assert_eq!(bench.history, [(1, Outcome::Failed("no answer".into())), (2, Outcome::Done)]);
    let read = (-120..-90).filter(|minute| bench.told.contains_key(&(minute * MINUTE))).count();
    assert_eq!(read, 30);
}

#[test]
fn what_is_asked_for_now_does_not_hand_its_place_on() {
    let mut bench = Bench::new(150, RING, WINDOW);
    bench.run(5);
    bench.wish(1, -60, -1);
    while bench.told.keys().filter(|ms| **ms < 0).count() < 30 {
        bench.run_to(bench.ms + 1);
    }
    // The newest record fails, and then the command, so that what rested is nobody's.
    bench.recorder.poll_now(DeviceIndex(0));
    bench.meter.is_silent = true;
    while bench.history.is_empty() {
        bench.run_to(bench.ms + 1);
    }
    bench.meter.is_silent = false;
    bench.wish(2, -120, -90);
    bench.recorder.poll_now(DeviceIndex(0));
    bench.run(5);
    assert_eq!(bench.history[1..], [(2, Outcome::Done)]);
}

#[test]
fn a_command_for_what_cannot_be_had_fails_and_one_for_what_is_not_there_has_no_data() {
    for (fault, expected) in
        [(Fault::Refuses(4), Outcome::Failed("the device refused: ".into())), (Fault::Blank, Outcome::NoData)]
    {
        let mut bench = Bench::new(150, RING, MAPPED);
        bench.run(5);
        let place = bench.place(-60);
        bench.meter.faults.insert(place, fault);
        bench.wish(1, -60, -59);
        bench.wish(2, -62, -58);
        bench.run(5);
        let [(1, first), (2, second)] = &bench.history[..] else { panic!("{:?}", bench.history) };
        // All others are told, and the one that was not may be had another time.
        assert_eq!(second, if fault == Fault::Blank { &Outcome::Done } else { first });
        let told = [-62, -61, -60, -59].map(|minute| bench.told.contains_key(&(minute * MINUTE)));
        assert_eq!(told, [true, true, false, true], "{fault:?}");
        match (first, &expected) {
            (Outcome::Failed(why), Outcome::Failed(begin)) => assert!(why.starts_with(&**begin), "{why}"),
            _ => assert_eq!(*first, expected),
        }
    }
}

#[test]
fn no_gap_is_told_for_what_another_master_selected() {
    // One that is known to be elsewhere, or one that may well be the next after an outage of power.
    for is_known in [true, false] {
        no_gap_is_told(is_known);
    }
}

fn no_gap_is_told(is_known: bool) {
    let mut bench = Bench::new(150, RING, WINDOW);
    bench.run(20);
    bench.meter.is_silent = true;
    bench.run(60);
    bench.meter.is_silent = false;
    let before = bench.missed.clone();
    // Now and then the window shows a record of later, for once.
    let mut readings = 0;
    while bench.told.keys().next_back() < Some(&(100 * MINUTE)) {
        let is_stolen = bench.meter.log.len() % 7 == 3;
        bench.meter.stolen = (is_stolen && is_known).then(|| bench.place(79));
        bench.meter.ahead = if is_stolen && !is_known { 3 } else { 0 };
        readings += 1;
        bench.run_to(bench.ms + 10);
        if bench.ms % MINUTE < 40 && bench.ms / MINUTE >= bench.written - 200 {
            bench.write(bench.ms / MINUTE * MINUTE);
        }
        assert!(readings < 1_000_000, "in vain: {:?}", bench.told.keys().next_back());
    }
    let told: Vec<_> =
        bench.missed.iter().filter(|(minute, causes)| before.get(minute) != Some(causes)).collect();
    let gone = told.iter().filter(|(_, causes)| causes.contains(&Cause::NotRecorded)).count();
    assert_eq!((gone, bench.left().len()), (0, 0), "{told:?}");
}

#[test]
fn every_record_of_a_slot_is_told_live_and_from_a_hole() {
    let mut bench = Bench::new(150, RING, MAPPED);
    bench.run(10);
    // Power came back within a minute: one record more, of what was left of it.
    bench.run_to(10 * MINUTE + 20_000);
    bench.write(10 * MINUTE + 20_000);
    bench.run(3);
    bench.run_to(13 * MINUTE + 10_000);
    bench.meter.is_silent = true;
    bench.run(5);
    for second in [20, 40] {
        bench.run_to(18 * MINUTE + second * 1_000);
        bench.write(18 * MINUTE + second * 1_000);
    }
    bench.run(5);
    bench.meter.is_silent = false;
    bench.run(5);
    let expected: Vec<i64> = (0..=27).map(|minute| minute * MINUTE).collect();
    let seconds: Vec<i64> = bench.told.keys().filter(|ms| *ms % MINUTE != 0).map(|ms| ms / 1_000).collect();
    assert_eq!(seconds, [620, 18 * 60 + 20, 18 * 60 + 40]);
    for ms in expected {
        assert_eq!(bench.told.get(&ms), Some(&1), "minute {}", ms / MINUTE);
    }
    assert!(bench.told.values().all(|count| *count == 1), "{:?}", bench.told);
    assert_eq!(bench.left(), BTreeMap::new());
}

#[test]
fn what_comes_after_a_memory_was_cleared_is_not_overwritten_for_that() {
    let mut bench = Bench::new(300, RING, MAPPED);
    bench.run(3);
    bench.recorder.cleared = Some(Slot(1_000));
    bench.recorder.witness = None;
    let rows = [(900, Cause::Overwritten), (1_001, Cause::Overwritten), (1_100, Cause::NotRecorded)];
    for (end, expected) in rows {
        assert_eq!(bench.recorder.cause_of_old(Slot(end)), expected, "before slot {end}");
    }
}

#[test]
fn without_a_link_commands_fail_instead_of_waiting_for_ever() {
    let mut bench = Bench::new(150, RING, WINDOW);
    bench.run(3);
    bench.wish(1, -60, -30);
    for _ in 0..4 {
        bench.recorder.unplugged("no port", now(bench.ms));
    }
    bench.run(1);
    assert_eq!(bench.history, [(1, Outcome::Failed("no port".into()))]);
}

#[test]
fn what_a_pointer_says_for_an_instant_costs_nothing() {
    for (numbering, newest, count) in [(RING, 9_999, 0), (RING, 9_999, 150), (RING, 0, 0), (UNSAID, 9_999, 0)]
    {
        let what = format!("{newest}, {count}: {numbering}");
        let mut bench = Bench::new(150, numbering, WINDOW);
        bench.run(20);
        bench.meter.is_silent = true;
        bench.run(60);
        bench.meter.is_silent = false;
        bench.wish(7, -60, -30);
        while !bench.told.contains_key(&(-55 * MINUTE)) {
            bench.run_to(bench.ms + 1);
        }
        let said = (bench.meter.newest, bench.meter.count);
        (bench.meter.newest, bench.meter.count) = (newest, count);
        bench.recorder.poll_now(DeviceIndex(0));
        bench.run_to(bench.ms + 2_000);
        (bench.meter.newest, bench.meter.count) = said;
        bench.run(5);
        assert_eq!(bench.history, [(7, Outcome::Done)], "{what}");
        let told = (-60..-30).filter(|minute| bench.told.contains_key(&(minute * MINUTE))).count();
        assert_eq!((told, bench.left()), (30, BTreeMap::new()), "{what}");
    }
}

#[test]
fn a_memory_that_stays_empty_has_no_data() {
    let mut bench = Bench::new(150, RING, WINDOW);
    bench.run(20);
    bench.meter.is_silent = true;
    bench.run(30);
    bench.meter.is_silent = false;
    bench.meter.records.clear();
    (bench.meter.newest, bench.meter.count, bench.is_on) = (0, 0, false);
    bench.wish(7, -60, -30);
    bench.run(5);
    assert_eq!(bench.history, [(7, Outcome::NoData)]);
}

#[test]
fn a_meter_that_refuses_every_record_keeps_no_command_waiting() {
    for (fault, way) in [(Fault::Refuses(4), MAPPED), (Fault::Silent, WINDOW)] {
        let mut bench = Bench::new(150, RING, way);
        bench.run(20);
        bench.meter.is_silent = true;
        bench.run(30);
        bench.meter.is_silent = false;
        bench.meter.faults.extend((0..150).map(|place| (place, fault)));
        bench.wish(7, -60, -30);
        bench.run(12);
        assert!(
            matches!(bench.history[..], [(7, Outcome::Failed(_))]),
            "{fault:?} {way}: {:?}",
            bench.history
        );
        bench.meter.faults.clear();
        bench.run(30);
        let told = bench.told.contains_key(&(90 * MINUTE));
        assert!(told, "{fault:?} {way}: {:?}", bench.told.keys().next_back());
    }
}

#[test]
fn a_meter_that_never_gives_its_newest_record_gives_the_one_before() {
    let faults = [Fault::Refuses(4), Fault::Silent];
    for (fault, way) in faults.into_iter().flat_map(|fault| [MAPPED, WINDOW].map(|way| (fault, way))) {
        let mut bench = Bench::new(150, RING, way);
        bench.run(5);
        for minute in 6..=30 {
            bench.run(1);
            bench.meter.faults = BTreeMap::from([(bench.place(minute), fault)]);
        }
        let told = bench.told.keys().next_back();
        assert!(told >= Some(&(27 * MINUTE)), "{fault:?} {way}: {told:?}");
        assert_eq!(bench.left(), BTreeMap::new(), "{fault:?} {way}");
    }
}
