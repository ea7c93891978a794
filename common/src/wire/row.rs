//! Readings as a row: one answer of one device, by itself. The form of the outbox, of a record that no column
//! wins anything for, and of a device that the catalog at hand does not have.
//!
//! ```text
//! head (1)   bits 0-1 acquired: 0 in slot, 1 since boot, 2 recorded; bit 2 all good;
//!            bits 3-4 values: 0 decimals, 1 f32, 2 f64, 3 mixed; bits 5-7 zero
//! device     varint
//! acquired   slot (signed) or boot clock in ms (varint)
//! at         signed, ms
//! channels   varint: from 0 without a hole: count << 1 | 1; otherwise runs << 1, then per run
//!            gap to the end of the run before (varint) and length (varint)
//! qualities  unless all good: code (varint) and length (varint) per run
//! values     of the samples whose quality has one, in order:
//!            decimals  form (1), then per value k (signed)
//!            f32, f64  4 or 8 bytes per value, little endian
//!            mixed     per value a tag: 0..=29 decimal form, then k; 30 f32; 31 f64; 32 text: length and UTF-8
//! ```

use crate::id::{ChannelIndex, DeviceIndex};
use crate::quality::Quality;
use crate::reading::{Acquired, Readings, Sample, Value};
use crate::time::{Slot, Timestamp};

use super::bytes::{Bad, Input, put_len, put_signed, put_varint, varint_len, zigzag};
use super::number::{Decimal, exact_f32};
use super::{SAMPLES_MAX, TEXT_BYTES_MAX};

/// Head bit: every sample is good, and no qualities are written.
pub(super) const ALL_GOOD: u8 = 0x04;

const DECIMALS: u8 = 0x00;
const F32: u8 = 0x08;
const F64: u8 = 0x10;
const MIXED: u8 = 0x18;

const TAG_F32: u8 = Decimal::CODES;
const TAG_F64: u8 = Decimal::CODES + 1;
const TAG_TEXT: u8 = Decimal::CODES + 2;

/// What a decoder may still make of a frame: bounds the memory that few bytes can ask for.
#[derive(Debug)]
pub(super) struct Budget {
    samples: usize,
    text_bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { samples: SAMPLES_MAX, text_bytes: TEXT_BYTES_MAX }
    }
}

impl Budget {
    pub(super) fn samples(&mut self, count: usize) -> Result<(), Bad> {
        self.samples = self.samples.checked_sub(count).ok_or(Bad("more samples than a frame holds"))?;
        Ok(())
    }

    pub(super) fn text(&mut self, bytes: usize) -> Result<(), Bad> {
        self.text_bytes = self.text_bytes.checked_sub(bytes).ok_or(Bad("more text than a frame holds"))?;
        Ok(())
    }
}

/// Whether `readings` keep the rules of their type.
pub(super) fn valid(readings: &Readings) -> bool {
    let samples = &readings.samples;
    !samples.is_empty()
        && samples.windows(2).all(|pair| pair[0].channel < pair[1].channel)
        && samples.iter().all(|sample| sample.value.is_some() == sample.quality.has_value())
}

/// Code of the acquisition in the head.
pub(super) const fn acquired_code(acquired: Acquired) -> u8 {
    match acquired {
        Acquired::InSlot(_) => 0,
        Acquired::SinceBoot(_) => 1,
        Acquired::Recorded(_) => 2,
    }
}

/// Appends one answer.
pub(super) fn encode(out: &mut Vec<u8>, readings: &Readings) {
    let all_good = readings.samples.iter().all(|sample| sample.quality == Quality::Good);
    let values: Vec<&Value> = readings.samples.iter().filter_map(|sample| sample.value.as_ref()).collect();
    let form = Form::of(&values);
    out.push(acquired_code(readings.acquired) | if all_good { ALL_GOOD } else { 0 } | form.code());
    put_varint(out, u64::from(readings.device.0));
    match readings.acquired {
        Acquired::InSlot(slot) | Acquired::Recorded(slot) => put_signed(out, slot.0),
        Acquired::SinceBoot(ms) => put_varint(out, ms),
    }
    put_signed(out, readings.at.0);
    let channels: Vec<ChannelIndex> = readings.samples.iter().map(|sample| sample.channel).collect();
    put_channels(out, &channels);
    if !all_good {
        put_qualities(out, readings.samples.iter().map(|sample| sample.quality));
    }
    form.put(out, &values);
}

/// How the values of a row are written.
enum Form {
    Decimals(Decimal, Vec<i64>),
    F32,
    F64,
    Mixed,
}

impl Form {
    /// The one with the fewest bytes.
    fn of(values: &[&Value]) -> Self {
        let numbers: Option<Vec<f64>> = values.iter().map(|value| value.number()).collect();
        let Some(numbers) = numbers else { return Self::Mixed };
        let mixed = numbers.iter().map(|number| Single::of(*number).bytes()).sum::<usize>();
        let mut best = (numbers.len() * 8, Self::F64);
        if numbers.iter().all(|number| exact_f32(*number).is_some()) {
            best = (numbers.len() * 4, Self::F32);
        }
        if mixed < best.0 {
            best = (mixed, Self::Mixed);
        }
        if let Some((form, ks)) = Decimal::find(&numbers) {
            let bytes = 1 + ks.iter().map(|k| varint_len(zigzag(*k))).sum::<usize>();
            if bytes < best.0 {
                best = (bytes, Self::Decimals(form, ks));
            }
        }
        best.1
    }

    const fn code(&self) -> u8 {
        match self {
            Self::Decimals(..) => DECIMALS,
            Self::F32 => F32,
            Self::F64 => F64,
            Self::Mixed => MIXED,
        }
    }

    fn put(&self, out: &mut Vec<u8>, values: &[&Value]) {
        let numbers = values.iter().filter_map(|value| value.number());
        match self {
            Self::Decimals(form, ks) => {
                out.push(form.code());
                ks.iter().for_each(|k| put_signed(out, *k));
            }
            Self::F32 => {
                let narrow = numbers.map(super::number::nearest_f32);
                narrow.for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
            }
            Self::F64 => numbers.for_each(|number| out.extend_from_slice(&number.to_le_bytes())),
            Self::Mixed => values.iter().for_each(|value| put_value(out, value)),
        }
    }
}

impl Value {
    const fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(_) => None,
        }
    }
}

/// The shortest form of one number by itself.
enum Single {
    Decimal(Decimal, i64),
    F32(f32),
    F64(f64),
}

impl Single {
    fn of(number: f64) -> Self {
        let wide = exact_f32(number).map_or(Self::F64(number), Self::F32);
        match Decimal::find(&[number]) {
            Some((form, ks)) if 1 + varint_len(zigzag(ks[0])) < wide.bytes() => Self::Decimal(form, ks[0]),
            _ => wide,
        }
    }

    const fn bytes(&self) -> usize {
        match self {
            Self::Decimal(_, k) => 1 + varint_len(zigzag(*k)),
            Self::F32(_) => 5,
            Self::F64(_) => 9,
        }
    }
}

/// Appends one value with its tag.
pub(super) fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Text(text) => {
            out.push(TAG_TEXT);
            put_text(out, text);
        }
        Value::Number(number) => match Single::of(*number) {
            Single::Decimal(form, k) => {
                out.push(form.code());
                put_signed(out, k);
            }
            Single::F32(narrow) => {
                out.push(TAG_F32);
                out.extend_from_slice(&narrow.to_le_bytes());
            }
            Single::F64(wide) => {
                out.push(TAG_F64);
                out.extend_from_slice(&wide.to_le_bytes());
            }
        },
    }
}

/// Reads one value with its tag.
pub(super) fn read_value(input: &mut Input<'_>, budget: &mut Budget) -> Result<Value, Bad> {
    Ok(match input.byte()? {
        TAG_F32 => Value::Number(f64::from(f32::from_le_bytes(input.array()?))),
        TAG_F64 => Value::Number(f64::from_le_bytes(input.array()?)),
        TAG_TEXT => {
            let text = read_text(input)?;
            budget.text(text.len())?;
            Value::Text(text.into())
        }
        code => {
            let form = Decimal::of_code(code).ok_or(Bad("a value of an unknown form"))?;
            Value::Number(form.decode(input.signed()?)?)
        }
    })
}

/// Appends length and UTF-8.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// Reads length and UTF-8.
pub(super) fn read_text<'a>(input: &mut Input<'a>) -> Result<&'a str, Bad> {
    let len = input.len(TEXT_BYTES_MAX, "a text beyond the bound")?;
    std::str::from_utf8(input.take(len)?).map_err(|_| Bad("a text that is not UTF-8"))
}

/// Appends an ascending list of channels as runs.
pub(super) fn put_channels(out: &mut Vec<u8>, channels: &[ChannelIndex]) {
    let runs: Vec<&[ChannelIndex]> = channels.chunk_by(|a, b| u32::from(b.0) == u32::from(a.0) + 1).collect();
    if let [run] = runs.as_slice()
        && run[0].0 == 0
    {
        return put_len(out, run.len() << 1 | 1);
    }
    put_len(out, runs.len() << 1);
    let mut end = 0u64;
    for run in runs {
        put_varint(out, u64::from(run[0].0).wrapping_sub(end));
        put_len(out, run.len());
        end = u64::from(run[0].0) + run.len() as u64;
    }
}

/// Reads an ascending list of channels, at least one, each at most once.
pub(super) fn read_channels(input: &mut Input<'_>, budget: &mut Budget) -> Result<Vec<ChannelIndex>, Bad> {
    let head = input.len(2 * SAMPLES_MAX + 1, "more channels than a frame holds samples")?;
    let mut channels = Vec::new();
    if head % 2 == 1 {
        push_run(&mut channels, 0, head / 2, budget)?;
        return Ok(channels);
    }
    let mut end = 0usize;
    for _ in 0..head / 2 {
        let gap = input.len(usize::from(u16::MAX), "a channel above 16 bits")?;
        let len = input.len(usize::from(u16::MAX) + 1, "a channel above 16 bits")?;
        push_run(&mut channels, end + gap, len, budget)?;
        end += gap + len;
    }
    if channels.is_empty() { Err(Bad("an answer without samples")) } else { Ok(channels) }
}

fn push_run(
    channels: &mut Vec<ChannelIndex>,
    first: usize,
    len: usize,
    budget: &mut Budget,
) -> Result<(), Bad> {
    let last = len.checked_sub(1).ok_or(Bad("a run of no channels"))? + first;
    let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(last)) else {
        return Err(Bad("a channel above 16 bits"));
    };
    budget.samples(len)?;
    channels.extend((first..=last).map(ChannelIndex));
    Ok(())
}

/// Appends qualities as runs.
pub(super) fn put_qualities(out: &mut Vec<u8>, qualities: impl Iterator<Item = Quality>) {
    let all: Vec<Quality> = qualities.collect();
    for run in all.chunk_by(|a, b| a == b) {
        put_varint(out, u64::from(run[0].code()));
        put_len(out, run.len());
    }
}

/// Reads `count` qualities; the caller bounds `count`.
pub(super) fn read_qualities(input: &mut Input<'_>, count: usize) -> Result<Vec<Quality>, Bad> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let quality = Quality::from_code(input.u16()?).ok_or(Bad("an unknown quality"))?;
        let len = input.len(count - all.len(), "more qualities than samples")?;
        if len == 0 {
            return Err(Bad("a run of no qualities"));
        }
        all.resize(all.len() + len, quality);
    }
    Ok(all)
}

/// Reads one answer, up to the end of `input`.
pub(super) fn decode(mut input: Input<'_>, budget: &mut Budget) -> Result<Readings, Bad> {
    let head = input.byte()?;
    let device = DeviceIndex(input.u16()?);
    let acquired = match head & 0x03 {
        0 => Acquired::InSlot(Slot(input.signed()?)),
        1 => Acquired::SinceBoot(input.varint()?),
        2 => Acquired::Recorded(Slot(input.signed()?)),
        _ => return Err(Bad("an acquisition of an unknown form")),
    };
    let at = Timestamp(input.signed()?);
    let channels = read_channels(&mut input, budget)?;
    let qualities = match head & ALL_GOOD {
        0 => read_qualities(&mut input, channels.len())?,
        _ => vec![Quality::Good; channels.len()],
    };
    let mut next = values(head & !0x07, &mut input)?;
    let sample = |(channel, quality): (ChannelIndex, Quality)| {
        let value = if quality.has_value() { Some(next(&mut input, budget)?) } else { None };
        Ok(Sample { channel, value, quality })
    };
    let samples = channels.into_iter().zip(qualities).map(sample).collect::<Result<Vec<_>, Bad>>()?;
    input.finish()?;
    Ok(Readings { device, acquired, at, samples })
}

type ReadValue = Box<dyn FnMut(&mut Input<'_>, &mut Budget) -> Result<Value, Bad>>;

/// How the values of this form are read one by one.
fn values(form: u8, input: &mut Input<'_>) -> Result<ReadValue, Bad> {
    Ok(match form {
        DECIMALS => {
            let form = Decimal::of_code(input.byte()?).ok_or(Bad("a decimal of an unknown form"))?;
            Box::new(move |input, _| form.decode(input.signed()?).map(Value::Number))
        }
        F32 => Box::new(|input, _| Ok(Value::Number(f64::from(f32::from_le_bytes(input.array()?))))),
        F64 => Box::new(|input, _| Ok(Value::Number(f64::from_le_bytes(input.array()?)))),
        MIXED => Box::new(read_value),
        _ => return Err(Bad("values of an unknown form")),
    })
}
