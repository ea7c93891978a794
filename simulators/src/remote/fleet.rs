//! A cloud of many thermostats with a list and a word for what changed: `GET /thermostats?page=N` lists them, page by page until
//! one is empty; `GET /changes?since=CURSOR` names those that have something new since (`latest` is now), `GET /rows?since=CURSOR`
//! the rows themselves; `GET /thermostats/ID/report?start=…&end=…` (RFC 3339) the values of each five minutes, 31 days at most. A
//! bearer's token is an account, and an account may have so many calls in a time.
//!
//! What can go wrong: a page that fails, is cut off, or holds too little; a list that names nothing; a cursor that is forgotten;
//! an answer about changes that comes in parts, of which one fails; a value that is put right without a word; an address that is
//! another one now. Does not simulate: values that arrive late.

use std::collections::BTreeMap;

use gapless_common::time::Timestamp;
use serde_json::json;

use super::thermostat::{Cloud, FIVE_MINUTES_MS, WINDOW_MS_MAX};
use super::{Remote, Request, refused};

/// Thermostats on a page.
const PAGE: usize = 2;

/// What was asked, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A page of the list.
    Page(usize),
    /// What changed.
    Changes,
    /// The values of a window.
    Report {
        /// Whose.
        id: String,
        /// Begin of the window.
        from: Timestamp,
        /// End of the window.
        to: Timestamp,
    },
}

/// What is wrong with a page of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageFault {
    /// It is answered with 500.
    Fails,
    /// It ends in the midst.
    Cut,
    /// It is empty, though there are more thermostats.
    Short,
}

/// The calls of each account.
#[derive(Debug, Default)]
pub struct Counter(BTreeMap<String, Vec<Timestamp>>);

impl Counter {
    fn count(&mut self, account: &str, now: Timestamp) {
        self.0.entry(account.to_owned()).or_default().push(now);
    }

    /// How many calls there were in any such time at most.
    #[must_use]
    pub fn most_within(&self, account: &str, per_ms: i64) -> usize {
        let calls = self.0.get(account).map_or(&[][..], Vec::as_slice);
        let within = |at: &Timestamp| {
            calls.iter().filter(|other| *other >= at && other.since_ms(*at) < per_ms).count()
        };
        calls.iter().map(within).max().unwrap_or_default()
    }

    /// How many calls there were in the last so many ms.
    fn last(&self, account: &str, per_ms: i64, now: Timestamp) -> usize {
        let calls = self.0.get(account).map_or(&[][..], Vec::as_slice);
        calls.iter().filter(|at| (0..per_ms).contains(&now.since_ms(**at))).count()
    }

    /// How many there were.
    #[must_use]
    pub fn all(&self, account: &str) -> usize {
        self.0.get(account).map_or(0, Vec::len)
    }
}

/// What the cloud has.
#[derive(Debug)]
pub struct Fleet {
    /// The token that it wants.
    pub token: String,
    /// The first values that it has.
    pub oldest: Timestamp,
    /// The label of each thermostat, by its identity.
    pub thermostats: BTreeMap<String, String>,
    /// What is wrong with pages.
    pub faults: BTreeMap<usize, PageFault>,
    /// So many listings name nothing at all, from the next one on.
    pub empty_listings: u32,
    /// Cursors that were given before so many changes are forgotten.
    pub forgotten: usize,
    /// So many changes in one answer at most; the rest is asked for with its cursor.
    pub changes_most: usize,
    /// So many answers fail that would go on with the rest.
    pub broken_parts: u32,
    /// The cursor with which the rest is asked for.
    rest: Option<String>,
    /// Where it is to be asked instead, as the begin of a URL.
    pub moved_to: Option<String>,
    /// So many calls an account may have in so many ms; those beyond are answered with 429.
    pub limits: Vec<(usize, i64)>,
    /// Temperatures that were put right, by thermostat and time.
    revised: BTreeMap<(String, Timestamp), f64>,
    /// What was said to have changed.
    changes: Vec<(String, Timestamp)>,
    /// Every call.
    pub calls: Vec<Call>,
    /// The same, counted.
    pub counter: Counter,
    /// Calls beyond a limit.
    pub refused: usize,
}

impl Fleet {
    /// One whose thermostats have all values from `oldest` on.
    #[must_use]
    pub fn new(token: &str, oldest: Timestamp, thermostats: &[(&str, &str)]) -> Self {
        let thermostats = thermostats.iter().map(|(id, label)| ((*id).to_owned(), (*label).to_owned()));
        Self {
            token: token.to_owned(),
            oldest,
            thermostats: thermostats.collect(),
            faults: BTreeMap::new(),
            empty_listings: 0,
            forgotten: 0,
            changes_most: usize::MAX,
            broken_parts: 0,
            rest: None,
            moved_to: None,
            limits: Vec::new(),
            revised: BTreeMap::new(),
            changes: Vec::new(),
            calls: Vec::new(),
            counter: Counter::default(),
            refused: 0,
        }
    }

    /// Puts a temperature right, and says so where `is_told`.
    pub fn revise(&mut self, id: &str, at: Timestamp, celsius: f64, is_told: bool) {
        self.revised.insert((id.to_owned(), at), celsius);
        if is_told {
            self.changes.push((id.to_owned(), at));
        }
    }

    /// Forgets every cursor that it gave.
    pub fn forget_cursors(&mut self) {
        // None is given twice: something changes.
        self.changes.extend(self.thermostats.keys().map(|id| (id.clone(), self.oldest)).collect::<Vec<_>>());
        self.forgotten = self.changes.len();
    }

    /// The temperature of a thermostat in the five minutes from `at` on.
    #[must_use]
    pub fn celsius(&self, id: &str, at: Timestamp) -> f64 {
        self.revised.get(&(id.to_owned(), at)).copied().unwrap_or(Cloud::values(at).0)
    }

    fn row(&self, id: &str, at: Timestamp) -> serde_json::Value {
        let heating = Cloud::values(at).1;
        json!({"thermostat": id, "at": at.to_string(), "indoor": {"celsius": self.celsius(id, at)}, "heating_s": heating})
    }

    fn page(&mut self, no: usize) -> (u16, String) {
        self.calls.push(Call::Page(no));
        let is_empty = self.empty_listings > 0;
        if is_empty {
            self.empty_listings -= 1;
        }
        let named =
            |(id, label): (&String, &String)| json!({"id": id, "label": label, "serial": format!("T-{id}")});
        let all: Vec<_> = self.thermostats.iter().filter(|_| !is_empty).map(named).collect();
        let (total, first) = (all.len(), no.saturating_sub(1) * PAGE);
        let fault = self.faults.get(&no);
        let most = if fault == Some(&PageFault::Short) { 0 } else { PAGE };
        let page: Vec<_> = all.into_iter().skip(first).take(most).collect();
        let body = json!({"total": total, "thermostats": page}).to_string();
        match fault {
            Some(PageFault::Fails) => refused(500, "try again"),
            Some(PageFault::Cut) => (200, body[..body.len() / 2].to_owned()),
            Some(PageFault::Short) | None => (200, body),
        }
    }

    /// A cursor is how many quarters of an hour and how many changes there were.
    fn since(&mut self, cursor: &str, now: Timestamp, is_rows: bool) -> (u16, String) {
        self.calls.push(Call::Changes);
        let here = (now.0.div_euclid(900_000), self.changes.len());
        let read = || {
            let (quarter, change) = cursor.split_once('.')?;
            Some((quarter.parse::<i64>().ok()?, change.parse::<usize>().ok()?))
        };
        let Some((quarter, change)) = (if cursor == "latest" { Some(here) } else { read() }) else {
            return refused(400, "no such cursor");
        };
        if change < self.forgotten {
            return refused(410, "no such cursor any more");
        }
        if self.broken_parts > 0 && self.rest.as_deref() == Some(cursor) {
            self.broken_parts -= 1;
            return refused(500, "try again");
        }
        let mut changed = self.changes.get(change..).unwrap_or_default().to_vec();
        let has_more = changed.len() > self.changes_most;
        let here = if has_more { (quarter, change + self.changes_most) } else { here };
        changed.truncate(self.changes_most);
        let new = (quarter * 3..here.0 * 3).map(|n| Timestamp(n * FIVE_MINUTES_MS));
        changed.extend(new.flat_map(|at| self.thermostats.keys().map(move |id| (id.clone(), at))));
        let changes: Vec<_> = match is_rows {
            true => changed.iter().map(|(id, at)| self.row(id, *at)).collect(),
            false => changed.iter().map(|(id, _)| json!({"thermostat": id})).collect(),
        };
        let cursor = format!("{}.{}", here.0, here.1);
        self.rest = has_more.then(|| cursor.clone());
        (200, json!({"changes": changes, "cursor": cursor, "more": has_more}).to_string())
    }

    fn report(&mut self, id: &str, (from, to): (Timestamp, Timestamp), now: Timestamp) -> (u16, String) {
        self.calls.push(Call::Report { id: id.to_owned(), from, to });
        if !self.thermostats.contains_key(id) {
            return refused(404, "no such thermostat");
        }
        if from > to || to.since_ms(from) > WINDOW_MS_MAX {
            return refused(400, "31 days at most");
        }
        let handed_in = now.0.div_euclid(900_000) * 900_000;
        let first = from.max(self.oldest).0;
        let first = first + (-first).rem_euclid(FIVE_MINUTES_MS);
        let instants = (0..).map(|n| Timestamp(first + n * FIVE_MINUTES_MS));
        let instants = instants.take_while(|at| *at < to && at.0 + FIVE_MINUTES_MS <= handed_in);
        let rows: Vec<_> = instants.map(|at| self.row(id, at)).collect();
        (200, json!({"rows": rows}).to_string())
    }
}

impl Remote for Fleet {
    fn answer(&mut self, request: &Request<'_>, now: Timestamp) -> (u16, String) {
        if request.header("authorization") != Some(&format!("Bearer {}", self.token)) {
            return refused(401, "no such token");
        }
        self.counter.count(&self.token, now);
        if let Some(home) = &self.moved_to {
            return (301, format!("{home}{}", request.target));
        }
        if self.limits.iter().any(|(most, per_ms)| self.counter.last(&self.token, *per_ms, now) > *most) {
            self.refused += 1;
            return refused(429, "too many calls");
        }
        let path = request.target.split('?').next().unwrap_or_default();
        let instant = |name| request.field(name).and_then(|text| text.parse::<Timestamp>().ok());
        let report = path.strip_prefix("/thermostats/").and_then(|rest| rest.strip_suffix("/report"));
        match (path, report, request.field("since"), instant("start"), instant("end")) {
            ("/thermostats", ..) => {
                self.page(request.field("page").and_then(|no| no.parse().ok()).unwrap_or(1))
            }
            ("/changes", _, Some(since), ..) => self.since(since, now, false),
            ("/rows", _, Some(since), ..) => self.since(since, now, true),
            (_, Some(id), _, Some(from), Some(to)) => self.report(id, (from, to), now),
            _ => refused(400, "no such resource"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(fleet: &mut Fleet, target: &str, now: i64) -> (u16, serde_json::Value) {
        let (status, body) =
            fleet.answer(&Request { target, head: "\r\nAuthorization: Bearer t", body: "" }, Timestamp(now));
        (status, serde_json::from_str(&body).unwrap_or_default())
    }

    #[test]
    fn it_lists_says_what_changed_and_counts() {
        let mut fleet = Fleet::new("t", Timestamp(0), &[("1", "Hall"), ("2", "Attic"), ("3", "Cellar")]);
        let now = 1_800_000;
        assert_eq!(ask(&mut fleet, "/thermostats?page=2", now).1["thermostats"][0]["label"], "Cellar");
        assert_eq!(ask(&mut fleet, "/thermostats?page=3", now).1["thermostats"], json!([]));
        fleet.faults.insert(1, PageFault::Cut);
        assert_eq!(ask(&mut fleet, "/thermostats?page=1", now), (200, json!(null)));
        let (_, first) = ask(&mut fleet, "/changes?since=latest", now);
        assert_eq!((&first["changes"], &first["cursor"]), (&json!([]), &json!("2.0")));
        fleet.revise("2", Timestamp(300_000), 30.5, true);
        let (_, second) = ask(&mut fleet, "/rows?since=2.0", now);
        assert_eq!(second["changes"][0]["indoor"]["celsius"], 30.5);
        assert_eq!(
            ask(&mut fleet, "/changes?since=2.1", now + 900_000).1["changes"].as_array().unwrap().len(),
            9
        );
        fleet.revise("1", Timestamp(0), 30.5, true);
        (fleet.changes_most, fleet.broken_parts) = (1, 1);
        let (_, part) = ask(&mut fleet, "/changes?since=2.0", now);
        assert_eq!((&part["cursor"], &part["more"]), (&json!("2.1"), &json!(true)));
        assert_eq!(ask(&mut fleet, "/changes?since=2.1", now).0, 500);
        let (_, rest) = ask(&mut fleet, "/changes?since=2.1", now);
        assert_eq!((&rest["changes"][0]["thermostat"], &rest["more"]), (&json!("1"), &json!(false)));
        fleet.forget_cursors();
        assert_eq!(ask(&mut fleet, "/changes?since=2.1", now).0, 410);
        let report = "/thermostats/2/report?start=1970-01-01T00:00:00Z&end=1970-01-01T00:30:00Z";
        assert_eq!(ask(&mut fleet, report, now).1["rows"].as_array().unwrap().len(), 6);
        fleet.limits = vec![(10, 1_000)];
        assert_eq!((ask(&mut fleet, report, now).0, fleet.refused), (429, 1));
        assert_eq!((fleet.counter.most_within("t", 1_000), fleet.counter.all("t")), (11, 12));
        assert_eq!(ask(&mut fleet, report, now + 1_000).0, 200);
        fleet.moved_to = Some("http://o".to_owned());
        let (status, to) = fleet
            .answer(&Request { target: "/x", head: "\r\nAuthorization: Bearer t", body: "" }, Timestamp(0));
        assert_eq!((status, to.as_str()), (301, "http://o/x"));
    }
}
