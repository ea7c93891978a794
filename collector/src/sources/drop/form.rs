//! How the rows of a drop's files are written, as it is described. Pure.

use gapless_common::files::form::{Form, Kind};
use gapless_common::files::stamp::Stamp;
use gapless_common::files::text::{ENCODINGS, Encoding};
use gapless_common::zone::Zone;
use serde::Deserialize;

use super::super::answer::Label;

/// How the rows of files are written: the words are those of an agent's logger files, and of the answers of an API.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::sources) struct RowSpec {
    /// See there.
    pub(super) format: FileFormat,
    /// The offset of the files' times from UTC, such as `+01:00`; a time that says its own is taken at its word.
    pub(super) zone: String,
    /// Which end of its period a time names.
    #[serde(default = "end")]
    pub(super) label: Label,
    /// `utf-8` or `latin-1`.
    pub(super) encoding: Option<String>,
    /// Between two cells.
    pub(super) separator: Option<char>,
    /// Before the part of a number that is less than one: `.` or `,`.
    pub(super) decimal: Option<char>,
    /// Lines before that of names.
    pub(super) skip: Option<u32>,
    /// The names of the columns, where no line says them.
    pub(super) header: Option<Vec<String>>,
    /// The column of the time, or those that are joined by a space to be it.
    pub(super) time: Option<Columns>,
    /// `iso`, `unix`, `unix_ms` or a pattern such as `%d.%m.%Y %H:%M`.
    pub(super) time_format: Option<String>,
    /// Cells that say that there is no value, beside `NAN` and nothing at all.
    #[serde(default)]
    pub(super) missing: Vec<String>,
    /// The column of the value, where a channel does not say its own.
    pub(super) value: Option<String>,
    /// The column that says something about the values of a row.
    pub(super) status: Option<String>,
    /// The words of `status` that mean that the values are none.
    #[serde(default)]
    pub(super) status_invalid: Vec<String>,
    /// Numbers by which the files say that there is no value.
    #[serde(default)]
    pub(super) invalid: Vec<f64>,
    /// Beyond it a value cannot be.
    pub(super) overflow_above: Option<f64>,
    /// What a last line without its end is, in a file that lies there as it was written.
    #[serde(default)]
    pub(super) last_line: LastLine,
}

/// What a last line is that has no end, and of which nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::sources) enum LastLine {
    /// Part of one: an upload that stalled, or a disk that was full. It waits for its end.
    #[default]
    Waits,
    /// All of one: the logger ends a line only when it begins the next.
    Whole,
}

fn end() -> Label {
    Label::End
}

/// What stands in which line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::sources) enum FileFormat {
    /// Four lines of header, as Campbell Scientific's loggers and LoggerNet write them.
    Toa5,
    /// One line of names, or none.
    Csv,
}

/// One column or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(in crate::sources) enum Columns {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl RowSpec {
    /// How its lines are read.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub(super) fn form(&self) -> Result<Form, String> {
        let zone: Zone = self.zone.parse().map_err(|e| format!("`rows.zone`: {e}"))?;
        let kind = match self.format {
            FileFormat::Toa5 => self.toa5()?,
            FileFormat::Csv => self.csv()?,
        };
        let mut form = Form::new(kind, zone);
        if let Some(word) = &self.encoding {
            form.encoding = encoding(word)?;
        }
        if let Some(text) = &self.time_format {
            form.stamp = text.parse::<Stamp>().map_err(|e| format!("`rows.time_format`: {e}"))?;
        }
        form.separator = self.separator.unwrap_or(form.separator);
        form.has_decimal_comma = match self.decimal {
            None | Some('.') => false,
            Some(',') => true,
            Some(other) => return Err(format!("`rows.decimal` is \".\" or \",\", and not `{other}`")),
        };
        if form.has_decimal_comma && form.separator == ',' {
            return Err(
                "with rows.decimal = \",\" a comma cannot part the cells: write a `separator`, such as \";\""
                    .to_owned(),
            );
        }
        form.missing = self.missing.iter().map(|word| word.as_str().into()).collect();
        Ok(form)
    }

    fn toa5(&self) -> Result<Kind, String> {
        let said = [
            ("separator", self.separator.is_some()),
            ("decimal", self.decimal.is_some()),
            ("skip", self.skip.is_some()),
            ("header", self.header.is_some()),
            ("time", self.time.is_some()),
            ("time_format", self.time_format.is_some()),
        ];
        match said.iter().find(|(_, is_said)| *is_said) {
            Some((key, _)) => {
                Err(format!("`rows.{key}` is for format = \"csv\": a TOA5 file says it itself"))
            }
            None => Ok(Kind::Toa5),
        }
    }

    fn csv(&self) -> Result<Kind, String> {
        let time = match &self.time {
            Some(Columns::One(name)) => vec![name.clone()],
            Some(Columns::Several(names)) if !names.is_empty() => names.clone(),
            _ => {
                return Err("`rows.time` is missing: the column of the time, such as \"time\" or [\"date\", \"time\"]"
                    .to_owned());
            }
        };
        if let Some(absent) =
            time.iter().find(|name| self.header.as_ref().is_some_and(|names| !names.contains(name)))
        {
            return Err(format!("`rows.header` names no column `{absent}`"));
        }
        let boxed = |names: &[String]| names.iter().map(|name| name.as_str().into()).collect();
        let names = self.header.as_deref().map(boxed);
        Ok(Kind::Csv { skip: self.skip.unwrap_or(0), names, time: boxed(&time) })
    }
}

fn encoding(word: &str) -> Result<Encoding, String> {
    ENCODINGS.iter().find(|(known, _)| *known == word).map(|(_, encoding)| *encoding).ok_or_else(|| {
        let known: Vec<&str> = ENCODINGS.iter().map(|(known, _)| *known).collect();
        format!("`rows.encoding`: `{word}` is none of {}", known.join(", "))
    })
}
