//! Which files of a drop are to be read, and what is known of those that were. Pure.
//!
//! Contract: [`Files::listed`] with what a look finds, then for each name it gives [`Files::begin`] and one of
//! [`Files::read`], [`Files::unread`], [`Files::growing`], [`Files::spoilt`] and [`Files::gone`].

use std::collections::BTreeMap;

use gapless_common::files::tail::Stat;
use gapless_common::time::Timestamp;

use super::lines::Reader;

/// Half open.
pub(super) type Stretch = (Timestamp, Timestamp);

/// Files that were written so much earlier than the newest one are not expected to grow, and their places are forgotten: one
/// that does is read anew.
const KEPT_MS: i64 = 86_400_000;

/// The places in the texts of a file: that of a plain file has no name, those of a packed one have.
pub(super) type Readers = BTreeMap<Box<str>, Reader>;

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
    state: State,
    readers: Readers,
    /// First and last instant of its rows, where all of them are known.
    span: Option<Stretch>,
    /// Of a file that was there at the first look.
    is_old: bool,
}

/// All files of a device. See the module.
#[derive(Debug, Default)]
pub(super) struct Files {
    known: BTreeMap<Box<str>, File>,
    /// Nothing at all was listed yet.
    cut: Option<Cut>,
}

impl Files {
    /// What is there now; which of them are to be read, those first that were written first. At the first look only what
    /// `cut` wants is of interest.
    ///
    /// # Errors
    /// Nothing is there where something was.
    pub(super) fn listed(
        &mut self,
        seen: &BTreeMap<Box<str>, Stat>,
        cut: impl FnOnce() -> Cut,
    ) -> Result<Vec<Box<str>>, String> {
        if seen.is_empty() && !self.known.is_empty() {
            return Err("it holds no file any more, and held some: is the share mounted?".to_owned());
        }
        let is_first = self.cut.is_none();
        let cut = self.cut.get_or_insert_with(cut);
        self.known.retain(|name, _| seen.contains_key(name));
        for (name, stat) in seen {
            match self.known.get_mut(name) {
                Some(known) => known.seen_again(*stat),
                None => {
                    let is_wanted = !is_first || cut.may_be_in(*stat);
                    let state = if is_wanted { State::New } else { State::Old };
                    let (readers, span) = (Readers::new(), None);
                    let file = File { stat: *stat, state, readers, span, is_old: is_first };
                    self.known.insert(name.clone(), file);
                }
            }
        }
        let wanted = |file: &&File| matches!(file.state, State::New | State::Growing);
        let wanted = self.known.iter().filter(|(_, file)| wanted(file));
        let mut names: Vec<_> = wanted.map(|(name, file)| (file.stat.written(), name.clone())).collect();
        names.sort();
        Ok(names.into_iter().map(|(_, name)| name).collect())
    }

    /// A file is read now: where it was read to, and what of it is of interest, where that is not all.
    pub(super) fn begin(&mut self, name: &str) -> Option<(Readers, Option<Cut>)> {
        let file = self.known.get_mut(name)?;
        let cut = self.cut.clone().filter(|_| file.is_old);
        Some((std::mem::take(&mut file.readers), cut))
    }

    /// All of it was read, or what is new: the places now, and the first and last instant of the rows that came.
    pub(super) fn read(&mut self, name: &str, readers: Readers, span: Option<Stretch>) {
        let Some(file) = self.known.get_mut(name) else { return };
        (file.state, file.readers) = (State::Read, readers);
        file.span = match (file.span, span) {
            (Some(before), Some(now)) => Some((before.0.min(now.0), before.1.max(now.1))),
            (before, now) => before.or(now),
        };
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

    /// It is not there any more.
    pub(super) fn gone(&mut self, name: &str) {
        self.known.remove(name);
    }

    /// A look is over: the places in files that are not expected to grow are forgotten.
    pub(super) fn forget(&mut self) {
        let newest = self.known.values().map(|file| file.stat.modified_ms).max().unwrap_or(0);
        for file in self.known.values_mut().filter(|file| file.stat.modified_ms < newest - KEPT_MS) {
            file.readers.clear();
        }
    }

    /// When the newest file was written that cannot be read: what it should hold is spoilt.
    pub(super) fn spoilt_until(&self) -> Option<Timestamp> {
        let spoilt = self.known.values().filter(|file| matches!(file.state, State::Spoilt));
        spoilt.map(|file| Timestamp(file.stat.modified_ms)).max()
    }

    /// The files of a listing that may hold rows of a stretch, those first that were written first.
    pub(super) fn holding(
        &self,
        seen: &BTreeMap<Box<str>, Stat>,
        (from, to): Stretch,
    ) -> Vec<(Box<str>, Stat)> {
        let may_hold = |name: &str, stat: Stat| {
            let known = self.known.get(name).filter(|file| file.stat == stat);
            known
                .and_then(|file| file.span)
                .map_or(stat.may_hold(from), |(first, last)| first < to && from <= last)
        };
        let mut names: Vec<_> = seen
            .iter()
            .filter(|(name, stat)| may_hold(name, **stat))
            .map(|(name, stat)| (stat.written(), name.clone(), *stat))
            .collect();
        names.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        names.into_iter().map(|(_, name, stat)| (name, stat)).collect()
    }
}

impl File {
    fn seen_again(&mut self, stat: Stat) {
        if stat == self.stat {
            return;
        }
        // What only grew is read on; all else that is another one is read anew, whatever its length.
        if stat.identity != self.stat.identity || stat.size <= self.stat.size {
            (self.readers, self.span) = (Readers::new(), None);
        }
        // What changes after the first look may hold anything.
        (self.stat, self.state, self.is_old) = (stat, State::New, false);
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

    fn seen(files: &[(&str, Stat)]) -> BTreeMap<Box<str>, Stat> {
        files.iter().map(|(name, stat)| (Box::from(*name), *stat)).collect()
    }

    fn at(days_ago: i64) -> Timestamp {
        Timestamp(NOW_MS - days_ago * DAY_MS)
    }

    fn listed(files: &mut Files, all: &[(&str, Stat)]) -> Vec<String> {
        let cut = || Cut { from: at(1), gaps: vec![(at(30), at(29))] };
        files.listed(&seen(all), cut).unwrap().iter().map(ToString::to_string).collect()
    }

    fn read(files: &mut Files, name: &str) {
        assert!(files.begin(name).is_some(), "{name}");
        files.read(name, Readers::new(), Some((at(1), at(0))));
    }

    #[test]
    fn at_a_start_what_may_hold_news_or_fill_a_gap_is_read_and_later_all_that_is_new_or_changed() {
        let mut files = Files::default();
        let mut all =
            vec![("new", stat(1, 10, 0)), ("in the gap", stat(2, 10, 29)), ("old", stat(3, 10, 40))];
        assert_eq!(listed(&mut files, &all), ["in the gap", "new"], "those first that were written first");
        let (_, cut) = files.begin("new").unwrap();
        let cut = cut.unwrap();
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
        assert_eq!(files.begin("late").unwrap().1, None, "all of what comes later is of interest");
        assert_eq!(files.begin("old").unwrap().1, None);
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
            let meaning = super::super::lines::tests::meaning(&["a"]);
            let readers = Readers::from([(Box::from(""), Reader::new(&meaning))]);
            files.read("a", readers, Some((at(1), at(1))));
            assert_eq!(listed(&mut files, &[("a", later)]), ["a"], "{what}");
            assert_eq!(!files.begin("a").unwrap().0.is_empty(), is_kept, "{what}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_where_it_is_the_same_at_the_next_look() {
        let (mut files, all) = (Files::default(), [("a", stat(1, 10, 0))]);
        listed(&mut files, &all);
        assert!(!files.growing("a"), "it may be on its way");
        assert_eq!((listed(&mut files, &all), files.spoilt_until()), (vec!["a".to_owned()], None));
        assert!(files.growing("a"));
        assert_eq!((listed(&mut files, &all).len(), files.spoilt_until()), (0, Some(at(0))));
        let grown = [("a", stat(1, 11, 0))];
        assert_eq!((listed(&mut files, &grown).len(), files.spoilt_until()), (1, None));
        assert!(!files.growing("a"));
        files.unread("a");
        assert_eq!(listed(&mut files, &grown), ["a"], "what passes is tried again");
        files.spoilt("a");
        assert_eq!(listed(&mut files, &grown).len(), 0);
    }

    #[test]
    fn an_empty_folder_that_held_files_is_none() {
        let mut files = Files::default();
        assert_eq!(files.listed(&seen(&[]), Cut::default), Ok(Vec::new()));
        listed(&mut files, &[("a", stat(1, 10, 0))]);
        assert!(files.listed(&seen(&[]), Cut::default).unwrap_err().contains("is the share mounted?"));
        files.gone("a");
        assert_eq!(files.listed(&seen(&[]), Cut::default), Ok(Vec::new()));
    }

    #[test]
    fn for_a_stretch_those_files_are_read_that_may_hold_some_of_it() {
        let mut files = Files::default();
        let all = [("a", stat(1, 10, 2)), ("b", stat(2, 10, 1)), ("c", stat(3, 10, 0))];
        listed(&mut files, &all);
        files.read("b", Readers::new(), Some((at(5), at(4))));
        let holding = |files: &Files, stretch| {
            let names = files.holding(&seen(&all), stretch).into_iter();
            names.map(|(name, _)| name.to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(holding(&files, (at(6), at(4))), "a b c");
        assert_eq!(holding(&files, (at(4), at(3))), "a b c", "its last row is of the first instant");
        assert_eq!(holding(&files, (at(3), at(2))), "a c");
        assert_eq!(holding(&files, (at(0), at(-1))), "c");
        files.spans("c", stat(3, 11, 0), (at(9), at(8)));
        assert_eq!(holding(&files, (at(0), at(-1))), "c", "what is known is of another one");
    }
}
