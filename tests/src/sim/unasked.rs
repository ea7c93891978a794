//! What the end must look like for the gaps of a device without a memory: nobody was asked for them, none was given up before its
//! time, and none is open after it.

use rusqlite::Connection;

use super::clock::truth;
use super::judge::Findings;
use super::mishap::policies;
use super::schedule::{ASKED, UNASKED, past};

/// What an agent has to send comes within this time, beyond its flush and an interval, in ms: a gap that may still grow is not
/// given up.
const ARRIVAL_MS: i64 = 900_000;
/// `gap_events.event`.
const OPENED: i64 = 1;
const REOPENED: i64 = 8;

/// Of one device, once all is quiet. `looked_ms`: when the collector has looked for the last time, in ms of the run.
pub(super) fn judge(
    database: &Connection,
    device: &str,
    looked_ms: u64,
    findings: &mut Findings,
) -> rusqlite::Result<()> {
    let sql = "SELECT p.id, p.state, p.attempts, p.next_at, g.interval_ms, d.attributes ->> 'class'
        FROM gaps p JOIN grids g ON g.id = p.grid JOIN devices d ON d.id = g.device
        WHERE d.name = ?1 AND p.state <> 2";
    let mut statement = database.prepare_cached(sql)?;
    let mut rows = statement.query([device])?;
    while let Some(row) = rows.next()? {
        let (id, state, attempts): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (next_at, interval_ms): (Option<i64>, i64) = (row.get(3)?, row.get(4)?);
        let class: Option<String> = row.get(5)?;
        let schedule_ms: i64 = policies().of(class.as_deref()).waits_ms.iter().sum();
        let open_ms = schedule_ms.max(interval_ms + ARRIVAL_MS);
        let past = past(database, id, i64::MAX)?;
        let last =
            |which: &[i64]| past.iter().rev().find(|(event, _)| which.contains(event)).map(|(_, at)| *at);
        let end = last(&[OPENED, REOPENED]).map(|at| at + open_ms);
        let wrong = match (state, next_at, last(&[UNASKED])) {
            _ if attempts != 0 || last(&[ASKED]).is_some() => "somebody was asked for it",
            (1, Some(next), _) if next <= truth(looked_ms).0 => "it is open still",
            (1, Some(next), _) if Some(next) < end => "it is to be given up too early",
            (1, Some(_), _) => continue,
            (5, None, Some(at)) if Some(at) < end => "it was given up too early",
            (5, None, Some(_)) => continue,
            _ => "it is in no state that it can be in",
        };
        let what = format!("{device}: gap {id} in state {state}, due at {next_at:?}, {past:?}: {wrong}");
        findings.push(("schedule", what));
    }
    Ok(())
}
