//! The uplink core against a collector that forgets and a link that loses, doubles and delays, under any order of events.

use gapless_common::id::{Commit, ConnectionId, Epoch, Incarnation, Seq};
use gapless_common::message::{ACK_RANGES_MAX, Ack, EpochAck, HeldEpoch, Presence};
use gapless_common::ranges::RangeSet;
use gapless_common::time::Timestamp;
use proptest::prelude::*;

use super::tests::{FRAME_BYTES, drain, settings};
use super::*;

/// A collector that stores what arrives, and a link that loses, doubles and delays.
#[derive(Default)]
struct World {
    now_ms: u64,
    next: u64,
    stored: RangeSet,
    /// All that this database ever had.
    ever_stored: RangeSet,
    acked: RangeSet,
    commit: u64,
    /// The newest commit that the core heard of.
    heard: u64,
    incarnation: u64,
    /// Acknowledgements on their way.
    acks: Vec<Ack>,
    in_flight_max: usize,
    probes_ms: Vec<u64>,
    announced: bool,
    answered: bool,
    /// Records sent since the last rewind, connection or life of the database.
    sent: RangeSet,
    connection: Option<ConnectionId>,
}

impl World {
    fn ack(&self) -> Ack {
        let watermark = Seq(self.stored.watermark(1));
        let above = self.stored.iter().map(|(f, l)| (Seq(f), Seq(l))).filter(|(f, _)| *f > watermark);
        let above = above.take(ACK_RANGES_MAX).collect();
        Ack {
            incarnation: Incarnation(self.incarnation),
            commit: Commit(self.commit),
            epochs: vec![EpochAck { epoch: Epoch(1), watermark, above, parked: Vec::new() }],
        }
    }

    /// Acts on what the core wants; `arrives` says whether frames come through.
    fn act(&mut self, core: &mut Core, arrives: bool) {
        for action in drain(core, self.now_ms) {
            match action {
                Action::Send(offer) => {
                    let (first, last) = (offer.first.0, offer.last.0);
                    assert!(self.connection.is_some(), "sent without a connection");
                    assert!(last < self.next, "sent before it was durable");
                    for seq in first..=last {
                        assert!(!self.acked.contains(seq), "{seq} sent although acknowledged");
                        assert!(!self.sent.contains(seq), "{seq} sent twice on one connection");
                    }
                    self.sent.insert(first, last);
                    if !self.announced && !self.answered {
                        self.probes_ms.push(self.now_ms);
                        self.sent = RangeSet::new();
                    }
                    if arrives {
                        self.stored.insert(first, last);
                        self.ever_stored.insert(first, last);
                        self.commit += 1;
                        self.acks.push(self.ack());
                    }
                }
                Action::Acknowledge(_, first, last) => {
                    assert!(self.ever_stored.covers(first.0, last.0), "trimmed before it was stored");
                }
                Action::Disconnect(_) => self.connection = None,
                Action::Flush => core.handle(Event::Flushed, self.now_ms),
                _ => {}
            }
            self.in_flight_max = self.in_flight_max.max(core.status().in_flight);
        }
    }

    fn deliver(&mut self, core: &mut Core, which: usize, twice: bool) {
        if self.acks.is_empty() {
            return;
        }
        let ack = self.acks[which % self.acks.len()].clone();
        if !twice {
            let place = which % self.acks.len();
            self.acks.remove(place);
        }
        self.hear(core, &ack);
    }

    fn hear(&mut self, core: &mut Core, ack: &Ack) {
        if ack.incarnation.0 != self.incarnation {
            return;
        }
        core.handle(Event::Ack(ack.clone()), self.now_ms);
        if ack.commit.0 < self.heard {
            return;
        }
        self.heard = ack.commit.0;
        self.answered |= self.connection.is_some();
        let epoch = &ack.epochs[0];
        let said: RangeSet =
            epoch.above.iter().map(|(f, l)| (f.0, l.0)).chain([(1, epoch.watermark.0)]).collect();
        // A list that is full says nothing of what comes after it.
        let full = epoch.above.len() == ACK_RANGES_MAX;
        let seen_to = if full { said.last().unwrap_or(0) } else { u64::MAX };
        let missing: Vec<_> = said.holes(1, seen_to).collect();
        for (first, last) in missing {
            // What is taken back may be sent again.
            let taken_back = self.acked.iter().filter(|(f, l)| *f <= last && *l >= first);
            let taken_back: Vec<_> = taken_back.map(|(f, l)| (f.max(first), l.min(last))).collect();
            taken_back.into_iter().for_each(|(f, l)| self.sent.remove(f, l));
            self.acked.remove(first, last);
        }
        said.iter().for_each(|(f, l)| self.acked.insert(f, l));
    }

    /// The database lives on, and has lost every `step`th record from `first` on: an epoch was reopened.
    fn reopen(&mut self, first: u64, step: u64) {
        let lost = (first..self.next).step_by(usize::try_from(step).unwrap());
        lost.for_each(|seq| self.stored.remove(seq, seq));
        self.commit += 1;
        self.acks.push(self.ack());
    }

    fn connect(&mut self, core: &mut Core) {
        if core.status().link == LinkState::Connecting {
            self.connection = Some(ConnectionId(1));
            self.sent = RangeSet::new();
            (self.announced, self.answered) = (false, false);
            core.handle(Event::Connected, self.now_ms);
        }
    }

    fn presence(&mut self, core: &mut Core, online: bool, retained: bool) {
        if self.connection.is_some() {
            self.answered &= online || !self.announced;
            self.announced = online;
            self.sent = RangeSet::new();
            let presence = Some(Presence { incarnation: Incarnation(self.incarnation), online });
            core.handle(Event::Presence { collector: "c".into(), presence, retained }, self.now_ms);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(u64),
    Wait(u64, bool),
    Connect,
    Lose,
    Ack { which: usize, twice: bool },
    Presence { online: bool, retained: bool },
    NewDatabase { keeps: u64 },
    Reopen { first: u64, step: u64 },
    WallClock(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1u64..30).prop_map(Step::Append),
        4 => (0u64..40_000, any::<bool>()).prop_map(|(ms, arrives)| Step::Wait(ms, arrives)),
        3 => Just(Step::Connect),
        1 => Just(Step::Lose),
        4 => (0usize..5, any::<bool>()).prop_map(|(which, twice)| Step::Ack { which, twice }),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(online, retained)| Step::Presence { online, retained }),
        1 => (0u64..50).prop_map(|keeps| Step::NewDatabase { keeps }),
        1 => (0u64..300_000_000).prop_map(Step::WallClock),
        1 => (1u64..80, 1u64..5).prop_map(|(first, step)| Step::Reopen { first, step }),
    ];
    prop::collection::vec(step, 1..60)
}

fn run(core: &mut Core, world: &mut World, step: &Step) {
    let mut arrives = true;
    match *step {
        Step::Append(count) => {
            world.next += count;
            let event = Event::Appended { epoch: Epoch(1), next: Seq(world.next), weight: count };
            core.handle(event, world.now_ms);
        }
        Step::Wait(ms, comes_through) => {
            world.now_ms += ms;
            arrives = comes_through;
            // A time-out may put records back: the model allows them again.
            if core.next_deadline().is_some_and(|at| at <= world.now_ms) {
                world.sent = RangeSet::new();
            }
        }
        Step::Connect => world.connect(core),
        Step::Lose => {
            world.connection = None;
            core.handle(Event::Disconnected, world.now_ms);
        }
        Step::Ack { which, twice } => world.deliver(core, which, twice),
        Step::Presence { online, retained } => world.presence(core, online, retained),
        Step::NewDatabase { keeps } => {
            world.incarnation += 1;
            world.acks.clear();
            world.stored = world.stored.iter().take_while(|(f, _)| *f <= keeps).collect();
            world.ever_stored = world.stored.clone();
            (world.acked, world.commit, world.heard) = (RangeSet::new(), 0, 0);
            world.sent = RangeSet::new();
            let ack = world.ack();
            world.hear(core, &ack);
        }
        Step::Reopen { first, step } => world.reopen(first, step),
        Step::WallClock(ms) => {
            core.handle(Event::WallClock(Timestamp(i64::try_from(ms).unwrap())), world.now_ms);
        }
    }
    world.act(core, arrives);
}

proptest! {
    /// Whatever happens: nothing acknowledged is sent again or trimmed unstored, the window is kept, probes
    /// keep their distance; and once the link is good, everything arrives.
    #[test]
    fn delivery_holds_under_any_order_of_events(steps in steps(), newest_first: bool, economy: bool, metered: bool) {
        let flush_ms = if economy { 60_000 } else { 0 };
        let daily_budget = metered.then_some(30 * FRAME_BYTES);
        let mut core = Core::new(Settings { newest_first, flush_ms, daily_budget, ..settings() });
        let mut world = World { next: 1, incarnation: 1, ..World::default() };
        core.handle(Event::Held(vec![HeldEpoch { epoch: Epoch(1), first: Seq(1), next: Seq(1) }]), 0);
        for step in steps {
            run(&mut core, &mut world, &step);
            prop_assert!(world.in_flight_max <= 8);
        }
        for two in world.probes_ms.windows(2) {
            prop_assert!(two[1] - two[0] >= 2_500, "two probes within a back-off: {:?}", world.probes_ms);
        }
        for _ in 0..10_000 {
            if core.status().unacknowledged == 0 && world.stored.covers(1, world.next - 1) {
                break;
            }
            world.connect(&mut core);
            if world.connection.is_some() && !world.announced {
                world.presence(&mut core, true, true);
            }
            let at = core.next_deadline().unwrap_or(world.now_ms).max(world.now_ms);
            prop_assert!(
                !metered || core.status().bytes_today <= 40 * FRAME_BYTES,
                "{:?} at {}", core.status(), world.now_ms
            );
            let wait_ms = if world.acks.is_empty() { at - world.now_ms } else { 0 };
            run(&mut core, &mut world, &Step::Wait(wait_ms, true));
            run(&mut core, &mut world, &Step::Ack { which: 0, twice: false });
        }
        let stored: Vec<_> = world.stored.iter().collect();
        prop_assert!(world.next == 1 || stored == vec![(1, world.next - 1)], "{stored:?} of {}", world.next);
    }
}
