//! What goes wrong with an answer of the logger, and how often. Reads no clock.

use std::fmt;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The answer comes this much later.
    Slow {
        /// Milliseconds.
        ms: u64,
    },
    /// No answer at all; the connection stays up.
    Silent,
    /// Status 200, and a complaint instead of records.
    ErrorBody,
    /// Status 200 and the page of something else, as a captive portal or a modem shows it.
    Html,
    /// The connection ends in the middle of the answer, though its length was promised.
    CutOff,
    /// Well-framed, but the text of the answer ends in the middle.
    Truncated,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slow { ms } => write!(f, "slow {ms} ms"),
            Self::Silent => f.write_str("silent"),
            Self::ErrorBody => f.write_str("error-body"),
            Self::Html => f.write_str("html"),
            Self::CutOff => f.write_str("cut-off"),
            Self::Truncated => f.write_str("truncated"),
        }
    }
}

/// A fault and how often it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// How many requests it lets pass first.
    pub passes: u32,
    /// How many more it may strike.
    pub remaining: u32,
}

impl Fault {
    /// Always, from now on, until cleared.
    #[must_use]
    pub const fn new(kind: FaultKind) -> Self {
        Self { kind, passes: 0, remaining: u32::MAX }
    }

    /// Strikes at most `count` requests.
    #[must_use]
    pub const fn times(self, count: u32) -> Self {
        Self { remaining: count, ..self }
    }

    /// Lets `count` requests pass before it strikes one.
    #[must_use]
    pub const fn after(self, count: u32) -> Self {
        Self { passes: count, ..self }
    }

    fn strikes(&mut self) -> bool {
        if self.passes > 0 {
            self.passes -= 1;
            return false;
        }
        if self.remaining != u32::MAX && self.remaining > 0 {
            self.remaining -= 1;
            return true;
        }
        self.remaining > 0
    }
}

/// Those of `faults` that strike the next request; spent ones are forgotten.
pub(super) fn strike(faults: &mut Vec<Fault>) -> Vec<FaultKind> {
    let struck = faults.iter_mut().filter_map(|fault| fault.strikes().then_some(fault.kind)).collect();
    faults.retain(|fault| fault.remaining > 0);
    struck
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_as_often_as_it_is_told() {
        let mut faults = vec![Fault::new(FaultKind::Silent).after(1).times(2), Fault::new(FaultKind::Html)];
        let struck: Vec<usize> = (0..5).map(|_| strike(&mut faults).len()).collect();
        assert_eq!(struck, [1, 2, 2, 1, 1]);
    }
}
