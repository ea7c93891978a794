//! What agent, collector and simulators share: ids, time, readings, quality, catalog, messages, wire format.
//!
//! No I/O: nothing here opens a file or a socket, reads a clock or draws a random number.

pub mod catalog;
pub mod cost;
pub mod document;
pub mod field;
pub mod files;
pub mod id;
pub mod message;
pub mod planted;
pub mod profile;
pub mod quality;
pub mod ranges;
pub mod reading;
pub mod text;
pub mod time;
pub mod topic;
pub mod wire;
pub mod zone;
