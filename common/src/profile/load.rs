//! The load profile of a meter: interval records that it keeps in a memory of its own, and how they are read over Modbus.
//!
//! Says where the records stand and what is in one; asks for none and decodes none. The vendors agree on nothing here
//! but that there are fixed-length records, a time in each, and a register that says which one is the newest. So three
//! things are described apart: how records are numbered ([`Numbering`]), how one of them is asked for ([`Way`]), and
//! what stands in it ([`TimeStamp`], [`Flag`], fields).

mod read;

use super::{ByteOrder, ChannelSpec, RegisterTable, ValueType};
use crate::catalog::PeriodLabel;
use crate::time::{Interval, Timestamp};
use crate::zone::Zone;

pub(super) use read::read_load_profile;

/// Records of one length, one for each interval.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadProfile {
    /// Distance of two records; a device may be set to another.
    pub interval: Interval,
    /// Which end of its interval a record's time names. Every field has the same.
    pub label: PeriodLabel,
    /// Of the meter's clock, where all such meters have the same; else the device's configuration says it.
    pub zone: Option<Zone>,
    /// Records that the memory holds.
    pub capacity: u16,
    /// Registers of one record.
    pub registers: u16,
    /// What the number of a record means.
    pub numbering: Numbering,
    /// The number of the first record, or of the first place, by [`LoadProfile::numbering`].
    pub first: u16,
    /// Which place or number the register of the newest record names.
    pub names: Names,
    /// How many records there are.
    pub held: Held,
    /// The meter's clock.
    pub clock: Option<Clock>,
    /// How far the meter's clock may be off before its records are marked, in ms.
    pub clock_limit_ms: u32,
    /// How a record is asked for.
    pub way: Way,
    /// Most records of one request.
    pub at_once: u16,
    /// When the record is of.
    pub stamp: TimeStamp,
    /// Bits that say something of the record.
    pub flags: Vec<Flag>,
    /// What was recorded; [`super::Location::Absolute`] counts from the record's first register.
    pub fields: Vec<ChannelSpec>,
}

/// What the number of a record means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbering {
    /// A place of the ring, from `first` to `first + capacity - 1`.
    Ring {
        /// Where the newest record is.
        newest: Register,
    },
    /// It grows with each record, from `first` on; the record stands in place `number modulo capacity`. In a register of
    /// 16 bits 0 follows 65535.
    Running {
        /// The number of the newest record.
        newest: Register,
    },
}

impl Numbering {
    /// The register of the newest record.
    #[must_use]
    pub const fn newest(&self) -> Register {
        match self {
            Self::Ring { newest } | Self::Running { newest } => *newest,
        }
    }
}

/// What the register of the newest record names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Names {
    /// The record that was written last.
    #[default]
    Last,
    /// The one that is written next.
    Next,
}

/// How many records there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// As many as this register says.
    Count(Register),
    /// From the number in this register on.
    Oldest(Register),
    /// As many as there are numbers for; places without a valid time have never been written.
    Unsaid,
}

/// An unsigned number in a meter's registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register {
    /// Which table.
    pub table: RegisterTable,
    /// Zero-based address on the wire.
    pub address: u16,
    /// [`ValueType::U16`] or [`ValueType::U32`].
    pub value_type: ValueType,
    /// Of its bytes.
    pub order: ByteOrder,
}

impl Register {
    /// The greatest number that it holds.
    #[must_use]
    pub const fn max(&self) -> u32 {
        match self.value_type {
            ValueType::U16 => 0xFFFF,
            _ => u32::MAX,
        }
    }
}

/// The meter's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Which table.
    pub table: RegisterTable,
    /// Zero-based address of its first register.
    pub address: u16,
    /// How it is written.
    pub encoding: StampEncoding,
    /// Of the bytes of each number.
    pub order: ByteOrder,
}

/// How a record is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// All records stand in registers, one behind the other, from `address` on.
    Mapped {
        /// Holding or input registers.
        table: RegisterTable,
        /// Of the first place.
        address: u16,
    },
    /// The number is written to a register, then the record is read from a window.
    Window {
        /// Where the number is written: holding registers.
        select: Register,
        /// Whether it is written with function 16 although it has one register only.
        writes_many: bool,
        /// How long the meter needs from there to the window, in ms.
        pause_ms: u32,
        /// Table of the window.
        table: RegisterTable,
        /// First register of the window.
        address: u16,
    },
    /// Read File Record, function 20 (Modbus Application Protocol V1.1b3, section 6.14).
    File {
        /// The file of the first place.
        file: u16,
        /// The file record of the first place.
        record: u16,
        /// File records from one place to the next: the registers of a record, where a file record is a register.
        stride: u16,
    },
}

/// Where a record says when it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeStamp {
    /// Registers before it in the record.
    pub offset: u16,
    /// How it is written.
    pub encoding: StampEncoding,
    /// Of the bytes of each number.
    pub order: ByteOrder,
}

/// How a time is written in registers. Years of two digits are those of 2000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StampEncoding {
    /// Seconds since 1970-01-01T00:00 in 2 registers.
    Seconds1970,
    /// Seconds since 2000-01-01T00:00 in 2 registers.
    Seconds2000,
    /// Milliseconds since 1970-01-01T00:00 in 4 registers.
    Milliseconds1970,
    /// Year, month, day, hour, minute, second: a register each.
    Fields,
    /// The same as bytes, two to a register.
    Bytes,
    /// The same as two decimal digits in each byte.
    Bcd,
}

impl StampEncoding {
    /// Registers that it takes.
    #[must_use]
    pub const fn registers(self) -> u16 {
        match self {
            Self::Seconds1970 | Self::Seconds2000 => 2,
            Self::Milliseconds1970 => 4,
            Self::Fields => 6,
            Self::Bytes | Self::Bcd => 3,
        }
    }
}

/// 2000-01-01T00:00:00Z, where [`StampEncoding::Seconds2000`] begins.
pub const BEGIN_OF_2000: Timestamp = Timestamp(946_684_800_000);

/// Bits of one register of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Registers before it in the record.
    pub offset: u16,
    /// The bits: any of them set says it.
    pub mask: u16,
    /// What they say.
    pub meaning: Meaning,
    /// Of which fields, by place; `None`: of all.
    pub fields: Option<Vec<usize>>,
}

/// What a status bit says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The values are none.
    Invalid,
    /// The meter has estimated the values.
    Estimated,
    /// The record is still being written.
    Incomplete,
}
