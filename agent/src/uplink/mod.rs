//! Delivery to the collector: what to send when (pure, [`core`]), and MQTT as a pipe that loses, repeats and
//! reorders ([`mqtt`]).
//!
//! Truth is the collector's application acknowledgement alone; the QoS of MQTT is used for flow. After any
//! error the client is thrown away, and what is unacknowledged is sent again: no more. This module reads no
//! records and packs no frames; the agent's loop does, when the core offers it a range.

mod budget;
mod commands;
pub mod core;
mod delivery;
mod event;
mod link;
pub mod mqtt;
