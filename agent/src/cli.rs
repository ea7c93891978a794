//! The commands of `gapless-agent`. Says things to people; what it says is made elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use gapless_agent::check::Report;
use gapless_agent::config::{Bus, Config, Device, Folder, LogFiles, LogTable, Logger};
use gapless_agent::open::Written;
use gapless_agent::outbox;
use gapless_agent::run::{outbox_options, run, socket_path};
use gapless_agent::service::{AskError, Question, ask};
use gapless_agent::status::{Status, ValueStatus};
use gapless_agent::{bus, text};
use gapless_common::id::DeviceId;
use gapless_common::profile::{Profile, ProfileSet};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Polls the devices of a site, keeps every reading in a durable outbox and delivers it.
#[derive(Debug, Parser)]
#[command(name = "gapless-agent", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Polls and delivers until it is told to stop (SIGTERM, Ctrl-C).
    Run {
        /// The configuration file.
        config: PathBuf,
    },
    /// Checks a configuration, and explains what will be polled.
    Check {
        /// The configuration file.
        config: PathBuf,
    },
    /// Reads one device now, and shows its values.
    Read {
        /// The configuration file.
        config: PathBuf,
        /// The device's name in it.
        device: String,
    },
    /// Asks the running agent how it is doing.
    Status {
        /// The configuration file.
        config: PathBuf,
        /// As the JSON document it answers with.
        #[arg(long)]
        json: bool,
    },
    /// Shows what the outbox holds; the agent may be running.
    Outbox {
        /// The configuration file.
        config: PathBuf,
    },
    /// Lists the device profiles, or shows one.
    Profiles {
        /// The profile to show.
        id: Option<String>,
    },
}

/// Runs the command that the command line names.
///
/// # Errors
/// Whatever went wrong, with its context, for people.
pub(crate) fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        Command::Run { config } => {
            start_log();
            let config = load(&config)?;
            tracing::info!(site = %config.site, agent = %config.agent, version = env!("CARGO_PKG_VERSION"), "starting");
            // `check` refuses it; a gateway in the field does what it can all the same.
            Report::of(&config).problems.iter().for_each(|problem| tracing::warn!("{problem}"));
            Ok(run(&config)?)
        }
        Command::Check { config } => check(&config),
        Command::Read { config, device } => read(&load(&config)?, &device),
        Command::Status { config, json } => status(&load(&config)?, json),
        Command::Outbox { config } => show_outbox(&load(&config)?),
        Command::Profiles { id } => profiles(id.as_deref()),
    }
}

/// Says what went wrong, with its causes.
pub(crate) fn fail(error: &anyhow::Error) {
    // Nobody is left to tell where even this fails.
    let _ = writeln!(std::io::stderr(), "gapless-agent: {error:#}");
}

/// Writes to standard output; a reader that has gone (`| head`) is no error.
fn say(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn start_log() {
    let level = match std::env::var("GAPLESS_LOG").as_deref() {
        Ok("debug") => LevelFilter::DEBUG,
        Ok("warn") => LevelFilter::WARN,
        Ok("error") => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    };
    // Of the libraries only what goes wrong is wanted.
    let targets = Targets::new().with_target("gapless", level).with_default(level.min(LevelFilter::WARN));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(targets).with(lines).init();
}

fn load(path: &Path) -> Result<Config> {
    Ok(Written::read(path)?.config()?)
}

fn check(path: &Path) -> Result<()> {
    let written = Written::read(path)?;
    let report = Report::of(&written.config()?);
    say(&report.to_string())?;
    // They may come later, as a share that is not mounted yet does: a service must start without them.
    written.notes().iter().try_for_each(|note| say(&format!("{note}\n")))?;
    if !report.is_sound() {
        bail!("{} cannot work as it is", path.display());
    }
    Ok(())
}

fn read(config: &Config, device: &str) -> Result<()> {
    let id: DeviceId = device.parse()?;
    let polled = config.devices().find(|(_, device)| device.id == id);
    let logged = config.tables().find(|(_, table)| table.id == id);
    let written = config.files().find(|(_, files)| files.id == id);
    if polled.is_none() && logged.is_none() && written.is_none() {
        let known: Vec<String> = config.device_ids().map(ToString::to_string).collect();
        bail!("no device `{id}` in this configuration; it has {}", known.join(", "));
    }
    // A running agent owns the port: it is asked, so that two masters never talk on one line.
    match (ask(&socket_path(config), &Question::Poll(id.to_string())), polled, logged) {
        (Ok(document), ..) => read_through_agent(&document, &id),
        (Err(AskError::NotRunning { .. }), Some((bus, device)), _) => read_directly(bus, device),
        (Err(AskError::NotRunning { .. }), None, Some((logger, table))) => read_logger(logger, table),
        (Err(AskError::NotRunning { .. }), None, None) => written.map_or(Ok(()), read_files),
        (Err(e), ..) => Err(e).context("an agent has the port, and it did not answer: stop it, or try again"),
    }
}

fn read_logger(logger: &Logger, table: &LogTable) -> Result<()> {
    let shown = bus::read_table(logger, table)
        .with_context(|| format!("device {} (table {}) of the {logger}", table.id, table.table))?;
    say(&format!("{}\nrecord {} of {}\n", shown.logger, shown.no, shown.time))?;
    say(&text::values(&shown.values))
}

fn read_files((folder, files): (&Folder, &LogFiles)) -> Result<()> {
    let shown = bus::read_files(folder, files)
        .with_context(|| format!("device {} ({}) of the {folder}", files.id, files.settings.pattern))?;
    say(&format!("{}\nrow of {}\n", shown.file.display(), shown.at))?;
    if shown.bad > 0 {
        say(&format!("{} lines of it cannot be read and are skipped\n", shown.bad))?;
    }
    say(&text::values(&shown.values))
}

fn read_directly(bus: &Bus, device: &Device) -> Result<()> {
    let samples = bus::read_once(bus, device)
        .with_context(|| format!("device {} (unit {}) on {}", device.id, device.unit, bus.link))?;
    let values = device.channels.iter().enumerate().filter_map(|(index, channel)| {
        let sample = samples.iter().find(|s| usize::from(s.channel.0) == index)?;
        Some(ValueStatus {
            channel: channel.id.to_string(),
            value: sample.value.as_ref().map(gapless_agent::status::value_text),
            unit: channel.unit.to_string(),
            quality: sample.quality.to_string(),
        })
    });
    say(&text::values(&values.collect::<Vec<_>>()))
}

fn read_through_agent(document: &[u8], device: &DeviceId) -> Result<()> {
    let status: Status = serde_json::from_slice(document).context("the running agent's answer")?;
    let Some(now) = status.devices.iter().find(|d| d.id == device.as_str()) else {
        bail!("the running agent does not poll {device}: it was started with another configuration");
    };
    if let Some(error) = &now.last_error {
        bail!("{device}: {error} (asked through the running agent)");
    }
    say(&format!("read by the running agent, {}\n", now.last_reading.as_deref().unwrap_or("never")))?;
    say(&text::values(&now.values))
}

fn status(config: &Config, json: bool) -> Result<()> {
    let document = ask(&socket_path(config), &Question::Status)?;
    if json {
        return say(&format!("{}\n", String::from_utf8_lossy(&document)));
    }
    let status: Status = serde_json::from_slice(&document).context("the running agent's answer")?;
    say(&text::status(&status))
}

fn show_outbox(config: &Config) -> Result<()> {
    let path = &config.outbox.path;
    if !path.is_dir() {
        bail!("no outbox at {}: has the agent run yet?", path.display());
    }
    let summary = outbox::summary(path, outbox_options(config).store)
        .with_context(|| format!("cannot look into the outbox at {}", path.display()))?;
    say(&text::outbox(path, &summary))
}

fn profiles(id: Option<&str>) -> Result<()> {
    let set = ProfileSet::embedded()?;
    let Some(id) = id else {
        let lines: Vec<String> = set.iter().map(profile_line).collect();
        return say(&lines.concat());
    };
    let Some((_, toml)) = gapless_common::profile::all().iter().find(|(known, _)| *known == id) else {
        bail!("no profile `{id}`: `gapless-agent profiles` lists them");
    };
    say(toml)
}

fn profile_line(profile: &Profile) -> String {
    format!("{:<32} {} {}\n", profile.id, profile.make, profile.model)
}
