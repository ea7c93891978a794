//! The description of an HTTP source: what to ask, how to read the answer, how often, and which devices it gives.
//!
//! Pure: whoever calls reads the file.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::catalog::Device;
use gapless_common::id::{AgentId, DeviceId, SiteId};
use gapless_common::time::{SlotGrid, Timestamp};
use gapless_common::topic::AgentPath;
use serde::Deserialize;

use super::answer::{AnswerSpec, Format};
use super::auth::AuthSpec;
use super::auth::secret::Secret;
use super::delta::DeltaSpec;
use super::devices::{Shared, interval};
use super::list::{Entry, ListSpec};
pub use super::parts::{ChannelSpec, Class, DerivedSpec, DeviceSpec, Span};
use super::parts::{check_braces, sum};
use super::url::{check_origin, escaped};
use crate::config::words::expectation;

/// All of a description.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The site of its devices.
    pub site: String,
    /// Its name: what stands before `-DEVICE` in the names of its agents.
    pub name: String,
    /// The class of its devices, where they name none; `http` where it is not said. Computed ones are `derived`.
    pub class: Option<Class>,
    /// What is asked, with `{from}`, `{to}` and the `vars` of each device.
    pub url: String,
    /// Headers of each request; a value `@FILE` is the first line of that file.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// How it is told who asks, where not by a header that stays.
    #[serde(default)]
    pub auth: AuthSpec,
    /// How to read the answers.
    pub answer: AnswerSpec,
    /// Sources of one account are asked one at a time, and rest together; each for itself where it is not said.
    pub account: Option<String>,
    /// A cheap question whether anything has changed.
    pub probe: Option<Probe>,
    /// Headers by which the source says how many calls are left.
    pub quota: Option<Quota>,
    /// How many calls an account may make; all of them hold, and so do those of other sources of the account.
    #[serde(default)]
    pub calls: Vec<Calls>,
    /// The list that the source itself has of its devices.
    pub list: Option<ListSpec>,
    /// A question for what changed, in place of asking each device.
    pub delta: Option<DeltaSpec>,
    /// The longest window of one request.
    pub window: Span,
    /// How far back the first collection goes; as far as there is anything where it is not said.
    pub first: Option<Span>,
    /// How far before what is new is read again, for rows that come late or are revised.
    #[serde(default)]
    pub overlap: Span,
    /// What is not there so long after its time is taken for missing.
    pub lag: Span,
    /// How often each device is asked.
    pub every: Span,
    /// How often while somebody looks.
    pub every_least: Option<Span>,
    /// How often where nobody has looked for days.
    pub every_most: Option<Span>,
    /// How long an answer may take.
    #[serde(default = "thirty_seconds")]
    pub timeout: Span,
    /// HTTP statuses by which the source says that its consent is withdrawn: what is known of it is not asked for again.
    #[serde(default)]
    pub withdrawn: Vec<u16>,
    /// Whose consent that is. Where it is not said: with 401 the account's, with another status that of the device that the URL
    /// names. A question whose URL names no device is the account's in any case, and of listed devices the list tells.
    pub withdrawn_of: Option<Whose>,
    /// Names the consent that is in force; write another one where it was given anew.
    #[serde(default)]
    pub consent: String,
    /// HTTP statuses by which the source says that it cannot reach the device.
    #[serde(default)]
    pub unreachable: Vec<u16>,
    /// How often such a device is asked.
    #[serde(default = "a_week")]
    pub unreachable_every: Span,
    /// Its devices.
    #[serde(rename = "device", default)]
    pub devices: Vec<DeviceSpec>,
    /// Devices whose values are computed from those of others.
    #[serde(default)]
    pub derived: Vec<DerivedSpec>,
}

fn thirty_seconds() -> Span {
    Span(30_000)
}

fn a_week() -> Span {
    Span(7 * 86_400_000)
}

/// Whose consent a source has withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Whose {
    /// That of the one device that was asked for.
    Device,
    /// That of all devices of the source.
    Account,
}

impl Whose {
    /// The word for it in descriptions and attributes.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Account => "account",
        }
    }

    /// As it was kept in the attributes of a device; before it was, it was always the account's.
    pub(super) fn kept(attributes: &BTreeMap<String, String>) -> Self {
        let is_device = attributes.get(WITHDRAWN_OF).is_some_and(|word| word == Self::Device.word());
        if is_device { Self::Device } else { Self::Account }
    }
}

/// The attribute that keeps whose consent was withdrawn.
pub(super) const WITHDRAWN_OF: &str = "not_authorised_of";

/// A question that costs little, whose answer is another one once there is anything new.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// What is asked, with the `vars` of each device.
    pub url: String,
    /// The path of the revision in the JSON of the answer; the whole answer where it is not said.
    pub revision: Option<String>,
}

/// The headers of an answer that say how many calls are left, and when there are more.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// How many there are in all; the most that was ever left where it is not said.
    pub limit: Option<String>,
    /// Calls that are left.
    pub remaining: String,
    /// When there are more: seconds from now, or since 1970.
    pub reset: String,
}

/// So many calls in a time, whenever it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calls {
    /// At most so many.
    pub most: u32,
    /// In this time.
    pub per: Span,
}

/// A device that can be computed.
#[derive(Debug, Clone, PartialEq)]
pub struct Computed {
    /// The agent that it counts as.
    pub path: AgentPath,
    /// As it stands in that agent's catalog.
    pub device: Device,
    /// Device and channel of its inputs.
    pub inputs: [(String, String); 2],
}

/// A device that can be asked: its names and grid are good.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The agent that it counts as.
    pub agent: AgentId,
    /// As it stands in that agent's catalog.
    pub device: Device,
    /// Where the value of each of its channels stands in a row.
    pub values: Vec<String>,
    /// What it was described as.
    pub spec: DeviceSpec,
}

/// What is wrong with a description, and where; not the line itself, in which a secret may stand, nor what stands there in place of
/// what is expected.
pub(in crate::sources) fn wrong(text: &str, error: &toml::de::Error) -> String {
    let message = expectation(error.message()).map_or_else(|| error.message().to_owned(), |(_, told)| told);
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return message;
    };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}: {message}")
}

impl Description {
    /// Reads a description.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn read(text: &str) -> Result<Self, String> {
        let description: Self = toml::from_str(text).map_err(|error| wrong(text, &error))?;
        for placeholder in ["{from}", "{to}"] {
            if !description.url.contains(placeholder) {
                return Err(format!(
                    "`url` asks for no window: write {placeholder} where the source wants it"
                ));
            }
        }
        description.site_id()?;
        description.derived()?;
        description.check_spans()?;
        description.check_names()?;
        description.check_urls()?;
        description.check_statuses()?;
        description.answer.check()?;
        description.check_questions()?;
        description.auth.check(&description.headers)?;
        let has_some = !description.asked()?.is_empty() || !description.derived.is_empty();
        if !has_some && description.list.is_none() {
            return Err("the source has no device: write `[[device]]` or `[list]`".to_owned());
        }
        Ok(description)
    }

    /// What is asked besides windows, and how often anything may be.
    fn check_questions(&self) -> Result<(), String> {
        if let Some(list) = &self.list {
            list.check()?;
            // Whatever its devices are called, what they are must be good.
            let entry = Entry { id: "0".to_owned(), ..Entry::default() };
            self.listed(&entry, "0").map_err(|why| format!("`list.device`: {why}"))?;
        }
        if let Some(delta) = &self.delta {
            delta.check()?;
            let mut keys = BTreeMap::new();
            for spec in &self.devices {
                if let Some(other) = keys.insert(spec.key(), &spec.name) {
                    return Err(format!(
                        "devices `{other}` and `{}` are both `{}` where `delta` says what changed: write `vars = {{ id = \"…\" }}` \
                         with an id of its own for each",
                        spec.name,
                        spec.key()
                    ));
                }
            }
            if self.probe.is_some() {
                return Err("`probe` and `delta` both ask what is new: write one of them".to_owned());
            }
            if delta.rows && self.answer.format != Format::Json {
                return Err(
                    "`delta.rows` are read from JSON only: leave it out, or write `answer.format = \"json\"`"
                        .to_owned(),
                );
            }
        }
        match self.calls.iter().find(|calls| calls.most == 0 || calls.per.0 <= 0) {
            Some(_) => Err("`calls` allows none: write such as { most = 1000, per = \"1h\" }".to_owned()),
            None => Ok(()),
        }
    }

    /// What is asked is somewhere, and whatever stands in braces is known.
    fn check_urls(&self) -> Result<(), String> {
        let probe = self.probe.as_ref().map(|probe| ("probe.url", &probe.url));
        // Where a window begins and ends is there in any case.
        let of_windows = self.url.replace("{from}", "").replace("{to}", "");
        for (place, url) in std::iter::once(("url", &of_windows)).chain(probe) {
            for spec in &self.devices {
                check_origin(place, &spec.filled(place, url)?)?;
            }
            if let Some(list) = &self.list {
                let known: Vec<_> = list.vars.keys().map(String::as_str).chain(["id"]).collect();
                check_braces(place, url, &known)
                    .map_err(|why| format!("{why} under `list.vars`, or mend it"))?;
                check_origin(place, url)?;
            }
        }
        Ok(())
    }

    fn check_statuses(&self) -> Result<(), String> {
        for (key, statuses) in [("withdrawn", &self.withdrawn), ("unreachable", &self.unreachable)] {
            if let Some(status) = statuses.iter().find(|status| !(201..=599).contains(*status)) {
                return Err(format!(
                    "`{key}`: {status} is no HTTP status by which a source refuses: write such as 403"
                ));
            }
        }
        Ok(())
    }

    /// Without a length some would never end, and others never begin.
    fn check_spans(&self) -> Result<(), String> {
        let named = [
            ("window", Some(self.window)),
            ("every", Some(self.every)),
            ("every_least", self.every_least),
            ("every_most", self.every_most),
            ("unreachable_every", Some(self.unreachable_every)),
            ("timeout", Some(self.timeout)),
        ];
        match named.iter().find(|(_, span)| span.is_some_and(|span| span.0 <= 0)) {
            Some((name, _)) => Err(format!("`{name}` is nothing: write a length of time such as 30m")),
            None => Ok(()),
        }
    }

    fn check_names(&self) -> Result<(), String> {
        let mut known = BTreeSet::new();
        let names =
            self.devices.iter().map(|spec| &spec.name).chain(self.derived.iter().map(|spec| &spec.name));
        if let Some(name) = names.into_iter().find(|name| !known.insert(name.as_str())) {
            return Err(format!("two devices are named `{name}`: each needs a name of its own"));
        }
        let own = |spec: &&DerivedSpec| {
            spec.product.iter().any(|input| input.split('/').next() == Some(spec.name.as_str()))
        };
        match self.derived.iter().find(own) {
            Some(spec) => Err(format!("`{}` cannot be computed from itself: `product` names it", spec.name)),
            None => Ok(()),
        }
    }

    /// The site.
    ///
    /// # Errors
    /// It is no name.
    pub fn site_id(&self) -> Result<SiteId, String> {
        SiteId::new(&self.site).map_err(|e| format!("`site`: {e}"))
    }

    /// Its devices.
    ///
    /// # Errors
    /// A name or an interval that cannot be.
    pub fn asked(&self) -> Result<Vec<Asked>, String> {
        self.devices.iter().map(|spec| self.polled(spec)).collect()
    }

    /// A device of its list, under this name.
    ///
    /// # Errors
    /// A name or an interval that cannot be.
    pub(super) fn listed(&self, entry: &Entry, name: &str) -> Result<Asked, String> {
        let list =
            self.list.as_ref().ok_or("`[list]` is missing: how the source is asked for its devices")?;
        let id = [("id".to_owned(), entry.id.clone())];
        // A source may name its devices by anything.
        let vars = entry.vars.clone().into_iter().chain(id).map(|(name, text)| (name, escaped(&text)));
        let spec = list.device.named(name, vars.collect());
        let mut asked = self.polled(&spec)?;
        asked.device.attributes.extend(entry.attributes());
        Ok(asked)
    }

    /// A device that is polled, with what is to be known of it where it is asked for what is missing.
    fn polled(&self, spec: &DeviceSpec) -> Result<Asked, String> {
        let mut asked = self.device(spec)?;
        let longest = gapless_common::text::format_duration_ms(self.window.0.unsigned_abs());
        asked.device.attributes.insert("window".to_owned(), longest);
        Ok(asked)
    }

    /// What is computed.
    ///
    /// # Errors
    /// A name or an interval that cannot be.
    pub fn derived(&self) -> Result<Vec<Computed>, String> {
        self.derived.iter().map(|spec| self.computed(spec)).collect()
    }

    fn computed(&self, spec: &DerivedSpec) -> Result<Computed, String> {
        let input = |text: &String| {
            let named = text.split_once('/').map(|(device, channel)| (device.to_owned(), channel.to_owned()));
            named.ok_or_else(|| format!("`product`: write DEVICE/CHANNEL instead of `{text}`"))
        };
        let channel = self.shared().channel(&ChannelSpec {
            name: spec.channel.clone(),
            value: String::new(),
            unit: spec.unit.clone(),
            quantity: spec.quantity.clone(),
            aggregation: sum(),
        })?;
        let attributes = BTreeMap::from([
            ("class".to_owned(), spec.class.as_ref().map_or("derived", |class| &class.0).to_owned()),
            ("source".to_owned(), self.name.clone()),
            ("product_of".to_owned(), spec.product.join(", ")),
            ("lag".to_owned(), gapless_common::text::format_duration_ms(self.lag.0.unsigned_abs())),
            ("revises".to_owned(), "true".to_owned()),
        ]);
        let device = Device {
            id: DeviceId::new(&spec.name).map_err(|e| format!("`derived.name`: {e}"))?,
            grid: SlotGrid::every(interval(spec.interval)?),
            paused: false,
            channels: vec![channel],
            attributes,
        };
        let path = AgentPath { site: self.site_id()?, agent: self.shared().agent(&spec.name)? };
        let [a, b] = &spec.product;
        Ok(Computed { path, device, inputs: [input(a)?, input(b)?] })
    }

    /// What its devices share.
    fn shared(&self) -> Shared<'_> {
        Shared {
            source: &self.name,
            class: self.class.as_ref().map_or("http", |class| &class.0),
            every: self.every,
            lag: self.lag,
            every_least: self.every_least,
            every_most: self.every_most,
            value: (self.answer.value.as_deref(), "answer.value"),
            label: self.answer.label,
        }
    }

    fn device(&self, spec: &DeviceSpec) -> Result<Asked, String> {
        let mut asked = self.shared().device(spec)?;
        asked.device.attributes.insert("consent".to_owned(), self.consent.clone());
        Ok(asked)
    }

    /// What is asked for a window.
    #[must_use]
    pub fn url_of(&self, spec: &DeviceSpec, from: Timestamp, to: Timestamp) -> String {
        let escaped = |text: &str| text.replace('+', "%2B").replace(' ', "%20");
        let url = self.url.replace("{from}", &escaped(&self.answer.write_time(from)));
        spec.fill(url.replace("{to}", &escaped(&self.answer.write_time(to))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METERS: &str = include_str!("../../sources/half-hourly-meter.toml");
    const FLEET: &str = include_str!("../../sources/thermostat-fleet.toml");
    const CARBON: &str = include_str!("../../sources/carbon-intensity.toml");

    /// The classes of the devices of a description, of one that it lists, and of those that it computes.
    fn classes(text: &str) -> Vec<String> {
        let description = Description::read(text).unwrap();
        let mut devices: Vec<Device> =
            description.asked().unwrap().into_iter().map(|asked| asked.device).collect();
        if description.list.is_some() {
            devices.push(description.listed(&Entry::default(), "listed").unwrap().device);
        }
        devices.extend(description.derived().unwrap().into_iter().map(|computed| computed.device));
        devices.into_iter().map(|device| device.attributes["class"].clone()).collect()
    }

    #[test]
    fn a_device_has_the_class_that_it_names_or_that_of_its_source() {
        let of_all = |text: &str| format!("class = \"cloud\"\n{text}");
        let of_one = |text: &str, part: &str| text.replacen(part, &format!("{part}\nclass = \"own\""), 1);
        let rows: [(String, &[&str]); 9] = [
            (METERS.to_owned(), &["http", "http"]),
            (of_all(METERS), &["cloud", "cloud"]),
            (of_one(METERS, "[[device]]"), &["own", "http"]),
            (of_all(&of_one(METERS, "[[device]]")), &["own", "cloud"]),
            (FLEET.to_owned(), &["thermostat"]),
            (FLEET.replace("class = \"thermostat\"", ""), &["http"]),
            (of_one(FLEET, "[list.device]"), &["own"]),
            (of_all(CARBON), &["cloud", "derived"]),
            (of_one(CARBON, "[[derived]]"), &["http", "own"]),
        ];
        for (text, expected) in rows {
            assert_eq!(classes(&text), expected, "{text}");
        }
        let why = Description::read(&format!("class = \"\"\n{METERS}")).unwrap_err();
        assert!(why.contains("line 1,") && why.contains("`class` is empty"), "{why}");
    }

    #[test]
    fn what_would_be_asked_for_as_it_stands_is_refused() {
        let folder = include_str!("../../sources/logger-drop.toml");
        let read_drop = |text: &str| super::super::drop::DropDescription::read(text).map(drop);
        let read = |text: &str| Description::read(text).map(drop);
        let of_host =
            METERS.replace("http://127.0.0.1:9400/{utility}", "{home}").replace("utility =", "home =");
        read(
            &of_host
                .replace("= \"electricity\" }", "= \"http://h\" }")
                .replace("= \"gas\" }", "= \"http://g\" }"),
        )
        .unwrap();
        read(&METERS.replace("[404]", "[204]")).unwrap();
        let rows = [
            (
                read(&METERS.replace("{utility}", "{utilty}")),
                ["`url` has {utilty}", "`electricity`", "`vars`"],
            ),
            (read(&METERS.replace("{utility}", "{utility}{from}{when}")), ["`url`", "{when}", "`vars`"]),
            (read(&of_host), ["`url`", "no URL", "https://"]),
            (read(&METERS.replace("[403]", "[4030]")), ["`withdrawn`", "4030", "403"]),
            (read(&METERS.replace("[403]", "[200]")), ["`withdrawn`", "200", "403"]),
            (read(&METERS.replace("\"%Y-%m-%d %H:%M\"", "\"%c\"")), ["`answer.time_format`", "%c", "%Y"]),
            (
                read(&METERS.replace("\"%Y%m%d%H%M\"", "\"%Y%\"")),
                ["`answer.query_time_format`", "%Y", "rfc3339"],
            ),
            (read(&FLEET.replace("{id}", "{ident}")), ["`url`", "{ident}", "`list.vars`"]),
            (read(&FLEET.replace("page={page}", "page={page}{pag}")), ["`list.url`", "{pag}", "{page}"]),
            (read(&FLEET.replace("since={since}", "since={since}{of}")), ["`delta.url`", "{of}", "{since}"]),
            (
                read_drop(&folder.replace("{logger}", "{loger}")),
                ["`drop.files` has {loger}", "`mast`", "`vars`"],
            ),
        ];
        for (read, expected) in rows {
            let why = read.unwrap_err();
            assert!(expected.iter().all(|part| why.contains(part)), "{why}");
        }
    }

    #[test]
    fn an_intensity_is_a_mean_and_what_comes_of_it_a_sum() {
        use gapless_common::catalog::Aggregation;
        let description = Description::read(CARBON).unwrap();
        let asked = description.asked().unwrap().remove(0).device;
        let computed = description.derived().unwrap().remove(0).device;
        let got = [&asked, &computed].map(|device| device.channels[0].aggregation);
        assert_eq!(got, [Aggregation::Mean, Aggregation::Sum]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_without_the_secret_that_stands_there() {
        let rows = [
            ("auth.beare = \"s3cret\"\n", ["line 1,", "`beare`"]),
            ("auth.bearer = \"s3cret\n", ["line 1,", ""]),
            ("auth.bearer = 530537\n", ["line 1, column ", ": expected a text in quotes"]),
            ("auth.basic = \"s3cret, expected 530537\"\n", ["line 1, column ", ": expected a table"]),
            (
                "auth.basic = { username = \"u\", password = [\"s3cret\"] }\n",
                ["line 1, column ", ": expected a text in quotes"],
            ),
            (
                "auth.bearer = \"s3cret\"\nauth.basic = { username = \"u\", password = \"s3cret\" }\n",
                ["`auth.basic`", "`auth.bearer`"],
            ),
            (
                "headers = { \"authorization\" = \"s3cret\" }\nauth.bearer = \"s3cret\"\n",
                ["`auth.bearer`", "`headers.authorization`"],
            ),
        ];
        for (words, expected) in rows {
            let rest = METERS.replace("headers = { \"x-api-key\" = \"secret\" }", "");
            let text = format!("{words}{rest}");
            let why = Description::read(&text).unwrap_err();
            let is_shown = ["s3cret", "530537"].iter().any(|secret| why.contains(secret));
            assert!(expected.iter().all(|part| why.contains(part)) && !is_shown, "{why}");
        }
    }
}
