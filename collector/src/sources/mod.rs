//! Sources that the collector polls itself: remote APIs over HTTP, each described in a file.
//!
//! To the rest of the collector a device of such a source is one of an agent that lives in this process: its rows, what it
//! has none of, and how far it is complete go the way of every agent's records, so that ledger, gaps and jobs hold for it
//! unchanged. A poll out of turn is its rhythm, and its history is what gaps are filled from.
//!
//! A device may also be computed from two others: `derive` says how, `derived` is the thread.
//!
//! `describe`, `answer`, `rows`, `derive` and `voice` are pure; `call` is one call, `shell` the thread around them.

pub mod answer;
mod call;
pub(crate) mod derive;
mod derived;
pub mod describe;
pub mod rows;
pub mod shell;
pub(crate) mod voice;
