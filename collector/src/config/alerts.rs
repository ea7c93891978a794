//! The part `[alerts]` of the configuration: from where on people are told, and who is. A value that cannot be is refused
//! where it stands, so that the message names its line.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::id::{DeviceId, SiteId};
use serde::Deserialize;

use super::Span;
use super::receivers::{Mail, Name, Receiver, Way, Webhook};
use super::words::checked_text;
use crate::alerts::Kind;
use crate::alerts::limits::{Limits, Rules, Said};

/// The limits are the same at each place; what else stands beside them differs.
macro_rules! limits_table {
    ($(#[$doc:meta])* $name:ident from $raw:ident { $($(#[$extra_doc:meta])* $extra:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
        #[serde(try_from = "Raw", default)]
        pub struct $name {
            /// The limits.
            pub said: Said,
            $($(#[$extra_doc])* pub $extra: $type,)*
        }

        #[derive(Deserialize, Default)]
        #[serde(deny_unknown_fields, default)]
        struct $raw {
            stale: Option<Span>,
            silent: Option<Span>,
            gap: Option<Slots>,
            outbox: Option<Percent>,
            clock: Option<Span>,
            warn_after: Option<Span>,
            suspend_after: Option<Span>,
            implausible: Option<Polls>,
            flat: Option<Polls>,
            moves: Option<BTreeSet<String>>,
            off: Option<BTreeSet<Word>>,
            $($extra: $type,)*
        }

        impl TryFrom<$raw> for $name {
            type Error = String;

            fn try_from(raw: $raw) -> Result<Self, String> {
                let said = Said {
                    stale_ms: raw.stale.map(|span| span.0),
                    silent_ms: raw.silent.map(|span| span.0),
                    gap_slots: raw.gap.map(|slots| slots.0),
                    outbox_percent: raw.outbox.map(|percent| percent.0),
                    clock_ms: raw.clock.map(|span| span.0),
                    warn_ms: raw.warn_after.map(|span| span.0),
                    suspend_ms: raw.suspend_after.map(|span| span.0),
                    implausible_polls: raw.implausible.map(|polls| polls.0),
                    flat_polls: raw.flat.map(|polls| polls.0),
                    moves: raw.moves,
                    off: raw.off.map(|words| words.into_iter().map(|word| word.0).collect()),
                };
                check(&said)?;
                Ok(Self { said, $($extra: raw.$extra,)* })
            }
        }
    };
}

mod part {
    //! Of a class, a site or a device.
    use super::*;
    limits_table! {
        /// What is said of a class, a site or a device.
        Part from Raw {}
    }
}

mod whole {
    //! Of all.
    use super::*;
    limits_table! {
        /// From where on people are told, and who is.
        Alerts from Raw {
            /// By the attribute `class` of a device.
            class: BTreeMap<String, Part>,
            /// By site.
            site: BTreeMap<SiteKey, Part>,
            /// By `site/device`.
            device: BTreeMap<DeviceKey, Part>,
            /// Who is told over HTTP.
            webhook: BTreeMap<Name, Webhook>,
            /// Who is told by mail.
            mail: BTreeMap<Name, Mail>,
        }
    }
}

pub use part::Part;
pub use whole::Alerts;

fn check(said: &Said) -> Result<(), String> {
    let usual = Limits::default();
    let (warn_ms, suspend_ms) =
        (said.warn_ms.unwrap_or(usual.warn_ms), said.suspend_ms.unwrap_or(usual.suspend_ms));
    if suspend_ms < warn_ms {
        return Err("`suspend_after` comes before `warn_after` (2d and 7d unless said): make it longer, or the other \
                    one shorter"
            .to_owned());
    }
    Ok(())
}

impl Alerts {
    /// What they say.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules {
            usual: self.said.clone(),
            of_class: self.class.iter().map(|(key, part)| (key.clone(), part.said.clone())).collect(),
            of_site: self.site.iter().map(|(key, part)| (key.0.clone(), part.said.clone())).collect(),
            of_device: self.device.iter().map(|(key, part)| (key.0.clone(), part.said.clone())).collect(),
        }
    }

    /// Who is told.
    #[must_use]
    pub fn receivers(&self) -> Vec<Receiver> {
        let webhooks = self.webhook.iter().map(|(name, webhook)| Receiver {
            name: format!("webhook.{}", name.0),
            way: Way::Webhook(webhook.clone()),
        });
        let mails = self
            .mail
            .iter()
            .map(|(name, mail)| Receiver { name: format!("mail.{}", name.0), way: Way::Mail(mail.clone()) });
        webhooks.chain(mails).collect()
    }
}

checked_text!(
    /// The name of a site.
    SiteKey(String),
    |text| SiteId::new(&text).map(|site| site.to_string()).map_err(|error| error.to_string())
);

checked_text!(
    /// `site/device`.
    DeviceKey(String),
    |text| match text.split_once('/') {
        Some((site, device)) if SiteId::new(site).is_ok() && DeviceId::new(device).is_ok() => Ok(text),
        _ => Err(format!("`{text}` is no device: write \"site/device\"")),
    }
);

checked_text!(
    /// A kind of alert.
    Word(Kind),
    |text| Kind::of_word(&text).ok_or_else(|| {
        let words = Kind::ALL.map(Kind::word).join(", ");
        format!("`{text}` is no kind of alert: {words}")
    })
);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($type:ty) within $least:literal to $greatest:literal of $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
        #[serde(try_from = "i64")]
        pub struct $name(pub $type);

        impl TryFrom<i64> for $name {
            type Error = String;

            fn try_from(number: i64) -> Result<Self, String> {
                match <$type>::try_from(number) {
                    Ok(fits) if ($least..=$greatest).contains(&number) => Ok(Self(fits)),
                    _ => Err(format!("{number} is not {}: {} to {}", $what, $least, $greatest)),
                }
            }
        }
    };
}

number!(
    /// A share in percent.
    Percent(i64) within 1 to 100 of "a share in percent"
);
number!(
    /// A number of slots.
    Slots(i64) within 1 to 1_000_000_000 of "a number of slots"
);
number!(
    /// A number of polls.
    Polls(u32) within 0 to 1_000 of "a number of polls (0: never)"
);

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::super::receivers::Guard;
    use super::*;

    fn read(text: &str) -> Result<Alerts, String> {
        toml::from_str::<Config>(text).map(|config| config.alerts).map_err(|error| error.to_string())
    }

    const GOOD: &str = r#"
[alerts]
stale = "10m"
outbox = 90
off = ["clock"]
[alerts.class.wind]
moves = ["speed"]
flat = 30
[alerts.site.farm]
gap = 3
[alerts.device."farm/mast"]
suspend_after = "30d"
[alerts.webhook.ops]
url = "@/etc/gapless/hook"
template = "slack"
[alerts.mail.oncall]
server = "smtps://mail.example.org"
from = "Gapless <gapless@example.org>"
to = ["a@example.org", "b@example.org"]
user = "gapless"
password_file = "/etc/gapless/mail"
"#;

    #[test]
    fn limits_and_receivers_are_read() {
        let alerts = read(GOOD).unwrap();
        let limits = alerts.rules().of("farm", "mast", Some("wind"));
        assert_eq!((limits.stale_ms, limits.outbox_percent, limits.gap_slots), (600_000, 90, 3));
        assert_eq!((limits.flat_polls, limits.suspend_ms), (30, 30 * 86_400_000));
        assert!(limits.moves.contains("speed") && limits.off.contains(&Kind::Clock));
        let receivers = alerts.receivers();
        let names: Vec<&str> = receivers.iter().map(|receiver| receiver.name.as_str()).collect();
        assert_eq!(names, ["webhook.ops", "mail.oncall"]);
        let Way::Mail(mail) = &receivers[1].way else { unreachable!("mails come behind webhooks") };
        assert_eq!((mail.server.port, mail.server.guard, mail.to.len()), (465, Guard::Tls, 2));
        assert_eq!(read("").unwrap(), Alerts::default());
        assert_eq!(Alerts::default().rules().of("a", "b", None), Limits::default());
    }

    /// Where only one of the two is said, the other one is what it is unless said: 2 and 7 days.
    #[test]
    fn a_warning_never_comes_after_the_suspension_though_one_of_them_is_not_said() {
        let rows = [
            ("warn_after = \"7d\"", true),
            ("warn_after = \"8d\"", false),
            ("suspend_after = \"2d\"", true),
            ("suspend_after = \"1d\"", false),
            ("warn_after = \"8d\"\nsuspend_after = \"9d\"", true),
            ("warn_after = \"1h\"\nsuspend_after = \"1d\"", true),
            ("warn_after = \"1d\"\nsuspend_after = \"1h\"", false),
        ];
        for (said, is_good) in rows {
            for part in
                ["[alerts]", "[alerts.class.wind]", "[alerts.site.farm]", "[alerts.device.\"farm/mast\"]"]
            {
                let read = read(&format!("{part}\n{said}"));
                assert_eq!(read.is_ok(), is_good, "{part} {said}: {read:?}");
                assert!(read.map_or_else(|why| why.contains("`suspend_after`"), |_| true), "{part} {said}");
            }
        }
    }

    #[test]
    fn every_mistake_is_named_with_its_line() {
        let rows = [
            ("stale = \"10m\"", "stale = \"soon\"", "line 3", "duration"),
            ("stale = \"10m\"", "stail = \"10m\"", "line 3", "unknown field"),
            ("outbox = 90", "outbox = 101", "line 4", "1 to 100"),
            ("outbox = 90", "outbox = \"90\"", "line 4", "invalid type"),
            ("off = [\"clock\"]", "off = [\"cloak\"]", "line 5", "kind of alert"),
            ("flat = 30", "flat = -1", "line 8", "number of polls"),
            ("[alerts.site.farm]", "[alerts.site.\"far m\"]", "line 9", "far m"),
            ("gap = 3", "gap = 0", "line 10", "number of slots"),
            ("\"farm/mast\"", "mast", "line 11", "site/device"),
            ("suspend_after = \"30d\"", "suspend_after = \"1d\"", "line 11", "`warn_after`"),
            ("[alerts.webhook.ops]", "[alerts.webhook.\"o/p\"]", "line 13", "is no name"),
            ("@/etc/gapless/hook", "ftp://host/x", "line 14", "is no address"),
            ("\"slack\"", "\"teams\"", "line 15", "teams"),
            ("smtps://mail.example.org", "mail.example.org", "line 17", "smtps://host"),
            ("Gapless <gapless@example.org>", "gapless", "line 18", "mail address"),
            ("[\"a@example.org\", \"b@example.org\"]", "[]", "line 16", "`to` names nobody"),
            ("\"b@example.org\"", "\"b\"", "line 19", "mail address"),
            ("user = \"gapless\"", "", "line 16", "without `user`"),
        ];
        for (right, wrong, line, why) in rows {
            let text = GOOD.replacen(right, wrong, 1);
            assert_ne!(text, GOOD, "{right}");
            let error = read(&text).unwrap_err();
            assert!(
                error.contains(&format!("{line},")) && error.contains(why),
                "{wrong}: {line}, {why}: {error}"
            );
        }
    }
}
