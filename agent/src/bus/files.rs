//! The way to files: lists folders and reads bytes for their collection, and shows a person the newest row. Decides
//! nothing.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;

use super::{BusHandle, SpawnError, asking};
use crate::clock::{Clock, Now};
use crate::config::{Folder, LogFiles};
use crate::event::BusEvent;
use crate::files::core::{Ask, Failure, Folder as Collector, Found};
use crate::files::form::{Form, LineError};
use crate::files::glob::{Entry, FILES_MAX, Found as Listed, find_newest};
use crate::files::tail::{Came, Item, Row, Stat, Tail};
use crate::records::layout::{Channels, Layout};
use crate::status::{ValueStatus, value_text};

/// Starts the threads of a folder. Slots from `started` on are its to account for.
///
/// # Errors
/// [`SpawnError`] where the system has no thread left.
pub fn spawn_files<E: From<BusEvent> + Send + 'static>(
    folder: &Folder,
    clock: Clock,
    started: Now,
    events: SyncSender<E>,
) -> Result<BusHandle, SpawnError> {
    let sets = folder.devices.iter().map(|files| files.settings.clone()).collect();
    let collector = Collector::new(folder.id.clone(), sets, started, clock.now());
    let root = folder.path.clone();
    let mut told = Told::default();
    asking::spawn(folder.id.as_str(), collector, move |ask: Ask| find(&root, &mut told, ask), clock, events)
}

/// What the log says of patterns: once, and again where it was otherwise in between.
#[derive(Debug, Default)]
struct Told {
    /// They mean too many files.
    left_out: BTreeSet<Box<str>>,
    /// They mean none.
    empty: BTreeSet<Box<str>>,
}

/// Does what is asked for. What was `told` of patterns is known from one to the next.
fn find(root: &Path, told: &mut Told, ask: Ask) -> Result<Found, Failure> {
    match ask {
        Ask::List(pattern) => list(root, &pattern)
            .map(|listed| {
                tell_left_out(root, &mut told.left_out, &pattern, listed.left_out);
                tell_empty(root, &mut told.empty, &pattern, listed.files.is_empty());
                Found::Files(listed.files)
            })
            .map_err(|(path, error)| Failure::Unreadable(format!("cannot list {}: {error}", path.display()))),
        Ask::Read(name, offset, len) => {
            read(&root.join(&*name), offset, len).map(Found::Bytes).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Failure::Gone,
                _ => Failure::Unreadable(format!("cannot read {}: {error}", root.join(&*name).display())),
            })
        }
    }
}

/// The files that a pattern means, by their names below the folder.
fn list(root: &Path, pattern: &str) -> Result<Listed, (PathBuf, io::Error)> {
    find_newest(FILES_MAX, pattern, &mut |folder, is_wanted| {
        let folder = root.join(folder);
        entries(&folder, is_wanted).map_err(|error| (folder, error))
    })
}

/// Says that files are left out: once, and again where none were in between. Whether it was said.
fn tell_left_out(root: &Path, told: &mut BTreeSet<Box<str>>, pattern: &str, left_out: u64) -> bool {
    if left_out == 0 {
        told.remove(pattern);
        return false;
    }
    let is_new = told.insert(pattern.into());
    if is_new {
        tracing::warn!(
            folder = %root.display(),
            pattern,
            "it means {left_out} files beside the {FILES_MAX} that were written last, and these are not read: write a narrower \
             pattern, or put away what is read"
        );
    }
    is_new
}

/// Says that no file has such a name: once, and again where one had in between. Whether it was said.
fn tell_empty(root: &Path, told: &mut BTreeSet<Box<str>>, pattern: &str, is_empty: bool) -> bool {
    if !is_empty {
        told.remove(pattern);
        return false;
    }
    let is_new = told.insert(pattern.into());
    if is_new {
        tracing::warn!(folder = %root.display(), pattern, "no file of the folder is called so");
    }
    is_new
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
            found.push(Entry { name: name.into(), is_folder: about.is_dir(), stat: stat(&about) });
        }
    }
    Ok(found)
}

fn stat(about: &fs::Metadata) -> Stat {
    Stat {
        identity: (about.dev(), about.ino()),
        size: about.size(),
        modified_ms: about.mtime().saturating_mul(1_000).saturating_add(about.mtime_nsec() / 1_000_000),
        modified_ns: about.mtime_nsec(),
    }
}

fn read(path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(u64::try_from(len).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Why files show nothing to a person.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The folder cannot be listed.
    #[error("cannot list {0}")]
    List(PathBuf, #[source] io::Error),
    /// No file has such a name.
    #[error("no file of {0} is called {1}")]
    None(PathBuf, Box<str>),
    /// A file cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// It holds no row.
    #[error("{0} has no row that can be read; line {1} is none")]
    Lines(PathBuf, u64, #[source] LineError),
    /// It holds nothing.
    #[error("{0} has no row yet")]
    Empty(PathBuf),
}

/// The last row of the file that was written last.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// Which file.
    pub file: PathBuf,
    /// The row's time.
    pub at: gapless_common::time::Timestamp,
    /// Lines that cannot be read.
    pub bad: u64,
    /// Its values.
    pub values: Vec<ValueStatus>,
}

/// Reads the file of a device that was written last, now: for a person who wants to see its values.
///
/// # Errors
/// [`FilesError`].
pub fn read_files(folder: &Folder, files: &LogFiles) -> Result<Shown, FilesError> {
    let settings = &files.settings;
    let found =
        list(&folder.path, &settings.pattern).map_err(|(path, error)| FilesError::List(path, error))?;
    let newest = found.files.iter().max_by_key(|(_, stat)| stat.written());
    let Some((name, _)) = newest else {
        return Err(FilesError::None(folder.path.clone(), settings.pattern.clone()));
    };
    let path = folder.path.join(&**name);
    let (row, bad, first) =
        last_row(&path, &settings.form).map_err(|error| FilesError::Read(path.clone(), error))?;
    let Some(row) = row else {
        return Err(match first {
            Some((line, error)) => FilesError::Lines(path, line, error),
            None => FilesError::Empty(path),
        });
    };
    let (layout, all) = Layout::new(0, &row.fields, &settings.channels);
    let channels = if settings.channels == Channels::All { all } else { settings.channels.named() };
    let samples = layout.samples(&row.vals);
    let values = channels.iter().zip(&samples).map(|(channel, sample)| ValueStatus {
        channel: channel.id.to_string(),
        value: sample.value.as_ref().map(value_text),
        unit: channel.unit.to_string(),
        quality: sample.quality.to_string(),
    });
    Ok(Shown { file: path, at: row.at, bad, values: values.collect() })
}

type LastRow = (Option<Row>, u64, Option<(u64, LineError)>);

/// The last row of a file, how many lines are bad, and the first of these.
fn last_row(path: &Path, form: &Form) -> io::Result<LastRow> {
    let mut tail = Tail::new(form);
    let (mut row, mut bad, mut first) = (None, 0, None);
    loop {
        let (offset, len) = tail.wanted();
        let bytes = read(path, offset, len)?;
        let Came::Items { items, more } = tail.took(form, &bytes) else { return Ok((row, bad, first)) };
        for item in items {
            match item {
                Item::Row(new) => row = Some(new),
                Item::Bad(line, error) => {
                    bad += 1;
                    first.get_or_insert((line, error));
                }
                Item::Long(_) => bad += 1,
                Item::Head => {}
            }
        }
        if !more {
            return Ok((row, bad, first));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_files_are_left_out_is_said_once_as_long_as_it_lasts() {
        let mut told = BTreeSet::new();
        let rows = [
            ("a*", 0, false),
            ("a*", 3, true),
            ("a*", 4, false),
            ("b*", 1, true),
            ("a*", 0, false),
            ("a*", 1, true),
        ];
        for (pattern, left_out, expected) in rows {
            let is_said = tell_left_out(Path::new("/x"), &mut told, pattern, left_out);
            assert_eq!(is_said, expected, "{pattern} {left_out}");
        }
    }

    #[test]
    fn that_no_file_is_called_so_is_said_once_as_long_as_it_lasts() {
        let mut told = BTreeSet::new();
        let rows = [
            ("a*", true, true),
            ("a*", true, false),
            ("b*", true, true),
            ("a*", false, false),
            ("a*", true, true),
        ];
        for (pattern, is_empty, expected) in rows {
            assert_eq!(
                tell_empty(Path::new("/x"), &mut told, pattern, is_empty),
                expected,
                "{pattern} {is_empty}"
            );
        }
    }
}
