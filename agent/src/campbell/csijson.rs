//! Reads CSIJSON, bounded before anything is allocated: a body is at most [`BODY_BYTES_MAX`] long. Knows no tables and
//! no channels.

use serde::Deserialize;

use crate::records::layout::{Field, Val};

/// Longest answer that is read. What is asked for is cut so that answers stay far below.
pub const BODY_BYTES_MAX: usize = 256 << 10;

/// An answer to `DataQuery`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Answer {
    /// What the records are.
    pub head: Head,
    /// The records, oldest first.
    #[serde(default)]
    pub data: Vec<Record>,
    /// There are others that were asked for, and did not fit.
    #[serde(default)]
    pub more: bool,
}

/// What the records are.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Head {
    /// A number over the table's definition: another one is another definition.
    #[serde(default)]
    pub signature: u64,
    /// Whose records.
    #[serde(default)]
    pub environment: Environment,
    /// What stands in each place of a record.
    #[serde(default)]
    pub fields: Vec<Field>,
}

/// Whose records.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Environment {
    /// Name of the station.
    #[serde(default)]
    pub station_name: String,
    /// Name of the table.
    #[serde(default)]
    pub table_name: String,
    /// Make of the logger.
    #[serde(default)]
    pub model: String,
    /// Its serial number.
    #[serde(default)]
    pub serial_no: String,
    /// Its operating system.
    #[serde(default)]
    pub os_version: String,
    /// Its program.
    #[serde(default)]
    pub prog_name: String,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Record {
    /// Its number: one more with each record, from 0 where the table was made anew.
    pub no: u64,
    /// The logger's local time.
    pub time: String,
    /// One value for each field.
    pub vals: Vec<Val>,
}

/// An answer to `BrowseSymbols`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Symbols {
    /// What is there.
    pub symbols: Vec<Symbol>,
}

/// One table or field.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Symbol {
    /// Its name.
    pub name: String,
}

/// Why a body is no answer. Loggers answer with status 200 whatever went wrong.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// Longer than [`BODY_BYTES_MAX`].
    #[error("an answer of {0} bytes, more than is read")]
    TooLong(usize),
    /// A page, or a complaint in words.
    #[error("no records, but: {0}")]
    Words(String),
    /// Broken off, or not what it should be.
    #[error("an answer that is not CSIJSON: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A record with fewer or more values than there are fields.
    #[error("record {no} has {got} values for {fields} fields")]
    Count {
        /// Which record.
        no: u64,
        /// Its values.
        got: usize,
        /// What the head says.
        fields: usize,
    },
}

/// Longest part of a complaint that is told on.
const WORDS_CHARS_MAX: usize = 80;

/// Reads an answer to `DataQuery`.
///
/// # Errors
/// [`AnswerError`].
pub fn read(body: &[u8]) -> Result<Answer, AnswerError> {
    let answer: Answer = parse(body)?;
    let fields = answer.head.fields.len();
    match answer.data.iter().find(|record| record.vals.len() != fields) {
        Some(record) => Err(AnswerError::Count { no: record.no, got: record.vals.len(), fields }),
        None => Ok(answer),
    }
}

/// Reads an answer to `BrowseSymbols`.
///
/// # Errors
/// [`AnswerError`].
pub fn read_symbols(body: &[u8]) -> Result<Symbols, AnswerError> {
    parse(body)
}

fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, AnswerError> {
    if body.len() > BODY_BYTES_MAX {
        return Err(AnswerError::TooLong(body.len()));
    }
    let begin = body.iter().find(|byte| !byte.is_ascii_whitespace());
    if begin != Some(&b'{') {
        return Err(AnswerError::Words(words(body)));
    }
    Ok(serde_json::from_slice(body)?)
}

/// What a page or a complaint says, without its tags.
fn words(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 << 10)]);
    let mut out = String::new();
    let mut in_tag = false;
    for c in text.chars() {
        match c {
            '<' => in_tag = true,
            '>' => {
                in_tag = false;
                out.push(' ');
            }
            _ if !in_tag && !c.is_control() => out.push(c),
            _ => {}
        }
    }
    let joined = out.split_whitespace().collect::<Vec<_>>().join(" ");
    if joined.is_empty() { "nothing".to_owned() } else { joined.chars().take(WORDS_CHARS_MAX).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a CR1000X writes it; a field more than we know, and one that is not there.
    const ANSWER: &str = r#"{
"head": {"transaction": 0,"signature": 38611,"environment": {"station_name": "11467","table_name": "Test",
 "model": "CR1000","serial_no": "11467","os_version": "CR1000.Std.21.03","prog_name": "CPU:x.CR1"},
 "fields": [{"name": "batt_volt_Min","type": "xsd:float","process": "Min","settable": false},
            {"name": "Note","type": "xsd:string","units": ""}]},
"data": [{"time": "2011-01-06T15:04:15","no": 0,"vals": [13.28,"ok"]},
         {"time": "2011-01-06T15:04:30","no": 1,"vals": ["NAN",null]}],"more": true}"#;

    #[test]
    fn an_answer_is_read() {
        let answer = read(ANSWER.as_bytes()).unwrap();
        assert_eq!((answer.head.signature, answer.more), (38_611, true));
        assert_eq!(answer.head.fields[0].process, "Min");
        assert_eq!(answer.data[0].vals, [Val::Number(13.28), Val::Text("ok".to_owned())]);
        assert_eq!(answer.data[1].vals[1], Val::Other(serde::de::IgnoredAny));
    }

    #[test]
    fn what_is_no_answer_is_an_error_and_says_why() {
        let rows = [
            ("", "no records, but: nothing"),
            ("<html><body><b>Error</b>: no table</body></html>", "no records, but: Error : no table"),
            ("Error 1", "no records, but: Error 1"),
            (&ANSWER[..ANSWER.len() / 2], "an answer that is not CSIJSON"),
            ("{}", "an answer that is not CSIJSON: missing field `head`"),
            (
                r#"{"head": {}, "data": [{"no": 7, "time": "", "vals": [1]}]}"#,
                "record 7 has 1 values for 0 fields",
            ),
        ];
        for (body, expected) in rows {
            let error = read(body.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{body}: {error}");
        }
        for end in 0..ANSWER.len() {
            assert!(read(&ANSWER.as_bytes()[..end]).is_err(), "broken off after {end}");
        }
        let long = vec![b' '; BODY_BYTES_MAX + 1];
        assert!(matches!(read(&long), Err(AnswerError::TooLong(_))));
        let symbols = read_symbols(br#"{"symbols": [{"name": "Met", "type": 6}]}"#).unwrap();
        assert_eq!(symbols.symbols[0].name, "Met");
    }
}
