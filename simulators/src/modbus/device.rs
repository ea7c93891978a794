//! One simulated device: a register image, a small plain memory for writes, and the exceptions a real device
//! gives. Knows neither framing, nor lines, nor faults.
//!
//! Besides what its register map says, every device serves, in holding and input registers:
//! - [`CLOCK_ADDRESS`]: the evaluation time of this answer, milliseconds since 1970 as a u64 (4 registers, ABCD);
//! - [`MEMORY`]: plain memory for functions 5, 6, 15 and 16 (registers and coils), 0 until written.

use std::collections::BTreeMap;
use std::ops::Range;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use gapless_common::catalog::{Aggregation, PeriodLabel};
use gapless_common::id::ChannelId;
use gapless_common::profile::{ByteOrder, ChannelSpec, Location, Profile, RegisterTable, Scale, ValueType};
use gapless_common::reading::Value;

use super::image::{Image, ImageError, Placed};
use super::memory::Memory;
use super::pdu::{self, Request, exception};
use crate::truth::{EVALUATION_TIME, Signal, mix};

/// Where every device serves the evaluation time: u64 milliseconds since 1970, big endian.
pub const CLOCK_ADDRESS: u16 = 0xF000;

/// Addresses of plain memory, in holding registers and in coils.
pub const MEMORY: Range<u16> = 0xE000..0xF000;

/// What kind of device to serve.
#[derive(Debug, Clone, PartialEq)]
pub enum DeviceKind {
    /// N float32 channels `ch00`, `ch01`, … at holding registers 0, 2, …, followed by `eval_time_ms` (u64, ABCD).
    Generic {
        /// How many floats.
        channels: u16,
        /// In which order their bytes stand.
        order: ByteOrder,
    },
    /// As a register map says.
    Profile(Box<Profile>),
}

/// Why a text names no kind of device.
#[derive(Debug, thiserror::Error)]
pub enum KindError {
    /// `generic:` without a usable number or order.
    #[error(
        "`{0}`: write generic:N or generic:N:ORDER with N from 1 to 25000 and ORDER one of abcd, cdab, badc, dcba"
    )]
    Generic(String),
    /// Neither generic nor an embedded profile.
    #[error(
        "there is no profile `{name}`; write generic:N, the path of a profile file (with a `/` or ending in .toml), or one of: {known}"
    )]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A profile file that cannot be read.
    #[error("cannot read the profile file {path}: {why}")]
    File {
        /// Which file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Most floats of a generic device: what fits below [`MEMORY`].
pub const GENERIC_CHANNELS_MAX: u16 = 25_000;

impl FromStr for DeviceKind {
    type Err = KindError;
    fn from_str(text: &str) -> Result<Self, KindError> {
        match text.strip_prefix("generic") {
            Some(rest) => parse_generic(rest).ok_or_else(|| KindError::Generic(text.to_owned())),
            None => super::profiles::find(text).map(|profile| Self::Profile(Box::new(profile))),
        }
    }
}

fn parse_generic(rest: &str) -> Option<DeviceKind> {
    let mut parts = rest.strip_prefix(':')?.split(':');
    let channels = parts.next()?.parse().ok().filter(|n| (1..=GENERIC_CHANNELS_MAX).contains(n))?;
    let order = match parts.next().map(str::to_ascii_lowercase).as_deref() {
        None | Some("abcd") => ByteOrder::ABCD,
        Some("cdab") => ByteOrder::CDAB,
        Some("badc") => ByteOrder::BADC,
        Some("dcba") => ByteOrder::DCBA,
        Some(_) => return None,
    };
    parts.next().is_none().then_some(DeviceKind::Generic { channels, order })
}

/// The register map of a generic device.
#[must_use]
pub fn generic_channels(channels: u16, order: ByteOrder) -> Vec<ChannelSpec> {
    let float = |i: u16| register_spec(&format!("ch{i:02}"), i * 2, ValueType::F32, order);
    let mut specs: Vec<ChannelSpec> = (0..channels).map(float).collect();
    specs.push(clock_spec("eval_time_ms", channels * 2));
    specs
}

fn register_spec(id: &str, address: u16, value_type: ValueType, order: ByteOrder) -> ChannelSpec {
    ChannelSpec {
        id: ChannelId::new(id).expect("made of letters, digits and `_`"),
        table: RegisterTable::HoldingRegister,
        location: Location::Absolute(address),
        value_type,
        order,
        scale: Scale::ONE,
        scale_from: None,
        unit: "".into(),
        quantity: "".into(),
        aggregation: Aggregation::Instant,
        label: PeriodLabel::default(),
        sentinels: Vec::new(),
        valid: None,
        attributes: BTreeMap::new(),
    }
}

fn clock_spec(id: &str, address: u16) -> ChannelSpec {
    let mut spec = register_spec(id, address, ValueType::U64, ByteOrder::ABCD);
    spec.unit = "ms".into();
    spec.quantity = EVALUATION_TIME.into();
    spec
}

#[derive(Debug, Default)]
struct Writable {
    registers: BTreeMap<u16, u16>,
    coils: BTreeMap<u16, bool>,
    /// When the device restarted, in ascending order.
    resets_ms: Vec<i64>,
}

impl Writable {
    /// The last restart up to `t_ms`.
    fn reset_before(&self, t_ms: i64) -> Option<i64> {
        self.resets_ms.iter().rev().find(|reset| **reset <= t_ms).copied()
    }
}

/// A device that answers.
#[derive(Debug)]
pub struct Device {
    image: Image,
    writable: Mutex<Writable>,
    memory: Option<Mutex<Memory>>,
}

impl Device {
    /// The device of this kind at `unit`; `seed` is the whole simulation's.
    ///
    /// # Errors
    /// [`ImageError`] where its register map cannot be laid out.
    pub fn new(kind: &DeviceKind, seed: u64, unit: u8) -> Result<Self, ImageError> {
        let device_seed = mix(&[seed, unit.into()]);
        let mut image = match kind {
            DeviceKind::Profile(profile) => Image::of_profile(profile, device_seed)?,
            DeviceKind::Generic { channels, order } => {
                let mut image = Image::default();
                for spec in generic_channels(*channels, *order) {
                    image.add(placed(spec, device_seed))?;
                }
                image
            }
        };
        for (id, table) in
            [("clock", RegisterTable::HoldingRegister), ("clock_input", RegisterTable::InputRegister)]
        {
            let mut spec = clock_spec(id, CLOCK_ADDRESS);
            spec.table = table;
            image.add(placed(spec, device_seed))?;
        }
        let load = match kind {
            DeviceKind::Profile(profile) => profile.load.as_ref(),
            DeviceKind::Generic { .. } => None,
        };
        let memory = load.map(|load| Mutex::new(Memory::new(load, device_seed)));
        Ok(Self { image, writable: Mutex::default(), memory })
    }

    /// The channels it serves, with their addresses on the wire.
    #[must_use]
    pub fn channels(&self) -> &[Placed] {
        self.image.channels()
    }

    /// The true value of `channel` at `t_ms`, as a reader must have stored it; `None` for an unknown channel.
    #[must_use]
    pub fn truth(&self, channel: &str, t_ms: i64) -> Option<Value> {
        let reset = self.writable().reset_before(t_ms);
        let found = self.channels().iter().find(|placed| placed.spec.id.as_str() == channel)?;
        Some(found.signal.value(t_ms, reset))
    }

    /// Does something with its load profile; `None` where it has none.
    pub fn with_memory<T>(&self, act: impl FnOnce(&mut Memory) -> T) -> Option<T> {
        let memory = self.memory.as_ref()?;
        Some(act(&mut memory.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Restarts the device at `t_ms`: counters begin at 0 again, written memory is forgotten. What it measured before
    /// is still known, so that an answer of that time can be checked.
    pub fn restart(&self, t_ms: i64) {
        let mut writable = self.writable();
        let mut resets_ms = std::mem::take(&mut writable.resets_ms);
        resets_ms.push(t_ms);
        resets_ms.sort_unstable();
        *writable = Writable { resets_ms, ..Writable::default() };
        drop(writable);
        self.with_memory(Memory::restart);
    }

    /// The answer to a request that is complete at `t_ms`. An exception has the high bit of its function set.
    #[must_use]
    pub fn answer(&self, pdu: &[u8], t_ms: i64) -> Vec<u8> {
        let function = pdu.first().copied().unwrap_or(0);
        let answered = pdu::parse(pdu).and_then(|request| self.execute(function, pdu, &request, t_ms));
        answered.unwrap_or_else(|code| pdu::exception_answer(function, code))
    }

    fn execute(&self, function: u8, pdu: &[u8], request: &Request, t_ms: i64) -> Result<Vec<u8>, u8> {
        match request {
            Request::ReadRegisters(table, start, count) => {
                Ok(pdu::registers_answer(function, &self.read(*table, *start, *count, t_ms)?))
            }
            Request::ReadBits(table, start, count) => {
                let words = self.read(*table, *start, *count, t_ms)?;
                Ok(pdu::bits_answer(function, &words.iter().map(|word| *word != 0).collect::<Vec<_>>()))
            }
            Request::WriteRegisters(start, values)
                if self.with_memory(|memory| memory.select(*start, values)) == Some(true) =>
            {
                Ok(pdu::write_answer(pdu))
            }
            Request::ReadFile(runs) => {
                let read = |memory: &mut Memory| {
                    runs.iter().map(|run| memory.file(run, t_ms)).collect::<Option<Vec<_>>>()
                };
                let records = self.with_memory(read).ok_or(exception::ILLEGAL_FUNCTION)?;
                Ok(pdu::file_answer(&records.ok_or(exception::ILLEGAL_DATA_ADDRESS)?))
            }
            Request::WriteRegisters(start, values) => {
                let cells = memory_of(*start, values.len())?.zip(values.iter().copied());
                self.writable().registers.extend(cells);
                Ok(pdu::write_answer(pdu))
            }
            Request::WriteBits(start, values) => {
                let cells = memory_of(*start, values.len())?.zip(values.iter().copied());
                self.writable().coils.extend(cells);
                Ok(pdu::write_answer(pdu))
            }
        }
    }

    fn read(&self, table: RegisterTable, start: u16, count: u16, t_ms: i64) -> Result<Vec<u16>, u8> {
        let writable = self.writable();
        if let Ok(range) = memory_of(start, count.into()) {
            match table {
                RegisterTable::HoldingRegister => {
                    return Ok(range.map(|at| writable.registers.get(&at).copied().unwrap_or(0)).collect());
                }
                RegisterTable::Coil => {
                    return Ok(range.map(|at| u16::from(writable.coils.get(&at) == Some(&true))).collect());
                }
                RegisterTable::DiscreteInput | RegisterTable::InputRegister => {}
            }
        }
        let reset = writable.reset_before(t_ms);
        drop(writable);
        let recorded =
            self.with_memory(|memory| memory.registers(table, start, count, t_ms)).unwrap_or_default();
        if recorded.is_empty() {
            return self.image.read(table, start, count, t_ms, reset).ok_or(exception::ILLEGAL_DATA_ADDRESS);
        }
        let one = |address: u16| match recorded.get(&address) {
            Some(word) => Some(*word),
            None => self.image.read(table, address, 1, t_ms, reset)?.first().copied(),
        };
        let all = (start..=start.saturating_add(count - 1)).map(one).collect::<Option<Vec<u16>>>();
        all.filter(|words| words.len() == usize::from(count)).ok_or(exception::ILLEGAL_DATA_ADDRESS)
    }

    fn writable(&self) -> std::sync::MutexGuard<'_, Writable> {
        self.writable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn placed(spec: ChannelSpec, device_seed: u64) -> Placed {
    let address = match spec.location {
        Location::Absolute(address) => address,
        Location::SunSpec { offset, .. } => offset,
    };
    Placed { signal: Signal::new(&spec, device_seed, 0), spec, address }
}

fn memory_of(start: u16, count: usize) -> Result<Range<u16>, u8> {
    let end = u16::try_from(usize::from(start) + count).map_err(|_| exception::ILLEGAL_DATA_ADDRESS)?;
    (MEMORY.start <= start && end <= MEMORY.end).then_some(start..end).ok_or(exception::ILLEGAL_DATA_ADDRESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: i64 = 1_767_225_600_000;

    /// The truth of a time before a restart does not change by it: late readings are checked against it.
    #[test]
    fn counters_begin_again_with_each_restart() {
        let kind: DeviceKind = "eastron-sdm120".parse().unwrap();
        let device = Device::new(&kind, 1, 1).unwrap();
        let counter = |spec: &&Placed| spec.spec.aggregation == Aggregation::Counter;
        let id = device.channels().iter().find(counter).unwrap().spec.id.to_string();
        let total = |t: i64| match device.truth(&id, t) {
            Some(Value::Number(number)) => number,
            other => panic!("{other:?}"),
        };
        let (before, later) = (total(T), T + 7_200_000);
        device.restart(later);
        device.restart(T + 3_600_000);
        assert!(before > 0.0);
        assert_eq!(total(T), before);
        assert_eq!(total(T + 3_600_000), 0.0);
        assert!((0.0..before).contains(&total(later - 1)) && total(later - 1) > 0.0);
        assert_eq!(total(later), 0.0);
    }
}
