//! Bugs that can be planted, one at a time and at run time, to see that the simulation catches each of them. Only a build
//! with the feature `planted` has them, and no release does: without it [`has`] is `false` at compile time.
//!
//! Each stands in the product's code as one condition at the place where somebody could have made that mistake.

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bug {
    /// The collector acknowledges, and commits later.
    AcknowledgeBeforeCommit,
    /// The journal takes a batch for durable that it never synced.
    SkipFsync,
    /// The uplink takes a frame for stored once it is sent.
    TrimOnPuback,
    /// The collector stores what it has already.
    SkipDedup,
    /// An outbox that is opened again goes on under the same epoch, from the first seq.
    ReuseSeq,
    /// The outbox drops its oldest segment without a loss.
    DropInSilence,
    /// The bus takes whatever answer comes next.
    AcceptLateAnswer,
    /// The collector's watermark is the last seq that it has.
    WatermarkPastHole,
    /// The agent sends records in the order of the wall clock.
    StepReorders,
    /// The collector closes a gap as soon as a reading beside it has come.
    GapClosedEarly,
    /// The collector closes a gap as soon as its device has been asked for it.
    GapClosedOnRequest,
    /// The agent takes a loss for told without a record of it.
    LossNotSent,
    /// The bus tells nothing of the slots between two probes.
    SilentBackOff,
    /// The receiver does not look at the CRC.
    IgnoreCrc,
    /// The uplink never goes back to what was polled before the connection.
    ForgetBacklog,
    /// The agent declares a slot complete that has not ended.
    DeclareAhead,
    /// In the ledger a miss is a better word than a reading.
    MissOverReading,
    /// The ledger settles an epoch before the one that it follows is finished.
    SettleUnfinished,
    /// The ledger takes a downtime for none.
    IgnoreDowntime,
    /// The collector stores all of an answer but its second channel.
    DropSample,
    /// A clock that was set later puts readings an hour off.
    ShiftCorrection,
    /// The bus calls a device silent whose turn it was late for.
    FalseMiss,
    /// A logger's table takes a record for told that it has not told.
    RecordNotTold,
    /// A meter's load profile does the same.
    ProfileNotTold,
    /// The collector takes a message to people for told though its receiver was away.
    DeliveryForgotten,
    /// An alert stays raised though all is well again.
    AlertStands,
    /// A lease of live readings has no end.
    LeaseForEver,
    /// An agent says that it took a lease, and gathers as before.
    LeaseUnheard,
    /// That an agent is gone is never beyond what people are told of.
    AgentUntold,
    /// That the broker is away is not either.
    BrokerUntold,
    /// A source of the collector takes a window for read that its API did not give.
    WindowPassedOver,
    /// A source of the collector does not wait as its API asks it to.
    RetryAfterIgnored,
    /// A source makes more calls than its account allows.
    CallsBeyondLimit,
    /// A source goes on asking for a device whose consent was withdrawn.
    ConsentIgnored,
    /// A source that is started again does not know any more that consent was withdrawn.
    ConsentForgotten,
    /// What a device owes when its consent is withdrawn is not named.
    OwedUnnamed,
    /// A source that could not reach a device never asks for it again.
    UnreachableForEver,
    /// A source takes all of an answer but its first row.
    FirstRowDropped,
    /// What another device lent stays though the device's own reading of that slot has come.
    LentStays,
    /// The aggregation of what is lent is not looked at.
    LentUnmatched,
    /// What is lent counts as a reading of the device's own where it is asked how fresh that is.
    LentFresh,
    /// What is lent is not marked.
    LentUnmarked,
    /// A source asks for a window whatever the word for its device says.
    WordUnheeded,
    /// A source that says what has changed is never read anew.
    NeverReadAnew,
    /// What a device has changed in takes the place of what it had changed in before, and was not read yet.
    ChangesReplaced,
    /// A source goes by a token whose time is over.
    TokenPastItsTime,
    /// A source asks for a token once more, though the one before it was of no use a moment ago.
    TokenStorm,
    /// A list of devices that broke off is taken for a whole one.
    ListUnfinished,
    /// A device is removed by the first listing that lacks it.
    AbsenceBelieved,
    /// One that is listed again is not asked again.
    RemovedForEver,
    /// A collector that is started again does not know any more which devices are removed.
    RemovalForgotten,
    /// A file of a drop is known to have been read before its rows are stored.
    FileKnownTooSoon,
    /// A last line without its end is taken for a whole one.
    HalfLineRead,
    /// The bus polls a device on that it was told to pause.
    PolledOn,
    /// An agent that is started anew is not told any more whom to pause.
    PauseForgotten,
    /// The agent says nothing of the slots between the last poll of a device and the catalog that has it paused.
    PausedUnsaid,
    /// A file that could not be read is not tried again.
    FileGivenUp,
    /// A folder that is not mounted is taken for an empty one.
    EmptyBelieved,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 58] = [
        Self::AcknowledgeBeforeCommit,
        Self::SkipFsync,
        Self::TrimOnPuback,
        Self::SkipDedup,
        Self::ReuseSeq,
        Self::DropInSilence,
        Self::AcceptLateAnswer,
        Self::WatermarkPastHole,
        Self::StepReorders,
        Self::GapClosedEarly,
        Self::GapClosedOnRequest,
        Self::LossNotSent,
        Self::SilentBackOff,
        Self::IgnoreCrc,
        Self::ForgetBacklog,
        Self::DeclareAhead,
        Self::MissOverReading,
        Self::SettleUnfinished,
        Self::IgnoreDowntime,
        Self::DropSample,
        Self::ShiftCorrection,
        Self::FalseMiss,
        Self::RecordNotTold,
        Self::ProfileNotTold,
        Self::DeliveryForgotten,
        Self::AlertStands,
        Self::LeaseForEver,
        Self::LeaseUnheard,
        Self::AgentUntold,
        Self::BrokerUntold,
        Self::WindowPassedOver,
        Self::RetryAfterIgnored,
        Self::CallsBeyondLimit,
        Self::ConsentIgnored,
        Self::ConsentForgotten,
        Self::OwedUnnamed,
        Self::UnreachableForEver,
        Self::FirstRowDropped,
        Self::LentStays,
        Self::LentUnmatched,
        Self::LentFresh,
        Self::LentUnmarked,
        Self::WordUnheeded,
        Self::NeverReadAnew,
        Self::ChangesReplaced,
        Self::TokenPastItsTime,
        Self::TokenStorm,
        Self::ListUnfinished,
        Self::AbsenceBelieved,
        Self::RemovedForEver,
        Self::RemovalForgotten,
        Self::FileKnownTooSoon,
        Self::HalfLineRead,
        Self::PolledOn,
        Self::PauseForgotten,
        Self::PausedUnsaid,
        Self::FileGivenUp,
        Self::EmptyBelieved,
    ];
}

#[cfg(feature = "planted")]
mod chosen {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// From now on this thread's code has this bug, or none.
    pub fn plant(bug: Option<Bug>) {
        CHOSEN.set(bug);
    }

    /// Whether this thread's code has this bug.
    #[must_use]
    pub fn has(bug: Bug) -> bool {
        CHOSEN.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub use chosen::{has, plant};

/// Whether the code has this bug: it has none.
#[cfg(not(feature = "planted"))]
#[must_use]
pub const fn has(_: Bug) -> bool {
    false
}
