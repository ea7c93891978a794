//! One table of a document: typed questions by key. A key that is absent answers `None`; a key of the wrong type
//! or range answers `None` too and leaves a problem.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::suggest::nearest;
use super::{Document, Place};
use crate::text;

/// A value and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it begins.
    pub place: Place,
}

/// A scalar of a type that the reader decides on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Item<'d> {
    /// A string.
    Text(&'d str),
    /// An integer of TOML's range and of u64's.
    Integer(i128),
    /// A float.
    Float(f64),
    /// A boolean.
    Flag(bool),
}

/// A table and the keys that were asked of it.
#[derive(Debug)]
pub struct Table<'d> {
    document: &'d Document<'d>,
    entries: &'d DeTable<'d>,
    place: Place,
    asked: RefCell<Vec<&'static str>>,
}

impl<'d> Table<'d> {
    pub(super) const fn new(document: &'d Document<'d>, entries: &'d DeTable<'d>, place: Place) -> Self {
        Self { document, entries, place, asked: RefCell::new(Vec::new()) }
    }

    /// Where its header, or its opening brace, stands.
    #[must_use]
    pub const fn place(&self) -> Place {
        self.place
    }

    /// Keeps a problem of this table's document.
    pub fn report(&self, at: Place, message: impl Into<String>) {
        self.document.report(at, message);
    }

    /// Line from 1, for messages that point to another place.
    #[must_use]
    pub fn line(&self, at: Place) -> usize {
        self.document.line_column(at).0
    }

    /// Where a key's value stands.
    #[must_use]
    pub fn place_of(&self, key: &'static str) -> Option<Place> {
        self.find(key).map(place)
    }

    /// Reports `key` as missing if it is.
    pub fn need(&self, key: &'static str, example: &str) {
        if self.find(key).is_none() {
            self.report(self.place, format!("`{key}` is missing: for example {key} = {example}"));
        }
    }

    /// A string.
    pub fn text(&self, key: &'static str) -> Option<At<&'d str>> {
        let entry = self.find(key)?;
        let value = entry.get_ref().as_str().or_else(|| self.wrong_type(key, entry, "a string"))?;
        Some(At { value, place: place(entry) })
    }

    /// A string that is not empty.
    pub fn filled_text(&self, key: &'static str) -> Option<At<&'d str>> {
        let found = self.text(key)?;
        if found.value.trim().is_empty() {
            self.report(found.place, format!("`{key}` must not be empty"));
            return None;
        }
        Some(found)
    }

    /// An integer within a range.
    pub fn integer(&self, key: &'static str, range: RangeInclusive<i64>) -> Option<At<i64>> {
        let entry = self.find(key)?;
        let Some(Item::Integer(number)) = item(entry.get_ref()) else {
            return self.wrong_type(key, entry, "an integer");
        };
        let value = i64::try_from(number).ok().filter(|n| range.contains(n));
        if value.is_none() {
            let (low, high) = range.into_inner();
            self.report(place(entry), format!("`{key}` must be {low} to {high}, got {number}"));
        }
        Some(At { value: value?, place: place(entry) })
    }

    /// An unsigned integer up to `max`.
    pub fn u16(&self, key: &'static str, range: RangeInclusive<u16>) -> Option<u16> {
        let found = self.integer(key, i64::from(*range.start())..=i64::from(*range.end()))?;
        u16::try_from(found.value).ok()
    }

    /// An unsigned integer up to `max`.
    pub fn u8(&self, key: &'static str, range: RangeInclusive<u8>) -> Option<u8> {
        let found = self.integer(key, i64::from(*range.start())..=i64::from(*range.end()))?;
        u8::try_from(found.value).ok()
    }

    /// A number, integer or not.
    pub fn number(&self, key: &'static str) -> Option<At<f64>> {
        let entry = self.find(key)?;
        let value = number(entry.get_ref()).or_else(|| self.wrong_type(key, entry, "a number"))?;
        Some(At { value, place: place(entry) })
    }

    /// `true` or `false`.
    pub fn flag(&self, key: &'static str) -> Option<bool> {
        let entry = self.find(key)?;
        entry.get_ref().as_bool().or_else(|| self.wrong_type(key, entry, "true or false"))
    }

    /// One of a few words.
    pub fn word<T: Copy>(&self, key: &'static str, words: &[(&'static str, T)]) -> Option<T> {
        let found = self.text(key)?;
        let known = words.iter().find(|(word, _)| *word == found.value);
        if known.is_none() {
            let allowed: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            let allowed = or_list(&allowed);
            self.report(found.place, format!("`{key}` must be {allowed}, got \"{}\"", found.value));
        }
        known.map(|(_, value)| *value)
    }

    /// A string of some type's own syntax.
    pub fn parsed<T>(&self, key: &'static str) -> Option<At<T>>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let found = self.text(key)?;
        self.checked(key, found, str::parse)
    }

    /// A duration such as `10s`, in milliseconds.
    pub fn duration_ms(&self, key: &'static str) -> Option<At<u64>> {
        let found = self.text(key)?;
        self.checked(key, found, text::parse_duration_ms)
    }

    /// A duration within a range, both ends in milliseconds.
    pub fn duration_within(&self, key: &'static str, range: RangeInclusive<u32>) -> Option<At<u32>> {
        let found = self.duration_ms(key)?;
        let value = u32::try_from(found.value).ok().filter(|ms| range.contains(ms));
        if value.is_none() {
            let [low, high] =
                [*range.start(), *range.end()].map(|ms| text::format_duration_ms(u64::from(ms)));
            let got = text::format_duration_ms(found.value);
            self.report(found.place, format!("`{key}` must be {low} to {high}, got {got}"));
        }
        Some(At { value: value?, place: found.place })
    }

    /// A size such as `64MiB`, in bytes.
    pub fn size_bytes(&self, key: &'static str) -> Option<At<u64>> {
        let found = self.text(key)?;
        self.checked(key, found, text::parse_size_bytes)
    }

    /// A scalar of whichever type.
    pub fn item(&self, key: &'static str) -> Option<At<Item<'d>>> {
        let entry = self.find(key)?;
        let value = item(entry.get_ref()).or_else(|| self.wrong_type(key, entry, "a string or number"))?;
        Some(At { value, place: place(entry) })
    }

    /// A list of scalars; a single scalar is a list of one.
    pub fn items(&self, key: &'static str) -> Option<Vec<At<Item<'d>>>> {
        let entry = self.find(key)?;
        let Some(array) = entry.get_ref().as_array() else {
            return self.item(key).map(|single| vec![single]);
        };
        let items = array.iter().filter_map(|entry| {
            let value = item(entry.get_ref()).or_else(|| self.wrong_type(key, entry, "a list of scalars"));
            Some(At { value: value?, place: place(entry) })
        });
        Some(items.collect())
    }

    /// A list of strings.
    pub fn texts(&self, key: &'static str) -> Option<Vec<At<&'d str>>> {
        let items = self.items(key)?;
        let texts = items.into_iter().filter_map(|found| match found.value {
            Item::Text(value) => Some(At { value, place: found.place }),
            _ => {
                self.report(found.place, format!("`{key}` must be a list of strings"));
                None
            }
        });
        Some(texts.collect())
    }

    /// A table of free keys; scalars are taken as their text.
    pub fn attributes(&self, key: &'static str) -> BTreeMap<String, String> {
        let Some(table) = self.table(key) else { return BTreeMap::new() };
        let pairs = table.entries.iter().filter_map(|(name, entry)| {
            let value = match item(entry.get_ref()) {
                Some(Item::Text(text)) => text.to_owned(),
                Some(Item::Integer(number)) => number.to_string(),
                Some(Item::Float(number)) => number.to_string(),
                Some(Item::Flag(flag)) => flag.to_string(),
                None => self.wrong_type(key, entry, "a table of strings")?,
            };
            Some((name.get_ref().to_string(), value))
        });
        pairs.collect()
    }

    /// A table within this one.
    pub fn table(&self, key: &'static str) -> Option<Self> {
        let entry = self.find(key)?;
        match entry.get_ref() {
            DeValue::Table(entries) => Some(Self::new(self.document, entries, place(entry))),
            _ => self.wrong_type(key, entry, &format!("a table: [{key}]")),
        }
    }

    /// A list of tables, written `[[key]]` or `key = [{…}, …]`; none where it is absent.
    pub fn tables(&self, key: &'static str) -> Vec<Self> {
        let Some(entry) = self.find(key) else { return Vec::new() };
        let Some(array) = entry.get_ref().as_array() else {
            let _none: Option<()> = self.wrong_type(key, entry, &format!("a list of tables: [[{key}]]"));
            return Vec::new();
        };
        let tables = array.iter().filter_map(|entry| match entry.get_ref() {
            DeValue::Table(entries) => Some(Self::new(self.document, entries, place(entry))),
            _ => self.wrong_type(key, entry, "a list of tables"),
        });
        tables.collect()
    }

    /// Reports the keys that nobody asked for.
    pub fn finish(&self) {
        let mut known = self.asked.borrow().clone();
        known.sort_unstable();
        known.dedup();
        for key in self.entries.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let unknown = key.get_ref();
            let advice = match nearest(unknown, &known) {
                Some(near) => format!("did you mean `{near}`?"),
                None if known.is_empty() => "nothing is known here".to_owned(),
                None => format!("known here are `{}`", known.join("`, `")),
            };
            self.report(Place(key.span().start), format!("unknown key `{unknown}`: {advice}"));
        }
    }

    fn find(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.asked.borrow_mut().push(key);
        self.entries.get(key)
    }

    fn wrong_type<T>(&self, key: &str, entry: &Spanned<DeValue<'_>>, expected: &str) -> Option<T> {
        let got = match entry.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.report(place(entry), format!("`{key}` must be {expected}, got {got}"));
        None
    }

    fn checked<T, E: fmt::Display>(
        &self,
        key: &str,
        found: At<&'d str>,
        parse: impl FnOnce(&'d str) -> Result<T, E>,
    ) -> Option<At<T>> {
        match parse(found.value) {
            Ok(value) => Some(At { value, place: found.place }),
            Err(error) => {
                self.report(found.place, format!("`{key}`: {error}"));
                None
            }
        }
    }
}

/// `a, b or c`
fn or_list(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

fn place(entry: &Spanned<DeValue<'_>>) -> Place {
    Place(entry.span().start)
}

fn item<'d>(value: &'d DeValue<'d>) -> Option<Item<'d>> {
    Some(match value {
        DeValue::String(text) => Item::Text(text),
        DeValue::Integer(digits) => {
            Item::Integer(i128::from_str_radix(digits.as_str(), digits.radix()).ok()?)
        }
        DeValue::Float(digits) => Item::Float(digits.as_str().parse().ok()?),
        DeValue::Boolean(flag) => Item::Flag(*flag),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => return None,
    })
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Integer(digits) if digits.radix() == 10 => digits.as_str().parse().ok(),
        DeValue::Float(digits) => digits.as_str().parse().ok(),
        _ => None,
    }
}
