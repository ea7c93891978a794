//! Sends what people are told: a thread for each receiver, which waits until a message is due, tries it once, and has the
//! writer note what came of it. What is in a message and when it is tried again is decided in [`alerts`](crate::alerts).
//!
//! Never lost: the database has a message until its receiver has accepted it. Never doubled, as far as the receiver says so:
//! where the collector dies between the receiver's answer and the commit, the same message goes out again under the same id.

mod mail;
mod webhook;

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use gapless_common::id::Incarnation;
use rusqlite::Connection;
use tokio::sync::watch;

use crate::alerts::delivery::Answer;
use crate::alerts::notice::Notice;
use crate::config::receivers::{Receiver, Way};
use crate::ingest::Orders;
use crate::store::{receivers, sqlite};
use crate::{authorities, clock};

/// How often it is seen whether a message is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A receiver that has not answered by then is taken for away.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why nobody can be told.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file that a receiver needs.
    #[error("alerts, receiver {receiver}: cannot read {path}")]
    Read {
        /// Whose.
        receiver: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What is in it is not what it should be.
    #[error("alerts, receiver {receiver}: {why}")]
    Wrong {
        /// Whose.
        receiver: String,
        /// What is wrong.
        why: String,
    },
    /// No thread.
    #[error("cannot start the thread of a receiver of alerts")]
    Thread(#[source] std::io::Error),
}

/// What a message says of its collector.
#[derive(Debug, Clone)]
pub struct From {
    /// Its name.
    pub name: String,
    /// The life of its database: events have other numbers in another one.
    pub incarnation: Incarnation,
}

/// Starts the thread of a receiver. It ends with `shutdown`, or with the writer, which must not end before it: what a
/// receiver has accepted could not be written down, and it would be told twice.
///
/// # Errors
/// [`StartError`].
pub fn start(
    receiver: Receiver,
    from: From,
    database: &Path,
    orders: Orders,
    shutdown: watch::Receiver<bool>,
) -> Result<JoinHandle<()>, StartError> {
    let sender = checked(&receiver)?;
    let (database, mut teller) =
        (database.to_owned(), Teller { receiver, from, sender, orders, unsaid: None });
    let run = move || teller.run(&database, &shutdown);
    std::thread::Builder::new().name("tell".into()).spawn(run).map_err(StartError::Thread)
}

/// Whether a receiver can be told, as far as that is known before.
///
/// # Errors
/// [`StartError`].
pub fn check(receiver: &Receiver) -> Result<(), StartError> {
    checked(receiver).map(drop)
}

fn checked(receiver: &Receiver) -> Result<Sender, StartError> {
    let sender = Sender::of(receiver)?;
    // What is read for each message is looked at now, so that a mistake is known at the start.
    let read = sender.check();
    read.map_err(|(path, source)| StartError::Read { receiver: receiver.name.clone(), path, source })?;
    Ok(sender)
}

/// One way to send.
enum Sender {
    Webhook(webhook::Webhook),
    Mail(Box<mail::Mail>),
}

impl Sender {
    fn of(receiver: &Receiver) -> Result<Self, StartError> {
        let wrong = |why| StartError::Wrong { receiver: receiver.name.clone(), why };
        let authorities = |path: &Option<PathBuf>| {
            authorities::pem(path.as_deref()).map_err(|(path, source)| StartError::Read {
                receiver: receiver.name.clone(),
                path,
                source,
            })
        };
        Ok(match &receiver.way {
            Way::Webhook(config) => {
                Self::Webhook(webhook::Webhook::new(config.clone(), &authorities(&config.ca_file)?))
            }
            Way::Mail(config) => {
                let mail = mail::Mail::new(config.clone(), &authorities(&config.ca_file)?).map_err(wrong)?;
                Self::Mail(Box::new(mail))
            }
        })
    }

    fn check(&self) -> Result<(), (PathBuf, std::io::Error)> {
        let files = match self {
            Self::Webhook(webhook) => webhook.files(),
            Self::Mail(mail) => mail.files(),
        };
        files.into_iter().try_for_each(|path| first_line(&path).map(drop).map_err(|error| (path, error)))
    }

    fn send(&self, notice: &Notice) -> Answer {
        match self {
            Self::Webhook(webhook) => webhook.send(notice),
            Self::Mail(mail) => mail.send(notice),
        }
    }
}

/// The secret in a file; read for each message, so that a mended file counts at once.
fn first_line(path: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(path).map(|text| text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Why a secret could not be read, as an answer: trying again soon does not help.
fn unreadable(path: &Path, error: &std::io::Error) -> Answer {
    Answer::Credentials(format!("cannot read {}: {error}", path.display()))
}

struct Teller {
    receiver: Receiver,
    from: From,
    sender: Sender,
    orders: Orders,
    /// What the receiver has answered, and is not written down yet.
    unsaid: Option<(i64, Answer)>,
}

impl Teller {
    fn run(&mut self, database: &Path, shutdown: &watch::Receiver<bool>) {
        let mut connection = None;
        while !*shutdown.borrow() {
            let looked = match &connection {
                Some(connection) => self.look(connection),
                None => sqlite::open_reader(database).map(|open| {
                    connection = Some(open);
                    true
                }),
            };
            match looked {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(receiver = self.receiver.name, %error, "what is due could not be read");
                }
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Sends what is due. Returns whether there still is a writer.
    fn look(&mut self, connection: &Connection) -> rusqlite::Result<bool> {
        if self.unsaid.is_none() {
            let Some(owed) = receivers::owed(connection, &self.receiver.name, clock::now())? else {
                return Ok(true);
            };
            let id = format!("{:016x}-{}-{}", self.from.incarnation.0, self.receiver.name, owed.through);
            let notice = Notice { id, collector: self.from.name.clone(), told: owed.told };
            let answer = self.sender.send(&notice);
            self.log(&notice, &answer);
            self.unsaid = Some((owed.through, answer));
        }
        let Some((through, answer)) = self.unsaid.clone() else { return Ok(true) };
        let written = self.orders.told(&self.receiver.name, through, answer);
        if written == Some(true) {
            self.unsaid = None;
        }
        Ok(written.is_some())
    }

    fn log(&self, notice: &Notice, answer: &Answer) {
        let (receiver, id, summary) = (&self.receiver.name, &notice.id, notice.summary());
        match answer {
            Answer::Accepted => tracing::info!(receiver, id, summary, "told"),
            Answer::Passing { why, .. } => tracing::warn!(receiver, id, why, "not told yet: tried again"),
            Answer::Refused(why) => {
                tracing::error!(
                    receiver,
                    id,
                    why,
                    "the receiver refuses it: tried again in an hour, and set aside where it refuses it for long"
                );
            }
            Answer::Address(why) => {
                tracing::error!(receiver, id, why, "nobody takes messages there: tried again in an hour");
            }
            Answer::Unfit(why) => {
                tracing::error!(
                    receiver,
                    id,
                    why,
                    "the receiver does not offer what the configuration wants of it: tried again in an hour"
                );
            }
            Answer::Credentials(why) => {
                tracing::error!(receiver, id, why, "the receiver refuses who sends: tried again in an hour");
            }
        }
    }
}
