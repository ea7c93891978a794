//! The APIs that sources ask, the shipped descriptions of them, and the real collector. Half-hourly meters: a first collection
//! over many windows, values that are none, half hours that the source has not and then has, too many calls, a kill in the
//! midst, one worker for two sources, a meter that cannot be reached, consent withdrawn. Thermostats: a probe before each report,
//! rows that are late or put right, tokens that expire. Carbon intensity: a series that is computed.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::time::Timestamp;
use gapless_simulators::clock;
use gapless_simulators::remote::meter::{HALF_HOUR_MS, Meter, WINDOW_MS_MAX};
use gapless_simulators::remote::oauth::Issuer;
use gapless_simulators::remote::quota::Quota;
use gapless_simulators::remote::thermostat::{Call, Cloud, FIVE_MINUTES_MS};
use gapless_simulators::remote::{Remote, RemoteServer, Request, carbon, thermostat};
use gapless_tests::api::ApiReading;
use gapless_tests::home::{Home, WITHIN, described};
use gapless_tests::wait;

const DAY_MS: i64 = 86_400_000;
const LAG_MS: i64 = 2 * 3_600_000;

fn meters<R: Remote>(server: &RemoteServer<R>) -> String {
    let address = server.address().to_string();
    let words = [
        ("127.0.0.1:9400", address.as_str()),
        ("\"7d\"", "\"3s\""),
        ("withdrawn = [403]", "withdrawn = [401, 403]"),
    ];
    described(include_str!("../../collector/sources/half-hourly-meter.toml"), &words)
}

#[test]
fn two_years_of_half_hours_are_collected_kept_up_and_given_up_when_consent_is_withdrawn() {
    let now = clock::now().wall_ms;
    let oldest = Timestamp((now - 400 * DAY_MS).div_euclid(HALF_HOUR_MS) * HALF_HOUR_MS);
    let at = |n: i64| oldest.plus_ms(n * HALF_HOUR_MS);
    let hole: BTreeSet<Timestamp> = (100..110).map(at).collect();
    let mut meter = Meter::new("secret", oldest);
    meter.holes.insert("gas".to_owned(), hole.clone());
    meter.invalid.insert(at(7));
    meter.too_many = 2;
    // The last two hours are not there yet: each poll has something to ask for.
    meter.lag_ms = LAG_MS;
    let server = RemoteServer::start(meter).expect("a port");
    let mut home = Home::start(&[meters(&server)]);
    let expected = |utility: &str| {
        let last = clock::now().wall_ms - LAG_MS - HALF_HOUR_MS;
        let all = (0..).map(at).take_while(move |at| at.0 <= last);
        let value = |at: Timestamp| match at == oldest.plus_ms(7 * HALF_HOUR_MS) {
            true => (None, "bad_invalid".to_owned()),
            false => (Some(Meter::value(utility, at)), "good".to_owned()),
        };
        all.map(|at| (at.0, value(at))).collect::<BTreeMap<_, _>>()
    };
    let holds = |home: &Home, channel: &str, wanted: &BTreeMap<i64, (Option<f64>, String)>| {
        let got = home.readings(channel);
        let wrong = wanted.iter().find(|(at, value)| got.get(at) != Some(value));
        match wrong {
            None => Ok(()),
            Some((at, value)) => Err(format!(
                "{channel}: {} of {}; at {at} {value:?} wanted, {:?}",
                got.len(),
                wanted.len(),
                got.get(at)
            )),
        }
    };
    let electricity = expected("electricity");
    let mut gas = expected("gas");
    gas.retain(|at, _| !hole.contains(&Timestamp(*at)));
    wait::until("all of the electricity", WITHIN, || holds(&home, "electricity/energy", &electricity));
    wait::until("all of the gas", WITHIN, || holds(&home, "gas/volume", &gas));
    let calls = server.state().calls.clone();
    assert!(calls.iter().all(|call| call.to.since_ms(call.from) <= WINDOW_MS_MAX));
    assert!(calls.iter().all(|call| [200, 429].contains(&call.status)), "{calls:?}");

    // What it has not is a gap of that cause, and closes by itself once the source has it.
    let gap = wait::until("the gap", WITHIN, || {
        let gaps = home.api.items("/api/v1/gaps?device=gas")?;
        gaps.into_iter().find(|gap| gap["state"] == "waiting").ok_or("no gap that waits".to_owned())
    });
    assert_eq!((&gap["slots"], &gap["cause"]), (&10.into(), &"not_recorded".into()), "{gap}");
    let known = home.api.items("/api/v1/gaps?device=electricity").expect("answered");
    assert_eq!(known.len(), 0, "{known:?}");
    server.state().holes.clear();
    let (status, body) = home.api.post(&format!("/api/v1/gaps/{}/retry", gap["id"])).expect("answered");
    assert_eq!(status, 200, "{body}");
    let gas = expected("gas");
    wait::until("the gap's readings", WITHIN, || holds(&home, "gas/volume", &gas));

    // A kill costs nothing and asks for nothing again that is here.
    let before = server.state().calls.len();
    home.kill();
    let (status, body) = wait::until("a refresh", WITHIN, || {
        let answer = home.api.post("/api/v1/devices/home-1/gas/refresh")?;
        if answer.0 == 200 { Ok::<_, String>(answer) } else { Err(answer.1) }
    });
    assert_eq!(status, 200, "{body}");
    wait::until_true("a call", WITHIN, || server.state().calls.len() > before);
    let again = server.state().calls[before..].to_vec();
    assert!(again.iter().all(|call| call.to.since_ms(call.from) <= 2 * DAY_MS), "{again:?}");

    let refresh = |home: &Home| ask(home, "gas");
    // Withdrawn for one of both: it says since when and why, no further call for it goes out, and the other one goes on.
    server.state().withdrawn.insert("electricity".to_owned());
    ask(&home, "electricity");
    let not_authorised = |home: &Home, device: &str, whose: &str| {
        let device = wait::until("the word", WITHIN, || {
            let device = home.device(device);
            if device["freshness"]["state"] == "retired" { Ok(device) } else { Err(device) }
        });
        let reason = &device["freshness"]["reason"];
        assert_eq!(reason["word"], "not_authorised", "{device}");
        assert!(reason["since"].as_str().is_some_and(|since| since.parse::<Timestamp>().is_ok()), "{device}");
        assert_eq!(device["attributes"]["not_authorised_of"], whose, "{device}");
        reason["detail"].as_str().unwrap_or_default().to_owned()
    };
    let why = not_authorised(&home, "electricity", "device");
    assert!(why.contains("occupant"), "{why}");
    let (_, page, _) = home.api.get_with("/", &[]).expect("answered");
    assert!(page.contains("not authorised") && page.contains("occupant"), "{page}");
    let count = |utility: &str| {
        let calls = server.state().calls.clone();
        calls.iter().filter(|call| call.utility == utility).count()
    };
    let calls = (count("electricity"), count("gas"));
    let (status, body) = home.api.post("/api/v1/devices/home-1/electricity/refresh").expect("answered");
    assert!(status == 409 && body.contains("consent"), "{status} {body}");
    wait::until_true("the other one", WITHIN, || {
        refresh(&home);
        count("gas") > calls.1
    });
    home.kill();
    let before = count("gas");
    wait::until_true("the other one again", WITHIN, || {
        refresh(&home);
        count("gas") > before
    });
    assert_eq!(count("electricity"), calls.0, "withdrawn stays withdrawn");
    assert!(home.device("gas")["freshness"]["reason"].is_null());

    // A key that is none any more is the account's.
    server.state().key = "another".to_owned();
    refresh(&home);
    let why = not_authorised(&home, "gas", "account");
    assert!(why.contains("no such key"), "{why}");
    let history = home.api.get("/api/v1/jobs").expect("answered")["history"].clone();
    let done = history.as_array().expect("a list").iter().filter(|job| job["outcome"] == "done");
    assert!(done.map(|job| job["readings"].as_u64().unwrap_or(0)).max() > Some(19_000), "{history}");
}

/// A meter behind an API that answers so many windows, and then that it cannot.
struct Stuck {
    meter: Meter,
    windows: usize,
    /// Windows that it was asked for and could not answer.
    refused: usize,
}

impl Stuck {
    fn windows(&self) -> Vec<(Timestamp, Timestamp)> {
        let long = self.meter.calls.iter().filter(|call| call.to.since_ms(call.from) > DAY_MS);
        long.map(|call| (call.from, call.to)).collect()
    }
}

impl Remote for Stuck {
    fn answer(&mut self, request: &Request<'_>, now: Timestamp) -> (u16, String) {
        if self.windows().len() >= self.windows {
            self.refused += 1;
            return (503, String::new());
        }
        self.meter.answer(request, now)
    }
}

#[test]
fn a_kill_in_the_midst_of_a_back_fill_asks_for_nothing_again_that_is_here() {
    let now = clock::now().wall_ms;
    let oldest = Timestamp((now - 400 * DAY_MS).div_euclid(HALF_HOUR_MS) * HALF_HOUR_MS);
    let stuck = Stuck { meter: Meter::new("secret", oldest), windows: 2, refused: 0 };
    let server = RemoteServer::start(stuck).expect("a port");
    let text = meters(&server);
    let (electricity, _) = text.rsplit_once("[[device]]").expect("gas is the last device");
    let mut home = Home::start(&[electricity.to_owned()]);
    let series = "home-1/electricity/energy";
    let first = wait::until("two windows of five", WITHIN, || {
        let rows = home.api.readings(series)?.len();
        let (windows, refused) = {
            let state = server.state();
            (state.windows(), state.refused)
        };
        let is_here = windows.len() == 2 && refused > 0 && rows > 8_000;
        if is_here { Ok(windows) } else { Err(format!("{rows} rows, {windows:?}, {refused} refused")) }
    });
    let before = home.api.readings(series).expect("answered").len();
    home.kill_and(|_| {
        let mut state = server.state();
        state.meter.calls.clear();
        state.windows = usize::MAX;
    });
    // It goes on by itself once the lease of what was interrupted is over; nobody waits for that here.
    wait::until_true("a refresh", WITHIN, || {
        home.api.post("/api/v1/devices/home-1/electricity/refresh").is_ok_and(|answer| answer.0 == 200)
    });
    let last = now - LAG_MS - HALF_HOUR_MS;
    let wanted: Vec<i64> = (0..).map(|n| oldest.0 + n * HALF_HOUR_MS).take_while(|at| *at <= last).collect();
    let rows = wait::until("the other three", WITHIN, || {
        let rows = home.api.readings(series)?;
        if rows.len() >= wanted.len() { Ok(rows) } else { Err(format!("{} of {}", rows.len(), wanted.len())) }
    });
    assert!(before < wanted.len() / 2 + 1, "{before} of {} were here before the kill", wanted.len());
    let mut at: Vec<i64> = rows.iter().map(|row| row.at_ms).filter(|at| *at <= last).collect();
    at.sort_unstable();
    assert_eq!(at, wanted, "each half hour once");
    let is_true =
        |row: &ApiReading| row.value.as_f64() == Some(Meter::value("electricity", Timestamp(row.at_ms)));
    assert!(rows.iter().all(is_true));
    // What the last answered window held was committed, and with it how far everything is proven.
    let proven = first.iter().map(|window| window.1).max().expect("two");
    let again = server.state().windows();
    assert!(!again.is_empty() && again.iter().all(|window| window.0 >= proven), "{again:?} after {proven}");
    assert_eq!(home.api.items("/api/v1/conflicts").expect("answered").len(), 0);
}

#[test]
fn a_source_that_says_how_many_calls_are_left_is_never_asked_once_too_often() {
    let oldest = Timestamp((clock::now().wall_ms - 400 * DAY_MS).div_euclid(HALF_HOUR_MS) * HALF_HOUR_MS);
    let mut meter = Meter::new("secret", oldest);
    meter.quota = Some(Quota::new(5, 2_000));
    let server = RemoteServer::start(meter).expect("a port");
    let home = Home::start(&[meters(&server)]);
    for channel in ["electricity/energy", "gas/volume"] {
        wait::until("all of it", WITHIN, || {
            let got = home.readings(channel).len();
            if got >= 19_000 { Ok(()) } else { Err(got) }
        });
    }
    let calls = server.state().calls.clone();
    assert!(calls.len() > 10 && calls.iter().all(|call| call.status == 200), "{calls:?}");
}

/// Somebody wants a device read now.
fn ask(home: &Home, device: &str) {
    let refresh = format!("/api/v1/devices/home-1/{device}/refresh");
    wait::until_true("a refresh", WITHIN, || home.api.post(&refresh).is_ok_and(|answer| answer.0 == 200));
}

#[test]
fn whoever_asks_for_a_meter_that_cannot_be_reached_is_told_when_it_is_back() {
    let oldest = (clock::now().wall_ms - DAY_MS).div_euclid(HALF_HOUR_MS) * HALF_HOUR_MS;
    let mut meter = Meter::new("secret", Timestamp(oldest));
    // Each poll has something to ask for.
    meter.lag_ms = LAG_MS;
    let server = RemoteServer::start(meter).expect("a port");
    let mut home = Home::start(&[meters(&server)]);
    wait::until_true("readings", WITHIN, || !home.readings("gas/volume").is_empty());
    server.state().unreachable.insert("gas".to_owned());
    let reason = |home: &Home| home.device("gas")["freshness"]["reason"].clone();
    let since = wait::until("the word", WITHIN, || {
        ask(&home, "gas");
        let reason = reason(&home);
        if reason["word"] == "unreachable" { Ok(reason["since"].clone()) } else { Err(reason) }
    });
    let alert = |home: &Home| home.api.items("/api/v1/alerts?kind=unreachable").unwrap_or_default();
    wait::until("the alert", WITHIN, || {
        let alerts = alert(&home);
        if alerts.len() == 1 { Ok(()) } else { Err(alerts) }
    });
    let (_, page, _) = home.api.get_with("/", &[]).expect("answered");
    assert!(page.contains("unreachable") && page.contains("cannot be reached"), "{page}");

    // It is not back because the collector is.
    let calls = server.state().calls.len();
    home.kill();
    wait::until_true("a call", WITHIN, || {
        ask(&home, "gas");
        server.state().calls[calls..].iter().any(|call| call.status == 404)
    });
    assert_eq!((&reason(&home)["since"], alert(&home)[0]["state"].as_str()), (&since, Some("open")));

    server.state().unreachable.clear();
    let told = wait::until("it to be over", WITHIN, || {
        ask(&home, "gas");
        let alerts = alert(&home);
        if alerts[0]["state"] == "resolved" { Ok(alerts[0].clone()) } else { Err(alerts) }
    });
    assert_eq!(told["awaited_by"], "token admin", "{told}");
    assert!(reason(&home).is_null(), "{}", reason(&home));
}

#[test]
fn a_device_that_was_stopped_before_anything_was_known_of_it_is_not_asked_at_a_start_either() {
    let oldest = (clock::now().wall_ms - DAY_MS).div_euclid(HALF_HOUR_MS) * HALF_HOUR_MS;
    let server = RemoteServer::start(Meter::new("secret", Timestamp(oldest))).expect("a port");
    let mut home = Home::start(&[meters(&server)]);
    for channel in ["electricity/energy", "gas/volume"] {
        wait::until_true("readings", WITHIN, || !home.readings(channel).is_empty());
    }
    let calls = |server: &RemoteServer<Meter>, utility: &str| {
        server.state().calls.iter().filter(|call| call.utility == utility).count()
    };
    home.kill_and(|database| {
        let database = rusqlite::Connection::open(database).expect("the collector is gone");
        let as_if = "UPDATE devices SET stopped = 3, stopped_at = 0, stopped_why = 'nobody confirmed it' WHERE name = 'electricity';
            DELETE FROM spans; DELETE FROM jobs; UPDATE commands SET outcome = 2 WHERE outcome IS NULL";
        database.execute_batch(as_if).expect("the database is whole");
        server.state().calls.clear();
    });
    wait::until_true("the other one to be asked", WITHIN, || calls(&server, "gas") > 0);
    ask(&home, "gas");
    // The devices are looked at in turn: the stopped one was passed over more than once by then.
    wait::until("the other one to be asked again", WITHIN, || {
        let asked = calls(&server, "gas");
        if asked >= 2 { Ok(()) } else { Err(asked) }
    });
    assert_eq!(calls(&server, "electricity"), 0);
    let (status, body) = home.api.post("/api/v1/devices/home-1/electricity/confirm").expect("answered");
    assert_eq!(status, 200, "{body}");
    wait::until_true("it to be asked again", WITHIN, || calls(&server, "electricity") > 0);
}

/// A meter behind an API that takes its time for long windows.
struct Slow(Meter);

impl Slow {
    fn windows(&self) -> Vec<(Timestamp, Timestamp)> {
        let long = self.0.calls.iter().filter(|call| call.to.since_ms(call.from) > DAY_MS);
        long.map(|call| (call.from, call.to)).collect()
    }
}

impl Remote for Slow {
    fn answer(&mut self, request: &Request<'_>, now: Timestamp) -> (u16, String) {
        let before = self.windows().len();
        let answer = self.0.answer(request, now);
        if self.windows().len() > before {
            std::thread::sleep(std::time::Duration::from_secs(3));
        }
        answer
    }
}

#[test]
fn a_first_collection_of_years_leaves_the_only_worker_to_others_and_asks_for_nothing_twice() {
    let oldest = Timestamp((clock::now().wall_ms - 400 * DAY_MS).div_euclid(HALF_HOUR_MS) * HALF_HOUR_MS);
    let server = RemoteServer::start(Slow(Meter::new("secret", oldest))).expect("a port");
    let text = meters(&server);
    let (electricity, _) = text.rsplit_once("[[device]]").expect("gas is the last device");
    let other =
        RemoteServer::start(Cloud::new("secret", Timestamp(clock::now().wall_ms - DAY_MS))).expect("a port");
    let home = Home::start_with(&[electricity.to_owned(), thermostats(&other, &[])], "source_workers = 1\n");
    // Somebody who waits for years of it has not all turns.
    ask(&home, "hall");
    ask(&home, "electricity");
    let mut seen = Vec::new();
    let windows = wait::until("five windows", WITHIN, || {
        let windows = server.state().windows();
        seen.push((windows.len(), other.state().calls.len()));
        if windows.len() == 5 { Ok(windows) } else { Err(windows.len()) }
    });
    let between: Vec<usize> =
        seen.iter().filter(|(count, _)| (1..5).contains(count)).map(|seen| seen.1).collect();
    assert!(between.first() < between.last(), "the other one was asked meanwhile: {seen:?}");
    assert!(windows[0].0 <= oldest && windows.windows(2).all(|two| two[0].1 == two[1].0), "{windows:?}");
    wait::until("all of it", WITHIN, || {
        let rows = home.readings("electricity/energy").len();
        if rows >= 400 * 48 - 2 { Ok(()) } else { Err(rows) }
    });
    assert_eq!(server.state().windows().len(), 5);
}

/// The shipped description of a cloud, in a hurry.
fn thermostats(server: &RemoteServer<Cloud>, words: &[(&str, &str)]) -> String {
    let address = server.address().to_string();
    let usual = [
        ("127.0.0.1:9401", address.as_str()),
        ("every = \"5m\"", "every = \"2s\""),
        ("every_least = \"2m\"", "every_least = \"1s\""),
        ("every_most = \"15m\"", "every_most = \"2s\""),
    ];
    let words: Vec<_> = usual.iter().chain(words).copied().collect();
    described(include_str!("../../collector/sources/thermostat-cloud.toml"), &words)
}

#[test]
fn tokens_are_asked_for_as_they_are_needed_and_a_new_refresh_token_outlives_a_kill() {
    const LIFE_MS: i64 = 16_000;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("refresh");
    std::fs::write(&file, "f1rst-refresh\n").expect("it is writable");
    let mut cloud = Cloud::new("", Timestamp(clock::now().wall_ms - DAY_MS));
    let mut issuer = Issuer::new("gapless", "cl1ent-secret", LIFE_MS);
    (issuer.refresh, issuer.rotates) = (Some("f1rst-refresh".to_owned()), true);
    cloud.issuer = Some(issuer);
    let server = RemoteServer::start(cloud).expect("a port");
    let oauth = format!(
        "[auth.oauth2]\ntoken_url = \"http://{}/token\"\nclient_id = \"gapless\"\nclient_secret = \"cl1ent-secret\"\n\
         refresh_token = \"@{}\"\n\n[probe]",
        server.address(),
        file.display()
    );
    let words = [
        ("headers = { \"authorization\" = \"@/etc/gapless/thermostats.token\" }", ""),
        ("\n[probe]", &format!("\n{oauth}")),
    ];
    let text = thermostats(&server, &words);
    let (_, device) = text.split_once("[[device]]").expect("it has one");
    let text = format!("{text}\n[[device]]{}", device.replace("\"hall\"", "\"attic\"").replace("411", "412"));
    let begin = clock::now().wall_ms;
    let mut home = Home::start(&[text]);
    let issuer = |what: &dyn Fn(&Issuer) -> usize| what(server.state().issuer.as_ref().expect("it has one"));
    let (asked, refused) =
        (|| issuer(&|issuer| issuer.asked.len()), || issuer(&|issuer| issuer.refused as usize));
    for device in ["hall", "attic"] {
        wait::until_true(device, WITHIN, || home.readings(&format!("{device}/temperature")).len() > 280);
    }
    wait::until_true("a third token", WITHIN, || asked() >= 3);
    // Both go by the same one, each for three quarters of its life.
    let most = usize::try_from((clock::now().wall_ms - begin) / (LIFE_MS * 3 / 4) + 1).expect("few");
    assert!(asked() <= most && refused() == 0, "{} of {most}, {} refused", asked(), refused());

    // One that is taken back before its time costs one call.
    let before = asked();
    server.state().issuer.as_mut().expect("it has one").take_back();
    wait::until_true("another token", WITHIN, || refused() > 0 && asked() > before);
    let calls = server.state().calls.len();
    wait::until_true("calls", WITHIN, || server.state().calls.len() > calls + 2);
    assert_eq!(refused(), 1);

    // The refresh token of the description is of no use any more: the one that came last is known after a kill.
    let before = asked();
    home.kill();
    wait::until_true("another token", WITHIN, || asked() > before);
    let calls = server.state().calls.len();
    wait::until_true("calls", WITHIN, || server.state().calls.len() > calls + 2);
    let all_good = |issuer: &Issuer| issuer.asked.iter().filter(|status| **status != 200).count();
    assert_eq!((issuer(&all_good), refused()), (0, 1));

    // Where access ends, it is said why, and the endpoint is left alone.
    {
        let mut cloud = server.state();
        let issuer = cloud.issuer.as_mut().expect("it has one");
        issuer.refresh = Some("an0ther-one".to_owned());
        issuer.take_back();
    }
    wait::until("the reason", WITHIN, || {
        let history = home.api.get("/api/v1/jobs")?["history"].to_string();
        if history.contains("/token: HTTP 400: invalid_grant") { Ok(()) } else { Err(history) }
    });
    assert_eq!(issuer(&all_good), 1);
    let mut told = std::fs::read_to_string(home.folder.path().join("collector.log")).expect("it is there");
    told.push_str(&home.api.get("/api/v1/jobs").expect("answered").to_string());
    let given = (1..=asked()).flat_map(|n| [format!("refresh-{n}"), format!("access-{n}")]);
    let secrets = ["cl1ent-secret", "f1rst-refresh", "an0ther-one"].map(str::to_owned);
    for secret in secrets.into_iter().chain(given) {
        assert!(!told.contains(&secret), "{secret} in {told}");
    }

    // A person is given a new one, and writes it there.
    std::fs::write(&file, "an0ther-one\n").expect("it is writable");
    home.kill();
    let calls = server.state().calls.len();
    wait::until_true("calls again", WITHIN, || server.state().calls.len() > calls + 2);
}

#[test]
fn a_report_is_asked_for_where_the_revision_is_another_one() {
    let now = clock::now().wall_ms;
    let oldest = Timestamp((now - 40 * DAY_MS).div_euclid(FIVE_MINUTES_MS) * FIVE_MINUTES_MS);
    let late = Timestamp((now - 3_600_000).div_euclid(FIVE_MINUTES_MS) * FIVE_MINUTES_MS);
    let mut cloud = Cloud::new("secret", oldest);
    cloud.late.insert(late, Timestamp(i64::MAX));
    let server = RemoteServer::start(cloud).expect("a port");
    let home =
        Home::start(&[thermostats(&server, &[("overlap = \"3h\"", "overlap = \"3h\"\nfirst = \"40d\"")])]);
    let holds = |revised: &BTreeMap<i64, f64>| {
        let rows = [home.readings("hall/temperature"), home.readings("hall/heating")];
        // What the last quarter of an hour brings may not be there yet.
        let last = clock::now().wall_ms - 3 * 900_000;
        for at in (0..).map(|n| oldest.plus_ms(n * FIVE_MINUTES_MS)).take_while(|at| at.0 < last) {
            let (temperature, heating) = Cloud::values(at);
            let temperature = revised.get(&at.0).copied().unwrap_or(temperature);
            let wanted = [temperature, heating].map(|value| Some(Some(value)));
            let wanted = if server.state().late.contains_key(&at) { [None, None] } else { wanted };
            let got = rows.each_ref().map(|rows| rows.get(&at.0).map(|row| row.0));
            if got != wanted {
                return Err(format!("at {at}: {got:?} instead of {wanted:?}; {} rows", rows[0].len()));
            }
        }
        Ok(())
    };
    wait::until("forty days", WITHIN, || holds(&BTreeMap::new()));
    let reports = |from: usize| {
        let calls = server.state().calls[from..].to_vec();
        let reports = calls.iter().filter_map(|call| match call {
            Call::Report { from, to, status, .. } => Some((to.since_ms(*from), *status)),
            Call::Summary(_) => None,
        });
        reports.collect::<Vec<_>>()
    };
    assert!(reports(0).iter().all(|(ms, status)| *ms <= thermostat::WINDOW_MS_MAX && *status == 200));

    // Nothing new: the cheap question is all that is asked, until the quarter of an hour is over, but for the row that is late:
    // it is a gap, and asked for once.
    let before = server.state().calls.len();
    wait::until_true("cheap questions", WITHIN, || server.state().calls.len() >= before + 3);
    let quarters = usize::try_from((clock::now().wall_ms - now) / 900_000 + 1).expect("few");
    let short = |reports: &[(i64, u16)]| reports.iter().all(|(ms, _)| *ms < DAY_MS);
    assert!(reports(before).len() <= quarters + 1 && short(&reports(before)), "{:?}", reports(before));

    // One value is put right and a row arrives late: both are there with the next report, which is a short one.
    let revised = BTreeMap::from([(late.plus_ms(-FIVE_MINUTES_MS).0, 30.25)]);
    let before = server.state().calls.len();
    {
        let mut cloud = server.state();
        cloud.late.clear();
        cloud.revise(late.plus_ms(-FIVE_MINUTES_MS), 30.25);
    }
    wait::until("what was put right", WITHIN, || holds(&revised));
    let asked = reports(before);
    assert!(!asked.is_empty() && short(&asked), "{asked:?}");
    let conflicts = home.api.items("/api/v1/conflicts").expect("answered");
    assert_eq!(conflicts.len(), 0, "a source may put right what it said: {conflicts:?}");
}

#[test]
fn a_computed_series_is_there_where_both_inputs_are_and_follows_them() {
    let now = clock::now().wall_ms;
    let oldest = Timestamp((now - 6 * DAY_MS).div_euclid(HALF_HOUR_MS) * HALF_HOUR_MS);
    let at = |n: i64| oldest.plus_ms(n * HALF_HOUR_MS);
    let mut meter = Meter::new("secret", oldest);
    meter.holes.insert("electricity".to_owned(), (50..53).map(at).collect());
    let meter = RemoteServer::start(meter).expect("a port");
    let grid = carbon::Grid { oldest, holes: (60..64).map(at).collect(), revised: BTreeMap::new() };
    let grid = RemoteServer::start(grid).expect("a port");
    let address = grid.address().to_string();
    let words = [
        ("127.0.0.1:9402", address.as_str()),
        ("first = \"60d\"", "first = \"5d\""),
        ("overlap = \"1d\"", "overlap = \"5d\""),
        ("every = \"30m\"", "every = \"2s\"\nevery_least = \"1s\"\nevery_most = \"2s\""),
    ];
    let carbon = described(include_str!("../../collector/sources/carbon-intensity.toml"), &words);
    let mut home = Home::start(&[meters(&meter), carbon]);
    // As it follows from what is stored of both: energy stands under the end of its half hour, the others under the begin.
    let holds = |home: &Home, least: usize| {
        let by_begin = |channel: &str, shift: i64| {
            let rows = home.readings(channel);
            let rows = rows.into_iter().filter_map(|(at, (value, _))| Some((at - shift, value?)));
            rows.collect::<BTreeMap<_, _>>()
        };
        let energy = by_begin("electricity/energy", HALF_HOUR_MS);
        let intensity = by_begin("grid/intensity", 0);
        let footprint = by_begin("footprint/carbon", 0);
        let both: BTreeMap<_, _> = energy
            .iter()
            .filter_map(|(at, energy)| Some((*at, energy * intensity.get(at)?)))
            // The last hours are not accounted for yet.
            .filter(|(at, _)| *at < now - 3 * DAY_MS)
            .collect();
        let got: BTreeMap<_, _> = footprint.into_iter().filter(|(at, _)| *at < now - 3 * DAY_MS).collect();
        if got == both && got.len() >= least {
            return Ok(got);
        }
        let wrong = both.iter().find(|(at, value)| got.get(at) != Some(value));
        Err(format!("{} of {}, {wrong:?} is wrong", got.len(), both.len()))
    };
    let first = wait::until("the footprint", WITHIN, || holds(&home, 40));

    // What an input lacks is missing, and comes with it.
    let gap = |home: &Home, device: &str| {
        let gaps = home.api.items(&format!("/api/v1/gaps?device={device}")).unwrap_or_default();
        gaps.iter()
            .filter(|gap| gap["state"] != "filled")
            .map(|gap| gap["slots"].as_i64())
            .sum::<Option<i64>>()
    };
    wait::until("its gaps", WITHIN, || {
        let gaps = (gap(&home, "grid"), gap(&home, "electricity"), gap(&home, "footprint"));
        if gaps == (Some(4), Some(3), Some(7)) { Ok(()) } else { Err(gaps) }
    });
    let waiting = wait::until("the gap", WITHIN, || {
        let gaps = home.api.items("/api/v1/gaps?device=electricity")?;
        gaps.into_iter().find(|gap| gap["state"] == "waiting").ok_or("no gap that waits".to_owned())
    });
    home.kill();
    meter.state().holes.clear();
    grid.state().holes.clear();
    let retry = format!("/api/v1/gaps/{}/retry", waiting["id"]);
    wait::until_true("a retry", WITHIN, || home.api.post(&retry).is_ok_and(|answer| answer.0 == 200));
    wait::until("no gap", WITHIN, || {
        let gaps = (gap(&home, "grid"), gap(&home, "electricity"), gap(&home, "footprint"));
        if gaps == (Some(0), Some(0), Some(0)) { Ok(()) } else { Err(gaps) }
    });
    let full = wait::until("the footprint", WITHIN, || holds(&home, first.len() + 7));

    // An intensity that is put right changes what follows from it.
    let (begin, before) = full.iter().next_back().map(|(at, value)| (*at, *value)).expect("some");
    grid.state().revised.insert(Timestamp(begin), 1_000.0);
    wait::until("another product", WITHIN, || {
        let now = holds(&home, full.len())?.get(&begin).copied();
        if now.is_some_and(|value| value.to_bits() != before.to_bits()) {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
}
