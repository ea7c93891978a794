//! Deterministic simulation: the production code in virtual time, on one thread, from one seed.

pub mod line;
