//! Sources that list their devices.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::differ::Differ;
use super::super::failure::Failure;
use super::super::life::{Began, Life, Reread};
use super::super::list::Entry;
use super::super::relist::Lister;
use super::super::roster::Changes;
use super::{Bench, DAY_MS, entry};
use crate::clock;

#[test]
fn sources_of_one_site_give_no_name_twice() {
    let (mut one, mut other) = (Bench::new(&[]), Bench::new(&[("name = \"fleet\"", "name = \"b\"")]));
    other.shell.lister = Some(Lister::new(Arc::clone(&other.api), one.names.clone()));
    one.list(&[entry("1", "Hall"), entry("2", "Attic")]);
    other.list(&[entry("7", "Hall"), entry("8", "Cellar")]);
    assert_eq!((one.names(), other.names()), (vec!["Hall", "Attic"], vec!["Hall-7", "Cellar"]));
    // The agent of `b-Loft` of `fleet` is what that of `Loft` of `fleet-b` would be.
    let mut third = Bench::new(&[("name = \"fleet\"", "name = \"fleet-b\"")]);
    third.shell.lister = Some(Lister::new(Arc::clone(&third.api), one.names.clone()));
    one.list(&[entry("3", "b-Loft")]);
    third.list(&[entry("9", "Loft")]);
    assert_eq!((one.names()[2], third.names()), ("b-Loft", vec!["Loft-9"]));
}

#[test]
fn a_listed_device_that_the_database_knows_gets_its_old_name_again() {
    let mut bench = Bench::new(&[]);
    let rows = "INSERT INTO sites (id, name) VALUES (1, 'home-1');
        INSERT INTO devices (site, name, attributes) VALUES
            (1, 'Hall', '{\"source\": \"fleet\", \"listed_id\": \"411\"}'),
            (1, 'Attic', '{\"source\": \"other\", \"listed_id\": \"412\"}')";
    bench.connection.execute_batch(rows).unwrap();
    bench.list(&[entry("411", "Lobby"), entry("412", "Attic"), entry("9", "Hall")]);
    assert_eq!(bench.names(), ["Hall", "Attic-412", "Hall-9"]);
}

#[test]
fn a_listed_device_whose_key_another_one_has_is_left_out_where_that_says_what_changed() {
    for (has_delta, expected) in [(true, vec!["a", "Attic"]), (false, vec!["a", "Hall", "Attic"])] {
        let mut bench = Bench::new(&[]);
        bench.device("a");
        bench.shell.differ = has_delta.then(|| Differ::new(Arc::clone(&bench.api)));
        bench.list(&[entry("a", "Hall"), entry("b", "Attic")]);
        assert_eq!(bench.names(), expected);
    }
}

#[test]
fn a_listed_device_that_is_asked_for_in_another_way_is_read_anew_and_keeps_its_claim() {
    let mut bench = Bench::new(&[]);
    bench.list(&[entry("a", "Hall")]);
    // Nobody is to be called.
    bench.shell.devices[0].life = Life::New { again: clock::now().plus_ms(DAY_MS), failures: 0 };
    let fake = bench.device("Attic");
    bench.shell.devices[1].listed = Some(entry("b", "Attic"));
    let other = |id, name| Entry { vars: [("net".to_owned(), "9".to_owned())].into(), ..entry(id, name) };
    bench.shell.lister.as_mut().unwrap().rest(clock::now());
    bench.look().unwrap();
    let known = bench.shell.known(1).unwrap();
    known.revision = Some("7".to_owned());
    known.reread = Some(Reread::new(clock::now(), Began::default()));
    let before = bench.api.caller.who().0;
    let changes = Changes { other: vec![other("a", "Hall"), other("b", "Attic")], ..Changes::default() };
    bench.shell.go_by(&bench.connection, &Arc::clone(&bench.api), changes, true).unwrap();
    assert_eq!(bench.api.caller.who().0, before + 1, "nobody else asks");
    let known = bench.shell.known(1).unwrap();
    assert!(known.revision.is_none() && known.reread.is_none());
    assert_eq!(fake.told().renewed, ["9"]);
}

#[test]
fn for_a_device_that_the_list_never_names_it_is_read_out_of_turn_once() {
    let bench = Bench::new(&[]);
    let (mut lister, now) = (bench.shell.lister.unwrap(), clock::now());
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
    // After each listing it is due in an hour.
    let rows: [(&[&str], bool); 5] =
        [(&["x"], true), (&["x"], false), (&["x", "y"], true), (&["y", "x"], false), (&[], false)];
    for (unknown, is_soon) in rows {
        lister.put_off(None, now);
        lister.unknown(&ids(unknown), now);
        assert_eq!(lister.due <= now.plus_ms(60_000), is_soon, "{unknown:?}");
    }
}

#[test]
fn a_list_that_waits_for_a_call_asks_again_and_is_wanted_since_it_was_due() {
    let bench = Bench::new(&[]);
    let (mut lister, now) = (bench.shell.lister.unwrap(), clock::now());
    lister.put_off(None, now);
    let (hour, wanted) = (now.plus_ms(3_600_000), now.plus_ms(3_600_000));
    lister.put_off(Some(&Failure::Spent(hour.plus_ms(DAY_MS))), hour);
    assert_eq!((lister.due, lister.wanted), (hour.plus_ms(30_000), wanted));
    lister.put_off(Some(&Failure::Spent(hour.plus_ms(9))), hour);
    assert_eq!((lister.due, lister.wanted), (hour.plus_ms(9), wanted));
    // One that fails has not waited for want of a call.
    lister.put_off(Some(&Failure::Transport(String::new())), hour);
    assert_eq!((lister.due, lister.wanted), (hour.plus_ms(5_000), hour.plus_ms(5_000)));
    lister.put_off(None, hour);
    assert_eq!((lister.due, lister.wanted), (hour.plus_ms(3_600_000), hour.plus_ms(3_600_000)));
}
