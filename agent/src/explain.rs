//! What `gapless-agent check` says of a configuration: per bus the requests that fetch each device's channels, and
//! whether the line can keep the intervals. Pure; a configuration that parses has been checked before.

use std::fmt::Write as _;

use crate::config::{Bus, Config, Device, Link, Serial};
use crate::modbus::plan::{Limits, PlannedRead, ReadPlan};

/// Characters of an RTU request to read: unit, function, address, count, CRC.
const REQUEST_CHARACTERS: u64 = 8;

/// Characters of an RTU answer beside its data: unit, function, byte count, CRC.
const ANSWER_CHARACTERS: u64 = 5;

/// Above this speed the silent interval is fixed (Modbus over Serial Line V1.02, section 2.5.1.1).
const FIXED_SILENCE_BAUD: u32 = 19_200;

/// That interval, in microseconds.
const FIXED_SILENCE_US: u64 = 1_750;

/// The explanation, and whether every bus can keep its intervals.
#[must_use]
pub fn explain(config: &Config) -> (String, bool) {
    let (mut out, mut fits) = (String::new(), true);
    // Writing to a String does not fail.
    let _ = writeln!(out, "site {}, agent {}, to {}", config.site, config.agent, config.uplink.broker);
    for bus in &config.buses {
        let _ = writeln!(out, "\nbus {}: {}", bus.id, bus.link);
        for device in &bus.devices {
            explain_device(&mut out, device);
        }
        fits &= explain_load(&mut out, bus);
    }
    (out, fits)
}

fn explain_device(out: &mut String, device: &Device) {
    let paused = if device.paused { ", paused" } else { "" };
    let profile = device.profile.as_deref().map(|p| format!(" ({p})")).unwrap_or_default();
    let channels = device.channels.len();
    let _ = writeln!(
        out,
        "  {}{profile}: unit {}, every {}, {channels} channels{paused}",
        device.id, device.unit, device.grid.interval
    );
    match plan(device) {
        Ok(plan) => {
            for read in plan.requests() {
                explain_request(out, read);
            }
            if !plan.unlocated().is_empty() {
                let _ =
                    writeln!(out, "    {} channels are located on the device itself", plan.unlocated().len());
            }
        }
        Err(why) => {
            let _ = writeln!(out, "    cannot be read: {why}");
        }
    }
}

fn explain_request(out: &mut String, read: &PlannedRead) {
    let holes: u32 = read.holes().iter().map(|(_, count)| u32::from(*count)).sum();
    let over = if holes == 0 { String::new() } else { format!(", {holes} of them read over") };
    let table = if read.table().is_bits() { "bits" } else { "registers" };
    let function = read.table().read_function();
    let _ = writeln!(out, "    function {function:02}: {} {table} from {}{over}", read.count(), read.start());
}

/// Share of the line that the intervals need.
fn explain_load(out: &mut String, bus: &Bus) -> bool {
    let Link::Serial(line) = &bus.link else { return true };
    let polled = bus.devices.iter().filter(|device| !device.paused);
    let mut permille = 0;
    let mut cycle_us = 0;
    for device in polled {
        let us = poll_us(line, device);
        let interval_us = u64::try_from(device.grid.interval.as_ms()).unwrap_or(1).max(1) * 1_000;
        permille += us * 1_000 / interval_us;
        cycle_us += us;
    }
    let (ms, percent) = (cycle_us / 1_000, permille / 10);
    let _ = writeln!(out, "  one round takes {ms} ms at least; the intervals use {percent} % of the line");
    if permille > 1_000 {
        let _ = writeln!(out, "  ERROR: that cannot fit: ask for longer intervals, or fewer registers");
    }
    permille <= 1_000
}

/// Least time on the wire for one poll: characters, silent intervals, turnaround.
fn poll_us(line: &Serial, device: &Device) -> u64 {
    let Ok(plan) = plan(device) else { return 0 };
    let character_us = u64::from(line.character_bits()) * 1_000_000 / u64::from(line.baud.max(1));
    let silence_us = if line.baud > FIXED_SILENCE_BAUD { FIXED_SILENCE_US } else { character_us * 7 / 2 };
    let pause_us = silence_us.max(u64::from(device.turnaround_ms) * 1_000);
    let each = plan.requests().iter().map(|read| {
        let data = if read.table().is_bits() { read.count().div_ceil(8) } else { read.count() * 2 };
        (REQUEST_CHARACTERS + ANSWER_CHARACTERS + u64::from(data)) * character_us + silence_us + pause_us
    });
    each.sum()
}

fn plan(device: &Device) -> Result<ReadPlan, crate::modbus::plan::PlanError> {
    let limits =
        Limits { max_registers: device.max_registers, max_hole: device.max_hole, ..Limits::default() };
    ReadPlan::new(&device.channels, limits)
}
