//! The records of one table: which numbers and times they have, and which are still held. A record is written whenever
//! the logger's clock passes a multiple of the interval; the newest ones overwrite the oldest. Nothing is kept but where
//! each undisturbed stretch of records began. Reads no clock.

/// A record, without its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its number; the first one of a program has 0.
    pub no: u64,
    /// The logger's local time.
    pub own_ms: i64,
}

/// Records at a regular distance, until the clock was set or the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    first: Stored,
    /// How many, once it has ended.
    count: Option<u64>,
}

/// The records of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    interval_ms: i64,
    capacity: u64,
    stretches: Vec<Stretch>,
}

impl Ring {
    /// A table that is written from `own_ms` of the logger's clock on, and holds `capacity` records.
    #[must_use]
    pub fn new(interval_ms: i64, capacity: u64, own_ms: i64) -> Self {
        let mut ring =
            Self { interval_ms: interval_ms.max(1), capacity: capacity.max(1), stretches: Vec::new() };
        ring.begin(0, own_ms);
        ring
    }

    fn begin(&mut self, no: u64, own_ms: i64) {
        let next = own_ms.div_euclid(self.interval_ms).saturating_add(1).saturating_mul(self.interval_ms);
        self.stretches.push(Stretch { first: Stored { no, own_ms: next }, count: None });
    }

    /// The clock, which shows `before_ms`, is set to `after_ms`: numbers go on, times jump.
    pub fn clock_set(&mut self, before_ms: i64, after_ms: i64) {
        let next = self.end(before_ms);
        if let Some(last) = self.stretches.last_mut() {
            last.count = Some(next - last.first.no);
        }
        let oldest = next.saturating_sub(self.capacity);
        self.stretches.retain(|stretch| stretch.first.no + stretch.count.unwrap_or(0) > oldest);
        self.begin(next, after_ms);
    }

    /// The number that the next record will have.
    #[must_use]
    pub fn end(&self, own_ms: i64) -> u64 {
        self.stretches.last().map_or(0, |last| last.first.no + self.count(last, own_ms))
    }

    fn count(&self, stretch: &Stretch, own_ms: i64) -> u64 {
        stretch.count.unwrap_or_else(|| {
            let since = own_ms.saturating_sub(stretch.first.own_ms);
            u64::try_from(since.div_euclid(self.interval_ms) + 1).unwrap_or(0)
        })
    }

    /// What is held when the clock shows `own_ms`, oldest first.
    pub fn held(&self, own_ms: i64) -> impl DoubleEndedIterator<Item = Stored> + '_ {
        let oldest = self.end(own_ms).saturating_sub(self.capacity);
        self.stretches.iter().flat_map(move |stretch| {
            let count = self.count(stretch, own_ms);
            let first = stretch.first;
            (oldest.saturating_sub(first.no).min(count)..count).map(move |n| Stored {
                no: first.no + n,
                own_ms: first
                    .own_ms
                    .saturating_add(i64::try_from(n).unwrap_or(i64::MAX).saturating_mul(self.interval_ms)),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ring: &Ring, own_ms: i64) -> Vec<(u64, i64)> {
        ring.held(own_ms).map(|stored| (stored.no, stored.own_ms)).collect()
    }

    #[test]
    fn the_newest_overwrite_the_oldest() {
        let ring = Ring::new(1_000, 3, 500);
        assert_eq!(row(&ring, 999), []);
        assert_eq!(row(&ring, 2_000), [(0, 1_000), (1, 2_000)]);
        assert_eq!(row(&ring, 9_999), [(6, 7_000), (7, 8_000), (8, 9_000)]);
    }

    #[test]
    fn a_set_clock_jumps_in_time_and_not_in_number() {
        let mut ring = Ring::new(1_000, 4, 0);
        ring.clock_set(2_500, 500);
        assert_eq!(row(&ring, 1_000), [(0, 1_000), (1, 2_000), (2, 1_000)]);
        ring.clock_set(1_100, 50_900);
        assert_eq!(row(&ring, 52_000), [(1, 2_000), (2, 1_000), (3, 51_000), (4, 52_000)]);
        assert_eq!(row(&ring, 50_950), [(0, 1_000), (1, 2_000), (2, 1_000)]);
    }
}
