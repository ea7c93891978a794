//! The entry functions of the tests crate, built for fuzzing: without the crate itself, which would bring the simulators
//! and every tool of the tests. Holds nothing of its own.

#[path = "../../src/hostile/mod.rs"]
pub mod hostile;
