//! The loop's answers to people: the status document, and polls out of turn that somebody waits for.

use gapless_common::id::{DeviceId, DeviceIndex};

use super::Agent;
use crate::clock::Now;
use crate::service::Question;
use crate::status::{ClockStatus, OutboxStatus, Status, UplinkStatus};

/// How long a poll out of turn is waited for, in ms; then the document goes out as it is.
const POLL_WAIT_MS: u64 = 15_000;

/// Takes the answer to a question.
type Reply = tokio::sync::oneshot::Sender<Vec<u8>>;

/// Somebody waits for a device.
#[derive(Debug)]
pub(super) struct Asked {
    device: DeviceIndex,
    answers_before: u64,
    until_ms: u64,
    reply: Reply,
}

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

    fn begin_poll(&mut self, device: &str, reply: Reply, now: Now) {
        let polled = DeviceId::new(device).map_err(|_| "").and_then(|device| self.poll_device(&device));
        match polled {
            Ok(device) => self.asked.push(Asked {
                device,
                answers_before: self.board.answers(device),
                until_ms: now.boot_ms + POLL_WAIT_MS,
                reply,
            }),
            Err(_) => self.answer(reply, now),
        }
    }

    /// Answers those whose device has answered.
    pub(super) fn answer_polled(&mut self, now: Now) {
        let board = &self.board;
        let done = self.asked.extract_if(.., |a| board.answers(a.device) > a.answers_before);
        let done: Vec<Asked> = done.collect();
        done.into_iter().for_each(|asked| self.answer(asked.reply, now));
    }

    /// When [`answer_late`](Self::answer_late) has somebody to answer.
    pub(super) fn answer_at_ms(&self) -> Option<u64> {
        self.asked.iter().map(|asked| asked.until_ms).min()
    }

    /// Answers those who have waited long enough.
    pub(super) fn answer_late(&mut self, now: Now) {
        let done: Vec<Asked> = self.asked.extract_if(.., |a| a.until_ms <= now.boot_ms).collect();
        done.into_iter().for_each(|asked| self.answer(asked.reply, now));
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
            oldest_owed: self.engine.oldest_owed_at().map(|at| at.to_string()),
            dropped_records: stats.dropped_records,
            quarantined_records: stats.quarantined_records,
            appended_records: stats.appended_records,
            syncs: stats.syncs,
            written_bytes: stats.written_bytes,
        }
    }
}
