//! The collector looks after gaps and jobs and tidies up, at the rhythm of its shell; and what holds whenever it has committed: no gap of
//! a device with a memory is closed before all of it is there.

use gapless_common::id::Commit;
use rusqlite::{Connection, OptionalExtension as _};

use super::center::{Center, Death};
use super::clock::truth;
use super::net::Party;
use super::world::{Event, World};

impl World {
    /// The collector asks for what is missing, and has polled what is stale.
    pub(super) fn keep(&mut self) {
        self.push(self.now_ms + self.plan.keep_ms, Event::Keep);
        let now_ms = self.now_ms;
        let loggers = self.gateways.iter_mut().flat_map(|gateway| &mut gateway.loggers);
        loggers.for_each(|logger| logger.note_now_and_then(now_ms));
        self.lend();
        let told = self.center.keep(now_ms);
        self.check_gaps();
        self.tell_agents(told);
        if self.plan.agreements.is_some() {
            let told = self.center.tidy(now_ms);
            self.tell_agents(told);
        }
    }

    /// No gap of a device with a memory is closed before all that it held is there.
    pub(super) fn check_gaps(&mut self) {
        for what in self.center.closed_early() {
            self.oracle.find("closed on arrival", what);
        }
    }

    /// Sends what agents are told, unless the collector dies before.
    pub(super) fn tell_agents(&mut self, told: Vec<(String, Vec<u8>)>) {
        if !told.is_empty() && self.death.take_if(|death| *death == Death::BeforeAnswer).is_some() {
            return self.kill_center();
        }
        for (topic, payload) in told {
            self.check_command(&payload);
            let message = (topic, payload, false);
            let sent = self.net.publish(Party::Center, self.center.session, message, self.now_ms);
            self.send(sent);
        }
    }
}

impl Center {
    /// Gives what agents are told: topic and bytes.
    fn keep(&mut self, at_ms: u64) -> Vec<(String, Vec<u8>)> {
        let now = self.now(at_ms);
        let Some(committer) = self.committer.as_mut() else { return Vec::new() };
        let (asked, polled) = (committer.look_after_gaps(now), committer.look_after_jobs(now));
        let told = [asked, polled].into_iter().flat_map(|told| self.unless_full(told)).collect();
        self.published(told)
    }

    /// The same, of what it tidies away.
    fn tidy(&mut self, at_ms: u64) -> Vec<(String, Vec<u8>)> {
        let now = self.now(at_ms);
        let Some(tidied) = self.committer.as_mut().map(|committer| committer.housekeep(now)) else {
            return Vec::new();
        };
        let told = self.unless_full(tidied);
        self.published(told)
    }

    fn closed_early(&mut self) -> Vec<String> {
        let Some(committer) = self.committer.as_ref() else { return Vec::new() };
        let head = committer.head().commit;
        // A database that was put back counts its commits anew.
        let since = std::mem::replace(&mut self.looked_at, head).min(head);
        closed_early(committer.connection(), since).expect("the database reads")
    }

    /// A gap that is being asked for, or is to be asked for by now. What a clock ahead has missed of slots that are still to
    /// come waits for them.
    pub(super) fn asks_for(&self, at_ms: u64) -> Option<String> {
        let committer = self.committer.as_ref()?;
        let sql = "SELECT d.name || ', gap ' || p.id || ' in state ' || p.state || ', due at ' || p.next_at FROM gaps p JOIN grids g ON g.id = p.grid JOIN devices d ON d.id = g.device
            WHERE p.state = 3 OR (p.state IN (1, 4) AND max(p.next_at, p.to_ts) <= ?1 AND d.attributes ->> 'history' IS NOT NULL) LIMIT 1";
        let mut statement = committer.connection().prepare_cached(sql).expect("the database reads");
        statement.query_row([truth(at_ms).0], |r| r.get(0)).optional().expect("the database reads")
    }
}

/// Gaps that were closed by a commit after `since`, and of which a slot has no reading.
fn closed_early(database: &Connection, since: Commit) -> rusqlite::Result<Vec<String>> {
    // Of each gap how many slots it holds, and of how many there is a reading.
    let sql = "SELECT d.name, p.first_slot, p.last_slot,
            (SELECT count(DISTINCT (r.ts - g.phase_ms) / g.interval_ms) FROM series x JOIN readings r ON r.series = x.id
             WHERE x.device = d.id AND r.ts >= p.from_ts AND r.ts < p.to_ts)
        FROM gaps p JOIN grids g ON g.id = p.grid JOIN devices d ON d.id = g.device
        WHERE p.changed_commit > ?1 AND p.state = 2 AND d.attributes ->> 'history' IS NOT NULL";
    let mut statement = database.prepare_cached(sql)?;
    let mut rows = statement.query([since.0.cast_signed()])?;
    let mut early = Vec::new();
    while let Some(row) = rows.next()? {
        let (name, first, last, there): (String, i64, i64, i64) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        if there != last - first + 1 {
            early.push(format!("{name}: gap {first}..={last} is closed, and {there} of its slots are there"));
        }
    }
    Ok(early)
}
