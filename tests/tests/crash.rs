//! A sample of the crash points; `./dev crash` makes all of them. `GAPLESS_CRASH_SEED=N` draws another workload and other
//! cuts, or repeats those of a finding; `GAPLESS_CRASH_CUT=N` makes one cut alone. Those of sled are others each time, as its
//! threads are.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test panics where something is not as it should be, and prints what it cut"
)]

use std::path::Path;

use gapless_agent::outbox::StoreKind;
use gapless_tests::crash::collector::CollectorSubject;
use gapless_tests::crash::outbox::OutboxSubject;
use gapless_tests::crash::recorded::{self, Recorded, Recording, Subject};
use gapless_tests::crash::{Extent, Tally, damage, journal};

const SEED: &str = "GAPLESS_CRASH_SEED";
const CUT: &str = "GAPLESS_CRASH_CUT";

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

fn seed() -> u64 {
    number(SEED).unwrap_or(1)
}

fn extent(images: u64) -> Extent {
    number(CUT).map_or(Extent::Sample(images), Extent::Only)
}

/// Nothing was found, and enough was looked at to find something.
fn check(tally: &Tally, images_min: u64, figures: &[&str]) {
    println!("seed {}\n{tally}", seed());
    assert!(tally.findings.is_empty(), "{SEED}={} repeats it\n{tally}", seed());
    if number(CUT).is_some() {
        return;
    }
    assert!(tally.opened() >= images_min, "only {} images were opened again\n{tally}", tally.opened());
    for figure in figures {
        assert!(tally.counts.get(figure).is_some_and(|&n| n > 0), "the cuts show no {figure}\n{tally}");
    }
}

/// `None` where this machine does not let one process watch another; never in CI, where it has to.
fn record(what: &str, operations: u64) -> Option<Recording> {
    let recorder = Path::new(env!("CARGO_BIN_EXE_gapless-crash"));
    match recorded::record(recorder, what, seed(), operations).unwrap() {
        Recorded::Yes(recording) => Some(recording),
        Recorded::Refused(why) => {
            assert!(std::env::var_os("CI").is_none(), "CI has to let strace work: {why}");
            println!("skipped: this machine does not let one process watch another: {why}");
            None
        }
    }
}

fn check_recorded<S: Subject>(what: &str, subject: &S, operations: u64, images: u64, figures: &[&str]) {
    if let Some(recording) = record(what, operations) {
        let tally = recorded::cut(what, &recording, subject, seed(), extent(images)).unwrap();
        check(&tally, images / 3, figures);
    }
}

const KEPT: &str = "records of the batch being written: kept";
const GONE: &str = "records of the batch being written: gone";

#[test]
fn the_journal_keeps_what_it_called_durable_at_any_cut() {
    let tally = journal::cut(seed(), 1000, extent(150)).unwrap();
    let named = "records named as lost to the budget";
    check(&tally, 50, &["appends refused", "losses told of", named, "records owed again", KEPT, GONE]);
    assert!(tally.cut_points > 2000, "{tally}");
}

#[test]
fn damage_costs_the_journal_what_it_hit_and_is_named() {
    check(&damage::hurt(seed(), extent(800)).unwrap(), 200, &["records lost to one byte"]);
}

#[test]
fn the_journal_on_a_real_disk_keeps_what_it_called_durable_at_any_cut() {
    check_recorded("journal", &OutboxSubject::new(StoreKind::Journal), 150, 40, &[KEPT, GONE]);
}

#[test]
fn sled_keeps_what_it_called_durable_at_any_cut() {
    check_recorded("sled", &OutboxSubject::new(StoreKind::Sled), 60, 90, &[KEPT, GONE]);
}

#[test]
fn the_collector_keeps_what_it_acknowledged_at_any_cut() {
    let figures = ["frames being committed: kept", "frames being committed: gone"];
    check_recorded("collector", &CollectorSubject::new(150), 150, 60, &figures);
}
