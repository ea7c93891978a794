//! Who is told of alerts, as rows: how far each receiver has been told, what it is owed, and what it did with a message.
//! Decides nothing.

use gapless_common::time::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::model::ReceiverName;
use crate::alerts::Kind;
use crate::alerts::delivery::{Answer, Next, Tries};
use crate::alerts::notice::{Told, Who};

/// Receivers that are not in the configuration any more are kept for so long, with what they are owed.
const GONE_KEPT_MS: i64 = 30 * 86_400_000;

/// Whether these are the receivers that are known, and none of them waits. `names` are in order.
pub(crate) fn knows(
    connection: &Connection,
    names: &[ReceiverName],
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let mut statement =
        connection.prepare_cached("SELECT name, next_at, gone_at FROM receivers ORDER BY name")?;
    let row =
        |r: &Row<'_>| Ok((r.get::<_, String>(0)?, r.get::<_, Option<i64>>(1)?, r.get::<_, Option<i64>>(2)?));
    let known = statement.query_map([], row)?.collect::<rusqlite::Result<Vec<_>>>()?;
    let (there, gone): (Vec<_>, Vec<_>) = known.iter().partition(|(_, _, gone)| gone.is_none());
    let is_same = there.iter().map(|(name, ..)| name).eq(names.iter().map(|named| &named.name));
    let is_kept = |name: &String, gone_at: Option<i64>| {
        gone_at.is_some_and(|at| now.since_ms(Timestamp(at)) < GONE_KEPT_MS)
            && !names.iter().any(|named| named.formerly.as_ref() == Some(name))
    };
    let waits = there.iter().any(|(_, next, _)| next.is_some());
    Ok(is_same && !waits && gone.iter().all(|(name, _, gone_at)| is_kept(name, *gone_at)))
}

/// A receiver that is not in the configuration any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) name: String,
    /// Raised and resolved alerts that it was not told of.
    pub(crate) owed: i64,
    /// Whether that is forgotten now: it has been gone for long.
    pub(crate) is_forgotten: bool,
}

/// These are the receivers: a new one is told of what comes from now on, one that was renamed goes on where it was under its
/// former name, and what waits is tried again now, since somebody may have mended what was wrong. One that is gone is told of
/// nothing; what it is owed is kept for a while, and told where it comes back. Returns those.
pub(crate) fn know(
    connection: &Connection,
    names: &[ReceiverName],
    now: Timestamp,
) -> rusqlite::Result<Vec<Gone>> {
    for ReceiverName { name, formerly } in names {
        let Some(formerly) = formerly.as_ref().filter(|formerly| names.iter().all(|n| n.name != **formerly))
        else {
            continue;
        };
        let sql = "UPDATE OR IGNORE receivers SET name = ?1, gone_at = NULL WHERE name = ?2";
        connection.prepare_cached(sql)?.execute([name, formerly])?;
    }
    let list =
        serde_json::to_string(&names.iter().map(|named| &named.name).collect::<Vec<_>>()).unwrap_or_default();
    let sql = "UPDATE receivers SET gone_at = CASE WHEN name IN (SELECT value FROM json_each(?1)) THEN NULL
        ELSE coalesce(gone_at, ?2) END";
    connection.prepare_cached(sql)?.execute(params![list, now.0])?;
    let new = "INSERT OR IGNORE INTO receivers (name, told)
        SELECT value, coalesce((SELECT max(id) FROM alert_events), 0) FROM json_each(?1)";
    connection.prepare_cached(new)?.execute([&list])?;
    let waiting = "UPDATE receivers SET next_at = ?1, failures = 0 WHERE next_at > ?1 AND gone_at IS NULL";
    connection.prepare_cached(waiting)?.execute([now.0])?;
    let sql =
        "SELECT name, (SELECT count(*) FROM alert_events e WHERE e.id > v.told AND e.event <> 2) AS owed,
        gone_at <= ?1 AS is_forgotten FROM receivers v WHERE gone_at IS NOT NULL ORDER BY name";
    let mut statement = connection.prepare_cached(sql)?;
    let row = |r: &Row<'_>| Ok(Gone { name: r.get(0)?, owed: r.get(1)?, is_forgotten: r.get(2)? });
    let before = now.plus_ms(-GONE_KEPT_MS).0;
    let gone = statement.query_map([before], row)?.collect::<rusqlite::Result<Vec<_>>>()?;
    connection.prepare_cached("DELETE FROM receivers WHERE gone_at <= ?1")?.execute([before])?;
    Ok(gone)
}

/// What a receiver is still to be told, of which no message is under way.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) receiver: String,
    pub(crate) first: Timestamp,
    pub(crate) last: Timestamp,
    pub(crate) through: i64,
}

/// What has been gathered for the receivers.
pub(crate) fn gathered(connection: &Connection) -> rusqlite::Result<Vec<Gathered>> {
    let sql =
        "SELECT v.name, min(e.at), max(e.at), max(e.id) FROM receivers v JOIN alert_events e ON e.id > v.told
        WHERE v.through IS NULL AND v.gone_at IS NULL AND e.event <> 2 GROUP BY v.name";
    let mut statement = connection.prepare_cached(sql)?;
    let row = |r: &Row<'_>| {
        let (first, last) = (Timestamp(r.get(1)?), Timestamp(r.get(2)?));
        Ok(Gathered { receiver: r.get(0)?, first, last, through: r.get(3)? })
    };
    statement.query_map([], row)?.collect()
}

/// What was gathered is a message now.
pub(crate) fn close(connection: &Connection, gathered: &Gathered, now: Timestamp) -> rusqlite::Result<()> {
    let sql = "UPDATE receivers SET through = ?2, next_at = ?3, failures = 0 WHERE name = ?1";
    connection.prepare_cached(sql)?.execute(params![gathered.receiver, gathered.through, now.0]).map(drop)
}

/// A message that a receiver is due.
#[derive(Debug)]
pub(crate) struct Owed {
    pub(crate) through: i64,
    pub(crate) told: Vec<Told>,
}

/// What a receiver is due by `now`.
pub(crate) fn owed(
    connection: &Connection,
    receiver: &str,
    now: Timestamp,
) -> rusqlite::Result<Option<Owed>> {
    let sql = "SELECT told, through FROM receivers WHERE name = ?1 AND through IS NOT NULL AND next_at <= ?2";
    let row = |r: &Row<'_>| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?));
    let Some((told, through)) =
        connection.prepare_cached(sql)?.query_row(params![receiver, now.0], row).optional()?
    else {
        return Ok(None);
    };
    let sql = "SELECT a.id, a.kind, s.name AS site, d.name AS device, g.name AS agent, a.detail, a.raised_at, a.awaited_by,
            max(e.event = 1) AS is_new, max(CASE e.event WHEN 3 THEN e.at END) AS resolved_at
        FROM alert_events e JOIN alerts a ON a.id = e.alert LEFT JOIN sites s ON s.id = a.site
        LEFT JOIN devices d ON d.id = a.device LEFT JOIN agents g ON g.id = a.agent
        WHERE e.id > ?1 AND e.id <= ?2 AND e.event <> 2 GROUP BY a.id ORDER BY a.id";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([told, through])?;
    let mut all = Vec::new();
    while let Some(r) = rows.next()? {
        let Some(kind) = Kind::of_code(r.get("kind")?) else { continue };
        let (device, agent) = (r.get::<_, Option<String>>("device")?, r.get::<_, Option<String>>("agent")?);
        let who = match (device, agent) {
            (Some(device), _) => Who::Device(device),
            (None, Some(agent)) => Who::Agent(agent),
            (None, None) => Who::Collector,
        };
        all.push(Told {
            alert: r.get("id")?,
            kind,
            site: r.get("site")?,
            who,
            detail: r.get("detail")?,
            raised_at: Timestamp(r.get("raised_at")?),
            resolved_at: r.get::<_, Option<i64>>("resolved_at")?.map(Timestamp),
            is_new: r.get("is_new")?,
            awaited_by: r.get("awaited_by")?,
        });
    }
    Ok(Some(Owed { through, told: all }))
}

/// What a receiver did with the message that ends with `through`, and what comes next.
pub(crate) fn answered(
    connection: &Connection,
    (receiver, through): (&str, i64),
    answer: &Answer,
    next: Next,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let why = match answer {
        Answer::Accepted => None,
        Answer::Passing { why, .. } => Some(why.clone()),
        Answer::Refused(why) => Some(format!("refused: {why}")),
        Answer::Address(why) => Some(format!("nobody takes messages there: {why}")),
        Answer::Unfit(why) => Some(format!("it does not offer what the configuration wants of it: {why}")),
        Answer::Credentials(why) => Some(format!("the credentials were refused: {why}")),
    };
    match next {
        Next::Told => {
            let sql = "UPDATE receivers SET told = through, through = NULL, next_at = NULL, failures = 0, refusals = 0,
                last_error = NULL, accepted = accepted + 1, accepted_at = ?3 WHERE name = ?1 AND through = ?2";
            connection.prepare_cached(sql)?.execute(params![receiver, through, now.0])?;
        }
        Next::SetAside => {
            let why = why.map(|why| format!("set aside, {why}"));
            let sql = "UPDATE receivers SET told = through, through = NULL, next_at = NULL, failures = 0, refusals = 0,
                last_error = ?3, set_aside = set_aside + 1, set_aside_at = ?4 WHERE name = ?1 AND through = ?2";
            connection.prepare_cached(sql)?.execute(params![receiver, through, why, now.0])?;
        }
        Next::Again(Tries { failures, refusals }, at) => {
            let sql = "UPDATE receivers SET failures = ?3, refusals = ?4, next_at = ?5, last_error = ?6
                WHERE name = ?1 AND through = ?2";
            let row = params![receiver, through, failures, refusals, at.0, why];
            connection.prepare_cached(sql)?.execute(row)?;
        }
    }
    Ok(())
}

/// Tries of the message under way that failed.
pub(crate) fn tries(connection: &Connection, receiver: &str) -> rusqlite::Result<Tries> {
    let sql = "SELECT failures, refusals FROM receivers WHERE name = ?1";
    let row = |r: &Row<'_>| Ok(Tries { failures: r.get(0)?, refusals: r.get(1)? });
    Ok(connection.prepare_cached(sql)?.query_row([receiver], row).optional()?.unwrap_or_default())
}
