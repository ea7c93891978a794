//! Readings and changes: exact in every format, once each, and never half a commit.

use std::collections::{BTreeMap, BTreeSet};

use gapless_collector::gaps::donate::Donor;
use gapless_common::id::{BootId, Seq};
use gapless_common::reading::{Acquired, ClockCorrection, Record, Value};
use gapless_common::time::Timestamp;
use serde_json::{Value as Json, json};

use crate::support::{
    DIRECTION, ENERGY, EPOCH, Filled, STATE, T0, U, acquired, complete, grid, number, reading, slot,
};

const DAY: &str = "from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z";

#[test]
fn each_format_is_exact() {
    let mut api = Filled::new();
    api.send(vec![
        reading(0, 0, &[(U, Some(Value::Number(0.1))), (STATE, Some(Value::Text("a \"b\", c".into())))]),
        reading(0, 1, &[(U, Some(Value::Number(-1e-300))), (STATE, None)]),
    ]);
    let csv = "series,revision,unit,at,value,quality,lent\r\n\
        farm/a/u,1,V,2026-01-01T00:00:00.04Z,0.1,good,\r\n\
        farm/a/u,1,V,2026-01-01T00:00:15.04Z,-0.000\r\n";
    let ndjson = [
        json!({"series": "farm/a/u", "revision": 1, "unit": "V", "at": "2026-01-01T00:00:00.04Z", "value": 0.1,
            "quality": "good", "lent": false}),
        json!({"series": "farm/a/u", "revision": 1, "unit": "V", "at": "2026-01-01T00:00:15.04Z",
            "value": -1e-300, "quality": "good", "lent": false}),
        json!({"series": "farm/a/state", "revision": 1, "unit": crate::support::SCRIPT,
            "at": "2026-01-01T00:00:00.04Z", "value": "a \"b\", c", "quality": "good", "lent": false}),
        json!({"series": "farm/a/state", "revision": 1, "unit": crate::support::SCRIPT,
            "at": "2026-01-01T00:00:15.04Z", "value": null, "quality": "bad_no_answer", "lent": false}),
    ];
    let url = format!("/api/v1/readings?series=farm/a/*&{DAY}");
    let mut whole = api.served.json(&url);
    // How fresh it is moves with the clock and with what is done about it.
    let fresh = |tail: &mut Json| {
        let freshness = tail.as_object_mut().unwrap().remove("freshness").unwrap();
        assert_eq!(freshness["farm/a"]["last_reading_at"], "2026-01-01T00:00:15.04Z");
        assert_eq!(freshness.as_object().unwrap().len(), 1);
    };
    fresh(&mut whole);
    assert_eq!(whole, json!({"items": ndjson, "complete": true, "count": 4, "next": null}));
    let lines = api.served.get(&format!("{url}&format=ndjson"));
    assert_eq!(lines.header("content-type"), "application/x-ndjson");
    let mut told: Vec<Json> = lines.body.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    fresh(told.last_mut().unwrap());
    let mark = json!({"complete": true, "count": 4, "next": null});
    assert_eq!(told, [ndjson.as_slice(), &[mark]].concat());
    let table = api.served.get(&format!("{url}&format=csv"));
    assert_eq!(table.header("content-type"), "text/csv; charset=utf-8; header=present");
    let rows: Vec<&str> = table.body.split_terminator("\r\n").collect();
    let expected: Vec<&str> = csv.split_terminator("\r\n").collect();
    assert_eq!(rows[..2], expected[..2]);
    let tiny: f64 = rows[2].split(',').nth(4).unwrap().parse().unwrap();
    assert_eq!(tiny.to_bits(), (-1e-300_f64).to_bits(), "the shortest text that gives the same number");
    assert_eq!(
        rows[3],
        "farm/a/state,1,<script>alert(1)</script>,2026-01-01T00:00:00.04Z,\"a \"\"b\"\", c\",good,"
    );
    assert_eq!(rows[4], "farm/a/state,1,<script>alert(1)</script>,2026-01-01T00:00:15.04Z,,bad_no_answer,");
    assert_eq!(rows.len(), 5);
}

/// What another device measured says so wherever it is shown, and the device is as old as its own word.
#[test]
fn what_is_lent_says_so_in_every_format() {
    let donor = Donor {
        site: "farm".to_owned(),
        device: "a".to_owned(),
        from: "b".to_owned(),
        channels: BTreeMap::new(),
    };
    let mut api = Filled::with_donors(vec![donor]);
    let both = |device, n, x| {
        let value = Some(Value::Number(x));
        acquired(device, Acquired::InSlot(slot(n)), grid().at(slot(n)), &[(U, value)])
    };
    api.send(vec![both(0, 0, 1.5), complete(2), both(1, 0, 1.0), both(1, 1, 2.5), both(1, 2, 3.5)]);
    api.look_after_gaps();
    let url = format!("/api/v1/readings?series=farm/a/u&{DAY}");
    let rows = api.served.items(&url);
    let told: Vec<_> = rows.iter().map(|row| (row["value"].as_f64(), row["lent"].as_bool())).collect();
    assert_eq!(told, [(Some(1.5), Some(false)), (Some(2.5), Some(true)), (Some(3.5), Some(true))]);
    let csv = api.served.get(&format!("{url}&format=csv")).body;
    let ends: Vec<_> = csv.lines().map(|line| line.rsplit(',').next().unwrap()).collect();
    assert_eq!(ends, ["lent", "", "true", "true"]);
    let whole = api.served.items(
        &format!("{url}&grid=complete&to=2026-01-01T00:00:45Z").replace("&to=2026-01-02T00:00:00Z", ""),
    );
    let states: Vec<_> = whole.iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["received", "lent", "lent"]);
    for grid in ["", "&grid=complete"] {
        let url = format!("{url}&resample=1m{grid}");
        let minute = &api.served.items(&url)[0];
        assert_eq!((&minute["count"], &minute["lent"]), (&json!(3), &json!(2)), "{grid}");
        let csv = api.served.get(&format!("{url}&format=csv")).body;
        assert!(csv.lines().nth(1).unwrap().ends_with(",2,"), "{csv}");
    }
    let (lines, _) = changes(&api, 0, "");
    assert_eq!(lines.len(), 6);
    let body = api.served.get("/api/v1/changes?changed_after=0").body;
    assert_eq!(body.matches("\"lent\":true").count(), 2);
    let latest = &api.served.items("/api/v1/latest?series=farm/a/u")[0];
    assert_eq!((&latest["value"], &latest["lent"]), (&json!(3.5), &json!(true)));
    assert_eq!(latest["freshness"]["last_reading_at"], "2026-01-01T00:00:00Z");
    let page = api.served.get_with("/fragment", &[]);
    assert!(page.body.contains("measured by another device"), "{}", page.body);
    // Its own word, late.
    api.send(vec![both(0, 1, 9.0)]);
    let rows = api.served.items(&url);
    assert_eq!((&rows[1]["value"], &rows[1]["lent"]), (&json!(9.0), &json!(false)));
    // The same, as a poll has it: with an instant of its own. Of its slot there is one reading, and who follows is told of both.
    let before = changes(&api, 0, "").1["next"].as_u64().unwrap();
    api.send(vec![number(0, 2, U, 7.0)]);
    let rows = api.served.items(&url);
    let told: Vec<_> = rows.iter().map(|row| (row["value"].as_f64(), row["lent"].as_bool())).collect();
    assert_eq!(told, [(Some(1.5), Some(false)), (Some(9.0), Some(false)), (Some(7.0), Some(false))]);
    let (lines, _) = changes(&api, before, "");
    let instants: Vec<_> = lines.iter().map(|(_, at, _)| at.as_str()).collect();
    assert_eq!(instants, ["2026-01-01T00:00:30Z", "2026-01-01T00:00:30.04Z"]);
    let body = api.served.get(&format!("/api/v1/changes?changed_after={before}")).body;
    assert!(body.lines().next().unwrap().contains("\"withdrawn\":true"), "{body}");
    let gap = api.served.items("/api/v1/gaps?state=filled")[0]["id"].as_i64().unwrap();
    let history = api.served.json(&format!("/api/v1/gaps/{gap}"))["history"].clone();
    assert_eq!(history.as_array().unwrap().last().unwrap()["event"], "replaced");
    assert_eq!(api.served.items("/api/v1/conflicts").len(), 0);
}

#[test]
fn a_range_holds_its_begin_and_not_its_end() {
    let mut api = Filled::new();
    api.send((0..4).map(|n| number(0, n, U, 1.0)).collect());
    let rows = [
        ("2026-01-01T00:00:00.040Z", "2026-01-01T00:00:30.040Z", 2),
        ("2026-01-01T00:00:00.041Z", "2026-01-01T00:00:30.041Z", 2),
        ("2026-01-01T01:00:00.040%2B01:00", "2026-01-01T00:00:00.04Z", 0),
        ("2026-01-01T01:00:00.040+01:00", "2026-01-01T00:00:00.041Z", 1),
    ];
    for (from, to, count) in rows {
        let answer = api.served.json(&format!("/api/v1/readings?series=farm/a/u&from={from}&to={to}"));
        assert_eq!((&answer["count"], &answer["complete"]), (&json!(count), &json!(true)), "{from} {to}");
    }
}

#[test]
fn pages_give_each_row_once() {
    let mut api = Filled::new();
    api.send((0..7).flat_map(|n| [number(0, n, U, 1.0), number(1, n, ENERGY, 2.0)]).collect());
    let url = format!("/api/v1/readings?series=farm/*/u,farm/b/energy&{DAY}");
    let whole = api.served.items(&url);
    assert_eq!(whole.len(), 14);
    for limit in [1, 3, 7, 13, 14, 15] {
        let (mut paged, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = api.served.json(&format!("{url}&limit={limit}{cursor}"));
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= limit);
            paged.extend(items.iter().cloned());
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(paged, whole, "limit {limit}");
    }
}

#[test]
fn resampling_follows_the_aggregation() {
    let mut api = Filled::new();
    // The second minute has one voltage; the counter is reset within it.
    let volts = [(0, 1.0), (1, 2.0), (3, 6.0), (5, 5.0)].map(|(n, x)| number(0, n, U, x));
    let angles = [(0, 350.0), (1, 30.0), (4, 90.0)].map(|(n, x)| number(0, n, DIRECTION, x));
    let counts = [(0, 10.0), (2, 14.0), (4, 15.0), (5, 2.0), (6, 3.5)].map(|(n, x)| number(0, n, ENERGY, x));
    api.send(volts.into_iter().chain(angles).chain(counts).collect());
    let ask = |channel: &str| {
        api.served.items(&format!("/api/v1/readings?series=farm/a/{channel}&resample=1m&{DAY}"))
    };
    let period = |row: &Json, key: &str| row[key].as_f64();
    let volts = ask("u");
    let told: Vec<_> = volts
        .iter()
        .map(|p| ["mean", "minimum", "maximum", "count", "coverage", "rise"].map(|key| period(p, key)))
        .collect();
    let some = |x| [Some(x); 1][0];
    assert_eq!(told[0], [some(3.0), some(1.0), some(6.0), some(3.0), some(0.75), None]);
    assert_eq!(told[1], [some(5.0), some(5.0), some(5.0), some(1.0), some(0.25), None]);
    assert_eq!((told.len(), &volts[1]["from"]), (2, &json!("2026-01-01T00:01:00Z")));
    let angles = ask("dir");
    let mean = period(&angles[0], "mean").unwrap();
    assert!((mean - 10.0).abs() < 1e-9, "the mean of 350° and 30° is 10°, not {mean}");
    assert!((period(&angles[1], "mean").unwrap() - 90.0).abs() < 1e-9);
    assert_eq!(angles[0]["minimum"], Json::Null, "a circle has no least value");
    let counts = ask("energy");
    assert_eq!(period(&counts[0], "rise"), Some(4.0));
    // 14 to 15, then 2 since a reset, then 1.5.
    assert_eq!((period(&counts[1], "rise"), &counts[1]["mean"]), (Some(4.5), &Json::Null));
    // An answer that begins within goes on from the reading before it.
    let later = "from=2026-01-01T00:01:00Z&to=2026-01-02T00:00:00Z";
    let later = api.served.items(&format!("/api/v1/readings?series=farm/a/energy&resample=1m&{later}"));
    assert_eq!(later, counts[1..]);
    let table = api.served.get(&format!("/api/v1/readings?series=farm/a/u&resample=1m&format=csv&{DAY}"));
    let expected = "series,revision,unit,from,mean,minimum,maximum,rise,count,coverage,lent,sum\r\n\
        farm/a/u,1,V,2026-01-01T00:00:00Z,3,1,6,,3,0.75,0,\r\n\
        farm/a/u,1,V,2026-01-01T00:01:00Z,5,5,5,,1,0.25,0,\r\n";
    assert_eq!(table.body, expected);
}

#[test]
fn an_entity_tag_holds_until_the_next_commit() {
    let mut api = Filled::new();
    // Fresh, so that no look has anything refreshed meanwhile.
    api.send(vec![number(0, 239, U, 1.0)]);
    let urls = [format!("/api/v1/readings?series=farm/a/u&{DAY}"), "/api/v1/latest".to_owned()];
    let mut tags = Vec::new();
    for url in &urls {
        let first = api.served.get(url);
        let tag = first.header("etag").to_owned();
        assert!(!tag.is_empty(), "{url}");
        let again = api.served.get_with(url, &[("if-none-match", &tag)]);
        assert_eq!(
            (again.status, again.body.as_str(), again.header("etag")),
            (304, "", tag.as_str()),
            "{url}"
        );
        assert_eq!(api.served.get_with(url, &[("if-none-match", "\"other\"")]).status, 200, "{url}");
        tags.push(tag);
    }
    api.send(vec![number(0, 240, U, 2.0)]);
    for (url, tag) in urls.iter().zip(tags) {
        let news = api.served.get_with(url, &[("if-none-match", &tag)]);
        assert_eq!(news.status, 200, "{url}");
        assert_ne!(news.header("etag"), tag, "{url}");
    }
    // What moves with the clock has no tag to hold.
    assert_eq!(api.served.get("/api/v1/readings?series=farm/a/u").header("etag"), "");
}

#[test]
fn the_future_hides_nothing() {
    let mut api = Filled::new();
    let after = |ms: i64, x: f64| {
        let at = crate::support::NOW.plus_ms(ms);
        acquired(0, Acquired::InSlot(grid().slot_at(at)), at, &[(U, Some(Value::Number(x)))])
    };
    // A little ahead is a clock that differs; a year ahead is a clock that is wrong.
    for (ms, latest, state) in
        [(365 * 86_400_000, 1.0, "stale"), (120_000, 1.0, "stale"), (30_000, 3.0, "fresh")]
    {
        api.send(vec![after(-600_000, 1.0), after(ms, 3.0)]);
        let told = &api.served.items("/api/v1/latest")[0];
        assert_eq!((&told["value"], &told["freshness"]["state"]), (&json!(latest), &json!(state)), "{ms}");
        let device = api.served.json("/api/v1/devices/farm/a");
        assert_eq!(device["freshness"]["state"], state, "{ms}");
    }
}

/// The readings and the mark of an answer of `changes`.
fn changes(api: &Filled, after: u64, limit: &str) -> (Vec<(String, String, u64)>, Json) {
    let answer = api.served.get(&format!("/api/v1/changes?changed_after={after}{limit}"));
    assert_eq!((answer.status, answer.broken), (200, false), "{}", answer.body);
    let mut lines: Vec<Json> = answer.body.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let mut mark = lines.pop().unwrap();
    let fresh = mark.as_object_mut().unwrap().remove("freshness").unwrap();
    let text = |line: &Json, key: &str| line[key].as_str().unwrap().to_owned();
    let told = |line: &Json| (text(line, "series"), text(line, "at"), line["commit"].as_u64().unwrap());
    // Whatever is told of, it says how fresh it is.
    let devices: BTreeSet<_> =
        lines.iter().map(|line| text(line, "series").rsplit_once('/').unwrap().0.to_owned()).collect();
    let fresh: BTreeMap<String, Json> = serde_json::from_value(fresh).unwrap();
    assert!(devices.iter().all(|device| fresh.contains_key(device)), "{devices:?}: {fresh:?}");
    assert!(
        fresh.values().all(|of| of["state"].is_string() && of["last_reading_at"].is_string()),
        "{fresh:?}"
    );
    (lines.iter().map(told).collect(), mark)
}

#[test]
fn csv_says_in_a_header_how_fresh_it_is() {
    let mut api = Filled::new();
    api.send(vec![number(0, 0, U, 1.5), number(1, 0, U, 2.5)]);
    let rows = ["", "&grid=complete", "&resample=1m", "&resample=1m&grid=complete"];
    for more in rows {
        let url = format!("/api/v1/readings?series=farm/*/u&from=2026-01-01T00:00:00Z{more}");
        let csv = api.served.get(&format!("{url}&format=csv"));
        let head: Json = serde_json::from_str(csv.header("gapless-freshness")).unwrap();
        let json = api.served.json(&format!("{url}&format=json"));
        // The first look may have made a job that the second one tells of.
        let without_job = |mut devices: Json| {
            let all = devices.as_object_mut().unwrap().values_mut();
            all.for_each(|device| drop(device.as_object_mut().unwrap().remove("refresh")));
            devices
        };
        assert_eq!(without_job(head["devices"].clone()), without_job(json["freshness"].clone()), "{more}");
        assert_eq!(head["more"], 0, "{more}");
        assert_eq!(head["devices"]["farm/a"]["state"], "stale", "{more}: {head}");
    }
}

fn told(series: &str, second: &str, commit: u64) -> (String, String, u64) {
    (format!("farm/{series}"), format!("2026-01-01T00:{second}Z"), commit)
}

#[test]
fn changes_are_what_is_new_late_or_corrected() {
    let mut api = Filled::new();
    api.send(vec![number(0, 4, U, 1.0), number(1, 4, U, 2.0)]);
    let (rows, mark) = changes(&api, 0, "");
    assert_eq!(rows, [told("a/u", "01:00.04", 2), told("b/u", "01:00.04", 2)]);
    assert_eq!(mark, json!({"complete": true, "count": 2, "next": 2, "head": 2}));
    // Late: its time is before what was told.
    api.send(vec![number(0, 0, U, 3.0)]);
    assert_eq!(changes(&api, 2, "").0, [told("a/u", "00:00.04", 3)]);
    // Told twice is not news.
    api.send(vec![number(0, 0, U, 3.0)]);
    assert_eq!(changes(&api, 3, "").0, []);
    // Corrected: taken 5 s after a boot whose instant becomes known later.
    let unsure = [(U, Some(Value::Number(4.0)))];
    api.send(vec![acquired(0, Acquired::SinceBoot(5_000), Timestamp(T0.0 + 600_000), &unsure)]);
    assert_eq!(changes(&api, 4, "").0, [told("a/u", "10:00", 5)]);
    let (first, last) = (Seq(1), Seq(100));
    let boot_began = T0.plus_ms(120_000);
    let correction = ClockCorrection { boot: BootId(5), epoch: EPOCH, first, last, boot_began };
    api.send(vec![Record::ClockCorrection(correction)]);
    assert_eq!(changes(&api, 5, "").0, [told("a/u", "10:00", 6), told("a/u", "02:05", 6)]);
    let lines = api.served.get("/api/v1/changes?changed_after=5").body;
    let withdrawn: Json = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(
        withdrawn,
        json!({"series": "farm/a/u", "revision": 1, "at": "2026-01-01T00:10:00Z", "withdrawn": true, "commit": 6})
    );
    assert_eq!(changes(&api, 6, "").1, json!({"complete": true, "count": 0, "next": 6, "head": 6}));
    assert_eq!(changes(&api, 99, "").1["next"], 99, "who is ahead is not sent back");
}

#[test]
fn changes_never_give_half_a_commit() {
    let mut api = Filled::new();
    for n in 0..5 {
        api.send(vec![number(0, n, U, 1.0), number(1, n, U, 2.0), number(1, n + 1_000, U, 2.0)]);
    }
    for limit in [1, 2, 3, 4, 5, 100] {
        let (mut after, mut all) = (0, Vec::new());
        loop {
            let (rows, mark) = changes(&api, after, &format!("&limit={limit}"));
            let next = mark["next"].as_u64().unwrap();
            for commit in rows.iter().map(|row| row.2) {
                assert!(commit > after && commit <= next);
                assert_eq!(rows.iter().filter(|row| row.2 == commit).count(), 3, "limit {limit}");
            }
            all.extend(rows);
            after = next;
            if next == mark["head"].as_u64().unwrap() {
                break;
            }
        }
        assert_eq!(all.len(), 15, "limit {limit}");
    }
}
