//! The parts of descriptions: lengths of time, devices and their channels, as they are written. What a device comes to is
//! `devices`'s. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::config::words;

/// A length of time in ms, written as `30m`, `90d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span(pub i64);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        words::text(deserializer, words::SPAN, words::span_ms).map(Self)
    }
}

/// What people set schedules, allowances and alerts by in the collector's configuration: the attribute `class` of a device.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Class(pub String);

impl TryFrom<String> for Class {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("`class` is empty: write the name of a class, or leave it out");
        }
        Ok(Self(text))
    }
}

/// The one of a device's `vars` that it is known by.
const ID: &str = "id";

/// One device of the source.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSpec {
    /// Its name within the site.
    pub name: String,
    /// The distance of its rows.
    pub interval: Span,
    /// Its class; that of the source where it is not said.
    pub class: Option<Class>,
    /// The name of its channel, where it has one.
    pub channel: Option<String>,
    /// The unit of its values.
    #[serde(default)]
    pub unit: String,
    /// What is measured.
    #[serde(default)]
    pub quantity: String,
    /// Its channels, where it has several.
    #[serde(default)]
    pub channels: Vec<ChannelSpec>,
    /// What stands for `{NAME}` in the URL; for `{id}` its name where they do not say.
    #[serde(default)]
    pub vars: BTreeMap<String, String>,
}

impl DeviceSpec {
    /// What the source calls it, in URLs and when it says what changed.
    #[must_use]
    pub fn key(&self) -> &str {
        self.vars.get(ID).unwrap_or(&self.name)
    }

    /// Whether a URL, not filled, says which device is meant.
    #[must_use]
    pub fn is_named_in(&self, url: &str) -> bool {
        self.vars.keys().map(String::as_str).chain([ID]).any(|name| url.contains(&format!("{{{name}}}")))
    }

    /// A URL with the device's `vars` in it.
    #[must_use]
    pub fn fill(&self, url: String) -> String {
        let url = self.vars.iter().fold(url, |url, (name, value)| url.replace(&format!("{{{name}}}"), value));
        url.replace(&format!("{{{ID}}}"), self.key())
    }

    /// The text at this place of the description with the device's `vars` in it.
    ///
    /// # Errors
    /// Something else stands in braces.
    pub(super) fn filled(&self, place: &str, text: &str) -> Result<String, String> {
        match self.unknown_in(text) {
            Some(name) => {
                Err(format!("device `{}`: {} under `vars`, or mend it", self.name, unknown(place, name)))
            }
            None => Ok(self.fill(text.to_owned())),
        }
    }

    /// The same of a path, in which braces are letters as others are.
    ///
    /// # Errors
    /// Something else stands in braces.
    pub(super) fn filled_path(&self, place: &str, text: &str) -> Result<String, String> {
        match self.unknown_in(text) {
            Some(name) => Err(format!(
                "device `{}`: `{place}` has {{{name}}}, and nothing stands for it: write it under `vars`, or mend it (where a file \
                 or folder is called so, `{name} = \"{{{name}}}\"`)",
                self.name
            )),
            None => Ok(self.fill(text.to_owned())),
        }
    }

    /// The first name in braces that nothing stands for.
    fn unknown_in<'t>(&self, text: &'t str) -> Option<&'t str> {
        let known: Vec<_> = self.vars.keys().map(String::as_str).chain([ID]).collect();
        unknown_in(text, &known)
    }
}

/// Refuses a text in whose braces stands a name that is none of these: it would be asked for as it stands.
pub(super) fn check_braces(place: &str, text: &str, known: &[&str]) -> Result<(), String> {
    unknown_in(text, known).map_or(Ok(()), |name| Err(unknown(place, name)))
}

fn unknown(place: &str, name: &str) -> String {
    format!("`{place}` has {{{name}}}, and nothing stands for it: write it (a brace itself is %7B)")
}

/// The first name in braces that is none of these.
fn unknown_in<'t>(text: &'t str, known: &[&str]) -> Option<&'t str> {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    let names = text.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0));
    names.filter(|name| is_name(name)).find(|name| !known.contains(name))
}

/// One of several channels of a device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelSpec {
    /// Its name.
    pub name: String,
    /// Where its value stands in a row: path or column.
    pub value: String,
    /// The unit of its values.
    #[serde(default)]
    pub unit: String,
    /// What is measured.
    #[serde(default)]
    pub quantity: String,
    /// How its values come about: `sum` where it is not said.
    #[serde(default = "sum")]
    pub aggregation: String,
}

pub(super) fn sum() -> String {
    "sum".to_owned()
}

/// What a device of a list is: as `[[device]]`, without a name.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The distance of its rows.
    pub interval: Span,
    /// Its class; that of the source where it is not said.
    pub class: Option<Class>,
    /// The name of its channel, where it has one.
    pub channel: Option<String>,
    /// The unit of its values.
    #[serde(default)]
    pub unit: String,
    /// What is measured.
    #[serde(default)]
    pub quantity: String,
    /// Its channels, where it has several.
    #[serde(default)]
    pub channels: Vec<ChannelSpec>,
}

impl Template {
    /// A device of this name, with what stands for `{NAME}` in URLs.
    pub(super) fn named(&self, name: &str, vars: BTreeMap<String, String>) -> DeviceSpec {
        let Self { interval, class, channel, unit, quantity, channels } = self.clone();
        DeviceSpec { name: name.to_owned(), interval, class, channel, unit, quantity, channels, vars }
    }
}

/// A device whose values are the product of two series of its site.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DerivedSpec {
    /// Its name within the site.
    pub name: String,
    /// The distance of its values, that of both inputs.
    pub interval: Span,
    /// Its class; `derived` where it is not said.
    pub class: Option<Class>,
    /// The name of its channel.
    pub channel: String,
    /// The unit of its values.
    #[serde(default)]
    pub unit: String,
    /// What they are.
    #[serde(default)]
    pub quantity: String,
    /// The inputs, each as `DEVICE/CHANNEL`.
    pub product: [String; 2],
}
