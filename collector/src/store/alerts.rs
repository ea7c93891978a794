//! What people are told, as rows: the facts that it is judged by, and the alerts with what became of them. Decides nothing.

use std::collections::BTreeMap;

use gapless_common::quality::Cause;
use gapless_common::time::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::model::StopReason;
use super::own::last_own;
use super::{AHEAD_MAX_MS, alert_rows, awaited, cell, health};
use crate::alerts::Kind;
use crate::alerts::absence::Absence;
use crate::alerts::judge::{AgentFacts, ChannelFacts, DeviceFacts};
use crate::alerts::limits::{Limits, Rules};
use crate::freshness::{Allowances, Subject};
use crate::ledger::AgentNo;
use crate::obstacle;

/// `coverage.state` of slots that were polled in vain.
const MISSED: i64 = 2;
/// `coverage.state` of what was received.
const RECEIVED: i64 = 1;
/// A gap is news for so long after it was proven. What was told stays so while a gap of the device is neither filled nor given up.
const GAP_NEWS_MS: i64 = 7 * 86_400_000;

/// An agent that left so lately, in ms, may be back at the next look.
const LATELY_MS: i64 = 60_000;
/// Absences are kept for so long, in ms: longer than anything is told of by them unless somebody says so.
const ABSENCES_KEPT_MS: i64 = 8 * 86_400_000;
/// And so many of an agent.
const ABSENCES_MAX: i64 = 1_024;

/// Whose alert it is: the number of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subjected {
    Device(i64),
    Agent(i64),
    /// The collector itself.
    Collector,
}

/// A device or an agent with the facts about it, its limits, and its alerts that are open.
#[derive(Debug)]
pub(crate) struct Known<F> {
    pub(crate) site: Option<i64>,
    pub(crate) facts: F,
    pub(crate) limits: Limits,
    pub(crate) open: BTreeMap<Kind, i64>,
}

/// What devices are judged by beside the facts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measure<'a> {
    pub(crate) rules: &'a Rules,
    pub(crate) allowances: &'a Allowances,
    /// Since when the collector has been listening.
    pub(crate) listening_since: Timestamp,
    /// When the broker was away since, in order; what it is up to now is among it.
    pub(crate) unheard: &'a [Absence],
    /// Since when nobody can be heard, where that is so. One that ends now is over.
    pub(crate) unheard_since: Option<Timestamp>,
    pub(crate) now: Timestamp,
}

/// The alerts of a device that are open.
pub(super) const OPEN_OF_DEVICE: &str =
    "SELECT id, kind FROM alerts WHERE device = ?1 AND resolved_at IS NULL";
/// The alerts of an agent that are open.
pub(super) const OPEN_OF_AGENT: &str = "SELECT id, kind FROM alerts WHERE agent = ?1 AND resolved_at IS NULL";

/// The alerts of the collector that are open.
pub(super) const OPEN_OF_COLLECTOR: &str =
    "SELECT id, kind FROM alerts WHERE site IS NULL AND resolved_at IS NULL AND kind > ?1";

/// The alerts that are open of one.
pub(crate) fn open_of(connection: &Connection, subject: Subjected) -> rusqlite::Result<BTreeMap<Kind, i64>> {
    let (sql, no) = match subject {
        Subjected::Device(no) => (OPEN_OF_DEVICE, no),
        Subjected::Agent(no) => (OPEN_OF_AGENT, no),
        // Codes of kinds begin with 1.
        Subjected::Collector => (OPEN_OF_COLLECTOR, 0),
    };
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([no])?;
    let mut open = BTreeMap::new();
    while let Some(row) = rows.next()? {
        if let Some(kind) = Kind::of_code(row.get(1)?) {
            open.insert(kind, row.get(0)?);
        }
    }
    Ok(open)
}

/// Not in the future, as far as clocks may differ.
pub(super) const DEVICE: &str = concat!(
    "SELECT s.id AS site_no, s.name AS site, d.name AS device, d.attributes, d.announced_at, d.resumed_at,
        d.stopped, d.stopped_why, a.id AS agent_no, a.connected, a.left_at, a.flush_ms, g.id AS grid, g.interval_ms,
        ",
    last_own!(),
    " AS last_ts,
        (SELECT max(o.last_slot - o.first_slot + 1) FROM gaps o JOIN grids og ON og.id = o.grid
            WHERE og.device = d.id AND o.state <> 2 AND (o.opened_at > ?3 OR (o.state <> 5 AND EXISTS (SELECT 1 FROM alerts l
                WHERE l.device = d.id AND l.kind = 3 AND l.resolved_at IS NULL
                    AND o.opened_at > l.raised_at - ?4)))) AS gap_slots
    FROM devices d JOIN sites s ON s.id = d.site
    LEFT JOIN spans p ON p.id = (SELECT max(q.id) FROM spans q JOIN grids qg ON qg.id = q.grid
        WHERE qg.device = d.id AND q.last_slot IS NULL AND q.first_slot IS NOT NULL)
    LEFT JOIN grids g ON g.id = p.grid LEFT JOIN agents a ON a.id = p.agent WHERE d.id = ?1"
);

/// What is known of a device.
pub(crate) fn device(
    connection: &Connection,
    measure: Measure<'_>,
    no: i64,
) -> rusqlite::Result<Option<Known<DeviceFacts>>> {
    let Measure { now, .. } = measure;
    let values = [no, now.plus_ms(AHEAD_MAX_MS).0, now.plus_ms(-GAP_NEWS_MS).0, GAP_NEWS_MS];
    let row = |r: &Row<'_>| device_row(connection, measure, no, r);
    connection.prepare_cached(DEVICE)?.query_row(values, row).optional()
}

fn device_row(
    connection: &Connection,
    measure: Measure<'_>,
    no: i64,
    r: &Row<'_>,
) -> rusqlite::Result<Known<DeviceFacts>> {
    let attributes: BTreeMap<String, String> =
        serde_json::from_str(&r.get::<_, String>("attributes")?).unwrap_or_default();
    let (site, device): (String, String) = (r.get("site")?, r.get("device")?);
    let class = attributes.get("class").map(String::as_str);
    let limits = measure.rules.of(&site, &device, class);
    let grid: Option<i64> = r.get("grid")?;
    let number = |column| Ok::<_, rusqlite::Error>(r.get::<_, Option<i64>>(column)?.unwrap_or_default());
    let (interval_ms, flush_ms) = (number("interval_ms")?, number("flush_ms")?);
    let subject = Subject { site: &site, device: &device, class, interval_ms, flush_ms };
    let stopped = r.get::<_, Option<i64>>("stopped")?.and_then(alert_rows::stop_reason);
    let last_reading_at = r.get::<_, Option<i64>>("last_ts")?.map(Timestamp);
    let is_connected = number("connected")? == 1;
    let left_at = r.get::<_, Option<i64>>("left_at")?.map(Timestamp).filter(|_| !is_connected);
    let mut away = match r.get("agent_no")? {
        Some(agent) => absences(connection, agent)?,
        None => Vec::new(),
    };
    away.extend(left_at.map(|at| (at, measure.now)));
    let said = |kind: obstacle::Kind| {
        kind.of(&attributes).map(|obstacle| (obstacle.since.to_owned(), obstacle.why.to_owned()))
    };
    let is_collected = grid.is_some() && stopped.is_none();
    // Why an agent was asked in vain says less than what its bus said.
    let is_of_source = attributes.get("history").is_some_and(|asked| asked == "source");
    let facts = DeviceFacts {
        is_collected,
        // A link that happens to be down at each look hides nothing.
        agent_is_there: is_connected || left_at.is_some_and(|at| measure.now.since_ms(at) < LATELY_MS),
        listening_since: measure.listening_since,
        away,
        commissioned_at: Timestamp(number("announced_at")?.max(number("resumed_at")?)),
        last_reading_at,
        allowed_ms: measure.allowances.of(&subject),
        missed: grid.map(|grid| missed(connection, grid, last_reading_at)).transpose()?.flatten(),
        failing: is_of_source.then(|| failing(connection, no)).transpose()?.flatten(),
        gap_slots: number("gap_slots")?,
        unauthorised: said(obstacle::Kind::NotAuthorised),
        unreachable: said(obstacle::Kind::Unreachable),
        suspended: r
            .get::<_, Option<String>>("stopped_why")?
            .filter(|_| stopped == Some(StopReason::Suspended)),
        channels: match last_reading_at.filter(|_| is_collected) {
            Some(last) => channels(connection, no, last, interval_ms, &limits)?,
            None => Vec::new(),
        },
    };
    Ok(Known { site: r.get("site_no")?, facts, limits, open: open_of(connection, Subjected::Device(no))? })
}

/// Why the device could not be read when that was last tried, where it is still to be tried again.
pub(super) fn failing(connection: &Connection, device: i64) -> rusqlite::Result<Option<String>> {
    let sql =
        "SELECT iif(h.outcome = 2, h.detail, NULL) FROM job_history h JOIN jobs j ON j.device = h.device
        WHERE h.device = ?1 AND j.failures > 0 ORDER BY h.id DESC LIMIT 1";
    connection.prepare_cached(sql)?.query_row([device], |r| r.get(0)).optional().map(Option::flatten)
}

/// When an agent was away, in order.
fn absences(connection: &Connection, agent: i64) -> rusqlite::Result<Vec<Absence>> {
    let sql = "SELECT from_at, to_at FROM absences WHERE agent = ?1 ORDER BY from_at";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([agent], |r| Ok((Timestamp(r.get(0)?), Timestamp(r.get(1)?))))?.collect()
}

/// An agent is back that had left. So many absences are kept, and no older ones: what they were about has long been told.
pub(crate) fn back(connection: &Connection, agent: AgentNo, now: Timestamp) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO absences SELECT id, left_at, ?2 FROM agents
        WHERE id = ?1 AND connected <> 1 AND left_at < ?2";
    if connection.prepare_cached(sql)?.execute([agent.0, now.0])? > 0 {
        let sql = "DELETE FROM absences WHERE agent = ?1 AND (from_at < ?2 OR from_at <= (SELECT from_at FROM absences
            WHERE agent = ?1 ORDER BY from_at DESC LIMIT 1 OFFSET ?3))";
        let before = now.plus_ms(-ABSENCES_KEPT_MS).0;
        connection.prepare_cached(sql)?.execute([agent.0, before, ABSENCES_MAX])?;
    }
    Ok(())
}

/// Why the newest slot of a grid was polled in vain, where it was. That another device stands in for it, since the device's own
/// `last` reading is older, changes nothing of that: its gap says why.
fn missed(connection: &Connection, grid: i64, last: Option<Timestamp>) -> rusqlite::Result<Option<Cause>> {
    let sql = "SELECT c.state, c.cause, c.last_slot, c.last_slot * g.interval_ms + g.phase_ms
        FROM coverage c JOIN grids g ON g.id = c.grid WHERE c.grid = ?1 ORDER BY c.first_slot DESC LIMIT 1";
    let row = |r: &Row<'_>| Ok((r.get(0)?, r.get(1)?, r.get(2)?, Timestamp(r.get(3)?)));
    let newest: Option<(i64, i64, i64, Timestamp)> =
        connection.prepare_cached(sql)?.query_row([grid], row).optional()?;
    match newest {
        Some((MISSED, cause, ..)) => Ok(cell::cause(cause).ok()),
        Some((RECEIVED, _, slot, at)) if last.is_none_or(|last| last < at) => {
            let sql = "SELECT cause, last_slot FROM gaps WHERE grid = ?1 AND first_slot <= ?2
                ORDER BY first_slot DESC LIMIT 1";
            let row = |r: &Row<'_>| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?));
            let gap = connection.prepare_cached(sql)?.query_row([grid, slot], row).optional()?;
            let cause = gap.filter(|(_, last)| *last >= slot).and_then(|(cause, _)| cell::cause(cause).ok());
            Ok(cause.filter(is_of_poll))
        }
        _ => Ok(None),
    }
}

/// Whether a device that is polled gives this cause for a slot, and not its agent.
const fn is_of_poll(cause: &Cause) -> bool {
    use Cause::{BackOff, Corrupt, NoAnswer, NotConnected, Refused};
    matches!(cause, NoAnswer | Refused(_) | Corrupt | NotConnected | BackOff)
}

/// The newest readings of each channel, as many as the limits speak of. Older revisions of a channel have none so new.
fn channels(
    connection: &Connection,
    device: i64,
    last: Timestamp,
    interval_ms: i64,
    limits: &Limits,
) -> rusqlite::Result<Vec<ChannelFacts>> {
    let sql = "SELECT id, channel, attributes ->> 'valid' FROM series WHERE device = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([device])?;
    let sql = "SELECT value, quality FROM readings
        WHERE series = ?1 AND ts > ?2 AND ts <= ?3 AND quality < 65536 ORDER BY ts DESC LIMIT ?4";
    let mut newest_of = connection.prepare_cached(sql)?;
    let mut channels = Vec::new();
    while let Some(r) = rows.next()? {
        let channel: String = r.get(1)?;
        let flat = if limits.moves.contains(&channel) { limits.flat_polls } else { 0 };
        let polls = i64::from(limits.implausible_polls.max(flat));
        if polls == 0 {
            continue;
        }
        let from = last.plus_ms(interval_ms.saturating_mul(-polls - 1));
        let reading = |r: &Row<'_>| {
            let value = match r.get_ref(0)? {
                ValueRef::Real(x) => Some(x),
                _ => None,
            };
            Ok(cell::quality(r.get(1)?).ok().map(|quality| (value, quality)))
        };
        let newest = newest_of.query_map([r.get::<_, i64>(0)?, from.0, last.0, polls], reading)?;
        let newest: rusqlite::Result<Vec<_>> = newest.collect();
        let valid: Option<String> = r.get(2)?;
        let valid = valid.and_then(|text| serde_json::from_str(&text).ok());
        channels.push(ChannelFacts { channel, valid, newest: newest?.into_iter().flatten().collect() });
    }
    Ok(channels)
}

/// The agents there are.
pub(crate) fn agents(connection: &Connection) -> rusqlite::Result<Vec<i64>> {
    let mut statement = connection.prepare_cached("SELECT id FROM agents ORDER BY id")?;
    statement.query_map([], |r| r.get(0))?.collect()
}

/// What is known of an agent.
pub(crate) fn agent(
    connection: &Connection,
    measure: Measure<'_>,
    no: i64,
) -> rusqlite::Result<Option<Known<AgentFacts>>> {
    let sql = "SELECT a.site, s.name, a.connected, coalesce(a.left_at, a.last_heard_at), a.outbox_owed, a.outbox_budget,
            a.clock_off_ms, a.clock_set,
            EXISTS (SELECT 1 FROM spans p WHERE p.agent = a.id AND p.last_slot IS NULL AND p.first_slot IS NOT NULL)
        FROM agents a JOIN sites s ON s.id = a.site WHERE a.id = ?1";
    let row = |r: &Row<'_>| {
        let is_there = r.get::<_, i64>(2)? == 1;
        let left = r.get::<_, Option<i64>>(3)?.map(|at| Timestamp(at).max(measure.listening_since));
        let facts = AgentFacts {
            owes: r.get(8)?,
            gone_since: left.filter(|_| !is_there),
            unheard: measure.unheard.to_vec(),
            outbox: health::fill(r.get(4)?, r.get(5)?),
            clock_off_ms: r.get(6)?,
            clock_set: r.get(7)?,
        };
        let limits = measure.rules.of_agents(&r.get::<_, String>(1)?);
        Ok(Known { site: r.get(0)?, facts, limits, open: open_of(connection, Subjected::Agent(no))? })
    };
    connection.prepare_cached(sql)?.query_row([no], row).optional()
}

const RAISED: i64 = 1;
const ACKNOWLEDGED: i64 = 2;
const RESOLVED: i64 = 3;

/// The word that the API has for `alert_events.event`.
pub(super) const fn event_word(event: i64) -> Option<&'static str> {
    match event {
        RAISED => Some("raised"),
        ACKNOWLEDGED => Some("acknowledged"),
        RESOLVED => Some("resolved"),
        _ => None,
    }
}

fn tell(
    connection: &Connection,
    alert: i64,
    event: i64,
    actor: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO alert_events (alert, at, event, actor) VALUES (?1, ?2, ?3, ?4)";
    connection.prepare_cached(sql)?.execute(params![alert, now.0, event, actor]).map(drop)
}

/// Raises an alert.
pub(crate) fn raise(
    connection: &Connection,
    (site, subject): (Option<i64>, Subjected),
    kind: Kind,
    detail: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let (device, agent) = match subject {
        Subjected::Device(no) => (Some(no), None),
        Subjected::Agent(no) => (None, Some(no)),
        Subjected::Collector => (None, None),
    };
    let sql =
        "INSERT INTO alerts (kind, site, device, agent, detail, raised_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
        RETURNING id";
    let row = params![kind.code(), site, device, agent, detail, now.0];
    let id = connection.prepare_cached(sql)?.query_row(row, |r| r.get(0))?;
    tell(connection, id, RAISED, "collector", now)
}

/// Whether an alert is to have these words: it has others, and is in no message under way, which stays as it is until it is
/// accepted, or its receiver is taken away.
pub(crate) fn is_to_reword(connection: &Connection, alert: i64, words: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT detail <> ?2 AND NOT EXISTS (SELECT 1 FROM alert_events e JOIN receivers r ON e.id > r.told AND e.id <= r.through
        WHERE e.alert = ?1 AND r.gone_at IS NULL) FROM alerts WHERE id = ?1";
    connection.prepare_cached(sql)?.query_row(params![alert, words], |r| r.get(0))
}

/// An alert that is open has other words now. Nobody is told anew.
pub(crate) fn reword(connection: &Connection, alert: i64, words: &str) -> rusqlite::Result<()> {
    let sql = "UPDATE alerts SET detail = ?2 WHERE id = ?1";
    connection.prepare_cached(sql)?.execute(params![alert, words]).map(drop)
}

/// Whether there is an alert of that number, over or not.
pub(crate) fn is_known(connection: &Connection, alert: i64) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM alerts WHERE id = ?1")?.exists([alert])
}

/// Resolves an alert.
pub(crate) fn resolve(connection: &Connection, alert: i64, now: Timestamp) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE alerts SET resolved_at = ?2 WHERE id = ?1 AND resolved_at IS NULL")?
        .execute([alert, now.0])?;
    awaited::told(connection, alert)?;
    tell(connection, alert, RESOLVED, "collector", now)
}

/// A person has seen an alert. Returns whether there is such a one that is not over; seen again it stays as it is.
pub(crate) fn acknowledge(
    connection: &Connection,
    alert: i64,
    actor: &str,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let sql = "SELECT acknowledged_at FROM alerts WHERE id = ?1 AND resolved_at IS NULL";
    let row = |r: &Row<'_>| r.get::<_, Option<i64>>(0);
    let Some(seen) = connection.prepare_cached(sql)?.query_row([alert], row).optional()? else {
        return Ok(false);
    };
    if seen.is_none() {
        let sql = "UPDATE alerts SET acknowledged_at = ?2, acknowledged_by = ?3 WHERE id = ?1";
        connection.prepare_cached(sql)?.execute(params![alert, now.0, actor])?;
        tell(connection, alert, ACKNOWLEDGED, actor, now)?;
    }
    Ok(true)
}

/// A device is not asked any more.
pub(crate) fn stop(
    connection: &Connection,
    device: i64,
    (reason, why): (StopReason, &str),
    now: Timestamp,
) -> rusqlite::Result<()> {
    let sql = "UPDATE devices SET stopped = ?2, stopped_at = ?3, stopped_why = ?4 WHERE id = ?1";
    connection
        .prepare_cached(sql)?
        .execute(params![device, alert_rows::stop_code(reason), now.0, why])
        .map(drop)
}

/// It is asked again; from `resumed` on it counts as commissioned, where a person wants it.
pub(crate) fn go_on(
    connection: &Connection,
    device: i64,
    resumed: Option<Timestamp>,
) -> rusqlite::Result<()> {
    let sql = "UPDATE devices SET stopped = NULL, stopped_at = NULL, stopped_why = NULL,
        resumed_at = coalesce(?2, resumed_at) WHERE id = ?1";
    connection.prepare_cached(sql)?.execute(params![device, resumed.map(|at| at.0)]).map(drop)
}

/// Why a device is not asked, where it is not.
pub(crate) fn stopped(connection: &Connection, device: i64) -> rusqlite::Result<Option<StopReason>> {
    let sql = "SELECT stopped FROM devices WHERE id = ?1";
    let code =
        connection.prepare_cached(sql)?.query_row([device], |r| r.get::<_, Option<i64>>(0)).optional()?;
    Ok(code.flatten().and_then(alert_rows::stop_reason))
}
