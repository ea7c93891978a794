//! What a scraper meets. A real Prometheus is in the workspace's tests.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::support::{Filled, U, complete, number};

/// A scrape is answered by what a moment ago was asked: looks until the line is there.
fn wait_for(api: &Filled, line: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = api.served.get("/metrics");
        assert_eq!(answer.status, 200);
        if answer.body.lines().any(|l| l == line) {
            return answer.body;
        }
        assert!(Instant::now() < deadline, "{line} is not in\n{}", answer.body);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The types of the families, and every sample with a family.
fn families(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let types: BTreeMap<_, _> = types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (sample, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap();
        let name = sample.split('{').next().unwrap();
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{line}");
        let suffixes = ["", "_total", "_info", "_sum", "_count", "_bucket"];
        let family = suffixes.iter().find_map(|suffix| types.get(name.strip_suffix(suffix)?));
        let family = family.expect("every sample has a family with a type");
        assert_eq!(family == "counter", name.ends_with("_total"), "{line}");
    }
    types
}

#[test]
fn what_only_grows_is_a_counter_and_units_are_named() {
    let mut api = Filled::new();
    api.send(vec![number(0, 0, U, 1.5), complete(2)]);
    let farm = "site=\"farm\",agent=\"gw\"";
    let text = wait_for(&api, &format!("gapless_agent_readings_total{{{farm}}} 1"));
    assert!(text.ends_with("# EOF\n"), "{text}");
    let types = families(&text);
    for (name, kind) in [("gapless_agent_frames", "counter"), ("gapless_job_duration_seconds", "histogram")] {
        assert_eq!(types.get(name).map(String::as_str), Some(kind));
    }
    for line in [
        "gapless_commits_total 2",
        &format!("gapless_agent_frames_total{{{farm}}} 2"),
        // An hour and less 40 ms; 2 × 15 s and 10 s for the way.
        "gapless_staleness_seconds{site=\"farm\",device=\"a\"} 3599.96",
        "gapless_allowed_staleness_seconds{site=\"farm\",device=\"b\"} 40.0",
        "gapless_gaps{state=\"open\",cause=\"unexplained\"} 1.0",
        "gapless_gap_slots{state=\"open\",cause=\"unexplained\"} 2.0",
        "gapless_gap_events_total{event=\"opened\"} 1",
        "gapless_gap_events_total{event=\"filled\"} 0",
        "gapless_gap_events_total{event=\"abandoned_unasked\"} 0",
        "gapless_gap_retries_total 0",
        "gapless_job_retries_total 0",
        "gapless_jobs{state=\"running\"} 0.0",
        "gapless_job_duration_seconds_count{outcome=\"failed\"} 0",
        "gapless_device_gaps{site=\"farm\",device=\"a\"} 1.0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(
        !text.contains("gapless_staleness_seconds{site=\"farm\",device=\"b\"}"),
        "nothing has come of it"
    );
    let received = text.lines().find(|line| line.starts_with("gapless_agent_received_bytes_total"));
    let bytes: u64 = received.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap();
    assert!(bytes > 2 * 47, "two frames with their headers: {bytes}");

    // What comes is counted on; the gap is filled.
    api.send(vec![number(0, 1, U, 2.5), number(0, 2, U, 3.5)]);
    let text = wait_for(&api, "gapless_gap_events_total{event=\"filled\"} 1");
    assert!(!text.contains("gapless_gaps{"), "{text}");
}

#[test]
fn a_scraper_that_takes_no_open_metrics_gets_the_older_text() {
    let api = Filled::new();
    let rows = [
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", false),
        ("*/*", false),
        ("text/plain;version=0.0.4", true),
    ];
    for (accept, is_older) in rows {
        let answer = api.served.get_with("/metrics", &[("accept", accept)]);
        let media_type = answer.header("content-type");
        assert_eq!(media_type.starts_with("text/plain; version=0.0.4"), is_older, "{accept}: {media_type}");
        assert_eq!(answer.body.contains("# EOF"), !is_older);
        assert_eq!(answer.body.contains("# TYPE gapless_commits_total counter"), is_older);
    }
}

/// What an agent said of itself before it left says nothing of now: nobody is woken for the disk of one that has ended.
#[test]
fn an_agent_that_has_left_is_neither_durable_nor_not() {
    let mut api = Filled::new();
    api.be_born(0);
    let connection = rusqlite::Connection::open(api.served.folder().join("db")).unwrap();
    let (durable, shown) = ("gapless_agent_durable{site=\"farm\",agent=\"gw\"}", "not durable");
    for (connected, is_told) in [(1, true), (2, false), (0, false)] {
        let sql = format!("UPDATE agents SET durable = 0, clock_set = 0, connected = {connected}");
        connection.execute_batch(&sql).unwrap();
        let there = f64::from(u8::from(connected == 1));
        let text =
            wait_for(&api, &format!("gapless_agent_connected{{site=\"farm\",agent=\"gw\"}} {there:?}"));
        assert_eq!(text.contains(durable), is_told, "{connected}: {text}");
        assert_eq!(text.contains("gapless_agent_clock_set{"), is_told, "{connected}: {text}");
        let page = api.served.get("/").body;
        assert_eq!((page.contains(shown), page.contains("clock not set")), (is_told, is_told), "{page}");
    }
}
