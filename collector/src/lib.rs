//! The collector: stores each reading once, knows which are missing and why, and serves them.

pub mod api;
pub mod store;
pub mod web;
