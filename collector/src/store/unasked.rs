//! Whom nobody asks for what is missing, and why, as rows: devices that keep no history, that are asked no more, or whose
//! agent is gone. What becomes of their gaps is decided in [`life`](crate::gaps::life).

use gapless_common::time::Timestamp;
use rusqlite::Connection;

use super::gap_lives::{Happened, tally};
use crate::alerts::absence::{Absence, present_since};
use crate::gaps::AWAY_MS;
use crate::ledger::{AgentNo, Stamp};

/// Why nobody can be asked for what is missing of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nobody {
    /// It keeps no history.
    NoMemory,
    /// It is suspended, not confirmed, or its agreement has ended.
    Stopped,
    /// Its source has withdrawn its consent.
    NotAuthorised,
    /// Its source does not list it any more.
    Removed,
    /// No agent's catalog has it any more, or it is paused there.
    NotPolled,
    /// Its agent has been away for [`AWAY_MS`].
    AgentAway,
}

impl Nobody {
    /// Of a column [`NOBODY`].
    pub(super) const fn of(code: i64) -> Self {
        match code {
            2 => Self::Stopped,
            3 => Self::Removed,
            4 => Self::NotPolled,
            5 => Self::AgentAway,
            6 => Self::NotAuthorised,
            _ => Self::NoMemory,
        }
    }

    /// For the history of a gap.
    pub(crate) const fn why(self) -> &'static str {
        match self {
            Self::NoMemory => "its device keeps no history",
            Self::Stopped => "its device is not asked any more",
            Self::NotAuthorised => "the source of its device has withdrawn its consent",
            Self::Removed => "its source does not list its device any more",
            Self::NotPolled => "no agent polls its device any more",
            Self::AgentAway => "the agent of its device has been away for a week",
        }
    }
}

macro_rules! away {
    () => {
        "(a.connected <> 1 AND coalesce(a.left_at, a.last_heard_at, 0) <= ?3)"
    };
}

/// Whether the agent `a` has been gone for long. `?3`: who left before that has.
pub(super) const AWAY: &str = away!();

/// Why nobody can be asked for the device `d` of the agent `a`, as a number; NULL where somebody can, now or once both are there.
/// The last of them is [`AWAY`].
pub(super) const NOBODY: &str = concat!(
    "CASE WHEN d.attributes ->> 'history' IS NULL THEN 1 WHEN d.stopped IS NOT NULL THEN 2
        WHEN d.attributes ->> 'not_authorised_since' IS NOT NULL THEN 6 WHEN d.attributes ->> 'removed_at' IS NOT NULL THEN 3
        WHEN NOT EXISTS (SELECT 1 FROM grids h JOIN spans s ON s.grid = h.id WHERE h.device = d.id AND s.last_slot IS NULL)
            THEN 4 WHEN ",
    away!(),
    " THEN 5 END"
);

/// Who left before that instant has been away for [`AWAY_MS`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeftBefore(pub(super) Timestamp);

impl LeftBefore {
    /// Nobody is away for as long as nobody could be heard.
    pub(crate) fn of(now: Timestamp, unheard: &[Absence]) -> Self {
        Self(present_since(AWAY_MS, now, unheard))
    }
}

/// Those of the devices of an agent that have gaps nobody could be asked for, and that can be asked.
fn askable(condition: &str) -> String {
    format!(
        "SELECT d.id FROM devices d JOIN agents a ON a.id = d.agent WHERE {condition} AND ({NOBODY}) IS NULL
            AND EXISTS (SELECT 1 FROM grids g JOIN gaps p ON p.grid = g.id AND p.sourceless = 1 WHERE g.device = d.id)"
    )
}

const REOPEN_TOLD: &str = "INSERT INTO gap_events (gap, commit_no, at, event, actor, next_at, detail)
    SELECT id, ?2, ?3, ?4, 'collector', ?3, 'its device can be asked now' FROM gaps
    WHERE sourceless = 1 AND state = 5 AND grid IN (SELECT id FROM grids WHERE device = ?1)";
const REOPEN: &str =
    "UPDATE gaps SET state = iif(state = 5, 1, state), attempts = iif(state = 5, 0, attempts), next_at = ?3,
        sourceless = 0, changed_commit = ?2
    WHERE sourceless = 1 AND grid IN (SELECT id FROM grids WHERE device = ?1)";

/// The gaps of an agent's devices that nobody could be asked for are due where somebody can now: the device has a memory since,
/// is listed or polled again, or its agent is back. Those that were given up for that reason are opened again.
pub(crate) fn begin_to_ask(
    connection: &Connection,
    stamp: Stamp,
    away: LeftBefore,
    agent: AgentNo,
) -> rusqlite::Result<()> {
    begin(connection, stamp, &askable("d.agent = ?1"), [agent.0, 0, away.0.0])
}

/// The same of one device, which is asked again.
pub(crate) fn begin_to_ask_one(
    connection: &Connection,
    stamp: Stamp,
    away: LeftBefore,
    device: i64,
) -> rusqlite::Result<()> {
    begin(connection, stamp, &askable("d.id = ?1"), [device, 0, away.0.0])
}

/// `values`: of which agent or device, nothing, and who is away. The second one is of the other statements.
fn begin(connection: &Connection, stamp: Stamp, askable: &str, values: [i64; 3]) -> rusqlite::Result<()> {
    let devices = connection
        .prepare_cached(askable)?
        .query_map(values, |r| r.get(0))?
        .collect::<Result<Vec<i64>, _>>()?;
    let (at, commit) = (stamp.at.0, stamp.commit.cast_signed());
    for device in devices {
        let reopened = Happened::Reopened.code();
        let again = connection.prepare_cached(REOPEN_TOLD)?.execute([device, commit, at, reopened])?;
        if again > 0 {
            tally(connection, reopened, i64::try_from(again).unwrap_or(i64::MAX))?;
        }
        connection.prepare_cached(REOPEN)?.execute([device, commit, at])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::gap_lives::check_plan;
    use super::super::sqlite;
    use super::*;

    /// What is looked for at each birth and each catalog must not read the gaps that there are.
    #[test]
    fn what_can_be_asked_for_again_is_found_by_an_index() {
        let connection = sqlite::make_writer(Connection::open_in_memory().unwrap(), 7).unwrap();
        let askable = [askable("d.agent = ?1"), askable("d.id = ?1")];
        for sql in askable.iter().map(String::as_str).chain([REOPEN_TOLD, REOPEN]) {
            check_plan(&connection, sql, "gaps_sourceless");
        }
    }
}
