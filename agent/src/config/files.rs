//! Reads a bus that is a folder of files: which of them are a device, and how their lines are read.

use std::path::PathBuf;

use gapless_common::document::{At, Table};
use gapless_common::id::{BusId, DeviceId, DeviceIndex};

use super::bus::{Seen, once};
use super::device::{BusInterval, read_attributes, read_grid};
use super::logger::{read_channels, read_first};
use super::{FileSettings, Folder, LogFiles};
use crate::files::form::{Form, Kind};
use crate::files::glob::is_below;
use crate::files::stamp::Stamp;
use crate::files::text::{ENCODINGS, Encoding};
use crate::records::zone::Zone;

/// How late a row may be beside three intervals, in ms: loggers flush when they like.
const GRACE_MS: i64 = 30_000;
/// Bounds of how often it is looked for news, in ms, unless configured: a share is no local disk.
const LOOK_MS: (i64, i64) = (500, 10_000);

pub(super) const EXAMPLE: &str = "folder = \"/mnt/logger\"";

pub(super) fn read_folder(table: &Table<'_>, id: Option<BusId>, seen: &mut Seen) -> Option<Folder> {
    let path = table.filled_text("folder").map(|found| PathBuf::from(found.value));
    let interval = BusInterval::read(table);
    table.need(
        "device",
        "[{ id = \"mast\", files = \"Met*.dat\", format = \"toa5\", interval = \"10m\", zone = \"+01:00\", channels = \"all\" }]",
    );
    let mut devices = Vec::new();
    for device in table.tables("device") {
        let read = read_files(&device, interval);
        if let (Some(read), Some(at)) = (&read, device.place_of("id")) {
            once(&device, "device", &mut seen.devices, read.id.clone(), at);
        }
        devices.push(read);
    }
    if devices.is_empty() && table.place_of("device").is_some() {
        table.report(table.place(), "a bus has at least one device");
    }
    table.finish();
    Some(Folder { id: id?, path: path?, devices: devices.into_iter().collect::<Option<_>>()? })
}

fn read_files(table: &Table<'_>, interval: BusInterval) -> Option<LogFiles> {
    table.need("id", "\"mast\"");
    table.need("files", "\"Met*.dat\"");
    table.need("format", "\"toa5\"");
    table.need("zone", "\"+01:00\", the offset of the files' times from UTC");
    let id = table.parsed::<DeviceId>("id");
    let pattern = read_pattern(table);
    let grid = read_grid(table, interval);
    let form = read_form(table);
    let first_ms = read_first(table);
    let late_ms = table.duration_ms("late").and_then(|found| i64::try_from(found.value).ok());
    let look_ms = table.duration_within("look", 100..=3_600_000);
    let channels = read_channels(table);
    let mut attributes = read_attributes(table, None);
    // What is missing can be read again from the files: the collector asks for it.
    attributes.insert("history".to_owned(), "device".to_owned());
    let paused = table.flag("paused").unwrap_or(false);
    table.finish();
    let grid = grid?;
    let interval = grid.interval.as_ms();
    let look_default = u64::try_from((interval / 5).clamp(LOOK_MS.0, LOOK_MS.1)).unwrap_or(0);
    let settings = FileSettings {
        device: DeviceIndex(0),
        pattern: pattern?,
        grid,
        form: form?,
        first_ms: first_ms?,
        late_ms: late_ms.unwrap_or(3 * interval + GRACE_MS),
        look_ms: look_ms.map_or(look_default, |found| u64::from(found.value)),
        channels: channels?,
        paused,
    };
    Some(LogFiles { id: id?.value, settings, attributes })
}

fn read_pattern(table: &Table<'_>) -> Option<Box<str>> {
    let found = table.filled_text("files")?;
    let is_good = is_below(found.value);
    if !is_good {
        table.report(
            found.place,
            "`files` are names below the folder, such as \"Met*.dat\" or \"2026/*/Met.dat\"",
        );
    }
    is_good.then(|| found.value.into())
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Format {
    Toa5,
    Csv,
}

fn read_form(table: &Table<'_>) -> Option<Form> {
    let format = table.word("format", &[("toa5", Format::Toa5), ("csv", Format::Csv)]);
    let encoding: Encoding = table.word("encoding", &ENCODINGS).unwrap_or_default();
    let zone = table.parsed::<Zone>("zone").map(|found| found.value);
    let missing = table.texts("missing").into_iter().flatten().map(|found| found.value.into()).collect();
    let separators = [(",", ','), (";", ';'), ("\t", '\t'), ("|", '|'), (" ", ' ')];
    let separator = table.word("separator", &separators);
    let has_decimal_comma = table.word("decimal", &[(".", false), (",", true)]);
    let stamp = table.parsed::<Stamp>("time_format");
    let skip = table.integer("skip", 0..=1_000);
    let names = table.texts("header");
    let time = table.texts("time");
    if format == Some(Format::Toa5) {
        for key in ["separator", "decimal", "time_format", "skip", "header", "time"] {
            if let Some(at) = table.place_of(key) {
                table.report(at, format!("`{key}` is for format = \"csv\": a TOA5 file says it itself"));
            }
        }
    }
    let kind = match format? {
        Format::Toa5 => Kind::Toa5,
        Format::Csv => {
            table.need("time", "\"time\", the column that holds it, or [\"date\", \"time\"]");
            let boxed = |texts: Vec<At<&str>>| texts.into_iter().map(|found| found.value.into()).collect();
            let (names, time): (Option<Vec<Box<str>>>, Vec<Box<str>>) = (names.map(boxed), boxed(time?));
            let absent = time.iter().find(|name| names.as_ref().is_some_and(|names| !names.contains(name)));
            if let (Some(absent), Some(at)) = (absent, table.place_of("time")) {
                table.report(at, format!("`header` names no column `{absent}`"));
            }
            let skip = u32::try_from(skip.map_or(0, |found| found.value)).unwrap_or(0);
            Kind::Csv { skip, names, time }
        }
    };
    let separator = separator.unwrap_or(',');
    let has_decimal_comma = has_decimal_comma.unwrap_or(false);
    if has_decimal_comma && separator == ',' {
        let at = table.place_of("decimal").unwrap_or(table.place());
        table.report(
            at,
            "with decimal = \",\" a comma cannot part the cells: give a `separator`, such as \";\"",
        );
    }
    let stamp = stamp.map_or_else(Stamp::default, |found| found.value);
    Some(Form { kind, encoding, separator, has_decimal_comma, missing, stamp, zone: zone? })
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError};
    use super::*;
    use gapless_common::profile::ProfileSet;

    const TEXT: &str = r#"
site = "s"
agent = "a"
uplink = { broker = "mqtt://localhost" }
outbox = { path = "/tmp/o" }
[[bus]]
id = "share"
folder = "/mnt/logger"
[[bus.device]]
id = "mast"
files = "2026/Met*.dat"
format = "toa5"
interval = "10m"
zone = "+01:00"
channels = "all"
[[bus.device]]
id = "meter"
files = "meter.csv"
format = "csv"
separator = ";"
decimal = ","
encoding = "latin-1"
time = ["Datum", "Zeit"]
time_format = "%d.%m.%Y %H:%M"
missing = ["---"]
interval = "15m"
late = "1d"
zone = "+00:00"
channels = ["Leistung"]
"#;

    fn problems(text: &str) -> String {
        match Config::parse("a.toml", text, &ProfileSet::embedded().unwrap()) {
            Ok(_) => String::new(),
            Err(ConfigError(problems)) => problems.to_string(),
        }
    }

    #[test]
    fn a_folder_is_a_bus_of_its_files() {
        let config = Config::parse("a.toml", TEXT, &ProfileSet::embedded().unwrap()).unwrap();
        let files: Vec<_> = config.files().map(|(_, files)| &files.settings).collect();
        assert_eq!([files[0].device.0, files[1].device.0], [0, 1]);
        assert_eq!((files[0].late_ms, files[0].look_ms), (30 * 60_000 + 30_000, 10_000));
        assert_eq!(files[1].late_ms, 86_400_000);
        let form = &files[1].form;
        assert_eq!((form.separator, form.has_decimal_comma, form.encoding), (';', true, Encoding::Latin1));
        let told = config.catalog().devices[1].clone();
        assert_eq!(
            (told.attributes["history"].as_str(), told.attributes["files"].as_str()),
            ("device", "meter.csv")
        );
        assert_eq!(told.channels[0].id.as_str(), "Leistung");
        let check = crate::check::Report::of(&config).to_string();
        let expected = "bus share: files in /mnt/logger\n  mast: 2026/Met*.dat, all columns (20 assumed below), a row every 10m\n    \
                        TOA5, zone +01:00\n    looked at every 10s; a row may be 1830s late; at each start the last 1d once more\n  \
                        meter: meter.csv, 1 channel, a row every 15m\n    \
                        CSV, time `%d.%m.%Y %H:%M` in column Datum and Zeit, latin-1, zone +00:00\n";
        assert!(check.contains(expected), "{check}");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let rows = [
            ("folder = \"/mnt/logger\"", "folder = \"/x\"\ntcp = { address = \"h\" }", "a bus is one of"),
            ("\"2026/Met*.dat\"", "\"../Met.dat\"", "names below the folder"),
            ("\"2026/Met*.dat\"", "\"/Met.dat\"", "names below the folder"),
            ("format = \"toa5\"", "format = \"toa5\"\nskip = 1", "`skip` is for format = \"csv\""),
            ("format = \"toa5\"\n", "", "`format` is missing"),
            ("separator = \";\"\n", "", "a comma cannot part the cells"),
            ("%d.%m.%Y %H:%M", "%H:%M", "is no form of a time"),
            ("time = [\"Datum\", \"Zeit\"]\n", "", "`time` is missing"),
            ("missing = [\"---\"]", "header = [\"Datum\"]", "`header` names no column `Zeit`"),
            ("id = \"meter\"", "id = \"mast\"", "device `mast` is unique in its site"),
        ];
        for (from, to, expected) in rows {
            assert!(TEXT.contains(from), "{from} is not in the example");
            let told = problems(&TEXT.replacen(from, to, 1));
            assert!(told.contains(expected), "{to}: {told}");
        }
    }
}
