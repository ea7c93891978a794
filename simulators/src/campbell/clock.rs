//! What the logger takes for the time: its own local clock, which may be wrong, drift, be set, and run faster than the
//! world's. Reads no clock.

/// A straight line through one instant of the world's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnClock {
    wall_ms: i64,
    own_ms: i64,
    /// Parts of a million of the world's speed: 1,000,000 keeps its time.
    speed_ppm: i64,
}

/// The world's speed.
pub const REAL_TIME_PPM: i64 = 1_000_000;

impl OwnClock {
    /// A clock that showed `own_ms` when the world's showed `wall_ms`.
    #[must_use]
    pub const fn new(wall_ms: i64, own_ms: i64, speed_ppm: i64) -> Self {
        Self { wall_ms, own_ms, speed_ppm }
    }

    /// What it shows at an instant of the world's clock: local time, as milliseconds since 1970-01-01T00:00.
    #[must_use]
    pub fn at(&self, wall_ms: i64) -> i64 {
        let run = i128::from(wall_ms.saturating_sub(self.wall_ms)) * i128::from(self.speed_ppm);
        let run = i64::try_from(run.div_euclid(i128::from(REAL_TIME_PPM))).unwrap_or(i64::MAX);
        self.own_ms.saturating_add(run)
    }

    /// The same clock, which from now on runs at another speed.
    #[must_use]
    pub fn with_speed(&self, wall_ms: i64, speed_ppm: i64) -> Self {
        Self::new(wall_ms, self.at(wall_ms), speed_ppm)
    }

    /// The same clock, put forward or (where negative) back.
    #[must_use]
    pub fn stepped(&self, wall_ms: i64, by_ms: i64) -> Self {
        Self::new(wall_ms, self.at(wall_ms).saturating_add(by_ms), self.speed_ppm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_at_its_speed_and_keeps_its_time_when_that_changes() {
        let clock = OwnClock::new(1_000, 50_000, REAL_TIME_PPM);
        assert_eq!(clock.at(1_500), 50_500);
        let fast = clock.with_speed(2_000, 1_000 * REAL_TIME_PPM);
        assert_eq!((fast.at(2_000), fast.at(2_100)), (51_000, 151_000));
        assert_eq!(fast.stepped(2_100, -1_000).at(2_100), 150_000);
        assert_eq!(OwnClock::new(0, 0, REAL_TIME_PPM + 50).at(1_000_000), 1_000_050);
    }
}
