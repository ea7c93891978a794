//! The command line of `gapless-sim`: what a person on the bench asks for, and what is printed. Serves nothing
//! itself.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use gapless_common::reading::Value;
use gapless_common::time::Timestamp;

use crate::campbell::cli::{self as campbell, CampbellArgs};
use crate::control::{Said, take_commands};
use crate::files::cli::{self as files, FileArgs};
use crate::modbus::bench::{Bench, Endpoint};
use crate::modbus::{Device, DeviceKind, Framing, LineConfig, PtyLine, TcpConfig, TcpServer, profiles};
use crate::remote::cli::{self as remote, RemoteArgs};

/// Simulated devices for the bench, for tests and for demonstrations.
#[derive(Debug, Parser)]
#[command(name = "gapless-sim", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Ask,
}

#[derive(Debug, Subcommand)]
enum Ask {
    /// Serves Modbus devices on a TCP port, on a pty paced like a serial line, or on both, until Ctrl-C.
    #[command(after_help = MODBUS_HELP)]
    Modbus(ModbusArgs),
    /// Serves a Campbell Scientific data logger with its memory, over HTTP, until Ctrl-C.
    #[command(after_help = campbell::EXAMPLES)]
    Campbell(CampbellArgs),
    /// Writes files as a data logger does, until Ctrl-C.
    #[command(after_help = files::EXAMPLES)]
    File(FileArgs),
    /// Serves the remote APIs that the collector's shipped descriptions of sources ask, over HTTP, until Ctrl-C.
    #[command(after_help = remote::EXAMPLES)]
    Remote(RemoteArgs),
    /// Prints what a simulated device measures at an instant: what a stored reading must be, bit for bit.
    Truth(TruthArgs),
    /// Lists the kinds of devices.
    Profiles,
}

const MODBUS_HELP: &str = "\
Examples:
  gapless-sim modbus --tcp 127.0.0.1:5020 --unit 1=eastron-sdm630 --unit 2=generic:40
  gapless-sim modbus --pty /tmp/ttyGAP0 --baud 9600 --parity even --unit 1=eastron-sdm120 --show
  gapless-sim modbus --tcp 127.0.0.1:5020 --unit 3=generic:10 --fault 'silent unit=3 after=60s for=30s'
  gapless-sim modbus --tcp 127.0.0.1:5020 --unit 1=generic:10 --control 127.0.0.1:5021
      and then, elsewhere:  echo 'exception unit=1 code=4 count=3' | nc -N 127.0.0.1 5021

Faults and control commands are the same words; `help` on the control port lists them.
Every device serves its evaluation time (u64, ms) at register 61440 and plain memory at 57344 to 61439.
A pty carries no parity and no baud rate of its own: characters are paced as told here, and that a master keeps
time against it proves nothing of a USB adapter's latency.";

/// What a person wants served.
#[derive(Debug, Args)]
struct ModbusArgs {
    /// Listen here (loopback unless you mean it); port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT")]
    tcp: Option<SocketAddr>,
    /// How frames stand in the TCP stream.
    #[arg(long, value_enum, default_value_t = FramingArg::Mbap)]
    framing: FramingArg,
    /// Make a pty and put a symbolic link to it here.
    #[arg(long, value_name = "PATH")]
    pty: Option<PathBuf>,
    /// Bits per second of the pty.
    #[arg(long, default_value_t = 9_600, value_parser = clap::value_parser!(u32).range(300..=4_000_000))]
    baud: u32,
    /// Parity bit of the pty's characters: only their length matters.
    #[arg(long, value_enum, default_value_t = ParityArg::None)]
    parity: ParityArg,
    /// Stop bits of the pty's characters.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=2))]
    stop_bits: u32,
    /// Milliseconds from a request to its answer; never less than t3.5 on the pty. [default: 5 on the pty, 0 on TCP]
    #[arg(long, value_name = "MS")]
    turnaround: Option<u32>,
    /// A device: unit identifier, `=`, and `generic:N`, `generic:N:cdab`, a profile or a profile file.
    #[arg(long = "unit", value_name = "N=KIND", required = true)]
    units: Vec<String>,
    /// A fault from the start, such as `wrong-crc unit=1 p=0.05`.
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<String>,
    /// Write every answer to this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Take commands from `stdin`, or from connections to this loopback address.
    #[arg(long, value_name = "stdin|HOST:PORT")]
    control: Option<String>,
    /// Seed of all values and of chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the register list of every device.
    #[arg(long)]
    show: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FramingArg {
    /// Modbus TCP.
    Mbap,
    /// RTU frames, as behind a serial server.
    Rtu,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ParityArg {
    None,
    Even,
    Odd,
}

/// Which truth a person wants to know.
#[derive(Debug, Args)]
struct TruthArgs {
    /// Kind of the device, as after `--unit N=`.
    #[arg(long)]
    device: DeviceKind,
    /// Its unit identifier.
    #[arg(long, default_value_t = 1)]
    unit: u8,
    /// Seed that it was started with.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which channel; all without it.
    #[arg(long)]
    channel: Option<String>,
    /// RFC 3339, or milliseconds since 1970.
    #[arg(long)]
    at: String,
}

/// Does what the command line says; `ended` is called once everything is served, and returns when the simulator
/// is to end (it is handed a receiver of `quit` commands).
///
/// # Errors
/// What went wrong, with what to do about it.
pub fn run(ended: impl FnOnce(std::sync::mpsc::Receiver<()>)) -> anyhow::Result<()> {
    match Cli::parse().command {
        Ask::Modbus(args) => serve(&args, ended),
        Ask::Campbell(args) => campbell::serve(&args, ended),
        Ask::File(args) => files::serve(&args, ended),
        Ask::Remote(args) => remote::serve(&args, ended),
        Ask::Truth(args) => truth(&args),
        Ask::Profiles => {
            let list = ["generic:N", "generic:N:cdab"].into_iter().chain(profiles::names());
            list.into_iter().try_for_each(say).map_err(Into::into)
        }
    }
}

fn say(line: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

fn serve(args: &ModbusArgs, ended: impl FnOnce(std::sync::mpsc::Receiver<()>)) -> anyhow::Result<()> {
    let units = args.units.iter().map(|text| parse_unit(text)).collect::<anyhow::Result<Vec<_>>>()?;
    let bench = Bench::new(start(args, &units)?);
    for fault in &args.faults {
        if let Said::Text(error) = bench.obey(fault)
            && error.starts_with("error")
        {
            bail!("--fault '{fault}': {error}");
        }
    }
    if let Some(path) = &args.log {
        for endpoint in bench.endpoints() {
            endpoint
                .units()
                .log()
                .write_to(path)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    // Bounded: the first `quit` ends the simulator, later ones have nothing to say.
    let (quit, quits) = std::sync::mpsc::sync_channel(1);
    if let Some(control) = &args.control {
        let bench = bench.clone();
        take_commands(control, move |line| bench.obey(line), quit.clone())?;
    }
    show(&bench, args)?;
    ended(quits);
    drop(quit);
    // The control threads hold handles too: the links must go now, not with the last of those.
    bench.endpoints().iter().for_each(Endpoint::unplug);
    Ok(())
}

fn parse_unit(text: &str) -> anyhow::Result<(u8, DeviceKind)> {
    let (id, kind) = text.split_once('=').with_context(|| {
        format!("--unit {text}: write a unit identifier, `=` and a kind, such as 1=eastron-sdm630")
    })?;
    let id: u8 = id.parse().ok().filter(|id| (1..=247).contains(id)).with_context(|| {
        format!("--unit {text}: a unit identifier is 1 to 247 (Modbus over Serial Line, section 2.2)")
    })?;
    Ok((id, kind.parse().with_context(|| format!("--unit {text}"))?))
}

fn start(args: &ModbusArgs, units: &[(u8, DeviceKind)]) -> anyhow::Result<Vec<Endpoint>> {
    let mut endpoints = Vec::new();
    for (i, (id, _)) in units.iter().enumerate() {
        if units[..i].iter().any(|(other, _)| other == id) {
            bail!("unit {id} is given twice: each device of a line needs a unit identifier of its own");
        }
    }
    if let Some(address) = args.tcp {
        let framing = match args.framing {
            FramingArg::Mbap => Framing::Mbap,
            FramingArg::Rtu => Framing::RtuOverTcp,
        };
        let turnaround_ms = args.turnaround.unwrap_or(0);
        let config = TcpConfig { address, framing, turnaround_ms, units: units.to_vec(), seed: args.seed };
        endpoints.push(Endpoint::Tcp(TcpServer::start(&config)?));
    }
    if let Some(link) = &args.pty {
        let parity_bits = u32::from(!matches!(args.parity, ParityArg::None));
        let config = LineConfig {
            baud: args.baud,
            bits_per_char: 9 + parity_bits + args.stop_bits,
            turnaround_ms: args.turnaround.unwrap_or(5),
            units: units.to_vec(),
            link: Some(link.clone()),
            seed: args.seed,
        };
        endpoints.push(Endpoint::Pty(PtyLine::start(&config)?));
    }
    match endpoints.len() {
        0 => bail!("nothing to serve on: give --tcp HOST:PORT, --pty PATH, or both"),
        2 if args.log.is_some() => {
            bail!("--log takes the answers of one endpoint: give --tcp or --pty, not both")
        }
        _ => Ok(endpoints),
    }
}

fn show(bench: &Bench, args: &ModbusArgs) -> io::Result<()> {
    for endpoint in bench.endpoints() {
        for unit in &args.units {
            say(format_args!("serving unit {unit} at {}", endpoint.place()))?;
        }
    }
    for endpoint in bench.endpoints().iter().take(usize::from(args.show)) {
        for id in endpoint.units().ids() {
            endpoint.units().device(id).map_or(Ok(()), |device| show_registers(id, device))?;
        }
    }
    say("ready; Ctrl-C ends it")?;
    io::stdout().flush()
}

fn show_registers(unit: u8, device: &Device) -> io::Result<()> {
    say(format_args!(
        "\nunit {unit}\n{:<18} {:>6}  {:<10} {:<6} {:<8} channel",
        "table", "addr", "type", "order", "unit"
    ))?;
    for placed in device.channels() {
        let spec = &placed.spec;
        let (table, kind, order) =
            (spec.table.to_string(), spec.value_type.to_string(), format!("{:?}", spec.order));
        say(format_args!(
            "{table:<18} {:>6}  {kind:<10} {order:<6} {:<8} {}",
            placed.address, spec.unit, spec.id
        ))?;
    }
    Ok(())
}

fn truth(args: &TruthArgs) -> anyhow::Result<()> {
    let at_ms = match args.at.parse::<i64>() {
        Ok(ms) => ms,
        Err(_) => args.at.parse::<Timestamp>().context("--at: or milliseconds since 1970")?.0,
    };
    let device = Device::new(&args.device, args.seed, args.unit)?;
    let asked = |id: &str| args.channel.as_deref().is_none_or(|wanted| wanted == id);
    let mut found = false;
    for placed in device.channels().iter().filter(|placed| asked(placed.spec.id.as_str())) {
        let id = placed.spec.id.as_str();
        match device.truth(id, at_ms) {
            Some(Value::Number(number)) => say(format_args!("{id}\t{number}\t{}", placed.spec.unit))?,
            Some(Value::Text(text)) => say(format_args!("{id}\t{text}\t"))?,
            None => {}
        }
        found = true;
    }
    if found { Ok(()) } else { bail!("this device has no such channel; leave --channel away to see all") }
}
