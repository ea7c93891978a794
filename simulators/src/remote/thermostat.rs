//! A cloud of thermostats: `GET /thermostats/ID/summary` says a revision, `GET /thermostats/ID/report?start=…&end=…` (RFC 3339)
//! the values of each five minutes under the time at which they begin; at most 31 days, a bearer's token, rows that arrive
//! hours late or are put right later.
//!
//! A thermostat hands its values in every quarter of an hour, and only then the revision is another one.

use std::collections::BTreeMap;

use gapless_common::time::Timestamp;

use super::oauth::Issuer;
use super::{Remote, Request, refused};

/// Distance of the values.
pub const FIVE_MINUTES_MS: i64 = 300_000;
/// The longest window.
pub const WINDOW_MS_MAX: i64 = 31 * 86_400_000;
const QUARTER_MS: i64 = 900_000;

/// A call that was answered, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// The revision of a thermostat.
    Summary(String),
    /// The values of a window.
    Report {
        /// Whose.
        id: String,
        /// Begin of the window.
        from: Timestamp,
        /// End of the window.
        to: Timestamp,
        /// The HTTP status of the answer.
        status: u16,
    },
}

/// What the cloud has.
#[derive(Debug)]
pub struct Cloud {
    /// The token that it wants, where it has no `issuer`.
    pub token: String,
    /// Gives the tokens that it wants, where they expire.
    pub issuer: Option<Issuer>,
    /// The first values that it has.
    pub oldest: Timestamp,
    /// Rows that it has from that instant on.
    pub late: BTreeMap<Timestamp, Timestamp>,
    /// Temperatures that were put right.
    pub revised: BTreeMap<Timestamp, f64>,
    /// How often something was put right: part of the revision.
    pub revisions: u32,
    /// Every call.
    pub calls: Vec<Call>,
}

impl Cloud {
    /// One that has all values from `oldest` on.
    #[must_use]
    pub fn new(token: &str, oldest: Timestamp) -> Self {
        Self {
            token: token.to_owned(),
            issuer: None,
            oldest,
            late: BTreeMap::new(),
            revised: BTreeMap::new(),
            revisions: 0,
            calls: Vec::new(),
        }
    }

    /// Puts a temperature right.
    pub fn revise(&mut self, at: Timestamp, temperature: f64) {
        self.revised.insert(at, temperature);
        self.revisions += 1;
    }

    /// The true temperature and the seconds of heating in the five minutes from `at` on, before anything was put right.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
    pub fn values(at: Timestamp) -> (f64, f64) {
        let n = at.0.div_euclid(FIVE_MINUTES_MS);
        (17.5 + n.rem_euclid(61) as f64 / 16.0, (n.rem_euclid(11) * 30) as f64)
    }

    fn report(&self, from: Timestamp, to: Timestamp, now: Timestamp) -> (u16, String) {
        if from > to || to.since_ms(from) > WINDOW_MS_MAX {
            return refused(400, "31 days at most");
        }
        let handed_in = now.0.div_euclid(QUARTER_MS) * QUARTER_MS;
        let first = from.max(self.oldest).0;
        let first = first + (-first).rem_euclid(FIVE_MINUTES_MS);
        let instants = (0..).map(|n| Timestamp(first + n * FIVE_MINUTES_MS));
        let instants = instants.take_while(|at| *at < to && at.0 + FIVE_MINUTES_MS <= handed_in);
        let rows = instants.filter(|at| self.late.get(at).is_none_or(|from| *from <= now)).map(|at| {
            let (temperature, heating) = Self::values(at);
            let temperature = self.revised.get(&at).copied().unwrap_or(temperature);
            serde_json::json!({"at": at.to_string(), "indoor": {"celsius": temperature}, "heating_s": heating})
        });
        (200, serde_json::json!({"rows": rows.collect::<Vec<_>>()}).to_string())
    }
}

impl Remote for Cloud {
    fn answer(&mut self, request: &Request<'_>, now: Timestamp) -> (u16, String) {
        let is_admitted = match &mut self.issuer {
            Some(issuer) => match issuer.answer(request, now) {
                Some(answer) => return answer,
                None => issuer.admits(request, now),
            },
            None => request.header("authorization") == Some(&format!("Bearer {}", self.token)),
        };
        if !is_admitted {
            return refused(401, "no such token");
        }
        let path = request.target.split('?').next().unwrap_or_default();
        let Some((id, what)) = path.strip_prefix("/thermostats/").and_then(|rest| rest.split_once('/'))
        else {
            return refused(400, "no such resource");
        };
        let instant = |name| request.field(name).and_then(|text| text.parse::<Timestamp>().ok());
        match (what, instant("start"), instant("end")) {
            ("summary", ..) => {
                self.calls.push(Call::Summary(id.to_owned()));
                let revision = format!("{}.{}", now.0.div_euclid(QUARTER_MS), self.revisions);
                (200, serde_json::json!({"thermostat": {"revision": revision}}).to_string())
            }
            ("report", Some(from), Some(to)) => {
                let (status, body) = self.report(from, to, now);
                self.calls.push(Call::Report { id: id.to_owned(), from, to, status });
                (status, body)
            }
            _ => refused(400, "no such resource, or no window"),
        }
    }
}
