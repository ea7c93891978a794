//! Cycle time at saturation against the least that the wire allows, silent intervals counted by the line itself,
//! and what one dead unit of ten does to the other nine. `GAPLESS_BENCH_SECONDS` sets the length of each row.
//!
//! The line is a paced pty: this measures our timing, and nothing of an adapter.
#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::time::Duration;

use gapless_agent::config::Parity;
use gapless_tests::line::Setup;

/// Share of the wire limit to reach.
const EFFICIENCY_LEAST: f64 = 0.97;

fn main() -> anyhow::Result<()> {
    let seconds =
        std::env::var("GAPLESS_BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let span = Duration::from_secs(seconds);
    println!(
        "line         units   limit ms   cycle ms   of limit   violations   kept   unsure   least gap µs"
    );
    let mut met = true;
    let lines =
        [(9_600, Parity::None), (19_200, Parity::Even), (38_400, Parity::None), (115_200, Parity::None)];
    for (baud, parity) in lines {
        for units in [1, 10] {
            let setup = Setup { baud, parity, units, interval_ms: 10, timeout_ms: 1_000, dead: None };
            met &= saturation(&setup, span)?;
        }
    }
    met &= dead_unit(span * 2)?;
    anyhow::ensure!(met, "short of the aims: {EFFICIENCY_LEAST} of the limit, no violation, no slot missed");
    Ok(())
}

fn saturation(setup: &Setup, span: Duration) -> anyhow::Result<bool> {
    let outcome = setup.run(span)?;
    let (limit, cycle) = (setup.poll_ms_least() * f64::from(setup.units), outcome.cycle_ms());
    let line = &outcome.line;
    println!(
        "{:<12} {:>5} {:>10.1} {:>10.1} {:>9.1}% {:>12} {:>6} {:>8} {:>14}",
        setup.name(),
        setup.units,
        limit,
        cycle,
        100.0 * limit / cycle,
        line.violations,
        line.gaps_kept,
        line.gaps_unsure,
        line.min_silence_us.unwrap_or(0),
    );
    Ok(limit / cycle >= EFFICIENCY_LEAST && line.violations == 0)
}

fn dead_unit(span: Duration) -> anyhow::Result<bool> {
    let (baud, parity, timeout_ms) = (38_400, Parity::None, 300);
    let setup = Setup { baud, parity, units: 10, interval_ms: 1_000, timeout_ms, dead: Some(10) };
    let outcome = setup.run(span)?;
    let missed: u32 = (0..9).map(|device| outcome.missed(device)).sum();
    let fewest = (0..9).map(|device| outcome.answers(device).count()).min().unwrap_or(0);
    let latest = (0..9).map(|device| outcome.latest_ms(device)).max().unwrap_or(0);
    let totals = outcome.totals();
    println!(
        "one dead unit of ten, {} at 1 s for {} s: {missed} slots of the other nine missed, fewest polls {fewest}, \
         latest answer {latest} ms into its slot, {} time-outs, {} violations",
        setup.name(),
        span.as_secs(),
        totals.timed_out,
        outcome.line.violations,
    );
    Ok(missed == 0 && outcome.line.violations == 0)
}
