//! How far a gateway's clock is off, from what it says of it and when that arrives.
//!
//! A message says what the wall clock showed when it was written, and arrives some time later. So the clock is at least as far
//! ahead as it seems at the arrival, and a message that was late on its way makes it seem further behind than it is. What is
//! kept is the greatest that any message proved: between two of them the clock moves by what it was stepped (the boot clock,
//! which is never stepped, tells) and by what it can have drifted. That it is ahead one message proves; that it is behind
//! counts when a second one, some time later, says so too.
//!
//! Off means off from the collector's own clock: where that is wrong, all gateways are off by the same, at once.
//!
//! Pure. Contract: [`seen`] for each message, [`Watched::off_ms`] for what it comes to.

use gapless_common::message::ClockReading;
use gapless_common::time::Timestamp;

/// What a clock may drift in parts per million: as much as the kernel reckons with (`MAXFREQ` of `timex.h`).
const DRIFT_PPM: i64 = 500;
/// A clock is behind where two messages say so that arrive at least so far apart, in ms: longer than one is under way.
const CONFIRM_MS: i64 = 300_000;
/// What a message may take on its way in good times, in ms: within it nobody need say it twice.
const UNDER_WAY_MS: i64 = 30_000;

/// What is known of a gateway's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    /// The start of the machine, and when that was by its wall clock.
    pub boot: i64,
    /// See there.
    pub boot_began: Timestamp,
    /// At least so far ahead, in ms; negative for behind.
    pub ahead_ms: i64,
    /// When the last message came, and the first one of this start of the machine.
    pub at: Timestamp,
    /// See there.
    pub since: Timestamp,
}

impl Watched {
    /// How far the clock is ahead, or, negative, behind, in ms; `None` where that is not certain yet.
    #[must_use]
    pub fn off_ms(&self) -> Option<i64> {
        let is_certain = self.ahead_ms >= -UNDER_WAY_MS || self.at.since_ms(self.since) >= CONFIRM_MS;
        is_certain.then_some(self.ahead_ms)
    }
}

/// What is known after a message of the machine's start `boot` that arrived at `at`.
#[must_use]
pub fn seen(before: Option<&Watched>, boot: i64, said: ClockReading, at: Timestamp) -> Watched {
    let (seems_ms, boot_began) = (said.wall.since_ms(at), said.boot_began());
    let new = Watched { boot, boot_began, ahead_ms: seems_ms, at, since: at };
    // Where the collector's own clock was set back, nothing from before can be compared.
    let Some(before) = before.filter(|before| before.boot == boot && before.at <= at) else { return new };
    let stepped_ms = boot_began.since_ms(before.boot_began);
    let drifted_ms = at.since_ms(before.at) / (1_000_000 / DRIFT_PPM);
    let kept_ms = before.ahead_ms.saturating_add(stepped_ms).saturating_sub(drifted_ms);
    Watched { ahead_ms: seems_ms.max(kept_ms), since: before.since, ..new }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_769_860_800_000;

    /// Messages of one start: seconds of true time, seconds that the clock is ahead then, seconds under way. What is known
    /// after the last one, in seconds.
    fn known(messages: &[(i64, i64, i64)]) -> Option<i64> {
        let mut watched = None;
        for &(at, ahead, under_way) in messages {
            let wall = Timestamp(NOON + (at + ahead) * 1_000);
            let said = ClockReading { boot_ms: at.unsigned_abs() * 1_000, wall };
            let arrival = Timestamp(NOON + (at + under_way) * 1_000);
            watched = Some(seen(watched.as_ref(), 7, said, arrival));
        }
        watched.and_then(|watched| watched.off_ms()).map(|ms| ms.div_euclid(1_000))
    }

    #[test]
    fn a_late_message_makes_no_clock_wrong() {
        let rows: [(&str, &[_], Option<i64>); 10] = [
            ("right", &[(0, 0, 1)], Some(-1)),
            ("ahead, by one message", &[(0, 90, 1)], Some(89)),
            ("behind, by one message: it may be late", &[(0, -90, 1)], None),
            ("behind, and said again", &[(0, -90, 1), (600, -90, 2)], Some(-92)),
            ("behind, and said again too soon", &[(0, -90, 1), (60, -90, 1)], None),
            ("late, and then in time", &[(0, 0, 400), (600, 0, 1)], Some(-1)),
            ("in time, and then late", &[(0, 0, 1), (600, 0, 400)], Some(-2)),
            ("set right", &[(0, 90, 1), (600, 0, 1)], Some(-1)),
            ("set wrong, by a late message", &[(0, 0, 1), (600, 300, 100)], Some(298)),
            ("set back, by a late message", &[(0, 0, 1), (600, -300, 100)], Some(-302)),
        ];
        for (what, messages, expected) in rows {
            assert_eq!(known(messages), expected, "{what}");
        }
    }

    #[test]
    fn a_clock_that_drifts_is_followed() {
        // Twenty seconds a day, told once a day.
        let messages: Vec<_> = (0..30).map(|day| (day * 86_400, -20 * day, 1)).collect();
        assert_eq!(known(&messages), Some(-581));
    }

    #[test]
    fn neither_another_start_nor_a_collector_set_back_is_compared_with() {
        let said = |boot_ms, wall| ClockReading { boot_ms, wall: Timestamp(wall) };
        let first = seen(None, 7, said(1_000, NOON), Timestamp(NOON));
        let other = seen(Some(&first), 8, said(1_000, NOON + 9_000), Timestamp(NOON + 109_000));
        assert_eq!((other.ahead_ms, other.since, other.off_ms()), (-100_000, other.at, None));
        let back = seen(Some(&first), 7, said(2_000, NOON + 1_000), Timestamp(NOON - 3_600_000));
        assert_eq!(back.off_ms(), Some(3_601_000), "by its own clock all gateways are ahead");
        let extreme = seen(Some(&first), 7, said(u64::MAX, i64::MIN), Timestamp(i64::MAX));
        assert_eq!(extreme.at, Timestamp(i64::MAX));
    }
}
