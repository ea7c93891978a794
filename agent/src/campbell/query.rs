//! What is asked of a logger, written as the query of a GET. Sends nothing.

use std::fmt::Write as _;

use gapless_common::time::Timestamp;

use crate::records::zone::Zone;

/// Which records of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The newest one.
    Newest,
    /// From this number on. Loggers differ in whether it comes along itself, and where none has the number they give all
    /// from the oldest on.
    SinceRecord(u64),
    /// Instants, half open.
    Between(Timestamp, Timestamp),
}

/// The records of `table` that `mode` says, as CSIJSON.
#[must_use]
pub fn data(table: &str, mode: Mode, zone: Zone) -> String {
    let mut text = format!("/?command=DataQuery&uri=dl:{}&format=json&mode=", escaped(table));
    let _ = match mode {
        Mode::Newest => write!(text, "most-recent&p1=1"),
        Mode::SinceRecord(no) => write!(text, "since-record&p1={no}"),
        Mode::Between(from, to) => {
            write!(text, "date-range&p1={}&p2={}", escaped(&zone.local(from)), escaped(&zone.local(to)))
        }
    };
    text
}

/// The names of all tables.
#[must_use]
pub fn tables() -> String {
    "/?command=BrowseSymbols&uri=dl:&format=json".to_owned()
}

/// Everything but what may stand in a query as it is (RFC 3986, section 3.4), and nothing that parts a query.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_written_as_the_api_wants_them() {
        let zone: Zone = "+01:00".parse().unwrap();
        let rows = [
            (Mode::Newest, "mode=most-recent&p1=1"),
            (Mode::SinceRecord(14_400), "mode=since-record&p1=14400"),
            (
                Mode::Between(Timestamp(0), Timestamp(90_500)),
                "mode=date-range&p1=1970-01-01T01:00:00&p2=1970-01-01T01:01:30.5",
            ),
        ];
        for (mode, expected) in rows {
            let text = data("Met", mode, zone);
            assert_eq!(text, format!("/?command=DataQuery&uri=dl:Met&format=json&{expected}"));
        }
        assert!(data("a b&c=é", Mode::Newest, zone).contains("uri=dl:a%20b%26c%3D%C3%A9&format"));
    }
}
