//! The simulation by itself: `./dev sim [SEEDS]` runs a series and prints its page, `./dev sim --seed N` runs one seed and
//! says what it finds. With `GAPLESS_LOG=debug` it tells what happens on the way.

#![expect(clippy::print_stdout, reason = "a bench prints what it saw")]

use std::process::ExitCode;
use std::time::Instant;

use gapless_tests::sim::heap::weigh_with;
use gapless_tests::sim::plan::Scale;
use gapless_tests::sim::run;
use gapless_tests::sim::series::Series;

fn main() -> ExitCode {
    weigh_with(|end| allocation_counter::measure(end).bytes_current.min(0).unsigned_abs());
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let scale = if words.iter().any(|word| word == "--weeks") { Scale::Weeks } else { Scale::Hours };
    let number = |after: &str| {
        let place = words.iter().position(|word| word == after)?;
        words.get(place + 1)?.parse::<u64>().ok()
    };
    if let Some(seed) = number("--seed") {
        tell();
        #[cfg(feature = "planted")]
        gapless_common::planted::plant(named(&words).first().copied());
        return show(seed, scale);
    }
    #[cfg(feature = "planted")]
    if words.iter().any(|word| word == "--planted") {
        return hunt(&words);
    }
    let count = words.first().and_then(|word| word.parse().ok()).unwrap_or(2_000);
    let began = Instant::now();
    let series = Series::of(number("--from").unwrap_or(0), count, scale);
    println!("{}", series.page(began.elapsed()));
    print!("{}", series.failures(scale));
    // Fewer runs, or long ones, need not reach all of them.
    let missing =
        if count >= 2_000 && scale == Scale::Hours { series.sometimes.missing() } else { Vec::new() };
    if !missing.is_empty() {
        println!("never reached: {missing:?}");
    }
    if series.failed == 0 && missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the agents, the collector and the world say, to standard error.
fn tell() {
    let level: Option<tracing::Level> =
        std::env::var("GAPLESS_LOG").ok().and_then(|level| level.parse().ok());
    let Some(level) = level else { return };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .without_time()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
}

/// One seed, twice: it must come out the same.
fn show(seed: u64, scale: Scale) -> ExitCode {
    let (outcome, again) = (run(seed, scale), run(seed, scale));
    println!("seed {seed}: {} s simulated, {} answers", outcome.simulated_ms / 1_000, outcome.answers);
    println!("{:?}", outcome.sometimes);
    for finding in &outcome.findings {
        println!("{}: {}", finding.invariant, finding.what);
    }
    if outcome.digest != again.digest {
        println!("and it is not the same twice: something in it is not drawn from the seed");
    }
    let is_good = outcome.findings.is_empty() && outcome.digest == again.digest;
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Each planted bug, or those that are named, and what caught it.
#[cfg(feature = "planted")]
fn hunt(words: &[String]) -> ExitCode {
    let named = named(words);
    let bugs = if named.is_empty() { &gapless_common::planted::Bug::ALL[..] } else { &named };
    let caught = gapless_tests::sim::series::hunt(bugs, 100);
    for one in &caught {
        match &one.by {
            Some((seeds, finding)) => {
                println!("{:?}: after {seeds} seeds, by `{}`", one.bug, finding.invariant)
            }
            None => println!("{:?}: NOT CAUGHT", one.bug),
        }
    }
    if caught.iter().all(|one| one.by.is_some()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The planted bugs that are named.
#[cfg(feature = "planted")]
fn named(words: &[String]) -> Vec<gapless_common::planted::Bug> {
    let is_named = |bug: &_| words.contains(&format!("{bug:?}"));
    gapless_common::planted::Bug::ALL.into_iter().filter(is_named).collect()
}
