//! The collector: stores each reading once, knows which are missing and why, and serves them.

pub mod alerts;
pub mod api;
pub mod authorities;
pub mod backup;
pub mod clock;
pub mod config;
pub mod freshness;
pub mod gaps;
pub mod housekeeping;
pub mod ingest;
pub mod jobs;
pub mod ledger;
pub mod live;
pub mod obstacle;
pub mod run;
pub mod sole;
pub mod sources;
pub mod store;
pub mod tell;
pub mod tokens;
pub mod web;
