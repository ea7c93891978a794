//! One channel's values over many answers: numbers as integers where that gives back the identical bits (it
//! always does: the binary form takes every `f64`), texts as runs.
//!
//! ```text
//! form (1)   0..=29 decimal, 30..=93 binary (both: see `number`), then integers as drawn in `ints`
//!            94 texts: runs of length (varint) and text (length and UTF-8)
//!            95 mixed: each value with its tag, as in `row`
//! ```
//! The number of values is known from outside; of no values nothing is written, not even the form.

use crate::reading::Value;

use super::bytes::{Bad, Input, put_len};
use super::ints;
use super::number::{Binary, Decimal};
use super::row::{Budget, put_text, put_value, read_text, read_value};

const BINARY: u8 = Decimal::CODES;
const TEXTS: u8 = BINARY + Binary::CODES;
const MIXED: u8 = TEXTS + 1;

/// A decoded column.
pub(super) enum Column {
    /// Numbers only, as nearly all are.
    Numbers(Vec<f64>),
    /// Anything.
    Values(Vec<Value>),
}

/// Appends the values of one channel.
pub(super) fn encode(out: &mut Vec<u8>, values: &[&Value]) {
    if values.is_empty() {
        return;
    }
    let number = |value: &&Value| if let Value::Number(number) = value { Some(*number) } else { None };
    let text = |value: &&'_ Value| matches!(value, Value::Text(_));
    if let Some(numbers) = values.iter().map(number).collect::<Option<Vec<f64>>>() {
        encode_numbers(out, &numbers);
    } else if values.iter().all(text) {
        encode_texts(out, values);
    } else {
        out.push(MIXED);
        values.iter().for_each(|value| put_value(out, value));
    }
}

fn encode_numbers(out: &mut Vec<u8>, numbers: &[f64]) {
    let (binary, ks) = Binary::find(numbers);
    let mut best = (BINARY + binary.code(), ints::plan(&ks), ks);
    if let Some((decimal, ks)) = Decimal::find(numbers) {
        let plan = ints::plan(&ks);
        if plan.bytes <= best.1.bytes {
            best = (decimal.code(), plan, ks);
        }
    }
    let (form, plan, ks) = best;
    out.push(form);
    ints::encode_planned(out, &ks, &plan);
}

fn encode_texts(out: &mut Vec<u8>, values: &[&Value]) {
    out.push(TEXTS);
    for run in values.chunk_by(|a, b| a == b) {
        if let Value::Text(text) = run[0] {
            put_len(out, run.len());
            put_text(out, text);
        }
    }
}

/// Reads `count` values; the caller bounds `count`.
pub(super) fn decode(input: &mut Input<'_>, count: usize, budget: &mut Budget) -> Result<Column, Bad> {
    if count == 0 {
        return Ok(Column::Numbers(Vec::new()));
    }
    match input.byte()? {
        TEXTS => decode_texts(input, count, budget).map(Column::Values),
        MIXED => {
            (0..count).map(|_| read_value(input, budget)).collect::<Result<_, Bad>>().map(Column::Values)
        }
        code => decode_numbers(input, code, count).map(Column::Numbers),
    }
}

fn decode_numbers(input: &mut Input<'_>, code: u8, count: usize) -> Result<Vec<f64>, Bad> {
    if let Some(decimal) = Decimal::of_code(code) {
        return ints::decode(input, count)?.into_iter().map(|k| decimal.decode(k)).collect();
    }
    let binary =
        code.checked_sub(BINARY).and_then(Binary::of_code).ok_or(Bad("a column of an unknown form"))?;
    ints::decode(input, count)?.into_iter().map(|k| binary.decode(k)).collect()
}

fn decode_texts(input: &mut Input<'_>, count: usize, budget: &mut Budget) -> Result<Vec<Value>, Bad> {
    let mut values = Vec::with_capacity(count);
    while values.len() < count {
        let len = input.len(count - values.len(), "more texts than samples")?;
        if len == 0 {
            return Err(Bad("a run of no texts"));
        }
        let text = read_text(input)?;
        budget.text(text.len().saturating_mul(len))?;
        values.resize(values.len() + len, Value::Text(text.into()));
    }
    Ok(values)
}
