//! That an answer is stored whole: all that it said, as it said it, at its own time, contradicted by nobody. What is stored at
//! all, and how often, is `judge`'s.

use gapless_common::quality::Quality;
use gapless_common::reading::{Acquired, Sample, Value};

use super::clock::truth;
use super::judge::{Case, Findings, Stored};
use super::oracle::{CLOCKS, Issued, Known, same};

/// How far off a time may be that was worked out later, in ms: an answer is complete before it is told, and the clock that
/// tells how long ago the machine was started drifts.
const WORKED_OUT_MS: u64 = 5_000;

impl Case<'_> {
    /// Of an answer that is stored.
    pub(super) fn check_whole(
        &self,
        known: &Known,
        ((block, eval), issued): ((u8, i64), &Issued),
        stored: &Stored,
        findings: &mut Findings,
    ) {
        let clock = CLOCKS[usize::from(block)].to_owned();
        let instants = stored.answers.get(&(block, eval)).map_or(&[][..], Vec::as_slice);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are far below 2^53")]
        let stands = |at: &&i64| {
            stored.rows.get(&(clock.clone(), **at)).is_some_and(|(value, _)| *value == Some(eval as f64))
        };
        let Some(&at) = instants.iter().find(stands) else {
            // Two answers have one time where a clock goes back: the later one contradicts the first.
            if !self.history().has_odd_clock {
                let what = format!("{}: the answer of {eval} stands among what is contradicted", known.name);
                findings.push(("integrity", what));
            }
            return;
        };
        let is_uncertain = |quality: i64| quality == i64::from(Quality::UncertainClock.code());
        let is_certain = stored.rows.get(&(clock, at)).is_some_and(|(_, quality)| !is_uncertain(*quality));
        if let Some(why) = self.is_misplaced(issued, at, is_certain) {
            let what = format!("{}: the answer of {eval} is stored at {at}: {why}", known.name);
            findings.push(("timestamps", what));
        }
        let is_clock_later = is_certain && matches!(issued.acquired, Acquired::SinceBoot(_));
        for sample in &issued.samples {
            let Some(channel) = known.channels.get(usize::from(sample.channel.0)) else { continue };
            let row = stored.rows.get(&(channel.clone(), at));
            if !row.is_some_and(|row| is_row(sample, *row, is_clock_later)) && !self.history().has_odd_clock {
                let what = format!(
                    "{}/{channel}: the answer of {eval} said {sample:?}, and {row:?} is stored at {at}",
                    known.name
                );
                findings.push(("conservation", what));
            }
        }
    }

    /// Why an answer's time is not its own.
    fn is_misplaced(&self, issued: &Issued, at: i64, is_certain: bool) -> Option<String> {
        match issued.acquired {
            Acquired::InSlot(_) | Acquired::Recorded(_) => {
                (at != issued.at.0).then(|| format!("it was told for {}", issued.at.0))
            }
            Acquired::SinceBoot(_) if !is_certain => (at != issued.at.0)
                .then(|| format!("its time is not known, and it was told for {}", issued.at.0)),
            // Where somebody sets a clock wrong, so is what follows from it.
            Acquired::SinceBoot(_) => {
                let is_off = truth(issued.told_ms).0.abs_diff(at) > WORKED_OUT_MS;
                (is_off && !self.history().was_set_wrong)
                    .then(|| format!("it was told at {}", truth(issued.told_ms).0))
            }
        }
    }
}

/// Whether this row is what a sample said.
fn is_row(sample: &Sample, (value, quality): (Option<f64>, i64), is_clock_later: bool) -> bool {
    let is_value = match value {
        Some(value) => same(sample.value.as_ref(), &Value::Number(value)),
        None => sample.value.is_none(),
    };
    let said = match sample.quality {
        Quality::UncertainClock if is_clock_later => Quality::Good,
        said => said,
    };
    is_value && i64::from(said.code()) == quality
}
