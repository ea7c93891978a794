//! One poll through a host that answers as the row says: how far it goes, and what it complains of.

use gapless_common::reading::Sample;

use super::super::driver::Complaint;
use super::super::line::{Ask, ExchangeError};
use super::super::poller::{Host, Poller};
use super::*;
use crate::clock::Mono;
use crate::modbus::pdu::{Mismatch, Refusal, Request, ResponseData};
use crate::modbus::{Answer, Corrupt};

/// How a request ends, by the address it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Answered,
    Refused(u8),
    Corrupt,
    Silent,
}

struct Fake {
    probe: bool,
    how: Vec<(u16, How)>,
    asked: Vec<u16>,
    samples: Vec<Sample>,
}

impl Host for Fake {
    fn mono(&mut self) -> Mono {
        Mono::default()
    }

    fn exchange(&mut self, ask: &Ask<'_>) -> Result<Answer, ExchangeError> {
        let address = |at: u16| Request::read(RegisterTable::HoldingRegister, at, 1).unwrap();
        let (at, end) = *self.how.iter().find(|(at, _)| address(*at) == *ask.request).unwrap();
        self.asked.push(at);
        match end {
            How::Answered => Ok(Ok(ResponseData::Registers(vec![at]))),
            How::Refused(code) => Ok(Err(Refusal(ExceptionCode(code)))),
            How::Corrupt => Err(ExchangeError::Corrupt(Corrupt::Pdu(Mismatch::Echo))),
            How::Silent => Err(ExchangeError::TimedOut),
        }
    }

    fn may_retry(&mut self, _: &Ask<'_>) -> bool {
        !self.probe
    }

    fn is_probe(&self) -> bool {
        self.probe
    }

    fn is_stopping(&mut self) -> bool {
        false
    }

    fn retries(&mut self) {}

    fn answered(&mut self, samples: Vec<Sample>) {
        self.samples.extend(samples);
    }
}

/// Polls a device of three requests, as often as there are lists of what is asked.
#[track_caller]
fn check(probe: bool, how: [How; 3], asked: &[&[u16]]) {
    let addresses = [10, 300, 600];
    let mut poller = Poller::new(&device(0, 7, 1_000, &addresses)).unwrap();
    for expected in asked {
        let how = addresses.into_iter().zip(how).collect();
        let mut host = Fake { probe, how, asked: vec![], samples: vec![] };
        let answered = poller.poll(&mut host).is_ok();
        assert_eq!(host.asked, *expected, "probe {probe}, {how:?}", how = host.how);
        assert_eq!(answered, host.samples.len() == 3, "each channel once, or not at all");
    }
}

#[test]
fn a_poll_goes_on_while_there_is_something_to_hope_for() {
    use How::{Answered, Corrupt, Refused, Silent};
    let all: &[u16] = &[10, 300, 600];
    check(false, [Answered; 3], &[all, all]);
    check(false, [Corrupt, Answered, Corrupt], &[all]);
    check(false, [Silent, Answered, Answered], &[all]);
    // A probe is one request until one is answered, and another one each time.
    check(true, [Silent; 3], &[&[10], &[300], &[600], &[10]]);
    check(true, [Corrupt; 3], &[&[10], &[300]]);
    check(true, [Refused(0x0B); 3], &[&[10], &[300]]);
    check(true, [Silent, Answered, Answered], &[&[10], &[300, 600, 10]]);
    check(true, [Answered, Corrupt, Answered], &[all]);
}

#[test]
fn a_complaint_is_heard_once_per_change() {
    let device = || DeviceId::new("d").unwrap();
    let no_model = |id| Err(PollError::NoModel { device: device(), models: vec![id], wanted: vec![103] });
    let rows = [
        (Ok(()), false),
        (no_model(101), true),
        (no_model(101), false),
        (Err(PollError::Missed { device: device(), cause: Cause::NoAnswer }), false),
        (no_model(101), false),
        (no_model(102), true),
        (Ok(()), true),
        (Ok(()), false),
        (no_model(102), true),
    ];
    let mut complaint = Complaint::default();
    for (n, (result, news)) in rows.iter().enumerate() {
        assert_eq!(complaint.heard(result), *news, "row {n}");
    }
}
