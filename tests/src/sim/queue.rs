//! The queue that leads to an agent's loop, and the loop as it stands still while its disk is slow: what comes meanwhile
//! waits in order, and a bus whose event finds no room waits with it. When time passes is the world's business.

use std::collections::{BTreeSet, VecDeque};

use gapless_agent::engine::Effect;
use gapless_agent::event::BusEvent;
use gapless_agent::run::EVENTS_MAX;
use gapless_agent::uplink::mqtt::MqttEvent;

/// What waits for the loop.
#[derive(Debug)]
pub enum Waiting {
    /// A bus told something.
    Bus(usize, BusEvent),
    /// The MQTT thread did.
    Mqtt(MqttEvent),
    /// Somebody asks the agent to stop.
    Stop,
}

/// The queue of one agent. What stands behind the first [`EVENTS_MAX`] is not in it: its thread waits for room.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: VecDeque<Waiting>,
    /// What the loop does when it goes on.
    held: Vec<Effect>,
    /// Until when it stands still, in ms of the run.
    still_until_ms: u64,
    /// Buses whose next turn has to wait for room.
    blocked: BTreeSet<usize>,
}

impl Queue {
    /// Until when the loop stands still, where it does.
    #[must_use]
    pub fn still_until(&self, now_ms: u64) -> Option<u64> {
        Some(self.still_until_ms).filter(|until_ms| *until_ms > now_ms)
    }

    /// The loop stands still from now on; `effects` are of what it was doing.
    pub fn stand_still(&mut self, until_ms: u64, effects: Vec<Effect>) {
        self.still_until_ms = until_ms;
        self.hold(effects);
    }

    /// These are to be done when the loop goes on.
    pub fn hold(&mut self, effects: Vec<Effect>) {
        self.held.extend(effects);
    }

    /// What was held back while it stood still.
    pub fn take_held(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.held)
    }

    /// Something waits for the loop.
    pub fn push(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
    }

    /// The next thing that waits.
    pub fn pop(&mut self) -> Option<Waiting> {
        self.waiting.pop_front()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether some thread has to wait for room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting.len() > EVENTS_MAX
    }

    /// Whether the bus has to wait for room; where it has, its next turn comes with [`take_unblocked`](Self::take_unblocked).
    pub fn blocks(&mut self, bus: usize) -> bool {
        let has_no_room = self.has_no_room(bus);
        if has_no_room {
            self.blocked.insert(bus);
        }
        has_no_room
    }

    /// Buses that go on: there is room for what they had to tell.
    pub fn take_unblocked(&mut self) -> Vec<usize> {
        let (blocked, free): (BTreeSet<usize>, BTreeSet<usize>) =
            std::mem::take(&mut self.blocked).into_iter().partition(|bus| self.has_no_room(*bus));
        self.blocked = blocked;
        free.into_iter().collect()
    }

    fn has_no_room(&self, bus: usize) -> bool {
        let outside = self.waiting.iter().skip(EVENTS_MAX);
        outside.into_iter().any(|waiting| matches!(waiting, Waiting::Bus(of, _) if *of == bus))
    }
}

#[cfg(test)]
mod tests {
    use gapless_agent::event::BusTotals;
    use gapless_common::id::BusId;

    use super::*;

    fn told(queue: &mut Queue, bus: usize, count: usize) {
        for _ in 0..count {
            let totals = BusTotals::default();
            let event = BusEvent::Metrics { bus: BusId::new("bus").unwrap(), totals };
            queue.push(Waiting::Bus(bus, event));
        }
    }

    #[test]
    fn a_bus_goes_on_once_there_is_room_for_all_it_had_to_tell() {
        let mut queue = Queue::default();
        told(&mut queue, 0, EVENTS_MAX);
        assert!(!queue.is_full() && !queue.blocks(0), "there was room for all of them");
        told(&mut queue, 1, 2);
        assert!(queue.is_full() && queue.blocks(1) && queue.blocks(1) && !queue.blocks(0));
        queue.pop().unwrap();
        assert!(queue.take_unblocked().is_empty(), "the second one waits still");
        queue.pop().unwrap();
        assert_eq!(queue.take_unblocked(), [1]);
        assert!(queue.take_unblocked().is_empty() && !queue.blocks(1));
    }

    #[test]
    fn what_the_loop_wanted_comes_when_it_goes_on() {
        let mut queue = Queue::default();
        assert_eq!(queue.still_until(0), None);
        queue.stand_still(5, vec![Effect::Disconnect]);
        assert_eq!([4, 5].map(|now_ms| queue.still_until(now_ms)), [Some(5), None]);
        assert!(matches!(queue.take_held()[..], [Effect::Disconnect]) && queue.take_held().is_empty());
    }
}
