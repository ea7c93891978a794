//! Where in its file a problem stands: a checked configuration has forgotten its places, so its text is read again.

use std::fmt;

use gapless_common::document::{Document, Place, Problems, Table};

use super::{CheckProblem, Report};

impl Report {
    /// The problems with file, line and column; `None` where there are none. `toml` is the text that the
    /// configuration was read from.
    #[must_use]
    pub fn located(&self, file: &str, toml: &str) -> Option<Problems> {
        let document = Document::parse(toml);
        let root = document.root();
        for problem in &self.problems {
            document.report(place(&root, problem).unwrap_or(root.place()), problem.to_string());
        }
        document.finish(file, Some(())).err()
    }
}

/// The budget, the bus, or the interval of the device; the device where its interval stands at the bus.
fn place(root: &Table<'_>, problem: &CheckProblem) -> Option<Place> {
    let buses = root.tables("bus");
    match problem {
        CheckProblem::BusOverloaded { bus, .. } => named(&buses, bus).map(Table::place),
        CheckProblem::BudgetTooSmall { .. } => root.table("uplink")?.place_of("daily_budget"),
        CheckProblem::DeviceTooSlow { device, .. } | CheckProblem::NoPlan { device, .. } => {
            let devices: Vec<Table<'_>> = buses.iter().flat_map(|bus| bus.tables("device")).collect();
            named(&devices, device).map(|table| table.place_of("interval").unwrap_or(table.place()))
        }
    }
}

fn named<'a, 'd>(tables: &'a [Table<'d>], id: &impl fmt::Display) -> Option<&'a Table<'d>> {
    let id = id.to_string();
    tables.iter().find(|table| table.text("id").is_some_and(|found| found.value == id))
}
