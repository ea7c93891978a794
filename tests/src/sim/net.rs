//! The network between gateways, broker and collector: a pipe that loses, repeats, delays and reorders, connections that
//! are dead and do not know it, wills, retained presence, and a broker that forgets everything.
//!
//! What MQTT itself would do (packet ids, retransmission within a connection) is not simulated: whatever it achieves,
//! the delivery above it must do without.

use std::collections::BTreeMap;

use super::rng::Rng;

/// Who talks to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// The agent of this gateway.
    Gateway(usize),
    /// The collector.
    Center,
}

/// What arrives somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// The broker takes a message.
    AtBroker {
        /// Its topic.
        topic: String,
        /// Its bytes.
        payload: Vec<u8>,
        /// Whether the broker keeps it for those who come.
        retain: bool,
    },
    /// A client takes a message.
    AtClient {
        /// Who.
        to: Party,
        /// Over which connection.
        session: u64,
        /// Its topic.
        topic: String,
        /// Its bytes.
        payload: Vec<u8>,
        /// Whether the broker had kept it.
        retained: bool,
    },
    /// A client is connected and subscribed.
    Opened {
        /// Who.
        to: Party,
        /// Which connection.
        session: u64,
    },
    /// A client notices that its connection has ended.
    Closed {
        /// Who.
        to: Party,
        /// Which connection.
        session: u64,
    },
    /// The broker notices that a connection has ended, and publishes its will.
    Dropped {
        /// Whose.
        of: Party,
        /// Which connection.
        session: u64,
    },
}

/// Packets with the instant at which each arrives.
pub type Sent = Vec<(u64, Packet)>;

/// How a party's link behaves at the moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Link {
    /// Of a thousand packets so many are lost.
    pub loses: u32,
    /// Of a thousand packets so many arrive twice.
    pub repeats: u32,
    /// Of a thousand packets so many are late by up to a minute.
    pub delays: u32,
    /// Bytes a second, where that is a limit.
    pub rate: Option<u64>,
    /// Nothing passes, and nobody can connect.
    pub is_down: bool,
    /// What the client sends is lost, and it does not know.
    pub is_deaf: bool,
    /// What the client is sent is lost, and the broker does not know.
    pub is_mute: bool,
    /// When the last packet upwards has left, and the last one downwards.
    busy_until_ms: (u64, u64),
}

/// What went over the network, for the report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets that arrived.
    pub delivered: u64,
    /// Packets lost.
    pub lost: u64,
    /// Packets that arrived twice.
    pub repeated: u64,
    /// Packets that others overtook.
    pub delayed: u64,
}

#[derive(Debug)]
struct Session {
    id: u64,
    will: (String, Vec<u8>, bool),
}

/// Keep alive of a client, and a half more: after this the other end gives up, in ms.
const GIVES_UP_MS: u64 = 45_000;
/// Longest time for an attempt to connect to fail, in ms.
const CONNECT_MS_MAX: u64 = 20_000;
/// Bytes of MQTT and TCP/IP around a message.
const OVERHEAD_BYTES: usize = 60;
/// Longest delay of a packet that is delayed, in ms.
const DELAY_MS_MAX: u64 = 60_000;

/// The broker and the links to it.
#[derive(Debug)]
pub struct Net {
    sessions: BTreeMap<Party, Session>,
    /// How often each party was connected.
    connected: BTreeMap<Party, u64>,
    retained: BTreeMap<String, Vec<u8>>,
    links: BTreeMap<Party, Link>,
    /// Whether the broker runs.
    is_up: bool,
    /// What went over it.
    pub traffic: Traffic,
    rng: Rng,
}

impl Net {
    /// A broker that runs, with good links.
    #[must_use]
    pub fn new(rng: Rng) -> Self {
        Self {
            sessions: BTreeMap::new(),
            connected: BTreeMap::new(),
            retained: BTreeMap::new(),
            links: BTreeMap::new(),
            is_up: true,
            traffic: Traffic::default(),
            rng,
        }
    }

    /// The link of a party, to be changed.
    pub fn link(&mut self, of: Party) -> &mut Link {
        self.links.entry(of).or_default()
    }

    /// Whether the broker has this connection of the party.
    #[must_use]
    pub fn has_session(&self, of: Party, session: u64) -> bool {
        self.sessions.get(&of).is_some_and(|known| known.id == session)
    }

    /// Whether the broker has any connection of the party.
    #[must_use]
    pub fn is_connected(&self, of: Party) -> bool {
        self.sessions.contains_key(&of)
    }

    /// How often the party was connected.
    #[must_use]
    pub fn connected(&self, of: Party) -> u64 {
        self.connected.get(&of).copied().unwrap_or_default()
    }

    /// A client connects. One that the broker has already under that name is thrown out.
    pub fn connect(&mut self, who: Party, session: u64, will: (String, Vec<u8>, bool), at_ms: u64) -> Sent {
        let link = *self.link(who);
        if !self.is_up || link.is_down || link.is_deaf || link.is_mute {
            let fails_ms = at_ms + self.rng.within(10, CONNECT_MS_MAX);
            return vec![(fails_ms, Packet::Closed { to: who, session })];
        }
        let mut sent = self.take_over(who, at_ms);
        self.sessions.insert(who, Session { id: session, will });
        *self.connected.entry(who).or_default() += 1;
        let opened_ms = at_ms + self.rng.within(2, 200);
        sent.push((opened_ms, Packet::Opened { to: who, session }));
        if matches!(who, Party::Gateway(_)) {
            for (topic, payload) in self.retained.clone() {
                sent.push((
                    opened_ms + 1,
                    Packet::AtClient { to: who, session, topic, payload, retained: true },
                ));
            }
        }
        sent
    }

    /// Somebody else connects under the party's name.
    pub fn take_over(&mut self, who: Party, at_ms: u64) -> Sent {
        let Some(old) = self.sessions.get(&who).map(|old| old.id) else { return Vec::new() };
        let mut sent = self.drop_session(who, old, at_ms);
        sent.push((at_ms + self.rng.within(1, 100), Packet::Closed { to: who, session: old }));
        sent
    }

    /// A client throws its connection away without a word.
    pub fn hang_up(&mut self, who: Party, session: u64, at_ms: u64) -> Sent {
        let link = *self.link(who);
        let notices_ms = if link.is_down || link.is_deaf { GIVES_UP_MS } else { self.rng.within(1, 200) };
        vec![(at_ms + notices_ms, Packet::Dropped { of: who, session })]
    }

    /// A client says goodbye: what it sent before arrives, and its will does not. Where nothing that it sends arrives the broker does
    /// not know, and its will is heard.
    pub fn part(&mut self, who: Party, session: u64, at_ms: u64) -> Sent {
        let link = *self.link(who);
        let closed = (at_ms + self.rng.within(1, 50), Packet::Closed { to: who, session });
        if link.is_down || link.is_deaf {
            return vec![closed, (at_ms + GIVES_UP_MS, Packet::Dropped { of: who, session })];
        }
        if self.has_session(who, session) {
            self.sessions.remove(&who);
        }
        vec![closed]
    }

    /// The broker notices that a connection has ended; its will goes out.
    pub fn drop_session(&mut self, of: Party, session: u64, at_ms: u64) -> Sent {
        if !self.has_session(of, session) {
            return Vec::new();
        }
        let Some(dropped) = self.sessions.remove(&of) else { return Vec::new() };
        let (topic, payload, retain) = dropped.will;
        vec![(at_ms + 1, Packet::AtBroker { topic, payload, retain })]
    }

    /// The party's link is cut or comes back. Both ends notice in their own time that it was cut.
    pub fn cut(&mut self, who: Party, is_down: bool, at_ms: u64) -> Sent {
        self.link(who).is_down = is_down;
        self.give_up(who, is_down, at_ms)
    }

    /// What the party sends is lost from now on, or is not any more.
    pub fn deafen(&mut self, who: Party, is_deaf: bool, at_ms: u64) -> Sent {
        self.link(who).is_deaf = is_deaf;
        self.give_up(who, is_deaf, at_ms)
    }

    /// What the party is sent is lost from now on, or is not any more. It misses the answers to its pings, and says so by
    /// closing the connection.
    pub fn mute(&mut self, who: Party, is_mute: bool, at_ms: u64) -> Sent {
        self.link(who).is_mute = is_mute;
        let Some(session) = self.sessions.get(&who).map(|s| s.id).filter(|_| is_mute) else {
            return Vec::new();
        };
        let client_ms = at_ms + self.rng.within(1, GIVES_UP_MS);
        let broker_ms = client_ms + self.rng.within(1, 200);
        vec![
            (client_ms, Packet::Closed { to: who, session }),
            (broker_ms, Packet::Dropped { of: who, session }),
        ]
    }

    fn give_up(&mut self, who: Party, is_bad: bool, at_ms: u64) -> Sent {
        let Some(session) = self.sessions.get(&who).map(|s| s.id).filter(|_| is_bad) else {
            return Vec::new();
        };
        let client_ms = at_ms + self.rng.within(1, GIVES_UP_MS);
        vec![
            (client_ms, Packet::Closed { to: who, session }),
            (at_ms + GIVES_UP_MS, Packet::Dropped { of: who, session }),
        ]
    }

    /// The broker goes down: all connections end. It may come back knowing nothing.
    pub fn stop_broker(&mut self, forgets: bool, at_ms: u64) -> Sent {
        self.is_up = false;
        if forgets {
            self.retained.clear();
        }
        let sessions = std::mem::take(&mut self.sessions);
        let closed = |(party, old): (Party, Session)| {
            (at_ms + self.rng.within(1, 1_000), Packet::Closed { to: party, session: old.id })
        };
        sessions.into_iter().map(closed).collect()
    }

    /// The broker is there again.
    pub const fn start_broker(&mut self) {
        self.is_up = true;
    }

    /// A client publishes: topic, bytes, and whether the broker keeps it.
    pub fn publish(
        &mut self,
        from: Party,
        session: u64,
        (topic, payload, retain): (String, Vec<u8>, bool),
        at_ms: u64,
    ) -> Sent {
        let is_heard = self.is_up && self.has_session(from, session) && !self.link(from).is_deaf;
        let packet = Packet::AtBroker { topic, payload, retain };
        self.carry(from, true, is_heard, packet, at_ms)
    }

    /// The broker passes a message on to those who want it.
    pub fn route(&mut self, topic: &str, payload: &[u8], retain: bool, to: &[Party], at_ms: u64) -> Sent {
        if !self.is_up {
            self.traffic.lost += 1;
            return Vec::new();
        }
        if retain {
            self.retained.insert(topic.to_owned(), payload.to_vec());
        }
        let mut sent = Vec::new();
        for &to in to {
            let Some(session) = self.sessions.get(&to).map(|s| s.id) else { continue };
            let packet = Packet::AtClient {
                to,
                session,
                topic: topic.to_owned(),
                payload: payload.to_vec(),
                retained: false,
            };
            let is_heard = !self.link(to).is_mute;
            sent.extend(self.carry(to, false, is_heard, packet, at_ms));
        }
        sent
    }

    /// Presence is neither lost nor overtaken while a connection lasts: MQTT keeps the order of a topic, and an agent
    /// that had the last word wrong would be right to wait.
    fn carry(&mut self, of: Party, is_up: bool, is_heard: bool, packet: Packet, at_ms: u64) -> Sent {
        let link = *self.link(of);
        let is_presence = matches!(&packet, Packet::AtBroker { topic, .. } | Packet::AtClient { topic, .. }
            if topic.starts_with("gapless/v1/collectors/"));
        if !is_heard || link.is_down || (!is_presence && self.rng.per_mille(link.loses)) {
            self.traffic.lost += 1;
            return Vec::new();
        }
        let mut arrives_ms = self.transmitted_ms(of, is_up, &packet, at_ms);
        if !is_presence && self.rng.per_mille(link.delays) {
            arrives_ms += self.rng.within(1, DELAY_MS_MAX);
            self.traffic.delayed += 1;
        }
        self.traffic.delivered += 1;
        let mut sent = vec![(arrives_ms, packet.clone())];
        if !is_presence && self.rng.per_mille(link.repeats) {
            sent.push((arrives_ms + self.rng.within(0, DELAY_MS_MAX), packet));
            self.traffic.repeated += 1;
        }
        sent
    }

    /// When the last byte has arrived: after those before it, and not faster than the link allows.
    fn transmitted_ms(&mut self, of: Party, is_up: bool, packet: &Packet, at_ms: u64) -> u64 {
        let flight_ms = self.rng.within(1, 60);
        let bytes = match packet {
            Packet::AtBroker { topic, payload, .. } | Packet::AtClient { topic, payload, .. } => {
                (topic.len() + payload.len() + OVERHEAD_BYTES) as u64
            }
            Packet::Opened { .. } | Packet::Closed { .. } | Packet::Dropped { .. } => 0,
        };
        let link = self.links.entry(of).or_default();
        let wire_ms = link.rate.map_or(0, |rate| bytes * 1_000 / rate.max(1));
        let busy_until_ms = if is_up { &mut link.busy_until_ms.0 } else { &mut link.busy_until_ms.1 };
        *busy_until_ms = (at_ms + flight_ms).max(*busy_until_ms) + wire_ms;
        *busy_until_ms
    }
}
