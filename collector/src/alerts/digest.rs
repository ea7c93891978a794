//! What is told at once: what comes together is one message, so that a region that goes is no storm.

use gapless_common::time::Timestamp;

/// A message waits until nothing has been added to it for so long, in ms: the rounds over all devices take a minute.
pub const QUIET_MS: i64 = 15_000;
/// But no longer than this, in ms, so that a fleet that is never quiet is told of.
pub const MOST_MS: i64 = 180_000;
/// What is more than so many alerts is told as a digest.
pub const SINGLE_MAX: usize = 5;

/// Whether what was gathered from `first` to `last` goes out now.
#[must_use]
pub const fn is_closed(first: Timestamp, last: Timestamp, now: Timestamp) -> bool {
    now.since_ms(last) >= QUIET_MS || now.since_ms(first) >= MOST_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_waits_for_quiet_and_not_for_ever() {
        let at = |seconds: i64| Timestamp(seconds * 1_000);
        let rows = [
            (0, 0, 14, false),
            (0, 0, 15, true),
            (0, 60, 74, false),
            (0, 60, 75, true),
            (0, 179, 179, false),
            (0, 180, 180, true),
            // The clock was set back: it waits until it is there again.
            (100, 100, 50, false),
        ];
        for (first, last, now, expected) in rows {
            assert_eq!(is_closed(at(first), at(last), at(now)), expected, "{first} {last} {now}");
        }
    }
}
