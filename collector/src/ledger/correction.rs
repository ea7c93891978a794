//! True time for readings that were taken before the gateway's clock was set. Idempotent, whichever of the
//! reading and its correction comes first. Moves no rows itself.

use gapless_common::id::Epoch;
use gapless_common::planted::{self, Bug};
use gapless_common::reading::ClockCorrection;
use gapless_common::time::Timestamp;

use super::{Agent, AgentNo, CORRECTIONS_MAX, Ledger};

impl Ledger {
    /// A correction came. Returns whether it is new.
    pub fn correction(&mut self, no: AgentNo, correction: &ClockCorrection) -> bool {
        let agent = self.agent_mut(no);
        let new = !agent.corrections.contains(correction);
        // All records of a forgotten epoch have come.
        if new && !agent.forgotten.contains(correction.epoch) {
            agent.corrections.push(*correction);
            if agent.corrections.len() > CORRECTIONS_MAX {
                let oldest = agent.corrections.remove(0);
                self.changes.forgotten_corrections.push((no, oldest));
            }
        }
        new
    }
}

impl Agent {
    /// The true time of what was acquired at `boot_clock_ms`, once a correction speaks of its record.
    #[must_use]
    pub fn true_time(&self, epoch: Epoch, seq: u64, boot_clock_ms: u64) -> Option<Timestamp> {
        let holds = |c: &&ClockCorrection| c.epoch == epoch && (c.first.0..=c.last.0).contains(&seq);
        let correction = self.corrections.iter().find(holds)?;
        let off_ms = if planted::has(Bug::ShiftCorrection) { 3_600_000 } else { 0 };
        Some(correction.boot_began.plus_ms(i64::try_from(boot_clock_ms).unwrap_or(i64::MAX)).plus_ms(off_ms))
    }
}
