//! The list of gaps and the calendar as a browser without a script meets them.

use rusqlite::Connection;

use crate::support::{Filled, U, complete, get, number};

#[test]
fn gaps_are_listed_by_site_and_state_and_a_wish_is_answered() {
    let mut api = Filled::new();
    api.send(vec![number(0, 0, U, 1.5), complete(2)]);
    let rows = [
        ("/gaps", true),
        ("/gaps?site=&state=", true),
        ("/gaps?site=farm&state=open", true),
        ("/gaps?state=abandoned", false),
        ("/gaps?device=b&state=all", false),
        ("/gaps?from=2026-01-02T00:00:00Z", false),
    ];
    for (url, there) in rows {
        let page = api.served.get(url);
        assert_eq!((page.status, page.body.contains("id=\"gap-1\"")), (200, there), "{url}: {}", page.body);
    }
    let page = api.served.get("/gaps").body;
    for told in ["2026-01-01 00:00:15", "2 slots", "no source, given up"] {
        assert!(page.contains(told), "{told}: {page}");
    }
    assert!(!page.contains("/retry"), "nobody can be asked for it");
    let refused = api.served.post("/gaps/1/retry?state=open");
    assert_eq!((refused.status, refused.body.contains("role=\"alert\"")), (409, true), "{}", refused.body);
    // Nor for one of a device that has a memory and is not polled any more, whether it was asked for before or not.
    let connection = Connection::open(api.served.folder().join("db")).unwrap();
    for (state, can_be_reopened) in [(1, false), (4, true)] {
        let sql = "UPDATE devices SET attributes = '{\"history\":\"device\"}'; UPDATE gaps SET state = ";
        connection.execute_batch(&format!("{sql}{state}")).unwrap();
        let page = api.served.get("/gaps").body;
        assert!(page.contains("no source, given up") && !page.contains("/retry"), "{state}: {page}");
        assert_eq!(page.contains("/gaps/1/reopen"), can_be_reopened, "{state}: {page}");
    }
    // Where there is no such place a list of nothing would say that all is well.
    for path in ["/gaps", "/alerts", "/calendar"] {
        for (place, told) in [("site=nix", "no site `nix`"), ("site=farm&device=c", "no device `farm/c`")] {
            let page = api.served.get(&format!("{path}?{place}"));
            assert_eq!((page.status, page.body.contains(told)), (404, true), "{path} {place}: {}", page.body);
            assert!(!page.body.contains("of this choice"), "{path} {place}: {}", page.body);
        }
    }
    assert_eq!(api.served.post("/gaps/1/forget").status, 404);
    assert_eq!(api.served.get("/gaps?state=closed").status, 400);
}

/// A gap is due, and its source cannot be asked: what that waits for is told, by API and page.
#[test]
fn what_a_gap_waits_for_that_is_due_is_told() {
    let mut api = Filled::new();
    api.send(vec![number(0, 0, U, 1.5), complete(2)]);
    let connection = Connection::open(api.served.folder().join("db")).unwrap();
    let memory = |more: &str| format!("UPDATE devices SET attributes = '{{\"history\":\"device\"{more}}}';");
    let due = "UPDATE gaps SET state = 4, sourceless = 0, next_at = 0 WHERE id = 1;";
    let another = "INSERT INTO gaps (grid, first_slot, last_slot, from_ts, to_ts, cause, state, opened_at, opened_commit, changed_commit)
        SELECT grid, first_slot - 9, last_slot - 9, from_ts, to_ts, cause, 3, opened_at, opened_commit, changed_commit FROM gaps;";
    let rows = [
        ("UPDATE agents SET connected = 0;".to_owned(), "agent", "when its agent is back"),
        (
            "UPDATE agents SET connected = 1;".to_owned(),
            "newer",
            "when something newer of its device has come",
        ),
        (memory(",\"unreachable_since\":\"2026-01-01\""), "reach", "when its source reaches its device"),
        (format!("{}{another}", memory("")), "turn", "after what its device is being asked for now"),
    ];
    connection.execute_batch(&format!("{}{due}", memory(""))).unwrap();
    for (change, word, told) in rows {
        connection.execute_batch(&change).unwrap();
        assert_eq!(api.served.json("/api/v1/gaps/1")["waits_for"], word);
        assert_eq!(api.served.items("/api/v1/gaps")[0]["waits_for"], word);
        let page = api.served.get("/gaps").body;
        assert!(page.contains(told), "{told}: {page}");
    }
    // Something newer has come: it is asked for at once. Before it is due it waits for nothing but its time.
    connection.execute_batch("DELETE FROM gaps WHERE state = 3").unwrap();
    api.send(vec![number(0, 3, U, 1.5), complete(3)]);
    connection.execute_batch(due).unwrap();
    assert_eq!(api.served.json("/api/v1/gaps/1")["waits_for"], serde_json::Value::Null);
    assert!(api.served.get("/gaps").body.contains("at once"));
    connection
        .execute_batch("UPDATE agents SET connected = 0; UPDATE gaps SET next_at = 9000000000000")
        .unwrap();
    assert_eq!(api.served.json("/api/v1/gaps/1")["waits_for"], serde_json::Value::Null);
}

#[test]
fn the_calendar_tells_the_share_of_each_day_and_leads_to_its_gaps() {
    let mut api = Filled::new();
    api.send(vec![number(0, 0, U, 1.5), number(0, 3, U, 1.5), complete(3)]);
    let page = api.served.get("/calendar").body;
    for told in ["2026-01-01: 2 received, 2 missing", "device=a&amp;state=all&amp;from=2026-01-01T00:00:00Z"]
    {
        assert!(page.contains(told), "{told}: {page}");
    }
    let other = api.served.get("/calendar?site=farm&device=b").body;
    assert!(other.contains("cal-b") && !other.contains("cal-a"), "{other}");
}

#[test]
fn without_a_token_there_is_only_the_login() {
    let api = Filled::new();
    for path in ["/gaps", "/calendar"] {
        let answer = get(&format!("{}{path}", api.served.base), &[]);
        assert_eq!((answer.status, answer.header("location")), (303, "/login"), "{path}");
    }
}
