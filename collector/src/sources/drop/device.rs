//! A device whose rows lie in files: looks which are new, and makes rows of them, a part at a time.

use std::collections::{BTreeMap, VecDeque};

use gapless_common::files::tail::Stat;
use gapless_common::time::{SlotGrid, Timestamp};

use super::super::failure::Failure;
use super::super::fetch::{End, Fetch, News};
use super::super::rows::{Parsed, Row};
use super::files::{Cut, Files, Readers, Stretch};
use super::lines::{Bad, Meaning, Reader};
use super::packing::Packing;
use super::place::{Place, Trouble};

/// Rows of one part: what is held in memory beside the text of one file.
const PART_ROWS: usize = 5_000;
/// What is wrong with one file is told so often; the rest is counted.
const TOLD_MAX: usize = 10;
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
    /// How text is made of files.
    pub(super) packing: Packing,
}

/// See the module.
pub(in crate::sources) struct DropDevice {
    settings: Settings,
    place: Box<dyn Place>,
    files: Files,
    /// What was missing when the collector started.
    gaps: Vec<Stretch>,
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
    stats: BTreeMap<Box<str>, Stat>,
    open: Option<Open>,
    complaints: Complaints,
}

/// What is wrong, as it is said to people.
#[derive(Default)]
struct Complaints {
    first: Option<String>,
    more: usize,
    of_file: usize,
}

impl Complaints {
    fn add(&mut self, source: &str, file: &str, line: Option<u64>, why: &str) {
        self.of_file += 1;
        if self.of_file <= TOLD_MAX {
            tracing::warn!(source, file, line, "{why}");
        }
        if self.of_file == TOLD_MAX {
            tracing::warn!(source, file, "what else is wrong with this file is counted, and not told");
        }
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

/// What came of a file at once: its rows, and lines that are none.
type Part = (Vec<Row>, Vec<Bad>);

/// A file that is being read.
struct Open {
    name: Box<str>,
    cut: Option<Cut>,
    /// Texts that are still to be read; of a plain file the one without bytes.
    texts: VecDeque<Text>,
    /// The places where texts were read to.
    readers: Readers,
    /// First and last instant of what was read.
    span: Option<Stretch>,
}

struct Text {
    name: Box<str>,
    /// `None` of what is read where it lies.
    bytes: Option<Vec<u8>>,
    reader: Reader,
}

impl Open {
    /// Reads on; nothing where all of it was read.
    fn next(&mut self, place: &mut dyn Place, meaning: &Meaning) -> Result<Option<Part>, Trouble> {
        let Some(text) = self.texts.front_mut() else { return Ok(None) };
        let (offset, len) = text.reader.wanted();
        let read;
        let bytes = match &text.bytes {
            None => {
                read = place.read(&self.name, offset, len)?;
                &read[..]
            }
            Some(bytes) => {
                let bytes = bytes.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
                &bytes[..len.min(bytes.len())]
            }
        };
        let Some(lines) = text.reader.took(meaning, bytes) else {
            tracing::info!(file = &*self.name, "it was written anew, and is read from its begin");
            text.reader = Reader::new(meaning);
            self.cut = None;
            return Ok(Some((Vec::new(), Vec::new())));
        };
        for Row { at, .. } in &lines.rows {
            let (first, last) = self.span.unwrap_or((*at, *at));
            self.span = Some((first.min(*at), last.max(*at)));
        }
        if !lines.more
            && let Some(text) = self.texts.pop_front()
        {
            self.readers.insert(text.name, text.reader);
        }
        Ok(Some((lines.rows, lines.bad)))
    }
}

impl DropDevice {
    /// Files at `place`.
    pub(super) fn new(settings: Settings, place: Box<dyn Place>) -> Self {
        let (files, gaps) = (Files::default(), Vec::new());
        Self { settings, place, files, gaps, look: None, failed: None, spoilt: Vec::new() }
    }

    /// Opens a file that was read up to these places.
    fn open(
        &mut self,
        name: &str,
        size: u64,
        mut readers: Readers,
        cut: Option<Cut>,
    ) -> Result<Open, Trouble> {
        let Settings { meaning, packing, .. } = &self.settings;
        let texts = packing.texts(&mut *self.place, name, size, readers.contains_key(""))?;
        let text = |(name, bytes): (Box<str>, Option<Vec<u8>>)| {
            let reader = readers.remove(&name).unwrap_or_else(|| Reader::new(meaning));
            Text { name, bytes, reader }
        };
        let texts = texts.into_iter().map(text).collect();
        Ok(Open { name: name.into(), cut, texts, readers: Readers::new(), span: None })
    }

    fn begin_look(&mut self, from: Timestamp) -> Result<Look, Trouble> {
        self.spoilt.retain(|at| *at >= from);
        let stats = self.place.list(&self.settings.pattern)?;
        let gaps = &mut self.gaps;
        let queue = self.files.listed(&stats, || Cut { from, gaps: std::mem::take(gaps) });
        let queue = queue.map_err(Trouble::Place)?.into();
        Ok(Look { queue, stats, ..Look::default() })
    }

    /// Reads on in the file that is open, or opens the next one; whether there was any.
    fn step(&mut self, look: &mut Look, rows: &mut Vec<Row>) -> Result<bool, Trouble> {
        let Some(mut open) = look.open.take() else {
            let Some(name) = look.queue.pop_front() else { return Ok(false) };
            look.complaints.of_file = 0;
            let Some((readers, cut)) = self.files.begin(&name) else { return Ok(true) };
            let size = look.stats.get(&name).map_or(0, |stat| stat.size);
            match self.open(&name, size, readers, cut) {
                Ok(open) => look.open = Some(open),
                Err(trouble) => self.left(look, &name, trouble)?,
            }
            return Ok(true);
        };
        match open.next(&mut *self.place, &self.settings.meaning) {
            Ok(Some((new, bad))) => {
                let is_wanted = |at: Timestamp| open.cut.as_ref().is_none_or(|cut| cut.wants(at));
                rows.extend(new.into_iter().filter(|row| is_wanted(row.at)));
                for bad in bad {
                    look.complaints.add(&self.settings.source, &open.name, bad.line, &bad.why);
                    let at = bad.at.filter(|at| is_wanted(*at) && self.spoilt.len() < SPOILT_MAX);
                    self.spoilt.extend(at);
                }
                look.open = Some(open);
            }
            Ok(None) => self.files.read(&open.name, open.readers, open.span),
            Err(trouble) => self.left(look, &open.name, trouble)?,
        }
        Ok(true)
    }

    /// A file is left for this reason, and the next one read.
    fn left(&mut self, look: &mut Look, name: &str, trouble: Trouble) -> Result<(), Trouble> {
        let why = match trouble {
            Trouble::Place(_) => return Err(trouble),
            Trouble::Gone => {
                self.files.gone(name);
                return Ok(());
            }
            Trouble::Unread(why) => {
                self.files.unread(name);
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
        End { corrupt: of_lines.chain(of_files).collect(), trouble: look.complaints.text() }
    }

    /// Reads all rows of a file, whatever was read of it before.
    fn read_all(&mut self, name: &str, stat: Stat, mut each: impl FnMut(Row)) -> Result<(), Trouble> {
        let mut open = self.open(name, stat.size, Readers::new(), None)?;
        while let Some((rows, _)) = open.next(&mut *self.place, &self.settings.meaning)? {
            rows.into_iter().for_each(&mut each);
        }
        if let Some(span) = open.span {
            self.files.spans(name, stat, span);
        }
        Ok(())
    }

    /// The rows of all these files, why some of them gave none, and whether there may be some later in one of those.
    fn read_files(
        &mut self,
        names: Vec<(Box<str>, Stat)>,
        mut each: impl FnMut(Row),
    ) -> Result<(Option<String>, bool), Failure> {
        let (mut complaints, mut is_unread) = (Complaints::default(), false);
        for (name, stat) in names {
            complaints.of_file = 0;
            match self.read_all(&name, stat, &mut each) {
                Ok(()) | Err(Trouble::Gone) => {}
                Err(Trouble::Place(why)) => return Err(Failure::Transport(why)),
                Err(Trouble::Unread(why)) => {
                    is_unread = true;
                    complaints.add(&self.settings.source, &name, None, &why);
                }
                Err(Trouble::Growing(why) | Trouble::Spoilt(why)) => {
                    complaints.add(&self.settings.source, &name, None, &why);
                }
            }
        }
        Ok((complaints.text(), is_unread))
    }

    fn list(&mut self) -> Result<BTreeMap<Box<str>, Stat>, Failure> {
        self.place.list(&self.settings.pattern).map_err(failure)
    }
}

fn failure(trouble: Trouble) -> Failure {
    match trouble {
        Trouble::Gone => Failure::Transport("there is no such folder".to_owned()),
        Trouble::Place(why) | Trouble::Unread(why) | Trouble::Growing(why) | Trouble::Spoilt(why) => {
            Failure::Transport(why)
        }
    }
}

impl Fetch for DropDevice {
    fn oldest(&mut self, now: Timestamp) -> Result<Timestamp, Failure> {
        let grid = self.settings.grid;
        let mut oldest: Option<Timestamp> = self.settings.first_ms.map(|ms| now.plus_ms(-ms));
        if oldest.is_none() {
            let names: Vec<_> = self.list()?.into_iter().collect();
            let count = names.len();
            let earlier = |row: Row| oldest = Some(oldest.map_or(row.at, |at| at.min(row.at)));
            let read = self.read_files(names, earlier);
            self.place.rest();
            let (trouble, is_unread) = read?;
            // What begins later than there is anything would never be read, and be missed by nobody.
            if is_unread || (oldest.is_none() && count > 0) {
                let why = trouble
                    .unwrap_or_else(|| format!("in none of its {count} files is a row of this device"));
                return Err(Failure::Answer(why));
            }
        }
        Ok(grid.at(grid.first_from(oldest.unwrap_or(now).min(now))))
    }

    fn fetch(&mut self, from: Timestamp, to: Timestamp) -> Result<Parsed, Failure> {
        let seen = self.list()?;
        let names = self.files.holding(&seen, (from, to));
        let mut rows = BTreeMap::new();
        let mut doubled = 0;
        let trouble = self.read_files(names, |row| {
            if (from..to).contains(&row.at) {
                let cells = row.cells.clone();
                doubled +=
                    usize::from(rows.insert(row.at, row).is_some_and(|before: Row| before.cells != cells));
            }
        });
        self.place.rest();
        match trouble?.0 {
            Some(why) if rows.is_empty() => Err(Failure::Answer(why)),
            _ => Ok(Parsed { rows: rows.into_values().collect(), oldest: None, doubled }),
        }
    }

    fn probe(&mut self) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    fn news(&mut self, from: Timestamp) -> Result<Option<News>, Failure> {
        if let Some(trouble) = self.failed.take() {
            return Err(failure(trouble));
        }
        let mut look = match self.look.take() {
            Some(look) => look,
            None => self.begin_look(from).map_err(|trouble| {
                self.place.rest();
                failure(trouble)
            })?,
        };
        let mut news = News::default();
        while news.rows.len() < PART_ROWS {
            match self.step(&mut look, &mut news.rows) {
                Ok(true) => {}
                Ok(false) => {
                    self.place.rest();
                    news.end = Some(self.end(look));
                    return Ok(Some(news));
                }
                Err(trouble) => {
                    // What came before it is handed on first, since it is not read again.
                    self.place.rest();
                    self.failed = Some(trouble);
                    return Ok(Some(news));
                }
            }
        }
        self.look = Some(look);
        Ok(Some(news))
    }

    fn missing(&mut self, gaps: Vec<Stretch>) {
        self.gaps = gaps;
    }
}
