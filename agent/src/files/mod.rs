//! Files that loggers write, on the gateway or a mounted share: TOA5 (Campbell Scientific) and generic CSV, tailed as
//! they grow. All files that a pattern finds are one device, a column is a channel, and each row goes out with the
//! file's own time; what was written while the agent was away is there when it is back.
//!
//! Sans-IO: `gapless_common::files` makes rows of bytes, [`set`] is all files of one device, and [`core`] all devices of a
//! folder. The thread around them is `bus/files`.
//!
//! # Where reading begins
//! Nothing is written down about places in files: they are derived. At each start the rows of the last `first` are read
//! once more, and what is missing before that is asked for by the collector, which knows what it has; a row that comes
//! twice is counted and ignored there. So a state file can neither be lost nor be wrong.

pub mod core;
mod file;
mod history;
pub mod set;

pub use gapless_common::files::{form, glob, stamp, tail, text};
