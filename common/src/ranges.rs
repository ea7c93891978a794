//! A set of integers kept as disjoint, ordered, inclusive ranges: acknowledged, parked and lost sequence
//! numbers on both sides of the link. Its cost grows with the number of holes, not of members.

use std::collections::BTreeMap;

/// Disjoint, non-adjacent, inclusive ranges of `u64`.
///
/// Call [`insert`](RangeSet::insert) as numbers become known, ask with [`contains`](RangeSet::contains),
/// [`watermark`](RangeSet::watermark) and [`holes`](RangeSet::holes).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeSet {
    /// first → last of each range.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { ranges: BTreeMap::new() }
    }

    /// Adds `first..=last`; joins what it touches. Nothing happens where `first > last`.
    pub fn insert(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let (mut first, mut last) = (first, last);
        if let Some((&f, &l)) = self.ranges.range(..first).next_back()
            && l.saturating_add(1) >= first
        {
            first = f;
            last = last.max(l);
            self.ranges.remove(&f);
        }
        while let Some((&f, &l)) = self.ranges.range(first..=last.saturating_add(1)).next() {
            last = last.max(l);
            self.ranges.remove(&f);
        }
        self.ranges.insert(first, last);
    }

    /// Takes `first..=last` out.
    pub fn remove(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        if let Some((&f, &l)) = self.ranges.range(..first).next_back()
            && l >= first
        {
            self.ranges.insert(f, first - 1);
            if l > last {
                self.ranges.insert(last + 1, l);
            }
        }
        while let Some((&f, &l)) = self.ranges.range(first..=last).next() {
            self.ranges.remove(&f);
            if l > last {
                self.ranges.insert(last + 1, l);
            }
        }
    }

    /// Whether `n` is a member.
    #[must_use]
    pub fn contains(&self, n: u64) -> bool {
        self.ranges.range(..=n).next_back().is_some_and(|(_, &l)| l >= n)
    }

    /// Whether all of `first..=last` is in the set.
    #[must_use]
    pub fn covers(&self, first: u64, last: u64) -> bool {
        self.ranges.range(..=first).next_back().is_some_and(|(_, &l)| l >= last)
    }

    /// The largest `n` such that all of `start..=n` is in the set, or `start - 1` where `start` is not.
    #[must_use]
    pub fn watermark(&self, start: u64) -> u64 {
        match self.ranges.range(..=start).next_back() {
            Some((_, &l)) if l >= start => l,
            _ => start.saturating_sub(1),
        }
    }

    /// What is missing within `first..=last`, in order.
    pub fn holes(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut next = first;
        let inside = self.ranges.range(..=last).filter(move |&(_, &l)| l >= first);
        let ends = inside.map(|(&f, &l)| (f, l)).chain(std::iter::once((last.saturating_add(1), u64::MAX)));
        ends.filter_map(move |(f, l)| {
            let hole = (next < f && next <= last).then(|| (next, f - 1));
            next = next.max(l.saturating_add(1));
            hole
        })
    }

    /// The ranges in order, inclusive.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(&f, &l)| (f, l))
    }

    /// Number of ranges, which is what the set costs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The largest member.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.ranges.last_key_value().map(|(_, &l)| l)
    }
}

impl FromIterator<(u64, u64)> for RangeSet {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(ranges: I) -> Self {
        let mut set = Self::new();
        for (first, last) in ranges {
            set.insert(first, last);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a plain set of numbers.
        #[test]
        fn behaves_as_a_set(steps in prop::collection::vec((any::<bool>(), 1u64..60, 0u64..12), 0..40)) {
            let (mut ours, mut plain) = (RangeSet::new(), BTreeSet::new());
            for (add, first, width) in steps {
                let last = first + width;
                if add {
                    ours.insert(first, last);
                    plain.extend(first..=last);
                } else {
                    ours.remove(first, last);
                    plain.retain(|n| !(first..=last).contains(n));
                }
            }
            for n in 0..90 {
                prop_assert_eq!(ours.contains(n), plain.contains(&n));
            }
            let members: BTreeSet<u64> = ours.iter().flat_map(|(f, l)| f..=l).collect();
            prop_assert_eq!(&members, &plain);
            let holes: BTreeSet<u64> = ours.holes(5, 50).flat_map(|(f, l)| f..=l).collect();
            let expected: BTreeSet<u64> = (5..=50).filter(|n| !plain.contains(n)).collect();
            prop_assert_eq!(holes, expected);
            let mut watermark = 0;
            while plain.contains(&(watermark + 1)) { watermark += 1; }
            prop_assert_eq!(ours.watermark(1), watermark);
            for (f, l) in ours.iter() {
                prop_assert!(!plain.contains(&(l + 1)) && (f == 0 || !plain.contains(&(f - 1))));
            }
        }
    }
}
