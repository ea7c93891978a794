//! What each message means: runs it through decoder, ledger and batch, within the transaction that the writer
//! has opened. Frames are here, what agents say of themselves is in [`speech`](super::speech). Commits nothing, sends nothing.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::id::{CatalogHash, DeviceIndex, Epoch};
use gapless_common::message::DataFrame;
use gapless_common::planted::{self, Bug};
use gapless_common::reading::{Acquired, Readings, Record};
use gapless_common::time::Timestamp;
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire::{self, DataHeader, DecodeError, Message};

use super::memory::Memory;
use super::{Inbound, catalogs};
use crate::freshness::Allowances;
use crate::gaps::Policies;
use crate::ledger::{AgentNo, DeviceNo, Mark, plausible};
use crate::store::batch::{Batch, Row, certain, uncertain};
use crate::store::cell::Cell;
use crate::store::model::ParkReason;
use crate::store::own::{self, Place};
use crate::store::registry::Bound;
use crate::store::runs::SlotTable;
use crate::store::unasked::LeftBefore;
use crate::store::{commands, jobs, parked, state, unasked};

/// Whom to answer after the commit.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The epochs that each agent's frames were of.
    pub(super) acks: BTreeMap<AgentNo, BTreeSet<Epoch>>,
    /// Who was born: their commands are sent again.
    pub(super) births: BTreeSet<AgentNo>,
    /// New commands.
    pub(super) commands: Vec<(AgentNo, u64)>,
}

/// One transaction at work.
pub(super) struct Apply<'a, 'c> {
    pub(super) memory: &'a mut Memory,
    pub(super) batch: Batch<'c>,
    pub(super) answers: Answers,
    /// Bytes that may be parked per agent.
    pub(super) park_bytes_max: i64,
    /// How devices are asked for what is missing.
    pub(super) policies: &'a Policies,
    /// How old data may be.
    pub(super) allowances: &'a Allowances,
    /// Whose agent counts as away.
    pub(super) away: LeftBefore,
    /// Jobs that have ended: they are told of once it is known what was stored.
    pub(super) ended_jobs: Vec<jobs::Ended>,
    /// What was read in this transaction, of each agent since its last catalog.
    pub(super) read: BTreeSet<(DeviceNo, AgentNo, CatalogHash)>,
    /// Whose ledger must settle.
    pub(super) touched: BTreeSet<AgentNo>,
    /// Whose readings fill gaps in this transaction, where these are not the device's own.
    pub(super) filler: Option<String>,
    /// Whether two descriptions of a device contradict each other, as far as that was asked.
    pub(super) contradictions: BTreeMap<(Vec<i64>, Vec<i64>), bool>,
}

/// What a step gives.
pub(super) type Done = rusqlite::Result<()>;

impl<'a, 'c> Apply<'a, 'c> {
    pub(super) fn new(
        memory: &'a mut Memory,
        batch: Batch<'c>,
        park_bytes_max: i64,
        (policies, allowances): (&'a Policies, &'a Allowances),
        away: LeftBefore,
    ) -> Self {
        let (answers, ended_jobs) = (Answers::default(), Vec::new());
        let (read, touched) = (BTreeSet::new(), BTreeSet::new());
        Self {
            memory,
            batch,
            answers,
            park_bytes_max,
            policies,
            allowances,
            away,
            ended_jobs,
            read,
            touched,
            filler: None,
            contradictions: BTreeMap::new(),
        }
    }

    /// Takes one message.
    pub(super) fn message(&mut self, inbound: &Inbound) -> Done {
        if inbound.is_new_session() {
            return self.new_session();
        }
        let Some((path, kind)) = AgentPath::parse_up(&inbound.topic) else {
            tracing::debug!(topic = inbound.topic, "a topic that no agent publishes");
            return Ok(());
        };
        let no = self.memory.registry.agent(self.batch.connection, &path)?;
        self.touched.insert(no);
        let bytes = inbound.link_bytes();
        self.batch.tally(no).received_bytes += i64::try_from(bytes).unwrap_or(i64::MAX);
        match kind {
            Up::Data => self.data(no, &path, &inbound.payload),
            _ => self.other(no, &path, inbound),
        }
    }

    /// Whoever is alive is born again when the collector's presence reaches it.
    pub(super) fn new_session(&mut self) -> Done {
        let sql = "UPDATE agents SET connected = 0, left_at = ?1 WHERE connected = 1";
        self.batch.connection.execute(sql, [self.batch.now.0]).map(drop)
    }

    fn data(&mut self, no: AgentNo, path: &AgentPath, bytes: &[u8]) -> Done {
        let header = match wire::peek(bytes) {
            Ok(header) => header.data,
            Err(error) => return self.damaged(no, &error),
        };
        let Some(header) = header else { return self.damaged(no, &DecodeError::NotOurs) };
        if header.agent != path.tag() {
            tracing::warn!(agent = %path, "a frame of another agent under this agent's topic: refused");
            self.batch.tally(no).refused += 1;
            return Ok(());
        }
        self.batch.tally(no).frames += 1;
        // A birth can be lost while the frames behind it come, and without it nothing tells what will never come. An agent
        // without an answer connects anew, and is born again.
        if commands::is_born(self.batch.connection, no, header.connection)? {
            self.answers.acks.entry(no).or_default().insert(header.epoch);
        }
        let (first, last) = (header.first.0, header.last().0);
        if !plausible::seqs(last) {
            return self.refuse(no, "seqs that no epoch reaches");
        }
        if !planted::has(Bug::SkipDedup)
            && self.memory.ledger.agent(no).is_some_and(|a| a.is_committed(header.epoch, first, last))
        {
            self.batch.tally(no).duplicates += i64::try_from(header.count).unwrap_or(i64::MAX);
            return Ok(());
        }
        if !self.memory.ledger.has_room(no, header.epoch, first, last) {
            return self.refuse(no, "more holes or epochs than are kept account of");
        }
        match wire::decode(bytes) {
            Ok(Message::Data(frame)) if !self.has_room_for(no, &frame) => {
                self.refuse(no, "more losses, or more that waits, than is kept account of")
            }
            Ok(Message::Data(frame)) => self.frame(no, &header, &frame, Some(bytes)).map(drop),
            Ok(_) => self.damaged(no, &DecodeError::NotOurs),
            Err(error) if error.is_intact() => {
                let reason = match error {
                    DecodeError::Malformed(_) => ParkReason::Nonsense,
                    _ => ParkReason::UnknownVersion,
                };
                self.park(no, &header, reason, &error.to_string(), bytes).map(drop)
            }
            Err(error) => self.damaged(no, &error),
        }
    }

    /// Leaves a message with its agent: it is not acknowledged.
    pub(super) fn refuse(&mut self, no: AgentNo, why: &str) -> Done {
        tracing::error!(agent = ?self.memory.registry.path(no), why, "refused");
        self.batch.tally(no).refused += 1;
        Ok(())
    }

    fn has_room_for(&self, no: AgentNo, frame: &DataFrame) -> bool {
        let (ledger, records) = (&self.memory.ledger, &frame.records);
        // Neighbouring declarations wait as one.
        let declares = records.iter().any(|r| matches!(r, Record::Complete(_)));
        let waits = records.iter().filter(|r| matches!(r, Record::Catalog(_) | Record::Downtime(_))).count();
        ledger.has_room_for_marks(no, frame.epoch, frame.first.0, waits + usize::from(declares))
            && records.iter().all(|r| !matches!(r, Record::Loss(loss) if !ledger.has_room_for_loss(no, loss)))
    }

    pub(super) fn damaged(&mut self, no: AgentNo, error: &DecodeError) -> Done {
        tracing::warn!(agent = ?self.memory.registry.path(no), %error, "a damaged message: not acknowledged");
        self.batch.tally(no).damaged += 1;
        Ok(())
    }

    /// Keeps a frame that cannot be used, as far as the bound allows; beyond it nothing is acknowledged. Returns
    /// whether it is kept.
    fn park(
        &mut self,
        no: AgentNo,
        header: &DataHeader,
        reason: ParkReason,
        detail: &str,
        bytes: &[u8],
    ) -> rusqlite::Result<bool> {
        let row = parked::New { agent: no, header, reason, detail, bytes, at: self.batch.now };
        let (first, last) = (header.first.0, header.last().0);
        let held = self.memory.parked.entry(no).or_default();
        if !self.memory.ledger.has_room_to_park(no, header.epoch, first, last)
            || !parked::keep(self.batch.connection, &row, held, self.park_bytes_max)?
        {
            return self.refuse(no, "too much is parked").map(|()| false);
        }
        tracing::warn!(agent = ?self.memory.registry.path(no), first, detail, "frame parked");
        self.memory.ledger.park(no, header.epoch, first, last);
        Ok(true)
    }

    /// Takes a frame's records. Returns whether all of them could be used; `bytes` are parked if not.
    pub(super) fn frame(
        &mut self,
        no: AgentNo,
        header: &DataHeader,
        frame: &DataFrame,
        bytes: Option<&[u8]>,
    ) -> rusqlite::Result<bool> {
        let catalogs = match plausible::nonsense(frame).map_or_else(|| catalogs::of_frame(frame), Err) {
            Ok(catalogs) => catalogs,
            Err(why) => {
                if let Some(bytes) = bytes {
                    self.park(no, header, ParkReason::Nonsense, why, bytes)?;
                }
                return Ok(false);
            }
        };
        for (hash, catalog) in &catalogs {
            self.bind(no, *hash, catalog)?;
        }
        let bound = self.memory.registry.bound(no, frame.catalog);
        let device = |index: DeviceIndex| bound.as_ref()?.get(usize::from(index.0));
        let wrong = plausible::slot_nonsense(frame, |index| Some(device(index)?.due.times));
        let usable = wrong.is_none() && frame.records.iter().all(|r| fits(r, bound.is_some(), device));
        for (seq, record) in (frame.first.0..).zip(&frame.records) {
            if !planted::has(Bug::SkipDedup)
                && self.memory.ledger.agent(no).is_some_and(|a| a.is_committed(frame.epoch, seq, seq))
            {
                self.batch.tally(no).duplicates += 1;
                continue;
            }
            let devices = bound.as_deref().map_or(&[][..], Vec::as_slice);
            self.record(no, (frame, seq), record, if usable { devices } else { &[] })?;
        }
        if usable {
            self.memory.ledger.account(no, frame.epoch, frame.first.0, header.last().0);
        } else if let Some(bytes) = bytes {
            let known = bound.is_some();
            let (reason, detail) = match wrong {
                Some(why) => (ParkReason::Nonsense, why),
                None if known => (ParkReason::Nonsense, "a device or channel that its catalog does not have"),
                None => (ParkReason::UnknownCatalog, "its catalog has not come yet"),
            };
            if self.park(no, header, reason, detail, bytes)? && !known {
                self.ask_catalog(no, frame.catalog)?;
            }
        }
        Ok(usable)
    }

    fn record(
        &mut self,
        no: AgentNo,
        (frame, seq): (&DataFrame, u64),
        record: &Record,
        bound: &[Bound],
    ) -> Done {
        let (epoch, ledger) = (frame.epoch, &mut self.memory.ledger);
        match record {
            Record::Start(start) => ledger.start(no, epoch, start),
            Record::Catalog(c) => {
                self.read.retain(|(_, agent, _)| *agent != no);
                ledger.mark(no, epoch, seq, Mark::Catalog { hash: c.hash, since: c.since });
            }
            Record::Downtime(d) => {
                ledger.mark(no, epoch, seq, Mark::Downtime { from: d.from, to: d.to, cause: d.cause });
            }
            Record::Loss(loss) => ledger.loss(no, loss),
            Record::ClockCorrection(correction) => {
                if ledger.correction(no, correction) {
                    for (due, slot) in self.batch.correct(no, correction)? {
                        self.memory.ledger.received(&due, slot);
                    }
                }
            }
            Record::Misses(m) => {
                if let Some(device) = bound.get(usize::from(m.device.0)) {
                    ledger.missed(&device.due, m.first, m.count, m.cause);
                }
            }
            Record::Complete(complete) => {
                let known = |d: DeviceIndex| bound.get(usize::from(d.0));
                let through =
                    complete.through.iter().filter_map(|&(d, slot)| Some((known(d)?.due.grid, slot)));
                let mark = Mark::Complete { hash: frame.catalog, through: through.collect() };
                if !bound.is_empty() {
                    ledger.mark(no, epoch, seq, mark);
                }
            }
            Record::Readings(readings) => {
                if let Some(device) = bound.get(usize::from(readings.device.0)) {
                    self.readings(no, (epoch, seq), readings, device)?;
                    // Where nothing but errors came nothing was read.
                    if readings.samples.iter().any(|sample| sample.value.is_some()) {
                        self.is_read(device.due.device, no, frame.catalog)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn readings(
        &mut self,
        no: AgentNo,
        (epoch, seq): (Epoch, u64),
        readings: &Readings,
        device: &Bound,
    ) -> Done {
        let (at, slot, boot_clock) = match readings.acquired {
            Acquired::Recorded(slot) if !self.is_what_was_due(device, slot)? => {
                (readings.at, Some(slot), None)
            }
            Acquired::InSlot(slot) | Acquired::Recorded(slot) => {
                self.memory.ledger.received(&device.due, slot);
                (readings.at, Some(slot), None)
            }
            Acquired::SinceBoot(ms) => match self.true_time(no, (epoch, seq), ms) {
                Some(at) => {
                    let slot = device.due.times.slot_at(at);
                    self.memory.ledger.received(&device.due, slot);
                    (at, Some(slot), None)
                }
                None => (readings.at, None, Some(ms)),
            },
        };
        let place = slot.map(|slot| Place::of(&device.due, slot));
        let corrected = matches!(readings.acquired, Acquired::SinceBoot(_)) && boot_clock.is_none();
        let is_dropped = |channel: u16| channel == 1 && planted::has(Bug::DropSample);
        for sample in readings.samples.iter().filter(|sample| !is_dropped(sample.channel.0)) {
            let Some(&series) = device.series.get(usize::from(sample.channel.0)) else { continue };
            let quality = match boot_clock {
                Some(_) => uncertain(sample.quality),
                None if corrected => certain(sample.quality),
                None => sample.quality,
            };
            let row = Row {
                series,
                ts: at.0,
                value: Cell::of(sample.value.as_ref()),
                quality,
                device: device.due.device.0,
                place,
                revises: device.revises,
                lent: false,
                agent: no,
                epoch,
                seq,
            };
            match boot_clock {
                Some(ms) => self.batch.push_uncertain(row, &device.due, ms)?,
                None => self.batch.push(row),
            }
        }
        Ok(())
    }

    fn true_time(&self, no: AgentNo, (epoch, seq): (Epoch, u64), boot_ms: u64) -> Option<Timestamp> {
        self.memory.ledger.agent(no).and_then(|agent| agent.true_time(epoch, seq, boot_ms))
    }

    /// Lets the ledger settle and writes everything down; the writer commits then.
    pub(super) fn finish(mut self) -> rusqlite::Result<Answers> {
        self.batch.flush()?;
        let (connection, stamp) = (self.batch.connection, self.batch.stamp());
        for &no in &self.touched {
            let filler = self.filler.as_deref().unwrap_or("collector");
            let mut slots = SlotTable { connection, stamp, filler, policies: self.policies };
            self.memory.ledger.settle(no, &mut slots, stamp)?;
        }
        own::tell_replaced(connection, stamp, self.batch.take_replaced().into_iter())?;
        let changes = self.memory.ledger.take_changes();
        let mut changed = Vec::new();
        for came in &changes.came {
            self.begin_description(came)?;
        }
        for (&no, &before) in &changes.in_force {
            changed.extend(self.describe(no, before)?);
        }
        state::save(connection, &self.memory.ledger, &changes)?;
        // Who polls what is written down now.
        for &no in changes.in_force.keys() {
            unasked::begin_to_ask(connection, stamp, self.away, no)?;
        }
        self.read_changed(&changed)?;
        self.batch.finish()?;
        for ended in &self.ended_jobs {
            jobs::tell(connection, ended, stamp.at)?;
        }
        jobs::save(connection, &mut self.memory.jobs)?;
        Ok(self.answers)
    }
}

/// Whether a record can be used with these devices.
fn fits<'a>(record: &Record, known: bool, device: impl Fn(DeviceIndex) -> Option<&'a Bound>) -> bool {
    match record {
        Record::Readings(r) => device(r.device)
            .is_some_and(|d| r.samples.iter().all(|s| usize::from(s.channel.0) < d.series.len())),
        Record::Misses(m) => device(m.device).is_some(),
        Record::Complete(c) => known && c.through.iter().all(|(d, _)| device(*d).is_some()),
        _ => true,
    }
}
