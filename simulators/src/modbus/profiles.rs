//! Finds the register map that a name or a path means. Reads profile files; parses none itself.

use std::fs;

use gapless_common::profile::{Profile, all};

use super::device::KindError;

/// The embedded profile `name`, or the file that it is the path of (with a `/` in it, or ending in `.toml`).
///
/// # Errors
/// [`KindError::Unknown`] with the names there are, [`KindError::File`].
pub fn find(name: &str) -> Result<Profile, KindError> {
    if name.contains('/') || name.ends_with(".toml") {
        return read(name);
    }
    match all().iter().find(|(id, _)| *id == name) {
        Some((id, toml)) => parse(id, toml),
        None => Err(KindError::Unknown { name: name.to_owned(), known: names().join(", ") }),
    }
}

/// The names of the embedded profiles.
#[must_use]
pub fn names() -> Vec<&'static str> {
    all().iter().map(|(id, _)| *id).collect()
}

fn read(path: &str) -> Result<Profile, KindError> {
    match fs::read_to_string(path) {
        Ok(toml) => parse(path, &toml),
        Err(error) => Err(KindError::File { path: path.to_owned(), why: error.to_string() }),
    }
}

fn parse(path: &str, toml: &str) -> Result<Profile, KindError> {
    Profile::parse(path, toml).map_err(|e| KindError::File { path: path.to_owned(), why: e.to_string() })
}
