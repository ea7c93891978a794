//! Files of a logger, a row every ten minutes, written as a test wants them: what a drop is given to read.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use gapless_common::time::Timestamp;

use crate::home::{Home, WITHIN, described};
use crate::wait;

/// The distance of two rows, in ms.
pub const INTERVAL_MS: i64 = 600_000;
/// Rows of a day.
pub const DAY: i64 = 144;

/// A logger that has been writing since this instant.
#[derive(Debug, Clone, Copy)]
pub struct Logger {
    /// The time of its row 0.
    pub begin: Timestamp,
}

impl Logger {
    /// One that has been writing for so many rows by now.
    #[must_use]
    pub fn of_rows(count: i64) -> Self {
        let now = crate::settle::now().0.div_euclid(INTERVAL_MS) * INTERVAL_MS;
        Self { begin: Timestamp(now - (count - 1) * INTERVAL_MS) }
    }

    /// The time of a row.
    #[must_use]
    pub fn at(self, row: i64) -> Timestamp {
        self.begin.plus_ms(row * INTERVAL_MS)
    }

    /// The wind speed in a row.
    #[must_use]
    pub fn speed(row: i64) -> f64 {
        // A quarter has an exact decimal form.
        f64::from(i32::try_from(row % 97).unwrap_or(0)) / 4.0
    }

    /// A file of TOA5 with these rows.
    #[must_use]
    pub fn toa5(self, rows: Range<i64>) -> String {
        let mut text =
            "\"TOA5\",\"Mast\",\"CR1000X\",\"1234\",\"CR1000X.Std.07\",\"CPU:met.CR1X\",\"55\",\"Met\"\r\n\
             \"TIMESTAMP\",\"RECORD\",\"WS_80m_Avg\",\"WD_78m_WVT\",\"BattV_Min\"\r\n\
             \"TS\",\"RN\",\"m/s\",\"deg\",\"V\"\r\n\"\",\"\",\"Avg\",\"WVc\",\"Min\"\r\n"
                .to_owned();
        for row in rows {
            text.push_str(&self.row(row, Self::speed(row)));
        }
        text
    }

    /// One line.
    #[must_use]
    pub fn row(self, row: i64, speed: f64) -> String {
        let at = self.at(row).to_string().replace('T', " ").replace('Z', "");
        let mut text = String::new();
        let _ = write!(text, "\"{at}\",{row},{speed},{},12.5\r\n", row % 360);
        text
    }

    /// The wind speeds of these rows by their times, as a collector has them.
    #[must_use]
    pub fn speeds(self, rows: impl IntoIterator<Item = i64>) -> BTreeMap<i64, (Option<f64>, String)> {
        let good = |row: i64| (self.at(row).0, (Some(Self::speed(row)), "good".to_owned()));
        rows.into_iter().map(good).collect()
    }
}

/// The shipped description of a drop, looked at as often as can be, with more of its words replaced.
#[must_use]
pub fn drop_description(words: &[(&str, &str)]) -> String {
    let mut all = vec![
        ("site = \"mast-7\"", "site = \"home-1\""),
        ("every = \"10m\"", "every = \"1s\""),
        ("every_least = \"2m\"", "every_least = \"1s\"\nevery_most = \"1s\""),
    ];
    all.extend(words);
    described(include_str!("../../collector/sources/logger-drop.toml"), &all)
}

/// Waits until a device of that name has these wind speeds, and no others, and asks for it to be read meanwhile.
///
/// # Panics
/// When it has not in time.
pub fn until_speeds(home: &Home, device: &str, wanted: &BTreeMap<i64, (Option<f64>, String)>) {
    wait::until(&format!("the rows of {device}"), WITHIN, || {
        let _ = home.api.post(&format!("/api/v1/devices/home-1/{device}/refresh"));
        let got = home.readings(&format!("{device}/wind_speed"));
        let all = wanted.keys().chain(got.keys());
        match all.into_iter().find(|at| wanted.get(at) != got.get(at)) {
            None => Ok(()),
            Some(at) => {
                let (at_text, n) = (Timestamp(*at).to_string(), (got.len(), wanted.len()));
                Err(format!("{n:?}; at {at_text}: {:?} instead of {:?}", got.get(at), wanted.get(at)))
            }
        }
    });
}

/// Waits until a job of the collector has ended with these words, and asks for the device to be read meanwhile.
///
/// # Panics
/// When none has in time.
pub fn until_told(home: &Home, device: &str, words: &str) {
    wait::until(&format!("a job of {device} to end with `{words}`"), WITHIN, || {
        let _ = home.api.post(&format!("/api/v1/devices/home-1/{device}/refresh"));
        let history = home.api.get("/api/v1/jobs")?["history"].clone();
        let jobs = history.as_array().into_iter().flatten().filter(|job| job["device"] == device);
        let details: Vec<&str> = jobs.filter_map(|job| job["detail"].as_str()).collect();
        if details.iter().any(|detail| detail.contains(words)) { Ok(()) } else { Err(format!("{details:?}")) }
    });
}

/// Writes a file at once, as a program does that writes beside it first.
///
/// # Panics
/// When it cannot be written.
pub fn put(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let new = folder.join(".new");
    std::fs::write(&new, bytes).expect("the folder is writable");
    std::fs::rename(new, folder.join(name)).expect("it takes its name");
}

/// Says of a file that it was written then.
///
/// # Panics
/// When that cannot be said.
pub fn date(folder: &Path, name: &str, at: Timestamp) {
    let file = std::fs::File::options().write(true).open(folder.join(name)).expect("it is there");
    let since = Duration::from_millis(at.0.unsigned_abs());
    file.set_modified(std::time::UNIX_EPOCH + since).expect("its time can be set");
}

/// Runs a program of the machine with this input; gives its output.
///
/// # Panics
/// When it fails.
#[must_use]
pub fn piped(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let input_file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(input_file.path(), input).expect("it can be written");
    let stdin = std::fs::File::open(input_file.path()).expect("it can be read");
    let output = Command::new(program)
        .args(arguments)
        .stdin(stdin)
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic_with(&format!("{program} does not start: {error}")));
    assert!(output.status.success(), "{program} {arguments:?}: {}", output.status);
    output.stdout
}

#[expect(clippy::panic, reason = "a test helper fails its test")]
fn panic_with(why: &str) -> ! {
    panic!("{why}")
}
