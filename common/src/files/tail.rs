//! The place up to which one file has been read. Reads nothing itself: it says which bytes it wants, and makes rows of them.
//!
//! # Whether it is still the same file
//! Each read begins a little before the place, and the bytes there must be those that were there. That finds a file that
//! was written anew, whatever its length and inode; a copy that replaced its original, as `rsync` makes, is read on.
//! The head of a file would say less: all files of one logger begin alike. Where nothing else tells one file from another of
//! its name, whoever calls compares [the head](Tail::is_head), too: a file may have been corrected before its end.

use std::sync::Arc;

use super::form::{Form, Line, LineError, Parser};
use crate::field::{Field, Val};
use crate::time::Timestamp;

/// Most bytes of one read, and with it the longest line.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Bytes before the place that must be those that were there.
const CHECK_BYTES: usize = 1 << 10;

/// Bytes at the begin of a file that are compared: enough for a header of many columns and some rows behind it.
pub const HEAD_BYTES: usize = 16 << 10;

/// What a listing says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Device and inode: who it is, however it is called.
    pub identity: (u64, u64),
    /// Its length.
    pub size: u64,
    /// When it was written last, in ms since 1970.
    pub modified_ms: i64,
    /// The nanoseconds of that.
    pub modified_ns: i64,
}

/// A file whose time of change lies this much before an instant does not hold it, whatever its clock says, in ms.
const STALE_MS: i64 = 26 * 3_600_000;

impl Stat {
    /// When it was written last, in an order.
    #[must_use]
    pub const fn written(&self) -> (i64, i64) {
        (self.modified_ms, self.modified_ns)
    }

    /// Whether a row of this instant or a later one may be in the file.
    #[must_use]
    pub const fn may_hold(&self, at: Timestamp) -> bool {
        self.modified_ms >= at.0.saturating_sub(STALE_MS)
    }
}

/// One row that came.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its time.
    pub at: Timestamp,
    /// Its values.
    pub vals: Vec<Val>,
    /// What they are values of.
    pub fields: Arc<[Field]>,
}

/// What bytes were, in the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// The columns are others from here on.
    Head,
    /// A record.
    Row(Row),
    /// A line that is skipped: its number, and why.
    Bad(u64, LineError),
    /// A line longer than [`CHUNK_BYTES`]: the number it has.
    Long(u64),
}

/// What a read was.
#[derive(Debug, Clone, PartialEq)]
pub enum Came {
    /// These lines; `more` where there may be others already.
    Items {
        /// What they are.
        items: Vec<Item>,
        /// Whether to read on at once.
        more: bool,
    },
    /// It is another file.
    Replaced,
}

/// A place in a file, for whoever keeps it longer than the [`Tail`]: to be found again by reading up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Behind the last line that was taken.
    pub offset: u64,
    /// CRC-32C of the first [`HEAD_BYTES`] of what was taken.
    pub head: u32,
    /// CRC-32C of the bytes before the place that are compared at each read.
    pub check: u32,
}

/// One file.
#[derive(Debug, Clone, PartialEq)]
pub struct Tail {
    /// Behind the last line that was taken.
    offset: u64,
    /// The bytes before that.
    check: Vec<u8>,
    /// The first [`HEAD_BYTES`] of what was taken: how many, and their CRC-32C.
    head: (usize, u32),
    /// The line behind that which was given without its end.
    early: Vec<u8>,
    /// In a line that is too long.
    is_skipping: bool,
    parser: Parser,
}

impl Tail {
    /// At the begin of a file.
    #[must_use]
    pub fn new(form: &Form) -> Self {
        Self {
            offset: 0,
            check: Vec::new(),
            head: (0, 0),
            early: Vec::new(),
            is_skipping: false,
            parser: Parser::new(form),
        }
    }

    /// Where to read, and how much.
    #[must_use]
    pub fn wanted(&self) -> (u64, usize) {
        let check = self.check.len();
        (self.offset.saturating_sub(u64::try_from(check).unwrap_or(0)), check + CHUNK_BYTES)
    }

    /// Whether a file of this length cannot be the one that was read.
    #[must_use]
    pub const fn is_beyond(&self, size: u64) -> bool {
        size < self.offset
    }

    /// Its place. Of two files with the same one it is not known that they are not the same.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { offset: self.offset, head: self.head.1, check: crc32c::crc32c(&self.check) }
    }

    /// How many bytes from the begin [`is_head`](Self::is_head) compares; none where nothing was taken.
    #[must_use]
    pub const fn head_len(&self) -> usize {
        self.head.0
    }

    /// Whether a file that begins so may be the one that was read.
    #[must_use]
    pub fn is_head(&self, bytes: &[u8]) -> bool {
        let (len, sum) = self.head;
        bytes.get(..len).is_some_and(|head| crc32c::crc32c(head) == sum)
    }

    /// Takes the bytes that stand where [`wanted`](Self::wanted) says; fewer where the file ends.
    pub fn took(&mut self, form: &Form, bytes: &[u8]) -> Came {
        let Some(new) = bytes.strip_prefix(&*self.check) else { return Came::Replaced };
        let is_full = new.len() >= CHUNK_BYTES;
        let Some(last) = new.iter().rposition(|byte| *byte == b'\n') else {
            // A line that fills a whole read has no end within what is read.
            if is_full {
                self.is_skipping = true;
                self.advance(new);
            }
            return Came::Items { items: Vec::new(), more: is_full };
        };
        let (lines, _) = new.split_at(last + 1);
        let mut items = Vec::new();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            items.extend(self.item(form, line));
        }
        self.advance(lines);
        Came::Items { items, more: is_full }
    }

    /// Whether something stands behind the last line of the bytes that were [taken](Self::took) last.
    #[must_use]
    pub fn has_half(&self, bytes: &[u8]) -> bool {
        !half(bytes).trim_ascii().is_empty()
    }

    /// The number of the line that stands there.
    #[must_use]
    pub const fn half_number(&self) -> u64 {
        self.parser.line_number().saturating_add(1)
    }

    /// The row that stands there, where that is one although its line has no end; those bytes must be all that there are.
    /// The place stays before it: should its line go on nevertheless, it comes again, as it is then, unless it is the same.
    /// Whoever forgets the place has half a value for ever, so that this is for lines of which it is known that they are whole.
    pub fn early(&mut self, form: &Form, bytes: &[u8]) -> Option<Row> {
        let line = half(bytes);
        let mut parser = self.parser.clone();
        let Ok(Line::Row { at, vals }) = parser.line(form, line) else { return None };
        // A value of which the rest comes can be put right; a row at an instant that never was would stay.
        if self.is_skipping || parser.ends_in_time() {
            return None;
        }
        self.early = without_end(line).to_vec();
        Some(Row { at, vals, fields: parser.fields() })
    }

    fn item(&mut self, form: &Form, line: &[u8]) -> Option<Item> {
        let early = std::mem::take(&mut self.early);
        if std::mem::take(&mut self.is_skipping) {
            self.parser.skipped();
            return Some(Item::Long(self.parser.line_number()));
        }
        match self.parser.line(form, line) {
            Ok(Line::Nothing) => None,
            Ok(Line::Head) => Some(Item::Head),
            Ok(Line::Row { .. }) if !early.is_empty() && early == without_end(line) => None,
            Ok(Line::Row { at, vals }) => Some(Item::Row(Row { at, vals, fields: self.parser.fields() })),
            Err(error) => Some(Item::Bad(self.parser.line_number(), error)),
        }
    }

    fn advance(&mut self, bytes: &[u8]) {
        let (len, sum) = self.head;
        let more = bytes.get(..bytes.len().min(HEAD_BYTES - len)).unwrap_or_default();
        self.head = (len + more.len(), crc32c::crc32c_append(sum, more));
        self.offset = self.offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(0));
        if bytes.len() >= CHECK_BYTES {
            self.check.clear();
        }
        self.check
            .extend_from_slice(bytes.get(bytes.len().saturating_sub(CHECK_BYTES)..).unwrap_or_default());
        let surplus = self.check.len().saturating_sub(CHECK_BYTES);
        self.check.drain(..surplus);
    }
}

/// What stands behind the last line.
fn half(bytes: &[u8]) -> &[u8] {
    bytes.rsplit(|byte| *byte == b'\n').next().unwrap_or_default()
}

fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::form::tests::csv;
    use proptest::prelude::*;

    /// Reads a file as it is at this moment, until nothing more comes.
    fn read(tail: &mut Tail, form: &Form, file: &[u8]) -> Option<Vec<Item>> {
        let mut all = Vec::new();
        loop {
            let (offset, len) = tail.wanted();
            let from = usize::try_from(offset).unwrap().min(file.len());
            let to = (from + len).min(file.len());
            match tail.took(form, &file[from..to]) {
                Came::Items { items, more } => {
                    all.extend(items);
                    if !more {
                        return Some(all);
                    }
                }
                Came::Replaced => return None,
            }
        }
    }

    fn numbers(items: &[Item]) -> Vec<f64> {
        let row = |item: &Item| match item {
            Item::Row(Row { vals, .. }) => match vals[..] {
                [Val::Number(number)] => Some(number),
                _ => None,
            },
            _ => None,
        };
        items.iter().filter_map(row).collect()
    }

    fn lines(range: std::ops::Range<u32>) -> String {
        range.map(|n| format!("2026-01-01 00:{:02}:{:02},{n}\n", n / 60 % 60, n % 60)).collect()
    }

    proptest! {
        /// However a file grows, half lines among it, each row comes once, with its line's own number.
        #[test]
        fn any_cutting_gives_the_same_rows_once(
            count in 0_u32..60,
            mut cuts in prop::collection::vec(0_usize..2_000, 0..20),
            bad in prop::option::of(0_usize..60),
        ) {
            let form = csv(0, None, &["t"]);
            let body = lines(0..count);
            let mut body: Vec<&str> = body.split_inclusive('\n').collect();
            if let Some(place) = bad && place < body.len() {
                body[place] = "nonsense\n";
            }
            let file = format!("t,a\n{}", body.concat());
            cuts.push(file.len());
            cuts.sort_unstable();
            let mut tail = Tail::new(&form);
            let mut items = Vec::new();
            for cut in cuts {
                items.extend(read(&mut tail, &form, &file.as_bytes()[..cut.min(file.len())]).unwrap());
            }
            let expected: Vec<f64> =
                (0..count).filter(|n| bad != Some(*n as usize)).map(f64::from).collect();
            prop_assert_eq!(numbers(&items), expected);
            let told: Vec<u64> =
                items.iter().filter_map(|item| if let Item::Bad(no, _) = item { Some(*no) } else { None }).collect();
            let bad: Vec<u64> = bad.filter(|place| *place < count as usize).map(|place| place as u64 + 2).into_iter().collect();
            prop_assert_eq!(told, bad);
        }
    }

    #[test]
    fn a_file_that_was_written_anew_is_noticed_whatever_its_length() {
        let form = csv(0, None, &["t"]);
        let mut tail = Tail::new(&form);
        let first = format!("t,a\n{}", lines(0..100));
        assert_eq!(numbers(&read(&mut tail, &form, first.as_bytes()).unwrap()).len(), 100);
        let grown = format!("{first}{}", lines(100..120));
        assert_eq!(numbers(&read(&mut tail.clone(), &form, grown.as_bytes()).unwrap()).len(), 20);
        let other = format!("t,a\n{}", lines(500..700));
        assert_eq!(read(&mut tail, &form, other.as_bytes()), None, "longer");
        assert_eq!(read(&mut tail, &form, &other.as_bytes()[..40]), None, "shorter");
        assert!(tail.is_beyond(40) && !tail.is_beyond(first.len() as u64));
    }

    #[test]
    fn a_line_without_end_is_skipped_and_told() {
        let form = csv(0, None, &["t"]);
        let mut file = "t,a\n".to_owned() + &lines(0..3);
        file.push_str(&"x".repeat(3 * CHUNK_BYTES));
        let mut tail = Tail::new(&form);
        assert_eq!(numbers(&read(&mut tail, &form, file.as_bytes()).unwrap()), [0.0, 1.0, 2.0]);
        file.push('\n');
        file.push_str(&lines(3..5));
        let items = read(&mut tail, &form, file.as_bytes()).unwrap();
        assert_eq!((&items[0], numbers(&items)), (&Item::Long(5), vec![3.0, 4.0]));
    }

    /// The row at the end of a file that does not grow any more, as it seems.
    fn early(tail: &mut Tail, form: &Form, file: &[u8]) -> Vec<f64> {
        let (offset, len) = tail.wanted();
        let bytes = &file[usize::try_from(offset).unwrap()..];
        assert!(bytes.len() <= len && tail.has_half(bytes));
        let lines = file.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(tail.half_number(), lines as u64 + 1);
        numbers(&tail.early(form, bytes).map(Item::Row).into_iter().collect::<Vec<_>>())
    }

    #[test]
    fn a_row_without_its_end_is_had_early_and_comes_again_only_where_it_was_another_one() {
        let rows: [(&str, &[f64], &str, &[f64]); 7] = [
            ("2026-01-01 00:09,12", &[12.0], "2026-01-01 00:09,12\n2026-01-01 00:10,1\n", &[1.0]),
            ("2026-01-01 00:09,12", &[12.0], "2026-01-01 00:09,12\r\n", &[]),
            ("2026-01-01 00:09,12\r", &[12.0], "2026-01-01 00:09,12\r\n", &[]),
            ("2026-01-01 00:09,12", &[12.0], "2026-01-01 00:09,12.5\n", &[12.5]),
            ("2026-01-01 00:09,12", &[12.0], "2026-01-01 00:09,12.5", &[]),
            ("2026-01-01 00:09", &[], "2026-01-01 00:09,12\n", &[12.0]),
            ("2026-01", &[], "2026-01-01 00:09,12\n", &[12.0]),
        ];
        for (half, expected, whole, then) in rows {
            let form = csv(0, None, &["t"]);
            for before in [lines(0..3), lines(0..200)] {
                let begin = format!("t,a\n{before}");
                let mut tail = Tail::new(&form);
                let file = format!("{begin}{half}");
                let _ = read(&mut tail, &form, file.as_bytes()).unwrap();
                assert_eq!(early(&mut tail, &form, file.as_bytes()), expected, "{half}");
                let file = format!("{begin}{whole}");
                let items = read(&mut tail, &form, file.as_bytes()).unwrap();
                assert_eq!(numbers(&items), then, "{half} becomes {whole}");
                assert!(!items.iter().any(|item| matches!(item, Item::Bad(..))), "{items:?}");
            }
        }
        // Half a time is another time.
        let form = csv(0, None, &["t"]);
        let mut tail = Tail::new(&form);
        let file = b"a,t\n1,2026-01-01 00:00:00\n2,2026-01-01 00:01";
        assert_eq!(read(&mut tail, &form, file).unwrap().len(), 2);
        assert_eq!(early(&mut tail, &form, file), Vec::<f64>::new());
    }

    #[test]
    fn the_begin_of_a_file_is_known_however_it_came() {
        let form = csv(0, None, &["t"]);
        let file = format!("t,a\n{}", lines(0..2_000));
        assert!(file.len() > 2 * HEAD_BYTES);
        for step in [1_000, 20_000, file.len()] {
            let mut tail = Tail::new(&form);
            assert!(tail.head_len() == 0 && tail.is_head(b""));
            for end in (1..).map(|no| (no * step).min(file.len())) {
                let _ = read(&mut tail, &form, &file.as_bytes()[..end]).unwrap();
                assert!(tail.is_head(file.as_bytes()), "{step}");
                if end == file.len() {
                    break;
                }
            }
            assert_eq!(tail.head_len(), HEAD_BYTES);
            let other = file.replacen(",7\n", ",8\n", 1);
            assert!(!tail.is_head(other.as_bytes()) && !tail.is_head(&file.as_bytes()[..HEAD_BYTES - 1]));
        }
    }
}
