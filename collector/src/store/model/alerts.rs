//! Rows about what people are told: alerts, what became of them, receivers; and why a device is not asked.

use gapless_common::id::{AgentId, DeviceId, SiteId};
use gapless_common::time::Timestamp;

use crate::alerts::Kind;

/// An alert.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertRow {
    /// Its number.
    pub id: i64,
    /// What it is about.
    pub kind: Kind,
    /// Where; nowhere where it is about the collector.
    pub site: Option<SiteId>,
    /// The device, where it is about one.
    pub device: Option<DeviceId>,
    /// The agent, where it is about one.
    pub agent: Option<AgentId>,
    /// Its words.
    pub detail: String,
    /// When it was raised.
    pub raised_at: Timestamp,
    /// When a person acknowledged it, and who.
    pub acknowledged: Option<(Timestamp, String)>,
    /// When it was over.
    pub resolved_at: Option<Timestamp>,
    /// Who asked for its device while its source could not reach it.
    pub awaited_by: Option<String>,
}

/// How an alert stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlertState {
    /// Nobody has seen it.
    Open,
    /// Somebody has.
    Acknowledged,
    /// It is over.
    Resolved,
}

impl AlertRow {
    /// How it stands.
    #[must_use]
    pub const fn state(&self) -> AlertState {
        match (&self.acknowledged, self.resolved_at) {
            (_, Some(_)) => AlertState::Resolved,
            (Some(_), None) => AlertState::Acknowledged,
            (None, None) => AlertState::Open,
        }
    }
}

/// Which alerts by their state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlertChoice {
    /// Only those in this state.
    Only(AlertState),
    /// All but those that are over.
    Unresolved,
}

/// Which alerts; `None` asks for all. In ascending order of id.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AlertFilter {
    /// Of this site.
    pub site: Option<SiteId>,
    /// Of this device.
    pub device: Option<DeviceId>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// In such a state.
    pub state: Option<AlertChoice>,
    /// With a greater id: where an earlier page ended.
    pub after: Option<i64>,
    /// At most so many.
    pub limit: usize,
}

/// A line of an alert's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertEventRow {
    /// When.
    pub at: Timestamp,
    /// What happened, as a word.
    pub event: &'static str,
    /// Who did it: `collector` or `token NAME`.
    pub actor: String,
}

/// A receiver of alerts as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReceiverName {
    /// `webhook.NAME` or `mail.NAME`.
    pub name: String,
    /// What it was called before: what that one is owed is told to it.
    pub formerly: Option<String>,
}

/// Somebody who is told of alerts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiverRow {
    /// `webhook.NAME` or `mail.NAME`.
    pub name: String,
    /// Messages that it has accepted.
    pub accepted: u64,
    /// When it accepted the last one.
    pub accepted_at: Option<Timestamp>,
    /// Raised and resolved alerts that it has not been told of yet.
    pub owed: u64,
    /// Tries of the message under way that failed.
    pub failures: u32,
    /// When it is tried next, where a message is under way.
    pub next_try_at: Option<Timestamp>,
    /// Why the last try failed.
    pub last_error: Option<String>,
    /// Messages that it did not want, time and again, and that were set aside.
    pub set_aside: u64,
    /// When the last one was.
    pub set_aside_at: Option<Timestamp>,
    /// Since when it has not been in the configuration.
    pub gone_at: Option<Timestamp>,
}

/// Something that was tidied away by itself, or is asked no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovalRow {
    /// Its number.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// What, as a word.
    pub what: String,
    /// The device, with its site, where it is one.
    pub device: Option<(SiteId, DeviceId)>,
    /// How many.
    pub count: u64,
    /// For people.
    pub detail: String,
}

/// Why a device is asked no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Nothing came of it since it was commissioned.
    Suspended,
    /// Its agreement has ended.
    AgreementEnded,
    /// Nobody confirmed it.
    NotConfirmed,
}

/// Why a device is asked no more, since when, and in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// The reason.
    pub reason: StopReason,
    /// Since when.
    pub since: Timestamp,
    /// For people.
    pub why: String,
}
