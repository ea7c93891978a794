//! Answers that may still come. An RTU frame has no number that tells which request it answers: a late answer to one
//! request passes for the answer to any other of the same unit, function and length, and its values for another
//! register's. So nothing of the kind may be sent while such an answer can come. Pure: keeps no time, reads no port.
//!
//! Contract: before a request ask [`LateAnswers::wait_until`], and listen until then, handing over what comes to
//! [`LateAnswers::heard`]; [`LateAnswers::sent`] when it goes out; whatever is read as its answer, or after it, goes
//! to [`LateAnswers::read`] or [`LateAnswers::heard`]; [`LateAnswers::answered`] when its answer has come.

use std::time::Duration;

use super::line::Ask;
use crate::clock::Mono;
use crate::modbus::UnitId;
use crate::modbus::pdu::{EXCEPTION_LEN, Request};
use crate::modbus::rtu::{OVERHEAD_LEN, answer_len_expected, crc16};
use gapless_common::planted::{self, Bug};

/// An answer may be late by so many time-outs of its device, counted from the end of its request.
const LATE_TIMEOUTS: u32 = 2;
/// Bytes that are looked through for a late answer: the longest frame, and as much before it.
const TAIL_MAX: usize = 512;

/// A request whose answer was not seen.
#[derive(Debug)]
struct Owed {
    unit: UnitId,
    request: Request,
    /// How often it was sent since.
    times: u32,
    until: Mono,
}

/// What is owed on one line.
#[derive(Debug, Default)]
pub(super) struct LateAnswers {
    /// At most one of each request, and none for longer than its answer can come.
    owed: Vec<Owed>,
    /// The last bytes that came since the last request; at most [`TAIL_MAX`].
    tail: Vec<u8>,
}

impl LateAnswers {
    /// Until when `ask` must wait, as the answer to another request would pass for its own. A repetition within one
    /// poll does not wait for the answer to its first try, which is as good; the same request of another poll does,
    /// or a reading of one slot would be stored for the next.
    pub(super) fn wait_until(&mut self, ask: &Ask<'_>, now: Mono) -> Option<Mono> {
        self.owed.retain(|owed| owed.until > now && !planted::has(Bug::AcceptLateAnswer));
        let passes = |owed: &&Owed| {
            owed.unit == ask.unit
                && !(ask.is_retry && owed.request == *ask.request)
                && owed.request.function() == ask.request.function()
                && owed.request.response_len_expected() == ask.request.response_len_expected()
        };
        self.owed.iter().filter(passes).map(|owed| owed.until).max()
    }

    /// How long `ask` must wait; see [`wait_until`](Self::wait_until).
    pub(super) fn wait(&mut self, ask: &Ask<'_>, now: Mono) -> Duration {
        let until = self.wait_until(ask, now).unwrap_or(now);
        Duration::from_nanos(until.since_ns(now))
    }

    /// The last character of `ask` leaves by `end`, which leaves room for what an adapter or a network keeps back.
    pub(super) fn sent(&mut self, ask: &Ask<'_>, end: Mono) {
        let until = end.plus(ask.timeout * LATE_TIMEOUTS);
        self.tail.clear();
        match self.position(ask) {
            Some(index) => {
                self.owed[index].times += 1;
                self.owed[index].until = until;
            }
            None => self.owed.push(Owed { unit: ask.unit, request: ask.request.clone(), times: 1, until }),
        }
    }

    /// The answer to `ask` has come, good or damaged.
    pub(super) fn answered(&mut self, ask: &Ask<'_>) {
        self.tail.clear();
        if let Some(index) = self.position(ask) {
            self.settle(index);
        }
    }

    /// What is read while the answer to the last request is awaited.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        self.tail.extend(bytes);
        let surplus = self.tail.len().saturating_sub(TAIL_MAX);
        self.tail.drain(..surplus);
    }

    /// What comes while no answer is awaited. An intact frame that answers a request is that answer; noise is not.
    pub(super) fn heard(&mut self, bytes: &[u8]) {
        self.read(bytes);
        while let Some((index, end)) = self.find() {
            self.settle(index);
            self.tail.drain(..end);
        }
    }

    fn position(&self, ask: &Ask<'_>) -> Option<usize> {
        self.owed.iter().position(|owed| owed.unit == ask.unit && owed.request == *ask.request)
    }

    fn settle(&mut self, index: usize) {
        self.owed[index].times -= 1;
        if self.owed[index].times == 0 {
            self.owed.swap_remove(index);
        }
    }

    /// The first frame that answers an owed request: which one, and where it ends.
    fn find(&self) -> Option<(usize, usize)> {
        let begins = 0..self.tail.len();
        begins.into_iter().find_map(|begin| {
            let frame = &self.tail[begin..];
            let len = |owed: &Owed| frame_len(owed, frame).filter(|len| is_sealed(frame, *len));
            let found = self.owed.iter().enumerate().find_map(|(index, owed)| Some((index, len(owed)?)));
            found.map(|(index, len)| (index, begin + len))
        })
    }
}

/// Whether what came in vain begins as the answer to `ask` would: then it was that answer, and no other will come.
pub(super) fn begins_as_answer(ask: &Ask<'_>, received: &[u8]) -> bool {
    let functions = [ask.request.function(), ask.request.exception_function()];
    matches!(received, [unit, function, ..] if *unit == ask.unit.0 && functions.contains(function))
}

/// Length of the frame by which `owed` would be answered, where `bytes` begin like one.
fn frame_len(owed: &Owed, bytes: &[u8]) -> Option<usize> {
    let [unit, function, ..] = *bytes else { return None };
    if unit != owed.unit.0 {
        return None;
    }
    if function == owed.request.exception_function() {
        return Some(OVERHEAD_LEN + EXCEPTION_LEN);
    }
    (function == owed.request.function()).then(|| answer_len_expected(&owed.request))
}

fn is_sealed(bytes: &[u8], len: usize) -> bool {
    let Some((covered, crc)) = bytes.get(..len).and_then(|frame| frame.split_last_chunk()) else {
        return false;
    };
    crc16(covered) == u16::from_le_bytes(*crc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modbus::rtu::encode;
    use gapless_common::profile::RegisterTable;

    const MS: u64 = 1_000_000;

    fn read(address: u16, count: u16) -> Request {
        Request::read(RegisterTable::HoldingRegister, address, count).unwrap()
    }

    fn ask(unit: u8, request: &Request, is_retry: bool) -> Ask<'_> {
        let (timeout, turnaround) = (Duration::from_millis(100), Duration::ZERO);
        Ask { unit: UnitId(unit), request, timeout, turnaround, is_retry }
    }

    fn sealed(bytes: &[u8]) -> Vec<u8> {
        [bytes, &crc16(bytes).to_le_bytes()].concat()
    }

    /// Unit 7 owes one register; who has to wait for it?
    #[test]
    fn what_its_answer_would_pass_for_waits() {
        let owed = read(10, 1);
        let (other, longer) = (read(300, 1), read(300, 2));
        let input = Request::read(RegisterTable::InputRegister, 10, 1).unwrap();
        let rows = [
            ("another register", 7, &other, false, true),
            ("the same in another poll", 7, &owed, false, true),
            ("the same again", 7, &owed, true, false),
            ("a retry of another", 7, &other, true, true),
            ("another length", 7, &longer, false, false),
            ("another table", 7, &input, false, false),
            ("another unit", 8, &other, false, false),
        ];
        for (what, unit, request, is_retry, waits) in rows {
            let mut late = LateAnswers::default();
            late.sent(&ask(7, &owed, false), Mono(0));
            let wait = late.wait_until(&ask(unit, request, is_retry), Mono(150 * MS));
            assert_eq!(wait, waits.then_some(Mono(200 * MS)), "{what}");
            assert_eq!(late.wait_until(&ask(unit, request, is_retry), Mono(200 * MS)), None, "{what}");
        }
    }

    #[test]
    fn only_the_answer_itself_ends_the_wait() {
        let (owed, other) = (read(10, 1), read(300, 1));
        let answer = sealed(&[7, 3, 2, 0, 10]);
        let damaged = [&answer[..6], &[answer[6] ^ 1]].concat();
        let rows: [(&str, Vec<u8>, bool); 8] = [
            ("nothing", vec![], false),
            ("noise", vec![0xA5; 600], false),
            ("the answer", answer.clone(), true),
            ("noise around it", [&[7, 3, 1][..], &answer, &[9]].concat(), true),
            ("much noise before it", [&[0xA5; 700][..], &answer].concat(), true),
            ("its refusal", sealed(&[7, 0x83, 4]), true),
            ("damaged", damaged, false),
            ("a neighbour's", sealed(&[8, 3, 2, 0, 10]), false),
        ];
        for (what, bytes, ends) in rows {
            for piece in [1, 5, 1_000] {
                let mut late = LateAnswers::default();
                late.sent(&ask(7, &owed, false), Mono(0));
                bytes.chunks(piece).for_each(|bytes| late.heard(bytes));
                let wait = late.wait_until(&ask(7, &other, false), Mono(MS));
                assert_eq!(wait.is_none(), ends, "{what} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn two_tries_owe_two_answers() {
        let (owed, other) = (read(10, 1), read(300, 1));
        let answer = sealed(&[7, 3, 2, 0, 10]);
        let mut late = LateAnswers::default();
        late.sent(&ask(7, &owed, false), Mono(0));
        late.sent(&ask(7, &owed, true), Mono(120 * MS));
        late.read(&answer);
        late.answered(&ask(7, &owed, true));
        late.heard(&[0xA5]);
        assert_eq!(late.wait_until(&ask(7, &other, false), Mono(250 * MS)), Some(Mono(320 * MS)));
        late.heard(&answer);
        assert_eq!(late.wait_until(&ask(7, &other, false), Mono(250 * MS)), None);
    }

    #[test]
    fn a_damaged_answer_is_told_from_noise() {
        let request = read(10, 1);
        let rows: [(&[u8], bool); 6] = [
            (&[], false),
            (&[7], false),
            (&[7, 3], true),
            (&[7, 0x83, 9], true),
            (&[7, 4], false),
            (&[8, 3], false),
        ];
        for (bytes, begins) in rows {
            assert_eq!(begins_as_answer(&ask(7, &request, false), bytes), begins, "{bytes:?}");
        }
        assert!(!begins_as_answer(&ask(7, &request, false), &encode(UnitId(8), &request)));
    }
}
