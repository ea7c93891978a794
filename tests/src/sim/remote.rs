//! What the collector's sources stand on in the simulation: the clocks of the run, the way to the simulated collector, and remote
//! APIs, which are the simulators' API of meters called without a socket. Each call is noted with its instant and its answer.
//!
//! A turn of a source is carried out at one instant of the run and takes as long as its calls do: what it hands to the writer, and
//! what it has written down, happens at its own instant, unless the collector is killed before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gapless_collector::ingest::Inbound;
use gapless_collector::sources::{Ground, Http, Request, Response};
use gapless_common::time::Timestamp;
use gapless_simulators::remote::meter::Meter;
use gapless_simulators::remote::{self as simulated, Remote as _};

use super::clock::truth;
use super::rng::Rng;

/// The key that the APIs want, as the shipped description has it.
const KEY: &str = "secret";
/// The two meters of an API.
pub const UTILITIES: [&str; 2] = ["electricity", "gas"];

/// A call as the API saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// To which API.
    pub api: usize,
    /// For which of its meters.
    pub utility: String,
    /// Begin and end of the window.
    pub window: (Timestamp, Timestamp),
    /// When it was made, in ms of the run.
    pub at_ms: u64,
    /// When it was answered.
    pub answered_ms: u64,
    /// In which turn.
    pub turn: u64,
    /// In which life of the collector.
    pub start: u64,
    /// The status of the answer; `None` where there was none.
    pub status: Option<u16>,
    /// For how long the API wants to be left alone after it, in ms.
    pub rest_ms: Option<u64>,
    /// What it told: instants and values, as their bits.
    pub rows: BTreeMap<i64, u64>,
}

impl Call {
    /// Whether it was answered with all that there was, and not with what is of this instant.
    #[must_use]
    pub fn lacks(&self, at: i64) -> bool {
        let is_in = self.window.0.0 <= at && at < self.window.1.0;
        self.status == Some(200) && is_in && !self.rows.contains_key(&at)
    }
}

/// What a source has the writer do.
#[derive(Debug, Clone)]
pub enum Handed {
    /// Take a message in.
    Message(Inbound),
    /// Write down that a call is made.
    Called {
        /// Of which account.
        account: String,
        /// When, by the collector's clock.
        at: Timestamp,
        /// Calls before that count no more.
        since: Timestamp,
    },
}

/// An API, and what is wrong with it.
#[derive(Debug)]
pub struct Api {
    /// What it has.
    pub meter: Meter,
    /// It gives no answer until then, in ms of the run.
    pub away_until_ms: u64,
    /// It wants no calls until then.
    pub too_many_until_ms: u64,
    /// It answers with a fault of its own until then.
    pub fails_until_ms: u64,
    /// Its answers are empty until then, by utility.
    pub empty_until_ms: BTreeMap<String, u64>,
    /// It cannot reach a meter until then.
    pub unreachable_until_ms: BTreeMap<String, u64>,
}

impl Api {
    /// One that has all values from `oldest` on, each so long after its time.
    #[must_use]
    pub fn new(oldest: Timestamp, interval_ms: i64, lag_ms: i64) -> Self {
        let mut meter = Meter::new(KEY, oldest);
        (meter.interval_ms, meter.lag_ms) = (interval_ms, lag_ms);
        Self {
            meter,
            away_until_ms: 0,
            too_many_until_ms: 0,
            fails_until_ms: 0,
            empty_until_ms: BTreeMap::new(),
            unreachable_until_ms: BTreeMap::new(),
        }
    }

    /// Nothing is wrong with it any more; what it gives late, has put right or withdrawn stays so.
    pub fn make_good(&mut self) {
        (self.away_until_ms, self.too_many_until_ms, self.fails_until_ms) = (0, 0, 0);
        self.empty_until_ms.clear();
        self.unreachable_until_ms.clear();
    }

    /// Status and body at `at_ms`, and for how long it wants to be left alone.
    fn answer(&mut self, target: &str, head: &str, at_ms: u64, rng: &mut Rng) -> (u16, String, Option<u64>) {
        if at_ms < self.too_many_until_ms {
            return (429, "too many calls".to_owned(), Some(rng.within(6, 240) * 1_000));
        }
        if at_ms < self.fails_until_ms {
            let status = *rng.pick(&[500, 500, 502, 503]);
            return (status, "a fault".to_owned(), None);
        }
        let during = |until: &BTreeMap<String, u64>| {
            until
                .iter()
                .filter(|(_, until_ms)| at_ms < **until_ms)
                .map(|(utility, _)| utility.clone())
                .collect()
        };
        self.meter.empty = during(&self.empty_until_ms);
        self.meter.unreachable = during(&self.unreachable_until_ms);
        let request = simulated::Request { target, head, body: "" };
        let (status, body) = self.meter.answer(&request, truth(at_ms));
        (status, body, None)
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct SimGround {
    base: Instant,
    state: Mutex<State>,
}

/// What a turn goes by, and what came of it.
#[derive(Debug)]
pub struct State {
    /// The instant, in ms of the run: ahead of it while a turn is carried out.
    pub now_ms: u64,
    /// How far the collector's clock is ahead of the truth, in ms.
    pub ahead_ms: i64,
    /// The collector can write nothing down.
    pub is_full: bool,
    /// In which life of the collector.
    pub start: u64,
    /// In which turn.
    pub turn: u64,
    /// The calls that the collector's database has, each with its account.
    pub written: Vec<(String, Timestamp)>,
    /// The collector is killed once so many more calls were answered.
    pub dies_after: Option<u64>,
    /// When it was, within the turn.
    pub died_ms: Option<u64>,
    /// What is handed to the writer, and when.
    pub handed: Vec<(u64, Handed)>,
    /// Each call that was made.
    pub calls: Vec<Call>,
    /// The APIs.
    pub apis: Vec<Api>,
    rng: Rng,
}

impl SimGround {
    /// Over these APIs.
    #[must_use]
    pub fn new(apis: Vec<Api>, rng: Rng) -> Self {
        let state = State {
            now_ms: 0,
            ahead_ms: 0,
            is_full: false,
            start: 0,
            turn: 0,
            written: Vec::new(),
            dies_after: None,
            died_ms: None,
            handed: Vec::new(),
            calls: Vec::new(),
            apis,
            rng,
        };
        Self { base: Instant::now(), state: Mutex::new(state) }
    }

    /// What it is like at the moment.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The collector was killed at this instant of the run: what was still to happen does not.
    pub fn take_back(&mut self, at_ms: u64) {
        self.calls.retain(|call| call.at_ms < at_ms);
        self.handed.clear();
    }

    fn make(&mut self, url: &str, head: &str, timeout_ms: u64) -> Result<Response, String> {
        if self.died_ms.is_some() {
            return Err("the collector was killed".to_owned());
        }
        let mut call = self.understood(url).ok_or_else(|| format!("nobody is at {url}"))?;
        let State { apis, rng, now_ms, .. } = self;
        let api = &mut apis[call.api];
        // Mostly at once, now and then so slowly that the turn is over after it.
        let takes_ms = if rng.one_in(12) { rng.within(2_000, 9_000) } else { rng.within(20, 400) };
        let is_silent = *now_ms + takes_ms < api.away_until_ms;
        let takes_ms = if is_silent && rng.one_in(3) { timeout_ms } else { takes_ms };
        *now_ms += takes_ms;
        let answer = (!is_silent).then(|| {
            let target = url.splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap_or_default();
            api.answer(&target, head, *now_ms, rng)
        });
        call.answered_ms = *now_ms;
        if let Some((status, body, rest_ms)) = &answer {
            (call.status, call.rest_ms) = (Some(*status), *rest_ms);
            call.rows = if *status == 200 { rows(body) } else { BTreeMap::new() };
        }
        tracing::debug!(?call, "asks");
        self.calls.push(call);
        self.dies_after = self.dies_after.and_then(|left| left.checked_sub(1));
        if self.dies_after == Some(0) {
            (self.dies_after, self.died_ms) = (None, Some(self.now_ms));
        }
        let (status, body, rest_ms) = answer.ok_or("connection refused")?;
        let rest = rest_ms.map(|ms| ("retry-after".to_owned(), (ms / 1_000).to_string()));
        Ok(Response { status, headers: rest.into_iter().collect(), body: Ok(body) })
    }

    /// `http://apiN/UTILITY/consumption/1?start=…&end=…`
    fn understood(&self, url: &str) -> Option<Call> {
        let (api, path) = url.strip_prefix("http://api")?.split_once('/')?;
        let utility = path.split_once('/')?.0.to_owned();
        let request = simulated::Request { target: url, head: "", body: "" };
        let at = |name: &str| {
            let text = request.field(name)?;
            let part = |from: usize, to: usize| text.get(from..to);
            let (date, time) = ((part(0, 4)?, part(4, 6)?, part(6, 8)?), (part(8, 10)?, part(10, 12)?));
            format!("{}-{}-{}T{}:{}:00Z", date.0, date.1, date.2, time.0, time.1).parse().ok()
        };
        let api = api.parse().ok().filter(|api| *api < self.apis.len())?;
        let (window, at_ms) = ((at("start")?, at("end")?), self.now_ms);
        let (turn, start) = (self.turn, self.start);
        let rows = BTreeMap::new();
        Some(Call {
            api,
            utility,
            window,
            at_ms,
            answered_ms: at_ms,
            turn,
            start,
            status: None,
            rest_ms: None,
            rows,
        })
    }
}

/// The rows of an answer.
fn rows(body: &str) -> BTreeMap<i64, u64> {
    let json: serde_json::Value = serde_json::from_str(body).expect("the simulated API answers with JSON");
    let row = |row: &serde_json::Value| {
        let at = row["timestamp"].as_str()?.replace(' ', "T");
        let at: Timestamp = format!("{at}:00Z").parse().ok()?;
        Some((at.0, row["value"].as_f64()?.to_bits()))
    };
    json["values"].as_array().into_iter().flatten().filter_map(row).collect()
}

/// What the calls of one source go over.
struct Line {
    ground: Arc<SimGround>,
    timeout_ms: u64,
}

impl Http for Line {
    fn exchange(&self, request: &Request<'_>) -> Result<Response, String> {
        let head: String = request.headers.iter().map(|(name, text)| format!("\r\n{name}: {text}")).collect();
        self.ground.state().make(request.url, &head, self.timeout_ms)
    }
}

impl Ground for SimGround {
    fn now(&self) -> Timestamp {
        let state = self.state();
        truth(state.now_ms).plus_ms(state.ahead_ms)
    }

    fn instant(&self) -> Instant {
        self.base + Duration::from_millis(self.state().now_ms)
    }

    fn random(&self) -> Result<u64, String> {
        Ok(self.state().rng.draw())
    }

    fn http(self: Arc<Self>, timeout: Duration) -> Arc<dyn Http> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        Arc::new(Line { ground: self, timeout_ms })
    }

    fn hand_in(&self, message: Inbound) -> bool {
        let mut state = self.state();
        let (at_ms, lives) = (state.now_ms, state.died_ms.is_none());
        if lives {
            state.handed.push((at_ms, Handed::Message(message)));
        }
        lives
    }

    fn called(&self, account: &str, at: Timestamp, since: Timestamp) -> Option<bool> {
        let mut state = self.state();
        if state.died_ms.is_some() {
            return None;
        }
        let (at_ms, account) = (state.now_ms, account.to_owned());
        if !state.is_full {
            state.handed.push((at_ms, Handed::Called { account, at, since }));
        }
        Some(!state.is_full)
    }

    fn calls(&self, account: &str, since: Timestamp) -> rusqlite::Result<Vec<Timestamp>> {
        let state = self.state();
        let own = state.written.iter().filter(|(of, at)| of == account && *at >= since);
        Ok(own.map(|(_, at)| *at).collect())
    }
}
