//! The loop's side of delivery: hands MQTT events to the uplink core, and carries out what it wants.

use gapless_common::id::{CatalogHash, ConnectionId};
use gapless_common::message::{AgentState, Outcome};
use gapless_common::reading::Record;
use gapless_common::topic::{Down, Up};
use gapless_common::wire::{Message, decode, encode};

use super::{Agent, RunError};
use crate::frames::Packed;
use crate::text::chain;
use crate::uplink::core::{Action, Event, Offer};
use crate::uplink::mqtt::MqttEvent;

/// Topic of a collector's presence, up to its name.
const PRESENCE_PREFIX: &str = "gapless/v1/collectors/";

impl Agent<'_> {
    pub(super) fn on_mqtt(&mut self, event: MqttEvent) {
        let now_ms = self.clock.now().boot_ms;
        match event {
            MqttEvent::Connected(connection) if self.connection == Some(connection) => {
                tracing::info!(broker = %self.config.uplink.broker, %connection, "connected");
                self.core.handle(Event::Connected, now_ms);
            }
            MqttEvent::Disconnected(connection, why) if self.connection == Some(connection) => {
                self.lose_connection(why, now_ms);
            }
            MqttEvent::Message { connection, topic, payload, retained }
                if self.connection == Some(connection) =>
            {
                self.on_message(&topic, &payload, retained, now_ms);
            }
            // Of a connection that was thrown away.
            MqttEvent::Connected(_) | MqttEvent::Disconnected(..) | MqttEvent::Message { .. } => {}
        }
    }

    fn lose_connection(&mut self, why: String, now_ms: u64) {
        // One line for each reason, not for each attempt: a broker may be away for days.
        if self.counters.last_error.as_ref() != Some(&why) {
            tracing::warn!(broker = %self.config.uplink.broker, "no connection: {why}");
        }
        self.counters.last_error = Some(why);
        self.connection = None;
        self.mqtt.disconnect();
        self.core.handle(Event::Disconnected, now_ms);
    }

    fn on_message(&mut self, topic: &str, payload: &[u8], retained: bool, now_ms: u64) {
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
            return self.core.handle(Event::Presence { collector, presence, retained }, now_ms);
        }
        let (ack, command) = (self.path.down(Down::Ack), self.path.down(Down::Command));
        match decoded {
            Ok(Message::Ack(said)) if topic == ack => {
                self.counters.last_error = None;
                self.core.handle(Event::Ack(said), now_ms);
            }
            Ok(Message::Command(asked)) if topic == command => {
                let now = self.clock.now();
                self.core.handle(Event::Command(asked, now.wall_set.then_some(now.wall)), now_ms);
            }
            _ => self.counters.garbage += 1,
        }
    }

    /// Does what the uplink core wants until it wants nothing.
    pub(super) fn act(&mut self) -> Result<(), RunError> {
        while let Some(action) = self.core.poll(self.clock.now().boot_ms) {
            self.act_once(action)?;
        }
        Ok(())
    }

    fn act_once(&mut self, action: Action) -> Result<(), RunError> {
        let now = self.clock.now();
        match action {
            Action::Connect => self.connect()?,
            Action::Disconnect(why) => self.throw_away(why),
            Action::Birth => {
                let birth = self.birth();
                self.publish(Up::State, &Message::State(birth));
            }
            Action::Send(offer) => self.send(offer),
            Action::Acknowledge(epoch, first, last) => self.depot.acknowledge(epoch, first, last),
            Action::Unacknowledge(epoch) => self.depot.unacknowledge(epoch),
            Action::Flush => {
                self.declare(now);
                self.commit(now)?;
                self.core.handle(Event::Flushed, now.boot_ms);
            }
            Action::Reply(reply) => self.publish(Up::Reply, &Message::Reply(reply)),
            Action::SendCatalog(id, hash) => self.send_catalog(id, hash),
            Action::PollNow(id, device) => {
                let (id, outcome) = self.on_poll_command(id, &device);
                self.core.handle(Event::CommandEnded(id, outcome), now.boot_ms);
            }
            Action::Goodbye => self.goodbye(),
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<(), RunError> {
        let connection = ConnectionId(getrandom::u32().map_err(RunError::Random)?);
        let will = encode(&Message::State(AgentState::Gone { connection, clean: false }));
        self.connection = Some(connection);
        // A will of a few bytes always encodes.
        self.mqtt.connect(connection, will.unwrap_or_default());
        Ok(())
    }

    fn throw_away(&mut self, why: &str) {
        tracing::warn!(broker = %self.config.uplink.broker, "the connection is thrown away: {why}");
        self.counters.last_error = Some(why.to_owned());
        self.connection = None;
        self.mqtt.disconnect();
    }

    fn birth(&self) -> AgentState {
        let now = self.clock.now();
        AgentState::Birth {
            path: self.path.clone(),
            connection: self.connection.unwrap_or_default(),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            boot: self.boot,
            epoch: self.depot.position().0,
            catalog: self.depot.catalog_in_force(),
            held: self.depot.held(),
            durable: self.depot.failure().is_none(),
            clock_set: now.wall_set,
            flush_ms: u32::try_from(self.config.uplink.flush_ms).unwrap_or(u32::MAX),
        }
    }

    fn publish(&mut self, kind: Up, message: &Message) {
        match encode(message) {
            Ok(bytes) => self.publish_bytes(kind, bytes),
            Err(e) => tracing::error!("a message is not sent: {e}"),
        }
    }

    fn publish_bytes(&mut self, kind: Up, bytes: Vec<u8>) {
        let Some(connection) = self.connection else { return };
        if let Err(e) = self.mqtt.publish(connection, kind, bytes) {
            self.lose_connection(e.to_string(), self.clock.now().boot_ms);
        }
    }

    fn send(&mut self, offer: Offer) {
        let now = self.clock.now();
        let Some(connection) = self.connection else {
            return self.core.handle(Event::NotNow, now.boot_ms);
        };
        let event = match self.packer.pack(&mut self.depot, offer, connection) {
            Ok(Packed::Frame(bytes, last)) => {
                self.counters.frames += 1;
                self.counters.bytes += u64::try_from(bytes.len()).unwrap_or(0);
                self.core.handle(Event::Sent(last), now.boot_ms);
                return self.publish_bytes(Up::Data, bytes);
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
                    self.recall();
                }
                Event::NotNow
            }
        };
        self.core.handle(event, now.boot_ms);
    }

    fn send_catalog(&mut self, id: u64, hash: CatalogHash) {
        let outcome = match self.depot.catalog(hash) {
            Some(bytes) => {
                self.publish(Up::Catalog, &Message::Catalog { hash, bytes });
                Outcome::Done
            }
            None => Outcome::NoData,
        };
        self.core.handle(Event::CommandEnded(id, outcome), self.clock.now().boot_ms);
    }

    fn goodbye(&mut self) {
        let Some(connection) = self.connection else { return };
        let gone = encode(&Message::State(AgentState::Gone { connection, clean: true }));
        let left = self.mqtt.goodbye(connection, gone.unwrap_or_default());
        if left.is_err() {
            self.connection = None;
        }
    }
}
