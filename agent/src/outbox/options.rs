//! How large an outbox may grow and what it gives up when it is full: the sizes that follow from the budget.
//!
//! Parses nothing: the agent's configuration does.

/// Least budget that an outbox works with.
pub const BUDGET_MIN_BYTES: u64 = 1 << 20;
/// Least length of a segment.
const SEGMENT_MIN_BYTES: u64 = 64 << 10;
/// Greatest length of a segment: one is read into memory as a whole at opening, one is dropped as a whole when
/// the budget is full, and one is filled with zeros between two appends while the store grows.
const SEGMENT_MAX_BYTES: u64 = 1 << 20;
/// Parts of the budget that make one segment, within the two limits above.
const SEGMENTS_PER_BUDGET: u64 = 16;
/// Parts of a segment that are kept for essential records where the policy refuses what is new.
const RESERVE_SHARE: u64 = 4;
/// Parts of the budget that the quarantine may take at most.
const QUARANTINE_SHARE: u64 = 32;
/// Greatest length of the quarantine.
const QUARANTINE_MAX_BYTES: u64 = 1 << 20;

/// What to give up when the budget is full and nothing acknowledged is left to recycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DropPolicy {
    /// The oldest records go.
    #[default]
    OldestFirst,
    /// New records are refused; their positions are issued and named as lost. Essential ones go to a reserve; each time
    /// that is used up the oldest segment is given up for a new one.
    NewestFirst,
}

/// Which implementation keeps the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum StoreKind {
    /// The segmented log.
    #[default]
    Journal,
    /// One sled database per segment.
    #[cfg(feature = "sled")]
    Sled,
}

/// How an outbox is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Bytes of disk for all of it: segments, the spare one, losses, quarantine, catalogs. At least
    /// [`BUDGET_MIN_BYTES`]; a smaller figure counts as that.
    pub budget_bytes: u64,
    /// What to give up when it is full.
    pub policy: DropPolicy,
    /// Which implementation.
    pub store: StoreKind,
}

impl Default for Options {
    fn default() -> Self {
        Self { budget_bytes: 64 << 20, policy: DropPolicy::default(), store: StoreKind::default() }
    }
}

impl Options {
    /// The budget in force.
    #[must_use]
    pub fn budget(&self) -> u64 {
        self.budget_bytes.max(BUDGET_MIN_BYTES)
    }

    /// Length of a segment in bytes: a whole number of 4 KiB pages.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        (self.budget() / SEGMENTS_PER_BUDGET).clamp(SEGMENT_MIN_BYTES, SEGMENT_MAX_BYTES) & !4095
    }

    /// Bytes at the end of the last segment that only essential records may take.
    #[must_use]
    pub fn reserve_bytes(&self) -> u64 {
        match self.policy {
            DropPolicy::OldestFirst => 0,
            DropPolicy::NewestFirst => self.segment_bytes() / RESERVE_SHARE,
        }
    }

    /// Most bytes of the quarantine.
    #[must_use]
    pub fn quarantine_bytes(&self) -> u64 {
        (self.budget() / QUARANTINE_SHARE).min(QUARANTINE_MAX_BYTES)
    }
}
