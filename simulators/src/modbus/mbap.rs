//! One Modbus TCP connection (MODBUS Messaging on TCP/IP V1.0b, section 3.1.3): requests cut out of the stream,
//! however it is divided, answers given back in the order they are due. Pure.
//!
//! Calling contract: as `line`. A header that is none ends the connection, as the specification asks.

use std::sync::Arc;

use super::serve::Wire;
use super::stats::LineStats;
use super::units::Units;
use crate::clock::Now;

/// Header: transaction, protocol, length, unit.
const HEADER_LEN: usize = 7;
/// Least and most that the length field may say: unit and function, unit and the longest PDU.
const LENGTHS: std::ops::RangeInclusive<usize> = 2..=254;

/// One connection.
#[derive(Debug)]
pub struct Connection {
    units: Arc<Units>,
    turnaround_ns: u64,
    rx: Vec<u8>,
    /// Due time and bytes.
    waiting: Vec<(u64, Vec<u8>)>,
    hang_up: bool,
    stats: LineStats,
}

impl Connection {
    /// A new connection; answers take `turnaround_ns`.
    #[must_use]
    pub fn new(units: Arc<Units>, turnaround_ns: u64) -> Self {
        let stats = LineStats { connections: 1, ..LineStats::default() };
        Self { units, turnaround_ns, rx: Vec::new(), waiting: Vec::new(), hang_up: false, stats }
    }

    /// Cuts the next whole request off the stream.
    fn next_request(&mut self) -> Option<(u16, u8, Vec<u8>)> {
        let [t0, t1, p0, p1, l0, l1, unit] = *self.rx.first_chunk::<HEADER_LEN>()?;
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        if [p0, p1] != [0, 0] || !LENGTHS.contains(&len) {
            self.stats.broken_frames += 1;
            self.hang_up = true;
            return None;
        }
        if self.rx.len() < HEADER_LEN - 1 + len {
            return None;
        }
        let frame: Vec<u8> = self.rx.drain(..HEADER_LEN - 1 + len).collect();
        Some((u16::from_be_bytes([t0, t1]), unit, frame[HEADER_LEN..].to_vec()))
    }

    fn serve(&mut self, transaction: u16, unit: u8, pdu: &[u8], now: Now) {
        self.stats.requests += 1;
        let served = self.units.device(unit).is_some() || unit == super::units::BROADCAST;
        let reply =
            if served { self.units.serve(unit, pdu, now) } else { Some(Units::refuse_unknown(unit, pdu)) };
        match reply {
            Some(reply) => {
                let due = now.mono_ns + self.turnaround_ns + reply.delay_ns;
                self.waiting.push((due, reply.mbap(transaction)));
            }
            None => self.stats.unanswered += 1,
        }
    }
}

impl Wire for Connection {
    fn received(&mut self, bytes: &[u8], now: Now) {
        self.stats.bytes_in += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.rx.extend_from_slice(bytes);
        while let Some((transaction, unit, pdu)) = self.next_request() {
            self.serve(transaction, unit, &pdu, now);
        }
    }

    fn wake_at_ns(&self) -> Option<u64> {
        self.waiting.iter().map(|(due, _)| *due).min()
    }

    fn advance(&mut self, now: Now) -> Vec<u8> {
        let mut out = Vec::new();
        // A stable order: requests that are due at one instant are answered in the order they came.
        self.waiting.sort_by_key(|(due, _)| *due);
        let due = self.waiting.partition_point(|(due, _)| *due <= now.mono_ns);
        for (_, frame) in self.waiting.drain(..due) {
            out.extend(frame);
            self.stats.answers += 1;
        }
        self.stats.bytes_out += u64::try_from(out.len()).unwrap_or(u64::MAX);
        out
    }

    fn take_stats(&mut self) -> LineStats {
        std::mem::take(&mut self.stats)
    }

    fn dropped(&mut self, bytes: usize) {
        self.stats.dropped_bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
        // A stream with a hole in it is of no use to anybody.
        self.hang_up = true;
    }

    fn hang_up(&self) -> bool {
        self.hang_up
    }
}
