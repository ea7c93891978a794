//! What all devices that remember have in common: records with a time of their own, which may come long after their
//! slot. [`account`] says which slots are settled, [`zone`] what a clock without a zone means, [`layout`] where the
//! channels stand in a record, [`collect`] how a thread drives what collects them, [`standing`] what is told of a source as
//! a whole, [`cadence`] when the next record is asked for, [`wishes`] what the collector wants. Knows no protocol and no
//! file.

pub mod account;
pub mod cadence;
pub mod collect;
pub mod layout;
pub mod standing;
pub mod wishes;

pub use gapless_common::zone;
