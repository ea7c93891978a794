//! What a bus's driver stands on in a simulation: a line, clocks that the world bends as it likes, commands and events
//! in queues.
//!
//! Calling contract: [`SimGround::advance`] to the world's time, then `Driver::turn`. A turn may take long, as a poll
//! waits: [`SimGround::now_ns`] is then ahead of the world, and what was said carries the instant it was said at. The
//! next turn is due at that instant, or at the one that [`SimGround::ns_of_boot`] makes of `Turn::WaitUntil`.

use std::collections::VecDeque;

use gapless_agent::bus::{BusCommand, Driver, Ground, Port, Turn};
use gapless_agent::clock::Now;
use gapless_agent::event::BusEvent;

use super::{MS, SimLine};

/// What the agent sees on its clocks at an instant of the world, in nanoseconds. It never sees its boot clock go back.
pub type Look = Box<dyn Fn(u64) -> Now>;

/// Something a bus has said.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// When, in the world's nanoseconds.
    pub at_ns: u64,
    /// What.
    pub event: BusEvent,
}

/// The ground of one bus. It outlives the driver that stands on it, as devices outlive an agent.
pub struct SimGround {
    /// The line and its devices.
    pub line: SimLine,
    look: Look,
    /// With the instants they come at.
    commands: VecDeque<(u64, BusCommand)>,
    said: VecDeque<Said>,
    is_heard: bool,
}

impl SimGround {
    /// A ground with nothing on it yet.
    #[must_use]
    pub fn new(line: SimLine, look: Look) -> Self {
        Self { line, look, commands: VecDeque::new(), said: VecDeque::new(), is_heard: true }
    }

    /// From now on the agent's clocks show something else: a step, another boot, a clock that was set.
    pub fn look_with(&mut self, look: Look) {
        self.look = look;
    }

    /// The line's own time: never behind the world's, ahead of it after a long turn.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.line.now_ns()
    }

    /// The world's time has come this far.
    pub fn advance(&mut self, ns: u64) {
        self.line.advance(ns);
    }

    /// The instant at which the agent's boot clock will show `boot_ms`, if that is still to come; otherwise now.
    #[must_use]
    pub fn ns_of_boot(&self, boot_ms: u64) -> u64 {
        let now = self.now_ns();
        let left = boot_ms.saturating_sub((self.look)(now).boot_ms);
        if left == 0 { now } else { (now / MS + left) * MS }
    }

    /// Tells the bus something, at once.
    pub fn command(&mut self, command: BusCommand) {
        self.command_at(self.now_ns(), command);
    }

    /// Tells the bus something at an instant to come, which may lie in the middle of a turn; not before what was said
    /// to it already.
    pub fn command_at(&mut self, ns: u64, command: BusCommand) {
        self.commands.push_back((ns, command));
    }

    /// The next thing that was said.
    pub fn take_said(&mut self) -> Option<Said> {
        self.said.pop_front()
    }

    /// Nobody listens any more: the driver ends with its next event.
    pub fn hang_up(&mut self) {
        self.is_heard = false;
    }

    /// The process that stood here is gone, with its port, its commands and what it said last: another one may come.
    pub fn vacate(&mut self) {
        self.line.close();
        self.commands.clear();
        self.said.clear();
        self.is_heard = true;
    }

    /// Lets `driver` run until the world's `ns`, or until it has ended. Its last turn may take it beyond.
    pub fn drive(&mut self, driver: &mut Driver, ns: u64) -> Turn {
        loop {
            match driver.turn(self) {
                Turn::Ended => return Turn::Ended,
                Turn::Again if self.now_ns() < ns => {}
                Turn::WaitUntil { boot_ms } if self.ns_of_boot(boot_ms) < ns => {
                    self.advance(self.ns_of_boot(boot_ms));
                }
                turn => {
                    self.advance(ns);
                    return turn;
                }
            }
        }
    }
}

impl Ground for SimGround {
    fn port(&mut self) -> &mut dyn Port {
        &mut self.line
    }

    fn now(&self) -> Now {
        (self.look)(self.now_ns())
    }

    fn command(&mut self) -> Option<BusCommand> {
        let now_ns = self.now_ns();
        self.commands.pop_front_if(|(ns, _)| *ns <= now_ns).map(|(_, command)| command)
    }

    fn emit(&mut self, event: BusEvent) -> bool {
        if self.is_heard {
            self.said.push_back(Said { at_ns: self.now_ns(), event });
        }
        self.is_heard
    }
}
