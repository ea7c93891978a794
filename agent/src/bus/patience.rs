//! The end of a bus's patience: a port that goes on with the poll in hand only for a while once the bus is to stop, as a
//! device may have a minute to answer, a line may never be silent, and the agent has two seconds to end.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use super::BusCommand;
use super::ground::{Ground, OpenError, Opened, Port};
use crate::clock::Mono;

/// How long the poll in hand goes on after the bus was told to stop.
pub const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether the bus is to stop, while something is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Commands that came while the bus was busy.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// Each once: at most as many as the bus has devices, and the stop.
    asked: VecDeque<BusCommand>,
    pub(super) stopping: bool,
    /// When the poll in hand is given up, once it was seen in it that the bus is to stop. One for all its requests: a
    /// patience of its own for each would add up.
    over_at: Option<Mono>,
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
    /// Whether something was not waited for.
    pub(super) is_over: bool,
}

impl<'a> Patience<'a> {
    pub(super) fn new(ground: &'a mut dyn Ground, inbox: &'a mut Inbox) -> Self {
        Self { ground, inbox, is_over: false }
    }

    /// Fails once patience is over, as if the line were lost: whoever waits is to give up, not to try again.
    pub(super) fn check(&mut self) -> io::Result<()> {
        self.wait(Mono::default()).map(drop)
    }

    /// Until when at the latest to wait now for what may last until `until`.
    fn wait(&mut self, until: Mono) -> io::Result<Mono> {
        let now = self.mono();
        if self.inbox.look(self.ground) {
            self.inbox.over_at.get_or_insert(now.plus(STOP_PATIENCE));
        }
        let over_at = self.inbox.over_at;
        if over_at.is_some_and(|at| at <= now) {
            self.is_over = true;
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the bus is to stop"));
        }
        let slice = until.min(now.plus(LOOK_EVERY));
        Ok(over_at.map_or(slice, |at| slice.min(at)))
    }
}

impl Port for Patience<'_> {
    fn mono(&mut self) -> Mono {
        self.ground.port().mono()
    }

    fn boot_ms(&mut self) -> u64 {
        self.ground.port().boot_ms()
    }

    /// Returns early where patience is over: what was to come after the sleep is refused then.
    fn sleep_until(&mut self, instant: Mono) {
        while self.mono() < instant
            && let Ok(next) = self.wait(instant)
        {
            self.ground.port().sleep_until(next);
        }
    }

    fn open(&mut self) -> Result<Opened, OpenError> {
        self.ground.port().open()
    }

    fn close(&mut self) {
        self.ground.port().close();
    }

    /// Nothing is sent whose answer nobody would wait for.
    fn write_all(&mut self, bytes: &[u8], until: Mono) -> io::Result<()> {
        self.check()?;
        self.ground.port().write_all(bytes, until)
    }

    /// Fails once patience is over, even where something can be read: on a line that is never silent something always
    /// can.
    fn readable(&mut self, until: Mono) -> io::Result<bool> {
        loop {
            // Before anything is waited for: whoever waits in short slices never gets past the first wait below.
            let next = self.wait(until)?;
            if self.ground.port().readable(next)? {
                return Ok(true);
            }
            if self.mono() >= until {
                return Ok(false);
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.ground.port().read(buffer)
    }
}
