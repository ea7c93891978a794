//! What a run reached: the rare things that must happen now and then, or the simulation proves less than it seems to.

use std::collections::BTreeMap;

use gapless_common::ranges::RangeSet;

use super::plan::Mischief;

/// The rare things. A long enough series of runs that misses one of them fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rare {
    /// The collector got records that it had.
    DuplicateFrame,
    /// A frame was committed while earlier records of its epoch were missing: fresh readings overtook a backlog.
    Overtaking,
    /// An outbox cut off a torn tail.
    TornTail,
    /// An outbox met a full disk.
    DiskFull,
    /// An outbox went on in memory because its disk had failed, and came back.
    BackFromMemory,
    /// An agent drew a new epoch on a disk that had one.
    EpochChange,
    /// A wall clock went back.
    ClockBack,
    /// A reading was taken before the clock was set, and got its true time later.
    ClockCorrected,
    /// An outbox named a loss.
    LossRecord,
    /// A loss was of what the budget could not hold.
    BudgetFull,
    /// An outbox quarantined damage.
    Quarantine,
    /// An acknowledgement came from another database than the one before.
    NewIncarnation,
    /// The power went in the middle of a write.
    DiedAtWrite,
    /// An agent was killed in an operation of its disk.
    KilledAtWrite,
    /// One operation of a disk failed, and no other.
    FailedOnce,
    /// The collector died with a transaction that was not committed.
    DiedBeforeCommit,
    /// The collector died with a transaction that was not answered.
    DiedBeforeAnswer,
    /// A gap was filled after it had been told.
    GapFilled,
    /// A device was set aside.
    SetAside,
    /// A frame was kept until its catalog came.
    Parked,
    /// An agent's loop stood still while its disk was slow.
    StoodStill,
    /// The queue of an agent was full, and a thread had to wait.
    QueueFull,
    /// A gap was filled after a device was asked for what it remembers.
    Remembered,
    /// A part of a gap was filled, or asked for by itself.
    GapCut,
    /// A device was asked, and had nothing.
    NoData,
    /// A gap was asked for as often as its schedule says, in vain.
    Abandoned,
    /// A gap was given up that nobody could be asked for.
    Unasked,
    /// A person had an abandoned gap asked for once more.
    Reopened,
    /// A slot was recorded and overwritten before it was read.
    Overwritten,
    /// A device was polled because its data was stale, or somebody asked.
    Refreshed,
    /// A transaction of the collector failed.
    CommitFailed,
    /// A receiver of alerts was told that one is over.
    AlertOver,
    /// A receiver took a message that it had not taken before.
    ToldLater,
    /// A receiver was told the same once more, because the collector was killed before it had noted its answer.
    ToldAgain,
    /// A receiver of alerts did not want a message.
    ToldInVain,
    /// An agent was gone for so long that people were told.
    AgentGone,
    /// The broker was away for so long that people were told.
    BrokerGone,
    /// A viewer of a site was granted a lease of which agents had to be told.
    Watched,
    /// A viewer was granted the lease that another one had.
    LeaseShared,
    /// A viewer left, and agents were told that nobody watches any more.
    LeaseEnded,
    /// An agent was told of a lease, and took it.
    LeaseTaken,
    /// A lease was over, and it was seen that its agent gathered again.
    GathersAgain,
    /// A lease that lasted for more than ten minutes after its viewers had gone was over, and nobody had said so.
    LongLeaseOver,
    /// An API that wanted to be left alone was asked again after that.
    RemoteRested,
    /// A value that an API had put right took the place of the one before.
    RemoteCorrected,
    /// A gap of a source was filled after its API was asked for it.
    RemoteFilled,
    /// Slots of a source are missing because its API could not reach the meter.
    RemoteUnreached,
    /// A device of a source is not asked any more.
    ConsentWithdrawn,
    /// Consent for a device was given anew.
    ConsentGivenAnew,
    /// The collector was killed in a turn of a source.
    DiedInTurn,
    /// It was while two workers had one.
    BothDiedInTurn,
    /// A gap was filled with what another device had recorded.
    LentWhole,
    /// Another device stood in with some of the channels of a slot.
    LentInPart,
    /// A device's own readings took the place of lent ones.
    GaveWay,
    /// What another device had recorded of a missing slot said something else, and was not lent.
    NotLent,
    /// A source was not asked for a window, as its word said that nothing was new.
    WordSpared,
    /// What an API told by its cursor, and nothing else would have read, was stored.
    ChangeTold,
    /// What was put right without a word was found as all was read anew.
    FoundAnew,
    /// An API did not know its cursor any more.
    CursorForgotten,
    /// A token that was refused was renewed, and the call was answered.
    TokenRenewed,
    /// One was renewed before it expired.
    TokenExpired,
    /// Sources of an account went by one token.
    TokenShared,
    /// A list of several pages was read to its end.
    ListPaged,
    /// One broke off after its first page.
    ListBrokenOff,
    /// A device was named again by the next listing after one that lacked it.
    ListNotBelieved,
    /// One that a list named later than others was read.
    DeviceCame,
    /// One was listed no more.
    DeviceRemoved,
    /// One that had been removed was listed again.
    DeviceBack,
    /// A line of a file was found half, and read when it was whole.
    LineCompleted,
    /// A file that came late filled a gap.
    FileFilled,
    /// What was missing because its folder or file could not be read was read later.
    FolderBack,
    /// What a file that was replaced says took the place of what it had said.
    FileCorrected,
    /// What a file held that was gone before it was read is in a gap.
    FileLost,
    /// A device was polled no more, as its agreement had ended.
    Paused,
    /// It was polled no more once more.
    PausedAnew,
    /// It was polled again, as its agreement went on.
    WentOn,
    /// What a file that was written anew in place says took the place of what it had said.
    FileRewritten,
    /// What stands in a file that is called as one before it was stored.
    NameAgain,
    /// A file was longer than one read.
    FileLong,
    /// A file, or all of the folder, went between a look and a read.
    FileSlipped,
    /// A line that is none was named as what is wrong with its slot.
    LineSpoilt,
    /// A line without a value was stored as that.
    ValueNone,
    /// The first look of all into a folder found none, and a later one did.
    FolderLate,
}

impl Rare {
    /// All of them.
    pub const ALL: [Self; 83] = [
        Self::DuplicateFrame,
        Self::Overtaking,
        Self::TornTail,
        Self::DiskFull,
        Self::BackFromMemory,
        Self::EpochChange,
        Self::ClockBack,
        Self::ClockCorrected,
        Self::LossRecord,
        Self::BudgetFull,
        Self::Quarantine,
        Self::NewIncarnation,
        Self::DiedAtWrite,
        Self::KilledAtWrite,
        Self::FailedOnce,
        Self::DiedBeforeCommit,
        Self::DiedBeforeAnswer,
        Self::GapFilled,
        Self::SetAside,
        Self::Parked,
        Self::StoodStill,
        Self::QueueFull,
        Self::Remembered,
        Self::GapCut,
        Self::NoData,
        Self::Abandoned,
        Self::Unasked,
        Self::Reopened,
        Self::Overwritten,
        Self::Refreshed,
        Self::CommitFailed,
        Self::AlertOver,
        Self::ToldLater,
        Self::ToldAgain,
        Self::ToldInVain,
        Self::AgentGone,
        Self::BrokerGone,
        Self::Watched,
        Self::LeaseShared,
        Self::LeaseEnded,
        Self::LeaseTaken,
        Self::GathersAgain,
        Self::LongLeaseOver,
        Self::RemoteRested,
        Self::RemoteCorrected,
        Self::RemoteFilled,
        Self::RemoteUnreached,
        Self::ConsentWithdrawn,
        Self::ConsentGivenAnew,
        Self::DiedInTurn,
        Self::BothDiedInTurn,
        Self::LentWhole,
        Self::LentInPart,
        Self::GaveWay,
        Self::NotLent,
        Self::WordSpared,
        Self::ChangeTold,
        Self::FoundAnew,
        Self::CursorForgotten,
        Self::TokenRenewed,
        Self::TokenExpired,
        Self::TokenShared,
        Self::ListPaged,
        Self::ListBrokenOff,
        Self::ListNotBelieved,
        Self::DeviceCame,
        Self::DeviceRemoved,
        Self::DeviceBack,
        Self::LineCompleted,
        Self::FileFilled,
        Self::FolderBack,
        Self::FileCorrected,
        Self::FileLost,
        Self::Paused,
        Self::PausedAnew,
        Self::WentOn,
        Self::FileRewritten,
        Self::NameAgain,
        Self::FileLong,
        Self::FileSlipped,
        Self::LineSpoilt,
        Self::ValueNone,
        Self::FolderLate,
    ];
}

/// How often each was reached, and how often each kind of bad luck struck.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sometimes {
    /// Of the rare things.
    pub reached: BTreeMap<Rare, u64>,
    /// Of the bad luck.
    pub struck: BTreeMap<Mischief, u64>,
}

impl Sometimes {
    /// One more.
    pub fn reach(&mut self, what: Rare) {
        *self.reached.entry(what).or_default() += 1;
    }

    /// One more.
    pub fn strike(&mut self, what: Mischief) {
        *self.struck.entry(what).or_default() += 1;
    }

    /// A frame with these seqs is committed beside what was committed before.
    pub fn note_frame(&mut self, before: &RangeSet, first: u64, last: u64) {
        if before.contains(first) || before.contains(last) {
            self.reach(Rare::DuplicateFrame);
        } else if first > before.watermark(1) + 1 && !before.is_empty() {
            self.reach(Rare::Overtaking);
        }
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.reached {
            *self.reached.entry(*what).or_default() += count;
        }
        for (what, count) in &other.struck {
            *self.struck.entry(*what).or_default() += count;
        }
    }

    /// What was never reached.
    #[must_use]
    pub fn missing(&self) -> Vec<Rare> {
        Rare::ALL.into_iter().filter(|what| !self.reached.contains_key(what)).collect()
    }

    /// The kinds of bad luck that never struck.
    #[must_use]
    pub fn spared(&self) -> Vec<Mischief> {
        let all = Mischief::ALL
            .into_iter()
            .chain(Mischief::OF_MEMORIES)
            .chain(Mischief::OF_PEOPLE)
            .chain(Mischief::OF_SOURCES)
            .chain(Mischief::OF_FEEDS)
            .chain(Mischief::OF_LOGINS)
            .chain(Mischief::OF_LISTS)
            .chain(Mischief::OF_DROPS);
        all.filter(|kind| !self.struck.contains_key(kind)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_that_misses_one_of_them_names_it() {
        for left_out in Rare::ALL {
            let (mut series, mut run) = (Sometimes::default(), Sometimes::default());
            Rare::ALL.into_iter().filter(|rare| *rare != left_out).for_each(|rare| run.reach(rare));
            series.add(&run);
            assert_eq!(series.missing(), [left_out]);
            series.reach(left_out);
            assert!(series.missing().is_empty());
        }
    }
}
