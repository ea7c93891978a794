//! Any text as an agent's configuration, and as a register map that a device is configured with.

use std::sync::OnceLock;

use gapless_agent::check::Report;
use gapless_agent::config::{Config, ConfigError};
use gapless_common::document::Problems;
use gapless_common::profile::{BITS_MAX, Profile, ProfileSet, RegisterTable};
use gapless_common::wire;

/// A configuration of one device that has all its channels from the register map of that name.
const OF_PROFILE: &str = r#"
site = "s"
agent = "a"
uplink = { broker = "mqtt://h" }
outbox = { path = "/o" }
[[bus]]
id = "b"
serial = { port = "/dev/x", baud = 9600 }
device = [{ id = "d", unit = 1, interval = "1h", profile = "under-test" }]
"#;

/// Nothing may panic; what is refused is explained with places that the text has; what is accepted can be checked, and
/// has a catalog that can be written and read.
pub fn config(bytes: &[u8]) {
    static PROFILES: OnceLock<ProfileSet> = OnceLock::new();
    let profiles = PROFILES.get_or_init(|| ProfileSet::embedded().expect("a test parses them all"));
    let text = String::from_utf8_lossy(bytes);
    judge(Config::parse("agent.toml", &text, profiles), &text);
}

/// As `config`, of a register map: what is accepted goes into a device, and reads no more than a request may.
pub fn profile(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut profile = match Profile::parse("profile.toml", &text) {
        Ok(profile) => profile,
        Err(e) => return explained(&e.0, &text),
    };
    let max_registers = profile.defaults.max_registers;
    profile.id = "under-test".into();
    let mut profiles = ProfileSet::default();
    profiles.insert(profile);
    let Some(report) = judge(Config::parse("agent.toml", OF_PROFILE, &profiles), OF_PROFILE) else { return };
    for request in report.buses.iter().flat_map(|bus| &bus.devices).flat_map(|device| &device.requests) {
        let bits = matches!(request.table, RegisterTable::Coil | RegisterTable::DiscreteInput);
        let most = if bits { BITS_MAX } else { max_registers };
        assert!((1..=most).contains(&request.count), "{request:?}");
        assert!(u32::from(request.start) + u32::from(request.count) <= 1 << 16, "{request:?}");
    }
}

/// What must hold of a text that was read as a configuration; what `check` says where it was accepted.
fn judge(read: Result<Config, ConfigError>, text: &str) -> Option<Report> {
    let config = match read {
        Ok(config) => config,
        Err(e) => {
            explained(&e.0, text);
            return None;
        }
    };
    let catalog = config.catalog();
    let (hash, bytes) = wire::encode_catalog(&catalog);
    assert_eq!(wire::decode_catalog(&bytes), Ok((hash, catalog)));
    let report = Report::of(&config);
    assert!(!report.to_string().is_empty());
    if let Some(problems) = report.located("agent.toml", text) {
        explained(&problems, text);
    }
    Some(report)
}

fn explained(problems: &Problems, text: &str) {
    assert!(!problems.list.is_empty());
    let lines: Vec<&str> = text.split('\n').collect();
    for problem in &problems.list {
        let line = problem.line.checked_sub(1).and_then(|line| lines.get(line));
        let width = line.map(|line| line.chars().count()).unwrap_or_default();
        assert!(line.is_some() && (1..=width + 1).contains(&problem.column), "{problem:?}");
        assert!(!problem.message.is_empty());
    }
}
