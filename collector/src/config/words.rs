//! What a person reads where a value cannot be: what to write in its place. `serde` tells the types of a program.

use std::fmt;

use serde::de::{Deserializer, Error, Visitor};

/// What `serde` expects, and what a person would write.
const WORDS: [(&str, &str); 14] = [
    ("a string", "a text in quotes"),
    ("a boolean", "true or false"),
    ("a sequence", "a list in brackets"),
    ("a map", "a table"),
    ("i64", "a whole number"),
    ("i32", "a whole number"),
    ("u64", "a whole number from 0 on"),
    ("usize", "a whole number from 0 on"),
    ("u32", "a whole number from 0 to 4294967295"),
    ("u16", "a whole number from 0 to 65535"),
    ("u8", "a whole number from 0 to 255"),
    ("f64", "a number"),
    ("f32", "a number"),
    ("a borrowed string", "a text in quotes"),
];

/// What is expected, in the words of whoever writes it.
#[must_use]
pub(crate) fn expected(words: &str) -> String {
    if let Some((_, plain)) = WORDS.iter().find(|(word, _)| *word == words) {
        return (*plain).to_owned();
    }
    let is_table = words.starts_with("struct ");
    if is_table { "a table".to_owned() } else { words.to_owned() }
}

/// What a message of `serde` about a value says before it says what is expected, and that in the words of whoever writes it.
pub(crate) fn expectation(message: &str) -> Option<(&str, String)> {
    let is_of_value = ["invalid type: ", "invalid value: "].iter().any(|begin| message.starts_with(begin));
    let (before, words) = message.rsplit_once(", expected ").filter(|_| is_of_value)?;
    Some((before, format!("expected {}", expected(words))))
}

/// A message of `serde` with what is expected in the words of whoever writes it.
#[must_use]
pub(crate) fn plain(message: &str) -> String {
    expectation(message)
        .map_or_else(|| message.to_owned(), |(before, expected)| format!("{before}, {expected}"))
}

/// A text that is refused where it stands when it cannot be: what it holds, and what makes that of the text.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident($type:ty), $parse:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(pub $type);

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                let parse: fn(String) -> Result<$type, String> = $parse;
                parse(text).map(Self)
            }
        }
    };
}
pub(super) use checked_text;

/// A text of a syntax of its own; `what` is told where something else stands there.
pub(crate) fn text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    what: &'static str,
    parse: fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    deserializer.deserialize_str(Text { what, parse })
}

struct Text<T> {
    what: &'static str,
    parse: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }
}

/// What a length of time is told as.
pub(crate) const SPAN: &str = "a length of time such as \"30m\"";

/// A length of time in ms.
pub(crate) fn span_ms(text: &str) -> Result<i64, String> {
    let ms = gapless_common::text::parse_duration_ms(text).map_err(|error| error.to_string())?;
    i64::try_from(ms).map_err(|_| format!("`{text}` is longer than can be counted"))
}
