//! Polls out of turn that the collector waits for, pure: each command ends when its device has answered, or when that
//! took too long. Polls nothing.

use gapless_common::id::DeviceIndex;
use gapless_common::message::Outcome;

/// How long an answer is waited for, in ms: the longest poll of a bus that is busy with others.
const POLL_WAIT_MS: u64 = 15_000;

/// Commands that wait at most: as many as the uplink core remembers.
const WAITING_MAX: usize = 64;

#[derive(Debug)]
struct Waiting {
    command: u64,
    device: DeviceIndex,
    until_ms: u64,
}

/// How commands ended.
pub(super) type Ended = Vec<(u64, Outcome)>;

/// The polls that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Polls {
    waiting: Vec<Waiting>,
}

impl Polls {
    /// Waits for `device` from now on; `false` where too many do already.
    pub(super) fn begin(&mut self, command: u64, device: DeviceIndex, now_ms: u64) -> bool {
        let has_room = self.waiting.len() < WAITING_MAX;
        if has_room {
            self.waiting.push(Waiting { command, device, until_ms: now_ms.saturating_add(POLL_WAIT_MS) });
        }
        has_room
    }

    /// Waits for `command` no longer.
    pub(super) fn forget(&mut self, command: u64) {
        self.waiting.retain(|waiting| waiting.command != command);
    }

    pub(super) fn deadline_ms(&self) -> Option<u64> {
        self.waiting.iter().map(|waiting| waiting.until_ms).min()
    }

    /// The device answered.
    pub(super) fn answered(&mut self, device: DeviceIndex) -> Ended {
        let done = self.waiting.extract_if(.., |waiting| waiting.device == device);
        done.map(|waiting| (waiting.command, Outcome::Done)).collect()
    }

    /// Those that have waited long enough.
    pub(super) fn late(&mut self, now_ms: u64) -> Ended {
        let done = self.waiting.extract_if(.., |waiting| waiting.until_ms <= now_ms);
        let failed = |waiting: Waiting| {
            let why = format!("the device did not answer within {} s", POLL_WAIT_MS / 1_000);
            (waiting.command, Outcome::Failed(why.into()))
        };
        done.map(failed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_ends_with_the_answer_or_its_time() {
        let mut polls = Polls::default();
        assert!(polls.begin(1, DeviceIndex(0), 0) && polls.begin(2, DeviceIndex(1), 500));
        assert_eq!(polls.answered(DeviceIndex(0)), [(1, Outcome::Done)]);
        assert_eq!(polls.answered(DeviceIndex(0)), []);
        assert_eq!(polls.deadline_ms(), Some(500 + POLL_WAIT_MS));
        assert_eq!(polls.late(499 + POLL_WAIT_MS), []);
        assert!(matches!(polls.late(500 + POLL_WAIT_MS)[..], [(2, Outcome::Failed(_))]));
        assert_eq!(polls.deadline_ms(), None);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut polls = Polls::default();
        let begun = (0..100).filter(|command| polls.begin(*command, DeviceIndex(0), 0)).count();
        assert_eq!(begun, WAITING_MAX);
        polls.forget(3);
        assert!(polls.begin(100, DeviceIndex(0), 0));
    }
}
