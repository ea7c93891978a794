//! The profiles that come with the product, and those that a person adds or puts in their place.

use std::collections::BTreeMap;

use super::{Profile, ProfileError};

macro_rules! profiles {
    ($($id:literal),* $(,)?) => {
        &[$(($id, include_str!(concat!("../../profiles/", $id, ".toml")))),*]
    };
}

/// Id and text of every embedded profile, in order of id.
#[must_use]
pub const fn all() -> &'static [(&'static str, &'static str)] {
    profiles![
        "abb-b23",
        "campbell-cr1000x",
        "carlo-gavazzi-em340",
        "eastron-sdm120",
        "eastron-sdm630",
        "example-load-profile-file",
        "example-load-profile-window",
        "janitza-umg96",
        "lufft-ws-umb",
        "schneider-iem3155",
        "sunspec-inverter-101",
        "sunspec-inverter-102",
        "sunspec-inverter-103",
        "sunspec-inverter-113",
        "sunspec-meter-203",
        "thies-clima-sensor-us",
        "thies-first-class-advanced-x",
    ]
}

/// Profiles by the name that configurations have for them: their id, or the file that they stand in.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProfileSet {
    known: BTreeMap<Box<str>, Profile>,
    /// Files that are no profile, and why.
    unusable: BTreeMap<Box<str>, Box<str>>,
}

impl ProfileSet {
    /// The embedded profiles.
    ///
    /// # Errors
    /// None that a release has: a test parses them all.
    pub fn embedded() -> Result<Self, ProfileError> {
        let mut set = Self::default();
        for (id, toml) in all() {
            set.insert(Profile::parse(&format!("{id}.toml"), toml)?);
        }
        Ok(set)
    }

    /// Adds a profile, in the place of one with the same id.
    pub fn insert(&mut self, profile: Profile) {
        self.known.insert(profile.id.clone(), profile);
    }

    /// Adds a profile under the name of its file: the id in it may be that of another one.
    pub fn insert_file(&mut self, file: &str, profile: Profile) {
        self.known.insert(file.into(), profile);
    }

    /// Keeps why a file that a configuration names is no profile: what goes on behind "the file `…`, which".
    pub fn insert_unusable(&mut self, file: &str, why: &str) {
        self.unusable.insert(file.into(), why.into());
    }

    /// Whether a name in a configuration is that of a file.
    #[must_use]
    pub fn is_file(name: &str) -> bool {
        name.ends_with(".toml")
    }

    /// The profile of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Profile> {
        self.known.get(name)
    }

    /// Why the file of that name is no profile.
    #[must_use]
    pub fn why_unusable(&self, file: &str) -> Option<&str> {
        self.unusable.get(file).map(|why| &**why)
    }

    /// All of them, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = &Profile> {
        self.known.values()
    }

    /// What devices may write to get one, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.known.keys().map(|name| &**name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::profile::{ChannelSpec, Location};

    #[test]
    fn every_embedded_profile_is_valid_and_named_after_its_file() {
        for (id, toml) in all() {
            let profile = Profile::parse(&format!("{id}.toml"), toml).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(&*profile.id, *id);
            assert!(!profile.channels.is_empty(), "{id}");
            overlaps(id, &profile.channels);
        }
        let ids: Vec<&str> = all().iter().map(|(id, _)| *id).collect();
        assert!(ids.is_sorted());
    }

    /// Spot checks against the documents, in the form they go over the wire.
    #[test]
    fn registers_are_where_the_documents_say() {
        let set = ProfileSet::embedded().unwrap_or_else(|e| panic!("{e}"));
        let rows = [
            ("eastron-sdm630", "voltage_l1", "input register 0 (0x0000) f32 ABCD 1"),
            ("eastron-sdm630", "active_energy_import", "input register 72 (0x0048) f32 ABCD 1"),
            ("abb-b23", "active_power", "holding register 23316 (0x5B14) i32 ABCD 0.01"),
            ("abb-b23", "active_energy_import", "holding register 20480 (0x5000) u64 ABCD 0.01"),
            ("abb-b23", "power_factor", "holding register 23354 (0x5B3A) i16 ABCD 0.001"),
            ("carlo-gavazzi-em340", "current_l3", "input register 16 (0x0010) i32 CDAB 0.001"),
            ("carlo-gavazzi-em340", "active_energy_export", "input register 78 (0x004E) i32 CDAB 0.1"),
            ("schneider-iem3155", "voltage_l1", "holding register 3027 (0x0BD3) f32 ABCD 1"),
            ("schneider-iem3155", "active_energy_import", "holding register 45099 (0xB02B) f32 ABCD 1"),
            ("schneider-iem3155", "power_factor_four_quadrant", "holding register 3083 (0x0C0B) f32 ABCD 1"),
            ("janitza-umg96", "frequency", "holding register 19050 (0x4A6A) f32 ABCD 1"),
            ("janitza-umg96", "active_energy_export", "holding register 19076 (0x4A84) f32 ABCD 1"),
            ("campbell-cr1000x", "float_02", "holding register 2 (0x0002) f32 CDAB 1"),
            ("thies-clima-sensor-us", "wind_speed", "input register 35001 (0x88B9) u32 ABCD 0.1"),
            ("thies-clima-sensor-us", "global_radiation", "input register 35091 (0x8913) i32 ABCD 0.1"),
            ("lufft-ws-umb", "wind_speed", "input register 45 (0x002D) i16 ABCD 0.1"),
            ("lufft-ws-umb", "relative_humidity_mean", "input register 13 (0x000D) u16 ABCD 0.1"),
            ("lufft-ws-umb", "precipitation_total", "input register 48 (0x0030) u16 ABCD 0.01"),
            (
                "sunspec-inverter-103",
                "active_power",
                "holding register offset 14 of SunSpec model 103 i16 ABCD 1",
            ),
            (
                "sunspec-meter-203",
                "active_energy_import",
                "holding register offset 46 of SunSpec model 203 u32 ABCD 1",
            ),
        ];
        for (profile, channel, expected) in rows {
            let channels = &set.get(profile).unwrap().channels;
            let found = channels.iter().find(|c| c.id.as_str() == channel).unwrap();
            let ChannelSpec { table, location, value_type, order, scale, .. } = found;
            let got = format!("{table} {location} {value_type} {order:?} {}", scale.factor());
            assert_eq!(got, expected, "{profile}/{channel}");
        }
    }

    /// Two channels that begin at different registers share none: an overlap is a slip in the file.
    fn overlaps(id: &str, channels: &[ChannelSpec]) {
        let mut covered = BTreeSet::new();
        for channel in channels {
            for n in 0..channel.registers() {
                let (model, at) = match channel.location.plus(n) {
                    Some(Location::Absolute(at)) => (0, at),
                    Some(Location::SunSpec { model, offset }) => (model, offset),
                    None => panic!("{id}: {} ends past its table", channel.id),
                };
                assert!(covered.insert((channel.table, model, at)), "{id}: {} overlaps at {at}", channel.id);
            }
        }
    }
}
