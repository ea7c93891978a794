//! Polls the devices of a site, keeps every reading in a durable outbox and delivers it.

pub mod account;
pub mod bus;
pub mod campbell;
pub mod check;
pub mod clock;
pub mod config;
pub mod depot;
pub mod engine;
pub mod event;
pub mod files;
pub mod frames;
pub mod health;
pub mod modbus;
pub mod open;
pub mod outbox;
mod polls;
pub mod records;
pub mod run;
pub mod schedule;
pub mod service;
pub mod status;
pub mod sys;
pub mod text;
pub mod uplink;
