//! Moves bytes between a descriptor and a wire's core, and keeps its time: one thread per line or connection,
//! blocked in `ppoll` (nanosecond time-out, timer slack off) until a byte comes, a byte is due, or it is stopped.

use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use super::stats::LineStats;
use crate::clock::{self, Now};

/// The core of a line or connection. See `line` for the calling contract.
pub trait Wire {
    /// What the descriptor brought at `now`.
    fn received(&mut self, bytes: &[u8], now: Now);
    /// At `ns` nothing was waiting to be read, surely.
    fn quiet_at(&mut self, _ns: u64) {}
    /// When `advance` must be called at the latest, in monotonic nanoseconds.
    fn wake_at_ns(&self) -> Option<u64>;
    /// What is to be written at `now`.
    fn advance(&mut self, now: Now) -> Vec<u8>;
    /// What was counted since the last call.
    fn take_stats(&mut self) -> LineStats;
    /// The descriptor had no room for so many bytes.
    fn dropped(&mut self, bytes: usize);
    /// Whether the connection is to be closed.
    fn hang_up(&self) -> bool {
        false
    }
}

/// Tells threads to stop: readable once asked.
#[derive(Debug)]
pub struct Stop(OwnedFd);

impl Stop {
    /// Not asked yet.
    ///
    /// # Errors
    /// Where the kernel has no descriptor left.
    pub fn new() -> rustix::io::Result<Self> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Self)
    }

    /// Asks.
    pub fn ask(&self) {
        // The counter can only overflow after 2^64 - 1 calls; it stays readable either way.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Why serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was asked to.
    Stopped,
    /// The other side closed.
    Closed,
    /// The wire has had enough.
    HungUp,
    /// The descriptor failed.
    Failed(Errno),
}

/// The highest priority of ordinary threads.
const NICE: i32 = -20;

/// Wakes up on time: Linux lets ordinary threads oversleep by 50 microseconds unless told otherwise, and lets
/// them wait for those that compute. Where either cannot be set (the second needs CAP_SYS_NICE), wake-ups are later,
/// and [`LineStats::gaps_unsure`] shows it.
pub fn keep_time() {
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    // On Linux this is the priority of the calling thread alone.
    let _ = rustix::process::setpriority_process(None, NICE);
}

/// Serves until one of [`End`]. `fd` must be non-blocking.
pub fn serve(fd: BorrowedFd<'_>, stop: &Stop, wire: &mut dyn Wire, stats: &Mutex<LineStats>) -> End {
    keep_time();
    let end = loop {
        if let Err(end) = turn(fd, stop, wire) {
            break end;
        }
        publish(wire, stats);
    };
    publish(wire, stats);
    end
}

fn publish(wire: &mut dyn Wire, stats: &Mutex<LineStats>) {
    stats.lock().unwrap_or_else(PoisonError::into_inner).add(&wire.take_stats());
}

fn turn(fd: BorrowedFd<'_>, stop: &Stop, wire: &mut dyn Wire) -> Result<(), End> {
    let before_ns = clock::mono_ns();
    let timeout = wire.wake_at_ns().map(|at| clock::until(at, before_ns));
    let mut fds = [PollFd::new(&fd, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
    let polled = poll(&mut fds, timeout.as_ref());
    let now = clock::now();
    match polled {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(End::Failed(errno)),
    }
    if !fds[1].revents().is_empty() {
        return Err(End::Stopped);
    }
    if fds[0].revents().is_empty() {
        wire.quiet_at(before_ns);
    } else {
        read(fd, wire, now)?;
    }
    let out = wire.advance(clock::now());
    write(fd, wire, &out)?;
    if wire.hang_up() { Err(End::HungUp) } else { Ok(()) }
}

fn read(fd: BorrowedFd<'_>, wire: &mut dyn Wire, now: Now) -> Result<(), End> {
    let mut buffer = [0_u8; 4_096];
    match rustix::io::read(fd, &mut buffer) {
        Ok(0) => Err(End::Closed),
        Ok(len) => {
            wire.received(&buffer[..len], now);
            Ok(())
        }
        Err(Errno::INTR | Errno::AGAIN) => Ok(()),
        Err(errno) => Err(End::Failed(errno)),
    }
}

fn write(fd: BorrowedFd<'_>, wire: &mut dyn Wire, mut out: &[u8]) -> Result<(), End> {
    while !out.is_empty() {
        match rustix::io::write(fd, out) {
            Ok(len) => out = &out[len..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                wire.dropped(out.len());
                return Ok(());
            }
            Err(errno) => return Err(End::Failed(errno)),
        }
    }
    Ok(())
}
