//! What holds of the collector's own sources as they go: what an API told is handed in bit for bit, and nothing else is; no call is
//! made that the API or its consent forbids, and no slot is asked for twice in a turn. What the end must look like is `supplied`'s.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::quality::Cause;
use gapless_common::reading::{Misses, Record, Value};
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;
use gapless_common::wire::{self, Message};
use rusqlite::{Connection, OptionalExtension as _};

use super::clock::truth;
use super::judge::Findings;
use super::remote::{Call, Handed, State};
use super::rest::FILLED;
use super::sometimes::Rare;
use super::source::{Described, SITE, Sourcing};
use super::world::World;

/// A device that is refused before anything of it is known is asked again after this time, in ms.
const REFUSED_MS: u64 = 7 * 86_400_000;
/// Beyond its lag and a few intervals a slot is accounted for within this time, in ms: a job that failed is tried again within five
/// minutes, and jobs of a rhythm are found within seven.
pub(super) const PROVEN_MS: i64 = 720_000;
/// The same in intervals: one to its poll, one more where that has just been.
pub(super) const PROVEN_INTERVALS: i64 = 3;

/// A device and an instant.
type Place = (String, i64);

/// What the oracle knows of sources as they go.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// What was handed in in this life of the collector.
    spoken: BTreeMap<Place, u64>,
    /// What of it is not committed yet.
    pub(super) under_way: BTreeMap<Place, u64>,
    /// What is committed, and what was as the database was backed up.
    pub(super) stored: BTreeMap<Place, u64>,
    backup: BTreeMap<Place, u64>,
    /// Devices whose consent was withdrawn, as far as this life of the collector knows, and until when they are not asked, in ms of
    /// the run: one of which nothing was known yet is asked again.
    withdrawn: BTreeMap<(usize, String), u64>,
    /// Until when each account is to be left alone, in ms of the run.
    rests_until: BTreeMap<String, u64>,
    /// When each agent was born last.
    born_ms: BTreeMap<String, u64>,
}

impl Watch {
    /// The collector has started over this database.
    pub(super) fn begin(&mut self, plan: &Sourcing, database: &Connection) -> rusqlite::Result<()> {
        for (described, utility) in plan.devices() {
            let Some((consent, true)) = standing(database, &described.device(utility))? else { continue };
            if consent == described.consent.to_string() {
                self.withdrawn.insert((described.no, utility.to_owned()), u64::MAX);
            }
        }
        Ok(())
    }

    /// It has ended.
    pub(super) fn end(&mut self) {
        self.spoken.clear();
        self.under_way.clear();
        self.withdrawn.clear();
        self.rests_until.clear();
    }

    /// How long an account is to be left alone is reckoned by a clock that was set forward.
    pub(super) fn forget_rests(&mut self) {
        self.rests_until.clear();
    }

    /// A turn was carried out, and this is what it hands in.
    pub(super) fn note_turn(&mut self, plan: &Sourcing, state: &State, handed: &[(u64, Handed)]) -> Findings {
        let calls: Vec<&Call> = state.calls.iter().rev().take_while(|call| call.turn == state.turn).collect();
        let calls: Vec<&Call> = calls.into_iter().rev().collect();
        let mut findings = Findings::new();
        for (at, call) in calls.iter().enumerate() {
            self.check_call(plan, call, &mut findings);
            check_windows(plan, &calls[..at], call, &mut findings);
        }
        let mut began = BTreeSet::new();
        for (_, handed) in handed {
            let Handed::Message(message) = handed else { continue };
            let Some((path, records)) = records(&message.topic, &message.payload) else { continue };
            for record in records {
                match record {
                    Record::Start(_) => {
                        began.insert(path.agent.to_string());
                    }
                    Record::Readings(readings) => {
                        let samples = readings.samples.iter().filter_map(|sample| sample.value.as_ref());
                        for value in samples {
                            let told = (path.agent.as_str(), readings.at.0, value);
                            self.note_spoken(plan, &calls, told, &mut findings);
                        }
                    }
                    Record::Misses(misses) => {
                        let of =
                            plan.devices().find(|(one, utility)| one.agent(utility) == path.agent.as_str());
                        findings.extend(of.and_then(|of| untrue(of, &misses, &state.calls)));
                    }
                    _ => {}
                }
            }
        }
        if state.died_ms.is_none() {
            self.check_told(plan, &calls, &began, &mut findings);
        }
        findings
    }

    /// Whether a call may be made: nobody has refused it.
    fn check_call(&mut self, plan: &Sourcing, call: &Call, findings: &mut Findings) {
        let (described, of) = (&plan.described[call.api], (call.api, call.utility.clone()));
        if let Some(until_ms) = self.withdrawn.get(&of).filter(|until_ms| call.at_ms < **until_ms) {
            findings.push(("consent", format!("{call:?}, though it was withdrawn, until {until_ms} ms")));
        }
        let account = account(described);
        if let Some(until_ms) = self.rests_until.get(&account).filter(|until_ms| call.at_ms < **until_ms) {
            findings
                .push(("calls within limits", format!("{call:?}, though it is to rest until {until_ms} ms")));
        }
        if call.window.1.since_ms(call.window.0) > described.window_ms {
            findings.push(("calls within limits", format!("{call:?}: its window is too long")));
        }
        if call.status == Some(403) {
            let device = described.device(&call.utility);
            let is_known =
                self.stored.range((device.clone(), i64::MIN)..=(device, i64::MAX)).next().is_some();
            self.withdrawn.insert(of, if is_known { u64::MAX } else { call.answered_ms + REFUSED_MS });
        }
        if let Some(rest_ms) = call.rest_ms {
            self.rests_until.insert(account, call.at_ms + rest_ms);
        }
    }

    /// A reading is handed in: the API has told it in this turn.
    fn note_spoken(
        &mut self,
        plan: &Sourcing,
        calls: &[&Call],
        (agent, at, value): (&str, i64, &Value),
        findings: &mut Findings,
    ) {
        let of = plan.devices().find(|(described, utility)| described.agent(utility) == agent);
        let Value::Number(value) = value else {
            return findings.push(("no invention", format!("{agent} at {at}: {value:?} is no number")));
        };
        let bits = value.to_bits();
        let is_told = |call: &&Call| {
            let is_it = |(described, utility): (&Described, &str)| {
                described.no == call.api && utility == call.utility
            };
            of.is_some_and(is_it) && call.rows.get(&at) == Some(&bits)
        };
        if !calls.iter().any(is_told) {
            findings.push(("no invention", format!("{agent} at {at}: {value}, and no API told that")));
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
            let rows =
                call.rows.keys().filter(|at| **at > call.window.0.0 || **at == call.window.0.0 && !goes_on);
            for at in rows {
                // What another answer of the turn said later counts.
                let told: Vec<u64> = own().filter_map(|call| call.rows.get(at).copied()).collect();
                let spoken = self.spoken.get(&(device.clone(), *at));
                if !spoken.is_some_and(|bits| told.contains(bits)) {
                    let what =
                        format!("{device} at {at} was told at {} ms, and is not handed in", call.at_ms);
                    findings.push(("conservation", what));
                }
            }
        }
    }

    /// A message of a source is committed. Returns whether a value took the place of another one.
    fn note_committed(&mut self, plan: &Sourcing, now_ms: u64, topic: &str, payload: &[u8]) -> bool {
        let Some((path, records)) = records(topic, payload) else {
            if let Some((path, _)) = AgentPath::parse_up(topic).filter(|(path, _)| path.site.as_str() == SITE)
            {
                self.born_ms.insert(path.agent.to_string(), now_ms);
            }
            return false;
        };
        let agent = path.agent.as_str();
        let of = plan.devices().find(|(described, utility)| described.agent(utility) == agent);
        let Some(device) = of.map(|(described, utility)| described.device(utility)) else { return false };
        let mut is_other = false;
        for record in records {
            let Record::Readings(readings) = record else { continue };
            for value in readings.samples.iter().filter_map(|sample| sample.value.as_ref()) {
                let Value::Number(value) = value else { continue };
                let place = (device.clone(), readings.at.0);
                self.under_way.remove(&place);
                let before = self.stored.insert(place, value.to_bits());
                is_other |= before.is_some_and(|before| before != value.to_bits());
            }
        }
        is_other
    }
}

impl World {
    /// A message was committed: it may be one of a source.
    pub(super) fn note_source(&mut self, topic: &str, payload: &[u8]) {
        let now_ms = self.now_ms;
        let Some(sources) = &mut self.sources else { return };
        if sources.watch.note_committed(&sources.plan, now_ms, topic, payload) {
            self.sometimes.reach(Rare::RemoteCorrected);
        }
    }

    /// The collector's database is backed up, or put back.
    pub(super) fn note_sources_backed_up(&mut self, is_put_back: bool) {
        let Some(sources) = &mut self.sources else { return };
        let Watch { stored, backup, .. } = &mut sources.watch;
        if is_put_back { stored.clone_from(backup) } else { backup.clone_from(stored) }
    }

    /// When an agent of a source was last born.
    pub(super) fn source_born_ms(&self, path: &str) -> Option<u64> {
        let agent = path.strip_prefix(SITE)?.strip_prefix('/')?;
        let sources = self.sources.as_ref()?;
        Some(sources.watch.born_ms.get(agent).copied().unwrap_or_default())
    }

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

    /// A device of a source of which something is due that is not there.
    pub(super) fn behind(&self) -> Option<String> {
        let (sources, committer) = (self.sources.as_ref()?, self.center.committer.as_ref()?);
        let state = sources.ground.state();
        let asked = sources
            .plan
            .devices()
            .filter(|(described, utility)| !state.apis[described.no].meter.withdrawn.contains(*utility));
        let mut late = asked.filter_map(|(described, utility)| {
            let device = described.device(utility);
            let until = proven(committer.connection(), &device).expect("the database reads");
            let beyond_ms = described.lag_ms + PROVEN_INTERVALS * described.interval_ms + PROVEN_MS;
            (until.is_none_or(|until| until < truth(self.now_ms).plus_ms(-beyond_ms))).then_some(device)
        });
        late.next()
    }

    /// What the run reached of them.
    pub(super) fn note_sources_reached(&mut self) {
        let (Some(sources), Some(committer)) = (&self.sources, &self.center.committer) else { return };
        let calls = &sources.ground.state().calls;
        let rested = calls.iter().find(|call| call.rest_ms.is_some());
        let went_on =
            |call: &Call| rested.is_some_and(|rested| rested.at_ms < call.at_ms && call.status == Some(200));
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
            (Rare::RemoteUnreached, format!("{gaps} AND p.cause = {}", Cause::NotConnected.code())),
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
    if described.account.is_empty() { format!("m{}", described.no) } else { described.account.to_owned() }
}

/// Why slots are not missing for the reason that is told, where that is so: an answer did not hold them, or their meter could not be
/// asked.
fn untrue(
    (described, utility): (&Described, &str),
    misses: &Misses,
    calls: &[Call],
) -> Option<(&'static str, String)> {
    let own = || calls.iter().rev().filter(|call| call.api == described.no && call.utility == utility);
    let is_true = |slot: i64| {
        let at = slot * described.interval_ms;
        match misses.cause {
            Cause::NotRecorded => own().any(|call| call.lacks(at)),
            Cause::NotConnected => own().any(|call| matches!(call.status, Some(403 | 404))),
            _ => false,
        }
    };
    let mut slots = misses.first.0..misses.first.0 + i64::from(misses.count);
    let wrong = slots.find(|slot| !is_true(*slot))?;
    let what = format!("{}: {misses:?}, and that is not so of slot {wrong}", described.device(utility));
    Some(("true causes", what))
}

/// No slot is asked for twice within a turn, but for what is read again each time.
fn check_windows(plan: &Sourcing, before: &[&Call], call: &Call, findings: &mut Findings) {
    let overlap_ms = plan.described[call.api].overlap_ms;
    let is_same = |other: &&&Call| other.api == call.api && other.utility == call.utility;
    let twice = before.iter().filter(is_same).find(|other| {
        let (from, to) = (other.window.0.max(call.window.0), other.window.1.min(call.window.1));
        other.status == Some(200) && to.since_ms(from) > overlap_ms
    });
    if let Some(other) = twice {
        findings.push(("asked once", format!("{call:?} in the same turn as {other:?}")));
    }
}

/// The records of a frame of a source.
fn records(topic: &str, payload: &[u8]) -> Option<(AgentPath, Vec<Record>)> {
    let (path, _) = AgentPath::parse_up(topic).filter(|(path, _)| path.site.as_str() == SITE)?;
    match wire::decode(payload) {
        Ok(Message::Data(frame)) => Some((path, frame.records)),
        _ => None,
    }
}

/// By which consent a device was asked last, and whether that is withdrawn.
fn standing(database: &Connection, device: &str) -> rusqlite::Result<Option<(String, bool)>> {
    let sql =
        "SELECT coalesce(d.attributes ->> 'consent', ''), d.attributes ->> 'not_authorised_since' IS NOT NULL
        FROM devices d JOIN sites s ON s.id = d.site WHERE s.name = ?1 AND d.name = ?2";
    database.query_row(sql, [SITE, device], |r| Ok((r.get(0)?, r.get(1)?))).optional()
}

/// Up to which instant a device is accounted for.
fn proven(database: &Connection, device: &str) -> rusqlite::Result<Option<Timestamp>> {
    let sql = "SELECT max((p.proven_slot + 1) * g.interval_ms) FROM spans p JOIN grids g ON g.id = p.grid
        JOIN devices d ON d.id = g.device WHERE d.name = ?1";
    database.query_row(sql, [device], |r| Ok(r.get::<_, Option<i64>>(0)?.map(Timestamp)))
}
