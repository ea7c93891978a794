//! Packs records of the outbox into frames. Reads what the uplink core offers, as much as one frame holds; sends
//! nothing, and decides nothing about order.

use gapless_common::catalog::Catalog;
use gapless_common::id::{AgentTag, CatalogHash, ConnectionId, Seq};
use gapless_common::message::DataFrame;
use gapless_common::planted::{self, Bug};
use gapless_common::quality::Cause;
use gapless_common::reading::{Loss, Record};
use gapless_common::wire::{decode_catalog, decode_record, encode_prefix};

use crate::depot::Depot;
use crate::outbox::{ReadError, ReadLimits, StoredRecord};
use crate::uplink::core::Offer;

/// Most that is read for one frame. Rows of the outbox shrink to a fifth or less in a frame, and a frame need
/// not be full.
const READ_LIMITS: ReadLimits = ReadLimits { bytes: 160 << 10, records: 8_192 };

/// What became of an offer.
#[derive(Debug)]
pub enum Packed {
    /// A frame with the records up to this one.
    Frame(Vec<u8>, Seq),
    /// The records up to this one are not held any more.
    Gone(Seq),
    /// A record that no frame can carry; it is lost, as this says.
    Unusable(Loss),
}

/// Packs frames for one agent; keeps its buffers, and the last catalog that it needed.
#[derive(Debug)]
pub struct Packer {
    agent: AgentTag,
    catalog: Option<(CatalogHash, Catalog)>,
    stored: Vec<StoredRecord>,
}

impl Packer {
    /// A packer for `agent`.
    #[must_use]
    pub const fn new(agent: AgentTag) -> Self {
        Self { agent, catalog: None, stored: Vec::new() }
    }

    /// The first frame of what is offered.
    ///
    /// # Errors
    /// [`ReadError`] where the outbox cannot be read at the moment.
    pub fn pack(
        &mut self,
        depot: &mut Depot,
        offer: Offer,
        connection: ConnectionId,
    ) -> Result<Packed, ReadError> {
        self.stored.clear();
        depot.read(offer.epoch, offer.first, READ_LIMITS, &mut self.stored)?;
        self.stored.retain(|record| record.epoch == offer.epoch && record.seq <= offer.last);
        let Some(first) = self.stored.first() else { return Ok(Packed::Gone(offer.last)) };
        if first.seq > offer.first {
            return Ok(Packed::Gone(Seq(first.seq.0 - 1)));
        }
        let (hash, unusable) = (first.catalog, lost(first));
        if planted::has(Bug::StepReorders) {
            self.stored.sort_by_key(|record| record.at);
        }
        let records: Vec<Record> = self.stored.iter().map_while(|r| decode_record(&r.bytes).ok()).collect();
        if records.is_empty() {
            return Ok(Packed::Unusable(unusable));
        }
        self.load_catalog(depot, hash);
        let frame = DataFrame {
            agent: self.agent,
            connection,
            epoch: offer.epoch,
            first: offer.first,
            catalog: hash,
            records,
        };
        let none = Catalog::default();
        let catalog = self.catalog.as_ref().map_or(&none, |(_, catalog)| catalog);
        Ok(match encode_prefix(&frame, catalog) {
            Ok((bytes, count)) => Packed::Frame(bytes, self.stored[count.min(self.stored.len()) - 1].seq),
            Err(e) => {
                tracing::error!(epoch = %offer.epoch, seq = %offer.first, "a record fits no frame: {e}");
                Packed::Unusable(unusable)
            }
        })
    }

    /// A frame can be packed without its catalog; it is only longer.
    fn load_catalog(&mut self, depot: &mut Depot, hash: CatalogHash) {
        if self.catalog.as_ref().is_none_or(|(loaded, _)| *loaded != hash) {
            let bytes = depot.catalog(hash);
            let decoded = bytes.and_then(|bytes| decode_catalog(&bytes).ok());
            self.catalog = decoded.map(|(_, catalog)| (hash, catalog));
        }
    }
}

fn lost(record: &StoredRecord) -> Loss {
    Loss {
        epoch: record.epoch,
        first: record.seq,
        last: record.seq,
        from: record.at,
        to: record.at,
        cause: Cause::Quarantined,
    }
}
