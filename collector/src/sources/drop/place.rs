//! Where the files of a drop lie: a mounted folder here, a server behind SFTP in `ssh`. Decides nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use gapless_common::files::glob::{self, Entry, FILES_MAX};
use gapless_common::files::tail::Stat;

/// Why a place or a file of it gives nothing; with the words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nothing can be had from the place.
    Place(String),
    /// There is no such file any more.
    Gone,
    /// The file cannot be read now.
    Unread(String),
    /// As it is the file cannot be read, but it may not be whole yet.
    Growing(String),
    /// The file cannot be read, whatever comes.
    Spoilt(String),
}

/// Files that can be listed and read.
pub(super) trait Place: Send {
    /// The files that a pattern means, by their names below the folder.
    fn list(&mut self, pattern: &str) -> Result<BTreeMap<Box<str>, Stat>, Trouble>;

    /// Bytes of a file from `offset` on: `len` of them, fewer where it ends.
    fn read(&mut self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>, Trouble>;

    /// Nothing more is asked for some time.
    fn rest(&mut self) {}
}

/// Says it where a pattern means more than is taken.
pub(super) fn bounded(place: &str, found: BTreeMap<Box<str>, Stat>) -> BTreeMap<Box<str>, Stat> {
    if found.len() >= FILES_MAX {
        tracing::warn!(place, "`files` means more than {FILES_MAX} files: the others are not read");
    }
    found
}

/// A folder of this machine, whatever is mounted there.
pub(super) struct Folder(pub(super) PathBuf);

impl Place for Folder {
    fn list(&mut self, pattern: &str) -> Result<BTreeMap<Box<str>, Stat>, Trouble> {
        let found = glob::find(pattern, &mut |folder, is_wanted| {
            let folder = self.0.join(folder);
            entries(&folder, is_wanted).map_err(|error| {
                let folder = folder.display();
                Trouble::Place(format!(
                    "cannot list {folder}: {error}; is the share mounted, and may it be read?"
                ))
            })
        })?;
        Ok(bounded(&self.0.display().to_string(), found))
    }

    fn read(&mut self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>, Trouble> {
        let path = self.0.join(name);
        read(&path, offset, len).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Trouble::Gone,
            _ => Trouble::Unread(format!("it cannot be read: {error}")),
        })
    }
}

fn entries(folder: &Path, is_wanted: &dyn Fn(&str) -> bool) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        // A name that is no text cannot be in a pattern.
        let Some(name) = name.to_str().filter(|name| is_wanted(name)) else { continue };
        // What is gone by now is not there, and a link that leads nowhere is no file.
        let Ok(about) = fs::metadata(entry.path()) else { continue };
        if about.is_dir() || about.is_file() {
            let stat = Stat {
                identity: (about.dev(), about.ino()),
                size: about.size(),
                modified_ms: about
                    .mtime()
                    .saturating_mul(1_000)
                    .saturating_add(about.mtime_nsec() / 1_000_000),
                modified_ns: about.mtime_nsec(),
            };
            found.push(Entry { name: name.into(), is_folder: about.is_dir(), stat });
        }
    }
    Ok(found)
}

fn read(path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(u64::try_from(len).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    Ok(bytes)
}
