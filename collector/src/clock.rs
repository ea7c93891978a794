//! The one place that reads the wall clock.

use gapless_common::time::Timestamp;

/// Now, by the wall clock of this machine.
#[expect(clippy::disallowed_types, reason = "this is the one place")]
#[must_use]
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
