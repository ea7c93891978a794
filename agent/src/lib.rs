//! Polls the devices of a site, keeps every reading in a durable outbox and delivers it.

pub mod config;
pub mod modbus;
