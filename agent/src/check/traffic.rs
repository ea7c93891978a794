//! How many bytes a configuration makes in a day: made-up answers of every device, encoded as they would be.
//!
//! The values wander as measurements do: integers by some steps of their last digit, floats by 0.1 %, counters
//! upwards, texts not at all. Acknowledgements, TCP's own and what the collector asks for are not counted.

use gapless_common::catalog::{Aggregation, Catalog};
use gapless_common::cost::message_bytes;
use gapless_common::id::{AgentTag, CatalogHash, ChannelIndex, ConnectionId, DeviceIndex, Epoch, Seq};
use gapless_common::message::DataFrame;
use gapless_common::profile::{ChannelSpec, ValueType};
use gapless_common::quality::Quality;
use gapless_common::reading::{Acquired, Completeness, Readings, Record, Sample, Value};
use gapless_common::time::{Slot, SlotGrid, Timestamp};
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire::{encode_prefix, encode_record};

use super::{CheckProblem, Traffic};
use crate::config::{Config, Device};
use crate::records::layout::Channels;

const DAY_MS: f64 = 86_400_000.0;

/// What the journal writes before each record (its frame header).
const RECORD_OVERHEAD_BYTES: usize = 48;

/// How often the agent declares how far its account is complete.
const COMPLETE_EVERY_MS: i64 = 10_000;

/// Polls to make up at most: an hour of one device at 1 s.
const POLLS_MAX: i64 = 3_600;

/// A typical instant, so that slot numbers have their usual size.
const START_MS: i64 = 1_767_225_600_000;

pub(super) fn estimate(config: &Config) -> Traffic {
    let polled = config.devices().map(|(_, device)| Source::Polled(device));
    let logged =
        config.tables().map(|(_, table)| Source::Recorded(table.grid, table.paused, &table.channels));
    let written = config.files().map(|(_, files)| &files.settings);
    let written = written.map(|files| Source::Recorded(files.grid, files.paused, &files.channels));
    let devices: Vec<Source<'_>> = polled.chain(logged).chain(written).collect();
    let catalog = config.catalog();
    let (span_ms, polls) = polls(config, &devices);
    if polls.is_empty() {
        return Traffic { daily_budget_bytes: config.uplink.daily_budget_bytes, ..Traffic::NONE };
    }
    let period_ms = period_ms(config);
    let mut sum = Sum::default();
    for group in polls.chunk_by(|a, b| a.0.div_euclid(period_ms) == b.0.div_euclid(period_ms)) {
        let records = records(group, &devices, &mut sum.declared_ms);
        sum.add(config, &catalog, records);
    }
    sum.per_day(DAY_MS / to_f64(span_ms), config)
}

/// How long records gather before they are sent.
fn period_ms(config: &Config) -> i64 {
    let longer = config.uplink.flush_ms.max(u64::from(config.outbox.durability_ms)).max(1);
    i64::try_from(longer).unwrap_or(i64::MAX)
}

/// The slots of all devices, as (instant, place of the device) in order of time, within a span of two flushes and
/// two slots of the slowest device; shorter where that would be more than [`POLLS_MAX`].
fn polls(config: &Config, devices: &[Source<'_>]) -> (i64, Vec<(i64, usize)>) {
    let active: Vec<(usize, SlotGrid)> = devices
        .iter()
        .enumerate()
        .filter(|(_, device)| !device.is_paused())
        .map(|(place, device)| (place, device.grid()))
        .collect();
    let longest = active.iter().map(|(_, grid)| grid.interval.as_ms()).max().unwrap_or(0);
    let shortest = active.iter().map(|(_, grid)| grid.interval.as_ms()).min().unwrap_or(0);
    let devices_max = POLLS_MAX / i64::try_from(active.len().max(1)).unwrap_or(POLLS_MAX);
    let affordable = shortest.saturating_mul(devices_max.max(1));
    let span_ms = longest.max(period_ms(config)).saturating_mul(2).min(affordable);
    let slots = |grid: SlotGrid| {
        let all = (0..).map(move |n| grid.at(grid.first_from(Timestamp(START_MS)).plus(n)).0);
        all.take_while(move |at| at - START_MS < span_ms)
    };
    let mut polls: Vec<(i64, usize)> =
        active.iter().flat_map(|(place, grid)| slots(*grid).map(|at| (at, *place))).collect();
    polls.sort_unstable();
    (span_ms, polls)
}

fn records(group: &[(i64, usize)], devices: &[Source<'_>], declared_ms: &mut i64) -> Vec<Record> {
    let answers = group.iter().filter_map(|(at, place)| Some(devices.get(*place)?.readings(*at, *place)));
    let mut records: Vec<Record> = answers.map(Record::Readings).collect();
    let now = group.last().map_or(0, |(at, _)| *at);
    if now - *declared_ms >= COMPLETE_EVERY_MS {
        *declared_ms = now;
        let through = devices
            .iter()
            .zip(0..)
            .map(|(device, index)| (DeviceIndex(index), device.grid().slot_at(Timestamp(now))));
        records.push(Record::Complete(Completeness { through: through.collect() }));
    }
    records
}

/// A device that makes readings.
enum Source<'a> {
    Polled(&'a Device),
    Recorded(SlotGrid, bool, &'a Channels),
}

/// Fields that a table is taken to have whose program has not been seen.
pub(super) const FIELDS_ASSUMED: usize = 20;

impl Source<'_> {
    const fn grid(&self) -> SlotGrid {
        match self {
            Self::Polled(device) => device.grid,
            Self::Recorded(grid, ..) => *grid,
        }
    }

    const fn is_paused(&self) -> bool {
        match self {
            Self::Polled(device) => device.paused,
            Self::Recorded(_, is_paused, _) => *is_paused,
        }
    }

    fn readings(&self, at: i64, place: usize) -> Readings {
        match self {
            Self::Polled(device) => answer(at, place, device),
            Self::Recorded(grid, _, channels) => record(at, place, *grid, channels),
        }
    }
}

/// A record of a logger: numbers of two decimal places.
fn record(at: i64, place: usize, grid: SlotGrid, channels: &Channels) -> Readings {
    let slot = grid.slot_at(Timestamp(at));
    let count = match channels {
        Channels::All => FIELDS_ASSUMED,
        Channels::Named(wanted) => wanted.len(),
    };
    let samples = (0..u16::try_from(count).unwrap_or(u16::MAX)).map(|index| Sample {
        channel: ChannelIndex(index),
        value: Some(Value::Number((2_300.0 + f64::from(noise(slot, u64::from(index)))) / 100.0)),
        quality: Quality::Good,
    });
    Readings {
        device: DeviceIndex(u16::try_from(place).unwrap_or(u16::MAX)),
        acquired: Acquired::Recorded(slot),
        at: Timestamp(at),
        samples: samples.collect(),
    }
}

fn answer(at: i64, place: usize, device: &Device) -> Readings {
    let slot = device.grid.slot_at(Timestamp(at));
    let samples = device.channels.iter().zip(0..).map(|(channel, index)| Sample {
        channel: ChannelIndex(index),
        value: Some(value(channel, slot, u64::from(index))),
        quality: Quality::Good,
    });
    // Answers come some milliseconds after their slot, never quite the same.
    let late = i64::from(noise(slot, u64::try_from(place).unwrap_or(0)) % 16) + 20;
    Readings {
        device: DeviceIndex(u16::try_from(place).unwrap_or(u16::MAX)),
        acquired: Acquired::InSlot(slot),
        at: Timestamp(at + late),
        samples: samples.collect(),
    }
}

/// A number of a byte that looks like chance and is the same at every run (SplitMix64's mixing).
fn noise(slot: Slot, salt: u64) -> u8 {
    let mut x =
        slot.0.unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt.wrapping_mul(0xD1B5_4A32_D192_ED03);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x.to_le_bytes()[7]
}

fn value(channel: &ChannelSpec, slot: Slot, salt: u64) -> Value {
    let step = f64::from(noise(slot, salt));
    let number = match (channel.value_type, channel.aggregation) {
        (ValueType::Text { .. }, _) => return Value::Text("SN-1234567".into()),
        (ValueType::Bool | ValueType::Bits { .. }, _) => f64::from(noise(slot, salt) & 1),
        (ValueType::F32, Aggregation::Counter) => f64::from(single(to_f64(slot.0 % 1_000_000) * 0.01)),
        (ValueType::F32, _) => f64::from(single(230.0 + step / 256.0)),
        (ValueType::F64, _) => 230.0 + step / 256.0,
        (_, Aggregation::Counter) => channel.scale.apply(to_f64(slot.0 % 1_000_000)),
        _ => channel.scale.apply(2_300.0 + (step / 16.0).floor()),
    };
    Value::Number(number)
}

#[expect(clippy::cast_possible_truncation, reason = "a float of the device has binary32 by definition")]
fn single(number: f64) -> f32 {
    number as f32
}

#[expect(clippy::cast_precision_loss, reason = "estimates: milliseconds and bytes of days stay below 2^53")]
fn to_f64(number: i64) -> f64 {
    number as f64
}

/// Where a day's traffic does not fit into its budget.
pub(super) fn problem(traffic: &Traffic) -> Option<CheckProblem> {
    let budget = traffic.daily_budget_bytes?;
    let needed = to_u64(traffic.uplink_bytes_per_day);
    (needed > budget).then_some(CheckProblem::BudgetTooSmall { needed, budget })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates: a rough figure for people"
)]
pub(super) fn to_u64(number: f64) -> u64 {
    number as u64
}

#[derive(Default)]
struct Sum {
    readings: usize,
    messages: usize,
    uplink_bytes: usize,
    outbox_bytes: usize,
    declared_ms: i64,
}

impl Sum {
    fn add(&mut self, config: &Config, catalog: &Catalog, records: Vec<Record>) {
        for record in &records {
            self.outbox_bytes += encode_record(record).len() + RECORD_OVERHEAD_BYTES;
            if let Record::Readings(readings) = record {
                self.readings += readings.samples.len();
            }
        }
        let path = AgentPath { site: config.site.clone(), agent: config.agent.clone() };
        let topic_bytes = path.up(Up::Data).len();
        let mut frame = DataFrame {
            agent: AgentTag(0),
            connection: ConnectionId(u32::MAX),
            epoch: Epoch(u64::MAX),
            first: Seq(1_000_000),
            catalog: CatalogHash(u64::MAX),
            records,
        };
        while !frame.records.is_empty() {
            let Ok((bytes, taken)) = encode_prefix(&frame, catalog) else { break };
            self.messages += 1;
            self.uplink_bytes += message_bytes(topic_bytes, bytes.len());
            frame.records.drain(..taken);
        }
    }

    fn per_day(&self, factor: f64, config: &Config) -> Traffic {
        let day = |number: usize| to_f64(i64::try_from(number).unwrap_or(i64::MAX)) * factor;
        let outbox_bytes_per_day = day(self.outbox_bytes);
        let budget = to_f64(i64::try_from(config.outbox.budget_bytes).unwrap_or(i64::MAX));
        Traffic {
            readings_per_day: day(self.readings),
            messages_per_day: day(self.messages),
            uplink_bytes_per_day: day(self.uplink_bytes),
            daily_budget_bytes: config.uplink.daily_budget_bytes,
            outbox_bytes_per_day,
            outage_days: budget / outbox_bytes_per_day,
        }
    }
}

impl Traffic {
    /// Of a configuration in which every device is paused.
    const NONE: Self = Self {
        readings_per_day: 0.0,
        messages_per_day: 0.0,
        uplink_bytes_per_day: 0.0,
        daily_budget_bytes: None,
        outbox_bytes_per_day: 0.0,
        outage_days: f64::INFINITY,
    };
}
