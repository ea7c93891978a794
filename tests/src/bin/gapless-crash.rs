//! `gapless-crash`: every crash point of outbox and collector, with a page that says what was cut and what came of it;
//! and the programs that are recorded for it. What is cut is in `gapless_tests::crash`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use gapless_agent::outbox::StoreKind;
use gapless_tests::crash::collector::{self, CollectorSubject};
use gapless_tests::crash::outbox::{self, OutboxSubject};
use gapless_tests::crash::recorded::{self, Recorded, Subject};
use gapless_tests::crash::{Extent, Tally, damage, journal};

const HELP: &str = "\
gapless-crash all [SEED [PART [IMAGES]]]                    every crash point, or those of one part (its first letters),
                                                            or about so many of them, and one page at the end
gapless-crash record WHAT DIRECTORY MARKS SEED OPERATIONS   the program that is recorded (journal, sled, collector)
";

/// Operations of each workload.
const OPERATIONS: u64 = 1000;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(e) => {
            say_error(&format!("gapless-crash: {e:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["all", ref rest @ ..] if rest.len() < 4 => {
            let number = |n: usize, what: &'static str| -> Result<Option<u64>> {
                rest.get(n).map(|text| text.parse().context(what)).transpose()
            };
            let extent = number(2, "IMAGES is a number")?.map_or(Extent::All, Extent::Sample);
            all(number(0, "SEED is a number")?.unwrap_or(1), rest.get(1).unwrap_or(&""), extent)
        }
        ["record", what, directory, marks, seed, operations] => {
            let (seed, operations) = (seed.parse()?, operations.parse()?);
            record(what, Path::new(directory), Path::new(marks), seed, operations)?;
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            say(HELP);
            Ok(ExitCode::FAILURE)
        }
    }
}

fn record(what: &str, directory: &Path, marks: &Path, seed: u64, operations: u64) -> Result<()> {
    match what {
        "journal" => outbox::run(StoreKind::Journal, directory, marks, seed, operations),
        "sled" => outbox::run(StoreKind::Sled, directory, marks, seed, operations),
        "collector" => collector::run(directory, marks, seed, operations),
        _ => bail!("nothing to record under the name {what}"),
    }
}

fn all(seed: u64, only: &str, extent: Extent) -> Result<ExitCode> {
    // A check that panics is a finding; its place need not be printed each time.
    std::panic::set_hook(Box::new(|_| {}));
    let recorder = std::env::current_exe()?;
    let mut page = format!("Crash points, seed {seed}\n");
    let (mut parts, mut findings) = (0, 0);
    let mut part = |title: &str, cut: &dyn Fn() -> Result<Option<Tally>>| -> Result<()> {
        if !title.starts_with(only) {
            return Ok(());
        }
        parts += 1;
        let began = Instant::now();
        let told = match cut()? {
            Some(tally) => {
                findings += tally.findings.len();
                tally.to_string()
            }
            None => "  skipped: this machine does not let one process watch another (ptrace)\n".to_owned(),
        };
        // At once, too: the whole takes half an hour, and what was found need not wait for it.
        say(&format!("{title}: {:.0?}\n{told}", began.elapsed()));
        page += &format!("\n{title}\n{told}");
        Ok(())
    };
    part("journal, disk in memory", &|| journal::cut(seed, OPERATIONS, extent).map(Some))?;
    part("journal, damaged bytes", &|| damage::hurt(seed, extent).map(Some))?;
    part("journal, recorded", &|| {
        let subject = OutboxSubject::new(StoreKind::Journal);
        recorded_part(&recorder, "journal", &subject, (seed, OPERATIONS, extent))
    })?;
    part("sled, recorded", &|| {
        let subject = OutboxSubject::new(StoreKind::Sled);
        recorded_part(&recorder, "sled", &subject, (seed, OPERATIONS, extent))
    })?;
    part("collector, recorded", &|| {
        let subject = CollectorSubject::new(OPERATIONS);
        recorded_part(&recorder, "collector", &subject, (seed, OPERATIONS, extent))
    })?;
    if parts == 0 {
        bail!("no part begins with \"{only}\": there are journal, sled and collector");
    }
    say(&format!("\n{page}"));
    Ok(if findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn recorded_part<S: Subject>(
    recorder: &Path,
    what: &str,
    subject: &S,
    (seed, operations, extent): (u64, u64, Extent),
) -> Result<Option<Tally>> {
    match recorded::record(recorder, what, seed, operations)? {
        Recorded::Refused(_) => Ok(None),
        Recorded::Yes(recording) => {
            let mut tally = recorded::cut(what, &recording, subject, seed, extent)?;
            tally.operations = operations;
            Ok(Some(tally))
        }
    }
}

#[expect(clippy::print_stdout, reason = "a program for people prints")]
fn say(text: &str) {
    print!("{text}");
}

#[expect(clippy::print_stderr, reason = "a program for people prints")]
fn say_error(text: &str) {
    eprintln!("{text}");
}
