//! Live on demand with a real agent in economy, Mosquitto and the collector: readings come by poll while somebody watches,
//! and by flush before and after; a hundred viewers cost one command; a page watches while it is seen. And the stream of
//! events tells of it.

use std::io::{BufRead as _, BufReader};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use gapless_tests::api::{Api, instant_ms};
use gapless_tests::browser::Browser;
use gapless_tests::deed::MachineWatch;
use gapless_tests::site::{SITE, Site, SiteSpec};
use gapless_tests::{audit, explain, settle, wait};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(120);
/// Long against a poll, short against a test's patience.
const FLUSH_S: u64 = 20;
/// Polls of the quick devices that show a rhythm.
const POLLS: u64 = 24;
const VIEWERS: usize = 100;

/// Frames of the agent that the collector has taken.
fn frames(api: &Api) -> u64 {
    api.items("/api/v1/agents").expect("answered")[0]["frames"].as_u64().expect("a number")
}

/// Frames that come in the time of some polls, and how many an agent in economy may send in it.
fn frames_in_a_while(site: &Site, api: &Api) -> (u64, u64) {
    let (polls, before, began) = (site.tcp[0].stats().requests, frames(api), Instant::now());
    wait::until_true("a while of polling", SOON, || site.tcp[0].stats().requests >= polls + 2 * POLLS);
    let came = frames(api) - before;
    // One that was under way, one for each flush that was due, and one for what was said at its edges.
    (came, 3 + began.elapsed().as_secs() / FLUSH_S)
}

fn assert_economy(site: &Site, api: &Api, when: &str) {
    let (came, most) = frames_in_a_while(site, api);
    assert!(came <= most, "{when} the agent sends by flush: {came} frames, {most} at most");
    assert!(most < POLLS / 2, "the machine is too slow to tell polls from flushes");
}

fn lease(api: &Api) -> Value {
    api.get(&format!("/api/v1/sites/{SITE}/live")).expect("answered")
}

fn wait_for_state(api: &Api, state: &str) {
    wait::until(state, SOON, || {
        let lease = lease(api);
        if lease["agents"][0]["state"] == state { Ok(()) } else { Err(lease) }
    });
}

/// Every poll comes as its own frame: more of them than economy would give in as many flushes.
fn wait_for_polls(api: &Api) {
    let (before, began) = (frames(api), Instant::now());
    wait::until("frames by poll", SOON, || {
        let (came, flushes) = (frames(api) - before, began.elapsed().as_secs() / FLUSH_S);
        if came >= POLLS / 2 + 3 * flushes { Ok(()) } else { Err(came) }
    });
}

/// Commands of the kind `live` that were given, and those of them that are answered.
fn live_commands(site: &Site) -> (i64, i64) {
    let path = site.collector_folder().join("gapless.db");
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(path, flags).expect("the database");
    let sql = "SELECT count(*), count(outcome) FROM commands WHERE kind = 1";
    connection.query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?))).expect("two counts")
}

/// The names of the events that come within a connection, gathered by a thread of its own.
fn gather_events(site: &Site, names: &'static Mutex<Vec<String>>) {
    let token = std::fs::read_to_string(site.collector_folder().join("admin-token")).expect("the token");
    let url = format!("{}/api/v1/events?site={SITE}", site.base_url());
    let request = ureq::get(&url).header("Authorization", format!("Bearer {}", token.trim()));
    let answer = request.call().expect("a stream");
    std::thread::spawn(move || {
        let lines = BufReader::new(answer.into_body().into_reader()).lines().map_while(Result::ok);
        let named = lines.filter_map(|line| line.strip_prefix("event: ").map(str::to_owned));
        named.for_each(|name| names.lock().expect("no panic").push(name));
    });
}

#[test]
fn readings_come_by_poll_while_somebody_watches_and_by_flush_otherwise() {
    static EVENTS: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let machine = MachineWatch::start();
    let mut site = Site::new(SiteSpec { flush: format!("{FLUSH_S}s"), ..SiteSpec::default() });
    site.start_collector();
    site.start_agent();
    let api = site.api();
    wait::until("the first readings", SOON, || {
        let readings = api.readings(&format!("{SITE}/tcp-1/eval_time_ms"))?;
        if readings.len() > 5 { Ok(()) } else { Err(readings.len().to_string()) }
    });
    assert_economy(&site, &api, "at first");
    gather_events(&site, &EVENTS);

    // A hundred at once, for the shortest time there is; nobody renews it.
    let take = || api.post(&format!("/api/v1/sites/{SITE}/live?minutes=1")).expect("answered").0;
    std::thread::scope(|scope| {
        let viewers: Vec<_> = (0..VIEWERS).map(|_| scope.spawn(take)).collect();
        assert!(viewers.into_iter().all(|viewer| viewer.join().expect("no panic") == 200));
    });
    assert_eq!(live_commands(&site).0, 1);
    wait_for_state(&api, "live");
    let ends = instant_ms(&lease(&api)["until"]).expect("an instant");
    wait_for_polls(&api);
    wait::until_true("the lease to run out", SOON, || settle::now().0 > ends);
    wait_for_state(&api, "gathering");
    assert_economy(&site, &api, "after the lease");
    assert_eq!(live_commands(&site), (1, 1), "nothing had to be said for it to end");

    // Ended by somebody before its time.
    assert_eq!(api.post(&format!("/api/v1/sites/{SITE}/live?minutes=60")).expect("answered").0, 200);
    wait_for_state(&api, "live");
    wait_for_polls(&api);
    let (status, body) = api.delete(&format!("/api/v1/sites/{SITE}/live")).expect("answered");
    assert_eq!(status, 200, "{body}");
    assert_eq!(lease(&api)["agents"][0]["state"], "gathering");
    wait::until_true("the agent to answer", SOON, || live_commands(&site) == (3, 3));
    assert_economy(&site, &api, "after it was ended");
    let until = settle::now().0;
    wait::until("what was polled meanwhile by flush", SOON, || {
        let readings = api.readings(&format!("{SITE}/tcp-1/eval_time_ms"))?;
        let last = readings.iter().map(|reading| reading.at_ms).max();
        if last > Some(until) { Ok(()) } else { Err(format!("{last:?}")) }
    });

    // The page of a site watches by itself, and says so; that of the fleet does not.
    watch_in_a_browser(&site, &api);
    let days = api.items(&format!("/api/v1/traffic?site={SITE}")).expect("answered");
    let (received, sent) = (&days[0]["received_bytes"], &days[0]["sent_bytes"]);
    assert!(received.as_u64() > Some(10_000) && sent.as_u64() > Some(2_000), "{days:?}");
    let names = EVENTS.lock().expect("no panic").clone();
    for name in ["reading", "freshness"] {
        assert!(names.iter().any(|known| known == name), "{name} is not among {names:?}");
    }

    let accounts = audit::stop_and_audit(&mut site, SOON);
    explain::check(&site.spec.devices, &accounts, &machine.stop());
    site.stop_collector();
}

fn watch_in_a_browser(site: &Site, api: &Api) {
    let token = std::fs::read_to_string(site.collector_folder().join("admin-token")).expect("the token");
    let folder = tempfile::tempdir().expect("a folder for the browser");
    let browser = Browser::open(folder.path(), 390, 844);
    browser.go(&format!("{}/login#{}", site.base_url(), token.trim()));
    wait::until_true("the fleet page", SOON, || browser.eval("location.pathname") == "/");
    wait::until_true("the page to be live", SOON, || {
        browser.eval("document.getElementById('live').textContent.startsWith('live')") == true
    });
    assert_eq!(lease(api)["until"], Value::Null, "who sees the whole fleet watches no site");
    browser.go(&format!("{}/?site={SITE}", site.base_url()));
    wait_for_state(api, "live");
    wait::until_true("the page to say so", SOON, || {
        browser.eval("document.querySelectorAll('.badge.live').length") == 1
    });
    assert_eq!(browser.eval("document.querySelectorAll('.traffic').length"), 1);
    assert_eq!(browser.eval("document.documentElement.scrollWidth <= window.innerWidth"), true);
}
