//! Reads the buses: the line of each, what holds for all its devices, and what must not be there twice.

use std::path::PathBuf;

use gapless_common::document::{Place, Table};
use gapless_common::id::{BusId, DeviceId};
use gapless_common::profile::ProfileSet;

use super::device::{BusDefaults, BusInterval, read_device};
use super::endpoint::endpoint;
use super::files::{self, read_folder};
use super::logger::{EXAMPLE, read_logger};
use super::parse::path;
use super::{Bus, Device, Folder, Link, Logger, Parity, Serial, Tcp, TcpFraming};

/// Rates that Linux and common adapters know by name.
const BAUD_RATES: [u32; 13] =
    [300, 600, 1_200, 2_400, 4_800, 9_600, 19_200, 38_400, 57_600, 115_200, 230_400, 460_800, 921_600];

const TIMEOUT_DEFAULT_MS: u32 = 500;
const RETRIES_DEFAULT: u8 = 1;

/// What has been seen in the file so far, to find what is there twice.
#[derive(Default)]
pub(super) struct Seen {
    buses: Vec<(BusId, Place)>,
    ports: Vec<(PathBuf, Place)>,
    pub(super) devices: Vec<(DeviceId, Place)>,
    units: Vec<(u8, Place)>,
    /// Units whose records are collected: the same may be polled as well.
    recorded: Vec<(u8, Place)>,
}

/// Buses that are polled, loggers, and folders of files.
pub(super) type Sources = (Vec<Bus>, Vec<Logger>, Vec<Folder>);

pub(super) fn read_buses(root: &Table<'_>, profiles: &ProfileSet) -> Option<Sources> {
    root.need("bus", "[{ id = \"rs485\", serial = { port = \"/dev/ttyUSB0\", baud = 9600 } }]");
    let mut seen = Seen::default();
    let (mut buses, mut loggers, mut folders) = (Vec::new(), Vec::new(), Vec::new());
    let mut is_sound = true;
    for table in root.tables("bus") {
        match read_any(&table, profiles, &mut seen) {
            Some(Source::Bus(bus)) => buses.push(bus),
            Some(Source::Logger(logger)) => loggers.push(logger),
            Some(Source::Folder(folder)) => folders.push(folder),
            None => is_sound = false,
        }
    }
    let mut sources = (buses, loggers, folders);
    number_devices(root, &mut sources);
    is_sound.then_some(sources)
}

enum Source {
    Bus(Bus),
    Logger(Logger),
    Folder(Folder),
}

/// Gives each device its place in the catalog: first those that are polled, then the tables of loggers, then files.
fn number_devices(root: &Table<'_>, (buses, loggers, folders): &mut Sources) {
    let polled = buses.iter_mut().flat_map(|bus| &mut bus.devices).map(|device| &mut device.index);
    let logged = loggers.iter_mut().flat_map(|logger| &mut logger.tables).map(|table| &mut table.index);
    let written =
        folders.iter_mut().flat_map(|folder| &mut folder.devices).map(|files| &mut files.settings.device);
    for (place, index) in polled.chain(logged).chain(written).enumerate() {
        match u16::try_from(place) {
            Ok(place) => index.0 = place,
            Err(_) => root.report(root.place(), "a catalog holds 65,536 devices at most"),
        }
    }
}

fn read_any(table: &Table<'_>, profiles: &ProfileSet, seen: &mut Seen) -> Option<Source> {
    table.need("id", "\"rs485\"");
    let id = table.parsed::<BusId>("id");
    if let Some(id) = &id {
        once(table, "bus", &mut seen.buses, id.value.clone(), id.place);
    }
    let id = id.map(|id| id.value);
    let is_polled = table.place_of("serial").is_some() || table.place_of("tcp").is_some();
    let others = ["campbell", "folder"].map(|key| table.place_of(key));
    if let [Some(at), _] | [_, Some(at)] = others
        && (is_polled || others.iter().flatten().count() > 1)
    {
        table.report(at, "a bus is one of `serial`, `tcp`, `campbell` and `folder`: make two buses of it");
        return None;
    }
    match others {
        [Some(_), _] => read_logger(table, id, seen).map(Source::Logger),
        [_, Some(_)] => read_folder(table, id, seen).map(Source::Folder),
        _ => read_bus(table, id, profiles, seen).map(Source::Bus),
    }
}

fn read_bus(table: &Table<'_>, id: Option<BusId>, profiles: &ProfileSet, seen: &mut Seen) -> Option<Bus> {
    let link = read_link(table);
    if let (Some(Link::Serial(line)), Some(at)) = (&link, table.place_of("serial")) {
        once_port(table, seen, &line.port, at);
    }
    let defaults = BusDefaults {
        serial: !matches!(link, Some(Link::Tcp(_))),
        timeout_ms: table.duration_within("timeout", 10..=60_000).map_or(TIMEOUT_DEFAULT_MS, |at| at.value),
        retries: table.u8("retries", 0..=10).unwrap_or(RETRIES_DEFAULT),
        turnaround_ms: table.duration_within("turnaround", 0..=10_000).map_or(0, |at| at.value),
        interval: BusInterval::read(table),
    };
    let devices = read_devices(table, profiles, &defaults, seen);
    table.finish();
    Some(Bus { id: id?, link: link?, devices: devices? })
}

fn read_devices(
    table: &Table<'_>,
    profiles: &ProfileSet,
    defaults: &BusDefaults,
    seen: &mut Seen,
) -> Option<Vec<Device>> {
    table.need("device", "[{ id = \"meter\", unit = 1, profile = \"eastron-sdm630\", interval = \"10s\" }]");
    seen.units.clear();
    seen.recorded.clear();
    let mut devices = Vec::new();
    for device_table in table.tables("device") {
        let device = read_device(&device_table, profiles, defaults);
        if let (Some(device), Some(id_at)) = (&device, device_table.place_of("id")) {
            once(&device_table, "device", &mut seen.devices, device.id.clone(), id_at);
            let unit_at = device_table.place_of("unit").unwrap_or(id_at);
            let units = if device.memory.is_some() { &mut seen.recorded } else { &mut seen.units };
            once(&device_table, "unit", units, device.unit, unit_at);
        }
        devices.push(device);
    }
    if devices.is_empty() && table.place_of("device").is_some() {
        table.report(table.place(), "a bus has at least one device");
    }
    devices.into_iter().collect()
}

pub(super) fn once<T: PartialEq + std::fmt::Display>(
    table: &Table<'_>,
    what: &str,
    seen: &mut Vec<(T, Place)>,
    value: T,
    at: Place,
) {
    match seen.iter().find(|(other, _)| *other == value) {
        Some((_, first)) => {
            let scope = if what == "unit" { "on its bus" } else { "in its site" };
            let line = table.line(*first);
            table.report(at, format!("{what} `{value}` is unique {scope}, and line {line} has it already"));
        }
        None => seen.push((value, at)),
    }
}

fn once_port(table: &Table<'_>, seen: &mut Seen, port: &std::path::Path, at: Place) {
    match seen.ports.iter().find(|(other, _)| other == port) {
        Some((_, first)) => {
            let line = table.line(*first);
            let name = port.display();
            let advice = "one port is one bus, with all devices of the line below it";
            table.report(at, format!("port `{name}` belongs to the bus of line {line} already: {advice}"));
        }
        None => seen.ports.push((port.to_owned(), at)),
    }
}

fn read_link(table: &Table<'_>) -> Option<Link> {
    match (table.table("serial"), table.table("tcp")) {
        (Some(serial), None) => read_serial(&serial).map(Link::Serial),
        (None, Some(tcp)) => read_tcp(&tcp).map(Link::Tcp),
        (Some(_), Some(_)) => {
            table.report(table.place(), "a bus is either `serial` or `tcp`: make two buses of it");
            None
        }
        (None, None) => {
            let missing = table.place_of("serial").is_none() && table.place_of("tcp").is_none();
            if missing {
                let examples = "serial = { port = \"/dev/ttyUSB0\", baud = 9600 } or \
                                tcp = { address = \"10.0.0.7:502\" }";
                let logger =
                    format!("or, for a logger with a memory, {EXAMPLE}, or, for files, {}", files::EXAMPLE);
                table.report(table.place(), format!("a bus needs its line: {examples}, {logger}"));
            }
            None
        }
    }
}

fn read_serial(table: &Table<'_>) -> Option<Serial> {
    table.need("port", "\"/dev/serial/by-id/usb-…\"");
    table.need("baud", "9600");
    let port = path(table, "port");
    let baud = read_baud(table);
    let parity = table
        .word("parity", &[("none", Parity::None), ("even", Parity::Even), ("odd", Parity::Odd)])
        .unwrap_or_default();
    let stop_bits = table.u8("stop_bits", 1..=2).unwrap_or(1);
    if let Some(found) = table.integer("data_bits", 7..=8).filter(|found| found.value == 7) {
        table.report(found.place, "`data_bits` must be 8: RTU frames are binary");
    }
    let _rtu = table.word("framing", &[("rtu", ())]);
    let rs485 = table.flag("rs485").unwrap_or(false);
    let low_latency = table.flag("low_latency").unwrap_or(true);
    table.finish();
    Some(Serial { port: port?, baud: baud?, parity, stop_bits, rs485, low_latency })
}

fn read_baud(table: &Table<'_>) -> Option<u32> {
    let found = table.integer("baud", 0..=i64::from(u32::MAX))?;
    let baud = u32::try_from(found.value).ok().filter(|baud| BAUD_RATES.contains(baud));
    if baud.is_none() {
        let rates = BAUD_RATES.map(|rate| rate.to_string()).join(", ");
        table.report(found.place, format!("`baud` must be one of {rates}; got {}", found.value));
    }
    baud
}

fn read_tcp(table: &Table<'_>) -> Option<Tcp> {
    table.need("address", "\"10.0.0.7:502\"");
    let found = table.filled_text("address");
    let framing =
        table.word("framing", &[("mbap", TcpFraming::Mbap), ("rtu", TcpFraming::Rtu)]).unwrap_or_default();
    table.finish();
    let found = found?;
    let Some(to) = endpoint(found.value, 502) else {
        table.report(found.place, "`address` must be host or host:port, such as \"10.0.0.7:502\"");
        return None;
    };
    Some(Tcp { host: to.host, port: to.port, framing })
}
