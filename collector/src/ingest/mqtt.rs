//! The MQTT shell: hands messages to the writer, sends its answers, and acknowledges to the broker what is
//! committed. Decides nothing about frames.
//!
//! It never waits for the writer while the writer waits for it: its own task holds what either side cannot take
//! yet, bounded. After any error the client is thrown away; what the broker had not been told stays with it or
//! with the agent, and comes again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gapless_common::id::Incarnation;
use gapless_common::message::Presence;
use gapless_common::topic::{UP_FILTER, presence};
use gapless_common::wire::{self, FRAME_BYTES_MAX, Message};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, Incoming, LastWill, MqttOptions, Publish, QoS,
    TlsConfiguration, Transport,
};
use tokio::sync::{mpsc, watch};

use super::turns::Turns;
use super::{Inbound, Outbound, Task};
use crate::api::Health;
use crate::clock;

/// Packet bytes either way: a frame, its topic and header.
const PACKET_BYTES_MAX: usize = FRAME_BYTES_MAX + (8 << 10);
/// Requests that the client holds.
const REQUESTS_MAX: usize = 512;
/// Events of the client that wait for the shell.
const EVENTS_MAX: usize = 64;
/// Messages that the shell holds for the writer, and their bytes; beyond it the connection is given up, and they
/// come again.
const HELD_MAX: usize = 2_048;
const HELD_BYTES_MAX: usize = 32 << 20;
/// Answers that the shell holds for the client; it takes no more from the writer beyond it.
const ANSWERS_MAX: usize = 2_048;
/// Publishes on their way to the broker.
const INFLIGHT: u16 = 100;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(15);
/// A connection that lasted so long was a good one: the next is made at once.
const STEADY: Duration = Duration::from_secs(5);
/// So many in a row that were made, and did not last, have a reason.
const SHORT_MAX: u32 = 3;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// Where the broker is, and who we are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The collector's name: part of its client id and of its presence topic.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User and password.
    pub credentials: Option<(String, String)>,
    /// TLS, with this file of certificate authorities.
    pub tls: Option<PathBuf>,
    /// The database's life, told with the presence.
    pub incarnation: Incarnation,
}

/// Why the shell cannot be set up or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The certificate authorities could not be read.
    #[error("cannot read the certificate authorities {path}")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The presence could not be written.
    #[error("the presence could not be written")]
    Presence(#[from] wire::EncodeError),
    /// Nothing can be stored any more.
    #[error("the writer has ended: nothing more can be stored")]
    WriterGone,
}

/// What the shell talks to.
#[derive(Debug)]
pub struct Ends {
    /// To the writer.
    pub inbound: mpsc::Sender<Task>,
    /// From the writer.
    pub outbound: mpsc::Receiver<Outbound>,
    /// Whether the broker is there.
    pub health: Arc<Health>,
    /// Becomes `true` to end.
    pub shutdown: watch::Receiver<bool>,
}

/// Keeps a connection until `shutdown`, then says goodbye. Dropping `inbound` at its end lets the writer finish.
///
/// # Errors
/// [`SetupError`], at once, or as soon as the writer is gone; a broker that is away is no error.
pub async fn run(options: Options, mut ends: Ends) -> Result<(), SetupError> {
    let mqtt = client_options(&options)?;
    let online = said(&options, true)?;
    let topic = presence(&options.name);
    let (mut generation, mut pause, mut short) = (0_u64, RETRY_FIRST, 0_u32);
    while !*ends.shutdown.borrow() {
        generation += 1;
        let (client, events) = AsyncClient::new(mqtt.clone(), REQUESTS_MAX);
        let mut session = Session::new(client, generation, (topic.clone(), online.clone()));
        let began = Instant::now();
        let ended = session.run(pump(events), &mut ends).await;
        ends.health.set_receiving(false);
        let is_steady = session.subscribed && began.elapsed() >= STEADY;
        if is_steady {
            pause = RETRY_FIRST;
        }
        short = if session.subscribed && !is_steady { short + 1 } else { 0 };
        match ended {
            Ended::Shutdown => {
                let offline = said(&options, false)?;
                session.goodbye(&topic, offline).await;
            }
            Ended::WriterGone => return Err(SetupError::WriterGone),
            Ended::Failed(why) => {
                tracing::warn!(broker = %format!("{}:{}", options.host, options.port), why, retry_in = ?pause, "broker away");
                if short == SHORT_MAX {
                    // A broker ends the connection of whoever had the name before (MQTT 3.1.1, 3.1.4-2).
                    tracing::warn!(
                        name = options.name,
                        "each connection ends as soon as it is made: if another collector has this `name`, give one of them another"
                    );
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = ends.shutdown.changed() => {}
                }
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
    Ok(())
}

/// An error with its sources, each said once: a refused certificate hides behind the transport's error.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let cause = source.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = source.source();
    }
    text
}

fn said(options: &Options, online: bool) -> Result<Vec<u8>, SetupError> {
    let presence = Presence { incarnation: options.incarnation, online };
    Ok(wire::encode(&Message::Presence(presence))?)
}

/// The authorities that the broker's certificate is held against.
///
/// # Errors
/// [`SetupError::Authorities`].
pub fn authorities(path: &Path) -> Result<Vec<u8>, SetupError> {
    std::fs::read(path).map_err(|source| SetupError::Authorities { path: path.to_owned(), source })
}

fn client_options(options: &Options) -> Result<MqttOptions, SetupError> {
    let id = format!("gapless-collector-{}", options.name);
    let mut mqtt = MqttOptions::new(id, &options.host, options.port);
    mqtt.set_clean_session(true)
        .set_manual_acks(true)
        .set_keep_alive(KEEP_ALIVE)
        .set_inflight(INFLIGHT)
        .set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX)
        .set_last_will(LastWill::new(presence(&options.name), said(options, false)?, QoS::AtLeastOnce, true));
    if let Some((user, password)) = &options.credentials {
        mqtt.set_credentials(user, password);
    }
    if let Some(path) = &options.tls {
        // The first caller in the process installs it; a later one finds it there.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = authorities(path)?;
        mqtt.set_transport(Transport::tls_with_config(TlsConfiguration::Simple {
            ca,
            alpn: None,
            client_auth: None,
        }));
    }
    Ok(mqtt)
}

/// The client's event loop on a task of its own: cutting `poll` short would restart a connection under way.
fn pump(mut events: EventLoop) -> mpsc::Receiver<Result<Event, Box<ConnectionError>>> {
    let (sender, receiver) = mpsc::channel(EVENTS_MAX);
    tokio::spawn(async move {
        loop {
            let event = events.poll().await.map_err(Box::new);
            let failed = event.is_err();
            if sender.send(event).await.is_err() || failed {
                return;
            }
        }
    });
    receiver
}

type Events = mpsc::Receiver<Result<Event, Box<ConnectionError>>>;

enum Ended {
    Shutdown,
    WriterGone,
    Failed(String),
}

enum Answer {
    Publish { topic: String, payload: Vec<u8> },
    Committed(Box<Publish>),
}

/// One connection.
struct Session {
    client: AsyncClient,
    /// Upper half of the tokens, so that those of an earlier connection mean nothing.
    generation: u64,
    next_token: u64,
    presence: (String, Vec<u8>),
    subscribed: bool,
    held: Turns,
    /// What the broker waits for, in the order in which it came; of it, what is committed.
    unreleased: BTreeMap<u64, Publish>,
    committed: BTreeSet<u64>,
    answers: VecDeque<Answer>,
    events: Option<Events>,
}

impl Session {
    fn new(client: AsyncClient, generation: u64, presence: (String, Vec<u8>)) -> Self {
        Self {
            client,
            generation,
            next_token: 0,
            presence,
            subscribed: false,
            held: Turns::default(),
            unreleased: BTreeMap::new(),
            committed: BTreeSet::new(),
            answers: VecDeque::new(),
            events: None,
        }
    }

    async fn run(&mut self, mut events: Events, ends: &mut Ends) -> Ended {
        loop {
            self.pass_answers();
            tokio::select! {
                event = events.recv() => match event {
                    Some(Ok(event)) => {
                        if let Err(why) = self.event(event, &ends.health) {
                            return Ended::Failed(why);
                        }
                    }
                    Some(Err(error)) => return Ended::Failed(chain(error.as_ref())),
                    None => return Ended::Failed("the client has ended".to_owned()),
                },
                permit = ends.inbound.reserve(), if !self.held.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(message) = self.held.pop() {
                            permit.send(message.into());
                        }
                    }
                    Err(_) => return Ended::WriterGone,
                },
                answer = ends.outbound.recv(), if self.answers.len() < ANSWERS_MAX => match answer {
                    Some(answer) => self.answer(answer),
                    None => return Ended::WriterGone,
                },
                _ = ends.shutdown.changed() => {
                    self.events = Some(events);
                    return Ended::Shutdown;
                }
            }
        }
    }

    fn event(&mut self, event: Event, health: &Health) -> Result<(), String> {
        let Event::Incoming(packet) = event else { return Ok(()) };
        match packet {
            Incoming::ConnAck(_) => {
                self.held.push(Inbound::new_session(clock::now()));
                let (topic, online) = self.presence.clone();
                let subscribed = self.client.try_subscribe(UP_FILTER, QoS::AtLeastOnce);
                subscribed.map_err(|e| e.to_string())?;
                let told = self.client.try_publish(topic, QoS::AtLeastOnce, true, online);
                told.map_err(|e| e.to_string())
            }
            Incoming::SubAck(_) => {
                tracing::info!("connected to the broker");
                self.subscribed = true;
                health.set_receiving(true);
                Ok(())
            }
            Incoming::Publish(publish) => self.take(publish),
            Incoming::Disconnect => Err("the broker has disconnected us".to_owned()),
            _ => Ok(()),
        }
    }

    fn take(&mut self, publish: Publish) -> Result<(), String> {
        if self.held.len() >= HELD_MAX || self.held.bytes() >= HELD_BYTES_MAX {
            return Err("more messages than the writer can take: they will come again".to_owned());
        }
        self.next_token += 1;
        let token = self.generation << 40 | self.next_token;
        self.held.push(Inbound {
            topic: publish.topic.clone(),
            payload: publish.payload.to_vec(),
            at: clock::now(),
            token,
        });
        // The payload is not needed to acknowledge.
        let bare = Publish { payload: Default::default(), ..publish };
        self.unreleased.insert(token, bare);
        Ok(())
    }

    fn answer(&mut self, answer: Outbound) {
        match answer {
            Outbound::Publish { topic, payload } => {
                self.answers.push_back(Answer::Publish { topic, payload });
            }
            Outbound::Release(tokens) => self.release(&tokens),
        }
    }

    /// The writer commits in turns by agent; a broker is owed its acknowledgements in the order in which the messages
    /// came (MQTT 3.1.1, section 4.6), and the embedded one ends the connection where they are not.
    fn release(&mut self, tokens: &[u64]) {
        self.committed.extend(tokens.iter().filter(|token| self.unreleased.contains_key(token)));
        while let Some(first) =
            self.unreleased.first_entry().filter(|first| self.committed.remove(first.key()))
        {
            self.answers.push_back(Answer::Committed(Box::new(first.remove())));
        }
    }

    /// Hands the client what it takes; the rest stays.
    fn pass_answers(&mut self) {
        if !self.subscribed {
            return;
        }
        while let Some(answer) = self.answers.front() {
            let passed = match answer {
                Answer::Publish { topic, payload } => {
                    self.client.try_publish(topic, QoS::AtLeastOnce, false, payload.clone())
                }
                Answer::Committed(publish) => self.client.try_ack(publish),
            };
            if passed.is_err() {
                return;
            }
            self.answers.pop_front();
        }
    }

    /// Tells the broker that we go, within a bounded time.
    async fn goodbye(&mut self, topic: &str, offline: Vec<u8>) {
        let told = self.client.try_publish(topic, QoS::AtLeastOnce, true, offline);
        if told.is_err() || self.client.try_disconnect().is_err() {
            return;
        }
        let Some(events) = &mut self.events else { return };
        let ended = async { while let Some(Ok(_)) = events.recv().await {} };
        // Where the broker does not answer, the last will says the same.
        let _ = tokio::time::timeout(GOODBYE, ended).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What of five messages is released in which steps, and the packets that the broker is then told of.
    fn check(steps: &[(&[u64], &[u16])]) {
        let (client, _events) = AsyncClient::new(MqttOptions::new("test", "127.0.0.1", 1), 10);
        let mut session = Session::new(client, 1, (String::new(), Vec::new()));
        for pkid in 1..=5 {
            let publish = Publish { pkid, ..Publish::new("t", QoS::AtLeastOnce, Vec::new()) };
            session.take(publish).unwrap();
        }
        for (tokens, expected) in steps {
            // Of an earlier connection, too: it means nothing.
            let tokens = tokens.iter().map(|token| 1 << 40 | token).chain([3]).collect();
            session.answer(Outbound::Release(tokens));
            let told: Vec<u16> = std::mem::take(&mut session.answers)
                .into_iter()
                .filter_map(|answer| match answer {
                    Answer::Committed(publish) => Some(publish.pkid),
                    Answer::Publish { .. } => None,
                })
                .collect();
            assert_eq!(told, *expected, "{steps:?}");
        }
    }

    #[tokio::test]
    async fn the_broker_is_told_in_the_order_in_which_the_messages_came() {
        check(&[(&[1, 2], &[1, 2]), (&[3], &[3]), (&[4, 5], &[4, 5])]);
        check(&[(&[5], &[]), (&[1], &[1]), (&[4, 3], &[]), (&[2], &[2, 3, 4, 5])]);
        check(&[(&[5, 4, 3, 2, 1], &[1, 2, 3, 4, 5]), (&[1], &[])]);
    }

    #[tokio::test]
    async fn without_a_writer_the_shell_ends_with_an_error() {
        let options = Options {
            name: "main".to_owned(),
            host: "127.0.0.1".to_owned(),
            port: 1,
            credentials: None,
            tls: None,
            incarnation: Incarnation(1),
        };
        let (inbound, _) = mpsc::channel(1);
        let (_, outbound) = mpsc::channel(1);
        let (_running, shutdown) = watch::channel(false);
        let ended = run(options, Ends { inbound, outbound, health: Arc::default(), shutdown });
        let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
        assert!(matches!(ended, Ok(Err(SetupError::WriterGone))), "{ended:?}");
    }
}
