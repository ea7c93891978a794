//! A folder of a run, into which a logger writes its files and whose files a source of the collector reads: they grow line by line, a
//! line now and then in two parts; others are begun, they are renamed, replaced by others, removed; rows come late in files of their
//! own; and what is wrong with the folder. What has come by an instant is written when somebody looks. What holds of it is `dropped`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use gapless_common::files::glob::Entry;
use gapless_common::files::tail::Stat;
use gapless_common::time::Timestamp;

use super::clock::{BEGAN_MS, signed, truth};
use super::plan::{Mischief, Scale};
use super::rng::Rng;

/// The site of its device.
pub const SITE: &str = "f";
/// The device.
pub const DEVICE: &str = "mast";
/// The agent that counts for it.
pub const AGENT: &str = "drop-mast";
const MINUTE_MS: i64 = 60_000;
/// The line above the rows of a file.
const HEAD: &str = "time,ws\n";

/// A drop, as its description has it, and how its logger writes.
#[derive(Debug, Clone)]
pub struct Dropping {
    /// The distance of its rows.
    pub interval_ms: i64,
    /// How often it is looked.
    pub every_ms: i64,
    /// What is not there after so long is missing.
    pub lag_ms: i64,
    class: &'static str,
    /// The first row, and how long each takes to be written.
    oldest: Timestamp,
    delay_ms: u64,
    /// One line in so many is written in two parts.
    halves_one_in: u64,
}

impl Dropping {
    pub(super) fn draw(scale: Scale, rng: &mut Rng) -> Self {
        let minutes: &[i64] = if scale == Scale::Hours { &[1, 1, 2, 5] } else { &[30, 60] };
        let interval_ms = *rng.pick(minutes) * MINUTE_MS;
        let times = |rng: &mut Rng, first, last| signed(rng.within(first, last)) * interval_ms;
        Self {
            interval_ms,
            every_ms: interval_ms,
            lag_ms: times(rng, 3, 10),
            class: if scale == Scale::Hours { "remote" } else { "http" },
            oldest: Timestamp(BEGAN_MS).plus_ms(-times(rng, 5, 100)),
            delay_ms: rng.below(interval_ms.unsigned_abs() / 2),
            halves_one_in: *rng.pick(&[3, 10]),
        }
    }

    /// Its description.
    pub(super) fn text(&self) -> String {
        let Self { interval_ms, every_ms, lag_ms, class, .. } = self;
        format!(
            "site = \"{SITE}\"\nname = \"drop\"\nclass = \"{class}\"\nlag = \"{lag_ms}ms\"\nevery = \"{every_ms}ms\"\n\
             every_least = \"{every_ms}ms\"\n[drop]\nfolder = \"/share\"\nfiles = \"Met*.csv\"\n[rows]\nformat = \"csv\"\n\
             zone = \"+00:00\"\ntime = \"time\"\n[[device]]\nname = \"{DEVICE}\"\ninterval = \"{interval_ms}ms\"\n\
             [[device.channels]]\nname = \"wind_speed\"\nvalue = \"ws\"\nunit = \"m/s\"\nquantity = \"wind_speed\"\n\
             aggregation = \"mean\"\n"
        )
    }
}

/// A line: its value, as its bits, and since when it is whole, in ms of the run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    pub(super) bits: u64,
    pub(super) since_ms: u64,
}

/// A file.
#[derive(Debug, Clone, Default)]
struct File {
    inode: u64,
    text: String,
    modified: i64,
    /// Its whole lines, by their instants.
    lines: BTreeMap<i64, Line>,
    /// It cannot be read until then.
    unread_until_ms: u64,
}

impl File {
    fn push(&mut self, text: &str, at_ms: u64) {
        self.text.push_str(text);
        self.modified = truth(at_ms).0;
    }

    fn stat(&self) -> Stat {
        let modified_ns = self.modified.rem_euclid(1_000) * 1_000_000;
        let size = self.text.len() as u64;
        Stat { identity: (1, self.inode), size, modified_ms: self.modified, modified_ns }
    }
}

/// A line of which the rest is still to be written.
#[derive(Debug)]
struct Half {
    rest: String,
    due_ms: u64,
    at: i64,
    bits: u64,
}

/// See the module's text.
#[derive(Debug)]
pub struct Folder {
    plan: Dropping,
    files: BTreeMap<String, File>,
    /// The file that is written.
    current: String,
    /// The next row.
    next: i64,
    half: Option<Half>,
    /// Rows up to then come late, in a file of their own.
    late: Option<(u64, Vec<i64>)>,
    /// The logger records nothing until then.
    off_until_ms: u64,
    /// The folder cannot be listed until then, or seems to be empty.
    away: (u64, bool),
    /// Every value that was ever in a whole line.
    pub(super) ever: BTreeMap<i64, BTreeSet<u64>>,
    /// The collector knows some of its files, or has seen some in this life.
    pub(super) is_known: bool,
    /// The turn in which it last gave an error.
    pub(super) trouble_turn: Option<u64>,
    /// Instants of lines that a look found half.
    pub(super) halves: BTreeSet<i64>,
    /// Instants of which the value was put right.
    pub(super) corrected: BTreeSet<i64>,
    /// Instants whose rows came in a file of their own.
    pub(super) came_late: BTreeSet<i64>,
    serial: u64,
    rng: Rng,
}

impl Folder {
    /// With all rows up to the begin of the run.
    #[must_use]
    pub fn new(plan: Dropping, rng: Rng) -> Self {
        let next = plan.oldest.0.div_euclid(plan.interval_ms) * plan.interval_ms;
        let mut folder = Self {
            plan,
            files: BTreeMap::new(),
            current: String::new(),
            next,
            half: None,
            late: None,
            off_until_ms: 0,
            away: (0, false),
            ever: BTreeMap::new(),
            is_known: false,
            trouble_turn: None,
            halves: BTreeSet::new(),
            corrected: BTreeSet::new(),
            came_late: BTreeSet::new(),
            serial: 0,
            rng,
        };
        folder.begin_file();
        while folder.next < BEGAN_MS {
            let at = folder.next;
            folder.write_line(at, 0);
            folder.next += folder.plan.interval_ms;
        }
        folder
    }

    /// Nothing is wrong with it any more; what is gone stays so.
    pub fn make_good(&mut self) {
        (self.away, self.off_until_ms) = ((0, false), 0);
        if let Some((until_ms, _)) = &mut self.late {
            *until_ms = 0;
        }
        self.files.values_mut().for_each(|file| file.unread_until_ms = 0);
    }

    fn begin_file(&mut self) {
        self.serial += 1;
        self.current = format!("Met_{:03}.csv", self.serial);
        let inode = self.inode();
        let file = File { inode, text: HEAD.to_owned(), modified: BEGAN_MS, ..File::default() };
        self.files.insert(self.current.clone(), file);
    }

    fn inode(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn line(at: i64, bits: u64) -> String {
        let time = Timestamp(at).to_string();
        format!("{},{}\n", time.get(..19).unwrap_or_default().replace('T', " "), f64::from_bits(bits))
    }

    fn value(&mut self) -> u64 {
        let number = u32::try_from(self.rng.below(4_000)).unwrap_or_default();
        (f64::from(number) / 128.0).to_bits()
    }

    fn note(&mut self, name: &str, at: i64, line: Line) {
        self.ever.entry(at).or_default().insert(line.bits);
        if let Some(file) = self.files.get_mut(name) {
            file.lines.insert(at, line);
        }
    }

    /// A whole line of the current file.
    fn write_line(&mut self, at: i64, at_ms: u64) {
        let (bits, name) = (self.value(), self.current.clone());
        let text = Self::line(at, bits);
        if let Some(file) = self.files.get_mut(&name) {
            file.push(&text, at_ms);
        }
        self.note(&name, at, Line { bits, since_ms: at_ms });
    }

    /// The rest of a line that was written by half.
    fn finish_half(&mut self, at_ms: u64) {
        let Some(Half { rest, at, bits, .. }) = self.half.take() else { return };
        let name = self.current.clone();
        if let Some(file) = self.files.get_mut(&name) {
            file.push(&rest, at_ms);
        }
        self.note(&name, at, Line { bits, since_ms: at_ms });
    }

    /// Writes what has come by now.
    pub(super) fn catch_up(&mut self, now_ms: u64) {
        while let Some(written_ms) =
            u64::try_from(self.next - BEGAN_MS).ok().map(|ms| ms + self.plan.delay_ms)
            && written_ms <= now_ms
        {
            let due_ms = self.half.as_ref().map(|half| half.due_ms);
            if let Some(due_ms) = due_ms {
                self.finish_half(due_ms.min(written_ms));
            }
            self.record(self.next, written_ms);
            self.next += self.plan.interval_ms;
        }
        if self.half.as_ref().is_some_and(|half| half.due_ms <= now_ms) {
            let due_ms = self.half.as_ref().map_or(now_ms, |half| half.due_ms);
            self.finish_half(due_ms);
        }
        if self.late.as_ref().is_some_and(|(until_ms, _)| *until_ms <= now_ms) {
            self.bring_late(now_ms);
        }
    }

    /// The logger has a row.
    fn record(&mut self, at: i64, at_ms: u64) {
        if at_ms < self.off_until_ms {
            return;
        }
        if let Some((_, rows)) = &mut self.late {
            return rows.push(at);
        }
        if !self.rng.one_in(self.plan.halves_one_in) {
            return self.write_line(at, at_ms);
        }
        let (bits, name) = (self.value(), self.current.clone());
        let text = Self::line(at, bits);
        let cut = usize::try_from(self.rng.within(1, text.len() as u64 - 1)).unwrap_or(1);
        let (part, rest) = text.split_at(cut);
        if let Some(file) = self.files.get_mut(&name) {
            file.push(part, at_ms);
        }
        let due_ms = at_ms + self.rng.within(1, self.plan.interval_ms.unsigned_abs());
        self.half = Some(Half { rest: rest.to_owned(), due_ms, at, bits });
    }

    /// Rows that were held back come in a file of their own.
    fn bring_late(&mut self, now_ms: u64) {
        let Some((_, rows)) = self.late.take() else { return };
        let current = self.current.clone();
        self.begin_file();
        for at in rows {
            self.write_line(at, now_ms);
            self.came_late.insert(at);
        }
        self.current = current;
    }

    /// Something befalls it at an instant.
    pub(super) fn befall(&mut self, kind: Mischief, (now_ms, until_ms): (u64, u64), rng: &mut Rng) {
        self.catch_up(now_ms);
        match kind {
            Mischief::DropAway => self.away = (until_ms, rng.one_in(3)),
            Mischief::DropUnread => {
                let names: Vec<_> = self.files.keys().cloned().collect();
                let name = if rng.one_in(2) { self.current.clone() } else { rng.pick(&names).clone() };
                if let Some(file) = self.files.get_mut(&name) {
                    file.unread_until_ms = until_ms;
                }
            }
            Mischief::DropOff => self.off_until_ms = until_ms,
            Mischief::DropLate => {
                self.finish_half(now_ms);
                self.late.get_or_insert((until_ms, Vec::new()));
            }
            Mischief::DropReplaced => self.replace(now_ms, rng),
            Mischief::DropRotated => self.rotate(now_ms, rng),
            _ => {
                // A file that is still written is not put away: the logger goes on in another one.
                let names: Vec<_> = self.files.keys().cloned().collect();
                let name = if rng.one_in(2) { self.current.clone() } else { rng.pick(&names).clone() };
                if name == self.current {
                    self.finish_half(now_ms);
                    self.begin_file();
                }
                self.files.remove(&name);
            }
        }
    }

    /// A file is put in place of another one, with some values put right: as long as that one, or not.
    fn replace(&mut self, now_ms: u64, rng: &mut Rng) {
        self.finish_half(now_ms);
        let names: Vec<_> = self.files.keys().cloned().collect();
        let name = rng.pick(&names).clone();
        let inode = self.inode();
        let Some(file) = self.files.get(&name) else { return };
        let mut lines = file.lines.clone();
        let wrong: Vec<i64> = lines.keys().copied().filter(|_| rng.one_in(8)).collect();
        for at in wrong {
            let bits = self.value();
            self.corrected.insert(at);
            lines.insert(at, Line { bits, since_ms: now_ms });
        }
        let rows: String = lines.iter().map(|(at, line)| Self::line(*at, line.bits)).collect();
        let (text, modified) = (format!("{HEAD}{rows}"), truth(now_ms).0);
        self.files.insert(name.clone(), File { inode, text, modified, ..File::default() });
        lines.into_iter().for_each(|(at, line)| self.note(&name, at, line));
    }

    /// The logger begins another file; the one before is called otherwise now and then, and the line that it was at never ends.
    fn rotate(&mut self, now_ms: u64, rng: &mut Rng) {
        let before = self.current.clone();
        match rng.one_in(3) {
            true => self.half = None,
            false => self.finish_half(now_ms),
        }
        self.begin_file();
        if rng.one_in(2)
            && let Some(file) = self.files.remove(&before)
        {
            self.files.insert(before.replace("Met_", "Met_old_"), file);
        }
    }

    /// What is to be seen of it, as of a turn.
    pub(super) fn entries(
        &mut self,
        (now_ms, turn): (u64, u64),
        is_wanted: &dyn Fn(&str) -> bool,
    ) -> io::Result<Vec<Entry>> {
        self.catch_up(now_ms);
        match self.away {
            (until_ms, true) if now_ms < until_ms => return Ok(Vec::new()),
            (until_ms, false) if now_ms < until_ms => {
                self.trouble_turn = Some(turn);
                return Err(io::Error::other("stale file handle"));
            }
            _ => {}
        }
        self.halves.extend(self.half.as_ref().map(|half| half.at));
        let seen = self.files.iter().filter(|(name, _)| is_wanted(name.as_str()));
        let seen: Vec<_> = seen
            .map(|(name, file)| Entry { name: name.as_str().into(), is_folder: false, stat: file.stat() })
            .collect();
        self.is_known |= !seen.is_empty();
        Ok(seen)
    }

    /// Bytes of a file.
    pub(super) fn read(
        &mut self,
        name: &str,
        (offset, len): (u64, usize),
        (now_ms, turn): (u64, u64),
    ) -> io::Result<Vec<u8>> {
        self.catch_up(now_ms);
        let is_away = now_ms < self.away.0;
        let file = self.files.get(name).filter(|_| !is_away).ok_or(io::ErrorKind::NotFound)?;
        if now_ms < file.unread_until_ms {
            self.trouble_turn = Some(turn);
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(file.text.len());
        let to = from.saturating_add(len).min(file.text.len());
        Ok(file.text.as_bytes().get(from..to).unwrap_or_default().to_vec())
    }

    /// The whole lines that could be read from `since_ms` on, with their instants: what each file says of them.
    pub(super) fn readable(&self, since_ms: u64) -> impl Iterator<Item = (i64, Line)> {
        let is_there = since_ms >= self.away.0;
        let files = self.files.values().filter(move |file| is_there && file.unread_until_ms <= since_ms);
        let lines = files.flat_map(|file| file.lines.iter().map(|(at, line)| (*at, *line)));
        lines.filter(move |(_, line)| line.since_ms <= since_ms)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_grows_by_lines_and_what_befalls_it_loses_no_line_but_half_ones() {
        let plan = Dropping { halves_one_in: 2, ..Dropping::draw(Scale::Hours, &mut Rng::new(1)) };
        let mut folder = Folder::new(plan.clone(), Rng::new(2));
        let mut rng = Rng::new(3);
        let hour_ms = 3_600_000;
        let all = |folder: &mut Folder, now_ms: u64| {
            let entries = folder.entries((now_ms, 1), &|name: &str| name.starts_with("Met")).unwrap();
            let texts = entries.iter().map(|entry| {
                let size = usize::try_from(entry.stat.size).unwrap();
                let bytes = folder.read(&entry.name, (0, size), (now_ms, 1)).unwrap();
                String::from_utf8(bytes).unwrap()
            });
            texts.collect::<Vec<_>>()
        };
        for (no, kind) in
            [Mischief::DropRotated, Mischief::DropReplaced, Mischief::DropLate].into_iter().enumerate()
        {
            let at_ms = hour_ms * (no as u64 + 1);
            folder.befall(kind, (at_ms, at_ms + hour_ms / 2), &mut rng);
            let texts = all(&mut folder, at_ms + hour_ms / 2);
            let lines: usize = texts.iter().map(|text| text.matches('\n').count() - 1).sum();
            assert_eq!(lines, folder.readable(at_ms + hour_ms / 2).count(), "{kind:?}");
        }
        assert!(!folder.came_late.is_empty() && !folder.corrected.is_empty());
        folder.befall(Mischief::DropAway, (5 * hour_ms, 6 * hour_ms), &mut Rng::new(1));
        let is_away = folder.entries((5 * hour_ms, 7), &|_: &str| true).map_or(true, |all| all.is_empty());
        assert!(is_away && folder.readable(5 * hour_ms).count() == 0);
        folder.make_good();
        assert!(folder.readable(5 * hour_ms).count() > 0);
    }
}
