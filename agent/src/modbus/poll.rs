//! One device's polls: which request is next, what an answer says about each channel, and what the device has
//! been found to refuse.
//!
//! Call [`DevicePoll::begin`]; then, while [`DevicePoll::current`] names a request, send it and report exactly
//! one of [`DevicePoll::answered`], [`DevicePoll::refused`] and [`DevicePoll::failed`]; then
//! [`DevicePoll::end`]. Between them, `answered` and `end` deliver each channel exactly once a poll.
//!
//! A merged request that the device refuses for its addresses is split, within the same poll, until the refused
//! channels stand alone; the split is remembered. What is refused alone is no longer asked, but reported as
//! refused, and probed again with back-off: a device may refuse everything while it starts. When a probe is
//! answered, the next poll begins with the merged plan again. It neither retries (the bus does) nor reads a
//! clock: `now` is the time since any fixed instant.

use std::collections::BTreeMap;
use std::time::Duration;

use gapless_common::id::ChannelIndex;
use gapless_common::profile::{ChannelSpec, Location, RegisterTable};
use gapless_common::quality::{ExceptionCode, Quality};
use gapless_common::reading::{Sample, Value};

use super::pdu::ResponseData;
use super::plan::{Limits, Part, PlanError, PlannedRead, Purpose, ReadPlan};
use super::value::{self, Raw};

/// Pause before what was refused alone is asked again; doubles with each further refusal.
pub const PROBE_WAIT_MIN: Duration = Duration::from_secs(60);
/// Longest such pause.
pub const PROBE_WAIT_MAX: Duration = Duration::from_secs(3_600);

const ILLEGAL_DATA_ADDRESS: ExceptionCode = ExceptionCode(2);
/// Also said of a quantity that the device finds too large (V1.1b3, section 7).
const ILLEGAL_DATA_VALUE: ExceptionCode = ExceptionCode(3);

/// What a refusal has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// The request was replaced by so many smaller ones, which are next.
    Split(usize),
    /// Its channels are not asked again before this pause is over.
    SetAside(Duration),
    /// None: the refusal does not speak of addresses. Its channels are bad in this poll.
    None,
}

/// The polls of one device.
#[derive(Debug, Clone)]
pub struct DevicePoll {
    specs: Box<[ChannelSpec]>,
    plan: ReadPlan,
    active: Vec<Active>,
    set_aside: Vec<SetAside>,
    /// A probe was answered: what the device refused it may grant now.
    healed: bool,
    next: usize,
    outcomes: Vec<Outcome>,
    exponents: BTreeMap<(RegisterTable, u16), Result<u16, Quality>>,
    /// Values whose power of ten is in another request of the same poll.
    waiting: Vec<(ChannelIndex, Box<[u16]>)>,
}

#[derive(Debug, Clone)]
struct Active {
    read: PlannedRead,
    /// Present for a probe: the pause that came before it.
    waited: Option<Duration>,
}

#[derive(Debug, Clone)]
struct SetAside {
    read: PlannedRead,
    exception: ExceptionCode,
    waited: Duration,
    probe_at: Duration,
}

/// Where a channel stands in the poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Open,
    Bad(Quality),
    Delivered,
}

impl DevicePoll {
    /// Plans the polls of a device with these channels, in the order that [`ChannelIndex`] counts. Channels
    /// that are found by SunSpec model must have been located before (`sunspec::Chain::locate`): those that
    /// have not are what the device does not have, and give [`Quality::NoData`].
    ///
    /// # Errors
    /// As [`ReadPlan::new`].
    pub fn new(specs: Vec<ChannelSpec>, limits: Limits) -> Result<Self, PlanError> {
        let plan = ReadPlan::new(&specs, limits)?;
        Ok(Self {
            active: active(&plan),
            plan,
            set_aside: Vec::new(),
            healed: false,
            next: usize::MAX,
            outcomes: vec![Outcome::Delivered; specs.len()],
            exponents: BTreeMap::new(),
            waiting: Vec::new(),
            specs: specs.into(),
        })
    }

    /// The plan as it was made, before any refusal.
    #[must_use]
    pub const fn plan(&self) -> &ReadPlan {
        &self.plan
    }

    /// The requests of a poll as they are now.
    pub fn requests(&self) -> impl Iterator<Item = &PlannedRead> {
        self.active.iter().map(|active| &active.read)
    }

    /// Begins a poll.
    pub fn begin(&mut self, now: Duration) {
        if std::mem::take(&mut self.healed) {
            self.active = active(&self.plan);
            self.set_aside.clear();
        }
        self.probe_due(now);
        self.next = 0;
        self.exponents.clear();
        self.waiting.clear();
        self.outcomes.fill(Outcome::Open);
        for channel in self.plan.unlocated() {
            self.outcomes[usize::from(channel.0)] = Outcome::Bad(Quality::NoData);
        }
        for aside in std::mem::take(&mut self.set_aside) {
            self.settle(&aside.read, Quality::BadRefused(aside.exception));
            self.set_aside.push(aside);
        }
    }

    /// Takes up again what has been set aside long enough; at least one request, so that each poll asks
    /// the device something.
    fn probe_due(&mut self, now: Duration) {
        if self.active.is_empty()
            && let Some(first) = self.set_aside.iter_mut().min_by_key(|aside| aside.probe_at)
        {
            first.probe_at = first.probe_at.min(now);
        }
        let (due, later) = std::mem::take(&mut self.set_aside).into_iter().partition(|a| a.probe_at <= now);
        self.set_aside = later;
        let due: Vec<SetAside> = due;
        self.active.extend(due.into_iter().map(|a| Active { read: a.read, waited: Some(a.waited) }));
    }

    /// The request to send next; `None` when the poll is through.
    #[must_use]
    pub fn current(&self) -> Option<&PlannedRead> {
        self.active.get(self.next).map(|active| &active.read)
    }

    /// The current request was answered. Gives the channels that this answer completes, in ascending order.
    pub fn answered(&mut self, data: &ResponseData) -> Vec<Sample> {
        let Some(active) = self.active.get_mut(self.next) else { return Vec::new() };
        self.healed |= active.waited.take().is_some();
        let read = active.read.clone();
        self.next += 1;
        match data {
            ResponseData::Bits(bits) => self.take_bits(&read, bits),
            ResponseData::Registers(words) => self.take_words(&read, words),
            ResponseData::Written => Vec::new(),
        }
    }

    /// The device refused the current request.
    pub fn refused(&mut self, exception: ExceptionCode, now: Duration) -> Consequence {
        let Some(active) = self.active.get(self.next) else { return Consequence::None };
        if !matches!(exception, ILLEGAL_DATA_ADDRESS | ILLEGAL_DATA_VALUE) {
            self.failed(Quality::BadRefused(exception));
            return Consequence::None;
        }
        match active.read.split() {
            Some(smaller) => {
                let count = smaller.len();
                let smaller = smaller.into_iter().map(|read| Active { read, waited: None });
                self.active.splice(self.next..=self.next, smaller);
                Consequence::Split(count)
            }
            None => Consequence::SetAside(self.put_aside(exception, now)),
        }
    }

    fn put_aside(&mut self, exception: ExceptionCode, now: Duration) -> Duration {
        let Active { read, waited } = self.active.remove(self.next);
        let waited = waited.map_or(PROBE_WAIT_MIN, |waited| (waited * 2).min(PROBE_WAIT_MAX));
        self.settle(&read, Quality::BadRefused(exception));
        self.set_aside.push(SetAside { read, exception, waited, probe_at: now + waited });
        waited
    }

    /// The current request brought nothing usable, for good in this poll: its channels get this quality.
    pub fn failed(&mut self, quality: Quality) {
        let Some(active) = self.active.get(self.next) else { return };
        let read = active.read.clone();
        self.settle(&read, quality);
        self.next += 1;
    }

    /// Ends the poll. Gives the channels that no answer completed, in ascending order and without value; those
    /// that were not asked (the poll was given up) with the quality `unasked`.
    pub fn end(&mut self, unasked: Quality) -> Vec<Sample> {
        self.next = usize::MAX;
        let (outcomes, mut samples) = (&mut self.outcomes, Vec::new());
        for (channel, outcome) in (0..).map(ChannelIndex).zip(outcomes) {
            let quality = match std::mem::replace(outcome, Outcome::Delivered) {
                Outcome::Delivered => continue,
                Outcome::Bad(quality) => quality,
                Outcome::Open => unasked,
            };
            samples.push(Sample { channel, value: None, quality });
        }
        samples
    }

    fn settle(&mut self, read: &PlannedRead, quality: Quality) {
        for part in read.parts() {
            match part.purpose {
                Purpose::Value(channel) => self.outcomes[usize::from(channel.0)] = Outcome::Bad(quality),
                Purpose::Exponent => {
                    self.note_exponent(read.table(), part, Err(quality));
                    self.give_up_waiting(read.table(), part, quality);
                }
            }
        }
    }

    /// Values that were read, but whose power of ten will not come in this poll.
    fn give_up_waiting(&mut self, table: RegisterTable, exponent: &Part, quality: Quality) {
        let (specs, outcomes) = (&self.specs, &mut self.outcomes);
        self.waiting.retain(|(channel, _)| {
            let channel = usize::from(channel.0);
            let spec = &specs[channel];
            let hit = spec.table == table && spec.scale_from == Some(Location::Absolute(exponent.start));
            if hit {
                outcomes[channel] = Outcome::Bad(quality);
            }
            !hit
        });
    }

    fn note_exponent(&mut self, table: RegisterTable, part: &Part, word: Result<u16, Quality>) {
        self.exponents.insert((table, part.start), word);
    }

    fn take_bits(&mut self, read: &PlannedRead, bits: &[bool]) -> Vec<Sample> {
        let mut samples = Vec::with_capacity(read.parts().len());
        for (channel, offset) in read.channels() {
            let bit = bits.get(usize::from(offset)).ok_or(Quality::BadCorrupt);
            let value = bit.and_then(|&bit| value::decode(self.spec(channel), Raw::Bit(bit), 0));
            samples.push(self.deliver(channel, value));
        }
        samples.sort_unstable_by_key(|sample| sample.channel);
        samples
    }

    fn take_words(&mut self, read: &PlannedRead, words: &[u16]) -> Vec<Sample> {
        let word_at = |part: &Part| words.get(read.place(part)).ok_or(Quality::BadCorrupt);
        for part in read.parts().iter().filter(|part| part.purpose == Purpose::Exponent) {
            self.note_exponent(read.table(), part, word_at(part).map(|words| words[0]));
        }
        let mut samples = Vec::with_capacity(read.parts().len());
        for (channel, words) in std::mem::take(&mut self.waiting) {
            samples.extend(self.take_value(channel, &words));
        }
        for part in read.parts() {
            let Purpose::Value(channel) = part.purpose else { continue };
            match word_at(part) {
                Ok(words) => samples.extend(self.take_value(channel, words)),
                Err(quality) => samples.push(self.deliver(channel, Err(quality))),
            }
        }
        samples.sort_unstable_by_key(|sample| sample.channel);
        samples
    }

    /// Decodes a value, or keeps its registers until its power of ten is known.
    fn take_value(&mut self, channel: ChannelIndex, words: &[u16]) -> Option<Sample> {
        let spec = self.spec(channel);
        let exponent = match spec.scale_from {
            None => Ok(0),
            Some(Location::SunSpec { .. }) => Err(Quality::NoData),
            Some(Location::Absolute(address)) => match self.exponents.get(&(spec.table, address)) {
                Some(word) => word.and_then(|word| value::exponent(spec.order, word)),
                None => {
                    self.waiting.push((channel, words.into()));
                    return None;
                }
            },
        };
        let value = exponent.and_then(|exponent| value::decode(spec, Raw::Words(words), exponent));
        Some(self.deliver(channel, value))
    }

    fn spec(&self, channel: ChannelIndex) -> &ChannelSpec {
        &self.specs[usize::from(channel.0)]
    }

    fn deliver(&mut self, channel: ChannelIndex, value: Result<Value, Quality>) -> Sample {
        self.outcomes[usize::from(channel.0)] = Outcome::Delivered;
        match value {
            Ok(value) => Sample { channel, value: Some(value), quality: Quality::Good },
            Err(quality) => Sample { channel, value: None, quality },
        }
    }
}

fn active(plan: &ReadPlan) -> Vec<Active> {
    plan.requests().iter().map(|read| Active { read: read.clone(), waited: None }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::value::tests::channel;
    use super::*;
    use gapless_common::profile::ValueType;
    use proptest::prelude::*;

    const REFUSED: Quality = Quality::BadRefused(ILLEGAL_DATA_ADDRESS);
    const SOON: Duration = Duration::from_secs(1);

    fn device(specs: Vec<ChannelSpec>, max_registers: u16, max_hole: u16) -> DevicePoll {
        DevicePoll::new(specs, Limits { max_registers, max_hole, ..Limits::default() }).unwrap()
    }

    fn u16s(addresses: &[u16]) -> Vec<ChannelSpec> {
        addresses.iter().map(|&address| channel(ValueType::U16, address)).collect()
    }

    /// A device whose register `n` holds `n`, and that refuses any request touching `illegal`.
    fn poll(device: &mut DevicePoll, illegal: &[u16], now: Duration) -> (Vec<Sample>, usize) {
        device.begin(now);
        let (mut samples, mut exchanges) = (Vec::new(), 0);
        while let Some(read) = device.current() {
            exchanges += 1;
            let addresses = read.start()..read.start() + read.count();
            if illegal.iter().any(|address| addresses.contains(address)) {
                device.refused(ILLEGAL_DATA_ADDRESS, now);
            } else {
                let data = ResponseData::Registers(addresses.collect());
                samples.extend(device.answered(&data));
            }
        }
        samples.extend(device.end(Quality::BadNoAnswer));
        samples.sort_by_key(|sample| sample.channel);
        (samples, exchanges)
    }

    fn check(
        device: &mut DevicePoll,
        illegal: &[u16],
        now: Duration,
        addresses: &[u16],
        exchanges_expected: usize,
    ) {
        let (samples, exchanges) = poll(device, illegal, now);
        assert_eq!(exchanges, exchanges_expected, "exchanges at {now:?}");
        assert_eq!(samples.len(), addresses.len(), "each channel once");
        for (sample, address) in samples.iter().zip(addresses) {
            let value = (!illegal.contains(address)).then(|| Value::Number(f64::from(*address)));
            let quality = if value.is_some() { Quality::Good } else { REFUSED };
            assert_eq!((&sample.value, sample.quality), (&value, quality), "register {address}");
        }
    }

    #[test]
    fn a_refusal_is_split_within_the_poll_and_remembered() {
        let addresses = [0, 1, 2, 3, 10, 11];
        let mut device = device(u16s(&addresses), 125, 20);
        let hour = Duration::from_secs(3_600);
        check(&mut device, &[], SOON, &addresses, 1);
        // The hole is refused: one refusal, two smaller requests, at once and from then on.
        check(&mut device, &[5], SOON, &addresses, 3);
        check(&mut device, &[5], SOON, &addresses, 2);
        // Register 2 is refused: 0..3, then 0..1, 2..3, 2, 3, and 10..11.
        check(&mut device, &[2, 5], SOON, &addresses, 6);
        check(&mut device, &[2, 5], SOON, &addresses, 3);
        // Probed in vain after a minute, then after two.
        let minute = SOON + PROBE_WAIT_MIN;
        check(&mut device, &[2, 5], minute, &addresses, 4);
        check(&mut device, &[2, 5], minute + PROBE_WAIT_MIN, &addresses, 3);
        check(&mut device, &[2, 5], minute + 2 * PROBE_WAIT_MIN, &addresses, 4);
        // An hour later it is granted: one probe, then all is merged again.
        check(&mut device, &[], hour, &addresses, 4);
        check(&mut device, &[], hour, &addresses, 1);
    }

    #[test]
    fn a_device_that_refuses_everything_is_still_asked_once_a_poll() {
        let addresses = [0, 1, 2, 3];
        let mut device = device(u16s(&addresses), 125, 0);
        check(&mut device, &addresses, SOON, &addresses, 7);
        for _ in 0..3 {
            check(&mut device, &addresses, SOON, &addresses, 1);
        }
        let (samples, _) = poll(&mut device, &[], SOON);
        assert_eq!(samples.iter().filter(|s| s.quality == Quality::Good).count(), 1);
        check(&mut device, &[], SOON, &addresses, 1);
    }

    #[test]
    fn probes_grow_rare() {
        let mut device = device(u16s(&[0, 9]), 125, 0);
        let mut waits = Vec::new();
        let mut now = SOON;
        for _ in 0..9 {
            device.begin(now);
            while let Some(read) = device.current() {
                if read.start() == 9 {
                    let consequence = device.refused(ILLEGAL_DATA_ADDRESS, now);
                    let Consequence::SetAside(wait) = consequence else { panic!("{consequence:?}") };
                    waits.push(wait.as_secs());
                    now += wait;
                } else {
                    device.answered(&ResponseData::Registers(vec![0]));
                }
            }
            device.end(Quality::BadNoAnswer);
        }
        assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
    }

    #[test]
    fn other_refusals_and_failures_mark_their_channels_only() {
        let mut device = device(u16s(&[0, 9, 20, 30]), 125, 0);
        device.begin(SOON);
        assert_eq!(device.refused(ExceptionCode(6), SOON), Consequence::None);
        device.failed(Quality::BadCorrupt);
        let good = device.answered(&ResponseData::Registers(vec![7]));
        assert_eq!(
            good,
            [Sample { channel: ChannelIndex(2), value: Some(Value::Number(7.0)), quality: Quality::Good }]
        );
        let bad: Vec<_> =
            device.end(Quality::BadNotConnected).iter().map(|s| (s.channel.0, s.quality)).collect();
        let busy = Quality::BadRefused(ExceptionCode(6));
        assert_eq!(bad, [(0, busy), (1, Quality::BadCorrupt), (3, Quality::BadNotConnected)]);
        assert!(device.end(Quality::BadNoAnswer).is_empty(), "each channel once");
        device.begin(SOON);
        assert_eq!(device.requests().count(), 4);
    }

    #[test]
    fn a_power_of_ten_may_come_with_another_answer_of_the_same_poll() {
        let scaled = |address, from| ChannelSpec {
            scale_from: Some(Location::Absolute(from)),
            ..channel(ValueType::I16, address)
        };
        let specs = vec![scaled(0, 50), scaled(51, 1), scaled(2, 90), scaled(52, 53)];
        let mut device = device(specs, 10, 10);
        let starts: Vec<u16> = device.requests().map(PlannedRead::start).collect();
        assert_eq!(starts, [0, 50, 90]);
        device.begin(SOON);
        assert!(device.answered(&ResponseData::Registers(vec![2302, 0xFFFE, 7])).is_empty());
        let number = |channel, value| Sample {
            channel: ChannelIndex(channel),
            value: Some(Value::Number(value)),
            quality: Quality::Good,
        };
        let second = device.answered(&ResponseData::Registers(vec![0xFFFF, 5, 6, 0x8000]));
        let none = Sample { channel: ChannelIndex(3), value: None, quality: Quality::BadInvalid };
        assert_eq!(second, [number(0, 230.2), number(1, 0.05), none]);
        device.failed(Quality::BadNoAnswer);
        let rest = device.end(Quality::BadNotConnected);
        assert_eq!(rest.len(), 1);
        assert_eq!((rest[0].channel.0, rest[0].quality), (2, Quality::BadNoAnswer));
    }

    #[test]
    fn what_the_device_does_not_have_is_no_data() {
        let absent = ChannelSpec {
            location: Location::SunSpec { model: 103, offset: 2 },
            ..channel(ValueType::U16, 0)
        };
        let mut device = device(vec![absent, channel(ValueType::U16, 4)], 125, 0);
        let (samples, exchanges) = poll(&mut device, &[], SOON);
        assert_eq!(exchanges, 1);
        let qualities: Vec<_> = samples.iter().map(|sample| sample.quality).collect();
        assert_eq!(qualities, [Quality::NoData, Quality::Good]);
    }

    proptest! {
        #[test]
        fn whatever_is_illegal_every_legal_channel_is_read(
            addresses in prop::collection::vec(0u16..200, 1..40),
            illegal in prop::collection::vec(0u16..200, 0..40),
            max_hole in 0u16..30,
        ) {
            let mut device = device(u16s(&addresses), 125, max_hole);
            let (_, first) = poll(&mut device, &illegal, SOON);
            prop_assert!(first <= 2 * addresses.len() + 1);
            let (samples, second) = poll(&mut device, &illegal, SOON);
            prop_assert!(second <= first && second <= addresses.len());
            prop_assert_eq!(samples.len(), addresses.len());
            for (sample, address) in samples.iter().zip(&addresses) {
                let quality = if illegal.contains(address) { REFUSED } else { Quality::Good };
                prop_assert_eq!(sample.quality, quality);
            }
        }
    }
}
