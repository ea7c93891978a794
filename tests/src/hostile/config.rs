//! Any text as an agent's configuration and as a register map.

use std::sync::OnceLock;

use gapless_agent::config::Config;
use gapless_common::document::Problems;
use gapless_common::profile::{Profile, ProfileSet};
use gapless_common::wire;

/// Nothing may panic; what is refused is explained with places that the text has; what is accepted has a catalog
/// that can be written and read.
pub fn config(bytes: &[u8]) {
    static PROFILES: OnceLock<ProfileSet> = OnceLock::new();
    let profiles = PROFILES.get_or_init(|| ProfileSet::embedded().expect("a test parses them all"));
    let text = String::from_utf8_lossy(bytes);
    match Config::parse("agent.toml", &text, profiles) {
        Ok(config) => {
            let catalog = config.catalog();
            let (hash, bytes) = wire::encode_catalog(&catalog);
            assert_eq!(wire::decode_catalog(&bytes), Ok((hash, catalog)));
        }
        Err(e) => explained(&e.0, &text),
    }
    if let Err(e) = Profile::parse("profile.toml", &text) {
        explained(&e.0, &text);
    }
}

fn explained(problems: &Problems, text: &str) {
    assert!(!problems.list.is_empty());
    let lines: Vec<&str> = text.split('\n').collect();
    for problem in &problems.list {
        let line = problem.line.checked_sub(1).and_then(|line| lines.get(line));
        let width = line.map(|line| line.chars().count()).unwrap_or_default();
        assert!(line.is_some() && (1..=width + 1).contains(&problem.column), "{problem:?}");
        assert!(!problem.message.is_empty());
    }
}
