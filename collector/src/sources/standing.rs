//! A device that cannot be reached, is reached again, or may not be asked any more.

use std::collections::BTreeMap;

use gapless_common::planted::{self, Bug};
use gapless_common::quality::Cause;
use gapless_common::time::Timestamp;

use super::describe::{WITHDRAWN_OF, Whose};
use super::failure::Failure;
use super::life::Life;
use super::shell::Shell;
use crate::ingest::Inbound;
use crate::obstacle;

/// A source that refuses its consent before anything of it is known is asked again so much later.
pub(super) const WITHDRAWN_MS: i64 = 7 * 86_400_000;

impl Shell {
    /// The source cannot reach the device: it is asked seldom, and what it would have had is missing for that reason.
    pub(super) fn away(&mut self, at: usize, why: &str) -> Result<(), Failure> {
        let (now, every_ms) = (self.now(), self.pace.unreachable_every_ms);
        let Some(known) = self.known(at) else { return Ok(()) };
        let is_new = known.away_until.replace(now.plus_ms(every_ms)).is_none();
        if is_new {
            tracing::warn!(agent = known.voice.path().agent.as_str(), why, "the source cannot reach it");
            let unread = *known.unread.get_or_insert(known.next);
            let mut words = said(obstacle::Kind::Unreachable, now, why);
            words.insert(UNREAD.to_owned(), unread.to_string());
            let messages = known.voice.attribute(&words, now)?;
            self.hand_in(messages)?;
        }
        self.settle(at, Cause::NotConnected)
    }

    /// The source reached the device.
    pub(super) fn back(&mut self, at: usize) -> Result<(), Failure> {
        let now = self.now();
        let Some(known) = self.known(at) else { return Ok(()) };
        if known.away_until.take().is_none() {
            return Ok(());
        }
        tracing::info!(agent = known.voice.path().agent.as_str(), "the source reaches it again");
        let messages = known.voice.attribute(&unsaid(&[obstacle::Kind::Unreachable]), now)?;
        self.hand_in(messages)
    }

    /// A device is polled no more, whose consent was withdrawn; what is known of it says since when and why.
    pub(super) fn withdraw(&mut self, at: usize, why: &str) -> Result<(), Failure> {
        let device = self.devices.get(at).map(|polled| polled.device.id.as_str());
        tracing::error!(source = self.pace.name, device, why, "consent withdrawn: not asked any more");
        let messages = self.stop(at, Whose::Device, why)?;
        self.hand_in(messages)
    }

    /// The same of all devices of the source.
    pub(super) fn withdraw_all(&mut self, why: &str) -> Result<(), Failure> {
        tracing::error!(source = self.pace.name, why, "consent withdrawn: no device is asked any more");
        let now = self.now();
        if let Some(lister) = &mut self.lister {
            lister.rest(now);
        }
        let mut messages = Vec::new();
        for at in 0..self.devices.len() {
            messages.extend(self.stop(at, Whose::Account, why)?);
        }
        self.hand_in(messages)
    }

    fn stop(&mut self, at: usize, whose: Whose, why: &str) -> Result<Vec<Inbound>, Failure> {
        let now = self.now();
        // What it owes ends here: nobody may ask for what has not come by now. Whether that can be told or not, it is asked no more.
        if !planted::has(Bug::OwedUnnamed)
            && let Err(error) = self.account(at, Cause::NotConnected, now)
        {
            tracing::error!(%error, "it is not told what a device owes whose consent was withdrawn");
        }
        let Some(polled) = self.devices.get_mut(at) else { return Ok(Vec::new()) };
        let mut attributes = said(obstacle::Kind::NotAuthorised, now, why);
        attributes.extend(unsaid(&[obstacle::Kind::Unreachable]));
        attributes.insert(WITHDRAWN_OF.to_owned(), whose.word().to_owned());
        // One that was not asked yet is not asked for as long as one that refused itself.
        let late = now.plus_ms(WITHDRAWN_MS);
        let new = Life::New { again: late, failures: 0 };
        let (life, messages) = match std::mem::replace(&mut polled.life, new) {
            Life::Known(known) => {
                let mut voice = Box::new(known.voice);
                let messages = voice.pause(&attributes, now)?;
                (Life::Withdrawn(voice, whose), messages)
            }
            Life::New { again, failures } => (Life::New { again: again.max(late), failures }, Vec::new()),
            over @ (Life::Withdrawn(..) | Life::Removed(_)) => (over, Vec::new()),
        };
        polled.life = life;
        Ok(messages)
    }
}

/// What begins there was not read while the device could not be reached.
pub(super) const UNREAD: &str = "unread_since";

/// The attributes that say what stands in the way of a device, since when and why.
pub(super) fn said(kind: obstacle::Kind, since: Timestamp, why: &str) -> BTreeMap<String, String> {
    let [since_key, why_key] = kind.keys().map(str::to_owned);
    [(since_key, since.to_string()), (why_key, why.to_owned())].into()
}

/// Those that take it back.
pub(super) fn unsaid(kinds: &[obstacle::Kind]) -> BTreeMap<String, String> {
    let keys = kinds.iter().flat_map(|kind| kind.keys());
    let unread = kinds.contains(&obstacle::Kind::Unreachable).then_some(UNREAD);
    keys.chain(unread).map(|key| (key.to_owned(), String::new())).collect()
}
