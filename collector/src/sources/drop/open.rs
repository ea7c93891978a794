//! A file of a drop that is being read: its texts one after the other, a part at a time.

use std::collections::VecDeque;

use gapless_common::files::tail::Mark;
use gapless_common::planted::{self, Bug};

use super::super::rows::Row;
use super::files::{Begun, Cut, Half, Stretch};
use super::lines::{Bad, Lines, Meaning, Reader};
use super::packing::{Packing, Texts};
use super::place::{Place, Trouble};

/// What came of a file at once: its rows, and lines that are none.
pub(super) type Part = (Vec<Row>, Vec<Bad>);

/// Of a last line that has no end and is taken for a part of one, and of one that is no row although it is taken for whole.
const WAITS: &str = "it has no line end, and waits for the rest: have the file sent again; or, where the logger ends a line only \
                     when it begins the next, write `last_line = \"whole\"` under `[rows]`";
const NO_ROW: &str = "it has no line end, and no whole row can be seen in it, whatever `rows.last_line` says: have the file sent again";

/// See the module.
pub(super) struct Open {
    pub(super) name: Box<str>,
    pub(super) cut: Option<Cut>,
    /// First and last instant of what was read.
    pub(super) span: Option<Stretch>,
    /// The place up to which a plain one was read.
    pub(super) reader: Option<Reader>,
    /// A line without its end stands behind that.
    pub(super) has_half: bool,
    /// It is shorter than it was as it was listed: what is missing of it may be in another file by now.
    pub(super) is_short: bool,
    /// It waits although its file rests, as it is said to people.
    pub(super) waiting: Option<Bad>,
    /// What to do with such a line.
    half: Half,
    /// Its length, as it was listed.
    size: u64,
    /// Texts that are still to be read.
    texts: VecDeque<Text>,
}

struct Text {
    /// Within its file, where it is not all of it.
    name: Box<str>,
    /// `None` of what is read where it lies.
    bytes: Option<Vec<u8>>,
    reader: Reader,
    /// Up to there it was read in an earlier process, if it is still the same.
    known: Option<Mark>,
}

impl Open {
    /// Opens a file, to be read from where it was read to.
    pub(super) fn new(
        name: &str,
        begun: Begun,
        place: &mut dyn Place,
        packing: &Packing,
        meaning: &Meaning,
    ) -> Result<Self, Trouble> {
        let Begun { size, reader, mark, mut cut, half, is_settled } = begun;
        let texts = match packing.texts(place, name, size, is_settled)? {
            Texts::Plain => {
                let kept = match reader {
                    Some(reader) if is_same(&reader, name, place)? => Some(reader),
                    Some(_) => {
                        tell_anew(name);
                        cut = None;
                        None
                    }
                    None => None,
                };
                let known = mark.filter(|mark| mark.offset > 0);
                let reader = kept.unwrap_or_else(|| Reader::new(meaning));
                VecDeque::from([Text { name: "".into(), bytes: None, reader, known }])
            }
            Texts::Packed(texts) => {
                let text = |(name, bytes)| {
                    let (bytes, reader) = (Some(bytes), Reader::new(meaning));
                    Text { name, bytes, reader, known: None }
                };
                texts.into_iter().map(text).collect()
            }
        };
        let (name, span, reader, has_half, waiting) = (name.into(), None, None, false, None);
        Ok(Self { name, cut, span, reader, has_half, is_short: false, waiting, half, size, texts })
    }

    /// Reads on; nothing where all of it was read.
    pub(super) fn next(&mut self, place: &mut dyn Place, meaning: &Meaning) -> Result<Option<Part>, Trouble> {
        let Some(text) = self.texts.front_mut() else { return Ok(None) };
        if let Some(mark) = text.known {
            match text.find_again(mark, &self.name, place, meaning)? {
                Found::NotYet => {}
                Found::There => text.known = None,
                Found::Another => {
                    tell_anew(&self.name);
                    (text.known, text.reader) = (None, Reader::new(meaning));
                    self.cut = None;
                }
            }
            return Ok(Some((Vec::new(), Vec::new())));
        }
        let (offset, len) = text.reader.wanted();
        let read;
        let bytes = match &text.bytes {
            None => {
                read = place.read(&self.name, offset, len)?;
                &read[..]
            }
            Some(bytes) => {
                let bytes = bytes.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
                &bytes[..len.min(bytes.len())]
            }
        };
        let Some(Lines { mut rows, mut bad, more }) = text.reader.took(meaning, bytes) else {
            tell_anew(&self.name);
            text.reader = Reader::new(meaning);
            self.cut = None;
            return Ok(Some((Vec::new(), Vec::new())));
        };
        if !more && text.bytes.is_none() {
            self.has_half = text.reader.has_half(bytes);
            let end = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            self.is_short = end < self.size;
            // What has come since it was listed may be half of what comes.
            let half = if self.has_half && end == self.size { self.half } else { Half::Leave };
            let half = if planted::has(Bug::HalfLineRead) { Half::Read } else { half };
            let early = if half == Half::Read { text.reader.early(meaning, bytes) } else { None };
            self.waiting = match (half, &early) {
                (Half::Leave, _) | (_, Some(_)) => None,
                (Half::Tell, None) => Some(text.reader.waiting(WAITS)),
                (Half::Read, None) => Some(text.reader.waiting(NO_ROW)),
            };
            let early = early.unwrap_or_default();
            rows.extend(early.rows);
            bad.extend(early.bad);
        }
        for Row { at, .. } in &rows {
            let (first, last) = self.span.unwrap_or((*at, *at));
            self.span = Some((first.min(*at), last.max(*at)));
        }
        if !text.name.is_empty() {
            bad.iter_mut().for_each(|bad| bad.why = format!("of `{}` in it: {}", text.name, bad.why));
        }
        if !more
            && let Some(text) = self.texts.pop_front()
            && text.bytes.is_none()
        {
            self.reader = Some(text.reader);
        }
        Ok(Some((rows, bad)))
    }
}

/// Whether a place was found again.
enum Found {
    There,
    NotYet,
    /// It is in another file.
    Another,
}

impl Text {
    /// Reads on towards a place, of which all rows before it are known.
    fn find_again(
        &mut self,
        mark: Mark,
        name: &str,
        place: &mut dyn Place,
        meaning: &Meaning,
    ) -> Result<Found, Trouble> {
        let before = self.reader.mark().offset;
        let (offset, len) = self.reader.wanted();
        let len = usize::try_from(mark.offset.saturating_sub(offset)).map_or(len, |left| left.min(len));
        let is_taken = self.reader.took(meaning, &place.read(name, offset, len)?).is_some();
        let now = self.reader.mark();
        Ok(match is_taken && now.offset > before {
            true if now == mark => Found::There,
            true if now.offset < mark.offset => Found::NotYet,
            _ => Found::Another,
        })
    }
}

/// Whether a file still begins as the one did that was read.
fn is_same(reader: &Reader, name: &str, place: &mut dyn Place) -> Result<bool, Trouble> {
    let len = reader.head_len();
    Ok(len == 0 || reader.is_head(&place.read(name, 0, len)?))
}

fn tell_anew(file: &str) {
    tracing::info!(file, "it was written anew, and is read from its begin");
}
