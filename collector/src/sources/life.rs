//! Where a device of a source stands.

use std::collections::BTreeSet;

use gapless_common::catalog::Device;
use gapless_common::message::{Command, CommandBody, Outcome};
use gapless_common::planted::{self, Bug};
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;

use super::delta::Seen;
use super::describe::Whose;
use super::failure::Failure;
use super::fetch::Fetch;
use super::list::Entry;
use super::voice::{Begin, Voice};
use crate::jobs::budget::Urgency;

/// Where a device stands.
#[derive(Debug)]
pub(super) enum Life {
    /// Not asked yet in this process; not before `again`.
    New { again: Timestamp, failures: u32 },
    /// It is polled.
    Known(Box<Known>),
    /// Its source has withdrawn its consent, for it alone or for all.
    Withdrawn(Box<Voice>, Whose),
    /// Its source lists it no more.
    Removed(Box<Voice>),
}

/// A device that is polled.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) voice: Voice,
    /// What begins here is not known yet.
    pub(super) next: Timestamp,
    /// What the source's probe said when all before it had been read.
    pub(super) revision: Option<String>,
    /// The source cannot reach it, and is not asked before.
    pub(super) away_until: Option<Timestamp>,
    /// What begins here was not read while it was away, or is to be read once more.
    pub(super) unread: Option<Timestamp>,
    /// A command for history that was broken off.
    pub(super) broken_off: Option<BrokenOff>,
    /// Commands that were answered, as long as the database lists them as open.
    pub(super) answered: BTreeSet<u64>,
    /// Which answer about changes it was read by.
    pub(super) seen: Seen,
    /// What is read again over several windows, and was broken off.
    pub(super) reread: Option<Reread>,
    /// The score of the last poll that failed for another reason than want of a call.
    tried: Option<f64>,
}

/// How far a command for history was carried out.
#[derive(Debug, Clone)]
pub(super) struct BrokenOff {
    /// Its number.
    pub(super) command: u64,
    /// Where it goes on.
    pub(super) next: Timestamp,
    pub(super) brought: Brought,
}

/// What a read has brought so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Brought {
    /// Whether anything came.
    pub(super) is_any: bool,
    /// The first of what could not be read.
    pub(super) trouble: Option<String>,
}

impl Brought {
    /// What whoever asked for it is answered.
    pub(super) fn outcome(self) -> Outcome {
        match (self.trouble, self.is_any) {
            (Some(trouble), _) => Outcome::Failed(trouble.into()),
            (None, true) => Outcome::Done,
            (None, false) => Outcome::NoData,
        }
    }
}

/// What was known of a source when a read began: what has changed since, the read may not have seen.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Began {
    pub(super) seen: Seen,
    /// What its probe said.
    pub(super) revision: Option<String>,
}

/// A read of several windows that is under way.
#[derive(Debug, Clone)]
pub(super) struct Reread {
    pub(super) begin: Timestamp,
    /// All before it was read.
    pub(super) next: Timestamp,
    pub(super) brought: Brought,
    pub(super) began: Began,
    /// It gave its worker to others and goes on by itself, whoever still waits for it.
    pub(super) goes_on: bool,
}

impl Reread {
    /// A read from `begin` on.
    pub(super) fn new(begin: Timestamp, began: Began) -> Self {
        Self { begin, next: begin, brought: Brought::default(), began, goes_on: false }
    }

    /// This one, broken off: nothing after `accounted` may be passed over. That is later by and by while a device is away, though
    /// nobody has read what it goes by.
    pub(super) fn broken_off(self, accounted: Timestamp) -> Self {
        Self { next: self.next.min(accounted), ..self }
    }

    /// Whether it holds all that is wanted from `begin` on.
    pub(super) fn holds(&self, begin: Timestamp) -> bool {
        self.begin <= begin
    }

    /// The read that is wanted from `begin` on, where this one was broken off: it goes on where that holds all of it.
    pub(super) fn resumed(self, begin: Timestamp) -> Option<Self> {
        // One that gave its worker to others goes on to the millisecond: a row may stand between two slots.
        let next = if self.goes_on { self.next } else { self.next.max(begin) };
        self.holds(begin).then_some(Self { next, goes_on: false, ..self })
    }
}

impl Known {
    /// Of a device of which `next` is the first instant that is not known yet; what begins at `unread` was not read.
    pub(super) fn new(voice: Voice, next: Timestamp, unread: Option<Timestamp>) -> Self {
        let (revision, away_until, broken_off) = (None, None, None);
        let (answered, seen, reread, tried) = (BTreeSet::new(), Seen::default(), None, None);
        Self { voice, next, revision, away_until, unread, broken_off, answered, seen, reread, tried }
    }

    /// Until when it is not asked because its source cannot reach it, at `now`: no longer than `every_ms`, though the clock was
    /// set back.
    pub(super) fn away(&mut self, every_ms: i64, now: Timestamp) -> Option<Timestamp> {
        self.away_until = self.away_until.map(|until| until.min(now.plus_ms(every_ms)));
        self.away_until.filter(|until| *until > now || planted::has(Bug::UnreachableForEver))
    }

    /// How urgent a poll is that is `wanted` so. Only for want of a call it has waited: what is stale because its polls fail, or
    /// because there is so much to read, counts from the last one on, or it would take the calls and workers of all that works.
    pub(super) fn since_tried(&self, wanted: Urgency) -> Urgency {
        match (wanted, self.tried) {
            (Urgency::Score(score), Some(tried)) if tried <= score => Urgency::Score(score - tried),
            (wanted, _) => wanted,
        }
    }

    /// A poll that was `wanted` so has come to this.
    pub(super) fn note_try(&mut self, wanted: Urgency, outcome: &Result<Outcome, Failure>) {
        match (outcome, wanted) {
            (Ok(_), _) if self.away_until.is_none() => self.tried = None,
            (Err(failure), Urgency::Score(score)) if failure.until().is_none() => self.tried = Some(score),
            _ => {}
        }
    }
}

impl Life {
    /// Of a device that is to be asked at once.
    pub(super) const NEW: Self = Self::New { again: Timestamp(0), failures: 0 };

    /// Whether it is not asked yet, and what it waits for is so.
    pub(super) fn is_new_and(&self, is_due: impl Fn(Timestamp) -> bool) -> bool {
        matches!(self, Self::New { again, .. } if is_due(*again))
    }

    /// Whether a read of it gave its worker to others.
    pub(super) fn goes_on(&self) -> bool {
        matches!(self, Self::Known(known) if known.reread.as_ref().is_some_and(|reread| reread.goes_on))
    }

    /// Whether a command is still to be carried out.
    pub(super) fn is_to_do(&self, command: &Command) -> bool {
        !matches!(self, Self::Known(known) if known.answered.contains(&command.id))
    }

    pub(super) fn voice(&self) -> Option<&Voice> {
        match self {
            Self::New { .. } => None,
            Self::Known(known) => Some(&known.voice),
            Self::Withdrawn(voice, _) | Self::Removed(voice) => Some(voice),
        }
    }
}

/// What is missing is asked for again within this, also where a command for it has failed.
const ASKED_AGAIN_MS: i64 = 900_000;

/// A device of a source.
pub(super) struct Polled {
    /// As it stands in the catalog of its agent.
    pub(super) device: Device,
    pub(super) path: AgentPath,
    pub(super) begin: Begin,
    pub(super) life: Life,
    /// As its source lists it, where it does.
    pub(super) listed: Option<Entry>,
    /// What the source calls it when it says what changed.
    pub(super) key: String,
    /// Where the value of each of its channels stands in a row that comes by itself.
    pub(super) values: Vec<String>,
    /// Since when it has waited for a call for what can wait: its first one, and after that what is missing.
    pub(super) waits_since: Option<Timestamp>,
    /// When it was refused one last.
    pub(super) refused_at: Timestamp,
    pub(super) fetch: Box<dyn Fetch>,
}

/// How urgent the rest of a long read is: no spare work, as the device is stale without it, and nothing that others wait for.
pub(super) const REST: Urgency = Urgency::Score(0.0);

/// What is missing may wait so long for a call; after that it is as what is stale.
const HISTORY_MS: i64 = 3_600_000;

impl Polled {
    /// How urgent a command is that is `wanted` so: a poll that has failed counts from then on, and what has been missing for long
    /// can wait, though not for ever.
    pub(super) fn urgency_of(&self, command: &Command, wanted: Urgency, now: Timestamp) -> Urgency {
        match (&command.body, &self.life) {
            (CommandBody::PollNow(_), Life::Known(known)) => match known.since_tried(wanted) {
                // Whoever waits for so much has seen that it comes.
                Urgency::Asked if self.life.goes_on() => REST,
                urgency => urgency,
            },
            (CommandBody::ReadHistory { .. }, _) => {
                Urgency::waiting(now.since_ms(self.waits_since(now)), HISTORY_MS)
            }
            _ => wanted,
        }
    }

    /// A device that is to be asked at once; `begin` is who it is in this process.
    pub(super) fn new(path: AgentPath, device: Device, begin: Begin, fetch: Box<dyn Fetch>) -> Self {
        let key = device.id.as_str().to_owned();
        let (life, listed, values, waits_since) = (Life::NEW, None, Vec::new(), None);
        let refused_at = Timestamp(0);
        Self { device, path, begin, life, listed, key, values, waits_since, refused_at, fetch }
    }

    /// Since when what is missing has waited for a call, up to `now`. What nobody has asked for in a long time waits no more.
    pub(super) fn waits_since(&self, now: Timestamp) -> Timestamp {
        let is_asked = now.since_ms(self.refused_at) <= ASKED_AGAIN_MS;
        self.waits_since.filter(|_| is_asked).map_or(now, |since| since.min(now))
    }

    /// What is missing was refused a call at `now`, having waited since then.
    pub(super) fn refused(&mut self, since: Timestamp, now: Timestamp) {
        (self.waits_since, self.refused_at) = (Some(since), now);
    }
}

#[cfg(test)]
mod tests {
    use gapless_common::catalog::Catalog;
    use gapless_common::id::{ConnectionId, Epoch};

    use super::*;

    fn known() -> Known {
        let path = AgentPath { site: "home-1".parse().unwrap(), agent: "a".parse().unwrap() };
        let begin = Begin { epoch: Epoch(1), connection: ConnectionId(1), previous: None };
        Known::new(Voice::new(path, begin, Catalog { devices: Vec::new() }, 0), Timestamp(0), None)
    }

    #[test]
    fn a_clock_that_is_set_back_has_a_device_be_away_no_longer_than_it_may() {
        let mut known = Known { away_until: Some(Timestamp(1_000_000)), ..known() };
        for (now, expected) in [(999_500, Some(1_000_000)), (0, Some(900)), (500, Some(900)), (900, None)] {
            assert_eq!(known.away(900, Timestamp(now)), expected.map(Timestamp), "{now}");
        }
        assert!(known.away_until.is_some(), "that it was away is known until it is back");
    }

    #[test]
    fn what_is_stale_because_its_polls_fail_counts_from_the_last_one_on() {
        use Urgency::{Asked, Score};
        let mut known = known();
        let (done, status) = (|| Ok(Outcome::Done), || Err(Failure::Status(404, String::new())));
        let spent = || Err(Failure::Spent(Timestamp(9)));
        // How it is wanted, how urgent that is, and what comes of it.
        let rows = [
            (Score(1.5), Score(1.5), spent()),
            (Score(12.0), Score(12.0), status()),
            (Score(12.5), Score(0.5), spent()),
            (Asked, Asked, status()),
            (Score(14.0), Score(2.0), Err(Failure::TurnOver)),
            (Score(14.5), Score(0.5), done()),
            (Score(14.5), Score(14.5), status()),
            (Score(0.5), Score(0.5), done()),
        ];
        for (wanted, expected, outcome) in rows {
            assert_eq!(known.since_tried(wanted), expected, "{wanted:?}");
            known.note_try(wanted, &outcome);
        }
    }

    #[test]
    fn a_read_goes_on_where_it_was_broken_off_unless_more_is_wanted_than_it_was_to_hold() {
        let at = Timestamp;
        // Wanted from, accounted for up to; where it goes on.
        let rows = [
            (100, 900, Some(400)),
            (150, 900, Some(400)),
            (500, 900, Some(500)),
            (99, 900, None),
            // What is not accounted for yet may have come since.
            (100, 300, Some(300)),
            (350, 300, Some(350)),
        ];
        for (begin, accounted, expected) in rows {
            let reread = Reread { next: at(400), ..Reread::new(at(100), Began::default()) };
            let resumed = reread.broken_off(at(accounted)).resumed(at(begin));
            assert_eq!(resumed.map(|reread| reread.next.0), expected, "{begin} {accounted}");
        }
    }
}
