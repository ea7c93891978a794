//! Load profiles: the interval records that a meter keeps in a memory of its own, read over the bus that it is polled on.
//! A device that is collected so is not polled: each record goes out with the meter's own time, so that a line that was
//! cut for days costs nothing that the meter still holds.
//!
//! Sans-IO: [`stamp`] and [`record`] say what stands in a record, [`extent`] which records there are and how one is asked
//! for, [`pointers`] what the meter says of that, [`seek`] where in the memory a time is, [`newest`] whether the newest
//! record is whole, [`batch`] how many are asked for at once; [`reader`] makes requests and records of that. [`recorder`]
//! decides what is read next and accounts for the slots; [`holes`] says what was missed, [`progress`] how far it has come,
//! [`drift`] when the meter's clock was wrong. What the bus has to spare is given out by `bus::memories`.
//!
//! # Whose word counts
//! Registers that say which record is the newest are a hint. Between their reading and that of a record the ring may have
//! moved, another master may have selected another record, the memory may have been cleared. So a record counts as the
//! one of its own time stamp and of nothing else, and times must rise with the numbers; where they do not, all that is
//! known of the memory is thrown away and asked for again, and after [`reader::STRIKES_MAX`] times the whole memory is read
//! from one end to the other, as after a meter's clock was set back.
//!
//! # The newest record
//! It may be half written. It counts once it has been read twice alike, or a newer one is there. Where it cannot be had the one before
//! it is read.

pub mod batch;
pub mod drift;
pub mod extent;
#[cfg(test)]
mod fake;
pub mod holes;
pub mod newest;
pub mod pointers;
pub mod progress;
pub mod reader;
pub mod record;
pub mod recorder;
pub mod seek;
pub mod stamp;

use gapless_common::id::DeviceIndex;
use gapless_common::profile::LoadProfile;
use gapless_common::time::SlotGrid;

use super::plan::Limits;
use crate::records::zone::Zone;

/// A load profile as it is configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Which device it is.
    pub device: DeviceIndex,
    /// What it is called in messages.
    pub name: Box<str>,
    /// Where the records are, and what is in one.
    pub load: LoadProfile,
    /// When a record is due.
    pub grid: SlotGrid,
    /// Of the meter's clock.
    pub zone: Zone,
    /// How far back records are read at the start, in ms.
    pub first_ms: i64,
    /// What one request may ask for.
    pub limits: Limits,
    /// Nothing is read.
    pub paused: bool,
}
