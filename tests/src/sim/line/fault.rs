//! What can go wrong on a simulated line, and how often. Decides by the dice it is handed; reads no clock.

use std::collections::BTreeMap;

use gapless_simulators::truth::mix;

/// What goes wrong with one request. Spans are milliseconds, both ends included; the dice say where between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nobody answers.
    Silent,
    /// The answer begins so long after the request: slow below the master's time-out, late above it.
    Late {
        /// At least; a device that takes its time begins later.
        from_ms: u32,
        /// At most.
        to_ms: u32,
    },
    /// Only a part of the answer comes.
    Truncated,
    /// One bit of the CRC, or of MBAP's protocol identifier, is wrong.
    WrongCheck,
    /// The answer names a unit that is not on the line.
    WrongUnit,
    /// The answer names another function; its CRC is right.
    WrongFunction,
    /// The answer is two bytes short and says so; its CRC is right.
    WrongCount,
    /// The answer carries the transaction before its own. Modbus TCP only: elsewhere nothing goes wrong.
    WrongTransaction,
    /// The device refuses.
    Exception {
        /// Exception code.
        code: u8,
    },
    /// Noise directly in front of the answer.
    NoiseBefore {
        /// How many bytes.
        bytes: u16,
    },
    /// Noise directly behind the answer.
    NoiseAfter {
        /// How many bytes.
        bytes: u16,
    },
    /// A good answer, and noise when nothing is expected any more.
    NoiseBetween {
        /// How many bytes.
        bytes: u16,
        /// After the answer's end, at least.
        from_ms: u32,
        /// At most.
        to_ms: u32,
    },
    /// Noise at once, and the answer when it is no longer expected.
    NoiseThenLate {
        /// How many bytes.
        bytes: u16,
        /// When the answer begins, at least.
        from_ms: u32,
        /// At most.
        to_ms: u32,
    },
    /// Noise without a pause from the request on.
    Babble {
        /// For at least so long.
        from_ms: u32,
        /// At most.
        to_ms: u32,
    },
    /// The port or connection goes while the request is under way, and can be opened again later.
    Unplugged {
        /// After at least so long.
        from_ms: u32,
        /// At most.
        to_ms: u32,
    },
    /// The device restarts at this request, which it does not answer: its counters begin again.
    Restart,
}

impl Fault {
    /// A word for it, for counts and reports.
    #[must_use]
    pub const fn slug(&self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Late { .. } => "late",
            Self::Truncated => "truncated",
            Self::WrongCheck => "wrong check",
            Self::WrongUnit => "wrong unit",
            Self::WrongFunction => "wrong function",
            Self::WrongCount => "wrong count",
            Self::WrongTransaction => "wrong transaction",
            Self::Exception { .. } => "exception",
            Self::NoiseBefore { .. } => "noise before",
            Self::NoiseAfter { .. } => "noise after",
            Self::NoiseBetween { .. } => "noise between",
            Self::NoiseThenLate { .. } => "noise, then late",
            Self::Babble { .. } => "babble",
            Self::Unplugged { .. } => "unplugged",
            Self::Restart => "restart",
        }
    }
}

/// How often which fault strikes a request: at most one each.
#[derive(Debug, Clone, Default)]
pub struct Chances(Vec<(u32, Fault)>);

/// The chances are shares of so many requests.
pub const CHANCES_OF: u32 = 10_000;

impl Chances {
    /// Nothing goes wrong by itself.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// `fault` strikes `share` of [`CHANCES_OF`] requests, beside the others.
    #[must_use]
    pub fn with(mut self, share: u32, fault: Fault) -> Self {
        self.0.push((share, fault));
        self
    }

    /// Every kind of fault with the same share, timed for a master that waits `timeout_ms` for an answer.
    #[must_use]
    pub fn of_every_kind(share: u32, timeout_ms: u32) -> Self {
        let around = |from: u32, to: u32| (timeout_ms * from / 100, timeout_ms * to / 100);
        let ((slow, slower), (late, later)) = (around(20, 90), around(101, 195));
        let faults = [
            Fault::Silent,
            Fault::Late { from_ms: slow, to_ms: slower },
            Fault::Late { from_ms: late, to_ms: later },
            Fault::Truncated,
            Fault::WrongCheck,
            Fault::WrongUnit,
            Fault::WrongFunction,
            Fault::WrongCount,
            Fault::WrongTransaction,
            Fault::Exception { code: 4 },
            Fault::Exception { code: 6 },
            Fault::NoiseBefore { bytes: 3 },
            Fault::NoiseAfter { bytes: 2 },
            Fault::NoiseBetween { bytes: 5, from_ms: 1, to_ms: timeout_ms },
            Fault::NoiseThenLate { bytes: 2, from_ms: slow, to_ms: later },
            Fault::Babble { from_ms: slow, to_ms: later },
            Fault::Unplugged { from_ms: 100, to_ms: 3 * timeout_ms },
            Fault::Restart,
        ];
        faults.into_iter().fold(Self::none(), |chances, fault| chances.with(share, fault))
    }

    pub(super) fn draw(&self, dice: &mut Dice) -> Option<Fault> {
        let mut drawn = dice.below(CHANCES_OF.into());
        for (share, fault) in &self.0 {
            match drawn.checked_sub((*share).into()) {
                Some(rest) => drawn = rest,
                None => return Some(*fault),
            }
        }
        None
    }
}

/// How often which fault struck, by its slug.
pub type FaultCounts = BTreeMap<&'static str, u64>;

/// Numbers that follow from a seed.
#[derive(Debug, Clone)]
pub struct Dice {
    seed: u64,
    drawn: u64,
}

impl Dice {
    /// The sequence of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    pub(super) fn draw(&mut self) -> u64 {
        self.drawn += 1;
        mix(&[self.seed, self.drawn])
    }

    /// Below `bound`; 0 where that is 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }

    /// From `first` to `last`, both included.
    pub(super) fn within(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first) + 1)
    }

    pub(super) fn noise(&mut self, bytes: u64) -> Vec<u8> {
        (0..bytes).map(|_| self.draw().to_le_bytes()[0]).collect()
    }
}
