//! Names and numbers that identify things: sites, agents, buses, devices, channels, epochs, sequences.
//!
//! A value that exists is valid: names are checked when they are made. This file knows nothing of how they
//! are written down elsewhere (see `wire` and `topic`).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest name in bytes. Five of them and their separators stay far below MQTT's topic limit of 65,535.
pub const NAME_LEN_MAX: usize = 64;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a name must not be empty")]
    Empty,
    /// The text is longer than [`NAME_LEN_MAX`] bytes.
    #[error("a name has at most {NAME_LEN_MAX} characters, this one has {0}")]
    TooLong(usize),
    /// A character that topics, paths or file names would have to escape.
    #[error(
        "`{0}` cannot stand in a name: use letters, digits, `_`, `-` and `.`, and begin with a letter or digit"
    )]
    Character(char),
}

fn check_name(text: &str) -> Result<(), NameError> {
    let first = text.chars().next().ok_or(NameError::Empty)?;
    if text.len() > NAME_LEN_MAX {
        return Err(NameError::TooLong(text.len()));
    }
    if !first.is_ascii_alphanumeric() {
        return Err(NameError::Character(first));
    }
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || "_-.".contains(*c))) {
        Some(c) => Err(NameError::Character(c)),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks `text` and makes the name.
            ///
            /// # Errors
            /// [`NameError`] where the text is empty, too long or has a character that names cannot hold.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check_name(text).map(|()| Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    };
}

name! {
    /// A place with devices.
    SiteId
}
name! {
    /// A gateway on a site; replaceable, so no series is named after it.
    AgentId
}
name! {
    /// One serial port or TCP endpoint of a gateway.
    BusId
}
name! {
    /// A meter or logger; unique within its site.
    DeviceId
}
name! {
    /// One quantity of a device.
    ChannelId
}

/// `site/device/channel`, whichever agent carries it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesPath {
    /// The place.
    pub site: SiteId,
    /// The meter or logger.
    pub device: DeviceId,
    /// The quantity.
    pub channel: ChannelId,
}

impl fmt::Display for SeriesPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.site, self.device, self.channel)
    }
}

/// Why a text is not a series path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeriesPathError {
    /// Not three names with `/` between them.
    #[error("a series is named `site/device/channel`, got `{0}`")]
    Shape(String),
    /// One of the three is not a name.
    #[error("in series `{path}`")]
    Name {
        /// The whole text.
        path: String,
        /// What is wrong with the part.
        #[source]
        source: NameError,
    },
}

impl std::str::FromStr for SeriesPath {
    type Err = SeriesPathError;
    fn from_str(text: &str) -> Result<Self, SeriesPathError> {
        let parts: Vec<&str> = text.split('/').collect();
        let &[site, device, channel] = parts.as_slice() else {
            return Err(SeriesPathError::Shape(text.to_owned()));
        };
        let name = |source| SeriesPathError::Name { path: text.to_owned(), source };
        Ok(Self {
            site: SiteId::new(site).map_err(name)?,
            device: DeviceId::new(device).map_err(name)?,
            channel: ChannelId::new(channel).map_err(name)?,
        })
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $type:ident($inner:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(pub $inner);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

number! {
    /// Random number drawn whenever an outbox is opened, so that neither a restart nor a wiped, replaced or
    /// restored disk can ever issue the same (epoch, seq) twice.
    Epoch(u64), "{:016x}"
}
number! {
    /// Position of a record within its epoch: the first record has 1, each next one more. 0 means "none yet".
    Seq(u64), "{}"
}
number! {
    /// Random number of one MQTT connection of an agent; another connection's last will is ignored by it.
    ConnectionId(u32), "{:08x}"
}
number! {
    /// What a frame carries of its agent's name, so that a frame on another agent's topic is noticed: see
    /// [`AgentPath::tag`](crate::topic::AgentPath::tag).
    AgentTag(u16), "{:04x}"
}
number! {
    /// First 8 bytes (little endian) of the SHA-256 of a catalog's canonical bytes.
    CatalogHash(u64), "{:016x}"
}
number! {
    /// Random number of a collector database's life: a restored or replaced database draws a new one.
    Incarnation(u64), "{:016x}"
}
number! {
    /// Number of a commit within an incarnation; increases by one with each transaction.
    Commit(u64), "{}"
}
number! {
    /// First 8 bytes of the kernel's boot id: tells one start of the machine from another.
    BootId(u64), "{:016x}"
}

impl Seq {
    /// The next position.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Place of a device in its catalog's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceIndex(pub u16);

/// Place of a channel in its device's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChannelIndex(pub u16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_when_made() {
        for good in ["a", "mast-1", "SDM630.2", "0", &"x".repeat(64)] {
            assert!(SiteId::new(good).is_ok(), "{good}");
        }
        let rows = [
            ("", NameError::Empty),
            ("a/b", NameError::Character('/')),
            ("+", NameError::Character('+')),
            ("a b", NameError::Character(' ')),
            (".hidden", NameError::Character('.')),
            ("é", NameError::Character('é')),
        ];
        for (bad, why) in rows {
            assert_eq!(SiteId::new(bad), Err(why), "{bad}");
        }
        assert_eq!(SiteId::new(&"x".repeat(65)), Err(NameError::TooLong(65)));
    }

    #[test]
    fn series_paths_have_three_names() {
        let path: SeriesPath = "farm/mast-1/wind_80m".parse().unwrap();
        assert_eq!(path.to_string(), "farm/mast-1/wind_80m");
        assert!(matches!("farm/mast".parse::<SeriesPath>(), Err(SeriesPathError::Shape(_))));
        assert!(matches!("farm//x".parse::<SeriesPath>(), Err(SeriesPathError::Name { .. })));
    }
}
