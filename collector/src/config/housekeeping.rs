//! The part `[housekeeping]` of the configuration: what is tidied away by itself, and after how long.

use std::collections::BTreeMap;

use gapless_common::time::Timestamp;
use serde::Deserialize;

use super::Span;
use super::alerts::DeviceKey;
use crate::housekeeping::{self, Policy};

/// What is tidied away by itself, and after how long.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Housekeeping {
    /// Who says that a device is to be collected.
    pub confirm: Option<Confirm>,
    /// A device that nobody confirmed and that sent nothing is dropped after so long.
    pub unconfirmed_empty: Option<Span>,
    /// One that sent something is asked no more after so long.
    pub unconfirmed: Option<Span>,
    /// A device goes on being asked for so long after its agreement has ended.
    pub agreement_grace: Option<Span>,
    /// When agreements end, by `site/device`, where the device's attribute `agreement_ends` does not say it.
    pub agreement_ends: BTreeMap<DeviceKey, End>,
    /// What became of jobs is kept for so long.
    pub job_history: Option<Span>,
    /// Alerts that are over are kept for so long.
    pub alerts: Option<Span>,
}

/// Who says that a device is to be collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confirm {
    /// Its announcement by an agent.
    Auto,
    /// A person, through the API.
    Person,
}

/// A last day, or an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct End(pub Timestamp);

impl TryFrom<String> for End {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        housekeeping::end(&text).map(Self)
    }
}

impl Housekeeping {
    /// What it says.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let usual = Policy::default();
        let ms = |span: Option<Span>, usual: i64| span.map_or(usual, |span| span.0);
        Policy {
            confirm: match self.confirm {
                None | Some(Confirm::Auto) => housekeeping::Confirm::Announced,
                Some(Confirm::Person) => housekeeping::Confirm::Person,
            },
            empty_ms: ms(self.unconfirmed_empty, usual.empty_ms),
            unconfirmed_ms: ms(self.unconfirmed, usual.unconfirmed_ms),
            grace_ms: ms(self.agreement_grace, usual.grace_ms),
            agreements: self.agreement_ends.iter().map(|(key, end)| (key.0.clone(), end.0)).collect(),
            job_history_ms: ms(self.job_history, usual.job_history_ms),
            alerts_ms: ms(self.alerts, usual.alerts_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    const GOOD: &str = "[housekeeping]\nconfirm = \"person\"\nunconfirmed = \"30d\"\n\
        [housekeeping.agreement_ends]\n\"farm/mast\" = \"2025-12-31\"\n";

    #[test]
    fn what_is_said_is_taken_and_mistakes_are_named_with_their_line() {
        let read = |text: &str| toml::from_str::<Config>(text).map(|config| config.housekeeping);
        let policy = read(GOOD).unwrap().policy();
        assert_eq!((policy.confirm, policy.unconfirmed_ms), (housekeeping::Confirm::Person, 30 * 86_400_000));
        assert_eq!(policy.agreements["farm/mast"], Timestamp(1_767_225_600_000));
        assert_eq!(read("").unwrap().policy(), Policy::default());
        let rows = [
            ("person", "nobody", "line 2"),
            ("30d", "long", "line 3"),
            ("unconfirmed", "unconfirm", "line 3"),
            ("2025-12-31", "2025-12-32", "line 5"),
            ("farm/mast", "mast", "line 5"),
        ];
        for (right, wrong, line) in rows {
            let error = read(&GOOD.replacen(right, wrong, 1)).unwrap_err().to_string();
            assert!(error.contains(&format!("{line},")), "{wrong}: {line}: {error}");
        }
    }
}
