//! What is done to a site in a chaos run, and when: a schedule that follows from a seed and a length alone. Pure;
//! carrying it out is [`havoc`](crate::havoc)'s business.
//!
//! Six lanes run side by side, so that troubles meet: the agent and its disk, the broker, the collector and its disk,
//! each of the two links, the devices. Within a lane one thing happens at a time. A lane goes through rounds; in each
//! round it does everything it knows once, in an order of its own, with calm between.

use std::fmt;

use gapless_simulators::truth::mix;

use crate::proxy::{Mood, Way};

/// One thing done to a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mischief {
    /// SIGKILL; started again at the end.
    KillAgent,
    /// SIGSTOP; SIGCONT at the end.
    FreezeAgent,
    /// The disk of the outbox is full.
    FillOutbox,
    /// It is full while the agent is killed and started again at once.
    FillOutboxAndRestart,
    /// The agent is killed and started again on an outbox that is read-only.
    RestartReadOnly,
    /// The file system finds an error in itself and takes no write any more; put back at the end.
    FailOutbox,
    /// SIGKILL; started again at the end.
    KillBroker,
    /// SIGSTOP; SIGCONT at the end.
    FreezeBroker,
    /// SIGKILL; started again at the end.
    KillCollector,
    /// SIGSTOP; SIGCONT at the end.
    FreezeCollector,
    /// The disk of the database is full.
    FillCollector,
    /// The agent's link to the broker misbehaves.
    AgentLink(Mood),
    /// The collector's link to the broker misbehaves.
    CollectorLink(Mood),
    /// The pty is gone, its path with it.
    UnplugLine,
    /// Nobody listens at the TCP endpoint with this number.
    UnplugTcp(usize),
    /// This device of the site does not answer.
    Silence(usize),
    /// This device restarts: it is silent meanwhile and has forgotten its counters.
    RestartDevice(usize),
    /// What this device answers is damaged on the way.
    Garble(usize),
}

impl fmt::Display for Mischief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What happens when, from the begin of the run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strike {
    /// Its begin.
    pub at_ms: u64,
    /// How long.
    pub lasts_ms: u64,
    /// What.
    pub what: Mischief,
}

/// What can be done to the site at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Means {
    /// Its devices.
    pub devices: usize,
    /// Its TCP endpoints.
    pub endpoints: usize,
    /// Outbox and database have small disks.
    pub disks: bool,
    /// The outbox's can fail while in use.
    pub failing_disk: bool,
}

/// A run of this length or shorter has one round in each lane.
const ROUND_MS: u64 = 120_000;
/// Least calm before each strike.
const CALM_MS: u64 = 1_500;
/// In a run of more than one round freezes last up to so many times as long: longer than every keep-alive.
const LONG_FREEZE: u64 = 3;

/// Every strike of a run, by its begin.
#[must_use]
pub fn schedule(seed: u64, length_ms: u64, means: Means) -> Vec<Strike> {
    let rounds = (length_ms / ROUND_MS).max(1);
    let stretch = if rounds > 1 { LONG_FREEZE } else { 1 };
    let mut strikes = Vec::new();
    for (number, lane) in (0..).zip(lanes(means)) {
        let mut dice = Dice(mix(&[seed, number]));
        for round in 0..rounds {
            let (from, to) = (length_ms * round / rounds, length_ms * (round + 1) / rounds);
            strikes.extend(play(&lane, (from, to), stretch, &mut dice));
        }
    }
    strikes.sort_by_key(|strike| strike.at_ms);
    strikes
}

/// Kinds of mischief of one lane, each with its least and greatest length in ms.
type Lane = Vec<(Kind, (u64, u64))>;

/// A mischief, or a choice of one.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Just(Mischief),
    AnyDevice(fn(usize) -> Mischief),
    AnyEndpoint,
    AgentLink(LinkKind),
    CollectorLink(LinkKind),
}

#[derive(Debug, Clone, Copy)]
enum LinkKind {
    Stalled,
    HalfClosed,
    Down,
    Cut,
    Slow,
}

fn lanes(means: Means) -> Vec<(Lane, Means)> {
    let just = |what, range| (Kind::Just(what), range);
    let mut agent =
        vec![just(Mischief::KillAgent, (500, 5_000)), just(Mischief::FreezeAgent, (5_000, 20_000))];
    let mut collector =
        vec![just(Mischief::KillCollector, (500, 8_000)), just(Mischief::FreezeCollector, (5_000, 20_000))];
    if means.disks {
        agent.push(just(Mischief::FillOutbox, (6_000, 14_000)));
        agent.push(just(Mischief::FillOutboxAndRestart, (6_000, 12_000)));
        agent.push(just(Mischief::RestartReadOnly, (6_000, 12_000)));
        collector.push(just(Mischief::FillCollector, (6_000, 14_000)));
    }
    if means.failing_disk {
        // Until the agent has tried the disk once more, five seconds on, it has the old one open.
        agent.push(just(Mischief::FailOutbox, (8_000, 12_000)));
    }
    let broker =
        vec![just(Mischief::KillBroker, (1_000, 12_000)), just(Mischief::FreezeBroker, (4_000, 20_000))];
    let link = |kind: fn(LinkKind) -> Kind| {
        vec![
            (kind(LinkKind::Stalled), (2_000, 18_000)),
            (kind(LinkKind::HalfClosed), (1_000, 10_000)),
            (kind(LinkKind::Down), (500, 8_000)),
            (kind(LinkKind::Cut), (3_000, 10_000)),
            (kind(LinkKind::Slow), (4_000, 15_000)),
        ]
    };
    let field = vec![
        just(Mischief::UnplugLine, (2_000, 12_000)),
        (Kind::AnyEndpoint, (2_000, 10_000)),
        (Kind::AnyDevice(Mischief::Silence), (4_000, 15_000)),
        (Kind::AnyDevice(Mischief::RestartDevice), (1_000, 6_000)),
        (Kind::AnyDevice(Mischief::Garble), (2_000, 8_000)),
    ];
    let lanes = [agent, broker, collector, link(Kind::AgentLink), link(Kind::CollectorLink), field];
    lanes.into_iter().map(|lane| (lane, means)).collect()
}

/// One round of a lane within a stretch of time: everything once, as far as it fits.
fn play((lane, means): &(Lane, Means), (from, to): (u64, u64), stretch: u64, dice: &mut Dice) -> Vec<Strike> {
    let mut order: Vec<usize> = (0..lane.len()).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, dice.index(last + 1));
    }
    let mut drawn: Vec<(u64, Mischief)> =
        order.into_iter().map(|n| draw(lane[n], *means, stretch, dice)).collect();
    let mut busy: u64 = drawn.iter().map(|(lasts, _)| lasts + CALM_MS).sum();
    while busy + CALM_MS > to - from {
        let Some((lasts, _)) = drawn.pop() else { return Vec::new() };
        busy -= lasts + CALM_MS;
    }
    let mut spare = to - from - busy - CALM_MS;
    let mut at_ms = from;
    let mut strikes = Vec::new();
    let count = drawn.len();
    for (n, (lasts_ms, what)) in drawn.into_iter().enumerate() {
        let left = u64::try_from(count - n + 1).unwrap_or(1);
        let calm = dice.between(0, spare * 2 / left);
        spare -= calm;
        at_ms += calm + CALM_MS;
        strikes.push(Strike { at_ms, lasts_ms, what });
        at_ms += lasts_ms;
    }
    strikes
}

fn draw(
    (kind, (least, most)): (Kind, (u64, u64)),
    means: Means,
    stretch: u64,
    dice: &mut Dice,
) -> (u64, Mischief) {
    let what = match kind {
        Kind::Just(what) => what,
        Kind::AnyDevice(kind) => kind(dice.index(means.devices)),
        Kind::AnyEndpoint => Mischief::UnplugTcp(dice.index(means.endpoints)),
        Kind::AgentLink(kind) => Mischief::AgentLink(mood(kind, dice)),
        Kind::CollectorLink(kind) => Mischief::CollectorLink(mood(kind, dice)),
    };
    let is_freeze =
        matches!(what, Mischief::FreezeAgent | Mischief::FreezeBroker | Mischief::FreezeCollector);
    let most = if is_freeze { most * stretch } else { most };
    (dice.between(least, most), what)
}

fn mood(kind: LinkKind, dice: &mut Dice) -> Mood {
    match kind {
        LinkKind::Stalled => Mood::Stalled,
        LinkKind::HalfClosed if dice.index(2) == 0 => Mood::HalfClosed(Way::Up),
        LinkKind::HalfClosed => Mood::HalfClosed(Way::Down),
        LinkKind::Down => Mood::Down,
        // From within the first packet to some frames on.
        LinkKind::Cut => {
            let most = [20, 200, 2_000, 20_000][dice.index(4)];
            Mood::CutAfter(u32::try_from(dice.between(1, most)).unwrap_or(1))
        }
        LinkKind::Slow => Mood::Slow,
    }
}

/// Numbers that look random and follow from a seed.
#[derive(Debug, Clone, Copy)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(&[self.0])
    }

    fn index(&mut self, count: usize) -> usize {
        let count = u64::try_from(count.max(1)).unwrap_or(1);
        usize::try_from(self.roll() % count).unwrap_or(0)
    }

    /// Both ends included.
    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.roll() % (most.saturating_sub(least) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEANS: Means = Means { devices: 5, endpoints: 2, disks: true, failing_disk: true };

    fn name(what: Mischief) -> String {
        let text = what.to_string();
        text.split(['(', ' ']).next().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_seed_says_it_all() {
        let runs: Vec<_> = [1, 1, 2].into_iter().map(|seed| schedule(seed, 110_000, MEANS)).collect();
        assert_eq!(runs[0], runs[1]);
        assert_ne!(runs[0], runs[2]);
    }

    #[test]
    fn all_of_it_is_over_in_time_and_nothing_of_a_lane_overlaps() {
        for (seed, length) in (0..200).flat_map(|seed| [(seed, 110_000), (seed, 1_200_000)]) {
            let strikes = schedule(seed, length, MEANS);
            assert!(strikes.iter().all(|s| s.at_ms + s.lasts_ms <= length), "seed {seed}");
            // The lane of the broker, say.
            let broker: Vec<_> = strikes.iter().filter(|s| name(s.what).ends_with("Broker")).collect();
            assert!(
                broker.windows(2).all(|two| two[0].at_ms + two[0].lasts_ms < two[1].at_ms),
                "seed {seed}"
            );
        }
    }

    #[test]
    fn a_short_run_does_nearly_everything_and_a_long_one_all_of_it() {
        for seed in 0..200 {
            let kinds = |length| {
                let strikes = schedule(seed, length, MEANS);
                strikes.iter().map(|s| name(s.what)).collect::<std::collections::BTreeSet<_>>()
            };
            assert!(kinds(110_000).len() >= 17, "seed {seed}: {:?}", kinds(110_000));
            assert_eq!(kinds(1_200_000).len(), 18, "seed {seed}");
        }
    }

    #[test]
    fn without_disks_nothing_is_done_to_them() {
        let means = Means { disks: false, failing_disk: false, ..MEANS };
        let strikes = schedule(1, 1_200_000, means);
        let touched = ["Fill", "ReadOnly", "Fail"];
        assert!(!strikes.iter().any(|s| touched.iter().any(|word| name(s.what).contains(word))));
        assert!(strikes.iter().any(|s| s.what == Mischief::KillAgent));
    }
}
