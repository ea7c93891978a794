//! Rows of what monitoring asks.

use std::collections::BTreeMap;

use gapless_common::quality::Cause;

use super::{AgentRow, DeviceRow, Head, ReceiverRow};
use crate::gaps::life::Phase;

/// Gaps that are not filled, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GapCount {
    /// How they stand.
    pub phase: Phase,
    /// Why they are.
    pub cause: Cause,
    /// How many.
    pub gaps: u64,
    /// Their slots.
    pub slots: u64,
}

/// How long the work of jobs took that ended in one way, since the database was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobTimes {
    /// In which, as a word.
    pub outcome: &'static str,
    /// Bounds in ms, ascending, each with the number of jobs that took no longer, and longer than the bound before it.
    pub by_duration: Vec<(i64, u64)>,
    /// All of them, those that took longer than every bound among them.
    pub jobs: u64,
    /// Their work together, in ms.
    pub ms: u64,
}

/// What monitoring wants to know, of one committed state.
#[derive(Debug, Clone, PartialEq)]
pub struct Meters {
    /// Where the database stands.
    pub head: Head,
    /// Every agent.
    pub agents: Vec<AgentRow>,
    /// Every device.
    pub devices: Vec<DeviceRow>,
    /// Gaps that are not filled, by state and cause.
    pub gaps: Vec<GapCount>,
    /// What became of gaps, by word, since the database was made.
    pub gap_events: BTreeMap<&'static str, u64>,
    /// How often a source was asked again for a gap.
    pub gap_retries: u64,
    /// Jobs, by state as a word.
    pub jobs: BTreeMap<&'static str, u64>,
    /// Jobs that have ended, by outcome.
    pub job_times: Vec<JobTimes>,
    /// Alerts that are not over, by kind as a word.
    pub alerts: BTreeMap<&'static str, u64>,
    /// Who is told of them.
    pub receivers: Vec<ReceiverRow>,
    /// Series, all revisions.
    pub series: u64,
    /// Parked frames.
    pub parked: u64,
    /// Their bytes.
    pub parked_bytes: u64,
    /// Bytes of the database file.
    pub file_bytes: u64,
}
