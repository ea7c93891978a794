//! The agent's loop: one thread, one closed [`Event`], one place that owns outbox, uplink core and accounts.
//!
//! Does not poll, decode, decide about delivery or touch a socket: it carries events to the cores and their
//! actions to the shells. It never blocks when it sends; bus and MQTT threads wait when they send to it.

mod outbound;
mod report;

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use gapless_common::id::{BootId, ConnectionId, DeviceId, DeviceIndex, Seq};
use gapless_common::message::Outcome;
use gapless_common::reading::{Acquired, Readings, Record};
use gapless_common::topic::AgentPath;
use gapless_common::wire::encode_catalog;

use crate::account::{Account, correction};
use crate::bus::{self, BusCommand, BusHandle};
use crate::clock::{Clock, Now, boot_id};
use crate::config::{self, Config};
use crate::depot::{Depot, DepotError, Identity, Opener};
use crate::event::BusEvent;
use crate::frames::Packer;
use crate::outbox;
use crate::service::{self, ServiceEvent};
use crate::status::Board;
use crate::text::chain;
use crate::uplink::core::{self, Core};
use crate::uplink::mqtt::{Mqtt, MqttEvent};
use report::Asked;

/// Events that wait for the loop; bus and MQTT threads wait where it is full.
const EVENTS_MAX: usize = 256;

/// Events taken in before the loop looks at its deadlines again.
const EVENTS_AT_ONCE: usize = 64;

/// Least distance of two completeness records, in ms.
const COMPLETE_MS: u64 = 10_000;

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
    /// The operating system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
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
    path: AgentPath,
    clock: Clock,
    boot: BootId,
    started: Now,
    depot: Depot,
    account: Account,
    board: Board,
    core: Core,
    packer: Packer,
    mqtt: Mqtt,
    connection: Option<ConnectionId>,
    buses: Vec<BusHandle>,
    asked: Vec<Asked>,
    counters: Counters,
    /// When the batch is to be durable.
    commit_at_ms: Option<u64>,
    complete_at_ms: u64,
    /// The wall clock was seen to be set.
    is_dated: bool,
    is_stopping: bool,
    /// The last commit was good: what the watchdog asks.
    is_healthy: bool,
    watchdog_at_ms: u64,
}

/// What the status tells of the uplink.
#[derive(Debug, Default)]
struct Counters {
    frames: u64,
    bytes: u64,
    garbage: u64,
    last_error: Option<String>,
}

impl<'a> Agent<'a> {
    fn start(config: &'a Config, sender: &SyncSender<Event>) -> Result<Self, RunError> {
        let clock = Clock::new(config.clock);
        let (started, boot) = (clock.now(), boot_id());
        let path = AgentPath { site: config.site.clone(), agent: config.agent.clone() };
        let failed = |source| RunError::Outbox { path: config.outbox.path.clone(), source };
        let depot = Depot::open(identity(config, boot), opener(config), started).map_err(failed)?;
        let mqtt_events = sender.clone();
        let report = move |event| {
            let _ = mqtt_events.send(Event::Mqtt(event));
        };
        let mqtt = Mqtt::spawn(config.uplink.clone(), path.clone(), report).map_err(RunError::Mqtt)?;
        let service_events = sender.clone();
        let report = move |event| service_events.send(Event::Service(event)).is_ok();
        service::spawn(&socket_path(config), report).map_err(RunError::Service)?;
        let mut agent = Self {
            config,
            clock: clock.clone(),
            boot,
            started,
            account: Account::default(),
            board: Board::new(config),
            core: Core::new(settings(config)?),
            packer: Packer::new(path.tag()),
            path,
            depot,
            mqtt,
            connection: None,
            buses: Vec::new(),
            asked: Vec::new(),
            counters: Counters::default(),
            commit_at_ms: Some(started.boot_ms),
            complete_at_ms: 0,
            is_dated: false,
            watchdog_at_ms: 0,
            is_stopping: false,
            is_healthy: true,
        };
        agent.recall();
        agent.commit(started)?;
        for bus in &config.buses {
            let spawned = bus::spawn(bus.clone(), clock.clone(), started, sender.clone());
            agent.buses.push(spawned.map_err(|source| RunError::Bus { bus: bus.id.clone(), source })?);
        }
        Ok(agent)
    }

    /// Tells the core what the outbox holds and what of it is acknowledged.
    fn recall(&mut self) {
        let (now_ms, held, owed) = (self.clock.now().boot_ms, self.depot.readable(), self.depot.owed());
        self.core.handle(core::Event::Held(held.clone()), now_ms);
        for epoch in held {
            let mut next = epoch.first;
            for range in owed.iter().filter(|range| range.epoch == epoch.epoch) {
                self.recall_between(epoch.epoch, next, range.first, now_ms);
                next = range.last.next();
            }
            self.recall_between(epoch.epoch, next, epoch.next, now_ms);
        }
    }

    fn recall_between(&mut self, epoch: gapless_common::id::Epoch, from: Seq, to: Seq, now_ms: u64) {
        if from < to {
            self.core.handle(core::Event::Acknowledged(epoch, from, Seq(to.0 - 1)), now_ms);
        }
    }

    /// Waits for an event or a deadline, and does what follows.
    fn turn(&mut self, events: &Receiver<Event>) -> Result<(), RunError> {
        let now_ms = self.clock.now().boot_ms;
        let wait_ms = self.deadline_ms(now_ms).saturating_sub(now_ms);
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
        self.check_deadlines()?;
        self.act()?;
        self.feed_watchdog();
        Ok(())
    }

    /// Only progress feeds it: the loop turned, the last commit was good, and every bus thread lives.
    fn feed_watchdog(&mut self) {
        let now_ms = self.clock.now().boot_ms;
        let lives = self.is_healthy && self.buses.iter().all(|bus| !bus.join.is_finished());
        if lives && self.watchdog_at_ms <= now_ms {
            self.watchdog_at_ms = now_ms.saturating_add(WATCHDOG_MS);
            self.notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }

    fn deadline_ms(&self, now_ms: u64) -> u64 {
        let complete = self.complete_at_ms.max(now_ms + 1);
        let deadlines = [
            self.commit_at_ms,
            self.core.next_deadline(),
            self.depot.retry_at_ms(),
            self.answer_at_ms(),
            Some(complete),
        ];
        let next = deadlines.into_iter().flatten().min().unwrap_or(u64::MAX);
        next.min(now_ms.saturating_add(TURN_MS))
    }

    fn check_deadlines(&mut self) -> Result<(), RunError> {
        let now = self.clock.now();
        self.check_wall_clock(now)?;
        if self.complete_at_ms <= now.boot_ms {
            self.declare(now);
        }
        if self.depot.retry_at_ms().is_some_and(|at| at <= now.boot_ms) {
            self.retry_disk(now)?;
        }
        if self.commit_at_ms.is_some_and(|at| at <= now.boot_ms) {
            self.commit(now)?;
        }
        self.answer_late(now);
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), RunError> {
        match event {
            Event::Bus(event) => self.on_bus(event),
            Event::Mqtt(event) => self.on_mqtt(event),
            Event::Service(ServiceEvent::Stop) => self.is_stopping = true,
            Event::Service(ServiceEvent::Ask(question, reply)) => self.on_question(question, reply),
        }
        self.act()
    }

    fn on_bus(&mut self, event: BusEvent) {
        self.board.note(&event);
        let now = self.clock.now();
        match event {
            BusEvent::Answered { device, acquired, at, samples } => {
                if matches!(acquired, Acquired::SinceBoot(_)) {
                    self.depot.mark_unset();
                }
                let readings = Readings { device, acquired, at, samples };
                self.gather(&Record::Readings(readings), at, now);
                self.answer_polled(now);
            }
            BusEvent::Missed(run) => self.gather(&Record::Misses(run), now.wall, now),
            BusEvent::Through { device, slot } => self.account.through(device, slot),
            BusEvent::Bus { .. } | BusEvent::Device { .. } | BusEvent::Metrics { .. } => {}
        }
    }

    fn gather(&mut self, record: &Record, at: gapless_common::time::Timestamp, now: Now) {
        self.depot.gather(record, at);
        let window_ms = u64::from(self.config.outbox.durability_ms);
        self.commit_at_ms.get_or_insert(now.boot_ms.saturating_add(window_ms));
    }

    fn commit(&mut self, now: Now) -> Result<(), RunError> {
        self.commit_at_ms = None;
        let committed = self.depot.commit(now);
        self.is_healthy = committed.is_ok();
        let committed =
            committed.map_err(|source| RunError::Outbox { path: self.config.outbox.path.clone(), source })?;
        if committed.held_changed {
            self.core.handle(core::Event::Held(self.depot.readable()), now.boot_ms);
            self.core.handle(core::Event::StateChanged, now.boot_ms);
        }
        let (epoch, next) = self.depot.position();
        let appended = core::Event::Appended { epoch, next, weight: committed.weight };
        self.core.handle(appended, now.boot_ms);
        Ok(())
    }

    /// Writes down how far every device is accounted for.
    fn declare(&mut self, now: Now) {
        let distance_ms = COMPLETE_MS.max(self.config.uplink.flush_ms);
        self.complete_at_ms = now.boot_ms.saturating_add(distance_ms);
        if let Some(complete) = self.account.declare() {
            self.gather(&Record::Complete(complete), now.wall, now);
        }
    }

    /// Once the wall clock is set: dates the downtime, and corrects what was read by the boot clock.
    fn check_wall_clock(&mut self, now: Now) -> Result<(), RunError> {
        if !now.wall_set || (self.is_dated && !self.depot.has_unset_epochs()) {
            return Ok(());
        }
        self.is_dated = true;
        // The readings to correct have their seqs then.
        self.commit(now)?;
        if let Some(downtime) = self.depot.take_downtime(now) {
            self.gather(&Record::Downtime(downtime), now.wall, now);
        }
        for epoch in self.depot.take_unset_epochs() {
            if let Some(made) = correction(self.boot, epoch, now.wall, now.boot_ms) {
                self.gather(&Record::ClockCorrection(made), now.wall, now);
            }
        }
        self.core.handle(core::Event::StateChanged, now.boot_ms);
        Ok(())
    }

    fn retry_disk(&mut self, now: Now) -> Result<(), RunError> {
        let back = self.depot.retry(now);
        let back =
            back.map_err(|source| RunError::Outbox { path: self.config.outbox.path.clone(), source })?;
        if back {
            // Another handle holds the same epochs now. What it does not know to be acknowledged is sent, and
            // acknowledged, again.
            self.core.handle(core::Event::Held(Vec::new()), now.boot_ms);
        }
        self.recall();
        if back {
            self.core.handle(core::Event::StateChanged, now.boot_ms);
            // What was taken along may have to be corrected under its new epoch.
            self.check_wall_clock(now)?;
        }
        Ok(())
    }

    /// Asks a bus for a poll out of turn.
    fn poll_now(&mut self, device: &DeviceId) -> Result<DeviceIndex, &'static str> {
        let found = self.config.buses.iter().zip(&self.buses).find_map(|(bus, handle)| {
            let device = bus.devices.iter().find(|d| d.id == *device)?;
            Some((device.index, handle))
        });
        let (index, handle) = found.ok_or("this agent has no such device")?;
        match handle.commands.try_send(BusCommand::PollNow(index)) {
            Ok(()) => Ok(index),
            Err(TrySendError::Full(_)) => Err("the bus has too many commands waiting"),
            Err(TrySendError::Disconnected(_)) => Err("the bus has stopped"),
        }
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
        self.declare(now);
        self.commit(now)?;
        self.core.handle(core::Event::Flushed, now.boot_ms);
        self.act()?;
        self.drain(events, STOP_DELIVERY, |agent| {
            let core = agent.core.status();
            core.link != core::LinkState::Delivering || core.unacknowledged == 0
        })?;
        self.close_depot(all_ended(self))?;
        self.core.handle(core::Event::Stop, now.boot_ms);
        self.act()?;
        self.drain(events, STOP_UPLINK, |agent| agent.connection.is_none())?;
        let _ = self.mqtt.quit();
        let _ = std::fs::remove_file(socket_path(self.config));
        tracing::info!("stopped");
        Ok(())
    }

    /// The last commit, and the goodbye. A bus that goes on may have read what is in no record: then the outbox
    /// says that the run ended after its last durable record, as after a crash.
    fn close_depot(&mut self, all_ended: bool) -> Result<(), RunError> {
        let now = self.clock.now();
        self.declare(now);
        self.commit(now)?;
        if !all_ended {
            let still = self.buses.iter().filter(|bus| !bus.join.is_finished()).count();
            tracing::error!("{still} of {} buses did not stop in time", self.buses.len());
            return Ok(());
        }
        if let Err(e) = self.depot.close(now.wall) {
            tracing::error!("the outbox is not closed: {}", chain(&e));
        }
        Ok(())
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

    fn on_poll_command(&mut self, id: u64, device: &DeviceId) -> (u64, Outcome) {
        match self.poll_now(device) {
            Ok(_) => (id, Outcome::Done),
            Err(why) => (id, Outcome::Failed(why.into())),
        }
    }
}

fn identity(config: &Config, boot: BootId) -> Identity {
    let (catalog, catalog_bytes) = encode_catalog(&config.catalog());
    Identity { boot, catalog, catalog_bytes }
}

fn opener(config: &Config) -> Opener {
    let options = outbox::Options {
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
    };
    let directory = config.outbox.path.clone();
    Box::new(move |opening| outbox::open(&directory, &options, opening))
}

fn settings(config: &Config) -> Result<core::Settings, RunError> {
    Ok(core::Settings {
        window: config.uplink.window,
        flush_ms: u32::try_from(config.uplink.flush_ms).unwrap_or(u32::MAX),
        newest_first: config.uplink.backlog == config::Backlog::NewestFirst,
        seed: getrandom::u64().map_err(RunError::Random)?,
        ..core::Settings::default()
    })
}
