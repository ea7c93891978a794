//! Where the channels of a table stand in its records, under the program that runs. Knows no records that are missing.

use std::collections::BTreeMap;

use gapless_common::catalog::{Aggregation, Channel, PeriodLabel};
use gapless_common::field::is_infinite;
pub use gapless_common::field::{Field, Val};
use gapless_common::id::{ChannelId, ChannelIndex, NAME_LEN_MAX};
use gapless_common::profile::Scale;
use gapless_common::quality::Quality;
use gapless_common::reading::{Sample, Value};

/// Most channels of a table; beyond it fields are left out, and that is said.
pub const CHANNELS_MAX: usize = 1_024;

/// A channel that a person has named.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The field that it is read from.
    pub field: Box<str>,
    /// What the collector is told of it.
    pub channel: Channel,
    /// From the field's number to the channel's.
    pub scale: Scale,
    /// Limits that a number keeps if it is one.
    pub valid: Option<(f64, f64)>,
}

/// Which fields are channels.
#[derive(Debug, Clone, PartialEq)]
pub enum Channels {
    /// Every field, whichever the program stores.
    All,
    /// These, in the order of [`ChannelIndex`].
    Named(Vec<Wanted>),
}

impl Channels {
    /// Those that a person has named.
    #[must_use]
    pub fn named(&self) -> Vec<Channel> {
        match self {
            Self::All => Vec::new(),
            Self::Named(wanted) => wanted.iter().map(|wanted| wanted.channel.clone()).collect(),
        }
    }
}

/// The fields of one definition of a table, matched with channels.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    signature: u64,
    fields: Vec<Field>,
    /// Per channel.
    places: Vec<Place>,
}

#[derive(Debug, Clone, PartialEq)]
struct Place {
    /// In the record; `None` where the program has no such field.
    field: Option<usize>,
    is_text: bool,
    scale: Scale,
    valid: Option<(f64, f64)>,
}

impl Layout {
    /// Matches `fields` with `channels`; the second is what all fields are as channels. `signature` tells definitions
    /// with the same fields apart.
    #[must_use]
    pub fn new(signature: u64, fields: &[Field], channels: &Channels) -> (Self, Vec<Channel>) {
        let (places, all) = match channels {
            Channels::Named(wanted) => {
                (wanted.iter().map(|wanted| named(fields, wanted)).collect(), Vec::new())
            }
            Channels::All => every(fields),
        };
        (Self { signature, fields: fields.to_vec(), places }, all)
    }

    /// Whether it is of this definition.
    #[must_use]
    pub fn is_of(&self, signature: u64, fields: &[Field]) -> bool {
        self.signature == signature && self.fields == fields
    }

    /// Names of configured fields that the program does not have.
    #[must_use]
    pub fn missing(&self, channels: &Channels) -> Vec<String> {
        let Channels::Named(wanted) = channels else { return Vec::new() };
        let both = wanted.iter().zip(&self.places);
        both.filter(|(_, place)| place.field.is_none()).map(|(wanted, _)| wanted.field.to_string()).collect()
    }

    /// The samples of a record, one for each channel.
    #[must_use]
    pub fn samples(&self, vals: &[Val]) -> Vec<Sample> {
        let each = self.places.iter().enumerate().filter_map(|(index, place)| {
            let val = place.field.and_then(|field| vals.get(field));
            let (value, quality) = val.map_or((None, Quality::NoData), |val| place.read(val));
            Some(Sample { channel: ChannelIndex(u16::try_from(index).ok()?), value, quality })
        });
        each.collect()
    }
}

impl Place {
    fn read(&self, val: &Val) -> (Option<Value>, Quality) {
        match val {
            Val::Number(number) => self.number(*number),
            Val::Flag(flag) => self.number(f64::from(u8::from(*flag))),
            Val::Text(text) if self.is_text => (Some(Value::Text(text.as_str().into())), Quality::Good),
            Val::Text(text) if is_infinite(text) => (None, Quality::BadOutOfRange),
            // "NAN", and whatever else a sensor may say instead of a number.
            Val::Text(_) | Val::Other(_) => (None, Quality::BadInvalid),
        }
    }

    fn number(&self, raw: f64) -> (Option<Value>, Quality) {
        let number = self.scale.apply(raw);
        let is_valid = self.valid.is_none_or(|(low, high)| (low..=high).contains(&number));
        if number.is_finite() && is_valid {
            (Some(Value::Number(number)), Quality::Good)
        } else {
            (None, Quality::BadOutOfRange)
        }
    }
}

fn named(fields: &[Field], wanted: &Wanted) -> Place {
    let field = fields.iter().position(|field| field.name == *wanted.field);
    let is_text = field.and_then(|place| fields.get(place)).is_some_and(is_text);
    Place { field, is_text, scale: wanted.scale, valid: wanted.valid }
}

fn is_text(field: &Field) -> bool {
    field.kind == "xsd:string"
}

/// Every field as a channel. Two whose names would be one, and those beyond the bound, are left out.
fn every(fields: &[Field]) -> (Vec<Place>, Vec<Channel>) {
    let (mut places, mut channels) = (Vec::new(), Vec::<Channel>::new());
    for (place, field) in fields.iter().enumerate().take(CHANNELS_MAX) {
        let Some(id) = channel_id(&field.name).filter(|id| channels.iter().all(|known| known.id != *id))
        else {
            continue;
        };
        places.push(Place {
            field: Some(place),
            is_text: is_text(field),
            scale: Scale::default(),
            valid: None,
        });
        channels.push(channel(id, field));
    }
    (places, channels)
}

/// A channel as its field describes it.
#[must_use]
pub fn channel(id: ChannelId, field: &Field) -> Channel {
    let attributes = BTreeMap::from([("field".to_owned(), field.name.clone())]);
    Channel {
        id,
        unit: field.units.as_str().into(),
        quantity: "".into(),
        aggregation: aggregation(&field.process),
        label: PeriodLabel::End,
        attributes,
    }
}

/// The name of a field as that of a channel: `AirTC(1,2)` is `AirTC.1.2`; what cannot stand in a name becomes `_`.
#[must_use]
pub fn channel_id(field: &str) -> Option<ChannelId> {
    let bare: String = field
        .trim_end_matches(')')
        .chars()
        .map(|c| match c {
            '(' | ',' => '.',
            c if c.is_ascii_alphanumeric() || "_-.".contains(c) => c,
            _ => '_',
        })
        .take(NAME_LEN_MAX)
        .collect();
    ChannelId::new(&bare)
        .or_else(|_| ChannelId::new(&format!("f{bare}").chars().take(NAME_LEN_MAX).collect::<String>()))
        .ok()
}

/// What the processing of a field makes of its samples (CRBasic output instructions).
fn aggregation(process: &str) -> Aggregation {
    match process {
        "Avg" => Aggregation::Mean,
        "Min" => Aggregation::Minimum,
        "Max" => Aggregation::Maximum,
        "Std" => Aggregation::StandardDeviation,
        "Tot" => Aggregation::Sum,
        _ => Aggregation::Instant,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, kind: &str, process: &str) -> Field {
        Field {
            name: name.to_owned(),
            kind: kind.to_owned(),
            units: "V".to_owned(),
            process: process.to_owned(),
        }
    }

    fn fields() -> Vec<Field> {
        vec![
            field("Batt_Min", "xsd:float", "Min"),
            field("AirTC(1)", "xsd:float", "Smp"),
            field("Note", "xsd:string", "Smp"),
            field("AirTC.1", "xsd:odd", ""),
        ]
    }

    #[test]
    fn all_fields_become_channels() {
        let (layout, channels) = Layout::new(7, &fields(), &Channels::All);
        let ids: Vec<&str> = channels.iter().map(|channel| channel.id.as_str()).collect();
        assert_eq!(ids, ["Batt_Min", "AirTC.1", "Note"]);
        assert_eq!(channels[0].aggregation, Aggregation::Minimum);
        let text = |text: &str| Val::Text(text.to_owned());
        let rows = [
            (
                vec![Val::Number(12.5), text("NAN"), text("NAN"), Val::Number(0.0)],
                "12.5 good, - bad_invalid, NAN good",
            ),
            (
                vec![text("INF"), text("-INF"), Val::Other(serde::de::IgnoredAny), text("")],
                "- bad_out_of_range, - bad_out_of_range, - bad_invalid",
            ),
            (
                vec![Val::Flag(true), Val::Number(f64::INFINITY), text(""), text("")],
                "1 good, - bad_out_of_range,  good",
            ),
        ];
        for (vals, expected) in rows {
            let each = layout.samples(&vals).into_iter().map(|sample| {
                let value = sample.value.as_ref().map_or_else(|| "-".to_owned(), crate::status::value_text);
                format!("{value} {}", sample.quality.label())
            });
            assert_eq!(each.collect::<Vec<_>>().join(", "), expected);
        }
    }

    #[test]
    fn named_fields_are_found_by_name_and_scaled() {
        let wanted = |name: &str, factor| Wanted {
            field: name.into(),
            channel: channel(channel_id(name).unwrap(), &field(name, "", "")),
            scale: Scale::new(factor, 1.0).unwrap(),
            valid: Some((0.0, 100.0)),
        };
        let channels = Channels::Named(vec![wanted("AirTC(1)", 2.0), wanted("Gone", 1.0)]);
        let (layout, all) = Layout::new(7, &fields(), &channels);
        assert_eq!((all.len(), layout.missing(&channels)), (0, vec!["Gone".to_owned()]));
        let vals = |air| [Val::Number(1.0), Val::Number(air), Val::Flag(true), Val::Flag(true)];
        let samples = layout.samples(&vals(3.0));
        assert_eq!((&samples[0].value, samples[1].quality), (&Some(Value::Number(7.0)), Quality::NoData));
        assert_eq!(layout.samples(&vals(90.0))[0].quality, Quality::BadOutOfRange);
        let mut other = fields();
        assert!(layout.is_of(7, &other) && !layout.is_of(8, &other));
        other.pop();
        assert!(!layout.is_of(7, &other));
    }

    #[test]
    fn names_of_fields_become_names_of_channels() {
        let rows = [("AirTC(1)", "AirTC.1"), ("M(2,3)", "M.2.3"), ("_x", "f_x"), ("Größe", "Gr__e")];
        for (name, expected) in rows {
            assert_eq!(channel_id(name).map(|id| id.to_string()).as_deref(), Some(expected), "{name}");
        }
        assert_eq!(channel_id(&"x".repeat(200)).unwrap().as_str().len(), NAME_LEN_MAX);
    }
}
