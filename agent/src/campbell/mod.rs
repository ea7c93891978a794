//! Campbell Scientific loggers over the HTTP API of their web server (CR1000X, CR6, CR300 series; older ones with the
//! same commands): devices that remember. A table of the logger is a device, a field a channel; each record goes out
//! with the logger's own time, so that a link that was gone for days costs nothing that the logger still holds.
//!
//! Sans-IO, as [`crate::modbus`]: [`query`] writes what is asked, [`csijson`] reads what comes back, [`layout`](crate::records::layout) turns
//! the fields of the program that runs into channels, [`account`](crate::records::account) says which slots are settled, [`hole`] asks again for
//! what is missing, [`table`] does that for one table and [`core`] for all tables of a logger. The thread around them is
//! `bus/logger`.
//!
//! Facts of the API are from *Data Logger Web Server API* and from the CSIJSON format of the LoggerNet manual, appendix
//! B (Campbell Scientific).

pub mod core;
pub mod csijson;
pub mod hole;
pub mod query;
pub mod table;
