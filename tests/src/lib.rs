//! What the tests of the whole share: real processes, real brokers, conditions with deadlines.
//!
//! Holds no test itself. Everything that is started here ends when its guard is dropped, by its own id.

pub mod api;
pub mod audit;
pub mod broker;
pub mod browser;
pub mod crash;
pub mod deed;
pub mod explain;
pub mod havoc;
pub mod home;
pub mod hostile;
pub mod line;
pub mod load;
pub mod logger_files;
pub mod mischief;
pub mod process;
pub mod proxy;
pub mod settle;
pub mod sim;
pub mod site;
pub mod small_disk;
pub mod told;
pub mod usage;
pub mod wait;
