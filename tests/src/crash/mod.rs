//! Crash points: the outbox and the collector's commit, cut at every write and sync of a workload, opened again, and
//! compared with a twin in memory.
//!
//! `workload` does a thousand operations, `twin` knows what is owed after each; `journal` cuts the journal over a disk
//! in memory, `damage` flips and truncates a small one. sled and SQLite have no seam for such a disk: `trace` records
//! their system calls with strace, `image` keeps what a device and a cache have after each of them, and `recorded`
//! rebuilds the directory at each cut.
//!
//! What is cut and what each cut keeps follows from one seed. It does not simulate reordering across a sync, a device
//! that lies about syncs, nor sectors torn within.

pub mod collector;
pub mod damage;
mod image;
pub mod journal;
pub mod outbox;
pub mod random;
pub mod recorded;
mod trace;
pub mod twin;
pub mod workload;

use std::collections::BTreeMap;
use std::fmt;

use random::Random;

/// What is left of writes that no sync had forced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Model {
    /// Nothing.
    Nothing,
    /// A prefix of all of them, to the byte.
    Prefix,
    /// Any sectors of 512 bytes of any of them.
    Sectors,
    /// All: the process was killed, the machine was not.
    Killed,
}

/// All of them.
pub const MODELS: [Model; 4] = [Model::Nothing, Model::Prefix, Model::Sectors, Model::Killed];

/// How many of the cuts are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Every one, under every model.
    All,
    /// About so many images in all, chosen by the seed.
    Sample(u64),
    /// Those of one cut: to look at a finding.
    Only(u64),
}

/// What was cut and what came of it.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Operations of the workload.
    pub operations: u64,
    /// Writes, syncs and changes of names that it made: the places to cut.
    pub cut_points: u64,
    /// Images opened again.
    pub images: BTreeMap<Model, u64>,
    /// Figures of what was kept and lost, by their names.
    pub counts: BTreeMap<&'static str, u64>,
    /// Where something was not as it should be.
    pub findings: Vec<String>,
}

impl Tally {
    /// Images opened again.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.images.values().sum()
    }

    fn add(&mut self, other: &Self) {
        for (model, n) in &other.images {
            *self.images.entry(*model).or_default() += n;
        }
        for (what, n) in &other.counts {
            *self.counts.entry(what).or_default() += n;
        }
        self.findings.extend_from_slice(&other.findings);
    }

    fn count(&mut self, what: &'static str, n: u64) {
        *self.counts.entry(what).or_default() += n;
    }

    /// Takes over the end of one image's check.
    fn end(&mut self, context: &str, result: std::thread::Result<anyhow::Result<()>>) {
        match result {
            Ok(Ok(())) => {}
            Ok(Err(e)) => self.findings.push(format!("{context}: {e:#}")),
            Err(_) => self.findings.push(format!("{context}: it panicked")),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:>8} operations", self.operations)?;
        writeln!(f, "  {:>8} cut points", self.cut_points)?;
        write!(f, "  {:>8} images opened again:", self.opened())?;
        for (model, n) in &self.images {
            write!(f, " {n} {model:?}")?;
        }
        writeln!(f)?;
        for (what, n) in &self.counts {
            writeln!(f, "  {n:>8} {what}")?;
        }
        writeln!(f, "  {:>8} findings", self.findings.len())?;
        self.findings.iter().take(20).try_for_each(|finding| writeln!(f, "           {finding}"))
    }
}

/// Chooses cuts: all, or each with the chance that makes about as many as wanted of `possible` ones.
struct Chooser {
    random: Random,
    extent: Extent,
    possible: u64,
}

impl Chooser {
    const fn new(seed: u64, extent: Extent, possible: u64) -> Self {
        Self { random: Random::of(seed, 77), extent, possible }
    }

    fn takes(&mut self, cut: u64) -> bool {
        match self.extent {
            Extent::All => true,
            Extent::Only(one) => cut == one,
            Extent::Sample(wanted) => self.random.below(self.possible) < wanted,
        }
    }
}
