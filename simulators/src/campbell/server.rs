//! The logger's web server: HTTP/1.1 on a TCP port, one thread that accepts and one for each connection. Knows nothing
//! of tables and queries.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::fault::FaultKind;
use super::logger::{Logger, LoggerConfig, Reply};
use crate::clock;

/// Most connections at a time; more are turned away at once. A logger has few.
pub const CONNECTIONS_MAX: usize = 16;

/// Longest head of a request.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// How often a thread that waits looks whether the plug was pulled.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A logger that is served. Clones are handles of the same one, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct LoggerServer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    logger: Arc<Mutex<Logger>>,
    address: SocketAddr,
    session: Mutex<Option<Session>>,
}

#[derive(Debug)]
struct Session {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl LoggerServer {
    /// Switches a logger on and serves it; port 0 takes a free one.
    ///
    /// # Errors
    /// Where the address cannot be listened on.
    pub fn start(config: LoggerConfig, address: SocketAddr) -> io::Result<Self> {
        let logger = Arc::new(Mutex::new(Logger::new(config, clock::now().wall_ms)));
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let session = plug(&logger, listener)?;
        Ok(Self { inner: Arc::new(Inner { logger, address, session: Mutex::new(Some(session)) }) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// The logger, and the instant of the world's clock to speak to it of.
    pub fn with<T>(&self, speak: impl FnOnce(&mut Logger, i64) -> T) -> T {
        speak(&mut lock(&self.inner.logger), clock::now().wall_ms)
    }

    /// Pulls the cable: nobody listens any more, and connections are reset. The logger goes on recording.
    pub fn unplug(&self) {
        self.inner.unplug();
    }

    /// Listens again at the same address. Does nothing where it does.
    ///
    /// # Errors
    /// Where the address has been taken.
    pub fn replug(&self) -> io::Result<()> {
        let mut session = self.inner.session();
        if session.is_none() {
            *session = Some(plug(&self.inner.logger, TcpListener::bind(self.inner.address)?)?);
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
            session.stop.store(true, Ordering::Relaxed);
            let _ = session.thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.unplug();
    }
}

fn lock(logger: &Mutex<Logger>) -> MutexGuard<'_, Logger> {
    logger.lock().unwrap_or_else(PoisonError::into_inner)
}

fn plug(logger: &Arc<Mutex<Logger>>, listener: TcpListener) -> io::Result<Session> {
    listener.set_nonblocking(true)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (asked, logger) = (Arc::clone(&stop), Arc::clone(logger));
    let accepting = move || accept_all(&listener, &asked, &logger);
    let thread = std::thread::Builder::new().name("sim-logger".into()).spawn(accepting)?;
    Ok(Session { stop, thread })
}

fn accept_all(listener: &TcpListener, stop: &Arc<AtomicBool>, logger: &Arc<Mutex<Logger>>) {
    let mut connections: Vec<JoinHandle<()>> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        connections.retain(|thread| !thread.is_finished());
        match listener.accept() {
            Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                let (stop, logger) = (Arc::clone(stop), Arc::clone(logger));
                let serving = move || serve(stream, &stop, &logger);
                connections.extend(std::thread::Builder::new().name("sim-http".into()).spawn(serving));
            }
            Ok(_) => {}
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
    connections.into_iter().for_each(|thread| drop(thread.join()));
}

/// Answers one request after the other, until the client has gone or the plug is pulled.
fn serve(mut stream: TcpStream, stop: &AtomicBool, logger: &Mutex<Logger>) {
    let ready = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_nodelay(true))
        .and_then(|()| stream.set_read_timeout(Some(LOOK_EVERY)));
    if ready.is_err() {
        return;
    }
    let mut buffer = Vec::new();
    while let Some(head) = next_head(&mut stream, &mut buffer, stop) {
        let (target, authorization) = understood(&head);
        let reply = lock(logger).answer(target, authorization, clock::now().wall_ms);
        if !send(&mut stream, &reply, stop) {
            break;
        }
    }
    if stop.load(Ordering::Relaxed) {
        // Lingering for no time makes the kernel reset the connection instead of closing it politely.
        let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
    }
}

/// The head of the next request; what came behind it stays in `buffer`.
fn next_head(stream: &mut TcpStream, buffer: &mut Vec<u8>, stop: &AtomicBool) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..end + 4).collect();
            return Some(String::from_utf8_lossy(&head).into_owned());
        }
        let mut bytes = [0; 1_024];
        match stream.read(&mut bytes) {
            Ok(0) => return None,
            Ok(count) => buffer.extend_from_slice(&bytes[..count]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => return None,
        }
        if stop.load(Ordering::Relaxed) || buffer.len() > HEAD_BYTES_MAX {
            return None;
        }
    }
}

/// What is asked for, and by whom.
fn understood(head: &str) -> (&str, Option<&str>) {
    let mut lines = head.lines();
    let target = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or("/");
    let authorization = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("authorization").then(|| value.trim())
    });
    (target, authorization)
}

/// `false` where the connection has to end.
fn send(stream: &mut TcpStream, reply: &Reply, stop: &AtomicBool) -> bool {
    for fault in &reply.faults {
        let waits = match fault {
            FaultKind::Slow { ms } => *ms,
            FaultKind::Silent => u64::MAX,
            _ => 0,
        };
        if !wait(waits, stop) {
            return false;
        }
    }
    let has = |kind: FaultKind| reply.faults.contains(&kind);
    let half = &reply.body[..reply.body.floor_char_boundary(reply.body.len() / 2)];
    let body = if has(FaultKind::Truncated) { half } else { &reply.body };
    let kind = if reply.is_json { "application/json" } else { "text/html" };
    let status = if reply.status == 200 { "200 OK" } else { "401 Unauthorized" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: keep-alive\r\n\r\n",
        body.len()
    );
    let sent = if has(FaultKind::CutOff) { half } else { body };
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(sent.as_bytes())).is_ok()
        && !has(FaultKind::CutOff)
}

/// `false` where the plug was pulled meanwhile.
fn wait(ms: u64, stop: &AtomicBool) -> bool {
    let until = clock::mono_ns().saturating_add(ms.saturating_mul(1_000_000));
    while clock::mono_ns() < until {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        std::thread::sleep(LOOK_EVERY.min(Duration::from_nanos(until.saturating_sub(clock::mono_ns()))));
    }
    true
}
