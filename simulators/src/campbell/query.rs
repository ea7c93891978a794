//! What is asked of the logger: the query of an HTTP request, understood. Does not answer it.

use gapless_common::time::Timestamp;

/// One command of the web server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// Records of a table.
    Data {
        /// Which table.
        table: String,
        /// Which records.
        mode: Mode,
    },
    /// The tables, or the fields of one.
    Symbols(Option<String>),
}

/// Which records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The newest so many.
    MostRecent(u64),
    /// From a local time on, in ms.
    SinceTime(i64),
    /// From a record on; all where there is no such record.
    SinceRecord(u64),
    /// Local times, half open, in ms.
    DateRange(i64, i64),
    /// Not older than so many seconds.
    Backfill(i64),
}

/// Reads what stands behind the `?` of a request.
///
/// # Errors
/// What the logger would complain about.
pub fn parse(text: &str) -> Result<Query, String> {
    let pairs: Vec<(String, String)> = text
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (decoded(key).to_ascii_lowercase(), decoded(value)))
        .collect();
    let value = |key: &str| pairs.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str());
    if value("format") != Some("json") {
        return Err("only format=json is simulated".to_owned());
    }
    let uri = value("uri").unwrap_or_default();
    let source = uri.strip_prefix("dl:").unwrap_or(uri);
    match value("command").unwrap_or_default().to_ascii_lowercase().as_str() {
        "browsesymbols" => Ok(Query::Symbols((!source.is_empty()).then(|| source.to_owned()))),
        "dataquery" => Ok(Query::Data { table: source.to_owned(), mode: mode(&value)? }),
        other => Err(format!("unknown command {other}")),
    }
}

fn mode<'a>(value: &impl Fn(&str) -> Option<&'a str>) -> Result<Mode, String> {
    let name = value("mode").unwrap_or_default();
    let text = |key: &str| value(key).ok_or_else(|| format!("{name} needs {key}"));
    let whole = |key: &str| text(key)?.parse::<u64>().map_err(|_| format!("{key} is no number"));
    let instant = |key: &str| local_ms(text(key)?).ok_or_else(|| format!("{key} is no time"));
    match name {
        "most-recent" => Ok(Mode::MostRecent(whole("p1")?)),
        "since-time" => Ok(Mode::SinceTime(instant("p1")?)),
        "since-record" => Ok(Mode::SinceRecord(whole("p1")?)),
        "date-range" => Ok(Mode::DateRange(instant("p1")?, instant("p2")?)),
        "backfill" => Ok(Mode::Backfill(i64::try_from(whole("p1")?).unwrap_or(i64::MAX / 1_000))),
        other => Err(format!("unknown mode {other}")),
    }
}

/// A local time without zone; midnight where only the day is named.
fn local_ms(text: &str) -> Option<i64> {
    let full = if text.contains('T') { format!("{text}Z") } else { format!("{text}T00:00:00Z") };
    full.parse::<Timestamp>().ok().map(|instant| instant.0)
}

/// `%2E` and `+` undone (RFC 3986, section 2.1).
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let hex = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, hex) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_understood() {
        let data = |table: &str, mode| Ok(Query::Data { table: table.to_owned(), mode });
        let rows = [
            (
                "command=DataQuery&uri=dl:Met&format=json&mode=since-record&p1=7",
                data("Met", Mode::SinceRecord(7)),
            ),
            (
                "command=dataquery&uri=dl%3AMet&format=json&mode=date-range&p1=1970-01-01T00%3A00%3A01&p2=1970-01-02",
                data("Met", Mode::DateRange(1_000, 86_400_000)),
            ),
            ("command=DataQuery&uri=dl:Met&format=json&mode=backfill&p1=60", data("Met", Mode::Backfill(60))),
            ("command=BrowseSymbols&uri=dl:&format=json", Ok(Query::Symbols(None))),
            ("command=BrowseSymbols&uri=dl:Met&format=json", Ok(Query::Symbols(Some("Met".to_owned())))),
        ];
        for (text, expected) in rows {
            assert_eq!(parse(text), expected, "{text}");
        }
        for bad in ["", "command=DataQuery&uri=dl:Met&format=json", "command=x&format=json", "%", "a=%zz&é=%"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
