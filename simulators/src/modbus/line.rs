//! A serial line with its units, in paced time: when a request's last character has left, when each byte of an
//! answer is due, how long the line was silent before a request. Pure: no thread, no clock, no descriptor.
//!
//! Calling contract: `received` with what the line brought, stamped as soon as it came; `advance` at the time
//! that `wake_at_ns` names, or earlier; what `advance` returns is written at once.
//!
//! # Paced time
//! A pty delivers a request at once. Here its characters leave one after the other: the first begins when the bytes
//! were seen, or when the characters before them have left; the request is served when its last character has left.
//! The answer begins after the turnaround (never less than t3.5) and byte *i* is due at the end of its character;
//! no byte is ever early. Bytes due within half a millisecond are handed over together, at the time of the last
//! of them, as a UART's FIFO does; the last byte of an answer always comes at its own time.
//!
//! # The error of a measured silence
//! The silence before a request is measured from the end of the frame before it, on the line, to the instant its
//! first byte was seen.
//! - After an **answer**, the end is the instant just before its last byte was written: nobody can have seen it
//!   earlier. The begin is the instant `poll` returned: the byte was there already. So the measured silence is never
//!   shorter than the true one, and is longer by the delay of one wake-up (tens of microseconds on an idle
//!   machine; [`LineStats::max_late_us`] says how long wake-ups took at worst). A silence below t3.5 is
//!   therefore surely a violation, and is counted without any tolerance; one that is too short by less than the
//!   wake-up delay is missed.
//! - Whatever the delay, the line is looked at once more [`GAP_GUARD_NS`] before t3.5 is over. A silence during
//!   which it was seen to be quiet then is surely as long as that, and is counted as kept. What is neither surely
//!   violated nor surely kept is counted as unsure: on a machine that wakes this thread up late there is much of
//!   it, and a measurement with much of it says little. (One thing stays hidden: bytes that the master has written
//!   and that the kernel has not carried across the pty yet.)
//! - After a **request** that nobody answered, the end is itself known only to the delay of the wake-up that
//!   brought it. Here only what is more than [`AFTER_REQUEST_TOLERANCE_NS`] below t3.5 is counted.

use std::collections::VecDeque;
use std::sync::Arc;

use super::crc;
use super::pdu;
use super::serve::Wire;
use super::units::Units;
use crate::clock::Now;

pub use super::stats::LineStats;

/// What a silence after an unanswered request may fall short of t3.5 before it is surely a violation.
pub const AFTER_REQUEST_TOLERANCE_NS: u64 = 1_000_000;

/// How much before t3.5 the line is looked at once more; see [`LineStats::gaps_kept`].
pub const GAP_GUARD_NS: u64 = 250_000;

/// Bytes due within this time are handed over together.
const GROUP_NS: u64 = 500_000;

/// Longest RTU frame (MODBUS over Serial Line V1.02, section 2.5.1).
const FRAME_LEN_MAX: usize = 256;

/// How long things take on a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// One character, start and stop bits included.
    pub char_ns: u64,
    /// t3.5: the least silence between two frames.
    pub gap_ns: u64,
    /// From the end of a request to the begin of its answer.
    pub turnaround_ns: u64,
}

impl Timing {
    /// A serial line. t3.5 is 3.5 characters, and 1.75 ms above 19,200 baud (MODBUS over Serial Line V1.02,
    /// section 2.5.1.1); the turnaround is never below it.
    #[must_use]
    pub fn serial(baud: u32, bits_per_char: u32, turnaround_ns: u64) -> Self {
        let char_ns = u64::from(bits_per_char) * 1_000_000_000 / u64::from(baud.max(1));
        let gap_ns = if baud > 19_200 { 1_750_000 } else { char_ns * 7 / 2 };
        Self { char_ns, gap_ns, turnaround_ns: turnaround_ns.max(gap_ns) }
    }

    /// RTU frames on a TCP connection: characters take no time, and only a pause of 100 ms ends a frame that is
    /// not complete.
    #[must_use]
    pub const fn stream() -> Self {
        Self { char_ns: 0, gap_ns: 100_000_000, turnaround_ns: 0 }
    }
}

#[derive(Debug)]
struct Pending {
    unit: u8,
    pdu: Vec<u8>,
    due_ns: u64,
}

#[derive(Debug)]
struct Outgoing {
    begin_ns: u64,
    bytes: Vec<u8>,
    sent: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum FrameEnd {
    Request(u64),
    Answer(u64),
}

/// One line.
#[derive(Debug)]
pub struct Line {
    timing: Timing,
    units: Arc<Units>,
    rx: Vec<u8>,
    rx_end_ns: u64,
    requests: VecDeque<Pending>,
    waiting: Vec<Outgoing>,
    current: Option<Outgoing>,
    tx_free_ns: u64,
    last_end: Option<FrameEnd>,
    quiet_at_ns: u64,
    stats: LineStats,
}

impl Line {
    /// A silent line.
    #[must_use]
    pub fn new(timing: Timing, units: Arc<Units>) -> Self {
        Self {
            timing,
            units,
            rx: Vec::new(),
            rx_end_ns: 0,
            requests: VecDeque::new(),
            waiting: Vec::new(),
            current: None,
            tx_free_ns: 0,
            last_end: None,
            quiet_at_ns: 0,
            stats: LineStats::default(),
        }
    }

    fn take(&mut self, byte: u8, now_ns: u64) {
        let begin = self.rx_end_ns.max(now_ns);
        if self.rx.is_empty() {
            self.measure_silence(begin);
        }
        self.rx_end_ns = begin + self.timing.char_ns;
        if self.rx.len() <= FRAME_LEN_MAX {
            self.rx.push(byte);
        }
        if self.is_complete() {
            self.accept();
        }
    }

    fn is_complete(&self) -> bool {
        let len = self.rx.get(1..).and_then(pdu::request_len).flatten();
        len.is_some_and(|len| self.rx.len() == len + 3) && crc::is_sealed(&self.rx)
    }

    fn accept(&mut self) {
        let frame = std::mem::take(&mut self.rx);
        let pdu = frame[1..frame.len() - 2].to_vec();
        self.requests.push_back(Pending { unit: frame[0], pdu, due_ns: self.rx_end_ns });
        self.last_end = Some(FrameEnd::Request(self.rx_end_ns));
        self.stats.requests += 1;
    }

    fn measure_silence(&mut self, begin_ns: u64) {
        if self.timing.char_ns == 0 {
            return;
        }
        let (end, surely_ns) = match (&self.current, self.last_end) {
            (Some(_), _) => {
                self.stats.collisions += 1;
                (begin_ns, self.timing.gap_ns)
            }
            (None, Some(FrameEnd::Answer(end))) => (end, self.timing.gap_ns),
            (None, Some(FrameEnd::Request(end))) => {
                (end, self.timing.gap_ns.saturating_sub(AFTER_REQUEST_TOLERANCE_NS))
            }
            (None, None) => return,
        };
        self.judge(end, begin_ns, surely_ns);
    }

    fn judge(&mut self, end_ns: u64, begin_ns: u64, surely_ns: u64) {
        let silence = begin_ns.saturating_sub(end_ns);
        if silence < surely_ns {
            self.stats.violations += 1;
        } else if self.quiet_at_ns >= end_ns + self.timing.gap_ns - GAP_GUARD_NS {
            self.stats.gaps_kept += 1;
        } else {
            self.stats.gaps_unsure += 1;
        }
        self.stats.min_silence_us = self.stats.min_silence_us.into_iter().chain([silence / 1_000]).min();
    }

    /// When the line must be looked at once more to be sure of a silence.
    fn watch_at_ns(&self) -> Option<u64> {
        let idle = self.rx.is_empty() && self.current.is_none() && self.timing.char_ns > 0;
        let (FrameEnd::Answer(end) | FrameEnd::Request(end)) = self.last_end.filter(|_| idle)?;
        let at = end + self.timing.gap_ns - GAP_GUARD_NS;
        (self.quiet_at_ns < at).then_some(at)
    }

    /// Ends a frame that a pause has ended: served where it is a request for a function unknown here (its length
    /// shows only now), thrown away otherwise.
    fn settle(&mut self, now_ns: u64) {
        if self.rx.is_empty() || now_ns < self.rx_end_ns + self.timing.gap_ns {
            return;
        }
        let unknown_function = self.rx.len() >= 4 && pdu::request_len(&self.rx[1..]).is_none();
        if unknown_function && crc::is_sealed(&self.rx) {
            self.accept();
        } else {
            self.rx.clear();
            self.stats.broken_frames += 1;
            self.last_end = Some(FrameEnd::Request(self.rx_end_ns));
        }
    }

    fn serve_due(&mut self, now: Now) {
        while self.requests.front().is_some_and(|request| request.due_ns <= now.mono_ns) {
            let Some(request) = self.requests.pop_front() else { break };
            match self.units.serve(request.unit, &request.pdu, now) {
                Some(reply) => {
                    let begin_ns = request.due_ns + self.timing.turnaround_ns + reply.delay_ns;
                    self.waiting.push(Outgoing { begin_ns, bytes: reply.rtu(), sent: 0 });
                }
                None => self.stats.unanswered += 1,
            }
        }
    }

    fn next_waiting(&self) -> Option<usize> {
        (0..self.waiting.len()).min_by_key(|i| self.waiting[*i].begin_ns)
    }

    fn begin_answer(&mut self, now_ns: u64) {
        let Some(next) = self.next_waiting().filter(|_| self.current.is_none()) else { return };
        if self.waiting[next].begin_ns <= now_ns {
            let mut answer = self.waiting.swap_remove(next);
            answer.begin_ns = answer.begin_ns.max(self.tx_free_ns);
            self.current = Some(answer);
        }
    }

    fn emit(&mut self, now_ns: u64) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            self.begin_answer(now_ns);
            let Some(mut answer) = self.current.take() else { break };
            let due = due_bytes(&answer, self.timing.char_ns, now_ns);
            out.extend_from_slice(&answer.bytes[answer.sent.min(due)..due]);
            answer.sent = answer.sent.max(due);
            if answer.sent < answer.bytes.len() {
                self.current = Some(answer);
                break;
            }
            self.finish_answer(&answer, now_ns);
        }
        self.stats.bytes_out += len_u64(&out);
        out
    }

    fn finish_answer(&mut self, answer: &Outgoing, now_ns: u64) {
        self.tx_free_ns = answer.begin_ns + self.timing.char_ns * len_u64(&answer.bytes);
        self.last_end = Some(FrameEnd::Answer(now_ns));
        self.stats.answers += 1;
        self.stats.max_late_us = self.stats.max_late_us.max(now_ns.saturating_sub(self.tx_free_ns) / 1_000);
    }

    fn next_byte_due_ns(&self, answer: &Outgoing) -> u64 {
        let group = GROUP_NS.checked_div(self.timing.char_ns).unwrap_or(u64::MAX).max(1);
        let sent = u64::try_from(answer.sent).unwrap_or(u64::MAX);
        let last = sent.saturating_add(group).min(len_u64(&answer.bytes));
        answer.begin_ns + last * self.timing.char_ns
    }
}

fn len_u64(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// How many bytes of `answer` have left the transmitter at `now_ns`.
fn due_bytes(answer: &Outgoing, char_ns: u64, now_ns: u64) -> usize {
    let Some(elapsed) = now_ns.checked_sub(answer.begin_ns) else { return 0 };
    let due = elapsed.checked_div(char_ns).unwrap_or(u64::MAX);
    usize::try_from(due).unwrap_or(usize::MAX).min(answer.bytes.len())
}

impl Wire for Line {
    fn received(&mut self, bytes: &[u8], now: Now) {
        self.stats.bytes_in += len_u64(bytes);
        self.settle(now.mono_ns);
        for byte in bytes {
            self.take(*byte, now.mono_ns);
        }
    }

    fn wake_at_ns(&self) -> Option<u64> {
        let request = self.requests.front().map(|request| request.due_ns);
        let byte = self.current.as_ref().map(|answer| self.next_byte_due_ns(answer));
        let answer = self.next_waiting().filter(|_| self.current.is_none());
        let begin = answer.map(|i| self.next_byte_due_ns(&self.waiting[i]).max(self.tx_free_ns));
        let pause = (!self.rx.is_empty()).then_some(self.rx_end_ns + self.timing.gap_ns);
        [request, byte, begin, pause, self.watch_at_ns()].into_iter().flatten().min()
    }

    fn advance(&mut self, now: Now) -> Vec<u8> {
        self.settle(now.mono_ns);
        self.serve_due(now);
        self.emit(now.mono_ns)
    }

    fn quiet_at(&mut self, ns: u64) {
        self.quiet_at_ns = ns;
    }

    fn take_stats(&mut self) -> LineStats {
        std::mem::take(&mut self.stats)
    }

    fn dropped(&mut self, bytes: usize) {
        self.stats.dropped_bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modbus::device::DeviceKind;
    use crate::modbus::fault::{Fault, FaultKind};

    const MS: u64 = 1_000_000;
    const T0: u64 = 1_000 * MS;

    fn at(mono_ns: u64) -> Now {
        Now { mono_ns, wall_ms: 1_767_225_600_000 + i64::try_from(mono_ns / MS).unwrap() }
    }

    fn line(baud: u32, bits: u32) -> Line {
        let kinds: Vec<(u8, DeviceKind)> = (1..=2).map(|id| (id, "generic:20".parse().unwrap())).collect();
        Line::new(Timing::serial(baud, bits, 5 * MS), Arc::new(Units::new(&kinds, 1).unwrap()))
    }

    fn request(unit: u8, count: u16) -> Vec<u8> {
        let mut frame = vec![unit, 3, 0, 0];
        frame.extend(count.to_be_bytes());
        crc::seal(&mut frame);
        frame
    }

    /// Runs the line until it has nothing to do; gives each piece with the time it was written.
    fn run(line: &mut Line) -> Vec<(u64, Vec<u8>)> {
        let mut out = Vec::new();
        while let Some(wake) = line.wake_at_ns() {
            line.quiet_at(wake);
            let bytes = line.advance(at(wake));
            if !bytes.is_empty() {
                out.push((wake, bytes));
            }
        }
        out
    }

    /// 8 characters of request, turnaround, 85 of answer: (baud, bits, longer of 5 ms and t3.5, t3.5)
    #[test]
    fn bytes_are_due_at_the_end_of_their_character() {
        let rows = [
            (9_600, 10, 5 * MS, 3_645_831),
            (19_200, 11, 5 * MS, 2_005_206),
            (1_200, 10, 29_166_665, 29_166_665),
            (115_200, 10, 5 * MS, 1_750_000),
        ];
        for (baud, bits, turnaround, gap) in rows {
            let mut line = line(baud, bits);
            let char_ns = u64::from(bits) * 1_000_000_000 / u64::from(baud);
            assert!(line.timing.gap_ns.abs_diff(gap) < 10, "{baud}: gap {}", line.timing.gap_ns);
            assert!(line.timing.turnaround_ns.abs_diff(turnaround) < 10, "{baud}: turnaround");
            line.received(&request(1, 40), at(T0));
            let written = run(&mut line);
            let begin = T0 + 8 * char_ns + line.timing.turnaround_ns;
            let mut count = 0;
            for (when, bytes) in &written {
                count += len_u64(bytes);
                assert!(*when >= begin + count * char_ns, "{baud}: byte {count} early");
                assert!(*when < begin + count * char_ns + char_ns, "{baud}: byte {count} late");
            }
            assert_eq!(count, 85, "{baud}");
            assert_eq!(line.stats.violations, 0);
        }
    }

    #[test]
    fn a_short_silence_is_a_violation_and_a_whole_one_is_not() {
        // (pause after the answer in µs, violations), t3.5 at 9600 8N1 being 3646 µs
        for (pause_us, violations) in [(3_646, 0), (3_600, 1), (0, 1), (50_000, 0)] {
            let mut line = line(9_600, 10);
            line.received(&request(1, 2), at(T0));
            let end = run(&mut line).last().unwrap().0;
            line.received(&request(2, 2), at(end + pause_us * 1_000));
            assert_eq!(line.stats.violations, violations, "{pause_us}");
            assert_eq!(line.stats.min_silence_us, Some(pause_us));
        }
    }

    #[test]
    fn a_request_on_the_heels_of_an_unanswered_one_is_a_violation() {
        for (pause_us, violations) in [(3_700, 0), (2_700, 0), (2_500, 1), (0, 1)] {
            let mut line = line(9_600, 10);
            line.received(&request(9, 2), at(T0));
            let end = line.rx_end_ns;
            assert!(run(&mut line).is_empty(), "unit 9 is not there");
            line.received(&request(1, 2), at(end + pause_us * 1_000));
            assert_eq!((line.stats.violations, line.stats.unanswered), (violations, 1), "{pause_us}");
        }
    }

    #[test]
    fn talking_into_an_answer_is_a_collision() {
        let mut line = line(9_600, 10);
        line.received(&request(1, 40), at(T0));
        let mid = T0 + 40 * MS;
        while line.wake_at_ns().unwrap() < mid {
            let now = at(line.wake_at_ns().unwrap());
            line.quiet_at(now.mono_ns);
            line.advance(now);
        }
        line.received(&request(2, 2), at(mid));
        assert_eq!((line.stats.collisions, line.stats.violations), (1, 1));
    }

    #[test]
    fn requests_come_in_pieces_and_noise_is_forgotten_after_a_pause() {
        let whole = request(1, 2);
        // (pieces with their time in ms, requests, broken frames)
        type Pieces<'a> = &'a [(u64, &'a [u8])];
        let rows: [(Pieces<'_>, u64, u64); 5] = [
            (&[(0, &whole[..3]), (3, &whole[3..])], 1, 0),
            (&[(0, &whole[..3]), (30, &whole)], 1, 1),
            (&[(0, b"noise"), (30, &whole)], 1, 1),
            (&[(0, b"noise"), (1, &whole)], 0, 1),
            (&[(0, &[0xFF; 600]), (700, &whole)], 1, 1),
        ];
        for (pieces, requests, broken) in rows {
            let mut line = line(9_600, 10);
            for (ms, piece) in pieces {
                line.received(piece, at(T0 + ms * MS));
            }
            run(&mut line);
            assert_eq!((line.stats.requests, line.stats.broken_frames), (requests, broken), "{pieces:?}");
        }
    }

    #[test]
    fn an_unknown_function_is_refused_once_its_length_shows() {
        let mut line = line(9_600, 10);
        let mut frame = vec![1, 0x2B, 0x0E, 1, 0];
        crc::seal(&mut frame);
        line.received(&frame, at(T0));
        let answer: Vec<u8> = run(&mut line).into_iter().flat_map(|(_, bytes)| bytes).collect();
        assert_eq!(answer[..3], [1, 0xAB, 1]);
        assert!(crc::is_sealed(&answer));
    }

    #[test]
    fn a_late_answer_comes_between_those_of_others() {
        let mut line = line(9_600, 10);
        line.units.faults(1).unwrap().add(Fault::new(FaultKind::Delay { ms: 500 }).times(1));
        line.received(&request(1, 2), at(T0));
        line.advance(at(T0 + 20 * MS));
        line.received(&request(2, 2), at(T0 + 300 * MS));
        let answers = run(&mut line);
        let units: Vec<u8> = answers
            .iter()
            .scan(0, |seen, (_, bytes)| {
                let first = (*seen % 9 == 0).then(|| bytes[0]);
                *seen += bytes.len();
                Some(first)
            })
            .flatten()
            .collect();
        assert_eq!(units, [2, 1]);
        assert!(answers.last().unwrap().0 > T0 + 500 * MS);
    }
}
