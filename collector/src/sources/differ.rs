//! Asks a source what changed, once for all its devices, and reads of each what it says. What an answer means is `delta`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gapless_common::message::Outcome;
use gapless_common::quality::Cause;
use gapless_common::time::Timestamp;
use serde_json::Value as Json;

use super::delta::{Answer, Change, Delta, DeltaSpec, Seen, ToRead};
use super::failure::Failure;
use super::http::Api;
use super::life::{Began, Brought, Life, Polled};
use super::rows::Row;
use super::shell::Shell;
use crate::jobs::budget::Urgency;
use crate::jobs::claims::Who;

/// Parts of an answer that are asked for at once; a longer one goes on with the next question.
const ANSWERS_MAX: usize = 1_000;
/// An answer serves all devices that are due within this part of their rhythm.
const SHARED_PART: i64 = 4;
/// What many sources are asked in.
pub(super) const MINUTE_MS: i64 = 60_000;
/// Devices of which it is known that rows were told that were not kept; beyond it only those that are polled count.
const UNTAKEN_MAX: usize = 10_000;
/// Devices that are not known that people are told of.
const TOLD_MAX: usize = 1_000;

/// The devices of a source, by what it calls them.
pub(super) type ByKey<'a> = BTreeMap<&'a str, &'a Polled>;

pub(super) fn by_key(devices: &[Polled]) -> ByKey<'_> {
    devices.iter().map(|polled| (polled.key.as_str(), polled)).collect()
}

/// What is known of the changes of a source, and how it is asked for more.
pub(super) struct Differ {
    api: Arc<Api>,
    who: Who,
    pub(super) delta: Delta,
    /// Devices that changed and are not known, as far as nobody was told.
    unknown: BTreeSet<String>,
    /// Those that people were told of.
    told: BTreeSet<String>,
    /// The last instant of the rows of devices that were told and not kept: nobody could take them, they made no sense or were too
    /// many, or the device was to be read anyway.
    untaken: BTreeMap<String, Timestamp>,
    /// Why it could not be asked, as it was said last.
    trouble: Option<String>,
}

impl Differ {
    /// Of a source whose description has a delta.
    pub(super) fn new(api: Arc<Api>) -> Self {
        Self {
            who: api.caller.who(),
            delta: Delta::new(api.caller.now()),
            api,
            unknown: BTreeSet::new(),
            told: BTreeSet::new(),
            untaken: BTreeMap::new(),
            trouble: None,
        }
    }

    /// Says of devices that changed and are not known, of each once, how many of those are new.
    pub(super) fn say_unknown(&mut self, ids: &BTreeSet<String>, has_list: bool) -> usize {
        let mut new = 0;
        for id in ids {
            if self.told.len() >= TOLD_MAX || !self.told.insert(id.clone()) {
                continue;
            }
            new += 1;
            let source = &self.api.description.name;
            match has_list {
                true => tracing::info!(source, id, "it changed and is not known: the list is read"),
                false => tracing::warn!(
                    source,
                    id,
                    "it changed and is none of the devices of the source, so nothing is read for it: write it as a `[[device]]` with \
                     this `id` in its `vars`, or see whether `delta.device` is the path of what the source calls its devices"
                ),
            }
        }
        new
    }

    /// Rows of a device that were not kept go up to `last`: beyond what a read holds they are read later.
    fn left(&mut self, key: String, last: Timestamp, is_polled: bool) {
        let before = self.untaken.get(&key).copied();
        if before.is_some() || is_polled || self.untaken.len() < UNTAKEN_MAX {
            self.untaken.insert(key, before.map_or(last, |before| before.max(last)));
        }
    }

    /// Whether some of them may be beyond what a read at `now` holds: that ends with a whole minute, and the clock may be behind. One
    /// that is further ahead than all is read anew counts as no further.
    fn is_beyond(&mut self, key: &str, now: Timestamp) -> bool {
        let reconcile_ms = self.api.description.delta.as_ref().map_or(0, |spec| spec.reconcile.0);
        let is_beyond = self.untaken.get_mut(key).is_some_and(|last| {
            *last = (*last).min(now.plus_ms(reconcile_ms));
            *last >= now.plus_ms(-MINUTE_MS)
        });
        if !is_beyond {
            self.untaken.remove(key);
        }
        is_beyond
    }

    /// Goes on without an answer, and says once why there is none.
    fn go_without(&mut self, failure: &Failure) {
        let why = failure.to_string();
        if self.trouble.as_ref() != Some(&why) {
            tracing::warn!(
                source = self.api.description.name,
                why,
                "it cannot be asked what changed: what is new of each device is read meanwhile"
            );
            self.trouble = Some(why);
        }
    }

    /// Asks what changed. Where it breaks off the parts that have come are kept, and the next question goes on after them.
    fn ask(&mut self, spec: &DeltaSpec, devices: &[Polled], urgency: Urgency) -> Result<(), Failure> {
        let api = Arc::clone(&self.api);
        let description = &api.description;
        let by_key = by_key(devices);
        let mut is_forgotten = false;
        for _ in 0..ANSWERS_MAX {
            let now = self.api.caller.now();
            let url = self.delta.url(spec, &description.answer.write_time(now));
            let body = match self.api.caller.get(&url, (self.who, urgency)) {
                Err(Failure::Status(status, why)) if spec.forgotten.contains(&status) && !is_forgotten => {
                    tracing::warn!(
                        source = description.name,
                        status,
                        why,
                        "it does not know what changed since: everything is read anew"
                    );
                    self.delta.forgotten(now);
                    is_forgotten = true;
                    continue;
                }
                answer => answer.map_err(Failure::of_account)?,
            };
            let answer = spec.parse(&body).map_err(Failure::Answer)?;
            if self.delta.is_endless(&answer) {
                return Err(Failure::Answer(
                    "the changes do not end: there are more, and `delta.next` is what was asked with"
                        .to_owned(),
                ));
            }
            let has_more = answer.more;
            self.take(spec, answer, &by_key, now);
            if !has_more {
                return Ok(());
            }
        }
        Err(Failure::Answer(format!(
            "there are more changes than {ANSWERS_MAX} answers hold: asked on later"
        )))
    }
}

impl Differ {
    /// Takes in an answer, or a part of it, that was asked for at `now`.
    pub(super) fn take(&mut self, spec: &DeltaSpec, answer: Answer, by_key: &ByKey<'_>, now: Timestamp) {
        let api = Arc::clone(&self.api);
        let description = &api.description;
        let change = |key: &str, changes: &[Json]| {
            let polled = by_key.get(key)?;
            if !spec.rows {
                return Some(Change::Something(None));
            }
            let asked = || Change::Something(description.answer.first_time(changes));
            if !matches!(polled.life, Life::Known(_)) {
                return Some(asked());
            }
            // Rows that make no sense are asked for again, so that their own device says what is wrong.
            let rows = description.answer.rows_of(changes, &polled.values);
            Some(rows.map_or_else(|_| asked(), Change::Rows))
        };
        let last = |(key, changes): (&String, &Vec<Json>)| {
            let last = description.answer.last_time(changes).max(self.delta.last_row(key));
            Some((key.clone(), last?))
        };
        let told: Vec<_> = answer.changed.iter().filter(|_| spec.rows).filter_map(last).collect();
        self.unknown.extend(self.delta.take(answer, now, change));
        for (key, last) in told {
            if !self.delta.keeps_rows(&key) {
                let is_polled = by_key.contains_key(key.as_str());
                self.left(key, last, is_polled);
            }
        }
    }
}

impl Shell {
    /// Begins to read everything anew where that is due: the list, and each device when it is polled.
    pub(super) fn reconcile(&mut self) {
        let now = self.now();
        let Some(Differ { api, delta, .. }) = &mut self.differ else { return };
        let is_due = api.description.delta.as_ref().is_some_and(|spec| delta.reconcile(spec, now));
        if is_due && let Some(lister) = &mut self.lister {
            lister.hurry(now);
        }
    }

    /// Reads what changed of a device, from `from` on where it is to be asked.
    pub(super) fn poll_changes(
        &mut self,
        at: usize,
        from: Timestamp,
        urgency: Urgency,
    ) -> Result<Outcome, Failure> {
        let now = self.now();
        let (seen, has_unread, goes_on) = self.known(at).map_or((Seen::default(), false, None), |known| {
            let goes_on = known.reread.as_ref().filter(|reread| reread.goes_on);
            (known.seen, known.unread.is_some(), goes_on.map(|reread| reread.began.seen))
        });
        if goes_on == Some(Seen::default()) {
            return self.pull_unasked(at, from);
        }
        let Self { differ: Some(differ), devices, lister, .. } = self else { return Ok(Outcome::NoData) };
        let Some(key) = devices.get(at).map(|polled| polled.key.clone()) else { return Ok(Outcome::NoData) };
        let api = Arc::clone(&differ.api);
        let Some(spec) = &api.description.delta else { return Ok(Outcome::NoData) };
        // Between two windows of a long read nobody needs to know what changed: that is asked once it is through.
        if goes_on.is_none() && differ.delta.is_to_ask(&key, seen, api.description.every.0 / SHARED_PART, now)
        {
            let asked = differ.ask(spec, devices, urgency);
            let unknown = std::mem::take(&mut differ.unknown);
            differ.say_unknown(&unknown, lister.is_some());
            if let Some(lister) = lister {
                lister.unknown(&unknown, now);
            }
            let is_everything = matches!(differ.delta.to_read(&key, seen), ToRead::Everything(..));
            match asked {
                Ok(()) => differ.trouble = None,
                // Whatever the answer it would be read.
                Err(failure) if is_everything && failure.is_of_question() => {
                    differ.go_without(&failure);
                    return self.pull_unasked(at, from);
                }
                Err(failure) => return Err(failure),
            }
        }
        let began = differ.delta.last();
        let has_more = differ.is_beyond(&key, now);
        // Less than a window, so that one call reads it up to an instant that comes after the question.
        let window = api.description.window.0;
        let back = spec.back.map_or(window - window.min(2 * MINUTE_MS) / 2, |back| back.0);
        // No further than there is anything to be had.
        let back = now.plus_ms(-api.description.first.map_or(back, |first| back.min(first.0)));
        // What is asked for in whole minutes has to begin at a slot: of what stands between two windows neither would have it.
        let grid = devices.get(at).map(|polled| polled.device.grid);
        let back = grid.map_or(back, |grid| grid.at(grid.first_from(back)));
        let changed = |first: Timestamp| grid.map_or(first, |grid| grid.at(grid.slot_at(first)));
        let since = |first: Option<Timestamp>| first.map_or(from, |first| changed(first).min(from));
        let (has_rows, from) = match differ.delta.to_read(&key, seen) {
            ToRead::Everything(rows, first) => (!rows.is_empty(), Some(since(first).min(back))),
            ToRead::New(first) => (false, Some(since(first))),
            ToRead::Rows(rows) => (!rows.is_empty(), has_unread.then_some(from)),
            ToRead::Nothing => (false, has_unread.then_some(from)),
        };
        // The answer may be another device's, and what was still to come as that was given is not missing by it.
        let asked = differ.delta.asked_at();
        let is_silent = !has_rows && from.is_none();
        let (mut brought, mut began) = (Brought::default(), Began { seen: began, revision: None });
        if let Some(from) = from {
            let (read, was_read) = self.pull(at, from, began)?;
            let Some(seen) = was_read else { return Ok(read.outcome()) };
            (brought, began) = (read, seen);
        }
        // What was read of their instants is newer than they are, and has replaced them.
        let rows = self.differ.as_ref().map_or(Vec::new(), |differ| differ.delta.rows(&key));
        if is_silent {
            self.nothing_new(at, asked)?;
        } else if !rows.is_empty() {
            // They may be older than what was read.
            brought.is_any |= self.take_rows(at, rows, asked)?;
        }
        let seen = self.differ.as_mut().map(|differ| differ.delta.read(&key, began.seen, now));
        if let (Some(seen), Some(known)) = (seen, self.known(at)) {
            // What is read next is to hold it, whenever that is.
            let unread = has_more.then(|| known.next.min(now.plus_ms(-MINUTE_MS)));
            (known.seen, known.unread) = (seen, unread);
        }
        Ok(brought.outcome())
    }

    /// Reads a device though nobody knows what changed. It is not taken for read anew, which it is once there is an answer.
    fn pull_unasked(&mut self, at: usize, from: Timestamp) -> Result<Outcome, Failure> {
        let (brought, was_read) = self.pull(at, from, Began::default())?;
        if let (Some(known), true) = (self.known(at), was_read.is_some()) {
            known.unread = None;
        }
        Ok(brought.outcome())
    }

    /// A window of a device was read, with rows of these instants.
    pub(super) fn note_read(&mut self, at: usize, instants: &[Timestamp]) {
        if let (Some(differ), Some(polled)) = (&mut self.differ, self.devices.get(at)) {
            differ.delta.replaced(&polled.key, instants);
        }
    }

    /// Hands on rows that came by themselves, as the source was asked at that time.
    fn take_rows(&mut self, at: usize, mut rows: Vec<Row>, asked: Timestamp) -> Result<bool, Failure> {
        let now = self.now();
        // What was said last of an instant counts.
        rows.reverse();
        rows.sort_by_key(|row| row.at);
        rows.dedup_by_key(|row| row.at);
        let Some(known) = self.known(at) else { return Ok(false) };
        let first = rows.first().map_or(known.next, |row| row.at.min(known.next));
        let is_any = !rows.is_empty();
        self.tell(at, rows, (first, now.plus_ms(1)), Cause::NotRecorded, self.settled(asked))?;
        self.back(at)?;
        Ok(is_any)
    }
}
