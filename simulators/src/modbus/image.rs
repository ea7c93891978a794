//! Which register of a device shows which part of which channel. A map is made once; the values come later, all
//! registers of one answer at one instant. Addresses that no channel covers are not mapped: asking for them is
//! refused, as real devices do.

use std::collections::BTreeMap;

use gapless_common::profile::{ByteOrder, ChannelSpec, Location, Profile, RegisterTable, ValueType};

use super::encode;
use crate::truth::{Raw, Signal};

/// Where a channel stands once models have been laid out.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// What the register map says of it.
    pub spec: ChannelSpec,
    /// Its first address on the wire.
    pub address: u16,
    /// What it measures.
    pub signal: Signal,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Cell {
    /// Word `1` of channel `0`.
    Channel(usize, usize),
    Fixed(u16),
}

/// Why a register map cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// A channel reaches past the last address.
    #[error("channel `{channel}` at address {address} reaches past the last address, 65535")]
    PastTheEnd {
        /// Which channel.
        channel: String,
        /// Where it begins.
        address: u16,
    },
    /// A channel is placed in a model, but the profile names no place for the models.
    #[error("channel `{0}` is placed in a SunSpec model, but the profile has no [sunspec] section")]
    NoModels(String),
}

/// The mapped addresses of a device.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Image {
    cells: BTreeMap<(RegisterTable, u16), Vec<Cell>>,
    channels: Vec<Placed>,
}

/// Lengths of the SunSpec models (registers after id and length) that profiles use; others get what their
/// channels need (SunSpec model definitions, `group.len`).
const SUNSPEC_LENGTHS: [(u16, u16); 8] =
    [(1, 66), (101, 50), (102, 50), (103, 50), (111, 60), (112, 60), (113, 60), (203, 105)];

impl Image {
    /// Lays out `profile` for the device that `device_seed` stands for.
    ///
    /// # Errors
    /// [`ImageError`] where a channel has no place.
    pub fn of_profile(profile: &Profile, device_seed: u64) -> Result<Self, ImageError> {
        let mut image = Self::default();
        let models = image.lay_out_models(profile);
        let place = |spec: &ChannelSpec, location: Location| match location {
            Location::Absolute(address) => Ok(address),
            Location::SunSpec { model, offset } => match models.get(&model) {
                Some(base) => Ok(base + offset),
                None => Err(ImageError::NoModels(spec.id.to_string())),
            },
        };
        for spec in &profile.channels {
            let exponent = if spec.scale_from.is_some() { exponent_for(spec) } else { 0 };
            if let Some(location) = spec.scale_from {
                let at = place(spec, location)?;
                let register = encode::registers(&Raw::Int(exponent.into()), ValueType::I16, ByteOrder::ABCD);
                image.cells.insert((spec.table, at), vec![Cell::Fixed(register[0])]);
            }
            let address = place(spec, spec.location)?;
            image.add(Placed {
                spec: spec.clone(),
                address,
                signal: Signal::new(spec, device_seed, exponent),
            })?;
        }
        Ok(image)
    }

    /// Adds one channel; several bit fields may share a register.
    ///
    /// # Errors
    /// [`ImageError::PastTheEnd`].
    pub fn add(&mut self, placed: Placed) -> Result<(), ImageError> {
        let index = self.channels.len();
        let (table, first) = (placed.spec.table, placed.address);
        for word in 0..placed.spec.registers() {
            let address = first.checked_add(word).ok_or_else(|| ImageError::PastTheEnd {
                channel: placed.spec.id.to_string(),
                address: first,
            })?;
            let cells = self.cells.entry((table, address)).or_default();
            cells.retain(|cell| matches!(cell, Cell::Channel(..)));
            cells.push(Cell::Channel(index, word.into()));
        }
        self.channels.push(placed);
        Ok(())
    }

    /// Marker, ids, lengths and the end of the chain (SunSpec Device Information Model Specification V1.1,
    /// section 5); points that no channel names read 0. Gives the address of each model's id.
    fn lay_out_models(&mut self, profile: &Profile) -> BTreeMap<u16, u16> {
        let Some(sunspec) = &profile.sunspec else { return BTreeMap::new() };
        let mut at = sunspec.bases.first().copied().unwrap_or(40_000);
        let table = profile.defaults.table;
        let mut put = |address: u16, word: u16| {
            self.cells.insert((table, address), vec![Cell::Fixed(word)]);
        };
        put(at, 0x5375);
        put(at + 1, 0x6E53);
        at += 2;
        let mut bases = BTreeMap::new();
        for (model, len) in model_lengths(profile) {
            bases.insert(model, at);
            put(at, model);
            put(at + 1, len);
            (0..len).for_each(|point| put(at + 2 + point, 0));
            at += 2 + len;
        }
        put(at, 0xFFFF);
        put(at + 1, 0);
        bases
    }

    /// The channels, in the order they were added.
    #[must_use]
    pub fn channels(&self) -> &[Placed] {
        &self.channels
    }

    /// `count` registers (or bits, one to an element) from `start` as they are at `t_ms`; `None` where one of them
    /// is not mapped.
    #[must_use]
    pub fn read(
        &self,
        table: RegisterTable,
        start: u16,
        count: u16,
        t_ms: i64,
        reset_ms: Option<i64>,
    ) -> Option<Vec<u16>> {
        let mut encoded: BTreeMap<usize, Vec<u16>> = BTreeMap::new();
        let mut registers = Vec::with_capacity(usize::from(count));
        for offset in 0..count {
            let cells = self.cells.get(&(table, start.checked_add(offset)?))?;
            let word = |cell: &Cell| match *cell {
                Cell::Fixed(word) => word,
                Cell::Channel(channel, word) => {
                    encoded.entry(channel).or_insert_with(|| self.encode(channel, t_ms, reset_ms))[word]
                }
            };
            registers.push(cells.iter().map(word).fold(0, |all, bits| all | bits));
        }
        Some(registers)
    }

    fn encode(&self, channel: usize, t_ms: i64, reset_ms: Option<i64>) -> Vec<u16> {
        let Placed { spec, signal, .. } = &self.channels[channel];
        encode::registers(&signal.raw(t_ms, reset_ms), spec.value_type, spec.order)
    }
}

fn model_lengths(profile: &Profile) -> BTreeMap<u16, u16> {
    let mut lengths = BTreeMap::from([(1, 66)]);
    for spec in &profile.channels {
        let needed = [Some(spec.location), spec.scale_from].into_iter().flatten().filter_map(|l| match l {
            Location::SunSpec { model, offset } => {
                Some((model, (offset + spec.registers()).saturating_sub(2)))
            }
            Location::Absolute(_) => None,
        });
        for (model, len) in needed {
            let known = SUNSPEC_LENGTHS.iter().find(|row| row.0 == model).map_or(0, |row| row.1);
            let entry = lengths.entry(model).or_insert(known);
            *entry = (*entry).max(len).max(known);
        }
    }
    lengths
}

/// The power of ten that a device serves beside a value: tenths, or tens where the unit is watts, so that 16 bits
/// hold what the unit suggests.
fn exponent_for(spec: &ChannelSpec) -> i32 {
    match &*spec.unit {
        "W" | "VA" | "var" | "VAr" | "Wh" => 0,
        "Hz" | "A" => -2,
        _ => -1,
    }
}
