//! Catalogs, and the frames that wait: a catalog that comes is bound and replays what was parked for it; one that
//! comes into force describes its devices, and says what their memory may fill; a frame that nobody could read is tried
//! again. Part of one transaction.

use std::collections::BTreeMap;

use gapless_common::catalog::{Catalog, Device};
use gapless_common::id::CatalogHash;
use gapless_common::message::{CommandBody, DataFrame};
use gapless_common::reading::Record;
use gapless_common::time::Slot;
use gapless_common::wire::{self, Message};

use super::apply::{Apply, Done};
use crate::ledger::{AgentNo, Came, DeviceNo, plausible};
use crate::store::registry::Bound;
use crate::store::{commands, descriptions, parked, registry, state};

/// Catalogs that are kept of an agent at most; frames of another one are parked, within their own bound.
const CATALOGS_MAX: usize = 1_024;
/// Devices and channels of an agent's catalogs together, at most: what the writer holds of them in memory.
const ENTRIES_MAX: usize = 1 << 20;
/// Frames that are replayed in one transaction at most: such of misses and declarations hold no rows.
const REPLAYED_MAX: usize = 1_024;
/// How long the collector waits for a catalog it asked for.
const CATALOG_COMMAND_LIFE_MS: i64 = 7 * 86_400_000;

/// A catalog that can be used: its bytes as they came, and what they say.
pub(super) type Readable<'a> = (&'a [u8], Catalog);

/// The catalogs of a frame, each once and as it stands last; or what is wrong with one.
pub(super) fn of_frame(frame: &DataFrame) -> Result<BTreeMap<CatalogHash, Readable<'_>>, &'static str> {
    let records = frame.records.iter().filter_map(|record| match record {
        Record::Catalog(catalog) => Some(catalog),
        _ => None,
    });
    records.map(|c| Ok((c.hash, (&*c.bytes, read(c.hash, &c.bytes)?)))).collect()
}

fn read(hash: CatalogHash, bytes: &[u8]) -> Result<Catalog, &'static str> {
    let Ok((found, catalog)) = wire::decode_catalog(bytes) else {
        return Err("a catalog that cannot be read");
    };
    if found != hash {
        return Err("a catalog under another one's hash");
    }
    if entries(&catalog) > plausible::CATALOG_ENTRIES_MAX {
        return Err("a catalog of more devices and channels than any gateway polls");
    }
    Ok(catalog)
}

fn entries(catalog: &Catalog) -> usize {
    catalog.devices.iter().map(|device| 1 + device.channels.len()).sum()
}

impl Apply<'_, '_> {
    /// A catalog came that was asked for.
    pub(super) fn catalog(&mut self, no: AgentNo, hash: CatalogHash, bytes: &[u8]) -> Done {
        match read(hash, bytes) {
            Ok(catalog) => self.bind(no, hash, &(bytes, catalog)),
            Err(why) => self.refuse(no, why),
        }
    }

    /// A catalog that is new opens the way for whatever waits for it.
    pub(super) fn bind(&mut self, no: AgentNo, hash: CatalogHash, (bytes, catalog): &Readable<'_>) -> Done {
        let known = self.memory.registry.bound(no, hash).is_some();
        if !known {
            let (catalogs, kept) = self.memory.registry.size_of(no);
            if catalogs >= CATALOGS_MAX || kept + entries(catalog) > ENTRIES_MAX {
                return self.refuse(no, "more catalogs than are kept of one agent");
            }
        }
        let catalog = (hash, *bytes, catalog);
        let bound = self.memory.registry.bind(self.batch.connection, no, catalog, self.batch.now)?;
        state::give_schedule(&mut self.memory.ledger, no, hash, bound.iter().map(|b| b.due));
        if !known {
            self.memory.replays.insert((no, hash));
        }
        Ok(())
    }

    /// Uses frames that waited for a catalog which is here, until none is left or the transaction has `rows_max`
    /// rows or [`REPLAYED_MAX`] frames: a little catalog may open the way for millions of readings.
    pub(super) fn replay(&mut self, rows_max: usize) -> Done {
        for _ in 0..REPLAYED_MAX {
            let Some(&(no, hash)) = self.memory.replays.first() else { return Ok(()) };
            if self.batch.taken() >= rows_max {
                return Ok(());
            }
            self.touched.insert(no);
            match parked::waiting(self.batch.connection, no, hash)? {
                Some((id, bytes)) => self.replay_one(no, id, &bytes)?,
                None => drop(self.memory.replays.remove(&(no, hash))),
            }
        }
        Ok(())
    }

    /// A frame that waited for its catalog is used, or is nonsense under it.
    fn replay_one(&mut self, no: AgentNo, id: i64, bytes: &[u8]) -> Done {
        let used = match (wire::peek(bytes).map(|header| header.data), wire::decode(bytes)) {
            (Ok(Some(header)), Ok(Message::Data(frame))) => self.frame(no, &header, &frame, None)?,
            _ => false,
        };
        if used {
            return self.unpark(no, id);
        }
        parked::is_nonsense(self.batch.connection, id, "makes no sense under its catalog")
    }

    fn unpark(&mut self, no: AgentNo, id: i64) -> Done {
        parked::forget(self.batch.connection, id, self.memory.parked.entry(no).or_default())
    }

    /// A catalog came into force: from then on the devices of its agent are what it says of them. Where no clock says since
    /// when, or one that is ahead, it is about now.
    pub(super) fn begin_description(&mut self, came: &Came) -> Done {
        let Some(bound) = self.memory.registry.bound(came.agent, came.hash) else { return Ok(()) };
        let before = came.before.and_then(|before| self.memory.registry.bound(came.agent, before));
        let before: BTreeMap<DeviceNo, &[i64]> = before
            .iter()
            .flat_map(|bound| bound.iter())
            .map(|bound| (bound.due.device, bound.series.as_slice()))
            .collect();
        let since = came.since.map_or(self.batch.now, |since| since.min(self.batch.now));
        for bound in bound.iter() {
            let device = bound.due.device;
            if self.memory.ledger.owner(device).is_none_or(|owner| owner == came.agent) {
                let (connection, before) = (self.batch.connection, before.get(&device).copied());
                self.memory.descriptions.begin(connection, device, (since, &bound.series), before)?;
            }
        }
        Ok(())
    }

    /// Whether what a device remembers of a slot is what was due then. What is proven to be missing is missing as it was
    /// described at that time: under another quantity, aggregation or label the reading is kept, and fills nothing.
    pub(super) fn is_what_was_due(&mut self, device: &Bound, slot: Slot) -> rusqlite::Result<bool> {
        let (no, at) = (device.due.device, device.due.times.at(slot));
        let then = match self.memory.descriptions.at(no, at) {
            Some((then, _)) if then != device.series => then,
            _ => return Ok(true),
        };
        if !self.memory.ledger.is_proven(device.due.grid, slot) {
            return Ok(true);
        }
        let key = (then.to_vec(), device.series.clone());
        if let Some(contradict) = self.contradictions.get(&key) {
            return Ok(!contradict);
        }
        let contradict = descriptions::contradict(self.batch.connection, &key.0, &key.1)?;
        self.contradictions.insert(key, contradict);
        Ok(!contradict)
    }

    /// The devices that this agent polls now are what its catalog in force says of them. Returns those of which the one
    /// `before` said something else.
    pub(super) fn describe(
        &mut self,
        no: AgentNo,
        before: Option<CatalogHash>,
    ) -> rusqlite::Result<Vec<DeviceNo>> {
        let mut changed = Vec::new();
        let Some(hash) = self.memory.ledger.agent(no).and_then(|a| a.in_force) else { return Ok(changed) };
        let (Some(bound), Some(catalog)) =
            (self.memory.registry.bound(no, hash), self.kept_catalog(no, hash)?)
        else {
            return Ok(changed);
        };
        let was = match before.filter(|before| *before != hash) {
            Some(before) => self.kept_catalog(no, before)?,
            None => None,
        };
        let was: BTreeMap<_, _> =
            was.iter().flat_map(|was| &was.devices).map(|device| (&device.id, device)).collect();
        for (bound, device) in bound.iter().zip(&catalog.devices) {
            let owner = self.memory.ledger.owner(bound.due.device);
            if owner.is_none_or(|owner| owner == no) {
                let is_described_anew = registry::describe(self.batch.connection, no, bound, device)?;
                let is_other = |was: &&Device| (was.grid, &was.channels) != (device.grid, &device.channels);
                let is_changed = is_described_anew || was.get(&device.id).is_some_and(is_other);
                // What a source says of its devices is no configuration, and nothing is read of what is paused.
                let is_configured = device.attributes.get("history").is_none_or(|kind| kind != "source");
                let described = bound.due.device;
                if !device.paused {
                    // An agent that was started anew knows of nothing that it was told.
                    self.tell_pause(described.0, Some(true))?;
                }
                if self.read.contains(&(described, no, hash)) {
                    // Under this very catalog, whichever one was awaited.
                    self.confirm_description(described)?;
                } else if is_changed && is_configured && !device.paused {
                    registry::is_changed(self.batch.connection, described, self.batch.now)?;
                    self.memory.unconfirmed.insert(described, (no, hash));
                    changed.push(described);
                } else if let Some(awaited) = self.memory.unconfirmed.get_mut(&described) {
                    *awaited = (no, hash);
                }
            }
        }
        Ok(changed)
    }

    fn kept_catalog(&self, no: AgentNo, hash: CatalogHash) -> rusqlite::Result<Option<Catalog>> {
        let bytes = registry::catalog_bytes(self.batch.connection, no, hash)?;
        Ok(bytes.and_then(|bytes| wire::decode_catalog(&bytes).ok()).map(|(_, catalog)| catalog))
    }

    /// A reading of the device came under this catalog of this agent.
    pub(super) fn is_read(&mut self, device: DeviceNo, no: AgentNo, hash: CatalogHash) -> Done {
        self.read.insert((device, no, hash));
        if self.memory.unconfirmed.get(&device) == Some(&(no, hash)) {
            self.confirm_description(device)?;
        }
        Ok(())
    }

    /// What is shown of a device is read as it is described.
    fn confirm_description(&mut self, device: DeviceNo) -> Done {
        if self.memory.unconfirmed.remove(&device).is_some() {
            registry::is_confirmed(self.batch.connection, device)?;
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
            self.unpark(no, id)?;
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
        if let Some((id, true)) = commands::ensure(self.batch.connection, no, &body, self.batch.now, expires)?
        {
            self.answers.commands.push((no, id));
        }
        Ok(())
    }
}
