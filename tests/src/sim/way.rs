//! What a source of a run is asked besides windows: nothing, a word whether a meter has anything new, or what has changed at all of
//! them since a cursor. Drawn by numbers of its own.

use super::api::UTILITIES;
use super::clock::signed;
use super::described::Described;
use super::rng::Rng;
use super::sourced::{PROVEN_INTERVALS, PROVEN_MS};

/// See the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Each window is asked for.
    Windows,
    /// A window is, once the word for its meter is another one.
    Word {
        /// It stands at a path of the answer; otherwise the answer is the word.
        has_path: bool,
    },
    /// A window is, once its meter is named among the changes, and all windows now and then.
    Changes(Changes),
}

/// How changes are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changes {
    /// They are rows.
    pub has_rows: bool,
    /// How often all is read anew.
    pub reconcile_ms: i64,
    /// How far back that goes.
    pub back_ms: i64,
    /// It has a word for *from now on*.
    has_latest: bool,
    /// So many in an answer at most.
    most: usize,
}

impl Changes {
    /// From when on all is read anew in any case once nothing goes wrong any more, in ms after that: it is negative.
    pub(super) fn anew_ms(&self, described: &Described) -> i64 {
        self.reconcile_ms + soon_ms(described) - self.back_ms
    }
}

impl Way {
    /// That of a source.
    pub(super) fn draw(described: &Described, rng: &mut Rng) -> Self {
        let times = |n: u64| signed(n) * described.interval_ms;
        match rng.below(4) {
            0 => Self::Word { has_path: rng.one_in(2) },
            1 | 2 => {
                let reconcile_ms = times(rng.within(10, 30));
                Self::Changes(Changes {
                    has_rows: rng.one_in(2),
                    reconcile_ms,
                    back_ms: reconcile_ms + soon_ms(described) + times(rng.within(10, 50)),
                    has_latest: rng.one_in(2),
                    most: *rng.pick(&[1_000, 10, 3]),
                })
            }
            _ => Self::Windows,
        }
    }

    /// The changes that are asked for.
    #[must_use]
    pub const fn changes(&self) -> Option<&Changes> {
        match self {
            Self::Changes(changes) => Some(changes),
            _ => None,
        }
    }

    pub(super) fn changes_most(&self) -> usize {
        self.changes().map_or(usize::MAX, |changes| changes.most)
    }

    /// A source that is asked in that way, with as many calls more as that takes.
    pub(super) fn of(self, mut described: Described) -> Described {
        let per_ms = described.rate.1;
        described.rate.0 +=
            self.calls(&described) + described.log_in.map_or(0, |log_in| log_in.calls(per_ms));
        described.way = self;
        described
    }

    /// The calls that it takes besides, in the time of a rate.
    pub(super) fn calls(&self, described: &Described) -> u32 {
        let polls = described.rate.1 / described.interval_ms;
        let devices = signed(described.utilities().len() as u64);
        let calls = match self {
            Self::Windows => 0,
            Self::Word { .. } => 2 * devices * polls,
            Self::Changes(changes) => {
                3 * devices * polls + 2 * devices * (changes.back_ms / described.window_ms + 1)
            }
        };
        u32::try_from(calls).expect("some hundreds")
    }

    /// A description with that in it.
    pub(super) fn describe(&self, no: usize, text: String) -> String {
        match self {
            Self::Windows => text,
            Self::Word { has_path } => {
                let path = if *has_path { "revision = \"is.revision\"\n" } else { "" };
                format!("{text}\n[probe]\nurl = \"http://api{no}/{{utility}}/summary\"\n{path}")
            }
            Self::Changes(Changes { has_rows, reconcile_ms, back_ms, has_latest, .. }) => {
                // A change names its meter, and not the device.
                let text = UTILITIES.iter().fold(text, |text, utility| {
                    let own = format!("utility = \"{utility}\" }}");
                    text.replace(&own, &format!("id = \"{utility}\", {own}"))
                });
                let what = if *has_rows { "rows" } else { "changes" };
                let begin = if *has_latest { "begin = \"latest\"\n" } else { "" };
                format!(
                    "{text}\n[delta]\nurl = \"http://api{no}/{what}?since={{since}}\"\n{begin}changes = \"changes\"\n\
                     device = \"meter\"\nrows = {has_rows}\nnext = \"next\"\nmore = \"more\"\n\
                     reconcile = \"{reconcile_ms}ms\"\nback = \"{back_ms}ms\"\n"
                )
            }
        }
    }
}

/// Where no token came, or none that was good, the next one may be asked for so much later, in ms.
const NO_TOKEN_MS: i64 = 3_600_000;

/// Within so long what is to be read of a device is read once nothing goes wrong any more, in ms.
pub(super) fn soon_ms(described: &Described) -> i64 {
    let listed_ms = described.listing.as_ref().map_or(0, |listing| listing.every_ms);
    let no_token_ms = if described.log_in.is_some() { NO_TOKEN_MS } else { 0 };
    PROVEN_MS
        + (PROVEN_INTERVALS + 2) * described.interval_ms
        + described.unreachable_ms
        + no_token_ms
        + listed_ms
}
