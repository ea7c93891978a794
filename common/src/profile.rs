//! What stands where in a device: the schema of register maps and of one channel in them.
//!
//! Shared by the agent (which reads registers) and the simulators (which serve them). This module says where a
//! value stands and what it means; it neither frames requests nor decodes answers.

mod address;
mod channel;
mod load;
mod read;
mod scale;
mod set;
mod spec;

pub use channel::{AGGREGATIONS, ORDERS, TABLES, read_aggregation, read_channel, read_label, read_valid};
pub use load::{
    BEGIN_OF_2000, Clock, Flag, Held, LoadProfile, Meaning, Names, Numbering, Register, StampEncoding,
    TimeStamp, Way,
};
pub use read::{ProfileError, read_address_base};
pub use scale::Scale;
pub use set::{ProfileSet, all};
pub use spec::{ByteOrder, ChannelSpec, Location, RegisterTable, Sentinel, ValueType};

/// How the addresses of a register list are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressBase {
    /// As on the wire: the first register is 0.
    #[default]
    Zero,
    /// Register numbers: the first register is 1, on the wire 0 (Modbus Application Protocol V1.1b3, section 4.4).
    One,
    /// The data model's reference numbers: `4xxxx` holding registers, `3xxxx` input registers, `1xxxx` discrete
    /// inputs, `0xxxx` coils, in five or six digits; `40001` is the holding register 0 on the wire.
    Modicon,
}

/// What a profile sets for all its channels, and for the device where the configuration does not.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// Table of channels that name none.
    pub table: RegisterTable,
    /// Byte order of channels that name none.
    pub order: ByteOrder,
    /// How the addresses of this map are written.
    pub address_base: AddressBase,
    /// Most registers that one request may ask for; 125 by the specification.
    pub max_registers: u16,
    /// Most unneeded registers that a request may read over to reach the next needed one.
    pub max_hole: u16,
    /// Time an answer may take to begin, where the device needs more than the bus's own.
    pub timeout_ms: Option<u32>,
    /// Pause that the device needs between its answer and the next request.
    pub turnaround_ms: Option<u32>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            table: RegisterTable::HoldingRegister,
            order: ByteOrder::ABCD,
            address_base: AddressBase::Zero,
            max_registers: REGISTERS_MAX,
            max_hole: 0,
            timeout_ms: None,
            turnaround_ms: None,
        }
    }
}

/// Most registers of one read request (Modbus Application Protocol V1.1b3, sections 6.3 and 6.4).
pub const REGISTERS_MAX: u16 = 125;

/// Most coils or discrete inputs of one read request (sections 6.1 and 6.2).
pub const BITS_MAX: u16 = 2000;

/// Greatest record number of a file, of function 20 (section 6.14).
pub const FILE_RECORD_MAX: u16 = 0x270F;

/// Most bytes of file records in one answer of function 20 (section 6.14).
pub const FILE_DATA_MAX: usize = 0xF5;

/// Where the marker `SunS` may stand: in the order in which a reader looks for it
/// (SunSpec Device Information Model Specification V1.1, section 5.2.1).
pub const SUNSPEC_BASES: [u16; 3] = [40000, 50000, 0];

/// A device that describes itself: a chain of models behind the marker `SunS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SunSpec {
    /// Zero-based protocol addresses at which to look for the marker, in this order.
    pub bases: Vec<u16>,
}

/// The register map of one kind of device.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Its name in configurations: `eastron-sdm630`.
    pub id: Box<str>,
    /// Who makes the device.
    pub make: Box<str>,
    /// Which device.
    pub model: Box<str>,
    /// What it is: `meter`, `inverter`, `logger`, `weather`.
    pub kind: Box<str>,
    /// The document that the facts come from: title, version, section.
    pub source: Box<str>,
    /// What holds for all channels.
    pub defaults: Defaults,
    /// Present where channels are found by model, not by address.
    pub sunspec: Option<SunSpec>,
    /// In the order of the file.
    pub channels: Vec<ChannelSpec>,
    /// The interval records that it keeps, where it does.
    pub load: Option<LoadProfile>,
}
