//! Load profiles of a meter that pymodbus serves, collected by a bus thread of the agent: all that the meter holds from
//! before, and what it records meanwhile.

use std::collections::BTreeMap;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use gapless_agent::bus::{self, BusCommand};
use gapless_agent::clock::Clock;
use gapless_agent::config::{ClockTrust, Config};
use gapless_agent::event::BusEvent;
use gapless_common::id::DeviceIndex;
use gapless_common::message::Outcome;
use gapless_common::profile::{BEGIN_OF_2000, Profile, ProfileSet};
use gapless_common::quality::Quality;
use gapless_common::reading::{Sample, Value};
use gapless_common::time::Timestamp;

use super::{START_WITHIN, pymodbus, source, start};

/// What the meter is, as `pymodbus_meter.py` says.
fn profile(way: &str) -> Profile {
    let pointers = match way {
        "window" => {
            "numbering = \"ring\"\nnewest = { address = 100, type = \"u16\" }\ncount = { address = 101, type = \"u16\" }\n\
             window = { address = 120, select = { address = 110, type = \"u16\" } }"
        }
        _ => {
            "numbering = \"running\"\nnewest = { table = \"input\", address = 100, type = \"u32\" }\n\
             oldest = { table = \"input\", address = 102, type = \"u32\" }\nfile = { number = 4, record = 7, stride = 5 }"
        }
    };
    let text = format!(
        "id = \"meter\"\nmake = \"m\"\nmodel = \"m\"\nkind = \"meter\"\nsource = \"pymodbus_meter.py\"\n\
         channel = [{{ id = \"newest\", address = 100, type = \"u16\" }}]\n\
         [load_profile]\ninterval = \"2s\"\nzone = \"+00:00\"\ncapacity = 50\nregisters = 5\n{pointers}\n\
         stamp = {{ encoding = \"seconds-2000\" }}\n\
         field = [{{ id = \"count\", address = 2, type = \"u32\" }}, {{ id = \"low\", address = 4, type = \"u16\" }}]\n"
    );
    Profile::parse("meter.toml", &text).unwrap_or_else(|error| unreachable!("{error}"))
}

fn config(way: &str, port: u16, framing: &str) -> Config {
    let mut profiles = ProfileSet::embedded().expect("the embedded profiles");
    profiles.insert(profile(way));
    let toml = format!(
        "site = \"bench\"\nagent = \"gateway\"\nuplink = {{ broker = \"mqtt://127.0.0.1\" }}\noutbox = {{ path = \"unused\" }}\n\
         [[bus]]\nid = \"peer\"\ntcp = {{ address = \"127.0.0.1:{port}\", framing = \"{framing}\" }}\ntimeout = \"5s\"\n\
         [[bus.device]]\nid = \"records\"\nunit = 1\nprofile = \"meter\"\ncollect = \"load-profile\"\nfirst = \"40s\"\n\
         [[bus.device]]\nid = \"polled\"\nunit = 1\nprofile = \"meter\"\ninterval = \"1s\"\ntable = \"{}\"\n",
        if way == "file" { "input" } else { "holding" }
    );
    Config::parse("peer.toml", &toml, &profiles).unwrap_or_else(|error| unreachable!("{error}"))
}

/// What a record of this time says.
fn truth(at: Timestamp) -> Vec<Sample> {
    let number = u32::try_from(at.since_ms(BEGIN_OF_2000) / 2_000).expect("this century");
    let sample = |(channel, number): (u16, u32)| Sample {
        channel: gapless_common::id::ChannelIndex(channel),
        value: Some(Value::Number(f64::from(number))),
        quality: Quality::Good,
    };
    [(0, number), (1, number & 0x7FFF)].map(sample).to_vec()
}

fn check(way: &str, wire: &str, framing: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = pymodbus(&source("pymodbus_meter.py"));
    let (_process, port) = start("pymodbus", command.args([way, wire]), &folder.path().join("log"));
    let config = config(way, port, framing);
    let bus = config.buses[0].clone();
    let newest = bus::read_once(&bus, &bus.devices[0]).expect("the newest record for a person");
    assert_eq!(newest.len(), 2);
    let clock = Clock::new(ClockTrust::Always);
    let (events, inbox) = sync_channel::<BusEvent>(256);
    let handle = bus::spawn(bus, clock.clone(), clock.now(), events).expect("a bus thread");
    let (mut records, mut polls, mut history, mut seen) = (BTreeMap::new(), 0, None, Vec::new());
    let deadline = Instant::now() + 3 * START_WITHIN;
    let wanted = |records: &BTreeMap<Timestamp, Vec<Sample>>| {
        let span = records.last_key_value().zip(records.first_key_value());
        span.is_some_and(|((last, _), (first, _))| last.since_ms(*first) >= 50_000)
    };
    while !(wanted(&records) && history.is_some() && polls >= 6) {
        let left = deadline.saturating_duration_since(Instant::now());
        let event = inbox.recv_timeout(left.max(Duration::from_millis(1)));
        let Ok(event) = event else { unreachable!("in vain: {seen:?}") };
        seen.push(event.clone());
        match event {
            BusEvent::Answered { device: DeviceIndex(0), at, samples, .. } => {
                assert_eq!(samples, truth(at), "the record of {at}");
                if records.is_empty() {
                    let range = (at.plus_ms(-60_000), at.plus_ms(-50_000));
                    let ask = BusCommand::ReadHistory { command: 7, device: DeviceIndex(0), range };
                    handle.commands.send(ask).expect("the thread lives");
                }
                records.insert(at, samples);
            }
            BusEvent::Answered { .. } => polls += 1,
            BusEvent::HistoryRead { command: 7, outcome } => history = Some(outcome),
            _ => {}
        }
    }
    handle.commands.send(BusCommand::Stop).expect("the thread lives");
    handle.join.join().expect("it ends");
    assert_eq!(history, Some(Outcome::Done), "what the collector asks for");
    // As far back as it reads by itself.
    let newest = records.last_key_value().map_or(0, |(at, _)| at.0);
    let times: Vec<i64> = records.keys().map(|at| at.0).filter(|at| *at >= newest - 40_000).collect();
    assert!(times.len() > 20, "{times:?}");
    assert!(times.windows(2).all(|two| two[1] - two[0] == 2_000), "a hole in {times:?}");
}

#[test]
fn pymodbus_keeps_a_load_profile_behind_a_window() {
    check("window", "tcp", "mbap");
}

#[test]
fn pymodbus_keeps_a_load_profile_in_file_records() {
    check("file", "tcp", "mbap");
}

#[test]
fn pymodbus_keeps_a_load_profile_in_file_records_behind_a_serial_server() {
    check("file", "rtu-over-tcp", "rtu");
}
