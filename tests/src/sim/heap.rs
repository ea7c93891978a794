//! What a simulated process holds of memory, found out as it ends. Whoever runs the simulation lends a counter of
//! allocations, which a library cannot have of its own; without one nothing is weighed.

use std::sync::OnceLock;

/// Ends something, and gives how many bytes of memory it has let go of.
pub type Counter = fn(&mut dyn FnMut()) -> u64;

/// What an agent may hold, in bytes, with what waits for its loop: the outbox in memory that takes the place of a failed disk has
/// a budget of 2 MiB, and all else is small beside it.
pub const AGENT_BYTES_MAX: u64 = 4 << 20;
/// What a collector may hold for the few agents of a run, in bytes, with the messages that wait, and without SQLite.
pub const CENTER_BYTES_MAX: u64 = 4 << 20;

static COUNTER: OnceLock<Counter> = OnceLock::new();

/// All runs of this process are weighed from now on.
pub fn weigh_with(counter: Counter) {
    // A second one would count the same.
    let _ = COUNTER.set(counter);
}

/// How many bytes `end` lets go of; 0 where nothing is weighed.
pub(super) fn freed_by(end: impl FnOnce()) -> u64 {
    let mut end = Some(end);
    let mut once = || end.take().into_iter().for_each(|end| end());
    match COUNTER.get() {
        Some(counter) => counter(&mut once),
        None => {
            once();
            0
        }
    }
}

/// The most that a process has held, in bytes: of those that have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Of any agent.
    pub agent_bytes: u64,
    /// Of the collector.
    pub center_bytes: u64,
}

impl Held {
    /// The more of both.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            agent_bytes: self.agent_bytes.max(other.agent_bytes),
            center_bytes: self.center_bytes.max(other.center_bytes),
        }
    }

    /// What is beyond its bound.
    pub(super) fn excess(self) -> Option<String> {
        let Self { agent_bytes, center_bytes } = self;
        let is_within = agent_bytes <= AGENT_BYTES_MAX && center_bytes <= CENTER_BYTES_MAX;
        (!is_within)
            .then(|| format!("memory: an agent held {agent_bytes} bytes, the collector {center_bytes}"))
    }
}
