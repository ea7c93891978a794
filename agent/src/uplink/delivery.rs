//! The books of delivery, pure: per epoch what is held, acknowledged and on its way, and from these which
//! records to send next. Knows no connection, no time-out and no time but the one it is told.

use std::ops::RangeInclusive;

use gapless_common::id::{Epoch, Seq};
use gapless_common::message::{ACK_RANGES_MAX, EpochAck, HeldEpoch};
use gapless_common::ranges::RangeSet;

/// Records per frame that a newest-first backlog assumes before it has seen how many fit.
const TYPICAL_RECORDS_FIRST: u64 = 256;

/// Bound of that assumption.
const TYPICAL_RECORDS_MAX: u64 = 1 << 14;

/// Records that an epoch opens with, at most: its start, why there was nothing before, its catalog, and another one where a
/// logger has said at once what it records; some to spare.
const OPENING_RECORDS: u64 = 8;

/// Records of one epoch that may be sent as one frame, as far as they fit; both ends inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Which epoch.
    pub epoch: Epoch,
    /// The first record of the frame.
    pub first: Seq,
    /// The last record that may be in it.
    pub last: Seq,
    /// Whether these were polled since the connection became useful.
    pub(super) live: bool,
    /// Whether they are sent although acknowledged, because the collector asked.
    pub(super) again: bool,
}

/// Newly acknowledged records, both ends inclusive.
pub(super) type Acknowledged = (Epoch, Seq, Seq);

#[derive(Debug)]
struct InFlight {
    epoch: Epoch,
    first: u64,
    last: u64,
    live: bool,
    again: bool,
    sent_at_ms: u64,
}

#[derive(Debug)]
struct Book {
    epoch: Epoch,
    /// First seq held.
    first: u64,
    /// First seq not yet issued.
    next: u64,
    acked: RangeSet,
    /// To be sent although acknowledged.
    wanted: RangeSet,
    /// Held, but cannot be read or sent: never offered again.
    unusable: RangeSet,
    in_flight: RangeSet,
    /// The last seq that the collector's lists reach: of what lies beyond, its answers say nothing.
    sight: u64,
}

impl Book {
    fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            first: 0,
            next: 0,
            acked: RangeSet::new(),
            wanted: RangeSet::new(),
            unusable: RangeSet::new(),
            in_flight: RangeSet::new(),
            sight: u64::MAX,
        }
    }

    /// The first (or last) stretch within `range` that is neither acknowledged nor on its way.
    fn open(&self, range: RangeInclusive<u64>, newest: bool) -> Option<(u64, u64)> {
        let (first, last) = (*range.start().max(&self.first), *range.end().min(&self.next.checked_sub(1)?));
        if first > last {
            return None;
        }
        let unacked = self.acked.holes(first, last);
        let unsent = unacked.flat_map(|(f, l)| self.in_flight.holes(f, l));
        let mut open = unsent.flat_map(|(f, l)| self.unusable.holes(f, l));
        if newest { open.last() } else { open.next() }
    }

    fn wanted(&self) -> Option<(u64, u64)> {
        let held = self.wanted.iter().map(|(f, l)| (f.max(self.first), l.min(self.next.saturating_sub(1))));
        let unsent = held.filter(|(f, l)| f <= l).flat_map(|(f, l)| self.in_flight.holes(f, l));
        unsent.flat_map(|(f, l)| self.unusable.holes(f, l)).next()
    }

    fn unacked(&self) -> u64 {
        let Some(last) = self.next.checked_sub(1) else { return 0 };
        self.acked.holes(self.first.max(1), last).map(|(f, l)| l - f + 1).sum()
    }

    /// Takes in one stretch of an acknowledgement; passes on what is new of it.
    fn acknowledge(&mut self, first: u64, last: u64, new: &mut Vec<Acknowledged>) {
        let last = last.min(self.next.saturating_sub(1));
        if first > last {
            return;
        }
        new.extend(self.acked.holes(first, last).map(|(f, l)| (self.epoch, Seq(f), Seq(l))));
        self.acked.insert(first, last);
    }
}

/// The books of all epochs held, oldest first.
#[derive(Debug)]
pub(super) struct Delivery {
    books: Vec<Book>,
    in_flight: Vec<InFlight>,
    typical_records: u64,
}

impl Delivery {
    pub(super) fn new() -> Self {
        Self { books: Vec::new(), in_flight: Vec::new(), typical_records: TYPICAL_RECORDS_FIRST }
    }

    /// What the outbox holds now, oldest epoch first. Epochs that are not named are forgotten.
    pub(super) fn hold(&mut self, held: &[HeldEpoch]) {
        let mut old = std::mem::take(&mut self.books);
        for now in held {
            let known = old.iter().position(|book| book.epoch == now.epoch);
            let mut book = match known {
                Some(place) => old.swap_remove(place),
                None => Book::new(now.epoch),
            };
            (book.first, book.next) = (now.first.0.max(1), now.next.0.max(book.next));
            self.books.push(book);
        }
        self.release_gone();
    }

    /// What the outbox knows to be acknowledged, from before this start.
    pub(super) fn recall_acknowledged(&mut self, epoch: Epoch, first: Seq, last: Seq) {
        if let Some(book) = self.book(epoch) {
            book.acknowledge(first.0, last.0, &mut Vec::new());
        }
    }

    /// First seq not yet issued by the newest epoch.
    pub(super) fn newest(&self) -> Option<(Epoch, u64)> {
        self.books.last().map(|book| (book.epoch, book.next))
    }

    pub(super) fn appended(&mut self, epoch: Epoch, next: Seq) {
        if let Some(book) = self.book(epoch) {
            book.next = book.next.max(next.0);
        }
    }

    /// The oldest live records below `to` that are to be sent.
    pub(super) fn next_live(&self, from: u64, to: u64) -> Option<Offer> {
        let book = self.books.last()?;
        let (first, last) = book.open(from..=to.checked_sub(1)?, false)?;
        Some(Offer { epoch: book.epoch, first: Seq(first), last: Seq(last), live: true, again: false })
    }

    /// What of the first records of the newest epoch, those below `live_from`, is to be sent: its start, its catalog, why there was
    /// nothing before.
    pub(super) fn opening(&self, live_from: u64) -> Option<Offer> {
        let book = self.books.last()?;
        let (first, last) = book.open(1..=OPENING_RECORDS.min(live_from.checked_sub(1)?), false)?;
        Some(Offer { epoch: book.epoch, first: Seq(first), last: Seq(last), live: false, again: false })
    }

    /// The next records that are not live (all of older epochs, and of the newest one those below
    /// `live_from`): first what the collector asked for again, then by age.
    pub(super) fn next_backlog(&self, live_from: u64, newest_first: bool) -> Option<Offer> {
        let again = self.books.iter().find_map(|book| Some((book, book.wanted()?)));
        if let Some((book, (first, last))) = again {
            return Some(Offer {
                epoch: book.epoch,
                first: Seq(first),
                last: Seq(last),
                live: false,
                again: true,
            });
        }
        let newest = self.books.last()?.epoch;
        let open = |book: &Book| {
            let end = if book.epoch == newest { live_from.saturating_sub(1) } else { u64::MAX };
            // What an answer can acknowledge goes first: from its other end a fragmented epoch would never become whole.
            let within_sight = book.open(1..=end.min(book.sight), newest_first);
            Some((book.epoch, within_sight.or_else(|| book.open(1..=end, newest_first))?))
        };
        let found = if newest_first {
            self.books.iter().rev().find_map(open)
        } else {
            self.books.iter().find_map(open)
        };
        let (epoch, (mut first, last)) = found?;
        if newest_first {
            first = first.max((last + 1).saturating_sub(self.typical_records));
        }
        Some(Offer { epoch, first: Seq(first), last: Seq(last), live: false, again: false })
    }

    /// `offer` went out, up to `last`.
    pub(super) fn sent(&mut self, offer: Offer, last: Seq, now_ms: u64) {
        let records = last.0.saturating_sub(offer.first.0) + 1;
        let grown = if last < offer.last { records } else { self.typical_records.max(records * 2) };
        self.typical_records = grown.clamp(1, TYPICAL_RECORDS_MAX);
        let Some(book) = self.book(offer.epoch) else { return };
        book.in_flight.insert(offer.first.0, last.0);
        book.wanted.remove(offer.first.0, last.0);
        self.in_flight.push(InFlight {
            epoch: offer.epoch,
            first: offer.first.0,
            last: last.0,
            live: offer.live,
            again: offer.again,
            sent_at_ms: now_ms,
        });
    }

    /// These records cannot be read or sent: they are offered no more. What they were is the outbox's to tell.
    pub(super) fn unusable(&mut self, epoch: Epoch, first: Seq, last: Seq) {
        if let Some(book) = self.book(epoch) {
            book.unusable.insert(first.0, last.0);
        }
    }

    /// Takes back what was acknowledged of one epoch and, by this newer word of the same database, is not there any
    /// more. Gives all that is left of it, where anything was taken back.
    pub(super) fn take_back(&mut self, ack: &EpochAck) -> Option<Vec<Acknowledged>> {
        let book = self.book(ack.epoch)?;
        let before = book.acked.clone();
        for (first, last) in missing(ack) {
            book.acked.remove(first, last);
        }
        let left = || book.acked.iter().map(|(first, last)| (book.epoch, Seq(first), Seq(last))).collect();
        (book.acked != before).then(left)
    }

    /// Takes in what the collector says of one epoch; gives what is new. Records answered are no longer in flight.
    pub(super) fn acknowledged(&mut self, ack: &EpochAck) -> Vec<Acknowledged> {
        let mut new = Vec::new();
        let Some(book) = self.book(ack.epoch) else { return new };
        book.sight = sight(ack);
        book.acknowledge(1, ack.watermark.0, &mut new);
        for &(first, last) in ack.above.iter().chain(&ack.parked) {
            book.acknowledge(first.0.max(1), last.0, &mut new);
        }
        self.release_answered(ack.epoch);
        new
    }

    /// Another database speaks: nothing is acknowledged until it says so. With `only` this holds for that epoch.
    /// Gives the epochs of which something had been.
    pub(super) fn forget_acknowledged(&mut self, only: Option<Epoch>) -> Vec<Epoch> {
        let asked = self.books.iter_mut().filter(|book| only.is_none_or(|epoch| epoch == book.epoch));
        let known = asked.filter(|book| !book.acked.is_empty());
        known
            .map(|book| {
                book.acked = RangeSet::new();
                book.epoch
            })
            .collect()
    }

    /// Queues held records to be sent again although acknowledged; `false` where none of them is held.
    pub(super) fn want(&mut self, epoch: Epoch, first: Seq, last: Seq) -> bool {
        let Some(book) = self.book(epoch) else { return false };
        let (first, last) = (first.0.max(book.first), last.0.min(book.next.saturating_sub(1)));
        book.wanted.insert(first, last);
        first <= last
    }

    /// Nothing is on its way any more: the connection is gone, or nobody was there to receive it.
    pub(super) fn rewind(&mut self) {
        for frame in std::mem::take(&mut self.in_flight) {
            if let Some(book) = self.book(frame.epoch) {
                book.in_flight.remove(frame.first, frame.last);
                if frame.again {
                    book.wanted.insert(frame.first, frame.last);
                }
            }
        }
    }

    /// Frames on their way: all, and those that are not live.
    pub(super) fn in_flight(&self) -> (usize, usize) {
        (self.in_flight.len(), self.in_flight.iter().filter(|frame| !frame.live).count())
    }

    /// When the oldest frame on its way was sent.
    pub(super) fn oldest_sent_ms(&self) -> Option<u64> {
        self.in_flight.iter().map(|frame| frame.sent_at_ms).min()
    }

    /// Records held and not acknowledged.
    pub(super) fn unacked(&self) -> u64 {
        self.books.iter().map(Book::unacked).sum()
    }

    fn book(&mut self, epoch: Epoch) -> Option<&mut Book> {
        self.books.iter_mut().find(|book| book.epoch == epoch)
    }

    fn release(&mut self, done: impl Fn(&InFlight, &Book) -> bool) {
        let books = &mut self.books;
        self.in_flight.retain(|frame| {
            let Some(book) = books.iter_mut().find(|book| book.epoch == frame.epoch) else { return false };
            let done = done(frame, book);
            if done {
                book.in_flight.remove(frame.first, frame.last);
            }
            !done
        });
    }

    /// A frame that was asked for again is covered before it is sent: any answer of its epoch ends its flight.
    fn release_answered(&mut self, epoch: Epoch) {
        self.release(|frame, book| frame.epoch == epoch && book.acked.covers(frame.first, frame.last));
    }

    fn release_gone(&mut self) {
        self.release(|frame, book| frame.last < book.first);
    }
}

/// The last seq of which an answer says whether it is there: a list that is full was cut off.
fn sight(ack: &EpochAck) -> u64 {
    let cut_off = ack.above.len() >= ACK_RANGES_MAX;
    let end = ack.above.last().map_or(ack.watermark, |(_, last)| *last);
    if cut_off { end.0 } else { u64::MAX }
}

/// What an answer says is not there, within its sight.
fn missing(ack: &EpochAck) -> Vec<(u64, u64)> {
    let ranges = ack.above.iter().chain(&ack.parked).map(|(first, last)| (first.0, last.0));
    let there: RangeSet = ranges.chain([(1, ack.watermark.0)]).collect();
    there.holes(1, sight(ack)).collect()
}
