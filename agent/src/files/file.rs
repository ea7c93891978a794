//! One file of a device, as its listings show it. Reads nothing.

use gapless_common::time::Timestamp;

use super::form::Form;
use super::tail::{Stat, Tail};

/// Bad lines of one file that are told each; the others are counted.
const BAD_TOLD_MAX: u64 = 10;

/// See the module.
#[derive(Debug)]
pub(super) struct File {
    pub(super) stat: Stat,
    pub(super) tail: Tail,
    /// It has changed since it was read to its end.
    pub(super) is_pending: bool,
    /// Rows before this are not told.
    pub(super) cut: Option<Timestamp>,
    /// Lines that were skipped.
    pub(super) bad: u64,
}

impl File {
    /// A file that was not there before. One that nothing has been written to since long before `cut` is left alone until
    /// it changes.
    pub(super) fn new(stat: Stat, form: &Form, cut: Option<Timestamp>) -> Self {
        let is_pending = cut.is_none_or(|cut| stat.may_hold(cut));
        Self { stat, tail: Tail::new(form), is_pending, cut, bad: 0 }
    }

    /// It is still there.
    pub(super) fn seen_again(mut self, stat: Stat, form: &Form, name: &str) -> Self {
        if stat != self.stat {
            (self.stat, self.is_pending) = (stat, true);
        }
        if self.tail.is_beyond(stat.size) {
            self.begin_anew(form, name);
        }
        self
    }

    /// It is another file of the same name.
    pub(super) fn begin_anew(&mut self, form: &Form, name: &str) {
        tracing::info!(file = name, "it was written anew, and is read from its begin");
        (self.tail, self.is_pending, self.bad) = (Tail::new(form), true, 0);
    }

    /// A line of it is skipped.
    pub(super) fn complain(&mut self, name: &str, line: u64, why: &str) {
        self.bad += 1;
        if self.bad <= BAD_TOLD_MAX {
            tracing::warn!(file = name, line, "the line is skipped: {why}");
        }
        if self.bad == BAD_TOLD_MAX {
            tracing::warn!(file = name, "further bad lines of this file are counted, and not told");
        }
    }
}
