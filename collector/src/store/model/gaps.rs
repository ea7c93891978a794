//! Gaps, their histories, and what is known of slots.

use gapless_common::id::{Commit, DeviceId, SiteId};
use gapless_common::quality::Cause;
use gapless_common::time::Timestamp;

use crate::gaps::life::Phase;

/// How a proven gap stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapState {
    /// Nothing has filled it.
    Missing(Phase),
    /// Its readings came after all.
    Filled,
}

/// Which states of a gap are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapChoice {
    /// Those in this one.
    Only(GapState),
    /// All that are not filled.
    Unfilled,
}

/// A run of slots proven to be missing.
#[derive(Debug, Clone, PartialEq)]
pub struct GapRow {
    /// Its number.
    pub id: i64,
    /// Its site.
    pub site: SiteId,
    /// Its device.
    pub device: DeviceId,
    /// Instant of its first slot.
    pub from: Timestamp,
    /// One interval after its last slot.
    pub to: Timestamp,
    /// Number of slots.
    pub slots: u64,
    /// Why.
    pub cause: Cause,
    /// How it stands.
    pub state: GapState,
    /// When it was proven.
    pub opened_at: Timestamp,
    /// When it was filled.
    pub closed_at: Option<Timestamp>,
    /// Attempts to fill it that brought nothing.
    pub attempts: u32,
    /// When its source is asked next; `None` while it is asked, or where it never will be.
    pub next_try_at: Option<Timestamp>,
    /// When it is given up, where nobody can be asked for it and it is not yet.
    pub given_up_at: Option<Timestamp>,
    /// Who can be asked for it: the attribute `history` of its device, where that can be asked.
    pub source: Option<String>,
    /// What it waits for once it is due, where that is not there now.
    pub waits_for: Option<Awaited>,
    /// The commit that changed it last.
    pub changed: Commit,
}

/// What a gap waits for that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// Its agent, which is away.
    Agent,
    /// Its source, which cannot reach its device.
    Reach,
    /// The end of another request to its device.
    Turn,
    /// A reading of its device itself that is newer than it: until one has come, what is missing may come the usual way.
    Newer,
}

/// A line of a gap's history.
#[derive(Debug, Clone, PartialEq)]
pub struct GapEventRow {
    /// Of which gap: itself, or one that it was cut off.
    pub gap: i64,
    /// When.
    pub at: Timestamp,
    /// By which commit.
    pub commit: Commit,
    /// What happened, as a word.
    pub event: &'static str,
    /// Who did it: `collector`, `agent NAME` or `token NAME`.
    pub actor: String,
    /// The cause that was told then.
    pub cause: Option<Cause>,
    /// When something was due next.
    pub next_at: Option<Timestamp>,
    /// More, for people.
    pub detail: Option<String>,
}

/// Which gaps; `None` asks for all. In ascending order of id.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GapFilter {
    /// Of this site.
    pub site: Option<SiteId>,
    /// Of this device.
    pub device: Option<DeviceId>,
    /// In such a state.
    pub state: Option<GapChoice>,
    /// That end after this instant.
    pub from: Option<Timestamp>,
    /// That begin before this instant.
    pub to: Option<Timestamp>,
    /// Changed after this commit.
    pub changed_after: Option<Commit>,
    /// With a greater id: where an earlier page ended.
    pub after: Option<i64>,
    /// At most so many.
    pub limit: usize,
}

/// What is known of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlotState {
    /// A reading is stored.
    Received,
    /// The agent said why there is none; `proven` once it is a gap.
    Missed(Cause),
    /// Proven to be missing.
    Lost(Cause),
    /// Its reading may still be on its way.
    Late,
    /// Nothing is known, for longer than the agent's rhythm explains.
    Unknown,
}

/// A run of slots of one device in one state; half open.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StripRun {
    /// Instant of the first slot.
    pub from: Timestamp,
    /// One interval after the last slot.
    pub to: Timestamp,
    /// Number of slots.
    pub slots: u64,
    /// Their state.
    pub state: SlotState,
}
