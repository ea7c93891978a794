//! Fills gaps with what another device recorded of the same time, where the configuration names one: follows what is written
//! and which gaps change, and lends what is there within a transaction. Whether a reading may stand for another one is
//! decided in [`donate`](crate::gaps::donate).
//!
//! What matches is stored, channel by channel. A slot counts as received only where all of the channels that it was due with
//! are there, and once whoever has it at first hand was asked for it in vain, or there is nobody; else it stays a gap that its own
//! source is asked for, and its history says what stands in. Nothing is stored
//! twice: an instant that has a row keeps it. A row is a copy: what a donor says otherwise later of an instant that was lent
//! is not told again. Nothing of this is remembered: after a start all gaps of whoever has a donor are looked at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gapless_common::ranges::RangeSet;
use gapless_common::time::{Slot, Timestamp};
use rusqlite::Connection;

use super::apply::{Apply, Done};
use super::loan::{self, Found, Loan, Looked, Pair};
use super::memory::Memory;
use crate::gaps::donate::Donor;
use crate::ledger::{DeviceNo, GridNo};
use crate::store::gap_lives::{self, Event, Happened};
use crate::store::lending::{self, Series};

/// Stretches that are looked at in one turn.
const STRETCHES_MAX: usize = 256;
/// Stretches that wait; with more of them everything is looked at anew.
const WAITING_MAX: usize = 65_536;
/// Stretches of one donor that are nearer than this are looked at as one.
const JOIN_MS: i64 = 3_600_000;

/// Slots of one grid (inclusive) that may be missing, and that a donor may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Stretch {
    donor: usize,
    grid: GridNo,
    first: i64,
    last: i64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Lending {
    donors: Vec<Donor>,
    /// The devices of each donor and of whoever it stands in for, as far as they are known.
    known: BTreeMap<usize, (DeviceNo, DeviceNo)>,
    /// What the commits up to this one changed is done or waits.
    seen: Option<u64>,
    waiting: VecDeque<Stretch>,
    /// Slots that were looked at while they were missing, by donor and grid, and by whether their own source had been asked by
    /// then. What a donor tells of one of them later is seen when it is written: a gap that grows is not looked through anew.
    looked: BTreeMap<(usize, GridNo, bool), RangeSet>,
    /// What was said, once each.
    said: BTreeSet<String>,
}

/// Times (half open) by device.
type Times = BTreeMap<DeviceNo, Vec<(Timestamp, Timestamp)>>;

impl Lending {
    pub(super) fn new(donors: Vec<Donor>) -> Self {
        Self { donors, ..Self::default() }
    }

    /// What is to be lent next; `None` where that is nothing for now. To be told by [`is_lent`](Self::is_lent) once it is
    /// committed, or it is found again.
    pub(super) fn look(
        &mut self,
        connection: &Connection,
        memory: &Memory,
        commit: u64,
    ) -> rusqlite::Result<Option<Loan>> {
        if self.donors.is_empty() {
            return Ok(None);
        }
        self.take_in(connection, commit)?;
        for _ in 0..STRETCHES_MAX {
            let Some(stretch) = self.waiting.front().copied() else { break };
            match self.of_stretch(connection, memory, stretch)? {
                Some(Found::Loan(loan)) => return Ok(Some(loan)),
                Some(Found::Nothing(looked)) => self.go_on(looked),
                None => drop(self.waiting.pop_front()),
            }
        }
        Ok(None)
    }

    /// The loan that was found last is committed.
    pub(super) fn is_lent(&mut self, loan: &Loan) {
        if let Some(looked) = loan.looked {
            self.go_on(looked);
        }
    }

    /// These slots of the first stretch were missing, and nothing is left to do for them.
    fn go_on(&mut self, Looked { slots: (first, last), is_asked }: Looked) {
        let Some(stretch) = self.waiting.front_mut() else { return };
        let looked = self.looked.entry((stretch.donor, stretch.grid, is_asked)).or_default();
        looked.insert(place(first), place(last));
        stretch.first = last.saturating_add(1);
        if stretch.first > stretch.last {
            self.waiting.pop_front();
        }
    }

    /// Sees what was committed since the last look.
    fn take_in(&mut self, connection: &Connection, commit: u64) -> rusqlite::Result<()> {
        if self.seen == Some(commit) {
            return Ok(());
        }
        let range = self.seen.map(|seen| (seen.cast_signed(), commit.cast_signed()));
        let mut found = match range.filter(|_| self.waiting.len() < WAITING_MAX) {
            Some(commits) => {
                let written = lending::written(connection, commits)?;
                let changed = |is_asked| lending::changed(connection, commits, is_asked);
                self.stretches(connection, &written, &[(false, changed(false)?), (true, changed(true)?)])?
            }
            None => {
                // Where this fails all is looked at again.
                self.seen = None;
                self.waiting.clear();
                self.looked.clear();
                self.everything(connection)?
            }
        };
        found.sort_unstable();
        self.waiting.extend(found);
        self.seen = Some(commit);
        Ok(())
    }

    /// All that may be missing of anybody who has a donor.
    fn everything(&mut self, connection: &Connection) -> rusqlite::Result<Vec<Stretch>> {
        let mut found = Vec::new();
        for donor in 0..self.donors.len() {
            let Some((own, _)) = self.devices(connection, donor)? else { continue };
            let whole = |(grid, _)| Stretch { donor, grid, first: i64::MIN, last: i64::MAX };
            found.extend(lending::grids(connection, own)?.into_iter().map(whole));
        }
        Ok(found)
    }

    /// What follows from readings that were written and gaps that changed, by whether their own source was asked.
    fn stretches(
        &mut self,
        connection: &Connection,
        written: &Times,
        changed: &[(bool, Times)],
    ) -> rusqlite::Result<Vec<Stretch>> {
        let mut found = Vec::new();
        for donor in 0..self.donors.len() {
            let Some((own, from)) = self.devices(connection, donor)? else { continue };
            let written = written.get(&from).map(|all| joined(all)).unwrap_or_default();
            let changed: Vec<_> =
                changed.iter().filter_map(|(is_asked, all)| Some((*is_asked, all.get(&own)?))).collect();
            if written.is_empty() && changed.is_empty() {
                continue;
            }
            for (grid, times) in lending::grids(connection, own)? {
                let slots = |(begin, end): (Timestamp, Timestamp)| {
                    (times.first_from(begin).0, times.slot_at(end.plus_ms(-1)).0)
                };
                let mut all: Vec<_> = written.iter().copied().map(slots).collect();
                // What is to be asked for anew counts again only once that was in vain.
                if let Some(looked) = self.looked.get_mut(&(donor, grid, true)) {
                    let anew =
                        changed.iter().filter(|(is_asked, _)| !is_asked).flat_map(|(_, all)| all.iter());
                    for (first, last) in anew.copied().map(slots) {
                        looked.remove(place(first), place(last));
                    }
                }
                for (is_asked, changed) in &changed {
                    let looked = self.looked.get(&(donor, grid, *is_asked));
                    for (first, last) in changed.iter().copied().map(slots) {
                        let whole = (place(first), place(last));
                        let holes = looked.map(|looked| looked.holes(whole.0, whole.1).collect());
                        let left: Vec<_> = holes.unwrap_or_else(|| vec![whole]);
                        all.extend(left.into_iter().map(|(first, last)| (slot(first), slot(last))));
                    }
                }
                all.retain(|(first, last)| first <= last);
                found.extend(all.into_iter().map(|(first, last)| Stretch { donor, grid, first, last }));
            }
        }
        Ok(found)
    }

    /// The device that is filled and the one that fills it, once both are known.
    fn devices(
        &mut self,
        connection: &Connection,
        donor: usize,
    ) -> rusqlite::Result<Option<(DeviceNo, DeviceNo)>> {
        if let Some(known) = self.known.get(&donor) {
            return Ok(Some(*known));
        }
        let Some(Donor { site, device, from, .. }) = self.donors.get(donor) else { return Ok(None) };
        let mut found = Vec::new();
        for name in [device, from] {
            if let Some(device) = lending::device(connection, site, name)? {
                found.push(device);
                continue;
            }
            let what =
                format!("{site}/{name} is named in `gaps.donor`, and no agent or source has told of it yet");
            if self.said.insert(what.clone()) {
                tracing::warn!("{what}");
            }
        }
        let [own, from] = found.as_slice() else { return Ok(None) };
        self.known.insert(donor, (*own, *from));
        Ok(Some((*own, *from)))
    }

    /// What is to be lent of a stretch, and the slots that were looked at for it; `None` where none of its slots is missing.
    fn of_stretch(
        &mut self,
        connection: &Connection,
        memory: &Memory,
        stretch: Stretch,
    ) -> rusqlite::Result<Option<Found>> {
        let Some((own, from)) = self.devices(connection, stretch.donor)? else { return Ok(None) };
        let Some(agent) = lending::agent(connection, own)? else { return Ok(None) };
        let grids = lending::grids(connection, own)?;
        let Some(&(grid, times)) = grids.iter().find(|(grid, _)| *grid == stretch.grid) else {
            return Ok(None);
        };
        let range = (stretch.first, stretch.last);
        let Some(gap) = lending::missing(connection, grid, range)? else { return Ok(None) };
        let (first, last) = (gap.slots.0.max(stretch.first), gap.slots.1.min(stretch.last));
        let Some(donor) = self.donors.get(stretch.donor).cloned() else { return Ok(None) };
        let pair = Pair { donor: &donor, own: (own, agent), from, grid, times };
        let (series, until) = memory.described(pair.own, times.at(Slot(first)));
        let last = until.map_or(last, |until| last.min(times.first_from(until).0 - 1)).max(first);
        let series = series.into_iter().map(|id| lending::series(connection, id));
        let series: Vec<Series> =
            series.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect();
        let last = last.min(first.saturating_add(loan::PLACES_MAX));
        if gap.is_asked
            && let Some(loan) = loan::standing(connection, &pair, gap, &series, (first, last))?
        {
            return Ok(Some(Found::Loan(loan)));
        }
        loan::of_gap(connection, &pair, gap, &series, (first, last), &mut self.said).map(Some)
    }
}

/// A slot as a place in a set, and back: in order, whatever its sign.
const fn place(slot: i64) -> u64 {
    slot.cast_unsigned() ^ (1 << 63)
}

const fn slot(place: u64) -> i64 {
    (place ^ (1 << 63)).cast_signed()
}

/// Times that are near each other as one.
fn joined(times: &[(Timestamp, Timestamp)]) -> Vec<(Timestamp, Timestamp)> {
    let mut times = times.to_vec();
    times.sort_unstable();
    let mut joined: Vec<(Timestamp, Timestamp)> = Vec::new();
    for (begin, end) in times {
        match joined.last_mut() {
            Some(last) if begin.since_ms(last.1) < JOIN_MS => last.1 = last.1.max(end),
            _ => joined.push((begin, end)),
        }
    }
    joined
}

impl Apply<'_, '_> {
    /// Stores what a donor has of a gap.
    pub(super) fn borrow(&mut self, loan: &Loan) -> Done {
        loan.rows.iter().for_each(|row| self.batch.push(row.clone()));
        for slot in &loan.whole {
            self.memory.ledger.received(&loan.due, *slot);
        }
        if let Some(part) = &loan.part {
            let event =
                Event { actor: &loan.actor, detail: Some(part), ..Event::of(loan.gap, Happened::Lent) };
            gap_lives::tell(self.batch.connection, self.batch.stamp(), &event)?;
        }
        self.filler = Some(loan.actor.clone());
        self.touched.insert(loan.agent);
        Ok(())
    }
}
