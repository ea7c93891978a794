//! Remote APIs over HTTP on a port of this machine: what the collector's sources ask. [`meter`] is that of half-hourly meters,
//! [`thermostat`] a cloud of thermostats, [`fleet`] one that lists them and says what changed, [`carbon`] the intensity of a grid;
//! [`oauth`] gives the tokens that a cloud may want.
//!
//! Does not simulate: TLS, keep-alive (each connection has one answer).

pub mod carbon;
pub mod cli;
pub mod fleet;
pub mod meter;
pub mod oauth;
pub mod quota;
pub mod thermostat;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use gapless_common::time::Timestamp;

use crate::clock;

/// Longest request.
const REQUEST_BYTES_MAX: usize = 8 << 10;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Path and query.
    pub target: &'a str,
    /// The lines of its head.
    pub head: &'a str,
    /// What came with it.
    pub body: &'a str,
}

impl<'a> Request<'a> {
    /// `GET` and the like.
    #[must_use]
    pub fn method(&self) -> &'a str {
        self.head.split(' ').next().unwrap_or_default()
    }

    /// A header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// A field of the query, as it is written.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'a str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

/// What an API has, and how it answers.
pub trait Remote: Send + 'static {
    /// The status and the body of the answer; 429 goes out with `Retry-After: 1`, and the body of a 301 is where it points to.
    fn answer(&mut self, request: &Request<'_>, now: Timestamp) -> (u16, String);

    /// Headers of the answer that was given last.
    fn headers(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

fn refused(status: u16, why: &str) -> (u16, String) {
    (status, serde_json::json!({"error": why}).to_string())
}

/// The API on a port of this machine; ends when it is dropped.
#[derive(Debug)]
pub struct RemoteServer<R> {
    remote: Arc<Mutex<R>>,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<R: Remote> RemoteServer<R> {
    /// Serves it on a free port.
    ///
    /// # Errors
    /// Where nothing can be listened on.
    pub fn start(remote: R) -> io::Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), remote)
    }

    /// Serves it there.
    ///
    /// # Errors
    /// Where it cannot be listened on.
    pub fn start_at(address: SocketAddr, remote: R) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let (address, stop) = (listener.local_addr()?, Arc::new(AtomicBool::new(false)));
        let remote = Arc::new(Mutex::new(remote));
        let (asked, served) = (Arc::clone(&stop), Arc::clone(&remote));
        let serve = move || {
            while !asked.load(Ordering::Relaxed) {
                match listener.accept() {
                    // Who has gone meanwhile needs no answer.
                    Ok((stream, _)) => drop(serve_one(stream, &served)),
                    Err(_) => std::thread::sleep(LOOK_EVERY),
                }
            }
        };
        let thread = std::thread::Builder::new().name("sim-remote".into()).spawn(serve)?;
        Ok(Self { remote, address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has, to look at it or to change it.
    pub fn state(&self) -> MutexGuard<'_, R> {
        self.remote.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R> Drop for RemoteServer<R> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

fn serve_one<R: Remote>(mut stream: TcpStream, remote: &Mutex<R>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut bytes, mut part) = (Vec::new(), [0; 512]);
    let text = loop {
        let count = stream.read(&mut part)?;
        if count == 0 || bytes.len() > REQUEST_BYTES_MAX {
            return Ok(());
        }
        bytes.extend_from_slice(&part[..count]);
        let text = String::from_utf8_lossy(&bytes);
        if is_whole(&text) {
            break text.into_owned();
        }
    };
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let target = head.split(' ').nth(1).unwrap_or("/");
    let request = Request { target, head, body };
    let now = Timestamp(clock::now().wall_ms);
    let (status, body, headers) = {
        let mut remote = remote.lock().unwrap_or_else(PoisonError::into_inner);
        let (status, body) = remote.answer(&request, now);
        (status, body, remote.headers())
    };
    let headers = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<String>();
    let more = match status {
        301 => format!("Location: {body}\r\n"),
        429 => "Retry-After: 1\r\n".to_owned(),
        _ => String::new(),
    };
    let head = format!(
        "HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\n{more}{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// Whether a request is there to its end.
fn is_whole(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length =
        Request { target: "", head, body }.header("content-length").and_then(|text| text.parse().ok());
    body.len() >= length.unwrap_or(0)
}
