//! A logger that writes files, as TOA5 or CSV, at a pace: a row whenever its clock passes a multiple of the interval. Files
//! are rotated, rows written in two halves, bad lines strewn in, and the file written anew, all as configured.
//!
//! # Not simulated
//! A clock that is wrong or set, programs that change, a share that hangs, encodings but UTF-8.

pub mod cli;
pub mod writer;

pub use writer::{FileConfig, FileLogger, Format};
