//! What reaches the writer besides the agents' messages: what a person wishes, and the time to look after gaps.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::Inbound;
use crate::api::Problem;

/// How long somebody waits for the answer to an order.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What a person wishes for a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Ask for it now, though its next attempt is not due yet.
    Retry,
    /// Begin its schedule anew.
    Reopen,
}

/// A person's wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// For which gap.
    pub gap: i64,
    /// What.
    pub wish: Wish,
    /// Who, as the history tells it.
    pub actor: String,
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No gap has that number, or it is filled.
    #[error("there is no gap {0} that is not filled")]
    NoGap(i64),
    /// It is not in a state for that.
    #[error("{0}")]
    NotNow(&'static str),
    /// The database failed.
    #[error("the database could not be written to")]
    Database,
}

/// What the writer is given.
#[derive(Debug)]
pub enum Task {
    /// A message of an agent.
    Message(Inbound),
    /// A person's wish, and where the answer goes.
    Order(Order, oneshot::Sender<Result<(), Refused>>),
    /// See what has become due, and say when that is done.
    LookAfterGaps(oneshot::Sender<()>),
}

impl From<Inbound> for Task {
    fn from(message: Inbound) -> Self {
        Self::Message(message)
    }
}

/// The way to the writer for those that must not keep it from ending: it ends with the last sender of messages.
#[derive(Debug, Clone)]
pub struct Orders(mpsc::WeakSender<Task>);

impl Orders {
    /// Beside `writer`.
    #[must_use]
    pub fn to(writer: &mpsc::Sender<Task>) -> Self {
        Self(writer.downgrade())
    }

    /// Hands an order in and waits until it is committed.
    pub(crate) async fn carry_out(&self, order: Order) -> Result<(), Problem> {
        let gap = order.gap;
        let (answer, answered) = oneshot::channel();
        let handed_in = async {
            let sender = self.0.upgrade().ok_or(Problem::Busy)?;
            sender.send(Task::Order(order, answer)).await.map_err(|_| Problem::Busy)?;
            drop(sender);
            Ok::<_, Problem>(answered.await)
        };
        match tokio::time::timeout(ANSWER_WITHIN, handed_in).await.map_err(|_| Problem::Busy)?? {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Refused::NoGap(_))) => Err(Problem::not_found("gap that is not filled", gap)),
            Ok(Err(refused @ Refused::NotNow(_))) => Err(Problem::Conflict(refused.to_string())),
            Ok(Err(Refused::Database)) | Err(_) => Err(Problem::Busy),
        }
    }

    /// Has the writer see what has become due, and waits until it has. Returns whether there still is one.
    pub(crate) async fn look_after_gaps(&self) -> bool {
        let Some(sender) = self.0.upgrade() else { return false };
        let (done, is_done) = oneshot::channel();
        let is_sent = sender.send(Task::LookAfterGaps(done)).await.is_ok();
        // The writer ends with the last sender: none is held while it works.
        drop(sender);
        is_sent && is_done.await.is_ok()
    }
}
