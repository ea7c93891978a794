//! Names that a pattern finds: `*` is any characters, `?` any one, of one part of a path. Lists nothing itself.

use std::collections::BTreeMap;

use super::tail::Stat;

/// Files that one pattern finds at most; what was written before these is left out.
pub const FILES_MAX: usize = 20_000;

/// What a folder holds under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: Box<str>,
    /// A folder, and no file.
    pub is_folder: bool,
    /// What is known of it.
    pub stat: Stat,
}

/// What a pattern found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The files, by their names below the folder.
    pub files: BTreeMap<Box<str>, Stat>,
    /// How many more there are, each of them written before all of these.
    pub left_out: u64,
}

/// The files that a pattern of several parts means, by their names below the folder; where there are more than `most`, those
/// that were written last, and how many there are beside. `list` is asked for what a folder (empty for the one that all is
/// below, else ending with a slash) holds under the names that it is given a test of.
///
/// # Errors
/// Those of `list`.
pub fn find_newest<E>(
    most: usize,
    pattern: &str,
    list: &mut impl FnMut(&str, &dyn Fn(&str) -> bool) -> Result<Vec<Entry>, E>,
) -> Result<Found, E> {
    let mut newest = Newest { most, kept: BTreeMap::new(), left_out: 0 };
    find_into("", pattern, list, &mut newest)?;
    let files = newest.kept.into_iter().map(|((_, name), stat)| (name, stat)).collect();
    Ok(Found { files, left_out: newest.left_out })
}

/// Those that were written last; of those that were written at once the ones whose names come last, so that each listing of
/// a folder that does not change gives the same ones.
struct Newest {
    most: usize,
    kept: BTreeMap<((i64, i64), Box<str>), Stat>,
    left_out: u64,
}

impl Newest {
    fn add(&mut self, name: Box<str>, stat: Stat) {
        self.kept.insert((stat.written(), name), stat);
        if self.kept.len() > self.most {
            self.kept.pop_first();
            self.left_out += 1;
        }
    }
}

fn find_into<E>(
    folder: &str,
    pattern: &str,
    list: &mut impl FnMut(&str, &dyn Fn(&str) -> bool) -> Result<Vec<Entry>, E>,
    newest: &mut Newest,
) -> Result<(), E> {
    let (part, deeper) = pattern.split_once('/').map_or((pattern, None), |(part, rest)| (part, Some(rest)));
    for entry in list(folder, &|name| is_meant(part, name))? {
        let name = format!("{folder}{}", entry.name);
        match deeper {
            Some(rest) if entry.is_folder => find_into(&format!("{name}/"), rest, list, newest)?,
            None if !entry.is_folder => newest.add(name.into(), entry.stat),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a pattern means names below a folder, and nothing beside it.
#[must_use]
pub fn is_below(pattern: &str) -> bool {
    pattern.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Whether `name` is one that `pattern` means; neither has a slash.
#[must_use]
pub fn is_meant(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // Where the last `*` stands, and how much of the name it takes.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found() {
        let rows = [
            ("Met.dat", "Met.dat", true),
            ("Met.dat", "Met.dat2", false),
            ("Met*.dat", "Met.dat", true),
            ("Met*.dat", "Met_2026_01.dat", true),
            ("Met*.dat", "Met.dat.bak", false),
            ("*", "", true),
            ("*a*b", "xaxxb", true),
            ("*a*b", "xaxxbc", false),
            ("M?t", "Mét", true),
            ("M?t", "Mt", false),
            ("", "x", false),
        ];
        for (pattern, name, expected) in rows {
            assert_eq!(is_meant(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn files_are_found_below_the_folders_that_a_pattern_means() {
        let stat = Stat { identity: (0, 0), size: 1, modified_ms: 0, modified_ns: 0 };
        let entry = |name: &str, is_folder| Entry { name: name.into(), is_folder, stat };
        let mut list = |folder: &str, is_wanted: &dyn Fn(&str) -> bool| {
            let all = match folder {
                "" => vec![entry("2025", true), entry("2026", true), entry("x", true), entry("2027", false)],
                "2025/" => vec![entry("Met.dat", false), entry("Met.txt", false), entry("Met2.dat", true)],
                "2026/" => vec![entry("Met_1.dat", false)],
                _ => return Err(folder.to_owned()),
            };
            Ok(all.into_iter().filter(|entry| is_wanted(&entry.name)).collect())
        };
        let mut find = |pattern| find_newest(FILES_MAX, pattern, &mut list).map(|found| found.files);
        let names = find("20*/Met*.dat").unwrap();
        assert_eq!(
            names.keys().map(AsRef::as_ref).collect::<Vec<&str>>(),
            ["2025/Met.dat", "2026/Met_1.dat"]
        );
        assert_eq!(find("202?").unwrap().len(), 1);
        assert_eq!(find("*/*"), Err("x/".to_owned()));
    }

    #[test]
    fn of_more_files_than_are_taken_those_count_that_were_written_last_whatever_the_order() {
        let stat = |ms| Stat { identity: (0, 0), size: 1, modified_ms: ms, modified_ns: 0 };
        let file = |name: &str, ms| Entry { name: name.into(), is_folder: false, stat: stat(ms) };
        let mut all = vec![file("a", 5), file("b", 1), file("c", 3), file("d", 3), file("e", 3)];
        for _ in 0..all.len() {
            all.rotate_left(1);
            let mut list = |_: &str, _: &dyn Fn(&str) -> bool| Ok::<_, ()>(all.clone());
            let found = find_newest(3, "*", &mut list).unwrap();
            let names: Vec<&str> = found.files.keys().map(AsRef::as_ref).collect();
            assert_eq!((names, found.left_out), (vec!["a", "d", "e"], 2), "{all:?}");
            assert_eq!(find_newest(5, "*", &mut list).unwrap().left_out, 0);
        }
    }
}
