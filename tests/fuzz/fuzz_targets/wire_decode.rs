//! Fuzz target `wire_decode`: any bytes as message, record and catalog. The function says what must hold.

#![no_main]

use gapless_fuzz::hostile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hostile::wire_decode(bytes));
