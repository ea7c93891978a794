//! What goes wrong, when, and until when: carries out the kinds of bad luck that a plan has. Checks nothing.

use gapless_agent::outbox::memory_disk::Slowness;

use super::center::Death;
use super::clock::MS_NS;
use super::line::fault::Fault;
use super::net::Party;
use super::oracle::Stop;
use super::plan::Mischief;
use super::rng::Rng;
use super::sometimes::Rare;
use super::world::{Event, World};

/// Bits that flip on the disk of a hoarder.
const SPOILED_BITS: u64 = 6;
/// What an operation of a slow disk takes, in ms: at least and at most.
const SLOW_MS: [(u64, u64); 5] =
    [(100, 500), (100, 3_000), (1_000, 8_000), (3_000, 20_000), (20_000, 90_000)];
/// The same under a hoarder: it hangs until the agent's queue is full.
const SLOW_HOARDER_MS: (u64, u64) = (60_000, 180_000);
/// One in so many writes of a slow disk has to wait, too.
const SLOW_WRITES_ONE_IN: u64 = 8;
/// When a hoarder is cut off, and until when, in ms.
const HOARD_MS: (u64, u64) = (90_000, 1_000_000);

/// Something ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heal {
    /// The party's link is there again.
    Link(Party),
    /// The party is heard again.
    Deaf(Party),
    /// The party hears again.
    Mute(Party),
    /// The broker is there again.
    Broker,
    /// The gateway's disk works again.
    Disk(usize),
    /// The gateway's disk is as fast as it was.
    SlowDisk(usize),
    /// The collector's disk has room.
    CenterDisk,
}

impl World {
    /// Sets what a run has from its begin on, and when the first thing goes wrong.
    pub(super) fn begin(&mut self) {
        let parties: Vec<Party> =
            (0..self.gateways.len()).map(Party::Gateway).chain([Party::Center]).collect();
        for party in parties {
            let (loses, repeats, delays) = (
                self.share(Mischief::Losses, 100),
                self.share(Mischief::Repeats, 100),
                self.share(Mischief::Delays, 100),
            );
            let rate = self.plan.has(Mischief::SlowLink).then_some(2_000);
            let link = self.net.link(party);
            (link.loses, link.repeats, link.delays) = (loses, repeats, delays);
            link.rate = rate.filter(|_| party != Party::Center);
        }
        for kind in self.plan.mischief.clone().into_iter().filter(|kind| !kind.strikes()) {
            self.sometimes.strike(kind);
        }
        if self.plan.has(Mischief::CenterClock) {
            self.center.ahead_ms = i64::try_from(self.rng.below(7_200_000)).expect("hours") - 3_600_000;
        }
        if self.plan.is_hoarder {
            self.push(HOARD_MS.0, Event::Hoard);
        }
        for kind in self.plan.mischief.clone().into_iter().filter(|kind| kind.is_apart()) {
            let first_ms = self.apart.wait_ms(self.plan.mean_ms);
            self.push(first_ms, Event::StrikeApart(kind));
        }
        let first_ms = self.rng.wait_ms(self.plan.mean_ms);
        self.push(first_ms, Event::Strike);
        self.push(self.plan.back_up_ms, Event::BackUp);
        self.begin_mishaps();
        self.begin_people();
        self.begin_sources();
        self.begin_agreements();
        self.begin_folder();
    }

    /// Others have filled the first gateway's disk, and its link is cut for as long as its outbox takes to be full.
    pub(super) fn hoard(&mut self) {
        self.oracle.note_disk_fault(0, self.now_ms);
        self.gateways[0].disk.set_capacity(Some(0));
        let sent = self.net.cut(Party::Gateway(0), true, self.now_ms);
        self.send(sent);
        self.push(HOARD_MS.1, Event::Heal(Heal::Link(Party::Gateway(0))));
        if self.rng.one_in(2) {
            let at_ms = self.rng.within(HOARD_MS.0 + 60_000, HOARD_MS.1);
            self.push(at_ms, Event::Spoil);
        }
    }

    /// What nobody has acknowledged rots, and the agent opens it again.
    pub(super) fn spoil(&mut self) {
        self.oracle.note_rot(0, self.now_ms);
        self.kill(0);
        for _ in 0..SPOILED_BITS {
            let seed = self.rng.draw();
            self.gateways[0].rot(seed);
        }
        self.restart(0, 5_000);
    }

    fn share(&mut self, kind: Mischief, most: u64) -> u32 {
        if self.plan.has(kind) { u32::try_from(self.rng.within(1, most)).expect("small") } else { 0 }
    }

    /// From now on nothing goes wrong any more, and what is broken is mended.
    pub(super) fn make_good(&mut self) {
        (self.is_good, self.mended_ms) = (true, self.now_ms);
        self.death = None;
        let parties: Vec<Party> =
            (0..self.gateways.len()).map(Party::Gateway).chain([Party::Center]).collect();
        for party in parties {
            *self.net.link(party) = super::net::Link::default();
        }
        self.heal(Heal::Broker);
        self.heal(Heal::CenterDisk);
        let is_set_back = self.center.ahead_ms > 0;
        self.center.ahead_ms = 0;
        self.sources.iter_mut().for_each(|sources| sources.make_good(is_set_back));
        self.put_right_in_silence();
        self.people.make_good();
        self.viewers.leave_all();
        for no in 0..self.gateways.len() {
            self.heal(Heal::Disk(no));
            self.heal(Heal::SlowDisk(no));
            self.gateways[no].live_on();
            let now_ms = self.now_ms;
            self.gateways[no].grounds.iter_mut().for_each(|ground| ground.line.make_good());
            self.gateways[no].loggers.iter_mut().for_each(|logger| logger.make_good(now_ms));
            let clock = self.gateways[no].clock.get();
            if clock.ahead_ms != 0 || !clock.is_set {
                self.push(self.now_ms + 1, Event::SetClock(no, clock.booted_ms));
            }
            if self.gateways[no].process.is_none() {
                self.restart(no, 1_000);
            }
        }
        if self.center.committer.is_none() {
            self.push(self.now_ms + 1_000, Event::StartCenter);
        }
    }

    pub(super) fn back_up(&mut self) {
        if !self.is_good {
            if self.center.back_up() {
                self.oracle.note_back_up();
                self.note_sources_backed_up(false);
            }
            self.push(self.now_ms + self.plan.back_up_ms, Event::BackUp);
        }
    }

    pub(super) fn strike(&mut self) {
        if self.is_good || self.now_ms >= self.plan.bad_ms {
            return;
        }
        let next_ms = self.now_ms + self.rng.wait_ms(self.plan.mean_ms);
        self.push(next_ms, Event::Strike);
        let kinds: Vec<Mischief> =
            self.plan.mischief.iter().copied().filter(|kind| kind.strikes() && !kind.is_apart()).collect();
        if kinds.is_empty() {
            return;
        }
        let kind = *self.rng.pick(&kinds);
        let no = usize::try_from(self.rng.below(self.gateways.len() as u64)).expect("few");
        tracing::info!(at_ms = self.now_ms, ?kind, gateway = no, "strikes");
        if self.strike_gateway(kind, no) || self.strike_elsewhere(kind, no) {
            self.sometimes.strike(kind);
        }
    }

    pub(super) fn strike_apart(&mut self, kind: Mischief) {
        if self.is_good || self.now_ms >= self.plan.bad_ms {
            return;
        }
        let next_ms = self.now_ms + self.apart.wait_ms(self.plan.mean_ms);
        self.push(next_ms, Event::StrikeApart(kind));
        let no = usize::try_from(self.apart.below(self.gateways.len() as u64)).expect("few");
        tracing::info!(at_ms = self.now_ms, ?kind, gateway = no, "strikes");
        let gateway = &mut self.gateways[no];
        match kind {
            Mischief::CenterDisk => {
                self.center.fill_disk();
                self.ends_apart(Heal::CenterDisk);
            }
            Mischief::KillAtWrite => gateway.dies_in(self.apart.within(1, 12), Stop::Killed),
            Mischief::FailsOnce => gateway.fails_in(self.apart.within(1, 12)),
            Mischief::HalfOpenDown => {
                let party = if self.apart.one_in(4) { Party::Center } else { Party::Gateway(no) };
                let sent = self.net.mute(party, true, self.now_ms);
                self.send(sent);
                self.ends_apart(Heal::Mute(party));
            }
            _ => self.slow_down(no),
        }
        self.sometimes.strike(kind);
    }

    fn ends_apart(&mut self, heal: Heal) {
        let at_ms = self.now_ms + a_while_ms(&mut self.apart, self.plan.bad_ms);
        self.push(at_ms, Event::Heal(heal));
    }

    fn slow_down(&mut self, no: usize) {
        let drawn = *self.apart.pick(&SLOW_MS);
        let takes_ms = if self.plan.is_hoarder { SLOW_HOARDER_MS } else { drawn };
        let slowness = Slowness { takes_ms, writes_one_in: SLOW_WRITES_ONE_IN, seed: self.apart.draw() };
        self.gateways[no].disk.slow_down(Some(slowness));
        self.ends_apart(Heal::SlowDisk(no));
    }

    fn a_while_ms(&mut self) -> u64 {
        a_while_ms(&mut self.rng, self.plan.bad_ms)
    }

    /// Sees to it that something ends, in time.
    fn ends(&mut self, heal: Heal) {
        let at_ms = self.now_ms + self.a_while_ms();
        self.push(at_ms, Event::Heal(heal));
    }

    fn strike_gateway(&mut self, kind: Mischief, no: usize) -> bool {
        let runs = self.gateways[no].process.is_some();
        match kind {
            Mischief::PowerCut if runs => self.power_off(no),
            Mischief::PowerCutAtWrite if runs => {
                let operations = self.rng.within(1, 12);
                self.gateways[no].dies_in(operations, Stop::PowerCut);
            }
            Mischief::KillAgent if runs => {
                self.kill(no);
                self.restart(no, 60_000);
            }
            Mischief::RestartStorm if runs => {
                for _ in 0..self.rng.within(3, 12) {
                    self.kill(no);
                    let until_ms = self.now_ms + self.rng.within(1_000, 4_000);
                    self.restart(no, 1);
                    self.run_on(until_ms);
                }
                if self.gateways[no].process.is_none() {
                    self.restart(no, 1_000);
                }
            }
            Mischief::StopAgent if runs => {
                self.stop(no);
                let at_ms = self.now_ms + 5_000 + self.a_while_ms().min(600_000);
                self.push(at_ms, Event::Start(no));
            }
            Mischief::BitRot => {
                self.oracle.note_rot(no, self.now_ms);
                let seed = self.rng.draw();
                self.gateways[no].rot(seed);
            }
            Mischief::OldImage | Mischief::NewCard => self.replace_disk(kind, no),
            Mischief::DiskFull | Mischief::WritesFail | Mischief::SyncsFail | Mischief::ReadOnly => {
                self.break_disk(kind, no);
            }
            Mischief::ClockStep => self.step_clock(no),
            _ => return false,
        }
        true
    }

    /// A storm takes its own time; everything else goes on in it.
    fn run_on(&mut self, until_ms: u64) {
        self.run(until_ms);
    }

    fn replace_disk(&mut self, kind: Mischief, no: usize) {
        self.go_dark(no);
        self.oracle.note_replaced(no, self.now_ms);
        let image = self.gateways[no].image.take();
        let image = image.filter(|_| kind == Mischief::OldImage);
        let taken = self.gateways[no].disk.copy();
        self.gateways[no].replace_disk(image);
        self.gateways[no].image = Some(taken);
        let at_ms = self.now_ms + self.rng.within(10_000, 300_000);
        self.boot(no, at_ms);
    }

    fn break_disk(&mut self, kind: Mischief, no: usize) {
        self.oracle.note_disk_fault(no, self.now_ms);
        let disk = &self.gateways[no].disk;
        match kind {
            Mischief::DiskFull => disk.set_capacity(Some(0)),
            Mischief::WritesFail => disk.fail_writes(true),
            Mischief::SyncsFail => disk.fail_syncs(true),
            _ => disk.set_read_only(true),
        }
        // Others may take the room for good.
        if kind != Mischief::DiskFull || self.rng.one_in(2) {
            self.ends(Heal::Disk(no));
        }
    }

    fn step_clock(&mut self, no: usize) {
        self.oracle.note_set_wrong(no);
        const YEAR_MS: u64 = 365 * 86_400_000;
        let most = *self.rng.pick(&[1_000, 5_000, 60_000, 3_600_000, 3_600_000, 3 * YEAR_MS]);
        let by_ms = i64::try_from(self.rng.within(300, most)).expect("years");
        let goes_back = self.rng.one_in(2);
        // No kernel takes an instant before 1970.
        let back_ms = by_ms.min(self.gateways[no].now(self.now_ms).wall.0.max(0));
        if goes_back && back_ms > 0 && self.gateways[no].process.is_some() {
            self.sometimes.reach(Rare::ClockBack);
        }
        let mut clock = self.gateways[no].clock.get();
        clock.ahead_ms += if goes_back { -back_ms } else { by_ms };
        self.gateways[no].clock.set(clock);
        self.wake_soon(no);
        let lasts_ms = self.a_while_ms();
        self.push(self.now_ms + lasts_ms, Event::SetClock(no, clock.booted_ms));
    }

    fn strike_elsewhere(&mut self, kind: Mischief, no: usize) -> bool {
        let party = if self.rng.one_in(4) { Party::Center } else { Party::Gateway(no) };
        match kind {
            Mischief::Outage => {
                let sent = self.net.cut(party, true, self.now_ms);
                self.send(sent);
                self.ends(Heal::Link(party));
            }
            Mischief::HalfOpen => {
                let sent = self.net.deafen(party, true, self.now_ms);
                self.send(sent);
                self.ends(Heal::Deaf(party));
            }
            Mischief::TakeOver => {
                let sent = self.net.take_over(Party::Gateway(no), self.now_ms);
                self.send(sent);
            }
            Mischief::BrokerRestart => {
                let forgets = self.rng.one_in(2);
                let sent = self.net.stop_broker(forgets, self.now_ms);
                self.send(sent);
                self.ends(Heal::Broker);
            }
            Mischief::KillCenter => match self.rng.below(3) {
                0 => self.death = Some(Death::BeforeCommit),
                1 => self.death = Some(Death::BeforeAnswer),
                _ if self.center.committer.is_some() => self.kill_center(),
                _ => return false,
            },
            Mischief::Rollback => {
                if self.center.committer.is_some() {
                    self.kill_center();
                }
                if self.center.restore() {
                    self.oracle.note_rollback(self.now_ms);
                    self.note_sources_backed_up(true);
                }
            }
            Mischief::Unplug | Mischief::StuckLine | Mischief::SilentDevice | Mischief::DeviceRestart => {
                self.spoil_line(kind, no);
            }
            _ => return false,
        }
        true
    }

    fn spoil_line(&mut self, kind: Mischief, no: usize) {
        let until_ns = (self.now_ms + self.a_while_ms()) * MS_NS;
        let babbles_until_ns = (self.now_ms + self.rng.within(1_000, 20_000)) * MS_NS;
        let requests = usize::try_from(self.rng.within(2, 40)).expect("few");
        let grounds = &mut self.gateways[no].grounds;
        let bus = usize::try_from(self.rng.below(grounds.len() as u64)).expect("few");
        let units: Vec<u8> =
            self.gateways[no].config.buses[bus].devices.iter().map(|device| device.unit).collect();
        let unit = *self.rng.pick(&units);
        let line = &mut self.gateways[no].grounds[bus].line;
        line.advance(self.now_ms * MS_NS);
        match kind {
            Mischief::Unplug => line.unplug(until_ns),
            Mischief::StuckLine => line.babble(babbles_until_ns),
            Mischief::SilentDevice => line.strike(unit, Fault::Silent, requests),
            _ => line.restart(unit),
        }
    }

    pub(super) fn heal(&mut self, heal: Heal) {
        tracing::info!(at_ms = self.now_ms, ?heal, "heals");
        match heal {
            Heal::Link(party) => {
                self.net.cut(party, false, self.now_ms);
            }
            Heal::Deaf(party) => {
                self.net.deafen(party, false, self.now_ms);
            }
            Heal::Mute(party) => {
                self.net.mute(party, false, self.now_ms);
            }
            Heal::Broker => self.net.start_broker(),
            Heal::Disk(no) => {
                let disk = &self.gateways[no].disk;
                disk.set_capacity(None);
                disk.fail_writes(false);
                disk.fail_syncs(false);
                disk.set_read_only(false);
                self.oracle.note_disk_healed(no, self.now_ms);
            }
            Heal::SlowDisk(no) => self.gateways[no].disk.slow_down(None),
            Heal::CenterDisk => self.center.make_room(),
        }
    }
}

/// A while: mostly minutes, now and then hours, and in long runs days.
fn a_while_ms(rng: &mut Rng, bad_ms: u64) -> u64 {
    let longest = if bad_ms > 86_400_000 { 3 * 86_400_000 } else { 3_600_000 };
    match rng.below(6) {
        0 => rng.within(60_000, longest),
        1 | 2 => rng.within(1_000, 60_000),
        _ => rng.within(10_000, 600_000),
    }
}
