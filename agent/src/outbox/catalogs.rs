//! Catalogs beside the records: a file each (`catalogs/HASH.cat`), durable before the first record that needs it,
//! kept as long as one is held, even after the catalog's own record was recycled.
//!
//! Does not know how a catalog is written down: bytes in, bytes out, with a CRC-32C (4 bytes) at the end.

use std::collections::BTreeSet;
use std::io;

use gapless_common::id::CatalogHash;

use super::disk::Disk;
use super::to_usize;

const DIRECTORY: &str = "catalogs/";
const SUFFIX: &str = ".cat";
/// Name while a file is being written; replaced by the real one once its contents are durable.
const UNFINISHED: &str = "catalogs/unfinished";

/// Why a catalog cannot be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The file system refuses.
    #[error("catalog {hash}: cannot {action}")]
    Io {
        /// Which catalog.
        hash: CatalogHash,
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The file is damaged.
    #[error("catalog {0} is damaged on the disk")]
    Damaged(CatalogHash),
}

impl CatalogError {
    /// Whether there is no room for it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if super::is_full(source))
    }
}

/// The catalogs of an outbox.
pub struct Catalogs<'a> {
    pub(super) disk: &'a mut dyn Disk,
    /// Bytes of all of them, which the budget counts.
    pub(super) bytes: &'a mut u64,
}

impl Catalogs<'_> {
    /// Keeps a catalog; durable when it returns. One that is there already, and intact, is left alone.
    ///
    /// # Errors
    /// [`CatalogError::Io`].
    pub fn put(&mut self, hash: CatalogHash, catalog: &[u8]) -> Result<(), CatalogError> {
        if matches!(self.get(hash), Ok(Some(there)) if there == catalog) {
            return Ok(());
        }
        let mut bytes = catalog.to_vec();
        bytes.extend_from_slice(&crc32c::crc32c(catalog).to_le_bytes());
        let write = |disk: &mut dyn Disk| {
            disk.create(UNFINISHED, 0)?;
            disk.write_at(UNFINISHED, 0, &bytes)?;
            disk.sync(UNFINISHED)?;
            disk.rename(UNFINISHED, &name(hash))?;
            disk.sync_directory(&name(hash))
        };
        write(self.disk).map_err(|source| CatalogError::Io { hash, action: "write", source })?;
        *self.bytes += super::to_u64(bytes.len());
        Ok(())
    }

    /// The catalog with this hash, where it is kept.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn get(&mut self, hash: CatalogHash) -> Result<Option<Vec<u8>>, CatalogError> {
        let io = |source| CatalogError::Io { hash, action: "read", source };
        let files = self.disk.list().map_err(io)?;
        let Some((name, len)) = files.into_iter().find(|(n, _)| *n == name(hash)) else { return Ok(None) };
        let mut bytes = vec![0; to_usize(len)];
        self.disk.read_at(&name, 0, &mut bytes).map_err(io)?;
        let crc = bytes.split_last_chunk().map(|(body, crc)| (body.len(), u32::from_le_bytes(*crc)));
        match crc {
            Some((len, crc)) if crc32c::crc32c(&bytes[..len]) == crc => {
                bytes.truncate(len);
                Ok(Some(bytes))
            }
            _ => Err(CatalogError::Damaged(hash)),
        }
    }

    /// All that are kept.
    #[cfg(test)]
    pub(super) fn list(&mut self) -> Result<Vec<CatalogHash>, std::io::Error> {
        Ok(self.disk.list()?.iter().filter_map(|(name, _)| parse(name)).collect())
    }

    /// Removes all but `needed`: those that [`catalogs_held`](super::Outbox::catalogs_held) names, and the one in
    /// force.
    ///
    /// # Errors
    /// [`CatalogError::Io`].
    pub fn retain(&mut self, needed: &BTreeSet<CatalogHash>) -> Result<(), CatalogError> {
        let files = self.disk.list().map_err(|source| CatalogError::Io {
            hash: CatalogHash::default(),
            action: "list",
            source,
        })?;
        for (name, len) in files {
            let Some(hash) = parse(&name).filter(|hash| !needed.contains(hash)) else { continue };
            self.disk.remove(&name).map_err(|source| CatalogError::Io { hash, action: "remove", source })?;
            *self.bytes = self.bytes.saturating_sub(len);
        }
        Ok(())
    }
}

/// Bytes that catalogs take of `files`.
pub(super) fn bytes_of(files: &[(String, u64)]) -> u64 {
    files.iter().filter(|(name, _)| name.starts_with(DIRECTORY)).map(|(_, len)| len).sum()
}

fn name(hash: CatalogHash) -> String {
    format!("{DIRECTORY}{hash}{SUFFIX}")
}

fn parse(name: &str) -> Option<CatalogHash> {
    let hash = name.strip_prefix(DIRECTORY)?.strip_suffix(SUFFIX)?;
    u64::from_str_radix(hash, 16).ok().map(CatalogHash)
}
