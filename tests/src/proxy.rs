//! A TCP link of the loopback that misbehaves on demand: passes, stalls, half-closes, turns away, resets, cuts in the
//! middle of a message, crawls. Knows nothing of what passes, and loses no byte of a connection that it keeps.
//!
//! One thread accepts, two serve each connection, one for each way. A connection remembers what was done to it: one
//! that was half-closed stays so when the link is open again, as its ends have to find out by themselves.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// Connections at a time; more are reset at once.
const CONNECTIONS_MAX: usize = 32;
/// Bytes held of each way of a connection, beside what the kernel holds.
const HELD_BYTES: usize = 16 << 10;
/// How soon a thread sees that the link has changed.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A slow link passes so many bytes each [`SLOW_PAUSE`]: 2 kB a second.
const SLOW_BYTES: usize = 100;
const SLOW_PAUSE: Duration = Duration::from_millis(50);

/// A way through the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who connected to the server.
    Up,
    /// From the server to who connected.
    Down,
}

/// How the link behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Passes everything.
    Open,
    /// Takes connections and bytes, and holds them all.
    Stalled,
    /// Ends this way of each connection that there is; the other goes on.
    HalfClosed(Way),
    /// Resets what is there, and whoever comes.
    Down,
    /// Resets each connection after so many more bytes, both ways together.
    CutAfter(u32),
    /// Passes 2 kB a second each way.
    Slow,
}

/// A listening link; it ends, with all its connections, when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    server: u16,
    /// The mood, and how often it was set. Held for reading while bytes are carried under it.
    mood: RwLock<(Mood, u64)>,
    connections: AtomicUsize,
    passed_bytes: AtomicU64,
    is_ending: AtomicBool,
}

/// Both sockets of a connection.
#[derive(Debug)]
struct Pair {
    client: TcpStream,
    server: TcpStream,
    /// The mood that it was born in, or that it is under since, and the bytes that may still pass before it is cut.
    left: Mutex<(u64, i64)>,
    /// Both ways end with a reset.
    is_reset: AtomicBool,
}

impl Proxy {
    /// Listens on a free port, and leads to `server` on the loopback.
    ///
    /// # Panics
    /// When there is no free port or no thread.
    #[must_use]
    pub fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free loopback port");
        let port = listener.local_addr().expect("it is bound").port();
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let shared = Arc::new(Shared {
            server,
            mood: RwLock::new((Mood::Open, 0)),
            connections: AtomicUsize::new(0),
            passed_bytes: AtomicU64::new(0),
            is_ending: AtomicBool::new(false),
        });
        let accepting = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || accept_all(&listener, &shared))
        };
        Self { port, shared, accepting: Some(accepting) }
    }

    /// Where it listens.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Behaves like this from now on: when this returns nothing passes any more as it did before.
    pub fn set(&self, mood: Mood) {
        let mut now = self.shared.mood.write().unwrap_or_else(PoisonError::into_inner);
        *now = (mood, now.1 + 1);
    }

    /// Bytes passed so far, both ways.
    #[must_use]
    pub fn passed_bytes(&self) -> u64 {
        self.shared.passed_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, Ordering::Relaxed);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl Shared {
    fn mood(&self) -> (Mood, u64) {
        *self.mood.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }
}

fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.is_ending() {
        match listener.accept() {
            Ok((client, _)) => begin(client, shared),
            Err(_) => std::thread::sleep(LOOK_EVERY / 4),
        }
    }
}

/// Serves a connection, or resets it where the link is down or full, or the server is away.
fn begin(client: TcpStream, shared: &Arc<Shared>) {
    let is_down = shared.mood().0 == Mood::Down;
    let is_full = shared.connections.load(Ordering::Relaxed) >= CONNECTIONS_MAX;
    if is_down || is_full {
        return reset(&client);
    }
    match TcpStream::connect(("127.0.0.1", shared.server)) {
        Ok(server) if prepare(&client).and_then(|()| prepare(&server)).is_ok() => {
            serve(client, server, shared);
        }
        _ => reset(&client),
    }
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(LOOK_EVERY))?;
    socket.set_write_timeout(Some(LOOK_EVERY))
}

fn serve(client: TcpStream, server: TcpStream, shared: &Arc<Shared>) {
    let (mood, generation) = shared.mood();
    let pair = Arc::new(Pair {
        client,
        server,
        left: Mutex::new((generation, allowance(mood))),
        is_reset: AtomicBool::new(false),
    });
    shared.connections.fetch_add(1, Ordering::Relaxed);
    for way in [Way::Up, Way::Down] {
        let (pair, shared) = (Arc::clone(&pair), Arc::clone(shared));
        std::thread::spawn(move || {
            pump(&pair, way, &shared);
            // The last of the two closes both sockets.
            if Arc::into_inner(pair).is_some() {
                shared.connections.fetch_sub(1, Ordering::Relaxed);
            }
        });
    }
}

fn allowance(mood: Mood) -> i64 {
    if let Mood::CutAfter(bytes) = mood { bytes.into() } else { i64::MAX }
}

/// Closing sends a reset, at once.
fn reset(socket: &TcpStream) {
    // A socket that is closed already needs none.
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// Carries one way of a connection until it ends.
fn pump(pair: &Pair, way: Way, shared: &Shared) {
    let (from, to) = match way {
        Way::Up => (&pair.client, &pair.server),
        Way::Down => (&pair.server, &pair.client),
    };
    let mut held = Vec::with_capacity(HELD_BYTES);
    loop {
        let pause = match step(pair, way, (from, to), &mut held, shared) {
            Step::On(pause) => pause,
            Step::Close => {
                // An end that is gone already needs no end.
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Step::Reset => return pair.end_with_reset(),
        };
        std::thread::sleep(pause);
    }
}

/// What became of one look at a way.
#[derive(Debug)]
enum Step {
    On(Duration),
    Close,
    Reset,
}

/// Carries what the link's mood lets pass now.
fn step(pair: &Pair, way: Way, ends: (&TcpStream, &TcpStream), held: &mut Vec<u8>, shared: &Shared) -> Step {
    let mood = shared.mood.read().unwrap_or_else(PoisonError::into_inner);
    let most = match look(pair, way, *mood, shared) {
        Verdict::Reset => return Step::Reset,
        Verdict::Close => return Step::Close,
        Verdict::Hold => return Step::On(LOOK_EVERY),
        Verdict::Pass(most) => most,
    };
    match carry(ends, held, most.min(pair.left())) {
        Ok(Carried::Bytes(passed)) => {
            pair.count(passed, shared);
            Step::On(if most == SLOW_BYTES && passed > 0 { SLOW_PAUSE } else { Duration::ZERO })
        }
        Ok(Carried::End) => Step::Close,
        Err(_) => Step::Reset,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Pass(usize),
    Hold,
    Close,
    Reset,
}

/// What the link's mood means for this way of a connection now.
fn look(pair: &Pair, way: Way, (mood, generation): (Mood, u64), shared: &Shared) -> Verdict {
    pair.take_up(mood, generation);
    if shared.is_ending() || pair.is_reset.load(Ordering::Relaxed) || pair.left() == 0 {
        return Verdict::Reset;
    }
    match mood {
        Mood::Open | Mood::CutAfter(_) => Verdict::Pass(HELD_BYTES),
        Mood::Slow => Verdict::Pass(SLOW_BYTES),
        Mood::Stalled => Verdict::Hold,
        Mood::HalfClosed(closed) if closed == way => Verdict::Close,
        Mood::HalfClosed(_) => Verdict::Pass(HELD_BYTES),
        Mood::Down => Verdict::Reset,
    }
}

impl Pair {
    /// A new mood is taken up once, by whichever way sees it first, and seen as a whole by the other.
    fn take_up(&self, mood: Mood, generation: u64) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.0 != generation {
            *left = (generation, allowance(mood));
        }
    }

    fn left(&self) -> usize {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        usize::try_from(left.1).unwrap_or(0)
    }

    fn count(&self, passed: usize, shared: &Shared) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).1 -= i64::try_from(passed).unwrap_or(0);
        shared.passed_bytes.fetch_add(u64::try_from(passed).unwrap_or(0), Ordering::Relaxed);
    }

    fn end_with_reset(&self) {
        self.is_reset.store(true, Ordering::Relaxed);
        reset(&self.client);
        reset(&self.server);
    }
}

#[derive(Debug)]
enum Carried {
    Bytes(usize),
    End,
}

/// Reads what there is where nothing is held, and passes at most `most` bytes of it.
fn carry(
    (mut from, mut to): (&TcpStream, &TcpStream),
    held: &mut Vec<u8>,
    most: usize,
) -> io::Result<Carried> {
    if held.is_empty() {
        let mut buffer = [0; HELD_BYTES];
        match from.read(&mut buffer) {
            Ok(0) => return Ok(Carried::End),
            Ok(read) => held.extend_from_slice(&buffer[..read]),
            Err(e) if is_passing(&e) => return Ok(Carried::Bytes(0)),
            Err(e) => return Err(e),
        }
    }
    match to.write(&held[..held.len().min(most)]) {
        Ok(written) => {
            held.drain(..written);
            Ok(Carried::Bytes(written))
        }
        Err(e) if is_passing(&e) => Ok(Carried::Bytes(0)),
        Err(e) => Err(e),
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Far beyond what any of this takes.
    const SOON: Duration = Duration::from_secs(30);

    /// A link, who has connected through it, and the server's end.
    fn connected() -> (Proxy, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap().port());
        let client = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        let (server, _) = listener.accept().unwrap();
        for end in [&client, &server] {
            end.set_read_timeout(Some(SOON)).unwrap();
        }
        (proxy, client, server)
    }

    /// What arrives of `sent` before the end of the stream or its reset.
    fn rest(mut end: &TcpStream) -> (Vec<u8>, Option<io::ErrorKind>) {
        let (mut all, mut buffer) = (Vec::new(), [0; 1_024]);
        loop {
            match end.read(&mut buffer) {
                Ok(0) => return (all, None),
                Ok(read) => all.extend_from_slice(&buffer[..read]),
                Err(e) => return (all, Some(e.kind())),
            }
        }
    }

    fn exchange(mut from: &TcpStream, mut to: &TcpStream, bytes: &[u8]) {
        from.write_all(bytes).unwrap();
        let mut got = vec![0; bytes.len()];
        to.read_exact(&mut got).unwrap();
        assert_eq!(got, bytes);
    }

    #[test]
    fn an_open_link_passes_both_ways_and_the_end_too() {
        let (proxy, client, server) = connected();
        exchange(&client, &server, b"question");
        exchange(&server, &client, &[7; 200_000]);
        drop(client);
        assert_eq!(rest(&server), (Vec::new(), None));
        // They are counted once they are through.
        let began = Instant::now();
        while proxy.passed_bytes() < 200_008 && began.elapsed() < SOON {
            std::thread::yield_now();
        }
        assert_eq!(proxy.passed_bytes(), 200_008);
    }

    #[test]
    fn a_stalled_link_holds_every_byte_and_gives_it_when_it_is_open_again() {
        let (proxy, mut client, server) = connected();
        exchange(&client, &server, b"before");
        proxy.set(Mood::Stalled);
        client.write_all(b"held").unwrap();
        server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(is_passing(&(&server).read(&mut [0; 4]).unwrap_err()), "a stalled link passed bytes");
        server.set_read_timeout(Some(SOON)).unwrap();
        proxy.set(Mood::Open);
        drop(client);
        assert_eq!(rest(&server), (b"held".to_vec(), None));
    }

    #[test]
    fn a_half_closed_link_ends_one_way_and_goes_on_the_other() {
        for way in [Way::Up, Way::Down] {
            let (proxy, client, server) = connected();
            let (from, to) = if way == Way::Up { (&client, &server) } else { (&server, &client) };
            exchange(from, to, b"both ways");
            proxy.set(Mood::HalfClosed(way));
            assert_eq!(rest(to), (Vec::new(), None), "{way:?} ends");
            exchange(to, from, b"the other goes on");
            proxy.set(Mood::Open);
            exchange(to, from, b"and is not healed by an open link");
        }
    }

    #[test]
    fn a_link_that_is_down_resets_what_is_there_and_whoever_comes() {
        let (proxy, client, server) = connected();
        exchange(&client, &server, b"before");
        proxy.set(Mood::Down);
        assert_eq!(rest(&client).1, Some(io::ErrorKind::ConnectionReset));
        assert_eq!(rest(&server).1, Some(io::ErrorKind::ConnectionReset));
        let late = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        late.set_read_timeout(Some(SOON)).unwrap();
        assert_eq!(rest(&late).1, Some(io::ErrorKind::ConnectionReset));
    }

    #[test]
    fn a_cut_comes_after_the_bytes_it_was_told() {
        for bytes in [1_u32, 5, 1_000] {
            let (proxy, mut client, server) = connected();
            exchange(&client, &server, b"before");
            proxy.set(Mood::CutAfter(bytes));
            // A write may fail where the cut has come.
            let _ = client.write_all(&[9; 4_000]);
            let (got, end) = rest(&server);
            // A reset may overtake bytes that nobody has read yet.
            assert!(got.len() <= usize::try_from(bytes).unwrap(), "{} of {bytes}", got.len());
            assert_eq!(end, Some(io::ErrorKind::ConnectionReset));
        }
    }

    #[test]
    fn a_slow_link_passes_everything_and_takes_its_time() {
        let (proxy, client, server) = connected();
        proxy.set(Mood::Slow);
        exchange(&client, &server, &[1; 100]);
        let began = Instant::now();
        exchange(&client, &server, &[2; 1_000]);
        // 1,000 bytes are ten pieces with nine pauses between them at least.
        assert!(began.elapsed() >= SLOW_PAUSE * 9, "{:?}", began.elapsed());
    }
}
