//! What is written when, and the thread that writes it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gapless_common::time::Timestamp;

use crate::campbell::fields::{Cell, Field, of_program};
use crate::clock;

/// How the rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Four lines of header, everything but numbers quoted.
    Toa5,
    /// One line of header, nothing where there is no value.
    Csv,
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
    /// Distance of two rows.
    pub interval_ms: i64,
    /// Its clock minus UTC, in ms.
    pub zone_ms: i64,
    /// Number of fields.
    pub fields: usize,
    /// Rows that it has written before it starts, in ms.
    pub history_ms: i64,
    /// After so many rows the file is renamed, and another one begun.
    pub rotate: u64,
    /// After so many rows the file is written anew, with the newest row alone.
    pub replace: u64,
    /// One in so many rows is followed by a line that is none.
    pub bad: u64,
    /// Each row is written in two halves, half an interval apart.
    pub is_halved: bool,
    /// Seed of all values.
    pub seed: u64,
}

/// A logger that writes. It ends when it is dropped.
#[derive(Debug)]
pub struct FileLogger {
    config: FileConfig,
    fields: Vec<Field>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl FileLogger {
    /// Writes what it has from before, and goes on.
    ///
    /// # Errors
    /// Where the folder cannot be written to.
    pub fn start(config: FileConfig) -> io::Result<Self> {
        let fields = of_program(&config.name, config.fields, 0, config.seed);
        let stop = Arc::new(AtomicBool::new(false));
        let mut writer = Writer { config: config.clone(), fields: fields.clone(), rows: 0, files: 0 };
        let mut next = writer.begin(clock::now().wall_ms)?;
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if clock::now().wall_ms >= next {
                    writer.write(next)?;
                    next += writer.config.interval_ms;
                } else {
                    thread::sleep(Duration::from_millis(5));
                }
            }
            Ok(())
        });
        Ok(Self { config, fields, stop, thread: Some(thread) })
    }

    /// What a field holds in the row of an instant, in UTC.
    #[must_use]
    pub fn truth(&self, field: &str, utc_ms: i64) -> Option<Cell> {
        let is_row = utc_ms.rem_euclid(self.config.interval_ms) == 0;
        self.fields.iter().find(|known| known.name == field && is_row).map(|known| known.cell(utc_ms))
    }

    /// Ends it.
    ///
    /// # Errors
    /// What went wrong while it wrote.
    pub fn stop(&mut self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), |thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the writing thread panicked")))
        })
    }
}

impl Drop for FileLogger {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

struct Writer {
    config: FileConfig,
    fields: Vec<Field>,
    rows: u64,
    files: u64,
}

impl Writer {
    fn path(&self) -> PathBuf {
        self.config.folder.join(format!("{}.dat", self.config.name))
    }

    /// Writes what there was before `now`; gives the instant of the next row.
    fn begin(&mut self, now_ms: i64) -> io::Result<i64> {
        fs::create_dir_all(&self.config.folder)?;
        let interval = self.config.interval_ms;
        let next = now_ms.div_euclid(interval).saturating_add(1).saturating_mul(interval);
        let mut text = self.head();
        let count = self.config.history_ms / interval;
        for n in (1..=count).rev() {
            text.push_str(&self.row(next - n * interval));
            self.rows += 1;
        }
        fs::write(self.path(), text)?;
        Ok(next)
    }

    fn write(&mut self, utc_ms: i64) -> io::Result<()> {
        let row = self.row(utc_ms);
        let is_turn = |every: u64, rows: u64| every > 0 && rows > 0 && rows.is_multiple_of(every);
        if is_turn(self.config.rotate, self.rows) {
            self.files += 1;
            let name = format!("{}_{}.dat", self.config.name, self.files);
            fs::rename(self.path(), self.config.folder.join(name))?;
            fs::write(self.path(), self.head())?;
        }
        let (first, second) = row.split_at(row.len() / 2);
        if is_turn(self.config.replace, self.rows) {
            replace(&self.path(), &format!("{}{row}", self.head()))?;
        } else if self.config.is_halved {
            append(&self.path(), first)?;
            thread::sleep(Duration::from_millis(self.config.interval_ms.unsigned_abs() / 2));
            append(&self.path(), second)?;
        } else {
            append(&self.path(), &row)?;
        }
        self.rows += 1;
        if is_turn(self.config.bad, self.rows) {
            append(&self.path(), "\"this is no row\"\r\n")?;
        }
        Ok(())
    }

    fn head(&self) -> String {
        let quoted =
            |texts: Vec<&str>| texts.iter().map(|text| format!("\"{text}\"")).collect::<Vec<_>>().join(",");
        let names: Vec<&str> = self.fields.iter().map(|field| field.name.as_str()).collect();
        if self.config.format == Format::Csv {
            return format!("time,{}\r\n", quoted(names));
        }
        let units = self.fields.iter().map(|field| field.unit.as_str()).collect();
        let processes = self.fields.iter().map(|field| field.process).collect();
        format!(
            "\"TOA5\",\"Simulated\",\"CR1000X\",\"1\",\"CR1000X.Std.07\",\"CPU:sim.CR1X\",\"1\",\"{}\"\r\n\
             \"TIMESTAMP\",\"RECORD\",{}\r\n\"TS\",\"RN\",{}\r\n\"\",\"\",{}\r\n",
            self.config.name,
            quoted(names),
            quoted(units),
            quoted(processes)
        )
    }

    fn row(&self, utc_ms: i64) -> String {
        let local = Timestamp(utc_ms.saturating_add(self.config.zone_ms)).to_string();
        let local = local.trim_end_matches('Z').replace('T', " ");
        let cells: Vec<String> = self.fields.iter().map(|field| self.cell(field.cell(utc_ms))).collect();
        let number =
            if self.config.format == Format::Toa5 { format!("{},", self.rows) } else { String::new() };
        format!("\"{local}\",{number}{}\r\n", cells.join(","))
    }

    fn cell(&self, cell: Cell) -> String {
        match (self.config.format, cell) {
            (Format::Csv, Cell::Nan) => String::new(),
            (_, cell) => cell.to_string(),
        }
    }
}

fn append(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).open(path)?.write_all(text.as_bytes())
}

/// As programs do that never leave half a file: another one takes its name.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    File::create(&new)?.write_all(text.as_bytes())?;
    fs::rename(new, path)
}
