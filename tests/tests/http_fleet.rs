//! A source that lists its devices, says what changed, and allows so many calls: its API, the shipped description of it, and the
//! real collector. Devices that come, go and come back; pages that fail, lists that name nothing; changes that are read where
//! they are, and those that only a reconciliation finds; calls that are never more than allowed, over a kill, and that everything
//! gets some of; two sources of one site; an address that is another one now.

use std::time::Duration;

use gapless_common::time::Timestamp;
use gapless_simulators::clock;
use gapless_simulators::remote::RemoteServer;
use gapless_simulators::remote::fleet::{Call, Fleet, PageFault};
use gapless_simulators::remote::thermostat::FIVE_MINUTES_MS;
use gapless_tests::home::{Home, WITHIN, described};
use gapless_tests::wait;

const DAY_MS: i64 = 86_400_000;
const THERMOSTATS: [(&str, &str); 3] = [("411", "Hall"), ("412", "Attic"), ("413", "Cellar")];

/// An instant of a value, so long ago.
fn ago(ms: i64) -> Timestamp {
    Timestamp((clock::now().wall_ms - ms).div_euclid(FIVE_MINUTES_MS) * FIVE_MINUTES_MS)
}

fn fleet(days: i64) -> RemoteServer<Fleet> {
    RemoteServer::start(Fleet::new("secret", ago(days * DAY_MS), &THERMOSTATS)).expect("a port")
}

/// The shipped description in a hurry.
fn hurried(server: &RemoteServer<Fleet>, words: &[(&str, &str)]) -> String {
    let address = server.address().to_string();
    let usual = [
        ("127.0.0.1:9403", address.as_str()),
        ("every = \"5m\"", "every = \"2s\""),
        ("every_least = \"2m\"", "every_least = \"1s\""),
        ("every_most = \"15m\"", "every_most = \"2s\""),
        ("every = \"1h\"", "every = \"2s\""),
        ("calls = [{ most = 1000, per = \"1h\" }, { most = 10000, per = \"1d\" }]\n", ""),
    ];
    // Who gives other words for the calls wants them.
    let usual = usual.iter().filter(|(from, _)| !words.iter().any(|(other, _)| from.starts_with(other)));
    let words: Vec<_> = usual.chain(words).copied().collect();
    described(include_str!("../../collector/sources/thermostat-fleet.toml"), &words)
}

/// Waits until all that the cloud has of a thermostat is stored as it has it.
fn holds(home: &Home, server: &RemoteServer<Fleet>, id: &str, device: &str) {
    wait::until(device, WITHIN, || {
        let rows = home.readings(&format!("{device}/temperature"));
        let cloud = server.state();
        // What the last quarter of an hour brings may not be there yet.
        let last = clock::now().wall_ms - 3 * 900_000;
        let mut all = (0..).map(|n| cloud.oldest.plus_ms(n * FIVE_MINUTES_MS)).take_while(|at| at.0 < last);
        match all.find(|at| rows.get(&at.0).and_then(|row| row.0) != Some(cloud.celsius(id, *at))) {
            None => Ok(()),
            Some(at) => Err(format!("{device} at {at}: {:?}; {} rows", rows.get(&at.0), rows.len())),
        }
    });
}

/// How many listings began.
fn listings(server: &RemoteServer<Fleet>) -> usize {
    server.state().calls.iter().filter(|call| **call == Call::Page(1)).count()
}

/// Waits for so many more listings that began after now to be over: the next one has begun.
fn listed_again(server: &RemoteServer<Fleet>, times: usize) {
    let before = listings(server);
    wait::until_true("listings", WITHIN, || listings(server) > before + times);
}

/// The windows of the reports that were asked for since, in ms, by thermostat.
fn reports(server: &RemoteServer<Fleet>, since: usize) -> Vec<(String, i64)> {
    let calls = server.state().calls[since..].to_vec();
    let window = |call| match call {
        Call::Report { id, from, to } => Some((id, to.since_ms(from))),
        Call::Page(_) | Call::Changes => None,
    };
    calls.into_iter().filter_map(window).collect()
}

fn removed(home: &Home, device: &str) -> bool {
    home.device(device)["attributes"]["removed_at"].is_string()
}

fn refresh(home: &Home, device: &str) {
    wait::until("a refresh", WITHIN, || {
        let (status, body) = home.api.post(&format!("/api/v1/devices/home-1/{device}/refresh"))?;
        if status == 200 { Ok(()) } else { Err(body) }
    });
}

#[test]
fn devices_come_and_go_with_complete_listings_only_and_a_restart_remembers() {
    let server = fleet(2);
    let mut home = Home::start(&[hurried(&server, &[])]);
    for (id, label) in THERMOSTATS {
        holds(&home, &server, id, label);
    }
    assert_eq!(home.device("Attic")["attributes"]["var.serial"], "T-412");

    // A page that fails, is cut off or holds too little, and a list that names nothing for once, take nothing away.
    for fault in [PageFault::Fails, PageFault::Cut, PageFault::Short] {
        let seconds = || server.state().calls.iter().filter(|call| **call == Call::Page(2)).count();
        server.state().faults.insert(2, fault);
        let before = seconds();
        wait::until_true("the page", WITHIN, || seconds() > before);
        server.state().faults.clear();
        listed_again(&server, 1);
    }
    server.state().empty_listings = 1;
    listed_again(&server, 2);
    assert_eq!(server.state().empty_listings, 0);
    for (_, label) in THERMOSTATS {
        assert!(!removed(&home, label), "{label}");
    }

    // What a complete listing names no more is asked no more, keeps what it has, and says so.
    server.state().thermostats.remove("412");
    wait::until_true("the word", WITHIN, || removed(&home, "Attic"));
    let attic = home.device("Attic");
    assert!(
        attic["attributes"]["removed_reason"].as_str().is_some_and(|why| why.contains("list")),
        "{attic}"
    );
    wait::until("it to be retired", WITHIN, || {
        let state = home.device("Attic")["freshness"]["state"].clone();
        if state == "retired" { Ok(()) } else { Err(state) }
    });
    let stored = home.readings("Attic/temperature").len();
    assert!(stored > 500, "{stored}");
    let (status, _) = home.api.post("/api/v1/devices/home-1/Attic/refresh").expect("answered");
    assert_eq!(status, 409, "there is nobody to ask");
    let before = server.state().calls.len();
    home.kill();
    listed_again(&server, 1);
    refresh(&home, "Hall");
    wait::until_true("the hall", WITHIN, || reports(&server, before).iter().any(|(id, _)| id == "411"));
    assert!(removed(&home, "Attic") && !removed(&home, "Cellar"));
    assert!(reports(&server, before).iter().all(|(id, _)| id != "412"), "{:?}", reports(&server, before));
    let open = |home: &Home| {
        let gaps = home.api.items("/api/v1/gaps?device=Attic").unwrap_or_default();
        gaps.into_iter().filter(|gap| gap["state"] != "filled").collect::<Vec<_>>()
    };
    // What it had not yet of its last hours is missing, and not asked for.
    assert!(open(&home).iter().all(|gap| gap["cause"] == "not_recorded"), "{:?}", open(&home));

    // It comes back under its name, whatever the source calls it now; another one of a known name gets one of its own.
    {
        let mut cloud = server.state();
        cloud.thermostats.insert("412".to_owned(), "Loft".to_owned());
        cloud.thermostats.insert("999".to_owned(), "Hall".to_owned());
    }
    wait::until_true("it again", WITHIN, || {
        let attic = home.device("Attic");
        attic["attributes"].is_object() && attic["attributes"]["removed_at"].is_null()
    });
    holds(&home, &server, "412", "Attic");
    holds(&home, &server, "999", "Hall-999");

    // Said twice in a row, an empty list is believed.
    server.state().thermostats.clear();
    wait::until_true("all of them", WITHIN, || {
        ["Hall", "Attic", "Cellar", "Hall-999"].iter().all(|device| removed(&home, device))
    });
}

#[test]
fn what_changed_is_read_where_it_is_and_the_rest_with_a_reconciliation() {
    let server = fleet(20);
    let words = [
        ("lag = \"3h\"", "lag = \"3h\"\nfirst = \"20d\""),
        ("reconcile = \"1d\"", "reconcile = \"20s\""),
        ("back = \"7d\"", "back = \"15d\""),
    ];
    let home = Home::start(&[hurried(&server, &words)]);
    for (id, label) in THERMOSTATS {
        holds(&home, &server, id, label);
    }

    // What was put right is read of the one that it was put right at, and as little as overlaps.
    let begin = clock::now().wall_ms;
    let before = server.state().calls.len();
    server.state().revise("411", ago(2 * 3_600_000), 31.25, true);
    holds(&home, &server, "411", "Hall");
    let asked = reports(&server, before);
    // Between two quarters of an hour and two reconciliations nothing else is new.
    let is_quiet = begin.div_euclid(900_000) == clock::now().wall_ms.div_euclid(900_000);
    let short: Vec<_> = asked.iter().filter(|(_, ms)| *ms < DAY_MS).collect();
    assert!(short.iter().any(|(id, _)| id == "411"), "{asked:?}");
    assert!(!is_quiet || short.iter().all(|(id, _)| id == "411"), "{asked:?}");

    // What the source does not say is found by the next reconciliation, as far back as that goes; only that is written.
    server.state().revise("412", ago(10 * DAY_MS), 32.5, false);
    holds(&home, &server, "412", "Attic");
    let history = home.api.get("/api/v1/jobs").expect("answered")["history"].clone();
    let of_attic = history.as_array().expect("a list").iter().filter(|job| job["device"] == "Attic");
    let newest = of_attic.filter_map(|job| job["readings"].as_u64()).find(|readings| *readings > 0);
    assert!(newest.is_some_and(|readings| readings <= 12), "{history}");
    assert_eq!(home.api.items("/api/v1/conflicts").expect("answered").len(), 0);
}

#[test]
fn a_start_and_a_forgotten_cursor_are_a_reconciliation_each() {
    let server = fleet(10);
    let words = [("lag = \"3h\"", "lag = \"3h\"\nfirst = \"10d\""), ("back = \"7d\"", "back = \"9d\"")];
    let mut home = Home::start(&[hurried(&server, &words)]);
    for (id, label) in THERMOSTATS {
        holds(&home, &server, id, label);
    }
    for (hours, is_start) in [(48, true), (72, false)] {
        server.state().revise("413", ago(hours * 3_600_000), 33.0, false);
        let before = server.state().calls.len();
        if is_start {
            home.kill();
        } else {
            server.state().forget_cursors();
        }
        holds(&home, &server, "413", "Cellar");
        let asked = reports(&server, before);
        assert!(asked.iter().any(|(id, ms)| id == "413" && *ms > 8 * DAY_MS), "{asked:?}");
    }
}

#[test]
fn rows_that_a_source_hands_out_by_itself_are_stored_without_a_call_for_them() {
    let server = fleet(1);
    let words = [
        ("/changes?since", "/rows?since"),
        ("device = \"thermostat\"", "device = \"thermostat\"\nrows = true"),
    ];
    let home = Home::start(&[hurried(&server, &words)]);
    for (id, label) in THERMOSTATS {
        holds(&home, &server, id, label);
    }
    let before = server.state().calls.len();
    {
        let mut cloud = server.state();
        // They come in parts, and one of those fails at first.
        (cloud.changes_most, cloud.broken_parts) = (1, 2);
        cloud.revise("412", ago(20 * 3_600_000), 30.5, true);
        cloud.revise("412", ago(19 * 3_600_000), 30.75, true);
        cloud.revise("413", ago(18 * 3_600_000), 31.0, true);
    }
    for (id, label) in THERMOSTATS {
        holds(&home, &server, id, label);
    }
    assert_eq!(reports(&server, before), [], "the rows were there already");
    assert_eq!(server.state().broken_parts, 0);
    assert_eq!(home.api.items("/api/v1/conflicts").expect("answered").len(), 0);
}

#[test]
fn no_more_calls_are_made_than_allowed_over_a_kill_too() {
    const LIMITS: [(usize, i64); 2] = [(10, 5_000), (40, 60_000)];
    let server = fleet(1);
    server.state().limits = LIMITS.to_vec();
    let words = [
        (
            "calls = [{ most = 1000, per = \"1h\" }, { most = 10000, per = \"1d\" }]",
            "calls = [{ most = 10, per = \"5s\" }, { most = 40, per = \"60s\" }]\ntimeout = \"2s\"",
        ),
        ("every = \"1h\"", "every = \"1s\""),
    ];
    let mut home = Home::start(&[hurried(&server, &words)]);
    let calls = |server: &RemoteServer<Fleet>| server.state().counter.all("secret");
    wait::until_true("some calls", WITHIN, || calls(&server) >= 15);
    home.kill();
    for (id, label) in THERMOSTATS {
        holds(&home, &server, id, label);
    }
    // What can wait leaves room: who is waited for is asked though the lists have used up their part.
    wait::until_true("the rest", WITHIN, || {
        for (_, label) in THERMOSTATS {
            let _ = home.api.post(&format!("/api/v1/devices/home-1/{label}/refresh"));
        }
        std::thread::sleep(Duration::from_millis(100));
        server.state().counter.most_within("secret", 60_000) > 30
    });
    let cloud = server.state();
    for (most, per_ms) in LIMITS {
        let made = cloud.counter.most_within("secret", per_ms);
        assert!(made <= most, "{made} calls within {per_ms} ms");
    }
    assert_eq!(cloud.refused, 0);
}

#[test]
fn the_list_is_read_though_people_ask_for_more_calls_than_there_are() {
    let server = fleet(1);
    let words = [
        (
            "calls = [{ most = 1000, per = \"1h\" }, { most = 10000, per = \"1d\" }]",
            "calls = [{ most = 6, per = \"6s\" }]\ntimeout = \"2s\"",
        ),
        ("lag = \"3h\"", "lag = \"3h\"\nfirst = \"1d\""),
    ];
    let home = Home::start(&[hurried(&server, &words)]);
    for (_, label) in THERMOSTATS {
        wait::until_true(label, WITHIN, || !home.readings(&format!("{label}/temperature")).is_empty());
    }
    // What is waited for could have them all.
    let all = |home: &Home| {
        for (_, label) in THERMOSTATS {
            let _ = home.api.post(&format!("/api/v1/devices/home-1/{label}/refresh"));
        }
    };
    let before = server.state().calls.len();
    wait::until_true("so many calls for people as there are in one time", WITHIN, || {
        all(&home);
        server.state().calls.len() >= before + 6
    });
    server.state().thermostats.insert("414".to_owned(), "Loft".to_owned());
    wait::until_true("the new one", WITHIN, || {
        all(&home);
        home.device("Loft")["attributes"]["listed_id"] == "414"
    });
    // Who only waits for a call is no trouble.
    let log = std::fs::read_to_string(home.folder.path().join("collector.log")).unwrap_or_default();
    assert!(!log.contains("no call is left"), "{log}");
    assert_eq!(server.state().refused, 0);
}

#[test]
fn two_sources_of_one_site_that_list_at_once_give_each_device_a_name_of_its_own() {
    let (one, other) = (fleet(1), [("511", "Hall"), ("512", "Attic"), ("513", "Cellar")]);
    let other = RemoteServer::start(Fleet::new("secret", ago(DAY_MS), &other)).expect("a port");
    let words = [("name = \"fleet\"", "name = \"second\""), ("account = \"fleet\"", "account = \"second\"")];
    let home = Home::start(&[hurried(&one, &[]), hurried(&other, &words)]);
    let ids = wait::until("six devices", WITHIN, || {
        let devices = home.api.items("/api/v1/devices")?;
        let ids = devices.iter().map(|device| device["attributes"]["listed_id"].to_string());
        let ids: std::collections::BTreeSet<_> = ids.collect();
        if devices.len() >= 6 { Ok(ids) } else { Err(format!("{ids:?}")) }
    });
    assert_eq!(ids.len(), 6, "{ids:?}");
    for (_, label) in THERMOSTATS {
        wait::until_true(label, WITHIN, || !home.readings(&format!("{label}/temperature")).is_empty());
    }
}

#[test]
fn what_points_elsewhere_is_not_followed_and_said() {
    let (server, other) = (fleet(1), fleet(1));
    server.state().moved_to = Some(format!("http://{}/v2", other.address()));
    let home = Home::start(&[hurried(&server, &[])]);
    let expected = format!("is to be asked at http://{}/v2/thermostats. Write", other.address());
    wait::until("the word", WITHIN, || {
        let log = std::fs::read_to_string(home.folder.path().join("collector.log")).unwrap_or_default();
        if log.contains(&expected) { Ok(()) } else { Err(log) }
    });
    assert_eq!(other.state().counter.all("secret"), 0);
}
