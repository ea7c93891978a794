//! A row of each answer about alerts, from the columns of its statement, and the statements.

use gapless_common::id::{AgentId, DeviceId, SiteId};
use gapless_common::time::Timestamp;
use rusqlite::Row;
use rusqlite::types::Value as Sql;

use super::model::{
    AlertChoice, AlertEventRow, AlertFilter, AlertRow, AlertState, ReceiverRow, RemovalRow, StopReason,
    Stopped,
};
use super::rows::{count, limit, time};
use super::{ReadError, alerts};
use crate::alerts::Kind;

type Read<T> = Result<T, ReadError>;

fn unknown<E>(what: &'static str, value: impl ToString) -> impl FnOnce(E) -> ReadError {
    move |_| ReadError::Unknown { what, value: value.to_string() }
}

/// The columns of an alert's row.
pub(super) const ALERT: &str = "SELECT a.*, s.name AS site_name, d.name AS device_name, g.name AS agent_name, coalesce(a.awaited_by,
        (SELECT group_concat(w.actor, ', ') FROM awaited w WHERE w.device = a.device AND a.kind = 12 AND a.resolved_at IS NULL))
        AS waiting
    FROM alerts a LEFT JOIN sites s ON s.id = a.site LEFT JOIN devices d ON d.id = a.device
    LEFT JOIN agents g ON g.id = a.agent";

/// What became of alerts after a line of their histories, with the columns of the alert.
pub(super) const EVENTS_SINCE: &str =
    "SELECT a.*, s.name AS site_name, d.name AS device_name, g.name AS agent_name, e.id AS event_id, e.at, e.event, e.actor,
        coalesce(a.awaited_by,
        (SELECT group_concat(w.actor, ', ') FROM awaited w WHERE w.device = a.device AND a.kind = 12 AND a.resolved_at IS NULL))
        AS waiting
    FROM alert_events e JOIN alerts a ON a.id = e.alert LEFT JOIN sites s ON s.id = a.site
    LEFT JOIN devices d ON d.id = a.device LEFT JOIN agents g ON g.id = a.agent WHERE e.id > ?1 ORDER BY e.id LIMIT ?2";

/// Number of the alerts that nobody has acknowledged and that are not over.
pub(super) const OPEN_COUNT: &str =
    "SELECT count(*) AS open FROM alerts WHERE resolved_at IS NULL AND acknowledged_at IS NULL";

/// The conditions of a filter, each with its value; the order of the clauses is the order of the values.
pub(super) fn alert_query(filter: &AlertFilter) -> (String, Vec<Sql>) {
    let conditions: [(&str, Option<Sql>); 4] = [
        ("s.name = ?", filter.site.as_ref().map(|site| Sql::Text(site.to_string()))),
        ("d.name = ?", filter.device.as_ref().map(|device| Sql::Text(device.to_string()))),
        ("a.kind = ?", filter.kind.map(|kind| Sql::Integer(kind.code()))),
        ("a.id > ?", filter.after.map(Sql::Integer)),
    ];
    let state = match filter.state {
        None => "",
        Some(AlertChoice::Unresolved) => " AND a.resolved_at IS NULL",
        Some(AlertChoice::Only(AlertState::Open)) => {
            " AND a.resolved_at IS NULL AND a.acknowledged_at IS NULL"
        }
        Some(AlertChoice::Only(AlertState::Acknowledged)) => {
            " AND a.resolved_at IS NULL AND a.acknowledged_at IS NOT NULL"
        }
        Some(AlertChoice::Only(AlertState::Resolved)) => " AND a.resolved_at IS NOT NULL",
    };
    let mut sql = format!("{ALERT} WHERE 1{state}");
    let mut values = Vec::new();
    for (condition, value) in conditions {
        if let Some(value) = value {
            sql.push_str(" AND ");
            sql.push_str(condition);
            values.push(value);
        }
    }
    sql.push_str(" ORDER BY a.id LIMIT ?");
    values.push(Sql::Integer(limit(filter.limit)));
    (sql, values)
}

pub(super) fn alert_row(row: &Row<'_>) -> Read<AlertRow> {
    let kind: i64 = row.get("kind")?;
    let site: Option<String> = row.get("site_name")?;
    let device: Option<String> = row.get("device_name")?;
    let agent: Option<String> = row.get("agent_name")?;
    let by: Option<String> = row.get("acknowledged_by")?;
    Ok(AlertRow {
        id: row.get("id")?,
        kind: Kind::of_code(kind).ok_or(()).map_err(unknown("kind of alert", kind))?,
        site: site.map(|name| SiteId::new(&name).map_err(unknown("site", &name))).transpose()?,
        device: device.map(|name| DeviceId::new(&name).map_err(unknown("device", &name))).transpose()?,
        agent: agent.map(|name| AgentId::new(&name).map_err(unknown("agent", &name))).transpose()?,
        detail: row.get("detail")?,
        raised_at: Timestamp(row.get("raised_at")?),
        acknowledged: time(row, "acknowledged_at")?.zip(by),
        resolved_at: time(row, "resolved_at")?,
        awaited_by: row.get("waiting")?,
    })
}

pub(super) fn alert_event_row(row: &Row<'_>) -> Read<AlertEventRow> {
    let event: i64 = row.get("event")?;
    Ok(AlertEventRow {
        at: Timestamp(row.get("at")?),
        event: alerts::event_word(event).ok_or(()).map_err(unknown("event of an alert", event))?,
        actor: row.get("actor")?,
    })
}

/// The columns of a receiver's row.
pub(super) const RECEIVERS: &str = "SELECT v.*,
        (SELECT count(*) FROM alert_events e WHERE e.id > v.told AND e.event <> 2) AS owed
    FROM receivers v ORDER BY v.name";

pub(super) fn receiver_row(row: &Row<'_>) -> Read<ReceiverRow> {
    Ok(ReceiverRow {
        name: row.get("name")?,
        accepted: count(row, "accepted")?,
        accepted_at: time(row, "accepted_at")?,
        owed: count(row, "owed")?,
        failures: row.get("failures")?,
        next_try_at: time(row, "next_at")?,
        last_error: row.get("last_error")?,
        set_aside: count(row, "set_aside")?,
        set_aside_at: time(row, "set_aside_at")?,
        gone_at: time(row, "gone_at")?,
    })
}

/// The columns of a removal's row.
pub(super) const REMOVALS: &str = "SELECT r.*, s.name AS site_name, d.name AS device_name FROM removals r
    LEFT JOIN devices d ON d.id = r.device LEFT JOIN sites s ON s.id = d.site WHERE r.id > ?1 ORDER BY r.id LIMIT ?2";

pub(super) fn removal_row(row: &Row<'_>) -> Read<RemovalRow> {
    let site: Option<String> = row.get("site_name")?;
    let device: Option<String> = row.get("device_name")?;
    let site = site.map(|name| SiteId::new(&name).map_err(unknown("site", &name))).transpose()?;
    let device = device.map(|name| DeviceId::new(&name).map_err(unknown("device", &name))).transpose()?;
    Ok(RemovalRow {
        id: row.get("id")?,
        at: Timestamp(row.get("at")?),
        what: row.get("what")?,
        device: site.zip(device),
        count: count(row, "count")?,
        detail: row.get("detail")?,
    })
}

/// `devices.stopped`, by code.
const STOPS: [(i64, StopReason); 3] =
    [(1, StopReason::Suspended), (2, StopReason::AgreementEnded), (3, StopReason::NotConfirmed)];

/// The reason of a stored code.
pub(super) fn stop_reason(code: i64) -> Option<StopReason> {
    STOPS.iter().find(|(known, _)| *known == code).map(|(_, reason)| *reason)
}

/// The code of a reason.
pub(super) fn stop_code(reason: StopReason) -> i64 {
    STOPS.iter().find(|(_, known)| *known == reason).map_or(1, |(code, _)| *code)
}

/// Why a device is not asked, from the columns of its row.
pub(super) fn stopped(row: &Row<'_>) -> Read<Option<Stopped>> {
    let Some(code) = row.get::<_, Option<i64>>("stopped")? else { return Ok(None) };
    let reason = stop_reason(code).ok_or(()).map_err(unknown("reason for a stop", code))?;
    let since = time(row, "stopped_at")?.unwrap_or_default();
    Ok(Some(Stopped { reason, since, why: row.get::<_, Option<String>>("stopped_why")?.unwrap_or_default() }))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::super::{housekeeping, parked, sqlite};
    use super::*;

    /// What SQLite does for a statement.
    fn plan(connection: &Connection, sql: &str) -> Vec<String> {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let nothing = vec![Sql::Null; statement.parameter_count()];
        let rows = statement.query_map(rusqlite::params_from_iter(nothing), |r| r.get::<_, String>("detail"));
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// What is asked at each page, sweep, scrape or start must not cost more the longer a collector has lived.
    #[test]
    fn neither_old_alerts_nor_parked_frames_are_gone_through() {
        let connection = sqlite::make_writer(Connection::open_in_memory().unwrap(), 7).unwrap();
        let of_state =
            |state| alert_query(&AlertFilter { state: Some(state), limit: 1, ..AlertFilter::default() }).0;
        let statements = [
            OPEN_COUNT.to_owned(),
            EVENTS_SINCE.to_owned(),
            of_state(AlertChoice::Unresolved),
            of_state(AlertChoice::Only(AlertState::Open)),
            of_state(AlertChoice::Only(AlertState::Acknowledged)),
            alerts::OPEN_OF_DEVICE.to_owned(),
            alerts::OPEN_OF_AGENT.to_owned(),
            alerts::OPEN_OF_COLLECTOR.to_owned(),
            alerts::DEVICE.to_owned(),
            housekeeping::OLD_ALERTS.to_owned(),
            parked::WAITING.to_owned(),
            parked::WAITING_FOR_KNOWN.to_owned(),
            parked::UNREADABLE.to_owned(),
        ];
        for sql in statements {
            let plan = plan(&connection, &sql);
            let is_scan = |step: &String| {
                let whole = ["SCAN a", "SCAN alerts", "SCAN l", "SCAN e", "SCAN p", "SCAN parked"];
                whole.contains(&step.as_str()) || step.contains("USE TEMP B-TREE FOR ORDER BY")
            };
            assert!(!plan.iter().any(is_scan), "{sql}: {plan:?}");
        }
    }
}
