//! Who people are to be told of, found apart from the collector's rules: a device that is stale, an agent that is gone and a broker
//! that is away for long enough, with nothing between that would have its time begin anew, have an alert; and in the end none
//! stands for what is well.

use std::collections::{BTreeMap, BTreeSet};

use gapless_collector::alerts::Kind;
use gapless_collector::alerts::limits::Limits;
use rusqlite::{Connection, Row};

use super::facts::Device;
use super::net::Party;
use super::plan::Mischief;
use super::world::World;

/// Who is back may be so long with what it has to say first, in ms.
const RETURN_MS: u64 = 60_000;
/// A sweep comes to each device and agent once in so many looks; it is seen this often who is to be told of.
const SHARDS: u64 = 60;
const SEEN_EVERY: u64 = 9;
/// A clock seems off by so much more than it is, in ms, as its word is under way.
const ON_ITS_WAY_MS: i64 = 1_000;
/// Kinds that are over once all is well.
const PASSING: [Kind; 7] = [
    Kind::Stale,
    Kind::Silent,
    Kind::Outbox,
    Kind::Clock,
    Kind::Implausible,
    Kind::Broker,
    Kind::Unreachable,
];

/// Of whom somebody is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Late {
    /// By its number in the database.
    Device(i64),
    /// By its number in the run.
    Agent(usize),
    Broker,
}

/// What its time is counted from: the collector's start and session, the looks that its disk did not let it make, whether all is
/// good, and what it last did itself.
type AsOf = (u64, u64, u64, bool, (u64, Option<i64>));

/// Whoever is late, as of what, and since when it is so, in ms of the run.
pub(super) type Overdue = BTreeMap<Late, (AsOf, u64)>;

/// An agent that is owed readings, as the collector knows it.
struct Agent {
    path: String,
    is_connected: bool,
    is_told: bool,
}

const AGENTS: &str = "SELECT s.name || '/' || a.name, a.connected = 1,
        EXISTS (SELECT 1 FROM alerts l WHERE l.agent = a.id AND l.kind = 2 AND l.resolved_at IS NULL)
    FROM agents a JOIN sites s ON s.id = a.site
    WHERE EXISTS (SELECT 1 FROM spans p WHERE p.agent = a.id AND p.last_slot IS NULL AND p.first_slot IS NOT NULL)";

fn agents(connection: &Connection) -> rusqlite::Result<Vec<Agent>> {
    let row = |r: &Row<'_>| Ok(Agent { path: r.get(0)?, is_connected: r.get(1)?, is_told: r.get(2)? });
    connection.prepare_cached(AGENTS)?.query_map([], row)?.collect()
}

fn is_told_of_broker(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM alerts WHERE site IS NULL AND kind = 11 AND resolved_at IS NULL)";
    connection.prepare_cached(sql)?.query_row([], |r| r.get(0))
}

impl World {
    /// Now and then it is seen whether all are told of that are to be.
    pub(super) fn see_overdue(&mut self) {
        self.people.looks += 1;
        if self.people.looks.is_multiple_of(SEEN_EVERY) {
            self.check_overdue();
        }
    }

    fn check_overdue(&mut self) {
        let limits = Limits::default();
        let told_ms = limits.silent_ms.max(limits.stale_ms).unsigned_abs();
        let patience_ms = told_ms + RETURN_MS + (SHARDS + SEEN_EVERY) * self.plan.alert_ms;
        let Some(late) = self.late().expect("the database reads") else { return };
        let before = std::mem::take(&mut self.oracle.alerted.overdue);
        for (who, as_of) in late {
            let known = before.get(&who).filter(|(before, _)| *before == as_of);
            let since_ms = known.map_or(self.now_ms, |(_, since_ms)| *since_ms);
            if self.now_ms - since_ms > patience_ms {
                let what = format!("{who:?} is late since {since_ms} ms of the run, and nobody was told");
                self.oracle.find("alerts in time", what);
            }
            self.oracle.alerted.overdue.insert(who, (as_of, since_ms));
        }
    }

    /// Those who are late, and of whom nobody is told; `None` where that cannot be seen now.
    fn late(&self) -> rusqlite::Result<Option<Vec<(Late, AsOf)>>> {
        let Some(committer) = self.center.committer.as_ref().filter(|_| !self.center.is_full) else {
            return Ok(None);
        };
        let (connection, center) = (committer.connection(), &self.center);
        let as_of = |session, did| (center.starts, session, center.looks_refused, self.is_good, did);
        if !center.hears {
            let is_told = is_told_of_broker(connection)?;
            return Ok(Some(
                (!is_told).then_some((Late::Broker, as_of(0, (center.heard_ms, None)))).into_iter().collect(),
            ));
        }
        let now = center.now(self.now_ms);
        let is_over = |device: &Device| device.over_ms(now).is_some_and(|ms| ms >= 0);
        let is_late = |device: &Device| device.is_connected && is_over(device) && !device.is_told;
        let mut late: Vec<_> = Vec::new();
        for device in Device::all(connection, now)?.into_iter().filter(is_late) {
            let did = (device.born_at.unsigned_abs(), device.last_at);
            late.push((Late::Device(device.no), as_of(center.session, did)));
        }
        // The word that it has gone may have been lost.
        let is_unsure = |agent: &Agent| agent.is_connected && self.plan.has(Mischief::Losses);
        let all = agents(connection)?;
        let untold: BTreeSet<&str> =
            all.iter().filter(|agent| !agent.is_told && !is_unsure(agent)).map(|a| a.path.as_str()).collect();
        for (no, gateway) in self.gateways.iter().enumerate() {
            let party = Party::Gateway(no);
            if untold.contains(gateway.path.to_string().as_str()) && !self.net.is_connected(party) {
                late.push((Late::Agent(no), as_of(center.session, (self.net.connected(party), None))));
            }
        }
        Ok(Some(late))
    }

    /// The alerts that stand though they are over once all is well.
    pub(super) fn worries(&self) -> Vec<String> {
        let Some(committer) = self.center.committer.as_ref() else { return Vec::new() };
        // Of a gateway's clock it hears once a day where that was not stepped: where its own was set right, not before.
        let is_heard = |kind: &&Kind| **kind != Kind::Clock || !self.plan.has(Mischief::CenterClock);
        let codes: Vec<String> =
            PASSING.iter().filter(is_heard).map(|kind| kind.code().to_string()).collect();
        let sql = format!(
            "SELECT l.kind, coalesce(s.name || '/' || a.name, d.name, 'the collector'), l.detail FROM alerts l
             LEFT JOIN devices d ON d.id = l.device LEFT JOIN agents a ON a.id = l.agent LEFT JOIN sites s ON s.id = a.site
             WHERE l.resolved_at IS NULL AND (l.kind IN ({})
                OR l.kind = {} AND NOT EXISTS (SELECT 1 FROM gaps p JOIN grids g ON g.id = p.grid
                    WHERE g.device = l.device AND p.state <> 2 AND p.last_slot - p.first_slot + 1 > {})
                OR l.kind = {} AND EXISTS (SELECT 1 FROM readings r JOIN series x ON x.id = r.series
                    WHERE x.device = l.device AND r.quality < 65536))",
            codes.join(", "),
            Kind::Gap.code(),
            // Half of the limit keeps it from coming and going.
            Limits::default().gap_slots / 2,
            Kind::NoData.code(),
        );
        let mut statement = committer.connection().prepare_cached(&sql).expect("the database reads");
        let row = |r: &Row<'_>| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?, r.get::<_, String>(2)?));
        let rows = statement.query_map([], row).expect("the database reads");
        let standing = rows.collect::<Result<Vec<_>, _>>().expect("the database reads");
        let is_so = |kind, who: &str| kind == Kind::Clock.code() && self.is_off(who);
        let worries = standing.into_iter().filter(|(kind, who, _)| !is_so(*kind, who));
        worries.map(|(_, who, detail)| format!("{who}: {detail}")).collect()
    }

    /// Whether the clock of an agent's gateway is off by so much that its alert stands: one that drifts is set by nobody.
    fn is_off(&self, path: &str) -> bool {
        let mut gateways = self.gateways.iter().filter(|gateway| gateway.path.to_string() == path);
        gateways.any(|gateway| {
            let off_ms = gateway.now(self.now_ms).wall.since_ms(self.center.now(self.now_ms));
            off_ms.saturating_abs() >= Limits::default().clock_ms / 2 - ON_ITS_WAY_MS
        })
    }
}
