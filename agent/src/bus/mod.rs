//! The buses: one plain thread per serial port or TCP endpoint, which owns it. The thread is a loop around a
//! [`Driver`], which does what [`crate::schedule`] decides; it decides nothing of when and whom to poll, and stores
//! nothing. All that a driver needs of the system it gets through its [`Ground`], so that a simulation can drive the
//! very same code.
//!
//! Events go into the loop's bounded queue. Where that is full the thread waits, and the slots that pass
//! meanwhile are misses like any other.

mod asking;
mod driver;
mod files;
mod ground;
mod late;
mod line;
mod logger;
mod memories;
mod once;
mod patience;
mod poller;
mod real;
mod serial;
mod tcp;

use std::num::NonZeroU64;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use gapless_common::id::DeviceIndex;
use gapless_common::reading::Sample;
use gapless_common::time::Timestamp;

use crate::clock::{Clock, Now};
use crate::config::{Bus, Device};
use crate::event::BusEvent;
pub use driver::{Driver, Turn};
pub use files::{FilesError, read_files, spawn_files};
pub use ground::{Ground, OpenError, Opened, Port};
use line::Line;
pub use logger::{ReadError, Shown, read_table, spawn_logger};
use once::{Once, newest_record};
pub use patience::STOP_PATIENCE;
pub use poller::PollError;
use poller::Poller;
use real::Thread;

/// Commands waiting for a bus thread; more are refused (`try_send`).
pub const COMMANDS_MAX: usize = 16;
/// Stack of a bus thread. Only what it touches takes memory.
const STACK_BYTES: usize = 256 << 10;

/// What a bus thread is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusCommand {
    /// Poll a device as soon as the bus is free.
    PollNow(DeviceIndex),
    /// Read these instants (half open) from a device's memory, and say how that ended.
    ReadHistory {
        /// The collector's command.
        command: u64,
        /// Which device.
        device: DeviceIndex,
        /// The first instant, and the first one that is not wanted.
        range: (Timestamp, Timestamp),
    },
    /// Poll a device no more, or again, and say when that is so.
    Pause {
        /// The collector's command.
        command: u64,
        /// Which device.
        device: DeviceIndex,
        /// Whether it is polled no more.
        paused: bool,
    },
    /// Finish the poll in hand, account for the slots up to now, and end.
    Stop,
}

/// A running bus thread.
#[derive(Debug)]
pub struct BusHandle {
    /// Its commands. Dropping every sender stops it as well.
    pub commands: SyncSender<BusCommand>,
    /// Ends after [`BusCommand::Stop`], or when nobody receives its events any more.
    pub join: JoinHandle<()>,
}

/// Starts the thread of a bus. Slots from `started` on are its to account for: the end of the downtime that the
/// agent records.
///
/// # Errors
/// [`SpawnError`] where a device cannot be polled at all, or the system has no thread left.
pub fn spawn<E: From<BusEvent> + Send + 'static>(
    bus: Bus,
    clock: Clock,
    started: Now,
    events: SyncSender<E>,
) -> Result<BusHandle, SpawnError> {
    let (commands, inbox) = sync_channel(COMMANDS_MAX);
    let sink = Box::new(move |event: BusEvent| events.send(event.into()).is_ok());
    let (name, now) = (format!("bus {}", bus.id), clock.now());
    let mut ground = Thread::new(&bus.link, clock, inbox, sink);
    let mut driver = Driver::new(bus, started, now)?;
    let join = std::thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(move || {
        fine_timers();
        run(&mut driver, &mut ground);
    })?;
    Ok(BusHandle { commands, join })
}

fn run(driver: &mut Driver, ground: &mut Thread) {
    loop {
        match driver.turn(ground) {
            Turn::Again => {}
            Turn::WaitUntil { boot_ms } => ground.wait_until(boot_ms),
            Turn::Ended => return,
        }
    }
}

/// Why a bus has no thread.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A device's channels cannot be asked for.
    #[error(transparent)]
    Device(#[from] PollError),
    /// The system has none left.
    #[error("no thread for a bus")]
    Thread(#[from] std::io::Error),
}

/// Sleeps end 50 µs late by default, half a character at 115,200 baud.
fn fine_timers() {
    if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
        tracing::debug!(%error, "no fine timers");
    }
}

/// Polls one device once, now, outside of any schedule: for a person who wants to see its values.
///
/// # Errors
/// [`PollError`] where the line cannot be opened or the device gives nothing at all.
pub fn read_once(bus: &Bus, device: &Device) -> Result<Vec<Sample>, PollError> {
    let (mut port, mut line) = (real::port(&bus.link), Line::new(&bus.link));
    line.open(&mut *port)?;
    if let Some(settings) = device.memory_settings() {
        return newest_record(device, settings, &mut line, &mut *port);
    }
    let mut poller = Poller::new(device)?;
    let mut once = Once::new(line, &mut *port);
    poller.poll(&mut once)?;
    Ok(once.into_samples())
}

#[cfg(test)]
mod tests;
