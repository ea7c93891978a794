//! Why a source did not give what it was asked for, whatever its kind.

use std::panic::{AssertUnwindSafe, catch_unwind};

use gapless_common::time::Timestamp;
use gapless_common::wire;

use super::describe::Whose;
use crate::store::ReadError;

/// Why a window could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the source gives no answer: {0}")]
    Transport(String),
    #[error("the source answers HTTP {0}: {1}")]
    Status(u16, String),
    #[error(
        "the source answers HTTP {status} to {url}: it is to be asked at {to}. Write that address in its description in place of \
         the one that it has"
    )]
    Moved { status: u16, url: String, to: String },
    #[error("{0}")]
    Answer(String),
    #[error("the source wants no call before {0}")]
    Hold(Timestamp),
    #[error("it was told time and again that there are too many calls, and is not asked before {0}")]
    Rests(Timestamp),
    #[error("no call is left for it before {0}, as `calls` or the source says")]
    Spent(Timestamp),
    #[error("no access token comes from {url}: {why}")]
    NoToken { url: String, why: String },
    #[error("no access token is asked for before {until}: {why}")]
    TokenRests { until: Timestamp, why: String },
    #[error("the source has withdrawn its consent: {why}")]
    Withdrawn { whose: Whose, why: String },
    #[error("the source cannot reach the device: {0}")]
    Unreachable(String),
    #[error("the call could not be written down, and was not made")]
    Uncounted,
    #[error("a message could not be written: {0}")]
    Encode(#[from] wire::EncodeError),
    #[error("the database could not be read: {0}")]
    Database(#[from] rusqlite::Error),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("others have its worker for now, and it goes on after them")]
    TurnOver,
    #[error("a fault of this program, please report it: {0}")]
    Fault(String),
    #[error("the collector is ending")]
    Ending,
}

/// Does something. A fault of this program is a failure of what it happens in, and costs nobody else anything.
pub(super) fn guarded<T>(deed: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(deed)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Err(Failure::Fault(text.unwrap_or("it does not say which").to_owned()))
    })
}

impl Failure {
    /// Whether it is the same for everything that the source could be asked for now.
    pub(super) fn is_of_all(&self) -> bool {
        use Failure::{Database, Ending, Hold, NoToken, Read, TokenRests, Uncounted};
        matches!(
            self,
            Hold(_) | NoToken { .. } | TokenRests { .. } | Uncounted | Database(_) | Read(_) | Ending
        )
    }

    /// The same as the answer to a question that names no device: what it refuses it refuses the account.
    pub(super) fn of_account(self) -> Self {
        match self {
            Self::Withdrawn { why, .. } => Self::Withdrawn { whose: Whose::Account, why },
            other => other,
        }
    }

    /// Whether another question to the same source may well be answered.
    pub(super) fn is_of_question(&self) -> bool {
        use Failure::{Answer, Moved, Status, Transport, Unreachable};
        matches!(self, Transport(_) | Status(..) | Moved { .. } | Answer(_) | Unreachable(_))
    }

    /// When it may be asked again, where only that is in the way.
    pub(super) fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Hold(until) | Self::Spent(until) | Self::Rests(until) | Self::TokenRests { until, .. } => {
                Some(*until)
            }
            _ => None,
        }
    }
}
