//! Rows of a file: a header that names its columns, then one record a line. Knows no files and no positions.
//!
//! Contract: give [`Parser::line`] each line of a file, from its first one on, in order.

use std::borrow::Cow;
use std::sync::Arc;

use super::stamp::Stamp;
use super::text::{Encoding, TextError, cells, decode, without_mark};
use crate::field::{Field, Val};
use crate::time::Timestamp;
use crate::zone::Zone;

/// How the lines of a file are to be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// What stands in which line.
    pub kind: Kind,
    /// What a byte means.
    pub encoding: Encoding,
    /// Between two cells.
    pub separator: char,
    /// `2,5` is two and a half.
    pub has_decimal_comma: bool,
    /// Cells that say that there is no value, beside `NAN` and nothing at all.
    pub missing: Vec<Box<str>>,
    /// How a time is written.
    pub stamp: Stamp,
    /// Zone of the file's times.
    pub zone: Zone,
}

impl Form {
    /// UTF-8 with commas between cells, points in numbers and times as of ISO 8601.
    #[must_use]
    pub const fn new(kind: Kind, zone: Zone) -> Self {
        Self {
            kind,
            encoding: Encoding::Utf8,
            separator: ',',
            has_decimal_comma: false,
            missing: Vec::new(),
            stamp: Stamp::Iso,
            zone,
        }
    }
}

/// What stands in which line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Four lines of header: environment, names, units, processing (LoggerNet manual, appendix B.1.3); time and record
    /// number in front.
    Toa5,
    /// One line of names, or none.
    Csv {
        /// Lines before it.
        skip: u32,
        /// The columns' names, where no line says them.
        names: Option<Vec<Box<str>>>,
        /// The columns that are the time, joined by a space.
        time: Vec<Box<str>>,
    },
}

/// What a line was.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    /// Nothing that is told: a part of the header, or empty.
    Nothing,
    /// The header is complete, or another one: [`Parser::fields`] are these from here on.
    Head,
    /// One record.
    Row {
        /// Its time.
        at: Timestamp,
        /// In the order of [`Parser::fields`].
        vals: Vec<Val>,
    },
}

/// Why a line is skipped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// No characters.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A quotation mark without its other.
    #[error("a quotation mark stands alone or within a cell")]
    Quotes,
    /// Not a header.
    #[error("no header that can be used, so nothing of the file is read: {0}")]
    Head(String),
    /// Too few or too many cells.
    #[error("{got} cells, and the header has {wanted}")]
    Count {
        /// Its cells.
        got: usize,
        /// Those of the header.
        wanted: usize,
        /// Its time, where that can be read.
        at: Option<Timestamp>,
    },
    /// Its time cannot be read.
    #[error("`{0}` is no time")]
    Time(String),
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    /// In the header, of which these lines were read.
    Head(Vec<Vec<String>>),
    /// Behind it.
    Body(Columns),
    /// The header was none.
    Unusable,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Columns {
    count: usize,
    time: Vec<usize>,
    /// Those that are fields.
    kept: Vec<usize>,
}

/// The lines of one file.
#[derive(Debug, Clone, PartialEq)]
pub struct Parser {
    /// Lines that were read.
    lines: u64,
    encoding: Encoding,
    state: State,
    fields: Arc<[Field]>,
}

/// Longest part of a line that is quoted.
const QUOTED_CHARS_MAX: usize = 40;

impl Parser {
    /// Before the first line.
    #[must_use]
    pub fn new(form: &Form) -> Self {
        let mut new = Self {
            lines: 0,
            encoding: form.encoding,
            state: State::Head(Vec::new()),
            fields: Arc::default(),
        };
        if let Kind::Csv { skip: 0, names: Some(names), .. } = &form.kind {
            // What is wrong with the names was said when the configuration was read.
            new.state = new.body(form, &owned(names)).unwrap_or(State::Unusable);
        }
        new
    }

    /// Number of the line that was read last, from 1.
    #[must_use]
    pub const fn line_number(&self) -> u64 {
        self.lines
    }

    /// What a row holds.
    #[must_use]
    pub fn fields(&self) -> Arc<[Field]> {
        Arc::clone(&self.fields)
    }

    /// Whether the last cell of a row is its time: half of it may be another time.
    #[must_use]
    pub fn ends_in_time(&self) -> bool {
        matches!(&self.state, State::Body(columns) if columns.time.contains(&columns.count.saturating_sub(1)))
    }

    /// A line was too long to be read.
    pub const fn skipped(&mut self) {
        self.lines += 1;
    }

    /// Reads the next line.
    ///
    /// # Errors
    /// [`LineError`]; the next line may be good again.
    pub fn line(&mut self, form: &Form, bytes: &[u8]) -> Result<Line, LineError> {
        self.lines += 1;
        let mut bytes = bytes;
        if let (1, Some(rest)) = (self.lines, without_mark(bytes)) {
            (self.encoding, bytes) = (Encoding::Utf8, rest);
        }
        if let Kind::Csv { skip, .. } = &form.kind
            && self.lines <= u64::from(*skip)
        {
            return self.skip(form);
        }
        let text = decode(self.encoding, bytes)?;
        if text.trim().is_empty() {
            return Ok(Line::Nothing);
        }
        let cells = cells(&text, form.separator).ok_or(LineError::Quotes)?;
        if form.kind == Kind::Toa5 && cells.first().is_some_and(|first| first == "TOA5") {
            // Another program's records may follow in the same file.
            self.state = State::Head(Vec::new());
        }
        match &mut self.state {
            State::Unusable => Ok(Line::Nothing),
            State::Head(_) => self.head(form, &cells),
            State::Body(columns) => row(form, columns, &cells),
        }
    }

    /// A line before the header; behind the last one there may be none.
    fn skip(&mut self, form: &Form) -> Result<Line, LineError> {
        match &form.kind {
            Kind::Csv { skip, names: Some(names), .. } if self.lines == u64::from(*skip) => {
                self.begin(form, &owned(names))
            }
            _ => Ok(Line::Nothing),
        }
    }

    fn head(&mut self, form: &Form, cells: &[Cow<'_, str>]) -> Result<Line, LineError> {
        let owned: Vec<String> = cells.iter().map(|cell| cell.trim().to_owned()).collect();
        if let Kind::Csv { .. } = form.kind {
            return self.begin(form, &owned);
        }
        let State::Head(lines) = &mut self.state else { return Ok(Line::Nothing) };
        if lines.is_empty() && owned.first().is_none_or(|first| first != "TOA5") {
            let first: String = cells.concat().chars().take(QUOTED_CHARS_MAX).collect();
            self.state = State::Unusable;
            return Err(LineError::Head(format!(
                "a TOA5 file begins with \"TOA5\", this one with `{first}`"
            )));
        }
        lines.push(owned);
        if lines.len() < 4 {
            return Ok(Line::Nothing);
        }
        let [_, names, units, processes] = &std::mem::take(lines)[..] else { return Ok(Line::Nothing) };
        let line = self.begin(form, names)?;
        let State::Body(columns) = &self.state else { return Ok(line) };
        let described = self.fields.iter().zip(&columns.kept).map(|(field, column)| {
            let cell = |row: &[String]| row.get(*column).cloned().unwrap_or_default();
            Field { units: cell(units), process: cell(processes), ..field.clone() }
        });
        self.fields = described.collect();
        Ok(line)
    }

    fn begin(&mut self, form: &Form, names: &[String]) -> Result<Line, LineError> {
        match self.body(form, names) {
            Ok(body) => {
                self.state = body;
                Ok(Line::Head)
            }
            Err(why) => {
                self.state = State::Unusable;
                Err(LineError::Head(why))
            }
        }
    }

    fn body(&mut self, form: &Form, names: &[String]) -> Result<State, String> {
        let (wanted, ignored): (Vec<&str>, &[&str]) = match &form.kind {
            Kind::Toa5 => (vec!["TIMESTAMP"], &["RECORD"]),
            Kind::Csv { time, .. } => (time.iter().map(AsRef::as_ref).collect(), &[]),
        };
        let mut time = Vec::new();
        for name in wanted {
            let place = names.iter().position(|known| known == name);
            time.push(place.ok_or_else(|| format!("no column `{name}` among {}", names.join(", ")))?);
        }
        let is_kept = |column: &usize| !time.contains(column) && !ignored.contains(&names[*column].as_str());
        let kept: Vec<usize> = (0..names.len()).filter(is_kept).collect();
        let field = |column: &usize| Field {
            name: names[*column].clone(),
            kind: String::new(),
            units: String::new(),
            process: String::new(),
        };
        self.fields = kept.iter().map(field).collect();
        Ok(State::Body(Columns { count: names.len(), time, kept }))
    }
}

fn owned(names: &[Box<str>]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn row(form: &Form, columns: &Columns, cells: &[Cow<'_, str>]) -> Result<Line, LineError> {
    let time: Vec<&str> =
        columns.time.iter().filter_map(|column| cells.get(*column)).map(|cell| cell.trim()).collect();
    let time = time.join(" ");
    let at = form.stamp.instant(&time, form.zone);
    if cells.len() != columns.count {
        return Err(LineError::Count { got: cells.len(), wanted: columns.count, at });
    }
    let at = at.ok_or_else(|| LineError::Time(time.chars().take(QUOTED_CHARS_MAX).collect()))?;
    let vals = columns.kept.iter().filter_map(|column| cells.get(*column)).map(|cell| value(form, cell));
    Ok(Line::Row { at, vals: vals.collect() })
}

/// A cell as a value: what is no number stays a text, of which whoever reads it makes a bad reading.
fn value(form: &Form, cell: &str) -> Val {
    let cell = cell.trim();
    let none = || Val::Text("NAN".to_owned());
    if form.missing.iter().any(|missing| &**missing == cell) {
        return none();
    }
    let number =
        if form.has_decimal_comma { cell.replacen(',', ".", 1).parse() } else { cell.parse::<f64>() };
    match (number, cell) {
        (Ok(number), _) if number.is_nan() => none(),
        (Ok(number), _) => Val::Number(number),
        (Err(_), "true" | "TRUE") => Val::Flag(true),
        (Err(_), "false" | "FALSE") => Val::Flag(false),
        (Err(_), _) => Val::Text(cell.to_owned()),
    }
}

#[cfg(test)]
pub(super) mod tests;
