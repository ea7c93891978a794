//! From an answer to rows. Pure.

use gapless_common::quality::Quality;
use gapless_common::time::Timestamp;
use serde_json::Value as Json;

use super::answer::{AnswerSpec, Format};

/// What a row says of a channel: the value, present exactly where the quality has one.
pub type Cell = (Option<f64>, Quality);

/// A row of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its time, as the source labels it.
    pub at: Timestamp,
    /// What it says of each channel, in their order; nothing where it has no value. Not all of them nothing.
    pub cells: Vec<Option<Cell>>,
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parsed {
    /// In order of time, each instant once.
    pub rows: Vec<Row>,
    /// The oldest instant that there is anything of, where the source says so.
    pub oldest: Option<Timestamp>,
    /// Instants that came twice with different values: what was written last counts, or first where the newest is first.
    pub doubled: usize,
    /// What else there may be that could not be read, and why; with the words for people.
    pub trouble: Option<String>,
    /// Where values are looked for and no row has anything, not even null: it can be misspelt, or the source leaves out what it has not.
    pub absent: Option<Vec<String>>,
}

/// A row as it is written.
struct Raw {
    time: String,
    values: Vec<Option<String>>,
    status: Option<String>,
}

/// What stands at a path; all of it where that is empty.
pub(super) fn at_path<'a>(json: &'a Json, path: &str) -> Option<&'a Json> {
    path.split('.').filter(|name| !name.is_empty()).try_fold(json, |json, name| json.get(name))
}

/// The text of a field, a number as it is written.
pub(super) fn text(json: &Json) -> Option<String> {
    match json {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A field of an answer of JSON.
///
/// # Errors
/// It is no JSON, or has no such field.
pub(super) fn text_at(body: &str, path: &str) -> Result<String, String> {
    let json: Json = serde_json::from_str(body).map_err(|e| format!("the answer is no JSON: {e}"))?;
    at_path(&json, path).and_then(text).ok_or_else(|| format!("the answer has nothing at `{path}`"))
}

impl AnswerSpec {
    /// Reads the answer to a window that begins at `from`; `values` are where the value of each channel stands in a row.
    ///
    /// # Errors
    /// What is wrong with it: nothing of it is used.
    pub fn parse(&self, body: &str, values: &[String], from: Timestamp) -> Result<Parsed, String> {
        match self.format {
            Format::Json => self.json(body, values, from),
            Format::Csv => {
                let (rows, doubled) = self.rows(self.csv(body, values)?, from)?;
                Ok(Parsed { rows, doubled, ..Parsed::default() })
            }
        }
    }

    fn json(&self, body: &str, values: &[String], from: Timestamp) -> Result<Parsed, String> {
        let json: Json = serde_json::from_str(body).map_err(|e| format!("the answer is no JSON: {e}"))?;
        let all = at_path(&json, &self.rows).and_then(Json::as_array);
        let all = all.ok_or_else(|| format!("the answer has no list at `{}`", self.rows))?;
        let oldest = self.oldest.as_ref().and_then(|path| at_path(&json, path)).and_then(text);
        let oldest = oldest.and_then(|text| self.read_time(&text, None).ok());
        let raws = all.iter().map(|row| self.raw(values, |path| at_path(row, path).and_then(text)));
        let (rows, doubled) = self.rows(raws.collect::<Result<_, _>>()?, from)?;
        Ok(Parsed { rows, oldest, doubled, absent: self.absent(all, values), trouble: None })
    }

    /// Those of the paths at which none of the rows has anything; nothing where that cannot be told: a row that says what is wrong
    /// with its value has it nowhere.
    fn absent(&self, rows: &[Json], paths: &[String]) -> Option<Vec<String>> {
        let says_why = |row: &Json| self.status.as_ref().is_some_and(|path| at_path(row, path).is_some());
        if rows.is_empty() || rows.iter().any(says_why) {
            return None;
        }
        Some(paths.iter().filter(|path| !rows.iter().any(|row| reaches(row, path))).cloned().collect())
    }

    /// Reads rows of JSON that came by themselves.
    ///
    /// # Errors
    /// What is wrong with one of them: none is used.
    pub(super) fn rows_of(&self, rows: &[Json], values: &[String]) -> Result<Vec<Row>, String> {
        let raws = rows.iter().map(|row| self.raw(values, |path| at_path(row, path).and_then(text)));
        let raws = raws.collect::<Result<Vec<_>, _>>()?;
        // Single rows have none before them that would tell.
        match raws.iter().find(|raw| self.is_twofold(&raw.time)) {
            Some(raw) => Err(format!("the time {} comes twice: its window is to be read", raw.time)),
            // Of one instant what was said last counts: these are in the order in which they were said, whatever their times.
            None => Ok(self.in_order(&raws, Timestamp(0))?.0),
        }
    }

    /// The first time of rows of JSON that came by themselves, of those whose time can be read.
    pub(super) fn first_time(&self, rows: &[Json]) -> Option<Timestamp> {
        self.times(rows).min()
    }

    /// The last one.
    pub(super) fn last_time(&self, rows: &[Json]) -> Option<Timestamp> {
        self.times(rows).max()
    }

    fn times<'a>(&'a self, rows: &'a [Json]) -> impl Iterator<Item = Timestamp> + 'a {
        let times = rows.iter().filter_map(|row| at_path(row, &self.time).and_then(text));
        times.filter_map(|time| self.read_time(&time, None).ok())
    }

    fn csv(&self, body: &str, values: &[String]) -> Result<Vec<Raw>, String> {
        let mut lines = body.lines().filter(|line| !line.trim().is_empty());
        let cells = |line: &str| {
            line.split(',').map(|cell| cell.trim().trim_matches('"').to_owned()).collect::<Vec<_>>()
        };
        let names = cells(lines.next().ok_or("the answer is empty: no line of names")?);
        if let Some(name) = std::iter::once(&self.time).chain(values).find(|name| !names.contains(name)) {
            return Err(format!("the answer has no column `{name}`"));
        }
        let raw = |line| {
            let cells = cells(line);
            self.raw(values, |name| cells.get(names.iter().position(|n| n == name)?).cloned())
        };
        lines.map(raw).collect()
    }

    fn raw(&self, values: &[String], field: impl Fn(&str) -> Option<String>) -> Result<Raw, String> {
        let time = field(&self.time).ok_or_else(|| format!("a row without `{}`", self.time))?;
        let values = values.iter().map(|path| field(path).filter(|value| !value.is_empty())).collect();
        Ok(Raw { time, values, status: self.status.as_deref().and_then(&field) })
    }

    /// Makes rows of what is written, whichever way round; and how many instants came twice with other values.
    fn rows(&self, mut raws: Vec<Raw>, from: Timestamp) -> Result<(Vec<Row>, usize), String> {
        let times = raws.iter().map(|raw| self.read_time(&raw.time, None)).collect::<Result<Vec<_>, _>>()?;
        let falls = times.windows(2).filter(|pair| pair[1] < pair[0]).count();
        if falls > times.len() / 2 {
            // Newest first: which of two equal hours in autumn is meant is known from the row before.
            raws.reverse();
        }
        self.in_order(&raws, from)
    }

    /// The same of what is written in order.
    fn in_order(&self, raws: &[Raw], from: Timestamp) -> Result<(Vec<Row>, usize), String> {
        let (mut rows, mut last) = (Vec::<Row>::with_capacity(raws.len()), Some(from.plus_ms(-1)));
        for raw in raws {
            let at = self.read_time(&raw.time, last)?;
            last = Some(at);
            let cells = raw.values.iter().map(|value| value.as_ref().map(|value| self.cell(raw, value)));
            let cells: Vec<Option<Cell>> = cells.map(Option::transpose).collect::<Result<_, _>>()?;
            // A row without a value says nothing: its slot is as good as not there.
            if cells.iter().any(Option::is_some) {
                rows.push(Row { at, cells });
            }
        }
        let mut doubled = 0;
        rows.sort_by_key(|row| row.at);
        rows.dedup_by(|later, earlier| {
            let is_same = later.at == earlier.at;
            if is_same && later.cells != earlier.cells {
                doubled += 1;
                std::mem::swap(&mut later.cells, &mut earlier.cells);
            }
            is_same
        });
        Ok((rows, doubled))
    }

    fn cell(&self, raw: &Raw, value: &str) -> Result<Cell, String> {
        let number: f64 =
            value.parse().map_err(|_| format!("the value `{value}` of {} is no number", raw.time))?;
        let is_invalid = raw.status.as_ref().is_some_and(|status| self.status_invalid.contains(status));
        Ok(cell(number, is_invalid, &self.invalid, self.overflow_above))
    }
}

/// Whether there is anything at a path, or null on the way.
fn reaches(json: &Json, path: &str) -> bool {
    let mut names = path.split('.').filter(|name| !name.is_empty());
    let end = names.try_fold(json, |json, name| if json.is_null() { Some(json) } else { json.get(name) });
    end.is_some()
}

/// What a number says: `invalid` are those by which a source says that it has none, and beyond `overflow_above` a value
/// cannot be.
pub(super) fn cell(number: f64, is_invalid: bool, invalid: &[f64], overflow_above: Option<f64>) -> Cell {
    let is_invalid =
        is_invalid || invalid.iter().any(|known| known.to_bits() == number.to_bits()) || !number.is_finite();
    let quality = match overflow_above {
        _ if is_invalid => Quality::BadInvalid,
        Some(most) if number > most => Quality::BadOutOfRange,
        _ => Quality::Good,
    };
    (quality.has_value().then_some(number), quality)
}

#[cfg(test)]
mod tests {
    use super::super::describe::Description;
    use super::*;

    const METER: &str = include_str!("../../sources/half-hourly-meter.toml");
    const HALF_HOUR_MS: i64 = 1_800_000;

    fn in_britain() -> AnswerSpec {
        let text = METER.replace("zone = \"UTC\"", "zone = \"GMT0BST,M3.5.0/1,M10.5.0\"");
        assert_ne!(text, METER);
        Description::read(&text).unwrap().answer
    }

    fn read(answer: &AnswerSpec, body: &str) -> Result<Parsed, String> {
        answer.parse(body, &["value".to_owned()], Timestamp(0))
    }

    fn ms(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn where_values_are_looked_for_and_never_are_is_noted() {
        let answer = Description::read(METER).unwrap().answer;
        let spoken = AnswerSpec { status: Some("status".to_owned()), ..answer.clone() };
        let at = r#""timestamp": "2026-01-01 01:00""#;
        let rows: [(&AnswerSpec, String, Option<&[&str]>); 6] = [
            (&answer, format!(r#"{{{at}, "a": {{"b": 1}}}}"#), Some(&["value"])),
            (&answer, format!(r#"{{{at}, "value": null}}, {{{at}}}"#), Some(&["a.b"])),
            (&answer, format!(r#"{{{at}, "value": 1, "a": null}}"#), Some(&[])),
            (&answer, format!("{{{at}}}"), Some(&["value", "a.b"])),
            (&answer, String::new(), None),
            (&spoken, format!(r#"{{{at}, "status": "missing"}}"#), None),
        ];
        for (answer, rows, expected) in rows {
            let body = format!(r#"{{"values": [{rows}]}}"#);
            let paths = ["value".to_owned(), "a.b".to_owned()];
            let expected =
                expected.map(|paths| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
            assert_eq!(answer.parse(&body, &paths, Timestamp(0)).unwrap().absent, expected, "{body}");
        }
    }

    #[test]
    fn values_that_are_none_are_flagged() {
        let answer = Description::read(METER).unwrap().answer;
        let body = r#"{"availableCacheRange": {"start": "2025-01-01 00:00"}, "values": [
            {"timestamp": "2026-01-01 01:00", "value": 16777215},
            {"timestamp": "2026-01-01 00:30", "value": 0.25}, {"timestamp": "2026-01-01 01:30", "value": "100.5"},
            {"timestamp": "2026-01-01 02:00", "value": null}]}"#;
        let parsed = read(&answer, body).unwrap();
        assert_eq!(parsed.oldest, Some(ms("2025-01-01T00:00:00Z")));
        let rows: Vec<_> = parsed.rows.iter().map(|r| (r.at.to_string(), r.cells[0].unwrap())).collect();
        assert_eq!(
            rows,
            [
                ("2026-01-01T00:30:00Z".to_owned(), (Some(0.25), Quality::Good)),
                ("2026-01-01T01:00:00Z".to_owned(), (None, Quality::BadInvalid)),
                ("2026-01-01T01:30:00Z".to_owned(), (None, Quality::BadOutOfRange)),
            ]
        );
        for wrong in ["", "[]", r#"{"values": [{}]}"#, r#"{"values": [{"timestamp": "now", "value": 1}]}"#] {
            assert!(read(&answer, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_day_has_46_48_or_50_half_hours() {
        let answer = in_britain();
        let rows = [
            ("2026-03-29", "2026-03-29T00:00:00Z", 46),
            ("2026-06-01", "2026-05-31T23:00:00Z", 48),
            ("2026-10-25", "2026-10-24T23:00:00Z", 50),
        ];
        for (day, begin, count) in rows {
            let begin = ms(begin);
            let instants: Vec<_> = (0..count).map(|n| begin.plus_ms(n * HALF_HOUR_MS)).collect();
            let written: Vec<String> = instants
                .iter()
                .map(|at| {
                    let format = AnswerSpec { query_time_format: None, ..answer.clone() };
                    format.write_time(*at)
                })
                .collect();
            assert!(written.iter().all(|text| text.starts_with(day)), "{written:?}");
            let mut body: Vec<_> =
                written.iter().map(|t| serde_json::json!({"timestamp": t, "value": 1.0})).collect();
            for order in ["oldest first", "newest first"] {
                let parsed = read(&answer, &serde_json::json!({"values": body}).to_string()).unwrap();
                let read: Vec<_> = parsed.rows.iter().map(|row| row.at).collect();
                assert_eq!(read, instants, "{day}, {order}");
                body.reverse();
            }
        }
    }

    #[test]
    fn a_window_that_begins_in_the_second_of_two_equal_hours_is_read_so() {
        let body = r#"{"values": [{"timestamp": "2026-10-25 01:00", "value": 1},
            {"timestamp": "2026-10-25 01:30", "value": 2}]}"#;
        for (from, first) in [
            ("2026-10-25T00:00:00Z", "2026-10-25T00:00:00Z"),
            ("2026-10-25T01:00:00Z", "2026-10-25T01:00:00Z"),
        ] {
            let parsed = in_britain().parse(body, &["value".to_owned()], ms(from)).unwrap();
            assert_eq!(parsed.rows[0].at, ms(first));
        }
    }

    #[test]
    fn rows_that_come_by_themselves_are_not_guessed_at_in_the_hour_that_comes_twice() {
        let rows = |times: &[&str]| -> Vec<Json> {
            times.iter().map(|at| serde_json::json!({"timestamp": at, "value": 1})).collect()
        };
        let cases = [
            (vec!["2026-10-25 00:30", "2026-10-25 02:00"], true, "2026-10-24T23:30:00Z"),
            (vec!["2026-10-25 02:00", "2026-10-25 01:30"], false, "2026-10-25T00:30:00Z"),
            (vec!["2026-10-25 01:00"], false, "2026-10-25T00:00:00Z"),
        ];
        for (times, is_read, first) in cases {
            let (answer, rows) = (in_britain(), rows(&times));
            assert_eq!(answer.rows_of(&rows, &["value".to_owned()]).is_ok(), is_read, "{times:?}");
            assert_eq!(answer.first_time(&rows), Some(ms(first)), "{times:?}");
            assert!(answer.last_time(&rows).is_some_and(|last| (rows.len() > 1) == (last > ms(first))));
        }
        let utc = Description::read(METER).unwrap().answer;
        assert!(utc.rows_of(&rows(&["2026-10-25 01:30"]), &["value".to_owned()]).is_ok());
    }

    #[test]
    fn what_is_written_last_of_an_instant_counts_and_is_said() {
        let answer = Description::read(METER).unwrap().answer;
        let body = r#"{"values": [{"timestamp": "2026-01-01 00:30", "value": 1},
            {"timestamp": "2026-01-01 00:30", "value": 2}, {"timestamp": "2026-01-01 00:30", "value": 2}]}"#;
        let parsed = read(&answer, body).unwrap();
        let cells = vec![Some((Some(2.0), Quality::Good))];
        assert_eq!((parsed.rows, parsed.doubled), (vec![Row { at: ms("2026-01-01T00:30:00Z"), cells }], 1));
    }

    #[test]
    fn of_rows_that_came_by_themselves_a_correction_counts_whatever_the_order_of_their_times() {
        let answer = Description::read(METER).unwrap().answer;
        let cases = [
            [("04:00", 0.0), ("03:00", 1.0), ("02:00", 2.0), ("01:00", 3.0), ("01:00", 4.0)],
            [("01:00", 3.0), ("01:00", 4.0), ("02:00", 2.0), ("03:00", 1.0), ("04:00", 0.0)],
            [("02:00", 2.0), ("01:00", 3.0), ("04:00", 0.0), ("03:00", 1.0), ("01:00", 4.0)],
        ];
        for case in cases {
            let row =
                |(at, value)| serde_json::json!({"timestamp": format!("2026-01-01 {at}"), "value": value});
            let rows = answer.rows_of(&case.map(row), &["value".to_owned()]).unwrap();
            let values: Vec<_> = rows.iter().map(|row| row.cells[0].and_then(|cell| cell.0)).collect();
            assert_eq!(values, [4.0, 2.0, 1.0, 0.0].map(Some), "{case:?}");
        }
    }

    #[test]
    fn a_row_may_have_several_channels_of_which_some_say_nothing() {
        let answer = Description::read(METER).unwrap().answer;
        let body = r#"{"values": [{"timestamp": "2026-01-01 00:30", "in": {"c": 20.5}},
            {"timestamp": "2026-01-01 01:00", "in": {}, "out": null}]}"#;
        let parsed = answer.parse(body, &["in.c".to_owned(), "out".to_owned()], Timestamp(0)).unwrap();
        let cells: Vec<_> = parsed.rows.into_iter().map(|row| row.cells).collect();
        assert_eq!(cells, [[Some((Some(20.5), Quality::Good)), None]]);
    }

    #[test]
    fn csv_is_read_by_its_names() {
        let text = METER.replace("format = \"json\"", "format = \"csv\"");
        let answer = Description::read(&text).unwrap().answer;
        let body = "value,timestamp\r\n0.5,2026-01-01 00:30\r\n,2026-01-01 01:00\r\n";
        let parsed = read(&answer, body).unwrap();
        assert_eq!(
            parsed.rows,
            [Row { at: ms("2026-01-01T00:30:00Z"), cells: vec![Some((Some(0.5), Quality::Good))] }]
        );
        assert!(read(&answer, "a,b\n1,2\n").unwrap_err().contains("timestamp"));
    }
}
