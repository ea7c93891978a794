//! The collector: stores each reading once, knows which are missing and why, and serves them.

pub mod api;
pub mod clock;
pub mod ingest;
pub mod ledger;
pub mod store;
pub mod web;
