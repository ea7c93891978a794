//! What a complete listing of a source's devices means for those that are known. Pure.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::planted::{self, Bug};

use super::list::Entry;

/// What is known of a device of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// As it was listed last.
    pub(super) entry: Entry,
    /// Whether the list has done without it.
    pub(super) is_removed: bool,
}

/// What a complete listing means.
#[derive(Debug, PartialEq, Eq, Default)]
pub(super) struct Changes {
    /// Never seen before.
    pub(super) new: Vec<Entry>,
    /// Listed again.
    pub(super) back: Vec<Entry>,
    /// Asked for in another way from now on.
    pub(super) other: Vec<Entry>,
    /// Listed no more, for the second time.
    pub(super) gone: Vec<String>,
    /// Not in this listing: a device that moves between two pages while they are read, and a source that has lost some of its
    /// devices for a moment, say the same, so that the next one has to lack it, too.
    pub(super) absent: BTreeSet<String>,
}

/// What a complete listing changes of what is known, by identity; `absent_before` was not in the one before it.
pub(super) fn compare(
    known: &BTreeMap<String, Listed>,
    found: &BTreeMap<String, Entry>,
    absent_before: &BTreeSet<String>,
) -> Changes {
    let is_there = |listed: &&Listed| !listed.is_removed;
    let mut changes = Changes::default();
    for (id, entry) in found {
        match known.get(id) {
            None => changes.new.push(entry.clone()),
            Some(listed) if listed.is_removed && planted::has(Bug::RemovedForEver) => {}
            Some(listed) if listed.is_removed => changes.back.push(entry.clone()),
            Some(listed) if listed.entry.vars != entry.vars => changes.other.push(entry.clone()),
            Some(_) => {}
        }
    }
    let known = known.values().filter(is_there).map(|listed| &listed.entry.id);
    changes.absent = known.filter(|id| !found.contains_key(*id)).cloned().collect();
    let is_gone = |id: &&String| absent_before.contains(*id) || planted::has(Bug::AbsenceBelieved);
    changes.gone = changes.absent.iter().filter(is_gone).cloned().collect();
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, net: &str) -> Entry {
        Entry { id: id.into(), name: id.into(), vars: [("net".to_owned(), net.to_owned())].into() }
    }

    #[test]
    fn a_listing_says_what_is_new_back_or_other_and_what_it_lacks_is_gone_the_second_time() {
        let listed = |id, is_removed| (String::from(id), Listed { entry: entry(id, "x"), is_removed });
        let known: BTreeMap<_, _> = [listed("a", false), listed("b", true), listed("c", true)].into();
        let found =
            |entries: &[Entry]| entries.iter().map(|e| (e.id.clone(), e.clone())).collect::<BTreeMap<_, _>>();
        let absent: BTreeSet<String> = ["a".to_owned()].into();
        let nothing = BTreeSet::new();
        let changes = compare(&known, &found(&[entry("b", "y"), entry("d", "x")]), &nothing);
        let (new, back) = (vec![entry("d", "x")], vec![entry("b", "y")]);
        assert_eq!(changes, Changes { new, back, absent: absent.clone(), ..Changes::default() });
        let changes = compare(&known, &found(&[entry("a", "y")]), &absent);
        assert_eq!(changes, Changes { other: vec![entry("a", "y")], ..Changes::default() });
        assert_eq!(compare(&known, &found(&[entry("a", "x")]), &nothing), Changes::default());
        for found in [found(&[]), found(&[entry("d", "x")])] {
            assert_eq!(compare(&known, &found, &nothing).gone, [""; 0]);
            assert_eq!(compare(&known, &found, &absent).gone, ["a"]);
        }
        let all_removed = [listed("b", true)].into();
        assert_eq!(compare(&all_removed, &found(&[]), &nothing), Changes::default());
    }
}
