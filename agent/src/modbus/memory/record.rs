//! One record: when it is of, and what it says. Knows no other record.

use gapless_common::id::ChannelIndex;
use gapless_common::profile::{ChannelSpec, Flag, LoadProfile, Location, Meaning};
use gapless_common::quality::Quality;
use gapless_common::reading::Sample;
use gapless_common::time::Timestamp;

use super::super::value::{self, Raw};
use super::stamp;
use crate::records::zone::Zone;

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its own time.
    pub at: Timestamp,
    /// One for each field.
    pub samples: Vec<Sample>,
    /// The meter says that it is still being written.
    pub is_incomplete: bool,
}

/// Reads the registers of a record; `None` where it has no time, because nothing has been written there.
#[must_use]
pub fn read(load: &LoadProfile, zone: Zone, words: &[u16]) -> Option<Record> {
    let stamp = load.stamp;
    let at = stamp::instant(
        stamp.encoding,
        stamp.order,
        part(words, stamp.offset, stamp.encoding.registers()),
        zone,
    )?;
    let says = |flag: &&Flag| part(words, flag.offset, 1).iter().any(|word| word & flag.mask != 0);
    let raised: Vec<&Flag> = load.flags.iter().filter(says).collect();
    let is_incomplete = raised.iter().any(|flag| flag.meaning == Meaning::Incomplete);
    let samples = load.fields.iter().enumerate().filter_map(|(place, field)| {
        let of_field = |flag: &&&Flag| flag.fields.as_ref().is_none_or(|fields| fields.contains(&place));
        let said: Vec<Meaning> = raised.iter().filter(of_field).map(|flag| flag.meaning).collect();
        sample(place, field, words, &said)
    });
    Some(Record { at, samples: samples.collect(), is_incomplete })
}

fn part(words: &[u16], offset: u16, count: u16) -> &[u16] {
    let begin = usize::from(offset);
    words.get(begin..begin + usize::from(count)).unwrap_or_default()
}

fn sample(place: usize, field: &ChannelSpec, words: &[u16], said: &[Meaning]) -> Option<Sample> {
    let (Location::Absolute(offset) | Location::SunSpec { offset, .. }) = field.location;
    let is_none = said.iter().any(|meaning| matches!(meaning, Meaning::Invalid | Meaning::Incomplete));
    let decoded = if is_none {
        Err(Quality::BadInvalid)
    } else {
        value::decode(field, Raw::Words(part(words, offset, field.registers())), 0)
    };
    let good = if said.contains(&Meaning::Estimated) { Quality::UncertainEstimated } else { Quality::Good };
    let (value, quality) = match decoded {
        Ok(value) => (Some(value), good),
        Err(quality) => (None, quality),
    };
    Some(Sample { channel: ChannelIndex(u16::try_from(place).ok()?), value, quality })
}
