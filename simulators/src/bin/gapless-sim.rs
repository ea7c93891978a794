//! gapless-sim.
fn main() {}
