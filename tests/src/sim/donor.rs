//! Whom another device stands in for, in a plan: a device that an agent polls, or collects from a memory, and an API that the
//! collector asks itself, which has recorded some of its channels as well, or something that looks like them and says something
//! else. It is drawn from a stream of its own. What holds of what is lent is `lent`'s.
//!
//! # Not simulated
//! Chains and circles of devices that lend, several that lend one channel, descriptions that change: `collector/tests/donors.rs` has
//! those.

use std::collections::BTreeMap;

use gapless_agent::config::Device;
use gapless_collector::gaps::donate::Donor;
use gapless_common::catalog::{Aggregation, PeriodLabel};
use gapless_common::profile::{AGGREGATIONS, ChannelSpec};
use gapless_common::time::SlotGrid;

use super::api::UTILITIES;
use super::described::Described;
use super::plan::{Planned, Scale};
use super::rng::Rng;
use super::source::Sourcing;

/// One in so many runs has such a device; where one remembers by the minute, that is more often.
const ONE_IN: u64 = 3;
const REMEMBER_ONE_IN: u64 = 2;
const MINUTE_MS: i64 = 60_000;
/// The lines of the shipped description that say what the values of each meter are, and the name of its channel.
const SHIPPED: [(&str, &str); 2] = [
    ("energy", "channel = \"energy\"\nunit = \"kWh\"\nquantity = \"active_energy_import\""),
    ("volume", "channel = \"volume\"\nunit = \"m3\"\nquantity = \"gas_volume\""),
];

/// What the values of the meters of an API say, as far as that is something else than in the shipped description.
#[derive(Debug, Clone, Default)]
pub struct Says([Option<Saying>; 2]);

#[derive(Debug, Clone)]
struct Saying {
    unit: String,
    quantity: String,
    aggregation: Aggregation,
}

impl Says {
    /// Words of the shipped description, and what stands in their place.
    pub(super) fn words(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().zip(SHIPPED).filter_map(|(said, (name, shipped))| {
            let Saying { unit, quantity, aggregation } = said.as_ref()?;
            let word = AGGREGATIONS.iter().find(|(_, known)| known == aggregation)?.0;
            let channel = format!(
                "channels = [{{ name = \"{name}\", value = \"value\", unit = \"{unit}\", quantity = \"{quantity}\", aggregation = \"{word}\" }}]"
            );
            Some((shipped.to_owned(), channel))
        })
    }
}

/// In what a meter says something else than the channel that it looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unlike {
    Unit,
    Quantity,
    Aggregation,
    /// Of periods only: what is of an instant has none.
    Interval,
}

/// Who has recorded a channel, or what looks like it.
#[derive(Debug, Clone)]
pub struct Lender {
    /// The other device.
    pub device: String,
    /// Its values say the same of the same time: they may stand in.
    pub is_alike: bool,
}

/// A device that another one stands in for.
#[derive(Debug, Clone)]
pub struct Donation {
    /// Its site.
    pub site: String,
    /// The device.
    pub device: String,
    /// When it is due.
    pub grid: SlotGrid,
    /// All of its channels.
    pub channels: Vec<String>,
    /// Who has recorded them, by channel.
    pub lenders: BTreeMap<String, Lender>,
    /// What the collector is told of that.
    pub donors: Vec<Donor>,
    /// So many loans are committed in one look of the collector.
    pub loans: usize,
}

impl Donation {
    /// The one of a run that lasts `bad_ms`, where it has one, and the collector's sources with the API that lends.
    #[must_use]
    pub fn draw(
        (scale, bad_ms): (Scale, u64),
        agents: &mut [Planned],
        sourcing: &Option<Sourcing>,
        rng: &mut Rng,
    ) -> Option<(Self, Sourcing)> {
        let (agent, bus, place) = pick(agents, rng)?;
        let site = agents[agent].config.site.to_string();
        let device = &mut agents[agent].config.buses[bus].devices[place];
        let wanted = narrow(device, rng);
        let unlike =
            *rng.pick(&[Unlike::Unit, Unlike::Quantity, Unlike::Aggregation, Unlike::Interval].map(Some));
        let unlike = unlike.filter(|_| rng.one_in(2));
        let of_which = usize::from(wanted.len() > 1 && rng.one_in(2));
        let interval_ms = interval_ms(scale, device, &wanted, unlike, rng);
        let mut sourcing = sourcing.clone().unwrap_or_else(|| Sourcing::none(scale, bad_ms, rng));
        let mut described = Described::every(sourcing.described.len(), interval_ms, scale, rng);
        described.site.clone_from(&site);
        let (mut lenders, mut donors) = (BTreeMap::new(), Vec::new());
        for (no, channel) in wanted.iter().enumerate() {
            let said = said(channel, unlike.filter(|_| no == of_which));
            let from = described.device(UTILITIES[no]);
            let own = channel.id.to_string();
            let is_alike = is_alike(channel, device.grid, &said, interval_ms);
            described.says.0[no] = Some(said);
            lenders.insert(own.clone(), Lender { device: from.clone(), is_alike });
            let channels = [(own, SHIPPED[no].0.to_owned())].into();
            donors.push(Donor { site: site.clone(), device: device.id.to_string(), from, channels });
        }
        if rng.one_in(2) {
            donors.reverse();
        }
        let donation = Self {
            site,
            device: device.id.to_string(),
            grid: device.grid,
            channels: device.channels.iter().map(|channel| channel.id.to_string()).collect(),
            lenders,
            donors,
            loans: *rng.pick(&[1, 16]),
        };
        sourcing.described.push(described);
        Some((donation, sourcing))
    }
}

/// A device, where there is to be one: mostly one that remembers by the minute, where there is one; its agent, its bus and its place there.
fn pick(agents: &[Planned], rng: &mut Rng) -> Option<(usize, usize, usize)> {
    let buses = agents.iter().enumerate().flat_map(|(agent, planned)| {
        planned.config.buses.iter().enumerate().map(move |(bus, of)| ((agent, bus), of))
    });
    let all = buses.flat_map(|((agent, bus), of)| {
        of.devices.iter().enumerate().map(move |(place, device)| ((agent, bus, place), device))
    });
    let (remember, polled): (Vec<_>, Vec<_>) = all.partition(|(_, device)| device.memory.is_some());
    let by_minute = |device: &Device| device.grid.interval.as_ms() % MINUTE_MS == 0;
    let remember: Vec<_> = remember.into_iter().filter(|(_, device)| by_minute(device)).collect();
    if !rng.one_in(if remember.is_empty() { ONE_IN } else { REMEMBER_ONE_IN }) {
        return None;
    }
    let of = if remember.is_empty() || rng.one_in(4) { polled } else { remember };
    (!of.is_empty()).then(|| rng.pick(&of).0)
}

/// The channels that another device has, one or two. Mostly a device that is polled has no others.
fn narrow(device: &mut Device, rng: &mut Rng) -> Vec<ChannelSpec> {
    let names: &[&str] = match rng.below(3) {
        _ if device.memory.is_some() => &["energy", "power"],
        0 => &["time_a"],
        1 => &["energy_in", "time_a"],
        _ => &["energy_in", "voltage"],
    };
    let is_named = |channel: &ChannelSpec| names.contains(&channel.id.as_str());
    if names.contains(&"time_a") {
        device.channels.retain(is_named);
    }
    device.channels.iter().filter(|channel| is_named(channel)).cloned().collect()
}

/// The distance of the other device's values.
fn interval_ms(
    scale: Scale,
    device: &Device,
    wanted: &[ChannelSpec],
    unlike: Option<Unlike>,
    rng: &mut Rng,
) -> i64 {
    let minutes: &[i64] = if scale == Scale::Hours { &[1, 1, 2, 5] } else { &[30, 60] };
    let any_ms = *rng.pick(minutes) * MINUTE_MS;
    let is_of_periods = wanted.iter().any(|channel| !is_of_instant(channel.aggregation));
    match device.grid.interval.as_ms() {
        own_ms if is_of_periods && unlike == Some(Unlike::Interval) => 2 * own_ms,
        own_ms if is_of_periods => own_ms,
        _ => any_ms,
    }
}

/// What a meter says that looks like a channel.
fn said(channel: &ChannelSpec, unlike: Option<Unlike>) -> Saying {
    let mut said = Saying {
        unit: channel.unit.to_string(),
        quantity: channel.quantity.to_string(),
        aggregation: channel.aggregation,
    };
    match unlike {
        Some(Unlike::Unit) => said.unit.push_str("·10"),
        Some(Unlike::Quantity) => said.quantity.push_str("_of_another"),
        Some(Unlike::Aggregation) => {
            let is_instant = channel.aggregation == Aggregation::Instant;
            said.aggregation = if is_instant { Aggregation::Mean } else { Aggregation::Instant };
        }
        Some(Unlike::Interval) | None => {}
    }
    said
}

/// Whether a value of the meter says the same of the same time as one of the channel; its times are ends of periods.
fn is_alike(channel: &ChannelSpec, own: SlotGrid, said: &Saying, interval_ms: i64) -> bool {
    let is_same = *channel.unit == said.unit
        && *channel.quantity == said.quantity
        && channel.aggregation == said.aggregation
        && channel.label == PeriodLabel::End;
    let is_same_period = own.phase_ms == 0 && own.interval.as_ms() == interval_ms;
    is_same && (is_of_instant(channel.aggregation) || is_same_period)
}

const fn is_of_instant(aggregation: Aggregation) -> bool {
    matches!(aggregation, Aggregation::Instant | Aggregation::Counter)
}

#[cfg(test)]
mod tests {
    use super::super::plan::Plan;
    use super::*;

    #[test]
    fn some_devices_have_all_lent_and_others_nothing() {
        let donations: Vec<Donation> =
            (0..200).filter_map(|seed| Plan::draw(Scale::Hours, &mut Rng::new(seed)).donation).collect();
        let lends = |one: &Donation| one.lenders.values().filter(|lender| lender.is_alike).count();
        assert!(donations.iter().any(|one| lends(one) == one.channels.len()));
        assert!(donations.iter().any(|one| lends(one) == 0));
        assert!(donations.iter().any(|one| (1..one.channels.len()).contains(&lends(one))));
    }
}
