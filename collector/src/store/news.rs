//! What has happened since a place in the tables: what commits wrote, what became of gaps and alerts, which jobs have ended. Of one
//! committed state, at most so many lines of each. Decides nothing.

use gapless_common::id::{DeviceId, SiteId};
use gapless_common::time::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::model::{
    AlertNews, AlertRow, ChangeRow, GapNews, Latest, News, NewsFilter, NotKept, Place, ReadingNews,
};
use super::read::change_row;
use super::rows::{gap_event_row, limit, reading};
use super::{ReadError, alert_rows, jobs, sqlite};

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
        // Old alerts are removed, and their numbers are not given again.
        alert_event: last("SELECT max(seq) FROM sqlite_sequence WHERE name = 'alert_events'")?,
    })
}

/// What comes after `after`: at most `most` lines of each kind.
pub(super) fn since(connection: &Connection, after: Place, filter: &NewsFilter, most: usize) -> Read<News> {
    let end = end(connection)?;
    let mut news = News {
        head: sqlite::head(connection)?,
        readings: Vec::new(),
        gaps: Vec::new(),
        jobs: Vec::new(),
        jobs_lost: None,
        alerts: Vec::new(),
        alerts_lost: None,
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
    if filter.alerts {
        alerts(connection, after, end, filter, most, &mut news)?;
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
    let ids: Vec<i64> = found.iter().map(|job| job.id).collect();
    (news.reached.job, news.jobs_lost) = how_far(&ids, (after.job, end.job), most);
    news.is_all &= news.reached.job == end.job;
    news.jobs =
        found.into_iter().filter(|job| filter.wants(job.site.as_str(), job.device.as_str())).collect();
    Ok(())
}

/// How far lines that are numbered without holes are told where these were found after the first number of two, up to the
/// second one; and what of them is not kept.
fn how_far(found: &[i64], (after, end): (i64, i64), most: usize) -> (i64, Option<NotKept>) {
    let reached = found.last().copied().filter(|_| found.len() == most).unwrap_or(end);
    let (there, told) = (i64::try_from(found.len()).unwrap_or_default(), reached.saturating_sub(after));
    let lost = NotKept { from: after.saturating_add(1), to: reached, count: told.saturating_sub(there) };
    (reached, (lost.count > 0).then_some(lost))
}

/// Alerts that are over and old are removed with all that became of them.
fn alerts(
    connection: &Connection,
    after: Place,
    end: Place,
    filter: &NewsFilter,
    most: usize,
    news: &mut News,
) -> Read<()> {
    let values = [after.alert_event, limit(most)];
    let found = super::read::rows(connection, alert_rows::EVENTS_SINCE, values, |row| {
        let (event, alert) = (alert_rows::alert_event_row(row)?, alert_rows::alert_row(row)?);
        Ok(AlertNews { id: row.get("event_id")?, event, alert })
    })?;
    let ids: Vec<i64> = found.iter().map(|line| line.id).collect();
    (news.reached.alert_event, news.alerts_lost) = how_far(&ids, (after.alert_event, end.alert_event), most);
    news.is_all &= news.reached.alert_event == end.alert_event;
    let wants = |AlertRow { site, device, .. }: &AlertRow| {
        filter.wants(site.as_ref().map_or("", SiteId::as_str), device.as_ref().map_or("", DeviceId::as_str))
    };
    news.alerts = found.into_iter().filter(|line| wants(&line.alert)).collect();
    Ok(())
}
