//! Which device is asked first, and how urgent what waits for a call becomes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use gapless_common::message::{Command, CommandBody};

use super::super::failure::Failure;
use super::super::life::Life;
use super::reads::minute;
use super::{Bench, DAY_MS};
use crate::clock;
use crate::jobs::budget::Urgency;
use crate::store::sources::Scan;

#[test]
fn the_most_urgent_device_is_asked_first_and_what_was_answered_is_not_asked_again() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let fakes = ["a", "b", "c", "d"].map(|name| bench.device(name));
    bench.look().unwrap();
    let now = clock::now();
    // Each is told to poll: stale by so much, by a person, or for what has been missing for long.
    let sql = "INSERT INTO sites (id, name) VALUES (1, 'home-1')";
    bench.connection.execute(sql, []).unwrap();
    let rows = [("a", Some((1, 1_000))), ("b", Some((1, 5_000))), ("c", Some((4, 0))), ("d", None)];
    for (no, (name, job)) in (1_i64..).zip(rows) {
        let put = |sql: &str, values: &[&dyn rusqlite::ToSql]| bench.connection.execute(sql, values).unwrap();
        put(
            "INSERT INTO agents (id, site, name, connected) VALUES (?1, 1, ?2, 1)",
            &[&no, &format!("fleet-{name}")],
        );
        put("INSERT INTO devices (id, site, name) VALUES (?1, 1, ?2)", &[&no, &name]);
        let (kind, from) = if job.is_some() { (4, None) } else { (5, Some(now.0 - DAY_MS)) };
        put(
            "INSERT INTO commands (id, agent, kind, a, b, device, created_at, expires_at) VALUES (?1, ?1, ?2, ?3, ?4, ?5, 0, ?6)",
            &[&no, &kind, &from, &from.map(|_| now.0), &name, &(now.0 + DAY_MS)],
        );
        if let Some((why, age_ms)) = job {
            put(
                "INSERT INTO jobs (device, no, source, why, asked_at, due_at, fresh_at, allowed_ms, failures, lease, lease_until,
                    began_at, command) VALUES (?1, ?1, 1, ?2, 0, 0, ?3, 1000, 0, 1, 0, 0, ?1)",
                &[&no, &why, &(now.0 - age_ms)],
            );
        }
    }
    let order = Arc::new(Mutex::new(Vec::new()));
    for (name, fake) in ["a", "b", "c", "d"].into_iter().zip(&fakes) {
        fake.told().order = Some((name, Arc::clone(&order)));
    }
    let scan = Scan::read(&bench.connection, clock::now()).unwrap();
    assert_eq!(bench.shell.wants(&scan, now), Some(Urgency::Asked.rank()));
    bench.look().unwrap();
    // Each reads several windows.
    order.lock().unwrap().dedup();
    assert_eq!(*order.lock().unwrap(), ["c", "b", "a", "d"]);
    bench.look().unwrap();
    assert_eq!(order.lock().unwrap().len(), 4);
    assert_eq!(bench.shell.wants(&scan, now), None, "nothing to do");
}

#[test]
fn a_first_call_is_the_more_urgent_the_longer_it_waits() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let fake = bench.device("a");
    for waited_ms in [0, 299_000, 301_000, 900_000] {
        let polled = &mut bench.shell.devices[0];
        polled.life = Life::NEW;
        polled.waits_since = (waited_ms > 0).then(|| clock::now().plus_ms(-waited_ms));
        fake.told().failures.push_back(Some(Failure::Spent(clock::now().plus_ms(9_000))));
        bench.look().unwrap();
        assert!(bench.shell.devices[0].waits_since.is_some());
    }
    let urgencies = fake.told().urgencies.clone();
    let is = |urgency: &Urgency, expected: f64| matches!(urgency, Urgency::Score(score) if (score - expected).abs() < 0.1);
    let all = urgencies.iter().zip([0.0, 0.0, 1.0, 3.0]);
    assert!(
        all.clone().count() == 4 && all.into_iter().all(|(urgency, expected)| is(urgency, expected)),
        "{urgencies:?}"
    );
}

#[test]
fn a_first_call_that_fails_is_no_more_urgent_than_at_first() {
    let rows = [
        (Failure::Status(404, String::new()), false),
        (Failure::Transport("reset".into()), false),
        (Failure::Unreachable("asleep".into()), false),
        (Failure::Hold(clock::now().plus_ms(9_000)), true),
        (Failure::Spent(clock::now().plus_ms(9_000)), true),
    ];
    for (failure, has_waited) in rows {
        let (mut bench, what) = (Bench::new(&[]), failure.to_string());
        bench.shell.lister = None;
        let fake = bench.device("a");
        bench.shell.devices[0].waits_since = Some(clock::now().plus_ms(-900_000));
        fake.told().failures.push_back(Some(failure));
        let _ = bench.look();
        assert_eq!(bench.shell.devices[0].waits_since.is_some(), has_waited, "{what}");
    }
}

#[test]
fn what_is_missing_is_the_more_urgent_the_longer_it_waits_for_a_call_whatever_asks_for_it() {
    let mut bench = Bench::new(&[]);
    bench.shell.lister = None;
    let fake = bench.device("a");
    bench.look().unwrap();
    fake.told().urgencies.clear();
    let now = clock::now();
    let device = bench.shell.devices[0].device.id.clone();
    let to = minute(now);
    let body = CommandBody::ReadHistory { device, from: to.plus_ms(-DAY_MS), to };
    // The first waits, the second one expires, the third asks for the same and is carried out.
    for (id, expires_ms, is_spent) in [(1, 60_000, true), (2, 1_000, true), (3, 60_000, false)] {
        let until = now.plus_ms(30_000);
        fake.told().failures = if is_spent { [Some(Failure::Spent(until))].into() } else { VecDeque::new() };
        let command = Command { id, expires: now.plus_ms(expires_ms), body: body.clone() };
        bench.shell.carry_out(&bench.connection, 0, &command).unwrap();
        let waits_since = &mut bench.shell.devices[0].waits_since;
        assert_eq!(waits_since.is_some(), is_spent, "{id}");
        *waits_since = waits_since.map(|since| since.plus_ms(-3 * 3_600_000));
    }
    let urgencies = fake.told().urgencies.clone();
    let is = |urgency: &Urgency, expected: f64| matches!(urgency, Urgency::Score(score) if (score - expected).abs() < 0.1);
    // After the window that was served the next one would leave the account to others.
    assert_eq!((urgencies.len(), urgencies[0], urgencies[3]), (4, Urgency::Spare, Urgency::Spare));
    assert!(is(&urgencies[1], 3.0) && is(&urgencies[2], 6.0), "{urgencies:?}");
}

#[test]
fn what_is_missing_waits_through_a_rest_of_the_source_and_not_beyond_its_commands_and_one_window_is_served_by_it()
 {
    const HOUR_MS: i64 = 3_600_000;
    let (until, three_hours) = (clock::now().plus_ms(30_000), 3 * HOUR_MS);
    let spent = || Some(Failure::Spent(until));
    // How long ago it was refused last, what its windows meet; how urgent they were, and how long what is left has waited.
    let rows = [
        (1_000, vec![spent()], vec![3.0], Some(three_hours)),
        (1_000, vec![Some(Failure::Hold(until))], vec![3.0], Some(three_hours)),
        (1_000, vec![None, spent()], vec![3.0, -1.0], Some(0)),
        (1_000, vec![None, None], vec![3.0, -1.0, -1.0], None),
        (1_000, vec![Some(Failure::Status(404, String::new()))], vec![3.0], None),
        // Its command has ended, and nobody asked for it since.
        (HOUR_MS, vec![spent()], vec![-1.0], Some(0)),
    ];
    for (refused_ms, failures, urgencies, waits_ms) in rows {
        let what = format!("{refused_ms} {failures:?}");
        let mut bench = Bench::new(&[]);
        bench.shell.lister = None;
        let fake = bench.device("a");
        bench.look().unwrap();
        fake.told().urgencies.clear();
        fake.told().failures = failures.into();
        let now = clock::now();
        bench.shell.devices[0].refused(now.plus_ms(-three_hours), now.plus_ms(-refused_ms));
        let device = bench.shell.devices[0].device.id.clone();
        let to = minute(now);
        let body = CommandBody::ReadHistory { device, from: to.plus_ms(-2 * DAY_MS), to };
        let command = Command { id: 1, expires: now.plus_ms(60_000), body };
        bench.shell.carry_out(&bench.connection, 0, &command).unwrap();
        let told = fake.told().urgencies.clone();
        let is_it = |(urgency, expected): (&Urgency, &f64)| match urgency {
            Urgency::Score(score) => (score - expected).abs() < 0.1,
            _ => *expected < 0.0,
        };
        assert!(told.len() == urgencies.len() && told.iter().zip(&urgencies).all(is_it), "{what}: {told:?}");
        let waited = bench.shell.devices[0].waits_since.map(|since| now.since_ms(since));
        let is_close = waited.zip(waits_ms).is_some_and(|(is, expected)| (is - expected).abs() < 2_000);
        assert!(is_close || (waited, waits_ms) == (None, None), "{what}: {waited:?}");
    }
}
