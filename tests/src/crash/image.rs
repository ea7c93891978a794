//! The files below one directory as a device has them and as its cache does, operation by operation, and what a power
//! cut leaves of what lies between. Knows nothing of what the files mean.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::{fs, io};

use super::Model;
use super::random::Random;
use super::trace::Op;

/// Unit that a device writes whole.
const SECTOR_BYTES: usize = 512;

/// When a name is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// After a sync of its directory, each by itself: what POSIX promises.
    Strict,
    /// After any later sync, all in their order: what a journaling file system does.
    Lenient,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Rc<[u8]> },
    Resize(usize),
    Reach(usize),
}

impl Change {
    fn bytes(&self) -> usize {
        if let Self::Write { bytes, .. } = self { bytes.len() } else { 1 }
    }

    fn apply(&self, contents: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => overwrite(contents, *offset, bytes),
            Self::Resize(len) => contents.resize(*len, 0),
            Self::Reach(end) => contents.resize(contents.len().max(*end), 0),
        }
    }
}

#[derive(Debug, Default)]
struct File {
    durable: Vec<u8>,
    /// With the number of the operation.
    pending: Vec<(usize, Change)>,
}

#[derive(Debug)]
enum Node {
    Directory,
    File(File),
}

#[derive(Debug, Clone)]
enum NameChange {
    Link(String, usize),
    Unlink(String),
    Rename(String, String),
}

impl NameChange {
    fn directory(&self) -> &str {
        match self {
            Self::Link(path, _) | Self::Unlink(path) | Self::Rename(_, path) => directory_of(path),
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Link(path, node) => drop(names.insert(path.clone(), *node)),
            Self::Unlink(path) => drop(names.remove(path)),
            Self::Rename(from, to) => rename(names, from, to),
        }
    }
}

fn directory_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

fn rename(names: &mut BTreeMap<String, usize>, from: &str, to: &str) {
    let below = format!("{from}/");
    let moved: Vec<String> = names.keys().filter(|p| *p == from || p.starts_with(&below)).cloned().collect();
    for path in moved {
        if let Some(node) = names.remove(&path) {
            names.insert(format!("{to}{}", &path[from.len()..]), node);
        }
    }
}

/// What a cut leaves, by path; directories have no contents. Two that are equal, and hash the same, are the same image.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Left<'a>(BTreeMap<String, Option<Cow<'a, [u8]>>>);

impl Left<'_> {
    /// Writes it to an empty directory.
    pub(super) fn write(&self, to: &Path) -> io::Result<()> {
        self.0.iter().try_for_each(|(path, contents)| match contents {
            None => fs::create_dir(to.join(path)),
            Some(contents) => fs::write(to.join(path), contents),
        })
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Image {
    policy: Names,
    nodes: Vec<Node>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    changes: Vec<(usize, NameChange)>,
}

impl Image {
    pub(super) const fn new(policy: Names) -> Self {
        Self {
            policy,
            nodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
        }
    }

    /// Whether anything waits for a sync.
    pub(super) fn is_pending(&self) -> bool {
        let waits = |node: &usize| matches!(&self.nodes[*node], Node::File(f) if !f.pending.is_empty());
        !self.changes.is_empty() || self.names.values().any(waits)
    }

    /// Does an operation; returns whether it changed what a cut could leave.
    pub(super) fn apply(&mut self, number: usize, op: &Op) -> bool {
        match op {
            Op::Create(path) if self.names.contains_key(path) => return false,
            Op::Create(path) => self.make(number, path, Node::File(File::default())),
            Op::Mkdir(path) => self.make(number, path, Node::Directory),
            Op::Write { path, offset, bytes } => {
                let change = Change::Write { offset: to_usize(*offset), bytes: bytes.as_slice().into() };
                self.change(number, path, change);
            }
            Op::Resize { path, len } => self.change(number, path, Change::Resize(to_usize(*len))),
            Op::Reach { path, end } => self.change(number, path, Change::Reach(to_usize(*end))),
            Op::Sync { path, before } => {
                let was_pending = self.is_pending();
                self.sync(path, *before);
                return was_pending;
            }
            Op::Rename { from, to } => {
                rename(&mut self.names, from, to);
                self.changes.push((number, NameChange::Rename(from.clone(), to.clone())));
            }
            Op::Unlink(path) => {
                self.names.remove(path);
                self.changes.push((number, NameChange::Unlink(path.clone())));
            }
            Op::Mark(_) => return false,
        }
        true
    }

    fn make(&mut self, number: usize, path: &str, node: Node) {
        self.nodes.push(node);
        self.names.insert(path.to_owned(), self.nodes.len() - 1);
        self.changes.push((number, NameChange::Link(path.to_owned(), self.nodes.len() - 1)));
    }

    fn change(&mut self, number: usize, path: &str, change: Change) {
        if let Some(Node::File(file)) = self.names.get(path).and_then(|&node| self.nodes.get_mut(node)) {
            file.pending.push((number, change));
        }
    }

    fn sync(&mut self, path: &str, before: usize) {
        if let Some(Node::File(file)) = self.names.get(path).and_then(|&node| self.nodes.get_mut(node)) {
            let (forced, later) =
                std::mem::take(&mut file.pending).into_iter().partition(|(n, _)| *n < before);
            file.pending = later;
            let forced: Vec<(usize, Change)> = forced;
            forced.iter().for_each(|(_, change)| change.apply(&mut file.durable));
        }
        let is_strict = self.policy == Names::Strict;
        let is_forced =
            |n: usize, change: &NameChange| n < before && (!is_strict || change.directory() == path);
        let (forced, later) =
            std::mem::take(&mut self.changes).into_iter().partition(|(n, c)| is_forced(*n, c));
        self.changes = later;
        let forced: Vec<(usize, NameChange)> = forced;
        forced.iter().for_each(|(_, change)| change.apply(&mut self.durable_names));
    }

    /// What a cut now leaves: all files with their contents, all directories without.
    pub(super) fn left(&self, model: Model, random: &mut Random) -> Left<'_> {
        let names = self.names_left(model, random);
        let kept = self.changes_left(model, random);
        let mut left: BTreeMap<String, Option<Cow<'_, [u8]>>> = BTreeMap::new();
        for (path, node) in names {
            // What lies in a directory that is gone is gone, however durable its own name is.
            let directory = directory_of(&path);
            if !directory.is_empty() && left.get(directory).is_none_or(Option::is_some) {
                continue;
            }
            let contents = match &self.nodes[node] {
                Node::Directory => None,
                Node::File(file) => Some(match kept.get(&node) {
                    None => Cow::Borrowed(file.durable.as_slice()),
                    Some(changes) => {
                        let mut contents = file.durable.clone();
                        changes.iter().for_each(|change| change.apply(&mut contents));
                        Cow::Owned(contents)
                    }
                }),
            };
            left.insert(path, contents);
        }
        Left(left)
    }

    fn names_left(&self, model: Model, random: &mut Random) -> BTreeMap<String, usize> {
        let mut names = self.durable_names.clone();
        let prefix = random.below(self.changes.len() as u64 + 1);
        for (i, (_, change)) in (0..).zip(&self.changes) {
            let is_kept = match model {
                Model::Nothing => false,
                Model::Killed => true,
                Model::Sectors if self.policy == Names::Strict => random.one_in(2),
                Model::Prefix | Model::Sectors => i < prefix,
            };
            if is_kept {
                change.apply(&mut names);
            }
        }
        names
    }

    /// What is left of the pending changes, by file.
    fn changes_left(&self, model: Model, random: &mut Random) -> BTreeMap<usize, Vec<Change>> {
        let mut pending: Vec<(usize, usize, &Change)> = Vec::new();
        for (node, file) in self.nodes.iter().enumerate() {
            let Node::File(file) = file else { continue };
            pending.extend(file.pending.iter().map(|(number, change)| (*number, node, change)));
        }
        pending.sort_by_key(|(number, ..)| *number);
        let total: usize = pending.iter().map(|(.., change)| change.bytes()).sum();
        let mut budget = to_usize(random.below(total as u64 + 1));
        let mut left: BTreeMap<usize, Vec<Change>> = BTreeMap::new();
        for (_, node, change) in pending {
            left.entry(node).or_default().extend(part_left(change, model, &mut budget, random));
        }
        left
    }
}

fn part_left(change: &Change, model: Model, budget: &mut usize, random: &mut Random) -> Vec<Change> {
    match (model, change) {
        (Model::Nothing, _) => Vec::new(),
        (Model::Killed, _) => vec![change.clone()],
        (Model::Prefix, _) => {
            let kept = change.bytes().min(*budget);
            *budget -= kept;
            match change {
                Change::Write { offset, bytes } => {
                    vec![Change::Write { offset: *offset, bytes: bytes[..kept].into() }]
                }
                _ if kept > 0 => vec![change.clone()],
                _ => Vec::new(),
            }
        }
        (Model::Sectors, Change::Write { offset, bytes }) => sectors_left(*offset, bytes, random),
        (Model::Sectors, _) => {
            if random.one_in(2) {
                vec![change.clone()]
            } else {
                Vec::new()
            }
        }
    }
}

fn sectors_left(offset: usize, bytes: &[u8], random: &mut Random) -> Vec<Change> {
    let (mut left, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let end = bytes.len().min(at + SECTOR_BYTES - (offset + at) % SECTOR_BYTES);
        if random.one_in(2) {
            left.push(Change::Write { offset: offset + at, bytes: bytes[at..end].into() });
        }
        at = end;
    }
    left
}

fn overwrite(contents: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    if contents.len() < offset + bytes.len() {
        contents.resize(offset + bytes.len(), 0);
    }
    contents[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each model and policy of names leaves of: a file whose contents are synced and whose name is not, then a
    /// write that is not synced.
    #[test]
    fn a_cut_leaves_what_was_forced_and_what_the_model_keeps() {
        let write = |offset, len| Op::Write { path: "d/f".into(), offset, bytes: vec![7; len] };
        let ops = [
            Op::Mkdir("d".into()),
            Op::Sync { path: String::new(), before: 1 },
            Op::Create("d/f".into()),
            write(0, 512),
            Op::Sync { path: "d/f".into(), before: 4 },
            write(512, 1024),
        ];
        let rows: [(Names, Model, &[u64]); 8] = [
            (Names::Strict, Model::Nothing, &[0]),
            (Names::Strict, Model::Killed, &[1536]),
            (Names::Strict, Model::Sectors, &[0, 512, 1024, 1536]),
            (Names::Lenient, Model::Nothing, &[512]),
            (Names::Lenient, Model::Killed, &[1536]),
            (Names::Lenient, Model::Sectors, &[512, 1024, 1536]),
            (Names::Lenient, Model::Prefix, &[]),
            (Names::Strict, Model::Prefix, &[]),
        ];
        for (policy, model, lengths) in rows {
            let mut image = Image::new(policy);
            for (n, op) in ops.iter().enumerate() {
                image.apply(n, op);
            }
            assert!(image.is_pending());
            let mut seen = std::collections::BTreeSet::new();
            for seed in 0..64 {
                let directory = tempfile::tempdir().unwrap();
                image.left(model, &mut Random::new(seed)).write(directory.path()).unwrap();
                assert!(directory.path().join("d").is_dir());
                seen.insert(fs::metadata(directory.path().join("d/f")).map_or(0, |meta| meta.len()));
            }
            if lengths.is_empty() {
                assert!(seen.len() > 10, "{policy:?} {model:?}: {seen:?}");
            } else {
                assert_eq!(seen.iter().copied().collect::<Vec<_>>(), lengths, "{policy:?} {model:?}");
            }
        }
    }

    #[test]
    fn what_lies_below_a_directory_that_is_gone_is_gone() {
        let mut image = Image::new(Names::Strict);
        let ops = [
            Op::Mkdir("a".into()),
            Op::Mkdir("a/b".into()),
            Op::Create("a/b/f".into()),
            Op::Sync { path: "a/b".into(), before: 3 },
            Op::Sync { path: "a".into(), before: 4 },
        ];
        ops.iter().enumerate().for_each(|(n, op)| assert!(image.apply(n, op)));
        let directory = tempfile::tempdir().unwrap();
        image.left(Model::Nothing, &mut Random::new(1)).write(directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_is_renamed_with_what_is_in_it() {
        let mut image = Image::new(Names::Strict);
        let ops = [
            Op::Mkdir("a".into()),
            Op::Create("a/f".into()),
            Op::Create("ab".into()),
            Op::Rename { from: "a".into(), to: "c".into() },
        ];
        ops.iter().enumerate().for_each(|(n, op)| assert!(image.apply(n, op)));
        let directory = tempfile::tempdir().unwrap();
        image.left(Model::Killed, &mut Random::new(1)).write(directory.path()).unwrap();
        assert!(directory.path().join("c/f").is_file() && directory.path().join("ab").is_file());
        assert!(!directory.path().join("a").exists());
    }
}
