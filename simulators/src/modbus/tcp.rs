//! Devices behind a TCP endpoint: Modbus TCP (MBAP), or RTU frames as they come out of a serial server. One thread
//! accepts, one serves each connection.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::device::DeviceKind;
use super::fault::Faults;
use super::line::{Line, Timing};
use super::mbap::Connection;
use super::pty::StartError;
use super::serve::{self, Stop, Wire};
use super::stats::LineStats;
use super::units::Units;

/// How frames stand in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// Modbus TCP.
    #[default]
    Mbap,
    /// RTU frames with their CRC.
    RtuOverTcp,
}

/// What an endpoint is like.
#[derive(Debug, Clone)]
pub struct TcpConfig {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// How frames stand in the stream.
    pub framing: Framing,
    /// From request to answer, in milliseconds (MBAP).
    pub turnaround_ms: u32,
    /// The devices by unit identifier.
    pub units: Vec<(u8, DeviceKind)>,
    /// Seed of all values and dice.
    pub seed: u64,
}

impl Default for TcpConfig {
    fn default() -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { address, framing: Framing::Mbap, turnaround_ms: 0, units: Vec::new(), seed: 1 }
    }
}

/// An endpoint that is served. Clones are handles of the same endpoint, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct TcpServer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    address: SocketAddr,
    session: Mutex<Option<Session>>,
}

#[derive(Debug)]
struct Shared {
    units: Arc<Units>,
    framing: Framing,
    turnaround_ns: u64,
    stats: Mutex<LineStats>,
}

#[derive(Debug)]
struct Session {
    stop: Arc<Stop>,
    thread: JoinHandle<()>,
}

/// Most connections at a time; more are turned away at once.
pub const CONNECTIONS_MAX: usize = 64;

impl TcpServer {
    /// Listens and begins to serve.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(config: &TcpConfig) -> Result<Self, StartError> {
        let units = Arc::new(Units::new(&config.units, config.seed)?);
        let shared = Arc::new(Shared {
            units,
            framing: config.framing,
            turnaround_ns: u64::from(config.turnaround_ms) * 1_000_000,
            stats: Mutex::default(),
        });
        let listener = listen(config.address)?;
        let address =
            listener.local_addr().map_err(|source| StartError::Listen { address: config.address, source })?;
        let session = plug(&shared, listener).map_err(|source| StartError::Listen { address, source })?;
        Ok(Self { inner: Arc::new(Inner { shared, address, session: Mutex::new(Some(session)) }) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// The units, their truth and the answer log.
    #[must_use]
    pub fn units(&self) -> &Arc<Units> {
        &self.inner.shared.units
    }

    /// The faults of `unit`; `None` where there is no such unit.
    #[must_use]
    pub fn faults(&self, unit: u8) -> Option<&Faults> {
        self.inner.shared.units.faults(unit)
    }

    /// What was counted so far, all connections together.
    #[must_use]
    pub fn stats(&self) -> LineStats {
        *self.inner.shared.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pulls the cable the loud way: nobody listens any more, and connections are reset.
    pub fn unplug(&self) {
        self.inner.unplug();
    }

    /// Listens again at the same address. Does nothing where it does.
    ///
    /// # Errors
    /// [`StartError::Listen`].
    pub fn replug(&self) -> Result<(), StartError> {
        let mut session = self.inner.session();
        if session.is_none() {
            let address = self.inner.address;
            let started = plug(&self.inner.shared, listen(address)?);
            *session = Some(started.map_err(|source| StartError::Listen { address, source })?);
        }
        Ok(())
    }
}

impl Inner {
    fn session(&self) -> MutexGuard<'_, Option<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unplug(&self) {
        if let Some(session) = self.session().take() {
            session.stop.ask();
            let _ = session.thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.unplug();
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|source| StartError::Listen { address, source })
}

fn plug(shared: &Arc<Shared>, listener: TcpListener) -> io::Result<Session> {
    let stop = Arc::new(Stop::new()?);
    let (asked, shared) = (Arc::clone(&stop), Arc::clone(shared));
    let accepting = move || accept_all(&listener, &asked, &shared);
    let thread = std::thread::Builder::new().name("sim-accept".into()).spawn(accepting)?;
    Ok(Session { stop, thread })
}

fn accept_all(listener: &TcpListener, stop: &Arc<Stop>, shared: &Arc<Shared>) {
    let mut connections: Vec<JoinHandle<()>> = Vec::new();
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        let polled = poll(&mut fds, None);
        if !fds[1].revents().is_empty() || matches!(polled, Err(e) if e != rustix::io::Errno::INTR) {
            break;
        }
        connections.retain(|thread| !thread.is_finished());
        if let Ok((stream, _)) = listener.accept()
            && connections.len() < CONNECTIONS_MAX
        {
            connections.extend(serve_connection(stream, stop, shared));
        }
    }
    connections.into_iter().for_each(|thread| drop(thread.join()));
}

/// `None` where the connection cannot be set up: it is closed, and the peer sees that.
fn serve_connection(stream: TcpStream, stop: &Arc<Stop>, shared: &Arc<Shared>) -> Option<JoinHandle<()>> {
    stream.set_nonblocking(true).ok()?;
    stream.set_nodelay(true).ok()?;
    let (stop, shared) = (Arc::clone(stop), Arc::clone(shared));
    let serving = move || {
        let units = Arc::clone(&shared.units);
        let mut wire: Box<dyn Wire> = match shared.framing {
            Framing::Mbap => Box::new(Connection::new(units, shared.turnaround_ns)),
            Framing::RtuOverTcp => Box::new(Line::new(Timing::stream(), units)),
        };
        if serve::serve(stream.as_fd(), &stop, &mut *wire, &shared.stats) == serve::End::Stopped {
            // Lingering for no time makes the kernel reset the connection instead of closing it politely.
            let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
        }
    };
    std::thread::Builder::new().name("sim-connection".into()).spawn(serving).ok()
}
