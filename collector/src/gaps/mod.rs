//! Gaps close themselves: when a source is asked again for what is missing, and with which windows.
//!
//! Pure: time is given, and nothing here knows rows, agents or messages. What is a gap is the ledger's word; who asks
//! is `ingest`.

pub mod donate;
pub mod life;
pub mod plan;

use std::collections::BTreeMap;

use gapless_common::time::Timestamp;

const DAY_MS: i64 = 86_400_000;

/// How a kind of device is asked for what is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The distance of each attempt from the one before in ms; of the first one from the proof of the gap.
    pub waits_ms: Vec<i64>,
    /// The longest window that one request may hold, in ms.
    pub window_ms: i64,
    /// Which windows are asked for first.
    pub order: plan::Order,
}

impl Default for Policy {
    /// At once, then after 3 days, 2 weeks and 4 weeks; windows of 90 days, the newest first.
    fn default() -> Self {
        Self {
            waits_ms: vec![0, 3 * DAY_MS, 14 * DAY_MS, 28 * DAY_MS],
            window_ms: 90 * DAY_MS,
            order: plan::Order::NewestFirst,
        }
    }
}

impl Policy {
    /// When the attempt after `attempts` others is due; `None` where that were enough.
    #[must_use]
    pub fn next_attempt(&self, attempts: u32, now: Timestamp) -> Option<Timestamp> {
        let wait = usize::try_from(attempts).ok().and_then(|done| self.waits_ms.get(done))?;
        Some(now.plus_ms(*wait))
    }
}

/// The policies of all kinds of devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policies {
    /// Of a device without a class, or of another one.
    pub usual: Policy,
    /// By the device's attribute `class`.
    pub of_class: BTreeMap<String, Policy>,
}

impl Policies {
    /// The policy of a class.
    #[must_use]
    pub fn of(&self, class: Option<&str>) -> &Policy {
        class.and_then(|class| self.of_class.get(class)).unwrap_or(&self.usual)
    }
}
