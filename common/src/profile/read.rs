//! Reads a register map from its TOML text: what a device is, what holds for all its channels, and each channel.

use super::channel::{ORDERS, TABLES, read_channel};
use super::load::read_load_profile;
use super::{AddressBase, Defaults, Profile, REGISTERS_MAX, SUNSPEC_BASES, SunSpec};
use crate::document::{At, Document, Item, Problems, Table};
use crate::profile::{ChannelSpec, Location};

/// Why a text is not a register map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct ProfileError(#[from] pub Problems);

impl Profile {
    /// Reads a register map. `file` is its name in messages.
    ///
    /// # Errors
    /// All that is wrong, each with line, column and what would be right.
    pub fn parse(file: &str, toml: &str) -> Result<Self, ProfileError> {
        let document = Document::parse(toml);
        let root = document.root();
        let profile = read_profile(&root);
        root.finish();
        Ok(document.finish(file, profile)?)
    }

    /// Whether any channel is found by model rather than by address.
    #[must_use]
    pub fn is_sunspec(&self) -> bool {
        self.sunspec.is_some()
    }
}

fn read_profile(root: &Table<'_>) -> Option<Profile> {
    let text = |key, example| {
        root.need(key, example);
        root.filled_text(key).map(|found| Box::from(found.value))
    };
    let id = text("id", "\"acme-m1\"");
    let make = text("make", "\"Acme\"");
    let model = text("model", "\"M1\"");
    let kind = text("kind", "\"meter\"");
    let source = text("source", "\"Acme M1 register list, version 2, section 4\"");
    let defaults = root.table("defaults").map_or_else(Defaults::default, |table| read_defaults(&table));
    let sunspec = root.table("sunspec").map(|table| read_sunspec(&table));
    root.need("channel", "[{ id = \"voltage\", address = 0, type = \"f32\", unit = \"V\" }]");
    let channels = read_channels(root, &defaults, sunspec.is_some());
    let load = root.table("load_profile").map(|table| read_load_profile(&table, &defaults));
    Some(Profile {
        id: id?,
        make: make?,
        model: model?,
        kind: kind?,
        source: source?,
        defaults,
        sunspec,
        channels,
        load: load.flatten(),
    })
}

fn read_channels(root: &Table<'_>, defaults: &Defaults, sunspec: bool) -> Vec<ChannelSpec> {
    let mut channels: Vec<ChannelSpec> = Vec::new();
    for table in root.tables("channel") {
        let Some(channel) = read_channel(&table, defaults) else { continue };
        let at = table.place_of("id").unwrap_or(table.place());
        if channels.iter().any(|other| other.id == channel.id) {
            table
                .report(at, format!("channel `{}` is there twice: names are unique in a device", channel.id));
        }
        if matches!(channel.location, Location::SunSpec { .. }) && !sunspec {
            table.report(at, "a channel with `model` needs the table [sunspec] in this file");
        }
        channels.push(channel);
    }
    channels
}

fn read_sunspec(table: &Table<'_>) -> SunSpec {
    let read = table.items("bases").map(|items| {
        let base = |found: &At<Item<'_>>| match found.value {
            Item::Integer(address) => u16::try_from(address).ok(),
            _ => None,
        };
        items.iter().filter_map(base).collect::<Vec<u16>>()
    });
    if read.as_ref().is_some_and(Vec::is_empty) {
        table.report(table.place(), "`bases` is a list of zero-based addresses, such as [40000, 50000, 0]");
    }
    table.finish();
    SunSpec { bases: read.unwrap_or_else(|| SUNSPEC_BASES.to_vec()) }
}

fn read_defaults(table: &Table<'_>) -> Defaults {
    let plain = Defaults::default();
    let defaults = Defaults {
        table: table.word("table", &TABLES).unwrap_or(plain.table),
        order: table.word("order", &ORDERS).unwrap_or(plain.order),
        address_base: read_address_base(table).unwrap_or(plain.address_base),
        max_registers: table.u16("max_registers", 1..=REGISTERS_MAX).unwrap_or(plain.max_registers),
        max_hole: table.u16("max_hole", 0..=REGISTERS_MAX).unwrap_or(plain.max_hole),
        timeout_ms: table.duration_within("timeout", 10..=60_000).map(|found| found.value),
        turnaround_ms: table.duration_within("turnaround", 0..=10_000).map(|found| found.value),
    };
    table.finish();
    defaults
}

/// `address_base = 0`, `1` or `"modicon"`.
#[must_use]
pub fn read_address_base(table: &Table<'_>) -> Option<AddressBase> {
    let found = table.item("address_base")?;
    match found.value {
        Item::Integer(0) => Some(AddressBase::Zero),
        Item::Integer(1) => Some(AddressBase::One),
        Item::Text("modicon") => Some(AddressBase::Modicon),
        _ => {
            table.report(
                found.place,
                "`address_base` is 0 (first register is 0), 1 (first register is 1) or \"modicon\" (40001)",
            );
            None
        }
    }
}
