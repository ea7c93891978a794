//! Every fault, seen from the master's side, on both framings; exceptions; memory; truth of what was answered.
#![expect(clippy::unwrap_used, reason = "helpers of the tests below: a failure is a failed test")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use gapless_common::reading::Value;
use gapless_simulators::clock;
use gapless_simulators::modbus::crc;
use gapless_simulators::modbus::{DeviceKind, Fault, FaultKind, Framing, TcpConfig, TcpServer};

const DEADLINE: Duration = Duration::from_secs(10);

fn server(framing: Framing) -> TcpServer {
    let units: Vec<(u8, DeviceKind)> =
        vec![(1, "generic:10".parse().unwrap()), (2, "generic:10:cdab".parse().unwrap())];
    TcpServer::start(&TcpConfig { framing, units, ..TcpConfig::default() }).unwrap()
}

fn connect(server: &TcpServer) -> TcpStream {
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn mbap(transaction: u16, unit: u8, pdu: &[u8]) -> Vec<u8> {
    let mut frame = transaction.to_be_bytes().to_vec();
    frame.extend([0, 0]);
    frame.extend(u16::try_from(pdu.len() + 1).unwrap().to_be_bytes());
    frame.push(unit);
    frame.extend(pdu);
    frame
}

fn rtu(unit: u8, pdu: &[u8]) -> Vec<u8> {
    let mut frame = vec![unit];
    frame.extend(pdu);
    crc::seal(&mut frame);
    frame
}

fn answer(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn is_quiet(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
    let quiet = matches!(stream.read(&mut [0; 1]), Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    quiet
}

const READ_2: [u8; 5] = [3, 0, 0, 0, 2];

#[test]
fn exceptions_and_plain_memory() {
    let server = server(Framing::Mbap);
    let mut stream = connect(&server);
    let rows: [(&[u8], &[u8]); 12] = [
        (&[3, 0, 24, 0, 1], &[0x83, 2]),
        (&[3, 0, 20, 0, 5], &[0x83, 2]),
        (&[4, 0, 0, 0, 2], &[0x84, 2]),
        (&[3, 0xFF, 0xFF, 0, 2], &[0x83, 2]),
        (&[3, 0, 0, 0, 126], &[0x83, 3]),
        (&[0x41, 1, 2], &[0xC1, 1]),
        (&[6, 0, 0, 0, 1], &[0x86, 2]),
        (&[16, 0xE0, 0x10, 0, 2, 4, 1, 2, 3, 4], &[16, 0xE0, 0x10, 0, 2]),
        (&[3, 0xE0, 0x10, 0, 3], &[3, 6, 1, 2, 3, 4, 0, 0]),
        (&[5, 0xE0, 3, 0xFF, 0], &[5, 0xE0, 3, 0xFF, 0]),
        (&[1, 0xE0, 0, 0, 9], &[1, 2, 8, 0]),
        (&[15, 0xEF, 0xFF, 0, 2, 1, 3], &[0x8F, 2]),
    ];
    for (i, (request, expected)) in (1..).zip(rows) {
        stream.write_all(&mbap(i, 1, request)).unwrap();
        assert_eq!(answer(&mut stream, expected.len() + 7), mbap(i, 1, expected), "{request:02X?}");
    }
    stream.write_all(&mbap(99, 77, &READ_2)).unwrap();
    assert_eq!(answer(&mut stream, 9), mbap(99, 77, &[0x83, 11]), "a unit that is not there");
    stream.write_all(&mbap(100, 0, &[6, 0xE0, 0, 0, 7])).unwrap();
    assert!(is_quiet(&mut stream), "broadcasts are not answered");
    stream.write_all(&mbap(101, 2, &[3, 0xE0, 0, 0, 1])).unwrap();
    assert_eq!(answer(&mut stream, 11)[7..], [3, 2, 0, 7], "but they are obeyed");
}

#[test]
fn requests_are_cut_out_of_the_stream_however_it_is_divided() {
    let server = server(Framing::Mbap);
    let mut stream = connect(&server);
    let three: Vec<u8> = (1..=3).flat_map(|i| mbap(i, 1, &READ_2)).collect();
    stream.write_all(&three).unwrap();
    for i in 1..=3 {
        assert_eq!(answer(&mut stream, 13)[..9], [mbap(i, 1, &[3, 4, 0, 0, 0, 0])[..9].to_vec()].concat());
    }
    for byte in mbap(9, 2, &READ_2) {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(answer(&mut stream, 13)[..2], [0, 9]);
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "what is no Modbus ends the connection");
}

/// What a fault does to the answer of [`READ_2`]: a check on the bytes that come.
type Check = fn(&[u8]) -> bool;

#[test]
fn every_fault_on_rtu_frames() {
    let good: Check = |b| b.len() == 9 && crc::is_sealed(b) && b[..3] == [1, 3, 4];
    let rows: [(FaultKind, usize, Check); 10] = [
        (FaultKind::Truncated { bytes: None }, 4, |b| b[..3] == [1, 3, 4]),
        (FaultKind::Truncated { bytes: Some(1) }, 1, |b| b == [1]),
        (FaultKind::WrongCrc, 9, |b| !crc::is_sealed(b) && b[..3] == [1, 3, 4]),
        (FaultKind::WrongUnit, 9, |b| crc::is_sealed(b) && b[..3] == [2, 3, 4]),
        (FaultKind::WrongFunction, 9, |b| crc::is_sealed(b) && b[..3] == [1, 4, 4]),
        (FaultKind::WrongCount, 7, |b| crc::is_sealed(b) && b[..3] == [1, 3, 2]),
        (FaultKind::Exception { code: 6 }, 5, |b| crc::is_sealed(b) && b[..3] == [1, 0x83, 6]),
        (FaultKind::Garbage { bytes: 5 }, 14, |b| crc::is_sealed(&b[5..]) && b[5..8] == [1, 3, 4]),
        (FaultKind::TrailingGarbage { bytes: 5 }, 14, |b| crc::is_sealed(&b[..9])),
        (FaultKind::Silent, 0, |_| true),
    ];
    let server = server(Framing::RtuOverTcp);
    let mut stream = connect(&server);
    for (kind, len, check) in rows {
        server.faults(1).unwrap().add(Fault::new(kind).times(1));
        stream.write_all(&rtu(1, &READ_2)).unwrap();
        let bytes = answer(&mut stream, len);
        assert!(check(&bytes), "{kind}: {bytes:02X?}");
        assert!(is_quiet(&mut stream), "{kind}: nothing else comes");
        stream.write_all(&rtu(1, &READ_2)).unwrap();
        let bytes = answer(&mut stream, 9);
        assert!(good(&bytes), "after {kind}: {bytes:02X?}");
    }
    let struck = server.units().log().answers().iter().filter(|a| !a.faults.is_empty()).count();
    assert_eq!(struck, rows.len(), "the log names every fault");
}

#[test]
fn faults_of_tcp_frames() {
    let server = server(Framing::Mbap);
    let mut stream = connect(&server);
    let faults = server.faults(1).unwrap();
    let rows: [(FaultKind, [u8; 4]); 2] =
        [(FaultKind::WrongTransaction, [0, 41, 0, 0]), (FaultKind::WrongCrc, [0, 42, 0, 1])];
    for (kind, header) in rows {
        faults.add(Fault::new(kind).times(1));
        stream.write_all(&mbap(42, 1, &READ_2)).unwrap();
        assert_eq!(answer(&mut stream, 13)[..4], header, "{kind}");
    }
}

#[test]
fn a_delay_lasts_and_a_late_answer_does_not_hold_up_others() {
    let server = server(Framing::Mbap);
    let mut stream = connect(&server);
    server.faults(1).unwrap().late(200, 1);
    let began = Instant::now();
    stream.write_all(&[mbap(1, 1, &READ_2), mbap(2, 2, &READ_2)].concat()).unwrap();
    assert_eq!(answer(&mut stream, 13)[1], 2, "unit 2 first");
    assert_eq!(answer(&mut stream, 13)[1], 1);
    assert!(began.elapsed() >= Duration::from_millis(200));
}

#[test]
fn windows_and_probabilities() {
    let server = server(Framing::Mbap);
    let mut stream = connect(&server);
    let faults = server.faults(1).unwrap();
    let exception = Fault::new(FaultKind::Exception { code: 4 });
    let now = clock::mono_ns();
    let mut share = |fault: Fault| {
        faults.clear();
        faults.add(fault);
        let refused = (0..400).filter(|_| {
            stream.write_all(&mbap(1, 1, &READ_2)).unwrap();
            let head = answer(&mut stream, 9);
            if head[7] == 3 {
                answer(&mut stream, 4);
            }
            head[7] == 0x83
        });
        refused.count()
    };
    assert_eq!(share(exception.clone()), 400);
    assert!((60..=140).contains(&share(exception.clone().with_probability(0.25))));
    assert_eq!(share(exception.clone().times(3)), 3);
    assert_eq!(share(exception.clone().within_ns(0, now)), 0, "over");
    assert_eq!(share(exception.within_ns(now + 3_600_000_000_000, u64::MAX)), 0, "not yet");
}

#[test]
fn unplugged_connections_are_reset_and_the_address_comes_back() {
    let server = server(Framing::Mbap);
    let mut stream = connect(&server);
    stream.write_all(&mbap(1, 1, &READ_2)).unwrap();
    answer(&mut stream, 13);
    server.unplug();
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(TcpStream::connect(server.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    server.replug().unwrap();
    let mut stream = connect(&server);
    stream.write_all(&mbap(1, 1, &READ_2)).unwrap();
    answer(&mut stream, 13);
}

#[test]
fn all_registers_of_an_answer_are_of_the_instant_that_the_log_and_the_clock_channel_name() {
    let server = server(Framing::Mbap);
    let mut stream = connect(&server);
    for unit in [1, 2] {
        stream.write_all(&mbap(7, unit, &[3, 0, 0, 0, 24])).unwrap();
        let registers = answer(&mut stream, 9 + 48).split_off(9);
        let eval_ms = i64::from_be_bytes(registers[40..48].try_into().unwrap());
        let logged = server.units().log().answers().pop().unwrap();
        assert_eq!((logged.eval_ms, logged.unit, logged.count), (eval_ms, unit, 24));
        let device = server.units().device(unit).unwrap();
        for (i, four) in registers[..40].chunks(4).enumerate() {
            let [a, b, c, d] = *<&[u8; 4]>::try_from(four).unwrap();
            let bits = if unit == 1 { [a, b, c, d] } else { [c, d, a, b] };
            let read = Value::Number(f64::from(f32::from_be_bytes(bits)));
            let truth = device.truth(&format!("ch{i:02}"), eval_ms).unwrap();
            assert!(read.same_bits(&truth), "unit {unit} channel {i}: {read:?}, truth {truth:?}");
        }
    }
}
