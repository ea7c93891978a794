//! A device that cannot be reached, is reached again, or may not be asked any more.

use std::collections::BTreeMap;

use gapless_common::quality::Cause;

use super::failure::Failure;
use super::life::Life;
use super::shell::Shell;
use crate::clock;

/// A source that refuses its consent before anything of it is known is asked again so much later.
pub(super) const WITHDRAWN_MS: i64 = 7 * 86_400_000;

impl Shell {
    /// The source cannot reach the device: it is asked seldom, and what it would have had is missing for that reason.
    pub(super) fn away(&mut self, at: usize, why: &str) -> Result<(), Failure> {
        let (now, every_ms) = (clock::now(), self.pace.unreachable_every_ms);
        let Some(known) = self.known(at) else { return Ok(()) };
        let is_new = known.away_until.replace(now.plus_ms(every_ms)).is_none();
        if is_new {
            tracing::warn!(agent = known.voice.path().agent.as_str(), why, "the source cannot reach it");
            let unread = *known.unread.get_or_insert(known.next);
            let words = [
                ("unreachable_since", now.to_string()),
                ("unreachable_reason", why.to_owned()),
                ("unread_since", unread.to_string()),
            ];
            let messages = known.voice.attribute(&named(words), now)?;
            self.hand_in(messages)?;
        }
        self.settle(at, Cause::NotConnected)
    }

    /// The source reached the device.
    pub(super) fn back(&mut self, at: usize) -> Result<(), Failure> {
        let now = clock::now();
        let Some(known) = self.known(at) else { return Ok(()) };
        if known.away_until.take().is_none() {
            return Ok(());
        }
        tracing::info!(agent = known.voice.path().agent.as_str(), "the source reaches it again");
        let words =
            ["unreachable_since", "unreachable_reason", "unread_since"].map(|key| (key, String::new()));
        let messages = known.voice.attribute(&named(words), now)?;
        self.hand_in(messages)
    }

    /// No device of the source is polled any more; what is known of them says since when and why.
    pub(super) fn withdraw(&mut self, why: &str) -> Result<(), Failure> {
        let now = clock::now();
        tracing::error!(source = self.pace.name, why, "consent withdrawn: not asked any more");
        let attributes =
            named([("not_authorised_since", now.to_string()), ("not_authorised_reason", why.to_owned())]);
        let mut messages = Vec::new();
        if let Some(lister) = &mut self.lister {
            lister.rest(now);
        }
        for polled in &mut self.devices {
            // One that was not asked yet is not asked for as long as one that refused itself.
            let new = Life::New { again: now.plus_ms(WITHDRAWN_MS), failures: 0 };
            polled.life = match std::mem::replace(&mut polled.life, new) {
                Life::Known(known) => {
                    let mut voice = Box::new(known.voice);
                    messages.extend(voice.pause(&attributes, now)?);
                    Life::Withdrawn(voice)
                }
                Life::New { again, failures } => {
                    Life::New { again: again.max(now.plus_ms(WITHDRAWN_MS)), failures }
                }
                over @ (Life::Withdrawn(_) | Life::Removed(_)) => over,
            };
        }
        self.hand_in(messages)
    }
}

pub(super) fn named<const N: usize>(words: [(&str, String); N]) -> BTreeMap<String, String> {
    words.into_iter().map(|(key, text)| (key.to_owned(), text)).collect()
}
