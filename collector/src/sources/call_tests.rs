//! Calls to a source that answers as it is told, on a port of this machine.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;

use gapless_common::time::Timestamp;
use tokio::sync::mpsc;

use super::account::{Accounts, Budget};
use super::call::Caller;
use super::describe::Description;
use super::failure::Failure;
use super::fetch::Fetch as _;
use super::http::{Api, HttpDevice};
use crate::clock;
use crate::ingest::{Orders, Task};
use crate::jobs::budget::Urgency::{Asked, Score, Spare};
use crate::jobs::claims::Who;

const METERS: &str = include_str!("../../sources/half-hourly-meter.toml");

/// A source whose answers are status, headers and body, in order; the last one comes again and again.
struct Served {
    api: Arc<Api>,
    /// Whoever hands orders in has a writer.
    _inbound: (mpsc::Sender<Task>, mpsc::Receiver<Task>),
}

fn served(answers: Vec<(u16, &'static str, &'static str)>, more: &str) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let last = answers.len() - 1;
        for (at, stream) in listener.incoming().enumerate() {
            let (mut stream, mut head) = (stream.unwrap(), [0; 4_096]);
            let _ = stream.read(&mut head).unwrap();
            let (status, headers, body) = answers[at.min(last)];
            let length = body.len();
            let text = format!(
                "HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            stream.write_all(text.as_bytes()).unwrap();
        }
    });
    // What is at the top of a description comes before its first table.
    let text =
        METERS.replacen("[answer]", &format!("{more}\n[answer]"), 1).replace("127.0.0.1:9400", &address);
    let description = Description::read(&text).unwrap();
    let inbound = mpsc::channel(100);
    let budget = Budget { database: "/nowhere".into(), orders: Orders::to(&inbound.0) };
    let account = Accounts::default().of(&description);
    let caller = Caller::new(&description, Vec::new(), account, budget);
    Served { api: Arc::new(Api { description, caller }), _inbound: inbound }
}

impl Served {
    /// `+` an answer, `w` it waits by itself, `h` all of the account rest, `x` refused.
    fn ask(&self, asks: (Who, crate::jobs::budget::Urgency)) -> char {
        match self.api.caller.get(&self.api.description.url, asks) {
            Ok(_) => '+',
            Err(Failure::Spent(_) | Failure::Rests(_)) => 'w',
            Err(Failure::Hold(_)) => 'h',
            Err(_) => 'x',
        }
    }
}

fn left(headers: &[&'static str]) -> Vec<(u16, &'static str, &'static str)> {
    headers.iter().map(|headers| (200, *headers, "{}")).collect()
}

#[test]
fn the_less_urgent_waits_as_the_source_says_that_its_calls_run_out() {
    let answers = left(&[
        "X-RateLimit-Limit: 10\r\nX-RateLimit-Remaining: 6\r\nX-RateLimit-Reset: 60\r\n",
        "X-RateLimit-Limit: 10\r\nX-RateLimit-Remaining: 5\r\nX-RateLimit-Reset: 60\r\n",
        "X-RateLimit-Limit: 10\r\nX-RateLimit-Remaining: 3\r\nX-RateLimit-Reset: 60\r\n",
        "X-RateLimit-Limit: 10\r\nX-RateLimit-Remaining: 1\r\nX-RateLimit-Reset: 60\r\n",
        "X-RateLimit-Limit: 10\r\nX-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 60\r\n",
    ]);
    let source = served(answers, "");
    let who = [0, 1, 2, 3].map(|_| source.api.caller.who());
    // Who asks, how urgently, and what comes of it. Before the first answer nothing is known.
    let rows = [
        (who[0], Spare, '+'),
        (who[0], Spare, '+'),
        (who[0], Spare, 'w'),
        (who[1], Score(0.5), '+'),
        (who[1], Score(0.5), 'w'),
        (who[2], Score(1.5), '+'),
        (who[2], Score(1.5), 'w'),
        (who[3], Asked, '+'),
        (who[3], Asked, 'h'),
        (who[0], Spare, 'h'),
    ];
    for (at, (who, urgency, expected)) in rows.into_iter().enumerate() {
        assert_eq!(source.ask((who, urgency)), expected, "{at}: {urgency:?}");
    }
}

#[test]
fn a_source_that_says_that_no_call_is_left_rests_until_it_says_that_there_are_more() {
    let rows = [
        ("X-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 120\r\n", 120_000),
        ("X-RateLimit-Remaining: 0\r\n", 60_000),
        ("X-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 0\r\n", 5_000),
    ];
    for (headers, rests_ms) in rows {
        let source = served(left(&[headers]), "");
        let who = source.api.caller.who();
        let before = clock::now();
        assert_eq!(source.ask((who, Asked)), '+', "{headers}");
        match source.api.caller.get(&source.api.description.url, (who, Asked)) {
            Err(Failure::Hold(until)) => {
                let ms = until.since_ms(before);
                assert!((rests_ms..rests_ms + 5_000).contains(&ms), "{headers}: {ms}");
            }
            other => panic!("{headers}: {other:?}"),
        }
    }
}

#[test]
fn what_is_always_refused_as_too_many_rests_by_itself_after_some_times() {
    // The first one's questions are always too many; without a word for how long.
    let source = served(vec![(429, "", "no"), (429, "", "no"), (429, "", "no"), (200, "", "{}")], "");
    let who = [source.api.caller.who(), source.api.caller.who()];
    let free = || super::account::locked(source.api.caller.account()).hold = Timestamp(0);
    for expected in ['h', 'h', 'w'] {
        assert_eq!(source.ask((who[0], Asked)), expected);
        if expected == 'h' {
            assert_eq!(source.ask((who[1], Asked)), 'h', "the account may be meant");
            free();
        }
    }
    assert_eq!(source.ask((who[0], Asked)), 'w');
    assert_eq!(source.ask((who[1], Asked)), '+', "the others go on");
}

#[test]
fn without_a_path_a_probe_tells_another_word_for_another_answer() {
    let body = "{\"changed\": 1, \"more\": \"than a revision\"}";
    let answers = vec![(200, "", body), (200, "", body), (200, "", "{\"changed\": 2}")];
    let source = served(answers, "[probe]\nurl = \"http://127.0.0.1:9400/{utility}/changed\"");
    let asked = source.api.description.asked().unwrap().remove(0);
    let mut device = HttpDevice::new(&source.api, asked);
    let words = [(); 3].map(|()| device.probe().unwrap().unwrap());
    assert!(words[0] == words[1] && words[1] != words[2], "{words:?}");
    assert!(words.iter().all(|word| word.len() == 64), "a hash, however long the answer is: {words:?}");
}
