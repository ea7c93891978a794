//! When the agent tells how its gateway is: its outbox and its clocks. Pure: facts and time come in, whether it is told goes
//! out. Judges nothing: from where on people are told is the collector's to say.
//!
//! Contract: call [`Health::is_due`] with what holds now while a collector is there, and [`Health::told`] once it was
//! published; [`Health::look_at_ms`] says when to look again.
//!
//! Bytes cost money on many a link, and such a message takes about a hundred with all headers. So it is told once on each
//! connection and again when something has moved by a step, no more often than frames go. Once more some time later, since
//! the collector takes the clock for behind only where a second message says the same (the first one may have been late);
//! and once a day, since a clock drifts without a step.
//!
//! What is told of the clock is what it shows, beside the boot clock, and not what the kernel says of it (`adjtimex(2)`): that
//! knows how far the clock is off only while something sets it, and says no more than *unsynchronised* from 16 s on. A gateway
//! whose network lets no NTP through is the very one that people must be told of, and only somebody with a good clock can.

use gapless_common::id::ConnectionId;
use gapless_common::message::{ClockReading, OutboxFill};

use crate::outbox::Stats;

/// How often it is looked at, in ms.
const LOOK_MS: u64 = 15_000;
/// Least distance of two messages on one connection, in ms; the flush interval where that is longer.
const DISTANCE_MS: u64 = 60_000;
/// The outbox is told of again when it has moved by so many percent.
const OUTBOX_STEP_PERCENT: u64 = 5;
/// The clock is told of again when it was stepped by so much, in ms.
const CLOCK_STEP_MS: u64 = 5_000;
/// The second message of a connection, in ms after the first.
const AGAIN_MS: u64 = 600_000;
/// And every later one at the latest, in ms.
const REPEAT_MS: u64 = 86_400_000;

/// How a gateway is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Its outbox.
    pub outbox: OutboxFill,
    /// Its clocks; `None` while its wall clock is not set.
    pub clock: Option<ClockReading>,
}

/// How full an outbox is of what nobody has acknowledged. It counts records, not their bytes: one that is owed is taken for as
/// large as all that it holds are on an average.
#[must_use]
pub fn fill(stats: &Stats) -> OutboxFill {
    let owed = u128::from(stats.disk_bytes) * u128::from(stats.owed_records);
    let owed_bytes = u64::try_from(owed / u128::from(stats.held_records.max(1))).unwrap_or(u64::MAX);
    OutboxFill { owed_bytes, most_bytes: stats.budget_bytes }
}

/// What was told last.
#[derive(Debug, Clone, Copy)]
struct Told {
    connection: ConnectionId,
    facts: Facts,
    at_ms: u64,
    is_first: bool,
}

/// See the module's text. Times are of the boot clock.
#[derive(Debug)]
pub struct Health {
    distance_ms: u64,
    told: Option<Told>,
    look_at_ms: u64,
}

impl Health {
    /// Of an agent whose frames go at most every `flush_ms`.
    #[must_use]
    pub fn new(flush_ms: u32) -> Self {
        Self { distance_ms: DISTANCE_MS.max(flush_ms.into()), told: None, look_at_ms: 0 }
    }

    /// When to look again.
    #[must_use]
    pub const fn look_at_ms(&self) -> u64 {
        self.look_at_ms
    }

    /// Whether it is worth a look: the time has come, or the connection is a new one.
    #[must_use]
    pub fn is_to_look(&self, connection: ConnectionId, now_ms: u64) -> bool {
        now_ms >= self.look_at_ms || self.told.is_none_or(|told| told.connection != connection)
    }

    /// Whether these facts are to be told on this connection.
    #[must_use]
    pub fn is_due(&mut self, connection: ConnectionId, facts: &Facts, now_ms: u64) -> bool {
        self.look_at_ms = now_ms.saturating_add(LOOK_MS);
        let Some(told) = self.told.filter(|told| told.connection == connection) else { return true };
        let since_ms = now_ms.saturating_sub(told.at_ms);
        let latest_ms = if told.is_first { AGAIN_MS } else { REPEAT_MS };
        since_ms >= self.distance_ms && (since_ms >= latest_ms || has_moved(&told.facts, facts))
    }

    /// They were published.
    pub fn told(&mut self, connection: ConnectionId, facts: Facts, now_ms: u64) {
        let is_first = self.told.is_none_or(|told| told.connection != connection);
        self.told = Some(Told { connection, facts, at_ms: now_ms, is_first });
    }
}

fn has_moved(before: &Facts, now: &Facts) -> bool {
    let outbox = before.outbox.percent().abs_diff(now.outbox.percent()) >= OUTBOX_STEP_PERCENT;
    let clock = match (before.clock, now.clock) {
        (Some(before), Some(now)) => {
            now.boot_began().since_ms(before.boot_began()).unsigned_abs() >= CLOCK_STEP_MS
        }
        (before, now) => before.is_some() != now.is_some(),
    };
    outbox || clock
}

#[cfg(test)]
mod tests {
    use gapless_common::cost;
    use gapless_common::message::AgentState;
    use gapless_common::time::Timestamp;
    use gapless_common::wire::{Message, encode};

    use super::*;

    const FIRST: ConnectionId = ConnectionId(1);

    /// A gateway that began at `began_ms` of its wall clock, with so many percent of its outbox owed.
    fn facts(percent: u64, began_ms: i64, now_ms: u64) -> Facts {
        let wall = Timestamp(began_ms + i64::try_from(now_ms).unwrap());
        let outbox = OutboxFill { owed_bytes: percent, most_bytes: 100 };
        Facts { outbox, clock: Some(ClockReading { boot_ms: now_ms, wall }) }
    }

    #[test]
    fn it_is_told_on_each_connection_by_steps_and_seldom_otherwise() {
        // Seconds since the first message: connection, percent, seconds that the clock was stepped by, whether it is told.
        let rows = [
            ("a new connection", 1, 2, 0, 0, true),
            ("no step", 60, 1, 4, 0, false),
            ("a step too soon", 59, 1, 50, 0, false),
            ("a step up", 60, 1, 5, 0, true),
            ("a step down is none yet", 60, 1, -4, 0, false),
            ("the clock set forward", 60, 1, 0, 5, true),
            ("the clock set back", 60, 1, 0, -5, true),
            ("the clock disciplined", 60, 1, 0, 4, false),
            ("not yet again", 599, 1, 0, 0, false),
            ("again", 600, 1, 0, 0, true),
        ];
        for (what, seconds, connection, more, stepped, expected) in rows {
            let mut health = Health::new(0);
            assert!(health.is_due(FIRST, &facts(50, 0, 0), 0), "the first word");
            health.told(FIRST, facts(50, 0, 0), 0);
            let now_ms = seconds * 1_000;
            let now = facts(50_u64.saturating_add_signed(more), stepped * 1_000, now_ms);
            assert_eq!(health.is_due(ConnectionId(connection), &now, now_ms), expected, "{what}");
        }
    }

    #[test]
    fn a_metered_agent_tells_no_more_often_than_it_sends_frames() {
        let mut health = Health::new(900_000);
        health.told(FIRST, facts(0, 0, 0), 0);
        assert!(!health.is_due(FIRST, &facts(90, 0, 899_999), 899_999));
        assert!(health.is_due(FIRST, &facts(90, 0, 900_000), 900_000));
    }

    #[test]
    fn a_clock_that_is_set_is_told_though_nothing_else_has_moved() {
        let mut health = Health::new(0);
        health.told(FIRST, Facts { clock: None, ..facts(0, 0, 0) }, 0);
        assert!(health.is_due(FIRST, &facts(0, 0, 60_000), 60_000));
    }

    #[test]
    fn an_outbox_is_as_full_as_what_it_owes_and_no_archive_counts() {
        // Bytes on the disk, records held and owed of them, in percent of a budget of 1,000 bytes.
        let rows = [
            ("made just now", 190, 0, 0, 0),
            ("some, all of them owed", 300, 10, 10, 30),
            ("all of it archive", 970, 5_000, 0, 0),
            ("a tenth of it owed", 970, 5_000, 500, 9),
            ("full of what is owed", 970, 5_000, 5_000, 97),
            ("a figure that cannot be", u64::MAX, 1, u64::MAX, 100),
        ];
        for (what, disk_bytes, held_records, owed_records, percent) in rows {
            let stats =
                Stats { disk_bytes, budget_bytes: 1_000, held_records, owed_records, ..Stats::default() };
            assert_eq!(fill(&stats).percent(), percent, "{what}");
        }
    }

    /// A day of one connection on which nothing happens: what it costs.
    #[test]
    fn a_quiet_day_costs_three_messages_of_a_hundred_bytes() {
        let (mut health, mut sent) = (Health::new(0), Vec::new());
        for now_ms in (0..=86_400_000 + 600_000).step_by(15_000) {
            let facts = facts(3, 1_769_860_800_000, now_ms);
            if health.is_to_look(FIRST, now_ms) && health.is_due(FIRST, &facts, now_ms) {
                health.told(FIRST, facts, now_ms);
                let outbox = OutboxFill { owed_bytes: 12 << 20, most_bytes: 62 << 20 };
                let connection = ConnectionId(u32::MAX);
                let state = AgentState::Health { connection, outbox, clock: facts.clock };
                let bytes = encode(&Message::State(state)).unwrap().len();
                sent.push(cost::message_bytes("gapless/v1/farm-north/gw-1/up/state".len(), bytes));
            }
        }
        assert_eq!(sent.len(), 3, "{sent:?}");
        assert!(sent.iter().all(|bytes| *bytes <= 130), "{sent:?}");
    }
}
