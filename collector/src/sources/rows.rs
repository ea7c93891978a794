//! From an answer to rows. Pure.

use gapless_common::quality::Quality;
use gapless_common::time::Timestamp;
use serde_json::Value as Json;

use super::describe::{AnswerSpec, Format};

/// A row of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// Its time, as the source labels it.
    pub at: Timestamp,
    /// Present exactly where the quality has a value.
    pub value: Option<f64>,
    /// Good, or why there is no value.
    pub quality: Quality,
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parsed {
    /// In order of time, each instant once.
    pub rows: Vec<Row>,
    /// The oldest instant that there is anything of, where the source says so.
    pub oldest: Option<Timestamp>,
}

fn at_path<'a>(json: &'a Json, path: &str) -> Option<&'a Json> {
    path.split('.').filter(|name| !name.is_empty()).try_fold(json, |json, name| json.get(name))
}

/// The text of a field, a number as it is written.
fn text(json: &Json) -> Option<String> {
    match json {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

impl AnswerSpec {
    /// Reads an answer.
    ///
    /// # Errors
    /// What is wrong with it: nothing of it is used.
    pub fn parse(&self, body: &str) -> Result<Parsed, String> {
        let mut parsed = match self.format {
            Format::Json => self.json(body)?,
            Format::Csv => self.csv(body)?,
        };
        parsed.rows.sort_by_key(|row| row.at);
        parsed.rows.dedup_by_key(|row| row.at);
        Ok(parsed)
    }

    fn json(&self, body: &str) -> Result<Parsed, String> {
        let json: Json = serde_json::from_str(body).map_err(|e| format!("the answer is no JSON: {e}"))?;
        let rows = at_path(&json, &self.rows).and_then(Json::as_array);
        let rows = rows.ok_or_else(|| format!("the answer has no list at `{}`", self.rows))?;
        let oldest = self.oldest.as_ref().and_then(|path| at_path(&json, path)).and_then(text);
        let mut parsed =
            Parsed { oldest: oldest.and_then(|t| self.read_time(&t, None).ok()), rows: Vec::new() };
        for row in rows {
            let field = |path: &str| at_path(row, path).and_then(text);
            self.row(&mut parsed.rows, field)?;
        }
        Ok(parsed)
    }

    fn csv(&self, body: &str) -> Result<Parsed, String> {
        let mut lines = body.lines().filter(|line| !line.trim().is_empty());
        let cells = |line: &str| {
            line.split(',').map(|cell| cell.trim().trim_matches('"').to_owned()).collect::<Vec<_>>()
        };
        let names = cells(lines.next().ok_or("the answer is empty: no line of names")?);
        for name in [&self.time, &self.value] {
            if !names.contains(name) {
                return Err(format!("the answer has no column `{name}`"));
            }
        }
        let mut parsed = Parsed::default();
        for line in lines {
            let cells = cells(line);
            let field = |name: &str| cells.get(names.iter().position(|n| n == name)?).cloned();
            self.row(&mut parsed.rows, field)?;
        }
        Ok(parsed)
    }

    fn row(&self, rows: &mut Vec<Row>, field: impl Fn(&str) -> Option<String>) -> Result<(), String> {
        let time = field(&self.time).ok_or_else(|| format!("a row without `{}`", self.time))?;
        let at = self.read_time(&time, rows.last().map(|row| row.at))?;
        // A row without a value says nothing: its slot is as good as not there.
        let Some(value) = field(&self.value).filter(|value| !value.is_empty()) else { return Ok(()) };
        let number: f64 = value.parse().map_err(|_| format!("the value `{value}` of {time} is no number"))?;
        let status = self.status.as_deref().and_then(field);
        let is_invalid = self.invalid.iter().any(|known| known.to_bits() == number.to_bits())
            || status.is_some_and(|status| self.status_invalid.contains(&status))
            || !number.is_finite();
        let quality = match self.overflow_above {
            _ if is_invalid => Quality::BadInvalid,
            Some(most) if number > most => Quality::BadOutOfRange,
            _ => Quality::Good,
        };
        rows.push(Row { at, value: quality.has_value().then_some(number), quality });
        Ok(())
    }
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

    fn ms(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn values_that_are_none_are_flagged() {
        let answer = Description::read(METER).unwrap().answer;
        let body = r#"{"availableCacheRange": {"start": "2025-01-01 00:00"}, "values": [
            {"timestamp": "2026-01-01 01:00", "value": 16777215},
            {"timestamp": "2026-01-01 00:30", "value": 0.25}, {"timestamp": "2026-01-01 01:30", "value": "100.5"},
            {"timestamp": "2026-01-01 02:00", "value": null}]}"#;
        let parsed = answer.parse(body).unwrap();
        assert_eq!(parsed.oldest, Some(ms("2025-01-01T00:00:00Z")));
        let rows: Vec<_> = parsed.rows.iter().map(|r| (r.at.to_string(), r.value, r.quality)).collect();
        assert_eq!(
            rows,
            [
                ("2026-01-01T00:30:00Z".to_owned(), Some(0.25), Quality::Good),
                ("2026-01-01T01:00:00Z".to_owned(), None, Quality::BadInvalid),
                ("2026-01-01T01:30:00Z".to_owned(), None, Quality::BadOutOfRange),
            ]
        );
        for wrong in ["", "[]", r#"{"values": [{}]}"#, r#"{"values": [{"timestamp": "now", "value": 1}]}"#] {
            assert!(answer.parse(wrong).is_err(), "{wrong}");
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
            let body: Vec<_> =
                written.iter().map(|t| serde_json::json!({"timestamp": t, "value": 1.0})).collect();
            let parsed = answer.parse(&serde_json::json!({"values": body}).to_string()).unwrap();
            let read: Vec<_> = parsed.rows.iter().map(|row| row.at).collect();
            assert_eq!(read, instants, "{day}");
        }
    }

    #[test]
    fn csv_is_read_by_its_names() {
        let text = METER.replace("format = \"json\"", "format = \"csv\"");
        let answer = Description::read(&text).unwrap().answer;
        let body = "value,timestamp\r\n0.5,2026-01-01 00:30\r\n,2026-01-01 01:00\r\n";
        let parsed = answer.parse(body).unwrap();
        assert_eq!(
            parsed.rows,
            [Row { at: ms("2026-01-01T00:30:00Z"), value: Some(0.5), quality: Quality::Good }]
        );
        assert!(answer.parse("a,b\n1,2\n").unwrap_err().contains("timestamp"));
    }
}
