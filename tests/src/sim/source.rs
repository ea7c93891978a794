//! The collector's own sources in a run, and whose turn it is. The sources are the real ones, without their threads: a worker has a
//! turn when the world says so. All of it is drawn from a stream of its own. How they are described is `described`'s, what befalls
//! the APIs that they ask `setback`'s, and what holds of it `sourced`'s.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gapless_collector::ingest::HasRead;
use gapless_collector::sources::start::without_threads;
use gapless_collector::sources::{self as collector, Done, Ground};
use gapless_common::time::Timestamp;
use rusqlite::Connection;

use super::abreast::Promised;
use super::api::Api;
use super::clock::truth;
use super::described::Described;
use super::door::{Door, LogIn};
use super::dropping::Dropping;
use super::folder::Folder;
use super::kept::Of;
use super::listing::Listing;
use super::panics;
use super::plan::{Mischief, Scale};
use super::remote::{Handed, SimGround};
use super::rng::Rng;
use super::sometimes::Rare;
use super::sourced::{Watch, account};
use super::way::Way;
use super::world::{Event, World};

/// One in so many runs has some.
const ONE_IN: u64 = 3;
/// How often a worker sees whether there is a turn for it, in ms: less often than those of the product do.
const TURN_MS: u64 = 5_000;
/// The same in runs of weeks.
const TURN_WEEKS_MS: u64 = 61_000;
/// A worker that is through with a turn sees so much later whether there is another one, in ms.
const PAUSE_MS: u64 = 50;
/// A command that asks for what is missing, as the collector's database has its kind.
const READ_HISTORY: i64 = 5;
/// What was answered within so long may be among what was seen to be open, in ms.
const SCANNED_MS: i64 = 60_000;
/// One in so many of those runs has a folder as well.
const DROPS_ONE_IN: u64 = 2;
/// It is seen so often whether what came of files is stored, in ms.
const STORED_MS: u64 = 100;
/// What could not be written down is written down so much later, in ms.
const AGAIN_MS: u64 = 5_000;

/// Sources in a run, and what befalls them.
#[derive(Debug, Clone)]
pub struct Sourcing {
    pub(super) kinds: Vec<Mischief>,
    pub(super) mean_ms: u64,
    pub(super) longest_ms: u64,
    /// Each with an API of its own.
    pub described: Vec<Described>,
    /// A folder that is read, where there is one.
    pub(super) dropping: Option<Dropping>,
    pub(super) workers: usize,
    turn_ms: u64,
    pub(super) rng: Rng,
}

impl Sourcing {
    /// Those of a run that lasts `bad_ms`, where it has any.
    #[must_use]
    pub fn draw(scale: Scale, bad_ms: u64, rng: &mut Rng) -> Option<Self> {
        if !rng.one_in(ONE_IN) {
            return None;
        }
        let mut kinds: Vec<_> = Mischief::OF_SOURCES.into_iter().filter(|_| rng.per_mille(400)).collect();
        let count = usize::try_from(rng.within(1, 2)).expect("few");
        let mut described: Vec<_> = (0..count).map(|no| Described::draw(no, scale, rng)).collect();
        let mut ways = rng.clone().fork(13);
        let mut log_ins = rng.clone().fork(14);
        described.iter_mut().for_each(|one| one.log_in = LogIn::draw(one, &mut log_ins));
        let mut lists = rng.clone().fork(15);
        let listed = described.into_iter().map(|one| {
            let listing = Listing::draw(&one, (scale, bad_ms), &mut lists);
            Listing::of(listing, one)
        });
        described = listed.collect();
        let is_shared = rng.one_in(2);
        if is_shared {
            // One grant of an account is good for all of it.
            let log_in = described[0].log_in;
            described.iter_mut().for_each(|one| one.log_in = log_in);
        }
        described = described.into_iter().map(|one| Way::draw(&one, &mut ways).of(one)).collect();
        if is_shared {
            // All limits of an account hold, so each is of both.
            let most = described.iter().map(|described| described.rate.0).sum();
            described.iter_mut().for_each(|described| {
                (described.account, described.rate.0) = ("shared", most);
            });
        } else {
            // What two APIs say is left of one account would be two things.
            described.iter_mut().for_each(|described| described.has_quota = rng.one_in(2));
        }
        // What came after the others moves none of their numbers.
        let mut own = rng.clone().fork(12);
        let later = Mischief::OF_FEEDS.into_iter().chain(Mischief::OF_LOGINS);
        kinds.extend(later.filter(|_| own.per_mille(400)));
        if described.iter().any(|one| one.listing.is_some()) {
            kinds.extend(Mischief::OF_LISTS.into_iter().filter(|_| own.per_mille(800)));
        }
        let mut drops = rng.clone().fork(16);
        let dropping = drops.one_in(DROPS_ONE_IN).then(|| Dropping::draw(scale, bad_ms, &mut drops));
        let workers = usize::try_from(rng.within(1, 2)).expect("few");
        let turn_ms = if scale == Scale::Hours { TURN_MS } else { TURN_WEEKS_MS };
        let (mean_ms, longest_ms) = (bad_ms / rng.within(4, 16), bad_ms / 4);
        Some(Self { kinds, mean_ms, longest_ms, described, dropping, workers, turn_ms, rng: rng.fork(1) })
    }

    /// Without any yet.
    pub(super) fn none(scale: Scale, bad_ms: u64, rng: &mut Rng) -> Self {
        let kinds = Mischief::OF_SOURCES.into_iter().filter(|_| rng.per_mille(400)).collect();
        let workers = usize::try_from(rng.within(1, 2)).expect("few");
        let turn_ms = if scale == Scale::Hours { TURN_MS } else { TURN_WEEKS_MS };
        let (mean_ms, longest_ms) = (bad_ms / rng.within(4, 16), bad_ms / 4);
        let (described, dropping) = (Vec::new(), None);
        Self { kinds, mean_ms, longest_ms, described, dropping, workers, turn_ms, rng: rng.fork(1) }
    }

    /// Meters of which what is missing is asked for, or was a moment ago.
    fn asked_back(&self, database: &Connection) -> rusqlite::Result<BTreeSet<Of>> {
        let sql = "SELECT a.name FROM commands c JOIN agents a ON a.id = c.agent
            WHERE c.kind = ?1 AND (c.outcome IS NULL OR c.answered_at > (SELECT max(answered_at) FROM commands) - ?2)";
        let mut statement = database.prepare_cached(sql)?;
        let names = statement.query_map([READ_HISTORY, SCANNED_MS], |r| r.get::<_, String>(0))?;
        let names = names.collect::<rusqlite::Result<BTreeSet<_>>>()?;
        let asked = self.devices().filter(|(described, utility)| names.contains(&described.agent(utility)));
        Ok(asked.map(|(described, utility)| (described.no, utility.to_owned())).collect())
    }

    /// All devices: of which source, and which meter.
    pub fn devices(&self) -> impl Iterator<Item = (&Described, &'static str)> {
        self.described.iter().flat_map(|one| one.utilities().iter().map(move |utility| (one, *utility)))
    }
}

/// What happens to sources.
#[derive(Debug)]
pub enum Step {
    /// A worker is free.
    Free(usize),
    /// A source hands something to the writer.
    Handed(Handed),
    /// What came of files may be stored by now.
    Stored,
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
    /// What was put right when all was quiet.
    pub(super) promised: Vec<Promised>,
    process: Option<collector::Sources>,
    /// The turn of each worker, carried out and not ended yet.
    under_way: BTreeMap<usize, Done>,
    /// Counts of calls that could not be written down yet.
    unwritten: BTreeSet<(String, Timestamp)>,
    /// What was read of files and is not written down yet, in order.
    reads: VecDeque<HasRead>,
    /// Workers that are not through with a turn when the collector dies.
    cut: usize,
}

impl Sources {
    /// As planned.
    #[must_use]
    pub fn new(mut plan: Sourcing) -> Self {
        let apis = plan.described.iter().map(Described::api).collect();
        let doors = plan.described.iter().filter_map(|one| Some((one.no, one.log_in?))).collect();
        let ground = Arc::new(SimGround::new(apis, doors, plan.rng.fork(2)));
        let folder = plan.dropping.clone().map(|one| Folder::new(one, plan.rng.clone().fork(3)));
        ground.state().folder = folder;
        Self {
            plan,
            ground,
            watch: Watch::default(),
            promised: Vec::new(),
            process: None,
            under_way: BTreeMap::new(),
            unwritten: BTreeSet::new(),
            reads: VecDeque::new(),
            cut: 0,
        }
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
        of_calls.chain(self.watch.kept.stored.values().map(|bits| bits.unwrap_or(1))).collect()
    }

    /// Nothing befalls their APIs any more; the collector's clock may be set back with that.
    pub(super) fn make_good(&mut self, is_set_back: bool) {
        if is_set_back {
            self.watch.note_set_back();
        }
        let mut state = self.ground.state();
        state.dies_after = None;
        state.apis.iter_mut().for_each(Api::make_good);
        state.doors.values_mut().for_each(Door::make_good);
        state.folder.iter_mut().for_each(Folder::make_good);
    }
}

/// Whether a database knows files of a drop.
fn drops_known(database: &Connection) -> rusqlite::Result<bool> {
    database.query_row("SELECT EXISTS (SELECT 1 FROM drop_files)", [], |r| r.get(0))
}

impl World {
    /// The collector has started: its sources begin anew.
    pub(super) fn start_sources(&mut self) {
        let (now_ms, start) = (self.now_ms, self.center.starts);
        let Some(sources) = &mut self.sources else { return };
        let described = sources.plan.described.iter();
        let texts = described.map(|one| (PathBuf::from(format!("m{}.toml", one.no)), one.text()));
        let dropping = sources.plan.dropping.iter().map(|one| (PathBuf::from("drop.toml"), one.text()));
        let texts: Vec<_> = texts.chain(dropping).collect();
        {
            let mut state = sources.ground.state();
            (state.now_ms, state.ahead_ms, state.start) = (now_ms, self.center.ahead_ms, start);
            (state.died_ms, state.written) = (None, Vec::new());
        }
        let ground: Arc<dyn Ground> = Arc::clone(&sources.ground) as _;
        let process = without_threads(&texts, Path::new("/nowhere"), &ground);
        sources.process = Some(process.expect("a drawn description is valid"));
        sources.cut = 0;
        if let Some(committer) = &self.center.committer {
            let begun = sources.watch.begin(&sources.plan, committer.connection());
            let findings = begun.expect("the database reads");
            let knows = drops_known(committer.connection()).expect("the database reads");
            sources.ground.state().folder.iter_mut().for_each(|folder| folder.is_known = knows);
            findings.into_iter().for_each(|(invariant, what)| self.oracle.find(invariant, what));
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
        sources.reads.clear();
        sources.watch.end(now_ms);
        let mut state = sources.ground.state();
        state.take_back(now_ms);
        let described = &sources.plan.described;
        for (name, at) in std::mem::take(&mut sources.unwritten) {
            state.note_uncounted(at, |api| account(&described[api]) == name);
        }
    }

    pub(super) fn step_source(&mut self, start: u64, step: Step) {
        if self.center.starts != start || self.center.committer.is_none() {
            return;
        }
        match step {
            Step::Free(worker) => self.turn_source(worker),
            Step::Handed(handed) => self.take_handed(start, handed),
            Step::Stored => self.write_reads(start),
            Step::Ended(worker) => self.end_turn(start, worker),
            Step::Died => {
                self.sometimes.reach(Rare::DiedInTurn);
                if self.sources.as_ref().is_some_and(|sources| sources.cut + sources.under_way.len() > 1) {
                    self.sometimes.reach(Rare::BothDiedInTurn);
                }
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
            state.turn_ms = now_ms;
            state.is_beside = !sources.under_way.is_empty();
            state.written = written(connection).expect("the database reads");
        }
        let process = sources.process.as_mut().filter(|_| !self.is_over);
        let next = process.and_then(|process| process.next(connection).expect("the database reads"));
        let Some(turn) = next else {
            return self.push(now_ms + turn_ms, Event::Source(start, Step::Free(worker)));
        };
        let dies = sources.ground.state().died_ms.is_some();
        let asked_back = sources.plan.asked_back(connection).expect("the database reads");
        let done = turn.carry_out(connection);
        if let Some(what) = panics::take() {
            self.oracle.find("no panic", what);
        }
        let (ended_ms, died_ms, handed) = {
            let mut state = sources.ground.state();
            (state.now_ms, state.died_ms.filter(|_| state.is_dead()), std::mem::take(&mut state.handed))
        };
        let findings = {
            let state = sources.ground.state();
            let mut findings = sources.watch.note_turn(&sources.plan, &state, &handed);
            findings.extend(sources.watch.spared.note_turn(&state.calls_of_turn(), &asked_back));
            findings.extend(sources.watch.passes.note_turn(&sources.plan, &state.calls_of_turn()));
            findings
        };
        match died_ms {
            None => {
                sources.under_way.insert(worker, done);
            }
            Some(_) => sources.cut += 1,
        }
        for (at_ms, handed) in handed {
            self.push(at_ms, Event::Source(start, Step::Handed(handed)));
        }
        match died_ms {
            // It is known already from the turn in which it is killed.
            Some(_) if dies => {}
            Some(at_ms) => self.push(at_ms, Event::Source(start, Step::Died)),
            None => self.push(ended_ms, Event::Source(start, Step::Ended(worker))),
        }
        findings.into_iter().for_each(|(invariant, what)| self.oracle.find(invariant, what));
    }

    fn end_turn(&mut self, start: u64, worker: usize) {
        let now_ms = self.now_ms;
        let Some(sources) = &mut self.sources else { return };
        sources.ground.state().now_ms = now_ms;
        if let (Some(process), Some(done)) = (&mut sources.process, sources.under_way.remove(&worker)) {
            process.end(done);
        }
        self.push(now_ms + PAUSE_MS, Event::Source(start, Step::Free(worker)));
    }

    fn take_handed(&mut self, start: u64, handed: Handed) {
        match handed {
            Handed::Message(message) => {
                self.center.take_own(message);
                self.center_soon();
            }
            Handed::Read { path, said, changes } => {
                let Some(sources) = &mut self.sources else { return };
                sources.reads.push_back(HasRead { path, said, changes });
                if sources.reads.len() == 1 {
                    self.write_reads(start);
                }
            }
            Handed::Called { account, at, since } => {
                let Some(committer) = self.center.committer.as_mut() else { return };
                let called = committer.called(&account, at, since);
                let is_written = called.is_ok();
                self.center.unless_full(called);
                if let Some(sources) = &mut self.sources {
                    let count = (account.clone(), at);
                    if is_written {
                        sources.unwritten.remove(&count)
                    } else {
                        sources.unwritten.insert(count)
                    };
                }
                if !is_written {
                    let again = Step::Handed(Handed::Called { account, at, since });
                    self.push(self.now_ms + AGAIN_MS, Event::Source(start, again));
                }
            }
        }
    }
}

impl World {
    /// What was read of files is written down, as far as what came of it is stored.
    fn write_reads(&mut self, start: u64) {
        let (now_ms, Some(sources)) = (self.now_ms, &mut self.sources) else { return };
        let at = truth(now_ms).plus_ms(self.center.ahead_ms);
        while let Some(read) = sources.reads.front() {
            let Some(committer) = self.center.committer.as_mut() else { return };
            let written = committer.has_read(read, at);
            let is_written = matches!(written, Ok(true));
            self.center.unless_full(written);
            if !is_written {
                return self.push(now_ms + STORED_MS, Event::Source(start, Step::Stored));
            }
            sources.reads.pop_front();
        }
    }
}

/// The calls that the collector has written down.
fn written(connection: &Connection) -> rusqlite::Result<Vec<(String, Timestamp)>> {
    let mut statement = connection.prepare_cached("SELECT account, at FROM calls ORDER BY at")?;
    statement.query_map([], |r| Ok((r.get(0)?, Timestamp(r.get(1)?))))?.collect()
}
