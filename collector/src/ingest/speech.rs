//! What agents say of themselves: that they begin and end, how they are, and what became of commands.

use gapless_common::id::ConnectionId;
use gapless_common::message::{AgentState, ClockReading, OutboxFill, Outcome, Reply};
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;
use gapless_common::wire::{self, DecodeError, Message};
use rusqlite::params;

use super::Inbound;
use super::apply::{Apply, Done};
use crate::alerts::clock::seen;
use crate::gaps::ARRIVAL_MS;
use crate::ledger::{AgentNo, Finding};
use crate::store::{commands, gap_lives, health, unasked};

impl Apply<'_, '_> {
    /// A message that is no frame.
    pub(super) fn other(&mut self, no: AgentNo, path: &AgentPath, inbound: &Inbound) -> Done {
        match wire::decode(&inbound.payload) {
            Ok(Message::State(state)) => self.state(no, path, &state, inbound.at),
            Ok(Message::Catalog { hash, bytes }) => self.catalog(no, hash, &bytes),
            Ok(Message::Reply(reply)) => self.reply(no, &reply),
            Ok(_) => self.damaged(no, &DecodeError::NotOurs),
            Err(error) => self.damaged(no, &error),
        }
    }

    fn state(&mut self, no: AgentNo, path: &AgentPath, state: &AgentState, at: Timestamp) -> Done {
        let connection = self.batch.connection;
        self.batch.tally(no);
        match state {
            AgentState::Birth { path: named, .. } if named != path => {
                tracing::warn!(topic = %path, birth = %named, "a birth under another agent's topic: refused");
                self.batch.tally(no).refused += 1;
                Ok(())
            }
            AgentState::Birth { held, epoch, connection: id, .. }
                if self.memory.ledger.is_overtaken(no, held, *epoch) =>
            {
                tracing::debug!(agent = %path, connection = %id, %epoch, "a birth of an earlier process: too late");
                Ok(())
            }
            AgentState::Birth { held, .. } if !self.memory.ledger.has_room_for_birth(no, held) => {
                // Its frames are taken all the same: what they bring may make room.
                commands::birth(connection, no, state, self.batch.now)?;
                self.begin_to_ask(no)?;
                self.refuse(no, "a birth with epochs that cannot be, or more than are kept account of")
            }
            AgentState::Birth { connection: id, epoch, held, durable, .. } => {
                let fresh = commands::birth(connection, no, state, self.batch.now)?;
                if fresh {
                    self.lease_of_born(no)?;
                }
                let ledger = &mut self.memory.ledger;
                let finding = match durable {
                    true => ledger.birth(no, held, *epoch, fresh),
                    false => ledger.birth_in_memory(no, held, *epoch, fresh),
                };
                if let Some(Finding::ClonedAgent { returned, other }) = finding {
                    tracing::error!(agent = %path, %returned, %other, connection = %id,
                        "cloned agent: two outboxes write under this name");
                    let sql = "UPDATE agents SET cloned_at = ?2 WHERE id = ?1";
                    connection.prepare_cached(sql)?.execute(params![no.0, self.batch.now.0])?;
                }
                self.begin_to_ask(no)?;
                self.answers.births.insert(no);
                self.answers.acks.entry(no).or_default();
                Ok(())
            }
            AgentState::Gone { connection: id, clean } => {
                // The will of a connection that another one has replaced says nothing.
                let sql = "UPDATE agents SET connected = ?3, left_at = ?4 WHERE id = ?1 AND connection = ?2";
                let link = if *clean { 2 } else { 0 };
                connection.prepare_cached(sql)?.execute(params![no.0, id.0, link, self.batch.now.0])?;
                Ok(())
            }
            AgentState::Health { connection: id, outbox, clock } => {
                self.health(no, *id, *outbox, clock.map(|said| (said, at)))
            }
        }
    }

    /// An agent is back: what it carried out may still be on its way, and what was given up because it was away is asked for again.
    fn begin_to_ask(&self, no: AgentNo) -> Done {
        let (connection, now) = (self.batch.connection, self.batch.now);
        gap_lives::await_again(connection, no, now.plus_ms(ARRIVAL_MS))?;
        unasked::begin_to_ask(connection, self.batch.stamp(), self.away, no)
    }

    /// How a gateway is; of a connection that was not born, or has ended, it says nothing.
    fn health(
        &mut self,
        no: AgentNo,
        id: ConnectionId,
        outbox: OutboxFill,
        clock: Option<(ClockReading, Timestamp)>,
    ) -> Done {
        let connection = self.batch.connection;
        let Some((boot, before)) = health::watched(connection, no, id)? else { return Ok(()) };
        health::outbox(connection, no, outbox)?;
        if let Some((said, at)) = clock {
            health::clock(connection, no, &seen(before.as_ref(), boot, said, at))?;
        }
        self.memory.spoke.insert(no);
        Ok(())
    }

    fn reply(&mut self, no: AgentNo, reply: &Reply) -> Done {
        let (outcome, detail) = match &reply.outcome {
            Outcome::Done => (1, None),
            Outcome::Expired => (2, None),
            Outcome::Failed(why) => (3, Some(why.as_ref())),
            Outcome::NoData => (4, None),
        };
        let sql = "UPDATE commands SET outcome = ?3, detail = ?4, answered_at = ?5
            WHERE id = ?2 AND agent = ?1 AND outcome IS NULL";
        let row = params![no.0, reply.id.cast_signed(), outcome, detail, self.batch.now.0];
        if self.batch.connection.prepare_cached(sql)?.execute(row)? > 0 {
            self.history_answered(no, reply.id, &reply.outcome)?;
            self.job_answered(reply.id, &reply.outcome)?;
        }
        Ok(())
    }
}
