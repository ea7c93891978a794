//! The facts that alerts are about, found apart from the collector's rules: each alert that is raised has its own, a device that is
//! stale for long enough is told of, and in the end no alert stands for what is well.

use gapless_collector::alerts::Kind;
use gapless_collector::alerts::limits::Limits;
use gapless_collector::freshness::{Allowances, Subject};
use gapless_collector::store::AHEAD_MAX_MS;
use gapless_common::quality::Quality;
use gapless_common::time::Timestamp;
use rusqlite::{Connection, Row};

use super::gateway::Gateway;
use super::plan::Mischief;
use super::sometimes::Rare;
use super::world::World;

/// An agent that left so lately, in ms, counts as there.
const LATELY_MS: i64 = 60_000;
/// Who is back may be so long with what it has to say first, in ms.
const RETURN_MS: i64 = 60_000;
/// A sweep comes to each device once in so many looks; it is seen this often who is to be told of.
const SHARDS: u64 = 60;
const SEEN_EVERY: u64 = 9;
/// Kinds that are over once all is well.
const PASSING: [Kind; 5] = [Kind::Stale, Kind::Silent, Kind::Outbox, Kind::Clock, Kind::Broker];

/// An alert that was raised.
#[derive(Debug)]
struct Raised {
    kind: Kind,
    /// Its words.
    #[expect(dead_code, reason = "a finding shows it")]
    detail: String,
    device: Option<String>,
    /// `site/agent`.
    agent: Option<String>,
}

/// A device that is owed readings, as the collector knows it.
#[derive(Debug)]
struct Device {
    no: i64,
    name: String,
    is_connected: bool,
    left_at: Option<i64>,
    born_at: i64,
    last_at: Option<i64>,
    allowed_ms: i64,
    is_told: bool,
}

/// Since when a device is stale with nothing between that would have its time begin anew: the collector's start and session, its
/// agent's birth, its latest reading.
pub(super) type Overdue = ((u64, u64, i64, Option<i64>, bool), Timestamp);

const DEVICES: &str = "SELECT max(p.id), d.id AS no, d.name, s.name AS site, d.attributes ->> 'class' AS class,
        a.connected = 1 AS is_connected, a.left_at, coalesce(a.last_birth_at, 0) AS born_at, g.interval_ms, a.flush_ms,
        (SELECT max(ts) FROM (SELECT (SELECT max(ts) FROM readings r WHERE r.series = x.id AND r.ts <= ?1) AS ts
            FROM series x WHERE x.device = d.id)) AS last_at,
        EXISTS (SELECT 1 FROM alerts l WHERE l.device = d.id AND l.kind IN (1, 2) AND l.resolved_at IS NULL) AS is_told
    FROM spans p JOIN grids g ON g.id = p.grid JOIN devices d ON d.id = g.device JOIN sites s ON s.id = d.site
    JOIN agents a ON a.id = p.agent
    WHERE p.last_slot IS NULL AND p.first_slot IS NOT NULL AND d.stopped IS NULL GROUP BY d.id";

impl Device {
    fn of(r: &Row<'_>) -> rusqlite::Result<Self> {
        let (site, name): (String, String) = (r.get("site")?, r.get("name")?);
        let class: Option<String> = r.get("class")?;
        let flush_ms = r.get::<_, Option<i64>>("flush_ms")?.unwrap_or_default();
        let class = class.as_deref();
        let interval_ms = r.get("interval_ms")?;
        let subject = Subject { site: &site, device: &name, class, interval_ms, flush_ms };
        let allowed_ms = Allowances::default().of(&subject);
        Ok(Self {
            no: r.get("no")?,
            is_connected: r.get("is_connected")?,
            left_at: r.get("left_at")?,
            born_at: r.get("born_at")?,
            last_at: r.get("last_at")?,
            is_told: r.get("is_told")?,
            name,
            allowed_ms,
        })
    }

    fn all(connection: &Connection, now: Timestamp) -> rusqlite::Result<Vec<Self>> {
        let mut statement = connection.prepare_cached(DEVICES)?;
        statement.query_map([now.0 + AHEAD_MAX_MS], Self::of)?.collect()
    }

    /// For how long it has been older than allowed.
    fn over_ms(&self, now: Timestamp) -> Option<i64> {
        Some(now.0 - self.last_at? - self.allowed_ms)
    }
}

impl World {
    /// Each alert that was raised since the one that was `known` has its fact, and who is to be told of is.
    pub(super) fn check_raised(&mut self, known: i64) {
        for raised in self.raised(known).expect("the database reads") {
            tracing::info!(at_ms = self.now_ms, ?raised, "raised");
            match raised.kind {
                Kind::Silent if raised.agent.is_some() => self.sometimes.reach(Rare::AgentGone),
                Kind::Broker => self.sometimes.reach(Rare::BrokerGone),
                _ => {}
            }
            if let Some(why) = self.without_fact(&raised).expect("the database reads") {
                self.oracle.find("alerts have their fact", format!("{raised:?}: {why}"));
            }
        }
        self.people.looks += 1;
        if self.people.looks.is_multiple_of(SEEN_EVERY) {
            self.check_overdue();
        }
    }

    fn raised(&self, known: i64) -> rusqlite::Result<Vec<Raised>> {
        let Some(committer) = self.center.committer.as_ref() else { return Ok(Vec::new()) };
        let sql = "SELECT l.kind, l.detail, d.name, s.name || '/' || a.name FROM alerts l
            LEFT JOIN sites s ON s.id = l.site LEFT JOIN devices d ON d.id = l.device
            LEFT JOIN agents a ON a.id = l.agent WHERE l.id > ?1";
        let mut statement = committer.connection().prepare_cached(sql)?;
        let row = |r: &Row<'_>| {
            let kind = Kind::of_code(r.get(0)?).expect("the collector knows its kinds");
            Ok(Raised { kind, detail: r.get(1)?, device: r.get(2)?, agent: r.get(3)? })
        };
        statement.query_map([known], row)?.collect()
    }

    /// Why an alert has no fact, where that is so.
    fn without_fact(&self, raised: &Raised) -> rusqlite::Result<Option<&'static str>> {
        let Some(committer) = self.center.committer.as_ref() else { return Ok(None) };
        let (connection, now) = (committer.connection(), self.center.now(self.now_ms));
        let is_true = match (raised.kind, &raised.device, &raised.agent) {
            (Kind::Stale | Kind::Silent, Some(device), None) => {
                let devices = Device::all(connection, now)?;
                devices.iter().any(|known| known.name == *device && is_late(known, now))
            }
            (Kind::Gap, Some(device), None) => {
                let sql =
                    "SELECT max(p.last_slot - p.first_slot + 1) FROM gaps p JOIN grids g ON g.id = p.grid
                    JOIN devices d ON d.id = g.device WHERE d.name = ?1 AND p.state <> 2";
                let largest: Option<i64> = connection.query_row(sql, [device], |r| r.get(0))?;
                largest.is_some_and(|slots| slots > Limits::default().gap_slots)
            }
            (Kind::NoData, Some(device), None) => {
                let sql = "SELECT NOT EXISTS (SELECT 1 FROM readings r JOIN series x ON x.id = r.series
                    JOIN devices d ON d.id = x.device WHERE d.name = ?1)";
                connection.query_row(sql, [device], |r| r.get(0))?
            }
            (Kind::Implausible, Some(device), None) => self.was_out_of_range(device),
            (Kind::Silent, None, Some(agent)) => self.gateway_of(agent).is_some_and(|no| self.is_gone(no)),
            (Kind::Clock, None, Some(agent)) => self.gateway_of(agent).is_some_and(|no| self.may_be_off(no)),
            (Kind::Outbox, None, Some(_)) => true,
            (Kind::Broker, None, None) => {
                let away_ms = self.now_ms - self.center.heard_ms;
                away_ms >= Limits::default().silent_ms.cast_unsigned() || self.is_center_set()
            }
            _ => return Ok(Some("nothing here can be so")),
        };
        Ok((!is_true).then_some("it is not so"))
    }

    fn gateway_of(&self, path: &str) -> Option<usize> {
        self.gateways.iter().position(|gateway: &Gateway| gateway.path.to_string() == path)
    }

    /// Whether an agent was last born so long ago that it may be silent by now.
    fn is_gone(&self, no: usize) -> bool {
        let born_ms = self.oracle.alerted.born_ms.get(&no).copied().unwrap_or_default();
        self.now_ms - born_ms >= Limits::default().silent_ms.cast_unsigned() || self.is_center_set()
    }

    /// Whether the collector's clock was set in the midst of the run.
    fn is_center_set(&self) -> bool {
        self.is_good && self.plan.has(Mischief::CenterClock)
    }

    /// Whether an agent's clock may be off by more than a minute from the collector's.
    fn may_be_off(&self, no: usize) -> bool {
        self.oracle.histories[no].has_odd_clock
            || self.plan.has(Mischief::CenterClock)
            || self.plan.has(Mischief::Drift) && self.now_ms > 86_400_000
    }

    fn was_out_of_range(&self, device: &str) -> bool {
        self.oracle.devices.iter().zip(&self.oracle.histories).any(|(devices, history)| {
            let of = |at: u16| devices.get(usize::from(at)).is_some_and(|known| known.name == device);
            let mut told = history.valueless.iter();
            told.any(|((index, ..), (_, quality))| of(index.0) && *quality == Quality::BadOutOfRange)
        })
    }

    /// A device that is stale for long enough, while it could be heard, is told of.
    fn check_overdue(&mut self) {
        let now = self.center.now(self.now_ms);
        let (start, session, is_good) = (self.center.starts, self.center.session, self.is_good);
        let listens = self.center.hears && !self.center.is_full;
        let devices = match self.center.committer.as_ref().filter(|_| listens) {
            Some(committer) => Device::all(committer.connection(), now).expect("the database reads"),
            None => Vec::new(),
        };
        let before = std::mem::take(&mut self.oracle.alerted.overdue);
        let patience_ms = Limits::default().silent_ms.max(Limits::default().stale_ms)
            + RETURN_MS
            + i64::try_from((SHARDS + SEEN_EVERY) * self.plan.alert_ms).expect("hours");
        for device in devices {
            let is_over = device.over_ms(now).is_some_and(|ms| ms >= 0);
            if !device.is_connected || !is_over || device.is_told {
                continue;
            }
            let undisturbed = (start, session, device.born_at, device.last_at, is_good);
            let since = before.get(&device.no).filter(|(as_of, _)| *as_of == undisturbed);
            let since = since.map_or(now, |(_, since)| *since);
            if now.since_ms(since) > patience_ms {
                let what = format!("{device:?} has been stale since {since}, and nobody was told");
                self.oracle.find("alerts in time", what);
            }
            self.oracle.alerted.overdue.insert(device.no, (undisturbed, since));
        }
    }

    /// The alerts that stand though they are over once all is well.
    pub(super) fn worries(&self) -> Vec<String> {
        let Some(committer) = self.center.committer.as_ref() else { return Vec::new() };
        // Of a gateway's clock it hears once a day where that was not stepped: where its own was set right, not before.
        let is_heard = |kind: &&Kind| **kind != Kind::Clock || !self.plan.has(Mischief::CenterClock);
        let codes: Vec<String> =
            PASSING.iter().filter(is_heard).map(|kind| kind.code().to_string()).collect();
        let sql = format!(
            "SELECT l.id || ': ' || l.detail || ' (' || coalesce(d.name, a.name, 'the collector') || ')' FROM alerts l
             LEFT JOIN devices d ON d.id = l.device LEFT JOIN agents a ON a.id = l.agent
             WHERE l.resolved_at IS NULL AND l.kind IN ({})",
            codes.join(", ")
        );
        let mut statement = committer.connection().prepare_cached(&sql).expect("the database reads");
        let rows = statement.query_map([], |r| r.get(0)).expect("the database reads");
        rows.collect::<Result<_, _>>().expect("the database reads")
    }
}

/// Whether a device is so late that people are told: its agent is there, and what is due of it is not.
fn is_late(device: &Device, now: Timestamp) -> bool {
    let limits = Limits::default();
    let is_there = device.is_connected || device.left_at.is_some_and(|at| now.0 - at < LATELY_MS);
    is_there && device.over_ms(now).is_some_and(|ms| ms >= limits.stale_ms.min(limits.silent_ms))
}
