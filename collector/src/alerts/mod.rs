//! What people are told: rules over the facts that the collector has, and how telling goes on until it is heard.
//!
//! Pure: facts and now come in, what is raised, resolved, told and tried again goes out. Nothing here knows rows, HTTP or
//! mail; `ingest::warn` writes it down, `tell` sends it.
//!
//! Contract: [`judge`] says of a device or an agent how it stands, kind by kind; [`step`] makes of that, and of the alert that
//! is open, what changes. What has changed is gathered ([`digest`]), put into words ([`notice`]) and tried again ([`delivery`]).

use gapless_common::planted::{self, Bug};

pub mod absence;
pub mod clock;
pub mod delivery;
pub mod digest;
pub mod judge;
pub mod limits;
pub mod notice;

/// What an alert is about. The codes are kept in the database, so they only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A device's data is older than allowed, though its agent is there.
    Stale,
    /// A device does not answer, or an agent is gone.
    Silent,
    /// A gap is larger than is taken for usual.
    Gap,
    /// The source of a device has withdrawn its consent.
    Unauthorised,
    /// Nothing has come of a device since it was commissioned.
    NoData,
    /// It is not asked any more for that reason.
    Suspended,
    /// An agent's outbox fills up with what it could not deliver.
    Outbox,
    /// An agent's clock is off, or not set.
    Clock,
    /// Values outside the range of their channel.
    Implausible,
    /// A channel that moves by nature does not.
    Flat,
    /// The broker is away, so that nothing is heard of anybody: told instead of everything that follows from it.
    Broker,
    /// The source of a device cannot reach it; over once it can, and who asked for it meanwhile is named then.
    Unreachable,
}

impl Kind {
    /// All of them, in the order of their codes, which begin with 1.
    pub const ALL: [Self; 12] = [
        Self::Stale,
        Self::Silent,
        Self::Gap,
        Self::Unauthorised,
        Self::NoData,
        Self::Suspended,
        Self::Outbox,
        Self::Clock,
        Self::Implausible,
        Self::Flat,
        Self::Broker,
        Self::Unreachable,
    ];

    /// The word for it in API, configuration and messages.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Silent => "silent",
            Self::Gap => "gap",
            Self::Unauthorised => "unauthorised",
            Self::NoData => "no_data",
            Self::Suspended => "suspended",
            Self::Outbox => "outbox",
            Self::Clock => "clock",
            Self::Implausible => "implausible",
            Self::Flat => "flat",
            Self::Broker => "broker",
            Self::Unreachable => "unreachable",
        }
    }

    /// The kind of a word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// The code that is kept.
    #[must_use]
    pub const fn code(self) -> i64 {
        self as i64 + 1
    }

    /// The kind of a code.
    #[must_use]
    pub fn of_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// How something stands in one respect. Between is what keeps an alert from coming and going at its limit: nothing is raised
/// there, and nothing resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stand {
    /// Beyond the limit, and what people are told.
    Beyond(String),
    /// Neither beyond the limit nor safely within it.
    Between,
    /// Between, and what an alert tells that is open.
    Still(String),
    /// Within it.
    Within,
}

/// What becomes of an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is raised, and these are its words.
    Raise(String),
    /// It is over.
    Resolve,
    /// It is open, and its words are these by now.
    Reword(String),
}

/// What a stand comes to where an alert of the kind is open already, or is not. Raised once, resolved by itself. The largest gap is
/// told as it is; the other kinds are told with an age, as it was when they were raised.
#[must_use]
pub fn step(kind: Kind, is_open: bool, stand: Stand) -> Option<Change> {
    match (is_open, stand) {
        (false, Stand::Beyond(words)) => Some(Change::Raise(words)),
        (true, Stand::Beyond(words) | Stand::Still(words)) if kind == Kind::Gap => {
            Some(Change::Reword(words))
        }
        (true, Stand::Within) if !planted::has(Bug::AlertStands) => Some(Change::Resolve),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_codes_are_of_one_kind_each() {
        for (at, kind) in (1..).zip(Kind::ALL) {
            assert_eq!(
                (kind.code(), Kind::of_code(at), Kind::of_word(kind.word())),
                (at, Some(kind), Some(kind))
            );
        }
        assert_eq!((Kind::of_code(0), Kind::of_code(13), Kind::of_word("")), (None, None, None));
    }

    #[test]
    fn raised_once_and_resolved_only_safely_within() {
        let beyond = || Stand::Beyond("old".to_owned());
        let rows = [
            (Kind::Clock, false, beyond(), Some(Change::Raise("old".to_owned()))),
            (Kind::Clock, true, beyond(), None),
            (Kind::Clock, false, Stand::Between, None),
            (Kind::Clock, true, Stand::Between, None),
            (Kind::Clock, false, Stand::Within, None),
            (Kind::Clock, true, Stand::Within, Some(Change::Resolve)),
            (Kind::Gap, true, beyond(), Some(Change::Reword("old".to_owned()))),
            (Kind::Gap, true, Stand::Still("less".to_owned()), Some(Change::Reword("less".to_owned()))),
            (Kind::Gap, false, Stand::Still("less".to_owned()), None),
        ];
        for (kind, is_open, stand, expected) in rows {
            assert_eq!(step(kind, is_open, stand.clone()), expected, "{kind:?} {is_open} {stand:?}");
        }
    }
}
