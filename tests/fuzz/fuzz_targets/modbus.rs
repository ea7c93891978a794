//! Fuzz target `modbus`: any bytes as a device's answer and as its registers. The function says what must hold.

#![no_main]

use gapless_fuzz::hostile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hostile::modbus(bytes));
