//! Fuzz target `profile`: any text as a register map. The function says what must hold.

#![no_main]

use gapless_fuzz::hostile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hostile::profile(bytes));
