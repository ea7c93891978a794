//! The place up to which one file has been read. Reads nothing itself: it says which bytes it wants, and makes rows of them.
//!
//! # Whether it is still the same file
//! Each read begins a little before the place, and the bytes there must be those that were there. That finds a file that
//! was written anew, whatever its length and inode; a copy that replaced its original, as `rsync` makes, is read on.
//! The head of a file would say less: all files of one logger begin alike.

use std::sync::Arc;

use super::form::{Form, Line, LineError, Parser};
use crate::field::{Field, Val};
use crate::time::Timestamp;

/// Most bytes of one read, and with it the longest line.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Bytes before the place that must be those that were there.
const CHECK_BYTES: usize = 1 << 10;

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

/// One file.
#[derive(Debug, Clone, PartialEq)]
pub struct Tail {
    /// Behind the last line that was taken.
    offset: u64,
    /// The bytes before that.
    check: Vec<u8>,
    /// In a line that is too long.
    is_skipping: bool,
    parser: Parser,
}

impl Tail {
    /// At the begin of a file.
    #[must_use]
    pub fn new(form: &Form) -> Self {
        Self { offset: 0, check: Vec::new(), is_skipping: false, parser: Parser::new(form) }
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

    fn item(&mut self, form: &Form, line: &[u8]) -> Option<Item> {
        if std::mem::take(&mut self.is_skipping) {
            self.parser.skipped();
            return Some(Item::Long(self.parser.line_number()));
        }
        match self.parser.line(form, line) {
            Ok(Line::Nothing) => None,
            Ok(Line::Head) => Some(Item::Head),
            Ok(Line::Row { at, vals }) => Some(Item::Row(Row { at, vals, fields: self.parser.fields() })),
            Err(error) => Some(Item::Bad(self.parser.line_number(), error)),
        }
    }

    fn advance(&mut self, bytes: &[u8]) {
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
}
