//! All files of one device: which of them is read next, and what follows from what was read. Knows no folder and no link.
//!
//! A listing says which files changed; those are read on, the one that was written last first, because it holds what is
//! fresh. For the collector, all files that may hold what it wants are read once more from their begin, beside that.

use std::collections::{BTreeMap, VecDeque};

use gapless_common::id::DeviceIndex;
use gapless_common::quality::Cause;
use gapless_common::reading::Acquired;
use gapless_common::time::{Slot, SlotGrid, Timestamp};

use super::file::File;
use super::form::{Form, LineError};
use super::history::{Queue, Scan};
use super::tail::{Came, Item, Row, Stat};
use crate::clock::Now;
use crate::event::BusEvent;
use crate::records::account::{Account, Out};
use crate::records::layout::{Channels, Layout};

/// Files of a device as they are configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Which device they are.
    pub device: DeviceIndex,
    /// Which files of the folder: `Met_*.dat`.
    pub pattern: Box<str>,
    /// When a row is due.
    pub grid: SlotGrid,
    /// How their lines are read.
    pub form: Form,
    /// How far back rows are read at the start, in ms.
    pub first_ms: i64,
    /// How late a row may come before its slot is missed, in ms.
    pub late_ms: i64,
    /// How often it is looked whether there is something new, in ms.
    pub look_ms: u64,
    /// What is read of a row.
    pub channels: Channels,
    /// Nothing is read.
    pub paused: bool,
}

/// Slots that are remembered as spoilt until they are over; more are missed as not recorded.
const SPOILT_MAX: usize = 1_000;

/// What a read is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// What is new.
    Live,
    /// What the collector wants.
    History,
}

/// The files of a device being collected.
#[derive(Debug)]
pub struct FileSet {
    /// As configured.
    pub settings: Settings,
    /// Its slots.
    pub account: Account,
    /// When to look for what is new, on the boot clock.
    pub look_at_ms: u64,
    /// Somebody wants to see the newest row.
    pub is_asked: bool,
    files: BTreeMap<Box<str>, File>,
    is_listed: bool,
    /// When it was looked last which files there are, on the boot clock.
    asked_ms: u64,
    /// The same of what is known of them: of later rows nothing is.
    listed_ms: u64,
    layout: Option<Layout>,
    newest: Option<(Timestamp, BusEvent)>,
    waiting: Queue,
    scan: Option<Scan>,
    /// Why no row can be made of what is read.
    trouble: Option<Cause>,
    /// Slots whose row cannot be read: missed for that once they are over.
    spoilt: Vec<Slot>,
}

impl FileSet {
    /// To be looked for at once.
    #[must_use]
    pub fn new(settings: Settings, begun: Now, now: Now) -> Self {
        Self {
            account: Account::new(settings.device, settings.grid, begun),
            look_at_ms: now.boot_ms.max(1),
            is_asked: false,
            files: BTreeMap::new(),
            is_listed: false,
            asked_ms: now.boot_ms,
            listed_ms: now.boot_ms,
            layout: None,
            newest: None,
            waiting: Queue::default(),
            scan: None,
            trouble: None,
            spoilt: Vec::new(),
            settings,
        }
    }

    /// Why nothing comes, where something is wrong with what the files hold.
    #[must_use]
    pub const fn trouble(&self) -> Option<Cause> {
        self.trouble
    }

    /// When it is to be looked which files there are, on the boot clock. A paused one is looked at for who asks.
    #[must_use]
    pub fn due_ms(&self) -> u64 {
        if self.settings.paused && self.look_at_ms > 0 { u64::MAX } else { self.look_at_ms }
    }

    /// Whether it is time for that.
    #[must_use]
    pub fn is_due(&self, now: Now) -> bool {
        self.due_ms() <= now.boot_ms
    }

    /// Whether any row was read.
    #[must_use]
    pub const fn has_rows(&self) -> bool {
        self.newest.is_some()
    }

    /// It is looked now which files there are.
    pub const fn note_listing(&mut self, now: Now) {
        self.asked_ms = now.boot_ms;
    }

    /// The files that are there now.
    pub fn listed(&mut self, mut seen: BTreeMap<Box<str>, Stat>, now: Now, out: &mut Out) {
        self.look_at_ms = now.boot_ms.saturating_add(self.settings.look_ms);
        self.listed_ms = self.asked_ms;
        let mut old = std::mem::take(&mut self.files);
        self.follow_renamed(&seen, &mut old);
        let newest_ms = seen.values().map(|stat| stat.modified_ms).max();
        let cut =
            newest_ms.map(|ms| Timestamp(ms).plus_ms(-self.settings.first_ms)).filter(|_| !self.is_listed);
        self.is_listed |= newest_ms.is_some();
        while let Some((name, stat)) = seen.pop_first() {
            let file = match old.remove(&name) {
                Some(known) => known.seen_again(stat, &self.settings.form, &name),
                None => File::new(stat, &self.settings.form, cut),
            };
            self.files.insert(name, file);
        }
        self.begin_scan(out);
        self.end_look(out);
    }

    /// A file that was renamed is still the same one, and a new one of its old name is not.
    fn follow_renamed(&self, seen: &BTreeMap<Box<str>, Stat>, old: &mut BTreeMap<Box<str>, File>) {
        let moved: Vec<(Box<str>, Box<str>)> = seen
            .iter()
            .filter(|(name, stat)| old.get(*name).is_none_or(|file| file.stat.identity != stat.identity))
            .filter_map(|(name, stat)| {
                let (before, _) = old.iter().find(|(_, file)| file.stat.identity == stat.identity)?;
                // A second name of the same file, which still has its first one, is a file of its own.
                let is_gone = seen.get(before).is_none_or(|now| now.identity != stat.identity);
                is_gone.then(|| (before.clone(), name.clone()))
            })
            .collect();
        let taken: Vec<_> =
            moved.into_iter().filter_map(|(before, name)| Some((name, old.remove(&before)?))).collect();
        old.extend(taken);
    }

    /// What is to be read next: which file, from where, how much.
    #[must_use]
    pub fn wanted(&self) -> Option<(What, Box<str>, u64, usize)> {
        let is_read = !self.settings.paused || self.is_asked;
        let pending = self.files.iter().filter(|(_, file)| file.is_pending && is_read);
        if let Some((name, file)) = pending.max_by_key(|(_, file)| file.stat.modified_ms) {
            let (offset, len) = file.tail.wanted();
            return Some((What::Live, name.clone(), offset, len));
        }
        let scan = self.scan.as_ref()?;
        let (offset, len) = scan.tail.wanted();
        Some((What::History, scan.name()?.into(), offset, len))
    }

    /// The bytes that were wanted; the number of bad lines among them.
    pub fn took(&mut self, what: What, name: &str, bytes: &[u8], out: &mut Out) -> u64 {
        match what {
            What::Live => self.took_live(name, bytes, out),
            What::History => {
                self.took_scan(bytes, out);
                0
            }
        }
    }

    /// The file is no longer there.
    pub fn vanished(&mut self, what: What, name: &str, out: &mut Out) {
        match what {
            What::Live => {
                self.files.remove(name);
                // It may have another name by now, and what it holds is not missed before it was looked for.
                (self.look_at_ms, self.listed_ms) = (0, 0);
            }
            What::History => self.advance_scan(out),
        }
        self.end_look(out);
    }

    fn took_live(&mut self, name: &str, bytes: &[u8], out: &mut Out) -> u64 {
        let Some(mut file) = self.files.remove(name) else { return 0 };
        let before = file.bad;
        match file.tail.took(&self.settings.form, bytes) {
            Came::Replaced => file.begin_anew(&self.settings.form, name),
            Came::Items { items, more } => {
                file.is_pending = more;
                for item in items {
                    self.take_item(&mut file, name, item, out);
                }
            }
        }
        let bad = file.bad - before;
        self.files.insert(name.into(), file);
        self.end_look(out);
        bad
    }

    fn take_item(&mut self, file: &mut File, name: &str, item: Item, out: &mut Out) {
        match item {
            Item::Head => self.trouble = None,
            Item::Row(row) => {
                if file.cut.is_none_or(|cut| row.at >= cut) {
                    self.tell(&row, out);
                }
                self.trouble = None;
            }
            Item::Long(line) => file.complain(name, line, "it is longer than what is read"),
            Item::Bad(line, error) => {
                file.complain(name, line, &error.to_string());
                match error {
                    LineError::Head(_) => self.trouble = Some(Cause::Corrupt),
                    LineError::Count { at: Some(at), .. }
                        if file.cut.is_none_or(|cut| at >= cut) && self.spoilt.len() < SPOILT_MAX =>
                    {
                        let slot = self.settings.grid.slot_at(at);
                        self.spoilt.push(slot);
                    }
                    _ => {}
                }
            }
        }
    }

    fn tell(&mut self, row: &Row, out: &mut Out) {
        let (device, fields) = (self.settings.device, &row.fields);
        if self.layout.as_ref().is_none_or(|layout| !layout.is_of(0, fields)) {
            let (layout, all) = Layout::new(0, fields, &self.settings.channels);
            let missing = layout.missing(&self.settings.channels);
            if !missing.is_empty() {
                tracing::warn!(files = %self.settings.pattern, "they have no column {}", missing.join(", "));
            }
            if self.settings.channels == Channels::All {
                out.push_back(BusEvent::Channels { device, channels: all });
            }
            self.layout = Some(layout);
            // It is told in terms of other channels.
            self.newest = None;
        }
        let samples = self.layout.as_ref().map_or_else(Vec::new, |layout| layout.samples(&row.vals));
        let slot = self.settings.grid.slot_at(row.at);
        self.account.received(slot, out);
        if !samples.is_empty() {
            let acquired = Acquired::Recorded(slot);
            let event = BusEvent::Answered { device, acquired, at: row.at, samples };
            if self.newest.as_ref().is_none_or(|(at, _)| row.at >= *at) {
                self.newest = Some((row.at, event.clone()));
            }
            out.push_back(event);
        }
    }

    /// Where all that is new has been read: who asked for the newest row sees it.
    fn end_look(&mut self, out: &mut Out) {
        if self.is_asked && !self.is_behind() {
            self.is_asked = false;
            out.extend(self.newest.iter().map(|(_, event)| event.clone()));
        }
    }

    fn is_behind(&self) -> bool {
        self.files.values().any(|file| file.is_pending)
    }

    /// The collector wants these instants, half open; `false` where too much waits already. The files are looked for
    /// first, so that nothing is missing that was written just now.
    pub fn read_history(&mut self, command: u64, range: (Timestamp, Timestamp)) -> bool {
        self.look_at_ms = 0;
        self.waiting.add(command, range)
    }

    fn begin_scan(&mut self, out: &mut Out) {
        let Some(from) = self.waiting.earliest().filter(|_| self.scan.is_none()) else { return };
        let may_hold = self.files.iter().filter(|(_, file)| file.stat.may_hold(from));
        let names: VecDeque<Box<str>> = may_hold.map(|(name, _)| name.clone()).collect();
        let is_empty = names.is_empty();
        let scan = self.waiting.begin(names, &self.settings.form);
        if is_empty { scan.end(out) } else { self.scan = Some(scan) }
    }

    fn took_scan(&mut self, bytes: &[u8], out: &mut Out) {
        let Some(mut scan) = self.scan.take() else { return };
        let mut is_over = true;
        // One that was replaced meanwhile is read from its begin anyway.
        if let Came::Items { items, more } = scan.tail.took(&self.settings.form, bytes) {
            is_over = !more;
            for item in items {
                if let Item::Row(row) = item
                    && scan.wants(row.at)
                {
                    self.tell(&row, out);
                }
            }
        }
        self.scan = Some(scan);
        if is_over {
            self.advance_scan(out);
        }
    }

    fn advance_scan(&mut self, out: &mut Out) {
        let Some(mut scan) = self.scan.take() else { return };
        if scan.advance(&self.settings.form) {
            self.scan = Some(scan);
        } else {
            scan.end(out);
            self.begin_scan(out);
        }
    }

    /// Files cannot be listed or read: whoever waits is told.
    pub fn failed(&mut self, why: &str, out: &mut Out) {
        self.is_asked = false;
        let waiting = self.waiting.begin(VecDeque::new(), &self.settings.form);
        self.scan.take().into_iter().chain([waiting]).for_each(|scan| scan.fail(why, out));
    }

    /// Settles the slots whose time is over; `failing` says why nothing comes at all.
    pub fn settle(&mut self, failing: Option<Cause>, now: Now, out: &mut Out) {
        self.account.begin(now);
        if !now.wall_set {
            return;
        }
        let grid = self.settings.grid;
        let current = grid.slot_at(now.wall);
        for slot in self.spoilt.extract_if(.., |slot| *slot < current) {
            self.account.gone((slot, slot), Cause::Corrupt, now, out);
        }
        // What is still to be read is not over, nor what may have come since it was looked.
        let is_read = self.is_listed && !self.is_behind();
        let seen = now.instant_at(self.listed_ms);
        let overdue = is_read.then(|| grid.slot_at(seen.plus_ms(-self.settings.late_ms)));
        self.account.pass(self.settings.paused, failing.or(self.trouble), overdue, now, out);
    }

    /// Its rows are read no more, or again.
    pub fn pause(&mut self, paused: bool, out: &mut Out) {
        self.account.flush(out);
        self.settings.paused = paused;
    }

    /// Settles all that is open: the agent ends.
    pub fn stop(&mut self, failing: Option<Cause>, now: Now, out: &mut Out) {
        self.settle(failing, now, out);
        self.account.close(self.settings.paused, failing, now, out);
        self.failed("the agent was stopped", out);
    }
}
