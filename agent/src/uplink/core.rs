//! What the uplink does next, pure: connections, presence, the window of frames, flushes, acknowledgements.
//!
//! Contract: tell everything that happens with [`Core::handle`], then take actions from [`Core::poll`] until
//! it gives `None`, and poll again at [`Core::next_deadline`] at the latest; an [`Action::Send`] is answered by
//! [`Event::Sent`], [`Event::Unusable`] or [`Event::NotNow`] before another is given. Times are milliseconds of one
//! clock that never steps. Reads no record, packs no frame, and knows nothing of MQTT.

mod answer;
#[cfg(test)]
mod model;
mod sending;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use gapless_common::id::{Commit, Incarnation};
use gapless_common::message::{HeldEpoch, Presence};

use super::budget::Budget;
use super::commands::Commands;
use super::delivery::Delivery;
pub use super::event::{Action, Event, LinkState, Offer, Settings, Status};
use super::link::{Backoff, Jitter};

/// Collectors whose presence is remembered. They share one database; a handful at most.
const COLLECTORS_MAX: usize = 64;

/// How long nothing is sent after the outbox could not be read.
const READ_RETRY_MS: u64 = 5_000;

/// Longest wait for an acknowledgement, however often it has been in vain.
const ACK_TIMEOUT_MAX_MS: u64 = 300_000;

/// How long a client may take to be connected and subscribed. The client gives up sooner, but not where a broker
/// answers everything but the subscription.
const CONNECT_TIMEOUT_MS: u64 = 60_000;

/// A connection that lasted this long has worked: the next one is not delayed by those before it.
const CONNECTION_GOOD_MS: u64 = 60_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Waiting { until_ms: u64 },
    Connecting { since_ms: u64 },
    Connected { since_ms: u64 },
    Stopped,
}

/// The uplink of one agent; see the contract above. Events: [`handle`](Self::handle); actions:
/// [`poll`](Self::poll), [`next_deadline`](Self::next_deadline); for people: [`status`](Self::status).
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    jitter: Jitter,
    link: Link,
    reconnect: Backoff,
    probe: Backoff,
    ack_wait: Backoff,
    delivery: Delivery,
    budget: Budget,
    commands: Commands,
    actions: VecDeque<Action>,
    /// The range given out by the last [`Action::Send`].
    offered: Option<Offer>,
    collectors: BTreeMap<Box<str>, Presence>,
    /// A probe was answered on this connection.
    answered: bool,
    probe_at_ms: u64,
    read_retry_ms: u64,
    /// When the budget allows more than it did at the last poll.
    budget_at_ms: Option<u64>,
    /// Records of the newest epoch from here on are live, and those below `live_to` may go.
    live_from: u64,
    live_to: u64,
    live_weight: u64,
    /// When the live records waiting are due.
    flush_at_ms: Option<u64>,
    flushing: bool,
    lease_until_ms: u64,
    database: Option<(Incarnation, Commit)>,
    last_ack_ms: Option<u64>,
    acks_ignored: u64,
}

impl Core {
    /// A core that connects at its first poll.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let window = settings.window.clamp(8, 32);
        let range = |(first, max): (u32, u32)| Backoff::new(u64::from(first), u64::from(max));
        Self {
            jitter: Jitter::new(settings.seed),
            link: Link::Waiting { until_ms: 0 },
            reconnect: range(settings.reconnect_ms),
            probe: range(settings.probe_ms),
            ack_wait: Backoff::new(u64::from(settings.ack_timeout_ms), ACK_TIMEOUT_MAX_MS),
            delivery: Delivery::new(),
            budget: Budget::new(settings.daily_budget),
            commands: Commands::default(),
            actions: VecDeque::new(),
            offered: None,
            collectors: BTreeMap::new(),
            answered: false,
            probe_at_ms: 0,
            read_retry_ms: 0,
            budget_at_ms: None,
            live_from: 0,
            live_to: 0,
            live_weight: 0,
            flush_at_ms: None,
            flushing: false,
            lease_until_ms: 0,
            database: None,
            last_ack_ms: None,
            acks_ignored: 0,
            settings: Settings { window, ..settings },
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, event: Event, now_ms: u64) {
        match event {
            Event::Held(held) => self.held(&held),
            Event::Acknowledged(epoch, first, last) => self.delivery.recall_acknowledged(epoch, first, last),
            Event::Appended { epoch, next, weight } => self.appended(epoch, next, weight, now_ms),
            Event::Flushed => self.flush(),
            Event::Connected => self.connected(now_ms),
            Event::Disconnected => self.disconnected(now_ms),
            Event::Presence { collector, presence, retained } => {
                self.presence(collector, presence, retained, now_ms);
            }
            Event::Ack(ack) => self.acknowledged(&ack, now_ms),
            Event::Command(command, wall) => self.command(command, wall, now_ms),
            Event::CommandEnded(id, outcome) => self.reply(id, outcome),
            Event::Sent(last) => self.sent(last, now_ms),
            Event::Unusable(last) => {
                if let Some(offer) = self.offered.take() {
                    self.delivery.unusable(offer.epoch, offer.first, last.max(offer.first));
                }
            }
            Event::NotNow => {
                self.offered = None;
                self.read_retry_ms = now_ms.saturating_add(READ_RETRY_MS);
            }
            Event::Published(bytes) => self.published(bytes, now_ms),
            Event::WallClock(wall) => {
                let ended = self.budget.wall(wall, now_ms);
                self.day_turned(ended);
            }
            Event::StateChanged => self.push_birth(),
            Event::Stop => self.stop(),
        }
    }

    /// The next thing to do, `None` where there is nothing until the next event or deadline.
    pub fn poll(&mut self, now_ms: u64) -> Option<Action> {
        self.turn(now_ms);
        self.actions.pop_front().or_else(|| self.offer(now_ms))
    }

    /// When to poll again at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        match self.link {
            Link::Waiting { until_ms } => Some(until_ms),
            Link::Connecting { since_ms } => Some(since_ms.saturating_add(CONNECT_TIMEOUT_MS)),
            Link::Stopped => None,
            Link::Connected { .. } => {
                let retry = (self.read_retry_ms > 0).then_some(self.read_retry_ms);
                let probe = (!self.is_present() && self.delivery.in_flight().0 == 0)
                    .then_some(self.probe_at_ms.max(self.read_retry_ms));
                let flush = self.flush_at_ms.filter(|_| self.is_present() && !self.flushing);
                let budget = self.budget_at_ms.filter(|_| self.is_present());
                [self.ack_deadline(), probe.filter(|_| self.has_unsent()), flush, retry, budget]
                    .into_iter()
                    .flatten()
                    .min()
            }
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        let link = match self.link {
            Link::Waiting { .. } => LinkState::Waiting,
            Link::Connecting { .. } => LinkState::Connecting,
            Link::Stopped => LinkState::Stopped,
            Link::Connected { .. } if self.is_present() && self.budget.is_spent() => LinkState::BudgetSpent,
            Link::Connected { .. } if self.is_present() => LinkState::Delivering,
            Link::Connected { .. } => LinkState::Probing,
        };
        Status {
            link,
            in_flight: self.delivery.in_flight().0,
            unacknowledged: self.delivery.unacked(),
            acks_ignored: self.acks_ignored,
            last_ack_ms: self.last_ack_ms,
            bytes_today: self.budget.spent(),
            bytes_today_max: self.budget.share(),
        }
    }

    /// How long the next records may take to be sent, in ms, as the birth has to say: the flush interval, or, where the
    /// day's bytes are spent, until the next day begins.
    #[must_use]
    pub fn flush_ms(&self, now_ms: u64) -> u32 {
        let spent_ms = self.budget.spent_until_ms().map_or(0, |until| until.saturating_sub(now_ms));
        self.settings.flush_ms.saturating_add(u32::try_from(spent_ms).unwrap_or(u32::MAX))
    }

    /// Whether what is published now reaches a collector, as far as anybody knows.
    #[must_use]
    pub fn reaches_collector(&self) -> bool {
        self.is_connected() && self.is_present()
    }

    /// What has come due by itself.
    fn turn(&mut self, now_ms: u64) {
        let ended = self.budget.turn(now_ms);
        self.day_turned(ended);
        match self.link {
            Link::Waiting { until_ms } if until_ms <= now_ms => {
                self.link = Link::Connecting { since_ms: now_ms };
                self.actions.push_back(Action::Connect);
            }
            Link::Connecting { since_ms } if since_ms.saturating_add(CONNECT_TIMEOUT_MS) <= now_ms => {
                self.throw_away("no connection in time", now_ms);
            }
            Link::Connected { .. } => {
                if self.read_retry_ms <= now_ms {
                    self.read_retry_ms = 0;
                }
                self.check_flush(now_ms);
                self.check_ack_deadline(now_ms);
            }
            Link::Waiting { .. } | Link::Connecting { .. } | Link::Stopped => {}
        }
    }

    fn throw_away(&mut self, why: &'static str, now_ms: u64) {
        self.actions.push_back(Action::Disconnect(why));
        self.disconnected(now_ms);
    }

    fn published(&mut self, bytes: u64, now_ms: u64) {
        let was_spent = self.budget.is_spent();
        self.budget.spend(bytes, now_ms);
        if self.budget.is_spent() && !was_spent {
            // The collector is told when to expect more.
            self.push_birth();
        }
    }

    /// The first turn of a day after one in which all was spent: what waited is a backlog now, and fresh records go first.
    fn day_turned(&mut self, was_spent: bool) {
        if was_spent {
            self.begin_live();
            self.push_birth();
        }
    }

    /// An answer that does not come: with a collector present the connection is not what it seems, without
    /// one the probe was in vain.
    fn check_ack_deadline(&mut self, now_ms: u64) {
        if self.ack_deadline().is_none_or(|at| now_ms < at) {
            return;
        }
        if self.is_present() && !self.probed_only() {
            self.ack_wait.fail(&mut self.jitter);
            self.throw_away("no acknowledgement in time", now_ms);
        } else {
            // Of an unannounced collector that fell silent: back to probing.
            if self.answered {
                self.answered = false;
                self.schedule_probe(now_ms);
            }
            self.delivery.rewind();
        }
    }

    fn ack_deadline(&self) -> Option<u64> {
        Some(self.delivery.oldest_sent_ms()?.saturating_add(self.ack_wait.bound_ms()))
    }

    /// The collector is known by its answers alone.
    fn probed_only(&self) -> bool {
        self.answered && !self.is_announced()
    }

    fn is_announced(&self) -> bool {
        self.collectors.values().any(|presence| presence.online)
    }

    fn is_present(&self) -> bool {
        self.answered || self.is_announced()
    }

    const fn is_connected(&self) -> bool {
        matches!(self.link, Link::Connected { .. })
    }

    fn schedule_probe(&mut self, now_ms: u64) {
        self.probe_at_ms = now_ms.saturating_add(self.probe.fail(&mut self.jitter));
    }

    /// Nobody is there, but may say so at once. A probe that is due later stays so: connections that do not last
    /// would put it off for ever.
    fn await_presence(&mut self, now_ms: u64) {
        let wait_ms = self.probe.first(&mut self.jitter);
        self.probe_at_ms = self.probe_at_ms.max(now_ms.saturating_add(wait_ms));
    }

    fn connected(&mut self, now_ms: u64) {
        if !matches!(self.link, Link::Connecting { .. }) {
            return;
        }
        self.link = Link::Connected { since_ms: now_ms };
        self.push_birth();
        self.await_presence(now_ms);
        self.begin_live();
    }

    fn push_birth(&mut self) {
        if self.is_connected() && !self.actions.contains(&Action::Birth) {
            self.actions.push_back(Action::Birth);
        }
    }

    fn held(&mut self, held: &[HeldEpoch]) {
        let before = self.delivery.newest().map(|(epoch, _)| epoch);
        self.delivery.hold(held);
        if self.delivery.newest().map(|(epoch, _)| epoch) != before {
            self.begin_live();
        }
    }

    fn disconnected(&mut self, now_ms: u64) {
        match self.link {
            Link::Waiting { .. } | Link::Stopped => return,
            Link::Connected { since_ms } if now_ms.saturating_sub(since_ms) >= CONNECTION_GOOD_MS => {
                self.reconnect.succeed();
            }
            Link::Connected { .. } | Link::Connecting { .. } => {}
        }
        let wait_ms = self.reconnect.fail(&mut self.jitter);
        self.link = Link::Waiting { until_ms: now_ms.saturating_add(wait_ms) };
        self.delivery.rewind();
        self.collectors.clear();
        (self.answered, self.offered, self.flushing, self.flush_at_ms) = (false, None, false, None);
        self.drop_actions();
    }

    /// Only what is not for the connection is still to be done. A command that is not carried out is asked again.
    fn drop_actions(&mut self) {
        for action in std::mem::take(&mut self.actions) {
            match action {
                Action::Acknowledge(..) | Action::Unacknowledge(_) | Action::Disconnect(_) => {
                    self.actions.push_back(action);
                }
                Action::SendCatalog(id, _)
                | Action::PollNow(id, _)
                | Action::ReadHistory(id, ..)
                | Action::Pause(id, ..) => self.commands.forget(id),
                _ => {}
            }
        }
    }

    fn presence(&mut self, collector: Box<str>, presence: Option<Presence>, retained: bool, now_ms: u64) {
        if !self.is_connected() {
            return;
        }
        let (was_present, was_announced) = (self.is_present(), self.is_announced());
        let room = self.collectors.contains_key(&collector) || self.make_room_for_collector();
        let before = match presence {
            Some(presence) if room => self.collectors.insert(collector, presence),
            Some(_) => None,
            None => self.collectors.remove(&collector),
        };
        if self.is_announced() {
            let arrived = presence.is_some_and(|now| now.online && before != Some(now));
            if arrived && !retained && (!was_announced || before.is_some()) {
                // It came after the birth was published, and may have missed it and what followed.
                self.push_birth();
                self.delivery.rewind();
            }
            if !was_present {
                self.begin_live();
            }
        } else if was_announced {
            self.answered = false;
            self.await_presence(now_ms);
        }
    }

    /// Those that are gone make room: a collector may take a new name at each start.
    fn make_room_for_collector(&mut self) -> bool {
        if self.collectors.len() >= COLLECTORS_MAX {
            self.collectors.retain(|_, presence| presence.online);
        }
        self.collectors.len() < COLLECTORS_MAX
    }

    fn stop(&mut self) {
        if self.is_connected() {
            self.actions.push_back(Action::Goodbye);
        }
        self.link = Link::Stopped;
        self.offered = None;
    }
}
