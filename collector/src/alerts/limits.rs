//! From where on people are told: limits of all, of a class, of a site, of a device; the nearest word counts.

use std::collections::{BTreeMap, BTreeSet};

use super::Kind;

/// The limits of one device, or of the agents of one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How long data may be older than allowed, in ms.
    pub stale_ms: i64,
    /// How long an agent may be gone, or a device leave its agent without an answer beyond the allowed staleness, in ms.
    pub silent_ms: i64,
    /// The most slots of a gap that nobody is told of.
    pub gap_slots: i64,
    /// From so much of an outbox on that is not delivered yet, in percent.
    pub outbox_percent: i64,
    /// How far a clock may be off, in ms.
    pub clock_ms: i64,
    /// How long nothing may have come since commissioning before people are told, in ms.
    pub warn_ms: i64,
    /// And before a device is not asked any more, in ms.
    pub suspend_ms: i64,
    /// So many polls in a row have a value of a channel outside its range; 0 for never.
    pub implausible_polls: u32,
    /// So many polls in a row have the same value of a channel in [`moves`](Self::moves); 0 for never.
    pub flat_polls: u32,
    /// Channels that are expected to move.
    pub moves: BTreeSet<String>,
    /// What nobody is told.
    pub off: BTreeSet<Kind>,
}

impl Default for Limits {
    /// Nothing moves unless somebody says so, so that nothing is flat.
    fn default() -> Self {
        const MINUTE_MS: i64 = 60_000;
        const DAY_MS: i64 = 86_400_000;
        Self {
            stale_ms: 5 * MINUTE_MS,
            silent_ms: 5 * MINUTE_MS,
            gap_slots: 10,
            outbox_percent: 80,
            clock_ms: MINUTE_MS,
            warn_ms: 2 * DAY_MS,
            suspend_ms: 7 * DAY_MS,
            implausible_polls: 3,
            flat_polls: 20,
            moves: BTreeSet::new(),
            off: BTreeSet::new(),
        }
    }
}

/// What is said of a part of the fleet; `None` leaves it to the next wider word.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said {
    /// As in [`Limits`], and so are all the others.
    pub stale_ms: Option<i64>,
    /// See there.
    pub silent_ms: Option<i64>,
    /// See there.
    pub gap_slots: Option<i64>,
    /// See there.
    pub outbox_percent: Option<i64>,
    /// See there.
    pub clock_ms: Option<i64>,
    /// See there.
    pub warn_ms: Option<i64>,
    /// See there.
    pub suspend_ms: Option<i64>,
    /// See there.
    pub implausible_polls: Option<u32>,
    /// See there.
    pub flat_polls: Option<u32>,
    /// See there.
    pub moves: Option<BTreeSet<String>>,
    /// See there.
    pub off: Option<BTreeSet<Kind>>,
}

impl Said {
    /// These limits, where nothing nearer is said.
    fn over(&self, wider: Limits) -> Limits {
        Limits {
            stale_ms: self.stale_ms.unwrap_or(wider.stale_ms),
            silent_ms: self.silent_ms.unwrap_or(wider.silent_ms),
            gap_slots: self.gap_slots.unwrap_or(wider.gap_slots),
            outbox_percent: self.outbox_percent.unwrap_or(wider.outbox_percent),
            clock_ms: self.clock_ms.unwrap_or(wider.clock_ms),
            warn_ms: self.warn_ms.unwrap_or(wider.warn_ms),
            suspend_ms: self.suspend_ms.unwrap_or(wider.suspend_ms),
            implausible_polls: self.implausible_polls.unwrap_or(wider.implausible_polls),
            flat_polls: self.flat_polls.unwrap_or(wider.flat_polls),
            moves: self.moves.clone().unwrap_or(wider.moves),
            off: self.off.clone().unwrap_or(wider.off),
        }
    }
}

/// All that is said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// Of all devices.
    pub usual: Said,
    /// By the device's attribute `class`.
    pub of_class: BTreeMap<String, Said>,
    /// By site.
    pub of_site: BTreeMap<String, Said>,
    /// By `site/device`.
    pub of_device: BTreeMap<String, Said>,
}

impl Rules {
    /// The limits of a device: as said of it, else of its site, else of its class, else of all.
    #[must_use]
    pub fn of(&self, site: &str, device: &str, class: Option<&str>) -> Limits {
        let mut limits = self.of_all();
        let class = class.and_then(|class| self.of_class.get(class));
        let device =
            (!self.of_device.is_empty()).then(|| self.of_device.get(&format!("{site}/{device}"))).flatten();
        for said in [class, self.of_site.get(site), device].into_iter().flatten() {
            limits = said.over(limits);
        }
        limits
    }

    /// The limits of all, and of the collector itself.
    #[must_use]
    pub fn of_all(&self) -> Limits {
        self.usual.over(Limits::default())
    }

    /// The limits of a site's agents: as said of the site, else of all.
    #[must_use]
    pub fn of_agents(&self, site: &str) -> Limits {
        let limits = self.of_all();
        self.of_site.get(site).map_or(limits.clone(), |said| said.over(limits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_counts_limit_by_limit() {
        let stale = |ms| Said { stale_ms: Some(ms), ..Said::default() };
        let rules = Rules {
            usual: stale(1),
            of_class: [("wind".to_owned(), Said { gap_slots: Some(7), ..stale(2) })].into(),
            of_site: [("farm".to_owned(), Said { clock_ms: Some(9), ..stale(3) })].into(),
            of_device: [("farm/mast".to_owned(), stale(4))].into(),
        };
        let rows = [
            (("farm", "mast", Some("wind")), (4, 7, 9)),
            (("farm", "mast", None), (4, 10, 9)),
            (("farm", "meter", Some("wind")), (3, 7, 9)),
            (("park", "mast", Some("wind")), (2, 7, 60_000)),
            (("park", "mast", Some("sun")), (1, 10, 60_000)),
        ];
        for ((site, device, class), expected) in rows {
            let got = rules.of(site, device, class);
            assert_eq!((got.stale_ms, got.gap_slots, got.clock_ms), expected, "{site}/{device} {class:?}");
        }
        let agents = rules.of_agents("farm");
        assert_eq!((agents.stale_ms, agents.clock_ms, agents.outbox_percent), (3, 9, 80));
    }
}
