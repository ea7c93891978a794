//! From the file of a configuration, and the files of profiles that it names, to the configuration. The only place that
//! opens them; what is in them is understood elsewhere.

use std::path::{Path, PathBuf};

use gapless_common::document::{Problems, text_of};
use gapless_common::profile::{Profile, ProfileError, ProfileSet};

use crate::config::{Config, ConfigError, Kind, named};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It, or files of profiles, are not what they should be.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Wrong(Vec<Problems>),
    /// A shipped profile: a test parses them all.
    #[error(transparent)]
    Shipped(#[from] ProfileError),
}

/// The file of a configuration, read.
#[derive(Debug)]
pub struct Written {
    path: PathBuf,
    text: String,
}

impl Written {
    /// Reads the file.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn read(path: &Path) -> Result<Self, OpenError> {
        let bytes =
            std::fs::read(path).map_err(|source| OpenError::Read { path: path.to_owned(), source })?;
        let text = text(path, &bytes).map_err(|problems| OpenError::Wrong(vec![problems]))?;
        Ok(Self { path: path.to_owned(), text })
    }

    /// What it says, with the profiles that it names: shipped ones, and files beside it.
    ///
    /// # Errors
    /// All that is wrong, in it and in the files of profiles.
    pub fn config(&self) -> Result<Config, OpenError> {
        let mut profiles = ProfileSet::embedded()?;
        let mut wrong = Vec::new();
        let mut files: Vec<Box<str>> = self.named(Kind::Profile).collect();
        files.sort();
        files.dedup();
        for file in files {
            match profile(&beside(&self.path, &file)) {
                Ok(profile) => profiles.insert_file(&file, profile),
                Err(Unusable::Read(why)) => {
                    profiles.insert_unusable(&file, &format!("cannot be read: {why}"));
                }
                Err(Unusable::Wrong(problems)) => {
                    profiles.insert_unusable(&file, "has the mistakes that are told above");
                    wrong.push(problems);
                }
            }
        }
        match Config::parse(&self.path.display().to_string(), &self.text, &profiles) {
            Ok(config) => Ok(config),
            Err(ConfigError(problems)) => {
                wrong.push(problems);
                Err(OpenError::Wrong(wrong))
            }
        }
    }

    fn named(&self, kind: Kind) -> impl Iterator<Item = Box<str>> {
        named(&self.text).into_iter().filter(move |named| named.kind == kind).map(|named| named.path)
    }
}

/// Why a file is no profile.
enum Unusable {
    Read(std::io::Error),
    Wrong(Problems),
}

fn profile(path: &Path) -> Result<Profile, Unusable> {
    let bytes = std::fs::read(path).map_err(Unusable::Read)?;
    let text = text(path, &bytes).map_err(Unusable::Wrong)?;
    Profile::parse(&path.display().to_string(), &text).map_err(|ProfileError(wrong)| Unusable::Wrong(wrong))
}

fn text(path: &Path, bytes: &[u8]) -> Result<String, Problems> {
    let told = |problem| Problems { file: path.display().to_string().into(), list: vec![problem] };
    text_of(bytes).map(str::to_owned).map_err(told)
}

/// A file that a configuration names is looked for beside it.
fn beside(config: &Path, file: &str) -> PathBuf {
    config.parent().unwrap_or(Path::new("")).join(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
site = "s"
agent = "a"
uplink = { broker = "mqtt://localhost" }
outbox = { path = "/tmp/o" }
[[bus]]
id = "b"
tcp = { address = "localhost" }
interval = "1s"
[[bus.device]]
id = "meter"
unit = 1
profile = "my-meter.toml"
"#;
    const PROFILE: &str = "id = \"my-meter\"\nmake = \"Acme\"\nmodel = \"M1\"\nkind = \"meter\"\nsource = \"list\"\n\
        channel = [{ id = \"voltage\", address = 0, type = \"f32\", unit = \"V\" }]\n";

    #[test]
    fn a_profile_may_be_a_file_beside_the_configuration_and_its_mistakes_are_told_where_they_stand() {
        let rows: [(&str, Option<&[u8]>, &[&str]); 4] = [
            ("", Some(PROFILE.as_bytes()), &[]),
            (
                "",
                None,
                &[
                    "agent.toml:13:11: `profile` names the file `my-meter.toml`, which cannot be read: No such file",
                ],
            ),
            (
                "flsh = 1\n",
                Some(b"id = \"my-meter\"\nmake = 3\n"),
                &[
                    "my-meter.toml:2:8: `make` must be a string, got an integer\n",
                    "my-meter.toml:1:1: `channel` is missing",
                    "agent.toml:1:1: unknown key `flsh`",
                    "agent.toml:14:11: `profile` names the file `my-meter.toml`, which has the mistakes that are told above",
                ],
            ),
            ("", Some(b"id = \"\xFC\""), &["my-meter.toml:1:7: the byte 0xFC is not UTF-8"]),
        ];
        for (before, profile, expected) in rows {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("agent.toml");
            std::fs::write(&file, format!("{before}{CONFIG}")).unwrap();
            if let Some(profile) = profile {
                std::fs::write(folder.path().join("my-meter.toml"), profile).unwrap();
            }
            let read = Written::read(&file).unwrap().config();
            if expected.is_empty() {
                let config = read.unwrap();
                let device = &config.buses[0].devices[0];
                let got = (device.profile.as_deref(), device.channels[0].id.as_str());
                assert_eq!(got, (Some("my-meter"), "voltage"));
                continue;
            }
            let why = read.unwrap_err().to_string();
            let prefix = format!("{}/", folder.path().display());
            for part in expected {
                assert!(why.contains(&format!("{prefix}{part}")), "{part}: {why}");
            }
        }
    }

    #[test]
    fn a_configuration_that_is_not_utf8_is_told_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        std::fs::write(&file, b"site = \"x\"\nagent = \"\xE4\"\n").unwrap();
        let why = Written::read(&file).unwrap_err().to_string();
        assert!(
            why.ends_with("agent.toml:2:10: the byte 0xE4 is not UTF-8: save the file as UTF-8"),
            "{why}"
        );
    }
}
