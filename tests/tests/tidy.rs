//! Checks of the tree itself: every file says its job, imports run in one direction, cores stay pure.
//!
//! Does not judge style; clippy and rustfmt do.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace").into()
}

fn rust_files(folder: &str) -> Vec<(String, String)> {
    fn walk(path: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && path.file_name().is_some_and(|n| n != "target") {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let (root, mut found) = (root(), Vec::new());
    walk(&root.join(folder), &mut found);
    let relative = |p: &Path| p.strip_prefix(&root).expect("found below root").display().to_string();
    let mut files: Vec<_> =
        found.iter().map(|p| (relative(p), fs::read_to_string(p).expect("a source file is text"))).collect();
    files.sort();
    assert!(!files.is_empty(), "{folder} has Rust files");
    files
}

const CRATES: [&str; 5] = ["agent", "collector", "common", "simulators", "tests"];

/// The part of a file before its unit tests: what ships.
fn production(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
    code.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_file_opens_with_its_job() {
    let silent: Vec<String> = CRATES
        .iter()
        .flat_map(|c| rust_files(c))
        .filter(|(_, text)| !text.trim_start_matches("#![no_main]\n").starts_with("//!"))
        .map(|(path, _)| path)
        .collect();
    assert!(
        silent.is_empty(),
        "these files do not open with //! (their job, and what they leave to others): {silent:?}"
    );
}

#[test]
fn imports_run_in_one_direction() {
    let rows: [(&str, &[&str]); 4] = [
        ("common", &["gapless_agent", "gapless_collector", "gapless_simulators", "gapless_tests"]),
        ("agent/src", &["gapless_collector", "gapless_simulators", "gapless_tests"]),
        ("collector/src", &["gapless_agent", "gapless_simulators", "gapless_tests"]),
        ("simulators/src", &["gapless_agent", "gapless_collector", "gapless_tests"]),
    ];
    for (folder, banned) in rows {
        for (path, text) in rust_files(folder) {
            for name in banned {
                assert!(
                    !production(&text).contains(name),
                    "{path} imports {name}: see ARCHITECTURE.md, invariants"
                );
            }
        }
    }
}

/// What a decision core may not touch: time and input come in as arguments, actions go out as values.
const IMPURE: [&str; 14] = [
    "tokio::",
    "std::fs",
    "std::net",
    "std::io",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "Instant::now",
    "SystemTime",
    "rustix::",
    "libc::",
    "getrandom",
    "rumqttc",
];

/// The cores: folders or single files.
const CORES: &[&str] = &[
    "common/src",
    "agent/src/campbell",
    "agent/src/files",
    "agent/src/health",
    "agent/src/modbus",
    "agent/src/records",
    "agent/src/schedule",
    "agent/src/uplink/budget",
    "agent/src/uplink/core",
    "agent/src/uplink/delivery",
    "collector/src/alerts",
    "collector/src/freshness",
    "collector/src/gaps",
    "collector/src/housekeeping",
    "collector/src/jobs",
    "collector/src/api/events/position",
    "collector/src/api/events/transitions",
    "collector/src/ledger",
    "collector/src/live",
    "collector/src/sources/answer",
    "collector/src/sources/auth",
    "collector/src/sources/delta",
    "collector/src/sources/derive",
    "collector/src/sources/describe",
    "collector/src/sources/devices",
    "collector/src/sources/drop/files",
    "collector/src/sources/drop/lines",
    "collector/src/sources/drop/sftp",
    "collector/src/sources/list",
    "collector/src/sources/parts",
    "collector/src/sources/roster",
    "collector/src/sources/rows",
    "collector/src/sources/url",
    "collector/src/sources/voice",
    "collector/src/web/calendar",
    "agent/src/config",
];

#[test]
fn cores_are_pure() {
    let everything: Vec<_> = CRATES.iter().flat_map(|c| rust_files(c)).collect();
    for core in CORES {
        let inside = |path: &str| path.starts_with(&format!("{core}/")) || path == format!("{core}.rs");
        let files: Vec<_> = everything.iter().filter(|(path, _)| inside(path)).collect();
        assert!(!files.is_empty(), "{core} is named as a core here, but there is no such file or folder");
        for (path, text) in files {
            for word in IMPURE {
                assert!(!production(text).contains(word), "{path} is a decision core and uses `{word}`");
            }
        }
    }
}

/// What decides what the collector stores and answers: a simulation replays it from its seed.
const REPLAYED: [&str; 18] = [
    "collector/src/alerts/",
    "collector/src/gaps/",
    "collector/src/jobs/",
    "collector/src/ledger/",
    "collector/src/live.rs",
    "collector/src/store/",
    "collector/src/ingest/apply.rs",
    "collector/src/ingest/borrow.rs",
    "collector/src/ingest/loan.rs",
    "collector/src/ingest/catalogs.rs",
    "collector/src/ingest/committer.rs",
    "collector/src/ingest/errands.rs",
    "collector/src/housekeeping.rs",
    "collector/src/ingest/housekeep.rs",
    "collector/src/ingest/keep.rs",
    "collector/src/ingest/lease.rs",
    "collector/src/ingest/memory.rs",
    "collector/src/ingest/warn.rs",
];

#[test]
fn what_is_replayed_has_no_random_order_and_no_clock() {
    let everything = rust_files("collector");
    for part in REPLAYED {
        let files: Vec<_> = everything.iter().filter(|(path, _)| path.starts_with(part)).collect();
        assert!(!files.is_empty(), "there is no {part}");
        for (path, text) in files {
            for word in ["HashMap", "HashSet", "clock::now"] {
                assert!(!production(text).contains(word), "{path} is replayed and uses `{word}`");
            }
        }
    }
}

/// Where a machine keeps what everybody on it trusts is known to one file of each program.
#[test]
fn the_machines_authorities_are_named_once() {
    for program in ["agent/src", "collector/src"] {
        let files = rust_files(program);
        let named = files.iter().filter(|(_, text)| production(text).contains("/etc/ssl"));
        let named: Vec<&str> = named.map(|(path, _)| path.as_str()).collect();
        assert_eq!(named.len(), 1, "{program}: {named:?}");
    }
}

#[test]
fn the_tree_has_the_top_level_agreed_on() {
    let agreed = [
        "Cargo.toml",
        "Cargo.lock",
        "rust-toolchain.toml",
        "agent",
        "collector",
        "common",
        "simulators",
        "tests",
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "dev",
        "target",
        "demo-data",
    ];
    for entry in fs::read_dir(root()).expect("the root is readable").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(
            name.starts_with('.') || agreed.contains(&name.as_str()),
            "`{name}` stands at the top level: move it"
        );
    }
}

#[test]
fn every_statement_of_the_collector_stays_prepared() {
    let count = |(_, text): &(String, String)| production(text).matches("prepare_cached(").count();
    let statements: usize = rust_files("collector/src").iter().map(count).sum();
    let kept = gapless_collector::store::sqlite::STATEMENTS_CACHED;
    assert!(
        2 * statements <= kept,
        "{statements} places that prepare statements, of which {kept} stay prepared"
    );
}
