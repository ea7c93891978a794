//! Complete grids: every slot of the schedule is a row, and no slot without a reading has a value.

use gapless_common::reading::{Acquired, Value};
use serde_json::{Value as Json, json};

use super::support::{self, ENERGY, Filled, STATE, U, acquired, complete, grid, number, slot};

/// The slots 0 to 8.
const RANGE: &str = "from=2026-01-01T00:00:00Z&to=2026-01-01T00:02:15Z";

/// Readings in the slots 0 and 3; what else was due up to 4 is missing; of the rest nothing is known an hour later.
fn with_holes() -> Filled {
    let mut api = Filled::new();
    api.send(vec![number(0, 0, U, 1.5), number(0, 3, U, 2.5), complete(4)]);
    api
}

#[test]
fn slots_without_a_reading_are_rows_without_a_value() {
    let api = with_holes();
    let url = format!("/api/v1/readings?series=farm/a/u&grid=complete&{RANGE}");
    let rows = api.served.items(&url);
    let told = |row: &Json| {
        let text = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let at = text("at").trim_start_matches("2026-01-01T00:").to_owned();
        (at, row["value"].as_f64(), text("quality"), text("state"), text("cause"))
    };
    let expected = [
        ("00:00.04Z", Some(1.5), "good", "received", "-"),
        ("00:15Z", None, "-", "missing", "unexplained"),
        ("00:30Z", None, "-", "missing", "unexplained"),
        ("00:45.04Z", Some(2.5), "good", "received", "-"),
        ("01:00Z", None, "-", "missing", "unexplained"),
        ("01:15Z", None, "-", "unknown", "unreachable"),
        ("01:30Z", None, "-", "unknown", "unreachable"),
        ("01:45Z", None, "-", "unknown", "unreachable"),
        ("02:00Z", None, "-", "unknown", "unreachable"),
    ];
    let expected = expected.map(|(at, value, quality, state, cause)| {
        (at.to_owned(), value, quality.to_owned(), state.to_owned(), cause.to_owned())
    });
    assert_eq!(rows.iter().map(told).collect::<Vec<_>>(), expected);
    assert!(rows.iter().all(|row| row["value"].is_number() || row["value"].is_null()));
    // The gap's number leads to its history.
    let gap = rows[1]["gap"].as_i64().unwrap();
    assert_eq!(api.served.json(&format!("/api/v1/gaps/{gap}"))["from"], rows[1]["at"]);
    assert_eq!((&rows[0]["gap"], &rows[5]["gap"]), (&Json::Null, &Json::Null));

    let table = api.served.get(&format!("{url}&format=csv"));
    let lines: Vec<&str> = table.body.split_terminator("\r\n").collect();
    assert_eq!(lines[0], "series,revision,unit,at,value,quality,state,cause,gap");
    assert_eq!(lines[1], "farm/a/u,1,V,2026-01-01T00:00:00.04Z,1.5,good,received,,");
    assert_eq!(lines[2], format!("farm/a/u,1,V,2026-01-01T00:00:15Z,,,missing,unexplained,{gap}"));
    assert_eq!(lines[6], "farm/a/u,1,V,2026-01-01T00:01:15Z,,,unknown,unreachable,");
    assert_eq!(lines.len(), 10);
    let lines = api.served.get(&format!("{url}&format=ndjson"));
    let last: Json = serde_json::from_str(lines.body.lines().last().unwrap()).unwrap();
    assert_eq!((&last["complete"], &last["count"]), (&json!(true), &json!(9)));
}

#[test]
fn periods_without_a_value_are_rows_without_one() {
    let mut api = with_holes();
    // The third minute was answered, and had no value; of the fourth one slot came, of the rest nothing is known.
    let values = |n, x: Option<f64>| {
        support::reading(0, n, &[(U, x.map(Value::Number)), (ENERGY, x.map(Value::Number))])
    };
    api.send((8..12).map(|n| values(n, None)).chain([values(12, Some(4.5))]).collect());
    let range = "from=2026-01-01T00:00:00Z&to=2026-01-01T00:05:00Z";
    let url = format!("/api/v1/readings?series=farm/a/u&resample=1m&grid=complete&{range}");
    let rows = api.served.items(&url);
    let told = |row: &Json| {
        let text = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let from = text("from").trim_start_matches("2026-01-01T00:").to_owned();
        let numbers = ["mean", "minimum", "maximum", "coverage"].map(|key| row[key].as_f64());
        (from, numbers, row["count"].as_u64().unwrap(), [text("quality"), text("state"), text("cause")])
    };
    let some = |mean, least, most, coverage| [Some(mean), Some(least), Some(most), Some(coverage)];
    let none = [None, None, None, Some(0.0)];
    let expected = [
        ("00:00Z", some(2.0, 1.5, 2.5, 0.5), 2, ["-", "partial", "unexplained"]),
        ("01:00Z", none, 0, ["-", "unknown", "unreachable"]),
        ("02:00Z", none, 0, ["bad_no_answer", "received", "-"]),
        ("03:00Z", some(4.5, 4.5, 4.5, 0.25), 1, ["-", "partial", "unreachable"]),
        ("04:00Z", none, 0, ["-", "unknown", "unreachable"]),
    ];
    let expected = expected
        .map(|(from, numbers, count, words)| (from.to_owned(), numbers, count, words.map(str::to_owned)));
    assert_eq!(rows.iter().map(told).collect::<Vec<_>>(), expected);
    let gap = rows[0]["gap"].as_i64().unwrap();
    assert_eq!(api.served.json(&format!("/api/v1/gaps/{gap}"))["from"], "2026-01-01T00:00:15Z");
    // The same in the other formats; a counter without readings has not risen by zero.
    let lines = api.served.get(&format!("{url}&format=ndjson")).body;
    let lines: Vec<Json> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[..5], rows);
    assert_eq!((&lines[5]["complete"], &lines[5]["count"]), (&json!(true), &json!(5)));
    let table = api.served.get(&format!("{url}&format=csv")).body;
    let expected = format!(
        "series,revision,unit,from,mean,minimum,maximum,rise,count,coverage,quality,state,cause,gap,lent,sum\r\n\
        farm/a/u,1,V,2026-01-01T00:00:00Z,2,1.5,2.5,,2,0.5,,partial,unexplained,{gap},0,\r\n\
        farm/a/u,1,V,2026-01-01T00:01:00Z,,,,,0,0,,unknown,unreachable,,0,\r\n\
        farm/a/u,1,V,2026-01-01T00:02:00Z,,,,,0,0,bad_no_answer,received,,,0,\r\n\
        farm/a/u,1,V,2026-01-01T00:03:00Z,4.5,4.5,4.5,,1,0.25,,partial,unreachable,,0,\r\n\
        farm/a/u,1,V,2026-01-01T00:04:00Z,,,,,0,0,,unknown,unreachable,,0,\r\n"
    );
    assert_eq!(table, expected);
    let rises = api.served.items(&url.replace("farm/a/u", "farm/a/energy"));
    let rises: Vec<_> =
        rises.iter().map(|row| (row["rise"].as_f64(), row["count"].as_u64().unwrap())).collect();
    assert_eq!(rises[1..], [(None, 0), (None, 0), (Some(0.0), 1), (None, 0)]);
    // Two series, one behind the other, and the shortest way of each is the same without a complete grid.
    let both = url.replace("farm/a/u", "farm/a/u,farm/a/energy");
    assert_eq!(api.served.items(&both).len(), 10);
    let with_values: Vec<_> =
        rows.iter().filter(|row| row["count"] != 0).map(|row| row["from"].clone()).collect();
    let usual = api.served.items(&url.replace("&grid=complete", ""));
    assert_eq!(usual.iter().map(|row| row["from"].clone()).collect::<Vec<_>>(), with_values);
}

#[test]
fn a_complete_grid_is_paged_without_loss_and_ends_now() {
    let mut api = with_holes();
    // An answer so late that its time is the next slot's, which has none: two rows of one instant.
    let values = [(U, Some(Value::Number(7.0))), (STATE, None)];
    let late = acquired(0, Acquired::InSlot(slot(1)), grid().at(slot(2)), &values);
    api.send(vec![late]);
    let url = format!("/api/v1/readings?series=farm/a/u,farm/a/state&grid=complete&{RANGE}");
    let whole = api.served.items(&url);
    // Of a channel that was not in an answer there is no row for that slot: it was not missing.
    assert_eq!(whole.len(), 9 + 7);
    for limit in [1, 2, 5, 15, 16, 17] {
        let (mut paged, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = api.served.json(&format!("{url}&limit={limit}{cursor}"));
            paged.extend(page["items"].as_array().unwrap().iter().cloned());
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(paged, whole, "limit {limit}");
    }
    // An hour of slots, and the one that is due now; none of tomorrow.
    let url =
        "/api/v1/readings?series=farm/a/u&grid=complete&from=2020-01-01T00:00:00Z&to=2030-01-01T00:00:00Z";
    assert_eq!(api.served.items(url).len(), 241);
}

#[test]
fn what_does_not_go_together_is_refused() {
    let api = with_holes();
    let url = format!("/api/v1/readings?series=farm/a/u&{RANGE}");
    for (more, name) in [
        ("grid=complete&resample=1m&limit=5", "limit"),
        ("grid=complete&resample=1m&cursor=1_2", "cursor"),
        ("grid=full", "grid"),
        ("grid=", "grid"),
    ] {
        let answer = api.served.get(&format!("{url}&{more}"));
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (400, "application/problem+json"),
            "{more}"
        );
        let problem: Json = serde_json::from_str(&answer.body).unwrap();
        assert!(problem["detail"].as_str().unwrap().contains(&format!("`{name}`")), "{problem}");
    }
    // By the clock alone a slot changes from pending to unknown: there is no tag to hold on to.
    assert_eq!(api.served.get(&format!("{url}&grid=complete")).header("etag"), "");
    assert_eq!(api.served.get(&format!("{url}&grid=complete&resample=1m")).header("etag"), "");
    assert_ne!(api.served.get(&url).header("etag"), "");
}
