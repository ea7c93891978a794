//! A TCP connection: opened, read and written without waiting. Knows nothing of frames, and reconnects only when told.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::Duration;

use super::not_open;
use super::wait::{self, Ready};
use crate::bus::ground::{OpenError, Opened, Port};
use crate::clock::{self, Mono};
use crate::config::Tcp;

/// Longest time for a connection to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Silence after which the kernel asks whether the other end is still there, and how it asks.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// A connection, up or not.
#[derive(Debug)]
pub(super) struct TcpPort {
    endpoint: Tcp,
    stream: Option<TcpStream>,
}

impl TcpPort {
    pub(super) fn new(endpoint: Tcp) -> Self {
        Self { endpoint, stream: None }
    }

    fn stream(&mut self) -> io::Result<&mut TcpStream> {
        self.stream.as_mut().ok_or_else(not_open)
    }
}

impl Port for TcpPort {
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
        self.stream = None;
        self.stream = Some(connect(&self.endpoint)?);
        Ok(Opened { prompt: true })
    }

    fn close(&mut self) {
        self.stream = None;
    }

    fn write_all(&mut self, bytes: &[u8], until: Mono) -> io::Result<()> {
        let stream = self.stream()?;
        let mut rest = bytes;
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = &rest[count..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if wait::writable(stream.as_fd(), until)? == Ready::TimedOut {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// What ails a connection that has failed is said by reading it.
    fn readable(&mut self, until: Mono) -> io::Result<bool> {
        Ok(wait::readable(self.stream()?.as_fd(), until)? != Ready::TimedOut)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stream()?.read(buffer) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the other end")),
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => Ok(0),
            other => other,
        }
    }
}

fn connect(endpoint: &Tcp) -> Result<TcpStream, OpenError> {
    let failed =
        |source| OpenError::Connect { endpoint: format!("{}:{}", endpoint.host, endpoint.port), source };
    let resolve = |source| OpenError::Resolve { host: endpoint.host.clone(), source };
    let addresses = (endpoint.host.as_str(), endpoint.port).to_socket_addrs().map_err(resolve)?;
    let mut error = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => return prepare(stream).map_err(failed),
            Err(e) => error = e,
        }
    }
    Err(failed(error))
}

fn prepare(stream: TcpStream) -> io::Result<TcpStream> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    let (idle, interval, count) = KEEPALIVE;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, idle)?;
    sockopt::set_tcp_keepintvl(&stream, interval)?;
    sockopt::set_tcp_keepcnt(&stream, count)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}
