//! Rows of live on demand: leases of sites, and the bytes that are spent on their links.

use gapless_common::id::{AgentId, SiteId};
use gapless_common::time::Timestamp;

/// How an agent stands to the lease of its site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// It gathers readings before it sends them.
    Gathering,
    /// It was told to send each poll at once, and has not answered yet.
    Told,
    /// It sends each poll at once while the lease lasts.
    Live,
    /// It sends each poll at once as it is.
    AlwaysLive,
    /// It is not connected; it is told when it is back.
    Away,
    /// It cannot.
    Failed,
}

/// An agent of a site, as its lease has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseAgent {
    /// Its name.
    pub agent: AgentId,
    /// How it stands.
    pub state: LeaseState,
    /// Why it cannot.
    pub detail: Option<String>,
}

/// A site's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// Until when it lasts; `None` where nobody watches.
    pub until: Option<Timestamp>,
    /// The site's agents.
    pub agents: Vec<LeaseAgent>,
}

/// Bytes on the links of a site's agents in a day, an estimate (see `gapless_common::cost`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficRow {
    /// The site.
    pub site: SiteId,
    /// Begin of the day (UTC).
    pub day: Timestamp,
    /// From the agents.
    pub received_bytes: u64,
    /// To them.
    pub sent_bytes: u64,
}
