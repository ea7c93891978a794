//! What reaches the writer besides the agents' messages: what a person wishes, and the time to look after gaps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gapless_common::id::{Epoch, Seq, SiteId};
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;
use tokio::sync::{mpsc, oneshot};

use super::{Inbound, Viewing};
use crate::alerts::delivery::Answer;
use crate::api::Problem;
use crate::jobs::queue::Why;
use crate::live::Granted;
use crate::store::model::{DeviceNo, DeviceRow, DropChanges, PendingJob};

/// How long somebody waits for the answer to an order.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What a person wishes for a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Ask for it now, though its next attempt is not due yet.
    Retry,
    /// Begin its schedule anew, wherever that stands.
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

/// A person's wish about an alert or a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Somebody has seen an alert.
    Acknowledge {
        /// Its number.
        alert: i64,
        /// Who, as the history tells it.
        actor: String,
    },
    /// A device is to be collected.
    Confirm {
        /// Which.
        device: DeviceNo,
        /// Who.
        actor: String,
    },
    /// A frame that was kept though it could not be used is discarded.
    Discard {
        /// Its number.
        frame: i64,
        /// Who.
        actor: String,
    },
    /// A suspended device is asked again.
    Resume {
        /// Which.
        device: DeviceNo,
        /// Who.
        actor: String,
    },
}

/// A wish to have a device refreshed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Which.
    pub device: DeviceNo,
    /// Why.
    pub why: Why,
    /// Which person, as they are told when a device is back that could not be reached.
    pub actor: Option<String>,
}

impl Ask {
    /// Of no person.
    #[must_use]
    pub const fn of(device: DeviceNo, why: Why) -> Self {
        Self { device, why, actor: None }
    }
}

/// Where the answer to an [`Ask`] goes: its job, where there is need of one.
pub type Asked = oneshot::Sender<Result<Option<PendingJob>, Refused>>;

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No gap has that number.
    #[error("there is no gap {0}")]
    NoGap(i64),
    /// It is filled.
    #[error("gap {0} is filled already")]
    GapFilled(i64),
    /// No site has that name.
    #[error("there is no site {0}")]
    NoSite(SiteId),
    /// No alert has that number.
    #[error("there is no alert {0}")]
    NoAlert(i64),
    /// It is over.
    #[error("alert {0} is over already")]
    AlertOver(i64),
    /// No frame that could not be used has that number.
    #[error("there is no parked frame {0}")]
    NoFrame(i64),
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
    /// A device is to be refreshed.
    Refresh(Ask, Asked),
    /// A viewer of a site wants each poll at once, or no more.
    Watch(Viewing, oneshot::Sender<Result<Option<Granted>, Refused>>),
    /// Somebody looks at these devices.
    Looked(Vec<DeviceNo>),
    /// A person's wish about an alert or a device, and where the answer goes.
    Act(Act, oneshot::Sender<Result<(), Refused>>),
    /// A receiver of alerts has answered to the message that ends with this event; said once it is written down.
    Told {
        /// Which receiver.
        receiver: String,
        /// The event.
        through: i64,
        /// What it did with the message.
        answer: Answer,
        /// Whether it could be written down.
        done: oneshot::Sender<bool>,
    },
    /// A call is about to be made for an account; said once it is written down, so that it counts after a restart.
    Called {
        /// Whose.
        account: String,
        /// When.
        at: Timestamp,
        /// Calls before this instant count no more.
        since: Timestamp,
        /// Whether it could be written down.
        done: oneshot::Sender<bool>,
    },
    /// Files of a drop were read; said once it is written down, which is once all that came of them is stored.
    HasRead {
        /// What.
        read: HasRead,
        /// Whether it could be written down.
        done: oneshot::Sender<bool>,
    },
    /// See what has become due, and say when that is done.
    LookAfterGaps(oneshot::Sender<()>),
}

/// That files of a drop were read.
#[derive(Debug)]
pub struct HasRead {
    /// Whose.
    pub path: AgentPath,
    /// What came of them was said in this epoch up to that seq.
    pub said: (Epoch, Seq),
    /// What is known of them now.
    pub changes: DropChanges,
}

impl From<Inbound> for Task {
    fn from(message: Inbound) -> Self {
        Self::Message(message)
    }
}

/// The way to the writer for those that must not keep it from ending: it ends with the last sender of messages.
#[derive(Debug, Clone)]
pub struct Orders {
    writer: mpsc::WeakSender<Task>,
    /// When the writer was last told that somebody looks at a device.
    told: Arc<Mutex<BTreeMap<DeviceNo, Timestamp>>>,
}

/// The writer is told of looks at one device no more often.
const TELL_EVERY_MS: i64 = 30_000;

impl Orders {
    /// Beside `writer`.
    #[must_use]
    pub fn to(writer: &mpsc::Sender<Task>) -> Self {
        Self { writer: writer.downgrade(), told: Arc::default() }
    }

    /// Hands a task in and waits for the answer to it.
    async fn answer<T>(
        &self,
        task: impl FnOnce(oneshot::Sender<Result<T, Refused>>) -> Task,
    ) -> Result<T, Problem> {
        let (answer, answered) = oneshot::channel();
        let handed_in = async {
            let sender = self.writer.upgrade().ok_or(Problem::Busy)?;
            sender.send(task(answer)).await.map_err(|_| Problem::Busy)?;
            drop(sender);
            Ok::<_, Problem>(answered.await)
        };
        match tokio::time::timeout(ANSWER_WITHIN, handed_in).await.map_err(|_| Problem::Busy)?? {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Refused::NoGap(gap))) => Err(Problem::not_found("gap", gap)),
            Ok(Err(Refused::NoAlert(alert))) => Err(Problem::not_found("alert", alert)),
            Ok(Err(Refused::NoFrame(frame))) => Err(Problem::not_found("parked frame", frame)),
            Ok(Err(refused @ (Refused::NotNow(_) | Refused::AlertOver(_) | Refused::GapFilled(_)))) => {
                Err(Problem::Conflict(refused.to_string()))
            }
            Ok(Err(Refused::NoSite(site))) => Err(Problem::not_found("site", site)),
            Ok(Err(Refused::Database)) | Err(_) => Err(Problem::Busy),
        }
    }

    /// Hands an order in and waits until it is committed.
    pub(crate) async fn carry_out(&self, order: Order) -> Result<(), Problem> {
        self.answer(|answer| Task::Order(order, answer)).await
    }

    /// The same with a wish about an alert or a device.
    pub(crate) async fn act(&self, act: Act) -> Result<(), Problem> {
        self.answer(|answer| Task::Act(act, answer)).await
    }

    /// Has a device refreshed, as a person wishes, and waits until that is written down, not until it is done.
    pub(crate) async fn refresh(&self, device: DeviceNo, actor: String) -> Result<PendingJob, Problem> {
        let ask = Ask { actor: Some(actor), ..Ask::of(device, Why::Asked) };
        self.answer(|answer| Task::Refresh(ask, answer)).await?.ok_or(Problem::Busy)
    }

    /// Takes a lease of a site, or ends it, and waits until that is written down, not until the agents have answered.
    pub(crate) async fn watch(&self, watch: Viewing) -> Result<Option<Granted>, Problem> {
        self.answer(|answer| Task::Watch(watch, answer)).await
    }

    /// Hands the writer a message of a source of this process, and waits while its queue is full. Returns whether there still
    /// is a writer.
    pub(crate) fn hand_in(&self, message: Inbound) -> bool {
        self.writer.upgrade().is_some_and(|sender| sender.blocking_send(message.into()).is_ok())
    }

    /// A receiver of alerts has answered; waits until that is written down. Returns whether it is, or `None` where there is
    /// no writer any more.
    pub(crate) fn told(&self, receiver: &str, through: i64, answer: Answer) -> Option<bool> {
        let receiver = receiver.to_owned();
        self.write_down(|done| Task::Told { receiver, through, answer, done })
    }

    /// A call is about to be made for an account; calls before `since` count no more. Answers as [`told`](Self::told).
    pub(crate) fn called(&self, account: &str, at: Timestamp, since: Timestamp) -> Option<bool> {
        let account = account.to_owned();
        self.write_down(|done| Task::Called { account, at, since, done })
    }

    /// Files of a drop were read, and what came of them said up to there; waits until that is stored, too. Answers as
    /// [`told`](Self::told).
    pub(crate) fn has_read(
        &self,
        path: &AgentPath,
        said: (Epoch, Seq),
        changes: DropChanges,
    ) -> Option<bool> {
        let read = HasRead { path: path.clone(), said, changes };
        self.write_down(|done| Task::HasRead { read, done })
    }

    /// Hands a task in and waits until it is written down. Returns whether it is, or `None` where there is no writer any more.
    fn write_down(&self, task: impl FnOnce(oneshot::Sender<bool>) -> Task) -> Option<bool> {
        let (done, is_done) = oneshot::channel();
        let sender = self.writer.upgrade()?;
        sender.blocking_send(task(done)).ok()?;
        drop(sender);
        is_done.blocking_recv().ok()
    }

    /// Somebody looks at these devices. Never waits: where the writer has much to do it is told at a later look.
    pub(crate) fn looked<'a>(&self, devices: impl Iterator<Item = &'a DeviceRow>, now: Timestamp) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news =
            |row: &&DeviceRow| told.get(&row.no).is_none_or(|at| now.since_ms(*at) >= TELL_EVERY_MS);
        let news: Vec<DeviceNo> =
            devices.filter(|row| row.grid.is_some()).filter(is_news).map(|row| row.no).collect();
        if news.is_empty() {
            return;
        }
        let sender = self.writer.upgrade();
        if sender.is_some_and(|sender| sender.try_send(Task::Looked(news.clone())).is_ok()) {
            told.extend(news.into_iter().map(|no| (no, now)));
        }
    }

    /// Has the writer see what has become due, and waits until it has. Returns whether there still is one.
    pub(crate) async fn look_after_gaps(&self) -> bool {
        let Some(sender) = self.writer.upgrade() else { return false };
        let (done, is_done) = oneshot::channel();
        let is_sent = sender.send(Task::LookAfterGaps(done)).await.is_ok();
        // The writer ends with the last sender: none is held while it works.
        drop(sender);
        is_sent && is_done.await.is_ok()
    }
}
