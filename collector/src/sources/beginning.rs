//! A device's first turn in this process: what was known of it before says how it stands, and where nothing was, its source is
//! asked how far back there is anything.

use std::collections::BTreeMap;

use gapless_common::catalog::{Catalog, Device};
use gapless_common::planted::{self, Bug};
use gapless_common::time::Timestamp;
use rusqlite::Connection;

use super::describe::Whose;
use super::failure::{Failure, guarded};
use super::fetch::Recalled;
use super::life::{Known, Life, Polled};
use super::shell::{RETRY_FIRST_MS, RETRY_MAX_MS, SPENT_MS, Shell};
use super::standing::{UNREAD, WITHDRAWN_MS, unsaid};
use super::voice::{Begin, Voice};
use crate::jobs::budget::Urgency;
use crate::obstacle;
use crate::store::{drops, sources};

/// A device's first call may wait so long; after that it is as what is stale.
const FIRST_MS: i64 = 300_000;
/// How often it is seen whether a device is asked again that was stopped before anything of it was known.
const STOPPED_MS: i64 = 5_000;

/// How urgent a device's first call is. Somebody may wait to see that what was set up works: no spare work, from the first.
pub(super) fn first_call(waited_ms: i64) -> Urgency {
    match Urgency::waiting(waited_ms, FIRST_MS) {
        Urgency::Spare => Urgency::Score(0.0),
        stale => stale,
    }
}

/// What was known of a device before this process.
struct Past {
    attributes: BTreeMap<String, String>,
    /// The consent that it was asked by is the one that is in force.
    is_same: bool,
    /// Whose consent was withdrawn, where it was.
    withdrawn: Option<Whose>,
    is_removed: bool,
    is_away: bool,
}

impl Past {
    fn of(polled: &Polled, attributes: BTreeMap<String, String>) -> Self {
        // One that was never named is no other one.
        let consent = |of: &BTreeMap<String, String>| of.get("consent").cloned().unwrap_or_default();
        let is_same = consent(&attributes) == consent(&polled.device.attributes);
        let has = |kind: obstacle::Kind| kind.of(&attributes).is_some();
        let is_withdrawn =
            is_same && has(obstacle::Kind::NotAuthorised) && !planted::has(Bug::ConsentForgotten);
        let is_removed =
            polled.listed.is_some() && has(obstacle::Kind::Removed) && !planted::has(Bug::RemovalForgotten);
        let is_away = is_same && has(obstacle::Kind::Unreachable);
        let withdrawn = is_withdrawn.then(|| Whose::kept(&attributes));
        Self { attributes, is_same, withdrawn, is_removed, is_away }
    }

    /// Whether it is not to be asked.
    fn is_over(&self) -> bool {
        self.withdrawn.is_some() || self.is_removed
    }

    /// The device as it goes on.
    fn describe(&self, mut device: Device) -> Device {
        if self.is_over() {
            device.paused = true;
            device.attributes.clone_from(&self.attributes);
        } else if self.is_away {
            // It is not back because the collector is.
            let keys = unsaid(&[obstacle::Kind::Unreachable]).into_keys();
            let kept = keys.filter_map(|key| Some((self.attributes.get(&key)?.clone(), key)));
            device.attributes.extend(kept.map(|(text, key)| (key, text)));
        }
        device
    }

    /// Where it stands; what begins at `next` is not known yet.
    fn life(&self, voice: Voice, next: Timestamp, now: Timestamp) -> Life {
        match (self.withdrawn, self.is_removed) {
            (Some(whose), _) => Life::Withdrawn(Box::new(voice), whose),
            (None, true) => Life::Removed(Box::new(voice)),
            (None, false) => {
                let unread = self.attributes.get(UNREAD).and_then(|text| text.parse().ok());
                let mut known = Known::new(voice, next, unread);
                known.away_until = self.is_away.then_some(now);
                Life::Known(Box::new(known))
            }
        }
    }
}

impl Shell {
    /// A device that is to be asked for the first time waits for its turn from then on.
    pub(super) fn await_turn(&mut self, at: usize, now: Timestamp) {
        if self.is_to_begin(at, now)
            && let Some(polled) = self.devices.get_mut(at)
        {
            polled.waits_since.get_or_insert(now);
        }
    }

    pub(super) fn is_to_begin(&self, at: usize, now: Timestamp) -> bool {
        self.devices.get(at).is_some_and(|polled| polled.life.is_new_and(|again| self.is_due(again, now)))
    }

    /// Whether `again` has come, or is so far off that the clock was set back since it was said.
    fn is_due(&self, again: Timestamp, now: Timestamp) -> bool {
        again <= now || again.since_ms(now) > WITHDRAWN_MS.max(self.pace.unreachable_every_ms)
    }

    /// A device goes on where it was left, or is asked for the first time of all.
    pub(super) fn begin(&mut self, connection: &Connection, at: usize) -> Result<(), Failure> {
        let now = self.now();
        let Some(polled) = self.devices.get_mut(at) else { return Ok(()) };
        let (path, device) = (polled.path.clone(), polled.device.clone());
        let known = sources::known(connection, &path, device.id.as_str())?.unwrap_or_default();
        // What it owes is known though nothing of it came before the collector ended.
        let known_until = known.proven_until.or(known.due_since);
        if known.is_stopped && known_until.is_none() {
            // It would have to be asked how far back there is anything.
            if let Life::New { again, .. } = &mut polled.life {
                *again = now.plus_ms(STOPPED_MS);
            }
            return Ok(());
        }
        polled.fetch.missing(sources::missing(connection, &path, device.id.as_str())?);
        if known.proven_until.is_none() && known.due_since.is_some() {
            polled.fetch.was_never_read();
        }
        let (due_since, files) = (known.due_since, drops::recall(connection, &path)?);
        polled.fetch.recall(Recalled { due_since, files });
        let begin = Begin { previous: known.previous, ..polled.begin };
        let past = Past::of(polled, known.attributes);
        let (next, since) = match known_until {
            _ if past.is_over() => (now, now),
            // Where consent was given anew nothing was due in between.
            Some(until) => (until, if past.is_same { until } else { now }),
            None => {
                let oldest = self.oldest(at, now)?;
                (oldest, oldest)
            }
        };
        let catalog = Catalog { devices: vec![past.describe(device)] };
        let mut voice = Voice::new(path, begin, catalog, self.pace.overlap_ms);
        let opening = voice.opening(begin, since, now)?;
        self.hand_in(opening)?;
        if let Some(polled) = self.devices.get_mut(at) {
            polled.life = past.life(voice, next, now);
        }
        Ok(())
    }

    /// Asks how far back there is anything of a device. Where that fails it is put off.
    fn oldest(&mut self, at: usize, now: Timestamp) -> Result<Timestamp, Failure> {
        let Some(polled) = self.devices.get_mut(at) else { return Ok(now) };
        let waits_since = polled.waits_since.map_or(now, |since| since.min(now));
        polled.waits_since = Some(waits_since);
        polled.fetch.set_urgency(first_call(now.since_ms(waits_since)));
        let oldest = guarded(|| polled.fetch.oldest(now));
        // Only for want of a call it has waited: one that is made and fails begins anew, or it would take those of all that works.
        if !oldest.as_ref().is_err_and(|failure| failure.until().is_some()) {
            polled.waits_since = None;
        }
        if let Err(failure) = &oldest {
            // The call may have taken long.
            self.put_off(at, failure, self.now());
        }
        oldest
    }

    /// When a device is asked again that nothing is known of yet.
    fn put_off(&mut self, at: usize, failure: &Failure, now: Timestamp) {
        let of_all = match failure {
            Failure::Hold(until) | Failure::TokenRests { until, .. } => Some(*until),
            // Who is not known is not for any of them.
            Failure::Withdrawn { whose: Whose::Account, .. } => Some(now.plus_ms(WITHDRAWN_MS)),
            _ => None,
        };
        if let Some(until) = of_all {
            for polled in &mut self.devices {
                if let Life::New { again, .. } = &mut polled.life {
                    *again = until.max(*again);
                }
            }
            return;
        }
        let unreachable_every_ms = self.pace.unreachable_every_ms;
        let Some(Polled { life: Life::New { again, failures }, .. }) = self.devices.get_mut(at) else {
            return;
        };
        if let Failure::Spent(until) | Failure::Rests(until) = failure {
            *again = now.plus_ms(SPENT_MS).min(*until);
            return;
        }
        let pause = RETRY_FIRST_MS.saturating_mul(1 << (*failures).min(10)).min(RETRY_MAX_MS);
        // One that nothing is known of yet is not known to anybody: seldom, but again.
        *again = now.plus_ms(match failure {
            Failure::Withdrawn { .. } => WITHDRAWN_MS,
            Failure::Unreachable(_) => unreachable_every_ms,
            _ => pause,
        });
        *failures += 1;
    }
}
