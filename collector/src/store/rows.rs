//! A row of each question's answer, from the columns of its statement. Opens and asks nothing.

use std::collections::BTreeMap;

use gapless_common::id::{AgentId, CatalogHash, ChannelId, Commit, DeviceId, Epoch, Seq, SiteId};
use gapless_common::ranges::RangeSet;
use gapless_common::time::Timestamp;
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension, Row};

use super::gap_lives::{GAP_FILLED, Happened, WAITS_FOR, awaited, phase, state as gap_state};
use super::model::{
    AgentRow, ConflictRow, Counters, DeviceNo, DeviceRow, GapChoice, GapEventRow, GapFilter, GapRow,
    GapState, Link, ParkedRow, SeriesNo, SeriesRow, SiteRow, StoredReading,
};
use super::own::last_own;
use super::{ReadError, alert_rows, cell, health, jobs, parked, registry, state};
use crate::freshness::{Allowances, Subject};
use crate::gaps::life::Phase;
use crate::ledger::missing;

type Read<T> = Result<T, ReadError>;

macro_rules! name {
    ($row:expr, $column:expr, $type:ident) => {{
        let text: String = $row.get($column)?;
        $type::new(&text).map_err(|_| ReadError::Unknown { what: stringify!($type), value: text })?
    }};
}

pub(super) use name;

pub(super) fn count(row: &Row<'_>, column: &str) -> Read<u64> {
    Ok(u64::try_from(row.get::<_, Option<i64>>(column)?.unwrap_or_default()).unwrap_or_default())
}

pub(super) fn time(row: &Row<'_>, column: &str) -> Read<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp))
}

pub(super) fn bits(row: &Row<'_>, column: &str) -> Read<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(i64::cast_unsigned))
}

pub(super) fn attributes(row: &Row<'_>) -> Read<BTreeMap<String, String>> {
    let text: String = row.get("attributes")?;
    serde_json::from_str(&text).map_err(|_| ReadError::Unknown { what: "set of attributes", value: text })
}

pub(super) fn limit(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn counters(row: &Row<'_>) -> Read<Counters> {
    Ok(Counters {
        frames: count(row, "frames")?,
        readings: count(row, "readings")?,
        duplicates: count(row, "duplicates")?,
        conflicts: count(row, "conflicts")?,
        damaged: count(row, "damaged")?,
        refused: count(row, "refused")?,
        received_bytes: count(row, "received_bytes")?,
        sent_bytes: count(row, "sent_bytes")?,
    })
}

pub(super) fn site_row(row: &Row<'_>) -> Read<SiteRow> {
    Ok(SiteRow {
        site: name!(row, "name", SiteId),
        agents: count(row, "agents")?,
        devices: count(row, "devices")?,
        open_gaps: count(row, "open_gaps")?,
        last_heard_at: time(row, "last_heard_at")?,
    })
}

pub(super) fn missing_records(row: &Row<'_>, connection: &Connection) -> Read<u64> {
    let mut held = state::held_of(&row.get::<_, Vec<u8>>("held")?);
    let sql = "SELECT epoch, committed, parked, lost, end_seq, closed FROM epochs WHERE agent = ?1";
    let mut count = 0;
    let mut statement = connection.prepare_cached(sql)?;
    let mut epochs = statement.query([row.get::<_, i64>("id")?])?;
    while let Some(e) = epochs.next()? {
        let epoch = Epoch(e.get::<_, i64>(0)?.cast_unsigned());
        let at = held.iter().position(|h| h.epoch == epoch);
        let holds = at.map(|at| held.swap_remove(at));
        if e.get(5)? {
            continue;
        }
        let mut accounted = cell::set_of(&e.get::<_, Vec<u8>>(1)?);
        let parked = cell::set_of(&e.get::<_, Vec<u8>>(2)?);
        parked.iter().for_each(|(f, l)| accounted.insert(f, l));
        cell::lost_of(&e.get::<_, Vec<u8>>(3)?).iter().for_each(|&(f, l, _)| accounted.insert(f, l));
        let end = e.get::<_, Option<i64>>(4)?.map(i64::cast_unsigned);
        count = missing(&accounted, end, holds.as_ref()).saturating_add(count);
    }
    // Nothing of these has come yet.
    let nothing_came = held.iter().map(|h| missing(&RangeSet::new(), None, Some(h)));
    Ok(nothing_came.fold(count, u64::saturating_add))
}

pub(super) fn agent_row(row: &Row<'_>, connection: &Connection) -> Read<AgentRow> {
    Ok(AgentRow {
        site: name!(row, "site_name", SiteId),
        agent: name!(row, "name", AgentId),
        link: match row.get::<_, i64>("connected")? {
            1 => Link::Connected,
            2 => Link::Stopped,
            _ => Link::Gone,
        },
        version: row.get("version")?,
        last_heard_at: time(row, "last_heard_at")?,
        flush_ms: u32::try_from(count(row, "flush_ms")?).unwrap_or_default(),
        durable: row.get("durable")?,
        clock_set: row.get("clock_set")?,
        clock_off_ms: row.get("clock_off_ms")?,
        outbox: health::fill(row.get("outbox_owed")?, row.get("outbox_budget")?),
        epoch: bits(row, "epoch")?.map(Epoch),
        catalog: bits(row, "catalog")?.map(CatalogHash),
        cloned_at: time(row, "cloned_at")?,
        missing_records: missing_records(row, connection)?,
        counters: counters(row)?,
    })
}

pub(super) const AGENTS: &str = "SELECT a.*, s.name AS site_name FROM agents a JOIN sites s ON s.id = a.site
    WHERE ?1 IS NULL OR s.name = ?1 ORDER BY s.name, a.name";

pub(super) const DEVICES: &str = concat!(
    "SELECT d.id, d.name, d.attributes, d.stopped, d.stopped_at, d.stopped_why,
    d.confirmed_at, d.confirmed_by, d.changed_at, s.name AS site_name, a.name AS agent_name, a.flush_ms,
    g.interval_ms, g.phase_ms, p.proven_slot,
    j.no AS job_no, j.why AS job_why, j.asked_at AS job_asked_at, j.due_at AS job_due_at, j.failures AS job_failures,
    j.began_at AS job_began_at,
    (SELECT min(coalesce(q.proven_slot + 1, q.first_slot) * qg.interval_ms + qg.phase_ms)
        FROM spans q JOIN grids qg ON qg.id = q.grid WHERE qg.device = d.id AND q.first_slot <= q.last_slot
        AND coalesce(q.proven_slot, q.first_slot - 1) < q.last_slot) AS owed_from,
    ",
    last_own!(),
    " AS last_ts,
    (SELECT count(*) FROM gaps o JOIN grids og ON og.id = o.grid WHERE og.device = d.id AND o.state <> 2)
        AS open_gaps
    FROM devices d JOIN sites s ON s.id = d.site LEFT JOIN agents a ON a.id = d.agent
    LEFT JOIN spans p ON p.id = (SELECT max(q.id) FROM spans q JOIN grids qg ON qg.id = q.grid
        WHERE qg.device = d.id AND q.last_slot IS NULL)
    LEFT JOIN grids g ON g.id = p.grid LEFT JOIN jobs j ON j.device = d.id
    WHERE ?1 IS NULL OR s.name = ?1 ORDER BY s.name, d.name"
);

pub(super) fn device_row(row: &Row<'_>, allowances: &Allowances) -> Read<DeviceRow> {
    let interval: Option<i64> = row.get("interval_ms")?;
    let grid = match interval {
        Some(interval) => Some(state::grid(interval, row.get("phase_ms")?)),
        None => None,
    };
    let proven = row.get::<_, Option<i64>>("proven_slot")?.map(gapless_common::time::Slot);
    let agent: Option<String> = row.get("agent_name")?;
    let (site, device) = (name!(row, "site_name", SiteId), name!(row, "name", DeviceId));
    let (attributes, flush_ms) = (attributes(row)?, count(row, "flush_ms")?);
    let allowed_ms = allowances.of(&Subject {
        site: site.as_str(),
        device: device.as_str(),
        class: attributes.get("class").map(String::as_str),
        interval_ms: interval.unwrap_or_default(),
        flush_ms: i64::try_from(flush_ms).unwrap_or_default(),
    });
    Ok(DeviceRow {
        no: DeviceNo(row.get("id")?),
        allowed_ms,
        job: jobs::pending(row)?,
        site,
        device,
        agent: agent.and_then(|name| AgentId::new(&name).ok()),
        grid,
        attributes,
        last_reading_at: time(row, "last_ts")?,
        // What the device's agent before this one still owes is not accounted for.
        proven_until: match (
            grid.zip(proven).map(|(grid, slot)| grid.at(slot.plus(1))),
            time(row, "owed_from")?,
        ) {
            (Some(until), Some(owed)) => Some(until.min(owed)),
            (until, _) => until,
        },
        open_gaps: count(row, "open_gaps")?,
        flush_ms: u32::try_from(flush_ms).unwrap_or_default(),
        stopped: alert_rows::stopped(row)?,
        confirmed: time(row, "confirmed_at")?.zip(row.get("confirmed_by")?),
        changed_at: time(row, "changed_at")?.filter(|_| grid.is_some()),
    })
}

pub(super) fn series_row(row: &Row<'_>) -> Read<SeriesRow> {
    let (aggregation, label): (i64, i64) = (row.get("aggregation")?, row.get("label")?);
    let unknown = |what, code: i64| ReadError::Unknown { what, value: code.to_string() };
    Ok(SeriesRow {
        no: SeriesNo(row.get("id")?),
        site: name!(row, "site_name", SiteId),
        device: name!(row, "device_name", DeviceId),
        device_no: DeviceNo(row.get("device")?),
        channel: name!(row, "channel", ChannelId),
        revision: u32::try_from(count(row, "revision")?).unwrap_or(u32::MAX),
        unit: row.get("unit")?,
        quantity: row.get("quantity")?,
        aggregation: registry::aggregation(aggregation).ok_or_else(|| unknown("aggregation", aggregation))?,
        label: registry::label(label).ok_or_else(|| unknown("label", label))?,
        attributes: attributes(row)?,
    })
}

pub(super) fn reading(row: &Row<'_>) -> Read<StoredReading> {
    Ok(StoredReading {
        series: SeriesNo(row.get(0)?),
        at: Timestamp(row.get(1)?),
        value: cell::value(row.get_ref(2)?)?,
        quality: cell::quality(row.get(3)?)?,
        lent: cell::is_lent(row.get(3)?),
        commit: Commit(row.get::<_, i64>(4)?.cast_unsigned()),
    })
}

pub(super) fn gap_row(row: &Row<'_>) -> Read<GapRow> {
    let (first, last): (i64, i64) = (row.get("first_slot")?, row.get("last_slot")?);
    let state = match row.get("state")? {
        GAP_FILLED => GapState::Filled,
        code => GapState::Missing(phase(code)),
    };
    let waits = matches!(state, GapState::Missing(Phase::Open | Phase::Waiting));
    let (next, sourceless) = (time(row, "next_at")?.filter(|_| waits), row.get::<_, bool>("sourceless")?);
    Ok(GapRow {
        id: row.get("id")?,
        site: name!(row, "site_name", SiteId),
        device: name!(row, "device_name", DeviceId),
        from: Timestamp(row.get("from_ts")?),
        to: Timestamp(row.get("to_ts")?),
        slots: u64::try_from(last.saturating_sub(first)).unwrap_or_default() + 1,
        cause: cell::cause(row.get("cause")?)?,
        state,
        opened_at: Timestamp(row.get("opened_at")?),
        closed_at: time(row, "closed_at")?,
        attempts: row.get("attempts")?,
        next_try_at: next.filter(|_| !sourceless),
        given_up_at: next.filter(|_| sourceless),
        waits_for: row.get::<_, Option<i64>>("waits_for")?.map(awaited),
        source: row.get("source")?,
        changed: Commit(count(row, "changed_commit")?),
    })
}

pub(super) fn gap_event_row(row: &Row<'_>) -> Read<GapEventRow> {
    let event: i64 = row.get("event")?;
    let unknown = || ReadError::Unknown { what: "event of a gap", value: event.to_string() };
    Ok(GapEventRow {
        gap: row.get("gap")?,
        at: Timestamp(row.get("at")?),
        commit: Commit(count(row, "commit_no")?),
        event: Happened::word(event).ok_or_else(unknown)?,
        actor: row.get("actor")?,
        cause: row.get::<_, Option<i64>>("cause")?.map(cell::cause).transpose()?,
        next_at: time(row, "next_at")?,
        detail: row.get("detail")?,
    })
}

/// The rows of gaps that are chosen so.
pub(super) fn gaps_sql(which: &str) -> String {
    format!(
        "SELECT p.*, s.name AS site_name, d.name AS device_name,
            iif(p.sourceless, NULL, d.attributes ->> 'history') AS source, {WAITS_FOR} AS waits_for
        FROM gaps p JOIN grids g ON g.id = p.grid JOIN devices d ON d.id = g.device JOIN sites s ON s.id = d.site
        LEFT JOIN agents a ON a.id = d.agent WHERE {which}"
    )
}

/// The conditions of a filter, each with its value; the order of the clauses is the order of the values.
pub(super) fn gap_query(filter: &GapFilter) -> (String, Vec<Sql>) {
    let conditions: [(&str, Option<Sql>); 6] = [
        ("s.name = ?", filter.site.as_ref().map(|s| Sql::Text(s.to_string()))),
        ("d.name = ?", filter.device.as_ref().map(|d| Sql::Text(d.to_string()))),
        ("p.to_ts > ?", filter.from.map(|t| Sql::Integer(t.0))),
        ("p.from_ts < ?", filter.to.map(|t| Sql::Integer(t.0))),
        ("p.changed_commit > ?", filter.changed_after.map(|c| Sql::Integer(c.0.cast_signed()))),
        ("p.id > ?", filter.after.map(Sql::Integer)),
    ];
    let mut sql = gaps_sql("1");
    // Not a parameter: the index of gaps that are not filled is used only where the text says so.
    let condition = match filter.state {
        None => String::new(),
        Some(GapChoice::Unfilled) => format!(" AND p.state <> {GAP_FILLED}"),
        Some(GapChoice::Only(GapState::Filled)) => format!(" AND p.state = {GAP_FILLED}"),
        Some(GapChoice::Only(GapState::Missing(phase))) => {
            format!(" AND p.state <> {GAP_FILLED} AND p.state = {}", gap_state(phase))
        }
    };
    sql.push_str(&condition);
    let mut values = Vec::new();
    for (condition, value) in conditions {
        if let Some(value) = value {
            sql.push_str(" AND ");
            sql.push_str(condition);
            values.push(value);
        }
    }
    sql.push_str(" ORDER BY p.id LIMIT ?");
    values.push(Sql::Integer(limit(filter.limit)));
    (sql, values)
}

pub(super) fn conflict_row(row: &Row<'_>, connection: &Connection) -> Read<ConflictRow> {
    let (series, at): (i64, i64) = (row.get("series")?, row.get("ts")?);
    let sql = "SELECT * FROM readings WHERE series = ?1 AND ts = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let stored = statement.query_row([series, at], |r| Ok(reading(r))).optional()?.transpose()?;
    Ok(ConflictRow {
        id: row.get("id")?,
        series: SeriesNo(series),
        at: Timestamp(at),
        value: cell::value(row.get_ref("value")?)?,
        quality: cell::quality(row.get("quality")?)?,
        stored,
        agent: name!(row, "agent_name", AgentId),
        epoch: Epoch(bits(row, "epoch")?.unwrap_or_default()),
        seq: Seq(bits(row, "seq")?.unwrap_or_default()),
        received_at: Timestamp(row.get("received_at")?),
    })
}

pub(super) fn parked_row(row: &Row<'_>) -> Read<ParkedRow> {
    let reason: i64 = row.get("reason")?;
    Ok(ParkedRow {
        id: row.get("id")?,
        site: name!(row, "site_name", SiteId),
        agent: name!(row, "agent_name", AgentId),
        epoch: Epoch(bits(row, "epoch")?.unwrap_or_default()),
        first: Seq(bits(row, "first_seq")?.unwrap_or_default()),
        count: count(row, "count")?,
        reason: parked::reason(reason)
            .ok_or_else(|| ReadError::Unknown { what: "reason", value: reason.to_string() })?,
        detail: row.get("detail")?,
        bytes: count(row, "size")?,
        received_at: Timestamp(row.get("received_at")?),
    })
}
