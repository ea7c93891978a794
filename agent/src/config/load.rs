//! Reads a device that is collected from its meter's load profile instead of being polled: `collect = "load-profile"`.

use std::collections::BTreeMap;

use gapless_common::document::{At, Table};
use gapless_common::profile::{LoadProfile, Profile};
use gapless_common::time::SlotGrid;

use super::device::{BusInterval, read_grid};
use super::logger::read_first;
use crate::records::zone::Zone;

/// A load profile as a device has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    /// Where its records are, and what is in one.
    pub load: LoadProfile,
    /// Of the meter's clock.
    pub zone: Zone,
    /// How far back records are read at each start, in ms.
    pub first_ms: i64,
}

/// How a device is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Collected {
    Polled,
    Recorded,
}

pub(super) fn read_collected(table: &Table<'_>) -> Collected {
    let words = [("poll", Collected::Polled), ("load-profile", Collected::Recorded)];
    table.word("collect", &words).unwrap_or(Collected::Polled)
}

/// The memory, and when a record of it is due. `profile` is the one that the device names.
pub(super) fn read_memory(table: &Table<'_>, profile: Option<&Profile>) -> Option<(Memory, SlotGrid)> {
    let at = table.place_of("collect").unwrap_or(table.place());
    let zone = table.parsed::<Zone>("zone").map(|found| found.value);
    let first_ms = read_first(table);
    let limit = table.duration_within("clock_limit", 1_000..=86_400_000);
    for key in ["channels", "channel"] {
        if let Some(at) = table.place_of(key) {
            table.report(
                at,
                format!(
                    "`{key}` is for a device that is polled: a record has the fields that its profile says"
                ),
            );
        }
    }
    let Some(profile) = profile else {
        if table.place_of("profile").is_none() {
            table.report(at, "`collect = \"load-profile\"` needs a `profile` with a section [load_profile]");
        }
        return None;
    };
    let Some(mut load) = profile.load.clone() else {
        table.report(at, format!("profile `{}` has no section [load_profile]", profile.id));
        return None;
    };
    let usual_ms = u64::try_from(load.interval.as_ms()).ok()?;
    let grid = read_grid(table, BusInterval::Ms(At { value: usual_ms, place: at }))?;
    load.interval = grid.interval;
    load.clock_limit_ms = limit.map_or(load.clock_limit_ms, |found| found.value);
    if zone.is_none() && load.zone.is_none() {
        table.need("zone", "\"+01:00\", the offset of the meter's clock from UTC");
    }
    let zone = zone.or(load.zone)?;
    Some((Memory { load, zone, first_ms: first_ms? }, grid))
}

/// What the collector is told besides what it is told of any device.
pub(super) fn tell(memory: &Memory, attributes: &mut BTreeMap<String, String>) {
    // What is missing can be read again from the meter's own memory: the collector asks for it.
    let told = [
        ("history", "device".to_owned()),
        ("collect", "load-profile".to_owned()),
        ("zone", memory.zone.to_string()),
    ];
    attributes.extend(told.map(|(key, value)| (key.to_owned(), value)));
}

#[cfg(test)]
mod tests {
    use crate::check::Report;
    use crate::config::Config;
    use gapless_common::profile::ProfileSet;

    const BUS: &str = r#"
site = "s"
agent = "a"
uplink = { broker = "mqtt://localhost" }
outbox = { path = "/tmp/o" }
[[bus]]
id = "b"
tcp = { address = "localhost:1502" }
interval = "10s"
[[bus.device]]
id = "records"
unit = 1
profile = "example-load-profile-window"
collect = "load-profile"
zone = "+01:00"
first = "7d"
[[bus.device]]
id = "polled"
unit = 1
profile = "example-load-profile-window"
"#;

    fn parse(toml: &str) -> Result<Config, String> {
        let profiles = ProfileSet::embedded().unwrap();
        Config::parse("a.toml", toml, &profiles).map_err(|error| error.to_string())
    }

    #[test]
    fn one_unit_may_be_polled_and_its_records_collected() {
        let config = parse(BUS).unwrap_or_else(|error| panic!("{error}"));
        let catalog = config.catalog();
        let [records, polled] = &catalog.devices[..] else { panic!("{catalog:?}") };
        assert_eq!((records.grid.interval.as_ms(), polled.grid.interval.as_ms()), (900_000, 10_000));
        let told = |key: &str| records.attributes.get(key).map(String::as_str);
        assert_eq!((told("history"), told("zone")), (Some("device"), Some("+01:00")));
        assert_eq!(polled.attributes.get("history"), None);
        assert_eq!(records.channels.len(), 3);
        let settings = config.buses[0].devices[0].memory_settings().unwrap();
        assert_eq!((settings.first_ms, settings.load.capacity), (7 * 86_400_000, 2_880));
        let report = Report::of(&config);
        assert!(report.is_sound());
        let shown = report.to_string();
        let lines = "  records: unit 1, 3 channels, every 15m, profile example-load-profile-window\n    \
                     load profile in holding registers from 4128 on, selected by register 4112; a full one holds 30d\n    \
                     its times are the end of an interval by a clock of +01:00; at each start the last 7d once more\n";
        assert!(shown.contains(lines), "{shown}");
    }

    #[test]
    fn what_cannot_be_asked_for_is_found_by_the_check() {
        let limit = "id = \"records\"\nmax_registers = 4";
        let config = parse(&BUS.replacen("id = \"records\"", limit, 1)).unwrap();
        let report = Report::of(&config);
        let shown = report.to_string();
        let expected = "channel record has 8 registers, a request to this device may hold 4";
        assert!(!report.is_sound() && shown.contains(expected), "{shown}");
    }

    #[test]
    fn what_is_wrong_with_it_is_told_with_its_place() {
        let rows = [
            ("zone = \"+01:00\"\n", "", "a.toml:10:1: `zone` is missing"),
            ("zone = \"+01:00\"", "zone = \"Europe/Berlin\"", "is no offset from UTC"),
            (
                "example-load-profile-window\"\ncollect",
                "abb-b23\"\ncollect",
                "profile `abb-b23` has no section [load_profile]",
            ),
            (
                "profile = \"example-load-profile-window\"\ncollect",
                "collect",
                "needs a `profile` with a section",
            ),
            ("\"load-profile\"", "\"records\"", "`collect` must be \"poll\" or \"load-profile\""),
            ("first = \"7d\"", "first = \"400d\"", "`first` must be a year"),
            ("first = \"7d\"", "channels = [\"active_power\"]", "`channels` is for a device that is polled"),
            (
                "id = \"polled\"\nunit = 1",
                "id = \"polled\"\nunit = 1\nzone = \"+01:00\"",
                "unknown key `zone`",
            ),
            (
                "id = \"polled\"\nunit = 1",
                "id = \"polled\"\ncollect = \"load-profile\"\nzone = \"+00:00\"\nunit = 1",
                "unit `1` is unique on its bus",
            ),
        ];
        for (from, to, expected) in rows {
            assert!(BUS.contains(from), "{from} is not in the example");
            let told = parse(&BUS.replacen(from, to, 1)).unwrap_err();
            assert!(told.contains(expected), "{to}: {told}");
        }
    }
}
