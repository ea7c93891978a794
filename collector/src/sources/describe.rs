//! The description of an HTTP source: what to ask, how to read the answer, how often, and which devices it gives.
//!
//! Pure: whoever calls reads the file.

use std::collections::BTreeMap;

use gapless_common::catalog::{Aggregation, Channel, Device, PeriodLabel};
use gapless_common::id::{AgentId, ChannelId, DeviceId, SiteId};
use gapless_common::text::parse_duration_ms;
use gapless_common::time::{Interval, SlotGrid, Timestamp};
use jiff::tz::{Offset, TimeZone};
use serde::Deserialize;

/// All of a description.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The site of its devices.
    pub site: String,
    /// Its name: what stands before `-DEVICE` in the names of its agents.
    pub name: String,
    /// What is asked, with `{from}`, `{to}` and the `vars` of each device.
    pub url: String,
    /// Headers of each request; a value `@FILE` is the first line of that file.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// How to read the answers.
    pub answer: AnswerSpec,
    /// The longest window of one request.
    pub window: Span,
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
    /// HTTP statuses by which the source says that its consent is withdrawn: it is not asked again.
    #[serde(default)]
    pub withdrawn: Vec<u16>,
    /// Names the consent that is in force; write another one where it was given anew.
    #[serde(default)]
    pub consent: String,
    /// Its devices.
    #[serde(rename = "device")]
    pub devices: Vec<DeviceSpec>,
}

fn thirty_seconds() -> Span {
    Span(30_000)
}

/// A length of time in ms, written as `30m`, `90d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub i64);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let ms = parse_duration_ms(&text).map_err(|e| e.to_string())?;
        i64::try_from(ms).map(Self).map_err(|_| format!("`{text}` is longer than can be counted"))
    }
}

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON; `rows` is the path of the list.
    Json,
    /// CSV with a line of names.
    Csv,
}

/// Which end of its period a row's time names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    /// The begin.
    Start,
    /// The end.
    End,
}

/// How to read an answer. Paths of JSON are names with `.` between them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerSpec {
    /// See there.
    pub format: Format,
    /// The path of the list of rows.
    #[serde(default)]
    pub rows: String,
    /// The time of a row: path or column.
    pub time: String,
    /// The value of a row.
    pub value: String,
    /// What a row says about its value.
    pub status: Option<String>,
    /// The words of `status` that mean that the value is none.
    #[serde(default)]
    pub status_invalid: Vec<String>,
    /// The path of the oldest instant that there is anything of.
    pub oldest: Option<String>,
    /// How times are written (`strptime`), or `rfc3339`.
    pub time_format: String,
    /// How `{from}` and `{to}` are written; as `time_format` where it is not said.
    pub query_time_format: Option<String>,
    /// Whose local time they are in.
    #[serde(default)]
    pub zone: Zone,
    /// Which end of its period a time names.
    pub label: Label,
    /// Values by which the source says that it has none.
    #[serde(default)]
    pub invalid: Vec<f64>,
    /// Beyond it a value cannot be.
    pub overflow_above: Option<f64>,
}

/// A time zone: `UTC`, an offset such as `+01:00`, or a rule as of POSIX's `TZ`, such as `GMT0BST,M3.5.0/1,M10.5.0`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Zone(TimeZone);

impl Default for Zone {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

impl TryFrom<String> for Zone {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no zone: write UTC, +01:00, or a rule such as GMT0BST,M3.5.0/1,M10.5.0");
        if text == "UTC" {
            return Ok(Self(TimeZone::UTC));
        }
        if let Some((hours, minutes)) = text.split_once(':').filter(|_| text.starts_with(['+', '-'])) {
            let (hours, minutes): (i32, i32) =
                (hours.parse().map_err(|_| wrong())?, minutes.parse().map_err(|_| wrong())?);
            let sign = if text.starts_with('-') { -1 } else { 1 };
            let offset = Offset::from_seconds(hours * 3_600 + sign * minutes * 60).map_err(|_| wrong())?;
            return Ok(Self(TimeZone::fixed(offset)));
        }
        TimeZone::posix(&text).map(Self).map_err(|_| wrong())
    }
}

impl AnswerSpec {
    /// Reads a time. An hour that comes twice in autumn is the later one where the earlier is not after `last`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read_time(&self, text: &str, last: Option<Timestamp>) -> Result<Timestamp, String> {
        if self.time_format == "rfc3339" {
            return text.parse().map_err(|e| format!("{e}"));
        }
        let wrong = |e: jiff::Error| format!("the time `{text}` is not `{}`: {e}", self.time_format);
        let local = jiff::civil::DateTime::strptime(&self.time_format, text).map_err(wrong)?;
        let either = |late: bool| {
            let ambiguous = self.zone.0.to_ambiguous_timestamp(local);
            if late { ambiguous.later() } else { ambiguous.earlier() }
        };
        let earlier = Timestamp(either(false).map_err(wrong)?.as_millisecond());
        if last.is_some_and(|last| earlier <= last) {
            return Ok(Timestamp(either(true).map_err(wrong)?.as_millisecond()));
        }
        Ok(earlier)
    }

    /// Writes a time for a query.
    #[must_use]
    pub fn write_time(&self, at: Timestamp) -> String {
        let format = self.query_time_format.as_deref().unwrap_or(&self.time_format);
        match jiff::Timestamp::from_millisecond(at.0) {
            Ok(instant) if format != "rfc3339" => {
                instant.to_zoned(self.zone.0.clone()).strftime(format).to_string()
            }
            _ => at.to_string(),
        }
    }
}

/// One device of the source.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSpec {
    /// Its name within the site.
    pub name: String,
    /// The distance of its rows.
    pub interval: Span,
    /// The name of its channel.
    pub channel: String,
    /// The unit of its values.
    #[serde(default)]
    pub unit: String,
    /// What is measured.
    #[serde(default)]
    pub quantity: String,
    /// What stands for `{NAME}` in the URL.
    #[serde(default)]
    pub vars: BTreeMap<String, String>,
}

/// A device that can be asked: its names and grid are good.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The agent that it counts as.
    pub agent: AgentId,
    /// As it stands in that agent's catalog.
    pub device: Device,
    /// What it was described as.
    pub spec: DeviceSpec,
}

impl Description {
    /// Reads a description.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn read(text: &str) -> Result<Self, String> {
        let description: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        for placeholder in ["{from}", "{to}"] {
            if !description.url.contains(placeholder) {
                return Err(format!(
                    "`url` asks for no window: write {placeholder} where the source wants it"
                ));
            }
        }
        description.site_id()?;
        description.asked()?;
        Ok(description)
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
        self.devices.iter().map(|spec| self.device(spec)).collect()
    }

    fn device(&self, spec: &DeviceSpec) -> Result<Asked, String> {
        let interval =
            Interval::from_ms(spec.interval.0.unsigned_abs()).map_err(|e| format!("`interval`: {e}"))?;
        let text = |span: Span| gapless_common::text::format_duration_ms(span.0.unsigned_abs());
        let mut attributes = BTreeMap::from([
            ("history".to_owned(), "source".to_owned()),
            ("class".to_owned(), "http".to_owned()),
            ("source".to_owned(), self.name.clone()),
            ("every".to_owned(), text(self.every)),
            ("consent".to_owned(), self.consent.clone()),
        ]);
        let bounds = [("every_least", self.every_least), ("every_most", self.every_most)];
        attributes.extend(bounds.into_iter().filter_map(|(key, span)| Some((key.to_owned(), text(span?)))));
        let channel = Channel {
            id: ChannelId::new(&spec.channel).map_err(|e| format!("`channel`: {e}"))?,
            unit: spec.unit.as_str().into(),
            quantity: spec.quantity.as_str().into(),
            aggregation: Aggregation::Sum,
            label: match self.answer.label {
                Label::Start => PeriodLabel::Start,
                Label::End => PeriodLabel::End,
            },
            attributes: BTreeMap::new(),
        };
        let device = Device {
            id: DeviceId::new(&spec.name).map_err(|e| format!("`device.name`: {e}"))?,
            grid: SlotGrid::every(interval),
            paused: false,
            channels: vec![channel],
            attributes,
        };
        let agent =
            AgentId::new(&format!("{}-{}", self.name, spec.name)).map_err(|e| format!("`name`: {e}"))?;
        Ok(Asked { agent, device, spec: spec.clone() })
    }

    /// What is asked for a window.
    #[must_use]
    pub fn url_of(&self, spec: &DeviceSpec, from: Timestamp, to: Timestamp) -> String {
        let escaped = |text: &str| text.replace('+', "%2B").replace(' ', "%20");
        let url = self.url.replace("{from}", &escaped(&self.answer.write_time(from)));
        let url = url.replace("{to}", &escaped(&self.answer.write_time(to)));
        spec.vars.iter().fold(url, |url, (name, value)| url.replace(&format!("{{{name}}}"), value))
    }
}
