//! What is done about gaps, as rows: their lives, and what became of each. Decides nothing.

use gapless_common::id::DeviceId;
use gapless_common::planted::{self, Bug};
use gapless_common::quality::Cause;
use gapless_common::text::parse_duration_ms;
use gapless_common::time::{Slot, SlotGrid, Timestamp};
use rusqlite::{Connection, Row, params};

use super::model::Awaited;
use super::state;
use super::unasked::{AWAY, LeftBefore, NOBODY, Nobody};
use crate::gaps::life::{Life, Phase};
use crate::gaps::plan::Window;
use crate::gaps::{Policies, open_least_ms};
use crate::ledger::{AgentNo, GridNo, Stamp};

/// `gaps.state` of one that is filled; the others are those of [`state()`].
pub(crate) const GAP_FILLED: i64 = 2;
/// For `?3` of a question that is not about whose agent is away.
const WHOEVER_LEFT: i64 = i64::MIN;

/// `gap_tallies.event` of a source that is asked again; the others are those of [`Happened`].
pub(super) const ASKED_AGAIN: i64 = 11;

/// `gaps.state` of one that is not filled.
pub(crate) const fn state(phase: Phase) -> i64 {
    match phase {
        Phase::Open => 1,
        Phase::Requested => 3,
        Phase::Waiting => 4,
        Phase::Abandoned => 5,
    }
}

/// The same, read.
pub(crate) const fn phase(state: i64) -> Phase {
    match state {
        3 => Phase::Requested,
        4 => Phase::Waiting,
        5 => Phase::Abandoned,
        _ => Phase::Open,
    }
}

/// Of a row with these columns.
pub(super) fn life(row: &Row<'_>) -> rusqlite::Result<Life> {
    Ok(Life {
        phase: phase(row.get("state")?),
        attempts: row.get("attempts")?,
        failures: row.get("failures")?,
        next: row.get::<_, Option<i64>>("next_at")?.map(Timestamp),
        request: row.get::<_, Option<i64>>("request")?.map(i64::cast_unsigned),
        sourceless: row.get("sourceless")?,
    })
}

/// What can become of a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happened {
    /// It was proven.
    Opened,
    /// It was told another cause.
    Recaused,
    /// Its source was asked.
    Requested,
    /// The source has nothing.
    NoData,
    /// The source could not be asked, or did not answer.
    Failed,
    /// The last attempt brought nothing.
    Abandoned,
    /// Nobody could be asked while its schedule lasted.
    Unasked,
    /// A person wants it asked for now.
    Retried,
    /// A person wants its schedule to begin anew.
    Reopened,
    /// Its readings came.
    Filled,
    /// Another device has some of its channels: they stand in, and it is missing still for the others.
    Lent,
    /// The device's own readings came of slots that were lent.
    Replaced,
    /// It was a part of another one.
    Cut {
        /// Of which.
        parent: i64,
    },
}

impl Happened {
    pub(super) const fn code(self) -> i64 {
        match self {
            Self::Opened => 1,
            Self::Recaused => 2,
            Self::Requested => 3,
            Self::NoData => 4,
            Self::Failed => 5,
            Self::Abandoned => 6,
            Self::Retried => 7,
            Self::Reopened => 8,
            Self::Filled => 9,
            Self::Cut { .. } => 10,
            Self::Lent => 12,
            Self::Unasked => 13,
            Self::Replaced => 14,
        }
    }

    /// The word that is counted under for a code: what nobody could be asked for is no news to whoever looks after sources.
    pub(crate) const fn counted_as(code: i64) -> Option<&'static str> {
        match code {
            13 => Some("abandoned_unasked"),
            _ => Self::word(code),
        }
    }

    /// The word that the API has for a code.
    pub(crate) const fn word(code: i64) -> Option<&'static str> {
        Some(match code {
            1 => "opened",
            2 => "cause",
            3 => "requested",
            4 => "no_data",
            5 => "failed",
            6 | 13 => "abandoned",
            7 => "retried",
            8 => "reopened",
            9 => "filled",
            10 => "cut",
            12 => "lent",
            14 => "replaced",
            _ => return None,
        })
    }
}

/// A line of a gap's history.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event<'a> {
    pub(crate) gap: i64,
    pub(crate) happened: Happened,
    pub(crate) actor: &'a str,
    pub(crate) cause: Option<Cause>,
    pub(crate) next: Option<Timestamp>,
    pub(crate) detail: Option<&'a str>,
}

impl Event<'_> {
    /// One of the collector's own.
    pub(crate) const fn of(gap: i64, happened: Happened) -> Self {
        Self { gap, happened, actor: "collector", cause: None, next: None, detail: None }
    }
}

/// Writes a line of a history.
pub(crate) fn tell(connection: &Connection, stamp: Stamp, event: &Event<'_>) -> rusqlite::Result<()> {
    let parent = match event.happened {
        Happened::Cut { parent } => Some(parent),
        _ => None,
    };
    let sql = "INSERT INTO gap_events (gap, commit_no, at, event, actor, cause, next_at, parent, detail)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let row = params![
        event.gap,
        stamp.commit.cast_signed(),
        stamp.at.0,
        event.happened.code(),
        event.actor,
        event.cause.map(|cause| i64::from(cause.code())),
        event.next.map(|at| at.0),
        parent,
        event.detail,
    ];
    connection.prepare_cached(sql)?.execute(row)?;
    tally(connection, event.happened.code(), 1)
}

/// Notes that a source is asked for a gap that it was asked for before.
pub(crate) fn asked_again(connection: &Connection) -> rusqlite::Result<()> {
    tally(connection, ASKED_AGAIN, 1)
}

pub(super) fn tally(connection: &Connection, event: i64, times: i64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO gap_tallies VALUES (?1, ?2) ON CONFLICT DO UPDATE SET happened = happened + ?2";
    connection.prepare_cached(sql)?.execute([event, times]).map(drop)
}

/// A gap and whom to ask for it.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) id: i64,
    pub(crate) grid: GridNo,
    pub(crate) slots: (i64, i64),
    pub(crate) times: SlotGrid,
    pub(crate) life: Life,
    pub(crate) agent: AgentNo,
    pub(crate) device: DeviceId,
    /// Why nobody can be asked for it, where that is so.
    pub(crate) nobody: Option<Nobody>,
    /// Whether its agent has been gone for long.
    pub(crate) is_agent_away: bool,
    /// The device's attribute `class`.
    pub(crate) class: Option<String>,
    /// The longest window that its source can be asked for, where the device says so, in ms.
    pub(crate) longest_ms: Option<i64>,
    /// How long the agent gathers readings before it sends them, in ms.
    pub(crate) flush_ms: i64,
    /// How the command under way has ended: see `commands.outcome`.
    pub(crate) outcome: Option<i64>,
}

impl Wanted {
    /// Its time.
    pub(crate) fn window(&self) -> Window {
        let (first, last) = self.slots;
        Window { from: self.times.at(Slot(first)), to: self.times.at(Slot(last).plus(1)) }
    }

    /// How long it stays open once it is due and nobody can be asked.
    pub(crate) fn open_ms(&self, policies: &Policies, attempts: u32) -> i64 {
        let least_ms = open_least_ms(self.times.interval.as_ms(), self.flush_ms);
        policies.of(self.class.as_deref()).open_ms(attempts, least_ms)
    }
}

/// `?3`: see [`NOBODY`].
fn wanted_sql(which: &str) -> String {
    format!(
        "SELECT p.id, p.grid, p.first_slot, p.last_slot, p.state, p.attempts, p.failures, p.next_at, p.request,
            p.sourceless, g.interval_ms, g.phase_ms, d.name AS device, d.attributes ->> 'class' AS class,
            d.attributes ->> 'window' AS longest, a.id AS agent, a.flush_ms, c.outcome,
            {NOBODY} AS nobody, {AWAY} AS is_agent_away
        FROM gaps p JOIN grids g ON g.id = p.grid JOIN devices d ON d.id = g.device JOIN agents a ON a.id = d.agent
        LEFT JOIN commands c ON c.id = p.request {which}"
    )
}

/// An attribute that makes no sense limits nothing.
pub(super) fn span_ms(text: &str) -> Option<i64> {
    parse_duration_ms(text).ok().and_then(|ms| i64::try_from(ms).ok())
}

fn wanted(connection: &Connection, which: &str, values: [i64; 3]) -> rusqlite::Result<Vec<Wanted>> {
    let mut statement = connection.prepare_cached(&wanted_sql(which))?;
    let mut rows = statement.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let Ok(device) = DeviceId::new(&row.get::<_, String>("device")?) else { continue };
        found.push(Wanted {
            id: row.get("id")?,
            grid: GridNo(row.get("grid")?),
            slots: (row.get("first_slot")?, row.get("last_slot")?),
            times: state::grid(row.get("interval_ms")?, row.get("phase_ms")?),
            life: life(row)?,
            agent: AgentNo(row.get("agent")?),
            device,
            nobody: row.get::<_, Option<i64>>("nobody")?.map(Nobody::of),
            is_agent_away: row.get("is_agent_away")?,
            class: row.get("class")?,
            longest_ms: row.get::<_, Option<String>>("longest")?.and_then(|text| span_ms(&text)),
            flush_ms: row.get("flush_ms")?,
            outcome: row.get("outcome")?,
        });
    }
    Ok(found)
}

/// Requests that are to be over by `now`: what an agent has to say that is away is still to come, unless it has been for long.
pub(crate) fn ended(
    connection: &Connection,
    now: Timestamp,
    away: LeftBefore,
    most: i64,
) -> rusqlite::Result<Vec<Wanted>> {
    let which = format!(
        "WHERE p.next_at <= ?1 AND p.state = 3 AND (a.connected = 1 OR {AWAY}) ORDER BY p.next_at LIMIT ?2"
    );
    wanted(connection, &which, [now.0, most, away.0.0])
}

/// Whether the device `d` has answered since the gap `p` itself. Whether it has answered at all since is asked first: where it
/// has not, all of its coverage since would be looked through for each of its gaps.
macro_rules! answered_since {
    () => {
        "p.to_ts <= (SELECT max(x.own_ts) FROM series x WHERE x.device = d.id)
        AND EXISTS (SELECT 1 FROM grids h JOIN coverage r ON r.grid = h.id WHERE h.device = d.id AND r.state = 1
            AND r.first_slot >= (p.to_ts - h.phase_ms) / h.interval_ms)"
    };
}

/// Whether the device `d` is being asked for what is missing.
macro_rules! being_asked {
    () => {
        "EXISTS (SELECT 1 FROM gaps q JOIN grids h ON h.id = q.grid
            WHERE h.device = d.id AND q.state = 3)"
    };
}

const DUE: &str = concat!(
    "WHERE p.next_at <= ?1 AND p.state IN (1, 4) AND (nobody IS NOT NULL OR (a.connected = 1
        AND d.attributes ->> 'unreachable_since' IS NULL AND ",
    answered_since!(),
    " AND NOT ",
    being_asked!(),
    ")) ORDER BY p.next_at LIMIT ?2"
);

/// What the gap `p` of the device `d` of the agent `a` waits for once it is due, as [`awaited()`] reads it: the conditions of
/// what is due, one by one; one that nobody can be asked for is given up at the next look.
pub(super) const WAITS_FOR: &str = concat!(
    "CASE WHEN p.state NOT IN (1, 4) OR p.sourceless THEN NULL WHEN a.connected IS NOT 1 THEN 1
        WHEN d.attributes ->> 'unreachable_since' IS NOT NULL THEN 2 WHEN ",
    being_asked!(),
    " THEN 3 WHEN ",
    answered_since!(),
    " THEN NULL ELSE 4 END"
);

/// Of a column [`WAITS_FOR`].
pub(super) const fn awaited(code: i64) -> Awaited {
    match code {
        1 => Awaited::Agent,
        2 => Awaited::Reach,
        3 => Awaited::Turn,
        _ => Awaited::Newer,
    }
}

/// What is due by `now`: what nobody can be asked for, and of devices that can be asked: their agent is connected, they have
/// answered since themselves (or they would be asked while they are away), and they are not being asked already.
pub(crate) fn due(
    connection: &Connection,
    now: Timestamp,
    away: LeftBefore,
    most: i64,
) -> rusqlite::Result<Vec<Wanted>> {
    wanted(connection, DUE, [now.0, most, away.0.0])
}

/// What a command asks for.
pub(crate) fn of_request(connection: &Connection, request: u64) -> rusqlite::Result<Vec<Wanted>> {
    wanted(connection, "WHERE p.request = ?1 AND ?2", [request.cast_signed(), 1, WHOEVER_LEFT])
}

/// The gap that holds a slot, and is to be asked for.
pub(crate) fn holding(connection: &Connection, grid: GridNo, slot: i64) -> rusqlite::Result<Option<Wanted>> {
    let which = "WHERE p.grid = ?1 AND p.state IN (1, 4) AND p.first_slot <= ?2 AND p.last_slot >= ?2
        ORDER BY p.first_slot DESC LIMIT 1";
    Ok(wanted(connection, which, [grid.0, slot, WHOEVER_LEFT])?.pop())
}

/// Whether there is a gap of that number, filled or not.
pub(crate) fn is_known(connection: &Connection, id: i64) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM gaps WHERE id = ?1")?.exists([id])
}

/// One gap that is not filled.
pub(crate) fn one(connection: &Connection, id: i64, away: LeftBefore) -> rusqlite::Result<Option<Wanted>> {
    Ok(wanted(connection, "WHERE p.id = ?1 AND p.state <> ?2", [id, GAP_FILLED, away.0.0])?.pop())
}

/// Whether the history of a gap says that somebody has filled it, or a part of it.
pub(crate) fn is_filled_by(connection: &Connection, gap: i64, actor: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM gap_events WHERE gap = ?1 AND event = ?2 AND actor = ?3)";
    let values = params![gap, Happened::Filled.code(), actor];
    connection.prepare_cached(sql)?.query_row(values, |r| r.get(0))
}

/// An agent is back: what it has to say of its requests may take until `until`.
pub(crate) fn await_again(connection: &Connection, agent: AgentNo, until: Timestamp) -> rusqlite::Result<()> {
    let sql = "UPDATE gaps SET next_at = max(next_at, ?2) WHERE state = 3
        AND grid IN (SELECT g.id FROM grids g JOIN devices d ON d.id = g.device WHERE d.agent = ?1)";
    connection.prepare_cached(sql)?.execute([agent.0, until.0]).map(drop)
}

/// Writes down what is done about a gap.
pub(crate) fn put_life(connection: &Connection, stamp: Stamp, id: i64, life: &Life) -> rusqlite::Result<()> {
    let is_closed = life.phase == Phase::Requested && planted::has(Bug::GapClosedOnRequest);
    let sql = "UPDATE gaps SET state = ?2, attempts = ?3, failures = ?4, next_at = ?5, request = ?6,
        changed_commit = ?7, sourceless = ?8 WHERE id = ?1";
    let row = params![
        id,
        if is_closed { GAP_FILLED } else { state(life.phase) },
        life.attempts,
        life.failures,
        life.next.map(|at| at.0),
        life.request.map(u64::cast_signed),
        stamp.commit.cast_signed(),
        life.sourceless,
    ];
    connection.prepare_cached(sql)?.execute(row).map(drop)
}

/// Cuts what lies before the slot `at` off a gap that begins before it. Returns the number of that part.
pub(crate) fn cut_before(
    connection: &Connection,
    stamp: Stamp,
    gap: &Wanted,
    at: i64,
) -> rusqlite::Result<i64> {
    let boundary = gap.times.at(Slot(at)).0;
    let commit = stamp.commit.cast_signed();
    let sql = "UPDATE gaps SET first_slot = ?2, from_ts = ?3, changed_commit = ?4 WHERE id = ?1";
    connection.prepare_cached(sql)?.execute([gap.id, at, boundary, commit])?;
    let sql = "INSERT INTO gaps (grid, first_slot, last_slot, from_ts, to_ts, cause, state, opened_at, opened_commit,
            changed_commit, attempts, failures, next_at, request, sourceless)
        SELECT grid, ?2, ?3, ?4, ?5, cause, state, opened_at, opened_commit, changed_commit, attempts, failures,
            next_at, request, sourceless FROM gaps WHERE id = ?1 RETURNING id";
    let row = [gap.id, gap.slots.0, at - 1, gap.window().from.0, boundary];
    let id = connection.prepare_cached(sql)?.query_row(row, |r| r.get(0))?;
    tell(connection, stamp, &Event::of(id, Happened::Cut { parent: gap.id }))?;
    Ok(id)
}

/// Checks that a statement finds gaps by that index, reads no reading, and no table from one end to the other.
#[cfg(test)]
pub(super) fn check_plan(connection: &Connection, sql: &str, index: &str) {
    let sql = ["?1", "?2", "?3", "?4"].iter().fold(sql.to_owned(), |sql, name| sql.replace(name, "9"));
    let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let steps = plan.query_map([], |r| r.get::<_, String>(3)).unwrap().map(Result::unwrap);
    let steps: Vec<String> = steps.collect();
    let of_gaps = |step: &&String| [" p ", " gaps "].iter().any(|name| format!("{step} ").contains(name));
    let mut of_gaps = steps.iter().filter(of_gaps).peekable();
    assert!(of_gaps.peek().is_some(), "{steps:?}");
    assert!(of_gaps.all(|step| step.starts_with("SEARCH") && step.contains(index)), "{steps:?}");
    assert!(!steps.iter().any(|step| step.starts_with("SCAN")), "{steps:?}");
    assert!(!steps.iter().any(|step| step.contains(" r ") && !step.contains("(grid=")), "{steps:?}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite;

    /// What is looked for every second must not read the gaps that there are.
    #[test]
    fn what_is_due_is_found_by_an_index() {
        let connection = sqlite::make_writer(Connection::open_in_memory().unwrap(), 7).unwrap();
        check_plan(&connection, &wanted_sql(DUE), "gaps_due");
    }
}
