//! The facts that alerts are about, found apart from the collector's rules: each alert that is raised has its own. Whether all
//! that people are to be told of is raised is asked in `overdue`.

use std::collections::BTreeMap;

use gapless_collector::alerts::Kind;
use gapless_collector::alerts::limits::Limits;
use gapless_collector::freshness::{Allowances, Subject};
use gapless_collector::store::AHEAD_MAX_MS;
use gapless_common::id::ConnectionId;
use gapless_common::message::AgentState;
use gapless_common::quality::Quality;
use gapless_common::time::Timestamp;
use gapless_common::wire::{self, Message};
use rusqlite::{Connection, Row};

use super::gateway::Gateway;
use super::net::Party;
use super::plan::Mischief;
use super::sometimes::Rare;
use super::world::World;

/// An agent that left so lately, in ms, counts as there.
const LATELY_MS: i64 = 60_000;
/// What a gateway says of its clock counts for so long, in ms: it says so once a day, and that may be late.
const CLOCK_SAID_MS: u64 = 26 * 3_600_000;
/// A clock seems off by so much more than it is, in ms, where nothing is late on its way: as little as that is, and what a clock can
/// have drifted within a day (see `alerts::clock`).
const CLOCK_LATE_MS: i64 = 48_000;

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
pub(super) struct Device {
    pub(super) no: i64,
    name: String,
    pub(super) is_connected: bool,
    left_at: Option<i64>,
    pub(super) born_at: i64,
    pub(super) last_at: Option<i64>,
    allowed_ms: i64,
    pub(super) is_told: bool,
}

/// What another device lent (see `lent`) makes none fresh.
const DEVICES: &str = "SELECT max(p.id), d.id AS no, d.name, s.name AS site, d.attributes ->> 'class' AS class,
        a.connected = 1 AS is_connected, a.left_at, coalesce(a.last_birth_at, 0) AS born_at, g.interval_ms, a.flush_ms,
        (SELECT max(ts) FROM (SELECT (SELECT max(ts) FROM readings r WHERE r.series = x.id AND r.ts <= ?1 AND r.quality < 65536) AS ts
            FROM series x WHERE x.device = d.id)) AS last_at,
        EXISTS (SELECT 1 FROM alerts l WHERE l.device = d.id AND l.kind IN (1, 2, 12) AND l.resolved_at IS NULL) AS is_told
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

    pub(super) fn all(connection: &Connection, now: Timestamp) -> rusqlite::Result<Vec<Self>> {
        let mut statement = connection.prepare_cached(DEVICES)?;
        statement.query_map([now.0 + AHEAD_MAX_MS], Self::of)?.collect()
    }

    /// For how long it has been older than allowed.
    pub(super) fn over_ms(&self, now: Timestamp) -> Option<i64> {
        Some(now.0 - self.last_at? - self.allowed_ms)
    }
}

impl World {
    /// Each alert that was raised since the one that was `known` has its fact.
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
                    JOIN devices d ON d.id = x.device WHERE d.name = ?1 AND r.quality < 65536)";
                connection.query_row(sql, [device], |r| r.get(0))?
            }
            (Kind::Implausible, Some(device), None) => self.was_out_of_range(device),
            (Kind::Silent, None, Some(agent)) => match self.gateway_of(agent) {
                Some(no) => self.is_gone(no),
                None => self.source_born_ms(agent).is_some_and(|born_ms| self.is_long_ago(born_ms)),
            },
            (Kind::Unauthorised, Some(device), None) => self.was_answered(device, 403),
            (Kind::Unreachable, Some(device), None) => self.was_answered(device, 404),
            (Kind::Clock, None, Some(agent)) => self.gateway_of(agent).is_some_and(|no| self.may_be_off(no)),
            (Kind::Outbox, None, Some(agent)) => self.gateway_of(agent).is_some_and(|no| self.was_full(no)),
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

    /// Whether an agent was there, as far as the collector could know, so long ago that it may be silent by now.
    fn is_gone(&self, no: usize) -> bool {
        let there_ms = self.oracle.alerted.there_ms.get(&no).copied().unwrap_or_default();
        self.is_long_ago(there_ms)
    }

    fn is_long_ago(&self, at_ms: u64) -> bool {
        self.now_ms - at_ms >= Limits::default().silent_ms.cast_unsigned() || self.is_center_set()
    }

    /// Whether the collector's clock was set in the midst of the run.
    fn is_center_set(&self) -> bool {
        self.is_good && self.plan.has(Mischief::CenterClock)
    }

    /// Whether an agent has told its clock while that was off, or not set; a database that was put back may have it from before.
    fn may_be_off(&self, no: usize) -> bool {
        let said_ms = self.oracle.alerted.odd_clock_ms.get(&no);
        said_ms
            .is_some_and(|at_ms| self.now_ms - at_ms <= CLOCK_SAID_MS || !self.oracle.rolled_back.is_empty())
    }

    /// Whether an agent has last told that its outbox is as full as people are told of; or ever, where the database was put back.
    fn was_full(&self, no: usize) -> bool {
        let Some((last, most)) = self.oracle.alerted.filled.get(&no) else { return false };
        let percent = if self.oracle.rolled_back.is_empty() { last } else { most };
        *percent >= Limits::default().outbox_percent.cast_unsigned()
    }

    /// Notes which agents are there in truth, and known to the collector as such.
    pub(super) fn note_who_is_there(&mut self) {
        let Some(committer) = self.center.committer.as_ref().filter(|_| self.center.hears) else { return };
        let connected = connected(committer.connection()).expect("the database reads");
        for (no, gateway) in self.gateways.iter().enumerate() {
            let is_there = gateway.connection.is_some_and(|connection| {
                connected.get(&gateway.path.to_string()) == Some(&connection)
                    && self.net.has_session(Party::Gateway(no), u64::from(connection.0))
            });
            if is_there {
                self.oracle.alerted.there_ms.insert(no, self.now_ms);
            }
        }
    }

    /// An agent tells how its gateway is: whether its clock may seem off, in truth or because that is late on its way.
    pub(super) fn note_state_sent(&mut self, no: usize, payload: &[u8]) {
        let told = wire::decode(payload);
        if !matches!(told, Ok(Message::State(AgentState::Health { .. } | AgentState::Birth { .. }))) {
            return;
        }
        let now = self.gateways[no].now(self.now_ms);
        let off_ms = now.wall.since_ms(self.center.now(self.now_ms)).saturating_abs();
        let is_late = [Mischief::Delays, Mischief::SlowLink].into_iter().any(|kind| self.plan.has(kind));
        if !now.wall_set || is_late || off_ms >= Limits::default().clock_ms - CLOCK_LATE_MS {
            self.oracle.alerted.odd_clock_ms.insert(no, self.now_ms);
        }
    }

    /// The collector has taken what an agent says of itself: of a connection that it was not born on that counts for nothing.
    pub(super) fn note_state(&mut self, no: usize, state: &AgentState) {
        let (AgentState::Health { connection, outbox, .. }, Some(committer)) =
            (state, self.center.committer.as_ref())
        else {
            return;
        };
        let connected = connected(committer.connection()).expect("the database reads");
        if connected.get(&self.gateways[no].path.to_string()) == Some(connection) {
            let filled = &mut self.oracle.alerted.filled;
            let most = filled.get(&no).map_or(0, |(_, most)| *most);
            filled.insert(no, (outbox.percent(), most.max(outbox.percent())));
        }
    }

    fn was_out_of_range(&self, device: &str) -> bool {
        self.oracle.devices.iter().zip(&self.oracle.histories).any(|(devices, history)| {
            let of = |at: u16| devices.get(usize::from(at)).is_some_and(|known| known.name == device);
            let mut told = history.valueless.iter();
            told.any(|((index, ..), (_, quality))| of(index.0) && *quality == Quality::BadOutOfRange)
        })
    }
}

/// The agents that the collector takes for connected, by `site/agent`, and their connections.
fn connected(connection: &Connection) -> rusqlite::Result<BTreeMap<String, ConnectionId>> {
    let sql = "SELECT s.name || '/' || a.name, a.connection FROM agents a JOIN sites s ON s.id = a.site WHERE a.connected = 1";
    let row = |r: &Row<'_>| Ok((r.get(0)?, ConnectionId(r.get(1)?)));
    connection.prepare_cached(sql)?.query_map([], row)?.collect()
}

/// Whether a device is so late that people are told: its agent is there, and what is due of it is not.
fn is_late(device: &Device, now: Timestamp) -> bool {
    let limits = Limits::default();
    let is_there = device.is_connected || device.left_at.is_some_and(|at| now.0 - at < LATELY_MS);
    is_there && device.over_ms(now).is_some_and(|ms| ms >= limits.stale_ms.min(limits.silent_ms))
}
