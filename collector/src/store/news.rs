//! What has happened since a place in the tables: what commits wrote, what became of gaps, which jobs have ended. Of one
//! committed state, at most so many lines of each. Decides nothing.

use gapless_common::time::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::model::{ChangeRow, GapNews, Latest, News, NewsFilter, Place, ReadingNews};
use super::read::change_row;
use super::rows::{gap_event_row, limit, reading};
use super::{ReadError, jobs, sqlite};

type Read<T> = Result<T, ReadError>;

/// Where the tables end.
pub(super) fn end(connection: &Connection) -> Read<Place> {
    let last = |sql: &str| -> Read<i64> {
        let last: Option<i64> = connection.prepare_cached(sql)?.query_row([], |r| r.get(0))?;
        Ok(last.unwrap_or_default())
    };
    Ok(Place {
        commit: sqlite::head(connection)?.commit,
        within: None,
        gap_event: last("SELECT max(id) FROM gap_events")?,
        job: last("SELECT max(id) FROM job_history")?,
    })
}

/// What comes after `after`: at most `most` changes, gap events and jobs.
pub(super) fn since(connection: &Connection, after: Place, filter: &NewsFilter, most: usize) -> Read<News> {
    let end = end(connection)?;
    let mut news = News {
        head: sqlite::head(connection)?,
        readings: Vec::new(),
        gaps: Vec::new(),
        jobs: Vec::new(),
        jobs_lost: None,
        reached: end,
        is_all: true,
    };
    if filter.readings {
        readings(connection, after, filter, most, &mut news)?;
    }
    if filter.gaps {
        gaps(connection, after, filter, most, &mut news)?;
    }
    if filter.jobs {
        ended_jobs(connection, after, end, filter, most, &mut news)?;
    }
    Ok(news)
}

impl NewsFilter {
    fn wants(&self, site: &str, device: &str) -> bool {
        self.site.as_ref().is_none_or(|wanted| wanted.as_str() == site)
            && self.device.as_ref().is_none_or(|wanted| wanted.as_str() == device)
    }
}

fn readings(
    connection: &Connection,
    after: Place,
    filter: &NewsFilter,
    most: usize,
    news: &mut News,
) -> Read<()> {
    let sql = "SELECT * FROM changes WHERE (commit_no, device, first_ts) > (?1, ?2, ?3)
        ORDER BY commit_no, device, first_ts LIMIT ?4";
    let (device, first) = after.within.map_or((i64::MAX, i64::MAX), |(device, first)| (device, first.0));
    let values = [after.commit.0.cast_signed(), device, first, limit(most)];
    let changes = super::read::rows(connection, sql, values, change_row)?;
    if let Some(last) = changes.last().filter(|_| changes.len() == most) {
        (news.reached.commit, news.reached.within) = (last.commit, Some((last.device.0, last.first)));
        news.is_all = false;
    }
    for change in changes {
        let sql = "SELECT s.name, d.name FROM devices d JOIN sites s ON s.id = d.site WHERE d.id = ?1";
        let names = |r: &Row<'_>| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?));
        let names = connection.prepare_cached(sql)?.query_row([change.device.0], names).optional()?;
        let Some((site, device)) = names.filter(|(site, device)| filter.wants(site, device)) else {
            continue;
        };
        let (latest, has_more) = latest(connection, &change)?;
        news.readings.push(ReadingNews { site, device, change, latest, has_more });
    }
    Ok(())
}

/// The latest reading of each series that a change wrote, and whether it wrote more.
fn latest(connection: &Connection, change: &ChangeRow) -> Read<(Vec<Latest>, bool)> {
    let sql = "SELECT id, channel, revision, unit FROM series WHERE device = ?1 ORDER BY channel, revision";
    let series = super::read::rows(connection, sql, [change.device.0], |r| {
        Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?, r.get::<_, u32>(2)?, r.get::<_, String>(3)?))
    })?;
    let (mut latest, mut has_more) = (Vec::new(), false);
    for (no, channel, revision, unit) in series {
        let sql = "SELECT * FROM readings WHERE series = ?1 AND ts BETWEEN ?2 AND ?3 AND commit_no = ?4
            ORDER BY ts DESC LIMIT 2";
        let values = [no, change.first.0, change.last.0, change.commit.0.cast_signed()];
        let mut found = super::read::rows(connection, sql, values, reading)?.into_iter();
        if let Some(reading) = found.next() {
            has_more |= found.next().is_some();
            latest.push(Latest { channel, revision, unit, reading });
        }
    }
    Ok((latest, has_more))
}

/// A gap that has been cut or filled in parts since may be another one by now, or none: its events are told all the same.
fn gaps(
    connection: &Connection,
    after: Place,
    filter: &NewsFilter,
    most: usize,
    news: &mut News,
) -> Read<()> {
    let sql = "SELECT e.*, s.name AS site_name, d.name AS device_name, p.from_ts, p.to_ts FROM gap_events e
        LEFT JOIN gaps p ON p.id = e.gap LEFT JOIN grids g ON g.id = p.grid LEFT JOIN devices d ON d.id = g.device
        LEFT JOIN sites s ON s.id = d.site WHERE e.id > ?1 ORDER BY e.id LIMIT ?2";
    let found = super::read::rows(connection, sql, [after.gap_event, limit(most)], |row| {
        Ok(GapNews {
            id: row.get("id")?,
            site: row.get("site_name")?,
            device: row.get("device_name")?,
            from: row.get::<_, Option<i64>>("from_ts")?.map(Timestamp),
            to: row.get::<_, Option<i64>>("to_ts")?.map(Timestamp),
            event: gap_event_row(row)?,
        })
    })?;
    if let Some(last) = found.last().filter(|_| found.len() == most) {
        news.reached.gap_event = last.id;
        news.is_all = false;
    }
    let wants = |gap: &GapNews| {
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        filter.wants(&name(&gap.site), &name(&gap.device))
    };
    news.gaps = found.into_iter().filter(wants).collect();
    Ok(())
}

/// Lines of the history are numbered without holes, and removed from its begin: a hole is what can no longer be told.
fn ended_jobs(
    connection: &Connection,
    after: Place,
    end: Place,
    filter: &NewsFilter,
    most: usize,
    news: &mut News,
) -> Read<()> {
    let found = super::read::rows(connection, jobs::ENDED_SINCE, [after.job, limit(most)], jobs::ended_row)?;
    let reached = if found.len() == most { found.last().map_or(end.job, |last| last.id) } else { end.job };
    news.is_all &= reached == end.job;
    news.reached.job = reached;
    let (there, told) = (i64::try_from(found.len()).unwrap_or_default(), reached.saturating_sub(after.job));
    if there < told {
        news.jobs_lost = Some((after.job + 1, reached, told - there));
    }
    news.jobs =
        found.into_iter().filter(|job| filter.wants(job.site.as_str(), job.device.as_str())).collect();
    Ok(())
}
