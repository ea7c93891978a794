//! Many runs, side by side on the machine's cores, and the page about them.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::oracle::Finding;
use super::plan::Scale;
use super::sometimes::{Rare, Sometimes};
use super::{Outcome, run};

/// Seeds whose findings are kept; the others are only counted.
const FAILURES_MAX: usize = 10;

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
}

impl Series {
    /// Runs the seeds `first..first + count`, ending early after `FAILURES_MAX` failures.
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
                        let outcome = run(seed, scale);
                        let mut series = series.lock().expect("a run that panics ends the series");
                        series.add(seed, outcome);
                        if series.failures.len() >= FAILURES_MAX {
                            return;
                        }
                    }
                });
            }
        });
        let mut series = series.into_inner().expect("a run that panics ends the series");
        series.failures.sort_by_key(|(seed, _)| *seed);
        series
    }

    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.runs += 1;
        self.sometimes.add(&outcome.sometimes);
        self.simulated_ms += outcome.simulated_ms;
        self.answers += outcome.answers;
        if !outcome.findings.is_empty() {
            self.failed += 1;
            self.failures.push((seed, outcome.findings));
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
            "{} runs, {} failed; {hours} simulated hours ({} years), {} answers of devices\n{} s, {per_second} simulated seconds a second\n\nbad luck that struck\n",
            self.runs,
            self.failed,
            hours / 8_766,
            self.answers,
            took.as_secs(),
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
