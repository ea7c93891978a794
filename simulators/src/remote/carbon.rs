//! The carbon intensity of a grid: `GET /intensity?from=…&to=…` (RFC 3339), grams of CO2 a kWh for each half hour under the
//! time at which it begins; at most 14 days; half hours that it has not, and values that are put right later.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::time::Timestamp;

use super::{Remote, Request, refused};

/// Distance of the values.
pub const HALF_HOUR_MS: i64 = 1_800_000;
/// The longest window.
pub const WINDOW_MS_MAX: i64 = 14 * 86_400_000;

/// What it has.
#[derive(Debug, Default)]
pub struct Grid {
    /// The first half hour that it has.
    pub oldest: Timestamp,
    /// Half hours that it has not.
    pub holes: BTreeSet<Timestamp>,
    /// Values that were put right.
    pub revised: BTreeMap<Timestamp, f64>,
}

impl Grid {
    /// The value of the half hour from `at` on, before it was put right.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
    pub fn value(at: Timestamp) -> f64 {
        (80 + at.0.div_euclid(HALF_HOUR_MS).rem_euclid(173)) as f64
    }
}

impl Remote for Grid {
    fn answer(&mut self, request: &Request<'_>, now: Timestamp) -> (u16, String) {
        let instant = |name| request.field(name).and_then(|text| text.parse::<Timestamp>().ok());
        let (Some(from), Some(to)) = (instant("from"), instant("to")) else {
            return refused(400, "no window");
        };
        if from > to || to.since_ms(from) > WINDOW_MS_MAX {
            return refused(400, "14 days at most");
        }
        let first = from.max(self.oldest).0;
        let first = first + (-first).rem_euclid(HALF_HOUR_MS);
        let instants = (0..).map(|n| Timestamp(first + n * HALF_HOUR_MS));
        let rows = instants.take_while(|at| *at < to && *at <= now).filter(|at| !self.holes.contains(at));
        let rows = rows.map(|at| {
            let value = self.revised.get(&at).copied().unwrap_or(Self::value(at));
            serde_json::json!({"from": at.to_string(), "intensity": value})
        });
        (200, serde_json::json!({"data": rows.collect::<Vec<_>>()}).to_string())
    }
}
