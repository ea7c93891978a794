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
//! answered, the next poll begins with the merged plan again; so does what was split without anything refused alone,
//! once an hour.
//!
//! A value within a SunSpec model counts only once the model's header was read in the same poll (`guard`);
//! [`DevicePoll::has_moved`] tells that the device must be walked along anew. It neither retries (the bus does) nor reads a
//! clock: `now` is the time since any fixed instant.

use std::collections::BTreeMap;
use std::time::Duration;

use gapless_common::id::ChannelIndex;
use gapless_common::profile::{ChannelSpec, Location, RegisterTable};
use gapless_common::quality::{ExceptionCode, Quality};
use gapless_common::reading::{Sample, Value};

use super::guard::Guard;
use super::pdu::ResponseData;
use super::plan::{Limits, Part, PlanError, PlannedRead, Purpose, ReadPlan};
use super::sunspec::Model;
use super::value::{self, Raw};

/// Pause before what was refused alone is asked again; doubles with each further refusal.
pub const PROBE_WAIT_MIN: Duration = Duration::from_secs(60);
/// Longest such pause, and the time after which what was split is merged again.
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
    /// When requests that were split are merged again.
    merge_at: Option<Duration>,
    guard: Guard,
    next: usize,
    outcomes: Vec<Outcome>,
    exponents: BTreeMap<(RegisterTable, u16), Result<u16, Quality>>,
    /// Values whose power of ten, or whose model's header, is in another request of the same poll.
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
        Self::within(specs, &[], limits)
    }

    /// Plans the polls of a SunSpec device whose channels were located in these models.
    ///
    /// # Errors
    /// As [`ReadPlan::new`].
    pub fn within(specs: Vec<ChannelSpec>, models: &[Model], limits: Limits) -> Result<Self, PlanError> {
        let plan = ReadPlan::with_headers(&specs, models, limits)?;
        Ok(Self {
            active: active(&plan),
            plan,
            set_aside: Vec::new(),
            healed: false,
            merge_at: None,
            guard: Guard::new(models),
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
            (self.active, self.merge_at) = (active(&self.plan), None);
            self.set_aside.clear();
        }
        self.merge_due(now);
        self.probe_due(now);
        self.next = 0;
        self.guard.begin();
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

    /// Merges again what was split long enough ago: a device may have refused a hole while it started. What is set
    /// aside stays so.
    fn merge_due(&mut self, now: Duration) {
        if self.merge_at.is_none_or(|at| now < at) {
            return;
        }
        self.merge_at = None;
        let (probes, asked): (Vec<Active>, Vec<Active>) =
            std::mem::take(&mut self.active).into_iter().partition(|active| active.waited.is_some());
        let merged = self.plan.merged(asked.iter().map(|active| &active.read));
        self.active = merged.into_iter().map(|read| Active { read, waited: None }).chain(probes).collect();
    }

    /// Lets the next poll begin with another request: the device may pass over this one alone in silence.
    pub fn rotate(&mut self) {
        if !self.active.is_empty() {
            self.active.rotate_left(1);
        }
    }

    /// Whether this poll has found another model, or none, where one of those it was planned for had been. None of
    /// its values within that model counts.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.guard.has_moved()
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
            ResponseData::Records(_) | ResponseData::Written => Vec::new(),
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
                self.merge_at.get_or_insert(now + PROBE_WAIT_MAX);
                Consequence::Split(count)
            }
            None => Consequence::SetAside(self.put_aside(exception, now)),
        }
    }

    fn put_aside(&mut self, exception: ExceptionCode, now: Duration) -> Duration {
        let Active { read, waited } = self.active.remove(self.next);
        let waited = waited.map_or(PROBE_WAIT_MIN, |waited| (waited * 2).min(PROBE_WAIT_MAX));
        self.settle(&read, Quality::BadRefused(exception));
        for header in read.parts().iter().filter(|part| part.purpose == Purpose::Header) {
            self.guard.refused(header.start);
        }
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
        for (channel, _) in std::mem::take(&mut self.waiting) {
            if let Some(Err(quality)) = self.standing(self.spec(channel)) {
                self.outcomes[usize::from(channel.0)] = Outcome::Bad(quality);
            }
        }
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
                Purpose::Header => self.guard.note(part.start, Err(quality)),
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
        for part in read.parts() {
            match part.purpose {
                Purpose::Value(_) => {}
                Purpose::Exponent => {
                    self.note_exponent(read.table(), part, word_at(part).map(|words| words[0]));
                }
                Purpose::Header => self.guard.note(part.start, word_at(part)),
            }
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

    /// Decodes a value, or keeps its registers until its power of ten and its model are known.
    fn take_value(&mut self, channel: ChannelIndex, words: &[u16]) -> Option<Sample> {
        let spec = self.spec(channel);
        let (Some(standing), Some(exponent)) = (self.standing(spec), self.exponent(spec)) else {
            self.waiting.push((channel, words.into()));
            return None;
        };
        let value =
            standing.and(exponent).and_then(|exponent| value::decode(spec, Raw::Words(words), exponent));
        Some(self.deliver(channel, value))
    }

    /// Whether the channel's model stands where it was found; `None` where this poll has not seen that yet.
    fn standing(&self, spec: &ChannelSpec) -> Option<Result<(), Quality>> {
        match spec.location {
            Location::Absolute(address) => self.guard.verdict(spec.table, address),
            Location::SunSpec { .. } => Some(Err(Quality::NoData)),
        }
    }

    /// The channel's power of ten; `None` where this poll has not seen it yet.
    fn exponent(&self, spec: &ChannelSpec) -> Option<Result<i32, Quality>> {
        match spec.scale_from {
            None => Some(Ok(0)),
            Some(Location::SunSpec { .. }) => Some(Err(Quality::NoData)),
            Some(Location::Absolute(address)) => {
                let word = self.exponents.get(&(spec.table, address))?;
                let standing = self.guard.verdict(spec.table, address)?;
                Some(standing.and(*word).and_then(|word| value::exponent(spec.order, word)))
            }
        }
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
    fn what_was_split_is_merged_again_after_an_hour() {
        let addresses = [0, 1, 3];
        let mut device = device(u16s(&addresses), 125, 1);
        let hour = PROBE_WAIT_MAX;
        // Register 2, which nobody needs, is refused; an hour later it is tried again, once.
        check(&mut device, &[2], SOON, &addresses, 3);
        check(&mut device, &[], hour, &addresses, 2);
        check(&mut device, &[2], SOON + hour, &addresses, 3);
        check(&mut device, &[2], 2 * hour, &addresses, 2);
        check(&mut device, &[], SOON + 2 * hour, &addresses, 1);
        // With one register refused alone, the others are merged around it: its own probe is due as well.
        check(&mut device, &[1, 2], SOON + 2 * hour, &addresses, 5);
        check(&mut device, &[1, 2], SOON + 2 * hour, &addresses, 2);
        check(&mut device, &[1, 2], SOON + 3 * hour, &addresses, 3);
    }

    #[test]
    fn another_request_comes_first_after_a_poll_in_vain() {
        let mut device = device(u16s(&[0, 9, 20]), 125, 0);
        let mut first = Vec::new();
        for _ in 0..4 {
            device.begin(SOON);
            first.extend(device.current().map(PlannedRead::start));
            device.end(Quality::BadNoAnswer);
            device.rotate();
        }
        assert_eq!(first, [0, 9, 20, 0]);
    }

    /// A device of two models, 103 at 70 with 4 registers and 64001 at 80 with 2, whose registers hold `words` where
    /// given and their own addresses elsewhere; and the qualities of the values at 72, 75 and 82.
    fn qualities_with(words: &[(u16, u16)], backwards: bool, lost: Option<u16>) -> (Vec<Quality>, bool) {
        let models =
            [Model { id: 103, address: 70, length: 4 }, Model { id: 64_001, address: 80, length: 2 }];
        let limits = Limits { max_registers: 4, ..Limits::default() };
        let mut device = DevicePoll::within(u16s(&[72, 75, 82]), &models, limits).unwrap();
        if backwards {
            device.rotate();
        }
        device.begin(SOON);
        let word = |address| words.iter().find(|(a, _)| *a == address).map_or(address, |(_, word)| *word);
        let mut samples = Vec::new();
        while let Some(read) = device.current() {
            let addresses = read.start()..read.start() + read.count();
            if lost == Some(read.start()) {
                device.failed(Quality::BadCorrupt);
            } else {
                samples.extend(device.answered(&ResponseData::Registers(addresses.map(word).collect())));
            }
        }
        samples.extend(device.end(Quality::BadNoAnswer));
        samples.sort_by_key(|sample| sample.channel);
        (samples.iter().map(|sample| sample.quality).collect(), device.has_moved())
    }

    #[test]
    fn values_count_only_where_their_model_still_stands() {
        use Quality::{BadCorrupt, Good};
        let here = [(70, 103), (71, 4), (80, 64_001), (81, 2)];
        let but = |word: (u16, u16)| -> Vec<_> {
            here.into_iter().filter(|(address, _)| *address != word.0).chain([word]).collect()
        };
        let rows = [
            (here.to_vec(), None, vec![Good, Good, Good], false),
            (but((70, 102)), None, vec![BadCorrupt, BadCorrupt, Good], true),
            (but((71, 5)), None, vec![BadCorrupt, BadCorrupt, Good], true),
            (but((80, 0xFFFF)), None, vec![Good, Good, BadCorrupt], true),
            (here.to_vec(), Some(70), vec![BadCorrupt, BadCorrupt, Good], false),
            (here.to_vec(), Some(80), vec![Good, Good, BadCorrupt], false),
        ];
        for (words, lost, qualities, moved) in rows {
            for backwards in [false, true] {
                let seen = qualities_with(&words, backwards, lost);
                assert_eq!(seen, (qualities.clone(), moved), "{words:?}, {lost:?} lost");
            }
        }
    }

    #[test]
    fn a_header_that_is_refused_alone_has_gone() {
        let models = [Model { id: 70, address: 70, length: 71 }];
        let mut device = DevicePoll::within(u16s(&[72]), &models, Limits::default()).unwrap();
        poll(&mut device, &[73], SOON);
        assert!(!device.has_moved());
        poll(&mut device, &[70], SOON);
        assert!(device.has_moved());
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
