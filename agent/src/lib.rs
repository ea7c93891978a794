//! Polls the devices of a site, keeps every reading in a durable outbox and delivers it.

pub mod bus;
pub mod check;
pub mod clock;
pub mod config;
pub mod event;
pub mod modbus;
pub mod outbox;
pub mod schedule;
pub mod sys;
pub mod uplink;
