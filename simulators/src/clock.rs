//! The one place of the simulators that reads clocks. Decides nothing.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// One instant on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_MONOTONIC` in nanoseconds: what pacing and silence are measured with.
    pub mono_ns: u64,
    /// `CLOCK_REALTIME` in milliseconds since 1970, UTC: what true values are functions of.
    pub wall_ms: i64,
}

/// Reads both clocks, the monotonic one first.
#[must_use]
pub fn now() -> Now {
    let mono = clock_gettime(ClockId::Monotonic);
    let wall = clock_gettime(ClockId::Realtime);
    Now { mono_ns: nanoseconds(mono), wall_ms: wall.tv_sec * 1_000 + wall.tv_nsec / 1_000_000 }
}

/// `CLOCK_MONOTONIC` alone, in nanoseconds.
#[must_use]
pub fn mono_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

fn nanoseconds(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap_or(0)
}

/// The time from `now_ns` until `then_ns`, zero where that has passed, as `ppoll` takes it.
#[must_use]
pub fn until(then_ns: u64, now_ns: u64) -> Timespec {
    let wait = Duration::from_nanos(then_ns.saturating_sub(now_ns));
    Timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: wait.subsec_nanos().into(),
    }
}
