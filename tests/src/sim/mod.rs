//! The deterministic simulation: years of bad luck in a minute. One thread, virtual time, and one seed that decides
//! everything; the cores, the engine, the buses and the journal of the agent and the committer of the collector are the
//! real ones, over simulated disks, lines, links, clocks and processes.
//!
//! | file | what it is |
//! |---|---|
//! | `plan` | what a run is made of, and which kinds of bad luck it has |
//! | `world`, `strike` | what happens when; what goes wrong when |
//! | `gateway`, `line`, `clock` | a machine with its disk, lines and clocks |
//! | `turns`, `queue` | how an agent's loop turns, or stands still; what waits for it |
//! | `net`, `center`, `keep` | broker and links; the collector; its look after gaps and jobs |
//! | `logger`, `profiled`, `memory`, `mishap` | devices that remember, and what befalls them; what persons do |
//! | `people`, `viewers` | who is told of alerts, and what befalls them; who watches a site |
//! | `tap`, `oracle`, `judge`, `cause` | what is durable; what is true; what the end must look like; why a gap is one |
//! | `alerted`, `facts`, `overdue` | what people are told of alerts, whether it is so, and whether it is all |
//! | `owed`, `agreed` | from when on a device is due; agreements about devices that end, and what holds of it |
//! | `whole` | an answer is stored as it was told, at its time |
//! | `recall`, `rest` | the same two of devices that remember |
//! | `schedule` | where a gap must stand, by its events |
//! | `source`, `described`, `remote` | the collector's own sources and their turns; how they are described; what they stand on |
//! | `api`, `setback` | the APIs that they ask, and what befalls those |
//! | `donor`, `lent` | whom another device stands in for; what holds of what is lent |
//! | `sourced`, `supplied`, `slots` | what holds of both as they go, and in the end; whether each slot is accounted for |
//! | `kept` | what the database must have of them |
//! | `dropping`, `folder`, `scribe`, `dropped` | a folder that is read, as planned; the folder; its logger; what holds of it |
//! | `listing`, `listed` | lists of devices that APIs have; what holds of whom they name |
//! | `heap`, `panics` | what a process holds of memory; what went wrong in it, though it went on |
//! | `sometimes`, `series` | what was reached; many runs, and the page about them |
//!
//! Not simulated: threads (what waits for an agent's loop while its disk is slow is, see `queue`), HTTP, the collector's
//! disk (see `center`), servers, archives and programs of drops, refresh tokens, sled, logger files of agents.

mod abreast;
pub mod agreed;
mod alerted;
pub mod api;
mod cause;
pub mod center;
pub mod clock;
pub mod described;
pub mod donor;
pub mod door;
mod dropped;
pub mod dropping;
mod facts;
pub mod feed;
pub mod folder;
pub mod gateway;
pub mod heap;
pub mod judge;
mod keep;
mod kept;
mod lent;
pub mod line;
mod listed;
pub mod listing;
pub mod logger;
pub mod memory;
pub mod mishap;
pub mod net;
pub mod oracle;
mod overdue;
mod owed;
mod panics;
mod passes;
pub mod people;
pub mod plan;
pub mod profiled;
pub mod queue;
pub mod recall;
pub mod remote;
mod rest;
pub mod rng;
mod schedule;
mod scribe;
pub mod series;
mod setback;
mod slots;
pub mod sometimes;
pub mod source;
mod sourced;
mod spared;
pub mod strike;
mod supplied;
pub mod tap;
pub mod turns;
mod unasked;
pub mod viewers;
pub mod way;
mod whole;
pub mod world;

use gapless_agent::uplink::core::LinkState;
use gapless_common::id::DeviceIndex;

use gateway::{End, Gateway};
use heap::Held;
use oracle::Finding;
use plan::{Plan, Scale};
use rng::Rng;
use sometimes::{Rare, Sometimes};
use source::Sources;
use world::World;

/// How often it is looked whether all is quiet, in ms.
const LOOK_MS: u64 = 30_000;
/// How old what is owed may be beyond a flush, in ms: it may be on its way.
const FRESH_MS: i64 = 60_000;
/// How long things go on after they are mended, at least, in ms: fresh readings must arrive.
const AFTER_MS: u64 = 180_000;

/// How often they are started once more, because a stop left something to be told.
const RESTS_MAX: u32 = 3;

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// What is wrong; nothing, in a good run.
    pub findings: Vec<Finding>,
    /// What was reached.
    pub sometimes: Sometimes,
    /// How long the run was for those in it, in ms.
    pub simulated_ms: u64,
    /// Answers of devices.
    pub answers: u64,
    /// What processes held of memory, where that is weighed.
    pub held: Held,
    /// A number that two runs of one seed share.
    pub digest: u64,
}

/// Runs the simulation of a seed.
#[must_use]
pub fn run(seed: u64, scale: Scale) -> Outcome {
    panics::watch();
    let mut rng = Rng::new(seed);
    let plan = Plan::draw(scale, &mut rng);
    let mut world = World::new(plan, &mut rng);
    let bad_ms = world.plan.bad_ms;
    world.run(bad_ms);
    if !world.oracle.has_found() {
        world.make_good();
        come_to_rest(&mut world);
    }
    if !world.oracle.has_found() {
        judge::judge(&mut world);
    }
    finish(world)
}

/// Once nothing goes wrong any more everything arrives, and is proven.
fn come_to_rest(world: &mut World) {
    let (mended_ms, patience_ms) = (world.now_ms, world.plan.patience_ms);
    let (mut rests, mut was_watched, mut was_put_right) = (0, false, false);
    world.run(mended_ms + AFTER_MS);
    while !world.oracle.has_found() {
        if is_quiet(world) && !was_put_right {
            world.put_right();
            was_put_right = true;
        }
        world.check_promised();
        if is_quiet(world) && !was_watched {
            world.watch_all();
            was_watched = true;
        }
        if is_quiet(world) {
            stop_all(world);
            if !is_owed(world) {
                return;
            }
            if rests == RESTS_MAX {
                let what = format!("after {RESTS_MAX} more starts an outbox holds what no database ever had");
                return world.oracle.find("liveness", what);
            }
            rests += 1;
            start_all(world);
        }
        if world.now_ms > mended_ms + patience_ms {
            let owed: Vec<_> =
                world.gateways.iter().map(|g| g.process.as_ref().map(|p| p.engine.depot().owed())).collect();
            let what = format!(
                "after {patience_ms} ms of good luck {:?} has not answered, and is still owed: {owed:?}; behind: {:?}; not settled: {:?}; asked for: {:?}; alerts: {:?}",
                silent(world),
                world.behind(),
                world.unsettled(),
                world.center.asks_for(world.now_ms),
                world.worries()
            );
            return world.oracle.find("liveness", what);
        }
        let until_ms = world.now_ms + LOOK_MS;
        world.run(until_ms);
    }
}

fn stop_all(world: &mut World) {
    world.is_over = true;
    world.rested_ms = world.now_ms;
    (0..world.gateways.len()).for_each(|no| world.stop(no));
    let until_ms = world.now_ms + LOOK_MS;
    world.run(until_ms);
}

fn start_all(world: &mut World) {
    world.is_over = false;
    (0..world.gateways.len()).for_each(|no| world.restart(no, 1));
}

/// Whether an outbox holds what no database ever had: a stop may find what cannot be read, and its loss is told at the
/// next start only.
fn is_owed(world: &World) -> bool {
    world.gateways.iter().any(|gateway| tap::lock(&gateway.log).is_owed())
}

/// Whether nothing is owed but what the next flush takes along.
fn is_quiet(world: &mut World) -> bool {
    let now_ms = world.now_ms;
    let is_idle = |gateway: &mut Gateway| {
        let now = gateway.now(now_ms);
        let Some(engine) = gateway.process.as_mut().map(|process| &mut process.engine) else { return false };
        let flush_ms = i64::try_from(gateway.config.uplink.flush_ms).expect("at most a day");
        let due = now.wall.plus_ms(-flush_ms - FRESH_MS);
        let is_durable = engine.depot().failure().is_none();
        let is_delivering = engine.uplink().link == LinkState::Delivering;
        let is_fresh = engine.oldest_owed_at().is_none_or(|oldest| oldest >= due);
        let is_still = gateway.queue.still_until(now_ms).is_some();
        !is_still && is_durable && is_delivering && is_fresh && now_ms >= gateway.started_ms + AFTER_MS
    };
    let remembers = world.plan.remembers || world.sources.is_some();
    let is_asked = remembers && world.center.asks_for(now_ms).is_some();
    silent(world).is_none()
        && world.center.committer.is_some()
        && world.center.is_idle()
        && world.worries().is_empty()
        && world.behind().is_none()
        && world.unsettled().is_none()
        && !is_asked
        && world.gateways.iter_mut().all(is_idle)
}

/// A device that is polled and has not answered since all was mended.
fn silent(world: &World) -> Option<&str> {
    let gateways = world.gateways.iter().enumerate();
    let mut polled = gateways.flat_map(|(no, gateway)| {
        let all = (0_u16..).map(DeviceIndex).zip(&world.oracle.devices[no]);
        let polled = all.filter(move |(index, _)| {
            gateway.memory(*index).is_none() && !world.is_polled_no_more(no, *index)
        });
        polled.map(move |(index, known)| ((no, index), known.name.as_str()))
    });
    let heard = |device: &(usize, DeviceIndex)| {
        world.oracle.heard_ms.get(device).is_some_and(|at_ms| *at_ms >= world.mended_ms)
    };
    polled.find(|(device, _)| !heard(device)).map(|(_, name)| name)
}

fn finish(mut world: World) -> Outcome {
    world.note_what_was_reached();
    let held = world.weigh();
    let findings = world.oracle.findings().to_vec();
    let mut digest =
        world.now_ms ^ world.net.traffic.delivered.rotate_left(17) ^ world.net.traffic.lost.rotate_left(29);
    for key in world.oracle.issued.keys() {
        digest = digest.rotate_left(5) ^ key.3.cast_unsigned();
    }
    for number in world.sources.iter().flat_map(Sources::numbers) {
        digest = digest.rotate_left(5) ^ number;
    }
    Outcome {
        findings,
        sometimes: world.sometimes,
        simulated_ms: world.now_ms,
        answers: world.oracle.issued.len() as u64,
        held,
        digest,
    }
}

impl World {
    /// Ends what still runs, and says what all that ended held of memory.
    fn weigh(&mut self) -> Held {
        self.gateways.iter_mut().for_each(|gateway| gateway.end(End::Killed));
        self.center.kill();
        self.note_forgotten();
        let agents = self.gateways.iter().map(|gateway| gateway.held_bytes);
        let held =
            Held { agent_bytes: agents.max().unwrap_or_default(), center_bytes: self.center.held_bytes };
        if let Some(what) = held.excess() {
            self.oracle.find("bounds", what);
        }
        held
    }

    /// What the run reached, as far as it shows in what is left of it.
    fn note_what_was_reached(&mut self) {
        for (no, history) in self.oracle.histories.iter().enumerate() {
            if history.lives.len() > 1 {
                self.sometimes.reach(Rare::EpochChange);
            }
            let log = tap::lock(&self.gateways[no].log);
            if !log.losses.is_empty() {
                self.sometimes.reach(Rare::LossRecord);
            }
            for (cause, rare) in [
                (gapless_common::quality::Cause::BudgetFull, Rare::BudgetFull),
                (gapless_common::quality::Cause::Quarantined, Rare::Quarantine),
            ] {
                if log.losses.iter().any(|loss| loss.cause == cause) {
                    self.sometimes.reach(rare);
                }
            }
            if log.torn > 0 {
                self.sometimes.reach(Rare::TornTail);
            }
        }
        if let Some(committer) = &self.center.committer {
            let counts = |sql: &str| {
                committer.connection().query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap_or(0) > 0
            };
            // Of events: see `gap_events` in the collector's schema.
            let rows = [
                (Rare::GapFilled, "gaps WHERE state = 2"),
                (Rare::ClockCorrected, "uncertain WHERE corrected_ts IS NOT NULL"),
                (
                    Rare::Remembered,
                    "gap_events f JOIN gap_events r ON r.gap = f.gap AND r.id < f.id WHERE f.event = 9 AND r.event = 3",
                ),
                (Rare::GapCut, "gap_events WHERE event = 10"),
                (Rare::NoData, "gap_events WHERE event = 4"),
                (Rare::Abandoned, "gap_events WHERE event = 6"),
                (Rare::Unasked, "gap_events WHERE event = 13"),
                (Rare::Reopened, "gap_events WHERE event = 8"),
                (Rare::Overwritten, "gaps WHERE cause = 20 AND state <> 2"),
                (Rare::LeaseTaken, "commands WHERE kind = 1 AND outcome = 1"),
                (Rare::Refreshed, "job_history WHERE outcome = 1"),
                (Rare::LentWhole, "gap_events WHERE event = 9 AND actor LIKE 'device %'"),
                (Rare::LentInPart, "gap_events WHERE event = 12"),
                (Rare::GaveWay, "gap_events WHERE event = 14"),
            ];
            for (rare, from) in rows {
                if counts(&format!("SELECT count(*) FROM {from}")) {
                    self.sometimes.reach(rare);
                }
            }
        }
        self.note_sources_reached();
        if !self.oracle.rolled_back.is_empty() {
            self.sometimes.reach(Rare::NewIncarnation);
        }
    }
}
