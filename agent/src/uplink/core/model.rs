//! The uplink core against a collector that forgets, a link that loses, doubles and delays, and an outbox that drops, is
//! reopened and cannot be read for a while, under any order of events.

use gapless_common::id::{Commit, Epoch, Incarnation, Seq};
use gapless_common::message::{ACK_RANGES_MAX, Ack, Command, CommandBody, EpochAck, HeldEpoch, Presence};
use gapless_common::ranges::RangeSet;
use gapless_common::time::Timestamp;
use proptest::prelude::*;

use super::tests::{FRAME, FRAME_BYTES, settings};
use super::*;

/// Epochs of one run at most.
const EPOCHS_MAX: usize = 4;

/// Every so manieth record is damaged, where any is.
const DAMAGED_EVERY: u64 = 37;

/// Places all records of all epochs in one set of numbers.
fn key(epoch: Epoch, seq: u64) -> u64 {
    (epoch.0 << 32) | seq
}

/// A collector that stores what arrives, an outbox, and the link between them.
#[derive(Default)]
struct World {
    now_ms: u64,
    /// What the outbox holds, the epoch being written last.
    held: Vec<HeldEpoch>,
    /// What the core told the outbox.
    trimmed: RangeSet,
    unreadable_until_ms: u64,
    has_damage: bool,
    stored: RangeSet,
    /// All that this database ever had.
    ever_stored: RangeSet,
    /// What the collector's word covers, as far as it was heard.
    acked: RangeSet,
    commit: u64,
    /// The newest commit that the core heard of.
    heard: u64,
    has_heard: bool,
    incarnation: u64,
    /// Acknowledgements on their way.
    acks: Vec<Ack>,
    commands: u64,
    /// Asked for again.
    asked: RangeSet,
    in_flight_max: usize,
    probes_ms: Vec<u64>,
    is_connected: bool,
    announced: bool,
    answered: bool,
    /// Records sent since the last rewind, connection or life of the database.
    sent: RangeSet,
}

impl World {
    fn ack(&self) -> Ack {
        let epochs = self.held.iter().map(|held| {
            let (first, last) = (key(held.epoch, 1), key(held.epoch, u64::from(u32::MAX)));
            let watermark = self.stored.watermark(first);
            let above = self.stored.iter().filter(|(f, _)| *f > watermark && (first..=last).contains(f));
            let seq = |at: u64| Seq(at - key(held.epoch, 0));
            EpochAck {
                epoch: held.epoch,
                watermark: seq(watermark),
                above: above.map(|(f, l)| (seq(f), seq(l))).take(ACK_RANGES_MAX).collect(),
                parked: Vec::new(),
            }
        });
        Ack {
            incarnation: Incarnation(self.incarnation),
            commit: Commit(self.commit),
            epochs: epochs.collect(),
        }
    }

    fn is_damaged(&self, seq: Seq) -> bool {
        self.has_damage && seq.0.is_multiple_of(DAMAGED_EVERY)
    }

    /// Acts on what the core wants; `arrives` says whether messages come through.
    fn act(&mut self, core: &mut Core, arrives: bool) {
        for turn in 0.. {
            assert!(turn < 5_000, "the core never comes to rest");
            let Some(action) = core.poll(self.now_ms) else { break };
            self.act_once(core, &action, arrives);
            self.in_flight_max = self.in_flight_max.max(core.status().in_flight);
        }
        let deadline = core.next_deadline();
        assert!(deadline.is_none_or(|at| at > self.now_ms), "due at {deadline:?} and at rest");
        self.check_trimmed();
    }

    /// What the outbox takes for acknowledged is what the collector's word covers, once it was heard.
    fn check_trimmed(&self) {
        let open = |held: &HeldEpoch| {
            self.acked.holes(key(held.epoch, held.first.0), key(held.epoch, held.next.0 - 1))
        };
        let mut open = self.held.iter().flat_map(open);
        let wrong = open.find(|(f, l)| self.trimmed.holes(*f, *l).next() != Some((*f, *l)));
        assert!(!self.has_heard || wrong.is_none(), "{wrong:x?} of {:x?}", self.trimmed);
    }

    fn act_once(&mut self, core: &mut Core, action: &Action, arrives: bool) {
        match *action {
            Action::Send(offer) => self.send(core, offer, arrives),
            Action::Birth if arrives => self.acks.push(self.ack()),
            Action::Acknowledge(epoch, first, last) => {
                let (first, last) = (key(epoch, first.0), key(epoch, last.0));
                assert!(self.ever_stored.covers(first, last), "trimmed before it was stored");
                self.trimmed.insert(first, last);
            }
            Action::Unacknowledge(epoch) => {
                self.trimmed.remove(key(epoch, 0), key(epoch, u64::from(u32::MAX)));
            }
            Action::Disconnect(_) => self.is_connected = false,
            Action::Flush => core.handle(Event::Flushed, self.now_ms),
            _ => {}
        }
    }

    fn send(&mut self, core: &mut Core, offer: Offer, arrives: bool) {
        assert!(self.is_connected, "sent without a connection");
        let held = self.held.iter().find(|held| held.epoch == offer.epoch).expect("an epoch that is held");
        assert!(held.first <= offer.first && offer.last < held.next, "{offer:?} of {held:?}");
        if self.now_ms < self.unreadable_until_ms {
            return core.handle(Event::NotNow, self.now_ms);
        }
        if self.is_damaged(offer.first) {
            return core.handle(Event::Unusable(offer.first), self.now_ms);
        }
        let fits = (offer.first.0..=offer.last.0).take(usize::try_from(FRAME).expect("ten"));
        let last =
            fits.take_while(|seq| !self.is_damaged(Seq(*seq))).last().expect("the first is not damaged");
        core.handle(Event::Sent(Seq(last)), self.now_ms);
        core.handle(Event::Published(FRAME_BYTES), self.now_ms);
        let (first, last) = (key(offer.epoch, offer.first.0), key(offer.epoch, last));
        for at in (first..=last).filter(|at| !self.asked.contains(*at)) {
            assert!(!self.acked.contains(at), "{at:x} sent although acknowledged");
            assert!(!self.sent.contains(at), "{at:x} sent twice on one connection");
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

    fn deliver(&mut self, core: &mut Core, which: usize, twice: bool) {
        let Some(place) = which.checked_rem(self.acks.len()) else { return };
        let ack = if twice { self.acks[place].clone() } else { self.acks.remove(place) };
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
        (self.heard, self.has_heard) = (ack.commit.0, true);
        self.answered |= self.is_connected;
        ack.epochs.iter().for_each(|epoch| self.believe(epoch));
    }

    /// What the core has to make of an answer.
    fn believe(&mut self, ack: &EpochAck) {
        let ranges = ack.above.iter().map(|(f, l)| (key(ack.epoch, f.0), key(ack.epoch, l.0)));
        let start = key(ack.epoch, 1);
        let said: RangeSet = ranges.chain([(start, key(ack.epoch, ack.watermark.0))]).collect();
        // A list that is full says nothing of what comes after it.
        let full = ack.above.len() == ACK_RANGES_MAX;
        let seen_to = if full { said.last().unwrap_or(start) } else { key(ack.epoch, u64::from(u32::MAX)) };
        let missing: Vec<_> = said.holes(start, seen_to).collect();
        for (first, last) in missing {
            // What is taken back may be sent again.
            let taken_back = self.acked.iter().filter(|(f, l)| *f <= last && *l >= first);
            let taken_back: Vec<_> = taken_back.map(|(f, l)| (f.max(first), l.min(last))).collect();
            taken_back.into_iter().for_each(|(f, l)| self.sent.remove(f, l));
            self.acked.remove(first, last);
        }
        said.iter().for_each(|(f, l)| self.acked.insert(f, l));
    }

    /// The database loses what `lost` says of every seq.
    fn forget(&mut self, lost: impl Fn(u64) -> bool) {
        for held in self.held.clone() {
            let gone = (1..held.next.0).filter(|seq| lost(*seq)).map(|seq| key(held.epoch, seq));
            gone.for_each(|at| self.stored.remove(at, at));
        }
        self.commit += 1;
    }

    fn connect(&mut self, core: &mut Core) {
        if core.status().link == LinkState::Connecting {
            self.sent = RangeSet::new();
            (self.is_connected, self.announced, self.answered) = (true, false, false);
            core.handle(Event::Connected, self.now_ms);
        }
    }

    fn presence(&mut self, core: &mut Core, online: bool, retained: bool) {
        if self.is_connected {
            self.answered &= online || !self.announced;
            self.announced = online;
            self.sent = RangeSet::new();
            let presence = Some(Presence { incarnation: Incarnation(self.incarnation), online });
            core.handle(Event::Presence { collector: "c".into(), presence, retained }, self.now_ms);
        }
    }

    fn command(&mut self, core: &mut Core, body: CommandBody) {
        self.commands += 1;
        let command = Command { id: self.commands, expires: Timestamp(i64::MAX), body };
        core.handle(Event::Command(command, Some(Timestamp(0))), self.now_ms);
    }

    fn append(&mut self, core: &mut Core, count: u64) {
        let held = self.held.last_mut().expect("one is written");
        held.next.0 += count;
        core.handle(Event::Appended { epoch: held.epoch, next: held.next, weight: count }, self.now_ms);
    }

    /// The outbox drops the oldest records.
    fn drop_oldest(&mut self, core: &mut Core, count: u64) {
        let is_only = self.held.len() == 1;
        let oldest = self.held.first_mut().expect("one is written");
        oldest.first.0 = (oldest.first.0 + count).min(oldest.next.0);
        if oldest.first == oldest.next && !is_only {
            self.held.remove(0);
        }
        core.handle(Event::Held(self.held.clone()), self.now_ms);
    }

    fn new_epoch(&mut self, core: &mut Core) {
        let epoch = Epoch(self.held.last().map_or(1, |held| held.epoch.0 + 1));
        if self.held.len() < EPOCHS_MAX {
            self.held.push(HeldEpoch { epoch, first: Seq(1), next: Seq(1) });
            core.handle(Event::Held(self.held.clone()), self.now_ms);
        }
    }

    /// Another handle holds the same records.
    fn reopen_outbox(&mut self, core: &mut Core) {
        self.sent = RangeSet::new();
        core.handle(Event::Held(Vec::new()), self.now_ms);
        core.handle(Event::Held(self.held.clone()), self.now_ms);
        self.recall(core);
    }

    fn recall(&mut self, core: &mut Core) {
        for (first, last) in self.trimmed.iter() {
            let (epoch, mask) = (Epoch(first >> 32), u64::from(u32::MAX));
            core.handle(Event::Acknowledged(epoch, Seq(first & mask), Seq(last & mask)), self.now_ms);
        }
    }

    /// Records that are held, not damaged and not stored.
    fn missing(&self) -> Vec<u64> {
        let all = self.held.iter().flat_map(|held| {
            let seqs = (held.first.0..held.next.0).filter(|seq| !self.is_damaged(Seq(*seq)));
            seqs.map(|seq| key(held.epoch, seq))
        });
        all.filter(|at| !self.stored.contains(*at)).collect()
    }

    fn damaged(&self) -> u64 {
        let all = self.held.iter().flat_map(|held| held.first.0..held.next.0);
        u64::try_from(all.filter(|seq| self.is_damaged(Seq(*seq))).count()).expect("few")
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
    Drop(u64),
    NewEpoch,
    ReopenOutbox,
    Unreadable(u64),
    Resend { epoch: u64, first: u64, count: u64 },
    Lease(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (1u64..30).prop_map(Step::Append),
        8 => (0u64..40_000, any::<bool>()).prop_map(|(ms, arrives)| Step::Wait(ms, arrives)),
        6 => Just(Step::Connect),
        2 => Just(Step::Lose),
        8 => (0usize..5, any::<bool>()).prop_map(|(which, twice)| Step::Ack { which, twice }),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(online, retained)| Step::Presence { online, retained }),
        2 => (0u64..50).prop_map(|keeps| Step::NewDatabase { keeps }),
        2 => (1u64..80, 1u64..5).prop_map(|(first, step)| Step::Reopen { first, step }),
        2 => (0u64..300_000_000).prop_map(Step::WallClock),
        1 => (1u64..40).prop_map(Step::Drop),
        1 => Just(Step::NewEpoch),
        1 => Just(Step::ReopenOutbox),
        1 => (0u64..60_000).prop_map(Step::Unreadable),
        1 => (1u64..4, 1u64..60, 1u64..40).prop_map(|(epoch, first, count)| Step::Resend { epoch, first, count }),
        1 => (0u64..60_000).prop_map(Step::Lease),
    ];
    prop::collection::vec(step, 1..60)
}

fn run(core: &mut Core, world: &mut World, step: &Step) {
    let mut arrives = true;
    match *step {
        Step::Append(count) => world.append(core, count),
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
            world.is_connected = false;
            core.handle(Event::Disconnected, world.now_ms);
        }
        Step::Ack { which, twice } => world.deliver(core, which, twice),
        Step::Presence { online, retained } => world.presence(core, online, retained),
        Step::NewDatabase { keeps } => {
            world.incarnation += 1;
            world.acks.clear();
            world.forget(|seq| seq > keeps);
            world.ever_stored = world.stored.clone();
            (world.acked, world.sent) = (RangeSet::new(), RangeSet::new());
            (world.commit, world.heard) = (0, 0);
            let ack = world.ack();
            world.hear(core, &ack);
        }
        Step::Reopen { first, step } => {
            world.forget(|seq| seq >= first && (seq - first).is_multiple_of(step));
            world.acks.push(world.ack());
        }
        Step::WallClock(ms) => {
            core.handle(Event::WallClock(Timestamp(i64::try_from(ms).expect("days"))), world.now_ms);
        }
        Step::Drop(count) => world.drop_oldest(core, count),
        Step::NewEpoch => world.new_epoch(core),
        Step::ReopenOutbox => world.reopen_outbox(core),
        Step::Unreadable(ms) => world.unreadable_until_ms = world.now_ms + ms,
        Step::Resend { epoch, first, count } => {
            world.asked.insert(key(Epoch(epoch), first), key(Epoch(epoch), first + count));
            let (first, last) = (Seq(first), Seq(first + count));
            world.command(core, CommandBody::Resend { epoch: Epoch(epoch), first, last });
        }
        Step::Lease(ms) => {
            let until = Timestamp(i64::try_from(ms).expect("minutes"));
            world.command(core, CommandBody::Live { until });
        }
    }
    world.act(core, arrives);
}

/// A good link, until all is there.
fn settle(core: &mut Core, world: &mut World) {
    for _ in 0..10_000 {
        if world.missing().is_empty() && core.status().unacknowledged == world.damaged() {
            return;
        }
        world.connect(core);
        if world.is_connected && !world.announced {
            world.presence(core, true, true);
        }
        let at = core.next_deadline().unwrap_or(world.now_ms).max(world.now_ms);
        let status = core.status();
        assert!(
            status.bytes_today_max.is_none() || status.bytes_today <= 40 * FRAME_BYTES,
            "{status:?} at {}",
            world.now_ms
        );
        let wait_ms = if world.acks.is_empty() { at - world.now_ms } else { 0 };
        run(core, world, &Step::Wait(wait_ms, true));
        run(core, world, &Step::Ack { which: 0, twice: false });
    }
}

proptest! {
    /// Whatever happens: nothing acknowledged is sent again or trimmed unstored, the window is kept, probes
    /// keep their distance; and once the link is good, everything arrives, and is known to have arrived.
    #[test]
    fn delivery_holds_under_any_order_of_events(
        steps in steps(),
        (newest_first, economy, metered, has_damage) in any::<(bool, bool, bool, bool)>(),
        (kept, trimmed) in (0u64..40, 0u64..40),
    ) {
        let flush_ms = if economy { 60_000 } else { 0 };
        let daily_budget = metered.then_some(30 * FRAME_BYTES);
        let mut core = Core::new(Settings { newest_first, flush_ms, daily_budget, ..settings() });
        let held = vec![HeldEpoch { epoch: Epoch(1), first: Seq(1), next: Seq(kept + 1) }];
        // What the outbox remembers of before, right or wrong.
        let trimmed = [(key(Epoch(1), 1), key(Epoch(1), trimmed.min(kept)))].into_iter().collect();
        let mut world = World { held, trimmed, has_damage, incarnation: 1, ..World::default() };
        world.reopen_outbox(&mut core);
        for step in steps {
            run(&mut core, &mut world, &step);
            prop_assert!(world.in_flight_max <= 8);
        }
        for two in world.probes_ms.windows(2) {
            prop_assert!(two[1] - two[0] >= 2_500, "two probes within a back-off: {:?}", world.probes_ms);
        }
        settle(&mut core, &mut world);
        let missing = world.missing();
        prop_assert!(missing.is_empty(), "{missing:x?} of {:?}", world.held);
        prop_assert_eq!(core.status().unacknowledged, world.damaged());
    }
}
