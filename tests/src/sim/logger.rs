//! A simulated logger, a device that remembers, on a link of its own; and the agent's real collection of it, driven as the
//! thread in `bus::asking` drives it, in virtual time.
//!
//! # Not simulated
//! HTTP and TCP: a request comes whole after [`Setup::latency_ms`], and its answer as long after that; what spoils an
//! answer is told as the agent's client would tell it. Passwords.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gapless_agent::bus::{BusCommand, STOP_PATIENCE};
use gapless_agent::campbell::core::{Collector, Failure, Step};
use gapless_agent::campbell::csijson::BODY_BYTES_MAX;
use gapless_agent::clock::Now;
use gapless_agent::config::{LogTable, Logger as Configured};
use gapless_agent::records::collect::Collect as _;
use gapless_common::quality::Cause;
use gapless_simulators::campbell::logger::Reply;
use gapless_simulators::campbell::{Cell, Fault, FaultKind, Logger, LoggerConfig, TableConfig};

use super::clock::truth;
use super::gateway::Told;

/// How long a connection to nobody is tried, in ms, as in `bus::logger`.
const CONNECT_MS_MAX: u64 = 5_000;

/// A logger before it is there.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What it records.
    pub device: LoggerConfig,
    /// From one end of its link to the other.
    pub latency_ms: u64,
}

/// What comes of a request.
type Fetched = Result<Vec<u8>, Failure>;

/// A logger and its link. It outlives the agent that asks it.
#[derive(Debug)]
pub struct SimLogger {
    device: Logger,
    latency_ms: u64,
    timeout_ms: u64,
    /// Until when nobody reaches it, in ms of the run.
    away_until_ms: u64,
    /// Whether that is known at once.
    is_refused: bool,
    /// Since when it has no power, in ms of the run.
    off_since_ms: Option<u64>,
    /// Per table the instants of all records that it could ever be asked for.
    recorded: BTreeMap<String, BTreeSet<i64>>,
    /// How often these are looked at, and when they were last.
    look_every_ms: u64,
    looked_ms: u64,
    /// From when until when it recorded nothing, in ms of the run: it had no power, or its clock was set past that time.
    offs: Vec<(u64, u64)>,
    /// When a request came to nothing, in ms of the run, and why.
    failures: Vec<(u64, Cause)>,
    /// Its programs, each with the instant of the run, in ms, at which it erased what was there, and the fields of its
    /// tables.
    programs: Vec<(u64, BTreeMap<String, BTreeSet<String>>)>,
}

impl SimLogger {
    /// A logger that has been recording for a while.
    #[must_use]
    pub fn new(setup: &Setup, configured: &Configured) -> Self {
        // Twice at least before anything is overwritten.
        let holds_ms = |table: &TableConfig| table.interval_ms.unsigned_abs() * table.capacity;
        let least_ms = setup.device.tables.iter().map(holds_ms).min().unwrap_or_default();
        let mut new = Self {
            look_every_ms: least_ms / 3,
            device: Logger::new(setup.device.clone(), truth(0).0),
            latency_ms: setup.latency_ms,
            timeout_ms: configured.timeout_ms.into(),
            away_until_ms: 0,
            is_refused: false,
            off_since_ms: None,
            recorded: BTreeMap::new(),
            looked_ms: 0,
            offs: Vec::new(),
            failures: Vec::new(),
            programs: Vec::new(),
        };
        new.note_program(0);
        new
    }

    /// The request arrives, and is answered, or is not. Gives what comes of it, and when.
    fn ask(&mut self, target: &str, at_ms: u64) -> (u64, Fetched) {
        let (comes_ms, fetched, cause) = self.serve(target, at_ms);
        self.failures.extend(cause.map(|cause| (comes_ms, cause)));
        (comes_ms, fetched)
    }

    /// Whether a request came to nothing for this cause, between these instants of the run.
    #[must_use]
    pub fn has_failed(&self, cause: Cause, (from_ms, to_ms): (u64, u64)) -> bool {
        let is_so = |&(at_ms, why): &(u64, Cause)| why == cause && (from_ms..=to_ms).contains(&at_ms);
        self.failures.iter().any(is_so)
    }

    fn serve(&mut self, target: &str, at_ms: u64) -> (u64, Fetched, Option<Cause>) {
        if at_ms < self.away_until_ms || self.off_since_ms.is_some() {
            let known_ms = if self.is_refused { self.latency_ms } else { CONNECT_MS_MAX };
            let why = Failure::NotConnected("nobody is there".to_owned());
            return (at_ms + known_ms.min(self.timeout_ms), Err(why), Some(Cause::NotConnected));
        }
        let heard_ms = at_ms + self.latency_ms;
        self.note_records(heard_ms);
        let reply = self.device.answer(target, None, truth(heard_ms).0);
        let slow_ms: u64 = reply.faults.iter().map(slowness_ms).fold(0, u64::saturating_add);
        let comes_ms = heard_ms.saturating_add(self.latency_ms).saturating_add(slow_ms);
        if comes_ms > at_ms + self.timeout_ms {
            let why = Failure::NoAnswer("no answer in time".to_owned());
            return (at_ms + self.timeout_ms, Err(why), Some(Cause::NoAnswer));
        }
        let is_spoilt = reply.faults.iter().any(|fault| slowness_ms(fault) == 0);
        (comes_ms, fetched(&reply), is_spoilt.then_some(Cause::Corrupt))
    }

    /// Notes what it has recorded. To be called more often than its memory is overwritten.
    pub fn note_records(&mut self, at_ms: u64) {
        let at_ms = self.off_since_ms.unwrap_or(at_ms);
        self.looked_ms = at_ms;
        for table in self.device.table_names() {
            let held = self.device.held(&table, truth(at_ms).0);
            self.recorded.entry(table).or_default().extend(held.into_iter().map(|(_, at)| at));
        }
    }

    /// The same, if it is long ago.
    pub fn note_now_and_then(&mut self, at_ms: u64) {
        if at_ms >= self.looked_ms + self.look_every_ms {
            self.note_records(at_ms);
        }
    }

    /// Whether a record of this instant was ever there to be asked for.
    #[must_use]
    pub fn has_recorded(&self, table: &LogTable, at: i64) -> bool {
        self.recorded.get(&*table.table).is_some_and(|recorded| recorded.contains(&at))
    }

    /// Whether what it held of this instant was erased by an instant of the run.
    #[must_use]
    pub fn was_erased(&self, table: &LogTable, at: i64, by_ms: u64) -> bool {
        let mut later = self.programs.iter().skip(1).map(|(began_ms, _)| *began_ms);
        later.any(|began_ms| began_ms <= by_ms && truth(began_ms).0 + slack_ms(table, began_ms) >= at)
    }

    /// The instants of the records that it holds.
    #[must_use]
    pub fn held(&self, table: &LogTable, at_ms: u64) -> Vec<i64> {
        let at_ms = self.off_since_ms.unwrap_or(at_ms);
        self.device.held(&table.table, truth(at_ms).0).into_iter().map(|(_, at)| at).collect()
    }

    /// What the field holds in the record of this instant; `None` where no program ever had such a field.
    #[must_use]
    pub fn cell(&self, table: &LogTable, field: &str, at: i64) -> Option<Cell> {
        self.device.truth(&table.table, field, at)
    }

    /// Whether a program that may have made the record of this instant lacks the field; whichever one, where its clock
    /// was ever set.
    #[must_use]
    pub fn may_lack(&self, table: &LogTable, field: &str, at: Option<i64>) -> bool {
        let ends = self.programs.iter().skip(1).map(|(began_ms, _)| *began_ms).chain([u64::MAX]);
        let may_be_of = |began_ms: u64, ended_ms: u64| {
            let slack = |ms: u64| slack_ms(table, ms);
            let is_before = |at: i64| began_ms > 0 && at < truth(began_ms).0 - slack(began_ms);
            let is_behind = |at: i64| ended_ms < u64::MAX && at > truth(ended_ms).0 + slack(ended_ms);
            at.is_none_or(|at| !is_before(at) && !is_behind(at))
        };
        let lacks = |fields: &BTreeMap<String, BTreeSet<String>>| {
            !fields.get(&*table.table).is_some_and(|fields| fields.contains(field))
        };
        self.programs
            .iter()
            .zip(ends)
            .any(|((began_ms, fields), ended_ms)| may_be_of(*began_ms, ended_ms) && lacks(fields))
    }

    fn note_program(&mut self, at_ms: u64) {
        let names = self.device.table_names();
        let fields = names.into_iter().map(|table| {
            let fields = self.device.fields(&table).iter().map(|field| field.name.clone()).collect();
            (table, fields)
        });
        let program = (at_ms, fields.collect());
        self.programs.push(program);
    }

    /// Its link goes away until then; `is_refused`: whoever tries it is told so at once.
    pub fn go_away(&mut self, until_ms: u64, is_refused: bool) {
        (self.away_until_ms, self.is_refused) = (self.away_until_ms.max(until_ms), is_refused);
    }

    /// Its power goes. Nothing is recorded until it is [switched on](Self::switch_on).
    pub fn switch_off(&mut self, at_ms: u64) {
        self.off_since_ms.get_or_insert(at_ms);
    }

    /// Whether it recorded nothing at that instant, or at the one of the record before or behind: without power, or as its clock
    /// was set past it.
    #[must_use]
    pub fn was_off(&self, table: &LogTable, at: i64) -> bool {
        let interval_ms = table.grid.interval.as_ms();
        let is_off = |off: &(u64, u64)| {
            let (from, to) = (truth(off.0).plus_ms(-interval_ms), truth(off.1).plus_ms(interval_ms));
            (from.0..to.0).contains(&at)
        };
        self.offs.iter().any(is_off)
    }

    /// Whether it has no power.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        self.off_since_ms.is_some()
    }

    /// Its power comes back: its clock went on, its memory is as it was.
    pub fn switch_on(&mut self, at_ms: u64) {
        if let Some(off_ms) = self.off_since_ms.take() {
            self.device.was_off(truth(off_ms).0, truth(at_ms).0);
            self.offs.push((off_ms, at_ms));
        }
    }

    /// Somebody sets its clock by so much.
    pub fn step_clock(&mut self, by_ms: i64, at_ms: u64) {
        self.device.step_clock(by_ms, truth(at_ms).0);
    }

    /// Somebody gives it another program.
    pub fn change_program(&mut self, at_ms: u64) {
        self.note_records(at_ms);
        self.device.change_program(truth(at_ms).0);
        self.note_program(at_ms);
    }

    /// Its answers go wrong.
    pub fn add_fault(&mut self, fault: Fault) {
        self.device.add_fault(fault);
    }

    /// All about it is well again: power, link, answers, clock.
    pub fn make_good(&mut self, at_ms: u64) {
        self.switch_on(at_ms);
        self.away_until_ms = 0;
        self.device.clear_faults();
        let ahead_ms = self.device.own_utc_ms(truth(at_ms).0) - truth(at_ms).0;
        if ahead_ms != 0 {
            self.step_clock(-ahead_ms, at_ms);
        }
        if ahead_ms < 0 {
            // A record that was due in the time that its clock jumps over is never made.
            self.offs.push((at_ms.saturating_sub(ahead_ms.unsigned_abs()), at_ms));
        }
    }
}

/// How far the time of a record may be from that of the run, in ms: a logger's clock may be off by 50 ppm.
fn slack_ms(table: &LogTable, at_ms: u64) -> i64 {
    table.grid.interval.as_ms() + i64::try_from(at_ms / 20_000).unwrap_or(i64::MAX)
}

const fn slowness_ms(fault: &FaultKind) -> u64 {
    match fault {
        FaultKind::Slow { ms } => *ms,
        FaultKind::Silent => u64::MAX,
        _ => 0,
    }
}

/// What the agent's client makes of a reply.
fn fetched(reply: &Reply) -> Fetched {
    let has = |kind| reply.faults.contains(&kind);
    if has(FaultKind::CutOff) {
        return Err(Failure::Unusable("the connection ended in the midst of the answer".to_owned()));
    }
    if reply.status != 200 {
        return Err(Failure::Unusable(format!("HTTP {}", reply.status)));
    }
    let bytes = reply.body.as_bytes();
    let sent = if has(FaultKind::Truncated) { &bytes[..bytes.len() / 2] } else { bytes };
    if sent.len() > BODY_BYTES_MAX { Err(Failure::TooLong) } else { Ok(sent.to_vec()) }
}

/// One logger's collection, as its thread drives it.
#[derive(Debug)]
pub struct Asker {
    collector: Collector,
    commands: VecDeque<BusCommand>,
    /// What will come of the request under way, and when.
    awaited: Option<(u64, Fetched)>,
    /// It is to stop, by then at the latest, in ms of the run.
    stops_by_ms: Option<u64>,
    has_ended: bool,
}

impl Asker {
    /// The collection of a process that started at `started` and begins to ask now.
    #[must_use]
    pub fn new(configured: &Configured, started: Now, now: Now) -> Self {
        let tables = configured.tables.iter().map(LogTable::settings).collect();
        Self {
            collector: Collector::new(configured.id.clone(), tables, started, now),
            commands: VecDeque::new(),
            awaited: None,
            stops_by_ms: None,
            has_ended: false,
        }
    }

    /// Tells it something; it hears that at its next turn.
    pub fn command(&mut self, command: BusCommand) {
        self.commands.push_back(command);
    }

    /// Does one thing. `look` says what the gateway's clocks show.
    pub fn turn(&mut self, logger: &mut SimLogger, look: impl Fn(u64) -> Now, at_ms: u64) -> Told {
        let next_ms = self.step(logger, &look, at_ms);
        let events = std::iter::from_fn(|| self.collector.drain()).map(|event| (at_ms, event)).collect();
        Told { events, next_ms }
    }

    fn step(&mut self, logger: &mut SimLogger, look: &impl Fn(u64) -> Now, at_ms: u64) -> Option<u64> {
        if self.has_ended {
            return None;
        }
        let now = look(at_ms);
        self.obey(at_ms, now);
        let is_over = self.stops_by_ms.is_some_and(|by_ms| by_ms <= at_ms);
        match self.awaited.take() {
            Some((comes_ms, answer)) if comes_ms <= at_ms => self.collector.took(answer, now),
            Some(awaited) if !is_over => {
                let next_ms = awaited.0.min(self.stops_by_ms.unwrap_or(u64::MAX));
                self.awaited = Some(awaited);
                return Some(next_ms);
            }
            _ => {}
        }
        if self.stops_by_ms.is_some() {
            self.collector.stop(now);
            self.has_ended = true;
            return None;
        }
        Some(match self.collector.next(now) {
            Step::Ask(target) => self.awaited.insert(logger.ask(&target, at_ms)).0,
            Step::Wait { until_boot_ms } => at_ms + until_boot_ms.saturating_sub(now.boot_ms),
        })
    }

    fn obey(&mut self, at_ms: u64, now: Now) {
        for command in std::mem::take(&mut self.commands) {
            match command {
                BusCommand::PollNow(device) => self.collector.poll_now(device),
                BusCommand::ReadHistory { command, device, range } => {
                    self.collector.read_history(command, device, range);
                }
                BusCommand::Pause { command, device, paused } => {
                    self.collector.pause((command, device), paused, now);
                }
                BusCommand::Stop => {
                    let patience_ms = u64::try_from(STOP_PATIENCE.as_millis()).expect("seconds");
                    self.stops_by_ms.get_or_insert(at_ms + patience_ms);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gapless_agent::config::Config;
    use gapless_agent::event::BusEvent;
    use gapless_common::profile::ProfileSet;

    use super::super::clock::{Clock, MS_NS};
    use super::*;

    const MINUTE_MS: u64 = 60_000;

    /// A logger that writes a record each ten seconds and holds sixty, and what asks it.
    struct Bench {
        logger: SimLogger,
        asker: Asker,
        now_ms: u64,
        told: BTreeSet<i64>,
        gone: u32,
    }

    impl Bench {
        fn new() -> Self {
            let toml = "site = \"s\"\nagent = \"a\"\nuplink = { broker = \"mqtt://h\" }\noutbox = { path = \"/o\" }\n\
                [[bus]]\nid = \"b\"\ncampbell = { url = \"http://l\" }\ntimeout = \"2s\"\n[[bus.device]]\nid = \"met\"\n\
                table = \"Met\"\ninterval = \"10s\"\nzone = \"+00:00\"\nfirst = \"0s\"\nchannels = \"all\"\n";
            let config = Config::parse("a.toml", toml, &ProfileSet::default()).unwrap();
            let table = TableConfig { name: "Met".to_owned(), interval_ms: 10_000, capacity: 60, fields: 2 };
            let device = LoggerConfig { tables: vec![table], ..LoggerConfig::default() };
            let configured = &config.loggers[0];
            let logger = SimLogger::new(&Setup { device, latency_ms: 20 }, configured);
            let asker = Asker::new(configured, look(0), look(0));
            Self { logger, asker, now_ms: 0, told: BTreeSet::new(), gone: 0 }
        }

        fn run(&mut self, span_ms: u64) {
            let end_ms = self.now_ms + span_ms;
            while self.now_ms < end_ms {
                let turned = self.asker.turn(&mut self.logger, look, self.now_ms);
                for (_, event) in turned.events {
                    match event {
                        BusEvent::Answered { at, .. } => {
                            assert!(self.told.insert(at.0), "{at} is told twice");
                        }
                        BusEvent::Missed(misses) if misses.cause == Cause::Overwritten => {
                            self.gone += misses.count;
                        }
                        _ => {}
                    }
                }
                self.now_ms = turned.next_ms.unwrap().max(self.now_ms + 1);
            }
        }
    }

    fn look(at_ms: u64) -> Now {
        Clock::booted(0, 0, true, 0).look(at_ms * MS_NS)
    }

    #[test]
    fn what_is_held_is_read_once_the_link_is_back_and_the_rest_is_overwritten() {
        let mut bench = Bench::new();
        bench.run(5 * MINUTE_MS);
        let before = bench.told.len();
        assert!((29..=30).contains(&before), "{before}");
        bench.logger.go_away(bench.now_ms + 30 * MINUTE_MS, true);
        bench.run(30 * MINUTE_MS);
        assert_eq!(bench.told.len(), before);
        bench.run(2 * MINUTE_MS);
        let (told, gone) = (bench.told.len() - before, usize::try_from(bench.gone).unwrap());
        assert!((71..=73).contains(&told), "sixty that it held, and twelve since: {told}");
        assert!((told + gone).abs_diff(32 * 6) <= 1, "{told} and {gone}");
    }

    #[test]
    fn a_stop_does_not_wait_for_an_answer_that_never_comes() {
        let mut bench = Bench::new();
        bench.logger.add_fault(Fault::new(FaultKind::Silent));
        bench.run(10);
        bench.asker.command(BusCommand::Stop);
        let turned = bench.asker.turn(&mut bench.logger, look, 1_500);
        assert_eq!(turned.next_ms, Some(2_000), "its time-out is over before the patience of a stop");
        assert_eq!(bench.asker.turn(&mut bench.logger, look, 2_000).next_ms, None);
    }
}
