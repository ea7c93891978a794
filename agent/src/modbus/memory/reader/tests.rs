//! Requests in, answers out.

use super::super::fake::{Fault, MAPPED, MINUTE, Meter, RING, UNSAID, WINDOW, now, settings};
use gapless_common::quality::Cause;

use super::*;

const FIRST_SLOT: i64 = super::super::fake::T / MINUTE;

struct Bench {
    reader: Reader,
    meter: Meter,
    ms: i64,
    /// Between two requests, in ms.
    pace: i64,
}

impl Bench {
    /// A meter with a record for each minute from 0 to `minutes` - 1 of which the last `capacity` are held.
    fn new(capacity: u16, numbering: &str, way: &str, minutes: i64) -> Self {
        let settings = settings(capacity, numbering, way);
        let mut meter = Meter::new(&settings.load);
        for minute in 0..minutes {
            meter.write(minute % i64::from(capacity), minute);
        }
        Self { reader: Reader::new(settings).unwrap(), meter, ms: minutes * MINUTE, pace: 30 }
    }

    /// Steps until there is something else than another request; gives the minutes of the records.
    fn read(&mut self, goal: Goal) -> Result<Vec<Option<i64>>, String> {
        for _ in 0..200 {
            self.ms += self.pace;
            let request = match self.reader.step(goal, now(self.ms)) {
                Step::Ask(request) => request,
                Step::Wait(until_ms) => {
                    self.ms = i64::try_from(until_ms).unwrap();
                    continue;
                }
                other => return Err(format!("{other:?}")),
            };
            let took = match self.meter.answer(&request) {
                Ok(Ok(data)) => self.reader.took(&data, now(self.ms)),
                Ok(Err(refusal)) => self.reader.refused(refusal.0, now(self.ms)),
                Err(failure) => match self.reader.failed(failure.cause) {
                    Asked::One(..) => return Err("no answer".to_owned()),
                    Asked::Pointers | Asked::Several => Took::More,
                },
            };
            match took {
                Took::More => {}
                Took::Records(_, records) => {
                    let minute = |record: &Record| (record.at.0 - super::super::fake::T).div_euclid(MINUTE);
                    return Ok(records.iter().map(|record| record.as_ref().map(minute)).collect());
                }
                other => return Err(format!("{other:?}")),
            }
        }
        Err(format!("a loop without end: {:?}", self.meter.log))
    }

    fn newest(&mut self) -> Result<Vec<Option<i64>>, String> {
        self.reader.look_anew();
        self.read(Goal::Newest)
    }

    /// The first record of this minute or later.
    fn from(&mut self, minute: i64) -> Result<Option<i64>, String> {
        self.read(Goal::From(Slot(FIRST_SLOT + minute))).map(|records| records[0])
    }
}

#[test]
fn a_newest_record_that_changes_all_the_time_is_an_interval_that_runs() {
    for way in [MAPPED, WINDOW] {
        let mut bench = Bench::new(100, RING, way, 250);
        bench.meter.faults.insert(49, Fault::Runs);
        assert_eq!(bench.newest(), Ok(vec![Some(248)]), "{way}");
        bench.meter.faults.clear();
        assert_eq!(bench.newest(), Ok(vec![Some(249)]), "{way}");
    }
}

#[test]
fn a_register_that_names_the_next_place_is_seen_through_once_the_ring_is_full() {
    for (numbering, minutes) in [(RING, 50), (UNSAID, 50), (RING, 250), (UNSAID, 250), (UNSAID, 100)] {
        let mut bench = Bench::new(100, numbering, MAPPED, minutes);
        for minute in minutes..minutes + 200 {
            bench.meter.newest = u16::try_from(minute % 100).unwrap();
            assert_eq!(bench.newest(), Ok(vec![Some(minute - 1)]), "{numbering} at minute {minute}");
            bench.meter.write(minute % 100, minute);
            bench.ms = (minute + 1) * MINUTE;
        }
        assert!(!bench.reader.take_cleared());
    }
}

#[test]
fn the_first_record_of_a_time_is_found_whatever_stands_before_it() {
    // Ring, the places that are not as they should be, and what the reading of them brings.
    let rows: [(&str, i64, &[i64], Fault); 7] = [
        (MAPPED, 250, &[], Fault::Blank),
        (MAPPED, 250, &[1, 20, 48, 97], Fault::Blank),
        (MAPPED, 250, &[50], Fault::Blank),
        (WINDOW, 250, &[0, 5, 11, 48, 97], Fault::Refuses(2)),
        (WINDOW, 250, &[50, 51, 97], Fault::Refuses(3)),
        (MAPPED, 80, &[], Fault::Blank),
        (MAPPED, 80, &[3, 78], Fault::Blank),
    ];
    for numbering in [RING, UNSAID] {
        for (way, minutes, places, fault) in rows {
            let mut bench = Bench::new(100, numbering, way, minutes);
            bench.meter.faults.extend(places.iter().map(|place| (*place, fault)));
            bench.newest().unwrap();
            for minute in [-30, 10, 160, 199, 240, 247] {
                let first = minute.max(minutes - 100).max(0);
                let expected = (first..minutes)
                    .find(|minute| !places.contains(&(minute % 100)))
                    .map_or(Err("Nowhere".to_owned()), |minute| Ok(Some(minute)));
                // What cannot be read is passed over as it is read.
                let mut found = bench.from(minute);
                let no = |bench: &Bench, minute: i64| {
                    let extent = bench.reader.extent().unwrap();
                    extent.newest - (minutes - 1 - minute)
                };
                for behind in first + 1..minutes {
                    if found != Ok(None) {
                        break;
                    }
                    found = bench.read(Goal::Number(no(&bench, behind))).map(|records| records[0]);
                }
                assert_eq!(
                    found, expected,
                    "{minute} of {minutes} with {fault:?} at {places:?}, {way} {numbering}"
                );
            }
        }
    }
}

#[test]
fn what_another_master_selected_is_not_taken_for_what_was_asked() {
    let mut bench = Bench::new(100, RING, WINDOW, 250);
    bench.newest().unwrap();
    let newest = bench.reader.extent().unwrap().newest;
    // Later than what was asked for, and not the newest.
    bench.meter.stolen = Some(30);
    let told = bench.read(Goal::Number(newest - 60));
    assert_eq!(told, Err("Strike(Mixed)".to_owned()));
    bench.meter.stolen = None;
    assert_eq!(bench.read(Goal::Number(newest - 60)), Ok(vec![Some(189)]));
}

#[test]
fn a_search_ends_though_it_finds_nothing() {
    let mut bench = Bench::new(100, RING, MAPPED, 250);
    bench.newest().unwrap();
    let generation = bench.reader.generation();
    bench.reader.probes = (Some(Slot(FIRST_SLOT + 160)), PROBES_MAX);
    assert_eq!(bench.from(160), Err("Mixed".to_owned()));
    assert!(bench.reader.generation() > generation, "all is forgotten");
    assert_eq!(bench.from(160), Ok(Some(160)));
}

#[test]
fn requests_get_shorter_where_one_record_cannot_be_had_and_longer_again() {
    for fault in [Fault::Refuses(2), Fault::Refuses(4), Fault::Silent] {
        let mut bench = Bench::new(900, RING, MAPPED, 1_700);
        bench.newest().unwrap();
        let first = bench.reader.extent().unwrap().oldest;
        bench.meter.faults.insert(820, fault);
        let (mut no, mut found) = (first, 0);
        while no <= first + 899 {
            // One that cannot be had is passed over.
            let records = bench.read(Goal::Number(no)).unwrap_or_else(|_| vec![None]);
            found += records.iter().flatten().count();
            no += i64::try_from(records.len()).unwrap();
        }
        assert_eq!(found, 899, "{fault:?}");
        let longest = bench.meter.log.iter().rev().take(5).map(|(_, count)| *count).max();
        assert_eq!(longest, Some(41), "{fault:?}: {:?}", bench.meter.log);
        assert!(bench.meter.log.len() < 100, "{fault:?}: {:?}", bench.meter.log);
    }
    // A link that goes away says nothing of lengths.
    let mut bench = Bench::new(900, RING, MAPPED, 1_700);
    bench.newest().unwrap();
    let first = bench.reader.extent().unwrap().oldest;
    assert!(matches!(bench.reader.step(Goal::Number(first), now(bench.ms)), Step::Ask(_)));
    assert_eq!(bench.reader.failed(Cause::NotConnected), Asked::Several);
    assert_eq!(bench.reader.batch.size(), 41);
}

#[test]
fn no_request_is_longer_than_the_device_allows() {
    // Way, most registers, most records of a request.
    let file = "file = { number = 1 }";
    let rows = [(MAPPED, 125, 41), (MAPPED, 7, 2), (file, 125, 30), (file, 10, 3), (WINDOW, 125, 1)];
    for (way, max_registers, expected) in rows {
        let mut settings = settings(100, RING, way);
        settings.limits.max_registers = max_registers;
        assert_eq!(Reader::new(settings).unwrap().batch.size(), expected, "{way} with {max_registers}");
    }
    let mut short = settings(100, RING, MAPPED);
    short.limits.max_registers = 2;
    let error = Reader::new(short).unwrap_err().to_string();
    assert_eq!(error, "channel record has 3 registers, a request to this device may hold 2");
}

#[test]
fn what_was_asked_before_the_link_went_away_is_forgotten() {
    let mut bench = Bench::new(100, RING, WINDOW, 250);
    bench.newest().unwrap();
    let newest = bench.reader.extent().unwrap().newest;
    let Step::Ask(select) = bench.reader.step(Goal::Number(newest - 5), now(bench.ms)) else { panic!() };
    let Ok(Ok(data)) = bench.meter.answer(&select) else { panic!() };
    assert_eq!(bench.reader.took(&data, now(bench.ms)), Took::More);
    bench.reader.unplugged();
    assert_eq!((bench.reader.selected, bench.reader.extent()), (None, None));
    assert_eq!(bench.read(Goal::Number(newest - 5)), Ok(vec![Some(244)]));
}

#[test]
fn a_line_that_has_room_now_and_then_only_still_brings_the_newest_record() {
    let paused = "window = { address = 300, select = { address = 299, type = \"u16\" }, pause = \"5s\" }";
    for way in [MAPPED, WINDOW, paused] {
        for fault in [Fault::Blank, Fault::Runs] {
            let mut bench = Bench::new(100, RING, way, 250);
            bench.pace = 31_000;
            // The place that is named is being written.
            bench.meter.faults.insert(49, fault);
            assert_eq!(bench.newest(), Ok(vec![Some(248)]), "{fault:?} {way}");
            bench.meter.faults.clear();
            assert_eq!(bench.newest(), Ok(vec![Some(249)]), "{fault:?} {way}");
        }
    }
}

#[test]
fn a_newest_record_is_compared_with_one_that_can_be_had() {
    let mut bench = Bench::new(100, RING, MAPPED, 250);
    // It names the place that is next, which has the oldest record, and the newest one cannot be had.
    bench.meter.newest = 50;
    bench.meter.faults.insert(49, Fault::Refuses(4));
    assert!(bench.newest().unwrap_err().starts_with("Refused"));
    let no = bench.reader.extent().unwrap().newest;
    bench.reader.give_up(no - 1);
    assert!(bench.reader.awaits_older());
    assert_ne!(bench.read(Goal::Newest), Ok(vec![Some(150)]));
    bench.meter.faults.clear();
    assert_eq!(bench.newest(), Ok(vec![Some(249)]));
}

#[test]
fn a_newest_record_that_can_be_compared_with_none_counts_and_is_compared_later() {
    let mut bench = Bench::new(100, RING, MAPPED, 250);
    bench.meter.faults.extend([(48, Fault::Refuses(4)), (47, Fault::Refuses(4))]);
    for older in [1, 2] {
        assert!(bench.newest().unwrap_err().starts_with("Refused"));
        let no = bench.reader.extent().unwrap().newest;
        bench.reader.give_up(no - older);
    }
    assert_eq!(bench.newest(), Ok(vec![Some(249)]));
    assert!(!bench.reader.newest.is_proven());
    bench.meter.write(50, 250);
    bench.ms += MINUTE;
    assert_eq!(bench.newest(), Ok(vec![Some(250)]));
    assert!(bench.reader.newest.is_proven());
}

#[test]
fn places_that_are_refused_as_they_are_selected_hide_no_record() {
    let mut bench = Bench::new(300, RING, WINDOW, 0);
    // Two outages of power, and eight places in a row of which there is none.
    let minutes = (0..100).chain(500..600).chain(1_000..1_020);
    for (place, minute) in (0..).zip(minutes) {
        bench.meter.write(place, minute);
    }
    bench.ms = 1_020 * MINUTE;
    bench.meter.faults.extend((105..=112).map(|place| (place, Fault::Refuses(2))));
    bench.newest().unwrap();
    assert_eq!(bench.from(502), Ok(Some(502)));
}
