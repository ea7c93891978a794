//! What holds of what another device stands in with. As it goes: each loan is of slots that were missing then, at their very instants,
//! of channels that say the same, and bit for bit what the other device had recorded and the collector had committed; it is marked,
//! the history of its gap names who lent it, and no device is fresher for it. In the end: what the other one has of a slot that is
//! missing stands there, a slot of which all channels do is no gap, and what the device itself has said of a slot is not
//! shadowed. A loan closes no gap that whoever has the readings at first hand was not asked for yet.

use std::collections::{BTreeMap, BTreeSet};

use gapless_collector::store::{AHEAD_MAX_MS, ReadStore as _};
use gapless_common::quality::Quality;
use gapless_common::ranges::RangeSet;
use gapless_common::reading::Acquired;
use gapless_common::time::{Slot, Timestamp};
use rusqlite::Connection;

use super::donor::Donation;
use super::judge::{Case, Findings, Stored, unsigned};
use super::kept::Kept;
use super::oracle::Known;
use super::rest::FILLED;
use super::world::World;

/// What is added to the code of a quality where the reading is of another device.
pub(super) const LENT: i64 = 1 << 16;
/// `gaps.state`.
const ABANDONED: i64 = 5;
/// `gap_events.event`.
const CLOSED: i64 = 9;
const PARTLY: i64 = 12;

/// Every value that was ever lent, as its bits, by channel and instant.
#[derive(Debug, Default)]
pub(super) struct Lent(BTreeMap<(String, i64), BTreeSet<u64>>);

/// A row of a device: channel, instant, value and quality.
type Row = (String, i64, Option<f64>, i64);

impl World {
    /// The collector has other devices stand in, as much as it does in one look.
    pub(super) fn lend(&mut self) {
        let loans = self.plan.donation.as_ref().map_or(0, |donation| donation.loans);
        for _ in 0..loans {
            let (now, Some(donation)) = (self.center.now(self.now_ms), &self.plan.donation) else { return };
            let Some(committer) = self.center.committer.as_mut() else { return };
            let before = Missing::load(committer.connection(), &donation.device).expect("the database reads");
            let done = committer.lend(now);
            if !self.center.unless_full(done) {
                return;
            }
            let findings = self.check_loan(&before, now).expect("the database reads");
            findings.into_iter().for_each(|(invariant, what)| self.oracle.find(invariant, what));
        }
    }

    /// What the last commit lent, of slots of which these were missing before.
    fn check_loan(&mut self, before: &Missing, now: Timestamp) -> rusqlite::Result<Findings> {
        let mut findings = Findings::new();
        let (Some(donation), Some(sources)) = (&self.plan.donation, &self.sources) else {
            return Ok(findings);
        };
        let Some(committer) = &self.center.committer else { return Ok(findings) };
        let database = committer.connection();
        let loan = rows(database, &donation.device, Some(committer.head().commit.0))?;
        let after = Missing::load(database, &donation.device)?;
        let closed = before.all.iter().flat_map(|(first, last)| first..=last);
        let closed: Vec<u64> = closed.filter(|slot| !after.all.contains(*slot)).collect();
        if loan.is_empty() && closed.is_empty() {
            findings.push(("lending", format!("{}: a loan of nothing", donation.device)));
        }
        for slot in closed {
            let what = if before.unasked.contains(slot) {
                "before it was asked for it itself"
            } else if !is_told(database, &donation.device, super::judge::signed(slot), "device *")? {
                "and the history of its gap names nobody"
            } else {
                continue;
            };
            findings
                .push(("lending", format!("{}: slot {slot} is closed by a loan {what}", donation.device)));
        }
        for row in &loan {
            tracing::debug!(at_ms = self.now_ms, device = donation.device, ?row, "lent");
            let wrong = match wrong(donation, &sources.watch.kept, &before.all, row) {
                None => {
                    let from = donation.lenders.get(&row.0).map_or("", |lender| &lender.device);
                    let slot = donation.grid.slot_at(Timestamp(row.1)).0;
                    let is_told = is_told(database, &donation.device, slot, &format!("device {from}"))?;
                    (!is_told).then_some("the history of its gap does not say so")
                }
                wrong => wrong,
            };
            if let Some(why) = wrong {
                findings.push(("lending", format!("{}: {row:?} is lent: {why}", donation.device)));
            }
            if let (channel, at, Some(value), _) = row {
                self.lent.0.entry((channel.clone(), *at)).or_default().insert(value.to_bits());
            }
        }
        let all = rows(database, &donation.device, None)?;
        let own = all.iter().filter(|(.., quality)| *quality < LENT).map(|(_, at, ..)| *at);
        let own = own.filter(|at| *at <= now.0 + AHEAD_MAX_MS).max();
        let devices = committer.store().devices(None, now).expect("the database reads");
        let mut it = devices.iter().filter(|row| row.device.as_str() == donation.device);
        let says = it.next().and_then(|row| row.last_reading_at).map(|at| at.0);
        if says != own {
            let what =
                format!("{}: its last reading is of {own:?}, and counts as of {says:?}", donation.device);
            findings.push(("lending", what));
        }
        Ok(findings)
    }
}

/// Why a row may not be lent, where that is so.
fn wrong(
    donation: &Donation,
    kept: &Kept,
    before: &RangeSet,
    (channel, at, value, quality): &Row,
) -> Option<&'static str> {
    if *quality != LENT + i64::from(Quality::Good.code()) {
        return Some("it is not marked so");
    }
    let Some(lender) = donation.lenders.get(channel) else { return Some("nobody has that channel") };
    let slot = donation.grid.slot_at(Timestamp(*at));
    let has = kept.stored.get(&(lender.device.clone(), *at));
    match () {
        () if !lender.is_alike => Some("that says something else"),
        () if donation.grid.at(slot).0 != *at => Some("that is of no slot"),
        () if !before.contains(unsigned(slot.0)) => Some("that slot was not missing"),
        () if has != Some(&value.map(f64::to_bits)) || value.is_none() => {
            Some("that is not what was recorded")
        }
        () => None,
    }
}

/// Whether the history of the gap that holds a slot, with that of those that it was cut off, has a word of whoever is of this pattern.
fn is_told(database: &Connection, device: &str, slot: i64, who: &str) -> rusqlite::Result<bool> {
    let sql = "WITH RECURSIVE past (gap, until) AS (
            SELECT p.id, 9223372036854775807 FROM gaps p JOIN grids g ON g.id = p.grid JOIN devices d ON d.id = g.device
            WHERE d.name = ?1 AND p.first_slot <= ?2 AND p.last_slot >= ?2
            UNION SELECT e.parent, e.id FROM past JOIN gap_events e ON e.gap = past.gap AND e.id < past.until
            WHERE e.parent IS NOT NULL)
        SELECT EXISTS (SELECT 1 FROM past JOIN gap_events e ON e.gap = past.gap AND e.id < past.until
            WHERE e.actor GLOB ?3 AND e.event IN (?4, ?5))";
    database
        .prepare_cached(sql)?
        .query_row(rusqlite::params![device, slot, who, CLOSED, PARTLY], |r| r.get(0))
}

/// Everything, in the end. Returns whether there is something that was not lent, as it says something else.
pub(super) fn judge(world: &World, findings: &mut Findings) -> bool {
    let Some(committer) = &world.center.committer else { return false };
    let database = committer.connection();
    let device = world.plan.donation.as_ref().map_or("", |donation| &donation.device);
    let elsewhere =
        "SELECT count(*) FROM readings r JOIN series x ON x.id = r.series JOIN devices d ON d.id = x.device
        WHERE x.lent_ts IS NOT NULL AND r.quality >= 65536 AND d.name <> ?1";
    let count: i64 = database.query_row(elsewhere, [device], |r| r.get(0)).expect("the database reads");
    if count > 0 {
        findings.push(("lending", format!("{count} readings are lent to nobody knows whom")));
    }
    let (Some(donation), Some(sources)) = (&world.plan.donation, &world.sources) else { return false };
    let rows = rows(database, device, None).expect("the database reads");
    let there: BTreeSet<(&str, i64)> = rows.iter().map(|(channel, at, ..)| (channel.as_str(), *at)).collect();
    for row @ (channel, at, value, quality) in &rows {
        let bits = value.map(f64::to_bits).unwrap_or_default();
        let was_lent = || world.lent.0.get(&(channel.clone(), *at)).is_some_and(|all| all.contains(&bits));
        if *quality >= LENT && !was_lent() {
            findings.push(("no invention", format!("{device}: {row:?} was never lent")));
        }
        let slot = donation.grid.slot_at(Timestamp(*at)).0;
        // Parts that were filled may have joined since: then it tells of one of those who lent them.
        if *quality >= LENT && !is_told(database, device, slot, "device *").expect("the database reads") {
            let what = format!("{device}: {row:?} is lent, and the history of its gap does not say so");
            findings.push(("lending", what));
        }
    }
    let mut is_unlike = false;
    let missing = Missing::load(database, device).expect("the database reads");
    let slots = missing.all.iter().flat_map(|(first, last)| first..=last);
    for slot in slots.map(super::judge::signed) {
        let at = donation.grid.at(Slot(slot)).0;
        let is_there = |channel: &String| there.contains(&(channel.as_str(), at));
        for (channel, lender) in &donation.lenders {
            let is_had =
                sources.watch.kept.stored.get(&(lender.device.clone(), at)).is_some_and(Option::is_some);
            is_unlike |= is_had && !lender.is_alike;
            if is_had && lender.is_alike && !is_there(channel) {
                let what = format!(
                    "{device}: slot {slot} is missing, and {channel} of {} is not lent",
                    lender.device
                );
                findings.push(("lending", what));
            }
        }
        if donation.channels.iter().all(is_there) && !missing.unasked.contains(unsigned(slot)) {
            let what = format!("{device}: slot {slot} is missing, and all of its channels are there");
            findings.push(("lending", what));
        }
    }
    is_unlike
}

/// What is lent of a device.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Slots at whose instants anything is.
    any: RangeSet,
    /// Slots of which all channels are there then, and that nobody else was to be asked for: they count as received.
    pub(super) whole: RangeSet,
}

impl Standing {
    pub(super) fn load(database: &Connection, known: &Known) -> rusqlite::Result<Self> {
        let mut by_slot: BTreeMap<i64, (BTreeSet<String>, bool)> = BTreeMap::new();
        for (channel, at, _, quality) in rows(database, &known.name, None)? {
            let slot = known.grid.slot_at(Timestamp(at));
            if known.grid.at(slot).0 == at {
                let (channels, is_lent) = by_slot.entry(slot.0).or_default();
                channels.insert(channel);
                *is_lent |= quality >= LENT;
            }
        }
        let (mut standing, missing) = (Self::default(), Missing::load(database, &known.name)?);
        for (slot, (channels, _)) in by_slot.into_iter().filter(|(_, (_, is_lent))| *is_lent) {
            let slot = unsigned(slot);
            standing.any.insert(slot, slot);
            let is_whole = known.channels.iter().all(|channel| channels.contains(channel));
            if is_whole && !missing.unasked.contains(slot) {
                standing.whole.insert(slot, slot);
            }
        }
        Ok(standing)
    }
}

impl Case<'_> {
    /// Where the device has answered itself, with the block of registers that others have channels of, nothing that is lent stands.
    pub(super) fn check_shadow(
        &self,
        index: gapless_common::id::DeviceIndex,
        known: &Known,
        stored: &Stored,
        findings: &mut Findings,
    ) {
        let own = stored.answers.keys().filter(|(block, _)| *block == 0);
        let issued = own.filter_map(|&(block, eval)| self.oracle.issued.get(&(self.no, index, block, eval)));
        let mut slots = issued.filter_map(|issued| match issued.acquired {
            Acquired::InSlot(slot) => Some(unsigned(slot.0)),
            // Whether its time is known is seen in its row alone.
            Acquired::Recorded(_) | Acquired::SinceBoot(_) => None,
        });
        if let Some(slot) = slots.find(|slot| stored.lent.any.contains(*slot)) {
            let what = format!("{}: slot {slot} was answered, and what was lent stands there", known.name);
            findings.push(("lending", what));
        }
    }
}

/// The readings of a device, or those that one commit wrote.
fn rows(database: &Connection, device: &str, commit: Option<u64>) -> rusqlite::Result<Vec<Row>> {
    let sql = "SELECT x.channel, r.ts, r.value, r.quality FROM devices d JOIN series x ON x.device = d.id
        JOIN readings r ON r.series = x.id WHERE d.name = ?1 AND (?2 IS NULL OR r.commit_no = ?2)";
    let mut statement = database.prepare_cached(sql)?;
    let rows = statement.query_map(rusqlite::params![device, commit.map(u64::cast_signed)], |r| {
        Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?))
    })?;
    rows.collect()
}

/// The slots of a device that are missing.
#[derive(Debug, Default)]
struct Missing {
    all: RangeSet,
    /// Those for which whoever has them at first hand is still to be asked.
    unasked: RangeSet,
}

impl Missing {
    fn load(database: &Connection, device: &str) -> rusqlite::Result<Self> {
        let sql = "SELECT p.first_slot, p.last_slot, p.attempts = 0 AND NOT p.sourceless AND p.state <> ?3 FROM gaps p
            JOIN grids g ON g.id = p.grid JOIN devices d ON d.id = g.device WHERE d.name = ?1 AND p.state <> ?2";
        let mut statement = database.prepare_cached(sql)?;
        let mut rows = statement.query(rusqlite::params![device, FILLED, ABANDONED])?;
        let mut missing = Self::default();
        while let Some(row) = rows.next()? {
            let (first, last) = (unsigned(row.get(0)?), unsigned(row.get(1)?));
            missing.all.insert(first, last);
            if row.get(2)? {
                missing.unasked.insert(first, last);
            }
        }
        Ok(missing)
    }
}
