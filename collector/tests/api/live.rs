//! Live on demand over HTTP. That an agent does what it is told is shown with a real one, in the workspace's tests.

use std::collections::BTreeSet;

use rusqlite::Connection;
use serde_json::{Value as Json, json};

use super::support::{Filled, U, number};

const VIEWERS: usize = 100;

/// Commands of the kind `live` that were ever given.
fn told(api: &Filled) -> i64 {
    let connection = Connection::open(api.served.folder().join("db")).unwrap();
    connection.query_row("SELECT count(*) FROM commands WHERE kind = 1", [], |r| r.get(0)).unwrap()
}

#[test]
fn a_hundred_viewers_at_once_make_one_command() {
    let mut api = Filled::new();
    api.be_born(900_000);
    let before = api.served.json("/api/v1/sites/farm/live");
    assert_eq!(
        before,
        json!({"site": "farm", "until": null, "agents": [{"agent": "gw", "state": "gathering"}]})
    );
    let served = &api.served;
    let take = || {
        let answer = served.post("/api/v1/sites/farm/live");
        assert_eq!(answer.status, 200, "{}", answer.body);
        let lease: Json = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(lease["agents"], json!([{"agent": "gw", "state": "told"}]));
        assert!(lease["renew_in_ms"].as_i64().unwrap() > 0 && lease["renew_at"].is_string());
        lease["until"].as_str().unwrap().to_owned()
    };
    let granted: BTreeSet<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..VIEWERS).map(|_| scope.spawn(take)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(granted.len(), 1, "one lease for all: {granted:?}");
    assert_eq!(told(&api), 1);

    let page = api.served.get("/?site=farm").body;
    assert!(page.contains("live for ") && page.contains("data-site=\"farm\""), "{page}");
    assert!(
        api.served.get("/").body.contains("live for "),
        "who sees the fleet is told, and watches nothing"
    );
    assert_eq!(told(&api), 1);

    let ended = api.served.delete("/api/v1/sites/farm/live");
    let body: Json = serde_json::from_str(&ended.body).unwrap();
    assert_eq!((ended.status, &body["until"]), (200, &Json::Null), "{body}");
    assert_eq!(told(&api), 2, "the agent is told that nobody watches");
    assert_eq!(api.served.delete("/api/v1/sites/farm/live").status, 200);
    assert_eq!(told(&api), 2, "once");
    assert!(!api.served.get("/").body.contains("live for "));
}

#[test]
fn who_sends_at_once_as_it_is_is_told_nothing() {
    let mut api = Filled::new();
    api.be_born(0);
    assert_eq!(api.served.post("/api/v1/sites/farm/live?minutes=60").status, 200);
    assert_eq!(told(&api), 0);
    assert_eq!(api.served.json("/api/v1/sites/farm/live")["agents"][0]["state"], "always_live");
    for (path, status, word) in [
        ("/api/v1/sites/elsewhere/live", 404, "elsewhere"),
        ("/api/v1/sites/a%2Fb/live", 404, "a/b"),
        ("/api/v1/sites/farm/live?minutes=0", 400, "minutes"),
        ("/api/v1/sites/farm/live?minutes=61", 400, "minutes"),
        ("/api/v1/sites/farm/live?hours=1", 400, "hours"),
    ] {
        let answer = api.served.post(path);
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (status, "application/problem+json"),
            "{path}"
        );
        assert!(answer.body.contains(word), "{path}: {}", answer.body);
    }
    assert_eq!(api.served.delete("/api/v1/sites/elsewhere/live").status, 404);
    assert_eq!(api.served.get("/?site=elsewhere").status, 404);
}

#[test]
fn bytes_are_told_by_site_and_day() {
    let mut api = Filled::new();
    api.send(vec![number(0, 0, U, 1.5)]);
    // What was sent is counted with what comes next.
    api.send(vec![number(0, 1, U, 1.5)]);
    let days = api.served.items("/api/v1/traffic");
    assert_eq!(days.len(), 1, "{days:?}");
    assert_eq!((&days[0]["site"], &days[0]["day"]), (&json!("farm"), &json!("2026-01-01")));
    let (received, sent) =
        (days[0]["received_bytes"].as_u64().unwrap(), days[0]["sent_bytes"].as_u64().unwrap());
    // Three frames and two answers, 47 bytes of headers each.
    assert!(received > 3 * 47 + 100 && sent > 2 * 47, "{days:?}");
    let agents = api.served.items("/api/v1/agents");
    assert_eq!((&agents[0]["received_bytes"], &agents[0]["sent_bytes"]), (&json!(received), &json!(sent)));
    assert!(api.served.get("/").body.contains(" received, "), "and on the page");
    assert_eq!(
        api.served.items("/api/v1/traffic?from=2026-01-02T00:00:00Z&to=2026-02-01T00:00:00Z").len(),
        0
    );
    assert_eq!(api.served.get("/api/v1/traffic?site=elsewhere").status, 404);
    let wrong = api.served.get("/api/v1/traffic?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z");
    assert_eq!(wrong.status, 400);
}
