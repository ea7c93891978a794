//! What changed at a source since it was asked last: one question for all its devices. Pure.
//!
//! Contract: [`Delta::reconcile`] now and then; [`Delta::is_to_ask`] before a device is polled, and [`Delta::take`] with the
//! answer where it is; then [`Delta::to_read`] says what to read of the device, [`Delta::replaced`]
//! hears of each window that was read of it, and [`Delta::read`] that all was.

use std::collections::BTreeMap;

use gapless_common::planted::{self, Bug};
use gapless_common::time::Timestamp;
use serde::Deserialize;
use serde_json::Value as Json;

use super::parts::{Span, check_braces};
use super::rows::{Row, at_path, text};
use super::url::{check_origin, escaped};

/// What stands for the cursor.
const SINCE: &str = "{since}";
/// Rows of one device that are kept until it is polled; one that has more is read anew instead.
const ROWS_MAX: usize = 10_000;

/// How a source is asked for what changed. Paths of JSON are names with `.` between them; nothing is all of it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeltaSpec {
    /// What is asked, with `{since}`: the cursor that the answer before gave.
    pub url: String,
    /// What stands for `{since}` at first; this instant, as times are written in queries, where it is not said.
    pub begin: Option<String>,
    /// The path of the list of changes.
    #[serde(default)]
    pub changes: String,
    /// The path of the device in a change, by the `id` of its `vars`, or by its name where it has none; the change is the
    /// device itself where it is not said.
    #[serde(default)]
    pub device: String,
    /// Whether a change is a row, to be read as `[answer]` says; a device that changed is asked for its rows otherwise.
    #[serde(default)]
    pub rows: bool,
    /// The path of the next cursor.
    pub next: String,
    /// The path of what is true where there are more changes.
    pub more: Option<String>,
    /// HTTP statuses by which the source says that it does not know the cursor any more.
    #[serde(default = "gone")]
    pub forgotten: Vec<u16>,
    /// How often everything is read anew.
    #[serde(default = "a_day")]
    pub reconcile: Span,
    /// How far back that goes; one `window` where it is not said.
    pub back: Option<Span>,
}

fn gone() -> Vec<u16> {
    vec![410]
}

fn a_day() -> Span {
    Span(86_400_000)
}

impl DeltaSpec {
    /// Whether it can be used.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub(super) fn check(&self) -> Result<(), String> {
        if !self.url.contains(SINCE) {
            return Err(format!(
                "`delta.url` asks for no change: write {SINCE} where the source wants its cursor"
            ));
        }
        check_braces("delta.url", &self.url, &["since"])
            .map_err(|why| format!("{why} as {SINCE}, or mend it"))?;
        check_origin("delta.url", &self.url)?;
        if self.rows && self.device.is_empty() {
            return Err("`delta.device` is missing: where a row says whose it is".to_owned());
        }
        let spans = [("reconcile", Some(self.reconcile)), ("back", self.back)];
        match spans.iter().find(|(_, span)| span.is_some_and(|span| span.0 <= 0)) {
            Some((name, _)) => Err(format!("`delta.{name}` is nothing: write a length of time such as 1d")),
            None => Ok(()),
        }
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// What is wrong with it: the question is to be asked again with the same cursor.
    pub(super) fn parse(&self, body: &str) -> Result<Answer, String> {
        let json: Json = serde_json::from_str(body).map_err(|e| format!("the changes are no JSON: {e}"))?;
        let changes = at_path(&json, &self.changes).and_then(Json::as_array);
        let changes =
            changes.ok_or_else(|| format!("there is no list at `{}` (`delta.changes`)", self.changes))?;
        let next = at_path(&json, &self.next).and_then(text).filter(|next| !next.is_empty());
        let next = next.ok_or_else(|| format!("there is no cursor at `{}` (`delta.next`)", self.next))?;
        let mut changed = BTreeMap::<String, Vec<Json>>::new();
        for change in changes {
            let device = at_path(change, &self.device).and_then(text);
            let device = device
                .ok_or_else(|| format!("a change has no device at `{}` (`delta.device`)", self.device))?;
            changed.entry(device).or_default().push(change.clone());
        }
        let more = self.more.as_deref().and_then(|path| at_path(&json, path)).and_then(Json::as_bool);
        Ok(Answer { changed, next, more: more.unwrap_or(false) })
    }
}

/// What a source says that changed.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    /// The changes of each device, in order.
    pub(super) changed: BTreeMap<String, Vec<Json>>,
    next: String,
    /// Whether there are more changes after these.
    pub(super) more: bool,
}

/// What a device has changed in.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// These rows.
    Rows(Vec<Row>),
    /// Something: it is to be asked, from this instant on at least.
    Something(Option<Timestamp>),
}

impl Change {
    /// Of rows, unless there are too many to keep.
    fn of(rows: Vec<Row>) -> Self {
        if rows.len() <= ROWS_MAX { Self::Rows(rows) } else { Self::Something(Self::Rows(rows).first()) }
    }

    /// The first instant that is known to have changed.
    fn first(&self) -> Option<Timestamp> {
        match self {
            Self::Rows(rows) => rows.iter().map(|row| row.at).min(),
            Self::Something(from) => *from,
        }
    }

    fn and(self, later: Self) -> Self {
        match (self, later) {
            (Self::Rows(mut rows), Self::Rows(more)) => {
                rows.extend(more);
                Self::of(rows)
            }
            (one, other) => Self::Something([one.first(), other.first()].into_iter().flatten().min()),
        }
    }
}

/// What is to be read of a device.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ToRead {
    /// Nothing.
    Nothing,
    /// These rows, which are here.
    Rows(Vec<Row>),
    /// What is new, and what begins at this instant.
    New(Option<Timestamp>),
    /// The same, and what is as old as a reconciliation goes back; and these rows, which are here.
    Everything(Vec<Row>, Option<Timestamp>),
}

/// Which answer and which reconciliation a device was read by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seen {
    answer: u64,
    reconciliation: u64,
    /// Parts of answers that had come by then.
    part: u64,
}

/// What is known of the changes of a source. Nothing of it outlives the process: a start is a reconciliation.
#[derive(Debug)]
pub(super) struct Delta {
    cursor: Option<String>,
    asked_at: Timestamp,
    /// Numbers of the last answer, its last part, and the last reconciliation; a device begins with none of them.
    last: Seen,
    reconciled_at: Timestamp,
    /// What each device changed in, and the part of an answer that said so last.
    changed: BTreeMap<String, (Change, u64)>,
}

impl Delta {
    pub(super) fn new(now: Timestamp) -> Self {
        let last = Seen { reconciliation: 1, ..Seen::default() };
        Self { cursor: None, asked_at: now, last, reconciled_at: now, changed: BTreeMap::new() }
    }

    /// Begins a reconciliation where one is due. Returns whether it is.
    pub(super) fn reconcile(&mut self, spec: &DeltaSpec, now: Timestamp) -> bool {
        // What was done in a time that has not come was done before the clock was set back.
        (self.reconciled_at, self.asked_at) = (self.reconciled_at.min(now), self.asked_at.min(now));
        let is_due =
            now.since_ms(self.reconciled_at) >= spec.reconcile.0 && !planted::has(Bug::NeverReadAnew);
        if is_due {
            self.reconciled_at = now;
            self.last.reconciliation += 1;
        }
        is_due
    }

    /// Whether the question is to be asked before a device is polled: it has gone by the last answer already, or that is
    /// older than `shared_ms`. One that is to be read up to now whatever the answer is not asked about again: where there is a
    /// call for one of both only, the question would take it from the read each time.
    pub(super) fn is_to_ask(&self, device: &str, seen: Seen, shared_ms: i64, now: Timestamp) -> bool {
        let is_read = matches!(self.to_read(device, seen), ToRead::New(_) | ToRead::Everything(..));
        let is_old = seen.answer >= self.last.answer || now.since_ms(self.asked_at) > shared_ms;
        self.cursor.is_none() || (is_old && !is_read)
    }

    /// What is asked; `instant` is how this instant is written.
    pub(super) fn url(&self, spec: &DeltaSpec, instant: &str) -> String {
        let since = self.cursor.as_deref().or(spec.begin.as_deref()).unwrap_or(instant);
        spec.url.replace(SINCE, &escaped(since))
    }

    /// What is known now: what a read that begins can have seen.
    pub(super) fn last(&self) -> Seen {
        self.last
    }

    /// When the question was put that was answered last.
    pub(super) fn asked_at(&self) -> Timestamp {
        self.asked_at
    }

    /// Whether an answer goes on with itself.
    pub(super) fn is_endless(&self, answer: &Answer) -> bool {
        answer.more && self.cursor.as_ref() == Some(&answer.next)
    }

    /// Takes in an answer, or a part of it where there is more: only with the last part the question is answered. `change` says
    /// what a device's changes come to, and nothing where it is not known. Returns those.
    pub(super) fn take(
        &mut self,
        answer: Answer,
        now: Timestamp,
        change: impl Fn(&str, &[Json]) -> Option<Change>,
    ) -> Vec<String> {
        let mut unknown = Vec::new();
        self.last.part += 1;
        for (device, changes) in answer.changed {
            match change(&device, &changes) {
                Some(change) => self.note(device, change),
                None => unknown.push(device),
            }
        }
        self.cursor = Some(answer.next);
        if !answer.more {
            self.asked_at = now;
            self.last.answer += 1;
        }
        unknown
    }

    fn note(&mut self, device: String, change: Change) {
        let both = match (self.changed.remove(&device), change) {
            (Some((there, _)), change) if !planted::has(Bug::ChangesReplaced) => there.and(change),
            (_, Change::Rows(rows)) => Change::of(rows),
            (_, change) => change,
        };
        self.changed.insert(device, (both, self.last.part));
    }

    /// The source does not know the cursor any more: everything is read anew.
    pub(super) fn forgotten(&mut self, now: Timestamp) {
        (self.cursor, self.reconciled_at) = (None, now);
        self.last.reconciliation += 1;
    }

    /// What is to be read of a device.
    pub(super) fn to_read(&self, device: &str, seen: Seen) -> ToRead {
        let change = self.changed.get(device).map(|(change, _)| change);
        let is_old = seen.reconciliation < self.last.reconciliation;
        match change {
            Some(Change::Rows(rows)) if is_old => ToRead::Everything(rows.clone(), None),
            Some(Change::Rows(rows)) => ToRead::Rows(rows.clone()),
            Some(Change::Something(from)) if is_old => ToRead::Everything(Vec::new(), *from),
            Some(Change::Something(from)) => ToRead::New(*from),
            None if is_old => ToRead::Everything(Vec::new(), None),
            None => ToRead::Nothing,
        }
    }

    /// A device's window was read, and these instants have a row in it: what came of them by itself before that is older.
    pub(super) fn replaced(&mut self, device: &str, instants: &[Timestamp]) {
        let Some((Change::Rows(rows), _)) = self.changed.get_mut(device) else { return };
        rows.retain(|row| !instants.contains(&row.at));
        if rows.is_empty() {
            self.changed.remove(device);
        }
    }

    /// The rows that came by themselves and are kept for a device.
    pub(super) fn rows(&self, device: &str) -> Vec<Row> {
        match self.changed.get(device) {
            Some((Change::Rows(rows), _)) => rows.clone(),
            _ => Vec::new(),
        }
    }

    /// The last instant of those; nothing where none are kept.
    pub(super) fn last_row(&self, device: &str) -> Option<Timestamp> {
        match self.changed.get(device) {
            Some((Change::Rows(rows), _)) => rows.iter().map(|row| row.at).max(),
            _ => None,
        }
    }

    /// Whether the rows that came for a device are kept, however few.
    pub(super) fn keeps_rows(&self, device: &str) -> bool {
        matches!(self.changed.get(device), Some((Change::Rows(_), _)))
    }

    /// A device was read as [`to_read`](Self::to_read) said, by a read that began when [`last`](Self::last) was `began`: what it
    /// changed in since is still to be read. Rows of a time after `now` wait for it. Returns what the device has seen by that.
    pub(super) fn read(&mut self, device: &str, began: Seen, now: Timestamp) -> Seen {
        let left = match self.changed.remove(device) {
            Some((Change::Rows(mut rows), part)) => {
                rows.retain(|row| row.at > now);
                (!rows.is_empty()).then_some((Change::Rows(rows), part))
            }
            something => something.filter(|(_, part)| *part > began.part),
        };
        self.changed.extend(left.map(|left| (device.to_owned(), left)));
        Seen { reconciliation: began.reconciliation, ..self.last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str =
        "url = \"http://h/changes?since={since}\"\nchanges = \"all\"\ndevice = \"id\"\nnext = \"to\"
        more = \"more\"\nreconcile = \"10s\"";

    const SOMETHING: Change = Change::Something(None);
    const NEW: ToRead = ToRead::New(None);

    fn spec() -> DeltaSpec {
        toml::from_str(SPEC).unwrap()
    }

    fn row(at: i64) -> Row {
        Row { at: Timestamp(at), cells: Vec::new() }
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp(ms)
    }

    /// A device is read at once.
    fn read(delta: &mut Delta, device: &str, now: i64) -> Seen {
        let began = delta.last();
        delta.read(device, began, at(now))
    }

    /// Takes in an answer that names these devices, of which `x` is not known.
    fn tell(delta: &mut Delta, devices: &[&str], now: i64, change: &Change) -> Vec<String> {
        let all: Vec<Json> = devices.iter().map(|id| serde_json::json!({"id": id})).collect();
        let body = serde_json::json!({"all": all, "to": format!("c/{now}")}).to_string();
        let answer = spec().parse(&body).unwrap();
        delta.take(answer, at(now), |id, _| (id != "x").then(|| change.clone()))
    }

    #[test]
    fn one_answer_serves_all_devices_and_each_is_read_where_it_changed() {
        let (spec, mut delta, mut a, mut b) = (spec(), Delta::new(at(0)), Seen::default(), Seen::default());
        assert!(delta.is_to_ask("a", a, 100, at(0)));
        assert_eq!(delta.url(&spec, "a b"), "http://h/changes?since=a%20b");
        assert_eq!(tell(&mut delta, &[], 0, &SOMETHING), Vec::<String>::new());
        // A start is a reconciliation.
        assert_eq!(delta.to_read("a", a), ToRead::Everything(vec![], None));
        a = read(&mut delta, "a", 9);
        assert_eq!(delta.to_read("a", a), ToRead::Nothing);
        assert!(!delta.is_to_ask("b", b, 100, at(101)), "it is read whatever the answer");
        b = read(&mut delta, "b", 9);
        assert!(delta.is_to_ask("a", a, 100, at(1)), "who has gone by it wants another one");
        assert_eq!(delta.url(&spec, ""), "http://h/changes?since=c%2F0");
        assert_eq!(tell(&mut delta, &["b", "x"], 200, &SOMETHING), ["x"]);
        assert!(!delta.is_to_ask("a", a, 100, at(300)), "the answer serves the other one too");
        assert!(delta.is_to_ask("a", a, 100, at(301)), "unless it is old");
        assert_eq!((delta.to_read("a", a), delta.to_read("b", b)), (ToRead::Nothing, NEW));
        assert_eq!(delta.to_read("b", b), NEW, "until it was read");
        a = read(&mut delta, "a", 9);
        b = read(&mut delta, "b", 9);
        assert_eq!((delta.to_read("a", a), delta.to_read("b", b)), (ToRead::Nothing, ToRead::Nothing));
    }

    #[test]
    fn everything_is_read_anew_now_and_then_and_where_the_cursor_is_forgotten() {
        let (spec, mut delta) = (spec(), Delta::new(at(0)));
        tell(&mut delta, &[], 0, &SOMETHING);
        let seen = read(&mut delta, "a", 9);
        assert!(!delta.reconcile(&spec, at(9_999)));
        assert!(delta.reconcile(&spec, at(10_000)) && !delta.reconcile(&spec, at(10_001)));
        assert_eq!(delta.to_read("a", seen), ToRead::Everything(vec![], None));
        let seen = read(&mut delta, "a", 9);
        assert_eq!(delta.to_read("a", seen), ToRead::Nothing);
        // The clock was far ahead.
        let long_ago = |ms: i64| at(ms - 366 * 86_400_000);
        assert!(!delta.reconcile(&spec, long_ago(0)) && !delta.reconcile(&spec, long_ago(9_999)));
        assert!(delta.reconcile(&spec, long_ago(10_000)));
        let seen = read(&mut delta, "a", 9);
        delta.forgotten(at(10_002));
        assert!(delta.is_to_ask("a", seen, 100, at(10_002)));
        assert_eq!(delta.url(&spec, "now"), "http://h/changes?since=now");
        assert_eq!(delta.to_read("a", seen), ToRead::Everything(vec![], None));
    }

    #[test]
    fn rows_wait_for_their_device_and_too_many_are_read_anew() {
        let mut delta = Delta::new(at(0));
        tell(&mut delta, &[], 0, &SOMETHING);
        let seen = read(&mut delta, "a", 9);
        tell(&mut delta, &["a"], 1, &Change::Rows(vec![row(1)]));
        tell(&mut delta, &["a"], 2, &Change::Rows(vec![row(2)]));
        assert_eq!(delta.to_read("a", seen), ToRead::Rows(vec![row(1), row(2)]));
        assert_eq!(delta.to_read("a", Seen::default()), ToRead::Everything(vec![row(1), row(2)], None));
        let seen = read(&mut delta, "a", 1);
        assert_eq!(delta.to_read("a", seen), ToRead::Rows(vec![row(2)]), "what is left of them");
        // What is not kept is read anew from the earliest of it on, however long ago that is.
        for (earlier, expected) in [(3, 2), (-50, -50), (7, -50)] {
            tell(&mut delta, &["a"], 3, &Change::Rows(vec![row(earlier); ROWS_MAX]));
            assert_eq!(delta.to_read("a", seen), ToRead::New(Some(at(expected))), "{earlier}");
        }
        assert_eq!(delta.to_read("a", Seen::default()), ToRead::Everything(vec![], Some(at(-50))));
        tell(&mut delta, &["b"], 4, &Change::Rows(vec![row(4); ROWS_MAX + 1]));
        assert_eq!(delta.to_read("b", seen), ToRead::New(Some(at(4))));
    }

    #[test]
    fn what_a_window_has_been_read_of_replaces_the_rows_that_came_before_it() {
        let mut delta = Delta::new(at(0));
        tell(&mut delta, &["a", "b"], 0, &Change::Rows(vec![row(1), row(2), row(1)]));
        delta.replaced("a", &[at(1), at(3)]);
        assert_eq!((delta.rows("a"), delta.rows("b").len()), (vec![row(2)], 3));
        tell(&mut delta, &["a"], 1, &Change::Rows(vec![row(1)]));
        assert_eq!(delta.rows("a"), vec![row(2), row(1)], "what came after it is newer");
        delta.replaced("a", &[at(1), at(2)]);
        assert_eq!(delta.to_read("a", Seen::default()), ToRead::Everything(vec![], None));
        tell(&mut delta, &["a"], 2, &SOMETHING);
        delta.replaced("a", &[at(1)]);
        let seen = delta.last();
        assert_eq!(delta.to_read("a", seen), NEW, "what is to be read still is");
    }

    #[test]
    fn an_answer_that_breaks_off_is_none_and_what_it_said_is_kept() {
        let (mut delta, spec) = (Delta::new(at(0)), spec());
        tell(&mut delta, &[], 0, &SOMETHING);
        let (a, b) = (read(&mut delta, "a", 9), read(&mut delta, "b", 9));
        let part = |delta: &mut Delta, ids: &[&str], cursor: &str, more: bool| {
            let all: Vec<Json> = ids.iter().map(|id| serde_json::json!({"id": id})).collect();
            let body = serde_json::json!({"all": all, "to": cursor, "more": more}).to_string();
            let answer = spec.parse(&body).unwrap();
            let is_endless = delta.is_endless(&answer);
            delta.take(answer, at(1_000), |_, _| Some(SOMETHING));
            is_endless
        };
        assert!(!part(&mut delta, &["b"], "1", true));
        // It is not asked as long as there is more; and goes on where it was.
        assert!(delta.is_to_ask("a", a, 100, at(1_001)) && delta.is_to_ask("c", b, 100, at(1_001)));
        assert_eq!(delta.url(&spec, ""), "http://h/changes?since=1");
        assert_eq!((delta.to_read("a", a), delta.to_read("b", b)), (ToRead::Nothing, NEW));
        assert!(part(&mut delta, &[], "1", true), "it goes on with itself");
        assert!(!part(&mut delta, &["a"], "2", false) && !part(&mut delta, &[], "2", false));
        assert!(!delta.is_to_ask("c", a, 100, at(1_001)) && !delta.is_to_ask("c", b, 100, at(1_001)));
        assert_eq!((delta.to_read("a", a), delta.to_read("b", b)), (NEW, NEW));
    }

    #[test]
    fn what_changes_while_a_device_is_read_is_still_to_be_read_after_that() {
        let (mut delta, spec) = (Delta::new(at(0)), spec());
        tell(&mut delta, &["a"], 0, &SOMETHING);
        let began = delta.last();
        tell(&mut delta, &["a"], 1, &SOMETHING);
        assert!(delta.reconcile(&spec, at(10_000)));
        let seen = delta.read("a", began, at(9));
        assert_eq!(
            delta.to_read("a", seen),
            ToRead::Everything(vec![], None),
            "another reconciliation began"
        );
        let seen = read(&mut delta, "a", 9);
        assert_eq!(delta.to_read("a", seen), ToRead::Nothing);
        let began = delta.last();
        tell(&mut delta, &["a"], 2, &Change::Something(Some(at(-5))));
        let seen = delta.read("a", began, at(9));
        assert_eq!(delta.to_read("a", seen), ToRead::New(Some(at(-5))));
        let seen = read(&mut delta, "a", 9);
        assert_eq!(delta.to_read("a", seen), ToRead::Nothing);
    }

    #[test]
    fn an_answer_without_a_cursor_or_a_device_is_none() {
        let rows = [
            (r#"{"all": [{"id": 7}, {"id": "8"}, {"id": 7}], "to": 5, "more": true}"#, ""),
            (r#"{"all": [], "to": """#, "no JSON"),
            (r#"{"all": [], "to": ""}"#, "no cursor at `to`"),
            (r#"{"to": "x"}"#, "no list at `all`"),
            (r#"{"all": [{"name": 7}], "to": "x"}"#, "no device at `id`"),
        ];
        for (body, expected) in rows {
            match spec().parse(body) {
                Ok(answer) => {
                    let counts: Vec<_> =
                        answer.changed.iter().map(|(id, all)| (id.as_str(), all.len())).collect();
                    assert_eq!(
                        (counts, answer.next.as_str(), answer.more),
                        (vec![("7", 2), ("8", 1)], "5", true)
                    );
                    assert_eq!(expected, "");
                }
                Err(why) => assert!(!expected.is_empty() && why.contains(expected), "{body}: {why}"),
            }
        }
    }
}
