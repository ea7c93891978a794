//! Leases of sites that somebody watches, and what their agents were told of them. Decides nothing.

use gapless_common::id::{AgentId, SiteId};
use gapless_common::message::CommandBody;
use gapless_common::time::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::commands;
use super::model::{LeaseAgent, LeaseRow, LeaseState};
use super::rows::name;
use super::{ReadError, read};
use crate::ledger::AgentNo;
use crate::live;

/// An agent that was away is told so long after the end of a lease that it has ended; later it has run out there, too.
const END_TOLD_MS: i64 = 3_600_000;

/// The number of a site.
pub(crate) fn site(connection: &Connection, name: &SiteId) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT id FROM sites WHERE name = ?1";
    connection.prepare_cached(sql)?.query_row([name.as_str()], |r| r.get(0)).optional()
}

/// The end of a site's lease, where it is still to come.
pub(crate) fn standing(
    connection: &Connection,
    site: i64,
    now: Timestamp,
) -> rusqlite::Result<Option<Timestamp>> {
    let sql = "SELECT until FROM leases WHERE site = ?1 AND until > ?2";
    connection.prepare_cached(sql)?.query_row([site, now.0], |r| r.get(0).map(Timestamp)).optional()
}

/// Sites whose lease was granted before the clock was set back.
pub(crate) fn left_over(connection: &Connection, now: Timestamp) -> rusqlite::Result<Vec<i64>> {
    let mut statement = connection.prepare_cached("SELECT site FROM leases WHERE until > ?1")?;
    statement.query_map([live::latest(now).0], |r| r.get(0))?.collect()
}

/// Writes a lease down.
pub(crate) fn put(connection: &Connection, site: i64, until: Timestamp) -> rusqlite::Result<()> {
    let sql = "INSERT INTO leases VALUES (?1, ?2) ON CONFLICT DO UPDATE SET until = ?2";
    connection.prepare_cached(sql)?.execute([site, until.0]).map(drop)
}

/// Takes a lease away.
pub(crate) fn end(connection: &Connection, site: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM leases WHERE site = ?1")?.execute([site]).map(drop)
}

/// The agents of a site that gather readings before they send them: the others send each poll at once as it is.
pub(crate) fn gathering(connection: &Connection, site: i64) -> rusqlite::Result<Vec<AgentNo>> {
    let mut statement =
        connection.prepare_cached("SELECT id FROM agents WHERE site = ?1 AND flush_ms > 0 ORDER BY id")?;
    statement.query_map([site], |r| r.get(0).map(AgentNo))?.collect()
}

/// Until when an agent's site is watched, where the agent gathers readings.
pub(crate) fn of_agent(
    connection: &Connection,
    agent: AgentNo,
    now: Timestamp,
) -> rusqlite::Result<Option<Timestamp>> {
    let sql = "SELECT l.until FROM agents a JOIN leases l ON l.site = a.site
        WHERE a.id = ?1 AND a.flush_ms > 0";
    let until =
        connection.prepare_cached(sql)?.query_row([agent.0], |r| r.get(0).map(Timestamp)).optional()?;
    Ok(until.filter(|until| live::stands(*until, now)))
}

/// Whether an agent may hold a lease that it was told of.
pub(crate) fn may_hold(connection: &Connection, agent: AgentNo, now: Timestamp) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM commands WHERE agent = ?1 AND kind = 1 AND a > ?2)";
    connection.prepare_cached(sql)?.query_row([agent.0, now.0], |r| r.get(0))
}

/// The new command that tells an agent until when to send each poll at once, unless the same one is open; another one that
/// it has not answered yet is taken back.
pub(crate) fn tell(
    connection: &Connection,
    agent: AgentNo,
    until: Timestamp,
    now: Timestamp,
) -> rusqlite::Result<Option<u64>> {
    let expires = if until > now { until } else { now.plus_ms(END_TOLD_MS) };
    let told = commands::ensure(connection, agent, &CommandBody::Live { until }, now, expires)?;
    let Some((id, is_new)) = told else { return Ok(None) };
    let sql = "UPDATE commands SET outcome = 2, detail = 'another one took its place'
        WHERE agent = ?1 AND kind = 1 AND outcome IS NULL AND id <> ?2";
    connection.prepare_cached(sql)?.execute([agent.0, id.cast_signed()])?;
    Ok(is_new.then_some(id))
}

/// A site's lease, and how its agents stand to it.
pub(super) fn row(
    connection: &Connection,
    name: &SiteId,
    now: Timestamp,
) -> Result<Option<LeaseRow>, ReadError> {
    let Some(site) = site(connection, name)? else { return Ok(None) };
    let until = standing(connection, site, now)?;
    let sql = "SELECT a.name, a.connected = 1 AS is_there, a.flush_ms, c.a AS until, c.outcome, c.detail FROM agents a
        LEFT JOIN commands c ON c.id = (SELECT max(id) FROM commands WHERE agent = a.id AND kind = 1)
        WHERE a.site = ?1 ORDER BY a.name";
    let agents = read::rows(connection, sql, params![site], |r| {
        let is_there: bool = r.get("is_there")?;
        let flush_ms: i64 = r.get("flush_ms")?;
        let told = r.get::<_, Option<i64>>("until")?.filter(|at| until.is_some() && *at > now.0);
        let state = match (told, r.get::<_, Option<i64>>("outcome")?) {
            _ if !is_there => LeaseState::Away,
            _ if flush_ms == 0 => LeaseState::AlwaysLive,
            (None, _) => LeaseState::Gathering,
            (Some(_), None) => LeaseState::Told,
            (Some(_), Some(commands::DONE)) => LeaseState::Live,
            (Some(_), Some(_)) => LeaseState::Failed,
        };
        let detail = if state == LeaseState::Failed { r.get("detail")? } else { None };
        Ok(LeaseAgent { agent: name!(r, "name", AgentId), state, detail })
    })?;
    Ok(Some(LeaseRow { until, agents }))
}

/// Until when each site is watched that is.
pub(super) fn all(connection: &Connection, now: Timestamp) -> Result<Vec<(SiteId, Timestamp)>, ReadError> {
    let sql = "SELECT s.name, l.until FROM leases l JOIN sites s ON s.id = l.site WHERE l.until > ?1";
    read::rows(connection, sql, [now.0], |r| Ok((name!(r, "name", SiteId), Timestamp(r.get("until")?))))
}
