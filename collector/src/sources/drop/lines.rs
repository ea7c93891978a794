//! Lines of a drop's files as rows of its device: which column is which channel, and which lines are none. Pure.

use std::sync::Arc;

use gapless_common::field::{Field, Val, is_infinite};
use gapless_common::files::form::{Form, LineError};
use gapless_common::files::tail::{self, Came, Item, Mark, Tail};
use gapless_common::quality::Quality;
use gapless_common::time::Timestamp;

use super::super::rows::{Cell, Row, cell};
use crate::ledger::plausible::TIME_MAX;

/// How lines are to be read, and what their columns mean.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Meaning {
    /// The way from bytes to values.
    pub(super) form: Form,
    /// The column of each channel, in their order.
    pub(super) values: Vec<String>,
    /// The column that says something about the values of its row.
    pub(super) status: Option<String>,
    /// The words of that which mean that they are none.
    pub(super) status_invalid: Vec<String>,
    /// Numbers by which the files say that there is no value.
    pub(super) invalid: Vec<f64>,
    /// Beyond it a value cannot be.
    pub(super) overflow_above: Option<f64>,
}

/// A line that is skipped, or a header that lacks something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bad {
    /// Its number from 1, where it is one line.
    pub(super) line: Option<u64>,
    /// What is wrong.
    pub(super) why: String,
    /// Its time, where that can be read.
    pub(super) at: Option<Timestamp>,
}

/// What bytes were.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Lines {
    /// In the order of the file.
    pub(super) rows: Vec<Row>,
    /// The same.
    pub(super) bad: Vec<Bad>,
    /// There may be others already.
    pub(super) more: bool,
}

/// The place in one text, and what its columns are.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    tail: Tail,
    fields: Arc<[Field]>,
    values: Vec<Option<usize>>,
    status: Option<usize>,
}

impl Reader {
    /// At the begin of a text.
    pub(super) fn new(meaning: &Meaning) -> Self {
        Self { tail: Tail::new(&meaning.form), fields: Arc::default(), values: Vec::new(), status: None }
    }

    /// Where to read on, and how much.
    pub(super) fn wanted(&self) -> (u64, usize) {
        self.tail.wanted()
    }

    /// Takes the bytes that stand there; `None` where it is another text than the one that was read.
    pub(super) fn took(&mut self, meaning: &Meaning, bytes: &[u8]) -> Option<Lines> {
        let Came::Items { items, more } = self.tail.took(&meaning.form, bytes) else { return None };
        let mut lines = Lines { more, ..Lines::default() };
        for item in items {
            match item {
                Item::Head => {}
                Item::Row(row) => self.take(meaning, row, &mut lines),
                Item::Bad(line, error) => {
                    let at = if let LineError::Count { at, .. } = error { at } else { None };
                    lines.bad.push(Bad { line: Some(line), why: error.to_string(), at });
                }
                Item::Long(line) => {
                    let why = "it is longer than what is read".to_owned();
                    lines.bad.push(Bad { line: Some(line), why, at: None });
                }
            }
        }
        Some(lines)
    }

    /// See [`Tail::has_half`].
    pub(super) fn has_half(&self, bytes: &[u8]) -> bool {
        self.tail.has_half(bytes)
    }

    /// The row of a last line without its end, where that is one; see [`Tail::early`].
    pub(super) fn early(&mut self, meaning: &Meaning, bytes: &[u8]) -> Option<Lines> {
        let mut lines = Lines::default();
        let row = self.tail.early(&meaning.form, bytes)?;
        self.take(meaning, row, &mut lines);
        Some(lines)
    }

    /// What is said of such a line that is not read.
    pub(super) fn waiting(&self, why: &str) -> Bad {
        Bad { line: Some(self.tail.half_number()), why: why.to_owned(), at: None }
    }

    fn take(&mut self, meaning: &Meaning, row: tail::Row, lines: &mut Lines) {
        if !(0..TIME_MAX.0).contains(&row.at.0) {
            let why = format!("there is a row of {}, which cannot be", row.at);
            lines.bad.push(Bad { line: None, why, at: None });
            return;
        }
        if self.fields != row.fields {
            lines.bad.extend(self.match_columns(meaning, row.fields));
        }
        lines.rows.extend(self.row(meaning, row.at, &row.vals));
    }

    /// See [`Tail::mark`].
    pub(super) fn mark(&self) -> Mark {
        self.tail.mark()
    }

    /// How much of the begin of its file [`is_head`](Self::is_head) compares.
    pub(super) fn head_len(&self) -> usize {
        self.tail.head_len()
    }

    /// See [`Tail::is_head`].
    pub(super) fn is_head(&self, bytes: &[u8]) -> bool {
        self.tail.is_head(bytes)
    }

    /// Finds the columns of a header that was not met before; says which it lacks.
    fn match_columns(&mut self, meaning: &Meaning, fields: Arc<[Field]>) -> Option<Bad> {
        let place = |name: &String| fields.iter().position(|field| field.name == *name);
        self.values = meaning.values.iter().map(place).collect();
        self.status = meaning.status.as_ref().and_then(place);
        let wanted = meaning.values.iter().chain(&meaning.status);
        let lacking: Vec<&str> = wanted.filter(|name| place(name).is_none()).map(String::as_str).collect();
        let has: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        let why = format!("it has no column {} among {}", lacking.join(", "), has.join(", "));
        let bad = (!lacking.is_empty()).then_some(Bad { line: None, why, at: None });
        self.fields = fields;
        bad
    }

    /// A row; nothing where none of its channels has a column.
    fn row(&self, meaning: &Meaning, at: Timestamp, vals: &[Val]) -> Option<Row> {
        let status = self.status.and_then(|place| vals.get(place));
        let is_invalid = status.is_some_and(|val| meaning.status_invalid.contains(&text(val)));
        let cells = self.values.iter().map(|place| {
            let val = vals.get((*place)?)?;
            Some(value(meaning, val, is_invalid))
        });
        let cells: Vec<Option<Cell>> = cells.collect();
        cells.iter().any(Option::is_some).then_some(Row { at, cells })
    }
}

/// As the file has it, a number in its shortest form.
fn text(val: &Val) -> String {
    match val {
        Val::Number(number) => number.to_string(),
        Val::Flag(flag) => flag.to_string(),
        Val::Text(text) => text.clone(),
        Val::Other(_) => String::new(),
    }
}

/// A value as logger files mean it: what is no number is a value that is none.
fn value(meaning: &Meaning, val: &Val, is_invalid: bool) -> Cell {
    match val {
        Val::Number(number) if number.is_infinite() && !is_invalid => (None, Quality::BadOutOfRange),
        Val::Number(number) => cell(*number, is_invalid, &meaning.invalid, meaning.overflow_above),
        Val::Flag(flag) => cell(f64::from(u8::from(*flag)), is_invalid, &[], None),
        Val::Text(text) if is_infinite(text) && !is_invalid => (None, Quality::BadOutOfRange),
        Val::Text(_) | Val::Other(_) => (None, Quality::BadInvalid),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use gapless_common::files::form::Kind;

    use super::*;

    pub(in super::super) fn meaning(values: &[&str]) -> Meaning {
        let kind = Kind::Csv { skip: 0, names: None, time: vec!["t".into()] };
        Meaning {
            form: Form::new(kind, "+00:00".parse().unwrap()),
            values: values.iter().map(|name| (*name).to_owned()).collect(),
            status: Some("ok".to_owned()),
            status_invalid: vec!["0".to_owned(), "false".to_owned()],
            invalid: vec![-9999.0],
            overflow_above: Some(100.0),
        }
    }

    fn told(meaning: &Meaning, text: &str) -> (Vec<String>, Vec<String>) {
        let lines = Reader::new(meaning).took(meaning, text.as_bytes()).unwrap();
        let cell = |cell: &Option<Cell>| match cell {
            None => "-".to_owned(),
            Some((value, quality)) => {
                format!("{} {quality:?}", value.map_or("none".to_owned(), |v| v.to_string()))
            }
        };
        let row = |row: &Row| {
            let cells: Vec<String> = row.cells.iter().map(cell).collect();
            format!("{}: {}", row.at, cells.join(", "))
        };
        let bad = |bad: &Bad| format!("{}: {}", bad.line.unwrap_or(0), bad.why);
        (lines.rows.iter().map(row).collect(), lines.bad.iter().map(bad).collect())
    }

    #[test]
    fn values_are_judged_as_those_of_logger_files_and_of_answers_are() {
        let text = "t,b,a,ok\n2026-01-01 00:00,1.5,2,1\n2026-01-01 00:10,NAN,-9999,1\n2026-01-01 00:20,INF,101,1\n\
                    2026-01-01 00:30,1,true,0\n2026-01-01 00:40,,x,true\n2026-01-01 00:50,1,2,";
        let (rows, bad) = told(&meaning(&["a", "b"]), text);
        let expected = [
            "2026-01-01T00:00:00Z: 2 Good, 1.5 Good",
            "2026-01-01T00:10:00Z: none BadInvalid, none BadInvalid",
            "2026-01-01T00:20:00Z: none BadOutOfRange, none BadOutOfRange",
            "2026-01-01T00:30:00Z: none BadInvalid, none BadInvalid",
            "2026-01-01T00:40:00Z: none BadInvalid, none BadInvalid",
        ];
        assert_eq!((rows, bad), (expected.map(str::to_owned).to_vec(), Vec::new()), "the half line waits");
    }

    #[test]
    fn what_a_file_lacks_is_said_once_and_the_rest_is_read() {
        let text = "t,a\n2026-01-01 00:00,1\n2026-01-01 00:10,2\n1899-12-30 00:00,3\n2026-01-01 00:20\n";
        let (rows, bad) = told(&meaning(&["a", "b"]), text);
        assert_eq!(rows, ["2026-01-01T00:00:00Z: 1 Good, -", "2026-01-01T00:10:00Z: 2 Good, -"]);
        let expected = [
            "0: it has no column b, ok among a",
            "0: there is a row of 1899-12-30T00:00:00Z, which cannot be",
            "5: 1 cells, and the header has 2",
        ];
        assert_eq!(bad, expected);
        let (rows, bad) = told(&meaning(&["c"]), "t,a\n2026-01-01 00:00,1\n");
        assert_eq!((rows.len(), bad), (0, vec!["0: it has no column c, ok among a".to_owned()]));
    }

    #[test]
    fn a_text_that_is_another_one_is_noticed() {
        let meaning = meaning(&["a"]);
        let mut reader = Reader::new(&meaning);
        assert!(reader.took(&meaning, b"t,a\n2026-01-01 00:00,1\n").is_some());
        assert!(reader.took(&meaning, b"t,a\n2026-01-02 00:00,1\n2026-01-01 00:10,2\n").is_none());
    }
}
