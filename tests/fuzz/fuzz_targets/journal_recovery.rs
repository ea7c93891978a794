//! Fuzz target `journal_recovery`: damaged and invented files of an outbox. The function says what must hold.

#![no_main]

use gapless_fuzz::hostile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hostile::journal_recovery(bytes));
