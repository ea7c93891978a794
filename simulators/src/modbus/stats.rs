//! What a line or an endpoint counts. Adds up; decides nothing.

use serde::Serialize;

/// Counts of a line or an endpoint since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct LineStats {
    /// Connections accepted (TCP).
    pub connections: u64,
    /// Whole requests with a good checksum, for whatever unit.
    pub requests: u64,
    /// Answers sent to their last byte.
    pub answers: u64,
    /// Requests that nobody answered: broadcasts, unknown units, silent units.
    pub unanswered: u64,
    /// Frames thrown away: incomplete, wrong checksum, or no request at all.
    pub broken_frames: u64,
    /// Requests that began before the line had been silent for t3.5, surely (see `line`).
    pub violations: u64,
    /// Requests before which the line was surely silent for t3.5, but for 0.25 ms.
    pub gaps_kept: u64,
    /// Requests of which neither can be said, because this thread was woken up late.
    pub gaps_unsure: u64,
    /// Requests that began while an answer was going out; each is a violation as well.
    pub collisions: u64,
    /// Least silence before a request, in microseconds.
    pub min_silence_us: Option<u64>,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Bytes that the pty had no room for, because nobody reads.
    pub dropped_bytes: u64,
    /// By how much the last byte of an answer was late at worst, in microseconds: how badly the machine was
    /// delaying this thread, and so the likely error of a silence.
    pub max_late_us: u64,
}

impl LineStats {
    /// Adds what another part has counted.
    pub fn add(&mut self, other: &Self) {
        let sums: [(&mut u64, u64); 12] = [
            (&mut self.connections, other.connections),
            (&mut self.requests, other.requests),
            (&mut self.answers, other.answers),
            (&mut self.unanswered, other.unanswered),
            (&mut self.broken_frames, other.broken_frames),
            (&mut self.violations, other.violations),
            (&mut self.gaps_kept, other.gaps_kept),
            (&mut self.gaps_unsure, other.gaps_unsure),
            (&mut self.collisions, other.collisions),
            (&mut self.bytes_in, other.bytes_in),
            (&mut self.bytes_out, other.bytes_out),
            (&mut self.dropped_bytes, other.dropped_bytes),
        ];
        for (sum, more) in sums {
            *sum += more;
        }
        self.min_silence_us = self.min_silence_us.into_iter().chain(other.min_silence_us).min();
        self.max_late_us = self.max_late_us.max(other.max_late_us);
    }
}
