//! What a serial port and a TCP connection have in common: a request goes out, its answer comes back or does not.
//! Knows nothing of devices, plans or schedules.

use std::io;
use std::time::Duration;

use super::ground::{OpenError, Port};
use super::serial::SerialLine;
use super::tcp::TcpLine;
use crate::clock::Mono;
use crate::config::Link;
use crate::modbus::pdu::Request;
use crate::modbus::{Answer, Corrupt, UnitId};

/// Longest time past its deadline that an answer is taken for one of this instant. One that was found later lay there
/// for nobody knows how long, as the process, or the machine, had stood still: its values have no time, and it counts
/// as none.
pub(super) const STALL_MAX: Duration = Duration::from_secs(1);

/// Until when an answer, or its next character, is awaited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    /// By the clock of the wire.
    pub(super) until: Mono,
    /// When what is found is too late to be taken, by the clock that goes on while the machine is suspended.
    stalled_ms: u64,
}

impl Deadline {
    pub(super) fn new(port: &mut dyn Port, until: Mono) -> Self {
        let left = Duration::from_nanos(until.since_ns(port.mono())) + STALL_MAX;
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        Self { until, stalled_ms: port.boot_ms().saturating_add(left_ms) }
    }

    /// Whether what is found now may have lain there while all stood still; see [`STALL_MAX`].
    pub(super) fn is_stalled(&self, port: &mut dyn Port) -> bool {
        port.boot_ms() > self.stalled_ms
    }
}

/// One request and what its device needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) unit: UnitId,
    pub(super) request: &'a Request,
    /// From the end of the request to the begin of the answer.
    pub(super) timeout: Duration,
    /// From the end of the answer to the next request, beside the silent interval.
    pub(super) turnaround: Duration,
    /// Whether the same request was sent before in this poll: the answer to any of its tries will do.
    pub(super) is_retry: bool,
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    /// Nothing came in time.
    #[error("no answer")]
    TimedOut,
    /// An answer began, and did not end.
    #[error("answer cut short")]
    Truncated,
    /// What came is no answer to this request.
    #[error("corrupt answer")]
    Corrupt(#[source] Corrupt),
    /// The port or connection is gone.
    #[error("connection lost")]
    Lost(#[from] io::Error),
}

/// The line of a bus, open or not. What it is told of its port it passes on; the bytes are the port's.
#[derive(Debug)]
pub(super) enum Line {
    Serial(SerialLine),
    Tcp(TcpLine),
}

impl Line {
    pub(super) fn new(link: &Link) -> Self {
        match link {
            Link::Serial(settings) => Self::Serial(SerialLine::new(settings)),
            Link::Tcp(endpoint) => Self::Tcp(TcpLine::new(endpoint)),
        }
    }

    pub(super) fn open(&mut self, port: &mut dyn Port) -> Result<(), OpenError> {
        match self {
            Self::Serial(line) => line.open(port),
            Self::Tcp(line) => line.open(port),
        }
    }

    pub(super) fn close(&mut self, port: &mut dyn Port) {
        match self {
            Self::Serial(line) => line.close(port),
            Self::Tcp(line) => line.close(port),
        }
    }

    /// Sends a request and waits for its answer, which is complete at the instant this returns.
    pub(super) fn exchange(&mut self, port: &mut dyn Port, ask: &Ask<'_>) -> Result<Answer, ExchangeError> {
        match self {
            Self::Serial(line) => line.exchange(port, ask),
            Self::Tcp(line) => line.exchange(port, ask),
        }
    }

    /// Bytes discarded since it was last asked.
    pub(super) fn take_discarded(&mut self) -> u64 {
        match self {
            Self::Serial(line) => line.take_discarded(),
            Self::Tcp(line) => line.take_discarded(),
        }
    }

    /// What an answered exchange needs at least, silent intervals included; zero where no wire paces it.
    pub(super) fn wire_time(&self, request: &Request) -> Duration {
        match self {
            Self::Serial(line) => line.wire_time(request),
            Self::Tcp(_) => Duration::ZERO,
        }
    }

    /// What a request without answer costs at most.
    pub(super) fn silence_time(&self, request: &Request, timeout: Duration) -> Duration {
        match self {
            Self::Serial(line) => line.silence_time(request, timeout),
            Self::Tcp(_) => timeout,
        }
    }

    /// How long this request would have to wait for the late answer to another one.
    pub(super) fn late_wait(&mut self, ask: &Ask<'_>, now: Mono) -> Duration {
        match self {
            Self::Serial(line) => line.late_wait(ask, now),
            Self::Tcp(line) => line.late_wait(ask, now),
        }
    }
}
