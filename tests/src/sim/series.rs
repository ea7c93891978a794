//! Many runs, side by side on the machine's cores, and the page about them.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::heap::Held;
use super::oracle::Finding;
use super::plan::Scale;
use super::sometimes::{Rare, Sometimes};
use super::{Outcome, run};

/// Seeds whose findings are kept; the others are only counted.
const FAILURES_MAX: usize = 200;

/// What came of a series.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Runs.
    pub runs: u64,
    /// Runs that found something.
    pub failed: u64,
    /// Of these the first ones: seed and findings.
    pub failures: Vec<(u64, Vec<Finding>)>,
    /// What was reached.
    pub sometimes: Sometimes,
    /// How long they were for those in them, in ms.
    pub simulated_ms: u64,
    /// Answers of devices.
    pub answers: u64,
    /// The most that a process held of memory.
    pub held: Held,
}

/// How a planted bug was caught.
#[cfg(feature = "planted")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caught {
    /// The bug.
    pub bug: gapless_common::planted::Bug,
    /// After how many seeds, and by which invariant; `None` where it was not.
    pub by: Option<(u64, Finding)>,
}

/// Plants each of `bugs` in turn and runs seeds until one finds what it does not find without the bug, `most` at most;
/// side by side on the machine's cores.
#[cfg(feature = "planted")]
#[must_use]
pub fn hunt(bugs: &[gapless_common::planted::Bug], most: u64) -> Vec<Caught> {
    let (next, caught) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let take = || usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
                while let Some(&bug) = bugs.get(take()) {
                    let by = (0..most).find_map(|seed| Some((seed + 1, finds_only_with(bug, seed)?)));
                    caught.lock().expect("a hunt does not panic").push(Caught { bug, by });
                }
            });
        }
    });
    let mut caught = caught.into_inner().expect("a hunt does not panic");
    caught.sort_by_key(|caught| caught.bug);
    caught
}

#[cfg(feature = "planted")]
fn finds_only_with(bug: gapless_common::planted::Bug, seed: u64) -> Option<Finding> {
    use gapless_common::planted::plant;
    plant(Some(bug));
    let found = run(seed, Scale::Hours).findings.into_iter().next();
    plant(None);
    found.filter(|_| run(seed, Scale::Hours).findings.is_empty())
}

/// A run of a seed; one that panics has found that.
fn run_or_panic(seed: u64, scale: Scale) -> Outcome {
    std::panic::catch_unwind(|| run(seed, scale)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no word of it");
        let finding = Finding { invariant: "no panic", what: text.to_owned() };
        Outcome { findings: vec![finding], ..Outcome::default() }
    })
}

impl Series {
    /// Runs the seeds `first..first + count`.
    #[must_use]
    pub fn of(first: u64, count: u64, scale: Scale) -> Self {
        let (next, series) = (AtomicU64::new(first), Mutex::new(Self::default()));
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= first + count {
                            return;
                        }
                        let outcome = run_or_panic(seed, scale);
                        series.lock().expect("nothing panics under the lock").add(seed, outcome);
                    }
                });
            }
        });
        let mut series = series.into_inner().expect("nothing panics under the lock");
        series.failures.sort_by_key(|(seed, _)| *seed);
        series
    }

    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.runs += 1;
        self.sometimes.add(&outcome.sometimes);
        self.simulated_ms += outcome.simulated_ms;
        self.answers += outcome.answers;
        self.held = self.held.or(outcome.held);
        if !outcome.findings.is_empty() {
            self.failed += 1;
            if self.failures.len() < FAILURES_MAX {
                self.failures.push((seed, outcome.findings));
            }
        }
    }

    /// What failed, a line each, with the command that shows it again.
    #[must_use]
    pub fn failures(&self, scale: Scale) -> String {
        let mut text = String::new();
        for (seed, findings) in &self.failures {
            let _ = writeln!(text, "seed {seed} (again: ./dev sim --seed {seed}{})", scale.flag());
            for finding in findings.iter().take(3) {
                let _ = writeln!(text, "  {}: {}", finding.invariant, finding.what);
            }
        }
        text
    }

    /// The page.
    #[must_use]
    pub fn page(&self, took: Duration) -> String {
        let hours = self.simulated_ms / 3_600_000;
        let per_second = self.simulated_ms / 1_000 / took.as_secs().max(1);
        let mut text = format!(
            "{} runs, {} failed; {hours} simulated hours ({} years), {} answers of devices\n{} s, {per_second} simulated seconds a second\nmemory held at most, KiB: {} of an agent, {} of the collector\n\nbad luck that struck\n",
            self.runs,
            self.failed,
            hours / 8_766,
            self.answers,
            took.as_secs(),
            self.held.agent_bytes >> 10,
            self.held.center_bytes >> 10,
        );
        for (kind, count) in &self.sometimes.struck {
            let _ = writeln!(text, "  {count:>9}  {kind:?}");
        }
        text.push_str("\nsometimes\n");
        for rare in Rare::ALL {
            let count = self.sometimes.reached.get(&rare).copied().unwrap_or(0);
            let _ = writeln!(text, "  {count:>9}  {rare:?}");
        }
        text
    }
}
