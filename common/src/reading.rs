//! A value as a device gave it, and what an agent writes down: the records of the outbox.
//!
//! These are the domain's own types; how they are written to disk and wire is `wire`'s business.

use crate::id::{BootId, CatalogHash, ChannelIndex, DeviceIndex, Epoch, Seq, SeriesPath};
use crate::quality::{Cause, Quality};
use crate::time::{Slot, Timestamp};

/// What a channel measured.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A number; integers of a device are exact up to 2^53, as in every IEEE 754 binary64.
    Number(f64),
    /// A fixed string of the device (a serial number, a state).
    Text(Box<str>),
}

impl Value {
    /// Equal bit for bit: NaN equals itself, 0.0 differs from -0.0. Deduplication compares this way.
    #[must_use]
    pub fn same_bits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.to_bits() == b.to_bits(),
            (Self::Text(a), Self::Text(b)) => a == b,
            _ => false,
        }
    }
}

/// One stored reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// What was measured, and where.
    pub series: SeriesPath,
    /// Acquisition time: the instant the answer was complete.
    pub at: Timestamp,
    /// Present exactly where the quality has a value.
    pub value: Option<Value>,
    /// How far it can be trusted.
    pub quality: Quality,
}

/// One channel's part of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Which channel of the device.
    pub channel: ChannelIndex,
    /// Present exactly where the quality has a value.
    pub value: Option<Value>,
    /// How far it can be trusted.
    pub quality: Quality,
}

/// When an answer was complete, as far as the gateway knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquired {
    /// The wall clock was synchronised: the answer belongs to this slot of the device's grid.
    InSlot(Slot),
    /// The wall clock was not: no slot, but the boot clock (CLOCK_BOOTTIME, ms), from which a later
    /// [`ClockCorrection`] derives the true time.
    SinceBoot(u64),
    /// The device itself had recorded it, and it was read from the device's memory later: the answer belongs
    /// to this slot, and [`Readings::at`] is the device's own time of the record, as the device labels it.
    Recorded(Slot),
}

/// The readings of one answer of one device. A poll of several requests gives several of these.
#[derive(Debug, Clone, PartialEq)]
pub struct Readings {
    /// The device, by its place in the catalog in force.
    pub device: DeviceIndex,
    /// The slot, or the boot clock where the wall clock was not set.
    pub acquired: Acquired,
    /// The instant the answer was complete by the wall clock, right or wrong; of a recorded answer the
    /// record's own time.
    pub at: Timestamp,
    /// In ascending order of channel, each at most once, at least one.
    pub samples: Vec<Sample>,
}

/// A run of slots that were polled in vain, or not polled at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Misses {
    /// The device, by its place in the catalog in force.
    pub device: DeviceIndex,
    /// The first slot missed.
    pub first: Slot,
    /// Number of slots, at least 1.
    pub count: u32,
    /// Why.
    pub cause: Cause,
}

/// The first record of every epoch: what was before it, and by which clocks it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochStart {
    /// The durable epoch before it in the same outbox and the first seq that epoch never issued (so a lost tail is
    /// visible); `None` for an outbox that was empty. An epoch that is not durable names none and is never named:
    /// its `None` says nothing of the outbox.
    pub previous: Option<(Epoch, Seq)>,
    /// Which start of the machine.
    pub boot: BootId,
    /// CLOCK_BOOTTIME in ms at the opening.
    pub boot_clock_ms: u64,
    /// Wall clock at the opening.
    pub at: Timestamp,
    /// Whether the wall clock was synchronised at the opening.
    pub clock_set: bool,
    /// Whether the records of this epoch are durable on the gateway: `false` while its disk has failed and
    /// they are kept in memory only.
    pub durable: bool,
    /// Version of the agent.
    pub agent_version: Box<str>,
}

/// A time in which the agent polled nothing, half open; recorded by itself at its next start, or, where the
/// wall clock is not set then, as soon as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Downtime {
    /// The last durable record, or the goodbye.
    pub from: Timestamp,
    /// The start that records it.
    pub to: Timestamp,
    /// Stopped, crashed, power off, or disk failed.
    pub cause: Cause,
}

/// The agent's declaration that it has accounted for every slot of these devices up to here: each is a
/// reading, a miss, a loss or within a downtime, in records up to this one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Completeness {
    /// Per device the last slot accounted for, in ascending order of device.
    pub through: Vec<(DeviceIndex, Slot)>,
}

/// Records that the outbox gave up, all of one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Of which epoch.
    pub epoch: Epoch,
    /// First seq lost.
    pub first: Seq,
    /// Last seq lost.
    pub last: Seq,
    /// Earliest instant that a lost record speaks of: of a run of misses one within its first slot.
    pub from: Timestamp,
    /// Latest time of a lost record.
    pub to: Timestamp,
    /// Budget full, quarantined or disk failed.
    pub cause: Cause,
}

/// What the boot clock meant, once the wall clock was set: the true time of a reading that carries
/// [`Acquired::SinceBoot`] is `boot_began + boot clock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockCorrection {
    /// Which start of the machine it speaks of.
    pub boot: BootId,
    /// The epoch of the readings to correct.
    pub epoch: Epoch,
    /// First seq to correct.
    pub first: Seq,
    /// Last seq to correct.
    pub last: Seq,
    /// Wall-clock instant at which the boot clock was 0.
    pub boot_began: Timestamp,
}

/// A catalog, written before the first record that uses it, and again when only its attributes change (the
/// hash is the same then).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogRecord {
    /// Its hash.
    pub hash: CatalogHash,
    /// From when on slots are due under it; `None` where the wall clock was not set: from when it is.
    pub since: Option<Timestamp>,
    /// Its canonical bytes, see `wire::encode_catalog`.
    pub bytes: Box<[u8]>,
}

/// One record of the outbox.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// An answer of a device.
    Readings(Readings),
    /// A catalog comes into force.
    Catalog(CatalogRecord),
    /// Start of an epoch.
    Start(EpochStart),
    /// Slots polled in vain.
    Misses(Misses),
    /// A time without agent.
    Downtime(Downtime),
    /// How far the account is complete.
    Complete(Completeness),
    /// Records given up.
    Loss(Loss),
    /// The clock was set.
    ClockCorrection(ClockCorrection),
}
