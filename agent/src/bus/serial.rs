//! RTU exchanges on a serial port: keeps the line's silent intervals, reads an answer by its expected length. Decides
//! nothing of when or whom to ask, and knows the port only as bytes and time.
//!
//! Timing is that of "MODBUS over serial line specification and implementation guide" V1.02, section 2.5.1.1. A
//! request has no number that its answer could repeat, so whatever may still come after a time-out is waited out
//! and discarded before the next request.

use std::io;
use std::time::Duration;

use super::ground::{OpenError, Port};
use super::late::{LateAnswers, begins_as_answer};
use super::line::{Ask, Deadline, ExchangeError};
use crate::clock::Mono;
use crate::config::Serial;
use crate::modbus::pdu::Request;
use crate::modbus::rtu::{LineTiming, RtuReceiver, encode, request_len};
use crate::modbus::{Answer, Progress};

/// Longest pause within an answer beyond the time of its characters: adapters hand over in chunks, an FTDI
/// without low-latency mode every 16 ms, one behind a busy hub later.
const CHUNK_DELAY_MAX: Duration = Duration::from_millis(50);
/// Least time that the line is listened to after a time-out or a corrupt answer; and longer than an adapter keeps
/// characters for itself, if it is not known to hand them over at once.
const SETTLE_MIN: Duration = Duration::from_millis(20);
/// Share of the device's time-out that the line is listened to after it: what answers late mostly answers soon after.
const SETTLE_SHARE: u32 = 4;
/// A line that is never silent is listened to no longer than this.
const BABBLE_MAX: Duration = Duration::from_secs(1);
/// Below this rest an answer is awaited byte by byte; above it half of the rest is slept through.
const DOZE_MIN: Duration = Duration::from_millis(4);

/// A serial line.
#[derive(Debug)]
pub(super) struct SerialLine {
    timing: LineTiming,
    is_open: bool,
    /// Whether characters are handed over as they come; before the port is open, whether they are asked to be.
    pub(super) prompt: bool,
    /// The instant from which on the next request may begin.
    free_at: Mono,
    late: LateAnswers,
    discarded: u64,
}

impl SerialLine {
    pub(super) fn new(settings: &Serial) -> Self {
        let bits = u8::try_from(settings.character_bits()).unwrap_or(u8::MAX);
        let timing = LineTiming::new(settings.baud, bits);
        let (prompt, free_at) = (settings.low_latency, Mono::default());
        Self { timing, is_open: false, prompt, free_at, late: LateAnswers::default(), discarded: 0 }
    }

    pub(super) fn open(&mut self, port: &mut dyn Port) -> Result<(), OpenError> {
        self.is_open = false;
        self.prompt = port.open()?.prompt;
        self.free_at = port.mono().plus(self.timing.t3_5());
        self.is_open = true;
        Ok(())
    }

    pub(super) fn close(&mut self, port: &mut dyn Port) {
        self.is_open = false;
        port.close();
    }

    pub(super) fn take_discarded(&mut self) -> u64 {
        std::mem::take(&mut self.discarded)
    }

    pub(super) fn wire_time(&self, request: &Request) -> Duration {
        self.timing.exchange(request, Duration::ZERO)
    }

    pub(super) fn silence_time(&self, request: &Request, timeout: Duration) -> Duration {
        self.timing.wire_time(request_len(request)) + timeout + settle(timeout) + self.silence()
    }

    /// How long nothing must come before the line counts as silent: an adapter that collects characters shows a
    /// pause of up to 16 ms where there is none.
    fn silence(&self) -> Duration {
        self.timing.t3_5() + if self.prompt { Duration::ZERO } else { SETTLE_MIN }
    }

    pub(super) fn exchange(&mut self, port: &mut dyn Port, ask: &Ask<'_>) -> Result<Answer, ExchangeError> {
        if !self.is_open {
            return Err(io::Error::from(io::ErrorKind::NotConnected).into());
        }
        let result = self.exchange_on(port, ask);
        if matches!(result, Err(ExchangeError::Lost(_))) {
            self.close(port);
        }
        result
    }

    fn exchange_on(&mut self, port: &mut dyn Port, ask: &Ask<'_>) -> Result<Answer, ExchangeError> {
        self.await_late(port, ask)?;
        port.sleep_until(self.free_at);
        self.discard(port)?;
        let deadline = self.send(port, ask)?;
        match self.receive(port, ask, deadline) {
            Ok(answer) => {
                self.late.answered(ask);
                self.free_at = port.mono().plus(self.timing.t3_5() + ask.turnaround);
                Ok(answer)
            }
            Err(ExchangeError::Lost(e)) => Err(ExchangeError::Lost(e)),
            Err(failure) => {
                self.settle(port, ask.timeout, &failure)?;
                Err(failure)
            }
        }
    }

    /// Writes the request; says until when its answer must begin. That counts from when its last character has left the
    /// port, as the driver may buffer it.
    fn send(&mut self, port: &mut dyn Port, ask: &Ask<'_>) -> Result<Deadline, ExchangeError> {
        let frame = encode(ask.unit, ask.request);
        let on_wire = self.timing.wire_time(frame.len());
        let end = port.mono().plus(on_wire);
        self.free_at = end.plus(self.timing.t3_5());
        self.late.sent(ask, end.plus(self.silence()));
        let deadline = Deadline::new(port, end.plus(ask.timeout));
        port.write_all(&frame, end.plus(on_wire + CHUNK_DELAY_MAX)).map_err(unsent)?;
        Ok(deadline)
    }

    /// Reads until the answer is complete. The time-out is for its begin; from then on each character has its
    /// time on the wire and a delay of the adapter.
    fn receive(
        &mut self,
        port: &mut dyn Port,
        ask: &Ask<'_>,
        mut deadline: Deadline,
    ) -> Result<Answer, ExchangeError> {
        let mut receiver = RtuReceiver::new(ask.unit, ask.request);
        let mut silence = ExchangeError::TimedOut;
        let failure = loop {
            if !port.readable(deadline.until)? {
                break silence;
            }
            let mut buffer = [0; 256];
            let count = port.read(&mut buffer)?;
            self.late.read(&buffer[..count]);
            match receiver.push(&buffer[..count]) {
                Progress::Corrupt(why) => break ExchangeError::Corrupt(why),
                _ if deadline.is_stalled(port) => break ExchangeError::TimedOut,
                Progress::Frame(answer) => return Ok(answer),
                Progress::NeedMore(rest) => {
                    let rest = self.timing.wire_time(rest);
                    let until = port.mono().plus(rest + CHUNK_DELAY_MAX);
                    (deadline, silence) = (Deadline::new(port, until), ExchangeError::Truncated);
                    doze(port, rest);
                }
            }
        };
        if begins_as_answer(ask, receiver.received()) {
            self.late.answered(ask);
        }
        Err(failure)
    }

    /// After a failure: listens until the line is silent, and for a while in any case.
    fn settle(&mut self, port: &mut dyn Port, timeout: Duration, failure: &ExchangeError) -> io::Result<()> {
        let least = match failure {
            ExchangeError::TimedOut => settle(timeout),
            _ => SETTLE_MIN,
        };
        let until = port.mono().plus(least);
        self.discard_until(port, until)
    }

    /// Listens for as long as a late answer could pass for the answer to this request.
    fn await_late(&mut self, port: &mut dyn Port, ask: &Ask<'_>) -> io::Result<()> {
        while let Some(until) = self.late.wait_until(ask, port.mono()) {
            let least = port.mono().plus(SETTLE_MIN).min(until);
            self.discard_until(port, least)?;
        }
        Ok(())
    }

    /// Discards what arrives until `least` has come and the line is silent.
    fn discard_until(&mut self, port: &mut dyn Port, least: Mono) -> io::Result<()> {
        let (begin, silence) = (port.mono(), self.silence());
        let last = least.plus(BABBLE_MAX);
        let mut until = least.max(begin.plus(silence));
        while port.mono() < last && port.readable(until)? {
            self.discard(port)?;
            until = least.max(port.mono().plus(silence));
        }
        self.free_at = self.free_at.max(port.mono());
        Ok(())
    }

    /// Discards what has arrived. Bounded, so that a babbling line cannot hold the thread; the bound is more than a kernel keeps
    /// of a port that nobody reads, as what is left of old noise would pass for the next answer.
    fn discard(&mut self, port: &mut dyn Port) -> io::Result<()> {
        const READS_MAX: usize = 512;
        let mut buffer = [0; 256];
        for _ in 0..READS_MAX {
            let count = port.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            self.late.heard(&buffer[..count]);
            self.discarded += u64::try_from(count).unwrap_or(u64::MAX);
        }
        Ok(())
    }

    /// How long this request would have to wait for a late answer.
    pub(super) fn late_wait(&mut self, ask: &Ask<'_>, now: Mono) -> Duration {
        self.late.wait(ask, now)
    }
}

fn settle(timeout: Duration) -> Duration {
    (timeout / SETTLE_SHARE).max(SETTLE_MIN)
}

/// Sleeps through half of the time that the rest of an answer takes at least, instead of waking at each byte.
fn doze(port: &mut dyn Port, rest: Duration) {
    if rest >= DOZE_MIN {
        let half = port.mono().plus(rest / 2);
        port.sleep_until(half);
    }
}

/// A request that found no room in time may have gone out in part, and is not answered.
fn unsent(error: io::Error) -> ExchangeError {
    match error.kind() {
        io::ErrorKind::TimedOut => ExchangeError::TimedOut,
        _ => ExchangeError::Lost(error),
    }
}
