//! The journal on a disk that crashes, fills up and rots; and the suite that every implementation passes.

use super::super::conformance::{self, Subject};
use super::super::memory_disk::MemoryDisk;
use super::super::{Found, OpenError, Opening, Options, Outbox, RealDisk};
use super::Journal;

struct InMemory(MemoryDisk);

impl Subject for InMemory {
    fn open(&mut self, options: &Options, opening: Opening) -> Result<(Box<dyn Outbox>, Found), OpenError> {
        let (journal, found) = Journal::open(Box::new(self.0.clone()), options, opening)?;
        Ok((Box::new(journal), found))
    }
}

struct OnDisk(tempfile::TempDir);

impl Subject for OnDisk {
    fn open(&mut self, options: &Options, opening: Opening) -> Result<(Box<dyn Outbox>, Found), OpenError> {
        let disk = Box::new(RealDisk::open(self.0.path())?);
        let (journal, found) = Journal::open(disk, options, opening)?;
        Ok((Box::new(journal), found))
    }
}

#[test]
fn keeps_every_promise_in_memory() {
    conformance::check(|| Box::new(InMemory(MemoryDisk::new())));
}

#[test]
fn keeps_every_promise_on_disk() {
    conformance::check(|| Box::new(OnDisk(tempfile::tempdir().unwrap())));
}
