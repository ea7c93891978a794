//! What monitoring asks at every scrape, of one committed state: counts that are kept, and what an index alone tells. Its
//! cost grows with the fleet and with the gaps that are not filled, not with what was ever stored.

use std::collections::BTreeMap;

use gapless_common::time::Timestamp;
use rusqlite::Connection;

use super::alert_rows::{RECEIVERS, receiver_row};
use super::gap_lives::{ASKED_AGAIN, Happened, phase};
use super::model::{GapCount, JobTimes, Meters};
use super::rows::{AGENTS, DEVICES, agent_row, count, device_row};
use super::{AHEAD_MAX_MS, ReadError, cell, jobs, sqlite};
use crate::alerts::Kind;
use crate::freshness::Allowances;

type Read<T> = Result<T, ReadError>;

pub(super) fn all(connection: &Connection, allowances: &Allowances, now: Timestamp) -> Read<Meters> {
    let nothing = None::<String>;
    let until = rusqlite::params![nothing, now.plus_ms(AHEAD_MAX_MS).0];
    let (gap_events, gap_retries) = gap_events(connection)?;
    let (parked, parked_bytes) = parked(connection)?;
    let one = |sql: &str| -> Read<u64> {
        let found: i64 = connection.prepare_cached(sql)?.query_row([], |r| r.get(0))?;
        Ok(u64::try_from(found).unwrap_or_default())
    };
    Ok(Meters {
        head: sqlite::head(connection)?,
        agents: super::read::rows(connection, AGENTS, [&nothing], |row| agent_row(row, connection))?,
        devices: super::read::rows(connection, DEVICES, until, |row| device_row(row, allowances))?,
        gaps: gaps(connection)?,
        gap_events,
        gap_retries,
        jobs: job_states(connection)?,
        job_times: job_times(connection)?,
        alerts: alerts(connection)?,
        receivers: super::read::rows(connection, RECEIVERS, [], receiver_row)?,
        series: one("SELECT count(*) FROM series")?,
        parked,
        parked_bytes,
        file_bytes: one("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")?,
    })
}

fn alerts(connection: &Connection) -> Read<BTreeMap<&'static str, u64>> {
    let sql = "SELECT kind, count(*) AS open FROM alerts WHERE resolved_at IS NULL GROUP BY kind";
    let counted = super::read::rows(connection, sql, [], |row| Ok((row.get(0)?, count(row, "open")?)))?;
    let mut alerts: BTreeMap<_, _> = Kind::ALL.into_iter().map(|kind| (kind.word(), 0)).collect();
    let known = counted.into_iter().filter_map(|(code, open)| Some((Kind::of_code(code)?.word(), open)));
    alerts.extend(known);
    Ok(alerts)
}

/// From the index `gaps_counted` alone.
fn gaps(connection: &Connection) -> Read<Vec<GapCount>> {
    let sql = "SELECT state, cause, count(*) AS gaps, sum(last_slot - first_slot + 1) AS slots FROM gaps
        WHERE state <> 2 GROUP BY state, cause";
    super::read::rows(connection, sql, [], |row| {
        Ok(GapCount {
            phase: phase(row.get("state")?),
            cause: cell::cause(row.get("cause")?)?,
            gaps: count(row, "gaps")?,
            slots: count(row, "slots")?,
        })
    })
}

/// No code of an event is as great.
const EVENTS_MAX: i64 = 64;

type GapEvents = (BTreeMap<&'static str, u64>, u64);

fn gap_events(connection: &Connection) -> Read<GapEvents> {
    let counted = super::read::rows(connection, "SELECT event, happened FROM gap_tallies", [], |row| {
        Ok((row.get::<_, i64>(0)?, count(row, "happened")?))
    })?;
    let mut events: BTreeMap<_, _> =
        (0..EVENTS_MAX).filter_map(|code| Some((Happened::counted_as(code)?, 0))).collect();
    let mut retries = 0;
    for (event, happened) in counted {
        match Happened::counted_as(event) {
            Some(word) => drop(events.insert(word, happened)),
            None if event == ASKED_AGAIN => retries = happened,
            None => {}
        }
    }
    Ok((events, retries))
}

fn job_states(connection: &Connection) -> Read<BTreeMap<&'static str, u64>> {
    let sql = "SELECT count(*) FILTER (WHERE lease IS NULL AND failures = 0) AS queued,
            count(*) FILTER (WHERE lease IS NOT NULL) AS running,
            count(*) FILTER (WHERE lease IS NULL AND failures > 0) AS retrying FROM jobs";
    let all = super::read::rows(connection, sql, [], |row| {
        ["queued", "running", "retrying"].into_iter().map(|word| Ok((word, count(row, word)?))).collect()
    })?;
    Ok(all.into_iter().next().unwrap_or_default())
}

fn job_times(connection: &Connection) -> Read<Vec<JobTimes>> {
    let outcomes = [jobs::DONE, jobs::NO_DATA, jobs::FAILED, jobs::EXPIRED];
    let sql = "SELECT duration, jobs, ms FROM job_tallies WHERE outcome = ?1";
    let of = |outcome: i64| -> Read<JobTimes> {
        let counted = super::read::rows(connection, sql, [outcome], |row| {
            Ok((row.get::<_, u16>("duration")?, count(row, "jobs")?, count(row, "ms")?))
        })?;
        let mut times = JobTimes {
            outcome: jobs::outcome_word(outcome),
            by_duration: jobs::DURATIONS_MS.map(|ms| (ms, 0)).to_vec(),
            jobs: 0,
            ms: 0,
        };
        for (duration, jobs, ms) in counted {
            if let Some((_, here)) = times.by_duration.get_mut(usize::from(duration)) {
                *here += jobs;
            }
            times.jobs += jobs;
            times.ms += ms;
        }
        Ok(times)
    };
    outcomes.into_iter().map(of).collect()
}

fn parked(connection: &Connection) -> Read<(u64, u64)> {
    let sql = "SELECT count(*) AS frames, sum(length(bytes)) AS bytes FROM parked";
    let all =
        super::read::rows(connection, sql, [], |row| Ok((count(row, "frames")?, count(row, "bytes")?)))?;
    Ok(all.into_iter().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A scrape of a database with many gaps must not read the gaps themselves.
    #[test]
    fn gaps_are_counted_from_an_index_alone() {
        let connection = sqlite::make_writer(Connection::open_in_memory().unwrap(), 7).unwrap();
        let sql =
            "EXPLAIN QUERY PLAN SELECT state, cause, count(*), sum(last_slot - first_slot + 1) FROM gaps
            WHERE state <> 2 GROUP BY state, cause";
        let plan: String = connection.query_row(sql, [], |r| r.get(3)).unwrap();
        assert!(plan.contains("COVERING INDEX gaps_counted"), "{plan}");
    }
}
