//! One poll of a device: its requests in turn, each with its retries. Opens no line and keeps no time; what a
//! device refuses and what its answers mean is [`crate::modbus::poll`]'s business.

use std::time::Duration;

use gapless_common::id::DeviceId;
use gapless_common::profile::ChannelSpec;
use gapless_common::quality::{Cause, ExceptionCode, Quality};
use gapless_common::reading::Sample;

use super::ground::OpenError;
use super::line::{Ask, ExchangeError, Line};
use crate::clock::Mono;
use crate::config::Device;
use crate::modbus::pdu::{Refusal, Request, ResponseData};
use crate::modbus::plan::{Limits, PlanError};
use crate::modbus::poll::{Consequence, DevicePoll};
use crate::modbus::sunspec::{Chain, Walk, WalkError};
use crate::modbus::{Answer, UnitId};

/// Time that an answered request is taken to need beside that of its characters, until polls have been measured.
pub(super) const ANSWER_DELAY: Duration = Duration::from_millis(20);

/// Where a poll gets its answers, and where its samples go.
pub(super) trait Host {
    /// The monotonic clock.
    fn mono(&mut self) -> Mono;
    /// Sends a request and waits for its answer.
    fn exchange(&mut self, ask: &Ask<'_>) -> Result<Answer, ExchangeError>;
    /// Whether there is time for one more request after one that failed.
    fn may_retry(&mut self, ask: &Ask<'_>) -> bool;
    /// Whether the poll is a probe: over with its first request that brings nothing.
    fn is_probe(&self) -> bool;
    /// Whether the agent is about to stop, so that a poll that goes badly is better given up.
    fn is_stopping(&mut self) -> bool;
    /// A request is about to be sent again.
    fn retries(&mut self);
    /// Samples of an answer that is complete now; never empty.
    fn answered(&mut self, samples: Vec<Sample>);
}

/// Why a device could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// The port or connection could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no way to ask for its channels.
    #[error("device {device} cannot be read")]
    Plan {
        /// Which.
        device: DeviceId,
        /// Why not.
        #[source]
        source: PlanError,
    },
    /// It answers, but has no SunSpec models where they were looked for.
    #[error("device {device} has no SunSpec models")]
    NotSunSpec {
        /// Which.
        device: DeviceId,
        /// Why not.
        #[source]
        source: WalkError,
    },
    /// It has SunSpec models, and none of those that its measurements are in.
    #[error(
        "device {device} has SunSpec models {}, not {}: choose the profile of one of these",
        numbers(models),
        numbers(wanted)
    )]
    NoModel {
        /// Which.
        device: DeviceId,
        /// Ids of the models it has.
        models: Vec<u16>,
        /// Ids of the models that its channels are in, without the one that every device has.
        wanted: Vec<u16>,
    },
    /// It has the SunSpec models of its channels, but they are too short to hold any of these.
    #[error(
        "device {device} has none of its channels: its SunSpec models {} end before them",
        numbers(models)
    )]
    ShortModels {
        /// Which.
        device: DeviceId,
        /// Ids of the models it has.
        models: Vec<u16>,
    },
    /// It gave nothing at all.
    #[error("device {device}: {cause}")]
    Missed {
        /// Which.
        device: DeviceId,
        /// Why.
        cause: Cause,
    },
}

/// The polls of one device.
#[derive(Debug)]
pub(super) struct Poller {
    device: DeviceId,
    unit: UnitId,
    timeout: Duration,
    turnaround: Duration,
    retries: u8,
    poll: DevicePoll,
    /// Of a device whose channels stand in SunSpec models.
    models: Option<Models>,
}

#[derive(Debug)]
struct Models {
    bases: Vec<u16>,
    channels: Vec<ChannelSpec>,
    limits: Limits,
    /// Whether `poll` is planned with the addresses that the models have now, as far as known.
    located: bool,
}

/// What a poll has seen so far.
#[derive(Debug, Default)]
struct Tally {
    answered: bool,
    refused: Option<Refusal>,
    corrupt: bool,
    lost: bool,
}

impl Tally {
    /// Why nothing was answered: what says most about the device.
    fn cause(&self) -> Cause {
        match (self.lost, self.refused, self.corrupt) {
            (true, ..) => Cause::NotConnected,
            (_, Some(Refusal(code)), _) => Cause::Refused(code),
            (.., true) => Cause::Corrupt,
            _ => Cause::NoAnswer,
        }
    }

    fn unasked(&self) -> Quality {
        match self.cause() {
            Cause::NotConnected => Quality::BadNotConnected,
            Cause::Refused(code) => Quality::BadRefused(code),
            _ => Quality::BadNoAnswer,
        }
    }
}

impl Poller {
    pub(super) fn new(device: &Device) -> Result<Self, PollError> {
        let limits = device.limits();
        let poll = DevicePoll::new(device.channels.clone(), limits)
            .map_err(|source| PollError::Plan { device: device.id.clone(), source })?;
        let models = device.sunspec.as_ref().map(|sunspec| Models {
            bases: sunspec.bases.clone(),
            channels: device.channels.clone(),
            limits,
            located: false,
        });
        Ok(Self {
            device: device.id.clone(),
            unit: UnitId(device.unit),
            timeout: Duration::from_millis(device.timeout_ms.into()),
            turnaround: Duration::from_millis(device.turnaround_ms.into()),
            retries: device.retries,
            poll,
            models,
        })
    }

    /// How long an answered poll takes at least.
    pub(super) fn poll_time(&self, line: &Line) -> Duration {
        let requests = self.poll.requests();
        requests.map(|read| line.wire_time(read.request()) + ANSWER_DELAY + self.turnaround).sum()
    }

    /// How long a request without answer takes at most.
    pub(super) fn probe_time(&self, line: &Line) -> Duration {
        let requests = self.poll.requests();
        let longest = requests.map(|read| line.silence_time(read.request(), self.timeout)).max();
        longest.unwrap_or(self.timeout)
    }

    /// One poll. A probe ends with its first request that is not answered.
    ///
    /// # Errors
    /// The cause, where no request was answered.
    pub(super) fn poll(&mut self, host: &mut dyn Host) -> Result<(), PollError> {
        self.find_models(host)?;
        let mut tally = self.ask_all(host);
        if self.poll.has_moved() && !tally.answered {
            self.lose_models();
            self.find_models(host)?;
            tally = self.ask_all(host);
        }
        self.conclude(&tally, host)
    }

    /// All requests of a poll, in turn, as far as it makes sense to go on.
    fn ask_all(&mut self, host: &mut dyn Host) -> Tally {
        let mut tally = Tally::default();
        self.poll.begin(since_start(host));
        while let Some(read) = self.poll.current() {
            let request = read.request().clone();
            let result = self.ask(&request, host);
            let goes_on = self.take(&request, result, &mut tally, host);
            if !goes_on || self.poll.has_moved() || (host.is_probe() && !tally.answered) {
                break;
            }
        }
        tally
    }

    fn conclude(&mut self, tally: &Tally, host: &mut dyn Host) -> Result<(), PollError> {
        let rest = self.poll.end(tally.unasked());
        // What comes back after a long silence may be another device.
        if self.poll.has_moved() || (host.is_probe() && tally.answered) {
            self.lose_models();
        }
        if !tally.answered {
            if !tally.lost {
                self.poll.rotate();
            }
            return Err(self.missed(tally.cause()));
        }
        deliver(rest, host);
        Ok(())
    }

    /// The device is walked along again before its next request.
    fn lose_models(&mut self) {
        if let Some(models) = &mut self.models {
            models.located = false;
        }
    }

    fn missed(&self, cause: Cause) -> PollError {
        PollError::Missed { device: self.device.clone(), cause }
    }

    /// At first contact with a SunSpec device, and whenever its models may have moved: finds them, and plans anew
    /// with their addresses.
    fn find_models(&mut self, host: &mut dyn Host) -> Result<(), PollError> {
        let Some(models) = self.models.as_ref().filter(|models| !models.located) else { return Ok(()) };
        let chain = self.walk(&models.bases, host)?;
        let channels: Vec<ChannelSpec> = models.channels.iter().map(|spec| chain.locate(spec)).collect();
        let poll = DevicePoll::within(channels, &chain.used_by(&models.channels), models.limits)
            .map_err(|source| PollError::Plan { device: self.device.clone(), source })?;
        let device = || self.device.clone();
        if let Some(wanted) = chain.lacks_all(&models.channels) {
            return Err(PollError::NoModel { device: device(), models: chain.ids(), wanted });
        }
        if poll.plan().unlocated().len() == models.channels.len() {
            return Err(PollError::ShortModels { device: device(), models: chain.ids() });
        }
        self.poll = poll;
        if let Some(models) = &mut self.models {
            models.located = true;
        }
        Ok(())
    }

    fn walk(&self, bases: &[u16], host: &mut dyn Host) -> Result<Chain, PollError> {
        let mut walk = Walk::new(bases);
        while let Some(request) = walk.current().cloned() {
            match self.ask(&request, host) {
                Ok(Ok(data)) => walk.answered(&data),
                Ok(Err(Refusal(code))) if is_passing(code) => return Err(self.missed(Cause::Refused(code))),
                Ok(Err(_)) => walk.refused(),
                Err(failure) => return Err(self.missed(cause_of(&failure))),
            }
        }
        walk.finish().map_err(|source| PollError::NotSunSpec { device: self.device.clone(), source })
    }

    /// Notes how a request ended; says whether to go on with the next one.
    fn take(
        &mut self,
        request: &Request,
        result: Result<Answer, ExchangeError>,
        tally: &mut Tally,
        host: &mut dyn Host,
    ) -> bool {
        match result {
            Ok(Ok(data)) => {
                self.take_data(&data, tally, host);
                true
            }
            Ok(Err(refusal)) => {
                tally.refused = Some(refusal);
                let split = self.poll.refused(refusal.0, since_start(host));
                !matches!(split, Consequence::Split(_)) || host.may_retry(&self.request(request))
            }
            Err(ExchangeError::Corrupt(_) | ExchangeError::Truncated) => {
                tally.corrupt = true;
                self.poll.failed(Quality::BadCorrupt);
                !host.is_stopping()
            }
            // A device that has answered in this poll is alive: what it passes over in silence costs its time-out.
            Err(ExchangeError::TimedOut) => {
                self.poll.failed(Quality::BadNoAnswer);
                tally.answered && !host.is_stopping() || host.may_retry(&self.request(request))
            }
            Err(ExchangeError::Lost(_)) => {
                tally.lost = true;
                false
            }
        }
    }

    /// Where the answer shows that the models have moved before anything was delivered, nothing is: the poll can
    /// then begin anew.
    fn take_data(&mut self, data: &ResponseData, tally: &mut Tally, host: &mut dyn Host) {
        let samples = self.poll.answered(data);
        if self.poll.has_moved() && !tally.answered {
            tally.corrupt = true;
            return;
        }
        tally.answered = true;
        deliver(samples, host);
    }

    fn request<'a>(&self, request: &'a Request) -> Ask<'a> {
        let (timeout, turnaround) = (self.timeout, self.turnaround);
        Ask { unit: self.unit, request, timeout, turnaround, is_retry: false }
    }

    /// Sends a request, again while it fails and there is time.
    fn ask(&self, request: &Request, host: &mut dyn Host) -> Result<Answer, ExchangeError> {
        let mut ask = self.request(request);
        let mut left = self.retries;
        loop {
            let result = host.exchange(&ask);
            ask.is_retry = true;
            let final_word = matches!(result, Ok(_) | Err(ExchangeError::Lost(_)));
            if final_word || left == 0 || !host.may_retry(&ask) {
                return result;
            }
            left -= 1;
            host.retries();
        }
    }
}

fn numbers(ids: &[u16]) -> String {
    ids.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

/// A device that says so is alive and asks for patience (V1.1b3, section 7, codes 05 and 06); a gateway that says
/// so (0A and 0B) has not reached it.
fn is_passing(code: ExceptionCode) -> bool {
    matches!(code, ExceptionCode(0x05 | 0x06 | 0x0A | 0x0B))
}

/// The cause of a request that brought nothing.
pub(super) fn cause_of(failure: &ExchangeError) -> Cause {
    match failure {
        ExchangeError::TimedOut => Cause::NoAnswer,
        ExchangeError::Corrupt(_) | ExchangeError::Truncated => Cause::Corrupt,
        ExchangeError::Lost(_) => Cause::NotConnected,
    }
}

fn deliver(samples: Vec<Sample>, host: &mut dyn Host) {
    if !samples.is_empty() {
        host.answered(samples);
    }
}

fn since_start(host: &mut dyn Host) -> Duration {
    Duration::from_nanos(host.mono().0)
}
