//! A message in words and in JSON: what was raised and resolved since the last one, one by one or, where it is much, in short.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::time::Timestamp;
use serde_json::{Value, json};

use super::Kind;
use super::digest::SINGLE_MAX;

/// Sites that a digest names one by one.
const SITES_NAMED_MAX: usize = 20;
/// Devices and agents of a site that a digest names.
const NAMES_MAX: usize = 8;
/// Alerts that a document holds; beyond it says how many more there are.
const ALERTS_MAX: usize = 100;

/// What has become of an alert since the last message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Its number.
    pub alert: i64,
    /// What it is about.
    pub kind: Kind,
    /// Where; nowhere where it is about the collector.
    pub site: Option<String>,
    /// The device or agent, or the collector.
    pub who: Who,
    /// Its words.
    pub detail: String,
    /// When it was raised.
    pub raised_at: Timestamp,
    /// When it was resolved, where it was.
    pub resolved_at: Option<Timestamp>,
    /// Whether it was raised since the last message, and not before.
    pub is_new: bool,
    /// Who asked for its device while its source could not reach it, once that is over.
    pub awaited_by: Option<String>,
}

/// Whose alert it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A device of the site.
    Device(String),
    /// An agent of the site.
    Agent(String),
    /// The collector itself.
    Collector,
}

/// A message to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The same for each try: who gets it twice can tell.
    pub id: String,
    /// The collector that sends it.
    pub collector: String,
    /// What has happened, in the order in which it was raised.
    pub told: Vec<Told>,
}

impl Told {
    /// `site/device`, `agent site/agent`, or `the collector`.
    #[must_use]
    pub fn subject(&self) -> String {
        match &self.who {
            Who::Device(device) => format!("{}/{device}", self.place()),
            Who::Agent(agent) => format!("agent {}/{agent}", self.place()),
            Who::Collector => self.place().to_owned(),
        }
    }

    /// The site, or what stands for it.
    fn place(&self) -> &str {
        self.site.as_deref().unwrap_or("the collector")
    }

    /// What it is called within its site.
    fn name(&self) -> Option<&str> {
        match &self.who {
            Who::Device(name) | Who::Agent(name) => Some(name),
            Who::Collector => None,
        }
    }

    const fn state(&self) -> &'static str {
        match (self.is_new, self.resolved_at) {
            (_, None) => "raised",
            (false, Some(_)) => "resolved",
            (true, Some(_)) => "raised_and_resolved",
        }
    }

    fn line(&self) -> String {
        let (subject, kind, detail) = (self.subject(), self.kind.word(), &self.detail);
        let awaited = self.awaited_by.as_ref().map_or(String::new(), |who| format!("; asked for by {who}"));
        match (self.is_new, self.resolved_at) {
            (_, None) => format!("{subject}: {kind}: {detail}"),
            (false, Some(at)) => format!("{subject}: {kind}: over since {at}{awaited}"),
            (true, Some(at)) => format!("{subject}: {kind}: {detail} (over since {at}{awaited})"),
        }
    }
}

/// Who is meant, as far as there is room for that in a line.
fn some_of(names: &BTreeSet<&str>) -> String {
    let some: Vec<&str> = names.iter().take(NAMES_MAX).copied().collect();
    match names.len().saturating_sub(NAMES_MAX) {
        _ if some.is_empty() => String::new(),
        0 => format!(" ({})", some.join(", ")),
        more => format!(" ({} and {more} more)", some.join(", ")),
    }
}

impl Notice {
    /// Whether it is told in short.
    #[must_use]
    pub fn is_digest(&self) -> bool {
        self.told.len() > SINGLE_MAX
    }

    fn is_over(&self, over: bool) -> impl Iterator<Item = &Told> {
        self.told.iter().filter(move |told| told.resolved_at.is_some() == over)
    }

    /// In a line.
    #[must_use]
    pub fn summary(&self) -> String {
        if let [one] = self.told.as_slice() {
            return one.line();
        }
        let (raised, over) = (self.is_over(false).count(), self.is_over(true).count());
        let kinds = self.is_over(false).fold(BTreeMap::<_, usize>::new(), |mut kinds, told| {
            *kinds.entry(told.kind.word()).or_default() += 1;
            kinds
        });
        let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let sites: BTreeSet<&str> = self.told.iter().map(Told::place).collect();
        let at = match sites.iter().next() {
            Some(site) if sites.len() == 1 => format!("at {site}"),
            _ => format!("at {} sites", sites.len()),
        };
        match (raised, over) {
            (0, _) => format!("{over} alerts are over {at}"),
            (_, 0) => format!("{raised} alerts {at}: {}", kinds.join(", ")),
            _ => {
                let (s, are) = (if raised == 1 { "" } else { "s" }, if over == 1 { "is" } else { "are" });
                format!("{raised} alert{s} {at}: {}; {over} {are} over", kinds.join(", "))
            }
        }
    }

    /// The lines below the summary: each alert, or each site of a digest.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        if !self.is_digest() {
            return if self.told.len() == 1 {
                Vec::new()
            } else {
                self.told.iter().map(Told::line).collect()
            };
        }
        let mut sites: BTreeMap<&str, (usize, usize, BTreeSet<&str>)> = BTreeMap::new();
        for told in &self.told {
            let (raised, over, names) = sites.entry(told.place()).or_default();
            *(if told.resolved_at.is_some() { over } else { raised }) += 1;
            names.extend(told.name());
        }
        let mut by_count: Vec<_> = sites.into_iter().collect();
        by_count.sort_by_key(|(site, (raised, over, _))| (std::cmp::Reverse((*raised, *over)), *site));
        let line = |(site, (raised, over, names)): &(&str, (usize, usize, BTreeSet<&str>))| {
            let over = if *over == 0 { String::new() } else { format!(", {over} over") };
            format!("{site}: {raised} raised{over}{}", some_of(names))
        };
        let mut lines: Vec<String> = by_count.iter().take(SITES_NAMED_MAX).map(line).collect();
        if by_count.len() > SITES_NAMED_MAX {
            let more = by_count.len() - SITES_NAMED_MAX;
            lines.push(format!("and {more} more site{}", if more == 1 { "" } else { "s" }));
        }
        lines
    }

    /// For a mail.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.summary();
        for line in self.lines() {
            text.push('\n');
            text.push_str(&line);
        }
        format!("{text}\n\nAll alerts, and who has acknowledged them: the page /alerts of the collector.\n")
    }

    /// For a program: everything that is known, of the first alerts.
    #[must_use]
    pub fn document(&self) -> Value {
        let alert = |told: &Told| {
            let (device, agent) = match &told.who {
                Who::Device(device) => (Some(device), None),
                Who::Agent(agent) => (None, Some(agent)),
                Who::Collector => (None, None),
            };
            json!({
                "alert": told.alert, "kind": told.kind.word(), "state": told.state(), "site": told.site,
                "device": device, "agent": agent, "detail": told.detail,
                "raised_at": told.raised_at.to_string(), "resolved_at": told.resolved_at.map(|at| at.to_string()),
                "awaited_by": told.awaited_by,
            })
        };
        json!({
            "id": self.id, "collector": self.collector, "summary": self.summary(), "digest": self.is_digest(),
            "alerts": self.told.iter().take(ALERTS_MAX).map(alert).collect::<Vec<_>>(),
            "more": self.told.len().saturating_sub(ALERTS_MAX),
        })
    }

    /// As Slack and what is compatible with it take it: `text` in mrkdwn, of which `&`, `<` and `>` are escaped
    /// (Slack API, *Formatting text for app surfaces*).
    #[must_use]
    pub fn slack(&self) -> Value {
        let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let mut text = format!("*{}*: {}", escaped(&self.collector), escaped(&self.summary()));
        for line in self.lines() {
            text.push_str("\n• ");
            text.push_str(&escaped(&line));
        }
        json!({ "text": text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(alert: i64, site: &str, device: &str) -> Told {
        Told {
            alert,
            kind: Kind::Stale,
            site: Some(site.to_owned()),
            who: Who::Device(device.to_owned()),
            detail: "<old> & odd".to_owned(),
            raised_at: Timestamp(1_000),
            resolved_at: None,
            is_new: true,
            awaited_by: None,
        }
    }

    fn notice(told: Vec<Told>) -> Notice {
        Notice { id: "7-ops-1".to_owned(), collector: "main".to_owned(), told }
    }

    #[test]
    fn a_few_are_told_one_by_one() {
        let one = notice(vec![told(1, "farm", "mast")]);
        assert_eq!(one.summary(), "farm/mast: stale: <old> & odd");
        assert_eq!((one.lines().len(), one.is_digest()), (0, false));
        assert_eq!(one.slack(), json!({ "text": "*main*: farm/mast: stale: &lt;old&gt; &amp; odd" }));
        let over = Told { resolved_at: Some(Timestamp(9_000)), is_new: false, ..told(2, "farm", "gw") };
        let agent = Told { who: Who::Agent("gw".to_owned()), kind: Kind::Silent, ..told(3, "park", "") };
        let some = notice(vec![told(1, "farm", "mast"), over, agent]);
        assert_eq!(some.summary(), "2 alerts at 2 sites: 1 silent, 1 stale; 1 is over");
        let two = notice(some.told[1..].to_vec());
        assert_eq!(two.summary(), "1 alert at 2 sites: 1 silent; 1 is over");
        assert_eq!(
            some.lines(),
            [
                "farm/mast: stale: <old> & odd",
                "farm/gw: stale: over since 1970-01-01T00:00:09Z",
                "agent park/gw: silent: <old> & odd"
            ]
        );
        let document = some.document();
        assert_eq!((&document["id"], &document["digest"]), (&json!("7-ops-1"), &json!(false)));
        assert_eq!(document["alerts"][1]["state"], "resolved");
        assert_eq!(document["alerts"][2]["agent"], "gw");
    }

    #[test]
    fn who_asked_for_a_device_that_could_not_be_reached_is_named_when_it_is_back() {
        let (kind, who) = (Kind::Unreachable, Some("token anna, token ben".to_owned()));
        let back = Told {
            kind,
            resolved_at: Some(Timestamp(9_000)),
            is_new: false,
            awaited_by: who,
            ..told(1, "home", "gas")
        };
        let line =
            "home/gas: unreachable: over since 1970-01-01T00:00:09Z; asked for by token anna, token ben";
        let one = notice(vec![back]);
        assert_eq!(
            (one.summary().as_str(), &one.document()["alerts"][0]["awaited_by"]),
            (line, &json!("token anna, token ben"))
        );
    }

    #[test]
    fn the_collector_is_told_of_as_itself() {
        let own = Told { site: None, who: Who::Collector, kind: Kind::Broker, ..told(4, "", "") };
        let one = notice(vec![own.clone()]);
        assert_eq!(one.summary(), "the collector: broker: <old> & odd");
        let alert = &one.document()["alerts"][0];
        assert_eq!(
            (&alert["site"], &alert["device"], &alert["agent"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );
        let some = notice(vec![own, told(1, "farm", "mast")]);
        assert_eq!(some.summary(), "2 alerts at 2 sites: 1 broker, 1 stale");
    }

    #[test]
    fn a_region_is_told_in_short() {
        let all = (0..250).map(|n| told(n, &format!("site-{}", n % 25), "meter")).collect();
        let region = notice(all);
        assert_eq!(region.summary(), "250 alerts at 25 sites: 250 stale");
        let lines = region.lines();
        assert_eq!(
            (lines.len(), lines[0].as_str(), lines[20].as_str()),
            (21, "site-0: 10 raised (meter)", "and 5 more sites")
        );
        let document = region.document();
        assert_eq!((&document["more"], document["alerts"].as_array().unwrap().len()), (&json!(150), 100));
        assert!(region.text().len() < 1_500);
        let one = notice((0..12).map(|n| told(n, "north", &format!("m{n:02}"))).collect());
        assert_eq!(one.lines(), ["north: 12 raised (m00, m01, m02, m03, m04, m05, m06, m07 and 4 more)"]);
    }
}
