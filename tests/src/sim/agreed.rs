//! Devices whose agreement ends, and goes on: what the collector's configuration says of that in a run, when it is changed, and what
//! holds of it. Who is asked no more is told so and polls no more; its slots are due no more from then on, and again as soon as
//! it goes on; once all is quiet collector and agent are both where the configuration wants them.
//!
//! Not simulated: confirmations by persons, ends that devices have as an attribute, and agreements about devices that
//! remember or that the collector asks itself.

use std::collections::BTreeSet;

use gapless_collector::housekeeping::Policy;
use gapless_common::id::DeviceIndex;
use gapless_common::message::CommandBody;
use gapless_common::reading::Record;
use gapless_common::time::Slot;
use gapless_common::wire::{self, Message};
use rusqlite::{Connection, OptionalExtension as _};

use super::cause::DRIFT_ONE_IN;
use super::center::Center;
use super::clock::{BEGAN_MS, signed, truth};
use super::judge::{Case, Findings};
use super::oracle::Known;
use super::plan::Planned;
use super::rng::Rng;
use super::sometimes::Rare;
use super::world::{Event, World};

/// One in so many runs has agreements.
const ONE_IN: u64 = 4;
/// When an agreement ends that does not end in the run, in ms of it.
const LATE_MS: i64 = 400 * 86_400_000;
/// What a poll asks for in several requests comes within this time, in ms.
const REST_MS: u64 = 5_000;
/// That a device goes on is described so soon, in ms, where the agent's loop turns: see `engine`.
const DESCRIBED_MS: u64 = 6_000;
/// What is dated by a clock that drifts may be off by so much, in ms.
const LOOSE_MS: i64 = 1_000;
/// `devices.stopped` where an agreement has ended.
const AGREEMENT_ENDED: i64 = 2;

/// What the configuration says of agreements in a run.
#[derive(Debug, Clone)]
pub struct Agreements {
    /// From when on it is so, in ms of the run, in order; the first from the begin on.
    versions: Vec<(u64, Policy)>,
    /// Devices that one of them speaks of: gateway, device, `site/device`.
    devices: Vec<(usize, DeviceIndex, String)>,
}

impl Agreements {
    /// Those of a run, where it has any.
    #[must_use]
    pub fn draw(bad_ms: u64, agents: &[Planned], rng: &mut Rng) -> Option<Self> {
        if !rng.one_in(ONE_IN) {
            return None;
        }
        let polled = agents.iter().enumerate().flat_map(|(no, agent)| {
            let devices = agent.config.buses.iter().flat_map(|bus| &bus.devices);
            let plain = devices.filter(|device| device.memory.is_none());
            plain.map(move |device| (no, device.index, format!("{}/{}", agent.config.site, device.id)))
        });
        let devices: Vec<_> = polled.filter(|_| rng.one_in(2)).collect();
        let grace_ms = *rng.pick(&[0, 0, bad_ms / 20]);
        let mut changes: Vec<u64> = (0..rng.within(0, 3)).map(|_| rng.below(bad_ms)).collect();
        changes.push(0);
        changes.sort_unstable();
        let version = |at_ms: u64, rng: &mut Rng| {
            let ends = devices.iter().filter_map(|(.., name)| {
                // Now and then long ago; what is not over by the end of bad luck is not over in the run.
                let end_ms = signed(rng.below(bad_ms * 5 / 4)) + signed(at_ms) - signed(bad_ms / 4);
                let is_late = end_ms + signed(grace_ms) > signed(bad_ms);
                let end_ms = if is_late { LATE_MS } else { end_ms };
                (!rng.one_in(3)).then(|| (name.clone(), truth(0).plus_ms(end_ms)))
            });
            let agreements = ends.collect();
            (at_ms, Policy { grace_ms: signed(grace_ms), agreements, ..Policy::default() })
        };
        let versions = changes.into_iter().map(|at_ms| version(at_ms, rng)).collect();
        (!devices.is_empty()).then_some(Self { versions, devices })
    }
}

/// When a device was polled no more by a command of the collector, until it was polled again or its agent began anew, in ms of the
/// run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    device: DeviceIndex,
    from_ms: u64,
    until_ms: u64,
}

/// What happened to the devices of one gateway.
#[derive(Debug, Clone, Default)]
pub struct Paused {
    pauses: Vec<Pause>,
    /// Polls that were asked for, when, and when they are done.
    asked: Vec<(DeviceIndex, u64, u64)>,
}

impl Paused {
    /// Its bus says that a device is paused, or is not.
    pub(super) fn note(&mut self, device: DeviceIndex, is_paused: bool, now_ms: u64) {
        note(&mut self.pauses, device, is_paused, now_ms);
    }

    /// An agent begins: it knows nothing of what the one before was told.
    pub(super) fn note_start(&mut self, now_ms: u64) {
        for pause in self.pauses.iter_mut().filter(|pause| pause.until_ms == u64::MAX) {
            pause.until_ms = now_ms;
        }
    }

    /// A poll of a device is asked for.
    pub(super) fn note_poll_asked(&mut self, device: DeviceIndex, now_ms: u64) {
        self.asked.push((device, now_ms, u64::MAX));
    }

    /// Since when a device has been paused, where it is.
    pub(super) fn since(&self, device: DeviceIndex) -> Option<u64> {
        let mut open = self.pauses.iter().filter(|p| p.device == device && p.until_ms == u64::MAX);
        open.next().map(|pause| pause.from_ms)
    }

    /// A device has answered: what was asked for is done. Whether it is paused, and nobody had asked for that.
    pub(super) fn is_unasked(&mut self, device: DeviceIndex, told_ms: u64) -> bool {
        let its_own = |&(of, _, done_ms): &(DeviceIndex, u64, u64)| of == device && told_ms <= done_ms;
        let was_asked = self.asked.iter().any(its_own);
        for (_, _, done_ms) in self.asked.iter_mut().filter(|(of, ..)| *of == device) {
            // The rest of that poll comes at once.
            *done_ms = (*done_ms).min(told_ms + REST_MS);
        }
        self.since(device).is_some() && !was_asked
    }

    /// Whether a device was ever paused.
    fn was_ever(&self, device: DeviceIndex) -> bool {
        self.pauses.iter().any(|pause| pause.device == device)
    }
}

fn note(pauses: &mut Vec<Pause>, device: DeviceIndex, is_so: bool, now_ms: u64) {
    let open = pauses.iter_mut().find(|pause| pause.device == device && pause.until_ms == u64::MAX);
    match open {
        Some(open) if !is_so => open.until_ms = now_ms,
        None if is_so => pauses.push(Pause { device, from_ms: now_ms, until_ms: u64::MAX }),
        _ => {}
    }
}

/// Whether one of them was so at some instant from `from_ms` to `to_ms`.
fn was_between(pauses: &[Pause], device: DeviceIndex, (from_ms, to_ms): (i64, i64)) -> bool {
    let is_in =
        |p: &Pause| signed(p.from_ms) <= to_ms && i64::try_from(p.until_ms).unwrap_or(i64::MAX) >= from_ms;
    pauses.iter().any(|pause| pause.device == device && is_in(pause))
}

impl World {
    /// The configuration that the collector begins with, and when it is to be changed.
    pub(super) fn begin_agreements(&mut self) {
        let Some(agreements) = &self.plan.agreements else { return };
        let versions = agreements.versions.clone();
        for (no, (at_ms, policy)) in versions.into_iter().enumerate() {
            match no {
                0 => self.center.housekeeping = policy,
                _ => self.push(at_ms, Event::Agree(no)),
            }
        }
    }

    /// Somebody changes the configuration, and has the collector start with it.
    pub(super) fn agree(&mut self, version: usize) {
        let Some(agreements) = &self.plan.agreements else { return };
        let (_, policy) = &agreements.versions[version];
        tracing::info!(at_ms = self.now_ms, ?policy, "is configured anew");
        self.center.housekeeping = policy.clone();
        if self.center.committer.is_some() {
            self.kill_center();
        }
    }

    /// A bus says that one of its devices is paused, or is not.
    pub(super) fn note_paused(&mut self, no: usize, device: DeviceIndex, is_paused: bool) {
        let paused = &mut self.oracle.histories[no].paused;
        let rare = match (is_paused, paused.since(device), paused.was_ever(device)) {
            (true, None, false) => Some(Rare::Paused),
            (true, None, true) => Some(Rare::PausedAnew),
            (false, Some(_), _) => Some(Rare::WentOn),
            _ => None,
        };
        paused.note(device, is_paused, self.now_ms);
        rare.into_iter().for_each(|rare| self.sometimes.reach(rare));
    }

    /// Whoever is asked no more is asked for nothing.
    pub(super) fn check_command(&mut self, payload: &[u8]) {
        let Some(committer) = self.center.committer.as_ref().filter(|_| self.plan.agreements.is_some())
        else {
            return;
        };
        let Ok(Message::Command(command)) = wire::decode(payload) else { return };
        let (CommandBody::PollNow(device) | CommandBody::ReadHistory { device, .. }) = &command.body else {
            return;
        };
        if is_ended(committer.connection(), device.as_str()).expect("the database reads") {
            self.oracle
                .find("asked no more", format!("{device}: {command:?}, though its agreement has ended"));
        }
    }

    /// A device of which collector and agent are not both where the configuration wants them.
    pub(super) fn unsettled(&self) -> Option<String> {
        let (agreements, committer) = (self.plan.agreements.as_ref()?, self.center.committer.as_ref()?);
        let mut unsettled = agreements.devices.iter().filter_map(|(no, index, path)| {
            let name = name_of(path);
            let is_to_end = self.center.is_over(path, self.now_ms);
            let is_ended = is_ended(committer.connection(), name).expect("the database reads");
            let is_paused = self.oracle.histories[*no].paused.since(*index).is_some();
            let is_due = is_due(committer.connection(), name).expect("the database reads");
            let is_settled = is_ended == is_to_end && is_paused == is_to_end && is_due != is_to_end;
            (!is_settled).then(|| {
                format!("{path}: to end {is_to_end}, ended {is_ended}, paused {is_paused}, due {is_due}")
            })
        });
        unsettled.next()
    }

    /// Whether nobody polls a device any more, as its agreement has ended.
    pub(super) fn is_polled_no_more(&self, no: usize, index: DeviceIndex) -> bool {
        let devices = self.plan.agreements.iter().flat_map(|agreements| &agreements.devices);
        let mut its = devices.filter(|(of, device, _)| (*of, *device) == (no, index));
        its.any(|(.., path)| self.center.is_over(path, self.now_ms))
    }
}

impl Center {
    /// Whether the agreement of a device is over, by what the collector is configured for and by its clock.
    fn is_over(&self, path: &str, at_ms: u64) -> bool {
        let end = self.housekeeping.agreements.get(path);
        end.is_some_and(|end| self.now(at_ms).since_ms(*end) >= self.housekeeping.grace_ms)
    }
}

/// Of `site/device`.
fn name_of(path: &str) -> &str {
    path.split_once('/').map_or(path, |(_, name)| name)
}

fn is_ended(database: &Connection, device: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT stopped IS ?2 FROM devices WHERE name = ?1";
    let row = |r: &rusqlite::Row<'_>| r.get(0);
    let ended = database.prepare_cached(sql)?.query_row((device, AGREEMENT_ENDED), row).optional()?;
    Ok(ended.unwrap_or_default())
}

fn is_due(database: &Connection, device: &str) -> rusqlite::Result<bool> {
    let sql =
        "SELECT EXISTS (SELECT 1 FROM spans s JOIN grids g ON g.id = s.grid JOIN devices d ON d.id = g.device
        WHERE d.name = ?1 AND s.last_slot IS NULL)";
    database.prepare_cached(sql)?.query_row([device], |r| r.get(0))
}

impl Case<'_> {
    /// The last slot that was answered of those that were wanted.
    pub(super) fn last_wanted(&self, index: DeviceIndex, known: &Known) -> Option<i64> {
        if self.history().has_odd_clock {
            return None;
        }
        let answered: BTreeSet<i64> = self.slots_issued(index).collect();
        answered.into_iter().rev().find(|slot| !self.was_not_wanted(index, known, *slot))
    }

    /// Slots between the first one and the proof that are not due: the device was paused then.
    pub(super) fn check_not_due(
        &self,
        index: DeviceIndex,
        known: &Known,
        holes: impl Iterator<Item = u64>,
        findings: &mut Findings,
    ) {
        let mut slots = holes.map(signed);
        if let Some(slot) = slots.find(|slot| !self.was_not_wanted(index, known, *slot)) {
            let what = format!("{}: slot {slot} is not due, and it was not paused then", known.name);
            findings.push(("true gaps", what));
        }
    }

    /// Whether a device was paused as a slot began, or went on so lately that its catalog did not say so yet, or never did.
    fn was_not_wanted(&self, index: DeviceIndex, known: &Known, slot: i64) -> bool {
        let around = self.around(known, slot, 0);
        let was_ever = self.history().paused.was_ever(index);
        was_ever && (self.was_paused(index, around) || self.was_polled_unheard(index, around.1))
    }

    /// Whether a device was polled at that instant, and the catalog that said so was lost with its agent, or with a database.
    fn was_polled_unheard(&self, index: DeviceIndex, at_ms: i64) -> bool {
        let history = self.history();
        let is_heard = |from_ms: u64| {
            let is_in_force = |record: &Record| match record {
                Record::Catalog(catalog) => catalog.since.is_some_and(|since| {
                    (signed(from_ms) - LOOSE_MS..=at_ms - LOOSE_MS).contains(&(since.0 - BEGAN_MS))
                }),
                _ => false,
            };
            let mut kept = self.log.kept.iter();
            kept.any(|(place, kept)| is_in_force(&kept.record) && self.oracle.holds(self.no, *place))
        };
        let began = history.lives.iter().map(|life| life.began.0);
        let ended = history.paused.pauses.iter().filter(|pause| pause.device == index);
        let since = began
            .chain(ended.map(|pause| pause.until_ms))
            .filter(|ms| i64::try_from(*ms).is_ok_and(|ms| ms <= at_ms));
        since.max().is_some_and(|since_ms| !is_heard(since_ms))
    }

    /// Whether it was paused in the time in which a slot may be polled.
    pub(super) fn was_paused_in(&self, index: DeviceIndex, known: &Known, slot: i64) -> bool {
        self.was_paused(index, self.around(known, slot, known.open_ms))
    }

    /// Where a clock was wrong, slots are no measure of time.
    fn was_paused(&self, index: DeviceIndex, around: (i64, i64)) -> bool {
        let history = self.history();
        was_between(&history.paused.pauses, index, around)
            || history.has_odd_clock && history.paused.was_ever(index)
    }

    /// The time around a slot that is open for so long, in ms of the run.
    fn around(&self, known: &Known, slot: i64, open_ms: i64) -> (i64, i64) {
        let at_ms = known.grid.at(Slot(slot)).0 - BEGAN_MS;
        let slack_ms = 1 + at_ms.max(0) / DRIFT_ONE_IN;
        let described_ms = self.history().turned_since(at_ms.max(0).unsigned_abs(), DESCRIBED_MS);
        (signed(described_ms) - slack_ms, at_ms + open_ms + slack_ms)
    }
}
