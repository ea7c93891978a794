//! The collector's commit on a real file (WAL, `synchronous=FULL`), recorded: frames of real wire bytes from two agents,
//! some of them twice and out of order, in groups, with checkpoints in between; some polls are missed, and their gaps asked
//! for. What a cut leaves is opened by the collector itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use gapless_collector::ingest::committer::Committer;
use gapless_collector::ingest::{Inbound, Outbound};
use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::{
    AgentId, BootId, ChannelId, ChannelIndex, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq, SiteId,
};
use gapless_common::message::{Ack, DataFrame};
use gapless_common::quality::{Cause, Quality};
use gapless_common::ranges::RangeSet;
use gapless_common::reading::{
    Acquired, CatalogRecord, Completeness, EpochStart, Misses, Readings, Record, Sample, Value,
};
use gapless_common::time::{Interval, Slot, SlotGrid, Timestamp};
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire::{self, Message};
use serde::{Deserialize, Serialize};

use super::random::Random;
use super::recorded::Subject;

const AGENTS: u64 = 2;
const POLLS: u64 = 5;
const CHANNELS: u16 = 4;
/// Pages of the log after which it is folded into the database; the product's own 4,000 would never be reached here.
const CHECKPOINT_PAGES: u32 = 100;
/// Every frame is sent again to one image in so many; it costs the most.
const ALL_AGAIN_ONE_IN: u64 = 8;
const NOW: Timestamp = Timestamp(2_000_000_000_000);

/// A frame: of which agent, the how manieth.
type FrameId = (u64, u64);
/// Readings that the database has of each frame: each as it was sent, bit for bit.
type Rows = BTreeMap<FrameId, u64>;
/// One poll in so many is missed, but for the first one of a frame.
const MISSED_ONE_IN: u64 = 9;
/// Its gaps are looked after behind one group in so many.
const LOOKED_AFTER_ONE_IN: usize = 4;

#[derive(Debug, Serialize, Deserialize)]
enum Mark {
    /// The database is there; its incarnation.
    Opened(u64),
    /// These frames are being committed,
    Handing(Vec<FrameId>),
    /// and are, with this number.
    Committed(u64),
}

fn path(agent: u64) -> Result<AgentPath> {
    Ok(AgentPath { site: SiteId::new("farm")?, agent: AgentId::new(&format!("gw-{agent}"))? })
}

fn grid() -> Result<SlotGrid> {
    Ok(SlotGrid::every(Interval::from_ms(10_000).context("an interval")?))
}

fn device(agent: u64) -> String {
    format!("meter-{agent}")
}

fn catalog(agent: u64) -> Result<Catalog> {
    let channel = |n: u16| -> Result<Channel> {
        Ok(Channel {
            id: ChannelId::new(&format!("c{n}"))?,
            unit: "V".into(),
            quantity: "voltage".into(),
            aggregation: Aggregation::Instant,
            label: PeriodLabel::End,
            attributes: BTreeMap::default(),
        })
    };
    Ok(Catalog {
        devices: vec![Device {
            id: DeviceId::new(&device(agent))?,
            grid: grid()?,
            paused: false,
            channels: (0..CHANNELS).map(channel).collect::<Result<_>>()?,
            attributes: BTreeMap::from([("history".to_owned(), "device".to_owned())]),
        }],
    })
}

fn is_missed(agent: u64, poll: u64) -> bool {
    !poll.is_multiple_of(POLLS) && Random::of(poll, agent + AGENTS).one_in(MISSED_ONE_IN)
}

/// Readings of a frame.
fn readings(frame: FrameId) -> u64 {
    let read = polls(frame).filter(|poll| !is_missed(frame.0, *poll)).count() as u64;
    read * u64::from(CHANNELS)
}

fn slot(poll: u64) -> Slot {
    Slot(1_000 + poll.cast_signed())
}

fn value(agent: u64, poll: u64, channel: u16) -> f64 {
    let mut random = Random::of(poll * 64 + u64::from(channel), agent);
    f64::from(u32::try_from(random.below(1 << 24)).unwrap_or(0)) / 64.0
}

fn time(poll: u64) -> Result<Timestamp> {
    Ok(grid()?.at(slot(poll)).plus_ms(120))
}

/// Polls of a frame.
fn polls((_, n): FrameId) -> std::ops::Range<u64> {
    n.saturating_sub(1) * POLLS..n * POLLS
}

/// First and last seq of a frame.
const fn seqs((_, n): FrameId) -> (u64, u64) {
    if n == 0 { (1, 2) } else { (3 + (n - 1) * (POLLS + 1), 2 + n * (POLLS + 1)) }
}

fn records(frame: FrameId) -> Result<Vec<Record>> {
    let (agent, n) = frame;
    if n == 0 {
        let (hash, bytes) = wire::encode_catalog(&catalog(agent)?);
        let at = grid()?.at(slot(0));
        let start = EpochStart {
            previous: None,
            boot: BootId(1),
            boot_clock_ms: 0,
            at,
            clock_set: true,
            durable: true,
            agent_version: "1".into(),
        };
        let catalog = CatalogRecord { hash, since: Some(at), bytes };
        return Ok(vec![Record::Start(start), Record::Catalog(catalog)]);
    }
    let mut records = Vec::new();
    for poll in polls(frame) {
        if is_missed(agent, poll) {
            let (device, first, cause) = (DeviceIndex(0), slot(poll), Cause::NoAnswer);
            records.push(Record::Misses(Misses { device, first, count: 1, cause }));
            continue;
        }
        let samples = (0..CHANNELS).map(|channel| Sample {
            channel: ChannelIndex(channel),
            value: Some(Value::Number(value(agent, poll, channel))),
            quality: Quality::Good,
        });
        records.push(Record::Readings(Readings {
            device: DeviceIndex(0),
            acquired: Acquired::InSlot(slot(poll)),
            at: time(poll)?,
            samples: samples.collect(),
        }));
    }
    let through = vec![(DeviceIndex(0), slot(n * POLLS - 1))];
    records.push(Record::Complete(Completeness { through }));
    Ok(records)
}

fn inbound(frame: FrameId) -> Result<Inbound> {
    let (catalog, path) = (catalog(frame.0)?, path(frame.0)?);
    let (hash, _) = wire::encode_catalog(&catalog);
    let data = DataFrame {
        agent: path.tag(),
        connection: ConnectionId(1),
        epoch: epoch(frame.0),
        first: Seq(seqs(frame).0),
        catalog: hash,
        records: records(frame)?,
    };
    let payload = wire::encode_data(&data, &catalog)?;
    Ok(Inbound { topic: path.up(Up::Data), payload, at: NOW, token: 1 })
}

const fn epoch(agent: u64) -> Epoch {
    Epoch(agent + 1)
}

/// Frames in the order in which they come: each agent's in turn, some late, some twice.
fn groups(seed: u64, messages: u64) -> Vec<Vec<FrameId>> {
    let mut random = Random::of(seed, 5);
    let mut frames: Vec<FrameId> = (0..messages).map(|n| (n % AGENTS, n / AGENTS)).collect();
    for at in 0..frames.len() {
        // The first frame of an agent has the catalog, without which the others would wait.
        let late = (at + usize::try_from(random.below(9)).unwrap_or(0)).min(frames.len() - 1);
        if frames[at].1 > 0 && random.one_in(5) {
            frames.swap(at, late);
        }
    }
    let mut sent: Vec<FrameId> = Vec::new();
    for frame in frames {
        sent.push(frame);
        if random.one_in(10) {
            sent.push(random.pick(&sent));
        }
    }
    let mut groups = Vec::new();
    while !sent.is_empty() {
        let len = usize::try_from(random.within(1, 8)).unwrap_or(1).min(sent.len());
        groups.push(sent.drain(..len).collect());
    }
    groups
}

/// The recorded program: commits all groups to `directory/db` and marks each step.
///
/// # Errors
/// The database failed.
pub fn run(directory: &Path, marks: &Path, seed: u64, messages: u64) -> Result<()> {
    let mut marks = File::create(marks)?;
    let mut mark = |mark: &Mark| -> Result<()> {
        let mut line = serde_json::to_vec(mark)?;
        line.push(b'\n');
        Ok(marks.write_all(&line)?)
    };
    let mut committer = Committer::open(&directory.join("db"))?;
    committer.connection().pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    mark(&Mark::Opened(committer.head().incarnation.0))?;
    for (no, group) in groups(seed, messages).into_iter().enumerate() {
        mark(&Mark::Handing(group.clone()))?;
        let ack = commit(&mut committer, &group)?;
        mark(&Mark::Committed(ack.last().context("no answer")?.commit.0))?;
        if no.is_multiple_of(LOOKED_AFTER_ONE_IN) {
            mark(&Mark::Handing(Vec::new()))?;
            committer.look_after_gaps(NOW)?;
            mark(&Mark::Committed(committer.head().commit.0))?;
        }
    }
    Ok(committer.fold()?)
}

/// Commits frames; returns the acknowledgements.
fn commit(committer: &mut Committer, group: &[FrameId]) -> Result<Vec<Ack>> {
    let messages = group.iter().map(|&frame| inbound(frame)).collect::<Result<Vec<_>>>()?;
    let mut acks = Vec::new();
    let mut rest = messages.as_slice();
    while !rest.is_empty() {
        let (answers, taken) = committer.attempt(rest, NOW)?;
        rest = &rest[taken..];
        for answer in answers {
            if let Outbound::Publish { payload, .. } = answer
                && let Message::Ack(ack) = wire::decode(&payload)?
            {
                acks.push(ack);
            }
        }
    }
    Ok(acks)
}

/// Judges what a cut left of a database.
#[derive(Debug, Clone)]
pub struct CollectorSubject {
    messages: u64,
    incarnation: Option<u64>,
    committed: BTreeSet<FrameId>,
    in_flight: BTreeSet<FrameId>,
    commit: u64,
}

impl CollectorSubject {
    /// Before the first of so many messages.
    #[must_use]
    pub fn new(messages: u64) -> Self {
        Self {
            messages,
            incarnation: None,
            committed: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            commit: 0,
        }
    }
}

impl Subject for CollectorSubject {
    fn mark(&mut self, mark: &str) -> Result<()> {
        match serde_json::from_str(mark).with_context(|| format!("mark {mark}"))? {
            Mark::Opened(incarnation) => self.incarnation = Some(incarnation),
            Mark::Handing(frames) => self.in_flight = frames.into_iter().collect(),
            Mark::Committed(commit) => {
                self.committed.append(&mut self.in_flight);
                self.commit = commit;
            }
        }
        Ok(())
    }

    fn judge(&self, directory: &Path, seed: u64) -> Result<Vec<(&'static str, u64)>> {
        let mut committer = Committer::open(&directory.join("db"))?;
        let head = committer.head();
        ensure!(self.incarnation.is_none_or(|i| i == head.incarnation.0), "another incarnation");
        ensure!(head.commit.0 >= self.commit, "at commit {}, acknowledged {}", head.commit, self.commit);
        let check: String = committer.connection().query_row("PRAGMA integrity_check", [], |r| r.get(0))?;
        ensure!(check == "ok", "integrity: {check}");
        let there = self.check_frames(&rows(&committer)?)?;
        self.check_ledger(&mut committer, &there)?;
        check_gaps(&committer, &there)?;
        let mut figures = vec![("frames stored, compared bit by bit", there.len() as u64)];
        let in_flight = &self.in_flight - &self.committed;
        let kept = in_flight.intersection(&there).count();
        figures.push(("frames being committed: kept", kept as u64));
        figures.push(("frames being committed: gone", (in_flight.len() - kept) as u64));
        if Random::new(seed).one_in(ALL_AGAIN_ONE_IN) {
            self.check_all_again(&mut committer)?;
            figures.push(("databases that all frames were sent to again", 1));
        }
        Ok(figures)
    }
}

impl CollectorSubject {
    /// Each frame is there, all of it and bit for bit, or not at all; nothing else is; those acknowledged are.
    fn check_frames(&self, rows: &Rows) -> Result<BTreeSet<FrameId>> {
        let mut there = BTreeSet::new();
        let handed = &self.committed | &self.in_flight;
        for frame in rows.keys() {
            ensure!(handed.contains(frame), "readings of {frame:?}, which was never sent");
        }
        for frame in handed {
            let found = rows.get(&frame).copied().unwrap_or(0);
            let sent = readings(frame);
            ensure!(found == 0 || found == sent, "{found} of {sent} readings of {frame:?}");
            ensure!(found > 0 || frame.1 == 0 || !self.committed.contains(&frame), "{frame:?} is gone");
            there.extend((found > 0).then_some(frame));
        }
        Ok(there)
    }

    /// The ledger says of the same frames that they are there as the readings do.
    fn check_ledger(&self, committer: &mut Committer, there: &BTreeSet<FrameId>) -> Result<()> {
        for agent in 0..AGENTS {
            if !self.committed.contains(&(agent, 0)) {
                continue;
            }
            let stored = acknowledged(committer, agent)?;
            let handed = self.committed.iter().chain(&self.in_flight);
            for frame in handed.filter(|frame| frame.0 == agent && frame.1 > 0) {
                let (first, last) = seqs(*frame);
                let says = stored.covers(first, last);
                ensure!(says == there.contains(frame), "the ledger says {says} of {frame:?}: {stored:?}");
            }
            let beyond = self.messages / AGENTS + 1;
            let never = (1..beyond).map(|n| (agent, n));
            let never =
                never.filter(|f| !self.committed.contains(f) && !self.in_flight.contains(f)).map(seqs);
            for (first, last) in never {
                ensure!(
                    (first..=last).all(|n| !stored.contains(n)),
                    "{first} is acknowledged and was never sent"
                );
            }
        }
        Ok(())
    }

    /// All frames once more store what is missing, and nothing twice.
    fn check_all_again(&self, committer: &mut Committer) -> Result<()> {
        let mut all: Vec<FrameId> = (0..self.messages).map(|n| (n % AGENTS, n / AGENTS)).collect();
        all.sort_unstable_by_key(|&(agent, n)| (n, agent));
        for group in all.chunks(64) {
            commit(committer, group)?;
        }
        let expected: Rows =
            all.iter().filter(|(_, n)| *n > 0).map(|&frame| (frame, readings(frame))).collect();
        ensure!(rows(committer)? == expected, "after all were sent again it has other readings");
        let conflicts: i64 =
            committer.connection().query_row("SELECT count(*) FROM conflicts", [], |r| r.get(0))?;
        ensure!(conflicts == 0, "{conflicts} conflicts");
        committer.look_after_gaps(NOW)?;
        let gaps: Vec<(u64, u64)> =
            gaps(committer)?.into_iter().map(|(agent, poll, _)| (agent, poll)).collect();
        let told: BTreeSet<(u64, u64)> = gaps.iter().copied().collect();
        ensure!(told.len() == gaps.len(), "a poll is held by two gaps");
        let polls = all.iter().flat_map(|&frame| polls(frame).map(move |poll| (frame.0, poll)));
        let missed: BTreeSet<_> = polls.filter(|&(agent, poll)| is_missed(agent, poll)).collect();
        ensure!(told == missed, "its gaps are {told:?}, and {missed:?} were missed");
        check_histories(committer)?;
        for agent in 0..AGENTS {
            let last = all.iter().filter(|f| f.0 == agent).map(|f| seqs(*f).1).max().unwrap_or(0);
            let stored = acknowledged(committer, agent)?;
            ensure!(stored.watermark(1) == last, "the watermark is {stored:?}, not {last}");
        }
        Ok(())
    }
}

/// What the collector answers of an agent's epoch, to the repetition of its first frame.
fn acknowledged(committer: &mut Committer, agent: u64) -> Result<RangeSet> {
    let acks = commit(committer, &[(agent, 0)])?;
    let mut of_epoch = acks.iter().flat_map(|ack| &ack.epochs).filter(|e| e.epoch == epoch(agent));
    let ack = of_epoch.next_back().context("a repetition is not answered")?;
    ensure!(ack.parked.is_empty(), "{:?} are parked", ack.parked);
    let mut stored: RangeSet = ack.above.iter().map(|&(first, last)| (first.0, last.0)).collect();
    stored.insert(1, ack.watermark.0);
    Ok(stored)
}

/// Gaps are of polls that were missed, as a frame says that is there.
fn check_gaps(committer: &Committer, there: &BTreeSet<FrameId>) -> Result<()> {
    for (agent, poll, cause) in gaps(committer)? {
        let is_there = there.contains(&(agent, poll / POLLS + 1));
        ensure!(is_missed(agent, poll) && is_there, "a gap holds poll {poll} of agent {agent}");
        ensure!(cause == i64::from(Cause::NoAnswer.code()), "poll {poll} of agent {agent} has cause {cause}");
    }
    check_histories(committer)
}

/// Each gap has its history, and stands as that says.
fn check_histories(committer: &Committer) -> Result<()> {
    let sql = "SELECT count(*) FROM gaps p WHERE
        NOT EXISTS (SELECT 1 FROM gap_events e WHERE e.gap = p.id AND e.event IN (1, 10))
        OR (p.state = 3) <> (p.request IS NOT NULL)
        OR p.state = 3 AND NOT EXISTS (SELECT 1 FROM gap_events e WHERE e.gap = p.id AND e.event = 3)
        OR p.state = 3 AND NOT EXISTS (SELECT 1 FROM commands c WHERE c.id = p.request)";
    let wrong: i64 = committer.connection().query_row(sql, [], |r| r.get(0))?;
    ensure!(wrong == 0, "{wrong} gaps do not stand as their history says");
    Ok(())
}

/// Each poll that a gap holds: of which agent, and the gap's cause.
fn gaps(committer: &Committer) -> Result<Vec<(u64, u64, i64)>> {
    let sql = "SELECT d.name, p.first_slot, p.last_slot, p.cause FROM gaps p
        JOIN grids g ON g.id = p.grid JOIN devices d ON d.id = g.device";
    let mut statement = committer.connection().prepare_cached(sql)?;
    let mut found = statement.query([])?;
    let mut gaps = Vec::new();
    while let Some(row) = found.next()? {
        let (name, first, last, cause): (String, i64, i64, i64) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let agent = (0..AGENTS).find(|&agent| device(agent) == name).context("a gap of no device")?;
        for missed in first..=last {
            let poll = u64::try_from(missed - slot(0).0).ok().context("a gap before the first poll")?;
            gaps.push((agent, poll, cause));
        }
    }
    Ok(gaps)
}

/// All readings; each is compared with what was sent for its device, channel and time.
fn rows(committer: &Committer) -> Result<Rows> {
    let connection = committer.connection();
    let sql = "SELECT s.id, d.name, s.channel FROM series s JOIN devices d ON d.id = s.device";
    let mut statement = connection.prepare_cached(sql)?;
    let mut series: BTreeMap<i64, (u64, u16)> = BTreeMap::new();
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let (id, name, channel): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let agent = (0..AGENTS).find(|&agent| device(agent) == name);
        let channel = (0..CHANNELS).find(|n| format!("c{n}") == channel);
        series.insert(id, agent.zip(channel).with_context(|| format!("series {id} of {name} is none"))?);
    }
    let (begin, step) = (time(0)?.0, time(1)?.0 - time(0)?.0);
    let mut statement = connection.prepare_cached("SELECT series, ts, value, quality FROM readings")?;
    let mut found = statement.query([])?;
    let mut rows = Rows::new();
    while let Some(row) = found.next()? {
        let (id, ts): (i64, i64) = (row.get(0)?, row.get(1)?);
        let (number, quality): (f64, i64) = (row.get(2)?, row.get(3)?);
        let &(agent, channel) = series.get(&id).with_context(|| format!("a reading of no series {id}"))?;
        let poll = u64::try_from((ts - begin) / step).ok().filter(|_| (ts - begin) % step == 0);
        let poll = poll.with_context(|| format!("a reading of agent {agent} at {ts}, where none was"))?;
        ensure!(quality == i64::from(Quality::Good.code()), "quality {quality} of agent {agent} at {ts}");
        let is_same = number.to_bits() == value(agent, poll, channel).to_bits();
        ensure!(is_same, "poll {poll}, channel {channel} of agent {agent} is altered");
        *rows.entry((agent, poll / POLLS + 1)).or_default() += 1;
    }
    Ok(rows)
}
