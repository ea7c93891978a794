//! Which sites and devices a configuration names, where it names them, and which of them nobody knows. Pure: who is known is
//! told by whoever calls. A name that nobody knows may be announced later, so it is no mistake for sure.

use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A site or a device, and where it is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// `[freshness.site]`.
    pub table: &'static str,
    /// `farm`, or `farm/mast`.
    pub name: String,
    /// From 1.
    pub line: usize,
}

/// The tables whose keys are sites or devices.
const TABLES: [(&str, [&str; 2]); 5] = [
    ("[freshness.site]", ["freshness", "site"]),
    ("[freshness.device]", ["freshness", "device"]),
    ("[alerts.site]", ["alerts", "site"]),
    ("[alerts.device]", ["alerts", "device"]),
    ("[housekeeping.agreement_ends]", ["housekeeping", "agreement_ends"]),
];

/// All of them.
#[must_use]
pub fn named(text: &str) -> Vec<Named> {
    let (root, _) = DeTable::parse_recoverable(text);
    let line = |at: usize| text.get(..at).unwrap_or(text).matches('\n').count() + 1;
    let mut all = Vec::new();
    for (table, [part, keys]) in TABLES {
        let found = root.get_ref().get(part).and_then(inner).and_then(|part| inner(part.get(keys)?));
        let names = found.into_iter().flat_map(|keys| keys.keys());
        all.extend(names.map(|key| Named {
            table,
            name: key.get_ref().to_string(),
            line: line(key.span().start),
        }));
    }
    all.sort_by_key(|named| named.line);
    all
}

fn inner<'t, 'd>(value: &'t Spanned<DeValue<'d>>) -> Option<&'t DeTable<'d>> {
    match value.get_ref() {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

/// Those that nobody knows, of those that are named; none where no site is known yet. `known` holds sites, and devices as
/// `site/device`.
pub fn unknown<'n>(named: &'n [Named], known: &BTreeSet<String>) -> Vec<&'n Named> {
    if known.is_empty() { Vec::new() } else { named.iter().filter(|n| !known.contains(&n.name)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[freshness.site]
farm = "1h"
farn = "1h"
[freshness.device]
"farm/mast" = "1h"
"farm/nix" = "1h"
[alerts.site.farn]
gap = 3
[alerts.device]
"farm/mast" = { gap = 3 }
"mast/mast" = { gap = 3 }
[housekeeping]
agreement_ends = { "farm/nix" = "2025-12-31" }
"#;

    #[test]
    fn names_that_nobody_knows_are_told_once_each_with_their_place_where_any_is_known() {
        let expected: &[&str] = &[
            "4 [freshness.site] farn",
            "7 [freshness.device] farm/nix",
            "8 [alerts.site] farn",
            "12 [alerts.device] mast/mast",
            "14 [housekeeping.agreement_ends] farm/nix",
        ];
        let rows: [(&[&str], &[&str]); 3] = [
            (&[], &[]),
            (&["farm", "farm/mast"], expected),
            (&["farm", "farm/mast", "farn", "farm/nix", "mast", "mast/mast"], &[]),
        ];
        let named = named(TEXT);
        for (known, expected) in rows {
            let known = known.iter().map(|name| (*name).to_owned()).collect();
            let told = unknown(&named, &known);
            let told: Vec<_> = told.iter().map(|n| format!("{} {} {}", n.line, n.table, n.name)).collect();
            assert_eq!(told, expected, "{known:?}");
        }
    }
}
