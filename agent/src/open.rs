//! From the file of a configuration, and the files of profiles that it names, to the configuration. The only place that
//! opens them; what is in them is understood elsewhere.

use std::fmt;
use std::path::{Path, PathBuf};

use gapless_common::document::{Problems, text_of};
use gapless_common::profile::{Profile, ProfileError, ProfileSet};

use rustix::fs::Access;

use crate::config::{Config, ConfigError, Kind, Named, named};

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

    /// What is not there yet, of the files and folders that are opened once they are needed: it may come later, as a share that
    /// is not mounted yet, so it is no mistake.
    #[must_use]
    pub fn notes(&self) -> Vec<Note> {
        let file = self.path.display().to_string();
        let note = |named: Named| {
            let why = missing(Path::new(&*named.path), named.kind)?;
            Some(Note { file: file.clone(), named, why })
        };
        named(&self.text).into_iter().filter_map(note).collect()
    }

    fn named(&self, kind: Kind) -> impl Iterator<Item = Box<str>> {
        named(&self.text).into_iter().filter(move |named| named.kind == kind).map(|named| named.path)
    }
}

/// Something that a configuration names and that is not as it should be now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    file: String,
    named: Named,
    why: String,
}

/// One line.
impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Named { key, path, line, column, .. } = &self.named;
        write!(f, "note: {}:{line}:{column}: `{key}` names {path}, which {}", self.file, self.why)
    }
}

/// Why it cannot be used as things are; `None` where it can.
fn missing(path: &Path, kind: Kind) -> Option<String> {
    match kind {
        // Those were read with the configuration.
        Kind::Profile => None,
        Kind::File => match std::fs::metadata(path) {
            Err(why) => Some(format!("cannot be read: {why}")),
            Ok(found) if found.is_dir() => Some("is a folder and must be a file".to_owned()),
            Ok(_) => may(path, Access::READ_OK, "be read"),
        },
        Kind::Folder => match std::fs::metadata(path) {
            Err(why) => Some(format!("cannot be read: {why}")),
            Ok(found) if !found.is_dir() => Some("is a file and must be a folder".to_owned()),
            Ok(_) => may(path, Access::READ_OK | Access::EXEC_OK, "be read"),
        },
        Kind::Outbox => {
            // The agent makes what is missing of it.
            let path = &std::path::absolute(path).ok()?;
            let nearest = path.ancestors().find(|folder| folder.exists())?;
            if !nearest.is_dir() {
                return Some(format!("cannot be written to: {} is a file", nearest.display()));
            }
            let why = may(nearest, Access::WRITE_OK | Access::EXEC_OK, "be written to")?;
            Some(if nearest == path { why } else { format!("cannot be made: {} {why}", nearest.display()) })
        }
    }
}

fn may(path: &Path, access: Access, what: &str) -> Option<String> {
    rustix::fs::access(path, access).err().map(|why| format!("cannot {what}: {why}"))
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
        type Row = (&'static str, Option<&'static [u8]>, &'static [&'static str]);
        let rows: [Row; 4] = [
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
    fn what_is_not_there_yet_is_noted_with_its_key_and_place() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::write(root.join("file"), "secret\n").unwrap();
        let rows = [
            ("[uplink]\npassword_file = \"ROOT/file\"", None),
            (
                "[uplink]\npassword_file = \"ROOT/none\"",
                Some(":2:17: `uplink.password_file` names ROOT/none, which cannot be read: No such file"),
            ),
            (
                "[uplink]\nca_file = \"ROOT\"",
                Some(":2:11: `uplink.ca_file` names ROOT, which is a folder and must be a file"),
            ),
            ("[[bus]]\nfolder = \"ROOT\"", None),
            (
                "[[bus]]\nfolder = \"ROOT/none\"",
                Some(":2:10: `folder` names ROOT/none, which cannot be read: No such"),
            ),
            ("[[bus]]\nfolder = \"ROOT/file\"", Some("which is a file and must be a folder")),
            (
                "[[bus]]\ncampbell = { password_file = \"ROOT/none\" }",
                Some(":2:30: `campbell.password_file` names ROOT/none"),
            ),
            ("[outbox]\npath = \"ROOT/new/outbox\"", None),
            (
                "[outbox]\npath = \"ROOT/file/outbox\"",
                Some(
                    ":2:8: `outbox.path` names ROOT/file/outbox, which cannot be written to: ROOT/file is a file",
                ),
            ),
        ];
        let file = root.join("agent.toml");
        let root = root.display().to_string();
        for (text, expected) in rows {
            std::fs::write(&file, text.replace("ROOT", &root)).unwrap();
            let notes: Vec<String> =
                Written::read(&file).unwrap().notes().iter().map(Note::to_string).collect();
            match (notes.as_slice(), expected) {
                ([], None) => {}
                ([note], Some(part)) => {
                    let begins = note.starts_with(&format!("note: {root}/agent.toml:2:"));
                    assert!(begins && note.contains(&part.replace("ROOT", &root)), "{text}: {note}");
                }
                _ => panic!("{text}: {notes:?}"),
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
