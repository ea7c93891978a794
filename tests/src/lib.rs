//! What the tests of the whole share: real processes, real brokers, conditions with deadlines.
//!
//! Holds no test itself. Everything that is started here ends when its guard is dropped, by its own id.

pub mod api;
pub mod audit;
pub mod broker;
pub mod browser;
pub mod hostile;
pub mod line;
pub mod process;
pub mod settle;
pub mod sim;
pub mod site;
pub mod usage;
pub mod wait;
