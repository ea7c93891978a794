//! The collector's configuration: one TOML file, every key optional. Opens nothing but that file.

pub mod alerts;
pub mod donors;
pub mod gaps;
pub mod housekeeping;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use gapless_common::text::parse_duration_ms;
use serde::Deserialize;

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
    /// Files that each describe a source which the collector polls itself.
    pub sources: Vec<PathBuf>,
    /// Threads that poll them: so many accounts at once at most.
    pub source_workers: usize,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(i64);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let ms = parse_duration_ms(&text).map_err(|e| e.to_string())?;
        i64::try_from(ms).map(Self).map_err(|_| format!("`{text}` is longer than can be counted"))
    }
}

/// The broker.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Mqtt {
    /// `mqtt://host:port` or `mqtts://host:port`; absent for the embedded broker.
    pub broker: Option<String>,
    /// Where the embedded broker listens; loopback only.
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
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text)
            .map_err(|e| ConfigError::Parse { path: path.to_owned(), message: e.to_string() })?;
        if gapless_common::id::SiteId::new(&config.name).is_err() {
            let why = "letters, digits, `_`, `-` and `.`, at most 64";
            return Err(ConfigError::Value { key: "name", value: config.name, why });
        }
        config.broker()?;
        Ok(config)
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
        let wrong = || ConfigError::Value {
            key: "mqtt.broker",
            value: address.clone(),
            why: "write mqtt://host:1883 or mqtts://host:8883",
        };
        let (tls, rest) = match (address.strip_prefix("mqtt://"), address.strip_prefix("mqtts://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(wrong()),
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| wrong())?),
            _ => (rest, if tls { MQTTS_PORT } else { MQTT_PORT }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong());
        }
        Ok(BrokerChoice::External { host: host.to_owned(), port, tls })
    }
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
}
