//! The read plan: which requests fetch a device's channels, as few as the device's limits allow.
//!
//! A request never splits a value and reads over at most `max_hole` registers that nobody needs. The plan is a
//! pure function of channels and limits. What a device refuses at run time, and decoding, are `poll`'s business.

use std::fmt;
use std::ops::Range;

use gapless_common::id::{ChannelId, ChannelIndex};
use gapless_common::profile::{ChannelSpec, Location, RegisterTable, ValueType};

use super::pdu::{READ_BITS_MAX, READ_REGISTERS_MAX, Request};
use super::sunspec::{HEADER_LEN, Model};

/// What one request to a device may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most registers: 1 to 125.
    pub max_registers: u16,
    /// Most coils or discrete inputs: 1 to 2000.
    pub max_bits: u16,
    /// Most addresses in a row that a request may read without need.
    pub max_hole: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_registers: READ_REGISTERS_MAX, max_bits: READ_BITS_MAX, max_hole: 0 }
    }
}

impl Limits {
    const fn count_max(&self, table: RegisterTable) -> u16 {
        if table.is_bits() { self.max_bits } else { self.max_registers }
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A limit of 0 or above the specification's.
    #[error("a request may hold 1 to {max} {items}, not {got}")]
    Limit {
        /// `registers` or `bits`.
        items: &'static str,
        /// The specification's limit.
        max: u16,
        /// The limit asked for.
        got: u16,
    },
    /// More channels than a device can have.
    #[error("a device has at most 65,535 channels, got {0}")]
    Channels(usize),
    /// A value that does not fit into one request.
    #[error("channel {channel} has {registers} registers, a request to this device may hold {max}")]
    TooLong {
        /// The channel.
        channel: ChannelId,
        /// Its length.
        registers: u16,
        /// The limit.
        max: u16,
    },
    /// A value that ends above address 65,535.
    #[error("channel {channel} at address {start} with {registers} registers ends above address 65535")]
    PastEnd {
        /// The channel.
        channel: ChannelId,
        /// Its first address.
        start: u16,
        /// Its length.
        registers: u16,
    },
    /// A number, text or bit field in a table of single bits, or a power of ten read from one.
    #[error("channel {channel}: a {table} is a single bit and cannot be read as {value_type}")]
    NotABit {
        /// The channel.
        channel: ChannelId,
        /// Its table.
        table: RegisterTable,
        /// Its type.
        value_type: ValueType,
    },
}

/// What a part of a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// The value of a channel.
    Value(ChannelIndex),
    /// The power of ten that channels of this table name by `scale_from`.
    Exponent,
    /// Id and length of a SunSpec model.
    Header,
}

/// Addresses of one value within a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// First address.
    pub start: u16,
    /// Number of addresses, at least 1; the last one is at most 65,535.
    pub count: u16,
    /// What for.
    pub purpose: Purpose,
}

impl Part {
    fn end(&self) -> u32 {
        u32::from(self.start) + u32::from(self.count)
    }

    const fn span(&self) -> (u16, u16) {
        (self.start, self.count)
    }
}

/// One request of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRead {
    table: RegisterTable,
    start: u16,
    count: u16,
    parts: Vec<Part>,
    request: Request,
}

impl PlannedRead {
    /// The request that covers these parts, which are not empty, sorted, and within one request's limits.
    fn covering(table: RegisterTable, parts: Vec<Part>) -> Self {
        let start = parts.first().map_or(0, |part| part.start);
        let end = parts.iter().map(Part::end).max().unwrap_or(0);
        let count = u16::try_from(end - u32::from(start)).expect("a request covers at most 2000 addresses");
        let request = Request::read(table, start, count).expect("parts were checked against the limits");
        Self { table, start, count, parts, request }
    }

    /// The table read.
    #[must_use]
    pub const fn table(&self) -> RegisterTable {
        self.table
    }

    /// First address.
    #[must_use]
    pub const fn start(&self) -> u16 {
        self.start
    }

    /// Number of addresses.
    #[must_use]
    pub const fn count(&self) -> u16 {
        self.count
    }

    /// The PDU to send.
    #[must_use]
    pub const fn request(&self) -> &Request {
        &self.request
    }

    /// What is read, in ascending order of address; parts may overlap.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The channels whose values it brings, and the offset of each from the first address.
    pub fn channels(&self) -> impl Iterator<Item = (ChannelIndex, u16)> + '_ {
        self.parts.iter().filter_map(|part| match part.purpose {
            Purpose::Value(channel) => Some((channel, part.start - self.start)),
            Purpose::Exponent | Purpose::Header => None,
        })
    }

    /// Where a part stands in the answer.
    #[must_use]
    pub fn place(&self, part: &Part) -> Range<usize> {
        let offset = usize::from(part.start - self.start);
        offset..offset + usize::from(part.count)
    }

    /// Runs of addresses that it reads without need, as (first address, number).
    #[must_use]
    pub fn holes(&self) -> Vec<(u16, u16)> {
        let mut holes = Vec::new();
        let mut reached = u32::from(self.start);
        for part in &self.parts {
            if let Some(gap) = u32::from(part.start).checked_sub(reached).filter(|&gap| gap > 0) {
                let gap = u16::try_from(gap).expect("a hole is shorter than its request");
                holes.push((part.start - gap, gap));
            }
            reached = reached.max(part.end());
        }
        holes
    }

    /// Smaller requests for the same parts, to find what a device refuses: at the holes where there are any,
    /// else in two halves. `None` where all parts are the same addresses: there is nothing to split.
    #[must_use]
    pub fn split(&self) -> Option<Vec<Self>> {
        let at_holes = self.runs();
        if at_holes.len() > 1 {
            return Some(at_holes.into_iter().map(|parts| Self::covering(self.table, parts)).collect());
        }
        let mut spans: Vec<(u16, u16)> = self.parts.iter().map(Part::span).collect();
        spans.dedup();
        let middle = *spans.get(spans.len() / 2).filter(|_| spans.len() > 1)?;
        let (low, high) = self.parts.iter().partition(|part| part.span() < middle);
        Some(vec![Self::covering(self.table, low), Self::covering(self.table, high)])
    }

    /// The parts, apart where a hole parts them.
    fn runs(&self) -> Vec<Vec<Part>> {
        group(&self.parts, u32::from(self.count), 0)
    }
}

impl fmt::Display for PlannedRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = u32::from(self.start) + u32::from(self.count) - 1;
        let (holes, unused) = self.holes().iter().fold((0, 0), |(n, sum), (_, gap)| (n + 1, sum + gap));
        write!(
            f,
            "{} {}..{last}: {} for {} channels",
            self.table,
            self.start,
            self.count,
            self.channels().count()
        )?;
        if holes > 0 { write!(f, ", {unused} unused in {holes} holes") } else { Ok(()) }
    }
}

/// The requests that fetch all channels of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadPlan {
    requests: Vec<PlannedRead>,
    unlocated: Vec<ChannelIndex>,
    limits: Limits,
}

impl ReadPlan {
    /// Plans the fewest requests, by table and address. Channels whose place is not an address (SunSpec: see
    /// `sunspec`) are left out and listed.
    ///
    /// # Errors
    /// [`PlanError`] where a limit or a channel is impossible.
    pub fn new(specs: &[ChannelSpec], limits: Limits) -> Result<Self, PlanError> {
        Self::with_headers(specs, &[], limits)
    }

    /// Plans the fewest requests that fetch these SunSpec models' ids and lengths as well.
    ///
    /// # Errors
    /// As [`ReadPlan::new`].
    pub fn with_headers(specs: &[ChannelSpec], models: &[Model], limits: Limits) -> Result<Self, PlanError> {
        check_limits(&limits)?;
        if specs.len() > usize::from(u16::MAX) {
            return Err(PlanError::Channels(specs.len()));
        }
        let headers = models.iter().map(|model| (RegisterTable::HoldingRegister, header_of(model)));
        let (mut located, mut unlocated): (Vec<_>, _) = (headers.collect(), Vec::new());
        for (channel, spec) in (0..).map(ChannelIndex).zip(specs) {
            match parts_of(channel, spec, &limits)? {
                Some(parts) => located.extend(parts.map(|part| (spec.table, part))),
                None => unlocated.push(channel),
            }
        }
        Ok(Self { requests: fewest(located, &limits), unlocated, limits })
    }

    /// The fewest requests for all that these fetch, under the limits of the plan.
    #[must_use]
    pub fn merged<'a>(&self, reads: impl Iterator<Item = &'a PlannedRead>) -> Vec<PlannedRead> {
        let parts = reads.flat_map(|read| read.parts.iter().map(|part| (read.table, *part)));
        fewest(parts.collect(), &self.limits)
    }

    /// The requests, in ascending order of table and address.
    #[must_use]
    pub fn requests(&self) -> &[PlannedRead] {
        &self.requests
    }

    /// Channels whose place is not an address yet.
    #[must_use]
    pub fn unlocated(&self) -> &[ChannelIndex] {
        &self.unlocated
    }
}

fn check_limits(limits: &Limits) -> Result<(), PlanError> {
    let rows =
        [("registers", limits.max_registers, READ_REGISTERS_MAX), ("bits", limits.max_bits, READ_BITS_MAX)];
    match rows.into_iter().find(|(_, got, max)| !(1..=*max).contains(got)) {
        Some((items, got, max)) => Err(PlanError::Limit { items, max, got }),
        None => Ok(()),
    }
}

/// The value of a channel, and the power of ten it needs; `None` where either has no address.
fn parts_of(
    channel: ChannelIndex,
    spec: &ChannelSpec,
    limits: &Limits,
) -> Result<Option<impl Iterator<Item = Part> + use<>>, PlanError> {
    let bit = matches!(spec.value_type, ValueType::Bool) && spec.scale_from.is_none();
    if spec.table.is_bits() && !bit {
        let (channel, table, value_type) = (spec.id.clone(), spec.table, spec.value_type);
        return Err(PlanError::NotABit { channel, table, value_type });
    }
    let (count, max) = (spec.registers(), limits.count_max(spec.table));
    if count == 0 || count > max {
        return Err(PlanError::TooLong { channel: spec.id.clone(), registers: count, max });
    }
    let Location::Absolute(start) = spec.location else { return Ok(None) };
    if start.checked_add(count - 1).is_none() {
        return Err(PlanError::PastEnd { channel: spec.id.clone(), start, registers: count });
    }
    let exponent = match spec.scale_from {
        Some(Location::Absolute(start)) => Some(Part { start, count: 1, purpose: Purpose::Exponent }),
        Some(Location::SunSpec { .. }) => return Ok(None),
        None => None,
    };
    let value = Part { start, count, purpose: Purpose::Value(channel) };
    Ok(Some([value].into_iter().chain(exponent)))
}

fn header_of(model: &Model) -> Part {
    Part { start: model.address, count: HEADER_LEN, purpose: Purpose::Header }
}

fn fewest(mut parts: Vec<(RegisterTable, Part)>, limits: &Limits) -> Vec<PlannedRead> {
    parts.sort_unstable();
    parts.dedup();
    parts.chunk_by(|a, b| a.0 == b.0).flat_map(|table| requests_of(table, limits)).collect()
}

fn requests_of(parts: &[(RegisterTable, Part)], limits: &Limits) -> Vec<PlannedRead> {
    let Some(&(table, _)) = parts.first() else { return Vec::new() };
    let parts: Vec<Part> = parts.iter().map(|&(_, part)| part).collect();
    let groups = group(&parts, u32::from(limits.count_max(table)), limits.max_hole);
    groups.into_iter().map(|parts| PlannedRead::covering(table, parts)).collect()
}

/// Sorted parts in groups that cover at most `count_max` addresses each, with no hole above `hole_max`.
///
/// Left to right, each group as long as it may be. That is the least number of groups: the leftmost part must
/// begin one, and whatever that group takes in it spares the later ones.
fn group(parts: &[Part], count_max: u32, hole_max: u16) -> Vec<Vec<Part>> {
    let mut groups: Vec<Vec<Part>> = Vec::new();
    let (mut begin, mut reached) = (0, 0);
    for part in parts {
        let start = u32::from(part.start);
        let fits = part.end() - begin <= count_max && start <= reached + u32::from(hole_max);
        match groups.last_mut().filter(|_| fits) {
            Some(group) => group.push(*part),
            None => {
                groups.push(vec![*part]);
                (begin, reached) = (start, 0);
            }
        }
        reached = reached.max(part.end());
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::super::value::tests::channel;
    use super::*;
    use gapless_common::profile::ProfileSet;
    use proptest::prelude::*;

    fn limits(max_registers: u16, max_hole: u16) -> Limits {
        Limits { max_registers, max_hole, ..Limits::default() }
    }

    fn text(registers: u8, address: u16) -> ChannelSpec {
        channel(ValueType::Text { registers }, address)
    }

    fn coil(address: u16) -> ChannelSpec {
        ChannelSpec { table: RegisterTable::Coil, ..channel(ValueType::Bool, address) }
    }

    /// First address and number of addresses of each request.
    type Spans = &'static [(u16, u16)];

    #[test]
    fn channels_are_merged_under_the_limits() {
        let u16_at = |address| channel(ValueType::U16, address);
        let f32_at = |address| channel(ValueType::F32, address);
        let scaled = ChannelSpec { scale_from: Some(Location::Absolute(9)), ..u16_at(0) };
        let rows: [(Vec<ChannelSpec>, Limits, Spans); 12] = [
            (vec![], limits(125, 0), &[]),
            (vec![f32_at(0), f32_at(2), f32_at(4)], limits(125, 0), &[(0, 6)]),
            (vec![f32_at(4), f32_at(0), f32_at(2)], limits(125, 0), &[(0, 6)]),
            (vec![f32_at(0), f32_at(2), f32_at(4)], limits(5, 0), &[(0, 4), (4, 2)]),
            (vec![f32_at(0), f32_at(3)], limits(125, 0), &[(0, 2), (3, 2)]),
            (vec![f32_at(0), f32_at(3)], limits(125, 1), &[(0, 5)]),
            (vec![f32_at(0), f32_at(3)], limits(4, 1), &[(0, 2), (3, 2)]),
            (vec![u16_at(7), u16_at(7), f32_at(6)], limits(125, 0), &[(6, 2)]),
            (vec![text(20, 0), u16_at(1), u16_at(19)], limits(20, 0), &[(0, 20)]),
            (vec![scaled.clone()], limits(125, 8), &[(0, 10)]),
            (vec![scaled], limits(125, 7), &[(0, 1), (9, 1)]),
            (vec![u16_at(u16::MAX), u16_at(0)], limits(125, 9), &[(0, 1), (u16::MAX, 1)]),
        ];
        for (specs, limits, expected) in rows {
            let plan = ReadPlan::new(&specs, limits).unwrap();
            let spans: Vec<_> = plan.requests().iter().map(|read| (read.start(), read.count())).collect();
            assert_eq!(spans, expected, "{limits:?}");
        }
    }

    #[test]
    fn tables_are_not_mixed_and_bits_have_their_own_limit() {
        let input = ChannelSpec { table: RegisterTable::InputRegister, ..channel(ValueType::U16, 1) };
        let specs = [coil(0), coil(1_999), coil(2_000), channel(ValueType::U16, 0), input];
        let plan = ReadPlan::new(&specs, limits(125, 2_000)).unwrap();
        let shown: Vec<String> = plan.requests().iter().map(ToString::to_string).collect();
        let expected = [
            "coil 0..1999: 2000 for 2 channels, 1998 unused in 1 holes",
            "coil 2000..2000: 1 for 1 channels",
            "input register 1..1: 1 for 1 channels",
            "holding register 0..0: 1 for 1 channels",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn impossible_channels_and_limits_are_refused() {
        let number = ChannelSpec { table: RegisterTable::Coil, ..channel(ValueType::U16, 0) };
        let rows: [(ChannelSpec, Limits, &str); 6] = [
            (text(60, 0), limits(50, 0), "channel c0 has 60 registers, a request to this device may hold 50"),
            (text(0, 0), limits(50, 0), "channel c0 has 0 registers, a request to this device may hold 50"),
            (
                channel(ValueType::F64, 65_533),
                limits(125, 0),
                "channel c65533 at address 65533 with 4 registers ends above address 65535",
            ),
            (number, limits(125, 0), "channel c0: a coil is a single bit and cannot be read as u16"),
            (coil(0), limits(126, 0), "a request may hold 1 to 125 registers, not 126"),
            (coil(0), Limits { max_bits: 0, ..limits(1, 0) }, "a request may hold 1 to 2000 bits, not 0"),
        ];
        for (spec, limits, expected) in rows {
            assert_eq!(ReadPlan::new(&[spec], limits).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_refused_request_is_split_at_holes_and_then_in_halves() {
        let at =
            |addresses: &[u16]| addresses.iter().map(|&a| channel(ValueType::U16, a)).collect::<Vec<_>>();
        let rows: [(&[u16], Option<Spans>); 6] = [
            (&[0, 1, 5, 6, 9], Some(&[(0, 2), (5, 2), (9, 1)])),
            (&[0, 1, 2, 3, 4], Some(&[(0, 2), (2, 3)])),
            (&[0, 1], Some(&[(0, 1), (1, 1)])),
            (&[4], None),
            (&[4, 4, 4], None),
            (&[4, 4, 5], Some(&[(4, 1), (5, 1)])),
        ];
        for (addresses, expected) in rows {
            let plan = ReadPlan::new(&at(addresses), limits(125, 9)).unwrap();
            let split = plan.requests()[0].split();
            let spans = split.map(|reads| reads.iter().map(|r| (r.start(), r.count())).collect::<Vec<_>>());
            assert_eq!(spans.as_deref(), expected, "{addresses:?}");
        }
    }

    /// SunSpec profiles as at a device whose models follow one another from address 0 on.
    #[test]
    fn every_embedded_profile_can_be_read() {
        let profiles = ProfileSet::embedded().unwrap();
        for profile in profiles.iter() {
            let absolute = |location| match location {
                Location::SunSpec { model, offset } => Location::Absolute(model * 200 + offset),
                Location::Absolute(_) => location,
            };
            let located = |spec: &ChannelSpec| ChannelSpec {
                location: absolute(spec.location),
                scale_from: spec.scale_from.map(absolute),
                ..spec.clone()
            };
            let specs: Vec<_> = profile.channels.iter().map(located).collect();
            let limits = limits(profile.defaults.max_registers, profile.defaults.max_hole);
            let plan = ReadPlan::new(&specs, limits).unwrap_or_else(|why| panic!("{}: {why}", profile.id));
            let read: usize = plan.requests().iter().map(|read| read.channels().count()).sum();
            assert_eq!(read, specs.len(), "{}", profile.id);
            assert!(plan.requests().len() < specs.len(), "{}: nothing is merged", profile.id);
        }
    }

    fn any_channels() -> impl Strategy<Value = Vec<ChannelSpec>> {
        let kinds = vec![ValueType::U16, ValueType::I32, ValueType::F64, ValueType::Text { registers: 9 }];
        let one = (prop::sample::select(kinds), 0u16..300, prop::option::of(0u16..300), any::<bool>());
        let spec = one.prop_map(|(kind, address, scale, input)| {
            let table = if input { RegisterTable::InputRegister } else { RegisterTable::HoldingRegister };
            ChannelSpec { table, scale_from: scale.map(Location::Absolute), ..channel(kind, address) }
        });
        prop::collection::vec(spec, 0..60)
    }

    /// The least number of groups, by trying every end for each first group.
    fn fewest(parts: &[Part], count_max: u32, hole_max: u16) -> usize {
        let Some(first) = parts.first() else { return 0 };
        let (mut reached, mut best) = (first.end(), usize::MAX);
        for taken in 1..=parts.len() {
            let part = parts[taken - 1];
            let hole = u32::from(part.start) > reached + u32::from(hole_max);
            if hole || part.end() - u32::from(first.start) > count_max {
                break;
            }
            reached = reached.max(part.end());
            best = best.min(1 + fewest(&parts[taken..], count_max, hole_max));
        }
        best
    }

    proptest! {
        #[test]
        fn every_channel_is_read_exactly_once(specs in any_channels(), max_registers in 9u16..=125, max_hole in 0u16..40) {
            let limits = limits(max_registers, max_hole);
            let plan = ReadPlan::new(&specs, limits).unwrap();
            prop_assert_eq!(&plan, &ReadPlan::new(&specs, limits).unwrap());
            let mut seen = vec![0; specs.len()];
            for read in plan.requests() {
                prop_assert!(read.count() <= max_registers);
                prop_assert!(read.holes().iter().all(|&(_, gap)| gap <= max_hole));
                for (channel, offset) in read.channels() {
                    let spec = &specs[usize::from(channel.0)];
                    seen[usize::from(channel.0)] += 1;
                    prop_assert_eq!(read.table(), spec.table);
                    prop_assert_eq!(Location::Absolute(read.start() + offset), spec.location);
                    prop_assert!(offset + spec.registers() <= read.count());
                }
            }
            prop_assert!(seen.iter().all(|&times| times == 1));
            for spec in &specs {
                let Some(Location::Absolute(address)) = spec.scale_from else { continue };
                let wanted = Part { start: address, count: 1, purpose: Purpose::Exponent };
                prop_assert!(plan.requests().iter().any(|r| r.table() == spec.table && r.parts().contains(&wanted)));
            }
        }

        #[test]
        fn no_plan_has_fewer_requests(specs in prop::collection::vec((0u16..40, 1u8..9), 0..9), max in 9u16..20, hole in 0u16..6) {
            let specs: Vec<_> = specs.into_iter().map(|(address, registers)| text(registers, address)).collect();
            let plan = ReadPlan::new(&specs, limits(max, hole)).unwrap();
            let mut parts: Vec<Part> = plan.requests().iter().flat_map(|r| r.parts().to_vec()).collect();
            parts.sort_unstable();
            prop_assert_eq!(plan.requests().len(), fewest(&parts, u32::from(max), hole));
        }

        #[test]
        fn splitting_loses_nothing_and_ends(specs in any_channels()) {
            let plan = ReadPlan::new(&specs, limits(125, 40)).unwrap();
            for read in plan.requests() {
                let (mut todo, mut parts) = (vec![read.clone()], Vec::new());
                while let Some(read) = todo.pop() {
                    match read.split() {
                        Some(smaller) => {
                            prop_assert!(smaller.iter().all(|part| part.count() < read.count() || part.parts().len() < read.parts().len()));
                            todo.extend(smaller);
                        }
                        None => parts.extend_from_slice(read.parts()),
                    }
                }
                parts.sort_unstable();
                prop_assert_eq!(&parts[..], read.parts());
            }
        }
    }
}
