//! What a configuration means before it runs: the requests of each bus and the least time they take, the bytes
//! that go out, and how long an outage the outbox holds. Pure: it opens nothing and asks no device.
//!
//! What it cannot know: how fast a device answers (5 ms or the silent interval are taken, whichever is longer),
//! where the models of a SunSpec device stand (each model is planned apart), and the values themselves (`traffic`
//! makes some up).

mod bus;
mod files;
mod locate;
mod logger;
mod memory;
mod render;
mod traffic;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use gapless_common::id::{BusId, ChannelId, DeviceId};
use gapless_common::profile::RegisterTable;
use gapless_common::text::format_bytes;
use gapless_common::time::Interval;

use crate::config::{Config, FileSettings};
use crate::records::zone::Zone;
pub use memory::MemoryReport;

/// The whole explanation; `Display` writes it for people.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// In the order of the configuration.
    pub buses: Vec<BusReport>,
    /// In the order of the configuration.
    pub loggers: Vec<LoggerReport>,
    /// In the order of the configuration.
    pub folders: Vec<FolderReport>,
    /// What goes out and what waits.
    pub traffic: Traffic,
    /// What cannot work.
    pub problems: Vec<CheckProblem>,
}

/// One line and its load.
#[derive(Debug, Clone, PartialEq)]
pub struct BusReport {
    /// Its name.
    pub id: BusId,
    /// The line, for people.
    pub link: String,
    /// In the order of the configuration.
    pub devices: Vec<DeviceReport>,
    /// Least time in which every device that is not paused is polled once; `None` over TCP.
    pub least_cycle: Option<Duration>,
    /// Part of the time that the line is busy when all goes well: 1.0 is all of it; `None` over TCP.
    pub load: Option<f64>,
}

/// One logger and its tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggerReport {
    /// Its name as a bus.
    pub id: BusId,
    /// Where it is, for people.
    pub link: String,
    /// In the order of the configuration.
    pub tables: Vec<TableReport>,
}

/// One table of a logger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableReport {
    /// The device's name.
    pub id: DeviceId,
    /// Its name in the logger.
    pub table: Box<str>,
    /// How often a record is due.
    pub interval: Interval,
    /// The logger's zone.
    pub zone: Zone,
    /// How far back it is read at the start, in ms.
    pub first_ms: u64,
    /// Number of channels; `None` where all fields are.
    pub channels: Option<usize>,
    /// Not read for now.
    pub paused: bool,
}

/// One folder and its devices.
#[derive(Debug, Clone, PartialEq)]
pub struct FolderReport {
    /// Its name as a bus.
    pub id: BusId,
    /// Where it is, for people.
    pub link: String,
    /// In the order of the configuration.
    pub devices: Vec<FilesReport>,
}

/// Files that are one device.
#[derive(Debug, Clone, PartialEq)]
pub struct FilesReport {
    /// The device's name.
    pub id: DeviceId,
    /// What is read, and how.
    pub settings: FileSettings,
}

/// One device and its requests.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceReport {
    /// Its name.
    pub id: DeviceId,
    /// Its unit identifier.
    pub unit: u8,
    /// How often it is due.
    pub interval: Interval,
    /// Not polled for now.
    pub paused: bool,
    /// Profile, or nothing where all channels stand in the configuration.
    pub profile: Option<Box<str>>,
    /// Number of channels.
    pub channels: usize,
    /// In the order in which they are sent.
    pub requests: Vec<RequestReport>,
    /// Least time of one poll; `None` over TCP.
    pub least_poll: Option<Duration>,
    /// Present where it is not polled, but collected from the meter's memory.
    pub memory: Option<MemoryReport>,
}

/// One request of a poll.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestReport {
    /// Function code that reads the table.
    pub function: u8,
    /// The table.
    pub table: RegisterTable,
    /// The SunSpec model that it is of; addresses are offsets in the model then.
    pub model: Option<u16>,
    /// First address.
    pub start: u16,
    /// Number of addresses.
    pub count: u16,
    /// Channels that it brings.
    pub channels: Vec<ChannelId>,
    /// Runs of addresses that it reads without need, as (first address, number).
    pub holes: Vec<(u16, u16)>,
    /// Least time on the line; `None` over TCP.
    pub time: Option<Duration>,
}

/// Estimates of a day in which nothing fails.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Traffic {
    /// Readings.
    pub readings_per_day: f64,
    /// MQTT messages with frames.
    pub messages_per_day: f64,
    /// Bytes of these messages with their MQTT, TCP and IP headers.
    pub uplink_bytes_per_day: f64,
    /// What the configuration allows of them.
    pub daily_budget_bytes: Option<u64>,
    /// Bytes that the outbox takes.
    pub outbox_bytes_per_day: f64,
    /// The budget over that: how long an outage is held without loss.
    pub outage_days: f64,
}

/// Why a configuration cannot work, though every value of it is possible.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CheckProblem {
    /// The requests of one poll alone take longer than its interval.
    #[error(
        "device `{device}`: one poll takes {} at least, longer than its interval of {interval}: read fewer \
         channels, raise the baud rate, or ask for {} or more",
        Milliseconds(*.least),
        Milliseconds(rounded_up(*.least))
    )]
    DeviceTooSlow {
        /// Which.
        device: DeviceId,
        /// Asked for.
        interval: Interval,
        /// Possible.
        least: Duration,
    },
    /// Each device would fit, all together do not.
    #[error(
        "bus `{bus}`: its devices ask for {:.0} % of the time there is: intervals {:.1} times as long would fit, or \
         a higher baud rate, or a second line",
        .load * 100.0,
        .load
    )]
    BusOverloaded {
        /// Which.
        bus: BusId,
        /// Above 1.
        load: f64,
    },
    /// What is polled in a day is more than may be sent in one: the outbox would fill for ever.
    #[error(
        "`daily_budget`: a day without faults takes {}, and {} may be sent: allow more, poll less often, or gather \
         more in each message with a longer `flush`",
        format_bytes(*.needed),
        format_bytes(*.budget)
    )]
    BudgetTooSmall {
        /// Bytes a day.
        needed: u64,
        /// Bytes a day.
        budget: u64,
    },
    /// A device has no read plan.
    #[error("device `{device}`: {problem}")]
    NoPlan {
        /// Which.
        device: DeviceId,
        /// Why.
        problem: String,
    },
}

impl Report {
    /// Explains a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let mut problems = Vec::new();
        let buses = config.buses.iter().map(|bus| bus::report(bus, &mut problems)).collect();
        let traffic = traffic::estimate(config);
        problems.extend(traffic::problem(&traffic));
        let loggers = config.loggers.iter().map(logger::report).collect();
        let folders = config.folders.iter().map(files::report).collect();
        Self { buses, loggers, folders, traffic, problems }
    }

    /// Whether the configuration can work.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

/// A duration as milliseconds with one decimal: `105.5 ms`.
struct Milliseconds(Duration);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", self.0.as_secs_f64() * 1_000.0)
    }
}

/// To the next 100 ms, so that the advice is a round number with some room.
fn rounded_up(least: Duration) -> Duration {
    let step = Duration::from_millis(100);
    let steps = least.as_millis() / step.as_millis() + 1;
    step * u32::try_from(steps).unwrap_or(u32::MAX)
}
