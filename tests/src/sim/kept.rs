//! What the collector's database must have of its own sources, by what was committed: values, why slots are missing, whose consent is
//! withdrawn. A backup keeps it, and a database that is put back has no more than that.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::message::AgentState;
use gapless_common::quality::Cause;
use gapless_common::reading::{Record, Value};
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;
use gapless_common::wire::{self, Message};
use rusqlite::{Connection, OptionalExtension as _};

use super::described::Described;
use super::dropped::is_drop;
use super::folder::{self, DEVICE};
use super::judge::Findings;
use super::listed::removed_at;
use super::sometimes::Rare;
use super::source::{Sources, Sourcing};
use super::sourced::Watch;
use super::world::World;

/// A device and an instant, or a slot.
pub(super) type Place = (String, i64);
/// A meter, and its API.
pub(super) type Of = (usize, String);

/// What an answer said of an instant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    /// When, in ms of the run.
    pub(super) at_ms: u64,
    /// Whether the API had it, and did tell.
    pub(super) is_had: bool,
}

/// What the database has of sources, by what was committed, and what their APIs had told by then.
#[derive(Debug, Default, Clone)]
pub(super) struct Kept {
    /// Values, as their bits; `None` where there is none.
    pub(super) stored: BTreeMap<Place, Option<u64>>,
    /// Why slots were told to be missing.
    pub(super) missed: BTreeMap<Place, BTreeSet<Cause>>,
    /// Meters whose consent was withdrawn, and which consent that was.
    pub(super) refused: BTreeMap<Of, u32>,
    /// Instants of the drop whose value took the place of another one.
    pub(super) revised: BTreeSet<i64>,
    /// Meters that are listed no more, and since when.
    pub(super) removed: BTreeMap<Of, Timestamp>,
    /// What the last answer to each question for an instant said of it.
    pub(super) told: BTreeMap<Place, Told>,
}

impl Watch {
    /// What was handed in and is not committed comes to nothing.
    pub(super) fn lose(&mut self, now_ms: u64) {
        self.lost.extend(std::mem::take(&mut self.under_way).into_keys().map(|place| (place, now_ms)));
    }

    /// By the consent that is in force the meter was refused, and that is committed.
    pub(super) fn is_refused(&self, described: &Described, utility: &str) -> bool {
        self.kept.refused.get(&(described.no, utility.to_owned())) == Some(&described.consent)
    }

    /// A device says that its consent is withdrawn where that was told and committed, and nowhere else.
    pub(super) fn check_marks(&self, plan: &Sourcing, database: &Connection) -> rusqlite::Result<Findings> {
        let mut findings = Findings::new();
        for (described, utility) in plan.devices() {
            let device = described.device(utility);
            let says = standing(database, &described.site, &device)?
                .filter(|(consent, _)| *consent == described.consent.to_string());
            let (is_marked, is_refused) =
                (says.is_some_and(|(_, is_marked)| is_marked), self.is_refused(described, utility));
            if is_marked != is_refused {
                let what = format!(
                    "{device}: it says that consent is withdrawn: {is_marked}; it was refused: {is_refused}"
                );
                findings.push(("consent", what));
            }
        }
        Ok(findings)
    }

    /// A message of a source is committed. Returns what was reached with it.
    fn note_committed(&mut self, plan: &Sourcing, now_ms: u64, topic: &str, payload: &[u8]) -> Vec<Rare> {
        let mut reached = Vec::new();
        let path = AgentPath::parse_up(topic).map(|(path, _)| path);
        let Some(path) = path else { return reached };
        let agent = path.agent.as_str();
        let is_of = |described: &Described| described.site == path.site.as_str();
        let mut all = plan.devices().filter(|(described, _)| is_of(described));
        let of = all.find(|(described, utility)| described.agent(utility) == agent);
        let device = match of {
            Some((described, utility)) => described.device(utility),
            None if is_drop(&path) => DEVICE.to_owned(),
            None => return reached,
        };
        let records = match wire::decode(payload) {
            Ok(Message::Data(frame)) => frame.records,
            Ok(Message::State(AgentState::Birth { .. })) => {
                self.born_ms.insert(agent.to_owned(), now_ms);
                return reached;
            }
            _ => return reached,
        };
        for record in records {
            if let (Record::Catalog(catalog), Some((described, utility))) = (&record, of) {
                let meter = (described.no, utility.to_owned());
                let is_refused = is_marked(&catalog.bytes) && self.withdrawn.contains_key(&meter);
                self.kept.refused.extend(is_refused.then(|| (meter.clone(), described.consent)));
                let removed_at = removed_at(&catalog.bytes);
                self.kept.removed.remove(&meter);
                self.kept.removed.extend(removed_at.map(|at| (meter.clone(), at)));
            }
            match record {
                Record::Readings(readings) => {
                    for value in readings.samples.iter().map(|sample| sample.value.as_ref()) {
                        let bits = match value {
                            Some(Value::Number(value)) => Some(value.to_bits()),
                            _ => None,
                        };
                        let place = (device.clone(), readings.at.0);
                        self.under_way.remove(&place);
                        let before = self.kept.stored.insert(place, bits);
                        match before.is_some_and(|before| before != bits) {
                            true if of.is_some() => reached.push(Rare::RemoteCorrected),
                            true => drop(self.kept.revised.insert(readings.at.0)),
                            false => {}
                        }
                    }
                }
                Record::Misses(misses) => {
                    for slot in misses.first.0..misses.first.0 + i64::from(misses.count) {
                        let place = (device.clone(), slot);
                        if self.unreached.contains(&place) {
                            reached.push(Rare::RemoteUnreached);
                        }
                        self.kept.missed.entry(place).or_default().insert(misses.cause);
                    }
                }
                _ => {}
            }
        }
        reached
    }
}

impl World {
    /// A message was committed: it may be one of a source.
    pub(super) fn note_source(&mut self, topic: &str, payload: &[u8]) {
        let now_ms = self.now_ms;
        let Some(sources) = &mut self.sources else { return };
        let reached: BTreeSet<Rare> =
            sources.watch.note_committed(&sources.plan, now_ms, topic, payload).into_iter().collect();
        reached.into_iter().for_each(|rare| self.sometimes.reach(rare));
    }

    /// The collector's database is backed up, or put back.
    pub(super) fn note_sources_backed_up(&mut self, is_put_back: bool) {
        let now_ms = self.now_ms;
        let Some(Sources { watch, .. }) = &mut self.sources else { return };
        if is_put_back {
            (watch.kept, watch.under_way) = watch.backup.clone();
            watch.lose(now_ms);
        } else {
            watch.backup = (watch.kept.clone(), watch.under_way.clone());
        }
    }

    /// When an agent of a source was last born.
    pub(super) fn source_born_ms(&self, path: &str) -> Option<u64> {
        let (site, agent) = path.split_once('/')?;
        let sources = self.sources.as_ref()?;
        let is_of_drop = sources.plan.dropping.is_some() && site == folder::SITE;
        let is_of = is_of_drop || sources.plan.described.iter().any(|described| described.site == site);
        is_of.then_some(())?;
        Some(sources.watch.born_ms.get(agent).copied().unwrap_or_default())
    }
}

/// Whether a catalog says that the consent for its device is withdrawn, and that no slot of it is due.
pub(super) fn is_marked(catalog: &[u8]) -> bool {
    let devices = wire::decode_catalog(catalog).map(|(_, catalog)| catalog.devices).unwrap_or_default();
    devices.iter().any(|device| device.paused && device.attributes.contains_key("not_authorised_since"))
}

/// By which consent a device was asked last, and whether that is withdrawn.
fn standing(database: &Connection, site: &str, device: &str) -> rusqlite::Result<Option<(String, bool)>> {
    let sql =
        "SELECT coalesce(d.attributes ->> 'consent', ''), d.attributes ->> 'not_authorised_since' IS NOT NULL
        FROM devices d JOIN sites s ON s.id = d.site WHERE s.name = ?1 AND d.name = ?2";
    database.query_row(sql, [site, device], |r| Ok((r.get(0)?, r.get(1)?))).optional()
}
