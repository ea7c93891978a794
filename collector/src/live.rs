//! When watching a site asks something of its agents: a viewer takes a lease for some minutes and takes it again while it
//! watches; however many do, the agents are told once, and again only when what they were told runs out.
//!
//! Pure. Contract: [`take`] for each viewer, with the lease that the site has; what it grants is written down.

use gapless_common::time::Timestamp;

/// The shortest lease, in minutes.
pub const MINUTES_LEAST: u32 = 1;
/// The longest: an agent takes no longer one.
pub const MINUTES_MOST: u32 = 60;
/// A clock that is set back by less, in ms, ends no lease: it may have been put right by as much as it drifts.
const PUT_RIGHT_MS: i64 = 300_000;
/// The usual one.
pub const MINUTES_USUAL: u32 = 5;

/// What a viewer is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Agents send each poll at once until then.
    pub until: Timestamp,
    /// Whether they must be told.
    pub is_new: bool,
    /// When the viewer is to ask again.
    pub renew_at: Timestamp,
}

/// The latest end of a lease that may have been granted by `now`. One that lasts for longer was granted before the collector's clock
/// was set back: it says nothing of who watches, and is ended.
#[must_use]
pub fn latest(now: Timestamp) -> Timestamp {
    now.plus_ms(i64::from(MINUTES_MOST) * 60_000 + PUT_RIGHT_MS)
}

/// Whether a lease until then stands.
#[must_use]
pub fn stands(until: Timestamp, now: Timestamp) -> bool {
    until > now && until <= latest(now)
}

/// A lease for a viewer that asks for `minutes`, where the site has one until `standing`. What lasts for more than half of
/// what is asked is enough; a viewer asks again when half of it is over.
#[must_use]
pub fn take(standing: Option<Timestamp>, minutes: u32, now: Timestamp) -> Granted {
    let asked_ms = i64::from(minutes.clamp(MINUTES_LEAST, MINUTES_MOST)) * 60_000;
    let half_ms = asked_ms / 2;
    let enough = standing.filter(|until| stands(*until, now) && until.since_ms(now) > half_ms);
    let until = enough.unwrap_or_else(|| now.plus_ms(asked_ms));
    // Of a lease that another viewer took for longer no more than is asked.
    let renew_at = until.plus_ms(-half_ms).min(now.plus_ms(half_ms));
    Granted { until, is_new: enough.is_none(), renew_at }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Standing lease, minutes asked for, now; granted until, new, renewed at; all in seconds.
    #[test]
    fn a_lease_is_new_only_where_half_of_it_is_over() {
        let rows = [
            (None, 5, 0, (300, true, 150)),
            (Some(300), 5, 0, (300, false, 150)),
            (Some(300), 5, 149, (300, false, 150)),
            (Some(300), 5, 150, (450, true, 300)),
            (Some(300), 5, 900, (1_200, true, 1_050)),
            (Some(300), 1, 200, (300, false, 230)),
            (Some(300), 60, 0, (3_600, true, 1_800)),
            (Some(3_600), 1, 0, (3_600, false, 30)),
            // Granted before the clock was set back.
            (Some(3_901), 5, 0, (300, true, 150)),
            (Some(3_900), 60, 0, (3_900, false, 1_800)),
            (None, 0, 0, (60, true, 30)),
            (None, u32::MAX, 0, (3_600, true, 1_800)),
        ];
        for (standing, minutes, now, (until, is_new, renew_at)) in rows {
            let at = |s: i64| Timestamp(s * 1_000);
            let expected = Granted { until: at(until), is_new, renew_at: at(renew_at) };
            assert_eq!(take(standing.map(at), minutes, at(now)), expected, "{standing:?} {minutes} at {now}");
        }
    }

    #[test]
    fn a_hundred_viewers_for_an_hour_tell_the_agents_as_often_as_one() {
        let (mut standing, mut told) = (None, 0);
        let mut due: Vec<i64> = (0..100).map(|n| n * 700).collect();
        while let Some(next) = due.iter_mut().min().filter(|at| **at < 3_600_000) {
            let granted = take(standing, MINUTES_USUAL, Timestamp(*next));
            assert!(granted.renew_at.0 > *next && granted.renew_at < granted.until);
            told += u32::from(granted.is_new);
            standing = Some(granted.until);
            *next = granted.renew_at.0;
        }
        // Half of five minutes between two.
        assert_eq!(told, 24);
    }
}
