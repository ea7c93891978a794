//! The report as text, for a terminal of 100 columns or a phone held sideways.

use std::fmt;

use gapless_common::text::format_bytes;

use super::traffic::to_u64;
use super::{BusReport, DeviceReport, Milliseconds, Report, RequestReport, Traffic};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for bus in &self.buses {
            writeln!(f, "{bus}")?;
        }
        for logger in &self.loggers {
            writeln!(f, "{logger}")?;
        }
        for folder in &self.folders {
            writeln!(f, "{folder}")?;
        }
        writeln!(f, "{}", self.traffic)?;
        for problem in &self.problems {
            writeln!(f, "error: {problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for BusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "bus {}: {}", self.id, self.link)?;
        if let (Some(least), Some(load)) = (self.least_cycle, self.load) {
            let busy = load * 100.0;
            writeln!(f, "  least cycle {}, line busy {busy:.1} % of the time", Milliseconds(least))?;
        }
        self.devices.iter().try_for_each(|device| write!(f, "{device}"))
    }
}

impl fmt::Display for DeviceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, unit, interval, channels, .. } = self;
        write!(f, "  {id}: unit {unit}, {}, every {interval}", counted(*channels, "channel"))?;
        if let Some(profile) = &self.profile {
            write!(f, ", profile {profile}")?;
        }
        if self.paused {
            write!(f, ", paused")?;
        }
        if let Some(memory) = &self.memory {
            return write!(f, "{memory}");
        }
        let requests = counted(self.requests.len(), "request");
        match self.least_poll {
            Some(least) => writeln!(f, "\n    {requests}, {} at least", Milliseconds(least))?,
            None => writeln!(f, "\n    {requests}")?,
        }
        self.requests.iter().try_for_each(|request| writeln!(f, "      {request}"))
    }
}

impl fmt::Display for RequestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = u32::from(self.start) + u32::from(self.count) - 1;
        let Self { function, table, start, count, .. } = self;
        write!(f, "FC{function:02} {table} ")?;
        if let Some(model) = self.model {
            write!(f, "of SunSpec model {model}, offset ")?;
        }
        write!(f, "{start}..{last} ({count}): {}", counted(self.channels.len(), "channel"))?;
        let unused: u32 = self.holes.iter().map(|(_, count)| u32::from(*count)).sum();
        if unused > 0 {
            write!(f, ", reads over {unused} in {}", counted(self.holes.len(), "hole"))?;
        }
        self.time.map_or(Ok(()), |time| write!(f, ", {}", Milliseconds(time)))
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "a day without faults, estimated:")?;
        let Self { readings_per_day: readings, messages_per_day: messages, .. } = self;
        writeln!(f, "  {readings:.0} readings in {messages:.0} messages")?;
        let each = self.uplink_bytes_per_day / readings.max(1.0);
        writeln!(
            f,
            "  uplink {}, {each:.1} bytes a reading with all headers",
            bytes(self.uplink_bytes_per_day)
        )?;
        if let Some(budget) = self.daily_budget_bytes {
            writeln!(f, "  {}", BudgetLine { needed: to_u64(self.uplink_bytes_per_day), budget })?;
        }
        let outbox = bytes(self.outbox_bytes_per_day);
        write!(f, "  outbox {outbox}: the budget holds an outage of {:.1} days", self.outage_days)
    }
}

/// The daily budget beside what a day needs.
struct BudgetLine {
    needed: u64,
    budget: u64,
}

impl fmt::Display for BudgetLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = u128::from(self.needed) * 100 / u128::from(self.budget.max(1));
        let budget = format_bytes(self.budget);
        write!(f, "daily budget {budget}: a day takes {percent} % of it")?;
        match self.budget.checked_sub(self.needed) {
            Some(left) if left < self.budget / 5 => {
                write!(f, ", and {} are little to drain a backlog with: a warning", format_bytes(left))
            }
            Some(left) => write!(f, ", and {} drain a backlog", format_bytes(left)),
            None => Ok(()),
        }
    }
}

fn bytes(number: f64) -> String {
    format_bytes(to_u64(number))
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
