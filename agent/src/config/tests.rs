//! Configurations as people write them, right and wrong.

use gapless_common::document::Problem;
use gapless_common::profile::{ByteOrder, Location, ProfileSet, RegisterTable};

use super::*;

const MINIMAL: &str = r#"
site = "s"
agent = "a"
uplink = { broker = "mqtt://localhost" }
outbox = { path = "/tmp/o" }
[[bus]]
id = "b"
tcp = { address = "localhost:1502" }
[[bus.device]]
id = "d"
unit = 1
interval = "1s"
channel = [{ id = "c", address = 0, type = "u16" }]
"#;

fn parse(toml: &str) -> Result<Config, ConfigError> {
    Config::parse("gapless.toml", toml, &ProfileSet::embedded().unwrap())
}

/// The problems of `MINIMAL` with one text in the place of another.
fn problems(from: &str, to: &str) -> String {
    assert!(MINIMAL.contains(from), "{from} is not in the example");
    match parse(&MINIMAL.replacen(from, to, 1)) {
        Ok(_) => String::new(),
        Err(ConfigError(problems)) => {
            let line = |Problem { line, column, message }: &Problem| format!("{line}:{column} {message}");
            problems.list.iter().map(line).collect::<Vec<_>>().join("\n")
        }
    }
}

#[test]
fn the_example_is_valid() {
    let config = parse(include_str!("example.toml")).unwrap_or_else(|e| panic!("{e}"));
    let ids: Vec<(&str, u16)> =
        config.devices().map(|(_, device)| (device.id.as_str(), device.index.0)).collect();
    assert_eq!(ids, [("main-meter", 0), ("heat-pump", 1), ("mast-logger", 2)]);
    let catalog = config.catalog();
    assert_eq!(catalog.devices[0].attributes["serial_number"], "22104711");
    assert_eq!(catalog.devices[0].attributes["make"], "Eastron");
    let logger = &config.buses[1].devices[0];
    let channels: Vec<&str> = logger.channels.iter().map(|channel| channel.id.as_str()).collect();
    assert_eq!(channels, ["float_01", "float_02", "battery_voltage"]);
    assert_eq!(logger.channels[0].unit.as_ref(), "m/s");
    assert_eq!(logger.channels[2].order, ByteOrder::CDAB);
    assert_eq!(logger.channels[2].location, Location::Absolute(60));
}

/// A collector that sees another mark has the device read, and marks it until that has come.
#[test]
fn a_channel_that_is_read_in_another_way_changes_the_mark_of_its_device() {
    let mark = |channels: &str| {
        let text = MINIMAL.replace("{ id = \"c\", address = 0, type = \"u16\" }", channels);
        let config = parse(&text).unwrap_or_else(|e| panic!("{channels}: {e}"));
        config.catalog().devices[0].attributes["read_from"].clone()
    };
    let plain = "{ id = \"c\", address = 7, type = \"i32\", scale = 0.1 }";
    // Do not change this number: every device of every agent would be marked as changed at its next start.
    assert_eq!(mark(plain), "36626f69");
    for (from, to, is_other) in [
        (" }", ", valid = [0, 300] }", false),
        (" }", ", unit = \"V\" }", false),
        (" }", ", quantity = \"voltage\" }", false),
        (" }", ", attributes = { height = \"10 m\" } }", false),
        (" }", ", order = \"CDAB\" }", true),
        (" }", ", offset = 1 }", true),
        (" }", ", table = \"input\" }", true),
        (" }", ", scale_from = 9 }", true),
        (" }", " }, { id = \"i\", address = 9, type = \"u16\" }", true),
        ("7", "8", true),
        ("i32", "u32", true),
        ("0.1", "0.01", true),
        ("\"c\"", "\"d\"", true),
    ] {
        assert_eq!(mark(&plain.replace(from, to)) != mark(plain), is_other, "{to}");
    }
}

#[test]
fn what_is_not_written_has_its_default() {
    let config = parse(MINIMAL).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.uplink.daily_budget_bytes, None);
    let metered = MINIMAL.replace("\"mqtt://localhost\"", "\"mqtt://localhost\", daily_budget = \"2MiB\"");
    assert_eq!(parse(&metered).unwrap_or_else(|e| panic!("{e}")).uplink.daily_budget_bytes, Some(2 << 20));
    assert_eq!(config.uplink.broker, Broker { host: "localhost".to_owned(), port: 1883, tls: false });
    assert_eq!((config.uplink.flush_ms, config.uplink.window, config.uplink.keep_alive_s), (0, 16, 60));
    assert_eq!((config.outbox.budget_bytes, config.outbox.durability_ms), (64 << 20, 1_000));
    assert_eq!(config.clock, ClockTrust::Synchronised);
    let device = &config.buses[0].devices[0];
    assert_eq!((device.timeout_ms, device.retries, device.turnaround_ms), (500, 1, 0));
    assert_eq!((device.max_hole, device.max_registers), (0, 125));
    assert_eq!(device.channels[0].table, RegisterTable::HoldingRegister);
    assert_eq!(device.sunspec, None);
}

#[test]
fn every_problem_names_its_place_and_what_is_right() {
    let rows: [(&str, &str, &str); 32] = [
        ("site = \"s\"", "site = \"a b\"", "2:8 `site`: ` ` cannot stand in a name"),
        ("agent = \"a\"", "", "1:1 `agent` is missing: for example agent = \"gateway-1\""),
        ("mqtt://localhost", "tcp://u:topsecret@localhost", "4:21 `broker` begins with mqtt://"),
        (
            "\"mqtt://localhost\"",
            "\"mqtt://h\", flush = \"15 min\"",
            "4:41 `flush`: `15 min` is not a duration",
        ),
        (
            "\"mqtt://localhost\"",
            "\"mqtt://h\", daily_budget = \"2 MB/day\"",
            "4:48 `daily_budget`: `2 MB/day` is not a size",
        ),
        (
            "\"mqtt://localhost\"",
            "\"mqtt://h\", daily_budget = \"63KiB\"",
            "4:48 `daily_budget` must be 64KiB or more",
        ),
        ("\"mqtt://localhost\"", "\"mqtt://h\", daily_budget = 2", "4:48 `daily_budget` must be a"),
        ("\"mqtt://localhost\"", "\"mqtt://h\", window = 33", "4:42 `window` must be 8 to 32, got 33"),
        ("\"mqtt://localhost\"", "\"mqtt://h\", ca_file = \"x\"", "4:43 certificates need TLS"),
        ("\"mqtt://localhost\"", "\"mqtt://h\", password = \"x\"", "4:10 a password needs a `username`"),
        ("\"/tmp/o\"", "\"o\", budget = \"1kB\"", "5:33 `budget` must be 1MiB or more"),
        ("\"/tmp/o\"", "\"o\", polcy = \"x\"", "5:24 unknown key `polcy`: did you mean `policy`?"),
        ("tcp = { address = \"localhost:1502\" }", "", "6:1 a bus needs its line: serial = {"),
        ("\"localhost:1502\"", "\"localhost:x\"", "8:19 `address` must be host or host:port"),
        (
            "tcp = { address = \"localhost:1502\" }",
            "serial = { port = \"/dev/x\", baud = 9601 }",
            "8:36 `baud` must be one of 300, 600",
        ),
        (
            "tcp = { address = \"localhost:1502\" }",
            "serial = { port = \"/dev/x\", baud = 9600, data_bits = 7 }",
            "8:54 `data_bits` must be 8",
        ),
        ("unit = 1", "unit = 256", "11:8 `unit` must be 0 to 255, got 256"),
        ("interval = \"1s\"", "interval = \"9ms\"", "12:12 an interval is 10 ms to 49 days, got 9 ms"),
        ("interval = \"1s\"", "", "9:1 `interval` is missing"),
        // What is wrong at the bus is no mistake of each of its devices.
        (
            "[[bus.device]]\nid = \"d\"\nunit = 1\ninterval = \"1s\"",
            "interval = \"5\"\n[[bus.device]]\nid = \"d\"\nunit = 1",
            "9:12 `interval`",
        ),
        (
            "channel = [{ id = \"c\", address = 0, type = \"u16\" }]",
            "profile = \"abb-b23\"\nchannels = [\"power\"]",
            "14:13 profile `abb-b23` has no channel `power`",
        ),
        (
            "interval = \"1s\"",
            "interval = \"1s\"\nphase = \"1s\"",
            "13:9 `phase` must be below the interval of 1s",
        ),
        (
            "interval = \"1s\"",
            "interval = \"1s\"\nprofile = \"eastron\"",
            "13:11 there is no profile `eastron`: known are abb-b23",
        ),
        (
            "interval = \"1s\"",
            "interval = \"1s\"\nprofile = \"abb-b23\"\nchannels = [\"power\"]",
            "14:13 profile `abb-b23` has no channel `power`",
        ),
        ("channel = [{ id = \"c\", address = 0, type = \"u16\" }]", "", "9:1 this device has no channels"),
        (
            "\"u16\"",
            "\"u32\", table = \"coil\"",
            "13:34 channel `c`: a coil holds one bit, and u32 at 0 (0x0000) does not fit",
        ),
        (
            "address = 0, type = \"u16\"",
            "address = 0xFFFF, type = \"f32\"",
            "13:34 channel `c`: f32 covers 2 registers and does not fit at holding register 65535 (0xFFFF): 65535 is the last, so it can begin at 65534 at most",
        ),
        (
            "\"u16\"",
            "\"u16\", not_available = 0x10000",
            "13:67 channel `c`: `not_available` of u16 is a raw pattern of 16 bits",
        ),
        ("\"u16\"", "\"u16\", valid = [5, 1]", "13:59 channel `c`: `valid` is [least, greatest]"),
        ("\"u16\"", "\"u16\", scale = 0", "13:59 channel `c`: a scale must be finite and not 0"),
        (
            "\"u16\" }]",
            "\"u16\" }, { id = \"c\", address = 1, type = \"u16\" }]",
            "13:60 channel `c` is there twice",
        ),
        (
            "unit = 1",
            "unit = 1\nsunspec_base = 40000",
            "12:16 `sunspec_base` is for devices with SunSpec channels",
        ),
    ];
    let wrong: Vec<String> = rows
        .iter()
        .map(|(from, to, expected)| (problems(from, to), to, expected))
        .filter(|(got, _, expected)| !got.starts_with(*expected) || got.lines().count() != 1)
        .map(|(got, to, expected)| {
            format!(
                "{to}
  got      {got}
  expected {expected}"
            )
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{}",
        wrong.join(
            "
"
        )
    );
}

#[test]
fn what_is_there_twice_points_to_the_first() {
    let two = r#"
[[bus]]
id = "b"
serial = { port = "/dev/x", baud = 9600 }
device = [
  { id = "d", unit = 1, interval = "1s", profile = "eastron-sdm120" },
  { id = "e", unit = 1, interval = "1s", profile = "eastron-sdm120" },
]
[[bus]]
id = "c"
serial = { port = "/dev/x", baud = 9600 }
device = [{ id = "f", unit = 1, interval = "1s", profile = "eastron-sdm120" }]
"#;
    let Err(ConfigError(problems)) = parse(&format!("{MINIMAL}{two}")) else { panic!("accepted") };
    let expected = "\
gapless.toml:16:6: bus `b` is unique in its site, and line 7 has it already
gapless.toml:19:10: device `d` is unique in its site, and line 10 has it already
gapless.toml:20:22: unit `1` is unique on its bus, and line 19 has it already
gapless.toml:24:10: port `/dev/x` belongs to the bus of line 17 already: one port is one bus, with all devices \
of the line below it";
    assert_eq!(problems.to_string(), expected);
}

#[test]
fn secrets_are_not_shown() {
    let toml =
        MINIMAL.replace("\"mqtt://localhost\"", "\"mqtt://h\", username = \"u\", password = \"topsecret\"");
    let config = parse(&toml).unwrap_or_else(|e| panic!("{e}"));
    assert!(!format!("{config:?}").contains("topsecret"));
    let Some(Password::Inline(secret)) = config.uplink.password else { panic!("no password") };
    assert_eq!(secret.reveal(), "topsecret");
}

#[test]
fn sunspec_devices_know_where_to_look() {
    let profile = "profile = \"sunspec-inverter-103\"";
    let toml = MINIMAL.replace("channel = [{ id = \"c\", address = 0, type = \"u16\" }]", profile);
    let config = parse(&toml).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.buses[0].devices[0].sunspec, Some(SunSpec { bases: vec![40000, 50000, 0] }));
    let config = parse(&toml.replace(profile, &format!("{profile}\nsunspec_base = 40069")));
    let config = config.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.buses[0].devices[0].sunspec, Some(SunSpec { bases: vec![40069] }));
}

const LOGGER: &str = r#"
site = "s"
agent = "a"
uplink = { broker = "mqtt://localhost" }
outbox = { path = "/tmp/o" }
[[bus]]
id = "mast"
campbell = { url = "http://10.0.0.9:8080/", username = "u", password = "p" }
timeout = "5s"
[[bus.device]]
id = "met"
table = "Met10"
interval = "10m"
zone = "+01:00"
channels = ["Batt_Min", "AirTC(2)"]
channel = [{ field = "WS_ms_Avg", id = "wind_80m", unit = "m/s", aggregation = "mean", scale = 2 }]
[[bus.device]]
id = "status"
table = "Status"
interval = "1h"
zone = "-07:00"
first = "7d"
channels = "all"
[[bus]]
id = "b"
tcp = { address = "localhost" }
[[bus.device]]
id = "meter"
unit = 1
interval = "1s"
channel = [{ id = "c", address = 0, type = "u16" }]
"#;

#[test]
fn a_logger_is_a_bus_of_its_tables() {
    let config = parse(LOGGER).unwrap_or_else(|e| panic!("{e}"));
    let ids: Vec<&str> = config.device_ids().map(DeviceId::as_str).collect();
    assert_eq!(ids, ["meter", "met", "status"], "what is polled comes first in the catalog");
    let logger = &config.loggers[0];
    assert_eq!(
        (logger.to_string().as_str(), logger.timeout_ms),
        ("Campbell logger at http://10.0.0.9:8080", 5_000)
    );
    assert_eq!(logger.web.username.as_deref(), Some("u"));
    let tables: Vec<(u16, i64, String)> =
        logger.tables.iter().map(|table| (table.index.0, table.first_ms, table.zone.to_string())).collect();
    assert_eq!(tables, [(1, 86_400_000, "+01:00".to_owned()), (2, 7 * 86_400_000, "-07:00".to_owned())]);
    let catalog = config.catalog();
    let channels: Vec<(&str, &str)> =
        catalog.devices[1].channels.iter().map(|c| (c.id.as_str(), c.attributes["field"].as_str())).collect();
    assert_eq!(channels, [("Batt_Min", "Batt_Min"), ("AirTC.2", "AirTC(2)"), ("wind_80m", "WS_ms_Avg")]);
    assert_eq!(catalog.devices[1].attributes["table"], "Met10");
    assert_eq!(catalog.devices[2].channels, []);
}

#[test]
fn what_is_wrong_with_a_logger_is_said_where_it_stands() {
    let rows = [
        (
            "http://10.0.0.9:8080/",
            "https://10.0.0.9",
            "8:20 `url` must begin with http://: this version speaks no TLS",
        ),
        ("http://10.0.0.9:8080/", "http://u:p@h", "8:20 `url` holds no user name"),
        ("http://10.0.0.9:8080/", "10.0.0.9", "8:20 `url` must begin with http://"),
        ("http://10.0.0.9:8080/", "http://h/x", "8:20 `url` must be host or host:port"),
        ("username = \"u\", ", "", "8:12 a password needs a `username`"),
        ("zone = \"+01:00\"", "zone = \"CET\"", "14:8 `zone`: `CET` is no offset from UTC"),
        ("zone = \"+01:00\"\n", "", "10:1 `zone` is missing: for example zone = \"+01:00\""),
        ("table = \"Met10\"\n", "", "10:1 `table` is missing"),
        ("first = \"7d\"", "first = \"400d\"", "22:9 `first` must be a year"),
        ("channels = \"all\"", "", "17:1 this device has no channels: write channels = \"all\""),
        ("[\"Batt_Min\", ", "[\"AirTC.2\", ", "15:24 channel `AirTC.2` is there twice"),
        ("scale = 2", "scale = 0", "16:96 a scale must be finite and not 0"),
        (
            "aggregation = \"mean\"",
            "aggregaton = \"mean\"",
            "unknown key `aggregaton`: did you mean `aggregation`?",
        ),
        (
            "timeout = \"5s\"",
            "tcp = { address = \"x\" }",
            "8:12 a bus is one of `serial`, `tcp`, `campbell` and `folder`",
        ),
        ("id = \"status\"", "id = \"met\"", "device `met` is unique in its site"),
        ("id = \"met\"", "id = \"met\"\nunit = 3", "unknown key `unit`"),
    ];
    for (from, to, expected) in rows {
        assert!(LOGGER.contains(from), "{from} is not in the example");
        let problems = match parse(&LOGGER.replacen(from, to, 1)) {
            Ok(_) => String::new(),
            Err(ConfigError(problems)) => problems
                .list
                .iter()
                .map(|problem| format!("{}:{} {}", problem.line, problem.column, problem.message))
                .collect::<Vec<_>>()
                .join("\n"),
        };
        assert!(problems.contains(expected), "{to}: {problems}");
    }
}
