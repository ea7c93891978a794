//! Catalogs, and the frames that wait: a catalog that comes is bound and replays what was parked for it; one that
//! comes into force describes its devices; a frame that nobody could read is tried again. Part of one transaction.

use gapless_common::catalog::Catalog;
use gapless_common::id::CatalogHash;
use gapless_common::message::CommandBody;
use gapless_common::reading::CatalogRecord;
use gapless_common::wire::{self, Message};

use super::apply::{Apply, Done};
use crate::ledger::AgentNo;
use crate::store::{commands, parked, registry, state};

/// Catalogs that are kept of an agent at most; frames of another one are parked, within their own bound.
const CATALOGS_MAX: usize = 1_024;
/// How long the collector waits for a catalog it asked for.
const CATALOG_COMMAND_LIFE_MS: i64 = 7 * 86_400_000;

impl Apply<'_, '_> {
    pub(super) fn catalog_record(&mut self, no: AgentNo, record: &CatalogRecord) -> Done {
        self.catalog(no, record.hash, &record.bytes)
    }

    /// A catalog came: whatever waits for it is replayed.
    pub(super) fn catalog(&mut self, no: AgentNo, hash: CatalogHash, bytes: &[u8]) -> Done {
        let catalog: Catalog = match wire::decode_catalog(bytes) {
            Ok((found, catalog)) if found == hash => catalog,
            Ok((found, _)) => {
                tracing::error!(%hash, %found, "a catalog under another one's hash: ignored");
                return Ok(());
            }
            Err(error) => {
                tracing::error!(%hash, %error, "a catalog that cannot be read: ignored");
                return Ok(());
            }
        };
        let known = self.memory.registry.bound(no, hash).is_some();
        if !known && self.memory.registry.catalogs_of(no) >= CATALOGS_MAX {
            tracing::error!(%hash, "more catalogs than are kept of one agent: refused");
            self.batch.tally(no).refused += 1;
            return Ok(());
        }
        let bound =
            self.memory.registry.bind(self.batch.connection, no, (hash, bytes, &catalog), self.batch.now)?;
        let due = bound.iter().map(|b| b.due);
        state::give_schedule(&mut self.memory.ledger, no, hash, due);
        if known { Ok(()) } else { self.replay(no, hash) }
    }

    pub(super) fn replay(&mut self, no: AgentNo, hash: CatalogHash) -> Done {
        for (id, bytes) in parked::waiting(self.batch.connection, no, hash)? {
            let (Ok(header), Ok(Message::Data(frame))) = (wire::peek(&bytes), wire::decode(&bytes)) else {
                continue;
            };
            if let Some(header) = header.data
                && self.frame(no, &header, &frame, None)?
            {
                parked::forget(self.batch.connection, id)?;
            }
        }
        Ok(())
    }

    /// The devices that this agent polls now are what its catalog in force says of them.
    pub(super) fn describe(&mut self, no: AgentNo) -> Done {
        let Some(hash) = self.memory.ledger.agent(no).and_then(|a| a.in_force) else { return Ok(()) };
        let Some(bytes) = registry::catalog_bytes(self.batch.connection, no, hash)? else { return Ok(()) };
        let (Some(bound), Ok((_, catalog))) =
            (self.memory.registry.bound(no, hash), wire::decode_catalog(&bytes))
        else {
            return Ok(());
        };
        for (bound, device) in bound.iter().zip(&catalog.devices) {
            let owner = self.memory.ledger.owner(bound.due.device);
            if owner.is_none_or(|owner| owner == no) {
                registry::describe(self.batch.connection, no, bound, device)?;
            }
        }
        Ok(())
    }

    /// Tries a frame again that was parked as nonsense or of an unknown version: this program may know better.
    /// Returns whether it was used.
    pub(super) fn try_again(&mut self, no: AgentNo, id: i64, bytes: &[u8]) -> rusqlite::Result<bool> {
        let (Ok(header), Ok(Message::Data(frame))) = (wire::peek(bytes), wire::decode(bytes)) else {
            return Ok(false);
        };
        let Some(header) = header.data else { return Ok(false) };
        self.touched.insert(no);
        let used = self.frame(no, &header, &frame, None)?;
        if used {
            parked::forget(self.batch.connection, id)?;
        } else if self.memory.registry.bound(no, frame.catalog).is_none() {
            parked::wait_for_catalog(self.batch.connection, id)?;
            self.ask_catalog(no, frame.catalog)?;
        }
        Ok(used)
    }

    pub(super) fn ask_catalog(&mut self, no: AgentNo, hash: CatalogHash) -> Done {
        if commands::has_no_catalog(self.batch.connection, no, hash)? {
            return Ok(());
        }
        let expires = self.batch.now.plus_ms(CATALOG_COMMAND_LIFE_MS);
        let body = CommandBody::SendCatalog(hash);
        if let Some(id) = commands::ensure(self.batch.connection, no, &body, self.batch.now, expires)? {
            self.answers.commands.push((no, id));
        }
        Ok(())
    }
}
