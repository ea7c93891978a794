//! Entry functions for hostile input: each takes any bytes, panics where a promise is broken, and returns otherwise.
//!
//! The fuzz targets call them on a nightly toolchain (`tests/fuzz`, which takes this folder in by its path so that it
//! need not build this crate and its tools), and the test `corpora` feeds them the corpora on the stable one. What
//! the first bytes choose is said at each function. They do not look at memory or time: the fuzzer does.

mod api;
mod config;
mod journal;
mod modbus;
mod wire;

pub use api::api_query;
pub use config::{config, profile};
pub use journal::journal_recovery;
pub use modbus::modbus;
pub use wire::wire_decode;

/// An entry function.
pub type Target = fn(&[u8]);

/// All of them by the names of their corpora.
pub const TARGETS: [(&str, Target); 6] = [
    ("api_query", api_query),
    ("config", config),
    ("journal_recovery", journal_recovery),
    ("modbus", modbus),
    ("profile", profile),
    ("wire_decode", wire_decode),
];

/// Takes choices off the front of the input; where it has ended they are 0.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.bytes(N);
        let mut array = [0; N];
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.u8()) % from.len()]
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
