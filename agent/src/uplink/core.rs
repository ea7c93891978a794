//! What the uplink does next, pure: connections, presence, the window of frames, flushes, acknowledgements.
//!
//! Contract: tell everything that happens with [`Core::handle`], then take actions from [`Core::poll`] until
//! it gives `None`, and poll again at [`Core::next_deadline`] at the latest; an [`Action::Send`] is answered by
//! [`Event::Sent`], [`Event::Unusable`] or [`Event::NotNow`] before another is given. Times are milliseconds of one
//! clock that never steps. Reads no record, packs no frame, and knows nothing of MQTT.

use std::collections::{BTreeMap, VecDeque};

use gapless_common::id::{Commit, Epoch, Incarnation, Seq};
use gapless_common::message::{Ack, Command, CommandBody, HeldEpoch, Outcome, Presence};
use gapless_common::time::Timestamp;

use super::commands::{Commands, Known};
use super::delivery::{Acknowledged, Delivery};
pub use super::event::{Action, Event, LinkState, Offer, Settings, Status};
use super::link::{Backoff, Jitter};

/// Collectors whose presence is remembered. They share one database; a handful at most.
const COLLECTORS_MAX: usize = 64;

/// Longest lease that a command can take out, whatever it says.
const LEASE_MAX_MS: u64 = 3_600_000;

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
    commands: Commands,
    actions: VecDeque<Action>,
    /// The range given out by the last [`Action::Send`].
    offered: Option<Offer>,
    collectors: BTreeMap<Box<str>, Presence>,
    /// A probe was answered on this connection.
    answered: bool,
    probe_at_ms: u64,
    read_retry_ms: u64,
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
            commands: Commands::default(),
            actions: VecDeque::new(),
            offered: None,
            collectors: BTreeMap::new(),
            answered: false,
            probe_at_ms: 0,
            read_retry_ms: 0,
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
            Event::StateChanged if self.is_connected() => self.push_birth(),
            Event::StateChanged => {}
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
                [self.ack_deadline(), probe.filter(|_| self.has_unsent()), flush, retry]
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
            Link::Connected { .. } if self.is_present() => LinkState::Delivering,
            Link::Connected { .. } => LinkState::Probing,
        };
        Status {
            link,
            in_flight: self.delivery.in_flight().0,
            unacknowledged: self.delivery.unacked(),
            acks_ignored: self.acks_ignored,
            last_ack_ms: self.last_ack_ms,
        }
    }

    /// What has come due by itself.
    fn turn(&mut self, now_ms: u64) {
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

    fn check_flush(&mut self, now_ms: u64) {
        let due = self.flush_at_ms.is_some_and(|at| at <= now_ms);
        if due && !self.flushing && self.is_present() {
            self.flushing = true;
            self.actions.push_back(Action::Flush);
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
        if !self.actions.contains(&Action::Birth) {
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

    /// From here on, what is appended is live; all before is backlog, and waits for no flush.
    fn begin_live(&mut self) {
        if let Some((_, next)) = self.delivery.newest() {
            (self.live_from, self.live_to) = (next, next);
        }
        (self.live_weight, self.flush_at_ms, self.flushing) = (0, None, false);
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
        self.commands.forget_pending();
        self.collectors.clear();
        (self.answered, self.offered, self.flushing, self.flush_at_ms) = (false, None, false, None);
        self.actions.retain(|action| {
            matches!(action, Action::Acknowledge(..) | Action::Unacknowledge(_) | Action::Disconnect(_))
        });
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

    fn appended(&mut self, epoch: Epoch, next: Seq, weight: u64, now_ms: u64) {
        self.delivery.appended(epoch, next);
        if !self.is_connected() || !self.is_present() {
            return;
        }
        self.live_weight = self.live_weight.saturating_add(weight);
        let at_once = self.settings.flush_ms == 0
            || now_ms < self.lease_until_ms
            || self.live_weight >= self.settings.full_frame_weight;
        if at_once {
            self.flush();
        } else if self.flush_at_ms.is_none() {
            self.flush_at_ms = Some(now_ms.saturating_add(u64::from(self.settings.flush_ms)));
        }
    }

    fn flush(&mut self) {
        if let Some((_, next)) = self.delivery.newest() {
            self.live_to = next;
        }
        (self.live_weight, self.flush_at_ms, self.flushing) = (0, None, false);
    }

    fn acknowledged(&mut self, ack: &Ack, now_ms: u64) {
        match self.database {
            Some((incarnation, commit)) if incarnation == ack.incarnation => {
                if ack.commit < commit {
                    self.acks_ignored += 1;
                    return;
                }
            }
            // Another database: what it has, it says; the epochs it has not spoken of it is told of again.
            Some(_) => {
                self.forget(None);
                if self.is_connected() {
                    self.push_birth();
                }
            }
            // The first word after a start: it overrules what the outbox remembers of an earlier database.
            None => ack.epochs.iter().for_each(|e| self.forget(Some(e.epoch))),
        }
        self.database = Some((ack.incarnation, ack.commit));
        self.last_ack_ms = Some(now_ms);
        for epoch in &ack.epochs {
            if let Some(left) = self.delivery.take_back(epoch) {
                self.actions.push_back(Action::Unacknowledge(epoch.epoch));
                self.trim(left);
            }
            let new = self.delivery.acknowledged(epoch);
            self.trim(new);
        }
        if self.is_connected() {
            self.link_works();
        }
    }

    fn trim(&mut self, acknowledged: Vec<Acknowledged>) {
        let trims = acknowledged.into_iter().map(|(e, first, last)| Action::Acknowledge(e, first, last));
        self.actions.extend(trims);
    }

    fn forget(&mut self, only: Option<Epoch>) {
        let forgotten = self.delivery.forget_acknowledged(only);
        self.actions.extend(forgotten.into_iter().map(Action::Unacknowledge));
    }

    fn link_works(&mut self) {
        self.reconnect.succeed();
        self.ack_wait.succeed();
        self.probe.succeed();
        if !self.is_present() {
            self.answered = true;
            self.begin_live();
        }
    }

    fn command(&mut self, command: Command, wall: Option<Timestamp>, now_ms: u64) {
        match self.commands.begin(command.id) {
            Known::Pending => return,
            Known::Ended(reply) => {
                self.actions.push_back(Action::Reply(reply));
                return;
            }
            Known::New => {}
        }
        if wall.is_some_and(|now| command.expires < now) {
            return self.reply(command.id, Outcome::Expired);
        }
        match command.body {
            CommandBody::Live { until } => self.lease(command.id, until, wall, now_ms),
            CommandBody::Resend { epoch, first, last } => {
                let held = self.delivery.want(epoch, first, last);
                self.reply(command.id, if held { Outcome::Done } else { Outcome::NoData });
            }
            CommandBody::SendCatalog(hash) => {
                self.actions.push_back(Action::SendCatalog(command.id, hash));
            }
            CommandBody::PollNow(device) => self.actions.push_back(Action::PollNow(command.id, device)),
            CommandBody::ReadHistory { .. } => {
                self.reply(
                    command.id,
                    Outcome::Failed("no device of this agent has a memory to read".into()),
                );
            }
            CommandBody::Unknown => {
                let why = "this version of the agent does not know the command";
                self.reply(command.id, Outcome::Failed(why.into()));
            }
        }
    }

    fn lease(&mut self, id: u64, until: Timestamp, wall: Option<Timestamp>, now_ms: u64) {
        let Some(wall) = wall else {
            return self.reply(id, Outcome::Failed("the gateway's clock is not set".into()));
        };
        let left_ms = u64::try_from(until.since_ms(wall)).unwrap_or(0).min(LEASE_MAX_MS);
        self.lease_until_ms = self.lease_until_ms.max(now_ms.saturating_add(left_ms));
        self.flush();
        self.reply(id, Outcome::Done);
    }

    fn reply(&mut self, id: u64, outcome: Outcome) {
        let reply = self.commands.end(id, outcome);
        if self.is_connected() {
            self.actions.push_back(Action::Reply(reply));
        }
    }

    fn sent(&mut self, last: Seq, now_ms: u64) {
        let Some(offer) = self.offered.take() else { return };
        if last < offer.first || last > offer.last {
            return;
        }
        if !self.is_present() {
            self.schedule_probe(now_ms);
        }
        self.delivery.sent(offer, last, now_ms);
    }

    fn stop(&mut self) {
        if self.is_connected() {
            self.actions.push_back(Action::Goodbye);
        }
        self.link = Link::Stopped;
        self.offered = None;
    }

    fn has_unsent(&self) -> bool {
        self.delivery.next_live(self.live_from, u64::MAX).or_else(|| self.next_backlog()).is_some()
    }

    fn offer(&mut self, now_ms: u64) -> Option<Action> {
        if !self.is_connected() || self.offered.is_some() || now_ms < self.read_retry_ms {
            return None;
        }
        let (room, live_to) = if self.is_present() {
            (self.room(), self.live_to)
        } else {
            let probe = self.delivery.in_flight().0 == 0 && self.probe_at_ms <= now_ms;
            (Room { live: probe, backlog: probe }, u64::MAX)
        };
        let live = room.live.then(|| self.delivery.next_live(self.live_from, live_to)).flatten();
        let offer = live.or_else(|| room.backlog.then(|| self.next_backlog()).flatten())?;
        self.offered = Some(offer);
        Some(Action::Send(offer))
    }

    /// What may be sent now. Of the window one slot is kept for live records, and one for the backlog: a slow link would
    /// starve either.
    fn room(&self) -> Room {
        let ((all, backlog), window) = (self.delivery.in_flight(), usize::from(self.settings.window));
        if self.ack_wait.has_failed() {
            // The last connection brought no answer, whatever the broker says of a collector: bytes cost money.
            return Room { live: all == 0, backlog: all == 0 };
        }
        let kept = usize::from(backlog == 0 && self.next_backlog().is_some());
        Room {
            live: all < window - kept,
            backlog: (backlog < window - 2 && all < window - 1) || (backlog == 0 && all < window),
        }
    }

    fn next_backlog(&self) -> Option<Offer> {
        self.delivery.next_backlog(self.live_from, self.settings.newest_first)
    }
}

/// Whether a frame of each kind may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    live: bool,
    backlog: bool,
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
