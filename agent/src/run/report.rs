//! The loop's answers to people: the status document, and polls out of turn that somebody waits for.

use gapless_common::id::{DeviceId, DeviceIndex};

use super::Agent;
use crate::clock::Now;
use crate::health::fill;
use crate::service::Question;
use crate::status::{ClockStatus, OutboxStatus, Status, UplinkStatus};

/// Takes the answer to a question.
pub(super) type Reply = tokio::sync::oneshot::Sender<Vec<u8>>;

impl Agent<'_> {
    pub(super) fn on_question(&mut self, question: Question, reply: Reply) {
        let now = self.clock.now();
        match question {
            Question::Status => self.answer(reply, now),
            Question::Poll(device) => self.begin_poll(&device, reply, now),
        }
    }

    fn answer(&mut self, reply: Reply, now: Now) {
        let document = serde_json::to_vec(&self.status(now)).unwrap_or_default();
        // Who asked may have gone.
        let _ = reply.send(document);
    }

    /// The document goes out once the device has answered, and as it is where there is nothing to wait for.
    fn begin_poll(&mut self, device: &str, reply: Reply, now: Now) {
        let polled = DeviceId::new(device).map_err(|_| "").and_then(|device| self.poll_device(&device));
        let waits = match polled {
            Ok(device) => self.asked.begin(reply, device, now.boot_ms),
            Err(_) => Err(reply),
        };
        if let Err(reply) = waits {
            self.answer(reply, now);
        }
    }

    /// Answers those who wait for `device`, which has answered.
    pub(super) fn answer_polled(&mut self, device: DeviceIndex, now: Now) {
        self.asked.answered(device).into_iter().for_each(|reply| self.answer(reply, now));
    }

    /// Answers those who have waited long enough.
    pub(super) fn answer_late(&mut self, now: Now) {
        self.asked.late(now.boot_ms).into_iter().for_each(|reply| self.answer(reply, now));
    }

    fn status(&mut self, now: Now) -> Status {
        let outbox = self.outbox_status();
        let (core, counters) = (self.engine.uplink(), self.engine.counters());
        Status {
            agent: format!("{}/{}", self.config.site, self.config.agent),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: now.boot_ms.saturating_sub(self.started.boot_ms) / 1_000,
            clock: ClockStatus { now: now.wall.to_string(), set: now.wall_set },
            outbox,
            uplink: UplinkStatus {
                broker: self.config.uplink.broker.to_string(),
                state: core.link.name().to_owned(),
                last_error: counters.last_error.clone(),
                in_flight: core.in_flight,
                last_ack_s: core.last_ack_ms.map(|at| now.boot_ms.saturating_sub(at) / 1_000),
                frames_sent: counters.frames,
                bytes_sent: counters.bytes,
                bytes_today: core.bytes_today,
                bytes_today_max: core.bytes_today_max,
                garbage: counters.garbage,
            },
            buses: self.board.buses(),
            devices: self.board.devices(),
        }
    }

    fn outbox_status(&mut self) -> OutboxStatus {
        let stats = self.engine.depot().stats();
        OutboxStatus {
            durable: self.engine.depot().failure().is_none(),
            failure: self.engine.depot().failure().map(|failure| failure.why.clone()),
            disk_bytes: stats.disk_bytes,
            budget_bytes: stats.budget_bytes,
            held_records: stats.held_records,
            owed_records: stats.owed_records,
            owed_percent: fill(&stats).percent(),
            oldest_owed: self.engine.oldest_owed_at().map(|at| at.to_string()),
            dropped_records: stats.dropped_records,
            dropped_disk_full: stats.dropped_disk_full,
            disk_full: stats.is_disk_full,
            quarantined_records: stats.quarantined_records,
            appended_records: stats.appended_records,
            syncs: stats.syncs,
            written_bytes: stats.written_bytes,
        }
    }
}
