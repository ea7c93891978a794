//! When a message is tried again that a receiver has not accepted: until it has, however long that takes, and seldom where
//! trying more often could not help.

use gapless_common::time::Timestamp;

/// First and longest pause after a failure that passes, in ms; doubled each time.
pub const BACK_OFF_FIRST_MS: i64 = 5_000;
/// See [`BACK_OFF_FIRST_MS`].
pub const BACK_OFF_MAX_MS: i64 = 900_000;
/// Pause after the receiver has refused the message itself, in ms: somebody must look.
pub const REFUSED_MS: i64 = 3_600_000;
/// Pause after it has refused who sends, in ms: many a receiver locks whoever knocks again and again with a wrong password.
pub const CREDENTIALS_MS: i64 = 3_600_000;

/// What a receiver did with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It took it: it is never sent again.
    Accepted,
    /// It is away or busy, and, where it says so, wants no other try within so many ms.
    Passing {
        /// See there.
        after_ms: Option<i64>,
        /// For people.
        why: String,
    },
    /// It does not want this message, or not at this address.
    Refused(String),
    /// It does not know the sender, or not this password.
    Credentials(String),
}

/// Tries that failed in a row, and when the next one is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// Failures in a row, this one included.
    pub failures: u32,
    /// When it is tried again.
    pub at: Timestamp,
}

/// When the message is tried again after `failures` and this answer; `None` where it was accepted.
#[must_use]
pub fn next(failures: u32, answer: &Answer, now: Timestamp) -> Option<Next> {
    let failures = failures.saturating_add(1);
    let doubled = BACK_OFF_FIRST_MS.saturating_mul(1 << (failures - 1).min(16)).min(BACK_OFF_MAX_MS);
    let pause_ms = match answer {
        Answer::Accepted => return None,
        Answer::Passing { after_ms, .. } => doubled.max(after_ms.unwrap_or_default().min(REFUSED_MS)),
        Answer::Refused(_) => REFUSED_MS,
        Answer::Credentials(_) => CREDENTIALS_MS,
    };
    Some(Next { failures, at: now.plus_ms(pause_ms) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_what_could_not_help_is_done_seldom() {
        let passing = |after_ms| Answer::Passing { after_ms, why: String::new() };
        let rows = [
            (0, passing(None), Some(5)),
            (1, passing(None), Some(10)),
            (5, passing(None), Some(160)),
            (50, passing(None), Some(900)),
            (u32::MAX, passing(None), Some(900)),
            (0, passing(Some(120_000)), Some(120)),
            (0, passing(Some(i64::MAX)), Some(3_600)),
            (7, passing(Some(1_000)), Some(640)),
            (0, Answer::Refused(String::new()), Some(3_600)),
            (9, Answer::Credentials(String::new()), Some(3_600)),
            (9, Answer::Accepted, None),
        ];
        for (failures, answer, expected) in rows {
            let got = next(failures, &answer, Timestamp(0)).map(|next| next.at.0 / 1_000);
            assert_eq!(got, expected, "{failures} {answer:?}");
        }
    }
}
