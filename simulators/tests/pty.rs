//! The paced line on a real pty: bytes are not early, gaps are measured, unplugging is seen.
#![expect(clippy::unwrap_used, reason = "helpers of the tests below: a failure is a failed test")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use gapless_simulators::modbus::{DeviceKind, LineConfig, PtyLine, crc};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

fn start(baud: u32) -> PtyLine {
    let units: Vec<(u8, DeviceKind)> = (1..=2).map(|id| (id, "generic:40".parse().unwrap())).collect();
    PtyLine::start(&LineConfig { baud, units, ..LineConfig::default() }).unwrap()
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn request(unit: u8) -> Vec<u8> {
    let mut frame = vec![unit, 3, 0, 0, 0, 40];
    crc::seal(&mut frame);
    frame
}

/// One exchange; gives the answer and the time from writing the request to the answer's last byte.
fn exchange(port: &mut File, unit: u8) -> (Vec<u8>, Duration) {
    let began = Instant::now();
    port.write_all(&request(unit)).unwrap();
    let mut answer = Vec::new();
    while answer.len() < 85 {
        let mut fds = [PollFd::new(&*port, PollFlags::IN)];
        let ready = poll(&mut fds, Some(&Timespec { tv_sec: 10, tv_nsec: 0 })).unwrap();
        assert_eq!(ready, 1, "an answer within ten seconds, got {} bytes", answer.len());
        let mut buffer = [0; 256];
        let len = port.read(&mut buffer).unwrap();
        answer.extend_from_slice(&buffer[..len]);
    }
    (answer, began.elapsed())
}

#[test]
fn an_exchange_takes_its_time_on_the_wire() {
    // 8 + 85 characters and 5 ms of turnaround.
    for (baud, at_least_us) in [(9_600, 101_800), (19_200, 53_400), (115_200, 13_000)] {
        let line = start(baud);
        let mut port = open(line.path());
        let (answer, took) = exchange(&mut port, 1);
        assert!(crc::is_sealed(&answer) && answer[..3] == [1, 3, 80]);
        assert!(took >= Duration::from_micros(at_least_us), "{baud}: {took:?}");
    }
}

#[test]
fn a_master_that_breaks_the_gap_is_found_out_and_one_that_keeps_it_is_not() {
    let line = start(9_600);
    let mut port = open(line.path());
    let deadline = Instant::now() + Duration::from_secs(30);
    // Without any pause; a busy machine may delay this thread long enough to keep the gap now and then.
    while line.stats().violations < 3 {
        exchange(&mut port, 1);
        assert!(Instant::now() < deadline, "{:?}", line.stats());
    }
    assert!(line.stats().min_silence_us.unwrap() < 3_646);

    let line = start(115_200);
    let mut port = open(line.path());
    for i in 0..100 {
        exchange(&mut port, 1 + i % 2);
        std::thread::sleep(Duration::from_micros(1_750));
    }
    let kept = line.stats();
    assert_eq!(kept.gaps_kept + kept.gaps_unsure, 99, "{kept:?}");
    assert_eq!((kept.requests, kept.answers, kept.violations), (100, 100, 0), "{kept:?}");
    assert!(kept.min_silence_us.unwrap() >= 1_750, "{kept:?}");
}

#[test]
fn unplugging_hangs_up_and_the_same_path_comes_back() {
    let line = start(115_200);
    let mut port = open(line.path());
    exchange(&mut port, 1);
    line.unplug();
    assert!(!line.path().exists());
    let read = port.read(&mut [0; 1]);
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    line.replug().unwrap();
    let mut port = open(line.path());
    exchange(&mut port, 2);
    assert_eq!(line.stats().requests, 2, "counts go on");
    let path = line.path().to_owned();
    drop(line);
    assert!(std::fs::symlink_metadata(path).is_err(), "the link goes with the line");
}

#[test]
fn a_file_in_the_way_of_the_link_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ttyGAP0");
    std::fs::write(&path, "precious").unwrap();
    let config = LineConfig { link: Some(path.clone()), ..LineConfig::default() };
    let error = PtyLine::start(&config).unwrap_err().to_string();
    assert!(error.contains("ttyGAP0"), "{error}");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "precious");
}
