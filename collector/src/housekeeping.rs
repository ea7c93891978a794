//! What is tidied away by itself, and after how long: devices that nobody confirmed, devices whose agreement has ended, and
//! what is only kept for people to look at. Nothing that holds readings, or may hold some, is ever removed by itself: such a
//! device is asked no more, and says why; a frame that makes no sense today may be the only copy of what a later program can
//! read, and stays until a person discards it.
//!
//! Pure: facts and now come in. Contract: [`verdict`] for a device, [`Policy`] for ages; `ingest::housekeep` carries it out.

use std::collections::BTreeMap;

use gapless_common::id::Epoch;
use gapless_common::planted::{self, Bug};
use gapless_common::text::format_duration_ms;
use gapless_common::time::Timestamp;

use crate::store::model::StopReason;

const DAY_MS: i64 = 86_400_000;

/// Who says that a device is to be collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirm {
    /// Whoever wrote the configuration of its agent: it is confirmed with its announcement.
    Announced,
    /// A person, through the API.
    Person,
}

/// What is tidied away, and after how long, in ms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Who confirms a device.
    pub confirm: Confirm,
    /// A device that nobody confirmed and that sent nothing is dropped.
    pub empty_ms: i64,
    /// A device that nobody confirmed is dropped, whatever it sent.
    pub unconfirmed_ms: i64,
    /// A device goes on being asked after its agreement has ended.
    pub grace_ms: i64,
    /// When agreements end, by `site/device`; where nothing is said here the device's attribute `agreement_ends` says it.
    pub agreements: BTreeMap<String, Timestamp>,
    /// What became of jobs is kept.
    pub job_history_ms: i64,
    /// Alerts that are over are kept.
    pub alerts_ms: i64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            confirm: Confirm::Announced,
            empty_ms: DAY_MS,
            unconfirmed_ms: 90 * DAY_MS,
            grace_ms: 30 * DAY_MS,
            agreements: BTreeMap::new(),
            job_history_ms: 90 * DAY_MS,
            alerts_ms: 365 * DAY_MS,
        }
    }
}

impl Policy {
    /// When the agreement of a device ends, where anybody says so. The attribute is the end as in [`end`].
    ///
    /// # Errors
    /// The attribute is no such end.
    pub fn agreement_ends(
        &self,
        site: &str,
        device: &str,
        attribute: Option<&str>,
    ) -> Result<Option<Timestamp>, String> {
        match self.agreements.get(&format!("{site}/{device}")) {
            Some(at) => Ok(Some(*at)),
            None => attribute.map(end).transpose(),
        }
    }
}

/// The end of an agreement: its last day (`2027-01-31`, UTC), or an instant.
///
/// # Errors
/// It is neither.
pub fn end(text: &str) -> Result<Timestamp, String> {
    // A day is an instant's first ten letters; whether it is one is seen by reading its midnight.
    let day = format!("{text}T00:00:00Z").parse::<Timestamp>().map(|midnight| midnight.plus_ms(DAY_MS));
    day.or_else(|_| text.parse()).map_err(|_: gapless_common::time::TimestampError| {
        format!("`{text}` is no end of an agreement: write its last day as 2027-01-31, or an instant as 2027-01-31T12:00:00Z")
    })
}

/// What is known of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// When its first catalog came.
    pub announced_at: Timestamp,
    /// Whether it is confirmed.
    pub is_confirmed: bool,
    /// Whether there is a reading of it.
    pub has_readings: bool,
    /// When its agreement ends, where it has such an end.
    pub agreement_ends: Option<Timestamp>,
    /// Why it is asked no more, where that is so.
    pub stopped: Option<StopReason>,
}

/// What is done about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is confirmed by its announcement.
    Confirm,
    /// It is asked no more, for that reason and in those words.
    Stop(StopReason, String),
    /// Its agreement goes on after all: it is asked again.
    GoOn,
}

/// What is to be done about a device; `None` where nothing is.
#[must_use]
pub fn verdict(facts: &Facts, policy: &Policy, now: Timestamp) -> Option<Verdict> {
    let ended = facts.agreement_ends.filter(|end| now.since_ms(*end) >= policy.grace_ms);
    match (facts.stopped, ended) {
        (Some(StopReason::AgreementEnded), None) => return Some(Verdict::GoOn),
        (Some(_), _) => return None,
        (None, Some(end)) => {
            let why = format!("its agreement ended at {end}");
            return Some(Verdict::Stop(StopReason::AgreementEnded, why));
        }
        (None, None) => {}
    }
    if facts.is_confirmed {
        return None;
    }
    if policy.confirm == Confirm::Announced {
        return Some(Verdict::Confirm);
    }
    let (limit_ms, came) = match facts.has_readings {
        true => (policy.unconfirmed_ms, "its readings are kept"),
        false => (policy.empty_ms, "it sent nothing"),
    };
    (now.since_ms(facts.announced_at) >= limit_ms).then(|| {
        let age = format_duration_ms(limit_ms.unsigned_abs());
        Verdict::Stop(StopReason::NotConfirmed, format!("nobody confirmed it within {age}; {came}"))
    })
}

/// Whether a device is polled, and what its agent was told of that last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Polling {
    /// Why it is asked no more, where that is so.
    pub stopped: Option<StopReason>,
    /// Its agent's catalog in force has its slots due.
    pub is_polled: bool,
    /// The life of its agent, as of its last birth.
    pub epoch: Epoch,
    /// What was told last, where anything was.
    pub told: Option<Told>,
}

/// A command of [`Polling`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// To poll it no more; else to poll it again.
    pub paused: bool,
    /// In which life of the agent.
    pub epoch: Epoch,
    /// What became of it.
    pub heard: Heard,
}

/// What became of a command of [`Told`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It may still be answered.
    Open,
    /// It is carried out; or the agent knows no such command, or no such device.
    Done,
    /// It was refused just now.
    Refused,
    /// It was refused for long, expired, or was taken back.
    Over,
}

/// What an agent is to be told of a device: to poll it no more (`true`) where its agreement has ended or nobody has confirmed it,
/// or again (`false`). A suspended one is polled on: that is how it is seen that it works. An agent that is started anew has
/// forgotten what it was told, and polls what its configuration says.
#[must_use]
pub fn pause(polling: &Polling) -> Option<bool> {
    let Polling { stopped, is_polled, epoch, told } = *polling;
    let is_over = matches!(stopped, Some(StopReason::AgreementEnded | StopReason::NotConfirmed));
    // Its answer may be here before the catalog that follows from it. A new life polls by itself what its configuration says.
    let was_told = |told: Told| match told.heard {
        Heard::Open | Heard::Refused => true,
        Heard::Done => !is_over || told.epoch == epoch || planted::has(Bug::PauseForgotten),
        Heard::Over => false,
    };
    match told {
        Some(told) if told.paused == is_over && was_told(told) => None,
        // It takes the place of what is under way.
        Some(told) if told.paused != is_over && told.heard == Heard::Open => Some(is_over),
        // What is paused may be so by its configuration, or by a word that an older database had: the agent knows.
        _ => (is_polled == is_over).then_some(is_over),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_767_225_600_000);

    fn days_ago(days: i64) -> Timestamp {
        NOW.plus_ms(-days * DAY_MS)
    }

    const NEW: Facts = Facts {
        announced_at: NOW,
        is_confirmed: false,
        has_readings: false,
        agreement_ends: None,
        stopped: None,
    };

    #[test]
    fn devices_that_nobody_confirmed_are_dropped_by_what_they_sent() {
        let person = Policy { confirm: Confirm::Person, ..Policy::default() };
        let old = |days, has_readings| Facts { announced_at: days_ago(days), has_readings, ..NEW };
        let rows = [
            (NEW, None),
            (old(1, false), Some("nobody confirmed it within 1d; it sent nothing")),
            (old(1, true), None),
            (old(89, true), None),
            (old(90, true), Some("nobody confirmed it within 90d; its readings are kept")),
            (Facts { is_confirmed: true, ..old(900, false) }, None),
            (Facts { stopped: Some(StopReason::NotConfirmed), ..old(900, true) }, None),
            (Facts { stopped: Some(StopReason::Suspended), ..old(900, true) }, None),
        ];
        for (facts, expected) in rows {
            let stop = |why: &str| Verdict::Stop(StopReason::NotConfirmed, why.to_owned());
            assert_eq!(verdict(&facts, &person, NOW), expected.map(stop), "{facts:?}");
        }
        assert_eq!(verdict(&old(900, true), &Policy::default(), NOW), Some(Verdict::Confirm));
    }

    #[test]
    fn an_ended_agreement_has_its_grace_and_may_be_renewed() {
        let ends = |days, stopped| Facts {
            agreement_ends: Some(days_ago(days)),
            is_confirmed: true,
            stopped,
            ..NEW
        };
        let ended = Some(StopReason::AgreementEnded);
        let stop =
            Verdict::Stop(StopReason::AgreementEnded, format!("its agreement ended at {}", days_ago(30)));
        let rows = [
            (ends(-5, None), None),
            (ends(29, None), None),
            (ends(30, None), Some(stop)),
            (ends(30, ended), None),
            (ends(29, ended), Some(Verdict::GoOn)),
            (Facts { agreement_ends: None, ..ends(0, ended) }, Some(Verdict::GoOn)),
            (ends(30, Some(StopReason::Suspended)), None),
        ];
        for (facts, expected) in rows {
            assert_eq!(verdict(&facts, &Policy::default(), NOW), expected, "{facts:?}");
        }
    }

    #[test]
    fn an_agent_is_told_once_in_each_life_whom_to_poll_no_more() {
        use Heard::{Done, Open, Over, Refused};
        let ended = Some(StopReason::AgreementEnded);
        let polling = |stopped, is_polled, told| Polling { stopped, is_polled, epoch: Epoch(2), told };
        let told = |paused, epoch, heard| Some(Told { paused, epoch: Epoch(epoch), heard });
        let rows = [
            (polling(None, true, None), None, "nothing was ever ended"),
            (polling(None, false, None), Some(false), "an older database may have said so: the agent knows"),
            (polling(Some(StopReason::Suspended), true, None), None, "it is seen whether it works"),
            (polling(ended, true, None), Some(true), "it ends"),
            (polling(Some(StopReason::NotConfirmed), true, None), Some(true), "dropped"),
            (polling(ended, true, told(true, 2, Open)), None, "told, and not answered"),
            (polling(ended, true, told(true, 2, Done)), None, "its catalog is on its way"),
            (polling(ended, false, told(true, 1, Done)), None, "done"),
            (polling(ended, true, told(true, 1, Done)), Some(true), "started anew since"),
            (polling(ended, true, told(true, 1, Open)), None, "it goes out at the birth"),
            (polling(ended, true, told(true, 2, Refused)), None, "its bus was busy: a little later"),
            (polling(ended, true, told(true, 2, Over)), Some(true), "once more"),
            (polling(ended, true, told(false, 2, Done)), Some(true), "it ends once more"),
            (polling(None, false, told(true, 2, Done)), Some(false), "it goes on"),
            (polling(None, true, told(true, 1, Done)), None, "it goes on by itself since a start"),
            (polling(None, true, told(true, 2, Open)), Some(false), "it goes on before it was heard"),
            (polling(None, false, told(false, 2, Open)), None, "told, and not answered"),
            (polling(None, false, told(false, 1, Done)), None, "paused by its configuration"),
            (polling(None, false, told(false, 2, Over)), Some(false), "refused before"),
        ];
        for (polling, expected, why) in rows {
            assert_eq!(pause(&polling), expected, "{why}");
        }
    }

    #[test]
    fn an_end_is_a_day_or_an_instant() {
        let rows = [
            ("2025-12-31", Some(NOW)),
            ("2026-01-01T00:00:00Z", Some(NOW)),
            ("2026-01-01T01:00:00+01:00", Some(NOW)),
            ("2026-02-30", None),
            ("31.12.2025", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(end(text).ok(), expected, "{text}");
        }
        let policy = Policy { agreements: [("farm/mast".to_owned(), NOW)].into(), ..Policy::default() };
        assert_eq!(policy.agreement_ends("farm", "mast", Some("soon")), Ok(Some(NOW)));
        assert!(policy.agreement_ends("farm", "meter", Some("soon")).is_err());
        assert_eq!(policy.agreement_ends("farm", "meter", None), Ok(None));
    }
}
