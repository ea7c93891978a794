//! What an agent does with everything that happens to it: the engine between outbox, uplink core and accounts.
//!
//! Contract: [`Engine::start`], then tell what happens with [`Engine::on_bus`], [`Engine::on_mqtt`] and
//! [`Engine::lost_connection`], call [`Engine::check_deadlines`] at [`Engine::next_deadline`] at the latest, and after
//! every call carry out what [`Engine::next_effect`] yields, in order; to end call [`Engine::finish_polls`],
//! [`Engine::close`] and [`Engine::say_goodbye`] in turn. Time comes in as [`Now`], random numbers through a [`Draw`].
//!
//! Opens no socket, thread or clock, and polls nothing: the loop in `run` does, and so does the simulation, which
//! drives this very code in virtual time. The disk lies behind the outbox.

mod outbound;
mod pace;
mod pauses;

use std::collections::VecDeque;

use gapless_common::catalog::Device;
use gapless_common::id::{BootId, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq};
use gapless_common::message::Outcome;
use gapless_common::reading::{Acquired, Readings, Record};
use gapless_common::time::Timestamp;
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire::{decode_catalog, encode_catalog};

use crate::account::Account;
use crate::clock::Now;
use crate::depot::{Depot, DepotError, Draw, Identity, Opener};
use crate::event::BusEvent;
use crate::frames::Packer;
use crate::health::Health;
use crate::polls::{POLL_WAIT_MS, Polls};
use crate::uplink::core::{self, Core};
use pace::Pace;
use pauses::Pauses;

/// Least distance of two completeness records, in ms.
const COMPLETE_MS: u64 = 10_000;

/// What stays as it is for as long as the agent runs.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Whose engine.
    pub path: AgentPath,
    /// What the outbox must know.
    pub identity: Identity,
    /// Of the uplink core; its seed is drawn here.
    pub uplink: core::Settings,
    /// Longest time a record waits for its sync, in ms.
    pub durability_ms: u32,
    /// All devices, in the order that [`DeviceIndex`] counts.
    pub devices: Vec<DeviceId>,
}

/// What the shell is to do. Where it cannot, it says so by [`Engine::lost_connection`] or [`Engine::poll_refused`].
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Throw the client away that there may be, and start one.
    Connect {
        /// Of the new client.
        connection: ConnectionId,
        /// Its last will.
        will: Vec<u8>,
    },
    /// Throw the client away.
    Disconnect,
    /// Publish with QoS 1.
    Publish {
        /// Through which client.
        connection: ConnectionId,
        /// The topic's kind.
        kind: Up,
        /// What.
        payload: Vec<u8>,
    },
    /// Publish this after all that is queued, and disconnect.
    Goodbye {
        /// Which client.
        connection: ConnectionId,
        /// What.
        payload: Vec<u8>,
    },
    /// Ask the device's bus for a poll out of turn.
    PollNow {
        /// The collector's command.
        command: u64,
        /// Which device.
        device: DeviceIndex,
    },
    /// Ask the device's bus to read its memory again; it answers with [`BusEvent::HistoryRead`].
    ReadHistory {
        /// The collector's command.
        command: u64,
        /// Which device.
        device: DeviceIndex,
        /// The first instant, and the first one that is not wanted.
        range: (Timestamp, Timestamp),
    },
    /// Have the device's bus poll it no more, or again; it answers with [`BusEvent::Paused`].
    Pause {
        /// The collector's command.
        command: u64,
        /// Which device.
        device: DeviceIndex,
        /// Whether it is polled no more.
        paused: bool,
    },
}

/// What the status tells of the uplink.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames published.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages of the broker that made no sense.
    pub garbage: u64,
    /// Why the last connection ended, or what a person may look at while nothing is acknowledged; until the collector
    /// answers again.
    pub last_error: Option<String>,
}

/// A running agent but for its buses, its connection and its clock. See the module for the order of calls.
pub struct Engine {
    setup: Setup,
    draw: Draw,
    depot: Depot,
    account: Account,
    core: Core,
    packer: Packer,
    connection: Option<ConnectionId>,
    /// Since when it is connected and nothing has been acknowledged on it, on the boot clock.
    unheard_since_ms: Option<u64>,
    /// Of collectors' commands, by their id.
    polls: Polls<u64>,
    /// Of these, whose device has answered, and that is not durable yet.
    asked: Vec<u64>,
    pauses: Pauses,
    counters: Counters,
    pace: Pace,
    complete_at_ms: u64,
    health: Health,
    /// The wall clock was seen to be set.
    is_dated: bool,
    /// The last commit was good.
    is_healthy: bool,
    /// At most a window of frames and a handful of others: the shell takes them after every call.
    effects: VecDeque<Effect>,
}

impl Engine {
    /// Opens the outbox and writes what opens an epoch. The agent's slots begin at `now`.
    ///
    /// # Errors
    /// [`DepotError`] where another agent has the outbox, or not even memory takes a record.
    pub fn start(setup: Setup, opener: Opener, draw: Draw, now: Now) -> Result<Self, DepotError> {
        let depot = Depot::open(setup.identity.clone(), opener, draw.clone(), now)?;
        let seed = draw().map_err(DepotError::Random)?;
        let mut engine = Self {
            core: Core::new(core::Settings { seed, ..setup.uplink }),
            packer: Packer::new(setup.path.tag()),
            pace: Pace::new(setup.durability_ms),
            health: Health::new(setup.uplink.flush_ms),
            setup,
            draw,
            depot,
            account: Account::default(),
            connection: None,
            unheard_since_ms: None,
            polls: Polls::default(),
            asked: Vec::new(),
            pauses: Pauses::begin(now),
            counters: Counters::default(),
            complete_at_ms: 0,
            is_dated: false,
            is_healthy: true,
            effects: VecDeque::new(),
        };
        if let Ok((_, catalog)) = decode_catalog(engine.depot.catalog_bytes()) {
            engine.pauses.are_described_by(&catalog, now);
        }
        engine.recall(now);
        engine.commit(now)?;
        engine.act(now)?;
        Ok(engine)
    }

    /// A bus reports.
    ///
    /// # Errors
    /// [`DepotError`] where not even memory takes a record any more; so for every method here.
    pub fn on_bus(&mut self, event: BusEvent, now: Now) -> Result<(), DepotError> {
        match event {
            event if self.is_hidden(&event, now) => {}
            BusEvent::Answered { device, acquired, at, samples } => {
                if matches!(acquired, Acquired::SinceBoot(_)) {
                    self.depot.mark_unset();
                }
                // A start after a crash takes the last time that it finds for the end of the run; an old record is none.
                let told_at = if matches!(acquired, Acquired::Recorded(_)) { now.wall } else { at };
                let readings = Readings { device, acquired, at, samples };
                self.gather(&Record::Readings(readings), told_at, now);
                let done = self.polls.answered(device);
                self.asked.extend(done);
            }
            BusEvent::Missed(run) => self.gather(&Record::Misses(run), now.wall, now),
            BusEvent::Through { device, slot } => self.account.through(device, slot),
            BusEvent::Channels { device, channels } => {
                self.describe_anew(vec![(device, |known: &mut Device| known.channels = channels)], now)?;
            }
            BusEvent::Paused { command, device, paused } => self.pauses.said((command, device, paused), now),
            BusEvent::HistoryRead { command, outcome } => {
                self.core.handle(core::Event::CommandEnded(command, outcome), now.boot_ms);
            }
            BusEvent::Bus { .. }
            | BusEvent::Device { .. }
            | BusEvent::Complaint { .. }
            | BusEvent::Metrics { .. } => {}
        }
        self.act(now)?;
        self.hand_over(now)
    }

    /// Once what somebody asked for is durable it is sent, whatever is gathered for a flush, and before the word that it was read:
    /// whoever asked wants the reading. All that is asked for within a durability window goes together.
    fn hand_over(&mut self, now: Now) -> Result<(), DepotError> {
        if self.asked.is_empty() || self.pace.commit_at_ms().is_some() {
            return Ok(());
        }
        self.core.handle(core::Event::Flushed, now.boot_ms);
        self.act(now)?;
        let asked = std::mem::take(&mut self.asked);
        self.end_polls(asked, &Outcome::Done, now);
        self.act(now)
    }

    /// When to call [`check_deadlines`](Self::check_deadlines) at the latest, on the boot clock.
    #[must_use]
    pub fn next_deadline(&self, now: Now) -> u64 {
        let complete = self.complete_at_ms.max(now.boot_ms + 1);
        let health = self.core.reaches_collector().then_some(self.health.look_at_ms());
        let deadlines = [
            health.map(|at| at.max(now.boot_ms + 1)),
            self.pace.commit_at_ms(),
            self.core.next_deadline(),
            self.depot.retry_at_ms(),
            self.polls.deadline_ms(),
            self.pauses.describe_at_ms(),
            Some(complete),
        ];
        deadlines.into_iter().flatten().min().unwrap_or(complete)
    }

    /// Does what has come due by itself.
    ///
    /// # Errors
    /// As [`on_bus`](Self::on_bus).
    pub fn check_deadlines(&mut self, now: Now) -> Result<(), DepotError> {
        self.check_wall_clock(now)?;
        if now.wall_set {
            self.core.handle(core::Event::WallClock(now.wall), now.boot_ms);
        }
        if self.complete_at_ms <= now.boot_ms {
            self.declare(now);
        }
        if self.depot.retry_at_ms().is_some_and(|at| at <= now.boot_ms) {
            self.retry_disk(now)?;
        }
        if self.pace.commit_at_ms().is_some_and(|at| at <= now.boot_ms) {
            self.commit(now)?;
        }
        if self.pauses.describe_at_ms().is_some_and(|at| at <= now.boot_ms) {
            self.describe_paused(now)?;
        }
        let late = self.polls.late(now.boot_ms);
        let why = format!("the device did not answer within {} s", POLL_WAIT_MS / 1_000);
        self.end_polls(late, &Outcome::Failed(why.into()), now);
        self.act(now)?;
        self.hint_if_unheard(now);
        self.tell_health(now);
        self.act(now)?;
        self.hand_over(now)
    }

    /// What to do next.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The buses have ended, or had their time: all that they told becomes durable and may go.
    ///
    /// # Errors
    /// As [`on_bus`](Self::on_bus).
    pub fn finish_polls(&mut self, now: Now) -> Result<(), DepotError> {
        self.declare(now);
        if self.depot.failure().is_some() {
            // Once more before the process ends and takes along what is in memory only.
            self.retry_disk(now)?;
        }
        self.commit(now)?;
        self.core.handle(core::Event::Flushed, now.boot_ms);
        self.act(now)?;
        self.hand_over(now)
    }

    /// The last commit; and the outbox's goodbye, unless a bus goes on (`all_ended` is false) and may have read what is
    /// in no record: then the outbox says that the run ended after its last durable record, as after a crash.
    ///
    /// # Errors
    /// As [`on_bus`](Self::on_bus); a goodbye that cannot be written is in the log only.
    pub fn close(&mut self, all_ended: bool, now: Now) -> Result<(), DepotError> {
        self.declare(now);
        self.commit(now)?;
        if all_ended && let Err(e) = self.depot.close(now.wall) {
            tracing::error!("the outbox is not closed: {}", crate::text::chain(&e));
        }
        Ok(())
    }

    /// The uplink's goodbye.
    ///
    /// # Errors
    /// As [`on_bus`](Self::on_bus).
    pub fn say_goodbye(&mut self, now: Now) -> Result<(), DepotError> {
        self.core.handle(core::Event::Stop, now.boot_ms);
        self.act(now)
    }

    /// Whether there is a client, connected or about to be.
    #[must_use]
    pub const fn has_connection(&self) -> bool {
        self.connection.is_some()
    }

    /// Whether the last commit was good: what the watchdog asks.
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        self.is_healthy
    }

    /// The outbox, to be looked at.
    #[must_use]
    pub const fn depot(&self) -> &Depot {
        &self.depot
    }

    /// The time of the first record that nobody has acknowledged, as it is read from the outbox.
    pub fn oldest_owed_at(&mut self) -> Option<Timestamp> {
        self.depot.oldest_owed_at()
    }

    /// Where the uplink stands.
    #[must_use]
    pub fn uplink(&self) -> core::Status {
        self.core.status()
    }

    /// What was sent, and what went wrong.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Tells the core what the outbox holds and what of it is acknowledged.
    fn recall(&mut self, now: Now) {
        let (held, owed) = (self.depot.readable(), self.depot.owed());
        self.core.handle(core::Event::Held(held.clone()), now.boot_ms);
        for epoch in held {
            let mut next = epoch.first;
            for range in owed.iter().filter(|range| range.epoch == epoch.epoch) {
                self.recall_between(epoch.epoch, next, range.first, now);
                next = range.last.next();
            }
            self.recall_between(epoch.epoch, next, epoch.next, now);
        }
    }

    fn recall_between(&mut self, epoch: Epoch, from: Seq, to: Seq, now: Now) {
        if from < to {
            self.core.handle(core::Event::Acknowledged(epoch, from, Seq(to.0 - 1)), now.boot_ms);
        }
    }

    fn gather(&mut self, record: &Record, at: Timestamp, now: Now) {
        self.depot.gather(record, at);
        self.pace.gathered(now.boot_ms);
    }

    fn commit(&mut self, now: Now) -> Result<(), DepotError> {
        self.pace.committed(now.boot_ms);
        let committed = self.depot.commit(now);
        self.is_healthy = committed.is_ok();
        let committed = committed?;
        if committed.held_changed {
            self.core.handle(core::Event::Held(self.depot.readable()), now.boot_ms);
            self.core.handle(core::Event::StateChanged, now.boot_ms);
        }
        let (epoch, next) = self.depot.position();
        let appended = core::Event::Appended { epoch, next, weight: committed.weight };
        self.core.handle(appended, now.boot_ms);
        Ok(())
    }

    /// Devices are other ones from here on: what was told before stays under the catalog that was in force then.
    fn describe_anew(
        &mut self,
        changes: Vec<(DeviceIndex, impl FnOnce(&mut Device))>,
        now: Now,
    ) -> Result<(), DepotError> {
        let Ok((hash, mut catalog)) = decode_catalog(self.depot.catalog_bytes()) else { return Ok(()) };
        for (device, change) in changes {
            if let Some(known) = catalog.devices.get_mut(usize::from(device.0)) {
                change(known);
            }
        }
        let (new_hash, bytes) = encode_catalog(&catalog);
        if new_hash == hash && *bytes == *self.depot.catalog_bytes() {
            return Ok(());
        }
        self.account_for_paused(&catalog, now);
        self.commit(now)?;
        self.pauses.are_described_by(&catalog, now);
        self.depot.change_catalog(new_hash, bytes, now);
        self.pace.gathered(now.boot_ms);
        self.commit(now)?;
        self.core.handle(core::Event::StateChanged, now.boot_ms);
        Ok(())
    }

    /// Writes down how far every device is accounted for.
    fn declare(&mut self, now: Now) {
        let distance_ms = COMPLETE_MS.max(u64::from(self.setup.uplink.flush_ms));
        self.complete_at_ms = now.boot_ms.saturating_add(distance_ms);
        if let Some(complete) = self.account.declare() {
            self.gather(&Record::Complete(complete), now.wall, now);
        }
    }

    /// Once the wall clock is set: dates the downtime, and corrects what was read by the boot clock.
    fn check_wall_clock(&mut self, now: Now) -> Result<(), DepotError> {
        if !now.wall_set || (self.is_dated && !self.depot.has_unset_epochs()) {
            return Ok(());
        }
        self.is_dated = true;
        // The readings to correct have their seqs then.
        self.commit(now)?;
        if let Some(downtime) = self.depot.take_downtime(now) {
            self.gather(&Record::Downtime(downtime), now.wall, now);
        }
        for made in self.depot.take_corrections(now) {
            self.gather(&Record::ClockCorrection(made), now.wall, now);
        }
        self.core.handle(core::Event::StateChanged, now.boot_ms);
        Ok(())
    }

    fn retry_disk(&mut self, now: Now) -> Result<(), DepotError> {
        let back = self.depot.retry(now)?;
        if back {
            // Another handle holds the same epochs now. What it does not know to be acknowledged is sent, and
            // acknowledged, again.
            self.core.handle(core::Event::Held(Vec::new()), now.boot_ms);
            self.account.tell_again();
        }
        self.recall(now);
        if back {
            self.core.handle(core::Event::StateChanged, now.boot_ms);
            // What was taken along may have to be corrected under its new epoch.
            self.check_wall_clock(now)?;
        }
        Ok(())
    }

    const fn boot(&self) -> BootId {
        self.setup.identity.boot
    }
}

#[cfg(test)]
mod tests;
