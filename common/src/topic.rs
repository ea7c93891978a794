//! MQTT topics: `gapless/v1/{site}/{agent}/up/{data|state|catalog|reply}`,
//! `gapless/v1/{site}/{agent}/down/{ack|command}` and `gapless/v1/collectors/{name}` (retained presence).

use std::fmt;

use crate::id::{AgentId, AgentTag, SiteId};

/// What a collector subscribes to.
pub const UP_FILTER: &str = "gapless/v1/+/+/up/+";

/// What an agent subscribes to for the presence of collectors.
pub const PRESENCE_FILTER: &str = "gapless/v1/collectors/+";

/// From agent to collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Up {
    /// Frames of records.
    Data,
    /// Birth, last will, goodbye.
    State,
    /// A catalog that was asked for.
    Catalog,
    /// Answers to commands.
    Reply,
}

/// From collector to agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Down {
    /// Application acknowledgements.
    Ack,
    /// Commands.
    Command,
}

/// The agent that a topic names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentPath {
    /// Its site.
    pub site: SiteId,
    /// Its name there.
    pub agent: AgentId,
}

impl fmt::Display for AgentPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.site, self.agent)
    }
}

impl AgentPath {
    /// The low 16 bits of the CRC-32C of `site/agent`. One wrong name in 65,536 passes this check and is
    /// then caught by its epoch, which belongs to another agent.
    #[must_use]
    pub fn tag(&self) -> AgentTag {
        let [low, high, ..] = crc32c::crc32c(self.to_string().as_bytes()).to_le_bytes();
        AgentTag(u16::from_le_bytes([low, high]))
    }

    /// The topic of a message to the collector.
    #[must_use]
    pub fn up(&self, kind: Up) -> String {
        let kind = match kind {
            Up::Data => "data",
            Up::State => "state",
            Up::Catalog => "catalog",
            Up::Reply => "reply",
        };
        format!("gapless/v1/{self}/up/{kind}")
    }

    /// The topic of a message to the agent.
    #[must_use]
    pub fn down(&self, kind: Down) -> String {
        let kind = match kind {
            Down::Ack => "ack",
            Down::Command => "command",
        };
        format!("gapless/v1/{self}/down/{kind}")
    }

    /// Reads a topic below [`UP_FILTER`]; `None` for any other.
    #[must_use]
    pub fn parse_up(topic: &str) -> Option<(Self, Up)> {
        let rest = topic.strip_prefix("gapless/v1/")?;
        let parts: Vec<&str> = rest.split('/').collect();
        let &[site, agent, "up", kind] = parts.as_slice() else { return None };
        let kind = match kind {
            "data" => Up::Data,
            "state" => Up::State,
            "catalog" => Up::Catalog,
            "reply" => Up::Reply,
            _ => return None,
        };
        Some((Self { site: SiteId::new(site).ok()?, agent: AgentId::new(agent).ok()? }, kind))
    }
}

/// The topic of a collector's retained presence.
#[must_use]
pub fn presence(collector: &str) -> String {
    format!("gapless/v1/collectors/{collector}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Do not change: frames in the field carry it.
    #[test]
    fn the_tag_of_an_agent_is_fixed() {
        let path =
            |agent| AgentPath { site: SiteId::new("farm").unwrap(), agent: AgentId::new(agent).unwrap() };
        assert_eq!(path("gw-1").tag().to_string(), "a101");
        assert_ne!(path("gw-1").tag(), path("gw-2").tag());
    }

    #[test]
    fn topics_go_there_and_back() {
        let path = AgentPath { site: SiteId::new("farm").unwrap(), agent: AgentId::new("gw-1").unwrap() };
        for kind in [Up::Data, Up::State, Up::Catalog, Up::Reply] {
            assert_eq!(AgentPath::parse_up(&path.up(kind)), Some((path.clone(), kind)));
        }
        for other in
            ["gapless/v1/farm/gw-1/down/ack", "gapless/v1/farm/up/data", "gapless/v2/a/b/up/data", ""]
        {
            assert_eq!(AgentPath::parse_up(other), None, "{other}");
        }
    }
}
