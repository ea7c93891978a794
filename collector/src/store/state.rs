//! The ledger's memory, as rows: loaded at start, and written with every transaction as far as it changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use gapless_common::id::{BootId, CatalogHash, Epoch, Seq};
use gapless_common::message::HeldEpoch;
use gapless_common::ranges::RangeSet;
use gapless_common::reading::{ClockCorrection, EpochStart, Loss};
use gapless_common::time::{Interval, Slot, SlotGrid, Timestamp};
use rusqlite::{Connection, Row, params};

use super::cell::{known_cause as cause, list_blob, list_of, lost_blob, lost_of, set_blob, set_of};
use crate::ledger::{
    Agent, AgentNo, Changes, DeviceNo, Downtime, EpochState, GridNo, Held, Ledger, Mark, Position, Span,
};

fn place(n: i64) -> usize {
    usize::try_from(n).unwrap_or_default()
}

fn row_place(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The grid of a row.
pub(crate) fn grid(interval_ms: i64, phase_ms: i64) -> SlotGrid {
    let interval = u64::try_from(interval_ms).ok().and_then(|ms| Interval::from_ms(ms).ok());
    let second = || Interval::from_ms(1_000).expect("a second is an interval");
    SlotGrid {
        interval: interval.unwrap_or_else(second),
        phase_ms: u32::try_from(phase_ms).unwrap_or_default(),
    }
}

/// The whole ledger as it was written down, without the meaning of catalogs.
pub(crate) fn load(connection: &Connection) -> rusqlite::Result<Ledger> {
    let mut agents = load_agents(connection)?;
    load_epochs(connection, &mut agents)?;
    load_forgotten(connection, &mut agents)?;
    load_marks(connection, &mut agents)?;
    load_history(connection, &mut agents)?;
    let last_span = connection.query_row("SELECT coalesce(max(id), 0) FROM spans", [], |r| r.get(0))?;
    Ok(Ledger::load(agents, load_spans(connection)?, load_proven(connection)?, last_span))
}

fn load_proven(connection: &Connection) -> rusqlite::Result<BTreeMap<GridNo, i64>> {
    let sql = "SELECT grid, max(proven_slot) FROM spans WHERE proven_slot IS NOT NULL GROUP BY grid";
    let mut statement = connection.prepare(sql)?;
    statement.query_map([], |r| Ok((GridNo(r.get(0)?), r.get(1)?)))?.collect()
}

/// What an agent held at its last birth, as it stands in its row.
pub(super) fn held_of(blob: &[u8]) -> Vec<HeldEpoch> {
    let numbers = list_of(blob);
    let epochs = numbers.chunks_exact(3);
    epochs.map(|h| HeldEpoch { epoch: Epoch(h[0]), first: Seq(h[1]), next: Seq(h[2]) }).collect()
}

type Agents = BTreeMap<AgentNo, Agent>;

fn load_agents(connection: &Connection) -> rusqlite::Result<Agents> {
    let sql = "SELECT id, catalog, held, place, settled_seq FROM agents";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |r| {
        let epochs = held_of(&r.get::<_, Vec<u8>>(2)?);
        let agent = Agent {
            in_force: r.get::<_, Option<i64>>(1)?.map(|h| CatalogHash(h.cast_unsigned())),
            held: Held { epochs, drained: false },
            settled: Position { place: place(r.get(3)?), seq: r.get::<_, i64>(4)?.cast_unsigned() },
            ..Agent::default()
        };
        Ok((AgentNo(r.get(0)?), agent))
    })?;
    rows.collect()
}

fn epoch_state(r: &Row<'_>) -> rusqlite::Result<EpochState> {
    let committed = set_of(&r.get::<_, Vec<u8>>("committed")?);
    let parked = set_of(&r.get::<_, Vec<u8>>("parked")?);
    let lost = lost_of(&r.get::<_, Vec<u8>>("lost")?);
    let gone = lost.iter().map(|&(f, l, _)| (f, l));
    let accounted: RangeSet = committed.iter().chain(parked.iter()).chain(gone).collect();
    let previous = r.get::<_, Option<i64>>("previous")?;
    let start = EpochStart {
        previous: match previous {
            Some(epoch) => {
                Some((Epoch(epoch.cast_unsigned()), Seq(r.get::<_, i64>("previous_end")?.cast_unsigned())))
            }
            None => None,
        },
        boot: BootId(r.get::<_, Option<i64>>("boot")?.unwrap_or_default().cast_unsigned()),
        boot_clock_ms: r.get::<_, Option<i64>>("boot_clock_ms")?.unwrap_or_default().cast_unsigned(),
        at: Timestamp(r.get::<_, Option<i64>>("started_at")?.unwrap_or_default()),
        clock_set: r.get::<_, Option<bool>>("clock_set")?.unwrap_or_default(),
        durable: r.get::<_, Option<bool>>("durable")?.unwrap_or(true),
        agent_version: "".into(),
    };
    let link: i64 = r.get("link")?;
    Ok(EpochState {
        start: r.get::<_, bool>("started")?.then_some(start),
        end: r.get::<_, Option<i64>>("end_seq")?.map(i64::cast_unsigned),
        closed: r.get("closed")?,
        unheld: false,
        heard: false,
        in_memory: r.get::<_, Option<bool>>("durable")? == Some(false),
        place: r.get::<_, Option<i64>>("place")?.map(place),
        link: (link != 0).then(|| cause(link)),
        committed,
        parked,
        lost,
        accounted,
        marks: BTreeMap::new(),
    })
}

fn load_epochs(connection: &Connection, agents: &mut Agents) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("SELECT * FROM epochs ORDER BY agent, place")?;
    let mut rows = statement.query([])?;
    while let Some(r) = rows.next()? {
        let agent = agents.entry(AgentNo(r.get("agent")?)).or_default();
        let epoch = Epoch(r.get::<_, i64>("epoch")?.cast_unsigned());
        let state = epoch_state(r)?;
        if let Some(place) = state.place {
            agent.chain.insert(place, epoch);
        }
        agent.epochs.insert(epoch, state);
    }
    Ok(())
}

fn load_forgotten(connection: &Connection, agents: &mut Agents) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("SELECT agent, epoch, forgotten_no FROM forgotten_epochs")?;
    let mut rows = statement.query([])?;
    while let Some(r) = rows.next()? {
        let epoch = Epoch(r.get::<_, i64>(1)?.cast_unsigned());
        let order = r.get::<_, i64>(2)?.cast_unsigned();
        agents.entry(AgentNo(r.get(0)?)).or_default().forgotten.load(epoch, order);
    }
    Ok(())
}

fn load_marks(connection: &Connection, agents: &mut Agents) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("SELECT * FROM marks")?;
    let mut rows = statement.query([])?;
    while let Some(r) = rows.next()? {
        let hash = CatalogHash(r.get::<_, Option<i64>>("catalog")?.unwrap_or_default().cast_unsigned());
        let from = r.get::<_, Option<i64>>("from_ts")?.map(Timestamp);
        let mark = match r.get::<_, i64>("kind")? {
            1 => Mark::Catalog { hash, since: from },
            2 => Mark::Downtime {
                from: from.unwrap_or_default(),
                to: Timestamp(r.get::<_, Option<i64>>("to_ts")?.unwrap_or_default()),
                cause: cause(r.get::<_, Option<i64>>("cause")?.unwrap_or_default()),
            },
            _ => Mark::Complete { hash, through: through_of(&r.get::<_, Vec<u8>>("through")?) },
        };
        let epoch = Epoch(r.get::<_, i64>("epoch")?.cast_unsigned());
        let seq = r.get::<_, i64>("seq")?.cast_unsigned();
        let agent = agents.entry(AgentNo(r.get("agent")?)).or_default();
        agent.epochs.entry(epoch).or_default().marks.insert(seq, mark);
    }
    Ok(())
}

fn through_of(blob: &[u8]) -> BTreeMap<GridNo, Slot> {
    let all = list_of(blob);
    all.chunks_exact(2).map(|p| (GridNo(p[0].cast_signed()), Slot(p[1].cast_signed()))).collect()
}

fn load_history(connection: &Connection, agents: &mut Agents) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("SELECT * FROM downtimes ORDER BY agent, place, seq")?;
    let mut rows = statement.query([])?;
    while let Some(r) = rows.next()? {
        let at = Position { place: place(r.get("place")?), seq: r.get::<_, i64>("seq")?.cast_unsigned() };
        let (from, to) = (Timestamp(r.get("from_ts")?), Timestamp(r.get("to_ts")?));
        let downtime = Downtime { from, to, cause: cause(r.get("cause")?) };
        agents.entry(AgentNo(r.get("agent")?)).or_default().downtimes.push((at, downtime));
    }
    let mut statement = connection.prepare("SELECT * FROM losses")?;
    let mut rows = statement.query([])?;
    while let Some(r) = rows.next()? {
        let loss = Loss {
            epoch: Epoch(r.get::<_, i64>("epoch")?.cast_unsigned()),
            first: Seq(r.get::<_, i64>("first_seq")?.cast_unsigned()),
            last: Seq(r.get::<_, i64>("last_seq")?.cast_unsigned()),
            from: Timestamp(r.get("from_ts")?),
            to: Timestamp(r.get("to_ts")?),
            cause: cause(r.get("cause")?),
        };
        agents.entry(AgentNo(r.get("agent")?)).or_default().losses.push(loss);
    }
    let mut statement = connection.prepare("SELECT * FROM corrections")?;
    let mut rows = statement.query([])?;
    while let Some(r) = rows.next()? {
        let correction = ClockCorrection {
            boot: BootId(r.get::<_, i64>("boot")?.cast_unsigned()),
            epoch: Epoch(r.get::<_, i64>("epoch")?.cast_unsigned()),
            first: Seq(r.get::<_, i64>("first_seq")?.cast_unsigned()),
            last: Seq(r.get::<_, i64>("last_seq")?.cast_unsigned()),
            boot_began: Timestamp(r.get("boot_began")?),
        };
        agents.entry(AgentNo(r.get("agent")?)).or_default().corrections.push(correction);
    }
    Ok(())
}

fn load_spans(connection: &Connection) -> rusqlite::Result<Vec<Span>> {
    let sql = "SELECT s.*, g.device, g.interval_ms, g.phase_ms FROM spans s JOIN grids g ON g.id = s.grid
        WHERE s.last_slot IS NULL OR (coalesce(s.first_slot, s.last_slot) <= s.last_slot
            AND s.last_slot > -9223372036854775808 AND coalesce(s.proven_slot < s.last_slot, 1))";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |r| {
        let seq = r.get::<_, i64>("proven_seq")?.cast_unsigned();
        Ok(Span {
            id: r.get("id")?,
            agent: AgentNo(r.get("agent")?),
            device: DeviceNo(r.get("device")?),
            grid: GridNo(r.get("grid")?),
            times: grid(r.get("interval_ms")?, r.get("phase_ms")?),
            first: r.get::<_, Option<i64>>("first_slot")?.map(Slot),
            last: r.get::<_, Option<i64>>("last_slot")?.map(Slot),
            proven: r.get::<_, Option<i64>>("proven_slot")?.map(Slot),
            proven_at: Position { place: place(r.get("proven_place")?), seq },
        })
    })?;
    rows.collect()
}

/// Writes down what changed.
pub(crate) fn save(connection: &Connection, ledger: &Ledger, changes: &Changes) -> rusqlite::Result<()> {
    for &no in &changes.agents {
        if let Some(agent) = ledger.agent(no) {
            save_agent(connection, no, agent)?;
        }
    }
    for &(no, epoch) in &changes.epochs {
        if let Some(state) = ledger.agent(no).and_then(|a| a.epochs.get(&epoch)) {
            save_epoch(connection, no, epoch, state)?;
        }
    }
    for ((no, epoch, seq), mark) in &changes.marks {
        save_mark(connection, (*no, *epoch, *seq), mark.as_ref())?;
    }
    for (no, at, downtime) in &changes.downtimes {
        let sql = "INSERT OR IGNORE INTO downtimes VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        connection.prepare_cached(sql)?.execute(params![
            no.0,
            row_place(at.place),
            at.seq.cast_signed(),
            downtime.from.0,
            downtime.to.0,
            i64::from(downtime.cause.code())
        ])?;
    }
    for (no, loss) in &changes.losses {
        let sql = "INSERT OR REPLACE INTO losses VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        connection.prepare_cached(sql)?.execute(params![
            no.0,
            loss.epoch.0.cast_signed(),
            loss.first.0.cast_signed(),
            loss.last.0.cast_signed(),
            loss.from.0,
            loss.to.0,
            i64::from(loss.cause.code())
        ])?;
    }
    for (no, loss) in &changes.forgotten {
        let sql = "DELETE FROM losses WHERE agent = ?1 AND epoch = ?2 AND first_seq = ?3 AND last_seq = ?4";
        let key = [no.0, loss.epoch.0.cast_signed(), loss.first.0.cast_signed(), loss.last.0.cast_signed()];
        connection.prepare_cached(sql)?.execute(key)?;
    }
    for span in changes.spans.values() {
        save_span(connection, span)?;
    }
    save_forgotten(connection, ledger, changes)
}

/// Takes away what the ledger has forgotten, but for the numbers that it keeps.
fn save_forgotten(connection: &Connection, ledger: &Ledger, changes: &Changes) -> rusqlite::Result<()> {
    for &(no, epoch) in &changes.forgotten_epochs {
        let (key, agent) = ([no.0, epoch.0.cast_signed()], ledger.agent(no));
        if agent.is_none_or(|a| !a.epochs.contains_key(&epoch)) {
            for table in ["epochs", "corrections"] {
                let sql = format!("DELETE FROM {table} WHERE agent = ?1 AND epoch = ?2");
                connection.prepare_cached(&sql)?.execute(key)?;
            }
        }
        if let Some(order) = agent.and_then(|a| a.forgotten.order_of(epoch)) {
            let sql = "INSERT OR REPLACE INTO forgotten_epochs VALUES (?1, ?2, ?3)";
            connection.prepare_cached(sql)?.execute([key[0], key[1], order.cast_signed()])?;
        } else {
            let sql = "DELETE FROM forgotten_epochs WHERE agent = ?1 AND epoch = ?2";
            connection.prepare_cached(sql)?.execute(key)?;
        }
    }
    for (no, at) in &changes.forgotten_downtimes {
        let sql = "DELETE FROM downtimes WHERE agent = ?1 AND place = ?2 AND seq = ?3";
        connection.prepare_cached(sql)?.execute([no.0, row_place(at.place), at.seq.cast_signed()])?;
    }
    for (no, c) in &changes.forgotten_corrections {
        let sql = "DELETE FROM corrections WHERE agent = ?1 AND epoch = ?2 AND first_seq = ?3";
        connection.prepare_cached(sql)?.execute([no.0, c.epoch.0.cast_signed(), c.first.0.cast_signed()])?;
    }
    Ok(())
}

fn save_agent(connection: &Connection, no: AgentNo, agent: &Agent) -> rusqlite::Result<()> {
    let held = list_blob(agent.held.epochs.iter().flat_map(|h| [h.epoch.0, h.first.0, h.next.0]));
    let sql = "UPDATE agents SET catalog = ?2, held = ?3, place = ?4, settled_seq = ?5 WHERE id = ?1";
    connection.prepare_cached(sql)?.execute(params![
        no.0,
        agent.in_force.map(|h| h.0.cast_signed()),
        held,
        row_place(agent.settled.place),
        agent.settled.seq.cast_signed()
    ])?;
    Ok(())
}

fn save_epoch(connection: &Connection, no: AgentNo, epoch: Epoch, e: &EpochState) -> rusqlite::Result<()> {
    let start = e.start.as_ref();
    let previous = start.and_then(|s| s.previous);
    let sql = "INSERT OR REPLACE INTO epochs VALUES
        (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";
    connection.prepare_cached(sql)?.execute(params![
        no.0,
        epoch.0.cast_signed(),
        e.place.map(row_place),
        e.link.map_or(0, |cause| i64::from(cause.code())),
        start.is_some(),
        previous.map(|(p, _)| p.0.cast_signed()),
        previous.map(|(_, end)| end.0.cast_signed()),
        start.map(|s| s.boot.0.cast_signed()),
        start.map(|s| s.boot_clock_ms.cast_signed()),
        start.map(|s| s.at.0),
        start.map(|s| s.clock_set),
        start.map(|s| s.durable).or(e.in_memory.then_some(false)),
        e.end.map(u64::cast_signed),
        e.closed,
        set_blob(&e.committed),
        set_blob(&e.parked),
        lost_blob(&e.lost)
    ])?;
    Ok(())
}

fn save_mark(
    connection: &Connection,
    (no, epoch, seq): (AgentNo, Epoch, u64),
    mark: Option<&Mark>,
) -> rusqlite::Result<()> {
    let key = (no.0, epoch.0.cast_signed(), seq.cast_signed());
    let Some(mark) = mark else {
        let sql = "DELETE FROM marks WHERE agent = ?1 AND epoch = ?2 AND seq = ?3";
        return connection.prepare_cached(sql)?.execute(key).map(drop);
    };
    let (kind, hash, from, to, cause, through) = match mark {
        Mark::Catalog { hash, since } => (1, Some(*hash), *since, None, None, None),
        Mark::Downtime { from, to, cause } => (2, None, Some(*from), Some(*to), Some(*cause), None),
        Mark::Complete { hash, through } => {
            let pairs = through.iter().flat_map(|(g, s)| [g.0.cast_unsigned(), s.0.cast_unsigned()]);
            (3, Some(*hash), None, None, None, Some(list_blob(pairs)))
        }
    };
    let sql = "INSERT OR REPLACE INTO marks VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    connection.prepare_cached(sql)?.execute(params![
        key.0,
        key.1,
        key.2,
        kind,
        hash.map(|h| h.0.cast_signed()),
        from.map(|t| t.0),
        to.map(|t| t.0),
        cause.map(|c| i64::from(c.code())),
        through
    ])?;
    Ok(())
}

fn save_span(connection: &Connection, span: &Span) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO spans VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    connection.prepare_cached(sql)?.execute(params![
        span.id,
        span.grid.0,
        span.agent.0,
        span.first.map(|s| s.0),
        span.last.map(|s| s.0),
        span.proven.map(|s| s.0),
        row_place(span.proven_at.place),
        span.proven_at.seq.cast_signed()
    ])?;
    Ok(())
}

/// Gives an agent the meaning of one of its catalogs.
pub(crate) fn give_schedule(
    ledger: &mut Ledger,
    no: AgentNo,
    hash: CatalogHash,
    due: impl Iterator<Item = crate::ledger::Due>,
) {
    ledger.agent_mut(no).schedules.insert(hash, Arc::new(due.collect()));
}
