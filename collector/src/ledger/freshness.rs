//! What a slot is called that nothing is known of yet: late while its reading may still be on its way, unknown
//! after that. Computed when somebody asks, never stored; a gap is never made here.

use gapless_common::time::Timestamp;

/// Milliseconds that are allowed on top, for links and restarts.
pub const GRACE_BASE_MS: i64 = 60_000;

/// How an absent slot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// Its reading may still be on its way.
    Late,
    /// The agent has not said anything about it for longer than its rhythm explains.
    Unknown,
}

/// How long after its instant a slot is late at most: two rounds of flush and poll, and a minute.
#[must_use]
pub const fn grace_ms(flush_ms: u32, interval_ms: i64) -> i64 {
    2 * (flush_ms as i64 + interval_ms) + GRACE_BASE_MS
}

/// The first instant whose absent slot is late and not yet unknown.
#[must_use]
pub const fn late_from(now: Timestamp, flush_ms: u32, interval_ms: i64) -> Timestamp {
    now.plus_ms(-grace_ms(flush_ms, interval_ms))
}

/// How an absent slot at `at` stands.
#[must_use]
pub fn absence(at: Timestamp, now: Timestamp, flush_ms: u32, interval_ms: i64) -> Absence {
    if at >= late_from(now, flush_ms, interval_ms) { Absence::Late } else { Absence::Unknown }
}
