//! Waiting on a condition with a deadline, never on a sleep.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How long between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `look` gives a value, or panics with what was waited for and what was last seen.
///
/// # Panics
/// When `within` is over: this is how a test fails.
#[expect(clippy::panic, reason = "a test helper fails its test")]
pub fn until<T, S: Debug>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, S>) -> T {
    let deadline = Instant::now() + within;
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if Instant::now() >= deadline => {
                panic!("waited {within:?} for {what}; last seen: {seen:?}")
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// Looks until `look` is true.
///
/// # Panics
/// When `within` is over.
pub fn until_true(what: &str, within: Duration, mut look: impl FnMut() -> bool) {
    until(what, within, || if look() { Ok(()) } else { Err("not yet") });
}
