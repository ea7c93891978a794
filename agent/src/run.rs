//! The agent's loop: one thread, one closed [`Event`]; it carries what happens to the [`Engine`] and carries out what that
//! wants.
//!
//! Does not poll, decode, decide about delivery or touch a socket. It never blocks when it sends; bus and MQTT threads
//! wait when they send to it.

mod report;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use gapless_common::id::{BootId, DeviceId, DeviceIndex};
use gapless_common::topic::AgentPath;
use gapless_common::wire::encode_catalog;

use crate::bus::{self, BusCommand, BusHandle};
use crate::clock::{Clock, Now, boot_id};
use crate::config::{self, Config};
use crate::depot::{DepotError, Identity, Opener};
use crate::engine::{Effect, Engine, Setup};
use crate::event::BusEvent;
use crate::outbox;
use crate::polls::Polls;
use crate::service::{self, ServiceEvent};
use crate::status::Board;
use crate::uplink::core;
use crate::uplink::mqtt::{Mqtt, MqttEvent};
use report::Reply;

/// Events that wait for the loop; bus and MQTT threads wait where it is full.
pub const EVENTS_MAX: usize = 256;

/// Events taken in before the loop looks at its deadlines again.
pub const EVENTS_AT_ONCE: usize = 64;

/// Longest sleep of the loop, in ms: the watchdog is fed and the wall clock looked at this often.
const TURN_MS: u64 = 5_000;

/// Least distance of two signs of life to systemd, in ms.
const WATCHDOG_MS: u64 = 1_000;

/// Time for all buses to finish the poll in hand after SIGTERM.
const STOP_BUSES: Duration = Duration::from_millis(2_000);

/// Time for what was polled last to be acknowledged, where a collector is there.
const STOP_DELIVERY: Duration = Duration::from_millis(1_000);

/// Time for the goodbye to leave.
const STOP_UPLINK: Duration = Duration::from_millis(1_500);

/// Everything that can happen to an agent.
#[derive(Debug)]
pub enum Event {
    /// A bus thread reports.
    Bus(BusEvent),
    /// The MQTT thread reports.
    Mqtt(MqttEvent),
    /// A signal, or somebody who asks.
    Service(ServiceEvent),
}

impl From<BusEvent> for Event {
    fn from(event: BusEvent) -> Self {
        Self::Bus(event)
    }
}

/// Why an agent cannot start, or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No outbox, not even in memory.
    #[error("the outbox {}", path.display())]
    Outbox {
        /// Its directory.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: DepotError,
    },
    /// A bus has no thread.
    #[error("bus {bus}")]
    Bus {
        /// Which.
        bus: gapless_common::id::BusId,
        /// Why.
        #[source]
        source: bus::SpawnError,
    },
    /// The MQTT thread cannot be started.
    #[error("the MQTT thread")]
    Mqtt(#[source] std::io::Error),
    /// The thread that hears signals cannot be started.
    #[error("the service thread")]
    Service(#[source] std::io::Error),
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// [`RunError`] where it cannot start, or where not even memory takes a record any more.
pub fn run(config: &Config) -> Result<(), RunError> {
    let (sender, events) = sync_channel(EVENTS_MAX);
    let mut agent = Agent::start(config, &sender)?;
    drop(sender);
    agent.notify(&[sd_notify::NotifyState::Ready]);
    while !agent.is_stopping {
        agent.turn(&events)?;
    }
    agent.stop(&events)
}

/// Where the status socket of an agent is.
#[must_use]
pub fn socket_path(config: &Config) -> std::path::PathBuf {
    config.status_socket.clone().unwrap_or_else(|| config.outbox.path.join("agent.sock"))
}

/// A running agent.
struct Agent<'a> {
    config: &'a Config,
    clock: Clock,
    started: Now,
    engine: Engine,
    board: Board,
    mqtt: Mqtt,
    buses: Vec<BusHandle>,
    /// People who wait for a poll out of turn.
    asked: Polls<Reply>,
    is_stopping: bool,
    watchdog_at_ms: u64,
}

impl<'a> Agent<'a> {
    fn start(config: &'a Config, sender: &SyncSender<Event>) -> Result<Self, RunError> {
        let clock = Clock::new(config.clock);
        let started = clock.now();
        let setup = setup(config, boot_id());
        let path = setup.path.clone();
        let engine = Engine::start(setup, opener(config), Arc::new(getrandom::u64), started)
            .map_err(|source| outbox_error(config, source))?;
        let mqtt_events = sender.clone();
        let report = move |event| {
            let _ = mqtt_events.send(Event::Mqtt(event));
        };
        let mqtt = Mqtt::spawn(config.uplink.clone(), path, report).map_err(RunError::Mqtt)?;
        let service_events = sender.clone();
        let report = move |event| service_events.send(Event::Service(event)).is_ok();
        service::spawn(&socket_path(config), report).map_err(RunError::Service)?;
        let mut buses = Vec::new();
        for bus in &config.buses {
            let spawned = bus::spawn(bus.clone(), clock.clone(), started, sender.clone());
            buses.push(spawned.map_err(|source| RunError::Bus { bus: bus.id.clone(), source })?);
        }
        for logger in &config.loggers {
            let spawned = bus::spawn_logger(logger, clock.clone(), started, sender.clone());
            buses.push(spawned.map_err(|source| RunError::Bus { bus: logger.id.clone(), source })?);
        }
        for folder in &config.folders {
            let spawned = bus::spawn_files(folder, clock.clone(), started, sender.clone());
            buses.push(spawned.map_err(|source| RunError::Bus { bus: folder.id.clone(), source })?);
        }
        Ok(Self {
            config,
            clock,
            started,
            engine,
            board: Board::new(config),
            mqtt,
            buses,
            asked: Polls::default(),
            is_stopping: false,
            watchdog_at_ms: 0,
        })
    }

    /// Waits for an event or a deadline, and does what follows.
    fn turn(&mut self, events: &Receiver<Event>) -> Result<(), RunError> {
        let now = self.clock.now();
        let wait_ms = self.deadline_ms(now).saturating_sub(now.boot_ms);
        match events.recv_timeout(Duration::from_millis(wait_ms)) {
            Ok(event) => {
                self.handle(event)?;
                for event in events.try_iter().take(EVENTS_AT_ONCE) {
                    self.handle(event)?;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            // The service thread holds a sender for as long as it lives.
            Err(RecvTimeoutError::Disconnected) => self.is_stopping = true,
        }
        let now = self.clock.now();
        self.tell(|engine| engine.check_deadlines(now))?;
        self.answer_late(now);
        self.feed_watchdog();
        Ok(())
    }

    /// Only progress feeds it: the loop turned, the last commit was good, and every bus thread lives.
    fn feed_watchdog(&mut self) {
        let now_ms = self.clock.now().boot_ms;
        let lives = self.engine.is_healthy() && self.buses.iter().all(|bus| !bus.join.is_finished());
        if lives && self.watchdog_at_ms <= now_ms {
            self.watchdog_at_ms = now_ms.saturating_add(WATCHDOG_MS);
            self.notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }

    fn deadline_ms(&self, now: Now) -> u64 {
        let next = self.engine.next_deadline(now).min(self.asked.deadline_ms().unwrap_or(u64::MAX));
        next.min(now.boot_ms.saturating_add(TURN_MS))
    }

    fn handle(&mut self, event: Event) -> Result<(), RunError> {
        let now = self.clock.now();
        match event {
            Event::Bus(event) => {
                self.board.note(&event);
                let answered = match event {
                    BusEvent::Answered { device, .. } => Some(device),
                    _ => None,
                };
                self.tell(|engine| engine.on_bus(event, now))?;
                answered.into_iter().for_each(|device| self.answer_polled(device, now));
            }
            Event::Mqtt(event) => self.tell(|engine| engine.on_mqtt(event, now))?,
            Event::Service(ServiceEvent::Stop) => self.is_stopping = true,
            Event::Service(ServiceEvent::Ask(question, reply)) => self.on_question(question, reply),
        }
        Ok(())
    }

    /// Tells the engine something, and does what it wants then.
    fn tell(&mut self, what: impl FnOnce(&mut Engine) -> Result<(), DepotError>) -> Result<(), RunError> {
        what(&mut self.engine).map_err(|source| outbox_error(self.config, source))?;
        while let Some(effect) = self.engine.next_effect() {
            self.carry_out(effect).map_err(|source| outbox_error(self.config, source))?;
        }
        Ok(())
    }

    fn carry_out(&mut self, effect: Effect) -> Result<(), DepotError> {
        let taken = match effect {
            Effect::Connect { connection, will } => {
                self.mqtt.connect(connection, will);
                Ok(())
            }
            Effect::Disconnect => {
                self.mqtt.disconnect();
                Ok(())
            }
            Effect::Publish { connection, kind, payload } => self.mqtt.publish(connection, kind, payload),
            Effect::Goodbye { connection, payload } => self.mqtt.goodbye(connection, payload),
            Effect::PollNow { command, device } => {
                return self.ask_for(command, device, BusCommand::PollNow(device));
            }
            Effect::ReadHistory { command, device, range } => {
                return self.ask_for(command, device, BusCommand::ReadHistory { command, device, range });
            }
            Effect::Pause { command, device, paused } => {
                return self.ask_for(command, device, BusCommand::Pause { command, device, paused });
            }
        };
        match taken {
            Ok(()) => Ok(()),
            Err(e) => self.engine.lost_connection(e.to_string(), self.clock.now()),
        }
    }

    /// Has the bus of a device do what a command of the collector wants.
    fn ask_for(&mut self, command: u64, device: DeviceIndex, ask: BusCommand) -> Result<(), DepotError> {
        match self.command(device, ask) {
            Ok(()) => Ok(()),
            Err(why) => self.engine.poll_refused(command, why, self.clock.now()),
        }
    }

    /// Tells the bus of a device something.
    fn command(&self, device: DeviceIndex, command: BusCommand) -> Result<(), &'static str> {
        let polled =
            self.config.buses.iter().map(|bus| bus.devices.iter().any(|known| known.index == device));
        let logged =
            self.config.loggers.iter().map(|logger| logger.tables.iter().any(|known| known.index == device));
        let written = self
            .config
            .folders
            .iter()
            .map(|folder| folder.devices.iter().any(|known| known.settings.device == device));
        // The handles are in the order of the configuration, loggers and then folders last.
        let found = polled
            .chain(logged)
            .chain(written)
            .zip(&self.buses)
            .find_map(|(has, handle)| has.then_some(handle));
        match found.ok_or("this agent has no such device")?.commands.try_send(command) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err("the bus has too many commands waiting"),
            Err(TrySendError::Disconnected(_)) => Err("the bus has stopped"),
        }
    }

    fn poll_device(&self, device: &DeviceId) -> Result<DeviceIndex, &'static str> {
        let place = self.config.device_ids().position(|known| known == device);
        let index = place.and_then(|place| u16::try_from(place).ok()).map(DeviceIndex);
        let index = index.ok_or("this agent has no such device")?;
        self.command(index, BusCommand::PollNow(index)).map(|()| index)
    }

    /// SIGTERM: the polls in hand end, all is synced, the goodbye leaves; 5 s at most.
    fn stop(&mut self, events: &Receiver<Event>) -> Result<(), RunError> {
        self.notify(&[sd_notify::NotifyState::Stopping]);
        tracing::info!("stopping");
        for bus in &self.buses {
            // A bus whose queue is full is told by the end of its receiver.
            let _ = bus.commands.try_send(BusCommand::Stop);
        }
        let all_ended = |agent: &Self| agent.buses.iter().all(|bus| bus.join.is_finished());
        self.drain(events, STOP_BUSES, all_ended)?;
        let now = self.clock.now();
        self.tell(|engine| engine.finish_polls(now))?;
        self.drain(events, STOP_DELIVERY, |agent| {
            let uplink = agent.engine.uplink();
            uplink.link != core::LinkState::Delivering || uplink.unacknowledged == 0
        })?;
        self.close(all_ended(self))?;
        let now = self.clock.now();
        self.tell(|engine| engine.say_goodbye(now))?;
        self.drain(events, STOP_UPLINK, |agent| !agent.engine.has_connection())?;
        let _ = self.mqtt.quit();
        let _ = std::fs::remove_file(socket_path(self.config));
        tracing::info!("stopped");
        Ok(())
    }

    fn close(&mut self, all_ended: bool) -> Result<(), RunError> {
        if !all_ended {
            let still = self.buses.iter().filter(|bus| !bus.join.is_finished()).count();
            tracing::error!("{still} of {} buses did not stop in time", self.buses.len());
        }
        let now = self.clock.now();
        self.tell(|engine| engine.close(all_ended, now))
    }

    fn drain(
        &mut self,
        events: &Receiver<Event>,
        within: Duration,
        is_done: impl Fn(&Self) -> bool,
    ) -> Result<(), RunError> {
        let deadline = Instant::now() + within;
        while !is_done(self) && Instant::now() < deadline {
            if let Ok(event) = events.recv_timeout(Duration::from_millis(20)) {
                self.handle(event)?;
            }
        }
        for event in events.try_iter() {
            self.handle(event)?;
        }
        Ok(())
    }

    fn notify(&self, states: &[sd_notify::NotifyState<'_>]) {
        // Not under systemd: nobody to tell.
        let _ = sd_notify::notify(states);
    }
}

fn outbox_error(config: &Config, source: DepotError) -> RunError {
    RunError::Outbox { path: config.outbox.path.clone(), source }
}

/// What the engine is told of the configuration.
#[must_use]
pub fn setup(config: &Config, boot: BootId) -> Setup {
    let (catalog, catalog_bytes) = encode_catalog(&config.catalog());
    Setup {
        path: AgentPath { site: config.site.clone(), agent: config.agent.clone() },
        identity: Identity { boot, catalog, catalog_bytes },
        uplink: core::Settings {
            window: config.uplink.window,
            flush_ms: u32::try_from(config.uplink.flush_ms).unwrap_or(u32::MAX),
            daily_budget: config.uplink.daily_budget_bytes,
            newest_first: config.uplink.backlog == config::Backlog::NewestFirst,
            ..core::Settings::default()
        },
        durability_ms: config.outbox.durability_ms,
        devices: config.device_ids().cloned().collect(),
    }
}

fn opener(config: &Config) -> Opener {
    let options = outbox_options(config);
    let directory = config.outbox.path.clone();
    Box::new(move |opening| outbox::open(&directory, &options, opening))
}

/// How the configuration wants the outbox kept.
#[must_use]
pub fn outbox_options(config: &Config) -> outbox::Options {
    outbox::Options {
        budget_bytes: config.outbox.budget_bytes,
        policy: match config.outbox.policy {
            config::DropPolicy::DropOldest => outbox::DropPolicy::OldestFirst,
            config::DropPolicy::DropNewest => outbox::DropPolicy::NewestFirst,
        },
        store: match config.outbox.store {
            config::Store::Journal => outbox::StoreKind::Journal,
            #[cfg(feature = "sled")]
            config::Store::Sled => outbox::StoreKind::Sled,
            #[cfg(not(feature = "sled"))]
            config::Store::Sled => outbox::StoreKind::Journal,
        },
    }
}
