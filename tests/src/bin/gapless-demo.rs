//! `gapless-demo`: a simulated site with the real agent and the real collector, live on this machine. Starts them,
//! says what to look at, lets one meter fall silent and return, and ends everything at Ctrl-C. Simulates nothing
//! itself and stores nothing of its own.

use std::fs;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use gapless_common::profile::Profile;
use gapless_simulators::clock;
use gapless_simulators::modbus::{
    DeviceKind, Fault, FaultKind, LineConfig, PtyLine, StartError, TcpConfig, TcpServer,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

const HELP: &str = "\
gapless-demo [--dir DIR]

A site with two buses (three meters on a simulated 9600-baud line, a met-mast logger and an inverter on TCP), the
agent, a collector with its own broker, and its page. DIR keeps the data (a fresh temporary directory without it).
Ctrl-C ends everything.
";

/// When the heat pump's meter falls silent, and for how long.
const SILENT_AFTER_NS: u64 = 60_000_000_000;
const SILENT_FOR_NS: u64 = 30_000_000_000;
/// How long children get to say goodbye, and to come up.
const PATIENCE: Duration = Duration::from_secs(15);
/// The page's port, if it is free.
const PAGE_PORT: u16 = 8080;

/// The met mast's register list: the simulator serves it, and the agent's configuration holds it.
const MAST_CHANNELS: &str = r#"channel = [
    { id = "wind_speed_80m", address = 0, type = "f32", order = "CDAB", unit = "m/s", quantity = "wind_speed" },
    { id = "wind_speed_60m", address = 2, type = "f32", order = "CDAB", unit = "m/s", quantity = "wind_speed" },
    { id = "wind_direction_78m", address = 4, type = "f32", order = "CDAB", unit = "deg", quantity = "wind_direction" },
    { id = "temperature_10m", address = 6, type = "f32", order = "CDAB", unit = "Cel", quantity = "air_temperature" },
    { id = "pressure", address = 8, type = "f32", order = "CDAB", unit = "hPa", quantity = "air_pressure" },
    { id = "humidity", address = 10, type = "f32", order = "CDAB", unit = "%", quantity = "relative_humidity" },
    { id = "battery", address = 12, type = "f32", order = "CDAB", unit = "V", quantity = "battery_voltage" },
]
"#;

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "gapless-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let Some(asked) = arguments()? else { return say(HELP) };
    // Signals are caught before anything is started, so that nothing is left behind.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _in_runtime = runtime.enter();
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?]
    };
    let (_temporary, dir) = directory(asked)?;
    let devices = Devices::start()?;
    let places = Places::choose(&dir)?;
    write_configuration(&dir, &places, &devices)?;
    let mut collector = start("gapless-collector", &dir, &["--config", "collector.toml", "run"])?;
    wait_for_page(&mut collector, &places)?;
    let mut agent = start("gapless-agent", &dir, &["run", "agent.toml"])?;
    devices.silence_one();
    say(&welcome(&dir, &places, [agent.child.id(), collector.child.id()]))?;
    let ended = runtime.block_on(watch(&mut signals, &mut agent, &mut collector));
    say("\nending …\n")?;
    agent.end();
    collector.end();
    ended
}

fn say(text: &str) -> Result<()> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// `None`: help was asked for. `Some(None)`: no directory was named.
fn arguments() -> Result<Option<Option<PathBuf>>> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    match given.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => Ok(Some(None)),
        ["--dir", dir] => Ok(Some(Some(PathBuf::from(dir)))),
        ["--help" | "-h" | "help"] => Ok(None),
        other => bail!("do not understand {other:?}\n{HELP}"),
    }
}

fn directory(asked: Option<PathBuf>) -> Result<(Option<tempfile::TempDir>, PathBuf)> {
    if let Some(dir) = asked {
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        return Ok((None, dir));
    }
    let temporary = tempfile::Builder::new().prefix("gapless-demo-").tempdir()?;
    let dir = temporary.path().to_owned();
    Ok((Some(temporary), dir))
}

/// The simulated site.
struct Devices {
    line: PtyLine,
    lan: TcpServer,
}

impl Devices {
    fn start() -> Result<Self> {
        let profile = |name: &str| name.parse::<DeviceKind>().context("an embedded profile");
        let meters = vec![
            (1, profile("eastron-sdm630")?),
            (2, profile("eastron-sdm120")?),
            (3, profile("eastron-sdm120")?),
        ];
        let mast = format!(
            "id = \"met-mast\"\nmake = \"Gapless\"\nmodel = \"Simulated mast\"\nkind = \"logger\"\n\
             source = \"made up for the demo\"\n{MAST_CHANNELS}"
        );
        let mast = DeviceKind::Profile(Box::new(Profile::parse("met-mast", &mast)?));
        let lan = vec![(1, mast), (2, profile("sunspec-inverter-103")?)];
        let started: Result<Self, StartError> = (|| {
            let line = PtyLine::start(&LineConfig { units: meters, ..LineConfig::default() })?;
            let lan = TcpServer::start(&TcpConfig { units: lan, ..TcpConfig::default() })?;
            Ok(Self { line, lan })
        })();
        started.context("the simulated devices do not start")
    }

    fn silence_one(&self) {
        let from = clock::mono_ns() + SILENT_AFTER_NS;
        let silent = Fault::new(FaultKind::Silent).within_ns(from, from + SILENT_FOR_NS);
        self.line.faults(2).into_iter().for_each(|faults| faults.add(silent.clone()));
    }
}

/// Where things listen and lie.
struct Places {
    page: SocketAddr,
    broker: SocketAddr,
    token_file: PathBuf,
}

impl Places {
    fn choose(dir: &Path) -> Result<Self> {
        let page = free_port(PAGE_PORT).or_else(|_| free_port(0)).context("no free port for the page")?;
        let broker = free_port(0).context("no free port for the broker")?;
        Ok(Self { page, broker, token_file: dir.join("collector/admin-token") })
    }
}

fn free_port(port: u16) -> io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", port))?.local_addr()
}

fn write_configuration(dir: &Path, places: &Places, devices: &Devices) -> Result<()> {
    let data = |name: &str| dir.join(name).display().to_string();
    let collector = format!(
        "name = \"demo\"\ndata_dir = {:?}\n\n[mqtt]\nembedded = \"{}\"\n\n[http]\nlisten = \"{}\"\n",
        data("collector"),
        places.broker,
        places.page
    );
    fs::write(dir.join("collector.toml"), collector)?;
    let agent = agent_configuration(places, devices, &data("outbox"), &data("agent.sock"));
    Ok(fs::write(dir.join("agent.toml"), agent)?)
}

fn agent_configuration(places: &Places, devices: &Devices, outbox: &str, socket: &str) -> String {
    let (port, lan) = (devices.line.path().display().to_string(), devices.lan.address());
    format!(
        r#"site = "demo-farm"
agent = "gateway-1"
uplink = {{ broker = "mqtt://{broker}" }}
outbox = {{ path = {outbox:?} }}
status = {{ socket = {socket:?} }}
# A simulated site has no clock worth doubting.
clock = {{ trust = "always" }}

[[bus]]
id = "rs485"
serial = {{ port = {port:?}, baud = 9600 }}
device = [
    {{ id = "main-meter", unit = 1, profile = "eastron-sdm630", interval = "5s" }},
    {{ id = "heat-pump", unit = 2, profile = "eastron-sdm120", interval = "5s" }},
    {{ id = "workshop", unit = 3, profile = "eastron-sdm120", interval = "5s" }},
]

[[bus]]
id = "lan"
tcp = {{ address = "{lan}" }}

[[bus.device]]
id = "met-mast"
unit = 1
interval = "1s"
{MAST_CHANNELS}
[[bus.device]]
id = "inverter"
unit = 2
profile = "sunspec-inverter-103"
interval = "5s"
"#,
        broker = places.broker
    )
}

/// A real process, ended by its own id when dropped.
struct Running {
    name: &'static str,
    command: Command,
    child: Child,
    since: Instant,
    log: PathBuf,
}

/// A process that ends sooner than this has something wrong with it; one that ends later was killed to see.
const SETTLED: Duration = Duration::from_secs(3);

fn start(name: &'static str, dir: &Path, args: &[&str]) -> Result<Running> {
    let own = std::env::current_exe()?;
    let binary = own.parent().context("a program lies in a directory")?.join(name);
    if !binary.exists() {
        bail!("{} is not there: build all with `cargo build --release --bins`", binary.display());
    }
    let log = dir.join(format!("{name}.log"));
    let out = fs::File::options().create(true).append(true).open(&log)?;
    let mut command = Command::new(&binary);
    command.args(args).current_dir(dir).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
    Ok(Running { name, command, child, since: Instant::now(), log })
}

impl Running {
    /// An error with the last words of the process where it has ended.
    fn check(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(15).collect();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        bail!("{} ended by itself ({status}). Its last words:\n{last}", self.name)
    }

    /// Starts it again where somebody has killed it.
    fn keep_up(&mut self) -> Result<()> {
        if self.since.elapsed() < SETTLED {
            return self.check();
        }
        if let Some(status) = self.child.try_wait()? {
            self.child = self.command.spawn()?;
            self.since = Instant::now();
            say(&format!(
                "  {} ended ({status}); started again as process {}\n",
                self.name,
                self.child.id()
            ))?;
        }
        Ok(())
    }

    fn end(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        let deadline = Instant::now() + PATIENCE;
        while asked && Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        // Does nothing to one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
    }
}

fn wait_for_page(collector: &mut Running, places: &Places) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(places.page).is_err() || !places.token_file.exists() {
        collector.check()?;
        if Instant::now() > deadline {
            bail!("the collector does not come up; see {}", collector.log.display());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Until a signal comes (fine), or a process ends as soon as it is started (not fine).
async fn watch(
    [interrupt, terminate]: &mut [tokio::signal::unix::Signal; 2],
    agent: &mut Running,
    collector: &mut Running,
) -> Result<()> {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = tick.tick() => {
                agent.keep_up()?;
                collector.keep_up()?;
            }
        }
    }
}

fn welcome(dir: &Path, places: &Places, [agent, collector]: [u32; 2]) -> String {
    let token = fs::read_to_string(&places.token_file).unwrap_or_default();
    format!(
        "
  Gapless demo: site demo-farm, two buses, five devices, one agent, one collector.

  Page            http://{page}/
  Admin token     {token}
                  (kept in {token_file})
  API             curl -H \"Authorization: Bearer $(cat {token_file})\" http://{page}/api/v1/sites
  API, to browse  http://{page}/docs
  Data and logs   {dir}

  What to try
  - Watch: after one minute the meter `heat-pump` falls silent for 30 seconds. Its missing slots become gaps with
    their cause, its neighbours on the line go on, and it returns by itself.
  - Ask the agent:            {bin}/gapless-agent status {dir}/agent.toml
  - See what it polls:        {bin}/gapless-agent check {dir}/agent.toml
  - Kill the agent (kill -9 {agent}) or the collector (kill -9 {collector}): the demo starts them again. See what
    is missing afterwards, and why.

  Ctrl-C ends everything.
",
        page = places.page,
        token = token.trim(),
        token_file = places.token_file.display(),
        dir = dir.display(),
        bin = own_directory(),
    )
}

fn own_directory() -> String {
    let own = std::env::current_exe().ok();
    own.as_deref().and_then(Path::parent).map_or_else(String::new, |dir| dir.display().to_string())
}
