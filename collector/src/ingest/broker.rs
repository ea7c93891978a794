//! The embedded broker, for the demo, the bench top and tests: in memory, without access control, so on loopback
//! only. A production site runs Mosquitto.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};

use gapless_common::wire::FRAME_BYTES_MAX;
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

/// Room beyond the frame itself: topic and packet header.
const PAYLOAD_SLACK: usize = 4 << 10;
/// Messages that may be on their way to one client.
const INFLIGHT_MAX: usize = 100;
/// Clients.
const CONNECTIONS_MAX: usize = 1_000;
/// Bytes of one segment of a topic's memory, and how many are kept.
const SEGMENT_BYTES_MAX: usize = 8 << 20;
const SEGMENTS_MAX: usize = 4;

/// Why the embedded broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// It has no access control.
    #[error("the embedded broker has no access control: {0} is not a loopback address")]
    NotLoopback(SocketAddr),
    /// The address is taken.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Starts the broker on a thread that lives as long as the process. Port 0 picks a free one; the answer says
/// which.
///
/// # Errors
/// [`BrokerError`].
pub fn start(listen: SocketAddr) -> Result<SocketAddr, BrokerError> {
    check(listen)?;
    let failed = |source| BrokerError::Listen { address: listen, source };
    // The broker itself ends the process's thread where it cannot bind: so it is tried here first.
    let address = TcpListener::bind(listen).and_then(|l| l.local_addr()).map_err(failed)?;
    let mut broker = Broker::new(config(address));
    let serve = move || {
        if let Err(error) = broker.start() {
            tracing::error!(%error, "the embedded broker has ended");
        }
    };
    std::thread::Builder::new().name("broker".into()).spawn(serve).map_err(failed)?;
    Ok(address)
}

/// Whether it may serve there.
///
/// # Errors
/// [`BrokerError::NotLoopback`].
pub fn check(listen: SocketAddr) -> Result<(), BrokerError> {
    if listen.ip().is_loopback() { Ok(()) } else { Err(BrokerError::NotLoopback(listen)) }
}

fn config(listen: SocketAddr) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 5_000,
        max_payload_size: FRAME_BYTES_MAX + PAYLOAD_SLACK,
        max_inflight_count: INFLIGHT_MAX,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings {
        name: "loopback".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    let router = RouterConfig {
        max_connections: CONNECTIONS_MAX,
        max_outgoing_packet_count: 200,
        max_segment_size: SEGMENT_BYTES_MAX,
        max_segment_count: SEGMENTS_MAX,
        ..RouterConfig::default()
    };
    Config { router, v4: Some(HashMap::from([("1".to_owned(), server)])), ..Config::default() }
}
