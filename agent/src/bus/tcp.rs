//! Exchanges on a TCP connection, which is kept, and closed after any failure, so that no late answer can meet another
//! request. Where the frames are RTU that is not enough: a serial server hands a late answer to whoever is connected
//! when it comes, and the rule of [`super::late`] holds as on a serial line. Decides nothing of when or whom to ask, and
//! knows the connection only as bytes and time.

use std::io;
use std::time::Duration;

use super::ground::{OpenError, Port};
use super::late::{LateAnswers, begins_as_answer};
use super::line::{Ask, Deadline, ExchangeError};
use crate::clock::Mono;
use crate::config::{Tcp, TcpFraming};
use crate::modbus::{Answer, Framing, Progress, Receiver};

/// Longest time for a request to fit into the socket's buffer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a serial server and the network may take to hand over what has come.
const SERVER_DELAY: Duration = Duration::from_millis(50);

/// The connection to a TCP endpoint.
#[derive(Debug)]
pub(super) struct TcpLine {
    framing: Framing,
    is_open: bool,
    transaction: u16,
    free_at: Mono,
    /// Of RTU frames; MBAP has its transaction identifier.
    late: LateAnswers,
    discarded: u64,
}

impl TcpLine {
    pub(super) fn new(endpoint: &Tcp) -> Self {
        let framing = match endpoint.framing {
            TcpFraming::Mbap => Framing::Mbap,
            TcpFraming::Rtu => Framing::Rtu,
        };
        let (free_at, late) = (Mono::default(), LateAnswers::default());
        Self { framing, is_open: false, transaction: 0, free_at, late, discarded: 0 }
    }

    pub(super) fn open(&mut self, port: &mut dyn Port) -> Result<(), OpenError> {
        self.is_open = false;
        port.open()?;
        self.is_open = true;
        Ok(())
    }

    pub(super) fn close(&mut self, port: &mut dyn Port) {
        self.is_open = false;
        port.close();
    }

    pub(super) fn take_discarded(&mut self) -> u64 {
        std::mem::take(&mut self.discarded)
    }

    /// A connection that was closed after a failure is rebuilt here, so that a poll can go on; so is one that its
    /// server has closed because it was idle.
    pub(super) fn exchange(&mut self, port: &mut dyn Port, ask: &Ask<'_>) -> Result<Answer, ExchangeError> {
        port.sleep_until(self.free_at);
        if !self.is_usable(port) {
            self.open(port).map_err(io::Error::other)?;
        }
        let result = self.exchange_on(port, ask);
        match result {
            Ok(_) => self.free_at = port.mono().plus(ask.turnaround),
            Err(_) => self.close(port),
        }
        result
    }

    fn exchange_on(&mut self, port: &mut dyn Port, ask: &Ask<'_>) -> Result<Answer, ExchangeError> {
        self.await_late(port, ask)?;
        self.transaction = self.transaction.wrapping_add(1);
        let frame = self.framing.encode(self.transaction, ask.unit, ask.request);
        let now = port.mono();
        if self.framing == Framing::Rtu {
            self.late.sent(ask, now.plus(SERVER_DELAY));
        }
        port.write_all(&frame, now.plus(WRITE_TIMEOUT))?;
        let mut receiver = self.framing.receiver(self.transaction, ask.unit, ask.request);
        let until = port.mono().plus(ask.timeout);
        let deadline = Deadline::new(port, until);
        let result = receive(port, &mut receiver, deadline, &mut self.late);
        let damaged = matches!(&receiver, Receiver::Rtu(rtu) if begins_as_answer(ask, rtu.received()));
        if result.is_ok() || damaged {
            self.late.answered(ask);
        }
        self.discarded += receiver.skipped_bytes();
        result
    }

    /// Listens for as long as a late answer could pass for the answer to this request.
    fn await_late(&mut self, port: &mut dyn Port, ask: &Ask<'_>) -> io::Result<()> {
        while let Some(until) = self.late.wait_until(ask, port.mono())
            && port.readable(until)?
        {
            self.read_and_discard(port)?;
        }
        Ok(())
    }

    /// How long this request would have to wait for a late answer.
    pub(super) fn late_wait(&mut self, ask: &Ask<'_>, now: Mono) -> Duration {
        self.late.wait(ask, now)
    }

    /// Whether there is a connection, and its other end has not closed it meanwhile.
    fn is_usable(&mut self, port: &mut dyn Port) -> bool {
        if !self.is_open {
            return false;
        }
        let discarded = self.discard(port);
        if let Err(error) = &discarded {
            tracing::debug!(%error, "connection closed while idle");
        }
        discarded.is_ok()
    }

    /// Discards what came without being asked for; an endpoint that does not stop sending is no use.
    fn discard(&mut self, port: &mut dyn Port) -> io::Result<()> {
        const READS_MAX: usize = 64;
        for _ in 0..READS_MAX {
            if !port.readable(Mono::default())? {
                return Ok(());
            }
            self.read_and_discard(port)?;
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "it does not stop sending"))
    }

    fn read_and_discard(&mut self, port: &mut dyn Port) -> io::Result<()> {
        let mut buffer = [0; 512];
        let count = port.read(&mut buffer)?;
        self.late.heard(&buffer[..count]);
        self.discarded += u64::try_from(count).unwrap_or(u64::MAX);
        Ok(())
    }
}

fn receive(
    port: &mut dyn Port,
    receiver: &mut Receiver<'_>,
    deadline: Deadline,
    late: &mut LateAnswers,
) -> Result<Answer, ExchangeError> {
    let (mut buffer, mut silence) = ([0; 512], ExchangeError::TimedOut);
    loop {
        if !port.readable(deadline.until)? {
            return Err(silence);
        }
        let count = port.read(&mut buffer)?;
        late.read(&buffer[..count]);
        match receiver.push(&buffer[..count]) {
            Progress::Frame(_) if deadline.is_stalled(port) => return Err(ExchangeError::TimedOut),
            Progress::Frame(answer) => return Ok(answer),
            Progress::Corrupt(why) => return Err(ExchangeError::Corrupt(why)),
            // One that sends other frames without end has not answered either.
            Progress::NeedMore(_) if port.mono() >= deadline.until => return Err(ExchangeError::Truncated),
            Progress::NeedMore(_) => silence = ExchangeError::Truncated,
        }
    }
}
