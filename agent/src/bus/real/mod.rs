//! The ground of a bus thread: descriptors, the kernel's clocks, the channels to the agent's loop.

mod serial;
mod tcp;
mod wait;

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use super::BusCommand;
use super::ground::{Ground, Port};
use crate::clock::{Clock, Now};
use crate::config::Link;
use crate::event::BusEvent;
use serial::SerialPort;
use tcp::TcpPort;

/// The port that `link` names, not open yet.
pub(super) fn port(link: &Link) -> Box<dyn Port + Send> {
    match link {
        Link::Serial(settings) => Box::new(SerialPort::new(settings.clone())),
        Link::Tcp(endpoint) => Box::new(TcpPort::new(endpoint.clone())),
    }
}

/// Takes an event to the loop; says `false` when nobody receives any more.
pub(super) type Sink = Box<dyn FnMut(BusEvent) -> bool + Send>;

/// What a bus thread stands on.
pub(super) struct Thread {
    port: Box<dyn Port + Send>,
    clock: Clock,
    inbox: Receiver<BusCommand>,
    /// The command that ended a wait.
    woken_by: Option<BusCommand>,
    sink: Sink,
}

impl Thread {
    pub(super) fn new(link: &Link, clock: Clock, inbox: Receiver<BusCommand>, sink: Sink) -> Self {
        Self { port: port(link), clock, inbox, woken_by: None, sink }
    }

    /// Waits for a command, no longer than until this instant of the boot clock.
    pub(super) fn wait_until(&mut self, boot_ms: u64) {
        let left = boot_ms.saturating_sub(self.clock.now().boot_ms);
        self.woken_by = match self.inbox.recv_timeout(Duration::from_millis(left)) {
            Ok(command) => Some(command),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(BusCommand::Stop),
        };
    }
}

impl Ground for Thread {
    fn port(&mut self) -> &mut dyn Port {
        &mut *self.port
    }

    fn now(&self) -> Now {
        self.clock.now()
    }

    fn command(&mut self) -> Option<BusCommand> {
        self.woken_by.take().or_else(|| match self.inbox.try_recv() {
            Ok(command) => Some(command),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(BusCommand::Stop),
        })
    }

    fn emit(&mut self, event: BusEvent) -> bool {
        (self.sink)(event)
    }
}

/// For what is asked of a port that is not open.
fn not_open() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "not open")
}
