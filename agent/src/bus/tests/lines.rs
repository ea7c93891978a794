//! Exchanges on a line: what comes late, in pieces or unasked is never taken for an answer, and costs no more than
//! it must.

use std::time::{Duration, Instant};

use super::super::line::{Ask, ExchangeError, Line};
use super::*;
use crate::modbus::pdu::{Request, ResponseData};
use crate::modbus::{Answer, UnitId};

/// A line of a scripted responder.
struct Open {
    line: Line,
    port: Box<dyn ground::Port + Send>,
    _end: End,
}

fn open(end: End) -> Open {
    let link = end.bus(vec![]).link;
    let (mut port, mut line) = (real::port(&link), Line::new(&link));
    line.open(&mut *port).unwrap();
    Open { line, port, _end: end }
}

impl Open {
    /// Asks a unit for one register, which holds its own address.
    fn ask(&mut self, unit: u8, address: u16, timeout_ms: u32) -> Result<Answer, ExchangeError> {
        let request = Request::read(RegisterTable::HoldingRegister, address, 1).unwrap();
        let (timeout, turnaround) = (Duration::from_millis(timeout_ms.into()), Duration::ZERO);
        self.line.exchange(
            &mut *self.port,
            &Ask { unit: UnitId(unit), request: &request, timeout, turnaround, is_retry: false },
        )
    }

    #[track_caller]
    fn answers(&mut self, unit: u8, address: u16) {
        let answer = self.ask(unit, address, TIMEOUT_MS);
        let good = matches!(&answer, Ok(Ok(ResponseData::Registers(words))) if *words == [address]);
        assert!(good, "unit {unit}, register {address}: {answer:?}");
    }

    #[track_caller]
    fn is_silent(&mut self, unit: u8, address: u16, timeout_ms: u32) {
        let answer = self.ask(unit, address, timeout_ms);
        assert!(matches!(answer, Err(ExchangeError::TimedOut)), "{answer:?}");
    }
}

#[test]
fn a_late_answer_never_passes_for_another() {
    // Two requests of one length to one unit; the first is answered after its time-out and the settling.
    let script = Script::new(&[Do::Late(u64::from(TIMEOUT_MS) * 3 / 2), Do::Answer]);
    let end = End::serial(&script);
    let bus = end.bus(vec![device(0, 7, 1_000, &[10, 300])]);
    let samples = read_once(&bus, &bus.devices[0]).unwrap();
    assert_eq!(values(&samples), [Err(Quality::BadNoAnswer), Ok(300.0)]);
}

#[test]
fn a_late_answer_is_awaited_though_another_unit_was_silent_since() {
    // Unit 7 answers 200 ms after its time-out; unit 8's time-out is over before that.
    let script = Script::new(&[Do::Late(u64::from(TIMEOUT_MS) + 200), Do::Silence, Do::Answer]);
    let mut open = open(End::serial(&script));
    open.is_silent(7, 10, TIMEOUT_MS);
    open.is_silent(8, 10, 30);
    open.answers(7, 300);
}

#[test]
fn a_late_answer_that_can_no_longer_come_is_not_awaited() {
    let mut open = open(End::serial(&Script::new(&[Do::Silence, Do::Answer])));
    open.is_silent(7, 10, TIMEOUT_MS);
    let silent = Instant::now();
    while silent.elapsed() < Duration::from_millis(u64::from(TIMEOUT_MS) + 50) {
        open.answers(8, 10);
    }
    open.answers(7, 10);
    let begin = Instant::now();
    open.answers(7, 300);
    assert!(begin.elapsed() < Duration::from_millis(u64::from(TIMEOUT_MS) / 2), "{:?}", begin.elapsed());
}

#[test]
fn an_adapter_that_collects_characters_has_handed_over_all_before_the_next_request() {
    let mut open = open(End::serial(&Script::new(&[Do::Chunks, Do::Answer])));
    if let Line::Serial(line) = &mut open.line {
        line.prompt = false;
    }
    let answer = open.ask(7, 10, TIMEOUT_MS);
    assert!(matches!(answer, Err(ExchangeError::Corrupt(_))), "{answer:?}");
    open.answers(7, 300);
}

#[test]
fn answers_to_other_transactions_are_counted_as_discarded() {
    let mut open = open(End::tcp(&Script::new(&[Do::Stray])));
    open.answers(7, 10);
    // Header of 7 bytes, function, byte count, one register.
    assert_eq!(open.line.take_discarded(), 11);
}
