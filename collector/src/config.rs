//! The collector's configuration: one TOML file, every key optional; `deploy/collector.toml` has them all. Opens nothing but
//! that file.

pub mod alerts;
pub mod donors;
pub mod gaps;
pub mod housekeeping;
pub mod named;
pub mod receivers;
pub(crate) mod words;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use gapless_common::document::{Problem, text_of};
use gapless_common::id::SiteId;
use serde::{Deserialize, Deserializer};

use crate::freshness::Allowances;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what it should be; the message names line and column.
    #[error("in {path}:\n{message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// A value that cannot be.
    #[error("`{key}` = {value:?}: {why}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        why: &'static str,
    },
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// This collector's name, as agents see it in its presence topic.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// Where the database and the first token lie.
    pub data_dir: PathBuf,
    /// The broker.
    pub mqtt: Mqtt,
    /// API and page.
    pub http: Http,
    /// How devices are asked for what is missing.
    pub gaps: gaps::Gaps,
    /// How old data may be.
    pub freshness: Freshness,
    /// From where on people are told, and who is.
    pub alerts: alerts::Alerts,
    /// What is tidied away by itself, and after how long.
    pub housekeeping: housekeeping::Housekeeping,
    /// Files that each describe a source which the collector polls itself; relative ones lie beside the configuration.
    pub sources: Vec<PathBuf>,
    /// Threads that poll them: so many accounts at once at most.
    #[serde(deserialize_with = "workers")]
    pub source_workers: usize,
    /// The file that it was read from.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// The sites and devices that it names.
    #[serde(skip)]
    pub named: Vec<named::Named>,
}

/// How old data may be; the nearest word counts: of the device, of its site, of its class, of all.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Freshness {
    /// Of all devices; two intervals, the agent's flush interval and 10 s where nothing is said.
    pub allowed: Option<Span>,
    /// By the attribute `class` of a device.
    pub class: BTreeMap<String, Span>,
    /// By site.
    pub site: BTreeMap<alerts::SiteKey, Span>,
    /// By `site/device`.
    pub device: BTreeMap<alerts::DeviceKey, Span>,
}

impl Freshness {
    /// What it says.
    #[must_use]
    pub fn allowances(&self) -> Allowances {
        Allowances {
            usual: self.allowed.map(|span| span.0),
            of_class: self.class.iter().map(|(key, span)| (key.clone(), span.0)).collect(),
            of_site: self.site.iter().map(|(key, span)| (key.0.clone(), span.0)).collect(),
            of_device: self.device.iter().map(|(key, span)| (key.0.clone(), span.0)).collect(),
        }
    }
}

/// A length of time, written as `3d`, `2w`, `90d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(i64);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        words::text(deserializer, words::SPAN, words::span_ms).map(Self)
    }
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    words::text(deserializer, "a text in quotes", |text| match SiteId::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => {
            Err(format!("`name` = {text:?}: write letters, digits, `_`, `-` and `.`, at most 64 of them"))
        }
    })
}

fn workers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let number = i64::deserialize(deserializer)?;
    let wrong = || format!("`source_workers` = {number}: write a whole number from 1 on, such as 32");
    let workers = usize::try_from(number).ok().filter(|workers| *workers > 0);
    workers.ok_or_else(|| serde::de::Error::custom(wrong()))
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is no address and port: write such as 127.0.0.1:8080"))
}

/// What an address is told as.
const SOCKET: &str = "an address and port in quotes, such as \"127.0.0.1:8080\"";

fn listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    words::text(deserializer, SOCKET, socket)
}

fn embedded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    words::text(deserializer, SOCKET, socket).map(Some)
}

fn broker<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    words::text(deserializer, "a text in quotes", |text| match external(text) {
        Some(_) => Ok(Some(text.to_owned())),
        None => Err(format!("`mqtt.broker` = {text:?}: {BROKER}")),
    })
}

/// The broker.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Mqtt {
    /// `mqtt://host:port` or `mqtts://host:port`; absent for the embedded broker.
    #[serde(deserialize_with = "broker")]
    pub broker: Option<String>,
    /// Where the embedded broker listens; loopback only.
    #[serde(deserialize_with = "embedded")]
    pub embedded: Option<SocketAddr>,
    /// User at the broker.
    pub user: Option<String>,
    /// File with the password, on its first line.
    pub password_file: Option<PathBuf>,
    /// Certificate authorities for `mqtts`.
    pub ca_file: Option<PathBuf>,
}

/// API and page.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Where they listen; loopback unless told otherwise.
    #[serde(deserialize_with = "listen")]
    pub listen: SocketAddr,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "main".to_owned(),
            data_dir: PathBuf::from("gapless-data"),
            mqtt: Mqtt::default(),
            http: Http::default(),
            gaps: gaps::Gaps::default(),
            freshness: Freshness::default(),
            alerts: alerts::Alerts::default(),
            housekeeping: housekeeping::Housekeeping::default(),
            sources: Vec::new(),
            source_workers: 32,
            file: None,
            named: Vec::new(),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8080)) }
    }
}

/// Which broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerChoice {
    /// Ours, on this loopback address.
    Embedded(SocketAddr),
    /// A broker elsewhere.
    External {
        /// Its host.
        host: String,
        /// Its port.
        port: u16,
        /// Whether to use TLS.
        tls: bool,
    },
}

const MQTT_PORT: u16 = 1883;
const MQTTS_PORT: u16 = 8883;

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let bytes =
            std::fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let parsed = |message| ConfigError::Parse { path: path.to_owned(), message };
        let text = text_of(&bytes).map_err(|problem| parsed(told(&problem)))?;
        let config: Self = toml::from_str(text).map_err(|error| parsed(plain(&error)))?;
        Ok(Self {
            sources: config.sources.iter().map(|source| beside(path, source)).collect(),
            file: Some(path.to_owned()),
            named: named::named(text),
            ..config
        })
    }

    /// The database's file.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.data_dir.join("gapless.db")
    }

    /// The file that the first admin token is written to, once.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.data_dir.join("admin-token")
    }

    /// The certificate authorities to trust.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        crate::authorities::file(self.mqtt.ca_file.as_deref())
    }

    /// Which broker to use.
    ///
    /// # Errors
    /// [`ConfigError::Value`] where the address is none.
    pub fn broker(&self) -> Result<BrokerChoice, ConfigError> {
        let Some(address) = &self.mqtt.broker else {
            let loopback = SocketAddr::from(([127, 0, 0, 1], MQTT_PORT));
            return Ok(BrokerChoice::Embedded(self.mqtt.embedded.unwrap_or(loopback)));
        };
        external(address).ok_or_else(|| ConfigError::Value {
            key: "mqtt.broker",
            value: address.clone(),
            why: BROKER,
        })
    }
}

/// What is right for a broker.
const BROKER: &str = "write mqtt://host:1883 or mqtts://host:8883";

/// The broker of that URL.
fn external(address: &str) -> Option<BrokerChoice> {
    let (tls, rest) = match (address.strip_prefix("mqtt://"), address.strip_prefix("mqtts://")) {
        (Some(rest), _) => (false, rest),
        (_, Some(rest)) => (true, rest),
        _ => return None,
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (rest, if tls { MQTTS_PORT } else { MQTT_PORT }),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then(|| BrokerChoice::External { host: host.to_owned(), port, tls })
}

/// Where a problem of a text is, and what.
pub(crate) fn told(problem: &Problem) -> String {
    format!("line {}, column {}: {}", problem.line, problem.column, problem.message)
}

/// A mistake with its line, and with what to write.
fn plain(error: &toml::de::Error) -> String {
    error.to_string().replace(error.message(), &words::plain(error.message()))
}

/// A file that the configuration names is looked for beside it, wherever the collector was started.
fn beside(config: &Path, file: &Path) -> PathBuf {
    let path = config.parent().unwrap_or(Path::new("")).join(file);
    // Where there is no working directory, the path as it is says all that is known.
    std::path::absolute(&path).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_named_by_url() {
        let external =
            |host: &str, port, tls| Some(BrokerChoice::External { host: host.to_owned(), port, tls });
        let rows = [
            ("mqtt://localhost", external("localhost", 1883, false)),
            ("mqtts://broker.example:8884", external("broker.example", 8884, true)),
            ("mqtt://[::1]:1884", external("::1", 1884, false)),
            ("http://broker", None),
            ("mqtt://", None),
            ("mqtt://host:port", None),
        ];
        for (address, expected) in rows {
            let mut config = Config::default();
            config.mqtt.broker = Some(address.to_owned());
            assert_eq!(config.broker().ok(), expected, "{address}");
        }
    }

    #[test]
    fn unknown_keys_are_refused_with_their_place() {
        let error = toml::from_str::<Config>("[http]\nlisten = \"127.0.0.1:1\"\nport = 1\n").unwrap_err();
        assert!(error.to_string().contains("line 3"), "{error}");
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
    }

    /// Through the file, as a collector reads it.
    fn read(text: &[u8]) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("collector.toml");
        std::fs::write(&file, text).unwrap();
        Config::read(&file).map_err(|error| error.to_string())
    }

    #[test]
    fn what_cannot_be_is_told_with_its_line_and_what_to_write() {
        let rows: [(&[u8], &str, &str); 14] = [
            (b"\nname = 3", "line 2,", "expected a text in quotes"),
            (b"\nname = \"a b\"", "line 2,", "`name` = \"a b\": write letters"),
            (b"sources = 3", "line 1,", "expected a list in brackets"),
            (b"source_workers = \"3\"", "line 1,", "expected a whole number"),
            (b"source_workers = 0", "line 1,", "write a whole number from 1 on"),
            (b"mqtt = 3", "line 1,", "expected a table"),
            (b"[mqtt]\nbroker = \"broker:1883\"", "line 2,", "write mqtt://host:1883 or"),
            (b"[mqtt]\nembedded = \"localhost\"", "line 2,", "write such as 127.0.0.1:"),
            (b"[http]\nlisten = \"localhost:8080\"", "line 2,", "write such as 127.0.0.1:8080"),
            (b"[http]\nlisten = 8080", "line 2,", "such as \"127.0.0.1:8080\""),
            (b"[gaps]\nwindow = \"0s\"", "line 2,", "write a length of time such as \"90d\""),
            (b"[gaps.class.a]\nwindow = \"0s\"", "line 2,", "write a length of time such as \"90d\""),
            (b"[alerts]\ngap = \"3\"", "line 2,", "expected a whole number"),
            (b"# a\nname = \"\xE4\"", "line 2, column 9", "0xE4 is not UTF-8"),
        ];
        for (text, line, why) in rows {
            let told = read(text).unwrap_err();
            let is_told = told.contains("collector.toml") && told.contains(line) && told.contains(why);
            assert!(is_told, "{line} {why}: {told}");
        }
    }

    #[test]
    fn sources_are_looked_for_beside_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("collector.toml");
        std::fs::write(&file, "sources = [\"meters.toml\", \"/etc/gapless/more.toml\"]").unwrap();
        let expected = [folder.path().join("meters.toml"), PathBuf::from("/etc/gapless/more.toml")];
        assert_eq!(Config::read(&file).unwrap().sources, expected);
    }

    const SHIPPED: &str = include_str!("../deploy/collector.toml");

    /// The shipped file with all that is commented out in it: what begins with `#` and no space behind it.
    fn uncommented() -> String {
        let line = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest.to_owned(),
            _ => line.to_owned(),
        };
        SHIPPED.lines().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_shipped_file_is_read_and_what_is_commented_out_in_it_is_what_holds_anyhow() {
        let shipped = toml::from_str::<Config>(SHIPPED).unwrap();
        let full = toml::from_str::<Config>(&uncommented()).unwrap_or_else(|error| panic!("{error}"));
        let usual = Config::default();
        assert_eq!((shipped.sources, shipped.source_workers), (full.sources.clone(), full.source_workers));
        assert_eq!((full.source_workers, &full.http), (usual.source_workers, &usual.http));
        let loopback = BrokerChoice::Embedded(full.mqtt.embedded.unwrap());
        assert_eq!(loopback, usual.broker().unwrap());
        assert_eq!(full.gaps.policies().usual, usual.gaps.policies().usual);
        let limits = |config: &Config| config.alerts.rules().of("nowhere", "nothing", None);
        assert_eq!(limits(&full), limits(&usual));
        let (mut said, usual) = (full.housekeeping.policy(), usual.housekeeping.policy());
        assert_eq!(said.agreements.len(), 1, "an example");
        said.agreements.clear();
        assert_eq!(said, usual);
    }

    #[test]
    fn every_key_of_the_configuration_stands_in_the_shipped_file() {
        let full: toml::Table = toml::from_str(&uncommented()).unwrap();
        let tables = [
            "",
            "[mqtt]",
            "[http]",
            "[gaps]",
            "[gaps.class.logger]",
            "[[gaps.donor]]",
            "[freshness]",
            "[alerts]",
            "[alerts.webhook.ops]",
            "[alerts.mail.oncall]",
            "[housekeeping]",
        ];
        // These are shown by an example of one of them.
        let alike = ["[alerts] site", "[alerts] device"];
        for header in tables {
            let error = toml::from_str::<Config>(&format!("{header}\nzzz = 1\n")).unwrap_err();
            let (_, keys) = error.message().split_once("expected ").unwrap_or_else(|| panic!("{error}"));
            let keys: Vec<&str> = keys.split('`').skip(1).step_by(2).collect();
            assert!(!keys.is_empty(), "{error}");
            let path = header.trim_matches(['[', ']']).split('.').filter(|part| !part.is_empty());
            let table = path.fold(&full, |table, part| {
                let inner = &table[part];
                let inner = inner.as_array().and_then(|all| all.first()).unwrap_or(inner);
                inner.as_table().unwrap()
            });
            for key in keys {
                let is_there = table.contains_key(key) || alike.contains(&format!("{header} {key}").as_str());
                assert!(is_there, "{header} {key}");
            }
        }
    }
}
