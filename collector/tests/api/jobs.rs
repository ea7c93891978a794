//! Freshness and the jobs that restore it, over HTTP.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::support::{Filled, U, complete, number};

/// As many at once as a busy morning has.
const ASKING: usize = 1_000;
const THREADS: usize = 25;

#[test]
fn a_thousand_who_ask_at_once_make_one_job() {
    let mut api = Filled::new();
    api.send(vec![number(0, 0, U, 1.5), complete(2)]);
    let served = &api.served;
    let ask = || {
        let answers = (0..ASKING / THREADS).map(|_| {
            let answer = served.post("/api/v1/devices/farm/a/refresh");
            assert_eq!(answer.status, 200, "{}", answer.body);
            let job: Json = serde_json::from_str(&answer.body).unwrap();
            job["job"].as_u64().unwrap()
        });
        answers.collect::<BTreeSet<_>>()
    };
    let numbers: BTreeSet<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(numbers.len(), 1, "{numbers:?}");
    let all = served.json("/api/v1/jobs");
    assert_eq!(all["jobs"].as_array().unwrap().len(), 1, "{all}");
    assert_eq!((&all["jobs"][0]["why"], &all["jobs"][0]["state"]), (&"asked".into(), &"queued".into()));
    assert_eq!(all["history"].as_array().unwrap().len(), 0, "its agent is not connected: nothing was tried");
    let device = served.json("/api/v1/devices/farm/a");
    assert_eq!(device["freshness"]["refresh"]["job"].as_u64(), numbers.first().copied());
}

#[test]
fn whoever_looks_is_told_how_fresh_it_is_and_waits_for_nobody() {
    let mut api = Filled::new();
    api.send(vec![number(0, 0, U, 1.5), complete(2)]);
    let latest = api.served.items("/api/v1/latest?series=farm/a/u");
    let freshness = &latest[0]["freshness"];
    assert_eq!(freshness["state"], "stale", "{freshness}");
    // 3,599.96 s of 2 × 15 s and 10 s for the way.
    assert_eq!(freshness["score"], 89.999);
    let page = api.served.json("/api/v1/readings?series=farm/a/u");
    assert_eq!(page["freshness"]["farm/a"]["state"], "stale", "{page}");
    let coverage = api.served.json("/api/v1/coverage?site=farm&device=a");
    assert_eq!(coverage["freshness"]["state"], "stale", "{coverage}");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let jobs = loop {
        let jobs = api.served.json("/api/v1/jobs")["jobs"].as_array().unwrap().clone();
        if !jobs.is_empty() || std::time::Instant::now() > deadline {
            break jobs;
        }
        std::thread::yield_now();
    };
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    assert_eq!((&jobs[0]["device"], &jobs[0]["why"]), (&"a".into(), &"viewed".into()));
}

#[test]
fn what_cannot_be_asked_is_said() {
    let api = Filled::new();
    assert_eq!(api.served.post("/api/v1/devices/farm/none/refresh").status, 404);
    assert_eq!(api.served.get("/api/v1/jobs?cursor=x").status, 400);
}
