//! What holds of sources that list their devices: a device is taken for removed where two complete listings in a row did not name
//! it, and for back where one does; none is asked in between. A listing is complete where all of its pages were answered, one after
//! the other up to its end.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::reading::Record;
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;
use gapless_common::wire;
use rusqlite::{Connection, OptionalExtension as _};

use super::described::Described;
use super::judge::Findings;
use super::kept::Of;
use super::listing::{Listing, Page};
use super::remote::{Call, What};
use super::sometimes::Rare;
use super::source::Sourcing;
use super::sourced::Watch;
use super::world::World;

/// A listing that took longer takes nobody away, in ms.
const LISTING_MS_MAX: u64 = 3_600_000;

/// A listing, as far as it was answered.
#[derive(Debug, Clone)]
struct Read {
    began_ms: u64,
    ended_ms: u64,
    /// The same by the collector's clock.
    ended: Timestamp,
    /// The turn of its last page.
    turn: u64,
    pages: usize,
    names: BTreeSet<String>,
    /// The page that it goes on with.
    next: Option<u64>,
}

/// What this life of the collector has been told by the lists.
#[derive(Debug, Default)]
pub(super) struct Lists {
    under_way: BTreeMap<usize, Read>,
    /// The complete listings of each API, in order.
    complete: BTreeMap<usize, Vec<Read>>,
    /// Devices that are taken for removed.
    removed: BTreeSet<Of>,
    /// When devices were taken for back, by the collector's clock: nothing of before was due.
    back: BTreeMap<Of, Timestamp>,
    /// Devices that were removed in any life of the collector.
    ever_removed: BTreeSet<Of>,
    reached: BTreeSet<Rare>,
}

/// What a device says of itself.
struct Says {
    of: Of,
    is_removed: bool,
}

impl Lists {
    /// The collector has started, and knows that these are removed.
    pub(super) fn begin(&mut self, removed: BTreeSet<Of>) {
        self.removed = removed;
    }

    /// It has ended, and what it was told with it.
    pub(super) fn end(&mut self) {
        let (ever_removed, reached) =
            (std::mem::take(&mut self.ever_removed), std::mem::take(&mut self.reached));
        *self = Self { ever_removed, reached, ..Self::default() };
    }

    /// A turn with these calls was carried out, which hands in these records.
    pub(super) fn note_turn(
        &mut self,
        plan: &Sourcing,
        calls: &[&Call],
        records: &[(u64, AgentPath, Record)],
    ) -> Findings {
        let mut findings = Findings::new();
        for call in calls {
            let of = (call.api, call.utility.clone());
            match (call.what, &plan.described[call.api].listing) {
                (What::List(page), Some(listing)) => self.note_page(listing, page, call),
                (What::Window | What::Word, Some(_)) if self.removed.contains(&of) => {
                    findings.push(("lists", format!("{call:?}, though it is listed no more")));
                }
                _ => {}
            }
        }
        let turn = calls.first().map_or(0, |call| call.turn);
        for says in records.iter().filter_map(|(_, path, record)| says(plan, path, record)) {
            let why = match (says.is_removed, self.removed.contains(&says.of)) {
                (true, false) => self.remove(says.of.clone(), turn),
                (false, true) => self.take_back(&says.of),
                _ => None,
            };
            findings.extend(why.map(|why| ("lists", format!("{:?}: {why}", says.of))));
        }
        findings
    }

    /// Whether a device was ever removed.
    pub(super) fn was_removed(&self, of: &Of) -> bool {
        self.ever_removed.contains(of)
    }

    /// Whether a device was removed at that instant, as far as this life of the collector knows.
    pub(super) fn is_before_back(&self, of: &Of, at: i64) -> bool {
        self.back.get(of).is_some_and(|back| at < back.0)
    }

    fn note_page(&mut self, listing: &Listing, no: u64, call: &Call) {
        let Some(page) = call.heard.page.as_ref().filter(|_| call.is_heard()) else {
            if no != listing.first() && self.under_way.remove(&call.api).is_some() {
                self.reached.insert(Rare::ListBrokenOff);
            }
            return;
        };
        let before = self.under_way.remove(&call.api).filter(|read| read.next == Some(no));
        let new = Read {
            began_ms: call.at_ms,
            ended_ms: call.answered_ms,
            ended: call.answered(),
            turn: call.turn,
            pages: 0,
            names: BTreeSet::new(),
            next: None,
        };
        let read = if no == listing.first() { Some(new) } else { before };
        if let Some(read) = read {
            let (turn, ended_ms, ended) = (call.turn, call.answered_ms, call.answered());
            self.take_page(listing, (no, page), Read { turn, ended_ms, ended, ..read }, call.api);
        }
    }

    fn take_page(&mut self, listing: &Listing, (no, page): (u64, &Page), mut read: Read, api: usize) {
        read.names.extend(page.names.iter().cloned());
        read.pages += usize::from(!page.names.is_empty());
        read.next = listing.next(no, page);
        if read.next.is_some() {
            self.under_way.insert(api, read);
        } else if listing.is_whole(page, read.names.len()) {
            if read.pages > 1 {
                self.reached.insert(Rare::ListPaged);
            }
            let complete = self.complete.entry(api).or_default();
            if let [.., first, second] = complete.as_slice()
                && first.names.difference(&second.names).any(|name| read.names.contains(name))
            {
                self.reached.insert(Rare::ListNotBelieved);
            }
            complete.push(read);
        }
    }

    /// A device is said to be removed. Returns why it should not be.
    fn remove(&mut self, of: Of, turn: u64) -> Option<String> {
        let (api, utility) = &of;
        let complete = self.complete.get(api).map_or(&[][..], Vec::as_slice);
        let why = match complete {
            [.., first, last] => {
                let is_named = first.names.contains(utility) || last.names.contains(utility);
                let is_late = last.turn != turn || last.ended_ms - last.began_ms > LISTING_MS_MAX;
                (is_named || is_late).then(|| format!("removed by {first:?} and {last:?} in turn {turn}"))
            }
            few => Some(format!("removed, and all that was listed in whole is {few:?}")),
        };
        self.ever_removed.insert(of.clone());
        self.removed.insert(of);
        self.reached.insert(Rare::DeviceRemoved);
        why
    }

    /// A device is not said to be removed any more. Returns why it should be.
    fn take_back(&mut self, of: &Of) -> Option<String> {
        let last = self.complete.get(&of.0).and_then(|complete| complete.last());
        let is_named = last.is_some_and(|last| last.names.contains(&of.1));
        self.removed.remove(of);
        self.back.extend(last.map(|last| (of.clone(), last.ended)));
        self.reached.insert(Rare::DeviceBack);
        (!is_named).then(|| format!("back by {last:?}"))
    }
}

/// Which device a catalog is of, and whether it says that its source does not list it any more.
fn says(plan: &Sourcing, path: &AgentPath, record: &Record) -> Option<Says> {
    let Record::Catalog(catalog) = record else { return None };
    let mut all = plan.devices().filter(|(described, _)| described.site == path.site.as_str());
    let (described, utility) = all.find(|(one, utility)| one.agent(utility) == path.agent.as_str())?;
    let is_removed = removed_at(&catalog.bytes).is_some();
    Some(Says { of: (described.no, utility.to_owned()), is_removed })
}

/// Since when a catalog says that its device is listed no more, and that no slot of it is due.
pub(super) fn removed_at(catalog: &[u8]) -> Option<Timestamp> {
    let devices = wire::decode_catalog(catalog).map(|(_, catalog)| catalog.devices).unwrap_or_default();
    let at = devices
        .iter()
        .filter(|device| device.paused)
        .find_map(|device| device.attributes.get("removed_at"))?;
    at.parse().ok()
}

/// Whether a device is removed, as the database has it; `None` of one that it does not know.
fn is_removed(database: &Connection, site: &str, device: &str) -> rusqlite::Result<Option<bool>> {
    let sql = "SELECT d.attributes ->> 'removed_at' IS NOT NULL FROM devices d JOIN sites s ON s.id = d.site
        WHERE s.name = ?1 AND d.name = ?2";
    database.prepare_cached(sql)?.query_row([site, device], |r| r.get(0)).optional()
}

/// The devices of sources that list them.
fn listed(plan: &Sourcing) -> impl Iterator<Item = (&Described, &'static str)> {
    plan.devices().filter(|(described, _)| described.listing.is_some())
}

impl Watch {
    /// A device says that it is removed where that was told and committed, and nowhere else.
    pub(super) fn check_removed(&self, plan: &Sourcing, database: &Connection) -> rusqlite::Result<Findings> {
        let mut findings = Findings::new();
        for (described, utility) in listed(plan) {
            let device = described.device(utility);
            let is = is_removed(database, &described.site, &device)?.unwrap_or_default();
            let was_told = self.removed_at(described, utility).is_some();
            if is != was_told {
                findings
                    .push(("lists", format!("{device}: it says that it is removed: {is}; told: {was_told}")));
            }
        }
        Ok(findings)
    }

    /// Since when a device is removed, by what was committed.
    pub(super) fn removed_at(&self, described: &Described, utility: &str) -> Option<Timestamp> {
        self.kept.removed.get(&(described.no, utility.to_owned())).copied()
    }
}

impl World {
    /// A device that is not taken for what its list says of it.
    pub(super) fn mislisted(&self) -> Option<String> {
        let (sources, committer) = (self.sources.as_ref()?, self.center.committer.as_ref()?);
        let state = sources.ground.state();
        listed(&sources.plan).find_map(|(described, utility)| {
            let (api, device) = (&state.apis[described.no], described.device(utility));
            let is =
                is_removed(committer.connection(), &described.site, &device).expect("the database reads");
            let is_named = api.names(utility, self.now_ms);
            let is_wrong = is.map_or(is_named, |is_removed| is_removed == is_named);
            is_wrong.then(|| format!("{device}: its list names it: {is_named}; it is removed: {is:?}"))
        })
    }

    /// What the run reached of it.
    pub(super) fn note_lists_reached(&mut self) {
        let Some(sources) = &self.sources else { return };
        let mut reached = sources.watch.lists.reached.clone();
        let stored = &sources.watch.kept.stored;
        let is_there = |device: &String| {
            stored.range((device.clone(), i64::MIN)..=(device.clone(), i64::MAX)).next().is_some()
        };
        let came = listed(&sources.plan).filter(|(described, utility)| {
            described.listing.as_ref().is_some_and(|listing| listing.is_later(utility))
        });
        if came.map(|(described, utility)| described.device(utility)).any(|device| is_there(&device)) {
            reached.insert(Rare::DeviceCame);
        }
        reached.into_iter().for_each(|rare| self.sometimes.reach(rare));
    }
}
