//! Whether the newest record is whole, and whether it is the newest at all. Asks for nothing.

use gapless_common::time::Timestamp;

use super::record::Record;

/// Pause between two readings of the newest record, in ms: a meter writes a record within it.
const CONFIRM_MS: u64 = 300;
/// So many readings of it that are unlike the one before make it one that changes all the time: an interval that runs.
const UNLIKE_MAX: u8 = 3;

/// What a reading of the newest record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was read twice alike.
    Sure,
    /// It is to be read once more.
    Again,
    /// It changes all the time.
    Running,
}

#[derive(Debug)]
struct Reading {
    no: i64,
    words: Vec<u16>,
    again_ms: u64,
    unlike: u8,
}

/// What is known of the newest record.
#[derive(Debug, Default)]
pub struct Newest {
    unsure: Option<Reading>,
    /// Read twice alike, while it is looked whether the one before it is older.
    held: Option<(i64, Record)>,
    /// It was seen that the one before it is older.
    is_proven: bool,
}

impl Newest {
    /// Another memory, or another look at it.
    pub fn forget(&mut self) {
        (self.unsure, self.held) = (None, None);
    }

    /// The newest record has this number now.
    pub fn keep(&mut self, no: i64) {
        self.unsure.take_if(|reading| reading.no != no);
        self.held.take_if(|held| held.0 != no);
    }

    /// When record `no` may be read again, on the boot clock, where that is not yet.
    #[must_use]
    pub fn wait_until(&self, no: i64, boot_ms: u64) -> Option<u64> {
        let reading =
            self.unsure.as_ref().filter(|reading| reading.no == no && reading.again_ms > boot_ms)?;
        Some(reading.again_ms)
    }

    /// Takes in a reading of it.
    pub fn judge(&mut self, no: i64, words: &[u16], boot_ms: u64) -> Verdict {
        let before = self.unsure.take().filter(|reading| reading.no == no);
        if before.as_ref().is_some_and(|reading| reading.words == words) {
            self.unsure = before;
            return Verdict::Sure;
        }
        let unlike = before.map_or(0, |reading| reading.unlike + 1);
        if unlike >= UNLIKE_MAX {
            return Verdict::Running;
        }
        let again_ms = boot_ms.saturating_add(CONFIRM_MS);
        self.unsure = Some(Reading { no, words: words.to_vec(), again_ms, unlike });
        Verdict::Again
    }

    /// Whether the record before it is still to be looked at.
    #[must_use]
    pub const fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// It waits for the record before it.
    pub fn hold(&mut self, no: i64, record: Record) {
        self.held = Some((no, record));
    }

    /// The record before which one is to be read.
    #[must_use]
    pub fn held(&self) -> Option<i64> {
        self.held.as_ref().map(|(no, _)| *no)
    }

    /// It waits no longer, although it was compared with none: the one that waited, if one did.
    pub fn release(&mut self) -> Option<(i64, Record)> {
        self.held.take()
    }

    /// No more is to be known: the one that waited, if one did.
    pub fn prove(&mut self) -> Option<(i64, Record)> {
        self.is_proven = true;
        self.held.take()
    }
}

/// Whether a record that is named the newest is the oldest of a full ring instead, which the next one will overwrite.
#[must_use]
pub fn is_oldest(newest: Timestamp, before: Timestamp, capacity: u16, interval_ms: i64) -> bool {
    let capacity = i64::from(capacity);
    // Without an outage of power one ring lies between them; a clock that was set takes little of it.
    let least = (capacity - 1 - capacity / 8).saturating_mul(interval_ms);
    capacity > 2 && before.since_ms(newest) >= least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_when_it_was_read_twice_alike_and_not_while_it_changes() {
        use Verdict::{Again, Running, Sure};
        // Number, what it says, what follows.
        let rows = [(7, 1, Again), (7, 1, Sure), (7, 1, Sure), (7, 2, Again), (7, 3, Again), (7, 4, Running)];
        let rows = rows.into_iter().chain([(7, 4, Again), (8, 4, Again), (8, 5, Again), (8, 5, Sure)]);
        let mut newest = Newest::default();
        for (place, (no, word, expected)) in rows.enumerate() {
            let boot_ms = 1_000 * u64::try_from(place).unwrap();
            assert_eq!(newest.judge(no, &[word], boot_ms), expected, "reading {place}");
            let wait = newest.wait_until(no, boot_ms);
            assert_eq!(wait, (expected == Again).then_some(boot_ms + CONFIRM_MS), "reading {place}");
        }
    }

    #[test]
    fn the_oldest_of_a_full_ring_is_known_by_its_age() {
        let minutes = |minutes: i64| Timestamp(minutes * 60_000);
        let rows = [
            (0, 99, true),
            (0, 300, true),
            (0, 90, true),
            (0, 60, false),
            (100, 99, false),
            (99, 100, false),
        ];
        for (newest, before, expected) in rows {
            let told = is_oldest(minutes(newest), minutes(before), 100, 60_000);
            assert_eq!(told, expected, "{newest} after {before}");
        }
        assert!(!is_oldest(minutes(0), minutes(1), 1, 60_000), "a ring of one");
    }
}
