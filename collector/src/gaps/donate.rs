//! Whether what one device recorded may stand for what is missing of another: a meter that is polled and keeps a load profile
//! is two devices, and a remote API may know a third time what it measured.
//!
//! Pure: knows no rows. A reading stands for another one where it says the same thing of the same time: quantity, unit,
//! aggregation and label are equal, and the instant is exactly that of the slot. What is of a period needs an equal interval
//! besides; what is of an instant does not: a counter that is kept every quarter of an hour stands for one minute in
//! fifteen.

use std::collections::BTreeMap;

use gapless_common::catalog::{Aggregation, PeriodLabel};
use gapless_common::planted::{self, Bug};
use gapless_common::time::{Interval, Slot, SlotGrid, Timestamp};

/// A device that stands in for another one of its site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Donor {
    /// Their site.
    pub site: String,
    /// Whose gaps are filled.
    pub device: String,
    /// From whose readings.
    pub from: String,
    /// The donor's name of each channel that has another one there.
    pub channels: BTreeMap<String, String>,
}

impl Donor {
    /// What the donor calls a channel.
    #[must_use]
    pub fn channel<'a>(&'a self, own: &'a str) -> &'a str {
        self.channels.get(own).map_or(own, String::as_str)
    }
}

/// What the values of a channel say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meaning {
    /// What is measured.
    pub quantity: String,
    /// In which unit.
    pub unit: String,
    /// How a value comes about.
    pub aggregation: Aggregation,
    /// Which end of its period a time names. Equal for what is of an instant, too: a profile that names the begin of a
    /// period may keep the counter of its end.
    pub label: PeriodLabel,
}

/// Why no reading of a donor's channel stands for one of another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It is not there.
    #[error("there is no channel of that name")]
    NoChannel,
    /// Another quantity.
    #[error("its quantity is `{donor}` instead of `{own}`")]
    Quantity {
        /// What is missing.
        own: String,
        /// What the donor has.
        donor: String,
    },
    /// Another unit: nothing is converted.
    #[error("its unit is `{donor}` instead of `{own}`")]
    Unit {
        /// What is missing.
        own: String,
        /// What the donor has.
        donor: String,
    },
    /// Another aggregation.
    #[error("it is {donor:?} instead of {own:?}")]
    Aggregation {
        /// What is missing.
        own: Aggregation,
        /// What the donor has.
        donor: Aggregation,
    },
    /// Another label.
    #[error("its times name the {} of a period instead of the {}", end(*donor), end(*own))]
    Label {
        /// What is missing.
        own: PeriodLabel,
        /// What the donor has.
        donor: PeriodLabel,
    },
    /// Another period.
    #[error("its values are of another period than {own}")]
    Interval {
        /// What is missing.
        own: Interval,
    },
}

const fn end(label: PeriodLabel) -> &'static str {
    match label {
        PeriodLabel::Start => "begin",
        PeriodLabel::End => "end",
    }
}

impl Meaning {
    /// Whether a value is of an instant: the distance to the next one says nothing of it.
    #[must_use]
    pub const fn is_of_instant(&self) -> bool {
        matches!(self.aggregation, Aggregation::Instant | Aggregation::Counter)
    }

    /// Whether a donor's values, kept on one of `grids`, may stand for values of this meaning that are due on `own`.
    ///
    /// # Errors
    /// What is in the way.
    pub fn takes(&self, own: SlotGrid, donor: &Self, grids: &[SlotGrid]) -> Result<(), Mismatch> {
        let both = |own: &String, donor: &String| (own.clone(), donor.clone());
        if self.quantity != donor.quantity {
            let (own, donor) = both(&self.quantity, &donor.quantity);
            return Err(Mismatch::Quantity { own, donor });
        }
        if self.unit != donor.unit {
            let (own, donor) = both(&self.unit, &donor.unit);
            return Err(Mismatch::Unit { own, donor });
        }
        if self.aggregation != donor.aggregation && !planted::has(Bug::LentUnmatched) {
            return Err(Mismatch::Aggregation { own: self.aggregation, donor: donor.aggregation });
        }
        if self.label != donor.label {
            return Err(Mismatch::Label { own: self.label, donor: donor.label });
        }
        if !self.is_of_instant() && !grids.contains(&own) {
            return Err(Mismatch::Interval { own: own.interval });
        }
        Ok(())
    }
}

/// The slot that a donor's reading of that time may stand for: one that is due at that very instant.
#[must_use]
pub fn slot_of(own: SlotGrid, at: Timestamp) -> Option<Slot> {
    let slot = own.slot_at(at);
    (own.at(slot) == at).then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every(ms: u64) -> SlotGrid {
        SlotGrid::every(Interval::from_ms(ms).unwrap())
    }

    fn meaning(aggregation: Aggregation) -> Meaning {
        let text = str::to_owned;
        Meaning { quantity: text("active_energy"), unit: text("kWh"), aggregation, label: PeriodLabel::End }
    }

    #[test]
    fn a_reading_stands_for_one_that_says_the_same() {
        use Aggregation::{Counter, Instant, Mean, Sum};
        let (minute, quarter) = (every(60_000), every(900_000));
        let shifted = SlotGrid { phase_ms: 1_000, ..quarter };
        let wh = |aggregation| Meaning { unit: "Wh".to_owned(), ..meaning(aggregation) };
        let export = Meaning { quantity: "export".to_owned(), ..meaning(Counter) };
        let begin = |aggregation| Meaning { label: PeriodLabel::Start, ..meaning(aggregation) };
        let rows = [
            (meaning(Counter), minute, meaning(Counter), vec![quarter], ""),
            (meaning(Instant), minute, meaning(Instant), vec![quarter], ""),
            (meaning(Counter), quarter, meaning(Counter), vec![minute], ""),
            (meaning(Counter), minute, meaning(Counter), vec![], ""),
            (meaning(Mean), quarter, meaning(Mean), vec![quarter], ""),
            (meaning(Mean), quarter, meaning(Mean), vec![minute, quarter], ""),
            (meaning(Mean), minute, meaning(Mean), vec![quarter], "of another period than 1m"),
            (meaning(Sum), quarter, meaning(Sum), vec![minute], "of another period than 15m"),
            (meaning(Sum), quarter, meaning(Sum), vec![shifted], "of another period than 15m"),
            (meaning(Counter), minute, meaning(Instant), vec![minute], "it is Instant instead of Counter"),
            (meaning(Mean), quarter, meaning(Instant), vec![quarter], "it is Instant instead of Mean"),
            (meaning(Counter), minute, wh(Counter), vec![minute], "its unit is `Wh` instead of `kWh`"),
            (
                meaning(Counter),
                minute,
                export,
                vec![minute],
                "its quantity is `export` instead of `active_energy`",
            ),
            (
                meaning(Sum),
                quarter,
                begin(Sum),
                vec![quarter],
                "name the begin of a period instead of the end",
            ),
            (meaning(Counter), quarter, begin(Counter), vec![quarter], "name the begin of a period"),
        ];
        for (own, grid, donor, grids, expected) in rows {
            let told = own.takes(grid, &donor, &grids).map_or_else(|why| why.to_string(), |()| String::new());
            assert!(told.contains(expected) && told.is_empty() == expected.is_empty(), "{expected}: {told}");
        }
    }

    #[test]
    fn a_reading_stands_for_the_slot_of_its_very_instant() {
        let minute = SlotGrid { phase_ms: 500, ..every(60_000) };
        for (at, slot) in
            [(500, Some(0)), (501, None), (60_500, Some(1)), (60_000, None), (-59_500, Some(-1))]
        {
            assert_eq!(slot_of(minute, Timestamp(at)), slot.map(Slot), "{at}");
        }
    }

    #[test]
    fn a_channel_has_its_own_name_where_no_other_is_said() {
        let channels = [("energy".to_owned(), "energy_import".to_owned())].into();
        let text = str::to_owned;
        let donor = Donor { site: text("farm"), device: text("a"), from: text("b"), channels };
        assert_eq!((donor.channel("energy"), donor.channel("power")), ("energy_import", "power"));
    }
}
