//! Commands and births, as rows. When a command is sent is the writer's business.

use gapless_common::id::{CatalogHash, ConnectionId, DeviceId, Epoch, Seq};
use gapless_common::message::{AgentState, Command, CommandBody, NO_SUCH_DEVICE, UNKNOWN_COMMAND};
use gapless_common::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{alert_rows, alerts};
use crate::housekeeping::{Heard, Polling, Told};
use crate::ledger::AgentNo;

/// `commands.outcome` of one that was carried out.
pub(crate) const DONE: i64 = 1;

/// How long an agent that is away may be told of a pause; at its birth it is told anew.
const PAUSE_TOLD_MS: i64 = 30 * 86_400_000;
/// One whose bus was busy is told again after this time.
const REFUSED_MS: i64 = 600_000;

type Columns<'a> = (i64, Option<i64>, Option<i64>, Option<i64>, Option<&'a str>);

fn columns(body: &CommandBody) -> Option<Columns<'_>> {
    Some(match body {
        CommandBody::Live { until } => (1, Some(until.0), None, None, None),
        CommandBody::Resend { epoch, first, last } => {
            (2, Some(epoch.0.cast_signed()), Some(first.0.cast_signed()), Some(last.0.cast_signed()), None)
        }
        CommandBody::SendCatalog(hash) => (3, Some(hash.0.cast_signed()), None, None, None),
        CommandBody::PollNow(device) => (4, None, None, None, Some(device.as_str())),
        CommandBody::ReadHistory { device, from, to } => {
            (5, Some(from.0), Some(to.0), None, Some(device.as_str()))
        }
        CommandBody::Pause { device, paused } => {
            (6, Some(i64::from(*paused)), None, None, Some(device.as_str()))
        }
        CommandBody::Unknown => return None,
    })
}

fn body(r: &Row<'_>) -> rusqlite::Result<Option<CommandBody>> {
    let number = |column| r.get::<_, Option<i64>>(column).map(Option::unwrap_or_default);
    let device = r.get::<_, Option<String>>("device")?.and_then(|d| DeviceId::new(&d).ok());
    let (a, b, c) = (number("a")?, number("b")?, number("c")?);
    Ok(match (r.get::<_, i64>("kind")?, device) {
        (1, _) => Some(CommandBody::Live { until: Timestamp(a) }),
        (2, _) => Some(CommandBody::Resend {
            epoch: Epoch(a.cast_unsigned()),
            first: Seq(b.cast_unsigned()),
            last: Seq(c.cast_unsigned()),
        }),
        (3, _) => Some(CommandBody::SendCatalog(CatalogHash(a.cast_unsigned()))),
        (4, Some(device)) => Some(CommandBody::PollNow(device)),
        (5, Some(device)) => Some(CommandBody::ReadHistory { device, from: Timestamp(a), to: Timestamp(b) }),
        (6, Some(device)) => Some(CommandBody::Pause { device, paused: a != 0 }),
        _ => None,
    })
}

fn command(r: &Row<'_>) -> rusqlite::Result<Option<Command>> {
    let (id, expires) = (r.get::<_, i64>("id")?.cast_unsigned(), Timestamp(r.get("expires_at")?));
    Ok(body(r)?.map(|body| Command { id, expires, body }))
}

/// Writes a command down, unless the same one is open. Returns its id, and whether it is new.
pub(crate) fn ensure(
    connection: &Connection,
    agent: AgentNo,
    body: &CommandBody,
    now: Timestamp,
    expires: Timestamp,
) -> rusqlite::Result<Option<(u64, bool)>> {
    let Some((kind, a, b, c, device)) = columns(body) else { return Ok(None) };
    let sql = "SELECT id FROM commands WHERE agent = ?1 AND kind = ?2 AND a IS ?3 AND b IS ?4 AND c IS ?5
        AND device IS ?6 AND outcome IS NULL AND expires_at > ?7";
    let key = params![agent.0, kind, a, b, c, device, now.0];
    let open: Option<i64> = connection.prepare_cached(sql)?.query_row(key, |r| r.get(0)).optional()?;
    if let Some(open) = open {
        return Ok(Some((open.cast_unsigned(), false)));
    }
    let sql = "INSERT INTO commands (agent, kind, a, b, c, device, created_at, expires_at)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING id";
    let row = params![agent.0, kind, a, b, c, device, now.0, expires.0];
    let id: i64 = connection.prepare_cached(sql)?.query_row(row, |r| r.get(0))?;
    Ok(Some((id.cast_unsigned(), true)))
}

/// Whether a device is polled, its agent and its name. A source of the collector knows by itself whom it asks.
pub(crate) fn polling(
    connection: &Connection,
    device: i64,
    now: Timestamp,
) -> rusqlite::Result<Option<(AgentNo, DeviceId, Polling)>> {
    let sql = "SELECT d.agent, d.name, d.stopped, coalesce(a.epoch, 0) AS epoch, c.a AS paused, coalesce(c.b, 0) AS told_epoch,
            CASE WHEN c.outcome IS NULL AND c.expires_at > ?2 THEN 0 WHEN c.outcome = 1 OR c.detail IN (?3, ?5) THEN 1
                WHEN c.outcome = 3 AND abs(?2 - c.answered_at) < ?4 THEN 2 ELSE 3 END AS heard,
            EXISTS (SELECT 1 FROM grids g JOIN spans s ON s.grid = g.id
                WHERE g.device = d.id AND s.last_slot IS NULL) AS is_polled
        FROM devices d JOIN agents a ON a.id = d.agent AND a.version NOT LIKE 'source %'
        LEFT JOIN commands c ON c.id = (SELECT max(id) FROM commands
            WHERE kind = 6 AND agent = d.agent AND device = d.name)
        WHERE d.id = ?1";
    let epoch =
        |r: &Row<'_>, column| Ok::<_, rusqlite::Error>(Epoch(r.get::<_, i64>(column)?.cast_unsigned()));
    let row = |r: &Row<'_>| {
        let heard = [Heard::Open, Heard::Done, Heard::Refused];
        let heard = heard.get(usize::from(r.get::<_, u8>("heard")?)).copied().unwrap_or(Heard::Over);
        let told = match r.get::<_, Option<bool>>("paused")? {
            Some(paused) => Some(Told { paused, epoch: epoch(r, "told_epoch")?, heard }),
            None => None,
        };
        let polling = Polling {
            stopped: r.get::<_, Option<i64>>("stopped")?.and_then(alert_rows::stop_reason),
            is_polled: r.get("is_polled")?,
            epoch: epoch(r, "epoch")?,
            told,
        };
        let name = DeviceId::new(&r.get::<_, String>("name")?).ok();
        Ok(name.zip(Some(AgentNo(r.get("agent")?))).map(|(name, agent)| (agent, name, polling)))
    };
    let key = params![device, now.0, UNKNOWN_COMMAND, REFUSED_MS, NO_SUCH_DEVICE];
    Ok(connection.prepare_cached(sql)?.query_row(key, row).optional()?.flatten())
}

/// The new command that tells an agent to poll a device no more, or again, in this life of it; what it was to be told before is
/// taken back.
pub(crate) fn tell_pause(
    connection: &Connection,
    (agent, epoch): (AgentNo, Epoch),
    (device, paused): (&DeviceId, bool),
    now: Timestamp,
) -> rusqlite::Result<Option<u64>> {
    let sql = "UPDATE commands SET outcome = 2, detail = 'another one took its place', answered_at = ?3
        WHERE agent = ?1 AND kind = 6 AND device = ?2 AND outcome IS NULL";
    connection.prepare_cached(sql)?.execute(params![agent.0, device.as_str(), now.0])?;
    let body = CommandBody::Pause { device: device.clone(), paused };
    let Some((id, _)) = ensure(connection, agent, &body, now, now.plus_ms(PAUSE_TOLD_MS))? else {
        return Ok(None);
    };
    let sql = "UPDATE commands SET b = ?2 WHERE id = ?1";
    connection.prepare_cached(sql)?.execute([id.cast_signed(), epoch.0.cast_signed()])?;
    Ok(Some(id))
}

/// Whether the agent has answered that it has no such catalog.
pub(crate) fn has_no_catalog(
    connection: &Connection,
    agent: AgentNo,
    hash: CatalogHash,
) -> rusqlite::Result<bool> {
    let sql =
        "SELECT EXISTS (SELECT 1 FROM commands WHERE agent = ?1 AND kind = 3 AND a = ?2 AND outcome = 4)";
    connection.prepare_cached(sql)?.query_row([agent.0, hash.0.cast_signed()], |r| r.get(0))
}

/// Takes back what a device was to be asked, where its agent has not answered yet. Returns the commands.
pub(crate) fn take_back(connection: &Connection, device: i64, now: Timestamp) -> rusqlite::Result<Vec<u64>> {
    let sql = "UPDATE commands SET outcome = 2, detail = 'its device is not asked any more', answered_at = ?2
        WHERE outcome IS NULL AND kind IN (4, 5) AND (agent, device) IN (SELECT a.id, d.name
            FROM devices d JOIN agents a ON a.site = d.site WHERE d.id = ?1) RETURNING id";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([device, now.0], |r| r.get::<_, i64>(0).map(i64::cast_unsigned))?.collect()
}

/// The commands of an agent that are neither answered nor expired.
pub(crate) fn open(
    connection: &Connection,
    agent: AgentNo,
    now: Timestamp,
) -> rusqlite::Result<Vec<Command>> {
    let sql = "SELECT * FROM commands WHERE agent = ?1 AND outcome IS NULL AND expires_at > ?2 ORDER BY id";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([agent.0, now.0])?;
    let mut commands = Vec::new();
    while let Some(r) = rows.next()? {
        commands.extend(command(r)?);
    }
    Ok(commands)
}

/// The same of all agents, with the site and the name of each.
pub(crate) fn open_of_all(
    connection: &Connection,
    now: Timestamp,
) -> rusqlite::Result<Vec<(String, String, Command)>> {
    // What is open is little beside the agents there are.
    let sql = "SELECT c.*, s.name AS site_name, a.name AS agent_name FROM commands c INDEXED BY commands_open
        CROSS JOIN agents a ON a.id = c.agent CROSS JOIN sites s ON s.id = a.site
        WHERE c.outcome IS NULL AND c.expires_at > ?1 ORDER BY c.id";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([now.0])?;
    let mut commands = Vec::new();
    while let Some(r) = rows.next()? {
        if let Some(command) = command(r)? {
            commands.push((r.get("site_name")?, r.get("agent_name")?, command));
        }
    }
    Ok(commands)
}

/// Leases and pauses that agents which are connected were told of by `until`, and catalogs that they were asked for, without an
/// answer: the agent and the command.
pub(crate) fn unanswered(
    connection: &Connection,
    until: Timestamp,
    now: Timestamp,
) -> rusqlite::Result<Vec<(AgentNo, u64)>> {
    // What was told in a time that has not come was told before the clock was set back.
    let sql = "SELECT c.agent, c.id FROM commands c JOIN agents a ON a.id = c.agent
        WHERE c.outcome IS NULL AND c.kind IN (1, 3, 6) AND (c.created_at <= ?1 OR c.created_at > ?2) AND c.expires_at > ?2
        AND a.connected = 1";
    let mut statement = connection.prepare_cached(sql)?;
    let awaited = statement
        .query_map([until.0, now.0], |r| Ok((AgentNo(r.get(0)?), r.get::<_, i64>(1)?.cast_unsigned())))?;
    awaited.collect()
}

/// Whether the agent was born on this connection, and it has not ended; or was never born at all, so that nothing is
/// held against it.
pub(crate) fn is_born(connection: &Connection, agent: AgentNo, id: ConnectionId) -> rusqlite::Result<bool> {
    let sql = "SELECT connection IS NULL OR (connection = ?2 AND connected = 1) FROM agents WHERE id = ?1";
    connection.prepare_cached(sql)?.query_row(params![agent.0, id.0], |r| r.get(0))
}

/// Writes a birth down. Returns whether it is of a connection that was not the last one.
pub(crate) fn birth(
    connection: &Connection,
    agent: AgentNo,
    state: &AgentState,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let AgentState::Birth {
        connection: id, agent_version, boot, epoch, durable, clock_set, flush_ms, ..
    } = state
    else {
        return Ok(false);
    };
    alerts::back(connection, agent, now)?;
    let sql = "SELECT connection IS NOT ?2 FROM agents WHERE id = ?1";
    let fresh = connection.prepare_cached(sql)?.query_row(params![agent.0, id.0], |r| r.get(0))?;
    let sql = "UPDATE agents SET connected = 1, connection = ?2, version = ?3, boot = ?4, epoch = ?5,
        durable = ?6, clock_set = ?7, flush_ms = ?8, last_birth_at = ?9 WHERE id = ?1";
    connection.prepare_cached(sql)?.execute(params![
        agent.0,
        id.0,
        agent_version,
        boot.0.cast_signed(),
        epoch.0.cast_signed(),
        durable,
        clock_set,
        flush_ms,
        now.0
    ])?;
    Ok(fresh)
}
