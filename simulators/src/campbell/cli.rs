//! `gapless-sim campbell`: what a person on the bench asks for, and what is printed.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::mpsc::Receiver;

use anyhow::{Context as _, bail};
use clap::Args;
use gapless_common::text::parse_duration_ms;
use gapless_common::time::Timestamp;

use super::clock::REAL_TIME_PPM;
use super::command::{self, Command, HELP};
use super::logger::{LoggerConfig, TableConfig};
use super::server::LoggerServer;
use crate::control::{Said, take_commands};

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples:
  gapless-sim campbell --listen 127.0.0.1:8081 --table Met:1m:10000:8 --zone +01:00 --history 2d
  gapless-sim campbell --listen 127.0.0.1:8081 --table Fast:1s:3600 --fault 'truncated count=1' --control stdin
  curl 'http://127.0.0.1:8081/?command=DataQuery&uri=dl:Met&format=json&mode=most-recent&p1=2'

Faults and control commands are the same words; `help` on the control port lists them.";

/// What a person wants served.
#[derive(Debug, Args)]
pub struct CampbellArgs {
    /// Listen here (loopback unless you mean it); port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// A table: its name, the distance of its records, how many it holds, how many fields it has.
    #[arg(long = "table", value_name = "NAME:INTERVAL[:RECORDS[:FIELDS]]", default_value = "Met:10s")]
    tables: Vec<String>,
    /// Zone of the logger's clock.
    #[arg(long, value_name = "±HH:MM", default_value = "+00:00", allow_hyphen_values = true)]
    zone: String,
    /// How much too fast its clock runs, in parts of a million.
    #[arg(long, value_name = "PPM", default_value_t = 0, allow_hyphen_values = true)]
    drift: i64,
    /// For how long it has been recording already.
    #[arg(long, value_name = "SPAN", default_value = "0s")]
    history: String,
    /// Most records of one answer.
    #[arg(long, value_name = "N", default_value_t = 500)]
    records_max: usize,
    /// `since-record` leaves out the record that is named.
    #[arg(long)]
    since_record_exclusive: bool,
    /// Ask for this user and password.
    #[arg(long, value_name = "USER:PASSWORD")]
    login: Option<String>,
    /// A fault from the start, such as `slow ms=300`.
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<String>,
    /// Take commands from `stdin`, or from connections to this loopback address.
    #[arg(long, value_name = "stdin|HOST:PORT")]
    control: Option<String>,
    /// Seed of all values.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Serves until `ended` returns.
///
/// # Errors
/// What went wrong, with what to do about it.
pub fn serve(args: &CampbellArgs, ended: impl FnOnce(Receiver<()>)) -> anyhow::Result<()> {
    let server = LoggerServer::start(config(args)?, args.listen)
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    for fault in &args.faults {
        match command::parse(fault) {
            Ok(Command::Fault(fault)) => server.with(|logger, _| logger.add_fault(fault)),
            _ => bail!("--fault '{fault}' is none; the faults are\n{HELP}"),
        }
    }
    // Bounded: the first `quit` ends the simulator, later ones have nothing to say.
    let (quit, quits) = std::sync::mpsc::sync_channel(1);
    if let Some(control) = &args.control {
        let server = server.clone();
        take_commands(control, move |line| obey_line(&server, line), quit.clone())?;
    }
    writeln!(io::stdout(), "serving a logger at http://{}\nready; Ctrl-C ends it", server.address())?;
    io::stdout().flush()?;
    ended(quits);
    drop(quit);
    server.unplug();
    Ok(())
}

fn config(args: &CampbellArgs) -> anyhow::Result<LoggerConfig> {
    let login = match args.login.as_deref().map(|login| login.split_once(':')) {
        None => None,
        Some(Some((user, password))) => Some((user.to_owned(), password.to_owned())),
        Some(None) => bail!("--login: write a user, `:` and a password"),
    };
    let history = parse_duration_ms(&args.history).context("--history")?;
    Ok(LoggerConfig {
        tables: args.tables.iter().map(|text| table(text)).collect::<anyhow::Result<_>>()?,
        zone_ms: zone_ms(&args.zone)
            .with_context(|| format!("--zone {}: write a fixed offset such as +01:00", args.zone))?,
        wrong_by_ms: 0,
        speed_ppm: REAL_TIME_PPM.saturating_add(args.drift),
        history_ms: i64::try_from(history).unwrap_or(i64::MAX),
        records_max: args.records_max.max(1),
        since_record_inclusive: !args.since_record_exclusive,
        login,
        seed: args.seed,
    })
}

fn table(text: &str) -> anyhow::Result<TableConfig> {
    let wrong = || format!("--table {text}: write NAME:INTERVAL[:RECORDS[:FIELDS]], such as Met:10s:5000:8");
    let parts: Vec<&str> = text.split(':').collect();
    let &[name, interval, ref rest @ ..] = parts.as_slice() else { bail!(wrong()) };
    let number = |place: usize, absent: u64| -> anyhow::Result<u64> {
        rest.get(place).map_or(Ok(absent), |digits| digits.parse().with_context(wrong))
    };
    let interval = parse_duration_ms(interval).with_context(wrong)?;
    if name.is_empty() || interval == 0 || rest.len() > 2 {
        bail!(wrong());
    }
    Ok(TableConfig {
        name: name.to_owned(),
        interval_ms: i64::try_from(interval).with_context(wrong)?,
        capacity: number(0, 10_000)?.max(1),
        fields: usize::try_from(number(1, 6)?.clamp(1, 500)).unwrap_or(1),
    })
}

/// A zone as it is written on the command line.
pub(crate) fn zone_ms(text: &str) -> Option<i64> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let within = |text: &str, max: i64| text.parse::<i64>().ok().filter(|number| (0..=max).contains(number));
    Some(sign * (within(hours, 15)? * 60 + within(minutes, 59)?) * 60_000)
}

fn obey_line(server: &LoggerServer, line: &str) -> Said {
    match command::parse(line) {
        Ok(Command::Quit) => Said::Quit,
        Ok(command) => Said::Text(obey(server, command)),
        Err(error) => Said::Text(format!("error: {error}")),
    }
}

fn obey(server: &LoggerServer, command: Command) -> String {
    match command {
        Command::Fault(fault) => server.with(|logger, _| logger.add_fault(fault)),
        Command::Clear => server.with(|logger, _| logger.clear_faults()),
        Command::Unplug => server.unplug(),
        Command::Replug => {
            return server.replug().map_or_else(|e| format!("error: {e}"), |()| "ok".to_owned());
        }
        Command::Program => server.with(|logger, now| logger.change_program(now)),
        Command::Clock(by_ms) => server.with(|logger, now| logger.step_clock(by_ms, now)),
        Command::Pass(ms) => server.with(|logger, now| logger.pass(ms, now)),
        Command::Speed(times) => {
            server.with(|logger, now| logger.set_speed(i64::from(times).saturating_mul(REAL_TIME_PPM), now));
        }
        Command::Records => return records(server),
        Command::Faults => return server.with(|logger, _| logger.faults_text()),
        Command::Answers => {
            let answers = server.with(|logger, _| logger.answers());
            let last =
                answers.last().map_or_else(String::new, |last| format!(", the last to {}", last.query));
            return format!("{} answers{last}", answers.len());
        }
        Command::Help | Command::Quit => return HELP.to_owned(),
    }
    "ok".to_owned()
}

fn records(server: &LoggerServer) -> String {
    let lines = server.with(|logger, now| {
        let line = |name: String| match &logger.held(&name, now)[..] {
            [] => format!("{name}: nothing"),
            [first, .., last] => {
                format!(
                    "{name}: {} at {} to {} at {}",
                    first.0,
                    Timestamp(first.1),
                    last.0,
                    Timestamp(last.1)
                )
            }
            [only] => format!("{name}: {} at {}", only.0, Timestamp(only.1)),
        };
        logger.table_names().into_iter().map(line).collect::<Vec<_>>()
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_zones_are_understood() {
        let met = |interval_ms, capacity, fields| TableConfig {
            name: "Met".to_owned(),
            interval_ms,
            capacity,
            fields,
        };
        assert_eq!(table("Met:1m").unwrap(), met(60_000, 10_000, 6));
        assert_eq!(table("Met:1s:50:3").unwrap(), met(1_000, 50, 3));
        for bad in ["Met", ":1m", "Met:0s", "Met:1m:x", "Met:1m:1:1:1"] {
            assert!(table(bad).is_err(), "{bad}");
        }
        let rows =
            [("+01:00", Some(3_600_000)), ("-09:30", Some(-34_200_000)), ("01:00", None), ("+1", None)];
        for (text, expected) in rows {
            assert_eq!(zone_ms(text), expected, "{text}");
        }
    }
}
