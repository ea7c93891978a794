//! What a source says of its own count: so many calls of a limit are left until an instant. Pure.

use gapless_common::time::Timestamp;

/// No longer ahead than this is believed: the clock of the source may be wrong, and ours may have been set back since.
pub const UNTIL_MS_MAX: i64 = 86_400_000;

/// See the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    limit: u32,
    left: u32,
    until: Timestamp,
}

impl Quota {
    /// As a source says it after it said what was `before`. Where it does not say its limit, that is the most it has been known
    /// to leave, with the call that was answered.
    #[must_use]
    pub fn said(before: Option<Self>, limit: Option<u32>, left: u32, until: Timestamp) -> Self {
        let known = || before.map_or(0, |before| before.limit).max(left.saturating_add(1));
        Self { limit: limit.unwrap_or_else(known).max(left), left, until }
    }

    /// When there is a call for who may use this share of them, where there is none now; so many are `kept` for others.
    #[must_use]
    pub fn not_before(&self, share: f64, kept: usize, now: Timestamp) -> Option<Timestamp> {
        if self.until <= now || self.until > now.plus_ms(UNTIL_MS_MAX) {
            return None;
        }
        let room = super::budget::room(self.limit, share);
        let used = usize::try_from(self.limit - self.left).unwrap_or(usize::MAX);
        (used.saturating_add(kept) >= room).then_some(self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_urgent_waits_as_what_a_source_leaves_runs_out() {
        let at = Timestamp;
        // Limit, left, share, kept for others; whether it waits.
        let rows = [
            (Some(10), 6, 0.5, 0, false),
            (Some(10), 5, 0.5, 0, true),
            (Some(10), 6, 0.5, 1, true),
            (Some(10), 1, 1.0, 0, false),
            (Some(10), 0, 1.0, 0, true),
            // More than its limit is left: it is the limit that is wrong.
            (Some(10), 12, 0.5, 0, false),
            (None, 9, 0.5, 0, false),
            (None, 0, 1.0, 0, true),
        ];
        for (limit, left, share, kept, waits) in rows {
            let quota = Quota::said(None, limit, left, at(1_000));
            let expected = waits.then_some(at(1_000));
            assert_eq!(quota.not_before(share, kept, at(0)), expected, "{limit:?} {left} {share} {kept}");
            assert_eq!(quota.not_before(share, kept, at(1_000)), None, "there are more");
            assert_eq!(quota.not_before(share, kept, at(-UNTIL_MS_MAX)), None, "the clock was set back");
        }
    }

    #[test]
    fn a_limit_that_is_not_said_is_what_was_left_at_most() {
        let first = Quota::said(None, None, 99, Timestamp(1_000));
        let later = Quota::said(Some(first), None, 49, Timestamp(1_000));
        assert_eq!((first.limit, later.limit), (100, 100));
        assert!(later.not_before(0.5, 0, Timestamp(0)).is_some());
        assert!(later.not_before(0.7, 0, Timestamp(0)).is_none());
    }
}
