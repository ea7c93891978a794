//! When a message is tried again that a receiver has not accepted: until it has, however long that takes, and seldom where
//! trying more often could not help. Only what the receiver itself does not want, time and again, is set aside, so that what
//! comes after it is told; that is counted, and shown.

use gapless_common::planted::{self, Bug};
use gapless_common::time::Timestamp;

/// First and longest pause after a failure that passes, in ms; doubled each time.
pub const BACK_OFF_FIRST_MS: i64 = 5_000;
/// See [`BACK_OFF_FIRST_MS`].
pub const BACK_OFF_MAX_MS: i64 = 900_000;
/// Pause after the receiver has refused the message itself, in ms: somebody must look.
pub const REFUSED_MS: i64 = 3_600_000;
/// A message that was refused so many times is set aside.
pub const REFUSALS_MAX: u32 = 4;
/// Pause after it has refused who sends, or nobody takes anything at this address, in ms: many a receiver locks whoever knocks
/// again and again with a wrong password.
pub const SENDER_MS: i64 = 3_600_000;

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
    /// It does not want this very message.
    Refused(String),
    /// Nobody takes messages at this address: the next one would fare no better.
    Address(String),
    /// It does not know the sender, or not this password.
    Credentials(String),
    /// It does not offer what the configuration wants of it, such as STARTTLS or a login.
    Unfit(String),
}

/// Tries of a message that failed, and when the next one is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tries {
    /// Failures in a row, of any kind.
    pub failures: u32,
    /// Of them, how often the receiver did not want it.
    pub refusals: u32,
}

/// What comes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The message is told.
    Told,
    /// It is tried again then; so many tries have failed.
    Again(Tries, Timestamp),
    /// It is not tried any more: the receiver does not want it.
    SetAside,
}

/// What comes of an answer after these tries.
#[must_use]
pub fn next(before: Tries, answer: &Answer, now: Timestamp) -> Next {
    let failures = before.failures.saturating_add(1);
    let refusals = before.refusals.saturating_add(u32::from(matches!(answer, Answer::Refused(_))));
    let doubled = BACK_OFF_FIRST_MS.saturating_mul(1 << (failures - 1).min(16)).min(BACK_OFF_MAX_MS);
    let pause_ms = match answer {
        Answer::Accepted => return Next::Told,
        Answer::Passing { .. } if planted::has(Bug::DeliveryForgotten) => return Next::Told,
        Answer::Refused(_) if refusals >= REFUSALS_MAX => return Next::SetAside,
        Answer::Passing { after_ms, .. } => doubled.max(after_ms.unwrap_or_default().min(REFUSED_MS)),
        Answer::Refused(_) => REFUSED_MS,
        Answer::Address(_) | Answer::Credentials(_) | Answer::Unfit(_) => SENDER_MS,
    };
    Next::Again(Tries { failures, refusals }, now.plus_ms(pause_ms))
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
            (9, Answer::Address(String::new()), Some(3_600)),
            (9, Answer::Accepted, None),
        ];
        for (failures, answer, expected) in rows {
            let got = match next(Tries { failures, refusals: 0 }, &answer, Timestamp(0)) {
                Next::Again(tries, at) => {
                    assert_eq!(tries.failures, failures.saturating_add(1));
                    Some(at.0 / 1_000)
                }
                Next::Told | Next::SetAside => None,
            };
            assert_eq!(got, expected, "{failures} {answer:?}");
        }
    }

    #[test]
    fn only_what_the_receiver_itself_does_not_want_is_set_aside() {
        let refused = Answer::Refused(String::new());
        let others = [
            Answer::Passing { after_ms: None, why: String::new() },
            Answer::Address(String::new()),
            Answer::Credentials(String::new()),
            Answer::Unfit(String::new()),
        ];
        let mut tries = Tries::default();
        for refusal in 1..REFUSALS_MAX {
            for other in &others {
                // Neither an hour nor a year of these is a refusal, and none of them takes one back.
                let Next::Again(after, _) = next(Tries { failures: u32::MAX, ..tries }, other, Timestamp(0))
                else {
                    panic!("{other:?}")
                };
                assert_eq!(after.refusals, tries.refusals, "{other:?}");
            }
            let Next::Again(after, _) = next(tries, &refused, Timestamp(0)) else { panic!("{refusal}") };
            assert_eq!(after, Tries { failures: refusal, refusals: refusal });
            tries = after;
        }
        assert_eq!(next(tries, &refused, Timestamp(0)), Next::SetAside);
        assert_eq!(next(tries, &Answer::Accepted, Timestamp(0)), Next::Told);
    }
}
