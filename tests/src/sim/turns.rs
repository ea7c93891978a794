//! An agent's loop in the world, as `run` turns it: it takes in what its buses and its connection tell, looks at its
//! deadlines, does what follows, stops. While its disk is slow it stands still, and what comes waits in its queue.
//!
//! The power that goes while a sync takes its time finds it done: the cut in the midst of one is
//! [`Mischief::PowerCutAtWrite`](super::plan::Mischief::PowerCutAtWrite)'s.

use gapless_agent::bus::BusCommand;
use gapless_agent::depot::DepotError;
use gapless_agent::engine::{Effect, Engine};
use gapless_agent::event::{BusEvent, DeviceCondition};
use gapless_agent::run::EVENTS_AT_ONCE;
use gapless_agent::uplink::mqtt::MqttEvent;

use super::gateway::End;
use super::oracle::Stop;
use super::queue::Waiting;
use super::sometimes::Rare;
use super::world::{Event, World};

/// Longest sleep of an agent's loop, in ms, as in `run`.
const TURN_MS: u64 = 5_000;
/// How long an agent is given to stop its buses, in ms, as in `run`.
const STOP_MS: u64 = 2_000;

/// A step of an agent's stop, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopping {
    /// All that its buses told becomes durable.
    Finish,
    /// The outbox says goodbye.
    Close,
    /// The connection does, and the process ends.
    End,
}

impl World {
    /// A bus tells its agent something: the oracle hears it at once, the agent's loop when it can.
    pub(super) fn said(&mut self, no: usize, bus: usize, event: BusEvent) {
        self.oracle.note_event(no, &self.gateways[no], &event, self.now_ms);
        if let BusEvent::Paused { device, paused, .. } = event {
            self.note_paused(no, device, paused);
        }
        if matches!(event, BusEvent::Device { condition: DeviceCondition::SetAside, .. }) {
            self.sometimes.reach(Rare::SetAside);
        }
        self.comes(no, Waiting::Bus(bus, event));
    }

    pub(super) fn mqtt(&mut self, no: usize, event: MqttEvent) {
        self.comes(no, Waiting::Mqtt(event));
    }

    fn comes(&mut self, no: usize, event: Waiting) {
        if !self.is_still(no) {
            return self.take_in(no, event);
        }
        let queue = &mut self.gateways[no].queue;
        queue.push(event);
        if queue.is_full() {
            self.sometimes.reach(Rare::QueueFull);
        }
    }

    fn take_in(&mut self, no: usize, event: Waiting) {
        let now = self.gateways[no].now(self.now_ms);
        match event {
            Waiting::Bus(_, event) => self.tell(no, |engine| engine.on_bus(event, now)),
            Waiting::Mqtt(event) => self.tell(no, |engine| engine.on_mqtt(event, now)),
            Waiting::Stop => self.stop_buses(no),
        }
    }

    /// Whether the agent's loop stands still.
    pub(super) fn is_still(&self, no: usize) -> bool {
        self.gateways[no].queue.still_until(self.now_ms).is_some()
    }

    /// The deadline that the agent's loop was to wake for.
    pub(super) fn wake(&mut self, no: usize) {
        self.wakes[no] = u64::MAX;
        // A loop that stands still looks at its deadlines when it goes on.
        if !self.is_still(no) {
            let now = self.gateways[no].now(self.now_ms);
            self.tell(no, |engine| engine.check_deadlines(now));
        }
    }

    /// The agent's loop goes on after it stood still.
    pub(super) fn go_on(&mut self, no: usize) {
        for effect in self.gateways[no].queue.take_held() {
            self.carry_out(no, effect);
        }
        let generation = self.gateways[no].generation;
        while self.turns(no, generation) {
            for _ in 0..=EVENTS_AT_ONCE {
                if !self.take_next(no, generation) {
                    break;
                }
            }
            if self.turns(no, generation) && !self.gateways[no].is_stopping {
                let now = self.gateways[no].now(self.now_ms);
                self.tell(no, |engine| engine.check_deadlines(now));
            }
            if self.gateways[no].queue.is_empty() {
                break;
            }
        }
    }

    /// Whether this process is there, and its loop does not stand still.
    fn turns(&self, no: usize, generation: u64) -> bool {
        self.is_current(no, generation) && !self.is_still(no)
    }

    /// Takes in one event that waits; `false` where there is none, or the loop stands still.
    fn take_next(&mut self, no: usize, generation: u64) -> bool {
        if !self.turns(no, generation) {
            return false;
        }
        let Some(event) = self.gateways[no].queue.pop() else { return false };
        for bus in self.gateways[no].queue.take_unblocked() {
            self.oracle.note_unblocked(no, bus, self.now_ms);
            self.push(self.now_ms, Event::Bus(no, generation, bus));
        }
        self.take_in(no, event);
        true
    }

    /// Tells an agent's engine something, and does what it wants.
    pub fn tell(&mut self, no: usize, what: impl FnOnce(&mut Engine) -> Result<(), DepotError>) {
        let Some(told) = self.gateways[no].tell(what) else { return };
        let stalled_ms = self.gateways[no].disk.take_stalled_ms();
        if self.has_died(no) {
            // What it wanted is not done.
            return;
        }
        if self.gateways[no].disk.take_failed() {
            self.sometimes.reach(Rare::FailedOnce);
            self.oracle.note_disk_failed(no, self.now_ms);
        }
        if self.gateways[no].disk.take_refused() {
            self.sometimes.reach(Rare::DiskFull);
        }
        match told {
            Ok(effects) if stalled_ms > 0 => self.stand_still(no, stalled_ms, effects),
            // Its start took so long.
            Ok(effects) if self.is_still(no) => self.gateways[no].queue.hold(effects),
            Ok(effects) => effects.into_iter().for_each(|effect| self.carry_out(no, effect)),
            Err(error) => return self.oracle.find("availability", format!("an agent ends: {error}")),
        }
        self.note_disk(no);
        self.oracle.check_bounds(no, &self.gateways[no]);
        self.oracle.take_from_tap(&self.gateways[no].log);
        self.schedule_wake(no);
    }

    /// The disk has kept the agent's loop waiting for so long: what it wants comes after that.
    pub(super) fn stand_still(&mut self, no: usize, stalled_ms: u64, effects: Vec<Effect>) {
        let until_ms = self.now_ms + stalled_ms;
        tracing::debug!(at_ms = self.now_ms, gateway = no, until_ms, "stands still");
        self.sometimes.reach(Rare::StoodStill);
        self.oracle.note_still(no, (self.now_ms, until_ms));
        self.gateways[no].queue.stand_still(until_ms, effects);
        self.push(until_ms, Event::GoOn(no, self.gateways[no].generation));
    }

    /// Whether the agent has come back from memory to its disk.
    fn note_disk(&mut self, no: usize) {
        let gateway = &mut self.gateways[no];
        let in_memory =
            gateway.process.as_ref().is_some_and(|process| process.engine.depot().failure().is_some());
        self.oracle.note_in_memory(no, in_memory, self.now_ms);
        if std::mem::replace(&mut gateway.is_in_memory, in_memory) && !in_memory {
            self.sometimes.reach(Rare::BackFromMemory);
        }
    }

    fn schedule_wake(&mut self, no: usize) {
        let gateway = &self.gateways[no];
        let Some(process) = gateway.process.as_ref().filter(|_| !self.is_still(no)) else { return };
        let now = gateway.now(self.now_ms);
        let wait_ms = process.engine.next_deadline(now).saturating_sub(now.boot_ms).min(TURN_MS);
        let (at_ms, generation) = (self.now_ms + wait_ms, gateway.generation);
        if at_ms < self.wakes[no] {
            self.wakes[no] = at_ms;
            self.push(at_ms, Event::Wake(no, generation));
        }
    }

    /// The agent is asked to stop; its loop hears it when it turns.
    pub fn stop(&mut self, no: usize) {
        if self.gateways[no].process.is_some() {
            self.comes(no, Waiting::Stop);
        }
    }

    fn stop_buses(&mut self, no: usize) {
        let generation = self.gateways[no].generation;
        for bus in 0..self.gateways[no].buses() {
            self.gateways[no].command(bus, BusCommand::Stop);
            self.push(self.now_ms, Event::Bus(no, generation, bus));
        }
        self.push(self.now_ms + STOP_MS, Event::Stopping(no, generation, Stopping::Finish));
    }

    /// The agent's buses have ended: its last commit, its goodbye, its end, each once the disk lets it.
    pub(super) fn finish_stop(&mut self, no: usize, first: Stopping) {
        let generation = self.gateways[no].generation;
        self.gateways[no].is_stopping = true;
        let steps = [Stopping::Finish, Stopping::Close, Stopping::End];
        for step in steps.into_iter().skip_while(|step| *step != first) {
            if !self.is_current(no, generation) {
                return;
            }
            while step == Stopping::Finish && self.take_next(no, generation) {}
            if let Some(until_ms) = self.gateways[no].queue.still_until(self.now_ms) {
                return self.push(until_ms, Event::Stopping(no, generation, step));
            }
            self.stop_step(no, step);
        }
    }

    fn stop_step(&mut self, no: usize, step: Stopping) {
        let now = self.gateways[no].now(self.now_ms);
        match step {
            Stopping::Finish => self.tell(no, |engine| engine.finish_polls(now)),
            Stopping::Close => {
                self.oracle.note_closing(no);
                self.tell(no, |engine| engine.close(true, now));
            }
            Stopping::End => {
                let generation = self.gateways[no].generation;
                self.tell(no, |engine| engine.say_goodbye(now));
                if self.is_current(no, generation) {
                    self.oracle.note_end(no, &self.gateways[no], Stop::Clean, self.now_ms);
                    self.gateways[no].end(End::Killed);
                    if self.is_good {
                        // Whoever was to start it again found it stopping still.
                        self.restart(no, 1_000);
                    }
                }
            }
        }
    }
}
