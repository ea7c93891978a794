//! A device whose rows lie in files: looks which are new, and makes rows of them, a part at a time.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use gapless_common::planted::{self, Bug};
use gapless_common::time::{SlotGrid, Timestamp};

use super::super::failure::Failure;
use super::super::fetch::{End, Fetch, News, Recalled};
use super::super::rows::{Parsed, Row};
use super::files::{Begun, Cut, Files, Half, Holding, Stretch};
use super::form::LastLine;
use super::lines::Meaning;
use super::open::Open;
use super::packing::Packing;
use super::place::{Listing, Place, Trouble};
use crate::store::model::{DropChanges, DropRow};

/// Rows of one part: what is held in memory beside the text of one file.
const PART_ROWS: usize = 5_000;
/// What is wrong with one file is told so often; the rest is counted.
const TOLD_MAX: usize = 10;
/// What is said of a file that was listed, and then was not there.
const GONE: &str = "it went before it was read";
/// Rows that cannot be read and are not accounted for yet, at most; the slots of others are missing as not recorded.
const SPOILT_MAX: usize = 1_000;

/// How a device is described.
pub(super) struct Settings {
    /// What the source is called in the log.
    pub(super) source: String,
    /// Which files.
    pub(super) pattern: String,
    /// When its rows are due.
    pub(super) grid: SlotGrid,
    /// How far back the first collection goes, in ms; as far as there is anything where it is not said.
    pub(super) first_ms: Option<i64>,
    /// How lines are read.
    pub(super) meaning: Meaning,
    /// What a last line without its end is.
    pub(super) last_line: LastLine,
    /// How text is made of files.
    pub(super) packing: Packing,
    /// All of that by which rows are made of a file, as a number.
    pub(super) reads: u64,
}

/// Tells a time that nobody sets.
pub(super) type Clock = Box<dyn Fn() -> Instant + Send>;

/// See the module.
pub(in crate::sources) struct DropDevice {
    settings: Settings,
    place: Box<dyn Place>,
    clock: Clock,
    begun: Instant,
    files: Files,
    /// What was missing when the collector started.
    gaps: Vec<Stretch>,
    /// From where on all is of interest, of a device that was never read: files may come before the first look at them.
    since: Option<Timestamp>,
    /// Since when it is due, where it is known from an earlier process.
    due_since: Option<Timestamp>,
    /// Of files that the first look of all finds nothing before it is ever of interest; known once there was that look.
    floor: Option<Timestamp>,
    /// What an earlier process kept of its files is of no use.
    is_anew: bool,
    /// A listing was had in this process.
    has_looked: bool,
    look: Option<Look>,
    /// What ended the look, once what came before it is handed on.
    failed: Option<Trouble>,
    /// Instants whose lines cannot be read.
    spoilt: Vec<Timestamp>,
}

/// A look under way.
#[derive(Default)]
struct Look {
    queue: VecDeque<Box<str>>,
    open: Option<Open>,
    complaints: Complaints,
    /// Before that there may be rows where it could not look.
    unseen_until: Option<Timestamp>,
}

impl Look {
    /// A file that was written last then was not seen as it was listed.
    fn unseen(&mut self, written_at: Option<Timestamp>) {
        self.unseen_until = self.unseen_until.max(written_at.map(|at| at.plus_ms(1)));
    }
}

/// What is wrong, as it is said to people.
#[derive(Default)]
struct Complaints {
    first: Option<String>,
    more: usize,
    of_file: usize,
}

impl Complaints {
    /// What of a place cannot be read; a look writes it into the log, too.
    fn of(listing: &Listing) -> Self {
        let mut complaints = Self::default();
        for (what, why) in listing.complaints() {
            complaints.count(what, None, &why);
        }
        complaints
    }

    fn add(&mut self, source: &str, file: &str, line: Option<u64>, why: &str) {
        self.of_file += 1;
        if self.of_file <= TOLD_MAX {
            tracing::warn!(source, file, line, "{why}");
        }
        if self.of_file == TOLD_MAX {
            tracing::warn!(source, file, "what else is wrong with this file is counted, and not told");
        }
        self.count(file, line, why);
    }

    fn count(&mut self, file: &str, line: Option<u64>, why: &str) {
        match &self.first {
            Some(_) => self.more += 1,
            None => {
                let line = line.map_or_else(String::new, |line| format!(" line {line}"));
                self.first = Some(format!("{file}{line}: {why}"));
            }
        }
    }

    fn text(self) -> Option<String> {
        let more =
            if self.more > 0 { format!("; and {} more, see the log", self.more) } else { String::new() };
        self.first.map(|first| format!("{first}{more}"))
    }
}

impl DropDevice {
    /// Files at `place`.
    pub(super) fn new(settings: Settings, place: Box<dyn Place>, clock: Clock) -> Self {
        let (begun, files, gaps) = (clock(), Files::new(settings.last_line), Vec::new());
        Self {
            settings,
            place,
            clock,
            begun,
            files,
            gaps,
            since: None,
            due_since: None,
            floor: None,
            is_anew: true,
            has_looked: false,
            look: None,
            failed: None,
            spoilt: Vec::new(),
        }
    }

    fn begin_look(&mut self, from: Timestamp, now: Duration) -> Result<Look, Trouble> {
        self.spoilt.retain(|at| *at >= from);
        let listing = self.place.list(&self.settings.pattern)?;
        self.floor.get_or_insert(match self.settings.first_ms {
            None => Timestamp(i64::MIN),
            Some(_) => self.since.or(self.due_since).unwrap_or(from),
        });
        let (gaps, from) = (&mut self.gaps, self.since.unwrap_or(from));
        let queue = self.files.listed(&listing, now, || Cut { from, gaps: std::mem::take(gaps) });
        let queue = queue.map_err(Trouble::Place)?.into();
        for (what, why) in listing.complaints() {
            tracing::warn!(source = self.settings.source, file = what, "{why}");
        }
        if !std::mem::replace(&mut self.has_looked, true) && listing.files.is_empty() {
            let Settings { source, pattern, .. } = &self.settings;
            tracing::warn!(
                source,
                pattern,
                "no file there is called so yet: see `drop.files` where there should be one"
            );
        }
        let (complaints, unseen_until) = (Complaints::of(&listing), listing.unseen_until());
        Ok(Look { queue, open: None, complaints, unseen_until })
    }

    /// Reads on in the file that is open, or opens the next one; whether there was any.
    fn step(&mut self, look: &mut Look, rows: &mut Vec<Row>) -> Result<bool, Trouble> {
        let Settings { meaning, packing, source, .. } = &self.settings;
        let Some(mut open) = look.open.take() else {
            let Some(name) = look.queue.pop_front() else { return Ok(false) };
            look.complaints.of_file = 0;
            let Some(begun) = self.files.begin(&name) else { return Ok(true) };
            match Open::new(&name, begun, &mut *self.place, packing, meaning) {
                Ok(open) => look.open = Some(open),
                Err(trouble) => self.left(look, &name, trouble)?,
            }
            return Ok(true);
        };
        match open.next(&mut *self.place, meaning) {
            Ok(Some((new, bad))) => {
                let is_wanted = |at: Timestamp| open.cut.as_ref().is_none_or(|cut| cut.wants(at));
                rows.extend(new.into_iter().filter(|row| is_wanted(row.at)));
                for bad in bad {
                    look.complaints.add(source, &open.name, bad.line, &bad.why);
                    let at = bad.at.filter(|at| is_wanted(*at) && self.spoilt.len() < SPOILT_MAX);
                    self.spoilt.extend(at);
                }
                look.open = Some(open);
            }
            Ok(None) => {
                if open.is_short {
                    look.unseen(self.files.written_at(&open.name));
                }
                if let Some(bad) = open.waiting.filter(|_| self.files.waits(&open.name)) {
                    look.complaints.add(source, &open.name, bad.line, &bad.why);
                }
                self.files.read(&open.name, open.reader, open.has_half, open.span);
            }
            Err(trouble) => self.left(look, &open.name, trouble)?,
        }
        Ok(true)
    }

    /// A file is left for this reason, and the next one read.
    fn left(&mut self, look: &mut Look, name: &str, trouble: Trouble) -> Result<(), Trouble> {
        let why = match trouble {
            Trouble::Place(_) => return Err(trouble),
            Trouble::Gone => {
                // What was new in it may be there yet, under another name.
                look.unseen(self.files.written_at(name));
                self.files.gone(name);
                return Ok(());
            }
            Trouble::Unread(why) => {
                match planted::has(Bug::FileGivenUp) {
                    true => self.files.spoilt(name),
                    false => self.files.unread(name),
                }
                why
            }
            Trouble::Spoilt(why) => {
                self.files.spoilt(name);
                why
            }
            Trouble::Growing(why) if self.files.growing(name) => why,
            Trouble::Growing(why) => {
                tracing::debug!(file = name, why, "it may not be whole yet, and waits for the next look");
                return Ok(());
            }
        };
        look.complaints.add(&self.settings.source, name, None, &why);
        Ok(())
    }

    fn end(&mut self, look: Look) -> End {
        self.files.forget();
        let of_files = self.files.spoilt_until().map(|until| (Timestamp(i64::MIN), until.plus_ms(1)));
        let of_lines = self.spoilt.iter().map(|at| {
            let slot = self.settings.grid.at(self.settings.grid.slot_at(*at));
            (slot, slot.plus_ms(1))
        });
        let unread_until = self.files.unread_until().map(|until| until.plus_ms(1));
        let unseen = unread_until.max(look.unseen_until).map(|until| (Timestamp(i64::MIN), until));
        End {
            corrupt: of_lines.chain(of_files).collect(),
            unseen: unseen.into_iter().collect(),
            trouble: look.complaints.text(),
        }
    }

    /// Reads all rows of a file, whatever was read of it before.
    fn read_all(&mut self, file: &Holding, mut each: impl FnMut(Row)) -> Result<(), Trouble> {
        let Settings { meaning, packing, .. } = &self.settings;
        let Holding { half, is_settled, .. } = *file;
        let begun = Begun { size: file.stat.size, reader: None, mark: None, cut: None, half, is_settled };
        let mut open = Open::new(&file.name, begun, &mut *self.place, packing, meaning)?;
        while let Some((rows, _)) = open.next(&mut *self.place, meaning)? {
            rows.into_iter().for_each(&mut each);
        }
        if let Some(span) = open.span {
            self.files.spans(&file.name, file.stat, span);
        }
        Ok(())
    }

    /// The rows of all these files of a listing, why some of them gave none, and whether there may be some later in one of
    /// those.
    fn read_files(
        &mut self,
        listing: &Listing,
        files: Vec<Holding>,
        mut each: impl FnMut(Row),
    ) -> Result<(Option<String>, bool), Failure> {
        let (mut complaints, mut is_unread) = (Complaints::of(listing), false);
        for file in files {
            complaints.of_file = 0;
            match self.read_all(&file, &mut each) {
                Ok(()) => {}
                Err(trouble @ Trouble::Place(_)) => return Err(self.failure(trouble)),
                Err(Trouble::Gone) => {
                    is_unread = true;
                    complaints.add(&self.settings.source, &file.name, None, GONE);
                }
                Err(Trouble::Unread(why)) => {
                    is_unread = true;
                    complaints.add(&self.settings.source, &file.name, None, &why);
                }
                Err(Trouble::Growing(why) | Trouble::Spoilt(why)) => {
                    complaints.add(&self.settings.source, &file.name, None, &why);
                }
            }
        }
        Ok((complaints.text(), is_unread))
    }

    /// How long it has been there.
    fn age(&self) -> Duration {
        (self.clock)().saturating_duration_since(self.begun)
    }

    fn list(&mut self) -> Result<Listing, Failure> {
        self.place.list(&self.settings.pattern).map_err(|trouble| self.failure(trouble))
    }

    fn failure(&self, trouble: Trouble) -> Failure {
        let why = match trouble {
            Trouble::Gone => "there is no such folder".to_owned(),
            Trouble::Place(why) | Trouble::Unread(why) | Trouble::Growing(why) | Trouble::Spoilt(why) => why,
        };
        Failure::Transport(format!("{}: {why}", self.settings.source))
    }

    /// See [`Fetch::news`]; `now` is when the look begins, if one does, since the device began.
    fn news_at(&mut self, from: Timestamp, now: Duration) -> Result<News, Failure> {
        if let Some(trouble) = self.failed.take() {
            return Err(self.failure(trouble));
        }
        let mut look = match self.look.take() {
            Some(look) => look,
            None => self.begin_look(from, now).map_err(|trouble| {
                self.place.rest();
                self.failure(trouble)
            })?,
        };
        let mut news = News::default();
        while news.rows.len() < PART_ROWS {
            match self.step(&mut look, &mut news.rows) {
                Ok(true) => {}
                Ok(false) => {
                    self.place.rest();
                    news.end = Some(self.end(look));
                    return Ok(news);
                }
                Err(trouble) => {
                    // What came before it is handed on first, since it is not read again.
                    self.place.rest();
                    self.failed = Some(trouble);
                    return Ok(news);
                }
            }
        }
        self.look = Some(look);
        Ok(news)
    }
}

impl Fetch for DropDevice {
    fn was_never_read(&mut self) {
        // Where it is said how far back it goes, that was counted from the first start.
        if self.settings.first_ms.is_none() {
            self.since = Some(Timestamp(i64::MIN));
        }
    }

    fn oldest(&mut self, now: Timestamp) -> Result<Timestamp, Failure> {
        let grid = self.settings.grid;
        let mut oldest: Option<Timestamp> = self.settings.first_ms.map(|ms| now.plus_ms(-ms));
        self.since = Some(oldest.unwrap_or(Timestamp(i64::MIN)));
        if oldest.is_none() {
            let listing = self.list()?;
            let count = listing.files.len();
            if count > 0 {
                self.files.holds_some();
            }
            // Half a last value has its instant already.
            let files = listing.files.iter().map(|(name, stat)| Holding {
                name: name.clone(),
                stat: *stat,
                half: Half::Read,
                is_settled: false,
            });
            let files = files.collect();
            let earlier = |row: Row| oldest = Some(oldest.map_or(row.at, |at| at.min(row.at)));
            let read = self.read_files(&listing, files, earlier);
            self.place.rest();
            let (trouble, is_unread) = read?;
            let is_anything = count > 0 || !listing.hidden.is_empty();
            // What begins later than there is anything would be missed by nobody.
            if is_unread || (oldest.is_none() && is_anything) {
                let why = trouble
                    .unwrap_or_else(|| format!("in none of its {count} files is a row of this device"));
                return Err(Failure::Answer(format!("{}: {why}", self.settings.source)));
            }
        }
        Ok(grid.at(grid.first_from(oldest.unwrap_or(now).min(now))))
    }

    fn fetch(&mut self, from: Timestamp, to: Timestamp) -> Result<Parsed, Failure> {
        let listing = self.list()?;
        let is_mounted = self.files.is_mounted(&listing);
        is_mounted.map_err(|why| {
            self.place.rest();
            self.failure(Trouble::Place(why))
        })?;
        let files = self.files.holding(&listing, self.age(), (from, to));
        let mut rows = BTreeMap::new();
        let mut doubled = 0;
        let trouble = self.read_files(&listing, files, |row| {
            if (from..to).contains(&row.at) {
                let cells = row.cells.clone();
                doubled +=
                    usize::from(rows.insert(row.at, row).is_some_and(|before: Row| before.cells != cells));
            }
        });
        self.place.rest();
        let (trouble, _) = trouble?;
        Ok(Parsed { rows: rows.into_values().collect(), doubled, trouble, ..Parsed::default() })
    }

    fn probe(&mut self) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    fn news(&mut self, from: Timestamp) -> Result<Option<News>, Failure> {
        self.news_at(from, self.age()).map(Some)
    }

    fn missing(&mut self, gaps: Vec<Stretch>) {
        self.gaps = gaps;
    }

    fn recall(&mut self, recalled: Recalled) {
        self.due_since = recalled.due_since;
        let Some((about, files)) = recalled.files else { return };
        (self.since, self.floor) = (Some(about.from), Some(about.from));
        self.is_anew = about.reads != Some(self.settings.reads);
        if self.is_anew {
            let source = &self.settings.source;
            tracing::info!(
                source,
                "its files are not known, or make other rows by now: all that are there are read anew"
            );
            // Of one that was left alone for long nothing is known.
            if !files.is_empty() {
                self.files.recall_anew(files);
            }
            return;
        }
        self.spoilt = about.spoilt;
        self.files.recall(files);
    }

    fn unwritten(&self) -> Option<DropChanges> {
        let (files, is_anew) = (self.files.unwritten(), self.is_anew);
        let about =
            DropRow { reads: Some(self.settings.reads), from: self.floor?, spoilt: self.spoilt.clone() };
        (is_anew || !files.is_empty()).then_some(DropChanges { about, is_anew, files })
    }

    fn written(&mut self) {
        self.is_anew = false;
        self.files.written();
    }
}

#[cfg(test)]
mod tests;
