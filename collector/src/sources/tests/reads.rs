//! Reads of many windows: broken off, gone on with, and what is said of them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gapless_common::message::{Command, CommandBody, Outcome};
use gapless_common::time::Timestamp;

use super::super::describe::Whose;
use super::super::failure::Failure;
use super::super::life::{Began, Brought, Life, REST};
use super::super::rows::Parsed;
use super::{Bench, DAY_MS, Fake, row};
use crate::clock;
use crate::jobs::budget::Urgency;
use crate::store::sources::Scan;

#[test]
fn a_read_of_many_windows_goes_on_where_it_was_broken_off() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let fake = bench.device("a");
    bench.look().unwrap();
    let from = minute(clock::now().plus_ms(-10 * DAY_MS));
    let began = |no: u32| Began { revision: Some(no.to_string()), ..Began::default() };
    let first = |fake: &Fake| fake.told().windows.first().map(|(from, _)| *from);
    fake.told().failures = [None, None, None, Some(Failure::Spent(from))].into();
    assert!(bench.shell.pull(0, from, began(1)).is_err());
    assert_eq!(fake.told().windows.drain(..).count(), 4);
    // It is wanted from a little later on by then: the three days that were read are not asked for again.
    fake.told().failures = [None, Some(Failure::Transport("reset".into()))].into();
    assert!(bench.shell.pull(0, from.plus_ms(5), began(2)).is_err());
    assert_eq!(first(&fake), Some(from.plus_ms(3 * DAY_MS)));
    fake.told().windows.clear();
    let (_, seen) = bench.shell.pull(0, from.plus_ms(9), began(3)).unwrap();
    assert_eq!((first(&fake), fake.told().windows.len()), (Some(from.plus_ms(4 * DAY_MS)), 7));
    // What changed since it began it may not have seen.
    assert_eq!(seen, Some(began(1)));
    fake.told().windows.clear();
    // What is over is over.
    let (_, seen) = bench.shell.pull(0, from.plus_ms(9), began(4)).unwrap();
    assert_eq!((first(&fake), seen), (Some(from.plus_ms(9)), Some(began(4))));
    fake.told().windows.clear();
    // The clock was set back: nothing is read of a time that has not come, and that is not taken for read.
    assert_eq!(
        bench.shell.pull(0, clock::now().plus_ms(DAY_MS), began(4)).unwrap(),
        (Brought::default(), None)
    );
    assert_eq!(first(&fake), None);
    // More is wanted than what was broken off would have held.
    fake.told().failures = [None, Some(Failure::Spent(from))].into();
    assert!(bench.shell.pull(0, from, began(5)).is_err());
    fake.told().windows.clear();
    let (_, seen) = bench.shell.pull(0, from.plus_ms(-1), began(6)).unwrap();
    assert_eq!((first(&fake), seen), (Some(from.plus_ms(-1)), Some(began(6))));
}

#[test]
fn a_read_that_goes_on_passes_over_nothing_that_was_due_while_the_device_was_away() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let fake = bench.device("a");
    bench.look().unwrap();
    // All before is accounted for; what comes after that may still come.
    let next = bench.shell.known(0).unwrap().next;
    let (from, began) = (next.plus_ms(-3 * DAY_MS), Began::default());
    bench.shell.pace.lag_ms = 10 * DAY_MS;
    fake.told().failures = [None, None, None, Some(Failure::Unreachable("asleep".into()))].into();
    fake.told().windows.clear();
    bench.shell.pace.window_ms = DAY_MS + 3_600_000;
    assert!(bench.shell.pull(0, from, began.clone()).is_err());
    bench.shell.pace.lag_ms = 0;
    bench.shell.away(0, "asleep").unwrap();
    assert!(
        bench.shell.known(0).unwrap().next > next.plus_ms(DAY_MS / 2),
        "what was due of it is accounted for"
    );
    fake.told().windows.clear();
    bench.shell.pull(0, from, began).unwrap();
    assert_eq!(fake.told().windows.first().map(|(from, _)| *from), Some(next));
}

#[test]
fn what_cannot_be_read_of_a_stretch_is_said_once_all_of_it_was_tried() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let fake = bench.device("a");
    bench.look().unwrap();
    let from = minute(clock::now().plus_ms(-10 * DAY_MS));
    let stretch = (from, from.plus_ms(5 * DAY_MS));
    let hidden = || Parsed { trouble: Some("2026/: permission denied".to_owned()), ..Parsed::default() };
    let mut ask = |no, broken_off_at: Option<usize>| {
        fake.told().windows.clear();
        fake.told().parsed = [Parsed::default(), hidden()].into();
        if let Some(place) = broken_off_at {
            fake.told().failures = (0..place).map(|_| None).chain([Some(Failure::Spent(from))]).collect();
        }
        let outcome = bench.shell.history(0, no, stretch);
        (outcome.ok(), fake.told().windows.len())
    };
    let told = || Some(Outcome::Failed("2026/: permission denied".into()));
    assert_eq!(ask(7, None), (told(), 5));
    // One that was broken off knows it still.
    assert_eq!(ask(8, Some(3)), (None, 4));
    fake.told().parsed.clear();
    assert_eq!(bench.shell.history(0, 8, stretch).ok(), told());
    assert_eq!(bench.shell.history(0, 9, stretch).ok(), Some(Outcome::NoData));
}

/// The minute that this instant is in.
pub(super) fn minute(at: Timestamp) -> Timestamp {
    Timestamp(at.0 - at.0.rem_euclid(60_000))
}

/// A device whose first read is of so many windows, and how it stands before the first of them.
pub(super) fn long_read(bench: &mut Bench, windows: i64) -> (Fake, Timestamp) {
    let fake = bench.device("a");
    bench.look().unwrap();
    (bench.shell.pace.window_ms, bench.shell.pace.lag_ms) = (DAY_MS / windows, 0);
    // Each turn is over once its first call is answered.
    bench.shell.turn_max = Duration::ZERO;
    let next = minute(bench.shell.known(0).unwrap().next);
    bench.shell.known(0).unwrap().next = next;
    fake.told().rows = (0..24).map(|hour| row(next.plus_ms(hour * 3_600_000), 20.5)).collect();
    bench.written();
    (fake, next)
}

/// Whether these windows follow each other from there on, none twice.
pub(super) fn follow(windows: &[(Timestamp, Timestamp)], from: Timestamp) -> bool {
    windows.first().is_some_and(|first| first.0 == from) && windows.windows(2).all(|two| two[0].1 == two[1].0)
}

#[test]
fn a_read_of_many_windows_gives_its_worker_back_between_them_and_asks_for_nothing_twice() {
    for is_expired in [false, true] {
        let mut bench = Bench::new(&[]);
        bench.shell.lister = None;
        let (fake, from) = long_read(&mut bench, 6);
        bench.order(1, "a", 90_000);
        let mut values = 0;
        for turn in 1..=6 {
            assert!(bench.look().unwrap(), "there is more after {turn}");
            assert_eq!(fake.told().windows.len(), turn, "one call a turn");
            let stored = bench.written();
            assert!(!stored.is_empty(), "what has come is stored");
            values += stored.len();
            if is_expired && turn == 1 {
                bench.expire();
            }
            let scan = Scan::read(&bench.connection, clock::now()).unwrap();
            let rank = bench.shell.wants(&scan, clock::now()).unwrap();
            // It was stale by ninety times what is allowed, and that it had its turn counts.
            assert!((0.0..45.0).contains(&rank), "{rank}");
        }
        // A moment of the last day is left, which is over by now.
        assert!(!bench.look().unwrap());
        values += bench.written().len();
        assert!(follow(&fake.told().windows, from) && values == 24, "{values}: {:?}", fake.told().windows);
        let scan = Scan::read(&bench.connection, clock::now()).unwrap();
        assert_eq!(bench.shell.wants(&scan, clock::now()), None);
        assert!(!bench.look().unwrap());
        assert_eq!(fake.told().windows.len(), 7);
    }
}

#[test]
fn the_rest_of_a_long_read_is_not_asked_for_where_the_device_was_stopped_and_heeds_a_refusal() {
    let refused = |whose| Failure::Withdrawn { whose, why: "moved out".into() };
    // What is in its way after the first window, and whether the device is asked, and reached, after that.
    let rows = [
        (None, true, true),
        (Some(refused(Whose::Device)), false, false),
        (Some(refused(Whose::Account)), false, false),
        (Some(Failure::Unreachable("asleep".into())), true, false),
    ];
    for (failure, is_known, is_reached) in rows {
        let what = format!("{failure:?}");
        let mut bench = Bench::new(&[]);
        bench.shell.lister = None;
        let (fake, _) = long_read(&mut bench, 6);
        bench.order(1, "a", 90_000);
        assert!(bench.look().unwrap(), "{what}");
        bench.expire();
        let windows = 1 + usize::from(failure.is_some());
        match failure {
            Some(failure) => fake.told().failures = [Some(failure)].into(),
            None => {
                bench.connection.execute("UPDATE devices SET stopped = 1", []).unwrap();
            }
        }
        for _ in 0..2 {
            assert!(!bench.look().unwrap(), "{what}");
        }
        assert_eq!(fake.told().windows.len(), windows, "{what}");
        assert_eq!(bench.known(), [is_known], "{what}");
        let is_away = bench.shell.known(0).is_none_or(|known| known.away_until.is_some());
        assert_eq!(is_away, !is_reached, "{what}");
        assert!(!bench.shell.devices[0].life.goes_on(), "{what}");
    }
}

#[test]
fn others_have_their_turn_between_two_windows_of_a_long_read() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let (fake, _) = long_read(&mut bench, 4);
    let other = bench.device("b");
    bench.look().unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    for (name, fake) in [("a", &fake), ("b", &other)] {
        fake.told().order = Some((name, Arc::clone(&order)));
    }
    bench.shell.known(1).unwrap().next = clock::now();
    bench.order(1, "a", 90_000);
    bench.order(2, "b", 2_000);
    for _ in 0..6 {
        bench.look().unwrap();
    }
    let order = order.lock().unwrap();
    assert_eq!(order[..2], ["a", "b"], "{order:?}");
    assert_eq!(order.iter().filter(|name| **name == "a").count(), 5, "{order:?}");
}

#[test]
fn a_poll_that_ends_soon_is_answered_with_what_has_come_and_nobody_who_waits_has_all_turns() {
    for (has_rows, ends_ms, expected) in
        [(true, 20_000, Some(Outcome::Done)), (false, 20_000, Some(Outcome::NoData)), (true, 60_000, None)]
    {
        let mut bench = Bench::new(&[]);
        bench.shell.lister = None;
        let (fake, _) = long_read(&mut bench, 4);
        if !has_rows {
            fake.told().rows.clear();
        }
        let device = bench.shell.devices[0].device.id.clone();
        let (now, body) = (clock::now(), CommandBody::PollNow(device));
        let command = Command { id: 7, expires: now.plus_ms(ends_ms), body };
        let urgency = |bench: &Bench| bench.shell.devices[0].urgency_of(&command, Urgency::Asked, now);
        assert_eq!(urgency(&bench), Urgency::Asked);
        bench.shell.turn_ends = Some(Instant::now());
        let told = bench.shell.carry_out(&bench.connection, 0, &command);
        assert_eq!(told.is_ok(), expected.is_some(), "{told:?}");
        let replies: Vec<_> = bench.replies().into_iter().map(|(_, outcome)| outcome).collect();
        assert_eq!(replies, expected.into_iter().collect::<Vec<_>>());
        assert!(bench.shell.devices[0].life.goes_on(), "{ends_ms}");
        assert_eq!(urgency(&bench), REST);
    }
}

#[test]
fn a_window_that_may_still_come_is_no_place_to_break_off() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let (fake, _) = long_read(&mut bench, 4);
    bench.shell.pace.lag_ms = DAY_MS;
    bench.order(1, "a", 90_000);
    assert!(!bench.look().unwrap(), "it would begin with it anew each time");
    assert!(fake.told().windows.len() >= 4);
}

#[test]
fn what_is_missing_is_read_window_by_window_too() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let (fake, from) = long_read(&mut bench, 4);
    let device = bench.shell.devices[0].device.id.clone();
    let body = CommandBody::ReadHistory { device, from, to: from.plus_ms(DAY_MS) };
    let command = Command { id: 7, expires: clock::now().plus_ms(60_000), body };
    bench.shell.turn_ends = Some(Instant::now());
    for _ in 0..3 {
        assert!(matches!(bench.shell.carry_out(&bench.connection, 0, &command), Err(Failure::TurnOver)));
    }
    assert_eq!(bench.replies(), []);
    bench.shell.carry_out(&bench.connection, 0, &command).unwrap();
    assert_eq!(bench.replies(), [(7, Outcome::Done)]);
    assert!(follow(&fake.told().windows, from) && fake.told().windows.len() == 4);
}

#[test]
fn windows_end_with_whole_minutes_wherever_a_read_begins() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let (fake, from) = long_read(&mut bench, 4);
    let odd = from.plus_ms(3_600_000 + 7_531);
    bench.shell.turn_max = Duration::from_secs(60);
    for (no, window_ms, is_whole) in [(1, DAY_MS / 4, true), (2, 90_000, true), (3, 7_000, false)] {
        bench.shell.pace.window_ms = window_ms;
        for is_history in [false, true] {
            fake.told().windows.clear();
            let to = odd.plus_ms(window_ms * 5 / 2);
            if is_history {
                bench.shell.history(0, no, (odd, to)).unwrap();
            } else {
                bench.shell.pull(0, to, Began::default()).unwrap();
            }
            let windows = fake.told().windows.clone();
            let (_, before) = windows.split_last().unwrap();
            assert!(follow(&windows, if is_history { odd } else { to }) && !before.is_empty(), "{windows:?}");
            assert!(before.iter().all(|(from, to)| to.since_ms(*from) <= window_ms), "{windows:?}");
            assert_eq!(before.iter().all(|(_, to)| minute(*to) == *to), is_whole, "{windows:?}");
        }
    }
}

#[test]
fn a_fault_of_this_program_is_a_failure_of_the_device_that_it_happens_at() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let [a, b] = ["a", "b"].map(|name| bench.device(name));
    a.told().faults = 1;
    bench.look().unwrap();
    assert_eq!(bench.known(), [false, true], "it begins later");
    let is_put_off = |life: &Life| matches!(life, Life::New { again, failures: 1 } if *again > clock::now());
    assert!(is_put_off(&bench.shell.devices[0].life));
    bench.shell.devices[0].life = Life::NEW;
    bench.look().unwrap();
    a.told().faults = u32::MAX;
    bench.order(1, "a", 90_000);
    bench.order(2, "b", 2_000);
    bench.replies();
    assert!(!bench.look().unwrap());
    let replies = bench.replies();
    let is_fault =
        |outcome: &Outcome| matches!(outcome, Outcome::Failed(why) if why.contains("an index out of bounds"));
    assert!(matches!(&replies[..], [(1, fault), (2, _)] if is_fault(fault)), "{replies:?}");
    assert!(!b.told().windows.is_empty());
    // It is answered, and asked again once its job is tried again.
    let windows = a.told().windows.len();
    bench.look().unwrap();
    assert_eq!(a.told().windows.len(), windows);
}
