//! Where the files of a drop lie: a mounted folder here, a server behind SFTP in `server`. Decides nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gapless_common::files::glob::{Entry, FILES_MAX, find_newest};
use gapless_common::files::tail::Stat;
use gapless_common::time::Timestamp;

use super::super::ground::Folders;

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

/// What lies at a place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Listing {
    /// The files, by their names below the folder.
    pub(super) files: BTreeMap<Box<str>, Stat>,
    /// How many more there are, which were written before these and are not read.
    pub(super) left_out: u64,
    /// Folders below it of which it is not known what they hold, each with a slash at its end, and why.
    pub(super) hidden: BTreeMap<Box<str>, String>,
}

impl Listing {
    /// Whether a file may be there although it is not in the listing.
    pub(super) fn hides(&self, name: &str) -> bool {
        self.hidden.keys().any(|folder| name.starts_with(&**folder))
    }

    /// Before when a row may lie where nobody looks; nothing where all is listed.
    pub(super) fn unseen_until(&self) -> Option<Timestamp> {
        // Each of those that are left out was written before all that are not.
        let oldest = self.files.values().map(|stat| stat.modified_ms).min().filter(|_| self.left_out > 0);
        if self.hidden.is_empty() {
            oldest.map(|ms| Timestamp(ms).plus_ms(1))
        } else {
            Some(Timestamp(i64::MAX))
        }
    }

    /// What of the place is not read, and why: what it is about, and the words for people.
    pub(super) fn complaints(&self) -> impl Iterator<Item = (&str, String)> {
        let of_folders = self.hidden.iter().map(|(folder, why)| (&**folder, why.clone()));
        let left_out = self.left_out;
        let of_others = (left_out > 0).then(|| {
            let why = format!(
                "means {left_out} files beside the {FILES_MAX} that were written last, and these {left_out} are not read: \
                 write a narrower pattern, or put away what is read"
            );
            ("`files`", why)
        });
        of_folders.chain(of_others)
    }
}

/// Files that can be listed and read.
pub(super) trait Place: Send {
    /// The files that a pattern means.
    fn list(&mut self, pattern: &str) -> Result<Listing, Trouble>;

    /// Bytes of a file from `offset` on: `len` of them, fewer where it ends.
    fn read(&mut self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>, Trouble>;

    /// Nothing more is asked for some time.
    fn rest(&mut self) {}
}

/// Lists a place folder by folder. `of_below` says what an error means for a folder below the one that all is in: that it is
/// gone, that it cannot be read, and why, or that nothing more can be had from the place.
pub(super) fn listed<E>(
    pattern: &str,
    mut entries: impl FnMut(&str, &dyn Fn(&str) -> bool) -> Result<Vec<Entry>, E>,
    of_below: impl Fn(E) -> Result<Option<String>, E>,
) -> Result<Listing, E> {
    let mut hidden = BTreeMap::new();
    let found = find_newest(FILES_MAX, pattern, &mut |folder, is_wanted| match entries(folder, is_wanted) {
        Err(error) if !folder.is_empty() => {
            hidden.extend(of_below(error)?.map(|why| (Box::from(folder), why)));
            Ok(Vec::new())
        }
        entries => entries,
    })?;
    Ok(Listing { files: found.files, left_out: found.left_out, hidden })
}

/// A folder, and what gives its files.
pub(super) struct Folder(pub(super) PathBuf, pub(super) Arc<dyn Folders>);

impl Place for Folder {
    fn list(&mut self, pattern: &str) -> Result<Listing, Trouble> {
        let of_below = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Ok(None),
            _ => Ok(Some(format!("it cannot be listed: {error}; may the collector's user read it?"))),
        };
        let entries =
            |folder: &str, is_wanted: &dyn Fn(&str) -> bool| self.1.entries(&self.0.join(folder), is_wanted);
        listed(pattern, entries, of_below).map_err(|error: io::Error| {
            let folder = self.0.display();
            Trouble::Place(format!(
                "cannot list {folder}: {error}; is the share mounted, and may the collector's user read it?"
            ))
        })
    }

    fn read(&mut self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>, Trouble> {
        self.1.read(&self.0.join(name), offset, len).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Trouble::Gone,
            _ => Trouble::Unread(format!("it cannot be read: {error}")),
        })
    }
}

/// The folders of this machine.
pub(in crate::sources) struct Machine;

impl Folders for Machine {
    fn entries(&self, folder: &Path, is_wanted: &dyn Fn(&str) -> bool) -> io::Result<Vec<Entry>> {
        entries(folder, is_wanted)
    }

    fn read(&self, file: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        read(file, offset, len)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_listed_is_told_and_the_others_are() {
        let stat = Stat { identity: (0, 0), size: 1, modified_ms: 0, modified_ns: 0 };
        let entry = |name: &str, is_folder| Entry { name: name.into(), is_folder, stat };
        let list = |broken: &str, of_root: bool| {
            let entries = |folder: &str, _: &dyn Fn(&str) -> bool| match folder {
                _ if of_root => Err(Trouble::Unread("no".to_owned())),
                "" => Ok(["a", "b", "c"].map(|name| entry(name, true)).to_vec()),
                "b/" => Err(match broken {
                    "gone" => Trouble::Gone,
                    "place" => Trouble::Place("cut off".to_owned()),
                    why => Trouble::Unread(why.to_owned()),
                }),
                _ => Ok(vec![entry("x", false)]),
            };
            listed("*/x", entries, |trouble| match trouble {
                Trouble::Gone => Ok(None),
                Trouble::Unread(why) => Ok(Some(why)),
                fatal => Err(fatal),
            })
        };
        let names = |listing: &Listing| listing.files.keys().map(ToString::to_string).collect::<Vec<_>>();
        let listing = list("permission denied", false).unwrap();
        assert_eq!(names(&listing), ["a/x", "c/x"]);
        assert!(listing.hides("b/x") && !listing.hides("c/x"));
        let told: Vec<_> = listing.complaints().collect();
        assert_eq!(told, [("b/", "permission denied".to_owned())]);
        let listing = list("gone", false).unwrap();
        assert_eq!((names(&listing).len(), listing.complaints().count()), (2, 0));
        assert_eq!(list("place", false), Err(Trouble::Place("cut off".to_owned())));
        assert_eq!(list("", true), Err(Trouble::Unread("no".to_owned())));
        let listing = Listing { left_out: 7, ..Listing::default() };
        let told: Vec<_> = listing.complaints().collect();
        assert!(told[0].1.contains("7 files beside the 20000 that were written last"), "{told:?}");
    }
}
