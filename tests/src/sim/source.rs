//! The collector's own sources in a run: how they are described, whose turn it is, and what befalls the APIs that they ask. The
//! sources are the real ones, without their threads: a worker has a turn when the world says so. All of it is drawn from a stream
//! of its own. What holds of it is `sourced`'s.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gapless_collector::ingest::Inbound;
use gapless_collector::sources::start::without_threads;
use gapless_collector::sources::{self as collector, Ground, Turn};
use gapless_common::time::Timestamp;
use rusqlite::Connection;

use super::center::Center;
use super::clock::{BEGAN_MS, signed, truth};
use super::panics;
use super::plan::{Mischief, Scale};
use super::remote::{Api, Handed, SimGround, UTILITIES};
use super::rng::Rng;
use super::sometimes::Rare;
use super::sourced::Watch;
use super::world::{Event, World};

/// The description that is shipped, of which each run has another version.
const SHIPPED: &str = include_str!("../../../collector/sources/half-hourly-meter.toml");
/// The site of all of them.
pub const SITE: &str = "h";
/// One in so many runs has some.
const ONE_IN: u64 = 3;
/// How often a worker sees whether there is a turn for it, in ms: less often than those of the product do.
const TURN_MS: u64 = 5_000;
/// The same in runs of weeks.
const TURN_WEEKS_MS: u64 = 61_000;
/// A worker that is through with a turn sees so much later whether there is another one, in ms.
const PAUSE_MS: u64 = 50;
/// What could not be written down is written down so much later, in ms.
const AGAIN_MS: u64 = 5_000;
const MINUTE_MS: i64 = 60_000;

/// Sources in a run, and what befalls them.
#[derive(Debug, Clone)]
pub struct Sourcing {
    kinds: Vec<Mischief>,
    mean_ms: u64,
    longest_ms: u64,
    /// Each with an API of its own.
    pub described: Vec<Described>,
    workers: usize,
    turn_ms: u64,
    rng: Rng,
}

/// A source, as its description has it, and what its API is like.
#[derive(Debug, Clone)]
pub struct Described {
    /// Its number, and that of its API.
    pub no: usize,
    /// The distance of its values.
    pub interval_ms: i64,
    /// How often it is asked.
    pub every_ms: i64,
    /// What is not there after so long is missing.
    pub lag_ms: i64,
    /// So much is read again.
    pub overlap_ms: i64,
    /// The longest window.
    pub window_ms: i64,
    /// So many calls in that time.
    pub rate: (u32, i64),
    /// How often a meter is asked that cannot be reached.
    pub unreachable_ms: i64,
    /// Whose calls are counted together.
    pub account: &'static str,
    /// Which consent is in force.
    pub consent: u32,
    class: &'static str,
    /// The first value of its API, and how long each takes to be there.
    oldest: Timestamp,
    delay_ms: i64,
}

impl Described {
    fn draw(no: usize, scale: Scale, rng: &mut Rng) -> Self {
        let minutes = |rng: &mut Rng, of: &[i64]| *rng.pick(of) * MINUTE_MS;
        let (interval_ms, per_ms, class) = match scale {
            Scale::Hours => (minutes(rng, &[1, 1, 2, 5]), 10 * MINUTE_MS, "remote"),
            Scale::Weeks => (minutes(rng, &[30, 60]), 24 * 60 * MINUTE_MS, "http"),
        };
        let times = |rng: &mut Rng, first, last| signed(rng.within(first, last)) * interval_ms;
        // Of each of two devices one call each time, and as many again twice for what is missing.
        let usual = u32::try_from(2 * per_ms / interval_ms).expect("some dozens");
        let most = 3 * usual + u32::try_from(rng.within(6, 20)).expect("few");
        Self {
            no,
            interval_ms,
            every_ms: interval_ms,
            lag_ms: times(rng, 3, 15),
            overlap_ms: times(rng, 0, 10),
            window_ms: *rng.pick(&[10, 30, 120]) * interval_ms,
            rate: (most, per_ms),
            unreachable_ms: times(rng, 2, 10),
            account: "",
            consent: 0,
            class,
            oldest: Timestamp(BEGAN_MS).plus_ms(-times(rng, 5, 300)),
            delay_ms: signed(rng.below(interval_ms.unsigned_abs() / 2)),
        }
    }

    /// The name of one of its devices.
    #[must_use]
    pub fn device(&self, utility: &str) -> String {
        format!("{utility}{}", self.no)
    }

    /// The name of the agent that counts for it.
    #[must_use]
    pub fn agent(&self, utility: &str) -> String {
        format!("m{}-{}", self.no, self.device(utility))
    }

    /// The shipped description in other words.
    fn text(&self) -> String {
        let Self { no, rate: (most, per_ms), account, consent, class, .. } = self;
        let ms = |name: &str, ms: i64| format!("{name} = \"{ms}ms\"");
        let own = if account.is_empty() { String::new() } else { format!("account = \"{account}\"\n") };
        let more = format!(
            "{own}class = \"{class}\"\n{}\ncalls = [{{ most = {most}, per = \"{per_ms}ms\" }}]\n{}",
            ms("overlap", self.overlap_ms),
            ms("every", self.every_ms)
        );
        let words = [
            ("site = \"home-1\"", format!("site = \"{SITE}\"")),
            ("name = \"meters\"", format!("name = \"m{no}\"")),
            ("http://127.0.0.1:9400", format!("http://api{no}")),
            ("window = \"90d\"", ms("window", self.window_ms)),
            ("lag = \"2d\"", ms("lag", self.lag_ms)),
            ("every = \"30m\"", more),
            ("every_least = \"10m\"", ms("every_least", self.every_ms)),
            ("unreachable_every = \"7d\"", ms("unreachable_every", self.unreachable_ms)),
            ("consent = \"2026\"", format!("consent = \"{consent}\"")),
            ("name = \"electricity\"", format!("name = \"electricity{no}\"")),
            ("name = \"gas\"", format!("name = \"gas{no}\"")),
            ("interval = \"30m\"", ms("interval", self.interval_ms)),
        ];
        words.iter().fold(SHIPPED.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "the shipped description has no `{from}`");
            text.replace(from, to)
        })
    }

    /// The first instant of which its API has a value.
    #[must_use]
    pub fn oldest(&self) -> Timestamp {
        self.oldest
    }

    /// The class of its devices.
    #[must_use]
    pub fn class(&self) -> &'static str {
        self.class
    }

    fn api(&self) -> Api {
        Api::new(self.oldest, self.interval_ms, self.delay_ms)
    }
}

impl Sourcing {
    /// Those of a run that lasts `bad_ms`, where it has any.
    #[must_use]
    pub fn draw(scale: Scale, bad_ms: u64, rng: &mut Rng) -> Option<Self> {
        if !rng.one_in(ONE_IN) {
            return None;
        }
        let kinds = Mischief::OF_SOURCES.into_iter().filter(|_| rng.per_mille(400)).collect();
        let count = usize::try_from(rng.within(1, 2)).expect("few");
        let mut described: Vec<_> = (0..count).map(|no| Described::draw(no, scale, rng)).collect();
        if rng.one_in(2) {
            // All limits of an account hold, so each is of both.
            let most = described.iter().map(|described| described.rate.0).sum();
            described.iter_mut().for_each(|described| {
                (described.account, described.rate.0) = ("shared", most);
            });
        }
        let workers = usize::try_from(rng.within(1, 2)).expect("few");
        let turn_ms = if scale == Scale::Hours { TURN_MS } else { TURN_WEEKS_MS };
        let (mean_ms, longest_ms) = (bad_ms / rng.within(4, 16), bad_ms / 4);
        Some(Self { kinds, mean_ms, longest_ms, described, workers, turn_ms, rng: rng.fork(1) })
    }

    /// All devices: of which source, and which meter.
    pub fn devices(&self) -> impl Iterator<Item = (&Described, &'static str)> {
        self.described.iter().flat_map(|described| UTILITIES.map(|utility| (described, utility)))
    }
}

/// What happens to sources.
#[derive(Debug)]
pub enum Step {
    /// A worker is free.
    Free(usize),
    /// A source hands something to the writer.
    Handed(Handed),
    /// A worker is through with a turn.
    Ended(usize),
    /// The collector is killed in the midst of a turn.
    Died,
}

/// The sources of a run.
pub struct Sources {
    /// As planned.
    pub plan: Sourcing,
    /// What they stand on.
    pub ground: Arc<SimGround>,
    /// What the oracle knows of them.
    pub(super) watch: Watch,
    process: Option<collector::Sources>,
    /// The turn that each worker has.
    under_way: BTreeMap<usize, Turn>,
}

impl Sources {
    /// As planned.
    #[must_use]
    pub fn new(mut plan: Sourcing) -> Self {
        let apis = plan.described.iter().map(Described::api).collect();
        let ground = Arc::new(SimGround::new(apis, plan.rng.fork(2)));
        Self { plan, ground, watch: Watch::default(), process: None, under_way: BTreeMap::new() }
    }

    /// Numbers that two runs of one seed share: of each call, and of what is stored.
    pub(super) fn numbers(&self) -> Vec<u64> {
        let calls = &self.ground.state().calls;
        let of_calls = calls.iter().flat_map(|call| {
            let status = u64::from(call.status.unwrap_or_default());
            [
                call.at_ms,
                call.answered_ms,
                call.window.0.0.cast_unsigned(),
                call.window.1.0.cast_unsigned(),
                status,
            ]
        });
        of_calls.chain(self.watch.stored.values().copied()).collect()
    }

    /// Nothing befalls their APIs any more. Where the collector's clock is set forward with that, rests end early.
    pub(super) fn make_good(&mut self, is_set_forward: bool) {
        if is_set_forward {
            self.watch.forget_rests();
        }
        let mut state = self.ground.state();
        state.dies_after = None;
        state.apis.iter_mut().for_each(Api::make_good);
    }
}

impl World {
    /// Sets when the first thing befalls them.
    pub(super) fn begin_sources(&mut self) {
        let Some(Sources { plan, .. }) = &mut self.sources else { return };
        if !plan.kinds.is_empty() {
            let first_ms = plan.rng.wait_ms(plan.mean_ms);
            self.push(first_ms, Event::Remote);
        }
    }

    /// The collector has started: its sources begin anew.
    pub(super) fn start_sources(&mut self) {
        let (now_ms, start) = (self.now_ms, self.center.starts);
        let Some(sources) = &mut self.sources else { return };
        let described = sources.plan.described.iter();
        let texts: Vec<_> =
            described.map(|one| (PathBuf::from(format!("m{}.toml", one.no)), one.text())).collect();
        {
            let mut state = sources.ground.state();
            (state.now_ms, state.ahead_ms, state.start) = (now_ms, self.center.ahead_ms, start);
            (state.died_ms, state.written) = (None, Vec::new());
        }
        let ground: Arc<dyn Ground> = Arc::clone(&sources.ground) as _;
        let process = without_threads(&texts, Path::new("/nowhere"), &ground);
        sources.process = Some(process.expect("a drawn description is valid"));
        if let Some(committer) = &self.center.committer {
            sources.watch.begin(&sources.plan, committer.connection()).expect("the database reads");
        }
        for worker in 0..sources.plan.workers {
            self.push(now_ms + PAUSE_MS, Event::Source(start, Step::Free(worker)));
        }
    }

    /// The collector was killed: what its sources have not handed in is gone with them.
    pub(super) fn end_sources(&mut self) {
        let now_ms = self.now_ms;
        let Some(sources) = &mut self.sources else { return };
        (sources.process, sources.under_way) = (None, BTreeMap::new());
        sources.watch.end();
        sources.ground.state().take_back(now_ms);
    }

    pub(super) fn step_source(&mut self, start: u64, step: Step) {
        if self.center.starts != start || self.center.committer.is_none() {
            return;
        }
        match step {
            Step::Free(worker) => self.turn_source(worker),
            Step::Handed(handed) => self.take_handed(start, handed),
            Step::Ended(worker) => self.end_turn(start, worker),
            Step::Died => {
                self.sometimes.reach(Rare::DiedInTurn);
                self.kill_center();
            }
        }
    }

    /// A worker has the turn of the most urgent source, where there is one.
    fn turn_source(&mut self, worker: usize) {
        let (now_ms, start) = (self.now_ms, self.center.starts);
        let Some(sources) = &mut self.sources else { return };
        let turn_ms = sources.plan.turn_ms;
        let Some(connection) = self.center.committer.as_ref().map(|committer| committer.connection()) else {
            return;
        };
        {
            let mut state = sources.ground.state();
            (state.now_ms, state.ahead_ms, state.is_full) =
                (now_ms, self.center.ahead_ms, self.center.is_full);
            state.turn += 1;
            state.written = written(connection).expect("the database reads");
        }
        let process = sources.process.as_mut().filter(|_| !self.is_over);
        let next = process.and_then(|process| process.next(connection).expect("the database reads"));
        let Some(mut turn) = next else {
            return self.push(now_ms + turn_ms, Event::Source(start, Step::Free(worker)));
        };
        turn.carry_out(connection);
        if let Some(what) = panics::take() {
            self.oracle.find("no panic", what);
        }
        let (ended_ms, died_ms, handed) = {
            let mut state = sources.ground.state();
            (state.now_ms, state.died_ms, std::mem::take(&mut state.handed))
        };
        let findings = sources.watch.note_turn(&sources.plan, &sources.ground.state(), &handed);
        if died_ms.is_none() {
            sources.under_way.insert(worker, turn);
        }
        for (at_ms, handed) in handed {
            self.push(at_ms, Event::Source(start, Step::Handed(handed)));
        }
        match died_ms {
            Some(at_ms) => self.push(at_ms, Event::Source(start, Step::Died)),
            None => self.push(ended_ms, Event::Source(start, Step::Ended(worker))),
        }
        findings.into_iter().for_each(|(invariant, what)| self.oracle.find(invariant, what));
    }

    fn end_turn(&mut self, start: u64, worker: usize) {
        let now_ms = self.now_ms;
        let Some(sources) = &mut self.sources else { return };
        sources.ground.state().now_ms = now_ms;
        if let (Some(process), Some(turn)) = (&mut sources.process, sources.under_way.remove(&worker)) {
            process.end(turn);
        }
        self.push(now_ms + PAUSE_MS, Event::Source(start, Step::Free(worker)));
    }

    fn take_handed(&mut self, start: u64, handed: Handed) {
        match handed {
            Handed::Message(message) => {
                self.center.take_own(message);
                self.center_soon();
            }
            Handed::Called { account, at, since } => {
                let Some(committer) = self.center.committer.as_mut() else { return };
                let called = committer.called(&account, at, since);
                let is_written = called.is_ok();
                self.center.unless_full(called);
                if !is_written {
                    let again = Step::Handed(Handed::Called { account, at, since });
                    self.push(self.now_ms + AGAIN_MS, Event::Source(start, again));
                }
            }
        }
    }

    /// The next thing that befalls an API, or the collector in the midst of a turn.
    pub(super) fn strike_remote(&mut self) {
        if self.is_good || self.now_ms >= self.plan.bad_ms {
            return;
        }
        let now_ms = self.now_ms;
        let Some(Sources { plan, ground, .. }) = &mut self.sources else { return };
        let Sourcing { kinds, mean_ms, longest_ms, described, rng, .. } = plan;
        let next_ms = now_ms + rng.wait_ms(*mean_ms);
        let (kind, while_ms) = (*rng.pick(kinds), rng.within(10_000, *longest_ms));
        let (described, utility) = (rng.pick(described), *rng.pick(&UTILITIES));
        tracing::info!(at_ms = now_ms, ?kind, api = described.no, utility, "strikes");
        let (until_ms, no) = (now_ms + while_ms, described.no);
        let mut state = ground.state();
        let gives_back = if kind == Mischief::KillInTurn {
            state.dies_after = Some(rng.within(1, 3));
            false
        } else {
            befall(&mut state.apis[no], (described, utility), kind, (now_ms, until_ms), rng)
        };
        drop(state);
        self.push(next_ms, Event::Remote);
        if gives_back {
            self.push(until_ms, Event::GiveBack(no, utility));
        }
        self.sometimes.strike(kind);
    }

    /// Consent is given anew: its description has another word for it from now on, and the collector is started again.
    pub(super) fn give_back(&mut self, no: usize, utility: &str) {
        if self.is_good || self.center.committer.is_none() {
            return;
        }
        if let Some(Sources { plan, ground, .. }) = &mut self.sources {
            ground.state().apis[no].meter.withdrawn.remove(utility);
            plan.described[no].consent += 1;
        }
        self.sometimes.reach(Rare::ConsentGivenAnew);
        self.kill_center();
    }
}

/// Something befalls an API. Returns whether consent was withdrawn, and is given anew in the end.
fn befall(
    api: &mut Api,
    (described, utility): (&Described, &'static str),
    kind: Mischief,
    (now_ms, until_ms): (u64, u64),
    rng: &mut Rng,
) -> bool {
    let (now, interval_ms) = (truth(now_ms), described.interval_ms);
    let slot = |n: i64| Timestamp((now.0.div_euclid(interval_ms) + n) * interval_ms);
    let own = utility.to_owned();
    match kind {
        Mischief::RemoteAway => api.away_until_ms = until_ms,
        Mischief::RemoteTooMany => api.too_many_until_ms = until_ms,
        Mischief::RemoteFails => api.fails_until_ms = until_ms,
        Mischief::RemoteEmpty => {
            api.empty_until_ms.insert(own, until_ms);
        }
        Mischief::RemoteUnreachable => {
            api.unreachable_until_ms.insert(own, until_ms);
        }
        Mischief::RemoteLate => {
            let is_never = rng.one_in(4);
            for n in 1..=signed(rng.within(1, 8)) {
                if is_never {
                    api.meter.holes.entry(own.clone()).or_default().insert(slot(n));
                } else {
                    let late_ms = signed(rng.within(1, 4 * described.lag_ms.unsigned_abs()));
                    api.meter.late.entry(own.clone()).or_default().insert(slot(n), slot(n).plus_ms(late_ms));
                }
            }
        }
        Mischief::RemoteCorrects => {
            let by = [-3.0, -2.0, -1.0, 1.0, 2.0, 3.0].map(|by| by / 128.0);
            let back = 2 + 2 * (described.overlap_ms / interval_ms).unsigned_abs();
            for _ in 0..rng.within(1, 4) {
                let at = slot(-signed(rng.below(back)));
                *api.meter.corrected.entry(own.clone()).or_default().entry(at).or_default() += *rng.pick(&by);
            }
        }
        _ => return api.meter.withdrawn.insert(own) && rng.one_in(2),
    }
    false
}

/// The calls that the collector has written down.
fn written(connection: &Connection) -> rusqlite::Result<Vec<(String, Timestamp)>> {
    let mut statement = connection.prepare_cached("SELECT account, at FROM calls ORDER BY at")?;
    statement.query_map([], |r| Ok((r.get(0)?, Timestamp(r.get(1)?))))?.collect()
}

impl Center {
    /// Takes a message of its own sources in.
    fn take_own(&mut self, message: Inbound) {
        self.waiting.push_back(message);
    }
}
