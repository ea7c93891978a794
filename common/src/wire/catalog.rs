//! The canonical bytes of a catalog and their hash.
//!
//! ```text
//! length varint | core | about
//! core   postcard of v1::CoreDevice, in order: ids, grids, pauses, units, quantities, aggregation, labels
//! about  postcard of v1::AboutDevice, in the same order: attributes, each map in the order of its keys
//! ```
//! The hash is the first 8 bytes (little endian) of the SHA-256 of the core: renaming what is for people only
//! does not make another catalog.

use sha2::{Digest, Sha256};

use crate::catalog::Catalog;
use crate::id::CatalogHash;

use super::bytes::{Bad, Input, put_len};
use super::{CATALOG_BYTES_MAX, DecodeError, Message, v1};

fn hash_of(core: &[u8]) -> CatalogHash {
    let digest = Sha256::digest(core);
    let (first, _) = digest.split_first_chunk::<8>().expect("SHA-256 has 32 bytes");
    CatalogHash(u64::from_le_bytes(*first))
}

/// The hash and the canonical bytes of `catalog`.
///
/// A catalog that a decoder would refuse (an id twice, more than 65,536 devices or channels, more than
/// [`CATALOG_BYTES_MAX`] bytes) is for the configuration to refuse: try [`decode_catalog`] on the result.
#[must_use]
pub fn encode_catalog(catalog: &Catalog) -> (CatalogHash, Box<[u8]>) {
    let (core, about) = v1::catalog(catalog);
    let mut out = Vec::with_capacity(core.len() + about.len() + 4);
    put_len(&mut out, core.len());
    out.extend_from_slice(&core);
    out.extend_from_slice(&about);
    (hash_of(&core), out.into())
}

/// Reads canonical bytes.
///
/// # Errors
/// [`DecodeError::Malformed`] where they are not those of a catalog.
pub fn decode_catalog(bytes: &[u8]) -> Result<(CatalogHash, Catalog), DecodeError> {
    let (core, about) = parts(bytes)?;
    Ok((hash_of(core), v1::read_catalog(core, about)?))
}

fn parts(bytes: &[u8]) -> Result<(&[u8], &[u8]), Bad> {
    if bytes.len() > CATALOG_BYTES_MAX {
        return Err(Bad("a catalog beyond the bound"));
    }
    let mut input = Input::new(bytes);
    let len = input.len(CATALOG_BYTES_MAX, "a catalog beyond the bound")?;
    let core = input.take(len)?;
    Ok((core, input.rest()))
}

/// The payload of a catalog message.
pub(super) fn payload(hash: CatalogHash, bytes: &[u8]) -> Vec<u8> {
    [&hash.0.to_le_bytes(), bytes].concat()
}

/// Reads the payload of a catalog message; its hash must be that of its core.
pub(super) fn read_payload(payload: &[u8]) -> Result<Message, DecodeError> {
    let mut input = Input::new(payload);
    let hash = CatalogHash(u64::from_le_bytes(input.array()?));
    let bytes = input.rest();
    if hash_of(parts(bytes)?.0) != hash {
        return Err(DecodeError::Malformed("a catalog that has another hash"));
    }
    Ok(Message::Catalog { hash, bytes: bytes.into() })
}
