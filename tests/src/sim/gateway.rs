//! A simulated gateway: a machine with a disk, clocks and lines, on which an agent runs, or does not. The agent is the
//! real engine over the real journal, its buses are the real drivers; the machine is made up.
//!
//! Not simulated: threads, and the time that the engine itself takes, but for what its disk makes it wait (`turns`): else an
//! event reaches the engine at the instant it was told.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use gapless_agent::bus::{BusCommand, Driver, Turn};
use gapless_agent::clock::Now;
use gapless_agent::config::Config;
use gapless_agent::depot::{DepotError, Draw, Opener};
use gapless_agent::engine::{Effect, Engine};
use gapless_agent::event::BusEvent;
use gapless_agent::outbox::memory_disk::{MemoryDisk, PowerCut};
use gapless_agent::outbox::{Disk as _, Journal, Opened, Options};
use gapless_agent::run;
use gapless_common::id::{BootId, ConnectionId, DeviceIndex};
use gapless_common::topic::AgentPath;

use super::clock::{Clock, MS_NS};
use super::heap;
use super::line::SimLine;
use super::line::ground::{Said, SimGround};
use super::logger::{Asker, SimLogger};
use super::memory::Memory;
use super::oracle::Stop;
use super::queue::Queue;
use super::rng::Rng;
use super::tap::{self, Shared, Tapped};

/// A process on the gateway.
pub struct Process {
    /// The agent without its buses.
    pub engine: Engine,
    /// Its buses, in the order of the configuration.
    drivers: Vec<Driver>,
    /// What asks its loggers, in the order of the configuration: buses, too, that follow the others.
    askers: Vec<Asker>,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// SIGKILL: what it had written stays in the page cache.
    Killed,
    /// The machine lost its power.
    PowerCut(PowerCut),
}

/// What a turn of a bus told, and when the next one is due.
pub struct Told {
    /// Events with the instant of the run at which each was told, in ms.
    pub events: Vec<(u64, BusEvent)>,
    /// The next turn, in ms of the run; `None` where the bus has ended.
    pub next_ms: Option<u64>,
}

/// A gateway.
pub struct Gateway {
    /// Its agent's name.
    pub path: AgentPath,
    /// Its agent's configuration.
    pub config: Config,
    /// How the outbox is kept.
    pub options: Options,
    /// What its disk holds.
    pub disk: MemoryDisk,
    /// Its clocks.
    pub clock: Rc<Cell<Clock>>,
    /// This start of the machine.
    pub boot: BootId,
    /// What its buses stand on, in their order: lines with their devices, which outlive the agent.
    pub grounds: Vec<SimGround>,
    /// Its loggers, in the order of the configuration; they outlive the agent, too.
    pub loggers: Vec<SimLogger>,
    /// The agent, while it runs.
    pub process: Option<Process>,
    /// Counts processes: what was meant for an earlier one reaches none.
    pub generation: u64,
    /// What its outboxes did.
    pub log: Shared,
    /// An image of its disk, taken earlier.
    pub image: Option<MemoryDisk>,
    /// The connection that its agent wants.
    pub connection: Option<ConnectionId>,
    /// When its agent was started last, in ms of the run.
    pub started_ms: u64,
    /// What waits for its agent's loop.
    pub queue: Queue,
    /// Whether its agent has stopped its buses, and ends.
    pub is_stopping: bool,
    /// Whether its agent keeps records in memory, because the disk has failed.
    pub is_in_memory: bool,
    /// The most that a process of its agent has held of memory, in bytes.
    pub held_bytes: u64,
    /// The operation of its disk at which the power goes or the process is killed.
    dies_at: Option<(u64, Stop)>,
    draw: Draw,
    rng: Rng,
}

impl Gateway {
    /// A machine that is off, with an empty disk.
    #[must_use]
    pub fn new(
        path: AgentPath,
        config: Config,
        (lines, loggers): (Vec<SimLine>, Vec<SimLogger>),
        rng: &mut Rng,
    ) -> Self {
        let draws = Mutex::new(rng.fork(1));
        let draw = move || Ok(draws.lock().unwrap_or_else(PoisonError::into_inner).draw());
        let clock = Rc::new(Cell::new(Clock::booted(0, 0, true, 0)));
        let ground = |line| {
            let clock = Rc::clone(&clock);
            SimGround::new(line, Box::new(move |at_ns| clock.get().look(at_ns)))
        };
        Self {
            grounds: lines.into_iter().map(ground).collect(),
            loggers,
            path,
            options: run::outbox_options(&config),
            config,
            disk: MemoryDisk::new(),
            clock,
            boot: BootId(rng.draw()),
            process: None,
            generation: 0,
            log: Shared::default(),
            image: None,
            connection: None,
            started_ms: 0,
            queue: Queue::default(),
            is_stopping: false,
            is_in_memory: false,
            held_bytes: 0,
            dies_at: None,
            draw: Arc::new(draw),
            rng: rng.fork(2),
        }
    }

    /// What its clocks say.
    #[must_use]
    pub fn now(&self, at_ms: u64) -> Now {
        self.clock.get().look(at_ms * MS_NS)
    }

    /// The machine starts anew.
    pub fn boot(&mut self, clock: Clock) {
        self.boot = BootId(self.rng.draw());
        self.clock.set(clock);
    }

    /// The power goes, or the process is killed, at one of the next operations of the disk.
    pub fn dies_in(&mut self, operations: u64, how: Stop) {
        let at = self.disk.operations() + operations;
        self.disk.die_at(at);
        self.dies_at = Some((at, how));
    }

    /// One of the next operations of the disk fails.
    pub fn fails_in(&mut self, operations: u64) {
        let at = self.disk.operations() + operations;
        self.disk.fail_write_at(at);
        self.disk.fail_sync_at(at);
    }

    /// A bit flips where something is written.
    pub fn rot(&mut self, seed: u64) {
        tap::lock(&self.log).has_rot = true;
        let mut rng = Rng::new(seed);
        let files = self.disk.list().unwrap_or_default();
        let names: Vec<String> = files.into_iter().map(|(name, _)| name).collect();
        if names.is_empty() {
            return;
        }
        let name = rng.pick(&names);
        let mut bytes = self.disk.contents(name).unwrap_or_default();
        let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let at = usize::try_from(rng.below(written as u64)).expect("within a file");
        if let Some(byte) = bytes.get_mut(at).filter(|_| written > 0) {
            *byte ^= 1 << rng.below(8);
            self.disk.set_contents(name, &bytes);
        }
    }

    /// None of that, after all.
    pub fn live_on(&mut self) {
        self.disk.die_at(u64::MAX);
        self.disk.fail_write_at(u64::MAX);
        self.disk.fail_sync_at(u64::MAX);
        self.dies_at = None;
    }

    /// How it has died in an operation of its disk.
    #[must_use]
    pub fn has_died(&self) -> Option<Stop> {
        self.dies_at.filter(|(at, _)| self.disk.operations() >= *at).map(|(_, how)| how)
    }

    /// Starts the agent. Says how long its disk made it wait, in ms: its buses begin after that.
    ///
    /// # Errors
    /// As the agent itself.
    pub fn start(&mut self, at_ms: u64) -> Result<u64, DepotError> {
        let now = self.now(at_ms);
        self.generation += 1;
        self.started_ms = at_ms;
        let setup = run::setup(&self.config, self.boot);
        let engine = Engine::start(setup, self.opener(), self.draw.clone(), now)?;
        let stalled_ms = self.disk.take_stalled_ms();
        let begun = self.now(at_ms + stalled_ms);
        let drivers = self.config.buses.iter().map(|bus| {
            Driver::new(bus.clone(), now, begun).expect("the channels of a simulated device can be planned")
        });
        let askers = self.config.loggers.iter().map(|logger| Asker::new(logger, now, begun));
        self.process = Some(Process { engine, drivers: drivers.collect(), askers: askers.collect() });
        Ok(stalled_ms)
    }

    /// The process is gone from this instant on, and the disk is as `end` left it.
    pub fn end(&mut self, end: End) {
        let end_process = || (self.process, self.queue) = (None, Queue::default());
        self.held_bytes = self.held_bytes.max(heap::freed_by(end_process));
        self.generation += 1;
        let cut = match end {
            End::Killed => PowerCut::KeepAll,
            End::PowerCut(cut) => cut,
        };
        self.disk.restart(cut, self.rng.draw());
        (self.dies_at, self.is_in_memory, self.is_stopping) = (None, false, false);
        self.grounds.iter_mut().for_each(SimGround::vacate);
    }

    /// How many buses it has: lines, then loggers.
    #[must_use]
    pub fn buses(&self) -> usize {
        self.grounds.len() + self.loggers.len()
    }

    /// The bus that a device is on.
    #[must_use]
    pub fn bus_of(&self, device: DeviceIndex) -> Option<usize> {
        let lines = self.config.buses.iter().map(|bus| bus.devices.iter().any(|d| d.index == device));
        let loggers = self.config.loggers.iter().map(|bus| bus.tables.iter().any(|t| t.index == device));
        lines.chain(loggers).position(|has| has)
    }

    /// A device, where it is one that remembers.
    #[must_use]
    pub fn memory(&self, device: DeviceIndex) -> Option<Memory<'_>> {
        self.memories().find(|memory| memory.index() == device)
    }

    /// Its devices that remember.
    pub fn memories(&self) -> impl Iterator<Item = Memory<'_>> {
        let loggers = self.loggers.iter().zip(&self.config.loggers);
        let tables =
            loggers.flat_map(|(logger, of)| of.tables.iter().map(move |table| Memory::Table(logger, table)));
        let lines = self.grounds.iter().zip(&self.config.buses);
        let on_lines = lines.flat_map(|(ground, bus)| {
            let recorded = bus.devices.iter().filter(|device| device.memory.is_some());
            recorded.map(move |device| Memory::Profile(&ground.line, device))
        });
        tables.chain(on_lines)
    }

    /// Lets a bus do one thing.
    pub fn turn_bus(&mut self, bus: usize, at_ms: u64) -> Option<Told> {
        if let Some(logger) = bus.checked_sub(self.grounds.len()) {
            let clock = self.clock.get();
            let look = |at_ms| clock.look(at_ms * MS_NS);
            let asker = self.process.as_mut()?.askers.get_mut(logger)?;
            return Some(asker.turn(self.loggers.get_mut(logger)?, look, at_ms));
        }
        let driver = self.process.as_mut()?.drivers.get_mut(bus)?;
        let ground = self.grounds.get_mut(bus)?;
        ground.advance(at_ms * MS_NS);
        let turn = driver.turn(ground);
        let ended_ms = ground.now_ns().div_ceil(MS_NS);
        let next_ms = match turn {
            Turn::Again => Some(ended_ms),
            Turn::WaitUntil { boot_ms } => Some(ground.ns_of_boot(boot_ms).div_ceil(MS_NS)),
            Turn::Ended => None,
        };
        ground.line.forget(ground.now_ns());
        let told = |said: Said| (said.at_ns.div_ceil(MS_NS), said.event);
        Some(Told { events: std::iter::from_fn(|| ground.take_said()).map(told).collect(), next_ms })
    }

    /// Tells a bus something.
    pub fn command(&mut self, bus: usize, command: BusCommand) {
        let logger = bus.checked_sub(self.grounds.len());
        if let Some(ground) = self.grounds.get_mut(bus) {
            ground.command(command);
        } else if let Some((process, logger)) = self.process.as_mut().zip(logger)
            && let Some(asker) = process.askers.get_mut(logger)
        {
            asker.command(command);
        }
    }

    /// Tells the engine something; gives what it wants done. `None` where there is no process, or the power went while
    /// it worked.
    pub fn tell(
        &mut self,
        what: impl FnOnce(&mut Engine) -> Result<(), DepotError>,
    ) -> Option<Result<Vec<Effect>, DepotError>> {
        let process = self.process.as_mut()?;
        if let Err(error) = what(&mut process.engine) {
            return Some(Err(error));
        }
        Some(Ok(std::iter::from_fn(|| process.engine.next_effect()).collect()))
    }

    /// Another disk, empty or an older image of this one, stands in the machine; nothing runs.
    pub fn replace_disk(&mut self, image: Option<MemoryDisk>) {
        match image {
            Some(image) => self.disk.restore(&image),
            None => self.disk.wipe(),
        }
        tap::lock(&self.log).replace_card();
    }

    fn opener(&self) -> Opener {
        let (disk, options, log) = (self.disk.clone(), self.options, self.log.clone());
        Box::new(move |opening| {
            let (journal, found) = Journal::open(Box::new(disk.clone()), &options, opening)?;
            tap::lock(&log).torn += u64::from(found.report.torn_bytes > 0);
            Ok(Opened { outbox: Box::new(Tapped::new(Box::new(journal), log.clone())), found })
        })
    }
}
