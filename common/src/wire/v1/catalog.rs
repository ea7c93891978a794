//! The two parts of a catalog: what decoding needs, and what is only told about it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::super::DecodeError;
use super::super::sequence::at_most;
use super::{INDICES_MAX, ensure, read, write};
use crate::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use crate::id::{ChannelId, DeviceId};
use crate::time::{Interval, SlotGrid};

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

fn attributes(about: Attributes) -> Result<BTreeMap<String, String>, DecodeError> {
    ensure(about.windows(2).all(|pair| pair[0].0 < pair[1].0), "attributes out of order")?;
    Ok(about.into_iter().collect())
}

/// Core and about of a catalog.
pub(in crate::wire) fn catalog(catalog: &Catalog) -> (Vec<u8>, Vec<u8>) {
    let core = |device: &Device| CoreDevice {
        id: device.id.clone(),
        interval: device.grid.interval,
        phase_ms: device.grid.phase_ms,
        paused: device.paused,
        channels: device.channels.iter().map(core_channel).collect(),
    };
    let list = |map: &BTreeMap<String, String>| map.clone().into_iter().collect();
    let about = |device: &Device| AboutDevice {
        attributes: list(&device.attributes),
        channels: device.channels.iter().map(|channel| list(&channel.attributes)).collect(),
    };
    let core: Vec<CoreDevice> = catalog.devices.iter().map(core).collect();
    let about: Vec<AboutDevice> = catalog.devices.iter().map(about).collect();
    (write(&core), write(&about))
}

/// Reads core and about.
pub(in crate::wire) fn read_catalog(core: &[u8], about: &[u8]) -> Result<Catalog, DecodeError> {
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
    let mut seen = BTreeSet::new();
    ids.into_iter().all(|id| seen.insert(id))
}
