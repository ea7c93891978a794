//! When what was gathered is made durable, pure: as soon as a burst of polls is over, but never more often than once
//! per durability window, and never later than that.
//!
//! A window that began with the first record of a burst would leave readings in memory for all of it, and a crash
//! would take them along; so the window counts from the commit before, and a burst that begins after it is synced as
//! soon as nothing has come for a tenth of it. The number of syncs stays that of one per window.

/// Parts of the window that must pass without a record.
const QUIET_SHARE: u64 = 10;

/// The pace of commits.
#[derive(Debug)]
pub(super) struct Pace {
    window_ms: u64,
    /// The last commit.
    committed_ms: Option<u64>,
    /// First and last record that wait.
    waiting: Option<(u64, u64)>,
}

impl Pace {
    pub(super) fn new(window_ms: u32) -> Self {
        Self { window_ms: window_ms.into(), committed_ms: None, waiting: None }
    }

    pub(super) fn gathered(&mut self, now_ms: u64) {
        let first_ms = self.waiting.map_or(now_ms, |(first_ms, _)| first_ms);
        self.waiting = Some((first_ms, now_ms));
    }

    pub(super) fn committed(&mut self, now_ms: u64) {
        if self.waiting.take().is_some() {
            self.committed_ms = Some(now_ms);
        }
    }

    /// When the batch is to be durable; `None` where there is none.
    pub(super) fn commit_at_ms(&self) -> Option<u64> {
        let (first_ms, last_ms) = self.waiting?;
        let quiet_ms = last_ms.saturating_add(self.window_ms / QUIET_SHARE);
        let spaced_ms = self.committed_ms.map_or(0, |at| at.saturating_add(self.window_ms));
        Some(quiet_ms.max(spaced_ms).min(first_ms.saturating_add(self.window_ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The instants of the commits that follow from records at `gathered_ms`.
    fn commits(gathered_ms: &[u64]) -> Vec<u64> {
        let (mut pace, mut commits) = (Pace::new(1_000), Vec::new());
        for (place, &at) in gathered_ms.iter().enumerate() {
            pace.gathered(at);
            let next = gathered_ms.get(place + 1).copied().unwrap_or(u64::MAX);
            if let Some(due) = pace.commit_at_ms().filter(|due| *due < next) {
                pace.committed(due);
                commits.push(due);
            }
        }
        commits
    }

    #[test]
    fn a_burst_is_durable_when_it_is_over_and_syncs_keep_their_distance() {
        let rows: [(&[u64], &[u64]); 6] = [
            (&[5_000], &[5_100]),
            (&[5_000, 5_020, 5_090], &[5_190]),
            // Every second: each burst at once.
            (&[5_000, 6_000, 7_000], &[5_100, 6_100, 7_100]),
            // A second burst within the window waits for its end.
            (&[5_000, 5_500], &[5_100, 6_100]),
            // Without a pause: one commit a window.
            (
                &[5_000, 5_090, 5_180, 5_270, 5_360, 5_450, 5_540, 5_630, 5_720, 5_810, 5_900, 5_990, 6_080],
                &[6_000, 7_000],
            ),
            (&[5_000, 5_200, 5_400, 6_050], &[5_100, 6_150]),
        ];
        for (gathered, expected) in rows {
            assert_eq!(commits(gathered), expected, "{gathered:?}");
        }
    }

    #[test]
    fn a_commit_of_nothing_moves_no_window() {
        let mut pace = Pace::new(1_000);
        pace.committed(4_900);
        pace.gathered(5_000);
        assert_eq!(pace.commit_at_ms(), Some(5_100));
        pace.committed(5_100);
        assert_eq!(pace.commit_at_ms(), None);
    }
}
