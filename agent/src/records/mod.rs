//! What all devices that remember have in common: records with a time of their own, which may come long after their
//! slot. [`account`] says which slots are settled, [`zone`] what a clock without a zone means, [`layout`] where the
//! channels stand in a record, [`collect`] how a thread drives what collects them, [`standing`] what is told of a source as
//! a whole. Knows no protocol and no file.

pub mod account;
pub mod collect;
pub mod layout;
pub mod standing;
pub mod zone;
