//! The description of a drop: where its files lie, how they are packed and written, how often it is looked, and which devices
//! it gives.
//!
//! Pure: whoever calls reads the file.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gapless_common::files::glob::is_below;
use gapless_common::id::SiteId;
use gapless_common::text::parse_size_bytes;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::super::describe::{Asked, Class, DeviceSpec, Span, wrong};
use super::super::devices::Shared;
use super::super::fetch::Pace;
use super::super::ground::Ground;
use super::command::Program;
use super::device::{DropDevice, Settings};
use super::form::{LastLine, RowSpec};
use super::lines::Meaning;
use super::packing::Packing;
use super::place::{Folder, Place};
use super::server::Server;
use super::ssh::Remote;
use super::unpack::Unpack;

/// All of a description.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::sources) struct DropDescription {
    /// The site of its devices.
    pub(super) site: String,
    /// Its name: what stands before `-DEVICE` in the names of its agents.
    pub(super) name: String,
    /// The class of its devices, where they name none; `drop` where it is not said.
    pub(super) class: Option<Class>,
    /// Where its files lie.
    pub(super) drop: DropSpec,
    /// How their rows are written.
    pub(super) rows: RowSpec,
    /// The longest stretch that is held in memory where gaps are filled.
    #[serde(default = "ninety_days")]
    pub(super) window: Span,
    /// How far back the first collection goes; as far as there is anything where it is not said.
    pub(super) first: Option<Span>,
    /// How far before what is new is read again at a start of the collector.
    #[serde(default)]
    pub(super) overlap: Span,
    /// What is not there so long after its time is taken for missing.
    pub(super) lag: Span,
    /// How often it is looked.
    pub(super) every: Span,
    /// How often while somebody looks at it.
    pub(super) every_least: Option<Span>,
    /// How often where nobody has looked for days.
    pub(super) every_most: Option<Span>,
    /// Its devices.
    #[serde(rename = "device", default)]
    pub(super) devices: Vec<DeviceSpec>,
}

fn ninety_days() -> Span {
    Span(90 * 86_400_000)
}

/// Where files lie, and how they are packed. `folder`, `sftp` and `files` may hold the `vars` of a device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::sources) struct DropSpec {
    /// A folder of this machine.
    pub(super) folder: Option<PathBuf>,
    /// A folder of another one: `USER@HOST:PORT/PATH`, in which user and port may be missing; `/~/PATH` begins where a login
    /// does.
    pub(super) sftp: Option<String>,
    /// The private key, without a passphrase; what `ssh` takes for it where it is not said.
    pub(super) identity: Option<PathBuf>,
    /// The file of host keys; likewise.
    pub(super) known_hosts: Option<PathBuf>,
    /// How long an answer of a server may take.
    #[serde(default = "thirty_seconds")]
    pub(super) timeout: Span,
    /// Which files, below the folder: `Met*.dat`, `2026/*/Met.zip`.
    pub(super) files: String,
    /// How they are packed; by their names and first bytes where it is not said.
    pub(super) unpack: Option<Unpack>,
    /// Which files within an archive, by the last part of their names; all where it is not said.
    pub(super) entries: Option<String>,
    /// A program with its arguments: gets a file on its standard input and gives the plain one on its standard output.
    #[serde(default)]
    pub(super) decrypt: Vec<String>,
    /// What was unpacked is decrypted, instead of what was decrypted unpacked.
    #[serde(default)]
    pub(super) unpack_first: bool,
    /// How long that program may take for a file.
    #[serde(default = "a_minute")]
    pub(super) decrypt_timeout: Span,
    /// The largest packed or encrypted file, and the most that comes out of one.
    #[serde(default)]
    pub(super) largest: Size,
}

/// Where the files of a device lie.
enum Whereabouts {
    /// In a folder of this machine.
    Folder(PathBuf),
    /// On a server.
    Server(Remote),
}

fn thirty_seconds() -> Span {
    Span(30_000)
}

fn a_minute() -> Span {
    Span(60_000)
}

/// A size in bytes, written as `64MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(in crate::sources) struct Size(pub u64);

impl Default for Size {
    fn default() -> Self {
        Self(64 << 20)
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse_size_bytes(&text).map(Self).map_err(|e| e.to_string())
    }
}

fn duration(span: Span) -> Duration {
    Duration::from_millis(span.0.unsigned_abs())
}

/// Whether a description is that of a drop.
pub(in crate::sources) fn is_drop(text: &str) -> bool {
    // One that is no TOML is said to be that by whoever reads it next.
    toml::from_str::<toml::Table>(text).is_ok_and(|table| table.contains_key("drop"))
}

impl DropDescription {
    /// Reads a description.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub(in crate::sources) fn read(text: &str) -> Result<Self, String> {
        let description: Self = toml::from_str(text).map_err(|error| wrong(text, &error))?;
        description.check()?;
        Ok(description)
    }

    fn check(&self) -> Result<(), String> {
        let spans = [
            ("window", Some(self.window)),
            ("every", Some(self.every)),
            ("every_least", self.every_least),
            ("every_most", self.every_most),
            ("drop.timeout", Some(self.drop.timeout)),
            ("drop.decrypt_timeout", Some(self.drop.decrypt_timeout)),
        ];
        if let Some((name, _)) = spans.iter().find(|(_, span)| span.is_some_and(|span| span.0 <= 0)) {
            return Err(format!("`{name}` is nothing: write a length of time such as 30m"));
        }
        self.site_id()?;
        let asked = self.asked()?;
        if asked.is_empty() {
            return Err("the drop has no device: write `[[device]]`".to_owned());
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = asked.iter().find(|asked| !names.insert(asked.device.id.as_str())) {
            return Err(format!("two devices are named `{}`: each needs a name of its own", twice.device.id));
        }
        asked.iter().try_for_each(|asked| self.settings(asked).and(self.whereabouts(asked)).map(drop))
    }

    /// Its devices.
    ///
    /// # Errors
    /// A name or an interval that cannot be.
    pub(in crate::sources) fn asked(&self) -> Result<Vec<Asked>, String> {
        let shared = Shared {
            source: &self.name,
            class: self.class.as_ref().map_or("drop", |class| &class.0),
            every: self.every,
            lag: self.lag,
            every_least: self.every_least,
            every_most: self.every_most,
            value: (self.rows.value.as_deref(), "rows.value"),
            label: self.rows.label,
        };
        self.devices.iter().map(|spec| shared.device(spec)).collect()
    }

    /// The site.
    pub(in crate::sources) fn site_id(&self) -> Result<SiteId, String> {
        SiteId::new(&self.site).map_err(|e| format!("`site`: {e}"))
    }

    /// What the thread goes by.
    pub(in crate::sources) fn pace(&self) -> Pace {
        Pace {
            name: self.name.clone(),
            window_ms: self.window.0,
            overlap_ms: self.overlap.0,
            lag_ms: self.lag.0,
            // A drop never says so of one device.
            unreachable_every_ms: self.every.0,
        }
    }

    /// One of its devices, to be read on that ground.
    pub(in crate::sources) fn device(
        &self,
        asked: &Asked,
        ground: &Arc<dyn Ground>,
    ) -> Result<DropDevice, String> {
        let place: Box<dyn Place> = match self.whereabouts(asked)? {
            Whereabouts::Folder(folder) => Box::new(Folder(folder, Arc::clone(ground).folders())),
            Whereabouts::Server(remote) => Box::new(Server::new(remote)),
        };
        let ground = Arc::clone(ground);
        Ok(DropDevice::new(self.settings(asked)?, place, Box::new(move || ground.instant())))
    }

    /// How one of its devices is read.
    fn settings(&self, asked: &Asked) -> Result<Settings, String> {
        let pattern = asked.spec.filled_path("drop.files", &self.drop.files)?;
        if !is_below(&pattern) {
            return Err(format!(
                "`drop.files` are names below the folder, such as \"Met*.dat\" or \"2026/*/Met.dat\", and not `{pattern}`"
            ));
        }
        let RowSpec { status, status_invalid, invalid, overflow_above, .. } = &self.rows;
        let meaning = Meaning {
            form: self.rows.form()?,
            values: asked.values.clone(),
            status: status.clone(),
            status_invalid: status_invalid.clone(),
            invalid: invalid.clone(),
            overflow_above: *overflow_above,
        };
        let packing = self.packing()?;
        let channels = asked.device.channels.iter().map(|channel| channel.id.as_str());
        let reads = reads(&meaning, self.rows.last_line, &packing, &channels.collect::<Vec<_>>());
        Ok(Settings {
            source: self.name.clone(),
            pattern,
            grid: asked.device.grid,
            first_ms: self.first.map(|span| span.0),
            meaning,
            last_line: self.rows.last_line,
            packing,
            reads,
        })
    }

    fn packing(&self) -> Result<Packing, String> {
        let DropSpec { unpack, entries, decrypt, unpack_first, decrypt_timeout, largest, .. } = &self.drop;
        let decrypt = match decrypt.first().map(String::as_str) {
            None if *unpack_first => {
                return Err("`drop.unpack_first` says nothing without `decrypt`: leave it away".to_owned());
            }
            None => None,
            Some("") => return Err("`drop.decrypt` begins with no program".to_owned()),
            Some(_) => Some(Program { argv: decrypt.clone(), timeout: duration(*decrypt_timeout) }),
        };
        Ok(Packing {
            unpack: *unpack,
            entries: entries.clone(),
            decrypt,
            is_unpacked_first: *unpack_first,
            bytes_max: largest.0,
        })
    }

    /// The folders of this machine that its files lie in.
    ///
    /// # Errors
    /// A name or an interval that cannot be.
    pub(in crate::sources) fn folders(&self) -> Result<BTreeSet<PathBuf>, String> {
        let mut folders = BTreeSet::new();
        for asked in self.asked()? {
            if let Whereabouts::Folder(folder) = self.whereabouts(&asked)? {
                folders.insert(folder);
            }
        }
        Ok(folders)
    }

    /// Where the files of one of its devices lie.
    fn whereabouts(&self, asked: &Asked) -> Result<Whereabouts, String> {
        let DropSpec { folder, sftp, identity, known_hosts, timeout, .. } = &self.drop;
        match (folder, sftp) {
            (Some(folder), None) => {
                if identity.is_some() || known_hosts.is_some() {
                    return Err(
                        "`drop.identity` and `drop.known_hosts` are for `sftp`: leave them away".to_owned()
                    );
                }
                let folder = asked.spec.filled_path("drop.folder", &folder.display().to_string())?;
                Ok(Whereabouts::Folder(folder.into()))
            }
            (None, Some(sftp)) => {
                let (host, port, folder) = remote(&asked.spec.filled_path("drop.sftp", sftp)?)?;
                let (identity, known_hosts) = (identity.clone(), known_hosts.clone());
                let timeout = duration(*timeout);
                Ok(Whereabouts::Server(Remote { host, port, folder, identity, known_hosts, timeout }))
            }
            _ => {
                Err("`drop` is one of `folder = \"/mnt/share\"` and `sftp = \"user@host:22/folder\"`"
                    .to_owned())
            }
        }
    }
}

/// All of a description by which rows are made of a file, as a number. Which files there are is no part of it, nor are limits: what
/// was beyond one was not read. A later program that calls any of it by another name reads all files once more.
fn reads(meaning: &Meaning, last_line: LastLine, packing: &Packing, channels: &[&str]) -> u64 {
    let Packing { unpack, entries, decrypt, is_unpacked_first, bytes_max: _ } = packing;
    let decrypt = decrypt.as_ref().map(|program| &program.argv);
    let text = format!("{:?}", (channels, meaning, last_line, unpack, entries, decrypt, is_unpacked_first));
    let digest = Sha256::digest(text);
    digest.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Host with its user, port and folder of `USER@HOST:PORT/PATH`.
fn remote(text: &str) -> Result<(String, Option<u16>, String), String> {
    let wrong = || {
        format!(
            "`drop.sftp`: write USER@HOST:PORT/PATH instead of `{text}`, such as \"gapless@files.example:22/outgoing\""
        )
    };
    let (server, path) = text.split_once('/').ok_or_else(wrong)?;
    let (user, place) = server.rsplit_once('@').map_or((None, server), |(user, place)| (Some(user), place));
    let bracketed = place.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, port) = match bracketed {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(wrong)?)),
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map(|port| port.parse::<u16>().map_err(|_| wrong())).transpose()?;
    // It becomes an argument of a program.
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with('-')
            && !name.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    if !is_name(host) || user.is_some_and(|user| !is_name(user)) {
        return Err(wrong());
    }
    let host = user.map_or_else(|| host.to_owned(), |user| format!("{user}@{host}"));
    let folder = match path.strip_prefix("~/") {
        Some(below) => below.trim_end_matches('/').to_owned(),
        None => format!("/{}", path.trim_end_matches('/')),
    };
    let is_root = folder.is_empty() || folder == "/";
    Ok((host, port, if is_root { folder } else { format!("{folder}/") }))
}

#[cfg(test)]
mod tests {
    use gapless_common::files::form::Kind;

    use super::*;

    const EXAMPLE: &str = include_str!("../../../sources/logger-drop.toml");

    fn told(from: &str, to: &str) -> String {
        assert!(EXAMPLE.contains(from), "{from} is not in the example");
        DropDescription::read(&EXAMPLE.replacen(from, to, 1)).map_or_else(|why| why, |_| String::new())
    }

    #[test]
    fn the_shipped_example_is_read() {
        let description = DropDescription::read(EXAMPLE).unwrap();
        let asked = description.asked().unwrap();
        let device = &asked[0].device;
        assert_eq!((asked[0].agent.as_str(), device.channels.len()), ("loggers-mast", 3));
        let attributes: Vec<_> =
            ["class", "history", "revises", "every"].map(|key| device.attributes[key].as_str()).to_vec();
        assert_eq!(attributes, ["drop", "source", "true", "10m"]);
        let settings = description.settings(&asked[0]).unwrap();
        assert_eq!((settings.pattern.as_str(), settings.meaning.form.kind), ("Met_1234*.dat", Kind::Toa5));
        assert_eq!(settings.meaning.values, ["WS_80m_Avg", "WD_78m_WVT", "BattV_Min"]);
        assert_eq!((settings.packing.decrypt, settings.packing.bytes_max), (None, 64 << 20));
        assert_eq!(settings.last_line, LastLine::Waits);
        let named = EXAMPLE.replacen("[[device]]", "[[device]]\nclass = \"mast\"", 1);
        let described = DropDescription::read(&named).unwrap().asked().unwrap();
        assert_eq!(described[0].device.attributes["class"], "mast");
        let of_all = format!("class = \"files\"\n{EXAMPLE}");
        let described = DropDescription::read(&of_all).unwrap().asked().unwrap();
        assert_eq!(described[0].device.attributes["class"], "files");
        let whole = EXAMPLE.replacen("# last_line", "last_line", 1);
        let description = DropDescription::read(&whole).unwrap();
        let settings = description.settings(&description.asked().unwrap()[0]).unwrap();
        assert_eq!(settings.last_line, LastLine::Whole);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let csv = |more: &str| format!("format = \"csv\"\n{more}");
        let rows = [
            ("folder = \"/mnt/share/mast-7\"", "url = \"http://x\"".to_owned(), "unknown field `url`"),
            ("folder = \"/mnt/share/mast-7\"", "".to_owned(), "`drop` is one of"),
            ("share/mast-7", "share/{3F25-05E8}".to_owned(), "`3F25-05E8 = \"{3F25-05E8}\"`"),
            ("folder = \"/mnt/share/mast-7\"", "sftp = \"files.example\"".to_owned(), "USER@HOST:PORT/PATH"),
            (
                "folder = \"/mnt/share/mast-7\"",
                "sftp = \"-oProxyCommand=x/y\"".to_owned(),
                "USER@HOST:PORT/PATH",
            ),
            (
                "folder = \"/mnt/share/mast-7\"",
                "folder = \"/x\"\nidentity = \"/k\"".to_owned(),
                "are for `sftp`",
            ),
            ("\"Met_{logger}*.dat\"", "\"../Met*.dat\"".to_owned(), "names below the folder"),
            ("\"Met_{logger}*.dat\"", "\"/Met*.dat\"".to_owned(), "names below the folder"),
            ("zone = \"+00:00\"", "zone = \"Europe/Berlin\"".to_owned(), "is no offset from UTC"),
            ("format = \"toa5\"", "format = \"toa5\"\nskip = 1".to_owned(), "a TOA5 file says it itself"),
            ("format = \"toa5\"", csv(""), "`rows.time` is missing"),
            ("format = \"toa5\"", csv("time = \"t\"\ndecimal = \",\""), "a comma cannot part the cells"),
            ("format = \"toa5\"", csv("time = \"t\"\ntime_format = \"%H\""), "is no form of a time"),
            ("format = \"toa5\"", csv("time = \"t\"\nheader = [\"a\"]"), "names no column `t`"),
            (
                "format = \"toa5\"",
                csv("time = \"t\"\nencoding = \"ebcdic\""),
                "`ebcdic` is none of utf-8, latin-1",
            ),
            (
                "format = \"toa5\"",
                "format = \"toa5\"\nlast_line = \"half\"".to_owned(),
                "unknown variant `half`, expected `waits` or `whole`",
            ),
            ("every = \"10m\"", "every = \"0s\"".to_owned(), "`every` is nothing"),
            ("every_least", "every_leest".to_owned(), "unknown field `every_leest`"),
        ];
        for (from, to, expected) in rows {
            let told = told(from, &to);
            assert!(told.contains(expected), "{to}: {told}");
        }
        let largest = told("folder = \"/mnt/share/mast-7\"", "folder = \"/x\"\nlargest = \"many\"");
        assert!(largest.contains("64MiB"), "{largest}");
    }

    #[test]
    fn what_makes_other_rows_of_the_same_files_is_told_from_what_does_not() {
        let reads = |from: &str, to: &str| {
            assert!(EXAMPLE.contains(from), "{from} is not in the example");
            let description = DropDescription::read(&EXAMPLE.replacen(from, to, 1)).unwrap();
            description.settings(&description.asked().unwrap()[0]).unwrap().reads
        };
        let (same, other) = (reads("", ""), false);
        let rows = [
            ("Met_{logger}*.dat", "Met_{logger}*", !other),
            ("every = \"10m\"", "every = \"1h\"", !other),
            ("# first", "first", !other),
            ("# largest = \"64MiB\"", "largest = \"1MiB\"", !other),
            ("unit = \"V\"", "unit = \"mV\"", !other),
            ("\"+00:00\"", "\"+01:00\"", other),
            ("BattV_Min", "BattV_Max", other),
            ("\"battery\"", "\"volts\"", other),
            ("-9999.0", "-6999.0", other),
            ("# last_line", "last_line", other),
            ("# entries", "entries", other),
            ("# decrypt = ", "decrypt = ", other),
            ("format = \"toa5\"", "format = \"csv\"\ntime = \"t\"", other),
        ];
        for (from, to, is_same) in rows {
            assert_eq!(reads(from, to) == same, is_same, "{to}");
        }
    }

    #[test]
    fn the_line_that_is_wrong_is_named_and_not_shown() {
        let told = told("every = \"10m\"", "every = 530537 # s3cret");
        assert!(
            told.starts_with("line ") && told.ends_with(": expected a length of time such as \"30m\""),
            "{told}"
        );
        let is_shown = ["530537", "s3cret", "\n"].iter().any(|text| told.contains(text));
        assert!(!is_shown, "{told}");
    }

    #[test]
    fn a_folder_of_a_server_is_read() {
        let rows = [
            ("gapless@files.example:2222/out/mast-7", ("gapless@files.example", Some(2222), "/out/mast-7/")),
            ("files.example/out/", ("files.example", None, "/out/")),
            ("files.example/~/out", ("files.example", None, "out/")),
            ("a@files.example/~/", ("a@files.example", None, "")),
            ("a@[fe80::1]:22/", ("a@fe80::1", Some(22), "/")),
        ];
        for (text, (host, port, folder)) in rows {
            assert_eq!(remote(text), Ok((host.to_owned(), port, folder.to_owned())), "{text}");
        }
        for bad in ["", "host", "host:x/y", "@host/y", "-v/y", "a b/y", "[fe80::1/y", "host:70000/y"] {
            assert!(remote(bad).is_err(), "{bad}");
        }
    }
}
