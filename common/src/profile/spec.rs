//! One channel in a register map: table, place, type, byte order, and what the number means.
//!
//! Plain data with no decoding: the agent and the simulators each bring their own.

use std::collections::BTreeMap;
use std::fmt;

use super::Scale;
use crate::catalog::{Aggregation, Channel, PeriodLabel};
use crate::id::ChannelId;

/// The four primary tables of the Modbus data model (Modbus Application Protocol V1.1b3, section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RegisterTable {
    /// Single bits, read and write: function 1.
    Coil,
    /// Single bits, read only: function 2.
    DiscreteInput,
    /// 16-bit words, read only: function 4.
    InputRegister,
    /// 16-bit words, read and write: function 3.
    HoldingRegister,
}

impl RegisterTable {
    /// The function code that reads it.
    #[must_use]
    pub const fn read_function(self) -> u8 {
        match self {
            Self::Coil => 0x01,
            Self::DiscreteInput => 0x02,
            Self::HoldingRegister => 0x03,
            Self::InputRegister => 0x04,
        }
    }

    /// Whether an address names one bit rather than 16.
    #[must_use]
    pub const fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::DiscreteInput)
    }
}

impl fmt::Display for RegisterTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Coil => "coil",
            Self::DiscreteInput => "discrete input",
            Self::InputRegister => "input register",
            Self::HoldingRegister => "holding register",
        })
    }
}

/// How the bits of one value are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// A coil or discrete input; of a register: whether any bit is set.
    Bool,
    /// A field of bits in one register, as an unsigned number.
    Bits {
        /// 0 is the least significant bit.
        first_bit: u8,
        /// 1 to 16; `first_bit + count` is at most 16.
        count: u8,
    },
    /// Two's complement, 1 register.
    I16,
    /// Unsigned, 1 register.
    U16,
    /// Two's complement, 2 registers.
    I32,
    /// Unsigned, 2 registers.
    U32,
    /// Two's complement, 4 registers.
    I64,
    /// Unsigned, 4 registers.
    U64,
    /// IEEE 754 binary32, 2 registers.
    F32,
    /// IEEE 754 binary64, 4 registers.
    F64,
    /// Four decimal digits, one in each 4 bits; 1 register.
    Bcd16,
    /// Eight decimal digits; 2 registers.
    Bcd32,
    /// Sixteen decimal digits; 4 registers.
    Bcd64,
    /// Characters, two to a register, padded with NUL or spaces.
    Text {
        /// 1 to 125.
        registers: u8,
    },
}

impl ValueType {
    /// Number of addresses it covers: registers, or 1 bit in a table of bits.
    #[must_use]
    pub const fn registers(self) -> u16 {
        match self {
            Self::Bool | Self::Bits { .. } | Self::I16 | Self::U16 | Self::Bcd16 => 1,
            Self::I32 | Self::U32 | Self::F32 | Self::Bcd32 => 2,
            Self::I64 | Self::U64 | Self::F64 | Self::Bcd64 => 4,
            Self::Text { registers } => registers as u16,
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bits { first_bit, count } => write!(f, "bits {first_bit}+{count}"),
            Self::Text { registers } => write!(f, "text of {registers} registers"),
            plain => f.write_str(plain.keyword()),
        }
    }
}

impl ValueType {
    /// The word that names the type in a register map.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Bits { .. } => "bits",
            Self::I16 => "i16",
            Self::U16 => "u16",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::I64 => "i64",
            Self::U64 => "u64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bcd16 => "bcd16",
            Self::Bcd32 => "bcd32",
            Self::Bcd64 => "bcd64",
            Self::Text { .. } => "text",
        }
    }
}

/// In which order a value's bytes arrive, A being the most significant byte of a 32-bit value. 64-bit values
/// follow the same two questions: are words swapped end for end, are the bytes of each word swapped.
/// A 16-bit value knows only the second (`BADC` and `DCBA` swap its bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ByteOrder {
    /// Big endian throughout, as the specification has it for one register.
    #[default]
    ABCD,
    /// Least significant word first, bytes of a word big endian.
    CDAB,
    /// Most significant word first, bytes of a word swapped.
    BADC,
    /// Little endian throughout.
    DCBA,
}

impl ByteOrder {
    /// Whether the least significant word comes first.
    #[must_use]
    pub const fn words_swapped(self) -> bool {
        matches!(self, Self::CDAB | Self::DCBA)
    }

    /// Whether the least significant byte of each word comes first.
    #[must_use]
    pub const fn bytes_swapped(self) -> bool {
        matches!(self, Self::BADC | Self::DCBA)
    }
}

/// Where a value stands in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Location {
    /// Zero-based protocol address, as it goes over the wire.
    Absolute(u16),
    /// Relative to a model that the driver finds by walking the chain (SunSpec Device Information Model
    /// Specification V1.1, section 5).
    SunSpec {
        /// Model id, such as 103 for a three-phase inverter.
        model: u16,
        /// Registers from the model's own id register, which has offset 0; its length has 1, its first point 2.
        offset: u16,
    },
}

impl Location {
    /// The place `registers` further on in the same table or model; `None` past its end.
    #[must_use]
    pub const fn plus(self, registers: u16) -> Option<Self> {
        match self {
            Self::Absolute(address) => match address.checked_add(registers) {
                Some(address) => Some(Self::Absolute(address)),
                None => None,
            },
            Self::SunSpec { model, offset } => match offset.checked_add(registers) {
                Some(offset) => Some(Self::SunSpec { model, offset }),
                None => None,
            },
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absolute(address) => write!(f, "{address} (0x{address:04X})"),
            Self::SunSpec { model, offset } => write!(f, "offset {offset} of SunSpec model {model}"),
        }
    }
}

/// A raw value by which a device says that it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sentinel {
    /// This bit pattern, as an unsigned number of the type's width, after the byte order is undone:
    /// `0x8000` of an i16, `0xFFFF_FFFF` of a u32, `0x7FC0_0000` of an f32.
    Raw(u64),
    /// Any NaN of an f32 or f64.
    Nan,
}

/// One channel: where it stands and what it means.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelSpec {
    /// Its name within the device.
    pub id: ChannelId,
    /// In which table.
    pub table: RegisterTable,
    /// Where in the table.
    pub location: Location,
    /// How its bits are to be read.
    pub value_type: ValueType,
    /// In which order its bytes arrive.
    pub order: ByteOrder,
    /// From raw number to engineering unit.
    pub scale: Scale,
    /// Where a power of ten stands by which the raw number is multiplied first (an i16; SunSpec's `sunssf`).
    /// In the same table; for SunSpec in the same model.
    pub scale_from: Option<Location>,
    /// Unit symbol: `V`, `kWh`, `m/s`; empty for a pure number or a text.
    pub unit: Box<str>,
    /// What is measured: `voltage`, `active_energy_import`.
    pub quantity: Box<str>,
    /// How the number comes about.
    pub aggregation: Aggregation,
    /// Which end of its period a timestamp names.
    pub label: PeriodLabel,
    /// Raw values that mean "not available".
    pub sentinels: Vec<Sentinel>,
    /// Least and greatest value that can be true, in engineering units, both included.
    pub valid: Option<(f64, f64)>,
    /// Free attributes (height, orientation, register of a document).
    pub attributes: BTreeMap<String, String>,
}

impl ChannelSpec {
    /// Number of addresses it covers: registers, or 1 bit in a table of bits.
    #[must_use]
    pub const fn registers(&self) -> u16 {
        self.value_type.registers()
    }

    /// What the catalog says of it.
    #[must_use]
    pub fn to_channel(&self) -> Channel {
        Channel {
            id: self.id.clone(),
            unit: self.unit.clone(),
            quantity: self.quantity.clone(),
            aggregation: self.aggregation,
            label: self.label,
            attributes: self.attributes.clone(),
        }
    }
}
