//! What is known of the files of a drop.

use gapless_common::files::tail::{Mark, Stat};
use gapless_common::time::Timestamp;

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileState {
    /// It is still to be read, or read again: it could not be read as it is.
    Unread,
    /// All of it was read.
    Read,
    /// It is older than what is of interest.
    Old,
}

/// A file, as it was when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRow {
    /// What a listing said of it.
    pub stat: Stat,
    /// What became of it.
    pub state: FileState,
    /// It was there at the first look of all.
    pub was_there: bool,
    /// A line without its end stands behind the place, of which it is not known yet what it is.
    pub has_half: bool,
    /// That such a line of it waits was said.
    pub is_half_told: bool,
    /// Where it was read to, of a plain one.
    pub mark: Option<Mark>,
    /// First and last instant of its rows, where all of them are known.
    pub span: Option<(Timestamp, Timestamp)>,
}

/// A file by its name below the folder.
pub type Named<T> = (Box<str>, T);

/// What is known of a drop of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropRow {
    /// How its rows were read, as a number; nothing where what was known of its files was tidied away.
    pub reads: Option<u64>,
    /// Of files that were there at the first look of all only what is from here on is of interest.
    pub from: Timestamp,
    /// Instants of lines that cannot be read and may not be accounted for yet.
    pub spoilt: Vec<Timestamp>,
}

/// What has changed of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropChanges {
    /// As it is now.
    pub about: DropRow,
    /// Nothing that was known of its files before is of any use.
    pub is_anew: bool,
    /// These files have changed, or are not listed any more.
    pub files: Vec<Named<Option<FileRow>>>,
}
