//! Whether the SunSpec models that a plan was made for still stand where they were found. A firmware update or a
//! replaced device moves them, and other registers would pass for the channels': so each poll reads the id and the
//! length of every model that it reads from, and a value counts only once those of its model are confirmed.
//!
//! Walks no chain (`sunspec`) and asks for nothing (`plan` puts the headers into requests).

use gapless_common::profile::RegisterTable;
use gapless_common::quality::Quality;

use super::sunspec::{HEADER_LEN, Model};

/// What this poll has seen of a model's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    NotYet,
    Confirmed,
    /// Its request brought nothing.
    Failed(Quality),
    /// Something else stands there.
    Moved,
}

/// The models of one device, and what a poll has seen of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Guard {
    models: Vec<(Model, Seen)>,
}

impl Guard {
    pub(super) fn new(models: &[Model]) -> Self {
        Self { models: models.iter().map(|model| (*model, Seen::NotYet)).collect() }
    }

    /// A poll begins: nothing is confirmed.
    pub(super) fn begin(&mut self) {
        self.models.iter_mut().for_each(|(_, seen)| *seen = Seen::NotYet);
    }

    /// The registers at the header at `address`, or why they were not read.
    pub(super) fn note(&mut self, address: u16, words: Result<&[u16], Quality>) {
        for (model, seen) in self.models.iter_mut().filter(|(model, _)| model.address == address) {
            *seen = match words {
                Ok(words) if words == [model.id, model.length] => Seen::Confirmed,
                Ok(_) => Seen::Moved,
                Err(quality) => Seen::Failed(quality),
            };
        }
    }

    /// The device refused to show the header at `address` alone, which it has shown before.
    pub(super) fn refused(&mut self, address: u16) {
        self.note(address, Ok(&[]));
    }

    /// Whether a model was seen not to stand where it was found.
    pub(super) fn has_moved(&self) -> bool {
        self.models.iter().any(|(_, seen)| *seen == Seen::Moved)
    }

    /// Whether a value at `address` may count; `None` where that is not known yet.
    pub(super) fn verdict(&self, table: RegisterTable, address: u16) -> Option<Result<(), Quality>> {
        let covers = |model: &Model| {
            let end = u32::from(model.address) + u32::from(HEADER_LEN) + u32::from(model.length);
            table == RegisterTable::HoldingRegister && address >= model.address && u32::from(address) < end
        };
        match self.models.iter().find(|(model, _)| covers(model)) {
            None | Some((_, Seen::Confirmed)) => Some(Ok(())),
            Some((_, Seen::NotYet)) => None,
            Some((_, Seen::Failed(quality))) => Some(Err(*quality)),
            Some((_, Seen::Moved)) => Some(Err(Quality::BadCorrupt)),
        }
    }
}
