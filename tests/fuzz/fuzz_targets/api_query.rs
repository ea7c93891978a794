//! Fuzz target `api_query`: any text as the query of an API request. The function says what must hold.

#![no_main]

use gapless_fuzz::hostile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hostile::api_query(bytes));
