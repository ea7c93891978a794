//! What agent and collector say to each other besides data: state, acknowledgement, command, reply, presence.
//!
//! The domain's own types; `wire` writes them down.

use crate::id::{AgentTag, BootId, CatalogHash, Commit, ConnectionId, DeviceId, Epoch, Incarnation, Seq};
use crate::reading::Record;
use crate::time::Timestamp;
use crate::topic::AgentPath;

/// A contiguous run of records of one epoch, all under one catalog.
#[derive(Debug, Clone, PartialEq)]
pub struct DataFrame {
    /// The agent that made it; the topic must name the same one.
    pub agent: AgentTag,
    /// The connection that carried it.
    pub connection: ConnectionId,
    /// The epoch that issued the records.
    pub epoch: Epoch,
    /// Seq of the first record; the next ones follow without a hole.
    pub first: Seq,
    /// The catalog that the records' device indices refer to.
    pub catalog: CatalogHash,
    /// In the order of seq.
    pub records: Vec<Record>,
}

/// One epoch that an outbox still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldEpoch {
    /// Which.
    pub epoch: Epoch,
    /// First seq held, archive included.
    pub first: Seq,
    /// First seq not yet issued.
    pub next: Seq,
}

/// How full an outbox is of what nobody has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutboxFill {
    /// Bytes that only an acknowledgement gives back.
    pub owed_bytes: u64,
    /// Most that they may be: beyond it the agent has to drop.
    pub most_bytes: u64,
}

impl OutboxFill {
    /// In percent, rounded down; what is beyond the most is no more than all of it.
    #[must_use]
    pub const fn percent(&self) -> u64 {
        let most = if self.most_bytes == 0 { 1 } else { self.most_bytes };
        // The quotient first where the product would not fit: of so much a percent is no matter.
        let percent = match self.owed_bytes.checked_mul(100) {
            Some(hundredfold) => hundredfold / most,
            None => self.owed_bytes / (most / 100 + 1),
        };
        if percent < 100 { percent } else { 100 }
    }
}

/// Two clocks of a gateway, read at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// Milliseconds since the start of the machine, by a clock that is never stepped.
    pub boot_ms: u64,
    /// The wall clock.
    pub wall: Timestamp,
}

impl ClockReading {
    /// When the machine was started, by its wall clock: moves exactly where that is stepped.
    #[must_use]
    pub fn boot_began(&self) -> Timestamp {
        self.wall.plus_ms(i64::try_from(self.boot_ms).unwrap_or(i64::MAX).saturating_neg())
    }
}

/// An agent's state: published at birth, by the broker as its last will, and at a goodbye.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentState {
    /// Connected. Published again on the same connection when any of it changes.
    Birth {
        /// Who; the topic must name the same agent.
        path: AgentPath,
        /// This connection.
        connection: ConnectionId,
        /// Version of the agent.
        agent_version: Box<str>,
        /// Start of the machine.
        boot: BootId,
        /// The epoch being written.
        epoch: Epoch,
        /// The catalog in force.
        catalog: CatalogHash,
        /// Every epoch held, oldest first, the one being written last.
        held: Vec<HeldEpoch>,
        /// Whether what is polled now is durable on the gateway.
        durable: bool,
        /// Whether the wall clock is set.
        clock_set: bool,
        /// Milliseconds between frames, 0 where each poll is sent at once: tells the collector when to expect the next.
        flush_ms: u32,
    },
    /// The connection has ended: by the broker's word (last will) or by the agent's (goodbye).
    Gone {
        /// The connection that ended; a will of another one is ignored.
        connection: ConnectionId,
        /// `true` for a goodbye.
        clean: bool,
    },
    /// How the gateway is, on a connection that was born: published when it has changed by a step, and seldom otherwise.
    /// An earlier agent never says it.
    Health {
        /// This connection.
        connection: ConnectionId,
        /// Its outbox.
        outbox: OutboxFill,
        /// Its clocks; `None` while its wall clock is not set.
        clock: Option<ClockReading>,
    },
}

/// Where one epoch stands in the collector's database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochAck {
    /// Which.
    pub epoch: Epoch,
    /// All seq up to it are committed, parked or known lost.
    pub watermark: Seq,
    /// The lowest committed or parked or lost ranges above the watermark (inclusive, ascending, at most
    /// [`ACK_RANGES_MAX`]): what lies between them is missing; what lies above them counts as missing until it was
    /// acknowledged, and is missing where the list is not full.
    pub above: Vec<(Seq, Seq)>,
    /// Ranges that are kept but could not be used yet, for the operator's eye; they count as acknowledged.
    pub parked: Vec<(Seq, Seq)>,
}

/// Most ranges of each kind in one [`EpochAck`]; what does not fit counts as missing and is sent again.
pub const ACK_RANGES_MAX: usize = 32;

/// The application acknowledgement: the truth about what is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The database's life.
    pub incarnation: Incarnation,
    /// The commit that this state was read after; an older one of the same incarnation is ignored.
    pub commit: Commit,
    /// The epochs it speaks of; at most [`ACK_EPOCHS_MAX`].
    pub epochs: Vec<EpochAck>,
}

/// Most epochs in one [`Ack`] or [`AgentState::Birth`].
pub const ACK_EPOCHS_MAX: usize = 256;

/// Whether a collector is there to answer: retained, and the collector's last will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    /// Its database's life.
    pub incarnation: Incarnation,
    /// Whether it is there.
    pub online: bool,
}

/// What a collector may ask of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandBody {
    /// Send each poll at once until then; somebody is looking. A time that is over ends it: nobody is any more.
    Live {
        /// End of the lease.
        until: Timestamp,
    },
    /// Send these records again, from the archive.
    Resend {
        /// Of which epoch.
        epoch: Epoch,
        /// First wanted.
        first: Seq,
        /// Last wanted.
        last: Seq,
    },
    /// Send the catalog with this hash.
    SendCatalog(CatalogHash),
    /// Poll this device now, out of turn.
    PollNow(DeviceId),
    /// Read these instants (half open) again from the memory of the device itself.
    ReadHistory {
        /// Which device.
        device: DeviceId,
        /// First instant wanted.
        from: Timestamp,
        /// First instant not wanted.
        to: Timestamp,
    },
    /// Poll this device no more, or again as the configuration says; until the agent ends.
    Pause {
        /// Which device.
        device: DeviceId,
        /// Whether it is polled no more.
        paused: bool,
    },
    /// A command of a later version, to be answered with [`Outcome::Failed`]. Never sent.
    Unknown,
}

/// A command: lives in the collector's database, is sent again at birth, is idempotent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Unique per agent.
    pub id: u64,
    /// Not to be carried out after this.
    pub expires: Timestamp,
    /// What to do.
    pub body: CommandBody,
}

/// What an agent answers to a command that it does not know, with [`Outcome::Failed`].
pub const UNKNOWN_COMMAND: &str = "this version of the agent does not know the command";

/// What it answers so to one about a device that its configuration does not have.
pub const NO_SUCH_DEVICE: &str = "this agent has no such device";

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Carried out.
    Done,
    /// Looked, but the archive or the device no longer has what was asked for.
    NoData,
    /// It came too late.
    Expired,
    /// Not possible; the reason for people.
    Failed(Box<str>),
}

/// An agent's answer to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The command's id.
    pub id: u64,
    /// How it ended.
    pub outcome: Outcome,
}
