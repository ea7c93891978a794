//! What one column of a logger's table is, and a value of it, however the record came: over a logger's API or in a file.

use serde::Deserialize;
use serde::de::IgnoredAny;

/// One field.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Field {
    /// Its name, subscripts included: `AirTC(2)`.
    pub name: String,
    /// `xsd:float` and the like; any other name is taken as well.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// Its unit, as the program says.
    #[serde(default)]
    pub units: String,
    /// How its number comes about: `Smp`, `Avg`, `Min`, `Max`, `Std`, `Tot`, `WVc`.
    #[serde(default)]
    pub process: String,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Val {
    /// A number.
    Number(f64),
    /// A boolean.
    Flag(bool),
    /// A text, `"NAN"` and `"INF"` among them.
    Text(String),
    /// Anything else.
    Other(IgnoredAny),
}

/// Whether a text is the word for a number beyond all bounds, as loggers write it.
#[must_use]
pub fn is_infinite(text: &str) -> bool {
    text.trim_start_matches(['+', '-']).eq_ignore_ascii_case("INF")
}
