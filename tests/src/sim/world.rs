//! The world of a run: one thread, virtual time, one queue of what happens next. It carries packets, events and ticks to
//! the gateways and the collector, and tells the oracle what it sees. What goes wrong is `strike`'s, how an agent's loop
//! turns is `turns`'.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use gapless_agent::bus::BusCommand;
use gapless_agent::config::{Bus, Device, Link, TcpFraming};
use gapless_agent::engine::Effect;
use gapless_agent::event::BusEvent;
use gapless_agent::uplink::mqtt::MqttEvent;
use gapless_common::id::{ConnectionId, DeviceIndex};
use gapless_common::profile::ProfileSet;
use gapless_common::reading::Record;
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire::{self, Message};
use gapless_simulators::modbus::DeviceKind;

use super::center::{Center, Death};
use super::clock::{Clock, truth};
use super::gateway::{End, Gateway};
use super::lent::Lent;
use super::line::fault::Chances;
use super::line::{Setup, SimLine, Wire};
use super::logger::SimLogger;
use super::mishap::Mishap;
use super::net::{Net, Packet, Party, Sent};
use super::oracle::{Oracle, Stop};
use super::people::People;
use super::plan::{Mischief, Plan, Planned};
use super::rng::Rng;
use super::sometimes::{Rare, Sometimes};
use super::source::{Sources, Step};
use super::strike::Heal;
use super::tap;
use super::turns::Stopping;
use super::viewers::Viewers;

/// How long the collector gathers a group, in ms.
const GATHER_MS: u64 = 20;
/// How long a collector that lost the broker waits, in ms.
const RECONNECT_MS: u64 = 5_000;
/// The least time between two starts of one agent, in ms: the supervisor's.
const START_MS: u64 = 1_000;

/// What happens.
#[derive(Debug)]
pub enum Event {
    /// An agent's deadline may have come.
    Wake(usize, u64),
    /// A bus's turn.
    Bus(usize, u64, usize),
    /// A bus told its agent something.
    Said(usize, u64, usize, BusEvent),
    /// An agent's loop goes on after it stood still.
    GoOn(usize, u64),
    /// Something arrives.
    Net(Packet),
    /// The collector commits what waits.
    Center,
    /// The collector looks after gaps and jobs.
    Keep,
    /// The collector looks after alerts.
    Alerts,
    /// The next thing that befalls people who are told of alerts.
    People,
    /// Somebody who watches a site takes its lease again.
    Watch(u64),
    /// The collector is given another version of its configuration.
    Agree(usize),
    /// Something happens to the sources of a life of the collector.
    Source(u64, Step),
    /// The next thing that befalls an API that they ask.
    Remote,
    /// The next thing that befalls a folder that they read.
    Folder,
    /// Consent for one of its devices is given anew.
    GiveBack(usize, &'static str),
    /// The next thing that befalls a device with a memory, or is done by a person who looks at the collector's data.
    Mishap,
    /// A logger has power again: gateway and logger.
    SwitchOn(usize, usize),
    /// The collector starts.
    StartCenter,
    /// The collector connects.
    ConnectCenter,
    /// An agent starts.
    Start(usize),
    /// An agent that is stopping has had its time for what came before this step.
    Stopping(usize, u64, Stopping),
    /// A time service sets the clock of a machine, as of its boot.
    SetClock(usize, u64),
    /// The next bad luck.
    Strike,
    /// The next bad luck of a kind that strikes by draws of its own.
    StrikeApart(Mischief),
    /// A hoarder is cut off.
    Hoard,
    /// What a hoarder keeps rots.
    Spoil,
    /// One ends.
    Heal(Heal),
    /// The collector's database is backed up.
    BackUp,
}

/// An event with its instant and its place among those of the same instant.
#[derive(Debug)]
struct Due(u64, u64, Event);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// Everything there is.
pub struct World {
    /// What it is made of.
    pub plan: Plan,
    /// The instant, in ms of the run.
    pub now_ms: u64,
    /// The gateways.
    pub gateways: Vec<Gateway>,
    /// The network.
    pub net: Net,
    /// The collector.
    pub center: Center,
    /// Who knows the truth.
    pub oracle: Oracle,
    /// What was reached.
    pub sometimes: Sometimes,
    /// What goes wrong is drawn from it.
    pub rng: Rng,
    /// The same of the kinds that strike apart.
    pub apart: Rng,
    /// What befalls devices with a memory is drawn from it.
    pub mishap: Mishap,
    /// Those who are told of alerts.
    pub people: People,
    /// Those who watch a site.
    pub viewers: Viewers,
    /// The collector's own sources, where it has any.
    pub sources: Option<Sources>,
    /// What was lent.
    pub(super) lent: Lent,
    /// How the collector dies at its next step.
    pub death: Option<Death>,
    /// All has healed, and stays so.
    pub is_good: bool,
    /// Since when, in ms of the run.
    pub mended_ms: u64,
    /// When all agents were stopped last, because all was quiet.
    pub rested_ms: u64,
    /// The run ends: whoever has stopped stays so, whatever start was set for it before.
    pub is_over: bool,
    /// When each agent is woken next.
    pub(super) wakes: Vec<u64>,
    queue: BinaryHeap<Reverse<Due>>,
    count: u64,
    center_is_due: bool,
    sessions: u64,
}

impl World {
    /// The world of a plan, in which everything is about to be switched on.
    #[must_use]
    pub fn new(plan: Plan, rng: &mut Rng) -> Self {
        let gateways: Vec<Gateway> =
            plan.agents.iter().map(|site| gateway(site, plan.has(Mischief::BadAnswers), rng)).collect();
        let mut world = Self {
            now_ms: 0,
            net: Net::new(rng.fork(3)),
            center: Center::new(rng.fork(4)),
            oracle: Oracle::new(&gateways),
            sometimes: Sometimes::default(),
            rng: rng.fork(5),
            apart: rng.fork(6),
            mishap: plan.mishap.clone(),
            people: plan.people.clone(),
            viewers: Viewers::default(),
            sources: plan.sourcing.clone().map(Sources::new),
            lent: Lent::default(),
            death: None,
            is_good: false,
            mended_ms: 0,
            rested_ms: 0,
            is_over: false,
            wakes: vec![u64::MAX; gateways.len()],
            queue: BinaryHeap::new(),
            count: 0,
            center_is_due: false,
            sessions: 0,
            gateways,
            plan,
        };
        tracing::info!(donation = ?world.plan.donation, "begins");
        world.center.donors = world.plan.donation.iter().flat_map(|one| one.donors.clone()).collect();
        world.push(0, Event::StartCenter);
        world.push(world.plan.keep_ms, Event::Keep);
        world.push(world.plan.alert_ms, Event::Alerts);
        for no in 0..world.gateways.len() {
            let at_ms = world.rng.below(60_000);
            world.boot(no, at_ms);
        }
        world.begin();
        world
    }

    /// Something is to happen.
    pub fn push(&mut self, at_ms: u64, event: Event) {
        self.count += 1;
        self.queue.push(Reverse(Due(at_ms.max(self.now_ms), self.count, event)));
    }

    /// Packets are on their way.
    pub fn send(&mut self, sent: Sent) {
        for (at_ms, packet) in sent {
            self.push(at_ms, Event::Net(packet));
        }
    }

    /// Lets things happen until `until_ms`, or until something is found to be wrong.
    pub fn run(&mut self, until_ms: u64) {
        while let Some(Reverse(due)) = self.queue.peek() {
            if due.0 > until_ms || self.oracle.has_found() {
                break;
            }
            let Some(Reverse(Due(at_ms, _, event))) = self.queue.pop() else { break };
            self.now_ms = at_ms;
            self.happen(event);
        }
        self.now_ms = self.now_ms.max(until_ms);
    }

    fn happen(&mut self, event: Event) {
        match event {
            // Another one may have been set for an earlier instant since.
            Event::Wake(no, generation)
                if self.is_current(no, generation) && self.wakes[no] == self.now_ms =>
            {
                self.wake(no);
            }
            Event::Bus(no, generation, bus) if self.is_current(no, generation) => self.turn_bus(no, bus),
            Event::Said(no, generation, bus, event) if self.is_current(no, generation) => {
                self.said(no, bus, event);
            }
            Event::GoOn(no, generation) if self.is_current(no, generation) => self.go_on(no),
            Event::Stopping(no, generation, step) if self.is_current(no, generation) => {
                self.finish_stop(no, step);
            }
            Event::Wake(..) | Event::Bus(..) | Event::Said(..) | Event::GoOn(..) | Event::Stopping(..) => {}
            Event::Net(packet) => self.arrive(packet),
            Event::Center => self.commit(),
            Event::Keep => self.keep(),
            Event::Alerts => self.look_after_alerts(),
            Event::People => self.strike_people(),
            Event::Watch(viewer) => self.watch(viewer),
            Event::Agree(version) => self.agree(version),
            Event::Source(start, step) => self.step_source(start, step),
            Event::Remote => self.strike_remote(),
            Event::Folder => self.strike_folder(),
            Event::GiveBack(no, utility) => self.give_back(no, utility),
            Event::Mishap => self.mishap(),
            Event::SwitchOn(no, logger) => self.gateways[no].loggers[logger].switch_on(self.now_ms),
            Event::StartCenter => self.start_center(),
            Event::ConnectCenter => self.connect_center(),
            Event::Start(no) => self.start(no),
            Event::SetClock(no, booted_ms) => self.set_clock(no, booted_ms),
            Event::Strike => self.strike(),
            Event::StrikeApart(kind) => self.strike_apart(kind),
            Event::Hoard => self.hoard(),
            Event::Spoil => self.spoil(),
            Event::Heal(heal) => self.heal(heal),
            Event::BackUp => self.back_up(),
        }
    }

    pub(super) fn is_current(&self, no: usize, generation: u64) -> bool {
        self.gateways[no].generation == generation && self.gateways[no].process.is_some()
    }

    /// The machine is switched on at `at_ms`; its agent starts soon after.
    pub fn boot(&mut self, no: usize, at_ms: u64) {
        let drift_ppm =
            if self.plan.has(Mischief::Drift) { self.rng.within(0, 400).cast_signed() - 200 } else { 0 };
        let starts_in_1970 = !self.is_good && self.plan.has(Mischief::Boot1970) && self.rng.one_in(2);
        let clock = if starts_in_1970 {
            self.oracle.note_odd_clock(no);
            Clock::booted(at_ms, -truth(at_ms).0, false, drift_ppm)
        } else {
            Clock::booted(at_ms, 0, true, drift_ppm)
        };
        self.gateways[no].boot(clock);
        if starts_in_1970 {
            let learns_ms = at_ms + self.rng.within(1_000, 300_000);
            self.push(learns_ms, Event::SetClock(no, at_ms));
        }
        let waits_ms = self.rng.within(1_000, 10_000);
        self.push(at_ms + waits_ms, Event::Start(no));
    }

    fn set_clock(&mut self, no: usize, booted_ms: u64) {
        let mut clock = self.gateways[no].clock.get();
        if clock.booted_ms == booted_ms {
            clock.set(self.now_ms, 0);
            self.gateways[no].clock.set(clock);
            self.wake_soon(no);
        }
    }

    /// A step of the clock is seen at the agent's next look at it.
    pub fn wake_soon(&mut self, no: usize) {
        let generation = self.gateways[no].generation;
        self.wakes[no] = self.now_ms;
        self.push(self.now_ms, Event::Wake(no, generation));
    }

    fn start(&mut self, no: usize) {
        let now_ms = self.now_ms;
        let is_off = self.gateways[no].clock.get().booted_ms > now_ms;
        // A start that was set before the machine went off is followed by the one of its boot.
        if self.gateways[no].process.is_some() || is_off || self.is_over {
            return;
        }
        let started = self.gateways[no].start(now_ms);
        // What dies while its outbox is opened may have written down that it began.
        self.oracle.note_start(no, &self.gateways[no], now_ms);
        if self.has_died(no) {
            return;
        }
        let stalled_ms = match started {
            Ok(stalled_ms) => stalled_ms,
            Err(error) => {
                return self.oracle.find("availability", format!("an agent does not start: {error}"));
            }
        };
        tracing::info!(at_ms = now_ms, gateway = no, "starts");
        let generation = self.gateways[no].generation;
        for bus in 0..self.gateways[no].buses() {
            self.push(now_ms + stalled_ms, Event::Bus(no, generation, bus));
        }
        self.wakes[no] = u64::MAX;
        if stalled_ms > 0 {
            self.stand_still(no, stalled_ms, Vec::new());
        }
        self.tell(no, |_| Ok(()));
    }

    fn turn_bus(&mut self, no: usize, bus: usize) {
        let generation = self.gateways[no].generation;
        if self.gateways[no].queue.blocks(bus) {
            return self.oracle.note_blocked(no, bus, self.now_ms);
        }
        let Some(told) = self.gateways[no].turn_bus(bus, self.now_ms) else { return };
        for (at_ms, event) in told.events {
            self.push(at_ms, Event::Said(no, generation, bus, event));
        }
        if let Some(next_ms) = told.next_ms {
            self.push(next_ms, Event::Bus(no, generation, bus));
        }
    }

    pub(super) fn carry_out(&mut self, no: usize, effect: Effect) {
        let (party, now_ms) = (Party::Gateway(no), self.now_ms);
        let path = self.gateways[no].path.clone();
        let sent = match effect {
            Effect::Connect { connection, will } => {
                self.gateways[no].connection = Some(connection);
                self.net.connect(party, u64::from(connection.0), (path.up(Up::State), will, false), now_ms)
            }
            Effect::Disconnect => {
                let Some(connection) = self.gateways[no].connection.take() else { return };
                self.net.hang_up(party, u64::from(connection.0), now_ms)
            }
            Effect::Publish { connection, kind, payload } => {
                match kind {
                    Up::Data => self.note_frame_sent(no),
                    Up::State => self.note_state_sent(no, &payload),
                    Up::Catalog | Up::Reply => {}
                }
                self.net.publish(party, u64::from(connection.0), (path.up(kind), payload, false), now_ms)
            }
            Effect::Goodbye { connection, payload } => {
                let session = u64::from(connection.0);
                let mut sent = self.net.publish(party, session, (path.up(Up::State), payload, false), now_ms);
                sent.extend(self.net.part(party, session, now_ms));
                sent
            }
            Effect::PollNow { device, .. } => {
                self.oracle.histories[no].paused.note_poll_asked(device, now_ms);
                self.command(no, device, BusCommand::PollNow(device));
                Vec::new()
            }
            Effect::ReadHistory { command, device, range } => {
                self.note_history_asked(no);
                self.oracle.note_question(no, &self.gateways[no], (command, device, range), now_ms);
                self.command(no, device, BusCommand::ReadHistory { command, device, range });
                Vec::new()
            }
            Effect::Pause { command, device, paused } => {
                self.command(no, device, BusCommand::Pause { command, device, paused });
                Vec::new()
            }
        };
        self.send(sent);
    }

    /// Tells the bus of a device something.
    fn command(&mut self, no: usize, device: DeviceIndex, command: BusCommand) {
        let bus = self.gateways[no].bus_of(device).expect("the engine knows its devices");
        self.gateways[no].command(bus, command);
    }

    fn arrive(&mut self, packet: Packet) {
        let now_ms = self.now_ms;
        match packet {
            Packet::AtBroker { topic, payload, retain } => {
                let to = self.who_wants(&topic);
                let sent = self.net.route(&topic, &payload, retain, &to, now_ms);
                self.send(sent);
            }
            Packet::AtClient { to: Party::Center, session, topic, payload, .. } => {
                let is_taken = self.center.session == session
                    && self.center.committer.is_some()
                    && self.center.take(topic, payload, now_ms);
                if is_taken {
                    self.center_soon();
                }
            }
            Packet::AtClient { to: Party::Gateway(no), session, topic, payload, retained } => {
                let connection = connection_of(session);
                let payload = payload.into();
                self.mqtt(no, MqttEvent::Message { connection, topic, payload, retained });
            }
            Packet::Opened { to: Party::Gateway(no), session } => {
                self.mqtt(no, MqttEvent::Connected(connection_of(session)));
            }
            Packet::Closed { to: Party::Gateway(no), session } => {
                self.mqtt(no, MqttEvent::Disconnected(connection_of(session), "closed".to_owned()));
            }
            Packet::Opened { to: Party::Center, session } if session == self.center.session => {
                self.center.begin_session(now_ms);
                let said = self.center.presence(true);
                let sent = self.net.publish(Party::Center, session, said, now_ms);
                self.send(sent);
            }
            Packet::Closed { to: Party::Center, session } if session == self.center.session => {
                self.center.hears = false;
                let waits_ms = self.rng.below(RECONNECT_MS);
                self.push(now_ms + waits_ms, Event::ConnectCenter);
            }
            Packet::Opened { .. } | Packet::Closed { .. } => {}
            Packet::Dropped { of, session } => {
                let sent = self.net.drop_session(of, session, now_ms);
                self.send(sent);
            }
        }
    }

    /// The collector commits soon, as something waits.
    pub(super) fn center_soon(&mut self) {
        if !self.center_is_due {
            self.center_is_due = true;
            self.push(self.now_ms + GATHER_MS, Event::Center);
        }
    }

    fn who_wants(&self, topic: &str) -> Vec<Party> {
        if topic.starts_with("gapless/v1/collectors/") {
            return (0..self.gateways.len()).map(Party::Gateway).collect();
        }
        if AgentPath::parse_up(topic).is_some() {
            return vec![Party::Center];
        }
        let of = |gateway: &Gateway| topic.starts_with(&format!("gapless/v1/{}/down/", gateway.path));
        self.gateways.iter().position(of).map(Party::Gateway).into_iter().collect()
    }

    fn start_center(&mut self) {
        if self.center.committer.is_none() {
            self.center.start(self.now_ms);
            self.start_sources();
            self.connect_center();
        }
    }

    fn connect_center(&mut self) {
        if self.center.committer.is_none() {
            return;
        }
        self.sessions += 1;
        self.center.session = self.sessions;
        let will = self.center.presence(false);
        let sent = self.net.connect(Party::Center, self.sessions, will, self.now_ms);
        self.send(sent);
    }

    /// The collector is killed, and started again later.
    pub fn kill_center(&mut self) {
        let waits_ms = self.rng.within(1_000, 120_000);
        self.kill_center_for(waits_ms);
    }

    /// The same, for so long.
    pub(super) fn kill_center_for(&mut self, waits_ms: u64) {
        let session = self.center.session;
        self.center.kill();
        self.end_sources();
        self.note_forgotten();
        let sent = self.net.hang_up(Party::Center, session, self.now_ms);
        self.send(sent);
        self.push(self.now_ms + waits_ms, Event::StartCenter);
    }

    fn commit(&mut self) {
        self.center_is_due = false;
        let (dies, session) = (self.death.take(), self.center.session);
        let turn = self.center.turn(dies, self.now_ms);
        self.check_gaps();
        if turn.has_failed {
            self.sometimes.reach(Rare::CommitFailed);
            self.center_is_due = true;
            return self.push(self.now_ms + self.plan.again_ms, Event::Center);
        }
        match dies.filter(|_| self.center.committer.is_none()) {
            Some(Death::BeforeCommit) => self.sometimes.reach(Rare::DiedBeforeCommit),
            Some(Death::BeforeAnswer) => self.sometimes.reach(Rare::DiedBeforeAnswer),
            None if self.center.has_parked() => self.sometimes.reach(Rare::Parked),
            None => {}
        }
        for message in &turn.committed {
            trace_state(self.now_ms, &message.topic, &message.payload);
            self.note_committed(&message.topic, &message.payload);
            self.note_source(&message.topic, &message.payload);
        }
        for (topic, payload) in turn.answers {
            self.oracle.check_answer(&topic, &payload);
            self.check_command(&payload);
            let sent = self.net.publish(Party::Center, session, (topic, payload, false), self.now_ms);
            self.send(sent);
        }
        self.note_forgotten();
        if self.center.committer.is_none() {
            self.kill_center();
        } else if !self.center.is_idle() {
            self.center_is_due = true;
            self.push(self.now_ms + 1, Event::Center);
        }
    }

    /// What was acknowledged and not committed shows when the collector is killed.
    pub(super) fn note_forgotten(&mut self) {
        for what in std::mem::take(&mut self.center.forgotten) {
            self.oracle.find("acknowledged only what is committed", what);
        }
    }

    fn note_committed(&mut self, topic: &str, payload: &[u8]) {
        let Some((path, kind)) = AgentPath::parse_up(topic) else { return };
        let Some(no) = self.gateways.iter().position(|gateway| gateway.path == path) else { return };
        if kind == Up::State
            && let Ok(Message::State(state)) = wire::decode(payload)
        {
            self.note_state(no, &state);
        }
        if kind != Up::Data {
            return;
        }
        let Some(header) = wire::peek(payload).ok().and_then(|header| header.data) else { return };
        let (first, last) = (header.first.0, header.first.0 + header.count - 1);
        trace_frame(self.now_ms, no, payload);
        let log = &mut *tap::lock(&self.gateways[no].log);
        let ever = log.committed.entry(header.epoch).or_default();
        self.sometimes.note_frame(ever, first, last);
        ever.insert(first, last);
        self.oracle.note_committed(no, header.epoch, first, last);
    }

    /// The process is killed.
    pub fn kill(&mut self, no: usize) {
        if self.gateways[no].process.is_some() {
            self.end_killed(no);
        }
    }

    fn end_killed(&mut self, no: usize) {
        self.oracle.note_end(no, &self.gateways[no], Stop::Killed, self.now_ms);
        self.lose_process(no, End::Killed);
    }

    /// The machine loses its power.
    pub fn go_dark(&mut self, no: usize) {
        use gapless_agent::outbox::memory_disk::PowerCut::{KeepNothing, KeepPrefix, KeepSectors};
        let cut = *self.rng.pick(&[KeepNothing, KeepPrefix, KeepSectors]);
        tracing::info!(at_ms = self.now_ms, gateway = no, ?cut, "goes dark");
        self.oracle.note_end(no, &self.gateways[no], Stop::PowerCut, self.now_ms);
        self.lose_process(no, End::PowerCut(cut));
    }

    /// Whether the power went in an operation of the disk, or the process was killed in it; then it is gone.
    pub(super) fn has_died(&mut self, no: usize) -> bool {
        let Some(how) = self.gateways[no].has_died() else { return false };
        if how == Stop::Killed {
            self.sometimes.reach(Rare::KilledAtWrite);
            self.end_killed(no);
            self.restart(no, 60_000);
        } else {
            self.sometimes.reach(Rare::DiedAtWrite);
            self.power_off(no);
        }
        true
    }

    /// The machine loses its power, and has it again later.
    pub fn power_off(&mut self, no: usize) {
        self.go_dark(no);
        let at_ms = self.now_ms + self.rng.within(1_000, 120_000);
        self.boot(no, at_ms);
    }

    fn lose_process(&mut self, no: usize, end: End) {
        self.gateways[no].end(end);
        if let Some(connection) = self.gateways[no].connection.take() {
            let sent = self.net.hang_up(Party::Gateway(no), u64::from(connection.0), self.now_ms);
            self.send(sent);
        }
    }

    /// The agent is started again, soon.
    pub fn restart(&mut self, no: usize, within_ms: u64) {
        let at_ms = self.now_ms + START_MS + self.rng.below(within_ms.max(1));
        self.push(at_ms, Event::Start(no));
    }
}

/// What of a committed frame is no reading, for whoever looks into a run.
fn trace_frame(at_ms: u64, no: usize, payload: &[u8]) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    if let Ok(Message::Data(frame)) = wire::decode(payload) {
        let others = (frame.first.0..).zip(&frame.records);
        let others = others.filter(|(_, record)| !matches!(record, Record::Readings(_) | Record::Catalog(_)));
        let others: Vec<_> = others.collect();
        let last = frame.first.0 + frame.records.len() as u64 - 1;
        tracing::debug!(at_ms, gateway = no, epoch = %frame.epoch, first = frame.first.0, last, ?others, "committed");
    }
}

/// What an agent said of itself, and when that was taken, for whoever looks into a run.
fn trace_state(at_ms: u64, topic: &str, payload: &[u8]) {
    if tracing::enabled!(tracing::Level::DEBUG)
        && let Ok(Message::State(state)) = wire::decode(payload)
    {
        tracing::debug!(at_ms, topic, ?state, "taken");
    }
}

fn connection_of(session: u64) -> ConnectionId {
    ConnectionId(u32::try_from(session).unwrap_or_default())
}

fn gateway(planned: &Planned, has_bad_answers: bool, rng: &mut Rng) -> Gateway {
    let config = &planned.config;
    let path = AgentPath { site: config.site.clone(), agent: config.agent.clone() };
    let lines = config.buses.iter().map(|bus| line((bus, &planned.profiles), has_bad_answers, rng)).collect();
    let loggers = planned.loggers.iter().zip(&config.loggers);
    let loggers = loggers.map(|(setup, configured)| SimLogger::new(setup, configured)).collect();
    Gateway::new(path, config.clone(), (lines, loggers), rng)
}

fn line((bus, profiles): (&Bus, &ProfileSet), has_bad_answers: bool, rng: &mut Rng) -> SimLine {
    let wire = match &bus.link {
        Link::Serial(port) => {
            let chunk_ms = rng.one_in(3).then_some(16);
            Wire::Serial { baud: port.baud, character_bits: port.character_bits(), chunk_ms }
        }
        Link::Tcp(endpoint) if endpoint.framing == TcpFraming::Rtu => Wire::SerialServer,
        Link::Tcp(_) => Wire::Mbap,
    };
    let timeout_ms = bus.devices.iter().map(|device| device.timeout_ms).max().unwrap_or_default();
    let share = u32::try_from(rng.within(5, 100)).expect("small");
    let setup = Setup {
        wire,
        units: bus.devices.iter().map(|device| (device.unit, kind(device, profiles))).collect(),
        turnaround_us: (500, 20_000),
        // There and back in two pieces within the 50 ms that the driver lets a serial server and the network have.
        latency_us: rng.within(100, 16_000),
        began_ms: super::clock::BEGAN_MS,
        seed: rng.draw(),
        chances: if has_bad_answers { Chances::of_every_kind(share, timeout_ms) } else { Chances::none() },
    };
    SimLine::new(&setup).expect("the made-up meter can be laid out")
}

fn kind(device: &Device, profiles: &ProfileSet) -> DeviceKind {
    let profile = device.profile.as_deref().and_then(|id| profiles.get(id));
    DeviceKind::Profile(Box::new(profile.expect("a drawn device has a drawn profile").clone()))
}
