//! The collector's commands, pure: each id is carried out once, and answered as often as it is asked.
//!
//! The memory is bounded and does not survive a restart: every command is harmless when carried out twice,
//! and one that was answered is not sent again.

use std::collections::VecDeque;

use gapless_common::message::{Outcome, Reply};

/// Commands remembered. The collector sends what is unanswered, a handful.
const REMEMBERED_MAX: usize = 64;

/// What is known of a command's id.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Not seen before.
    New,
    /// Being carried out.
    Pending,
    /// Ended so.
    Ended(Reply),
}

/// Ids seen, oldest first, with how they ended.
#[derive(Debug, Default)]
pub(super) struct Commands {
    seen: VecDeque<(u64, Option<Outcome>)>,
}

impl Commands {
    /// Looks `id` up, and remembers it from now on.
    pub(super) fn begin(&mut self, id: u64) -> Known {
        if let Some((_, outcome)) = self.seen.iter().find(|(seen, _)| *seen == id) {
            return match outcome.clone() {
                Some(outcome) => Known::Ended(Reply { id, outcome }),
                None => Known::Pending,
            };
        }
        if self.seen.len() >= REMEMBERED_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back((id, None));
        Known::New
    }

    /// `id` was not carried out, and may be asked for again.
    pub(super) fn forget(&mut self, id: u64) {
        self.seen.retain(|(seen, _)| *seen != id);
    }

    /// Notes how `id` ended.
    pub(super) fn end(&mut self, id: u64, outcome: Outcome) -> Reply {
        if let Some((_, ended)) = self.seen.iter_mut().find(|(seen, _)| *seen == id) {
            *ended = Some(outcome.clone());
        }
        Reply { id, outcome }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_is_carried_out_once_and_answered_each_time() {
        let mut commands = Commands::default();
        assert_eq!(commands.begin(7), Known::New);
        assert_eq!(commands.begin(7), Known::Pending);
        let reply = commands.end(7, Outcome::Done);
        assert_eq!(commands.begin(7), Known::Ended(reply));
        for id in 100..100 + u64::try_from(REMEMBERED_MAX).unwrap() {
            assert_eq!(commands.begin(id), Known::New);
        }
        assert_eq!(commands.begin(7), Known::New, "the memory is bounded");
        commands.forget(7);
        assert_eq!(commands.begin(7), Known::New, "what was not carried out may be asked again");
    }
}
