//! Modbus devices: over TCP (MBAP or RTU framing) and over a pty whose bytes are paced at the baud rate.
//!
//! Order of things: [`truth`](crate::truth) says what is measured, `encode` and `image` put it into registers, `memory`
//! keeps a load profile of it,
//! `device` answers a request, `fault` spoils the answer, `line` (RTU, paced) and `mbap` frame it and say when
//! each byte is due, `serve` moves the bytes, `pty` and `tcp` own the ends.
//!
//! # Not simulated
//! - An adapter: USB frames, latency timers, FIFO triggers, driver buffers. A pty hands bytes over at once; that a
//!   master keeps time against this line proves nothing of an adapter's latency.
//! - Parity, framing and overrun errors. A pty carries no parity: characters of 11 bits are paced as such, and
//!   what the master configures on the slave side is neither seen nor checked, the baud rate included.
//! - Electrical faults: reflections, missing termination, bias, echo of half-duplex adapters, two talkers at once.
//!   Bytes that arrive while an answer goes out are counted as a collision, not garbled.
//! - The kernel's own queue: bytes that nobody has read stay in the pty (4 KiB) until somebody opens and flushes it;
//!   what does not fit is dropped and counted.
//! - The inter-character time-out t1.5 inside a request (MODBUS over Serial Line V1.02, section 2.5.1.1): only a
//!   pause of t3.5 ends a request that is not complete.

pub mod adu;
pub mod bench;
pub mod command;
pub mod crc;
pub mod device;
pub mod encode;
pub mod fault;
pub mod image;
pub mod line;
pub mod log;
pub mod mbap;
pub mod memory;
pub mod pdu;
pub mod profiles;
pub mod pty;
pub mod serve;
pub mod stats;
pub mod tcp;
pub mod units;

pub use device::{Device, DeviceKind};
pub use fault::{Fault, FaultKind, Faults};
pub use line::{LineStats, Timing};
pub use log::{Answer, AnswerLog};
pub use pty::{LineConfig, PtyLine, StartError};
pub use tcp::{Framing, TcpConfig, TcpServer};
pub use units::Units;
