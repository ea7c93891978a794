//! The part `[gaps]` of the configuration: how devices are asked for what is missing. A value that cannot be is refused where
//! it stands, so that the message names its line.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::Span;
use super::donors::Donors;
use crate::gaps::plan::Order;
use crate::gaps::{Policies, Policy};

/// How devices are asked for what is missing; each class of devices may have ways of its own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Gaps {
    /// The distance of each attempt from the one before.
    pub attempts: Option<Attempts>,
    /// The longest window of one request.
    #[serde(deserialize_with = "window")]
    pub window: Option<Span>,
    /// Which windows come first.
    pub order: Option<Order>,
    /// By the attribute `class` of a device; what is not said there is as above.
    pub class: BTreeMap<String, GapsOfClass>,
    /// Whose readings stand in for whose.
    pub donor: Donors,
}

/// The same for one class.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct GapsOfClass {
    /// As in [`Gaps`].
    pub attempts: Option<Attempts>,
    /// As in [`Gaps`].
    #[serde(deserialize_with = "window")]
    pub window: Option<Span>,
    /// As in [`Gaps`].
    pub order: Option<Order>,
}

fn window<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Span>, D::Error> {
    let span = Span::deserialize(deserializer)?;
    let why = "`window` is nothing: write a length of time such as \"90d\"";
    if span.0 > 0 { Ok(Some(span)) } else { Err(serde::de::Error::custom(why)) }
}

/// The distance of each attempt from the one before; the first one is made at once.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<Span>")]
pub struct Attempts(Vec<Span>);

impl TryFrom<Vec<Span>> for Attempts {
    type Error = &'static str;

    fn try_from(waits: Vec<Span>) -> Result<Self, &'static str> {
        if waits.first() != Some(&Span(0)) {
            return Err("`attempts`: begin with \"0s\", as the first attempt is made at once");
        }
        Ok(Self(waits))
    }
}

impl Gaps {
    /// What they say.
    #[must_use]
    pub fn policies(&self) -> Policies {
        let with =
            |base: &Policy, attempts: Option<&Attempts>, window: Option<Span>, order: Option<Order>| Policy {
                waits_ms: attempts
                    .map_or_else(|| base.waits_ms.clone(), |all| all.0.iter().map(|s| s.0).collect()),
                window_ms: window.map_or(base.window_ms, |window| window.0),
                order: order.unwrap_or(base.order),
            };
        let usual = with(&Policy::default(), self.attempts.as_ref(), self.window, self.order);
        let of_class = self.class.iter().map(|(class, gaps)| {
            (class.clone(), with(&usual, gaps.attempts.as_ref(), gaps.window, gaps.order))
        });
        Policies { of_class: of_class.collect(), usual }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;
    use crate::freshness::Subject;
    use crate::gaps::donate::Donor;

    const DAY_MS: i64 = 86_400_000;

    /// Through the file, as a collector reads it.
    fn read(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("collector.toml");
        std::fs::write(&file, text).unwrap();
        Config::read(&file).map_err(|error| error.to_string())
    }

    const GOOD: &str = r#"
[gaps]
attempts = ["0s", "1d"]
window = "30d"
[gaps.class.meter]
attempts = ["0s", "3d", "2w"]
[gaps.class."data logger"]
window = "1d"
order = "oldest"
[[gaps.donor]]
device = "farm/meter"
from = ["meter-profile", "meter-api"]
channels = { energy = "energy_import" }
[freshness]
allowed = "1h"
[freshness.class]
meter = "2h"
[freshness.site]
home-1 = "2d"
[freshness.device]
"home-1/gas" = "3d"
"#;

    #[test]
    fn each_class_has_its_schedule_and_what_it_does_not_say_is_that_of_all() {
        let policies = read(GOOD).unwrap().gaps.policies();
        let policy = |days: &[i64], window: i64, order| Policy {
            waits_ms: days.iter().map(|n| n * DAY_MS).collect(),
            window_ms: window * DAY_MS,
            order,
        };
        let rows = [
            (None, policy(&[0, 1], 30, Order::NewestFirst)),
            (Some("unheard of"), policy(&[0, 1], 30, Order::NewestFirst)),
            (Some("meter"), policy(&[0, 3, 14], 30, Order::NewestFirst)),
            (Some("data logger"), policy(&[0, 1], 1, Order::OldestFirst)),
        ];
        for (class, expected) in rows {
            assert_eq!(policies.of(class), &expected, "{class:?}");
        }
        let said_nothing = read("").unwrap().gaps.policies();
        assert_eq!(said_nothing.of(Some("meter")), &policy(&[0, 3, 14, 28], 90, Order::NewestFirst));
    }

    #[test]
    fn the_nearest_word_says_how_old_data_may_be() {
        let allowed = read(GOOD).unwrap().freshness.allowances();
        let rows = [
            (("home-1", "gas", Some("meter")), 72),
            (("home-1", "heat", Some("meter")), 48),
            (("farm", "gas", Some("meter")), 2),
            (("farm", "gas", Some("other")), 1),
            (("farm", "gas", None), 1),
        ];
        for ((site, device, class), hours) in rows {
            let subject = Subject { site, device, class, interval_ms: 1_000, flush_ms: 0 };
            assert_eq!(allowed.of(&subject), hours * 3_600_000, "{subject:?}");
        }
    }

    #[test]
    fn donors_are_asked_in_the_order_in_which_they_are_written() {
        let more = "[[gaps.donor]]\ndevice = \"farm/meter\"\nfrom = [\"clamp\"]\n[freshness]";
        let donors = read(&GOOD.replacen("[freshness]", more, 1)).unwrap().gaps.donor.all();
        let told =
            |donor: &Donor| [&donor.site, &donor.device, &donor.from, donor.channel("energy")].join(" ");
        assert_eq!(
            donors.iter().map(told).collect::<Vec<_>>(),
            [
                "farm meter meter-profile energy_import",
                "farm meter meter-api energy_import",
                "farm meter clamp energy"
            ]
        );
    }

    #[test]
    fn every_mistake_is_named_with_its_line() {
        let rows = [
            ("[\"0s\", \"1d\"]", "[\"1d\"]", "line 3", "begin with \"0s\""),
            ("[\"0s\", \"1d\"]", "[]", "line 3", "begin with \"0s\""),
            ("[\"0s\", \"1d\"]", "\"0s\"", "line 3", "expected a list"),
            ("window = \"30d\"", "window = 30", "line 4", "a length of time such as \"30m\""),
            ("window = \"30d\"", "window = \"a month\"", "line 4", "duration"),
            ("window = \"30d\"", "windows = \"30d\"", "line 4", "unknown field `windows`"),
            ("[\"0s\", \"3d\", \"2w\"]", "[\"3d\", \"2w\"]", "line 6", "begin with \"0s\""),
            ("order = \"oldest\"", "order = \"first\"", "line 9", "`newest` or `oldest`"),
            ("\"farm/meter\"", "\"meter\"", "line 11", "site/device"),
            ("[\"meter-profile\", \"meter-api\"]", "[]", "line 10", "names nobody"),
            ("[\"meter-profile\", \"meter-api\"]", "[\"meter\"]", "line 10", "cannot stand in for itself"),
            ("\"meter-api\"", "\"meter-profile\"", "line 10", "names `meter-profile` twice"),
            ("\"meter-api\"", "\"farm/meter-api\"", "line 12", "`/` cannot stand in a name"),
            ("\"energy_import\"", "\"energy import\"", "line 13", "` ` cannot stand in a name"),
            ("channels = {", "channel = {", "line 13", "unknown field `channel`"),
            ("allowed = \"1h\"", "allowed = \"soon\"", "line 15", "duration"),
            ("meter = \"2h\"", "meter = 2", "line 17", "a length of time"),
            ("home-1 = \"2d\"", "\"home 1\" = \"2d\"", "line 19", "home 1"),
            ("\"home-1/gas\" = \"3d\"", "gas = \"3d\"", "line 21", "site/device"),
        ];
        for (right, wrong, line, why) in rows {
            let text = GOOD.replacen(right, wrong, 1);
            assert_ne!(text, GOOD, "{right}");
            let error = read(&text).unwrap_err();
            let is_told =
                ["collector.toml", &format!("{line},"), why].iter().all(|word| error.contains(word));
            assert!(is_told, "{wrong}: {line}, {why}: {error}");
        }
    }
}
