//! What holds of a source that is a folder: what it hands in stood in a whole line of a file; a slot is told to be missing only where
//! no file had a row of it, or none that could be read, whichever is told. Once all is quiet each whole line of each file is stored
//! as it stands there, and each other slot up to the proof is in a gap with a cause that was told.

use std::collections::BTreeSet;

use gapless_common::quality::Cause;
use gapless_common::ranges::RangeSet;
use gapless_common::reading::{Misses, Record, Value};
use gapless_common::topic::AgentPath;
use rusqlite::Connection;

use super::clock::truth;
use super::folder::{AGENT, DEVICE, Dropping, Folder, SITE};
use super::judge::{Findings, differing, holes, overlap, received, unsigned};
use super::remote::State;
use super::rest::FILLED;
use super::schedule::gaps;
use super::sometimes::Rare;
use super::sourced::{PROVEN_INTERVALS, PROVEN_MS, Watch, proven};
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
        for (at_ms, _, record) in records {
            match record {
                Record::Readings(readings) => {
                    let at = readings.at.0;
                    for sample in &readings.samples {
                        let bits = match &sample.value {
                            Some(Value::Number(value)) => Some(value.to_bits()),
                            _ => None,
                        };
                        let is_line = folder
                            .ever
                            .get(&at)
                            .is_some_and(|ever| bits.is_some_and(|bits| ever.contains(&bits)));
                        if !is_line {
                            let what =
                                format!("{DEVICE} at {at}: {:?}, and no line ever said that", sample.value);
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

/// Why slots are not missing for the reason that is told, where that is so: none is of which there was a row that could be read as the
/// turn began; *not recorded* is what no file has a row of, readable or not, at or after the lag or once there is a later row. A
/// collector that knows no file of a folder that seems to be empty cannot know better.
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
    let newest = folder.lines(at_ms).map(slot_of).max();
    let now = truth(at_ms).plus_ms(state.ahead_ms).0;
    let is_true = |slot: i64| match misses.cause {
        _ if readable.contains(&slot) => false,
        Cause::NotRecorded => {
            let is_hidden = there.contains(&slot) && !folder.is_empty_to_strangers(began_ms);
            let is_settled = now - slot * interval_ms >= lag_ms || newest.is_some_and(|newest| slot < newest);
            !is_hidden && is_settled
        }
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
        folder.readable(since_ms).find_map(|(at, line)| {
            let is = sources.watch.kept.stored.get(&(DEVICE.to_owned(), at)).copied().flatten();
            let (told, is_it) = (f64::from_bits(line.bits), is == Some(line.bits));
            (!is_it).then(|| {
                format!("{DEVICE} at {at}: its file has {told}, and {:?} is stored", is.map(f64::from_bits))
            })
        })
    }

    /// Everything of the drop, in the end.
    pub(super) fn judge_drop(&self, findings: &mut Findings) {
        let (Some(sources), Some(committer)) = (&self.sources, &self.center.committer) else { return };
        let state = sources.ground.state();
        let Some(folder) = &state.folder else { return };
        check_slots(folder, &sources.watch, committer.connection(), findings).expect("the database reads");
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
        if folder.halves.iter().any(|at| is_stored(&at)) {
            reached.insert(Rare::LineCompleted);
        }
        if folder.came_late.iter().filter(is_stored).any(|at| missed(*at, Cause::NotRecorded)) {
            reached.insert(Rare::FileFilled);
        }
        if kept.stored.keys().any(|(device, at)| device == DEVICE && missed(*at, Cause::NotConnected)) {
            reached.insert(Rare::FolderBack);
        }
        if folder.corrected.iter().filter(is_stored).any(|at| kept.revised.contains(at)) {
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
        drop(state);
        reached.into_iter().for_each(|rare| self.sometimes.reach(rare));
    }
}

/// Up to the proof each slot that is due is stored or in one gap.
fn check_slots(
    folder: &Folder,
    watch: &Watch,
    database: &Connection,
    findings: &mut Findings,
) -> rusqlite::Result<()> {
    let interval_ms = folder.plan().interval_ms;
    let own = (DEVICE.to_owned(), i64::MIN)..=(DEVICE.to_owned(), i64::MAX);
    let (mut there, mut told) = (RangeSet::new(), RangeSet::new());
    for ((_, at), _) in watch.kept.stored.range(own) {
        let slot = unsigned(at.div_euclid(interval_ms));
        there.insert(slot, slot);
    }
    for gap in gaps(database, DEVICE)?.iter().filter(|gap| gap.state != FILLED) {
        told.insert(unsigned(gap.first), unsigned(gap.last));
        let is_told = |slot: &i64| {
            let causes = watch.kept.missed.get(&(DEVICE.to_owned(), *slot));
            causes.is_some_and(|causes| causes.contains(&gap.cause))
        };
        if let Some(slot) = (gap.first..=gap.last).find(|slot| !is_told(slot)) {
            findings.push(("true causes", format!("{DEVICE}: {gap:?}: nobody told that of slot {slot}")));
        }
    }
    if let Some(slot) = told.iter().find_map(|(from, to)| overlap(&there, from, to)) {
        findings
            .push(("true gaps of sources", format!("{DEVICE}: slot {slot} is stored, and a gap holds it")));
    }
    let Some(until) = proven(database, DEVICE)? else { return Ok(()) };
    let sql = "SELECT min(p.first_slot) FROM spans p JOIN grids g ON g.id = p.grid JOIN devices d ON d.id = g.device
        WHERE d.name = ?1";
    let first: Option<i64> = database.query_row(sql, [DEVICE], |r| r.get(0))?;
    let Some(first) = first else { return Ok(()) };
    let last = until.0.div_euclid(interval_ms) - 1;
    for (from, to) in holes(&there, first, last) {
        if let Some((slot, _)) = holes(&told, from, to).first() {
            let what = format!("{DEVICE}: slot {slot} was not received, and no gap holds it");
            findings.push(("true gaps of sources", what));
        }
    }
    let account = received(database, DEVICE)?;
    if let Some(slot) = differing(&there, &account, first, last) {
        findings.push((
            "true gaps of sources",
            format!("{DEVICE}: slot {slot}: its account and its readings differ"),
        ));
    }
    Ok(())
}
