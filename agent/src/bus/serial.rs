//! The shell of a serial port: opens and configures it, keeps the line's silent intervals, reads an answer by its
//! expected length. Decides nothing of when or whom to ask.
//!
//! Timing is that of "MODBUS over serial line specification and implementation guide" V1.02, section 2.5.1.1. A
//! request has no number that its answer could repeat, so whatever may still come after a time-out is waited out
//! and discarded before the next request.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{ControlModes, OptionalActions, QueueSelector, SpecialCodeIndex};

use super::line::{Ask, ExchangeError, OpenError};
use super::wait::{self, Ready};
use crate::clock::{Mono, mono, sleep_until};
use crate::config::{Parity, Serial};
use crate::modbus::pdu::Request;
use crate::modbus::rtu::{LineTiming, RtuReceiver, encode, request_len};
use crate::modbus::{Answer, Progress, UnitId};
use crate::sys;

/// Longest pause within an answer beyond the time of its characters: adapters hand over in chunks, an FTDI
/// without low-latency mode every 16 ms, one behind a busy hub later.
const CHUNK_DELAY_MAX: Duration = Duration::from_millis(50);
/// Least time that the line is listened to after a time-out or a corrupt answer; and longer than an adapter keeps
/// characters for itself, if it is not known to hand them over at once.
const SETTLE_MIN: Duration = Duration::from_millis(20);
/// Share of the device's time-out that the line is listened to after it: what answers late mostly answers soon after.
const SETTLE_SHARE: u32 = 4;
/// A line that is never silent is listened to no longer than this.
const BABBLE_MAX: Duration = Duration::from_secs(1);
/// Below this rest an answer is awaited byte by byte; above it half of the rest is slept through.
const DOZE_MIN: Duration = Duration::from_millis(4);

/// A request that was not answered in time, and could still be.
#[derive(Debug)]
struct Unanswered {
    unit: UnitId,
    request: Request,
    /// Until when its answer could be taken for another's.
    until: Mono,
}

/// A serial port.
#[derive(Debug)]
pub(super) struct SerialLine {
    settings: Serial,
    timing: LineTiming,
    port: Option<OwnedFd>,
    /// Whether characters are handed over as they come; before the port is open, whether they are asked to be.
    pub(super) prompt: bool,
    /// The instant from which on the next request may begin.
    free_at: Mono,
    /// At most one of each unit.
    unanswered: Vec<Unanswered>,
    discarded: u64,
}

impl SerialLine {
    pub(super) fn new(settings: Serial) -> Self {
        let bits = u8::try_from(settings.character_bits()).unwrap_or(u8::MAX);
        let timing = LineTiming::new(settings.baud, bits);
        let (prompt, free_at) = (settings.low_latency, Mono::default());
        Self { settings, timing, port: None, prompt, free_at, unanswered: Vec::new(), discarded: 0 }
    }

    pub(super) fn open(&mut self) -> Result<(), OpenError> {
        self.port = None;
        let port = open_port(&self.settings)?;
        self.prompt = is_prompt(port.as_fd(), &self.settings);
        self.free_at = after(mono(), self.timing.t3_5());
        self.unanswered.clear();
        self.port = Some(port);
        Ok(())
    }

    pub(super) fn close(&mut self) {
        self.port = None;
    }

    pub(super) fn take_discarded(&mut self) -> u64 {
        std::mem::take(&mut self.discarded)
    }

    pub(super) fn wire_time(&self, request: &Request) -> Duration {
        self.timing.exchange(request, Duration::ZERO)
    }

    pub(super) fn silence_time(&self, request: &Request, timeout: Duration) -> Duration {
        self.timing.wire_time(request_len(request)) + timeout + settle(timeout) + self.silence()
    }

    /// How long nothing must come before the line counts as silent: an adapter that collects characters shows a
    /// pause of up to 16 ms where there is none.
    fn silence(&self) -> Duration {
        self.timing.t3_5() + if self.prompt { Duration::ZERO } else { SETTLE_MIN }
    }

    pub(super) fn exchange(&mut self, ask: &Ask<'_>) -> Result<Answer, ExchangeError> {
        let Some(port) = self.port.take() else {
            return Err(io::Error::from(io::ErrorKind::NotConnected).into());
        };
        let result = self.exchange_on(port.as_fd(), ask);
        if !matches!(result, Err(ExchangeError::Lost(_))) {
            self.port = Some(port);
        }
        result
    }

    fn exchange_on(&mut self, port: BorrowedFd<'_>, ask: &Ask<'_>) -> Result<Answer, ExchangeError> {
        self.await_confusable(port, ask)?;
        sleep_until(self.free_at);
        self.discarded += discard(port)?;
        let sent = self.send(port, ask)?;
        match self.receive(port, ask, after(sent, ask.timeout)) {
            Ok(answer) => {
                self.free_at = after(mono(), self.timing.t3_5() + ask.turnaround);
                Ok(answer)
            }
            Err(ExchangeError::Lost(e)) => Err(ExchangeError::Lost(e)),
            Err(failure) => {
                self.settle(port, ask, &failure)?;
                Err(failure)
            }
        }
    }

    /// Writes the request; says when its last character has left the port, as the driver may buffer it.
    fn send(&mut self, port: BorrowedFd<'_>, ask: &Ask<'_>) -> Result<Mono, ExchangeError> {
        let frame = encode(ask.unit, ask.request);
        let on_wire = self.timing.wire_time(frame.len());
        let end = after(mono(), on_wire);
        self.free_at = after(end, self.timing.t3_5());
        write_all(port, &frame, after(end, on_wire + CHUNK_DELAY_MAX))?;
        Ok(end)
    }

    /// Reads until the answer is complete. The time-out is for its begin; from then on each character has its
    /// time on the wire and a delay of the adapter.
    fn receive(
        &mut self,
        port: BorrowedFd<'_>,
        ask: &Ask<'_>,
        begin_until: Mono,
    ) -> Result<Answer, ExchangeError> {
        let mut receiver = RtuReceiver::new(ask.unit, ask.request);
        let mut buffer = [0; 256];
        let (mut until, mut silence) = (begin_until, ExchangeError::TimedOut);
        loop {
            match wait::readable(port, until)? {
                Ready::TimedOut => return Err(silence),
                Ready::HungUp => return Err(hung_up().into()),
                Ready::Yes => {}
            }
            let count = read(port, &mut buffer)?;
            match receiver.push(&buffer[..count]) {
                Progress::Frame(answer) => return Ok(answer),
                Progress::Corrupt(why) => return Err(ExchangeError::Corrupt(why)),
                Progress::NeedMore(rest) => {
                    let rest = self.timing.wire_time(rest);
                    (until, silence) = (after(mono(), rest + CHUNK_DELAY_MAX), ExchangeError::Truncated);
                    doze(rest);
                }
            }
        }
    }

    /// The late-answer rule: listens until the line is silent, and for a while in any case.
    fn settle(&mut self, port: BorrowedFd<'_>, ask: &Ask<'_>, failure: &ExchangeError) -> io::Result<()> {
        let now = mono();
        let least = match failure {
            ExchangeError::TimedOut => settle(ask.timeout),
            _ => SETTLE_MIN,
        };
        let late = self.discard_until(port, after(now, least))?;
        if matches!(failure, ExchangeError::TimedOut) && late == 0 {
            let (request, until) = (ask.request.clone(), after(now, ask.timeout));
            self.unanswered.retain(|old| old.unit != ask.unit);
            self.unanswered.push(Unanswered { unit: ask.unit, request, until });
        }
        Ok(())
    }

    /// An answer to a request that timed out would pass for the answer to another one of the same unit and length:
    /// such a request waits for a further time-out, or until the late answer has come. A retry does not wait, but
    /// there may then be two answers to come.
    fn await_confusable(&mut self, port: BorrowedFd<'_>, ask: &Ask<'_>) -> io::Result<()> {
        let now = mono();
        self.unanswered.retain(|old| old.until > now);
        let Some(index) = self.unanswered.iter().position(|old| old.unit == ask.unit) else { return Ok(()) };
        if self.unanswered[index].request == *ask.request {
            self.unanswered[index].until = after(now, ask.timeout);
            return Ok(());
        }
        let old = self.unanswered.swap_remove(index);
        let wait = confusable(&old.request, ask.request);
        while wait && mono() < old.until && self.discard_until(port, after(mono(), SETTLE_MIN))? == 0 {}
        Ok(())
    }

    /// Discards what arrives until `least` has come and the line is silent; says how much it was.
    fn discard_until(&mut self, port: BorrowedFd<'_>, least: Mono) -> io::Result<u64> {
        let (begin, silence) = (mono(), self.silence());
        let last = after(least, BABBLE_MAX);
        let (mut until, mut total) = (least.max(after(begin, silence)), 0);
        while mono() < last {
            match wait::readable(port, until)? {
                Ready::TimedOut => break,
                Ready::HungUp => return Err(hung_up()),
                Ready::Yes => {
                    total += discard(port)?;
                    until = least.max(after(mono(), silence));
                }
            }
        }
        self.discarded += total;
        self.free_at = self.free_at.max(mono());
        Ok(total)
    }
}

fn settle(timeout: Duration) -> Duration {
    (timeout / SETTLE_SHARE).max(SETTLE_MIN)
}

fn confusable(one: &Request, other: &Request) -> bool {
    one.function() == other.function() && one.response_len_expected() == other.response_len_expected()
}

fn after(instant: Mono, span: Duration) -> Mono {
    instant.plus_ns(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
}

/// Sleeps through half of the time that the rest of an answer takes at least, instead of waking at each byte.
fn doze(rest: Duration) {
    if rest >= DOZE_MIN {
        sleep_until(after(mono(), rest / 2));
    }
}

fn hung_up() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the port has gone")
}

fn read(port: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    match rustix::io::read(port, buffer) {
        Ok(0) => Err(hung_up()),
        Ok(count) => Ok(count),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(e) => Err(e.into()),
    }
}

/// Discards what has arrived; says how much it was. Bounded, so that a babbling line cannot hold the thread.
fn discard(port: BorrowedFd<'_>) -> io::Result<u64> {
    const READS_MAX: usize = 64;
    let (mut buffer, mut total) = ([0; 256], 0);
    for _ in 0..READS_MAX {
        match read(port, &mut buffer)? {
            0 => break,
            count => total += u64::try_from(count).unwrap_or(u64::MAX),
        }
    }
    Ok(total)
}

fn write_all(port: BorrowedFd<'_>, mut bytes: &[u8], until: Mono) -> Result<(), ExchangeError> {
    while !bytes.is_empty() {
        match rustix::io::write(port, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => match wait::writable(port, until)? {
                Ready::Yes => {}
                Ready::TimedOut => return Err(ExchangeError::TimedOut),
                Ready::HungUp => return Err(hung_up().into()),
            },
            Err(e) => return Err(io::Error::from(e).into()),
        }
    }
    Ok(())
}

fn open_port(settings: &Serial) -> Result<OwnedFd, OpenError> {
    let path = &settings.port;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let port = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| match e {
        Errno::BUSY => OpenError::InUse(path.clone()),
        e => OpenError::Open { port: path.clone(), source: e.into() },
    })?;
    let configure =
        |what| move |e: Errno| OpenError::Configure { port: path.clone(), what, source: e.into() };
    rustix::fs::flock(&port, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
        Errno::WOULDBLOCK => OpenError::InUse(path.clone()),
        e => configure("its lock")(e),
    })?;
    rustix::termios::ioctl_tiocexcl(&port).map_err(configure("exclusive use"))?;
    set_attributes(&port, settings).map_err(configure("speed and character format"))?;
    if settings.rs485 {
        sys::set_rs485(port.as_fd()).map_err(|source| OpenError::Configure {
            port: path.clone(),
            what: "RS-485 mode (the port may switch direction by itself: leave `rs485` out)",
            source,
        })?;
    }
    rustix::termios::tcflush(&port, QueueSelector::IOFlush).map_err(configure("empty buffers"))?;
    Ok(port)
}

/// Whether the port hands over characters as they come: it took the low-latency mode, or it is a pty.
fn is_prompt(port: BorrowedFd<'_>, settings: &Serial) -> bool {
    if is_pty(port) {
        return true;
    }
    let asked = settings.low_latency.then(|| sys::set_low_latency(port));
    if let Some(Err(error)) = &asked {
        tracing::debug!(port = %settings.port.display(), %error, "no low-latency mode");
    }
    matches!(asked, Some(Ok(())))
}

/// Unix98 pty slaves have the majors 136 to 143 (Documentation/admin-guide/devices.txt of the kernel).
fn is_pty(port: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(port).is_ok_and(|stat| (136..=143).contains(&rustix::fs::major(stat.st_rdev)))
}

/// Raw bytes, 8 data bits, no flow control, modem lines ignored.
fn set_attributes(port: &OwnedFd, settings: &Serial) -> Result<(), Errno> {
    let mut termios = rustix::termios::tcgetattr(port)?;
    termios.make_raw();
    let modes = &mut termios.control_modes;
    modes.remove(ControlModes::PARENB | ControlModes::PARODD | ControlModes::CSTOPB | ControlModes::CRTSCTS);
    modes.insert(ControlModes::CS8 | ControlModes::CREAD | ControlModes::CLOCAL);
    modes.set(ControlModes::PARENB, settings.parity != Parity::None);
    modes.set(ControlModes::PARODD, settings.parity == Parity::Odd);
    modes.set(ControlModes::CSTOPB, settings.stop_bits == 2);
    termios.special_codes[SpecialCodeIndex::VMIN] = 1;
    termios.special_codes[SpecialCodeIndex::VTIME] = 0;
    termios.set_speed(settings.baud)?;
    rustix::termios::tcsetattr(port, OptionalActions::Now, &termios)
}
