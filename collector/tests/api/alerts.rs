//! Alerts, receivers and suspended devices, over HTTP and on the page.

use gapless_collector::store::sqlite;

use crate::support::{Filled, SCRIPT, T0, U, get, number};

/// A collector with an alert of each state, and a suspended device. How they come about is tested elsewhere.
fn with_alerts() -> Filled {
    let mut api = Filled::new();
    api.send(vec![number(0, 0, U, 1.5)]);
    let connection = sqlite::open_writer(&api.served.folder().join("db")).unwrap();
    let t = T0.0;
    let sql = format!(
        "INSERT INTO alerts (kind, site, device, agent, detail, raised_at, acknowledged_at, acknowledged_by, resolved_at)
            VALUES (1, 1, 1, NULL, '{SCRIPT}', {t}, NULL, NULL, NULL),
                (2, 1, NULL, 1, 'gone', {t}, {t}, 'token x', NULL),
                (3, 1, 2, NULL, 'a gap', {t}, NULL, NULL, {t} + 60000);
        INSERT INTO alert_events (alert, at, event, actor) VALUES (1, {t}, 1, 'collector'), (2, {t}, 1, 'collector'),
            (2, {t}, 2, 'token x'), (3, {t}, 1, 'collector'), (3, {t} + 60000, 3, 'collector');
        INSERT INTO receivers (name, told, through, next_at, failures, last_error)
            VALUES ('mail.oncall', 1, 4, {t}, 2, 'the credentials were refused: 535');
        UPDATE devices SET stopped = 1, stopped_at = {t}, stopped_why = 'nothing came of it in 7 days' WHERE id = 2;"
    );
    connection.execute_batch(&sql).unwrap();
    api
}

#[test]
fn alerts_are_chosen_by_state_kind_and_place_and_paged() {
    let api = with_alerts();
    let rows: [(&str, &[i64]); 9] = [
        ("", &[1, 2, 3]),
        ("?state=unresolved", &[1, 2]),
        ("?state=open", &[1]),
        ("?state=acknowledged", &[2]),
        ("?state=resolved", &[3]),
        ("?kind=gap", &[3]),
        ("?device=a", &[1]),
        ("?site=farm&cursor=1", &[2, 3]),
        ("?limit=2", &[1, 2]),
    ];
    for (query, expected) in rows {
        let items = api.served.items(&format!("/api/v1/alerts{query}"));
        let ids: Vec<i64> = items.iter().map(|alert| alert["id"].as_i64().unwrap()).collect();
        assert_eq!(ids, expected, "{query}");
    }
    assert_eq!(api.served.json("/api/v1/alerts?limit=2")["next"], "2");
    for query in ["state=closed", "kind=odd", "site=a%20b", "cursor=x", "limit=0", "odd=1"] {
        assert_eq!(api.served.get(&format!("/api/v1/alerts?{query}")).status, 400, "{query}");
    }
    let alert = api.served.json("/api/v1/alerts/2");
    assert_eq!((&alert["agent"], &alert["state"]), (&"gw".into(), &"acknowledged".into()), "{alert}");
    let history = alert["history"].as_array().unwrap();
    assert_eq!((history.len(), &history[1]["actor"]), (2, &"token x".into()), "{alert}");
}

#[test]
fn an_alert_is_acknowledged_by_whoever_has_a_token() {
    let api = with_alerts();
    let answer = api.served.post("/api/v1/alerts/1/acknowledge");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.contains("\"acknowledged_by\":\"token test\""), "{}", answer.body);
    for (path, status) in [("3", 409), ("99", 404), ("x", 404)] {
        assert_eq!(api.served.post(&format!("/api/v1/alerts/{path}/acknowledge")).status, status, "{path}");
    }
    let base = &api.served.base;
    for path in ["/api/v1/alerts", "/api/v1/alerts/1", "/api/v1/receivers"] {
        assert_eq!(get(&format!("{base}{path}"), &[]).status, 401, "{path}");
    }
}

#[test]
fn a_suspended_device_says_so_and_is_resumed() {
    let api = with_alerts();
    let collection = api.served.json("/api/v1/devices/farm/b")["collection"].clone();
    assert_eq!(
        (&collection["state"], &collection["since"]),
        (&"suspended".into(), &"2026-01-01T00:00:00Z".into())
    );
    let refused = api.served.post("/api/v1/devices/farm/b/refresh");
    assert_eq!((refused.status, refused.body.contains("resume")), (409, true), "{}", refused.body);
    let answer = api.served.post("/api/v1/devices/farm/b/resume");
    assert_eq!((answer.status, answer.body.contains("\"active\"")), (200, true), "{}", answer.body);
    assert_eq!(api.served.post("/api/v1/devices/farm/b/refresh").status, 200);
    assert_eq!(api.served.post("/api/v1/devices/farm/a/resume").status, 409, "it is not suspended");
    assert_eq!(api.served.post("/api/v1/devices/farm/none/resume").status, 404);
}

#[test]
fn devices_that_wait_for_a_word_are_given_it_on_the_page() {
    let api = with_alerts();
    let page = |query: &str| api.served.get(&format!("/alerts{query}")).body;
    let row = |page: &str, device: &str| page.contains(&format!("id=\"waits-farm-{device}\""));
    // `a` was announced and never confirmed, `b` is suspended; neither is of another site.
    let before = page("");
    assert!(row(&before, "a") && row(&before, "b"), "{before}");
    assert!(before.contains("Confirm farm/a") && before.contains("Resume farm/b"), "{before}");
    assert!(before.contains("nothing came of it in 7 days"), "{before}");
    assert!(!row(&page("?site=elsewhere"), "a"));
    for (path, status) in [("a/resume", 409), ("none/confirm", 404), ("a/forget", 404)] {
        let answer = api.served.post(&format!("/devices/farm/{path}"));
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
    }
    for (path, device) in [("a/confirm", "a"), ("b/resume", "b")] {
        let answer = api.served.post(&format!("/devices/farm/{path}?site=farm"));
        // Back to the page, which this client asks for without a token.
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert_eq!(row(&page(""), device), device == "b", "a device that goes on is still to be confirmed");
    }
    assert_eq!(api.served.json("/api/v1/devices/farm/a")["confirmed_by"], "token test");
    assert_eq!(api.served.json("/api/v1/devices/farm/b")["collection"]["state"], "active");
    assert!(page("").contains("Confirm farm/b"));
    assert_eq!(get(&format!("{}/alerts", api.served.base), &[]).header("location"), "/login");
}

#[test]
fn who_is_told_and_what_stands_in_the_way_is_said() {
    let api = with_alerts();
    let mail = &api.served.items("/api/v1/receivers")[0];
    assert_eq!((&mail["owed"], &mail["failures"]), (&3.into(), &2.into()), "{mail}");
    let metrics = api.served.get("/metrics").body;
    for row in [
        "gapless_receiver_owed{receiver=\"mail.oncall\"} 3",
        "gapless_receiver_failures{receiver=\"mail.oncall\"} 2",
        "gapless_receiver_set_aside_total{receiver=\"mail.oncall\"} 0",
        "gapless_alerts{kind=\"stale\"} 1",
        "gapless_alerts{kind=\"gap\"} 0",
    ] {
        assert!(metrics.contains(row), "{row}: {metrics}");
    }
    let page = api.served.get("/alerts").body;
    for told in ["mail.oncall", "credentials were refused", "id=\"alert-1\"", "agent farm", "Acknowledge"] {
        assert!(page.contains(told), "{told}: {page}");
    }
    assert!(!page.contains(SCRIPT) && !page.contains("alert-3"), "{page}");
    assert!(api.served.get("/alerts?state=all").body.contains("alert-3"));
    for path in ["/", "/gaps", "/calendar", "/alerts"] {
        let page = api.served.get(path).body;
        assert!(page.contains("Alerts <span class=\"badge bad\">1</span>"), "{path}: {page}");
    }
    assert!(api.served.get("/").body.contains("not asked"));
    let refused = api.served.post("/alerts/3/acknowledge?state=all");
    assert_eq!((refused.status, refused.body.contains("role=\"alert\"")), (409, true), "{}", refused.body);
    let base = &api.served.base;
    assert_eq!(get(&format!("{base}/alerts"), &[]).header("location"), "/login");
}

#[test]
fn a_frame_that_could_not_be_used_goes_when_a_person_says_so() {
    let api = with_alerts();
    let connection = sqlite::open_writer(&api.served.folder().join("db")).unwrap();
    let sql =
        "INSERT INTO parked (agent, epoch, first_seq, count, catalog, reason, detail, bytes, received_at)
        VALUES (1, 9, 1, 1, 1, 3, 'makes no sense', x'00', 0)";
    connection.execute_batch(sql).unwrap();
    let frames = || api.served.items("/api/v1/parked").len();
    assert_eq!(frames(), 1);
    for (path, status, left) in [("x", 404, 1), ("99", 404, 1), ("1", 204, 0), ("1", 404, 0)] {
        let answer = api.served.delete(&format!("/api/v1/parked/{path}"));
        assert_eq!((answer.status, frames()), (status, left), "{path}: {}", answer.body);
    }
    let removal = &api.served.items("/api/v1/removals")[0];
    assert_eq!(removal["what"], "quarantine");
    assert!(removal["detail"].as_str().unwrap().ends_with("by token test"), "{removal}");
}

#[test]
fn who_refuses_or_is_gone_from_the_configuration_is_shown() {
    let api = with_alerts();
    let connection = sqlite::open_writer(&api.served.folder().join("db")).unwrap();
    let sql = "UPDATE receivers SET set_aside = 3, set_aside_at = 0, gone_at = 0";
    connection.execute_batch(sql).unwrap();
    let mail = &api.served.items("/api/v1/receivers")[0];
    assert_eq!((&mail["set_aside"], &mail["gone_at"]), (&3.into(), &"1970-01-01T00:00:00Z".into()), "{mail}");
    let page = api.served.get("/alerts").body;
    assert!(page.contains("3 refused and set aside") && page.contains("not in the configuration"), "{page}");
}

#[test]
fn devices_are_confirmed_and_what_was_tidied_away_is_told() {
    let api = with_alerts();
    let device = || api.served.json("/api/v1/devices/farm/a");
    assert!(device()["confirmed_at"].is_null(), "{}", device());
    let sql =
        "UPDATE devices SET stopped = 3, stopped_at = 0, stopped_why = 'nobody confirmed it' WHERE id = 1;
        INSERT INTO removals (at, what, device, count, detail) VALUES (0, 'device_not_confirmed', 1, 1, 'so'),
            (1, 'job_history', NULL, 7, 'by its age')";
    let connection = sqlite::open_writer(&api.served.folder().join("db")).unwrap();
    connection.execute_batch(sql).unwrap();
    assert_eq!(device()["collection"]["state"], "not_confirmed");
    let page = api.served.get("/").body;
    assert!(
        page.contains("1 device that nobody confirmed") && !page.contains("data-device=\"farm/a\""),
        "{page}"
    );
    let answer = api.served.post("/api/v1/devices/farm/a/confirm");
    assert_eq!((answer.status, answer.body.contains("\"token test\"")), (200, true), "{}", answer.body);
    assert_eq!(device()["collection"]["state"], "active");
    assert_eq!(api.served.post("/api/v1/devices/farm/none/confirm").status, 404);
    let removals = api.served.items("/api/v1/removals");
    assert_eq!((removals.len(), &removals[0]["device"], &removals[1]["count"]), (2, &"a".into(), &7.into()));
    assert_eq!(api.served.items("/api/v1/removals?cursor=1").len(), 1);
    assert_eq!(api.served.get("/api/v1/removals?cursor=x").status, 400);
}
