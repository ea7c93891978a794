//! The only place of the agent that reads clocks. Decides nothing with what it reads.
//!
//! Three clocks, each for what it is good at: the wall clock names instants, CLOCK_BOOTTIME (which goes on
//! through suspend and is never stepped) orders and paces, CLOCK_MONOTONIC times the silent intervals of a wire.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gapless_common::id::BootId;
use gapless_common::time::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::config::ClockTrust;

/// One look at the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_BOOTTIME in milliseconds.
    pub boot_ms: u64,
    /// The wall clock, right or wrong.
    pub wall: Timestamp,
    /// Whether the wall clock can be trusted to name slots.
    pub wall_set: bool,
}

impl Now {
    /// The instant of an `earlier` look: as it was read where the wall clock was set then, otherwise by the wall clock
    /// of this look and the boot clock between the two.
    #[must_use]
    pub fn instant_of(&self, earlier: Self) -> Timestamp {
        if earlier.wall_set {
            return earlier.wall;
        }
        self.instant_at(earlier.boot_ms)
    }

    /// The instant at which the boot clock showed `boot_ms`, by the wall clock of this look.
    #[must_use]
    pub fn instant_at(&self, boot_ms: u64) -> Timestamp {
        let between = self.boot_ms.saturating_sub(boot_ms);
        self.wall.plus_ms(-i64::try_from(between).unwrap_or(i64::MAX))
    }

    /// When the boot clock was at zero, by the wall clock of this look.
    #[must_use]
    pub fn boot_began(&self) -> Timestamp {
        self.wall.plus_ms(-i64::try_from(self.boot_ms).unwrap_or(i64::MAX))
    }
}

/// CLOCK_MONOTONIC in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// The instant `ns` later.
    #[must_use]
    pub const fn plus_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// The instant a span later.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        self.plus_ns(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Nanoseconds since `earlier`; 0 where that is later.
    #[must_use]
    pub const fn since_ns(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Reads the clocks; clones share what they learned of the wall clock.
#[derive(Debug, Clone)]
pub struct Clock {
    set: Arc<AtomicBool>,
}

/// A pair of reads that took longer than this is read again.
const PAIR_SPREAD_MS_MAX: u64 = 2;

/// How often a pair of reads that was interrupted is tried again.
const PAIR_READS_MAX: usize = 5;

impl Clock {
    /// A clock under `trust`. Where that is left to the kernel, the wall clock counts as set once `adjtimex` says
    /// that it is synchronised, and from then on until the agent ends: a clock that has lost its source drifts
    /// by seconds a day, it does not jump to 1970.
    #[must_use]
    pub fn new(trust: ClockTrust) -> Self {
        Self { set: Arc::new(AtomicBool::new(trust == ClockTrust::Always)) }
    }

    /// Looks at the clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        let (boot_ms, wall) = read_pair();
        Now { boot_ms, wall, wall_set: self.wall_set() }
    }

    fn wall_set(&self) -> bool {
        if self.set.load(Ordering::Relaxed) {
            return true;
        }
        let synchronised = crate::sys::clock_is_synchronised();
        if synchronised {
            self.set.store(true, Ordering::Relaxed);
        }
        synchronised
    }
}

/// The boot clock and the wall clock of one instant. A thread that loses the processor between the two reads
/// would see a clock step that never happened: the reads are repeated then.
fn read_pair() -> (u64, Timestamp) {
    let mut pair = (boot_ms(), wall());
    for _ in 0..PAIR_READS_MAX {
        let after = boot_ms();
        if after.saturating_sub(pair.0) <= PAIR_SPREAD_MS_MAX {
            break;
        }
        pair = (boot_ms(), wall());
    }
    pair
}

/// Reads CLOCK_BOOTTIME, in milliseconds.
#[must_use]
pub fn boot_ms() -> u64 {
    u64::try_from(millis(clock_gettime(ClockId::Boottime))).unwrap_or(0)
}

fn wall() -> Timestamp {
    Timestamp(millis(clock_gettime(ClockId::Realtime)))
}

fn millis(t: Timespec) -> i64 {
    t.tv_sec.saturating_mul(1_000).saturating_add(t.tv_nsec / 1_000_000)
}

/// Reads CLOCK_MONOTONIC.
#[must_use]
pub fn mono() -> Mono {
    let t = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    Mono(seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(t.tv_nsec).unwrap_or(0)))
}

/// Sleeps until `instant`; returns at once where it has passed. Absolute, so that being interrupted or
/// descheduled before the sleep begins does not lengthen it.
pub fn sleep_until(instant: Mono) {
    let until = timespec(instant.0);
    while let Err(rustix::io::Errno::INTR) =
        rustix::thread::clock_nanosleep_absolute(ClockId::Monotonic, &until)
    {}
}

/// Nanoseconds as the kernel takes them.
#[must_use]
pub fn timespec(ns: u64) -> Timespec {
    let seconds = i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX);
    Timespec { tv_sec: seconds, tv_nsec: i64::try_from(ns % 1_000_000_000).unwrap_or(0) }
}

/// The kernel's id of this start of the machine; 0 where there is none.
#[must_use]
pub fn boot_id() -> BootId {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    parse_boot_id(&text)
}

/// The first 8 bytes of a UUID's text, most significant first.
fn parse_boot_id(text: &str) -> BootId {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    BootId(u64::from_str_radix(&digits, 16).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_id_is_the_first_half_of_the_uuid() {
        let rows =
            [("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0\n", 0x0f1e_2d3c_4b5a_6978), ("", 0), ("none", 0xe)];
        for (text, id) in rows {
            assert_eq!(parse_boot_id(text), BootId(id), "{text}");
        }
        assert_eq!(boot_id(), boot_id());
        assert_ne!(boot_id(), BootId(0));
    }

    #[test]
    fn clocks_advance_and_trust_is_kept() {
        let clock = Clock::new(ClockTrust::Always);
        let (before, start) = (clock.now(), mono());
        sleep_until(start.plus_ns(20_000_000));
        let (after, end) = (clock.now(), mono());
        assert!(before.wall_set && after.wall_set);
        assert!(after.boot_ms >= before.boot_ms + 19, "{before:?} {after:?}");
        assert!(end.since_ns(start) >= 20_000_000);
        assert!(before.wall > Timestamp(1_500_000_000_000));
    }
}
