//! Where everything is kept: the questions that API and page ask ([`ReadStore`]) and the SQLite database that
//! answers them. Decides nothing: that is `ledger`.

mod alert_rows;
pub(crate) mod alerts;
pub(crate) mod awaited;
pub(crate) mod batch;
pub(crate) mod cell;
pub(crate) mod commands;
mod complete;
pub(crate) mod descriptions;
pub(crate) mod drops;
pub(crate) mod gap_lives;
pub(crate) mod health;
pub(crate) mod hearing;
pub(crate) mod housekeeping;
pub(crate) mod inputs;
pub(crate) mod jobs;
pub(crate) mod leases;
pub(crate) mod lending;
mod meters;
mod migrations;
pub mod model;
pub(crate) mod names;
mod news;
pub(crate) mod own;
pub(crate) mod parked;
mod read;
pub(crate) mod receivers;
pub(crate) mod registry;
mod rows;
pub(crate) mod runs;
pub(crate) mod sources;
pub mod sqlite;
pub(crate) mod state;
mod strip;
pub(crate) mod traffic;
pub(crate) mod unasked;

use gapless_common::id::{Commit, DeviceId, SiteId};
use gapless_common::time::Timestamp;

pub use read::{Borrowed, Reader};

use model::{
    AgentRow, AlertEventRow, AlertFilter, AlertRow, ChangeRow, ConflictRow, DeviceNo, DeviceRow, EndedJobRow,
    Flow, GapEventRow, GapFilter, GapRow, GridRow, Head, JobRow, LeaseRow, Meters, News, NewsFilter,
    ParkedRow, Place, ReceiverRow, RemovalRow, Scan, SeriesNo, SeriesRow, SiteRow, Stats, StoredReading,
    StripRun, TrafficRow, Unread,
};

/// A question that the database could not answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The database failed.
    #[error("the database could not be read")]
    Database(#[source] rusqlite::Error),
    /// A stored number that this version does not know.
    #[error("the database holds a {what} that this version does not know: {value}")]
    Unknown {
        /// What it should be.
        what: &'static str,
        /// What it is.
        value: String,
    },
}

impl From<rusqlite::Error> for ReadError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Database(source)
    }
}

/// A gateway's clock may be so far ahead of the collector's; a reading from further in the future says nothing of
/// now, in ms.
pub const AHEAD_MAX_MS: i64 = 60_000;

/// Every question that API and page ask. Calls block; run them on a blocking thread. Each call sees one
/// committed state of the database, and none waits for the writer.
pub trait ReadStore {
    /// Incarnation and last commit.
    ///
    /// # Errors
    /// As for every question here: the database failed, or holds what this version does not know.
    fn head(&self) -> Result<Head, ReadError>;

    /// Sites by name.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn sites(&self) -> Result<Vec<SiteRow>, ReadError>;

    /// Whether there is a site of that name.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn has_site(&self, site: &SiteId) -> Result<bool, ReadError>;

    /// Whether there is a device of that name, in this site or in any.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn has_device(&self, site: Option<&SiteId>, device: &DeviceId) -> Result<bool, ReadError>;

    /// Agents by site and name.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn agents(&self, site: Option<&SiteId>) -> Result<Vec<AgentRow>, ReadError>;

    /// Devices by site and name; their latest readings as [`latest`](Self::latest) has them.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn devices(&self, site: Option<&SiteId>, now: Timestamp) -> Result<Vec<DeviceRow>, ReadError>;

    /// Series, all revisions, by site, device, channel and revision.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn series(&self, site: Option<&SiteId>, device: Option<&DeviceId>) -> Result<Vec<SeriesRow>, ReadError>;

    /// The latest reading of each of these series that has one at or before `now`, or ahead of it by no more than
    /// [`AHEAD_MAX_MS`].
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn latest(&self, series: &[SeriesNo], now: Timestamp) -> Result<Vec<StoredReading>, ReadError>;

    /// Hands the readings of a scan to `each`, in the order (series, time), until there are no more or it says
    /// stop. Memory is bounded by one row; the whole scan sees one committed state.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn readings(&self, scan: &Scan, each: &mut dyn FnMut(StoredReading) -> Flow) -> Result<(), ReadError>;

    /// The same, and between the readings each slot of the device's schedules up to `now` that has none.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn complete(
        &self,
        scan: &Scan,
        now: Timestamp,
        each: &mut dyn FnMut(GridRow) -> Flow,
    ) -> Result<(), ReadError>;

    /// Where commits after `after` wrote readings, in the order (commit, device), at most `limit`.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn changes(&self, after: Commit, limit: usize) -> Result<Vec<ChangeRow>, ReadError>;

    /// The readings that one change wrote and that no later commit has rewritten.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn changed_readings(
        &self,
        change: &ChangeRow,
        each: &mut dyn FnMut(StoredReading) -> Flow,
    ) -> Result<(), ReadError>;

    /// The instants from which one change took readings away: their time was wrong, and they stand at another one; or they were
    /// lent, and the device's own reading of that slot stands at another one.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn withdrawn(
        &self,
        change: &ChangeRow,
        each: &mut dyn FnMut(SeriesNo, Timestamp) -> Flow,
    ) -> Result<(), ReadError>;

    /// The last reading with a number before `at` of each of these series that has one.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn numbers_before(&self, series: &[SeriesNo], at: Timestamp) -> Result<Vec<StoredReading>, ReadError>;

    /// Gaps by id.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn gaps(&self, filter: &GapFilter) -> Result<Vec<GapRow>, ReadError>;

    /// One gap.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn gap(&self, id: i64) -> Result<Option<GapRow>, ReadError>;

    /// What became of a gap, and before it was cut off of the one that it was a part of, in order.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn gap_events(&self, id: i64) -> Result<Vec<GapEventRow>, ReadError>;

    /// What is known of the slots of a device in `from..to`, as runs in order of time; only slots that were due
    /// or that something is known of. `now` decides between late and unknown.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn strip(
        &self,
        device: DeviceNo,
        from: Timestamp,
        to: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<StripRun>, ReadError>;

    /// How long the source of a device has not been read.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn unread(&self, device: DeviceNo) -> Result<Unread, ReadError>;

    /// Jobs that wait or are under way, the next due first.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn jobs(&self) -> Result<Vec<JobRow>, ReadError>;

    /// Jobs that have ended, the last one first, with a lesser id than `before`, at most `limit`.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn ended_jobs(&self, before: Option<i64>, limit: usize) -> Result<Vec<EndedJobRow>, ReadError>;

    /// Where the tables of what has happened end.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn news_end(&self) -> Result<Place, ReadError>;

    /// What has happened since a place, at most `most` lines of each kind.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn news(&self, after: Place, filter: &NewsFilter, most: usize) -> Result<News, ReadError>;

    /// Alerts by id.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn alerts(&self, filter: &AlertFilter) -> Result<Vec<AlertRow>, ReadError>;

    /// One alert.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn alert(&self, id: i64) -> Result<Option<AlertRow>, ReadError>;

    /// What became of an alert, in order.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn alert_events(&self, id: i64) -> Result<Vec<AlertEventRow>, ReadError>;

    /// Number of the alerts that are not over and that nobody has acknowledged.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn open_alerts(&self) -> Result<u64, ReadError>;

    /// Who is told of alerts, by name.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn receivers(&self) -> Result<Vec<ReceiverRow>, ReadError>;

    /// What was tidied away, with a greater id than `after`, by id, at most `limit`.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn removals(&self, after: Option<i64>, limit: usize) -> Result<Vec<RemovalRow>, ReadError>;

    /// Conflicts with a greater id than `after`, by id, at most `limit`.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn conflicts(&self, after: Option<i64>, limit: usize) -> Result<Vec<ConflictRow>, ReadError>;

    /// Parked frames with a greater id than `after`, by id, at most `limit`.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn parked(&self, after: Option<i64>, limit: usize) -> Result<Vec<ParkedRow>, ReadError>;

    /// The database as a whole.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn stats(&self) -> Result<Stats, ReadError>;

    /// The lease of a site and its agents; `None` where there is no such site.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn lease(&self, site: &SiteId, now: Timestamp) -> Result<Option<LeaseRow>, ReadError>;

    /// Until when each site is watched that is.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn leases(&self, now: Timestamp) -> Result<Vec<(SiteId, Timestamp)>, ReadError>;

    /// Bytes on the links, by site and day, for the days that hold `from` up to the one that holds `to`.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn traffic(
        &self,
        site: Option<&SiteId>,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<TrafficRow>, ReadError>;

    /// What monitoring asks at every scrape.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn meters(&self, now: Timestamp) -> Result<Meters, ReadError>;

    /// The name of the bearer token with this SHA-256, where there is one.
    ///
    /// # Errors
    /// See [`head`](Self::head).
    fn token_name(&self, sha256: &[u8; 32]) -> Result<Option<String>, ReadError>;
}
