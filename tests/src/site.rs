//! A whole site on this machine: simulated devices on a TCP endpoint and a paced line, the agent, a broker and
//! the collector as real processes; where a test asks for it with links that misbehave and disks that fail.

mod config;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gapless_common::id::DeviceId;
use gapless_common::profile::ByteOrder;
use gapless_common::time::{Interval, SlotGrid};
use gapless_simulators::modbus::{DeviceKind, LineConfig, PtyLine, TcpConfig, TcpServer, Units};
use tempfile::TempDir;

use crate::api::Api;
use crate::broker::Broker;
use crate::process::{Process, free_port, own_binary};
use crate::proxy::Proxy;
use crate::small_disk::SmallDisk;
use crate::wait;

/// The only site of a test.
pub const SITE: &str = "site";

/// A process of ours ends within five seconds of SIGTERM; so much longer may a busy machine take over it.
pub const STOP_WITHIN: Duration = Duration::from_secs(30);
/// How long a collector may take to answer on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(60);
/// Sizes of the agent's and the collector's small disks, in MiB.
const OUTBOX_DISK_MIB: u32 = 16;
const COLLECTOR_DISK_MIB: u32 = 96;

/// A simulated device as the agent is told of it.
#[derive(Debug, Clone)]
pub struct DeviceSpec {
    /// Its name.
    pub name: String,
    /// Its unit identifier.
    pub unit: u8,
    /// Number of float32 channels; the evaluation time stands behind them.
    pub channels: u16,
    /// How often it is due.
    pub interval: Interval,
    /// Where it hangs.
    pub place: Place,
}

/// Where a device hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// On the paced line.
    Line,
    /// Behind the TCP endpoint with this number.
    Tcp(usize),
}

/// What a site is like.
#[derive(Debug, Clone)]
pub struct SiteSpec {
    /// Its devices.
    pub devices: Vec<DeviceSpec>,
    /// Milliseconds between frames; 0 sends each poll at once.
    pub flush: String,
    /// Bytes of disk for the outbox.
    pub budget: String,
    /// Bytes that the agent may send in a day.
    pub daily_budget: Option<u64>,
    /// Whether the collector runs its own broker instead of Mosquitto.
    pub embedded_broker: bool,
    /// The agent's MQTT keep-alive.
    pub keep_alive: String,
    /// Whether agent and collector reach Mosquitto through a [`Proxy`] each.
    pub proxies: bool,
    /// Whether outbox and database have a [`SmallDisk`] each, where this machine allows mounting.
    pub small_disks: bool,
}

impl Default for SiteSpec {
    /// Two devices of 20 channels behind TCP every second, two of 8 on a line every two seconds.
    fn default() -> Self {
        let device = |name: &str, unit, channels, ms, place| DeviceSpec {
            name: name.to_owned(),
            unit,
            channels,
            interval: Interval::from_ms(ms).expect("within bounds"),
            place,
        };
        let devices = vec![
            device("tcp-1", 1, 20, 1_000, Place::Tcp(0)),
            device("tcp-2", 2, 20, 1_000, Place::Tcp(0)),
            device("line-1", 1, 8, 2_000, Place::Line),
            device("line-2", 2, 8, 2_000, Place::Line),
        ];
        Self {
            devices,
            flush: "0s".to_owned(),
            budget: "16MiB".to_owned(),
            daily_budget: None,
            embedded_broker: false,
            keep_alive: "60s".to_owned(),
            proxies: false,
            small_disks: false,
        }
    }
}

/// The running site.
#[derive(Debug)]
pub struct Site {
    /// What it is like.
    pub spec: SiteSpec,
    /// The TCP endpoints, by number.
    pub tcp: Vec<TcpServer>,
    /// The line.
    pub line: PtyLine,
    /// Mosquitto, unless the collector runs its own broker.
    pub broker: Option<Broker>,
    /// The link between agent and broker.
    pub agent_link: Option<Proxy>,
    /// The link between collector and broker.
    pub collector_link: Option<Proxy>,
    mqtt_port: u16,
    http_port: u16,
    agent: Option<Process>,
    collector: Option<Process>,
    /// Where the outbox is. After the processes, which end first.
    pub outbox_disk: Option<SmallDisk>,
    /// Where the database is.
    pub collector_disk: Option<SmallDisk>,
    /// Everything it writes. Last, so that the logs are there while the processes are dropped.
    pub folder: TempDir,
}

/// Mounting needs root, and a machine that allows it.
#[expect(clippy::print_stderr, reason = "what a test leaves out is said")]
fn small_disk(folder: &TempDir, name: &str, mib: u32) -> Option<SmallDisk> {
    match SmallDisk::mount(folder.path(), name, mib) {
        Ok(disk) => {
            if !disk.can_fail() {
                eprintln!("{name} is no ext4 on a loop device: it will not fail while in use");
            }
            Some(disk)
        }
        Err(why) => {
            eprintln!("no small disk for {name}, nothing will happen to it: {why}");
            None
        }
    }
}

fn kinds(spec: &SiteSpec, place: Place) -> Vec<(u8, DeviceKind)> {
    let of_bus = spec.devices.iter().filter(|d| d.place == place);
    of_bus.map(|d| (d.unit, DeviceKind::Generic { channels: d.channels, order: ByteOrder::ABCD })).collect()
}

impl Site {
    /// Starts devices and broker; agent and collector are started by [`start_agent`](Self::start_agent) and
    /// [`start_collector`](Self::start_collector).
    ///
    /// # Panics
    /// When the simulators or Mosquitto do not start.
    #[must_use]
    pub fn new(spec: SiteSpec) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let endpoints =
            (0..).map(Place::Tcp).take_while(|place| spec.devices.iter().any(|d| d.place == *place));
        let start =
            |place| TcpServer::start(&TcpConfig { units: kinds(&spec, place), ..TcpConfig::default() });
        let tcp: Result<Vec<_>, _> = endpoints.map(start).collect();
        let line = LineConfig { baud: 19_200, units: kinds(&spec, Place::Line), ..LineConfig::default() };
        let broker = (!spec.embedded_broker).then(|| Broker::start(folder.path()));
        let mqtt_port = broker.as_ref().map_or_else(free_port, Broker::port);
        let disk = |name, mib| spec.small_disks.then(|| small_disk(&folder, name, mib)).flatten();
        let site = Self {
            tcp: tcp.expect("the simulated endpoints start"),
            line: PtyLine::start(&line).expect("the simulated line starts"),
            outbox_disk: disk("outbox-disk", OUTBOX_DISK_MIB),
            collector_disk: disk("collector-disk", COLLECTOR_DISK_MIB),
            folder,
            broker,
            agent_link: spec.proxies.then(|| Proxy::start(mqtt_port)),
            collector_link: spec.proxies.then(|| Proxy::start(mqtt_port)),
            mqtt_port,
            http_port: free_port(),
            agent: None,
            collector: None,
            spec,
        };
        site.write_configs();
        site
    }

    /// A file of the site's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the agent, with what a line of the log says of the log level.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_agent(&mut self) {
        let mut command = Command::new(own_binary("gapless-agent"));
        command.arg("run").arg(self.path("agent.toml"));
        self.agent = Some(Process::start("agent", &mut command, &self.path("agent.log")));
    }

    /// From its next start on the agent may send so many bytes in a day.
    ///
    /// # Panics
    /// When the folder cannot be written.
    pub fn set_daily_budget(&mut self, bytes: Option<u64>) {
        self.spec.daily_budget = bytes;
        self.write_configs();
    }

    /// What the agent's status says, to programs and to people.
    ///
    /// # Errors
    /// What it says instead, where no agent answers.
    pub fn agent_status(&self) -> Result<(serde_json::Value, String), String> {
        let ask = |options: &[&str]| {
            let mut command = Command::new(own_binary("gapless-agent"));
            let output = command.arg("status").arg(self.path("agent.toml")).args(options).output();
            let output = output.map_err(|e| e.to_string())?;
            let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
        };
        let document = serde_json::from_str(&ask(&["--json"])?).map_err(|e| e.to_string())?;
        Ok((document, ask(&[])?))
    }

    /// Starts the collector and waits until it answers.
    ///
    /// # Panics
    /// When it does not answer in time.
    pub fn start_collector(&mut self) {
        self.begin_collector();
        wait::until("the collector to answer", START_WITHIN, || self.api_now().map(|_| ()));
    }

    /// Starts the collector and waits for nothing.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn begin_collector(&mut self) {
        let mut command = Command::new(own_binary("gapless-collector"));
        command.arg("run").arg("--config").arg(self.path("collector.toml"));
        self.collector = Some(Process::start("collector", &mut command, &self.path("collector.log")));
    }

    /// A client of the collector, where it answers now.
    ///
    /// # Errors
    /// What happened instead.
    pub fn api_now(&self) -> Result<Api, String> {
        let token = self.collector_folder().join("admin-token");
        let token = std::fs::read_to_string(token).map_err(|e| e.to_string())?;
        let api = Api::new(&self.base_url(), token.trim());
        api.get("/api/v1/sites").map(|_| api)
    }

    /// Where the outbox is.
    #[must_use]
    pub fn outbox_folder(&self) -> PathBuf {
        self.outbox_disk.as_ref().map_or_else(|| self.path("outbox"), |disk| disk.path().join("outbox"))
    }

    /// Where the collector keeps its data.
    #[must_use]
    pub fn collector_folder(&self) -> PathBuf {
        let disk = self.collector_disk.as_ref();
        disk.map_or_else(|| self.path("collector"), |disk| disk.path().join("collector"))
    }

    /// Where the collector serves page and API.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// A client of the running collector.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn api(&self) -> Api {
        self.api_now().expect("the collector runs and answers")
    }

    /// The running agent.
    ///
    /// # Panics
    /// When it is not running.
    pub fn agent(&mut self) -> &mut Process {
        self.agent.as_mut().expect("the agent was started")
    }

    /// The running collector.
    ///
    /// # Panics
    /// When it is not running.
    pub fn collector(&mut self) -> &mut Process {
        self.collector.as_mut().expect("the collector was started")
    }

    /// Those of agent and collector that were started and have ended by themselves, with their last words.
    pub fn died(&mut self) -> Vec<String> {
        let mut dead = Vec::new();
        for process in [&mut self.agent, &mut self.collector].into_iter().flatten() {
            if !process.is_running() {
                dead.push(process.log());
            }
        }
        dead
    }

    /// SIGKILL to the agent.
    pub fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// SIGKILL to the collector.
    pub fn kill_collector(&mut self) {
        if let Some(collector) = self.collector.take() {
            collector.kill();
        }
    }

    /// SIGTERM to the agent; it must end well in time.
    ///
    /// # Panics
    /// When it does not.
    pub fn stop_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            let status = agent.stop(STOP_WITHIN);
            assert!(status.success(), "the agent ended with {status}");
        }
    }

    /// SIGTERM to the collector; it must end well in time.
    ///
    /// # Panics
    /// When it does not.
    pub fn stop_collector(&mut self) {
        if let Some(collector) = self.collector.take() {
            let status = collector.stop(STOP_WITHIN);
            assert!(status.success(), "the collector ended with {status}");
        }
    }

    /// The units behind a device.
    #[must_use]
    pub fn units(&self, device: &DeviceSpec) -> &Units {
        match device.place {
            Place::Line => self.line.units(),
            Place::Tcp(n) => self.tcp[n].units(),
        }
    }
}

impl DeviceSpec {
    /// When it is due.
    #[must_use]
    pub const fn grid(&self) -> SlotGrid {
        SlotGrid::every(self.interval)
    }

    /// Its name, checked.
    ///
    /// # Panics
    /// When a test chose an impossible one.
    #[must_use]
    pub fn id(&self) -> DeviceId {
        DeviceId::new(&self.name).expect("a valid name")
    }
}

/// Reads a file of a test's folder, for a failure's message.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
