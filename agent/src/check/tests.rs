//! What is said of configurations whose figures are known.

use gapless_common::profile::ProfileSet;

use super::*;

fn config(rest: &str) -> Config {
    let head = "site = \"s\"\nagent = \"a\"\nuplink = { broker = \"mqtt://localhost\" }\n\
                outbox = { path = \"/tmp/o\", budget = \"64MiB\" }\n";
    let toml = format!("{head}{rest}");
    Config::parse("gapless.toml", &toml, &ProfileSet::embedded().unwrap()).unwrap_or_else(|e| panic!("{e}"))
}

/// `units` devices of 20 floats in 40 registers on one line.
fn line(serial: &str, units: usize, interval: &str) -> Config {
    config(&line_toml(serial, units, interval))
}

fn line_toml(serial: &str, units: usize, interval: &str) -> String {
    let channel = |n: usize| format!("{{ id = \"c{n}\", address = {}, type = \"f32\" }}", 2 * n);
    let channels: Vec<String> = (0..20).map(channel).collect();
    let channels = channels.join(", ");
    let device = |n: usize| {
        format!(
            "[[bus.device]]\nid = \"d{n}\"\nunit = {n}\ninterval = \"{interval}\"\nchannel = [{channels}]\n"
        )
    };
    let devices: String = (1..=units).map(device).collect();
    format!("[[bus]]\nid = \"b\"\nserial = {{ port = \"/dev/x\", {serial} }}\n{devices}")
}

#[test]
fn the_least_cycle_is_that_of_the_line() {
    let rows = [
        ("baud = 9600", 1, 105.5),
        ("baud = 9600", 10, 1055.0),
        ("baud = 19200, parity = \"even\"", 1, 60.3),
        ("baud = 19200, parity = \"even\"", 10, 603.0),
        ("baud = 38400", 1, 31.0),
        ("baud = 115200", 10, 148.0),
    ];
    for (serial, units, expected_ms) in rows {
        let report = Report::of(&line(serial, units, "10s"));
        let bus = &report.buses[0];
        let got = bus.least_cycle.unwrap().as_secs_f64() * 1_000.0;
        assert!((got - expected_ms).abs() < 0.005 * expected_ms, "{serial} × {units}: {got}");
        let load = bus.load.unwrap();
        assert!((load - got / 10_000.0).abs() < 1e-9, "{serial} × {units}: {load}");
        assert_eq!(report.problems, []);
    }
}

#[test]
fn what_cannot_fit_is_an_error() {
    let rows = [
        (1, "1s", ""),
        (1, "100ms", "device `d1`: one poll takes 105.5 ms at least, longer than its interval of 100ms"),
        (10, "1s", "bus `b`: its devices ask for 106 % of the time there is"),
        (9, "1s", ""),
    ];
    for (units, interval, expected) in rows {
        let report = Report::of(&line("baud = 9600", units, interval));
        let got: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        match got.as_slice() {
            [] => assert_eq!(expected, "", "{units} × {interval}"),
            [only] => assert!(!expected.is_empty() && only.starts_with(expected), "{only}"),
            more => panic!("{more:?}"),
        }
        assert_eq!(report.is_sound(), expected.is_empty());
    }
}

#[test]
fn problems_have_places() {
    for (units, interval, place) in [(1, "100ms", "f:7:12: device `d1`"), (10, "1s", "f:1:1: bus `b`")] {
        let toml = line_toml("baud = 9600", units, interval);
        let report = Report::of(&config(&toml));
        let problems = report.located("f", &toml).unwrap().to_string();
        assert!(problems.starts_with(place), "{problems}");
    }
    assert_eq!(Report::of(&line("baud = 9600", 1, "1s")).located("f", ""), None);
}

#[test]
fn a_paused_device_takes_no_time() {
    let mut config = line("baud = 9600", 10, "1s");
    config.buses[0].devices[0].paused = true;
    let report = Report::of(&config);
    assert_eq!(report.problems, []);
    config.buses[0].devices.iter_mut().for_each(|device| device.paused = true);
    assert_eq!(Report::of(&config).traffic.readings_per_day.to_bits(), 0f64.to_bits());
}

#[test]
fn holes_are_read_over_where_the_device_allows_it() {
    let profile = "[[bus]]\nid = \"b\"\ntcp = { address = \"h\" }\n[[bus.device]]\nid = \"d\"\nunit = 1\n\
                   interval = \"1s\"\nprofile = \"carlo-gavazzi-em340\"\n";
    let report = Report::of(&config(profile));
    let requests: Vec<(u16, u16, usize)> =
        report.buses[0].devices[0].requests.iter().map(|r| (r.start, r.count, r.holes.len())).collect();
    // 50 registers a request at most, holes of 4 at most: 0..49, then 49..55, 64..69 and 78..81.
    assert!(requests.iter().all(|(_, count, _)| *count <= 50), "{requests:?}");
    assert_eq!(requests[0].0, 0);
    let last = requests.last().unwrap();
    assert_eq!(last.0 + last.1, 0x0052, "{requests:?}");
    assert_eq!(report.buses[0].least_cycle, None);
}

#[test]
fn sunspec_models_are_planned_apart() {
    let inverter = "[[bus]]\nid = \"b\"\ntcp = { address = \"h\" }\n[[bus.device]]\nid = \"d\"\nunit = 126\n\
                    interval = \"10s\"\nprofile = \"sunspec-inverter-103\"\nchannels = [\"serial_number\", \
                    \"active_power\", \"frequency\"]\n";
    let report = Report::of(&config(inverter));
    let requests: Vec<(Option<u16>, u16, u16)> =
        report.buses[0].devices[0].requests.iter().map(|r| (r.model, r.start, r.count)).collect();
    assert_eq!(requests, [(Some(1), 50, 16), (Some(103), 14, 4)]);
}

#[test]
fn traffic_counts_every_reading_and_batches_pay() {
    let live = line("baud = 9600", 2, "10s");
    let mut metered = live.clone();
    metered.uplink.flush_ms = 900_000;
    let [live, metered] = [live, metered].map(|config| Report::of(&config).traffic);
    for traffic in [live, metered] {
        assert!((traffic.readings_per_day - 2.0 * 20.0 * 8_640.0).abs() < 1.0, "{traffic:?}");
    }
    assert!((metered.messages_per_day - 96.0).abs() < 0.5, "{metered:?}");
    assert!((live.messages_per_day - 8_640.0).abs() < 0.5, "{live:?}");
    assert!(metered.uplink_bytes_per_day * 2.0 < live.uplink_bytes_per_day, "{live:?} {metered:?}");
    // A poll of 20 floats is some 100 bytes in the outbox: 64 MiB hold weeks.
    assert!((10.0..200.0).contains(&live.outage_days), "{live:?}");
}

#[test]
fn a_day_is_held_against_its_budget() {
    let needed = Report::of(&line("baud = 9600", 2, "10s")).traffic.uplink_bytes_per_day;
    let rows = [
        (1.9, true, " drain a backlog\n"),
        (1.1, true, " are little to drain a backlog with: a warning\n"),
        (0.9, false, ": a day takes 111 % of it\n"),
    ];
    for (times, sound, line) in rows {
        let budget = super::traffic::to_u64(needed * times);
        let toml = line_toml("baud = 9600", 2, "10s");
        let mut config = config(&toml);
        config.uplink.daily_budget_bytes = Some(budget);
        let report = Report::of(&config);
        assert_eq!(report.is_sound(), sound, "{times}: {report}");
        assert!(report.to_string().contains(line), "{times}: {report}");
        let toml = format!("uplink = {{ broker = \"mqtt://h\", daily_budget = \"1MiB\" }}\n{toml}");
        let located = report.located("f", &toml).map(|problems| problems.to_string()).unwrap_or_default();
        assert_eq!(
            located.starts_with("f:1:48: `daily_budget`: a day without faults takes "),
            !sound,
            "{located}"
        );
    }
}

#[test]
fn the_example_reads_well() {
    let profiles = ProfileSet::embedded().unwrap();
    let toml = include_str!("../config/example.toml");
    let config = Config::parse("example.toml", toml, &profiles).unwrap_or_else(|e| panic!("{e}"));
    let text = Report::of(&config).to_string();
    let buses: Vec<&str> = text.lines().take_while(|line| !line.starts_with("a day")).collect();
    insta::assert_snapshot!(buses.join("\n"), @r"
    bus rs485: 9600 8N1 on /dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0
      least cycle 383.1 ms, line busy 3.8 % of the time
      main-meter: unit 1, 42 channels, every 10s, profile eastron-sdm630
        4 requests, 305.4 ms at least
          FC04 input register 0..79 (80): 30 channels, reads over 20 in 6 holes, 188.9 ms
          FC04 input register 200..205 (6): 3 channels, 34.7 ms
          FC04 input register 224..225 (2): 1 channel, 26.4 ms
          FC04 input register 342..357 (16): 8 channels, 55.5 ms
      heat-pump: unit 2, 4 channels, every 10s, profile eastron-sdm120
        2 requests, 77.7 ms at least
          FC04 input register 0..13 (14): 3 channels, reads over 8 in 2 holes, 51.4 ms
          FC04 input register 72..73 (2): 1 channel, 26.4 ms

    bus mast: Modbus TCP to 10.0.0.7:502
      mast-logger: unit 1, 3 channels, every 1m, profile campbell-cr1000x
        2 requests
          FC03 holding register 0..3 (4): 2 channels
          FC03 holding register 60..61 (2): 1 channel
    ");
    let traffic = &text[text.find("a day").unwrap()..];
    assert!(traffic.contains("401760 readings in 8640 messages"), "{traffic}");
    assert!(traffic.contains("the budget holds an outage of "), "{traffic}");
}

#[test]
fn a_logger_is_explained_table_by_table() {
    let config = config(
        "[[bus]]\nid = \"mast\"\ncampbell = { url = \"http://10.0.0.9\" }\n\
         [[bus.device]]\nid = \"met\"\ntable = \"Met\"\ninterval = \"10m\"\nzone = \"+01:00\"\nfirst = \"2d\"\nchannels = \"all\"\n",
    );
    let report = Report::of(&config);
    assert!(report.is_sound());
    assert!((report.traffic.readings_per_day - 144.0 * 20.0).abs() < 1.0, "{:?}", report.traffic);
    let text = report.to_string();
    let expected = "bus mast: Campbell logger at http://10.0.0.9\n  met: table Met, all fields (20 assumed below), a record every \
                    10m, logger's clock +01:00\n    collected by record number; at each start the last 2d once more\n";
    assert!(text.starts_with(expected), "{text}");
}
