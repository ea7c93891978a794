//! The ledger: which records of each agent are accounted for, and which slots of each device were received,
//! missed, or are proven to be missing.
//!
//! Calling contract: tell it every record of every frame in any order and any number of times ([`Ledger::start`],
//! [`Ledger::mark`], [`Ledger::loss`], [`Ledger::received`], [`Ledger::missed`], [`Ledger::account`]), then call
//! [`Ledger::settle`] once before the transaction commits, and write down what [`Ledger::take_changes`] names in
//! that transaction; after a failed transaction throw the ledger away and load it again.
//!
//! Pure: the runs of slots lie behind [`Slots`], time is given. It knows nothing of values, topics or SQL.
//!
//! Why delivery order cannot matter: what is received or missed is painted as it comes, and a better word always
//! wins (received, then missed, then what proof says). What depends on order (catalogs, downtimes, declarations
//! of completeness) waits as *marks* until every seq before it, and every earlier epoch, is accounted for.

mod agent;
mod causes;
mod chain;
#[cfg(test)]
mod clock_tests;
#[cfg(test)]
mod clone_tests;
mod correction;
mod forget;
#[cfg(test)]
mod forget_tests;
pub mod freshness;
mod link;
mod paint;
pub mod plausible;
mod room;
mod settle;
#[cfg(test)]
mod span_tests;
mod spans;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gapless_common::id::{CatalogHash, Commit, Epoch, Incarnation};
use gapless_common::message::{ACK_EPOCHS_MAX, ACK_RANGES_MAX, Ack, EpochAck};
use gapless_common::quality::Cause;
use gapless_common::ranges::RangeSet;
use gapless_common::time::{Slot, SlotGrid, Timestamp};

pub use agent::{Agent, EpochState, Held, Position, missing};
pub use chain::LOSSES_MAX;
pub use forget::{CORRECTIONS_MAX, DOWNTIMES_MAX, EPOCHS_FINISHED_MAX, FORGOTTEN_MAX, Forgotten};
pub use paint::{Gap, Known, Run};
pub use room::{EPOCH_MARKS_MAX, EPOCHS_UNFINISHED_MAX, MARKS_MAX, RANGES_MAX};

/// Number of an agent's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentNo(pub i64);

/// Number of a grid's row: one slot grid of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GridNo(pub i64);

/// Number of a device's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceNo(pub i64);

/// Where the runs of slots and the gaps are kept. All ranges are inclusive.
pub trait Slots {
    /// Why it could not.
    type Error;

    /// The runs that overlap `first..=last` or touch it, in order.
    ///
    /// # Errors
    /// The storage failed, as for every method here.
    fn runs(&mut self, grid: GridNo, first: i64, last: i64) -> Result<Vec<Run>, Self::Error>;

    /// Puts `new` in the place of `old`.
    ///
    /// # Errors
    /// The storage failed.
    fn replace_runs(&mut self, grid: GridNo, old: &[Run], new: &[Run]) -> Result<(), Self::Error>;

    /// The first slot from `from` on that anything is known of.
    ///
    /// # Errors
    /// The storage failed.
    fn first_known(&mut self, grid: GridNo, from: i64) -> Result<Option<i64>, Self::Error>;

    /// The gaps that overlap `first..=last` or touch it, in order.
    ///
    /// # Errors
    /// The storage failed.
    fn gaps(&mut self, grid: GridNo, first: i64, last: i64) -> Result<Vec<Gap>, Self::Error>;

    /// Puts `new` in the place of `old`; a gap with id 0 is new.
    ///
    /// # Errors
    /// The storage failed.
    fn replace_gaps(
        &mut self,
        grid: GridNo,
        times: SlotGrid,
        old: &[Gap],
        new: &[Gap],
    ) -> Result<(), Self::Error>;
}

/// When one device of a catalog is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The device.
    pub device: DeviceNo,
    /// Its grid's row.
    pub grid: GridNo,
    /// Its grid.
    pub times: SlotGrid,
    /// No slot of it is due.
    pub paused: bool,
}

/// What a catalog means for the ledger: its devices in the order that `DeviceIndex` counts.
pub type Schedule = Arc<Vec<Due>>;

/// A record that takes effect only when everything before it is accounted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// A catalog comes into force.
    Catalog {
        /// Which.
        hash: CatalogHash,
        /// From when on; `None` where the clock was not set.
        since: Option<Timestamp>,
    },
    /// The agent polled nothing.
    Downtime {
        /// From this instant.
        from: Timestamp,
        /// Before this one.
        to: Timestamp,
        /// Why.
        cause: Cause,
    },
    /// These devices are accounted for up to these slots.
    Complete {
        /// The catalog they are of.
        hash: CatalogHash,
        /// Per grid the last slot.
        through: BTreeMap<GridNo, Slot>,
    },
}

/// A time in which an agent owes the slots of a device's grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its row.
    pub id: i64,
    /// Who owes.
    pub agent: AgentNo,
    /// The device.
    pub device: DeviceNo,
    /// Its grid's row.
    pub grid: GridNo,
    /// Its grid.
    pub times: SlotGrid,
    /// First slot due; `None` until the clock says.
    pub first: Option<Slot>,
    /// Last slot due; `None` while it goes on. Where it lies after `proven`, the device has moved to another
    /// agent and this one has not accounted for all yet.
    pub last: Option<Slot>,
    /// Everything up to here is proven.
    pub proven: Option<Slot>,
    /// The place of the declaration that proved it.
    pub proven_at: Position,
}

/// What must be written down with the transaction.
#[derive(Debug, Default)]
pub struct Changes {
    /// Spans that are new or changed.
    pub spans: BTreeMap<i64, Span>,
    /// Agents whose own row changed.
    pub agents: BTreeSet<AgentNo>,
    /// Epochs that changed.
    pub epochs: BTreeSet<(AgentNo, Epoch)>,
    /// Marks that came or went (`None`).
    pub marks: BTreeMap<(AgentNo, Epoch, u64), Option<Mark>>,
    /// Downtimes that took effect.
    pub downtimes: Vec<(AgentNo, Position, Downtime)>,
    /// Agents whose catalog came into force, and the one before it.
    pub in_force: BTreeMap<AgentNo, Option<CatalogHash>>,
    /// Catalogs that came into force, in order.
    pub came: Vec<Came>,
    /// Losses that are new.
    pub losses: Vec<(AgentNo, gapless_common::reading::Loss)>,
    /// Losses whose time is forgotten; to be taken away after the new ones are written.
    pub forgotten: Vec<(AgentNo, gapless_common::reading::Loss)>,
    /// Epochs that are forgotten, numbers of such ones that are no longer kept, and such ones that a birth woke.
    pub forgotten_epochs: BTreeSet<(AgentNo, Epoch)>,
    /// Downtimes that are of no more use; to be taken away after the new ones are written.
    pub forgotten_downtimes: Vec<(AgentNo, Position)>,
    /// Corrections beyond their bound.
    pub forgotten_corrections: Vec<(AgentNo, gapless_common::reading::ClockCorrection)>,
}

/// A catalog that came into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Came {
    /// Whose.
    pub agent: AgentNo,
    /// Which.
    pub hash: CatalogHash,
    /// The one that was in force until then.
    pub before: Option<CatalogHash>,
    /// Since when; `None` where the agent's clock was not set.
    pub since: Option<Timestamp>,
}

/// A downtime that took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Downtime {
    /// From this instant.
    pub from: Timestamp,
    /// Before this one.
    pub to: Timestamp,
    /// Why.
    pub cause: Cause,
}

/// When and by which commit gaps are opened and closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The time of the transaction.
    pub at: Timestamp,
    /// Its number.
    pub commit: u64,
}

/// Something a person must look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Two outboxes write under one agent id at the same time.
    ClonedAgent {
        /// The epoch that had been superseded and came back.
        returned: Epoch,
        /// The one that had superseded it.
        other: Epoch,
    },
}

/// The ledger of all agents. See the module's text for the order of calls.
#[derive(Debug, Default)]
pub struct Ledger {
    agents: BTreeMap<AgentNo, Agent>,
    /// The open span of each device: at most one, whichever agent.
    open: BTreeMap<DeviceNo, Span>,
    /// Spans of devices that another agent has by now, by the agent that still owes them.
    leaving: BTreeMap<AgentNo, Vec<Span>>,
    /// Up to where each grid was ever proven: gaps lie there and before.
    proven: BTreeMap<GridNo, i64>,
    /// Whose each grid is.
    devices: BTreeMap<GridNo, DeviceNo>,
    /// The devices with an open span, by agent.
    owed: BTreeMap<AgentNo, BTreeSet<DeviceNo>>,
    /// Downtimes whose turn has passed.
    overdue: Vec<(AgentNo, Downtime)>,
    /// Grids and what is known of them.
    times: BTreeMap<GridNo, SlotGrid>,
    received: BTreeMap<GridNo, Vec<i64>>,
    missed: Vec<(GridNo, i64, i64, Cause)>,
    last_span: i64,
    finished_max: forget::FinishedMax,
    changes: Changes,
}

impl Ledger {
    /// A ledger as it was written down: its agents, the spans that are open or owed still, and up to where each
    /// grid was ever proven. `last_span` is the greatest span id ever used.
    #[must_use]
    pub fn load(
        agents: BTreeMap<AgentNo, Agent>,
        spans: Vec<Span>,
        proven: BTreeMap<GridNo, i64>,
        last_span: i64,
    ) -> Self {
        let mut ledger = Self { agents, last_span, proven, ..Self::default() };
        spans.into_iter().for_each(|span| ledger.load_span(span));
        ledger
    }

    /// The agent, as far as it is known.
    #[must_use]
    pub fn agent(&self, no: AgentNo) -> Option<&Agent> {
        self.agents.get(&no)
    }

    /// All agents.
    pub fn agents(&self) -> impl Iterator<Item = (AgentNo, &Agent)> {
        self.agents.iter().map(|(&no, agent)| (no, agent))
    }

    /// Whether a slot lies in proven time: where it is absent it is a gap.
    #[must_use]
    pub fn is_proven(&self, grid: GridNo, slot: Slot) -> bool {
        self.proven.get(&grid).is_some_and(|&proven| slot.0 <= proven)
    }

    /// What must be written down since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Where every epoch of an agent stands: the newest [`ACK_EPOCHS_MAX`] that the agent holds or that `also`
    /// names. Answer with it what was read after the commit that it names.
    #[must_use]
    pub fn ack(&self, no: AgentNo, also: &[Epoch], incarnation: Incarnation, commit: Commit) -> Ack {
        let mut epochs: Vec<Epoch> = also.to_vec();
        if let Some(agent) = self.agents.get(&no) {
            epochs.extend(agent.held.epochs.iter().rev().map(|h| h.epoch));
        }
        let mut seen = BTreeSet::new();
        epochs.retain(|e| seen.insert(*e));
        epochs.truncate(ACK_EPOCHS_MAX);
        let agent = self.agents.get(&no);
        let forgotten = |epoch: Epoch| agent.is_some_and(|a| a.forgotten.contains(epoch));
        let state = |epoch: Epoch| {
            agent.and_then(|a| a.epochs.get(&epoch)).map_or_else(
                || EpochAck {
                    epoch,
                    watermark: gapless_common::id::Seq(if forgotten(epoch) { plausible::SEQ_MAX } else { 0 }),
                    above: Vec::new(),
                    parked: Vec::new(),
                },
                |state| state.ack(epoch),
            )
        };
        Ack { incarnation, commit, epochs: epochs.into_iter().map(state).collect() }
    }

    /// The mutable state of an agent; made where it is new.
    pub(crate) fn agent_mut(&mut self, no: AgentNo) -> &mut Agent {
        self.agents.entry(no).or_default()
    }

    fn epoch_mut(&mut self, no: AgentNo, epoch: Epoch) -> &mut EpochState {
        self.changes.epochs.insert((no, epoch));
        self.agent_mut(no).epochs.entry(epoch).or_default()
    }
}

/// The first [`ACK_RANGES_MAX`] ranges of a set above `watermark`.
fn ranges_above(set: &RangeSet, watermark: u64) -> Vec<(gapless_common::id::Seq, gapless_common::id::Seq)> {
    use gapless_common::id::Seq;
    let above = set.iter().filter(|&(_, last)| last > watermark);
    above.take(ACK_RANGES_MAX).map(|(first, last)| (Seq(first), Seq(last))).collect()
}
