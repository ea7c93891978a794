//! From messages to rows: committer, writer thread, MQTT shell, embedded broker. What is between them, and
//! the bounds of the queues, is here.

mod apply;
mod borrow;
pub mod broker;
mod catalogs;
pub mod committer;
mod errands;
mod housekeep;
mod keep;
mod lease;
mod loan;
mod memory;
pub mod mqtt;
mod orders;
mod speech;
mod turns;
mod warn;
pub mod writer;

use gapless_common::cost::message_bytes;
use gapless_common::time::Timestamp;

pub use lease::Viewing;
pub use orders::{Act, Ask, Asked, HasRead, Order, Orders, Refused, Task, Wish};

/// Messages that wait for the writer at most; 64 KiB each at most, so 16 MiB. Beyond it the shell holds back.
pub const INBOUND_MAX: usize = 256;

/// Answers that wait for the shell at most. The writer waits beyond it; the shell never waits for the writer.
pub const OUTBOUND_MAX: usize = 1024;

/// One message from an agent.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// Its topic.
    pub topic: String,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// When it came.
    pub at: Timestamp,
    /// What the shell wants back once the message is committed, or is not worth keeping.
    pub token: u64,
}

impl Inbound {
    /// The shell's own word, before anything of a new connection: wills may have been missed since the last one,
    /// so nobody counts as connected until born again. No agent publishes under an empty topic.
    #[must_use]
    pub fn new_session(at: Timestamp) -> Self {
        Self { topic: String::new(), payload: Vec::new(), at, token: 0 }
    }

    /// Bytes on the link; none where a source of this process speaks.
    pub(crate) fn link_bytes(&self) -> usize {
        if self.token == 0 { 0 } else { message_bytes(self.topic.len(), self.payload.len()) }
    }

    pub(crate) fn is_new_session(&self) -> bool {
        self.topic.is_empty()
    }
}

/// From the writer to the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outbound {
    /// Send this.
    Publish {
        /// Where to.
        topic: String,
        /// What.
        payload: Vec<u8>,
    },
    /// What these tokens stand for is committed: the broker may forget it.
    Release(Vec<u64>),
}

impl Outbound {
    /// Bytes on the link.
    pub(crate) fn link_bytes(&self) -> usize {
        match self {
            Self::Publish { topic, payload } => message_bytes(topic.len(), payload.len()),
            Self::Release(_) => 0,
        }
    }
}
