//! What is remembered of how devices' freshness changed: as it is now, and the last [`KEPT_MAX`] changes with their numbers,
//! so that who was away for a moment is told what it missed, or that it cannot be told. Freshness changes by the clock, so
//! no table has it.
//!
//! Pure. Contract: [`Transitions::new`] with a number of its own for each life, then [`see`](Transitions::see) the whole
//! fleet again and again; [`since`](Transitions::since) a mark at any time.

use std::collections::{BTreeMap, VecDeque};

use gapless_common::time::Timestamp;

use crate::api::FreshnessState;

/// Changes that are kept: a fleet of a thousand devices that goes stale as one and comes back, twice.
const KEPT_MAX: usize = 4_096;

/// Site and device.
pub(super) type Name = (String, String);

/// The number of a change within one life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Which life.
    pub(super) life: u64,
    /// The change's number in it; 0 is before the first.
    pub(super) number: u64,
}

/// How a device stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Standing {
    pub(super) state: FreshnessState,
    /// The time of its latest reading.
    pub(super) last_reading_at: Option<Timestamp>,
    /// Staleness ÷ allowed staleness.
    pub(super) score: Option<f64>,
}

/// A device stands otherwise than before.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Transition {
    pub(super) number: u64,
    pub(super) name: Name,
    /// `None` for one that was not known before.
    pub(super) was: Option<FreshnessState>,
    pub(super) now: Standing,
    /// When it was seen.
    pub(super) at: Timestamp,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Transitions {
    life: u64,
    /// Number of the last change.
    last: u64,
    kept: VecDeque<Transition>,
    states: BTreeMap<Name, Standing>,
}

impl Transitions {
    pub(super) const fn new(life: u64) -> Self {
        Self { life, last: 0, kept: VecDeque::new(), states: BTreeMap::new() }
    }

    /// The fleet as it is at `at`. The first look at it is no change. Returns whether anything has changed.
    pub(super) fn see(&mut self, fleet: impl Iterator<Item = (Name, Standing)>, at: Timestamp) -> bool {
        let (before, is_first) = (self.last, self.states.is_empty());
        for (name, now) in fleet {
            let was = self.states.insert(name.clone(), now).map(|standing| standing.state);
            if is_first || was == Some(now.state) {
                continue;
            }
            self.last += 1;
            self.kept.push_back(Transition { number: self.last, name, was, now, at });
            if self.kept.len() > KEPT_MAX {
                self.kept.pop_front();
            }
        }
        self.last != before
    }

    /// The last change.
    pub(super) const fn mark(&self) -> Mark {
        Mark { life: self.life, number: self.last }
    }

    /// What changed after a mark; `None` where that is not remembered (any more).
    pub(super) fn since(&self, mark: Mark) -> Option<Vec<Transition>> {
        let first_kept = self.last + 1 - u64::try_from(self.kept.len()).unwrap_or_default();
        let is_known = mark.life == self.life && mark.number <= self.last && mark.number + 1 >= first_kept;
        is_known.then(|| self.kept.iter().filter(|one| one.number > mark.number).cloned().collect())
    }

    /// How everything stands.
    pub(super) fn states(&self) -> impl Iterator<Item = (&Name, &Standing)> {
        self.states.iter()
    }
}

#[cfg(test)]
mod tests {
    use FreshnessState::{Ageing, Fresh, Stale};

    use super::*;

    fn fleet(states: &[(&str, FreshnessState)]) -> Vec<(Name, Standing)> {
        let standing = |state| Standing { state, last_reading_at: None, score: None };
        states
            .iter()
            .map(|(name, state)| (("farm".to_owned(), (*name).to_owned()), standing(*state)))
            .collect()
    }

    #[test]
    fn changes_are_numbered_and_what_is_not_remembered_is_said() {
        let mut seen = Transitions::new(7);
        assert!(!seen.see(fleet(&[("a", Fresh), ("b", Fresh)]).into_iter(), Timestamp(0)));
        let begin = seen.mark();
        assert_eq!((begin, seen.since(begin)), (Mark { life: 7, number: 0 }, Some(vec![])));
        assert!(!seen.see(fleet(&[("a", Fresh), ("b", Fresh)]).into_iter(), Timestamp(1)));
        assert!(seen.see(fleet(&[("a", Ageing), ("b", Fresh), ("c", Stale)]).into_iter(), Timestamp(2)));
        let told = seen.since(begin).unwrap();
        let short: Vec<_> = told.iter().map(|t| (t.number, t.name.1.as_str(), t.was, t.now.state)).collect();
        assert_eq!(short, [(1, "a", Some(Fresh), Ageing), (2, "c", None, Stale)]);
        assert_eq!(seen.since(Mark { life: 7, number: 1 }).map(|told| told.len()), Some(1));
        assert_eq!(seen.since(Mark { life: 6, number: 1 }), None, "of another life");
        assert_eq!(seen.since(Mark { life: 7, number: 3 }), None, "of the future");
        for n in 0..i64::try_from(KEPT_MAX).unwrap() {
            let state = if n % 2 == 0 { Fresh } else { Ageing };
            seen.see(fleet(&[("a", state)]).into_iter(), Timestamp(n));
        }
        assert_eq!(seen.since(Mark { life: 7, number: 1 }), None, "too long ago");
        assert_eq!(seen.since(Mark { life: 7, number: 2 }).map(|told| told.len()), Some(KEPT_MAX));
        assert_eq!(seen.states().count(), 3);
    }
}
