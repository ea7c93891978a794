//! What must be stored of what has changed at the APIs of sources, once nothing goes wrong any more: what each read reads again is as
//! the API has it; what it told by its cursor is, however old; and what came, or was put right, without a word is found when all
//! is read anew, as far back as that goes.

use gapless_common::time::Timestamp;
use rusqlite::Connection;

use super::api::Api;
use super::clock::truth;
use super::described::Described;
use super::feed::{Correction, instants};
use super::kept::Place;
use super::plan::Mischief;
use super::remote::{State, What};
use super::sometimes::Rare;
use super::source::Sources;
use super::way::{Changes, Way, soon_ms};
use super::world::World;

/// Beside two intervals what is told by a cursor is stored within so long, in ms: calls may be slow, and a commit takes its time.
const CADENCE_MS: u64 = 240_000;

/// A value that was put right when all was quiet.
#[derive(Debug, Clone)]
pub(super) struct Promised {
    place: Place,
    bits: u64,
    by_ms: u64,
}

/// What an API has of an instant, as its bits; `None` where it says that there is no value.
fn told(api: &Api, utility: &str, at: Timestamp) -> Option<u64> {
    let is_value = !api.meter.invalid.contains(&at);
    is_value.then(|| api.meter.told(utility, at).to_bits())
}

impl World {
    /// A value of a source that is not stored as its API has it, though by now it must have been read.
    pub(super) fn outdated(&self) -> Option<String> {
        let (sources, committer) = (self.sources.as_ref()?, self.center.committer.as_ref()?);
        if let Some(promised) = sources.promised().next() {
            return Some(format!("{promised:?} was put right, and is not stored"));
        }
        let state = sources.ground.state();
        let asked = sources.plan.devices();
        let asked = asked.filter(|(described, utility)| {
            let api = &state.apis[described.no];
            !api.meter.withdrawn.contains(*utility) && api.names(utility, self.now_ms)
        });
        asked.into_iter().find_map(|(described, utility)| {
            let (api, device) = (&state.apis[described.no], described.device(utility));
            let owed = self.owed(described, utility, &state)?;
            let due = due(committer.connection(), &device).expect("the database reads");
            let is_due = |at: &Timestamp| {
                let slot = at.0.div_euclid(described.interval_ms);
                due.iter().any(|(first, last)| *first <= slot && last.is_none_or(|last| slot <= last))
            };
            owed.into_iter().filter(is_due).find_map(|at| {
                let is = sources.watch.kept.stored.get(&(device.clone(), at.0)).copied();
                let told = told(api, utility, at);
                let number = |bits: Option<u64>| bits.map(f64::from_bits);
                (is != Some(told)).then(|| {
                    let (told, is) = (number(told), is.map(number));
                    format!("{device} at {at}: its API has {told:?}, and {is:?} is stored")
                })
            })
        })
    }

    /// The instants of a device whose values must be as its API has them.
    fn owed(&self, described: &Described, utility: &str, state: &State) -> Option<Vec<Timestamp>> {
        let (api, mended) = (&state.apis[described.no], truth(self.mended_ms));
        // What comes later is on its way.
        let is_settled = |at: &Timestamp| api.meter.has(utility, *at, mended);
        let Some(changes) = described.way.changes() else {
            // What a clock that was ahead has accounted for is not read again with what is new.
            if self.plan.has(Mischief::CenterClock) {
                return None;
            }
            let device = described.device(utility);
            let stored = &self.sources.as_ref()?.watch.kept.stored;
            let own = stored.range((device.clone(), i64::MIN)..=(device, i64::MAX)).rev();
            let late = api.meter.late.get(utility);
            // One that came in its time was read with all that is as old as what is read again.
            let in_time = |at: &i64| !late.is_some_and(|late| late.contains_key(&Timestamp(*at)));
            let newest = own.map(|((_, at), _)| *at).find(in_time)?;
            if newest <= mended.0 + 2 * described.interval_ms {
                return None;
            }
            let again = Timestamp(newest).plus_ms(-described.overlap_ms);
            return Some(instants(&api.meter, mended).filter(|at| *at >= again && is_settled(at)).collect());
        };
        let anew = mended.plus_ms(changes.anew_ms(described));
        let all = instants(&api.meter, mended).filter(|at| *at >= anew && is_settled(at));
        Some(all.chain(self.told_by_cursor(described, utility, (changes, state))).collect())
    }

    /// What was told with its rows in this life of the collector, and long ago.
    fn told_by_cursor(
        &self,
        described: &Described,
        utility: &str,
        (changes, state): (&Changes, &State),
    ) -> Vec<Timestamp> {
        if !changes.has_rows {
            return Vec::new();
        }
        let feed = &state.apis[described.no].feed;
        let is_begin = |call: &&super::remote::Call| {
            call.api == described.no
                && call.start == state.start
                && call.what == (What::Changes { is_first: true })
                && call.is_heard()
        };
        let Some(begin) = state.calls.iter().rev().find(is_begin) else { return Vec::new() };
        let (begin, end) = (truth(begin.answered_ms), truth(self.now_ms).plus_ms(-soon_ms(described)));
        let own = feed.log.iter().filter(|change| change.utility == utility);
        let told = own.filter(|change| begin < change.since && change.since <= end);
        told.map(|change| change.at).filter(|at| !feed.is_secret(utility, *at)).collect()
    }

    /// Nothing goes wrong any more: of each device whose changes are told the oldest value is put right in silence that is to be read
    /// anew from now on.
    pub(super) fn put_right_in_silence(&mut self) {
        // A collector whose clock was ahead asks again that much later.
        if self.plan.has(Mischief::CenterClock) {
            return;
        }
        let now = truth(self.now_ms);
        let Some(Sources { plan, ground, .. }) = &mut self.sources else { return };
        let mut state = ground.state();
        for described in &plan.described {
            let Some(changes) = described.way.changes() else { continue };
            let since = now.plus_ms(changes.anew_ms(described));
            for utility in described.utilities() {
                let api = &mut state.apis[described.no];
                let is_had = |at: &Timestamp| {
                    *at >= since && api.meter.has(utility, *at, now) && !api.meter.invalid.contains(at)
                };
                let Some(at) = instants(&api.meter, now).find(is_had) else { continue };
                api.put_right(utility, at, 1.0 / 256.0, (now, false));
            }
        }
    }

    /// All is quiet: of each device whose changes come with their rows a value is put right that nothing else would read again.
    pub(super) fn put_right(&mut self) {
        // A collector whose clock was ahead asks again that much later.
        if self.plan.has(Mischief::CenterClock) {
            return;
        }
        let now_ms = self.now_ms;
        let Some(Sources { plan, ground, watch, promised, .. }) = &mut self.sources else { return };
        let mut state = ground.state();
        for described in &plan.described {
            let has_rows = described.way.changes().is_some_and(|changes| changes.has_rows);
            for utility in described.utilities().iter().copied().filter(|_| has_rows) {
                let last =
                    state.calls.iter().rev().find(|call| call.api == described.no && call.utility == utility);
                // One that cannot be reached is left alone, whatever is told of it.
                let is_away = last.is_some_and(|call| call.status == Some(404));
                let api = &mut state.apis[described.no];
                if is_away || api.meter.withdrawn.contains(utility) || !api.names(utility, now_ms) {
                    continue;
                }
                let device = described.device(utility);
                let own = (device.clone(), i64::MIN)..=(device, i64::MAX);
                let mut old = watch.kept.stored.range(own).filter(|((_, at), _)| {
                    let at = Timestamp(*at);
                    let is_old =
                        truth(now_ms).since_ms(at) > described.overlap_ms + 5 * described.interval_ms;
                    is_old && api.meter.has(utility, at, truth(now_ms)) && !api.meter.invalid.contains(&at)
                });
                let Some((place, _)) = old.next_back() else { continue };
                let at = Timestamp(place.1);
                api.put_right(utility, at, 1.0 / 256.0, (truth(now_ms), true));
                let bits = api.meter.told(utility, at).to_bits();
                let by_ms = now_ms + 2 * described.interval_ms.unsigned_abs() + CADENCE_MS;
                promised.push(Promised { place: place.clone(), bits, by_ms });
            }
        }
    }

    /// What was put right is stored in time.
    pub(super) fn check_promised(&mut self) {
        let now_ms = self.now_ms;
        let Some(sources) = &self.sources else { return };
        let late = sources.promised().find(|promised| promised.by_ms < now_ms).cloned();
        if let Some(late) = late {
            self.oracle.find("in time", format!("{late:?} was put right and told, and is not stored"));
        }
    }

    /// What the run reached of it.
    pub(super) fn note_changes_reached(&mut self) {
        let Some(sources) = &self.sources else { return };
        let state = sources.ground.state();
        let mut reached = Vec::new();
        for (described, utility) in sources.plan.devices() {
            let (api, device) = (&state.apis[described.no], described.device(utility));
            let words = state.calls.iter().filter(|call| call.api == described.no && call.utility == utility);
            let words: Vec<_> = words.filter(|call| call.start == state.start).collect();
            let is_spared = |pair: &[&super::remote::Call]| {
                pair[0].heard.word.is_some() && pair[0].heard.word == pair[1].heard.word
            };
            if words.windows(2).any(is_spared) {
                reached.push(Rare::WordSpared);
            }
            let is_stored = |one: &&Correction| {
                let is_old = one.since.since_ms(one.at) > described.overlap_ms + 5 * described.interval_ms;
                let is = sources.watch.kept.stored.get(&(device.clone(), one.at.0));
                is_old && one.utility == utility && is == Some(&told(api, utility, one.at))
            };
            // What is put right in silence in the end is found in any run.
            let is_of_run = |one: &&Correction| one.is_told || one.since < truth(self.mended_ms);
            for one in api.feed.corrections.iter().filter(is_of_run).filter(is_stored) {
                match described.way {
                    Way::Changes(_) if !one.is_told => reached.push(Rare::FoundAnew),
                    Way::Changes(Changes { has_rows: true, .. }) => reached.push(Rare::ChangeTold),
                    _ => {}
                }
            }
        }
        if state.calls.iter().any(|call| call.status == Some(410)) {
            reached.push(Rare::CursorForgotten);
        }
        drop(state);
        reached.into_iter().for_each(|rare| self.sometimes.reach(rare));
    }
}

impl Sources {
    /// What was put right and is not stored yet.
    fn promised(&self) -> impl Iterator<Item = &Promised> {
        let is_open =
            |promised: &&Promised| self.watch.kept.stored.get(&promised.place) != Some(&Some(promised.bits));
        self.promised.iter().filter(is_open)
    }
}

/// The times in which a device is due: first and last slot.
fn due(database: &Connection, device: &str) -> rusqlite::Result<Vec<(i64, Option<i64>)>> {
    let sql = "SELECT p.first_slot, p.last_slot FROM spans p JOIN grids g ON g.id = p.grid
        JOIN devices d ON d.id = g.device WHERE d.name = ?1 AND p.first_slot IS NOT NULL";
    database.prepare_cached(sql)?.query_map([device], |r| Ok((r.get(0)?, r.get(1)?)))?.collect()
}
