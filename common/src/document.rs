//! A TOML file as a person wrote it, read key by key: every problem is kept with its place, so that one run
//! names all of them. Knows no schema: readers ask for the keys they know, and [`Table::finish`] reports the rest.

mod suggest;
mod table;

use std::cell::RefCell;
use std::fmt;

use toml::de::DeTable;

pub use table::{At, Item, Table};

/// A place in a text: the byte at which something begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(usize);

/// Something wrong in a file, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// One sentence.
    pub message: String,
}

/// All that is wrong in a file, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// Its name, as the person called it.
    pub file: Box<str>,
    /// At least one.
    pub list: Vec<Problem>,
}

impl std::error::Error for Problems {}

/// One line each: `file:line:column: message`.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.list.iter().enumerate() {
            let Problem { line, column, message } = problem;
            let end = if i == 0 { "" } else { "\n" };
            write!(f, "{end}{}:{line}:{column}: {message}", self.file)?;
        }
        Ok(())
    }
}

/// The text of a file; every configuration is UTF-8, as TOML wants it.
///
/// # Errors
/// Where it is not, and what to do.
pub fn text_of(bytes: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(bytes).map_err(|error| {
        let (before, rest) = bytes.split_at(error.valid_up_to());
        let before = String::from_utf8_lossy(before);
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let byte = rest.first().copied().unwrap_or_default();
        let message = format!("the byte 0x{byte:02X} is not UTF-8: save the file as UTF-8");
        Problem { line: before.matches('\n').count() + 1, column, message }
    })
}

/// A parsed file and the problems found in it so far.
#[derive(Debug)]
pub struct Document<'t> {
    text: &'t str,
    root: DeTable<'t>,
    problems: RefCell<Vec<(Place, String)>>,
    is_toml: bool,
}

impl<'t> Document<'t> {
    /// Parses `text` as TOML 1.0. Where that cannot be done, only that is told: what is missing then may be there.
    #[must_use]
    pub fn parse(text: &'t str) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let problems = errors.iter().map(|error| {
            let at = error.span().map_or(0, |span| span.start);
            (Place(at), error.message().to_owned())
        });
        let is_toml = errors.is_empty();
        Self { text, problems: RefCell::new(problems.collect()), root: root.into_inner(), is_toml }
    }

    /// The table of the whole file.
    #[must_use]
    pub fn root(&self) -> Table<'_> {
        Table::new(self, &self.root, Place(0))
    }

    /// Keeps a problem.
    pub fn report(&self, at: Place, message: impl Into<String>) {
        if self.is_toml {
            self.problems.borrow_mut().push((at, message.into()));
        }
    }

    /// Line and column, both from 1, of a place.
    #[must_use]
    pub fn line_column(&self, at: Place) -> (usize, usize) {
        let before = self.text.get(..at.0).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }

    /// `value`, if it could be made and nothing was wrong.
    ///
    /// # Errors
    /// Everything that was reported, in the order of the file; `file` is its name for people.
    pub fn finish<T>(&self, file: &str, value: Option<T>) -> Result<T, Problems> {
        let mut found = self.problems.borrow().clone();
        match value {
            Some(value) if found.is_empty() => return Ok(value),
            None if found.is_empty() => found.push((Place(0), "this file is not complete".to_owned())),
            _ => found.sort(),
        }
        found.dedup();
        let list = found.into_iter().map(|(at, message)| {
            let (line, column) = self.line_column(at);
            Problem { line, column, message }
        });
        Err(Problems { file: file.into(), list: list.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen<T>(_answer: T) {}

    fn problems(text: &str, read: impl FnOnce(&Table<'_>)) -> String {
        let document = Document::parse(text);
        let root = document.root();
        read(&root);
        root.finish();
        match document.finish("f.toml", Some(())) {
            Ok(()) => String::new(),
            Err(problems) => problems.to_string(),
        }
    }

    #[test]
    fn problems_have_places_and_say_what_is_right() {
        type Read = fn(&Table<'_>);
        let rows: [(&str, Read, &str); 10] = [
            ("a = 1", |t| seen(t.integer("a", 0..=9)), ""),
            ("\n  a = 10", |t| seen(t.integer("a", 0..=9)), "f.toml:2:7: `a` must be 0 to 9, got 10"),
            ("a = 'x'", |t| seen(t.integer("a", 0..=9)), "f.toml:1:5: `a` must be an integer, got a string"),
            ("é = 1", |_| (), "f.toml:1:1: syntax"),
            (
                "bauds = 1",
                |t| seen(t.integer("baud", 0..=9)),
                "f.toml:1:1: unknown key `bauds`: did you mean `baud`?",
            ),
            (
                "zebra = 1",
                |t| seen((t.flag("on"), t.flag("off"))),
                "f.toml:1:1: unknown key `zebra`: known here are `off`, `on`",
            ),
            (
                "[t]\na = 1\n[t.x]\n",
                |t| {
                    t.table("t").unwrap().finish();
                },
                "f.toml:2:1: unknown key `a`: nothing is known here\nf.toml:3:4: unknown key `x`: nothing is known here",
            ),
            (
                "a = '10 parsecs'",
                |t| seen(t.duration_ms("a")),
                "f.toml:1:5: `a`: `10 parsecs` is not a duration: write a number and a unit, such as 250ms, 10s, 15m, 6h or 30d",
            ),
            (
                "a = 'c'",
                |t| seen(t.word("a", &[("b", 1), ("d", 2)])),
                "f.toml:1:5: `a` must be \"b\" or \"d\", got \"c\"",
            ),
            (
                "\n[[d]]\n[[d]]\n",
                |t| {
                    for d in t.tables("d") {
                        d.need("id", "\"meter\"");
                    }
                },
                "f.toml:2:1: `id` is missing: for example id = \"meter\"\nf.toml:3:1: `id` is missing: for example id = \"meter\"",
            ),
        ];
        for (text, read, expected) in rows {
            let got = problems(text, read);
            match expected.strip_suffix("syntax") {
                Some(place) => assert!(got.starts_with(place), "{text:?}: {got}"),
                None => assert_eq!(got, expected, "{text:?}"),
            }
        }
    }

    #[test]
    fn a_file_that_is_not_utf8_is_told_with_line_and_byte() {
        type Told = Result<&'static str, (usize, usize, &'static str)>;
        let rows: [(&[u8], Told); 4] = [
            ("é = 1".as_bytes(), Ok("é = 1")),
            (b"\xFC", Err((1, 1, "0xFC"))),
            (b"a = 1\n# \xC3\xA9 \xE4hnlich\n", Err((2, 5, "0xE4"))),
            (b"a\n\nb\xC3", Err((3, 2, "0xC3"))),
        ];
        for (bytes, expected) in rows {
            let got = text_of(bytes);
            let is_it = match (&got, expected) {
                (Ok(text), Ok(right)) => *text == right,
                (Err(problem), Err((line, column, byte))) => {
                    (problem.line, problem.column) == (line, column) && problem.message.contains(byte)
                }
                _ => false,
            };
            assert!(is_it, "{bytes:?}: {got:?}");
        }
    }

    #[test]
    fn all_problems_of_a_file_are_named() {
        let got = problems("b = 3\nc = 'no'\n", |t| seen((t.flag("b"), t.flag("c"))));
        let lines: Vec<&str> = got.lines().map(|l| l.split(": ").next().unwrap_or(l)).collect();
        assert_eq!(lines, ["f.toml:1:5", "f.toml:2:5"], "{got}");
    }

    #[test]
    fn where_it_is_no_toml_only_that_is_told() {
        let rows =
            [("a =\n1\nb = 3\n", "f.toml:1:"), ("b = 3\nb = 4\n", "f.toml:2:"), ("b = 3\n[a\n", "f.toml:2:")];
        for (text, place) in rows {
            let got = problems(text, |t| {
                t.need("interval", "\"10s\"");
                seen((t.flag("a"), t.flag("b")));
            });
            let is_told =
                got.starts_with(place) && !got.contains("`interval`") && !got.contains("true or false");
            assert!(is_told, "{text:?}: {got}");
        }
    }
}
