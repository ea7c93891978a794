//! The other end of a line, on a pty or a socket: does with each request what the test's script says.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use gapless_common::id::BusId;
use rustix::event::{PollFd, PollFlags};

use crate::config::{Bus, Device, Link, Parity, Serial, Tcp, TcpFraming};
use crate::modbus::rtu::crc16;

/// What a responder does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Do {
    /// Answers with registers that hold their own addresses, unless the script has registers.
    Answer,
    /// Answers, and closes the connection: an idle one to its master.
    AnswerAndClose,
    /// Answers a request before this one first.
    Stray,
    /// Another unit's answer, a few characters every 16 ms, as an adapter hands them over that collects them.
    Chunks,
    Silence,
    /// Answers so many milliseconds late.
    Late(u64),
    Exception(u8),
    BadCrc,
    WrongUnit,
    Truncated,
    /// Noise without end or pause; on a pty only.
    Babble,
    HangUp,
}

/// One scripted action per request, the last one for ever; and the requests seen, as (unit, start, count).
#[derive(Debug, Clone)]
pub(super) struct Script {
    todo: Arc<Mutex<Vec<Do>>>,
    seen: Arc<Mutex<Vec<(u8, u16, u16)>>>,
    registers: Arc<Mutex<Option<BTreeMap<u16, u16>>>>,
}

impl Script {
    pub(super) fn new(actions: &[Do]) -> Self {
        let todo: Vec<Do> = actions.iter().rev().copied().collect();
        Self { todo: Arc::new(Mutex::new(todo)), seen: Arc::default(), registers: Arc::default() }
    }

    /// A device with these registers and no others, from now on.
    pub(super) fn serve(&self, registers: BTreeMap<u16, u16>) {
        *self.registers.lock().unwrap() = Some(registers);
    }

    fn words(&self, start: u16, count: u16) -> Option<Vec<u16>> {
        let registers = self.registers.lock().unwrap();
        let word = |address| registers.as_ref().map_or(Some(address), |map| map.get(&address).copied());
        (start..start + count).map(word).collect()
    }

    fn next(&self, unit: u8, start: u16, count: u16) -> Do {
        self.seen.lock().unwrap().push((unit, start, count));
        let mut todo = self.todo.lock().unwrap();
        if todo.len() > 1 { todo.pop().unwrap() } else { todo[0] }
    }

    pub(super) fn seen(&self) -> Vec<(u8, u16, u16)> {
        self.seen.lock().unwrap().clone()
    }
}

fn pdu(function: u8, start: u16, count: u16, action: Do, script: &Script) -> Vec<u8> {
    let words = match action {
        Do::Exception(code) => Err(code),
        _ => script.words(start, count).ok_or(2),
    };
    match words {
        Err(code) => vec![function | 0x80, code],
        Ok(words) => {
            let head = [function, u8::try_from(2 * count).unwrap()];
            head.into_iter().chain(words.into_iter().flat_map(u16::to_be_bytes)).collect()
        }
    }
}

fn rtu_answer(request: &[u8], action: Do, script: &Script) -> Vec<u8> {
    let word = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
    let mut frame = vec![request[0]];
    if matches!(action, Do::WrongUnit | Do::Chunks) {
        frame[0] += 1;
    }
    frame.extend(pdu(request[1], word(2), word(4), action, script));
    frame.extend(crc16(&frame).to_le_bytes());
    match action {
        Do::BadCrc => *frame.last_mut().unwrap() ^= 1,
        Do::Truncated => frame.truncate(4),
        _ => {}
    }
    frame
}

/// The other end of a serial line, on a pty: `path` leads to it as a by-id link does.
pub(super) struct Port {
    pub(super) path: PathBuf,
    thread: Option<JoinHandle<()>>,
    stop: Arc<Mutex<bool>>,
}

impl Port {
    pub(super) fn new(path: &Path, script: Script) -> Self {
        let master =
            rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        // Held open and raw, so that bytes neither echo nor hang up before the agent has opened it.
        let slave = File::options().read(true).write(true).open(&name).unwrap();
        let mut termios = rustix::termios::tcgetattr(&slave).unwrap();
        termios.make_raw();
        rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &termios).unwrap();
        let _ = std::fs::remove_file(path);
        std::os::unix::fs::symlink(&name, path).unwrap();
        let stop = Arc::new(Mutex::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || serve_serial(master, &slave, &script, &stopped));
        Self { path: path.to_owned(), thread: Some(thread), stop }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        *self.stop.lock().unwrap() = true;
        self.thread.take().unwrap().join().unwrap();
        let _ = std::fs::remove_file(&self.path);
    }
}

fn serve_serial(master: OwnedFd, _slave: &File, script: &Script, stop: &Mutex<bool>) {
    let mut port = File::from(master);
    let mut request = Vec::new();
    while !*stop.lock().unwrap() {
        let mut fds = [PollFd::new(&port, PollFlags::IN)];
        let brief = rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        if rustix::event::poll(&mut fds, Some(&brief)).unwrap() == 0 {
            continue;
        }
        let mut buffer = [0; 64];
        let count = port.read(&mut buffer).unwrap();
        request.extend(&buffer[..count]);
        if !serve_requests(&mut port, &mut request, script, stop) {
            return;
        }
    }
}

/// Does what the script says with each whole request; `false` where it hangs up.
fn serve_requests(port: &mut File, request: &mut Vec<u8>, script: &Script, stop: &Mutex<bool>) -> bool {
    while request.len() >= 8 {
        let word = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
        let action = script.next(request[0], word(2), word(4));
        if let Do::Late(ms) = action {
            std::thread::sleep(Duration::from_millis(ms));
        }
        match action {
            Do::HangUp => return false,
            Do::Silence => {}
            Do::Chunks => write_in_chunks(port, &rtu_answer(request, action, script)),
            Do::Babble => babble(port, stop),
            action => port.write_all(&rtu_answer(request, action, script)).unwrap(),
        }
        request.drain(..8);
    }
    true
}

fn write_in_chunks(port: &mut File, frame: &[u8]) {
    for chunk in frame.chunks(3) {
        port.write_all(chunk).unwrap();
        std::thread::sleep(Duration::from_millis(16));
    }
}

/// Ends with the port, which a full line must not hold.
fn babble(port: &mut File, stop: &Mutex<bool>) {
    while !*stop.lock().unwrap() {
        let mut fds = [PollFd::new(port, PollFlags::OUT)];
        let brief = rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        if rustix::event::poll(&mut fds, Some(&brief)).unwrap() > 0 {
            port.write_all(&[0x55; 16]).unwrap();
        }
    }
}

fn serve_tcp(listener: TcpListener, script: Script, framing: TcpFraming) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let script = script.clone();
            std::thread::spawn(move || match framing {
                TcpFraming::Mbap => serve_mbap(stream.unwrap(), &script),
                TcpFraming::Rtu => serve_rtu(stream.unwrap(), &script),
            });
        }
    });
}

fn serve_mbap(mut stream: TcpStream, script: &Script) {
    let mut request = [0; 12];
    while stream.read_exact(&mut request).is_ok() {
        let word = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
        let action = script.next(request[6], word(8), word(10));
        let pdu = pdu(request[7], word(8), word(10), action, script);
        let mut frame = request[..4].to_vec();
        frame.extend(u16::try_from(pdu.len() + 1).unwrap().to_be_bytes());
        frame.push(if action == Do::WrongUnit { request[6] + 1 } else { request[6] });
        frame.extend(pdu);
        match action {
            Do::HangUp => return,
            Do::Silence => {}
            Do::Truncated => stream.write_all(&frame[..9]).unwrap(),
            Do::AnswerAndClose => return stream.write_all(&frame).unwrap(),
            Do::Stray => {
                let mut stray = frame.clone();
                stray[1] = stray[1].wrapping_sub(1);
                stream.write_all(&[stray, frame].concat()).unwrap();
            }
            Do::Late(ms) => {
                std::thread::sleep(Duration::from_millis(ms));
                let _ = stream.write_all(&frame);
            }
            _ => stream.write_all(&frame).unwrap(),
        }
    }
}

fn serve_rtu(mut stream: TcpStream, script: &Script) {
    let mut request = [0; 8];
    while stream.read_exact(&mut request).is_ok() {
        let word = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
        let action = script.next(request[0], word(2), word(4));
        if let Do::Late(ms) = action {
            std::thread::sleep(Duration::from_millis(ms));
        }
        match action {
            Do::HangUp => return,
            Do::Silence => {}
            // Whoever waits no longer has closed the connection.
            action => drop(stream.write_all(&rtu_answer(&request, action, script))),
        }
    }
}

pub(super) fn serial_bus(path: &Path, devices: Vec<Device>) -> Bus {
    let link = Link::Serial(Serial {
        port: path.to_owned(),
        baud: 115_200,
        parity: Parity::None,
        stop_bits: 1,
        rs485: false,
        low_latency: true,
    });
    Bus { id: BusId::new("b").unwrap(), link, devices }
}

pub(super) fn tcp_bus(port: u16, framing: TcpFraming, devices: Vec<Device>) -> Bus {
    let link = Link::Tcp(Tcp { host: "127.0.0.1".to_owned(), port, framing });
    Bus { id: BusId::new("b").unwrap(), link, devices }
}

/// A line with a scripted device at its end.
pub(super) enum End {
    Serial { port: Port, _dir: tempfile::TempDir },
    Tcp { port: u16, framing: TcpFraming },
}

impl End {
    pub(super) fn serial(script: &Script) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::Serial { port: Port::new(&dir.path().join("port"), script.clone()), _dir: dir }
    }

    pub(super) fn tcp(script: &Script) -> Self {
        Self::endpoint(script, TcpFraming::Mbap)
    }

    pub(super) fn rtu_over_tcp(script: &Script) -> Self {
        Self::endpoint(script, TcpFraming::Rtu)
    }

    fn endpoint(script: &Script, framing: TcpFraming) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        serve_tcp(listener, script.clone(), framing);
        Self::Tcp { port, framing }
    }

    pub(super) fn bus(&self, devices: Vec<Device>) -> Bus {
        match self {
            Self::Serial { port, .. } => serial_bus(&port.path, devices),
            Self::Tcp { port, framing } => tcp_bus(*port, *framing, devices),
        }
    }
}
