//! How many records one request asks for: fewer where longer answers fail, more again once they have come well. Knows no
//! record.

/// So many answers of the present length in a row, before a longer one is tried; and at most, where longer ones have failed
/// again and again.
const WINS: (u32, u32) = (4, 64);

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    now: usize,
    most: usize,
    wins: u32,
    /// So many wins before the next try.
    needed: u32,
    /// It was tried since the last failure.
    has_grown: bool,
}

impl Batch {
    /// As many as there may be.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { now: most.max(1), most: most.max(1), wins: 0, needed: WINS.0, has_grown: false }
    }

    /// Records of one request.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.now
    }

    /// So many came in one answer.
    pub fn won(&mut self, count: usize) {
        if self.now == self.most || count < self.now {
            return;
        }
        self.wins += 1;
        if self.wins >= self.needed {
            (self.now, self.wins, self.has_grown) = ((2 * self.now).min(self.most), 0, true);
        }
    }

    /// A request for more than one failed: it may be too much for the meter or the line, or one of them cannot be had.
    pub fn lost(&mut self) {
        // A length that fails time and again is tried less and less.
        if std::mem::take(&mut self.has_grown) {
            self.needed = (2 * self.needed).min(WINS.1);
        }
        (self.now, self.wins) = ((self.now / 2).max(1), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many requests of which length it takes to read so many records from a meter that answers up to `limit`.
    fn lengths(batch: &mut Batch, records: usize, limit: usize) -> (usize, usize) {
        let (mut left, mut good, mut bad) = (records, 0, 0);
        while left > 0 {
            let count = batch.size().min(left);
            if count > limit {
                batch.lost();
                bad += 1;
            } else {
                batch.won(count);
                (left, good) = (left - count, good + 1);
            }
        }
        (good, bad)
    }

    #[test]
    fn what_is_too_long_is_tried_less_and_less_and_what_is_not_soon_again() {
        let mut batch = Batch::new(40);
        assert_eq!(lengths(&mut batch, 400, 100), (10, 0));
        let (good, bad) = lengths(&mut batch, 4_000, 12);
        assert!(good < 440 && bad < 25, "{good} good, {bad} bad");
        // The reason is gone.
        let (_, bad) = lengths(&mut batch, 4_000, 100);
        assert_eq!((bad, batch.size()), (0, 40));
        assert_eq!(Batch::new(0).size(), 1);
    }
}
