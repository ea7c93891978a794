//! A single poll outside of any schedule: retries always, keeps the samples.

use gapless_common::reading::Sample;

use super::ground::Port;
use super::line::{Ask, ExchangeError, Line};
use super::poller::Host;
use crate::clock::Mono;
use crate::modbus::Answer;

/// The poll, as the poller sees it.
pub(super) struct Once<'a> {
    line: Line,
    port: &'a mut dyn Port,
    samples: Vec<Sample>,
}

impl<'a> Once<'a> {
    /// On a line that is open.
    pub(super) fn new(line: Line, port: &'a mut dyn Port) -> Self {
        Self { line, port, samples: Vec::new() }
    }

    /// In ascending order of channel.
    pub(super) fn into_samples(mut self) -> Vec<Sample> {
        self.samples.sort_by_key(|sample| sample.channel);
        self.samples
    }
}

impl Host for Once<'_> {
    fn mono(&mut self) -> Mono {
        self.port.mono()
    }

    fn exchange(&mut self, ask: &Ask<'_>) -> Result<Answer, ExchangeError> {
        self.line.exchange(self.port, ask)
    }

    fn may_retry(&mut self, _: &Ask<'_>) -> bool {
        true
    }

    fn is_probe(&self) -> bool {
        false
    }

    fn is_stopping(&mut self) -> bool {
        false
    }

    fn retries(&mut self) {}

    fn answered(&mut self, samples: Vec<Sample>) {
        self.samples.extend(samples);
    }
}
