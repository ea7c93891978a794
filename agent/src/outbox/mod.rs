//! The outbox: the durable store on the device. What is in it survives a power cut, and what it had to give up it
//! says.
//!
//! **Promises**, of every implementation (`conformance` checks them):
//! - [`append`](Outbox::append) returns when the batch is durable. After a crash all of a batch is there, or a
//!   prefix of it. A record keeps its (epoch, seq) for ever; no (epoch, seq) is issued twice.
//! - A disk budget bounds everything it writes. When it is full, acknowledged records go first (until then they are
//!   kept as an *archive*, to be asked for again); then the policy drops owed ones, after a durable [`Loss`] was
//!   written to a place allocated beforehand. A full disk costs the oldest records, never the newest. Where the policy
//!   refuses what is new, a reserve still takes what is essential.
//! - A torn tail is cut off. Damage elsewhere costs the records that were hit, which become a loss with cause
//!   *quarantined*; their bytes go to a bounded side file. Every record carries its own CRC.
//! - After an error of writing or syncing the handle is dead ([`AppendError::Unusable`]): open the outbox again,
//!   with a new epoch, which reads everything back from the device.
//!
//! **Does not**: look into records, draw random numbers, read a clock, know the collector. The caller gives epoch,
//! boot id and times. Pending losses and the end of the epoch before are returned for the caller to write as
//! records.
//!
//! **Calling contract**: [`open`], append the start record, then [`append`](Outbox::append),
//! [`read`](Outbox::read), [`acknowledge`](Outbox::acknowledge) in any order; after appending records for
//! [`pending_losses`](Outbox::pending_losses) call [`losses_recorded`](Outbox::losses_recorded); end with
//! [`close`](Outbox::close).
//!
//! Files in the directory: `NNNN.seg` (segments, see [`journal`]), `losses`, `quarantine`, `catalogs/HASH.cat`,
//! `lock`.

mod acks;
pub mod catalogs;
#[cfg(test)]
mod conformance;
pub mod disk;
pub mod journal;
mod losses;
pub mod memory_disk;
mod options;
mod quarantine;
#[cfg(feature = "sled")]
mod sled_store;
mod spans;
mod unreadable;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use gapless_common::id::{BootId, CatalogHash, Epoch, Seq};
use gapless_common::message::HeldEpoch;
use gapless_common::reading::Loss;
use gapless_common::time::Timestamp;

pub use catalogs::{CatalogError, Catalogs};
pub use disk::{DirectoryError, Disk, RealDisk};
pub use journal::{Journal, Summary};
pub use options::{BUDGET_MIN_BYTES, DropPolicy, Options, StoreKind};

/// A record to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewRecord<'a> {
    /// What it is; opaque here but for a loss, which is told once more where its record goes before anyone has it.
    pub kind: u8,
    /// Its time.
    pub at: Timestamp,
    /// The earliest instant that it speaks of, not after `at`: the time range of a loss is made of both.
    pub from: Timestamp,
    /// The catalog in force, which a frame of these records has to name.
    pub catalog: CatalogHash,
    /// Without it other records cannot be understood or accounted for (a start, a loss, a catalog): it is taken even
    /// where the policy refuses what is new.
    pub is_essential: bool,
    /// The record.
    pub bytes: &'a [u8],
}

/// A record as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// The epoch that issued it.
    pub epoch: Epoch,
    /// Its place there.
    pub seq: Seq,
    /// What it is.
    pub kind: u8,
    /// Its time.
    pub at: Timestamp,
    /// The earliest instant that it speaks of.
    pub from: Timestamp,
    /// The catalog in force when it was written.
    pub catalog: CatalogHash,
    /// The record.
    pub bytes: Box<[u8]>,
}

/// What the caller brings to an opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// A number drawn at random for this opening, never used before.
    pub epoch: Epoch,
    /// This start of the machine.
    pub boot: BootId,
}

/// What was found at opening.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The epoch before this one, and the first seq that it never issued.
    pub previous: Option<(Epoch, Seq)>,
    /// Time of the last durable record, or of the goodbye.
    pub last_durable_at: Option<Timestamp>,
    /// Whether the last writer said goodbye.
    pub clean_stop: bool,
    /// The start of the machine that the last writer ran in.
    pub boot: Option<BootId>,
    /// What had to be repaired.
    pub report: RecoveryReport,
}

/// What had to be repaired at opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecoveryReport {
    /// Bytes of the last write that a crash had torn, cut off. They had never been called durable.
    pub torn_bytes: u64,
    /// Damaged bytes elsewhere.
    pub quarantined_bytes: u64,
    /// Records in them, as far as their number can be told.
    pub quarantined_records: u64,
    /// Segments of which nothing could be read.
    pub quarantined_segments: u64,
    /// Bytes of segments that the device would not give.
    pub unreadable_bytes: u64,
}

/// An outbox that is ready to append.
pub struct Opened {
    /// The store.
    pub outbox: Box<dyn Outbox>,
    /// What was found.
    pub found: Found,
}

/// Why an outbox cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is locked or out of reach.
    #[error("cannot open the outbox")]
    Directory(#[from] DirectoryError),
    /// A file of it cannot be read, made or synced.
    #[error("cannot open the outbox: {action}")]
    Io {
        /// What was being done.
        action: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The epoch is not new.
    #[error("epoch {0} has been used in this outbox before: draw a new one for each opening")]
    EpochUsed(Epoch),
}

/// Why a batch is not durable, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// A record longer than a segment holds; nothing of the batch was stored. The outbox is usable.
    #[error("a record has {bytes} bytes, this outbox holds at most {max}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The most that fits.
        max: usize,
    },
    /// The budget is full and the policy refuses what is new: of `first..=last`, which end the batch, only the
    /// essential records are stored; pending losses name the others. What was before them in the batch is durable.
    /// The outbox is usable.
    #[error("the disk budget is full: records {first} to {last} are refused")]
    Refused {
        /// First refused.
        first: Seq,
        /// Last refused.
        last: Seq,
    },
    /// The device failed; what of the batch is durable is unknown. The outbox is dead: open it again.
    #[error("cannot write the outbox: {action}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The outbox died of an earlier error: open it again.
    #[error("the outbox has failed before and has to be opened again")]
    Unusable,
}

impl AppendError {
    /// Whether the outbox takes further appends; where not, what is polled now is *not durable*.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Refused { .. })
    }
}

/// Why records cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the outbox")]
pub struct ReadError(#[from] pub io::Error);

/// How much to read at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimits {
    /// Most bytes of all records together; the first record is returned whatever its length.
    pub bytes: usize,
    /// Most records.
    pub records: usize,
}

/// A run of records that nobody has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwedRange {
    /// Of which epoch.
    pub epoch: Epoch,
    /// First.
    pub first: Seq,
    /// Last.
    pub last: Seq,
}

/// Figures of an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Bytes of all its files.
    pub disk_bytes: u64,
    /// Most bytes it may take.
    pub budget_bytes: u64,
    /// Segments that hold records.
    pub segments: u64,
    /// Records held, archive included.
    pub held_records: u64,
    /// Records nobody has acknowledged.
    pub owed_records: u64,
    /// Records appended since the opening.
    pub appended_records: u64,
    /// Bytes of them, without what the store adds.
    pub appended_bytes: u64,
    /// Bytes handed to the file system since the opening.
    pub written_bytes: u64,
    /// Syncs since the opening.
    pub syncs: u64,
    /// Records quarantined, at the opening and since.
    pub quarantined_records: u64,
    /// Owed records dropped or refused since the opening because there was no room.
    pub dropped_records: u64,
    /// Of these, because the disk had none, though the budget had.
    pub dropped_disk_full: u64,
    /// Whether that is so now.
    pub is_disk_full: bool,
    /// Losses that no record tells of yet.
    pub pending_losses: u64,
}

/// A durable store of records; see the module for what every implementation promises.
pub trait Outbox: Send {
    /// The epoch that appends belong to.
    fn epoch(&self) -> Epoch;

    /// The position that the next record will get.
    fn next_seq(&self) -> Seq;

    /// Stores a batch; returns the position of its last record once all of it is durable.
    ///
    /// # Errors
    /// [`AppendError`]; [`AppendError::is_usable`] says whether to go on.
    fn append(&mut self, batch: &[NewRecord<'_>]) -> Result<Seq, AppendError>;

    /// Adds to `out` a run of records of `epoch` without a hole, all under one catalog, that begins with the first one
    /// held at or after `from`. Nothing is added where none is held. Damage met on the way is quarantined and left out.
    ///
    /// # Errors
    /// [`ReadError`] where the device fails.
    fn read(
        &mut self,
        epoch: Epoch,
        from: Seq,
        limits: ReadLimits,
        out: &mut Vec<StoredRecord>,
    ) -> Result<(), ReadError>;

    /// Takes all up to `watermark` and the ranges `above` (inclusive) as stored by the collector. It becomes durable
    /// with the next append; forgetting it in a crash costs duplicates only.
    fn acknowledge(&mut self, epoch: Epoch, watermark: Seq, above: &[(Seq, Seq)]);

    /// Takes back every acknowledgement of `epoch` above `watermark`: the collector was restored.
    fn unacknowledge(&mut self, epoch: Epoch, watermark: Seq);

    /// Every epoch of which records are held, archive included, oldest first; the current one last, always.
    fn held(&self) -> Vec<HeldEpoch>;

    /// What nobody has acknowledged, oldest first.
    fn owed(&self) -> Vec<OwedRange>;

    /// Catalogs that held records were written under: what [`Catalogs::retain`] has to keep.
    fn catalogs_held(&self) -> BTreeSet<CatalogHash>;

    /// Losses that no record tells of yet.
    fn pending_losses(&self) -> Vec<Loss>;

    /// Takes out of the pending losses those that records tell of now. It becomes durable with the next append; forgetting
    /// it in a crash costs a second record of the same loss.
    ///
    /// # Errors
    /// [`AppendError::Io`], [`AppendError::Unusable`].
    fn losses_recorded(&mut self, losses: &[Loss]) -> Result<(), AppendError>;

    /// Figures.
    fn stats(&self) -> Stats;

    /// Gives the file system the room of the oldest records, whatever the policy, for what all records mean nothing without;
    /// those that are owed under a loss. `false` where there are none to give.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    fn make_room(&mut self) -> Result<bool, AppendError>;

    /// The side files of catalogs.
    fn catalogs(&mut self) -> Catalogs<'_>;

    /// Says goodbye at `at`, durably. Appending again takes it back.
    ///
    /// # Errors
    /// [`AppendError::Io`], [`AppendError::Unusable`].
    fn close(&mut self, at: Timestamp) -> Result<(), AppendError>;
}

/// Opens the outbox in `directory`, makes it where there is none, repairs it where it is damaged.
///
/// # Errors
/// [`OpenError`]. Damaged contents are no error.
pub fn open(directory: &Path, options: &Options, opening: Opening) -> Result<Opened, OpenError> {
    match options.store {
        StoreKind::Journal => {
            let disk = Box::new(RealDisk::open(directory)?);
            let (journal, found) = Journal::open(disk, options, opening)?;
            Ok(Opened { outbox: Box::new(journal), found })
        }
        #[cfg(feature = "sled")]
        StoreKind::Sled => {
            let disk = Box::new(sled_store::SledDisk::open(directory)?);
            let (journal, found) = Journal::open(disk, &sled_store::options_within(options), opening)?;
            Ok(Opened { outbox: Box::new(journal), found })
        }
    }
}

/// What an outbox holds, and nothing is repaired: of a database that sled cannot read nothing is shown. A journal can be looked at beside the agent that writes it, sled's files only
/// while nobody does.
///
/// # Errors
/// [`OpenError`] where the directory or a file of it cannot be read, or sled's is in use.
pub fn summary(directory: &Path, store: StoreKind) -> Result<Summary, OpenError> {
    match store {
        StoreKind::Journal => Summary::read(directory),
        #[cfg(feature = "sled")]
        StoreKind::Sled => Summary::of(&mut sled_store::SledDisk::look(directory)?),
    }
}

/// Whether there is no room left.
fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A length as a file offset.
fn to_u64(n: usize) -> u64 {
    u64::try_from(n).expect("usize has at most 64 bits on every target of Rust")
}

/// A file offset as a length in memory; what does not fit is beyond every buffer.
fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
