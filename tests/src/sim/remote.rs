//! What the collector's sources stand on in the simulation: the clocks of the run, the way to the simulated collector, and calls to
//! remote APIs (`api`), made without a socket. Each call is noted with its instant and its answer.
//!
//! A turn of a source is carried out at one instant of the run and takes as long as its calls do: what it hands to the writer, and
//! what it has written down, happens at its own instant, unless the collector is killed before.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gapless_collector::ingest::Inbound;
use gapless_collector::sources::{Folders, Ground, Http, Request, Response};
use gapless_collector::store::model::DropChanges;
use gapless_common::files::glob::Entry;
use gapless_common::id::{Epoch, Seq};
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;
use gapless_simulators::remote as simulated;

use super::api::{Answer, Api, Rest, rows};
use super::clock::{signed, truth};
use super::door::{Door, LogIn, borne, given};
use super::feed::{Heard, minute};
use super::folder::Folder;
use super::listing;
use super::rng::Rng;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The values of a window.
    Window,
    /// Whether a meter has anything new.
    Word,
    /// A token.
    Token,
    /// A page of the list, by its number.
    List(u64),
    /// What changed since a cursor, or since the question is put for the first time.
    Changes {
        /// It has no cursor yet.
        is_first: bool,
    },
}

/// A call as the API saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// To which API.
    pub api: usize,
    /// What it asks for.
    pub what: What,
    /// For which of its meters; for none where it asks for the changes of all.
    pub utility: String,
    /// Begin and end of the window.
    pub window: (Timestamp, Timestamp),
    /// When it was made, in ms of the run.
    pub at_ms: u64,
    /// The same by the collector's clock.
    pub at: Timestamp,
    /// When it was answered.
    pub answered_ms: u64,
    /// In which turn.
    pub turn: u64,
    /// In which life of the collector.
    pub start: u64,
    /// The status of the answer; `None` where none was heard.
    pub status: Option<u16>,
    /// Until when the API wants to be left alone after it, by the collector's clock.
    pub rest_until: Option<Timestamp>,
    /// The answer told nothing, whatever there was.
    pub is_emptied: bool,
    /// The answer cannot be read.
    pub is_garbled: bool,
    /// Its count was never written down, as the disk had filled since its turn began: the collector would not have made it, but a
    /// turn is carried out at one instant.
    pub is_uncounted: bool,
    /// What it told: instants and values, as their bits; `None` where it told that it has none.
    pub rows: BTreeMap<i64, Option<u64>>,
    /// What it told of what has changed.
    pub heard: Heard,
    /// The token that it went out with, or that was given.
    pub token: Option<String>,
}

impl Call {
    /// Whether it asked for values, and was answered with what there was.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.what == What::Window && self.is_heard()
    }

    /// Whether it was answered, whatever it asked for.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.status == Some(200) && !self.is_garbled
    }

    /// When it was answered, by the collector's clock.
    #[must_use]
    pub fn answered(&self) -> Timestamp {
        self.at.plus_ms(signed(self.answered_ms - self.at_ms))
    }

    /// Whether it was answered with all that there was, and not with what is of this instant.
    #[must_use]
    pub fn lacks(&self, at: i64) -> bool {
        self.is_answered() && self.asks_for(at) && !self.rows.contains_key(&at)
    }

    /// Whether it asks for what is of this instant.
    #[must_use]
    pub const fn asks_for(&self, at: i64) -> bool {
        self.window.0.0 <= at && at < self.window.1.0
    }

    /// Whoever made it was killed before the answer came.
    fn unhear(&mut self) {
        (self.status, self.rest_until) = (None, None);
        self.rows.clear();
        self.heard = Heard::default();
        if self.what == What::Token {
            self.token = None;
        }
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
    /// Write down what was read of which file.
    Read {
        /// Whose.
        path: AgentPath,
        /// What came of it was said in this epoch up to that seq.
        said: (Epoch, Seq),
        /// What is known of the files.
        changes: DropChanges,
    },
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
    /// When that began, in ms of the run.
    pub turn_ms: u64,
    /// The folder that is read, where there is one.
    pub folder: Option<Folder>,
    /// The calls that the collector's database has, each with its account.
    pub written: Vec<(String, Timestamp)>,
    /// The collector is killed once so many more calls, or looks into the folder, were answered.
    pub dies_after: Option<u64>,
    /// It is only while another worker has a turn, too.
    pub dies_beside: bool,
    /// Whether another one has.
    pub is_beside: bool,
    /// When it is, though turns of other workers may be carried out up to then.
    pub died_ms: Option<u64>,
    /// What is handed to the writer, and when.
    pub handed: Vec<(u64, Handed)>,
    /// Each call that was made.
    pub calls: Vec<Call>,
    /// The APIs.
    pub apis: Vec<Api>,
    /// Those that give tokens, by the number of the API.
    pub doors: BTreeMap<usize, Door>,
    /// Where each API has the tokens from that it wants.
    log_ins: BTreeMap<usize, LogIn>,
    rng: Rng,
}

impl SimGround {
    /// Over these APIs, of which some want tokens.
    #[must_use]
    pub fn new(apis: Vec<Api>, log_ins: BTreeMap<usize, LogIn>, rng: Rng) -> Self {
        let doors = log_ins.values().map(|log_in| (log_in.no, Door::new(*log_in))).collect();
        let state = State {
            now_ms: 0,
            ahead_ms: 0,
            is_full: false,
            start: 0,
            turn: 0,
            turn_ms: 0,
            folder: None,
            written: Vec::new(),
            dies_after: None,
            dies_beside: false,
            is_beside: false,
            died_ms: None,
            handed: Vec::new(),
            calls: Vec::new(),
            apis,
            doors,
            log_ins,
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
        let on_their_way = self.calls.iter_mut().filter(|call| call.answered_ms >= at_ms);
        on_their_way.for_each(Call::unhear);
        self.handed.clear();
    }

    /// The calls of this instant, by the collector's clock, to APIs of which `is_of` is true were never counted.
    pub fn note_uncounted(&mut self, at: Timestamp, is_of: impl Fn(usize) -> bool) {
        let of_life = self.calls.iter_mut().filter(|call| call.at == at && call.start == self.start);
        let calls = of_life.filter(|call| is_of(call.api));
        calls.for_each(|call| call.is_uncounted = true);
    }

    /// The calls of the turn that was carried out last, in order.
    pub(super) fn calls_of_turn(&self) -> Vec<&Call> {
        let mut calls: Vec<_> = self.calls.iter().rev().take_while(|call| call.turn == self.turn).collect();
        calls.reverse();
        calls
    }

    /// The calls of this life of the collector, the last one first.
    pub(super) fn life(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().rev().take_while(|call| call.start == self.start)
    }

    /// What was told of a meter in this life of the collector by a cursor.
    pub(super) fn told_by_cursor(
        &self,
        api: usize,
        utility: &str,
    ) -> impl Iterator<Item = (i64, Option<u64>)> {
        let rows = self.life().filter(move |call| call.api == api).flat_map(|call| &call.heard.rows);
        rows.filter(move |((of, _), _)| of == utility).map(|((_, at), bits)| (*at, *bits))
    }

    /// Whether an API that is asked what has changed said so, at a time by which this instant is settled, of a meter that had
    /// told nothing of it in this life of the collector by then.
    pub(super) fn is_nothing_new(
        &self,
        api: usize,
        utility: &str,
        (at, by_ms): (i64, u64),
        is_settled: impl Fn(&Call) -> bool,
    ) -> bool {
        let own = || self.life().filter(|call| call.api == api && call.answered_ms <= by_ms);
        let is_question = |call: &Call| match call.what {
            What::Window | What::Token | What::List(_) => false,
            What::Word => call.utility == utility,
            What::Changes { .. } => true,
        };
        own().any(|call| is_question(call) && call.is_heard() && is_settled(call))
            && !own().any(|call| call.utility == utility && call.rows.contains_key(&at))
            && !self.told_by_cursor(api, utility).any(|(told, _)| told == at)
    }

    /// Whether the collector is dead by now, as far as the turn has come.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.died_ms.is_some_and(|died_ms| died_ms <= self.now_ms)
    }

    /// Looks into the folder, which takes its time; the collector may be dead by then.
    fn look<T>(&mut self, look: impl FnOnce(&mut Folder, (u64, u64)) -> io::Result<T>) -> io::Result<T> {
        if self.is_dead() {
            return Err(io::Error::other("the collector was killed"));
        }
        let State { folder, rng, now_ms, turn, .. } = self;
        *now_ms += if rng.one_in(40) { rng.within(500, 6_000) } else { rng.within(1, 10) };
        let found = look(folder.as_mut().ok_or(io::ErrorKind::NotFound)?, (*now_ms, *turn));
        self.count_down();
        if self.is_dead() { Err(io::Error::other("the collector was killed")) } else { found }
    }

    /// Something was answered, after which it may be killed.
    fn count_down(&mut self) {
        if self.is_beside || !self.dies_beside {
            self.dies_after = self.dies_after.map(|left| left.saturating_sub(1));
        }
        if self.dies_after == Some(0) && self.died_ms.is_none() {
            (self.dies_after, self.died_ms) = (None, Some(self.now_ms));
        }
    }

    fn make(&mut self, url: &str, (head, body): (&str, &str), timeout_ms: u64) -> Result<Response, String> {
        if self.is_dead() {
            return Err("the collector was killed".to_owned());
        }
        let mut call = self.understood(url).ok_or_else(|| format!("nobody is at {url}"))?;
        let State { apis, doors, log_ins, rng, now_ms, .. } = self;
        let door = log_ins.get(&call.api).and_then(|log_in| doors.get_mut(&log_in.no));
        let api = &mut apis[call.api];
        // Mostly at once, now and then so slowly that the turn is over after it.
        let takes_ms = if rng.one_in(12) { rng.within(2_000, 9_000) } else { rng.within(20, 400) };
        let is_silent = *now_ms + takes_ms < api.away_until_ms;
        let takes_ms = if is_silent && rng.one_in(3) { timeout_ms } else { takes_ms };
        *now_ms += takes_ms;
        let answer = (!is_silent).then(|| {
            let target = url.splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap_or_default();
            let request = simulated::Request { target: &target, head, body };
            match door {
                Some(door) if call.what == What::Token => door.answer(&request, *now_ms, rng),
                Some(door) => match door.admits(&request, *now_ms) {
                    true => api.answer(&target, head, *now_ms, rng),
                    false => Answer::unknown(),
                },
                None => api.answer(&target, head, *now_ms, rng),
            }
        });
        call.answered_ms = *now_ms;
        call.token = borne(&simulated::Request { target: "", head, body: "" });
        if let Some(Answer { status, body, rest, is_garbled, .. }) = &answer {
            (call.status, call.is_garbled) = (Some(*status), *is_garbled);
            call.rest_until = rest.map(|rest| match rest {
                Rest::For(ms) => call.answered().plus_ms(signed(ms)),
                Rest::Until(at) => at,
            });
            if call.what == What::Token && call.is_heard() {
                call.token = given(body);
            }
            call.is_emptied = api.meter.empty.contains(&call.utility);
            call.rows = if call.is_answered() { rows(body) } else { BTreeMap::new() };
            call.heard = if call.is_heard() { Heard::of(body) } else { Heard::default() };
        }
        tracing::debug!(?call, "asks");
        self.count_down();
        if self.is_dead() {
            call.unhear();
        }
        self.calls.push(call);
        if self.is_dead() {
            return Err("the collector was killed".to_owned());
        }
        let Answer { status, body, headers, .. } = answer.ok_or("connection refused")?;
        Ok(Response { status, headers, body: Ok(body) })
    }

    /// `http://apiN/UTILITY/consumption/1?start=…&end=…`, `http://apiN/UTILITY/summary`, `http://apiN/changes?since=…`,
    /// `http://apiN/meters?page=…`
    fn understood(&self, url: &str) -> Option<Call> {
        let (api, path) = url.strip_prefix("http://api")?.split_once('/')?;
        let request = simulated::Request { target: url, head: "", body: "" };
        let at = |name: &str| request.field(name).and_then(minute);
        let page = listing::page(&request);
        let (what, utility, window) = match (path.split_once('/'), request.field("since")) {
            (None, None) if page.is_some() => (What::List(page?), "", None),
            (None, Some(since)) => (What::Changes { is_first: !since.contains('-') }, "", None),
            (Some((utility, "summary")), _) => (What::Word, utility, None),
            (None, None) if path == "token" => (What::Token, "", None),
            (Some((utility, _)), _) => (What::Window, utility, Some((at("start")?, at("end")?))),
            (None, None) => return None,
        };
        let api = api.parse().ok().filter(|api| *api < self.apis.len())?;
        Some(Call {
            api,
            what,
            utility: utility.to_owned(),
            window: window.unwrap_or_default(),
            at_ms: self.now_ms,
            at: truth(self.now_ms).plus_ms(self.ahead_ms),
            answered_ms: self.now_ms,
            turn: self.turn,
            start: self.start,
            status: None,
            rest_until: None,
            is_emptied: false,
            is_garbled: false,
            is_uncounted: false,
            rows: BTreeMap::new(),
            heard: Heard::default(),
            token: None,
        })
    }
}

/// What the calls of one source go over.
struct Line {
    ground: Arc<SimGround>,
    timeout_ms: u64,
}

impl Http for Line {
    fn exchange(&self, request: &Request<'_>) -> Result<Response, String> {
        let fields: String =
            request.headers.iter().map(|(name, text)| format!("\r\n{name}: {text}")).collect();
        let head = format!("{} / HTTP/1.1{fields}", if request.body.is_some() { "POST" } else { "GET" });
        self.ground.state().make(request.url, (&head, request.body.unwrap_or_default()), self.timeout_ms)
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

    fn folders(self: Arc<Self>) -> Arc<dyn Folders> {
        self
    }

    fn has_read(&self, path: &AgentPath, said: (Epoch, Seq), changes: DropChanges) -> Option<bool> {
        let mut state = self.state();
        if state.is_dead() {
            return None;
        }
        let (at_ms, path) = (state.now_ms, path.clone());
        if !state.is_full {
            state.handed.push((at_ms, Handed::Read { path, said, changes }));
            let is_deadly = state.folder.as_mut().is_some_and(|folder| std::mem::take(&mut folder.is_deadly));
            if is_deadly && state.died_ms.is_none() {
                state.died_ms = Some(at_ms);
            }
        }
        Some(!state.is_full)
    }

    fn hand_in(&self, message: Inbound) -> bool {
        let mut state = self.state();
        let (at_ms, lives) = (state.now_ms, !state.is_dead());
        if lives {
            state.handed.push((at_ms, Handed::Message(message)));
        }
        lives
    }

    fn called(&self, account: &str, at: Timestamp, since: Timestamp) -> Option<bool> {
        let mut state = self.state();
        if state.is_dead() {
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

impl Folders for SimGround {
    fn entries(&self, _folder: &Path, is_wanted: &dyn Fn(&str) -> bool) -> io::Result<Vec<Entry>> {
        self.state().look(|folder, at| folder.entries(at, is_wanted))
    }

    fn read(&self, file: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        self.state().look(|folder, at| folder.read(name, (offset, len), at))
    }
}
