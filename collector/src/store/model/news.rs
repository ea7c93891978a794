//! Rows of what has happened since a place in the tables.

use gapless_common::id::{Commit, DeviceId, SiteId};
use gapless_common::time::Timestamp;

use super::{AlertEventRow, AlertRow, ChangeRow, EndedJobRow, GapEventRow, Head, StoredReading};

/// A place in what has happened, as far as tables tell it: everything up to here is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Of readings: all commits before this one, and
    pub commit: Commit,
    /// of this one the changes up to that of this device (by number) that begins at this instant; all of it where there is
    /// none.
    pub within: Option<(i64, Timestamp)>,
    /// The last line of the gaps' histories.
    pub gap_event: i64,
    /// The last line of the jobs' history.
    pub job: i64,
    /// The last line of the alerts' histories.
    pub alert_event: i64,
}

/// Which news.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewsFilter {
    /// What was stored.
    pub readings: bool,
    /// What became of gaps.
    pub gaps: bool,
    /// Jobs that have ended.
    pub jobs: bool,
    /// What became of alerts.
    pub alerts: bool,
    /// Of this site only.
    pub site: Option<SiteId>,
    /// Of this device only.
    pub device: Option<DeviceId>,
}

/// What a commit wrote of one device.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadingNews {
    /// The site.
    pub site: String,
    /// The device.
    pub device: String,
    /// Which commit, and when.
    pub change: ChangeRow,
    /// The latest reading that it wrote of each series.
    pub latest: Vec<Latest>,
    /// Whether it wrote more than these.
    pub has_more: bool,
}

/// A reading with what its series is called.
#[derive(Debug, Clone, PartialEq)]
pub struct Latest {
    /// The channel.
    pub channel: String,
    /// Its revision.
    pub revision: u32,
    /// Unit symbol.
    pub unit: String,
    /// The reading.
    pub reading: StoredReading,
}

/// A line of a gap's history; site, device and time are not known of one that is another gap's part by now.
#[derive(Debug, Clone, PartialEq)]
pub struct GapNews {
    /// Number of the line.
    pub id: i64,
    /// The site.
    pub site: Option<String>,
    /// The device.
    pub device: Option<String>,
    /// Its first slot.
    pub from: Option<Timestamp>,
    /// One interval after its last slot.
    pub to: Option<Timestamp>,
    /// What happened.
    pub event: GapEventRow,
}

/// A line of an alert's history, and the alert as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertNews {
    /// Number of the line.
    pub id: i64,
    /// What happened.
    pub event: AlertEventRow,
    /// To which alert.
    pub alert: AlertRow,
}

/// Lines that are not kept any more: of those with the numbers from the first to the last so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotKept {
    /// The first number.
    pub from: i64,
    /// The last one.
    pub to: i64,
    /// How many.
    pub count: i64,
}

/// What has happened since a place.
#[derive(Debug, Clone, PartialEq)]
pub struct News {
    /// Where the database stands.
    pub head: Head,
    /// What was stored, in the order of commits.
    pub readings: Vec<ReadingNews>,
    /// What became of gaps, in order.
    pub gaps: Vec<GapNews>,
    /// Jobs that have ended, in order.
    pub jobs: Vec<EndedJobRow>,
    /// What of the jobs' history cannot be told any more.
    pub jobs_lost: Option<NotKept>,
    /// What became of alerts, in order.
    pub alerts: Vec<AlertNews>,
    /// What of the alerts' histories cannot be told any more.
    pub alerts_lost: Option<NotKept>,
    /// Where to go on.
    pub reached: Place,
    /// Whether there is no more.
    pub is_all: bool,
}
