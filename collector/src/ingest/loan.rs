//! What a donor has of a gap: its channels beside those that are missing, instant by instant. Reads only; whether a reading may
//! stand for another one is decided in [`donate`](crate::gaps::donate), and when it is looked in [`borrow`](super::borrow).

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::id::Epoch;
use gapless_common::quality::Quality;
use gapless_common::time::{Slot, SlotGrid, Timestamp};
use rusqlite::Connection;

use crate::gaps::donate::{Donor, Mismatch, slot_of};
use crate::ledger::{AgentNo, DeviceNo, Due, GridNo};
use crate::store::batch::Row;
use crate::store::cell::Cell;
use crate::store::lending::{self, Missing, Series};

/// Instants of one channel that are lent in one transaction.
const INSTANTS_MAX: usize = 2_000;
/// Places of a donor's densest grid that are looked through for them at once, and slots of the gap.
pub(super) const PLACES_MAX: i64 = 20_000;
/// Counters count what an agent told; what is lent was counted when it came.
const NOBODY: AgentNo = AgentNo(0);

/// A device, a donor of it, and the slots that may be filled.
#[derive(Debug)]
pub(super) struct Pair<'a> {
    pub(super) donor: &'a Donor,
    pub(super) own: (DeviceNo, AgentNo),
    pub(super) from: DeviceNo,
    pub(super) grid: GridNo,
    pub(super) times: SlotGrid,
}

/// What a donor has of one gap.
#[derive(Debug)]
pub(super) struct Loan {
    pub(super) gap: i64,
    pub(super) due: Due,
    pub(super) agent: AgentNo,
    /// Who lends it, as the history tells it.
    pub(super) actor: String,
    pub(super) rows: Vec<Row>,
    /// Slots of which all channels are there then.
    pub(super) whole: Vec<Slot>,
    /// What is said of the others, where there are any.
    pub(super) part: Option<String>,
    /// What was looked at for it; `None` where that is to be looked at once more.
    pub(super) looked: Option<Looked>,
}

impl Loan {
    const fn nothing(pair: &Pair<'_>, gap: i64) -> Self {
        let (device, agent) = pair.own;
        let due = Due { device, grid: pair.grid, times: pair.times, paused: false };
        Self {
            gap,
            due,
            agent,
            actor: String::new(),
            rows: Vec::new(),
            whole: Vec::new(),
            part: None,
            looked: None,
        }
    }
}

/// Slots of a gap that were looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looked {
    pub(super) slots: (i64, i64),
    /// See [`Missing::is_asked`].
    pub(super) is_asked: bool,
}

/// What was found.
#[derive(Debug)]
pub(super) enum Found {
    Loan(Loan),
    Nothing(Looked),
}

/// What is lent of one gap, by instant and series.
type Cells = BTreeMap<Timestamp, BTreeMap<i64, (Cell, Quality)>>;

/// What is to be lent of slots of a gap that were due with these series.
pub(super) fn of_gap(
    connection: &Connection,
    pair: &Pair<'_>,
    gap: Missing,
    own: &[Series],
    (first, last): (i64, i64),
    said: &mut BTreeSet<String>,
) -> rusqlite::Result<Found> {
    let looked = |last| Looked { slots: (first, last), is_asked: gap.is_asked };
    let grids = lending::grids(connection, pair.from)?;
    let mut matching = Vec::new();
    for series in own {
        match revisions(connection, pair, series, &grids, said)? {
            found if found.is_empty() => {}
            found => matching.push((series, found)),
        }
    }
    if matching.is_empty() {
        return Ok(Found::Nothing(looked(last)));
    }
    let densest = grids.iter().map(|(_, times)| times.interval.as_ms()).min().unwrap_or(1);
    let reach = pair.times.at(Slot(first)).plus_ms(densest.saturating_mul(PLACES_MAX));
    let mut last = last.min(pair.times.slot_at(reach).0.max(first));
    let mut cells = Cells::new();
    for (series, revisions) in &matching {
        for revision in revisions {
            let span = (pair.times.at(Slot(first)), pair.times.at(Slot(last)));
            let ids = (series.id, *revision);
            let values = lending::values(connection, ids, pair.times, span, INSTANTS_MAX)?;
            if let Some((at, ..)) = values.last().filter(|_| values.len() == INSTANTS_MAX) {
                last = last.min(pair.times.slot_at(*at).0);
            }
            for (at, value, quality) in values {
                if is_of_that_period(connection, pair, series, &grids, at)? {
                    // The latest revision comes first.
                    cells.entry(at).or_default().entry(series.id).or_insert((value, quality));
                }
            }
        }
    }
    cells.split_off(&pair.times.at(Slot(last)).plus_ms(1));
    let looked = looked(last);
    if cells.is_empty() {
        return Ok(Found::Nothing(looked));
    }
    loan(connection, pair, gap.id, own, cells, looked).map(Found::Loan)
}

/// The slots of a gap of which all channels stand there that they were due with, since they were lent before its own source was
/// asked: they count as received now. `None` where there is none of them.
pub(super) fn standing(
    connection: &Connection,
    pair: &Pair<'_>,
    gap: Missing,
    own: &[Series],
    (first, last): (i64, i64),
) -> rusqlite::Result<Option<Loan>> {
    let span = (pair.times.at(Slot(first)), pair.times.at(Slot(last)));
    let series: Vec<i64> = own.iter().map(|series| series.id).collect();
    let there = lending::whole(connection, &series, pair.times, span, INSTANTS_MAX)?;
    let whole: Vec<Slot> = there.into_iter().filter_map(|at| slot_of(pair.times, at)).collect();
    if whole.is_empty() {
        return Ok(None);
    }
    let mut actor = lending::lenders(connection, gap.id)?.join(", ");
    if actor.is_empty() {
        // Its history went to the gap that it was joined with.
        actor.push_str("device");
    }
    Ok(Some(Loan { actor, whole, ..Loan::nothing(pair, gap.id) }))
}

/// What of the donor may stand for a series of the device's. Where nothing may, that is said once.
fn revisions(
    connection: &Connection,
    pair: &Pair<'_>,
    own: &Series,
    grids: &[(GridNo, SlotGrid)],
    said: &mut BTreeSet<String>,
) -> rusqlite::Result<Vec<i64>> {
    let name = pair.donor.channel(&own.channel);
    let grids: Vec<SlotGrid> = grids.iter().map(|(_, times)| *times).collect();
    let (mut found, mut why) = (Vec::new(), None);
    for revision in lending::revisions(connection, pair.from, name)? {
        match own.meaning.takes(pair.times, &revision.meaning, &grids) {
            Ok(()) => found.push(revision.id),
            // What it says of itself today comes first.
            Err(mismatch) => why = why.or(Some(mismatch)),
        }
    }
    if found.is_empty() {
        let why = why.unwrap_or(Mismatch::NoChannel);
        let Donor { site, device, from, .. } = pair.donor;
        let channel = &own.channel;
        let what = format!("{site}/{from}/{name} does not stand in for {site}/{device}/{channel}: {why}");
        if said.insert(what.clone()) {
            tracing::warn!("{what}");
        }
    }
    Ok(found)
}

/// Whether a donor's value was kept on the grid of the device, where that matters and the donor has had others, too.
fn is_of_that_period(
    connection: &Connection,
    pair: &Pair<'_>,
    own: &Series,
    grids: &[(GridNo, SlotGrid)],
    at: Timestamp,
) -> rusqlite::Result<bool> {
    if own.meaning.is_of_instant() || grids.len() < 2 {
        return Ok(true);
    }
    let same = grids.iter().find(|(_, times)| *times == pair.times);
    same.map_or(Ok(false), |(grid, times)| lending::is_received(connection, *grid, times.slot_at(at)))
}

fn loan(
    connection: &Connection,
    pair: &Pair<'_>,
    gap: i64,
    own: &[Series],
    cells: Cells,
    looked: Looked,
) -> rusqlite::Result<Loan> {
    let device = pair.own.0;
    let (mut rows, mut whole, mut lacking, mut parts) = (Vec::new(), Vec::new(), BTreeSet::new(), 0_usize);
    for (at, lent) in cells {
        let Some(slot) = slot_of(pair.times, at) else { continue };
        let mut is_whole = true;
        for series in own.iter().filter(|series| !lent.contains_key(&series.id)) {
            if !lending::has(connection, series.id, at)? {
                is_whole = false;
                lacking.insert(series.channel.as_str());
            }
        }
        if is_whole {
            whole.push(slot);
        } else {
            parts += 1;
        }
        rows.extend(lent.into_iter().map(|(series, (value, quality))| Row {
            series,
            ts: at.0,
            value,
            quality,
            device: device.0,
            place: None,
            revises: false,
            lent: true,
            agent: NOBODY,
            epoch: Epoch(0),
            seq: 0,
        }));
    }
    let lacking = lacking.into_iter().collect::<Vec<_>>().join(", ");
    let lacks = (parts > 0).then(|| format!("{parts} of its slots are there but for {lacking}"));
    // What is there of them stands in; they are missing as long as the device may have them itself.
    let waiting = if looked.is_asked { 0 } else { whole.len() };
    let waits =
        (waiting > 0).then(|| format!("{waiting} of its slots are there, and its own source is asked first"));
    if !looked.is_asked {
        whole.clear();
    }
    let part = [waits, lacks].into_iter().flatten().reduce(|waits, lacks| format!("{waits}; {lacks}"));
    let actor = format!("device {}", pair.donor.from);
    Ok(Loan { actor, rows, whole, part, looked: Some(looked), ..Loan::nothing(pair, gap) })
}
