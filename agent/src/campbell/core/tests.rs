//! One logger in made-up time, with answers written by hand. Whole outages are held against the simulated logger in the
//! tests of the workspace.

use gapless_common::reading::{Acquired, Value};
use gapless_common::time::{Interval, SlotGrid};

use super::*;
use crate::records::layout::Channels;

const T: i64 = 1_767_225_600;

fn at(second: u64) -> Now {
    let wall = Timestamp((T + i64::try_from(second).unwrap()) * 1_000);
    Now { boot_ms: second * 1_000, wall, wall_set: true }
}

fn settings(device: u16, table: &str, paused: bool) -> Settings {
    Settings {
        device: DeviceIndex(device),
        table: table.into(),
        grid: SlotGrid::every(Interval::from_ms(10_000).unwrap()),
        zone: "+00:00".parse().unwrap(),
        first_ms: 30_000,
        channels: Channels::All,
        paused,
    }
}

fn collector(tables: Vec<Settings>) -> Collector {
    Collector::new(BusId::new("mast").unwrap(), tables, at(0), at(0))
}

/// Records by number and second, under a program with one field.
fn body(signature: u64, records: &[(u64, i64)], more: bool) -> Vec<u8> {
    let rows: Vec<String> = records
        .iter()
        .map(|(no, second)| {
            let time = Timestamp((T + second) * 1_000).to_string();
            format!("{{\"no\":{no},\"time\":\"{}\",\"vals\":[{no}.5]}}", time.trim_end_matches('Z'))
        })
        .collect();
    format!(
        "{{\"head\":{{\"signature\":{signature},\"fields\":[{{\"name\":\"f{signature}\"}}]}},\"data\":[{}],\"more\":{more}}}",
        rows.join(",")
    )
    .into_bytes()
}

/// What is told, by its slots since the begin.
fn told(collector: &mut Collector) -> String {
    let slot = |slot: i64| slot - T / 10;
    let mut all = Vec::new();
    while let Some(event) = collector.drain() {
        all.push(match event {
            BusEvent::Answered { acquired: Acquired::Recorded(of), samples, .. } => {
                let Some(Value::Number(value)) = samples[0].value else { panic!("{samples:?}") };
                format!("{}={value}", slot(of.0))
            }
            BusEvent::Missed(run) => format!("{}+{} {}", slot(run.first.0), run.count, run.cause.slug()),
            BusEvent::Through { slot: of, .. } => format!("through {}", slot(of.0)),
            BusEvent::Channels { channels, .. } => format!("channels {}", channels[0].id),
            BusEvent::HistoryRead { command, outcome } => format!("history {command} {outcome:?}"),
            BusEvent::Paused { command, paused, .. } => format!("paused {command} {paused}"),
            BusEvent::Device { .. }
            | BusEvent::Complaint { .. }
            | BusEvent::Bus { .. }
            | BusEvent::Metrics { .. } => continue,
            BusEvent::Answered { .. } => panic!("{event:?}"),
        });
    }
    all.join(", ")
}

/// The end of the query that is asked now.
fn asked(collector: &mut Collector, now: Now) -> String {
    match collector.next(now) {
        Step::Ask(target) => target.split("mode=").nth(1).unwrap().replace("2026-01-01T00:", ""),
        Step::Wait { until_boot_ms } => format!("wait {until_boot_ms}"),
    }
}

#[test]
fn the_newest_first_then_what_came_before_then_what_comes() {
    let mut logger = collector(vec![settings(0, "Met", false)]);
    assert_eq!(asked(&mut logger, at(1)), "most-recent&p1=1");
    logger.answered(&body(7, &[(100, 0)], false), at(1));
    assert_eq!(told(&mut logger), "channels f7, 0=100.5, through 0");
    assert_eq!(asked(&mut logger, at(1)), "date-range&p1=2025-12-31T23:59:30&p2=00:00");
    logger.answered(&body(7, &[(98, -20), (99, -10)], false), at(2));
    assert_eq!(told(&mut logger), "-2=98.5, -1=99.5");
    assert_eq!(asked(&mut logger, at(2)), "wait 3000");
    assert_eq!(asked(&mut logger, at(10)), "wait 10500");
    assert_eq!(asked(&mut logger, at(11)), "since-record&p1=100");
    logger.answered(&body(7, &[(100, 0), (101, 10)], false), at(11));
    assert_eq!(told(&mut logger), "1=101.5, through 1");
}

/// A table that was made anew as the agent began: its first answer holds nothing, and `first` asks for nothing of before.
#[test]
fn what_was_recorded_between_an_empty_answer_and_the_first_record_is_read() {
    let mut logger = collector(vec![Settings { first_ms: 0, ..settings(0, "Met", false) }]);
    asked(&mut logger, at(1));
    logger.answered(&body(7, &[], false), at(1));
    asked(&mut logger, at(22));
    logger.answered(&body(7, &[(2, 20)], false), at(22));
    assert_eq!(asked(&mut logger, at(22)), "date-range&p1=00:00&p2=00:20");
    told(&mut logger);
    logger.answered(&body(7, &[(0, 0), (1, 10)], false), at(22));
    assert_eq!(told(&mut logger), "0=0.5, through 0, 1=1.5, through 2");
}

#[test]
fn an_outage_is_missed_when_due_and_read_when_it_is_over() {
    let mut logger = collector(vec![settings(0, "Met", false)]);
    asked(&mut logger, at(1));
    logger.answered(&body(7, &[(0, 0)], false), at(1));
    asked(&mut logger, at(1));
    logger.answered(&body(7, &[], false), at(1));
    told(&mut logger);
    for second in [11, 13, 18, 28, 38, 48] {
        assert_eq!(asked(&mut logger, at(second)), "since-record&p1=0", "{second}");
        logger.failed(&Failure::NotConnected("refused".to_owned()), at(second));
    }
    assert_eq!(told(&mut logger), "");
    assert_eq!(asked(&mut logger, at(59)), "since-record&p1=0");
    logger.answered(&body(7, &[(0, 0), (1, 10), (2, 20), (4, 40), (5, 50)], false), at(59));
    assert_eq!(told(&mut logger), "1+4 not_connected, through 4, 1=1.5, 2=2.5, 4=4.5, 5=5.5, through 5");
    assert_eq!(asked(&mut logger, at(59)), "date-range&p1=00:30&p2=00:40");
    logger.answered(&body(7, &[(3, 30)], false), at(59));
    assert_eq!(told(&mut logger), "3=3.5");
}

#[test]
fn a_table_that_is_to_be_left_alone_is_asked_for_nothing_and_then_for_all_that_it_has() {
    let mut logger = collector(vec![settings(0, "Met", false)]);
    asked(&mut logger, at(1));
    logger.answered(&body(7, &[(0, 0)], false), at(1));
    asked(&mut logger, at(1));
    logger.answered(&body(7, &[], false), at(1));
    told(&mut logger);
    logger.pause((9, DeviceIndex(0)), true, at(8));
    assert_eq!(told(&mut logger), "paused 9 true");
    assert_eq!(asked(&mut logger, at(8)), "wait 9000");
    assert_eq!(asked(&mut logger, at(45)), "wait 46000");
    logger.pause((10, DeviceIndex(0)), false, at(48));
    assert_eq!(told(&mut logger), "1+3 paused, through 3, paused 10 false");
    assert_eq!(asked(&mut logger, at(48)), "since-record&p1=0");
    logger.answered(&body(7, &[(1, 10), (2, 20), (3, 30), (4, 40)], false), at(48));
    assert_eq!(told(&mut logger), "1=1.5, 2=2.5, 3=3.5, 4=4.5, through 4");
}

#[test]
fn a_part_that_was_overwritten_is_told_and_the_rest_is_read() {
    let mut logger = collector(vec![settings(0, "Met", false)]);
    asked(&mut logger, at(1));
    logger.answered(&body(7, &[(0, 0)], false), at(1));
    asked(&mut logger, at(1));
    logger.answered(&body(7, &[], false), at(1));
    asked(&mut logger, at(11));
    logger.failed(&Failure::NoAnswer("timed out".to_owned()), at(11));
    // A long time later: the newest one alone, and then the hole in windows.
    told(&mut logger);
    assert_eq!(asked(&mut logger, at(2_000)), "most-recent&p1=1");
    logger.answered(&body(7, &[(200, 2_000)], false), at(2_000));
    assert_eq!(told(&mut logger), "1+199 no_answer, through 199, 200=200.5, through 200");
    for (window, expected) in [
        ("date-range&p1=00:10&p2=08:30", ""),
        ("date-range&p1=08:30&p2=16:50", "99=99.5, 100=100.5, 1+98 overwritten"),
    ] {
        assert_eq!(asked(&mut logger, at(2_001)), window);
        let records: &[(u64, i64)] = if expected.is_empty() { &[] } else { &[(99, 990), (100, 1_000)] };
        logger.answered(&body(7, records, false), at(2_000));
        assert_eq!(told(&mut logger), expected);
    }
}

#[test]
fn another_program_is_another_set_of_channels() {
    let mut logger = collector(vec![settings(0, "Met", false)]);
    asked(&mut logger, at(1));
    logger.answered(&body(7, &[(50, 0)], false), at(1));
    asked(&mut logger, at(1));
    logger.answered(&body(7, &[], false), at(1));
    told(&mut logger);
    asked(&mut logger, at(41));
    logger.answered(&body(8, &[(0, 30), (1, 40)], false), at(41));
    assert_eq!(told(&mut logger), "channels f8, 3=0.5, 4=1.5");
    assert_eq!(asked(&mut logger, at(42)), "date-range&p1=00:10&p2=00:30");
    logger.answered(&body(8, &[], false), at(42));
    assert_eq!(told(&mut logger), "1+2 overwritten, through 4");
}

#[test]
fn one_table_s_trouble_is_not_the_others() {
    let mut logger = collector(vec![settings(0, "None", false), settings(1, "Met", false)]);
    assert_eq!(asked(&mut logger, at(1)), "most-recent&p1=1");
    logger.answered(b"<html>Error: no table</html>", at(1));
    assert_eq!(asked(&mut logger, at(1)), "most-recent&p1=1");
    logger.answered(&body(7, &[(0, 0)], false), at(1));
    assert_eq!(told(&mut logger), "channels f7, 0=0.5, through 0");
    asked(&mut logger, at(1));
    logger.answered(&body(7, &[], false), at(1));
    assert_eq!(asked(&mut logger, at(2)), "most-recent&p1=1");
    logger.answered(&body(7, &[(0, 0)], false)[..60], at(2));
    logger.stop(at(25));
    assert_eq!(told(&mut logger), "0+3 corrupt, through 2, 1+2 stopped, through 2");
}

#[test]
fn the_collector_s_question_is_answered_with_what_the_memory_holds() {
    let mut logger = collector(vec![settings(0, "Met", false)]);
    asked(&mut logger, at(1));
    logger.answered(&body(7, &[(50, 0)], false), at(1));
    asked(&mut logger, at(1));
    logger.answered(&body(7, &[], false), at(1));
    told(&mut logger);
    let range = |from: i64, to: i64| (Timestamp((T + from) * 1_000), Timestamp((T + to) * 1_000));
    logger.read_history(3, DeviceIndex(0), range(-100, -80));
    logger.read_history(4, DeviceIndex(0), range(-100, -80));
    logger.read_history(5, DeviceIndex(0), range(-100, -80));
    logger.read_history(6, DeviceIndex(9), range(-100, -80));
    assert!(told(&mut logger).starts_with("history 6 Failed"));
    assert_eq!(asked(&mut logger, at(2)), "date-range&p1=2025-12-31T23:58:20&p2=2025-12-31T23:58:40");
    logger.answered(&body(7, &[(40, -100)], false), at(2));
    assert_eq!(told(&mut logger), "-10=40.5, history 3 Done");
    asked(&mut logger, at(3));
    logger.answered(&body(7, &[], false), at(3));
    assert_eq!(told(&mut logger), "history 4 NoData");
    for second in 4..60 {
        if let Step::Ask(_) = logger.next(at(second)) {
            logger.answered(b"Error", at(second));
        }
    }
    let all = told(&mut logger);
    let end = &all[all.find("history").unwrap()..];
    assert!(end.starts_with("history 5 Failed(\"no records, but: Error\")"), "{all}");
}

#[test]
fn a_record_that_is_late_is_waited_for_and_one_that_never_comes_is_told() {
    let mut logger = collector(vec![settings(0, "Met", false)]);
    asked(&mut logger, at(1));
    logger.answered(&body(7, &[(50, 0)], false), at(1));
    asked(&mut logger, at(1));
    logger.answered(&body(7, &[], false), at(1));
    told(&mut logger);
    assert_eq!(asked(&mut logger, at(11)), "since-record&p1=50");
    logger.answered(&body(7, &[(50, 0)], false), at(11));
    assert_eq!(asked(&mut logger, at(12)), "since-record&p1=50");
    logger.answered(&body(7, &[(50, 0), (51, 10)], false), at(12));
    assert_eq!(told(&mut logger), "1=51.5, through 1");
    // Nothing more, though it answers: its clock has stopped, or its program.
    for second in 21..=100 {
        if let Step::Ask(_) = logger.next(at(second)) {
            logger.answered(&body(7, &[(51, 10)], false), at(second));
        }
    }
    logger.stop(at(100));
    assert_eq!(told(&mut logger), "2+2 not_recorded, 4+7 stopped, through 10");
}

#[test]
fn an_agent_that_stood_still_asks_before_it_says_that_nothing_was_recorded() {
    let mut logger = collector(vec![settings(0, "Met", false)]);
    asked(&mut logger, at(1));
    logger.answered(&body(7, &[(50, 0)], false), at(1));
    asked(&mut logger, at(1));
    logger.answered(&body(7, &[], false), at(1));
    asked(&mut logger, at(11));
    told(&mut logger);
    // The answer to what was asked before has lain there for as long, and says nothing of what was recorded since.
    logger.answered(&body(7, &[(50, 0), (51, 10)], false), at(300));
    assert_eq!(told(&mut logger), "1=51.5, through 1");
    assert_eq!(asked(&mut logger, at(311)), "since-record&p1=51");
    assert_eq!(told(&mut logger), "");
    logger.answered(&body(7, &[(51, 10), (52, 290)], false), at(311));
    assert_eq!(told(&mut logger), "29=52.5");
    assert_eq!(asked(&mut logger, at(311)), "date-range&p1=00:20&p2=04:50");
    logger.answered(&body(7, &[], false), at(311));
    assert_eq!(told(&mut logger), "2+27 not_recorded, through 29");
}
