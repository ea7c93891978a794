//! What a bus stands on: clocks, a port or connection, commands, and somebody who takes its events. The one seam
//! between what a bus decides, which is pure, and the system below it: a thread of its own stands on descriptors
//! and the kernel's clocks (`real`), a simulation on time that it makes up.

use std::io;
use std::path::PathBuf;

use super::BusCommand;
use crate::clock::{Mono, Now};
use crate::event::BusEvent;

/// A serial port or a TCP connection, byte by byte, and the clock that times it.
///
/// Calling contract: at first it is closed; [`open`](Self::open) replaces what is open; bytes are written, awaited
/// and read only while it is open. After an error of `write_all`, `readable` or `read` it is closed and opened again.
pub trait Port {
    /// The monotonic clock: it times the wire, and stands still while the machine is suspended, as the wire does.
    fn mono(&mut self) -> Mono;

    /// CLOCK_BOOTTIME in milliseconds: it goes on while the machine is suspended. By default the same time as
    /// [`mono`](Self::mono), for a port whose machine never is.
    fn boot_ms(&mut self) -> u64 {
        self.mono().0 / 1_000_000
    }

    /// Lets time pass until `instant`; not at all where it has passed.
    fn sleep_until(&mut self, instant: Mono);

    /// Opens it, with what it had received before discarded.
    ///
    /// # Errors
    /// [`OpenError`]; it is closed then.
    fn open(&mut self) -> Result<Opened, OpenError>;

    /// Closes it.
    fn close(&mut self);

    /// Hands over `bytes`, waiting for room until `until`.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] where there was not room for all of them; any other where the line is lost.
    fn write_all(&mut self, bytes: &[u8], until: Mono) -> io::Result<()>;

    /// Waits until something can be read, until `until` at the latest; says whether it can.
    ///
    /// # Errors
    /// Where the line is lost, and nothing is left to read.
    fn readable(&mut self, until: Mono) -> io::Result<bool>;

    /// Takes what has arrived, as far as `buffer` reaches; 0 where that is nothing. Does not wait.
    ///
    /// # Errors
    /// Where the line is lost: a closed connection, a port that has gone.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

/// What is to be known of a port once it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Whether it hands over characters as they come; an adapter may keep them for up to 16 ms.
    pub prompt: bool,
}

/// Why a port or connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another program, or another bus, has the port.
    #[error("{} is in use by another program", .0.display())]
    InUse(PathBuf),
    /// The port is not there, or not allowed.
    #[error("cannot open {}", port.display())]
    Open {
        /// Device file.
        port: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The port does not take its settings.
    #[error("cannot set {what} on {}", port.display())]
    Configure {
        /// Device file.
        port: PathBuf,
        /// Which setting.
        what: &'static str,
        /// What the driver says.
        #[source]
        source: io::Error,
    },
    /// The name of the endpoint leads to no address.
    #[error("cannot find the address of {host}")]
    Resolve {
        /// Name in the configuration.
        host: String,
        /// What the resolver says.
        #[source]
        source: io::Error,
    },
    /// The endpoint does not take the connection.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// Host and port.
        endpoint: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// All that a bus needs from outside.
pub trait Ground {
    /// Its port.
    fn port(&mut self) -> &mut dyn Port;

    /// A look at the clocks.
    fn now(&self) -> Now;

    /// The next command, if there is one; [`BusCommand::Stop`] where nobody is left to give any. Does not wait.
    fn command(&mut self) -> Option<BusCommand>;

    /// Passes an event on, waiting where there is no room; says `false` where nobody takes events any more.
    fn emit(&mut self, event: BusEvent) -> bool;
}
