//! What the writer keeps in memory between transactions, and how it comes from the database. Writes nothing: it must
//! load on a full disk too.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::id::CatalogHash;
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;
use gapless_common::wire;
use rusqlite::Connection;

use crate::jobs::queue::Queue;
use crate::ledger::{AgentNo, DeviceNo, Ledger};
use crate::store::descriptions::Descriptions;
use crate::store::registry::{self, Registry};
use crate::store::{jobs, parked, state};

/// True of the last commit; after a failed transaction it is thrown away and loaded again.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) ledger: Ledger,
    pub(super) registry: Registry,
    /// What each device was when.
    pub(super) descriptions: Descriptions,
    /// What each agent's parked frames take, see [`parked::ROW_BYTES`].
    pub(super) parked: BTreeMap<AgentNo, i64>,
    /// What is to be refreshed.
    pub(super) jobs: Queue,
    /// Agents that said how their gateway is, and have not been judged by it yet.
    pub(super) spoke: BTreeSet<AgentNo>,
    /// Devices whose description has changed, and under which catalog of which agent a reading confirms it.
    pub(super) unconfirmed: BTreeMap<DeviceNo, (AgentNo, CatalogHash)>,
    /// Catalogs that are here, and for which frames may still wait.
    pub(super) replays: BTreeSet<(AgentNo, CatalogHash)>,
}

impl Memory {
    /// The series that a device has to have at that time, and until when these are the same.
    pub(super) fn described(
        &self,
        (device, agent): (DeviceNo, AgentNo),
        at: Timestamp,
    ) -> (Vec<i64>, Option<Timestamp>) {
        if let Some((series, until)) = self.descriptions.at(device, at) {
            return (series.to_vec(), until);
        }
        let in_force = self.ledger.agent(agent).and_then(|agent| agent.in_force);
        let bound = in_force.and_then(|hash| self.registry.bound(agent, hash));
        let today = bound.iter().flat_map(|bound| bound.iter()).find(|bound| bound.due.device == device);
        (today.map(|bound| bound.series.clone()).unwrap_or_default(), None)
    }
}

/// Loads what the database says, in one read transaction.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<Memory> {
    connection.execute_batch("BEGIN")?;
    let memory = load_all(connection);
    connection.execute_batch("ROLLBACK")?;
    memory
}

fn load_all(connection: &Connection) -> rusqlite::Result<Memory> {
    let mut memory = Memory {
        ledger: state::load(connection)?,
        registry: Registry::default(),
        descriptions: Descriptions::load(connection)?,
        parked: parked::held(connection)?,
        jobs: jobs::load(connection)?,
        spoke: BTreeSet::new(),
        unconfirmed: registry::unconfirmed(connection)?,
        replays: parked::waiting_for_known(connection)?,
    };
    let sql = "SELECT a.id, s.id, s.name, a.name, c.hash, c.bytes FROM agents a JOIN sites s ON s.id = a.site
        LEFT JOIN catalogs c ON c.agent = a.id ORDER BY a.id";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(r) = rows.next()? {
        let name = (r.get::<_, String>(2)?.parse(), r.get::<_, String>(3)?.parse());
        let (Ok(site), Ok(agent)) = name else { continue };
        let no = AgentNo(r.get(0)?);
        memory.registry.know(no, r.get(1)?, AgentPath { site, agent });
        let (Some(hash), Some(bytes)) = (r.get::<_, Option<i64>>(4)?, r.get::<_, Option<Vec<u8>>>(5)?) else {
            continue;
        };
        let hash = CatalogHash(hash.cast_unsigned());
        if let Ok((_, catalog)) = wire::decode_catalog(&bytes) {
            let bound = memory.registry.recall(connection, no, hash, &catalog)?;
            state::give_schedule(&mut memory.ledger, no, hash, bound.iter().map(|b| b.due));
        }
    }
    Ok(memory)
}
