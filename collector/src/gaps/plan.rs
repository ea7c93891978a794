//! The fewest windows that hold all that is due from one source.

use gapless_common::time::Timestamp;

/// Which window is asked for first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// The newest data is of most use.
    #[serde(rename = "newest")]
    NewestFirst,
    /// The oldest data is overwritten next.
    #[serde(rename = "oldest")]
    OldestFirst,
}

/// A stretch of time, half open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window {
    /// First instant.
    pub from: Timestamp,
    /// First instant that is no longer in it.
    pub to: Timestamp,
}

/// Covers `due` (in any order, without overlaps) with windows of `longest_ms` at most, none of which overlap: as few
/// as there can be, each no longer than what is due in it. Those that come first are asked for first.
///
/// Greedy from one end: a window that begins at the first instant not yet covered reaches at least as far as any
/// other that holds it, so no other way of covering needs fewer. Those beyond the first `most` are left for another time.
#[must_use]
pub fn windows(due: &[Window], longest_ms: i64, order: Order, most: usize) -> Vec<Window> {
    let longest_ms = longest_ms.max(1);
    let mut due: Vec<Window> = due.iter().copied().filter(|w| w.from < w.to).collect();
    due.sort_unstable();
    let forward = |due: &[Window]| {
        let mut windows: Vec<Window> = Vec::new();
        for gap in due {
            let mut from = gap.from;
            if let Some(last) = windows.last_mut() {
                let reach = last.from.plus_ms(longest_ms);
                if from < reach {
                    last.to = gap.to.min(reach);
                    from = last.to;
                }
            }
            while from < gap.to && windows.len() <= most {
                let to = from.plus_ms(longest_ms).min(gap.to);
                windows.push(Window { from, to });
                from = to;
            }
        }
        windows.truncate(most);
        windows
    };
    match order {
        Order::OldestFirst => forward(&due),
        Order::NewestFirst => {
            // The same, seen from the other end.
            let mirror = |w: &Window| Window { from: Timestamp(-w.to.0), to: Timestamp(-w.from.0) };
            let mirrored: Vec<Window> = due.iter().rev().map(mirror).collect();
            forward(&mirrored).iter().map(mirror).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(from: i64, to: i64) -> Window {
        Window { from: Timestamp(from), to: Timestamp(to) }
    }

    #[test]
    fn what_is_near_is_asked_for_at_once_and_what_is_long_in_pieces() {
        let due = [window(0, 10), window(20, 30), window(95, 120), window(500, 750)];
        let oldest = windows(&due, 100, Order::OldestFirst, 9);
        assert_eq!(
            oldest,
            [window(0, 100), window(100, 120), window(500, 600), window(600, 700), window(700, 750)]
        );
        let newest = windows(&due, 100, Order::NewestFirst, 9);
        assert_eq!(windows(&due, 100, Order::NewestFirst, 2), newest[..2]);
        assert_eq!(
            newest,
            [window(650, 750), window(550, 650), window(500, 550), window(20, 120), window(0, 10)]
        );
        assert_eq!(windows(&[], 100, Order::NewestFirst, 9), []);
    }

    /// The least number of windows of `longest` that cover each unit that is due, found by trying every begin.
    fn least(units: &[i64], longest: i64) -> usize {
        let mut best = vec![usize::MAX; units.len() + 1];
        best[units.len()] = 0;
        for first in (0..units.len()).rev() {
            // Any window that holds this unit and none before it holds a run of those after it.
            for last in first..units.len() {
                if units[last] - units[first] < longest {
                    best[first] = best[first].min(best[last + 1].saturating_add(1));
                }
            }
        }
        best[0]
    }

    proptest! {
        #[test]
        fn no_slot_is_left_out_or_asked_for_twice_and_no_fewer_would_do(
            lengths in prop::collection::vec((1_i64..30, 0_i64..40), 0..12),
            longest in 1_i64..60,
            newest in any::<bool>(),
        ) {
            let (mut at, mut due, mut units) = (0, Vec::new(), Vec::new());
            for (length, distance) in lengths {
                due.push(window(at, at + length));
                units.extend(at..at + length);
                at += length + distance;
            }
            let order = if newest { Order::NewestFirst } else { Order::OldestFirst };
            let planned = windows(&due, longest, order, usize::MAX - 1);
            for unit in &units {
                let holding = planned.iter().filter(|w| w.from.0 <= *unit && *unit < w.to.0).count();
                prop_assert_eq!(holding, 1);
            }
            prop_assert!(planned.iter().all(|w| w.to.since_ms(w.from) <= longest));
            let in_order = |a: &Window, b: &Window| if newest { b.to <= a.from } else { a.to <= b.from };
            prop_assert!(planned.is_sorted_by(in_order));
            prop_assert_eq!(planned.len(), least(&units, longest));
        }
    }
}
