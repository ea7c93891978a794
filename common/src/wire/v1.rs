//! The frozen serde types of wire v1, and their way from and to the domain's types. Never change one: postcard
//! has no room for it. What comes later is a new kind or a new version.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use crate::id::{
    AgentId, BootId, CatalogHash, ChannelId, Commit, ConnectionId, DeviceId, DeviceIndex, Epoch, Incarnation,
    Seq, SiteId,
};
use crate::message::{
    ACK_EPOCHS_MAX, ACK_RANGES_MAX, Ack, AgentState, Command, CommandBody, EpochAck, HeldEpoch, Outcome,
    Presence, Reply,
};
use crate::quality::Cause;
use crate::reading::{
    CatalogRecord, ClockCorrection, Completeness, Downtime, EpochStart, Loss, Misses, Record,
};
use crate::time::{Interval, Slot, SlotGrid, Timestamp};
use crate::topic::AgentPath;

use super::sequence::at_most;
use super::{DecodeError, RecordKind};

/// Most devices of a catalog, channels of a device and devices of a completeness record.
const INDICES_MAX: usize = 1 << 16;

fn write(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("a Vec grows, and every sequence knows its length")
}

/// Postcard leaves what it does not need; here nothing may be left.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(bytes)? {
        (value, []) => Ok(value),
        _ => Err(DecodeError::Malformed("bytes left over")),
    }
}

fn ensure(holds: bool, why: &'static str) -> Result<(), DecodeError> {
    if holds { Ok(()) } else { Err(DecodeError::Malformed(why)) }
}

fn cause(code: u16) -> Result<Cause, DecodeError> {
    Cause::from_code(code).ok_or(DecodeError::Malformed("an unknown cause"))
}

// Messages

#[derive(Serialize, Deserialize)]
enum State {
    Birth(Birth),
    Gone { connection: ConnectionId, clean: bool },
}

#[derive(Serialize, Deserialize)]
struct Birth {
    site: SiteId,
    agent: AgentId,
    connection: ConnectionId,
    agent_version: Box<str>,
    boot: BootId,
    epoch: Epoch,
    catalog: CatalogHash,
    #[serde(deserialize_with = "at_most::<_, _, ACK_EPOCHS_MAX>")]
    held: Vec<(Epoch, Seq, Seq)>,
    durable: bool,
    clock_set: bool,
    flush_ms: u32,
}

pub(super) fn state(state: &AgentState) -> Vec<u8> {
    write(&match state.clone() {
        AgentState::Gone { connection, clean } => State::Gone { connection, clean },
        AgentState::Birth {
            path,
            connection,
            agent_version,
            boot,
            epoch,
            catalog,
            held,
            durable,
            clock_set,
            flush_ms,
        } => {
            let newest = held.len().saturating_sub(ACK_EPOCHS_MAX);
            let held = held[newest..].iter().map(|held| (held.epoch, held.first, held.next)).collect();
            let AgentPath { site, agent } = path;
            State::Birth(Birth {
                site,
                agent,
                connection,
                agent_version,
                boot,
                epoch,
                catalog,
                held,
                durable,
                clock_set,
                flush_ms,
            })
        }
    })
}

pub(super) fn read_state(bytes: &[u8]) -> Result<AgentState, DecodeError> {
    let birth = match read(bytes)? {
        State::Gone { connection, clean } => return Ok(AgentState::Gone { connection, clean }),
        State::Birth(birth) => birth,
    };
    ensure(birth.held.iter().all(|(_, first, next)| first <= next), "an epoch that ends before it begins")?;
    let held = birth.held.into_iter().map(|(epoch, first, next)| HeldEpoch { epoch, first, next });
    Ok(AgentState::Birth {
        path: AgentPath { site: birth.site, agent: birth.agent },
        connection: birth.connection,
        agent_version: birth.agent_version,
        boot: birth.boot,
        epoch: birth.epoch,
        catalog: birth.catalog,
        held: held.collect(),
        durable: birth.durable,
        clock_set: birth.clock_set,
        flush_ms: birth.flush_ms,
    })
}

#[derive(Serialize, Deserialize)]
struct AckBody {
    incarnation: Incarnation,
    commit: Commit,
    #[serde(deserialize_with = "at_most::<_, _, ACK_EPOCHS_MAX>")]
    epochs: Vec<AckEpoch>,
}

#[derive(Serialize, Deserialize)]
struct AckEpoch {
    epoch: Epoch,
    watermark: Seq,
    #[serde(deserialize_with = "at_most::<_, _, ACK_RANGES_MAX>")]
    above: Vec<(Seq, Seq)>,
    #[serde(deserialize_with = "at_most::<_, _, ACK_RANGES_MAX>")]
    parked: Vec<(Seq, Seq)>,
}

pub(super) fn ack(ack: &Ack) -> Vec<u8> {
    let ranges = |ranges: &[(Seq, Seq)]| ranges.iter().take(ACK_RANGES_MAX).copied().collect();
    let epoch = |epoch: &EpochAck| AckEpoch {
        epoch: epoch.epoch,
        watermark: epoch.watermark,
        above: ranges(&epoch.above),
        parked: ranges(&epoch.parked),
    };
    let epochs = ack.epochs.iter().take(ACK_EPOCHS_MAX).map(epoch).collect();
    write(&AckBody { incarnation: ack.incarnation, commit: ack.commit, epochs })
}

pub(super) fn read_ack(bytes: &[u8]) -> Result<Ack, DecodeError> {
    let body: AckBody = read(bytes)?;
    for epoch in &body.epochs {
        ensure(ascending(&epoch.above) && ascending(&epoch.parked), "ranges out of order")?;
        ensure(
            epoch.above.first().is_none_or(|range| range.0 > epoch.watermark),
            "a range below the watermark",
        )?;
    }
    let epoch = |epoch: AckEpoch| EpochAck {
        epoch: epoch.epoch,
        watermark: epoch.watermark,
        above: epoch.above,
        parked: epoch.parked,
    };
    let epochs = body.epochs.into_iter().map(epoch).collect();
    Ok(Ack { incarnation: body.incarnation, commit: body.commit, epochs })
}

/// Each in order, disjoint.
fn ascending(ranges: &[(Seq, Seq)]) -> bool {
    ranges.iter().all(|(first, last)| first <= last) && ranges.windows(2).all(|pair| pair[0].1 < pair[1].0)
}

/// The body stands in bytes of its own, so that an agent can answer a command that it does not know.
#[derive(Serialize, Deserialize)]
struct CommandEnvelope {
    id: u64,
    expires: Timestamp,
    body: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
enum Order {
    Live { until: Timestamp },
    Resend { epoch: Epoch, first: Seq, last: Seq },
    SendCatalog(CatalogHash),
    PollNow(DeviceId),
    ReadHistory { device: DeviceId, from: Timestamp, to: Timestamp },
}

pub(super) fn command(command: &Command) -> Vec<u8> {
    let order = match command.body.clone() {
        CommandBody::Live { until } => Some(Order::Live { until }),
        CommandBody::Resend { epoch, first, last } => Some(Order::Resend { epoch, first, last }),
        CommandBody::SendCatalog(hash) => Some(Order::SendCatalog(hash)),
        CommandBody::PollNow(device) => Some(Order::PollNow(device)),
        CommandBody::ReadHistory { device, from, to } => Some(Order::ReadHistory { device, from, to }),
        CommandBody::Unknown => None,
    };
    let body = order.map(|order| write(&order)).unwrap_or_default();
    write(&CommandEnvelope { id: command.id, expires: command.expires, body })
}

pub(super) fn read_command(bytes: &[u8]) -> Result<Command, DecodeError> {
    let CommandEnvelope { id, expires, body } = read(bytes)?;
    let body = match read(&body) {
        Ok(Order::Live { until }) => CommandBody::Live { until },
        Ok(Order::Resend { epoch, first, last }) => CommandBody::Resend { epoch, first, last },
        Ok(Order::SendCatalog(hash)) => CommandBody::SendCatalog(hash),
        Ok(Order::PollNow(device)) => CommandBody::PollNow(device),
        Ok(Order::ReadHistory { device, from, to }) => CommandBody::ReadHistory { device, from, to },
        Err(_) => CommandBody::Unknown,
    };
    Ok(Command { id, expires, body })
}

#[derive(Serialize, Deserialize)]
enum Ended {
    Done,
    Expired,
    Failed(Box<str>),
    NoData,
}

pub(super) fn reply(reply: &Reply) -> Vec<u8> {
    let ended = match reply.outcome.clone() {
        Outcome::Done => Ended::Done,
        Outcome::NoData => Ended::NoData,
        Outcome::Expired => Ended::Expired,
        Outcome::Failed(why) => Ended::Failed(why),
    };
    write(&(reply.id, ended))
}

pub(super) fn read_reply(bytes: &[u8]) -> Result<Reply, DecodeError> {
    let (id, ended) = read(bytes)?;
    let outcome = match ended {
        Ended::Done => Outcome::Done,
        Ended::NoData => Outcome::NoData,
        Ended::Expired => Outcome::Expired,
        Ended::Failed(why) => Outcome::Failed(why),
    };
    Ok(Reply { id, outcome })
}

pub(super) fn presence(presence: Presence) -> Vec<u8> {
    write(&(presence.incarnation, presence.online))
}

pub(super) fn read_presence(bytes: &[u8]) -> Result<Presence, DecodeError> {
    let (incarnation, online) = read(bytes)?;
    Ok(Presence { incarnation, online })
}

// Records

#[derive(Serialize, Deserialize)]
struct CatalogBody {
    hash: CatalogHash,
    since: Option<Timestamp>,
    bytes: Box<[u8]>,
}

#[derive(Serialize, Deserialize)]
struct StartBody {
    previous: Option<(Epoch, Seq)>,
    boot: BootId,
    boot_clock_ms: u64,
    at: Timestamp,
    clock_set: bool,
    durable: bool,
    agent_version: Box<str>,
}

#[derive(Serialize, Deserialize)]
struct MissesBody {
    device: DeviceIndex,
    first: Slot,
    count: u32,
    cause: u16,
}

#[derive(Serialize, Deserialize)]
struct DowntimeBody {
    from: Timestamp,
    to: Timestamp,
    cause: u16,
}

#[derive(Serialize, Deserialize)]
struct CompleteBody {
    #[serde(deserialize_with = "at_most::<_, _, INDICES_MAX>")]
    through: Vec<(DeviceIndex, Slot)>,
}

#[derive(Serialize, Deserialize)]
struct LossBody {
    epoch: Epoch,
    first: Seq,
    last: Seq,
    from: Timestamp,
    to: Timestamp,
    cause: u16,
}

#[derive(Serialize, Deserialize)]
struct ClockCorrectionBody {
    boot: BootId,
    epoch: Epoch,
    first: Seq,
    last: Seq,
    boot_began: Timestamp,
}

/// The body of any record but readings (which have none here: see `row`).
pub(super) fn record(record: &Record) -> Vec<u8> {
    match record.clone() {
        Record::Readings(_) => Vec::new(),
        Record::Catalog(CatalogRecord { hash, since, bytes }) => write(&CatalogBody { hash, since, bytes }),
        Record::Start(EpochStart {
            previous,
            boot,
            boot_clock_ms,
            at,
            clock_set,
            durable,
            agent_version,
        }) => write(&StartBody { previous, boot, boot_clock_ms, at, clock_set, durable, agent_version }),
        Record::Misses(Misses { device, first, count, cause }) => {
            write(&MissesBody { device, first, count, cause: cause.code() })
        }
        Record::Downtime(Downtime { from, to, cause }) => {
            write(&DowntimeBody { from, to, cause: cause.code() })
        }
        Record::Complete(Completeness { through }) => write(&CompleteBody { through }),
        Record::Loss(Loss { epoch, first, last, from, to, cause }) => {
            write(&LossBody { epoch, first, last, from, to, cause: cause.code() })
        }
        Record::ClockCorrection(ClockCorrection { boot, epoch, first, last, boot_began }) => {
            write(&ClockCorrectionBody { boot, epoch, first, last, boot_began })
        }
    }
}

/// Reads the body of any record but readings.
pub(super) fn read_record(kind: RecordKind, bytes: &[u8]) -> Result<Record, DecodeError> {
    let record = match kind {
        RecordKind::Readings => return Err(DecodeError::Malformed("readings without samples")),
        RecordKind::Catalog => {
            let CatalogBody { hash, since, bytes } = read(bytes)?;
            Record::Catalog(CatalogRecord { hash, since, bytes })
        }
        RecordKind::Start => {
            let StartBody { previous, boot, boot_clock_ms, at, clock_set, durable, agent_version } =
                read(bytes)?;
            Record::Start(EpochStart { previous, boot, boot_clock_ms, at, clock_set, durable, agent_version })
        }
        RecordKind::Misses => {
            let MissesBody { device, first, count, cause: code } = read(bytes)?;
            Record::Misses(Misses { device, first, count, cause: cause(code)? })
        }
        RecordKind::Downtime => {
            let DowntimeBody { from, to, cause: code } = read(bytes)?;
            Record::Downtime(Downtime { from, to, cause: cause(code)? })
        }
        RecordKind::Complete => {
            let CompleteBody { through } = read(bytes)?;
            Record::Complete(Completeness { through })
        }
        RecordKind::Loss => {
            let LossBody { epoch, first, last, from, to, cause: code } = read(bytes)?;
            Record::Loss(Loss { epoch, first, last, from, to, cause: cause(code)? })
        }
        RecordKind::ClockCorrection => {
            let ClockCorrectionBody { boot, epoch, first, last, boot_began } = read(bytes)?;
            Record::ClockCorrection(ClockCorrection { boot, epoch, first, last, boot_began })
        }
    };
    ensure(valid(&record), "a record that breaks the rules of its type")?;
    Ok(record)
}

/// Whether a record other than readings keeps the rules of its type. Times may run backwards: clocks do.
pub(super) fn valid(record: &Record) -> bool {
    match record {
        Record::Misses(misses) => {
            misses.count > 0 && misses.first.0.checked_add(i64::from(misses.count)).is_some()
        }
        Record::Complete(complete) => complete.through.windows(2).all(|pair| pair[0].0 < pair[1].0),
        Record::Loss(loss) => loss.first <= loss.last,
        Record::ClockCorrection(correction) => correction.first <= correction.last,
        Record::Readings(_) | Record::Catalog(_) | Record::Start(_) | Record::Downtime(_) => true,
    }
}

// Catalogs

#[derive(Serialize, Deserialize)]
struct CoreDevice {
    id: DeviceId,
    interval: Interval,
    phase_ms: u32,
    paused: bool,
    #[serde(deserialize_with = "at_most::<_, _, INDICES_MAX>")]
    channels: Vec<CoreChannel>,
}

#[derive(Serialize, Deserialize)]
struct CoreChannel {
    id: ChannelId,
    unit: Box<str>,
    quantity: Box<str>,
    aggregation: CoreAggregation,
    label: CoreLabel,
}

#[derive(Serialize, Deserialize)]
enum CoreAggregation {
    Instant,
    Mean,
    Minimum,
    Maximum,
    StandardDeviation,
    Counter,
    Sum,
    CircularMean,
}

#[derive(Serialize, Deserialize)]
enum CoreLabel {
    Start,
    End,
}

type Attributes = Vec<(String, String)>;

/// The lists of devices, as they stand in the bytes.
#[derive(Deserialize)]
struct CoreDevices(#[serde(deserialize_with = "at_most::<_, _, INDICES_MAX>")] Vec<CoreDevice>);

#[derive(Deserialize)]
struct AboutDevices(#[serde(deserialize_with = "at_most::<_, _, INDICES_MAX>")] Vec<AboutDevice>);

#[derive(Serialize, Deserialize)]
struct AboutDevice {
    attributes: Attributes,
    #[serde(deserialize_with = "at_most::<_, _, INDICES_MAX>")]
    channels: Vec<Attributes>,
}

fn core_channel(channel: &Channel) -> CoreChannel {
    CoreChannel {
        id: channel.id.clone(),
        unit: channel.unit.clone(),
        quantity: channel.quantity.clone(),
        aggregation: match channel.aggregation {
            Aggregation::Instant => CoreAggregation::Instant,
            Aggregation::Mean => CoreAggregation::Mean,
            Aggregation::Minimum => CoreAggregation::Minimum,
            Aggregation::Maximum => CoreAggregation::Maximum,
            Aggregation::StandardDeviation => CoreAggregation::StandardDeviation,
            Aggregation::Counter => CoreAggregation::Counter,
            Aggregation::Sum => CoreAggregation::Sum,
            Aggregation::CircularMean => CoreAggregation::CircularMean,
        },
        label: match channel.label {
            PeriodLabel::Start => CoreLabel::Start,
            PeriodLabel::End => CoreLabel::End,
        },
    }
}

fn channel(core: CoreChannel, about: Attributes) -> Result<Channel, DecodeError> {
    Ok(Channel {
        id: core.id,
        unit: core.unit,
        quantity: core.quantity,
        aggregation: match core.aggregation {
            CoreAggregation::Instant => Aggregation::Instant,
            CoreAggregation::Mean => Aggregation::Mean,
            CoreAggregation::Minimum => Aggregation::Minimum,
            CoreAggregation::Maximum => Aggregation::Maximum,
            CoreAggregation::StandardDeviation => Aggregation::StandardDeviation,
            CoreAggregation::Counter => Aggregation::Counter,
            CoreAggregation::Sum => Aggregation::Sum,
            CoreAggregation::CircularMean => Aggregation::CircularMean,
        },
        label: match core.label {
            CoreLabel::Start => PeriodLabel::Start,
            CoreLabel::End => PeriodLabel::End,
        },
        attributes: attributes(about)?,
    })
}

fn attributes(about: Attributes) -> Result<std::collections::BTreeMap<String, String>, DecodeError> {
    ensure(about.windows(2).all(|pair| pair[0].0 < pair[1].0), "attributes out of order")?;
    Ok(about.into_iter().collect())
}

/// Core and about of a catalog.
pub(super) fn catalog(catalog: &Catalog) -> (Vec<u8>, Vec<u8>) {
    let core = |device: &Device| CoreDevice {
        id: device.id.clone(),
        interval: device.grid.interval,
        phase_ms: device.grid.phase_ms,
        paused: device.paused,
        channels: device.channels.iter().map(core_channel).collect(),
    };
    let list = |map: &std::collections::BTreeMap<String, String>| map.clone().into_iter().collect();
    let about = |device: &Device| AboutDevice {
        attributes: list(&device.attributes),
        channels: device.channels.iter().map(|channel| list(&channel.attributes)).collect(),
    };
    let core: Vec<CoreDevice> = catalog.devices.iter().map(core).collect();
    let about: Vec<AboutDevice> = catalog.devices.iter().map(about).collect();
    (write(&core), write(&about))
}

/// Reads core and about.
pub(super) fn read_catalog(core: &[u8], about: &[u8]) -> Result<Catalog, DecodeError> {
    let CoreDevices(core) = read(core)?;
    let AboutDevices(about) = read(about)?;
    ensure(core.len() == about.len(), "a catalog whose parts differ in length")?;
    let devices: Vec<Device> =
        core.into_iter().zip(about).map(|(core, about)| device(core, about)).collect::<Result<_, _>>()?;
    ensure(unique(devices.iter().map(|device| device.id.as_str())), "a device twice in one catalog")?;
    Ok(Catalog { devices })
}

fn device(core: CoreDevice, about: AboutDevice) -> Result<Device, DecodeError> {
    ensure(core.channels.len() == about.channels.len(), "a catalog whose parts differ in length")?;
    ensure(i64::from(core.phase_ms) < core.interval.as_ms(), "a phase beyond its interval")?;
    ensure(unique(core.channels.iter().map(|channel| channel.id.as_str())), "a channel twice in one device")?;
    let channels = core.channels.into_iter().zip(about.channels).map(|(core, about)| channel(core, about));
    Ok(Device {
        id: core.id,
        grid: SlotGrid { interval: core.interval, phase_ms: core.phase_ms },
        paused: core.paused,
        channels: channels.collect::<Result<_, _>>()?,
        attributes: attributes(about.attributes)?,
    })
}

fn unique<'a>(ids: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    ids.into_iter().all(|id| seen.insert(id))
}
