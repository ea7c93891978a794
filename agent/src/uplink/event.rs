//! What the uplink core is told, what it answers, and how it is set up. Types only.

use gapless_common::id::{CatalogHash, DeviceId, Epoch, Seq};
use gapless_common::message::{Ack, Command, HeldEpoch, Outcome, Presence, Reply};
use gapless_common::time::Timestamp;

pub use super::delivery::Offer;

/// How an uplink behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Frames in flight at most; 8 to 32, held to that range.
    pub window: u8,
    /// How long live records wait for company, 0 for not at all.
    pub flush_ms: u32,
    /// Live records of this weight do not wait any longer; see [`Event::Appended`].
    pub full_frame_weight: u64,
    /// Whether a backlog drains from its newest end.
    pub newest_first: bool,
    /// Wait for an acknowledgement; doubles each time it is in vain.
    pub ack_timeout_ms: u32,
    /// Bytes that may be published in a UTC day, but for what must go: births, probes, replies. `None` for all there are.
    pub daily_budget: Option<u64>,
    /// First and longest wait before a connection.
    pub reconnect_ms: (u32, u32),
    /// First and longest wait before a probe.
    pub probe_ms: (u32, u32),
    /// Drawn at random: spreads agents that lost one broker together.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window: 16,
            flush_ms: 0,
            full_frame_weight: 10_000,
            newest_first: false,
            ack_timeout_ms: 30_000,
            daily_budget: None,
            reconnect_ms: (1_000, 30_000),
            probe_ms: (5_000, 1_800_000),
            seed: 0,
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The outbox holds this, oldest epoch first, the one being written last: at its opening, and whenever
    /// it dropped something.
    Held(Vec<HeldEpoch>),
    /// The outbox knows these records to be acknowledged, from before this start.
    Acknowledged(Epoch, Seq, Seq),
    /// Records became durable: the newest epoch's next seq, and the weight they add to a frame.
    Appended {
        /// The epoch being written.
        epoch: Epoch,
        /// First seq not yet issued.
        next: Seq,
        /// In the unit of [`Settings::full_frame_weight`].
        weight: u64,
    },
    /// What waited for [`Action::Flush`] is durable: all may go.
    Flushed,
    /// The client that [`Action::Connect`] started is connected.
    Connected,
    /// It failed, or could not take a message.
    Disconnected,
    /// A collector's presence; `None` where the message was cleared or makes no sense.
    Presence {
        /// The collector's name.
        collector: Box<str>,
        /// What it says.
        presence: Option<Presence>,
        /// Whether the broker had kept the message from before the connection.
        retained: bool,
    },
    /// A collector acknowledges.
    Ack(Ack),
    /// A collector asks; with the wall clock where it is set.
    Command(Command, Option<Timestamp>),
    /// How a command ended that the core passed on.
    CommandEnded(u64, Outcome),
    /// The frame offered went out, with records up to this one.
    Sent(Seq),
    /// Of the offer, the records up to this one can never be sent.
    Unusable(Seq),
    /// The offer cannot be read at the moment.
    NotNow,
    /// A message of any kind was published: bytes on the link, as [`cost`](super::cost) estimates them.
    Published(u64),
    /// The wall clock is set, and says this: told every few seconds, for the days of [`Settings::daily_budget`].
    WallClock(Timestamp),
    /// What the birth said is no longer true: say it again.
    StateChanged,
    /// The agent ends.
    Stop,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Draw a connection id and start a client.
    Connect,
    /// Throw the client away.
    Disconnect(&'static str),
    /// Publish the birth.
    Birth,
    /// Pack as much of this as one frame holds, and publish it.
    Send(Offer),
    /// Tell the outbox: these are acknowledged.
    Acknowledge(Epoch, Seq, Seq),
    /// Tell the outbox: no record of this epoch is known to be acknowledged, but for those that
    /// [`Acknowledge`](Self::Acknowledge) names from now on. Another database speaks, or this one has lost some.
    Unacknowledge(Epoch),
    /// The flush interval is over: make durable what belongs into the flush, then tell [`Event::Flushed`].
    Flush,
    /// Publish the answer to a command.
    Reply(Reply),
    /// Command `0` asks for this catalog.
    SendCatalog(u64, CatalogHash),
    /// Command `0` asks for a poll of this device, now.
    PollNow(u64, DeviceId),
    /// Command `0` wants these instants (half open) read from the memory of this device.
    ReadHistory(u64, DeviceId, (Timestamp, Timestamp)),
    /// Command `0` wants this device polled no more, or again.
    Pause(u64, DeviceId, bool),
    /// Publish the goodbye, and disconnect.
    Goodbye,
}

/// Where the link stands, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Waiting before the next connection.
    Waiting,
    /// A client is connecting.
    Connecting,
    /// Connected, but no collector is there: one probe at a time.
    Probing,
    /// Delivering.
    Delivering,
    /// A collector is there, and all of the day's bytes are spent.
    BudgetSpent,
    /// The agent ends.
    Stopped,
}

impl LinkState {
    /// For status pages and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting to connect",
            Self::Connecting => "connecting",
            Self::Probing => "connected, no collector answers",
            Self::Delivering => "delivering",
            Self::BudgetSpent => "connected, the day's budget is spent",
            Self::Stopped => "stopped",
        }
    }
}

/// A snapshot for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Where the link stands.
    pub link: LinkState,
    /// Frames on their way.
    pub in_flight: usize,
    /// Records held that the collector has not acknowledged.
    pub unacknowledged: u64,
    /// Acknowledgements ignored because a newer one was known.
    pub acks_ignored: u64,
    /// When the last acknowledgement came, by the core's clock.
    pub last_ack_ms: Option<u64>,
    /// Bytes published in this UTC day, or since the start where that is later.
    pub bytes_today: u64,
    /// Most that they may be; the first day after a start has the part of the budget that falls on its rest.
    pub bytes_today_max: Option<u64>,
}
