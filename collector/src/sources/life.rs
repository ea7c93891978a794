//! Where a device of a source stands.

use std::collections::BTreeSet;

use gapless_common::catalog::Device;
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;

use super::delta::Seen;
use super::fetch::Fetch;
use super::list::Entry;
use super::voice::{Begin, Voice};

/// Where a device stands.
#[derive(Debug)]
pub(super) enum Life {
    /// Not asked yet in this process; not before `again`.
    New { again: Timestamp, failures: u32 },
    /// It is polled.
    Known(Box<Known>),
    /// Its source has withdrawn its consent.
    Withdrawn(Box<Voice>),
    /// Its source lists it no more.
    Removed(Box<Voice>),
}

/// A device that is polled.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) voice: Voice,
    /// What begins here is not known yet.
    pub(super) next: Timestamp,
    /// What the source's probe said when all before it had been read.
    pub(super) revision: Option<String>,
    /// The source cannot reach it, and is not asked before.
    pub(super) away_until: Option<Timestamp>,
    /// What begins here was not read while it was away.
    pub(super) unread: Option<Timestamp>,
    /// A command for history that was broken off: its number, where it goes on, and whether anything came.
    pub(super) broken_off: Option<(u64, Timestamp, bool)>,
    /// Commands that were answered, as long as the database lists them as open.
    pub(super) answered: BTreeSet<u64>,
    /// Which answer about changes it was read by.
    pub(super) seen: Seen,
}

impl Known {
    /// Of a device of which `next` is the first instant that is not known yet; what begins at `unread` was not read.
    pub(super) fn new(voice: Voice, next: Timestamp, unread: Option<Timestamp>) -> Self {
        let (revision, away_until, broken_off) = (None, None, None);
        let (answered, seen) = (BTreeSet::new(), Seen::default());
        Self { voice, next, revision, away_until, unread, broken_off, answered, seen }
    }
}

impl Life {
    /// Of a device that is to be asked at once.
    pub(super) const NEW: Self = Self::New { again: Timestamp(0), failures: 0 };

    pub(super) fn voice(&self) -> Option<&Voice> {
        match self {
            Self::New { .. } => None,
            Self::Known(known) => Some(&known.voice),
            Self::Withdrawn(voice) | Self::Removed(voice) => Some(voice),
        }
    }
}

/// A device of a source.
pub(super) struct Polled {
    /// As it stands in the catalog of its agent.
    pub(super) device: Device,
    pub(super) path: AgentPath,
    pub(super) begin: Begin,
    pub(super) life: Life,
    /// As its source lists it, where it does.
    pub(super) listed: Option<Entry>,
    /// What the source calls it when it says what changed.
    pub(super) key: String,
    /// Where the value of each of its channels stands in a row that comes by itself.
    pub(super) values: Vec<String>,
    pub(super) fetch: Box<dyn Fetch>,
}

impl Polled {
    /// A device that is to be asked at once; `begin` is who it is in this process.
    pub(super) fn new(path: AgentPath, device: Device, begin: Begin, fetch: Box<dyn Fetch>) -> Self {
        let key = device.id.as_str().to_owned();
        Self { device, path, begin, life: Life::NEW, listed: None, key, values: Vec::new(), fetch }
    }
}
