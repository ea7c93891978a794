//! What the collector says: acknowledgements and commands. Sends nothing by itself.

use gapless_common::id::Epoch;
use gapless_common::message::{Ack, Command, CommandBody, Outcome, UNKNOWN_COMMAND};
use gapless_common::planted::{self, Bug};
use gapless_common::time::Timestamp;

use super::super::commands::Known;
use super::super::delivery::Acknowledged;
use super::{Action, Core};

/// Longest lease that a command can take out, whatever it says.
const LEASE_MAX_MS: u64 = 3_600_000;

impl Core {
    pub(super) fn acknowledged(&mut self, ack: &Ack, now_ms: u64) {
        match self.database {
            Some((incarnation, commit)) if incarnation == ack.incarnation => {
                if ack.commit < commit {
                    self.acks_ignored += 1;
                    return;
                }
            }
            // Another database: what it has, it says; the epochs it has not spoken of it is told of again.
            Some(_) => {
                self.forget(None);
                self.push_birth();
            }
            // The first word after a start: it overrules what the outbox remembers of an earlier database.
            None => ack.epochs.iter().for_each(|e| self.forget(Some(e.epoch))),
        }
        self.database = Some((ack.incarnation, ack.commit));
        self.last_ack_ms = Some(now_ms);
        for epoch in &ack.epochs {
            if let Some(left) = self.delivery.take_back(epoch) {
                self.actions.push_back(Action::Unacknowledge(epoch.epoch));
                self.trim(left);
            }
            let new = self.delivery.acknowledged(epoch);
            self.trim(new);
        }
        if self.is_connected() {
            self.link_works();
        }
    }

    fn trim(&mut self, acknowledged: Vec<Acknowledged>) {
        let trims = acknowledged.into_iter().map(|(e, first, last)| Action::Acknowledge(e, first, last));
        self.actions.extend(trims);
    }

    fn forget(&mut self, only: Option<Epoch>) {
        let forgotten = self.delivery.forget_acknowledged(only);
        self.actions.extend(forgotten.into_iter().map(Action::Unacknowledge));
    }

    fn link_works(&mut self) {
        self.reconnect.succeed();
        self.ack_wait.succeed();
        self.probe.succeed();
        if !self.is_present() {
            self.answered = true;
            self.begin_live();
        }
    }

    pub(super) fn command(&mut self, command: Command, wall: Option<Timestamp>, now_ms: u64) {
        match self.commands.begin(command.id) {
            Known::Pending => return,
            Known::Ended(reply) => {
                self.actions.push_back(Action::Reply(reply));
                return;
            }
            Known::New => {}
        }
        if wall.is_some_and(|now| command.expires < now) {
            return self.reply(command.id, Outcome::Expired);
        }
        match command.body {
            CommandBody::Live { until } => self.lease(command.id, until, wall, now_ms),
            CommandBody::Resend { epoch, first, last } => {
                let held = self.delivery.want(epoch, first, last);
                self.reply(command.id, if held { Outcome::Done } else { Outcome::NoData });
            }
            CommandBody::SendCatalog(hash) => {
                self.actions.push_back(Action::SendCatalog(command.id, hash));
            }
            CommandBody::PollNow(device) => self.actions.push_back(Action::PollNow(command.id, device)),
            CommandBody::ReadHistory { device, from, to } => {
                self.actions.push_back(Action::ReadHistory(command.id, device, (from, to)));
            }
            CommandBody::Pause { device, paused } => {
                self.actions.push_back(Action::Pause(command.id, device, paused));
            }
            CommandBody::Unknown => {
                self.reply(command.id, Outcome::Failed(UNKNOWN_COMMAND.into()));
            }
        }
    }

    fn lease(&mut self, id: u64, until: Timestamp, wall: Option<Timestamp>, now_ms: u64) {
        let Some(wall) = wall else {
            return self.reply(id, Outcome::Failed("the gateway's clock is not set".into()));
        };
        let left_ms = u64::try_from(until.since_ms(wall)).unwrap_or(0).min(LEASE_MAX_MS);
        if left_ms == 0 {
            // Nobody watches any more: what is fresh waits for company again.
            self.lease_until_ms = 0;
        } else if !planted::has(Bug::LeaseUnheard) {
            self.lease_until_ms = self.lease_until_ms.max(now_ms.saturating_add(left_ms));
            self.flush();
        }
        self.reply(id, Outcome::Done);
    }

    pub(super) fn reply(&mut self, id: u64, outcome: Outcome) {
        let reply = self.commands.end(id, outcome);
        if self.is_connected() {
            self.actions.push_back(Action::Reply(reply));
        }
    }
}
