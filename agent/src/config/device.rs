//! Reads one device: its unit and timing, and its channels from a profile, from the file itself, or from both.

use std::collections::BTreeMap;

use gapless_common::document::{At, Table};
use gapless_common::id::{DeviceId, DeviceIndex};
use gapless_common::profile::{
    ChannelSpec, Defaults, Location, ORDERS, Profile, ProfileSet, REGISTERS_MAX, SUNSPEC_BASES, SunSpec,
    TABLES, read_address_base, read_channel,
};
use gapless_common::time::{Interval, SlotGrid};

use super::Device;
use super::load::{Collected, Memory, read_collected, read_memory, tell};

/// What the bus says for devices that say nothing.
pub(super) struct BusDefaults {
    pub(super) serial: bool,
    pub(super) timeout_ms: u32,
    pub(super) retries: u8,
    pub(super) turnaround_ms: u32,
    pub(super) interval: BusInterval,
}

/// The interval that a bus gives to those of its devices that have none.
#[derive(Clone, Copy)]
pub(super) enum BusInterval {
    None,
    /// It was reported: that its devices have none is no mistake of theirs.
    Wrong,
    Ms(At<u64>),
}

impl BusInterval {
    pub(super) fn read(bus: &Table<'_>) -> Self {
        match (bus.duration_ms("interval"), bus.place_of("interval")) {
            (Some(found), _) => Self::Ms(found),
            (None, Some(_)) => Self::Wrong,
            (None, None) => Self::None,
        }
    }
}

pub(super) fn read_device(table: &Table<'_>, profiles: &ProfileSet, bus: &BusDefaults) -> Option<Device> {
    table.need("id", "\"meter-1\"");
    table.need("unit", "1");
    let id = table.parsed::<DeviceId>("id");
    let unit = table.u8("unit", if bus.serial { 1..=247 } else { 0..=255 });
    let profile = read_profile_name(table, profiles);
    let defaults = read_defaults(table, profile.as_ref().ok().and_then(|profile| *profile));
    let (memory, grid, channels) = match read_collected(table) {
        Collected::Polled => {
            (None, read_grid(table, bus.interval), read_channels(table, &profile, &defaults))
        }
        Collected::Recorded => {
            let (memory, grid) =
                read_memory(table, profile.as_ref().ok().and_then(|profile| *profile)).unzip();
            let fields = memory.as_ref().map(|memory: &Memory| memory.load.fields.clone());
            (memory, grid, fields)
        }
    };
    let sunspec = read_sunspec(table, profile.as_ref().ok().and_then(|profile| *profile), &channels);
    let timing = Timing::read(table, bus, &defaults);
    let mut attributes = read_attributes(table, profile.as_ref().ok().and_then(|profile| *profile));
    memory.iter().for_each(|memory| tell(memory, &mut attributes));
    let paused = table.flag("paused").unwrap_or(false);
    table.finish();

    let channels = channels?;
    check_fit(table, &channels, defaults.max_registers);
    Some(Device {
        id: id?.value,
        index: DeviceIndex(0),
        unit: unit?,
        grid: grid?,
        timeout_ms: timing.timeout_ms,
        retries: timing.retries,
        turnaround_ms: timing.turnaround_ms,
        max_hole: defaults.max_hole,
        max_registers: defaults.max_registers,
        channels,
        sunspec,
        profile: profile.ok()?.map(|profile| profile.id.clone()),
        attributes,
        memory,
        paused,
    })
}

/// The profile that a device names; an error where there is none of that name. Files were read by whoever calls.
fn read_profile_name<'p>(table: &Table<'_>, profiles: &'p ProfileSet) -> Result<Option<&'p Profile>, ()> {
    let Some(found) = table.filled_text("profile") else { return Ok(None) };
    let name = found.value;
    profiles.get(name).map(Some).ok_or_else(|| {
        let message = if ProfileSet::is_file(name) {
            let why = profiles.why_unusable(name).unwrap_or("was not read");
            format!("`profile` names the file `{name}`, which {why}")
        } else {
            let known: Vec<&str> = profiles.names().collect();
            let known = known.join(", ");
            format!("there is no profile `{name}`: known are {known}; one of your own is named by its file, such as \"my-meter.toml\"")
        };
        table.report(found.place, message);
    })
}

fn read_defaults(table: &Table<'_>, profile: Option<&Profile>) -> Defaults {
    let plain = profile.map_or_else(Defaults::default, |profile| profile.defaults.clone());
    Defaults {
        table: table.word("table", &TABLES).unwrap_or(plain.table),
        order: table.word("order", &ORDERS).unwrap_or(plain.order),
        address_base: read_address_base(table).unwrap_or(plain.address_base),
        max_registers: table.u16("max_registers", 1..=REGISTERS_MAX).unwrap_or(plain.max_registers),
        max_hole: table.u16("max_hole", 0..=REGISTERS_MAX).unwrap_or(plain.max_hole),
        timeout_ms: plain.timeout_ms,
        turnaround_ms: plain.turnaround_ms,
    }
}

struct Timing {
    timeout_ms: u32,
    retries: u8,
    turnaround_ms: u32,
}

impl Timing {
    /// What the device says; else the longer of what its profile needs and what its bus has.
    fn read(table: &Table<'_>, bus: &BusDefaults, defaults: &Defaults) -> Self {
        let timeout = table.duration_within("timeout", 10..=60_000).map(|at| at.value);
        let turnaround = table.duration_within("turnaround", 0..=10_000).map(|at| at.value);
        Self {
            timeout_ms: timeout.unwrap_or(bus.timeout_ms.max(defaults.timeout_ms.unwrap_or(0))),
            retries: table.u8("retries", 0..=10).unwrap_or(bus.retries),
            turnaround_ms: turnaround.unwrap_or(bus.turnaround_ms.max(defaults.turnaround_ms.unwrap_or(0))),
        }
    }
}

pub(super) fn read_grid(table: &Table<'_>, of_bus: BusInterval) -> Option<SlotGrid> {
    let own = table.duration_ms("interval");
    let phase = table.duration_ms("phase");
    let found = match (own, of_bus) {
        (Some(found), _) | (None, BusInterval::Ms(found)) => found,
        (None, BusInterval::Wrong) => return None,
        (None, BusInterval::None) => {
            table.need("interval", "\"10s\"");
            return None;
        }
    };
    let interval =
        Interval::from_ms(found.value).map_err(|error| table.report(found.place, error.to_string())).ok()?;
    let phase_ms = phase.map_or(0, |phase| phase.value);
    match u32::try_from(phase_ms) {
        Ok(phase_ms) if i64::from(phase_ms) < interval.as_ms() => Some(SlotGrid { interval, phase_ms }),
        _ => {
            let at = phase.map_or(found.place, |phase| phase.place);
            table.report(at, format!("`phase` must be below the interval of {interval}"));
            None
        }
    }
}

/// The profile's channels (all, or those that `channels` names), and the file's own: one with the name of a
/// profile's channel takes its place.
fn read_channels(
    table: &Table<'_>,
    profile: &Result<Option<&Profile>, ()>,
    defaults: &Defaults,
) -> Option<Vec<ChannelSpec>> {
    let selection = table.texts("channels");
    let own_tables = table.tables("channel");
    let own: Vec<Option<ChannelSpec>> =
        own_tables.iter().map(|channel| read_channel(channel, defaults)).collect();
    let profile = profile.as_ref().ok()?;
    let mut channels = match (profile, &selection) {
        (Some(profile), Some(names)) => select(table, profile, names, defaults),
        (Some(profile), None) => reordered(table, &profile.channels, defaults),
        (None, Some(_)) => {
            let at = table.place_of("channels").unwrap_or(table.place());
            table.report(at, "`channels` chooses from a `profile`, and this device names none");
            Vec::new()
        }
        (None, None) => Vec::new(),
    };
    let from_profile = channels.len();
    for (channel, channel_table) in own.into_iter().zip(&own_tables) {
        add_own(channel_table, &mut channels, from_profile, channel?);
    }
    // Where none of the names is known, or there is nothing to choose from, that was reported.
    let is_told = selection.is_some_and(|names| !names.is_empty());
    if channels.is_empty() && is_told {
        return None;
    }
    if channels.is_empty() {
        let example = "profile = \"eastron-sdm630\", or [[bus.device.channel]] tables";
        table.report(table.place(), format!("this device has no channels: give it a {example}"));
        return None;
    }
    Some(channels)
}

fn add_own(table: &Table<'_>, channels: &mut Vec<ChannelSpec>, from_profile: usize, channel: ChannelSpec) {
    match channels.iter().position(|other| other.id == channel.id) {
        Some(place) if place < from_profile => channels[place] = channel,
        Some(_) => {
            let at = table.place_of("id").unwrap_or(table.place());
            table
                .report(at, format!("channel `{}` is there twice: names are unique in a device", channel.id));
        }
        None => channels.push(channel),
    }
}

fn select(table: &Table<'_>, profile: &Profile, names: &[At<&str>], defaults: &Defaults) -> Vec<ChannelSpec> {
    let known: Vec<&str> = profile.channels.iter().map(|channel| channel.id.as_str()).collect();
    for name in names.iter().filter(|name| !known.contains(&name.value)) {
        let (id, known) = (&profile.id, known.join(", "));
        table.report(name.place, format!("profile `{id}` has no channel `{}`: it has {known}", name.value));
    }
    let chosen: Vec<ChannelSpec> = profile
        .channels
        .iter()
        .filter(|channel| names.iter().any(|name| name.value == channel.id.as_str()))
        .cloned()
        .collect();
    reordered(table, &chosen, defaults)
}

/// An `order` in the device's own table speaks for all its channels: some devices let a person choose it.
fn reordered(table: &Table<'_>, channels: &[ChannelSpec], defaults: &Defaults) -> Vec<ChannelSpec> {
    let order = table.place_of("order").map(|_| defaults.order);
    let turned = channels.iter().cloned().map(|mut channel| {
        channel.order = order.unwrap_or(channel.order);
        channel
    });
    turned.collect()
}

fn read_sunspec(
    table: &Table<'_>,
    profile: Option<&Profile>,
    channels: &Option<Vec<ChannelSpec>>,
) -> Option<SunSpec> {
    let base = table.u16("sunspec_base", 0..=u16::MAX);
    let needed =
        channels.iter().flatten().any(|channel| matches!(channel.location, Location::SunSpec { .. }));
    if !needed {
        if let (Some(at), Some(_)) = (table.place_of("sunspec_base"), channels) {
            table.report(at, "`sunspec_base` is for devices with SunSpec channels, and this one has none");
        }
        return None;
    }
    let known = profile.and_then(|profile| profile.sunspec.clone());
    let bases = base.map(|base| vec![base]);
    Some(bases.map_or_else(
        || known.unwrap_or_else(|| SunSpec { bases: SUNSPEC_BASES.to_vec() }),
        |bases| SunSpec { bases },
    ))
}

/// The free attributes, with make, model and kind from the profile and the three that have keys of their own.
pub(super) fn read_attributes(table: &Table<'_>, profile: Option<&Profile>) -> BTreeMap<String, String> {
    let mut attributes = table.attributes("attributes");
    for key in ["make", "model", "serial_number"] {
        if let Some(found) = table.filled_text(key) {
            attributes.insert(key.to_owned(), found.value.to_owned());
        }
    }
    if let Some(profile) = profile {
        let facts = [
            ("profile", &profile.id),
            ("make", &profile.make),
            ("model", &profile.model),
            ("kind", &profile.kind),
        ];
        for (key, fact) in facts {
            attributes.entry(key.to_owned()).or_insert_with(|| fact.to_string());
        }
    }
    attributes
}

/// No value may be wider than one request: half a number is none.
fn check_fit(table: &Table<'_>, channels: &[ChannelSpec], max_registers: u16) {
    for channel in channels.iter().filter(|channel| channel.registers() > max_registers) {
        let at = table.place_of("max_registers").unwrap_or(table.place());
        let (id, count, location) = (&channel.id, channel.registers(), channel.location);
        let message = format!(
            "channel `{id}` at {location} covers {count} registers, more than one request may ask for: \
             `max_registers` must be {count} or more"
        );
        table.report(at, message);
    }
}
