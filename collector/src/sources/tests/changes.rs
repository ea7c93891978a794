//! Sources that say what changed.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gapless_common::message::{Command, CommandBody, Outcome};
use gapless_common::time::Timestamp;

use super::super::delta::{Change, ToRead};
use super::super::differ::{Differ, by_key};
use super::super::life::Polled;
use super::reads::{follow, long_read};
use super::{Bench, UNLIMITED, row};
use crate::clock;
use crate::jobs::budget::Urgency;

#[test]
fn devices_are_read_though_the_question_what_changed_fails_from_the_start() {
    // Nobody answers at this address.
    let mut bench = Bench::new(&[("127.0.0.1:9403", "127.0.0.1:1"), UNLIMITED]);
    bench.shell.lister = None;
    let fake = bench.device("a");
    bench.look().unwrap();
    bench.shell.differ = Some(Differ::new(Arc::clone(&bench.api)));
    let at = clock::now().plus_ms(-3_600_000);
    fake.told().rows = vec![row(at, 20.5)];
    for _ in 0..2 {
        let before = fake.told().windows.len();
        bench.written();
        let outcome = bench.shell.poll_changes(0, at, Urgency::Asked).unwrap();
        assert_eq!((outcome, bench.written()), (Outcome::Done, vec![(at, 20.5)]));
        assert!(fake.told().windows.len() > before, "it is not taken for read");
    }
    let seen = bench.shell.known(0).unwrap().seen;
    let delta = &bench.shell.differ.as_ref().unwrap().delta;
    assert!(
        matches!(delta.to_read("a", seen), ToRead::Everything(..)),
        "it is read anew once there is an answer"
    );
}

#[test]
fn a_question_that_fails_is_not_asked_again_between_the_windows_of_a_long_read() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(AtomicUsize::new(0));
    let noted = Arc::clone(&asked);
    // Whoever asks is told nothing.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            noted.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    let mut bench = Bench::new(&[("127.0.0.1:9403", &address), UNLIMITED]);
    bench.shell.lister = None;
    let (fake, from) = long_read(&mut bench, 4);
    bench.shell.differ = Some(Differ::new(Arc::clone(&bench.api)));
    bench.order(1, "a", 90_000);
    assert!(bench.look().unwrap());
    let once = asked.load(Ordering::SeqCst);
    assert!(once > 0);
    bench.expire();
    let more = (0..9).take_while(|_| bench.look().unwrap()).count();
    assert_eq!((more, fake.told().windows.len()), (3, 5));
    assert!(follow(&fake.told().windows, from), "{:?}", fake.told().windows);
    assert_eq!(asked.load(Ordering::SeqCst), once);
    assert!(!bench.shell.devices[0].life.goes_on());
    // The next one is asked for again.
    bench.shell.poll_changes(0, clock::now().plus_ms(-1_000), Urgency::Asked).unwrap();
    assert!(asked.load(Ordering::SeqCst) > once);
}

#[test]
fn of_what_changed_at_a_device_that_is_not_known_people_are_told_once() {
    let bench = Bench::new(&[]);
    let mut differ = Differ::new(bench.api);
    let ids = |ids: std::ops::Range<usize>| ids.map(|id| id.to_string()).collect::<BTreeSet<_>>();
    for (unknown, has_list, new) in
        [(0..2, false, 2), (0..3, false, 1), (0..3, true, 0), (0..2_000, true, 997), (0..3_000, false, 0)]
    {
        assert_eq!(differ.say_unknown(&ids(unknown.clone()), has_list), new, "{unknown:?}");
    }
}

#[test]
fn what_was_still_to_come_when_a_source_was_asked_is_not_missing_by_its_answer() {
    for (asked_ms, is_missing) in [(60_000, false), (0, true)] {
        let mut bench = Bench::new(&[UNLIMITED]);
        bench.shell.lister = None;
        drop(bench.device("a"));
        bench.look().unwrap();
        let (now, grid) = (clock::now(), bench.shell.devices[0].device.grid);
        let slot = grid.slot_at(now.plus_ms(-3_600_000));
        // The slot is settled by half a minute.
        bench.shell.pace.lag_ms = now.since_ms(grid.at(slot)) - 30_000;
        let mut differ = Differ::new(Arc::clone(&bench.api));
        bench.shell.known(0).unwrap().seen = differ.delta.last();
        let spec = bench.api.description.delta.clone().unwrap();
        let answer = spec.parse(r#"{"changes": [], "cursor": "1"}"#).unwrap();
        differ.delta.take(answer, now.plus_ms(-asked_ms), |_, _| None);
        bench.shell.differ = Some(differ);
        bench.written();
        assert_eq!(bench.shell.poll_changes(0, now, Urgency::Asked).unwrap(), Outcome::NoData);
        let missed = bench.missed();
        let has_slot =
            missed.iter().any(|(first, count, _)| (*first..first + i64::from(*count)).contains(&slot.0));
        assert!(!missed.is_empty() && has_slot == is_missing, "{missed:?}");
    }
}

#[test]
fn rows_that_came_by_themselves_before_a_read_do_not_undo_what_it_found() {
    for is_history in [false, true] {
        let mut bench = Bench::new(&[("device = \"thermostat\"", "device = \"thermostat\"\nrows = true")]);
        bench.shell.lister = None;
        let fake = bench.device("a");
        bench.look().unwrap();
        let now = clock::now();
        let of = |hours: i64| now.plus_ms(-hours * 3_600_000);
        let spec = bench.api.description.delta.clone().unwrap();
        let mut differ = Differ::new(Arc::clone(&bench.api));
        // Of the last of them the windows have nothing yet.
        let kept = vec![row(of(30), 1.0), row(of(20), 2.0), row(of(10), 3.0)];
        let answer = spec.parse(r#"{"changes": [{"thermostat": "a"}], "cursor": "1"}"#).unwrap();
        differ.delta.take(answer, now, |_, _| Some(Change::Rows(kept.clone())));
        bench.shell.differ = Some(differ);
        fake.told().rows = vec![row(of(30), 10.0), row(of(20), 20.0)];
        let device = bench.shell.devices[0].device.id.clone();
        bench.written();
        let mut expected = vec![(of(30), 10.0), (of(20), 20.0), (of(10), 3.0)];
        if is_history {
            let body = CommandBody::ReadHistory { device, from: of(25), to: of(5) };
            let command = Command { id: 1, expires: now.plus_ms(60_000), body };
            bench.shell.carry_out(&bench.connection, 0, &command).unwrap();
            assert_eq!(bench.written(), [(of(20), 20.0)]);
            // What is read of the others is told once.
            fake.told().rows.clear();
            expected = vec![(of(30), 1.0), (of(10), 3.0)];
        }
        bench.shell.poll_changes(0, of(40), Urgency::Asked).unwrap();
        assert_eq!(bench.written(), expected, "{is_history}");
        let grid = bench.shell.devices[0].device.grid;
        let first = fake.told().windows.iter().map(|(from, _)| *from).min().unwrap();
        assert_eq!(grid.at(grid.slot_at(first)), first, "it is read anew from a slot on");
    }
}

#[test]
fn rows_that_were_not_kept_are_read_until_a_read_holds_the_last_of_them() {
    let row =
        |at: Timestamp, value: &str| format!(r#"{{"thermostat": "a", "at": "{at}", "value": {value}}}"#);
    let named = || r#"{"thermostat": "a"}"#.to_owned();
    type Told<'a> = &'a dyn Fn(Timestamp) -> Vec<Vec<String>>;
    // What the answers tell, of a device that is polled or not, the last of it at an instant; and which of three polls read it where
    // that is half a minute ago. The first one reads all in any case.
    let rows: [(&str, bool, Told<'_>, usize); 8] = [
        ("nothing", true, &|_| vec![], 1),
        ("to nobody", false, &|at| vec![vec![row(at, "1")]], 3),
        ("a row", true, &|at| vec![vec![row(at, "1")]], 1),
        ("without a value", true, &|at| vec![vec![row(at, "null")]], 1),
        ("nonsense", true, &|at| vec![vec![row(at, "\"x\"")]], 3),
        ("where it is to be read", true, &|at| vec![vec![named()], vec![row(at, "1")]], 3),
        (
            "before it is to be read",
            true,
            &|at| vec![vec![row(at, "1")], vec![row(at.plus_ms(-90_000), "\"x\"")]],
            3,
        ),
        ("too many", true, &|at| vec![(0..=10_000).map(|n| row(at.plus_ms(-n), "1")).collect()], 3),
    ];
    for ((what, is_polled, told, expected), age_ms) in
        rows.iter().flat_map(|row| [120_000, 30_000, -3_600_000].map(|age_ms| (row, age_ms)))
    {
        let words = ("device = \"thermostat\"", "device = \"thermostat\"\nrows = true");
        let mut bench = Bench::new(&[words, UNLIMITED]);
        bench.shell.lister = None;
        let fake = bench.device("a");
        bench.look().unwrap();
        bench.shell.devices[0].values = vec!["value".to_owned()];
        let (now, spec) = (clock::now(), bench.api.description.delta.clone().unwrap());
        let mut differ = Differ::new(Arc::clone(&bench.api));
        let devices = if *is_polled { &bench.shell.devices[..] } else { &[] };
        let take = |differ: &mut Differ, devices: &[Polled], changes: &[String]| {
            let answer = format!(r#"{{"changes": [{}], "cursor": "1"}}"#, changes.join(","));
            differ.take(&spec, spec.parse(&answer).unwrap(), &by_key(devices), clock::now());
        };
        take(&mut differ, devices, &[]);
        told(now.plus_ms(-age_ms)).iter().for_each(|changes| take(&mut differ, devices, changes));
        bench.shell.differ = Some(differ);
        let mut reads = 0;
        for _ in 0..3 {
            let before = fake.told().windows.len();
            bench.shell.poll_changes(0, now.plus_ms(-1_000), Urgency::Asked).unwrap();
            reads += usize::from(fake.told().windows.len() > before);
            take(bench.shell.differ.as_mut().unwrap(), &[], &[]);
        }
        // What is over for a minute the first read holds.
        assert_eq!(reads, if age_ms > 60_000 { 1 } else { *expected }, "{what} {age_ms}");
    }
}
