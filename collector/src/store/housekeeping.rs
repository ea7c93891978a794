//! What is tidied away, as rows, and the list of what was. Decides nothing.

use std::collections::BTreeMap;

use gapless_common::time::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{alert_rows, names};
use crate::store::model::StopReason;

/// A device, and what it is judged by.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) site: String,
    pub(crate) name: String,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) announced_at: Timestamp,
    pub(crate) is_confirmed: bool,
    pub(crate) has_readings: bool,
    pub(crate) stopped: Option<StopReason>,
}

/// What is known of a device.
pub(crate) fn device(connection: &Connection, no: i64) -> rusqlite::Result<Option<Device>> {
    let sql = "SELECT s.name AS site, d.name AS device, d.attributes, d.announced_at, d.confirmed_at IS NOT NULL AS is_confirmed,
            d.stopped, EXISTS (SELECT 1 FROM series x JOIN readings r ON r.series = x.id WHERE x.device = d.id) AS has_readings
        FROM devices d JOIN sites s ON s.id = d.site WHERE d.id = ?1";
    let row = |r: &Row<'_>| {
        Ok(Device {
            site: r.get("site")?,
            name: r.get("device")?,
            attributes: serde_json::from_str(&r.get::<_, String>("attributes")?).unwrap_or_default(),
            announced_at: Timestamp(r.get("announced_at")?),
            is_confirmed: r.get("is_confirmed")?,
            has_readings: r.get("has_readings")?,
            stopped: r.get::<_, Option<i64>>("stopped")?.and_then(alert_rows::stop_reason),
        })
    };
    connection.prepare_cached(sql)?.query_row([no], row).optional()
}

/// Somebody says that a device is to be collected. Said again it stays as it is.
pub(crate) fn confirm(
    connection: &Connection,
    device: i64,
    by: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let sql =
        "UPDATE devices SET confirmed_at = ?2, confirmed_by = ?3 WHERE id = ?1 AND confirmed_at IS NULL";
    connection.prepare_cached(sql)?.execute(params![device, now.0, by]).map(drop)
}

/// So many rows are removed at once at most.
const PART: i64 = 1_000;

/// What became of jobs that ended before. The lines are in the order of their age.
pub(crate) fn old_jobs(connection: &Connection, before: Timestamp) -> rusqlite::Result<Vec<i64>> {
    let sql =
        "SELECT id FROM (SELECT id, ended_at FROM job_history ORDER BY id LIMIT ?2) WHERE ended_at < ?1";
    numbers(connection, sql, before)
}

/// Alerts in the order in which they were over; older ones may be open for ever.
pub(super) const OLD_ALERTS: &str = "SELECT id FROM alerts a WHERE resolved_at < ?1
    AND NOT EXISTS (SELECT 1 FROM alert_events e, receivers v WHERE e.alert = a.id AND e.id > v.told)
    ORDER BY resolved_at LIMIT ?2";

/// Alerts that were over before, and of which everybody has been told.
pub(crate) fn old_alerts(connection: &Connection, before: Timestamp) -> rusqlite::Result<Vec<i64>> {
    numbers(connection, OLD_ALERTS, before)
}

fn numbers(connection: &Connection, sql: &str, before: Timestamp) -> rusqlite::Result<Vec<i64>> {
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([before.0, PART], |r| r.get(0))?.collect()
}

/// Takes lines of the history of jobs away.
pub(crate) fn forget_jobs(connection: &Connection, ids: &[i64]) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("DELETE FROM job_history WHERE id = ?1")?;
    ids.iter().try_for_each(|id| statement.execute([id]).map(drop))
}

/// Takes alerts and what became of them away.
pub(crate) fn forget_alerts(connection: &Connection, ids: &[i64]) -> rusqlite::Result<()> {
    let mut events = connection.prepare_cached("DELETE FROM alert_events WHERE alert = ?1")?;
    let mut alerts = connection.prepare_cached("DELETE FROM alerts WHERE id = ?1")?;
    ids.iter().try_for_each(|id| {
        events.execute([id])?;
        alerts.execute([id]).map(drop)
    })
}

/// What was tidied away, or put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removed {
    /// A device is asked no more, because nobody confirmed it.
    NotConfirmed,
    /// A device is asked no more, because its agreement has ended.
    AgreementEnded,
    /// A device is asked no more, because nothing came of it.
    Suspended,
    /// Lines of the history of jobs.
    JobHistory,
    /// Frames that could not be used, by a person.
    Quarantine,
    /// Alerts that were over.
    Alerts,
}

impl Removed {
    const fn word(self) -> &'static str {
        match self {
            Self::NotConfirmed => "device_not_confirmed",
            Self::AgreementEnded => "agreement_ended",
            Self::Suspended => "device_suspended",
            Self::JobHistory => "job_history",
            Self::Quarantine => "quarantine",
            Self::Alerts => "alerts",
        }
    }
}

/// Notes what was tidied away: in the list, and in the log.
pub(crate) fn tell(
    connection: &Connection,
    removed: Removed,
    (device, count): (Option<i64>, usize),
    detail: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let what = removed.word();
    let name = device.map(|no| names::of_device(connection, no)).transpose()?.flatten();
    tracing::info!(what, device = name, count, detail, "tidied away");
    let sql = "INSERT INTO removals (at, what, device, count, detail) VALUES (?1, ?2, ?3, ?4, ?5)";
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    connection.prepare_cached(sql)?.execute(params![now.0, what, device, count, detail]).map(drop)
}
