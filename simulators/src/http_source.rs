//! The API of a half-hourly electricity and gas meter: `GET /{utility}/consumption/1?start=YYYYMMDDHHMM&end=YYYYMMDDHHMM`,
//! energy per half hour under the time at which it ends, in UTC; windows of 90 days at most; half hours that it has not;
//! values that mean *invalid*; too many calls; consent withdrawn.
//!
//! Does not simulate: TLS, summer time, tariffs, keep-alive (each connection has one answer).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use gapless_common::time::Timestamp;

use crate::clock;

/// Distance of the values.
pub const HALF_HOUR_MS: i64 = 1_800_000;
/// The longest window.
pub const WINDOW_MS_MAX: i64 = 90 * 86_400_000;
/// The value that means *invalid*.
pub const INVALID: u32 = 16_777_215;
/// Longest head of a request.
const HEAD_BYTES_MAX: usize = 8 << 10;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A call that was answered, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `electricity` or `gas`.
    pub utility: String,
    /// Begin of the window.
    pub from: Timestamp,
    /// End of the window.
    pub to: Timestamp,
    /// The HTTP status of the answer.
    pub status: u16,
}

/// What the API has, and what is wrong with it.
#[derive(Debug)]
pub struct Meter {
    /// The key that it wants in `x-api-key`.
    pub key: String,
    /// The first half hour that it has.
    pub oldest: Timestamp,
    /// How long a value takes to arrive there, in ms.
    pub lag_ms: i64,
    /// Half hours that it has not, by utility.
    pub holes: BTreeMap<String, BTreeSet<Timestamp>>,
    /// Half hours with the value that means *invalid*.
    pub invalid: BTreeSet<Timestamp>,
    /// Calls that are answered with 429 and `Retry-After: 1` before any other.
    pub too_many: u32,
    /// Whether consent is withdrawn.
    pub withdrawn: bool,
    /// Every call.
    pub calls: Vec<Call>,
}

impl Meter {
    /// One that has all values from `oldest` on.
    #[must_use]
    pub fn new(key: &str, oldest: Timestamp) -> Self {
        Self {
            key: key.to_owned(),
            oldest,
            lag_ms: 0,
            holes: BTreeMap::new(),
            invalid: BTreeSet::new(),
            too_many: 0,
            withdrawn: false,
            calls: Vec::new(),
        }
    }

    /// The true value of a half hour.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
    pub fn value(utility: &str, at: Timestamp) -> f64 {
        let n = at.0.div_euclid(HALF_HOUR_MS);
        let (base, most) = if utility == "gas" { (0.0, 97) } else { (0.125, 89) };
        base + n.rem_euclid(most) as f64 / 64.0
    }

    fn answer(&mut self, target: &str, key: Option<&str>, now: Timestamp) -> (u16, String) {
        let Some((utility, from, to)) = understood(target) else {
            return (404, r#"{"error": "no such resource"}"#.to_owned());
        };
        let (status, body) = self.answer_to(&utility, (from, to), key, now);
        self.calls.push(Call { utility, from, to, status });
        (status, body)
    }

    fn answer_to(
        &mut self,
        utility: &str,
        (from, to): (Timestamp, Timestamp),
        key: Option<&str>,
        now: Timestamp,
    ) -> (u16, String) {
        let refused = |status, why: &str| (status, serde_json::json!({"error": why}).to_string());
        if key != Some(self.key.as_str()) {
            return refused(401, "no such key");
        }
        if self.withdrawn {
            return refused(403, "the occupant has changed");
        }
        if self.too_many > 0 {
            self.too_many -= 1;
            return refused(429, "too many calls");
        }
        if from > to || to.since_ms(from) > WINDOW_MS_MAX {
            return refused(400, "90 days at most");
        }
        let until = to.min(now.plus_ms(-self.lag_ms));
        let first = from.max(self.oldest).0;
        let first = first + (-first).rem_euclid(HALF_HOUR_MS);
        let mut values = Vec::new();
        let instants =
            (0..).map(|n| Timestamp(first + n * HALF_HOUR_MS)).take_while(|at| *at < to && *at <= until);
        for at in instants {
            if self.holes.get(utility).is_some_and(|holes| holes.contains(&at)) {
                continue;
            }
            let value = match self.invalid.contains(&at) {
                true => serde_json::json!(INVALID),
                false => serde_json::json!(Self::value(utility, at)),
            };
            values.push(serde_json::json!({"timestamp": written(at), "value": value}));
        }
        let range = serde_json::json!({"start": written(self.oldest), "end": written(now)});
        (200, serde_json::json!({"availableCacheRange": range, "values": values}).to_string())
    }
}

/// `2026-01-01 00:30`
fn written(at: Timestamp) -> String {
    let text = at.to_string();
    text.get(..16).unwrap_or(&text).replace('T', " ")
}

/// `202601010030`
fn instant(text: &str) -> Option<Timestamp> {
    let part = |range: std::ops::Range<usize>| text.get(range);
    let (date, time) = ((part(0..4)?, part(4..6)?, part(6..8)?), (part(8..10)?, part(10..12)?));
    format!("{}-{}-{}T{}:{}:00Z", date.0, date.1, date.2, time.0, time.1).parse().ok()
}

fn understood(target: &str) -> Option<(String, Timestamp, Timestamp)> {
    let (path, query) = target.split_once('?')?;
    let utility = path.strip_prefix('/')?.strip_suffix("/consumption/1")?;
    let field = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    Some((utility.to_owned(), instant(field("start")?)?, instant(field("end")?)?))
}

/// The API on a port of this machine; ends when it is dropped.
#[derive(Debug)]
pub struct MeterServer {
    meter: Arc<Mutex<Meter>>,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MeterServer {
    /// Serves a meter on a free port.
    ///
    /// # Errors
    /// Where nothing can be listened on.
    pub fn start(meter: Meter) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let (address, stop) = (listener.local_addr()?, Arc::new(AtomicBool::new(false)));
        let meter = Arc::new(Mutex::new(meter));
        let (asked, served) = (Arc::clone(&stop), Arc::clone(&meter));
        let serve = move || {
            while !asked.load(Ordering::Relaxed) {
                match listener.accept() {
                    // Who has gone meanwhile needs no answer.
                    Ok((stream, _)) => drop(serve_one(stream, &served)),
                    Err(_) => std::thread::sleep(LOOK_EVERY),
                }
            }
        };
        let thread = std::thread::Builder::new().name("sim-meter".into()).spawn(serve)?;
        Ok(Self { meter, address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The meter, to look at it or to change it.
    pub fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for MeterServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

fn serve_one(mut stream: TcpStream, meter: &Mutex<Meter>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut head, mut byte) = (Vec::new(), [0; 512]);
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let count = stream.read(&mut byte)?;
        if count == 0 || head.len() > HEAD_BYTES_MAX {
            return Ok(());
        }
        head.extend_from_slice(&byte[..count]);
    }
    let head = String::from_utf8_lossy(&head);
    let target = head.split(' ').nth(1).unwrap_or("/");
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("x-api-key").then(|| value.trim())
    });
    let now = Timestamp(clock::now().wall_ms);
    let (status, body) = meter.lock().unwrap_or_else(PoisonError::into_inner).answer(target, key, now);
    let retry = if status == 429 { "Retry-After: 1\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\n{retry}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_as_the_api_does() {
        let oldest: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut meter = Meter::new("k", oldest);
        let now = oldest.plus_ms(86_400_000);
        let ask = |meter: &mut Meter, key, end| {
            let target = format!("/gas/consumption/1?start=202512310000&end={end}");
            meter.answer(&target, Some(key), now)
        };
        let (status, body) = ask(&mut meter, "k", "202601010100");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, body["values"].as_array().unwrap().len()), (200, 2));
        assert_eq!(body["values"][1]["timestamp"], "2026-01-01 00:30");
        assert_eq!(ask(&mut meter, "other", "202601010100").0, 401);
        assert_eq!(ask(&mut meter, "k", "202604010000").0, 400);
        meter.too_many = 1;
        assert_eq!(ask(&mut meter, "k", "202601010100").0, 429);
        meter.withdrawn = true;
        assert_eq!(ask(&mut meter, "k", "202601010100").0, 403);
        assert_eq!(meter.calls.len(), 5);
    }
}
