//! Server-sent events as a program meets them: each thing that happens is told once, also to who was away; what cannot be told
//! is said.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::{Value as Json, json};

use super::support::{Filled, U, complete, get, number, open};

const SOON: Duration = Duration::from_secs(60);
/// More than a test here waits for.
const TOLD_MAX: usize = 1_024;

/// One event, or, with an empty name, how far everything is told.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    name: String,
    id: String,
    data: Json,
}

/// A connection that is read by a thread of its own.
struct Stream {
    told: mpsc::Receiver<Told>,
    last: String,
}

impl Stream {
    fn open(api: &Filled, query: &str, last: Option<&str>) -> Self {
        let authorization = api.served.authorization();
        let mut headers = vec![("authorization", authorization.as_str())];
        headers.extend(last.map(|id| ("last-event-id", id)));
        let answer = open(&format!("{}/api/v1/events{query}", api.served.base), &headers);
        assert_eq!(answer.status().as_u16(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let lines = BufReader::new(answer.into_body().into_reader()).lines();
        let (sender, told) = mpsc::sync_channel(TOLD_MAX);
        std::thread::spawn(move || {
            let nothing = || Told { name: String::new(), id: String::new(), data: Json::Null };
            let mut now = nothing();
            for line in lines.map_while(Result::ok) {
                match line.split_once(": ") {
                    Some(("event", name)) => name.clone_into(&mut now.name),
                    Some(("id", id)) => id.clone_into(&mut now.id),
                    Some(("data", data)) => now.data = serde_json::from_str(data).unwrap(),
                    _ => {}
                }
                if line.is_empty() && sender.send(std::mem::replace(&mut now, nothing())).is_err() {
                    return;
                }
            }
        });
        Self { told, last: String::new() }
    }

    /// The next event.
    fn next(&mut self) -> Told {
        loop {
            let told = self.told.recv_timeout(SOON).expect("an event in time");
            self.last.clone_from(&told.id);
            if !told.name.is_empty() {
                return told;
            }
        }
    }

    fn take(&mut self, n: usize) -> Vec<Told> {
        (0..n).map(|_| self.next()).collect()
    }

    /// The next word of how far everything is told.
    fn beat(&mut self) -> String {
        let told = self.told.recv_timeout(SOON).expect("a sign of life");
        assert_eq!((told.name.as_str(), &told.data), ("", &Json::Null));
        self.last.clone_from(&told.id);
        told.id
    }

    /// That nothing comes: events of a commit are told well before a later one is.
    fn nothing_comes(&self) {
        let more = self.told.recv_timeout(Duration::from_millis(1_500));
        assert!(more.as_ref().map_or(true, |told| told.name.is_empty()), "{more:?}");
    }
}

fn short(told: &Told) -> (&str, &str, &str) {
    let text = |key: &str| told.data[key].as_str().unwrap_or("-");
    let what = match told.name.as_str() {
        "reading" => told.data["readings"][0]["at"].as_str().unwrap_or("-"),
        "gap" => text("event"),
        "freshness" => text("state"),
        "job" => text("outcome"),
        _ => "-",
    };
    (told.name.as_str(), told.data["device"].as_str().unwrap_or("-"), what)
}

/// A second connection of somebody else's, to put what takes an agent, or years, otherwise.
fn database(api: &Filled) -> Connection {
    let connection = Connection::open(api.served.folder().join("db")).unwrap();
    connection.busy_timeout(SOON).unwrap();
    connection
}

fn add_jobs(api: &Filled, n: i64) {
    let sql = "INSERT INTO job_history (no, device, why, asked_at, began_at, ended_at, outcome, readings)
        VALUES (?1, (SELECT id FROM devices WHERE name = 'a'), 4, 1, 2, 3, 1, 0)";
    for n in 0..n {
        database(api).execute(sql, [n]).unwrap();
    }
}

#[test]
fn what_happens_is_told_with_what_it_is_about() {
    let mut api = Filled::new();
    let mut stream = Stream::open(&api, "", None);
    stream.beat();
    let mut first = stream.take(2);
    first.sort_by_key(|told| told.data["device"].to_string());
    let expected = [("freshness", "a", "unknown"), ("freshness", "b", "unknown")];
    assert_eq!(first.iter().map(short).collect::<Vec<_>>(), expected);
    assert_eq!(first[0].data["was"], Json::Null);

    api.send(vec![number(0, 0, U, 1.5), number(0, 3, U, 2.5), complete(3)]);
    let told: BTreeMap<String, Json> =
        stream.take(3).into_iter().map(|told| (told.name, told.data)).collect();
    let latest = json!([{"series": "farm/a/u", "revision": 1, "unit": "V", "at": "2026-01-01T00:00:45.04Z",
        "value": 2.5, "quality": "good", "lent": false}]);
    assert_eq!(
        told["reading"],
        json!({"site": "farm", "device": "a", "commit": 2, "from": "2026-01-01T00:00:00.04Z",
        "to": "2026-01-01T00:00:45.04Z", "readings": latest, "has_more": true})
    );
    let gap = &told["gap"];
    assert_eq!(
        (&gap["gap"], &gap["event"], &gap["cause"]),
        (&json!(1), &json!("opened"), &json!("unexplained"))
    );
    assert_eq!((&gap["from"], &gap["to"]), (&json!("2026-01-01T00:00:15Z"), &json!("2026-01-01T00:00:45Z")));
    let fresh = &told["freshness"];
    assert_eq!(
        (&fresh["state"], &fresh["was"], &fresh["device"]),
        (&json!("stale"), &json!("unknown"), &json!("a"))
    );
    assert_eq!(fresh["last_reading_at"], "2026-01-01T00:00:45.04Z");

    add_jobs(&api, 1);
    api.send(vec![number(0, 1, U, 2.0), number(0, 2, U, 2.0)]);
    let told: Vec<Told> = stream.take(3);
    let mut names: Vec<_> = told.iter().map(short).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [("gap", "a", "filled"), ("job", "a", "done"), ("reading", "a", "2026-01-01T00:00:30.04Z")]
    );
}

#[test]
fn who_was_away_is_told_what_it_missed_and_nothing_twice() {
    let mut api = Filled::new();
    let mut stream = Stream::open(&api, "?kind=reading,gap", None);
    let begin = stream.beat();
    // Two devices in one commit: who goes between the two is told the second.
    api.send(vec![number(0, 0, U, 1.0), number(1, 0, U, 2.0)]);
    let both = stream.take(2);
    drop(stream);
    api.send(vec![number(0, 3, U, 3.0), complete(3)]);
    api.send(vec![number(1, 1, U, 4.0)]);
    let rest = [
        ("reading", "b", "2026-01-01T00:00:00.04Z"),
        ("reading", "a", "2026-01-01T00:00:45.04Z"),
        ("reading", "b", "2026-01-01T00:00:15.04Z"),
        ("gap", "a", "opened"),
    ];
    let after_first = Stream::open(&api, "?kind=reading,gap", Some(&both[0].id)).take(4);
    assert_eq!(after_first.iter().map(short).collect::<Vec<_>>(), rest);
    let mut again = Stream::open(&api, "?kind=reading,gap", Some(&both[1].id));
    assert_eq!(again.take(3), after_first[1..], "the same events under the same ids");
    again.nothing_comes();
    assert_eq!(Stream::open(&api, "?kind=reading,gap", Some(&begin)).take(5)[1..], after_first);
    // From each event on exactly what comes after it.
    for (n, told) in after_first.iter().enumerate() {
        let mut stream = Stream::open(&api, "?kind=reading,gap", Some(&told.id));
        stream.beat();
        assert_eq!(stream.take(3 - n), after_first[n + 1..]);
        stream.nothing_comes();
    }
}

/// The word of an alert's event, and of which alert.
fn became(told: &Told) -> (String, i64) {
    (told.data["event"].to_string(), told.data["alert"]["id"].as_i64().unwrap_or(-1))
}

#[test]
fn what_becomes_of_alerts_is_told_and_to_who_was_away_what_is_kept_of_it() {
    let mut api = Filled::new();
    api.send(vec![number(0, 0, U, 1.5)]);
    let mut stream = Stream::open(&api, "?kind=alert", None);
    let begin = stream.beat();
    let put = |sql: &str| database(&api).execute_batch(sql).unwrap();
    put("INSERT INTO alerts (kind, site, device, agent, detail, raised_at) VALUES
            (1, 1, 1, NULL, 'old', 0), (7, 1, NULL, 1, '80 % of its outbox', 0);
        INSERT INTO alert_events (alert, at, event, actor) VALUES (1, 0, 1, 'collector'), (2, 0, 1, 'collector')");
    // Whoever acknowledges wakes the streams; what was put here by hand is told then, too.
    assert_eq!(api.served.post("/api/v1/alerts/1/acknowledge").status, 200);
    let told = stream.take(3);
    let events: Vec<_> = told.iter().map(became).collect();
    let word = |word: &str| format!("\"{word}\"");
    assert_eq!(events, [(word("raised"), 1), (word("raised"), 2), (word("acknowledged"), 1)]);
    assert!(told.iter().all(|told| told.name == "alert"), "{told:?}");
    let seen = &told[2].data;
    assert_eq!((&seen["actor"], &seen["alert"]["state"]), (&json!("token test"), &json!("acknowledged")));
    assert_eq!((&seen["alert"]["kind"], &seen["alert"]["device"]), (&json!("stale"), &json!("a")));
    assert_eq!(told[1].data["alert"]["agent"], "gw");

    let mut again = Stream::open(&api, "?kind=alert", Some(&told[0].id));
    assert_eq!(again.take(2), told[1..], "the same events under the same ids");
    again.nothing_comes();
    let mut of_device = Stream::open(&api, "?kind=alert&site=farm&device=a", Some(&begin));
    let events: Vec<_> = of_device.take(2).iter().map(became).collect();
    assert_eq!(events, [(word("raised"), 1), (word("acknowledged"), 1)]);
    of_device.nothing_comes();

    // By their age alerts are removed with all that became of them, and none of their numbers comes again.
    put("DELETE FROM alert_events; DELETE FROM alerts");
    let lost = Stream::open(&api, "?kind=alert", Some(&begin)).next();
    let said = ["kind", "from", "to", "count"].map(|key| lost.data[key].clone());
    assert_eq!((lost.name.as_str(), said), ("lost", [json!("alert"), json!(1), json!(3), json!(3)]));
    let mut rest = Stream::open(&api, "?kind=alert", Some(&told[2].id));
    rest.beat();
    rest.nothing_comes();
}

#[test]
fn a_stream_tells_what_is_asked_for_and_no_more() {
    let mut api = Filled::new();
    let mut stream = Stream::open(&api, "?kind=reading,freshness&site=farm&device=b", None);
    stream.beat();
    assert_eq!(short(&stream.next()), ("freshness", "b", "unknown"));
    api.send(vec![number(0, 0, U, 1.0), complete(2)]);
    api.send(vec![number(1, 0, U, 2.0)]);
    let told = stream.take(2);
    let mut names: Vec<_> = told.iter().map(|told| (told.name.as_str(), &told.data["device"])).collect();
    names.sort_by_key(|(name, _)| *name);
    assert_eq!(names, [("freshness", &json!("b")), ("reading", &json!("b"))]);
    let mut nothing = Stream::open(&api, "?kind=gap&site=farm&device=a", None);
    nothing.beat();
    api.send(vec![number(1, 1, U, 2.0)]);
    nothing.nothing_comes();
}

#[test]
fn commits_are_told_as_they_come() {
    let mut api = Filled::new();
    let mut stream = Stream::open(&api, "?kind=commit", None);
    assert_eq!(stream.next().data, 1);
    api.send(vec![number(0, 0, U, 1.5)]);
    assert_eq!(stream.next().data, 2);
    assert_eq!(get(&format!("{}/api/v1/events", api.served.base), &[]).status, 401);
}

#[test]
fn who_has_no_token_any_more_is_told_nothing_more() {
    let mut api = Filled::new();
    let mut stream = Stream::open(&api, "?kind=reading", None);
    stream.beat();
    api.send(vec![number(0, 0, U, 1.5)]);
    assert_eq!(stream.next().name, "reading");
    assert_eq!(database(&api).execute("DELETE FROM tokens", []).unwrap(), 1);
    api.send(vec![number(0, 1, U, 1.5)]);
    let deadline = Instant::now() + SOON;
    loop {
        match stream.told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(told) => assert_eq!(told.name, "", "{told:?}"),
            Err(end) => break assert_eq!(end, mpsc::RecvTimeoutError::Disconnected, "the stream ends"),
        }
    }
}

#[test]
fn what_cannot_be_told_any_more_is_said_with_its_range() {
    let mut api = Filled::new();
    let mut stream = Stream::open(&api, "?kind=job", None);
    let begin = stream.beat();
    drop(stream);
    add_jobs(&api, 9);
    // The history keeps only so much.
    database(&api).execute("DELETE FROM job_history WHERE id <= 4", []).unwrap();
    let told = Stream::open(&api, "?kind=job", Some(&begin)).take(6);
    assert_eq!(told[0].name, "lost");
    let lost = |told: &Told| ["kind", "from", "to", "count"].map(|key| told.data[key].clone());
    assert_eq!(lost(&told[0]), [json!("job"), json!(1), json!(9), json!(4)]);
    assert!(told[1..].iter().all(|told| short(told) == ("job", "a", "done")));
    assert_eq!(told[5].data["id"], 9);

    // Another database's id: everything since may be lost, and what is now is told from now on.
    api.send(vec![number(0, 0, U, 1.5)]);
    let (_, rest) = begin.split_once('.').unwrap();
    let other = format!("abc.{rest}");
    let mut stream = Stream::open(&api, "?kind=reading,gap,freshness", Some(&other));
    let told = stream.take(2);
    assert_eq!(lost(&told[0]), [json!("reading"), json!(0), json!(2), Json::Null], "all that it ever wrote");
    assert_eq!(lost(&told[1])[0], "gap");
    let told = stream.take(2);
    assert!(told.iter().all(|told| told.name == "freshness"), "{told:?}");
    // Freshness of a watcher that is forgotten.
    let id = stream.last.clone();
    api.send(vec![number(1, 0, U, 1.5)]);
    let (head, _) = id.rsplit_once('.').unwrap();
    let (head, _) = head.rsplit_once('.').unwrap();
    let told = Stream::open(&api, "?kind=freshness", Some(&format!("{head}.77.5"))).take(3);
    assert_eq!((lost(&told[0])[0].clone(), told[1].name.as_str()), (json!("freshness"), "freshness"));

    for id in ["yesterday", "1.2.3", "abc.1._._.1.1._"] {
        let answer = api.served.get_with("/api/v1/events", &[("last-event-id", id)]);
        assert_eq!((answer.status, answer.header("content-type")), (400, "application/problem+json"), "{id}");
        assert!(answer.body.contains("Last-Event-ID"), "{}", answer.body);
    }
}

#[test]
fn who_reads_slowly_holds_nobody_up_and_is_told_all_of_it() {
    const COMMITS: usize = 400;
    let mut api = Filled::new();
    let authorization = api.served.authorization();
    let url = format!("{}/api/v1/events?kind=reading", api.served.base);
    // It reads nothing until everything is committed.
    let answer = open(&url, &[("authorization", authorization.as_str())]);
    for n in 0..COMMITS {
        api.send(vec![number(0, i64::try_from(n).unwrap(), U, 1.0)]);
    }
    let lines = BufReader::new(answer.into_body().into_reader()).lines().map_while(Result::ok);
    let data = lines.filter_map(|line| line.strip_prefix("data: ").map(str::to_owned));
    let commits: Vec<u64> = data
        .take(COMMITS)
        .map(|data| serde_json::from_str::<Json>(&data).unwrap()["commit"].as_u64().unwrap())
        .collect();
    assert!(commits.windows(2).all(|two| two[0] + 1 == two[1]), "{commits:?}");
}

#[test]
fn there_are_only_so_many_streams() {
    const STREAMS_MAX: usize = 256;
    let api = Filled::new();
    let authorization = api.served.authorization();
    let url = format!("{}/api/v1/events?kind=commit", api.served.base);
    let mut streams: Vec<_> =
        (0..STREAMS_MAX).map(|_| open(&url, &[("authorization", authorization.as_str())])).collect();
    assert!(streams.iter().all(|stream| stream.status().as_u16() == 200));
    let answer = api.served.get("/api/v1/events?kind=commit");
    assert_eq!((answer.status, answer.header("content-type")), (503, "application/problem+json"));
    streams.truncate(STREAMS_MAX / 2);
    let deadline = Instant::now() + SOON;
    while open(&url, &[("authorization", authorization.as_str())]).status().as_u16() != 200 {
        assert!(Instant::now() < deadline, "those that are gone leave room");
        std::thread::sleep(Duration::from_millis(50));
    }
}
