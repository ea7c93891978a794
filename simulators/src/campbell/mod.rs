//! A Campbell Scientific data logger (CR1000X, CR6, CR300 series) as its web server shows it: final-storage tables
//! over HTTP/1.1, `?command=DataQuery` and `?command=BrowseSymbols`, answers in CSIJSON.
//!
//! Order of things: [`truth`](crate::truth) says what is measured, `fields` which fields a program stores, `ring` which
//! records a table has and still holds, `clock` what the logger takes for the time, `logger` answers a query, `fault`
//! spoils the answer, `server` moves the bytes. All but `server` are pure; whatever the clocks say comes in as an
//! argument, and the logger's own clock may run thousands of times as fast as the world's.
//!
//! # Not simulated
//! - Tables without an interval (event tables), the Status and Public tables, arrays that are asked for whole.
//! - HTML, XML and TOA5 answers, HTTPS, HTTP/2, files, `SetValueEx`, `ClockSet` and all that writes.
//! - `since-record` on an operating system of old: whether the record that is named comes along is an option
//!   ([`LoggerConfig::since_record_inclusive`]), because loggers differ in it.
//! - The wording of errors. That they come with status 200 and are no CSIJSON is what counts.
//! - Record numbers beyond 2^32, memory that is shared between tables, a slow processor.

pub mod cli;
pub mod clock;
pub mod command;
pub mod fault;
pub mod fields;
pub mod logger;
pub mod query;
pub mod ring;
pub mod server;

pub use fault::{Fault, FaultKind};
pub use fields::{Cell, Field};
pub use logger::{Answer, Logger, LoggerConfig, TableConfig};
pub use server::LoggerServer;
