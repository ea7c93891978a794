//! Which records a memory has, and how one of them is asked for. Knows no time.
//!
//! Records are counted here by numbers of our own that rise as records come, whatever the meter calls them: those of a
//! running number are its own and go on where its register begins anew, those of a ring where the ring does.

use std::ops::Range;

use gapless_common::profile::{Held, LoadProfile, Names, Numbering, Register, ValueType, Way};

use super::super::file::{RECORD_MAX, SubRequest, runs_max};
use super::super::pdu::Request;

/// What the registers that speak of the memory say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Said {
    /// The number of the newest record.
    pub newest: u32,
    /// Of [`Held::Count`] and [`Held::Oldest`].
    pub held: Option<u32>,
}

/// The records that there are: from `oldest` to `newest`, none where that is smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first one.
    pub oldest: i64,
    /// The last one.
    pub newest: i64,
}

impl Extent {
    /// What the pointers mean; `before` is what they meant when they were read last, and `passed` how many records time has
    /// made since.
    #[must_use]
    pub fn new(load: &LoadProfile, said: Said, before: Option<Self>, passed: i64) -> Self {
        let (capacity, first) = (i64::from(load.capacity), i64::from(load.first));
        let newest = i64::from(said.newest) - i64::from(load.names == Names::Next);
        let held = said.held.map(i64::from);
        let before = before.filter(|before| !before.is_empty());
        match load.numbering {
            Numbering::Running { newest: register } => {
                let said = Running { first, capacity, newest, held, around: i64::from(register.max()) + 1 };
                said.extent(load.held, before, passed)
            }
            // A pointer that points to no place.
            Numbering::Ring { .. } if !(0..capacity).contains(&(i64::from(said.newest) - first)) => EMPTY,
            Numbering::Ring { .. } => {
                let place = (newest - first).rem_euclid(capacity);
                let count = match load.held {
                    Held::Oldest(_) => (newest - held.unwrap_or(newest)).rem_euclid(capacity) + 1,
                    Held::Count(_) | Held::Unsaid => held.unwrap_or(capacity),
                };
                let newest = before.map_or(capacity + place, |before| {
                    before.newest + (place - before.newest).rem_euclid(capacity)
                });
                Self::ending_at(newest, count, capacity)
            }
        }
    }

    fn ending_at(newest: i64, count: i64, most: i64) -> Self {
        Self { oldest: newest - count.clamp(0, most) + 1, newest }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.newest < self.oldest
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> i64 {
        self.newest - self.oldest + 1
    }

    /// Whether it is one of these.
    #[must_use]
    pub const fn has(&self, no: i64) -> bool {
        self.oldest <= no && no <= self.newest
    }

    /// Where a record stands, from 0 on.
    fn place(load: &LoadProfile, no: i64) -> i64 {
        match load.numbering {
            Numbering::Running { .. } => {
                (i64::from(Self::name(load, no)) - i64::from(load.first)).rem_euclid(i64::from(load.capacity))
            }
            Numbering::Ring { .. } => no.rem_euclid(i64::from(load.capacity)),
        }
    }

    /// What the meter calls a record.
    fn name(load: &LoadProfile, no: i64) -> u32 {
        let name = match load.numbering {
            Numbering::Running { newest } => no.rem_euclid(i64::from(newest.max()) + 1),
            Numbering::Ring { .. } => i64::from(load.first) + Self::place(load, no),
        };
        u32::try_from(name).unwrap_or(0)
    }

    /// How many records from `no` on one request can bring: up to `most`, no further than the place where the ring begins
    /// anew, at least one.
    #[must_use]
    pub fn run(&self, load: &LoadProfile, no: i64, most: usize) -> Range<i64> {
        let fit = match load.way {
            Way::Window { .. } => 1,
            Way::Mapped { .. } => {
                let left = i64::from(load.capacity) - Self::place(load, no);
                // Where the number itself begins anew, the next record stands elsewhere.
                let left = match load.numbering {
                    Numbering::Running { newest } => {
                        left.min(i64::from(newest.max()) + 1 - i64::from(Self::name(load, no)))
                    }
                    Numbering::Ring { .. } => left,
                };
                i64::try_from(most).unwrap_or(i64::MAX).min(left)
            }
            Way::File { .. } => i64::try_from(most.min(runs_max(load.registers))).unwrap_or(1),
        };
        no..no.saturating_add(fit.max(1)).min(self.newest + 1).max(no + 1)
    }

    /// The request that selects a record, where one must be.
    #[must_use]
    pub fn select(load: &LoadProfile, no: i64) -> Option<Request> {
        let Way::Window { select, writes_many, .. } = load.way else { return None };
        let name = Self::name(load, no);
        let words = written(select, name);
        match (&words[..], writes_many) {
            (&[word], false) => Some(Request::write_register(select.address, word)),
            _ => Request::write_registers(select.address, &words).ok(),
        }
    }

    /// The request that reads these records, once the first of them is selected; `None` where there is none, as an
    /// address would lie behind the last.
    #[must_use]
    pub fn read(load: &LoadProfile, run: &Range<i64>) -> Option<Request> {
        match load.way {
            Way::Window { table, address, .. } => Request::read(table, address, load.registers).ok(),
            Way::Mapped { table, address } => {
                let at = i64::from(address) + Self::place(load, run.start) * i64::from(load.registers);
                let count = i64::from(load.registers) * (run.end - run.start);
                Request::read(table, u16::try_from(at).ok()?, u16::try_from(count).ok()?).ok()
            }
            Way::File { file, record, stride } => {
                // A record of the load profile never stands in two files.
                let per_file = i64::from((RECORD_MAX + 1 - record - load.registers) / stride + 1);
                let sub_request = |no: i64| {
                    let place = Self::place(load, no);
                    Some(SubRequest {
                        file: u16::try_from(i64::from(file) + place / per_file).ok()?,
                        record: u16::try_from(i64::from(record) + place % per_file * i64::from(stride))
                            .ok()?,
                        registers: load.registers,
                    })
                };
                let runs = run.clone().map(sub_request).collect::<Option<Vec<_>>>()?;
                Request::read_file(&runs).ok()
            }
        }
    }
}

const EMPTY: Extent = Extent { oldest: 0, newest: -1 };

/// What is said where numbers grow with each record.
#[derive(Debug, Clone, Copy)]
struct Running {
    first: i64,
    capacity: i64,
    newest: i64,
    held: Option<i64>,
    /// How many numbers the register has.
    around: i64,
}

impl Running {
    fn extent(self, held: Held, before: Option<Extent>, passed: i64) -> Extent {
        let Self { first, capacity, around, .. } = self;
        // What is far more than time can have written is not a register that began anew, but a memory.
        let step = before.map(|before| (self.newest - before.newest).rem_euclid(around));
        let went_on =
            before.zip(step).filter(|(_, step)| *step <= passed.saturating_mul(2).saturating_add(2));
        let newest = went_on.map_or(self.newest, |(before, step)| before.newest + step);
        // Only a register of 16 bits begins anew in a meter's life.
        let is_short = around == 65_536;
        let span = match held {
            Held::Oldest(_) => self.held.map(|oldest| self.newest - oldest + 1),
            Held::Count(_) => self.held,
            Held::Unsaid => None,
        };
        let is_around = newest >= around
            || is_short && matches!(held, Held::Oldest(_)) && span.is_some_and(|span| span <= 0)
            || is_short && matches!(held, Held::Count(_)) && span > Some(newest - first + 1)
            // Nobody says how many there are, so that it may have begun anew before anybody looked.
            || is_short
                && held == Held::Unsaid
                && newest >= first
                && went_on.map_or(before.is_none(), |(before, _)| before.oldest < first);
        if self.newest < first && !is_around {
            return EMPTY;
        }
        let most = if is_around { capacity } else { (newest - first + 1).min(capacity) };
        let count = match held {
            Held::Oldest(_) => {
                span.map_or(most, |span| if is_around { (span - 1).rem_euclid(around) + 1 } else { span })
            }
            Held::Count(_) | Held::Unsaid => span.unwrap_or(most),
        };
        Extent::ending_at(newest, count, most)
    }
}

fn written(register: Register, number: u32) -> Vec<u16> {
    let (high, low) = (number >> 16, number & 0xFFFF);
    let mut words: Vec<u16> = [high, low].into_iter().filter_map(|word| u16::try_from(word).ok()).collect();
    if register.value_type == ValueType::U16 {
        words.remove(0);
    }
    if register.order.words_swapped() {
        words.reverse();
    }
    if register.order.bytes_swapped() { words.into_iter().map(u16::swap_bytes).collect() } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gapless_common::profile::{ProfileSet, RegisterTable};

    fn load(profile: &str) -> LoadProfile {
        let mut load = ProfileSet::embedded().unwrap().get(profile).unwrap().load.clone().unwrap();
        load.capacity = 100;
        load
    }

    fn said(newest: u32, held: u32) -> Said {
        Said { newest, held: Some(held) }
    }

    #[test]
    fn numbers_of_a_ring_go_on_where_it_begins_anew() {
        let ring = load("example-load-profile-window");
        let first = Extent::new(&ring, said(98, 100), None, 0);
        assert_eq!((first.newest - first.oldest, first.newest % 100), (99, 98));
        let next = Extent::new(&ring, said(1, 100), Some(first), 3);
        assert_eq!((next.newest - first.newest, next.oldest - first.oldest), (3, 3));
        assert_eq!(Extent::new(&ring, said(1, 100), Some(next), 0), next);
        let cleared = Extent::new(&ring, said(0, 1), Some(next), 0);
        assert_eq!((cleared.count(), cleared.newest.rem_euclid(100)), (1, 0));
        assert!(Extent::new(&ring, said(0, 0), Some(next), 0).is_empty());
        assert!(Extent::new(&ring, said(100, 50), None, 0).is_empty(), "a pointer to no place");
    }

    #[test]
    fn a_running_number_is_its_own() {
        let running = load("example-load-profile-file");
        let extent = |newest, oldest| Extent::new(&running, said(newest, oldest), None, 0);
        assert_eq!(extent(7_123, 7_024), Extent { oldest: 7_024, newest: 7_123 });
        assert_eq!(extent(7_123, 1), Extent { oldest: 7_024, newest: 7_123 });
        assert!(extent(0, 1).is_empty(), "none was written");
        let cleared = Extent::new(&running, said(3, 1), Some(extent(7_123, 7_024)), 5);
        assert_eq!(cleared, Extent { oldest: 1, newest: 3 });
    }

    #[test]
    fn numbers_of_16_bits_go_on_where_their_register_begins_anew() {
        let mut running = load("example-load-profile-file");
        let short = |address| Register {
            table: RegisterTable::InputRegister,
            address,
            value_type: ValueType::U16,
            order: gapless_common::profile::ByteOrder::ABCD,
        };
        running.numbering = Numbering::Running { newest: short(512) };
        let before = Extent { oldest: 65_431, newest: 65_530 };
        let at = |newest| Extent { oldest: newest - 99, newest };
        // What newest and held say, how they are meant, what was before, the intervals since, what it means.
        let rows = [
            (65_535, 65_436, true, Some(before), 5, at(65_535)),
            (0, 65_437, true, Some(before), 6, at(65_536)),
            (3, 65_440, true, Some(before), 9, at(65_539)),
            (3, 100, false, Some(before), 9, at(65_539)),
            (3, 65_440, true, None, 0, at(3)),
            (3, 100, false, None, 0, at(3)),
            (3, 1, true, Some(before), 2, Extent { oldest: 1, newest: 3 }),
            (3, 3, false, None, 0, Extent { oldest: 1, newest: 3 }),
            (0, 0, false, Some(before), 1, EMPTY),
        ];
        // Where nobody says how many there are: the newest, what was before, what it means.
        let unsaid = [
            (3, None, at(3)),
            (4, Some(at(3)), at(4)),
            (3, Some(before), at(65_539)),
            (4, Some(Extent { oldest: 1, newest: 3 }), Extent { oldest: 1, newest: 4 }),
            (0, None, EMPTY),
        ];
        running.held = Held::Unsaid;
        for (newest, before, expected) in unsaid {
            let extent = Extent::new(&running, Said { newest, held: None }, before, 9);
            assert_eq!(extent, expected, "{newest} after {before:?}");
        }
        for (newest, held, is_oldest, before, passed, expected) in rows {
            running.held = if is_oldest { Held::Oldest(short(514)) } else { Held::Count(short(514)) };
            let extent = Extent::new(&running, said(newest, held), before, passed);
            assert_eq!(extent, expected, "{newest} and {held} after {before:?}");
        }
        assert_eq!((Extent::name(&running, 65_539), Extent::name(&running, -96)), (3, 65_440));
        assert_eq!(Extent::place(&running, 65_539), Extent::place(&running, 3));
        running.way = Way::Mapped { table: RegisterTable::InputRegister, address: 1_000 };
        let extent = Extent { oldest: 65_500, newest: 65_590 };
        assert_eq!(
            extent.run(&running, 65_530, 15),
            65_530..65_536,
            "no further than where numbers begin anew"
        );
        assert_eq!(extent.run(&running, 65_536, 15), 65_536..65_537, "number 0 stands in the last place");
    }

    #[test]
    fn a_pointer_may_name_the_place_that_is_next() {
        let mut ring = load("example-load-profile-window");
        ring.names = Names::Next;
        let full = Extent::new(&ring, said(0, 100), None, 0);
        assert_eq!((full.newest.rem_euclid(100), full.count()), (99, 100));
        let next = Extent::new(&ring, said(1, 100), Some(full), 1);
        assert_eq!(next.newest - full.newest, 1);
        assert!(Extent::new(&ring, said(0, 0), None, 0).is_empty());
        let mut running = load("example-load-profile-file");
        running.names = Names::Next;
        assert!(Extent::new(&running, said(1, 1), None, 0).is_empty(), "number 1 is still to come");
        assert_eq!(Extent::new(&running, said(3, 1), None, 0), Extent { oldest: 1, newest: 2 });
    }

    #[test]
    fn records_are_asked_for_where_they_stand() {
        let request = |request: Option<Request>| {
            let mut pdu = Vec::new();
            request.unwrap().encode(&mut pdu);
            pdu
        };
        let ring = load("example-load-profile-window");
        let extent = Extent::new(&ring, said(98, 100), None, 0);
        assert_eq!(request(Extent::select(&ring, extent.newest)), [6, 0x10, 0x10, 0, 98]);
        assert_eq!(extent.run(&ring, extent.oldest, 10), extent.oldest..extent.oldest + 1);
        assert_eq!(request(Extent::read(&ring, &(0..1))), [3, 0x10, 0x20, 0, 8]);
        let mut file = load("example-load-profile-file");
        file.capacity = 4_000;
        let extent = Extent::new(&file, said(5_000, 1_001), None, 0);
        assert_eq!(extent.run(&file, 1_001, 99), 1_001..1_012);
        // Record 1001 is the first of file 11: places count from number 1 on.
        let pdu = request(Extent::read(&file, &(1_000..1_002)));
        assert_eq!(pdu, [20, 14, 6, 0, 10, 0x27, 0x06, 0, 10, 6, 0, 11, 0, 0, 0, 10]);
        let mapped =
            LoadProfile { way: Way::Mapped { table: RegisterTable::InputRegister, address: 1_000 }, ..ring };
        let extent = Extent { oldest: 150, newest: 249 };
        assert_eq!(extent.run(&mapped, 190, 15), 190..200, "no further than where the ring begins anew");
        assert_eq!(request(Extent::read(&mapped, &(190..200))), [4, 0x06, 0xB8, 0, 80]);
    }
}
