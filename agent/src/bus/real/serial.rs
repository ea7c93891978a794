//! A serial port: opened, configured, read and written without waiting. Knows nothing of frames or silent intervals.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{ControlModes, OptionalActions, QueueSelector, SpecialCodeIndex};

use super::not_open;
use super::wait::{self, Ready};
use crate::bus::ground::{OpenError, Opened, Port};
use crate::clock::{self, Mono};
use crate::config::{Parity, Serial};
use crate::sys;

/// A serial port, open or not.
#[derive(Debug)]
pub(super) struct SerialPort {
    settings: Serial,
    port: Option<OwnedFd>,
}

impl SerialPort {
    pub(super) fn new(settings: Serial) -> Self {
        Self { settings, port: None }
    }

    fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.port.as_ref().map(AsFd::as_fd).ok_or_else(not_open)
    }
}

impl Port for SerialPort {
    fn mono(&mut self) -> Mono {
        clock::mono()
    }

    fn boot_ms(&mut self) -> u64 {
        clock::boot_ms()
    }

    fn sleep_until(&mut self, instant: Mono) {
        clock::sleep_until(instant);
    }

    fn open(&mut self) -> Result<Opened, OpenError> {
        self.port = None;
        let port = open_port(&self.settings)?;
        let prompt = is_prompt(port.as_fd(), &self.settings);
        self.port = Some(port);
        Ok(Opened { prompt })
    }

    fn close(&mut self) {
        self.port = None;
    }

    fn write_all(&mut self, bytes: &[u8], until: Mono) -> io::Result<()> {
        let port = self.fd()?;
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::write(port, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => match wait::writable(port, until)? {
                    Ready::Yes => {}
                    Ready::TimedOut => return Err(io::ErrorKind::TimedOut.into()),
                    Ready::HungUp => return Err(hung_up()),
                },
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn readable(&mut self, until: Mono) -> io::Result<bool> {
        match wait::readable(self.fd()?, until)? {
            Ready::Yes => Ok(true),
            Ready::TimedOut => Ok(false),
            Ready::HungUp => Err(hung_up()),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match rustix::io::read(self.fd()?, buffer) {
            Ok(0) => Err(hung_up()),
            Ok(count) => Ok(count),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(e) => Err(e.into()),
        }
    }
}

fn hung_up() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the port has gone")
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
