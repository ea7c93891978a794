//! What a device of a source says to the collector: the messages of an agent, made in this process. Pure.
//!
//! Contract: [`Voice::opening`] first, then [`Voice::rows`] for each window that was read, oldest first (or
//! [`Voice::pass_on`] for what has come, and [`Voice::account`] once that is all), and [`Voice::reply`] for each command. Nothing is kept for sending again: what the writer was handed it commits.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::catalog::Catalog;
use gapless_common::id::{BootId, ChannelIndex, ConnectionId, DeviceIndex, Epoch, Seq};
use gapless_common::message::{AgentState, DataFrame, HeldEpoch, Outcome, Reply};
use gapless_common::quality::Cause;
use gapless_common::reading::{
    Acquired, CatalogRecord, Completeness, EpochStart, Misses, Readings, Record, Sample, Value,
};
use gapless_common::time::{Slot, SlotGrid, Timestamp};
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire::{self, Message};

use super::rows::{Cell, Row};
use crate::ingest::Inbound;

/// Records that are tried as one frame at first.
const FRAME_RECORDS_MAX: usize = 1_000;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Voice {
    path: AgentPath,
    connection: ConnectionId,
    epoch: Epoch,
    next: u64,
    catalog: Catalog,
    /// How far back of what was told it is known what it was, in ms.
    overlap_ms: i64,
    /// What was told of the rows since then: such a row is told again only where it says something else.
    told: BTreeMap<Timestamp, Vec<Option<Cell>>>,
    /// Slots of rows that were passed on and are not accounted for.
    there: BTreeSet<i64>,
}

/// A row as it was told.
type Told = (Timestamp, Vec<Option<Cell>>);

/// What was drawn or found at the start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begin {
    /// Random.
    pub(crate) epoch: Epoch,
    /// Random.
    pub(crate) connection: ConnectionId,
    /// The epoch before it, and the first seq that it did not use.
    pub(crate) previous: Option<(Epoch, Seq)>,
}

/// What is known of a device's slots within a window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// From this instant.
    pub(crate) from: Timestamp,
    /// Before this one.
    pub(crate) to: Timestamp,
    /// What is before it was accounted for earlier, and is only read again; `to` where nothing is to be accounted for.
    pub(crate) accounted: Timestamp,
    /// Slots before it that have no row are missing; later ones may still come.
    pub(crate) settled: Timestamp,
}

impl Voice {
    pub(crate) fn new(path: AgentPath, begin: Begin, catalog: Catalog, overlap_ms: i64) -> Self {
        let Begin { epoch, connection, .. } = begin;
        Self {
            path,
            connection,
            epoch,
            next: 1,
            catalog,
            overlap_ms,
            told: BTreeMap::new(),
            there: BTreeSet::new(),
        }
    }

    pub(crate) fn path(&self) -> &AgentPath {
        &self.path
    }

    /// Its epoch, and the last seq that it has used.
    pub(crate) fn said(&self) -> (Epoch, Seq) {
        (self.epoch, Seq(self.next.saturating_sub(1)))
    }

    /// The first messages: who it is, and what is due of it from `since` on.
    pub(crate) fn opening(
        &mut self,
        begin: Begin,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Inbound>, wire::EncodeError> {
        let start = EpochStart {
            previous: begin.previous,
            boot: BootId(begin.epoch.0),
            boot_clock_ms: 0,
            at: now,
            clock_set: true,
            durable: true,
            agent_version: version(),
        };
        let mut messages = vec![self.birth(now)?];
        messages.extend(self.records(&[Record::Start(start)], now)?);
        messages.extend(self.describe(since, now)?);
        Ok(messages)
    }

    /// Its catalog, in force from `since` on.
    pub(crate) fn describe(
        &mut self,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Inbound>, wire::EncodeError> {
        let (hash, bytes) = wire::encode_catalog(&self.catalog);
        self.records(&[Record::Catalog(CatalogRecord { hash, since: Some(since), bytes })], now)
    }

    /// No slot is due any more, and these attributes say why.
    pub(crate) fn pause(
        &mut self,
        attributes: &BTreeMap<String, String>,
        now: Timestamp,
    ) -> Result<Vec<Inbound>, wire::EncodeError> {
        self.catalog.devices.iter_mut().for_each(|device| device.paused = true);
        self.attribute(attributes, now)
    }

    /// Its slots are due again from `now` on; attributes as with [`attribute`](Self::attribute).
    pub(crate) fn resume(
        &mut self,
        attributes: &BTreeMap<String, String>,
        now: Timestamp,
    ) -> Result<Vec<Inbound>, wire::EncodeError> {
        self.catalog.devices.iter_mut().for_each(|device| device.paused = false);
        self.attribute(attributes, now)
    }

    /// Sets attributes of the device; those without a text are taken away.
    pub(crate) fn attribute(
        &mut self,
        attributes: &BTreeMap<String, String>,
        now: Timestamp,
    ) -> Result<Vec<Inbound>, wire::EncodeError> {
        for device in &mut self.catalog.devices {
            device.attributes.extend(attributes.clone());
            device.attributes.retain(|_, text| !text.is_empty());
        }
        self.describe(now, now)
    }

    /// That it is there.
    pub(crate) fn birth(&self, now: Timestamp) -> Result<Inbound, wire::EncodeError> {
        let state = AgentState::Birth {
            path: self.path.clone(),
            connection: self.connection,
            agent_version: version(),
            boot: BootId(self.epoch.0),
            epoch: self.epoch,
            catalog: wire::encode_catalog(&self.catalog).0,
            held: vec![HeldEpoch { epoch: self.epoch, first: Seq(1), next: Seq(self.next) }],
            durable: true,
            clock_set: true,
            flush_ms: 0,
        };
        Ok(self.message(Up::State, wire::encode(&Message::State(state))?, now))
    }

    /// The answer to a command.
    pub(crate) fn reply(
        &self,
        id: u64,
        outcome: Outcome,
        now: Timestamp,
    ) -> Result<Inbound, wire::EncodeError> {
        let reply = Message::Reply(Reply { id, outcome });
        Ok(self.message(Up::Reply, wire::encode(&reply)?, now))
    }

    /// What a window was answered with, and how far the device is accounted for; `why` a slot of that instant has no row.
    /// Returns where the next window begins, too.
    pub(crate) fn rows(
        &mut self,
        rows: Vec<Row>,
        window: Window,
        why: impl Fn(Timestamp) -> Cause,
        now: Timestamp,
    ) -> Result<(Vec<Inbound>, Timestamp), wire::EncodeError> {
        let Some(grid) = self.grid() else { return Ok((Vec::new(), window.to)) };
        let is_in = |row: &Row| window.from <= row.at && row.at < window.to;
        let (mut records, there, new) = self.readings(rows.into_iter().filter(is_in), grid);
        let (accounts, next) = account(&there, grid, window, why);
        records.extend(accounts);
        let messages = self.records(&records, now)?;
        self.remember(new, window.to);
        Ok((messages, next))
    }

    /// Rows that have come, whatever their times. What they account for is said by [`Voice::account`].
    pub(crate) fn pass_on(
        &mut self,
        rows: Vec<Row>,
        now: Timestamp,
    ) -> Result<Vec<Inbound>, wire::EncodeError> {
        let Some(grid) = self.grid() else { return Ok(Vec::new()) };
        let (records, there, new) = self.readings(rows.into_iter(), grid);
        let messages = self.records(&records, now)?;
        self.there.extend(there);
        self.remember(new, now);
        Ok(messages)
    }

    /// How far the device is accounted for by all rows that were passed on; `why` a slot of that instant has none. Returns what
    /// is not accounted for yet, too.
    pub(crate) fn account(
        &mut self,
        window: Window,
        why: impl Fn(Timestamp) -> Cause,
        now: Timestamp,
    ) -> Result<(Vec<Inbound>, Timestamp), wire::EncodeError> {
        let Some(grid) = self.grid() else { return Ok((Vec::new(), window.to)) };
        // What a clock that is ahead has written already counts once its time has come.
        let later = self.there.split_off(&grid.first_from(window.to).0);
        let (records, next) = account(&self.there, grid, window, why);
        let messages = self.records(&records, now);
        match messages.is_ok() {
            true => self.there = later,
            false => self.there.extend(later),
        }
        Ok((messages?, next))
    }

    fn grid(&self) -> Option<SlotGrid> {
        self.catalog.devices.first().map(|device| device.grid)
    }

    /// Rows as records, but for those that say what was told; with the slots that they are of, and what is told now.
    fn readings(
        &self,
        rows: impl Iterator<Item = Row>,
        grid: SlotGrid,
    ) -> (Vec<Record>, BTreeSet<i64>, Vec<Told>) {
        let (mut records, mut there, mut new) = (Vec::new(), BTreeSet::new(), Vec::new());
        for row in rows {
            let slot = grid.slot_at(row.at);
            there.insert(slot.0);
            if self.told.get(&row.at) == Some(&row.cells) {
                continue;
            }
            let samples = (0..).zip(&row.cells).filter_map(|(channel, cell)| {
                let (value, quality) = (*cell)?;
                Some(Sample { channel: ChannelIndex(channel), value: value.map(Value::Number), quality })
            });
            let (acquired, at, samples) = (Acquired::Recorded(slot), row.at, samples.collect());
            records.push(Record::Readings(Readings { device: DeviceIndex(0), acquired, at, samples }));
            new.push((row.at, row.cells));
        }
        (records, there, new)
    }

    /// What was told, as far back as it is known; `newest` where that is nothing.
    fn remember(&mut self, new: Vec<Told>, newest: Timestamp) {
        self.told.extend(new);
        let newest = self.told.last_key_value().map_or(newest, |(at, _)| *at);
        self.told = self.told.split_off(&newest.plus_ms(1 - self.overlap_ms));
    }

    fn records(&mut self, records: &[Record], now: Timestamp) -> Result<Vec<Inbound>, wire::EncodeError> {
        let (mut messages, mut rest, mut next) = (Vec::new(), records, self.next);
        let catalog = wire::encode_catalog(&self.catalog).0;
        while !rest.is_empty() {
            let frame = DataFrame {
                agent: self.path.tag(),
                connection: self.connection,
                epoch: self.epoch,
                first: Seq(next),
                catalog,
                records: rest[..rest.len().min(FRAME_RECORDS_MAX)].to_vec(),
            };
            let (payload, count) = wire::encode_prefix(&frame, &self.catalog)?;
            next += u64::try_from(count).unwrap_or_default();
            rest = rest.get(count..).unwrap_or_default();
            messages.push(self.message(Up::Data, payload, now));
        }
        // Where one cannot be written none goes out, and their seqs are still free.
        self.next = next;
        Ok(messages)
    }

    fn message(&self, kind: Up, payload: Vec<u8>, at: Timestamp) -> Inbound {
        // No broker waits for a word about it.
        Inbound { topic: self.path.up(kind), payload, at, token: 0 }
    }
}

/// What is missed of a window in which these slots have a row, and how far the device is complete; and where the next window
/// begins.
fn account(
    there: &BTreeSet<i64>,
    grid: SlotGrid,
    window: Window,
    why: impl Fn(Timestamp) -> Cause,
) -> (Vec<Record>, Timestamp) {
    let device = DeviceIndex(0);
    let mut records = Vec::new();
    // A slot whose row has come is settled, and so is everything before it.
    let last = there.last().map_or(i64::MIN, |last| *last);
    let settled = grid.first_from(window.settled.min(window.to)).0.saturating_sub(1);
    let first = grid.first_from(window.accounted).0;
    let through = if window.accounted < window.to { settled.max(last) } else { i64::MIN };
    let mut slot = first;
    while slot <= through {
        let (begin, cause) = (slot, why(grid.at(Slot(slot))));
        while slot <= through && !there.contains(&slot) && why(grid.at(Slot(slot))) == cause {
            slot += 1;
        }
        match u32::try_from(slot - begin).unwrap_or(u32::MAX) {
            // Its row is there.
            0 => slot += 1,
            count => records.push(Record::Misses(Misses { device, first: Slot(begin), count, cause })),
        }
    }
    if through < first {
        return (records, window.accounted);
    }
    records.push(Record::Complete(Completeness { through: vec![(device, Slot(through))] }));
    (records, grid.at(Slot(through).plus(1)))
}

fn version() -> Box<str> {
    concat!("source ", env!("CARGO_PKG_VERSION")).into()
}
