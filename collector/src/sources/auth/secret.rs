//! A word that only the source is to know. Pure: whoever calls reads the file that it may stand in.

use std::cmp::Reverse;
use std::fmt;

use serde::Deserialize;

use crate::sources::url::escaped;

/// As it stands in a description: the word itself, or `@FILE`, whose first line it is. It is never shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Secret(String);

impl TryFrom<String> for Secret {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        if text.is_empty() || text == "@" {
            return Err("a secret is empty: write it, or @FILE for the first line of a file");
        }
        Ok(Self(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// The file that it stands in, where it stands in one.
    pub(in crate::sources) fn file(&self) -> Option<&str> {
        self.0.strip_prefix('@')
    }

    /// As it is written in the description.
    pub(in crate::sources) fn written(&self) -> &str {
        &self.0
    }
}

/// A text that goes to people, without these words: as they are, and as they stand in a URL or a form.
pub(in crate::sources) fn hushed<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let secrets = secrets.into_iter().filter(|secret| !secret.is_empty());
    let mut words: Vec<String> = secrets.flat_map(|secret| [secret.to_owned(), escaped(secret)]).collect();
    // Without one that is a part of it, what is left of a longer one would be shown.
    words.sort_by_key(|word| Reverse(word.len()));
    words.iter().fold(text.to_owned(), |text, word| text.replace(word.as_str(), "…"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::try_from("s3cret".to_owned()).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        let rows: [(&str, &[&str], &str); 4] = [
            ("no key s3cret, a or s3cret", &["s3cret", "", "a or "], "no key …, ……"),
            ("key=a%2Bb%2F%3D of a+b/=", &["a+b/="], "key=… of …"),
            ("a word and another", &["word", "a word and"], "… another"),
            ("nothing", &[], "nothing"),
        ];
        for (text, secrets, expected) in rows {
            assert_eq!(hushed(text, secrets.iter().copied()), expected);
        }
        for (text, file) in [("@/etc/key", Some("/etc/key")), ("key", None)] {
            assert_eq!(Secret::try_from(text.to_owned()).unwrap().file(), file);
        }
        assert!(Secret::try_from(String::new()).is_err() && Secret::try_from("@".to_owned()).is_err());
    }
}
