//! What an agent is told to do: the validated configuration, in which every value is possible and every name
//! unique. Knows nothing of how it is written down (see `parse`) and opens no file: secrets and profiles that lie in files
//! of their own are read by the caller (see `open`).

mod bus;
mod device;
mod endpoint;
mod files;
mod load;
mod logger;
mod named;
mod parse;
mod recorded;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use gapless_common::catalog::{self, Catalog};
use gapless_common::id::{AgentId, BusId, DeviceId, DeviceIndex, SiteId};
use gapless_common::profile::{ChannelSpec, SunSpec};
use gapless_common::time::SlotGrid;

use crate::modbus::memory;
use crate::modbus::plan::Limits;

pub use crate::files::set::Settings as FileSettings;
pub use load::Memory;
pub use named::{Kind, Named, named};
pub use parse::ConfigError;
pub use recorded::{Folder, LogFiles, LogTable, Logger, Web};

/// The whole of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The place.
    pub site: SiteId,
    /// The name of this gateway there.
    pub agent: AgentId,
    /// How readings leave.
    pub uplink: Uplink,
    /// Where readings wait.
    pub outbox: Outbox,
    /// When the wall clock is believed.
    pub clock: ClockTrust,
    /// Unix socket on which the running agent answers `gapless-agent status`.
    pub status_socket: Option<PathBuf>,
    /// Those that are polled, in the order of the file.
    pub buses: Vec<Bus>,
    /// Loggers with a memory, in the order of the file.
    pub loggers: Vec<Logger>,
    /// Folders that loggers write files to, in the order of the file.
    pub folders: Vec<Folder>,
}

impl Config {
    /// All devices that are polled, in the order that [`DeviceIndex`] counts: over all buses, as in the file. The
    /// [`tables`](Self::tables) of loggers follow them, then [`files`](Self::files).
    pub fn devices(&self) -> impl Iterator<Item = (&Bus, &Device)> {
        self.buses.iter().flat_map(|bus| bus.devices.iter().map(move |device| (bus, device)))
    }

    /// What the collector is told of the devices.
    #[must_use]
    pub fn catalog(&self) -> Catalog {
        let polled = self.devices().map(|(bus, device)| device.to_catalog(bus));
        let logged = self.tables().map(|(logger, table)| table.to_catalog(logger));
        let written = self.files().map(|(folder, files)| files.to_catalog(folder));
        Catalog { devices: polled.chain(logged).chain(written).collect() }
    }

    /// All tables of loggers, in the order that [`DeviceIndex`] counts.
    pub fn tables(&self) -> impl Iterator<Item = (&Logger, &LogTable)> {
        self.loggers.iter().flat_map(|logger| logger.tables.iter().map(move |table| (logger, table)))
    }

    /// All devices that are files, in the order that [`DeviceIndex`] counts: behind the tables of loggers.
    pub fn files(&self) -> impl Iterator<Item = (&Folder, &LogFiles)> {
        self.folders.iter().flat_map(|folder| folder.devices.iter().map(move |files| (folder, files)))
    }

    /// The names of all devices, in the order that [`DeviceIndex`] counts.
    pub fn device_ids(&self) -> impl Iterator<Item = &DeviceId> {
        let polled = self.devices().map(|(_, device)| &device.id);
        polled
            .chain(self.tables().map(|(_, table)| &table.id))
            .chain(self.files().map(|(_, files)| &files.id))
    }
}

/// The way to the collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The MQTT broker.
    pub broker: Broker,
    /// MQTT user name.
    pub username: Option<String>,
    /// MQTT password.
    pub password: Option<Password>,
    /// Certificates (PEM) that sign the broker's; the system's own where absent.
    pub ca_file: Option<PathBuf>,
    /// What the agent shows of itself under TLS.
    pub client_certificate: Option<ClientCertificate>,
    /// Distance of two flushes; 0 sends each poll at once.
    pub flush_ms: u64,
    /// Bytes that may be published in a UTC day; `None` for all there are.
    pub daily_budget_bytes: Option<u64>,
    /// Frames under way without acknowledgement, 8 to 32.
    pub window: u8,
    /// Which end of a backlog goes first.
    pub backlog: Backlog,
    /// MQTT keep alive.
    pub keep_alive_s: u16,
}

/// Address of an MQTT broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Name or address.
    pub host: String,
    /// 1883 or 8883 where the file names none.
    pub port: u16,
    /// `mqtts://`.
    pub tls: bool,
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Where the password stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// In the configuration itself.
    Inline(Secret),
    /// In a file: its content without the final line end.
    File(PathBuf),
}

/// A text that logs must not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A certificate and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The chain.
    pub certificate_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// Which end of a backlog goes first; fresh readings go out beside it either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backlog {
    /// In the order it was recorded.
    #[default]
    OldestFirst,
    /// What is nearest to now.
    NewestFirst,
}

/// The durable store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbox {
    /// Its directory.
    pub path: PathBuf,
    /// Which implementation.
    pub store: Store,
    /// Most that it may take of the disk.
    pub budget_bytes: u64,
    /// What goes when that is full.
    pub policy: DropPolicy,
    /// Longest time a record waits for its sync.
    pub durability_ms: u32,
}

/// Which outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Store {
    /// The segmented log.
    #[default]
    Journal,
    /// One sled database per segment.
    Sled,
}

/// What is given up when the budget is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DropPolicy {
    /// The oldest records.
    #[default]
    DropOldest,
    /// The records that come now.
    DropNewest,
}

/// When the wall clock is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClockTrust {
    /// When the kernel says that it is synchronised.
    #[default]
    Synchronised,
    /// From the start: for machines without time service.
    Always,
}

/// One serial port or TCP endpoint with its devices.
#[derive(Debug, Clone, PartialEq)]
pub struct Bus {
    /// Its name, unique in the file.
    pub id: BusId,
    /// The line.
    pub link: Link,
    /// At least one.
    pub devices: Vec<Device>,
}

/// The line of a bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Modbus RTU on a serial port.
    Serial(Serial),
    /// Modbus over a TCP connection.
    Tcp(Tcp),
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial(line) => write!(f, "{line}"),
            Self::Tcp(endpoint) => write!(f, "{endpoint}"),
        }
    }
}

/// A serial port (Modbus over Serial Line V1.02, section 2.5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serial {
    /// Device file.
    pub port: PathBuf,
    /// Bits per second.
    pub baud: u32,
    /// Parity bit.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
    /// The port drives the line's direction itself (RS-485 ioctl); to be set where it supports that.
    pub rs485: bool,
    /// Ask the adapter's driver for its low-latency mode.
    pub low_latency: bool,
}

impl Serial {
    /// Bits of one character on the line: start, 8 data, parity, stop.
    #[must_use]
    pub const fn character_bits(&self) -> u32 {
        let parity = if matches!(self.parity, Parity::None) { 0 } else { 1 };
        1 + 8 + parity + self.stop_bits as u32
    }
}

/// `19200 8E1 on /dev/ttyUSB0`
impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parity = match self.parity {
            Parity::None => 'N',
            Parity::Even => 'E',
            Parity::Odd => 'O',
        };
        write!(f, "{} 8{parity}{} on {}", self.baud, self.stop_bits, self.port.display())
    }
}

/// Parity bit of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Parity {
    /// No parity bit.
    #[default]
    None,
    /// Even number of ones.
    Even,
    /// Odd number of ones.
    Odd,
}

/// A TCP endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    /// Name or address.
    pub host: String,
    /// 502 where the file names none.
    pub port: u16,
    /// How requests are framed on it.
    pub framing: TcpFraming,
}

impl fmt::Display for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let framing = match self.framing {
            TcpFraming::Mbap => "Modbus TCP",
            TcpFraming::Rtu => "RTU over TCP",
        };
        write!(f, "{framing} to {}:{}", self.host, self.port)
    }
}

/// How requests are framed on a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TcpFraming {
    /// The MBAP header of Modbus TCP.
    #[default]
    Mbap,
    /// RTU frames with CRC, as serial device servers pass them on.
    Rtu,
}

/// One meter or logger on a bus.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Its name, unique in the site.
    pub id: DeviceId,
    /// Its place in the catalog.
    pub index: DeviceIndex,
    /// Unit identifier (slave address): 1 to 247 on a serial line, 0 to 255 over TCP.
    pub unit: u8,
    /// When it is due.
    pub grid: SlotGrid,
    /// Time until its answer must begin.
    pub timeout_ms: u32,
    /// Attempts after the first.
    pub retries: u8,
    /// Pause between its answer and the next request, beside the silent interval.
    pub turnaround_ms: u32,
    /// Most unneeded registers that a request may read over.
    pub max_hole: u16,
    /// Most registers of one request, 1 to 125.
    pub max_registers: u16,
    /// In the order that `ChannelIndex` counts; at least one.
    pub channels: Vec<ChannelSpec>,
    /// Where to look for the SunSpec marker; present exactly where a channel is found by model.
    pub sunspec: Option<SunSpec>,
    /// Name of the profile it came from.
    pub profile: Option<Box<str>>,
    /// Make, model, serial number and what else was written down.
    pub attributes: BTreeMap<String, String>,
    /// Present where it is not polled, but collected from what the meter records by itself.
    pub memory: Option<Memory>,
    /// Not polled for now; its slots are recorded as misses with that cause.
    pub paused: bool,
}

impl Device {
    /// What one request to it may hold.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits { max_registers: self.max_registers, max_hole: self.max_hole, ..Limits::default() }
    }

    /// What the collection of its records is told; `None` where it is polled.
    #[must_use]
    pub fn memory_settings(&self) -> Option<memory::Settings> {
        let Memory { load, zone, first_ms } = self.memory.clone()?;
        Some(memory::Settings {
            device: self.index,
            name: self.id.as_str().into(),
            load,
            grid: self.grid,
            zone,
            first_ms,
            limits: self.limits(),
            paused: self.paused,
        })
    }

    /// A mark of where and how its channels are read: another one where any of that changes, which nothing else in a catalog
    /// tells.
    fn read_from(&self) -> String {
        let lines: Vec<String> = self.channels.iter().map(ChannelSpec::read_from).collect();
        format!("{:08x}", crc32c::crc32c(lines.join("\n").as_bytes()))
    }

    fn to_catalog(&self, bus: &Bus) -> catalog::Device {
        let mut attributes = self.attributes.clone();
        attributes.insert("bus".to_owned(), bus.id.to_string());
        attributes.insert("unit".to_owned(), self.unit.to_string());
        attributes.insert("read_from".to_owned(), self.read_from());
        catalog::Device {
            id: self.id.clone(),
            grid: self.grid,
            paused: self.paused,
            channels: self.channels.iter().map(ChannelSpec::to_channel).collect(),
            attributes,
        }
    }
}
