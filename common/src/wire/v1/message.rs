//! Bodies of messages other than data and catalogs: state, acknowledgement, command, reply, presence.

use serde::{Deserialize, Serialize};

use super::super::DecodeError;
use super::super::sequence::at_most;
use super::{ensure, read, write};
use crate::id::{
    AgentId, BootId, CatalogHash, Commit, ConnectionId, DeviceId, Epoch, Incarnation, Seq, SiteId,
};
use crate::message::{
    ACK_EPOCHS_MAX, ACK_RANGES_MAX, Ack, AgentState, ClockReading, Command, CommandBody, EpochAck, HeldEpoch,
    OutboxFill, Outcome, Presence, Reply,
};
use crate::time::Timestamp;
use crate::topic::AgentPath;

#[derive(Serialize, Deserialize)]
enum State {
    Birth(Birth),
    Gone { connection: ConnectionId, clean: bool },
    Health { connection: ConnectionId, owed_bytes: u64, most_bytes: u64, clock: Option<(u64, Timestamp)> },
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

pub(in crate::wire) fn state(state: &AgentState) -> Vec<u8> {
    write(&match state.clone() {
        AgentState::Gone { connection, clean } => State::Gone { connection, clean },
        AgentState::Health { connection, outbox: OutboxFill { owed_bytes, most_bytes }, clock } => {
            let clock = clock.map(|clock| (clock.boot_ms, clock.wall));
            State::Health { connection, owed_bytes, most_bytes, clock }
        }
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

pub(in crate::wire) fn read_state(bytes: &[u8]) -> Result<AgentState, DecodeError> {
    let birth = match read(bytes)? {
        State::Gone { connection, clean } => return Ok(AgentState::Gone { connection, clean }),
        State::Health { connection, owed_bytes, most_bytes, clock } => {
            let outbox = OutboxFill { owed_bytes, most_bytes };
            let clock = clock.map(|(boot_ms, wall)| ClockReading { boot_ms, wall });
            return Ok(AgentState::Health { connection, outbox, clock });
        }
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

pub(in crate::wire) fn ack(ack: &Ack) -> Vec<u8> {
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

pub(in crate::wire) fn read_ack(bytes: &[u8]) -> Result<Ack, DecodeError> {
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
    Pause { device: DeviceId, paused: bool },
}

pub(in crate::wire) fn command(command: &Command) -> Vec<u8> {
    let order = match command.body.clone() {
        CommandBody::Live { until } => Some(Order::Live { until }),
        CommandBody::Resend { epoch, first, last } => Some(Order::Resend { epoch, first, last }),
        CommandBody::SendCatalog(hash) => Some(Order::SendCatalog(hash)),
        CommandBody::PollNow(device) => Some(Order::PollNow(device)),
        CommandBody::ReadHistory { device, from, to } => Some(Order::ReadHistory { device, from, to }),
        CommandBody::Pause { device, paused } => Some(Order::Pause { device, paused }),
        CommandBody::Unknown => None,
    };
    let body = order.map(|order| write(&order)).unwrap_or_default();
    write(&CommandEnvelope { id: command.id, expires: command.expires, body })
}

pub(in crate::wire) fn read_command(bytes: &[u8]) -> Result<Command, DecodeError> {
    let CommandEnvelope { id, expires, body } = read(bytes)?;
    let body = match read(&body) {
        Ok(Order::Live { until }) => CommandBody::Live { until },
        Ok(Order::Resend { epoch, first, last }) => CommandBody::Resend { epoch, first, last },
        Ok(Order::SendCatalog(hash)) => CommandBody::SendCatalog(hash),
        Ok(Order::PollNow(device)) => CommandBody::PollNow(device),
        Ok(Order::ReadHistory { device, from, to }) => CommandBody::ReadHistory { device, from, to },
        Ok(Order::Pause { device, paused }) => CommandBody::Pause { device, paused },
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

pub(in crate::wire) fn reply(reply: &Reply) -> Vec<u8> {
    let ended = match reply.outcome.clone() {
        Outcome::Done => Ended::Done,
        Outcome::NoData => Ended::NoData,
        Outcome::Expired => Ended::Expired,
        Outcome::Failed(why) => Ended::Failed(why),
    };
    write(&(reply.id, ended))
}

pub(in crate::wire) fn read_reply(bytes: &[u8]) -> Result<Reply, DecodeError> {
    let (id, ended) = read(bytes)?;
    let outcome = match ended {
        Ended::Done => Outcome::Done,
        Ended::NoData => Outcome::NoData,
        Ended::Expired => Outcome::Expired,
        Ended::Failed(why) => Outcome::Failed(why),
    };
    Ok(Reply { id, outcome })
}

pub(in crate::wire) fn presence(presence: Presence) -> Vec<u8> {
    write(&(presence.incarnation, presence.online))
}

pub(in crate::wire) fn read_presence(bytes: &[u8]) -> Result<Presence, DecodeError> {
    let (incarnation, online) = read(bytes)?;
    Ok(Presence { incarnation, online })
}
