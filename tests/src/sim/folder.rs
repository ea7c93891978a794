//! A folder of a run, into which a logger writes its files and whose files a source of the collector reads: what is to be seen of it,
//! and what is wrong with it. What its logger does is `scribe`'s: what has come by an instant is written when somebody looks. What
//! holds of it is `dropped`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use gapless_common::files::glob::Entry;
use gapless_common::files::tail::{CHUNK_BYTES, Stat};

use super::clock::{BEGAN_MS, truth};
use super::dropping::Dropping;
use super::rng::Rng;
use super::scribe::Scribe;

/// The site of its device.
pub const SITE: &str = "f";
/// The device.
pub const DEVICE: &str = "mast";
/// The agent that counts for it.
pub const AGENT: &str = "drop-mast";

/// A line: its value, as its bits, `None` where it has none, and since when it is whole, in ms of the run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    pub(super) bits: Option<u64>,
    pub(super) since_ms: u64,
}

/// A file.
#[derive(Debug, Clone, Default)]
pub(super) struct File {
    pub(super) inode: u64,
    pub(super) text: String,
    pub(super) modified: i64,
    /// Its whole lines, by their instants.
    pub(super) lines: BTreeMap<i64, Line>,
    /// Lines that are none though their time can be read, and since when they are there.
    pub(super) spoilt: BTreeMap<i64, u64>,
    /// It cannot be read until then.
    pub(super) unread_until_ms: u64,
    /// Since when it is called so.
    pub(super) there_ms: u64,
    /// Another one was called so before it.
    pub(super) is_again: bool,
}

impl File {
    pub(super) fn push(&mut self, text: &str, at_ms: u64) {
        self.text.push_str(text);
        self.modified = truth(at_ms).0;
    }

    fn stat(&self) -> Stat {
        let modified_ns = self.modified.rem_euclid(1_000) * 1_000_000;
        let size = self.text.len() as u64;
        Stat { identity: (1, self.inode), size, modified_ms: self.modified, modified_ns }
    }
}

/// What happens between a look and what is read after it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Slip {
    /// The folder goes until then; whether it seems to be empty.
    Away(u64, bool),
    /// A file is removed.
    Removed,
    /// The logger begins another file.
    Rotated,
}

/// See the module's text.
#[derive(Debug)]
pub struct Folder {
    pub(super) plan: Dropping,
    pub(super) files: BTreeMap<String, File>,
    /// Its logger.
    pub(super) scribe: Scribe,
    /// The folder cannot be listed until then, or seems to be empty.
    pub(super) away: (u64, bool),
    /// What happens after the next look.
    pub(super) slip: Option<Slip>,
    /// The collector is killed once more of it was read.
    pub(super) is_deadly: bool,
    /// Every value that was ever in a whole line.
    pub(super) ever: BTreeMap<i64, BTreeSet<Option<u64>>>,
    /// Instants of all lines that are none though their time can be read, and since when there was one.
    pub(super) ever_spoilt: BTreeMap<i64, u64>,
    /// The collector knows some of its files, or has seen some in this life.
    pub(super) is_known: bool,
    /// When files were to be seen, in ms of the run.
    pub(super) looks_ms: Vec<u64>,
    /// The turn in which it last gave an error, or something went between a look and a read.
    pub(super) trouble_turn: Option<u64>,
    /// What was reached.
    pub(super) reached: Reached,
    pub(super) rng: Rng,
}

/// What a folder was in: of most of it the instants of lines.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// A look found them half.
    pub(super) halves: BTreeSet<i64>,
    /// Their value was put right.
    pub(super) corrected: BTreeSet<i64>,
    /// It was in place.
    pub(super) rewritten: BTreeSet<i64>,
    /// Their rows came in a file of their own.
    pub(super) came_late: BTreeSet<i64>,
    /// They stand in a file that is called as one before it.
    pub(super) again: BTreeSet<i64>,
    /// Something went between a look and a read of it.
    pub(super) has_slipped: bool,
    /// A file was longer than one read.
    pub(super) is_long: bool,
    /// The first look of all found none of it.
    pub(super) has_failed_first: bool,
}

impl Folder {
    /// With all rows up to the begin of the run.
    #[must_use]
    pub fn new(plan: Dropping, rng: Rng) -> Self {
        let next = plan.oldest.0.div_euclid(plan.interval_ms) * plan.interval_ms;
        let mut folder = Self {
            files: BTreeMap::new(),
            scribe: Scribe::new(next),
            away: plan.away,
            plan,
            slip: None,
            is_deadly: false,
            ever: BTreeMap::new(),
            ever_spoilt: BTreeMap::new(),
            is_known: false,
            looks_ms: Vec::new(),
            trouble_turn: None,
            reached: Reached::default(),
            rng,
        };
        folder.begin_file(0);
        while folder.scribe.next < BEGAN_MS {
            folder.write_next(0);
        }
        folder
    }

    /// Nothing is wrong with it any more; what is gone stays so.
    pub fn make_good(&mut self) {
        (self.away, self.slip, self.plan.spoilt_one_in) = ((0, false), None, 0);
        self.is_deadly = false;
        self.scribe.make_good();
        self.files.values_mut().for_each(|file| file.unread_until_ms = 0);
    }

    /// Why nothing can be had of it, where that is so.
    fn trouble(&mut self, (now_ms, turn): (u64, u64)) -> Option<io::Error> {
        let (until_ms, seems_empty) = self.away;
        (now_ms < until_ms).then(|| {
            self.trouble_turn = Some(turn);
            if seems_empty { io::ErrorKind::NotFound.into() } else { io::Error::other("stale file handle") }
        })
    }

    /// What is to be seen of it, as of a turn.
    pub(super) fn entries(
        &mut self,
        (now_ms, turn): (u64, u64),
        is_wanted: &dyn Fn(&str) -> bool,
    ) -> io::Result<Vec<Entry>> {
        self.catch_up(now_ms);
        self.reached.has_failed_first |= now_ms < self.away.0 && self.looks_ms.is_empty();
        match self.away {
            (until_ms, true) if now_ms < until_ms => return Ok(Vec::new()),
            _ => self.trouble((now_ms, turn)).map_or(Ok(()), Err)?,
        }
        self.reached.halves.extend(self.scribe.half_at());
        let seen = self.files.iter().filter(|(name, _)| is_wanted(name.as_str()));
        let seen: Vec<_> = seen
            .map(|(name, file)| Entry { name: name.as_str().into(), is_folder: false, stat: file.stat() })
            .collect();
        if !seen.is_empty() {
            self.is_known = true;
            self.looks_ms.push(now_ms);
            self.slip(now_ms, turn);
        }
        Ok(seen)
    }

    /// Something happens right after a look.
    fn slip(&mut self, now_ms: u64, turn: u64) {
        let Some(slip) = self.slip.take() else { return };
        self.trouble_turn = Some(turn);
        let mut rng = self.rng.fork(1);
        match slip {
            Slip::Away(until_ms, seems_empty) => self.away = (until_ms, seems_empty),
            Slip::Removed => self.remove(now_ms, &mut rng),
            Slip::Rotated => self.rotate((now_ms, 0), &mut rng),
        }
    }

    /// Bytes of a file.
    pub(super) fn read(
        &mut self,
        name: &str,
        (offset, len): (u64, usize),
        (now_ms, turn): (u64, u64),
    ) -> io::Result<Vec<u8>> {
        self.catch_up(now_ms);
        let away = self.trouble((now_ms, turn));
        self.reached.has_slipped |= away.is_some() || !self.files.contains_key(name);
        if let Some(error) = away {
            return Err(error);
        }
        let file = self.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        if now_ms < file.unread_until_ms {
            self.trouble_turn = Some(turn);
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(file.text.len());
        let to = from.saturating_add(len).min(file.text.len());
        self.reached.is_long |= len >= CHUNK_BYTES && to < file.text.len();
        Ok(file.text.as_bytes().get(from..to).unwrap_or_default().to_vec())
    }

    /// The files that could be read from `since_ms` on.
    fn readable_files(&self, since_ms: u64) -> impl Iterator<Item = &File> {
        let is_there = since_ms >= self.away.0;
        let is_readable = move |file: &&File| is_there && file.unread_until_ms.max(file.there_ms) <= since_ms;
        self.files.values().filter(is_readable)
    }

    /// The whole lines that could be read from `since_ms` on, with their instants: what each file says of them.
    pub(super) fn readable(&self, since_ms: u64) -> impl Iterator<Item = (i64, Line)> {
        let files = self.readable_files(since_ms);
        let lines = files.flat_map(|file| file.lines.iter().map(|(at, line)| (*at, *line)));
        lines.filter(move |(_, line)| line.since_ms <= since_ms)
    }

    /// The same of those that are none though their time can be read.
    pub(super) fn readable_spoilt(&self, since_ms: u64) -> impl Iterator<Item = i64> {
        let spoilt = self.readable_files(since_ms).flat_map(|file| &file.spoilt);
        spoilt.filter(move |(_, spoilt_ms)| **spoilt_ms <= since_ms).map(|(at, _)| *at)
    }

    /// The instants of all whole lines by then, whether or not they can be read.
    pub(super) fn lines(&self, by_ms: u64) -> impl Iterator<Item = i64> {
        let lines = self.files.values().flat_map(|file| &file.lines);
        lines.filter(move |(_, line)| line.since_ms <= by_ms).map(|(at, _)| *at)
    }

    /// Whether it seems to be empty to a collector that knows none of its files, in a turn that began then.
    pub(super) const fn is_empty_to_strangers(&self, began_ms: u64) -> bool {
        began_ms < self.away.0 && self.away.1 && !self.is_known
    }

    /// The plan.
    #[must_use]
    pub const fn plan(&self) -> &Dropping {
        &self.plan
    }
}
