//! The names of devices within a site: what a listed device is called, and who has which name of this process's devices. Sources
//! of one site list at once, each in its thread: a name is taken before it is used.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use gapless_common::id::NAME_LEN_MAX;

use super::list::Entry;

/// Who has which name: by site and name. One for all sources of a process.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(Arc<Mutex<BTreeMap<(String, String), String>>>);

impl Names {
    /// Takes a name for `owner`, who may have it already.
    ///
    /// # Errors
    /// Who else has it.
    pub(super) fn take(&self, site: &str, name: &str, owner: &str) -> Result<(), String> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let has = names.entry((site.to_owned(), name.to_owned())).or_insert_with(|| owner.to_owned());
        if has == owner { Ok(()) } else { Err(has.clone()) }
    }
}

/// The name that a new device gets in its site: what a name cannot hold becomes `-`; its identity follows where `take` says that
/// another device has the name. It is so short that the name of its agent, `SOURCE-NAME`, can be one, too. `None` where nothing
/// can be made of it.
pub(super) fn name_of(entry: &Entry, source: &str, take: impl Fn(&str) -> bool) -> Option<String> {
    let room = NAME_LEN_MAX.saturating_sub(source.len() + 1);
    let (name, id) = (tidy(&entry.name), tidy(&entry.id));
    let name = if name.is_empty() { &id } else { &name };
    let short = |text: &str, room: usize| {
        let cut: String = text.chars().take(room).collect();
        cut.trim_end_matches(['-', '.', '_']).to_owned()
    };
    let with = |end: &str| format!("{}-{end}", short(name, room.saturating_sub(end.len() + 1)));
    let tries = [short(name, room), with(&id)].into_iter().chain((2..100).map(|n| with(&n.to_string())));
    tries
        .filter(|name| name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.len() <= room)
        .find(|name| take(name))
}

fn tidy(text: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() || "_.".contains(c) { c } else { '-' };
    let text: String = text.chars().map(kept).collect();
    text.trim_matches(['-', '.', '_']).to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_device_gets_a_name_that_no_other_has() {
        let taken: BTreeSet<String> = ["Hall", "Hall-7", "K-che"].map(str::to_owned).into();
        let long = "x".repeat(80);
        let rows = [
            ("1", "Attic", Some("Attic".to_owned())),
            ("7", "Living room / left", Some("Living-room---left".to_owned())),
            ("1", "Hall", Some("Hall-1".to_owned())),
            ("7", "Hall", Some("Hall-2".to_owned())),
            ("9", "Küche", Some("K-che-9".to_owned())),
            ("1", "客厅", Some("1".to_owned())),
            ("客厅", "客厅", None),
            ("1", ".hidden", Some("hidden".to_owned())),
            ("1", &long, Some("x".repeat(57))),
        ];
        for (id, name, expected) in rows {
            let entry = Entry { id: id.into(), name: name.into(), ..Entry::default() };
            let name_of = name_of(&entry, "clouds", |name| !taken.contains(name));
            assert_eq!(name_of, expected, "{name}");
        }
    }

    #[test]
    fn a_name_that_is_taken_is_nobody_elses_in_its_site() {
        let names = Names::default();
        let rows = [
            ("home-1", "Hall", "a/1", Ok(())),
            ("home-1", "Hall", "b/7", Err("a/1".to_owned())),
            ("home-1", "Hall", "a/1", Ok(())),
            ("home-2", "Hall", "b/7", Ok(())),
        ];
        for (site, name, owner, expected) in rows {
            assert_eq!(names.clone().take(site, name, owner), expected, "{site} {name} {owner}");
        }
    }
}
