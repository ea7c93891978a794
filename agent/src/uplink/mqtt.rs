//! The MQTT shell: one thread that keeps at most one client alive, and the only file that knows `rumqttc`.
//!
//! Decides nothing: it connects when it is told, throws client and event loop away at the first error, and says
//! so. Nothing is kept for the next connection, because the core sends again what was not acknowledged.
//! Publishing and polling are two futures side by side, so that a full queue of requests never stops the polling
//! that empties it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gapless_common::id::ConnectionId;
use gapless_common::topic::{AgentPath, Down, PRESENCE_FILTER, Up};
use rumqttc::{
    AsyncClient, EventLoop, Incoming, LastWill, MqttOptions, NetworkOptions, Outgoing, QoS, SubscribeFilter,
    SubscribeReasonCode, TlsConfiguration, Transport,
};
use tokio::sync::{mpsc, watch};

use crate::config::{Password, Uplink};
use crate::text::chain;

/// Messages between the loop and the thread: the largest window of frames, and room for births and replies.
pub const QUEUE_LEN: usize = 64;

/// Largest packet sent: a frame of 64 KiB, its topic and the fixed header.
const OUTGOING_PACKET_MAX: usize = (64 << 10) + 1_024;

/// Largest packet taken: an acknowledgement of all epochs with all ranges.
const INCOMING_PACKET_MAX: usize = 256 << 10;

/// Unacknowledged PUBLISH packets at most; above [`QUEUE_LEN`] so that it is never what limits.
const PACKETS_IN_FLIGHT: u16 = 200;

/// Time for DNS, TCP, TLS and CONNACK together, and for the flush of one packet.
const CONNECT_TIMEOUT_S: u64 = 20;

/// Time for the goodbye to leave.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where Linux distributions keep the certificates that sign others'.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What the thread tells the loop; each of one connection, so that the loop can tell old ones.
#[derive(Debug)]
pub enum MqttEvent {
    /// Connected and subscribed.
    Connected(ConnectionId),
    /// The client is gone.
    Disconnected(ConnectionId, String),
    /// A message for the agent.
    Message {
        /// The connection that brought it.
        connection: ConnectionId,
        /// Its topic.
        topic: String,
        /// Its bytes.
        payload: Box<[u8]>,
        /// Whether the broker had kept it from before.
        retained: bool,
    },
}

/// The queue to the thread is full, or the thread is gone: the connection counts as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue to the MQTT client is full")]
pub struct QueueFull;

/// Why a connection cannot even be tried.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error("cannot read {what} {}", path.display())]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("no bundle of root certificates in the usual places: name one as `ca_file`")]
    NoRoots,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Control {
    Idle,
    Connect { connection: ConnectionId, will: Vec<u8> },
    Quit,
}

#[derive(Debug)]
enum Outbound {
    Publish { connection: ConnectionId, kind: Up, payload: Vec<u8> },
    Goodbye { connection: ConnectionId, payload: Vec<u8> },
}

/// The loop's end. Nothing here blocks.
#[derive(Debug)]
pub struct Mqtt {
    control: watch::Sender<Control>,
    outbound: mpsc::Sender<Outbound>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Mqtt {
    /// Starts the thread; `report` is called there, and may block.
    ///
    /// # Errors
    /// Where the thread or its runtime cannot be made.
    pub fn spawn(
        uplink: Uplink,
        path: AgentPath,
        report: impl FnMut(MqttEvent) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (control, wanted) = watch::channel(Control::Idle);
        let (outbound, queue) = mpsc::channel(QUEUE_LEN);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut shell = Shell { uplink, path, wanted, queue, report };
        let body = move || runtime.block_on(shell.run());
        let thread = std::thread::Builder::new().name("mqtt".into()).spawn(body)?;
        Ok(Self { control, outbound, thread: Some(thread) })
    }

    /// Throws the client away that there may be, and starts one.
    pub fn connect(&self, connection: ConnectionId, will: Vec<u8>) {
        let _ = self.control.send_replace(Control::Connect { connection, will });
    }

    /// Throws the client away; the broker publishes its will.
    pub fn disconnect(&self) {
        let _ = self.control.send_replace(Control::Idle);
    }

    /// Publishes with QoS 1.
    ///
    /// # Errors
    /// [`QueueFull`].
    pub fn publish(&self, connection: ConnectionId, kind: Up, payload: Vec<u8>) -> Result<(), QueueFull> {
        let message = Outbound::Publish { connection, kind, payload };
        self.outbound.try_send(message).map_err(|_| QueueFull)
    }

    /// Publishes the goodbye after all that is queued, disconnects, and reports that.
    ///
    /// # Errors
    /// [`QueueFull`].
    pub fn goodbye(&self, connection: ConnectionId, payload: Vec<u8>) -> Result<(), QueueFull> {
        self.outbound.try_send(Outbound::Goodbye { connection, payload }).map_err(|_| QueueFull)
    }

    /// Ends the thread. Its reports must still be taken until it has ended.
    pub fn quit(&mut self) -> Option<std::thread::JoinHandle<()>> {
        let _ = self.control.send_replace(Control::Quit);
        self.thread.take()
    }
}

struct Shell<R> {
    uplink: Uplink,
    path: AgentPath,
    wanted: watch::Receiver<Control>,
    queue: mpsc::Receiver<Outbound>,
    report: R,
}

impl<R: FnMut(MqttEvent)> Shell<R> {
    async fn run(&mut self) {
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            match wanted {
                Control::Quit => return,
                Control::Idle => {
                    if self.wanted.changed().await.is_err() {
                        return;
                    }
                }
                Control::Connect { connection, will } => {
                    let why = self.connection(connection, will).await;
                    (self.report)(MqttEvent::Disconnected(connection, why));
                    // One client per request: the core says when to try again.
                    let done = |now: &Control| matches!(now, Control::Connect { connection: c, .. } if *c == connection);
                    if self.wanted.wait_for(|now| !done(now)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Keeps one client until its end; says why it ended.
    async fn connection(&mut self, connection: ConnectionId, will: Vec<u8>) -> String {
        let options = match options(&self.uplink, &self.path, will) {
            Ok(options) => options,
            Err(e) => return chain(&e),
        };
        let (client, mut events) = AsyncClient::new(options, QUEUE_LEN);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(CONNECT_TIMEOUT_S);
        events.set_network_options(network);
        let poll = poll(&mut events, &client, &self.path, connection, &mut self.report);
        let publish = publish(&mut self.queue, &client, &self.path, connection);
        tokio::select! {
            why = poll => why,
            why = publish => why,
            _ = self.wanted.changed() => "thrown away".to_owned(),
        }
    }
}

/// Drives the client until its end.
async fn poll(
    events: &mut EventLoop,
    client: &AsyncClient,
    path: &AgentPath,
    connection: ConnectionId,
    report: &mut impl FnMut(MqttEvent),
) -> String {
    loop {
        match events.poll().await {
            Ok(rumqttc::Event::Incoming(Incoming::ConnAck(_))) => {
                // The queue of requests is empty yet. What is published from now on follows it on the wire.
                if let Err(e) = client.try_subscribe_many(subscriptions(path)) {
                    return format!("cannot subscribe: {e}");
                }
                report(MqttEvent::Connected(connection));
            }
            Ok(rumqttc::Event::Incoming(Incoming::SubAck(ack))) => {
                if ack.return_codes.contains(&SubscribeReasonCode::Failure) {
                    return format!(
                        "the broker refuses a subscription to `{}` or \
                         `{PRESENCE_FILTER}`: allow them in its access list",
                        path.down(Down::Ack)
                    );
                }
            }
            Ok(rumqttc::Event::Incoming(Incoming::Publish(message))) => report(MqttEvent::Message {
                connection,
                payload: message.payload.as_ref().into(),
                topic: message.topic,
                retained: message.retain,
            }),
            Ok(rumqttc::Event::Outgoing(Outgoing::Disconnect)) => return "goodbye".to_owned(),
            Ok(_) => {}
            Err(e) => return e.to_string(),
        }
    }
}

/// Hands what the loop publishes to the client, until the goodbye.
async fn publish(
    queue: &mut mpsc::Receiver<Outbound>,
    client: &AsyncClient,
    path: &AgentPath,
    connection: ConnectionId,
) -> String {
    while let Some(message) = queue.recv().await {
        let sent = match message {
            Outbound::Publish { connection: of, kind, payload } if of == connection => {
                client.publish(path.up(kind), QoS::AtLeastOnce, false, payload).await
            }
            Outbound::Goodbye { connection: of, payload } if of == connection => {
                return goodbye(client, path, payload).await;
            }
            // Meant for an earlier connection.
            Outbound::Publish { .. } | Outbound::Goodbye { .. } => Ok(()),
        };
        if let Err(e) = sent {
            return e.to_string();
        }
    }
    "the agent ended".to_owned()
}

/// Ends by the poll seeing the DISCONNECT leave, or by time.
async fn goodbye(client: &AsyncClient, path: &AgentPath, payload: Vec<u8>) -> String {
    let leave = async {
        client.publish(path.up(Up::State), QoS::AtLeastOnce, false, payload).await?;
        client.disconnect().await?;
        std::future::pending::<Result<(), rumqttc::ClientError>>().await
    };
    match tokio::time::timeout(GOODBYE_TIMEOUT, leave).await {
        Ok(Err(e)) => e.to_string(),
        Ok(Ok(())) | Err(_) => "the goodbye did not leave in time".to_owned(),
    }
}

fn subscriptions(path: &AgentPath) -> Vec<SubscribeFilter> {
    [path.down(Down::Ack), path.down(Down::Command), PRESENCE_FILTER.to_owned()]
        .into_iter()
        .map(|filter| SubscribeFilter::new(filter, QoS::AtLeastOnce))
        .collect()
}

/// Files are read anew for each connection, so that a renewed certificate or password needs no restart.
fn options(uplink: &Uplink, path: &AgentPath, will: Vec<u8>) -> Result<MqttOptions, SetupError> {
    let broker = &uplink.broker;
    let host = if broker.host.contains(':') && !broker.tls {
        format!("[{}]", broker.host)
    } else {
        broker.host.clone()
    };
    let mut options = MqttOptions::new(format!("gapless-{}-{}", path.site, path.agent), host, broker.port);
    options.set_clean_session(true);
    options.set_keep_alive(Duration::from_secs(uplink.keep_alive_s.into()));
    options.set_max_packet_size(INCOMING_PACKET_MAX, OUTGOING_PACKET_MAX);
    options.set_inflight(PACKETS_IN_FLIGHT);
    options.set_last_will(LastWill::new(path.up(Up::State), will, QoS::AtLeastOnce, false));
    if let Some(user) = &uplink.username {
        let password = match &uplink.password {
            Some(Password::Inline(secret)) => secret.reveal().to_owned(),
            Some(Password::File(file)) => read_text("the password from", file)?,
            None => String::new(),
        };
        options.set_credentials(user.clone(), password);
    }
    if broker.tls {
        options.set_transport(Transport::tls_with_config(tls(uplink)?));
    }
    Ok(options)
}

fn tls(uplink: &Uplink) -> Result<TlsConfiguration, SetupError> {
    // Fails where it has been done before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let roots = match &uplink.ca_file {
        Some(file) => file.clone(),
        None => {
            let found = SYSTEM_ROOTS.iter().map(PathBuf::from).find(|file| file.exists());
            found.ok_or(SetupError::NoRoots)?
        }
    };
    let ca = read("certificates from", &roots)?;
    let client_auth = match &uplink.client_certificate {
        Some(own) => Some((
            read("the client certificate", &own.certificate_file)?,
            read("the client key", &own.key_file)?,
        )),
        None => None,
    };
    Ok(TlsConfiguration::Simple { ca, alpn: None, client_auth })
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, SetupError> {
    fs::read(path).map_err(|source| SetupError::File { what, path: path.to_owned(), source })
}

fn read_text(what: &'static str, path: &Path) -> Result<String, SetupError> {
    let text = fs::read_to_string(path);
    let text = text.map_err(|source| SetupError::File { what, path: path.to_owned(), source })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
