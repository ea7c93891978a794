//! Readings as text: CSV (RFC 4180), NDJSON and JSON, written row by row so that memory stays bounded.
//!
//! Every format tells a complete answer from a broken one: the HTTP stream is cut without its last chunk, and
//! JSON and NDJSON besides end in a `complete` mark that a broken one lacks.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use gapless_common::quality::{Cause, Quality};
use gapless_common::reading::Value;
use gapless_common::time::Timestamp;
use serde_json::json;

use super::fleet::{Freshness, json_value, path};
use super::periods::{Marked, Standing};
use super::resample::Period;
use crate::store::model::{Absence, GridRow, SeriesRow, StoredReading};

/// How readings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Csv,
    Ndjson,
}

impl Format {
    /// Its media type.
    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Ndjson => "application/x-ndjson",
        }
    }
}

/// What rows are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Raw,
    /// Raw, with the slots that have no reading.
    Complete,
    Periods,
    /// Periods, with those that have no value, and why.
    CompletePeriods,
}

/// One row.
#[derive(Debug)]
pub(super) enum Row<'a> {
    Raw(&'a StoredReading),
    /// Of a complete grid.
    Grid(&'a GridRow),
    Period(&'a Period),
    /// Of a complete grid.
    Marked(&'a Marked),
}

/// Writes rows into a buffer that the caller empties: [`begin`](Self::begin), [`row`](Self::row) for each in
/// the order (series, time), [`end`](Self::end).
#[derive(Debug)]
pub(super) struct TableWriter {
    format: Format,
    shape: Shape,
    rows: u64,
}

impl TableWriter {
    pub(super) const fn new(format: Format, shape: Shape) -> Self {
        Self { format, shape, rows: 0 }
    }

    /// The head.
    pub(super) fn begin(&self, out: &mut String) {
        match (self.format, self.shape) {
            (Format::Csv, Shape::Raw) => out.push_str("series,revision,unit,at,value,quality,lent\r\n"),
            (Format::Csv, Shape::Complete) => {
                out.push_str("series,revision,unit,at,value,quality,state,cause,gap\r\n");
            }
            (Format::Csv, Shape::Periods) => {
                out.push_str(
                    "series,revision,unit,from,mean,minimum,maximum,rise,count,coverage,lent,sum\r\n",
                );
            }
            (Format::Csv, Shape::CompletePeriods) => {
                out.push_str("series,revision,unit,from,mean,minimum,maximum,rise,count,coverage,");
                out.push_str("quality,state,cause,gap,lent,sum\r\n");
            }
            (Format::Json, _) => out.push_str("{\"items\":["),
            (Format::Ndjson, _) => {}
        }
    }

    /// One row of `series`.
    pub(super) fn row(&mut self, out: &mut String, series: &SeriesRow, row: &Row<'_>) {
        if self.format == Format::Csv {
            csv_row(out, series, row);
        } else {
            if self.format == Format::Json && self.rows > 0 {
                out.push(',');
            }
            let _ = write!(out, "{}", json_row(series, row));
            if self.format == Format::Ndjson {
                out.push('\n');
            }
        }
        self.rows += 1;
    }

    /// The tail; `next` is the cursor where a limit ended the answer, `freshness` that of each device.
    pub(super) fn end(&self, out: &mut String, next: Option<&str>, freshness: &BTreeMap<String, Freshness>) {
        match self.format {
            Format::Csv => {}
            Format::Json => {
                let (next, freshness) = (json!(next), json!(freshness));
                let _ = write!(
                    out,
                    "],\"complete\":true,\"count\":{},\"next\":{next},\"freshness\":{freshness}}}",
                    self.rows
                );
            }
            Format::Ndjson => {
                let _ = writeln!(
                    out,
                    "{}",
                    json!({"complete": true, "count": self.rows, "next": next, "freshness": freshness})
                );
            }
        }
    }
}

/// The word for whose reading it is.
const fn reading_word(reading: &StoredReading) -> &'static str {
    if reading.lent { "lent" } else { "received" }
}

/// The word for why a slot has no reading.
const fn absence_word(absence: Absence) -> &'static str {
    match absence {
        Absence::Pending => "pending",
        Absence::NoData => "no_data",
        Absence::Missing => "missing",
        Absence::Unknown => "unknown",
    }
}

/// The word for what there is of a period.
const fn standing_word(standing: Standing) -> &'static str {
    match standing {
        Standing::Received => "received",
        Standing::Partial => "partial",
        Standing::Absent(absence) => absence_word(absence),
    }
}

fn json_row(series: &SeriesRow, row: &Row<'_>) -> serde_json::Value {
    let (path, revision, unit) = (path(series), series.revision, &series.unit);
    match row {
        Row::Raw(reading) => json!({
            "series": path, "revision": revision, "unit": unit, "at": reading.at.to_string(),
            "value": json_value(reading.value.as_ref()), "quality": reading.quality.label(), "lent": reading.lent,
        }),
        Row::Grid(GridRow::Reading(reading)) => json!({
            "series": path, "revision": revision, "unit": unit, "at": reading.at.to_string(),
            "value": json_value(reading.value.as_ref()), "quality": reading.quality.label(),
            "state": reading_word(reading), "cause": null, "gap": null,
        }),
        Row::Grid(GridRow::Absent(slot)) => json!({
            "series": path, "revision": revision, "unit": unit, "at": slot.at.to_string(),
            "value": null, "quality": null, "state": absence_word(slot.absence),
            "cause": slot.cause.map(Cause::slug), "gap": slot.gap,
        }),
        Row::Period(period) => json!({
            "series": path, "revision": revision, "unit": unit, "from": period.from.to_string(),
            "mean": period.mean, "minimum": period.minimum, "maximum": period.maximum, "rise": period.rise,
            "count": period.count, "coverage": period.coverage, "lent": period.lent, "sum": period.sum,
        }),
        Row::Marked(Marked { period, standing, quality, cause, gap }) => json!({
            "series": path, "revision": revision, "unit": unit, "from": period.from.to_string(),
            "mean": period.mean, "minimum": period.minimum, "maximum": period.maximum, "rise": period.rise,
            "count": period.count, "coverage": period.coverage, "quality": quality.map(Quality::label),
            "state": standing_word(*standing), "cause": cause.map(Cause::slug), "gap": gap, "lent": period.lent,
            "sum": period.sum,
        }),
    }
}

/// Quotes a field only where RFC 4180 (section 2, rule 6) asks for it.
fn csv_text(out: &mut String, text: &str) {
    if text.contains(['"', ',', '\r', '\n']) {
        let _ = write!(out, "\"{}\"", text.replace('"', "\"\""));
    } else {
        out.push_str(text);
    }
}

fn csv_number(out: &mut String, number: Option<f64>) {
    if let Some(number) = number {
        let _ = write!(out, "{number}");
    }
}

fn csv_head(out: &mut String, series: &SeriesRow, at: Timestamp) {
    let _ = write!(out, "{}/{}/{},{},", series.site, series.device, series.channel, series.revision);
    csv_text(out, &series.unit);
    let _ = write!(out, ",{at},");
}

fn csv_reading(out: &mut String, series: &SeriesRow, reading: &StoredReading) {
    csv_head(out, series, reading.at);
    match &reading.value {
        Some(Value::Number(number)) => csv_number(out, Some(*number)),
        Some(Value::Text(text)) => csv_text(out, text),
        None => {}
    }
    let _ = write!(out, ",{}", reading.quality.label());
}

fn csv_period(out: &mut String, series: &SeriesRow, period: &Period) {
    csv_head(out, series, period.from);
    for number in [period.mean, period.minimum, period.maximum, period.rise] {
        csv_number(out, number);
        out.push(',');
    }
    let _ = write!(out, "{},", period.count);
    csv_number(out, period.coverage);
}

fn csv_row(out: &mut String, series: &SeriesRow, row: &Row<'_>) {
    match row {
        Row::Raw(reading) => {
            csv_reading(out, series, reading);
            out.push_str(if reading.lent { ",true" } else { "," });
        }
        Row::Grid(GridRow::Reading(reading)) => {
            csv_reading(out, series, reading);
            let _ = write!(out, ",{},,", reading_word(reading));
        }
        Row::Grid(GridRow::Absent(slot)) => {
            csv_head(out, series, slot.at);
            let _ = write!(out, ",,{},{},", absence_word(slot.absence), slot.cause.map_or("", Cause::slug));
            if let Some(gap) = slot.gap {
                let _ = write!(out, "{gap}");
            }
        }
        Row::Period(period) => {
            csv_period(out, series, period);
            let _ = write!(out, ",{},", period.lent);
            csv_number(out, period.sum);
        }
        Row::Marked(Marked { period, standing, quality, cause, gap }) => {
            csv_period(out, series, period);
            let (quality, cause) = (quality.map_or("".into(), Quality::label), cause.map_or("", Cause::slug));
            let _ = write!(out, ",{quality},{},{cause},", standing_word(*standing));
            if let Some(gap) = gap {
                let _ = write!(out, "{gap}");
            }
            let _ = write!(out, ",{},", period.lent);
            csv_number(out, period.sum);
        }
    }
    out.push_str("\r\n");
}
