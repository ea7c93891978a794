//! What holds of a source that is a folder: what it hands in stood in a whole line of a file; a slot is told to be missing only where
//! no file had a row of it, or none that could be read, or a line that is none, whichever is told; it is due from its oldest row on, or
//! from where its description says. Once all is quiet each whole line of each file is stored as it stands there, each other slot up to
//! the proof is in a gap with a cause that was told, and that stands where its schedule says.

use std::collections::BTreeSet;

use gapless_common::quality::Cause;
use gapless_common::reading::{Misses, Record, Value};
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;

use super::clock::{signed, truth};
use super::dropping::Dropping;
use super::folder::{AGENT, DEVICE, Folder, SITE};
use super::judge::Findings;
use super::mishap::policies;
use super::plan::Mischief;
use super::remote::State;
use super::rest::FILLED;
use super::schedule::{ASKED, Gap, NO_DATA, Wrong, gaps};
use super::slots::{Slots, spans};
use super::sometimes::Rare;
use super::sourced::{PROVEN_INTERVALS, PROVEN_MS, Watch, proven};
use super::supplied::LOOKED_MS;
use super::world::World;

/// Whether an agent is the one of the drop.
pub(super) fn is_drop(path: &AgentPath) -> bool {
    path.site.as_str() == SITE && path.agent.as_str() == AGENT
}

impl Watch {
    /// What the drop hands in in a turn.
    pub(super) fn note_dropped(&mut self, state: &State, records: &[(u64, AgentPath, Record)]) -> Findings {
        let mut findings = Findings::new();
        let Some(folder) = &state.folder else { return findings };
        let mut is_new = false;
        for (at_ms, _, record) in records {
            match record {
                Record::Start(start) => is_new = start.previous.is_none(),
                Record::Catalog(catalog) if std::mem::take(&mut is_new) => {
                    findings.extend(begun_wrong((folder, state), catalog.since, *at_ms));
                }
                Record::Readings(readings) => {
                    let at = readings.at.0;
                    for sample in &readings.samples {
                        let bits = match &sample.value {
                            Some(Value::Number(value)) => Some(value.to_bits()),
                            _ => None,
                        };
                        let is_number = bits.is_some() == sample.value.is_some();
                        let is_line = folder.ever.get(&at).is_some_and(|ever| ever.contains(&bits));
                        if !is_line || !is_number || bits.is_some() != sample.quality.has_value() {
                            let what = format!("{DEVICE} at {at}: {sample:?}, and no line ever said that");
                            findings.push(("no invention", what));
                        }
                        self.under_way.insert((DEVICE.to_owned(), at), bits);
                    }
                }
                Record::Misses(misses) => {
                    // What is stored is missing to nobody, whoever does not know of it.
                    let is_stored = |slot: i64| {
                        let from = (DEVICE.to_owned(), slot * folder.plan().interval_ms);
                        let to = (DEVICE.to_owned(), (slot + 1) * folder.plan().interval_ms);
                        self.kept.stored.range(from..to).next().is_some()
                    };
                    findings.extend(untrue((folder, state), misses, *at_ms, is_stored));
                }
                _ => {}
            }
        }
        findings
    }
}

/// Why a device that nothing was known of is not due from `since` on, where that is so: it is from its oldest row on, as far as it could
/// be read as the turn began, or from so long ago as its description says.
fn begun_wrong(
    (folder, state): (&Folder, &State),
    since: Option<Timestamp>,
    at_ms: u64,
) -> Option<(&'static str, String)> {
    let Dropping { interval_ms, first_ms, .. } = *folder.plan();
    let (began_ms, since) = (state.turn_ms, since?.0);
    let now = |at_ms: u64| truth(at_ms).plus_ms(state.ahead_ms).0;
    let oldest = folder.readable(began_ms).map(|(at, _)| at).min();
    let is_it = match first_ms {
        Some(first_ms) => (now(began_ms) - first_ms..now(at_ms) - first_ms + interval_ms).contains(&since),
        None => since <= oldest.unwrap_or(i64::MAX).min(now(at_ms) + interval_ms),
    };
    (!is_it).then(|| {
        let what = format!("{DEVICE} is due from {since} on, and its files have rows from {oldest:?} on");
        ("true gaps of sources", what)
    })
}

/// Why slots are not missing for the reason that is told, where that is so: none is of which there was a row that could be read as the
/// turn began; *not recorded* is what no file has a row of, readable or not, nor a line that could be read and is none, at or after the
/// lag or once there is a later row; *corrupt* what a file had such a line of. A collector that knows no file of a folder that seems to be
/// empty cannot know better.
fn untrue(
    (folder, state): (&Folder, &State),
    misses: &Misses,
    at_ms: u64,
    is_stored: impl Fn(i64) -> bool,
) -> Option<(&'static str, String)> {
    let Dropping { interval_ms, lag_ms, .. } = *folder.plan();
    let began_ms = state.turn_ms;
    let slot_of = |at: i64| at.div_euclid(interval_ms);
    let readable: BTreeSet<i64> = folder.readable(began_ms).map(|(at, _)| slot_of(at)).collect();
    let there: BTreeSet<i64> = folder.lines(began_ms).map(slot_of).collect();
    let spoilt: BTreeSet<i64> = folder.readable_spoilt(began_ms).map(slot_of).collect();
    let was_spoilt = |slot: i64| {
        let instants = slot * interval_ms..(slot + 1) * interval_ms;
        folder.ever_spoilt.range(instants).any(|(_, spoilt_ms)| *spoilt_ms <= at_ms)
    };
    let newest = folder.lines(at_ms).map(slot_of).max();
    let now = truth(at_ms).plus_ms(state.ahead_ms).0;
    let is_true = |slot: i64| match misses.cause {
        _ if readable.contains(&slot) => false,
        Cause::NotRecorded => {
            let is_hidden = there.contains(&slot) && !folder.is_empty_to_strangers(began_ms);
            let is_settled = now - slot * interval_ms >= lag_ms || newest.is_some_and(|newest| slot < newest);
            !is_hidden && !spoilt.contains(&slot) && is_settled
        }
        Cause::Corrupt => was_spoilt(slot),
        Cause::NotConnected => folder.trouble_turn == Some(state.turn),
        _ => false,
    };
    let mut slots = misses.first.0..misses.first.0 + i64::from(misses.count);
    let wrong = slots.find(|slot| !is_stored(*slot) && !is_true(*slot));
    wrong.map(|slot| ("true causes", format!("{DEVICE}: {misses:?}, and that is not so of slot {slot}")))
}

impl World {
    /// What of the drop is due and is not there, or not as its files have it.
    pub(super) fn undropped(&self) -> Option<String> {
        let (sources, committer) = (self.sources.as_ref()?, self.center.committer.as_ref()?);
        let state = sources.ground.state();
        let folder = state.folder.as_ref()?;
        let plan = folder.plan();
        let beyond_ms = plan.lag_ms + plan.every_ms + PROVEN_INTERVALS * plan.interval_ms + PROVEN_MS;
        let until = proven(committer.connection(), DEVICE).expect("the database reads");
        if until.is_none_or(|until| until < truth(self.now_ms).plus_ms(-beyond_ms)) {
            return Some(format!("{DEVICE}: accounted for up to {until:?}"));
        }
        let since_ms = self.now_ms.saturating_sub((2 * plan.every_ms + PROVEN_MS).unsigned_abs());
        // What is older than where its description has it begin need not be read.
        let due = spans(committer.connection(), DEVICE).expect("the database reads");
        let due_from = due.iter().filter_map(|(first, ..)| *first).min().filter(|_| plan.first_ms.is_some());
        let due_from = due_from.map_or(i64::MIN, |first| first * plan.interval_ms);
        folder.readable(since_ms).filter(|(at, _)| *at >= due_from).find_map(|(at, line)| {
            let is = sources.watch.kept.stored.get(&(DEVICE.to_owned(), at)).copied();
            let value = |bits: Option<u64>| bits.map(f64::from_bits);
            (is != Some(line.bits)).then(|| {
                let (told, is) = (value(line.bits), is.map(value));
                format!("{DEVICE} at {at}: its file has {told:?}, and {is:?} is stored")
            })
        })
    }

    /// Everything of the drop, in the end.
    pub(super) fn judge_drop(&self, findings: &mut Findings) {
        let (Some(sources), Some(committer)) = (&self.sources, &self.center.committer) else { return };
        let state = sources.ground.state();
        let Some(folder) = &state.folder else { return };
        let slots = Slots { device: DEVICE, interval_ms: folder.plan().interval_ms, watch: &sources.watch };
        let checked = slots.check(
            committer.connection(),
            |gap, past| self.off_drop_schedule(folder, gap, past),
            findings,
        );
        checked.expect("the database reads");
    }

    /// In what a gap does not stand where its schedule says, or was taken for asked in vain though nobody saw a file meanwhile.
    fn off_drop_schedule(&self, folder: &Folder, gap: &Gap, past: &[(i64, i64)]) -> Option<String> {
        let (policies, plan) = (policies(), folder.plan());
        let is_set = self.plan.has(Mischief::CenterClock);
        let looked = truth(self.rested_ms).0 - LOOKED_MS - signed(self.plan.keep_ms);
        if gap.sourceless {
            return Some("its folder can be asked".to_owned());
        }
        // What a clock that was ahead took for missing waits for its time.
        let is_early = (gap.last + 1) * plan.interval_ms > looked;
        match gap.wrong(past, policies.of(Some(plan.class)), looked) {
            Some(Wrong::NeverAsked | Wrong::Overdue) if is_early => None,
            None if is_set => None,
            None => unseen(folder, past),
            wrong => wrong.map(|wrong| format!("{wrong:?}")),
        }
    }

    /// What the run reached of it.
    pub(super) fn note_drop_reached(&mut self) {
        let (Some(sources), Some(committer)) = (&self.sources, &self.center.committer) else { return };
        let state = sources.ground.state();
        let Some(folder) = &state.folder else { return };
        let kept = &sources.watch.kept;
        let is_stored = |at: &&i64| kept.stored.contains_key(&(DEVICE.to_owned(), **at));
        let missed = |at: i64, cause: Cause| {
            let slot = at.div_euclid(folder.plan().interval_ms);
            kept.missed.get(&(DEVICE.to_owned(), slot)).is_some_and(|causes| causes.contains(&cause))
        };
        let mut reached = BTreeSet::new();
        if folder.reached.halves.iter().any(|at| is_stored(&at)) {
            reached.insert(Rare::LineCompleted);
        }
        if folder.reached.came_late.iter().filter(is_stored).any(|at| missed(*at, Cause::NotRecorded)) {
            reached.insert(Rare::FileFilled);
        }
        if kept.stored.keys().any(|(device, at)| device == DEVICE && missed(*at, Cause::NotConnected)) {
            reached.insert(Rare::FolderBack);
        }
        if folder.reached.corrected.iter().filter(is_stored).any(|at| kept.revised.contains(at)) {
            reached.insert(Rare::FileCorrected);
        }
        let lost = folder.ever.keys().filter(|at| !kept.stored.contains_key(&(DEVICE.to_owned(), **at)));
        let gaps = gaps(committer.connection(), DEVICE).expect("the database reads");
        let is_gap = |at: &i64| {
            let slot = at.div_euclid(folder.plan().interval_ms);
            gaps.iter().any(|gap| gap.state != FILLED && (gap.first..=gap.last).contains(&slot))
        };
        if lost.into_iter().any(is_gap) {
            reached.insert(Rare::FileLost);
        }
        let own = || kept.stored.iter().filter(|((device, _), _)| device == DEVICE);
        let rows = [
            (Rare::FileRewritten, folder.reached.rewritten.iter().any(|at| kept.revised.contains(at))),
            (Rare::NameAgain, folder.reached.again.iter().any(|at| is_stored(&at))),
            (Rare::FileLong, folder.reached.is_long),
            (Rare::FileSlipped, folder.reached.has_slipped),
            (Rare::LineSpoilt, folder.ever_spoilt.keys().any(|at| missed(*at, Cause::Corrupt))),
            (Rare::ValueNone, own().any(|(_, bits)| bits.is_none())),
            (Rare::FolderLate, folder.reached.has_failed_first && own().next().is_some()),
        ];
        reached.extend(rows.into_iter().filter(|(_, is_reached)| *is_reached).map(|(rare, _)| rare));
        drop(state);
        reached.into_iter().for_each(|rare| self.sometimes.reach(rare));
    }
}

/// An attempt that is said to have found nothing while no file was to be seen.
fn unseen(folder: &Folder, past: &[(i64, i64)]) -> Option<String> {
    let mut asked = i64::MAX;
    past.iter().find_map(|&(event, at)| {
        asked = if event == ASKED { at } else { asked };
        let was_seen = || folder.looks_ms.iter().any(|look_ms| (asked..=at).contains(&truth(*look_ms).0));
        (event == NO_DATA && !was_seen())
            .then(|| format!("no file was to be seen from {asked} to {at}, and nothing was found"))
    })
}
