//! What a device of a source says to the collector: the messages of an agent, made in this process. Pure.
//!
//! Contract: [`Voice::opening`] first, then [`Voice::rows`] for each window that was read, oldest first, and
//! [`Voice::reply`] for each command. Nothing is kept for sending again: what the writer was handed it commits.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::catalog::Catalog;
use gapless_common::id::{BootId, ChannelIndex, ConnectionId, DeviceIndex, Epoch, Seq};
use gapless_common::message::{AgentState, DataFrame, HeldEpoch, Outcome, Reply};
use gapless_common::quality::Cause;
use gapless_common::reading::{
    Acquired, CatalogRecord, Completeness, EpochStart, Misses, Readings, Record, Sample, Value,
};
use gapless_common::time::{Slot, Timestamp};
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire::{self, Message};

use super::rows::Row;
use crate::ingest::Inbound;

/// Records of one frame: some 16 KiB.
const FRAME_RECORDS_MAX: usize = 1_000;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Voice {
    path: AgentPath,
    connection: ConnectionId,
    epoch: Epoch,
    next: u64,
    catalog: Catalog,
}

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
    /// Slots before it that have no row are missing; later ones may still come.
    pub(crate) settled: Timestamp,
}

impl Voice {
    pub(crate) fn new(path: AgentPath, begin: Begin, catalog: Catalog) -> Self {
        let Begin { epoch, connection, .. } = begin;
        Self { path, connection, epoch, next: 1, catalog }
    }

    pub(crate) fn path(&self) -> &AgentPath {
        &self.path
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
        for device in &mut self.catalog.devices {
            device.paused = true;
            device.attributes.extend(attributes.clone());
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

    /// What a window was answered with; and, where `proves` says so, how far the device is accounted for. Returns where the
    /// next window begins, too.
    pub(crate) fn rows(
        &mut self,
        rows: &[Row],
        window: Window,
        proves: bool,
        now: Timestamp,
    ) -> Result<(Vec<Inbound>, Timestamp), wire::EncodeError> {
        let Some(grid) = self.catalog.devices.first().map(|device| device.grid) else {
            return Ok((Vec::new(), window.to));
        };
        let device = DeviceIndex(0);
        let mut records = Vec::with_capacity(rows.len() + 2);
        let mut there = BTreeSet::new();
        for row in rows.iter().filter(|row| window.from <= row.at && row.at < window.to) {
            let slot = grid.slot_at(row.at);
            there.insert(slot.0);
            let sample = Sample {
                channel: ChannelIndex(0),
                value: row.value.map(Value::Number),
                quality: row.quality,
            };
            let (acquired, at) = (Acquired::Recorded(slot), row.at);
            records.push(Record::Readings(Readings { device, acquired, at, samples: vec![sample] }));
        }
        // A slot whose row has come is settled, and so is everything before it.
        let last = there.last().map_or(i64::MIN, |last| *last);
        let settled = grid.first_from(window.settled.min(window.to)).0.saturating_sub(1);
        let (first, through) = (grid.first_from(window.from).0, settled.max(last));
        let mut slot = first;
        while proves && slot <= through {
            let begin = slot;
            while slot <= through && !there.contains(&slot) {
                slot += 1;
            }
            if let Some(count) = u32::try_from(slot - begin).ok().filter(|count| *count > 0) {
                let cause = Cause::NotRecorded;
                records.push(Record::Misses(Misses { device, first: Slot(begin), count, cause }));
            }
            slot += 1;
        }
        if proves && through >= first {
            records.push(Record::Complete(Completeness { through: vec![(device, Slot(through))] }));
        }
        let next = if through >= first { grid.at(Slot(through).plus(1)) } else { window.from };
        Ok((self.records(&records, now)?, next))
    }

    fn records(&mut self, records: &[Record], now: Timestamp) -> Result<Vec<Inbound>, wire::EncodeError> {
        let mut messages = Vec::new();
        for part in records.chunks(FRAME_RECORDS_MAX) {
            let frame = DataFrame {
                agent: self.path.tag(),
                connection: self.connection,
                epoch: self.epoch,
                first: Seq(self.next),
                catalog: wire::encode_catalog(&self.catalog).0,
                records: part.to_vec(),
            };
            self.next += u64::try_from(part.len()).unwrap_or_default();
            messages.push(self.message(Up::Data, wire::encode_data(&frame, &self.catalog)?, now));
        }
        Ok(messages)
    }

    fn message(&self, kind: Up, payload: Vec<u8>, at: Timestamp) -> Inbound {
        // No broker waits for a word about it.
        Inbound { topic: self.path.up(kind), payload, at, token: 0 }
    }
}

fn version() -> Box<str> {
    concat!("source ", env!("CARGO_PKG_VERSION")).into()
}
