//! Every file of every fuzz corpus, fed to the entry function of its target on the stable toolchain: what a fuzzer once
//! found stays found. Finds nothing new; `./dev fuzz` does.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use gapless_tests::hostile::{TARGETS, Target};

/// Feeds the corpus of `name`; returns how many files it has.
fn feed(name: &str, target: Target) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files = fs::read_dir(folder).expect("each target has a corpus in the repository");
    let mut count = 0;
    for file in files {
        let path = file.expect("a readable folder").path();
        let bytes = fs::read(&path).expect("a readable file");
        assert!(catch_unwind(|| target(&bytes)).is_ok(), "{} breaks a promise", path.display());
        count += 1;
    }
    count
}

#[test]
fn no_corpus_breaks_a_promise() {
    for (name, target) in TARGETS {
        assert!(feed(name, target) > 5, "the corpus of {name} is all but empty");
        target(&[]);
    }
}

#[test]
fn every_corpus_has_its_target() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for folder in fs::read_dir(corpora).expect("a readable folder") {
        let name = folder.expect("a readable folder").file_name();
        assert!(TARGETS.iter().any(|(target, _)| name == *target), "{name:?} is a corpus of no target");
    }
}
