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

/// Answers register 10 of unit 7, and stands still for a while as soon as the answer is there.
struct Stalling {
    now: Mono,
    still: Duration,
    framing: Framing,
    answer: Vec<u8>,
}

impl Port for Stalling {
    fn mono(&mut self) -> Mono {
        self.now
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
        self.now = self.now.plus_ns(u64::try_from(self.still.as_nanos()).unwrap());
        Ok(true)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let answer = std::mem::take(&mut self.answer);
        buffer[..answer.len()].copy_from_slice(&answer);
        Ok(answer.len())
    }
}

/// Transaction 1, protocol 0, five bytes follow.
const FIRST_TRANSACTION: [u8; 6] = [0, 1, 0, 0, 0, 5];

#[test]
fn an_answer_that_lay_there_while_all_stood_still_is_none() {
    let timeout = Duration::from_millis(TIMEOUT_MS.into());
    let rtu = serial_bus(Path::new("none"), vec![]).link;
    let mbap = tcp_bus(1, TcpFraming::Mbap, vec![]).link;
    for (link, framing) in [(&rtu, Framing::Rtu), (&mbap, Framing::Mbap)] {
        for (still, counts) in [
            (Duration::from_millis(1), true),
            (timeout + STALL_MAX / 2, true),
            (timeout + STALL_MAX * 2, false),
            (Duration::from_secs(3_600), false),
        ] {
            let mut port = Stalling { now: Mono(1_000_000_000), still, framing, answer: Vec::new() };
            let mut line = Line::new(link);
            line.open(&mut port).unwrap();
            let request = Request::read(RegisterTable::HoldingRegister, 10, 1).unwrap();
            let ask = Ask {
                unit: UnitId(7),
                request: &request,
                timeout,
                turnaround: Duration::ZERO,
                is_retry: false,
            };
            match line.exchange(&mut port, &ask) {
                Ok(_) => assert!(counts, "{framing:?} after {still:?}"),
                Err(ExchangeError::TimedOut) => assert!(!counts, "{framing:?} after {still:?}"),
                Err(other) => panic!("{framing:?} after {still:?}: {other}"),
            }
        }
    }
}
