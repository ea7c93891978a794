//! Faults that a unit can be given: what goes wrong, how often, when, and how often at most. Decides by the
//! simulation's seed, so that a run can be repeated; reads no clock.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::adu::Reply;
use crate::truth::mix;

/// What goes wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// No answer; the request is not even looked at.
    Silent,
    /// The answer begins this much later: slow, or, when longer than the master waits, late.
    Delay {
        /// Milliseconds on top of the turnaround.
        ms: u32,
    },
    /// Only the first bytes of the answer come; `None`: half of it.
    Truncated {
        /// How many bytes come.
        bytes: Option<u16>,
    },
    /// One bit of the CRC is wrong. Modbus TCP has no CRC: there the protocol identifier is wrong.
    WrongCrc,
    /// The answer names the next unit.
    WrongUnit,
    /// The answer names another function (CRC right).
    WrongFunction,
    /// The answer's byte count is two short, and so is its data (CRC right).
    WrongCount,
    /// Modbus TCP only: the answer carries the transaction identifier before its own. RTU has none.
    WrongTransaction,
    /// Refusal with this exception code.
    Exception {
        /// Exception code.
        code: u8,
    },
    /// Bytes of noise in front of the answer.
    Garbage {
        /// How many.
        bytes: u16,
    },
    /// Bytes of noise behind the answer.
    TrailingGarbage {
        /// How many.
        bytes: u16,
    },
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("silent"),
            Self::Delay { ms } => write!(f, "delay {ms} ms"),
            Self::Truncated { bytes: None } => f.write_str("truncated to half"),
            Self::Truncated { bytes: Some(bytes) } => write!(f, "truncated to {bytes} bytes"),
            Self::WrongCrc => f.write_str("wrong-crc"),
            Self::WrongUnit => f.write_str("wrong-unit"),
            Self::WrongFunction => f.write_str("wrong-function"),
            Self::WrongCount => f.write_str("wrong-count"),
            Self::WrongTransaction => f.write_str("wrong-transaction"),
            Self::Exception { code } => write!(f, "exception {code}"),
            Self::Garbage { bytes } => write!(f, "garbage of {bytes} bytes"),
            Self::TrailingGarbage { bytes } => write!(f, "trailing garbage of {bytes} bytes"),
        }
    }
}

/// A fault with its conditions.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// Share of requests it strikes, 0 to 1.
    pub probability: f64,
    /// Monotonic nanoseconds from which it is active.
    pub from_ns: u64,
    /// Monotonic nanoseconds until which it is active.
    pub until_ns: u64,
    /// How many requests it lets pass first.
    pub passes: u32,
    /// How many more requests it may strike.
    pub remaining: u32,
}

impl Fault {
    /// Always, from now on, until cleared.
    #[must_use]
    pub fn new(kind: FaultKind) -> Self {
        Self { kind, probability: 1.0, from_ns: 0, until_ns: u64::MAX, passes: 0, remaining: u32::MAX }
    }

    /// Strikes only this share of requests.
    #[must_use]
    pub fn with_probability(self, probability: f64) -> Self {
        Self { probability, ..self }
    }

    /// Active only in this half-open range of monotonic nanoseconds.
    #[must_use]
    pub fn within_ns(self, from_ns: u64, until_ns: u64) -> Self {
        Self { from_ns, until_ns, ..self }
    }

    /// Lets `count` requests pass before it strikes one.
    #[must_use]
    pub fn after(self, count: u32) -> Self {
        Self { passes: count, ..self }
    }

    /// Strikes at most `count` requests.
    #[must_use]
    pub fn times(self, count: u32) -> Self {
        Self { remaining: count, ..self }
    }

    fn strikes(&mut self, now_ns: u64, dice: u64) -> bool {
        let active = (self.from_ns..self.until_ns).contains(&now_ns) && self.remaining > 0;
        if active && self.passes > 0 {
            self.passes -= 1;
            return false;
        }
        let share = f64::from(u32::try_from(dice >> 32).unwrap_or(u32::MAX)) / (f64::from(u32::MAX) + 1.0);
        let hit = active && share < self.probability;
        if hit && self.remaining != u32::MAX {
            self.remaining -= 1;
        }
        hit
    }
}

/// The faults of one unit. Methods may be called while it serves.
#[derive(Debug, Default)]
pub struct Faults {
    active: Mutex<Vec<Fault>>,
}

impl Faults {
    /// Adds a fault beside those there are.
    pub fn add(&self, fault: Fault) {
        self.lock().push(fault);
    }

    /// No answers until cleared.
    pub fn silent(&self) {
        self.add(Fault::new(FaultKind::Silent));
    }

    /// Answers begin `ms` later until cleared: slow below the master's time-out, late above it.
    pub fn delay(&self, ms: u32) {
        self.add(Fault::new(FaultKind::Delay { ms }));
    }

    /// The next `count` answers begin `ms` later.
    pub fn late(&self, ms: u32, count: u32) {
        self.add(Fault::new(FaultKind::Delay { ms }).times(count));
    }

    /// The next `count` answers stop half way.
    pub fn truncated(&self, count: u32) {
        self.add(Fault::new(FaultKind::Truncated { bytes: None }).times(count));
    }

    /// The next `count` answers have a wrong CRC.
    pub fn wrong_crc(&self, count: u32) {
        self.add(Fault::new(FaultKind::WrongCrc).times(count));
    }

    /// The next `count` answers name another unit.
    pub fn wrong_unit(&self, count: u32) {
        self.add(Fault::new(FaultKind::WrongUnit).times(count));
    }

    /// The next `count` answers name another function.
    pub fn wrong_function(&self, count: u32) {
        self.add(Fault::new(FaultKind::WrongFunction).times(count));
    }

    /// The next `count` answers have a byte count that does not fit the request.
    pub fn wrong_count(&self, count: u32) {
        self.add(Fault::new(FaultKind::WrongCount).times(count));
    }

    /// The next `count` answers carry another transaction identifier (Modbus TCP only).
    pub fn wrong_transaction(&self, count: u32) {
        self.add(Fault::new(FaultKind::WrongTransaction).times(count));
    }

    /// The next `count` requests are refused with `code`.
    pub fn exception(&self, code: u8, count: u32) {
        self.add(Fault::new(FaultKind::Exception { code }).times(count));
    }

    /// The next `count` answers have `bytes` bytes of noise in front.
    pub fn garbage(&self, bytes: u16, count: u32) {
        self.add(Fault::new(FaultKind::Garbage { bytes }).times(count));
    }

    /// Ends all faults.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Those that are there, spent ones included.
    #[must_use]
    pub fn list(&self) -> Vec<Fault> {
        self.lock().clone()
    }

    /// Those that strike the request numbered `request`.
    pub(super) fn strike(&self, now_ns: u64, seed: u64, request: u64) -> Vec<FaultKind> {
        let mut faults = self.lock();
        faults.retain(|fault| fault.remaining > 0 && fault.until_ns > now_ns);
        let dice = |i: usize| mix(&[seed, request, u64::try_from(i).unwrap_or(0)]);
        let struck = faults.iter_mut().enumerate().filter_map(|(i, fault)| {
            let hit = fault.strikes(now_ns, dice(i));
            hit.then_some(fault.kind)
        });
        struck.collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fault>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets `kind` spoil `reply`; [`FaultKind::Silent`] and [`FaultKind::Exception`] are dealt with before an answer
/// is made.
pub(super) fn spoil(kind: FaultKind, reply: &mut Reply, seed: u64) {
    match kind {
        FaultKind::Silent | FaultKind::Exception { .. } => {}
        FaultKind::Delay { ms } => reply.delay_ns += u64::from(ms) * 1_000_000,
        FaultKind::Truncated { bytes } => reply.truncate = Some(bytes.map(usize::from)),
        FaultKind::WrongCrc => reply.break_check = true,
        FaultKind::WrongUnit => reply.unit = reply.unit.wrapping_add(1),
        FaultKind::WrongFunction => reply.pdu[0] = if reply.pdu[0] == 3 { 4 } else { 3 },
        FaultKind::WrongCount => shorten(&mut reply.pdu),
        FaultKind::WrongTransaction => reply.transaction_before = true,
        FaultKind::Garbage { bytes } => reply.before = noise(seed, bytes),
        FaultKind::TrailingGarbage { bytes } => reply.after = noise(seed ^ 1, bytes),
    }
}

fn shorten(pdu: &mut Vec<u8>) {
    if pdu.len() >= 4 {
        pdu[1] = pdu[1].saturating_sub(2);
        pdu.truncate(pdu.len() - 2);
    }
}

fn noise(seed: u64, bytes: u16) -> Vec<u8> {
    (0..u64::from(bytes)).map(|i| mix(&[seed, i]).to_le_bytes()[0]).collect()
}
