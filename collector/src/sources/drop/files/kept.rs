//! What is kept of a drop's files over restarts: from what is known of them to rows, and back. Pure.
//!
//! A row is made once all of a file was read, and of each file that the first look of all found: so that what has none came later,
//! and all of it is of interest. What could not be read is tried again at each start, since it may be the description that was put
//! right.

use std::time::Duration;

use gapless_common::files::tail::Stat;

use super::{File, Files, State};
use crate::store::model::{FileRow, FileState, Named};

impl Files {
    /// Goes on with what an earlier process knew; before anything was listed.
    pub(in super::super) fn recall(&mut self, rows: Vec<Named<FileRow>>) {
        self.known = rows.into_iter().map(|(name, row)| (name, File::of(row))).collect();
        self.is_recalled = true;
        self.forget();
    }

    /// The same where rows come out otherwise by now: all is to be read once more, and what came after the first look of all still did.
    pub(in super::super) fn recall_anew(&mut self, rows: Vec<Named<FileRow>>) {
        self.recall(rows);
        for file in self.known.values_mut().filter(|file| !matches!(file.state, State::Old)) {
            *file = File::new(file.stat, Duration::ZERO, State::New, file.is_old);
        }
        self.unwritten = self.known.keys().cloned().collect();
    }

    /// What has changed since it was [written](Self::written): files that are not listed any more have no row.
    pub(in super::super) fn unwritten(&self) -> Vec<Named<Option<FileRow>>> {
        let rows = self.unwritten.iter().filter_map(|name| match self.known.get(name) {
            None => Some((name.clone(), None)),
            Some(file) => Some((name.clone(), Some(file.row()?))),
        });
        rows.collect()
    }

    /// All of that is.
    pub(in super::super) fn written(&mut self) {
        self.unwritten.clear();
    }
}

impl File {
    fn of(row: FileRow) -> Self {
        let FileRow { stat, state, was_there, has_half, is_half_told, mark, span } = row;
        let state = match state {
            FileState::Unread => State::New,
            FileState::Read => State::Read,
            FileState::Old => State::Old,
        };
        Self { is_half_told, mark, has_half, span, ..Self::new(stat, Duration::ZERO, state, was_there) }
    }

    /// Nothing where it is to be read, and nobody need know that it is there.
    fn row(&self) -> Option<FileRow> {
        let state = match self.state {
            State::Read => FileState::Read,
            State::Old => FileState::Old,
            State::New | State::Growing | State::Spoilt if self.is_old => FileState::Unread,
            State::New | State::Growing | State::Spoilt => return None,
        };
        let Self { stat, is_half_told, mark, has_half, span, is_old: was_there, .. } = *self;
        Some(FileRow { stat, state, was_there, has_half, is_half_told, mark, span })
    }

    /// It is met for the first time in this process. Where its file system is another one than it was, which one of its files it
    /// is says nothing: shares are mounted anew at each start of a machine. Returns whether that is so.
    pub(super) fn is_mounted_anew(&mut self, stat: Stat) -> bool {
        let is_anew = self.stat.identity.0 != stat.identity.0;
        if is_anew {
            self.stat.identity = stat.identity;
        }
        is_anew
    }
}
