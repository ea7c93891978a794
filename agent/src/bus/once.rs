//! A single poll outside of any schedule: retries always, keeps the samples. Or the newest record of a meter's memory,
//! asked for in the same way.

use std::time::Duration;

use gapless_common::quality::Cause;
use gapless_common::reading::Sample;
use gapless_common::time::Timestamp;

use super::ground::Port;
use super::line::{Ask, ExchangeError, Line};
use super::poller::{Host, PollError, cause_of};
use crate::clock::{Mono, Now};
use crate::config::Device;
use crate::modbus::memory::Settings;
use crate::modbus::memory::reader::{Goal, Reader, Step, Took};
use crate::modbus::{Answer, UnitId};

/// So many requests and waits must bring the newest record: the pointers, some of them again, a record that is selected,
/// read twice, compared with the one before.
const STEPS_MAX: usize = 64;

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

/// Reads the newest record of a device's memory.
pub(super) fn newest_record(
    device: &Device,
    settings: Settings,
    line: &mut Line,
    port: &mut dyn Port,
) -> Result<Vec<Sample>, PollError> {
    let missed = |cause| PollError::Missed { device: device.id.clone(), cause };
    let mut reader =
        Reader::new(settings).map_err(|source| PollError::Plan { device: device.id.clone(), source })?;
    for _ in 0..STEPS_MAX {
        let now = Now { boot_ms: port.boot_ms(), wall: Timestamp::default(), wall_set: false };
        let took = match reader.step(Goal::Newest, now) {
            Step::Nowhere | Step::Mixed => return Err(missed(Cause::NotRecorded)),
            Step::Wait(until_ms) => {
                let wait = Duration::from_millis(until_ms.saturating_sub(now.boot_ms).max(1));
                let until = port.mono().plus(wait);
                port.sleep_until(until);
                continue;
            }
            Step::Ask(request) => match ask(device, &request, line, port) {
                Ok(Ok(data)) => reader.took(&data, now),
                Ok(Err(refusal)) => reader.refused(refusal.0, now),
                Err(error) => return Err(missed(cause_of(&error))),
            },
        };
        match took {
            Took::Records(_, records) => {
                let newest = records.into_iter().next().flatten();
                return newest.map(|record| record.samples).ok_or_else(|| missed(Cause::NotRecorded));
            }
            Took::Refused(code, _) => return Err(missed(Cause::Refused(code))),
            Took::More | Took::Strike(_) => {}
        }
    }
    Err(missed(Cause::NotRecorded))
}

/// One request, again while it fails.
fn ask(
    device: &Device,
    request: &crate::modbus::pdu::Request,
    line: &mut Line,
    port: &mut dyn Port,
) -> Result<Answer, ExchangeError> {
    let timeout = Duration::from_millis(device.timeout_ms.into());
    let turnaround = Duration::from_millis(device.turnaround_ms.into());
    let ask = Ask { unit: UnitId(device.unit), request, timeout, turnaround, is_retry: false };
    let mut result = line.exchange(port, &ask);
    for _ in 0..device.retries {
        if matches!(result, Ok(_) | Err(ExchangeError::Lost(_))) {
            break;
        }
        result = line.exchange(port, &ask);
    }
    result
}
