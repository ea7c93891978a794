//! `gapless-sim remote`: what a person on the bench asks for, and what is printed.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::mpsc::Receiver;

use anyhow::{Context as _, bail};
use clap::Args;
use gapless_common::text::parse_duration_ms;
use gapless_common::time::Timestamp;

use super::carbon::Grid;
use super::fleet::Fleet;
use super::meter::Meter;
use super::oauth::Issuer;
use super::thermostat::Cloud;
use super::{Remote, RemoteServer};
use crate::clock;

/// Examples for `--help`.
pub const EXAMPLES: &str = "\
Examples, at the addresses that the shipped descriptions in collector/sources name:
  gapless-sim remote --meters 127.0.0.1:9400
  gapless-sim remote --meters 127.0.0.1:9400 --carbon 127.0.0.1:9402 --history 60d
  gapless-sim remote --thermostats 127.0.0.1:9401 --oauth2 5m";

/// What a person wants served.
#[derive(Debug, Args)]
pub struct RemoteArgs {
    /// Serve half-hourly electricity and gas meters here.
    #[arg(long, value_name = "HOST:PORT")]
    meters: Option<SocketAddr>,
    /// Serve a cloud of thermostats here.
    #[arg(long, value_name = "HOST:PORT")]
    thermostats: Option<SocketAddr>,
    /// Have the thermostats want tokens that live so long, from `POST /token` for the client `gapless` and the key as its secret.
    #[arg(long, value_name = "SPAN")]
    oauth2: Option<String>,
    /// Serve a cloud of thermostats here that lists them and says what changed.
    #[arg(long, value_name = "HOST:PORT")]
    fleet: Option<SocketAddr>,
    /// Serve the carbon intensity of a grid here.
    #[arg(long, value_name = "HOST:PORT")]
    carbon: Option<SocketAddr>,
    /// The key, or token, that is wanted.
    #[arg(long, default_value = "secret")]
    key: String,
    /// For how long there have been values.
    #[arg(long, value_name = "SPAN", default_value = "30d")]
    history: String,
}

/// Serves until `ended` returns.
///
/// # Errors
/// What went wrong, with what to do about it.
pub fn serve(args: &RemoteArgs, ended: impl FnOnce(Receiver<()>)) -> anyhow::Result<()> {
    let history = parse_duration_ms(&args.history).context("--history")?;
    let oldest = Timestamp(clock::now().wall_ms).plus_ms(-i64::try_from(history).unwrap_or(i64::MAX));
    if [args.meters, args.thermostats, args.fleet, args.carbon].iter().all(Option::is_none) {
        bail!("nothing to serve: give --meters, --thermostats, --fleet or --carbon an address");
    }
    let _meters = start("meters", args.meters, Meter::new(&args.key, oldest))?;
    let mut cloud = Cloud::new(&args.key, oldest);
    if let Some(life) = &args.oauth2 {
        let life_ms = i64::try_from(parse_duration_ms(life).context("--oauth2")?).unwrap_or(i64::MAX / 2);
        cloud.issuer = Some(Issuer::new("gapless", &args.key, life_ms));
    }
    let _thermostats = start("thermostats", args.thermostats, cloud)?;
    let fleet = Fleet::new(&args.key, oldest, &[("411", "Hall"), ("412", "Attic"), ("413", "Cellar")]);
    let _fleet = start("a fleet of thermostats", args.fleet, fleet)?;
    let _carbon = start("carbon intensity", args.carbon, Grid { oldest, ..Grid::default() })?;
    writeln!(io::stdout(), "ready; Ctrl-C ends it")?;
    io::stdout().flush()?;
    // Nobody sends `quit` here.
    let (_quit, quits) = std::sync::mpsc::sync_channel(1);
    ended(quits);
    Ok(())
}

fn start<R: Remote>(
    what: &str,
    address: Option<SocketAddr>,
    remote: R,
) -> anyhow::Result<Option<RemoteServer<R>>> {
    let Some(address) = address else { return Ok(None) };
    let server =
        RemoteServer::start_at(address, remote).with_context(|| format!("cannot serve at {address}"))?;
    writeln!(io::stdout(), "serving {what} at {}", server.address())?;
    Ok(Some(server))
}
