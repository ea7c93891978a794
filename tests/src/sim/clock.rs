//! The clocks of a simulated gateway: true time in, what its kernel would say out.

use gapless_agent::clock::Now;
use gapless_common::time::Timestamp;

/// The instant at which every run begins, in ms since 1970: 2026-09-01T00:00:00Z.
pub const BEGAN_MS: i64 = 1_788_220_800_000;

/// Nanoseconds of a millisecond.
pub const MS_NS: u64 = 1_000_000;

/// The true instant, `at_ms` into the run.
#[must_use]
pub fn truth(at_ms: u64) -> Timestamp {
    Timestamp(BEGAN_MS + signed(at_ms))
}

/// A time within a run as a signed number; runs last weeks.
#[must_use]
pub fn signed(ms: u64) -> i64 {
    i64::try_from(ms).expect("a run is shorter than 2^63 ms")
}

/// One gateway's clocks.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// When the machine started, in ms of the run.
    pub booted_ms: u64,
    /// How far the wall clock is ahead of the truth.
    pub ahead_ms: i64,
    /// How fast it gains, in parts per million.
    pub drift_ppm: i64,
    /// Since when it drifts, in ms of the run.
    pub drifts_from_ms: u64,
    /// Whether it counts as synchronised.
    pub is_set: bool,
}

impl Clock {
    /// The clocks of a machine that starts now.
    #[must_use]
    pub const fn booted(at_ms: u64, ahead_ms: i64, is_set: bool, drift_ppm: i64) -> Self {
        Self { booted_ms: at_ms, ahead_ms, drift_ppm, drifts_from_ms: at_ms, is_set }
    }

    /// A look at the clocks at `at_ns` of the run.
    #[must_use]
    pub fn look(&self, at_ns: u64) -> Now {
        let at_ms = at_ns / MS_NS;
        let wall = truth(at_ms).plus_ms(self.ahead_ms + self.drifted_ms(at_ms));
        Now { boot_ms: at_ms.saturating_sub(self.booted_ms), wall, wall_set: self.is_set }
    }

    /// A time service sets the wall clock, `ahead_ms` off the truth.
    pub const fn set(&mut self, at_ms: u64, ahead_ms: i64) {
        (self.ahead_ms, self.drifts_from_ms, self.is_set) = (ahead_ms, at_ms, true);
    }

    fn drifted_ms(&self, at_ms: u64) -> i64 {
        signed(at_ms.saturating_sub(self.drifts_from_ms)) * self.drift_ppm / 1_000_000
    }
}
