//! The life of a gap: open → requested → filled, or no data → waiting → requested → … → abandoned; a person opens it
//! again at any time. One that nobody can be asked for is open as long as its schedule lasts, since what is missing may come
//! late, and abandoned then.
//!
//! Contract: [`Life::new`] when the gap is proven, or [`Life::sourceless`] where nobody can be asked for it;
//! [`Life::asked`] when a request for it goes out, [`Life::answered`] when its source says that nothing comes, and
//! [`Life::unasked`] when it is due and there is nobody to ask; a gap that is filled has no life any more. What is cut
//! off a gap takes its life along.

use gapless_common::time::Timestamp;

use super::Policy;

/// First pause after a passing failure, in ms; doubled each time.
const RETRY_FIRST_MS: i64 = 10_000;
/// Longest pause after a passing failure, in ms.
const RETRY_MAX_MS: i64 = 300_000;
/// So many failures in a row are an attempt that brought nothing: what keeps failing is asked as seldom as what has
/// nothing.
const FAILURES_MAX: u32 = 12;

/// Where a gap stands that is not filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Its source was not asked yet, or it has none.
    Open,
    /// A request is under way.
    Requested,
    /// The source had nothing, or could not be asked: it is asked again.
    Waiting,
    /// Every attempt of the schedule brought nothing.
    Abandoned,
}

/// See the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Life {
    /// Where it stands.
    pub phase: Phase,
    /// Attempts that brought nothing.
    pub attempts: u32,
    /// Passing failures since the last attempt.
    pub failures: u32,
    /// When something is due: the next request, or, while one is under way, its end, or, where nobody can be asked, that it is
    /// given up. `None` where nothing will be.
    pub next: Option<Timestamp>,
    /// The request under way.
    pub request: Option<u64>,
    /// Nobody can be asked for it. Where it is abandoned: that is why.
    pub sourceless: bool,
}

/// What a source says that has nothing for a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It looked, and has no data there.
    NoData,
    /// It could not look: no answer, an error, a time that ran out.
    Failed,
}

impl Life {
    /// Of a gap that was proven at `now`.
    #[must_use]
    pub const fn new(now: Timestamp) -> Self {
        let (phase, next) = (Phase::Open, Some(now));
        Self { phase, attempts: 0, failures: 0, next, request: None, sourceless: false }
    }

    /// Of a gap that was proven at `now`, or grew then, and that nobody can be asked for: it stays open for `open_ms`, see
    /// [`Policy::open_ms`].
    #[must_use]
    pub const fn sourceless(now: Timestamp, open_ms: i64) -> Self {
        Self { next: Some(now.plus_ms(open_ms)), sourceless: true, ..Self::new(now) }
    }

    /// Whether two gaps beside each other have the same past, so that they can be one.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        // Of one that is open this is not its past, but what its device is today.
        let why = |life: &Self| life.sourceless && life.phase == Phase::Abandoned;
        let past = |life: &Self| (life.phase, life.attempts, life.failures, life.request, why(life));
        past(self) == past(other)
    }

    /// Of a gap that is filled: nothing is due any more.
    #[must_use]
    pub const fn ended(self) -> Self {
        Self { phase: Phase::Open, failures: 0, next: None, request: None, sourceless: false, ..self }
    }

    /// A request went out that ends by `until`.
    #[must_use]
    pub const fn asked(self, request: u64, until: Timestamp) -> Self {
        Self { phase: Phase::Requested, next: Some(until), request: Some(request), sourceless: false, ..self }
    }

    /// The request under way is carried out; what it brought arrives until `until`.
    #[must_use]
    pub const fn carried_out(self, until: Timestamp) -> Self {
        Self { next: Some(until), ..self }
    }

    /// The request is taken back, since its device is not asked any more: due once it is asked again. No attempt was made.
    #[must_use]
    pub const fn taken_back(self, now: Timestamp) -> Self {
        Self { phase: Phase::Waiting, next: Some(now), request: None, ..self }
    }

    /// The request is over, and the gap is still there.
    #[must_use]
    pub fn answered(self, answer: Answer, now: Timestamp, policy: &Policy) -> Self {
        let failures = self.failures.saturating_add(1);
        if answer == Answer::Failed && failures < FAILURES_MAX {
            let pause = RETRY_FIRST_MS.saturating_mul(1 << (failures - 1)).min(RETRY_MAX_MS);
            let next = Some(now.plus_ms(pause));
            return Self { phase: Phase::Waiting, failures, next, request: None, ..self };
        }
        let attempts = self.attempts.saturating_add(1);
        let next = policy.next_attempt(attempts, now);
        let phase = if next.is_some() { Phase::Waiting } else { Phase::Abandoned };
        Self { phase, attempts, failures: 0, next, request: None, ..self }
    }

    /// It is due, lasts until `to` so far, and nobody can be asked for it. One that could be asked for before
    /// goes on for `open_ms` from where it would have been asked, or from `to` on.
    #[must_use]
    pub fn unasked(self, to: Timestamp, now: Timestamp, open_ms: i64) -> Self {
        let due = self.next.unwrap_or(now);
        let until = if self.sourceless { due } else { due.max(to).plus_ms(open_ms) };
        if until > now {
            return Self { failures: 0, next: Some(until), request: None, sourceless: true, ..self };
        }
        let phase = Phase::Abandoned;
        Self { phase, failures: 0, next: None, request: None, sourceless: true, ..self }
    }

    /// A person wants it asked for now; the schedule goes on from where it was. Only a gap that waits can be.
    #[must_use]
    pub fn due_now(self, now: Timestamp) -> Option<Self> {
        matches!(self.phase, Phase::Open | Phase::Waiting).then_some(Self { next: Some(now), ..self })
    }

    /// A person wants its schedule to begin anew. Not while a request is under way: what it brings would be nobody's.
    #[must_use]
    pub fn reopened(self, now: Timestamp) -> Option<Self> {
        (self.phase != Phase::Requested).then(|| Self::new(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;

    /// Answers `life` with nothing whenever it is due until nothing is due any more. Returns the instants.
    fn ask_in_vain(mut life: Life, policy: &Policy) -> (Life, Vec<i64>) {
        let mut asked = Vec::new();
        while let Some(now) = life.next {
            asked.push(now.0);
            life = life.asked(7, now.plus_ms(1_000)).answered(Answer::NoData, now, policy);
        }
        (life, asked)
    }

    #[test]
    fn a_gap_without_data_is_asked_for_by_the_schedule_and_abandoned() {
        let policy = Policy::default();
        let (life, asked) = ask_in_vain(Life::new(Timestamp(5)), &policy);
        assert_eq!(asked, [5, 5 + 3 * DAY_MS, 5 + 17 * DAY_MS, 5 + 45 * DAY_MS]);
        assert_eq!((life.phase, life.attempts, life.request), (Phase::Abandoned, 4, None));
        assert_eq!(life.due_now(Timestamp(9)), None, "what was abandoned is opened again");
        assert_eq!(
            ask_in_vain(life.reopened(Timestamp(9)).unwrap(), &policy).1.len(),
            4,
            "all of it once more"
        );
    }

    #[test]
    fn a_gap_is_opened_again_at_any_time_but_while_it_is_asked_for() {
        let open = Life::new(Timestamp(0));
        let asked = open.asked(1, Timestamp(9));
        let waiting = asked.answered(Answer::NoData, Timestamp(9), &Policy::default());
        let failed = asked.answered(Answer::Failed, Timestamp(9), &Policy::default());
        let abandoned = Life { phase: Phase::Abandoned, attempts: 4, next: None, ..open };
        assert_eq!(Life::sourceless(Timestamp(0), 9).reopened(Timestamp(20)), Some(Life::new(Timestamp(20))));
        let anew = Some(Life::new(Timestamp(20)));
        for (life, expected) in
            [(open, anew), (waiting, anew), (failed, anew), (abandoned, anew), (asked, None)]
        {
            assert_eq!(life.reopened(Timestamp(20)), expected, "{life:?}");
        }
    }

    #[test]
    fn a_passing_failure_is_tried_again_soon_and_costs_no_attempt() {
        let policy = Policy::default();
        let (mut life, mut pauses) = (Life::new(Timestamp(0)), Vec::new());
        for _ in 0..11 {
            let now = life.next.unwrap();
            life = life.asked(1, now).answered(Answer::Failed, now, &policy);
            pauses.push(life.next.unwrap().since_ms(now) / 1_000);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300, 300, 300, 300, 300]);
        assert_eq!((life.phase, life.attempts), (Phase::Waiting, 0));
        let now = life.next.unwrap();
        let life = life.asked(1, now).answered(Answer::Failed, now, &policy);
        assert_eq!((life.attempts, life.failures), (1, 0), "what keeps failing waits for its next attempt");
        assert_eq!(life.next, Some(now.plus_ms(3 * DAY_MS)));
    }

    #[test]
    fn what_nobody_can_be_asked_for_is_given_up_when_its_schedule_would_have_ended() {
        let policy = Policy::default();
        let (now, end) = (Timestamp(5), Timestamp(5 + 45 * DAY_MS));
        let open = Life::sourceless(now, policy.open_ms(0, 0));
        assert_eq!((open.phase, open.next), (Phase::Open, Some(end)));
        assert_eq!(
            open.unasked(now, Timestamp(end.0 - 1), policy.open_ms(0, 0)),
            open,
            "not a moment sooner"
        );
        let over = open.unasked(now, end, policy.open_ms(0, 0));
        assert_eq!((over.phase, over.attempts, over.next), (Phase::Abandoned, 0, None));
        assert!(!over.is_like(&Life { sourceless: false, ..over }), "why it was given up is its past");
        // One that was asked for twice before its device lost its memory.
        let mut life = Life::new(now);
        for _ in 0..2 {
            let due = life.next.unwrap();
            life = life.asked(1, due).answered(Answer::NoData, due, &policy);
        }
        let due = life.next.unwrap();
        let left = life.unasked(now, due, policy.open_ms(life.attempts, 0));
        assert_eq!((left.phase, left.attempts, left.next), (Phase::Waiting, 2, Some(end)));
        assert_eq!(left.unasked(now, end, policy.open_ms(2, 0)).phase, Phase::Abandoned);
        // Long after it had been due; one that has grown up to now has its time from there on.
        let late = end.plus_ms(1);
        assert_eq!(life.unasked(now, late, policy.open_ms(2, 0)).phase, Phase::Abandoned);
        let grown = life.unasked(late, late, policy.open_ms(2, 0));
        assert_eq!((grown.phase, grown.next), (Phase::Waiting, Some(late.plus_ms(policy.open_ms(2, 0)))));
    }

    #[test]
    fn a_person_has_it_asked_for_now_without_losing_its_place() {
        let policy = Policy::default();
        let waiting =
            Life::new(Timestamp(0)).asked(1, Timestamp(9)).answered(Answer::NoData, Timestamp(9), &policy);
        let now = waiting.due_now(Timestamp(20)).unwrap();
        assert_eq!((now.next, now.attempts), (Some(Timestamp(20)), 1));
        assert_eq!(waiting.asked(2, Timestamp(30)).due_now(Timestamp(20)), None, "it is being asked for");
    }
}
