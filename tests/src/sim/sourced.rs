//! What holds of the collector's own sources as they go: what an API told is handed in bit for bit, and nothing else is; no call is
//! made that the API or its consent forbids, and no slot is asked for twice in a turn. What the end must look like is `supplied`'s.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::quality::Cause;
use gapless_common::reading::{Misses, Record, Value};
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;
use gapless_common::wire::{self, Message};
use rusqlite::Connection;

use super::clock::truth;
use super::described::{Described, SITE};
use super::dropped::is_drop;
use super::judge::Findings;
use super::kept::{Kept, Of, Place, Told, is_marked};
use super::listed::{Lists, removed_at};
use super::passes::Passes;
use super::remote::{Call, Handed, State};
use super::rest::FILLED;
use super::sometimes::Rare;
use super::source::Sourcing;
use super::spared::Spared;
use super::world::World;

/// A device that is refused before anything of it is known is asked again after this time, in ms.
const REFUSED_MS: i64 = 7 * 86_400_000;
/// Beyond its lag and a few intervals a slot is accounted for within this time, in ms: a job that failed is tried again within five
/// minutes, and jobs of a rhythm are found within seven.
pub(super) const PROVEN_MS: i64 = 720_000;
/// The same in intervals: one to its poll, one more where that has just been.
pub(super) const PROVEN_INTERVALS: i64 = 3;

/// What the oracle knows of sources as they go.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// What was handed in in this life of the collector.
    spoken: BTreeMap<Place, Option<u64>>,
    /// What of it is not committed yet.
    pub(super) under_way: BTreeMap<Place, Option<u64>>,
    /// What is committed, and what was as the database was backed up, with what was under way then.
    pub(super) kept: Kept,
    pub(super) backup: (Kept, BTreeMap<Place, Option<u64>>),
    /// What was handed in and came to nothing, as the collector was killed or its database put back: when that was last.
    pub(super) lost: BTreeMap<Place, u64>,
    /// Agents that have begun in this life of the collector, and when.
    begun: BTreeMap<String, u64>,
    /// Meters whose consent was withdrawn, as far as this life of the collector knows, and until when they are not asked, by its
    /// clock: one of which nothing was known yet is asked again.
    pub(super) withdrawn: BTreeMap<Of, Timestamp>,
    /// Until when each account is to be left alone, by the collector's clock.
    rests_until: BTreeMap<String, Timestamp>,
    /// Slots that are missing because their meter could not be reached.
    pub(super) unreached: BTreeSet<Place>,
    /// When each agent was born last.
    pub(super) born_ms: BTreeMap<String, u64>,
    /// What need not be asked.
    pub(super) spared: Spared,
    /// The tokens in force.
    pub(super) passes: Passes,
    /// Whom the lists name.
    pub(super) lists: Lists,
}

impl Watch {
    /// The collector has started over this database: it knows whose consent was withdrawn.
    pub(super) fn begin(&mut self, plan: &Sourcing, database: &Connection) -> rusqlite::Result<Findings> {
        for (described, utility) in plan.devices() {
            if self.is_refused(described, utility) {
                self.withdrawn.insert((described.no, utility.to_owned()), Timestamp(i64::MAX));
            }
        }
        self.lists.begin(self.kept.removed.keys().cloned().collect());
        let mut findings = self.check_marks(plan, database)?;
        findings.extend(self.check_removed(plan, database)?);
        Ok(findings)
    }

    /// It has ended.
    pub(super) fn end(&mut self, now_ms: u64) {
        self.spoken.clear();
        self.lose(now_ms);
        self.begun.clear();
        self.withdrawn.clear();
        self.rests_until.clear();
        self.spared.end();
        self.passes.end();
        self.lists.end();
        // What it never heard it was not told.
        self.kept.told.retain(|_, told| told.at_ms < now_ms);
    }

    /// The collector's clock was set back: what is still so far off that it was reckoned before that is asked at once.
    pub(super) fn note_set_back(&mut self) {
        self.withdrawn.retain(|_, until| *until == Timestamp(i64::MAX));
        self.passes.note_set_back();
    }

    /// A turn was carried out, and this is what it hands in.
    pub(super) fn note_turn(&mut self, plan: &Sourcing, state: &State, handed: &[(u64, Handed)]) -> Findings {
        let calls = state.calls_of_turn();
        let mut findings = Findings::new();
        let records = handed.iter().flat_map(|(at_ms, handed)| of(*at_ms, handed));
        let (dropped, records): (Vec<_>, Vec<(u64, AgentPath, Record)>) =
            records.partition(|(_, path, _)| is_drop(path));
        findings.extend(self.note_dropped(state, &dropped));
        let mut began = BTreeSet::new();
        for (at_ms, path, _) in records.iter().filter(|(.., record)| matches!(record, Record::Start(_))) {
            began.insert(path.agent.to_string());
            self.begun.insert(path.agent.to_string(), *at_ms);
        }
        for (at, call) in calls.iter().enumerate() {
            self.check_call(plan, call, &mut findings);
            check_windows(plan, &calls[..at], call, &mut findings);
        }
        let (mut marked, mut removed) = (BTreeSet::new(), BTreeSet::new());
        for (_, path, record) in &records {
            if let Record::Catalog(catalog) = record
                && removed_at(&catalog.bytes).is_some()
            {
                removed.insert(path.agent.to_string());
            }
        }
        findings.extend(self.lists.note_turn(plan, &calls, &records));
        for (at_ms, path, record) in &records {
            let agent = path.agent.as_str();
            match record {
                Record::Readings(readings) => {
                    for sample in &readings.samples {
                        let told = (agent, readings.at.0, sample.value.as_ref());
                        self.note_spoken((plan, state), &calls, told, &mut findings);
                    }
                }
                Record::Misses(misses) => {
                    let meter = plan.devices().find(|(one, utility)| one.agent(utility) == agent);
                    let Some(meter) = meter else { continue };
                    // That it is removed is held to its list, and ends what is due of it.
                    if misses.cause == Cause::NotRecorded && removed.contains(agent) {
                        continue;
                    }
                    findings.extend(self.untrue(meter, misses, state, *at_ms));
                }
                Record::Catalog(catalog) if is_marked(&catalog.bytes) => {
                    marked.insert(agent);
                }
                _ => {}
            }
        }
        if !state.is_dead() {
            self.check_told(plan, &calls, &began, &mut findings);
            let is_by_call = |call: &&&Call| plan.described[call.api].listing.is_none();
            for call in calls.iter().filter(|call| call.status == Some(403)).filter(is_by_call) {
                let agent = plan.described[call.api].agent(&call.utility);
                if self.has_begun(&agent, call.at_ms) && !marked.contains(agent.as_str()) {
                    findings.push(("consent", format!("{call:?}, and the device does not say so")));
                }
            }
        }
        self.note_told(plan, state, &calls, &began);
        findings
    }

    fn has_begun(&self, agent: &str, at_ms: u64) -> bool {
        self.begun.get(agent).is_some_and(|begun_ms| *begun_ms <= at_ms)
    }

    /// Whether a call may be made: nobody has refused it.
    fn check_call(&mut self, plan: &Sourcing, call: &Call, findings: &mut Findings) {
        let (described, of) = (&plan.described[call.api], (call.api, call.utility.clone()));
        if let Some(until) = self.withdrawn.get(&of).filter(|until| call.at < **until) {
            findings.push(("consent", format!("{call:?}, though it was withdrawn, until {until}")));
        }
        let account = account(described);
        if let Some(until) = self.rests_until.get(&account).filter(|until| call.at < **until) {
            findings.push(("calls within limits", format!("{call:?}, though it is to rest until {until}")));
        }
        if call.window.1.since_ms(call.window.0) > described.window_ms {
            findings.push(("calls within limits", format!("{call:?}: its window is too long")));
        }
        // Where there is a list, it tells who may be asked.
        if call.status == Some(403) && described.listing.is_none() {
            let is_known = self.has_begun(&described.agent(&call.utility), call.at_ms);
            let until = if is_known { Timestamp(i64::MAX) } else { call.answered().plus_ms(REFUSED_MS) };
            self.withdrawn.insert(of, until);
        }
        if let Some(until) = call.rest_until {
            self.rests_until.insert(account, until);
        }
    }

    /// What each answer of a turn said of the instants that it was asked for, by what the meter had. The first question of all to a
    /// device only asks how far back there is anything, and one that begins within a minute cannot say so.
    fn note_told(&mut self, plan: &Sourcing, state: &State, calls: &[&Call], began: &BTreeSet<String>) {
        for call in calls.iter().filter(|call| call.is_answered()) {
            let described = &plan.described[call.api];
            if began.contains(&described.agent(&call.utility)) {
                continue;
            }
            let (device, meter) = (described.device(&call.utility), &state.apis[call.api].meter);
            let first = call.window.0.0.div_euclid(described.interval_ms) + 1;
            let instants =
                (first..).map(|slot| slot * described.interval_ms).take_while(|at| *at < call.window.1.0);
            for at in instants {
                let is_had =
                    !call.is_emptied && meter.has(&call.utility, Timestamp(at), truth(call.answered_ms));
                self.kept.told.insert((device.clone(), at), Told { at_ms: call.answered_ms, is_had });
            }
        }
    }

    /// A reading is handed in: the API has told it in this turn, or before as a change of one that was not read since.
    fn note_spoken(
        &mut self,
        (plan, state): (&Sourcing, &State),
        calls: &[&Call],
        (agent, at, value): (&str, i64, Option<&Value>),
        findings: &mut Findings,
    ) {
        let of = plan.devices().find(|(described, utility)| described.agent(utility) == agent);
        let bits = match value {
            Some(Value::Number(value)) => Some(value.to_bits()),
            None => None,
            Some(other) => {
                return findings.push(("no invention", format!("{agent} at {at}: {other:?} is no number")));
            }
        };
        let is_told = |call: &&Call| {
            let is_it = |(described, utility): (&Described, &str)| {
                described.no == call.api && utility == call.utility
            };
            of.is_some_and(is_it) && call.rows.get(&at) == Some(&bits)
        };
        let is_by_cursor = |(described, utility): (&Described, &str)| {
            let place = (utility.to_owned(), at);
            let mut own = state.life().filter(|call| call.api == described.no);
            own.any(|call| call.heard.rows.get(&place) == Some(&bits))
        };
        if !calls.iter().any(is_told) && !of.is_some_and(is_by_cursor) {
            findings.push(("no invention", format!("{agent} at {at}: {value:?}, and no API told that")));
        }
        let device = of.map(|(described, utility)| described.device(utility)).unwrap_or_default();
        self.spoken.insert((device.clone(), at), bits);
        self.under_way.insert((device, at), bits);
    }

    /// What the API told in a turn is handed in by its end, but for what is known already. The first question of all to a device
    /// only asks how far back there is anything.
    fn check_told(
        &self,
        plan: &Sourcing,
        calls: &[&Call],
        began: &BTreeSet<String>,
        findings: &mut Findings,
    ) {
        for call in calls {
            let described = &plan.described[call.api];
            let device = described.device(&call.utility);
            if began.contains(&described.agent(&call.utility)) {
                continue;
            }
            let is_same = |other: &&&Call| other.api == call.api && other.utility == call.utility;
            let own = || calls.iter().filter(is_same);
            // What goes on after another answer may begin later within its first minute than its question can say.
            let goes_on = own().any(|other| {
                other.at_ms < call.at_ms && call.window.0 <= other.window.1 && other.window.0 < call.window.0
            });
            let of = (call.api, call.utility.clone());
            let rows =
                call.rows.keys().filter(|at| **at > call.window.0.0 || **at == call.window.0.0 && !goes_on);
            let rows = rows.filter(|at| !self.lists.is_before_back(&of, **at));
            for at in rows {
                // What another answer of the turn said later counts.
                let told: Vec<Option<u64>> = own().filter_map(|call| call.rows.get(at).copied()).collect();
                let spoken = self.spoken.get(&(device.clone(), *at));
                if !spoken.is_some_and(|bits| told.contains(bits)) {
                    let what =
                        format!("{device} at {at} was told at {} ms, and is not handed in", call.at_ms);
                    findings.push(("conservation", what));
                }
            }
        }
    }

    /// Why slots are not missing for the reason that is told at this moment, where that is so: they were asked for at or after their
    /// lag, or once a later one was there, and the last answer did not hold them; or the last call was refused.
    fn untrue(
        &mut self,
        (described, utility): (&Described, &str),
        misses: &Misses,
        state: &State,
        at_ms: u64,
    ) -> Option<(&'static str, String)> {
        let own = || {
            let calls = state.calls.iter().rev();
            calls.filter(|call| {
                call.api == described.no && call.utility == utility && call.answered_ms <= at_ms
            })
        };
        let last = own().next().and_then(|call| call.status);
        let newest = own().filter_map(|call| call.rows.last_key_value()).map(|(at, _)| *at).max();
        let newest = newest.max(state.told_by_cursor(described.no, utility).map(|(at, _)| at).max());
        let is_true = |slot: i64| {
            let at = slot * described.interval_ms;
            let is_settled = |call: &Call| {
                call.at.since_ms(Timestamp(at)) >= described.lag_ms
                    || newest.is_some_and(|newest| at < newest)
            };
            match misses.cause {
                Cause::NotRecorded => {
                    let mut asked = own().filter(|call| call.is_answered() && call.asks_for(at));
                    let is_lacked = asked.next().is_some_and(|call| call.lacks(at) && is_settled(call));
                    is_lacked || state.is_nothing_new(described.no, utility, (at, at_ms), is_settled)
                }
                Cause::NotConnected => matches!(last, Some(403 | 404)),
                _ => false,
            }
        };
        let mut slots = misses.first.0..misses.first.0 + i64::from(misses.count);
        if misses.cause == Cause::NotConnected && last == Some(404) {
            self.unreached.extend(slots.clone().map(|slot| (described.device(utility), slot)));
        }
        let wrong = slots.find(|slot| !is_true(*slot))?;
        let what = format!("{}: {misses:?}, and that is not so of slot {wrong}", described.device(utility));
        Some(("true causes", what))
    }
}

impl World {
    /// Whether the API of a device has ever answered with this status.
    pub(super) fn was_answered(&self, device: &str, status: u16) -> bool {
        let Some(sources) = &self.sources else { return false };
        let of = sources.plan.devices().find(|(described, utility)| described.device(utility) == device);
        of.is_some_and(|(described, utility)| {
            let state = sources.ground.state();
            let mut calls = state.calls.iter();
            calls.any(|call| {
                call.api == described.no && call.utility == utility && call.status == Some(status)
            })
        })
    }

    /// A device of a source of which something is due that is not there, or not as its API has it.
    pub(super) fn behind(&self) -> Option<String> {
        let (sources, committer) = (self.sources.as_ref()?, self.center.committer.as_ref()?);
        let state = sources.ground.state();
        let asked = sources.plan.devices().filter(|(described, utility)| {
            let api = &state.apis[described.no];
            !api.meter.withdrawn.contains(*utility) && api.names(utility, self.now_ms)
        });
        let mut late = asked.filter_map(|(described, utility)| {
            let device = described.device(utility);
            let until = proven(committer.connection(), &device).expect("the database reads");
            let beyond_ms = described.lag_ms + PROVEN_INTERVALS * described.interval_ms + PROVEN_MS;
            (until.is_none_or(|until| until < truth(self.now_ms).plus_ms(-beyond_ms))).then_some(device)
        });
        let late = late.next();
        drop(state);
        late.or_else(|| self.mislisted()).or_else(|| self.undropped()).or_else(|| self.outdated())
    }

    /// What the run reached of them.
    pub(super) fn note_sources_reached(&mut self) {
        self.note_changes_reached();
        self.note_tokens_reached();
        self.note_lists_reached();
        self.note_drop_reached();
        let (Some(sources), Some(committer)) = (&self.sources, &self.center.committer) else { return };
        let calls = &sources.ground.state().calls;
        let described = &sources.plan.described;
        let went_on = |rested: &Call| {
            let account = account(&described[rested.api]);
            rested.rest_until.is_some_and(|until| {
                let later = calls.iter().filter(|call| call.is_answered() && call.at >= until);
                later
                    .filter(|call| call.start == rested.start)
                    .any(|call| self::account(&described[call.api]) == account)
            })
        };
        if calls.iter().any(went_on) {
            self.sometimes.reach(Rare::RemoteRested);
        }
        let counts = |sql: &str| {
            let sql = format!("SELECT EXISTS ({sql})");
            committer
                .connection()
                .query_row(&sql, [SITE], |r| r.get::<_, bool>(0))
                .expect("the database reads")
        };
        let gaps = "SELECT 1 FROM gaps p JOIN grids g ON g.id = p.grid JOIN devices d ON d.id = g.device
            JOIN sites s ON s.id = d.site WHERE s.name = ?1";
        let rows = [
            (Rare::RemoteFilled, format!("{gaps} AND p.state = {FILLED} AND p.attempts + p.failures > 0")),
            (
                Rare::ConsentWithdrawn,
                "SELECT 1 FROM devices d JOIN sites s ON s.id = d.site WHERE s.name = ?1
                    AND d.attributes ->> 'not_authorised_since' IS NOT NULL"
                    .to_owned(),
            ),
        ];
        for (rare, sql) in rows {
            if counts(&sql) {
                self.sometimes.reach(rare);
            }
        }
    }
}

/// The account of a source, as calls are counted.
pub(super) fn account(described: &Described) -> String {
    if described.account.is_empty() {
        format!("{}/m{}", described.site, described.no)
    } else {
        described.account.to_owned()
    }
}

/// No slot is asked for twice within a turn, but for what is read again each time.
fn check_windows(plan: &Sourcing, before: &[&Call], call: &Call, findings: &mut Findings) {
    let described = &plan.described[call.api];
    // Where all is read anew what is missing may be asked for beside it.
    let overlap_ms = described.way.changes().map_or(0, |changes| changes.back_ms).max(described.overlap_ms);
    let is_same = |other: &&&Call| other.api == call.api && other.utility == call.utility;
    let twice = before.iter().filter(is_same).find(|other| {
        let (from, to) = (other.window.0.max(call.window.0), other.window.1.min(call.window.1));
        other.is_answered() && to.since_ms(from) > overlap_ms
    });
    if let Some(other) = twice {
        findings.push(("asked once", format!("{call:?} in the same turn as {other:?}")));
    }
}

/// The records of a frame that a source hands in at that instant.
fn of(at_ms: u64, handed: &Handed) -> Vec<(u64, AgentPath, Record)> {
    let Handed::Message(message) = handed else { return Vec::new() };
    let path = AgentPath::parse_up(&message.topic).map(|(path, _)| path);
    match (path, wire::decode(&message.payload)) {
        (Some(path), Ok(Message::Data(frame))) => {
            frame.records.into_iter().map(|record| (at_ms, path.clone(), record)).collect()
        }
        _ => Vec::new(),
    }
}

/// Up to which instant a device is accounted for.
pub(super) fn proven(database: &Connection, device: &str) -> rusqlite::Result<Option<Timestamp>> {
    let sql = "SELECT max((p.proven_slot + 1) * g.interval_ms) FROM spans p JOIN grids g ON g.id = p.grid
        JOIN devices d ON d.id = g.device WHERE d.name = ?1";
    database.query_row(sql, [device], |r| Ok(r.get::<_, Option<i64>>(0)?.map(Timestamp)))
}
