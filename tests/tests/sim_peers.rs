//! The simulators against a master that nobody here wrote: mbpoll (libmodbus), over TCP and on the paced pty.

#![expect(clippy::panic, reason = "a test fails by it")]

use std::process::{Command, Output};

use gapless_simulators::modbus::{Answer, DeviceKind, LineConfig, PtyLine, TcpConfig, TcpServer, Units};

fn units() -> Vec<(u8, DeviceKind)> {
    let kind = |text: &str| text.parse::<DeviceKind>().expect("a kind of device");
    vec![(1, kind("generic:40")), (2, kind("eastron-sdm630"))]
}

fn mbpoll(args: &[&str]) -> Output {
    Command::new("mbpoll")
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("mbpoll does not start ({e}): install it with `apt-get install mbpoll`"))
}

/// The values of mbpoll's lines `[address]: \tvalue`.
fn values(output: &Output) -> Vec<f64> {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let value = |line: &str| {
        line.strip_prefix('[')?.split_once(']')?.1.trim_start_matches([':', ' ', '\t']).parse().ok()
    };
    text.lines().filter_map(value).collect()
}

/// What mbpoll must print for `count` channels of the last answer: it writes six significant digits.
fn check(units: &Units, channels: &[&str], read: &[f64]) {
    let answer: Answer = units.log().answers().pop().expect("a logged answer");
    assert_eq!(read.len(), channels.len(), "{read:?}");
    let device = units.device(answer.unit).expect("the unit that answered");
    for (channel, read) in channels.iter().zip(read) {
        let truth = device.truth(channel, answer.eval_ms).expect("a channel of the device");
        let gapless_common::reading::Value::Number(truth) = truth else { panic!("{channel} is a number") };
        assert!((read - truth).abs() <= truth.abs() * 1e-5, "{channel}: read {read}, truth {truth}");
    }
}

#[test]
fn mbpoll_reads_the_truth_over_tcp() {
    let server = TcpServer::start(&TcpConfig { units: units(), ..TcpConfig::default() }).expect("starts");
    let port = server.address().port().to_string();
    let common = ["-m", "tcp", "-p", &port, "-0", "-1", "-B"];
    let read = |more: &[&str]| mbpoll(&[&common, more, &["127.0.0.1"]].concat());
    let generic: Vec<String> = (0..40).map(|i| format!("ch{i:02}")).collect();
    let generic: Vec<&str> = generic.iter().map(String::as_str).collect();
    check(server.units(), &generic, &values(&read(&["-a", "1", "-t", "4:float", "-r", "0", "-c", "40"])));
    let volts = ["voltage_l1", "voltage_l2", "voltage_l3"];
    check(server.units(), &volts, &values(&read(&["-a", "2", "-t", "3:float", "-r", "0", "-c", "3"])));
    let refused = read(&["-a", "1", "-t", "4", "-r", "500", "-c", "1"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("Illegal data address"), "{said}");
}

#[test]
fn mbpoll_writes_and_reads_back() {
    let server = TcpServer::start(&TcpConfig { units: units(), ..TcpConfig::default() }).expect("starts");
    let port = server.address().port().to_string();
    let common = ["-m", "tcp", "-p", &port, "-0", "-1", "-a", "1", "-t", "4", "-r", "57344"];
    let wrote = mbpoll(&[&common[..], &["127.0.0.1", "11", "22", "33"]].concat());
    assert!(wrote.status.success(), "{}", String::from_utf8_lossy(&wrote.stderr));
    let read = values(&mbpoll(&[&common[..], &["-c", "3", "127.0.0.1"]].concat()));
    assert_eq!(read, [11.0, 22.0, 33.0]);
}

#[test]
fn mbpoll_reads_the_truth_on_the_paced_pty() {
    for (baud, bits_per_char, parity) in [(9_600, 10, "none"), (19_200, 11, "even")] {
        let config = LineConfig { baud, bits_per_char, units: units(), ..LineConfig::default() };
        let line = PtyLine::start(&config).expect("starts");
        let path = line.path().to_str().expect("a printable path").to_owned();
        let baud = baud.to_string();
        let common = ["-m", "rtu", "-b", &baud, "-P", parity, "-0", "-1", "-B", "-a", "2", "-t", "3:float"];
        let output = mbpoll(&[&common[..], &["-r", "0", "-c", "3", &path]].concat());
        check(line.units(), &["voltage_l1", "voltage_l2", "voltage_l3"], &values(&output));
        let stats = line.stats();
        assert_eq!((stats.requests, stats.answers, stats.violations), (1, 1, 0), "{stats:?}");
    }
}
