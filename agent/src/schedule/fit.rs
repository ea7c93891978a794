//! Whether something extra fits on the bus. Knows no clock and changes nothing.

use super::boot;
use super::entry::Entry;
use crate::clock::Now;

/// Whether every healthy device but `except` can still be polled within its next slot when the bus is first
/// busy for `cost_ms`: the demand test of earliest-deadline-first scheduling, over one poll of each device.
pub(super) fn all_in_time(entries: &[Entry], except: usize, cost_ms: i64, now: Now) -> bool {
    let mut jobs: Vec<(i64, i64, i64)> = entries
        .iter()
        .enumerate()
        .filter(|(index, entry)| *index != except && entry.is_healthy())
        .map(|(_, entry)| (entry.deadline(now), entry.due(now), entry.poll_ms()))
        .collect();
    jobs.sort_unstable();
    let mut free = boot(now).saturating_add(cost_ms);
    jobs.into_iter().all(|(deadline, due, poll_ms)| {
        free = free.max(due).saturating_add(poll_ms);
        free <= deadline
    })
}
