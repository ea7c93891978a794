//! How a device or an agent stands, from what the collector knows of it.

use gapless_common::message::OutboxFill;
use gapless_common::planted::{self, Bug};
use gapless_common::quality::{Cause, Quality};
use gapless_common::text::format_duration_ms;
use gapless_common::time::Timestamp;

use super::absence::{Absence, present_ms};
use super::limits::Limits;
use super::{Kind, Stand};

/// An outbox is well again so many percent below its limit.
const OUTBOX_ROOM_PERCENT: i64 = 10;

/// What is known of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceFacts {
    /// Whether it is looked after at all: an agent owes its slots, and it was not stopped. Of what is not nothing is told
    /// but [`Kind::Unauthorised`] and [`Kind::Suspended`].
    pub is_collected: bool,
    /// Whether its agent is connected, or was a moment ago. While it is not, the agent is what people are told of.
    pub agent_is_there: bool,
    /// Since when the collector has been listening.
    pub listening_since: Timestamp,
    /// When its agent was away, in order; what it is up to now is among it.
    pub away: Vec<Absence>,
    /// Since when it is to deliver: when it was announced, or a person let it go on.
    pub commissioned_at: Timestamp,
    /// The time of its latest reading.
    pub last_reading_at: Option<Timestamp>,
    /// How old that may be, in ms.
    pub allowed_ms: i64,
    /// Why its newest slot was polled in vain, where it was.
    pub missed: Option<Cause>,
    /// Why the collector could not ask its source when it last tried, where that is so.
    pub failing: Option<String>,
    /// Slots of its largest gap that is news.
    pub gap_slots: i64,
    /// Since when and why its source does not let it be read, where that is so.
    pub unauthorised: Option<(String, String)>,
    /// Since when and why its source cannot reach it, where that is so.
    pub unreachable: Option<(String, String)>,
    /// Why it is suspended, where it is.
    pub suspended: Option<String>,
    /// The newest readings of each channel, the last one first.
    pub channels: Vec<ChannelFacts>,
}

/// The newest readings of a channel, the last one first.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelFacts {
    /// Its name.
    pub channel: String,
    /// Least and greatest that it can be, where its catalog says so (its attribute `valid`).
    pub valid: Option<(f64, f64)>,
    /// Value and quality.
    pub newest: Vec<(Option<f64>, Quality)>,
}

/// What is known of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentFacts {
    /// Whether it owes anything: of one that was replaced nothing is told.
    pub owes: bool,
    /// Since when it has been gone; `None` while it is there.
    pub gone_since: Option<Timestamp>,
    /// When nobody could be heard, since the broker was away, in order; what it is up to now is among it.
    pub unheard: Vec<Absence>,
    /// How full its outbox is; where it has said.
    pub outbox: Option<OutboxFill>,
    /// How far its clock is ahead (or, negative, behind), in ms; where it has said, see [`clock`](super::clock).
    pub clock_off_ms: Option<i64>,
    /// Whether its clock is set; where it has said.
    pub clock_set: Option<bool>,
}

/// How a device stands, kind by kind. What is switched off is within its limits.
#[must_use]
pub fn device(facts: &DeviceFacts, limits: &Limits, now: Timestamp) -> Vec<(Kind, Stand)> {
    let (stale, silent) = fresh(facts, limits, now);
    let stands = [
        (Kind::Stale, stale),
        (Kind::Silent, silent),
        (Kind::Gap, gap(facts, limits)),
        (Kind::Unauthorised, unauthorised(facts)),
        (Kind::Unreachable, unreachable(facts)),
        (Kind::NoData, no_data(facts, limits, now)),
        (Kind::Suspended, suspended(facts)),
        (Kind::Implausible, implausible(facts, limits)),
        (Kind::Flat, flat(facts, limits)),
    ];
    let holds = |kind: Kind| {
        facts.is_collected
            || match kind {
                Kind::Unauthorised | Kind::Suspended => true,
                Kind::NoData => facts.suspended.is_some(),
                _ => false,
            }
    };
    stands
        .into_iter()
        .map(|(kind, stand)| (kind, only(holds(kind) && !limits.off.contains(&kind), stand)))
        .collect()
}

/// Whether a device is to be asked no more: nothing has come for so long since it was commissioned.
#[must_use]
pub fn is_to_suspend(facts: &DeviceFacts, limits: &Limits, now: Timestamp) -> bool {
    // What its agent holds may still be on its way.
    let listened_ms = now.since_ms(facts.listening_since);
    // Nothing could come while its agent was away.
    let there_ms = present_ms(facts.commissioned_at, now, &facts.away);
    facts.is_collected
        && facts.agent_is_there
        && facts.last_reading_at.is_none()
        && !limits.off.contains(&Kind::Suspended)
        && there_ms >= limits.suspend_ms
        && listened_ms >= limits.stale_ms.min(limits.suspend_ms)
}

/// How the collector itself stands, whose broker has been away since then.
#[must_use]
pub fn collector(unheard_since: Option<Timestamp>, limits: &Limits, now: Timestamp) -> Vec<(Kind, Stand)> {
    let stand = match unheard_since.map(|since| now.since_ms(since)) {
        None => Stand::Within,
        Some(_) if planted::has(Bug::BrokerUntold) => Stand::Between,
        Some(ms) if ms >= limits.silent_ms => Stand::Beyond(format!(
            "the broker has been away for {}: no agent is heard before it is back, and nothing is told of any",
            long(ms)
        )),
        Some(_) => Stand::Between,
    };
    vec![(Kind::Broker, only(!limits.off.contains(&Kind::Broker), stand))]
}

/// How an agent stands, kind by kind.
#[must_use]
pub fn agent(facts: &AgentFacts, limits: &Limits, now: Timestamp) -> Vec<(Kind, Stand)> {
    let stands = [
        (Kind::Silent, gone(facts, limits, now)),
        (Kind::Outbox, outbox(facts, limits)),
        (Kind::Clock, clock(facts, limits)),
    ];
    stands
        .into_iter()
        .map(|(kind, stand)| (kind, only(facts.owes && !limits.off.contains(&kind), stand)))
        .collect()
}

fn only(holds: bool, stand: Stand) -> Stand {
    if holds { stand } else { Stand::Within }
}

fn long(ms: i64) -> String {
    // To the second, or to the minute where it is hours: nobody reads milliseconds.
    let unit = if ms >= 7_200_000 { 60_000 } else { 1_000 };
    format_duration_ms((ms.max(0) / unit * unit).unsigned_abs())
}

/// Stale and silent are one fact with two causes: the device does not answer, or what it answered is not here.
fn fresh(facts: &DeviceFacts, limits: &Limits, now: Timestamp) -> (Stand, Stand) {
    // Of a device that has never sent anything `NoData` tells.
    let Some(last) = facts.last_reading_at else { return (Stand::Within, Stand::Within) };
    let age_ms = now.since_ms(last);
    if age_ms < facts.allowed_ms {
        return (Stand::Within, Stand::Within);
    }
    let is_told = facts.unreachable.is_some() && !limits.off.contains(&Kind::Unreachable);
    if !facts.agent_is_there || is_told {
        return (Stand::Between, Stand::Between);
    }
    let since = last.plus_ms(facts.allowed_ms).max(facts.listening_since);
    let over_ms = present_ms(since, now, &facts.away);
    let age = long(age_ms);
    match (facts.missed, &facts.failing) {
        (Some(cause), failing) if over_ms >= limits.silent_ms => {
            let why =
                failing.as_ref().map_or_else(String::new, |why| format!("; the last try failed: {why}"));
            (Stand::Between, Stand::Beyond(format!("it has not answered for {age}: {cause}{why}")))
        }
        (None, failing) if over_ms >= limits.stale_ms => {
            let allowed = long(facts.allowed_ms);
            let why =
                failing.as_ref().map_or_else(String::new, |why| format!("; the last try failed: {why}"));
            let words = format!("its latest reading is {age} old; {allowed} is allowed{why}");
            (Stand::Beyond(words), Stand::Between)
        }
        _ => (Stand::Between, Stand::Between),
    }
}

fn gap(facts: &DeviceFacts, limits: &Limits) -> Stand {
    let words = |slots| format!("a gap of {slots} slots");
    match facts.gap_slots {
        slots if slots > limits.gap_slots => Stand::Beyond(words(slots)),
        // A gap that is being filled is cut on the way.
        slots if slots > limits.gap_slots / 2 => Stand::Still(words(slots)),
        _ => Stand::Within,
    }
}

fn unauthorised(facts: &DeviceFacts) -> Stand {
    match &facts.unauthorised {
        Some((since, why)) => {
            Stand::Beyond(format!("its source does not let it be read since {since}: {why}"))
        }
        None => Stand::Within,
    }
}

fn unreachable(facts: &DeviceFacts) -> Stand {
    match &facts.unreachable {
        Some((since, why)) => Stand::Beyond(format!("its source has not reached it since {since}: {why}")),
        None => Stand::Within,
    }
}

fn no_data(facts: &DeviceFacts, limits: &Limits, now: Timestamp) -> Stand {
    if facts.suspended.is_some() {
        // It is not over: it has come to that.
        return Stand::Between;
    }
    let since_ms = now.since_ms(facts.commissioned_at);
    if facts.last_reading_at.is_some() || since_ms < limits.warn_ms {
        return Stand::Within;
    }
    Stand::Beyond(format!("nothing has come of it since it was commissioned, {} ago", long(since_ms)))
}

fn suspended(facts: &DeviceFacts) -> Stand {
    let why = facts.suspended.as_ref();
    why.map_or(Stand::Within, |why| {
        Stand::Beyond(format!("it is not asked any more: {why}; resume it to go on"))
    })
}

fn implausible(facts: &DeviceFacts, limits: &Limits) -> Stand {
    let polls = usize::try_from(limits.implausible_polls).unwrap_or(usize::MAX);
    if polls == 0 {
        return Stand::Within;
    }
    let is_wrong =
        |channel: &ChannelFacts, (value, quality): &(Option<f64>, Quality)| match (value, channel.valid) {
            _ if *quality == Quality::BadOutOfRange => true,
            (Some(value), Some((least, greatest))) => !(least..=greatest).contains(value),
            _ => false,
        };
    let wrong = |channel: &&ChannelFacts| {
        let newest = channel.newest.iter().take(polls);
        newest.filter(|reading| is_wrong(channel, reading)).count()
    };
    let beyond: Vec<&str> =
        facts.channels.iter().filter(|c| wrong(c) == polls).map(|c| c.channel.as_str()).collect();
    if !beyond.is_empty() {
        return Stand::Beyond(format!("out of range for {polls} polls: {}", beyond.join(", ")));
    }
    if facts.channels.iter().any(|channel| wrong(&channel) > 0) { Stand::Between } else { Stand::Within }
}

fn flat(facts: &DeviceFacts, limits: &Limits) -> Stand {
    let polls = usize::try_from(limits.flat_polls).unwrap_or(usize::MAX);
    if polls < 2 {
        return Stand::Within;
    }
    let moving = facts.channels.iter().filter(|channel| limits.moves.contains(&channel.channel));
    let is_flat = |channel: &&ChannelFacts| {
        let newest = channel.newest.iter().take(polls).map(|(value, _)| *value);
        let same = newest.take_while(|value| value.is_some() && *value == channel.newest[0].0);
        same.count() == polls
    };
    let flat: Vec<&str> = moving.filter(is_flat).map(|channel| channel.channel.as_str()).collect();
    if flat.is_empty() {
        let moves = |channel: &ChannelFacts| {
            let mut newest = channel.newest.iter().take(polls).filter_map(|(value, _)| *value);
            newest.next().is_some_and(|first| newest.any(|value| value.to_bits() != first.to_bits()))
        };
        let mut watched = facts.channels.iter().filter(|channel| limits.moves.contains(&channel.channel));
        // Too few values to say: what was flat is not over.
        return if watched.all(moves) { Stand::Within } else { Stand::Between };
    }
    Stand::Beyond(format!("the same value for {polls} polls: {}", flat.join(", ")))
}

fn gone(facts: &AgentFacts, limits: &Limits, now: Timestamp) -> Stand {
    let Some(since) = facts.gone_since else { return Stand::Within };
    if present_ms(since, now, &facts.unheard) >= limits.silent_ms && !planted::has(Bug::AgentUntold) {
        return Stand::Beyond(format!("the agent has been gone for {}", long(now.since_ms(since))));
    }
    Stand::Between
}

fn outbox(facts: &AgentFacts, limits: &Limits) -> Stand {
    let Some(fill) = facts.outbox else { return Stand::Within };
    let percent = i64::try_from(fill.percent()).unwrap_or(i64::MAX);
    match percent {
        _ if percent >= limits.outbox_percent => {
            Stand::Beyond(format!("{percent} % of its outbox is full of what it could not deliver"))
        }
        _ if percent > limits.outbox_percent - OUTBOX_ROOM_PERCENT => Stand::Between,
        _ => Stand::Within,
    }
}

fn clock(facts: &AgentFacts, limits: &Limits) -> Stand {
    if facts.clock_set == Some(false) {
        return Stand::Beyond("its clock is not set".to_owned());
    }
    let Some(off_ms) = facts.clock_off_ms else { return Stand::Within };
    let way = if off_ms > 0 { "ahead of" } else { "behind" };
    match off_ms.saturating_abs() {
        ms if ms >= limits.clock_ms => {
            Stand::Beyond(format!("its clock is {} {way} the collector's", long(ms)))
        }
        ms if ms >= limits.clock_ms / 2 => Stand::Between,
        _ => Stand::Within,
    }
}

#[cfg(test)]
mod tests;
