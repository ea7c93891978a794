//! Each planted bug is caught by the simulation within a hundred seeds. Built with the feature `planted` only, which
//! `./dev test` does in a step of its own.
#![cfg(feature = "planted")]
#![expect(clippy::print_stdout, reason = "the hunt says what caught what")]

use gapless_common::planted::Bug;
use gapless_tests::sim::series::hunt;

/// Seeds within which a bug must be caught.
const SEEDS_MAX: u64 = 100;

#[test]
fn every_planted_bug_is_caught() {
    let caught = hunt(&Bug::ALL, SEEDS_MAX);
    for one in &caught {
        println!("{:?}: {:?}", one.bug, one.by.as_ref().map(|(seeds, finding)| (seeds, finding.invariant)));
    }
    let missed: Vec<Bug> = caught.iter().filter(|one| one.by.is_none()).map(|one| one.bug).collect();
    assert!(missed.is_empty(), "not caught, so the simulation has a hole: {missed:?}");
}
