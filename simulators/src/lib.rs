//! Stand-ins for the hardware. Imports only `gapless-common`, so that a driver's bug can never be inherited here:
//! framing, checksums and register encoding are written anew.

pub mod campbell;
pub mod cli;
pub mod clock;
pub mod control;
pub mod files;
pub mod modbus;
pub mod remote;
pub mod truth;
