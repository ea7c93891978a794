//! The part `[[gaps.donor]]` of the configuration: whose readings stand in for whose. A value that cannot be is refused where
//! it stands, so that the message names its line; whether channels match is known only once both devices are.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::id::{ChannelId, DeviceId};
use serde::Deserialize;

use super::alerts::DeviceKey;
use crate::gaps::donate::Donor;

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(try_from = "Vec<Raw>")]
pub struct Donors(Vec<Donor>);

impl Donors {
    /// In the order in which they are asked.
    #[must_use]
    pub fn all(&self) -> Vec<Donor> {
        self.0.clone()
    }
}

/// A device, and those of its site that stand in for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    device: DeviceKey,
    from: Vec<DeviceId>,
    /// The donors' name of each channel that has another one there.
    #[serde(default)]
    channels: BTreeMap<ChannelId, ChannelId>,
}

impl TryFrom<Vec<Raw>> for Donors {
    type Error = String;

    fn try_from(all: Vec<Raw>) -> Result<Self, String> {
        let (mut donors, mut known) = (Vec::new(), BTreeSet::new());
        for Raw { device: DeviceKey(key), from, channels } in all {
            let Some((site, device)) = key.split_once('/') else { continue };
            if from.is_empty() {
                return Err(format!(
                    "`from` of `{key}` names nobody: write the devices of its site that stand in for it"
                ));
            }
            for from in from {
                if from.as_str() == device {
                    return Err(format!("`{key}` cannot stand in for itself: `from` names it"));
                }
                if !known.insert((key.clone(), from.clone())) {
                    return Err(format!("`from` of `{key}` names `{from}` twice: once is enough"));
                }
                let channels = channels.iter().map(|(own, theirs)| (own.to_string(), theirs.to_string()));
                donors.push(Donor {
                    site: site.to_owned(),
                    device: device.to_owned(),
                    from: from.to_string(),
                    channels: channels.collect(),
                });
            }
        }
        Ok(Self(donors))
    }
}
