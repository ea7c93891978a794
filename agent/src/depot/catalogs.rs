//! Catalogs: the one in force goes before the records that are read by it, and is kept for as long as any of them.

use std::collections::BTreeSet;

use gapless_common::id::{CatalogHash, Epoch, Seq};
use gapless_common::reading::{CatalogRecord, Record};

use super::Depot;
use crate::clock::Now;
use crate::outbox::{CatalogError, Outbox};
use crate::text::chain;

/// Segments that make room for one catalog, at most: a spare one, and what a catalog of the greatest length takes.
pub(super) const ROOMS_MAX: usize = 3;

/// Until a catalog for which there was no room is tried again, in ms: soon, as its records go nowhere without it, and not at
/// every commit of a disk that stays full.
pub(super) const KEEP_AGAIN_MS: u64 = 5_000;

impl Depot {
    /// Whether the catalog in force found no room beside the records, and its own record is no longer held: without it none of
    /// them could be read after a restart.
    pub(super) fn is_catalog_gone(&self) -> bool {
        let is_unkept = self.unkept.iter().any(|(hash, _)| *hash == self.identity.catalog);
        let is_there = |(epoch, seq): (Epoch, Seq)| {
            self.store.held().iter().any(|held| held.epoch == epoch && held.first <= seq)
        };
        self.failure.is_none() && is_unkept && !self.catalog_at.is_some_and(is_there)
    }

    pub(super) fn gather_catalog(&mut self, now: Now) {
        let catalog = CatalogRecord {
            hash: self.identity.catalog,
            since: now.wall_set.then(|| now.instant_of(self.in_force_from)),
            bytes: self.identity.catalog_bytes.clone(),
        };
        self.batch.push(&Record::Catalog(catalog), now.wall);
    }

    /// Catalogs that a held record needs stay; the one in force is put there before its first record. In memory, which
    /// takes the place of a disk that has failed, only that one is.
    pub(super) fn keep_catalogs(&mut self, now: Now) {
        self.keep_again_at_ms = now.boot_ms + KEEP_AGAIN_MS;
        let in_force = (self.identity.catalog, self.identity.catalog_bytes.clone());
        let mut wanted = std::mem::take(&mut self.unkept);
        let is_news = !wanted.contains(&in_force);
        if is_news {
            wanted.push(in_force);
        }
        for (hash, bytes) in wanted {
            let is_in_force = hash == self.identity.catalog;
            if self.failure.is_some() && !is_in_force {
                self.unkept.push((hash, bytes));
                continue;
            }
            let rooms = if is_news && is_in_force { ROOMS_MAX } else { 0 };
            if let Err(e) = self.keep_catalog(hash, &bytes, rooms) {
                if rooms > 0 {
                    tracing::error!("catalogs of the outbox: {}", chain(&e));
                }
                self.unkept.push((hash, bytes));
            }
        }
        self.tidy_catalogs();
    }

    fn keep_catalog(&mut self, hash: CatalogHash, bytes: &[u8], rooms: usize) -> Result<(), CatalogError> {
        if hash != self.identity.catalog && !self.store.catalogs_held().contains(&hash) {
            return Ok(());
        }
        let kept = self.store.catalogs().put(hash, bytes);
        if !is_full(&kept) {
            return kept;
        }
        self.tidy_catalogs();
        put_catalog(self.store.as_mut(), (hash, bytes), rooms)
    }

    pub(super) fn tidy_catalogs(&mut self) {
        let mut needed: BTreeSet<CatalogHash> = self.store.catalogs_held();
        needed.insert(self.identity.catalog);
        if let Err(e) = self.store.catalogs().retain(&needed) {
            tracing::warn!("catalogs that nothing needs: {}", chain(&e));
        }
    }

    /// The canonical bytes of a catalog, where it is kept.
    pub fn catalog(&mut self, hash: CatalogHash) -> Option<Box<[u8]>> {
        if hash == self.identity.catalog {
            return Some(self.identity.catalog_bytes.clone());
        }
        if let Some((_, bytes)) = self.unkept.iter().find(|(unkept, _)| *unkept == hash) {
            return Some(bytes.clone());
        }
        let kept = |store: &mut dyn Outbox| store.catalogs().get(hash).ok().flatten();
        let found = kept(self.store.as_mut());
        let found = found.or_else(|| self.dead.as_mut().and_then(|dead| kept(dead.as_mut())));
        found.map(Vec::into_boxed_slice)
    }

    /// The canonical bytes of the catalog in force.
    #[must_use]
    pub const fn catalog_bytes(&self) -> &[u8] {
        &self.identity.catalog_bytes
    }

    /// Another catalog is in force for what is gathered from now on. To be called with an empty batch.
    pub fn change_catalog(&mut self, catalog: CatalogHash, bytes: Box<[u8]>, now: Now) {
        (self.identity.catalog, self.identity.catalog_bytes) = (catalog, bytes);
        (self.in_force_from, self.catalog_at) = (now, None);
        self.keep_catalogs(now);
        self.gather_catalog(now);
    }

    /// The catalog in force.
    #[must_use]
    pub const fn catalog_in_force(&self) -> CatalogHash {
        self.identity.catalog
    }
}

/// Puts a catalog beside the records. Those say nothing without it: where the disk is full the oldest of them make room,
/// `rooms` times at most.
pub(super) fn put_catalog(
    store: &mut dyn Outbox,
    (hash, bytes): (CatalogHash, &[u8]),
    rooms: usize,
) -> Result<(), CatalogError> {
    let mut kept = store.catalogs().put(hash, bytes);
    for _ in 0..rooms {
        if !is_full(&kept) {
            break;
        }
        match store.make_room() {
            Ok(true) => kept = store.catalogs().put(hash, bytes),
            Ok(false) => break,
            Err(e) => {
                tracing::error!("no room for a catalog: {}", chain(&e));
                break;
            }
        }
    }
    kept
}

fn is_full(kept: &Result<(), CatalogError>) -> bool {
    kept.as_ref().is_err_and(CatalogError::is_full)
}
