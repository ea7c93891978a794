//! A device that remembers, whatever it is: a table of a logger, or the load profile of a meter on a line. What `recall` and
//! `rest` ask of it, and what is true of it.

use std::collections::BTreeMap;

use gapless_agent::config::{Device, LogTable};
use gapless_agent::records::layout::Channels;
use gapless_common::catalog::Channel;
use gapless_common::id::{DeviceId, DeviceIndex};
use gapless_common::quality::{Cause, Quality};
use gapless_common::reading::Value;
use gapless_common::time::SlotGrid;
use gapless_simulators::campbell::Cell;

use super::clock::MS_NS;
use super::line::SimLine;
use super::logger::SimLogger;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub enum Memory<'a> {
    /// A table of a logger.
    Table(&'a SimLogger, &'a LogTable),
    /// The load profile of a meter.
    Profile(&'a SimLine, &'a Device),
}

impl<'a> Memory<'a> {
    /// What it is called.
    #[must_use]
    pub fn id(&self) -> &'a DeviceId {
        match self {
            Self::Table(_, table) => &table.id,
            Self::Profile(_, device) => &device.id,
        }
    }

    /// Which device it is.
    #[must_use]
    pub const fn index(&self) -> DeviceIndex {
        match self {
            Self::Table(_, table) => table.index,
            Self::Profile(_, device) => device.index,
        }
    }

    /// When a record is due.
    #[must_use]
    pub const fn grid(&self) -> SlotGrid {
        match self {
            Self::Table(_, table) => table.grid,
            Self::Profile(_, device) => device.grid,
        }
    }

    /// What else is said of it.
    #[must_use]
    pub const fn attributes(&self) -> &'a BTreeMap<String, String> {
        match self {
            Self::Table(_, table) => &table.attributes,
            Self::Profile(_, device) => &device.attributes,
        }
    }

    /// Its channels, each with its field, as far as they are configured.
    #[must_use]
    pub fn channels(&self) -> Vec<(String, String)> {
        match self {
            Self::Table(_, table) => match &table.channels {
                Channels::All => Vec::new(),
                Channels::Named(_) => named(&table.channels.named()),
            },
            Self::Profile(_, device) => {
                device.channels.iter().map(|spec| (spec.id.to_string(), spec.id.to_string())).collect()
            }
        }
    }

    /// Whether a record of this instant was ever there to be asked for.
    #[must_use]
    pub fn has_recorded(&self, at: i64) -> bool {
        match self {
            Self::Table(logger, table) => logger.has_recorded(table, at),
            Self::Profile(line, device) => {
                let newest = line.held(device.unit, line.now_ns()).last().copied();
                let interval_ms = device.grid.interval.as_ms();
                newest.is_some_and(|newest| at <= newest && (newest - at) % interval_ms == 0)
            }
        }
    }

    /// The instants of the records that it holds.
    #[must_use]
    pub fn held(&self, at_ms: u64) -> Vec<i64> {
        match self {
            Self::Table(logger, table) => logger.held(table, at_ms),
            Self::Profile(line, device) => line.held(device.unit, at_ms * MS_NS),
        }
    }

    /// Whether this is what the field holds in the record of this instant, and as what it may be told, where its own clock
    /// `was_set` by somebody, or the gateway's `was_wrong`.
    ///
    /// # Errors
    /// What is true.
    pub fn check(
        &self,
        field: &str,
        told: (Option<&Value>, Quality),
        at: i64,
        (was_set, was_wrong): (bool, bool),
    ) -> Result<(), String> {
        match self {
            Self::Table(logger, table) => {
                let cell = logger.cell(table, field, at);
                let may_lack = logger.may_lack(table, field, Some(at).filter(|_| !was_set));
                if is_cell(told, cell, may_lack) { Ok(()) } else { Err(format!("{cell:?}")) }
            }
            Self::Profile(line, device) => {
                let truth = line.recorded(device.unit, field, at);
                // A gateway with a wrong clock cannot tell whose it is.
                let is_known = told.1 == Quality::Good || was_wrong && told.1 == Quality::UncertainClock;
                let is_it = told.0 == truth.as_ref() && is_known;
                if is_it { Ok(()) } else { Err(format!("{truth:?}")) }
            }
        }
    }

    /// Whether what it held of this instant was erased by an instant of the run.
    #[must_use]
    pub fn was_erased(&self, at: i64, by_ms: u64) -> bool {
        matches!(self, Self::Table(logger, table) if logger.was_erased(table, at, by_ms))
    }

    /// Whether it recorded nothing at that instant, or at the one of the record before or behind.
    #[must_use]
    pub fn was_off(&self, at: i64) -> bool {
        matches!(self, Self::Table(logger, table) if logger.was_off(table, at))
    }

    /// Whether a request came to nothing for this cause, between these instants of the run.
    #[must_use]
    pub fn has_failed(&self, cause: Cause, (from_ms, to_ms): (u64, u64)) -> bool {
        match self {
            Self::Table(logger, _) => logger.has_failed(cause, (from_ms, to_ms)),
            // What was garbled, and for whom, is not kept for that long.
            Self::Profile(line, _) => line.had_trouble(from_ms * MS_NS, to_ms * MS_NS),
        }
    }
}

/// The names and fields of channels.
pub(super) fn named(channels: &[Channel]) -> Vec<(String, String)> {
    let field = |channel: &Channel| channel.attributes.get("field").cloned();
    let name = |channel: &Channel| channel.id.to_string();
    channels.iter().map(|channel| (name(channel), field(channel).unwrap_or_default())).collect()
}

/// Whether this is what a field holds; a field that a program does not have is no data.
fn is_cell(told: (Option<&Value>, Quality), cell: Option<Cell>, may_lack: bool) -> bool {
    match (told, cell) {
        ((Some(Value::Number(told)), Quality::Good), Some(Cell::Number(truth))) => {
            told.to_bits() == truth.to_bits()
        }
        ((None, Quality::BadInvalid), Some(Cell::Nan))
        | ((None, Quality::BadOutOfRange), Some(Cell::Infinite)) => true,
        ((None, Quality::NoData), _) => may_lack,
        _ => false,
    }
}
