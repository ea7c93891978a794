//! The collector: stores each reading once, knows which are missing and why, and serves them.

pub mod store;
