//! Calls to a source that answers as it is told, on a port of this machine.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use gapless_common::time::Timestamp;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::account::Accounts;
use super::describe::{Description, Whose};
use super::failure::Failure;
use super::fetch::Fetch as _;
use super::ground::{Ground, Process};
use super::http::{Api, HttpDevice};
use super::start::caller;
use crate::clock;
use crate::ingest::{Orders, Task};
use crate::jobs::budget::Urgency::{Asked, Score, Spare};
use crate::jobs::claims::Who;

const METERS: &str = include_str!("../../sources/half-hourly-meter.toml");

/// A source whose answers are status, headers and body, in order; the last one comes again and again.
struct Served {
    api: Arc<Api>,
    /// The requests that came, each with its head and body.
    asked: Arc<Mutex<Vec<String>>>,
    /// Where what is to be kept is.
    _folder: TempDir,
    /// Whoever hands orders in has a writer.
    _inbound: (mpsc::Sender<Task>, mpsc::Receiver<Task>),
}

/// A request, to its end; what there is of it where the peer closes before.
pub(super) fn request(stream: &mut TcpStream) -> String {
    let (mut text, mut bytes) = (String::new(), [0; 4_096]);
    loop {
        let count = stream.read(&mut bytes).unwrap();
        text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        let is_whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
            body.len() >= length.unwrap_or(0)
        });
        if count == 0 || is_whole {
            return text;
        }
    }
}

fn served(answers: Vec<(u16, &'static str, &'static str)>, more: &str) -> Served {
    served_with(answers, more, &[])
}

/// The same with other words in its description.
fn served_with(
    answers: Vec<(u16, &'static str, &'static str)>,
    more: &str,
    words: &[(&str, &str)],
) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    std::thread::spawn(move || {
        let last = answers.len() - 1;
        for (at, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            noted.lock().unwrap().push(request(&mut stream));
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
    let text = words.iter().fold(text, |text, (from, to)| text.replace(from, to));
    let description = Description::read(&text).unwrap();
    let (inbound, folder) = (mpsc::channel(100), tempfile::tempdir().unwrap());
    let database = folder.path().join("gapless.db");
    let ground: Arc<dyn Ground> = Arc::new(Process::new(&database, &Orders::to(&inbound.0)));
    let on = (database.as_path(), &ground);
    let caller = caller((Path::new("one.toml"), &description), &mut Accounts::default(), on).unwrap();
    Served { api: Arc::new(Api { description, caller }), asked, _folder: folder, _inbound: inbound }
}

impl Served {
    /// What it was asked: `T` for a token, and the token that each other question came with.
    fn tokens(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let token = |text: &String| match text.starts_with("POST /token ") {
            true => "T".to_owned(),
            false => {
                let found = text.lines().find_map(|line| line.strip_prefix("authorization: Bearer "));
                found.unwrap_or_default().to_owned()
            }
        };
        asked.iter().map(token).collect()
    }

    /// `+` an answer, `w` it waits by itself, `h` all of the account rest, `x` refused.
    fn ask(&self, asks: (Who, crate::jobs::budget::Urgency)) -> char {
        match self.api.caller.get(&self.api.description.url, asks) {
            Ok(_) => '+',
            Err(Failure::Spent(_) | Failure::Rests(_)) => 'w',
            Err(Failure::Hold(_) | Failure::TokenRests { .. }) => 'h',
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

#[test]
fn a_probe_that_is_answered_says_nothing_of_the_question_that_is_refused() {
    let (yes, no) = ((200, "", "{\"changed\": 1}"), (429, "", "no"));
    let source =
        served(vec![no, yes, no, yes, no, yes], "[probe]\nurl = \"http://127.0.0.1:9400/{utility}/changed\"");
    let asked = source.api.description.asked().unwrap().remove(0);
    let mut device = HttpDevice::new(&source.api, asked);
    let free = || super::account::locked(source.api.caller.account()).hold = Timestamp(0);
    let fetch = |device: &mut HttpDevice| {
        free();
        device.fetch(Timestamp(0), Timestamp(1_800_000)).unwrap_err()
    };
    for _ in 0..2 {
        assert!(matches!(fetch(&mut device), Failure::Hold(_)), "all of the account may be meant");
        free();
        device.probe().unwrap();
    }
    assert!(matches!(fetch(&mut device), Failure::Rests(_)));
    // Nor is it asked whether there is anything that could not be had.
    assert!(matches!(device.probe(), Err(Failure::Rests(_))));
    assert_eq!(source.asked.lock().unwrap().len(), 5);
}

#[test]
fn a_probe_that_is_always_refused_keeps_no_row_from_being_asked_for() {
    let source = served(vec![(429, "", "no")], "[probe]\nurl = \"http://127.0.0.1:9400/{utility}/changed\"");
    let asked = source.api.description.asked().unwrap().remove(0);
    let mut device = HttpDevice::new(&source.api, asked);
    let free = || super::account::locked(source.api.caller.account()).hold = Timestamp(0);
    for _ in 0..2 {
        assert!(matches!(device.probe(), Err(Failure::Hold(_))), "all of the account may be meant");
        free();
    }
    // Who is stale goes on without it, at once and as long as it rests.
    for _ in 0..2 {
        assert!(matches!(device.probe(), Err(Failure::Spent(until)) if until > clock::now()));
    }
    assert_eq!(source.asked.lock().unwrap().len(), 3);
}

const OAUTH: &str = "withdrawn_of = \"account\"
[auth.oauth2]
token_url = \"http://127.0.0.1:9400/token\"
client_id = \"gapless\"
client_secret = \"s3cret\"
refresh_token = \"r3fresh\"";
const OLD: (u16, &str, &str) = (200, "", "{\"access_token\": \"old\", \"expires_in\": 3600}");
const NEW: (u16, &str, &str) =
    (200, "", "{\"access_token\": \"new\", \"expires_in\": 3600, \"refresh_token\": \"n3xt\"}");

#[test]
fn a_token_serves_all_of_an_account_and_a_refused_call_is_made_once_more_with_another_one() {
    let (yes, no) = ((200, "", "{}"), (401, "", "no such token"));
    let source = served(vec![OLD, yes, yes, no, NEW, yes, no, OLD, no, no], OAUTH);
    let who = [source.api.caller.who(), source.api.caller.who()];
    for (who, expected) in
        [(0, '+'), (1, '+'), (0, '+'), (1, 'x'), (0, 'x')].map(|(at, told)| (who[at], told))
    {
        assert_eq!(source.ask((who, Asked)), expected);
    }
    // The second time it was of no use, and is not tried with the third.
    assert_eq!(source.tokens(), ["T", "old", "old", "old", "T", "new", "new", "T", "old", "old"]);
    let asked = source.asked.lock().unwrap();
    let (head, body) = asked[4].split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "grant_type=refresh_token&refresh_token=r3fresh");
    assert!(
        head.contains("authorization: Basic ")
            && head.contains("content-type: application/x-www-form-urlencoded"),
        "{head}"
    );
    assert!(asked[7].ends_with("refresh_token=n3xt"), "the one that came with the token: {}", asked[7]);
}

#[test]
fn a_second_refusal_is_what_one_without_a_token_is() {
    let no = (401, "", "gone");
    for (status, is_withdrawn) in [(401, true), (403, false)] {
        let source = served_with(
            vec![OLD, no, NEW, no],
            OAUTH,
            &[("withdrawn = [403]", &format!("withdrawn = [{status}]"))],
        );
        let told = source.api.caller.get(&source.api.description.url, (source.api.caller.who(), Asked));
        assert_eq!(matches!(told, Err(Failure::Withdrawn { .. })), is_withdrawn, "{told:?}");
        assert_eq!(matches!(told, Err(Failure::Status(401, _))), !is_withdrawn, "{told:?}");
        assert_eq!(source.tokens(), ["T", "old", "T", "new"]);
    }
}

#[test]
fn what_was_proven_of_one_token_is_not_said_of_another_one_and_withdraws_nothing() {
    let (yes, no) = ((200, "", "{}"), (401, "", "gone"));
    let source =
        served_with(vec![OLD, no, NEW, no, no, yes], OAUTH, &[("withdrawn = [403]", "withdrawn = [401]")]);
    let asks = (source.api.caller.who(), Asked);
    let get = || source.api.caller.get(&source.api.description.url, asks);
    assert!(matches!(get(), Err(Failure::Withdrawn { .. })), "another one was tried");
    // Who shares it is refused with it, too: another one is not tried, and nothing is over for that.
    assert!(matches!(get(), Err(Failure::Status(401, _))));
    assert!(get().is_ok());
    assert_eq!(source.tokens(), ["T", "old", "T", "new", "new", "new"]);
}

#[test]
fn an_endpoint_that_gives_no_token_is_left_alone_and_what_it_says_is_told_without_secrets() {
    // The last of them is the client's own header.
    let denied = "{\"error\": \"invalid_grant\", \"error_description\": \"r3fresh of s3cret is over for Z2FwbGVzczpzM2NyZXQ=\"}";
    let source = served(vec![(400, "", denied)], OAUTH);
    let asks = (source.api.caller.who(), Asked);
    let why = source.api.caller.get(&source.api.description.url, asks).unwrap_err();
    let text = why.to_string();
    assert!(
        matches!(why, Failure::NoToken { .. })
            && text.contains("/token: HTTP 400: invalid_grant: … of … is over for …"),
        "{text}"
    );
    for _ in 0..3 {
        assert_eq!(source.ask(asks), 'h');
    }
    assert_eq!(source.tokens(), ["T"]);
    // Where a refusal means that access has ended, this is one; whatever else is answered is tried again.
    let rows = [
        (400, "", denied, true),
        (401, "", denied, true),
        (503, "", denied, false),
        (200, "", denied, false),
        (200, "", "<html>", false),
        (302, "Location: /login\r\n", "", false),
        (404, "", "<html>", false),
        (401, "", "<html>", false),
    ];
    for (status, headers, body, is_withdrawn) in rows {
        let source =
            served_with(vec![(status, headers, body)], OAUTH, &[("withdrawn = [403]", "withdrawn = [401]")]);
        let told = source.api.caller.get(&source.api.description.url, (source.api.caller.who(), Asked));
        assert_eq!(
            matches!(told, Err(Failure::Withdrawn { whose: Whose::Account, .. })),
            is_withdrawn,
            "{told:?}"
        );
        assert_eq!(matches!(told, Err(Failure::NoToken { .. })), !is_withdrawn, "{told:?}");
    }
}

#[test]
fn what_a_source_repeats_of_who_asks_is_not_told() {
    let basic = "basic = { username = \"u\", password = \"p4ss\" }";
    let more = format!("auth = {{ query = {{ key = \"k3+/y=\" }}, {basic} }}");
    let said = "k3+/y= and k3%2B%2Fy%3D and p4ss and dTpwNHNz and h3ader and more";
    let headers = ("\"x-api-key\" = \"secret\"", "\"x-api-key\" = \"Key h3ader\"");
    let source = served_with(vec![(500, "", said)], &more, &[headers]);
    let why =
        source.api.caller.get(&source.api.description.url, (source.api.caller.who(), Asked)).unwrap_err();
    assert_eq!(why.to_string(), "the source answers HTTP 500: … and … and … and … and … and more");
    let asked = source.asked.lock().unwrap();
    let sent = ["&key=k3%2B%2Fy%3D ", "authorization: Basic dTpwNHNz", "x-api-key: Key h3ader"];
    assert!(sent.iter().all(|part| asked[0].contains(part)), "{}", asked[0]);
}
