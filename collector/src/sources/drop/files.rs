//! Which files of a drop are to be read, and what is known of those that were. Pure.
//!
//! What is read of a plain file is remembered by its place in it; a packed one is read anew whenever it has changed. What of it
//! is kept over restarts is in `kept`.
//!
//! Contract: [`Files::recall`] first, where an earlier process knew anything; [`Files::listed`] with what a look finds, then for each name it gives [`Files::begin`] and one of
//! [`Files::read`], [`Files::unread`], [`Files::growing`], [`Files::spoilt`] and [`Files::gone`]. `now` is how long the device
//! has been there, and never goes back.

mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gapless_common::files::tail::{Mark, Stat};
use gapless_common::planted::{self, Bug};
use gapless_common::time::Timestamp;

use super::form::LastLine;
use super::lines::Reader;
use super::place::Listing;

/// Half open.
pub(super) type Stretch = (Timestamp, Timestamp);

/// Files that were written so much earlier than the newest one are not expected to grow, and their places are forgotten: one
/// that does is read anew.
const KEPT_MS: i64 = 86_400_000;

/// A file that has been the same, in length and time, for so long rests: a writer that is still at it pauses for less, and a
/// logger that ends no line waits no longer for its newest row.
pub(super) const QUIET: Duration = Duration::from_secs(60);

/// What of a file that was there before the collector started is of interest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Cut {
    /// All from here on.
    pub(super) from: Timestamp,
    /// And these.
    pub(super) gaps: Vec<Stretch>,
}

impl Cut {
    /// Whether a row of that instant is.
    pub(super) fn wants(&self, at: Timestamp) -> bool {
        at >= self.from || self.gaps.iter().any(|(from, to)| (*from..*to).contains(&at))
    }

    /// Whether a file may hold one.
    fn may_be_in(&self, stat: Stat) -> bool {
        stat.may_hold(self.from) || self.gaps.iter().any(|(from, _)| stat.may_hold(*from))
    }
}

#[derive(Debug)]
enum State {
    /// It has changed since it was read, or was not read yet.
    New,
    /// It could not be read as it is, for this reason; it may not be whole yet.
    Growing,
    /// All of it was read.
    Read,
    /// It is the same as when it could not be read, or cannot be read whatever comes.
    Spoilt,
    /// It is older than what is of interest.
    Old,
}

#[derive(Debug)]
struct File {
    stat: Stat,
    /// When it was first seen as it is.
    since: Duration,
    /// It has been so for [`QUIET`].
    is_quiet: bool,
    /// That a line of it without its end waits was said.
    is_half_told: bool,
    state: State,
    /// Where it was read to, if it is a plain one.
    reader: Option<Reader>,
    /// The same, for whoever reads on in another process.
    mark: Option<Mark>,
    /// Behind that stands a line without its end, which was not read.
    has_half: bool,
    /// First and last instant of its rows, where all of them are known.
    span: Option<Stretch>,
    /// Of a file that was there at the first look of all.
    is_old: bool,
}

/// A file that is to be read.
#[derive(Debug)]
pub(super) struct Begun {
    /// Its length, as it was listed.
    pub(super) size: u64,
    /// Where it was read to, if that is known.
    pub(super) reader: Option<Reader>,
    /// The same, where that was in another process.
    pub(super) mark: Option<Mark>,
    /// What of it is of interest, where that is not all.
    pub(super) cut: Option<Cut>,
    /// What to do with a last line without its end.
    pub(super) half: Half,
    /// It was not whole yet, as it seemed, at the look before, and is the same.
    pub(super) is_settled: bool,
}

/// What to do with a last line without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    /// Nothing: it may be written just now.
    Leave,
    /// Its file rests, and still it is none: somebody has to know.
    Tell,
    /// Its file rests, and it is a line.
    Read,
}

/// A file that may hold what is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) name: Box<str>,
    pub(super) stat: Stat,
    /// What to do with a last line without its end.
    pub(super) half: Half,
    /// It was read before, or tried, and is the same.
    pub(super) is_settled: bool,
}

/// All files of a device. See the module.
#[derive(Debug, Default)]
pub(super) struct Files {
    known: BTreeMap<Box<str>, File>,
    /// There were files before the first look, or one that went before it was read.
    held_some: bool,
    /// Nothing at all was listed yet in this process.
    cut: Option<Cut>,
    /// What an earlier process knew is known: whatever else is there came after its first look.
    is_recalled: bool,
    /// What of these is known was not kept yet.
    unwritten: BTreeSet<Box<str>>,
    last_line: LastLine,
}

impl Files {
    /// Of a place where a last line without its end is that.
    pub(super) fn new(last_line: LastLine) -> Self {
        Self { last_line, ..Self::default() }
    }

    /// There are files, which are still to be looked at.
    pub(super) fn holds_some(&mut self) {
        self.held_some = true;
    }

    /// Whether it can be believed what is there: a folder that is not mounted is an empty one.
    ///
    /// # Errors
    /// Nothing is there where something was.
    pub(super) fn is_mounted(&self, seen: &Listing) -> Result<(), String> {
        let is_empty = seen.files.is_empty() && seen.hidden.is_empty();
        if is_empty && (self.held_some || !self.known.is_empty()) && !planted::has(Bug::EmptyBelieved) {
            return Err("it holds no file any more, and held some: is the share mounted?".to_owned());
        }
        Ok(())
    }

    /// What is there now; which of them are to be read, those first that were written first. At the first look of all only
    /// what `cut` wants is of interest.
    ///
    /// # Errors
    /// Nothing is there where something was.
    pub(super) fn listed(
        &mut self,
        seen: &Listing,
        now: Duration,
        cut: impl FnOnce() -> Cut,
    ) -> Result<Vec<Box<str>>, String> {
        self.is_mounted(seen)?;
        self.held_some = false;
        let is_first = self.cut.is_none();
        let cut = self.cut.get_or_insert_with(cut);
        let unwritten = &mut self.unwritten;
        self.known.retain(|name, _| {
            let is_there = seen.files.contains_key(name) || seen.hides(name);
            if !is_there {
                unwritten.insert(name.clone());
            }
            is_there
        });
        for (name, stat) in &seen.files {
            match self.known.get_mut(name) {
                Some(known) => {
                    if is_first && known.is_mounted_anew(*stat) {
                        unwritten.insert(name.clone());
                    }
                    known.seen_again(*stat, now);
                }
                None => {
                    let was_there = is_first && !self.is_recalled;
                    let is_wanted = !was_there || cut.may_be_in(*stat);
                    let state = if is_wanted { State::New } else { State::Old };
                    if was_there {
                        unwritten.insert(name.clone());
                    }
                    self.known.insert(name.clone(), File::new(*stat, now, state, was_there));
                }
            }
        }
        let wanted =
            self.known.iter().filter(|(name, file)| seen.files.contains_key(*name) && file.is_wanted());
        let mut names: Vec<_> = wanted.map(|(name, file)| (file.stat.written(), name.clone())).collect();
        names.sort();
        Ok(names.into_iter().map(|(_, name)| name).collect())
    }

    /// A file is read now.
    pub(super) fn begin(&mut self, name: &str) -> Option<Begun> {
        let file = self.known.get_mut(name)?;
        let cut = self.cut.clone().filter(|_| file.is_old);
        let half = self.last_line.half(file.is_quiet);
        let (size, is_settled) = (file.stat.size, matches!(file.state, State::Growing));
        let reader = file.reader.take();
        let mark = file.mark.filter(|_| reader.is_none());
        Some(Begun { size, reader, mark, cut, half, is_settled })
    }

    /// All of it was read, or what is new: the place now, if it is a plain one; whether a line without its end stands behind
    /// it; and the first and last instant of the rows that came.
    pub(super) fn read(&mut self, name: &str, reader: Option<Reader>, has_half: bool, span: Option<Stretch>) {
        let Some(file) = self.known.get_mut(name) else { return };
        file.span = match (file.span, span) {
            (Some(before), Some(now)) => Some((before.0.min(now.0), before.1.max(now.1))),
            (before, now) => before.or(now),
        };
        // Where it is quiet that was read, or was said.
        file.has_half = has_half && !file.is_quiet;
        file.mark = reader.as_ref().map(Reader::mark);
        (file.state, file.reader) = (State::Read, reader);
        self.unwritten.insert(name.into());
    }

    /// Behind its last line there is one that has no end, and waits for it although the file rests. Whether that is to be said:
    /// once of each file, since a logger that ends no line but with the next does so with each.
    pub(super) fn waits(&mut self, name: &str) -> bool {
        self.known.get_mut(name).is_some_and(|file| !std::mem::replace(&mut file.is_half_told, true))
    }

    /// Which of its rows there are was found out beside that.
    pub(super) fn spans(&mut self, name: &str, stat: Stat, span: Stretch) {
        if let Some(file) = self.known.get_mut(name).filter(|file| file.stat == stat) {
            file.span = Some(span);
        }
    }

    /// It could not be read, and may be the next time.
    pub(super) fn unread(&mut self, name: &str) {
        if let Some(file) = self.known.get_mut(name) {
            file.state = State::New;
        }
    }

    /// It could not be read as it is. Whether that is to be said: at first it may be on its way.
    pub(super) fn growing(&mut self, name: &str) -> bool {
        let Some(file) = self.known.get_mut(name) else { return false };
        let is_spoilt = matches!(file.state, State::Growing);
        file.state = if is_spoilt { State::Spoilt } else { State::Growing };
        is_spoilt
    }

    /// It cannot be read, whatever comes.
    pub(super) fn spoilt(&mut self, name: &str) {
        if let Some(file) = self.known.get_mut(name) {
            file.state = State::Spoilt;
        }
    }

    /// It is not there any more, though a moment ago it was: with it all of them may be gone.
    pub(super) fn gone(&mut self, name: &str) {
        self.known.remove(name);
        self.unwritten.insert(name.into());
        self.held_some = true;
    }

    /// When it was written last, as far as it was seen: no row in it is of a later instant.
    pub(super) fn written_at(&self, name: &str) -> Option<Timestamp> {
        self.known.get(name).map(|file| Timestamp(file.stat.modified_ms))
    }

    /// A look is over: the places in files that are not expected to grow are forgotten.
    pub(super) fn forget(&mut self) {
        let newest = self.known.values().map(|file| file.stat.modified_ms).max().unwrap_or(0);
        let is_over = |file: &&mut File| file.stat.modified_ms < newest - KEPT_MS && !file.has_half;
        for file in self.known.values_mut().filter(is_over) {
            (file.reader, file.mark) = (None, None);
        }
    }

    /// When the newest file was written that cannot be read: what it should hold is spoilt.
    pub(super) fn spoilt_until(&self) -> Option<Timestamp> {
        let spoilt = self.known.values().filter(|file| matches!(file.state, State::Spoilt));
        spoilt.map(|file| Timestamp(file.stat.modified_ms)).max()
    }

    /// When the newest file was written that is still to be read, once a look is over: what it holds was not seen.
    pub(super) fn unread_until(&self) -> Option<Timestamp> {
        let unread = self.known.values().filter(|file| matches!(file.state, State::New | State::Growing));
        unread.map(|file| Timestamp(file.stat.modified_ms)).max()
    }

    /// The files of a listing that may hold rows of a stretch, those first that were written first.
    pub(super) fn holding(&self, seen: &Listing, now: Duration, (from, to): Stretch) -> Vec<Holding> {
        let holding = seen.files.iter().filter_map(|(name, stat)| {
            let known = self.known.get(name).filter(|file| file.stat == *stat);
            let span = known.and_then(|file| file.span);
            let may_hold = span.map_or(stat.may_hold(from), |(first, last)| first < to && from <= last);
            let half = self.last_line.half(known.is_some_and(|file| file.is_quiet_at(now)));
            let is_settled =
                known.is_some_and(|file| matches!(file.state, State::Growing | State::Spoilt | State::Read));
            may_hold.then(|| Holding { name: name.clone(), stat: *stat, half, is_settled })
        });
        let mut all: Vec<_> = holding.collect();
        all.sort_by(|a, b| (a.stat.written(), &a.name).cmp(&(b.stat.written(), &b.name)));
        all
    }
}

impl LastLine {
    /// What to do with one in a file that rests, or does not.
    fn half(self, is_quiet: bool) -> Half {
        match (is_quiet, self) {
            (false, _) => Half::Leave,
            (true, Self::Waits) => Half::Tell,
            (true, Self::Whole) => Half::Read,
        }
    }
}

impl File {
    fn new(stat: Stat, since: Duration, state: State, is_old: bool) -> Self {
        Self {
            stat,
            since,
            is_quiet: false,
            is_half_told: false,
            state,
            reader: None,
            mark: None,
            has_half: false,
            span: None,
            is_old,
        }
    }

    fn is_quiet_at(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) >= QUIET
    }

    fn is_wanted(&self) -> bool {
        match self.state {
            State::New | State::Growing => true,
            State::Read => self.has_half && self.is_quiet,
            State::Spoilt | State::Old => false,
        }
    }

    fn seen_again(&mut self, stat: Stat, now: Duration) {
        if stat == self.stat {
            self.is_quiet = self.is_quiet_at(now);
            return;
        }
        // What only grew is read on; all else that is another one is read anew, whatever its length.
        if stat.identity != self.stat.identity || stat.size <= self.stat.size {
            (self.reader, self.mark, self.span) = (None, None, None);
        }
        // What changes after the first look may hold anything.
        (self.stat, self.state, self.is_old) = (stat, State::New, false);
        (self.since, self.is_quiet) = (now, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;
    const NOW_MS: i64 = 1_767_225_600_000;

    fn stat(inode: u64, size: u64, days_ago: i64) -> Stat {
        Stat { identity: (1, inode), size, modified_ms: NOW_MS - days_ago * DAY_MS, modified_ns: 0 }
    }

    fn seen(files: &[(&str, Stat)]) -> Listing {
        let files = files.iter().map(|(name, stat)| (Box::from(*name), *stat)).collect();
        Listing { files, ..Listing::default() }
    }

    fn at(days_ago: i64) -> Timestamp {
        Timestamp(NOW_MS - days_ago * DAY_MS)
    }

    fn listed(files: &mut Files, all: &[(&str, Stat)]) -> Vec<String> {
        told(files, &seen(all), Duration::ZERO)
    }

    fn told(files: &mut Files, seen: &Listing, now: Duration) -> Vec<String> {
        let cut = || Cut { from: at(1), gaps: vec![(at(30), at(29))] };
        files.listed(seen, now, cut).unwrap().iter().map(ToString::to_string).collect()
    }

    fn reader() -> Option<Reader> {
        Some(Reader::new(&super::super::lines::tests::meaning(&["a"])))
    }

    fn read(files: &mut Files, name: &str) {
        assert!(files.begin(name).is_some(), "{name}");
        files.read(name, None, false, Some((at(1), at(0))));
    }

    #[test]
    fn at_a_start_what_may_hold_news_or_fill_a_gap_is_read_and_later_all_that_is_new_or_changed() {
        let mut files = Files::default();
        let mut all =
            vec![("new", stat(1, 10, 0)), ("in the gap", stat(2, 10, 29)), ("old", stat(3, 10, 40))];
        assert_eq!(listed(&mut files, &all), ["in the gap", "new"], "those first that were written first");
        let cut = files.begin("new").unwrap().cut.unwrap();
        assert_eq!(
            [31, 30, 29, 2, 1, 0].map(|day| cut.wants(at(day))),
            [false, true, false, false, true, true]
        );
        read(&mut files, "in the gap");
        assert_eq!(listed(&mut files, &all), ["new"], "it was not read to its end");
        read(&mut files, "new");
        assert_eq!(listed(&mut files, &all), Vec::<String>::new());
        all.push(("late", stat(4, 10, 300)));
        all[2].1 = stat(3, 10, 39);
        assert_eq!(listed(&mut files, &all), ["late", "old"]);
        assert_eq!(files.begin("late").unwrap().cut, None, "all of what comes later is of interest");
        assert_eq!(files.begin("old").unwrap().cut, None);
    }

    #[test]
    fn a_file_that_only_grew_is_read_on_and_any_other_one_anew() {
        let rows = [
            ("grown", stat(1, 11, 0), true),
            ("shrunk", stat(1, 9, 0), false),
            ("as long as before", stat(1, 10, 0), false),
            ("another one", stat(2, 11, 0), false),
        ];
        for (what, later, is_kept) in rows {
            let mut files = Files::default();
            listed(&mut files, &[("a", stat(1, 10, 1))]);
            files.read("a", reader(), false, Some((at(1), at(1))));
            assert_eq!(listed(&mut files, &[("a", later)]), ["a"], "{what}");
            assert_eq!(files.begin("a").unwrap().reader.is_some(), is_kept, "{what}");
        }
    }

    #[test]
    fn a_line_without_its_end_is_read_or_told_once_its_file_has_been_the_same_for_a_while() {
        for (last_line, half) in [(LastLine::Waits, Half::Tell), (LastLine::Whole, Half::Read)] {
            rests(Files::new(last_line), half);
        }
        let mut files = Files::default();
        listed(&mut files, &[("a", stat(1, 10, 0)), ("b", stat(2, 10, 0))]);
        assert!(files.waits("a") && files.waits("b"));
        listed(&mut files, &[("a", stat(1, 11, 0)), ("b", stat(2, 10, 0))]);
        assert!(!files.waits("a"), "of each file once");
    }

    /// What is done with half a line of a file that grows, and rests for a while.
    fn rests(mut files: Files, rested: Half) {
        let mut look = |after: Duration, size, half_behind: bool| {
            let all = seen(&[("a", stat(1, size, 0))]);
            let names = told(&mut files, &all, after);
            let half = files.holding(&all, after, (at(1), at(0)))[0].half;
            names.first().map(|name| {
                let begun = files.begin(name).unwrap();
                files.read(name, reader(), half_behind, None);
                assert_eq!((begun.half, begun.size), (half, size));
                begun.half
            })
        };
        let second = Duration::from_secs(1);
        assert_eq!(look(Duration::ZERO, 10, true), Some(Half::Leave));
        assert_eq!(look(QUIET - second, 10, true), None);
        assert_eq!(look(QUIET, 10, true), Some(rested));
        assert_eq!(look(QUIET * 2, 10, true), None, "once");
        assert_eq!(look(QUIET * 2 + second, 11, true), Some(Half::Leave), "it goes on");
        assert_eq!(look(QUIET * 3, 11, true), None, "it is another one for less than that");
        assert_eq!(look(QUIET * 3 + second, 11, true), Some(rested));
        assert_eq!(look(QUIET * 4, 12, false), Some(Half::Leave));
        assert_eq!(look(QUIET * 6, 12, false), None, "there is nothing behind its last line");
    }

    #[test]
    fn what_a_folder_holds_that_cannot_be_listed_now_is_not_forgotten() {
        let all = [("a/x", stat(1, 10, 0)), ("b/x", stat(2, 10, 0))];
        let mut files = Files::default();
        assert_eq!(listed(&mut files, &all), ["a/x", "b/x"]);
        read(&mut files, "a/x");
        read(&mut files, "b/x");
        let hidden = |names: &[(&str, Stat)], folders: &[&str]| Listing {
            hidden: folders.iter().map(|folder| (Box::from(*folder), String::new())).collect(),
            ..seen(names)
        };
        assert_eq!(told(&mut files, &hidden(&all[..1], &["b/"]), Duration::ZERO), Vec::<String>::new());
        assert_eq!(told(&mut files, &hidden(&[], &["a/", "b/"]), Duration::ZERO), Vec::<String>::new());
        assert_eq!(listed(&mut files, &all), Vec::<String>::new(), "both were read");
        assert_eq!(told(&mut files, &hidden(&all[..1], &["c/"]), Duration::ZERO), Vec::<String>::new());
        assert_eq!(listed(&mut files, &all), ["b/x"], "it was gone");
    }

    #[test]
    fn what_cannot_be_read_is_said_where_it_is_the_same_at_the_next_look() {
        let (mut files, all) = (Files::default(), [("a", stat(1, 10, 0))]);
        listed(&mut files, &all);
        assert!(!files.growing("a"), "it may be on its way");
        assert_eq!(files.unread_until(), Some(at(0)));
        let stretch = (at(1), at(0));
        assert!(files.begin("a").unwrap().is_settled);
        assert!(files.holding(&seen(&all), Duration::ZERO, stretch)[0].is_settled);
        assert_eq!((listed(&mut files, &all), files.spoilt_until()), (vec!["a".to_owned()], None));
        assert!(files.growing("a"));
        assert_eq!(files.unread_until(), None, "it is spoilt");
        assert_eq!((listed(&mut files, &all).len(), files.spoilt_until()), (0, Some(at(0))));
        let grown = [("a", stat(1, 11, 0))];
        assert_eq!((listed(&mut files, &grown).len(), files.spoilt_until()), (1, None));
        assert!(!files.begin("a").unwrap().is_settled);
        assert!(!files.holding(&seen(&grown), Duration::ZERO, stretch)[0].is_settled);
        assert!(!files.growing("a"));
        files.unread("a");
        assert_eq!(listed(&mut files, &grown), ["a"], "what passes is tried again");
        files.spoilt("a");
        assert_eq!(listed(&mut files, &grown).len(), 0);
    }

    #[test]
    fn an_empty_folder_that_held_files_is_none() {
        let mut files = Files::default();
        assert_eq!(files.listed(&seen(&[]), Duration::ZERO, Cut::default), Ok(Vec::new()));
        listed(&mut files, &[("a", stat(1, 10, 0))]);
        assert!(
            files
                .listed(&seen(&[]), Duration::ZERO, Cut::default)
                .unwrap_err()
                .contains("is the share mounted?")
        );
        files.gone("a");
        let went = files.listed(&seen(&[]), Duration::ZERO, Cut::default);
        assert!(went.is_err(), "it may have gone with all others");
        files = Files::default();
        // They were there when it was asked how far back there is anything, and not looked at.
        files.holds_some();
        let look = |files: &mut Files| files.listed(&seen(&[]), Duration::ZERO, Cut::default);
        assert!(look(&mut files).is_err() && look(&mut files).is_err());
        assert_eq!(listed(&mut files, &[("b", stat(2, 10, 0))]), ["b"]);
    }

    #[test]
    fn for_a_stretch_those_files_are_read_that_may_hold_some_of_it() {
        let mut files = Files::default();
        let all = [("a", stat(1, 10, 2)), ("b", stat(2, 10, 1)), ("c", stat(3, 10, 0))];
        listed(&mut files, &all);
        files.read("b", None, false, Some((at(5), at(4))));
        let holding = |files: &Files, stretch| {
            let names = files.holding(&seen(&all), Duration::ZERO, stretch).into_iter();
            names.map(|file| file.name.to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(holding(&files, (at(6), at(4))), "a b c");
        assert_eq!(holding(&files, (at(4), at(3))), "a b c", "its last row is of the first instant");
        assert_eq!(holding(&files, (at(3), at(2))), "a c");
        assert_eq!(holding(&files, (at(0), at(-1))), "c");
        files.spans("c", stat(3, 11, 0), (at(9), at(8)));
        assert_eq!(holding(&files, (at(0), at(-1))), "c", "what is known is of another one");
    }
}
