//! The writer: one thread around the [`Committer`]. Does what persons wish, takes the messages that wait, in turns by agent, has it committed in one
//! transaction, and only then sends the answers. A transaction that fails is tried again with a growing pause;
//! nothing of it is acknowledged, and the bounded queue holds the rest back.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gapless_common::id::Commit;
use gapless_common::time::Timestamp;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};

use super::committer::{Committer, LoadError};
use super::orders::{Act, Ask, Asked, HasRead, Refused};
use super::turns::Turns;
use super::{Inbound, Order, Outbound, Task, Viewing};
use crate::alerts::delivery::Answer;
use crate::api::Health;
use crate::clock;
use crate::jobs::queue::Why;
use crate::live::Granted;
use crate::store::model::Head;

/// Messages per transaction at most.
const GROUP_MESSAGES_MAX: usize = 256;
/// Bytes per transaction at most.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Messages that wait in the writer for their turn at most, and their bytes; beyond it they wait in the queue. As many
/// as the queue holds several times over, so that who waits behind a flood there is soon among those whose turn comes.
const WAITING_MAX: usize = 2_048;
const WAITING_BYTES_MAX: usize = 32 << 20;
/// Loans in one turn, each in a transaction of its own.
const LOANS_MAX: usize = 16;
/// How long a group may gather while more keeps coming.
const GROUP_TIME_MAX: Duration = Duration::from_millis(20);
/// First pause after a failed transaction; doubled each time.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest pause after a failed transaction.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What the rest of the program holds of the writer.
#[derive(Debug, Clone)]
pub struct Watch {
    /// Where the database stood at the start.
    pub head: Head,
    /// The last commit; moves when there is news.
    pub commits: watch::Receiver<Commit>,
}

/// Why the writer could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database cannot be written to.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// No thread.
    #[error("cannot start the writer's thread")]
    Thread(#[source] std::io::Error),
}

/// Opens the database and starts the thread. It ends when all senders of `inbound` are gone and everything
/// queued is committed.
///
/// # Errors
/// [`StartError`].
pub fn start(
    path: &Path,
    inbound: mpsc::Receiver<Task>,
    outbound: mpsc::Sender<Outbound>,
    health: Arc<Health>,
) -> Result<(Watch, JoinHandle<()>), StartError> {
    start_with(Committer::open(path)?, inbound, outbound, health)
}

/// [`start`] with a committer of other settings than the usual ones.
///
/// # Errors
/// [`StartError`].
pub fn start_with(
    mut committer: Committer,
    inbound: mpsc::Receiver<Task>,
    outbound: mpsc::Sender<Outbound>,
    health: Arc<Health>,
) -> Result<(Watch, JoinHandle<()>), StartError> {
    if let Err(error) = committer.begin(clock::now()) {
        tracing::error!(
            %error,
            "agents that may have gone are still shown as connected, or are blamed for the time that the collector was down"
        );
    }
    match committer.try_parked_again(clock::now()) {
        Ok(0) => {}
        Ok(used) => tracing::info!(used, "parked frames were usable after all"),
        Err(error) => {
            tracing::error!(%error, "parked frames could not be tried again: they stay parked");
        }
    }
    let head = committer.head();
    let (commits, seen) = watch::channel(head.commit);
    let (turns, others) = (Turns::default(), Vec::new());
    let mut writer = Writer { committer, turns, others, outbound, commits, health };
    let run = move || writer.run(inbound);
    let thread = std::thread::Builder::new().name("writer".into()).spawn(run).map_err(StartError::Thread)?;
    Ok((Watch { head, commits: seen }, thread))
}

/// A task that is no message.
enum Other {
    Order(Order, oneshot::Sender<Result<(), Refused>>),
    Refresh(Ask, Option<Asked>),
    Watch(Viewing, oneshot::Sender<Result<Option<Granted>, Refused>>),
    Act(Act, oneshot::Sender<Result<(), Refused>>),
    Told(String, i64, Answer, oneshot::Sender<bool>),
    Called(String, Timestamp, Timestamp, oneshot::Sender<bool>),
    HasRead(HasRead, oneshot::Sender<bool>),
    LookAfterGaps(oneshot::Sender<()>),
}

struct Writer {
    committer: Committer,
    turns: Turns,
    /// What is to be done besides messages; done before them. The queue that it comes from bounds it.
    others: Vec<Other>,
    outbound: mpsc::Sender<Outbound>,
    commits: watch::Sender<Commit>,
    health: Arc<Health>,
}

impl Writer {
    fn run(&mut self, mut inbound: mpsc::Receiver<Task>) {
        while self.fill(&mut inbound) {
            self.do_others();
            if self.turns.is_empty() {
                continue;
            }
            let group = self.turns.group(GROUP_MESSAGES_MAX, GROUP_BYTES_MAX);
            let taken = self.commit(&group.messages);
            let done = group.messages.iter().take(taken);
            self.send(Outbound::Release(done.map(|message| message.token).collect()));
            self.turns.put_back(group, taken);
            if self.committer.owes_replay() {
                self.replay();
            }
        }
        if let Err(error) = self.committer.fold() {
            tracing::warn!(%error, "the write-ahead log stays beside the database");
        }
    }

    /// Takes in what has come, and waits where that is nothing; frames whose catalog has come are used meanwhile.
    /// Returns whether there is anything to do.
    fn fill(&mut self, inbound: &mut mpsc::Receiver<Task>) -> bool {
        let (began, mut works) = (Instant::now(), true);
        loop {
            let full = self.turns.len() >= WAITING_MAX || self.turns.bytes() >= WAITING_BYTES_MAX;
            let has_work = !self.turns.is_empty() || !self.others.is_empty();
            if full || (has_work && began.elapsed() >= GROUP_TIME_MAX) {
                return true;
            }
            let next = match inbound.try_recv() {
                Ok(task) => Some(task),
                Err(_) if has_work => return true,
                Err(TryRecvError::Empty) if works && self.committer.owes_replay() => {
                    works = self.replay();
                    continue;
                }
                Err(_) => inbound.blocking_recv(),
            };
            match next {
                Some(Task::Message(message)) => self.turns.push(message),
                Some(Task::Order(order, answer)) => self.others.push(Other::Order(order, answer)),
                Some(Task::Refresh(ask, answer)) => self.others.push(Other::Refresh(ask, Some(answer))),
                Some(Task::Looked(devices)) => self.others.extend(devices.into_iter().map(|device| {
                    let ask = Ask::of(device, Why::Viewed);
                    Other::Refresh(ask, None)
                })),
                Some(Task::Watch(watch, answer)) => self.others.push(Other::Watch(watch, answer)),
                Some(Task::Act(act, answer)) => self.others.push(Other::Act(act, answer)),
                Some(Task::Told { receiver, through, answer, done }) => {
                    self.others.push(Other::Told(receiver, through, answer, done));
                }
                Some(Task::Called { account, at, since, done }) => {
                    self.others.push(Other::Called(account, at, since, done));
                }
                Some(Task::HasRead { read, done }) => self.others.push(Other::HasRead(read, done)),
                Some(Task::LookAfterGaps(done)) => self.others.push(Other::LookAfterGaps(done)),
                None => return false,
            }
        }
    }

    fn do_others(&mut self) {
        let mut asked = Vec::new();
        for other in std::mem::take(&mut self.others) {
            match other {
                Other::Refresh(ask, answer) => asked.push((ask, answer)),
                // Whoever asked waits no longer, and was told so.
                Other::Order(_, answer) | Other::Act(_, answer) if answer.is_closed() => {}
                Other::Order(order, answer) => {
                    // It may be given up at this very moment.
                    let _ = answer.send(self.committer.carry_out(&order, clock::now()));
                }
                Other::Watch(watch, answer) => {
                    let (granted, told) = match self.committer.watch(&watch, clock::now()) {
                        Ok((granted, told)) => (Ok(granted), told),
                        Err(refused) => (Err(refused), Vec::new()),
                    };
                    // Whoever asked may wait no longer.
                    let _ = answer.send(granted);
                    told.into_iter().for_each(|command| self.send(command));
                }
                Other::Act(act, answer) => {
                    let done = self.committer.act(&act, clock::now()).map(|told| {
                        told.into_iter().for_each(|command| self.send(command));
                    });
                    let _ = answer.send(done);
                }
                Other::Told(receiver, through, what, done) => {
                    let told = self.committer.told(&receiver, through, &what, clock::now());
                    if let Err(error) = &told {
                        tracing::error!(%error, receiver, "its answer could not be written down");
                    }
                    // It says so again.
                    let _ = done.send(told.is_ok());
                }
                Other::Called(account, at, since, done) => {
                    let called = self.committer.called(&account, at, since);
                    if let Err(error) = &called {
                        tracing::error!(%error, account, "a call could not be counted: it is not made");
                    }
                    // Where nobody waits any more the collector is ending.
                    let _ = done.send(called.is_ok());
                }
                // What came of the files is among the messages that wait.
                Other::HasRead(read, done) if !self.committer.has_stored(&read) && !self.turns.is_empty() => {
                    self.others.push(Other::HasRead(read, done));
                }
                Other::HasRead(read, done) => {
                    let written = self.committer.has_read(&read, clock::now());
                    if let Err(error) = &written {
                        tracing::error!(%error, agent = %read.path, "which files were read could not be written down");
                    }
                    // It says so again.
                    let _ = done.send(written.unwrap_or(false));
                }
                Other::LookAfterGaps(done) => {
                    if let Err(error) = self.committer.hears(self.health.receiving(), clock::now()) {
                        tracing::error!(%error, "agents of which nothing can be heard are still shown as connected");
                    }
                    self.lend();
                    match self.committer.look_after_gaps(clock::now()) {
                        Ok(requests) => requests.into_iter().for_each(|request| self.send(request)),
                        Err(error) => {
                            tracing::error!(%error, "gaps that are due wait until the database works");
                        }
                    }
                    match self.committer.look_after_jobs(clock::now()) {
                        Ok(told) => told.into_iter().for_each(|command| self.send(command)),
                        Err(error) => {
                            tracing::error!(%error, "jobs that are due wait until the database works");
                        }
                    }
                    if let Err(error) = self.committer.look_after_alerts(clock::now()) {
                        tracing::error!(%error, "what is to be told waits until the database works");
                    }
                    match self.committer.housekeep(clock::now()) {
                        Ok(told) => told.into_iter().for_each(|command| self.send(command)),
                        Err(error) => {
                            tracing::error!(%error, "nothing is tidied away until the database works");
                        }
                    }
                    // Where nobody waits any more the collector is ending.
                    let _ = done.send(());
                }
            }
            self.commits.send_replace(self.committer.head().commit);
        }
        self.refresh(asked);
    }

    /// What other devices have of gaps: a few transactions at a time, as readings come in meanwhile.
    fn lend(&mut self) {
        for _ in 0..LOANS_MAX {
            match self.committer.lend(clock::now()) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::error!(%error, "what other devices have waits until the database works");
                    break;
                }
            }
        }
    }

    /// All that is asked for at once is written down at once.
    fn refresh(&mut self, asked: Vec<(Ask, Option<Asked>)>) {
        if asked.is_empty() {
            return;
        }
        let asks: Vec<Ask> = asked.iter().map(|(ask, _)| ask.clone()).collect();
        let (jobs, told) = match self.committer.refresh(&asks, clock::now()) {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "what is asked for could not be written down");
                (asks.iter().map(|_| Err(Refused::Database)).collect(), Vec::new())
            }
        };
        self.commits.send_replace(self.committer.head().commit);
        for ((_, answer), job) in asked.into_iter().zip(jobs) {
            // Whoever asked may wait no longer.
            let _ = answer.map(|answer| answer.send(job));
        }
        told.into_iter().for_each(|command| self.send(command));
    }

    fn replay(&mut self) -> bool {
        match self.committer.replay(clock::now()) {
            Ok(()) => {
                self.commits.send_replace(self.committer.head().commit);
                true
            }
            Err(error) => {
                tracing::error!(%error, "frames whose catalog has come wait until something else works");
                false
            }
        }
    }

    /// Commits the group's first messages, however long it takes, and answers. Returns how many they were: all
    /// where the shell is gone, at least one otherwise.
    fn commit(&mut self, group: &[Inbound]) -> usize {
        let now = group.iter().map(|m| m.at).max().unwrap_or_else(clock::now);
        let mut pause = RETRY_FIRST;
        loop {
            match self.committer.attempt(group, now) {
                Ok((answers, taken)) => {
                    self.health.set_writing(true);
                    self.commits.send_replace(self.committer.head().commit);
                    answers.into_iter().for_each(|answer| self.send(answer));
                    return taken;
                }
                Err(error) => {
                    tracing::error!(%error, retry_in = ?pause, "a transaction failed: nothing is acknowledged");
                    self.health.set_writing(false);
                }
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(RETRY_MAX);
            if self.outbound.is_closed() {
                return group.len();
            }
        }
    }

    fn send(&self, outbound: Outbound) {
        // Where the shell is gone the agent sends again, and is answered then.
        let _ = self.outbound.blocking_send(outbound);
    }
}
