//! So many calls in a time, from the first of them on, and the headers that say how many are left.

use gapless_common::time::Timestamp;

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    most: u32,
    per_ms: i64,
    used: u32,
    until: Timestamp,
}

impl Quota {
    /// `most` calls in `per_ms`.
    #[must_use]
    pub const fn new(most: u32, per_ms: i64) -> Self {
        Self { most, per_ms, used: 0, until: Timestamp(0) }
    }

    /// Counts a call at `now`. Returns whether it is allowed.
    pub fn take(&mut self, now: Timestamp) -> bool {
        if self.until <= now {
            (self.used, self.until) = (0, now.plus_ms(self.per_ms));
        }
        self.used += 1;
        self.used <= self.most
    }

    /// What an answer says of it; the instant of its end in seconds since 1970.
    #[must_use]
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        vec![
            ("X-RateLimit-Limit", self.most.to_string()),
            ("X-RateLimit-Remaining", self.most.saturating_sub(self.used).to_string()),
            ("X-RateLimit-Reset", (self.until.0.div_euclid(1_000) + 1).to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_the_first_call_on_and_says_what_is_left() {
        let mut quota = Quota::new(2, 10_000);
        let at = Timestamp;
        let rows = [(5_000, true, "1"), (14_999, true, "0"), (14_999, false, "0"), (15_000, true, "1")];
        for (now, allowed, left) in rows {
            assert_eq!(quota.take(at(now)), allowed, "{now}");
            assert_eq!(quota.headers()[1], ("X-RateLimit-Remaining", left.to_owned()), "{now}");
        }
        assert_eq!(quota.headers()[2].1, "26");
    }
}
