//! A process, or a machine, that stands still between a request and its answer: when that came nobody knows.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::super::ground::Port;
use super::super::line::{Ask, ExchangeError, Line, STALL_MAX};
use super::*;
use crate::clock::Mono;
use crate::modbus::pdu::Request;
use crate::modbus::rtu::crc16;
use crate::modbus::{Framing, UnitId};

/// What stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Still {
    Process,
    /// Suspended: its monotonic clock stands still, too.
    Machine,
}

/// Answers register 10 of unit 7, and stands still for a while as soon as the begin of the answer is there.
struct Stalling {
    now: Mono,
    suspended: Duration,
    still: Option<(Still, Duration)>,
    framing: Framing,
    /// Bytes that come before it stands still; the others come after.
    begin: usize,
    answer: Vec<u8>,
}

impl Port for Stalling {
    fn mono(&mut self) -> Mono {
        self.now
    }

    fn boot_ms(&mut self) -> u64 {
        self.now.plus(self.suspended).0 / 1_000_000
    }

    fn sleep_until(&mut self, instant: Mono) {
        self.now = self.now.max(instant);
    }

    fn open(&mut self) -> Result<Opened, OpenError> {
        Ok(Opened { prompt: true })
    }

    fn close(&mut self) {}

    fn write_all(&mut self, _: &[u8], _: Mono) -> io::Result<()> {
        let answer = [7, 3, 2, 0, 10];
        self.answer = match self.framing {
            Framing::Mbap => [&FIRST_TRANSACTION, answer.as_slice()].concat(),
            Framing::Rtu => [answer.as_slice(), &crc16(&answer).to_le_bytes()].concat(),
        };
        Ok(())
    }

    fn readable(&mut self, until: Mono) -> io::Result<bool> {
        if self.answer.is_empty() {
            self.now = self.now.max(until);
            return Ok(false);
        }
        match self.still.take() {
            Some((Still::Process, time)) => self.now = self.now.plus(time),
            Some((Still::Machine, time)) => self.suspended += time,
            None => {}
        }
        Ok(true)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.answer.is_empty() {
            return Ok(0);
        }
        let count = std::mem::replace(&mut self.begin, usize::MAX).min(self.answer.len());
        buffer[..count].copy_from_slice(&self.answer[..count]);
        self.answer.drain(..count);
        Ok(count)
    }
}

/// Transaction 1, protocol 0, five bytes follow.
const FIRST_TRANSACTION: [u8; 6] = [0, 1, 0, 0, 0, 5];

#[test]
fn an_answer_that_lay_there_while_all_stood_still_is_none() {
    let timeout = Duration::from_millis(TIMEOUT_MS.into());
    let rtu = serial_bus(Path::new("none"), vec![]).link;
    let mbap = tcp_bus(1, TcpFraming::Mbap, vec![]).link;
    let rows = [
        (Duration::from_millis(1), true),
        (timeout + STALL_MAX / 2, true),
        (timeout + STALL_MAX * 2, false),
        (Duration::from_secs(3_600), false),
    ];
    let ends =
        [(&rtu, Framing::Rtu, usize::MAX), (&rtu, Framing::Rtu, 3), (&mbap, Framing::Mbap, usize::MAX)];
    for (link, framing, begin) in ends {
        let still = |what| rows.map(|(time, counts)| (what, time, counts));
        for (what, time, counts) in still(Still::Process).into_iter().chain(still(Still::Machine)) {
            let now = Mono(1_000_000_000);
            let (suspended, still, answer) = (Duration::ZERO, Some((what, time)), Vec::new());
            let mut port = Stalling { now, suspended, still, framing, begin, answer };
            let mut line = Line::new(link);
            line.open(&mut port).unwrap();
            let request = Request::read(RegisterTable::HoldingRegister, 10, 1).unwrap();
            let (unit, turnaround) = (UnitId(7), Duration::ZERO);
            let ask = Ask { unit, request: &request, timeout, turnaround, is_retry: false };
            let case = format!("{framing:?} after {what:?} stood still for {time:?}, {begin} bytes before");
            match line.exchange(&mut port, &ask) {
                Ok(_) => assert!(counts, "{case}"),
                Err(ExchangeError::TimedOut) => assert!(!counts, "{case}"),
                Err(other) => panic!("{case}: {other}"),
            }
        }
    }
}
