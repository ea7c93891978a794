//! What stands in the way of newer data of a device, as its source has said: which attributes keep it, and what they come to.
//!
//! Pure. `sources` sets and clears the attributes; API, page and alerts tell them.

use std::collections::BTreeMap;

/// What is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The source has withdrawn its consent: it is not asked any more.
    NotAuthorised,
    /// The source does not list the device any more: it is not asked any more.
    Removed,
    /// The source cannot reach the device: it is asked seldom until it can.
    Unreachable,
}

/// An obstacle with its date and reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Obstacle<'a> {
    /// See there.
    pub kind: Kind,
    /// Since when, as it was written down.
    pub since: &'a str,
    /// In the source's words.
    pub why: &'a str,
}

impl Kind {
    /// All of them, the one first that outweighs the others.
    pub const ALL: [Self; 3] = [Self::NotAuthorised, Self::Removed, Self::Unreachable];

    /// The word for it in the API.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NotAuthorised => "not_authorised",
            Self::Removed => "removed",
            Self::Unreachable => "unreachable",
        }
    }

    /// The attributes that keep since when and why.
    #[must_use]
    pub const fn keys(self) -> [&'static str; 2] {
        match self {
            Self::NotAuthorised => ["not_authorised_since", "not_authorised_reason"],
            Self::Removed => ["removed_at", "removed_reason"],
            Self::Unreachable => ["unreachable_since", "unreachable_reason"],
        }
    }

    /// Since when and why, where it is so.
    #[must_use]
    pub fn of(self, attributes: &BTreeMap<String, String>) -> Option<Obstacle<'_>> {
        let [since, why] = self.keys().map(|key| attributes.get(key));
        Some(Obstacle { kind: self, since: since?, why: why.map_or("no reason told", String::as_str) })
    }
}

impl<'a> Obstacle<'a> {
    /// What is in the way of a device with these attributes, where anything is.
    #[must_use]
    pub fn of(attributes: &'a BTreeMap<String, String>) -> Option<Self> {
        Kind::ALL.into_iter().find_map(|kind| kind.of(attributes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_outweighs_the_others_is_told() {
        let rows = [
            ("", None),
            ("unreachable_reason", None),
            ("unreachable_since", Some((Kind::Unreachable, "no reason told"))),
            ("unreachable_since unreachable_reason", Some((Kind::Unreachable, "of unreachable_reason"))),
            (
                "unreachable_since removed_at not_authorised_since not_authorised_reason",
                Some((Kind::NotAuthorised, "of not_authorised_reason")),
            ),
        ];
        for (keys, expected) in rows {
            let attributes =
                keys.split_whitespace().map(|key| (key.to_owned(), format!("of {key}"))).collect();
            let found = Obstacle::of(&attributes);
            assert_eq!(found.map(|obstacle| (obstacle.kind, obstacle.why)), expected, "{keys:?}");
            assert!(found.is_none_or(|obstacle| obstacle.since.starts_with("of ")));
        }
    }
}
