//! The end of a bus's patience: a port that goes on waiting for an answer only for a while once the bus is to stop, as
//! a device may have a minute to answer, and the agent has two seconds to end.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use super::BusCommand;
use super::ground::{Ground, OpenError, Opened, Port};
use crate::clock::Mono;

/// How long an answer is awaited after the bus was told to stop.
pub const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether the bus is to stop, while an answer is awaited.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Commands that came while the bus was busy.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// Each once: at most as many as the bus has devices, and the stop.
    asked: VecDeque<BusCommand>,
    pub(super) stopping: bool,
}

impl Inbox {
    /// The next command, of those that came before or now.
    pub(super) fn take(&mut self, ground: &mut dyn Ground) -> Option<BusCommand> {
        self.asked.pop_front().or_else(|| ground.command())
    }

    /// Sees what has come, and leaves it for later; says whether the bus is to stop.
    pub(super) fn look(&mut self, ground: &mut dyn Ground) -> bool {
        while !self.stopping
            && let Some(command) = ground.command()
        {
            self.stopping |= command == BusCommand::Stop;
            // A second one asks for nothing that the first will not bring.
            if !self.asked.contains(&command) {
                self.asked.push_back(command);
            }
        }
        self.stopping
    }
}

/// The port of a ground, under commands.
pub(super) struct Patience<'a> {
    ground: &'a mut dyn Ground,
    inbox: &'a mut Inbox,
    stop_at: Option<Mono>,
    /// Whether something was not waited for.
    pub(super) is_over: bool,
}

impl<'a> Patience<'a> {
    pub(super) fn new(ground: &'a mut dyn Ground, inbox: &'a mut Inbox) -> Self {
        Self { ground, inbox, stop_at: None, is_over: false }
    }

    fn look(&mut self) {
        if self.stop_at.is_none() && self.inbox.look(self.ground) {
            self.stop_at = Some(self.mono().plus(STOP_PATIENCE));
        }
    }
}

impl Port for Patience<'_> {
    fn mono(&mut self) -> Mono {
        self.ground.port().mono()
    }

    fn sleep_until(&mut self, instant: Mono) {
        self.ground.port().sleep_until(instant);
    }

    fn open(&mut self) -> Result<Opened, OpenError> {
        self.ground.port().open()
    }

    fn close(&mut self) {
        self.ground.port().close();
    }

    fn write_all(&mut self, bytes: &[u8], until: Mono) -> io::Result<()> {
        self.ground.port().write_all(bytes, until)
    }

    /// Fails, as if the line were lost, once patience is over: whoever waits is to give up, not to try again.
    fn readable(&mut self, until: Mono) -> io::Result<bool> {
        loop {
            // Before anything is waited for: whoever waits in short slices never gets past the first wait below.
            self.look();
            let now = self.mono();
            let last = self.stop_at.map_or(until, |stop_at| until.min(stop_at));
            if self.ground.port().readable(last.min(now.plus(LOOK_EVERY)))? {
                return Ok(true);
            }
            let now = self.mono();
            if now >= until {
                return Ok(false);
            }
            if now >= last {
                self.is_over = true;
                return Err(io::Error::new(io::ErrorKind::Interrupted, "the bus is to stop"));
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.ground.port().read(buffer)
    }
}
