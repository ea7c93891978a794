//! The entry functions of the tests crate, built for fuzzing: without the crate itself, which would bring the collector
//! and its database. Holds nothing of its own.

#[path = "../../src/hostile/mod.rs"]
pub mod hostile;
