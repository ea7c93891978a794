//! What a source does before it knows a device, and once it may know it no more.

use gapless_common::message::{Command, CommandBody};
use gapless_common::quality::Cause;

use super::super::describe::Whose;
use super::super::failure::Failure;
use super::super::life::Life;
use super::{Bench, DAY_MS, Log};
use crate::clock;

#[test]
fn a_device_that_cannot_be_begun_keeps_no_other_one_from_it_but_a_source_that_rests_does() {
    let rows: [(Failure, [bool; 3]); 4] = [
        (Failure::Transport("no route".into()), [true, false, true]),
        (Failure::Withdrawn { whose: Whose::Device, why: "no".into() }, [true, false, true]),
        (Failure::Spent(clock::now().plus_ms(9_000)), [true, false, true]),
        (Failure::Hold(clock::now().plus_ms(9_000)), [true, false, false]),
    ];
    for (failure, expected) in rows {
        let (mut bench, what) = (Bench::new(&[]), failure.to_string());
        // The list is not of interest.
        bench.shell.lister = None;
        bench.device("a");
        bench.device("b").told().failures.push_back(Some(failure));
        bench.device("c");
        let looked = bench.look();
        assert_eq!(bench.known(), expected, "{what}");
        assert_eq!(looked.is_ok(), expected[2], "{what}");
        // None is asked again at once.
        bench.look().unwrap();
        assert_eq!(bench.known(), expected, "{what}");
    }
}

#[test]
fn who_only_waits_is_no_news_and_who_fails_is_told_of_with_source_device_and_reason() {
    let soon = clock::now().plus_ms(9_000);
    let rows = [
        (Failure::Spent(soon), "DEBUG"),
        (Failure::Rests(soon), "DEBUG"),
        (Failure::Transport("no route".into()), "WARN"),
        (Failure::Withdrawn { whose: Whose::Device, why: "moved out".into() }, "WARN"),
    ];
    for (failure, level) in rows {
        let (mut bench, log, why) = (Bench::new(&[]), Log::default(), failure.to_string());
        bench.shell.lister = None;
        bench.device("a").told().failures.push_back(Some(failure));
        let written = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || written.clone());
        tracing::subscriber::with_default(subscriber.finish(), || bench.look().unwrap());
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let line = text.lines().find(|line| line.contains(&why)).unwrap_or_default();
        let has = |word: &str| line.contains(word);
        assert!(has(level) && has("source=\"fleet\"") && has("device=\"a\""), "{why}: {text}");
    }
}

#[test]
fn consent_that_is_withdrawn_of_one_device_is_not_that_of_the_others() {
    for (whose, expected) in [(Whose::Device, [true, false, true]), (Whose::Account, [false; 3])] {
        let mut bench = Bench::new(&[]);
        bench.shell.lister = None;
        let fakes = ["a", "b", "c"].map(|name| bench.device(name));
        bench.look().unwrap();
        assert_eq!(bench.known(), [true; 3]);
        let refused = Failure::Withdrawn { whose, why: "moved out".into() };
        fakes[1].told().failures.push_back(Some(refused));
        let body = CommandBody::PollNow("b".parse().unwrap());
        let command = Command { id: 1, expires: clock::now().plus_ms(DAY_MS), body };
        bench.shell.carry_out(&bench.connection, 1, &command).unwrap();
        assert_eq!(bench.known(), expected, "{whose:?}");
        let windows = fakes[1].told().windows.len();
        bench.shell.carry_out(&bench.connection, 1, &Command { id: 2, ..command }).unwrap();
        assert_eq!(fakes[1].told().windows.len(), windows, "no further calls");
    }
}

#[test]
fn what_a_device_owes_when_its_consent_is_withdrawn_is_missing_for_that_reason() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let fake = bench.device("a");
    bench.look().unwrap();
    let next = bench.shell.known(0).unwrap().next;
    fake.told()
        .failures
        .push_back(Some(Failure::Withdrawn { whose: Whose::Device, why: "moved out".into() }));
    let body = CommandBody::PollNow("a".parse().unwrap());
    let command = Command { id: 1, expires: clock::now().plus_ms(DAY_MS), body };
    bench.missed();
    bench.shell.carry_out(&bench.connection, 0, &command).unwrap();
    let missed = bench.missed();
    let grid = bench.shell.devices[0].device.grid;
    let slots = grid.first_from(clock::now()).0 - grid.first_from(next).0;
    let is_all = |(first, count, cause): &(i64, u32, Cause)| {
        *first == grid.first_from(next).0 && i64::from(*count) == slots && *cause == Cause::NotConnected
    };
    assert!(matches!(&missed[..], [one] if is_all(one)), "{slots} from {next}: {missed:?}");
}

#[test]
fn a_device_of_which_only_its_begin_is_known_goes_on_from_there_without_a_question() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let fake = bench.device("a");
    let grid = bench.shell.devices[0].device.grid;
    let since = grid.at(grid.first_from(clock::now().plus_ms(-9 * DAY_MS)));
    bench.order(1, "a", 0);
    let put = |sql: &str, values: &[&dyn rusqlite::ToSql]| bench.connection.execute(sql, values).unwrap();
    put(
        "INSERT INTO grids (id, device, interval_ms, phase_ms) VALUES (1, 1, ?1, ?2)",
        &[&grid.interval.as_ms(), &grid.phase_ms],
    );
    put("INSERT INTO spans (grid, agent, first_slot) VALUES (1, 1, ?1)", &[&grid.first_from(since).0]);
    fake.told()
        .failures
        .push_back(Some(Failure::Withdrawn { whose: Whose::Device, why: "moved out".into() }));
    bench.expire();
    bench.look().unwrap();
    assert_eq!(bench.known(), [true]);
    assert_eq!(bench.shell.known(0).unwrap().next, since);
}

#[test]
fn a_clock_that_is_set_back_keeps_nothing_waiting_until_it_is_there_again() {
    let (mut bench, year_ms) = (Bench::new(&[]), 366 * DAY_MS);
    let (lister, now) = (bench.shell.lister.as_mut().unwrap(), clock::now());
    for (ahead_ms, is_due) in [(0, false), (30_000, false), (year_ms, true)] {
        lister.put_off(None, now.plus_ms(ahead_ms));
        lister.look(now);
        assert_eq!((lister.due <= now, lister.wanted <= now), (is_due, is_due), "{ahead_ms}");
    }
    bench.shell.lister = None;
    for (again_ms, is_begun) in [(DAY_MS, false), (year_ms, true)] {
        bench.device("a");
        bench.shell.devices[0].life = Life::New { again: now.plus_ms(again_ms), failures: 3 };
        bench.look().unwrap();
        assert_eq!(bench.known(), [is_begun], "{again_ms}");
        bench.shell.devices.clear();
    }
}
