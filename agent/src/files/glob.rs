//! Names that a pattern finds: `*` is any characters, `?` any one, of one part of a path. Lists nothing.

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
}
