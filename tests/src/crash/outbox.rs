//! An outbox on a real file system, recorded: sled, which has no seam for a disk in memory, and the journal, whose real
//! disk is looked at this way.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use gapless_agent::outbox::{self, Opening, Options, StoreKind};
use gapless_common::id::{BootId, Epoch};

use super::recorded::Subject;
use super::twin::Twin;
use super::workload::{self, Plan};

/// The epoch that checks open with: no workload draws it.
const EPOCH_OF_CHECKS: u64 = 1 << 63;

/// The recorded program: does the workload in `directory` and marks each step of it.
///
/// # Errors
/// The workload could not run to its end.
pub fn run(store: StoreKind, directory: &Path, marks: &Path, seed: u64, operations: u64) -> Result<()> {
    let mut marks = File::create(marks)?;
    let budgets = match store {
        StoreKind::Journal => [1 << 20, 3 << 19],
        // A quarter of it is for records.
        StoreKind::Sled => [4 << 20, 4 << 20],
    };
    workload::run(
        Plan { operations, seed, budgets, store },
        &mut |options, opening| outbox::open(directory, options, opening).map(|opened| opened.outbox),
        &mut |event| {
            let mut line = serde_json::to_vec(&event)?;
            line.push(b'\n');
            Ok(marks.write_all(&line)?)
        },
    )
    .map(drop)
}

/// Judges what a cut left of an outbox.
#[derive(Debug, Clone)]
pub struct OutboxSubject {
    store: StoreKind,
    twin: Twin,
}

impl OutboxSubject {
    /// Before the workload.
    #[must_use]
    pub fn new(store: StoreKind) -> Self {
        Self { store, twin: Twin::default() }
    }
}

impl Subject for OutboxSubject {
    fn mark(&mut self, mark: &str) -> Result<()> {
        self.twin.apply(&serde_json::from_str(mark).with_context(|| format!("mark {mark}"))?)
    }

    /// sled makes, renames and removes files without a sync in between.
    fn needs_names_in_order(&self) -> bool {
        self.store == StoreKind::Sled
    }

    fn judge(&self, directory: &Path, _seed: u64) -> Result<Vec<(&'static str, u64)>> {
        let options = Options { store: self.store, ..self.twin.options() };
        let opening = Opening { epoch: Epoch(EPOCH_OF_CHECKS), boot: BootId(8) };
        let mut opened = outbox::open(directory, &options, opening)?;
        let seen = self.twin.check(opened.outbox.as_mut(), &opened.found)?;
        drop(opened);
        let bytes = bytes_below(directory)?;
        ensure!(bytes <= self.twin.bytes_max(), "takes {bytes} bytes of {}", self.twin.bytes_max());
        Ok(seen.figures().to_vec())
    }
}

/// Bytes of all files, as long as they are.
fn bytes_below(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let (entry, meta) = entry.and_then(|entry| entry.metadata().map(|meta| (entry, meta)))?;
        bytes += if meta.is_dir() { bytes_below(&entry.path())? } else { meta.len() };
    }
    Ok(bytes)
}
