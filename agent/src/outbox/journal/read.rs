//! Reading a run of records: from the place where the last reading ended, or from a mark of the index.
//!
//! Every record is checked again as it is read. Damage found here goes the same way as damage found at opening.

use std::io;

use gapless_common::id::{Epoch, Seq};

use super::Journal;
use super::format::{FRAME_HEADER_BYTES, FrameHeader, Item, scan};
use crate::outbox::spans::{Entry, Spans};
use crate::outbox::{AppendError, ReadError, ReadLimits, StoredRecord, to_u64, to_usize, unreadable};

/// Bytes read from a segment at a time, unless a record is longer.
const CHUNK_BYTES: u64 = 32 << 10;

/// Where the last reading ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadHint {
    number: u64,
    epoch: Epoch,
    seq: u64,
    offset: u64,
}

/// A run to be read from one segment.
#[derive(Debug, Clone, Copy)]
struct Piece {
    index: usize,
    epoch: Epoch,
    from: u64,
    to: u64,
    offset: u64,
}

/// How reading a piece ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// All of it was read, or the limits are reached.
    Done { is_full: bool },
    /// A frame is not what the index says.
    Damage,
}

impl Journal {
    pub(super) fn read_run(
        &mut self,
        epoch: Epoch,
        from: u64,
        limits: ReadLimits,
        out: &mut Vec<StoredRecord>,
    ) -> Result<(), ReadError> {
        let begin = out.len();
        loop {
            let from = out[begin..].last().map_or(from, |record| record.seq.0 + 1);
            let Some(piece) = self.piece(epoch, from) else { return Ok(()) };
            if let Some(last) = out[begin..].last()
                && (piece.from != from || self.catalog_of(&piece) != Some(last.catalog))
            {
                return Ok(());
            }
            match self.read_piece(&piece, limits, begin, out)? {
                End::Done { is_full: true } => return Ok(()),
                End::Done { is_full: false } => {}
                End::Damage => self.rescan(&piece)?,
            }
        }
    }

    /// The next run of `epoch` at or after `from` that lies in one segment.
    fn piece(&self, epoch: Epoch, from: u64) -> Option<Piece> {
        let mut found =
            self.segments.iter().enumerate().filter_map(|(i, s)| Some((i, s.spans.find(epoch, from)?)));
        let (index, span) = found.next()?;
        let from = from.max(span.first);
        let number = self.segments[index].number;
        let (mut seq, mut offset) = span.mark(from);
        if let Some(hint) = self.hint
            && (hint.number, hint.epoch) == (number, epoch)
            && (seq + 1..=from).contains(&hint.seq)
        {
            (seq, offset) = (hint.seq, hint.offset);
        }
        debug_assert!(seq <= from);
        Some(Piece { index, epoch, from, to: span.last, offset })
    }

    fn catalog_of(&self, piece: &Piece) -> Option<gapless_common::id::CatalogHash> {
        Some(self.segments[piece.index].spans.find(piece.epoch, piece.from)?.catalog)
    }

    fn read_piece(
        &mut self,
        piece: &Piece,
        limits: ReadLimits,
        begin: usize,
        out: &mut Vec<StoredRecord>,
    ) -> Result<End, ReadError> {
        let (number, end) = (self.segments[piece.index].number, self.segments[piece.index].end);
        let mut bytes: usize = out[begin..].iter().map(|r| r.bytes.len()).sum();
        let (mut base, mut offset) = (piece.offset, piece.offset);
        self.chunk.clear();
        loop {
            let at = to_usize(offset - base);
            let Some(header) = self.header_at(at, number) else {
                // The chunk ends within this frame, or the frame is damaged.
                base = offset;
                if !self.load(piece.index, offset, end, number)? {
                    return Ok(End::Damage);
                }
                continue;
            };
            let next = offset + to_u64(header.total());
            if header.is_record() && header.epoch == piece.epoch && header.seq.0 >= piece.from {
                let Some(payload) = header.payload(&self.chunk[at..]) else { return Ok(End::Damage) };
                let count = out.len() - begin;
                if count > 0 && (count >= limits.records || bytes + payload.len() > limits.bytes) {
                    self.hint = Some(ReadHint { number, epoch: piece.epoch, seq: header.seq.0, offset });
                    return Ok(End::Done { is_full: true });
                }
                bytes += payload.len();
                out.push(stored(&header, payload));
                if header.seq.0 >= piece.to {
                    self.hint =
                        Some(ReadHint { number, epoch: piece.epoch, seq: header.seq.0 + 1, offset: next });
                    return Ok(End::Done { is_full: false });
                }
            }
            offset = next;
        }
    }

    fn header_at(&self, at: usize, number: u64) -> Option<FrameHeader> {
        FrameHeader::decode(self.chunk.get(at..)?, number)
    }

    /// Loads the chunk so that it begins with the frame at `offset`, all of it; `false` where there is no valid one.
    fn load(&mut self, index: usize, offset: u64, end: u64, number: u64) -> io::Result<bool> {
        let mut want = CHUNK_BYTES;
        loop {
            let len = want.min(end.saturating_sub(offset));
            self.chunk.resize(to_usize(len), 0);
            // What cannot be read is zero, which is no frame: damage.
            unreadable::read(self.disk.as_mut(), &self.segments[index].name, offset, &mut self.chunk)?;
            if self.header_at(0, number).is_some() {
                return Ok(true);
            }
            if len < want || to_usize(len) < FRAME_HEADER_BYTES {
                self.chunk.clear();
                return Ok(false);
            }
            want *= 4;
        }
    }

    /// Makes the index of a piece's segment anew after damage was met, and names what is missing since.
    fn rescan(&mut self, piece: &Piece) -> Result<(), ReadError> {
        let index = piece.index;
        let segment = &self.segments[index];
        let (name, number, end) = (segment.name.clone(), segment.number, segment.end);
        let mut bytes = vec![0; to_usize(end)];
        unreadable::read(self.disk.as_mut(), &name, 0, &mut bytes)?;
        let mut spans = Spans::default();
        for (offset, item) in scan(&bytes, number) {
            if !matches!(item, Item::Frame(_)) {
                spans.break_run();
            }
            match item {
                Item::Frame(h) if h.is_record() => spans.push(&Entry {
                    epoch: h.epoch,
                    seq: h.seq.0,
                    catalog: h.catalog,
                    at: h.at,
                    from: h.from(),
                    is_word: h.is_word(),
                    offset: to_u64(offset),
                }),
                Item::Frame(_) => {}
                Item::Damaged(h) => self.keep_aside(number, offset, &bytes[offset..offset + h.total()])?,
                Item::Unknown(len) => self.keep_aside(number, offset, &bytes[offset..offset + len])?,
            }
        }
        // Frames that are each valid and yet do not follow one another, or a disk that reads differently each
        // time: the run that cannot be read is given up, so that what stands behind it is not held up for ever.
        if self.segments[index].spans == spans {
            spans.0.retain(|s| s.epoch != piece.epoch || !(s.first..=s.last).contains(&piece.from));
        }
        let mut missing = self.segments[index].spans.missing_in(&spans);
        self.forgone.note(missing.iter().copied());
        missing.retain(|l| !self.acks.owed(l.epoch, l.first.0, l.last.0).is_empty());
        self.counters.quarantined_records += missing.iter().map(|l| l.last.0 - l.first.0 + 1).sum::<u64>();
        self.segments[index].spans = spans;
        self.hint = None;
        self.record_losses(&missing).map_err(|e| match e {
            AppendError::Io { source, .. } => ReadError(source),
            other => ReadError(io::Error::other(other)),
        })
    }

    fn keep_aside(&mut self, number: u64, offset: usize, bytes: &[u8]) -> Result<(), ReadError> {
        match self.quarantine.add(self.disk.as_mut(), number, to_u64(offset), bytes) {
            Err(e) if !crate::outbox::is_full(&e) && !unreadable::is_unreadable(&e) => Err(e.into()),
            _ => Ok(()),
        }
    }
}

fn stored(header: &FrameHeader, payload: &[u8]) -> StoredRecord {
    StoredRecord {
        epoch: header.epoch,
        seq: Seq(header.seq.0),
        kind: header.kind,
        at: header.at,
        from: header.from(),
        catalog: header.catalog,
        bytes: payload.into(),
    }
}
