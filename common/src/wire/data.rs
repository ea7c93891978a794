//! The payload of a data frame: readings of one device, acquisition and channel set as a block of columns,
//! everything else as rows. Each seq of the frame stands in exactly one of them.
//!
//! ```text
//! payload    blocks (varint), each block; rows (varint), each row
//! block      head (1): bits 0-1 acquired, bit 2 all good, as in `row`
//!            device (varint)
//!            in slot, recorded: interval (varint, ms), phase (varint, ms) of the device's grid
//!            answers (varint, at least 1), channels as in `row`
//!            seq       integers: distance from the frame's first seq, ascending
//!            acquired  integers: slots, or boot clock in ms
//!            at        integers: ms after the slot's instant, or after the boot clock's reading
//!            qualities unless all good: runs as in `row`, channel by channel
//!            values    a column per channel, drawn in `column`
//! row        distance from the seq of the row before, for the first one from the frame's first seq (varint);
//!            length (varint); a record, drawn in `record`
//! ```
//! `integers` are drawn in `ints`. Times are numbers of the frame alone: no catalog is needed to read them.

use std::collections::BTreeMap;

use crate::catalog::Catalog;
use crate::id::{ChannelIndex, DeviceIndex, Seq};
use crate::message::DataFrame;
use crate::quality::Quality;
use crate::reading::{Acquired, Readings, Record, Sample, Value};
use crate::time::{Interval, Slot, SlotGrid, Timestamp};

use super::bytes::{Bad, Input, put_len, put_varint, varint_len};
use super::column::{self, Column};
use super::envelope::{DataHeader, Kind, seal_smallest};
use super::record::decode_within;
use super::row::{self, ALL_GOOD, Budget};
use super::{DecodeError, EncodeError, FRAME_BYTES_MAX, PAYLOAD_BYTES_MAX, RECORDS_MAX, ints};
use super::{encode_record, ints::encode as put_ints};

/// Up to here it is tried whether the answers of a block are shorter as rows.
const ROWS_TRIED: usize = 4;

/// Writes a frame. `catalog` should be the one that the frame names: its grids shorten the time columns;
/// answers of a device that it does not have are written as rows.
///
/// # Errors
/// [`EncodeError`]; where it asks for fewer records, [`encode_prefix`] finds how many.
pub fn encode_data(frame: &DataFrame, catalog: &Catalog) -> Result<Vec<u8>, EncodeError> {
    encode_records(frame, &frame.records, catalog)
}

/// Writes a frame of as many of the first records as fit, and says how many those are (at least one).
///
/// # Errors
/// [`EncodeError`] where not even the first record makes a frame.
pub fn encode_prefix(frame: &DataFrame, catalog: &Catalog) -> Result<(Vec<u8>, usize), EncodeError> {
    let mut count = frame.records.len().min(RECORDS_MAX);
    loop {
        let fewer = match encode_records(frame, &frame.records[..count], catalog) {
            Ok(bytes) => return Ok((bytes, count)),
            // Size grows a little slower than the number of records: aim 5 % below.
            Err(EncodeError::TooLarge(bytes)) => count * (FRAME_BYTES_MAX / 20 * 19) / bytes,
            Err(EncodeError::TooMany(_)) => count / 2,
            Err(other) => return Err(other),
        };
        if count == 1 {
            return Err(EncodeError::TooMany("bytes in one record"));
        }
        count = fewer.clamp(1, count - 1);
    }
}

fn encode_records(frame: &DataFrame, records: &[Record], catalog: &Catalog) -> Result<Vec<u8>, EncodeError> {
    check(frame.first, records)?;
    let payload = payload(records, catalog);
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(EncodeError::TooLarge(payload.len()));
    }
    let header = DataHeader {
        connection: frame.connection,
        agent: frame.agent,
        epoch: frame.epoch,
        first: frame.first,
        count: records.len() as u64,
        catalog: frame.catalog,
    };
    let bytes = seal_smallest(Kind::Data, Some(&header), &payload);
    if bytes.len() > FRAME_BYTES_MAX { Err(EncodeError::TooLarge(bytes.len())) } else { Ok(bytes) }
}

/// Every rule and bound that the decoder enforces.
fn check(first: Seq, records: &[Record]) -> Result<(), EncodeError> {
    if records.is_empty() {
        return Err(EncodeError::Empty);
    }
    if records.len() > RECORDS_MAX {
        return Err(EncodeError::TooMany("records"));
    }
    if first.0 == 0 || first.0.checked_add(records.len() as u64).is_none() {
        return Err(EncodeError::Seq(first));
    }
    let mut budget = Budget::default();
    for (record, seq) in records.iter().zip(first.0..) {
        match record {
            Record::Readings(readings) => check_readings(readings, Seq(seq), &mut budget)?,
            other if super::v1::valid(other) => {}
            _ => return Err(EncodeError::Record(Seq(seq))),
        }
    }
    Ok(())
}

fn check_readings(readings: &Readings, seq: Seq, budget: &mut Budget) -> Result<(), EncodeError> {
    if !row::valid(readings) {
        return Err(EncodeError::Record(seq));
    }
    budget.samples(readings.samples.len()).map_err(|_| EncodeError::TooMany("samples"))?;
    let texts = readings.samples.iter().filter_map(|sample| sample.value.as_ref());
    let bytes = texts.map(|value| if let Value::Text(text) = value { text.len() } else { 0 }).sum();
    budget.text(bytes).map_err(|_| EncodeError::TooMany("text"))
}

/// What the answers of a block have in common.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    device: DeviceIndex,
    acquired: u8,
    channels: Vec<ChannelIndex>,
}

/// An answer with its distance from the frame's first seq and its two time columns' entries.
struct Answer<'a> {
    offset: usize,
    acquired: i64,
    after: i64,
    readings: &'a Readings,
}

fn payload(records: &[Record], catalog: &Catalog) -> Vec<u8> {
    let mut groups: BTreeMap<Shape, Vec<Answer<'_>>> = BTreeMap::new();
    let mut rows: Vec<(usize, Vec<u8>)> = Vec::new();
    for (offset, record) in records.iter().enumerate() {
        let answer = match record {
            Record::Readings(readings) => answer(offset, readings, catalog),
            _ => None,
        };
        match answer {
            Some((shape, answer)) => groups.entry(shape).or_default().push(answer),
            None => rows.push((offset, encode_record(record))),
        }
    }
    let mut blocks = Vec::new();
    let mut count = 0usize;
    for (shape, answers) in &groups {
        let block = block(shape, answers, catalog);
        match shorter_rows(answers, records, block.len()) {
            Some(shorter) => rows.extend(shorter),
            None => {
                blocks.extend_from_slice(&block);
                count += 1;
            }
        }
    }
    rows.sort_unstable_by_key(|(offset, _)| *offset);
    let mut out = Vec::with_capacity(blocks.len() + 16);
    put_len(&mut out, count);
    out.extend_from_slice(&blocks);
    put_rows(&mut out, &rows);
    out
}

/// Shape and times of an answer that can stand in a block; `None` where its device is not in the catalog or a
/// time would not fit.
fn answer<'a>(offset: usize, readings: &'a Readings, catalog: &Catalog) -> Option<(Shape, Answer<'a>)> {
    let (acquired, instant) = match readings.acquired {
        Acquired::InSlot(slot) | Acquired::Recorded(slot) => {
            (slot.0, instant(catalog.device(readings.device)?.grid, slot.0)?)
        }
        Acquired::SinceBoot(ms) => (i64::try_from(ms).ok()?, i64::try_from(ms).ok()?),
    };
    let shape = Shape {
        device: readings.device,
        acquired: row::acquired_code(readings.acquired),
        channels: readings.samples.iter().map(|sample| sample.channel).collect(),
    };
    let after = readings.at.0.checked_sub(instant)?;
    Some((shape, Answer { offset, acquired, after, readings }))
}

/// `None` where the instant does not fit, or the grid is none.
fn instant(grid: SlotGrid, slot: i64) -> Option<i64> {
    if i64::from(grid.phase_ms) >= grid.interval.as_ms() {
        return None;
    }
    slot.checked_mul(grid.interval.as_ms())?.checked_add(i64::from(grid.phase_ms))
}

fn shorter_rows(answers: &[Answer<'_>], records: &[Record], block: usize) -> Option<Vec<(usize, Vec<u8>)>> {
    if answers.len() > ROWS_TRIED {
        return None;
    }
    let row = |answer: &Answer<'_>| (answer.offset, encode_record(&records[answer.offset]));
    let rows: Vec<(usize, Vec<u8>)> = answers.iter().map(row).collect();
    // Distance and length take a byte each at least.
    let bytes: usize = rows.iter().map(|(_, row)| 1 + varint_len(row.len() as u64) + row.len()).sum();
    (bytes < block).then_some(rows)
}

fn put_rows(out: &mut Vec<u8>, rows: &[(usize, Vec<u8>)]) {
    put_len(out, rows.len());
    let mut before = 0;
    for (offset, row) in rows {
        put_len(out, offset - before);
        put_len(out, row.len());
        out.extend_from_slice(row);
        before = *offset;
    }
}

fn block(shape: &Shape, answers: &[Answer<'_>], catalog: &Catalog) -> Vec<u8> {
    let samples = |channel: usize| answers.iter().map(move |answer| &answer.readings.samples[channel]);
    let by_channel = || (0..shape.channels.len()).flat_map(samples);
    let all_good = by_channel().all(|sample| sample.quality == Quality::Good);
    let mut out = vec![shape.acquired | if all_good { ALL_GOOD } else { 0 }];
    put_varint(&mut out, u64::from(shape.device.0));
    if shape.acquired != 1
        && let Some(device) = catalog.device(shape.device)
    {
        put_varint(&mut out, u64::from(u32::from(device.grid.interval)));
        put_varint(&mut out, u64::from(device.grid.phase_ms));
    }
    put_len(&mut out, answers.len());
    row::put_channels(&mut out, &shape.channels);
    let offset = |answer: &Answer<'_>| i64::try_from(answer.offset).expect("frames are bounded");
    put_ints(&mut out, &answers.iter().map(offset).collect::<Vec<_>>());
    put_ints(&mut out, &answers.iter().map(|answer| answer.acquired).collect::<Vec<_>>());
    put_ints(&mut out, &answers.iter().map(|answer| answer.after).collect::<Vec<_>>());
    if !all_good {
        row::put_qualities(&mut out, by_channel().map(|sample| sample.quality));
    }
    let mut values: Vec<&Value> = Vec::with_capacity(answers.len());
    for channel in 0..shape.channels.len() {
        values.clear();
        values.extend(samples(channel).filter_map(|sample| sample.value.as_ref()));
        column::encode(&mut out, &values);
    }
    out
}

/// Reads a payload into a frame.
pub(super) fn decode(header: &DataHeader, payload: &[u8]) -> Result<DataFrame, DecodeError> {
    let count = usize::try_from(header.count).ok().filter(|count| *count <= RECORDS_MAX);
    let count = count.ok_or(DecodeError::Malformed("more records than a frame holds"))?;
    let mut frame = Slots { records: std::iter::repeat_with(|| None).take(count).collect() };
    let mut input = Input::new(payload);
    let mut budget = Budget::default();
    for _ in 0..input.len(count, "more blocks than records")? {
        read_block(&mut input, &mut frame, &mut budget)?;
    }
    read_rows(&mut input, &mut frame, &mut budget)?;
    input.finish()?;
    Ok(DataFrame {
        agent: header.agent,
        connection: header.connection,
        epoch: header.epoch,
        first: header.first,
        catalog: header.catalog,
        records: frame.full()?,
    })
}

/// The records of a frame while they are found.
struct Slots {
    records: Vec<Option<Record>>,
}

impl Slots {
    fn put(&mut self, offset: usize, record: Record) -> Result<(), Bad> {
        let slot = self.records.get_mut(offset).ok_or(Bad("a seq beyond the frame"))?;
        match slot.replace(record) {
            None => Ok(()),
            Some(_) => Err(Bad("a seq that stands twice")),
        }
    }

    fn full(self) -> Result<Vec<Record>, Bad> {
        self.records.into_iter().map(|record| record.ok_or(Bad("a seq without a record"))).collect()
    }
}

fn read_rows(input: &mut Input<'_>, frame: &mut Slots, budget: &mut Budget) -> Result<(), DecodeError> {
    let mut offset = 0usize;
    for _ in 0..input.len(frame.records.len(), "more rows than records")? {
        offset += input.len(RECORDS_MAX, "a seq beyond the frame")?;
        let len = input.len(PAYLOAD_BYTES_MAX, "a row beyond the bound")?;
        frame.put(offset, decode_within(input.take(len)?, budget)?)?;
    }
    Ok(())
}

fn read_block(input: &mut Input<'_>, frame: &mut Slots, budget: &mut Budget) -> Result<(), Bad> {
    let head = input.byte()?;
    let device = DeviceIndex(input.u16()?);
    let clock = Clock::read(head, input)?;
    let count = input.len(frame.records.len(), "more answers than records")?;
    if count == 0 {
        return Err(Bad("a block of no answers"));
    }
    let channels = row::read_channels(input, &mut Budget::default())?;
    let cells = channels.len() * count;
    budget.samples(cells)?;
    let offsets = ints::decode(input, count)?;
    let acquired = ints::decode(input, count)?;
    let after = ints::decode(input, count)?;
    let qualities = if head & ALL_GOOD == 0 { Some(row::read_qualities(input, cells)?) } else { None };
    let columns = read_columns(input, count, channels.len(), qualities.as_deref(), budget)?;
    let mut table = Table { channels: &channels, count, qualities: qualities.as_deref(), columns };
    for answer in 0..count {
        let (acquired, at) = clock.times(acquired[answer], after[answer])?;
        let samples = table.row(answer);
        let offset = usize::try_from(offsets[answer]).map_err(|_| Bad("a seq before the frame"))?;
        frame.put(offset, Record::Readings(Readings { device, acquired, at, samples }))?;
    }
    Ok(())
}

/// What the two time columns of a block mean.
enum Clock {
    InSlot(SlotGrid),
    SinceBoot,
    Recorded(SlotGrid),
}

impl Clock {
    fn read(head: u8, input: &mut Input<'_>) -> Result<Self, Bad> {
        match head & !ALL_GOOD {
            0 => Ok(Self::InSlot(read_grid(input)?)),
            1 => Ok(Self::SinceBoot),
            2 => Ok(Self::Recorded(read_grid(input)?)),
            _ => Err(Bad("a block of an unknown form")),
        }
    }

    fn times(&self, acquired: i64, after: i64) -> Result<(Acquired, Timestamp), Bad> {
        let (acquired, instant) = match self {
            Self::InSlot(grid) => (Acquired::InSlot(Slot(acquired)), instant(*grid, acquired)),
            Self::Recorded(grid) => (Acquired::Recorded(Slot(acquired)), instant(*grid, acquired)),
            Self::SinceBoot => {
                let ms = u64::try_from(acquired).map_err(|_| Bad("a boot clock before the boot"))?;
                (Acquired::SinceBoot(ms), Some(acquired))
            }
        };
        let at =
            instant.and_then(|instant| instant.checked_add(after)).ok_or(Bad("a time beyond 64 bits"))?;
        Ok((acquired, Timestamp(at)))
    }
}

fn read_grid(input: &mut Input<'_>) -> Result<SlotGrid, Bad> {
    let interval = Interval::from_ms(input.varint()?).map_err(|_| Bad("an interval that cannot be"))?;
    let phase_ms = u32::try_from(input.varint()?).ok().filter(|phase| *phase < u32::from(interval));
    Ok(SlotGrid { interval, phase_ms: phase_ms.ok_or(Bad("a phase beyond its interval"))? })
}

/// A column and how far it has been read.
struct Cursor {
    column: Column,
    next: usize,
}

impl Cursor {
    fn take(&mut self) -> Option<Value> {
        let next = self.next;
        self.next += 1;
        match &mut self.column {
            Column::Numbers(numbers) => numbers.get(next).copied().map(Value::Number),
            Column::Values(values) => {
                values.get_mut(next).map(|value| std::mem::replace(value, Value::Number(0.0)))
            }
        }
    }
}

fn read_columns(
    input: &mut Input<'_>,
    count: usize,
    channels: usize,
    qualities: Option<&[Quality]>,
    budget: &mut Budget,
) -> Result<Vec<Cursor>, Bad> {
    let present = |channel: usize| match qualities {
        None => count,
        Some(all) => all[channel * count..][..count].iter().filter(|quality| quality.has_value()).count(),
    };
    let column = |channel| Ok(Cursor { column: column::decode(input, present(channel), budget)?, next: 0 });
    (0..channels).map(column).collect()
}

/// A block's samples, channel by channel, to be read answer by answer.
struct Table<'a> {
    channels: &'a [ChannelIndex],
    count: usize,
    qualities: Option<&'a [Quality]>,
    columns: Vec<Cursor>,
}

impl Table<'_> {
    fn row(&mut self, answer: usize) -> Vec<Sample> {
        let sample = |(index, cursor): (usize, &mut Cursor)| {
            let quality = self.qualities.map_or(Quality::Good, |all| all[index * self.count + answer]);
            let value = if quality.has_value() { cursor.take() } else { None };
            Sample { channel: self.channels[index], value, quality }
        };
        self.columns.iter_mut().enumerate().map(sample).collect()
    }
}
