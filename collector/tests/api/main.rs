//! The API's contract, endpoint by endpoint, as a user's program meets it over HTTP.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod alerts;
mod complete;
mod events;
mod full_disk;
mod jobs;
mod live;
mod metrics;
mod pages;
mod readings;
mod streams;
mod support;

use std::collections::BTreeSet;

use gapless_common::reading::Value;
use gapless_common::time::Timestamp;
use serde_json::Value as Json;
use support::{Filled, SCRIPT, STATE, U, complete, get, number, reading};

/// What may be asked without a token.
const OPEN: [&str; 3] = ["/health", "/ready", "/openapi.json"];

fn described(api: &Filled) -> BTreeSet<String> {
    let document = api.served.json("/openapi.json");
    document["paths"].as_object().unwrap().keys().cloned().collect()
}

/// Those of them that answer and change nothing.
fn readable(api: &Filled) -> BTreeSet<String> {
    let document = api.served.json("/openapi.json");
    let paths = document["paths"].as_object().unwrap().iter();
    paths.filter(|(_, methods)| methods.get("get").is_some()).map(|(path, _)| path.clone()).collect()
}

/// A path of the description with all that it needs.
fn filled_in(path: &str) -> String {
    let path = path.replace("{site}", "farm").replace("{device}", "a").replace("{id}", "1");
    let needed = match path.as_str() {
        "/api/v1/readings" => "?series=farm/a/*&from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z",
        "/api/v1/changes" => "?changed_after=0",
        "/api/v1/coverage" => "?site=farm&device=a",
        _ => "",
    };
    format!("{path}{needed}")
}

#[test]
fn the_description_names_every_route_and_no_other() {
    let api = Filled::new();
    let source = include_str!("../../src/api/mod.rs");
    let routes = source.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next());
    let routes: BTreeSet<String> = routes.filter(|r| *r != "/openapi.json").map(str::to_owned).collect();
    assert_eq!(described(&api), routes);
}

#[test]
fn every_endpoint_answers_who_has_a_token() {
    let mut api = Filled::new();
    api.send(vec![number(0, 0, U, 1.5), complete(2)]);
    api.served.health.set_receiving(true);
    // A stream of events has no end.
    let ending = readable(&api).into_iter().filter(|path| path != "/api/v1/events");
    for path in ending.chain(["/openapi.json".to_owned()]) {
        let url = filled_in(&path);
        let answer = api.served.get(&url);
        // There is no alert yet; who has no token is not even told so.
        let expected = if path == "/api/v1/alerts/{id}" { 404 } else { 200 };
        assert_eq!((answer.status, answer.broken), (expected, false), "{url}: {}", answer.body);
        let media_type = answer.header("content-type").to_owned();
        if media_type == "application/json" {
            serde_json::from_str::<Json>(&answer.body).unwrap();
        }
        for (headers, why) in
            [(&[][..], "none"), (&[("authorization", "Bearer gapless_wrong")], "a wrong one")]
        {
            let answer = get(&format!("{}{url}", api.served.base), headers);
            if OPEN.contains(&path.as_str()) {
                assert_eq!(answer.status, 200, "{url}");
                continue;
            }
            assert_eq!(answer.status, 401, "{url} with {why}: {}", answer.body);
            assert_eq!(answer.header("content-type"), "application/problem+json", "{url}");
            assert_eq!(answer.header("www-authenticate"), "Bearer", "{url}");
            let problem: Json = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(
                (&problem["type"], &problem["status"]),
                (&"/problems/unauthorized".into(), &401.into())
            );
        }
    }
}

#[test]
fn a_parameter_that_cannot_be_is_named() {
    let api = Filled::new();
    let readings = "/api/v1/readings?series=farm/a/u";
    let rows = [
        (format!("{readings}&from=yesterday"), "from"),
        (format!("{readings}&to=2026-13-01T00:00:00Z"), "to"),
        (format!("{readings}&from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z"), "from"),
        (format!("{readings}&format=xml"), "format"),
        (format!("{readings}&resample=often"), "resample"),
        (format!("{readings}&resample=0s"), "resample"),
        (format!("{readings}&cursor=x"), "cursor"),
        (format!("{readings}&limit=0"), "limit"),
        (format!("{readings}&limit=-1"), "limit"),
        (format!("{readings}&resample=1m&limit=5"), "limit"),
        (format!("{readings}&resample=1m&cursor=1_2"), "cursor"),
        (format!("{readings}&grid=full"), "grid"),
        (format!("{readings}&resample=1m&grid=full"), "grid"),
        (format!("{readings}&unit=V"), "unit"),
        ("/api/v1/readings".to_owned(), "series"),
        ("/api/v1/readings?series=farm".to_owned(), "series"),
        ("/api/v1/latest?series=farm//u".to_owned(), "series"),
        ("/api/v1/changes".to_owned(), "changed_after"),
        ("/api/v1/changes?changed_after=x".to_owned(), "changed_after"),
        ("/api/v1/changes?changed_after=0&limit=0".to_owned(), "limit"),
        ("/api/v1/gaps?state=closed".to_owned(), "state"),
        ("/api/v1/gaps?limit=10001".to_owned(), "limit"),
        ("/api/v1/gaps?cursor=x".to_owned(), "cursor"),
        ("/api/v1/gaps?site=a%2Fb".to_owned(), "site"),
        ("/api/v1/gaps?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z".to_owned(), "from"),
        ("/api/v1/gaps?limit=many".to_owned(), "`limit`: write a whole number"),
        ("/api/v1/coverage?site=farm".to_owned(), "device"),
        ("/api/v1/devices?device=%20".to_owned(), "device"),
        ("/api/v1/agents?name=gw".to_owned(), "name"),
        ("/api/v1/conflicts?limit=x".to_owned(), "limit"),
        ("/api/v1/parked?cursor=x".to_owned(), "cursor"),
        ("/api/v1/events?kind=reading,weather".to_owned(), "kind"),
        ("/api/v1/events?site=a%2Fb".to_owned(), "site"),
    ];
    for (url, name) in rows {
        let answer = api.served.get(&url);
        assert_eq!(answer.status, 400, "{url}: {}", answer.body);
        assert_eq!(answer.header("content-type"), "application/problem+json", "{url}");
        let problem: Json = serde_json::from_str(&answer.body).unwrap();
        let kind = (problem["type"].as_str().unwrap(), problem["status"].as_u64().unwrap());
        assert_eq!(kind, ("/problems/bad-parameter", 400), "{url}");
        assert!(problem["title"].is_string(), "{url}");
        assert!(problem["detail"].as_str().unwrap().contains(name), "{url}: {problem}");
    }
}

#[test]
fn what_does_not_exist_is_a_problem_with_its_name() {
    let api = Filled::new();
    for (url, name) in [
        ("/api/v1/devices/farm/c", "farm/c"),
        ("/api/v1/readings?series=farm/c/*", "farm/c/*"),
        ("/api/v1/coverage?site=farm&device=c", "farm/c"),
        ("/api/v1/devices?site=nix", "no site `nix`"),
        ("/api/v1/devices?site=farm&device=c", "no device `farm/c`"),
        ("/api/v1/agents?site=nix", "no site `nix`"),
        ("/api/v1/series?device=c", "no device `c`"),
        ("/api/v1/gaps?site=nix&device=a", "no site `nix`"),
        ("/api/v1/gaps?site=farm&device=c", "no device `farm/c`"),
        ("/api/v1/alerts?site=nix", "no site `nix`"),
        ("/api/v1/latest?series=farm/c/*", "no series `farm/c/*`"),
        ("/api/v1/latest?series=*/*/*,farm/c/*", "no series `farm/c/*`"),
        ("/api/v1/readings?series=*/*/*,farm/c/*", "no series `farm/c/*`"),
        ("/api/v1/traffic?site=nix", "no site `nix`"),
        ("/api/v1/events?site=nix", "no site `nix`"),
        ("/api/v1/events?device=c", "no device `c`"),
        ("/api/v2/sites", "no page `/api/v2/sites`; /docs names"),
    ] {
        let answer = api.served.get(url);
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (404, "application/problem+json"),
            "{url}"
        );
        assert!(answer.body.contains(name), "{url}: {}", answer.body);
    }
}

#[test]
fn what_became_of_a_gap_is_told_and_a_person_may_act() {
    let mut api = Filled::new();
    api.send(vec![number(0, 0, U, 1.5), complete(2)]);
    let gap = api.served.json("/api/v1/gaps/1");
    assert_eq!((&gap["state"], &gap["attempts"], &gap["source"]), (&"open".into(), &0.into(), &Json::Null));
    let history = gap["history"].as_array().unwrap();
    let told = ["event", "actor", "cause"].map(|key| history[0][key].as_str().unwrap());
    assert_eq!((history.len(), told), (1, ["opened", "collector", "unexplained"]));
    let days_open = |gap: &Json, since: &Json| {
        let ms = |instant: &Json| instant.as_str().unwrap().parse::<Timestamp>().unwrap().0;
        (ms(&gap["given_up_at"]) - ms(since)) as f64 / 86_400_000.0
    };
    assert_eq!((&gap["next_try_at"], days_open(&gap, &gap["opened_at"])), (&Json::Null, 45.0));
    // The device has no memory: nobody can be asked, and opened again it is held open as long once more.
    for (path, status, word) in [
        ("/api/v1/gaps/1/retry", 409, "memory"),
        ("/api/v1/gaps/7/retry", 404, "7"),
        ("/api/v1/gaps/x/retry", 404, "x"),
    ] {
        let answer = api.served.post(path);
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
        assert!(answer.body.contains(word), "{path}: {}", answer.body);
    }
    let reopened: Json = serde_json::from_str(&api.served.post("/api/v1/gaps/1/reopen").body).unwrap();
    assert_eq!((&reopened["state"], &reopened["next_try_at"]), (&"open".into(), &Json::Null));
    assert_eq!(days_open(&reopened, &reopened["history"][1]["at"]), 45.0);
    assert_eq!(api.served.get("/api/v1/gaps/1/retry").status, 405);
    assert_eq!(api.served.get("/api/v1/gaps/99").status, 404);
    api.send(vec![number(0, 1, U, 2.5), number(0, 2, U, 3.5)]);
    let gap = api.served.json("/api/v1/gaps/1");
    let told = gap["history"].as_array().unwrap().iter().map(|event| &event["event"]);
    assert_eq!(told.collect::<Vec<_>>(), ["opened", "reopened", "filled"]);
    assert_eq!(gap["state"], "filled");
    assert_eq!(api.served.post("/api/v1/gaps/1/retry").status, 409, "what is filled is not asked for");
}

#[test]
fn the_fleet_is_told_as_it_is() {
    let mut api = Filled::new();
    api.send(vec![number(0, 0, U, 1.5), number(0, 2, U, 2.5), complete(3)]);
    let site = &api.served.items("/api/v1/sites")[0];
    assert_eq!((&site["site"], &site["devices"], &site["open_gaps"]), (&"farm".into(), &2.into(), &2.into()));
    let device = api.served.json("/api/v1/devices/farm/a");
    assert_eq!(device["proven_until"], "2026-01-01T00:01:00Z");
    assert_eq!((&device["interval_ms"], &device["open_gaps"]), (&15_000.into(), &2.into()));
    assert_eq!((&device["freshness"]["state"], &device["agent"]), (&"stale".into(), &"gw".into()));
    let gaps = api.served.items("/api/v1/gaps?state=open&device=a");
    let told = |gap: &Json| ["from", "to", "cause"].map(|key| gap[key].as_str().unwrap().to_owned());
    let expected = [
        ["2026-01-01T00:00:15Z", "2026-01-01T00:00:30Z", "unexplained"],
        ["2026-01-01T00:00:45Z", "2026-01-01T00:01:00Z", "unexplained"],
    ];
    assert_eq!(gaps.iter().map(told).collect::<Vec<_>>(), expected);
    let url = "/api/v1/coverage?site=farm&device=a&from=2026-01-01T00:00:00Z&to=2026-01-01T00:01:00Z";
    let coverage = api.served.json(url);
    assert_eq!(coverage["slots"], serde_json::json!({"received": 2, "lost": 2}));
    assert_eq!(coverage["ratio"], 0.5);
    api.send(vec![number(0, 1, U, 9.0)]);
    assert_eq!(api.served.items("/api/v1/gaps?state=open&device=a").len(), 1);
    let filled = &api.served.items("/api/v1/gaps?state=filled")[0];
    assert_eq!(filled["from"], "2026-01-01T00:00:15Z");
    assert_eq!(api.served.items("/api/v1/gaps?changed_after=2").len(), 1);
    let mut paged = Vec::new();
    let mut url = "/api/v1/gaps?limit=1".to_owned();
    loop {
        let page = api.served.json(&url);
        paged.extend(page["items"].as_array().unwrap().iter().map(|gap| gap["id"].as_i64().unwrap()));
        let Some(next) = page["next"].as_str() else { break };
        url = format!("/api/v1/gaps?limit=1&cursor={next}");
    }
    let whole = api.served.items("/api/v1/gaps");
    assert_eq!(paged, whole.iter().map(|gap| gap["id"].as_i64().unwrap()).collect::<Vec<_>>());
}

#[test]
fn the_page_shows_texts_and_runs_none() {
    let mut api = Filled::new();
    api.send(vec![reading(0, 0, &[(STATE, Some(Value::Text(SCRIPT.into())))])]);
    let page = api.served.get("/");
    let fragment = api.served.get("/fragment");
    for answer in [page, fragment] {
        assert_eq!(answer.status, 200);
        assert!(!answer.body.contains(SCRIPT), "{}", answer.body);
        // As value, as unit and as the device's model.
        assert_eq!(
            answer.body.matches("&lt;script&gt;alert(1)&lt;/script&gt;").count(),
            4,
            "{}",
            answer.body
        );
        assert!(answer.header("content-security-policy").contains("default-src 'self'"));
    }
    let login = get(&format!("{}/", api.served.base), &[]);
    assert_eq!((login.status, login.header("location")), (303, "/login"));
}
