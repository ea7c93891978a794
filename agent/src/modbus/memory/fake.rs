//! A meter for unit tests: what its registers say, record by record, and what it will not say. Knows nothing of time.

use std::collections::BTreeMap;

use gapless_common::id::DeviceIndex;
use gapless_common::profile::{LoadProfile, Numbering, Profile, Way};
use gapless_common::quality::{Cause, ExceptionCode};
use gapless_common::time::{SlotGrid, Timestamp};

use super::Settings;
use super::recorder::Failure;
use crate::clock::Now;
use crate::modbus::Answer;
use crate::modbus::pdu::{Refusal, Request, ResponseData};
use crate::modbus::plan::Limits;

/// A ring of places with a record a minute, all of them in input registers from 1000 on; or behind a window.
pub(super) const RING: &str = "numbering = \"ring\"\nnewest = { address = 100, type = \"u16\" }\ncount = { address = 101, type = \"u16\" }";
pub(super) const UNSAID: &str = "numbering = \"ring\"\nnewest = { address = 100, type = \"u16\" }";
pub(super) const MAPPED: &str = "window = { table = \"input\", address = 1000 }";
pub(super) const WINDOW: &str = "window = { address = 300, select = { address = 299, type = \"u16\" } }";

/// 2026-01-01T00:00:00Z
pub(super) const T: i64 = 1_767_225_600_000;
pub(super) const MINUTE: i64 = 60_000;

/// So many milliseconds after [`T`].
pub(super) fn now(ms: i64) -> Now {
    Now { boot_ms: u64::try_from(ms).unwrap(), wall: Timestamp(T + ms), wall_set: true }
}

pub(super) fn load(capacity: u16, numbering: &str, way: &str) -> LoadProfile {
    let text = format!(
        "id = \"m\"\nmake = \"m\"\nmodel = \"m\"\nkind = \"meter\"\nsource = \"here\"\n\
         channel = [{{ id = \"voltage\", address = 0, type = \"f32\", unit = \"V\" }}]\n\
         [load_profile]\ninterval = \"1m\"\nregisters = 3\nzone = \"+00:00\"\ncapacity = {capacity}\n\
         stamp = {{ encoding = \"seconds-1970\" }}\nfield = [{{ id = \"count\", address = 2, type = \"u16\" }}]\n\
         {numbering}\n{way}\n"
    );
    let profile = Profile::parse("meter.toml", &text).unwrap_or_else(|error| panic!("{error}"));
    profile.load.unwrap()
}

pub(super) fn settings(capacity: u16, numbering: &str, way: &str) -> Settings {
    let load = load(capacity, numbering, way);
    Settings {
        device: DeviceIndex(0),
        name: "meter".into(),
        zone: load.zone.unwrap(),
        grid: SlotGrid::every(load.interval),
        load,
        first_ms: 0,
        limits: Limits::default(),
        paused: false,
    }
}

/// What becomes of a request for a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Refuses(u8),
    Silent,
    /// Its time is none.
    Blank,
    /// Its count is another one each time.
    Runs,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Meter {
    load: LoadProfile,
    /// By place: seconds since 1970, and a count.
    pub records: BTreeMap<i64, (i64, u16)>,
    /// By place.
    pub faults: BTreeMap<i64, Fault>,
    /// What the pointers say.
    pub newest: u16,
    pub count: u16,
    /// It answers nothing at all.
    pub is_silent: bool,
    /// Another master selects this place before each reading of the window.
    pub stolen: Option<i64>,
    /// Or one so far behind the one that was selected.
    pub ahead: i64,
    selected: i64,
    readings: u16,
    /// The records that were read, by place and number of them.
    pub log: Vec<(i64, i64)>,
}

impl Meter {
    pub(super) fn new(load: &LoadProfile) -> Self {
        Self {
            load: load.clone(),
            records: BTreeMap::new(),
            faults: BTreeMap::new(),
            newest: 0,
            count: 0,
            is_silent: false,
            stolen: None,
            ahead: 0,
            selected: 0,
            readings: 0,
            log: Vec::new(),
        }
    }

    /// A record of this minute since [`T`] in a place, which is the newest.
    pub(super) fn write(&mut self, place: i64, minute: i64) {
        self.write_at(place, minute * MINUTE);
    }

    /// The same by the millisecond.
    pub(super) fn write_at(&mut self, place: i64, ms: i64) {
        let count = u16::try_from(ms.div_euclid(MINUTE).rem_euclid(60_000)).unwrap();
        self.records.insert(place, ((T + ms) / 1_000, count));
        self.newest = u16::try_from(place).unwrap() + self.load.first;
        self.count = (self.count + 1).min(self.load.capacity);
    }

    fn record(&mut self, place: i64) -> Vec<u16> {
        let (seconds, mut count) = self.records.get(&place).copied().unwrap_or_default();
        let fault = self.faults.get(&place);
        if fault == Some(&Fault::Runs) {
            self.readings += 1;
            count = self.readings;
        }
        let seconds = if fault == Some(&Fault::Blank) { 0 } else { seconds };
        vec![u16::try_from(seconds >> 16).unwrap(), u16::try_from(seconds & 0xFFFF).unwrap(), count]
    }

    fn read(&mut self, first: i64, count: i64) -> Result<Answer, Failure> {
        self.log.push((first, count));
        for place in first..first + count {
            match self.faults.get(&place) {
                Some(Fault::Refuses(code)) => return Ok(Err(Refusal(ExceptionCode(*code)))),
                Some(Fault::Silent) => return no_answer(),
                Some(Fault::Blank | Fault::Runs) | None => {}
            }
        }
        let words = (first..first + count).flat_map(|place| self.record(place)).collect();
        Ok(Ok(ResponseData::Registers(words)))
    }

    pub(super) fn answer(&mut self, request: &Request) -> Result<Answer, Failure> {
        if self.is_silent {
            return no_answer();
        }
        let mut pdu = Vec::new();
        request.encode(&mut pdu);
        let word = |at: usize| i64::from(pdu[at]) << 8 | i64::from(pdu[at + 1]);
        let (function, address, number) = (pdu[0], word(1), word(3));
        match (function, self.load.way) {
            (6, Way::Window { .. }) => {
                let place = number - i64::from(self.load.first);
                self.selected = place;
                if let Some(Fault::Refuses(code @ (2 | 3))) = self.faults.get(&place) {
                    return Ok(Err(Refusal(ExceptionCode(*code))));
                }
                Ok(Ok(ResponseData::Written))
            }
            (3, Way::Window { address: window, .. }) if address == i64::from(window) => {
                self.read(self.stolen.unwrap_or(self.selected + self.ahead), 1)
            }
            (4, Way::Mapped { address: first, .. }) => {
                self.read((address - i64::from(first)) / 3, number / 3)
            }
            _ => {
                let Numbering::Ring { newest } = self.load.numbering else { panic!("a ring only") };
                let words = [self.newest, self.count];
                let from = usize::try_from(address - i64::from(newest.address)).unwrap();
                Ok(Ok(ResponseData::Registers(words[from..from + usize::try_from(number).unwrap()].to_vec())))
            }
        }
    }
}

fn no_answer() -> Result<Answer, Failure> {
    Err(Failure { cause: Cause::NoAnswer, why: "no answer".to_owned() })
}
