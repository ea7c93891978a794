//! `gapless-sim file`: what a person on the bench asks for, and what is printed.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::mpsc::Receiver;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use gapless_common::text::parse_duration_ms;

use super::logger::{Encoding, FileConfig, Format};
use super::writer::FileLogger;
use crate::campbell::cli::zone_ms;
use crate::campbell::clock::REAL_TIME_PPM;

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  gapless-sim file --folder /tmp/logger --interval 1s --history 1h
  gapless-sim file --folder /tmp/logger --format csv --interval 1s --half --rotate 20 --replace 33 --bad 7
  gapless-sim file --folder /tmp/logger --interval 1s --rotate 20 --keep 5 --program 70 --drift 2000 --wrong-by -3s";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatArg {
    Toa5,
    Csv,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum EncodingArg {
    #[value(name = "utf-8")]
    Utf8,
    #[value(name = "latin-1")]
    Latin1,
}

/// What a person wants written.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// Write the files here.
    #[arg(long, value_name = "FOLDER")]
    folder: PathBuf,
    /// Name of the file, before `.dat`.
    #[arg(long, default_value = "Met")]
    name: String,
    /// How rows are written.
    #[arg(long, value_enum, default_value_t = FormatArg::Toa5)]
    format: FormatArg,
    /// How characters are written.
    #[arg(long, value_enum, default_value_t = EncodingArg::Utf8)]
    encoding: EncodingArg,
    /// Distance of two rows.
    #[arg(long, default_value = "10s")]
    interval: String,
    /// Zone of the logger's clock.
    #[arg(long, value_name = "±HH:MM", default_value = "+00:00", allow_hyphen_values = true)]
    zone: String,
    /// How wrong its clock is, ahead or (with a minus) behind.
    #[arg(long, value_name = "SPAN", default_value = "0s", allow_hyphen_values = true)]
    wrong_by: String,
    /// How much faster its clock runs, in parts of a million.
    #[arg(long, value_name = "PPM", default_value_t = 0, allow_hyphen_values = true)]
    drift: i64,
    /// Number of fields.
    #[arg(long, default_value_t = 6)]
    fields: usize,
    /// For how long it has been writing already.
    #[arg(long, value_name = "SPAN", default_value = "0s")]
    history: String,
    /// Rename the file after so many rows, and begin another one.
    #[arg(long, value_name = "ROWS", default_value_t = 0)]
    rotate: u64,
    /// Keep so many renamed files, the newest; all of them with 0.
    #[arg(long, value_name = "FILES", default_value_t = 0)]
    keep: u64,
    /// Change the program after so many rows: another header in a new file.
    #[arg(long, value_name = "ROWS", default_value_t = 0)]
    program: u64,
    /// Write the file anew after so many rows, with the newest row alone.
    #[arg(long, value_name = "ROWS", default_value_t = 0)]
    replace: u64,
    /// Write a line that is none after every so many rows.
    #[arg(long, value_name = "ROWS", default_value_t = 0)]
    bad: u64,
    /// Write each row in two halves, half an interval apart.
    #[arg(long)]
    half: bool,
    /// Seed of all values.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Writes until `ended` returns.
///
/// # Errors
/// What went wrong, with what to do about it.
pub fn serve(args: &FileArgs, ended: impl FnOnce(Receiver<()>)) -> anyhow::Result<()> {
    let span = |text: &str, what: &'static str| -> anyhow::Result<i64> {
        Ok(i64::try_from(parse_duration_ms(text).context(what)?).unwrap_or(i64::MAX))
    };
    let interval_ms = span(&args.interval, "--interval")?;
    if interval_ms == 0 {
        bail!("--interval {}: rows have a distance", args.interval);
    }
    let wrong_by_ms = match args.wrong_by.strip_prefix('-') {
        Some(behind) => -span(behind, "--wrong-by")?,
        None => span(&args.wrong_by, "--wrong-by")?,
    };
    let mut logger = FileLogger::start(FileConfig {
        folder: args.folder.clone(),
        name: args.name.clone(),
        format: match args.format {
            FormatArg::Toa5 => Format::Toa5,
            FormatArg::Csv => Format::Csv,
        },
        encoding: match args.encoding {
            EncodingArg::Utf8 => Encoding::Utf8,
            EncodingArg::Latin1 => Encoding::Latin1,
        },
        interval_ms,
        wrong_by_ms,
        speed_ppm: REAL_TIME_PPM.saturating_add(args.drift),
        zone_ms: zone_ms(&args.zone)
            .with_context(|| format!("--zone {}: write a fixed offset such as +01:00", args.zone))?,
        fields: args.fields.clamp(1, 500),
        history_ms: span(&args.history, "--history")?,
        rotate: args.rotate,
        keep: args.keep,
        program: args.program,
        replace: args.replace,
        bad: args.bad,
        is_halved: args.half,
        seed: args.seed,
    })
    .with_context(|| format!("cannot write to {}", args.folder.display()))?;
    writeln!(io::stdout(), "writing {}.dat in {}\nready; Ctrl-C ends it", args.name, args.folder.display())?;
    io::stdout().flush()?;
    // Nobody sends `quit` here.
    let (_quit, quits) = std::sync::mpsc::sync_channel(1);
    ended(quits);
    logger.stop().context("the files were not written to the end")
}
