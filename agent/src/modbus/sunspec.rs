//! The walk along a SunSpec device's chain of models (SunSpec Device Information Model Specification V1.1,
//! section 5): the marker `SunS`, then model after model, each with its id and length, until the end model.
//!
//! While [`Walk::current`] names a request, send it and report [`Walk::answered`] or [`Walk::refused`]; then
//! [`Walk::finish`] gives the [`Chain`], which turns places within models into addresses. What the models mean
//! is the profile's business.

use gapless_common::profile::{ChannelSpec, Location, RegisterTable};

use super::pdu::{Request, ResponseData};

/// `SunS` in two registers.
const MARKER: [u16; 2] = [0x5375, 0x6E53];
const MARKER_LEN: u16 = 2;
/// Registers before a model's data: its id and its length.
pub(super) const HEADER_LEN: u16 = 2;
/// Id of the model that says who made the device: every device has it, whatever it measures.
const COMMON_MODEL: u16 = 1;
/// Id of the model that ends the chain.
const END_MODEL: u16 = 0xFFFF;
/// More models than any device has; a chain that goes on is noise.
pub const MODELS_MAX: usize = 256;

/// One model of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// Its id, such as 103 for a three-phase inverter.
    pub id: u16,
    /// Protocol address of its id register.
    pub address: u16,
    /// Registers behind its id and length.
    pub length: u16,
}

/// Why a device's models could not be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// None of the addresses holds `SunS`.
    #[error("no SunSpec marker `SunS` at {bases:?}")]
    NoMarker {
        /// The addresses looked at.
        bases: Vec<u16>,
    },
    /// A model that would end above address 65,535.
    #[error("SunSpec model {id} at address {address} with {length} registers ends above address 65535")]
    PastEnd {
        /// Its id.
        id: u16,
        /// Address of its id register.
        address: u16,
        /// Its length.
        length: u16,
    },
    /// The chain has no end.
    #[error("more than {MODELS_MAX} SunSpec models")]
    Endless,
    /// The device refused the first model's header, or the walk was given up.
    #[error("the SunSpec chain at {base} broke off before its first model")]
    BrokenOff {
        /// Address of the marker.
        base: u16,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Looking for the marker at the base of this number.
    Marker(usize),
    /// At a model's header.
    Header(u16),
    Ended,
    Failed(WalkError),
}

/// A walk under way.
#[derive(Debug, Clone)]
pub struct Walk {
    bases: Vec<u16>,
    base: u16,
    state: State,
    models: Vec<Model>,
    request: Option<Request>,
}

impl Walk {
    /// Looks for the marker at these addresses of the holding registers, in this order
    /// (`profile::SUNSPEC_BASES` unless the device has another).
    #[must_use]
    pub fn new(bases: &[u16]) -> Self {
        let mut walk =
            Self { bases: bases.to_vec(), base: 0, state: State::Ended, models: Vec::new(), request: None };
        walk.look_at(0);
        walk
    }

    /// The request to send next; `None` when the walk is over.
    #[must_use]
    pub const fn current(&self) -> Option<&Request> {
        self.request.as_ref()
    }

    /// The current request was answered.
    pub fn answered(&mut self, data: &ResponseData) {
        let words = match data {
            ResponseData::Registers(words) => words.as_slice(),
            ResponseData::Bits(_) | ResponseData::Records(_) | ResponseData::Written => &[],
        };
        match (&self.state, words) {
            (State::Marker(_), words) if words == MARKER => self.read_header(self.base, MARKER_LEN),
            (&State::Marker(n), _) => self.look_at(n + 1),
            (&State::Header(address), &[id, length]) => self.take_header(address, id, length),
            _ => self.break_off(),
        }
    }

    /// The device refused the current request: no marker there, or (some devices) the end of the chain. Not to
    /// be called for a device that is busy: that request is to be sent again.
    pub fn refused(&mut self) {
        match self.state {
            State::Marker(n) => self.look_at(n + 1),
            _ => self.break_off(),
        }
    }

    /// What was found.
    ///
    /// # Errors
    /// [`WalkError`] where there is no chain or no end of it.
    pub fn finish(self) -> Result<Chain, WalkError> {
        match self.state {
            State::Ended => Ok(Chain { base: self.base, models: self.models }),
            State::Failed(why) => Err(why),
            State::Marker(_) => Err(WalkError::NoMarker { bases: self.bases }),
            State::Header(_) => Err(WalkError::BrokenOff { base: self.base }),
        }
    }

    fn look_at(&mut self, n: usize) {
        match self.bases.get(n) {
            Some(&base) => {
                self.base = base;
                self.state = State::Marker(n);
                self.request = Request::read(RegisterTable::HoldingRegister, base, MARKER_LEN).ok();
            }
            None => self.fail(WalkError::NoMarker { bases: self.bases.clone() }),
        }
    }

    fn read_header(&mut self, after: u16, skip: u16) {
        let request = |address| Request::read(RegisterTable::HoldingRegister, address, HEADER_LEN).ok();
        match after.checked_add(skip).and_then(|address| Some((address, request(address)?))) {
            Some((address, request)) => {
                self.state = State::Header(address);
                self.request = Some(request);
            }
            None => self.break_off(),
        }
    }

    fn take_header(&mut self, address: u16, id: u16, length: u16) {
        if id == END_MODEL {
            return self.end(State::Ended);
        }
        if self.models.len() == MODELS_MAX {
            return self.fail(WalkError::Endless);
        }
        let Some(whole) = length.checked_add(HEADER_LEN).filter(|w| address.checked_add(w - 1).is_some())
        else {
            return self.fail(WalkError::PastEnd { id, address, length });
        };
        self.models.push(Model { id, address, length });
        self.read_header(address, whole);
    }

    /// Devices in the field do not all have an end model: what was found before is good.
    fn break_off(&mut self) {
        if self.models.is_empty() {
            self.fail(WalkError::BrokenOff { base: self.base });
        } else {
            self.end(State::Ended);
        }
    }

    fn fail(&mut self, why: WalkError) {
        self.end(State::Failed(why));
    }

    fn end(&mut self, state: State) {
        self.state = state;
        self.request = None;
    }
}

/// The models of a device, in the order of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    base: u16,
    models: Vec<Model>,
}

impl Chain {
    /// Address of the marker.
    #[must_use]
    pub const fn base(&self) -> u16 {
        self.base
    }

    /// The models; an id may occur several times.
    #[must_use]
    pub fn models(&self) -> &[Model] {
        &self.models
    }

    /// The ids of the models, in their order.
    #[must_use]
    pub fn ids(&self) -> Vec<u16> {
        self.models.iter().map(|model| model.id).collect()
    }

    /// The ids of the models that these channels are placed in, the one that every device has aside, where the device
    /// has not one of them: it is another kind of device than these channels are of.
    #[must_use]
    pub fn lacks_all(&self, specs: &[ChannelSpec]) -> Option<Vec<u16>> {
        let places = specs.iter().flat_map(|spec| [Some(spec.location), spec.scale_from]).flatten();
        let mut wanted: Vec<u16> = places
            .filter_map(|place| match place {
                Location::SunSpec { model, .. } => Some(model),
                Location::Absolute(_) => None,
            })
            .filter(|model| *model != COMMON_MODEL)
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let has_any = self.models.iter().any(|model| wanted.contains(&model.id));
        (!wanted.is_empty() && !has_any).then_some(wanted)
    }

    /// The models in which channels of these are placed, each once.
    #[must_use]
    pub fn used_by(&self, specs: &[ChannelSpec]) -> Vec<Model> {
        let places = specs.iter().flat_map(|spec| [Some(spec.location), spec.scale_from]).flatten();
        let mut used: Vec<Model> = places.filter_map(|place| self.model(place).copied()).collect();
        used.sort_unstable_by_key(|model| model.address);
        used.dedup();
        used
    }

    /// The first model of the id that a place names.
    fn model(&self, place: Location) -> Option<&Model> {
        let Location::SunSpec { model: id, .. } = place else { return None };
        self.models.iter().find(|model| model.id == id)
    }

    /// The address of `registers` registers at a place; `None` where the first model of that id does not hold
    /// them, or there is none.
    #[must_use]
    pub fn address(&self, location: Location, registers: u16) -> Option<u16> {
        let offset = match location {
            Location::Absolute(address) => return Some(address),
            Location::SunSpec { offset, .. } => offset,
        };
        let model = self.model(location)?;
        let end = offset.checked_add(registers)?;
        (end <= model.length.saturating_add(HEADER_LEN)).then(|| model.address.checked_add(offset)).flatten()
    }

    /// The channel with addresses instead of places within models; unchanged where the device does not have it.
    #[must_use]
    pub fn locate(&self, spec: &ChannelSpec) -> ChannelSpec {
        let absolute = |location, registers| self.address(location, registers).map(Location::Absolute);
        let mut located = spec.clone();
        let value = absolute(spec.location, spec.registers());
        let exponent = spec.scale_from.map(|from| absolute(from, 1));
        match (value, exponent) {
            (Some(value), None) => located.location = value,
            (Some(value), Some(Some(from))) => (located.location, located.scale_from) = (value, Some(from)),
            _ => {}
        }
        located
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::tests::channel;
    use super::*;
    use gapless_common::profile::{SUNSPEC_BASES, ValueType};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Walks along registers; an address that is not there is refused.
    fn walk(registers: &BTreeMap<u16, u16>) -> (Result<Chain, WalkError>, usize) {
        let mut walk = Walk::new(&SUNSPEC_BASES);
        let mut exchanges = 0;
        while let Some(request) = walk.current() {
            exchanges += 1;
            let mut pdu = Vec::new();
            request.encode(&mut pdu);
            let start = u16::from_be_bytes([pdu[1], pdu[2]]);
            let words = [start, start.saturating_add(1)].map(|address| registers.get(&address).copied());
            match words {
                [Some(a), Some(b)] => walk.answered(&ResponseData::Registers(vec![a, b])),
                _ => walk.refused(),
            }
        }
        (walk.finish(), exchanges)
    }

    fn image(base: u16, models: &[(u16, u16)], ended: bool) -> BTreeMap<u16, u16> {
        let mut words = MARKER.to_vec();
        for &(id, length) in models {
            words.extend([id, length]);
            words.extend(std::iter::repeat_n(7, usize::from(length)));
        }
        if ended {
            words.extend([END_MODEL, 0]);
        }
        (base..=u16::MAX).zip(words).collect()
    }

    const INVERTER: [(u16, u16); 3] = [(1, 66), (103, 50), (120, 26)];

    #[test]
    fn models_are_found_wherever_the_chain_begins() {
        for (n, base) in (1..).zip(SUNSPEC_BASES) {
            for ended in [true, false] {
                let (chain, exchanges) = walk(&image(base, &INVERTER, ended));
                let chain = chain.unwrap();
                let found: Vec<_> =
                    chain.models().iter().map(|m| (m.id, m.address - base, m.length)).collect();
                assert_eq!(found, [(1, 2, 66), (103, 70, 50), (120, 122, 26)]);
                assert_eq!((chain.base(), exchanges), (base, n + 4));
            }
        }
    }

    #[test]
    fn channels_get_the_addresses_of_their_model() {
        let chain = walk(&image(40_000, &INVERTER, true)).0.unwrap();
        let at = |model, offset| Location::SunSpec { model, offset };
        let rows = [
            (at(103, 2), 1, Some(40_072)),
            (at(103, 50), 2, Some(40_120)),
            (at(103, 51), 2, None),
            (at(102, 2), 1, None),
            (at(1, u16::MAX), 1, None),
            (Location::Absolute(5), 2, Some(5)),
        ];
        for (location, registers, expected) in rows {
            assert_eq!(chain.address(location, registers), expected, "{location}");
        }
        let spec = ChannelSpec {
            location: at(103, 16),
            scale_from: Some(at(103, 17)),
            ..channel(ValueType::I16, 0)
        };
        let located = chain.locate(&spec);
        assert_eq!(located.location, Location::Absolute(40_086));
        assert_eq!(located.scale_from, Some(Location::Absolute(40_087)));
        let absent = ChannelSpec { scale_from: Some(at(104, 17)), ..spec };
        assert_eq!(chain.locate(&absent), absent);
    }

    #[test]
    fn broken_chains_are_named() {
        let endless: Vec<_> = (0..300).map(|n| (n, 0)).collect();
        let mut past_end = image(40_000, &[(1, 66)], false);
        past_end.extend([(40_070, 103), (40_071, 30_000)]);
        let rows = [
            (BTreeMap::new(), WalkError::NoMarker { bases: SUNSPEC_BASES.to_vec() }),
            (
                BTreeMap::from([(0, 0x5375), (1, 0x5375)]),
                WalkError::NoMarker { bases: SUNSPEC_BASES.to_vec() },
            ),
            (image(50_000, &[], false), WalkError::BrokenOff { base: 50_000 }),
            (image(0, &endless, true), WalkError::Endless),
            (past_end, WalkError::PastEnd { id: 103, address: 40_070, length: 30_000 }),
        ];
        for (registers, expected) in rows {
            assert_eq!(walk(&registers).0, Err(expected));
        }
        assert_eq!(walk(&image(0, &[], true)).0.map(|chain| chain.models().len()), Ok(0));
    }

    proptest! {
        #[test]
        fn any_registers_end_the_walk(words in prop::collection::vec(0u16..300, 0..400)) {
            let registers = (40_002u16..).zip(words).chain([(40_000, MARKER[0]), (40_001, MARKER[1])]).collect();
            let (_, exchanges) = walk(&registers);
            prop_assert!(exchanges <= MODELS_MAX + 3);
        }
    }
}
