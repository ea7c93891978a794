//! Where a gap must stand that its device can be asked for, worked out anew from its events; and where one that nobody can be asked
//! for. What excuses a gap that stands elsewhere is the business of whoever judges its device.

use gapless_collector::gaps::Policy;
use gapless_common::quality::Cause;
use rusqlite::Connection;

/// `gap_events.event`.
pub(super) const OPENED: i64 = 1;
pub(super) const ASKED: i64 = 3;
pub(super) const NO_DATA: i64 = 4;
pub(super) const FAILED: i64 = 5;
const RETRIED: i64 = 7;
pub(super) const REOPENED: i64 = 8;
pub(super) const UNASKED: i64 = 13;

/// What comes late of a gap that nobody can be asked for is awaited so long beyond an interval at least, in ms.
const ARRIVAL_MS: i64 = 900_000;

/// A gap as the database tells it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gap {
    pub(super) id: i64,
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) cause: Cause,
    pub(super) state: i64,
    pub(super) attempts: u32,
    pub(super) next_at: Option<i64>,
    pub(super) opened_at: i64,
    /// Nobody can be asked for it.
    pub(super) sourceless: bool,
}

/// All of a device.
pub(super) fn gaps(database: &Connection, device: &str) -> rusqlite::Result<Vec<Gap>> {
    let sql = "SELECT p.id, p.first_slot, p.last_slot, p.cause, p.state, p.attempts, p.next_at, p.opened_at, p.sourceless
        FROM gaps p JOIN grids g ON g.id = p.grid JOIN devices d ON d.id = g.device
        WHERE d.name = ?1 ORDER BY p.first_slot";
    let mut statement = database.prepare_cached(sql)?;
    let gaps = statement.query_map([device], |r| {
        let code: i64 = r.get(3)?;
        Ok(Gap {
            id: r.get(0)?,
            first: r.get(1)?,
            last: r.get(2)?,
            cause: u16::try_from(code).ok().and_then(Cause::from_code).unwrap_or(Cause::Unexplained),
            state: r.get(4)?,
            attempts: r.get(5)?,
            next_at: r.get(6)?,
            opened_at: r.get(7)?,
            sourceless: r.get(8)?,
        })
    })?;
    gaps.collect()
}

/// In what a gap is not where its schedule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// Its device was never asked, and should have been.
    NeverAsked,
    /// It is being asked still.
    AskedStill,
    /// It should have been asked once more.
    Overdue,
    /// Another number of attempts was made.
    Attempts(u32),
    /// It is asked next at another time.
    Due(Option<i64>),
    /// There were fewer attempts than its schedule has.
    GivenUpEarly,
    /// No gap that is not filled stands so.
    State,
}

impl Gap {
    /// In what it is not where its schedule says, at the instant `at` at which all is quiet.
    pub(super) fn wrong(&self, past: &[(i64, i64)], policy: &Policy, at: i64) -> Option<Wrong> {
        let due = Due::of(past, policy);
        let is_due = due.next_at.is_none_or(|next_at| next_at <= at);
        let asked_at = past.iter().rev().find(|(event, _)| *event == ASKED).map(|(_, at)| *at);
        match self.state {
            1 if self.opened_at >= at || !is_due => None,
            1 => Some(Wrong::NeverAsked),
            3 if asked_at.is_some_and(|asked_at| asked_at >= at) => None,
            3 => Some(Wrong::AskedStill),
            4 | 5 if self.attempts != due.attempts => Some(Wrong::Attempts(due.attempts)),
            4 if self.next_at != due.next_at => Some(Wrong::Due(due.next_at)),
            4 if is_due => Some(Wrong::Overdue),
            5 if usize::try_from(self.attempts) != Ok(policy.waits_ms.len()) => Some(Wrong::GivenUpEarly),
            4 | 5 => None,
            _ => Some(Wrong::State),
        }
    }

    /// In what one is not where it should be, at the instant `at`, that nobody could be asked for since the instant `since`, where that
    /// is known.
    pub(super) fn wrong_alone(
        &self,
        past: &[(i64, i64)],
        policy: &Policy,
        (interval_ms, at): (i64, i64),
        since: Option<i64>,
    ) -> Option<Wrong> {
        let due = Due::of(past, policy);
        let left = policy.waits_ms.iter().skip(due.attempts as usize + 1);
        let open_ms = left.sum::<i64>().max(interval_ms + ARRIVAL_MS);
        let end = due.next_at.max(since).map(|at| at + open_ms);
        let given_up_at = past.last().filter(|(event, _)| *event == UNASKED).map(|(_, at)| *at);
        match self.state {
            1 | 4 | 5 if self.attempts != due.attempts => Some(Wrong::Attempts(due.attempts)),
            1 | 4 if self.next_at < end => Some(Wrong::Due(end)),
            1 | 4 if self.next_at.is_some_and(|next_at| next_at < at) => Some(Wrong::Overdue),
            5 if given_up_at.is_none() || given_up_at < end => Some(Wrong::GivenUpEarly),
            1 | 4 | 5 => None,
            _ => Some(Wrong::State),
        }
    }
}

/// What the events of a gap make due, worked out anew.
#[derive(Debug, Default)]
pub(super) struct Due {
    pub(super) attempts: u32,
    failures: u32,
    pub(super) next_at: Option<i64>,
}

impl Due {
    pub(super) fn of(past: &[(i64, i64)], policy: &Policy) -> Self {
        let mut due = Self::default();
        for &(event, at) in past {
            match event {
                // Opened anew by a person, or by its proof.
                OPENED | REOPENED => due = Self { next_at: Some(at), ..Self::default() },
                RETRIED => due.next_at = Some(at),
                FAILED if due.failures < 11 => {
                    let pause_s = [10, 20, 40, 80, 160].get(due.failures as usize).copied().unwrap_or(300);
                    due.failures += 1;
                    due.next_at = Some(at + pause_s * 1_000);
                }
                NO_DATA | FAILED => {
                    due.attempts += 1;
                    due.failures = 0;
                    due.next_at = policy.waits_ms.get(due.attempts as usize).map(|wait| at + wait);
                }
                _ => {}
            }
        }
        due
    }
}

/// The events of a gap before the event `until`, with those of the one that it was cut off: code and time.
pub(super) fn past(database: &Connection, gap: i64, until: i64) -> rusqlite::Result<Vec<(i64, i64)>> {
    let sql = "SELECT id, event, at, parent FROM gap_events WHERE gap = ?1 AND id < ?2 ORDER BY id";
    let mut statement = database.prepare_cached(sql)?;
    let mut rows = statement.query([gap, until])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        if let Some(parent) = row.get::<_, Option<i64>>(3)? {
            events = past(database, parent, row.get(0)?)?;
        }
        events.push((row.get(1)?, row.get(2)?));
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::super::mishap::policies;
    use super::*;

    /// Events with their times, attempts, and when it is due next.
    type Row = (&'static [(i64, i64)], u32, Option<i64>);

    #[test]
    fn a_schedule_follows_from_what_happened() {
        let policy = policies().of(Some("hasty")).clone();
        let rows: [Row; 6] = [
            (&[(1, 5)], 0, Some(5)),
            (&[(1, 5), (3, 5), (4, 100)], 1, Some(60_100)),
            (&[(1, 5), (3, 5), (5, 100), (3, 200), (5, 300)], 0, Some(20_300)),
            (&[(1, 5), (3, 5), (4, 100), (7, 200)], 1, Some(200)),
            (&[(1, 5), (4, 100), (4, 200), (4, 300), (6, 300)], 3, None),
            (&[(1, 5), (4, 100), (4, 200), (4, 300), (6, 300), (8, 900)], 0, Some(900)),
        ];
        for (past, attempts, next_at) in rows {
            let due = Due::of(past, &policy);
            assert_eq!((due.attempts, due.next_at), (attempts, next_at), "{past:?}");
        }
        let failures: Vec<(i64, i64)> = (0..12).map(|n| (5, n)).collect();
        assert_eq!(Due::of(&failures, &policy).attempts, 1, "what keeps failing is an attempt in vain");
    }
}
