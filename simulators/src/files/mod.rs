//! A logger that writes files, as TOA5 or CSV, at a pace: a row whenever its own clock passes a multiple of the interval. Files
//! are rotated and only so many are kept, rows written in two halves, bad lines strewn in, the file written anew, the program
//! changed, and the clock is wrong, drifts or is set, all as configured or told.
//!
//! # Not simulated
//! A share that hangs, encodings but UTF-8 and Latin-1, files that are cut short in place.

pub mod cli;
pub mod logger;
pub mod writer;

pub use logger::{Encoding, FileConfig, Format};
pub use writer::FileLogger;
