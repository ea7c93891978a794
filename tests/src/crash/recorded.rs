//! Cuts a recorded run: replays what it did to the files, and at each place where something changed since the last
//! one, on the disk or in what was promised, leaves a directory as a power cut would and lets the subject judge it.
//!
//! Recording needs `ptrace`; where that is refused, as in some containers, [`record`] says so.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::BufReader;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use super::image::{Image, Names};
use super::random::Random;
use super::trace::{self, Op};
use super::{Chooser, Extent, Model, Tally};

/// Threads that open images.
const THREADS: usize = 2;
/// Where images are opened: in memory, where it can be had.
const MEMORY: &str = "/dev/shm";

/// What is left of a cut, with the policy of names: how a journaling file system orders names matters only where some
/// of them are left.
const CUTS: [(Model, Names); 5] = [
    (Model::Nothing, Names::Strict),
    (Model::Prefix, Names::Strict),
    (Model::Sectors, Names::Strict),
    (Model::Sectors, Names::Lenient),
    (Model::Killed, Names::Strict),
];

/// Figure of images that are to the byte what an image before them was, with nothing promised in between: the same
/// judgement would be made again.
const SAME: &str = "images that are the same as one before: not opened again";

/// Something that was recorded and can be judged.
pub trait Subject: Clone + Send + Sync {
    /// Takes over a mark of the recorded program.
    ///
    /// # Errors
    /// It is none.
    fn mark(&mut self, mark: &str) -> Result<()>;

    /// Whether it needs a file system that keeps no later change of names where it loses an earlier one, as journaling
    /// ones do. POSIX promises less.
    fn needs_names_in_order(&self) -> bool {
        false
    }

    /// Opens what a cut left in `directory`, and compares. Returns figures by their names.
    ///
    /// # Errors
    /// What is not as it should be.
    fn judge(&self, directory: &Path, seed: u64) -> Result<Vec<(&'static str, u64)>>;
}

/// What was recorded: the operations, in their order.
pub struct Recording {
    ops: Vec<Op>,
}

/// Why nothing was recorded.
#[derive(Debug)]
pub enum Recorded {
    /// It was.
    Yes(Recording),
    /// This machine does not let one process watch another; here is what strace says.
    Refused(String),
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recording of {} operations", self.ops.len())
    }
}

/// Runs `recorder WHAT DIRECTORY MARKS SEED OPERATIONS` under strace.
///
/// # Errors
/// strace is not installed, the program failed, or did what is not modelled.
pub fn record(recorder: &Path, what: &str, seed: u64, operations: u64) -> Result<Recorded> {
    let scratch = scratch()?;
    let place = scratch.path().canonicalize()?;
    let (root, marks, trace) = (place.join("root"), place.join("marks"), place.join("trace"));
    std::fs::create_dir(&root)?;
    let output = Command::new("strace")
        .args(["-f", "-y", "-xx", "-s", "33554432", "-e", "signal=none", "-e"])
        .arg(format!("trace={}", trace::CALLS))
        .arg("-o")
        .arg(&trace)
        .arg(recorder)
        .args(["record", what])
        .args([&root, &marks])
        .args([seed.to_string(), operations.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("cannot run strace; `./dev test` installs it")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("ptrace") && said.contains("not permitted") {
        return Ok(Recorded::Refused(said.trim().to_owned()));
    }
    ensure!(output.status.success(), "the recorder failed: {said}");
    let (root, marks) = (text(&root)?, text(&marks)?);
    let ops = trace::parse(BufReader::new(File::open(&trace)?), &root, &marks)?;
    ensure!(ops.iter().any(|op| matches!(op, Op::Sync { .. })), "nothing was recorded");
    Ok(Recorded::Yes(Recording { ops }))
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).context("a path that is not UTF-8")
}

fn scratch() -> Result<TempDir> {
    let memory = PathBuf::from(MEMORY);
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.context("no directory for images")
}

/// Cuts it everywhere, or at a sample of places.
///
/// # Errors
/// A mark that the subject does not know; what a cut finds is in the tally.
pub fn cut<S: Subject>(
    what: &str,
    recording: &Recording,
    subject: &S,
    seed: u64,
    extent: Extent,
) -> Result<Tally> {
    let shares: Vec<Result<Tally>> = std::thread::scope(|scope| {
        let share = |n| move || Share::new(what, subject.clone(), seed, extent, recording)?.run(n, recording);
        let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(share(n))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread of images panicked")))
            .collect()
    });
    let mut tally = Tally::default();
    for share in shares {
        let share = share?;
        tally.cut_points = share.cut_points;
        tally.add(&share);
    }
    Ok(tally)
}

/// What one thread does: it replays everything, and opens its share of the images.
struct Share<'a, S> {
    what: &'a str,
    subject: S,
    seed: u64,
    chooser: Chooser,
    strict: Image,
    lenient: Image,
    scratch: TempDir,
    /// Images that were judged since something was last promised, by their hashes.
    judged: HashSet<u64>,
    tally: Tally,
}

impl<'a, S: Subject> Share<'a, S> {
    fn new(what: &'a str, subject: S, seed: u64, extent: Extent, recording: &Recording) -> Result<Self> {
        let possible = (recording.ops.len() * CUTS.len()) as u64;
        Ok(Self {
            what,
            subject,
            seed,
            chooser: Chooser::new(seed, extent, possible),
            strict: Image::new(Names::Strict),
            lenient: Image::new(Names::Lenient),
            scratch: scratch()?,
            judged: HashSet::new(),
            tally: Tally::default(),
        })
    }

    fn run(mut self, share: usize, recording: &Recording) -> Result<Tally> {
        let mut has_changed = true;
        for (number, op) in recording.ops.iter().enumerate() {
            if let Op::Mark(mark) = op {
                for line in mark.lines() {
                    self.subject.mark(line)?;
                }
                self.judged.clear();
                has_changed = true;
                continue;
            }
            if has_changed {
                self.cut(share);
            }
            self.lenient.apply(number, op);
            has_changed = self.strict.apply(number, op);
        }
        self.cut(share);
        Ok(self.tally)
    }

    fn cut(&mut self, share: usize) {
        self.tally.cut_points += 1;
        let point = self.tally.cut_points;
        let is_mine = point % THREADS as u64 == share as u64;
        for (n, (model, names)) in CUTS.into_iter().enumerate() {
            // Every thread draws the same, so that the choice does not depend on their number.
            let is_chosen = self.chooser.takes(point) && is_mine;
            let is_unordered = (model, names) == (Model::Sectors, Names::Strict);
            if is_chosen && !(is_unordered && self.subject.needs_names_in_order()) {
                self.cut_under(point, n as u64, (model, names));
            }
        }
    }

    fn cut_under(&mut self, point: u64, n: u64, (model, names): (Model, Names)) {
        let context = format!("{}, seed {}, cut {point}, {model:?}, names {names:?}", self.what, self.seed);
        let mut random = Random::of(self.seed ^ point, n);
        let image = if names == Names::Strict { &self.strict } else { &self.lenient };
        let left = image.left(model, &mut random);
        let mut hasher = DefaultHasher::new();
        left.hash(&mut hasher);
        if !self.judged.insert(hasher.finish()) {
            self.tally.count(SAME, 1);
            return;
        }
        *self.tally.images.entry(model).or_default() += 1;
        let directory = self.scratch.path().join("image");
        let result = catch_unwind(AssertUnwindSafe(|| {
            std::fs::create_dir(&directory)?;
            left.write(&directory)?;
            self.subject.judge(&directory, random.next())
        }));
        if let Ok(Ok(figures)) = &result {
            for &(what, n) in figures {
                self.tally.count(what, n);
            }
        }
        self.tally.end(&context, result.map(|done| done.map(drop)));
        if let Err(e) = std::fs::remove_dir_all(&directory) {
            self.tally.findings.push(format!("{context}: cannot remove the image: {e}"));
        }
    }
}
