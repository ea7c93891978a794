//! Jobs as rows, and what they are decided by: how a device stands, and who looked at it. Decides nothing.

use gapless_common::id::{DeviceId, SiteId};
use gapless_common::time::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::model::{DeviceNo, EndedJobRow, JobRow, PendingJob, Unread};
use super::own::last_own;
use super::{ReadError, alerts};
use crate::jobs::budget::Urgency;
use crate::jobs::queue::{Job, Lease, Queue, Scope, Source, Why};
use crate::obstacle;

/// Lines of history kept of each device.
const HISTORY_MAX: i64 = 200;

const WHYS: [Why; 5] = [Why::Rhythm, Why::Stale, Why::Viewed, Why::Confirm, Why::Asked];

fn why_code(why: Why) -> i64 {
    WHYS.iter().position(|known| *known == why).and_then(|at| i64::try_from(at).ok()).unwrap_or_default()
}

fn why(code: i64) -> Why {
    usize::try_from(code).ok().and_then(|at| WHYS.get(at)).copied().unwrap_or(Why::Stale)
}

/// A row of `jobs`.
fn job(r: &Row<'_>) -> rusqlite::Result<Job> {
    let lease: Option<i64> = r.get("lease")?;
    let lease = match lease {
        Some(no) => Some(Lease {
            no: no.cast_unsigned(),
            began: Timestamp(r.get("began_at")?),
            until: Timestamp(r.get("lease_until")?),
        }),
        None => None,
    };
    Ok(Job {
        no: r.get::<_, i64>("no")?.cast_unsigned(),
        scope: Scope(r.get("device")?),
        source: Source(r.get("source")?),
        why: why(r.get("why")?),
        asked_at: Timestamp(r.get("asked_at")?),
        due: Timestamp(r.get("due_at")?),
        fresh_at: Timestamp(r.get("fresh_at")?),
        allowed_ms: r.get("allowed_ms")?,
        failures: r.get("failures")?,
        lease,
    })
}

/// How urgent a command is: as its job, or as what can wait where it is for none.
pub(crate) fn urgency(connection: &Connection, command: u64, now: Timestamp) -> rusqlite::Result<Urgency> {
    let sql = "SELECT * FROM jobs WHERE command = ?1 AND lease IS NOT NULL";
    let found = connection.prepare_cached(sql)?.query_row([command.cast_signed()], job).optional()?;
    Ok(found.map_or(Urgency::Spare, |job| job.urgency(now)))
}

/// The queue as it was written down.
pub(crate) fn load(connection: &Connection) -> rusqlite::Result<Queue> {
    let mut statement = connection.prepare("SELECT * FROM jobs")?;
    let jobs = statement.query_map([], job)?;
    let last: Option<i64> =
        connection.query_row("SELECT value FROM meta WHERE key = 'job_no'", [], |r| r.get(0)).optional()?;
    Ok(Queue::load(jobs.collect::<rusqlite::Result<_>>()?, last.unwrap_or_default().cast_unsigned()))
}

/// Writes down what has changed in the queue.
pub(crate) fn save(connection: &Connection, queue: &mut Queue) -> rusqlite::Result<()> {
    let (changed, last_no) = queue.take_changes();
    if changed.is_empty() {
        return Ok(());
    }
    for scope in changed {
        let Some(job) = queue.get(scope) else {
            connection.prepare_cached("DELETE FROM jobs WHERE device = ?1")?.execute([scope.0])?;
            continue;
        };
        let sql = "INSERT INTO jobs (device, no, source, why, asked_at, due_at, fresh_at, allowed_ms, failures, lease,
                lease_until, began_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
            ON CONFLICT DO UPDATE SET no = ?2, source = ?3, why = ?4, asked_at = ?5, due_at = ?6, fresh_at = ?7,
                allowed_ms = ?8, failures = ?9, lease = ?10, lease_until = ?11, began_at = ?12,
                command = CASE WHEN lease IS ?10 THEN command END";
        let row = params![
            scope.0,
            job.no.cast_signed(),
            job.source.0,
            why_code(job.why),
            job.asked_at.0,
            job.due.0,
            job.fresh_at.0,
            job.allowed_ms,
            job.failures,
            job.lease.map(|lease| lease.no.cast_signed()),
            job.lease.map(|lease| lease.until.0),
            job.lease.map(|lease| lease.began.0),
        ];
        connection.prepare_cached(sql)?.execute(row)?;
    }
    let sql = "INSERT INTO meta VALUES ('job_no', ?1) ON CONFLICT DO UPDATE SET value = ?1";
    connection.prepare_cached(sql)?.execute([last_no.cast_signed()]).map(drop)
}

/// Notes what the agent of a job that was just begun is told, and the last commit before.
pub(crate) fn begun(
    connection: &Connection,
    scope: Scope,
    command: u64,
    commit: u64,
) -> rusqlite::Result<()> {
    let sql = "UPDATE jobs SET command = ?2, began_commit = ?3 WHERE device = ?1";
    let row = [scope.0, command.cast_signed(), commit.cast_signed()];
    connection.prepare_cached(sql)?.execute(row).map(drop)
}

/// Whose command this is: the job's scope and lease.
pub(crate) fn of_command(connection: &Connection, command: u64) -> rusqlite::Result<Option<(Scope, u64)>> {
    let sql = "SELECT device, lease FROM jobs WHERE command = ?1 AND lease IS NOT NULL";
    let row = |r: &Row<'_>| Ok((Scope(r.get(0)?), r.get::<_, i64>(1)?.cast_unsigned()));
    connection.prepare_cached(sql)?.query_row([command.cast_signed()], row).optional()
}

/// The commit before a job began.
pub(crate) fn began_commit(connection: &Connection, scope: Scope) -> rusqlite::Result<i64> {
    let sql = "SELECT began_commit FROM jobs WHERE device = ?1";
    let found: Option<Option<i64>> =
        connection.prepare_cached(sql)?.query_row([scope.0], |r| r.get(0)).optional()?;
    Ok(found.flatten().unwrap_or(i64::MAX))
}

/// A job that has ended, or is tried again.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) job: Job,
    pub(crate) began_commit: i64,
    pub(crate) outcome: i64,
    pub(crate) detail: Option<String>,
}

/// The device's own readings that were stored since a commit: of what changed anywhere since then, which is as much as comes while a
/// job lasts. In this order: the planner would begin with all that the device has ever sent.
const STORED_SINCE: &str = "SELECT count(*) FROM changes c CROSS JOIN series x ON x.device = c.device
    CROSS JOIN readings r ON r.series = x.id AND r.ts BETWEEN c.first_ts AND c.last_ts AND r.commit_no = c.commit_no
        AND r.quality < 65536
    WHERE c.commit_no > ?1 AND c.device = ?2";

/// Adds a line to the history; what was stored of the device since it began is counted.
pub(crate) fn tell(connection: &Connection, ended: &Ended, now: Timestamp) -> rusqlite::Result<()> {
    let Ended { job, began_commit, outcome, detail } = ended;
    let since = [*began_commit, job.scope.0];
    let readings: i64 = connection.prepare_cached(STORED_SINCE)?.query_row(since, |r| r.get(0))?;
    let sql =
        "INSERT INTO job_history (no, device, why, asked_at, began_at, ended_at, outcome, readings, detail)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let began = job.lease.map_or(now, |lease| lease.began);
    let row = params![
        job.no.cast_signed(),
        job.scope.0,
        why_code(job.why),
        job.asked_at.0,
        began.0,
        now.0,
        outcome,
        readings,
        detail,
    ];
    connection.prepare_cached(sql)?.execute(row)?;
    let sql =
        "DELETE FROM job_history WHERE device = ?1 AND id <= (SELECT id FROM job_history WHERE device = ?1
        ORDER BY id DESC LIMIT 1 OFFSET ?2)";
    connection.prepare_cached(sql)?.execute([job.scope.0, HISTORY_MAX])?;
    tally(connection, *outcome, now.since_ms(began).max(0))
}

/// Bounds of the durations that jobs are counted by, in ms. Do not change: databases hold their numbers.
pub(super) const DURATIONS_MS: [i64; 9] = [100, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000];

fn tally(connection: &Connection, outcome: i64, ms: i64) -> rusqlite::Result<()> {
    let duration = i64::try_from(DURATIONS_MS.partition_point(|bound| *bound < ms)).unwrap_or_default();
    let sql = "INSERT INTO job_tallies VALUES (?1, ?2, 1, ?3)
        ON CONFLICT DO UPDATE SET jobs = jobs + 1, ms = ms + ?3";
    connection.prepare_cached(sql)?.execute(params![outcome, duration, ms]).map(drop)
}

/// How a device stands that is due.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub(crate) site: String,
    pub(crate) device: DeviceId,
    pub(crate) attributes: String,
    pub(crate) agent: i64,
    pub(crate) flush_ms: i64,
    pub(crate) interval_ms: i64,
    /// The time of its latest reading, or since when it is due.
    pub(crate) fresh_at: Timestamp,
    pub(crate) looked_at: Option<Timestamp>,
}

/// The devices there are.
pub(crate) fn devices(connection: &Connection) -> rusqlite::Result<Vec<i64>> {
    let mut statement = connection.prepare_cached("SELECT id FROM devices ORDER BY id")?;
    statement.query_map([], |r| r.get(0))?.collect()
}

pub(super) const STANDING: &str = concat!(
    "SELECT s.name AS site, d.name AS device, d.attributes, p.agent, a.flush_ms, g.interval_ms,
            coalesce(",
    last_own!(),
    ", p.first_slot * g.interval_ms + g.phase_ms) AS fresh_at,
            (SELECT at FROM looks l WHERE l.device = d.id) AS looked_at
        FROM devices d JOIN sites s ON s.id = d.site JOIN grids g ON g.device = d.id
        JOIN spans p ON p.grid = g.id AND p.last_slot IS NULL AND p.first_slot IS NOT NULL JOIN agents a ON a.id = p.agent
        WHERE d.id = ?1 AND d.stopped IS NULL ORDER BY p.id DESC LIMIT 1"
);

/// How a device stands; `None` where no agent owes it, or it is not to be asked.
pub(crate) fn standing(
    connection: &Connection,
    device: i64,
    until: Timestamp,
) -> rusqlite::Result<Option<Standing>> {
    let row = |r: &Row<'_>| {
        let name: String = r.get("device")?;
        Ok(DeviceId::new(&name).ok().map(|device| (device, r.get::<_, i64>("fresh_at"))).map(
            |(device, fresh)| {
                Ok::<_, rusqlite::Error>(Standing {
                    site: r.get("site")?,
                    device,
                    attributes: r.get("attributes")?,
                    agent: r.get("agent")?,
                    flush_ms: r.get("flush_ms")?,
                    interval_ms: r.get("interval_ms")?,
                    fresh_at: Timestamp(fresh?),
                    looked_at: r.get::<_, Option<i64>>("looked_at")?.map(Timestamp),
                })
            },
        ))
    };
    connection.prepare_cached(STANDING)?.query_row([device, until.0], row).optional()?.flatten().transpose()
}

/// What stands in the way of a device, as its source has said.
pub(crate) fn obstacle(connection: &Connection, device: i64) -> rusqlite::Result<Option<obstacle::Kind>> {
    let sql = "SELECT attributes FROM devices WHERE id = ?1";
    let text: Option<String> =
        connection.prepare_cached(sql)?.query_row([device], |r| r.get(0)).optional()?;
    let attributes = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    Ok(obstacle::Obstacle::of(&attributes).map(|obstacle| obstacle.kind))
}

/// Somebody looks at a device.
pub(crate) fn looked(connection: &Connection, device: i64, now: Timestamp) -> rusqlite::Result<()> {
    let sql = "INSERT INTO looks VALUES (?1, ?2) ON CONFLICT DO UPDATE SET at = ?2";
    connection.prepare_cached(sql)?.execute([device, now.0]).map(drop)
}

/// The agents that are connected.
pub(crate) fn connected(connection: &Connection) -> rusqlite::Result<std::collections::BTreeSet<i64>> {
    let mut statement = connection.prepare_cached("SELECT id FROM agents WHERE connected = 1")?;
    statement.query_map([], |r| r.get(0))?.collect()
}

/// When the source of a device was read last, and why it could not be when that was last tried, as far as that is kept.
pub(super) fn unread(connection: &Connection, device: DeviceNo) -> Result<Unread, ReadError> {
    let sql = "SELECT max(ended_at) FROM job_history WHERE device = ?1 AND outcome IN (?2, ?3)";
    let since: Option<i64> =
        connection.prepare_cached(sql)?.query_row([device.0, DONE, NO_DATA], |r| r.get(0))?;
    Ok(Unread { since: since.map(Timestamp), why: alerts::failing(connection, device.0)? })
}

/// A question's columns: see [`pending`].
pub(super) const JOBS: &str = "SELECT s.name AS site_name, d.name AS device_name, j.no AS job_no, j.why AS job_why,
        j.asked_at AS job_asked_at, j.due_at AS job_due_at, j.failures AS job_failures, j.began_at AS job_began_at
    FROM jobs j JOIN devices d ON d.id = j.device JOIN sites s ON s.id = d.site ORDER BY j.due_at, j.device";
pub(super) const ENDED: &str = "SELECT h.*, s.name AS site_name, d.name AS device_name
    FROM job_history h JOIN devices d ON d.id = h.device JOIN sites s ON s.id = d.site
    WHERE h.id < ?1 ORDER BY h.id DESC LIMIT ?2";

pub(super) const ENDED_SINCE: &str = "SELECT h.*, s.name AS site_name, d.name AS device_name
    FROM job_history h JOIN devices d ON d.id = h.device JOIN sites s ON s.id = d.site
    WHERE h.id > ?1 ORDER BY h.id LIMIT ?2";

/// The job in a row with these columns, where there is one.
pub(super) fn pending(row: &Row<'_>) -> Result<Option<PendingJob>, ReadError> {
    let Some(no) = row.get::<_, Option<i64>>("job_no")? else { return Ok(None) };
    Ok(Some(PendingJob {
        no: no.cast_unsigned(),
        why: why(row.get("job_why")?),
        asked_at: Timestamp(row.get("job_asked_at")?),
        due: Timestamp(row.get("job_due_at")?),
        began: row.get::<_, Option<i64>>("job_began_at")?.map(Timestamp),
        failures: row.get("job_failures")?,
    }))
}

fn names(row: &Row<'_>) -> Result<(SiteId, DeviceId), ReadError> {
    let (site, device): (String, String) = (row.get("site_name")?, row.get("device_name")?);
    let unknown = |what| move |_| ReadError::Unknown { what, value: String::new() };
    Ok((SiteId::new(&site).map_err(unknown("site"))?, DeviceId::new(&device).map_err(unknown("device"))?))
}

pub(super) fn job_row(row: &Row<'_>) -> Result<JobRow, ReadError> {
    let (site, device) = names(row)?;
    let job = pending(row)?.ok_or(ReadError::Unknown { what: "job", value: String::new() })?;
    Ok(JobRow { site, device, job })
}

pub(super) fn ended_row(row: &Row<'_>) -> Result<EndedJobRow, ReadError> {
    let (site, device) = names(row)?;
    Ok(EndedJobRow {
        id: row.get("id")?,
        no: row.get::<_, i64>("no")?.cast_unsigned(),
        site,
        device,
        why: why(row.get("why")?),
        asked_at: Timestamp(row.get("asked_at")?),
        began_at: Timestamp(row.get("began_at")?),
        ended_at: Timestamp(row.get("ended_at")?),
        outcome: outcome_word(row.get("outcome")?),
        readings: u64::try_from(row.get::<_, i64>("readings")?).unwrap_or_default(),
        detail: row.get("detail")?,
    })
}

/// The word of a `job_history.outcome`.
pub(super) const fn outcome_word(outcome: i64) -> &'static str {
    match outcome {
        DONE => "done",
        FAILED => "failed",
        NO_DATA => "no_data",
        _ => "expired",
    }
}

/// `job_history.outcome`: the source was read.
pub(crate) const DONE: i64 = 1;
/// It could not be read, and is tried again.
pub(crate) const FAILED: i64 = 2;
/// It was read, and has nothing.
pub(crate) const NO_DATA: i64 = 3;
/// The worker did not come back in time.
pub(crate) const EXPIRED: i64 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite;

    /// What each job asks as it ends must not cost more the more its device has ever sent.
    #[test]
    fn what_a_job_stored_is_found_by_what_changed() {
        let connection = sqlite::make_writer(Connection::open_in_memory().unwrap(), 7).unwrap();
        let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {STORED_SINCE}")).unwrap();
        let steps = plan.query_map([1, 1], |r| r.get::<_, String>("detail")).unwrap().map(Result::unwrap);
        let steps: Vec<String> = steps.collect();
        assert!(steps[0].starts_with("SEARCH c USING PRIMARY KEY (commit_no>?)"), "{steps:?}");
        assert!(steps.iter().any(|step| step.contains("(series=? AND ts>? AND ts<?)")), "{steps:?}");
    }
}
