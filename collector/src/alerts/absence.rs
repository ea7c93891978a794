//! How long somebody was there to be heard, where links come and go: time in which nothing could come is held against nobody,
//! and no interruption, however many there are, makes what was silent before begin anew.
//!
//! Pure. Contract: [`present_ms`] or [`present_since`] with the times of absence in the order of their begin.

use gapless_common::time::Timestamp;

/// Who is back may be so long with what it has to say first, in ms.
pub const RETURN_MS: i64 = 60_000;

/// From when until when somebody was away.
pub type Absence = (Timestamp, Timestamp);

/// Milliseconds between `since` and `now` in which none of these absences, nor the return after it, was under way.
#[must_use]
pub fn present_ms(since: Timestamp, now: Timestamp, away: &[Absence]) -> i64 {
    let (mut present_ms, mut at) = (0_i64, since);
    for &(from, to) in away {
        let back = to.plus_ms(RETURN_MS).min(now);
        present_ms = present_ms.saturating_add(from.min(now).since_ms(at).max(0));
        at = at.max(back);
    }
    present_ms.saturating_add(now.since_ms(at).max(0))
}

/// Since when somebody was there for so many milliseconds up to `now`: the other way round.
#[must_use]
pub fn present_since(present_ms: i64, now: Timestamp, away: &[Absence]) -> Timestamp {
    let (mut left_ms, mut at) = (present_ms, now);
    for &(from, to) in away.iter().rev() {
        let present_ms = at.since_ms(to.plus_ms(RETURN_MS)).max(0);
        if present_ms >= left_ms {
            break;
        }
        left_ms -= present_ms;
        at = at.min(from);
    }
    at.plus_ms(-left_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_when_somebody_was_there_for_long_enough_is_how_long_that_was() {
        let at = |seconds: i64| Timestamp(seconds * 1_000);
        type Row = (&'static str, i64, &'static [(i64, i64)], i64);
        let rows: [Row; 7] = [
            ("never away", 100, &[], 200),
            ("away, and a minute to come back", 100, &[(200, 210)], 130),
            ("away before", 100, &[(100, 140)], 200),
            ("back at that very moment", 100, &[(100, 141)], 99),
            ("still away", 100, &[(250, 300)], 150),
            ("again and again", 100, &[(0, 10), (150, 160), (250, 260)], 80),
            ("away again on the way back", 100, &[(200, 210), (240, 250)], 100),
        ];
        for (what, seconds, away, expected) in rows {
            let away: Vec<Absence> = away.iter().map(|&(from, to)| (at(from), at(to))).collect();
            let since = present_since(seconds * 1_000, at(300), &away);
            assert_eq!(since, at(expected), "{what}");
            assert_eq!(present_ms(since, at(300), &away), seconds * 1_000, "{what}");
        }
    }

    #[test]
    fn what_could_not_be_heard_is_not_counted_and_nothing_of_it_twice() {
        let at = |seconds: i64| Timestamp(seconds * 1_000);
        type Row = (&'static str, i64, i64, &'static [(i64, i64)], i64);
        let rows: [Row; 11] = [
            ("never away", 0, 300, &[], 300),
            ("away, and a minute to come back", 0, 300, &[(100, 110)], 230),
            ("away from before on", 0, 300, &[(-50, 100)], 140),
            ("away before", 0, 300, &[(-100, -60)], 300),
            ("back a moment before", 0, 300, &[(-100, -30)], 270),
            ("still away", 0, 300, &[(100, 300)], 100),
            ("away once more before it is back", 0, 300, &[(50, 60), (100, 110)], 180),
            ("one within the other", 0, 300, &[(50, 200), (60, 70)], 90),
            ("away later", 0, 300, &[(400, 500)], 300),
            ("away all the time", 100, 300, &[(0, 1_000)], 0),
            ("the clock was set back", 300, 100, &[(150, 200)], 0),
        ];
        for (what, since, now, away, expected) in rows {
            let away: Vec<Absence> = away.iter().map(|&(from, to)| (at(from), at(to))).collect();
            assert_eq!(present_ms(at(since), at(now), &away), expected * 1_000, "{what}");
        }
    }

    #[test]
    fn a_link_that_drops_every_few_minutes_leaves_time_to_be_heard() {
        let minute = 60_000;
        let away: Vec<Absence> =
            (0..100).map(|n| (Timestamp(n * 3 * minute), Timestamp(n * 3 * minute + 10_000))).collect();
        let present_ms = present_ms(Timestamp(0), Timestamp(300 * minute), &away);
        assert_eq!(present_ms, 300 * minute - 100 * (10_000 + RETURN_MS));
    }
}
