//! What the running agent says about itself: one JSON document, kept up to date by the loop and written for people
//! by `gapless-agent status`. Opens no socket (see `service`) and decides nothing.

use std::collections::BTreeMap;

use gapless_common::catalog::{Catalog, Channel};
use gapless_common::id::DeviceIndex;
use gapless_common::reading::{Acquired, Sample, Value};
use gapless_common::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::event::{BusEvent, BusTotals, DeviceCondition, LinkState};

/// The document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// `site/agent`.
    pub agent: String,
    /// Version of the program.
    pub version: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// The clock.
    pub clock: ClockStatus,
    /// The durable store.
    pub outbox: OutboxStatus,
    /// The way to the collector.
    pub uplink: UplinkStatus,
    /// In the order of the configuration.
    pub buses: Vec<BusStatus>,
    /// In the order of the configuration.
    pub devices: Vec<DeviceStatus>,
}

/// The clock.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClockStatus {
    /// The wall clock, RFC 3339.
    pub now: String,
    /// Whether it is believed.
    pub set: bool,
}

/// The durable store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OutboxStatus {
    /// Whether what is polled now survives a power cut.
    pub durable: bool,
    /// Why not.
    pub failure: Option<String>,
    /// Bytes on the disk, and the most they may be.
    pub disk_bytes: u64,
    /// See `disk_bytes`.
    pub budget_bytes: u64,
    /// Records held, the archive included.
    pub held_records: u64,
    /// Records the collector has not acknowledged.
    pub owed_records: u64,
    /// What they take of the most before it has to drop, in percent.
    pub owed_percent: u64,
    /// Time of the oldest of them.
    pub oldest_owed: Option<String>,
    /// Records given up since the start because there was no room.
    pub dropped_records: u64,
    /// Of these, because others had filled the disk, though the budget was not used up.
    #[serde(default)]
    pub dropped_disk_full: u64,
    /// Whether that is so now.
    #[serde(default)]
    pub disk_full: bool,
    /// Records found damaged.
    pub quarantined_records: u64,
    /// Records appended since the start, and the syncs that took.
    pub appended_records: u64,
    /// See `appended_records`.
    pub syncs: u64,
    /// Bytes handed to the file system since the start.
    pub written_bytes: u64,
}

/// The way to the collector.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// The broker's URL.
    pub broker: String,
    /// Where the link stands.
    pub state: String,
    /// Why the last connection ended.
    pub last_error: Option<String>,
    /// Frames on their way.
    pub in_flight: usize,
    /// Seconds since the collector last acknowledged.
    pub last_ack_s: Option<u64>,
    /// Frames and bytes of them published since the start.
    pub frames_sent: u64,
    /// See `frames_sent`.
    pub bytes_sent: u64,
    /// Bytes on the link since the day began (UTC), and the most they may be, where there is a daily budget.
    pub bytes_today: u64,
    /// See `bytes_today`.
    pub bytes_today_max: Option<u64>,
    /// Messages of the broker that made no sense.
    pub garbage: u64,
}

/// One bus.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BusStatus {
    /// Its name.
    pub id: String,
    /// Its line, as people write it.
    pub link: String,
    /// Whether it can be talked on; unknown before the first attempt.
    pub open: Option<bool>,
    /// Why not.
    pub error: Option<String>,
    /// Requests sent, retries included.
    pub requests: u64,
    /// Of these, answered with data.
    pub answered: u64,
    /// Of these, timed out.
    pub timed_out: u64,
    /// Of these, answered by something that did not match.
    pub corrupt: u64,
    /// What the wire needed of the time it was in use, in percent.
    pub efficiency_percent: Option<u64>,
}

/// One device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Its name.
    pub id: String,
    /// The bus it is on.
    pub bus: String,
    /// `online`, `failing`, `set aside`, `paused` or `unknown`.
    pub state: String,
    /// When it last answered.
    pub last_reading: Option<String>,
    /// Answers since the start.
    pub answers: u64,
    /// What it last said, per channel.
    pub values: Vec<ValueStatus>,
    /// Why its last poll failed.
    pub last_error: Option<String>,
    /// Slots missed since the start, by cause.
    pub misses: BTreeMap<String, u64>,
}

/// One channel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ValueStatus {
    /// Its name.
    pub channel: String,
    /// Its value, where it has one.
    pub value: Option<String>,
    /// Its unit.
    pub unit: String,
    /// How far it can be trusted.
    pub quality: String,
}

/// The live half of the document: what the buses reported last.
#[derive(Debug)]
pub struct Board {
    catalog: Catalog,
    buses: Vec<BusStatus>,
    devices: Vec<DeviceNow>,
}

#[derive(Debug, Default)]
struct DeviceNow {
    bus: String,
    condition: Option<DeviceCondition>,
    last_reading: Option<Timestamp>,
    answers: u64,
    samples: Vec<Option<Sample>>,
    last_error: Option<String>,
    /// What a person has to put right: it says more than a cause does.
    complaint: Option<Box<str>>,
    misses: BTreeMap<&'static str, u64>,
}

impl Board {
    /// An empty board for what `config` polls.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let (lines, loggers) = (config.buses.iter(), config.loggers.iter());
        let ids = lines
            .map(|bus| (bus.id.to_string(), bus.link.to_string()))
            .chain(loggers.map(|logger| (logger.id.to_string(), logger.to_string())))
            .chain(config.folders.iter().map(|folder| (folder.id.to_string(), folder.to_string())));
        let buses = ids.map(|(id, link)| BusStatus { id, link, ..BusStatus::default() });
        let catalog = config.catalog();
        let devices = catalog.devices.iter().map(|device| DeviceNow {
            bus: device.attributes.get("bus").cloned().unwrap_or_default(),
            samples: vec![None; device.channels.len()],
            ..DeviceNow::default()
        });
        Self { buses: buses.collect(), devices: devices.collect(), catalog }
    }

    /// Takes in what a bus reported.
    pub fn note(&mut self, event: &BusEvent) {
        match event {
            BusEvent::Answered { device, acquired, at, samples } => {
                let is_recorded = matches!(acquired, Acquired::Recorded(_));
                self.answered(*device, *at, samples, is_recorded);
            }
            BusEvent::Missed(run) => {
                if let Some(device) = self.devices.get_mut(usize::from(run.device.0)) {
                    *device.misses.entry(run.cause.slug()).or_default() += u64::from(run.count);
                }
            }
            BusEvent::Device { device, condition, last_error } => {
                if let Some(device) = self.devices.get_mut(usize::from(device.0)) {
                    device.condition = Some(*condition);
                    device.last_error = last_error.map(|cause| cause.to_string());
                }
            }
            BusEvent::Complaint { device, why } => {
                if let Some(device) = self.devices.get_mut(usize::from(device.0)) {
                    device.complaint.clone_from(why);
                }
            }
            BusEvent::Bus { bus, link } => {
                if let Some(bus) = self.buses.iter_mut().find(|b| b.id == bus.as_str()) {
                    (bus.open, bus.error) = match link {
                        LinkState::Open => (Some(true), None),
                        LinkState::Absent(why) => (Some(false), Some(why.to_string())),
                    };
                }
            }
            BusEvent::Metrics { bus, totals } => {
                if let Some(bus) = self.buses.iter_mut().find(|b| b.id == bus.as_str()) {
                    bus.count(totals);
                }
            }
            BusEvent::Channels { device, channels } => self.relabel(*device, channels),
            BusEvent::Through { .. } | BusEvent::HistoryRead { .. } | BusEvent::Paused { .. } => {}
        }
    }

    fn relabel(&mut self, device: DeviceIndex, channels: &[Channel]) {
        let place = usize::from(device.0);
        if let (Some(known), Some(now)) = (self.catalog.devices.get_mut(place), self.devices.get_mut(place)) {
            known.channels = channels.to_vec();
            now.samples = vec![None; channels.len()];
        }
    }

    fn answered(&mut self, device: DeviceIndex, at: Timestamp, samples: &[Sample], is_recorded: bool) {
        let Some(device) = self.devices.get_mut(usize::from(device.0)) else { return };
        device.answers += 1;
        // What a logger has to tell of the past is no news of how it is.
        if is_recorded && device.last_reading.is_some_and(|last| last > at) {
            return;
        }
        device.last_reading = Some(at);
        for sample in samples {
            if let Some(place) = device.samples.get_mut(usize::from(sample.channel.0)) {
                *place = Some(sample.clone());
            }
        }
    }

    /// The buses, for the document.
    #[must_use]
    pub fn buses(&self) -> Vec<BusStatus> {
        self.buses.clone()
    }

    /// The devices, for the document.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceStatus> {
        let each = self.devices.iter().zip(&self.catalog.devices);
        each.map(|(now, device)| DeviceStatus {
            id: device.id.to_string(),
            bus: now.bus.clone(),
            state: condition_name(now.condition).to_owned(),
            last_reading: now.last_reading.map(|at| at.to_string()),
            answers: now.answers,
            values: values(device, &now.samples),
            last_error: now.why(),
            misses: now.misses.iter().map(|(cause, n)| ((*cause).to_owned(), *n)).collect(),
        })
        .collect()
    }
}

impl DeviceNow {
    /// Why its last poll failed.
    fn why(&self) -> Option<String> {
        let complaint = self.complaint.as_ref().filter(|_| self.last_error.is_some());
        complaint.map(ToString::to_string).or_else(|| self.last_error.clone())
    }
}

impl BusStatus {
    fn count(&mut self, totals: &BusTotals) {
        self.requests = totals.requests;
        self.answered = totals.answered;
        self.timed_out = totals.timed_out;
        self.corrupt = totals.corrupt;
        self.efficiency_percent = (totals.wire_us * 100).checked_div(totals.busy_us);
    }
}

fn values(device: &gapless_common::catalog::Device, samples: &[Option<Sample>]) -> Vec<ValueStatus> {
    let each = device.channels.iter().zip(samples);
    each.filter_map(|(channel, sample)| {
        let sample = sample.as_ref()?;
        Some(ValueStatus {
            channel: channel.id.to_string(),
            value: sample.value.as_ref().map(value_text),
            unit: channel.unit.to_string(),
            quality: sample.quality.to_string(),
        })
    })
    .collect()
}

/// A value as people read it.
#[must_use]
pub fn value_text(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Text(text) => text.to_string(),
    }
}

const fn condition_name(condition: Option<DeviceCondition>) -> &'static str {
    match condition {
        None => "unknown",
        Some(DeviceCondition::Online) => "online",
        Some(DeviceCondition::Failing) => "failing",
        Some(DeviceCondition::SetAside) => "set aside",
        Some(DeviceCondition::Paused) => "paused",
    }
}
