//! Waiting for a descriptor until an instant of the monotonic clock, finer than the milliseconds of `poll`.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::clock::{Mono, mono, timespec};

/// What a wait ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// Something can be read or written, or an error be fetched by trying.
    Yes,
    /// The instant has come.
    TimedOut,
    /// The other end is gone, and nothing is left to read.
    HungUp,
}

/// Waits until something can be read.
pub(super) fn readable(fd: BorrowedFd<'_>, until: Mono) -> io::Result<Ready> {
    wait(fd, PollFlags::IN, until)
}

/// Waits until something can be written.
pub(super) fn writable(fd: BorrowedFd<'_>, until: Mono) -> io::Result<Ready> {
    wait(fd, PollFlags::OUT, until)
}

fn wait(fd: BorrowedFd<'_>, events: PollFlags, until: Mono) -> io::Result<Ready> {
    loop {
        let left = timespec(until.since_ns(mono()));
        let mut fds = [PollFd::from_borrowed_fd(fd, events)];
        match rustix::event::poll(&mut fds, Some(&left)) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
            Ok(0) => return Ok(Ready::TimedOut),
            Ok(_) if fds[0].revents().intersects(events) => return Ok(Ready::Yes),
            Ok(_) => return Ok(Ready::HungUp),
        }
    }
}
