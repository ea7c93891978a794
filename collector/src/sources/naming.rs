//! The names of devices within a site: what a listed device is called, and who has which name of this process's devices. Sources
//! of one site list at once, each in its thread: a name is taken before it is used.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gapless_common::id::NAME_LEN_MAX;

use super::list::Entry;

/// Who has which name of a site. One for all sources of a process.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(Arc<Mutex<Taken>>);

/// Owners, by site and name.
type Owners = BTreeMap<(String, String), String>;

/// See [`Names`].
#[derive(Debug, Default)]
struct Taken {
    sources: Owners,
    devices: Owners,
    /// `SOURCE-DEVICE` may be the same of two sources and two devices.
    agents: Owners,
}

impl Names {
    /// Takes the name of a source for a file, once.
    ///
    /// # Errors
    /// The file that has it.
    pub(super) fn take_source(&self, site: &str, name: &str, file: &str) -> Result<(), String> {
        let before = self.taken().sources.insert((site.to_owned(), name.to_owned()), file.to_owned());
        before.map_or(Ok(()), Err)
    }

    /// Takes the names of a device and of its agent for `owner`, who may have them already; both or none.
    ///
    /// # Errors
    /// Who else has one of them.
    pub(super) fn take(&self, site: &str, (name, agent): (&str, &str), owner: &str) -> Result<(), String> {
        let key = |name: &str| (site.to_owned(), name.to_owned());
        let Taken { devices, agents, .. } = &mut *self.taken();
        let others = [devices.get(&key(name)), agents.get(&key(agent))];
        if let Some(other) = others.into_iter().flatten().find(|other| *other != owner) {
            return Err(other.clone());
        }
        devices.insert(key(name), owner.to_owned());
        agents.insert(key(agent), owner.to_owned());
        Ok(())
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
            ("home-1", "Hall", "a-Hall", "a/1", Ok(())),
            ("home-1", "Hall", "b-Hall", "b/7", Err("a/1".to_owned())),
            ("home-1", "Hall", "a-Hall", "a/1", Ok(())),
            ("home-2", "Hall", "b-Hall", "b/7", Ok(())),
            // Source `a` has a device `b-Attic`, and source `a-b` a device `Attic`.
            ("home-1", "b-Attic", "a-b-Attic", "a/2", Ok(())),
            ("home-1", "Attic", "a-b-Attic", "a-b/2", Err("a/2".to_owned())),
            ("home-1", "Attic", "c-Attic", "c/2", Ok(())),
        ];
        for (site, name, agent, owner, expected) in rows {
            assert_eq!(names.clone().take(site, (name, agent), owner), expected, "{site} {name} {owner}");
        }
    }
}
