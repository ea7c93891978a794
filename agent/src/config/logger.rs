//! Reads a bus that is a logger with a memory: its web server, and each table of it that is a device.

use std::collections::BTreeMap;

use gapless_common::catalog::{Aggregation, Channel, PeriodLabel};
use gapless_common::document::{At, Table};
use gapless_common::id::{BusId, ChannelId, DeviceId, DeviceIndex};
use gapless_common::profile::Scale;

use super::bus::{Seen, once};
use super::device::{BusInterval, read_attributes, read_grid};
use super::endpoint::endpoint;
use super::parse::read_password;
use super::{LogTable, Logger, Web};
use crate::records::layout::Field;
use crate::records::layout::{CHANNELS_MAX, Channels, Wanted, channel, channel_id};
use crate::records::zone::Zone;

const TIMEOUT_DEFAULT_MS: u32 = 10_000;
/// A day: what a night without power or a person who swaps the gateway costs.
const FIRST_DEFAULT_MS: u64 = 86_400_000;
/// Loggers hold months.
const FIRST_MAX_MS: u64 = 366 * 86_400_000;

pub(super) const EXAMPLE: &str = "campbell = { url = \"http://10.0.0.9\" }";

pub(super) fn read_logger(table: &Table<'_>, id: Option<BusId>, seen: &mut Seen) -> Option<Logger> {
    let web = table.table("campbell").and_then(|inner| read_web(&inner));
    let timeout_ms = table.duration_within("timeout", 100..=60_000).map_or(TIMEOUT_DEFAULT_MS, |at| at.value);
    let interval = BusInterval::read(table);
    table.need(
        "device",
        "[{ id = \"mast\", table = \"Met\", interval = \"10m\", zone = \"+01:00\", channels = \"all\" }]",
    );
    let mut tables = Vec::new();
    for device in table.tables("device") {
        let read = read_table(&device, interval);
        if let (Some(read), Some(at)) = (&read, device.place_of("id")) {
            once(&device, "device", &mut seen.devices, read.id.clone(), at);
        }
        tables.push(read);
    }
    if tables.is_empty() && table.place_of("device").is_some() {
        table.report(table.place(), "a bus has at least one device");
    }
    table.finish();
    Some(Logger { id: id?, web: web?, timeout_ms, tables: tables.into_iter().collect::<Option<_>>()? })
}

fn read_web(table: &Table<'_>) -> Option<Web> {
    table.need("url", "\"http://10.0.0.9\"");
    let url = table.filled_text("url").and_then(|found| read_url(table, found));
    let username = table.filled_text("username").map(|found| found.value.to_owned());
    let password = read_password(table);
    if let (None, Some(_)) = (&username, &password) {
        table.report(table.place(), "a password needs a `username` (RFC 7617)");
    }
    table.finish();
    Some(Web { url: url?, username, password })
}

/// `http://host[:port]`, without the rest of what a URL may have.
fn read_url(table: &Table<'_>, found: At<&str>) -> Option<String> {
    let report = |why: &str| {
        table.report(
            found.place,
            format!("`url` {why}, such as \"http://10.0.0.9\" or \"http://logger:8080\""),
        );
        None
    };
    if found.value.starts_with("https://") {
        return report("must begin with http://: this version speaks no TLS to loggers");
    }
    let Some(rest) = found.value.strip_prefix("http://") else { return report("must begin with http://") };
    if rest.contains('@') {
        return report("holds no user name: write `username` and `password_file` beside it");
    }
    let Some(to) = endpoint(rest.trim_end_matches('/'), 80) else {
        return report("must be host or host:port");
    };
    let host = if to.host.contains(':') { format!("[{}]", to.host) } else { to.host };
    Some(if to.port == 80 { format!("http://{host}") } else { format!("http://{host}:{}", to.port) })
}

fn read_table(table: &Table<'_>, interval: BusInterval) -> Option<LogTable> {
    table.need("id", "\"mast\"");
    table.need("table", "\"Met\"");
    table.need("zone", "\"+01:00\", the offset of the logger's clock from UTC");
    let id = table.parsed::<DeviceId>("id");
    let name = table.filled_text("table");
    let grid = read_grid(table, interval);
    let zone = table.parsed::<Zone>("zone");
    let first_ms = read_first(table);
    let channels = read_channels(table);
    let mut attributes = read_attributes(table, None);
    // What is missing can be read again from the logger's own memory: the collector asks for it.
    attributes.insert("history".to_owned(), "device".to_owned());
    let paused = table.flag("paused").unwrap_or(false);
    table.finish();
    Some(LogTable {
        id: id?.value,
        index: DeviceIndex(0),
        table: name?.value.into(),
        grid: grid?,
        zone: zone?.value,
        first_ms: first_ms?,
        channels: channels?,
        attributes,
        paused,
    })
}

pub(super) fn read_first(table: &Table<'_>) -> Option<i64> {
    let Some(found) = table.duration_ms("first") else { return i64::try_from(FIRST_DEFAULT_MS).ok() };
    if found.value > FIRST_MAX_MS {
        table.report(found.place, "`first` must be a year (366d) at most");
        return None;
    }
    i64::try_from(found.value).ok()
}

/// `channels = "all"`, `channels = ["Batt_Min", …]`, or `[[bus.device.channel]]` tables.
pub(super) fn read_channels(table: &Table<'_>) -> Option<Channels> {
    let listed = table.texts("channels");
    let own = table.tables("channel");
    let at = table.place_of("channels").unwrap_or(table.place());
    if let Some([At { value: "all", .. }]) = listed.as_deref() {
        if !own.is_empty() {
            table.report(
                at,
                "`channels = \"all\"` and [[bus.device.channel]] tables are both there: keep one of them",
            );
            return None;
        }
        return Some(Channels::All);
    }
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut add = |table: &Table<'_>, at, new: Option<Wanted>| {
        let new = new?;
        if wanted.iter().any(|other| other.channel.id == new.channel.id) {
            table.report(
                at,
                format!("channel `{}` is there twice: names are unique in a device", new.channel.id),
            );
            return None;
        }
        wanted.push(new);
        Some(())
    };
    let mut is_sound = true;
    for found in listed.into_iter().flatten() {
        is_sound &= add(table, found.place, plain(table, found)).is_some();
    }
    for channel in &own {
        let at = channel.place_of("field").unwrap_or(channel.place());
        is_sound &= add(channel, at, read_channel(channel)).is_some();
    }
    if wanted.is_empty() && is_sound {
        table.report(at, "this device has no channels: write channels = \"all\", a list of field names, or [[bus.device.channel]] tables");
        return None;
    }
    if wanted.len() > CHANNELS_MAX {
        table.report(at, format!("a device has {CHANNELS_MAX} channels at most"));
        return None;
    }
    is_sound.then_some(Channels::Named(wanted))
}

fn field(name: &str) -> Field {
    Field { name: name.to_owned(), kind: String::new(), units: String::new(), process: String::new() }
}

fn plain(table: &Table<'_>, found: At<&str>) -> Option<Wanted> {
    let id = channel_id(found.value);
    if id.is_none() {
        table.report(found.place, format!("`{}` is no name of a field", found.value));
    }
    let channel = channel(id?, &field(found.value));
    Some(Wanted { field: found.value.into(), channel, scale: Scale::default(), valid: None })
}

fn read_channel(table: &Table<'_>) -> Option<Wanted> {
    table.need("field", "\"WS_ms_Avg\"");
    let name = table.filled_text("field");
    let id = table.parsed::<ChannelId>("id").map(|found| found.value);
    let (factor, offset) = (table.number("scale"), table.number("offset"));
    let value = |found: Option<At<f64>>, absent| found.map_or(absent, |found| found.value);
    let scale = Scale::new(value(factor, 1.0), value(offset, 0.0));
    if let (None, Some(found)) = (scale, factor.or(offset)) {
        table.report(found.place, "a scale must be finite and not 0");
    }
    let text = |key| table.text(key).map_or_else(Box::default, |found: At<&str>| found.value.into());
    let (unit, quantity) = (text("unit"), text("quantity"));
    let aggregation: Option<Aggregation> = gapless_common::profile::read_aggregation(table);
    let label: Option<PeriodLabel> = gapless_common::profile::read_label(table);
    let valid = gapless_common::profile::read_valid(table, name.map_or("?", |name| name.value));
    let mut attributes: BTreeMap<String, String> = table.attributes("attributes");
    table.finish();
    let name = name?;
    attributes.insert("field".to_owned(), name.value.to_owned());
    let id = id.or_else(|| channel_id(name.value));
    if id.is_none() {
        table
            .report(name.place, format!("`{}` cannot be the name of a channel: give it an `id`", name.value));
    }
    let (aggregation, label) = (aggregation.unwrap_or_default(), label.unwrap_or_default());
    let channel = Channel { id: id?, unit, quantity, aggregation, label, attributes };
    Some(Wanted { field: name.value.into(), channel, scale: scale?, valid })
}
