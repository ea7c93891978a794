//! Our Modbus master against servers that others wrote: libmodbus, pymodbus and tokio-modbus, over loopback TCP
//! and over ptys.
//!
//! Every peer serves the same image: coil `n` is set where 3 divides `n`, discrete input `n` where 5 does,
//! holding register `n` is `331 n + 7` and input register `n` is `257 n + 11` (both modulo 65,536); 2000 bits and
//! 200 registers of each kind, unit 1. A pty carries bytes, not a baud rate: timing is not tested here.

#[path = "modbus_peers/meter.rs"]
mod meter;

use std::future;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gapless_agent::bus::read_once;
use gapless_agent::config::Config;
use gapless_agent::modbus::pdu::{Refusal, Request, ResponseData};
use gapless_agent::modbus::plan::Limits;
use gapless_agent::modbus::poll::DevicePoll;
use gapless_agent::modbus::{Answer, Framing, Progress, UnitId};
use gapless_common::catalog::{Aggregation, PeriodLabel};
use gapless_common::id::ChannelId;
use gapless_common::profile::{
    ByteOrder, ChannelSpec, Location, ProfileSet, RegisterTable, Scale, ValueType,
};
use gapless_common::quality::{ExceptionCode, Quality};
use gapless_common::reading::{Sample, Value};
use gapless_tests::process::Process;
use gapless_tests::wait;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tempfile::TempDir;

const UNIT: UnitId = UnitId(1);
const BITS: u16 = 2000;
const REGISTERS: u16 = 200;
const ILLEGAL_ADDRESS: Answer = Err(Refusal(ExceptionCode(2)));

/// How long a peer may take to start (a Python interpreter on a busy machine) and to answer.
const START_WITHIN: Duration = Duration::from_secs(20);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

fn coil(n: u16) -> bool {
    n.is_multiple_of(3)
}

fn discrete_input(n: u16) -> bool {
    n.is_multiple_of(5)
}

fn holding_register(n: u16) -> u16 {
    n.wrapping_mul(331).wrapping_add(7)
}

fn input_register(n: u16) -> u16 {
    n.wrapping_mul(257).wrapping_add(11)
}

fn image(table: RegisterTable, start: u16, count: u16) -> ResponseData {
    let addresses = start..start + count;
    match table {
        RegisterTable::Coil => ResponseData::Bits(addresses.map(coil).collect()),
        RegisterTable::DiscreteInput => ResponseData::Bits(addresses.map(discrete_input).collect()),
        RegisterTable::HoldingRegister => ResponseData::Registers(addresses.map(holding_register).collect()),
        RegisterTable::InputRegister => ResponseData::Registers(addresses.map(input_register).collect()),
    }
}

/// Our end of the wire.
enum Wire {
    Tcp(TcpStream),
    Pty(OwnedFd),
}

impl Wire {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Pty(master) => master.as_fd(),
        }
    }

    fn send(&mut self, mut bytes: &[u8]) {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).expect("the request is sent"),
            Self::Pty(master) => {
                while !bytes.is_empty() {
                    let sent = rustix::io::write(&*master, bytes).expect("the request is sent");
                    bytes = &bytes[sent..];
                }
            }
        }
    }

    fn receive(&mut self, buffer: &mut [u8], deadline: Instant) -> usize {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).expect("a few seconds");
        let ready = poll(&mut [PollFd::from_borrowed_fd(self.fd(), PollFlags::IN)], Some(&timeout));
        assert_eq!(ready, Ok(1), "no answer within {ANSWER_WITHIN:?}");
        match self {
            Self::Tcp(stream) => stream.read(buffer).expect("the answer is read"),
            Self::Pty(master) => rustix::io::read(&*master, buffer).expect("the answer is read"),
        }
    }
}

/// A peer and the wire to it; the process, if it is one, ends with it.
struct Peer {
    framing: Framing,
    wire: Wire,
    transaction: u16,
    /// Ended before its folder, with its log, is removed.
    _process: Option<(Process, TempDir)>,
}

impl Peer {
    fn exchange(&mut self, request: &Request) -> Answer {
        self.transaction = self.transaction.wrapping_add(1);
        let mut receiver = self.framing.receiver(self.transaction, UNIT, request);
        self.wire.send(&self.framing.encode(self.transaction, UNIT, request));
        let (deadline, mut buffer) = (Instant::now() + ANSWER_WITHIN, [0; 300]);
        loop {
            let received = self.wire.receive(&mut buffer, deadline);
            assert!(received > 0, "the peer closed the connection after {request:?}");
            match receiver.push(&buffer[..received]) {
                Progress::NeedMore(_) => {}
                Progress::Frame(answer) => return answer,
                Progress::Corrupt(why) => unreachable!("{why}: {:02X?}", &buffer[..received]),
            }
        }
    }

    fn read(&mut self, table: RegisterTable, start: u16, count: u16) -> Answer {
        self.exchange(&Request::read(table, start, count).expect("within the limits"))
    }
}

/// Everything our master can say, said to a peer; then the same peer read by a bus of the agent.
fn check(mut peer: Peer) {
    check_reads(&mut peer);
    check_writes(&mut peer);
    check_polls(&mut peer);
    if let Wire::Tcp(stream) = &peer.wire {
        let address = stream.peer_addr().expect("a connected stream");
        // libmodbus serves one client at a time.
        stream.shutdown(Shutdown::Both).expect("a connected stream");
        check_bus(address, peer.framing);
    }
}

/// What the checks before have not written over, as a configuration names it.
fn check_bus(address: SocketAddr, framing: Framing) {
    let framing = if framing == Framing::Mbap { "mbap" } else { "rtu" };
    let toml = format!(
        r#"
        site = "bench"
        agent = "gateway"
        uplink = {{ broker = "mqtt://127.0.0.1" }}
        outbox = {{ path = "unused" }}

        [[bus]]
        id = "peer"
        tcp = {{ address = "{address}", framing = "{framing}" }}

        [[bus.device]]
        id = "image"
        unit = 1
        interval = "1s"
        timeout = "5s"
        channel = [
            {{ id = "tenths", table = "holding", address = 10, type = "u16", scale = 0.1 }},
            {{ id = "words", table = "input", address = 3, type = "u32", order = "CDAB" }},
            {{ id = "on", table = "coil", address = 30, type = "bool" }},
            {{ id = "off", table = "discrete-input", address = 31, type = "bool" }},
            {{ id = "illegal", table = "input", address = 200, type = "u16" }},
        ]
        "#
    );
    let profiles = ProfileSet::embedded().expect("the embedded profiles");
    let config = Config::parse("peer.toml", &toml, &profiles).expect("a configuration");
    let bus = &config.buses[0];
    let samples = read_once(bus, &bus.devices[0]).expect("the peer answers");
    let words = f64::from(input_register(4)) * 65_536.0 + f64::from(input_register(3));
    let good = |number| (Some(Value::Number(number)), Quality::Good);
    let refused = (None, Quality::BadRefused(ExceptionCode(2)));
    let got: Vec<_> = samples.into_iter().map(|sample| (sample.value, sample.quality)).collect();
    assert_eq!(got, [good(331.7), good(words), good(1.0), good(0.0), refused]);
}

fn check_reads(peer: &mut Peer) {
    use RegisterTable::{Coil, DiscreteInput, HoldingRegister, InputRegister};
    for table in [Coil, DiscreteInput, HoldingRegister, InputRegister] {
        let (held, most) = if table.is_bits() { (BITS, 2000) } else { (REGISTERS, 125) };
        for (start, count) in [(0, 1), (3, 10), (0, most), (held - 1, 1), (held - 9, 9)] {
            assert_eq!(
                peer.read(table, start, count),
                Ok(image(table, start, count)),
                "{table} {start}+{count}"
            );
        }
        for (start, count) in [(held, 1), (held - 1, 2)] {
            assert_eq!(peer.read(table, start, count), ILLEGAL_ADDRESS, "{table} {start}+{count}");
        }
    }
}

fn check_writes(peer: &mut Peer) {
    let bits: Vec<bool> = (0..1968).map(|n| n % 7 == 1).collect();
    let words: Vec<u16> = (0..123).map(|n| n * 500).collect();
    let within = "within the limits";
    let rows = [
        (Request::write_coil(9, false), RegisterTable::Coil, 9, ResponseData::Bits(vec![false])),
        (Request::write_coil(9, true), RegisterTable::Coil, 9, ResponseData::Bits(vec![true])),
        (
            Request::write_register(150, 0xBEEF),
            RegisterTable::HoldingRegister,
            150,
            ResponseData::Registers(vec![0xBEEF]),
        ),
        (Request::write_coils(32, &bits).expect(within), RegisterTable::Coil, 32, ResponseData::Bits(bits)),
        (
            Request::write_registers(77, &words).expect(within),
            RegisterTable::HoldingRegister,
            77,
            ResponseData::Registers(words),
        ),
    ];
    for (request, table, start, written) in rows {
        assert_eq!(peer.exchange(&request), Ok(ResponseData::Written), "{request:?}");
        let count = match &written {
            ResponseData::Bits(bits) => bits.len(),
            ResponseData::Registers(words) => words.len(),
            ResponseData::Records(_) | ResponseData::Written => unreachable!("the rows above hold data"),
        };
        assert_eq!(peer.read(table, start, u16::try_from(count).expect(within)), Ok(written), "{request:?}");
    }
    let past_end = Request::write_register(REGISTERS, 1);
    assert_eq!(peer.exchange(&past_end), ILLEGAL_ADDRESS);
}

fn channel(table: RegisterTable, address: u16, value_type: ValueType, order: ByteOrder) -> ChannelSpec {
    ChannelSpec {
        id: ChannelId::new(&format!("c{address}")).expect("a name"),
        table,
        location: Location::Absolute(address),
        value_type,
        order,
        scale: Scale::ONE,
        scale_from: None,
        unit: "".into(),
        quantity: "".into(),
        aggregation: Aggregation::Instant,
        label: PeriodLabel::End,
        sentinels: vec![],
        valid: None,
        attributes: std::collections::BTreeMap::new(),
    }
}

/// 230.5 as binary32 (0x43668000) in each order, a bit, and two channels past the end of the image: the merged
/// request is refused, split, and only those two are bad.
fn check_polls(peer: &mut Peer) {
    use ByteOrder::{ABCD, BADC, CDAB, DCBA};
    use RegisterTable::{DiscreteInput, HoldingRegister};
    let words = [0x4366, 0x8000, 0x8000, 0x4366, 0x6643, 0x0080, 0x0080, 0x6643];
    let write = Request::write_registers(190, &words).expect("within the limits");
    assert_eq!(peer.exchange(&write), Ok(ResponseData::Written));
    let floats = (190..).step_by(2).zip([ABCD, CDAB, BADC, DCBA]);
    let mut specs: Vec<_> =
        floats.map(|(address, order)| channel(HoldingRegister, address, ValueType::F32, order)).collect();
    specs.push(channel(DiscreteInput, 10, ValueType::Bool, ABCD));
    specs.push(channel(HoldingRegister, 199, ValueType::U32, ABCD));
    specs.push(channel(HoldingRegister, 210, ValueType::U16, ABCD));
    let limits = Limits { max_hole: 20, ..Limits::default() };
    let mut device = DevicePoll::new(specs, limits).expect("a plan");
    assert_eq!(device.requests().count(), 2, "one for each table");
    for (round, requests) in [(1, 2), (2, 2)] {
        let samples = poll_once(peer, &mut device);
        let good = |number| (Some(Value::Number(number)), Quality::Good);
        let refused = (None, Quality::BadRefused(ExceptionCode(2)));
        let expected = [vec![good(230.5); 4], vec![good(1.0)], vec![refused; 2]].concat();
        let got: Vec<_> = samples.into_iter().map(|sample| (sample.value, sample.quality)).collect();
        assert_eq!(got, expected, "round {round}");
        assert_eq!(device.requests().count(), requests, "what is refused alone is no longer asked");
    }
}

fn poll_once(peer: &mut Peer, device: &mut DevicePoll) -> Vec<Sample> {
    let now = Duration::from_secs(1);
    device.begin(now);
    let mut samples = Vec::new();
    while let Some(read) = device.current() {
        match peer.exchange(read.request()) {
            Ok(data) => samples.extend(device.answered(&data)),
            Err(Refusal(exception)) => {
                device.refused(exception, now);
            }
        }
    }
    samples.extend(device.end(Quality::BadNoAnswer));
    samples.sort_by_key(|sample| sample.channel);
    samples
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}

/// Starts a peer and waits for the port it says it is ready on.
fn start(name: &str, command: &mut Command, log: &Path) -> (Process, u16) {
    let mut process = Process::start(name, command, log);
    let port = wait::until(&format!("{name} to be ready"), START_WITHIN, || {
        let log = process.log();
        let ready = log.lines().find_map(|line| line.strip_prefix("ready ")?.parse().ok());
        assert!(ready.is_some() || process.is_running(), "{name} ended: {log}");
        ready.ok_or(log)
    });
    (process, port)
}

fn over_tcp(framing: Framing, name: &str, command: &mut Command) -> Peer {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (process, port) = start(name, command, &folder.path().join("log"));
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the peer listens");
    Peer { framing, wire: Wire::Tcp(stream), transaction: 0, _process: Some((process, folder)) }
}

fn over_pty(name: &str, command: &mut Command) -> Peer {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).expect("a pty");
    grantpt(&master).expect("a pty");
    unlockpt(&master).expect("a pty");
    let device = ptsname(&master, Vec::new()).expect("a pty").into_string().expect("an ASCII path");
    let (process, _) = start(name, command.arg(device), &folder.path().join("log"));
    Peer { framing: Framing::Rtu, wire: Wire::Pty(master), transaction: 0, _process: Some((process, folder)) }
}

/// The libmodbus server, built with the C compiler of this machine.
fn libmodbus(folder: &Path) -> Command {
    let program = folder.join("libmodbus_server");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-Wall", "-Wextra", "-Werror", "-I/usr/include/modbus", "-o"]);
    let built = compiler.arg(&program).arg(source("libmodbus_server.c")).arg("-lmodbus").output();
    let built = built.expect("cc starts: install gcc (./dev test does)");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "is libmodbus-dev installed (./dev test does it)? cc says:\n{said}");
    Command::new(program)
}

/// A server of Debian's Python, as Debian's package is not seen by any other.
fn pymodbus(script: &Path) -> Command {
    let python = "/usr/bin/python3";
    let seen = Command::new(python).args(["-c", "import pymodbus, serial_asyncio"]).output();
    let seen = seen.expect("python3 starts: install python3 (./dev test does)");
    let said = String::from_utf8_lossy(&seen.stderr);
    assert!(seen.status.success(), "install python3-pymodbus (./dev test does); {python} says:\n{said}");
    let mut command = Command::new(python);
    command.arg(script);
    command
}

#[test]
fn libmodbus_over_tcp() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    check(over_tcp(Framing::Mbap, "libmodbus", libmodbus(folder.path()).arg("tcp")));
}

#[test]
fn libmodbus_over_a_pty() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    check(over_pty("libmodbus", libmodbus(folder.path()).arg("rtu")));
}

#[test]
fn pymodbus_over_tcp() {
    check(over_tcp(Framing::Mbap, "pymodbus", pymodbus(&source("pymodbus_server.py")).arg("tcp")));
}

#[test]
fn pymodbus_with_rtu_over_tcp() {
    check(over_tcp(Framing::Rtu, "pymodbus", pymodbus(&source("pymodbus_server.py")).arg("rtu-over-tcp")));
}

#[test]
fn pymodbus_over_a_pty() {
    check(over_pty("pymodbus", pymodbus(&source("pymodbus_server.py")).arg("rtu")));
}

/// The image as tokio-modbus serves it.
#[derive(Clone)]
struct Service(Arc<Mutex<(Vec<bool>, Vec<u16>)>>);

impl Service {
    fn new() -> Self {
        let image = ((0..BITS).map(coil).collect(), (0..REGISTERS).map(holding_register).collect());
        Self(Arc::new(Mutex::new(image)))
    }

    fn answer(&self, request: &tokio_modbus::Request<'_>) -> Option<tokio_modbus::Response> {
        use tokio_modbus::{Request as Asked, Response as Said};
        let mut image = self.0.lock().expect("no other test panicked here");
        let (coils, registers) = &mut *image;
        let span = |start: u16, count: usize| usize::from(start)..usize::from(start) + count;
        let asked = |start: u16, count: u16| span(start, usize::from(count));
        let inputs: Vec<bool> = (0..BITS).map(discrete_input).collect();
        let input_registers: Vec<u16> = (0..REGISTERS).map(input_register).collect();
        Some(match request {
            Asked::ReadCoils(start, count) => Said::ReadCoils(coils.get(asked(*start, *count))?.to_vec()),
            Asked::ReadDiscreteInputs(start, count) => {
                Said::ReadDiscreteInputs(inputs.get(asked(*start, *count))?.to_vec())
            }
            Asked::ReadHoldingRegisters(start, count) => {
                Said::ReadHoldingRegisters(registers.get(asked(*start, *count))?.to_vec())
            }
            Asked::ReadInputRegisters(start, count) => {
                Said::ReadInputRegisters(input_registers.get(asked(*start, *count))?.to_vec())
            }
            Asked::WriteSingleCoil(address, on) => {
                *coils.get_mut(usize::from(*address))? = *on;
                Said::WriteSingleCoil(*address, *on)
            }
            Asked::WriteSingleRegister(address, word) => {
                *registers.get_mut(usize::from(*address))? = *word;
                Said::WriteSingleRegister(*address, *word)
            }
            Asked::WriteMultipleCoils(start, values) => {
                coils.get_mut(span(*start, values.len()))?.copy_from_slice(values);
                Said::WriteMultipleCoils(*start, u16::try_from(values.len()).ok()?)
            }
            Asked::WriteMultipleRegisters(start, values) => {
                registers.get_mut(span(*start, values.len()))?.copy_from_slice(values);
                Said::WriteMultipleRegisters(*start, u16::try_from(values.len()).ok()?)
            }
            _ => return None,
        })
    }
}

impl tokio_modbus::server::Service for Service {
    type Request = tokio_modbus::Request<'static>;
    type Response = tokio_modbus::Response;
    type Exception = tokio_modbus::ExceptionCode;
    type Future = future::Ready<Result<Self::Response, Self::Exception>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        future::ready(self.answer(&request).ok_or(tokio_modbus::ExceptionCode::IllegalDataAddress))
    }
}

/// Runs the checks against a server of this process, on a runtime of its own that ends with the test.
fn check_tokio_modbus(framing: Framing) {
    use tokio_modbus::server::{rtu_over_tcp, tcp};
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let address: SocketAddr = listener.local_addr().expect("a bound listener");
    let service = Service::new();
    runtime.spawn(async move {
        let new_service = |_| Ok(Some(service.clone()));
        match framing {
            Framing::Mbap => {
                let accept = async |stream, peer| tcp::accept_tcp_connection(stream, peer, new_service);
                tcp::Server::new(listener).serve(&accept, |_| {}).await
            }
            Framing::Rtu => {
                let accept =
                    async |stream, peer| rtu_over_tcp::accept_tcp_connection(stream, peer, new_service);
                rtu_over_tcp::Server::new(listener).serve(&accept, |_| {}).await
            }
        }
    });
    let stream = TcpStream::connect(address).expect("the peer listens");
    check(Peer { framing, wire: Wire::Tcp(stream), transaction: 0, _process: None });
}

#[test]
fn tokio_modbus_over_tcp() {
    check_tokio_modbus(Framing::Mbap);
}

#[test]
fn tokio_modbus_with_rtu_over_tcp() {
    check_tokio_modbus(Framing::Rtu);
}
