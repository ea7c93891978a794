//! What the end must look like for the collector's own sources: the database holds what was committed, bit for bit; each slot that is
//! due is stored, or in one gap with its true cause and a time at which it is asked for again, or given up by its schedule; and no
//! account was asked more often than it may be.

use std::collections::BTreeMap;

use gapless_common::quality::Cause;
use gapless_common::ranges::RangeSet;
use rusqlite::Connection;

use super::clock::{signed, truth};
use super::judge::{Findings, differing, holes, overlap, received, unsigned};
use super::mishap::policies;
use super::plan::Mischief;
use super::remote::Call;
use super::rest::FILLED;
use super::source::{Described, SITE, Sourcing};
use super::sourced::{PROVEN_INTERVALS, PROVEN_MS, Watch, account};
use super::world::World;

/// How far a device's schedule may be behind at the end, in ms: as long as the collector may take to look.
const LOOKED_MS: i64 = 60_000;

/// A gap as the database tells it.
#[derive(Debug)]
struct Gap {
    first: i64,
    last: i64,
    cause: i64,
    state: i64,
    attempts: u32,
    next_at: Option<i64>,
    sourceless: bool,
}

/// Everything, in the end.
pub(super) fn judge(world: &World, findings: &mut Findings) {
    let (Some(sources), Some(committer)) = (&world.sources, &world.center.committer) else { return };
    let state = sources.ground.state();
    let watch = &sources.watch;
    if let Some((place, _)) = watch.under_way.first_key_value() {
        findings.push(("conservation", format!("{place:?} was handed in, and is not committed")));
    }
    check_stored(committer.connection(), watch, findings).expect("the database reads");
    check_rates(world, &sources.plan, &state.calls, findings);
    for (described, utility) in sources.plan.devices() {
        let calls = state.calls.iter().filter(|call| call.api == described.no && call.utility == utility);
        let case = Case { world, described, utility, calls: calls.collect(), watch };
        if case.is_overdue() && !state.apis[described.no].meter.withdrawn.contains(utility) {
            let what = format!("{}: nothing was had of it since all is mended", described.device(utility));
            findings.push(("liveness", what));
        }
        case.check_slots(committer.connection(), findings).expect("the database reads");
    }
}

/// The database holds what was committed, bit for bit, and nothing else.
fn check_stored(database: &Connection, watch: &Watch, findings: &mut Findings) -> rusqlite::Result<()> {
    let sql = "SELECT d.name, r.ts, r.value FROM readings r JOIN series x ON x.id = r.series
        JOIN devices d ON d.id = x.device JOIN sites s ON s.id = d.site WHERE s.name = ?1";
    let mut statement = database.prepare(sql)?;
    let mut rows = statement.query([SITE])?;
    let mut there = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let bits = row.get::<_, Option<f64>>(2)?.map(f64::to_bits).unwrap_or_default();
        if there.insert((row.get::<_, String>(0)?, row.get::<_, i64>(1)?), bits).is_some() {
            findings.push(("conservation", format!("{:?} is stored twice", row.get::<_, i64>(1)?)));
        }
    }
    for (place, bits) in &watch.stored {
        if there.get(place) != Some(bits) {
            let is = there.get(place).copied().map(f64::from_bits);
            let what = format!("{place:?}: {} was committed, and {is:?} is stored", f64::from_bits(*bits));
            findings.push(("integrity", what));
        }
    }
    if let Some((place, bits)) = there.iter().find(|(place, _)| !watch.stored.contains_key(*place)) {
        let what = format!("{place:?}: {} is stored, and nobody told that", f64::from_bits(*bits));
        findings.push(("no invention", what));
    }
    Ok(())
}

/// No account was asked more often than it may be. What a database that was put back has forgotten, and what was counted by a
/// clock that was set, is left out.
fn check_rates(world: &World, plan: &Sourcing, calls: &[Call], findings: &mut Findings) {
    let mut by_account: BTreeMap<String, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        by_account.entry(account(&plan.described[call.api])).or_default().push(call);
    }
    let is_set = world.plan.has(Mischief::CenterClock);
    for (account, mut calls) in by_account {
        calls.sort_by_key(|call| call.at_ms);
        let rates = plan.described.iter().filter(|described| self::account(described) == account);
        for (most, per_ms) in rates.map(|described| described.rate) {
            let count = usize::try_from(most).expect("some dozens");
            let beyond = calls.windows(count + 1).find(|calls| {
                let (first_ms, last_ms) = (calls[0].at_ms, calls[count].at_ms);
                let is_in = |at_ms: u64| first_ms <= at_ms && at_ms <= last_ms;
                let was_put_back = world.oracle.rolled_back.iter().any(|at_ms| is_in(*at_ms));
                last_ms - first_ms < per_ms.unsigned_abs()
                    && !was_put_back
                    && !(is_set && is_in(world.mended_ms))
            });
            if let Some(beyond) = beyond {
                let what =
                    format!("{account}: more than {most} calls in {per_ms} ms from {:?} on", beyond[0]);
                findings.push(("calls within limits", what));
            }
        }
    }
}

/// A device of a source, to be judged.
struct Case<'a> {
    world: &'a World,
    described: &'a Described,
    utility: &'static str,
    calls: Vec<&'a Call>,
    watch: &'a Watch,
}

impl Case<'_> {
    /// Whether nothing came of it for longer than the source may leave it alone, though all is well.
    fn is_overdue(&self) -> bool {
        let (mended_ms, rested_ms) = (self.world.mended_ms, self.world.rested_ms);
        let Described { unreachable_ms, interval_ms, .. } = self.described;
        let alone_ms = unreachable_ms + PROVEN_INTERVALS * interval_ms + PROVEN_MS;
        let was_had = |call: &&Call| call.status == Some(200) && call.at_ms > mended_ms;
        signed(rested_ms.saturating_sub(mended_ms)) > alone_ms
            && !self.calls.iter().copied().any(|call| was_had(&call))
    }

    /// Up to the proof each slot that is due is stored or in one gap.
    fn check_slots(&self, database: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
        let (name, interval_ms) = (self.described.device(self.utility), self.described.interval_ms);
        let there = self.there(&name);
        let account = received(database, &name)?;
        let sql = "SELECT p.first_slot, p.last_slot, p.proven_slot FROM spans p JOIN grids g ON g.id = p.grid
            JOIN devices d ON d.id = g.device WHERE d.name = ?1 ORDER BY p.first_slot";
        let mut statement = database.prepare(sql)?;
        let spans = statement.query_map([&name], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
        let spans: Vec<(Option<i64>, Option<i64>, Option<i64>)> = spans.collect::<rusqlite::Result<_>>()?;
        let gaps = gaps(database, &name)?;
        let mut told = RangeSet::new();
        for gap in &gaps {
            told.insert(unsigned(gap.first), unsigned(gap.last));
            if let Some(what) = self.off_schedule(gap).map(str::to_owned).or_else(|| self.untrue(gap)) {
                findings.push(("true gaps of sources", format!("{name}: {gap:?}: {what}")));
            }
        }
        if let Some(slot) = told.iter().find_map(|(from, to)| overlap(&there, from, to)) {
            findings
                .push(("true gaps of sources", format!("{name}: slot {slot} is stored, and a gap holds it")));
        }
        for (first, last, proven) in &spans {
            let Some(first) = *first else { continue };
            // What ended is accounted for to its end; how far the others are is seen by `behind`.
            let Some(proven) = last.or(*proven) else { continue };
            for (from, to) in holes(&there, first, proven) {
                if let Some((slot, _)) = holes(&told, from, to).first() {
                    let what =
                        format!("{name}: slot {slot} was not received, and no gap holds it; {spans:?}");
                    findings.push(("true gaps of sources", what));
                }
            }
            if let Some(slot) = differing(&there, &account, first, proven) {
                let what = format!("{name}: slot {slot}: its account and its readings differ");
                findings.push(("true gaps of sources", what));
            }
        }
        let first = spans.iter().filter_map(|(first, ..)| *first).min();
        let oldest = self.described.oldest().0.div_euclid(interval_ms);
        if first.is_some_and(|first| first != oldest) {
            let what = format!("{name}: due from {first:?} on, and its API has values from {oldest} on");
            findings.push(("true gaps of sources", what));
        }
        Ok(())
    }

    /// The slots of which a value is there.
    fn there(&self, name: &str) -> RangeSet {
        let mut there = RangeSet::new();
        let places = self.watch.stored.range((name.to_owned(), i64::MIN)..=(name.to_owned(), i64::MAX));
        for ((_, at), _) in places {
            let slot = unsigned(at.div_euclid(self.described.interval_ms));
            there.insert(slot, slot);
        }
        there
    }

    /// A gap is asked for by its schedule, or given up by it.
    fn off_schedule(&self, gap: &Gap) -> Option<&'static str> {
        let policies = policies();
        let policy = policies.of(Some(self.described.class()));
        let rested = truth(self.world.rested_ms).0;
        let (most, is_due) = (policy.waits_ms.len(), gap.next_at.is_some_and(|at| at > rested - LOOKED_MS));
        // What a clock that was ahead took for missing waits for its time.
        let is_early = (gap.last + 1) * self.described.interval_ms > rested - LOOKED_MS;
        match gap.state {
            1 | 3 | 4 if is_due || is_early => None,
            1 | 3 | 4 => Some("nobody has asked for it in time"),
            5 if gap.sourceless || usize::try_from(gap.attempts) == Ok(most) => None,
            5 => Some("it was given up too early"),
            _ => Some("it is in no state that it can be in"),
        }
    }

    /// A gap has its true cause: an answer did not hold it, or its meter could not be reached.
    fn untrue(&self, gap: &Gap) -> Option<String> {
        let cause = u16::try_from(gap.cause).ok().and_then(Cause::from_code);
        let mut slots = gap.first..=gap.last;
        let lacked = |slot: &i64| {
            let at = slot * self.described.interval_ms;
            self.calls.iter().any(|call| call.lacks(at))
        };
        match cause {
            Some(Cause::NotRecorded) => {
                slots.find(|slot| !lacked(slot)).map(|slot| format!("each answer held slot {slot}"))
            }
            Some(Cause::NotConnected) => {
                let was_away = self.calls.iter().any(|call| matches!(call.status, Some(403 | 404)));
                (!was_away).then(|| "its meter could be asked all the time".to_owned())
            }
            _ => Some("nothing here can be the cause".to_owned()),
        }
    }
}

/// Those of a device that are not filled.
fn gaps(database: &Connection, device: &str) -> rusqlite::Result<Vec<Gap>> {
    let sql =
        "SELECT p.first_slot, p.last_slot, p.cause, p.state, p.attempts, p.next_at, p.sourceless FROM gaps p
        JOIN grids g ON g.id = p.grid JOIN devices d ON d.id = g.device WHERE d.name = ?1 AND p.state <> ?2";
    let mut statement = database.prepare(sql)?;
    let gap = |r: &rusqlite::Row<'_>| {
        Ok(Gap {
            first: r.get(0)?,
            last: r.get(1)?,
            cause: r.get(2)?,
            state: r.get(3)?,
            attempts: r.get(4)?,
            next_at: r.get(5)?,
            sourceless: r.get(6)?,
        })
    };
    statement.query_map(rusqlite::params![device, FILLED], gap)?.collect()
}
