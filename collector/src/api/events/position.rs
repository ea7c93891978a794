//! Where a client stands, as the `id` of each event and as its `Last-Event-ID`: to clients a word without meaning. Pure.

use std::fmt;
use std::str::FromStr;

use gapless_common::id::{Commit, Incarnation};
use gapless_common::time::Timestamp;

use super::transitions::Mark;
use crate::store::model::Place;

/// A place in one database's tables and in what is remembered of freshness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// Of which database.
    pub(super) incarnation: Incarnation,
    /// In its tables.
    pub(super) place: Place,
    /// The last change of freshness that was told.
    pub(super) freshness: Option<Mark>,
}

/// A word that is no position.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("send the `id` of the last event that came, unchanged")]
pub(super) struct NoPosition;

/// What stands for a part that there is none of.
const NONE: &str = "_";

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { commit, within, gap_event, job, alert_event } = self.place;
        write!(f, "{:x}.{}.", self.incarnation.0, commit.0)?;
        match within {
            Some((device, first)) => write!(f, "{device}.{}", first.0)?,
            None => write!(f, "{NONE}.{NONE}")?,
        }
        write!(f, ".{gap_event}.{job}.{alert_event}.")?;
        match self.freshness {
            Some(Mark { life, number }) => write!(f, "{life:x}.{number}"),
            None => write!(f, "{NONE}.{NONE}"),
        }
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, NoPosition> {
    text.parse().map_err(|_| NoPosition)
}

fn bits(text: &str) -> Result<u64, NoPosition> {
    u64::from_str_radix(text, 16).map_err(|_| NoPosition)
}

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let parts: Vec<&str> = text.split('.').collect();
        let &[incarnation, commit, device, first, gap_event, job, alert_event, life, seen] = parts.as_slice()
        else {
            return Err(NoPosition);
        };
        let within = match (device, first) {
            (NONE, NONE) => None,
            _ => Some((number(device)?, Timestamp(number(first)?))),
        };
        let freshness = match (life, seen) {
            (NONE, NONE) => None,
            _ => Some(Mark { life: bits(life)?, number: number(seen)? }),
        };
        let place = Place {
            commit: Commit(number(commit)?),
            within,
            gap_event: number(gap_event)?,
            job: number(job)?,
            alert_event: number(alert_event)?,
        };
        Ok(Self { incarnation: Incarnation(bits(incarnation)?), place, freshness })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_go_there_and_back() {
        let place = |within| Place { commit: Commit(12), within, gap_event: 3, job: 0, alert_event: 4 };
        let rows = [
            (place(None), None, "ff.12._._.3.0.4._._"),
            (place(Some((7, Timestamp(-5)))), Some(Mark { life: 16, number: 9 }), "ff.12.7.-5.3.0.4.10.9"),
        ];
        for (place, freshness, text) in rows {
            let position = Position { incarnation: Incarnation(255), place, freshness };
            assert_eq!(position.to_string(), text);
            assert_eq!(text.parse(), Ok(position));
        }
        for text in
            ["", "12", "ff.12._._.3.0._._", "ff.x._._.3.0.4._._", "ff.12._.5.3.0.4._._", "g.12._._.3.0.4._._"]
        {
            assert_eq!(text.parse::<Position>(), Err(NoPosition), "{text}");
        }
    }
}
