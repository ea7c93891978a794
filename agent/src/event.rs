//! What a bus thread tells the agent's loop. Types only: nothing is decided, sent or stored here.
//!
//! Order is part of the meaning: a run of misses comes before the answer that ends it, and
//! [`BusEvent::Through`] after every event that accounts for the slots it names.

use gapless_common::catalog::Channel;
use gapless_common::id::{BusId, DeviceIndex};
use gapless_common::message::Outcome;
use gapless_common::quality::Cause;
use gapless_common::reading::{Acquired, Misses, Sample};
use gapless_common::time::{Slot, Timestamp};

/// One message of a bus thread.
#[derive(Debug, Clone, PartialEq)]
pub enum BusEvent {
    /// A device answered one request, or refused some and answered others of the same poll.
    Answered {
        /// Who.
        device: DeviceIndex,
        /// The slot, or the boot clock where the wall clock was not set.
        acquired: Acquired,
        /// The instant the answer was complete, by the wall clock.
        at: Timestamp,
        /// In ascending order of channel, each at most once, at least one.
        samples: Vec<Sample>,
    },
    /// Slots of one device polled in vain, or not polled.
    Missed(Misses),
    /// Every slot of the device up to this one is accounted for by the events before. It goes back where the
    /// wall clock was set back, because slots then come again.
    Through {
        /// Whose slots.
        device: DeviceIndex,
        /// The last one accounted for.
        slot: Slot,
    },
    /// What a device records has become known, or has changed: its channels from here on, in the order of their index.
    Channels {
        /// Whose.
        device: DeviceIndex,
        /// All of them.
        channels: Vec<Channel>,
    },
    /// What the collector wanted of a device's memory was read, or was not.
    HistoryRead {
        /// The collector's command.
        command: u64,
        /// How it ended.
        outcome: Outcome,
    },
    /// A device is polled no more, or again, as the collector wants it: its slots up to now are accounted for.
    Paused {
        /// The collector's command.
        command: u64,
        /// Whose slots.
        device: DeviceIndex,
        /// Whether it is polled no more.
        paused: bool,
    },
    /// A device's condition changed.
    Device {
        /// Who.
        device: DeviceIndex,
        /// How it is now.
        condition: DeviceCondition,
        /// Why its last poll failed; `None` where it was answered.
        last_error: Option<Cause>,
    },
    /// What a person has to put right at a device is another thing now, or nothing any more.
    Complaint {
        /// Whose.
        device: DeviceIndex,
        /// What it is, in words; `None` where it was read.
        why: Option<Box<str>>,
    },
    /// The port or connection came or went.
    Bus {
        /// Which.
        bus: BusId,
        /// Whether it is there; if not, why.
        link: LinkState,
    },
    /// The bus's counters, at most every [`METRICS_EVERY_MS`] and once at the end.
    Metrics {
        /// Which.
        bus: BusId,
        /// Totals since the thread began.
        totals: BusTotals,
    },
}

/// Least distance of two [`BusEvent::Metrics`] of a bus, in milliseconds.
pub const METRICS_EVERY_MS: u64 = 10_000;

/// How a device is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceCondition {
    /// Its last poll was answered, if only by a refusal.
    Online,
    /// Its last polls were not answered, and it is still polled at its interval.
    Failing,
    /// It was silent for so long that it is only probed now and then.
    SetAside,
    /// Configuration or the collector says not to poll it.
    Paused,
}

/// Whether a bus can be talked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// The port is open, or the connection is up.
    Open,
    /// It is not, for the reason given; it is tried again with back-off.
    Absent(Box<str>),
}

/// Counters of one bus. Times are in microseconds of the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BusTotals {
    /// Requests sent, retries included.
    pub requests: u64,
    /// Requests answered with data.
    pub answered: u64,
    /// Requests answered with an exception.
    pub refused: u64,
    /// Requests that timed out.
    pub timed_out: u64,
    /// Answers that did not match: CRC, unit, function, count, transaction.
    pub corrupt: u64,
    /// Requests sent again within a poll.
    pub retries: u64,
    /// Bytes that arrived when none were asked for, or after a time-out.
    pub discarded_bytes: u64,
    /// Time from the start of each exchange, its silent interval included, to its end.
    pub busy_us: u64,
    /// The part of it that the wire needs at the configured speed: characters and silent intervals of the
    /// exchanges that were answered. `wire_us / busy_us` is the efficiency of the cycle.
    pub wire_us: u64,
}
