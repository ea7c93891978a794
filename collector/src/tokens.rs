//! API tokens: drawn here, shown once, kept as SHA-256 only. Checking one is the API's.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};
use sha2::{Digest, Sha256};

use crate::clock;

/// Random bytes of a token; 43 characters' worth of guessing.
const TOKEN_BYTES: usize = 32;
/// Name of the token that the first start draws.
const ADMIN: &str = "admin";

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The database failed.
    #[error("the database refused the token")]
    Database(#[from] rusqlite::Error),
    /// It would be called nothing.
    #[error("a token needs a name: write whom it is for, such as `prometheus`")]
    Nameless,
    /// No randomness.
    #[error("no random number for a token: {0}")]
    Random(String),
    /// The file for the first token could not be written.
    #[error("cannot write the token to {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Draws a token and keeps its hash under `name`; replaces the one of that name.
///
/// # Errors
/// [`TokenError`].
pub fn draw(connection: &Connection, name: &str) -> Result<String, TokenError> {
    if name.trim().is_empty() {
        return Err(TokenError::Nameless);
    }
    let token = random()?;
    keep(connection, name, &token)?;
    Ok(token)
}

fn random() -> Result<String, TokenError> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(|e| TokenError::Random(e.to_string()))?;
    let mut token = "gapless_".to_owned();
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(token, "{byte:02x}");
    }
    Ok(token)
}

fn keep(connection: &Connection, name: &str, token: &str) -> Result<(), TokenError> {
    let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
    let sql = "INSERT OR REPLACE INTO tokens VALUES (?1, ?2, ?3)";
    connection.execute(sql, params![name, hash.as_slice(), clock::now().0])?;
    Ok(())
}

/// At the first start: draws the admin token and writes it to a file that only its owner reads. The file comes
/// first: a token that nobody can read is worth nothing.
///
/// # Errors
/// [`TokenError`].
pub fn ensure_admin(connection: &Connection, file: &Path) -> Result<bool, TokenError> {
    let any: bool = connection.query_row("SELECT EXISTS (SELECT 1 FROM tokens)", [], |r| r.get(0))?;
    if any {
        return Ok(false);
    }
    let token = random()?;
    let failed = |source| TokenError::File { path: file.to_owned(), source };
    let mut options = std::fs::OpenOptions::new();
    // Who waits for the file finds the token in it, not a file that is still empty.
    let new = file.with_extension("new");
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&new);
    opened.and_then(|mut f| writeln!(f, "{token}")).map_err(failed)?;
    std::fs::rename(&new, file).map_err(failed)?;
    keep(connection, ADMIN, &token)?;
    Ok(true)
}

/// Names of the tokens there are.
///
/// # Errors
/// [`TokenError::Database`].
pub fn names(connection: &Connection) -> Result<Vec<String>, TokenError> {
    let mut statement = connection.prepare("SELECT name FROM tokens ORDER BY name")?;
    let names = statement.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>();
    Ok(names?)
}

/// Takes a token back. Returns whether there was one.
///
/// # Errors
/// [`TokenError::Database`].
pub fn revoke(connection: &Connection, name: &str) -> Result<bool, TokenError> {
    Ok(connection.execute("DELETE FROM tokens WHERE name = ?1", [name])? > 0)
}
