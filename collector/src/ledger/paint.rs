//! Runs of slots and gaps, and the one way they change: a range is painted, and a better word wins. Knows
//! nothing of agents, epochs or proof.

use gapless_common::planted::{self, Bug};
use gapless_common::quality::Cause;
use gapless_common::time::SlotGrid;

use super::{GridNo, Slots, Stamp};
use crate::gaps::life::Life;

/// What is known of a slot; the better word is the lesser one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Known {
    /// A reading came.
    Received,
    /// A miss names it.
    Missed(Cause),
    /// Proven absent: a loss holds its time.
    Lost(Cause),
    /// Proven absent: a downtime holds it.
    Down(Cause),
    /// Proven absent: it lies at the end of an epoch.
    Ended(Cause),
    /// Proven absent: no record holds it.
    Unexplained(Cause),
}

impl Known {
    /// Why there is no reading; `None` where there is one.
    #[must_use]
    pub const fn cause(self) -> Option<Cause> {
        match self {
            Self::Received => None,
            Self::Missed(cause)
            | Self::Lost(cause)
            | Self::Down(cause)
            | Self::Ended(cause)
            | Self::Unexplained(cause) => Some(cause),
        }
    }
}

/// Neighbouring slots of which the same is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First slot.
    pub first: i64,
    /// Last slot.
    pub last: i64,
    /// What is known.
    pub known: Known,
}

/// Neighbouring slots proven to be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Its row; 0 for a new one.
    pub id: i64,
    /// First slot.
    pub first: i64,
    /// Last slot.
    pub last: i64,
    /// Why.
    pub cause: Cause,
    /// When its readings came after all.
    pub closed: Option<Stamp>,
    /// When it was proven.
    pub opened: Stamp,
    /// What is done about it.
    pub life: Life,
}

/// Something that holds a range of slots and can be cut and joined.
trait Piece: Copy {
    fn range(&self) -> (i64, i64);
    fn with_range(self, first: i64, last: i64) -> Self;
    /// One piece of itself and the `next` one, where they are of one kind.
    fn joined(&self, next: &Self) -> Option<Self>;
}

impl Piece for Run {
    fn range(&self) -> (i64, i64) {
        (self.first, self.last)
    }
    fn with_range(self, first: i64, last: i64) -> Self {
        Self { first, last, ..self }
    }
    fn joined(&self, next: &Self) -> Option<Self> {
        (self.known == next.known).then_some(Self { last: next.last, ..*self })
    }
}

impl Piece for Gap {
    fn range(&self) -> (i64, i64) {
        (self.first, self.last)
    }
    fn with_range(self, first: i64, last: i64) -> Self {
        Self { first, last, ..self }
    }
    fn joined(&self, next: &Self) -> Option<Self> {
        // A gap that was told under a number never vanishes into another one.
        let one = self.id == next.id || self.id == 0 || next.id == 0;
        let alike = self.cause == next.cause
            && match (self.closed, next.closed) {
                (Some(_), Some(_)) => true,
                (None, None) => self.life.is_like(&next.life),
                _ => false,
            };
        let named = if self.id == 0 { *next } else { *self };
        (one && alike).then_some(Self { first: self.first, last: next.last, ..named })
    }
}

/// `old` with each part of `first..=last` replaced by what `paint` makes of it (`None`: nothing is there yet,
/// or nothing shall be). Cost: the pieces given.
fn repaint<P: Piece>(
    old: &[P],
    first: i64,
    last: i64,
    paint: impl Fn(Option<&P>, i64, i64) -> Option<P>,
) -> Vec<P> {
    let mut new: Vec<P> = Vec::with_capacity(old.len() + 2);
    let mut next = first;
    for piece in old {
        let (f, l) = piece.range();
        if l < first || f > last {
            if f > last && next <= last {
                push(&mut new, paint(None, next, last));
                next = last.saturating_add(1);
            }
            push(&mut new, Some(*piece));
            continue;
        }
        if f < first {
            push(&mut new, Some(piece.with_range(f, first - 1)));
        }
        let (from, to) = (f.max(first), l.min(last));
        if next < from {
            push(&mut new, paint(None, next, from - 1));
        }
        push(&mut new, paint(Some(piece), from, to).map(|p| p.with_range(from, to)));
        next = to.saturating_add(1);
        if l > last {
            push(&mut new, Some(piece.with_range(last + 1, l)));
        }
    }
    if next <= last {
        push(&mut new, paint(None, next, last));
    }
    new
}

fn push<P: Piece>(new: &mut Vec<P>, piece: Option<P>) {
    let Some(piece) = piece else { return };
    let touches = |before: &&mut P| before.range().1.saturating_add(1) == piece.range().0;
    if let Some(before) = new.last_mut().filter(touches)
        && let Some(joined) = before.joined(&piece)
    {
        *before = joined;
    } else {
        new.push(piece);
    }
}

/// Paints `known` over `first..=last` where nothing better is known, and `accept` agrees with what is there.
pub(super) fn paint<S: Slots>(
    slots: &mut S,
    grid: GridNo,
    (first, last): (i64, i64),
    known: Known,
    accept: impl Fn(Option<Known>) -> bool,
) -> Result<bool, S::Error> {
    let old = slots.runs(grid, first, last)?;
    let new = repaint(&old, first, last, |there, f, l| match there {
        Some(_) if planted::has(Bug::MissOverReading) && matches!(known, Known::Missed(_)) => {
            Some(Run { first: f, last: l, known })
        }
        Some(run) if run.known <= known || !accept(Some(run.known)) => Some(*run),
        None if !accept(None) => None,
        _ => Some(Run { first: f, last: l, known }),
    });
    if new == old {
        return Ok(false);
    }
    slots.replace_runs(grid, &old, &new)?;
    Ok(true)
}

/// Opens gaps with `cause` over `first..=last` where there is none yet.
pub(super) fn open_gap<S: Slots>(
    slots: &mut S,
    (grid, times): (GridNo, SlotGrid),
    (first, last): (i64, i64),
    cause: Cause,
    stamp: Stamp,
) -> Result<(), S::Error> {
    change_gaps(slots, (grid, times), (first, last), |there, first, last| {
        let new = Gap { id: 0, first, last, cause, closed: None, opened: stamp, life: Life::new(stamp.at) };
        Some(there.copied().unwrap_or(new))
    })
}

/// Closes whatever gap there is in `first..=last`: its readings came.
pub(super) fn fill_gap<S: Slots>(
    slots: &mut S,
    grid: (GridNo, SlotGrid),
    range: (i64, i64),
    stamp: Stamp,
) -> Result<(), S::Error> {
    change_gaps(slots, grid, range, |there, _, _| {
        there.map(|gap| match gap.closed {
            Some(_) => *gap,
            None => Gap { closed: Some(stamp), life: gap.life.ended(), ..*gap },
        })
    })
}

/// Gives whatever gap is open in `first..=last` another cause: a better word came.
pub(super) fn recause_gap<S: Slots>(
    slots: &mut S,
    grid: (GridNo, SlotGrid),
    range: (i64, i64),
    cause: Cause,
) -> Result<(), S::Error> {
    change_gaps(slots, grid, range, |there, _, _| {
        there.map(|gap| if gap.closed.is_none() { Gap { cause, ..*gap } } else { *gap })
    })
}

fn change_gaps<S: Slots>(
    slots: &mut S,
    (grid, times): (GridNo, SlotGrid),
    (first, last): (i64, i64),
    change: impl Fn(Option<&Gap>, i64, i64) -> Option<Gap>,
) -> Result<(), S::Error> {
    let old = slots.gaps(grid, first, last)?;
    // What is changed of a part of a gap is a new one, which may join its neighbour; the rest keeps the number.
    let mut new = repaint(&old, first, last, |there, f, l| {
        let changed = change(there, f, l)?;
        let cut = there.is_some_and(|gap| (gap.first, gap.last) != (f, l) && *gap != changed);
        Some(if cut { Gap { id: 0, ..changed } } else { changed })
    });
    // Of several parts that stayed the first one keeps it.
    let mut used = std::collections::BTreeSet::new();
    for gap in &mut new {
        if gap.id != 0 && !used.insert(gap.id) {
            gap.id = 0;
        }
    }
    if new == old { Ok(()) } else { slots.replace_gaps(grid, times, &old, &new) }
}

#[cfg(test)]
mod tests {
    use gapless_common::time::Timestamp;

    use super::super::tests::{GRID, Memory, times};
    use super::*;

    /// After each slot of `order` was filled one by one: no number has vanished, and this many gaps are left.
    fn check(order: &[i64], left: usize) {
        let (mut slots, stamp) = (Memory::default(), Stamp { at: Timestamp(1), commit: 1 });
        for slot in 0..10 {
            open_gap(&mut slots, (GRID, times()), (slot, slot), Cause::Crashed, stamp).unwrap();
        }
        assert_eq!(slots.gaps.len(), 1, "a gap that grows is one");
        let mut told = std::collections::BTreeSet::new();
        for &slot in order {
            told.extend(slots.gaps.values().map(|gap| gap.id));
            fill_gap(&mut slots, (GRID, times()), (slot, slot), stamp).unwrap();
            let ids: Vec<_> = slots.gaps.values().map(|gap| gap.id).collect();
            assert!(told.iter().all(|id| ids.contains(id)), "{told:?} became {ids:?} by {slot} of {order:?}");
            let unique: std::collections::BTreeSet<_> = ids.iter().collect();
            assert_eq!(unique.len(), ids.len());
        }
        assert!(slots.gaps.values().all(|gap| gap.closed.is_some()));
        assert_eq!(slots.gaps.len(), left, "{order:?}: {:?}", slots.gaps);
    }

    #[test]
    fn a_gap_that_was_told_never_vanishes() {
        check(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 2);
        check(&[9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 2);
        check(&[5, 0, 9, 1, 8, 2, 7, 3, 6, 4], 5);
    }
}
