//! The engine's side of delivery: hands what the broker brings to the uplink core, and turns what the core wants into
//! effects.

use gapless_common::cost;
use gapless_common::id::{CatalogHash, ConnectionId, DeviceId, DeviceIndex};
use gapless_common::message::{AgentState, ClockReading, NO_SUCH_DEVICE, Outcome};
use gapless_common::reading::Record;
use gapless_common::time::Timestamp;
use gapless_common::topic::{Down, Up};
use gapless_common::wire::{Message, decode, decode_catalog, encode};

use super::{Effect, Engine};
use crate::clock::Now;
use crate::depot::DepotError;
use crate::frames::Packed;
use crate::health::{Facts, fill};
use crate::text::chain;
use crate::uplink::core::{Action, Event, LinkState, Offer};
use crate::uplink::mqtt::MqttEvent;

/// How long a connection on which nothing is acknowledged goes without a hint.
const HINT_AFTER_MS: u64 = 60_000;

/// Topic of a collector's presence, up to its name.
const PRESENCE_PREFIX: &str = "gapless/v1/collectors/";

impl Engine {
    /// The MQTT client reports.
    ///
    /// # Errors
    /// As [`on_bus`](Self::on_bus).
    pub fn on_mqtt(&mut self, event: MqttEvent, now: Now) -> Result<(), DepotError> {
        match event {
            MqttEvent::Connected(connection) if self.connection == Some(connection) => {
                tracing::info!(%connection, "connected");
                self.unheard_since_ms = Some(now.boot_ms);
                self.core.handle(Event::Connected, now.boot_ms);
            }
            MqttEvent::Disconnected(connection, why) if self.connection == Some(connection) => {
                self.lose_connection(why, now);
            }
            MqttEvent::Message { connection, topic, payload, retained }
                if self.connection == Some(connection) =>
            {
                self.on_message(&topic, &payload, retained, now);
            }
            // Of a connection that was thrown away.
            MqttEvent::Connected(_) | MqttEvent::Disconnected(..) | MqttEvent::Message { .. } => {}
        }
        self.act(now)
    }

    /// The client did not take a message: it counts as lost.
    ///
    /// # Errors
    /// As [`on_bus`](Self::on_bus).
    pub fn lost_connection(&mut self, why: String, now: Now) -> Result<(), DepotError> {
        self.lose_connection(why, now);
        self.act(now)
    }

    /// The bus does not take the poll of an [`Effect::PollNow`], an [`Effect::ReadHistory`] or an [`Effect::Pause`].
    ///
    /// # Errors
    /// As [`on_bus`](Self::on_bus).
    pub fn poll_refused(&mut self, command: u64, why: &str, now: Now) -> Result<(), DepotError> {
        self.polls.forget(|who| *who == command);
        self.refuse(command, why, now);
        self.act(now)
    }

    fn lose_connection(&mut self, why: String, now: Now) {
        // One line for each reason, not for each attempt: a broker may be away for days.
        if self.counters.last_error.as_ref() != Some(&why) {
            tracing::warn!("no connection: {why}");
        }
        self.throw_away(why);
        self.core.handle(Event::Disconnected, now.boot_ms);
    }

    fn throw_away(&mut self, why: String) {
        self.counters.last_error = Some(why);
        self.connection = None;
        self.unheard_since_ms = None;
        self.effects.push_back(Effect::Disconnect);
    }

    /// A broker that lets nothing through looks like one without a collector. Said once a connection, and only while no
    /// collector shows itself: where one does and does not answer, the connection ends for that.
    pub(super) fn hint_if_unheard(&mut self, now: Now) {
        let is_long = self.unheard_since_ms.is_some_and(|at| at.saturating_add(HINT_AFTER_MS) <= now.boot_ms);
        if !is_long || self.core.status().link != LinkState::Probing {
            return;
        }
        let hint = self.hint();
        if self.counters.last_error.as_ref() == Some(&hint) {
            return;
        }
        tracing::warn!("connected, and {hint}");
        self.counters.last_error = Some(hint);
    }

    fn hint(&self) -> String {
        let path = &self.setup.path;
        format!(
            "nothing is acknowledged: does the broker let this agent publish to gapless/v1/{path}/#, and is a collector running?"
        )
    }

    fn on_message(&mut self, topic: &str, payload: &[u8], retained: bool, now: Now) {
        let decoded = decode(payload);
        if let Some(collector) = topic.strip_prefix(PRESENCE_PREFIX) {
            let presence = match decoded {
                Ok(Message::Presence(presence)) => Some(presence),
                _ => None,
            };
            if presence.is_none() && !payload.is_empty() {
                self.counters.garbage += 1;
            }
            let collector = collector.into();
            return self.core.handle(Event::Presence { collector, presence, retained }, now.boot_ms);
        }
        let (ack, command) = (self.setup.path.down(Down::Ack), self.setup.path.down(Down::Command));
        match decoded {
            Ok(Message::Ack(said)) if topic == ack => {
                (self.counters.last_error, self.unheard_since_ms) = (None, None);
                self.core.handle(Event::Ack(said), now.boot_ms);
            }
            Ok(Message::Command(asked)) if topic == command => {
                self.core.handle(Event::Command(asked, now.wall_set.then_some(now.wall)), now.boot_ms);
            }
            _ => self.counters.garbage += 1,
        }
    }

    /// Does what the uplink core wants until it wants nothing.
    pub(super) fn act(&mut self, now: Now) -> Result<(), DepotError> {
        while let Some(action) = self.core.poll(now.boot_ms) {
            self.act_once(action, now)?;
        }
        Ok(())
    }

    fn act_once(&mut self, action: Action, now: Now) -> Result<(), DepotError> {
        match action {
            Action::Connect => self.connect()?,
            Action::Disconnect(why) => {
                let hint = self.unheard_since_ms.map(|_| format!("; {}", self.hint())).unwrap_or_default();
                let why = format!("{why}{hint}");
                tracing::warn!("the connection is thrown away: {why}");
                self.throw_away(why);
            }
            Action::Birth => {
                let birth = self.birth(now);
                self.publish(Up::State, &Message::State(birth), now);
            }
            Action::Send(offer) => {
                // Before what is owed goes out: afterwards nobody would hear how much it was.
                self.tell_health(now);
                self.send(offer, now);
            }
            Action::Acknowledge(epoch, first, last) => self.depot.acknowledge(epoch, first, last),
            Action::Unacknowledge(epoch) => self.depot.unacknowledge(epoch),
            Action::Flush => {
                self.declare(now);
                self.commit(now)?;
                self.core.handle(Event::Flushed, now.boot_ms);
            }
            Action::Reply(reply) => self.publish(Up::Reply, &Message::Reply(reply), now),
            Action::SendCatalog(id, hash) => self.send_catalog(id, hash, now),
            Action::PollNow(id, device) => self.poll_now(id, &device, now),
            Action::ReadHistory(id, device, range) => self.read_history(id, &device, range, now),
            Action::Pause(id, device, paused) => self.pause(id, &device, paused, now),
            Action::Goodbye => self.goodbye(),
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<(), DepotError> {
        let drawn = (self.draw)().map_err(DepotError::Random)?;
        let connection = ConnectionId(u32::try_from(drawn >> 32).unwrap_or(u32::MAX));
        let will = encode(&Message::State(AgentState::Gone { connection, clean: false }));
        self.connection = Some(connection);
        // A will of a few bytes always encodes.
        self.effects.push_back(Effect::Connect { connection, will: will.unwrap_or_default() });
        Ok(())
    }

    fn birth(&self, now: Now) -> AgentState {
        AgentState::Birth {
            path: self.setup.path.clone(),
            connection: self.connection.unwrap_or_default(),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            boot: self.boot(),
            epoch: self.depot.position().0,
            catalog: self.depot.catalog_in_force(),
            held: self.depot.held(),
            durable: self.depot.failure().is_none(),
            clock_set: now.wall_set,
            flush_ms: self.core.flush_ms(now.boot_ms),
        }
    }

    /// Says how the gateway is, where that is due.
    pub(super) fn tell_health(&mut self, now: Now) {
        let Some(connection) = self.connection.filter(|_| self.core.reaches_collector()) else { return };
        if !self.health.is_to_look(connection, now.boot_ms) {
            return;
        }
        let outbox = fill(&self.depot.stats());
        let clock = now.wall_set.then_some(ClockReading { boot_ms: now.boot_ms, wall: now.wall });
        let facts = Facts { outbox, clock };
        if self.health.is_due(connection, &facts, now.boot_ms) {
            self.publish(Up::State, &Message::State(AgentState::Health { connection, outbox, clock }), now);
            self.health.told(connection, facts, now.boot_ms);
        }
    }

    fn publish(&mut self, kind: Up, message: &Message, now: Now) {
        match encode(message) {
            Ok(bytes) => self.publish_bytes(kind, bytes, now),
            Err(e) => tracing::error!("a message is not sent: {e}"),
        }
    }

    fn publish_bytes(&mut self, kind: Up, payload: Vec<u8>, now: Now) {
        if let Some(connection) = self.connection {
            let bytes = cost::message_bytes(self.setup.path.up(kind).len(), payload.len());
            self.core.handle(Event::Published(u64::try_from(bytes).unwrap_or(u64::MAX)), now.boot_ms);
            self.effects.push_back(Effect::Publish { connection, kind, payload });
        }
    }

    fn send(&mut self, offer: Offer, now: Now) {
        let Some(connection) = self.connection else {
            return self.core.handle(Event::NotNow, now.boot_ms);
        };
        let event = match self.packer.pack(&mut self.depot, offer, connection) {
            Ok(Packed::Frame(bytes, last)) => {
                self.counters.frames += 1;
                self.counters.bytes += u64::try_from(bytes.len()).unwrap_or(0);
                self.core.handle(Event::Sent(last), now.boot_ms);
                return self.publish_bytes(Up::Data, bytes, now);
            }
            Ok(Packed::Gone(last)) => Event::Unusable(last),
            Ok(Packed::Unusable(loss)) => {
                self.gather(&Record::Loss(loss), now.wall, now);
                Event::Unusable(loss.last)
            }
            Err(e) => {
                tracing::error!("{}", chain(&e));
                if self.depot.failure().is_some() {
                    self.depot.stop_reading();
                    self.recall(now);
                }
                Event::NotNow
            }
        };
        self.core.handle(event, now.boot_ms);
    }

    fn send_catalog(&mut self, id: u64, hash: CatalogHash, now: Now) {
        let outcome = match self.depot.catalog(hash) {
            Some(bytes) => {
                self.publish(Up::Catalog, &Message::Catalog { hash, bytes }, now);
                Outcome::Done
            }
            None => Outcome::NoData,
        };
        self.core.handle(Event::CommandEnded(id, outcome), now.boot_ms);
    }

    fn index_of(&self, device: &DeviceId) -> Option<DeviceIndex> {
        let place = self.setup.devices.iter().position(|known| known == device);
        place.and_then(|place| u16::try_from(place).ok()).map(DeviceIndex)
    }

    /// The command ends when the bus says so.
    fn read_history(&mut self, command: u64, device: &DeviceId, range: (Timestamp, Timestamp), now: Now) {
        match self.index_of(device) {
            Some(device) => self.effects.push_back(Effect::ReadHistory { command, device, range }),
            None => self.refuse(command, NO_SUCH_DEVICE, now),
        }
    }

    /// The command ends when the bus says so. What the configuration has paused stays so.
    fn pause(&mut self, command: u64, device: &DeviceId, paused: bool, now: Now) {
        let Some(device) = self.index_of(device) else { return self.refuse(command, NO_SUCH_DEVICE, now) };
        let configured = decode_catalog(&self.setup.identity.catalog_bytes);
        let is_paused_there = configured.is_ok_and(|(_, catalog)| {
            catalog.devices.get(usize::from(device.0)).is_some_and(|device| device.paused)
        });
        self.effects.push_back(Effect::Pause { command, device, paused: paused || is_paused_there });
    }

    fn refuse(&mut self, command: u64, why: &str, now: Now) {
        self.core.handle(Event::CommandEnded(command, Outcome::Failed(why.into())), now.boot_ms);
    }

    /// The command ends when the device has answered.
    fn poll_now(&mut self, command: u64, device: &DeviceId, now: Now) {
        let refused = match self.index_of(device) {
            None => NO_SUCH_DEVICE,
            Some(device) if self.polls.begin(command, device, now.boot_ms).is_ok() => {
                return self.effects.push_back(Effect::PollNow { command, device });
            }
            Some(_) => "too many polls are waited for",
        };
        self.refuse(command, refused, now);
    }

    pub(super) fn end_polls(&mut self, commands: Vec<u64>, outcome: &Outcome, now: Now) {
        for command in commands {
            self.core.handle(Event::CommandEnded(command, outcome.clone()), now.boot_ms);
        }
    }

    fn goodbye(&mut self) {
        let Some(connection) = self.connection else { return };
        let gone = encode(&Message::State(AgentState::Gone { connection, clean: true }));
        self.effects.push_back(Effect::Goodbye { connection, payload: gone.unwrap_or_default() });
    }
}
