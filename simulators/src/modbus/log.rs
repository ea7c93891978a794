//! What every unit answered, when, and as of when: the witness against which stored readings are checked.
//! A bounded ring in memory, and a file of one JSON object per line where one is asked for.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// Most answers kept in memory; the oldest go first, the file keeps all.
pub const ANSWERS_KEPT_MAX: usize = 65_536;

/// One request and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Which request of the unit this was, counted from 1.
    pub request: u64,
    /// The unit asked.
    pub unit: u8,
    /// The function asked for.
    pub function: u8,
    /// First address, where the request was long enough to name one.
    pub start: u16,
    /// Number of addresses (or the value, for functions 5 and 6).
    pub count: u16,
    /// The instant of which every register of the answer is the truth: milliseconds since 1970. The request's
    /// last character had arrived then.
    pub eval_ms: i64,
    /// The exception answered, 0 for none.
    pub exception: u8,
    /// Whether any answer was sent.
    pub answered: bool,
    /// The faults that struck it, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
}

/// Collects answers from all lines and connections of a server.
#[derive(Debug, Default)]
pub struct AnswerLog {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    ring: VecDeque<Answer>,
    file: Option<BufWriter<File>>,
    forgotten: u64,
    failed_writes: u64,
}

impl AnswerLog {
    /// Writes every answer from now on to `path` as well, a line each, flushed at once.
    ///
    /// # Errors
    /// Where the file cannot be made.
    pub fn write_to(&self, path: &Path) -> io::Result<()> {
        self.lock().file = Some(BufWriter::new(File::create(path)?));
        Ok(())
    }

    pub(super) fn push(&self, answer: Answer) {
        let mut inner = self.lock();
        let written = inner.file.as_mut().map(|file| write_line(file, &answer));
        if matches!(written, Some(Err(_))) {
            inner.failed_writes += 1;
        }
        if inner.ring.len() == ANSWERS_KEPT_MAX {
            inner.ring.pop_front();
            inner.forgotten += 1;
        }
        inner.ring.push_back(answer);
    }

    /// The answers kept in memory, oldest first.
    #[must_use]
    pub fn answers(&self) -> Vec<Answer> {
        self.lock().ring.iter().cloned().collect()
    }

    /// How many answers the memory has let go of, and how many lines the file did not take.
    #[must_use]
    pub fn lost(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.forgotten, inner.failed_writes)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_line(file: &mut BufWriter<File>, answer: &Answer) -> io::Result<()> {
    serde_json::to_writer(&mut *file, answer)?;
    file.write_all(b"\n")?;
    file.flush()
}
