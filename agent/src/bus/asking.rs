//! The threads of a source that is asked: a loop around a [`Collect`], and a second thread that finds out what it asks,
//! because that can take a minute, or on a share that hangs for ever, and a stop must not. Decides nothing.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::patience::STOP_PATIENCE;
use super::{BusCommand, BusHandle, COMMANDS_MAX, STACK_BYTES, SpawnError};
use crate::clock::Clock;
use crate::event::BusEvent;
use crate::records::collect::{Collect, Step};

/// How often it is looked whether the agent is to stop, while an answer is awaited.
const LOOK_EVERY: Duration = Duration::from_millis(100);

type Sink = Box<dyn FnMut(BusEvent) -> bool + Send>;

/// Starts both threads: `answer` finds out what `collector` asks, one ask at a time.
pub(super) fn spawn<C, E>(
    name: &str,
    collector: C,
    mut answer: impl FnMut(C::Ask) -> C::Answer + Send + 'static,
    clock: Clock,
    events: SyncSender<E>,
) -> Result<BusHandle, SpawnError>
where
    C: Collect<Ask: Send, Answer: Send> + Send + 'static,
    E: From<BusEvent> + Send + 'static,
{
    let (commands, inbox) = sync_channel(COMMANDS_MAX);
    let sink: Sink = Box::new(move |event: BusEvent| events.send(event.into()).is_ok());
    // One ask is under way at most.
    let (asks, wanted) = sync_channel::<C::Ask>(1);
    let (found, answers) = sync_channel::<C::Answer>(1);
    let thread =
        |kind: &str| std::thread::Builder::new().name(format!("{kind} {name}")).stack_size(STACK_BYTES);
    thread("ask").spawn(move || {
        while let Ok(ask) = wanted.recv() {
            if found.send(answer(ask)).is_err() {
                return;
            }
        }
    })?;
    let mut driver = Thread { collector, clock, inbox, sink, asks, answers, stopping: false };
    let join: JoinHandle<()> = thread("bus").spawn(move || driver.run())?;
    Ok(BusHandle { commands, join })
}

struct Thread<C: Collect> {
    collector: C,
    clock: Clock,
    inbox: Receiver<BusCommand>,
    sink: Sink,
    asks: SyncSender<C::Ask>,
    answers: Receiver<C::Answer>,
    stopping: bool,
}

impl<C: Collect> Thread<C> {
    fn run(&mut self) {
        while !self.stopping {
            self.take_commands();
            match self.collector.next(self.clock.now()) {
                Step::Ask(ask) => self.ask(ask),
                Step::Wait { until_boot_ms } => self.wait_until(until_boot_ms),
            }
            self.pass_on();
        }
        self.collector.stop(self.clock.now());
        self.pass_on();
    }

    fn pass_on(&mut self) {
        while let Some(event) = self.collector.drain() {
            self.stopping |= !(self.sink)(event);
        }
    }

    fn obey(&mut self, command: BusCommand) {
        match command {
            BusCommand::PollNow(device) => self.collector.poll_now(device),
            BusCommand::ReadHistory { command, device, range } => {
                self.collector.read_history(command, device, range);
            }
            BusCommand::Pause { command, device, paused } => {
                self.collector.pause((command, device), paused, self.clock.now());
            }
            BusCommand::Stop => self.stopping = true,
        }
    }

    fn take_commands(&mut self) {
        loop {
            match self.inbox.try_recv() {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => return self.stopping = true,
            }
        }
    }

    /// Waits for a command, no longer than until this instant of the boot clock.
    fn wait_until(&mut self, boot_ms: u64) {
        self.pass_on();
        let left = boot_ms.saturating_sub(self.clock.now().boot_ms);
        match self.inbox.recv_timeout(Duration::from_millis(left)) {
            Ok(command) => self.obey(command),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.stopping = true,
        }
    }

    /// Waits for what comes of an ask; once the agent is to stop, for [`STOP_PATIENCE`] at most.
    fn ask(&mut self, ask: C::Ask) {
        self.pass_on();
        // The other thread ends with this one, and takes each ask before it answers: there is room.
        if self.asks.try_send(ask).is_err() {
            return self.stopping = true;
        }
        let mut stop_at = None;
        loop {
            match self.answers.recv_timeout(LOOK_EVERY) {
                Ok(answer) => return self.collector.took(answer, self.clock.now()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.stopping = true,
            }
            self.take_commands();
            if self.stopping {
                let until = *stop_at.get_or_insert_with(|| Instant::now() + STOP_PATIENCE);
                if Instant::now() >= until {
                    return;
                }
            }
        }
    }
}
