//! What questions to the store are answered with: plain rows, as people and programs ask for them. No SQL and
//! no JSON here.

mod alerts;
mod complete;
mod drops;
mod gaps;
mod leases;
mod meters;
mod news;

use std::collections::BTreeMap;

use gapless_common::catalog::{Aggregation, PeriodLabel};
use gapless_common::id::{
    AgentId, CatalogHash, ChannelId, Commit, DeviceId, Epoch, Incarnation, Seq, SiteId,
};
use gapless_common::message::OutboxFill;
use gapless_common::quality::Quality;
use gapless_common::reading::Value;
use gapless_common::time::{SlotGrid, Timestamp};

use crate::jobs::queue::Why;

pub use self::alerts::{
    AlertChoice, AlertEventRow, AlertFilter, AlertRow, AlertState, ReceiverName, ReceiverRow, RemovalRow,
    StopReason, Stopped,
};
pub use crate::ledger::DeviceNo;
pub use complete::{Absence, AbsentSlot, GridRow};
pub use drops::{DropChanges, DropRow, FileRow, FileState, Named};
pub use gaps::{Awaited, GapChoice, GapEventRow, GapFilter, GapRow, GapState, SlotState, StripRun};
pub use leases::{LeaseAgent, LeaseRow, LeaseState, TrafficRow};
pub use meters::{GapCount, JobTimes, Meters};
pub use news::{AlertNews, GapNews, Latest, News, NewsFilter, NotKept, Place, ReadingNews};

/// Number of a series row: one revision of one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesNo(pub i64);

/// Where the database stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The database's life.
    pub incarnation: Incarnation,
    /// Its last commit.
    pub commit: Commit,
}

/// One site.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteRow {
    /// Its name.
    pub site: SiteId,
    /// Number of its agents.
    pub agents: u64,
    /// Number of its devices.
    pub devices: u64,
    /// Number of its gaps that are open.
    pub open_gaps: u64,
    /// When any of its agents was heard from last.
    pub last_heard_at: Option<Timestamp>,
}

/// How the last connection of an agent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// It is connected.
    Connected,
    /// It said goodbye.
    Stopped,
    /// It was never heard of, or its last will came.
    Gone,
}

/// One agent.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentRow {
    /// Its site.
    pub site: SiteId,
    /// Its name there.
    pub agent: AgentId,
    /// How its connection stands.
    pub link: Link,
    /// Version of the program; `None` before its first birth.
    pub version: Option<String>,
    /// When anything of it came last.
    pub last_heard_at: Option<Timestamp>,
    /// Milliseconds between its frames; 0 where each poll is sent at once.
    pub flush_ms: u32,
    /// Whether what it polls is durable on the gateway.
    pub durable: Option<bool>,
    /// Whether its wall clock is set.
    pub clock_set: Option<bool>,
    /// How far that is ahead of the collector's (or, negative, behind), in ms; `None` where it has not said.
    pub clock_off_ms: Option<i64>,
    /// How full its outbox was when it said so last; `None` where it has not.
    pub outbox: Option<OutboxFill>,
    /// The epoch being written.
    pub epoch: Option<Epoch>,
    /// The catalog in force.
    pub catalog: Option<CatalogHash>,
    /// When two live epochs were seen under this name; a person must look.
    pub cloned_at: Option<Timestamp>,
    /// Seqs known to exist and not yet here, over all epochs.
    pub missing_records: u64,
    /// What came of its frames.
    pub counters: Counters,
}

/// What came of an agent's frames, since the database was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Frames taken.
    pub frames: u64,
    /// Readings stored.
    pub readings: u64,
    /// Records or readings that were there already.
    pub duplicates: u64,
    /// Readings that contradicted a stored one.
    pub conflicts: u64,
    /// Frames with a wrong checksum; not acknowledged.
    pub damaged: u64,
    /// Messages refused, not acknowledged: what cannot be, or more than is kept of one agent.
    pub refused: u64,
    /// Bytes on the link from the agent, an estimate (see `gapless_common::cost`).
    pub received_bytes: u64,
    /// Bytes on the link to the agent, an estimate.
    pub sent_bytes: u64,
}

/// One device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceRow {
    /// Its number.
    pub no: DeviceNo,
    /// Its site.
    pub site: SiteId,
    /// Its name there.
    pub device: DeviceId,
    /// The agent whose catalog named it last.
    pub agent: Option<AgentId>,
    /// When it is due; `None` where no catalog names it any more.
    pub grid: Option<SlotGrid>,
    /// Make, model, serial number, bus.
    pub attributes: BTreeMap<String, String>,
    /// The time of its latest reading up to now.
    pub last_reading_at: Option<Timestamp>,
    /// Everything due up to this instant is accounted for.
    pub proven_until: Option<Timestamp>,
    /// Its gaps that are open.
    pub open_gaps: u64,
    /// Milliseconds between its agent's frames.
    pub flush_ms: u32,
    /// How old its latest reading may be, in ms.
    pub allowed_ms: i64,
    /// The job that refreshes it, where there is one.
    pub job: Option<PendingJob>,
    /// Why it is not asked, where it is not.
    pub stopped: Option<Stopped>,
    /// When somebody said that it is to be collected, and who.
    pub confirmed: Option<(Timestamp, String)>,
    /// Since when it is described in another way, where no reading has come under the new description yet.
    pub changed_at: Option<Timestamp>,
}

/// A job that waits or is under way, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingJob {
    /// Its number.
    pub no: u64,
    /// Why it was made.
    pub why: Why,
    /// When it was made.
    pub asked_at: Timestamp,
    /// Not before this instant.
    pub due: Timestamp,
    /// When the work began, where it has.
    pub began: Option<Timestamp>,
    /// Passing failures in a row.
    pub failures: u32,
}

/// A job that waits or is under way.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRow {
    /// The site of its device.
    pub site: SiteId,
    /// The device that it refreshes.
    pub device: DeviceId,
    /// The rest.
    pub job: PendingJob,
}

/// How long the source of a device has not been read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unread {
    /// When it was read last, as far as that is kept.
    pub since: Option<Timestamp>,
    /// Why it could not be read when that was last tried, where it is still to be tried again.
    pub why: Option<String>,
}

/// A job that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct EndedJobRow {
    /// Number of this line.
    pub id: i64,
    /// The job's number; one that failed and was tried again has several lines.
    pub no: u64,
    /// The site of its device.
    pub site: SiteId,
    /// The device.
    pub device: DeviceId,
    /// Why it was made.
    pub why: Why,
    /// When it was made.
    pub asked_at: Timestamp,
    /// When the work began.
    pub began_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How it ended, as a word.
    pub outcome: &'static str,
    /// Readings of the device that were stored meanwhile.
    pub readings: u64,
    /// More, for people.
    pub detail: Option<String>,
}

/// One revision of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesRow {
    /// Its number: what readings refer to.
    pub no: SeriesNo,
    /// Its site.
    pub site: SiteId,
    /// Its device.
    pub device: DeviceId,
    /// Number of its device.
    pub device_no: DeviceNo,
    /// Its channel.
    pub channel: ChannelId,
    /// Counted in the order in which they were first seen. A meaning that comes back finds its revision again, so
    /// the highest need not be current: the one with the latest reading is.
    pub revision: u32,
    /// Unit symbol.
    pub unit: String,
    /// What is measured.
    pub quantity: String,
    /// How the number comes about.
    pub aggregation: Aggregation,
    /// Which end of a period the timestamp names.
    pub label: PeriodLabel,
    /// Height, orientation and the like.
    pub attributes: BTreeMap<String, String>,
}

/// One stored reading.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredReading {
    /// Its series.
    pub series: SeriesNo,
    /// Acquisition time.
    pub at: Timestamp,
    /// Present exactly where the quality has a value.
    pub value: Option<Value>,
    /// How far it can be trusted.
    pub quality: Quality,
    /// Whether another device measured it, and it stands in.
    pub lent: bool,
    /// The commit that wrote it last.
    pub commit: Commit,
}

/// Which readings, in the order (series, time).
#[derive(Debug, Clone, PartialEq)]
pub struct Scan {
    /// The series; scanned in ascending order of number.
    pub series: Vec<SeriesNo>,
    /// From this instant on.
    pub from: Timestamp,
    /// Before this instant.
    pub to: Timestamp,
    /// Only what comes after this position: where an earlier page ended.
    pub after: Option<(SeriesNo, Timestamp)>,
}

/// Whether to go on with a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The next row.
    More,
    /// Enough.
    Stop,
}

/// A value that contradicts a stored one.
#[derive(Debug, Clone, PartialEq)]
pub struct ConflictRow {
    /// Its number.
    pub id: i64,
    /// The series.
    pub series: SeriesNo,
    /// The instant.
    pub at: Timestamp,
    /// The value that came second.
    pub value: Option<Value>,
    /// Its quality.
    pub quality: Quality,
    /// What is in `readings`.
    pub stored: Option<StoredReading>,
    /// Who sent it.
    pub agent: AgentId,
    /// In which epoch.
    pub epoch: Epoch,
    /// As which record.
    pub seq: Seq,
    /// When it came.
    pub received_at: Timestamp,
}

/// Why a frame is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParkReason {
    /// Its catalog has not come yet.
    UnknownCatalog,
    /// A later version wrote it.
    UnknownVersion,
    /// Its checksum is right, its content makes no sense.
    Nonsense,
}

/// A frame that is kept, but could not be used.
#[derive(Debug, Clone, PartialEq)]
pub struct ParkedRow {
    /// Its number.
    pub id: i64,
    /// Whose.
    pub site: SiteId,
    /// Whose.
    pub agent: AgentId,
    /// Of which epoch.
    pub epoch: Epoch,
    /// First record.
    pub first: Seq,
    /// Number of records.
    pub count: u64,
    /// Why.
    pub reason: ParkReason,
    /// Why, in words.
    pub detail: String,
    /// Its size.
    pub bytes: u64,
    /// When it came.
    pub received_at: Timestamp,
}

/// What a commit wrote of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeRow {
    /// The commit.
    pub commit: Commit,
    /// The device.
    pub device: DeviceNo,
    /// Time of the earliest reading written.
    pub first: Timestamp,
    /// Time of the latest, inclusive.
    pub last: Timestamp,
}

/// The database as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Sites.
    pub sites: u64,
    /// Agents.
    pub agents: u64,
    /// Devices.
    pub devices: u64,
    /// Series, all revisions.
    pub series: u64,
    /// Gaps open.
    pub open_gaps: u64,
    /// Parked frames.
    pub parked: u64,
    /// Bytes of parked frames.
    pub parked_bytes: u64,
    /// Conflicts.
    pub conflicts: u64,
    /// What came of all frames.
    pub counters: Counters,
    /// Bytes of the database file.
    pub file_bytes: u64,
}
