//! What will be collected of a meter's memory, and how it reads for people. How much of it is written is not in the
//! configuration.

use std::fmt;

use gapless_common::catalog::PeriodLabel;
use gapless_common::profile::Way;
use gapless_common::text::format_duration_ms;
use gapless_common::time::Interval;

use crate::config::Memory;
use crate::records::zone::Zone;

/// A load profile that is collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryReport {
    /// How its records are read, for people.
    pub way: String,
    /// How far back it reaches when it is full, in ms.
    pub reach_ms: u64,
    /// Of the meter's clock.
    pub zone: Zone,
    /// Which end of its interval a record's time names.
    pub label: PeriodLabel,
    /// How far back it is read at each start, in ms.
    pub first_ms: u64,
}

impl MemoryReport {
    pub(super) fn of(memory: &Memory, interval: Interval) -> Self {
        let load = &memory.load;
        let way = match load.way {
            Way::Mapped { table, address } => format!("in {table}s from {address} on"),
            Way::Window { select, table, address, .. } => {
                format!("in {table}s from {address} on, selected by register {}", select.address)
            }
            Way::File { file, .. } => format!("as file records from file {file} on (FC20)"),
        };
        Self {
            way,
            reach_ms: interval.as_ms().unsigned_abs().saturating_mul(u64::from(load.capacity)),
            zone: memory.zone,
            label: load.label,
            first_ms: memory.first_ms.unsigned_abs(),
        }
    }
}

impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { way, zone, .. } = self;
        let end = match self.label {
            PeriodLabel::Start => "begin",
            PeriodLabel::End => "end",
        };
        let [reach, first] = [self.reach_ms, self.first_ms].map(format_duration_ms);
        writeln!(f, "\n    load profile {way}; a full one holds {reach}")?;
        writeln!(
            f,
            "    its times are the {end} of an interval by a clock of {zone}; at each start the last {first} once more"
        )
    }
}
