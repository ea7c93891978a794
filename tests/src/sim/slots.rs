//! Whether each slot of a device of a source is accounted for, up to the proof: stored or in one gap whose cause was told, that stands
//! where whoever judges the device says that it should.

use gapless_common::ranges::RangeSet;
use rusqlite::Connection;

use super::judge::{Findings, differing, holes, overlap, received, unsigned};
use super::rest::FILLED;
use super::schedule::{Gap, gaps, past};
use super::sourced::Watch;

/// First, last and proven slot of a time in which a device is due.
pub(super) type Span = (Option<i64>, Option<i64>, Option<i64>);

/// All times in which a device is due.
pub(super) fn spans(database: &Connection, device: &str) -> rusqlite::Result<Vec<Span>> {
    let sql = "SELECT p.first_slot, p.last_slot, p.proven_slot FROM spans p JOIN grids g ON g.id = p.grid
        JOIN devices d ON d.id = g.device WHERE d.name = ?1 ORDER BY p.first_slot";
    let mut statement = database.prepare_cached(sql)?;
    let spans = statement.query_map([device], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
    spans.collect()
}

/// The slots of a device.
pub(super) struct Slots<'a> {
    /// What it is called.
    pub(super) device: &'a str,
    /// The distance of its slots.
    pub(super) interval_ms: i64,
    /// What is known of it.
    pub(super) watch: &'a Watch,
}

impl Slots<'_> {
    /// Judges all of them; `off_schedule` says in what a gap with this past is not where it should be.
    pub(super) fn check(
        &self,
        database: &Connection,
        off_schedule: impl Fn(&Gap, &[(i64, i64)]) -> Option<String>,
        findings: &mut Findings,
    ) -> rusqlite::Result<()> {
        let device = self.device;
        let there = self.there();
        let mut told = RangeSet::new();
        for gap in gaps(database, device)?.iter().filter(|gap| gap.state != FILLED) {
            told.insert(unsigned(gap.first), unsigned(gap.last));
            let past = past(database, gap.id, i64::MAX)?;
            if let Some(what) = off_schedule(gap, &past) {
                findings.push(("schedule", format!("{device}: {gap:?}: {what}: {past:?}")));
            }
            if let Some(slot) = self.untold(gap) {
                let what = format!("{device}: {gap:?}: nobody told that of slot {slot}");
                findings.push(("true causes", what));
            }
        }
        if let Some(slot) = told.iter().find_map(|(from, to)| overlap(&there, from, to)) {
            let what = format!("{device}: slot {slot} is stored, and a gap holds it");
            findings.push(("true gaps of sources", what));
        }
        let (account, spans) = (received(database, device)?, spans(database, device)?);
        for (first, last, proven) in &spans {
            let Some(first) = *first else { continue };
            // What ended is accounted for to its end; how far the others are is seen by `behind`.
            let Some(proven) = last.or(*proven) else { continue };
            for (from, to) in holes(&there, first, proven) {
                if let Some((slot, _)) = holes(&told, from, to).first() {
                    let what =
                        format!("{device}: slot {slot} was not received, and no gap holds it; {spans:?}");
                    findings.push(("true gaps of sources", what));
                }
            }
            if let Some(slot) = differing(&there, &account, first, proven) {
                let what = format!("{device}: slot {slot}: its account and its readings differ");
                findings.push(("true gaps of sources", what));
            }
        }
        Ok(())
    }

    /// The slots of which a value is there.
    fn there(&self) -> RangeSet {
        let mut there = RangeSet::new();
        let own = (self.device.to_owned(), i64::MIN)..=(self.device.to_owned(), i64::MAX);
        for ((_, at), _) in self.watch.kept.stored.range(own) {
            let slot = unsigned(at.div_euclid(self.interval_ms));
            there.insert(slot, slot);
        }
        there
    }

    /// A slot of a gap whose cause was never told and committed; whether it was true was seen as it was told.
    fn untold(&self, gap: &Gap) -> Option<i64> {
        let is_told = |slot: &i64| {
            let told = self.watch.kept.missed.get(&(self.device.to_owned(), *slot));
            told.is_some_and(|causes| causes.contains(&gap.cause))
        };
        (gap.first..=gap.last).find(|slot| !is_told(slot))
    }
}
