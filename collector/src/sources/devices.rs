//! A device of a source as it stands in its agent's catalog, whatever the kind of the source. Pure.

use std::collections::BTreeMap;

use gapless_common::catalog::{Channel, Device, PeriodLabel};
use gapless_common::id::{AgentId, ChannelId, DeviceId};
use gapless_common::profile::AGGREGATIONS;
use gapless_common::text::format_duration_ms;
use gapless_common::time::{Interval, SlotGrid};

use super::answer::Label;
use super::describe::Asked;
use super::parts::{ChannelSpec, DeviceSpec, Span, sum};

/// What the devices of a source share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared<'a> {
    /// The source's name: what stands before `-DEVICE` in the names of its agents.
    pub(super) source: &'a str,
    /// The class of those that name none.
    pub(super) class: &'a str,
    /// How often each device is asked.
    pub(super) every: Span,
    /// How late a row may come.
    pub(super) lag: Span,
    /// How often while somebody looks.
    pub(super) every_least: Option<Span>,
    /// How often where nobody has looked for days.
    pub(super) every_most: Option<Span>,
    /// Where the value of a device with one channel stands in a row, and what that is called in the description.
    pub(super) value: (Option<&'a str>, &'a str),
    /// Which end of its period a time names.
    pub(super) label: Label,
}

impl Shared<'_> {
    /// The agent that a device counts as.
    pub(super) fn agent(&self, device: &str) -> Result<AgentId, String> {
        AgentId::new(&format!("{}-{device}", self.source)).map_err(|e| format!("`name`: {e}"))
    }

    /// A device that can be asked.
    pub(super) fn device(&self, spec: &DeviceSpec) -> Result<Asked, String> {
        let text = |span: Span| format_duration_ms(span.0.unsigned_abs());
        let mut attributes = BTreeMap::from([
            ("history".to_owned(), "source".to_owned()),
            ("class".to_owned(), spec.class.as_ref().map_or(self.class, |class| &class.0).to_owned()),
            ("source".to_owned(), self.source.to_owned()),
            ("every".to_owned(), text(self.every)),
            // Until then nothing is wrong where a slot has not come.
            ("lag".to_owned(), text(self.lag)),
            // What the source says last of a row is what counts.
            ("revises".to_owned(), "true".to_owned()),
        ]);
        let bounds = [("every_least", self.every_least), ("every_most", self.every_most)];
        attributes.extend(bounds.into_iter().filter_map(|(key, span)| Some((key.to_owned(), text(span?)))));
        let channels = self.channels(spec)?;
        let values = channels.iter().map(|channel| channel.value.clone()).collect();
        let channels = channels.iter().map(|channel| self.channel(channel)).collect::<Result<_, _>>()?;
        let device = Device {
            id: DeviceId::new(&spec.name).map_err(|e| format!("`device.name`: {e}"))?,
            grid: SlotGrid::every(interval(spec.interval)?),
            paused: false,
            channels,
            attributes,
        };
        Ok(Asked { agent: self.agent(&spec.name)?, device, values, spec: spec.clone() })
    }

    /// The channels of a device, however they were written.
    fn channels(&self, spec: &DeviceSpec) -> Result<Vec<ChannelSpec>, String> {
        match (&spec.channel, spec.channels.as_slice()) {
            (Some(_), [_, ..]) => {
                Err(format!("device `{}` has both `channel` and `channels`: write one of them", spec.name))
            }
            (None, []) => Err(format!("device `{}` has no channel: write `channel = \"NAME\"`", spec.name)),
            (None, several) => Ok(several.to_vec()),
            (Some(name), []) => {
                let (value, key) = self.value;
                let value = value
                    .ok_or_else(|| format!("`{key}` is missing: where the value stands in a row"))?
                    .to_owned();
                let (unit, quantity) = (spec.unit.clone(), spec.quantity.clone());
                Ok(vec![ChannelSpec { name: name.clone(), value, unit, quantity, aggregation: sum() }])
            }
        }
    }

    /// A channel.
    pub(super) fn channel(&self, spec: &ChannelSpec) -> Result<Channel, String> {
        let aggregation = AGGREGATIONS.iter().find(|(word, _)| *word == spec.aggregation);
        Ok(Channel {
            id: ChannelId::new(&spec.name).map_err(|e| format!("channel `{}`: {e}", spec.name))?,
            unit: spec.unit.as_str().into(),
            quantity: spec.quantity.as_str().into(),
            aggregation: aggregation.map(|(_, aggregation)| *aggregation).ok_or_else(|| {
                let known: Vec<_> = AGGREGATIONS.iter().map(|(word, _)| *word).collect();
                format!("`aggregation`: `{}` is none of {}", spec.aggregation, known.join(", "))
            })?,
            label: match self.label {
                Label::Start => PeriodLabel::Start,
                Label::End => PeriodLabel::End,
            },
            attributes: BTreeMap::new(),
        })
    }
}

/// The distance of the rows of a device.
pub(super) fn interval(span: Span) -> Result<Interval, String> {
    Interval::from_ms(span.0.unsigned_abs()).map_err(|e| format!("`interval`: {e}"))
}
