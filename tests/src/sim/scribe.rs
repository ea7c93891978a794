//! The logger that writes into a folder: its files grow line by line, a line now and then in two parts, without a value, or none at all;
//! others are begun, under new names or those of before; they are replaced, put right in place, renamed, removed; rows come late in
//! files of their own; and what is new is now and then not to be read at first, as where whoever writes it holds it.

use std::collections::BTreeMap;

use gapless_common::files::tail::HEAD_BYTES;
use gapless_common::time::Timestamp;

use super::clock::{BEGAN_MS, truth};
use super::folder::{File, Folder, Line, Slip};
use super::plan::Mischief;
use super::rng::Rng;

/// So much of a line is its time.
const TIME_CHARS: usize = 19;

/// Where it is.
#[derive(Debug)]
pub(super) struct Scribe {
    /// The file that is written.
    pub(super) current: String,
    /// The next row.
    pub(super) next: i64,
    half: Option<Half>,
    /// The line before was cut off where the power went, and the next one goes on in it: the instant that can be read of it.
    torn: Option<Option<i64>>,
    /// Rows up to then come late, in a file of their own.
    late: Option<(u64, Vec<i64>)>,
    /// The logger records nothing until then.
    off_until_ms: u64,
    serial: u64,
}

/// A line of which the rest is still to be written.
#[derive(Debug)]
struct Half {
    rest: String,
    due_ms: u64,
    at: i64,
    bits: Option<u64>,
}

impl Scribe {
    /// Before the row of this instant, without a file.
    pub(super) const fn new(next: i64) -> Self {
        let current = String::new();
        Self { current, next, half: None, torn: None, late: None, off_until_ms: 0, serial: 0 }
    }

    /// It records, and brings what it has held back.
    pub(super) fn make_good(&mut self) {
        self.off_until_ms = 0;
        if let Some((until_ms, _)) = &mut self.late {
            *until_ms = 0;
        }
    }

    /// The instant of a line that stands there half.
    pub(super) fn half_at(&self) -> Option<i64> {
        self.half.as_ref().map(|half| half.at)
    }

    const fn number(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}

impl Folder {
    fn head(&self) -> &'static str {
        if self.plan.note_bytes == 0 { "time,ws\n" } else { "time,ws,note\n" }
    }

    fn line(&self, at: i64, bits: Option<u64>) -> String {
        let value = bits.map_or_else(|| "NAN".to_owned(), |bits| f64::from_bits(bits).to_string());
        let note = match self.plan.note_bytes {
            0 => String::new(),
            // Each line is another one throughout, as it is anywhere.
            bytes => format!(",{}", at.to_string().repeat(bytes / 13)),
        };
        format!("{},{value}{note}\n", time(at))
    }

    fn value(&mut self) -> Option<u64> {
        let number = u32::try_from(self.rng.below(4_000)).unwrap_or_default();
        let is_none = self.plan.nan_one_in > 0 && self.rng.one_in(self.plan.nan_one_in);
        (!is_none).then(|| (f64::from(number) / 128.0).to_bits())
    }

    /// Another file is written from now on, under a name that there was none of yet.
    pub(super) fn begin_file(&mut self, now_ms: u64) {
        let name = format!("Met_{:03}.csv", self.scribe.number());
        self.begin_as(name, now_ms);
    }

    fn begin_as(&mut self, name: String, now_ms: u64) {
        let inode = self.scribe.number();
        let (text, modified) = (self.head().to_owned(), truth(now_ms).0.max(BEGAN_MS));
        let file = File { inode, text, modified, there_ms: now_ms, ..File::default() };
        self.files.insert(name.clone(), file);
        self.scribe.current = name;
        (self.scribe.half, self.scribe.torn) = (None, None);
    }

    fn push(&mut self, text: &str, at_ms: u64) {
        if let Some(file) = self.files.get_mut(&self.scribe.current) {
            file.push(text, at_ms);
        }
    }

    fn note(&mut self, name: &str, at: i64, line: Line) {
        self.ever.entry(at).or_default().insert(line.bits);
        if let Some(file) = self.files.get_mut(name) {
            file.lines.insert(at, line);
            self.reached.again.extend(file.is_again.then_some(at));
        }
    }

    fn note_spoilt(&mut self, at: i64, at_ms: u64) {
        self.ever_spoilt.entry(at).or_insert(at_ms);
        if let Some(file) = self.files.get_mut(&self.scribe.current) {
            file.spoilt.insert(at, at_ms);
        }
    }

    /// A whole line of the current file.
    fn write_line(&mut self, at: i64, at_ms: u64) {
        let bits = self.value();
        self.push(&self.line(at, bits), at_ms);
        let name = self.scribe.current.clone();
        self.note(&name, at, Line { bits, since_ms: at_ms });
    }

    /// The next row, as a whole line.
    pub(super) fn write_next(&mut self, at_ms: u64) {
        self.write_line(self.scribe.next, at_ms);
        self.scribe.next += self.plan.interval_ms;
    }

    /// The rest of a line that was written by half.
    fn finish_half(&mut self, at_ms: u64) {
        let Some(Half { rest, at, bits, .. }) = self.scribe.half.take() else { return };
        self.push(&rest, at_ms);
        let name = self.scribe.current.clone();
        self.note(&name, at, Line { bits, since_ms: at_ms });
    }

    /// Writes what has come by now.
    pub(super) fn catch_up(&mut self, now_ms: u64) {
        while let Some(written_ms) =
            u64::try_from(self.scribe.next - BEGAN_MS).ok().map(|ms| ms + self.plan.delay_ms)
            && written_ms <= now_ms
        {
            if let Some(due_ms) = self.scribe.half.as_ref().map(|half| half.due_ms) {
                self.finish_half(due_ms.min(written_ms));
            }
            self.record(self.scribe.next, written_ms);
            self.scribe.next += self.plan.interval_ms;
        }
        let due_ms = self.scribe.half.as_ref().map(|half| half.due_ms).filter(|due_ms| *due_ms <= now_ms);
        if let Some(due_ms) = due_ms {
            self.finish_half(due_ms);
        }
        if self.scribe.late.as_ref().is_some_and(|(until_ms, _)| *until_ms <= now_ms) {
            self.bring_late(now_ms);
        }
    }

    /// The logger has a row.
    fn record(&mut self, at: i64, at_ms: u64) {
        if at_ms < self.scribe.off_until_ms {
            return;
        }
        if let Some((_, rows)) = &mut self.scribe.late {
            return rows.push(at);
        }
        if let Some(torn) = self.scribe.torn.take() {
            // What it writes now goes on in the line that was cut off, and neither is one.
            let bits = self.value();
            self.push(&self.line(at, bits), at_ms);
            return torn.into_iter().for_each(|at| self.note_spoilt(at, at_ms));
        }
        if self.plan.spoilt_one_in > 0 && self.rng.one_in(self.plan.spoilt_one_in) {
            return self.spoil(at, at_ms);
        }
        if !self.rng.one_in(self.plan.halves_one_in) {
            return self.write_line(at, at_ms);
        }
        let bits = self.value();
        let text = self.line(at, bits);
        let (part, rest) = text.split_at(self.cut(&text));
        self.push(part, at_ms);
        let due_ms = at_ms + self.rng.within(1, self.plan.interval_ms.unsigned_abs());
        self.scribe.half = Some(Half { rest: rest.to_owned(), due_ms, at, bits });
    }

    /// A place within a line.
    fn cut(&mut self, text: &str) -> usize {
        usize::try_from(self.rng.within(1, text.len() as u64 - 1)).unwrap_or(1)
    }

    /// The line of a row comes out as none.
    fn spoil(&mut self, at: i64, at_ms: u64) {
        let bits = self.value();
        let text = self.line(at, bits);
        match self.rng.below(3) {
            0 => self.push("\u{0}\u{0}#!?\n", at_ms),
            1 => {
                self.push(&format!("{},\"half a {}\",1,2,3\n", time(at), self.head().len()), at_ms);
                self.note_spoilt(at, at_ms);
            }
            _ => {
                let cut = self.cut(&text);
                self.push(&text[..cut], at_ms);
                self.scribe.torn = Some((cut > TIME_CHARS).then_some(at));
            }
        }
    }

    /// Rows that were held back come in a file of their own.
    fn bring_late(&mut self, now_ms: u64) {
        let Some((_, rows)) = self.scribe.late.take() else { return };
        let before = (self.scribe.current.clone(), self.scribe.half.take(), self.scribe.torn.take());
        self.begin_file(now_ms);
        for at in rows {
            self.write_line(at, now_ms);
            self.reached.came_late.insert(at);
        }
        (self.scribe.current, self.scribe.half, self.scribe.torn) = before;
    }

    fn any_name(&self, rng: &mut Rng) -> String {
        let names: Vec<_> = self.files.keys().collect();
        if names.is_empty() { String::new() } else { (*rng.pick(&names)).clone() }
    }

    /// The current one every other time, as more depends on it.
    fn some_name(&self, rng: &mut Rng) -> String {
        if rng.one_in(2) { self.scribe.current.clone() } else { self.any_name(rng) }
    }

    /// Something befalls it at an instant.
    pub(super) fn befall(&mut self, kind: Mischief, (now_ms, until_ms): (u64, u64), rng: &mut Rng) {
        self.catch_up(now_ms);
        match kind {
            Mischief::DropAway => self.away = (until_ms, rng.one_in(2)),
            Mischief::DropUnread => {
                let name = self.some_name(rng);
                self.withhold(&name, until_ms);
            }
            Mischief::DropOff => self.scribe.off_until_ms = until_ms,
            Mischief::DropLate => {
                self.finish_half(now_ms);
                self.scribe.late.get_or_insert((until_ms, Vec::new()));
            }
            Mischief::DropReplaced => self.replace((now_ms, until_ms), rng),
            Mischief::DropRewritten => self.rewrite(now_ms, rng),
            Mischief::DropRotated => self.rotate((now_ms, until_ms), rng),
            Mischief::DropSlips => {
                let slips = [Slip::Away(until_ms, rng.one_in(2)), Slip::Removed, Slip::Rotated];
                self.slip = Some(*rng.pick(&slips));
            }
            Mischief::DropKilled => self.is_deadly = true,
            _ => self.remove(now_ms, rng),
        }
    }

    /// A file cannot be read until then.
    fn withhold(&mut self, name: &str, until_ms: u64) {
        if let Some(file) = self.files.get_mut(name) {
            file.unread_until_ms = until_ms;
        }
    }

    /// A file is removed. One that is still written is not put away: the logger goes on in another one.
    pub(super) fn remove(&mut self, now_ms: u64, rng: &mut Rng) {
        let name = self.some_name(rng);
        if name == self.scribe.current {
            self.begin_file(now_ms);
        }
        self.files.remove(&name);
    }

    /// Lines of a file with some of their values put right, of those that are wholly within so many bytes; and which.
    fn put_right(
        &mut self,
        name: &str,
        (now_ms, bytes_max): (u64, usize),
        rng: &mut Rng,
    ) -> BTreeMap<i64, Line> {
        let mut lines = self.files.get(name).map(|file| file.lines.clone()).unwrap_or_default();
        let (mut end, mut wrong) = (self.head().len(), Vec::new());
        for (at, line) in &lines {
            end += self.line(*at, line.bits).len();
            if rng.one_in(8) && end <= bytes_max {
                wrong.push(*at);
            }
        }
        for at in wrong {
            let bits = self.value();
            self.reached.corrected.insert(at);
            lines.insert(at, Line { bits, since_ms: now_ms });
        }
        lines
    }

    /// The text of a file with these lines.
    fn text(&self, lines: &BTreeMap<i64, Line>) -> String {
        let rows: String = lines.iter().map(|(at, line)| self.line(*at, line.bits)).collect();
        format!("{}{rows}", self.head())
    }

    /// A file is put in place of another one, with some values put right: as long as that one, or not.
    fn replace(&mut self, (now_ms, until_ms): (u64, u64), rng: &mut Rng) {
        self.finish_half(now_ms);
        let name = self.any_name(rng);
        let lines = self.put_right(&name, (now_ms, usize::MAX), rng);
        let (text, modified, inode) = (self.text(&lines), truth(now_ms).0, self.scribe.number());
        self.files.insert(name.clone(), File { inode, text, modified, ..File::default() });
        self.let_go(&name);
        lines.into_iter().for_each(|(at, line)| self.note(&name, at, line));
        if rng.one_in(2) {
            self.withhold(&name, until_ms);
        }
    }

    /// A file is written anew in place, with values put right near its begin: further behind that of one that has grown as well is seen
    /// by nobody, nor does anybody say so.
    fn rewrite(&mut self, now_ms: u64, rng: &mut Rng) {
        self.finish_half(now_ms);
        let name = self.some_name(rng);
        let lines = self.put_right(&name, (now_ms, HEAD_BYTES), rng);
        let text = self.text(&lines);
        let Some(file) = self.files.get_mut(&name) else { return };
        (file.text, file.modified) = (text, truth(now_ms).0);
        file.spoilt.clear();
        self.let_go(&name);
        let is_new = |line: &Line| line.since_ms == now_ms;
        let changed = lines.iter().filter(|(_, line)| is_new(line)).map(|(at, _)| *at);
        self.reached.rewritten.extend(changed);
        lines.into_iter().for_each(|(at, line)| self.note(&name, at, line));
    }

    /// A line that was cut off in a file is not in it any more.
    fn let_go(&mut self, name: &str) {
        if self.scribe.current == name {
            self.scribe.torn = None;
        }
    }

    /// The logger begins another file, and the line that it was at never ends now and then. The one before stays as it is, is called
    /// otherwise, is copied and cut short in place, or is overwritten; the new one is called as it in these cases.
    pub(super) fn rotate(&mut self, (now_ms, until_ms): (u64, u64), rng: &mut Rng) {
        let before = self.scribe.current.clone();
        if !rng.one_in(3) {
            self.finish_half(now_ms);
        }
        let other = format!("Met_old_{:03}.csv", self.scribe.number());
        let old = self.files.get(&before).cloned().map(|old| File { there_ms: now_ms, ..old });
        match rng.below(5) {
            0 => self.begin_file(now_ms),
            1 => {
                self.begin_file(now_ms);
                self.files.remove(&before);
                self.files.extend(old.map(|old| (other, old)));
            }
            way => {
                let inode = old.as_ref().map(|old| old.inode);
                self.begin_as(before.clone(), now_ms);
                if let (Some(file), Some(inode)) = (self.files.get_mut(&before), inode) {
                    file.is_again = true;
                    file.inode = if way == 3 { inode } else { file.inode };
                }
                let copy = self.scribe.number();
                let of_copy = |old: File| if way == 3 { File { inode: copy, ..old } } else { old };
                // What is overwritten is gone.
                self.files.extend(old.filter(|_| way != 4).map(|old| (other, of_copy(old))));
            }
        }
        if rng.one_in(3) {
            let name = self.scribe.current.clone();
            self.withhold(&name, until_ms);
        }
    }
}

/// As its files have it.
fn time(at: i64) -> String {
    let time = Timestamp(at).to_string();
    time.get(..TIME_CHARS).unwrap_or_default().replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::super::dropping::Dropping;
    use super::super::plan::Scale;
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn folder(spoilt_one_in: u64) -> Folder {
        let mut plan = Dropping::draw(Scale::Hours, HOUR_MS, &mut Rng::new(1));
        (plan.halves_one_in, plan.spoilt_one_in) = (2, spoilt_one_in);
        (plan.note_bytes, plan.away) = (0, (0, false));
        Folder::new(plan, Rng::new(2))
    }

    fn texts(folder: &mut Folder, now_ms: u64) -> Vec<String> {
        let entries = folder.entries((now_ms, 1), &|name: &str| name.starts_with("Met")).unwrap();
        let texts = entries.iter().map(|entry| {
            let size = usize::try_from(entry.stat.size).unwrap();
            String::from_utf8(folder.read(&entry.name, (0, size), (now_ms, 1)).unwrap()).unwrap()
        });
        texts.collect()
    }

    #[test]
    fn a_file_grows_by_lines_and_what_befalls_it_loses_no_line_but_half_ones() {
        let mut folder = folder(0);
        let mut rng = Rng::new(3);
        let kinds = [
            Mischief::DropRotated,
            Mischief::DropReplaced,
            Mischief::DropLate,
            Mischief::DropRewritten,
            Mischief::DropRotated,
        ];
        for (no, kind) in kinds.into_iter().enumerate() {
            let at_ms = HOUR_MS * (no as u64 + 1);
            folder.befall(kind, (at_ms, at_ms + HOUR_MS / 2), &mut rng);
            let texts = texts(&mut folder, at_ms + HOUR_MS / 2);
            let lines: usize = texts.iter().map(|text| text.matches('\n').count() - 1).sum();
            assert_eq!(lines, folder.readable(at_ms + HOUR_MS / 2).count(), "{kind:?}");
        }
        let reached = &folder.reached;
        assert!(!reached.came_late.is_empty() && !reached.corrected.is_empty());
        folder.befall(Mischief::DropAway, (9 * HOUR_MS, 10 * HOUR_MS), &mut Rng::new(1));
        let is_away = folder.entries((9 * HOUR_MS, 7), &|_: &str| true).map_or(true, |all| all.is_empty());
        assert!(is_away && folder.readable(9 * HOUR_MS).count() == 0);
        folder.make_good();
        assert!(folder.readable(9 * HOUR_MS).count() > 0);
    }

    #[test]
    fn of_lines_that_are_none_it_is_known_whose_time_can_be_read() {
        let mut folder = folder(2);
        let text = texts(&mut folder, 20 * HOUR_MS).concat();
        let cells = |line: &str| line.split(',').count();
        let has_time = |line: &&str| line.get(TIME_CHARS..=TIME_CHARS) == Some(",") && line.starts_with("20");
        let told = text.lines().filter(|line| cells(line) != 2).filter(has_time).count();
        assert!(told > 10 && folder.readable_spoilt(20 * HOUR_MS).count() == told, "{told}");
    }

    #[test]
    fn what_goes_between_a_look_and_a_read_is_not_there_to_be_read() {
        let mut folder = folder(0);
        let lines = folder.readable(0).count();
        folder.befall(Mischief::DropSlips, (1, HOUR_MS), &mut Rng::new(4));
        let seen = folder.entries((2, 9), &|_: &str| true).unwrap();
        assert!(!seen.is_empty() && folder.trouble_turn == Some(9) && folder.readable(1).count() < lines);
    }
}
