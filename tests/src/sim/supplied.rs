//! What the end must look like for the collector's own sources: the database holds what was committed, bit for bit; what an API had
//! as it was asked last is stored; each other slot that is due is in one gap with its true cause, which stands where its schedule
//! says, each attempt of it with calls of its own; and no account was asked more often than it may be.

use std::collections::BTreeMap;

use gapless_common::time::Timestamp;
use rusqlite::Connection;

use super::clock::{signed, truth};
use super::described::{Described, SITE};
use super::folder::DEVICE;
use super::judge::Findings;
use super::kept::Told;
use super::mishap::policies;
use super::plan::Mischief;
use super::remote::Call;
use super::schedule::{ASKED, FAILED, Gap, NO_DATA, OPENED, REOPENED, Wrong};
use super::slots::{Slots, Span, spans};
use super::source::Sourcing;
use super::sourced::{PROVEN_INTERVALS, PROVEN_MS, Watch, account};
use super::world::World;

/// How far a device's schedule may be behind at the end, in ms: as long as the collector may take to look.
pub(super) const LOOKED_MS: i64 = 60_000;

/// Everything, in the end.
pub(super) fn judge(world: &World, findings: &mut Findings) {
    let (Some(sources), Some(committer)) = (&world.sources, &world.center.committer) else { return };
    world.judge_drop(findings);
    let state = sources.ground.state();
    let watch = &sources.watch;
    if let Some((place, _)) = watch.under_way.first_key_value() {
        findings.push(("conservation", format!("{place:?} was handed in, and is not committed")));
    }
    check_stored(committer.connection(), &sources.plan, watch, findings).expect("the database reads");
    findings.extend(watch.check_marks(&sources.plan, committer.connection()).expect("the database reads"));
    findings.extend(watch.check_removed(&sources.plan, committer.connection()).expect("the database reads"));
    check_rates(world, &sources.plan, &state.calls, findings);
    for (described, utility) in sources.plan.devices() {
        let calls = state.calls.iter().filter(|call| call.api == described.no && call.utility == utility);
        let is_withdrawn = state.apis[described.no].meter.withdrawn.contains(utility);
        let removed_at = watch.removed_at(described, utility);
        let is_named = state.apis[described.no].names(utility, world.rested_ms);
        let case =
            Case { world, described, utility, calls: calls.collect(), watch, is_withdrawn, removed_at };
        if case.is_overdue() && !is_withdrawn && is_named {
            let what = format!("{}: nothing was had of it since all is mended", described.device(utility));
            findings.push(("liveness", what));
        }
        case.check_held(findings);
        case.check_slots(committer.connection(), findings).expect("the database reads");
    }
}

/// The database holds what was committed, bit for bit, and nothing else.
fn check_stored(
    database: &Connection,
    plan: &Sourcing,
    watch: &Watch,
    findings: &mut Findings,
) -> rusqlite::Result<()> {
    let sql = "SELECT d.name, r.ts, r.value FROM readings r JOIN series x ON x.id = r.series
        JOIN devices d ON d.id = x.device JOIN sites s ON s.id = d.site
        WHERE s.name = ?1 OR d.name IN (SELECT value FROM json_each(?2))";
    let mut statement = database.prepare(sql)?;
    let dropped = plan.dropping.iter().map(|_| DEVICE.to_owned());
    let names: Vec<_> =
        plan.devices().map(|(described, utility)| described.device(utility)).chain(dropped).collect();
    let mut rows = statement.query([SITE, &serde_json::json!(names).to_string()])?;
    let mut there = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let bits = row.get::<_, Option<f64>>(2)?.map(f64::to_bits);
        if there.insert((row.get::<_, String>(0)?, row.get::<_, i64>(1)?), bits).is_some() {
            findings.push(("conservation", format!("{:?} is stored twice", row.get::<_, i64>(1)?)));
        }
    }
    let number = |bits: Option<u64>| bits.map(f64::from_bits);
    for (place, bits) in &watch.kept.stored {
        if there.get(place) != Some(bits) {
            let is = there.get(place).copied().map(number);
            let what = format!("{place:?}: {:?} was committed, and {is:?} is stored", number(*bits));
            findings.push(("integrity", what));
        }
    }
    if let Some((place, bits)) = there.iter().find(|(place, _)| !watch.kept.stored.contains_key(*place)) {
        let what = format!("{place:?}: {:?} is stored, and nobody told that", number(*bits));
        findings.push(("no invention", what));
    }
    Ok(())
}

/// No account was asked more often than it may be. What a database that was put back has forgotten, what was counted by a clock that
/// was set, and a call that the collector would not have made, is left out.
fn check_rates(world: &World, plan: &Sourcing, calls: &[Call], findings: &mut Findings) {
    let mut by_account: BTreeMap<String, Vec<&Call>> = BTreeMap::new();
    for call in calls.iter().filter(|call| !call.is_uncounted) {
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

/// So many failures in a row are an attempt.
const FAILURES_MAX: usize = 12;

/// A device of a source, to be judged.
struct Case<'a> {
    world: &'a World,
    described: &'a Described,
    utility: &'static str,
    calls: Vec<&'a Call>,
    watch: &'a Watch,
    /// Its consent is withdrawn.
    is_withdrawn: bool,
    /// Since when it is listed no more, by the collector's clock.
    removed_at: Option<Timestamp>,
}

impl Case<'_> {
    /// Whether nothing came of it for longer than the source may leave it alone, though all is well.
    fn is_overdue(&self) -> bool {
        let (mended_ms, rested_ms) = (self.world.mended_ms, self.world.rested_ms);
        let Described { unreachable_ms, interval_ms, .. } = self.described;
        let listed_ms = self.described.listing.as_ref().map_or(0, |listing| listing.every_ms);
        let alone_ms = unreachable_ms + PROVEN_INTERVALS * interval_ms + PROVEN_MS + listed_ms;
        let was_had = |call: &&Call| call.is_answered() && call.at_ms > mended_ms;
        // What has come is told by the cursor, and what has not is seen by `abreast`.
        if self.described.way.changes().is_some() {
            return false;
        }
        signed(rested_ms.saturating_sub(mended_ms)) > alone_ms
            && !self.calls.iter().copied().any(|call| was_had(&call))
    }

    /// What the meter had when it was asked last, and told, is stored: unless that was lost on its way with the collector, or its
    /// database, and nobody was asked again.
    fn check_held(&self, findings: &mut Findings) {
        let name = self.described.device(self.utility);
        let range = (name.clone(), i64::MIN)..=(name, i64::MAX);
        let mut had = self.watch.kept.told.range(range).filter(|(_, told)| told.is_had);
        let is_lost =
            |place, told: &Told| self.watch.lost.get(place).is_some_and(|lost_ms| *lost_ms >= told.at_ms);
        let gone =
            had.find(|(place, told)| !self.watch.kept.stored.contains_key(*place) && !is_lost(*place, told));
        if let Some(((name, at), told)) = gone {
            let what = format!("{name} at {at} was told at {} ms, and is not stored", told.at_ms);
            findings.push(("conservation", what));
        }
    }

    /// Up to the proof each slot that is due is stored or in one gap.
    fn check_slots(&self, database: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
        let (name, interval_ms) = (self.described.device(self.utility), self.described.interval_ms);
        let slots = Slots { device: &name, interval_ms, watch: self.watch };
        slots.check(database, |gap, past| self.off_schedule(gap, past), findings)?;
        let spans = spans(database, &name)?;
        if let Some(what) = self.ends_wrong(&spans) {
            findings.push(("true gaps of sources", format!("{name}: {what}: {spans:?}")));
        }
        let first = spans.iter().filter_map(|(first, ..)| *first).min();
        let oldest = self.described.oldest().0.div_euclid(interval_ms);
        // One that was removed is due again from that instant on: by a clock that was behind that may be before there was anything.
        let of = (self.described.no, self.utility.to_owned());
        let is_set = self.world.plan.has(Mischief::CenterClock);
        let may_be_earlier = is_set && self.watch.lists.was_removed(&of);
        if first.is_some_and(|first| first > oldest || first < oldest && !may_be_earlier) {
            let what = format!("{name}: due from {first:?} on, and its API has values from {oldest} on");
            findings.push(("true gaps of sources", what));
        }
        Ok(())
    }

    /// When consent was last refused, by the collector's clock.
    fn refused_at(&self) -> Option<Timestamp> {
        self.calls.iter().rev().find(|call| call.status == Some(403)).map(|call| call.answered())
    }

    /// When it was left alone, by the collector's clock: it was removed, or its consent refused.
    fn left_at(&self) -> Option<Timestamp> {
        self.removed_at.or_else(|| self.refused_at())
    }

    /// Where consent is withdrawn, or it is listed no more, its slots are due up to then, and no longer; what a clock that was ahead
    /// has accounted for by then is.
    fn ends_wrong(&self, spans: &[Span]) -> Option<String> {
        if !self.watch.is_refused(self.described, self.utility) && self.removed_at.is_none() {
            return None;
        }
        let Some(left_at) = self.left_at() else {
            return Some("withdrawn, and nobody has refused it".to_owned());
        };
        let left = left_at.0.div_euclid(self.described.interval_ms);
        let last = spans.last().and_then(|(_, last, _)| *last);
        let most = if self.world.plan.has(Mischief::CenterClock) { i64::MAX } else { left };
        let is_it = last.is_some_and(|last| (left - 1..=most).contains(&last));
        (!is_it).then(|| {
            format!("due up to {last:?}, and it was removed, or its consent withdrawn, in slot {left}")
        })
    }

    /// In what a gap does not stand where its schedule says, or was not asked for as often as it says.
    fn off_schedule(&self, gap: &Gap, past: &[(i64, i64)]) -> Option<String> {
        let policies = policies();
        let policy = policies.of(Some(self.described.class()));
        let interval_ms = self.described.interval_ms;
        let is_set = self.world.plan.has(Mischief::CenterClock);
        let looked = truth(self.world.rested_ms).0 - LOOKED_MS - signed(self.world.plan.keep_ms);
        if gap.sourceless {
            if !self.is_withdrawn && self.removed_at.is_none() {
                return Some("its meter can be asked".to_owned());
            }
            let Some(left_at) = self.left_at() else {
                return Some("nobody has refused its meter".to_owned());
            };
            let since = (!is_set).then_some(left_at.0);
            return gap
                .wrong_alone(past, policy, (interval_ms, looked), since)
                .map(|wrong| format!("{wrong:?}"));
        }
        // What a clock that was ahead took for missing waits for its time.
        let is_early = (gap.last + 1) * interval_ms > looked;
        match gap.wrong(past, policy, looked) {
            Some(Wrong::NeverAsked | Wrong::Overdue) if is_early => None,
            // Consent was given anew by such a clock: it is asked for when that instant has come.
            Some(Wrong::NeverAsked | Wrong::Overdue | Wrong::Due(_))
                if is_set && self.refused_at().is_some() && gap.next_at.is_some_and(|at| at > looked) =>
            {
                None
            }
            // So it is where its meter was listed again by one.
            Some(Wrong::NeverAsked)
                if is_set
                    && self.described.listing.is_some()
                    && gap.next_at.is_some_and(|at| at > looked) =>
            {
                None
            }
            // The clock that its calls were made by is another one by now.
            None if is_set => None,
            None => self.unmade(gap, past),
            wrong => wrong.map(|wrong| format!("{wrong:?}")),
        }
    }

    /// Each attempt that found nothing has asked for all of the gap, and was answered; and one that failed has asked at all.
    fn unmade(&self, gap: &Gap, past: &[(i64, i64)]) -> Option<String> {
        let (mut asked, mut failures) = (i64::MAX, Vec::new());
        let calls =
            |from: i64, to: i64| self.calls.iter().filter(move |call| (from..=to).contains(&call.at.0));
        for &(event, at) in past {
            match event {
                ASKED => asked = at,
                NO_DATA => {
                    let lacks = |slot: &i64| {
                        let at_slot = slot * self.described.interval_ms;
                        calls(asked, at).any(|call| call.lacks(at_slot))
                    };
                    if let Some(slot) = (gap.first..=gap.last).find(|slot| !lacks(slot)) {
                        return Some(format!("nobody asked for slot {slot} from {asked} to {at}"));
                    }
                    failures.clear();
                }
                FAILED => failures.push(asked),
                OPENED | REOPENED => failures.clear(),
                _ => {}
            }
            if failures.len() == FAILURES_MAX {
                if calls(failures[0], at).next().is_none() {
                    return Some(format!("nobody asked for it from {} to {at}", failures[0]));
                }
                failures.clear();
            }
        }
        None
    }
}
