//! Polls out of turn that somebody waits for, pure: a collector's command or a person at the status socket. Each wait ends
//! when its device has answered, or when that took too long. Polls nothing, and does not know what is said then.
//!
//! Contract: [`Polls::begin`] for each that was asked for, [`Polls::answered`] with every answer of a device, and
//! [`Polls::late`] at [`Polls::deadline_ms`] at the latest.

use gapless_common::id::DeviceIndex;

/// How long an answer is waited for, in ms: the longest poll of a bus that is busy with others.
pub(crate) const POLL_WAIT_MS: u64 = 15_000;

/// Who waits at most: as many as the uplink core remembers commands; of people the status socket serves fewer at a time.
const WAITING_MAX: usize = 64;

#[derive(Debug)]
struct Waiting<W> {
    who: W,
    device: DeviceIndex,
    until_ms: u64,
}

/// The polls that somebody waits for.
#[derive(Debug)]
pub(crate) struct Polls<W> {
    waiting: Vec<Waiting<W>>,
}

impl<W> Default for Polls<W> {
    fn default() -> Self {
        Self { waiting: Vec::new() }
    }
}

impl<W> Polls<W> {
    /// Waits for `device` from now on; gives back who asked where too many wait already.
    pub(crate) fn begin(&mut self, who: W, device: DeviceIndex, now_ms: u64) -> Result<(), W> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(who);
        }
        self.waiting.push(Waiting { who, device, until_ms: now_ms.saturating_add(POLL_WAIT_MS) });
        Ok(())
    }

    /// Waits no longer for those that `is_it` finds.
    pub(crate) fn forget(&mut self, is_it: impl Fn(&W) -> bool) {
        self.waiting.retain(|waiting| !is_it(&waiting.who));
    }

    /// When to call [`late`](Self::late).
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        self.waiting.iter().map(|waiting| waiting.until_ms).min()
    }

    /// The device answered: who waited for that.
    pub(crate) fn answered(&mut self, device: DeviceIndex) -> Vec<W> {
        self.waiting.extract_if(.., |waiting| waiting.device == device).map(|waiting| waiting.who).collect()
    }

    /// Those that have waited long enough.
    pub(crate) fn late(&mut self, now_ms: u64) -> Vec<W> {
        self.waiting.extract_if(.., |waiting| waiting.until_ms <= now_ms).map(|waiting| waiting.who).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_the_answer_or_its_time() {
        let mut polls = Polls::default();
        assert_eq!([polls.begin(1, DeviceIndex(0), 0), polls.begin(2, DeviceIndex(1), 500)], [Ok(()); 2]);
        assert_eq!(polls.answered(DeviceIndex(0)), [1]);
        assert!(polls.answered(DeviceIndex(0)).is_empty());
        assert_eq!(polls.deadline_ms(), Some(500 + POLL_WAIT_MS));
        assert!(polls.late(499 + POLL_WAIT_MS).is_empty());
        assert_eq!(polls.late(500 + POLL_WAIT_MS), [2]);
        assert_eq!(polls.deadline_ms(), None);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut polls = Polls::default();
        let begun = (0..100).filter(|who| polls.begin(*who, DeviceIndex(0), 0).is_ok()).count();
        assert_eq!(begun, WAITING_MAX);
        assert_eq!(polls.begin(100, DeviceIndex(0), 0), Err(100));
        polls.forget(|who| *who == 3);
        assert_eq!(polls.begin(100, DeviceIndex(0), 0), Ok(()));
    }
}
