//! The load profile of a simulated meter: a record for each interval of its own clock, in a memory of bounded size, shown
//! in registers, behind a window or as file records, as the register map says. Written for the simulators alone.
//!
//! Nothing is kept but where each undisturbed stretch of records began; what is in a record is a function of its time.
//!
//! # Not simulated
//! Partial intervals: a meter that was without power, or whose clock was set, begins again with the next whole one. What
//! takes a meter time: a record is in the window as soon as its number is written, whatever pause the map asks for.

use std::collections::BTreeMap;

use gapless_common::catalog::PeriodLabel;
use gapless_common::profile::{
    BEGIN_OF_2000, ByteOrder, Held, LoadProfile, Location, Meaning, Names, Numbering, Register,
    RegisterTable, StampEncoding, ValueType, Way,
};
use gapless_common::reading::Value;
use gapless_common::time::Timestamp;
use gapless_common::zone::Zone;

use super::encode;
use super::pdu::FileRun;
use crate::campbell::clock::{OwnClock, REAL_TIME_PPM};
use crate::campbell::ring::{Ring, Stored};
use crate::truth::{Raw, Signal};

/// When every meter began to record: 2020-01-01T00:00:00Z.
const BEGAN_MS: i64 = 1_577_836_800_000;

/// What a meter has recorded.
#[derive(Debug, Clone)]
pub struct Memory {
    load: LoadProfile,
    zone: Zone,
    signals: Vec<Signal>,
    clock: OwnClock,
    ring: Ring,
    selected: u32,
    /// How long the newest record is half written, in ms of its own clock.
    half_written_ms: i64,
}

impl Memory {
    /// A memory that is full, of a meter whose clock is right.
    #[must_use]
    pub fn new(load: &LoadProfile, device_seed: u64) -> Self {
        let zone = load.zone.unwrap_or_default();
        let begun = zone.to_local(Timestamp(BEGAN_MS)).0;
        let interval = load.interval.as_ms();
        Self {
            signals: load.fields.iter().map(|field| Signal::new(field, device_seed, 0)).collect(),
            clock: OwnClock::new(BEGAN_MS, begun, REAL_TIME_PPM),
            ring: Ring::new(interval, load.capacity.into(), begun),
            selected: 0,
            half_written_ms: 0,
            zone,
            load: load.clone(),
        }
    }

    /// What a reader must have stored of a field in a record with this time; `None` for an unknown field.
    #[must_use]
    pub fn truth(&self, field: &str, at_ms: i64) -> Option<Value> {
        let place = self.load.fields.iter().position(|spec| spec.id.as_str() == field)?;
        Some(self.signals[place].value(at_ms, None))
    }

    /// The times of the records that are held at `t_ms`, oldest first.
    #[must_use]
    pub fn held(&self, t_ms: i64) -> Vec<i64> {
        self.ring.held(self.clock.at(t_ms)).map(|stored| self.label(stored)).collect()
    }

    /// All records are gone, and numbers begin anew.
    pub fn clear(&mut self, t_ms: i64) {
        let own_ms = self.clock.at(t_ms);
        self.ring = Ring::new(self.load.interval.as_ms(), self.load.capacity.into(), own_ms);
    }

    /// Somebody sets the clock.
    pub fn step_clock(&mut self, by_ms: i64, t_ms: i64) {
        let own_ms = self.clock.at(t_ms);
        self.ring.clock_set(own_ms, own_ms.saturating_add(by_ms));
        self.clock = self.clock.stepped(t_ms, by_ms);
    }

    /// The meter was without power for so long before `t_ms`: it recorded nothing.
    pub fn power_failed(&mut self, span_ms: i64, t_ms: i64) {
        self.ring.clock_set(self.clock.at(t_ms.saturating_sub(span_ms)), self.clock.at(t_ms));
    }

    /// From now on the clock runs so much too fast.
    pub fn drift(&mut self, ppm: i64, t_ms: i64) {
        self.clock = self.clock.with_speed(t_ms, REAL_TIME_PPM.saturating_add(ppm));
    }

    /// The newest record is half written for so long.
    pub const fn write_slowly(&mut self, ms: i64) {
        self.half_written_ms = ms;
    }

    /// The meter restarts: what was selected is forgotten.
    pub const fn restart(&mut self) {
        self.selected = 0;
    }

    /// A record's time as it is labelled, UTC.
    fn label(&self, stored: Stored) -> i64 {
        let begin = match self.load.label {
            PeriodLabel::Start => self.load.interval.as_ms(),
            PeriodLabel::End => 0,
        };
        self.zone.to_utc(Timestamp(stored.own_ms)).0 - begin
    }

    /// Takes a write, if it selects a record.
    pub fn select(&mut self, start: u16, values: &[u16]) -> bool {
        let Way::Window { select, .. } = self.load.way else { return false };
        let is_it = start == select.address && values.len() == usize::from(select.value_type.registers());
        if is_it {
            self.selected = number(values, select.order);
        }
        is_it
    }

    /// The registers of the memory among `count` from `start` on, by address.
    #[must_use]
    pub fn registers(&self, table: RegisterTable, start: u16, count: u16, t_ms: i64) -> BTreeMap<u16, u16> {
        let own_ms = self.clock.at(t_ms);
        let asked = |address: u16| (start..=start.saturating_add(count - 1)).contains(&address);
        let mut found: BTreeMap<u16, u16> =
            self.pointers(table, own_ms).filter(|(at, _)| asked(*at)).collect();
        let registers = self.load.registers;
        match self.load.way {
            Way::Window { table: window, address, .. }
                if window == table
                    && address < start.saturating_add(count)
                    && start < address + registers =>
            {
                let words = self.record(self.place_of(self.selected), own_ms);
                let words = words.unwrap_or_else(|| vec![0; usize::from(registers)]);
                found.extend((address..).zip(words).filter(|(at, _)| asked(*at)));
            }
            Way::Mapped { table: map, address } if map == table => {
                for place in 0..self.load.capacity {
                    let first = address + place * registers;
                    if first < start.saturating_add(count) && start < first + registers {
                        let words = self.record(Some(place.into()), own_ms);
                        let words = words.unwrap_or_else(|| vec![0; usize::from(registers)]);
                        found.extend((first..).zip(words).filter(|(at, _)| asked(*at)));
                    }
                }
            }
            _ => {}
        }
        found
    }

    /// The registers of one run of file records; `None` where there is no such record.
    #[must_use]
    pub fn file(&self, run: &FileRun, t_ms: i64) -> Option<Vec<u16>> {
        let Way::File { file, record, stride } = self.load.way else { return None };
        let per_file = (10_000 - record - self.load.registers) / stride + 1;
        let place = u32::from(run.file.checked_sub(file)?) * u32::from(per_file)
            + u32::from(run.record.checked_sub(record)? / stride);
        let is_whole = (run.record - record).is_multiple_of(stride) && run.registers == self.load.registers;
        let is_there = is_whole && place < u32::from(self.load.capacity);
        let words = is_there.then(|| self.record(Some(place), self.clock.at(t_ms)))?;
        Some(words.unwrap_or_else(|| vec![0; usize::from(self.load.registers)]))
    }

    /// The place of the record that the meter calls so.
    fn place_of(&self, name: u32) -> Option<u32> {
        let (first, capacity) = (u32::from(self.load.first), u64::from(self.load.capacity));
        let offset = name.checked_sub(first)?;
        match self.load.numbering {
            Numbering::Ring { .. } => Some(offset),
            Numbering::Running { .. } => u32::try_from(u64::from(offset) % capacity).ok(),
        }
    }

    /// The registers of the record in a place; `None` where nothing was ever written.
    fn record(&self, place: Option<u32>, own_ms: i64) -> Option<Vec<u16>> {
        let capacity = u64::from(self.load.capacity);
        let place = u64::from(place?);
        let stored = self.ring.held(own_ms).find(|stored| stored.no % capacity == place)?;
        let mut words = vec![0; usize::from(self.load.registers)];
        let mut put = |offset: u16, new: Vec<u16>| {
            for (word, new) in words.iter_mut().skip(offset.into()).zip(new) {
                *word |= new;
            }
        };
        let at_ms = self.label(stored);
        let stamp = self.load.stamp;
        put(stamp.offset, written(stamp.encoding, stamp.order, self.zone.to_local(Timestamp(at_ms))));
        let is_newest = stored.no + 1 == self.ring.end(own_ms);
        if is_newest && own_ms - stored.own_ms < self.half_written_ms {
            // Its values come later.
            let busy = self.load.flags.iter().filter(|flag| flag.meaning == Meaning::Incomplete);
            busy.for_each(|flag| put(flag.offset, vec![flag.mask]));
            return Some(words);
        }
        for (field, signal) in self.load.fields.iter().zip(&self.signals) {
            let Location::Absolute(offset) = field.location else { continue };
            put(offset, encode::registers(&signal.raw(at_ms, None), field.value_type, field.order));
        }
        Some(words)
    }

    fn pointers(&self, table: RegisterTable, own_ms: i64) -> impl Iterator<Item = (u16, u16)> + use<> {
        let (end, capacity) = (self.ring.end(own_ms), u64::from(self.load.capacity));
        let (count, first) = (end.min(capacity), u64::from(self.load.first));
        // The record that was written last, or the one that is written next.
        let named = if self.load.names == Names::Next { end } else { end.saturating_sub(1) };
        let (newest, oldest) = match self.load.numbering {
            Numbering::Ring { .. } => (first + named % capacity, first + (end - count) % capacity),
            Numbering::Running { .. } if end == 0 && self.load.names == Names::Last => {
                (first.saturating_sub(1), first)
            }
            Numbering::Running { .. } => (first + named, first + end - count),
        };
        let place = |register: Register, number: u64| {
            let raw = Raw::Int(i128::from(number));
            let words = encode::registers(&raw, register.value_type, register.order);
            (register.table, register.address, words)
        };
        let (Numbering::Ring { newest: register } | Numbering::Running { newest: register }) =
            self.load.numbering;
        let mut all = vec![place(register, newest)];
        match self.load.held {
            Held::Count(register) => all.push(place(register, count)),
            Held::Oldest(register) => all.push(place(register, oldest)),
            Held::Unsaid => {}
        }
        if let Some(clock) = self.load.clock {
            all.push((clock.table, clock.address, written(clock.encoding, clock.order, Timestamp(own_ms))));
        }
        let of_table = all.into_iter().filter(move |(of, ..)| *of == table);
        of_table.flat_map(|(_, address, words)| (address..).zip(words).collect::<Vec<_>>())
    }
}

fn number(words: &[u16], order: ByteOrder) -> u32 {
    let plain = |word: &u16| if order.bytes_swapped() { word.swap_bytes() } else { *word };
    let mut words: Vec<u16> = words.iter().map(plain).collect();
    if order.words_swapped() {
        words.reverse();
    }
    words.iter().fold(0, |number, word| number << 16 | u32::from(*word))
}

/// A local time as registers.
fn written(encoding: StampEncoding, order: ByteOrder, local: Timestamp) -> Vec<u16> {
    let whole = |ms: i64, value_type| encode::registers(&Raw::Int(ms.into()), value_type, order);
    let swap = |word: u16| if order.bytes_swapped() { word.swap_bytes() } else { word };
    let text = local.to_string();
    // 2026-01-31T12:34:56Z
    let field =
        |from: usize, to: usize| text.get(from..to).and_then(|digits| digits.parse().ok()).unwrap_or(0_u16);
    let fields = [field(0, 4), field(5, 7), field(8, 10), field(11, 13), field(14, 16), field(17, 19)];
    match encoding {
        StampEncoding::Seconds1970 => whole(local.0.div_euclid(1_000), ValueType::U32),
        StampEncoding::Seconds2000 => whole(local.since_ms(BEGIN_OF_2000).div_euclid(1_000), ValueType::U32),
        StampEncoding::Milliseconds1970 => whole(local.0, ValueType::U64),
        StampEncoding::Fields => fields.map(swap).to_vec(),
        StampEncoding::Bytes => fields.chunks(2).map(|two| swap(((two[0] % 100) << 8) | two[1])).collect(),
        StampEncoding::Bcd => {
            let bcd = |number: u16| ((number % 100 / 10) << 4) | (number % 10);
            fields.chunks(2).map(|two| swap(bcd(two[0]) << 8 | bcd(two[1]))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_meters_write_them() {
        use ByteOrder::{ABCD, BADC, CDAB};
        use StampEncoding::{Bcd, Bytes, Fields, Milliseconds1970, Seconds1970, Seconds2000};
        let rows: [(StampEncoding, ByteOrder, &[u16]); 8] = [
            (Seconds1970, ABCD, &[0x697D, 0xF6F0]),
            (Seconds1970, CDAB, &[0xF6F0, 0x697D]),
            (Seconds2000, ABCD, &[0x3110, 0xB370]),
            (Milliseconds1970, ABCD, &[0x0000, 0x019C, 0x140C, 0x9980]),
            (Fields, ABCD, &[2026, 1, 31, 12, 34, 56]),
            (Bytes, ABCD, &[0x1A01, 0x1F0C, 0x2238]),
            (Bytes, BADC, &[0x011A, 0x0C1F, 0x3822]),
            (Bcd, ABCD, &[0x2601, 0x3112, 0x3456]),
        ];
        let local = "2026-01-31T12:34:56Z".parse().unwrap();
        for (encoding, order, expected) in rows {
            assert_eq!(written(encoding, order, local), expected, "{encoding:?} {order:?}");
        }
    }
}
