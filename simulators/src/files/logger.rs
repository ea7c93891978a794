//! What is done to the files when: everything is a function of what the logger was told and of the instant of the world's clock
//! that comes with each call. Opens no file and reads no clock.

use std::path::PathBuf;

use gapless_common::time::Timestamp;

use crate::campbell::clock::{OwnClock, REAL_TIME_PPM};
use crate::campbell::fields::{Cell, Field, of_program};

/// How the rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Four lines of header, everything but numbers quoted.
    Toa5,
    /// One line of header, nothing where there is no value.
    Csv,
}

/// How characters are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8, without a byte order mark.
    Utf8,
    /// ISO 8859-1.
    Latin1,
}

/// What the logger is like. A count of 0 is never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileConfig {
    /// Where its files are.
    pub folder: PathBuf,
    /// What they are called, before `.dat`.
    pub name: String,
    /// How they are written.
    pub format: Format,
    /// How their characters are.
    pub encoding: Encoding,
    /// Distance of two rows.
    pub interval_ms: i64,
    /// Its clock minus UTC, as its owner believes it to be, in ms.
    pub zone_ms: i64,
    /// How wrong its clock is at the start, in ms.
    pub wrong_by_ms: i64,
    /// How fast its clock runs, in parts of a million: 1,000,000 keeps time.
    pub speed_ppm: i64,
    /// Number of fields.
    pub fields: usize,
    /// Rows that it has written before it starts, in ms.
    pub history_ms: i64,
    /// After so many rows the file is renamed, and another one begun.
    pub rotate: u64,
    /// So many renamed files are kept, the newest; all of them where it is 0.
    pub keep: u64,
    /// After so many rows the file is written anew, with the newest row alone.
    pub replace: u64,
    /// After so many rows another program runs: the file is renamed, and one with another header begun.
    pub program: u64,
    /// One in so many rows is followed by a line that is none.
    pub bad: u64,
    /// Each row is written in two halves, half an interval apart.
    pub is_halved: bool,
    /// Seed of all values.
    pub seed: u64,
}

impl Default for FileConfig {
    fn default() -> Self {
        Self {
            folder: PathBuf::from("."),
            name: "Met".to_owned(),
            format: Format::Toa5,
            encoding: Encoding::Utf8,
            interval_ms: 10_000,
            zone_ms: 0,
            wrong_by_ms: 0,
            speed_ppm: REAL_TIME_PPM,
            fields: 6,
            history_ms: 0,
            rotate: 0,
            keep: 0,
            replace: 0,
            program: 0,
            bad: 0,
            is_halved: false,
            seed: 1,
        }
    }
}

/// What is done to the file, or to another one of its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// These bytes are written behind what is there.
    Append(Vec<u8>),
    /// The same in two parts, with a while between them.
    Halves(Vec<u8>, Vec<u8>),
    /// Another file with these takes its name at once.
    Replace(Vec<u8>),
    /// It has this name from now on.
    Rename(String),
    /// The one of this name is removed.
    Remove(String),
}

/// See the module.
#[derive(Debug)]
pub struct Logger {
    config: FileConfig,
    clock: OwnClock,
    program: u32,
    fields: Vec<Field>,
    /// The instant of the last row by its own clock, as UTC if its zone is right.
    last_ms: i64,
    rows: u64,
    /// Rows of this program.
    records: u64,
    /// Files that were renamed.
    files: u64,
    /// Another program runs since the last row.
    is_changed: bool,
}

impl Logger {
    /// A logger that was switched on at `wall_ms`, or its history earlier; with what it has written by now.
    #[must_use]
    pub fn begin(config: FileConfig, wall_ms: i64) -> (Self, Vec<Deed>) {
        let own_ms = wall_ms.saturating_add(config.wrong_by_ms);
        let clock = OwnClock::new(wall_ms, own_ms, config.speed_ppm);
        let fields = of_program(&config.name, config.fields, 0, config.seed);
        let count = config.history_ms / config.interval_ms;
        let now_ms = slot(own_ms, config.interval_ms);
        let last_ms = now_ms.saturating_sub(count.saturating_mul(config.interval_ms));
        let (rows, records, files, is_changed) = (0, 0, 0, false);
        let mut logger =
            Self { config, clock, program: 0, fields, last_ms, rows, records, files, is_changed };
        let mut text = logger.head();
        for _ in 0..count {
            text.push_str(&logger.next_row());
        }
        let deeds = vec![Deed::Replace(logger.bytes(&text))];
        (logger, deeds)
    }

    /// What is to be done by now, in order.
    pub fn due(&mut self, wall_ms: i64) -> Vec<Deed> {
        let (own_ms, mut deeds) = (self.clock.at(wall_ms), Vec::new());
        while self.last_ms.saturating_add(self.config.interval_ms) <= own_ms {
            self.write(&mut deeds);
        }
        deeds
    }

    fn write(&mut self, deeds: &mut Vec<Deed>) {
        let (rows, config) = (self.rows, &self.config);
        let is_turn = |every: u64, rows: u64| every > 0 && rows > 0 && rows.is_multiple_of(every);
        let (rotates, replaces) = (is_turn(config.rotate, rows), is_turn(config.replace, rows));
        if is_turn(config.program, rows) {
            self.change_program();
        }
        if rotates || self.is_changed {
            self.files += 1;
            deeds.push(Deed::Rename(self.name(self.files)));
            deeds.push(Deed::Replace(self.bytes(&self.head())));
            if self.config.keep > 0 && self.files > self.config.keep {
                deeds.push(Deed::Remove(self.name(self.files - self.config.keep)));
            }
            self.is_changed = false;
        }
        let row = self.next_row();
        deeds.push(if replaces {
            Deed::Replace(self.bytes(&format!("{}{row}", self.head())))
        } else if self.config.is_halved {
            let (first, second) = row.split_at(row.len() / 2);
            Deed::Halves(self.bytes(first), self.bytes(second))
        } else {
            Deed::Append(self.bytes(&row))
        });
        if is_turn(self.config.bad, self.rows) {
            deeds.push(Deed::Append(self.bytes("\"this is no row\"\r\n")));
        }
    }

    /// Another program runs from the next row on: it has a field of its own, and its records are counted from 0.
    pub fn change_program(&mut self) {
        self.program += 1;
        let FileConfig { name, fields, seed, .. } = &self.config;
        self.fields = of_program(name, *fields, self.program, *seed);
        (self.records, self.is_changed) = (0, true);
    }

    /// Its clock is put forward or (where negative) back: what lies between is never recorded, or once more.
    pub fn step_clock(&mut self, by_ms: i64, wall_ms: i64) {
        self.clock = self.clock.stepped(wall_ms, by_ms);
        self.last_ms = slot(self.clock.at(wall_ms), self.config.interval_ms);
    }

    /// What a field of any program holds in the row of an instant of its own clock, as UTC if its zone is right.
    #[must_use]
    pub fn truth(&self, field: &str, own_utc_ms: i64) -> Option<Cell> {
        let FileConfig { name, fields, seed, interval_ms, .. } = &self.config;
        let is_row = own_utc_ms.rem_euclid(*interval_ms) == 0;
        let mut all = (0..=self.program).flat_map(|program| of_program(name, *fields, program, *seed));
        all.find(|known| known.name == field && is_row).map(|known| known.cell(own_utc_ms))
    }

    /// The next row.
    fn next_row(&mut self) -> String {
        self.last_ms = self.last_ms.saturating_add(self.config.interval_ms);
        let text = self.row(self.last_ms);
        self.rows += 1;
        self.records += 1;
        text
    }

    fn name(&self, no: u64) -> String {
        format!("{}_{no}.dat", self.config.name)
    }

    fn bytes(&self, text: &str) -> Vec<u8> {
        match self.config.encoding {
            Encoding::Utf8 => text.as_bytes().to_vec(),
            Encoding::Latin1 => {
                text.chars().map(|character| u8::try_from(u32::from(character)).unwrap_or(b'?')).collect()
            }
        }
    }

    fn head(&self) -> String {
        let quoted =
            |texts: Vec<String>| texts.iter().map(|text| format!("\"{text}\"")).collect::<Vec<_>>().join(",");
        let names = self.fields.iter().map(|field| field.name.clone()).collect();
        if self.config.format == Format::Csv {
            return format!("time,{}\r\n", quoted(names));
        }
        let units = self.fields.iter().map(|field| field.unit.replace("Deg C", "°C")).collect();
        let processes = self.fields.iter().map(|field| field.process.to_owned()).collect();
        format!(
            "\"TOA5\",\"Sölden\",\"CR1000X\",\"1\",\"CR1000X.Std.07\",\"CPU:sim{0}.CR1X\",\"{0}\",\"{1}\"\r\n\
             \"TIMESTAMP\",\"RECORD\",{2}\r\n\"TS\",\"RN\",{3}\r\n\"\",\"\",{4}\r\n",
            self.program + 1,
            self.config.name,
            quoted(names),
            quoted(units),
            quoted(processes)
        )
    }

    fn row(&self, own_utc_ms: i64) -> String {
        let local = Timestamp(own_utc_ms.saturating_add(self.config.zone_ms)).to_string();
        let local = local.trim_end_matches('Z').replace('T', " ");
        let cells: Vec<String> = self.fields.iter().map(|field| self.cell(field.cell(own_utc_ms))).collect();
        let number =
            if self.config.format == Format::Toa5 { format!("{},", self.records) } else { String::new() };
        format!("\"{local}\",{number}{}\r\n", cells.join(","))
    }

    fn cell(&self, cell: Cell) -> String {
        match (self.config.format, cell) {
            (Format::Csv, Cell::Nan) => String::new(),
            (_, cell) => cell.to_string(),
        }
    }
}

/// The last multiple of the interval.
fn slot(own_ms: i64, interval_ms: i64) -> i64 {
    own_ms.div_euclid(interval_ms).saturating_mul(interval_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: i64 = 1_767_225_600_000;

    fn logger(config: FileConfig) -> (Logger, Vec<Deed>) {
        Logger::begin(FileConfig { interval_ms: 1_000, fields: 2, ..config }, BEGIN)
    }

    fn text(deed: &Deed) -> String {
        match deed {
            Deed::Append(bytes) | Deed::Replace(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Deed::Halves(first, second) => {
                format!("{}{}", String::from_utf8_lossy(first), String::from_utf8_lossy(second))
            }
            Deed::Rename(name) => format!("= {name}"),
            Deed::Remove(name) => format!("- {name}"),
        }
    }

    /// The times of the rows that are written by then.
    fn times(deeds: &[Deed]) -> Vec<String> {
        let text: String = deeds.iter().map(text).collect();
        let rows = text.lines().filter(|line| line.starts_with("\"20"));
        rows.map(|line| line[12..20].to_owned()).collect()
    }

    #[test]
    fn a_row_is_written_whenever_its_own_clock_passes_a_multiple_of_the_interval() {
        let (mut one, begun) = logger(FileConfig { history_ms: 2_000, ..FileConfig::default() });
        assert_eq!(times(&begun), ["23:59:59", "00:00:00"]);
        assert_eq!(times(&one.due(BEGIN + 999)), [""; 0]);
        assert_eq!(times(&one.due(BEGIN + 2_500)), ["00:00:01", "00:00:02"], "none is left out");
        // Half as fast again, and a second behind.
        let config = FileConfig { wrong_by_ms: -1_000, speed_ppm: 1_500_000, ..FileConfig::default() };
        let (mut fast, _) = logger(config);
        assert_eq!(times(&fast.due(BEGIN + 2_000)), ["00:00:00", "00:00:01", "00:00:02"]);
        fast.step_clock(10_000, BEGIN + 2_000);
        assert_eq!(times(&fast.due(BEGIN + 3_000)), ["00:00:13"], "what lies between is never recorded");
        fast.step_clock(-2_000, BEGIN + 3_000);
        assert_eq!(times(&fast.due(BEGIN + 4_000)), ["00:00:12", "00:00:13"], "and some once more");
    }

    #[test]
    fn files_are_renamed_and_only_so_many_kept() {
        let (mut logger, _) = logger(FileConfig { rotate: 2, keep: 2, ..FileConfig::default() });
        let deeds = logger.due(BEGIN + 9_000);
        let names: Vec<_> = deeds.iter().map(text).filter(|text| text.starts_with(['=', '-'])).collect();
        assert_eq!(
            names,
            ["= Met_1.dat", "= Met_2.dat", "= Met_3.dat", "- Met_1.dat", "= Met_4.dat", "- Met_2.dat"]
        );
    }

    #[test]
    fn another_program_has_a_file_with_a_header_and_records_of_its_own() {
        let (mut logger, begun) =
            logger(FileConfig { program: 2, encoding: Encoding::Latin1, ..FileConfig::default() });
        let Deed::Replace(head) = &begun[0] else { panic!("{begun:?}") };
        assert!(head.windows(2).any(|two| two == b"\xB0C") && head.contains(&0xF6), "Latin-1");
        let told: Vec<_> = logger.due(BEGIN + 3_000).iter().map(text).collect();
        assert_eq!(told.len(), 5, "{told:?}");
        assert!(
            told[1].contains("\",1,") && told[2] == "= Met_1.dat" && told[4].contains("\",0,"),
            "{told:?}"
        );
        assert!(told[3].contains("sim2") && told[3].contains("Added_1_Avg"), "{told:?}");
        for field in ["PTemp_C_Avg", "Added_1_Avg"] {
            assert!(logger.truth(field, BEGIN).is_some(), "{field}");
        }
        assert!(
            logger.truth("Added_1_Avg", BEGIN + 1).is_none() && logger.truth("Added_2_Avg", BEGIN).is_none()
        );
    }

    #[test]
    fn rows_are_spoilt_and_halved_and_the_file_written_anew_as_told() {
        let config =
            FileConfig { replace: 2, bad: 3, is_halved: true, format: Format::Csv, ..FileConfig::default() };
        let (mut logger, _) = logger(config);
        let deeds = logger.due(BEGIN + 3_000);
        assert!(
            matches!(&deeds[..], [Deed::Halves(..), Deed::Halves(..), Deed::Replace(_), Deed::Append(_)]),
            "{deeds:?}"
        );
        assert!(text(&deeds[2]).starts_with("time,") && text(&deeds[3]).contains("no row"));
    }
}
