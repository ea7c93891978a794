//! What an agent polls: devices, channels, units, intervals. Identified by the hash of what decoding and
//! scheduling need; names for people and attributes ride along without changing it.

use std::collections::BTreeMap;

use crate::id::{ChannelId, ChannelIndex, DeviceId, DeviceIndex};
use crate::time::SlotGrid;

/// How a channel's number comes about, which decides how it may be resampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Aggregation {
    /// The value at the instant.
    #[default]
    Instant,
    /// Mean over the period.
    Mean,
    /// Least over the period.
    Minimum,
    /// Greatest over the period.
    Maximum,
    /// Standard deviation over the period.
    StandardDeviation,
    /// A counter that only rises, but for resets.
    Counter,
    /// Sum over the period.
    Sum,
    /// Mean of an angle in degrees: vector mean over the period.
    CircularMean,
}

/// Which end of a period its timestamp names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PeriodLabel {
    /// The begin of the period.
    Start,
    /// The end of the period.
    #[default]
    End,
}

/// One quantity of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Channel {
    /// Its name within the device.
    pub id: ChannelId,
    /// Unit symbol as in UCUM or the vendor's sheet: `V`, `kWh`, `m/s`, `Cel`; empty for a pure number or a text.
    pub unit: Box<str>,
    /// What is measured: `voltage`, `active_energy_import`, `wind_speed`; empty where nobody said.
    pub quantity: Box<str>,
    /// How the number comes about.
    pub aggregation: Aggregation,
    /// Which end of its period the timestamp names; meaningful for aggregates only.
    pub label: PeriodLabel,
    /// Free attributes (height, orientation, serial number of the sensor). Not part of the hash.
    pub attributes: BTreeMap<String, String>,
}

/// One meter or logger.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Its name within the site.
    pub id: DeviceId,
    /// When it is due.
    pub grid: SlotGrid,
    /// Polling is paused by configuration: no slot is due while this catalog is in force.
    pub paused: bool,
    /// In the order that [`ChannelIndex`] counts.
    pub channels: Vec<Channel>,
    /// Free attributes (make, model, serial number, bus). Not part of the hash.
    pub attributes: BTreeMap<String, String>,
}

/// All that an agent polls, in the order that [`DeviceIndex`] counts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Catalog {
    /// The devices.
    pub devices: Vec<Device>,
}

impl Catalog {
    /// The device at `index`.
    #[must_use]
    pub fn device(&self, index: DeviceIndex) -> Option<&Device> {
        self.devices.get(usize::from(index.0))
    }

    /// The channel at `channel` of the device at `device`.
    #[must_use]
    pub fn channel(&self, device: DeviceIndex, channel: ChannelIndex) -> Option<&Channel> {
        self.device(device)?.channels.get(usize::from(channel.0))
    }
}
