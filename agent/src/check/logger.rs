//! What will be collected of a logger, and how it reads for people. How much its memory holds is not in the
//! configuration.

use std::fmt;

use gapless_common::text::format_duration_ms;

use super::traffic::FIELDS_ASSUMED;
use super::{LoggerReport, TableReport};
use crate::config::{LogTable, Logger};
use crate::records::layout::Channels;

pub(super) fn report(logger: &Logger) -> LoggerReport {
    let tables = logger.tables.iter().map(table_report).collect();
    LoggerReport { id: logger.id.clone(), link: logger.to_string(), tables }
}

fn table_report(table: &LogTable) -> TableReport {
    TableReport {
        id: table.id.clone(),
        table: table.table.clone(),
        interval: table.grid.interval,
        zone: table.zone,
        first_ms: table.first_ms.unsigned_abs(),
        channels: match &table.channels {
            Channels::All => None,
            Channels::Named(wanted) => Some(wanted.len()),
        },
        paused: table.paused,
    }
}

impl fmt::Display for LoggerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "bus {}: {}", self.id, self.link)?;
        self.tables.iter().try_for_each(|table| write!(f, "{table}"))
    }
}

impl fmt::Display for TableReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, table, interval, zone, .. } = self;
        write!(f, "  {id}: table {table}, ")?;
        match self.channels {
            Some(1) => write!(f, "1 channel")?,
            Some(count) => write!(f, "{count} channels")?,
            None => write!(f, "all fields ({FIELDS_ASSUMED} assumed below)")?,
        }
        write!(f, ", a record every {interval}, logger's clock {zone}")?;
        if self.paused {
            write!(f, ", paused")?;
        }
        let first = format_duration_ms(self.first_ms);
        writeln!(f, "\n    collected by record number; at each start the last {first} once more")
    }
}
