//! The shell of a TCP connection: opens it, keeps it, and closes it after any failure, so that no late answer can
//! ever meet another request. Decides nothing of when or whom to ask.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::Duration;

use super::line::{Ask, ExchangeError, OpenError};
use super::wait::{self, Ready};
use crate::clock::{Mono, mono, sleep_until};
use crate::config::{Tcp, TcpFraming};
use crate::modbus::{Answer, Framing, Progress, Receiver};

/// Longest time for a connection to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time for a request to fit into the socket's buffer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Silence after which the kernel asks whether the other end is still there, and how it asks.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// A TCP endpoint.
#[derive(Debug)]
pub(super) struct TcpLine {
    endpoint: Tcp,
    framing: Framing,
    stream: Option<TcpStream>,
    transaction: u16,
    free_at: Mono,
    discarded: u64,
}

impl TcpLine {
    pub(super) fn new(endpoint: Tcp) -> Self {
        let framing = match endpoint.framing {
            TcpFraming::Mbap => Framing::Mbap,
            TcpFraming::Rtu => Framing::Rtu,
        };
        Self { endpoint, framing, stream: None, transaction: 0, free_at: Mono::default(), discarded: 0 }
    }

    pub(super) fn open(&mut self) -> Result<(), OpenError> {
        self.stream = None;
        self.stream = Some(connect(&self.endpoint)?);
        Ok(())
    }

    pub(super) fn close(&mut self) {
        self.stream = None;
    }

    pub(super) fn take_discarded(&mut self) -> u64 {
        std::mem::take(&mut self.discarded)
    }

    /// A connection that was closed after a failure is rebuilt here, so that a poll can go on; so is one that its
    /// server has closed because it was idle.
    pub(super) fn exchange(&mut self, ask: &Ask<'_>) -> Result<Answer, ExchangeError> {
        sleep_until(self.free_at);
        let mut stream = match self.usable() {
            Some(stream) => stream,
            None => connect(&self.endpoint).map_err(io::Error::other)?,
        };
        let answer = self.exchange_on(&mut stream, ask)?;
        self.stream = Some(stream);
        self.free_at = mono().plus_ns(nanos(ask.turnaround));
        Ok(answer)
    }

    fn exchange_on(&mut self, stream: &mut TcpStream, ask: &Ask<'_>) -> Result<Answer, ExchangeError> {
        self.transaction = self.transaction.wrapping_add(1);
        let frame = self.framing.encode(self.transaction, ask.unit, ask.request);
        stream.write_all(&frame)?;
        let mut receiver = self.framing.receiver(self.transaction, ask.unit, ask.request);
        let until = mono().plus_ns(nanos(ask.timeout));
        let result = receive(stream, &mut receiver, until);
        self.discarded += receiver.skipped_bytes();
        result
    }

    /// The connection that is kept, unless it has none or its other end has closed it.
    fn usable(&mut self) -> Option<TcpStream> {
        let mut stream = self.stream.take()?;
        match self.discard(&mut stream) {
            Ok(()) => Some(stream),
            Err(error) => {
                tracing::debug!(host = self.endpoint.host, %error, "connection closed while idle");
                None
            }
        }
    }

    /// Discards what came without being asked for; finds out whether the other end has closed meanwhile.
    fn discard(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        let mut buffer = [0; 512];
        while wait::readable(stream.as_fd(), Mono::default())? != Ready::TimedOut {
            self.discarded += u64::try_from(read(stream, &mut buffer)?).unwrap_or(u64::MAX);
        }
        Ok(())
    }
}

fn receive(
    stream: &mut TcpStream,
    receiver: &mut Receiver<'_>,
    until: Mono,
) -> Result<Answer, ExchangeError> {
    let (mut buffer, mut silence) = ([0; 512], ExchangeError::TimedOut);
    loop {
        if wait::readable(stream.as_fd(), until)? == Ready::TimedOut {
            return Err(silence);
        }
        let count = read(stream, &mut buffer)?;
        match receiver.push(&buffer[..count]) {
            Progress::Frame(answer) => return Ok(answer),
            Progress::Corrupt(why) => return Err(ExchangeError::Corrupt(why)),
            Progress::NeedMore(_) => silence = ExchangeError::Truncated,
        }
    }
}

fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    match stream.read(buffer) {
        Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the other end")),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
        other => other,
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
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let (idle, interval, count) = KEEPALIVE;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, idle)?;
    sockopt::set_tcp_keepintvl(&stream, interval)?;
    sockopt::set_tcp_keepcnt(&stream, count)?;
    Ok(stream)
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
