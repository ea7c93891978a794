//! The registers in which a meter says which records it has, and what time it is: asked for in as few requests as it
//! takes, and believed where they say what time lets one expect, or say it twice.
//!
//! Contract: send [`Pointers::request`], hand over the answer to [`Pointers::took`], until that gives an extent; or the
//! lack of an answer to [`Pointers::restart`].

use std::collections::BTreeMap;

use gapless_common::catalog::{Aggregation, PeriodLabel};
use gapless_common::id::{ChannelId, ChannelIndex};
use gapless_common::profile::{
    ByteOrder, ChannelSpec, Clock, Held, Location, Register, RegisterTable, Scale, ValueType,
};
use gapless_common::time::Timestamp;

use super::super::pdu::{Request, ResponseData};
use super::super::plan::{PlanError, PlannedRead, Purpose, ReadPlan};
use super::super::value::pattern;
use super::extent::{Extent, Said};
use super::{Settings, stamp};
use crate::clock::Now;

/// So often in a row they are read at most, where they say something else each time: registers of two requests may not
/// belong together.
const LOOKS_MAX: u8 = 3;
/// Records by which two looks may differ, or what they say from what time has made.
const SLACK: i64 = 2;

/// What became of a memory between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// It has fewer records than before, or others.
    pub is_cleared: bool,
    /// Numbers do not mean what they meant, or may not.
    pub is_strange: bool,
}

impl Change {
    /// Between an extent and the next, when time has made so many records.
    #[must_use]
    pub fn between(before: Extent, after: Extent, held: Held, passed: i64) -> Self {
        let moved = after.newest - before.newest;
        let has_jumped = moved > 2 * passed + SLACK;
        // Some erase their oldest records by the block: those that are left are what they were.
        let has_shrunk = held != Held::Unsaid
            && after.count() < before.count()
            && after.oldest > before.newest.saturating_sub(SLACK);
        // Another number than time says: it was without power, or the ring has gone round, or it began anew. The records
        // themselves will say which.
        let is_off = (moved - passed).abs() > SLACK;
        Self { is_cleared: has_jumped || moved < 0 || has_shrunk, is_strange: is_off || has_shrunk }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Pointers {
    plan: ReadPlan,
    specs: Vec<ChannelSpec>,
    kinds: Vec<Kind>,
    /// Which request is next.
    next: usize,
    said: Said,
    /// What this look at them meant so far, and how many there were.
    looked: Option<Extent>,
    looks: u8,
    drift: Option<(i64, Timestamp)>,
}

impl Pointers {
    /// Nothing is known yet.
    ///
    /// # Errors
    /// [`PlanError`] where one of them cannot be asked for; its channel is the key of the load profile.
    pub fn new(settings: &Settings) -> Result<Self, PlanError> {
        let (kinds, specs): (Vec<_>, Vec<_>) = specs(settings).into_iter().unzip();
        Ok(Self {
            plan: ReadPlan::new(&specs, settings.limits)?,
            specs,
            kinds,
            next: 0,
            said: Said::default(),
            looked: None,
            looks: 0,
            drift: None,
        })
    }

    /// What to ask.
    #[must_use]
    pub fn request(&self) -> Option<Request> {
        // There is one for the newest record at least.
        self.plan.requests().get(self.next).map(|read| read.request().clone())
    }

    /// The meter's clock minus ours, in ms, and when it was so, where it says its time.
    #[must_use]
    pub const fn drift(&self) -> Option<(i64, Timestamp)> {
        self.drift
    }

    /// They are to be read from the first one on.
    pub fn restart(&mut self) {
        (self.next, self.looked, self.looks) = (0, None, 0);
    }

    /// An answer; gives what they mean, once they have all been read and can be believed. `before` is what they meant
    /// before, and `passed` how many records time has made since.
    pub fn took(
        &mut self,
        settings: &Settings,
        data: &ResponseData,
        (before, passed): (Option<Extent>, i64),
        now: Now,
    ) -> Option<Extent> {
        self.note(settings, data, now);
        self.next += 1;
        if self.next < self.plan.requests().len() {
            return None;
        }
        self.next = 0;
        let held = settings.load.held;
        let extent = Extent::new(&settings.load, self.said, before, passed);
        let looked = self.looked.replace(extent);
        self.looks += 1;
        let is_plain = before.map_or(self.plan.requests().len() == 1, |before| {
            Change::between(before, extent, held, passed) == Change::default()
        });
        let is_same = looked.is_some_and(|looked| {
            let (moved, grown) = (extent.newest - looked.newest, extent.count() - looked.count());
            (0..=SLACK).contains(&moved) && grown.abs() <= SLACK
        });
        if !is_plain && !is_same && self.looks < LOOKS_MAX {
            return None;
        }
        self.restart();
        Some(extent)
    }

    fn note(&mut self, settings: &Settings, data: &ResponseData, now: Now) {
        let ResponseData::Registers(words) = data else { return };
        let Some(read) = self.plan.requests().get(self.next) else { return };
        if self.next == 0 {
            (self.said, self.drift) = (Said::default(), None);
        }
        for (channel, words) in values(read, words) {
            let place = usize::from(channel.0);
            let order = self.specs.get(place).map_or(ByteOrder::default(), |spec| spec.order);
            let number = || u32::try_from(pattern(words, order)).ok();
            match self.kinds.get(place) {
                Some(Kind::Newest) => self.said.newest = number().unwrap_or_default(),
                Some(Kind::Held) => self.said.held = number(),
                Some(Kind::Clock(clock)) => {
                    let at = stamp::instant(clock.encoding, clock.order, words, settings.zone);
                    self.drift = at.filter(|_| now.wall_set).map(|at| (at.since_ms(now.wall), now.wall));
                }
                None => {}
            }
        }
    }
}

/// What a pointer is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Newest,
    Held,
    Clock(Clock),
}

/// The pointers as channels, so that they are planned like any others.
fn specs(settings: &Settings) -> Vec<(Kind, ChannelSpec)> {
    let load = &settings.load;
    let number = |kind: Kind, key: &str, register: Register| {
        let Register { table, address, value_type, order } = register;
        pointer(key, table, address, value_type, order).map(|spec| (kind, spec))
    };
    let held = match load.held {
        Held::Count(register) => number(Kind::Held, "count", register),
        Held::Oldest(register) => number(Kind::Held, "oldest", register),
        Held::Unsaid => None,
    };
    let clock = load.clock.and_then(|clock| {
        let value_type = ValueType::Text { registers: u8::try_from(clock.encoding.registers()).ok()? };
        let spec = pointer("clock", clock.table, clock.address, value_type, clock.order)?;
        Some((Kind::Clock(clock), spec))
    });
    [number(Kind::Newest, "newest", load.numbering.newest()), held, clock].into_iter().flatten().collect()
}

fn pointer(
    key: &str,
    table: RegisterTable,
    address: u16,
    value_type: ValueType,
    order: ByteOrder,
) -> Option<ChannelSpec> {
    Some(ChannelSpec {
        id: ChannelId::new(key).ok()?,
        table,
        location: Location::Absolute(address),
        value_type,
        order,
        scale: Scale::ONE,
        scale_from: None,
        unit: "".into(),
        quantity: "".into(),
        aggregation: Aggregation::Instant,
        label: PeriodLabel::End,
        sentinels: Vec::new(),
        valid: None,
        attributes: BTreeMap::new(),
    })
}

fn values<'a>(
    read: &'a PlannedRead,
    words: &'a [u16],
) -> impl Iterator<Item = (ChannelIndex, &'a [u16])> + use<'a> {
    read.parts().iter().filter_map(|part| match part.purpose {
        Purpose::Value(channel) => Some((channel, words.get(read.place(part))?)),
        Purpose::Exponent | Purpose::Header => None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::fake::{now, settings};
    use super::*;

    const APART: &str = "numbering = \"ring\"\nnewest = { address = 200, type = \"u16\" }\n\
        oldest = { address = 100, type = \"u16\" }";

    /// Reads them so often, each time what they say there; gives what is believed, and after how many looks.
    fn look(before: Option<Extent>, passed: i64, said: &[(u16, u16)]) -> (Extent, usize) {
        let settings = settings(100, APART, "file = { number = 1 }");
        let mut pointers = Pointers::new(&settings).unwrap();
        for (looks, (newest, oldest)) in said.iter().enumerate() {
            for word in [oldest, newest] {
                let data = ResponseData::Registers(vec![*word]);
                if let Some(extent) = pointers.took(&settings, &data, (before, passed), now(0)) {
                    return (extent, looks + 1);
                }
            }
        }
        panic!("{said:?} is not believed");
    }

    #[test]
    fn what_two_requests_say_is_believed_where_it_can_be_or_is_said_twice() {
        type Row<'a> = (Option<Extent>, &'a [(u16, u16)], (Extent, usize));
        let before = Extent { oldest: 99, newest: 198 };
        let next = Extent { oldest: 100, newest: 199 };
        let rows: [Row<'_>; 5] = [
            (Some(before), &[(99, 0)], (next, 1)),
            // The oldest one was read before a record was written, the newest one after that.
            (Some(before), &[(99, 99), (99, 0)], (next, 2)),
            // It was cleared.
            (Some(before), &[(3, 1), (3, 1)], (Extent { oldest: 201, newest: 203 }, 2)),
            (None, &[(98, 99), (98, 99)], (before, 2)),
            (None, &[(99, 99), (99, 0), (99, 0)], (next, 3)),
        ];
        for (before, said, expected) in rows {
            assert_eq!(look(before, 1, said), expected, "{said:?} after {before:?}");
        }
    }

    #[test]
    fn what_became_of_a_memory_is_seen_by_its_numbers() {
        let before = Extent { oldest: 101, newest: 200 };
        let count = Held::Count(settings(100, APART, "file = { number = 1 }").load.numbering.newest());
        // Oldest and newest, records that time has made; cleared, strange.
        let rows = [
            (102, 201, 1, false, false),
            (101, 200, 1, false, false),
            (101, 200, 60, false, true),
            (161, 260, 60, false, false),
            (203, 260, 3, true, true),
            (1, 3, 3, true, true),
            (202, 203, 3, true, true),
            (105, 201, 1, false, false),
            (161, 200, 0, false, false),
            (200, 201, 1, true, true),
        ];
        for (oldest, newest, passed, is_cleared, is_strange) in rows {
            let change = Change::between(before, Extent { oldest, newest }, count, passed);
            assert_eq!(change, Change { is_cleared, is_strange }, "{oldest} to {newest}");
        }
    }
}
